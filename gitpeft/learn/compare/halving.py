"""Which runs a comparison makes: hides the choice of settings, and successive halving within a time budget.

Two rungs (Jamieson & Talwalkar 2016, arXiv 1502.07943): all candidates for a few steps, then the better half,
and the best of each method, for as many as the budget allows.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gitpeft.errors import GitpeftError
from gitpeft.learn.models import methods
from gitpeft.learn.training.finetune import MESSAGE_TASK

METHOD_NAMES = ("lora", "adapter", "full", "hybrid")
EXTRA_SETTINGS = {
    "lora": ("lora:rank=8,placement=query-value",),
    "adapter": ("adapter:placement=pfeiffer",),
    "hybrid": ("hybrid:rest=adapter",),
}
"""Other settings that are tried where nobody says which, after the defaults."""

MIN_RUN_STEPS, LONG_RUN_FACTOR = 6, 3
"""Steps below which a short run says nothing; how many times longer a long run is, at least."""

TRAINING_SHARE = 0.75
"""Of what is left of the budget once all around the steps is paid: machines that others use slow down."""


PROBING_SHARE = 0.1
"""Of the budget, for probes at most."""


@dataclass(frozen=True, slots=True)
class RunTimings:
    """What was measured here, in seconds: a step; loading and validating; exporting and asking; probing a
    commit."""

    step: float
    around: float
    finish: float
    probe: float = 0.0


@dataclass(frozen=True, slots=True)
class PartRuns:
    """Runs on a part of the history, after the long ones: what, how many, and the most steps each takes."""

    label: str
    runs: int
    most: int


@dataclass(frozen=True, slots=True)
class ComparisonRequest:
    """What a person asked for. `methods` may be names or spelt with settings; empty means all.

    `low` are numbers of commits, `transfer` pairs of languages, that methods are tried on as well (`cuts`).
    """

    methods: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    placements: tuple[str, ...] = ()
    bases: tuple[str, ...] = ("mini",)
    minutes: float = 30.0
    seeds: int = 1
    until: str = "HEAD"
    task: str = MESSAGE_TASK
    low: tuple[int, ...] = ()
    transfer: tuple[tuple[str, str], ...] = ()


@dataclass(frozen=True, slots=True)
class RunCandidate:
    """One run's (task, method, base, seed); the method as `methods.spell` writes it."""

    method: str
    base: str
    seed: int = 0
    task: str = MESSAGE_TASK

    @property
    def name(self) -> str:
        """The method without its settings."""
        return self.method.partition(":")[0]

    @property
    def kind(self) -> tuple[str, str]:
        """The method without its settings, and the base."""
        return self.name, self.base

    @property
    def label(self) -> str:
        """For tables."""
        return self.method if self.base == "mini" else f"{self.method} on {Path(self.base).name}"


def list_candidates(wish: ComparisonRequest) -> list[RunCandidate]:
    """The settings to try, the most important first: every method's default, then the others.

    GitpeftError where a name or a setting is wrong.
    """
    spelt = [
        methods.format_method(methods.make_method(*methods.parse_method(text)))
        for text in wish.methods or METHOD_NAMES
    ]
    more: list[str] = []
    if wish.ranks or wish.placements:
        more = [text for one in spelt for text in _vary_settings(one, wish)]
    elif not wish.methods:
        more = [text for name in METHOD_NAMES for text in EXTRA_SETTINGS.get(name, ())]
    unique = dict.fromkeys([*spelt, *more])
    return [RunCandidate(text, base) for text in unique for base in wish.bases]


def _vary_settings(text: str, wish: ComparisonRequest) -> Iterator[str]:
    """A method with every rank (an adapter's width) and every placement that it can have."""
    name, settings = methods.parse_method(text)
    if name == "full":
        return
    bottlenecks = methods.make_method(name, settings).keeps_bottlenecks
    size, known = (
        ("width", methods.BOTTLENECK_PLACEMENTS) if bottlenecks else ("rank", methods.LORA_PLACEMENTS)
    )
    wrong = set(wish.placements) - methods.LORA_PLACEMENTS.keys() - methods.BOTTLENECK_PLACEMENTS.keys()
    if wrong:
        known_names = ", ".join((*methods.LORA_PLACEMENTS, *methods.BOTTLENECK_PLACEMENTS))
        raise GitpeftError(f"there is no placement {min(wrong)}", f"known are {known_names}")
    sizes: Iterable[dict[str, Any]] = [{size: rank} for rank in wish.ranks] or [{}]
    spots = [{"placement": spot} for spot in wish.placements if spot in known] or [{}]
    for one in sizes:
        for spot in spots:
            yield methods.format_method(methods.make_method(name, {**settings, **one, **spot}))


