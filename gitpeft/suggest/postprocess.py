"""From a model's messages to those that may be offered: cleaning, conventions, linters, selection."""

import re
import unicodedata
from collections.abc import Mapping, Sequence

from gitpeft.bundle import bundle
from gitpeft.config import Config, sanitize_setting
from gitpeft.diff.compact import split_compact
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.lazy import field, lazy_dataclass, lazy_pattern, replace_fields
from gitpeft.suggest.commit_lint import (
    CONVENTIONAL_TYPES,
    LintRules,
    find_violations,
    has_wrong_case,
    parse_header,
)
from gitpeft.suggest.suggestion import Suggestion

LENGTH_LIMIT = 4000
"""Characters of the longest message."""

LINES_LIMIT = 60
SUBJECT_LIMIT = 200
"""Characters of the longest first line."""

GIT_SUBJECT_LENGTH = 72
"""Subjects of this length still fit where git shows them; a longer one comes after one that fits."""

TICKET_FORMAT = "{ticket}: {subject}"
MIN_BODY_SHARE = 0.05
"""If a smaller share of the team's messages has a body, messages are offered without one."""

_TYPE_PATHS = (
    ("docs", r"(?:^|/)docs?/|\.(?:md|rst|adoc|txt)$"),
    ("test", r"(?:^|/)(?:tests?|spec|__tests__)/|(?:^|/)test_[^/]*$|[._-](?:test|spec)\.[^/]*$"),
    ("ci", r"(?:^|/)\.(?:github/workflows|circleci|gitlab-ci)|(?:^|/)(?:Jenkinsfile|\.travis\.yml)$"),
)

_ENDLESS_WORD = lazy_pattern(r"\S{400}")
"""No word of a message is that long, and matching the patterns below against one would take long."""

_DIFF_LINE = lazy_pattern(r"^(?:diff --git |@@ .*@@|\+\+\+ |--- |index [0-9a-f]{7,}\.\.)", re.MULTILINE)
_SPECIAL_MARKS = lazy_pattern(
    r"<(?:secret|pad|unk|/?s|mask|extra_id_\d+|\|[a-z_]+\|)>|-{8,} >8 -{8,}", re.IGNORECASE
)
_TRAILER_LINE = lazy_pattern(
    r"^(?:[a-z-]+-by|cc|change-id|git-svn-id|bug|fixes|closes|refs?|see-also|cherry[- ]picked from"
    r"|\(cherry picked from)\b[^\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
_REFERENCE_PATTERN = lazy_pattern(
    r"(?<![\w&])(?!(?:UTF|SHA|ISO|RFC|PEP|AES|RSA|MD|ES|HTTP|IPV|X)-\d)(?:gh-\d+|[\w.-]*(?:/[\w.-]+)?[#!]\d+|[A-Z][A-Z0-9]{1,9}-\d+)\b|(?<![\w.])@[A-Za-z0-9][\w-]*"
    r"|https?://[^\s)>\]]+",
)
_BEFORE_REFERENCE = (
    r"(?:\b(?:fix(?:e[sd])?|close[sd]?|resolve[sd]?|refs?|see|issue|pr|for|by|from|in)\b[\s:]*)?"
)


@lazy_dataclass(frozen=True, slots=True)
class MessageFacts:
    """What messages are checked against: the stored or compact change, the branch, the team's conventions.

    `style` is the bundle's style.json, in which each of these may be missing: `subject_length_p95`, `types`,
    `scopes`, `ticket_pattern`, `ticket_format`, `tense` ("imperative" or "past") and `body_share`. `rules`
    are those of the repository's linters. `subject_max`, `ticket_pattern` and `ticket_format` are the user's
    settings, which take precedence over the style. With `any_case` the ticket may be in lower case in the
    branch's name; it is offered in upper case.
    """

    change: str = ""
    branch: str = ""
    style: Mapping[str, object] = field(default_factory=dict)
    rules: LintRules = field(default_factory=LintRules)
    subject_max: int = 0
    ticket_pattern: str = ""
    ticket_format: str = ""
    any_case: bool = False


def gather_facts(repo: Repository, config: Config, change: str) -> MessageFacts:
    """The facts for a stored or compact change in a repository; files that cannot be read are ignored."""
    try:
        active = bundle.open_active_bundle(repo.state_dir)
        style = active.read_json(bundle.STYLE_FILE) if active else {}
    except GitpeftError:
        style = {}
    pattern = config.ticket_pattern or sanitize_setting(
        "ticketpattern", _get_style_text(style, "ticket_pattern")
    )
    return MessageFacts(
        change=change,
        branch=repo.ask_text("symbolic-ref", "--quiet", "--short", "HEAD") if pattern else "",
        style=style,
        rules=_load_rules(repo) if config.lint else LintRules(),
        subject_max=config.subject_length,
        ticket_pattern=pattern,
        ticket_format=config.ticket_format
        or sanitize_setting("ticketformat", _get_style_text(style, "ticket_format"))
        or TICKET_FORMAT,
        any_case=not config.ticket_pattern,
    )


def _load_rules(repo: Repository) -> LintRules:
    from gitpeft.suggest.lint_config import load_lint_rules

    return load_lint_rules(repo.work_tree) if repo.work_tree else LintRules()


def _get_style_text(style: Mapping[str, object], key: str) -> str:
    value = style.get(key)
    return value if isinstance(value, str) and len(value) <= 200 else ""


def _get_style_words(style: Mapping[str, object], key: str) -> tuple[str, ...]:
    value = style.get(key)
    return tuple(word for word in value if isinstance(word, str)) if isinstance(value, list) else ()


def _get_style_number(style: Mapping[str, object], key: str) -> float:
    value = style.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def clean_message(message: str, known: str) -> str | None:
    """The message without anything that must not be offered; None if nothing useful is left.

    Messages with control characters, lines of a diff, special tokens or excessive length are rejected.
    Trailers are removed, and so are issue numbers, mentions and URLs that `known` (the change and the branch)
    does not contain: a model can only have invented them.
    """
    text = unicodedata.normalize("NFC", message.replace("\r\n", "\n")).strip()
    if not text or len(text) > LENGTH_LIMIT or text.count("\n") > LINES_LIMIT or not _is_printable(text):
        return None
    if _DIFF_LINE.search(text) or _SPECIAL_MARKS.search(text) or _ENDLESS_WORD.search(text):
        return None
    text = _remove_unknown_references(text, known)
    text = _TRAILER_LINE.sub("", text) if "\n" in text else text
    subject, _, body = text.partition("\n")
    subject = " ".join(subject.split()).rstrip(" ,;:-")
    if not re.search(r"\w", subject) or len(subject) > SUBJECT_LIMIT:
        return None
    body = re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in body.split("\n"))).strip("\n")
    return f"{subject}\n\n{body}" if body else subject


