"""Extracts facts from a change: short statements that its lines prove.

Nothing is guessed: every name, number and version in a fact stands in the change. Time is linear in the lines
that `gitpeft.diff.patch.parse_patch` keeps. Only the standard library is needed, as on the hook path.
"""

import re
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from itertools import pairwise

from gitpeft.diff.definitions import (
    COMMENT_LINE,
    IMPORT_LINE,
    Definition,
    find_definition,
    find_dependency,
    find_dependency_pattern,
    is_underlined,
)
from gitpeft.diff.edits import Pair, find_version_change, iterate_runs, split_change
from gitpeft.diff.patch import FileChange, normalize_line
from gitpeft.diff.path_kinds import PROSE_PATH, classify_path, is_changelog
from gitpeft.lazy import field, lazy_dataclass, lazy_pattern

MAX_NAMES = 4
"""So many names are listed of each kind; the others are counted."""

_VERSION = lazy_pattern(r"(?<![\w.])v?\d+(?:\.\d+)+(?:[-.+]?(?:[a-z]\w*|\d+))*")
_KEY = lazy_pattern(r"([A-Za-z_][\w.-]*)[\"'\])]*\s*(?::=|[:=]=?|=>)\s*[\"'(\[^~>=<v]*$")
_WORD = lazy_pattern(r"[A-Za-z_][\w-]*")
_TAG = lazy_pattern(r"<[^<>]*>")
_UNNAMED = frozenset(("v", "version", "rev", "const", "var", "let", "uses"))
_MAX_FUNCTIONS = 12
_MAX_VALUE_LENGTH = 40
_MAX_ENTRY_LENGTH = 110
_MIN_LINE_LENGTH, _MAX_LINE_LENGTH, _MIN_LETTERS = 8, 80, 6
_MIN_REPEATS = 3
"""A line is named when so many files have got or lost it."""


@lazy_dataclass(slots=True)
class _Findings:
    """What was seen in the lines of a change."""

    added: dict[Definition, None] = field(default_factory=dict)
    removed: dict[Definition, None] = field(default_factory=dict)
    renamed: dict[tuple[str, str, str], None] = field(default_factory=dict)
    versions: dict[tuple[str, str, str], None] = field(default_factory=dict)
    values: dict[tuple[str, str, str], None] = field(default_factory=dict)
    replaced: Counter[tuple[str, str]] = field(default_factory=Counter)


def extract_facts(files: Sequence[FileChange], whole: bool = True) -> list[str]:
    """What the change does, the most telling first; each a few words.

    What is true of all lines is said only where the files have them all (`whole`).
    """
    seen = _Findings()
    for change in files:
        if change.kind == "text":
            _read_file(change, seen)
    found = [
        _describe_limits(files, whole),
        *_list_files(files),
        *_list_versions(seen),
        *_list_definitions(seen, files),
        *_list_values(seen),
        *_list_repeated_lines(files, whole),
        *_find_changelog_entry(files),
    ]
    return [fact for fact in found if fact]


# --- files ------------------------------------------------------------------------------------------------


def _describe_limits(files: Sequence[FileChange], whole: bool) -> str:
    """What the whole change is limited to, "" where nothing can be said."""
    if files and all(change.status == "R" and not change.added + change.removed for change in files):
        return "only renames"
    said = [name] if (name := _get_only({classify_path(change.path) for change in files})) else []
    if whole and all(change.status == "M" for change in files):
        said += _list_line_limits(files)
    directions = (sum(c.added for c in files) > 0, sum(c.removed for c in files) > 0)
    if directions in ((True, False), (False, True)):
        said.append("added lines" if directions[0] else "removed lines")
    return f"only {', '.join(said)}" if said else ""


def _list_line_limits(files: Sequence[FileChange]) -> list[str]:
    """What all changed lines with text are limited to."""
    changed = [line for change in files for hunk in change.hunks for line in hunk.lines if line[0] != " "]
    lines = [line for line in changed if line[1:].strip()]
    prose = any(PROSE_PATH.search(path) or classify_path(path) == "docs" for path in (c.path for c in files))
    limits = [(label, test) for label, test in _LIMITS if not (prose and label == "comments")]
    return [label for label, test in limits if test(lines)] if lines else []


def _get_only(names: set[str]) -> str:
    return names.pop() if len(names) == 1 else ""


