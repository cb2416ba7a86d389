"""Computes the change metrics of every commit of a history in one pass.

Commits are numbered by time, and a set of commits (ancestors, the changes of a file, those of an author) is a
compressed bitmap (Chambi et al. 2016), in which the ancestors of a commit of a million take a few bytes where
few branches are open. The queries of `HistoryContext` are then a few operations on such sets, exact along all
parents. Of files only those are read that a measured commit asks about.
"""

import time
from array import array
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
from pyroaring import BitMap

from gitpeft.git.repository import Repository
from gitpeft.history.context import MAX_LINEAGE_NAMES, YEAR_SECONDS, MeasuredChange, Period
from gitpeft.history.store import History
from gitpeft.lazy import replace_fields
from gitpeft.risk.change_metrics import DAY_SECONDS, ChangeMetrics, compute_change_metrics
from gitpeft.risk.real_lines import measure_stored_shares


@dataclass(frozen=True, slots=True)
class MeasuredCommit:
    """A commit with its metrics and what they were made from."""

    sha: str
    change: MeasuredChange
    metrics: ChangeMetrics


def measure_history(
    history: History, repository: Repository, tip: str = "HEAD", without: Collection[str] = ()
) -> list[MeasuredCommit]:
    """The stored commits that `tip` reaches and that are no merges, oldest first by their moment.

    Where dates are out of order, a commit may so come before its parents. Those in `without` are known to
    the others, but not measured.
    """
    listed = repository.rev_list(repository.resolve_commit(tip))
    changes = _load_changes(history, [sha for sha, _ in listed if sha not in without])
    past = _ReplayedContext(history, {sha for sha, _ in listed})
    found = []
    for sha, ancestors in _iter_ancestor_sets(listed, past.number):
        if sha in changes:
            past.move_to(ancestors)
            found.append(MeasuredCommit(sha, changes[sha], compute_change_metrics(past, changes[sha])))
    return sorted(found, key=lambda one: one.change.time)


def _load_changes(history: History, shas: Sequence[str]) -> dict[str, MeasuredChange]:
    """The stored ones of these commits by id, with the shares of their lines that say something."""
    changes = history.load_measured_changes(shas)
    for sha, text in history.iter_changes(list(changes)):
        changes[sha] = replace_fields(changes[sha], real_shares=measure_stored_shares(text))
    return changes


def find_latest_time(measured: Sequence[MeasuredCommit]) -> int:
    """The time of the newest commit, 0 without any; dates in the future do not count."""
    times = [one.change.time for one in measured]
    return max(
        (moment for moment in times if moment <= time.time() + DAY_SECONDS), default=max(times, default=0)
    )


def _iter_ancestor_sets(
    listed: Sequence[tuple[str, tuple[str, ...]]], number: dict[str, int]
) -> Iterator[tuple[str, BitMap]]:
    """Each commit with the set of its stored ancestors, oldest first, which is valid until the next one.

    Sets are freed once they are used; that of the last child goes on with the set of its parent.
    """
    waiting: dict[str, int] = defaultdict(int)
    for _, parents in listed:
        for parent in parents:
            waiting[parent] += 1
    upto: dict[str, BitMap] = {}
    for sha, parents in listed:
        before = None
        for parent in parents:
            waiting[parent] -= 1
            known = upto.get(parent) if waiting[parent] else upto.pop(parent, None)
            if known is None:
                continue
            if before is None:
                before = known.copy() if waiting[parent] else known
            else:
                before |= known
        before = BitMap() if before is None else before
        yield sha, before
        if waiting[sha]:
            if sha in number:
                before.add(number[sha])
            upto[sha] = before


_NONE = BitMap()


