"""Commits parsed from git's output, in the format in which this project makes git print them.

A record is a mark, the fields of the commit, and its patch. The mark is random and new for every process, so
that no text in a message or a file can be mistaken for one.
"""

import os
from typing import ClassVar, Generic, Protocol, TypeVar

from gitpeft.diff.patch import FileChange, file_priority, parse_patch
from gitpeft.diff.stored import MAX_FILES_READ
from gitpeft.git.process import decode_text
from gitpeft.lazy import lazy_dataclass
from gitpeft.terminal import decode_exactly

_COMMIT_FIELDS = "%H%x00%P%x00%at%x00%ct%x00%aN <%aE>%x00%s%x00%b%x00"
_SPILL_BYTES = 1 << 23
_FILE_START = b"\ndiff --git "

NO_TIME = 0
"""The time of a commit that has no usable date."""

LATEST_TIME = 253_402_300_799
"""The end of the year 9999: the latest time of a commit."""


@lazy_dataclass(frozen=True, slots=True)
class Commit:
    """A commit and its change; a merge has no `files`. Times are of `parse_time`.

    `author` is `Name <mail>` as git's mailmap has it, in the form of `decode_exactly`.
    """

    sha: str
    parents: tuple[str, ...]
    time: int
    commit_time: int
    author: str
    subject: str
    body: str
    files: list[FileChange]


@lazy_dataclass(frozen=True, slots=True)
class SkippedCommit:
    """A commit that cannot be read; `reason` is `shallow`, `missing` (objects not here) or `unreadable`."""

    sha: str
    reason: str


class HasSha(Protocol):
    """Anything parsed from the record of one commit."""

    @property
    def sha(self) -> str:
        """The id of the commit."""
        ...


ParsedItem = TypeVar("ParsedItem", bound=HasSha)


def parse_time(digits: bytes | str) -> int:
    """Parse a time that git printed, in Unix seconds; `NO_TIME` for none, or one before 1970.

    Git stores any number of digits, and a moment before 1970 as one close to 2^64. What is later than the
    year 9999, which neither SQLite, floats nor calendars carry, becomes `LATEST_TIME`.
    """
    if not (digits.isascii() and digits.isdigit()) or len(digits) > 40:
        return NO_TIME
    time = int(digits)
    return min(time, LATEST_TIME) if time < 1 << 63 else NO_TIME


def new_record_mark() -> bytes:
    """Make a random mark for the start of each record."""
    return b"\0" + os.urandom(16).hex().encode() + b"\0"


def build_format_option(mark: bytes, fields: str = _COMMIT_FIELDS) -> str:
    """The `--format` option that prints records with this mark and these fields."""
    return "--format=" + mark.decode().replace("\0", "%x00") + fields


class RecordParser(Generic[ParsedItem]):
    """Splits git's output into records. Holds at most one in memory, and of an enormous one a part at a time.

    A subclass names the fields to print (`FIELDS`, each ended by NUL) and builds an item of them and of the
    patch behind them, which `add_patch` gets in one part or, for an enormous record, in several.
    """

    FIELDS: ClassVar[str] = "%H%x00"

    def __init__(self, mark: bytes) -> None:
        self.mark = mark
        self.rest = b""
        self.fields: list[bytes] = []

    def add_patch(self, patch: bytes, whole: bool) -> None:
        """Take the next part of a record's patch; `whole` says that it is the only one."""
        raise NotImplementedError

    def build_item(self, fields: list[bytes]) -> ParsedItem:
        """Build the item of the record whose parts were added, and reset for the next one."""
        raise NotImplementedError

    def feed(self, chunk: bytes) -> list[ParsedItem]:
        """Take a chunk of output and return the items that it completes."""
        *records, self.rest = (self.rest + chunk).split(self.mark)
        items = [self._complete_item(record) for record in records if record]
        if len(self.rest) > _SPILL_BYTES:
            self._spill_complete_files()
        return items

    def close(self) -> list[ParsedItem]:
        """Return the last item, at the end of the output."""
        return [self._complete_item(self.rest)] if self.rest or self.fields else []

    def _complete_item(self, record: bytes) -> ParsedItem:
        whole = not self.fields
        self.add_patch(self._split_fields(record) if whole else record, whole)
        fields, self.fields = self.fields, []
        return self.build_item(fields)

    def _split_fields(self, record: bytes) -> bytes:
        *self.fields, patch = record.split(b"\0", self.FIELDS.count("%x00"))
        return patch

    def _spill_complete_files(self) -> None:
        """Add the files of an enormous record that are complete."""
        if cut := _find_last_file_start(self.rest):
            self.add_patch(
                self.rest[:cut] if self.fields else self._split_fields(self.rest[:cut]), whole=False
            )
            self.rest = self.rest[cut:]


class CommitParser(RecordParser[Commit]):
    """Parses commits with their changes; of an enormous one it keeps the hunks of the largest files."""

    FIELDS = _COMMIT_FIELDS

    def __init__(self, mark: bytes) -> None:
        super().__init__(mark)
        self.files: list[FileChange] = []

    def add_patch(self, patch: bytes, whole: bool) -> None:
        """Parse a part of the patch; of a large commit, no more hunks are kept than are read."""
        self.files += parse_patch(patch) if len(patch) > 1 else []
        if not whole:
            for change in sorted(self.files, key=file_priority, reverse=True)[MAX_FILES_READ:]:
                change.hunks = []

    def build_item(self, fields: list[bytes]) -> Commit:
        """Build the commit."""
        files, self.files = self.files, []
        sha, parents = (field.decode("ascii") for field in fields[:2])
        time, commit_time = map(parse_time, fields[2:4])
        subject, body = map(decode_text, fields[5:])
        author = decode_exactly(fields[4])
        return Commit(sha, tuple(parents.split()), time, commit_time, author, subject, body, files)


def _find_last_file_start(patch: bytes) -> int:
    """Where the last file starts at which a patch can be split; 0 if at none.

    The deletion and the creation of one path are one change of type, and stay together.
    """
    last = patch.rfind(_FILE_START)
    while (before := patch.rfind(_FILE_START, 0, max(last, 0))) >= 0:
        name = patch[last : patch.find(b"\n", last + 1)]
        if b"\n" in patch[last + 1 :] and not patch.startswith(name + b"\n", before):
            return last
        last = before
    return 0
