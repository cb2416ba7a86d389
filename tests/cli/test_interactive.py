"""The conversation of `gitpeft commit`, played from a list of answers; the commits are real."""

import sys
from collections.abc import Sequence
from pathlib import Path

import pytest

from gitpeft.cli.interactive import CommitOutcome, Terminal, commit_interactively
from gitpeft.config import Config, load_config
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from tests.support import standin
from tests.support.gitrepo import Repo
from tests.support.hooking import OTHER, SUGGESTION, THIRD, Hooked, script


@pytest.fixture
def hooked(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Hooked:
    repo.commit("Start", **{"README": "hello\n"})
    monkeypatch.setitem(sys.modules, "gitpeft.suggest.suggester", standin)
    hooked = Hooked.create(repo, sys.executable, tmp_path / "tools")
    hooked.stage()
    return hooked


class Person:
    """Says the given words, one after the other; an Exception among them is raised."""

    def __init__(self, *words: str | BaseException) -> None:
        self.words = list(words)
        self.heard: list[str] = []

    def ask(self, _: str) -> str:
        word = self.words.pop(0) if self.words else EOFError()
        if isinstance(word, BaseException):
            raise word
        return word


def talk(hooked: Hooked, person: Person, config: Config | None = None) -> CommitOutcome:
    repo = Repository.open(hooked.repo.path)

    def run(args: Sequence[str]) -> int:
        return hooked.repo.run(*args, env=hooked.env).returncode

    return commit_interactively(
        repo, config or load_config(repo), Terminal(person.heard.append, person.ask), run
    )


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


@pytest.mark.parametrize("word", ["q", EOFError(), KeyboardInterrupt()])
def test_leaving_commits_nothing(hooked: Hooked, word: str | BaseException) -> None:
    before = hooked.repo.git("status", "--porcelain")
    assert talk(hooked, Person(word)).action == "cancelled"
    assert hooked.message() == "Start" and hooked.repo.git("status", "--porcelain") == before


def test_i5_r_shows_others_and_says_when_there_are_none(hooked: Hooked) -> None:
    person = Person("r", "r", "r", "1")
    talk(hooked, person, Config(alternatives=0))
    first, second, third = (f"1  {text.splitlines()[0]}" for text in standin.MESSAGES)
    heard = [line.split("\n")[0] for line in person.heard]
    assert heard == [first, second, third, "There are no others.", third]
    assert hooked.message() == THIRD


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
    assert talk(hooked, person).action == "cancelled" and "Please say" in person.heard[-1]


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
    with pytest.raises(GitpeftError, match="under way"):
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
    assert person.heard == ["1  Plain"]
