"""The compact form of a change: at most 2,400 characters, for retrieval, the risk score and section marks.

`compact_change` writes it and `split_compact` reads it. The history keeps a longer form (`diff.stored`), from
which it can be made. See `diff.patch` for the other forms of a change.
"""

from collections.abc import Collection, Sequence

from gitpeft.diff.patch import FileChange, Hunk, file_priority, normalize_line, show_path
from gitpeft.lazy import lazy_pattern

RENDERER_VERSION = 1
"""Version of the compact form and of its rendering; a bundle made with another one is refused."""

MAX_COMPACT_LENGTH = 2400
"""Characters of a compact text."""

MAX_FILES_LISTED = 24
"""Files that get a line; the others are only counted."""

MAX_FILES_SHOWN = 8
"""Files whose hunks are kept."""

MAX_PATH_LENGTH = 300
"""Characters that are kept of a path."""

_UNLISTED_COUNT_ROOM = 10
"""Characters reserved for the number of files that are not listed."""


def compact_change(files: Sequence[FileChange], unlisted: int = 0) -> str:
    """Write a change as bounded text: one line per file, then the hunks of the largest files.

    `unlisted` is the number of smaller files that the change has beside `files`.

    A file line is its status (` ` when modified), path and counts; `~N` counts the files that are not listed.
    `#path` opens a file's hunks: `@heading`, then lines with `+`, `-`, or a space for the one before.
    White space is folded, and lines are cut at `MAX_LINE_LENGTH` characters. Secrets are not masked, except
    where a line is cut; whoever stores the text masks it (`redaction.mask_secrets`).
    """
    ordered = sorted(files, key=file_priority, reverse=True)
    lines = _format_file_lines(ordered, unlisted)
    room = MAX_COMPACT_LENGTH - text_length(lines)
    blocks = [_format_hunk_block(change) for change in ordered[:MAX_FILES_SHOWN] if change.hunks]
    for block, share in zip(
        blocks, divide_fairly([text_length(block) for block in blocks], room), strict=True
    ):
        lines += take_lines(block, share)
    return "\n".join(lines)


def _format_file_lines(ordered: Sequence[FileChange], unlisted: int) -> list[str]:
    lines = [format_file_line(change) for change in ordered[:MAX_FILES_LISTED]]
    while text_length(lines) > MAX_COMPACT_LENGTH - _UNLISTED_COUNT_ROOM:
        lines.pop()
    left = len(ordered) - len(lines) + unlisted
    return [*lines, f"~{left}"] if left else lines


def format_file_line(change: FileChange, plain: Collection[str] = ("text", "generated")) -> str:
    """The line of a file; its kind is named unless it is one of `plain`."""
    status = " " if change.status == "M" else change.status
    note = f" ({change.kind})" if change.kind not in plain else ""
    origin = f" <{show_path(change.old_path)}" if change.old_path else ""
    path = show_path(change.path)[:MAX_PATH_LENGTH]
    return f"{status}{path} +{change.added} -{change.removed}{note}{origin[:MAX_PATH_LENGTH]}"


def _format_hunk_block(change: FileChange) -> list[str]:
    """The hunks of a file as lines, not many more than fit into a compact text."""
    lines = [f"#{show_path(change.path)[:MAX_PATH_LENGTH]}"]
    heading = None
    room = MAX_COMPACT_LENGTH
    for hunk in change.hunks:
        if (folded := normalize_line(hunk.heading)) != heading:
            heading = folded
            lines.append(f"@{heading}")
        changed = _format_changed_lines(hunk)
        lines += changed
        room -= text_length(changed)
        if room < 0:
            break
    return lines


def _format_changed_lines(hunk: Hunk) -> list[str]:
    """The changed lines, each run after the line before it; lines without text are dropped."""
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


def text_length(lines: Sequence[str]) -> int:
    """Characters of lines, each with its new line."""
    return sum(map(len, lines)) + len(lines)


def take_lines(lines: list[str], room: int) -> list[str]:
    """The lines of a block that fit; nothing where only its `#path` would."""
    if text_length(lines) <= room:
        return lines if len(lines) > 1 else []
    taken = []
    for line in lines:
        room -= len(line) + 1
        if room < 0:
            break
        taken.append(line)
    return taken if len(taken) > 1 else []


def divide_fairly(wanted: Sequence[int], room: int) -> list[int]:
    """Divide `room` by max-min fairness: nobody gets more than wanted, the others share the rest."""
    given = [0] * len(wanted)
    unmet = [i for i, most in enumerate(wanted) if most > 0]
    while unmet and room >= len(unmet):
        share = room // len(unmet)
        met = [i for i in unmet if wanted[i] - given[i] <= share]
        for i in met or unmet:
            extra = min(share, wanted[i] - given[i])
            given[i] += extra
            room -= extra
        if not met:
            break
        unmet = [i for i in unmet if i not in met]
    return given


# --- reading it back ----------------------------------------------------------------------------------------


def split_compact(change: str) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
    """Split a compact text into its files, as (label, path), and the hunk lines of those shown, by path.

    A stored text (`diff.stored`) is split in the same way, all of it.
    """
    files: list[tuple[str, str]] = []
    blocks: dict[str, list[str]] = {}
    block: list[str] | None = None
    for line in change.split("\n"):
        if line.startswith("#"):
            block = blocks.setdefault(line[1:], [])
        elif block is not None:
            block.append(line)
        elif line and line[0] not in "~=":
            files.append((_format_file_label(line), extract_path(line)))
    return files, blocks


_FILE_LINE = lazy_pattern(r"((.*?) \+\d+ -\d+(?: \([a-z]+\))?)(?: <.*)?")


def extract_path(line: str) -> str:
    """Read the path in a file line of a compact text."""
    found = _FILE_LINE.fullmatch(line, 1)
    return found[2] if found else line[1:].partition(" <")[0].rpartition(" +")[0]


_STATUS_LABELS = {"A": " new", "D": " deleted", "R": " renamed", "C": " copied", "T": " retyped"}


def _format_file_label(line: str) -> str:
    """A file line for the model, status last: when the path is cut, it loses its first directories."""
    found = _FILE_LINE.fullmatch(line, 1)
    return (found[1] if found else line[1:].partition(" <")[0]) + _STATUS_LABELS.get(line[0], "")