def _is_printable(text: str) -> bool:
    """Whether it has no control, format, surrogate, private or unassigned character but newline and tab."""
    return all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn") for c in text)


def _remove_unknown_references(text: str, known: str) -> str:
    """The text without references that `known` does not contain, and the brackets and words around them."""
    for reference in {match[0] for match in _REFERENCE_PATTERN.finditer(text)}:
        if not _contains_reference(known, reference):
            name = re.escape(reference)
            text = re.sub(rf"^[(\[]?{name}[)\]]?\s*(?:[:|-]\s+)?", "", text)
            text = re.sub(rf"[ \t]*[(\[]\s*{_BEFORE_REFERENCE}{name}\s*[)\]]", "", text, flags=re.IGNORECASE)
            text = re.sub(rf"[ \t]*{_BEFORE_REFERENCE}{name}\b:?", "", text, flags=re.IGNORECASE)
    return text.strip()


def _contains_reference(known: str, reference: str) -> bool:
    return re.search(rf"(?<![\w]){re.escape(reference)}(?!\w)", known) is not None


def select_suggestions(
    suggestions: Sequence[Suggestion], facts: MessageFacts, wanted: int, pool: int
) -> list[Suggestion]:
    """The best `wanted` suggestions that may be offered; no two differ only in case or a full stop.

    Messages that break a linter's rule and cannot be fixed are left out: the linter would refuse the commit.
    Messages that depart from the team's style come after those that do not; otherwise the order is kept. The
    first `pool` suggestions are sorted before the others are considered, so that the first one does not
    depend on the number wanted.
    """
    selected: dict[str, Suggestion] = {}
    for part in (suggestions[:pool], suggestions[pool:]):
        fitting = [
            replace_fields(one, message=text) for one in part if (text := prepare_message(one.message, facts))
        ]
        for one in sorted(fitting, key=lambda one: count_style_departures(one.message, facts)):
            selected.setdefault(one.message.casefold().rstrip("."), one)
    return list(selected.values())[:wanted]


def prepare_message(message: str, facts: MessageFacts) -> str | None:
    """The message, cleaned and adapted to the conventions; None if it must not be offered."""
    text = clean_message(message, f"{facts.change}\n{facts.branch}")
    adapted = apply_conventions(text, facts) if text else None
    return adapted if adapted and _is_printable(adapted) else None


def apply_conventions(message: str, facts: MessageFacts) -> str | None:
    """The message with the branch's ticket and fixed for the linters; None if it still breaks a rule."""
    if 0 < _get_style_number(facts.style, "body_share") < MIN_BODY_SHARE:
        message = message.partition("\n")[0]
    for ticketed in _add_ticket(autofix_message(message, facts), facts):
        fixed = autofix_message(ticketed, facts)
        if not find_violations(fixed, facts.rules):
            return fixed
    return None


