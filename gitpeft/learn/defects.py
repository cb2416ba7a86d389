"""Which changes needed a fix later: hides how the risk model is fitted, calibrated, compared and chosen.

Everything goes in time order: a model is fitted on the older commits, calibrated on later ones, and measured
on the newest. What is not known at a moment counts for nothing then: a commit is buggy once a fix of it is
known, and clean only when it is older than the repository's own wait for a fix (the `PATIENCE` quantile of
its latencies); younger ones are left out, not taken for clean.
"""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Any, Protocol

import numpy as np
from numpy.typing import NDArray

from gitpeft.config import load
from gitpeft.git import Repository
from gitpeft.history import History
from gitpeft.learn import labels
from gitpeft.learn.ranking import Ranked, difference, summary
from gitpeft.learn.replay import Measured, replay
from gitpeft.metrics import DAY, Metrics
from gitpeft.risk import FEATURES, LINES_ADDED, LOGISTIC, Model, interpolate, scaled

Array = NDArray[np.float64]

Curve = tuple[tuple[float, float], ...]
"""Points (score, probability) in ascending order."""

Listener = Callable[[str, float, str], None]

NEEDED = 40
"""Known bugs without which nothing is learnt: about three for each feature that carries weight."""

PATIENCE = 0.5
"""The quantile of the latency from a bug to its fix after which a commit without a fix counts as clean."""

TEST = 0.2
BLOCKS = 5
RECENT = 1000
"""Commits whose scores make the percentiles."""

_RIDGES = (1.0, 3.0, 10.0, 30.0, 100.0, 300.0, 1000.0)
_POINTS = 41
_QUANTILES = 201
_SPREAD = 1e-9
_FREE = 0.1
"""The penalty on lines added: where the other features say nothing, what is left is the baseline."""


class Labels(Protocol):
    """What SZZ found (see `learn.labels`)."""

    def known_at(self, time: int) -> set[str]:
        """The commits that were known to be buggy at a moment (unix seconds)."""
        ...

    def latency(self, quantile: float) -> float | None:
        """Days from a bug to its first fix, at a quantile; None when too few are known."""
        ...


@dataclass(frozen=True, slots=True)
class Labelled:
    """Commits, oldest first: metrics, whether a fix came (1) or not (0), their times, and their ids."""

    metrics: tuple[Metrics, ...]
    truth: Array
    times: Array
    shas: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.metrics)

    def take(self, rows: Any) -> "Labelled":
        """Some of the commits, in order."""
        chosen = np.arange(len(self))[rows]
        metrics, shas = [self.metrics[i] for i in chosen], [self.shas[i] for i in chosen]
        return Labelled(tuple(metrics), self.truth[chosen], self.times[chosen], tuple(shas))

    @property
    def effort(self) -> Array:
        """Changed lines, at least one."""
        return np.array([max(1, one.la + one.ld) for one in self.metrics], dtype=float)


def label(measured: Sequence[Measured], found: Labels, now: int, patience: float = PATIENCE) -> Labelled:
    """The commits whose fate is known at `now`; later ones, and those too young to be clean, are left out."""
    known = found.known_at(now)
    wait = (found.latency(patience) or 365.0) * DAY
    kept = [
        one
        for one in measured
        if one.change.time <= now and one.metrics.nf and (one.sha in known or one.change.time <= now - wait)
    ]
    truth = np.array([one.sha in known for one in kept], dtype=float)
    times = np.array([one.change.time for one in kept], dtype=float)
    return Labelled(tuple(one.metrics for one in kept), truth, times, tuple(one.sha for one in kept))


# --- models -------------------------------------------------------------------------------------------------


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
    mean, spread = x.mean(0), x.std(0) + _SPREAD
    penalty = np.array([_FREE if name == "la" else ridge or _RIDGES[3] for name in features])
    weights, bias = _newton((x - mean) / spread, data.truth, penalty)
    weights = weights / spread
    return Model(
        LOGISTIC,
        features=tuple(features),
        weights=tuple(map(float, weights)),
        bias=float(bias - weights @ mean),
        means=tuple(map(float, mean)),
    )


def design(data: Labelled, features: Sequence[str]) -> Array:
    """The features of the commits, (n, features)."""
    return np.array([scaled(one, features) for one in data.metrics], dtype=float).reshape(
        len(data), len(features)
    )


def scores(model: Model, data: Labelled) -> Array:
    """The score of each commit, (n,)."""
    return np.asarray(design(data, model.features) @ np.array(model.weights) + model.bias, dtype=np.float64)


def _loss(model: Model, data: Labelled) -> float:
    """Mean negative log likelihood."""
    x = scores(model, data)
    return float((np.logaddexp(0.0, x) - data.truth * x).mean())


