"""Divides the minutes of `--budget` among the steps after mining.

What a step costs is known from the runs before (`Paces`, kept in the state directory), and assumed before the
first. The risk model comes before training, so that what it took need not be guessed; training gets what the
later steps leave. Each step looks at the clock and takes what is left, the newest commits first. A budget
that allows for everything changes nothing.
"""

import json
import math
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from gitpeft.files import write_json_cache
from gitpeft.learn.evaluation.trial import TrialLimit
from gitpeft.learn.szz.szz import LEAST_TRACED_COMMITS, TraceLimit

PACES_FILE = "paces.json"

EXAMPLES, TRAINING, EXPORT = "examples", "training", "export"
SUGGESTION, TRACING, MEASURING, RISK = "suggestion", "tracing", "measuring", "risk"
OWN_ADAPTER, SHARED_ADAPTER = "own adapter", "shared adapter"
"""What is paced, in seconds: a commit prepared, an example trained on, an export, a suggestion, a commit
read for tracing, a commit of the whole history whose metrics are replayed, and a traced commit in the risk
model; one of several repositories with the least training of its own, and with an adapter that is there."""

_ASSUMED = {
    EXAMPLES: 0.001,
    TRAINING: 0.05,
    EXPORT: 12.0,
    SUGGESTION: 0.1,
    TRACING: 0.01,
    MEASURING: 0.0001,
    RISK: 0.008,
    OWN_ADAPTER: 30.0,
    SHARED_ADAPTER: 3.0,
}
_ASSUMED_CAUSAL = {TRAINING: 0.5, EXPORT: 25.0, SUGGESTION: 0.7, OWN_ADAPTER: 90.0, SHARED_ADAPTER: 10.0}
"""Measured on two cores with history of 12,000 commits; `mini`, and what a causal base of 135 M takes. The
two for one of several repositories are estimated from the others."""

_EXAMPLES_SHARE, _EVALUATION_SHARE, _LEAST_TRAINING_SHARE = 0.25, 0.2, 0.3
"""The largest shares of the budget for the steps, and the smallest for training."""

RISK_SHARE = 0.15
"""The share of the budget for a risk model that comes before training (its encoder not counted), and for one
that comes last where less is left."""

_ENCODER_COMMITS, _ENCODER_COST = 2500, 0.1
"""Commits that a risk encoder scores at most, and what one costs beside a suggestion."""

_LEAST_PREPARED, _LEAST_EVALUATED, _LEAST_TRACED = 2000, 20, 500
_COUNT_PREFIX, _KEPT_COUNTS = "count ", 8
_RESERVE_SECONDS = 3.0  # the bundle is written, and hooks installed
_NEW_WEIGHT = 0.5  # of a measurement, beside what was measured before
_MAX_SLOWNESS, _LEAST_MEASURED = 20.0, 500  # by how much a machine can be slower; commits that show it


