"""What commands print: lines that fit the terminal, errors, questions, JSON."""

import codecs
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from typing import TYPE_CHECKING, Any

from gitpeft.errors import GitpeftError
from gitpeft.terminal import replace_unprintable

if TYPE_CHECKING:
    from gitpeft.git.repository import Repository

MAX_WIDTH = 80
"""Text is not stretched beyond this many columns."""

SUBJECT_WIDTH = 50
"""Characters of a commit's subject beside its id."""

CHECK_MARK, WARNING_MARK = "✓", "!"


_ASCII_ALIAS = "gitpeft-ascii"


def tolerate_all_characters() -> None:
    """What the encodings of the standard streams cannot carry is replaced, not fatal."""
    codecs.register(_find_ascii_alias)
    for stream in (sys.stdin, sys.stdout, sys.stderr):
        reconfigure = getattr(stream, "reconfigure", None)
        if reconfigure is not None:
            # click takes a stream that is called ASCII for a mistake, and writes UTF-8 into it
            ascii_only = stream is not sys.stdin and codecs.lookup(stream.encoding).name == "ascii"
            reconfigure(encoding=_ASCII_ALIAS if ascii_only else None, errors="replace")


def _find_ascii_alias(name: str) -> codecs.CodecInfo | None:
    """ASCII under a name of our own."""
    if name.replace("_", "-") != _ASCII_ALIAS:
        return None
    known = codecs.lookup("ascii")
    return codecs.CodecInfo(
        known.encode, known.decode, known.streamreader, known.streamwriter, known.incrementalencoder,
        known.incrementaldecoder, name=_ASCII_ALIAS,
    )  # fmt: skip


def get_width() -> int:
    """The columns to use: those of the terminal (80 where there is none), at most `MAX_WIDTH`."""
    return max(20, min(shutil.get_terminal_size((MAX_WIDTH, 24)).columns, MAX_WIDTH))


def wrap_text(text: str, indent: str = "", first: str | None = None) -> str:
    """Foreign text in lines that fit, each behind `indent`, the first one behind `first`."""
    return textwrap.fill(
        replace_unprintable(text), get_width(), initial_indent=indent if first is None else first,
        subsequent_indent=indent, break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def wrap_line(line: str) -> str:
    """One line of foreign text, indented as it is; where it does not fit, it goes on indented by two more."""
    text = line.lstrip(" ")
    indent = " " * (len(line) - len(text))
    return wrap_text(text, indent + "  ", indent)


def print_line(line: str) -> None:
    """Print one line as `wrap_line` breaks it."""
    print(wrap_line(line), flush=True)


def print_rows(rows: Sequence[tuple[str, str]], indent: str = "") -> None:
    """Labels in one column, their texts in another; a text of several lines keeps its line breaks."""
    column = max(len(label) for label, _ in rows) + 2
    for label, text in rows:
        first = indent + label.ljust(column)
        for line in text.splitlines() or [""]:
            print(wrap_text(line, " " * len(first), first).rstrip() or first.rstrip())
            first = " " * len(first)


def print_error(message: str, hint: str = "") -> None:
    """A problem that a person can do something about, on standard error."""
    terminal = sys.stderr.isatty()
    text = f"error: {replace_unprintable(message, keep=chr(10))}"
    hint = replace_unprintable(hint, keep="\n\t")
    if terminal:
        text, hint = _wrap_for_terminal(text), _wrap_for_terminal(hint)
    print(text.replace("error:", "\033[1;31merror:\033[0m", 1) if terminal else text, file=sys.stderr)
    if hint:
        print(hint, file=sys.stderr)


def _wrap_for_terminal(text: str) -> str:
    """A text of one line in lines that fit; one of several lines has its own layout."""
    if "\n" in text:
        return text
    return textwrap.fill(text, get_width(), break_long_words=False, break_on_hyphens=False)


def print_notice(text: str) -> None:
    """A sentence beside the result, on standard error."""
    print(replace_unprintable(text), file=sys.stderr, flush=True)


def print_json(value: Any, indent: int | None = 1) -> None:
    """JSON in ASCII, which every terminal, pipe and locale can carry."""
    print(json.dumps(value, indent=indent, default=str), flush=True)


def name_commit(repository: "Repository", rev: str) -> str:
    """A commit as `git log --oneline` shows it, with a long subject cut; the revision where there is none."""
    try:
        sha = repository.resolve_commit(rev)
    except GitpeftError:
        return rev[:40]
    short, _, subject = repository.ask_text("log", "-1", "--format=%h %s", sha, "--").partition(" ")
    cut = subject if len(subject) <= SUBJECT_WIDTH else subject[: SUBJECT_WIDTH - 1] + "…"
    return f"{short} {cut}"


def format_count(number: int, noun: str, nouns: str = "") -> str:
    """`1 commit`, `2,000 commits`; `nouns` is the plural where it is not formed with an s."""
    return f"{number:,} {noun if number == 1 else nouns or noun + 's'}"


def format_duration(seconds: float) -> str:
    """`42 s`, `3 min 5 s` or `2 h 10 min`."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"


def format_age(moment: str, now: datetime | None = None) -> str:
    """How long ago an ISO time was, in its largest unit (`3 days ago`); the text itself if it is no time."""
    try:
        then = datetime.fromisoformat(moment)
    except ValueError:
        return moment
    passed = (
        (now or datetime.now(UTC)) - (then if then.tzinfo else then.replace(tzinfo=UTC))
    ).total_seconds()
    for unit, size in (("day", 86_400), ("hour", 3_600), ("minute", 60)):
        if passed >= size:
            return f"{format_count(int(passed // size), unit)} ago"
    return "just now"


def format_size(size: float) -> str:
    """Bytes in MB, with a digit behind the point below 10."""
    mega = size / 1e6
    return f"{mega:.1f} MB" if mega < 10 else f"{mega:,.0f} MB"
