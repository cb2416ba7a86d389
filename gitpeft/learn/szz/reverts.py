"""Which earlier commits a revert takes back: by ids, numbers of requests, or the subject that it quotes.

A merge that is taken back stands for the commits that it brought in, `git rev-list --no-merges M^1..M`.
"""

import heapq
import re
from bisect import bisect_left
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gitpeft.git.log import Commit
from gitpeft.history.reverts import RevertedChange, parse_revert

_TRAILING_REQUEST = re.compile(r"\s*\(?(?:[\w.-]+/[\w./-]+)?[#!](\d+)\)?\.?$")
_REQUESTS = (
    re.compile(r"\((?:[\w.-]+/[\w./-]+)?[#!](\d+)\)$"),
    re.compile(r"(?:auto )?merge (?:of |pull request )?#(\d+)\b|merged PR (\d+)\b", re.I),
    re.compile(r"\(pull request #(\d+)\)$", re.I),
)
_REQUESTS_IN_BODY = re.compile(
    r"^(?:See merge request \S*!(\d+)|PR-URL: \S+/(\d+)|Pull[- ]Request(?:-URL)?: \S*?(\d+)"
    r"|Closes #(\d+) from \S+)",
    re.I | re.M,
)
_SUBVERSION_REVISION = re.compile(r"^git-svn-id: \S+@(\d+)\b", re.M)
_BUG_IN_SUBJECT = re.compile(r"bug (\d+)\b", re.I)


@dataclass(frozen=True, slots=True)
class RevertTargets:
    """The commits that a revert takes back, none of them a merge.

    Those of `branches` came with a merge of several commits, of which the lines have to say which was wrong.
    """

    commits: tuple[str, ...]
    branches: frozenset[str] = frozenset()


class ShaResolver:
    """Full ids of commits from short ones."""

    def __init__(self, commits: Sequence[Commit]) -> None:
        self.shas = sorted(commit.sha for commit in commits)

    def resolve_prefix(self, start: str) -> str | None:
        """The commit whose id begins so, None where there is none or several."""
        at = bisect_left(self.shas, start)
        found = [sha for sha in self.shas[at : at + 2] if sha.startswith(start)]
        return found[0] if len(found) == 1 else None

    def resolve_prefixes(self, starts: Sequence[str]) -> tuple[str, ...]:
        """Those that are here, each once."""
        return tuple(dict.fromkeys(sha for start in starts if (sha := self.resolve_prefix(start))))


def find_reverts(commits: Sequence[Commit]) -> dict[str, RevertTargets]:
    """For each revert (merges are none) what it takes back among the commits before it, parents first."""
    index = _RevertIndex(commits)
    found: dict[str, RevertTargets] = {}
    for commit in commits:
        if len(commit.parents) < 2:
            named = parse_revert(f"{commit.subject}\n{commit.body}")
            if named:
                found[commit.sha] = index.resolve_change(named)
        index.add_commit(commit)
    return found