class _ReplayedContext:
    """The past of any commit of one history, as a `HistoryContext`; `move_to` says of which one."""

    def __init__(self, history: History, shas: Collection[str]) -> None:
        self._history = history
        self.number: dict[str, int] = {}
        self._times = array("q")
        self._author_of = array("l")
        self._names: list[str] = []
        self._authors: dict[str, BitMap] = {}
        self._areas: dict[str, BitMap] = defaultdict(BitMap)
        self._fixing = BitMap()
        rows = array("l")
        numbered: dict[str, int] = {}
        for row, sha, author, moment, fix, areas in history.iter_change_heads():
            if sha not in shas:
                continue
            place = self.number[sha] = len(rows)
            rows.append(row)
            self._times.append(moment)
            if author not in numbered:
                numbered[author] = len(self._names)
                self._names.append(author)
                self._authors[author] = BitMap()
            self._author_of.append(numbered[author])
            self._authors[author].add(place)
            for area in areas:
                self._areas[area].add(place)
            if fix:
                self._fixing.add(place)
        self._place_of_row = np.full(max(rows, default=0) + 1, -1, dtype=np.int64)
        self._place_of_row[np.frombuffer(rows, dtype=f"i{rows.itemsize}")] = np.arange(len(rows))
        self._touching: dict[str, BitMap] = {}
        self._renames: dict[str, list[tuple[int, str]]] = {}
        self._writers: dict[str, list[str]] = {}
        self.move_to(_NONE)

    def move_to(self, ancestors: BitMap) -> None:
        """Answer for a commit with these ancestors."""
        self._before = ancestors
        self._lineages: dict[str, list[str]] = {}
        self._found: dict[tuple[str, ...], BitMap] = {}

    def _find_touching(self, path: str) -> BitMap:
        """All changes of a file, whoever's ancestors they are."""
        if path not in self._touching:
            size = len(self._place_of_row)
            touches = [
                (int(self._place_of_row[row]), origin)
                for row, origin in self._history.find_touches(path)
                if row < size
            ]
            self._touching[path] = BitMap(place for place, _ in touches if place >= 0)
            if renames := [(place, origin) for place, origin in touches if origin and place >= 0]:
                self._renames[path] = renames
        return self._touching[path]

    def _follow_renames(self, path: str) -> list[str]:
        if path not in self._lineages:
            names, at = [path], 0
            while at < min(len(names), MAX_LINEAGE_NAMES):
                self._find_touching(names[at])
                renames = self._renames.get(names[at], ())
                known = {origin for place, origin in renames if place in self._before}
                names += sorted(known.difference(names))
                at += 1
            self._lineages[path] = names[:MAX_LINEAGE_NAMES]
        return self._lineages[path]

    def _find_changes(self, names: Sequence[str]) -> BitMap:
        key = tuple(names)
        if key not in self._found:
            every = [self._find_touching(one) for name in names for one in self._follow_renames(name)]
            touching = every[0] if len(every) == 1 else BitMap.union(*every) if every else _NONE
            self._found[key] = touching & self._before
        return self._found[key]

    def _count_older(self, moment: int) -> int:
        """How many commits of this history are older than a moment."""
        return bisect_left(self._times, moment)

    def _count_within(self, found: BitMap, period: Period) -> int:
        start, end = self._count_older(period[0]), self._count_older(period[1] + 1)
        return found.range_cardinality(start, end) if start < end else 0

    def count_changes(self, names: Sequence[str], period: Period | None = None) -> int:
        """See `HistoryContext`."""
        found = self._find_changes(names)
        return len(found) if period is None else self._count_within(found, period)

    def count_fixes(self, names: Sequence[str], period: Period) -> int:
        """See `HistoryContext`."""
        return self._count_within(self._find_changes(names) & self._fixing, period)

    def count_developers(self, names: Sequence[str]) -> int:
        """See `HistoryContext`."""
        found = self._find_changes(names)
        files = {one for name in names for one in self._follow_renames(name)}
        writers = {who for one in files for who in self._list_writers(one)}
        return sum(found.intersect(self._authors[who]) for who in writers)

    def _list_writers(self, path: str) -> list[str]:
        if path not in self._writers:
            numbers = {self._author_of[place] for place in self._find_touching(path)}
            self._writers[path] = [self._names[number] for number in numbers]
        return self._writers[path]

    def find_last_change_time(self, name: str, now: int) -> int | None:
        """See `HistoryContext`."""
        found = self._find_changes([name])
        known = _count_below(found, self._count_older(now + 1))
        return (self._times[found[known - 1]] or None) if known else None

    def measure_experience(self, author: str, now: int) -> tuple[int, float]:
        """See `HistoryContext`."""
        own = self._authors.get(author, _NONE) & self._before
        rest, rexp, years = len(own), 0.0, 0
        while rest:  # on to the next year that has any: a date may be absurd
            years = max(years, (now - self._times[own[rest - 1]]) // YEAR_SECONDS)
            older = _count_below(own, self._count_older(now - (years + 1) * YEAR_SECONDS + 1))
            rexp += max(0, rest - older) / (1 + years)
            rest = min(rest, older)
            years += 1
        return len(own), rexp

    def count_subsystem_changes(self, author: str, subsystems: frozenset[str]) -> int:
        """See `HistoryContext`."""
        areas = [self._areas[area] for area in subsystems if area in self._areas]
        own = self._authors.get(author, _NONE) & self._before
        return len(BitMap.union(*areas) & own) if areas else 0


def _count_below(found: BitMap, place: int) -> int:
    """How many of a set of commits have a lower number."""
    return found.rank(place - 1) if place else 0
