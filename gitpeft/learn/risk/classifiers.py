"""Scores of commits, fitted and calibrated: hides the logistic regression, the words, and how they are added.

All of them are `risk.Model`s: sums of weighted features. What is no metric (see `risk.WORDS`, `risk.READING`)
stands in `Labelled` beside the metrics.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gitpeft.learn import logistic
from gitpeft.learn.evaluation.ranking_metrics import Ranked
from gitpeft.learn.risk import bag_of_words
from gitpeft.risk.change_metrics import Metrics
from gitpeft.risk.encoder import Reader
from gitpeft.risk.model import (
    ALL,
    COMBINED,
    ENCODER,
    FEATURES,
    LINES_ADDED,
    LOGISTIC,
    READING,
    WORDS,
    Model,
    interpolate,
    scaled,
)

Array = NDArray[np.float64]

Learnt = tuple[tuple[float, ...], Array]
"""Weights of words, and what models that had not seen them say of commits (see `wording.learn`)."""

_RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_FREE = 0.1
"""The penalty on lines added: where the other features say nothing, what is left is the baseline."""


@dataclass(frozen=True, slots=True)
class Labelled:
    """Commits, oldest first: metrics, whether a fix came (1) or not (0), their times, and their ids.

    `changes` are their compact texts, none where nobody reads them; `readings` the logits of an encoder that
    was not taught these commits, NaN for those that it was.
    """

    metrics: tuple[Metrics, ...]
    truth: Array
    times: Array
    shas: tuple[str, ...]
    changes: tuple[str, ...] = ()
    readings: Array | None = None

    def __len__(self) -> int:
        return len(self.metrics)

    def take(self, rows: Any) -> "Labelled":
        """Some of the commits, in order."""
        chosen = np.arange(len(self))[rows]
        metrics, shas = [self.metrics[i] for i in chosen], [self.shas[i] for i in chosen]
        changes = tuple(self.changes[i] for i in chosen) if self.changes else ()
        readings = None if self.readings is None else self.readings[chosen]
        truth, times = self.truth[chosen], self.times[chosen]
        return Labelled(tuple(metrics), truth, times, tuple(shas), changes, readings)

    @property
    def effort(self) -> Array:
        """Changed lines, at least one."""
        return np.array([max(1, one.la + one.ld) for one in self.metrics], dtype=float)


def lines_added() -> Model:
    """The baseline: log(1 + lines added), LApredict (Zeng et al. 2021)."""
    return Model(LINES_ADDED, features=("la",), weights=(1.0,), means=(0.0,))


def regression(data: Labelled, features: Sequence[str] = FEATURES, ridge: float | None = None) -> Model:
    """A logistic regression on `features`; its L2 penalty is chosen on the newest quarter of `data`.

    Lines added are hardly penalised: the fewer bugs are known, the nearer this is to the baseline.
    """
    if ridge is None:
        cut = len(data) * 3 // 4
        old, new = data.take(slice(0, cut)), data.take(slice(cut, None))
        if 0 < old.truth.sum() < len(old) and 0 < new.truth.sum() < len(new):
            losses = {r: _loss(regression(old, features, r), new) for r in _RIDGES}
            ridge = min(losses, key=lambda r: losses[r])
    x = design(data, features)
    mean, spread = x.mean(0), x.std(0) + logistic.SPREAD
    penalty = np.array([_FREE if name == "la" else ridge or _RIDGES[3] for name in features])
    weights, bias = logistic.newton((x - mean) / spread, data.truth, penalty)
    weights = weights / spread
    return Model(
        LOGISTIC,
        features=tuple(features),
        weights=tuple(map(float, weights)),
        bias=float(bias - weights @ mean),
        means=tuple(map(float, mean)),
    )


def combination(base: Model, data: Labelled, learnt: Learnt, readings: Array | None = None) -> Model:
    """A regression, the words and, where there are any, the readings: added, each in its own spread.

    Equal shares need no fit: with few bugs fitted ones are not better. `base` and `learnt` are fitted on
    `data`; `readings` tell the spread, also by commits that are not in it.
    """
    weights, unseen = learnt
    columns = {WORDS: unseen} | ({} if readings is None else {READING: readings})
    spread = float(scores(base, data).std()) + logistic.SPREAD
    spreads = [float(np.nanstd(column)) for column in columns.values()]
    added = [
        1 / one if one > logistic.SPREAD else 0.0 for one in spreads
    ]  # what says nothing counts for nothing
    return replace(
        base,
        kind=COMBINED if readings is None else ALL,
        features=(*base.features, *columns),
        weights=(*(weight / spread for weight in base.weights), *added),
        bias=base.bias / spread,
        means=(*base.means, *(float(np.nanmean(column)) for column in columns.values())),
        words=weights,
    )


def encoder(readings: Array) -> Model:
    """What the encoder reads, which knows the metrics as well."""
    return Model(ENCODER, features=(READING,), weights=(1.0,), means=(float(np.nanmean(readings)),))


def candidates(data: Labelled, readings: Array | None = None) -> dict[str, Model]:
    """Every score that these commits allow, the simpler one first; without calibration.

    `readings` as in `combination`.
    """
    base = regression(data)
    found = {LINES_ADDED: lines_added(), LOGISTIC: base}
    if not data.changes:
        return found
    learnt = bag_of_words.learn(data.changes, data.truth)
    found[COMBINED] = combination(base, data, learnt)
    if readings is not None:
        found |= {ENCODER: encoder(readings), ALL: combination(base, data, learnt, readings)}
    return found


def design(data: Labelled, features: Sequence[str], words: Sequence[float] = ()) -> Array:
    """The features of the commits, (n, features); `words` are the weights behind that feature."""
    beside: dict[str, Array] = {}
    if WORDS in features:
        beside[WORDS] = bag_of_words.matrix(data.changes).astype(float) @ np.array(words)
    if READING in features and data.readings is not None:
        beside[READING] = data.readings
    rows = [
        scaled(one, features, {name: float(column[i]) for name, column in beside.items()})
        for i, one in enumerate(data.metrics)
    ]
    return np.array(rows, dtype=float).reshape(len(data), len(features))


def read_by(reader: Reader | None, data: Labelled) -> Labelled:
    """The commits with what a reader reads in them; without one as they are."""
    if reader is None:
        return data
    rows = zip(data.changes, data.metrics, strict=True)
    return replace(data, readings=np.array([reader.read(*row).logit for row in rows], dtype=float))


def scores(model: Model, data: Labelled) -> Array:
    """The score of each commit, (n,)."""
    x = design(data, model.features, model.words)
    return np.asarray(x @ np.array(model.weights) + model.bias, dtype=np.float64)


def _loss(model: Model, data: Labelled) -> float:
    """Mean negative log likelihood."""
    x = scores(model, data)
    return float((np.logaddexp(0.0, x) - data.truth * x).mean())


def calibrate(model: Model, data: Labelled) -> Model:
    """The model with probabilities: Platt's sigmoid of the score, from commits that it was not fitted on."""
    x = scores(model, data)
    known = ~np.isnan(x)
    return replace(model, curve=logistic.sigmoid(x[known], data.truth[known]))


def through(curve: logistic.Curve, x: Array) -> Array:
    """The probabilities of scores (n)."""
    return np.array([interpolate(curve, float(score)) for score in x])


def ranked(model: Model, data: Labelled) -> Ranked:
    """What the model says of commits, beside what became of them."""
    found = scores(model, data)
    chances = np.array([model.probability(score) for score in found])
    return Ranked(data.truth, found, chances, data.effort)
