"""Which of the lines that a fix takes out may have been wrong: hides what is certainly no bug.

Out of question are files that are no code of the product (tests, documentation, data, generated, vendored),
and lines that are blank, comments, moved elsewhere, or only formatted anew. Lexers of Pygments decide what is
a comment and whether two pieces of code are the same. A whole file is never lexed: a quick scan finds the
comments and strings of several lines that a hunk begins in, and the lexer then gets the lines of the hunk
only.
"""

import re
from bisect import bisect_right
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

from pygments.lexer import Lexer
from pygments.lexers import find_lexer_class_for_filename
from pygments.token import Comment, String, Token, Whitespace
from pygments.util import ClassNotFound

from gitpeft.diff.patch import is_generated, unquote_path
from gitpeft.learn.szz.edits import CommitEdit, FileEdit, split_sides

LARGE_FIX_FILES = 30
"""A fix of more code files than this is a refactoring, in which single lines say little."""

LARGE_FIX_LINES = 400
"""The same for a fix that takes out more lines of code than this."""

MAX_LINE_BYTES = 2000
"""Bytes; a longer line was written by a program, and would take a lexer long."""

_TEST_PATH = re.compile(
    r"(?:^|/)(?:tests?|testing|testsuite|testdata|specs?|__tests__|__mocks__|e2e|fixtures?|conftest\.py"
    r"|t)(?:/|$)"
    r"|(?:^|/)(?:test_[^/]*|[^/]*_tests?|[^/]*[._-](?:test|spec)|[^/]*Tests?|tests?)\.\w+$"
)
_DOCUMENTATION_PATH = re.compile(
    r"(?:^|/)(?:docs?|documentation|doc-src|examples?|samples?|demos?|website|site|benchmarks?|bench"
    r"|\.github|\.circleci"
    r"|ci|artwork|po|locale|locales|i18n|contrib/completion)/",
    re.I,
)
_BUILD_FILE = re.compile(r"(?:^|/)(?:setup\.py|conf\.py|noxfile\.py|go\.mod|go\.work|CMakeLists\.txt)$")


def _make_word_set(text: str) -> frozenset[str]:
    return frozenset(text.split())


_NOT_CODE = _make_word_set(
    "text output markdown md rst restructuredtext diff udiff gettext pot po bibtex tex latex groff "
    "nroff irc mediawiki json jsonobject json5 yaml toml ini cfg dosini properties xml xslt dtd csv "
    "registry kconfig requirements pip-requirements editorconfig desktop docker dockerfile gitignore "
    "asc pem http apacheconf nginx sourceslist debcontrol svg css scss less sass html"
)

_C_LIKE = _make_word_set(
    "c cpp c++ csharp c# java javascript js typescript ts jsx tsx go golang rust rs swift kotlin scala "
    "groovy dart php d objective-c objc objective-c++ solidity protobuf proto glsl hlsl cuda v zig vala "
    "haxe stan thrift systemverilog verilog coffeescript arduino actionscript actionscript3 nix "
    "terraform qml reasonml sql mysql postgresql plpgsql"
)
_PYTHONIC = _make_word_set("python py python3 python2 cython pyx bazel starlark")
_MARKUP = _make_word_set("vue svelte html+jinja html+django html+erb html+php jsp velocity")

_WORD_CHARACTER = re.compile(r"\w")
_C_SPANS = re.compile(
    r"//[^\n]*|(?P<comment>/\*.*?(?:\*/|\Z))|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'|(?P<text>`(?:\\."
    r"|[^`\\])*`)",
    re.S,
)
_PYTHON_SPANS = re.compile(
    r"#[^\n]*|(?P<comment>^[ \t]*[rRuU]?(?P<q>\"\"\"|''').*?(?:(?P=q)|\Z))"
    r"|(?P<text>(?P<t>\"\"\"|''')(?:\\.|.)*?(?:(?P=t)|\Z))|\"(?:\\.|[^\"\\\n])*\"|'(?:\\.|[^'\\\n])*'",
    re.S | re.M,
)
_MARKUP_SPANS = re.compile(r"(?P<comment><!--.*?(?:-->|\Z)|/\*.*?(?:\*/|\Z))", re.S)
_LANGUAGE_FAMILIES = ((_C_LIKE, _C_SPANS), (_PYTHONIC, _PYTHON_SPANS), (_MARKUP, _MARKUP_SPANS))

