"""Bag of words of a change, hashed into a fixed number of buckets; needs the standard library only."""

import math
import re
import zlib
from collections.abc import Sequence

BUCKET_COUNT = 2048
"""Number of buckets, and so of weights, whatever the vocabulary of a history (feature hashing)."""

_WORD_PATTERN = re.compile(r"[A-Za-z_]\w*|\d+|[^\w\s]")


def hash_words(change: str) -> set[int]:
    """The buckets (0 to `BUCKET_COUNT` - 1) of the words in the lines, headings and paths of a compact
    change.

    A word that is added, removed, in a heading or in a path is a different word each time.
    """
    found: set[str] = set()
    for line in change.split("\n"):
        if line[:1] in ("+", "-", "@", "#"):
            found.update(line[0] + word.lower() for word in _WORD_PATTERN.findall(line, 1))
    return {zlib.crc32(word.encode()) % BUCKET_COUNT for word in found}


def score_words(change: str, weights: Sequence[float]) -> float:
    """The sum of the words' weights divided by the root of their number, so that size alone has no effect."""
    found = hash_words(change)
    return sum(weights[i] for i in found) / math.sqrt(len(found)) if found else 0.0
