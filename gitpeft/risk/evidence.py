"""Why a change deserves a second look: hides what is counted, and how it is worded.

Every line is a count that anybody can check with `git log`; none of them names a person.
"""

from collections.abc import Callable, Sequence
from typing import Any

from gitpeft.diff.patch import FileChange
from gitpeft.history.context import (
    YEAR_SECONDS,
    CompanionFile,
    MeasuredChange,
    StoredContext,
    TouchedFile,
    hash_function_heading,
)
from gitpeft.lazy import lazy_dataclass
from gitpeft.risk.change_metrics import DAY_SECONDS, ChangeMetrics
from gitpeft.risk.line_attribution import ChangedLine
from gitpeft.risk.model import RiskModel

MAX_EVIDENCE = 5
"""Lines of evidence."""

_MIN_FIXES = 2
_MIN_SUPPORT, _MIN_CONFIDENCE = 5, 0.6
_MIN_UNCHANGED_DAYS = 180
_MIN_AUTHORS = 4
_LARGE_PERCENTILE = 75.0
_MAX_FILES = 20
_MAX_LINE_CHARS = 80


@lazy_dataclass(frozen=True, slots=True)
class Evidence:
    """One counted fact: its kind, the sentence, the file it is about ("" for all), and the numbers in it."""

    kind: str
    text: str
    path: str
    numbers: dict[str, float]

    def as_dict(self) -> dict[str, Any]:
        """For JSON."""
        from dataclasses import asdict

        return asdict(self)


def gather_evidence(
    past: StoredContext,
    change: MeasuredChange,
    files: Sequence[FileChange],
    metrics: ChangeMetrics,
    model: RiskModel,
    exists: Callable[[str], bool] = lambda _: True,
    lines: Sequence[tuple[ChangedLine, float]] = (),
) -> list[Evidence]:
    """At most five facts about a change, those that weigh most first.

    `exists` says whether a file is there before the change: one that is gone cannot be forgotten. `lines` are
    its added lines, the heaviest first: shown where the model is known to pick better than chance.
    """
    counted = change.counted_files
    by_size = sorted(counted, key=lambda file: -(file.added + file.removed))[:_MAX_FILES]
    since = change.time - YEAR_SECONDS
    found = [
        *_find_often_fixed_functions(past, by_size, files, since)[:1],
        *_find_often_fixed_files(past, by_size, since)[:2],
    ]
    found += _find_missing_companions(past, by_size, exists)[:1]
    found += _find_riskiest_line(lines) if model.can_rank_lines else []
    found += [
        *_check_change_size(metrics, model),
        *_find_many_author_files(past, by_size, since)[:1],
        *_find_long_unchanged_files(past, by_size, change.time)[:1],
    ]
    return found[:MAX_EVIDENCE]


def _previous_path(file: TouchedFile) -> str:
    return file.origin or file.path


def _find_often_fixed_files(past: StoredContext, files: Sequence[TouchedFile], since: int) -> list[Evidence]:
    """Files of which many earlier changes were fixes."""
    found = []
    for file in files:
        year = [one for one in past.load_earlier_changes(_previous_path(file)) if one.time >= since]
        fixes = sum(one.fix for one in year)
        if fixes >= _MIN_FIXES:
            text = f"{file.path}: {fixes} of its {len(year)} changes in the last year were fixes"
            found.append(Evidence("fixes", text, file.path, {"fixes": fixes, "changes": len(year)}))
    return sorted(found, key=lambda one: -one.numbers["fixes"])


def _find_often_fixed_functions(
    past: StoredContext, files: Sequence[TouchedFile], shown: Sequence[FileChange], since: int
) -> list[Evidence]:
    """Functions of which earlier changes were fixes, by the headings that git gives to hunks."""
    headings = {hash_function_heading(heading): heading for file in shown for heading in file.functions}
    found = []
    for file in files:
        year = [
            one for one in past.load_earlier_changes(_previous_path(file)) if one.time >= since and one.fix
        ]
        for key in sorted(file.functions & headings.keys()):
            fixes = sum(key in one.functions for one in year)
            if fixes >= _MIN_FIXES:
                text = f"{file.path}, in “{headings[key][:60]}”: {fixes} fixes in the last year"
                found.append(Evidence("function", text, file.path, {"fixes": fixes}))
    return sorted(found, key=lambda one: -one.numbers["fixes"])


def _find_riskiest_line(lines: Sequence[tuple[ChangedLine, float]]) -> list[Evidence]:
    """The added line that speaks most for a later fix."""
    if not lines or lines[0][1] <= 0:
        return []
    (path, line), share = lines[0]
    text = f"{path}: the line that weighs most is “{line[1:][:_MAX_LINE_CHARS]}”"
    return [Evidence("line", text, path, {"share": round(share, 3)})]


def _find_missing_companions(
    past: StoredContext, files: Sequence[TouchedFile], exists: Callable[[str], bool]
) -> list[Evidence]:
    """Files that usually change with these, and do not now."""
    names = [_previous_path(file) for file in files if file.status != "D"]
    companions = (
        past.find_companions(names, _MIN_SUPPORT, _MIN_CONFIDENCE) if len(names) == len(files) else []
    )
    return [_describe_companion(one) for one in companions[:3] if exists(one.path)]


def _describe_companion(one: CompanionFile) -> Evidence:
    text = (
        f"{one.path} is not part of it: it was in {one.together} of the last {one.of} changes of {one.beside}"
    )
    numbers = {"together": one.together, "of": one.of, "confidence": round(one.together / one.of, 3)}
    return Evidence("companion", text, one.path, numbers)


def _check_change_size(metrics: ChangeMetrics, model: RiskModel) -> list[Evidence]:
    """A change that is larger than most."""
    lines = metrics.la + metrics.ld
    place = model.percentile_of_size(lines)
    if place < _LARGE_PERCENTILE:
        return []
    files = f"{metrics.nf} file{'s' if metrics.nf > 1 else ''}"
    text = f"{metrics.la} lines added and {metrics.ld} removed in {files}"
    text += f": larger than {min(99, int(place))} % of the recent commits"
    return [
        Evidence(
            "size", text, "", {"added": metrics.la, "removed": metrics.ld, "percentile": round(place, 1)}
        )
    ]


def _find_many_author_files(past: StoredContext, files: Sequence[TouchedFile], since: int) -> list[Evidence]:
    """Files that many people change: how many, never who."""
    found = []
    for file in files:
        year = [one for one in past.load_earlier_changes(_previous_path(file)) if one.time >= since]
        people = len({one.author for one in year})
        if people >= _MIN_AUTHORS:
            text = f"{file.path}: {len(year)} changes by {people} people in the last year"
            found.append(Evidence("spread", text, file.path, {"changes": len(year), "people": people}))
    return sorted(found, key=lambda one: -one.numbers["people"])


def _find_long_unchanged_files(past: StoredContext, files: Sequence[TouchedFile], now: int) -> list[Evidence]:
    """Files that nobody changed for long."""
    found = []
    for file in files:
        last = past.find_last_change_time(_previous_path(file))
        days = 0 if last is None else (now - last) // DAY_SECONDS
        if days >= _MIN_UNCHANGED_DAYS:
            found.append(
                Evidence("age", f"{file.path} was last changed {days} days ago", file.path, {"days": days})
            )
    return sorted(found, key=lambda one: -one.numbers["days"])
