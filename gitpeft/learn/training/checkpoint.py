"""Checkpoints: a training that was interrupted continues with its weights, optimiser and position.

One safetensors file, replaced in one rename: tensors `w.NAME` (the trainable weights now), `b.NAME` (those of
the best validation loss), `o.NUMBER.PARAMETER.MOMENT` (an optimiser's state), and the position as JSON in the
file's metadata.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor, nn

from gitpeft.learn.training.checkpoint_writer import CheckpointWriter, TensorFile
from gitpeft.learn.training.settings import TrainingCost

CHECKPOINT_FILE = "checkpoint.safetensors"
_METADATA_KEY = "position"

_STORED_COSTS = (
    *("tokens", "examples", "flops", "seconds_to_best", "curve", "valid_curve"),
    *("halved", "batch_tokens", "parts", "skipped", "notes"),
)
"""The fields of the cost that a checkpoint stores; the others are measured anew."""


@dataclass(frozen=True, slots=True)
class BestWeights:
    """The lowest validation loss so far and the trainable weights that had it, by name."""

    loss: float
    weights: Mapping[str, Tensor]


@dataclass(frozen=True, slots=True)
class TrainingPosition:
    """Where a training stands: steps, smoothed loss, seconds so far, cost so far, best weights so far.

    `checked` are the validation examples that the loss is measured on, None before the first time.
    """

    step: int = 0
    loss: float | None = None
    seconds: float = 0.0
    cost: TrainingCost = field(default_factory=TrainingCost)
    best: BestWeights | None = None
    checked: list[int] | None = None


def copy_trainable_weights(model: nn.Module) -> dict[str, Tensor]:
    """A copy of every parameter that requires gradients, by name."""
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def save_checkpoint(
    folder: Path,
    model: nn.Module,
    optimisers: Sequence[torch.optim.Optimizer],
    position: TrainingPosition,
    writer: CheckpointWriter,
) -> None:
    """Let the writer put the checkpoint into `folder`, replacing an earlier one."""
    tensors = {f"w.{name}": p.detach() for name, p in model.named_parameters() if p.requires_grad}
    tensors |= {
        f"b.{name}": tensor for name, tensor in (position.best.weights if position.best else {}).items()
    }
    for number, optimiser in enumerate(optimisers):
        for key, moments in optimiser.state_dict()["state"].items():
            for name, value in moments.items():
                tensors[f"o.{number}.{key}.{name}"] = torch.as_tensor(value)
    stored = {
        "step": position.step,
        "loss": position.loss,
        "seconds": position.seconds,
        "checked": position.checked,
        **({"best": position.best.loss} if position.best else {}),
        **{name: getattr(position.cost, name) for name in _STORED_COSTS},
    }
    writer.write([TensorFile(folder / CHECKPOINT_FILE, tensors, {_METADATA_KEY: json.dumps(stored)})])


def load_checkpoint(
    folder: Path | None, model: nn.Module, optimisers: Sequence[torch.optim.Optimizer]
) -> TrainingPosition:
    """Load the checkpoint in `folder` into model and optimisers; the start of a training if there is none."""
    path = folder / CHECKPOINT_FILE if folder else None
    if path is None or not path.exists():
        return TrainingPosition()
    from safetensors import safe_open

    moments: dict[int, dict[int, dict[str, Tensor]]] = {}
    weights: dict[str, dict[str, Tensor]] = {"w": {}, "b": {}}
    with safe_open(path, "pt") as stored:
        found = json.loads(stored.metadata()[_METADATA_KEY])
        for name in stored.keys():  # noqa: SIM118 - not a dict
            kind, _, rest = name.partition(".")
            if kind in weights:
                weights[kind][rest] = stored.get_tensor(name)
            else:
                number, key, moment = rest.split(".")
                moments.setdefault(int(number), {}).setdefault(int(key), {})[moment] = stored.get_tensor(name)
    model.load_state_dict(weights["w"], strict=False)
    for number, optimiser in enumerate(optimisers):
        groups = optimiser.state_dict()["param_groups"]
        optimiser.load_state_dict({"state": moments.get(number, {}), "param_groups": groups})
    best = BestWeights(found["best"], weights["b"]) if "best" in found else None
    cost = TrainingCost.from_dict(found)
    return TrainingPosition(found["step"], found["loss"], found["seconds"], cost, best, found.get("checked"))
