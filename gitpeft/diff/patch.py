"""What changed: hides git's patch format, and the one rendering of a change that every model reads.

Three forms, each smaller than the one before:

1. `parse`   a patch as git prints it          -> `FileChange`s with exact counts
2. `compact` the same, bounded, for storing    -> a text of at most `COMPACT_LIMIT` characters
3. `render`  compact text and its surroundings -> token ids within a `Budget`

Mining, training and the hook share all three, so what is asked is what was learnt.
"""

import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from typing import Protocol

from gitpeft.lazy import field, lazy_dataclass
from gitpeft.pattern import lazy_pattern

RENDERER_VERSION = 1
"""Version of `compact` and `render`; a bundle made with another one is refused."""

MAX_COMPACT_LENGTH = 2400
MAX_LINE_LENGTH = 160
MAX_FILES_LISTED = 24
MAX_FILES_SHOWN = 8
MAX_LINES_KEPT = 120
_MAX_PATH_LENGTH = 300
_MAX_LENGTH_READ = 4 * MAX_LINE_LENGTH
_UNLISTED_COUNT_ROOM = 10
"""Characters that are kept free for the number of the files that are not listed."""

_GENERATED_PATH = lazy_pattern(
    r"(?:^|/)(?:package-lock\.json|npm-shrinkwrap\.json|[^/]*\.lock|pnpm-lock\.yaml|go\.sum|gradle\.lockfile"
    r"|node_modules/.*|vendor/.*|third_party/.*|dist/.*\.(?:js|css|map)|[^/]*\.min\.(?:js|css|mjs|cjs)"
    r"|[^/]*\.(?:map|snap|pb\.go|svg)|[^/]*_pb2(?:_grpc)?\.pyi?|[^/]*\.generated\.[^/]*)$"
)
_ESCAPE_SEQUENCE = lazy_pattern(rb'\\([abtnvfr"\\]|[0-7]{3})')
_ESCAPE_CODES = {b"a": 7, b"b": 8, b"t": 9, b"n": 10, b"v": 11, b"f": 12, b"r": 13, b'"': 34, b"\\": 92}
_WORD_CHARACTER = lazy_pattern(r"\w")
_PLAIN_HEADER = lazy_pattern(
    rb'a/([^\x00-\x1f"\\\x7f-\xff]+) b/\1\nindex ([0-9a-f]+)\.\.([0-9a-f]+) 100(?:644|755)\n'
    rb"--- a/\1\t?\n\+\+\+ b/\1\t?"
)


@lazy_dataclass(slots=True)
class Hunk:
    """One hunk: git's heading (the enclosing function) and its first lines, each with its sign."""

    heading: str
    lines: list[str]


@lazy_dataclass(slots=True)
class FileChange:
    """The change of one file. `added` and `removed` are exact; `hunks` may hold fewer lines than they count.

    `status` is git's letter (A D M R C T); `kind` is text, binary, submodule, symlink, mode or generated.
    `blobs` are the ids of the content before and after, "" where git names none (a pure rename, a mode);
    `functions` the distinct headings of all hunks, also of those that `hunks` has no room for.
    """

    path: str
    status: str
    old_path: str | None = None
    added: int = 0
    removed: int = 0
    kind: str = "text"
    hunks: list[Hunk] = field(default_factory=list)
    blobs: tuple[str, str] = field(default=("", ""), compare=False)
    functions: tuple[str, ...] = field(default=(), compare=False)


@lru_cache(4096)
def is_generated(path: str) -> bool:
    """Whether a path is a lock file, minified, vendored or otherwise not written by hand."""
    return _GENERATED_PATH.search(path) is not None


def parse_patch(patch: bytes) -> list[FileChange]:
    """The file changes of a patch printed by `git diff-tree -p` or `git diff-index -p`.

    Content lines always start with a sign, so that a line start followed by `diff --git` or `@@` can only be
    a header: `-- x` and `++ x` in the content mislead nothing here.
    """
    files = [_parse_file(part) for part in (b"\n" + patch).split(b"\ndiff --git ")[1:]]
    return _join_type_changes(files)


