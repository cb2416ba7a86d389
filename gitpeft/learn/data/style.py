"""How a team words its subjects: learnt by counting, stored as `style.json`, and applied to suggestions."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import TypedDict

_CONVENTIONAL_SUBJECT = re.compile(r"^(?P<type>[a-z]+)(?:\((?P<scope>[^()\s]{1,40})\))?!?: \S")
_TICKET_KEY = re.compile(r"(?<![\w.-])(?P<key>[A-Z][A-Z0-9]{1,9})-\d+(?![\w.-]*\d)")
_NO_TRACKER = re.compile(r"UTF|SHA|ISO|RFC|PEP|CVE|CWE|AES|RSA|MD|ES|HTTP|IPV|PY|X")
_TICKET_FORMATS = (
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
"""Where subjects have tickets: a format as `gitpeft.ticketFormat` takes it, and the pattern that finds it."""

_PAST_TENSE = re.compile(r"^\w*ed\b", re.IGNORECASE)
_MIN_SHARE = 0.5
_MIN_SHARE_WITH_BRANCHES = 0.25
MAX_MESSAGES = 500
_MAX_TRACKERS = 8


class MessageStyle(TypedDict, total=False):
    """The content of `style.json`; see `learn_message_style`."""

    subject_length: int
    subject_length_p95: int
    tense: str
    body_share: float
    types: list[str]
    scopes: list[str]
    ticket_pattern: str
    ticket_format: str


def learn_message_style(
    messages: Sequence[str], bodies: Sequence[str], branches: Sequence[str] = ()
) -> MessageStyle:
    """The style of the newest messages; subjects and bodies go together, oldest first.

    `subject_length` is the longest that may be offered and `subject_length_p95` what is usual, in characters;
    `types` and `scopes` are set where at least half of the subjects follow Conventional Commits,
    `ticket_pattern` where at least half of the subjects name a tracker's ticket (a quarter, where two or more
    of the `branches` name one too) and `ticket_format` how most of those do; `tense` is imperative or past;
    `body_share` is the share of commits with a body.
    """
    messages, bodies = messages[-MAX_MESSAGES:], bodies[-MAX_MESSAGES:]
    lengths = sorted(map(len, messages)) or [50]
    p95 = lengths[min(len(lengths) - 1, int(0.95 * len(lengths)))]
    style: MessageStyle = {
        "subject_length": max(50, min(100, lengths[min(len(lengths) - 1, int(0.99 * len(lengths)))])),
        "subject_length_p95": p95,
        "tense": "past" if _share_matching(messages, _PAST_TENSE) >= _MIN_SHARE else "imperative",
        "body_share": round(sum(map(bool, bodies)) / max(1, len(bodies)), 3),
    }
    return style | _learn_types_and_scopes(messages) | _learn_ticket_pattern(messages, branches)


def _share_matching(messages: Sequence[str], pattern: re.Pattern[str]) -> float:
    return sum(1 for m in messages if pattern.match(m)) / max(1, len(messages))


def _learn_types_and_scopes(messages: Sequence[str]) -> MessageStyle:
    found = [match for m in messages if (match := _CONVENTIONAL_SUBJECT.match(m))]
    if len(found) < _MIN_SHARE * max(1, len(messages)):
        return {}
    return {
        "types": _list_frequent_words(m["type"] for m in found),
        "scopes": _list_frequent_words(m["scope"] for m in found),
    }


def _list_frequent_words(words: Iterable[str | None]) -> list[str]:
    """The words used more than once, most frequent first."""
    return [word for word, n in Counter(filter(None, words)).most_common(60) if n > 1]


def _learn_ticket_pattern(messages: Sequence[str], branches: Sequence[str]) -> MessageStyle:
    keys = _find_tracker_keys(messages)
    if not keys:
        return {}
    pattern = rf"(?:{'|'.join(keys)})-\d+" if len(keys) > 1 else rf"{keys[0]}-\d+"
    named = sum(1 for branch in branches if re.search(rf"(?<![^\W_]){pattern}(?!\d)", branch, re.IGNORECASE))
    usual = _MIN_SHARE_WITH_BRANCHES if named > 1 else _MIN_SHARE
    with_one = [message for message in messages if re.search(rf"\b{pattern}\b", message)]
    if len(with_one) < usual * len(messages):
        return {}
    found: MessageStyle = {"ticket_pattern": pattern}
    if form := _find_ticket_format(with_one, pattern):
        found["ticket_format"] = form
    return found


def _find_tracker_keys(messages: Sequence[str]) -> list[str]:
    """The project keys of the tracker that appear in several subjects, most frequent first."""
    found: Counter[str] = Counter()
    for message in messages:
        found.update({match["key"] for match in _TICKET_KEY.finditer(message)})
    few = max(2, len(messages) // 50)
    common = [key for key, n in found.most_common() if n >= few and not _NO_TRACKER.fullmatch(key)]
    return common[:_MAX_TRACKERS]


def _find_ticket_format(messages: Sequence[str], pattern: str) -> str:
    """The format that more than half of these subjects have, "" when none has that many."""
    for form, shape in _TICKET_FORMATS:
        having = re.compile(shape.format(pattern))
        if sum(1 for message in messages if having.match(message)) > _MIN_SHARE * len(messages):
            return form
    return ""
