"""Who wrote each line, at any moment: hides a replay of the whole history in place of many `git blame`.

Commits come parents first. Each carries the files of its tree, and each file an array that holds for every
line the version it comes from, as `git blame -w` would find by walking back: a change puts its own lines in
and keeps the others; a merge takes a file from the first parent that has the same, or else line by line from
the first parent whose line it is. Trees share what is equal, and are dropped with the last child.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gitpeft.git.log import Commit
from gitpeft.learn.szz.edits import Edit, FileEdit, Places

Lines = NDArray[np.int64]
"""Each line's origin: the number of a version, shifted by `SHIFT`, plus the line there from 0."""

SHIFT = 24
UNKNOWN = -1
"""Origin of a line whose past is not here: shallow clones, missing objects, versions that do not fit."""

_OPEN = -2
_MASK = (1 << SHIFT) - 1
_NONE: Lines = np.empty(0, np.int64)


@dataclass(slots=True)
class Version:
    """One file in one state; `lines` is None for what has no lines (binary, submodule, link)."""

    blob: str
    lines: Lines | None


class Tree:
    """The files of a commit; folders are shared between trees until one changes them."""

    __slots__ = ("_folders", "_own")

    def __init__(self, folders: dict[str, dict[str, Version]] | None = None) -> None:
        self._folders = {} if folders is None else folders
        self._own: set[str] = set()

    def get(self, path: str) -> Version | None:
        """The version of a file, None where there is none."""
        folder, _, name = path.rpartition("/")
        files = self._folders.get(folder)
        return files.get(name) if files else None

    def put(self, path: str, version: Version) -> None:
        """Set a file."""
        folder, _, name = path.rpartition("/")
        self._mine(folder)[name] = version

    def drop(self, path: str) -> None:
        """Forget a file."""
        folder, _, name = path.rpartition("/")
        self._mine(folder).pop(name, None)

    def copy(self) -> "Tree":
        """Another tree with the same files."""
        self._own.clear()
        return Tree(dict(self._folders))

    def _mine(self, folder: str) -> dict[str, Version]:
        if folder not in self._own:
            self._folders[folder] = dict(self._folders.get(folder, ()))
            self._own.add(folder)
        return self._folders[folder]


@dataclass(frozen=True, slots=True)
class Step:
    """A commit about to be replayed, what it does (None: unknown) and the files of its first parent."""

    commit: Commit
    edit: Edit | None
    before: Tree