def _add_ticket(message: str, facts: MessageFacts) -> list[str]:
    """The message with the branch's ticket in each possible place, the preferred one first."""
    ticket = extract_ticket(facts.branch, facts.ticket_pattern, any_case=facts.any_case)
    if not ticket or ticket.lower() in message.lower():
        return [message]
    subject, newline, body = message.partition("\n")
    formats = (facts.ticket_format or TICKET_FORMAT, "{subject} ({ticket})")
    forms = (one.replace("{subject}", subject).replace("{ticket}", ticket) for one in formats)
    return [form + newline + body for form in forms]


def extract_ticket(branch: str, pattern: str, *, any_case: bool = False) -> str:
    """The ticket in a branch's name: the pattern's first group, or all that it matches; "" if there is none.

    With `any_case`, lower case matches too, only whole words do, and the ticket is returned in upper case.
    """
    if not branch or not pattern:
        return ""
    try:
        match = re.search(
            rf"(?<![^\W_])(?:{pattern})(?!\d)" if any_case else pattern, branch, re.I * any_case
        )
    except re.error:
        return ""
    ticket = (match[1] if match.re.groups else match[0]) if match else ""
    ticket = ticket.upper() if any_case else ticket
    return ticket if ticket and len(ticket) <= 40 and re.fullmatch(r"[\w#.-]+", ticket) else ""


def autofix_message(message: str, facts: MessageFacts) -> str:
    """The message with fixes that do not change its meaning.

    They concern a full stop, the first letter, an obvious type, a required body, and the width of the body.
    """
    rules = facts.rules
    subject, _, body = message.partition("\n")
    if rules.full_stops:
        subject = subject.rstrip(rules.full_stops + " ")
    parts = parse_header(subject)
    if rules.type_required and not parts.type and (kind := _infer_type(facts.change, rules.types)):
        subject = f"{kind}: {subject}"
    subject = _fix_subject_case(subject, rules)
    body = body.strip()
    if rules.body_required and not body:
        body = _describe_files(facts.change)
    if rules.body_line_max:
        body = _wrap_body(body, rules.body_line_max)
    return f"{subject}\n\n{body}" if body else subject


def _fix_subject_case(subject: str, rules: LintRules) -> str:
    """The subject with its first letter in the other case, if the rules then allow it."""
    text = parse_header(subject).subject
    if not text or not has_wrong_case(subject, rules):
        return subject
    head = subject[: len(subject) - len(text)]
    for first in (text[0].lower(), text[0].upper()):
        if not has_wrong_case(head + first + text[1:], rules):
            return head + first + text[1:]
    return subject


def _infer_type(change: str, types: Sequence[str]) -> str:
    """The type of a change if all its files are documentation, tests or CI configuration; else ""."""
    paths = _list_changed_paths(change)
    for kind, pattern in _TYPE_PATHS:
        allowed = kind in (types or CONVENTIONAL_TYPES)
        if paths and allowed and all(re.search(pattern, path) for path in paths):
            return kind
    return ""


def _list_changed_paths(change: str) -> list[str]:
    return [path for _, path in split_compact(change)[0]]


def _describe_files(change: str) -> str:
    """A body for a linter that requires one: which files the change touches."""
    paths = [path for path in _list_changed_paths(change) if path.isprintable()]
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"Files changed: {', '.join(paths[:3])}{more}." if paths else ""


def _wrap_body(body: str, width: int) -> str:
    import textwrap

    lines = body.split("\n")
    return "\n".join(
        part for line in lines for part in (textwrap.wrap(line, width) if len(line) > width else [line])
    )


def count_style_departures(message: str, facts: MessageFacts) -> int:
    """The number of ways in which a message departs from the team's style (length, type, scope, tense)."""
    parts, style = parse_header(message), facts.style
    usual = int(_get_style_number(style, "subject_length_p95")) or GIT_SUBJECT_LENGTH
    length = facts.subject_max or min(usual, GIT_SUBJECT_LENGTH)
    types, scopes = _get_style_words(style, "types"), _get_style_words(style, "scopes")
    first = re.match(r"\W*([A-Za-z]+)", parts.subject)
    past = bool(first and re.fullmatch(r"(?!embed|shed|bed|red)\w*[^e]ed", first[1].lower()))
    return sum(
        (
            length < len(message.partition("\n")[0]),
            bool(types) and parts.type not in types,
            bool(scopes) and bool(parts.scope) and parts.scope not in scopes,
            _get_style_text(style, "tense") == "imperative" and past,
            _get_style_text(style, "tense") == "past" and not past,
        )
    )
