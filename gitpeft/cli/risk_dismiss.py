"""The command `risk dismiss`: warnings that were looked at."""

from collections.abc import Sequence
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
    dismissed. Changes made up to 30 days before are covered, too, older ones are not. JSON, SARIF and
    GitHub's format still show it, with the reason. A dismissal ends after --days (180), and at once when a
    bug fix changes the file or function after the dismissed change. What was dismissed and needed a fix is
    listed by `gitpeft backtest`.
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
    coverage = _find_coverage(repository, made)
    if as_json:
        console.print_json({"file": str(place), "dismissals": [one.as_dict() for one in coverage]})
        return
    for one in coverage:
        console.print_line(f"Dismissed until {one.entry.last_day}, or the first fix in it: {one.entry.name}")
        if said := one.describe():
            console.print_line(f"  {said}")
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
    from gitpeft.history.paths import mask_path
    from gitpeft.redaction import mask_secrets
    from gitpeft.risk import dismissal_target, dismissals
    from gitpeft.terminal import format_as_line

    if len(why) > dismissals.MAX_WHY_LENGTH:
        raise GitpeftError(
            f"the reason has {len(why)} characters",
            f"use at most {dismissals.MAX_WHY_LENGTH}, without details",
        )
    files, now = dismissal_target.read_staged_files(repository), repository.read_commit_time()
    if target is None:
        wanted = dismissal_target.choose_staged_targets(files)
    else:
        wanted = [dismissal_target.resolve_target(repository, target)]
    staged = frozenset(map(mask_path, files))
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


@dataclass(frozen=True, slots=True)
class _Coverage:
    """A new dismissal, and the moment of the newest commit of its target (None where that is unknown)."""

    entry: "Dismissal"
    last: int | None

    @property
    def is_last_covered(self) -> bool:
        from gitpeft.risk.dismissal_cover import find_first_moment

        return self.last is not None and self.last >= find_first_moment(self.entry)

    def describe(self) -> str:
        """Whether the last commit of the target is covered; "" where a staged change is what is dismissed."""
        from gitpeft.risk.dismissal_cover import REVIEW_DAYS, find_first_moment
        from gitpeft.risk.dismissals import format_day

        first = format_day(find_first_moment(self.entry))
        if self.entry.staged:
            return ""
        if self.last is None:
            return f"Changes from before {first} are not covered."
        day = format_day(self.last)
        if self.is_last_covered:
            return f"Its last commit, of {day}, is covered, like all since {first}."
        return (
            f"Its last commit, of {day}, is not covered: it is older than {REVIEW_DAYS} days. Later ones are."
        )

    def as_dict(self) -> dict[str, object]:
        covered = None if self.last is None else self.is_last_covered
        return self.entry.as_dict() | {"last_commit_covered": covered}


def _find_coverage(repository: Repository, made: "Sequence[Dismissal]") -> list[_Coverage]:
    from gitpeft.history.store import open_context_at_head
    from gitpeft.risk.dismissal_cover import find_last_change

    try:
        with open_context_at_head(repository) as context:
            if context is None:
                return [_Coverage(one, None) for one in made]
            changes = [find_last_change(one, context.load_earlier_changes(one.path)) for one in made]
    except GitpeftError:  # the dismissal is made all the same
        return [_Coverage(one, None) for one in made]
    return [_Coverage(one, found.time if found else None) for one, found in zip(made, changes, strict=True)]


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
    if not entries:
        return {}
    from gitpeft.history.store import open_context_at_head
    from gitpeft.risk.dismissal_cover import find_ending_fix
    from gitpeft.risk.dismissals import format_day

    ends = {}
    with open_context_at_head(repository) as context:
        for one in entries:
            fix = context and find_ending_fix(one, context.load_earlier_changes(one.path), now)
            if fix:
                ends[one] = f"a fix changed it on {format_day(fix.time)}"
    return ends


def _undo(repository: Repository, target: str | None) -> list[_State]:
    """Remove the dismissals of a target (those of the staged change by default); what was removed."""
    from gitpeft.risk import dismissals

    named = _find_named(repository, target)
    now = repository.read_commit_time()
    for shared, change in (
        (False, dismissals.change_own_dismissals),
        (True, dismissals.change_shared_dismissals),
    ):
        if entries := [one.entry for one in named if one.entry.shared == shared]:
            change(repository, now, [], entries)
    return named


def _find_named(repository: Repository, target: str | None) -> list[_State]:
    """The dismissals of a target as `--list` names it, or as it was dismissed."""
    from gitpeft.risk import dismissal_target
    from gitpeft.risk.dismissals import name_target

    states = _find_states(repository)
    named = [one for one in states if target in (one.entry.name, one.entry.function or one.entry.path)]
    if named:
        return named
    wanted: list[Target] = (
        dismissal_target.choose_staged_targets(dismissal_target.read_staged_files(repository))
        if target is None
        else [dismissal_target.resolve_target(repository, target)]
    )
    if named := [one for one in states if one.entry.target in wanted]:
        return named
    names = ", ".join(map(name_target, wanted))
    raise GitpeftError(f"not dismissed: {names}", "see what is: gitpeft risk dismiss --list")


def _show(states: Sequence[_State], as_json: bool, nothing: str, verb: str = "") -> None:
    if as_json:
        console.print_json([one.as_dict() for one in states])
        return
    if not states:
        print(nothing)
    for one in states:
        entry = one.entry
        console.print_line(entry.name)
        print(console.wrap_text(entry.why, "  ", "  "))
        place = " (in the shared file)" if entry.shared else ""
        console.print_line(f"  {verb or one.end or f'until {entry.last_day}, or the first fix in it'}{place}")
