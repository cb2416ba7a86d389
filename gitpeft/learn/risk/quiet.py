"""How low a score must be for a change to be called quiet: so low that hardly any later bug was below it.

The limit is a percentile among the recent commits. It is taken from the older half of the bugs of an
evaluation, by split conformal prediction (Vovk et al. 2005): with m of them, the k-th lowest one, k =
floor((1 - RECALL) (m + 1)), leaves on average at least `RECALL` of the bugs of alike commits at or above it.
It is checked on the newer half, and used only where it held there.
"""

from dataclasses import asdict, dataclass
from math import sqrt

import numpy as np

from gitpeft.learn.risk.classifiers import Array, score_commits
from gitpeft.learn.risk.prequential import RiskTrial
from gitpeft.risk.model import MIN_JUDGED_BUGS, share_below

RECALL = 0.95
"""The share of later bugs that must not be called quiet."""

_QUANTILES = 201
_Z = 1.96


@dataclass(frozen=True, slots=True)
class QuietZone:
    """What is quiet, and what became of later commits that were.

    `below` is the limit, a percentile, None with the reason `why`. Of `of` later bugs, `outside` (mean, low,
    high) is the share that was not quiet; of `commits` later commits `n` were quiet, and `bugs` of these
    needed a fix.
    """

    below: float | None
    why: str = ""
    commits: int = 0
    n: int = 0
    bugs: int = 0
    of: int = 0
    outside: tuple[float, float, float] | None = None

    def as_dict(self) -> dict[str, object]:
        """Plain values, as `RiskModel.report` keeps them and as they come back from JSON."""
        return asdict(self) | {"outside": list(self.outside) if self.outside else None}


def find_quiet_zone(places: Array, truth: Array) -> QuietZone:
    """The quiet changes of a model, chosen on the older bugs of an evaluation and checked on the newer.

    `places` (n) are the percentiles of the commits by that model (`compute_percentiles`), oldest first,
    `truth` (n) is 1 for those that were fixed later.
    """
    bugs = np.flatnonzero(truth)
    needed = max(MIN_JUDGED_BUGS, round(1 / (1 - RECALL)) - 1)
    if len(bugs) // 2 < needed:
        return QuietZone(
            None, f"too few bugs to tell what is quiet ({len(bugs)} later ones, {2 * needed} needed)"
        )
    cut = int(bugs[len(bugs) // 2])
    older = np.sort(places[:cut][truth[:cut] > 0])
    limit = float(older[int((1 - RECALL) * (len(older) + 1) + 1e-9) - 1])
    return _check_limit(limit, places[cut:], truth[cut:])


def compute_percentiles(name: str, tried: RiskTrial) -> Array:
    """The percentile of each commit of an evaluation among the recent ones before its block, (n)."""
    found = []
    for part in tried.parts:
        usual = np.quantile(part.fit.usual[name], np.linspace(0, 1, _QUANTILES)).tolist()
        found += [
            100 * share_below(usual, float(one)) for one in score_commits(part.models[name], part.block)
        ]
    return np.array(found)


def _check_limit(limit: float, places: Array, truth: Array) -> QuietZone:
    quiet, of = places < limit, int(truth.sum())
    n, bugs = int(quiet.sum()), int(truth[quiet].sum())
    outside = compute_wilson_interval(of - bugs, of)
    if outside[0] < RECALL:
        why = (
            f"nothing is called quiet: {bugs} of {of} later bugs would have been, more than {1 - RECALL:.0%}"
        )
        return QuietZone(None, why, len(places), n, bugs, of, outside)
    if not n:
        return QuietZone(None, "nothing is called quiet: hardly any commit ranks below all bugs", len(places))
    return QuietZone(round(limit, 2), "", len(places), n, bugs, of, outside)


def compute_wilson_interval(hits: int, count: int) -> tuple[float, float, float]:
    """A share with its 95 % interval (Wilson 1927)."""
    share = hits / count
    centre = (share + _Z**2 / (2 * count)) / (1 + _Z**2 / count)
    half = _Z * sqrt(share * (1 - share) / count + _Z**2 / (4 * count**2)) / (1 + _Z**2 / count)
    return share, max(0.0, centre - half), min(1.0, centre + half)
