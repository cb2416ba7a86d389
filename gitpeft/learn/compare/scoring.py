"""Scores the answers of runs and compares systems, by the metrics of their task.

A scorer knows the correct answers for a fixed list of commits. `Answers` are one run's for these commits, in
their order; a system is one run or several, one for each seed. Two systems are compared on the same commits,
which are drawn together in each resample of a paired bootstrap (Koehn 2004).
"""

from collections.abc import Callable, Sequence
from functools import partial
from typing import ClassVar, Protocol

import numpy as np
from numpy.typing import NDArray

from gitpeft.learn.compare.report import MetricInfo, SystemScores
from gitpeft.learn.compare.results import Answers, Difference
from gitpeft.learn.evaluation import ranking_metrics, text_metrics
from gitpeft.learn.evaluation.text_metrics import (
    ConfidenceInterval,
    bootstrap_mean,
    keystrokes_saved,
    paired_bootstrap,
)

Array = NDArray[np.float64]
Rows = NDArray[np.int64]

RESAMPLE_COUNT = 1000


class AnswerScorer(Protocol):
    """`metric` names the main metric and all others of a task; the length is the number of commits."""

    metric: ClassVar[MetricInfo]

    def __len__(self) -> int: ...

    def score_runs(self, runs: Sequence[Answers]) -> ConfidenceInterval:
        """The main metric of a system, its seeds averaged, with a 95 % interval over commits."""

    def score_all_metrics(self, runs: Sequence[Answers]) -> SystemScores:
        """Every metric that can be computed here, of the first seed but for the main one."""

    def compare_runs(self, runs: Sequence[Answers], others: Sequence[Answers]) -> Difference:
        """The main metric of `runs` minus that of `others`, paired by commit."""

    def pick_samples(self, most: int) -> list[int]:
        """The places of some commits that are worth showing, spread over all."""


class MessageScorer:
    """Scores messages by the keystrokes that they save against those that the team wrote."""

    metric: ClassVar[MetricInfo] = MetricInfo(
        "keystrokes_saved",
        "keystrokes saved, %",
        1,
        {
            "keystrokes_saved": "keystrokes saved, %",
            "kept": "kept, % of offers",
            "b_norm": "B-Norm",
            "rouge_l": "ROUGE-L",
            "edit_similarity": "edit similarity",
            "first_word": "right first word, %",
        },
    )

    def __init__(self, references: Sequence[str]) -> None:
        self._references = list(references)

    def __len__(self) -> int:
        return len(self._references)

    def score_runs(self, runs: Sequence[Answers]) -> ConfidenceInterval:
        """See `AnswerScorer`."""
        return bootstrap_mean(self._score_each_commit(runs), seed=0)

    def score_all_metrics(self, runs: Sequence[Answers]) -> SystemScores:
        """See `AnswerScorer`; without the libraries of ROUGE-L and edit similarity those are left out."""
        found = text_metrics.score_messages([str(one) for one in runs[0]], self._references).metrics
        return SystemScores(len(self), found | {self.metric.key: self.score_runs(runs)})

    def compare_runs(self, runs: Sequence[Answers], others: Sequence[Answers]) -> Difference:
        """See `AnswerScorer`."""
        ours, theirs = self._score_each_commit(runs), self._score_each_commit(others)
        return Difference(*paired_bootstrap(ours, theirs, seed=0))

    def pick_samples(self, most: int) -> list[int]:
        """See `AnswerScorer`."""
        return _spread_evenly(range(len(self)), most)

    def _score_each_commit(self, runs: Sequence[Answers]) -> list[float]:
        """A score for each commit, averaged over seeds."""
        by_seed = [keystrokes_saved([str(one) for one in run], self._references) for run in runs]
        return [sum(column) / len(column) for column in zip(*by_seed, strict=True)]


class RiskScorer:
    """Scores estimated bug probabilities by ROC AUC against which commits were fixed later (1) or not (0)."""

    metric: ClassVar[MetricInfo] = MetricInfo(
        "auc",
        "ROC AUC",
        3,
        {
            "auc": "ROC AUC",
            "pr_auc": "PR AUC",
            "brier": "Brier score",
            "capture_20": "bugs in the riskiest 20%",
        },
    )

    def __init__(self, truth: Sequence[float]) -> None:
        self._truth = np.asarray(truth, dtype=np.float64)

    def __len__(self) -> int:
        return len(self._truth)

    def score_runs(self, runs: Sequence[Answers]) -> ConfidenceInterval:
        """See `AnswerScorer`."""
        return _make_interval(self._compute_mean_auc(runs, np.arange(len(self))), self._resample_auc(runs))

    def score_all_metrics(self, runs: Sequence[Answers]) -> SystemScores:
        """See `AnswerScorer`."""
        others: dict[str, Callable[[Array, Array], float]] = {
            "pr_auc": ranking_metrics.pr_auc,
            "brier": ranking_metrics.brier_score,
            "capture_20": partial(ranking_metrics.capture_rate, share=0.2),
        }
        probabilities = np.asarray(runs[0], dtype=np.float64)
        draws = self._draw_resamples()
        found = {self.metric.key: self.score_runs(runs)}
        for key, metric in others.items():
            values = np.array([metric(self._truth[draw], probabilities[draw]) for draw in draws])
            found[key] = _make_interval(metric(self._truth, probabilities), values)
        return SystemScores(len(self), found)

    def compare_runs(self, runs: Sequence[Answers], others: Sequence[Answers]) -> Difference:
        """See `AnswerScorer`."""
        everything = np.arange(len(self))
        gap = self._compute_mean_auc(runs, everything) - self._compute_mean_auc(others, everything)
        return Difference(*_make_interval(gap, self._resample_auc(runs) - self._resample_auc(others)))

    def pick_samples(self, most: int) -> list[int]:
        """See `AnswerScorer`: half of them buggy, half clean."""
        bad, good = (np.flatnonzero(self._truth == kind).tolist() for kind in (1, 0))
        return sorted([*_spread_evenly(bad, most - most // 2), *_spread_evenly(good, most // 2)])

    def _compute_mean_auc(self, runs: Sequence[Answers], chosen: Rows) -> float:
        truth = self._truth[chosen]
        scores = [np.asarray(run, dtype=np.float64)[chosen] for run in runs]
        return float(np.mean([ranking_metrics.roc_auc(truth, one) for one in scores]))

    def _resample_auc(self, runs: Sequence[Answers]) -> Array:
        return np.array([self._compute_mean_auc(runs, draw) for draw in self._draw_resamples()])

    def _draw_resamples(self) -> list[Rows]:
        """The same resamples for every system, each of them with buggy and clean commits."""
        random = np.random.default_rng(0)
        draws = [random.integers(0, len(self), len(self)) for _ in range(RESAMPLE_COUNT)]
        return [draw for draw in draws if 0 < self._truth[draw].sum() < len(self)]


def _spread_evenly(places: Sequence[int], most: int) -> list[int]:
    return list(places[:: max(1, len(places) // most)])[:most]


def _make_interval(value: float, resampled: Array) -> ConfidenceInterval:
    low, high = np.percentile(resampled, (2.5, 97.5))
    return ConfidenceInterval(value, float(low), float(high))
