"""Parsing of git's patch format: a patch as git prints it becomes `FileChange`s with exact counts.

The first of four forms of a change, each smaller than the one before: `parse_patch` here, the bounded texts
of `diff.stored` and `diff.compact`, and the token ids of `diff.render`. Mining, training and the hook share
them, so a model is asked about a change in exactly the form in which it learnt from changes.
"""

import re
from functools import lru_cache

from gitpeft.lazy import field, lazy_dataclass, lazy_pattern
from gitpeft.terminal import decode_exactly, encode_exactly, replace_unprintable

# --- paths --------------------------------------------------------------------------------------------------

_UNQUOTABLE = lazy_pattern(r'^"|[\x00-\x1f\x7f-\x9f\u2028\u2029\ud800-\udfff]')


def quote_path(path: str) -> str:
    """A path on one line of valid Unicode: itself or, with control characters or odd bytes, quoted as by git.

    Different paths stay different; `unquote_path` reverses it.
    """
    if _UNQUOTABLE.search(path) is None:
        return path
    return '"' + "".join(map(_escape_byte, encode_exactly(path))) + '"'


def _escape_byte(byte: int) -> str:
    return chr(byte) if 32 <= byte < 127 and byte not in b'"\\' else f"\\{byte:03o}"


def unquote_path(quoted: str) -> str:
    """The path that `quote_path`, or git, has quoted."""
    return decode_exactly(_unquote_bytes(quoted.encode())) if quoted.startswith('"') else quoted


def show_path(path: str) -> str:
    """A path for people and models, with `?` for what is not printable: different paths may look the same."""
    return (
        path if path.isprintable() else replace_unprintable(encode_exactly(path).decode("utf-8", "replace"))
    )


# --- changes ------------------------------------------------------------------------------------------------

MAX_LINE_LENGTH = 160
"""Characters that are kept of a line."""

MAX_LINES_KEPT = 120
"""Hunk lines that are kept of a file; all of them are counted."""

_MAX_LENGTH_READ = 4 * MAX_LINE_LENGTH
"""Characters of a line that are read at all."""

_GENERATED_PATH = lazy_pattern(
    r"(?:^|/)(?:package-lock\.json|npm-shrinkwrap\.json|[^/]*\.lock|pnpm-lock\.yaml|go\.sum|gradle\.lockfile"
    r"|node_modules/.*|vendor/.*|third_party/.*|dist/.*\.(?:js|css|map)|[^/]*\.min\.(?:js|css|mjs|cjs)"
    r"|[^/]*\.(?:map|snap|pb\.go|svg)|[^/]*_pb2(?:_grpc)?\.pyi?|[^/]*\.generated\.[^/]*)\Z",
    re.DOTALL,
)
_ESCAPE_SEQUENCE = lazy_pattern(rb'\\([abtnvfr"\\]|[0-7]{3})')
_ESCAPE_CODES = {b"a": 7, b"b": 8, b"t": 9, b"n": 10, b"v": 11, b"f": 12, b"r": 13, b'"': 34, b"\\": 92}
_PLAIN_HEADER = lazy_pattern(
    rb'a/([^\x00-\x1f"\\\x7f-\xff]+) b/\1\nindex ([0-9a-f]+)\.\.([0-9a-f]+) 100(?:644|755)\n'
    rb"--- a/\1\t?\n\+\+\+ b/\1\t?"
)


@lazy_dataclass(slots=True)
class Hunk:
    """One hunk: git's heading (the enclosing function) and its first lines, each with its sign (`+- `)."""

    heading: str
    lines: list[str]


