"""The history store: an incremental SQLite cache of parsed commits, keyed by their ids.

The database holds the content of commits; git is asked each time which commits there are, and in which order.
So a rewritten history needs no special case: rows that no ref reaches any more are dropped. Before anything
is stored, secrets are masked, and authors hashed with a salt that never leaves the database.
"""

import os
import sqlite3
import time
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import cached_property
from itertools import chain, islice
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from gitpeft.diff.compact import RENDERER_VERSION
from gitpeft.diff.patch import FileChange, quote_path, unquote_path
from gitpeft.diff.stored import store_change
from gitpeft.errors import UNWRITABLE_HINT, GitpeftError
from gitpeft.git.log import LATEST_TIME, NO_TIME, Commit, SkippedCommit
from gitpeft.git.repository import Repository
from gitpeft.history import context
from gitpeft.history.authors import MAX_COMMITS_TO_MAP, AuthorHasher, follow_mailmap
from gitpeft.history.paths import mask_names
from gitpeft.history.replacements import forget_replaced_commits
from gitpeft.lazy import field, lazy_dataclass
from gitpeft.redaction import mask_secrets

if TYPE_CHECKING:
    from gitpeft.history.step_share import CountListener, ShareListener

HISTORY_FILE = "history.db"
"""The database, in the state directory."""

SCHEMA_VERSION = 6
"""Version of the tables and their content; a database of another version, or renderer, is built anew."""

_DATABASE_VERSION = SCHEMA_VERSION * 1000 + RENDERER_VERSION
_UPGRADABLE_VERSION = 4001
"""The version before: it has the same tables, with changes in the compact form as plain text.

They are kept and used as they are until their commits are mined again.
"""

_BATCH_SIZE = 256
_PARALLEL_THRESHOLD = 1000
"""From this many commits on, several processes read.

Two were slower than one with 300 commits, and hardly faster with 700.
"""

_READ_SHARE, _COUNTED_SHARE = 0.95, 0.99
"""How much of mining is done when all commits are read, and when all lines are counted."""

MAX_CATCH_UP_COMMITS = 300
"""The most unread commits that `History.context_before` reads by itself."""

_MAX_BODY_LENGTH = 4000  # characters of a message's body that are kept
_CREATE_TABLES = (
    """
CREATE TABLE setting (name TEXT PRIMARY KEY, value TEXT NOT NULL);
CREATE TABLE skipped (sha TEXT PRIMARY KEY, reason TEXT NOT NULL) WITHOUT ROWID;
CREATE TABLE record (
    sha TEXT PRIMARY KEY, parents INTEGER, time INTEGER, commit_time INTEGER, author TEXT, bot INTEGER,
    subject TEXT, body TEXT, change TEXT, files INTEGER, added INTEGER, removed INTEGER, paths TEXT
);
"""
    + context.CREATE_CONTEXT_TABLES
)
_PackedBatch = tuple[list[tuple[object, ...]], list[context.ChangeRows], list[tuple[str, str]]]
"""Rows of `record`, the same commits for `history.context`, and (id, reason) of the commits left out."""

RECORD_COLUMNS = (
    "sha, parents, time, commit_time, author, bot, subject, body, change, files, added, removed, paths"
)


@lazy_dataclass(frozen=True, slots=True)
class PathChange:
    """The change of one file: path, git's status letter, old path, lines, and kind (see `FileChange`)."""

    path: str
    status: str
    old_path: str | None
    added: int
    removed: int
    kind: str


@lazy_dataclass(frozen=True, slots=True)
class CommitRecord:
    """One mined commit. Times are Unix seconds; `author` is a salted hash; `change` is stored, masked text.

    A merge has no change of its own: the counts and texts of its change are empty.
    """

    sha: str
    parents: int
    time: int
    commit_time: int
    author: str
    bot: bool
    subject: str
    body: str
    change: str
    files: int
    added: int
    removed: int
    _paths: str = field(repr=False)

    @property
    def is_merge(self) -> bool:
        """Whether the commit has several parents."""
        return self.parents > 1

    @property
    def paths(self) -> tuple[PathChange, ...]:
        """The change of each file, in git's order."""
        return tuple(map(_unpack_path_change, self._paths.split("\n"))) if self._paths else ()


@lazy_dataclass(frozen=True, slots=True)
class MiningReport:
    """The result of mining: `new` commits of `total`, those skipped by reason, and rows pruned.

    `undated` commits of all that are stored have a date that cannot be used (see `parse_time`).
    """

    new: int
    total: int
    skipped: dict[str, int]
    pruned: int
    seconds: float
    undated: int = 0


