"""Finds blocks of lines that a commit removes in one place and adds in another.

A block needs `MIN_BLOCK_CHARACTERS` letters and digits, as in `git diff --color-moved` and `git blame -M`;
formatting is ignored. Lines that only change their order within one hunk are not moved: their
order may be what was wrong.
"""

import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gitpeft.learn.szz.edits import CommitEdit, FileEdit, split_sides, strip_formatting

MIN_BLOCK_CHARACTERS = 20
"""Letters and digits that a block must have."""

MAX_CHANGED_LINES = 20_000
"""In a commit with more changed lines, blocks are not searched."""

_MAX_PLACES = 20
_NON_ALNUM = re.compile(rb"[^A-Za-z0-9]")


@dataclass(slots=True)
class _StrippedHunk:
    """One hunk: its file, where it begins on both sides, and its lines without their formatting."""

    file: FileEdit
    old: int
    new: int
    removed: list[bytes]
    added: list[bytes]


def find_moved_blocks(edit: CommitEdit) -> list[tuple[str, int, str, int, int]]:
    """The blocks: old path and line, new path and line (from 1, paths as git quotes them), and length."""
    places = [place for file in edit.files for place in file.places or ()]
    removed, added = (sum(place[side] for place in places) for side in (1, 3))
    if not removed or not added or removed + added > MAX_CHANGED_LINES:
        return []
    hunks = list(_strip_hunks(edit))
    index: dict[bytes, list[tuple[int, int]]] = {}
    for number, hunk in enumerate(hunks):
        for i, key in enumerate(hunk.removed):
            if key:
                index.setdefault(key, []).append((number, i))
    return [
        (hunks[at].file.old_path, hunks[at].old + i, hunk.file.path, hunk.new + j, size)
        for number, hunk in enumerate(hunks)
        for at, i, j, size in _match_added_blocks(hunk.added, number, hunks, index)
    ]


def _strip_hunks(edit: CommitEdit) -> Iterator[_StrippedHunk]:
    for file in edit.files:
        for place, body in zip(file.places or (), file.bodies, strict=bool(file.places)):
            old, new = ([strip_formatting([line]) for line in lines] for lines in split_sides(body))
            yield _StrippedHunk(file, place[0], place[2], old, new)


def _match_added_blocks(
    added: Sequence[bytes],
    number: int,
    hunks: Sequence[_StrippedHunk],
    index: Mapping[bytes, list[tuple[int, int]]],
) -> Iterator[tuple[int, int, int, int]]:
    """The blocks that one hunk puts in: the hunk that takes each out, the places in both, and the length."""
    j = 0
    while j < len(added):
        places = [(at, i) for at, i in index.get(added[j], ())[:_MAX_PLACES] if at != number]
        runs = [(_count_equal_lines(hunks[at].removed, i, added, j), at, i) for at, i in places]
        size, at, i = max(runs, default=(0, 0, 0), key=lambda run: run[0])
        if (
            size
            and sum(len(_NON_ALNUM.sub(b"", line)) for line in added[j : j + size]) >= MIN_BLOCK_CHARACTERS
        ):
            yield at, i, j, size
        j += max(size, 1)


def _count_equal_lines(removed: Sequence[bytes], i: int, added: Sequence[bytes], j: int) -> int:
    size = 0
    while i + size < len(removed) and j + size < len(added) and removed[i + size] == added[j + size]:
        size += 1
    return size
