"""Fits and calibrates the candidate risk models: lines added, the prior, regressions, words, encoder.

All of them are `RiskModel`s, sums of weighted features. Features that are no metrics (`WORDS_FEATURE`,
`ENCODER_FEATURE`) are in `LabelledCommits` besides the metrics.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gitpeft.learn import logistic
from gitpeft.learn.evaluation.ranking_metrics import RankedCommits
from gitpeft.learn.risk import bag_of_words, prior
from gitpeft.risk.change_metrics import METRIC_NAMES, ChangeMetrics
from gitpeft.risk.encoder import OnnxRiskEncoder
from gitpeft.risk.model import (
    ENCODER_FEATURE,
    LINES_ADDED,
    LOGISTIC_REGRESSION,
    METRICS_AND_WORDS,
    METRICS_WORDS_AND_ENCODER,
    PRIOR,
    PRIOR_AND_OWN,
    RANK_PREFIX,
    RISK_FEATURES,
    TUNED_ENCODER,
    WORDS_FEATURE,
    Quantiles,
    RiskModel,
    interpolate_linearly,
    scale_features,
)

Array = NDArray[np.float64]

Rows = slice | Sequence[int] | NDArray[np.int64]
"""A selection of commits."""

WordFit = tuple[tuple[float, ...], Array]
"""Weights of words, and out-of-fold scores of the commits (see `bag_of_words.fit_word_weights`)."""

_RIDGE_GRID = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_LINES_ADDED_RIDGE = 0.1
"""The penalty on lines added, so low that the model falls back to the baseline without other evidence.

