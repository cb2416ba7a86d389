"""A cache of what each commit of a history does to lines; what is missing is read from git.

A commit never changes (unless git replaces it by another), so what was read of it stays true; git is asked
each time which commits there are, and in which order. When a history has grown, only new commits are read;
the whole is replayed, which is cheap.
"""

import json
import sqlite3
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, Self, TypeGuard

from gitpeft.errors import GitpeftError
from gitpeft.git.log import Commit, SkippedCommit
from gitpeft.git.objects import read_blobs
from gitpeft.git.repository import Repository
from gitpeft.git.streams import stream_diff_tree
from gitpeft.learn.szz import candidate_lines, edits, moved_lines
from gitpeft.learn.szz.edits import (
    DETAIL_CHECKSUMS,
    DETAIL_CONTINUATIONS,
    DETAIL_SUSPECTS,
    CombinedFileEdit,
    CommitEdit,
    FileEdit,
)

CACHE_VERSION = 1
"""Version of the cache; one of another version is emptied."""

_BATCH_SIZE = 500
_COMMITS_AT_ONCE = 500
"""Commits after which it is asked whether there is time for more."""

_MAX_PENDING_BYTES = 32 << 20  # characters of patches that wait for the content of their files
_CREATE_TABLE = (
    "CREATE TABLE edit (sha TEXT PRIMARY KEY, detail TEXT NOT NULL, data TEXT NOT NULL) WITHOUT ROWID"
)


@dataclass(frozen=True, slots=True)
class ReadEdits:
    """How many commits were `read`, how many were `skipped` by reason, how many of the newest are `here`."""

    read: int
    skipped: Counter[str]
    here: int


class EditCache:
    """The edits of one repository; a context manager."""

    def __init__(self, path: Path | None) -> None:
        self._db = _open_database(path)
        self._rows: list[tuple[str, str, str]] = []

    @classmethod
    def open(cls, state_dir: Path) -> Self:
        """The cache in a state directory; in memory only where nothing can be written.

        Raises GitpeftError while another process keeps it locked.
        """
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            return cls(state_dir / "lines.db")
        except sqlite3.OperationalError as error:
            if "locked" in str(error):
                raise GitpeftError(
                    "another process is tracing this history", "wait for it to end, then try again"
                ) from error
            return cls(None)
        except OSError:
            return cls(None)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self._db.close()

    def get_edit(self, sha: str) -> CommitEdit | None:
        """What a commit does; None where it could not be read."""
        row = self._db.execute("SELECT data FROM edit WHERE sha = ?", (sha,)).fetchone()
        return _decode_edit(sha, json.loads(row[0])) if row else None

    def read_missing(
        self,
        repository: Repository,
        commits: Sequence[Commit],
        details: Mapping[str, str],
        progress: Callable[[int, int], None],
        is_enough: Callable[[int], bool] = lambda _: False,
    ) -> ReadEdits:
        """Read the commits that are not kept with what `details` asks for; `commits` are oldest first.

        The newest are read first, and what was read is kept, so that a run that is stopped, or has no more
        time (`is_enough`, asked with how many of the newest commits are here), goes on where it was.
        `progress` gets what is done and to do.
        """
        self._forget_replaced_commits(repository)
        kept = dict(self._db.execute("SELECT sha, detail FROM edit"))
        todo = [c for c in reversed(commits) if kept.get(c.sha) != details.get(c.sha, "")]
        skipped: Counter[str] = Counter()
        done = 0

        def keep_readable(item: CommitEdit | SkippedCommit) -> TypeGuard[CommitEdit]:
            nonlocal done
            done += 1
            if done % _BATCH_SIZE == 0 or done == len(todo):
                progress(done, len(todo))
            if isinstance(item, SkippedCommit):
                skipped[item.reason] += 1
            return not isinstance(item, SkippedCommit)

        missing = {commit.sha for commit in todo}
        here = 0
        while here < len(commits) and not (here and is_enough(here)):
            part = commits[max(0, len(commits) - here - _COMMITS_AT_ONCE) : len(commits) - here]
            here += len(part)
            wanted = [commit for commit in reversed(part) if commit.sha in missing]
            merges = [commit.sha for commit in wanted if len(commit.parents) > 1]
            ordinary = [commit.sha for commit in wanted if len(commit.parents) < 2]
            found = stream_diff_tree(repository, ordinary, edits.ORDINARY_OPTIONS, edits.PatchParser)
            self._store_ordinary_edits(repository, filter(keep_readable, found), details)
            for edit in filter(keep_readable, _read_merges(repository, merges)):
                self._store_edit(edit, "")
            self._flush_rows()
        return ReadEdits(done - skipped.total(), skipped, here)

    def _forget_replaced_commits(self, repository: Repository) -> None:
        """Empty the cache where git replaces other objects now (see `history.replacements`)."""
        state = repository.read_replacement_state()
        self._db.execute("CREATE TABLE IF NOT EXISTS replaced (state TEXT NOT NULL)")
        row = self._db.execute("SELECT state FROM replaced").fetchone()
        if state != (row[0] if row else ""):
            with self._db:
                self._db.execute("DELETE FROM edit")
                self._db.execute("DELETE FROM replaced")
                self._db.execute("INSERT INTO replaced VALUES (?)", (state,))

    def _store_ordinary_edits(
        self, repository: Repository, found: Iterable[CommitEdit], details: Mapping[str, str]
    ) -> None:
        pending: list[CommitEdit] = []
        size = 0
        for edit in found:
            detail = details.get(edit.sha, "")
            edit.moves = moved_lines.find_moved_blocks(edit)
            if DETAIL_CONTINUATIONS in detail:
                edits.map_ignored_revision_lines(edit)
            if DETAIL_CHECKSUMS in detail:
                edits.add_line_checksums(edit)
            if DETAIL_SUSPECTS not in detail:
                self._store_edit(edit, detail)
                continue
            pending.append(edit)
            size += sum(len(body) for file in edit.files for body in file.bodies)
            if len(pending) == _BATCH_SIZE or size > _MAX_PENDING_BYTES:
                self._store_fix_edits(repository, pending, details)
                pending, size = [], 0
        self._store_fix_edits(repository, pending, details)

    def _store_fix_edits(
        self, repository: Repository, pending: Sequence[CommitEdit], details: Mapping[str, str]
    ) -> None:
        """Find the suspects of fixes, whose files have to be read as they were before."""
        wanted = sorted(
            {file.blob for edit in pending for file in candidate_lines.select_candidate_files(edit)[0]}
        )
        pairs = zip(wanted, read_blobs(repository, wanted), strict=True)
        before = {blob: content for blob, content in pairs if content is not None}
        for edit in pending:
            candidate_lines.find_suspect_lines(edit, before)
            candidate_lines.find_neighbour_lines(edit)
            self._store_edit(edit, details[edit.sha])

    def _store_edit(self, edit: CommitEdit, detail: str) -> None:
        self._rows.append((edit.sha, detail, json.dumps(_encode_edit(edit), separators=(",", ":"))))
        if len(self._rows) >= _BATCH_SIZE:
            self._flush_rows()

    def _flush_rows(self) -> None:
        with self._db:
            self._db.executemany("INSERT OR REPLACE INTO edit VALUES (?, ?, ?)", self._rows)
        self._rows = []


