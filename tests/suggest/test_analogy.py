"""Messages of earlier commits with their slots filled from another change."""

import pytest

from gitpeft.suggest.analogy import Slot, fill_slots, find_slots, pack_slots, unpack_slots
from gitpeft.suggest.change_view import ChangeView


def bump(path: str, before: str, old: str, new: str) -> str:
    return f" {path} +1 -1\n#{path}\n@\n-{before}{old}\n+{before}{new}"


def tell(subject: str, its_change: str, change: str) -> str | None:
    """The subject of one change about another."""
    return fill_slots(subject, find_slots(subject, ChangeView(its_change)), ChangeView(change))


@pytest.mark.parametrize(
    ("subject", "its_change", "change", "told"),
    [
        (
            "Version 0.25.1",
            bump("x/__init__.py", "__version__ = ", "'0.25.0'", "'0.25.1'"),
            bump("x/__init__.py", "__version__ = ", "'0.25.1'", "'0.26.0'"),
            "Version 0.26.0",
        ),
        (
            "v2.1.0",
            bump("package.json", '"version": ', '"2.0.0"', '"2.1.0"'),
            bump("package.json", '"version": ', '"2.1.0"', '"2.1.1"'),
            "v2.1.1",
        ),
        (
            "Bump black from 22.1.0 to 22.3.0",
            bump("requirements.txt", "black==", "22.1.0", "22.3.0"),
            bump("requirements.txt", "mypy==", "0.950", "0.960"),
            "Bump mypy from 0.950 to 0.960",
        ),
        (
            "Update bug_report.md",
            bump(".github/bug_report.md", "say ", "this", "that"),
            bump(".github/feature_request.md", "say ", "more", "less"),
            "Update feature_request.md",
        ),
        (
            "release version 3.0.2",
            " CHANGES.rst +1 -1\n#CHANGES.rst\n@Version 3.0.2\n-Unreleased\n+Released 2024-02-03",
            " CHANGES.rst +1 -1\n#CHANGES.rst\n@Version 3.0.3\n-Unreleased\n+Released 2024-04-07",
            "release version 3.0.3",
        ),
        (
            "data: unexport osType",
            bump("internal/data/node.go", "type ", "OsType int", "osType int"),
            bump("internal/fs/file.go", "type ", "Reader int", "reader int"),
            "fs: unexport reader",
        ),
    ],
)
def test_formulaic_messages_come_out_exact(subject: str, its_change: str, change: str, told: str) -> None:
    assert tell(subject, its_change, change) == told


def test_a_slot_that_cannot_be_filled_gives_nothing() -> None:
    release = bump("x/__init__.py", "__version__ = ", "'0.25.0'", "'0.25.1'")
    assert tell("Version 0.25.1", release, bump("README.md", "the ", "parser", "lexer")) is None
    assert tell("Version 0.25.1", release, release) is None, "it would be the message itself"
    assert tell("Fix the tests", release, release) is None, "it has no slot"


def test_english_words_are_no_slots() -> None:
    view = ChangeView(" add.py +1 -0\n#add.py\n@\n+def add(): pass")
    assert find_slots("Add the docs", view) == []
    assert [one.roles for one in find_slots("Document add.py", view)] == [("file0", "path0")] or find_slots(
        "Document add.py", view
    )


def test_slots_as_text() -> None:
    slots = [Slot(0, 5, ("version0", "by1"), "v"), Slot(7, 9, ("stem0",))]
    assert unpack_slots(pack_slots(slots)) == slots
    assert unpack_slots("") == []
    for text in ("1", "a,b,c,d", "1,2,v"):
        with pytest.raises(ValueError, match=r"unpack|invalid"):
            unpack_slots(text)
