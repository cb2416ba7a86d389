"""Every change of a history with its metrics: hides how the past of each commit is had without asking again.

A commit is a number by its time, a set of commits is one long integer: its ancestors, the changes of a file,
those of an author. What `Past` asks is then a few operations on such integers, exact along all parents.
"""

import time
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from gitpeft.git.repository import Repository
from gitpeft.history.context import LINEAGE, YEAR, Change, subsystem
from gitpeft.history.store import History
from gitpeft.risk.change_metrics import DAY, Metrics, measure


@dataclass(frozen=True, slots=True)
class Measured:
    """A commit with its metrics and what they were made from."""

    sha: str
    change: Change
    metrics: Metrics


def replay(history: History, repository: Repository, tip: str = "HEAD") -> list[Measured]:
    """The stored commits that `tip` reaches and that are no merges, oldest first."""
    listed = repository.rev_list(repository.resolve(tip))
    changes = history.measurable({sha for sha, _ in listed})
    past = _Replayed(changes)
    found = []
    for sha, ancestors in _ancestors(listed, past.number):
        if sha in changes:
            past.before = ancestors
            found.append(Measured(sha, changes[sha], measure(past, changes[sha])))
    return found


def latest(measured: Sequence[Measured]) -> int:
    """The newest moment of a commit, 0 without any; one dated in the future tells nothing of today."""
    times = [one.change.time for one in measured]
    return max((moment for moment in times if moment <= time.time() + DAY), default=max(times, default=0))


def _ancestors(
    listed: Sequence[tuple[str, tuple[str, ...]]], number: dict[str, int]
) -> Iterator[tuple[str, int]]:
    """Each commit with the set of its stored ancestors, oldest first; a set goes when nobody needs it."""
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


class _Replayed:
    """The past of any commit of one history; `before` is the set of its ancestors."""

    def __init__(self, changes: dict[str, Change]) -> None:
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
            self._note(1 << i, i, changes[sha])

    def _note(self, bit: int, i: int, change: Change) -> None:
        self.authors[change.author] |= bit
        self.fixing |= bit if change.fix else 0
        for file in change.files:
            self.touching[file.path] |= bit
            self.areas[subsystem(file.path)] |= bit
            self.writers[file.path].add(change.author)
            if file.origin:
                self.renames[file.path].append((i, file.origin))

    def _names(self, path: str) -> list[str]:
        names, at = [path], 0
        while at < min(len(names), LINEAGE):
            known = [(i, origin) for i, origin in self.renames.get(names[at], ()) if self.before >> i & 1]
            names += sorted({origin for _, origin in known}.difference(names))
            at += 1
        return names[:LINEAGE]

    def _of(self, names: Sequence[str]) -> int:
        found = 0
        for name in names:
            for one in self._names(name):
                found |= self.touching.get(one, 0)
        return found & self.before

    def _since(self, moment: int) -> int:
        """How many commits of this history are older than a moment."""
        return bisect_left(self.times, moment)

    def changes(self, names: Sequence[str], since: int | None = None) -> int:
        """See `Past`."""
        return (self._of(names) >> (0 if since is None else self._since(since))).bit_count()

    def fixes(self, names: Sequence[str], since: int) -> int:
        """See `Past`."""
        return ((self._of(names) & self.fixing) >> self._since(since)).bit_count()

    def developers(self, names: Sequence[str]) -> int:
        """See `Past`."""
        found = self._of(names)
        writers = {who for name in names for one in self._names(name) for who in self.writers.get(one, ())}
        return sum(found & self.authors[who] != 0 for who in writers)

    def last(self, name: str) -> int | None:
        """See `Past`."""
        found = self._of([name])
        return self.times[found.bit_length() - 1] if found else None

    def experience(self, author: str, now: int) -> tuple[int, float]:
        """See `Past`."""
        own = self.authors.get(author, 0) & self.before
        exp, rexp, years = own.bit_count(), 0.0, 0
        rest = own
        while rest:  # on to the next year that has any: a date may be absurd
            years = max(years, (now - self.times[rest.bit_length() - 1]) // YEAR)
            start = self._since(now - (years + 1) * YEAR + 1)
            rexp += (rest >> start).bit_count() / (1 + years)
            rest &= (1 << start) - 1
            years += 1
        return exp, rexp

    def within(self, author: str, subsystems: frozenset[str]) -> int:
        """See `Past`."""
        found = 0
        for area in subsystems:
            found |= self.areas.get(area, 0)
        return (found & self.authors.get(author, 0) & self.before).bit_count()
