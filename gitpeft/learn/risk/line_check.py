"""Whether the lines that weigh most are the ones that fixes changed: hides the labels of lines, and chance.

A verdict of `learn.labels` names lines of the buggy commit that a later fix removed or changed. The heaviest
added line hits when it is one of them; a line drawn at random hits as often as their share among all added
lines that are shown.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import numpy as np

from gitpeft.diff.patch import normalize_line
from gitpeft.git.objects import read_file
from gitpeft.git.repository import Repository
from gitpeft.learn.evaluation.text_metrics import bootstrap_mean
from gitpeft.learn.szz.szz import BugIntroducingCommit
from gitpeft.risk.line_attribution import ChangedLine

MAX_CHECKED_COMMITS = 200
"""Commits that are looked at, the newest ones: each costs a question to git for every file."""

FixedLineLookup = Callable[[Sequence[str]], Mapping[str, frozenset[ChangedLine]]]
"""The lines of commits that fixes changed, as the compact text shows them."""


def make_fixed_line_lookup(
    repository: Repository, verdicts: Mapping[str, BugIntroducingCommit]
) -> FixedLineLookup:
    """Looks the lines up in the commits themselves."""

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
) -> dict[str, Any]:
    """How often the first line of a commit is guilty, against chance; rows are (its lines, the guilty ones).

    `n` commits of which some shown lines are guilty and some are not; `hits` and `chance` are shares of them,
    `gain` the difference with its 95 % bootstrap interval. No gain where there is no such commit.
    """
    hits, chances = [], []
    for lines, guilty in rows:
        right = [line in guilty for line in lines]
        if any(right) and not all(right):
            hits.append(float(right[0]))
            chances.append(sum(right) / len(right))
    if not hits:
        return {"n": 0, "hits": 0.0, "chance": 0.0, "gain": [0.0, 0.0, 0.0]}
    gain = bootstrap_mean((np.array(hits) - np.array(chances)).tolist(), seed)
    means = {"hits": round(float(np.mean(hits)), 4), "chance": round(float(np.mean(chances)), 4)}
    return {"n": len(hits)} | means | {"gain": [round(float(x), 4) for x in (gain.mean, gain.low, gain.high)]}
