"""Fits the reranker, which decides which candidate message comes first, and evaluates it.

The weights are fitted listwise: what counts is which candidate of a commit is best, not how good it is by
itself. A reranker that was fitted on many histories is the prior of one that is fitted on one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from gitpeft.lazy import replace_fields
from gitpeft.learn import logistic
from gitpeft.learn.evaluation.text_metrics import b_norm
from gitpeft.learn.evaluation.trial import ExampleCandidates, score_reranker
from gitpeft.suggest.reranker import RERANKED, Reranker
from gitpeft.suggest.reranker_features import GENERATED, RERANKER_FEATURES, RETRIEVED

FloatArray = NDArray[np.float64]
DEFAULT_MODE = "default"
CROSS_VALIDATION_FOLDS = 5

TARGET_TEMPERATURE = 0.2
"""B-Norm (0..1) divided by this is the logit of a candidate in the target distribution."""

RIDGE_STRENGTH = 6.0
"""Strength of the ridge penalty towards the prior, in commits. On the validation parts of flask, gin
and axios (120 to 340 commits) 0.2 to 6 are equal, and 60 is worse."""

_MAX_STEPS, _TOLERANCE, _MIN_SPREAD = 50, 1e-7, 1e-6
_MAX_HALVINGS = 30


@dataclass(frozen=True, slots=True)
class RerankerChoice:
    """The reranker that is best on validation, and the score of each way of ranking (B-Norm, `n` examples).

    `name` is the best way: generated, retrieved, default (the prior) or chooser (fitted). The fitted one's
    score is cross-validated: each fold is scored by a reranker that was fitted without it.
    """

    name: str
    chooser: Reranker
    n: int
    scores: dict[str, float]

    @property
    def best_score(self) -> float:
        """The score of the best way."""
        return self.scores[self.name]

    def as_dict(self) -> dict[str, Any]:
        """For the manifest and the card."""
        return {"mode": self.name, "n": self.n, "scores": self.scores}


def choose_reranker(asked: Sequence[ExampleCandidates], prior: Reranker | None = None) -> RerankerChoice:
    """Fit a reranker on validation examples, from a prior if there is one; the best way of ranking wins."""
    known = prior if prior is not None and prior.weights else Reranker()
    ways = {
        mode: replace_fields(known, mode=mode) for mode in (GENERATED, RETRIEVED)
    }  # their scores mean the same
    if known.weights:
        ways[DEFAULT_MODE] = known
    scores = {name: float(np.mean(score_reranker(asked, chooser))) for name, chooser in ways.items()}
    if len(asked) >= 4 * CROSS_VALIDATION_FOLDS:
        held_out: list[float] = []
        for k in range(CROSS_VALIDATION_FOLDS):
            rest = [one for i, one in enumerate(asked) if i % CROSS_VALIDATION_FOLDS != k]
            held_out += score_reranker(asked[k::CROSS_VALIDATION_FOLDS], fit_reranker(rest, prior))
        scores[RERANKED] = float(np.mean(held_out))
    best = max(scores, key=lambda name: scores[name])
    return RerankerChoice(
        best, fit_reranker(asked, prior) if best == RERANKED else ways[best], len(asked), scores
    )


def fit_reranker(asked: Sequence[ExampleCandidates], prior: Reranker | None = None) -> Reranker:
    """Weights under which a commit's best candidate, by B-Norm, gets the highest score.

    The softmax of the scores is fitted to that of the B-Norms over `TARGET_TEMPERATURE`: ListNet's top-one
    loss (Cao et al. 2007), by Newton's method, with a ridge towards the prior's weights (0 without one) in
    units of each feature's spread, once these are at this loss's scale. The scale of the scores is then
    fitted so that a score, through the logistic function, is the B-Norm (0..1) to be expected.
    """
    questions = [_read_question(one) for one in asked]
    questions = [(x, y) for x, y in questions if len(y) > 1]
    if not questions:
        return prior if prior is not None and prior.weights else Reranker(mode=GENERATED)
    rows, goals = (np.concatenate(parts) for parts in zip(*questions, strict=True))
    spread = rows.std(0)
    spread[spread < _MIN_SPREAD] = 1.0  # a constant feature keeps the prior's weight
    asked_for = [(x / spread, _target_distribution(y)) for x, y in questions]
    start = np.zeros(len(RERANKER_FEATURES))
    if prior is not None and prior.weights:
        known = dict(zip(prior.features, prior.weights, strict=True))
        given = np.array([known.get(name, 0.0) for name in RERANKER_FEATURES]) * spread
        one = [((x @ given)[:, None], wanted) for x, wanted in asked_for]
        start = given * max(0.0, float(_fit_listwise(one, np.ones(1))[0]))
    weights = _fit_listwise(asked_for, start) / spread
    scale, bias = _calibrate_scores(rows @ weights, goals)
    return Reranker(RERANKED, RERANKER_FEATURES, tuple(map(float, scale * weights)), bias)


def _read_question(one: ExampleCandidates) -> tuple[FloatArray, FloatArray]:
    """Features (k, len(RERANKER_FEATURES)) and B-Norm (k, 0..1) of the candidates that may be offered."""
    usable = [c for c in one.found if not c.flaw]
    goals = b_norm([c.message for c in usable], [one.example.message] * len(usable))
    return np.array([c.features for c in usable]).reshape(-1, len(RERANKER_FEATURES)), np.array(goals) / 100


def _target_distribution(goals: FloatArray) -> FloatArray:
    return _softmax(goals / TARGET_TEMPERATURE)


def _softmax(logits: FloatArray) -> FloatArray:
    raised: FloatArray = np.exp(logits - logits.max())
    shares: FloatArray = raised / raised.sum()
    return shares


def _fit_listwise(questions: Sequence[tuple[FloatArray, FloatArray]], start: FloatArray) -> FloatArray:
    """The weights (d) that minimise the mean cross-entropy plus the ridge; the loss is convex."""
    weights, loss = start, _listwise_loss(questions, start, start)
    ridge = RIDGE_STRENGTH / len(questions)
    for _ in range(_MAX_STEPS):
        slope = 2 * ridge * (weights - start)
        curvature = 2 * ridge * np.eye(len(start))
        for x, wanted in questions:
            given = _softmax(x @ weights)
            centre = x.T @ given
            slope = slope + (x.T @ (given - wanted)) / len(questions)
            curvature += ((x.T * given) @ x - np.outer(centre, centre)) / len(questions)
        step = np.linalg.solve(curvature, slope)
        for _ in range(_MAX_HALVINGS):
            if _listwise_loss(questions, weights - step, start) <= loss + 1e-12:
                break
            step = step / 2
        weights = weights - step
        loss = _listwise_loss(questions, weights, start)
        if float(np.abs(step).max()) < _TOLERANCE:
            break
    return weights


def _listwise_loss(
    questions: Sequence[tuple[FloatArray, FloatArray]], weights: FloatArray, start: FloatArray
) -> float:
    costs = [-wanted @ np.log(_softmax(x @ weights) + 1e-30) for x, wanted in questions]
    return float(np.mean(costs) + RIDGE_STRENGTH / len(questions) * ((weights - start) ** 2).sum())


def _calibrate_scores(scores: FloatArray, goals: FloatArray) -> tuple[float, float]:
    """Scale and bias of a logistic regression from scores to goals; the scale stays above 0."""
    mean, spread = float(scores.mean()), float(scores.std()) + 1e-9
    [slope], bias = logistic.fit_logistic_newton(((scores - mean) / spread)[:, None], goals, np.ones(1))
    scale = max(float(slope), 1e-3) / spread
    return scale, bias - scale * mean
