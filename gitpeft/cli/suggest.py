"""Commands that suggest messages: suggest, commit."""

import os
import shutil
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gitpeft.cli import console, options
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository, names_one_commit

if TYPE_CHECKING:
    from gitpeft.config import Config
    from gitpeft.suggest.service import Offer
    from gitpeft.suggest.suggestion import Suggestion

SUGGEST_SECONDS = 20.0
"""Time for suggestions that somebody asked for and waits for."""


def suggest(
    rev: options.RevArgument = None,
    staged: Annotated[bool, typer.Option("--staged", help="For what is staged (the default).")] = False,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="For the revisions on standard input, a line each; prints JSON.")
    ] = False,
    all_: options.AllOption = False,
    number: Annotated[
        int | None,
        typer.Option(
            "-n", metavar="N", min=1, max=20,
            help="Suggestions at most; default: as in the hook (1 + gitpeft.alternatives).",
        ),
    ] = None,
    repo: options.RepoOption = None,
    as_json: options.JsonOption = False,
) -> None:  # fmt: skip
    """Print suggestions for staged changes or a commit.

    The commit's own message is never looked at, and only earlier commits serve as examples. For staged
    changes nothing is shown that scores below gitpeft.minScore, as in the hook; for a commit everything is.
    """
    options.check_one_source(rev, staged, stdin, all_)
    from gitpeft import config

    repository = Repository.open(repo)
    settings = config.load_config(repository)
    wanted = number or 1 + settings.alternatives
    if stdin:
        _print_json_lines(_answer_each(repository, settings, options.read_revisions(), wanted))
    elif (revs := _list_several(repository, rev, all_)) is not None:
        answers = _answer_each(repository, settings, revs, wanted)
        _print_json_lines(answers) if as_json else _print_each(repository, answers)
    else:
        answer = _suggest_for_one(repository, settings, rev, wanted)
        if as_json:
            console.print_json(answer.as_dict(), indent=None)
        elif not answer.suggestions:
            from gitpeft.cli.interactive import make_nothing_offered_error

            raise make_nothing_offered_error(answer.offer)
        else:
            print("\n".join(one.message for one in answer.suggestions))


@dataclass(frozen=True, slots=True)
class _Answer:
    """Suggestions for a revision (or "staged"), or the error instead, and the milliseconds that it took."""

    rev: str
    offer: "Offer | None" = None
    ms: float = 0.0
    error: str = ""

    @property
    def suggestions(self) -> "list[Suggestion]":
        return self.offer.suggestions if self.offer else []

    def as_dict(self) -> dict[str, Any]:
        """For JSON, where scores are 0 to 100."""
        if self.error:
            return {"rev": self.rev, "error": self.error}
        offers = [asdict(one) | {"score": round(100 * one.score, 1)} for one in self.suggestions]
        return {"rev": self.rev, "suggestions": offers, **self._explain_absence(), "ms": self.ms}

    def _explain_absence(self) -> dict[str, Any]:
        """Why there is no suggestion, and the best score of what was withheld."""
        if self.offer is None or self.suggestions:
            return {}
        best = self.offer.best_score
        return {"why": self.offer.reason} | ({} if best is None else {"best_score": round(100 * best, 1)})


def _suggest_for_one(repository: Repository, settings: "Config", rev: str | None, wanted: int) -> _Answer:
    """For what is staged (`rev` is None) the same as in the hook; for a commit as it would have been."""
    from gitpeft.suggest import service
    from gitpeft.suggest.suggester import open_active_suggester
    from gitpeft.trace import HookTrace

    start = time.perf_counter()
    if rev is None:
        limits = service.SuggestionLimits(time.monotonic() + SUGGEST_SECONDS, settings.memory_mb)
        offer = service.suggest_for_staged(repository, settings, limits, HookTrace(), wanted=wanted)
    else:
        suggester = open_active_suggester(repository.state_dir)
        offer = service.suggest_for_commit(repository, settings, suggester, rev, wanted)
    return _Answer(rev or "staged", offer, round(1000 * (time.perf_counter() - start), 1))


