"""The conversation of `gitpeft commit`, played from a list of answers; the commits are real."""

import sys
from pathlib import Path

import pytest

from gitpeft.config import Config
from gitpeft.errors import GitpeftError
from tests.support import standin
from tests.support.conversation import Person, talk
from tests.support.gitrepo import Repo
from tests.support.hooking import OTHER, SUGGESTION, THIRD, Hooked, script


@pytest.fixture
def hooked(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hooked:
    repo.commit("Start", **{"README": "hello\n"})
    monkeypatch.setitem(sys.modules, "gitpeft.suggest.suggester", standin)
    hooked = Hooked.create(repo, sys.executable, tmp_path / "tools")
    hooked.stage()
    return hooked


@pytest.mark.parametrize(
    ("word", "message"), [("1", SUGGESTION), ("", SUGGESTION), ("2", OTHER), (" 3 ", THIRD)]
)
def test_a_number_commits_that_message(hooked: Hooked, word: str, message: str) -> None:
    outcome = talk(hooked, Person(word))
    assert (outcome.action, outcome.message) == ("committed", message)
    assert hooked.message() == message and outcome.sha == hooked.repo.git("rev-parse", "HEAD")
    assert not list(hooked.state.glob("message-*"))


def test_e_opens_the_editor_of_git(hooked: Hooked, tmp_path: Path) -> None:
    hooked.env["EDIT_WITH"] = 'echo "and more" >>"$file"'
    outcome = talk(hooked, Person("e2"))
    assert outcome.action == "committed" and hooked.seen().startswith(OTHER)
    assert hooked.message().startswith(OTHER) and hooked.message().endswith("and more")


@pytest.mark.parametrize(("word", "code"), [("q", 0), (EOFError(), 130), (KeyboardInterrupt(), 130)])
def test_leaving_commits_nothing(hooked: Hooked, word: str | BaseException, code: int) -> None:
    before, person = hooked.repo.git("status", "--porcelain"), Person(word)
    outcome = talk(hooked, person)
    assert (outcome.action, outcome.code) == ("cancelled", code)
    assert (person.heard[-1] == "") is (code == 130), "the prompt's line is ended"
    assert hooked.message() == "Start" and hooked.repo.git("status", "--porcelain") == before


def test_i5_m_shows_more_and_says_when_there_are_no_more(hooked: Hooked) -> None:
    person = Person("m", "m", "m", "3")
    talk(hooked, person, Config(alternatives=0))
    first, second, third = (text.splitlines()[0] for text in standin.MESSAGES)
    _, *heard = [line.split("\n")[0] for line in person.heard]
    assert heard == [f"> 1  {first}", f"  2  {second}", f"  3  {third}", "No more suggestions."]
    assert hooked.message() == THIRD


def test_b_goes_back_and_numbers_stay(hooked: Hooked) -> None:
    person = Person("m", "b", "2")
    talk(hooked, person, Config(alternatives=0))
    assert person.heard[1].lstrip("> ") == person.heard[3].lstrip()
    assert "[b] back" in person.prompts[1]
    assert "[b] back" not in person.prompts[0] + person.prompts[2]
    assert hooked.message() == OTHER


def test_return_commits_nothing_once_more_were_asked_for(hooked: Hooked) -> None:
    person = Person("m", "", "b", "", "q")
    assert talk(hooked, person, Config(alternatives=0)).action == "cancelled"
    assert sum(line.startswith("Enter ") for line in person.heard) == 2


def test_what_is_staged_is_shown_first(hooked: Hooked) -> None:
    person = Person("q")
    talk(hooked, person)
    assert [line.split()[0] for line in person.heard[0].splitlines()] == ["parser.py"]
    assert "+" in person.heard[0]


def test_an_editor_that_fails_leads_back_to_the_list(hooked: Hooked) -> None:
    """As `:cq` in vim does."""
    hooked.env["EDIT_WITH"] = "exit 1"
    person = Person("e1", "2")
    outcome = talk(hooked, person)
    assert "Not committed." in person.heard and (outcome.action, hooked.message()) == ("committed", OTHER)


def test_options_go_to_git(hooked: Hooked) -> None:
    assert talk(hooked, Person("1"), options=["--signoff"]).action == "committed"
    assert hooked.message().startswith(f"{SUGGESTION}\n\nSigned-off-by: ")


def test_i5_the_same_change_is_offered_the_same_messages(hooked: Hooked) -> None:
    heard = []
    for _ in range(2):
        person = Person("q")
        talk(hooked, person)
        heard.append(person.heard)
    assert heard[0] == heard[1]


@pytest.mark.parametrize("word", ["0", "9", "e9", "x", "1; rm", "١"])
def test_a_word_that_means_nothing_is_asked_again(hooked: Hooked, word: str) -> None:
    person = Person(word, "q")
    assert talk(hooked, person).action == "cancelled" and "Enter 1-3" in person.heard[-1]


@pytest.mark.parametrize("what", ["index", "head"])
def test_a_change_meanwhile_stops_it(hooked: Hooked, what: str) -> None:
    class Meddler(Person):
        def ask(self, prompt: str) -> str:
            if what == "index":
                hooked.repo.stage(other="o\n")
            else:
                hooked.repo.git("commit", "-q", "--allow-empty", "--only", "-m", "Meanwhile")
            return super().ask(prompt)

    with pytest.raises(GitpeftError, match="moved"):
        talk(hooked, Meddler("1"))
    assert hooked.message() in ("Start", "Meanwhile")


def test_nothing_staged_and_no_model(hooked: Hooked) -> None:
    (hooked.state / "current").unlink()
    with pytest.raises(GitpeftError, match="no model"):
        talk(hooked, Person("1"))
    hooked.claim_model()
    hooked.repo.git("reset", "-q")
    with pytest.raises(GitpeftError, match="nothing is staged"):
        talk(hooked, Person("1"))


@pytest.mark.parametrize("what", ["merge", "cherry-pick", "squash"])
def test_a_message_that_git_has_already_is_not_replaced(hooked: Hooked, what: str) -> None:
    repo = hooked.repo
    repo.git("stash", "-q")
    repo.git("checkout", "-q", "-b", "side")
    repo.commit("Explain the very important reason", README="side\n")
    repo.git("checkout", "-q", "main")
    repo.commit("Other", README="main\n")
    repo.run(*{"squash": ["merge", "--squash", "side"]}.get(what, [what, "side"]))
    repo.write("README", "both\n")
    repo.git("add", "README")
    with pytest.raises(GitpeftError, match="in progress"):
        talk(hooked, Person("1"))


@pytest.mark.parametrize(("word", "edit"), [("1", False), ("e1", True)])
def test_b4_b11_the_file_is_in_the_encoding_and_with_the_comments_of_this_repository(
    hooked: Hooked, monkeypatch: pytest.MonkeyPatch, word: str, edit: bool
) -> None:
    hooked.repo.git("config", "i18n.commitEncoding", "ISO-8859-1")
    hooked.repo.git("config", "core.commentChar", ";")
    monkeypatch.setenv("STANDIN", "say:;numéro|Plain")
    person = Person(word)
    assert talk(hooked, person).action == "committed"
    assert hooked.message() == "numéro"
    assert (hooked.tools / "seen").exists() is edit


def test_a_commit_that_a_hook_refuses_is_reported(hooked: Hooked) -> None:
    script(hooked.repo.path / ".git/hooks/commit-msg", "#!/bin/sh\nexit 1\n")
    outcome = talk(hooked, Person("1"))
    assert (outcome.action, outcome.code) == ("failed", 1) and hooked.message() == "Start"
    assert not list(hooked.state.glob("message-*"))


def test_f5_what_is_said_cannot_command_the_terminal(hooked: Hooked, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("STANDIN", "say:\x1b[2Jred|Plain")
    person = Person("q")
    talk(hooked, person)
    assert person.heard[1:] == ["> 1  Plain"]
