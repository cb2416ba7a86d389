"""The history before a change: earlier changes, authors and fixes of its files, at any point of the history.

The tables are part of the history's database: a row for each commit that is not a merge, and one for each
file that it touched. `reached` marks the ancestors of one commit, the *cursor*. `move_cursor` moves it by
asking git only for the difference, so that a commit on top of the last one costs a single row.
"""

import sqlite3
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Protocol

from gitpeft.diff.patch import FileChange, quote_path, unquote_path
from gitpeft.digests import blake2b
from gitpeft.errors import GitpeftError
from gitpeft.git.log import NO_TIME
from gitpeft.git.objects import read_line_counts
from gitpeft.git.repository import Repository
from gitpeft.history.paths import mask_names
from gitpeft.lazy import lazy_dataclass

if TYPE_CHECKING:
    from gitpeft.history.step_share import CountListener

CREATE_CONTEXT_TABLES = """
CREATE TABLE change (
    id INTEGER PRIMARY KEY, sha TEXT NOT NULL UNIQUE, author TEXT, time INTEGER, fix INTEGER, subsystems TEXT,
    reached INTEGER NOT NULL DEFAULT 0
);
CREATE INDEX change_author ON change (author);
CREATE TABLE touch (
    change INTEGER NOT NULL, path TEXT NOT NULL, origin TEXT, status TEXT, kind TEXT, added INTEGER,
    removed INTEGER, lines INTEGER, functions TEXT, old TEXT, new TEXT
);
CREATE INDEX touch_path ON touch (path);
CREATE INDEX touch_change ON touch (change);
CREATE INDEX touch_open ON touch (change) WHERE lines IS NULL;
"""

YEAR_SECONDS = 365 * 86400

Period = tuple[int, int]
"""The first and the last moment of a period, both part of it, in Unix seconds."""

UNCOUNTED_KINDS = ("generated", "submodule")
"""Kinds of files that count in no metric."""

MAX_LINEAGE_NAMES = 16
"""The most names under which the history of a file is followed."""

KINDS_WITH_LINES = ("text", "generated", "symlink", "mode")
"""Kinds of files that have lines."""

READ_AT_ONCE = 256
"""Commits that one query asks for."""

_FILLED_AT_ONCE = 5000

_MAX_COMPANION_PATHS = 8
_MAX_COMPANION_CHANGES = 200
_MAX_COMPANION_FILES = 20


ChangeRows = tuple[tuple[str, str, int, bool], list[tuple[object, ...]]]
"""A commit to store: (id, author's hash, commit time, is it a fix), and rows of `build_touch_rows`."""


@lazy_dataclass(frozen=True, slots=True)
class TouchedFile:
    """The change of one file. `lines` is its length before, `functions` are hashes of the changed functions.

    `path` is of `paths.mask_path`; so is `origin`, the old path in a rename.
    """

    path: str
    status: str
    kind: str
    added: int
    removed: int
    lines: int
    functions: frozenset[str] = frozenset()
    origin: str | None = None


@lazy_dataclass(frozen=True, slots=True)
class MeasuredChange:
    """A change as the metrics need it: its files, the author (a hash) and its moment (Unix seconds).

    The moment is the committer's time: of a commit the stored one, of a staged change the one that git would
    record now. `fix` tells whether its message says that it is a fix, False before there is a message.
    `real_shares` are the parts of the added and the removed lines of code that say something (see
    `risk.real_lines`), 1 where that is not known.
    """

    files: tuple[TouchedFile, ...]
    author: str
    time: int
    fix: bool = False
    real_shares: tuple[float, float] = (1.0, 1.0)

    @property
    def counted_files(self) -> list[TouchedFile]:
        """The files that count in the metrics."""
        return [file for file in self.files if file.kind not in UNCOUNTED_KINDS]


@lazy_dataclass(frozen=True, slots=True)
class EarlierChange:
    """One earlier change of a file: row id, author (a hash), time, whether it was a fix, the functions."""

    change: int
    author: str
    time: int
    fix: bool
    functions: frozenset[str]

    def is_within(self, period: Period) -> bool:
        """Whether it falls into a period."""
        return period[0] <= self.time <= period[1]


@lazy_dataclass(frozen=True, slots=True)
class CompanionFile:
    """A file that usually changes with `beside`: in `together` of the last `of` changes of that file."""

    path: str
    beside: str
    together: int
    of: int


