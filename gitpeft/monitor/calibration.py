"""Whether a risk score keeps its promises: hides the test of its calibration, and when it is made again.

A score that gives ten commits a chance of 0.3 each promises three bugs. Held against that is how many of the
commits that got their verdict since it was fitted turned out buggy (see `learn.verdicts`). The promise itself
is an estimate, from the few bugs that calibrated the score, and has their uncertainty. Working that out
takes seconds, so it lies in `<state_dir>/promise.json` until enough new commits have come.
"""

import json
import math
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from gitpeft.bundle.bundle import Bundle
from gitpeft.files import write_json_cache
from gitpeft.git.repository import Repository

RECHECK_COMMITS = 20
"""After this many new commits the promises are looked at again."""

MAX_P_VALUE = 0.002
"""A number of bugs less likely than this breaks the promise; small, because one looks again and again."""

CALIBRATION_DIVISOR = 8
"""One in so many of the labelled commits, the newest, calibrates a score (see `learn.defects`)."""

MIN_BUGS = 5
"""Neither fewer bugs promised nor fewer found than this say anything."""


@dataclass(frozen=True, slots=True)
class CalibrationCheck:
    """Of `n` commits judged since: bugs promised, bugs found, and how likely as odd a number is."""

    n: int
    promised: float
    found: int
    chance: float

    @classmethod
    def from_outcomes(cls, judged: Sequence[tuple[float, bool]], calibrated: int) -> "CalibrationCheck":
        """From each commit's probability and fate; `calibrated` bugs have calibrated the score.

        The chance is that of Poisson's binomial or, where that is larger, of a normal distribution with the
        variance of the estimate added: promised² / calibrated, as of a rate from so many events.
        """
        found, promised = sum(truth for _, truth in judged), sum(chance for chance, _ in judged)
        shares = compute_poisson_binomial([chance for chance, _ in judged])
        exact = 2 * min(sum(shares[: found + 1]), sum(shares[found:]))
        variance = sum(p * (1 - p) for p, _ in judged) + promised**2 / max(1, calibrated)
        off = max(0.0, abs(found - promised) - 0.5)
        wide = math.erfc(off / math.sqrt(2 * variance)) if variance else 1.0
        return cls(len(judged), promised, found, min(1.0, max(exact, wide)))

    @property
    def is_miscalibrated(self) -> bool:
        """Whether the score promises too much or too little, beyond chance."""
        return self.chance < MAX_P_VALUE and max(self.promised, self.found) >= MIN_BUGS


def compute_poisson_binomial(chances: Sequence[float]) -> list[float]:
    """The probability of 0, 1, … n successes of independent trials (Poisson's binomial), by convolution."""
    shares = [1.0]
    for p in chances:
        shares = [a * (1 - p) + b * p for a, b in zip([*shares, 0.0], [0.0, *shares], strict=True)]
    return shares


def load_calibration_check(repo: Repository, bundle: Bundle) -> tuple[CalibrationCheck | None, bool]:
    """What was last worked out for a bundle, and whether it is time to do so again."""
    try:
        data = json.loads((repo.state_dir / "promise.json").read_text(encoding="utf-8"))
        if data["model"] == bundle.id:
            kept = CalibrationCheck(**data["promise"])
            return kept, _count_commits_since(repo, str(data["head"])) >= RECHECK_COMMITS
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None, _count_commits_since(repo, bundle.newest_commit) >= RECHECK_COMMITS


def save_calibration_check(repo: Repository, bundle: Bundle, promise: CalibrationCheck) -> None:
    """Keep it for the next look."""
    told = {"model": bundle.id, "head": repo.resolve_head(), "promise": asdict(promise)}
    write_json_cache(repo.state_dir / "promise.json", told)


def _count_commits_since(repo: Repository, since: str) -> int:
    return (repo.count_commits_since(since) or 0) if since else 0
