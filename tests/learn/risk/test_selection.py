"""The risk model: what it learns, what it refuses to learn, and that it never looks ahead."""

import json
import math
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gitpeft.errors import GitpeftError
from gitpeft.learn.evaluation import ranking_metrics
from gitpeft.learn.risk import bag_of_words, classifiers, labelled_history, prequential, selection
from gitpeft.learn.risk.metric_replay import MeasuredCommit
from gitpeft.risk.bag_of_words import BUCKET_COUNT
from gitpeft.risk.change_metrics import DAY_SECONDS, METRIC_NAMES, ChangeMetrics
from gitpeft.risk.model import (
    LINES_ADDED,
    LOGISTIC_REGRESSION,
    NO_MODEL,
    PRIOR,
    PRIOR_AND_OWN,
    WORDS_FEATURE,
    RiskModel,
    scale_features,
)
from tests.support.gitrepo import EPOCH
from tests.support.risk_tuning import evaluate_time_split
from tests.support.riskhistory import Found, history


def test_a_regression_wins_where_there_is_more_than_size() -> None:
    measured, found = history(800, 1, 0.9)
    model = selection.train_risk_model(measured, found, measured[-1].change.time)
    assert model.kind == PRIOR_AND_OWN and model.why == "" and model.known > 100
    weights = dict(zip(model.features, model.weights, strict=True))
    assert weights["rank:nuc"] == max(weights.values()) and "rank:fix" not in weights
    test = model.report["test"]
    for learnt in (PRIOR_AND_OWN, LOGISTIC_REGRESSION):
        assert test[learnt]["auc"][0] > 0.85 > test[LINES_ADDED]["auc"][0] + 0.1
    assert test[PRIOR]["auc"][0] < 0.7, "what other histories teach does not hold here"


def test_lines_added_stay_where_nothing_beats_them() -> None:
    measured, found = history(800, 2, 0.0)
    model = selection.train_risk_model(measured, found, measured[-1].change.time)
    assert model.kind == LINES_ADDED and model.features == ("la",)
    assert model.report["chosen"] == LINES_ADDED


@pytest.mark.parametrize("known", [0, prequential.MIN_KNOWN_BUGS - 1])
def test_with_too_few_known_bugs_other_histories_rank_but_do_not_warn(known: int) -> None:
    measured, found = history(300, 3, 0.5)
    found.known = dict.fromkeys(list(found.known)[:known], EPOCH)
    model = selection.train_risk_model(measured, found, measured[-1].change.time)
    assert model.kind == PRIOR and model.is_usable and not model.is_checked and not model.warns
    assert "test" not in model.report and RiskModel.from_dict(json.loads(model.to_json())) == model
    assert model.why == f"not enough history ({known} known bugs, {prequential.MIN_KNOWN_BUGS} needed)"


def test_a_score_that_says_nothing_is_not_shown() -> None:
    measured, found = history(400, 4, 0.5)
    random = np.random.default_rng(0)
    shas = [one.sha for one in measured]
    found.known = {str(sha): EPOCH for sha in random.choice(shas, 90, replace=False)}
    model = selection.train_risk_model(measured, found, measured[-1].change.time)
    assert model.kind == NO_MODEL and "chance" in model.why


def test_young_commits_are_left_out_and_not_taken_for_clean() -> None:
    measured, found = history(100, 5, 0.5)
    now = measured[-1].change.time
    data = labelled_history.label_commits(measured, found, now)
    kept = set(data.shas)
    for one in measured:
        young = one.change.time > now - 10 * DAY_SECONDS
        assert (one.sha in kept) == (not young or one.sha in found.bugs_known_at(now))
    assert data.truth.sum() == len(found.bugs_known_at(now) & kept)


def test_nothing_after_a_moment_counts_at_it() -> None:
    """Whatever happens later, what is said of the past stays the same."""
    measured, found = history(600, 6, 0.8)
    now = measured[400].change.time
    later = Found({sha: when for sha, when in found.known.items() if when <= now}, found.days)
    full = selection.train_risk_model(measured, found, now)
    cut = selection.train_risk_model(measured[:401], later, now)
    assert full == cut and full.is_usable


def test_a_block_is_judged_by_what_was_known_when_it_began(monkeypatch: pytest.MonkeyPatch) -> None:
    measured, found = history(500, 7, 0.8)
    now = measured[-1].change.time
    asked: list[tuple[int, int]] = []

    def watch(
        known: list[MeasuredCommit], labels: Found, when: int, **texts: Any
    ) -> classifiers.LabelledCommits:
        asked.append((max(one.change.time for one in known), when))
        return label(known, labels, when)

    label = labelled_history.label_commits
    monkeypatch.setattr(prequential, "label_commits", watch)
    trial = prequential.evaluate_prequential(measured, found, now)
    assert trial is not None and len(asked) == 1 + prequential.PREQUENTIAL_BLOCKS and asked[0] == (now, now)
    starts = [float(part.block.times[0]) for part in trial.parts]
    assert [when for _, when in asked[1:]] == starts
    assert all(newest < when for newest, when in asked[1:])
    assert list(trial.data.times) == sorted(trial.data.times)
    assert (
        len(trial.data)
        == sum(len(part.block) for part in trial.parts)
        == len(trial.ranked[LOGISTIC_REGRESSION])
    )