class HistoryContext(Protocol):
    """The history before a change, as the metrics need it. `names` are paths before the change."""

    def count_changes(self, names: Sequence[str], period: Period | None = None) -> int:
        """The number of earlier changes of any of these files, in a period or ever."""
        ...

    def count_fixes(self, names: Sequence[str], period: Period) -> int:
        """The number of these changes in a period that were fixes."""
        ...

    def count_developers(self, names: Sequence[str]) -> int:
        """The number of authors of earlier changes of these files."""
        ...

    def find_last_change_time(self, name: str, now: int) -> int | None:
        """The time of the last change of a file up to `now`; None when none has a usable date."""
        ...

    def measure_experience(self, author: str, now: int) -> tuple[int, float]:
        """The number of the author's earlier changes, and the sum of 1 / (1 + full years ago) over them."""
        ...

    def count_subsystem_changes(self, author: str, subsystems: frozenset[str]) -> int:
        """The number of the author's earlier changes in any of the subsystems."""
        ...


def find_subsystem(path: str) -> str:
    """The first directory of a path, "." at the top (Kamei et al. 2013)."""
    return path.partition("/")[0] if "/" in path else "."


def hash_function_heading(heading: str) -> str:
    """Hash a function's heading: it is recognised again, but no secret in it is stored."""
    return blake2b(heading.encode(), digest_size=6).hexdigest()


