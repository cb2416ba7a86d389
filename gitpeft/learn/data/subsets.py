"""Parts of a history on which methods are compared besides the whole.

Low resource: the newest commits of the training part, as if the repository had no more. Language transfer:
training on commits in one language, evaluation on commits in another, compared with as much training in the
language itself. The exemplars of a part come from its own training commits only.
"""

import re
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import PurePosixPath
from typing import Generic, TypeVar

from gitpeft.diff.compact import split_compact
from gitpeft.errors import GitpeftError

LOW_RESOURCE, LANGUAGE_TRANSFER = "low resource", "transfer"
MIN_SUBSET_TRAINING, MIN_SUBSET_VALIDATION = 20, 10
"""How many commits a part needs for training, and for validation."""

LANGUAGE_BY_SUFFIX = {
    "c": "c", "h": "c", "cc": "c++", "cpp": "c++", "cxx": "c++", "hh": "c++", "hpp": "c++", "cs": "c#",
    "go": "go", "java": "java", "kt": "kotlin", "scala": "scala", "swift": "swift", "rs": "rust",
    "py": "python", "pyi": "python", "rb": "ruby", "php": "php", "pl": "perl", "sh": "shell",
    "js": "javascript", "mjs": "javascript", "cjs": "javascript", "jsx": "javascript", "ts": "typescript",
    "tsx": "typescript", "html": "html", "css": "css", "scss": "css", "sql": "sql", "md": "markdown",
    "rst": "restructuredtext", "yml": "yaml", "yaml": "yaml", "json": "json", "toml": "toml",
}  # fmt: skip
"""Languages by the ending of a file's name; another ending is a language of its own."""

_CHANGE_COUNTS = re.compile(r" \+(\d+) -(\d+)")


T = TypeVar("T")
"""An example of a task."""


@dataclass(frozen=True, slots=True)
class HistorySubset:
    """A part of a history.

    Its kind, what is trained on (a number of commits, or a language), the language of the
    evaluation, and the number of training commits.
    """

    kind: str
    taught: str
    asked: str
    examples: int

    @property
    def label(self) -> str:
        """For tables and for the name of a run's rung."""
        return f"newest {self.taught}" if self.kind == LOW_RESOURCE else f"{self.taught} → {self.asked}"


@dataclass(frozen=True, slots=True)
class LanguageSplit(Generic[T]):
    """A training part and a validation part, each with the language of every example."""

    train: Sequence[T]
    valid: Sequence[T]
    language: Callable[[T], str]

    def select_subset(self, cut: HistorySubset) -> tuple[list[T], list[T], list[T]]:
        """The training, validation and evaluation examples of a part."""
        if cut.kind == LOW_RESOURCE:
            return list(self.train[-cut.examples :]), list(self.valid), list(self.valid)
        valid = self._filter_language(self.valid, cut.taught)  # nothing is known of the other language
        asked = self._filter_language(self.valid, cut.asked)
        return self._filter_language(self.train, cut.taught)[-cut.examples :], valid, asked

    def _filter_language(self, examples: Sequence[T], language: str) -> list[T]:
        return [one for one in examples if self.language(one) == language]


def plan_subsets(
    parts: LanguageSplit[T], sizes: Sequence[int], pairs: Sequence[tuple[str, str]]
) -> list[HistorySubset]:
    """The parts that were asked for; GitpeftError where one is too small."""
    found = [_plan_low_resource(parts, size) for size in dict.fromkeys(sorted(sizes))]
    for taught, asked in dict.fromkeys(pairs):
        found += _plan_transfer(parts, taught, asked)
    return list(dict.fromkeys(found))


def _plan_low_resource(parts: LanguageSplit[T], size: int) -> HistorySubset:
    if not MIN_SUBSET_TRAINING <= size < len(parts.train):
        raise GitpeftError(
            f"cannot take {size} of the {len(parts.train)} training commits",
            f"choose numbers from {MIN_SUBSET_TRAINING} to {len(parts.train) - 1}, "
            "as in --low-resource 50,200",
        )
    return HistorySubset(LOW_RESOURCE, str(size), "", size)


def _plan_transfer(parts: LanguageSplit[T], taught: str, asked: str) -> list[HistorySubset]:
    """From one language to the other, and with as many commits within the other."""
    teach, ask = (Counter(map(parts.language, part)) for part in (parts.train, parts.valid))
    short = [
        f"{have} {part} commits in {name}"
        for name, have, least, part in (
            (taught, teach[taught], MIN_SUBSET_TRAINING, "training"),
            (taught, ask[taught], MIN_SUBSET_VALIDATION, "validation"),
            (asked, teach[asked], MIN_SUBSET_TRAINING, "training"),
            (asked, ask[asked], MIN_SUBSET_VALIDATION, "evaluation"),
        )
        if have < least
    ]
    if short:
        known = ", ".join(f"{name} ({n})" for name, n in teach.most_common() if n >= MIN_SUBSET_TRAINING)
        raise GitpeftError(
            f"{taught}:{asked} cannot be compared: only {short[0]}",
            f"languages with enough commits: {known or 'none'}",
        )
    size = min(teach[taught], teach[asked])
    return [
        HistorySubset(LANGUAGE_TRANSFER, taught, asked, size),
        HistorySubset(LANGUAGE_TRANSFER, asked, asked, size),
    ]


def parse_language_pairs(text: str) -> list[tuple[str, str]]:
    """`python:go,go:python` as pairs of languages, which may be named by a file's ending as well."""
    found = []
    for one in filter(None, text.split(",")):
        taught, colon, asked = (part.strip().lower() for part in one.partition(":"))
        names = tuple(LANGUAGE_BY_SUFFIX.get(name.lstrip("."), name) for name in (taught, asked))
        if not colon or not all(names) or names[0] == names[1]:
            raise GitpeftError(
                f"'{one}' does not name two languages", "write FROM:TO, as in --transfer python:go"
            )
        found.append((names[0], names[1]))
    return found


def parse_sizes(text: str) -> list[int]:
    """`50,200,1000` as numbers."""
    try:
        return [int(one) for one in text.split(",") if one.strip()]
    except ValueError:
        raise GitpeftError(
            f"'{text}' is not a list of numbers", "write them as in --low-resource 50,200,1000"
        ) from None


def detect_main_language(change: str) -> str:
    """The language of most changed lines of a compact change; "" where no file has one."""
    lines: Counter[str] = Counter()
    for label, path in split_compact(change)[0]:
        ending = PurePosixPath(path).suffix[1:].lower()
        counts = _CHANGE_COUNTS.search(label, len(path) if label.startswith(path) else 0)
        if ending:
            changed = int(counts[1]) + int(counts[2]) if counts else 0
            lines[LANGUAGE_BY_SUFFIX.get(ending, ending)] += changed or 1
    return max(lines, key=lambda name: (lines[name], name)) if lines else ""
