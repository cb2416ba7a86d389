"""What runs on parts of a history, and probes, say beyond the main comparison: hides their arithmetic.

Plain values for the page, the terminal and scripts, and a sentence each for the advice.
"""

from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import Any

from gitpeft.learn.compare import layer_probes
from gitpeft.learn.compare.scoring import Answers, AnswerScorer
from gitpeft.learn.compare.tasks import TaskPart
from gitpeft.learn.data.subsets import LANGUAGE_TRANSFER, LOW_RESOURCE, HistorySubset
from gitpeft.learn.evaluation.text_metrics import ConfidenceInterval

SystemAnswers = dict[str, list[Answers]]
"""By name, the answers of each seed."""


def summarise_probes(untuned: Mapping[str, Any], long: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """By base, `layers.summary` of the long runs that were probed."""
    found = {}
    for base, known in untuned.items():
        tuned = {run["label"]: run["probes"] for run in long if run["base"] == base and "probes" in run}
        found[base] = layer_probes.summarise_layers(known, tuned)
    return found


def summarise_parts(
    runs: Sequence[dict[str, Any]],
    long: Sequence[dict[str, Any]],
    baselines: Mapping[str, Answers],
    whole: TaskPart,
    taught: int,
) -> dict[str, Any]:
    """`low`: scores by system and number of commits; `transfer`: a table for each pair of languages.

    `runs` are those on parts of the history, each with its `cut`, `ground` and `baselines`.
    """
    by_cut: dict[HistorySubset, list[dict[str, Any]]] = defaultdict(list)
    for run in runs:
        by_cut[run["cut"]].append(run)
    low = {cut: group for cut, group in by_cut.items() if cut.kind == LOW_RESOURCE}
    names = {run["label"] for group in low.values() for run in group}
    everything = _collect_systems([run for run in long if run["label"] in names], baselines)
    known = frozenset(baselines)
    crossing = [cut for cut in by_cut if cut.kind == LANGUAGE_TRANSFER and cut.taught != cut.asked]
    return {
        "low": _summarise_low_resource(low, everything, whole.yardstick, taught, known) if low else None,
        "transfer": [_summarise_transfer(cut, by_cut, known) for cut in crossing],
    }


def _collect_systems(runs: Sequence[dict[str, Any]], baselines: Mapping[str, Answers]) -> SystemAnswers:
    found: SystemAnswers = defaultdict(list)
    for run in runs:
        found[run["label"]].append(run["answers"])
    return dict(found) | {name: [said] for name, said in baselines.items()}


# --- low resource -------------------------------------------------------------------------------------------


def _summarise_low_resource(
    groups: Mapping[HistorySubset, Sequence[dict[str, Any]]],
    everything: SystemAnswers,
    yardstick: AnswerScorer,
    taught: int,
    baselines: frozenset[str],
) -> dict[str, Any]:
    """The same commits are asked about whatever teaches, so that all numbers are comparable."""
    sizes = [(cut.examples, _collect_systems(group, group[0]["baselines"])) for cut, group in groups.items()]
    sizes = [*sorted(sizes, key=lambda one: one[0]), (taught, everything)]
    return {
        "sizes": [size for size, _ in sizes],
        "systems": {
            name: [
                yardstick.score_runs(known[name])._asdict() if name in known else None for _, known in sizes
            ]
            for name in everything
        },
        "gains": [_measure_gain(size, known, yardstick, baselines) for size, known in sizes],
    }


def _measure_gain(
    size: int, systems: SystemAnswers, yardstick: AnswerScorer, baselines: frozenset[str]
) -> dict[str, Any]:
    """The method that is ahead with so many commits, and what it gains over the best that is not trained."""
    tuned = [name for name in systems if name not in baselines]
    best, rival = (
        max(names, key=lambda name: yardstick.score_runs(systems[name]).mean)
        for names in (tuned, baselines & systems.keys())
    )
    gap = yardstick.compare_runs(systems[best], systems[rival])
    return {"size": size, "best": best, "over": rival} | _encode_gap(gap)


def _encode_gap(gap: ConfidenceInterval) -> dict[str, Any]:
    return gap._asdict() | {"clear": gap.excludes_zero}


# --- transfer -----------------------------------------------------------------------------------------------


def _summarise_transfer(
    cut: HistorySubset, by_cut: Mapping[HistorySubset, Sequence[dict[str, Any]]], baselines: frozenset[str]
) -> dict[str, Any]:
    """A table: taught by the other language, taught by its own, and the difference."""
    within = next(
        (one for one in by_cut if one.taught == one.asked == cut.asked and _has_same_size(one, cut)), None
    )
    across, own = by_cut[cut], by_cut[within] if within else []
    yardstick: AnswerScorer = across[0]["ground"].yardstick
    far = _collect_systems(across, across[0]["baselines"])
    near = _collect_systems(own, own[0]["baselines"]) if own else {}
    rows = []
    for name, runs in far.items():
        row: dict[str, Any] = {"label": name, "baseline": name in baselines}
        row["across"] = yardstick.score_runs(runs)._asdict()
        if name in near:
            row["within"] = yardstick.score_runs(near[name])._asdict()
            row["gap"] = _encode_gap(yardstick.compare_runs(runs, near[name]))
        rows.append(row)
    return {
        "taught": cut.taught, "asked": cut.asked, "examples": cut.examples,
        "n": len(yardstick), "rows": rows,
    }  # fmt: skip


def _has_same_size(one: HistorySubset, other: HistorySubset) -> bool:
    return one.examples == other.examples


# --- words --------------------------------------------------------------------------------------------------


def describe_findings(report: dict[str, Any]) -> list[str]:
    """A sentence on each, for the advice."""
    digits, found = report["metric"]["digits"], []
    if report["low"]:
        found.append(_describe_low_resource(report["low"], digits))
    found += [_describe_transfer(one, digits) for one in report["transfer"]]
    return [*found, *_describe_probes(report["probes"])]


def _describe_low_resource(low: dict[str, Any], digits: int) -> str:
    paying = [gain for gain in low["gains"] if gain["low"] > 0]
    if not paying:
        ends = f"{low['sizes'][0]:,} to {low['sizes'][-1]:,}"
        return f"Few commits: with {ends} of them no method is shown to be better than doing without tuning."
    first, larger = paying[0], low["gains"][low["gains"].index(paying[0]) :]
    where = f"from {first['size']:,} of them on"
    if len(paying) < len(larger):  # what pays with few need not pay with more
        sizes = " and ".join(format(gain["size"], ",") for gain in paying)
        where = f"with {sizes} of them, but not with every larger number"
    return (
        f"Few commits: tuning is shown to pay {where}, with {first['best']}: "
        f"{format_interval_text(first, digits, '+')} over {first['over']}."
    )


def _describe_transfer(one: dict[str, Any], digits: int) -> str:
    counts = f"{one['examples']} commits teach, {one['n']} are asked about"
    head = f"From {one['taught']} to {one['asked']} ({counts})"
    rows = [row for row in one["rows"] if not row["baseline"] and "gap" in row]
    if not rows:
        return f"{head}: time did not allow for as much teaching in {one['asked']} itself."
    parts = [
        f"{row['label']} {format_interval_text(row['gap'], digits, '+')}{_format_noise(row['gap'])}"
        for row in rows
    ]
    return f"{head}, against as much teaching in {one['asked']} itself: {'; '.join(parts)}."


def _describe_probes(probes: dict[str, Any]) -> list[str]:
    found = []
    for tasks in probes.values():
        clear = [
            f"{name} {format_interval_text(gap, 1, '+')} at {task}"
            for task, known in tasks.items()
            for name, gap in known["change"].items()
            if gap["clear"]
        ]
        said = "; ".join(clear) or "no method changed it by more than noise"
        found.append(f"What the last layer of the encoder knows, in points: {said}.")
    return found


def format_interval_text(score: Mapping[str, float], digits: int, sign: str = "") -> str:
    """`9.4 (7.2 to 11.9)`."""
    return "{0:{3}} ({1:{3}} to {2:{3}})".format(
        score["mean"], score["low"], score["high"], f"{sign}.{digits}f"
    )


def format_interval_cell(score: Mapping[str, float], metric: Mapping[str, Any]) -> str:
    """`9.4 (7.2–11.9)`, for tables."""
    mean, low, high = (f"{score[name]:.{metric['digits']}f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low}–{high})"


def format_gap_cell(gap: Mapping[str, Any], metric: Mapping[str, Any]) -> str:
    """A difference with its interval and whether it is noise, for tables."""
    mean, low, high = (f"{gap[name]:+.{metric['digits']}f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high}), {'clear' if gap['clear'] else 'noise'}"


def _format_noise(gap: Mapping[str, Any]) -> str:
    return "" if gap["clear"] else ", noise"
