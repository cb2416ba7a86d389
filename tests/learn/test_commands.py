"""The commands that learn, in this process, on sixty commits and a base of a few thousand weights."""

import json
from pathlib import Path

import pytest

from tests import generated
from tests.gitrepo import Repo
from tests.learn.conftest import RECIPE, Built, loosen
from tests.test_cli import Call, gitpeft

__all__ = ["gitpeft"]  # a fixture


@pytest.fixture
def place(repo: Repo, built: Built, monkeypatch: pytest.MonkeyPatch) -> tuple[str, ...]:
    """Options that name a repository and a base."""
    generated.put(repo, generated.team(60))
    loosen(monkeypatch)
    return ("--repo", str(repo.path), "--base", str(built.out))


def test_init_ends_with_a_card(place: tuple[str, ...], repo: Repo, gitpeft: Call) -> None:
    done = gitpeft("init", *place, "--budget", "0.05")
    assert done.code == 0, done
    for part in (
        "60 used", "lora (rank 16, all-linear)", "trainable weights", "peak memory", "Offered first",
        "prepare-commit-msg created", "Next", "Newest 6 usable commits", "B-Norm", "nearest neighbour",
        "the team wrote", "gitpeft would have suggested",
    ):  # fmt: skip
        assert part.replace(" ", "") in done.said.replace(" ", ""), part
    assert "Training" in done.err and "tokens/s" in done.err, "progress is on standard error"
    assert (repo.path / ".git/hooks/prepare-commit-msg").is_file()
    known = gitpeft("status", *place[:2])
    assert "60 commits up to" in known.said and "lora" in known.said
    assert gitpeft("doctor", *place[:2]).code == 0
    assert repo.git("status", "--porcelain") == ""


def test_the_steps_one_by_one(place: tuple[str, ...], repo: Repo, gitpeft: Call) -> None:
    here = place[:2]
    assert gitpeft("export", *here).code == 1
    trained = gitpeft("train", *place, "--budget", "0.05")
    assert trained.code == 0 and "best validation loss" in trained.out and "gitpeft export" in trained.out
    assert gitpeft("suggest", "HEAD", *here).code == 1, "nothing is active before the export"
    again = json.loads(gitpeft("train", *place, "--budget", "0.05", "--json").out)
    assert again["steps"] > 0 and again["trainable"] < again["parameters"]
    exported = json.loads(gitpeft("export", *here, "--json").out)
    assert (exported["kind"], exported["used"]) == ("model", 60)
    assert exported["cost"]["steps"] == again["steps"]
    assert not (repo.path / ".git/hooks/prepare-commit-msg").exists()
    measured = json.loads(gitpeft("eval", *here, "--json").out)
    assert measured["bundle"] == exported["bundle"] and measured["test"] == exported["test"]
    assert measured["test"]["gitpeft"]["n"] == 6
    shown = gitpeft("eval", *here, "--limit", "3")
    assert "Newest 3 usable commits" in shown.said


def test_full_tuning(place: tuple[str, ...], gitpeft: Call) -> None:
    done = gitpeft("init", *place, "--method", "full", "--budget", "0.05", "--no-hooks", "--json")
    assert done.code == 0, done
    outcome = json.loads(done.out)
    assert outcome["trainable"] == outcome["parameters"] and outcome["method"]["name"] == "full"
    assert outcome["hooks"] == "not installed (--no-hooks)" and done.err == ""


def test_a_base_is_built_and_used(built: Built, tmp_path: Path, gitpeft: Call, repo: Repo) -> None:
    """From what an earlier build has left in its work folder."""
    recipe = tmp_path / "recipe.toml"
    recipe.write_text(RECIPE)
    with pytest.MonkeyPatch.context() as patch:
        loosen(patch)
        done = gitpeft(
            "base", "build", recipe, "--corpus", built.corpus, "--work", built.work, "--out", tmp_path / "out"
        )
    assert done.code == 0 and done.out.split() == ["the", "base", "is", "in", str(tmp_path / "out")]
    generated.put(repo, generated.team(9))
    served = gitpeft("init", "--repo", repo.path, "--base", tmp_path / "out", "--no-hooks", "--json")
    assert json.loads(served.out)["kind"] == "model"
