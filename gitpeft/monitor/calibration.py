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
from gitpeft.files import keep
from gitpeft.git.repository import Repository

AGAIN = 20
"""After this many new commits the promises are looked at again."""

CHANCE = 0.002
"""A number of bugs less likely than this breaks the promise; small, because one looks again and again."""

CALIBRATION = 8
"""One in so many of the labelled commits, the newest, calibrates a score (see `learn.defects`)."""

LEAST = 5
"""Neither fewer bugs promised nor fewer found than this say anything."""


@dataclass(frozen=True, slots=True)
class Promise:
    """Of `n` commits judged since: bugs promised, bugs found, and how likely as odd a number is."""

    n: int
    promised: float
    found: int
    chance: float

    @classmethod
    def of(cls, judged: Sequence[tuple[float, bool]], calibrated: int) -> "Promise":
        """From each commit's probability and fate; `calibrated` bugs have calibrated the score.

        The chance is that of Poisson's binomial or, where that is larger, of a normal distribution with the
        variance of the estimate added: promised² / calibrated, as of a rate from so many events.
        """
        found, promised = sum(truth for _, truth in judged), sum(chance for chance, _ in judged)
        shares = distribution([chance for chance, _ in judged])
        exact = 2 * min(sum(shares[: found + 1]), sum(shares[found:]))
        variance = sum(p * (1 - p) for p, _ in judged) + promised**2 / max(1, calibrated)
        off = max(0.0, abs(found - promised) - 0.5)
        wide = math.erfc(off / math.sqrt(2 * variance)) if variance else 1.0
        return cls(len(judged), promised, found, min(1.0, max(exact, wide)))

    @property
    def broken(self) -> bool:
        """Whether the score promises too much or too little, beyond chance."""
        return self.chance < CHANCE and max(self.promised, self.found) >= LEAST


def distribution(chances: Sequence[float]) -> list[float]:
    """The probability of 0, 1, … n successes of independent trials (Poisson's binomial), by convolution."""
    shares = [1.0]
    for p in chances:
        shares = [a * (1 - p) + b * p for a, b in zip([*shares, 0.0], [0.0, *shares], strict=True)]
    return shares


def load(repo: Repository, bundle: Bundle) -> tuple[Promise | None, bool]:
    """What was last worked out for a bundle, and whether it is time to do so again."""
    try:
        data = json.loads((repo.state_dir / "promise.json").read_text(encoding="utf-8"))
        if data["model"] == bundle.id:
            kept = Promise(**data["promise"])
            return kept, _came(repo, str(data["head"])) >= AGAIN
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None, _came(repo, bundle.made_at) >= AGAIN


def store(repo: Repository, bundle: Bundle, promise: Promise) -> None:
    """Keep it for the next look."""
    told = {"model": bundle.id, "head": repo.head(), "promise": asdict(promise)}
    keep(repo.state_dir / "promise.json", told)


def _came(repo: Repository, since: str) -> int:
    return (repo.since(since) or 0) if since else 0
