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
from gitpeft.learn.evaluation.text_metrics import Interval, b_norm, bootstrap, paired_bootstrap

Answers = Sequence[Any]
"""What a run says of each commit: a message, or a probability."""

RESAMPLES = 1000


class Yardstick(Protocol):
    """`key` and `name` are the main metric's, `digits` its decimals, `metrics` the names of all by key."""

    key: ClassVar[str]
    name: ClassVar[str]
    digits: ClassVar[int]
    metrics: ClassVar[Mapping[str, str]]

    def __len__(self) -> int: ...

    def score(self, runs: Sequence[Answers]) -> Interval:
        """The main metric of a system, its seeds averaged, with a 95 % interval over commits."""

    def all_scores(self, runs: Sequence[Answers]) -> dict[str, Any]:
        """Every metric that can be computed here, of the first seed but for the main one; plain values."""

    def difference(self, runs: Sequence[Answers], others: Sequence[Answers]) -> Interval:
        """The main metric of `runs` minus that of `others`, paired by commit."""

    def samples(self, most: int) -> list[int]:
        """The places of some commits that are worth showing, spread over all."""


class Wording:
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

    def score(self, runs: Sequence[Answers]) -> Interval:
        """See `Yardstick`."""
        return bootstrap(self._each(runs), seed=0)

    def all_scores(self, runs: Sequence[Answers]) -> dict[str, Any]:
        """See `Yardstick`."""
        return messages.scores(runs[0], self._references) | {self.key: self.score(runs)._asdict()}

    def difference(self, runs: Sequence[Answers], others: Sequence[Answers]) -> Interval:
        """See `Yardstick`."""
        return paired_bootstrap(self._each(runs), self._each(others), seed=0)

    def samples(self, most: int) -> list[int]:
        """See `Yardstick`."""
        return _spread(range(len(self)), most)

    def _each(self, runs: Sequence[Answers]) -> list[float]:
        """A score for each commit, averaged over seeds."""
        by_seed = [b_norm(run, self._references) for run in runs]
        return [sum(column) / len(column) for column in zip(*by_seed, strict=True)]


class Ranking:
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

    def score(self, runs: Sequence[Answers]) -> Interval:
        """See `Yardstick`."""
        return _interval(self._auc(runs, np.arange(len(self))), self._resampled(runs))

    def all_scores(self, runs: Sequence[Answers]) -> dict[str, Any]:
        """See `Yardstick`."""
        others: dict[str, Callable[[Any, Any], float]] = {
            "pr_auc": ranking_metrics.pr_auc,
            "brier": ranking_metrics.brier,
            "capture_20": partial(ranking_metrics.capture, share=0.2),
        }
        said = np.asarray(runs[0], dtype=np.float64)
        draws = self._draws()
        found = {self.key: self.score(runs)._asdict()}
        for key, metric in others.items():
            values = np.array([metric(self._truth[draw], said[draw]) for draw in draws])
            found[key] = _interval(metric(self._truth, said), values)._asdict()
        return {"n": len(self), **found}

    def difference(self, runs: Sequence[Answers], others: Sequence[Answers]) -> Interval:
        """See `Yardstick`."""
        everything = np.arange(len(self))
        gap = self._auc(runs, everything) - self._auc(others, everything)
        return _interval(gap, self._resampled(runs) - self._resampled(others))

    def samples(self, most: int) -> list[int]:
        """See `Yardstick`: buggy ones, and clean ones."""
        bad, good = (np.flatnonzero(self._truth == kind).tolist() for kind in (1, 0))
        return sorted([*_spread(bad, most - most // 2), *_spread(good, most // 2)])

    def _auc(self, runs: Sequence[Answers], chosen: Any) -> float:
        truth = self._truth[chosen]
        said = [np.asarray(run, dtype=np.float64)[chosen] for run in runs]
        return float(np.mean([ranking_metrics.roc_auc(truth, one) for one in said]))

    def _resampled(self, runs: Sequence[Answers]) -> Any:
        return np.array([self._auc(runs, draw) for draw in self._draws()])

    def _draws(self) -> list[Any]:
        """The same resamples for every system, each of them with buggy and clean commits."""
        random = np.random.default_rng(0)
        draws = [random.integers(0, len(self), len(self)) for _ in range(RESAMPLES)]
        return [draw for draw in draws if 0 < self._truth[draw].sum() < len(self)]


def _spread(places: Sequence[int], most: int) -> list[int]:
    return list(places[:: max(1, len(places) // most)])[:most]


def _interval(value: float, resampled: Any) -> Interval:
    low, high = np.percentile(resampled, (2.5, 97.5))
    return Interval(value, float(low), float(high))
