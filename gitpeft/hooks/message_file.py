"""The commit-message file: reading what git put into it, and adding suggestions and comments.

An offer is only ever put in front of what the file holds. All that git wrote (trailers, comments, scissors,
diff) stays byte for byte where it was, so nothing below can be damaged.
"""

import codecs
import glob
import os
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gitpeft.errors import GitpeftError
from gitpeft.files import remove_file, replace_file
from gitpeft.lazy import lazy_dataclass, lazy_pattern

if TYPE_CHECKING:
    from gitpeft.git.repository import Repository

COMMENT_CHARACTERS = "#;@!$%^&|:"
"""What `core.commentChar=auto` may choose from (git's own list)."""

_MARKS = frozenset(f"{COMMENT_CHARACTERS}/*-=~+>.")
"""Characters in front of a word that are no part of it."""

MAX_MESSAGE_FILE_BYTES = 64 << 20
"""A larger file (`commit -v` of an enormous change) is left alone."""

_SCISSORS_LINE = b" ------------------------ >8 ------------------------"
_TRAILER_START = lazy_pattern(rb"[A-Za-z0-9][A-Za-z0-9-]*[ \t]*:[ \t]|\(cherry picked from commit ")
_LEADING_REFERENCE = lazy_pattern(r"(#\d+|[%;@!$^&|:]\S+)[\s:,-]+(.+)", re.DOTALL)
_SOURCES_WITH_TEXT = frozenset({"commit", "template", "squash"})
_OFFER_PREFIX = b"gitpeft: "
_TEMPORARY_INFIX = ".gitpeft-"


@lazy_dataclass(frozen=True, slots=True)
class MessageFileRules:
    """How git will read the file once the editor is closed.

    `comment` is the comment string, `auto` whether git chose it by itself (`core.commentChar=auto`),
    `encoding` the Python name of `i18n.commitEncoding`, `strips` whether comment lines will be removed.
    """

    comment: bytes = b"#"
    auto: bool = False
    encoding: str = "utf-8"
    strips: bool = True


def find_calling_git() -> list[str] | None:
    """The command line of the git that called this hook, where the system shows it."""
    pid = os.getppid()
    for _ in range(8):
        try:
            words = Path(f"/proc/{pid}/cmdline").read_bytes().decode(errors="replace").split("\0")
            if Path(words[0]).name == "git":
                return words
            pid = int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[1])
        except (OSError, ValueError, IndexError):
            return None
    return None


def read_message_file_rules(
    repo: "Repository",
    settings: Mapping[str, Sequence[str]],
    content: bytes,
    calling: Callable[[], list[str] | None] = find_calling_git,
) -> MessageFileRules:
    """How git will read the message file that holds `content`, by the repository's settings.

    `calling` finds the command line of the git that will. GitpeftError where its encoding is unknown.
    """
    character = [*settings.get("core.commentchar", []), *settings.get("core.commentstring", [])]
    comment, auto = b"#", False
    if character:  # git itself says which of the two it understands
        auto = settings.get("core.commentchar", [""])[-1] == "auto" or character[-1] == "auto"
        comment = repo.run("stripspace", "-c", input=b"x\n").removesuffix(b" x\n") or b"#"
    cleanup = settings.get("commit.cleanup", [""])[-1]
    return MessageFileRules(
        comment=comment,
        auto=auto,
        encoding=find_codec(settings.get("i18n.commitencoding", [""])[-1]),
        strips=strips_comments(content, comment, cleanup, calling()),
    )


def find_codec(name: str) -> str:
    """The Python codec for a value of `i18n.commitEncoding`.

    GitpeftError when it is unknown or does not contain ASCII as it is: then nothing can be written safely.
    """
    try:
        codec = codecs.lookup(name or "utf-8").name
        plain = "\n# aZ".encode(codec) == b"\n# aZ"
    except (LookupError, UnicodeError, TypeError, ValueError):
        plain, codec = False, ""
    if not plain:
        raise GitpeftError(f"i18n.commitEncoding={name!r} is not known here, nothing suggested")
    return codec


def find_scissors(content: bytes, comment: bytes) -> int:
    """Where git's scissors line starts; the length of the content when there is none."""
    line = comment + _SCISSORS_LINE
    if content.startswith(line):
        return 0
    found = content.find(b"\n" + line)
    return len(content) if found < 0 else found + 1


def has_text(content: bytes, comment: bytes) -> bool:
    """Whether somebody already wrote something: text that is neither comment, nor git's trailers.

    `commit -s` and `--trailer` put their lines behind an empty one; a first line that looks like a trailer
    is a subject (`fix: …`).
    """
    lines = content[: find_scissors(content, comment)].split(b"\n")
    if any(line.startswith(comment + b" " + _OFFER_PREFIX) for line in lines):
        return True
    text = [line for line in lines if line.strip() and not line.startswith(comment)]
    if not text:
        return False
    return bool(lines[0].strip()) or not all(_is_trailer(line) for line in text)


