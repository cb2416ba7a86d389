"""How to train, where a training stands, and what it cost: values that need no torch."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from typing import Any


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How to train. Training ends at `steps` or after `minutes`, whichever comes first; lr follows that end.

    `batch_tokens`: about how many source tokens (and 4 per target token) a batch holds. `lr`: peak rate of
    AdamW; `matrix_lr`: peak rate of Muon for hidden matrices, 0 leaves everything to AdamW. `source_limit`:
    sources are cut to this many tokens. `warmup`: share of the run. `decay`: share of the run, at its end,
    over which the rate falls to zero. `parts`: a batch is computed in so many parts, one after another, whose
    gradients add up (gradient accumulation): the same step in so much less memory. `pad`: lengths of sources
    are padded to a multiple of this; `compile`: the backend of `torch.compile` for encoder and decoder, ""
    for none (on a GPU: "inductor").
    """

    steps: int = 100_000
    minutes: float = 1e9
    batch_tokens: int = 12_000
    lr: float = 1e-3
    matrix_lr: float = 0.0
    warmup: float = 0.03
    decay: float = 0.9
    weight_decay: float = 0.0
    clip: float = 1.0
    source_limit: int = 512
    parts: int = 1
    pad: int = 16
    compile: str = ""
    seed: int = 0


@dataclass(slots=True)
class TrainingProgress:
    """Where a training stands: `loss` is nats a target token, smoothed; `done` is the share of the budget.

    `flops` are the floating-point operations that the real tokens so far needed (`flops.StepFlops`).
    `valid` is the validation loss where it was measured in this step; `note` is what a person should know,
    such as that memory ran out.
    """

    step: int
    done: float
    loss: float
    tokens: int
    seconds: float
    flops: float = 0.0
    valid: float | None = None
    note: str = ""


@dataclass(slots=True)
class TrainingCost:
    """What a training took. Sizes in bytes; `tokens` counts source and target tokens seen, `flops` what
    they needed in floating-point operations.

    `peak_memory` is resident memory, `allocated` and `reserved` are the device's (0 without a GPU), each the
    maximum during this training. `startup_seconds` is how much longer the first steps took than later ones
    (kernels are loaded, models compiled). `halved` counts how often memory ran out and the parts of a batch
    were halved, `parts` is their number at the end, `batch_tokens` what batches held; `skipped` counts steps
    whose loss or gradient was not finite. `curve` and `valid_curve` are (step, loss), `notes` what a person
    should know of it.
    """

    steps: int = 0
    tokens: int = 0
    examples: int = 0
    seconds: float = 0.0
    seconds_to_best: float = 0.0
    startup_seconds: float = 0.0
    trainable: int = 0
    parameters: int = 0
    peak_memory: int = 0
    flops: float = 0.0
    allocated: int = 0
    reserved: int = 0
    halved: int = 0
    skipped: int = 0
    parts: int = 0
    batch_tokens: int = 0
    device: str = "cpu"
    curve: list[tuple[int, float]] = field(default_factory=list)
    valid_curve: list[tuple[int, float]] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TrainingCost":
        """What `as_dict` gave; other keys are ignored."""
        return cls(**{one.name: data[one.name] for one in fields(cls) if one.name in data})

    def as_dict(self) -> dict[str, Any]:
        """For the manifest, with the trainable share of all weights and the tokens seen a second."""
        return asdict(self) | {"share": self.share, "tokens_per_second": round(self.tokens_per_second, 1)}

    @property
    def share(self) -> float:
        """The trainable share of all weights, 0..1."""
        return self.trainable / max(1, self.parameters)

    @property
    def tokens_per_second(self) -> float:
        """Source and target tokens seen a second."""
        return self.tokens / max(1e-9, self.seconds)

    @property
    def best_loss(self) -> float:
        """The lowest validation loss, in nats a label; NaN where none was measured."""
        return min((loss for _, loss in self.valid_curve), default=float("nan"))
