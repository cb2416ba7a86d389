"""Weights in 8 bits: their levels and scales, computed with numpy alone.

The export and a machine that puts a pulled model together need the very same numbers.
"""

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]

INT8_LEVELS = 63
"""Weights keep 7 of 8 bits. CPUs without VNNI add two u8·s8 products in 16 bits: 2·255·63 fits, and 2·255·127
does not: the sum would saturate on those CPUs and on no other."""

PAIR_LEVELS = 127
"""The largest sum of two neighbouring levels of one sign; rounding may add one."""

BLOCK_WIDTH, BLOCK_ZERO = 32, 128
"""Numbers that share a scale in a table of 8-bit blocks, and the level that stands for 0."""

NAME_JOINT, SCALE_SUFFIX = "|", ".scale"
"""What stands between the names of weights that lie side by side in one array, and what follows the name of
int8 weights in the name of their scales."""


def quantise_blocks(rows: "FloatArray") -> "tuple[NDArray[np.uint8], FloatArray]":
    """Levels (n, blocks, BLOCK_WIDTH), of which BLOCK_ZERO stands for 0, and scales (n, blocks).

    Numbers that were unpacked from blocks of 8 bits (GGUF's Q8_0) are held as they are.
    """
    import numpy as np

    padded = np.pad(rows, ((0, 0), (0, -rows.shape[1] % BLOCK_WIDTH)))
    blocks = padded.reshape(len(rows), -1, BLOCK_WIDTH)
    largest = np.abs(blocks).max(axis=2)
    scale = (np.where(largest > 0, largest, 1.0) / 127).astype(np.float32)
    levels = np.clip(np.rint(blocks / scale[:, :, None]), -127, 127) + BLOCK_ZERO
    return levels.astype(np.uint8), scale


def quantise_pairs(columns: "FloatArray") -> "tuple[NDArray[np.int8], FloatArray]":
    """Levels (in, out) and one scale a column, finer than those of `quantise_int8` and as safe.

    A CPU without VNNI adds the products of two neighbouring rows in 16 bits. So it is not each level but the
    sum of two neighbours of one sign that is bounded: 255·128 fits.
    """
    import numpy as np

    padded = np.pad(columns, ((0, len(columns) % 2), (0, 0)))
    pairs = padded.reshape(-1, 2, columns.shape[1])
    sums = np.maximum(np.maximum(pairs, 0).sum(axis=1), np.maximum(-pairs, 0).sum(axis=1)).max(axis=0)
    largest = np.abs(columns).max(axis=0)
    scale = np.maximum(largest / 127, sums / PAIR_LEVELS)
    scale = np.where(scale > 0, scale, 1.0).astype(np.float32)
    return np.rint(columns / scale).astype(np.int8), scale


def quantise_int8(weights: "FloatArray", axis: int) -> "tuple[NDArray[np.int8], FloatArray]":
    """Symmetric levels (int8) and scales (float32), one for each index of the axis that is not `axis`."""
    import numpy as np

    largest = np.abs(weights).max(axis=axis, keepdims=True)
    scale = np.where(largest > 0, largest, 1.0) / INT8_LEVELS
    levels = np.clip(np.rint(weights / scale), -INT8_LEVELS, INT8_LEVELS).astype(np.int8)
    return levels, scale.astype(np.float32).reshape(-1)
