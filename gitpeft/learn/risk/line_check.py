"""Checks line attribution: is the line with the largest weight one that a later fix changed?

SZZ names the lines of a buggy commit that a fix removed or changed. The added line with the largest weight
hits when it is one of them; a line drawn at random hits as often as their share among all added lines shown.
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass

import numpy as np

from gitpeft.diff.patch import normalize_line
from gitpeft.git.objects import read_file
from gitpeft.git.repository import Repository
from gitpeft.learn.evaluation.text_metrics import bootstrap_mean
from gitpeft.learn.szz.szz import BugIntroducingCommit
from gitpeft.risk.line_attribution import ChangedLine

MAX_CHECKED_COMMITS = 200
"""Commits that are checked, the newest ones: each takes a call of git for every file."""

FixedLineLookup = Callable[[Sequence[str]], Mapping[str, frozenset[ChangedLine]]]
"""Finds the lines of commits that fixes changed, as the compact text shows them."""


@dataclass(frozen=True, slots=True)
class LineHits:
    """On `n` commits with fixed and other added lines: the share of `hits`, that of a random line (`chance`),
    and the difference (`gain`) with its 95 % bootstrap interval."""

    n: int = 0
    hits: float = 0.0
    chance: float = 0.0
    gain: tuple[float, float, float] = (0.0, 0.0, 0.0)

    def as_dict(self) -> dict[str, object]:
        """Plain values, as `RiskModel.report` keeps them."""
        return asdict(self) | {"gain": list(self.gain)}


def make_fixed_line_lookup(
    repository: Repository, verdicts: Mapping[str, BugIntroducingCommit]
) -> FixedLineLookup:
    """A lookup that reads the lines from the commits."""

    def look_up_lines(shas: Sequence[str]) -> dict[str, frozenset[ChangedLine]]:
        known = [sha for sha in shas if sha in verdicts][-MAX_CHECKED_COMMITS:]
        return {sha: frozenset(_read_fixed_lines(repository, verdicts[sha])) for sha in known}

    return look_up_lines


def _read_fixed_lines(repository: Repository, verdict: BugIntroducingCommit) -> list[ChangedLine]:
    texts: dict[str, list[str]] = {}
    for path in dict.fromkeys(path for path, _ in verdict.lines):
        texts[path] = read_file(repository, verdict.sha, path).decode("utf-8", "replace").split("\n")
    return [
        (path, f"+{normalize_line(texts[path][number - 1])}")
        for path, number in verdict.lines
        if 0 < number <= len(texts[path]) and texts[path][number - 1].strip()
    ]


def measure_line_hits(
    rows: Sequence[tuple[Sequence[ChangedLine], frozenset[ChangedLine]]], seed: int = 0
) -> LineHits:
    """How often the first line of a commit was fixed later; rows are (lines by weight, fixed lines)."""
    hits, chances = [], []
    for lines, fixed in rows:
        right = [line in fixed for line in lines]
        if any(right) and not all(right):
            hits.append(float(right[0]))
            chances.append(sum(right) / len(right))
    if not hits:
        return LineHits()
    gain = bootstrap_mean((np.array(hits) - np.array(chances)).tolist(), seed)
    mean, low, high = (round(float(x), 4) for x in gain)
    return LineHits(
        len(hits), round(float(np.mean(hits)), 4), round(float(np.mean(chances)), 4), (mean, low, high)
    )
