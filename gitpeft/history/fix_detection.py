"""Fix detection: which commits fix a bug, by their messages and the conventions of the repository.

A message has at most one kind of evidence, the strongest of these:

- `revert`   it takes a change back, in one of the forms of `history.reverts`
- `trailer`  `Fixes: <id>` names the commit that was wrong (see `parse_fixes_trailers`)
- `pattern`  it matches the team's own `gitpeft.fixPattern`, which then replaces the three below
- `type`     a conventional commit of type `fix`, an emoji of gitmoji such as 🐛 or `:bug:`, or a mark such as
             `BUG:` or `[FIX]` (`history.fix_words`); other types, such as `feat` or `docs`, are not fixes
- `issue`    `fixes #12`, `closes GH-12`, `resolves ABC-12`, `Closes-Bug: 12`, unless the subject announces
             new work
- `word`     the subject mentions a fix, a bug or a crash, in English or one of some thirty other languages,
             and not only a typo, a test or the style
"""

import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass

from gitpeft.history import fix_words, reverts

EVIDENCE_KINDS = ("revert", "trailer", "pattern", "type", "issue", "word")
"""The kinds of evidence, the strongest first."""

COMMON_SHARE = 0.5
"""A weak kind of evidence that matches more than this share of all messages is ignored."""

CONVENTIONAL_SHARE = 0.6
"""Where this share of the subjects has a conventional type, the others are not searched for words."""

MIN_MESSAGES = 50
"""With fewer messages the conventions of a repository are not inferred."""

_CONVENTIONAL_TYPE = re.compile(
    r"(?P<type>feat|feature|fix|bugfix|hotfix|docs?|style|refactor|perf|tests?|build|ci|chore|revert|deps"
    r"|release"
    r"|wip|types|i18n|security)(?:\((?P<scope>[^()\n]*)\))?!?(?:: |：\s*)",
    re.I,
)
_FIX_TYPES = frozenset({"fix", "bugfix", "hotfix"})

_FIXES_TRAILER = re.compile(r"^fixes: *(?:commit +)?([0-9a-f]{7,64})\b", re.I | re.M)

_ISSUE_REFERENCE = (
    r"(?:(?:[\w.-]+/[\w.-]+)?#\d+|gh-?\d+|[A-Z][A-Z0-9]{1,9}-\d+|<?https?://\S+/(?:issues?|bugs?|pull|ticket"
    r"|browse)/"
    r"[\w-]+)"
)
_ISSUE_OBJECT = rf"(?:the |this )?(?:issues?|bugs?|tickets?|regression)?:? *(?:\()?{_ISSUE_REFERENCE}"
_FIXES_ISSUE = re.compile(rf"\bfix(?:e[sd]|ing)?:? +{_ISSUE_OBJECT}", re.I)
_CLOSES_ISSUE = re.compile(rf"\b(?:close[sd]?|resolve[sd]?):? +{_ISSUE_OBJECT}", re.I)
_NEW_WORK = re.compile(
    r"(?:\S+: )?(?:add|better|allow|implement|introduc|support|enhanc|improv|featur|new\b|creat|enabl"
    r"|document"
    r"|docs?\b|refactor"
    r"|renam|remov|drop|deprecat|updat|upgrad|bump|clean|mov|switch|convert|migrat|rewrit|rework|simplif"
    r"|optimi[sz]"
    r"|use\b|make\b|provid|expos|extend|tests?\b|mention|note\b|clarif|releas|prepar)",
    re.I,
)

