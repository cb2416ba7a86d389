"""Why a change deserves a second look: hides what is counted, and how it is worded.

Every line is a count that anybody can check with `git log`; none of them names a person.
"""

from collections.abc import Callable, Sequence
from typing import Any

from gitpeft.diff.patch import FileChange
from gitpeft.history.context import YEAR, Change, Companion, Stored, Touch, function_key
from gitpeft.lazy import record
from gitpeft.risk.change_metrics import DAY, Metrics
from gitpeft.risk.line_attribution import Line
from gitpeft.risk.model import Model

MOST = 5
"""Lines of evidence."""

_FEW_FIXES = 2
_SUPPORT, _CONFIDENCE = 5, 0.6
_OLD_DAYS = 180
_MANY_AUTHORS = 4
_LARGE = 75.0
_FILES = 20
_LINE = 80


@record(frozen=True, slots=True)
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


def gather(
    past: Stored,
    change: Change,
    files: Sequence[FileChange],
    metrics: Metrics,
    model: Model,
    exists: Callable[[str], bool] = lambda _: True,
    lines: Sequence[tuple[Line, float]] = (),
) -> list[Evidence]:
    """At most five facts about a change, those that weigh most first.

    `exists` says whether a file is there before the change: one that is gone cannot be forgotten. `lines` are
    its added lines, the heaviest first: shown where the model is known to pick better than chance.
    """
    counted = change.counted
    by_size = sorted(counted, key=lambda file: -(file.added + file.removed))[:_FILES]
    since = change.time - YEAR
    found = [*_functions(past, by_size, files, since)[:1], *_fixed(past, by_size, since)[:2]]
    found += _missing(past, by_size, exists)[:1]
    found += _heaviest(lines) if model.picks_lines else []
    found += [
        *_size(metrics, model),
        *_spread(past, by_size, since)[:1],
        *_untouched(past, by_size, change.time)[:1],
    ]
    return found[:MOST]


def _name(file: Touch) -> str:
    return file.origin or file.path


def _fixed(past: Stored, files: Sequence[Touch], since: int) -> list[Evidence]:
    """Files of which many earlier changes were fixes."""
    found = []
    for file in files:
        year = [one for one in past.seen(_name(file)) if one.time >= since]
        fixes = sum(one.fix for one in year)
        if fixes >= _FEW_FIXES:
            text = f"{file.path}: {fixes} of its {len(year)} changes in the last year were fixes"
            found.append(Evidence("fixes", text, file.path, {"fixes": fixes, "changes": len(year)}))
    return sorted(found, key=lambda one: -one.numbers["fixes"])


def _functions(
    past: Stored, files: Sequence[Touch], shown: Sequence[FileChange], since: int
) -> list[Evidence]:
    """Functions of which earlier changes were fixes, by the headings that git gives to hunks."""
    headings = {function_key(heading): heading for file in shown for heading in file.functions}
    found = []
    for file in files:
        year = [one for one in past.seen(_name(file)) if one.time >= since and one.fix]
        for key in sorted(file.functions & headings.keys()):
            fixes = sum(key in one.functions for one in year)
            if fixes >= _FEW_FIXES:
                text = f"{file.path}, in “{headings[key][:60]}”: {fixes} fixes in the last year"
                found.append(Evidence("function", text, file.path, {"fixes": fixes}))
    return sorted(found, key=lambda one: -one.numbers["fixes"])


def _heaviest(lines: Sequence[tuple[Line, float]]) -> list[Evidence]:
    """The added line that speaks most for a later fix."""
    if not lines or lines[0][1] <= 0:
        return []
    (path, line), share = lines[0]
    text = f"{path}: the line that weighs most is “{line[1:][:_LINE]}”"
    return [Evidence("line", text, path, {"share": round(share, 3)})]


def _missing(past: Stored, files: Sequence[Touch], exists: Callable[[str], bool]) -> list[Evidence]:
    """Files that usually change with these, and do not now."""
    names = [_name(file) for file in files if file.status != "D"]
    companions = past.companions(names, _SUPPORT, _CONFIDENCE) if len(names) == len(files) else []
    return [_beside(one) for one in companions[:3] if exists(one.path)]


def _beside(one: Companion) -> Evidence:
    text = (
        f"{one.path} is not part of it: it was in {one.together} of the last {one.of} changes of {one.beside}"
    )
    numbers = {"together": one.together, "of": one.of, "confidence": round(one.together / one.of, 3)}
    return Evidence("companion", text, one.path, numbers)


def _size(metrics: Metrics, model: Model) -> list[Evidence]:
    """A change that is larger than most."""
    lines = metrics.la + metrics.ld
    place = model.size_percentile(lines)
    if place < _LARGE:
        return []
    files = f"{metrics.nf} file{'s' if metrics.nf > 1 else ''}"
    text = f"{metrics.la} lines added and {metrics.ld} removed in {files}"
    text += f": larger than {min(99, int(place))} % of the recent commits"
    return [
        Evidence(
            "size", text, "", {"added": metrics.la, "removed": metrics.ld, "percentile": round(place, 1)}
        )
    ]


def _spread(past: Stored, files: Sequence[Touch], since: int) -> list[Evidence]:
    """Files that many people change: how many, never who."""
    found = []
    for file in files:
        year = [one for one in past.seen(_name(file)) if one.time >= since]
        people = len({one.author for one in year})
        if people >= _MANY_AUTHORS:
            text = f"{file.path}: {len(year)} changes by {people} people in the last year"
            found.append(Evidence("spread", text, file.path, {"changes": len(year), "people": people}))
    return sorted(found, key=lambda one: -one.numbers["people"])


def _untouched(past: Stored, files: Sequence[Touch], now: int) -> list[Evidence]:
    """Files that nobody changed for long."""
    found = []
    for file in files:
        last = past.last(_name(file))
        days = 0 if last is None else (now - last) // DAY
        if days >= _OLD_DAYS:
            found.append(
                Evidence("age", f"{file.path} was last changed {days} days ago", file.path, {"days": days})
            )
    return sorted(found, key=lambda one: -one.numbers["days"])
