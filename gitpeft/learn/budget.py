"""Divides the minutes of `--budget` among the steps after mining.

What a step costs is known from the runs before (`Paces`, kept in the state directory), and assumed before the
first. Training gets what the others leave; each later step looks at the clock and takes what is left, the
newest commits first. A budget that allows for everything changes nothing.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gitpeft.files import write_json_cache
from gitpeft.learn.szz.szz import TraceLimit

PACES_FILE = "paces.json"

EXAMPLES, TRAINING, EXPORT = "examples", "training", "export"
SUGGESTION, TRACING, RISK = "suggestion", "tracing", "risk"
"""What is paced, in seconds: a commit prepared, an example trained on, an export, a suggestion, a commit
read for tracing, and a traced commit in the risk model."""

_ASSUMED = {EXAMPLES: 0.001, TRAINING: 0.05, EXPORT: 12.0, SUGGESTION: 0.1, TRACING: 0.01, RISK: 0.005}
_ASSUMED_CAUSAL = {TRAINING: 1.5, EXPORT: 40.0, SUGGESTION: 1.0}
"""Measured on two cores with history of 12,000 commits; `mini`, and what a causal base of 135 M takes."""

_EXAMPLES_SHARE, _EVALUATION_SHARE, _RISK_SHARE, _LEAST_TRAINING_SHARE = 0.25, 0.3, 0.3, 0.3
"""The largest shares of the budget for the steps, and the smallest for training."""

_TRACING_SHARE = 0.8
_ENCODER_COMMITS, _ENCODER_COST = 2500, 0.1
"""Commits that a risk encoder scores at most, and what one costs beside a suggestion."""

_LEAST_PREPARED, _LEAST_EVALUATED = 2000, 30
_RESERVE_SECONDS = 3.0  # the bundle is written, and hooks installed
_NEW_WEIGHT = 0.5  # of a measurement, beside what was measured before


class Paces:
    """Seconds for one unit of each step, by base where that matters; kept between runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read_paces(path)

    def get(self, step: str, base: str = "", *, causal: bool = False) -> float:
        """What was measured, or else assumed."""
        assumed = _ASSUMED_CAUSAL.get(step) if causal else None
        return self._known.get(_name_pace(step, base), assumed or _ASSUMED[step])

    def observe(self, step: str, seconds: float, units: int, base: str = "") -> None:
        """Note what some units took, and keep it."""
        if units < 1 or seconds <= 0:
            return
        name, found = _name_pace(step, base), seconds / units
        before = self._known.get(name, found)
        self._known[name] = _NEW_WEIGHT * found + (1 - _NEW_WEIGHT) * before
        write_json_cache(self._path, self._known)


def _name_pace(step: str, base: str) -> str:
    return f"{step}/{base}" if base else step


def _read_paces(path: Path) -> dict[str, float]:
    """The paces in a file, {} where it is missing or damaged."""
    try:
        known = json.loads(path.read_bytes())
        return {str(name): float(pace) for name, pace in known.items() if 0 < float(pace) < math.inf}
    except (OSError, ValueError, TypeError, AttributeError):
        return {}


@dataclass(frozen=True, slots=True)
class BudgetedBase:
    """A base by name, whether it is a causal model, and how many variants of it validation compares."""

    name: str
    causal: bool = False
    variants: int = 3


@dataclass(frozen=True, slots=True)
class BudgetReport:
    """What a run was given and took, what it left out, and the minutes that would take all (0: these do)."""

    minutes: float
    seconds: float
    left_out: tuple[str, ...] = ()
    enough: int = 0


