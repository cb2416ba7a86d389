"""Analogy: an earlier message with its slots filled from another change.

"Version 0.25.1" became true when its commit set that version; the same message about this change names
the version that this one sets. A *slot* is a token of a subject that stands in the subject's own change, with
the roles (`change_view`) that it has there. Slots are found when a commit is indexed and stored beside its
subject, because the earlier change itself is not at hand in the hook.
"""

from collections.abc import Iterator, Sequence

from gitpeft.diff.grounding import STOP_WORDS, VERB_STEMS, stem_word
from gitpeft.lazy import lazy_dataclass, lazy_pattern
from gitpeft.suggest.change_view import HEADING_VERSION, ChangeView

_TOKEN = lazy_pattern(r"@?[A-Za-z0-9_][\w.+/@-]*")
_VERSION = lazy_pattern(r"v?\d+\.\d")
_PART = lazy_pattern(r"[A-Za-z0-9_]+")
_VERSION_ROLES = "version", "was", "new-version", HEADING_VERSION
_MAX_ROLES = 3
_MAX_SLOTS = 6


@lazy_dataclass(frozen=True, slots=True)
class Slot:
    """A token of a subject, by its bounds in characters, and the roles that it has in the subject's change.

    `style` tells how the token is written: "v" in front of a version, and the case of a word.
    """

    start: int
    end: int
    roles: tuple[str, ...]
    style: str = ""


def find_slots(subject: str, view: ChangeView) -> list[Slot]:
    """The tokens of a subject that stand at a known place in its own change."""
    values: dict[str, list[tuple[str, str]]] = {}
    for role, value in view.roles.items():
        values.setdefault(value.lower(), []).append((role, value))
    found: list[Slot] = []
    for start, end in _list_tokens(subject):
        token = subject[start:end]
        for text, style in ((token, ""), (token.removeprefix("v"), "v"), (f"v{token}", "-v")):
            roles = _find_roles(text, values)
            if roles and not _is_common(subject, start, end):
                found.append(Slot(start, end, roles, style if text != token else ""))
                break
        else:
            found += _find_inner_slots(subject, start, end, values)
    return found[:_MAX_SLOTS]


def _find_roles(token: str, values: dict[str, list[tuple[str, str]]]) -> tuple[str, ...]:
    """The roles that have a token as their value, those first that have it in this very case."""
    known = sorted(values.get(token.lower(), ()), key=lambda pair: pair[1] != token)
    return tuple(role for role, _ in known[:_MAX_ROLES])


def _list_tokens(subject: str) -> Iterator[tuple[int, int]]:
    for match in _TOKEN.finditer(subject):
        text = match[0].rstrip(".-/+")
        if text:
            yield match.start(), match.start() + len(text)


def _find_inner_slots(
    subject: str, start: int, end: int, values: dict[str, list[tuple[str, str]]]
) -> list[Slot]:
    """Parts of a token, such as both names of `lib/auth`."""
    found = []
    for match in _PART.finditer(subject, start, end):
        whole = match.span() == (start, end)
        roles = _find_roles(match[0], values)
        if roles and not whole and not _is_common(subject, *match.span()):
            found.append(Slot(match.start(), match.end(), roles))
    return found


def _is_common(subject: str, start: int, end: int) -> bool:
    """Whether a token is an English word that says what is done: it stands in changes by chance."""
    token = subject[start:end]
    if not token.isalpha() or not token[1:].islower():
        return False
    opens = start == 0 and not subject.startswith((":", "/"), end)
    return opens or len(token) < 3 or token.lower() in STOP_WORDS or stem_word(token) in VERB_STEMS


def fill_slots(subject: str, slots: Sequence[Slot], view: ChangeView) -> str | None:
    """The subject about another change; None where a slot cannot be filled, or nothing would be different."""
    filled = subject
    for slot in reversed(slots):
        token = subject[slot.start : slot.end]
        values = (view.roles[role] for role in slot.roles if role in view.roles)
        value = next((one for one in values if bool(_VERSION.match(one)) == bool(_VERSION.match(token))), "")
        if not value:
            return None
        filled = filled[: slot.start] + _write_value(value, token, slot) + filled[slot.end :]
    return filled if filled != subject else None


def _write_value(value: str, token: str, slot: Slot) -> str:
    """A value as the token was written: with its "v", and in its case where that is not the value's own."""
    if slot.roles[0].rstrip("0123456789") in _VERSION_ROLES:
        return value.removeprefix("v") if not token.startswith("v") else f"v{value.removeprefix('v')}"
    if token.islower() and value[1:].islower():
        return value.lower()
    if token.istitle() and value.isalpha() and value.islower():
        return value.capitalize()
    return value


# --- as text ----------------------------------------------------------------------------------------------


def pack_slots(slots: Sequence[Slot]) -> str:
    """Slots as text: `start.end.style.role|role` for each, separated by spaces."""
    return " ".join(f"{one.start},{one.end},{one.style},{'|'.join(one.roles)}" for one in slots)


def unpack_slots(text: str) -> list[Slot]:
    """What `pack_slots` wrote; ValueError for anything else."""
    found = []
    for part in text.split():
        start, end, style, roles = part.split(",")
        found.append(Slot(int(start), int(end), tuple(roles.split("|")), style))
    return found
