"""What the runs of a comparison say: summaries with intervals, Pareto fronts, and the advice that follows.

Two systems are compared on the same commits by a paired bootstrap (Koehn 2004); what an interval does not
tell from zero is called noise.
"""

from collections.abc import Mapping, Sequence
from typing import Any

from gitpeft.learn.compare import findings
from gitpeft.learn.compare.findings import format_interval_text
from gitpeft.learn.compare.scoring import Answers, AnswerScorer
from gitpeft.learn.compare.tasks import UNTUNED_SUFFIX

SAMPLE_COUNT = 5

COST_KEYS = (
    "share", "trainable", "peak_memory", "reserved", "seconds", "seconds_to_best", "tokens_per_second",
    "adapter_bytes", "exported_bytes", "answer_ms", "halved",
)  # fmt: skip

COST_AXES = {"share": "trainable share", "memory": "peak memory", "training": "training time"}
"""What quality is plotted against."""

TASK_NAMES = {"messages": "messages", "risk": "risk"}


def build_task_report(
    facts: dict[str, Any],
    runs: Sequence[dict[str, Any]],
    baselines: Mapping[str, Answers],
    asked: Sequence[tuple[str, str]],
    yardstick: AnswerScorer,
) -> dict[str, Any]:
    """Everything that the page, the terminal and scripts show of one task, as plain values.

    `runs` are the results of long runs, `baselines` the answers of systems that cost no training, `asked` the
    id of each commit that all of them were asked about, and what is right for it.
    """
    groups: dict[str, list[dict[str, Any]]] = {}
    for run in runs:
        groups.setdefault(run["label"], []).append(run)
    answers = {label: [run["answers"] for run in group] for label, group in groups.items()}
    rows = [_summarise_finalist(group, yardstick) for group in groups.values()]
    rows.sort(key=lambda row: -row["scores"][yardstick.key]["mean"])
    _compare_to_best(rows, answers, yardstick)
    _mark_pareto_fronts(rows, yardstick.key)
    found = facts | {
        "metric": {
            "key": yardstick.key, "name": yardstick.name, "digits": yardstick.digits,
            "all": dict(yardstick.metrics),
        },
        "asked": len(asked),
        "finalists": rows,
        "baselines": [
            {"label": name, "scores": yardstick.score_all_metrics([said])} for name, said in baselines.items()
        ],
        "samples": _collect_samples(asked, rows, answers, baselines, yardstick.pick_samples(SAMPLE_COUNT)),
    }  # fmt: skip
    found["advice"] = write_advice(
        found, answers | {name: [said] for name, said in baselines.items()}, yardstick
    )
    return found


def _summarise_finalist(runs: Sequence[dict[str, Any]], yardstick: AnswerScorer) -> dict[str, Any]:
    """One finalist over its seeds: means of costs, scores with their intervals."""
    cost = {name: sum(run["cost"].get(name, 0.0) for run in runs) / len(runs) for name in COST_KEYS}
    cost["memory"] = max(cost["peak_memory"] if not cost["reserved"] else cost["reserved"], 1)
    first, answers = runs[0], [run["answers"] for run in runs]
    return {
        "label": first["label"], "name": first["name"], "base": first["base"],
        "spelt": first["candidate"]["method"], "method": first["method"], "steps": first["steps"],
        "seeds": [run["candidate"]["seed"] for run in runs],
        "by_seed": [yardstick.score_runs([one]).mean for one in answers],
        "valid_loss": sum(run["valid_loss"] for run in runs) / len(runs),
        "scores": yardstick.score_all_metrics(answers), "cost": cost, "parity": first.get("parity", {}),
    }  # fmt: skip


def _compare_to_best(
    rows: Sequence[dict[str, Any]], answers: Mapping[str, Sequence[Answers]], yardstick: AnswerScorer
) -> None:
    """Each row's difference to the best one and to full tuning, paired by commit, and whether it is clear."""
    full = next((row["label"] for row in rows if row["name"] == "full"), "")
    for row in rows:
        for name, other in (("against_best", rows[0]["label"]), ("against_full", full)):
            if other:
                gap = yardstick.compare_runs(answers[row["label"]], answers[other])
                row[name] = gap._asdict() | {"clear": gap.excludes_zero}


def get_axis_cost(row: dict[str, Any], name: str) -> float:
    """A cost that quality is plotted against: a share, bytes, or seconds."""
    return float(row["cost"]["seconds" if name == "training" else name])


