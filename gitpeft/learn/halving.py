"""Which runs a comparison makes: hides the choice of settings, and successive halving within a time budget.

Two rungs (Jamieson & Talwalkar 2016, arXiv 1502.07943): all candidates for a few steps, then the better half,
and the best of each method, for as many as the budget allows.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gitpeft.errors import GitpeftError
from gitpeft.learn import methods
from gitpeft.learn.tuning import MESSAGES

NAMES = ("lora", "adapter", "full", "hybrid")
EXTRAS = {
    "lora": ("lora:rank=8,placement=query-value",),
    "adapter": ("adapter:placement=pfeiffer",),
    "hybrid": ("hybrid:rest=adapter",),
}
"""Other settings that are tried where nobody says which, after the defaults."""

LEAST_STEPS, LONG = 6, 3
"""Steps below which a short run says nothing; how many times longer a long run is, at least."""

TRAINING_SHARE = 0.75
"""Of what is left of the budget once all around the steps is paid: machines that others use slow down."""


@dataclass(frozen=True, slots=True)
class Pace:
    """What was measured here, in seconds: a step; loading and validating; exporting and asking."""

    step: float
    around: float
    finish: float


@dataclass(frozen=True, slots=True)
class Wish:
    """What a person asked for. `methods` may be names or spelt with settings; empty means all."""

    methods: tuple[str, ...] = ()
    ranks: tuple[int, ...] = ()
    placements: tuple[str, ...] = ()
    bases: tuple[str, ...] = ("mini",)
    minutes: float = 30.0
    seeds: int = 1
    until: str = "HEAD"
    task: str = MESSAGES


@dataclass(frozen=True, slots=True)
class Candidate:
    """One run's (task, method, base, seed); the method as `methods.spell` writes it."""

    method: str
    base: str
    seed: int = 0
    task: str = MESSAGES

    @property
    def name(self) -> str:
        """The method without its settings."""
        return self.method.partition(":")[0]

    @property
    def label(self) -> str:
        """For tables."""
        return self.method if self.base == "mini" else f"{self.method} on {Path(self.base).name}"


def candidates(wish: Wish) -> list[Candidate]:
    """The settings to try, the most important first: every method's default, then the others.

    GitpeftError where a name or a setting is wrong.
    """
    spelt = [methods.spell(methods.of(*methods.parse(text))) for text in wish.methods or NAMES]
    more: list[str] = []
    if wish.ranks or wish.placements:
        more = [text for one in spelt for text in _varied(one, wish)]
    elif not wish.methods:
        more = [text for name in NAMES for text in EXTRAS.get(name, ())]
    unique = dict.fromkeys([*spelt, *more])
    return [Candidate(text, base) for text in unique for base in wish.bases]


def _varied(text: str, wish: Wish) -> Iterator[str]:
    """A method with every rank (an adapter's width) and every placement that it can have."""
    name, settings = methods.parse(text)
    if name == "full":
        return
    bottlenecks = methods.of(name, settings).bottlenecks
    size, known = ("width", methods.BOTTLENECKS) if bottlenecks else ("rank", methods.PLACEMENTS)
    wrong = set(wish.placements) - methods.PLACEMENTS.keys() - methods.BOTTLENECKS.keys()
    if wrong:
        known_names = ", ".join((*methods.PLACEMENTS, *methods.BOTTLENECKS))
        raise GitpeftError(f"there is no placement {min(wrong)}", f"known are {known_names}")
    sizes: Iterable[dict[str, Any]] = [{size: rank} for rank in wish.ranks] or [{}]
    spots = [{"placement": spot} for spot in wish.placements if spot in known] or [{}]
    for one in sizes:
        for spot in spots:
            yield methods.spell(methods.of(name, {**settings, **one, **spot}))


def short_plan(found: Sequence[Candidate], seconds: float, pace: Pace, seeds: int) -> dict[str, Any]:
    """Who takes part in the short rung, with how many steps, so that the long rung fits as well.

    Settings beyond the defaults are left out, and so are repeated seeds, until `LEAST_STEPS` are affordable;
    what is left out is said. Where all would go on anyway, there is no short rung: its steps are 0.
    """
    chosen, left_out = list(found), list[str]()
    least = len({(one.name, one.base) for one in found})
    while True:
        finals_of_one = finalists_of(len(chosen), least)
        finals = finals_of_one * seeds
        shorts = len(chosen) if len(chosen) > finals_of_one else 0
        fixed = pace.around * (shorts + finals) + pace.finish * finals
        steps = int((seconds - fixed) * TRAINING_SHARE / pace.step / (shorts + LONG * finals))
        if steps >= LEAST_STEPS or (len(chosen) <= least and seeds == 1):
            break
        if seeds > 1:
            seeds -= 1
            left_out = [f"only {seeds} seed{'s' if seeds > 1 else ''} of those asked for"]
        else:
            gone = chosen.pop()
            left_out.append(gone.label)
    halves = finalists_of(len(chosen), least) < len(chosen)
    return {
        "candidates": [asdict(one) for one in chosen],
        "steps": max(LEAST_STEPS, steps) if halves else 0,
        "pace": asdict(pace),
        "seeds": seeds,
        "least": least,
        "left_out": left_out,
    }


def finalists_of(candidates: int, least: int) -> int:
    """How many go on to the long rung: half, and no fewer than there are methods."""
    return max(least, -(-candidates // 2) if candidates > least else candidates)


def promoted(results: Sequence[dict[str, Any]], least: int) -> list[dict[str, Any]]:
    """The results that go on: the best of each method and base, then the best of the others."""
    ranked = sorted(results, key=lambda one: one["valid_loss"])
    first: dict[tuple[str, str], dict[str, Any]] = {}
    for one in ranked:
        first.setdefault((one["name"], one["base"]), one)
    others = [one for one in ranked if one not in first.values()]
    room = finalists_of(len(results), least) - len(first)
    return sorted([*first.values(), *others[: max(0, room)]], key=lambda one: one["valid_loss"])


def long_steps(step_seconds: Sequence[float], seconds: float, seeds: int, short: int, pace: Pace) -> int:
    """Steps of every long run that fit into `seconds`; at least as many as the short runs had.

    `step_seconds` is what a step of each finalist costs.
    """
    fixed = (pace.around + pace.finish) * len(step_seconds) * seeds
    spare = (seconds - fixed) * TRAINING_SHARE
    return max(short, LEAST_STEPS, int(spare / max(sum(step_seconds) * seeds, 1e-9)))


def minutes_for(seconds: float, runs: int, pace: Pace) -> float:
    """How long the next of `runs` runs may train, so that all of them fit into `seconds`.

    More than a run takes at the pace that was planned with; it ends a run early, by the clock, on a machine
    that has become slower.
    """
    return max(1.0, seconds / max(1, runs) - pace.around - pace.finish) / 60
