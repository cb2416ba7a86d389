"""Summaries of the runs beyond the main comparison (fewer commits, other languages, layer probes) and their
sentences for the advice."""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gitpeft.learn.compare import layer_probes
from gitpeft.learn.compare.report import (
    LowResource,
    MetricInfo,
    ProbeSummary,
    TaskFacts,
    TransferRow,
    TransferTable,
    TuningGain,
)
from gitpeft.learn.compare.results import Answers, Difference, LayerAccuracies, RunResult
from gitpeft.learn.compare.scoring import AnswerScorer
from gitpeft.learn.data.subsets import LANGUAGE_TRANSFER, LOW_RESOURCE, HistorySubset
from gitpeft.learn.evaluation.text_metrics import ConfidenceInterval

SystemAnswers = dict[str, list[Answers]]
"""By name, the answers of each seed."""


@dataclass(frozen=True, slots=True)
class SubsetRun:
    """A run on a part of the history, with the scorer and the baselines of that part."""

    label: str
    answers: Answers
    cut: HistorySubset
    scorer: AnswerScorer
    baselines: Mapping[str, Answers]


def summarise_probes(
    untuned: Mapping[str, LayerAccuracies], long: Sequence[RunResult]
) -> dict[str, dict[str, ProbeSummary]]:
    """By base and probing task, the accuracies of the base and of the long runs that were probed."""
    return {
        base: layer_probes.summarise_layers(
            known, {run.label: run.probes for run in long if run.candidate.base == base and run.probes}
        )
        for base, known in untuned.items()
    }


def summarise_low_resource(
    runs: Sequence[SubsetRun],
    long: Sequence[RunResult],
    baselines: Mapping[str, Answers],
    scorer: AnswerScorer,
    taught: int,
) -> LowResource | None:
    """Scores by the number of training commits, up to all of them (`taught`); None without such runs.

    Every size is evaluated on the same commits, so that all scores are comparable.
    """
    groups = {cut: group for cut, group in _group_by_cut(runs).items() if cut.kind == LOW_RESOURCE}
    if not groups:
        return None
    names = {run.label for group in groups.values() for run in group}
    everything = _collect_answers([(run.label, run.answers) for run in long if run.label in names], baselines)
    sizes = sorted(
        ((cut.examples, _collect_part(group)) for cut, group in groups.items()), key=lambda x: x[0]
    )
    sizes.append((taught, everything))
    return LowResource(
        [size for size, _ in sizes],
        {
            name: [scorer.score_runs(known[name]) if name in known else None for _, known in sizes]
            for name in everything
        },
        [_measure_gain(size, known, scorer, frozenset(baselines)) for size, known in sizes],
    )


def summarise_transfer(runs: Sequence[SubsetRun], baselines: Mapping[str, Answers]) -> list[TransferTable]:
    """A table for each pair of languages: trained on the other one, on itself, and the difference."""
    groups = _group_by_cut(runs)
    return [
        _summarise_pair(cut, groups, frozenset(baselines))
        for cut in groups
        if cut.kind == LANGUAGE_TRANSFER and cut.taught != cut.asked
    ]


def _group_by_cut(runs: Sequence[SubsetRun]) -> dict[HistorySubset, list[SubsetRun]]:
    found: dict[HistorySubset, list[SubsetRun]] = defaultdict(list)
    for run in runs:
        found[run.cut].append(run)
    return dict(found)


def _collect_part(group: Sequence[SubsetRun]) -> SystemAnswers:
    return _collect_answers([(run.label, run.answers) for run in group], group[0].baselines)


def _collect_answers(runs: Sequence[tuple[str, Answers]], baselines: Mapping[str, Answers]) -> SystemAnswers:
    found: SystemAnswers = defaultdict(list)
    for label, answers in runs:
        found[label].append(answers)
    return dict(found) | {name: [answers] for name, answers in baselines.items()}


def _measure_gain(
    size: int, systems: SystemAnswers, scorer: AnswerScorer, baselines: frozenset[str]
) -> TuningGain:
    """The best tuned method with so many commits against the best baseline."""
    tuned = [name for name in systems if name not in baselines]
    best, rival = (
        max(names, key=lambda name: scorer.score_runs(systems[name]).mean)
        for names in (tuned, baselines & systems.keys())
    )
    return TuningGain(size, best, rival, scorer.compare_runs(systems[best], systems[rival]))