That on the prior's score is the same.
"""

_PRIOR_SHARE = 2.0
"""The standard deviations of the prior, as corrected here, for one of the words learnt here."""


@dataclass(frozen=True, slots=True)
class LabelledCommits:
    """Commits, oldest first: metrics, labels (1 buggy, 0 clean), times (unix seconds), and ids.

    `changes` are their compact texts, empty where no model reads them; `readings` the logits of an encoder,
    NaN for commits that it was trained on.
    """

    metrics: tuple[ChangeMetrics, ...]
    truth: Array
    times: Array
    shas: tuple[str, ...]
    changes: tuple[str, ...] = ()
    readings: Array | None = None

    def __len__(self) -> int:
        return len(self.metrics)

    def take(self, rows: Rows) -> "LabelledCommits":
        """Some of the commits, in order."""
        chosen = np.arange(len(self))[rows]
        metrics, shas = [self.metrics[i] for i in chosen], [self.shas[i] for i in chosen]
        changes = tuple(self.changes[i] for i in chosen) if self.changes else ()
        readings = None if self.readings is None else self.readings[chosen]
        truth, times = self.truth[chosen], self.times[chosen]
        return LabelledCommits(tuple(metrics), truth, times, tuple(shas), changes, readings)

    @property
    def effort(self) -> Array:
        """Changed lines, at least one."""
        return np.array([max(1, one.la + one.ld) for one in self.metrics], dtype=float)


def make_lines_added_model() -> RiskModel:
    """The baseline: log(1 + lines added), LApredict (Zeng et al. 2021)."""
    return RiskModel(LINES_ADDED, features=("la",), weights=(1.0,), means=(0.0,))


def fit_logistic_regression(
    data: LabelledCommits, features: Sequence[str] = RISK_FEATURES, ridge: float | None = None
) -> RiskModel:
    """A logistic regression on `features`; its L2 penalty is chosen on the newest quarter of `data`.

    Lines added are hardly penalised: the fewer bugs are known, the nearer this is to the baseline.
    """
    if ridge is None:
        ridge = _choose_ridge(data, lambda old, r: fit_logistic_regression(old, features, r))
    x = build_design_matrix(data, features)
    mean, spread = x.mean(0), x.std(0) + logistic.SPREAD
    penalty = np.array([_LINES_ADDED_RIDGE if name == "la" else ridge for name in features])
    weights, bias = logistic.fit_logistic_newton((x - mean) / spread, data.truth, penalty)
    weights = weights / spread
    return RiskModel(
        LOGISTIC_REGRESSION,
        features=tuple(features),
        weights=tuple(map(float, weights)),
        bias=float(bias - weights @ mean),
        means=tuple(map(float, mean)),
    )


def _choose_ridge(data: LabelledCommits, fit: Callable[[LabelledCommits, float], RiskModel]) -> float:
    """The penalty with the lowest loss on the newest quarter, of models fitted on the rest."""
    cut = len(data) * 3 // 4
    old, new = data.take(slice(0, cut)), data.take(slice(cut, None))
    if not (0 < old.truth.sum() < len(old) and 0 < new.truth.sum() < len(new)):
        return _RIDGE_GRID[3]
    losses = {ridge: _compute_log_loss(fit(old, ridge), new) for ridge in _RIDGE_GRID}
    return min(losses, key=lambda ridge: losses[ridge])


def fit_prior_and_own(start: RiskModel, data: LabelledCommits, learnt: WordFit | None = None) -> RiskModel:
    """The prior as the labels of this repository correct it, and, if given, the words learnt here.

    The correction is a logistic regression on the prior's score and its ranks, with a penalty on the latter:
    the weights are shrunk towards the prior's. `start` is the prior as adapted to `data`.
    """
    ridge = _choose_ridge(data, lambda old, r: _correct_prior(start, old, r))
    fitted = _correct_prior(start, data, ridge)
    if learnt is None:
        return fitted
    words, unseen = learnt
    size = _PRIOR_SHARE / (float(score_commits(fitted, data).std()) + logistic.SPREAD)
    weights = [size * weight for weight in fitted.weights]
    at, spread = fitted.features.index(WORDS_FEATURE), float(np.nanstd(unseen))
    own = 1 / spread if spread > logistic.SPREAD else 0.0
    both = [weights[at] * a + own * b for a, b in zip(fitted.words, words, strict=True)]
    weights[at] = 1.0
    mean = float(bag_of_words.score_changes(data.changes, both).mean())
    means = (*fitted.means[:at], mean, *fitted.means[at + 1 :])
    return replace(
        fitted, weights=tuple(weights), bias=size * fitted.bias, means=means, words=tuple(map(float, both))
    )


def _correct_prior(start: RiskModel, data: LabelledCommits, ridge: float) -> RiskModel:
    x = build_design_matrix(data, start.features, start.words, start.ranks)
    score = x @ np.array(start.weights) + start.bias
    ranked = [i for i, name in enumerate(start.features) if name != WORDS_FEATURE]
    columns = np.column_stack([score, x[:, ranked]])
    mean, spread = columns.mean(0), columns.std(0) + logistic.SPREAD
    penalty = np.array([_LINES_ADDED_RIDGE] + [ridge] * len(ranked))
    fitted, bias = logistic.fit_logistic_newton((columns - mean) / spread, data.truth, penalty)
    fitted = fitted / spread
    weights = fitted[0] * np.array(start.weights)
    weights[ranked] += fitted[1:]
    return replace(
        start,
        kind=PRIOR_AND_OWN,
        weights=tuple(map(float, weights)),
        bias=float(bias - fitted @ mean + fitted[0] * start.bias),
        means=tuple(map(float, x.mean(0))),
        curve=(),
        scores=(),
    )


def combine_models(
    base: RiskModel, data: LabelledCommits, learnt: WordFit, readings: Array | None = None
) -> RiskModel:
    """The sum of a regression, the words and, if given, the readings, each divided by its standard deviation.

    Equal shares need no fit: with few bugs, fitted ones are not better. `base` and `learnt` are fitted on
    `data`; the standard deviation of `readings` includes commits that are not in it.
    """
    weights, unseen = learnt
    columns = {WORDS_FEATURE: unseen} | ({} if readings is None else {ENCODER_FEATURE: readings})
    spread = float(score_commits(base, data).std()) + logistic.SPREAD
    spreads = [float(np.nanstd(column)) for column in columns.values()]
    added = [1 / one if one > logistic.SPREAD else 0.0 for one in spreads]  # constant columns count nothing
    return replace(
        base,
        kind=METRICS_AND_WORDS if readings is None else METRICS_WORDS_AND_ENCODER,
        features=(*base.features, *columns),
        weights=(*(weight / spread for weight in base.weights), *added),
        bias=base.bias / spread,
        means=(*base.means, *(float(np.nanmean(column)) for column in columns.values())),
        words=weights,
    )


def make_encoder_model(readings: Array) -> RiskModel:
    """The encoder's logit alone; the encoder knows the metrics as well."""
    return RiskModel(
        TUNED_ENCODER, features=(ENCODER_FEATURE,), weights=(1.0,), means=(float(np.nanmean(readings)),)
    )


