"""The command risk."""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated

import typer

from gitpeft.cli import options
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository

if TYPE_CHECKING:
    from gitpeft.history.store import History
    from gitpeft.risk.assessor import RiskAssessor, RiskReport, TrainModel
    from gitpeft.risk.model import RiskModel


def risk(
    rev: options.RevArgument = None,
    staged: Annotated[bool, typer.Option("--staged", help="Assess what is staged (the default).")] = False,
    stdin: Annotated[bool, typer.Option("--stdin", help="Assess the revisions on standard input.")] = False,
    all_: options.AllOption = False,
    format_: Annotated[
        str,
        options.make_choice_option(
            "--format", choices=("text", "json", "sarif", "github"), help="How to print the results."
        ),
    ] = "text",
    as_json: Annotated[bool, typer.Option("--json", help="The same as --format json.")] = False,
    until: Annotated[
        str | None, typer.Option("--until", metavar="REV", help="Use only what was known at this commit.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show the metrics and what each adds.")] = False,
    fail_above: Annotated[
        float | None,
        typer.Option(
            "--fail-above", min=0, max=100, metavar="PERCENTILE",
            help="Exit with 1 if a change is above this percentile, or has no score.",
        ),
    ] = None,
    quiet_below: Annotated[
        float | None,
        typer.Option(
            "--quiet-below", min=0, max=100, metavar="PERCENTILE",
            help="Call changes below this percentile quiet; it only lowers the limit that held later on.",
        ),
    ] = None,
    repo: options.RepoOption = None,
) -> None:  # fmt: skip
    """Explain what makes a change risky.

    The percentile is the change's place among the recent commits of this repository. By default the riskiest
    tenth is flagged (`git config gitpeft.riskBudget`). The report never names a person. What was looked at
    can be dismissed: see `gitpeft risk dismiss --help`.
    """
    options.check_one_source(rev, staged, stdin, all_)
    if as_json and format_ not in ("text", "json"):
        raise typer.BadParameter(f"--json contradicts --format {format_}")
    from gitpeft.cli import risk_report

    repository = Repository.open(repo)
    lowest = 100.0 if quiet_below is None else quiet_below
    reports = _assess_changes(repository, _Source(rev, stdin, all_), until, lowest)
    annotated = quiet_below is not None
    printer = risk_report.make_printer(repository, "json" if as_json else format_, explain, annotated)
    limit = risk_report.PercentileLimit(fail_above)
    for report in reports:
        limit.check(report)
        printer.show(report)
    printer.finish(limit)
    limit.enforce()


@dataclass(frozen=True, slots=True)
class _Source:
    """What to assess: a revision, those on standard input, all commits, or what is staged."""

    rev: str | None
    stdin: bool
    all: bool


def _assess_changes(
    repository: Repository, source: _Source, until: str | None, quiet_below: float
) -> "Iterator[RiskReport]":
    """Reports for what was asked for; with `until`, by a model of what was known then."""
    from gitpeft import config
    from gitpeft.risk import assessor

    settings = config.load_config(repository)
    train = None if until is None else _make_model_trainer(repository, until)
    if source.all:
        yield from assessor.assess_commits(repository, settings, repository.list_tips(), train, quiet_below)
    elif not source.stdin:
        yield from assessor.assess_revision(repository, settings, source.rev, train, quiet_below)
    else:
        with assessor.open_assessor(repository, settings, (), train, quiet_below) as opened:
            yield from _assess_from_stdin(opened)


def _make_model_trainer(repository: Repository, until: str) -> "TrainModel":
    tip = repository.resolve_commit(until)

    def train(history: "History") -> "RiskModel":
        from gitpeft.learn.risk import selection

        history.mine_commits(repository, tip)
        return selection.train_from_history(history, repository, tip)

    return train


def _assess_from_stdin(assessor: "RiskAssessor") -> "Iterator[RiskReport]":
    from gitpeft.risk.assessor import RiskReport

    failed = 0
    for rev in options.read_revisions():
        try:
            yield assessor.assess_commit(rev)
        except GitpeftError as error:
            failed += 1
            yield RiskReport(rev, why=error.message)
    if failed:
        raise options.make_failures_error(failed)