class Paces:
    """Seconds for one unit of each step, by base where that matters; kept between runs."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._known = _read_paces(path)
        self._slowness = 1.0

    def get(self, step: str, base: str = "", *, causal: bool = False) -> float:
        """What was measured, or else assumed, for a machine as slow as the first step showed."""
        assumed = _ASSUMED_CAUSAL.get(step) if causal else None
        return self._known.get(_name_pace(step, base), self._slowness * (assumed or _ASSUMED[step]))

    def observe(self, step: str, seconds: float, units: int, base: str = "") -> None:
        """Note what some units took, and keep it."""
        if units < 1 or seconds <= 0:
            return
        name, found = _name_pace(step, base), seconds / units
        if step == EXAMPLES and units >= _LEAST_MEASURED:
            self._slowness = min(_MAX_SLOWNESS, max(1.0, found / _ASSUMED[EXAMPLES]))
        before = self._known.get(name, found)
        self._known[name] = _NEW_WEIGHT * found + (1 - _NEW_WEIGHT) * before
        write_json_cache(self._path, self._known)

    def recall_count(self, name: str) -> int:
        """The count under a name, 0 for none."""
        return int(self._known.get(_COUNT_PREFIX + name, 0))

    def remember_count(self, name: str, count: int) -> None:
        """Keep a count under a name; the last few are kept."""
        others = {known: value for known, value in self._known.items() if known != _COUNT_PREFIX + name}
        for old in [known for known in others if known.startswith(_COUNT_PREFIX)][: 1 - _KEPT_COUNTS]:
            del others[old]
        self._known = others | {_COUNT_PREFIX + name: float(count)}
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
    _settled: bool = False
    _examples_begun: float = 0.0

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

    def limit_examples(self, commits: int, tip: str = "") -> int:
        """How many of the newest commits become examples: as many as in the last run up to the same `tip`.

        So a run that was killed, or is repeated, finds its results again.
        """
        self._needed[EXAMPLES] = commits * self.paces.get(EXAMPLES)
        self._examples_begun = self.spent
        known, fitting = self._count_fitting_examples(tip)
        self._settled = 0 < known <= commits
        return self._note_older(known if self._settled else min(commits, fitting), commits)

    def bound_examples(self, tip: str = "") -> int:
        """How many commits become examples at the most, however many there are."""
        return max(self._count_fitting_examples(tip))

    def _count_fitting_examples(self, tip: str) -> tuple[int, int]:
        """How many were prepared in the last run up to the same `tip`, 0 without one, and how many fit."""
        fitting = max(_LEAST_PREPARED, int(_EXAMPLES_SHARE * self.seconds / self.paces.get(EXAMPLES)))
        return self.paces.recall_count(self._name_examples(tip)), fitting

    def observe_examples(self, prepared: int) -> None:
        """Note what examples took from the moment on at which it was asked how many there may be."""
        self.paces.observe(EXAMPLES, self.spent - self._examples_begun, prepared)

    def note_examples(self, prepared: int, commits: int, tip: str = "") -> int:
        """Remember how many examples were prepared, and note it where not all commits became some."""
        self.paces.remember_count(self._name_examples(tip), prepared)
        return self._note_older(prepared, commits)

    def _note_older(self, prepared: int, commits: int) -> int:
        if prepared < commits:
            self.note_left_out(EXAMPLES, f"examples of the newest {prepared:,} of {commits:,} commits")
        return prepared

    def _name_examples(self, tip: str) -> str:
        return f"{tip} {self.minutes:g}"

    def has_enough_examples(self, prepared: int) -> bool:
        """Whether the time for examples is spent, of which so many are prepared."""
        if self._settled or prepared < _LEAST_PREPARED:
            return False
        share = _EXAMPLES_SHARE * self.seconds
        return self.spent >= max(share, self._examples_begun + share / 2)

    def limit_tracing(self, commits: int, share: float = 1.0) -> TraceLimit:
        """How much of a history of `commits` is traced, in what is left or in a share of the whole budget."""
        pace, tracing = self.paces.get(RISK), self.paces.get(TRACING)
        measuring = commits * self.paces.get(MEASURING)
        self._needed[RISK] = commits * (pace + tracing) + measuring
        left = min(self.left, share * self.seconds)
        affordable = max(left, RISK_SHARE * self.seconds) / (pace + tracing)
        least = max(_LEAST_TRACED, min(LEAST_TRACED_COMMITS, int(affordable)))
        return TraceLimit(max(0.0, left - measuring), pace, least)

    def keep_for_messages(self, base: BudgetedBase, evaluated: int) -> float:
        """Seconds for training at the least, export, and `evaluated` commits a variant and in the test."""
        return _LEAST_TRAINING_SHARE * self.seconds + self._keep_behind_training(base, evaluated)

    def _keep_behind_training(self, base: BudgetedBase, evaluated: int) -> float:
        export = self.paces.get(EXPORT, base.name, causal=base.causal)
        evaluation = self.paces.get(SUGGESTION, base.name, causal=base.causal) * evaluated
        evaluation *= base.variants + 1
        self._needed |= {EXPORT: export, SUGGESTION: evaluation}
        return export + min(evaluation, _EVALUATION_SHARE * self.seconds)

    def plan_training(self, base: BudgetedBase, evaluated: int) -> float:
        """Minutes for training, beside what `keep_for_messages` has for the steps behind it."""
        rest = self.left - self._keep_behind_training(base, evaluated)
        return max(rest, _LEAST_TRAINING_SHARE * self.seconds) / 60

    def limit_validation(self, base: BudgetedBase, wanted: int) -> TrialLimit:
        """The time of each variant on validation, as much as there will be for the test."""
        return TrialLimit(wanted, max(0.0, self.left) / (base.variants + 1), _LEAST_EVALUATED)

    def allows_variant(self, base: BudgetedBase, asked: int) -> bool:
        """Whether there is time to export another variant, ask it about so many commits, and test one."""
        export = self.paces.get(EXPORT, base.name, causal=base.causal)
        suggestions = 2 * asked * self.paces.get(SUGGESTION, base.name, causal=base.causal)
        return export + suggestions <= self.left

    def limit_test(self, wanted: int) -> TrialLimit:
        """The time of the test on the newest commits: all that is left."""
        return TrialLimit(wanted, max(0.0, self.left), _LEAST_EVALUATED)

    def count_compared(self, base: BudgetedBase, wanted: int) -> int:
        """On how many commits two models can be compared, by what a suggestion takes."""
        fitting = int(self.left / 2 / self.paces.get(SUGGESTION, base.name, causal=base.causal))
        return self.note_evaluated("test commits", min(wanted, max(_LEAST_EVALUATED, fitting)), wanted)

    def note_evaluated(self, what: str, count: int, wanted: int) -> int:
        """Note it where fewer commits than wanted were asked about; their number."""
        if count < wanted:
            self.note_left_out(what, f"{count} of {wanted} {what}")
        return count

    def allows_encoder(self, minutes: float, base: BudgetedBase, kept: float) -> bool:
        """Whether there is time for a risk encoder that is trained for `minutes` and asked about commits,
        beside the risk model without it and `kept` seconds for other steps."""
        asked = _ENCODER_COMMITS * _ENCODER_COST * self.paces.get(SUGGESTION, base.name, causal=base.causal)
        return 60 * minutes + asked <= self.left - kept - RISK_SHARE * self.seconds

    def estimate_own_adapter(self, base: BudgetedBase) -> float:
        """Seconds for one of several repositories with the least training of its own."""
        return self.paces.get(OWN_ADAPTER, base.name, causal=base.causal)

    def estimate_shared_adapter(self, base: BudgetedBase) -> float:
        """Seconds for one of several repositories with an adapter that is there."""
        return self.paces.get(SHARED_ADAPTER, base.name, causal=base.causal)

    # --- what was left out ----------------------------------------------------------------------------------

    def note_left_out(self, step: str, what: str) -> None:
        """Note what a step had no time for."""
        self._left_out[step] = what

    def note_training(self, seconds_for_all: float) -> None:
        """Note what one pass over all examples would take."""
        self.note_needed(TRAINING, seconds_for_all)

    def note_needed(self, step: str, seconds: float) -> None:
        """Note what all of a step would take."""
        self._needed[step] = seconds

    def report(self) -> BudgetReport:
        """What was left out, for people."""
        enough = math.ceil(1.1 * sum(self._needed.values()) / 60) if self._left_out else 0
        more = max(enough, math.floor(self.minutes) + 1) if enough else 0
        return BudgetReport(self.minutes, round(self.spent, 1), tuple(self._left_out.values()), more)
