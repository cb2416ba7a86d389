"""What may be offered: hides the checks between a model's words and a person's commit message."""

import re
import unicodedata
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any

LENGTH_LIMIT = 4000
LINES_LIMIT = 60
SUBJECT_LIMIT = 200

_DIFF = re.compile(r"^(?:diff --git |@@ .*@@|\+\+\+ |--- |index [0-9a-f]{7,}\.\.)", re.MULTILINE)
_MARKS = re.compile(r"<(?:secret|pad|unk|/?s|mask|extra_id_\d+|\|[a-z_]+\|)>|-{8,} >8 -{8,}", re.IGNORECASE)
_TRAILER = re.compile(
    r"^(?:[a-z-]+-by|cc|change-id|git-svn-id|bug|fixes|closes|refs?|see-also|cherry[- ]picked from"
    r"|\(cherry picked from)\b[^\n]*$",
    re.IGNORECASE | re.MULTILINE,
)
_REFERENCE = re.compile(
    r"(?<![\w&])(?:gh-\d+|[\w.-]*(?:/[\w.-]+)?[#!]\d+|[A-Z][A-Z0-9]{1,9}-\d+)\b|(?<![\w.])@[A-Za-z0-9][\w-]*"
    r"|https?://[^\s)>\]]+",
)
_BEFORE_REFERENCE = (
    r"(?:\b(?:fix(?:e[sd])?|close[sd]?|resolve[sd]?|refs?|see|issue|pr|for|by|from|in)\b[\s:]*)?"
)


@dataclass(frozen=True, slots=True)
class Facts:
    """What a message may speak of: the change text, the branch, the names of the style."""

    change: str = ""
    branch: str = ""
    style: Mapping[str, Any] = field(default_factory=dict)


def clean(message: str, known: str) -> str | None:
    """A message fit to be shown and committed; None when it is not one.

    Control characters, diff lines, special tokens and excessive length reject it. Trailers are dropped, and
    so are issue numbers, mentions and addresses that `known` (change and branch) does not hold: no model can
    know them.
    """
    text = unicodedata.normalize("NFC", message.replace("\r\n", "\n")).strip()
    if not text or len(text) > LENGTH_LIMIT or text.count("\n") > LINES_LIMIT or not _printable(text):
        return None
    if _DIFF.search(text) or _MARKS.search(text):
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
            text = re.sub(rf"[ \t]*[(\[]\s*{_BEFORE_REFERENCE}{name}\s*[)\]]", "", text, flags=re.IGNORECASE)
            text = re.sub(rf"[ \t]*{_BEFORE_REFERENCE}{name}\b:?", "", text, flags=re.IGNORECASE)
    return text.strip()


def _holds(known: str, reference: str) -> bool:
    return re.search(rf"(?<![\w]){re.escape(reference)}(?!\w)", known) is not None


def choose(messages: Iterable[str], facts: Facts, wanted: int) -> list[str]:
    """The first `wanted` different messages that may be offered, best first."""
    known = f"{facts.change}\n{facts.branch}"
    cleaned = [text for message in messages if (text := clean(message, known))]
    return list(dict.fromkeys(cleaned))[:wanted]


def shown(text: str, limit: int = 300) -> str:
    """Text for a terminal or a log: one line, nothing in it that a terminal could obey."""
    return "".join(c if c.isprintable() else "?" for c in " ".join(text.split()))[:limit]