_FAULT_WORD = re.compile(
    r"\b(?:bug ?fix(?:e[sd])?|hot ?fix(?:e[sd])?|fix(?:e[sd]|ing|up)?|bugs?|defects?|regressions?|segfaults?"
    r"|crash(?:e[sd]|ing)?|deadlocks?|race conditions?|data races?|(?:memory )?leak(?:s|ed|ing|age)?"
    r"|(?:integer |buffer |stack )?overflows?|use[- ]after[- ]free|double[- ]free|off[- ]by[- ]one"
    r"|null pointer|nil pointer|undefined behaviou?r|infinite (?:loop|recursion)s?|vulnerabilit(?:y|ies)"
    r"|cve-\d+"
    r"|repair(?:s|ed)?|workaround|work around|correct(?:s|ed)? (?:the |a |an )?(?:\w+ )?(?:handling"
    r"|behaviou?r|value|check"
    r"|type|order|computation|calculation|condition)|(?:broken|incorrect(?:ly)?|wrong(?:ly)?"
    r"|erroneous(?:ly)?|faulty)"
    r"|(?:don't|do not|doesn't|no longer|prevent|avoid) (?:\w+ )?(?:crash(?:ing)?|fail(?:ing)?|hang(?:ing)?"
    r"|panic(?:king)?))\b",
    re.I,
)
_TRIVIAL_THING = (
    r"(?:typos?|mistypes?|misspell\w*|spelling\w*|grammar|wording|punctuation|capitali[sz]ation|lint\w*"
    r"|flake8?|pyflakes"
    r"|pycodestyle|pylint|pep ?8|mypy|ruff|isort|black|eslint|tslint|jshint|jscs|gofmt|golint|go ?vet"
    r"|golangci\S*|clippy"
    r"|rustfmt|checkstyle|prettier|pyright|coverity|sparse|styles?|styling|formatt(?:ing|ed)|whitespaces?"
    r"|white ?spaces?"
    r"|spaces?|spacing|indent\w*|newlines?|eol|line endings?|docs?|docstrings?|documentation|docblocks?"
    r"|javadocs?|godocs?"
    r"|sphinx|rst|readme\w*|changelogs?|changes(?:\.rst)?|authors?|contributing|comments?|tests?|testing"
    r"|unit ?tests?"
    r"|testcases?|specs?|tox|ci|travis\w*|appveyor|azure|circleci|jenkins|codecov|coveralls|coverage"
    r"|github actions?"
    r"|actions?|workflows?|dependabot|pre-commit|links?|hyperlinks?|urls? in|badges?|copyright|licen[cs]es?"
    r"|years?"
    r"|import (?:order|sort\w*)|imports order|type (?:hints?|annotations?)|annotations?|typing"
    r"|merge(?: conflicts?)?|conflicts?"
    r"|rebase|nits?|nitpicks?|review|feedback|examples?|translations?|compile warnings?|compiler warnings?"
    r"|warnings?|build"
    r"|makefiles?|dockerfiles?|packaging|requirements|dependenc(?:y|ies)|versions?|names?|naming|benchmarks?)"
)
_WORD_GAP = r"(?:[ \-:]+(?!(?:in|for|when|with|of|if|on|by|to|from|after|where|that)\b)[\w'`\"./_*]+){0,2}?"
_TRIVIAL_FIX = re.compile(
    rf"\b(?:fix(?:e[sd]|ing|up)?|correct(?:s|ed)?|repair(?:s|ed)?)\b{_WORD_GAP}"
    rf"[ \-:]+[`'\"]*{_TRIVIAL_THING}\b(?!-)"
    rf"|\b{_TRIVIAL_THING}[ -]+(?:fix(?:e[sd])?|fixup)\b"
    r"|\b(?:wrong|broken|incorrect) (?:\w+ )?(?:links?|urls?|comments?|docs?|docstrings?|indentation"
    r"|spelling|tests?|typos?)\b",
    re.I,
)
_TRIVIAL_SCOPE = re.compile(rf"(?:deps|{_TRIVIAL_THING}): ", re.I)
_FIX_OUTSIDE_CODE = re.compile(
    r"\b(?:in|for|to|of|on|with) (?:the |a |an |some |our )?(?:\w+[ -])?(?:docs?|docstrings?|documentation"
    r"|readme(?:\.\w+)?"
    r"|changelog|changes|comments?|(?:unit ?)?tests?(?: suite| cases?)?|testcases?|examples?|tutorials?"
    r"|release notes?"
    r"|travis|ci|tox|appveyor)(?:\.\w+)?\W*$"
    r"|^(?:docs?|documentation|tests?|ci|build|examples?|style|travis|changelog|readme|website"
    r"|man(?:page)?s?|t\d{4}\S*"
    r"|t/[\w/.-]*|doc\w*/\S*|contrib\S*|\.github\S*|\.travis\S*|Documentation\S*)(?:\([^)]*\)|/[^:\s]*)?:",
    re.I,
)
_OTHER_SENSE = re.compile(
    r"\bfixed[- ](?:size|width|length|point|versions?|number|seed|position|time|date|rate|set|range|order"
    r"|path|string)"
    r"|\b(?:bug|defect|issue|crash|regression)[- ](?:report\w*|template\w*|tracker\w*|bounty|tests?|suite)"
    r"|\b(?:buffer|stack)[- ]overflow\.com|\bstack ?overflow (?:question|answer|link)|\bdebug\w*"
    r"|\btests? (?:for|that) .*\b(?:bugs?|regressions?|crash\w*|leaks?)",
    re.I,
)
_NOT_A_FIX = re.compile(
    r"(?:fixup|squash|amend)! |\[pre-commit|automated |merge (?:branch|pull request|remote|tag|commit"
    r"|\w+ into)"
    r"|merged? |release\b|bump\b"
    r"|version \d|v?\d+\.\d+\S*$|(?:add|update|improve|extend|write|more)\b.*\b(?:tests?|docs?|changelog"
    r"|notes?|readme)\b",
    re.I,
)


