"""What a change says, word by word: hides how changed lines become numbers that a score can weigh.

The standard library is all that is needed, so that the hook pays next to nothing for it.
"""

import math
import re
import zlib
from collections.abc import Sequence

BUCKET_COUNT = 2048
"""Words are told apart by hash only: there are this many weights, whatever a history holds."""

_WORD_PATTERN = re.compile(r"[A-Za-z_]\w*|\d+|[^\w\s]")


def hash_words(change: str) -> set[int]:
    """Numbers 0..BUCKETS-1 of the words of a compact change: added, removed, in headings, and in its paths.

    The same word counts as another one where it is added, removed, or names a file.
    """
    found: set[str] = set()
    for line in change.split("\n"):
        if line[:1] in ("+", "-", "@", "#"):
            found.update(line[0] + word.lower() for word in _WORD_PATTERN.findall(line, 1))
    return {zlib.crc32(word.encode()) % BUCKET_COUNT for word in found}


def score_words(change: str, weights: Sequence[float]) -> float:
    """The weights of the words, summed and divided by the root of their number: size alone says nothing."""
    found = hash_words(change)
    return sum(weights[i] for i in found) / math.sqrt(len(found)) if found else 0.0
