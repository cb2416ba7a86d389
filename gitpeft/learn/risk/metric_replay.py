"""Computes the change metrics of every commit of a history in one pass.

Commits are numbered by time, and a set of commits (ancestors, the changes of a file, those of an author) is
one long integer. The queries of `HistoryContext` are then a few operations on such integers, exact along all
parents.
"""

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Collection, Iterator, Sequence
from dataclasses import dataclass

from gitpeft.git.repository import Repository
from gitpeft.history.context import MAX_LINEAGE_NAMES, YEAR_SECONDS, MeasuredChange, Period, find_subsystem
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
    changes = _load_changes(history, {sha for sha, _ in listed}, without)
    past = _ReplayedContext(changes)
    found = []
    for sha, ancestors in _iter_ancestor_sets(listed, past.number):
        if sha in changes and sha not in without:
            past.before = ancestors
            found.append(MeasuredCommit(sha, changes[sha], compute_change_metrics(past, changes[sha])))
    return sorted(found, key=lambda one: one.change.time)


def _load_changes(
    history: History, shas: set[str], without: Collection[str] = ()
) -> dict[str, MeasuredChange]:
    """The stored commits by id, with the shares of their lines that say something.

    Of those in `without` the lines are not read.
    """
    changes = history.load_measured_changes(shas)
    for sha, text in history.iter_changes(changes.keys() - without):
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
) -> Iterator[tuple[str, int]]:
    """Each commit with the set of its stored ancestors, oldest first; sets are freed once they are used."""
    waiting: dict[str, int] = defaultdict(int)
    for _, parents in listed:
        for parent in parents:
            waiting[parent] += 1
    upto: dict[str, int] = {}
    for sha, parents in listed:
        before = 0
        for parent in parents:
            before |= upto.get(parent, 0)
            waiting[parent] -= 1
            if not waiting[parent]:
                upto.pop(parent, None)
        yield sha, before
        if waiting[sha]:
            upto[sha] = before | (1 << number[sha] if sha in number else 0)


class _ReplayedContext:
    """The past of any commit of one history; `before` is the set of its ancestors."""

    def __init__(self, changes: dict[str, MeasuredChange]) -> None:
        ordered = sorted(changes, key=lambda sha: (changes[sha].time, sha))
        self.number = {sha: i for i, sha in enumerate(ordered)}
        self.times = [changes[sha].time for sha in ordered]
        self.before = 0
        self.touching: dict[str, int] = defaultdict(int)
        self.renames: dict[str, list[tuple[int, str]]] = defaultdict(list)
        self.authors: dict[str, int] = defaultdict(int)
        self.areas: dict[str, int] = defaultdict(int)
        self.writers: dict[str, set[str]] = defaultdict(set)
        self.fixing = 0
        for i, sha in enumerate(ordered):
            self._add_change(1 << i, i, changes[sha])

    def _add_change(self, bit: int, i: int, change: MeasuredChange) -> None:
        self.authors[change.author] |= bit
        self.fixing |= bit if change.fix else 0
        for file in change.files:
            self.touching[file.path] |= bit
            self.areas[find_subsystem(file.path)] |= bit
            self.writers[file.path].add(change.author)
            if file.origin:
                self.renames[file.path].append((i, file.origin))

    def _follow_renames(self, path: str) -> list[str]:
        names, at = [path], 0
        while at < min(len(names), MAX_LINEAGE_NAMES):
            known = [(i, origin) for i, origin in self.renames.get(names[at], ()) if self.before >> i & 1]
            names += sorted({origin for _, origin in known}.difference(names))
            at += 1
        return names[:MAX_LINEAGE_NAMES]

    def _find_changes(self, names: Sequence[str]) -> int:
        found = 0
        for name in names:
            for one in self._follow_renames(name):
                found |= self.touching.get(one, 0)
        return found & self.before

    def _count_older(self, moment: int) -> int:
        """How many commits of this history are older than a moment."""
        return bisect_left(self.times, moment)

    def _keep_until(self, found: int, moment: int) -> int:
        """Those of a set of commits that are not younger than a moment."""
        return found & ((1 << self._count_older(moment + 1)) - 1)

    def _count_within(self, found: int, period: Period) -> int:
        return (self._keep_until(found, period[1]) >> self._count_older(period[0])).bit_count()

    def count_changes(self, names: Sequence[str], period: Period | None = None) -> int:
        """See `HistoryContext`."""
        found = self._find_changes(names)
        return found.bit_count() if period is None else self._count_within(found, period)

    def count_fixes(self, names: Sequence[str], period: Period) -> int:
        """See `HistoryContext`."""
        return self._count_within(self._find_changes(names) & self.fixing, period)

    def count_developers(self, names: Sequence[str]) -> int:
        """See `HistoryContext`."""
        found = self._find_changes(names)
        writers = {
            who for name in names for one in self._follow_renames(name) for who in self.writers.get(one, ())
        }
        return sum(found & self.authors[who] != 0 for who in writers)

    def find_last_change_time(self, name: str, now: int) -> int | None:
        """See `HistoryContext`."""
        found = self._keep_until(self._find_changes([name]), now)
        return (self.times[found.bit_length() - 1] or None) if found else None

    def measure_experience(self, author: str, now: int) -> tuple[int, float]:
        """See `HistoryContext`."""
        own = self.authors.get(author, 0) & self.before
        exp, rexp, years = own.bit_count(), 0.0, 0
        rest = own
        while rest:  # on to the next year that has any: a date may be absurd
            years = max(years, (now - self.times[rest.bit_length() - 1]) // YEAR_SECONDS)
            start = self._count_older(now - (years + 1) * YEAR_SECONDS + 1)
            rexp += (rest >> start).bit_count() / (1 + years)
            rest &= (1 << start) - 1
            years += 1
        return exp, rexp

    def count_subsystem_changes(self, author: str, subsystems: frozenset[str]) -> int:
        """See `HistoryContext`."""
        found = 0
        for area in subsystems:
            found |= self.areas.get(area, 0)
        return (found & self.authors.get(author, 0) & self.before).bit_count()