_FIX_HINTS = (
    *("fix", "revert", "reapply", "close", "resolve", "bug", "defect", "regression", "segfault", "crash"),
    *("deadlock", "race c", "ta race", "leak", "overflow", "free", "off by", "off-by", "pointer"),
    *("undefined", "infinite", "vulnerab", "cve-", "repair", "around", "correct", "broken", "wrong"),
    *("erroneous", "faulty", "don't", "doesn't", "do not", "no longer", "prevent", "avoid"),
    *(
        "back",
        "undo",
        "apply",
        "appli",
        "land",
        "instat",
        ":rewind:",
        "bf: ",
        ":ambulance:",
        ":adhesive",
        ":lock:",
    ),
    *(":beetle:", ":apple:", ":penguin:", ":checkered", ":non-potable", *fix_words.FOREIGN_HINTS),
)
"""Substrings (in lower case); a message with evidence other than `pattern` contains at least one of them."""


@dataclass(frozen=True, slots=True)
class FixConventions:
    """How a repository marks its fixes: the kinds of evidence that count, and its own pattern, if any.

    `typed` says that nearly all its subjects have a conventional type.
    """

    kinds: frozenset[str] = frozenset(EVIDENCE_KINDS)
    pattern: str = ""
    typed: bool = False


DEFAULT_CONVENTIONS = FixConventions()
"""The conventions assumed where nothing is known of the repository."""


def find_fix_evidence(message: str, conventions: FixConventions = DEFAULT_CONVENTIONS) -> str | None:
    """The strongest kind of evidence in a message that the commit is a fix; None if there is none.

    A revert counts by its message alone; the revert of a revert is not a fix.
    """
    if (
        not conventions.pattern
        and message.isascii()
        and not any(map(message.lower().__contains__, _FIX_HINTS))
    ):
        return None  # most messages end here, at a fraction of the cost
    subject, _, body = message.lstrip("\n").partition("\n")
    kind = _classify_message(subject.strip(), body, conventions)
    return kind if kind in conventions.kinds else None


def _classify_message(subject: str, body: str, conventions: FixConventions) -> str | None:
    meaning, subject = fix_words.find_emoji_meaning(subject)
    typed = _CONVENTIONAL_TYPE.match(subject)
    if reverts.is_revert_of_revert(subject):
        return None
    if meaning == "revert" or reverts.is_revert(f"{subject}\n{body}") or _is_typed(typed, "revert"):
        return "revert"
    if _FIXES_TRAILER.search(body):
        return "trailer"
    if conventions.pattern:
        return "pattern" if re.search(conventions.pattern, f"{subject}\n{body}", re.M) else None
    if typed:
        about = subject[typed.end() :]
        return _classify_typed_subject(
            typed["type"].lower(), f"{typed['scope']}: {about}" if typed["scope"] else about
        )
    if meaning == "other":
        return None
    mark = fix_words.FIX_MARK.match(subject)
    if meaning == "fix" or mark:
        return _classify_typed_subject("fix", subject[mark.end() :] if mark else subject)
    return _classify_plain_subject(subject, body, conventions)