@dataclass(slots=True)
class RunBudget:
    """The clock of one run: `minutes` from `started` on, after mining."""

    minutes: float
    paces: Paces
    clock: Callable[[], float] = time.monotonic
    started: float = field(init=False)
    _left_out: dict[str, str] = field(default_factory=dict)
    _needed: dict[str, float] = field(default_factory=dict)

    def __post_init__(self) -> None:
        self.started = self.clock()

    @classmethod
    def start(cls, state_dir: Path, minutes: float) -> "RunBudget":
        """A budget that begins to be spent now."""
        return cls(minutes, Paces(state_dir / PACES_FILE))

    @property
    def seconds(self) -> float:
        """All of it."""
        return 60 * self.minutes

    @property
    def spent(self) -> float:
        """Seconds since the start."""
        return self.clock() - self.started

    @property
    def left(self) -> float:
        """Seconds that are left for further steps."""
        return self.seconds - self.spent - _RESERVE_SECONDS

    @contextmanager
    def measure(self, step: str, units: Callable[[], int], base: str = "") -> Iterator[None]:
        """Measure the pace of a step."""
        start = self.clock()
        yield
        self.paces.observe(step, self.clock() - start, units(), base)

    # --- the share of each step -----------------------------------------------------------------------------

    def limit_examples(self, commits: int) -> int:
        """How many of the newest commits become examples."""
        pace = self.paces.get(EXAMPLES)
        self._needed[EXAMPLES] = commits * pace
        fitting = max(_LEAST_PREPARED, int(_EXAMPLES_SHARE * self.seconds / pace))
        if fitting < commits:
            self.note_left_out(EXAMPLES, f"examples of the newest {fitting:,} of {commits:,} commits")
        return min(commits, fitting)

    def plan_training(self, base: BudgetedBase, commits: int, evaluated: int) -> float:
        """Minutes for training, beside `evaluated` commits a variant and a risk model of `commits`."""
        export = self.paces.get(EXPORT, base.name, causal=base.causal)
        evaluation = self._estimate_evaluation(base, evaluated)
        risk = commits * (self.paces.get(TRACING) + self.paces.get(RISK))
        self._needed |= {EXPORT: export, SUGGESTION: evaluation, RISK: risk}
        others = min(evaluation, _EVALUATION_SHARE * self.seconds) + min(risk, _RISK_SHARE * self.seconds)
        return max(self.left - export - others, _LEAST_TRAINING_SHARE * self.seconds) / 60

    def _estimate_evaluation(self, base: BudgetedBase, evaluated: int) -> float:
        """Seconds for all variants on validation, and for the test."""
        suggestion = self.paces.get(SUGGESTION, base.name, causal=base.causal)
        return suggestion * evaluated * (base.variants + 1)

    def limit_validation(self, base: BudgetedBase, wanted: int) -> int:
        """How many validation commits each variant is asked about."""
        share = min(self.left, _EVALUATION_SHARE * self.seconds)
        return self._limit_evaluation(base, wanted, share / (base.variants + 1), "validation commits")

    def limit_test(self, base: BudgetedBase, wanted: int, models: int = 1) -> int:
        """How many test commits are measured."""
        return self._limit_evaluation(base, wanted, self.left / models, "test commits")

    def _limit_evaluation(self, base: BudgetedBase, wanted: int, seconds: float, what: str) -> int:
        pace = self.paces.get(SUGGESTION, base.name, causal=base.causal)
        fitting = max(_LEAST_EVALUATED, int(seconds / pace))
        if fitting < wanted:
            self.note_left_out(what, f"{fitting} of {wanted} {what}")
        return min(wanted, fitting)

    def limit_tracing(self) -> TraceLimit:
        """What is left for the risk model, with a part of it for what comes after."""
        return TraceLimit(max(0.0, _TRACING_SHARE * self.left), self.paces.get(RISK))

    def allows_encoder(self, minutes: float, base: BudgetedBase) -> bool:
        """Whether there is time for a risk encoder that is trained for `minutes` and asked about commits."""
        asked = _ENCODER_COMMITS * _ENCODER_COST * self.paces.get(SUGGESTION, base.name, causal=base.causal)
        return 60 * minutes + asked <= self.left

    # --- what was left out ----------------------------------------------------------------------------------

    def note_left_out(self, step: str, what: str) -> None:
        """Note what a step had no time for."""
        self._left_out[step] = what

    def note_training(self, seconds_for_all: float) -> None:
        """Note what one pass over all examples would take."""
        self._needed[TRAINING] = seconds_for_all

    def report(self) -> BudgetReport:
        """What was left out, for people."""
        enough = math.ceil(1.1 * sum(self._needed.values()) / 60) if self._left_out else 0
        more = max(enough, math.floor(self.minutes) + 1) if enough else 0
        return BudgetReport(self.minutes, round(self.spent, 1), tuple(self._left_out.values()), more)
