"""Pairs removed lines with the added lines that replaced them, and finds what differs inside; linear time."""

import re
from collections.abc import Iterator, Sequence

from gitpeft.lazy import lazy_pattern

LOOK_AHEAD = 3
"""So many lines further on a partner is looked for."""

_TOKEN = lazy_pattern(r"\d+(?:\.\w+)+|\w+|\s+|.")
_ALIKE = 0.5

Pair = tuple[str | None, str | None]
"""A removed line and the added one that took its place; None where there is none."""


def iterate_runs(lines: Sequence[str]) -> Iterator[tuple[str, list[Pair]]]:
    """The runs of changed lines of a hunk, each with the line before it ("" at the hunk's start)."""
    before = ""
    removed: list[str] = []
    added: list[str] = []
    for line in [*lines, " "]:
        if line[0] == "-" and not added:
            removed.append(line[1:])
        elif line[0] == "+":
            added.append(line[1:])
        else:
            if removed or added:
                yield before, pair_lines(removed, added)
            before = before if line[0] == "-" else line[1:]
            removed, added = ([line[1:]] if line[0] == "-" else []), []


def pair_lines(removed: Sequence[str], added: Sequence[str]) -> list[Pair]:
    """Each line of a run, those that are alike side by side, in the order of both."""
    found: list[Pair] = []
    i = j = 0
    while i < len(removed) and j < len(added):
        skip = _find_partner(removed, added, i, j)
        if skip is None:
            found += [(removed[i], None), (None, added[j])]
            i, j = i + 1, j + 1
            continue
        found += [(line, None) for line in removed[i : i + skip[0]]]
        found += [(None, line) for line in added[j : j + skip[1]]]
        i, j = i + skip[0], j + skip[1]
        found.append((removed[i], added[j]))
        i, j = i + 1, j + 1
    return found + [(line, None) for line in removed[i:]] + [(None, line) for line in added[j:]]


def _find_partner(removed: Sequence[str], added: Sequence[str], i: int, j: int) -> tuple[int, int] | None:
    """How many lines of each side to skip until two are alike; None where that is too far."""
    for ahead in range(LOOK_AHEAD):
        if j + ahead < len(added) and are_alike(removed[i], added[j + ahead]):
            return 0, ahead
        if ahead and i + ahead < len(removed) and are_alike(removed[i + ahead], added[j]):
            return ahead, 0
    return None


def are_alike(old: str, new: str) -> bool:
    """Whether two lines share at least half of their text at their start and end."""
    old, new = old.strip(), new.strip()
    shorter, longer = sorted((len(old), len(new)))
    if not shorter or shorter * 3 < longer:
        return False
    start = common_prefix_length(old, new)
    if start >= _ALIKE * longer:
        return True
    end = min(common_prefix_length(old[::-1], new[::-1]), shorter - start)
    return start + end >= _ALIKE * longer


def common_prefix_length(a: str, b: str) -> int:
    """How many characters two texts share at their start."""
    most = min(len(a), len(b))
    if a[:1] != b[:1] or a[:most] == b[:most]:
        return most if a[:most] == b[:most] else 0
    same, differs = 1, most
    while differs - same > 1:  # whole slices are compared much faster than one character after another
        middle = (same + differs) // 2
        if a[same:middle] == b[same:middle]:
            same = middle
        else:
            differs = middle
    return same


def split_change(old: str, new: str) -> tuple[str, str, str, str]:
    """What two lines share at their start, the words of each in between, and what they share at their end."""
    a, b = _TOKEN.findall(old), _TOKEN.findall(new)
    most = min(len(a), len(b))
    start = 0
    while start < most and a[start] == b[start]:
        start += 1
    end = 0
    while end < most - start and a[-1 - end] == b[-1 - end]:
        end += 1
    before, after = "".join(a[:start]), "".join(a[len(a) - end :])
    return (
        before,
        "".join(a[start : len(a) - end]),
        "".join(b[start : len(b) - end]),
        after,
    )


def find_version_change(old: str, new: str, version: re.Pattern[str]) -> tuple[str, str] | None:
    """The first version that one line changed, before and after; None where anything else differs too."""
    was, became = version.findall(old), version.findall(new)
    if not was or len(was) != len(became) or was == became or version.sub("", old) != version.sub("", new):
        return None
    return next(pair for pair in zip(was, became, strict=True) if pair[0] != pair[1])
