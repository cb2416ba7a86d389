"""Fits the reranker, which decides which candidate message comes first, and evaluates it.

The weights are fitted listwise: what counts is which candidate of a commit is best, not how good it is by
itself. A reranker that was fitted on many histories is the prior of one that is fitted on one.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from gitpeft.errors import GitpeftError
from gitpeft.lazy import replace_fields
from gitpeft.learn import logistic
from gitpeft.learn.evaluation.text_metrics import NEARLY_KEPT_SHARE, compute_saving
from gitpeft.learn.evaluation.trial import ExampleCandidates, score_reranker
from gitpeft.suggest.reranker import RERANKED, Probe, Reranker
from gitpeft.suggest.reranker_features import (
    GENERATED,
    RERANKER_FEATURES,
    RETRIEVED,
    WEIGHED_FEATURES,
)

FloatArray = NDArray[np.float64]
DEFAULT_MODE = "default"
CROSS_VALIDATION_FOLDS = 5

TARGET_TEMPERATURE = 0.2
"""The saving (0..1) divided by this is the logit of a candidate in the target distribution."""

GOAL_SHARE = 0.5
"""Of what is offered, this share is to be nearly kept."""

MIN_COVERAGE, MIN_COVERED_COMMITS = 0.2, 20
"""Something is offered for at least this share of the commits, where so many are known: about what the prior
offers on other histories (22 %). A hook that is always silent looks broken."""

PRIOR_WEIGHT = 20.0
"""So many offers that go as their scores say are added to those of a history."""

VALUED_CANDIDATES, VALUE_RIDGE = 3, 3.0
"""The candidates of a commit from which their value is learnt, and the ridge penalty of that regression."""

Marks = Mapping[tuple[str, str], int]
"""Readers' marks, by commit (12 digits) and message: 3 commit as it stands, 2 a small edit, 1 rewrite, 0
wrong."""

MARK_WORTH = (0.0, 0.4, 0.85, 1.0)
"""What a message with each mark is worth."""

SAVING_PART, FULL_SAVING, MARK_RIDGE = 0.2, 2 / 3, 10.0
"""The part of a message's worth that is the keystrokes it saves, from which saving on that part is whole, and
the ridge penalty of the regression."""

PROBE_RIDGE = 500.0
"""The ridge penalty of a probe's weights, each state in units of its spread. On 3,705 marks of 43 histories
200 to 1,000 are equal."""

MARKED_COVERAGE, ADAPTED_COVERAGE = 0.4, 0.5
"""A reranker that was fitted on marks offers something for this share of its commits; for this share at least
of a history that it is adapted to, where the model is wrong less often."""

RIDGE_STRENGTH = 6.0
"""Strength of the ridge penalty towards the prior, in commits. On the validation parts of flask, gin
and axios (120 to 340 commits) 0.2 to 6 are equal, and 60 is worse."""

_WEIGHED = [RERANKER_FEATURES.index(name) for name in WEIGHED_FEATURES]
_PROBE = RERANKER_FEATURES.index("probe")
_MAX_STEPS, _TOLERANCE, _MIN_SPREAD = 50, 1e-7, 1e-6
_MAX_HALVINGS = 30


@dataclass(frozen=True, slots=True)
class RerankerChoice:
    """The reranker that is best on validation, and the keystrokes (%) that each way of ranking saves.

    `n` is the number of examples. `name` is the best way: generated, retrieved, default (the prior) or
    chooser (fitted). The fitted one's score is cross-validated: each fold is scored by a reranker that was
    fitted without it. `offers` is what comes of the threshold on the same commits (`summarise_outcomes`).
    """

    name: str
    chooser: Reranker
    n: int
    scores: dict[str, float]
    offers: dict[str, float] = field(default_factory=dict)

    @property
    def best_score(self) -> float:
        """The score of the best way."""
        return self.scores[self.name]

    def as_dict(self) -> dict[str, Any]:
        """For the manifest and the card."""
        return {"mode": self.name, "n": self.n, "scores": self.scores, "offers": self.offers}


def choose_reranker(asked: Sequence[ExampleCandidates], prior: Reranker | None = None) -> RerankerChoice:
    """Fit a reranker on validation examples, from a prior if there is one; the best way of ranking wins.

    The ways are compared by the keystrokes that their first messages save, whatever their scores. The winner
    then gets the threshold of `choose_threshold`. With a prior that was fitted on marks, only rerankers can
    win, because a score then needs candidates that are weighed; the threshold is the prior's, lowered where
    less than `ADAPTED_COVERAGE` of the commits would get an offer.
    """
    known = prior if prior is not None and prior.weights else Reranker()
    # with the weights of the prior, so that scores mean the same in every mode
    ways = {mode: replace_fields(known, mode=mode) for mode in (GENERATED, RETRIEVED)}
    if known.weights:
        ways[DEFAULT_MODE] = known
    scores = {name: float(np.mean(score_reranker(asked, chooser))) for name, chooser in ways.items()}
    held_out: list[OfferOutcome] = []
    if len(asked) >= 4 * CROSS_VALIDATION_FOLDS:
        found: list[float] = []
        for k in range(CROSS_VALIDATION_FOLDS):
            rest = [one for i, one in enumerate(asked) if i % CROSS_VALIDATION_FOLDS != k]
            fitted = fit_reranker(rest, prior)
            found += score_reranker(asked[k::CROSS_VALIDATION_FOLDS], fitted)
            held_out += list_outcomes(asked[k::CROSS_VALIDATION_FOLDS], fitted)
        scores[RERANKED] = float(np.mean(found))
    able = [name for name in scores if not known.marked or name not in (GENERATED, RETRIEVED)]
    best = max(able, key=lambda name: scores[name])
    chosen = fit_reranker(asked, prior) if best == RERANKED else ways[best]
    outcomes = held_out if best == RERANKED else list_outcomes(asked, chosen)
    if chosen.marked and chosen.threshold is not None:
        chosen = replace_fields(
            chosen, threshold=lower_threshold(chosen.threshold, outcomes, ADAPTED_COVERAGE)
        )
    elif chosen.weights:
        chosen = replace_fields(chosen, threshold=choose_threshold(outcomes))
    return RerankerChoice(best, chosen, len(asked), scores, summarise_outcomes(outcomes, chosen.threshold))


def fit_reranker(
    asked: Sequence[ExampleCandidates], prior: Reranker | None = None, marks: Marks | None = None
) -> Reranker:
    """Weights under which a commit's best candidate, by keystrokes saved, gets the highest score.

    The softmax of the scores is fitted to that of the savings over `TARGET_TEMPERATURE`: ListNet's top-one
    loss (Cao et al. 2007), by Newton's method, with a ridge towards the prior's weights (0 without one) in
    units of each feature's spread, once these are at this loss's scale. A logistic regression over the
    candidates that come first then gives the chance that one saves `NEARLY_KEPT_SHARE` of the keystrokes;
    with `marks`, one over all that have a mark gives what a message is worth, and where they have states, a
    probe. A prior's value and probe that were learnt from marks are kept: a history has none.
    """
    questions = _read_questions(asked)
    if not questions:
        return prior if prior is not None and prior.weights else Reranker(mode=GENERATED)
    rows = np.concatenate([x for x, _ in questions])
    spread = rows.std(0)
    spread[spread < _MIN_SPREAD] = 1.0  # a constant feature keeps the prior's weight
    spread[_WEIGHED] = np.inf  # which candidates are weighed is decided without them
    asked_for = [(x / spread, _target_distribution(y)) for x, y in questions]
    start = np.zeros(len(RERANKER_FEATURES))
    if prior is not None and prior.weights:
        given = _read_weights(prior, prior.weights) * np.where(np.isinf(spread), 0.0, spread)
        one = [((x @ given)[:, None], wanted) for x, wanted in asked_for]
        start = given * max(0.0, float(_fit_listwise(one, np.ones(1))[0]))
    weights = _fit_listwise(asked_for, start) / spread
    probe = prior.probe if prior is not None else Probe()
    if marks is not None:
        value_weights, value_bias, probe = _fit_marks(asked, marks)
    elif prior is not None and prior.marked:
        value_weights, value_bias = _read_weights(prior, prior.value_weights), prior.value_bias
    else:
        value_weights, value_bias = _fit_value(questions, weights, prior)
    return Reranker(
        RERANKED,
        RERANKER_FEATURES,
        tuple(map(float, weights)),
        threshold=prior.threshold if prior is not None else None,
        value_weights=tuple(map(float, value_weights)),
        value_bias=value_bias,
        marked=marks is not None or (prior is not None and prior.marked),
        probe_weights=probe.weights,
        probe_bias=probe.bias,
    )


def _read_weights(prior: Reranker, weights: Sequence[float]) -> FloatArray:
    """A prior's weights in the order of `RERANKER_FEATURES`, 0 for a feature that it does not know."""
    known = dict(zip(prior.features, weights, strict=True))
    return np.array([known.get(name, 0.0) for name in RERANKER_FEATURES])


