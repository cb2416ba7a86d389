"""Builds the report of one task from its runs: scores, costs, Pareto fronts, samples and advice."""

from collections.abc import Mapping, Sequence
from dataclasses import replace

from gitpeft.learn.compare.advice import DEFAULT_METHOD, SystemAnswers, write_advice
from gitpeft.learn.compare.report import Advice, Baseline, Finalist, Sample, TaskFacts, TaskReport
from gitpeft.learn.compare.results import Answers, ComparisonCost, Difference, RunResult
from gitpeft.learn.compare.scoring import AnswerScorer

SAMPLE_COUNT = 5
COST_AXES = {"share": "trainable share", "memory": "peak memory", "training": "training time"}
"""What quality is plotted against."""


def build_task_report(
    facts: TaskFacts,
    runs: Sequence[RunResult],
    baselines: Mapping[str, Answers],
    asked: Sequence[tuple[str, str]],
    scorer: AnswerScorer,
) -> TaskReport:
    """Everything that the page, the terminal and scripts show of one task.

    `runs` are the long runs, `baselines` the answers of systems that cost no training, `asked` the id of
    each evaluated commit and what is correct for it.
    """
    groups: dict[str, list[RunResult]] = {}
    for run in runs:
        groups.setdefault(run.label, []).append(run)
    answers = {label: [run.answers for run in group] for label, group in groups.items()}
    key = scorer.metric.key
    rows = [_summarise_finalist(group, scorer) for group in groups.values()]
    rows.sort(key=lambda row: -row.scores.metrics[key].mean)
    rows = _mark_pareto_fronts(_compare_with_others(rows, answers, scorer), key)
    systems = answers | {name: [known] for name, known in baselines.items()}
    report = TaskReport(
        facts,
        scorer.metric,
        len(asked),
        rows,
        [Baseline(name, scorer.score_all_metrics([known])) for name, known in baselines.items()],
        _collect_samples(asked, rows, systems, scorer.pick_samples(SAMPLE_COUNT)),
        Advice(facts.task, DEFAULT_METHOD, rows[0].base),
    )
    return replace(report, advice=write_advice(report, systems, scorer))


def _summarise_finalist(runs: Sequence[RunResult], scorer: AnswerScorer) -> Finalist:
    """One finalist over its seeds: mean costs, and scores with their intervals."""
    first, answers = runs[0], [run.answers for run in runs]
    return Finalist(
        label=first.label,
        name=first.candidate.name,
        base=first.candidate.base,
        spelt=first.candidate.method,
        method=first.method,
        steps=first.steps,
        seeds=[run.candidate.seed for run in runs],
        by_seed=[scorer.score_runs([one]).mean for one in answers],
        valid_loss=sum(run.valid_loss for run in runs) / len(runs),
        scores=scorer.score_all_metrics(answers),
        cost=ComparisonCost.average([run.cost for run in runs]),
        parity=first.parity,
        against_best=Difference(0.0, 0.0, 0.0),
    )


def _compare_with_others(
    rows: Sequence[Finalist], answers: SystemAnswers, scorer: AnswerScorer
) -> list[Finalist]:
    """Each row with its differences to the best one and to full tuning, paired by commit."""
    best, full = rows[0].label, next((row.label for row in rows if row.name == "full"), "")

    def compare_labels(label: str, other: str) -> Difference:
        return scorer.compare_runs(answers[label], answers[other])

    return [
        replace(
            row,
            against_best=compare_labels(row.label, best),
            against_full=compare_labels(row.label, full) if full else None,
        )
        for row in rows
    ]


def get_axis_cost(row: Finalist, name: str) -> float:
    """A cost that quality is plotted against: a share, bytes, or seconds."""
    costs = {"share": row.cost.share, "memory": row.cost.memory, "training": row.cost.seconds}
    return float(costs[name])


def find_pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (cost, quality) points are on the Pareto front: no other is as cheap and as good, one better."""
    return [
        not any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in points)
        for cost, quality in points
    ]


def _mark_pareto_fronts(rows: Sequence[Finalist], key: str) -> list[Finalist]:
    marks = {
        name: find_pareto_front([(get_axis_cost(row, name), row.scores.metrics[key].mean) for row in rows])
        for name in COST_AXES
    }
    return [
        replace(row, front={name: on_front[i] for name, on_front in marks.items()})
        for i, row in enumerate(rows)
    ]


def _collect_samples(
    asked: Sequence[tuple[str, str]],
    rows: Sequence[Finalist],
    systems: SystemAnswers,
    places: Sequence[int],
) -> list[Sample]:
    labels = [row.label for row in rows]
    order = [*labels, *(name for name in systems if name not in labels)]
    return [Sample(*asked[i], {name: systems[name][0][i] for name in order}) for i in places]
