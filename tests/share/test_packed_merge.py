"""A tuned model of a packed base is published as its adapter, and made again bit for bit without torch."""

from pathlib import Path
from typing import Any

import pytest

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle import embedded
from gitpeft.errors import GitpeftError
from gitpeft.learn.evaluation import trial
from gitpeft.learn.export.parity import write_graphs
from gitpeft.learn.models import bases, methods
from gitpeft.learn.pretraining import gguf
from gitpeft.share import delta
from tests.support import ggufmodel
from tests.support.tuning import disturb, named


@pytest.fixture
def base(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> bases.BaseModel:
    """A tiny packed base in the place of smol."""
    ggufmodel.write(tmp_path / "tiny.gguf")
    gguf.convert_gguf(gguf.parse_gguf((tmp_path / "tiny.gguf").read_bytes()), tmp_path / "smol")
    monkeypatch.setattr(delta, "find_embedded_base", lambda name="mini": tmp_path / name)
    return bases.find_base(str(tmp_path / "smol"))


def publishable(base: bases.BaseModel, text: str, state: Path) -> bundles.Bundle:
    """A bundle of the base, tuned with a method."""
    method = named(text)
    tuned: Any = methods.attach_method(base.load(), method)
    disturb(tuned)
    with bundles.staging_folder(state) as folder:
        methods.save_trained_weights(tuned, folder / "adapter")
        (folder / "adapter" / "README.md").unlink(missing_ok=True)
        merged = methods.load_merged_model(base.load(), method, folder / "adapter")
        write_graphs(merged, True, folder)
        (folder / "tokenizer.json").write_bytes(base.tokenizer_path.read_bytes())
        given = bundles.Manifest(
            kind="model", created="2024-01-01T00:00:00Z", base="smol", base_digest=base.digest
        )
        id_ = bundles.write_bundle(folder, given)
    return bundles.open_bundle(state / "models" / id_)


def test_a_lora_is_published_without_the_weights(base: bases.BaseModel, tmp_path: Path) -> None:
    bundle = publishable(base, "lora:rank=4", tmp_path / "state")
    files, made = delta.encode_deltas(bundle)
    assert {"decoder.safetensors", "tokenizer.json"} <= made.keys()
    assert not {"decoder.safetensors", "tokenizer.json"} & files.keys()
    whole = bundle.manifest.files["decoder.safetensors"].size
    assert len(files.get("decoder.safetensors.difference", b"")) < whole / 20
    again = delta.reconstruct_files(files.__getitem__, made, bundle.manifest)
    assert again["decoder.safetensors"] == bundle.read("decoder.safetensors")
    assert again["tokenizer.json"] == bundle.read("tokenizer.json")


def test_a_model_tuned_in_full_is_sent_whole(base: bases.BaseModel, tmp_path: Path) -> None:
    files, made = delta.encode_deltas(publishable(base, "full", tmp_path / "state"))
    assert "decoder.safetensors" in files and "decoder.safetensors" not in made


def test_another_base_here_is_named(base: bases.BaseModel, tmp_path: Path) -> None:
    bundle = publishable(base, "lora:rank=4", tmp_path / "state")
    files, made = delta.encode_deltas(bundle)
    (tmp_path / "smol" / embedded.BASE_CONFIG_FILE).write_text("{}")
    with pytest.raises(GitpeftError, match="tuned from another version of the base"):
        delta.reconstruct_files(files.__getitem__, made, bundle.manifest)
    for path in (tmp_path / "smol").iterdir():
        path.unlink()
    with pytest.raises(GitpeftError, match="tuned from another version of the base"):
        delta.reconstruct_files(files.__getitem__, made, bundle.manifest)


def give_own_adapter(base: bases.BaseModel, text: str) -> None:
    """An adapter that belongs to the base, and the graphs of base and adapter."""
    method = named(text)
    tuned: Any = methods.attach_method(base.load(), method)
    disturb(tuned)
    methods.save_trained_weights(tuned, base.folder / "adapter")
    (base.folder / "onnx").mkdir()
    write_graphs(base.load(), True, base.folder)
    for name in bundles.CAUSAL_GRAPHS:
        (base.folder / name).rename(base.folder / "onnx" / name)
    (base.folder / "onnx" / "settings.json").write_text('{"start": 1, "end": 2, "banned": []}')


def test_without_tuning_the_model_is_the_exported_one(base: bases.BaseModel, tmp_path: Path) -> None:
    give_own_adapter(base, "lora:rank=4")
    exported = (base.folder / "decoder.safetensors").read_bytes()
    found = bases.find_base(str(base.folder)).prepare_onnx_folder(tmp_path / "untuned")
    assert found == tmp_path / "untuned"
    for name in bundles.CAUSAL_GRAPHS:
        assert (found / name).read_bytes() == (base.folder / "onnx" / name).read_bytes()
    made = (found / "decoder.safetensors").read_bytes()
    assert len(made) == len(exported)
    assert sum(map(int.__ne__, made, exported)) < len(exported) / 500  # torch may round a sum differently
    assert base.find_onnx_folder() is None  # what lies in the base's folder is only a part of them


def test_without_tuning_nothing_but_the_difference_is_published(
    base: bases.BaseModel, tmp_path: Path
) -> None:
    give_own_adapter(base, "lora:rank=4")
    found = bases.find_base(str(base.folder)).prepare_onnx_folder(tmp_path / "untuned")
    assert found is not None
    with bundles.staging_folder(tmp_path / "state") as folder:
        trial.copy_model_files(found, folder)
        digest = embedded.compute_base_digest(base.folder)
        given = bundles.Manifest(
            kind="model", created="2024-01-01T00:00:00Z", base="smol", base_digest=digest
        )
        id_ = bundles.write_bundle(folder, given)
    bundle = bundles.open_bundle(tmp_path / "state" / "models" / id_)
    files, made = delta.encode_deltas(bundle)
    assert not files
    again = delta.reconstruct_files(files.__getitem__, made, bundle.manifest)
    assert all(again[name] == bundle.read(name) for name in bundle.manifest.files)