def _read_questions(asked: Sequence[ExampleCandidates]) -> list[tuple[FloatArray, FloatArray]]:
    """The questions of those examples that have two candidates to choose from.

    Where no example has two that may be offered, the others serve: a poor model has an order of messages too.
    """
    for flawed in (False, True):
        questions = [_read_question(one, flawed) for one in asked]
        if found := [(x, y) for x, y in questions if len(y) > 1]:
            return found
    return []


def _read_question(one: ExampleCandidates, flawed: bool) -> tuple[FloatArray, FloatArray]:
    """Features (k, len(RERANKER_FEATURES)) and savings (k, 0..1) of candidates, with `flawed` of all."""
    usable = [c for c in one.found if flawed or not c.flaw]
    goals = [remember_saving(c.message, one.example.message) for c in usable]
    return np.array([c.features for c in usable]).reshape(-1, len(RERANKER_FEATURES)), np.array(goals)


# --- what an offer is worth ---------------------------------------------------------------------------------


def _fit_value(
    questions: Sequence[tuple[FloatArray, FloatArray]], weights: FloatArray, prior: Reranker | None
) -> tuple[FloatArray, float]:
    """Weights and bias of the logit of being nearly kept, from the candidates that come first.

    With a prior only the scale and the bias of its logit are fitted: one history is too short for more.
    """
    first = [(x[places], y[places]) for x, y in questions if len(places := _first_places(x, weights))]
    rows = np.concatenate([x for x, _ in first])
    nearly = np.concatenate([y for _, y in first]) >= NEARLY_KEPT_SHARE
    goals = nearly.astype(np.float64)
    if prior is not None and prior.value_weights:
        known = _read_weights(prior, prior.value_weights)
        logits = rows @ known + prior.value_bias
        padded = np.concatenate([logits, logits]), np.concatenate([goals, _sigmoid(logits)])
        share = np.concatenate([np.ones(len(goals)), np.full(len(goals), PRIOR_WEIGHT / len(goals))])
        scale, bias = _fit_weighted_line(*padded, share)
        return known * scale, prior.value_bias * scale + bias
    return _fit_logit(rows, goals, VALUE_RIDGE)


