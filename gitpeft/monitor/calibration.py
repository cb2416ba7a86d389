"""Whether a risk score is calibrated: a test of predicted against observed bugs.

A score that gives ten commits a probability of 0.3 each predicts three bugs. That is compared with how many
of the commits that were labelled since the score was fitted are bug-introducing (see `learn.risk.relabel`).
The prediction itself is an estimate from the few bugs that calibrated the score, and has their uncertainty.
Labelling takes seconds, so the result is kept in `<state_dir>/promise.json` until enough new commits exist.
"""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from gitpeft.bundle.bundle import Bundle
from gitpeft.files import write_json_cache
from gitpeft.git.repository import Repository

RECHECK_COMMITS = 20
"""After this many new commits the calibration is checked again."""

MAX_P_VALUE = 0.002
"""Below this p-value the score counts as miscalibrated; small, because the check is made again and again."""

CALIBRATION_DIVISOR = 8
"""One in so many of the labelled commits, the newest, calibrates a score (see `learn.risk.selection`)."""

MIN_BUGS = 5
"""With fewer bugs than this, both predicted and observed, the check says nothing."""


@dataclass(frozen=True, slots=True)
class CalibrationCheck:
    """Of `n` commits labelled since: bugs predicted, bugs observed, and the p-value of the difference."""

    n: int
    predicted: float
    observed: int
    p_value: float

    @classmethod
    def from_outcomes(cls, judged: Sequence[tuple[float, bool]], calibrated: int) -> "CalibrationCheck":
        """From each commit's probability and label; the score was calibrated on `calibrated` bugs.

        The p-value is that of Poisson's binomial or, where that is larger, of a normal distribution with the
        variance of the estimate added: predicted² / calibrated, as of a rate from so many events.
        """
        probabilities = [probability for probability, _ in judged]
        observed, predicted = sum(label for _, label in judged), sum(probabilities)
        shares = compute_poisson_binomial(probabilities)
        exact = 2 * min(sum(shares[: observed + 1]), sum(shares[observed:]))
        variance = sum(p * (1 - p) for p in probabilities) + predicted**2 / max(1, calibrated)
        off = max(0.0, abs(observed - predicted) - 0.5)
        wide = math.erfc(off / math.sqrt(2 * variance)) if variance else 1.0
        return cls(len(judged), predicted, observed, min(1.0, max(exact, wide)))

    @classmethod
    def from_dict(cls, data: Mapping[str, float]) -> "CalibrationCheck":
        """Read what `as_dict` gave. KeyError, TypeError or ValueError for anything else."""
        return cls(int(data["n"]), float(data["promised"]), int(data["found"]), float(data["chance"]))

    def as_dict(self) -> dict[str, float]:
        """For JSON, by the names that it has had there from the beginning."""
        return {"n": self.n, "promised": self.predicted, "found": self.observed, "chance": self.p_value}

    @property
    def is_miscalibrated(self) -> bool:
        """Whether the score predicts too many or too few bugs, beyond chance."""
        return self.p_value < MAX_P_VALUE and max(self.predicted, self.observed) >= MIN_BUGS


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
            kept = CalibrationCheck.from_dict(data["promise"])
            return kept, _count_commits_since(repo, str(data["head"])) >= RECHECK_COMMITS
    except (OSError, ValueError, KeyError, TypeError):
        pass
    return None, _count_commits_since(repo, bundle.newest_commit) >= RECHECK_COMMITS


def save_calibration_check(repo: Repository, bundle: Bundle, check: CalibrationCheck) -> None:
    """Keep it for the next look."""
    data = {"model": bundle.id, "head": repo.resolve_head(), "promise": check.as_dict()}
    write_json_cache(repo.state_dir / "promise.json", data)


def _count_commits_since(repo: Repository, since: str) -> int:
    return (repo.count_commits_since(since) or 0) if since else 0
