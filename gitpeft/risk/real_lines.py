"""Which changed lines of code say something: not blank, no comment, and not merely moved.

Judged line by line and by the standard library alone, so that the hook can afford it. SZZ judges the same
more strictly, with a lexer (`learn.szz.candidate_lines`).
"""

from collections.abc import Iterable, Iterator, Sequence

from gitpeft.diff.patch import FileChange
from gitpeft.lazy import lazy_pattern
from gitpeft.risk.change_metrics import is_code_file

_COMMENT = lazy_pattern(r"#(?!include|define|if|else|endif|\[)|//|/\*|\*(?:\s|/|$)|--\s|<!--|\"\"\"|'''")

Lines = Sequence[str]


def measure_real_shares(files: Iterable[FileChange]) -> tuple[float, float]:
    """The shares (0 to 1) of the added and the removed lines of code that say something.

    1 where no such line is known. Of a large change, only the lines that were read count.
    """
    return _compute_shares(
        *_split_signs(
            (line[0], line[1:].strip())
            for file in files
            if is_code_file(file.path)
            for hunk in file.hunks
            for line in hunk.lines
        )
    )


def measure_stored_shares(text: str) -> tuple[float, float]:
    """The same of a stored change (see `diff.stored`)."""
    return _compute_shares(*_split_signs(_iter_stored_lines(text)))


def is_real_line(line: str) -> bool:
    """Whether a line (without its sign) is neither blank nor a comment."""
    text = line.strip()
    return bool(text) and not _COMMENT.match(text)


def read_real_lines(text: str) -> tuple[Lines, Lines]:
    """The added and the removed lines of code in a stored change that say something."""
    return _keep_real(*_split_signs(_iter_stored_lines(text)))


def _iter_stored_lines(text: str) -> Iterator[tuple[str, str]]:
    is_code = False
    for line in text.split("\n"):
        if line.startswith("#"):
            is_code = is_code_file(line[1:])
        elif is_code and line:
            yield line[0], line[1:].strip()


def _split_signs(lines: Iterable[tuple[str, str]]) -> tuple[Lines, Lines]:
    changed: dict[str, list[str]] = {"+": [], "-": []}
    for sign, text in lines:
        if sign in changed:
            changed[sign].append(text)
    return changed["+"], changed["-"]


def _keep_real(added: Lines, removed: Lines) -> tuple[Lines, Lines]:
    moved = set(added).intersection(removed)
    kept = [
        [line for line in lines if line and line not in moved and not _COMMENT.match(line)]
        for lines in (added, removed)
    ]
    return kept[0], kept[1]


def _compute_shares(added: Lines, removed: Lines) -> tuple[float, float]:
    real = _keep_real(added, removed)
    return (
        len(real[0]) / len(added) if added else 1.0,
        len(real[1]) / len(removed) if removed else 1.0,
    )