def _is_typed(typed: re.Match[str] | None, kind: str) -> bool:
    return typed is not None and typed["type"].lower() == kind


def _classify_plain_subject(subject: str, body: str, conventions: FixConventions) -> str | None:
    """`issue` or `word` for a subject without a type; else None."""
    if _NOT_A_FIX.match(subject) or _FIX_OUTSIDE_CODE.search(subject):
        return None
    if "issue" in conventions.kinds and _has_issue_reference(subject, body):
        return "issue"
    if conventions.typed:
        return None
    plain = _CLOSES_ISSUE.sub("", _FIXES_ISSUE.sub("", subject))
    return "word" if _has_fault_word(plain) or fix_words.is_foreign_fix(subject) else None


def _classify_typed_subject(kind: str, rest: str) -> str | None:
    """`type` if a conventional commit is a fix by its type and not a trivial one; else None."""
    if kind not in _FIX_TYPES or _TRIVIAL_SCOPE.match(rest) or _FIX_OUTSIDE_CODE.search(rest):
        return None
    return None if _TRIVIAL_FIX.search(f"fix {rest.rpartition(': ')[2]}") else "type"


def _has_issue_reference(subject: str, body: str) -> bool:
    whole = f"{subject}\n{body}"
    patterns = (_FIXES_ISSUE, _CLOSES_ISSUE, fix_words.FIX_TRAILER)
    if not any(pattern.search(whole) for pattern in patterns) or _NEW_WORK.match(subject):
        return False
    return not _TRIVIAL_FIX.search(subject) or _has_fault_word(
        _CLOSES_ISSUE.sub("", _FIXES_ISSUE.sub("", subject))
    )


def _has_fault_word(subject: str) -> bool:
    """Whether the subject names a fault or its repair, without trivial fixes and other senses."""
    return _FAULT_WORD.search(_OTHER_SENSE.sub("", _TRIVIAL_FIX.sub("", subject))) is not None


def learn_fix_conventions(
    messages: Iterable[str], pattern: str = ""
) -> tuple[FixConventions, dict[str, int]]:
    """Infer the conventions of a repository from its messages; also the number of matches of each kind."""
    conventions, counts, _ = classify_messages(messages, pattern)
    return conventions, counts


def classify_messages(
    messages: Iterable[str], pattern: str = ""
) -> tuple[FixConventions, dict[str, int], list[str | None]]:
    """The conventions of a repository, the number of matches of each kind, and the evidence in each message.

    Words are ignored where nearly every subject has a conventional type, and so is a weak kind of evidence
    that most messages have, such as issue references where every change must have one.
    """
    texts = list(messages)
    typed = sum(_has_type(text.lstrip("\n")) for text in texts)
    conventions = FixConventions(
        pattern=pattern, typed=len(texts) >= MIN_MESSAGES and typed > CONVENTIONAL_SHARE * len(texts)
    )
    evidence = [find_fix_evidence(text, conventions) for text in texts]
    counts = Counter(filter(None, evidence))
    weak = {
        kind
        for kind in ("issue", "word")
        if len(texts) >= MIN_MESSAGES and counts[kind] > COMMON_SHARE * len(texts)
    }
    found = FixConventions(conventions.kinds - weak, pattern, conventions.typed)
    # without a weak kind, a message that has it may have another; the evidence of the others stays
    kinds = [
        find_fix_evidence(text, found) if kind in weak else kind
        for text, kind in zip(texts, evidence, strict=True)
    ]
    return found, dict(counts), kinds


def _has_type(message: str) -> bool:
    meaning, rest = fix_words.find_emoji_meaning(message)
    return bool(meaning) or _CONVENTIONAL_TYPE.match(rest) is not None


def parse_fixes_trailers(message: str) -> tuple[str, ...]:
    """The ids in the `Fixes: <id>` trailers of a message."""
    return tuple(found.lower() for found in _FIXES_TRAILER.findall(message))