def is_history_read(state_dir: Path) -> bool:
    """Whether there is a store in a state directory."""
    return (state_dir / HISTORY_FILE).exists()


@contextmanager
def open_context_at_head(repository: Repository) -> Iterator[context.StoredContext | None]:
    """The history before the next commit; None where it is not read yet. Raises as `context_before`."""
    if not is_history_read(repository.state_dir):
        yield None
        return
    with (
        History.open(repository.state_dir) as history,
        history.context_before(repository, repository.resolve_head()) as found,
    ):
        yield found


class History:
    """The history store of one repository; a context manager."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._db = _connect_database(path)

    @classmethod
    def open(cls, state_dir: Path, wait_ms: int | None = None) -> Self:
        """Open the store in a state directory; a missing or unusable database is created anew.

        `wait_ms` is how long to wait for another writer, ten seconds by default. Raises GitpeftError where
        the folder cannot be written.
        """
        try:
            state_dir.mkdir(parents=True, exist_ok=True)
            history = cls(state_dir / HISTORY_FILE)
            if wait_ms is not None:
                history._db.execute(f"PRAGMA busy_timeout = {int(wait_ms)}")
            return history
        except (OSError, sqlite3.OperationalError) as error:
            raise GitpeftError(f"cannot open {state_dir / HISTORY_FILE}: {error}", UNWRITABLE_HINT) from error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the database."""
        self._db.close()

    def mine_commits(
        self,
        repository: Repository,
        tip: str = "HEAD",
        jobs: int | None = None,
        listen: "ShareListener | None" = None,
    ) -> MiningReport:
        """Read the commits that `tip` reaches and the store does not have yet, with `jobs` processes.

        What was read is kept even when this process is killed. Raises GitpeftError while another process
        mines, and for an unknown `tip`.
        """
        from gitpeft.history.pool import count_cores
        from gitpeft.history.step_share import follow_commits, make_part_listener

        start, listen = time.monotonic(), listen or (lambda _share, _words: None)
        reading = make_part_listener(listen, 0.0, _READ_SHARE)
        counting = make_part_listener(listen, _READ_SHARE, _COUNTED_SHARE, "counting lines of")
        indexing = make_part_listener(listen, _COUNTED_SHARE, 1.0, "indexing")
        tip = repository.resolve_commit(tip)
        with _lock_history(self.path.with_name("history.lock")):
            listen(0.0, "")
            forget_replaced_commits(self._db, repository)
            follow_mailmap(self._db, repository, self._authors)
            reachable = [sha for sha, _ in repository.rev_list(tip)]
            known = self._load_known_shas()
            outdated = self._load_outdated_shas()
            stored = len(known)
            current = known.difference(outdated)
            wanted = [sha for sha in reversed(reachable) if sha not in current]
            self._execute_many("DELETE FROM skipped", [()])  # commits skipped the last time are tried again
            with self._db:
                context.forget_changes(self._db, outdated)
            skipped = self._store_commits(repository, wanted, jobs or count_cores(), reading)
            context.fill_line_counts(self._db, repository, reachable, counting)
            left, right = context.find_cursor_difference(self._db, repository, tip)
            with self._db:
                context.move_cursor(self._db, tip, follow_commits(left, indexing), right)
            new = int(self._db.execute("SELECT count(*) FROM record").fetchone()[0]) - stored
            pruned = self._prune_unreachable(repository, known.difference(reachable))
            undated = self._count_undated()
        listen(1.0, f"{new:,} new of {len(reachable):,} commits")
        return MiningReport(new, len(reachable), skipped, pruned, time.monotonic() - start, undated)

    def load_records(
        self,
        repository: Repository,
        tip: str = "HEAD",
        newest: int | None = None,
    ) -> list[CommitRecord]:
        """Load the mined commits that `tip` reaches, oldest first; only the `newest` ones, if given."""
        reachable = [sha for sha, _ in repository.rev_list(repository.resolve_commit(tip))]
        wanted = reachable if newest is None else reachable[-newest:]
        found = {row[0]: record_from_row(row) for row in self._iter_rows(RECORD_COLUMNS, wanted)}
        return [found[sha] for sha in wanted if sha in found]

    def list_mined(self, repository: Repository, tip: str = "HEAD") -> list[str]:
        """The ids of the mined commits that `tip` reaches, oldest first."""
        known = self._load_known_shas()
        reachable = repository.rev_list(repository.resolve_commit(tip))
        return [sha for sha, _ in reachable if sha in known]

    def iter_changes(self, shas: Sequence[str]) -> Iterator[tuple[str, str]]:
        """The id and the stored change of those of these commits that are mined, in no order."""
        for row in self._iter_rows("sha, change", shas):
            yield row[0], decompress_change(row[1])

    def _iter_rows(self, columns: str, shas: Sequence[str]) -> Iterator[tuple[Any, ...]]:
        for start in range(0, len(shas), context.READ_AT_ONCE):
            wanted = tuple(shas[start : start + context.READ_AT_ONCE])
            marks = ", ".join("?" * len(wanted))
            yield from self._db.execute(f"SELECT {columns} FROM record WHERE sha IN ({marks})", wanted)

    def load_measured_changes(self, shas: Sequence[str]) -> dict[str, context.MeasuredChange]:
        """Load those of these commits that are stored, merges aside, as the metrics need them, by id."""
        return context.load_stored_changes(self._db, shas)

    def iter_change_heads(self) -> Iterator[tuple[int, str, str, int, bool, list[str]]]:
        """See `context.iter_change_heads`."""
        return context.iter_change_heads(self._db)

    def find_touches(self, path: str) -> list[tuple[int, str | None]]:
        """See `context.find_touches`."""
        return context.find_touches(self._db, path)

    @contextmanager
    def context_before(
        self, repository: Repository, head: str | None, *, keep: bool = False
    ) -> Iterator[context.StoredContext]:
        """The history before a change on top of `head` (None: before the first commit).

        Unread commits are read if they are at most `MAX_CATCH_UP_COMMITS`. Raises GitpeftError if they are
        more, or while another process mines. With `keep` the cursor stays here, which makes a near next call
        cheap.
        """
        follow_mailmap(self._db, repository, self._authors, MAX_COMMITS_TO_MAP)
        left, right = context.find_cursor_difference(self._db, repository, head)
        if new := context.list_unread_commits(self._db, left):
            self._read_new_commits(repository, new)
        try:
            if head != (context.read_cursor(self._db) or None):
                context.move_cursor(self._db, head, left, right)
            yield context.StoredContext(self._db)
            if keep:
                self._db.commit()
        finally:
            self._db.rollback()

    def _read_new_commits(self, repository: Repository, new: Sequence[str]) -> None:
        if len(new) > MAX_CATCH_UP_COMMITS:
            raise GitpeftError(f"{len(new):,} commits are not mined yet", "Run `gitpeft mine`.")
        with _lock_history(self.path.with_name("history.lock")):
            self._store_commits(repository, new, 1)
            context.fill_line_counts(self._db, repository, new[::-1])

    def count_skipped(self) -> dict[str, int]:
        """The number of commits that the last mining skipped, by reason."""
        return dict(self._db.execute("SELECT reason, count(*) FROM skipped GROUP BY reason"))

    def hash_author(self, identity: str) -> str:
        """The hash under which an author (`Name <mail>`, or a mail address) is stored."""
        return self._authors.hash_identity(identity)

    def _count_undated(self) -> int:
        odd = f"({NO_TIME}, {LATEST_TIME})"
        query = f"SELECT count(*) FROM record WHERE time IN {odd} OR commit_time IN {odd}"
        return int(self._db.execute(query).fetchone()[0])

    @cached_property
    def _authors(self) -> AuthorHasher:
        salt = self._db.execute("SELECT value FROM setting WHERE name = 'salt'").fetchone()[0]
        return AuthorHasher(str(salt))

    def _load_known_shas(self) -> set[str]:
        return {sha for (sha,) in self._db.execute("SELECT sha FROM record")}

    def _load_outdated_shas(self) -> set[str]:
        """The commits whose changes an earlier version stored; once there are none, there will be none."""
        if context.read_setting(self._db, "outdated") == "none":
            return set()
        query = "SELECT sha FROM record WHERE typeof(change) = 'text' AND change <> ''"
        outdated = {sha for (sha,) in self._db.execute(query)}
        if not outdated:
            with self._db:
                context.write_setting(self._db, "outdated", "none")
        return outdated

    def _store_commits(
        self,
        repository: Repository,
        shas: Sequence[str],
        jobs: int,
        listen: "CountListener | None" = None,
    ) -> dict[str, int]:
        """Store the commits, one batch per transaction."""
        skipped: Counter[str] = Counter()
        done = 0
        for rows, changes, left_out in self._pack_in_batches(repository, shas, jobs):
            with self._db:
                self._db.executemany(
                    f"INSERT OR REPLACE INTO record ({RECORD_COLUMNS}) VALUES ({_PLACEHOLDERS})",
                    map(_compress_change, rows),
                )
                self._db.executemany("INSERT OR REPLACE INTO skipped VALUES (?, ?)", left_out)
                context.store_changes(self._db, changes)
            skipped.update(reason for _, reason in left_out)
            done += len(rows) + len(left_out)
            if listen:
                listen(done, len(shas))
        return dict(skipped)

    def _pack_in_batches(
        self, repository: Repository, shas: Sequence[str], jobs: int
    ) -> Iterator[_PackedBatch]:
        """Read and pack the commits for storing; many of them in `jobs` processes."""
        from gitpeft.git.streams import stream_commits  # only where something is new

        pack = _CommitPacker(self._authors)
        if jobs == 1 or len(shas) < _PARALLEL_THRESHOLD:
            return pack.pack_batches(stream_commits(repository, shas, jobs))
        import gitpeft.history.fix_detection  # noqa: F401 - here once, not in every process
        from gitpeft.history import pool  # the hook reads few commits and does not need it

        if not pool.can_fork():
            return pack.pack_batches(stream_commits(repository, shas, jobs))
        blocks = [shas[at : at + _BATCH_SIZE] for at in range(0, len(shas), _BATCH_SIZE)]
        shares = [list(chain(*blocks[first::jobs])) for first in range(min(jobs, len(blocks)))]
        return pool.map_in_processes(
            shares, lambda share: pack.pack_batches(stream_commits(repository, share, 1))
        )

    def _prune_unreachable(self, repository: Repository, beyond: set[str]) -> int:
        """Delete the rows of `beyond`, which the tip does not reach, that no other ref reaches either."""
        if not beyond:
            return 0
        gone = beyond.difference(sha for sha, _ in repository.rev_list("--all", "HEAD"))
        self._execute_many("DELETE FROM record WHERE sha = ?", [(sha,) for sha in sorted(gone)])
        with self._db:
            context.delete_changes(self._db, gone)
        return len(gone)

    def _execute_many(self, statement: str, rows: Sequence[tuple[object, ...]]) -> None:
        with self._db:
            self._db.executemany(statement, rows)