def _is_formatting(lines: Sequence[str]) -> bool:
    sides = ("".join("".join(line[1:].split()) for line in lines if line[0] == sign) for sign in "-+")
    old, new = sides
    return old.translate(_IGNORED_BY_FORMATTERS) == new.translate(_IGNORED_BY_FORMATTERS)


_IGNORED_BY_FORMATTERS = str.maketrans("'", '"', ",;")


def _make_matcher(pattern: re.Pattern[str]) -> Callable[[Sequence[str]], bool]:
    return lambda lines: all(pattern.match(line[1:]) for line in lines)


_LIMITS: tuple[tuple[str, Callable[[Sequence[str]], bool]], ...] = (
    ("formatting", _is_formatting),
    ("comments", _make_matcher(COMMENT_LINE)),
    ("imports", _make_matcher(IMPORT_LINE)),
)


def _list_files(files: Sequence[FileChange]) -> list[str]:
    renamed = [(c.old_path or "", c.path) for c in files if c.status == "R"]
    names = [(_base_name(old), _base_name(new), new) for old, new in renamed]
    return [
        _join_names("adds file", [_base_name(c.path) for c in files if c.status == "A"]),
        _join_names("deletes file", [_base_name(c.path) for c in files if c.status == "D"]),
        _join_names("renames file", [f"{old} -> {new}" for old, new, _ in names if old != new]),
        _join_names(
            "moves file", [f"{new} to {_get_folder(path)}" for old, new, path in names if old == new]
        ),
    ]


def _base_name(path: str) -> str:
    return path.rpartition("/")[2]


def _get_folder(path: str) -> str:
    return f"{path.rpartition('/')[0]}/"


def _join_names(what: str, names: Iterable[str]) -> str:
    distinct = list(dict.fromkeys(names))
    more = f" and {len(distinct) - MAX_NAMES} more" if len(distinct) > MAX_NAMES else ""
    return f"{what} {', '.join(distinct[:MAX_NAMES])}{more}" if distinct else ""


# --- lines ------------------------------------------------------------------------------------------------


def _read_file(change: FileChange, seen: _Findings) -> None:
    prose = bool(PROSE_PATH.search(change.path))
    dependencies = find_dependency_pattern(change.path)

    def find(line: str | None) -> Definition | None:
        if not line:
            return None
        found = find_dependency(line, dependencies) if dependencies else None
        return found or find_definition(line, prose)

    for hunk in change.hunks:
        for _, run in iterate_runs(hunk.lines):
            for old, new in run:
                _note_definitions(find(old), find(new), seen)
                if old and new:
                    _compare_lines(normalize_line(old), normalize_line(new), seen)
            if prose:
                _note_underlined_titles(run, seen)


def _note_underlined_titles(run: Sequence[Pair], seen: _Findings) -> None:
    """Note the sections whose titles are underlined, as in reStructuredText."""
    for side, known in ((0, seen.removed), (1, seen.added)):
        for title, below in pairwise(filter(None, (pair[side] for pair in run))):
            if is_underlined(title, below):
                known["section", normalize_line(title)] = None


def _note_definitions(before: Definition | None, after: Definition | None, seen: _Findings) -> None:
    same_kind = before and after and before[0] == after[0] != "dependency"
    if before and after and same_kind and before[1] != after[1]:
        seen.renamed[before[0], before[1], after[1]] = None
        return
    if before:
        seen.removed[before] = None
    if after:
        seen.added[after] = None


def _compare_lines(old: str, new: str, seen: _Findings) -> None:
    """Note what one line became: a version, the value of a name, or one text for another."""
    if versions := find_version_change(old, new, _VERSION):
        seen.versions[_find_version_name(old, versions[0]), *versions] = None
        return
    start, before, after, _ = split_change(old, new)
    if not (0 < len(before.strip()) <= _MAX_VALUE_LENGTH and 0 < len(after.strip()) <= _MAX_VALUE_LENGTH):
        return
    key = _KEY.search(start)
    if key and (
        not any(map(str.isalnum, before))
        or before[0].isdigit()
        or after[0].isdigit()
        or len(before) + len(after) <= 24
    ):
        seen.values[key[1], before.strip(), after.strip()] = None
    elif re.search(r"\w", before) and re.search(r"\w", after):
        seen.replaced[before.strip(), after.strip()] += 1


