"""Files that are read in parts: a block is checked when it is read, so a read costs what it returns.

Beside such a file a table holds the CRC-32 of each of its blocks. The table is small, and whoever opens the
file has checked it. Parts are read, not mapped: a file that somebody truncates ends in a sentence, where a
mapped one would kill the process.
"""

import os
import zlib
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitpeft.bundle.manifest import REBUILD_HINT
from gitpeft.errors import GitpeftError

if TYPE_CHECKING:
    from numpy.typing import NDArray

BLOCK_BYTES = 4096


def compute_checksums(raw: bytes | memoryview) -> bytes:
    """The CRC-32 of each block of a file, as little-endian 32-bit integers."""
    return b"".join(zlib.crc32(block).to_bytes(4, "little") for block in _iterate_blocks(raw))


def count_blocks(size: int) -> int:
    """The number of blocks of a file of `size` bytes."""
    return -(-size // BLOCK_BYTES)


def _iterate_blocks(raw: bytes | memoryview) -> Iterator[memoryview]:
    view = memoryview(raw)
    return (view[start : start + BLOCK_BYTES] for start in range(0, len(raw), BLOCK_BYTES))


class BlockFile:
    """A file of `size` bytes, open as long as this object lives; OSError when it cannot be opened.

    `checksums` are those of its blocks, as `compute_checksums` gives them.
    """

    def __init__(self, path: Path, size: int, checksums: bytes) -> None:
        self._path = path
        self._size = size
        self._checksums = memoryview(checksums)
        self._handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)

    def __del__(self) -> None:
        if (handle := getattr(self, "_handle", None)) is not None:
            os.close(handle)

    def read(self, start: int, stop: int) -> bytes:
        """The bytes from `start` to `stop`; GitpeftError when a block of them is damaged or missing."""
        first, last = start // BLOCK_BYTES, count_blocks(min(stop, self._size))
        if start >= stop or first >= last:
            return b""
        offset = first * BLOCK_BYTES
        raw = os.pread(self._handle, last * BLOCK_BYTES - offset, offset)
        for number, block in enumerate(_iterate_blocks(raw), first):
            if zlib.crc32(block) != int.from_bytes(self._checksums[4 * number : 4 * number + 4], "little"):
                raise _report_damage(self._path)
        if offset + len(raw) < min(stop, self._size):
            raise _report_damage(self._path)
        return raw[start - offset : stop - offset]


def _report_damage(path: Path) -> GitpeftError:
    return GitpeftError(f"{path.name} of the model is damaged", REBUILD_HINT)


class BlockArray:
    """A one-dimensional array of little-endian numbers in a `BlockFile`; a slice reads what it returns."""

    def __init__(self, file: BlockFile, size: int, dtype: str) -> None:
        import numpy as np

        self._file = file
        self._dtype = np.dtype(dtype)
        self._length = size // self._dtype.itemsize

    def __len__(self) -> int:
        return self._length

    def __getitem__(self, place: slice) -> "NDArray[Any]":
        """The numbers of a slice with step 1, as an array of its own."""
        import numpy as np

        start, stop, _ = place.indices(len(self))
        width = self._dtype.itemsize
        return np.frombuffer(self._file.read(start * width, stop * width), dtype=self._dtype)