class Replay:
    """The walk through a history; iterate over it once.

    `edits` gives what a commit does, None where that is not known. With `through`, lines keep their origin
    where a hunk only reformats them, a block is moved, an ignored revision passes them on, or a revert
    restores them (`reverts`: what each takes back); without, every line is where `git blame -w` sees it.
    """

    def __init__(
        self,
        commits: Sequence[Commit],
        edits: Callable[[str], Edit | None],
        through: bool = False,
        reverts: Mapping[str, Sequence[str]] | None = None,
    ) -> None:
        self.commits = commits
        self.through = through
        self.reverts = reverts or {}
        self.misfits: Counter[str] = Counter()
        self._edits = edits
        self._owners: list[tuple[str, str]] = []
        self._reverted = {sha for shas in self.reverts.values() for sha in shas}
        self._taken: dict[str, dict[int, deque[int]]] = {}

    def owner(self, origin: int) -> tuple[str, str, int]:
        """Of an origin that is known: the commit, the path there as git quotes it, and the line from 1."""
        return (*self._owners[origin >> SHIFT], (origin & _MASK) + 1)

    def __iter__(self) -> Iterator[Step]:
        trees: dict[str, Tree] = {}
        children = Counter(parent for commit in self.commits for parent in commit.parents)
        for commit in self.commits:
            edit = self._edits(commit.sha)
            before = trees.get(commit.parents[0], Tree()) if commit.parents else Tree()
            yield Step(commit, edit, before)
            others = [trees.get(parent, Tree()) for parent in commit.parents[1:]]
            last = not commit.parents or children[commit.parents[0]] == 1
            after = before if last and before not in others else before.copy()
            if edit is None:
                self.misfits["commits"] += 1
            elif others:
                self._merge(edit, after, [before, *others])
            else:
                self._apply(edit, after)
            self._leave(commit, children, trees)
            if children[commit.sha]:
                trees[commit.sha] = after

    def _leave(self, commit: Commit, children: Counter[str], trees: dict[str, Tree]) -> None:
        for parent in commit.parents:
            children[parent] -= 1
            if not children[parent]:
                trees.pop(parent, None)

    def _apply(self, edit: Edit, tree: Tree) -> None:
        """An ordinary commit. All versions are made before any is put: files may swap their names."""
        if self.through and edit.sha in self._reverted:
            self._taken[edit.sha] = self._removed(edit, tree)
        made = {file.path: self._version(edit, file, tree) for file in edit.files if file.status != "D"}
        if self.through:
            _carry(edit, tree, made)
        _put(edit, tree, made)

    def _version(self, edit: Edit, file: FileEdit, tree: Tree) -> Version:
        same = tree.get(file.old_path) if file.old == file.new else None
        if same or file.places is None:
            return same or Version(file.new, None)
        old = self._old(file.old_path, file.old, tree) if file.status in "MRC" else _NONE
        base = self._base(edit.sha, file.path) if any(place[3] for place in file.places) else 0
        lines = splice(old, file.places, base)
        if self.through:
            self._continue(file, old, lines)
            if edit.sha in self.reverts and file.path in edit.prints:
                self._restore(edit, file, lines)
        return Version(file.new, lines)

    def _old(self, path: str, blob: str, tree: Tree) -> Lines:
        """The lines of an old version; none (all unknown, then) where the tree has another one."""
        found = tree.get(path)
        if found is None or found.lines is None or found.blob != blob:
            self.misfits["files"] += 1
            return _NONE
        return found.lines

    def _base(self, sha: str, path: str) -> int:
        self._owners.append((sha, path))
        return (len(self._owners) - 1) << SHIFT

    def _continue(self, file: FileEdit, old: Lines, lines: Lines) -> None:
        """Give the lines of hunks that only reformat the origins of those that they continue."""
        for number, sources in file.went_on.items():
            a, n, b, _ = (file.places or [])[number]
            if a - 1 + n <= len(old):
                for i, source in enumerate(sources):
                    if source >= 0:
                        lines[b - 1 + i] = old[a - 1 + source]

    def _removed(self, edit: Edit, tree: Tree) -> dict[int, deque[int]]:
        """By its checksum, the origins of each line that a commit takes away and a later one will restore."""
        found: dict[int, deque[int]] = {}
        for file in edit.files:
            version = tree.get(file.old_path)
            if file.path not in edit.prints or version is None or version.lines is None:
                continue
            for (a, n, _, _), (removed, _) in zip(file.places or (), edit.prints[file.path], strict=True):
                for origin, check in zip(version.lines[a - 1 : a - 1 + n].tolist(), removed, strict=False):
                    found.setdefault(check, deque()).append(origin)
        return found

    def _restore(self, edit: Edit, file: FileEdit, lines: Lines) -> None:
        """Give the lines that a revert puts back the origins that they had when they were taken away."""
        for target in self.reverts[edit.sha]:
            taken = self._taken.get(target, {})
            for (_, _, b, _), (_, added) in zip(file.places or (), edit.prints[file.path], strict=True):
                for i, check in enumerate(added):
                    if taken.get(check):
                        lines[b - 1 + i] = taken[check].popleft()

    def _merge(self, edit: Edit, tree: Tree, parents: Sequence[Tree]) -> None:
        """A merge: what it changes in its first parent comes from another one, or from several."""
        made = {file.path: self._merged(edit, file, parents) for file in edit.files if file.status != "D"}
        _put(edit, tree, made)

    def _merged(self, edit: Edit, file: FileEdit, parents: Sequence[Tree]) -> Version:
        for parent in parents[1:]:
            found = parent.get(file.path)
            if found is not None and found.blob == file.new:
                return found
        mixed = edit.mixed.get(file.path)
        if mixed is None:
            self.misfits["files"] += 1
            return Version(file.new, _NONE)
        lines: Lines | None = None
        for (path, blob, places), parent in zip(mixed.parents, parents, strict=False):
            if places is None:
                return Version(file.new, None)
            known = set(blob) != {"0"}
            one = splice(self._old(path, blob, parent) if known else _NONE, places, None)
            lines = one if lines is None else _filled(lines, one)
        assert lines is not None
        own = np.flatnonzero(lines == _OPEN)
        if len(own):
            lines[own] = own + self._base(edit.sha, file.path)
        return Version(file.new, lines)


def _put(edit: Edit, tree: Tree, made: Mapping[str, Version]) -> None:
    for file in edit.files:
        if file.status in "DR":
            tree.drop(file.old_path)
    for path, version in made.items():
        tree.put(path, version)


def _carry(edit: Edit, tree: Tree, made: Mapping[str, Version]) -> None:
    """Give blocks that a commit moves the origins that they had in their old place."""
    for old_path, old, path, new, size in edit.moves:
        source, target = tree.get(old_path), made.get(path)
        if source is None or source.lines is None or target is None or target.lines is None:
            continue
        if old - 1 + size <= len(source.lines) and new - 1 + size <= len(target.lines):
            target.lines[new - 1 : new - 1 + size] = source.lines[old - 1 : old - 1 + size]


def _filled(lines: Lines, other: Lines) -> Lines:
    """Lines that are open in the one array taken from the other; both are of the same file."""
    if len(other) < len(lines):
        other = np.concatenate([other, np.full(len(lines) - len(other), UNKNOWN)])
    if len(lines) < len(other):
        lines = np.concatenate([lines, np.full(len(other) - len(lines), UNKNOWN)])
    return np.where(lines == _OPEN, other, lines)


def splice(old: Lines, places: Places, base: int | None) -> Lines:
    """The origins of a new version: the old ones, with `places` replaced by new lines counted on from `base`.

    Without a base the new lines stay open. Old lines that should be there and are not become unknown.
    """
    parts: list[Any] = []
    length = at = 0
    for a, n, b, m in places:
        start = a - 1 if n else a
        kept = old[at:start]
        begin = b - 1 if m else b
        short = begin - length - len(kept)
        parts.append(kept)
        if short > 0:
            parts.append(np.full(short, UNKNOWN, np.int64))
        if m:
            new = np.full(m, _OPEN, np.int64) if base is None else np.arange(base + b - 1, base + b - 1 + m)
            parts.append(new)
        length = begin + m
        at = start + n
    parts.append(old[at:])
    return np.concatenate(parts)
