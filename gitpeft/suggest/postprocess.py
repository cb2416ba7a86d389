"""What may be offered: hides the checks between a model's words and a person's commit message."""

import re
import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from gitpeft.bundle import bundle
from gitpeft.config import Config, valid
from gitpeft.diff.patch import split
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.lazy import field, record
from gitpeft.pattern import pattern
from gitpeft.suggest import commit_lint

LENGTH_LIMIT = 4000
LINES_LIMIT = 60
SUBJECT_LIMIT = 200
TICKET_FORMAT = "{ticket}: {subject}"
BODY_SHARE = 0.05
"""Where fewer messages than this have a body, none is offered with one."""

_KINDS = (
    ("docs", r"(?:^|/)docs?/|\.(?:md|rst|adoc|txt)$"),
    ("test", r"(?:^|/)(?:tests?|spec|__tests__)/|(?:^|/)test_[^/]*$|[._-](?:test|spec)\.[^/]*$"),
    ("ci", r"(?:^|/)\.(?:github/workflows|circleci|gitlab-ci)|(?:^|/)(?:Jenkinsfile|\.travis\.yml)$"),
)

_ENDLESS = pattern(r"\S{400}")
"""No word of a message is as long, and on one the patterns below would take their time."""

_DIFF = pattern(r"^(?:diff --git |@@ .*@@|\+\+\+ |--- |index [0-9a-f]{7,}\.\.)", re.MULTILINE)
_MARKS = pattern(r"<(?:secret|pad|unk|/?s|mask|extra_id_\d+|\|[a-z_]+\|)>|-{8,} >8 -{8,}", re.IGNORECASE)
_TRAILER = pattern(
    r"^(?:[a-z-]+-by|cc|change-id|git-svn-id|bug|fixes|closes|refs?|see-also|cherry[- ]picked from"
    r"|\(cherry picked from)\b[^\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
_REFERENCE = pattern(
    r"(?<![\w&])(?!(?:UTF|SHA|ISO|RFC|PEP|AES|RSA|MD|ES|HTTP|IPV|X)-\d)(?:gh-\d+|[\w.-]*(?:/[\w.-]+)?[#!]\d+|[A-Z][A-Z0-9]{1,9}-\d+)\b|(?<![\w.])@[A-Za-z0-9][\w-]*"
    r"|https?://[^\s)>\]]+",
)
_BEFORE_REFERENCE = (
    r"(?:\b(?:fix(?:e[sd])?|close[sd]?|resolve[sd]?|refs?|see|issue|pr|for|by|from|in)\b[\s:]*)?"
)


@record(frozen=True, slots=True)
class Facts:
    """What a message may speak of, and how it should look.

    `style` is the bundle's style.json: `subject_length_p95`, `types`, `scopes`, `ticket_pattern`,
    `ticket_format`, `tense` (imperative or past), `body_share`, each optional. `rules` are the repository's
    linters'. `subject_max`, `ticket_pattern` and `ticket_format` are settings and count more than the style.
    With `any_case` a branch may write the ticket in small letters, as people do; it is offered in capitals.
    """

    change: str = ""
    branch: str = ""
    style: Mapping[str, Any] = field(default_factory=dict)
    rules: commit_lint.Rules = field(default_factory=commit_lint.Rules)
    subject_max: int = 0
    ticket_pattern: str = ""
    ticket_format: str = ""
    any_case: bool = False


def gather(repo: Repository, config: Config, change: str) -> Facts:
    """The facts for a change (compact text) in a repository. What cannot be read is left out."""
    try:
        active = bundle.active(repo.state_dir)
        style = active.json(bundle.STYLE) if active else {}
    except GitpeftError:
        style = {}
    pattern = config.ticket_pattern or valid("ticketpattern", _text(style, "ticket_pattern"))
    return Facts(
        change=change,
        branch=repo.ask("symbolic-ref", "--quiet", "--short", "HEAD") if pattern else "",
        style=style,
        rules=commit_lint.load(repo.work_tree) if config.lint and repo.work_tree else commit_lint.Rules(),
        subject_max=config.subject_length,
        ticket_pattern=pattern,
        ticket_format=config.ticket_format
        or valid("ticketformat", _text(style, "ticket_format"))
        or TICKET_FORMAT,
        any_case=not config.ticket_pattern,
    )


def _text(style: Mapping[str, Any], key: str) -> str:
    value = style.get(key)
    return value if isinstance(value, str) and len(value) <= 200 else ""


def _words(style: Mapping[str, Any], key: str) -> tuple[str, ...]:
    value = style.get(key)
    return tuple(word for word in value if isinstance(word, str)) if isinstance(value, list) else ()


def _number(style: Mapping[str, Any], key: str) -> float:
    value = style.get(key)
    return float(value) if isinstance(value, int | float) and not isinstance(value, bool) else 0.0


def clean(message: str, known: str) -> str | None:
    """A message fit to be shown and committed; None when it is not one.

    Control characters, diff lines, special tokens and excessive length reject it. Trailers are dropped, and
    so are issue numbers, mentions and addresses that `known` (change and branch) does not hold: no model can
    know them.
    """
    text = unicodedata.normalize("NFC", message.replace("\r\n", "\n")).strip()
    if not text or len(text) > LENGTH_LIMIT or text.count("\n") > LINES_LIMIT or not _printable(text):
        return None
    if _DIFF.search(text) or _MARKS.search(text) or _ENDLESS.search(text):
        return None
    text = _without_inventions(text, known)
    text = _TRAILER.sub("", text) if "\n" in text else text
    subject, _, body = text.partition("\n")
    subject = " ".join(subject.split()).rstrip(" ,;:-")
    if not re.search(r"\w", subject) or len(subject) > SUBJECT_LIMIT:
        return None
    body = re.sub(r"\n{3,}", "\n\n", "\n".join(line.rstrip() for line in body.split("\n"))).strip("\n")
    return f"{subject}\n\n{body}" if body else subject


def _printable(text: str) -> bool:
    """No control, format (bidirectional, zero width), private or unassigned character but newline and tab."""
    return all(c in "\n\t" or unicodedata.category(c) not in ("Cc", "Cf", "Cs", "Co", "Cn") for c in text)


def _without_inventions(text: str, known: str) -> str:
    """Take out each reference that is not in `known`, with the brackets and the word that lead up to it."""
    for reference in {match[0] for match in _REFERENCE.finditer(text)}:
        if not _holds(known, reference):
            name = re.escape(reference)
            text = re.sub(rf"^[(\[]?{name}[)\]]?\s*(?:[:|-]\s+)?", "", text)
            text = re.sub(rf"[ \t]*[(\[]\s*{_BEFORE_REFERENCE}{name}\s*[)\]]", "", text, flags=re.IGNORECASE)
            text = re.sub(rf"[ \t]*{_BEFORE_REFERENCE}{name}\b:?", "", text, flags=re.IGNORECASE)
    return text.strip()


def _holds(known: str, reference: str) -> bool:
    return re.search(rf"(?<![\w]){re.escape(reference)}(?!\w)", known) is not None


def choose(messages: Iterable[str], facts: Facts, wanted: int) -> list[str]:
    """The best `wanted` messages that may be offered, no two alike but for case and the full stop.

    What breaks a linter's rule, and cannot be put right by little things, is left out: the commit would be
    refused. What only departs from the learnt style goes behind what does not; else the order stays.
    """
    fitting = [text for message in messages if (text := fit(message, facts))]
    found: dict[str, str] = {}
    for text in sorted(fitting, key=lambda text: departures(text, facts)):
        found.setdefault(text.casefold().rstrip("."), text)
    return list(found.values())[:wanted]


def fit(message: str, facts: Facts) -> str | None:
    """One message as it may be offered; None when it may not."""
    text = clean(message, f"{facts.change}\n{facts.branch}")
    shaped = shape(text, facts) if text else None
    return shaped if shaped and _printable(shaped) else None


def shape(message: str, facts: Facts) -> str | None:
    """The message with its ticket, and with what a linter minds put right; None when that is not enough."""
    if 0 < _number(facts.style, "body_share") < BODY_SHARE:
        message = message.partition("\n")[0]
    for ticketed in _with_ticket(mend(message, facts), facts):
        mended = mend(ticketed, facts)
        if not commit_lint.violations(mended, facts.rules):
            return mended
    return None


def _with_ticket(message: str, facts: Facts) -> list[str]:
    """The message in the forms that name the branch's ticket, the preferred one first."""
    ticket = ticket_of(facts.branch, facts.ticket_pattern, any_case=facts.any_case)
    if not ticket or ticket.lower() in message.lower():
        return [message]
    subject, newline, body = message.partition("\n")
    formats = (facts.ticket_format or TICKET_FORMAT, "{subject} ({ticket})")
    forms = (one.replace("{subject}", subject).replace("{ticket}", ticket) for one in formats)
    return [form + newline + body for form in forms]


def ticket_of(branch: str, pattern: str, *, any_case: bool = False) -> str:
    """The ticket that a branch names: the pattern's first group, or all of it. `""` when there is none.

    With `any_case` small letters count as the capitals that the pattern is in.
    """
    if not branch or not pattern:
        return ""
    try:
        found = re.search(
            rf"(?<![^\W_])(?:{pattern})(?!\d)" if any_case else pattern, branch, re.I * any_case
        )
    except re.error:
        return ""
    ticket = (found[1] if found.re.groups else found[0]) if found else ""
    ticket = ticket.upper() if any_case else ticket
    return ticket if ticket and len(ticket) <= 40 and re.fullmatch(r"[\w#.-]+", ticket) else ""


def mend(message: str, facts: Facts) -> str:
    """Put right what changes no meaning: full stop, first letter, an obvious type, a body and its width."""
    rules = facts.rules
    subject, _, body = message.partition("\n")
    if rules.full_stops:
        subject = subject.rstrip(rules.full_stops + " ")
    parts = commit_lint.header(subject)
    if rules.type_required and not parts.type and (kind := _obvious_type(facts.change, rules.types)):
        subject = f"{kind}: {subject}"
    subject = _in_case(subject, rules)
    body = body.strip()
    if rules.body_required and not body:
        body = _listing(facts.change)
    if rules.body_line_max:
        body = _wrapped(body, rules.body_line_max)
    return f"{subject}\n\n{body}" if body else subject


def _in_case(subject: str, rules: commit_lint.Rules) -> str:
    """The subject with its first letter large or small, if that is what its case asks for."""
    text = commit_lint.header(subject).subject
    if not text or not commit_lint.wrong_case(subject, rules):
        return subject
    head = subject[: len(subject) - len(text)]
    for first in (text[0].lower(), text[0].upper()):
        if not commit_lint.wrong_case(head + first + text[1:], rules):
            return head + first + text[1:]
    return subject


def _obvious_type(change: str, types: Sequence[str]) -> str:
    """The type of a change whose files are all of one kind; `""` for any other."""
    paths = _paths(change)
    for kind, place in _KINDS:
        if (
            paths
            and kind in (types or commit_lint.CONVENTIONAL)
            and all(re.search(place, path) for path in paths)
        ):
            return kind
    return ""


def _paths(change: str) -> list[str]:
    return [path for _, path in split(change)[0]]


def _listing(change: str) -> str:
    """A body that says only what is certain: which files change."""
    paths = [path for path in _paths(change) if path.isprintable()]
    more = f" and {len(paths) - 3} more" if len(paths) > 3 else ""
    return f"Files changed: {', '.join(paths[:3])}{more}." if paths else ""


def _wrapped(body: str, width: int) -> str:
    import textwrap

    lines = body.split("\n")
    return "\n".join(
        part for line in lines for part in (textwrap.wrap(line, width) if len(line) > width else [line])
    )


def departures(message: str, facts: Facts) -> int:
    """In how many ways a message departs from the learnt style."""
    parts, style = commit_lint.header(message), facts.style
    length = facts.subject_max or int(_number(style, "subject_length_p95"))
    types, scopes = _words(style, "types"), _words(style, "scopes")
    first = re.match(r"\W*([A-Za-z]+)", parts.subject)
    past = bool(first and re.fullmatch(r"(?!embed|shed|bed|red)\w*[^e]ed", first[1].lower()))
    return sum(
        (
            0 < length < len(message.partition("\n")[0]),
            bool(types) and parts.type not in types,
            bool(scopes) and bool(parts.scope) and parts.scope not in scopes,
            _text(style, "tense") == "imperative" and past,
            _text(style, "tense") == "past" and not past,
        )
    )


def shown(text: str, limit: int = 300) -> str:
    """Text for a terminal or a log: one line, nothing in it that a terminal could obey."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:limit]
