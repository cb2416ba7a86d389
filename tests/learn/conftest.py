"""A base for the tests of learning: trained from nothing on a corpus of two dozen phrases, in seconds."""

from dataclasses import dataclass
from functools import partial
from pathlib import Path

import pytest

from gitpeft.learn.export import parity as exporting
from gitpeft.learn.pretraining import build
from gitpeft.learn.training.loop import TrainingCost
from tests.learn.pretraining.test_corpus import record, subject, write

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


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory) -> Built:
    """The base of `RECIPE`, with its ONNX files."""
    import torch

    torch.set_num_threads(1)
    top = tmp_path_factory.mktemp("built")
    (top / "corpus").mkdir()
    records = [record(repo, i) for repo in "ab" for i in range(150)]
    records += [record("v", i, subject=f"{subject(i)} there") for i in range(60)]
    write(top / "corpus" / "commits-1.jsonl.xz", records)
    recipe = top / "recipe.toml"
    recipe.write_text(RECIPE)
    heard: list[tuple[str, float, str]] = []
    with pytest.MonkeyPatch.context() as patch:
        loosen(patch)
        costs = build.pretrain_base(
            build.PretrainingRecipe.load(recipe), top / "corpus", top / "work", top / "out",
            lambda *one: heard.append(one), "cpu",
        )  # fmt: skip
    return Built(top / "out", top / "work", top / "corpus", recipe, costs, heard)