@lazy_dataclass(slots=True)
class FileChange:
    """The change of one file. `added` and `removed` are exact; `hunks` may hold fewer lines than they count.

    `path` and `old_path` are of `decode_exactly` and identify the file; `show_path` makes them presentable.
    `status` is git's letter (A D M R C T); `kind` is text, binary, submodule, symlink, mode or generated.
    `blobs` are the ids of the content before and after, "" where git names none (a pure rename, a mode).
    `functions` are the distinct functions that the hunks change, including hunks that are not kept.
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
    """Parse a patch printed by `git diff-tree -p` or `git diff-index -p`.

    Content lines always start with a sign, so a line that starts with `diff --git` or `@@` is always a
    header; `-- x` and `++ x` in the content cannot be mistaken for one.
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

    Git's heading names the function before the hunk's first line. Where that line, or the first removed one,
    itself begins a function by git's rule (a letter at the margin), that function is returned instead.
    """
    head, _, rest = hunk[:_MAX_LENGTH_READ].partition(b"\n")
    name = head.partition(b" @@")[2]
    for line in rest.split(b"\n", 2)[:2]:
        if line[:1] in (b" ", b"-") and (line[1:2].isalpha() or line[1:2] in (b"_", b"$")):
            name = line[1:81]
        if line[:1] != b" ":
            break
    return normalize_line(name.decode("utf-8", "replace")) if name else ""


def _parse_hunk(body: bytes, room: int) -> Hunk:
    if len(body) <= _MAX_LENGTH_READ:
        first, *lines = body.decode("utf-8", "replace").split("\n")
        del lines[room:]
    else:
        first, *lines = [
            _decode_line(line[:_MAX_LENGTH_READ]) for line in body.split(b"\n", room + 1)[: room + 1]
        ]
    heading = first.partition(" @@")[2].strip()
    return Hunk(heading, [line for line in lines if line and line[0] in "+- "])


def _parse_plain_header(head: bytes) -> FileChange | None:
    """Fast path for the commonest header, a regular file modified in place; None for any other."""
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
        change.old_path = decode_exactly(_unquote_bytes(line.split(b" from ", 1)[1]))
    elif line.startswith((b"rename to ", b"copy to ")):
        change.path = decode_exactly(_unquote_bytes(line.split(b" to ", 1)[1]))
    elif line.startswith(b"old mode "):
        modes.append(b"old")
    elif line.startswith((b"Binary files ", b"GIT binary patch")):
        change.kind = "binary"


def _parse_header_path(quoted: bytes) -> str | None:
    name = _unquote_bytes(quoted)
    return None if name == b"/dev/null" else decode_exactly(name[2:])


def _parse_common_path(names: bytes) -> str:
    """The path in `a/PATH b/PATH`, where both sides are the same file (mode changes, binary, empty files)."""
    half = names[: len(names) // 2]
    return decode_exactly(_unquote_bytes(half)[2:])


def _unquote_bytes(name: bytes) -> bytes:
    if not name.startswith(b'"'):
        return name

    def decode_escape(match: re.Match[bytes]) -> bytes:
        code = match.group(1)
        return bytes([_ESCAPE_CODES[code] if code in _ESCAPE_CODES else int(code, 8) & 255])

    return _ESCAPE_SEQUENCE.sub(decode_escape, name[1:-1])


def _decode_line(line: bytes) -> str:
    return line.decode("utf-8", "replace")


def _join_type_changes(files: list[FileChange]) -> list[FileChange]:
    """Join the deletion and creation that git prints when a file becomes a symlink (or back): status T."""
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


def file_priority(change: FileChange) -> tuple[int, int]:
    """Sort key, largest first, of the files to show: text before the rest, then by changed lines."""
    return (1 if change.kind in ("text", "symlink") else 0, change.added + change.removed)


def normalize_line(text: str) -> str:
    """Fold white space to single spaces, drop unprintable characters, cut at `MAX_LINE_LENGTH`."""
    folded = " ".join(text[:_MAX_LENGTH_READ].split())
    if not folded.isprintable():
        folded = "".join(c for c in folded if c.isprintable())
    if len(folded) > MAX_LINE_LENGTH or len(text) > _MAX_LENGTH_READ:
        return _mask_and_truncate(folded, whole=len(text) <= _MAX_LENGTH_READ)
    return folded


def _mask_and_truncate(text: str, whole: bool) -> str:
    """Mask a long line's secrets, then cut it: half a secret would not be recognised afterwards."""
    from gitpeft.redaction import mask_secrets  # few lines are long, and the hook should not pay for the rest

    return mask_secrets(text if whole else text.rpartition(" ")[0] or text)[:MAX_LINE_LENGTH]