def find_pareto_front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (cost, quality) points are on the Pareto front: no other is as cheap and as good, one better."""
    return [
        not any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in points)
        for cost, quality in points
    ]


def _mark_pareto_fronts(rows: Sequence[dict[str, Any]], key: str) -> None:
    for name in COST_AXES:
        marks = find_pareto_front([(get_axis_cost(row, name), row["scores"][key]["mean"]) for row in rows])
        for row, mark in zip(rows, marks, strict=True):
            row.setdefault("front", {})[name] = mark


def _collect_samples(
    asked: Sequence[tuple[str, str]],
    rows: Sequence[dict[str, Any]],
    answers: Mapping[str, Sequence[Answers]],
    baselines: Mapping[str, Answers],
    places: Sequence[int],
) -> list[dict[str, Any]]:
    said = {row["label"]: answers[row["label"]][0] for row in rows} | dict(baselines)
    return [
        {"sha": asked[i][0], "team": asked[i][1], "offers": {name: one[i] for name, one in said.items()}}
        for i in places
    ]


# --- the words ----------------------------------------------------------------------------------------------


def write_advice(
    report: dict[str, Any], answers: Mapping[str, Sequence[Answers]], yardstick: AnswerScorer
) -> dict[str, Any]:
    """What to adopt, in words. A winner is named only where every difference to it stands clear of chance.

    Otherwise the advice is the method with the fewest trainable weights among those that cannot be told from
    the best: they are as good as each other here, and it is the cheapest to keep and to share.
    """
    rows = report["finalists"]
    best, rivals = rows[0], [row for row in rows[1:] if not row["against_best"]["clear"]]
    chosen = min([best, *rivals], key=lambda row: row["cost"]["trainable"])
    words = [_describe_winner(report, best, rivals, chosen), _describe_costs(chosen)]
    full = next((row for row in rows if row["name"] == "full"), None)
    if full is not None and full is not chosen:
        words.append(_describe_savings(chosen, full, answers, yardstick))
    words += [
        _describe_gain(chosen, one["label"], answers, yardstick, report["task"])
        for one in report["baselines"]
    ]
    words += [*findings.describe_findings(report), _describe_caveats(report, rivals)]
    return {
        "task": report["task"], "method": chosen["spelt"], "base": chosen["base"],
        "winner": best["label"] if not rivals and len(rows) > 1 else None,
        "tip": report["tip"], "words": words,
    }  # fmt: skip


def _describe_winner(
    report: dict[str, Any], best: dict[str, Any], rivals: Sequence[dict[str, Any]], chosen: dict[str, Any]
) -> str:
    metric, task = report["metric"], TASK_NAMES[report["task"]]

    def format_quality(row: dict[str, Any]) -> str:
        return format_interval_text(row["scores"][metric["key"]], metric["digits"])

    if not rivals and len(report["finalists"]) == 1:
        return f"Only {best['label']} was tried for {task}: {metric['name']} {format_quality(best)}."
    if not rivals:
        return (
            f"Adopt {best['label']} for {task}: {metric['name']} {format_quality(best)}, "
            "clear of every other method."
        )
    names = ", ".join(row["label"] for row in rivals)
    tail = "" if chosen is best else f" at {format_quality(chosen)}"
    return (
        f"No winner for {task}: {best['label']} is ahead with {metric['name']} {format_quality(best)}, "
        f"but {names} cannot be told from it here. "
        f"Adopt {chosen['label']}{tail}, which trains the fewest weights of these."
    )


def _format_count(number: int, noun: str) -> str:
    return f"{number} {noun}{'' if number == 1 else 's'}"


def _describe_costs(row: dict[str, Any]) -> str:
    cost = row["cost"]
    return (
        f"It costs {cost['seconds']:,.0f} s of training for {_format_count(row['steps'], 'step')}, "
        f"{cost['memory'] / 2**30:.1f} GiB of memory and {cost['adapter_bytes'] / 1e6:.1f} MB on disk; "
        f"it trains {cost['share']:.1%} of the weights."
    )


def _describe_savings(
    row: dict[str, Any],
    full: dict[str, Any],
    answers: Mapping[str, Sequence[Answers]],
    yardstick: AnswerScorer,
) -> str:
    """Against full tuning, cost by cost; a difference below 5 % is none on a machine that does other work."""
    a, b = row["cost"], full["cost"]
    parts = [
        _describe_change(name, a[key], b[key])
        for key, name in (("seconds", "time"), ("memory", "memory"), ("adapter_bytes", "disk"))
    ]
    gap = yardstick.compare_runs(answers[row["label"]], answers[full["label"]])
    noise = "clear of noise" if gap.excludes_zero else "inside the noise"
    quality = format_interval_text(gap._asdict(), yardstick.digits, "+")
    return f"Against full tuning: {', '.join(parts)}; {yardstick.name} {quality}, {noise}."


def _describe_change(name: str, value: float, full: float) -> str:
    change = value / max(full, 1e-9) - 1
    return f"{name} about the same" if abs(change) < 0.05 else f"{name} {change:+.0%}"


def _describe_gain(
    row: dict[str, Any],
    name: str,
    answers: Mapping[str, Sequence[Answers]],
    yardstick: AnswerScorer,
    task: str,
) -> str:
    gain = yardstick.compare_runs(answers[row["label"]], answers[name])
    said = "clear of noise" if gain.excludes_zero else "inside the noise"
    interval = format_interval_text(gain._asdict(), yardstick.digits, "+")
    text = f"Over {name}: {yardstick.name} {interval}, {said}."
    if name.endswith(UNTUNED_SUFFIX) and gain.low <= 0:
        text += " So tuning is not shown to pay yet: give it a longer budget before you adopt any method."
    if task == "risk" and gain.low <= 0:
        text += " So reading the code is not shown to pay here yet."
    return text


def _describe_caveats(report: dict[str, Any], rivals: Sequence[dict[str, Any]]) -> str:
    steps, seeds = report["steps"]["long"], report["seeds"]
    more = "a longer budget (more steps, more seeds), a larger base, or many more commits"
    close = f"; the difference to {rivals[0]['label']} is the one to watch" if rivals else ""
    return (
        f"What would change this advice: {more}{close}. It rests on {report['asked']} validation commits, "
        f"{_format_count(steps, 'step')} and {_format_count(seeds, 'seed')} of each method."
    )
