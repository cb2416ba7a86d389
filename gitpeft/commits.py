"""Commits out of a stream: hides the format in which git is asked to print them.

A record is a mark, the fields of the commit, and its patch. The mark is random and new for every process, so
that nothing in a message or a file can be taken for one.
"""

import os
from dataclasses import dataclass

from gitpeft.diff import FILES_SHOWN, FileChange, parse, weight

_FIELDS = "%H%x00%P%x00%at%x00%ct%x00%an <%ae>%x00%s%x00%b%x00"
_SPILL = 1 << 23
_FILE_START = b"\ndiff --git "


@dataclass(frozen=True, slots=True)
class Commit:
    """A commit and its change; a merge has no `files`. Times are Unix seconds, `author` is `Name <mail>`."""

    sha: str
    parents: tuple[str, ...]
    time: int
    commit_time: int
    author: str
    subject: str
    body: str
    files: list[FileChange]


@dataclass(frozen=True, slots=True)
class Skipped:
    """A commit whose change cannot be known: `shallow`, `missing` (objects not here) or `unreadable`."""

    sha: str
    reason: str


def new_mark() -> bytes:
    """What starts a record."""
    return b"\0" + os.urandom(16).hex().encode() + b"\0"


def format_of(mark: bytes, fields: str = _FIELDS) -> str:
    """The `--format` that prints records with this mark."""
    return "--format=" + mark.decode().replace("\0", "%x00") + fields


class Parser:
    """Cuts git's output into commits, holding one commit at most, and of an enormous one a part at a time."""

    def __init__(self, mark: bytes) -> None:
        self.mark = mark
        self.rest = b""
        self.fields: list[bytes] = []
        self.files: list[FileChange] = []

    def feed(self, chunk: bytes) -> list[Commit]:
        """The commits that are complete with this chunk."""
        *records, self.rest = (self.rest + chunk).split(self.mark)
        commits = [self._commit(record) for record in records if record]
        if len(self.rest) > _SPILL:
            self._spill()
        return commits

    def end(self) -> list[Commit]:
        """The last commit."""
        return [self._commit(self.rest)] if self.rest or self.fields else []

    def _commit(self, record: bytes) -> Commit:
        patch = record if self.fields else self._open(record)
        fields, files = self.fields, self.files
        self.fields, self.files = [], []
        sha, parents, time, commit_time = (field.decode("ascii") for field in fields[:4])
        author, subject, body = map(text_of, fields[4:])
        if len(patch) > 1:
            files = files + parse(patch)
        return Commit(
            sha, tuple(parents.split()), int(time or 0), int(commit_time or 0), author, subject, body, files
        )

    def _open(self, record: bytes) -> bytes:
        *self.fields, patch = record.split(b"\0", 7)
        return patch

    def _spill(self) -> None:
        """Parse the files that are complete; keep the content of the largest, which is all that is shown."""
        cut = _last_start(self.rest)
        if not cut:
            return
        patch = self.rest[:cut] if self.fields else self._open(self.rest[:cut])
        self.files += parse(patch)
        self.rest = self.rest[cut:]
        for change in sorted(self.files, key=weight, reverse=True)[FILES_SHOWN:]:
            change.hunks = []


def _last_start(patch: bytes) -> int:
    """Where the last file of a patch starts that can be cut off; 0 if none can.

    A deletion and a creation of one path are one change of type, and stay together.
    """
    last = patch.rfind(_FILE_START)
    while (before := patch.rfind(_FILE_START, 0, max(last, 0))) >= 0:
        name = patch[last : patch.find(b"\n", last + 1)]
        if b"\n" in patch[last + 1 :] and not patch.startswith(name + b"\n", before):
            return last
        last = before
    return 0


def text_of(field: bytes) -> str:
    """Text of a commit; old ones often hold Latin-1 without saying so."""
    try:
        return field.decode()
    except UnicodeDecodeError:
        return field.decode("cp1252", "replace")
