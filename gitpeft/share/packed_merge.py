"""The int8 weights of a causal model, made from its packed base and a LoRA adapter, without torch.

The file's arrays carry the names of the base's weights that lie side by side in them
(`learn.export.llama`), and are found in the graphs that name them. Where torch rounded a sum differently, a
published model carries the difference.
"""

from collections.abc import Callable, Iterable
from pathlib import Path
from typing import TYPE_CHECKING

from gitpeft.bundle.bundle import CAUSAL_GRAPHS, DECODER_FILE, TOKENIZER_FILE, WEIGHTS_FILE
from gitpeft.bundle.embedded import BASE_ADAPTER_FOLDER, BASE_TOKENIZER_FILE, ONNX_FOLDER
from gitpeft.share.lora_merge import (
    NotMergeableError,
    merge_lora_update,
    read_array_shapes,
    read_lora_updates,
)
from gitpeft.share.packed import PackedWeights
from gitpeft.share.quantisation import NAME_JOINT, SCALE_SUFFIX, quantise_blocks, quantise_pairs

if TYPE_CHECKING:
    from numpy.typing import NDArray


def merge_lora_into_weights(base: Path, graphs: Iterable[bytes], read: Callable[[str], bytes]) -> bytes:
    """The weights file of a packed base with an adapter merged in, for graphs that were exported from it.

    `read` returns a file of the adapter by its name. NotMergeableError when the method does not allow it, or
    a graph names weights that the base does not have.
    """
    import numpy as np
    from safetensors.numpy import save

    packed = PackedWeights(base)
    weights = {name: packed.read(name) for name in packed}
    updates = read_lora_updates(read, weights)
    arrays: dict[str, NDArray[np.generic]] = {}
    named = {name: shape for graph in graphs for name, shape in read_array_shapes(graph).items()}
    for name, shape in named.items():
        parts = name.split(NAME_JOINT)
        if name.endswith(SCALE_SUFFIX) or not all(part.endswith(".weight") for part in parts):
            continue
        if unknown := [part for part in parts if part not in weights]:
            raise NotMergeableError(f"the base has no {unknown[0]}")
        whole = np.concatenate([merge_lora_update(weights[part], updates.get(part)) for part in parts])
        levels, scale = quantise_blocks(whole) if len(shape) == 3 else quantise_pairs(whole.T)
        arrays |= {name: np.ascontiguousarray(levels), f"{name}{SCALE_SUFFIX}": scale}
    return bytes(save(arrays))


def has_graph(base: Path) -> bool:
    """Whether a packed base comes with its graphs, from which `write_untuned_model` makes a whole model."""
    return (base / ONNX_FOLDER / DECODER_FILE).is_file()


def read_graphs(base: Path) -> dict[str, bytes]:
    """The graphs that a packed base comes with, by name."""
    folder = base / ONNX_FOLDER
    return {name: (folder / name).read_bytes() for name in CAUSAL_GRAPHS if (folder / name).is_file()}


def write_untuned_model(base: Path, out: Path) -> None:
    """Write graphs, weights and tokenizer of a packed base with its own adapter, without tuning, into `out`.

    The graphs do not depend on the adapter. GitpeftError when the base is damaged.
    """
    graphs = read_graphs(base)
    adapter = base / BASE_ADAPTER_FOLDER
    weights = merge_lora_into_weights(base, graphs.values(), lambda name: (adapter / name).read_bytes())
    out.mkdir(parents=True, exist_ok=True)
    (out / WEIGHTS_FILE).write_bytes(weights)
    for name, raw in graphs.items():
        (out / name).write_bytes(raw)
    (out / TOKENIZER_FILE).write_bytes((base / BASE_TOKENIZER_FILE).read_bytes())
