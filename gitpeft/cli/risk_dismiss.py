"""The command `risk dismiss`: warnings that were looked at."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gitpeft.cli import console, options
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository

if TYPE_CHECKING:
    from gitpeft.risk.dismissal_target import Target
    from gitpeft.risk.dismissals import Dismissal


def dismiss(
    target: Annotated[
        str | None,
        typer.Argument(
            metavar="PATH|FUNCTION",
            help="A file, a function as the evidence prints it, or PATH:FUNCTION; default: the code files of "
            "what is staged.",
        ),
    ] = None,
    why: Annotated[str | None, typer.Option("--why", metavar="TEXT", help="The reason; required.")] = None,
    days: Annotated[
        int, typer.Option("--days", metavar="N", min=1, max=365, help="For how long at most.")
    ] = 180,
    share: Annotated[
        bool,
        typer.Option("--share", help="Write to .gitpeft-dismissed.toml, which you commit for your team."),
    ] = False,
    listed: Annotated[bool, typer.Option("--list", help="List what is dismissed and what ended.")] = False,
    undo: Annotated[bool, typer.Option("--undo", help="Remove the dismissal of this target.")] = False,
    repo: options.RepoOption = None,
    as_json: options.JsonOption = False,
) -> None:  # fmt: skip
    """Dismiss the risk warning of a file or function.

    A change is not flagged if, in each of its code files, the file or every function that it changes is
    dismissed. Changes made up to 30 days before are covered, too. JSON, SARIF and GitHub's format still show
    it, with the reason. A dismissal ends after --days (180), and at
    once when a bug fix changes the file or function after the dismissed change. What was dismissed and needed
    a fix is listed by `gitpeft backtest`.
    """
    _check_usage(target, why, share, listed, undo)
    repository = Repository.open(repo)
    if listed:
        _show(_find_states(repository), as_json, "Nothing is dismissed here.")
        return
    if undo:
        _show(_undo(repository, target), as_json, "", "no longer dismissed")
        return
    made, place = _dismiss(repository, target, (why or "").strip(), days, share)
    if as_json:
        console.print_json({"file": str(place), "dismissals": [one.as_dict() for one in made]})
        return
    for one in made:
        print(
            console.wrap_text(f"Dismissed until {one.last_day}, or the first fix in it: {one.name}", "  ", "")
        )
    if share:
        print(f"Commit {place.name} to share it.")


def _check_usage(target: str | None, why: str | None, share: bool, listed: bool, undo: bool) -> None:
    if listed and (target is not None or undo or why is not None or share):
        raise typer.BadParameter("--list takes no target and no other option")
    if undo and (why is not None or share):
        raise typer.BadParameter("--undo takes only a target")
    if not listed and not undo and not (why or "").strip():
        raise typer.BadParameter('say why: --why "covered by tests"', param_hint="'--why'")


# --- dismissing ---------------------------------------------------------------------------------------------


def _dismiss(
    repository: Repository, target: str | None, why: str, days: int, share: bool
) -> "tuple[list[Dismissal], Path]":
    """The new entries, and the file they are in. One that is open for the same target is renewed."""
    from gitpeft.redaction import mask_secrets
    from gitpeft.risk import dismissal_target, dismissals
    from gitpeft.terminal import format_as_line

    if len(why) > dismissals.MAX_WHY_LENGTH:
        raise GitpeftError(
            f"the reason has {len(why)} characters",
            f"use at most {dismissals.MAX_WHY_LENGTH}, without details",
        )
    if target is None:
        wanted = dismissal_target.list_staged_targets(repository)
    else:
        wanted = [dismissal_target.resolve_target(repository, target)]
    staged, now = dismissal_target.list_staged_paths(repository), repository.read_commit_time()
    until = dismissals.find_last_moment(now, days)
    reason = mask_secrets(format_as_line(why))[: dismissals.MAX_WHY_LENGTH]  # a mask may be longer
    made = [
        dismissals.Dismissal(path, function, reason, now, until, path in staged, share)
        for path, function in wanted
    ]
    renewed = [
        one.entry
        for one in _find_states(repository)
        if one.is_open and one.entry.target in wanted and one.entry.shared == share
    ]
    change = dismissals.change_shared_dismissals if share else dismissals.change_own_dismissals
    return made, change(repository, now, made, renewed)


# --- list and undo ------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class _State:
    """A dismissal, and why it ended, "" while it is open."""

    entry: "Dismissal"
    end: str

    @property
    def is_open(self) -> bool:
        return not self.end

    def as_dict(self) -> dict[str, object]:
        return self.entry.as_dict() | {"open": self.is_open, "end": self.end}


def _find_states(repository: Repository) -> list[_State]:
    """All dismissals at this moment; problems of the files go to standard error."""
    from gitpeft.risk import dismissals

    now = repository.read_commit_time()
    found = dismissals.load_dismissals(repository, now)
    for problem in found.problems:
        console.print_notice(problem)
    ends = _find_ends(repository, [one for one in found.entries if one.until >= now], now)
    return [
        _State(one, f"its days ended on {one.last_day}" if one.until < now else ends.get(one, ""))
        for one in found.entries
    ]


def _find_ends(repository: Repository, entries: "Sequence[Dismissal]", now: int) -> "dict[Dismissal, str]":
    """The dismissals that ended with a fix, as far as the history is read."""
    if not entries or not (repository.state_dir / "history.db").exists():
        return {}
    from gitpeft.history.store import History
    from gitpeft.risk.dismissal_cover import find_ending_fix
    from gitpeft.risk.dismissals import format_day

    ends = {}
    with (
        History.open(repository.state_dir) as history,
        history.context_before(repository, repository.resolve_head()) as context,
    ):
        for one in entries:
            fix = find_ending_fix(one, context.load_earlier_changes(one.path), now)
            if fix is not None:
                ends[one] = f"a fix changed it on {format_day(fix.time)}"
    return ends


def _undo(repository: Repository, target: str | None) -> list[_State]:
    """Remove the dismissals of a target (those of the staged change by default); what was removed."""
    from gitpeft.risk import dismissal_target, dismissals

    states = _find_states(repository)
    named = [one for one in states if target in (one.entry.name, one.entry.function or one.entry.path)]
    if not named:
        if target is None:
            wanted: Iterable[Target] = dismissal_target.list_staged_targets(repository)
        else:
            wanted = [dismissal_target.resolve_target(repository, target)]
        named = [one for one in states if one.entry.target in wanted]
    if not named:
        raise GitpeftError("there is no such dismissal", "gitpeft risk dismiss --list")
    now = repository.read_commit_time()
    for shared, change in (
        (False, dismissals.change_own_dismissals),
        (True, dismissals.change_shared_dismissals),
    ):
        if entries := [one.entry for one in named if one.entry.shared == shared]:
            change(repository, now, [], entries)
    return named


def _show(states: Sequence[_State], as_json: bool, nothing: str, verb: str = "") -> None:
    if as_json:
        console.print_json([one.as_dict() for one in states])
        return
    if not states:
        print(nothing)
    for one in states:
        entry = one.entry
        print(console.wrap_text(entry.name, "  ", ""))
        print(console.wrap_text(entry.why, "  ", "  "))
        place = " (in the shared file)" if entry.shared else ""
        print(f"  {verb or one.end or f'until {entry.last_day}, or the first fix in it'}{place}")