def _fit_marks(asked: Sequence[ExampleCandidates], marks: Marks) -> tuple[FloatArray, float, Probe]:
    """Weights and bias of the logit of what candidates are worth, and the probe, from those with a mark.

    One regression over features and states, so that the probe learns what the features do not say.
    """
    rows, states, goals = [], [], []
    for one in asked:
        for c in (*one.found, *one.given):
            mark = marks.get((one.example.sha, c.message))
            if mark is not None and not c.flaw:
                saved = min(1.0, remember_saving(c.message, one.example.message) / FULL_SAVING)
                rows.append(c.features)
                states.append(c.state)
                goals.append((1 - SAVING_PART) * MARK_WORTH[mark] + SAVING_PART * saved)
    if not rows:
        raise GitpeftError(
            f"none of the {len(marks):,} marks belongs to a message of this base",
            "leave `marks` out of the recipe, or have its own messages marked",
        )
    features = np.array(rows)
    features[:, _PROBE] = 0.0  # what an earlier probe read
    if not (known := [state for state in states if state]):
        return *_fit_logit(features, np.array(goals), MARK_RIDGE), Probe()
    usual = tuple(np.mean(known, axis=0))
    read = np.array([state or usual for state in states])
    ridge = np.repeat([MARK_RIDGE, PROBE_RIDGE], [features.shape[1], read.shape[1]])
    fitted, bias = _fit_logit(np.concatenate([features, read], 1), np.array(goals), ridge)
    weights, probe = np.split(fitted, [features.shape[1]])
    weights[_PROBE] = 1.0
    mean = float(read.mean(0) @ probe)
    return weights, bias + mean, Probe(tuple(map(float, probe)), -mean)


def _fit_logit(rows: FloatArray, goals: FloatArray, ridge: float | FloatArray) -> tuple[FloatArray, float]:
    mean, spread = rows.mean(0), rows.std(0)
    spread[spread < _MIN_SPREAD] = 1.0
    penalty = np.broadcast_to(ridge, rows.shape[1]).astype(np.float64)
    fitted, bias = logistic.fit_logistic_newton((rows - mean) / spread, goals, penalty)
    return fitted / spread, bias - float((fitted / spread) @ mean)


def _first_places(x: FloatArray, weights: FloatArray) -> NDArray[np.signedinteger]:
    return np.argsort(-(x @ weights), kind="stable")[:VALUED_CANDIDATES]