def _newton(x: Array, y: Array, ridge: Array, steps: int = 50) -> tuple[Array, float]:
    """Weights and bias that minimise the log loss plus half of `ridge` times each squared weight."""
    full = np.hstack([x, np.ones((len(x), 1))])
    penalty = np.diag([*ridge, 1e-6])
    beta = np.zeros(full.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(full @ beta, -30, 30)))
        curvature = (full * (p * (1 - p) + 1e-9)[:, None]).T @ full + penalty
        step = np.linalg.solve(curvature, full.T @ (y - p) - penalty @ beta)
        beta = beta + step
        if float(np.abs(step).max()) < 1e-9:
            break
    return beta[:-1], float(beta[-1])


def calibrate(model: Model, data: Labelled) -> Model:
    """The model with probabilities: Platt's sigmoid of the score, from commits that it was not fitted on."""
    return replace(model, curve=sigmoid(scores(model, data), data.truth))


def sigmoid(x: Array, truth: Array) -> Curve:
    """Points of Platt's sigmoid from scores (n) to probabilities, fitted to what became of the commits.

    Targets are smoothed as Platt (1999) does, so that few commits give no certainty.
    """
    bad, good = truth.sum(), (1 - truth).sum()
    goal = np.where(truth > 0, (bad + 1) / (bad + 2), 1 / (good + 2))
    centre, spread = float(x.mean()), float(x.std()) + _SPREAD
    weights, bias = _newton(((x - centre) / spread)[:, None], goal, np.array([1e-3]))
    slope = max(0.0, float(weights[0]))  # a score that says nothing gets the mean, never the reverse
    at = np.linspace(x.min() - spread, x.max() + spread, _POINTS)
    chance = 1 / (1 + np.exp(-(slope * (at - centre) / spread + bias)))
    return tuple(zip(map(float, at), map(float, chance), strict=True))


def through(curve: Curve, x: Array) -> Array:
    """The probabilities of scores (n)."""
    return np.array([interpolate(curve, float(score)) for score in x])


def ranked(model: Model, data: Labelled) -> Ranked:
    """What the model says of commits, beside what became of them."""
    found = scores(model, data)
    chances = np.array([model.probability(score) for score in found])
    return Ranked(data.truth, found, chances, data.effort)


# --- choosing -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Part:
    """A block of commits, the commits before it as they were known when it began, and the models of then."""

    block: Labelled
    before: Labelled
    models: dict[str, Model]


@dataclass(frozen=True, slots=True)
class Trial:
    """A comparison on later commits: what each model, fitted on earlier ones, said; and the better one.

    `data` are those commits, oldest first, `parts` the same block by block.
    """

    data: Labelled
    parts: tuple[Part, ...]
    ranked: dict[str, Ranked]
    chosen: str


def split(data: Labelled, share: float = TEST) -> Trial:
    """Fit on the oldest commits, measure on the newest `share`."""
    cut = len(data) - round(share * len(data))
    old, new = data.take(slice(0, cut)), data.take(slice(cut, None))
    models = fit(old)
    found = {name: ranked(model, new) for name, model in models.items()}
    return Trial(new, (Part(new, old, models),), found, _better(found))


def prequential(
    measured: Sequence[Measured], found: Labels, now: int, since: float | None = None, blocks: int = BLOCKS
) -> Trial | None:
    """The history again as it was lived: each block of commits is judged by what was known when it began.

    The labelled commits from `since` (unix seconds; default: the newest half) in `blocks` equal parts. None
    where no block had enough known bugs before it, or none had a bug in it.
    """
    data = label(measured, found, now)
    first = len(data) // 2 if since is None else int(np.searchsorted(data.times, since))
    parts: list[Part] = []
    for rows in np.array_split(np.arange(first, len(data)), blocks):
        if not len(rows):
            continue
        block = data.take(rows)
        start = int(block.times[0])
        before = label([one for one in measured if one.change.time < start], found, start)
        if NEEDED / 2 <= before.truth.sum() < len(before):
            parts.append(Part(block, before, fit(before)))
    if not sum(part.block.truth.sum() for part in parts):
        return None
    pooled = {name: _pool([placed(name, part) for part in parts]) for name in (LINES_ADDED, LOGISTIC)}
    judged = {sha for part in parts for sha in part.block.shas}
    kept = [i for i, sha in enumerate(data.shas) if sha in judged]
    return Trial(data.take(kept), tuple(parts), pooled, _better(pooled))


def _pool(parts: Sequence[Ranked]) -> Ranked:
    """The blocks as one."""
    truth, scores, chances, effort = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("truth", "scores", "chances", "effort")
    )
    return Ranked(truth, scores, chances, effort)


