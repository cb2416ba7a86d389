"""Base weights in 4-bit blocks, read with numpy: so a base of 135 M weights can be part of the package.

A packed base has the usual files; its `model.safetensors` holds matrices as rows of blocks, the very bytes
that llama.cpp's GGUF format has for them. Each block stands for 32 weights of a row:

    NAME.q4_1   20 bytes: scale d and minimum m (float16), then 32 whole numbers q of 4 bits; d·q + m. The
                lower halves of the last 16 bytes are the first 16 weights, their upper halves the others
    NAME.q8_0   34 bytes: scale d (float16), then 32 whole numbers q of 8 bits; d·q
    NAME        an array in float32, such as the weights of a normalisation
"""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from gitpeft.bundle.embedded import BASE_WEIGHTS_FILE
from gitpeft.errors import GitpeftError

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    FloatArray = NDArray[np.float32]
    ByteArray = NDArray[np.uint8]

PACKED_FORMAT = "gitpeft-blocks"
"""`format` in the metadata of a packed base's weights."""

BLOCK_WEIGHTS = 32
BLOCK_BYTES = {"q4_1": 20, "q8_0": 34}
"""Bytes of a block, by its form."""

_HEADER_LIMIT = 16 << 20


def is_packed_base(folder: Path) -> bool:
    """Whether a base's weights are packed; False when they cannot be read."""
    try:
        with (folder / BASE_WEIGHTS_FILE).open("rb") as file:
            size = int.from_bytes(file.read(8), "little")
            header = json.loads(file.read(size)) if size <= _HEADER_LIMIT else {}
    except (OSError, ValueError, RecursionError):
        return False
    metadata = header.get("__metadata__") if isinstance(header, dict) else None
    return isinstance(metadata, dict) and metadata.get("format") == PACKED_FORMAT


class PackedWeights:
    """The weights of a packed base, each unpacked when it is asked for."""

    def __init__(self, folder: Path) -> None:
        """Open the weights of a base; GitpeftError when they are damaged or not packed."""
        from safetensors import SafetensorError, safe_open

        path = folder / BASE_WEIGHTS_FILE
        if not is_packed_base(folder):
            raise GitpeftError(f"{path} holds no packed weights", _DAMAGED_HINT)
        try:
            self._file = cast("Any", safe_open(path, "numpy"))
            names: list[str] = self._file.keys()
            self._forms = dict(map(_split_name, names))
        except (OSError, SafetensorError) as error:
            raise GitpeftError(f"{path} cannot be read: {error}", _DAMAGED_HINT) from None

    def __iter__(self) -> Iterator[str]:
        """The names of the weights."""
        return iter(self._forms)

    def __contains__(self, name: object) -> bool:
        return name in self._forms

    def read(self, name: str) -> "FloatArray":
        """A weight as float32; KeyError for an unknown name, GitpeftError for an array of a wrong shape."""
        form = self._forms[name]
        stored = self._file.get_tensor(f"{name}.{form}" if form else name)
        return unpack_blocks(stored, form) if form else stored.astype("float32")


_DAMAGED_HINT = "install gitpeft again, or name another base"


def _split_name(stored: str) -> tuple[str, str]:
    name, _, form = stored.rpartition(".")
    return (name, form) if form in BLOCK_BYTES else (stored, "")


def unpack_blocks(rows: "ByteArray", form: str) -> "FloatArray":
    """Rows of blocks (n, bytes) as weights (n, 32 · blocks); GitpeftError when the bytes are no whole blocks.

    Every weight is computed in float32 from the float16 numbers of its block, as llama.cpp does.
    """
    import numpy as np

    size = BLOCK_BYTES[form]
    if rows.ndim != 2 or rows.dtype != np.uint8 or rows.shape[1] % size:
        raise GitpeftError("the base's packed weights are damaged", _DAMAGED_HINT)
    blocks = rows.reshape(len(rows), -1, size)
    return _UNPACKERS[form](blocks).reshape(len(rows), -1)


def _unpack_q4_1(blocks: "ByteArray") -> "FloatArray":
    import numpy as np

    scale, least = (_read_half(blocks[..., at : at + 2]) for at in (0, 2))
    pairs = blocks[..., 4:]
    levels = np.concatenate([pairs & 15, pairs >> 4], axis=-1).astype(np.float32)
    levels *= scale
    levels += least
    return levels


def _unpack_q8_0(blocks: "ByteArray") -> "FloatArray":
    import numpy as np

    levels = np.ascontiguousarray(blocks[..., 2:]).view(np.int8).astype(np.float32)
    levels *= _read_half(blocks[..., :2])
    return levels


def _read_half(raw: "ByteArray") -> "FloatArray":
    """Two bytes each as a float16, widened."""
    import numpy as np

    return np.ascontiguousarray(raw).view("<f2").astype(np.float32)


_UNPACKERS: "dict[str, Callable[[ByteArray], FloatArray]]" = {"q4_1": _unpack_q4_1, "q8_0": _unpack_q8_0}
