"""The results of single runs as typed values, and how values become the JSON that is stored and printed."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, fields, is_dataclass
from pathlib import Path
from typing import Any

from gitpeft.learn.evaluation.text_metrics import ConfidenceInterval
from gitpeft.learn.training.finetune import MESSAGE_TASK

Answer = str | float
Answers = Sequence[Answer]
"""What a run answered for each commit: a message, or a probability."""

LayerAccuracies = dict[str, list[dict[str, float]]]
"""By probing task and layer, the accuracy (0 to 1) for each commit."""


class Difference(ConfidenceInterval):
    """A paired difference with its 95 % interval; in JSON it also says whether it is `clear` of zero."""

    __slots__ = ()


@dataclass(frozen=True, slots=True)
class RunCandidate:
    """The task, method, base and seed of a run; the method as `methods.format_method` writes it."""

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
        """The method, and the base where it is not the embedded one."""
        return self.method if self.base == "mini" else f"{self.method} on {Path(self.base).name}"


@dataclass(frozen=True, slots=True)
class ComparisonCost:
    """What a run took. Memory and files in bytes, times in seconds, `answer_ms` milliseconds a commit.

    `share` of the weights is `trainable`; `reserved` is the memory of a GPU, 0 without one; `halved` counts
    how often memory ran out and batches were divided further.
    """

    share: float = 0.0
    trainable: float = 0.0
    peak_memory: float = 0.0
    reserved: float = 0.0
    seconds: float = 0.0
    seconds_to_best: float = 0.0
    startup_seconds: float = 0.0
    tokens_per_second: float = 0.0
    adapter_bytes: float = 0.0
    exported_bytes: float = 0.0
    answer_ms: float = 0.0
    halved: float = 0.0
    device: str = "cpu"

    @property
    def memory(self) -> float:
        """Peak memory in bytes: of the GPU where there is one."""
        return max(self.reserved or self.peak_memory, 1)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ComparisonCost":
        """Those of the values that a comparison reports."""
        return cls(**{one.name: data[one.name] for one in fields(cls) if one.name in data})

    @classmethod
    def average(cls, costs: Sequence["ComparisonCost"]) -> "ComparisonCost":
        """The mean of each cost over several runs."""
        names = [one.name for one in fields(cls) if one.name != "device"]
        means = {name: sum(getattr(cost, name) for cost in costs) / len(costs) for name in names}
        return cls(**means, device=costs[0].device)

    def as_dict(self) -> dict[str, object]:
        """Plain values, with `memory`."""
        return encode_fields(self) | {"memory": self.memory}


@dataclass(frozen=True, slots=True)
class TrainedRun:
    """A training that ended: steps, the seconds they took, the best validation loss (nats a token), and what
    a person should know of it."""

    steps: int
    seconds: float
    valid_loss: float
    cost: ComparisonCost
    notes: Sequence[str] = ()

    @classmethod
    def from_training(cls, cost: Mapping[str, Any]) -> "TrainedRun":
        """From the costs that a training wrote."""
        best = min(loss for _, loss in cost["valid_curve"])
        notes = tuple(cost.get("notes", ()))
        return cls(cost["steps"], cost["seconds"], best, ComparisonCost.from_dict(cost), notes)


@dataclass(frozen=True, slots=True)
class RunOutput:
    """What an exported run answered, the milliseconds an answer took, bytes of its files, and its parity."""

    answers: Answers
    answer_ms: float
    exported_bytes: float = 0.0
    parity: Mapping[str, object] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class RunResult:
    """A finished run. Short runs are not exported: they have no answers.

    `around_seconds` is the training with loading and validation, `step_seconds` a step, `seconds` everything;
    `notes` are what a person should know, such as that a GPU had too little memory.
    """

    candidate: RunCandidate
    method: Mapping[str, object]
    steps: int
    valid_loss: float
    step_seconds: float
    around_seconds: float
    cost: ComparisonCost
    seconds: float = 0.0
    answers: Answers = ()
    parity: Mapping[str, object] = field(default_factory=dict)
    probes: LayerAccuracies = field(default_factory=dict)
    notes: Sequence[str] = ()

    @property
    def label(self) -> str:
        """The method, and the base where it is not the embedded one."""
        return self.candidate.label

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RunResult":
        """A stored result; KeyError or TypeError where it is not one."""
        known = {one.name: data[one.name] for one in fields(cls) if one.name in data}
        return cls(
            **known
            | {"candidate": RunCandidate(**data["candidate"]), "cost": ComparisonCost.from_dict(data["cost"])}
        )

    def as_dict(self) -> dict[str, object]:
        """Plain values, as they are stored."""
        one = self.candidate
        return encode_fields(self) | {"label": one.label, "name": one.name, "base": one.base}


# --- JSON ---------------------------------------------------------------------------------------------------

_OMITTED_WITHOUT_VALUE = frozenset({"against_full", "within", "gap", "page"})
_OMITTED_WHEN_EMPTY = frozenset({"answers", "probes", "notes"})


def to_plain(value: object) -> object:
    """Any value of a report as JSON knows it."""
    if isinstance(value, ConfidenceInterval):
        return encode_interval(value)
    if is_dataclass(value):
        encode = getattr(value, "as_dict", None)
        return encode() if encode else encode_fields(value)
    if isinstance(value, Mapping):
        return {key: to_plain(one) for key, one in value.items()}
    if isinstance(value, list | tuple):
        return [to_plain(one) for one in value]
    return value


def encode_interval(value: ConfidenceInterval) -> dict[str, object]:
    """Mean and ends of an interval; of a difference also whether it is `clear` of zero."""
    return value._asdict() | ({"clear": value.excludes_zero} if isinstance(value, Difference) else {})


def encode_fields(value: Any) -> dict[str, object]:
    """The fields of a dataclass as plain values, without optional ones that have no value."""
    found: dict[str, object] = {}
    for one in fields(value):
        content = getattr(value, one.name)
        if one.name in _OMITTED_WITHOUT_VALUE and not content:
            continue
        if one.name in _OMITTED_WHEN_EMPTY and not len(content):
            continue
        found[one.name] = to_plain(content)
    return found