def _answer_each(
    repository: Repository, settings: "Config", revs: Iterable[str], wanted: int
) -> Iterator[_Answer]:
    """An answer for each revision; one that fails does not stop the others."""
    from gitpeft.suggest import service
    from gitpeft.suggest.suggester import open_active_suggester

    suggester = open_active_suggester(repository.state_dir)
    ask = partial(service.suggest_for_commit, repository, settings, suggester)
    for rev in revs:
        start = time.perf_counter()
        try:
            offer = ask(rev, wanted)
            yield _Answer(rev, offer, round(1000 * (time.perf_counter() - start), 1))
        except GitpeftError as error:
            yield _Answer(rev, error=error.message)


def _list_several(repository: Repository, rev: str | None, all_: bool) -> list[str] | None:
    """The commits of a range, or all; None for a single commit and for what is staged."""
    if all_:
        return repository.list_range_commits(repository.list_tips())
    named = [] if rev is None else repository.resolve_revisions(rev)
    return None if not named or names_one_commit(named) else repository.list_range_commits(named)


def _print_json_lines(answers: Iterable[_Answer]) -> None:
    """A line of JSON for each answer. GitpeftError at the end where some are errors."""
    failed = 0
    for answer in answers:
        failed += bool(answer.error)
        console.print_json(answer.as_dict(), indent=None)
    if failed:
        raise options.make_failures_error(failed)


def _print_each(repository: Repository, answers: Iterable[_Answer]) -> None:
    """Each commit with its suggestions below."""
    for answer in answers:
        console.print_line(console.name_commit(repository, answer.rev))
        for message in [one.message for one in answer.suggestions] or [answer.error or "(no suggestion)"]:
            print("\n".join(f"    {line}" for line in message.splitlines()), flush=True)


def commit(
    all_: Annotated[
        bool, typer.Option("--all", "-a", help="Include all changed tracked files, as git commit -a.")
    ] = False,
    signoff: Annotated[bool, typer.Option("--signoff", "-s", help="Add a Signed-off-by trailer.")] = False,
    verbose: Annotated[
        bool, typer.Option("--verbose", "-v", help="Show the diff in the editor, as git commit -v.")
    ] = False,
    repo: options.RepoOption = None,
) -> None:
    """Pick a suggested message and commit.

    A message can be edited before the commit. Exits with 0 only if there is a new commit.
    """
    from gitpeft import config
    from gitpeft.cli import interactive

    repository = Repository.open(repo)
    flags = {"--all": all_, "--signoff": signoff, "--verbose": verbose}
    given = [flag for flag, wanted in flags.items() if wanted]
    terminal = interactive.Terminal(say=print, ask=input)
    with _stage_tracked_files(repository) if all_ else nullcontext(repository) as staged:
        refresh = partial(staged.run, "add", "--update", ":/") if all_ else lambda: None
        tools = interactive.CommitTools(repository.run_with_terminal, given, refresh)
        done = interactive.commit_interactively(staged, config.load_config(repository), terminal, tools)
    if done.action != "committed":  # a script that goes on must not take a cancelled one for a commit
        raise typer.Exit(done.code or 1)


@contextmanager
def _stage_tracked_files(repository: Repository) -> Iterator[Repository]:
    """The repository with an index of its own, in which tracked files can be staged without a commitment."""
    index = repository.git_dir / "index"
    copy = repository.state_dir / f"index-{os.getpid()}"
    try:
        repository.state_dir.mkdir(parents=True, exist_ok=True)
        if index.exists():
            shutil.copyfile(index, copy)
        yield replace(repository, environment={**repository.environment, "GIT_INDEX_FILE": str(copy)})
    finally:
        copy.unlink(missing_ok=True)