_PLACEHOLDERS = ", ".join("?" * len(RECORD_COLUMNS.split(",")))
_CHANGE_COLUMN = RECORD_COLUMNS.split(", ").index("change")
_TEXT_SEPARATOR = "\n\0\n"


class _CommitPacker:
    """Packs commits into rows: changes bounded, secrets masked, authors hashed."""

    def __init__(self, authors: AuthorHasher) -> None:
        self.authors = authors

    def pack_batches(self, items: Iterable[Commit | SkippedCommit]) -> Iterator[_PackedBatch]:
        """Pack the commits in batches."""
        items = iter(items)
        while taken := list(islice(items, _BATCH_SIZE)):
            commits = [item for item in taken if isinstance(item, Commit)]
            rows = [self.pack_record(commit) for commit in commits]
            changes = [one for commit in commits for one in self.pack_change(commit)]
            yield (
                rows,
                changes,
                [(item.sha, item.reason) for item in taken if isinstance(item, SkippedCommit)],
            )

    def pack_record(self, commit: Commit) -> tuple[object, ...]:
        """The columns of a commit, in the order of `RECORD_COLUMNS`."""
        author, bot = self.authors.identify(commit.author)
        files = commit.files
        texts = (
            store_change(files),
            commit.subject,
            commit.body.strip("\n")[: 2 * _MAX_BODY_LENGTH],
        )
        change, subject, body = mask_secrets(_TEXT_SEPARATOR.join(texts)).split(_TEXT_SEPARATOR)
        paths = "\n".join(map(_pack_path_change, files))
        body = body[:_MAX_BODY_LENGTH]  # cut after masking: half a secret would not be recognised
        added, removed = sum([change.added for change in files]), sum([change.removed for change in files])
        head = (commit.sha, len(commit.parents), commit.time, commit.commit_time, author, bot)
        return (*head, subject, body, change, len(files), added, removed, paths)

    def pack_change(self, commit: Commit) -> list[context.ChangeRows]:
        """The same commit for `history.context`; nothing for a merge."""
        from gitpeft.history.fix_detection import (
            find_fix_evidence,
        )  # where nothing is new, its patterns are not needed

        if len(commit.parents) > 1:
            return []
        fix = find_fix_evidence(f"{commit.subject}\n\n{commit.body}") is not None
        when = commit.commit_time or commit.time
        head = (commit.sha, self.authors.identify(commit.author)[0], when, fix)
        return [(head, context.build_touch_rows(commit.files))]


