"""What each commit does to lines, parsed from git's patches and the combined diffs of merges.

Patches are read as `git blame -w` would see them: without context, white space ignored, renames followed. Of
a commit there remain the places that changed; of a fix also the lines that were taken out and put in.
"""

import re
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field

from gitpeft.errors import GitpeftError
from gitpeft.git.log import RecordParser

DETAIL_SUSPECTS, DETAIL_CHECKSUMS, DETAIL_CONTINUATIONS = "b", "p", "i"
"""What is kept of a commit beside places, a letter each: fixes, what reverts concern, ignored revisions.

Of fixes, earlier versions kept no neighbours (`s`), or those of fixes that are passed over as well (`n`).
"""

BLOB_ID_LENGTH = 16
"""Characters of a blob's id that are kept, to tell whether a version is the expected one."""

_COMMON_OPTIONS = (
    *("--raw", "-p", "-w", "-M50%", "-l1000", "--full-index", "--diff-algorithm=myers", "--indent-heuristic"),
    *("--inter-hunk-context=0", "--src-prefix=a/", "--dst-prefix=b/", "--submodule=short"),
    *("--no-ext-diff", "--no-textconv", "--no-color", "--ignore-submodules=none"),
)
ORDINARY_OPTIONS = ("-U0", *_COMMON_OPTIONS)
"""Options for a commit with at most one parent."""

FIRST_PARENT_OPTIONS = ("--raw", "-M50%", "-l1000", "--full-index", "--diff-merges=first-parent")
"""Options for what a merge brings into its first parent."""

COMBINED_DIFF_OPTIONS = ("-c", "-U1", "--combined-all-paths", *_COMMON_OPTIONS)
"""Options for the files of a merge that are like those of none of its parents.

With one line of context, because without any, lines that only carry removed ones are not printed but counted.
"""

HunkRanges = list[tuple[int, int, int, int]]
"""Hunks: old start and length, new start and length, as in a header of `-U0`."""


@dataclass(slots=True)
class FileEdit:
    """The change of one file between two versions.

    Paths are as git quotes them, so that each name is one key. `places` is None where there are no lines to
    speak of: binary files, submodules, links. `went_on` says of a hunk that only reformats for each new line
    the removed line it continues (0-based in the hunk, -1 for none). Not kept: `bodies`, each hunk's text,
    and `blob`, the id of the old version in full.
    """

    status: str
    path: str
    old_path: str
    old: str
    new: str
    places: HunkRanges | None = field(default_factory=list)
    went_on: dict[int, list[int]] = field(default_factory=dict)
    bodies: list[bytes] = field(default_factory=list)
    blob: str = ""


@dataclass(slots=True)
class CombinedFileEdit:
    """A file of a merge that differs from all parents': path, blob and places in each."""

    path: str
    new: str
    parents: list[tuple[str, str, HunkRanges | None]]


@dataclass(slots=True)
class CommitEdit:
    """What a commit does. `mixed` is for merges, whose `files` compare with the first parent, without places.

    `suspects` are, of a fix, the numbers of the lines of the old files that may have been wrong, by old path;
    `neighbours`, where there are none, those before and after the code that it adds;
    `passed` counts removed lines and files that are excluded, by reason; `prints` holds, of commits
    that a revert concerns, the checksums of the removed and added lines of each hunk by path (old, new).
    `size` is files and added lines; `moves` are blocks that only change their place (see `moved_lines`).
    """

    sha: str
    files: list[FileEdit] = field(default_factory=list)
    mixed: dict[str, CombinedFileEdit] = field(default_factory=dict)
    suspects: dict[str, list[int]] = field(default_factory=dict)
    passed: dict[str, int] = field(default_factory=dict)
    prints: dict[str, list[tuple[list[int], list[int]]]] = field(default_factory=dict)
    size: tuple[int, int] = (0, 0)
    moves: list[tuple[str, int, str, int, int]] = field(default_factory=list)
    neighbours: dict[str, list[int]] = field(default_factory=dict)


# --- reading git --------------------------------------------------------------------------------------------

_RAW_LINE = re.compile(rb"^:(\d{6}) (\d{6}) (\w+) (\w+) ([A-Z])\d*\t([^\t\n]+)(?:\t([^\t\n]+))?$", re.M)
_HUNK_HEADER = re.compile(rb"-(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")
_COMBINED_HUNK_HEADER = re.compile(rb"(@{3,}) ((?:-\d+(?:,\d+)? )+)\+(\d+)(?:,(\d+))? @{3,}")
_TEXT_MODES = (b"100644", b"100755", b"100664")
_QUOTE_TABLE = bytes.maketrans(b"'", b'"')
_FORMATTING_BYTES = b" \t\r\n\f\v,;"