def plan_short_rung(
    found: Sequence[RunCandidate],
    seconds: float,
    pace: RunTimings,
    seeds: int,
    loads: Sequence[PartRuns] = (),
) -> dict[str, Any]:
    """Who takes part in the short rung, with how many steps, so that all that follows fits as well.

    Settings beyond the defaults are left out, and so are repeated seeds and then the last of `loads`, until
    `LEAST_STEPS` are affordable; what is left out is said. Where all would go on anyway, there is no short
    rung: its steps are 0.
    """
    chosen, parts, left_out = list(found), list(loads), list[str]()
    least = len({one.kind for one in found})
    while True:
        finals_of_one = count_finalists(len(chosen), least)
        finals = finals_of_one * seeds
        shorts = len(chosen) if len(chosen) > finals_of_one else 0
        fixed = pace.around * (shorts + finals) + pace.finish * finals + _sum_fixed_seconds(parts, pace)
        spare = (seconds - fixed) * TRAINING_SHARE / pace.step
        steps = _plan_short_steps(shorts, finals, parts, spare)
        if steps >= MIN_RUN_STEPS or (len(chosen) <= least and seeds == 1 and not parts):
            break
        if seeds > 1:
            seeds -= 1
            left_out = [f"only {seeds} seed{'s' if seeds > 1 else ''} of those asked for"]
        elif len(chosen) > least:
            left_out.append(chosen.pop().label)
        else:
            left_out.append(parts.pop().label)
    halves = count_finalists(len(chosen), least) < len(chosen)
    return {
        "candidates": [asdict(one) for one in chosen],
        "steps": max(MIN_RUN_STEPS, steps) if halves else 0,
        "pace": asdict(pace),
        "seeds": seeds,
        "least": least,
        "loads": [asdict(one) for one in parts],
        "left_out": left_out,
    }


def _sum_fixed_seconds(loads: Sequence[PartRuns], pace: RunTimings) -> float:
    """Seconds around the steps of `loads`; the untuned base is asked once for each as well."""
    return sum(one.runs * (pace.around + pace.finish) + pace.finish for one in loads)


def _sum_steps(loads: Sequence[PartRuns], most: int) -> int:
    return sum(one.runs * min(one.most, most) for one in loads)


def _plan_short_steps(shorts: int, finals: int, loads: Sequence[PartRuns], spare: float) -> int:
    """Steps of a short run when all runs together may have `spare`."""
    return _find_largest(
        lambda n: (shorts + finals * LONG_RUN_FACTOR) * n + _sum_steps(loads, LONG_RUN_FACTOR * n), spare
    )


def _find_largest(cost: Callable[[int], float], spare: float) -> int:
    """The largest number (below a million) whose cost, which grows with it, is at most `spare`."""
    return bisect_right(range(1_000_000), spare, key=cost) - 1


def count_probed_commits(seconds: float, pace: RunTimings, systems: int, least: int, most: int) -> int:
    """How many commits all `systems` can be probed on within their share of the budget; 0 below `least`."""
    commits = int(PROBING_SHARE * seconds / max(pace.probe * systems, 1e-9))
    return min(commits, most) if commits >= least else 0


def count_finalists(candidates: int, least: int) -> int:
    """How many go on to the long rung: half, and no fewer than there are methods."""
    return max(least, -(-candidates // 2) if candidates > least else candidates)


def select_finalists(results: Sequence[dict[str, Any]], least: int) -> list[dict[str, Any]]:
    """The results that go on: the best of each method and base, then the best of the others."""
    ranked = sorted(results, key=lambda one: one["valid_loss"])
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for one in ranked:
        first.setdefault((one["name"], one["base"]), one)
    others = [one for one in ranked if one not in first.values()]
    room = count_finalists(len(results), least) - len(first)
    return sorted([*first.values(), *others[: max(0, room)]], key=lambda one: one["valid_loss"])


def plan_long_steps(
    step_seconds: Sequence[float],
    seconds: float,
    seeds: int,
    short: int,
    pace: RunTimings,
    loads: Sequence[PartRuns] = (),
) -> int:
    """Steps of every long run that fit into `seconds`; at least as many as the short runs had.

    `step_seconds` is what a step of each finalist costs.
    """
    fixed = (pace.around + pace.finish) * len(step_seconds) * seeds + _sum_fixed_seconds(loads, pace)
    spare = (seconds - fixed) * TRAINING_SHARE
    every, mean = sum(step_seconds) * seeds, sum(step_seconds) / len(step_seconds)
    return max(short, MIN_RUN_STEPS, _find_largest(lambda n: every * n + mean * _sum_steps(loads, n), spare))


def estimate_seconds(loads: Sequence[PartRuns], steps: int, pace: RunTimings) -> float:
    """What `loads` take at the pace that was measured, where the long runs have `steps`."""
    return _sum_fixed_seconds(loads, pace) + _sum_steps(loads, steps) * pace.step


def allot_minutes(seconds: float, costs: Sequence[float], pace: RunTimings) -> float:
    """How long the next of several runs may train, so that all of them fit into `seconds`.

    `costs` are those of a step of each, the next run first: a dear one may take longer, to have as many. More
    than a run takes at the pace that was planned with; it ends a run early, by the clock, on a machine
    that has become slower.
    """
    training = seconds - len(costs) * (pace.around + pace.finish)
    return max(1.0, training * costs[0] / sum(costs)) / 60
