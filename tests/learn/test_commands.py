"""The commands that learn, in this process, on sixty commits and a base of a few thousand weights."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gitpeft.learn.compare import run as comparison
from gitpeft.learn.compare.results import to_plain
from gitpeft.learn.compare.runs import RunStatus
from tests.support import generated
from tests.support.commands import Call
from tests.support.comparisons import compared, messages
from tests.support.gitrepo import Repo
from tests.support.tinybase import RECIPE, Built, loosen


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
        "60 of 60 commits used", "tuned on your history (lora, rank 16, all-linear)",
        "something is offered for", "of the 6 newest commits", "of the keystrokes, the nearest past message",
        "prepare-commit-msg created", "Typical suggestions", "team:", "Try it",
    ):  # fmt: skip
        assert part.replace(" ", "") in done.said.replace(" ", ""), part
    assert "Training" in done.err and "tokens/s" in done.err, "progress is on standard error"
    assert (repo.path / ".git/hooks/prepare-commit-msg").is_file()
    known = gitpeft("status", *place[:2])
    assert "from 60 commits" in known.said and "lora" in known.said
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


# --- methods ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("text", ["adapter:width=8", "hybrid:rank=4,probe=1", "hybrid:rest=adapter,width=8"])
def test_every_method_from_the_command_line(text: str, place: tuple[str, ...], gitpeft: Call) -> None:
    done = gitpeft("init", *place, "--method", text, "--budget", "0.05", "--no-hooks", "--json")
    assert done.code == 0, done
    outcome = json.loads(done.out)
    assert outcome["kind"] == "model" and outcome["method"]["name"] == text.partition(":")[0]
    assert outcome["parity"]["exact"] < 1e-3 and 0 < outcome["cost"]["share"] < 1
    assert text.startswith("adapter") or len(outcome["method"]["full"]) == 1, "probing chose a layer"


def test_a_method_that_cannot_be_is_refused_before_any_work(
    place: tuple[str, ...], repo: Repo, gitpeft: Call
) -> None:
    for text, sentence in (
        ("magic", "unknown method 'magic'"), ("lora:rank=999", "rank 999 is above the width"),
        ("adapter:depth=2", "unknown option"), ("auto", "nothing was compared here yet"),
    ):  # fmt: skip
        done = gitpeft("train", *place, "--method", text, "--budget", "0.05")
        assert done.code == (2 if text in ("magic", "adapter:depth=2") else 1) and sentence in done.said, text
    assert not list((repo.path / ".git" / "gitpeft").glob("runs/*/adapter"))


def test_settings_make_another_run(place: tuple[str, ...], repo: Repo, gitpeft: Call) -> None:
    for text in ("lora:rank=4", "lora:rank=2", "lora:rank=4,alpha=8"):
        assert gitpeft("train", *place, "--method", text, "--budget", "0.05").code == 0
    assert len(list((repo.path / ".git/gitpeft/runs").iterdir())) == 3


def test_the_advice_of_a_comparison_is_taken(
    place: tuple[str, ...], built: Built, repo: Repo, gitpeft: Call
) -> None:
    folder = repo.path / ".git/gitpeft/compare"
    folder.mkdir(parents=True)
    (folder / "advice.json").write_text(
        json.dumps({"messages": {"method": "adapter:width=8", "base": str(built.out)}})
    )
    outcome = json.loads(
        gitpeft("init", *place[:2], "--method", "auto", "--budget", "0.05", "--no-hooks", "--json").out
    )
    assert outcome["method"]["name"] == "adapter" and outcome["method"]["width"] == 8
    assert outcome["base"] == str(built.out)


def test_a_comparison_on_the_terminal(
    repo: Repo, gitpeft: Call, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    asked = []
    task = messages()
    report = replace(compared(task, left_out=("no bugs",)), page=str(tmp_path / "x.html"))
    (tmp_path / "x.html").write_text("<!doctype html>")

    def compare(_repo: Any, wish: Any, watch: Any) -> Any:
        asked.append(wish)
        watch(
            [RunStatus("long", "lora", 0, "running", 0.5, "loss 3.1"), RunStatus("long", "full", 0)],
            "long run: lora",
        )
        return report

    monkeypatch.setattr(comparison, "compare_methods", compare)
    generated.put(repo, generated.team(3))
    done = gitpeft(
        "compare", "--repo", repo.path, "--methods", "lora", "--methods", "full", "--budget", "10",
        "--seeds", "2", "--task", "both", "--low-resource", "50,200", "--transfer", "py:go",
        "--out", tmp_path / "page.html",
    )  # fmt: skip
    assert done.code == 0, done
    assert asked[0].methods == ("lora", "full") and (asked[0].minutes, asked[0].seeds) == (10, 2)
    assert (asked[0].task, asked[0].low) == ("both", (50, 200))
    assert asked[0].transfer == (("python", "go"),)
    for part in (
        "Adopt full", "Skipped (time budget): hybrid", "nearest neighbour", "x.html", "Skipped: no bugs",
        "1,200", "trained on python", "Next: gitpeft init --method full",
    ):  # fmt: skip
        assert part.replace(" ", "") in done.said.replace(" ", ""), part
    assert "loss 3.1" in done.err and (tmp_path / "page.html").exists()
    again = json.loads(gitpeft("compare", "--repo", repo.path, "--json").out)
    assert again["tasks"][0]["advice"] == to_plain(task.advice)
    for wrong, said in (
        ("--low-resource", "is not a list of numbers"),
        ("--transfer", "does not name two languages"),
    ):
        done = gitpeft("compare", "--repo", repo.path, wrong, "x")
        assert done.code == 2 and said in done.said
