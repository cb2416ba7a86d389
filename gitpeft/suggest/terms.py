"""The terms by which retrieval compares changes: hashed words of paths, headings and lines, and counts.

A module of its own because the hook counts the terms of new commits without searching the index.
"""

import struct
import zlib
from collections import Counter

from gitpeft.diff.compact import split_compact
from gitpeft.diff.stored import shorten_change
from gitpeft.lazy import lazy_dataclass, lazy_pattern

_IDENTIFIER_PATTERN = lazy_pattern(r"[A-Za-z_][A-Za-z_0-9]{2,}")
_MAX_TERMS = 160
_PATH_COUNT, _FOLDER_COUNT, _STEM_COUNT, _SUFFIX_COUNT = 6, 1, 2, 1
"""How many occurrences of an identifier a path counts as, and its folder, its name and its suffix."""


@lazy_dataclass(frozen=True, slots=True)
class IndexEntry:
    """A commit to be added to an index: `terms` are those of its change as `pack_terms` writes them.

    `notes` are those of `commit_notes.describe_commit`.
    """

    sha: str
    subject: str
    terms: bytes
    notes: str = ""


def extract_terms(change: str) -> Counter[int]:
    """The terms of a change in its compact form with their counts: the 160 most frequent, as CRC-32.

    Of a stored text (`diff.stored`) the compact form is made first: a change has the same terms in both.

    Terms are each path, its folder, its name and its suffix (with the kind of file change), and the
    identifiers of headings and lines in lower case; those of added and removed lines count again with the
    sign, so that a removed word is another term than an added one.
    """
    files, blocks = split_compact(shorten_change(change))
    counts: Counter[str] = Counter()
    for label, path in files:
        _count_path_terms(counts, label, path)
    for block in blocks.values():
        for line in block:
            _count_line_terms(counts, line)
    return Counter({zlib.crc32(term.encode()): count for term, count in counts.most_common(_MAX_TERMS)})


def _count_path_terms(counts: Counter[str], label: str, path: str) -> None:
    folder, _, name = path.rpartition("/")
    stem, _, suffix = name.partition(".")
    counts[f"p:{path}"] += _PATH_COUNT
    counts[f"d:{folder}"] += _FOLDER_COUNT
    counts[f"n:{stem.lower()}"] += _STEM_COUNT
    counts[f"x:{suffix}{label.rpartition(' ')[2] if label[-1:].isalpha() else ''}"] += _SUFFIX_COUNT


def _count_line_terms(counts: Counter[str], line: str) -> None:
    sign = line[:1] if line[:1] in "+-" else ""
    for word in _IDENTIFIER_PATTERN.findall(line):
        counts[word.lower()] += 1
        if sign:
            counts[sign + word.lower()] += 1


def pack_terms(counts: Counter[int]) -> bytes:
    """Terms and their counts as pairs of little-endian 32-bit integers, for an `IndexEntry`."""
    return struct.pack(f"<{2 * len(counts)}I", *(number for pair in counts.items() for number in pair))