def _is_trailer(line: bytes) -> bool:
    return line[:1] in b" \t" or _TRAILER_START.match(line) is not None


def strips_comments(content: bytes, comment: bytes, cleanup: str, command: Sequence[str] | None) -> bool:
    """Whether git will remove comment lines: False unless it is certain.

    `--cleanup` on the command line reaches no hook, so git's own instructions in the file are read first,
    then the command line of the calling git where the system shows it (`command`), then `commit.cleanup`.
    """
    above = content[: find_scissors(content, comment)]
    scissors = len(above) < len(content)
    if b"will be kept" in above or (scissors and not _has_comment(above, comment)):
        return False
    if b"will be ignored" in above:
        return True
    if command is None or any(word.startswith("--cl") for word in command):
        return False
    return cleanup in ("", "default", "strip")


def _has_comment(above: bytes, comment: bytes) -> bool:
    return any(line.startswith(comment) for line in above.split(b"\n"))


@lazy_dataclass(frozen=True, slots=True)
class OfferPlan:
    """Where messages may go: in front of the file, or (`only_comments`) nowhere but in comments.

    `refusal` says why there is no place for them at all; "" where there is.
    """

    only_comments: bool
    refusal: str = ""


def plan_offer(content: bytes, rules: MessageFileRules, source: str, *, prefill: bool) -> OfferPlan:
    """Where messages may go in a file that git made from `source`, the second argument of the hook."""
    occupied = has_text(content, rules.comment)
    if occupied and source not in _SOURCES_WITH_TEXT:
        return OfferPlan(True, "the message file holds text already")
    if (occupied or not prefill) and not rules.strips:
        return OfferPlan(
            True, "suggestions could only be comments, and git would keep comments in the message"
        )
    if (occupied or not prefill) and rules.auto:
        return OfferPlan(True, "suggestions could only be comments, and core.commentChar is auto")
    return OfferPlan(occupied or not prefill)


def insert_messages(
    content: bytes, messages: Sequence[str], rules: MessageFileRules, *, only_comments: bool = False
) -> bytes:
    """The file with the best message in front and the others as comments behind it, where these are allowed.

    With `only_comments` the text of the file keeps its place and all messages become comments: for a file in
    which somebody wrote. What the encoding cannot express is left out; GitpeftError when that is all.
    """
    eol = b"\r\n" if content.partition(b"\n")[0].endswith(b"\r") else b"\n"
    fitting = [fitted for fitted in (escape_comment_lines(message, rules) for message in messages) if fitted]
    # where none can be encoded, the first is kept: encoding it below says what is wrong
    fitting = [text for text in fitting if _is_encodable(text, rules)] or fitting[:1]
    head, others = ([], fitting) if only_comments else (fitting[:1], fitting[1:])
    blocks = [_encode_text(message, rules) for message in head]
    if fitting and rules.strips and not rules.auto:
        blocks.append(_format_comments(others, rules, prefilled=bool(head)))
    if not blocks:
        return content
    if only_comments:
        return _insert_before_comments(content, blocks[0], rules.comment, eol)
    return _prepend_blocks(blocks, content, eol)


def insert_notes(content: bytes, notes: Sequence[str], rules: MessageFileRules) -> bytes:
    """The file with notes as comment lines in front of git's own; unchanged where git would keep comments."""
    if not notes or not rules.strips or rules.auto:
        return content
    eol = b"\r\n" if content.partition(b"\n")[0].endswith(b"\r") else b"\n"
    lines = [f"gitpeft: {note}" for note in notes]
    try:
        block = "\n".join(lines).encode(rules.encoding)
    except UnicodeEncodeError:
        return content
    return _insert_before_comments(
        content, comment_out_lines(block, rules.comment) + b"\n", rules.comment, eol
    )


def _prepend_blocks(blocks: Sequence[bytes], content: bytes, eol: bytes) -> bytes:
    offer = b"\n".join(block + b"\n" for block in blocks).replace(b"\n", eol)
    gap = eol if content and content[:1] not in b"\r\n" else b""
    return offer + gap + content


def _insert_before_comments(content: bytes, block: bytes, comment: bytes, eol: bytes) -> bytes:
    """Put a block of comments behind the text, in front of git's first comment line."""
    place, limit = 0, find_scissors(content, comment)
    for line in content[:limit].split(b"\n"):
        if line.startswith(comment):
            break
        place = min(place + len(line) + 1, limit)
    ending = b"" if not place or content[:place].endswith(b"\n") else eol
    return content[:place] + ending + block.replace(b"\n", eol) + eol + content[place:]


