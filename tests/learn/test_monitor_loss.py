"""Validation loss of what the team writes now, against the old level."""

import json
from pathlib import Path
from typing import Any

import pytest

from gitpeft import config
from gitpeft.bundle import bundle as bundles
from gitpeft.git.repository import Repository
from gitpeft.learn import pipeline
from gitpeft.learn.results import ModelPlan
from gitpeft.monitor import health, loss
from gitpeft.suggest.suggester import Suggester
from tests.support import generated
from tests.support.commands import Call
from tests.support.generated import Step
from tests.support.gitrepo import Repo
from tests.support.tinybase import Built, nobody

COUNT = 210


@pytest.fixture(autouse=True)
def patient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy machine is no reason to leave commits out."""
    monkeypatch.setattr(loss, "TIME_LIMIT_SECONDS", 600.0)


@pytest.fixture
def served(repo: Repo, built: Built) -> Repo:
    """A team with a model that was made from its first 210 commits, 21 of them held out."""
    generated.put(repo, generated.team(COUNT))
    plan = ModelPlan(base=str(built.out), train=False)
    pipeline.build_active_model(Repository.open(repo.path), plan, nobody)
    return repo


def measured(repo: Repo) -> loss.LossShift | None:
    repository = Repository.open(repo.path)
    active = bundles.open_active_bundle(repository.state_dir)
    assert active is not None
    return loss.measure_loss_shift(repository, active, config.load_config(repository))


def go_on(repo: Repo, count: int) -> None:
    """More commits of the same kind."""
    generated.put(repo, generated.team(COUNT + count)[COUNT:])


def another_tongue(repo: Repo, count: int) -> None:
    """Commits that say what no model of this team foresees."""
    words = ["quixotic", "zephyr", "jumbled", "vexing", "wharf", "glyph"]
    wordings = (
        f"{words[n % 6]} {words[n * 5 % 6]} {n * 7919 % 9973} {words[n // 6 % 6]}!" for n in range(count)
    )
    steps = [Step(wording, files={f"n{n}.txt": b"x"}) for n, wording in enumerate(wordings)]
    generated.put(repo, steps)


def test_a_team_that_stays_as_it_is(served: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    assert measured(served) is None, "nothing is new"
    go_on(served, loss.MIN_COMMITS - 1)
    assert measured(served) is None
    go_on(served, 60)
    found = measured(served)
    assert found is not None and (found.n_old, found.n_new) == (21, loss.MAX_COMMITS)
    assert 0 < found.old < 9 and 0 < found.new < 9 and not found.has_risen

    def twice(*_: Any, **__: Any) -> float:
        raise AssertionError("no commit is asked about twice")

    monkeypatch.setattr(Suggester, "compute_loss", twice)
    assert measured(served) == found


def test_a_team_that_writes_otherwise(served: Repo, gitpeft: Call) -> None:
    another_tongue(served, 40)
    found = measured(served)
    assert found is not None and found.has_risen and found.new > found.old + 1
    repository = Repository.open(served.path)
    active = bundles.open_active_bundle(repository.state_dir)
    assert active is not None
    said = health.measure_model_health(repository, active, config.load_config(repository), None)
    assert said.due == (
        f"due: the loss has risen to {found.new:.2f} nats/token on the newest "
        f"40 commits, from {found.old:.2f} before. Run `gitpeft train`."
    )
    shown = gitpeft("status", "--repo", served.path).said
    assert "nats/token on the newest 40 commits" in shown and "Run `gitpeft train`." in shown
    told = json.loads(gitpeft("status", "--repo", served.path, "--json").out)["manifest"]
    assert told["level"]["n_new"] == 40 and told["due"] == said.due
    assert told["promise"]["n"] > 0, "the labels were looked at, too"


def test_what_there_was_no_time_for_is_asked_later(served: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    go_on(served, 40)
    monkeypatch.setattr(loss, "TIME_LIMIT_SECONDS", 0.0)
    assert measured(served) is None
    monkeypatch.setattr(loss, "TIME_LIMIT_SECONDS", 60.0)
    assert measured(served) is not None
    cache = Repository.open(served.path).state_dir / "level.json"
    for text in ("", "[]", json.dumps({"model": "another", "losses": {}})):
        cache.write_text(text)
        assert measured(served) is not None


def test_a_model_that_only_retrieves_has_no_loss(repo: Repo, tmp_path: Path) -> None:
    from tests.support import tinymodel

    tip = repo.commit("Start", **{"a": "1"})
    tinymodel.bundle(Repository.open(repo.path).state_dir, commits={"to": tip, "count": 4})
    assert measured(repo) is None