def _parse_file(part: bytes) -> FileChange:
    head, *hunks = part.split(b"\n@@ ")
    change = _parse_plain_header(head) or _parse_file_header(head)
    if hunks:
        change.added = part.count(b"\n+") - head.count(b"\n+++ ")
        change.removed = part.count(b"\n-") - head.count(b"\n--- ")
        change.functions = tuple(dict.fromkeys(filter(None, map(_find_changed_function, hunks))))
    kept = 0
    for body in hunks if change.kind in ("text", "symlink") else ():
        hunk = _parse_hunk(body, MAX_LINES_KEPT - kept)
        change.hunks.append(hunk)
        kept += len(hunk.lines)
        if kept >= MAX_LINES_KEPT:
            break
    return change


def _find_changed_function(hunk: bytes) -> str:
    """The function that a hunk changes; "" at the top of a file.

    Git names the one before the hunk's first line. Where that line, or the first one removed, begins a
    function itself (as git sees it: a letter at the margin), it is meant.
    """
    head, _, rest = hunk[: 4 * MAX_LINE_LENGTH].partition(b"\n")
    name = head.partition(b" @@")[2]
    for line in rest.split(b"\n", 2)[:2]:
        if line[:1] in (b" ", b"-") and (line[1:2].isalpha() or line[1:2] in (b"_", b"$")):
            name = line[1:81]
        if line[:1] != b" ":
            break
    return normalize_line(name.decode("utf-8", "replace")) if name else ""


def _parse_hunk(body: bytes, room: int) -> Hunk:
    if len(body) <= 4 * MAX_LINE_LENGTH:
        first, *lines = body.decode("utf-8", "replace").split("\n")
        del lines[room:]
    else:
        first, *lines = [
            _decode_line(line[: 4 * MAX_LINE_LENGTH]) for line in body.split(b"\n", room + 1)[: room + 1]
        ]
    heading = first.partition(" @@")[2].strip()
    return Hunk(heading, [line for line in lines if line and line[0] in "+- "])


def _parse_plain_header(head: bytes) -> FileChange | None:
    """The commonest head, a plain file modified in place; None when it is any other."""
    match = _PLAIN_HEADER.fullmatch(head)
    if not match:
        return None
    path = match[1].decode("ascii")
    kind = "generated" if is_generated(path) else "text"
    return FileChange(path, "M", kind=kind, blobs=(match[2].decode(), match[3].decode()))


def _parse_file_header(head: bytes) -> FileChange:
    names, *lines = head.split(b"\n")
    change = FileChange(path="", status="M")
    modes: list[bytes] = []
    for line in lines:
        _parse_header_line(line, change, modes)
    if not change.path:
        change.path = _parse_common_path(names)
    if b"160000" in modes:
        change.kind = "submodule"
    elif b"120000" in modes:
        change.kind = "symlink"
    elif change.kind == "text" and is_generated(change.path):
        change.kind = "generated"
    elif change.kind == "text" and b"old" in modes and not any(line.startswith(b"index ") for line in lines):
        change.kind = "mode"
    return change


def _parse_header_line(line: bytes, change: FileChange, modes: list[bytes]) -> None:
    if line.startswith((b"+++ ", b"--- ")):
        name = _parse_header_path(line[4:].rstrip(b"\t"))
        if name is not None:
            change.path = name
    elif line.startswith(b"index "):
        modes.append(line.rpartition(b" ")[2])
        old, _, new = line[6:].partition(b" ")[0].decode("ascii", "replace").partition("..")
        change.blobs = old, new
    elif line.startswith((b"new file mode ", b"deleted file mode ")):
        change.status = "A" if line.startswith(b"n") else "D"
        modes.append(line[-6:])
    elif line.startswith((b"rename from ", b"copy from ")):
        change.status = "R" if line.startswith(b"r") else "C"
        change.old_path = _decode_path(_unquote_bytes(line.split(b" from ", 1)[1]))
    elif line.startswith((b"rename to ", b"copy to ")):
        change.path = _decode_path(_unquote_bytes(line.split(b" to ", 1)[1]))
    elif line.startswith(b"old mode "):
        modes.append(b"old")
    elif line.startswith((b"Binary files ", b"GIT binary patch")):
        change.kind = "binary"


def unquote_path(quoted: str) -> str:
    """A path that git may have quoted, as text on one line, the way `FileChange` has it."""
    return _decode_path(_unquote_bytes(quoted.encode())) if quoted.startswith('"') else quoted


def _parse_header_path(quoted: bytes) -> str | None:
    name = _unquote_bytes(quoted)
    return None if name == b"/dev/null" else _decode_path(name[2:])