CANCEL_HINT = "gitpeft: suggested above. To cancel the commit, delete the message (vim: :cq)."
OTHERS_TITLE = "gitpeft: other suggestions (uncomment one and delete the one above):"
NOTHING_OFFERED = "no good suggestion (to see it: git -c gitpeft.minScore=0 commit)"
"""The note where no message reaches the model's threshold."""

COMMENTS_TITLE = "gitpeft: suggestions (to use one, uncomment it):"


def _format_comments(messages: Sequence[str], rules: MessageFileRules, *, prefilled: bool) -> bytes:
    """How to cancel, and whole messages as comments: uncomment all lines of one and it is a valid message."""
    titles = [CANCEL_HINT, *([OTHERS_TITLE] if messages else [])] if prefilled else [COMMENTS_TITLE]
    texts = ("\n".join(titles), *messages)
    return b"\n\n".join(comment_out_lines(_encode_text(text, rules), rules.comment) for text in texts)


def comment_out_lines(text: bytes, comment: bytes) -> bytes:
    """Every line behind the comment string, as `git stripspace -c` writes it."""
    return b"\n".join(_comment_out_line(line, comment) for line in text.split(b"\n"))


def _comment_out_line(line: bytes, comment: bytes) -> bytes:
    return comment + (b"" if not line or line.startswith(b"\t") else b" ") + line


def _is_encodable(text: str, rules: MessageFileRules) -> bool:
    try:
        return bool(_encode_text(text, rules))
    except GitpeftError:
        return False


def _encode_text(text: str, rules: MessageFileRules) -> bytes:
    try:
        return text.encode(rules.encoding)
    except UnicodeEncodeError:
        raise GitpeftError(
            f"the suggestion cannot be written in {rules.encoding}, nothing suggested"
        ) from None


def escape_comment_lines(message: str, rules: MessageFileRules) -> str:
    """The message with no line that git would take for a comment; "" when that would cost it its meaning.

    A reference at the start of the subject moves to its end (`#12 fix x` becomes `fix x (#12)`), a mark in
    front of it goes (`# Fix x`), other lines are set in by one space. Where the comment string is a part of
    the first word (`Add x`, `[net] x` and the comment strings `A`, `[`), the message is left out.
    """
    starts = tuple(COMMENT_CHARACTERS) if rules.auto else (rules.comment.decode(rules.encoding, "replace"),)
    subject, *body = message.strip().split("\n")
    if subject.startswith(starts):
        subject = _strip_comment_start(subject, starts)
    lines = [f" {line}" if line.startswith(starts) else line.rstrip() for line in body]
    return "\n".join([subject, *lines]) if subject else ""


def _strip_comment_start(subject: str, starts: tuple[str, ...]) -> str:
    moved = _LEADING_REFERENCE.fullmatch(subject)
    if moved and not moved[2].startswith(starts):
        return f"{moved[2].rstrip()} ({moved[1]})"
    while subject.startswith(starts):
        start = next(start for start in starts if subject.startswith(start))
        subject = subject[len(start) :]
        if not set(start) <= _MARKS and not subject[:1].isspace():
            return ""
        subject = subject.lstrip()
    return subject


def read_message_file(path: Path) -> bytes:
    """The bytes of the message file. GitpeftError when it is no ordinary file, or too large to touch."""
    try:
        state = path.lstat()
    except OSError as error:
        raise GitpeftError(f"cannot read the message file: {error.strerror}") from None
    if not stat.S_ISREG(state.st_mode) or state.st_size > MAX_MESSAGE_FILE_BYTES:
        raise GitpeftError("the message file is no ordinary file, or a very large one; it is left alone")
    return path.read_bytes()


def write_message_file(path: Path, content: bytes) -> None:
    """Replace the file in one step: a temporary file beside it, then a rename. The mode is kept.

    GitpeftError, with the file as it was, when the directory or the disk does not allow it.
    """
    _remove_leftovers(path)
    spare = path.with_name(f"{path.name}{_TEMPORARY_INFIX}{os.getpid()}")
    try:
        replace_file(path, content, temporary=spare, mode=stat.S_IMODE(path.stat().st_mode))
    except OSError as error:
        raise GitpeftError(f"cannot write the message file: {error.strerror}") from None


def _remove_leftovers(path: Path) -> None:
    """Remove what a killed hook left beside the file: the process whose number it has is gone."""
    for entry in path.parent.glob(f"{glob.escape(path.name)}{_TEMPORARY_INFIX}*"):
        try:
            os.kill(int(entry.name.rpartition("-")[2]), 0)
        except ProcessLookupError:
            remove_file(entry)
        except (OSError, ValueError, OverflowError):
            pass  # somebody else's, or not ours
