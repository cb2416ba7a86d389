"""The stored form of a change: what the history keeps of a commit, and what a staged change is asked with.

Longer than the compact form, with the facts and with all that a prompt shows, so that a prompt can be made of
it as if the whole change were there:

    =only docs; adds section …  the facts, computed over the whole change before it is cut
     src/dates.py +1 -1         a line for each file, as in the compact form; `~3` counts the others
    #src/dates.py               the hunks of a file:
    @def parse                  the function around a hunk; `@@` for the next hunk of the same
     before                     the line before a run of changed lines
    -old                        changed lines; white space inside of them is kept
    +new

`shorten_change` makes the compact form of it. Texts in the compact form, which earlier versions stored, are
read too.
"""

from collections.abc import Iterable, Sequence
from itertools import chain

from gitpeft.diff.compact import (
    MAX_FILES_SHOWN,
    MAX_PATH_LENGTH,
    compact_change,
    divide_fairly,
    format_file_line,
    take_lines,
    text_length,
)
from gitpeft.diff.patch import (
    MAX_LINE_LENGTH,
    FileChange,
    Hunk,
    file_priority,
    is_generated,
    normalize_line,
    show_path,
)
from gitpeft.lazy import lazy_dataclass, lazy_pattern, replace_fields

MAX_STORED_LENGTH = 8000
"""Characters of a stored text."""

MAX_FACTS_LENGTH = 800
"""Characters of the facts that are kept."""

MAX_FILES_READ = 40
"""Files whose hunks are read for the facts, and which get a line; the others are only counted."""

_MAX_FILES_IN_PROMPT = 12
"""Files that the longest prompt shows with their lines."""

_FILE_LINES_LENGTH = 3000
"""Characters for the lines of the files."""

_SAME_HEADING = "@@"
_FILE_LINE = lazy_pattern(r"(.)(.*?) \+(\d+) -(\d+)(?: \(([a-z]+)\))?(?: <(.*))?")


@lazy_dataclass(frozen=True, slots=True)
class ChangeContent:
    """A change as it is stored: files with the hunks that were kept, facts, and how many more files."""

    files: Sequence[FileChange]
    facts: str
    unlisted: int = 0


def store_change(files: Sequence[FileChange]) -> str:
    """Write a change as bounded text; "" for none.

    The facts are computed from lines whose secrets are masked. For the rest, whoever keeps the text masks it
    (`redaction.mask_secrets`).
    """
    from gitpeft.diff.facts import extract_facts  # here, because what only reads a text does not need them

    if not files:
        return ""
    ordered = sorted(map(_show_names, files), key=file_priority, reverse=True)
    read, others = _mask_hunks(ordered[:MAX_FILES_READ]), ordered[MAX_FILES_READ:]
    facts = extract_facts([*read, *map(_drop_hunks, others)], whole=not others and all(map(_is_whole, read)))
    lines = [f"={'; '.join(facts)[:MAX_FACTS_LENGTH]}", *_format_file_lines(read, len(others))]
    blocks = [_format_block(change) for change in _choose_shown_files(read)]
    shares = divide_fairly(list(map(text_length, blocks)), MAX_STORED_LENGTH - text_length(lines))
    for block, share in zip(blocks, shares, strict=True):
        lines += take_lines(block, share)
    return "\n".join(lines)


def _show_names(change: FileChange) -> FileChange:
    """A file with its paths as text for people and models."""
    path, old = show_path(change.path), change.old_path and show_path(change.old_path)
    same = (path, old) == (change.path, change.old_path)
    return change if same else replace_fields(change, path=path, old_path=old)


def _mask_hunks(files: Sequence[FileChange]) -> list[FileChange]:
    """The files with the secrets in their hunks masked."""
    from gitpeft.redaction import mask_secrets

    text = "\n".join(chain.from_iterable(hunk.lines for change in files for hunk in change.hunks))
    masked = mask_secrets(text)
    if masked == text:
        return list(files)
    lines = iter(masked.split("\n"))
    return [
        replace_fields(
            change, hunks=[Hunk(hunk.heading, [next(lines) for _ in hunk.lines]) for hunk in change.hunks]
        )
        for change in files
    ]


def _drop_hunks(change: FileChange) -> FileChange:
    return replace_fields(change, hunks=[]) if change.hunks else change


def _is_whole(change: FileChange) -> bool:
    """Whether all changed lines of a file were read, as far as it has lines that are read at all."""
    kept = sum(line[0] != " " for hunk in change.hunks for line in hunk.lines)
    return change.kind not in ("text", "symlink") or kept == change.added + change.removed


