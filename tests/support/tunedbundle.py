"""A tiny base, an adapter of it, and the bundle that torch exports from the two."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Bundle, Manifest
from gitpeft.learn.export.parity import build_graphs
from gitpeft.learn.models import methods
from gitpeft.learn.models.bases import compute_base_digest
from tests.support import tinymodel


@dataclass(frozen=True, slots=True)
class Tuned:
    """A base with its graphs, an adapter of it, and the graphs of the two as torch merges them."""

    base: Path
    adapter: Path
    merged: dict[str, bytes]

    def read(self, name: str) -> bytes:
        return (self.adapter / name).read_bytes()


def write_base(folder: Path, model: Any) -> Path:
    """A base as `models/mini` is one: weights in half precision, and the graphs of those."""
    (folder / "onnx").mkdir(parents=True)
    model.half().save_pretrained(folder)
    model.float()
    tinymodel.write_tokenizer(folder)
    (folder / "onnx" / "tokenizer.json").write_bytes((folder / "tokenizer.json").read_bytes())
    write_graphs(folder / "onnx", model)
    return folder


def write_graphs(folder: Path, model: Any) -> dict[str, bytes]:
    found = dict(
        zip(("encoder.onnx", "decoder.onnx"), build_graphs(model.eval(), quantise=True), strict=True)
    )
    for name, raw in found.items():
        (folder / name).write_bytes(raw)
    return found


def tuned(folder: Path, method: methods.TuningMethod, model: Any) -> Tuned:
    """As if trained: every trainable weight is a random one."""
    import torch

    base = write_base(folder / "base", model)
    tuning = methods.attach_method(model, method)
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        torch.manual_seed(5)
        for parameter in tuning.parameters():
            if parameter.requires_grad:
                parameter.add_(torch.randn_like(parameter) * 0.05)
    methods.save_trained_weights(tuning, folder / "adapter")
    (folder / "merged").mkdir()
    fresh = tinymodel.pointer_t5().half().float()
    merged = methods.load_merged_model(fresh, method, folder / "adapter")
    return Tuned(base, folder / "adapter", write_graphs(folder / "merged", merged))


def bundled(state: Path, one: Tuned, **changes: Any) -> Bundle:
    """The tuned model as a bundle."""
    with bundles.staging_folder(state) as folder:
        for name, raw in one.merged.items():
            (folder / name).write_bytes(raw)
        (folder / "tokenizer.json").write_bytes((one.base / "tokenizer.json").read_bytes())
        (folder / "adapter").mkdir()
        for path in one.adapter.iterdir():
            if path.suffix != ".md":
                (folder / "adapter" / path.name).write_bytes(path.read_bytes())
        given = {"kind": "model", "created": "2024-01-01T00:00:00Z", "base": "mini", **changes}
        id_ = bundles.write_bundle(
            folder, Manifest(**{"base_digest": compute_base_digest(one.base), **given})
        )
    return bundles.open_bundle(state / "models" / id_)
