"""A person who talks with `gitpeft commit`, from a list of answers; the commits are real."""

from collections.abc import Sequence

from gitpeft.cli.interactive import CommitOutcome, CommitTools, Terminal, commit_interactively
from gitpeft.config import Config, load_config
from gitpeft.git.repository import Repository
from tests.support.hooking import Hooked


class Person:
    """Says the given words, one after the other; an Exception among them is raised."""

    def __init__(self, *words: str | BaseException) -> None:
        self.words = list(words)
        self.heard: list[str] = []
        self.prompts: list[str] = []

    def ask(self, prompt: str) -> str:
        self.prompts.append(prompt)
        word = self.words.pop(0) if self.words else EOFError()
        if isinstance(word, BaseException):
            raise word
        return word


def talk(
    hooked: Hooked, person: Person, config: Config | None = None, options: Sequence[str] = ()
) -> CommitOutcome:
    repo = Repository.open(hooked.repo.path)

    def run(args: Sequence[str]) -> int:
        return hooked.repo.run(*args, env=hooked.env).returncode

    return commit_interactively(
        repo,
        config or load_config(repo),
        Terminal(person.heard.append, person.ask),
        CommitTools(run, options),
    )
