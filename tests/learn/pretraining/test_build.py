"""A base from random weights: the whole of `gitpeft base build`, small."""

import json
import shutil
from pathlib import Path
from typing import Any

import pytest

from gitpeft.bundle import bundle as bundles
from gitpeft.diff.render import TokenBudget
from gitpeft.errors import GitpeftError
from gitpeft.learn.data.batches import RenderedExamples
from gitpeft.learn.evaluation import reranker
from gitpeft.learn.models import bases
from gitpeft.learn.pretraining import build
from gitpeft.learn.training.settings import TrainingProgress
from gitpeft.suggest.reranker import Reranker
from tests.support.tinybase import RECIPE, Built


def nobody(_step: str, _done: float, _detail: str) -> None:
    """Hears nothing."""


def test_a_build_ends_with_a_base(built: Built) -> None:
    base = bases.find_base(str(built.out))
    assert base.budget == TokenBudget(64, 2, 8, 8, 16)
    model = base.load()
    assert type(model).__name__ == "PointerT5ForConditionalGeneration"
    assert {p.suffix for p in built.out.iterdir() if p.is_file()} == {".json", ".safetensors"}
    import transformers

    words = transformers.AutoTokenizer.from_pretrained(built.out)
    assert words.decode(words.encode("add parser 7")) == "add parser 7" and words.pad_token_id == 0


def test_it_has_learnt(built: Built) -> None:
    assert [cost.steps for cost in built.costs] == [60, 60]
    assert built.costs[1].curve[-1][1] < 0.5 * built.costs[0].curve[0][1]
    assert all(len(cost.valid_curve) == 10 for cost in built.costs)
    assert all(cost.trainable == cost.parameters > 10_000 for cost in built.costs)


def test_it_serves_without_torch(built: Built) -> None:
    ready = bases.find_base(str(built.out)).find_onnx_folder()
    assert ready is not None
    files = {"encoder.onnx", "decoder.onnx", "tokenizer.json", "chooser.json", "settings.json", "report.json"}
    assert files == {path.name for path in ready.iterdir()}
    reranker = Reranker.from_data(json.loads((ready / bundles.RERANKER_FILE).read_text()), "model")
    assert reranker.mode == "chooser" and reranker.weights
    report = json.loads((ready / "report.json").read_text())
    assert report["parity"]["exact"] < 1e-3 and report["n"] == 12


def test_no_stage_leaves_its_heads_in_the_base(built: Built) -> None:
    from safetensors import safe_open

    for path in (built.out / "model.safetensors", *built.work.glob("stage-*.safetensors")):
        with safe_open(path, "pt") as stored:
            assert not [name for name in stored.keys() if "heads" in name]  # noqa: SIM118 - not a dict


def test_every_step_is_heard(built: Built) -> None:
    steps = [step for step, _, _ in built.heard]
    assert list(dict.fromkeys(steps)) == ["tokenizer", "examples", "stage 1", "stage 2", "export", "choose"]
    assert all(0 <= done <= 1 for _, done, _ in built.heard)
    assert any("tokens/s" in detail for _, _, detail in built.heard)


def test_a_note_stays_beside_what_is_told_of_each_step() -> None:
    heard: list[str] = []
    show = build._make_stage_listener(lambda *given: heard.append(given[2]), "stage 1", 1200, 0.0, ["no GPU"])
    for note in ("", "out of memory", ""):
        show(TrainingProgress(1, 0.1, 2.0, 50, 1.0, note=note))
    told = "1/1,200 steps · loss 2.000 · 50 tokens/s · no GPU"
    assert heard == [told + more for more in ("", *[" · out of memory"] * 2)]


def test_validation_repositories_are_never_learnt_from(built: Built) -> None:
    counts = {path.name: len(RenderedExamples.load(path)) for path in built.work.glob("*.npz")}
    assert counts == {"train-1.npz": 90, "val-1.npz": 60}  # six phrases, digits aside, each fifteen times


def test_the_default_chooser_never_learns_from_what_it_is_measured_on(
    built: Built, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    out = Path(shutil.copytree(built.out, tmp_path / "out"))
    recipe = build.PretrainingRecipe.load(built.recipe)
    taught: list[set[str]] = []
    fit = reranker.fit_reranker

    def spied(asked: Any, prior: Any = None) -> Reranker:
        taught.append({one.example.group for one in asked})
        return fit(asked, prior)

    monkeypatch.setattr(reranker, "fit_reranker", spied)
    build.export_base(recipe, built.corpus, out, nobody)
    assert taught[0] and not taught[0] & set(recipe.validation)


def test_what_is_there_is_not_made_again(built: Built, tmp_path: Path) -> None:
    """A second build trains nothing; one that lost its second stage trains that alone."""
    work = Path(shutil.copytree(built.work, tmp_path / "work"))
    recipe = build.PretrainingRecipe.load(built.recipe)
    train, valid = build.render_corpus(recipe, tmp_path / "no corpus", work)
    before = {path.name: path.stat().st_mtime_ns for path in work.iterdir()}
    heard: list[str] = []
    costs = build.train_stages(
        recipe, train, valid, work, tmp_path / "out", lambda step, *_: heard.append(step)
    )
    assert heard == [] and [c.steps for c in costs] == [60, 60]
    assert {path.name: path.stat().st_mtime_ns for path in work.iterdir()} == before
    assert bases.compute_base_digest(tmp_path / "out") == bases.compute_base_digest(built.out)
    for path in (work / "stage-2.safetensors", work / "checkpoint-2"):
        shutil.rmtree(path) if path.is_dir() else path.unlink()
    build.train_stages(recipe, train, valid, work, tmp_path / "out", lambda step, *_: heard.append(step))
    assert set(heard) == {"stage 2"}


@pytest.mark.parametrize(
    ("old", "new", "sentence"),
    [
        ("[data]", "[data", "recipe.toml"),
        ("[tokenizer]\nsize = 420\n", "[tokenizer]\n", "'size'"),
        ("steps = 60", "stride = 60", "stride"),
        ("line_type", "line_types", "line_types"),
        ("total = 64", "totals = 64", "totals"),
        ("size = 420", 'size = "many"', "many"),
    ],
)
def test_a_wrong_recipe_is_a_sentence(old: str, new: str, sentence: str, tmp_path: Path) -> None:
    path = tmp_path / "recipe.toml"
    path.write_text(RECIPE.replace(old, new, 1))
    with pytest.raises(GitpeftError, match=sentence) as error:
        build.PretrainingRecipe.load(path)
    assert "recipe.toml" in error.value.message + error.value.hint


def test_no_recipe_and_no_corpus(tmp_path: Path, built: Built) -> None:
    with pytest.raises(GitpeftError, match="cannot use the recipe"):
        build.PretrainingRecipe.load(tmp_path / "none.toml")
    with pytest.raises(GitpeftError, match=r"no corpus file commits-1\.jsonl\.xz"):
        recipe = build.PretrainingRecipe.load(built.recipe)
        build.pretrain_base(recipe, tmp_path, tmp_path / "work", tmp_path / "out", nobody)
    assert list(tmp_path.iterdir()) == []


def test_the_recipe_of_the_embedded_base_can_be_read() -> None:
    recipe = build.PretrainingRecipe.load(bases.find_embedded_base() / "recipe.toml")
    assert recipe.validation and len(recipe.stages) >= 1 and recipe.budget.total <= 512