LinePosition = tuple[str, int]
"""A path as git quotes it, and the number of a line there."""


@dataclass(frozen=True, slots=True)
class Language:
    """How the lines of a file are told apart: a lexer, and the pattern of what goes over several lines."""

    lexer: Lexer
    spans: re.Pattern[str] | None


def classify_non_code(path: str) -> str:
    """Why a file is no code of the product: `generated`, `tests`, `documentation`, `no code`; else empty."""
    if is_generated(path):
        return "generated"
    if _TEST_PATH.search(path):
        return "tests"
    if _DOCUMENTATION_PATH.search(path):
        return "documentation"
    return "" if detect_language(path) and not _BUILD_FILE.search(path) else "no code"


def detect_language(path: str) -> Language | None:
    """The language of a path, by its name alone; None for prose, data, and what no lexer knows."""
    name = path.rpartition("/")[2]
    return _look_up_language("x" + name[name.rfind(".") :] if "." in name[1:] else name)


@lru_cache(maxsize=4096)
def _look_up_language(name: str) -> Language | None:
    try:
        kind = find_lexer_class_for_filename(name)
    except (ClassNotFound, ValueError):
        return None
    if kind is None or _NOT_CODE.intersection(kind.aliases):
        return None
    spans = next((spans for names, spans in _LANGUAGE_FAMILIES if names.intersection(kind.aliases)), None)
    return Language(kind(), spans)


def select_candidate_files(edit: CommitEdit) -> tuple[list[FileEdit], Counter[str]]:
    """The files of a fix in which lines may have been wrong, and how many others there are, by reason."""
    found, passed = [], Counter[str]()
    for file in edit.files:
        reason = _explain_file_exclusion(file)
        if reason:
            passed[f"file: {reason}"] += 1
        else:
            found.append(file)
    removed = sum(place[1] for file in found for place in file.places or ())
    if len(found) > LARGE_FIX_FILES or removed > LARGE_FIX_LINES:
        passed["commit: large fix"] += 1
        return [], passed
    return found, passed


def _explain_file_exclusion(file: FileEdit) -> str:
    if file.status == "A":
        return "added"
    if file.status == "D":
        return "deleted"
    if file.places is None:
        return "binary, link or submodule"
    return classify_non_code(unquote_path(file.old_path)) or (
        "" if any(place[1] for place in file.places) else "only adds lines"
    )


def find_suspect_lines(edit: CommitEdit, before: Mapping[str, bytes]) -> None:
    """Find the suspects of a fix: fills `suspects` and `passed` from the texts of its hunks.

    `before` holds the old content of the candidate files by the id of the blob; `moves` are known already.
    """
    files, passed = select_candidate_files(edit)
    moved = frozenset((path, at + k) for path, at, _, _, size in edit.moves for k in range(size))
    for file in files:
        if file.blob not in before:
            passed["file: content not here"] += 1
            continue
        lines = list(_iter_suspect_lines(file, before[file.blob].decode("utf-8", "replace"), moved, passed))
        if lines:
            edit.suspects[file.old_path] = lines
    edit.passed = dict(passed)


def _iter_suspect_lines(
    file: FileEdit, text: str, moved: frozenset[LinePosition], passed: Counter[str]
) -> Iterator[int]:
    known = detect_language(unquote_path(file.old_path))
    assert known is not None
    spans = _find_multiline_spans(text, known)
    for number, ((a, n, _, m), body) in enumerate(zip(file.places or (), file.bodies, strict=True)):
        removed, added = split_sides(body)
        if not n:
            continue
        if max(map(len, (*removed, *added))) > MAX_LINE_BYTES:
            passed["line: too long"] += n
            continue
        if m and number in file.went_on:
            passed["line: formatting"] += n
            continue
        for line, reason in zip(
            range(a, a + n), _classify_removed_lines(known, spans, a, removed, added), strict=False
        ):
            reason = reason or ("moved" if (file.old_path, line) in moved else "")
            if reason:
                passed[f"line: {reason}"] += 1
            else:
                yield line


