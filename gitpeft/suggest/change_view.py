"""What a stored or compact change holds, as candidates and checks need it: files, changed lines, and roles.

A *role* is a place in a change at which a value stands: the new version, the name of the first file, a
function that was added. An earlier message is filled in by giving each of its slots what has the same role
here.
"""

import re
from collections import Counter
from collections.abc import Iterator, Sequence
from functools import cached_property

from gitpeft.diff.definitions import find_definition
from gitpeft.diff.edits import find_version_change, iterate_runs, split_change
from gitpeft.diff.grounding import ChangeSize, GroundingText, count_stems, extract_stems
from gitpeft.diff.patch import FileChange
from gitpeft.diff.path_kinds import PROSE_PATH, classify_path, is_changelog
from gitpeft.diff.stored import read_file_line
from gitpeft.lazy import lazy_dataclass, lazy_pattern

_VERSION = lazy_pattern(
    r"(?<![\w.])v?\d+(?:\.\d+)+(?:[-.+]?(?:(?:a|b|rc|alpha|beta|dev|post|pre)[\w.]*|\d+))*"
)
DATE = lazy_pattern(r"(?<!\d)(?:19|20)\d\d-\d\d-\d\d(?!\d)")
"""A day as in 2026-01-31."""

_YEAR = lazy_pattern(r"(?<!\d)(?:19|20)\d\d(?!\d)")
_NAME_BEFORE = lazy_pattern(r"[A-Za-z@][\w./@-]*")
_CODE_NAME = lazy_pattern(r"[A-Za-z_][\w-]*(?:\.\w+)*")
_NO_DEPENDENCY = frozenset(("v", "version", "rev", "const", "var", "let", "uses", "require", "from", "to"))

MAX_FILES, MAX_NAMES = 3, 3
"""How many files, and how many names of a kind, have roles."""

HEADING_VERSION = "heading-version"
"""The role of a version whose section of a list of changes gets a date."""

_MAX_LINES = 160
_MAX_VALUE_LENGTH = 60


@lazy_dataclass(frozen=True, slots=True)
class VersionChange:
    """A version that one line changed: whose it is ("" where the line does not tell), and what it was."""

    name: str
    old: str
    new: str
    path: str


