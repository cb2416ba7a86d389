"""Short messages put together from what a change provably does."""

import pytest

from gitpeft.suggest.change_view import ChangeView
from gitpeft.suggest.descriptions import describe_change
from gitpeft.suggest.team_wording import TeamWording

PLAIN = ("Add a parser", "Fix typo in README", "Bump version to 1.0", "Remove the cache", "Fix the tests")
CONVENTIONAL = ("fix: the parser", "docs: fix typo", "feat: add a cache", "chore: update deps", "docs: words")
PAST = ("Added a parser.", "Fixed a typo.", "Removed the cache.", "Updated the docs.")


def describe(change: str, subjects: tuple[str, ...] = PLAIN, nearest: tuple[str, ...] = ()) -> list[str]:
    return describe_change(ChangeView(change), TeamWording(subjects), nearest)


def edit(path: str, old: str, new: str, status: str = " ") -> str:
    return f"{status}{path} +1 -1\n#{path}\n@\n-{old}\n+{new}"


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (edit("README.md", "It recieves a call", "It receives a call"), "Fix typo in README"),
        (edit("setup.py", 'version = "1.0.0"', 'version = "1.1.0"'), "Bump version to 1.1.0"),
        (edit("requirements.txt", "black==22.1.0", "black==22.3.0"), "Bump black to 22.3.0"),
        ("Dsrc/old_parser.py +0 -90", "Remove old_parser.py"),
        ("Rsrc/b.py +0 -0 <src/a.py", "Rename a.py to b.py"),
        (" a.py +0 -1\n#a.py\n@\n-import os", "Remove unused import"),
        ("Atests/test_auth.py +9 -0\n#tests/test_auth.py\n@\n+def test_login():", "Add test for auth"),
    ],
)
def test_what_a_person_would_say(change: str, said: str) -> None:
    assert said in describe(change)


def test_the_team_decides_how() -> None:
    typo = edit("README.md", "It recieves a call", "It receives a call")
    assert describe(typo, CONVENTIONAL)[0] == "docs: fix typo"
    assert describe(typo, PAST)[0] == "Fixed a typo."


def test_an_entry_in_the_log_of_changes_is_the_message() -> None:
    entry = "- ``stream_with_context`` keeps the session open. :issue:`5774`"
    [said] = describe(f" CHANGES.rst +1 -0\n#CHANGES.rst\n@\n+{entry}")
    assert said == "stream_with_context keeps the session open"


def test_a_change_of_which_nothing_can_be_said() -> None:
    assert describe(edit("src/core.py", "x = f(1)", "return g(y) + 2")) == []
    assert describe("") == []
