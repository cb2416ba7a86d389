"""How a team words its subjects: hides the counting behind `style.json`, which the validators obey."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

_CONVENTIONAL = re.compile(r"^(?P<type>[a-z]+)(?:\((?P<scope>[^()\s]{1,40})\))?!?: \S")
_TICKET = re.compile(r"(?<![\w.-])(?P<key>[A-Z][A-Z0-9]{1,9})-\d+(?![\w.-]*\d)")
_NO_TRACKER = re.compile(r"UTF|SHA|ISO|RFC|PEP|CVE|CWE|AES|RSA|MD|ES|HTTP|IPV|PY|X")
_FORMS = (
    ("{ticket}: {subject}", r"{}: *(?=\S)"),
    ("[{ticket}] {subject}", r"\[{}\] *(?=[^\s:])"),
    ("[{ticket}]: {subject}", r"\[{}\]: *(?=\S)"),
    ("({ticket}) {subject}", r"\({}\) *(?=[^\s:])"),
    ("{ticket} - {subject}", r"{} +- +(?=\S)"),
    ("{ticket} {subject}", r"{} +(?=[^\s-])"),
    ("{subject} ({ticket})", r".*\S \({}\)$"),
    ("{subject} [{ticket}]", r".*\S \[{}\]$"),
    ("{subject} {ticket}", r".*[^\s(\[] {}$"),
)
# Where a subject has its ticket; each is a format as `gitpeft.ticketFormat` takes it.
_PAST = re.compile(r"^\w*ed\b", re.IGNORECASE)
_USUAL = 0.5
_USUAL_WITH_BRANCHES = 0.25
_NEWEST = 500
_TRACKERS = 8


def learn(messages: Sequence[str], bodies: Sequence[str], branches: Sequence[str] = ()) -> dict[str, Any]:
    """The habits of the newest messages; subjects and bodies go together, oldest first.

    `subject_length` is the longest that may be offered and `subject_length_p95` what is usual, in characters;
    `types` and `scopes` are set where at least half of the subjects follow Conventional Commits,
    `ticket_pattern` where at least half of the subjects name a tracker's ticket (a quarter, where two or more
    of the `branches` name one too) and `ticket_format` how most of those do; `tense` is imperative or past;
    `body_share` is the share of commits with a body.
    """
    messages, bodies = messages[-_NEWEST:], bodies[-_NEWEST:]
    lengths = sorted(map(len, messages)) or [50]
    p95 = lengths[min(len(lengths) - 1, int(0.95 * len(lengths)))]
    style: dict[str, Any] = {
        "subject_length": max(50, min(100, lengths[min(len(lengths) - 1, int(0.99 * len(lengths)))])),
        "subject_length_p95": p95,
        "tense": "past" if _share(messages, _PAST) >= _USUAL else "imperative",
        "body_share": round(sum(map(bool, bodies)) / max(1, len(bodies)), 3),
    }
    return style | _conventional(messages) | _ticket(messages, branches)


def _share(messages: Sequence[str], pattern: re.Pattern[str]) -> float:
    return sum(1 for m in messages if pattern.match(m)) / max(1, len(messages))


def _conventional(messages: Sequence[str]) -> dict[str, Any]:
    found = [match for m in messages if (match := _CONVENTIONAL.match(m))]
    if len(found) < _USUAL * max(1, len(messages)):
        return {}
    return {"types": _frequent(m["type"] for m in found), "scopes": _frequent(m["scope"] for m in found)}


def _frequent(words: Iterable[str | None]) -> list[str]:
    """The words used more than once, most frequent first."""
    return [word for word, n in Counter(filter(None, words)).most_common(60) if n > 1]


def _ticket(messages: Sequence[str], branches: Sequence[str]) -> dict[str, Any]:
    keys = _trackers(messages)
    if not keys:
        return {}
    pattern = rf"(?:{'|'.join(keys)})-\d+" if len(keys) > 1 else rf"{keys[0]}-\d+"
    named = sum(1 for branch in branches if re.search(rf"(?<![^\W_]){pattern}(?!\d)", branch, re.IGNORECASE))
    usual = _USUAL_WITH_BRANCHES if named > 1 else _USUAL
    with_one = [message for message in messages if re.search(rf"\b{pattern}\b", message)]
    if len(with_one) < usual * len(messages):
        return {}
    return {"ticket_pattern": pattern} | _ticket_format(with_one, pattern)


def _trackers(messages: Sequence[str]) -> list[str]:
    """The project keys of the tracker that appear in several subjects, most frequent first."""
    found: Counter[str] = Counter()
    for message in messages:
        found.update({match["key"] for match in _TICKET.finditer(message)})
    few = max(2, len(messages) // 50)
    common = [key for key, n in found.most_common() if n >= few and not _NO_TRACKER.fullmatch(key)]
    return common[:_TRACKERS]


def _ticket_format(messages: Sequence[str], pattern: str) -> dict[str, str]:
    """The form that more than half of these subjects have; {} when none has that many."""
    for form, shape in _FORMS:
        having = re.compile(shape.format(pattern))
        if sum(1 for message in messages if having.match(message)) > _USUAL * len(messages):
            return {"ticket_format": form}
    return {}
