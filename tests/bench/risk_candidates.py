"""Candidate features of the risk prior, in groups: what they count, computed in one pass over a history.

They are computed as a hook could: from what was before a change (in order of time) and from its stored text,
with the standard library alone. `bench_risk_features.py` measures what each group is worth.
"""

import math
import re
from collections import Counter, defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

from gitpeft.history.context import YEAR_SECONDS, MeasuredChange, TouchedFile
from gitpeft.learn.risk.metric_replay import MeasuredCommit
from gitpeft.risk.change_metrics import DAY_SECONDS, compute_entropy, is_code_file, is_test_file
from gitpeft.risk.real_lines import read_real_lines

CANDIDATES: dict[str, tuple[str, ...]] = {
    "fixes of the touched functions": ("function_fixes", "function_changes", "function_fix_share"),
    "fix density of the files": ("fix_share", "code_fixes"),
    "time since the last fix": ("last_fix",),
    "known bugs in the files and functions": ("file_bugs", "function_bugs"),
    "co-change partners missing": ("companions_missing", "companion_strength"),
    "ownership": ("own_share", "minor_authors", "author_entropy"),
    "entropy over code files": ("code_entropy",),
    "tests beside the code": ("test_files", "untested_code"),
    "size by kind of file": ("test_added", "prose_added", "data_added"),
    "depth: signatures": ("signatures_added", "signatures_removed"),
    "depth: control flow": ("branches_added", "branches_removed"),
    "depth: constants": ("constants_added", "only_constants"),
    "depth: edited lines": ("edited_lines",),
}
"""The features by group, in the order of a row of `compute_candidates`."""

CANDIDATE_NAMES = tuple(name for names in CANDIDATES.values() for name in names)

_HALF_LIFE_DAYS = 90
_COMPANION_CHANGES, _COMPANION_FILES, _COMPANION_SUPPORT, _COMPANION_SHARE = 50, 20, 3, 0.5
_PROSE = frozenset(("md", "markdown", "rst", "txt", "adoc", "text"))
_SIGNATURE = re.compile(
    r"^\s*(?:(?:export|default|public|private|protected|internal|static|async|abstract|final|override|virtual"
    r"|inline|pub(?:\(\w+\))?|unsafe|open)\s+)*(?:def|class|func|fn|function|struct|interface|trait|impl|enum"
    r"|module)\b|^[A-Za-z_][\w\s*&<>,:\[\]]*\s[*&]?\w+\s*\([^;]*\)\s*(?:const)?\s*\{?\s*$"
)
_BRANCH = re.compile(
    r"\b(?:if|elif|else|elsif|unless|for|while|until|switch|case|match|when|try|catch|except|rescue|finally"
    r"|return|break|continue|goto|raise|throw|panic|defer|await|yield)\b|&&|\|\||\?"
)
_CONSTANT = re.compile(r"\b\d[\w.]*\b|\"(?:[^\"\\]|\\.)*\"|'(?:[^'\\]|\\.)*'")


def compute_candidates(
    measured: Sequence[MeasuredCommit], texts: Mapping[str, str], known: Mapping[str, int]
) -> list[list[float]]:
    """A row of `CANDIDATE_NAMES` for each commit.

    `measured` is in order of time, `texts` are stored changes, `known` when each bug became known.
    """
    past = _Past(known)
    rows = []
    for one in measured:
        rows.append([*past.describe(one), *describe_text(one.change.counted_files, texts.get(one.sha, ""))])
        past.add(one)
    return rows


@dataclass(slots=True)
class _Touch:
    """One earlier change of a file."""

    number: int
    sha: str
    time: int
    author: str
    fix: bool
    functions: frozenset[str]