def _choose_shown_files(read: Sequence[FileChange]) -> list[FileChange]:
    """The files whose hunks are kept: those of the compact form, and those of a prompt; the largest first."""
    from gitpeft.diff.path_kinds import rank_file

    in_prompt = [change for change in sorted(read, key=rank_file) if change.hunks][:_MAX_FILES_IN_PROMPT]
    chosen = {change.path for change in (*read[:MAX_FILES_SHOWN], *in_prompt)}
    return [change for change in read if change.path in chosen and change.hunks]


def _format_file_lines(read: Sequence[FileChange], others: int) -> list[str]:
    lines = [format_file_line(change, plain=("text",)) for change in read]
    while text_length(lines) > _FILE_LINES_LENGTH:
        lines.pop()
    left = len(read) - len(lines) + others
    return [*lines, f"~{left}"] if left else lines


def _format_block(change: FileChange) -> list[str]:
    lines = [f"#{change.path[:MAX_PATH_LENGTH]}"]
    heading = None
    room = MAX_STORED_LENGTH
    for hunk in change.hunks:
        folded = normalize_line(hunk.heading)
        lines.append(_SAME_HEADING if folded == heading else f"@{folded}")
        heading = folded
        changed = _format_hunk_lines(hunk.lines)
        lines += changed
        room -= text_length(changed)
        if room < 0:
            break
    return lines


def _format_hunk_lines(lines: Sequence[str]) -> list[str]:
    """The changed lines of a hunk, empty ones too, and before each run the line of context before it."""
    found: list[str] = []
    before = ""
    for line in lines:
        if line[0] == " ":
            before = line
            continue
        if before and (found or before.strip()):
            found.append(f" {_squeeze_line(before[1:])}")
        before = ""
        found.append(line[0] + _squeeze_line(line[1:]))
    return found


def _squeeze_line(text: str) -> str:
    """A line without the white space around it and without unprintable characters; a long one is folded."""
    text = text.strip()
    if len(text) > MAX_LINE_LENGTH:
        return normalize_line(text)
    if text.isprintable():
        return text
    return "".join(c if c.isprintable() else " " for c in text if c.isprintable() or c.isspace())


# --- reading it back ----------------------------------------------------------------------------------------


def shorten_change(text: str) -> str:
    """The compact form of a stored text; a text that is in this form already is returned as it is."""
    if not text.startswith("="):
        return text
    content = read_stored_change(text)
    return compact_change(content.files, content.unlisted)


def read_stored_change(text: str) -> ChangeContent:
    """The files, hunks and facts in a stored text.

    Of a text in the compact form the facts are computed from what it has.
    """
    lines = text.split("\n")
    facts = lines.pop(0)[1:] if text.startswith("=") else None
    files: dict[str, FileChange] = {}
    unlisted = 0
    rest = iter(lines)
    for line in rest:
        if line.startswith("#"):
            _read_blocks(chain([line], rest), files)
        elif line.startswith("~"):
            unlisted = int(line[1:]) if line[1:].isdecimal() else 0
        elif change := read_file_line(line):
            files[change.path] = change
    found = list(files.values())
    return ChangeContent(found, _extract_facts_of_rest(found) if facts is None else facts, unlisted)


def _extract_facts_of_rest(files: Sequence[FileChange]) -> str:
    from gitpeft.diff.facts import extract_facts

    return "; ".join(extract_facts(files, whole=all(map(_is_whole, files))))


def read_file_line(line: str) -> FileChange | None:
    """The file in a line of a stored or compact text, without its hunks; None where the line names none."""
    match = _FILE_LINE.fullmatch(line)
    if not match:
        return None
    status, path, added, removed, kind, origin = match.groups()
    kind = kind or ("generated" if is_generated(path) else "text")
    return FileChange(path, "M" if status == " " else status, origin, int(added), int(removed), kind)


def _read_blocks(lines: Iterable[str], files: dict[str, FileChange]) -> None:
    """Add the hunks in the lines after those of the files."""
    hunks: list[Hunk] = []
    for line in lines:
        if line.startswith("#"):
            change = files.get(line[1:])
            hunks = change.hunks if change else []
        elif line.startswith("@"):
            same = line == _SAME_HEADING and hunks
            hunks.append(Hunk(hunks[-1].heading if same else line[1:], []))
        elif line and hunks:
            hunks[-1].lines.append(line)
