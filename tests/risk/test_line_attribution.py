"""Words count the same wherever they are asked about, and each line of a change has its share."""

import math
from dataclasses import replace

import numpy as np
import pytest

from gitpeft.diff.stored import shorten_change
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.store import CommitRecord, History
from gitpeft.learn.risk import bag_of_words as word_fitting
from gitpeft.risk import bag_of_words, line_attribution
from gitpeft.risk.assessor import RiskAssessor
from gitpeft.risk.change_metrics import ChangeMetrics
from gitpeft.risk.model import ENCODER_FEATURE, METRICS_AND_WORDS, WORDS_FEATURE, RiskModel
from tests.support.gitrepo import Repo
from tests.support.risky import MODEL, change_core, fixed_often, give

CHANGE = " a.py +2 -1\n#a.py\n@def f(x)\n def f(x):\n-    return x\n+return crash(x)\n+import os"
WEIGHTS = tuple(float(i) for i in np.random.default_rng(0).normal(size=bag_of_words.BUCKET_COUNT).round(3))
READS = replace(
    MODEL,
    kind=METRICS_AND_WORDS,
    features=(*MODEL.features, WORDS_FEATURE),
    weights=(*MODEL.weights, 2.0),
    means=(*MODEL.means, 0.0),
    words=WEIGHTS,
)


def test_a_word_counts_by_where_it_stands() -> None:
    sides = [
        bag_of_words.hash_words(f"#a.py\n{sign}crash") - bag_of_words.hash_words("#a.py") for sign in "+-@"
    ]
    assert all(len(one) == 1 for one in sides) and len(set.union(*sides)) == 3
    assert bag_of_words.hash_words("#a.py\n+crash crash") == bag_of_words.hash_words("#a.py\n+CRASH")
    assert (
        bag_of_words.hash_words(" a.py +1 -0") == set() and bag_of_words.score_words("", WEIGHTS) == 0.0
    )  # counts are metrics


def test_replay_and_hook_score_words_alike() -> None:
    changes = [CHANGE, "#b.py\n+x = 1", " c.bin +0 -0"]
    rows = word_fitting.build_word_matrix(changes).astype(float) @ np.array(WEIGHTS)
    assert rows.tolist() == pytest.approx(
        [bag_of_words.score_words(one, WEIGHTS) for one in changes], abs=1e-5
    )


def test_weights_of_words_minimise_the_penalised_loss() -> None:
    dice = np.random.default_rng(1)
    changes = [f"#a.py\n+{' '.join(dice.choice(list('abcdefgh'), 3))}" for _ in range(60)]
    truth = np.array([float("+" in one and " a" in one) for one in changes])
    weights, unseen = word_fitting.fit_word_weights(changes, truth)
    rows = word_fitting.build_word_matrix(changes).astype(float)
    kernel = rows @ rows.T
    dual, bias = word_fitting._fit_dual_logistic(kernel, truth)

    def loss(alpha: np.ndarray, shift: float) -> float:
        score = kernel @ alpha + bias + shift
        penalty = word_fitting.RIDGE_PENALTY / 2 * (alpha @ kernel @ alpha + (bias + shift) ** 2)
        return float((np.logaddexp(0, score) - truth * score).sum() + penalty)

    least = loss(dual, 0.0)
    for _ in range(20):
        assert loss(dual + 0.01 * dice.normal(size=60), 0.0) > least - 1e-6
    assert loss(dual, 0.05) > least and loss(dual, -0.05) > least
    assert len(weights) == bag_of_words.BUCKET_COUNT and not np.isnan(unseen).any()


