"""The packaged risk prior: what it needs of a repository, how it is corrected there, and when it is used."""

import json
from dataclasses import replace

import numpy as np
import pytest

from gitpeft.learn.evaluation.ranking_metrics import RankedCommits, roc_auc
from gitpeft.learn.risk import classifiers, prequential, prior, selection
from gitpeft.learn.risk.classifiers import LabelledCommits
from gitpeft.risk.change_metrics import METRIC_NAMES, ChangeMetrics, is_code_file
from gitpeft.risk.model import (
    LINES_ADDED,
    LOGISTIC_REGRESSION,
    PRIOR,
    PRIOR_AND_OWN,
    WORDS_FEATURE,
    RiskModel,
    rank_among,
)
from tests.bench import build_risk_prior
from tests.support.riskhistory import history


def measure(size: int) -> ChangeMetrics:
    """A change of one code file."""
    return ChangeMetrics(nf=1, nd=1, ns=1, la=size, code_added=size, code_files=1, nuc=3, ndev=1)


def test_the_packaged_prior_is_whole_and_says_what_it_was_made_from() -> None:
    found = prior.load_prior()
    assert found.kind == PRIOR and found.words and set(found.ranks) > {"la", "code_added", "fixes"}
    assert found.report["above_lines_added"] == found.report["histories"] == 71
    assert RiskModel.from_dict(json.loads(found.to_json())) == found


def test_a_change_is_ranked_within_its_own_repository() -> None:
    """The same change is riskier where changes are small."""
    small, large = ([measure(size * k) for k in range(1, 300)] for size in (1, 100))
    one = measure(300)
    scores = [prior.adapt_prior(recent, words=False).compute_score(one) for recent in (small, large)]
    assert scores[0] > scores[1] + 1
    assert WORDS_FEATURE not in prior.adapt_prior(small, words=False).features
    assert WORDS_FEATURE in prior.adapt_prior(small, words=True).features


def test_hardly_any_history_leaves_the_usual_distribution() -> None:
    usual = tuple(float(i) for i in range(101))
    assert prior.blend_quantiles([], usual) == usual
    few = prior.blend_quantiles([1000.0] * 5, usual)
    many = prior.blend_quantiles([1000.0] * 5000, usual)
    assert few[50] < 60 and few[-1] == 1000 and many[10] == 1000
    assert list(few) == sorted(few) and len(few) == 101


def test_values_that_are_equal_share_a_rank() -> None:
    assert rank_among((0.0, 0.0, 0.0, 1.0), 0.0) == 0.375
    assert [rank_among((1.0, 2.0), x) for x in (0.0, 1.5, 3.0)] == [0.0, 0.5, 1.0]


@pytest.mark.parametrize("path", ["src/a.py", "lib/core/x.rs", "cmd/main.go", "a.b/c.ts", "x/Makefile.am"])
def test_code(path: str) -> None:
    assert is_code_file(path)


NO_CODE = (
    *("README.md", "docs/conf.py", "tests/test_a.py", "a_test.go", "package.json", ".github/x.js"),
    *("LICENSE", "setup.py", ".gitignore", "examples/run.py", "a/b.YML"),
)


@pytest.mark.parametrize("path", NO_CODE)
def test_no_code(path: str) -> None:
    assert not is_code_file(path)


def labelled(count: int, seed: int, by: str) -> LabelledCommits:
    """Commits in which a metric decides, and no prior knows it."""
    random = np.random.default_rng(seed)
    metrics = [
        replace(measure(int(random.integers(1, 99))), age=float(random.integers(99))) for _ in range(count)
    ]
    values = np.array([getattr(one, by) for one in metrics]) + 15 * random.standard_normal(count)
    truth = (values > np.quantile(values, 0.8)).astype(float)
    return LabelledCommits(
        tuple(metrics), truth, np.arange(count, dtype=float), tuple(f"{i:040x}" for i in range(count))
    )


def test_labels_correct_the_prior_as_far_as_they_go() -> None:
    """Few labels leave its order nearly as it is; many teach what it does not know."""
    later = labelled(600, 5, "age")
    found = {}
    start = prior.adapt_prior(labelled(1500, 4, "age").metrics, words=False)
    for count in (40, 1500):
        data = labelled(count, 4, "age")
        fitted = classifiers.fit_prior_and_own(start, data)
        assert fitted.kind == PRIOR_AND_OWN and fitted.features == start.features
        scores = classifiers.score_commits(fitted, later)
        found[count] = roc_auc(later.truth, scores)
    before = roc_auc(later.truth, classifiers.score_commits(start, later))
    assert before < 0.6 < found[1500] - 0.2 and found[1500] > found[40]