class PatchParser(RecordParser[CommitEdit]):
    """Edits out of the patches of ordinary commits, with the texts of all hunks that remove and add."""

    def __init__(self, mark: bytes) -> None:
        super().__init__(mark)
        self.files: dict[bytes, FileEdit] = {}
        self.modes: dict[bytes, tuple[bytes, bytes]] = {}

    def add_patch(self, patch: bytes, whole: bool) -> None:
        """Take the list of files, which comes first, and the patches behind it."""
        first, *parts = (b"\n" + patch).split(b"\ndiff --git ")
        for match in _RAW_LINE.finditer(first):
            file, modes = _parse_raw_entry(match)
            header = b"%s %s" % (_prefix_path(b"a/", match[6]), _prefix_path(b"b/", match[7] or match[6]))
            self.files[header] = file
            if modes[1] != b"000000" and modes[1] not in _TEXT_MODES:
                file.places = None
        for part in parts:
            header, _, rest = part.partition(b"\n")
            if (found := self.files.get(header)) and found.places is not None:
                _parse_hunks(found, rest)

    def build_item(self, fields: list[bytes]) -> CommitEdit:
        """The edit of the commit."""
        files, self.files = list(self.files.values()), {}
        lines = sum(place[3] for file in files for place in file.places or ())
        return CommitEdit(fields[0].decode("ascii"), files, size=(len(files), lines))


class FileListParser(RecordParser[CommitEdit]):
    """Edits of merges against their first parent, without places."""

    def __init__(self, mark: bytes) -> None:
        super().__init__(mark)
        self.files: list[FileEdit] = []

    def add_patch(self, patch: bytes, whole: bool) -> None:
        """Take the list of files."""
        self.files += [_parse_raw_entry(match)[0] for match in _RAW_LINE.finditer(patch)]

    def build_item(self, fields: list[bytes]) -> CommitEdit:
        """The edit of the merge."""
        files, self.files = self.files, []
        return CommitEdit(fields[0].decode("ascii"), files)


class CombinedDiffParser(RecordParser[CommitEdit]):
    """The files of merges that differ from those of all parents."""

    def __init__(self, mark: bytes) -> None:
        super().__init__(mark)
        self.patch = b""

    def add_patch(self, patch: bytes, whole: bool) -> None:
        """Keep the text until it is complete."""
        self.patch += patch

    def build_item(self, fields: list[bytes]) -> CommitEdit:
        """The edit of the merge, with nothing but `mixed`."""
        listed, *parts = (b"\n" + self.patch).split(b"\ndiff --combined ")
        self.patch = b""
        mixed = {one.path: one for line in listed.split(b"\n") if (one := _parse_combined_entry(line))}
        for part in parts:
            header, _, rest = part.partition(b"\n")
            if one := mixed.get(header.decode("ascii", "replace")):
                places = _parse_combined_hunks(rest, len(one.parents))
                pairs = zip(one.parents, places or [None] * len(one.parents), strict=True)
                one.parents = [(path, old, found) for (path, old, _), found in pairs]
        return CommitEdit(fields[0].decode("ascii"), mixed=mixed)


def _parse_raw_entry(match: re.Match[bytes]) -> tuple[FileEdit, tuple[bytes, bytes]]:
    old_path, path = match[6].decode("ascii", "replace"), (match[7] or match[6]).decode("ascii", "replace")
    old, new = match[3].decode(), match[4].decode()
    file = FileEdit(match[5].decode(), path, old_path, old[:BLOB_ID_LENGTH], new[:BLOB_ID_LENGTH], blob=old)
    return file, (match[1], match[2])


def _prefix_path(prefix: bytes, path: bytes) -> bytes:
    return b'"' + prefix + path[1:] if path.startswith(b'"') else prefix + path


def _parse_hunks(file: FileEdit, patch: bytes) -> None:
    """Places and texts of one file's patch; a file that changed its type comes in two, the second counts."""
    head, *hunks = patch.split(b"\n@@ ")
    if b"\nBinary files " in b"\n" + head:
        file.places = None
        return
    file.places, file.bodies, file.went_on = [], hunks, {}
    for number, body in enumerate(hunks):
        place = _parse_hunk_range(body)
        file.places.append(place)
        if place[1] and place[3]:
            removed, added = split_sides(body)
            if strip_formatting(removed) == strip_formatting(added):
                file.went_on[number] = map_reformatted_lines(removed, added)


def _parse_hunk_range(body: bytes) -> tuple[int, int, int, int]:
    match = _HUNK_HEADER.match(body)
    if match is None:
        raise GitpeftError("git printed a hunk that is none", "Please report this with `git --version`.")
    a, n, b, m = match.groups()
    return int(a), 1 if n is None else int(n), int(b), 1 if m is None else int(m)


def split_sides(body: bytes) -> tuple[list[bytes], list[bytes]]:
    """The removed and the added lines of a hunk's text."""
    lines = body.split(b"\n")[1:]
    return [line[1:] for line in lines if line[:1] == b"-"], [line[1:] for line in lines if line[:1] == b"+"]


def strip_formatting(lines: Sequence[bytes]) -> bytes:
    """Lines without what formatting changes: white space, line ends, commas, semicolons, kind of quotes."""
    return b"".join(lines).translate(_QUOTE_TABLE, _FORMATTING_BYTES)


