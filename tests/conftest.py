"""What every test stands on: a git that knows nothing of this machine, and a watch over the real home."""

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support import sealing
from tests.support.commands import Call, command_runner
from tests.support.gitrepo import Repo
from tests.support.hooking import Hooked, make_python

# The same examples on every run, and no deadline: a busy machine is no failure.
settings.register_profile("gitpeft", deadline=None, derandomize=True, database=None)
settings.load_profile("gitpeft")


@pytest.fixture(scope="session", autouse=True)
def _sealed_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The same seal for fixtures of a wider scope, and for libraries that look for their home once."""
    with pytest.MonkeyPatch.context() as patch:
        sealing.seal_environment(patch, tmp_path_factory.mktemp("session") / "home")
        sys.addaudithook(sealing.note_write)
        yield


@pytest.fixture(autouse=True)
def _sealed(
    _sealed_session: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A fresh home for each test; the test fails if the real one was touched meanwhile."""
    sealing.seal_environment(monkeypatch, tmp_path_factory.mktemp("home"))
    sealing.stray_writes.clear()
    before = sealing.read_watched_state()
    yield
    assert not sealing.stray_writes, (
        f"the test wrote below the real home directory: {sorted(set(sealing.stray_writes))}"
    )
    assert sealing.read_watched_state() == before, "a child process changed the real home directory"


@pytest.fixture
def repo(tmp_path: Path) -> Repo:
    """An empty repository on branch `main`, at `tmp_path / "repo"`."""
    return Repo.create(tmp_path / "repo")


@pytest.fixture(scope="session")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    """An interpreter in which a stand-in answers for the model."""
    return make_python(tmp_path_factory.mktemp("python"))


@pytest.fixture
def hooked(repo: Repo, python: str, tmp_path: Path) -> Hooked:
    """A repository with one commit, the hook, an editor, and a staged change."""
    repo.commit("Start", **{"README": "hello\n"})
    hooked = Hooked.create(repo, python, tmp_path / "tools")
    hooked.stage()
    return hooked


@pytest.fixture
def gitpeft(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Call:
    """Runs a command in this process: `gitpeft("status", "--json")`."""
    return command_runner(monkeypatch, capsys)
