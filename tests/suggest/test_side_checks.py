"""Which side of a change the words of a message stand on."""

import pytest

from gitpeft.suggest.change_view import ChangeView
from gitpeft.suggest.side_checks import find_wrong_side, is_vague, measure_edited_share

MOVES = (
    " src/http.py +2 -2\nRdocs/new_guide.md +0 -0 <docs/old_guide.md\n#src/http.py\n@class HeaderOptions"
    "\n def use():\n-    timeout = Options(5)\n-    retry = True"
    "\n+    timeout = Options(9)\n+    fallback = True"
)
BUMPS = (
    " go.mod +2 -2\n CHANGELOG.md +2 -2\n#go.mod\n@\n-crypto v0.15.0\n+crypto v0.17.0\n#CHANGELOG.md\n@\n"
    "-Version 1.1.3, see #12\n+Version 1.1.3, see #12 and #34\n-teh end\n+the end"
)


def flaw(message: str, change: str, branch: str = "") -> str:
    return find_wrong_side(message, ChangeView(change), branch)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("Add fallback", ""),
        ("feat: add a fallback to options", ""),
        ("Add options", "what it adds is not new"),
        ("Add retry", "what it adds is not new"),
        ("Introduce timeout for fallback", "what it adds is not new"),
        ("Remove retry", ""),
        ("Remove fallback", "what it removes is not gone"),
        ("Drop options when needed", "what it removes is not gone"),
        ("Add http client", "what it adds is not new"),  # only the path of an old file has a part of it
        ("Add support for timeout", "what it adds is not new"),
        ("Add support for fallback", ""),
        ("Add HeaderOptions", "what it adds is not new"),
        ("Add SomethingElse", ""),
        ("Add something else", ""),  # other checks know what the change does not have
    ],
)
def test_what_is_added_is_new_and_what_is_removed_is_gone(message: str, why: str) -> None:
    assert flaw(message, MOVES) == why


def test_new_code_may_remove_something_when_it_runs() -> None:
    change = " src/a.py +1 -0\n#src/a.py\n@\n+def remove(self): self.entries.clear()"
    assert flaw("Remove entries", change) == ""


def test_a_part_of_a_new_name_is_new() -> None:
    assert flaw("Add cookie", " a.js +1 -0\n#a.js\n@\n+setcookies(name)") == ""


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("Upgrade crypto to v0.17.0", ""),
        ("Upgrade crypto to 0.15.0", "the old version"),
        ("Upgrade crypto from 0.15.0 to 0.17.0", ""),
        ("Drop support for 0.15.0", ""),
        ("Release 1.1.3", "the old version"),
        ("Reword the notes of 1.1.3", ""),
    ],
)
def test_a_version_is_the_new_one(message: str, why: str) -> None:
    assert flaw(message, BUMPS) == why


RELEASE = (
    " CHANGELOG.md +2 -0\n package.json +1 -1\n#CHANGELOG.md\n@\n+## 7.1.12 (compare v7.1.11...v7.1.12)\n"
    '#package.json\n@\n-  "version": "7.1.11",\n+  "version": "7.1.12",'
)


@pytest.mark.parametrize("prefix", ["release: v", "chore(release): ", "Release "])
def test_a_release_is_not_of_the_version_that_it_replaces(prefix: str) -> None:
    assert flaw(f"{prefix}7.1.11", RELEASE) == "the old version"
    assert flaw(f"{prefix}7.1.12", RELEASE) == ""


def test_a_release_is_not_named_by_its_day() -> None:
    change = (
        " CHANGES.rst +1 -1\n a.py +1 -1\n#CHANGES.rst\n@Version 2.3.3\n-Unreleased\n+Released 2023-08-21\n"
    )
    change += '#a.py\n@\n-version = "2.3.3.dev"\n+version = "2.3.3"'
    assert flaw("release version 2023-08-21", change) == "a date for a version"
    assert flaw("release version 2.3.3", change) == ""
    assert (
        flaw("release 2023-08-21", ' a.py +1 -1\n#a.py\n@\n-version = "2023-07-01"\n+version = "2023-08-21"')
        == ""
    )


def test_a_version_under_way_is_old_once_it_is_released() -> None:
    change = ' a.py +1 -1\n#a.py\n@\n-version = "2.1.0.dev0"\n+version = "2.1.0"'
    assert flaw("Start version 2.1.0.dev0", change) == "the old version"
    assert flaw("Release version 2.1.0", change) == ""


def test_a_name_in_code_is_new_as_a_whole() -> None:
    change = " a.js +1 -1\n#a.js\n@\n-isValidName(a)\n+isValidName(a, valid_b)"
    assert flaw("Add isValidName", change) == "what it adds is not new"
    assert flaw("Add valid_b", change) == flaw("Add isValidName and valid_b", change) == ""
    assert flaw("Remove isValidName", change) == "what it removes is not gone"


def test_a_version_on_its_way_is_not_released() -> None:
    change = ' a.py +1 -1\n#a.py\n@\n-version = "2.0.1"\n+version = "2.0.2.dev0"'
    assert flaw("Release 2.0.2", change) == "a version that is not released yet"
    assert flaw("Start version 2.0.2.dev0", change) == ""


def test_an_issue_is_new_in_the_change_or_on_the_branch() -> None:
    assert flaw("Reword the notes (#34)", BUMPS) == ""
    assert flaw("Reword the notes (#12)", BUMPS) == "an issue that the change is not about"
    assert flaw("Reword the notes (#56)", BUMPS) == "an issue that the change is not about"
    assert flaw("Reword the notes (#56)", BUMPS, "fix-56") == ""


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("Update http.py", ""),
        ("Update https.py", "a file that is not changed"),
        ("Move to new_guide.md", ""),
        ("Update the readme", "a file that is not changed"),
        ("Explain it in the readme", ""),
        ("Use Options.Go", ""),
    ],
)
def test_a_file_that_is_named_is_changed(message: str, why: str) -> None:
    assert flaw(message, MOVES) == why


def test_a_typo_is_a_small_edit() -> None:
    assert flaw("Fix typo", BUMPS) == ""
    rewrites = " a.md +1 -1\n#a.md\n@\n-It does this and that.\n+Whatever else is needed comes later on."
    assert flaw("Fix typo", rewrites) == "no word is corrected"
    assert flaw("Fix a missing word", rewrites) == ""


def test_how_much_of_a_message_is_edited() -> None:
    view = ChangeView(MOVES)
    assert measure_edited_share("Add fallback", view) == 1.0
    assert measure_edited_share("Set fallback of options", view) == 0.5
    assert measure_edited_share("Change options", view) == 0.0
    assert measure_edited_share("Fix it", view) == 0.5, "nothing can be said"


@pytest.mark.parametrize(
    ("message", "vague"),
    [
        ("Update http.py", True),
        ("docs: update the new_guide.md", True),
        ("Fix tests", True),
        ("Update timeout in http.py", False),
        ("Add http.py", False),
    ],
)
def test_vague_messages_only_say_that_a_file_was_changed(message: str, vague: bool) -> None:
    assert is_vague(message, ChangeView(MOVES)) is vague