def _parse_common_path(names: bytes) -> str:
    """The path in `a/PATH b/PATH`, where both sides are the same file (mode changes, binary, empty files)."""
    half = names[: len(names) // 2]
    return _decode_path(_unquote_bytes(half)[2:])


def _unquote_bytes(name: bytes) -> bytes:
    if not name.startswith(b'"'):
        return name

    def decode_escape(match: re.Match[bytes]) -> bytes:
        code = match.group(1)
        return bytes([_ESCAPE_CODES[code] if code in _ESCAPE_CODES else int(code, 8) & 255])

    return _ESCAPE_SEQUENCE.sub(decode_escape, name[1:-1])


def _decode_path(name: bytes) -> str:
    """A path as text on one line; what is not printable becomes `?`, so that no control byte travels on."""
    text = name.decode("utf-8", "replace")
    return text if text.isprintable() else "".join(c if c.isprintable() else "?" for c in text)


def _decode_line(line: bytes) -> str:
    return line.decode("utf-8", "replace")


def _join_type_changes(files: list[FileChange]) -> list[FileChange]:
    """Git prints a file that became a symlink (or back) as deletion and creation: one change, status T."""
    joined: list[FileChange] = []
    for change in files:
        last = joined[-1] if joined else None
        if last and last.path == change.path and (last.status, change.status) == ("D", "A"):
            last.status, last.kind = "T", change.kind
            last.added, last.hunks = last.added + change.added, last.hunks + change.hunks
            last.blobs = last.blobs[0], change.blobs[1]
        else:
            joined.append(change)
    return joined


# --- compact: what is stored ----------------------------------------------------------------------------


def compact_change(files: Sequence[FileChange]) -> str:
    """A change as bounded text: one line a file, then the hunks of the largest files.

    A file line is its status (` ` when modified), path and counts; `~N` counts the files that are not listed.
    `#path` opens a file's hunks: `@heading`, then lines with `+`, `-`, or a space for the one before.
    White space is folded, and lines are cut at `LINE_LIMIT` characters.
    """
    ordered = sorted(files, key=file_priority, reverse=True)
    lines = _format_file_lines(ordered)
    room = MAX_COMPACT_LENGTH - _text_length(lines)
    blocks = [_format_hunk_block(change) for change in ordered[:MAX_FILES_SHOWN] if change.hunks]
    for block, share in zip(
        blocks, divide_fairly([_text_length(block) for block in blocks], room), strict=True
    ):
        lines += _take_lines(block, share)
    return "\n".join(lines)


def file_priority(change: FileChange) -> tuple[int, int]:
    """The order in which files are shown: hand-written text before the rest, then the larger change."""
    return (1 if change.kind in ("text", "symlink") else 0, change.added + change.removed)


def _format_file_lines(ordered: Sequence[FileChange]) -> list[str]:
    lines = [_format_file_line(change) for change in ordered[:MAX_FILES_LISTED]]
    while _text_length(lines) > MAX_COMPACT_LENGTH - _UNLISTED_COUNT_ROOM:
        lines.pop()
    return lines if len(lines) == len(ordered) else [*lines, f"~{len(ordered) - len(lines)}"]


def _format_file_line(change: FileChange) -> str:
    status = " " if change.status == "M" else change.status
    note = f" ({change.kind})" if change.kind not in ("text", "generated") else ""
    origin = f" <{change.old_path}" if change.old_path else ""
    path = change.path[:_MAX_PATH_LENGTH]
    return f"{status}{path} +{change.added} -{change.removed}{note}{origin[:_MAX_PATH_LENGTH]}"


def _format_hunk_block(change: FileChange) -> list[str]:
    """A file's hunks as lines, no more than could ever be shown."""
    lines = [f"#{change.path[:_MAX_PATH_LENGTH]}"]
    heading = None
    room = MAX_COMPACT_LENGTH
    for hunk in change.hunks:
        if (folded := normalize_line(hunk.heading)) != heading:
            heading = folded
            lines.append(f"@{heading}")
        changed = _format_changed_lines(hunk)
        lines += changed
        room -= _text_length(changed)
        if room < 0:
            break
    return lines


def _format_changed_lines(hunk: Hunk) -> list[str]:
    """The changed lines, each run preceded by the line before it; lines that are empty once folded go."""
    lines = []
    context = ""
    for line in hunk.lines:
        if line[0] == " ":
            context = line
        elif text := normalize_line(line[1:]):
            if context and (before := normalize_line(context[1:])):
                lines.append(f" {before}")
            context = ""
            lines.append(line[0] + text)
    return lines


def normalize_line(text: str) -> str:
    """White space folded to single spaces, unprintable characters dropped, cut at `LINE_LIMIT`."""
    folded = " ".join(text[:_MAX_LENGTH_READ].split())
    if not folded.isprintable():
        folded = "".join(c for c in folded if c.isprintable())
    if len(folded) > MAX_LINE_LENGTH or len(text) > _MAX_LENGTH_READ:
        return _mask_and_truncate(folded, whole=len(text) <= _MAX_LENGTH_READ)
    return folded


def _mask_and_truncate(text: str, whole: bool) -> str:
    """A long line cut at `LINE_LIMIT`, its secrets masked first: half of one would not be known as one."""
    from gitpeft.redaction import mask_secrets  # few lines are long

    return mask_secrets(text if whole else text.rpartition(" ")[0] or text)[:MAX_LINE_LENGTH]


def _text_length(lines: Sequence[str]) -> int:
    return sum(map(len, lines)) + len(lines)


def _take_lines(lines: list[str], room: int) -> list[str]:
    if _text_length(lines) <= room:
        return lines if len(lines) > 1 else []
    taken = []
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            break
        taken.append(line)
    return taken if len(taken) > 1 else []


def divide_fairly(wanted: Sequence[int], room: int) -> list[int]:
    """Divide `room` fairly: nobody gets more than wanted, and what one leaves is divided among the others."""
    given = [0] * len(wanted)
    open_ = [i for i, most in enumerate(wanted) if most > 0]
    while open_ and room >= len(open_):
        share = room // len(open_)
        done = [i for i in open_ if wanted[i] - given[i] <= share]
        for i in done or open_:
            extra = min(share, wanted[i] - given[i])
            given[i] += extra
            room -= extra
        if not done:
            break
        open_ = [i for i in open_ if i not in done]
    return given


# --- render: what a model reads -------------------------------------------------------------------------


class RendererTokenizer(Protocol):
    """A tokenizer as the renderer needs it: ids of many texts at once, and the ids of each section mark."""

    marks: dict[str, list[int]]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens."""
        ...


SECTION_MARKS = ("like", "previous", "file", "hunk", "add", "delete", "keep")
"""Section marks, in the order of their ids in the embedded tokenizer."""

_MARK_BY_SIGN = {"@": "hunk", "+": "add", "-": "delete", " ": "keep"}
_MAX_CODE_TOKENS = 32
_MAX_HEADING_TOKENS = 12
_MAX_PATH_TOKENS = 20
_MIN_BLOCK_TOKENS = 16


@lazy_dataclass(frozen=True, slots=True)
class TokenBudget:
    """How many tokens each part of a model's input may take; what one part leaves, the diff gets."""

    total: int = 192
    exemplars: int = 3
    exemplar_tokens: int = 18
    previous_tokens: int = 16
    file_tokens: int = 48


def render_change(
    change: str, like: Sequence[str], previous: str, budget: TokenBudget, codec: RendererTokenizer
) -> list[int]:
    """Ids of a model's input: nearest earlier subjects, the author's previous one, files, then the diff.

    `change` is a text of `compact`. Every listed file gets its line as long as `file_tokens` lasts, and the
    rest is shared fairly between the files whose hunks are shown.
    """
    return [i for piece in render_pieces(change, like, previous, budget, codec) for i in piece.ids]


@lazy_dataclass(frozen=True, slots=True)
class RenderedPiece:
    """A part of a model's input: its ids, and the file and the line of the compact text that they stand for.

    `path` is "" for messages, `line` for what is no line of a hunk.
    """

    ids: list[int]
    path: str = ""
    line: str = ""


def render_pieces(
    change: str, like: Sequence[str], previous: str, budget: TokenBudget, codec: RendererTokenizer
) -> list[RenderedPiece]:
    """What `render` gives, part by part."""
    files, blocks = split_compact(change)
    like = list(like[: budget.exemplars])
    previous = clean_subject(previous)
    texts = [*like, previous, *(name for name, _ in files)]
    texts += [line[1:] for block in blocks.values() for line in block]
    encoded = iter(codec.encode_many(texts))
    found = [RenderedPiece(codec.marks["like"] + next(encoded)[: budget.exemplar_tokens]) for _ in like]
    before = next(encoded)[: budget.previous_tokens]
    found += [RenderedPiece(codec.marks["previous"] + before)] if previous else []
    names = _collect_file_ids(files, encoded, budget.file_tokens, codec)
    room = budget.total - sum(len(one.ids) for one in found) - sum(len(name) for name in names.values())
    parts = {path: _render_block(path, block, encoded, codec) for path, block in blocks.items()}
    return _truncate_pieces([*found, *_interleave_files(names, parts, room)], budget.total)


def _truncate_pieces(found: Iterable[RenderedPiece], room: int) -> list[RenderedPiece]:
    """Pieces of at most `room` tokens together; the one at the edge is cut, and what follows is left out."""
    kept = []
    for piece in found:
        if room > 0:
            kept.append(
                piece if len(piece.ids) <= room else RenderedPiece(piece.ids[:room], piece.path, piece.line)
            )
        room -= len(piece.ids)
    return kept


_FORGE_NUMBER = lazy_pattern(r"(?:\s*\((?:#|gh-)\d+\))+\s*$", re.IGNORECASE)


def clean_subject(subject: str) -> str:
    """A subject without the numbers that a forge appends when it merges: nobody can know them beforehand.

    Cleaning what is clean changes nothing, so that it does not matter who does it.
    """
    return _FORGE_NUMBER.sub("", " ".join(subject.split()))


def split_compact(change: str) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """A compact text as its files, (label, path) each, and the hunk lines of the shown ones."""
    files: list[tuple[str, str]] = []
    blocks: dict[str, list[str]] = {}
    block: list[str] | None = None
    for line in change.split("\n"):
        if line.startswith("#"):
            block = blocks.setdefault(line[1:], [])
        elif block is not None:
            block.append(line)
        elif line and line[0] != "~":
            files.append((_format_file_label(line), extract_path(line)))
    return files, blocks


_FILE_LINE = lazy_pattern(r"((.*?) \+\d+ -\d+(?: \([a-z]+\))?)(?: <.*)?")


def extract_path(line: str) -> str:
    """The path in a file line of a compact text."""
    found = _FILE_LINE.fullmatch(line, 1)
    return found[2] if found else line[1:].partition(" <")[0].rpartition(" +")[0]


_STATUS_LABELS = {"A": " new", "D": " deleted", "R": " renamed", "C": " copied", "T": " retyped"}


def _format_file_label(line: str) -> str:
    """A file line for the model: the status last, so that a long path loses its first directories only."""
    found = _FILE_LINE.fullmatch(line, 1)
    return (found[1] if found else line[1:].partition(" <")[0]) + _STATUS_LABELS.get(line[0], "")


def _collect_file_ids(
    files: Sequence[tuple[str, str]], encoded: Iterable[list[int]], room: int, codec: RendererTokenizer
) -> dict[str, list[int]]:
    names: dict[str, list[int]] = {}
    for (_, path), ids in zip(files, encoded, strict=False):
        name = codec.marks["file"] + ids[-_MAX_PATH_TOKENS:]
        room -= len(name)
        if room >= 0 or not names:
            names[path] = name
    return names


def _render_block(
    path: str, block: Sequence[str], encoded: Iterable[list[int]], codec: RendererTokenizer
) -> list[RenderedPiece]:
    lines = []
    for line, ids in zip(block, encoded, strict=False):
        if _WORD_CHARACTER.search(line):
            mark = _MARK_BY_SIGN.get(line[:1], "keep")
            shown = ids[: _MAX_HEADING_TOKENS if mark == "hunk" else _MAX_CODE_TOKENS]
            lines.append(RenderedPiece(codec.marks[mark] + shown, path, line))
    return lines


def _interleave_files(
    names: dict[str, list[int]], parts: dict[str, list[RenderedPiece]], room: int
) -> list[RenderedPiece]:
    """Each file's line followed by its share of the diff."""
    shown = [path for path in parts if path in names][: max(1, room // _MIN_BLOCK_TOKENS)]
    wanted = [sum(len(piece.ids) for piece in parts[path]) for path in shown]
    given = dict(zip(shown, divide_fairly(wanted, max(room, 0)), strict=True))
    found: list[RenderedPiece] = []
    for path, name in names.items():
        found.append(RenderedPiece(name, path))
        found += _truncate_pieces(parts.get(path, ()), given.get(path, 0))
    return found
