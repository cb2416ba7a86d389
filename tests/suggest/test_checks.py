"""Which messages must not be offered for a change."""

import pytest

from gitpeft.suggest.change_view import ChangeView
from gitpeft.suggest.checks import find_ungrounded
from gitpeft.suggest.team_wording import TeamWording

REMOVES = (
    " src/chat.py +0 -3\n#src/chat.py\n@def nearby_name\n surrounding_call()"
    "\n-def chat():\n-    wait(30)\n-    pass"
)
EDITS = " src/a.py +1 -1\n#src/a.py\n@\n-retries = 3\n+retries = 1.2.3"
TEAM = TeamWording(["Prepare py3 wheel", "Build py3 wheel again", "Fix py3", "Add a wheel"])


def flaw(message: str, change: str = REMOVES, *, copied: bool = False, branch: str = "") -> str:
    return find_ungrounded(message, copied, ChangeView(change), TEAM, branch)


@pytest.mark.parametrize(
    ("message", "why"),
    [
        ("Add chat", "the verb is not what the change does"),
        ("docs: add chat", "the verb is not what the change does"),
        ("Remove chat", ""),
        ("Remove chat after 30 s", ""),
        ("Remove chat after 31 s", "a number that the change does not have"),
        ("Remove other_name", "a name the change does not have"),
        ("Change nearby_name", "a name from the surroundings only"),
        ("Change surrounding_call", "a name from the surroundings only"),
        ("src/chat.py", "a bare path"),
        ("chore: chat.py", "a bare path"),
        (" src/chat.py +0 -3", "a row of a diffstat"),
        ("only docs, added lines", "a line of the prompt"),
        ("Remove chat and remove chat and remove chat", "repeats itself"),
        ("Remove py3 chat", ""),
        ("Remove in-process chat", ""),
        ("Remove chat for Node.js", ""),
        ("Remove chat from node.js", "a file that is not changed"),
        ("Remove --quiet", "a name the change does not have"),
        ("Remove (-q chat)", ""),
        ("Remove (--quiet)", "a name the change does not have"),
    ],
)
def test_what_must_not_be_offered(message: str, why: str) -> None:
    assert flaw(message) == why


def test_a_version_stands_in_the_change_as_a_whole() -> None:
    assert flaw("Set retries to 1.2.3", EDITS) == ""
    assert flaw("Set retries to 1.3.2", EDITS) == "a number that the change does not have"


@pytest.mark.parametrize(
    ("message", "path", "line", "right"),
    [
        ("chore(deps): upgrade go.mod to v0.60.0", "go.mod", "github.com/quic-go/quic-go v", False),
        ("chore(deps): upgrade quic-go to v0.60.0", "go.mod", "github.com/quic-go/quic-go v", True),
        ("Update docker/Dockerfile to 0.60.0", "docker/Dockerfile", "FROM nginx:", False),
        ("Update nginx in docker/Dockerfile to 0.60.0", "docker/Dockerfile", "FROM nginx:", True),
        ("Update ripgrep to 0.60.0", "recipes/ripgrep", "FOO_VERSION=", True),
        ("Update jquery.js to 0.60.0", "web/jquery.js", "/* jquery.js ", True),
    ],
)
def test_a_file_is_not_what_a_line_in_it_sets(message: str, path: str, line: str, right: bool) -> None:
    change = f" {path} +1 -1\n#{path}\n@\n-{line}0.59.0\n+{line}0.60.0"
    assert flaw(message, change) == ("" if right else "the version of something else")


@pytest.mark.parametrize(
    ("message", "right"),
    [
        ("Update pyflakes to 3.2.0", True),
        ("build(deps): bump pyflakes from 3.1.0 to 3.2.0", True),
        ("update pyflakes version to v3.2.0", True),
        ("upgrade Flakes to 3.2", True),
        ("update pycodestyle to 3.2.0", False),
        ("Bump pycodestyle dependency from 3.1 to 3.2.0", False),
        ("Bump target to 3.2.0", True),
        ("Bump setup to 3.2.0", True),
        ("Bump setup.cfg to 3.2.0", False),
        ("Update linters to 3.2.0, drop pycodestyle", False),
        ("Update several things to 3.2.0", True),
    ],
)
def test_a_version_belongs_to_what_is_set_to_it(message: str, right: bool) -> None:
    change = " setup.cfg +1 -1\n#setup.cfg\n@\n pycodestyle==2.11.0\n-pyflakes>=3.1.0\n+pyflakes>=3.2.0"
    change += "\n+# pycodestyle stays"
    assert flaw(message, change) == ("" if right else "the version of something else")