def fit_candidate_models(data: LabelledCommits, readings: Array | None = None) -> dict[str, RiskModel]:
    """Every model that these commits allow, the simpler one first; without calibration.

    `readings` as in `combine_models`.
    """
    base = fit_logistic_regression(data)
    start = prior.adapt_prior(data.metrics[-prior.RECENT_COMMITS :], words=bool(data.changes))
    learnt = bag_of_words.fit_word_weights(data.changes, data.truth) if data.changes else None
    found = {
        LINES_ADDED: make_lines_added_model(),
        PRIOR: start,
        PRIOR_AND_OWN: fit_prior_and_own(start, data, learnt),
        LOGISTIC_REGRESSION: base,
    }
    if learnt is None:
        return found
    found[METRICS_AND_WORDS] = combine_models(base, data, learnt)
    if readings is not None:
        found |= {
            TUNED_ENCODER: make_encoder_model(readings),
            METRICS_WORDS_AND_ENCODER: combine_models(base, data, learnt, readings),
        }
    return found


def build_design_matrix(
    data: LabelledCommits,
    features: Sequence[str],
    words: Sequence[float] = (),
    quantiles: Quantiles | None = None,
) -> Array:
    """The features of the commits, (n, features); `words` are the weights of the words feature.

    Features that are ranks need `quantiles`.
    """
    beside: dict[str, Array] = {}
    if WORDS_FEATURE in features:
        beside[WORDS_FEATURE] = bag_of_words.score_changes(data.changes, words)
    if ENCODER_FEATURE in features and data.readings is not None:
        beside[ENCODER_FEATURE] = data.readings
    known = np.array([_remember_values(one) for one in data.metrics]).reshape(len(data), 2, len(METRIC_NAMES))
    columns = [
        beside[name] if name in beside else _select_column(known, name, quantiles or {}) for name in features
    ]
    return np.array(columns, dtype=float).reshape(len(features), len(data)).T.copy()


@lru_cache(1 << 17)
def _remember_values(metrics: ChangeMetrics) -> Array:
    """The metrics (2, len(METRIC_NAMES)): as they are, and as `scale_features` scales them.

    Remembered, because each fit of an evaluation asks again.
    """
    values = [float(getattr(metrics, name)) for name in METRIC_NAMES]
    return np.array([values, scale_features(metrics, METRIC_NAMES)])


def _select_column(known: Array, name: str, quantiles: Quantiles) -> Array:
    """The feature of a name, (n), from the values of the commits, as `scale_features` gives it."""
    if not name.startswith(RANK_PREFIX):
        return known[:, 1, METRIC_NAMES.index(name)]
    metric = name.removeprefix(RANK_PREFIX)
    values, steps = known[:, 0, METRIC_NAMES.index(metric)], np.asarray(quantiles[metric])
    below, upto = np.searchsorted(steps, values, "left"), np.searchsorted(steps, values, "right")
    return np.asarray((below + upto) / (2 * len(steps)))


def add_encoder_readings(reader: OnnxRiskEncoder | None, data: LabelledCommits) -> LabelledCommits:
    """The commits with the logits of an encoder; unchanged without one."""
    if reader is None:
        return data
    rows = zip(data.changes, data.metrics, strict=True)
    return replace(data, readings=np.array([reader.score_change(*row).logit for row in rows], dtype=float))


def score_commits(model: RiskModel, data: LabelledCommits) -> Array:
    """The score of each commit, (n,)."""
    x = build_design_matrix(data, model.features, model.words, model.ranks)
    return np.asarray(x @ np.array(model.weights) + model.bias, dtype=np.float64)


def _compute_log_loss(model: RiskModel, data: LabelledCommits) -> float:
    """Mean negative log likelihood."""
    x = score_commits(model, data)
    return float((np.logaddexp(0.0, x) - data.truth * x).mean())


def calibrate_model(model: RiskModel, data: LabelledCommits) -> RiskModel:
    """The model with probabilities: Platt's sigmoid of the score, from commits that it was not fitted on."""
    x = score_commits(model, data)
    known = ~np.isnan(x)
    return replace(model, curve=logistic.fit_platt_sigmoid(x[known], data.truth[known]))


def apply_curve(curve: logistic.CalibrationCurve, x: Array) -> Array:
    """The probabilities of scores (n)."""
    return np.array([interpolate_linearly(curve, float(score)) for score in x])


def rank_commits(model: RiskModel, data: LabelledCommits) -> RankedCommits:
    """The model's scores and probabilities of commits, with their labels."""
    found = score_commits(model, data)
    chances = np.array([model.predict_probability(score) for score in found])
    return RankedCommits(data.truth, found, chances, data.effort)
