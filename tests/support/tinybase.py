"""A base trained from random weights in seconds: its recipe, its result, and plans for models on it."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from gitpeft.learn.data.dataset import Example
from gitpeft.learn.export import parity as exporting
from gitpeft.learn.results import ModelPlan
from gitpeft.learn.training.settings import TrainingCost
from tests.support import tinymodel

RECIPE = """\
[data]
files = ["commits-1.jsonl.xz"]
validation = ["v"]
neighbours = 2
seed = 7

[tokenizer]
size = 420
diff_share = 0.5

[input]
total = 64
exemplars = 2
exemplar_tokens = 8
previous_tokens = 8
file_tokens = 16

[model]
d_model = 32
d_kv = 8
d_ff = 64
num_heads = 4
num_layers = 1
num_decoder_layers = 1
dropout_rate = 0.0

[[stage]]
steps = 60
batch_tokens = 3000
lr = 1e-2
matrix_lr = 1e-2
source_limit = 32
seed = 1

[[stage]]
steps = 60
batch_tokens = 3000
lr = 1e-2
source_limit = 64
seed = 2
beside = { line_type = 0.1, matching = 0.1, denoise = 0.1 }
"""

FIRST, MORE = 120, 60
"""Commits of a repository when its model is made, and later ones."""


def loosen(patch: pytest.MonkeyPatch) -> None:
    """Let models of a few thousand weights through the export's gate, which is made for millions."""
    patch.setattr(
        exporting,
        "MessageParityBounds",
        partial(exporting.MessageParityBounds, agreement=0.5, nats=0.5, drop=9.0),
    )


@dataclass(frozen=True, slots=True)
class Built:
    """A finished base, what it was built from, and what was heard meanwhile."""

    out: Path
    work: Path
    corpus: Path
    recipe: Path
    costs: list[TrainingCost]
    heard: list[tuple[str, float, str]]


CHANGE = (
    " src/parser.py +3 -0\n#src/parser.py\n@def read_3(value):\n+def read_99(value):\n+    return read(value)"
)


def nobody(_step: str, _done: float, _detail: str) -> None:
    """Hears nothing."""


def plan(built: Built, **changes: Any) -> ModelPlan:
    return ModelPlan(
        **{"base": str(built.out), "settings": {"rank": 4, "alpha": 8}, "minutes": 3.0, **changes}
    )


WORDS = ("parser", "cache", "router", "config", "logger")


def example(number: int, message: str = "") -> Example:
    change = tinymodel.CHANGES[number % 4]
    return Example(change, message or f"fix {WORDS[number % 5]} {number}", "", (), f"{number:040x}")
