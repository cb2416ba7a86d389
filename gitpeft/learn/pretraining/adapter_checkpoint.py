"""The files of an adapter's run: what is in a checkpoint, in which types, and by which names.

`state.safetensors` has everything that the next step depends on, `adapter_model.safetensors` the running
average in bfloat16, for use; the position is in the metadata of both.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from gitpeft.learn.training.checkpoint_writer import TensorFile

STATE_FILE, ADAPTER_FILE, LOG_FILE = "state.safetensors", "adapter_model.safetensors", "log.jsonl"
NOTE_KEY = "note"


@dataclass(slots=True)
class AdapterPosition:
    """Where a run stands: the next pair, the one it began with (after a new warm-up), steps, and seconds."""

    place: int = 0
    begun: int = 0
    steps: int = 0
    seconds: float = 0.0


def make_note(note: str) -> dict[str, str]:
    """The metadata of a checkpoint's file."""
    return {"format": "pt", NOTE_KEY: note}


def narrow_checkpoint(folder: Path, out: Path) -> None:
    """A copy of the checkpoint in `folder`, in bfloat16, from which a run goes on all the same."""
    tensors = {name: one.to(torch.bfloat16) for name, one in load_file(folder / STATE_FILE).items()}
    with safe_open(folder / STATE_FILE, "pt") as file:
        note = file.metadata()[NOTE_KEY]
    out.mkdir(parents=True, exist_ok=True)
    TensorFile(out / STATE_FILE, tensors, make_note(note)).write()


def shorten_name(name: str) -> str:
    """A weight's name in PEFT's files, which leave out the name of the adapter."""
    return name.replace(".default.", ".")


def read_position(path: Path) -> AdapterPosition:
    """The position that a file of a checkpoint was written at."""
    with safe_open(path, "pt") as file:
        note = json.loads(file.metadata()[NOTE_KEY])
    known = ("place", "begun", "steps", "seconds")
    return AdapterPosition(**{name: note[name] for name in known if name in note})


def name_numbered_state(state: Mapping[str, Tensor], names: Sequence[str]) -> Mapping[str, Tensor]:
    """A checkpoint of the first version of these scripts, in today's names.

    It numbered the weights, and had the first matrices of those that read the same input in one.
    """
    if "0.weight" not in state:
        return state
    groups = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
    layers = sorted({name.split(".layers.")[1].split(".")[0] for name in names}, key=int)
    found: dict[str, Tensor] = {}
    number = 0
    for layer in layers:
        for group in groups:
            pairs = [
                [
                    next(n for n in names if f".layers.{layer}." in n and f".{part}.lora_{side}." in n)
                    for part in group
                ]
                for side in "AB"
            ]
            for kind in ("weight", "average", "exp_avg", "exp_avg_sq"):
                whole = state[f"{number}.{kind}"]
                found |= {
                    f"{n}:{kind}": one for n, one in zip(pairs[0], whole.chunk(len(group)), strict=True)
                }
                found |= {f"{n}:{kind}": state[f"{number + 1 + i}.{kind}"] for i, n in enumerate(pairs[1])}
            number += 1 + len(group)
    return found
