"""What the commands show of a state folder."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gitpeft.cli import views
from gitpeft.cli.views import describe_risk_model, measure_folder
from gitpeft.learn.budget import BudgetReport
from gitpeft.learn.evaluation.messages import EVERYTHING, MeasuredMessages
from gitpeft.learn.evaluation.text_metrics import score_messages
from gitpeft.learn.results import TrainingResult
from gitpeft.learn.retrain.run import RetrainingResult
from gitpeft.learn.training.finetune import RunCost
from gitpeft.learn.training.settings import TrainingCost
from gitpeft.risk.model import LOGISTIC_REGRESSION, PRIOR, RiskModel
from tests.support import tinymodel
from tests.support.commands import Call
from tests.support.gitrepo import Repo


def test_a_file_that_is_linked_twice_takes_room_once(tmp_path: Path) -> None:
    (tmp_path / "runs").mkdir()
    (tmp_path / "weights").write_bytes(bytes(1000))
    (tmp_path / "runs" / "weights").hardlink_to(tmp_path / "weights")
    (tmp_path / "note").write_bytes(bytes(7))
    assert measure_folder(tmp_path) == 1007


@pytest.mark.parametrize(
    ("setting", "stored", "score", "said"),
    [
        ("", {"threshold": 0.208}, 20.8, "from a score of 20.8 on (as the model needs)"),
        ("60", {"threshold": 0.208}, 60, "from a score of 60 on (gitpeft.minScore)"),
        ("0", {"threshold": 0.208}, 0, "whatever there is (gitpeft.minScore)"),
        ("", {}, 0, "whatever there is (as the model needs)"),
        ("", {"mode": "nonsense"}, None, "none: the model's reranker cannot be read"),
    ],
)
def test_status_tells_from_which_score_on_something_is_offered(
    repo: Repo, gitpeft: Call, setting: str, stored: dict[str, Any], score: float | None, said: str
) -> None:
    repo.commit("Start", a="1\n")
    tinymodel.bundle(repo.path / ".git" / "gitpeft", chooser=stored)
    if setting:
        repo.git("config", "gitpeft.minScore", setting)
    assert json.loads(gitpeft("status", "--repo", repo.path, "--json").out)["least_score"] == score
    assert f"Offers {said}" in " ".join(gitpeft("status", "--repo", repo.path).out.split())


def test_the_prior_is_not_said_to_be_learned_here() -> None:
    curve = ((0.0, 0.1), (1.0, 0.9))
    said = {
        kind: describe_risk_model(RiskModel(kind, known=232, scores=(0.0, 1.0), curve=curve))
        for kind in (PRIOR, LOGISTIC_REGRESSION)
    }
    assert said[PRIOR] == "prior (learnt from public histories), checked on 232 known bugs here"
    assert said[LOGISTIC_REGRESSION] == "logistic regression, learned from 232 known bugs"


SHORT = BudgetReport(1, 48.0, ("training on 20 of 798 commits", "20 of 100 test commits"), 4)
REDUCED = (
    "Budget 48 s after reading the history, of 1 minutes "
    "reduced to: training on 20 of 798 commits; 20 of 100 test commits "
    "--budget 4 should take it all, as fast as this machine was"
)


def test_what_the_suggestions_save_is_compared_for_the_same_commits() -> None:
    """The nearest message is there for every commit, so what it saves is no match for the offers alone."""
    references = ["Add a parser for dates", "Fix the reader", "Drop Python 3.8", "Release 2.1"]
    ours = ["Add a parser for times", "Fix the writer", "Drop Python 3.7", "Release 2.1"]
    scores = {
        "gitpeft": score_messages([*ours[:1], "", "", ""], references),
        EVERYTHING: score_messages(ours, references),
        "nearest neighbour": score_messages(["Add docs", "", "", ""], references),
    }
    told = views.describe_quality(MeasuredMessages(scores))
    assert "something is offered for 25% of the 4 newest commits; 100% of the offers save 60% of the " in told
    saved = [round(scores[name].metrics["keystrokes_saved"].mean) for name in scores]
    assert f"a suggestion for every commit saves {saved[1]}% (" in told
    assert f"the nearest past message {saved[2]}% (" in told
    assert saved[0] < saved[1]
    always = views.describe_quality(MeasuredMessages({name: scores[name] for name in list(scores)[::2]}))
    assert f"saves {saved[0]}% (" in always, "of a model without a threshold"


def test_a_training_tells_what_the_budget_was_too_short_for(capsys: pytest.CaptureFixture[str]) -> None:
    cost = RunCost(TrainingCost(steps=3, valid_curve=[(0, 2.0)]), 1000)
    retrained = RetrainingResult("none", "a tie", "c" * 64, new=60)
    long = BudgetReport(5, 48.0)
    for budget in (SHORT, long):
        views.print_training(TrainingResult(cost, budget))
        trained = " ".join(capsys.readouterr().out.split())
        views.print_retraining(replace(retrained, budget=budget))
        compared = " ".join(capsys.readouterr().out.split())
        for said in (trained, compared):
            assert said and (REDUCED in said) == ("Budget" in said) == (budget is SHORT)


def test_what_no_budget_would_change_names_none(capsys: pytest.CaptureFixture[str]) -> None:
    views.print_retraining(
        RetrainingResult("none", "a tie", "c" * 64, new=60, budget=replace(SHORT, enough=0))
    )
    said = " ".join(capsys.readouterr().out.split())
    assert "reduced to: training on 20 of 798 commits" in said and "should take it all" not in said
