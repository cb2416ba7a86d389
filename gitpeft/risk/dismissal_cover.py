"""Which dismissals count for a change, and which have ended.

A dismissal counts for changes of its file or function from `REVIEW_DAYS` before it was made, so that a commit
that is in review can be dismissed, up to its last day. It ends earlier with the first bug fix there after the
dismissed change: then the warning was right.
"""

from collections.abc import Iterable, Sequence
from typing import Protocol

from gitpeft.history.context import EarlierChange, MeasuredChange, TouchedFile, hash_function_heading
from gitpeft.lazy import lazy_dataclass
from gitpeft.risk.change_metrics import DAY_SECONDS, is_code_file
from gitpeft.risk.dismissals import Dismissal, format_day
from gitpeft.risk.evidence import Evidence

REVIEW_DAYS = 30
"""How old a change may be when it is dismissed."""


class LineageContext(Protocol):
    """The earlier changes of files, and their earlier names."""

    def load_earlier_changes(self, path: str) -> list[EarlierChange]:
        """All earlier changes of a file, under its earlier names too."""
        ...

    def list_earlier_names(self, path: str) -> frozenset[str]:
        """The names that a file has had, this one included."""
        ...


@lazy_dataclass(frozen=True, slots=True)
class Cover:
    """The dismissals that count for a change, those that a fix ended, and whether all of it is dismissed.

    `ended` has for each of them the time of the fix in Unix seconds; `late` were made too long after the
    change to count for it.
    """

    dismissals: tuple[Dismissal, ...] = ()
    ended: tuple[tuple[Dismissal, int], ...] = ()
    late: tuple[Dismissal, ...] = ()
    complete: bool = False


def find_cover(dismissals: Sequence[Dismissal], context: LineageContext, change: MeasuredChange) -> Cover:
    """Find which dismissals count for a change at its moment, in the history before it.

    All of it is dismissed if each of its code files is (or, where it has none, each file): the file itself,
    or every function that git names in its hunks, at least one.
    """
    begun_or_late = [one for one in dismissals if change.time <= one.until]
    if not begun_or_late:
        return Cover()
    files = [_cover_file(begun_or_late, context, file, change.time) for file in change.counted_files]
    code = [cover for cover, file in zip(files, change.counted_files, strict=True) if is_code_file(file.path)]
    return Cover(
        tuple(dict.fromkeys(one for cover in files for one in cover.dismissals)),
        tuple(dict.fromkeys(one for cover in files for one in cover.ended)),
        tuple(dict.fromkeys(one for cover in files for one in cover.late)),
        bool(files) and all(cover.complete for cover in code or files),
    )


def is_open_at(one: Dismissal, moment: int) -> bool:
    """Whether its days include a moment (Unix seconds)."""
    return find_first_moment(one) <= moment <= one.until


def find_first_moment(one: Dismissal) -> int:
    """The time of the oldest change that it counts for, in Unix seconds."""
    return one.since - REVIEW_DAYS * DAY_SECONDS


def find_last_change(one: Dismissal, earlier: Iterable[EarlierChange]) -> EarlierChange | None:
    """The newest change of what is dismissed, among the changes of its file; None where there is none."""
    return max(_select_changes(one, earlier), key=lambda change: (change.time, change.change), default=None)


def _select_changes(one: Dismissal, earlier: Iterable[EarlierChange]) -> Iterable[EarlierChange]:
    key = hash_function_heading(one.function) if one.function else ""
    return (change for change in earlier if not key or key in change.functions)


def _cover_file(
    dismissals: Iterable[Dismissal], context: LineageContext, file: TouchedFile, moment: int
) -> Cover:
    before = file.origin or file.path
    names = context.list_earlier_names(before) | {file.path}
    found, ended, late = [], [], []
    for one in dismissals:
        if one.path not in names or not _concerns(one, file):
            continue
        if moment < find_first_moment(one):
            late.append(one)
            continue
        fixed = find_ending_fix(one, context.load_earlier_changes(before), moment)
        if fixed is None:
            found.append(one)
        else:
            ended.append((one, fixed.time))
    whole = any(not one.function for one in found)
    known = {hash_function_heading(one.function) for one in found if one.function}
    every = bool(file.functions) and file.functions <= known
    return Cover(tuple(found), tuple(ended), tuple(late), whole or every)


def _concerns(one: Dismissal, file: TouchedFile) -> bool:
    return not one.function or hash_function_heading(one.function) in file.functions


def find_ending_fix(one: Dismissal, earlier: Iterable[EarlierChange], moment: int) -> EarlierChange | None:
    """The first fix up to a moment that came after the dismissed change; None where there is none.

    `earlier` are the changes of its file. What was staged when it was dismissed is the next of them, and may
    itself be a fix (of something older).
    """
    under = sorted(
        (change for change in _select_changes(one, earlier) if one.since <= change.time <= moment),
        key=lambda change: (change.time, change.change),
    )
    return next((change for change in under[one.staged :] if change.fix), None)


# --- in reports ---------------------------------------------------------------------------------------------


def is_dismissed_fact(fact: Evidence, dismissals: Iterable[Dismissal]) -> bool:
    """Whether a fact is about a dismissed file or function."""
    return any(
        fact.path == one.path and (not one.function or (fact.kind == "function" and one.name in fact.text))
        for one in dismissals
    )


def describe_dismissal(one: Dismissal) -> str:
    """What is dismissed, for how long, and why, for people."""
    return f"dismissed until {one.last_day}: {one.name} ({one.why})"


def describe_end(one: Dismissal, fixed: int) -> str:
    """Why a dismissal does not count any more: the fix at a moment (Unix seconds)."""
    return f"the dismissal of {one.name} ended on {format_day(fixed)}, when a fix changed it"


def describe_late(one: Dismissal) -> str:
    """Why a dismissal does not count for a change that is too old."""
    return (
        f"not covered by the dismissal of {one.name} on {format_day(one.since)}: this change is more than "
        f"{REVIEW_DAYS} days older"
    )
