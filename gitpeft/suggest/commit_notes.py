"""What an index notes of a commit beside its subject: slots for analogies, and what its files are for.

The hook has only the subjects of earlier commits at hand, not their changes.
"""

from gitpeft.suggest.analogy import find_slots, pack_slots
from gitpeft.suggest.change_view import ChangeView

_SEPARATOR = "\x1f"
"""Between slots and kinds; notes of earlier versions have no kinds."""

_MAX_REMEMBERED = 50_000
_remembered: dict[int, str] = {}
"""Notes by the hash of subject and change: a training makes several indexes of the same commits."""


def describe_commit(subject: str, change: str) -> str:
    """The notes on a commit with this compact or stored change; the last ones are remembered."""
    key = hash((subject, change))
    if key not in _remembered:
        if len(_remembered) >= _MAX_REMEMBERED:
            _remembered.clear()
        view = ChangeView(change)
        _remembered[key] = f"{pack_slots(find_slots(subject, view))}{_SEPARATOR}{join_kinds(view)}"
    return _remembered[key]


def join_kinds(view: ChangeView) -> str:
    """What the changed files are for, as one word: `code+tests`.

    Of a very large change only those that its text lists: a stored one lists more of them than a compact one.
    """
    return "+".join(sorted(kind or "code" for kind in view.kinds))


def read_slots(notes: str) -> str:
    """The slots of a commit as `analogy.pack_slots` wrote them."""
    return notes.partition(_SEPARATOR)[0]


def read_kinds(notes: str) -> str:
    """What the changed files of a commit are for (`join_kinds`); "" where that is not noted."""
    return notes.partition(_SEPARATOR)[2]