def compute_recent_experience(times: Iterable[int], now: int) -> float:
    """The sum of 1 / (1 + n), n the full years since each moment (rexp of Kamei et al.)."""
    ages = Counter(max(0, now - time) // YEAR_SECONDS for time in times)
    return sum(ages[age] / (1 + age) for age in sorted(ages))


# --- storing ------------------------------------------------------------------------------------------------


def build_touch_rows(files: Sequence[FileChange]) -> list[tuple[object, ...]]:
    """Build the rows of a commit's files."""
    return [_build_touch_row(file, *mask_names(file)) for file in files]


def _build_touch_row(file: FileChange, path: str, origin: str | None) -> tuple[object, ...]:
    functions = " ".join(map(hash_function_heading, file.functions))
    path = quote_path(path)
    origin = (
        quote_path(origin) if origin and file.status == "R" else None
    )  # a copy begins a history of its own
    lines = None if file.kind in KINDS_WITH_LINES else 0
    counts = (file.status, file.kind, file.added, file.removed)
    return (path, origin, *counts, lines, functions, *(file.blobs if lines is None else (None, None)))


def store_changes(db: sqlite3.Connection, changes: Iterable[ChangeRows]) -> None:
    """Add commits, without merges."""
    command = "INSERT OR IGNORE INTO change (sha, author, time, fix, subsystems) VALUES (?, ?, ?, ?, ?)"
    for head, rows in changes:
        subsystems = "\t".join(sorted({_quote_subsystem(unquote_path(str(row[0]))) for row in rows}))
        made = db.execute(command, (*head, subsystems))
        if made.rowcount:
            numbered = [(made.lastrowid, *row) for row in rows]
            db.executemany("INSERT INTO touch VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", numbered)


def _quote_subsystem(path: str) -> str:
    return quote_path(find_subsystem(path))


def delete_changes(db: sqlite3.Connection, shas: Iterable[str]) -> None:
    """Delete commits."""
    for sha in shas:
        db.execute("DELETE FROM touch WHERE change = (SELECT id FROM change WHERE sha = ?)", (sha,))
        db.execute("DELETE FROM change WHERE sha = ?", (sha,))


def forget_changes(db: sqlite3.Connection, shas: Collection[str]) -> None:
    """Delete commits that are going to be stored again, and forget where the cursor is."""
    if shas:
        delete_changes(db, shas)
        db.execute("UPDATE change SET reached = 0")
        db.execute("DELETE FROM setting WHERE name = 'place'")


def fill_line_counts(
    db: sqlite3.Connection,
    repository: Repository,
    order: Sequence[str],
    listen: "CountListener | None" = None,
) -> None:
    """Fill in the length that each newly stored file had before its change; `order` is oldest first.

    The length of a content is that of the content before, plus the lines added, minus those removed. Along a
    chain of changes this gives every length exactly, so git is asked only for the content at its start. Some
    thousand commits are filled in at a time, and the lengths of contents that none of them changed again are
    kept for the next ones.
    """
    open_ids = "SELECT DISTINCT change FROM touch WHERE lines IS NULL"
    unfilled = {sha for (sha,) in db.execute(f"SELECT sha FROM change WHERE id IN ({open_ids})")}
    if not unfilled:
        return
    ordered = [sha for sha in order if sha in unfilled]
    waiting = [*sorted(unfilled.difference(ordered)), *ordered]
    lengths: dict[int, int] = {}
    for start in range(0, len(waiting), _FILLED_AT_ONCE):
        if listen:
            listen(start, len(waiting))
        _fill_line_counts_of(db, repository, waiting[start : start + _FILLED_AT_ONCE], lengths)


def _fill_line_counts_of(
    db: sqlite3.Connection, repository: Repository, shas: Sequence[str], lengths: dict[int, int]
) -> None:
    """The same for some commits, oldest first; `lengths` are those of contents by `_shorten_name`."""
    columns = "touch.rowid, sha, coalesce(origin, path), old, new, added - removed, status"
    query = f"SELECT {columns} FROM change JOIN touch ON touch.change = change.id WHERE lines IS NULL"
    rows: list[tuple[int, str, str, str, str, int, str]] = []
    for start in range(0, len(shas), READ_AT_ONCE):
        wanted = shas[start : start + READ_AT_ONCE]
        rows += db.execute(f"{query} AND sha IN ({', '.join('?' * len(wanted))})", tuple(wanted))
    position = {sha: number for number, sha in enumerate(shas)}
    rows.sort(key=lambda row: position[row[1]])
    steps: dict[str, tuple[str, int]] = {}
    for _, _, _, old, new, grown, _ in rows:
        steps.setdefault(new, (old, grown))
    named = {
        number: _name_old_content(sha, unquote_path(path), old, status)
        for number, sha, path, old, _, _, status in rows
    }
    starts: dict[str, tuple[str, int]] = {}
    found = {number: _find_chain_start(name, steps, starts) for number, name in named.items()}
    ends = {
        name: _find_chain_start(name, steps, starts)
        for name in steps.keys() - set(named.values())
        if name.strip("0")
    }
    roots = {root for root, _ in [*found.values(), *ends.values()]} - {""}
    known = {root: lengths[key] for root in roots if (key := _shorten_name(root)) in lengths}
    known |= read_line_counts(repository, sorted({root for root, _ in found.values()} - known.keys() - {""}))
    filled = [(max(0, known.get(root, 0) + grown), number) for number, (root, grown) in found.items()]
    with db:
        db.executemany("UPDATE touch SET lines = ?, old = NULL, new = NULL WHERE rowid = ?", filled)
    for name in named.values():
        lengths.pop(_shorten_name(name), None)
    for name, (root, grown) in ends.items():
        if root in known or not root:
            lengths[_shorten_name(name)] = known.get(root, 0) + grown


def _shorten_name(content: str) -> int:
    """The first 60 bits of a content's name, which no two of ten million share; -1 of a commit and a path."""
    return -1 if not content or ":" in content else int(content[:15], 16)


def _name_old_content(sha: str, path: str, old: str, status: str) -> str:
    """Git's name of the content before a change; "" where there was none."""
    return "" if status == "A" else old or f"{sha}^:{path}"


def _find_chain_start(
    name: str, steps: dict[str, tuple[str, int]], starts: dict[str, tuple[str, int]]
) -> tuple[str, int]:
    """The content at which a chain begins ("" for an empty start), and the number of lines it grew since.

    `starts` is a cache of the results for every content on the way.
    """
    way: dict[str, int] = {}
    at = name
    while at in steps and at not in starts and at not in way:
        before, way[at] = steps[at]
        at = before
    root, grown = starts.get(at, ("" if not at.strip("0") else at, 0))
    for content in reversed(way):
        grown += way[content]
        starts[content] = root, grown
    return root, grown


# --- the cursor ---------------------------------------------------------------------------------------------


def find_cursor_difference(
    db: sqlite3.Connection, repository: Repository, head: str | None
) -> tuple[list[str], list[str]]:
    """The commits that `head` reaches but the cursor does not, and the other way round; None reaches nothing.

    Newest first, without merges. Where git does not know the cursor's commit any more, all that `head`
    reaches.
    """
    command = ("rev-list", "--no-merges", "--date-order")
    cursor = read_cursor(db)
    if cursor == (head or ""):
        return [], []
    if cursor and head:
        try:
            lines = repository.run(*command, "--left-right", f"{head}...{cursor}", "--").decode().split()
            return [line[1:] for line in lines if line[0] == "<"], [
                line[1:] for line in lines if line[0] == ">"
            ]
        except GitpeftError:
            pass
    reached = [sha for (sha,) in db.execute("SELECT sha FROM change WHERE reached")]
    return (repository.run(*command, head, "--").decode().split() if head else []), reached


def list_unread_commits(db: sqlite3.Connection, shas: Sequence[str]) -> list[str]:
    """The commits that are neither stored nor known to be unreadable."""
    query = "SELECT 1 FROM change WHERE sha = ? UNION ALL SELECT 1 FROM skipped WHERE sha = ?"
    return [sha for sha in shas if not db.execute(query, (sha, sha)).fetchone()]


def move_cursor(db: sqlite3.Connection, head: str | None, left: Iterable[str], right: Iterable[str]) -> None:
    """Move the cursor to a commit by `find_cursor_difference`; the caller ends the transaction."""
    command = "UPDATE change SET reached = ? WHERE sha = ?"
    db.executemany(command, [(0, sha) for sha in right])
    db.executemany(command, [(1, sha) for sha in left])
    write_setting(db, "place", head or "")


def read_cursor(db: sqlite3.Connection) -> str:
    """The commit of the cursor, "" before the first one."""
    return read_setting(db, "place")


def read_setting(db: sqlite3.Connection, name: str) -> str:
    """What the database remembers under a name, "" for nothing."""
    row = db.execute("SELECT value FROM setting WHERE name = ?", (name,)).fetchone()
    return str(row[0]) if row else ""


def write_setting(db: sqlite3.Connection, name: str, value: str) -> None:
    """Remember a value under a name; the caller ends the transaction."""
    db.execute("INSERT OR REPLACE INTO setting VALUES (?, ?)", (name, value))


def load_stored_changes(db: sqlite3.Connection, shas: Sequence[str]) -> dict[str, MeasuredChange]:
    """Load those of these commits that are stored, by id."""
    found: dict[str, MeasuredChange] = {}
    for start in range(0, len(shas), READ_AT_ONCE):
        wanted = shas[start : start + READ_AT_ONCE]
        marks = ", ".join("?" * len(wanted))
        query = f"SELECT id, sha, author, time, fix FROM change WHERE sha IN ({marks})"
        heads = db.execute(query, tuple(wanted)).fetchall()
        files = _load_files(db, [head[0] for head in heads])
        for number, sha, author, time, fix in heads:
            found[sha] = MeasuredChange(tuple(files.get(number, ())), author, time, bool(fix))
    return found


def _load_files(db: sqlite3.Connection, changes: Sequence[int]) -> dict[int, list[TouchedFile]]:
    files: dict[int, list[TouchedFile]] = {}
    columns = "change, path, status, kind, added, removed, lines, functions, origin"
    marks = ", ".join("?" * len(changes))
    query = f"SELECT {columns} FROM touch WHERE change IN ({marks}) ORDER BY rowid"
    rows = db.execute(query, tuple(changes))
    for number, path, status, kind, added, removed, lines, functions, origin in rows:
        before = unquote_path(origin) if origin else None
        hashes = frozenset(functions.split())
        touch = TouchedFile(unquote_path(path), status, kind, added, removed, lines or 0, hashes, before)
        files.setdefault(number, []).append(touch)
    return files


def iter_change_heads(db: sqlite3.Connection) -> Iterator[tuple[int, str, str, int, bool, list[str]]]:
    """Row id, commit id, author (a hash), time, whether it is a fix, and subsystems of all stored commits.

    By time; of one moment by id.
    """
    query = "SELECT id, sha, author, time, fix, subsystems FROM change ORDER BY time, sha"
    for number, sha, author, time, fix, subsystems in db.execute(query):
        areas = [unquote_path(one) for one in subsystems.split("\t")] if subsystems else []
        yield number, sha, author, time, bool(fix), areas


def find_touches(db: sqlite3.Connection, path: str) -> list[tuple[int, str | None]]:
    """Row ids of the commits that changed a file, each with the old path where it renamed it."""
    rows = db.execute("SELECT change, origin FROM touch WHERE path = ?", (quote_path(path),))
    return [(number, unquote_path(origin) if origin else None) for number, origin in rows]


class StoredContext:
    """A `HistoryContext` at the cursor, read from the tables file by file."""

    def __init__(self, db: sqlite3.Connection) -> None:
        self._db = db
        self._seen: dict[str, list[EarlierChange]] = {}
        self._names: dict[str, set[str]] = {}
        self._own: dict[str, list[tuple[int, str]]] = {}

    def load_earlier_changes(self, path: str) -> list[EarlierChange]:
        """Load all earlier changes of a file, under its earlier names too."""
        if path not in self._seen:
            names, at = [path], 0
            rows: dict[int, EarlierChange] = {}
            while at < min(len(names), MAX_LINEAGE_NAMES):
                found = self._query_touches(names[at]).fetchall()
                for _, change, author, time, fix, functions in found:
                    rows[change] = EarlierChange(
                        change, author, time, bool(fix), frozenset(functions.split())
                    )
                names += sorted({unquote_path(row[0]) for row in found if row[0]}.difference(names))
                at += 1
            self._seen[path] = list(rows.values())
            self._names[path] = set(names)
        return self._seen[path]

    def list_earlier_names(self, path: str) -> frozenset[str]:
        """The names under which the changes of a file are looked up, the present one included."""
        self.load_earlier_changes(path)
        return frozenset(self._names[path])

    def _query_touches(self, path: str) -> sqlite3.Cursor:
        return self._db.execute(
            "SELECT origin, id, author, time, fix, functions FROM touch JOIN change ON id = touch.change"
            " WHERE path = ? AND reached ORDER BY id",
            (quote_path(path),),
        )

    def _collect_earlier_changes(self, names: Sequence[str]) -> dict[int, EarlierChange]:
        return {one.change: one for name in names for one in self.load_earlier_changes(name)}

    def count_changes(self, names: Sequence[str], period: Period | None = None) -> int:
        """See `HistoryContext`."""
        return sum(
            period is None or one.is_within(period) for one in self._collect_earlier_changes(names).values()
        )

    def count_fixes(self, names: Sequence[str], period: Period) -> int:
        """See `HistoryContext`."""
        return sum(one.fix and one.is_within(period) for one in self._collect_earlier_changes(names).values())

    def count_developers(self, names: Sequence[str]) -> int:
        """See `HistoryContext`."""
        return len({one.author for one in self._collect_earlier_changes(names).values()})

    def find_last_change_time(self, name: str, now: int) -> int | None:
        """See `HistoryContext`."""
        times = (one.time for one in self.load_earlier_changes(name) if one.time <= now)
        return max(times, default=NO_TIME) or None

    def measure_experience(self, author: str, now: int) -> tuple[int, float]:
        """See `HistoryContext`."""
        times = [time for time, _ in self._load_author_changes(author)]
        return len(times), compute_recent_experience(times, now)

    def count_subsystem_changes(self, author: str, subsystems: frozenset[str]) -> int:
        """See `HistoryContext`."""
        wanted = set(map(quote_path, subsystems))
        return sum(not wanted.isdisjoint(names.split("\t")) for _, names in self._load_author_changes(author))

    def _load_author_changes(self, author: str) -> list[tuple[int, str]]:
        if author not in self._own:
            query = "SELECT time, subsystems FROM change WHERE author = ? AND reached"
            self._own[author] = self._db.execute(query, (author,)).fetchall()
        return self._own[author]

    def find_companions(self, paths: Sequence[str], support: int, confidence: float) -> list[CompanionFile]:
        """Files that usually change with one of these and are not among them, most certain first.

        Counted over the last 200 changes of a file, without those that touched more than 20 files: at least
        `support` of them, and at least the share `confidence`, changed both (association rules).
        """
        found = [
            one for path in paths[:_MAX_COMPANION_PATHS] for one in self._count_companions(path, set(paths))
        ]
        sure = [one for one in found if one.together >= support and one.together >= confidence * one.of]
        best: dict[str, CompanionFile] = {}
        for one in sorted(sure, key=lambda one: (-one.together / one.of, -one.together, one.path)):
            best.setdefault(one.path, one)
        return list(best.values())

    def _count_companions(self, path: str, known: set[str]) -> list[CompanionFile]:
        newest = sorted(self.load_earlier_changes(path), key=lambda one: (-one.time, one.change))[
            :_MAX_COMPANION_CHANGES
        ]
        counts: Counter[str] = Counter()
        of = 0
        for one in newest:
            rows = self._db.execute("SELECT path FROM touch WHERE change = ?", (one.change,)).fetchall()
            if len(rows) <= _MAX_COMPANION_FILES:
                of += 1
                counts.update(unquote_path(name) for (name,) in rows)
        known = known | self._names[path]
        return [CompanionFile(name, path, n, of) for name, n in counts.most_common(8) if name not in known]
