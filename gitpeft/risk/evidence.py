"""The evidence in a risk report: counted facts about the history of the changed files.

Each can be checked with `git log`, and none of them names a person.
"""

from collections.abc import Callable, Sequence

from gitpeft.diff.patch import FileChange, quote_path
from gitpeft.history.context import (
    YEAR_SECONDS,
    CompanionFile,
    EarlierChange,
    MeasuredChange,
    Period,
    StoredContext,
    TouchedFile,
    hash_function_heading,
)
from gitpeft.lazy import lazy_dataclass
from gitpeft.risk.change_metrics import DAY_SECONDS, ChangeMetrics
from gitpeft.risk.line_attribution import ChangedLine
from gitpeft.risk.model import RiskModel
from gitpeft.risk.real_lines import is_real_line

MAX_EVIDENCE = 5
"""The most facts in a report."""

_MIN_FIXES = 2
_MIN_SUPPORT, _MIN_CONFIDENCE = 5, 0.6
_MIN_UNCHANGED_DAYS = 180
_MIN_AUTHORS = 4
_LARGE_PERCENTILE = 75.0
_MAX_FILES = 20
_MAX_LINE_CHARS = 80


@lazy_dataclass(frozen=True, slots=True)
class Evidence:
    """One counted fact: its kind, the sentence, the file that it is about ("" for all), and its numbers."""

    kind: str
    text: str
    path: str
    numbers: dict[str, float]

    def as_dict(self) -> dict[str, object]:
        """The fact as a JSON object."""
        from dataclasses import asdict

        return asdict(self) | {"path": quote_path(self.path)}


def gather_evidence(
    context: StoredContext,
    change: MeasuredChange,
    files: Sequence[FileChange],
    metrics: ChangeMetrics,
    model: RiskModel,
    exists: Callable[[str], bool] = lambda _: True,
    lines: Sequence[tuple[ChangedLine, float]] = (),
) -> list[Evidence]:
    """Gather at most five facts about a change, the most important first.

    `exists` tells whether a file is there before the change; others cannot have been forgotten. `lines` are
    the added lines with their shares of the score, in the order of `TextFeatures.lines`; the first one is
    shown if it is no comment and the model is known to rank lines better than chance.
    """
    counted = change.counted_files
    by_size = sorted(counted, key=lambda file: -(file.added + file.removed))[:_MAX_FILES]
    year = change.time - YEAR_SECONDS, change.time
    found = [
        *_find_often_fixed_functions(context, by_size, files, year)[:1],
        *_find_often_fixed_files(context, by_size, year)[:2],
    ]
    found += _find_missing_companions(context, by_size, exists)[:1]
    found += _find_riskiest_line(lines) if model.can_rank_lines else []
    found += [
        *_check_change_size(metrics, model),
        *_find_many_author_files(context, by_size, year)[:1],
        *_find_long_unchanged_files(context, by_size, change.time)[:1],
    ]
    return found[:MAX_EVIDENCE]


def _previous_path(file: TouchedFile) -> str:
    return file.origin or file.path


def _load_changes_within(context: StoredContext, file: TouchedFile, period: Period) -> list[EarlierChange]:
    return [one for one in context.load_earlier_changes(_previous_path(file)) if one.is_within(period)]


def _find_often_fixed_files(
    context: StoredContext, files: Sequence[TouchedFile], last_year: Period
) -> list[Evidence]:
    """Files of which several earlier changes were fixes."""
    found = []
    for file in files:
        year = _load_changes_within(context, file, last_year)
        fixes = sum(one.fix for one in year)
        if fixes >= _MIN_FIXES:
            text = f"{quote_path(file.path)}: {fixes} of its {len(year)} changes in the last year were fixes"
            found.append(Evidence("fixes", text, file.path, {"fixes": fixes, "changes": len(year)}))
    return sorted(found, key=lambda one: -one.numbers["fixes"])


