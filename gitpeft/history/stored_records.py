"""The mined commits of a history, read from the database when they are asked for, not held in memory."""

import os
import sqlite3
import weakref
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NoReturn, overload

from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.store import RECORD_COLUMNS, CommitRecord, History, decompress_change, record_from_row
from gitpeft.lazy import lazy_dataclass

_READ_AT_ONCE = 256


class RecordReader:
    """Reads commits of a database by id; a forked process reads through a connection of its own."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db: sqlite3.Connection | None = None
        self._owner = 0

    def read_records(self, shas: Sequence[str]) -> list[CommitRecord]:
        """The commits with these ids, a few hundred at most, in their order.

        Raises GitpeftError where one is not there any more.
        """
        marks = ", ".join("?" * len(shas))
        query = f"SELECT {RECORD_COLUMNS} FROM record WHERE sha IN ({marks})"
        found = {row[0]: record_from_row(row) for row in self._connect().execute(query, tuple(shas))}
        return [found[sha] if sha in found else _fail_for_missing(sha) for sha in shas]

    def read_change(self, sha: str) -> str:
        """The stored change of one commit; raises GitpeftError where the commit is not there any more."""
        row = self._connect().execute("SELECT change FROM record WHERE sha = ?", (sha,)).fetchone()
        return decompress_change(row[0]) if row else _fail_for_missing(sha)

    def _connect(self) -> sqlite3.Connection:
        if self._db is None or self._owner != os.getpid():
            # closed by whoever lets go of the reader last, which may be another thread
            self._db = sqlite3.connect(self._path, timeout=10, check_same_thread=False)
            self._owner = os.getpid()
            weakref.finalize(self, self._db.close)
        return self._db


def _fail_for_missing(sha: str) -> NoReturn:
    raise GitpeftError(
        f"commit {sha[:10]} is not in the mined history any more",
        "Run the command again: history was rewritten.",
    )


@lazy_dataclass(frozen=True, slots=True)
class StoredChange:
    """The change of a mined commit, which is read when it is asked for."""

    reader: RecordReader
    sha: str

    def read(self) -> str:
        """The stored change."""
        return self.reader.read_change(self.sha)


class StoredRecords(Sequence[CommitRecord]):
    """The mined commits with these ids, oldest first; going through them holds a few hundred at a time."""

    def __init__(self, reader: RecordReader, shas: Sequence[str]) -> None:
        self._reader, self._shas = reader, shas

    @classmethod
    def open(cls, history: History, repository: Repository, tip: str) -> "StoredRecords":
        """The mined commits that `tip` reaches, as `History.load_records` would load them."""
        return cls(RecordReader(history.path), history.list_mined(repository, tip))

    def promise_change(self, record: CommitRecord) -> StoredChange:
        """The change of one of these commits, to be read later."""
        return StoredChange(self._reader, record.sha)

    def find(self, shas: Sequence[str]) -> list[CommitRecord]:
        """Some of these commits by their ids, a few hundred at most."""
        return self._reader.read_records(shas)

    @overload
    def __getitem__(self, place: int) -> CommitRecord: ...
    @overload
    def __getitem__(self, place: slice) -> "StoredRecords": ...
    def __getitem__(self, place: int | slice) -> "CommitRecord | StoredRecords":
        if isinstance(place, slice):
            return StoredRecords(self._reader, self._shas[place])
        return self._reader.read_records([self._shas[place]])[0]

    def __len__(self) -> int:
        return len(self._shas)

    def __iter__(self) -> Iterator[CommitRecord]:
        for start in range(0, len(self._shas), _READ_AT_ONCE):
            yield from self._reader.read_records(self._shas[start : start + _READ_AT_ONCE])
