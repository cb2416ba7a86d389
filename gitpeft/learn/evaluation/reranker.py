"""How a chooser learns what people took: hides the loss, the prior that it starts from, and who judges it.

The weights are fitted question by question: what counts is which of its candidates is best, not how good they
are by themselves. A chooser that was fitted on many histories is the prior of one that is fitted on one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from gitpeft.lazy import replace_fields
from gitpeft.learn import logistic
from gitpeft.learn.evaluation.text_metrics import b_norm
from gitpeft.learn.evaluation.trial import ExampleCandidates, score_reranker
from gitpeft.suggest.reranker import RERANKED, Reranker
from gitpeft.suggest.reranker_features import GENERATED, RERANKER_FEATURES, RETRIEVED

DEFAULT_MODE = "default"
CROSS_VALIDATION_FOLDS = 5

TARGET_TEMPERATURE = 0.2
"""B-Norm (0..1) over this is the logit of how a question's candidates should be preferred."""

RIDGE_STRENGTH = 6.0
"""How strongly weights are held to the prior: as by so many questions. On the validation parts of flask, gin
and axios (120 to 340 questions) 0.2 to 6 are alike, and 60 is worse."""

_MAX_STEPS, _TOLERANCE, _MIN_SPREAD = 50, 1e-7, 1e-6
_MAX_HALVINGS = 30


@dataclass(frozen=True, slots=True)
class RerankerChoice:
    """The chooser that validation prefers, and what each way of choosing scored there (B-Norm, `n` examples).

    `name` is the way that won: generated, retrieved, default (the prior) or chooser (fitted). The fitted
    one's score is cross-validated: each fold is scored by a chooser that was fitted without it.
    """

    name: str
    chooser: Reranker
    n: int
    scores: dict[str, float]

    @property
    def best_score(self) -> float:
        """The score of the way that won."""
        return self.scores[self.name]

    def as_dict(self) -> dict[str, Any]:
        """For the manifest and the card."""
        return {"mode": self.name, "n": self.n, "scores": self.scores}


def choose_reranker(asked: Sequence[ExampleCandidates], prior: Reranker | None = None) -> RerankerChoice:
    """Fit a chooser on validation examples, from a prior if there is one; the best way of choosing stays."""
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
    """Weights under which a question's best candidate, by B-Norm, gets the highest score.

    The softmax of the scores is brought near to that of the B-Norms over `TEMPERATURE`: ListNet's top-one
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
    spread[spread < _MIN_SPREAD] = 1.0  # what never differs here keeps the prior's weight
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


def _read_question(one: ExampleCandidates) -> tuple[Any, Any]:
    """Features (k, len(FEATURES)) and B-Norm (k, 0..1) of the candidates that may be offered."""
    usable = [c for c in one.found if not c.flaw]
    goals = b_norm([c.message for c in usable], [one.example.message] * len(usable))
    return np.array([c.features for c in usable]).reshape(-1, len(RERANKER_FEATURES)), np.array(goals) / 100


def _target_distribution(goals: Any) -> Any:
    return _softmax(goals / TARGET_TEMPERATURE)


def _softmax(logits: Any) -> Any:
    raised = np.exp(logits - logits.max())
    return raised / raised.sum()


def _fit_listwise(questions: Sequence[tuple[Any, Any]], start: Any) -> Any:
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


def _listwise_loss(questions: Sequence[tuple[Any, Any]], weights: Any, start: Any) -> float:
    costs = [-wanted @ np.log(_softmax(x @ weights) + 1e-30) for x, wanted in questions]
    return float(np.mean(costs) + RIDGE_STRENGTH / len(questions) * ((weights - start) ** 2).sum())


def _calibrate_scores(scores: Any, goals: Any) -> tuple[float, float]:
    """Scale and bias of a logistic regression from scores to goals; the scale stays above 0."""
    mean, spread = float(scores.mean()), float(scores.std()) + 1e-9
    [slope], bias = logistic.fit_logistic_newton(((scores - mean) / spread)[:, None], goals, np.ones(1))
    scale = max(float(slope), 1e-3) / spread
    return scale, bias - scale * mean