def _find_often_fixed_functions(
    context: StoredContext, files: Sequence[TouchedFile], shown: Sequence[FileChange], last_year: Period
) -> list[Evidence]:
    """Functions of which several earlier changes were fixes, identified by git's hunk headings."""
    headings = {hash_function_heading(heading): heading for file in shown for heading in file.functions}
    found = []
    for file in files:
        year = _load_changes_within(context, file, last_year)
        for key in sorted(file.functions & headings.keys()):
            fixes = sum(one.fix and key in one.functions for one in year)
            if fixes >= _MIN_FIXES:
                text = f"{quote_path(file.path)}, in “{headings[key][:60]}”: {fixes} fixes in the last year"
                found.append(Evidence("function", text, file.path, {"fixes": fixes}))
    return sorted(found, key=lambda one: -one.numbers["fixes"])


def _find_riskiest_line(lines: Sequence[tuple[ChangedLine, float]]) -> list[Evidence]:
    """The line with the largest share of the score, of code where any was added."""
    if not lines or lines[0][1] <= 0 or not is_real_line(lines[0][0][1][1:]):
        return []
    (path, line), share = lines[0]
    text = f"{path}: riskiest line “{line[1:][:_MAX_LINE_CHARS]}”"
    return [Evidence("line", text, path, {"share": round(share, 3)})]


def _find_missing_companions(
    context: StoredContext, files: Sequence[TouchedFile], exists: Callable[[str], bool]
) -> list[Evidence]:
    """Files that usually change together with these, but not in this change."""
    names = [_previous_path(file) for file in files if file.status != "D"]
    companions = (
        context.find_companions(names, _MIN_SUPPORT, _MIN_CONFIDENCE) if len(names) == len(files) else []
    )
    return [_describe_companion(one) for one in companions[:3] if exists(one.path)]


def _describe_companion(one: CompanionFile) -> Evidence:
    path, beside = quote_path(one.path), quote_path(one.beside)
    text = f"{path} usually changes with {beside} ({one.together} of {one.of} times), but not here"
    numbers = {"together": one.together, "of": one.of, "confidence": round(one.together / one.of, 3)}
    return Evidence("companion", text, one.path, numbers)


def _check_change_size(metrics: ChangeMetrics, model: RiskModel) -> list[Evidence]:
    """The size of the change, if it is larger than most."""
    lines = metrics.la + metrics.ld
    place = model.percentile_of_size(lines)
    if place < _LARGE_PERCENTILE:
        return []
    files = f"{metrics.nf} file{'s' if metrics.nf > 1 else ''}"
    text = f"{metrics.la} lines added and {metrics.ld} removed in {files}"
    text += f": larger than {min(99, int(place))}% of recent commits"
    return [
        Evidence(
            "size", text, "", {"added": metrics.la, "removed": metrics.ld, "percentile": round(place, 1)}
        )
    ]


def _find_many_author_files(
    context: StoredContext, files: Sequence[TouchedFile], last_year: Period
) -> list[Evidence]:
    """Files that many people change: how many, never who."""
    found = []
    for file in files:
        year = _load_changes_within(context, file, last_year)
        people = len({one.author for one in year})
        if people >= _MIN_AUTHORS:
            text = f"{quote_path(file.path)}: {len(year)} changes by {people} people in the last year"
            found.append(Evidence("spread", text, file.path, {"changes": len(year), "people": people}))
    return sorted(found, key=lambda one: -one.numbers["people"])


def _find_long_unchanged_files(
    context: StoredContext, files: Sequence[TouchedFile], now: int
) -> list[Evidence]:
    """Files that were not changed for a long time."""
    found = []
    for file in files:
        last = context.find_last_change_time(_previous_path(file), now)
        days = 0 if last is None else (now - last) // DAY_SECONDS
        if days >= _MIN_UNCHANGED_DAYS:
            text = f"{quote_path(file.path)} was last changed {days} days ago"
            found.append(Evidence("age", text, file.path, {"days": days}))
    return sorted(found, key=lambda one: -one.numbers["days"])
