"""What the runs of a comparison say: summaries with intervals, Pareto fronts, and the advice that follows.

Two systems are compared on the same commits by a paired bootstrap (Koehn 2004); what an interval does not
tell from zero is called noise.
"""

from collections.abc import Sequence
from typing import Any

from gitpeft.learn import appraise
from gitpeft.learn.evaluate import b_norm, bootstrap, paired_bootstrap

SAMPLES = 5
UNTUNED = ", untuned"
"""How the name of a base that was not tuned ends."""

COSTS = ("share", "trainable", "peak_memory", "reserved", "seconds", "seconds_to_best", "tokens_per_second",
         "adapter_bytes", "exported_bytes", "answer_ms", "halved")  # fmt: skip

AXES = {"share": "trainable share", "memory": "peak memory", "training": "training time"}
"""What quality is plotted against."""


def report(
    facts: dict[str, Any],
    runs: Sequence[dict[str, Any]],
    baselines: dict[str, list[str]],
    asked: Sequence[tuple[str, str]],
) -> dict[str, Any]:
    """Everything that the page, the terminal and scripts show, as plain values.

    `runs` are the results of long runs, `baselines` the offers of systems that cost no training, `asked` the
    (sha, message) of the commits that all of them were asked about.
    """
    references = [message for _, message in asked]
    labels = dict.fromkeys(one["label"] for one in runs)
    rows = [_summary([run for run in runs if run["label"] == label], references) for label in labels]
    rows.sort(key=lambda row: -row["scores"]["b_norm"]["mean"])
    _against_best(rows)
    _mark_fronts(rows)
    found = facts | {
        "asked": len(references),
        "finalists": rows,
        "baselines": [
            {"label": name, "scores": appraise.scores(offers, references)}
            for name, offers in baselines.items()
        ],
        "samples": _samples(asked, rows, baselines),
    }
    found["advice"] = advise(found, {name: b_norm(o, references) for name, o in baselines.items()})
    for row in rows:
        del row["per_example"], row["offers"]
    return found


def _summary(runs: Sequence[dict[str, Any]], references: Sequence[str]) -> dict[str, Any]:
    """One finalist over its seeds: means of costs, scores over the mean of each example's scores."""
    by_seed = [b_norm(run["offers"], references) for run in runs]
    per_example = [sum(column) / len(column) for column in zip(*by_seed, strict=True)]
    scores = appraise.scores(runs[0]["offers"], references)
    scores["b_norm"] = bootstrap(per_example, seed=0)._asdict()
    cost = {name: sum(run["cost"][name] for run in runs) / len(runs) for name in COSTS}
    cost["memory"] = max(cost["peak_memory"] if not cost["reserved"] else cost["reserved"], 1)
    first = runs[0]
    return {
        "label": first["label"], "name": first["name"], "base": first["base"],
        "spelt": first["candidate"]["method"], "method": first["method"], "steps": first["steps"],
        "seeds": [run["candidate"]["seed"] for run in runs],
        "by_seed": [sum(scores) / len(scores) for scores in by_seed],
        "valid_loss": sum(run["valid_loss"] for run in runs) / len(runs),
        "scores": scores, "cost": cost, "parity": first["parity"],
        "per_example": per_example, "offers": first["offers"],
    }  # fmt: skip


def _against_best(rows: Sequence[dict[str, Any]]) -> None:
    """Each row's difference to the best one, paired by example, and whether it is beyond chance."""
    best = rows[0]["per_example"]
    for row in rows:
        difference = paired_bootstrap(row["per_example"], best, seed=0)
        row["against_best"] = difference._asdict() | {"clear": difference.excludes_zero}


def axis(row: dict[str, Any], name: str) -> float:
    """A cost that quality is plotted against: a share, bytes, or seconds."""
    return float(row["cost"]["seconds" if name == "training" else name])


def front(points: Sequence[tuple[float, float]]) -> list[bool]:
    """Which (cost, quality) points are on the Pareto front: no other is as cheap and as good, one better."""
    return [
        not any(c <= cost and q >= quality and (c, q) != (cost, quality) for c, q in points)
        for cost, quality in points
    ]


def _mark_fronts(rows: Sequence[dict[str, Any]]) -> None:
    for name in AXES:
        marks = front([(axis(row, name), row["scores"]["b_norm"]["mean"]) for row in rows])
        for row, mark in zip(rows, marks, strict=True):
            row.setdefault("front", {})[name] = mark