def test_a_version_may_be_that_of_a_release_in_a_list_of_changes() -> None:
    change = " CHANGES.rst +1 -1\n#CHANGES.rst\n@Version 3.0.3\n-Unreleased\n+Released 2024-04-07"
    assert flaw("Release version 3.0.3", change) == flaw("Release v3.0.3", change) == ""
    assert flaw("Release version 3.0.2", change) == "a number that the change does not have"
    entry = " CHANGES.rst +1 -0\n#CHANGES.rst\n@Version 3.0.3\n+-   Fix the cache."
    pins = " requirements.txt +1 -1\n#requirements.txt\n@numpy==1.26.4\n-pandas==2.0.0\n+pandas==2.1.0"
    guide = " docs/guide.md +1 -0\n#docs/guide.md\n@2.3 Configuration\n+Since 2024-04-07 this is new."
    code = change.replace("CHANGES.rst", "src/changes.py")
    for other, message in (
        (entry, "Release version 3.0.3"),
        (pins, "Bump numpy to 1.26.4"),
        (guide, "Release 2.3"),
        (code, "Release version 3.0.3"),
    ):
        assert flaw(message, other) == "a number that the change does not have"


def test_a_version_alone_on_its_line_may_be_anybodys() -> None:
    change = " src/app.toml +1 -1\n#src/app.toml\n@\n-version = 3.1.0\n+version = 3.2.0"
    assert flaw("Bump the parser to 3.2.0", change) == ""


def test_a_copied_message_has_no_words_of_its_own() -> None:
    assert flaw("Drop the scheduler", copied=True) == "words of another commit"
    assert flaw("Drop the scheduler") == ""
    assert flaw("Drop the wheel of chat", copied=True) == "", "the team writes of wheels"


def test_the_branch_may_name_what_the_change_does_not() -> None:
    assert flaw("Remove chat for GH77", branch="gh77") != ""
    assert flaw("Remove chat for GH77", branch="fix-GH77") == ""


def test_a_rename_needs_two_sides() -> None:
    added = " a.py +1 -0\n#a.py\n@\n+x = 1"
    assert flaw("Rename x", added) == "the verb is not what the change does"
    assert flaw("Fix typo", added) == "no word is corrected"
    assert flaw("Bump x", " a.py +1 -0\n#a.py\n@\n+x = y") == "no version changes"


def test_a_version_may_be_written_with_or_without_its_v() -> None:
    change = " go.mod +1 -1\n#go.mod\n@\n-x/crypto v0.15.0\n+x/crypto v0.17.0"
    assert flaw("Upgrade crypto to 0.17.0", change) == flaw("Upgrade crypto to v0.17.0", change) == ""
    assert flaw("Upgrade crypto to v0.17.2", change) == "a number that the change does not have"


@pytest.mark.parametrize("message", ["Release 1.1.1", "Support 2.2.x", "Set retries to 1.1"])
def test_the_numbers_of_a_version_are_no_repetition(message: str) -> None:
    assert flaw(message, EDITS.replace("1.2.3", "1.1.1 2.2.x 1.1")) == ""


@pytest.mark.parametrize(
    "message",
    [
        "Rename retries to retries",
        "Use `retries` instead of retries",
        "retries -> retries",
        "Test 1.2.3 and 1.2.3",
    ],
)
def test_a_thing_does_not_become_itself(message: str) -> None:
    assert flaw(message, EDITS) == "repeats itself"
    assert flaw("Rename retries to retries_left", EDITS + "\n+retries_left = 3") == ""


def test_a_version_is_never_fixed_wording() -> None:
    wording = TeamWording(["Release 1.2.0"] * 4 + ["Build for py3"] * 4)
    view = ChangeView(EDITS)
    assert find_ungrounded("Release 1.2.0", False, view, wording) == "a number that the change does not have"
    assert find_ungrounded("Build for py3", False, view, wording) == ""
