"""Metrics of a ranking of commits by risk, with their confidence intervals.

`truth` holds 1 for a commit that a later fix corrected and 0 for a clean one, `scores` what a model said
(higher is riskier), `effort` the changed lines. All functions take arrays of one length n, in the same order.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from gitpeft.learn.evaluation.text_metrics import ConfidenceInterval

FloatArray = NDArray[np.float64]
CALIBRATION_BINS = 10


def roc_auc(truth: FloatArray, scores: FloatArray) -> float:
    """The share of pairs, one buggy and one clean, in which the buggy one scores higher; ties count half.

    NaN where there is no such pair.
    """
    bad, good = int(truth.sum()), int((1 - truth).sum())
    if not bad or not good:
        return float("nan")
    return float((rank_values(scores)[truth > 0].sum() - bad * (bad + 1) / 2) / (bad * good))


def rank_values(values: FloatArray) -> FloatArray:
    """The rank of each value from 1 on; equal values share their mean rank."""
    order = np.argsort(values, kind="stable")
    _, first, counts = np.unique(values[order], return_index=True, return_counts=True)
    shared = np.repeat(first + (counts + 1) / 2, counts)
    found = np.empty(len(values))
    found[order] = shared
    return found


def spearman_correlation(a: FloatArray, b: FloatArray) -> float:
    """The rank correlation of two lists; NaN where one of them is constant."""
    x, y = rank_values(a) - (len(a) + 1) / 2, rank_values(b) - (len(b) + 1) / 2
    spread = float(np.sqrt((x * x).sum() * (y * y).sum()))
    return float((x * y).sum() / spread) if spread else float("nan")


def pr_auc(truth: FloatArray, scores: FloatArray) -> float:
    """Average precision: precision at each threshold, weighted by the recall that it adds."""
    if not truth.sum():
        return float("nan")
    order = np.argsort(-scores, kind="stable")
    hits = np.cumsum(truth[order])
    ends = np.append(np.diff(scores[order]) != 0, True)  # equal scores are one threshold
    recall, precision = hits[ends] / truth.sum(), hits[ends] / (np.flatnonzero(ends) + 1)
    return float((np.diff(recall, prepend=0.0) * precision).sum())


def f1_score(truth: FloatArray, flagged: FloatArray) -> float:
    """The harmonic mean of precision and recall of a yes or no; 0 where nothing right is flagged."""
    hits = float((truth * flagged).sum())
    return 2 * hits / float(truth.sum() + flagged.sum()) if hits else 0.0


def brier_score(truth: FloatArray, chances: FloatArray) -> float:
    """The mean squared distance of probabilities from what happened."""
    return float(((chances - truth) ** 2).mean())


def expected_calibration_error(truth: FloatArray, chances: FloatArray, bins: int = CALIBRATION_BINS) -> float:
    """Expected calibration error over bins of equal width (Naeini et al. 2015)."""
    rows = reliability_bins(truth, chances, bins)
    return sum(n * abs(said - seen) for said, seen, n in rows) / len(truth)


def reliability_bins(
    truth: FloatArray, chances: FloatArray, bins: int = CALIBRATION_BINS
) -> list[tuple[float, float, int]]:
    """For each bin that holds commits: mean probability, share that was buggy, how many."""
    place = np.minimum((chances * bins).astype(int), bins - 1)
    masks = [place == number for number in range(bins)]
    return [(float(chances[m].mean()), float(truth[m].mean()), int(m.sum())) for m in masks if m.any()]


def capture_rate(truth: FloatArray, scores: FloatArray, share: float) -> float:
    """The share of buggy commits among the `share` (0..1) of all commits that score highest.

    The number of commits is rounded, at least one; equal scores at the edge share what is left.
    """
    if not truth.sum():
        return float("nan")
    most = max(1, round(share * len(truth)))
    edge = np.sort(scores)[-most]
    above, at = scores > edge, scores == edge
    rest = (most - above.sum()) * truth[at].mean()
    return float((truth[above].sum() + rest) / truth.sum())


def skippable_share(truth: FloatArray, scores: FloatArray, recall: float = 0.95) -> float:
    """The share of clean commits below the highest score with `recall` of the buggy ones at or above it.

    NaN without either kind.
    """
    buggy = np.sort(scores[truth > 0])
    if not len(buggy) or len(buggy) == len(truth):
        return float("nan")
    limit = buggy[int((1 - recall) * len(buggy) + 1e-9)]
    return float((scores[truth == 0] < limit).mean())


def risk_density(chances: FloatArray, effort: FloatArray) -> FloatArray:
    """Probability per changed line, by which reviewers with little time would go."""
    return chances / np.maximum(effort, 1)


def recall_at_effort(truth: FloatArray, density: FloatArray, effort: FloatArray, share: float = 0.2) -> float:
    """Recall@20%Effort: buggy commits found by reading, densest first, until `share` of all lines is read.

    A commit counts when it is read to its end.
    """
    order = np.argsort(-density, kind="stable")
    read = np.cumsum(effort[order]) <= share * effort.sum() + 1e-9
    return float(truth[order][read].sum() / truth.sum()) if truth.sum() else float("nan")


def effort_at_recall(truth: FloatArray, density: FloatArray, effort: FloatArray, share: float = 0.2) -> float:
    """Effort@20%Recall: the share of all lines that is read when `share` of the buggy commits is found."""
    order = np.argsort(-density, kind="stable")
    found = np.cumsum(truth[order])
    if not found[-1]:
        return float("nan")
    last = int(np.searchsorted(found, share * found[-1] - 1e-9))
    return float(effort[order][: last + 1].sum() / effort.sum())


def popt_score(truth: FloatArray, density: FloatArray, effort: FloatArray) -> float:
    """Popt = 1 - (area_optimal - area_model) / (area_optimal - area_worst) (Mende & Koschke 2010).

    Areas under the share of buggy commits found over the share of lines read; the optimal order takes the
    buggy ones first and the smaller before the larger, the worst is its reverse. NaN without either kind.
    """
    if not truth.sum() or truth.all():
        return float("nan")
    ideal = risk_density(truth, effort) - 1e-12 * effort
    best, worst = _area_under_effort(truth, ideal, effort), _area_under_effort(truth, -ideal, effort)
    return 1 - (best - _area_under_effort(truth, density, effort)) / (best - worst)


def _area_under_effort(truth: FloatArray, density: FloatArray, effort: FloatArray) -> float:
    order = np.argsort(-density, kind="stable")
    lines = np.concatenate([[0.0], np.cumsum(effort[order])]) / effort.sum()
    found = np.concatenate([[0.0], np.cumsum(truth[order])]) / truth.sum()
    return float(np.trapezoid(found, lines))


@dataclass(frozen=True, slots=True)
class RankedCommits:
    """What a model said of `n` later commits, and what became of them; the arrays are as above."""

    truth: FloatArray
    scores: FloatArray
    chances: FloatArray
    effort: FloatArray

    def __len__(self) -> int:
        return len(self.truth)

    def select_rows(self, rows: NDArray[np.integer]) -> "RankedCommits":
        """Some of the commits."""
        return RankedCommits(self.truth[rows], self.scores[rows], self.chances[rows], self.effort[rows])


RANKING_METRICS: Mapping[str, Callable[[RankedCommits], float]] = {
    "auc": lambda r: roc_auc(r.truth, r.scores),
    "pr_auc": lambda r: pr_auc(r.truth, r.scores),
    "brier": lambda r: brier_score(r.truth, r.chances),
    "ece": lambda r: expected_calibration_error(r.truth, r.chances),
    "capture_5": lambda r: capture_rate(r.truth, r.scores, 0.05),
    "capture_10": lambda r: capture_rate(r.truth, r.scores, 0.10),
    "capture_20": lambda r: capture_rate(r.truth, r.scores, 0.20),
    "skippable_95": lambda r: skippable_share(r.truth, r.scores),
    "recall_at_20_effort": lambda r: recall_at_effort(r.truth, risk_density(r.chances, r.effort), r.effort),
    "effort_at_20_recall": lambda r: effort_at_recall(r.truth, risk_density(r.chances, r.effort), r.effort),
    "popt": lambda r: popt_score(r.truth, risk_density(r.chances, r.effort), r.effort),
}
"""Every metric by the name that reports give it, 0..1."""


def summarise_ranking(ranked: RankedCommits, seed: int = 0, n: int = 300) -> dict[str, ConfidenceInterval]:
    """Every metric with its 95 % percentile interval over `n` resamples of the commits."""
    draws = [ranked.select_rows(rows) for rows in _draw_resamples(len(ranked), seed, n)]
    return {
        name: _percentile_interval(metric(ranked), [metric(one) for one in draws])
        for name, metric in RANKING_METRICS.items()
    }


def bootstrap_difference(
    a: RankedCommits, b: RankedCommits, metric: str, seed: int = 0, n: int = 1000
) -> ConfidenceInterval:
    """A metric of `a` minus that of `b` on the same commits, which are drawn together (paired bootstrap)."""
    ask = RANKING_METRICS[metric]
    draws = [ask(a.select_rows(rows)) - ask(b.select_rows(rows)) for rows in _draw_resamples(len(a), seed, n)]
    return _percentile_interval(ask(a) - ask(b), draws)


def _draw_resamples(size: int, seed: int, n: int) -> NDArray[np.int64]:
    return np.random.default_rng(seed).integers(0, size, size=(n, size))


def _percentile_interval(value: float, drawn: list[float]) -> ConfidenceInterval:
    """Resamples in which a metric is undefined (no buggy commit) tell nothing, and are left out."""
    usable = [x for x in drawn if x == x]
    if not usable or value != value:
        return ConfidenceInterval(value, float("nan"), float("nan"))
    low, high = np.percentile(usable, (2.5, 97.5))
    return ConfidenceInterval(value, float(low), float(high))
