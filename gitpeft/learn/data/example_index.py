"""Indexes over the oldest commits of one history, from terms that are counted once.

A training asks for several indexes of the same commits: up to the validation part, up to the test part, of
all. Counting terms and finding slots costs a millisecond a commit, on all cores; an index of counted terms
costs a tenth of that.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import overload

import numpy as np

from gitpeft.history import pool
from gitpeft.suggest.analogy import describe_slots
from gitpeft.suggest.index_arrays import TermCounts
from gitpeft.suggest.retrieval import CommitIndex
from gitpeft.suggest.terms import extract_terms, pack_terms

CountedListener = Callable[[int, int], None]
"""Called with how many commits of how many are counted."""

_PARALLEL_THRESHOLD = 2000
"""From this many commits on, several processes count."""

_BATCH_SIZE = 256
_KEPT_INDEXES = 2

IndexedCommit = tuple[str, str, str]
"""Id, subject, and stored or compact change."""


class ExampleIndexer:
    """The counted terms and the slots of commits, oldest first."""

    def __init__(self, commits: Sequence[IndexedCommit], counted: TermCounts, slots: Sequence[str]) -> None:
        self._shas = [sha for sha, _, _ in commits]
        self._subjects = [subject for _, subject, _ in commits]
        self._counted, self._slots = counted, slots
        self._bounds = np.concatenate([[0], np.cumsum(counted.lengths, dtype=np.int64)])
        self._built: dict[int, CommitIndex] = {}

    @classmethod
    def count(
        cls, commits: Sequence[IndexedCommit], listen: CountedListener | None = None
    ) -> "ExampleIndexer":
        """Count the terms of commits, oldest first; many of them in several processes."""
        packed: list[bytes] = []
        slots: list[str] = []
        for terms, one in _describe_commits(commits):
            packed.append(terms)
            slots.append(one)
            if listen and (len(slots) % _BATCH_SIZE == 0 or len(slots) == len(commits)):
                listen(len(slots), len(commits))
        pairs = np.frombuffer(b"".join(packed), dtype="<u4").reshape(-1, 2)
        lengths = np.array([len(one) // 8 for one in packed], dtype=np.int32)
        counted = TermCounts(pairs[:, 0].copy(), pairs[:, 1].copy(), lengths)
        return cls(commits, counted, slots)

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
                part, self._subjects[:count], self._slots[:count], self._shas[:count]
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


def _describe_commits(commits: Sequence[IndexedCommit]) -> Iterator[tuple[bytes, str]]:
    """Packed terms and slots of each commit, in order."""
    jobs = pool.count_cores()
    if len(commits) < _PARALLEL_THRESHOLD or jobs < 2 or not pool.can_fork():
        yield from map(_describe_commit, commits)
        return
    blocks = [range(at, min(len(commits), at + _BATCH_SIZE)) for at in range(0, len(commits), _BATCH_SIZE)]
    # workers answer in turn, block by block, so the blocks come back in their order
    for block in pool.map_in_processes(
        [blocks[first::jobs] for first in range(jobs)], lambda share: _describe_blocks(commits, share)
    ):
        for terms, slots in block:
            yield bytes.fromhex(terms), slots


def _describe_blocks(
    commits: Sequence[IndexedCommit], blocks: Iterable[Sequence[int]]
) -> Iterator[list[tuple[str, str]]]:
    for block in blocks:
        found = [_describe_commit(commits[place]) for place in block]
        yield [(terms.hex(), slots) for terms, slots in found]


def _describe_commit(commit: IndexedCommit) -> tuple[bytes, str]:
    _, subject, change = commit
    return pack_terms(extract_terms(change)), describe_slots(subject, change)