def test_commits_that_are_too_new_are_not_judged() -> None:
    """Of these only those that were fixed at once have a label."""
    measured, found = history(500, 7, 0.8)
    now, newest = measured[-1].change.time, measured[-5:]
    fixed = Found({**found.known, **{one.sha: one.change.time + 60 for one in newest}})
    limit = labelled_history.find_label_limit(fixed, now)
    assert newest[-1].change.time > limit
    trial = prequential.evaluate_prequential(measured, fixed, now)
    assert trial is not None and trial.data.times[-1] <= limit


def test_probabilities_are_those_that_come_true() -> None:
    measured, found = history(4000, 8, 0.5)
    data = labelled_history.label_commits(measured, found, measured[-1].change.time)
    trial = evaluate_time_split(data)
    one = trial.ranked[LOGISTIC_REGRESSION]
    assert ranking_metrics.expected_calibration_error(one.truth, one.chances) < 0.05
    assert abs(one.chances.mean() - one.truth.mean()) < 0.05


def test_the_design_matrix_has_the_features_that_a_change_has() -> None:
    measured, found = history(300, 9, 0.5)
    data = labelled_history.label_commits(measured, found, measured[-1].change.time)
    quantiles = {"la": [0.0, 1.0, 1.0, 5.0, 40.0], "nuc": [0.0, 2.5, 3.0]}
    names = ("rank:la", *METRIC_NAMES, WORDS_FEATURE, "rank:nuc")
    words = tuple(np.linspace(-1, 1, BUCKET_COUNT))
    changes = tuple(f"Ma.py +1 -0\n#a.py\n+word{i % 7}" for i in range(len(data)))
    data = replace(data, changes=changes)
    scores = bag_of_words.score_changes(data.changes, words)
    rows = [
        scale_features(one, names, {WORDS_FEATURE: float(score)}, quantiles)
        for one, score in zip(data.metrics, scores, strict=True)
    ]
    found_rows = classifiers.build_design_matrix(data, names, words, quantiles)
    assert found_rows.tolist() == rows and found_rows.flags.c_contiguous
    none = classifiers.build_design_matrix(data.take([]), names, words, quantiles)
    assert none.shape == (0, len(names))


def test_the_fit_is_the_minimum() -> None:
    """No other weights do better on the penalised loss, whichever way one goes from these."""
    measured, found = history(300, 9, 0.5)
    data = labelled_history.label_commits(measured, found, measured[-1].change.time)
    names, ridge = ("la", "nuc"), 3.0
    model = classifiers.fit_logistic_regression(data, names, ridge)
    x = classifiers.build_design_matrix(data, names)
    mean, spread = x.mean(0), x.std(0) + 1e-9
    penalty = np.array([classifiers._LINES_ADDED_RIDGE, ridge])

    def loss(weights: np.ndarray, bias: float) -> float:
        z = (x - mean) / spread @ weights + bias
        return float((np.logaddexp(0, z) - data.truth * z).sum() + (penalty * weights**2).sum() / 2)

    weights = np.array(model.weights) * spread
    bias = model.bias + float(np.array(model.weights) @ mean)
    for step in np.eye(3) * 0.01:
        for sign in (1, -1):
            assert loss(weights + sign * step[:2], bias + sign * step[2]) > loss(weights, bias)


def test_the_file_gives_back_the_model_and_nothing_else_is_believed() -> None:
    measured, found = history(600, 1, 0.9)
    model = selection.train_risk_model(measured, found, measured[-1].change.time)
    data = json.loads(model.to_json())
    again = RiskModel.from_dict(data)
    assert again == model and again.to_json() == model.to_json()
    for key, value in (
        ("kind", "oracle"), ("weights", [1.0]), ("features", ["la"]), ("scores", []), ("curve", [[0, "x"]]),
        ("bias", math.nan), ("scores", None), ("means", []),
    ):  # fmt: skip
        with pytest.raises(GitpeftError, match="risk model is invalid"):
            RiskModel.from_dict({**data, key: value})
    assert not RiskModel.from_dict({}).is_usable and "init" in RiskModel.from_dict({}).why


def test_at_most_the_budget_is_flagged() -> None:
    """H7: of the commits that made the percentiles, never more than the budget."""
    measured, found = history(900, 1, 0.9)
    model = selection.train_risk_model(measured, found, measured[-1].change.time)
    scores = [model.compute_score(one.metrics) for one in measured]
    for budget in (1, 5, 10, 20, 50):
        flagged = sum(model.should_flag(score, budget) for score in scores)
        assert 0 < flagged <= budget / 100 * len(scores) + 1
        for score in scores:
            assert (
                not model.should_flag(score, budget) or model.percentile_of_score(score) >= 100 - budget - 0.5
            )
    flat = replace(model, scores=(1.0,) * 201)
    assert not flat.should_flag(1.0, 10)  # a repository in which all commits are alike


def test_percentiles_go_from_0_to_100() -> None:
    model = replace(RiskModel(), scores=tuple(float(i) for i in range(101)))
    assert [model.percentile_of_score(x) for x in (-5.0, 0.0, 50.0, 50.5, 100.0, 900.0)] == [
        0,
        0,
        50,
        50.5,
        100,
        100,
    ]


def test_more_lines_are_never_less_risky_by_lines_added() -> None:
    model = classifiers.make_lines_added_model()
    values = [model.compute_score(ChangeMetrics(la=n)) for n in (0, 1, 10, 1000)]
    assert values == sorted(values) and scale_features(ChangeMetrics(la=0), ("la",)) == [0.0]
