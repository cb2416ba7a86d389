"""A tuned model of a packed base is published as its adapter, and made again bit for bit without torch."""

from pathlib import Path
from typing import Any

import pytest

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle import embedded
from gitpeft.errors import GitpeftError
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
