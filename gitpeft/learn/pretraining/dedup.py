"""Finds changes that are nearly the same as earlier ones, among hundreds of thousands.

MinHash with banding (Broder 1997; Leskovec, Rajaraman, Ullman, *Mining of Massive Datasets*, chapter 3) over
the set of a change's paths and changed lines; digits and white space are ignored. It is written here, in 20
lines of numpy: datasketch would bring scipy along, and its other hash functions would let other commits
through, so that the recorded bases could not be made again.
"""

import re
import zlib
from collections import Counter

import numpy as np
from numpy.typing import NDArray

_BANDS, _ROWS = 8, 4
_MIN_SIMILARITY = 0.8
"""Changes of at least this estimated Jaccard similarity are copies."""

_MAX_COPIES = 3
"""At most this many copies of a change are used for training, over all repositories."""

_HASH_PRIME = (1 << 31) - 1
_HASH_FACTORS, _HASH_OFFSETS = np.random.default_rng(5).integers(
    1, _HASH_PRIME, size=(2, _BANDS * _ROWS, 1), dtype=np.uint64
)


class NearDuplicateFilter:
    """Lets a change and its near duplicates through at most `_MAX_COPIES` times."""

    def __init__(self) -> None:
        self._seen: Counter[int] = Counter()
        self._sketches: list[NDArray[np.uint32]] = []
        self._bands: dict[tuple[int, bytes], int] = {}

    def __call__(self, change: str) -> bool:
        """Whether this change, a text of `diff.compact`, is still within the limit."""
        sketch = _compute_minhash(change)
        keys = [(band, row.tobytes()) for band, row in enumerate(sketch.reshape(_BANDS, _ROWS))]
        near = {self._bands[key] for key in keys if key in self._bands}
        first = max(near, key=lambda i: self._estimate_similarity(i, sketch), default=-1)
        if first < 0 or self._estimate_similarity(first, sketch) < _MIN_SIMILARITY:
            first = len(self._sketches)
            self._sketches.append(sketch)
            self._bands |= dict.fromkeys(keys, first)
        self._seen[first] += 1
        return self._seen[first] <= _MAX_COPIES

    def _estimate_similarity(self, i: int, sketch: NDArray[np.uint32]) -> float:
        return float((self._sketches[i] == sketch).mean())


def _compute_minhash(change: str) -> NDArray[np.uint32]:
    """The smallest value of each hash function over the set, (`_BANDS` x `_ROWS`)."""
    lines = {re.sub(r"\d+|\s+", "", line) for line in change.split("\n") if line[:1] in ("#", "+", "-")}
    lines = lines or {change}
    hashes = np.array([zlib.crc32(line.encode()) for line in lines], dtype=np.uint64)
    smallest: NDArray[np.uint64] = ((hashes[None, :] * _HASH_FACTORS + _HASH_OFFSETS) % _HASH_PRIME).min(1)
    return smallest.astype(np.uint32)
