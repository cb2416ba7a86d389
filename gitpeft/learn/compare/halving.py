"""Plans the runs of a comparison: which settings are tried, and successive halving within a time budget.

Two rungs (Jamieson & Talwalkar 2016, arXiv 1502.07943): all candidates for a few steps, then the better half,
and the best of each method, for as many steps as the budget allows.
"""

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any

from gitpeft.errors import GitpeftError
from gitpeft.learn.compare.results import RunCandidate, RunResult
from gitpeft.learn.models import methods
from gitpeft.learn.training.finetune import BATCH_EXAMPLES, MESSAGE_TASK

METHOD_NAMES = ("lora", "adapter", "full", "hybrid")
EXTRA_SETTINGS = {
    "lora": ("lora:rank=8,placement=query-value",),
    "adapter": ("adapter:placement=pfeiffer",),
    "hybrid": ("hybrid:rest=adapter",),
}
"""Further settings that are tried after the defaults where no methods are named."""

MIN_RUN_STEPS, LONG_RUN_FACTOR = 6, 3
"""The fewest steps of a run; how many times longer than a short run a long one is, at least."""

MIN_ADVICE_STEPS, MAX_ADVICE_STEPS = 10, 50
"""Bounds of the steps that advice needs (see `count_advice_steps`). 50 steps are what AdamW's second moment
averages over at the beta of 0.98 that training uses."""

TRAINING_SHARE = 0.75
"""The share of the remaining budget that is planned for steps, since a shared machine may slow down."""

PROBING_SHARE = 0.1
"""The largest share of the budget for layer probes."""


@dataclass(frozen=True, slots=True)
class RunTimings:
    """Seconds measured on this machine: a training step (`step`), loading and validation (`around`), export
    and evaluation (`finish`), probing one commit (`probe`)."""

    step: float
    around: float
    finish: float
    probe: float = 0.0


@dataclass(frozen=True, slots=True)
class PartRuns:
    """Runs on a part of the history, after the long runs: how many, and the most steps of each."""

    label: str
    runs: int
    most: int