def _fit_weighted_line(logits: FloatArray, goals: FloatArray, share: FloatArray) -> tuple[float, float]:
    """Scale (at least 0.2) and bias by which logits fit weighted goals best, by Newton's method."""
    full = np.stack([logits, np.ones(len(logits))], 1)
    beta = np.array([1.0, 0.0])
    for _ in range(_MAX_STEPS):
        p = _sigmoid(full @ beta)
        curvature = (full * (share * (p * (1 - p) + 1e-9))[:, None]).T @ full + 1e-6 * np.eye(2)
        step = np.linalg.solve(curvature, full.T @ (share * (goals - p)))
        beta = beta + np.clip(step, -1, 1)
        if float(np.abs(step).max()) < _TOLERANCE:
            break
    return max(0.2, float(beta[0])), float(beta[1])


def _sigmoid(logits: FloatArray) -> FloatArray:
    chances: FloatArray = 1 / (1 + np.exp(-np.clip(logits, -30, 30)))
    return chances


class OfferOutcome(NamedTuple):
    """The score of the first message for a commit, and the share of keystrokes that it would have saved."""

    score: float
    saving: float


def list_outcomes(asked: Sequence[ExampleCandidates], reranker: Reranker) -> list[OfferOutcome]:
    """What comes first for each example, whatever its score; nothing where no message may be offered."""
    found = []
    for one in asked:
        ranked = reranker.rank_candidates(one.found, least=0.0)
        if ranked:
            score, best = ranked[0]
            found.append(OfferOutcome(score, remember_saving(best.message, one.example.message)))
        else:
            found.append(OfferOutcome(-1.0, 0.0))
    return found


def choose_threshold(outcomes: Sequence[OfferOutcome]) -> float:
    """The lowest score from which on `GOAL_SHARE` of the offers are nearly kept.

    The share is that of the outcomes and of `PRIOR_WEIGHT` more offers which go as their scores say, so that
    few commits do not decide alone. Where it is never reached, what scores `GOAL_SHARE` is offered; in any
    case the threshold leaves `MIN_COVERAGE` of the commits an offer.
    """
    ranked = sorted((one for one in outcomes if one.score >= 0), reverse=True)
    lowest, hits, expected = GOAL_SHARE, 0.0, 0.0
    for n, one in enumerate(ranked, 1):
        hits += one.saving >= NEARLY_KEPT_SHARE
        expected += one.score
        share = (hits + PRIOR_WEIGHT * expected / n) / (n + PRIOR_WEIGHT)
        last_of_equals = n == len(ranked) or ranked[n].score < one.score
        if share >= GOAL_SHARE and last_of_equals:
            lowest = min(lowest, one.score)
    return lower_threshold(lowest, outcomes, MIN_COVERAGE)


def lower_threshold(threshold: float, outcomes: Sequence[OfferOutcome], coverage: float) -> float:
    """The threshold, or what leaves this share of the commits an offer, where so many are known."""
    ranked = sorted((one.score for one in outcomes if one.score >= 0), reverse=True)
    if len(outcomes) < MIN_COVERED_COMMITS or not ranked:
        return threshold
    return min(threshold, _find_reached(ranked, coverage * len(outcomes)))


def find_threshold(outcomes: Sequence[OfferOutcome], coverage: float) -> float:
    """The score that this share of the commits reaches with what comes first; 0 where there is none."""
    ranked = sorted((one.score for one in outcomes), reverse=True)
    return max(0.0, _find_reached(ranked, coverage * len(ranked))) if ranked else 0.0


def _find_reached(ranked: Sequence[float], count: float) -> float:
    """The score that so many of the scores reach, the highest first; the lowest where there are fewer."""
    return ranked[min(len(ranked), math.ceil(count)) - 1]


def summarise_outcomes(outcomes: Sequence[OfferOutcome], threshold: float | None) -> dict[str, float]:
    """Coverage and the share of offers that are nearly kept, at a threshold; {} without one."""
    if threshold is None or not outcomes:
        return {}
    offered = [one for one in outcomes if one.score >= threshold]
    nearly = sum(one.saving >= NEARLY_KEPT_SHARE for one in offered)
    return {"coverage": len(offered) / len(outcomes), "nearly_kept": nearly / max(1, len(offered))}


@lru_cache(1 << 16)
def remember_saving(offer: str, written: str) -> float:
    """`compute_saving`, remembered: each fold of a cross-validation asks again."""
    return compute_saving(offer, written)


# --- fitting ------------------------------------------------------------------------------------------------


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