def _pack_path_change(change: FileChange) -> str:
    names = (quote_path(name) for name in mask_names(change) if name is not None)
    return "\t".join([change.status, str(change.added), str(change.removed), change.kind, *names])


def _unpack_path_change(line: str) -> PathChange:
    status, added, removed, kind, *names = line.split("\t")
    path, *origin = map(unquote_path, names)
    return PathChange(path, status, origin[0] if origin else None, int(added), int(removed), kind)


def record_from_row(
    row: tuple[str, int, int, int, str, int, str, str, str | bytes, int, int, int, str],
) -> CommitRecord:
    """The commit in a row of `RECORD_COLUMNS`."""
    sha, parents, time_, commit_time, author, bot = row[:6]
    subject, body, change, files, added, removed, paths = row[6:]
    head = (sha, parents, time_, commit_time, author, bool(bot))
    return CommitRecord(*head, subject, body, decompress_change(change), files, added, removed, paths)


def decompress_change(packed: str | bytes) -> str:
    """A change as the column `change` has it, as text; GitpeftError where it is damaged."""
    if isinstance(packed, str):
        return packed
    try:
        return zlib.decompress(packed).decode()
    except (zlib.error, UnicodeDecodeError) as error:
        raise GitpeftError(
            f"the mined history is damaged: {error}", f"Delete {HISTORY_FILE} and run `gitpeft mine`."
        ) from None