class _Past:
    """What happened to each file so far."""

    def __init__(self, known: Mapping[str, int]) -> None:
        self.known = known
        self.touches: dict[str, list[_Touch]] = defaultdict(list)
        self.files: list[list[str]] = []

    def add(self, one: MeasuredCommit) -> None:
        change = one.change
        for file in change.files:
            if file.origin and file.path not in self.touches:
                self.touches[file.path] = list(self.touches.get(file.origin, ()))
            self.touches[file.path].append(
                _Touch(len(self.files), one.sha, change.time, change.author, change.fix, file.functions)
            )
        self.files.append([file.path for file in change.files])

    def describe(self, one: MeasuredCommit) -> Iterator[float]:
        change = one.change
        files = change.counted_files
        before = [self.touches.get(file.origin or file.path, []) for file in files]
        yield from self._describe_fixes(change, files, before)
        yield from self._describe_bugs(change.time, files, before)
        yield from self._describe_companions(files, before)
        yield from _describe_owners(change.author, before)

    def _describe_fixes(
        self, change: MeasuredChange, files: Sequence[TouchedFile], before: Sequence[Sequence[_Touch]]
    ) -> Iterator[float]:
        recent = [[one for one in found if change.time - one.time <= YEAR_SECONDS] for found in before]
        shared = [
            (len(file.functions & one.functions), one.fix)
            for file, found in zip(files, recent, strict=True)
            for one in found
        ]
        fixes, changes = sum(n for n, fix in shared if fix), sum(n for n, _ in shared)
        yield from (fixes, changes, fixes / (changes + 1))
        repaired = sum(one.fix for found in recent for one in found)
        yield repaired / (sum(map(len, recent)) + 1)
        yield sum(
            one.fix
            for file, found in zip(files, recent, strict=True)
            if is_code_file(file.path)
            for one in found
        )
        last = [max((one.time for one in found if one.fix), default=None) for found in before]
        days = [max(0, change.time - time) / DAY_SECONDS for time in last if time is not None]
        yield max((math.exp(-age / _HALF_LIFE_DAYS) for age in days), default=0.0)

    def _describe_bugs(
        self, now: int, files: Sequence[TouchedFile], before: Sequence[Sequence[_Touch]]
    ) -> Iterator[float]:
        buggy = [[one for one in found if self.known.get(one.sha, now) < now] for found in before]
        yield len({one.sha for found in buggy for one in found})
        yield len(
            {
                one.sha
                for file, found in zip(files, buggy, strict=True)
                for one in found
                if file.functions & one.functions
            }
        )

    def _describe_companions(
        self, files: Sequence[TouchedFile], before: Sequence[Sequence[_Touch]]
    ) -> Iterator[float]:
        here = {file.path for file in files} | {file.origin for file in files if file.origin}
        missing: dict[str, float] = {}
        for found in before[:8]:
            newest = [self.files[one.number] for one in found[-_COMPANION_CHANGES:]]
            newest = [paths for paths in newest if len(paths) <= _COMPANION_FILES]
            counts = Counter(path for paths in newest for path in paths)
            for path, n in counts.most_common(8):
                if path not in here and n >= _COMPANION_SUPPORT and n >= _COMPANION_SHARE * len(newest):
                    missing[path] = max(missing.get(path, 0.0), n / len(newest))
        yield from (len(missing), sum(missing.values()))


def _describe_owners(author: str, before: Sequence[Sequence[_Touch]]) -> Iterator[float]:
    """The author's mean share of the earlier changes, authors with under a tenth, entropy of authors."""
    counts = [Counter(one.author for one in found) for found in before if found]
    shares = [count[author] / count.total() for count in counts]
    yield sum(shares) / len(shares) if shares else 0.5
    yield sum(n < 0.1 * count.total() for count in counts for n in count.values())
    both: Counter[str] = Counter()
    for count in counts:
        both.update(count)
    yield compute_entropy(list(both.values())) if both else 0.0


def describe_text(files: Sequence[TouchedFile], text: str) -> Iterator[float]:
    """What the change itself tells."""
    code = [file for file in files if is_code_file(file.path)]
    tests = [file for file in files if is_test_file(file.path)]
    prose = [file for file in files if file.path.rpartition(".")[2].lower() in _PROSE]
    known = {file.path for file in (*code, *tests, *prose)}
    yield compute_entropy([file.added + file.removed for file in code]) if code else 0.0
    added = sum(file.added for file in code)
    yield from (len(tests), 0.0 if tests else added)
    yield sum(file.added for file in tests)
    yield sum(file.added for file in prose)
    yield sum(file.added for file in files if file.path not in known)
    plus, minus = read_real_lines(text)
    for pattern in (_SIGNATURE, _BRANCH):
        for lines in (plus, minus):
            yield sum(len(pattern.findall(line)) for line in lines)
    yield sum(len(_CONSTANT.findall(line)) for line in plus)
    bare = [Counter(_CONSTANT.sub("0", line) for line in lines) for lines in (plus, minus)]
    yield float(bool(plus) and bare[0] == bare[1])
    words = [Counter(word for line in lines for word in line.split()) for lines in (plus, minus)]
    yield (words[0] & words[1]).total()