def _samples(
    asked: Sequence[tuple[str, str]], rows: Sequence[dict[str, Any]], baselines: dict[str, list[str]]
) -> list[dict[str, Any]]:
    offers = {row["label"]: row["offers"] for row in rows} | baselines
    places = range(0, len(asked), max(1, len(asked) // SAMPLES))
    return [
        {"sha": asked[i][0], "team": asked[i][1], "offers": {name: said[i] for name, said in offers.items()}}
        for i in places
    ][:SAMPLES]


# --- the words ----------------------------------------------------------------------------------------------


def advise(report: dict[str, Any], baselines: dict[str, list[float]]) -> dict[str, Any]:
    """What to adopt, in words. A winner is named only where every difference to it stands clear of chance.

    Otherwise the advice is the method with the fewest trainable weights among those that cannot be told from
    the best: they are as good as each other here, and it is the cheapest to keep and to share.
    """
    rows = report["finalists"]
    best, rivals = rows[0], [row for row in rows[1:] if not row["against_best"]["clear"]]
    chosen = min([best, *rivals], key=lambda row: row["cost"]["trainable"])
    words = [_verdict(best, rivals, chosen), _costs(chosen)]
    full = next((row for row in rows if row["name"] == "full"), None)
    if full is not None and full is not chosen:
        words.append(_saved(chosen, full))
    for name, scores in baselines.items():
        words.append(_worth(chosen, name, scores))
    words.append(_would_change(report, rivals))
    return {
        "task": report["task"], "method": chosen["spelt"], "base": chosen["base"],
        "winner": best["label"] if not rivals and len(rows) > 1 else None,
        "tip": report["tip"], "words": words,
    }  # fmt: skip


def _verdict(best: dict[str, Any], rivals: Sequence[dict[str, Any]], chosen: dict[str, Any]) -> str:
    quality = _interval(best["scores"]["b_norm"])
    if not rivals:
        return f"Adopt {best['label']} for messages: B-Norm {quality}, clear of every other method."
    names = ", ".join(row["label"] for row in rivals)
    tail = "" if chosen is best else f" at {_interval(chosen['scores']['b_norm'])}"
    return (
        f"No winner: {best['label']} is ahead with B-Norm {quality}, "
        f"but {names} cannot be told from it here. "
        f"Adopt {chosen['label']}{tail}, which trains the fewest weights of these."
    )


def _costs(row: dict[str, Any]) -> str:
    cost = row["cost"]
    return (
        f"It costs {cost['seconds']:,.0f} s of training for {row['steps']} steps, "
        f"{cost['memory'] / 2**30:.1f} GiB of memory and {cost['adapter_bytes'] / 1e6:.1f} MB on disk; "
        f"it trains {cost['share']:.1%} of the weights."
    )


def _saved(row: dict[str, Any], full: dict[str, Any]) -> str:
    """Against full tuning, cost by cost; a difference below 5 % is none on a machine that does other work."""
    a, b = row["cost"], full["cost"]
    parts = [
        _change(name, a[key], b[key])
        for key, name in (("seconds", "time"), ("memory", "memory"), ("adapter_bytes", "disk"))
    ]
    quality = paired_bootstrap(row["per_example"], full["per_example"], seed=0)
    noise = "clear of noise" if quality.excludes_zero else "inside the noise"
    return (
        f"Against full tuning: {', '.join(parts)}; B-Norm {quality.mean:+.1f} "
        f"({quality.low:+.1f} to {quality.high:+.1f}), {noise}."
    )


def _change(name: str, value: float, full: float) -> str:
    change = value / max(full, 1e-9) - 1
    return f"{name} about the same" if abs(change) < 0.05 else f"{name} {change:+.0%}"


def _worth(row: dict[str, Any], name: str, scores: Sequence[float]) -> str:
    gain = paired_bootstrap(row["per_example"], scores, seed=0)
    said = "clear of noise" if gain.excludes_zero else "inside the noise"
    text = f"Over {name}: B-Norm {gain.mean:+.1f} ({gain.low:+.1f} to {gain.high:+.1f}), {said}."
    if name.endswith(UNTUNED) and gain.low <= 0:
        text += " So tuning is not shown to pay yet: give it a longer budget before you adopt any method."
    return text


def _would_change(report: dict[str, Any], rivals: Sequence[dict[str, Any]]) -> str:
    steps, seeds = report["steps"]["long"], report["seeds"]
    more = "a longer budget (more steps, more seeds), a larger base, or many more commits"
    close = f"; the difference to {rivals[0]['label']} is the one to watch" if rivals else ""
    return (
        f"What would change this advice: {more}{close}. It rests on {report['asked']} validation commits, "
        f"{steps} steps and {seeds} seed{'s' if seeds > 1 else ''} of each method."
    )


def _interval(score: dict[str, float]) -> str:
    return f"{score['mean']:.1f} ({score['low']:.1f} to {score['high']:.1f})"