def placed(name: str, part: Part) -> Ranked:
    """What a model says of a block, its scores in standard deviations of the recent commits before it.

    So scores of different fits compare, as the percentiles do that people are shown.
    """
    said = ranked(part.models[name], part.block)
    usual = scores(part.models[name], part.before)[-RECENT:]
    return replace(said, scores=(said.scores - usual.mean()) / (usual.std() + _SPREAD))


def flagged(name: str, part: Part, budget: float) -> Array:
    """Which commits of a block are above all but `budget` percent of the recent ones before it, 0 or 1."""
    usual = scores(part.models[name], part.before)[-RECENT:]
    limit = np.quantile(usual, 1 - budget / 100, method="higher")
    return (scores(part.models[name], part.block) > limit).astype(float)


def _better(found: dict[str, Ranked]) -> str:
    """The regression where it beats lines added in AUC, outside the 95 % interval of the paired bootstrap."""
    return LOGISTIC if difference(found[LOGISTIC], found[LINES_ADDED], "auc").low > 0 else LINES_ADDED


def fit(data: Labelled) -> dict[str, Model]:
    """Both models from these commits.

    The newest eighth calibrates a regression on the rest; the one that is returned has that calibration, and
    is fitted on all of them, since the newest commits are the most like those to come.
    """
    cut = len(data) - max(1, len(data) // 8)
    old, recent = data.take(slice(0, cut)), data.take(slice(cut, None))
    if not old.truth.any() or old.truth.all():
        old = data
    curve = calibrate(regression(old), recent).curve
    return {
        LINES_ADDED: calibrate(lines_added(), recent),
        LOGISTIC: replace(regression(data), curve=curve),
    }


def train(measured: Sequence[Measured], found: Labels, now: int) -> Model:
    """The risk model of a history: the better of the two on later commits, or why there is none.

    `now` is the moment of the newest commit: what is known then counts.
    """
    data = label(measured, found, now)
    known = int(data.truth.sum())
    latency = found.latency(PATIENCE) or 0.0
    base = Model(known=known, needed=NEEDED, latency=latency)
    if known < NEEDED or known == len(data):
        return replace(base, why=f"not enough history ({known} known bugs, {NEEDED} needed)")
    tried = prequential(measured, found, now)
    if tried is None:
        return replace(base, why=f"not enough history (too few of its {known} bugs were known in time)")
    best = fit(data)[tried.chosen]
    recent = [one.metrics for one in measured if one.metrics.nf and one.change.time <= now][-RECENT:]
    told = replace(
        best,
        known=known,
        needed=NEEDED,
        latency=latency,
        scores=_quantiles([best.score(one) for one in recent]),
        sizes=_quantiles([one.la + one.ld for one in recent]),
        report=report(tried) | {"labelled": len(data), "recent": len(recent)},
    )
    return _worth_it(told, tried)


def of_history(
    history: History, repository: Repository, until: str, listen: Listener = lambda *_: None
) -> Model:
    """The risk model from nothing but the commits up to `until` (an id); `history` holds them already."""
    measured = replay(history, repository, until)
    if not measured:
        return Model(why="not enough history (no commit to learn from)", needed=NEEDED)
    found = labels.find(repository, until, load(repository), listen)
    return train(measured, found, max(one.change.time for one in measured))


def _quantiles(values: Sequence[float]) -> tuple[float, ...]:
    """Evenly spaced quantiles, from the smallest to the largest value."""
    return tuple(map(float, np.quantile(np.array(values, dtype=float), np.linspace(0, 1, _QUANTILES))))


def _worth_it(model: Model, tried: Trial) -> Model:
    """A score that is no better than chance on later commits is not shown to anybody."""
    auc = summary(tried.ranked[tried.chosen])["auc"]
    if not auc.low > 0.5:
        why = f"no score beats chance on later commits (AUC {auc.mean:.2f}, {auc.low:.2f}-{auc.high:.2f})"
        return Model(
            why=why, known=model.known, needed=model.needed, latency=model.latency, report=model.report
        )
    return model


def report(tried: Trial) -> dict[str, Any]:
    """What was measured, in plain values: by model, each metric with its interval."""
    found = {
        name: {metric: _plain(interval) for metric, interval in summary(one).items()}
        for name, one in tried.ranked.items()
    }
    one = tried.ranked[tried.chosen]
    return {"chosen": tried.chosen, "n": len(one), "buggy": int(one.truth.sum()), "test": found}


def _plain(interval: Any) -> list[float | None]:
    return [None if math.isnan(x) else round(float(x), 4) for x in interval]
