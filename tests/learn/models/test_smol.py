"""The pretrained base in the package: what it needs to serve without torch fits its weights."""

import json
from pathlib import Path

import pytest

from gitpeft.learn.export import parity
from gitpeft.learn.models import bases

SMOL = Path(__file__).resolve().parents[3] / "models" / "smol"


def test_no_file_is_over_100_megabytes() -> None:
    assert max(path.stat().st_size for path in SMOL.rglob("*") if path.is_file()) < 100e6


@pytest.mark.slow
def test_its_graph_and_settings_are_what_an_export_writes(tmp_path: Path) -> None:
    base = bases.find_base("smol")
    model = base.load()
    parity.write_graphs(model, True, tmp_path)
    assert (tmp_path / "decoder.onnx").read_bytes() == (SMOL / "onnx" / "decoder.onnx").read_bytes()
    known = json.loads((SMOL / "onnx" / "settings.json").read_text())
    assert known == parity.make_decoding_settings(model, base.tokenizer_path)
    made = base.prepare_onnx_folder(tmp_path / "untuned")
    assert made is not None
    assert (made / "decoder.safetensors").stat().st_size == (tmp_path / "decoder.safetensors").stat().st_size
