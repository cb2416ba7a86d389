"""What a bundle sends and what its receiver makes: bit for bit what torch exported, without torch."""

import json
import struct
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gitpeft.bundle import embedded
from gitpeft.bundle.bundle import Bundle
from gitpeft.errors import GitpeftError
from gitpeft.learn.models import methods
from gitpeft.share import delta, lora_merge
from gitpeft.share.lora_merge import NotMergeableError
from tests.support import tinymodel
from tests.support.sources import CHECKOUT
from tests.support.tunedbundle import Tuned, bundled, tuned, write_base


@pytest.fixture(scope="module")
def lora(tmp_path_factory: pytest.TempPathFactory) -> Tuned:
    method = replace(methods.make_method("lora"), rank=4, alpha=8)
    return tuned(tmp_path_factory.mktemp("lora"), method, tinymodel.pointer_t5())


@pytest.fixture
def mini(lora: Tuned, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """The tiny base in the place of the one that the package carries."""
    monkeypatch.setattr(delta, "find_embedded_base", lambda _: lora.base)
    yield lora.base


def unpacked(files: dict[str, bytes], made: dict[str, delta.DeltaRecipe], bundle: Bundle) -> dict[str, bytes]:
    return files | delta.reconstruct_files(files.__getitem__, made, bundle.manifest)


# --- folding ------------------------------------------------------------------------------------------------


def arrays(raw: bytes) -> list[Any]:
    """Every array of a graph, by the library that wrote it."""
    import onnx
    from onnx import numpy_helper

    return [numpy_helper.to_array(one) for one in onnx.load_from_string(raw).graph.initializer]


def test_folding_is_merging(lora: Tuned) -> None:
    found = lora_merge.merge_lora_into_graphs(lora.base, lora.read)
    for name, raw in found.items():
        base = arrays((lora.base / "onnx" / name).read_bytes())
        changed = 0
        for ours, theirs, before in zip(arrays(raw), arrays(lora.merged[name]), base, strict=True):
            assert ours.dtype == theirs.dtype and ours.shape == theirs.shape
            if ours.dtype == np.int8:
                assert int(np.abs(ours.astype(int) - theirs.astype(int)).max()) <= 1
                changed += int((ours != before).sum())
                assert (ours != theirs).mean() < 1e-3
            else:
                np.testing.assert_allclose(ours, theirs, rtol=1e-5, atol=1e-6)
        assert changed > 100, "an adapter that changes nothing proves nothing"


def test_folding_says_the_same_bits_in_another_process_with_other_threads(lora: Tuned) -> None:
    program = (
        "import hashlib, sys; from pathlib import Path; from gitpeft.share import lora_merge\n"
        f"base, adapter = Path({str(lora.base)!r}), Path({str(lora.adapter)!r})\n"
        "found = lora_merge.merge_lora_into_graphs(base, lambda name: (adapter / name).read_bytes())\n"
        "print(hashlib.sha256(b''.join(found.values())).hexdigest())\n"
        "assert not {'torch', 'onnx'} & set(sys.modules)\n"
    )
    said = set()
    for threads in ("1", "4"):
        env = {"PYTHONPATH": str(CHECKOUT), "OPENBLAS_NUM_THREADS": threads, "OPENBLAS_CORETYPE": "Haswell"}
        done = subprocess.run([sys.executable, "-c", program], env=env, capture_output=True, check=True)
        said.add(done.stdout)
    assert len(said) == 1


def test_tensors_are_read_as_their_library_reads_them(lora: Tuned) -> None:
    from safetensors.numpy import load

    raw = lora.read("adapter_model.safetensors")
    ours, theirs = lora_merge.read_safetensors(raw), load(raw)
    assert ours.keys() == theirs.keys() and all(np.array_equal(ours[name], theirs[name]) for name in ours)
    for bad in (b"", raw[:7], raw[:40], raw[:-9], b"\xff" * 64, b"\x08" + b"\0" * 7 + b'{"a":[]}'):
        with pytest.raises(GitpeftError, match="cannot be read"):
            lora_merge.read_safetensors(bad)


def _read_with(lora: Tuned, tensors: bytes, name: str) -> bytes:
    """A file of the adapter, with other weights in it."""
    return tensors if name == lora_merge.ADAPTER_TENSORS_FILE else lora.read(name)


def test_an_adapter_of_another_shape_is_refused(lora: Tuned, tmp_path: Path) -> None:
    from safetensors.numpy import load, save

    halves = load(lora.read("adapter_model.safetensors"))
    name = next(one for one in halves if one.endswith("lora_A.weight"))
    for broken in (halves[name][:, :-1], halves[name][:-1], halves[name] * np.float32(np.nan)):
        raw = save({**halves, name: np.ascontiguousarray(broken)})
        with pytest.raises(GitpeftError, match=r"does not have the shape|is damaged"):
            lora_merge.merge_lora_into_graphs(lora.base, partial(_read_with, lora, raw))


@pytest.mark.parametrize(
    "change",
    [{"use_dora": True}, {"modules_to_save": ["lm_head"]}, {"peft_type": "IA3"}, {"rank_pattern": {"q": 2}}],
)
def test_what_is_no_plain_lora_is_not_folded(lora: Tuned, change: dict[str, Any]) -> None:
    config = json.dumps(json.loads(lora.read(lora_merge.ADAPTER_CONFIG_FILE)) | change).encode()
    with pytest.raises(NotMergeableError):
        lora_merge.merge_lora_into_graphs(
            lora.base, lambda name: config if name == lora_merge.ADAPTER_CONFIG_FILE else lora.read(name)
        )


def test_a_tensor_that_is_no_lora_is_not_folded(lora: Tuned) -> None:
    from safetensors.numpy import load, save

    halves = load(lora.read("adapter_model.safetensors"))
    for name in ("base_model.model.lm_head.weight", "base_model.model.nowhere.lora_A.weight"):
        raw = save({**halves, name: np.ones((4, 4), np.float32)})
        with pytest.raises(NotMergeableError, match="no LoRA of this base"):
            lora_merge.merge_lora_into_graphs(lora.base, partial(_read_with, lora, raw))


def test_tensors_over_the_same_bytes_are_refused() -> None:
    """Many names for one place would take memory without end."""
    data = bytes(4000)
    entry = {"dtype": "F32", "shape": [1000], "data_offsets": [0, 4000]}
    head = json.dumps({f"t{i}": entry for i in range(500)}).encode()
    with pytest.raises(GitpeftError, match="cannot be read"):
        lora_merge.read_safetensors(struct.pack("<Q", len(head)) + head + data)


@pytest.mark.parametrize("rank", [0.5, True, "4", 0, -1])
def test_a_rank_that_is_none_is_refused(lora: Tuned, rank: object) -> None:
    config = json.dumps(json.loads(lora.read(lora_merge.ADAPTER_CONFIG_FILE)) | {"r": rank}).encode()
    with pytest.raises(GitpeftError):
        lora_merge.merge_lora_into_graphs(
            lora.base, lambda name: config if name == lora_merge.ADAPTER_CONFIG_FILE else lora.read(name)
        )


# --- travelling ---------------------------------------------------------------------------------------------


def test_a_lora_bundle_travels_without_its_graphs(lora: Tuned, mini: Path, tmp_path: Path) -> None:
    bundle = bundled(tmp_path, lora)
    files, made = delta.encode_deltas(bundle)
    assert not {"encoder.onnx", "decoder.onnx", "tokenizer.json"} & files.keys()
    assert made["encoder.onnx"].way == made["decoder.onnx"].way == "fold"
    assert made["tokenizer.json"] == delta.DeltaRecipe("base")
    whole = unpacked(files, made, bundle)
    assert all(whole[name] == bundle.read(name) for name in bundle.manifest.files)
    sent = sum(map(len, (files[name] for name in files if name.endswith(".difference"))))
    assert sent < 0.2 * sum(map(len, lora.merged.values()))


def test_full_tuning_travels_as_whole_graphs_or_a_difference(tmp_path: Path, monkeypatch: Any) -> None:
    full = tuned(tmp_path / "full", methods.make_method("full"), tinymodel.pointer_t5())
    monkeypatch.setattr(delta, "find_embedded_base", lambda _: full.base)
    bundle = bundled(tmp_path / "state", full)
    files, made = delta.encode_deltas(bundle)
    assert all(one.way == "base" for one in made.values())
    whole = unpacked(files, made, bundle)
    assert all(whole[name] == bundle.read(name) for name in bundle.manifest.files)


def test_graphs_of_another_structure_travel_whole(lora: Tuned, mini: Path, tmp_path: Path) -> None:
    longer = {name: raw + b"modules that stay" for name, raw in lora.merged.items()}
    files, made = delta.encode_deltas(bundled(tmp_path, replace(lora, merged=longer)))
    assert made.keys() == {"tokenizer.json"} and all(files[name] == raw for name, raw in longer.items())


def test_an_untuned_base_sends_nothing_of_itself(lora: Tuned, mini: Path, tmp_path: Path) -> None:
    plain = {name: (lora.base / "onnx" / name).read_bytes() for name in lora.merged}
    files, made = delta.encode_deltas(bundled(tmp_path, replace(lora, merged=plain)))
    assert made == {name: delta.DeltaRecipe("base") for name in (*plain, "tokenizer.json")}
    assert not any(name.endswith(".difference") for name in files)


def test_another_base_makes_everything_travel(lora: Tuned, mini: Path, tmp_path: Path) -> None:
    for number, change in enumerate(({"base": "elsewhere"}, {"base_digest": "00" * 32})):
        bundle = bundled(tmp_path / str(number), lora, **change)
        files, made = delta.encode_deltas(bundle)
        assert made == {} and files.keys() == bundle.manifest.files.keys()


def test_a_receiver_with_another_base_refuses(
    lora: Tuned, mini: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bundle = bundled(tmp_path, lora)
    files, made = delta.encode_deltas(bundle)
    other = write_base(tmp_path / "other", tinymodel.pointer_t5(seed=9))
    monkeypatch.setattr(delta, "find_embedded_base", lambda _: other)
    with pytest.raises(GitpeftError, match="another version of the base"):
        unpacked(files, made, bundle)


@pytest.mark.parametrize("raw", [b"", b"no zlib", __import__("zlib").compress(b"\0" * (1 << 22))])
def test_a_damaged_difference_is_refused(lora: Tuned, mini: Path, tmp_path: Path, raw: bytes) -> None:
    bundle = bundled(tmp_path, lora)
    files, made = delta.encode_deltas(bundle)
    made["encoder.onnx"] = replace(made["encoder.onnx"], difference="encoder.onnx.difference")
    with pytest.raises(GitpeftError, match="damaged"):
        unpacked({**files, "encoder.onnx.difference": raw}, made, bundle)


def test_the_packages_own_base_can_be_folded(tmp_path: Path) -> None:
    """Every matrix of models/mini that a LoRA may change is found in its graphs."""
    from safetensors.numpy import save

    base = embedded.find_embedded_base()
    weights = lora_merge.read_safetensors((base / embedded.BASE_WEIGHTS_FILE).read_bytes())
    small = np.random.default_rng(1)
    halves, count = {}, 0
    for name, weight in weights.items():
        module = name.removesuffix(".weight")
        if weight.ndim == 2 and module.rpartition(".")[2] in (
            "q",
            "k",
            "v",
            "o",
            "wi",
            "wo",
            "query",
            "token",
        ):
            halves[f"base_model.model.{module}.lora_A.weight"] = small.normal(size=(1, weight.shape[1]))
            halves[f"base_model.model.{module}.lora_B.weight"] = small.normal(size=(len(weight), 1))
            count += 1
    raw = save({name: one.astype(np.float32) for name, one in halves.items()})
    config = json.dumps({"peft_type": "LORA", "r": 1, "lora_alpha": 1}).encode()
    found = lora_merge.merge_lora_into_graphs(
        base, lambda name: raw if name == lora_merge.ADAPTER_TENSORS_FILE else config
    )
    assert count > 20 and all(found[name] != (base / "onnx" / name).read_bytes() for name in found)


def test_bfloat16_is_read_as_torch_reads_it() -> None:
    import torch
    from safetensors.torch import save

    given = torch.randn(3, 5).to(torch.bfloat16)
    found = lora_merge.read_safetensors(save({"x": given, "y": given.half()}))
    assert torch.equal(torch.from_numpy(found["x"]), given.float())
    assert torch.equal(torch.from_numpy(found["y"]), given.float())