def test_without_anything_to_learn_the_corrected_prior_ranks_like_the_prior() -> None:
    data = labelled(800, 6, "code_added")
    start = prior.adapt_prior(data.metrics, words=False)
    fitted = classifiers.fit_prior_and_own(start, data)
    a, b = (classifiers.score_commits(one, data) for one in (start, fitted))
    assert roc_auc(data.truth, b) >= roc_auc(data.truth, a) - 0.01


def rank(truth: np.ndarray, noise: float, seed: int) -> RankedCommits:
    scores = truth + noise * np.random.default_rng(seed).standard_normal(len(truth))
    return RankedCommits(truth, scores, np.clip(scores, 0, 1), np.ones(len(truth)))


def test_the_better_of_the_prior_and_lines_added_is_the_one_to_beat() -> None:
    truth = (np.arange(600) % 5 == 0).astype(float)
    poor, fair, good = (rank(truth, noise, seed) for noise, seed in ((2.0, 1), (0.8, 2), (0.3, 3)))
    assert prequential.select_model({LINES_ADDED: poor, PRIOR: fair, PRIOR_AND_OWN: poor}) == PRIOR
    assert prequential.select_model({LINES_ADDED: fair, PRIOR: poor, PRIOR_AND_OWN: poor}) == LINES_ADDED
    assert prequential.select_model({LINES_ADDED: poor, PRIOR: poor, PRIOR_AND_OWN: fair}) == PRIOR_AND_OWN
    models = {LINES_ADDED: poor, PRIOR: fair, PRIOR_AND_OWN: poor, LOGISTIC_REGRESSION: good}
    assert prequential.select_model(models) == LOGISTIC_REGRESSION
    assert prequential.beats_lines_added(models, PRIOR) and not prequential.beats_lines_added(
        models, LINES_ADDED
    )


def test_a_prior_that_is_not_clearly_better_than_lines_added_is_used_but_does_not_warn() -> None:
    truth = (np.arange(200) % 10 == 0).astype(float)
    found = {LINES_ADDED: rank(truth, 1.0, 1), PRIOR: rank(truth, 0.98, 1)}
    assert prequential.select_model(found) == PRIOR and not prequential.beats_lines_added(found, PRIOR)
    told = RiskModel(PRIOR, report={"warns": False})
    assert not told.warns and RiskModel(LOGISTIC_REGRESSION).warns and not RiskModel(LINES_ADDED).warns


def test_thirty_commits_get_a_score_on_the_first_day() -> None:
    measured, found = history(30, 1, 0.5)
    model = selection.train_risk_model(measured, found, measured[-1].change.time)
    assert model.kind == PRIOR and "known bugs" in model.why and not model.warns
    usual = ChangeMetrics(nf=1, nuc=20, exp=50)
    scores = [model.compute_score(replace(usual, la=n)) for n in (1, 30, 3000)]
    places = list(map(model.percentile_of_score, scores))
    assert places == sorted(places) and places[0] < 50 < places[2]


def test_the_builder_fits_what_tells_bugs_apart() -> None:
    """Histories in which only lines of code matter: the weight of code is the largest, and scores rank."""
    random = np.random.default_rng(0)
    names = list(METRIC_NAMES)
    histories = {}
    for number in range(3):
        metrics = random.lognormal(2, 1, (400, len(names)))
        truth = (metrics[:, names.index("code_added")] > 15).astype(float)
        truth[:40] = np.nan
        words = np.repeat(np.where(np.nan_to_num(truth) > 0, 7, 9), 1)
        histories[f"h{number}"] = build_risk_prior.Examples(
            metrics, truth, words, np.ones(400, dtype=np.int64)
        )
    model = build_risk_prior.fit_prior(histories)
    weights = dict(zip(model.features, model.weights, strict=True))
    assert max(weights, key=lambda name: weights[name] if name != WORDS_FEATURE else -1) == "rank:code_added"
    assert model.words[7] > 0 > model.words[9] and model.report["histories"] == 3
    unseen = build_risk_prior.cross_validate(histories)
    assert set(unseen) == set(histories) and all(ours > 0.95 > lines for ours, lines in unseen.values())