def _summarise_pair(
    cut: HistorySubset, groups: Mapping[HistorySubset, Sequence[SubsetRun]], baselines: frozenset[str]
) -> TransferTable:
    within = next(
        (one for one in groups if one.taught == one.asked == cut.asked and one.examples == cut.examples), None
    )
    scorer = groups[cut][0].scorer
    far, near = _collect_part(groups[cut]), _collect_part(groups[within]) if within else {}
    rows = []
    for name, runs in far.items():
        row = TransferRow(name, name in baselines, scorer.score_runs(runs))
        if name in near:
            gap = scorer.compare_runs(runs, near[name])
            row = TransferRow(row.label, row.baseline, row.across, scorer.score_runs(near[name]), gap)
        rows.append(row)
    return TransferTable(cut.taught, cut.asked, cut.examples, len(scorer), rows)


# --- sentences ----------------------------------------------------------------------------------------------


def describe_findings(facts: TaskFacts, metric: MetricInfo) -> list[str]:
    """A sentence on each, for the advice."""
    found = [describe_low_resource(facts.low, metric)] if facts.low else []
    found += [_describe_transfer(one, metric.digits) for one in facts.transfer]
    return [*found, *_describe_probes(facts.probes)]


def describe_low_resource(low: LowResource, metric: MetricInfo) -> str:
    """From how many training commits on tuning is significantly better than the best baseline."""
    paying = [gain for gain in low.gains if gain.gap.low > 0]
    if not paying:
        ends = f"{low.sizes[0]:,} to {low.sizes[-1]:,}"
        return (
            f"Fewer commits: with {ends} training commits no method is significantly better than no tuning."
        )
    first, larger = paying[0], low.gains[low.gains.index(paying[0]) :]
    where = f"from {first.size:,} training commits on"
    if len(paying) < len(larger):  # what pays with few need not pay with more
        sizes = " and ".join(format(gain.size, ",") for gain in paying)
        where = f"with {sizes} training commits, but not with every larger number"
    return (
        f"Fewer commits: tuning is significantly better {where}; the best there is {first.best}, "
        f"{format_interval_text(first.gap, metric.digits, '+')} {metric.name} over {first.over}."
    )


def _describe_transfer(one: TransferTable, digits: int) -> str:
    counts = f"{one.examples} training commits, {one.n} evaluated"
    head = f"Trained on {one.taught}, evaluated on {one.asked} ({counts})"
    rows = [(row.label, row.gap) for row in one.rows if not row.baseline and row.gap is not None]
    if not rows:
        return f"{head}: the budget did not allow for runs trained on {one.asked} itself."
    parts = [
        f"{label} {format_interval_text(gap, digits, '+')}, {format_significance(gap)}" for label, gap in rows
    ]
    return f"{head}, compared with as many training commits in {one.asked}: {'; '.join(parts)}."


def _describe_probes(probes: Mapping[str, Mapping[str, ProbeSummary]]) -> list[str]:
    found = []
    for tasks in probes.values():
        clear = [
            f"{name} {format_interval_text(gap, 1, '+')} on {task}"
            for task, known in tasks.items()
            for name, gap in known.change.items()
            if gap.excludes_zero
        ]
        summary = "; ".join(clear) or "no method changed it significantly"
        found.append(f"Probe accuracy at the last layer of the encoder, in points: {summary}.")
    return found


def format_interval_text(score: ConfidenceInterval, digits: int, sign: str = "") -> str:
    """`9.4 (7.2 to 11.9)`."""
    return "{0:{3}} ({1:{3}} to {2:{3}})".format(*score, f"{sign}.{digits}f")


def format_interval_cell(score: ConfidenceInterval, digits: int) -> str:
    """`9.4 (7.2–11.9)`, for tables."""
    mean, low, high = (f"{value:.{digits}f}" for value in score)
    return f"{mean} ({low}–{high})"


def format_gap_cell(gap: Difference, digits: int) -> str:
    """A difference with its interval, for tables; `n.s.` where it is not significant."""
    mean, low, high = (f"{value:+.{digits}f}" for value in gap)
    return f"{mean} ({low} to {high}){'' if gap.excludes_zero else ' n.s.'}"


def format_significance(gap: Difference) -> str:
    """What an interval says of a difference."""
    return "significant" if gap.excludes_zero else "no significant difference"
