"""A base for the tests of learning: trained from nothing on a corpus of two dozen phrases, in seconds."""

import pytest

from gitpeft.learn.pretraining import build
from tests.support.corpus import record, subject, write
from tests.support.tinybase import RECIPE, Built, loosen


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
            lambda *one: heard.append(one),
        )  # fmt: skip
    return Built(top / "out", top / "work", top / "corpus", recipe, costs, heard)
