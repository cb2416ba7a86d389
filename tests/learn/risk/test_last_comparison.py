"""When a risk model need not be fitted and compared again."""

from collections.abc import Callable
from pathlib import Path

import pytest

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Bundle
from gitpeft.git.repository import Repository
from gitpeft.learn.retrain.run import replace_risk_model
from gitpeft.learn.risk import last_comparison
from gitpeft.risk.model import RiskModel
from tests.support import tinymodel
from tests.support.gitrepo import Repo
from tests.support.sharing import state


@pytest.fixture
def compared(repo: Repo) -> Repo:
    """A repository of two commits whose risk model was compared without being short of time."""
    repo.commit("Start", a="1\n")
    repo.commit("Fix a", a="2\n")
    tinymodel.bundle(state(repo))
    last_comparison.note_comparison(opened(repo), active(repo), tip(repo), 2)
    return repo


def opened(repo: Repo) -> Repository:
    return Repository.open(repo.path)


def active(repo: Repo) -> Bundle:
    found = bundles.open_active_bundle(state(repo))
    assert found is not None
    return found


def tip(repo: Repo) -> str:
    return repo.git("rev-parse", "HEAD")


def was_compared(repo: Repo, commits: int = 2, minutes: float = 5.0) -> bool:
    return last_comparison.was_compared(opened(repo), active(repo), tip(repo), commits, minutes)


def test_nothing_changed(compared: Repo) -> None:
    assert was_compared(compared) and was_compared(compared, minutes=1e6)
    compared.git("config", "gitpeft.minScore", "50")
    (compared.path / "a").write_text("not committed\n")
    assert was_compared(compared)


def ignore_revision(repo: Repo) -> None:
    (repo.path.parent / "ignored").write_text(f"{tip(repo)}  # formats everything\n")
    repo.git("config", "blame.ignoreRevsFile", str(repo.path.parent / "ignored"))


def exchange_score(repo: Repo) -> None:
    tinymodel.bundle(state(repo), created="2030-01-01T00:00:00Z")


@pytest.mark.parametrize(
    "change",
    [
        lambda repo: repo.commit("Add b", b="1\n"),
        lambda repo: repo.git("reset", "-q", "--hard", "HEAD^"),
        lambda repo: repo.git("config", "gitpeft.fixPattern", "^Repair"),
        lambda repo: (repo.path / ".mailmap").write_text("Ada <ada@example.org> <a@example.org>\n"),
        lambda repo: repo.git("replace", "--graft", "HEAD"),
        lambda repo: (state(repo) / last_comparison.NOTE_FILE).write_text("{"),
        lambda repo: (state(repo) / last_comparison.NOTE_FILE).write_text("[]"),
        ignore_revision,
        exchange_score,
    ],
)
def test_what_decides_has_changed(compared: Repo, change: Callable[[Repo], object]) -> None:
    change(compared)
    assert not was_compared(compared)


def test_more_commits_of_the_same_history(compared: Repo) -> None:
    """A shallow clone that was deepened has the same tip."""
    assert not was_compared(compared, commits=3)


def test_another_version_fits_anew(compared: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(last_comparison, "__version__", "99.0")
    assert not was_compared(compared)


@pytest.mark.parametrize("name", ["risk.json", "risk.onnx"])
def test_another_score(compared: Repo, tmp_path: Path, name: str) -> None:
    """It was fitted at the same moment; `gitpeft rollback` brings such a one back."""
    (tmp_path / "risk").mkdir()
    (tmp_path / "risk" / "risk.json").write_text(RiskModel(report={"until": 1}).to_json())
    (tmp_path / "risk" / "risk.onnx").write_bytes(b"a graph")
    first = replace_risk_model(opened(compared), active(compared), tmp_path / "risk", {})
    last_comparison.note_comparison(opened(compared), active(compared), tip(compared), 2)
    other = RiskModel(why="another one", report={"until": 1}).to_json()
    (tmp_path / "risk" / name).write_text(other)
    replace_risk_model(opened(compared), active(compared), tmp_path / "risk", {})
    assert not was_compared(compared)
    bundles.activate_bundle(state(compared), first)
    assert was_compared(compared)


def test_more_time_counts_where_it_was_short(compared: Repo) -> None:
    last_comparison.note_comparison(opened(compared), active(compared), tip(compared), 2, 5.0)
    assert was_compared(compared, minutes=5.0) and was_compared(compared, minutes=1.0)
    assert not was_compared(compared, minutes=5.1)
