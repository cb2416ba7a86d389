"""The int8 weights of a causal model, made again from its packed base and a LoRA adapter, without torch.

The file's arrays carry the names of the base's weights that lie side by side in them
(`learn.export.llama`), and are found in the graph that names them. Levels and scales are computed as
`learn.export.graph` does; where torch rounded a sum differently, a published model carries the difference.
"""

from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from gitpeft.share.lora_merge import (
    NotMergeableError,
    merge_lora_update,
    read_array_shapes,
    read_lora_updates,
)
from gitpeft.share.packed import PackedWeights

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

NAME_JOINT, SCALE_SUFFIX = "|", ".scale"
BLOCK_WIDTH, BLOCK_ZERO, PAIR_LEVELS = 32, 128, 127
"""As in `learn.export.llama` and `learn.export.graph`; a test compares them."""


def merge_lora_into_weights(base: Path, graph: bytes, read: Callable[[str], bytes]) -> bytes:
    """The weights file of a packed base with an adapter merged in, for a graph that was exported from it.

    `read` returns a file of the adapter by its name. NotMergeableError when the method does not allow it, or
    the graph names weights that the base does not have.
    """
    from safetensors.numpy import save

    packed = PackedWeights(base)
    weights = {name: packed.read(name) for name in packed}
    updates = read_lora_updates(read, weights)
    arrays: dict[str, NDArray[np.generic]] = {}
    for name, shape in read_array_shapes(graph).items():
        parts = name.split(NAME_JOINT)
        if name.endswith(SCALE_SUFFIX) or not all(part.endswith(".weight") for part in parts):
            continue
        if unknown := [part for part in parts if part not in weights]:
            raise NotMergeableError(f"the base has no {unknown[0]}")
        whole = _join_rows([merge_lora_update(weights[part], updates.get(part)) for part in parts])
        levels, scale = _quantise_blocks(whole) if len(shape) == 3 else _quantise_pairs(whole.T)
        arrays |= {name: levels, f"{name}{SCALE_SUFFIX}": scale}
    return bytes(save(arrays))


def _join_rows(parts: "list[FloatArray]") -> "FloatArray":
    import numpy as np

    return np.concatenate(parts)


def _quantise_pairs(columns: "FloatArray") -> "tuple[NDArray[np.int8], FloatArray]":
    """As `learn.export.graph.quantise_pairs`."""
    import numpy as np

    padded = np.pad(columns, ((0, len(columns) % 2), (0, 0)))
    pairs = padded.reshape(-1, 2, columns.shape[1])
    sums = np.maximum(np.maximum(pairs, 0).sum(axis=1), np.maximum(-pairs, 0).sum(axis=1)).max(axis=0)
    scale = np.maximum(np.abs(columns).max(axis=0) / 127, sums / PAIR_LEVELS)
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
    return np.ascontiguousarray(np.rint(columns / scale).astype(np.int8)), scale


def _quantise_blocks(rows: "FloatArray") -> "tuple[NDArray[np.uint8], FloatArray]":
    """As `learn.export.graph.quantise_blocks`."""
    import numpy as np

    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % BLOCK_WIDTH)))
    blocks = padded.reshape(len(rows), -1, BLOCK_WIDTH)
    largest = np.abs(blocks).max(axis=2)
    scale = (np.where(largest > 0, largest, 1.0) / 127).astype(np.float32)
    levels = np.clip(np.rint(blocks / scale[:, :, None]), -127, 127) + BLOCK_ZERO
    return levels.astype(np.uint8), scale