def _compress_change(row: Sequence[object]) -> tuple[object, ...]:
    """A row with its change compressed, which saves two thirds; the row of a commit without one as it is."""
    change = row[_CHANGE_COLUMN]
    packed = zlib.compress(str(change).encode()) if change else ""
    return (*row[:_CHANGE_COLUMN], packed, *row[_CHANGE_COLUMN + 1 :])


def _connect_database(path: Path) -> sqlite3.Connection:
    """Open the database at `path`; one that is damaged, or of another version, is replaced."""
    db = _open_usable_database(path)
    if db is None:
        with _lock_history(path.with_name("history.lock"), patience=10):
            db = _open_usable_database(path) or _create_database(path)
    return db


def _open_usable_database(path: Path) -> sqlite3.Connection | None:
    db = sqlite3.connect(path, timeout=10)
    try:
        version = db.execute("PRAGMA user_version").fetchone()[0]
        if version == _UPGRADABLE_VERSION:
            with db:
                db.execute("DELETE FROM setting WHERE name = 'outdated'")
            db.execute(f"PRAGMA user_version = {_DATABASE_VERSION}")
        if version in (_UPGRADABLE_VERSION, _DATABASE_VERSION):
            db.execute("PRAGMA synchronous = NORMAL")
            db.execute("SELECT max(rowid), (SELECT value FROM setting) FROM record").fetchone()
            return db
    except sqlite3.OperationalError:
        raise
    except sqlite3.DatabaseError:  # no database, or a damaged one: the history can be mined again
        pass
    db.close()
    return None


def _create_database(path: Path) -> sqlite3.Connection:
    """Create an empty database in WAL mode: readers never wait, a killed writer loses one batch at most."""
    for leftover in (path, Path(f"{path}-wal"), Path(f"{path}-shm")):
        leftover.unlink(missing_ok=True)
    db = sqlite3.connect(path, timeout=10)
    db.execute("PRAGMA journal_mode = WAL")
    db.execute("PRAGMA synchronous = NORMAL")
    salt = f"INSERT INTO setting VALUES ('salt', '{os.urandom(16).hex()}');"
    db.executescript(f"BEGIN; {_CREATE_TABLES} {salt} PRAGMA user_version = {_DATABASE_VERSION}; COMMIT;")
    return db


@contextmanager
def _lock_history(path: Path, patience: float = 0) -> Iterator[None]:
    """Keep a second writer out.

    The lock is one of SQLite, not `files.hold_lock`, which a forked worker would inherit and keep.
    """
    db = sqlite3.connect(path, timeout=patience, isolation_level=None)
    try:
        _begin_exclusive(db)
        yield
    finally:
        db.close()


def _begin_exclusive(db: sqlite3.Connection) -> None:
    try:
        db.execute("BEGIN EXCLUSIVE")
    except sqlite3.OperationalError as error:
        if "locked" not in str(error):
            raise
        raise GitpeftError("another process is mining this history", "Wait until it is done.") from error
