"""How the answers of several runs are scored and compared: hides that tasks have different metrics.

A yardstick holds what is right for a fixed list of commits. `Answers` are one run's for these commits, in
their order; a system is one run or several, one a seed. Two systems are compared on the same commits, which
are drawn together in each resample of a paired bootstrap (Koehn 2004).
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any, ClassVar, Protocol

import numpy as np

from gitpeft.learn.evaluation import messages, ranking_metrics
from gitpeft.learn.evaluation.text_metrics import ConfidenceInterval, b_norm, bootstrap_mean, paired_bootstrap

Answers = Sequence[Any]
"""What a run says of each commit: a message, or a probability."""

RESAMPLE_COUNT = 1000


class AnswerScorer(Protocol):
    """`key` and `name` are the main metric's, `digits` its decimals, `metrics` the names of all by key."""

    key: ClassVar[str]
    name: ClassVar[str]
    digits: ClassVar[int]
    metrics: ClassVar[Mapping[str, str]]

    def __len__(self) -> int: ...

    def score_runs(self, runs: Sequence[Answers]) -> ConfidenceInterval:
        """The main metric of a system, its seeds averaged, with a 95 % interval over commits."""

    def score_all_metrics(self, runs: Sequence[Answers]) -> dict[str, Any]:
        """Every metric that can be computed here, of the first seed but for the main one; plain values."""

    def compare_runs(self, runs: Sequence[Answers], others: Sequence[Answers]) -> ConfidenceInterval:
        """The main metric of `runs` minus that of `others`, paired by commit."""

    def pick_samples(self, most: int) -> list[int]:
        """The places of some commits that are worth showing, spread over all."""


class MessageScorer:
    """Messages against those that the team wrote, by B-Norm."""

    key: ClassVar[str] = "b_norm"
    name: ClassVar[str] = "B-Norm"
    digits: ClassVar[int] = 1
    metrics: ClassVar[Mapping[str, str]] = {
        "b_norm": "B-Norm",
        "rouge_l": "ROUGE-L",
        "edit_similarity": "edit similarity",
        "first_word": "EM@1",
    }

    def __init__(self, references: Sequence[str]) -> None:
        self._references = list(references)

    def __len__(self) -> int:
        return len(self._references)

    def score_runs(self, runs: Sequence[Answers]) -> ConfidenceInterval:
        """See `Yardstick`."""
        return bootstrap_mean(self._score_each_commit(runs), seed=0)

    def score_all_metrics(self, runs: Sequence[Answers]) -> dict[str, Any]:
        """See `Yardstick`."""
        return messages.summarise_message_scores(runs[0], self._references) | {
            self.key: self.score_runs(runs)._asdict()
        }

    def compare_runs(self, runs: Sequence[Answers], others: Sequence[Answers]) -> ConfidenceInterval:
        """See `Yardstick`."""
        return paired_bootstrap(self._score_each_commit(runs), self._score_each_commit(others), seed=0)

    def pick_samples(self, most: int) -> list[int]:
        """See `Yardstick`."""
        return _spread_evenly(range(len(self)), most)

    def _score_each_commit(self, runs: Sequence[Answers]) -> list[float]:
        """A score for each commit, averaged over seeds."""
        by_seed = [b_norm(run, self._references) for run in runs]
        return [sum(column) / len(column) for column in zip(*by_seed, strict=True)]


class RiskScorer:
    """Probabilities that a commit needs a fix, against those that did, by ROC AUC."""

    key: ClassVar[str] = "auc"
    name: ClassVar[str] = "ROC AUC"
    digits: ClassVar[int] = 3
    metrics: ClassVar[Mapping[str, str]] = {
        "auc": "ROC AUC",
        "pr_auc": "PR AUC",
        "brier": "Brier",
        "capture_20": "bugs in the riskiest 20 %",
    }

    def __init__(self, truth: Sequence[float]) -> None:
        self._truth = np.asarray(truth, dtype=np.float64)

    def __len__(self) -> int:
        return len(self._truth)

    def score_runs(self, runs: Sequence[Answers]) -> ConfidenceInterval:
        """See `Yardstick`."""
        return _make_interval(self._compute_mean_auc(runs, np.arange(len(self))), self._resample_auc(runs))

    def score_all_metrics(self, runs: Sequence[Answers]) -> dict[str, Any]:
        """See `Yardstick`."""
        others: dict[str, Callable[[Any, Any], float]] = {
            "pr_auc": ranking_metrics.pr_auc,
            "brier": ranking_metrics.brier_score,
            "capture_20": partial(ranking_metrics.capture_rate, share=0.2),
        }
        said = np.asarray(runs[0], dtype=np.float64)
        draws = self._draw_resamples()
        found = {self.key: self.score_runs(runs)._asdict()}
        for key, metric in others.items():
            values = np.array([metric(self._truth[draw], said[draw]) for draw in draws])
            found[key] = _make_interval(metric(self._truth, said), values)._asdict()
        return {"n": len(self), **found}

    def compare_runs(self, runs: Sequence[Answers], others: Sequence[Answers]) -> ConfidenceInterval:
        """See `Yardstick`."""
        everything = np.arange(len(self))
        gap = self._compute_mean_auc(runs, everything) - self._compute_mean_auc(others, everything)
        return _make_interval(gap, self._resample_auc(runs) - self._resample_auc(others))

    def pick_samples(self, most: int) -> list[int]:
        """See `Yardstick`: buggy ones, and clean ones."""
        bad, good = (np.flatnonzero(self._truth == kind).tolist() for kind in (1, 0))
        return sorted([*_spread_evenly(bad, most - most // 2), *_spread_evenly(good, most // 2)])

    def _compute_mean_auc(self, runs: Sequence[Answers], chosen: Any) -> float:
        truth = self._truth[chosen]
        said = [np.asarray(run, dtype=np.float64)[chosen] for run in runs]
        return float(np.mean([ranking_metrics.roc_auc(truth, one) for one in said]))

    def _resample_auc(self, runs: Sequence[Answers]) -> Any:
        return np.array([self._compute_mean_auc(runs, draw) for draw in self._draw_resamples()])

    def _draw_resamples(self) -> list[Any]:
        """The same resamples for every system, each of them with buggy and clean commits."""
        random = np.random.default_rng(0)
        draws = [random.integers(0, len(self), len(self)) for _ in range(RESAMPLE_COUNT)]
        return [draw for draw in draws if 0 < self._truth[draw].sum() < len(self)]


def _spread_evenly(places: Sequence[int], most: int) -> list[int]:
    return list(places[:: max(1, len(places) // most)])[:most]


def _make_interval(value: float, resampled: Any) -> ConfidenceInterval:
    low, high = np.percentile(resampled, (2.5, 97.5))
    return ConfidenceInterval(value, float(low), float(high))
