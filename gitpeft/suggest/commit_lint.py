"""The rules that commit linters set for messages, and the checks of a message against them.

Rule names are those of commitlint. `lint_config` reads the rules from a repository's settings files.
"""

import re
from collections.abc import Callable, Sequence

from gitpeft.lazy import lazy_dataclass, lazy_pattern

CONVENTIONAL_TYPES = (
    "build",
    "chore",
    "ci",
    "docs",
    "feat",
    "fix",
    "perf",
    "refactor",
    "revert",
    "style",
    "test",
)
_HEADER_PATTERN = lazy_pattern(
    r"(?P<type>\w[\w-]*)?(?:\((?P<scope>[^()\n]*)\))?(?P<break>!)?: (?P<subject>.*)"
)


@lazy_dataclass(frozen=True, slots=True)
class CommitHeader:
    """The first line of a message, split as in Conventional Commits: `type(scope): subject`.

    `type` and `scope` are "" where the line has none.
    """

    type: str
    scope: str
    subject: str


@lazy_dataclass(frozen=True, slots=True)
class LintRules:
    """The rules for messages; lengths are in characters, and 0, False or empty means that there is no rule.

    `source` names the first settings file that sets rules, `unread` the files that could not be read.
    `full_stops` are the characters that must not end a subject. `cases` are those of commitlint's
    `subject-case`, `pattern` is a regular expression that the message must contain.
    """

    source: str = ""
    header_max: int = 0
    header_min: int = 0
    subject_max: int = 0
    subject_min: int = 0
    body_line_max: int = 0
    body_min: int = 0
    body_required: bool = False
    type_required: bool = False
    scope_required: bool = False
    scope_forbidden: bool = False
    types: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    full_stops: str = ""
    cases: tuple[str, ...] = ()
    cases_forbidden: tuple[str, ...] = ()
    words_forbidden: tuple[str, ...] = ()
    pattern: str = ""
    unread: tuple[str, ...] = ()


def parse_header(message: str) -> CommitHeader:
    """The parts of a message's first line; a line without a type is all subject."""
    line = _get_first_line(message)
    match = _HEADER_PATTERN.fullmatch(line)
    if not match or not match["type"]:
        return CommitHeader("", "", line)
    return CommitHeader(match["type"], match["scope"] or "", match["subject"])


# --- checking a message -------------------------------------------------------------------------------------


def find_violations(message: str, rules: LintRules) -> list[str]:
    """The names of the rules that a message breaks."""
    return [name for name, broken in _RULE_CHECKS if broken(message, rules)]


def _get_body(message: str) -> str:
    return message.partition("\n")[2].strip()


def _get_first_line(message: str) -> str:
    return message.partition("\n")[0]


def has_wrong_case(message: str, rules: LintRules) -> bool:
    """Whether the subject is written in a case that the rules do not allow."""
    subject = parse_header(message).subject
    if rules.cases and not any(_is_case(subject, case) for case in rules.cases):
        return True
    return any(_is_case(subject, case) for case in rules.cases_forbidden)


def _is_case(text: str, case: str) -> bool:
    """Whether a subject is written in a case, as commitlint's `ensure` package defines it for sentences."""
    letters = re.sub(r"[^A-Za-z]", "", text)
    if not letters or not text[0].isalpha():
        return False
    words = re.findall(r"[A-Za-z]+", text)
    return {
        "lower-case": letters.islower(),
        "upper-case": letters.isupper(),
        "sentence-case": letters[0].isupper() and not letters.isupper() and not _are_all_capitalised(words),
        "start-case": len(words) > 1 and _are_all_capitalised(words),
        "pascal-case": len(words) == 1 and words[0][0].isupper() and text == words[0],
        "camel-case": len(words) == 1 and words[0][0].islower() and text == words[0],
        "kebab-case": re.fullmatch(r"[a-z]+(?:-[a-z]+)*", text) is not None,
        "snake-case": re.fullmatch(r"[a-z]+(?:_[a-z]+)*", text) is not None,
    }.get(case, False)


def _are_all_capitalised(words: Sequence[str]) -> bool:
    return all(word[0].isupper() for word in words)


def _is_not_allowed(value: str, allowed: Sequence[str]) -> bool:
    return bool(allowed) and bool(value) and any(one not in allowed for one in re.split(r"[/,\\]\s?", value))


_RULE_CHECKS: tuple[tuple[str, Callable[[str, LintRules], bool]], ...] = (
    ("header-max-length", lambda m, r: 0 < r.header_max < len(_get_first_line(m))),
    ("header-min-length", lambda m, r: len(_get_first_line(m)) < r.header_min),
    ("subject-max-length", lambda m, r: 0 < r.subject_max < len(parse_header(m).subject)),
    ("subject-min-length", lambda m, r: len(parse_header(m).subject) < r.subject_min),
    (
        "subject-full-stop",
        lambda m, r: bool(r.full_stops) and _get_first_line(m).endswith(tuple(r.full_stops)),
    ),
    ("subject-case", has_wrong_case),
    ("type-empty", lambda m, r: r.type_required and not parse_header(m).type),
    ("type-enum", lambda m, r: _is_not_allowed(parse_header(m).type, r.types)),
    ("scope-empty", lambda m, r: r.scope_required and not parse_header(m).scope),
    ("scope-forbidden", lambda m, r: r.scope_forbidden and bool(parse_header(m).scope)),
    ("scope-enum", lambda m, r: _is_not_allowed(parse_header(m).scope, r.scopes)),
    ("body-empty", lambda m, r: r.body_required and not _get_body(m)),
    ("body-min-length", lambda m, r: bool(_get_body(m)) and len(_get_body(m)) < r.body_min),
    ("body-max-line-length", lambda m, r: 0 < r.body_line_max < max(map(len, _get_body(m).split("\n")))),
    (
        "words",
        lambda m, r: any(
            re.search(rf"\b{re.escape(w)}\b", _get_first_line(m), re.I) for w in r.words_forbidden
        ),
    ),
    ("pattern", lambda m, r: bool(r.pattern) and re.search(r.pattern, m) is None),
)
