"""What the commands show of a state folder."""

import json
from pathlib import Path
from typing import Any

import pytest

from gitpeft.cli.views import describe_risk_model, measure_folder
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