@dataclass(frozen=True, slots=True)
class ComparisonRequest:
    """The options of a comparison. `methods` may be names or have settings (`lora:rank=4`); empty means all.

    `low` are numbers of training commits and `transfer` pairs of languages that methods are tried on as well.
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


def list_candidates(wish: ComparisonRequest) -> list[RunCandidate]:
    """The settings to try, the most important first: the default of every method, then the others.

    GitpeftError where a name or a setting is wrong.
    """
    named = [
        methods.format_method(methods.make_method(*methods.parse_method(text)))
        for text in wish.methods or METHOD_NAMES
    ]
    more: list[str] = []
    if wish.ranks or wish.placements:
        more = [text for one in named for text in _vary_settings(one, wish)]
    elif not wish.methods:
        more = [text for name in METHOD_NAMES for text in EXTRA_SETTINGS.get(name, ())]
    unique = dict.fromkeys([*named, *more])
    return [RunCandidate(text, base) for text in unique for base in wish.bases]


def _vary_settings(text: str, wish: ComparisonRequest) -> Iterator[str]:
    """A method with each of the ranks (widths, for adapters) and placements that it supports."""
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
        raise GitpeftError(f"there is no placement {min(wrong)}", f"choose from {known_names}")
    sizes: Iterable[dict[str, Any]] = [{size: rank} for rank in wish.ranks] or [{}]
    spots = [{"placement": spot} for spot in wish.placements if spot in known] or [{}]
    for one in sizes:
        for spot in spots:
            yield methods.format_method(methods.make_method(name, {**settings, **one, **spot}))


# --- plans --------------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ShortRungPlan:
    """The candidates, the steps of their short runs (0 for none), and what the later runs may take.

    `least` is the number of methods, all of which go on to long runs; `loads` are runs on parts of the
    history, `probed` the commits that layers are probed on, and `left_out` says what the budget excludes.
    """

    candidates: tuple[RunCandidate, ...]
    steps: int
    pace: RunTimings
    seeds: int
    least: int
    loads: tuple[PartRuns, ...] = ()
    left_out: tuple[str, ...] = ()
    probed: int = 0

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ShortRungPlan":
        """A stored plan; KeyError or TypeError where it is not one."""
        return cls(
            tuple(RunCandidate(**one) for one in data["candidates"]),
            data["steps"],
            RunTimings(**data["pace"]),
            data["seeds"],
            data["least"],
            tuple(PartRuns(**one) for one in data["loads"]),
            tuple(data["left_out"]),
            data["probed"],
        )


@dataclass(frozen=True, slots=True)
class LongRungPlan:
    """The finalists, the steps of their long runs, and the seconds a step of each costs."""

    candidates: tuple[RunCandidate, ...]
    steps: int
    costs: tuple[float, ...] = field(default=())

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "LongRungPlan":
        """A stored plan; KeyError or TypeError where it is not one."""
        chosen = tuple(RunCandidate(**one) for one in data["candidates"])
        return cls(chosen, data["steps"], tuple(data.get("costs") or [1.0] * len(chosen)))


def encode_plan(plan: ShortRungPlan | LongRungPlan) -> dict[str, object]:
    """Plain values, as plans are stored."""
    return asdict(plan)


def plan_short_rung(
    found: Sequence[RunCandidate],
    seconds: float,
    pace: RunTimings,
    seeds: int,
    loads: Sequence[PartRuns] = (),
) -> ShortRungPlan:
    """Decide who takes part in the short rung, and with how many steps, so that all later runs fit as well.

    Until `MIN_RUN_STEPS` are affordable, repeated seeds are dropped, then settings beyond the defaults, then
    the last of `loads`. If even the long runs alone do not fit then, methods are dropped, the last first.
    Where all would go on anyway, there is no short rung: its steps are 0.
    """
    draft = _Draft(list(found), seeds, list(loads), pace, seconds)
    while draft.count_steps() < MIN_RUN_STEPS and draft.drop_option():
        pass
    while len(draft.chosen) > 1 and draft.count_steps() * LONG_RUN_FACTOR < MIN_RUN_STEPS:
        draft.left_out.append(draft.chosen.pop().label)
    halves = count_finalists(len(draft.chosen), draft.least) < len(draft.chosen)
    return ShortRungPlan(
        tuple(draft.chosen),
        max(MIN_RUN_STEPS, draft.count_steps()) if halves else 0,
        pace,
        draft.seeds,
        draft.least,
        tuple(draft.parts),
        tuple(draft.left_out),
    )


@dataclass(slots=True)
class _Draft:
    """A plan that is cut down until it fits into `seconds`."""

    chosen: list[RunCandidate]
    seeds: int
    parts: list[PartRuns]
    pace: RunTimings
    seconds: float
    left_out: list[str] = field(default_factory=list)

    @property
    def least(self) -> int:
        return len({one.kind for one in self.chosen})

    def count_steps(self) -> int:
        """Steps of a short run that are affordable; negative where not even the time around them is."""
        finals = count_finalists(len(self.chosen), self.least)
        shorts = len(self.chosen) if len(self.chosen) > finals else 0
        runs = finals * self.seeds
        around, finish = self.pace.around, self.pace.finish
        fixed = around * (shorts + runs) + finish * runs + _sum_fixed_seconds(self.parts, self.pace)
        spare = (self.seconds - fixed) * TRAINING_SHARE / self.pace.step
        return _plan_short_steps(shorts, runs, self.parts, spare)

    def drop_option(self) -> bool:
        """Drop what is least important; False where only the methods are left."""
        if self.seeds > 1:
            self.seeds -= 1
            self.left_out = [f"all but {self.seeds} seed{'s' if self.seeds > 1 else ''} of each method"]
        elif len(self.chosen) > self.least:
            self.left_out.append(self.chosen.pop().label)
        elif self.parts:
            self.left_out.append(self.parts.pop().label)
        else:
            return False
        return True


def count_advice_steps(examples: int) -> int:
    """The fewest steps of each method that advice may rest on: one pass over the training commits.

    Before that, a method has not seen the history that it is judged on. At least `MIN_ADVICE_STEPS`, and no
    more than `MAX_ADVICE_STEPS`, after which the optimiser has settled even on a long history.
    """
    return min(MAX_ADVICE_STEPS, max(MIN_ADVICE_STEPS, -(-examples // BATCH_EXAMPLES)))


def estimate_budget_minutes(plan: ShortRungPlan, methods_wanted: int, steps: int, overhead: float) -> int:
    """Minutes that long runs of so many `steps` need for each of the methods, with seconds of `overhead`."""
    runs = max(methods_wanted, len(plan.candidates)) * plan.seeds
    training = runs * steps * plan.pace.step / TRAINING_SHARE
    seconds = overhead + runs * (plan.pace.around + plan.pace.finish) + training
    return -(-int(seconds) // 60) + 1


def _sum_fixed_seconds(loads: Sequence[PartRuns], pace: RunTimings) -> float:
    """Seconds around the steps of `loads`; the base without tuning is evaluated once for each as well."""
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
    """How many commits all `systems` can be probed on within `PROBING_SHARE`; 0 where below `least`."""
    commits = int(PROBING_SHARE * seconds / max(pace.probe * systems, 1e-9))
    return min(commits, most) if commits >= least else 0


def count_finalists(candidates: int, least: int) -> int:
    """How many candidates go on to the long rung: half, and no fewer than there are methods (`least`)."""
    return max(least, -(-candidates // 2) if candidates > least else candidates)


def select_finalists(results: Sequence[RunResult], least: int) -> list[RunResult]:
    """The results that go on: the best of each method and base, then the best of the others."""
    ranked = sorted(results, key=lambda one: one.valid_loss)
    first: dict[tuple[str, str], RunResult] = {}
    for one in ranked:
        first.setdefault(one.candidate.kind, one)
    others = [one for one in ranked if one not in first.values()]
    room = count_finalists(len(results), least) - len(first)
    return sorted([*first.values(), *others[: max(0, room)]], key=lambda one: one.valid_loss)


def plan_long_steps(
    step_seconds: Sequence[float],
    seconds: float,
    seeds: int,
    short: int,
    pace: RunTimings,
    loads: Sequence[PartRuns] = (),
) -> int:
    """Steps of every long run that fit into `seconds`; at least as many as the short runs had.

    `step_seconds` are the seconds that a step of each finalist takes.
    """
    fixed = (pace.around + pace.finish) * len(step_seconds) * seeds + _sum_fixed_seconds(loads, pace)
    spare = (seconds - fixed) * TRAINING_SHARE
    every, mean = sum(step_seconds) * seeds, sum(step_seconds) / len(step_seconds)
    return max(short, MIN_RUN_STEPS, _find_largest(lambda n: every * n + mean * _sum_steps(loads, n), spare))


def estimate_seconds(loads: Sequence[PartRuns], steps: int, pace: RunTimings) -> float:
    """Seconds that `loads` take at the measured pace, where the long runs have `steps`."""
    return _sum_fixed_seconds(loads, pace) + _sum_steps(loads, steps) * pace.step


def allot_minutes(seconds: float, costs: Sequence[float], pace: RunTimings) -> float:
    """How long the next of several runs may train, so that all of them fit into `seconds`.

    `costs` are the seconds of a step of each run, the next one first: a method with slower steps gets more
    time, so that all have equally many. At the planned pace the limit is not reached; it ends a run early on
    a machine that has become slower.
    """
    training = seconds - len(costs) * (pace.around + pace.finish)
    return max(1.0, training * costs[0] / sum(costs)) / 60
