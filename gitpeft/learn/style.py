"""How a team words its subjects: hides the counting behind `style.json`, which the validators obey."""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

_CONVENTIONAL = re.compile(r"^(?P<type>[a-z]+)(?:\((?P<scope>[^()\s]{1,40})\))?!?: \S")
_TICKET = re.compile(r"^\[?(?P<key>[A-Z][A-Z0-9]{1,9})-\d+\b")
_PAST = re.compile(r"^\w*ed\b", re.IGNORECASE)
_USUAL = 0.5
_NEWEST = 500


def learn(messages: Sequence[str], bodies: Sequence[str]) -> dict[str, Any]:
    """The habits of the newest messages; subjects and bodies go together, oldest first.

    `subject_length` is the longest that may be offered and `subject_length_p95` what is usual, in characters;
    `types` and `scopes` are set where at least half of the subjects follow Conventional Commits,
    `ticket_pattern` where at least half start with the same tracker's ticket; `tense` is imperative or past;
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
    return style | _conventional(messages) | _ticket(messages)


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


def _ticket(messages: Sequence[str]) -> dict[str, Any]:
    keys = Counter(match["key"] for m in messages if (match := _TICKET.match(m)))
    key, count = keys.most_common(1)[0] if keys else ("", 0)
    return {"ticket_pattern": rf"{key}-\d+"} if count and count >= _USUAL * len(messages) else {}
