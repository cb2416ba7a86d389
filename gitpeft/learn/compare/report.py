"""The report of a comparison as typed values; `as_dict` gives the JSON that scripts read."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields
from typing import Any

from gitpeft.learn.compare.results import (
    Answer,
    ComparisonCost,
    Difference,
    encode_fields,
    encode_interval,
    to_plain,
)
from gitpeft.learn.evaluation.text_metrics import ConfidenceInterval


@dataclass(frozen=True, slots=True)
class MetricInfo:
    """The main metric of a task (`key`, `name`, decimals) and the names of `all` its metrics by key."""

    key: str
    name: str
    digits: int
    all: Mapping[str, str]


@dataclass(frozen=True, slots=True)
class SystemScores:
    """Every metric of a system on `n` commits, with 95 % intervals."""

    n: int
    metrics: Mapping[str, ConfidenceInterval]

    def as_dict(self) -> dict[str, object]:
        """`{"n": …, metric: {"mean", "low", "high"}}`."""
        return {"n": self.n} | {name: to_plain(one) for name, one in self.metrics.items()}


@dataclass(frozen=True, slots=True)
class Finalist:
    """A setting that had long runs: its scores and mean costs over its seeds.

    `against_best` and `against_full` are paired differences of the main metric; `front` says for each cost
    axis whether it lies on the Pareto front.
    """

    label: str
    name: str
    base: str
    spelt: str
    method: Mapping[str, object]
    steps: int
    seeds: Sequence[int]
    by_seed: Sequence[float]
    valid_loss: float
    scores: SystemScores
    cost: ComparisonCost
    parity: Mapping[str, object]
    against_best: Difference
    against_full: Difference | None = None
    front: Mapping[str, bool] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Baseline:
    """A system that costs no training."""

    label: str
    scores: SystemScores


@dataclass(frozen=True, slots=True)
class Sample:
    """A commit, what the team wrote (or what became of it), and the answer of each system."""

    sha: str
    team: str
    offers: Mapping[str, Answer]


@dataclass(frozen=True, slots=True)
class ShortRun:
    """A short run, and whether its setting went on to a long one."""

    label: str
    valid_loss: float
    steps: int
    promoted: bool


@dataclass(frozen=True, slots=True)
class RungSteps:
    """Steps of short runs (0 without any) and of long ones."""

    short: int
    long: int


@dataclass(frozen=True, slots=True)
class TuningGain:
    """With `size` training commits: the best tuned system, the best baseline, and the paired difference."""

    size: int
    best: str
    over: str
    gap: Difference

    def as_dict(self) -> dict[str, object]:
        """Plain values, those of the difference among them."""
        plain = {"size": self.size, "best": self.best, "over": self.over}
        return plain | encode_interval(self.gap)


@dataclass(frozen=True, slots=True)
class LowResource:
    """Scores by system for each number of training commits (None where it was not run), and gains."""

    sizes: Sequence[int]
    systems: Mapping[str, Sequence[ConfidenceInterval | None]]
    gains: Sequence[TuningGain]


@dataclass(frozen=True, slots=True)
class TransferRow:
    """A system trained on one language, and, where time allowed, on as many commits of the other."""

    label: str
    baseline: bool
    across: ConfidenceInterval
    within: ConfidenceInterval | None = None
    gap: Difference | None = None


@dataclass(frozen=True, slots=True)
class TransferTable:
    """Trained on `examples` commits in the language `taught`, evaluated on `n` in the language `asked`."""

    taught: str
    asked: str
    examples: int
    n: int
    rows: Sequence[TransferRow]


@dataclass(frozen=True, slots=True)
class ProbeSummary:
    """Accuracies (per cent) of a probing task by layer: of the base, of each tuned method, and the change at
    the last layer."""

    commits: int
    untuned: Sequence[ConfidenceInterval]
    tuned: Mapping[str, Sequence[ConfidenceInterval]]
    change: Mapping[str, Difference]


@dataclass(frozen=True, slots=True)
class Advice:
    """What to do after a comparison: one verdict, one reason, one command; `words` has all sentences.

    `method` and `base` are what `--method auto` takes: the adopted ones, or the default. `label` is the
    finalist that the figures are about. `winner` is set where one method is clearly the best.
    """

    task: str
    method: str
    base: str
    winner: str | None = None
    tip: str = ""
    words: Sequence[str] = ()
    adopt: bool = True
    label: str = ""
    command: str = ""

    @property
    def verdict(self) -> str:
        """The first sentence."""
        return self.words[0]

    @property
    def reason(self) -> str:
        """The second sentence."""
        return self.words[1]

    @property
    def details(self) -> Sequence[str]:
        """What else was measured."""
        return self.words[2:]

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "Advice":
        """Stored advice, also of versions that stored less."""
        return cls(**{one.name: data[one.name] for one in fields(cls) if one.name in data})


@dataclass(frozen=True, slots=True)
class TaskFacts:
    """How a task was compared, before anything is scored.

    `commits` are all usable ones, `taught` those trained on. `least_steps` are the steps that advice needs;
    `next_minutes` is a budget that allows for them, 0 where it is enough already. `notes` say what happened
    meanwhile, such as that a GPU had too little memory.
    """

    task: str
    repository: str
    tip: str
    commits: int
    taught: int
    budget_minutes: float
    device: str
    steps: RungSteps
    seeds: int
    left_out: Sequence[str] = ()
    short: Sequence[ShortRun] = ()
    probes: Mapping[str, Mapping[str, ProbeSummary]] = field(default_factory=dict)
    low: LowResource | None = None
    transfer: Sequence[TransferTable] = ()
    least_steps: int = 0
    next_minutes: int = 0
    seconds: float = 0.0
    notes: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class TaskReport:
    """Everything that the page, the terminal and scripts show of one task."""

    facts: TaskFacts
    metric: MetricInfo
    asked: int
    finalists: Sequence[Finalist]
    baselines: Sequence[Baseline]
    samples: Sequence[Sample]
    advice: Advice

    def get_score(self, system: Finalist | Baseline) -> ConfidenceInterval:
        """A system's main metric."""
        return system.scores.metrics[self.metric.key]

    def as_dict(self) -> dict[str, object]:
        """Plain values, the facts among them."""
        plain = encode_fields(self)
        del plain["facts"]
        return encode_fields(self.facts) | plain


@dataclass(frozen=True, slots=True)
class ComparisonReport:
    """The reports of all tasks of a comparison. `page` is the path of the HTML page.

    `left_out` says why a task has none.
    """

    repository: str
    tip: str
    commits: int
    device: str
    budget_minutes: float
    seconds: float
    left_out: Sequence[str]
    tasks: Sequence[TaskReport]
    page: str = ""

    def as_dict(self) -> dict[str, object]:
        """Plain values."""
        return encode_fields(self)