class _RevertIndex:
    """The commits so far, by everything that a revert may call them."""

    def __init__(self, commits: Sequence[Commit]) -> None:
        self.resolver = ShaResolver(commits)
        self.order: dict[str, int] = {}
        self.parents: dict[str, tuple[str, ...]] = {}
        self.by_subject: dict[str, str] = {}
        self.by_key: dict[str, str] = {}
        self.by_request: dict[str, str] = {}
        self.by_revision: dict[str, str] = {}
        self.by_bug: dict[str, list[str]] = defaultdict(list)

    def add_commit(self, commit: Commit) -> None:
        sha = commit.sha
        self.order[sha], self.parents[sha] = len(self.order), commit.parents
        self.by_subject[commit.subject] = self.by_key[normalise_subject(commit.subject)] = sha
        if len(commit.parents) > 1 and (title := commit.body.strip().partition("\n")[0].strip()):
            self.by_key[normalise_subject(title)] = sha
        for number in _find_requests(commit):
            self.by_request[number] = sha
        if revision := _SUBVERSION_REVISION.search(commit.body):
            self.by_revision[revision[1]] = sha
        if bug := _BUG_IN_SUBJECT.match(commit.subject):
            self.by_bug[bug[1]].append(sha)

    def resolve_change(self, named: RevertedChange) -> RevertTargets:
        """The commits behind what a message names: by ids that are here, else numbers, else the subject."""
        shas = [sha for sha in self.resolver.resolve_prefixes(named.shas) if sha in self.order]
        found = [self._expand_merge(sha) for sha in shas]
        for start, end in named.ranges:
            first, last = self.resolver.resolve_prefix(start), self.resolver.resolve_prefix(end)
            if first in self.parents and last in self.parents:
                found += [(sha,) for sha in self._list_range((first,), (last,))]
        if not found:
            found = [self._expand_merge(sha) for sha in self._find_by_name(named)]
        commits = dict.fromkeys(sha for group in found for sha in group)
        single = {group[0] for group in found if len(group) == 1}
        branches = frozenset(sha for group in found if len(group) > 1 for sha in group) - single
        return RevertTargets(tuple(commits), branches)

    def _find_by_name(self, named: RevertedChange) -> list[str]:
        if old := [self.by_revision[number] for number in named.revisions if number in self.by_revision]:
            return old
        by_subject = self._find_by_subject(named.subject) if named.subject else None
        numbered = [self.by_request[number] for number in named.requests if number in self.by_request]
        if numbered and (by_subject is None or by_subject in numbered or len(numbered) > 1):
            return numbered
        if by_subject is not None:
            return [by_subject]
        if numbered:
            return numbered
        behind = sorted((sha for bug in named.bugs for sha in self.by_bug[bug]), key=self.order.__getitem__)
        return behind[-named.count :] if behind else []

    def _find_by_subject(self, subject: str) -> str | None:
        if found := self.by_subject.get(subject):
            return found
        key = normalise_subject(subject)
        if key in self.by_key:
            return self.by_key[key]
        start = key.rstrip(".…").strip()
        if len(start) < len(key) and len(start) > 20:  # cut by a host
            matching = (sha for other, sha in self.by_key.items() if other.startswith(start))
            return max(matching, key=self.order.__getitem__, default=None)
        return None

    def _expand_merge(self, sha: str) -> tuple[str, ...]:
        parents = self.parents[sha]
        return tuple(self._list_range(parents[:1], parents[1:])) if len(parents) > 1 else (sha,)

    def _list_range(self, without: Sequence[str], tips: Sequence[str]) -> Iterator[str]:
        """The commits that `tips` reach and `without` do not, merges left out, the newest first."""
        hidden = set(without)
        queue = [(-self.order[sha], sha) for sha in {*without, *tips} if sha in self.order]
        heapq.heapify(queue)
        queued = {sha for _, sha in queue}
        shown = len(set(tips) - hidden)
        while queue and shown:
            _, sha = heapq.heappop(queue)
            parents = [parent for parent in self.parents[sha] if parent in self.order]
            if sha not in hidden:
                shown -= 1
                if len(self.parents[sha]) < 2:
                    yield sha
            for parent in parents:
                if sha in hidden and parent not in hidden:
                    hidden.add(parent)
                    shown -= parent in queued
                if parent not in queued:
                    queued.add(parent)
                    shown += parent not in hidden
                    heapq.heappush(queue, (-self.order[parent], parent))


def normalise_subject(subject: str) -> str:
    """A subject without the number of its request and back-quotes, in lower case, with single spaces."""
    text = " ".join(subject.replace("`", "").split())
    while (shorter := _TRAILING_REQUEST.sub("", text)) != text and shorter:
        text = shorter
    return text.rstrip(".").casefold() if not text.endswith("..") else text.casefold()


def _find_requests(commit: Commit) -> Iterator[str]:
    """The numbers of the requests that a commit closes by its form."""
    for pattern in _REQUESTS:
        if found := pattern.search(commit.subject):
            yield next(number for number in found.groups() if number)
    for numbers in _REQUESTS_IN_BODY.findall(commit.body):
        yield next(number for number in numbers if number)


def find_standing_reverts(reverts: Mapping[str, RevertTargets]) -> set[str]:
    """The reverts that take something back for good: not taken back themselves, and not of a revert.

    `reverts` is in the order of history; a later one decides over an earlier one, so the newest come first.
    """
    undone: set[str] = set()
    standing: set[str] = set()
    for sha in reversed(list(reverts)):
        if sha in undone:
            continue
        targets = reverts[sha].commits
        again = [target for target in targets if target in reverts]
        undone.update(again)
        if not again or len(again) < len(targets):
            standing.add(sha)
    return standing
