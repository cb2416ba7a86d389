"""The origin of each line at every commit: one replay of the whole history instead of many `git blame`.

Commits come parents first. Each carries the files of its tree, and each file an array that holds for every
line the version it comes from, as `git blame -w` would find by walking back: a change puts its own lines in
and keeps the others; a merge takes a file from the first parent that has the same, or else line by line from
the first parent whose line it is. Trees share what is equal, and are dropped with the last child.
"""

from collections import Counter, deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gitpeft.git.log import Commit
from gitpeft.learn.szz.edits import CommitEdit, FileEdit, HunkRanges

LineOrigins = NDArray[np.int64]
"""Each line's origin: the number of a version, shifted by `VERSION_SHIFT`, plus the line there from 0."""

VERSION_SHIFT = 24
UNKNOWN_ORIGIN = -1
"""Origin of a line whose history is not here: shallow clones, missing objects, versions that do not fit."""

_UNASSIGNED = -2
_LINE_MASK = (1 << VERSION_SHIFT) - 1
_NO_LINES: LineOrigins = np.empty(0, np.int64)


@dataclass(slots=True)
class FileVersion:
    """One file in one state; `lines` is None for what has no lines (binary, submodule, link)."""

    blob: str
    lines: LineOrigins | None


class FileTree:
    """The files of a commit; folders are shared between trees until one changes them."""

    __slots__ = ("_folders", "_own")

    def __init__(self, folders: dict[str, dict[str, FileVersion]] | None = None) -> None:
        self._folders = {} if folders is None else folders
        self._own: set[str] = set()

    def get_file(self, path: str) -> FileVersion | None:
        """The version of a file, None where there is none."""
        folder, _, name = path.rpartition("/")
        files = self._folders.get(folder)
        return files.get(name) if files else None

    def set_file(self, path: str, version: FileVersion) -> None:
        """Set a file."""
        folder, _, name = path.rpartition("/")
        self._writable_folder(folder)[name] = version

    def remove_file(self, path: str) -> None:
        """Forget a file."""
        folder, _, name = path.rpartition("/")
        self._writable_folder(folder).pop(name, None)

    def copy(self) -> "FileTree":
        """Another tree with the same files."""
        self._own.clear()
        return FileTree(dict(self._folders))

    def _writable_folder(self, folder: str) -> dict[str, FileVersion]:
        if folder not in self._own:
            self._folders[folder] = dict(self._folders.get(folder, ()))
            self._own.add(folder)
        return self._folders[folder]


@dataclass(frozen=True, slots=True)
class ReplayStep:
    """A commit about to be replayed, what it does (None: unknown) and the files of its first parent."""

    commit: Commit
    edit: CommitEdit | None
    before: FileTree


