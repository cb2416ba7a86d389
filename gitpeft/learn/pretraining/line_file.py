"""The lines of a file by number, read when they are asked for: a corpus need not fit into memory."""

import mmap
from array import array
from pathlib import Path


class LineFile:
    """Lines without their ends. Forked processes may read from it, too."""

    def __init__(self, path: Path) -> None:
        self._starts = array("q", [0])
        with path.open("rb") as file:
            for line in file:
                self._starts.append(self._starts[-1] + len(line))
            is_empty = len(self._starts) == 1  # which cannot be mapped
            self._content = b"" if is_empty else mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ)

    def __len__(self) -> int:
        return len(self._starts) - 1

    def __getitem__(self, place: int) -> bytes:
        if not 0 <= place < len(self):
            raise IndexError(place)
        return self._content[self._starts[place] : self._starts[place + 1]].rstrip(b"\n")