def _classify_removed_lines(
    known: Language, spans: Mapping[int, str], start: int, removed: Sequence[bytes], added: Sequence[bytes]
) -> list[str]:
    """For each removed line why it cannot have been wrong; empty where it can."""
    old = [line.decode("utf-8", "replace") for line in removed]
    inside = [spans.get(start + i, "") for i in range(len(old))]
    reasons = ["blank" if not line.strip() else inside[i] for i, line in enumerate(old)]
    outside = [i for i, reason in enumerate(reasons) if not reason]
    if not outside:
        return ["" if reason == "text" else reason for reason in reasons]
    tokens = _lex_lines(known.lexer, [old[i] for i in outside])
    for i, kept in zip(outside, tokens, strict=True):
        reasons[i] = ("" if _WORD_CHARACTER.search("".join(kept)) else "punctuation") if kept else "comment"
    if added and any(tokens) and "text" not in reasons:
        new = _lex_lines(known.lexer, [line.decode("utf-8", "replace") for line in added])
        for i in _match_equal_lines(tokens, new):
            reasons[outside[i]] = reasons[outside[i]] or "formatting"
    return ["" if reason == "text" else reason for reason in reasons]


def _lex_lines(lexer: Lexer, lines: Sequence[str]) -> list[list[str]]:
    """The tokens of each line that mean something: neither comments, docstrings nor white space.

    Commas and semicolons at the ends of lines and the kind of quotes are formatting.
    """
    found: list[list[str]] = [[] for _ in lines]
    starts = [0]
    for line in lines:
        starts.append(starts[-1] + len(line) + 1)
    for at, kind, value in lexer.get_tokens_unprocessed("\n".join(lines) + "\n"):
        if _is_meaningless(kind, value):
            continue
        first = bisect_right(starts, at) - 1
        for number, piece in enumerate(value.split("\n"), first):
            if (word := piece.strip().replace("'", '"').rstrip(",;")) and number < len(found):
                found[number].append(word)
    return found


def _is_meaningless(kind: Any, value: str) -> bool:
    if kind in Comment:
        return kind not in Comment.Preproc and kind not in Comment.PreprocFile
    return kind in String.Doc or kind in Whitespace or (kind in Token.Text and not value.strip())


def _match_equal_lines(old: Sequence[Sequence[str]], new: Sequence[Sequence[str]]) -> Iterator[int]:
    """The old lines that say the same as new ones: from both ends, whole lines with equal tokens."""
    left = [word for line in old for word in line]
    right = [word for line in new for word in line]
    if left == right:
        yield from range(len(old))
        return
    head = _count_equal_prefix(old, new, left, right)
    tail = _count_equal_prefix(old[::-1], new[::-1], left[::-1], right[::-1])
    yield from range(head)
    yield from range(max(head, len(old) - tail), len(old))


def _count_equal_prefix(
    old: Sequence[Sequence[str]], new: Sequence[Sequence[str]], left: list[str], right: list[str]
) -> int:
    """How many of the first old lines have the tokens of the first new ones, up to an end of line."""
    ends = set()
    at = 0
    for line in new:
        at += len(line)
        ends.add(at)
    common = next(
        (i for i, (a, b) in enumerate(zip(left, right, strict=False)) if a != b), min(len(left), len(right))
    )
    found = at = 0
    for number, line in enumerate(old, 1):
        at += len(line)
        if at > common:
            break
        if at in ends:
            found = number
    return found


def _find_multiline_spans(text: str, known: Language) -> dict[int, str]:
    """The lines that begin inside something longer: a `comment` (docstrings too) or a string, `text`."""
    if known.spans is None:
        return {}
    found: dict[int, str] = {}
    line, at = 1, 0
    for match in known.spans.finditer(text):
        kind = match.lastgroup
        if kind is None or "\n" not in match[0]:
            continue
        kind = "comment" if match["comment"] else "text"
        line += text.count("\n", at, match.start())
        at = match.start()
        count = match[0].count("\n")
        whole = kind == "comment" and not text[text.rfind("\n", 0, at) + 1 : at].strip()
        rest = (
            text[match.end() : text.find("\n", match.end())].strip()
            if text.find("\n", match.end()) > 0
            else ""
        )
        first = line if whole else line + 1
        last = line + count - (1 if rest and kind == "comment" else 0)
        found.update((number, kind) for number in range(first, last + 1))
    return found
