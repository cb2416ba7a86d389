"""The metrics of risk models, against values worked out by hand."""

import math

import numpy as np
import pytest

from gitpeft.learn.evaluation import ranking_metrics
from gitpeft.learn.evaluation.ranking_metrics import RankedCommits

A = np.array


def test_roc_auc_counts_pairs() -> None:
    truth, scores = A([1.0, 0, 1, 0, 0]), A([0.9, 0.8, 0.7, 0.7, 0.1])
    # pairs: 0.9 beats all three; 0.7 loses to 0.8, ties with 0.7, beats 0.1
    assert ranking_metrics.roc_auc(truth, scores) == pytest.approx((3 + 0 + 0.5 + 1) / 6)
    assert math.isnan(ranking_metrics.roc_auc(A([1.0, 1]), A([0.1, 0.2])))
    assert ranking_metrics.roc_auc(truth, np.zeros(5)) == 0.5


def test_average_precision_takes_equal_scores_together() -> None:
    assert ranking_metrics.pr_auc(A([1.0, 0, 1, 0]), A([0.9, 0.8, 0.7, 0.1])) == pytest.approx(
        (1 + 2 / 3) / 2
    )
    assert ranking_metrics.pr_auc(A([1.0, 0, 0, 0]), np.zeros(4)) == pytest.approx(1 / 4)


def test_ranks_and_their_correlation() -> None:
    assert ranking_metrics.rank_values(A([10.0, 20, 10, 5])).tolist() == [2.5, 4, 2.5, 1]
    assert ranking_metrics.spearman_correlation(A([1.0, 2, 3]), A([10.0, 40, 90])) == pytest.approx(1)
    assert ranking_metrics.spearman_correlation(A([1.0, 2, 3]), A([3.0, 2, 1])) == pytest.approx(-1)
    assert math.isnan(ranking_metrics.spearman_correlation(A([1.0, 1]), A([1.0, 2])))


def test_probabilities() -> None:
    truth, chances = A([1.0, 0, 1, 0]), A([0.75, 0.75, 0.55, 0.05])
    assert ranking_metrics.brier_score(truth, chances) == pytest.approx(
        (0.0625 + 0.5625 + 0.2025 + 0.0025) / 4
    )
    assert ranking_metrics.reliability_bins(truth, chances) == [(0.05, 0, 1), (0.55, 1, 1), (0.75, 0.5, 2)]
    assert ranking_metrics.expected_calibration_error(truth, chances) == pytest.approx(
        (0.05 + 0.45 + 2 * 0.25) / 4
    )
    assert ranking_metrics.reliability_bins(A([1.0]), A([1.0])) == [(1, 1, 1)]


def test_f1() -> None:
    assert ranking_metrics.f1_score(A([1.0, 1, 0, 0]), A([1.0, 0, 1, 0])) == pytest.approx(0.5)
    assert ranking_metrics.f1_score(A([1.0, 0]), A([0.0, 0])) == 0


def test_capture_flags_the_share_that_it_says() -> None:
    truth, scores = A([1.0, 0, 1, 0, 1, 0, 0, 0, 0, 0]), A([9.0, 8, 7, 6, 5, 4, 3, 2, 1, 0])
    assert ranking_metrics.capture_rate(truth, scores, 0.1) == pytest.approx(1 / 3)
    assert ranking_metrics.capture_rate(truth, scores, 0.3) == pytest.approx(2 / 3)
    assert ranking_metrics.capture_rate(truth, scores, 0.001) == pytest.approx(1 / 3)  # at least one
    assert ranking_metrics.capture_rate(truth, np.zeros(10), 0.2) == pytest.approx(0.2)  # as by drawing lots


def test_effort() -> None:
    """Four commits of 10, 30, 20 and 40 lines; the first and the third are buggy."""
    truth, effort = A([1.0, 0, 1, 0]), A([10.0, 30, 20, 40])
    density = A([4.0, 3, 2, 1])
    assert ranking_metrics.recall_at_effort(truth, density, effort, 0.2) == 0.5
    assert ranking_metrics.recall_at_effort(truth, density, effort, 0.6) == 1
    assert ranking_metrics.effort_at_recall(truth, density, effort, 0.2) == pytest.approx(0.1)
    assert ranking_metrics.effort_at_recall(truth, density, effort, 1.0) == pytest.approx(0.6)
    # areas under (lines, found): model (0,0) (.1,.5) (.4,.5) (.6,1) (1,1); best (.1,.5) (.3,1) (1,1)
    model = 0.1 * 0.25 + 0.3 * 0.5 + 0.2 * 0.75 + 0.4
    best = 0.1 * 0.25 + 0.2 * 0.75 + 0.7
    worst = 0.2 * 0.25 + 0.1 * 0.75  # (.4,0) (.7,0) (.9,.5) (1,1)
    assert ranking_metrics.popt_score(truth, density, effort) == pytest.approx(
        1 - (best - model) / (best - worst)
    )
    assert ranking_metrics.popt_score(truth, A([4.0, 1, 3, 2]), effort) == pytest.approx(1)
    assert ranking_metrics.popt_score(truth, A([1.0, 3, 2, 4]), effort) == pytest.approx(0)


def some(seed: int, good: bool) -> RankedCommits:
    random = np.random.default_rng(seed)
    truth = (random.random(200) < 0.3).astype(float)
    scores = random.random(200) + (truth if good else 0)
    return RankedCommits(truth, scores, np.clip(scores / 2, 0, 1), random.integers(1, 99, 200).astype(float))


def test_intervals_hold_the_value_and_tell_models_apart() -> None:
    good = some(1, True)
    bad = RankedCommits(good.truth, some(1, False).scores, good.chances, good.effort)
    for name, interval in ranking_metrics.summarise_ranking(good).items():
        assert interval.low <= interval.mean <= interval.high, name
    assert ranking_metrics.bootstrap_difference(good, bad, "auc").low > 0.2
    assert ranking_metrics.bootstrap_difference(good, good, "auc") == (0, 0, 0)
    assert ranking_metrics.summarise_ranking(good, seed=3) == ranking_metrics.summarise_ranking(good, seed=3)


def test_the_same_as_scikit_learn_says() -> None:
    metrics = pytest.importorskip("sklearn.metrics", reason="scikit-learn is not installed")
    one = some(2, True)
    tied = np.round(one.scores, 1)
    assert ranking_metrics.roc_auc(one.truth, tied) == pytest.approx(metrics.roc_auc_score(one.truth, tied))
    assert ranking_metrics.pr_auc(one.truth, tied) == pytest.approx(
        metrics.average_precision_score(one.truth, tied)
    )
    assert ranking_metrics.brier_score(one.truth, one.chances) == pytest.approx(
        metrics.brier_score_loss(one.truth, one.chances)
    )