class BlameReplay:
    """The walk through a history; iterate over it once.

    `edits` gives what a commit does, None where that is not known. With `through`, lines keep their origin
    where a hunk only reformats them, a block is moved, an ignored revision passes them on, or a revert
    restores them (`reverts`: what each takes back); without, every line is where `git blame -w` sees it.
    """

    def __init__(
        self,
        commits: Sequence[Commit],
        edits: Callable[[str], CommitEdit | None],
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

    def locate_origin(self, origin: int) -> tuple[str, str, int]:
        """Of an origin that is known: the commit, the path there as git quotes it, and the line from 1."""
        return (*self._owners[origin >> VERSION_SHIFT], (origin & _LINE_MASK) + 1)

    def __iter__(self) -> Iterator[ReplayStep]:
        trees: dict[str, FileTree] = {}
        children = Counter(parent for commit in self.commits for parent in commit.parents)
        for commit in self.commits:
            edit = self._edits(commit.sha)
            before = trees.get(commit.parents[0], FileTree()) if commit.parents else FileTree()
            yield ReplayStep(commit, edit, before)
            others = [trees.get(parent, FileTree()) for parent in commit.parents[1:]]
            last = not commit.parents or children[commit.parents[0]] == 1
            after = before if last and before not in others else before.copy()
            if edit is None:
                self.misfits["commits"] += 1
            elif others:
                self._apply_merge(edit, after, [before, *others])
            else:
                self._apply_commit(edit, after)
            self._release_parents(commit, children, trees)
            if children[commit.sha]:
                trees[commit.sha] = after

    def _release_parents(self, commit: Commit, children: Counter[str], trees: dict[str, FileTree]) -> None:
        for parent in commit.parents:
            children[parent] -= 1
            if not children[parent]:
                trees.pop(parent, None)

    def _apply_commit(self, edit: CommitEdit, tree: FileTree) -> None:
        """An ordinary commit. All versions are made before any is put: files may swap their names."""
        if self.through and edit.sha in self._reverted:
            self._taken[edit.sha] = self._collect_removed_origins(edit, tree)
        made = {file.path: self._build_version(edit, file, tree) for file in edit.files if file.status != "D"}
        if self.through:
            _carry_moved_lines(edit, tree, made)
        _update_tree(edit, tree, made)

    def _build_version(self, edit: CommitEdit, file: FileEdit, tree: FileTree) -> FileVersion:
        same = tree.get_file(file.old_path) if file.old == file.new else None
        if same or file.places is None:
            return same or FileVersion(file.new, None)
        old = self._get_old_lines(file.old_path, file.old, tree) if file.status in "MRC" else _NO_LINES
        base = self._allocate_origins(edit.sha, file.path) if any(place[3] for place in file.places) else 0
        lines = splice_lines(old, file.places, base)
        if self.through:
            self._continue_lines(file, old, lines)
            if edit.sha in self.reverts and file.path in edit.prints:
                self._restore_origins(edit, file, lines)
        return FileVersion(file.new, lines)

    def _get_old_lines(self, path: str, blob: str, tree: FileTree) -> LineOrigins:
        """The lines of an old version; none (all unknown, then) where the tree has another one."""
        found = tree.get_file(path)
        if found is None or found.lines is None or found.blob != blob:
            self.misfits["files"] += 1
            return _NO_LINES
        return found.lines

    def _allocate_origins(self, sha: str, path: str) -> int:
        self._owners.append((sha, path))
        return (len(self._owners) - 1) << VERSION_SHIFT

    def _continue_lines(self, file: FileEdit, old: LineOrigins, lines: LineOrigins) -> None:
        """Give the lines of hunks that only reformat the origins of those that they continue."""
        for number, sources in file.went_on.items():
            a, n, b, _ = (file.places or [])[number]
            if a - 1 + n <= len(old):
                for i, source in enumerate(sources):
                    if source >= 0:
                        lines[b - 1 + i] = old[a - 1 + source]

    def _collect_removed_origins(self, edit: CommitEdit, tree: FileTree) -> dict[int, deque[int]]:
        """By its checksum, the origins of each line that a commit takes away and a later one will restore."""
        found: dict[int, deque[int]] = {}
        for file in edit.files:
            version = tree.get_file(file.old_path)
            if file.path not in edit.prints or version is None or version.lines is None:
                continue
            for (a, n, _, _), (removed, _) in zip(file.places or (), edit.prints[file.path], strict=True):
                for origin, check in zip(version.lines[a - 1 : a - 1 + n].tolist(), removed, strict=False):
                    found.setdefault(check, deque()).append(origin)
        return found

    def _restore_origins(self, edit: CommitEdit, file: FileEdit, lines: LineOrigins) -> None:
        """Give the lines that a revert puts back the origins that they had when they were taken away."""
        for target in self.reverts[edit.sha]:
            taken = self._taken.get(target, {})
            for (_, _, b, _), (_, added) in zip(file.places or (), edit.prints[file.path], strict=True):
                for i, check in enumerate(added):
                    if taken.get(check):
                        lines[b - 1 + i] = taken[check].popleft()

    def _apply_merge(self, edit: CommitEdit, tree: FileTree, parents: Sequence[FileTree]) -> None:
        """A merge: what it changes in its first parent comes from another one, or from several."""
        made = {file.path: self._merge_file(edit, file, parents) for file in edit.files if file.status != "D"}
        _update_tree(edit, tree, made)

    def _merge_file(self, edit: CommitEdit, file: FileEdit, parents: Sequence[FileTree]) -> FileVersion:
        for parent in parents[1:]:
            found = parent.get_file(file.path)
            if found is not None and found.blob == file.new:
                return found
        mixed = edit.mixed.get(file.path)
        if mixed is None:
            self.misfits["files"] += 1
            return FileVersion(file.new, _NO_LINES)
        lines: LineOrigins | None = None
        for (path, blob, places), parent in zip(mixed.parents, parents, strict=False):
            if places is None:
                return FileVersion(file.new, None)
            known = set(blob) != {"0"}
            one = splice_lines(self._get_old_lines(path, blob, parent) if known else _NO_LINES, places, None)
            lines = one if lines is None else _fill_unassigned(lines, one)
        assert lines is not None
        own = np.flatnonzero(lines == _UNASSIGNED)
        if len(own):
            lines[own] = own + self._allocate_origins(edit.sha, file.path)
        return FileVersion(file.new, lines)


def _update_tree(edit: CommitEdit, tree: FileTree, made: Mapping[str, FileVersion]) -> None:
    for file in edit.files:
        if file.status in "DR":
            tree.remove_file(file.old_path)
    for path, version in made.items():
        tree.set_file(path, version)


def _carry_moved_lines(edit: CommitEdit, tree: FileTree, made: Mapping[str, FileVersion]) -> None:
    """Give blocks that a commit moves the origins that they had in their old place."""
    for old_path, old, path, new, size in edit.moves:
        source, target = tree.get_file(old_path), made.get(path)
        if source is None or source.lines is None or target is None or target.lines is None:
            continue
        if old - 1 + size <= len(source.lines) and new - 1 + size <= len(target.lines):
            target.lines[new - 1 : new - 1 + size] = source.lines[old - 1 : old - 1 + size]


def _fill_unassigned(lines: LineOrigins, other: LineOrigins) -> LineOrigins:
    """Lines that are open in the one array taken from the other; both are of the same file."""
    if len(other) < len(lines):
        other = np.concatenate([other, np.full(len(lines) - len(other), UNKNOWN_ORIGIN)])
    if len(lines) < len(other):
        lines = np.concatenate([lines, np.full(len(other) - len(lines), UNKNOWN_ORIGIN)])
    return np.where(lines == _UNASSIGNED, other, lines)


def splice_lines(old: LineOrigins, places: HunkRanges, base: int | None) -> LineOrigins:
    """The origins of a new version: the old ones, with `places` replaced by new lines counted on from `base`.

    Without a base the new lines stay open. Old lines that should be there and are not become unknown.
    """
    parts: list[LineOrigins] = []
    length = at = 0
    for a, n, b, m in places:
        start = a - 1 if n else a
        kept = old[at:start]
        begin = b - 1 if m else b
        short = begin - length - len(kept)
        parts.append(kept)
        if short > 0:
            parts.append(np.full(short, UNKNOWN_ORIGIN, np.int64))
        if m:
            new = (
                np.full(m, _UNASSIGNED, np.int64)
                if base is None
                else np.arange(base + b - 1, base + b - 1 + m)
            )
            parts.append(new)
        length = begin + m
        at = start + n
    parts.append(old[at:])
    return np.concatenate(parts)