def _read_merges(repository: Repository, shas: Sequence[str]) -> Iterator[CommitEdit | SkippedCommit]:
    """What each merge brings into its first parent, with the files in which it mixes its parents."""
    mixed = {
        edit.sha: edit
        for edit in stream_diff_tree(repository, shas, edits.COMBINED_DIFF_OPTIONS, edits.CombinedDiffParser)
    }
    for edit in stream_diff_tree(repository, shas, edits.FIRST_PARENT_OPTIONS, edits.FileListParser):
        other = mixed.get(edit.sha)
        if isinstance(edit, SkippedCommit) or isinstance(other, SkippedCommit) or other is None:
            yield edit if isinstance(edit, SkippedCommit) else SkippedCommit(edit.sha, "unreadable")
        else:
            edit.mixed = other.mixed
            yield edit


def _encode_edit(edit: CommitEdit) -> list[Any]:
    files = [
        [f.status, f.path, f.old_path, f.old, f.new, f.places, [[k, v] for k, v in f.went_on.items()]]
        for f in edit.files
    ]
    mixed = [[one.path, one.new, one.parents] for one in edit.mixed.values()]
    details = (edit.suspects, edit.passed, edit.prints, edit.size, edit.moves, edit.neighbours)
    return [files, mixed, *details]


def _decode_edit(sha: str, packed: Sequence[Any]) -> CommitEdit:
    listed, mixed, found, passed, prints, size, moved, *beside = packed  # none in older caches
    files = [
        FileEdit(status, path, old_path, old, new, places, dict(onward))
        for status, path, old_path, old, new, places, onward in listed
    ]
    both = {path: CombinedFileEdit(path, new, parents) for path, new, parents in mixed}
    return CommitEdit(sha, files, both, found, passed, prints, (size[0], size[1]), moved, *beside)


def _open_database(path: Path | None) -> sqlite3.Connection:
    """A usable database; one that is broken or of another version is replaced."""
    if path is None:
        return _prepare_database(sqlite3.connect(":memory:"))
    db = sqlite3.connect(path, timeout=10)
    try:
        if db.execute("PRAGMA user_version").fetchone()[0] == CACHE_VERSION:
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("SELECT sha, detail, data FROM edit LIMIT 1").fetchone()
            return db
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:  # not a database, or a damaged one: it can be read again
        pass
    db.close()
    for leftover in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        leftover.unlink(missing_ok=True)
    return _prepare_database(sqlite3.connect(path, timeout=10))


def _prepare_database(db: sqlite3.Connection) -> sqlite3.Connection:
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    db.executescript(f"BEGIN; {_CREATE_TABLE}; PRAGMA user_version = {CACHE_VERSION}; COMMIT;")
    return db