def map_reformatted_lines(removed: Sequence[bytes], added: Sequence[bytes]) -> list[int]:
    """For each added line the removed one where its first character stands in the same stream."""
    ends = []
    at = 0
    for line in removed:
        at += len(strip_formatting([line]))
        ends.append(at)
    found: list[int] = []
    at = place = 0
    for line in added:
        while place < len(ends) - 1 and ends[place] <= at:
            place += 1
        found.append(place)
        at += len(strip_formatting([line]))
    return found


def _parse_combined_entry(line: bytes) -> CombinedFileEdit | None:
    """A line of `--raw` output of a combined diff; one that names a file which the merge still has."""
    head, *paths = line.decode("ascii", "replace").split("\t")
    count = len(head) - len(head.lstrip(":"))
    words = head[count:].split(" ")
    if count < 2 or len(words) != 2 * count + 3 or set(words[2 * count + 1]) == {"0"}:
        return None
    olds = [blob[:BLOB_ID_LENGTH] for blob in words[count + 1 : 2 * count + 1]]
    return CombinedFileEdit(
        paths[-1],
        words[2 * count + 1][:BLOB_ID_LENGTH],
        [(p, o, []) for p, o in zip(paths, olds, strict=False)],
    )


def _parse_combined_hunks(patch: bytes, parents: int) -> list[HunkRanges | None] | None:
    """For each parent its hunks, as `-U0` would give them; None where the patch is not of text."""
    places: list[HunkRanges] = [[] for _ in range(parents)]
    if b"\nBinary files " in b"\n" + patch[:2000]:
        return None
    for body in patch.split(b"\n@@@")[1:]:
        head, *lines = body.split(b"\n")
        match = _COMBINED_HUNK_HEADER.match(b"@@@" + head)
        if match is None or len(match[1]) != parents + 1:
            return None
        starts = [int(word[1:].partition(b",")[0]) for word in match[2].split()]
        for i in range(parents):
            places[i] += _walk_combined_hunk(lines, i, parents, starts[i], int(match[3]))
    return list(places)


def _walk_combined_hunk(
    lines: Sequence[bytes], parent: int, parents: int, old: int, new: int
) -> Iterator[tuple[int, int, int, int]]:
    """The places of one hunk of a combined diff where one parent and the merge differ."""
    old, new = max(old, 1), max(new, 1)
    begun: list[int] = []
    for line in (*lines, b" " * parents):
        signs = line[:parents]
        if len(signs) < parents or signs[:1] == b"\\":
            continue
        sign = signs[parent : parent + 1]
        lost = b"-" in signs
        if begun and sign == b" " and not lost:
            yield _close_range(begun, old, new)
            begun = []
        elif sign != b" " and not begun:
            begun = [old, new]
        old += sign == b"-" or (sign == b" " and not lost)
        new += not lost


def _close_range(begun: list[int], old: int, new: int) -> tuple[int, int, int, int]:
    """A hunk in the convention of `-U0`: an empty side is counted from the line before it."""
    n, m = old - begun[0], new - begun[1]
    return begun[0] - (n == 0), n, begun[1] - (m == 0), m


def align_lines(removed: Sequence[bytes], added: Sequence[bytes]) -> list[int]:
    """For each added line the removed line that shares most of its words in order; -1 where none does.

    This is what an ignored revision passes on: `git blame --ignore-rev` guesses in the same spirit.
    """
    from difflib import SequenceMatcher

    old, new = _split_words(removed), _split_words(added)
    if len(old) * len(new) > _MAX_WORDS**2:
        return [i if i < len(removed) else -1 for i in range(len(added))]
    votes: list[dict[int, int]] = [{} for _ in added]
    matcher = SequenceMatcher(None, [word for word, _ in old], [word for word, _ in new], autojunk=False)
    for i, j, size in matcher.get_matching_blocks():
        for k in range(size):
            vote = votes[new[j + k][1]]
            vote[old[i + k][1]] = vote.get(old[i + k][1], 0) + len(old[i + k][0])
    return [max(vote, key=lambda line: (vote[line], -line)) if vote else -1 for vote in votes]


_MAX_WORDS = 3000
_WORD_PATTERN = re.compile(rb"\w+|[^\w\s]")


def _split_words(lines: Sequence[bytes]) -> list[tuple[bytes, int]]:
    return [(word, number) for number, line in enumerate(lines) for word in _WORD_PATTERN.findall(line)]


def checksum_line(line: bytes) -> int:
    """A checksum of a line without its white space; 0 for one that holds nothing."""
    text = line.translate(None, _FORMATTING_BYTES)
    return zlib.crc32(text) if text else 0


def map_ignored_revision_lines(edit: CommitEdit) -> None:
    """Say of every hunk of an ignored revision which removed line each of its added lines continues."""
    for file in edit.files:
        for number, (place, body) in enumerate(zip(file.places or (), file.bodies, strict=False)):
            if place[1] and place[3] and number not in file.went_on:
                file.went_on[number] = align_lines(*split_sides(body))


def add_line_checksums(edit: CommitEdit) -> None:
    """Keep the checksums of all lines of a commit that a revert concerns."""
    for file in edit.files:
        both = [split_sides(body) for body in file.bodies] if file.places is not None else []
        edit.prints[file.path] = [
            ([*map(checksum_line, old)], [*map(checksum_line, new)]) for old, new in both
        ]
