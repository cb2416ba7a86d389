"""Indexes over the oldest commits of one history, from terms that are counted once.

A training asks for several indexes of the same commits: up to the validation part, up to the test part, of
all. Counting terms and taking notes costs a millisecond a commit, on all cores; an index of counted terms
costs a tenth of that.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Protocol, overload

import numpy as np

from gitpeft.history import pool
from gitpeft.history.step_share import CountListener
from gitpeft.suggest.commit_notes import describe_commit
from gitpeft.suggest.index_arrays import TermCounts
from gitpeft.suggest.retrieval import CommitIndex
from gitpeft.suggest.terms import extract_terms, pack_terms

_PARALLEL_THRESHOLD = 2000
"""From this many commits on, several processes count."""

_BATCH_SIZE = 256
_KEPT_INDEXES = 2


class IndexedCommit(Protocol):
    """A commit by its id, with its subject and its stored or compact change."""

    @property
    def sha(self) -> str:
        """The id."""

    @property
    def message(self) -> str:
        """The subject."""

    @property
    def change(self) -> str:
        """The stored or compact change."""


@dataclass(frozen=True, slots=True)
class _CountedBlock:
    """Some commits in a row: their packed terms one after another, the bytes of each, and their notes."""

    packed: bytes
    sizes: list[int]
    notes: list[str]


class ExampleIndexer:
    """The counted terms of commits and the notes on them, oldest first."""

    def __init__(self, commits: Sequence[IndexedCommit], counted: TermCounts, notes: Sequence[str]) -> None:
        self._shas = [commit.sha for commit in commits]
        self._subjects = [commit.message for commit in commits]
        self._counted, self._notes = counted, notes
        self._bounds = np.concatenate([[0], np.cumsum(counted.lengths, dtype=np.int64)])
        self._built: dict[int, CommitIndex] = {}

    def __len__(self) -> int:
        """The number of commits."""
        return len(self._shas)

    @classmethod
    def count(
        cls,
        commits: Sequence[IndexedCommit],
        listen: CountListener | None = None,
        is_enough: Callable[[int], bool] | None = None,
    ) -> "ExampleIndexer":
        """Count the terms of commits, oldest first; many of them in several processes.

        The newest are counted first, and those that came before them are left out once `is_enough`, asked
        with the number that is counted, says so.
        """
        blocks: list[_CountedBlock] = []
        counted = 0
        for block in _count_newest_first(commits):
            blocks.append(block)
            counted += len(block.notes)
            if listen:
                listen(counted, len(commits))
            if is_enough and is_enough(counted):
                break
        blocks.reverse()
        notes = [one for block in blocks for one in block.notes]
        return cls(commits[len(commits) - counted :], _join_counts(blocks), notes)

    def build(self, count: int) -> CommitIndex:
        """The index of the first `count` commits; the last ones are kept."""
        if count not in self._built:
            for older in list(self._built)[: max(0, len(self._built) + 1 - _KEPT_INDEXES)]:
                del self._built[older]
            end = int(self._bounds[count])
            part = TermCounts(
                self._counted.terms[:end], self._counted.counts[:end], self._counted.lengths[:count]
            )
            self._built[count] = CommitIndex.build_from_counts(
                part, self._subjects[:count], self._notes[:count], self._shas[:count]
            )
        return self._built[count]

    def find_exemplars(self, place: int, indexed: int, before: int, neighbours: int) -> tuple[str, ...]:
        """Subjects of the nearest of the first `before` commits, in an index of the first `indexed`."""
        if not before:
            return ()
        start, end = self._bounds[place : place + 2]
        terms, counts = self._counted.terms[start:end], self._counted.counts[start:end]
        near = self.build(indexed).find_nearest_by_terms(terms, counts, neighbours, before=before)
        return tuple(neighbour.subject for neighbour in near)

    def promise_exemplars(self, place: int, indexed: int, before: int, neighbours: int) -> "LazyExemplars":
        """The same as `find_exemplars`, found when it is read."""
        return LazyExemplars(lambda: self.find_exemplars(place, indexed, before, neighbours))


class LazyExemplars(Sequence[str]):
    """Subjects that are searched for when they are read: most examples of a long history never are."""

    __slots__ = ("_found",)

    def __init__(self, find: Callable[[], tuple[str, ...]]) -> None:
        self._found: Callable[[], tuple[str, ...]] | tuple[str, ...] = find

    def _get_found(self) -> tuple[str, ...]:
        if not isinstance(self._found, tuple):
            self._found = self._found()
        return self._found

    @overload
    def __getitem__(self, place: int) -> str: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[str, ...]: ...
    def __getitem__(self, place: int | slice) -> str | tuple[str, ...]:
        return self._get_found()[place]

    def __len__(self) -> int:
        return len(self._get_found())

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and self._get_found() == tuple(other)

    def __hash__(self) -> int:
        return hash(self._get_found())

    def __repr__(self) -> str:
        return repr(self._get_found())


def _join_counts(blocks: list[_CountedBlock]) -> TermCounts:
    """The terms of all blocks, oldest first; each block is let go once it is copied."""
    lengths = np.array([size // 8 for block in blocks for size in block.sizes], dtype=np.int32)
    terms, counts = np.empty((2, int(lengths.sum(dtype=np.int64))), dtype=np.uint32)
    end = len(terms)
    while blocks:
        pairs = np.frombuffer(blocks.pop().packed, dtype="<u4").reshape(-1, 2)
        terms[end - len(pairs) : end], counts[end - len(pairs) : end] = pairs.T
        end -= len(pairs)
    return TermCounts(terms, counts, lengths)


def _count_newest_first(commits: Sequence[IndexedCommit]) -> Iterator[_CountedBlock]:
    """The terms of all commits and the notes on them, block by block, the newest block first."""
    jobs = pool.count_cores()
    ends = range(len(commits), 0, -_BATCH_SIZE)
    blocks = [range(max(0, end - _BATCH_SIZE), end) for end in ends]
    if len(commits) < _PARALLEL_THRESHOLD or jobs < 2 or not pool.can_fork():
        for block in blocks:
            found = [_describe_commit(commits[place]) for place in block]
            terms = [one for one, _ in found]
            yield _CountedBlock(b"".join(terms), list(map(len, terms)), [notes for _, notes in found])
        return
    # workers answer in turn, block by block, so the blocks come back in their order
    shares = [blocks[first::jobs] for first in range(jobs)]
    for packed, sizes, notes in pool.map_in_processes(shares, lambda share: _describe_blocks(commits, share)):
        yield _CountedBlock(bytes.fromhex(packed), sizes, notes)


def _describe_blocks(
    commits: Sequence[IndexedCommit], blocks: Iterable[Sequence[int]]
) -> Iterator[tuple[str, list[int], list[str]]]:
    for block in blocks:
        found = [_describe_commit(commits[place]) for place in block]
        terms = [one for one, _ in found]
        yield b"".join(terms).hex(), list(map(len, terms)), [notes for _, notes in found]


def _describe_commit(commit: IndexedCommit) -> tuple[bytes, str]:
    change = commit.change
    return pack_terms(extract_terms(change)), describe_commit(commit.message, change)