def _find_version_name(line: str, version: str) -> str:
    """Whose version a line tells: the last name before it."""
    words = _WORD.findall(line[: line.find(version)])
    names = [word for word in words if word.lower() not in _UNNAMED]
    return f"{names[-1]} " if names else ""


# --- as text ----------------------------------------------------------------------------------------------


def _list_versions(seen: _Findings) -> list[str]:
    return [_join_names("version", (f"{name}{old} -> {new}" for name, old, new in seen.versions))]


def _list_definitions(seen: _Findings, files: Sequence[FileChange]) -> list[str]:
    said = [
        _join_names(f"renames {kind}", (f"{a} -> {b}" for k, a, b in seen.renamed if k == kind))
        for kind in dict.fromkeys(kind for kind, _, _ in seen.renamed)
    ]
    gone = {definition: None for definition in seen.removed if definition not in seen.added}
    new = {definition: None for definition in seen.added if definition not in seen.removed}
    both = [one for one in seen.added if one in seen.removed and one[0] != "dependency"]
    for verb, found in (("adds", new), ("removes", gone), ("redefines", both)):
        for kind in dict.fromkeys(kind for kind, _ in found):
            said.append(_join_names(f"{verb} {kind}", (name for k, name in found if k == kind)))
    known = {name for _, name in (*seen.added, *seen.removed)}
    inner = (name for change in files for name in _list_enclosing(change) if name not in known)
    return [*said, _join_names("changes inside", inner)]


def _list_enclosing(change: FileChange) -> Iterable[str]:
    """The names of the functions or classes around the changed lines."""
    if change.kind != "text" or change.status in "AD" or PROSE_PATH.search(change.path):
        return []
    found = (find_definition(line, False) for line in change.functions[:_MAX_FUNCTIONS])
    return [definition[1] for definition in found if definition]


def _list_values(seen: _Findings) -> list[str]:
    renamed = {(old, new) for _, old, new in seen.renamed}
    often = [(pair, n) for pair, n in seen.replaced.most_common() if pair not in renamed][:MAX_NAMES]
    return [
        _join_names("sets", (f"{name}: {old} -> {new}" for name, old, new in seen.values)),
        _join_names(
            "replaces",
            (f"{old} -> {new}" + (f" ({n}x)" if n > 1 else "") for (old, new), n in often),
        ),
    ]


def _list_repeated_lines(files: Sequence[FileChange], whole: bool) -> list[str]:
    """The line that was added to the most files, and the one that was removed from the most."""
    if len(files) < _MIN_REPEATS:
        return []
    found = []
    for sign, verb, word in (("+", "adds", "to"), ("-", "removes", "from")):
        counts = Counter(line for change in files for line in _list_distinct_lines(change, sign))
        for line, n in counts.most_common(1):
            if n >= _MIN_REPEATS:
                found.append(f"{verb} `{line}` {word} {'' if whole else 'at least '}{n} files")
    return found


def _list_distinct_lines(change: FileChange, sign: str) -> Iterable[str]:
    """The lines of a file with this sign that say enough to be quoted."""
    lines = (normalize_line(line[1:]) for hunk in change.hunks for line in hunk.lines if line[0] == sign)
    fitting = (line for line in lines if _MIN_LINE_LENGTH <= len(line) <= _MAX_LINE_LENGTH)
    return dict.fromkeys(line for line in fitting if sum(map(str.isalpha, line)) >= _MIN_LETTERS)


def _find_changelog_entry(files: Sequence[FileChange]) -> list[str]:
    """What the change itself says of it in a log of changes: the first new line with some words."""
    for change in files:
        if is_changelog(change.path):
            added = (line[1:] for hunk in change.hunks for line in hunk.lines if line[0] == "+")
            lines = (normalize_line(_TAG.sub("", line)) for line in added)
            said = next(filter(_is_entry, lines), "")
            return [f"notes: {said.lstrip('-*+ ')[:_MAX_ENTRY_LENGTH]}"] if said else []
    return []


def _is_entry(line: str) -> bool:
    """Whether a line of a log of changes says something: no title, and no link to a comparison."""
    return len(_WORD.findall(line)) >= 4 and not line.startswith(("#", "[", "..", "<!--"))
