"""Bases: a folder of transformers files, checked before anything is loaded from it."""

import hashlib
import json
import shutil
from pathlib import Path

import pytest
import torch

from gitpeft.diff.render import TokenBudget
from gitpeft.errors import GitpeftError
from gitpeft.lazy import replace_fields
from gitpeft.learn.models import bases
from gitpeft.learn.pretraining import gguf
from gitpeft.share import packed
from gitpeft.suggest import reranker
from tests.support import ggufmodel, tinymodel
from tests.support.tuning import batch


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("base")
    model = tinymodel.pointer_t5()
    model.config.gitpeft_budget = {"total": 96, "exemplars": 2}
    model.save_pretrained(folder)
    tinymodel.write_tokenizer(folder)
    return folder


@pytest.fixture
def folder(made: Path, tmp_path: Path) -> Path:
    """The same, to be changed."""
    return Path(shutil.copytree(made, tmp_path / "base"))


def test_a_folder_is_a_base(made: Path) -> None:
    base = bases.find_base(str(made))
    assert base.folder == made.resolve() and base.tokenizer_path == made / "tokenizer.json"
    assert base.budget == TokenBudget(total=96, exemplars=2)
    assert base.tokenizer_digest == hashlib.sha256(base.tokenizer_path.read_bytes()).hexdigest()
    assert base.find_onnx_folder() is None
    model = base.load()
    assert model.dtype == torch.float32 and not model.training
    with torch.no_grad():
        torch.testing.assert_close(model(**batch()).logits, tinymodel.pointer_t5()(**batch()).logits)


def test_the_digest_follows_every_file(folder: Path) -> None:
    before = bases.find_base(str(folder)).digest
    assert bases.find_base(str(folder)).digest == before
    for name in ("model.safetensors", "config.json", "tokenizer.json"):
        path = folder / name
        path.write_bytes(path.read_bytes() + b" ")
        assert bases.compute_base_digest(folder) != before
        before = bases.compute_base_digest(folder)


@pytest.mark.parametrize("name", ["config.json", "model.safetensors", "tokenizer.json"])
def test_what_is_missing_is_named(folder: Path, name: str) -> None:
    (folder / name).unlink()
    with pytest.raises(GitpeftError, match=f"has no {name}") as error:
        bases.find_base(str(folder))
    assert "--base" in error.value.hint


def test_a_pickle_is_no_base(folder: Path) -> None:
    (folder / "model.safetensors").rename(folder / "pytorch_model.bin")
    with pytest.raises(GitpeftError, match=r"has no model\.safetensors"):
        bases.find_base(str(folder))


def test_an_unknown_architecture_is_named(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "gpt2"}))
    with pytest.raises(GitpeftError, match="is a gpt2") as error:
        bases.find_base(str(folder))
    assert "pointer-t5" in error.value.hint


@pytest.mark.parametrize(
    "config", ["", "[]", "{", '{"model_type": "t5", "gitpeft_budget": {"tokens": 3}}', "\ufffd{"]
)
def test_a_damaged_configuration_is_a_sentence(folder: Path, config: str) -> None:
    (folder / "config.json").write_text(config)
    with pytest.raises(GitpeftError):
        bases.find_base(str(folder))


def test_code_in_a_base_is_never_run(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    config["auto_map"] = {"AutoModelForSeq2SeqLM": "evil.Model", "AutoConfig": "evil.Config"}
    (folder / "config.json").write_text(json.dumps(config))
    (folder / "evil.py").write_text("raise SystemExit('the code of a base was run')\n")
    assert type(bases.find_base(str(folder)).load()).__name__ == "PointerT5ForConditionalGeneration"


def test_ready_bases_are_known_by_their_settings(folder: Path) -> None:
    (folder / "onnx").mkdir()
    assert bases.find_base(str(folder)).find_onnx_folder() is None
    (folder / "onnx" / "settings.json").write_text("{}")
    assert bases.find_base(str(folder)).find_onnx_folder() == folder / "onnx"


def test_a_base_without_a_way_of_choosing_has_the_embedded_one(folder: Path) -> None:
    """So has one whose chooser another version fitted; a damaged one is a sentence."""
    base, path = bases.find_base(str(folder)), folder / "onnx" / "chooser.json"
    assert base.load_reranker() == reranker.load_embedded_reranker()
    path.parent.mkdir()
    path.write_text('{"mode": "chooser", "features": ["top_similarity"], "weights": [1.0]}')
    assert base.load_reranker() == replace_fields(reranker.load_embedded_reranker(), threshold=None)
    path.write_text('{"mode": "chooser", "features": ["words"], "weights": [1.0]}')
    assert base.load_reranker().weights == (1.0,)
    for damage in ("{", "[]", "3"):
        path.write_text(damage)
        with pytest.raises(GitpeftError, match=r"chooser\.json is damaged"):
            base.load_reranker()


def test_the_embedded_base_has_its_recipe() -> None:
    assert (bases.find_embedded_base() / "recipe.toml").is_file()


# --- the bases of the package -------------------------------------------------------------------------------


def test_a_packed_base_is_loaded_as_it_is_read(tmp_path: Path) -> None:
    ggufmodel.write(tmp_path / "tiny.gguf")
    gguf.convert_gguf(gguf.parse_gguf((tmp_path / "tiny.gguf").read_bytes()), tmp_path / "base")
    model, weights = bases.find_base(str(tmp_path / "base")).load(), packed.PackedWeights(tmp_path / "base")
    names = dict(model.named_parameters())
    assert names.keys() == set(weights) and not model.training and model.dtype == torch.float32
    for name, parameter in names.items():
        assert torch.equal(parameter, torch.from_numpy(weights.read(name))), name
    assert model.get_output_embeddings().weight is model.get_input_embeddings().weight


def test_what_a_packed_base_lacks_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    ggufmodel.write(tmp_path / "tiny.gguf")
    gguf.convert_gguf(gguf.parse_gguf((tmp_path / "tiny.gguf").read_bytes()), tmp_path / "base")
    path = tmp_path / "base" / "config.json"
    config = json.loads(path.read_text())
    path.write_text(json.dumps(config | {"num_hidden_layers": config["num_hidden_layers"] + 1}))
    with pytest.raises(GitpeftError, match="do not fit its configuration"):
        bases.find_base(str(tmp_path / "base")).load()


def test_which_base_a_machine_gets(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(bases, "find_embedded_base", lambda name="mini": tmp_path / name)
    name, why = bases.choose_base()
    assert name == "mini" and "smol is not part of this installation" in why
    (tmp_path / "smol").mkdir()
    (tmp_path / "smol" / "model.safetensors").write_bytes(b"")
    monkeypatch.setattr(bases, "_read_free_memory", lambda: 3 << 30)
    name, why = bases.choose_base()
    assert name == "mini" and "3.0 GB of memory are free, training smol needs 4" in why
    for free in (4 << 30, None):
        monkeypatch.setattr(bases, "_read_free_memory", lambda free=free: free)
        assert bases.choose_base() == ("smol", "")


def test_free_memory_is_that_of_the_control_group_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(bases, "_CONTROL_GROUP", tmp_path)
    whole = bases._read_free_memory()
    (tmp_path / "memory.max").write_text("1000000\n")
    (tmp_path / "memory.stat").write_text("anon 400000\nfile 500000\n")
    assert bases._read_free_memory() == 600_000
    (tmp_path / "memory.max").write_text("max\n")
    assert whole is None or bases._read_free_memory() == pytest.approx(whole, rel=0.5)