class ChangeView:
    """A change as its stored or compact text tells it; everything is computed when it is first asked for."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.files: list[FileChange] = []
        self._blocks: list[tuple[str, list[list[str]]]] = []
        self._headings: list[tuple[str, str, list[str]]] = []
        self._read_lines(text.split("\n"))

    def _read_lines(self, lines: Sequence[str]) -> None:
        for line in lines:
            if line.startswith("#"):
                self._blocks.append((line[1:], []))
            elif not self._blocks:
                if not line.startswith(("=", "~")) and (change := read_file_line(line)):
                    self.files.append(change)
            elif line.startswith("@"):
                self._blocks[-1][1].append([])
                self._headings.append((self._blocks[-1][0], line[1:], self._blocks[-1][1][-1]))
            elif line:
                hunks = self._blocks[-1][1]
                if not hunks:
                    hunks.append([])
                hunks[-1].append(line)

    # --- lines ----------------------------------------------------------------------------------------------

    @cached_property
    def pairs(self) -> list[tuple[str, str | None, str | None]]:
        """(path, removed line, added line) of the first changed lines; None where a line has no partner."""
        found = []
        for path, hunks in self._blocks:
            for hunk in hunks:
                for _, run in iterate_runs(hunk):
                    found += [(path, old, new) for old, new in run]
        return found[:_MAX_LINES]

    @cached_property
    def changed_text(self) -> str:
        """The paths, and all lines that were added or removed: no headings and no context."""
        names = [f"{one.path} {one.old_path or ''}" for one in self.files]
        lines = (line[1:] for _, hunks in self._blocks for hunk in hunks for line in hunk if line[0] in "+-")
        return "\n".join([*names, *lines])

    @cached_property
    def sides(self) -> tuple[str, str]:
        """What is gone and what is new: changed lines, with the paths of files that went or came."""
        found: tuple[list[str], list[str]] = ([], [])
        for one in self.files:
            if one.status in "DR":
                found[0].append(one.old_path or one.path)
            if one.status in "AR":
                found[1].append(one.path)
        for _, hunks in self._blocks:
            for line in (line for hunk in hunks for line in hunk if line[0] in "+-"):
                found[line[0] == "+"].append(line[1:])
        return "\n".join(found[0]), "\n".join(found[1])

    @cached_property
    def balance(self) -> Counter[str]:
        """How many more times each stem stands on the new side than on the old one; never 0."""
        counts = Counter[str]()
        for text, sign in zip(self.sides, (-1, 1), strict=True):
            for stem, n in count_stems(text).items():
                counts[stem] += sign * n
        return Counter({stem: n for stem, n in counts.items() if n})

    @cached_property
    def path_stems(self) -> set[str]:
        """The stems of the words in the paths."""
        return extract_stems("\n".join(one.path for one in self.files))

    @cached_property
    def grounding(self) -> GroundingText:
        """The stems and numbers of paths and changed lines."""
        return GroundingText(self.changed_text)

    @cached_property
    def size(self) -> ChangeSize:
        """How much is added and removed."""
        return ChangeSize(
            sum(one.added for one in self.files),
            sum(one.removed for one in self.files),
            any(one.status == "D" for one in self.files),
            any(one.status == "R" for one in self.files),
        )

    @cached_property
    def kinds(self) -> set[str]:
        """What the files are for (`diff.path_kinds`)."""
        return {classify_path(one.path) for one in self.files}

    # --- what the lines say ---------------------------------------------------------------------------------

    @cached_property
    def versions(self) -> list[VersionChange]:
        """The versions that lines change, each pair once."""
        found: dict[tuple[str, str, str], VersionChange] = {}
        for path, old, new in self.pairs:
            if old and new and (change := _compare_versions(old, new, path)):
                found.setdefault((change.name, change.old, change.new), change)
        return list(found.values())

    @cached_property
    def heading_versions(self) -> list[str]:
        """The versions whose sections of a list of changes get a date: they are released."""
        found = (
            _VERSION.findall(heading)
            for path, heading, lines in self._headings
            if is_changelog(path) and any(line[0] == "+" and DATE.search(line) for line in lines)
        )
        return list(dict.fromkeys(version for versions in found for version in versions))

    @cached_property
    def replacements(self) -> list[tuple[str, str]]:
        """(old, new) texts where one line became another with one difference; the most frequent first."""
        found: dict[tuple[str, str], int] = {}
        for _, old, new in self.pairs:
            if old and new:
                _, was, became, _ = split_change(old, new)
                pair = was.strip(), became.strip()
                if any(pair) and max(map(len, pair)) <= _MAX_VALUE_LENGTH:
                    found[pair] = found.get(pair, 0) + 1
        return sorted(found, key=lambda pair: -found[pair])

    @cached_property
    def definitions(self) -> dict[str, list[tuple[str, str]]]:
        """(kind, name) of what is "added" and "removed", and (old, new) of what is "renamed", in order."""
        added: dict[tuple[str, str], None] = {}
        removed: dict[tuple[str, str], None] = {}
        renamed: dict[tuple[str, str], None] = {}
        for path, old, new in self.pairs:
            prose = PROSE_PATH.search(path) is not None
            before = find_definition(old, prose) if old else None
            after = find_definition(new, prose) if new else None
            if before and after and before[0] == after[0] and before[1] != after[1]:
                renamed[before[1], after[1]] = None
                continue
            if before:
                removed[before] = None
            if after:
                added[after] = None
        return {
            "added": [one for one in added if one not in removed],
            "removed": [one for one in removed if one not in added],
            "renamed": list(renamed),
        }

    @cached_property
    def new_names(self) -> list[str]:
        """Code names that stand in added lines only, in their order."""
        return _subtract_names(self._list_names(2), self._list_names(1))

    @cached_property
    def gone_names(self) -> list[str]:
        """Code names that stand in removed lines only, in their order."""
        return _subtract_names(self._list_names(1), self._list_names(2))

    def _list_names(self, side: int) -> list[str]:
        lines = (pair[side] for pair in self.pairs)
        return list(dict.fromkeys(name for line in lines if line for name in _CODE_NAME.findall(line)))

    # --- roles ----------------------------------------------------------------------------------------------

    @cached_property
    def roles(self) -> dict[str, str]:
        """The values of all roles of the change, the most telling role first."""
        found: dict[str, str] = {}
        for role, value in self._list_roles():
            if any(map(str.isalnum, value)) and len(value) <= _MAX_VALUE_LENGTH:
                found.setdefault(role, value)
        return found

    def _list_roles(self) -> Iterator[tuple[str, str]]:
        for i, one in enumerate(self.versions[:MAX_NAMES]):
            yield f"version{i}", one.new
            yield f"was{i}", one.old
            yield f"whose{i}", one.name
        added = [new for _, old, new in self.pairs if new and not old]
        for role, pattern in (("new-version", _VERSION), ("date", DATE), ("year", _YEAR)):
            yield role, next((match[0] for line in added if (match := pattern.search(line))), "")
        yield HEADING_VERSION, next(iter(self.heading_versions), "")
        yield "year", next((b for a, b in self.replacements if _YEAR.fullmatch(b)), "")
        for i, (old, new) in enumerate(self.definitions["renamed"][:MAX_NAMES]):
            yield f"renamed{i}", old
            yield f"renamed-to{i}", new
        yield from self._list_file_roles()
        for kind in ("added", "removed"):
            for i, (_, name) in enumerate(self.definitions[kind][:MAX_NAMES]):
                yield f"{kind}{i}", name
        for i, (old, new) in enumerate(self.replacements[:MAX_NAMES]):
            yield f"replaced{i}", old
            yield f"by{i}", new
        for role, names in (("new", self.new_names), ("gone", self.gone_names)):
            for i, name in enumerate(names[:MAX_NAMES]):
                yield f"{role}{i}", name

    def _list_file_roles(self) -> Iterator[tuple[str, str]]:
        for i, one in enumerate(self.files[:MAX_FILES]):
            folder, _, name = one.path.rpartition("/")
            yield f"path{i}", one.path
            yield f"file{i}", name
            yield f"stem{i}", name.partition(".")[0] or name
            for depth, part in enumerate(reversed(folder.split("/")[:4]) if folder else ()):
                yield f"folder{i}.{depth}", part
            yield f"top{i}", folder.partition("/")[0]
            yield f"tested{i}", _find_tested_name(name)
            if one.old_path:
                yield f"old-file{i}", one.old_path.rpartition("/")[2]


def _find_tested_name(name: str) -> str:
    """What a test file tests, by its name: `test_auth.py` and `auth.test.js` test auth."""
    stem = name.partition(".")[0]
    found = re.sub(r"^tests?_|_tests?$|_spec$|Tests?$", "", stem)
    return found if found != stem or ".test." in name or ".spec." in name else ""


def _compare_versions(old: str, new: str, path: str) -> VersionChange | None:
    versions = find_version_change(old, new, _VERSION)
    if versions is None:
        return None
    before = _NAME_BEFORE.findall(old[: old.find(versions[0])])
    names = [name.rstrip(".-/@") for name in before if name.lower() not in _NO_DEPENDENCY]
    return VersionChange(names[-1] if names else "", *versions, path)


def _subtract_names(names: Sequence[str], others: Sequence[str]) -> list[str]:
    known = set(others)
    return [name for name in names if name not in known and len(name) > 2]