def test_old_commits_are_not_learnt_from(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(word_fitting, "MAX_WORD_COMMITS", 10)
    _, unseen = word_fitting.fit_word_weights(
        [f"#a\n+{i}" for i in range(30)], (np.arange(30) % 2).astype(float)
    )
    assert np.isnan(unseen[:20]).all() and not np.isnan(unseen[20:]).any()


def test_lines_have_shares_and_the_heaviest_comes_first() -> None:
    found = line_attribution.extract_features_from_text(READS, CHANGE, ChangeMetrics(), None)
    assert found == line_attribution.extract_features_from_text(READS, CHANGE, ChangeMetrics(), None)
    assert {line for (_, line), _ in found.lines} == {"+return crash(x)", "+import os"}
    shares = [share for _, share in found.lines]
    assert shares == sorted(shares, reverse=True)
    own = bag_of_words.hash_words("+import os")
    expected = 2.0 * sum(WEIGHTS[i] for i in own) / math.sqrt(len(bag_of_words.hash_words(CHANGE)))
    assert dict(found.lines)["a.py", "+import os"] == pytest.approx(expected)
    assert line_attribution.extract_features_from_text(MODEL, CHANGE, ChangeMetrics(), None).lines == ()


def test_a_line_of_code_comes_before_a_comment_and_before_text() -> None:
    """However heavy their words are: a fix changes code."""
    change = " a.py +3 -0\n#a.py\n@\n+# crash crash crash\n+return 1\n b.md +1 -0\n#b.md\n@\n+crash crash"
    crash = bag_of_words.hash_words("+# crash crash crash")
    heavy = replace(READS, words=tuple(float(i in crash) for i in range(bag_of_words.BUCKET_COUNT)))
    lines = line_attribution.extract_features_from_text(heavy, change, ChangeMetrics(), None).lines
    assert [line for (_, line), _ in lines] == ["+return 1", "+crash crash", "+# crash crash crash"]
    assert lines[0][1] < lines[1][1] and lines[0][1] < lines[2][1]


def test_a_model_without_its_encoder_says_so() -> None:
    model = replace(MODEL, features=(ENCODER_FEATURE,), weights=(1.0,), means=(0.0,))
    with pytest.raises(GitpeftError, match="the risk model's encoder is missing"):
        line_attribution.extract_features_from_text(model, CHANGE, ChangeMetrics(), None)


@pytest.mark.parametrize("proved", [True, False])
def test_the_heaviest_line_is_shown_where_it_is_better_than_chance(repo: Repo, proved: bool) -> None:
    gain = [0.2, 0.1, 0.3] if proved else [0.2, -0.1, 0.3]
    model = replace(READS, report={"lines": {"gain": gain}}, words=tuple(abs(x) for x in WEIGHTS))
    fixed_often(repo)
    give(repo, model)
    change_core(repo)
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        report = RiskAssessor(history, repository, model, 10).assess_staged()
    shown = [one for one in report.evidence if one.kind == "line"]
    assert len(shown) == proved and len(report.evidence) <= 5
    assert not proved or shown[0].text.startswith("src/core.py: riskiest line “a ")
    assert WORDS_FEATURE in report.beside and WORDS_FEATURE in report.features


def test_what_is_staged_scores_as_the_commit_does(repo: Repo) -> None:
    fixed_often(repo)
    give(repo, READS)
    change_core(repo)
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        assessor = RiskAssessor(history, repository, READS, 10)
        staged = assessor.assess_staged()
        repo.git("commit", "-q", "-m", "core: more")
        history.mine_commits(repository)
        after = assessor.assess_commit("HEAD")
    change = next(shorten_change(r.change) for r in _records(repository) if r.subject == "core: more")
    assert staged.beside == after.beside == {WORDS_FEATURE: bag_of_words.score_words(change, WEIGHTS)}


def _records(repository: Repository) -> list[CommitRecord]:
    with History.open(repository.state_dir) as history:
        return history.load_records(repository)


def test_a_file_of_an_older_gitpeft_is_still_read() -> None:
    import json

    data = json.loads(MODEL.to_json())
    del data["words"]
    assert RiskModel.from_dict(data) == MODEL
    with pytest.raises(GitpeftError, match="wrong number of word weights"):
        RiskModel.from_dict(
            data | {"features": [*MODEL.features, WORDS_FEATURE], "weights": [1, 1, 1], "means": [0, 0, 0]}
        )
