"""What every test stands on: a git that knows nothing of this machine, and a watch over the real home."""

import os
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import settings

from tests.support.gitrepo import EPOCH, Repo
from tests.support.hooking import Hooked, make_python

REAL_HOME = Path.home()
CHECKOUT = Path(__file__).resolve().parents[1]

# Where a test may write although it may lie below the real home.
_ALLOWED = tuple(
    os.path.realpath(place) + os.sep
    for place in (CHECKOUT, sys.prefix, sys.base_prefix, tempfile.gettempdir(), "/dev", "/proc")
)
# What a child process would write if it found the real home, by way of the user database for instance.
_WATCHED = (
    ".gitconfig",
    ".config/git",
    ".config/gitpeft",
    ".cache/gitpeft",
    ".local/share/gitpeft",
    ".local/state/gitpeft",
    ".cache/Microsoft",
)
_GIT_CONFIG = """\
[init]
    defaultBranch = main
[gc]
    auto = 0
[maintenance]
    auto = false
[protocol "file"]
    allow = always
[advice]
    detachedHead = false
[gitpeft]
    timeoutMs = 30000
"""
"""The last one because a busy machine is no failure; tests of the time that is allowed set it themselves."""
_CLEARED = ("CI", "GIT_", "GITPEFT", "XDG_", "ORT_", "PYTHONPATH", "PYTHONHOME", "VISUAL", "LC_", "LANGUAGE")
_writes: list[str] = []

# The same examples on every run, and no deadline: a busy machine is no failure.
settings.register_profile("gitpeft", deadline=None, derandomize=True, database=None)
settings.load_profile("gitpeft")


def _note_write(event: str, args: tuple[object, ...]) -> None:
    """Audit hook: remember what this process opens to write, makes or removes below the real home."""
    if event == "open":
        path, mode, flags = args
        writing = bool(set(mode) & set("wax+")) if isinstance(mode, str) else bool(int(str(flags)) & 3)
        paths = [path] if writing else []
    elif event in ("os.mkdir", "os.remove", "os.rmdir"):
        paths = [args[0]]
    elif event == "os.rename":
        paths = list(args[:2])
    else:
        return
    for path in paths:
        if isinstance(path, str | bytes | os.PathLike):
            _writes.extend(_strays(os.fsdecode(path)))


def _strays(path: str) -> list[str]:
    """The path, when it lies in the real home and in no place where tests may write."""
    full = os.path.realpath(path)
    inside = full.startswith(str(REAL_HOME) + os.sep) and not full.startswith(_ALLOWED)
    return [full] if inside else []


def _watched_state() -> dict[str, int]:
    """Modification time in ns of each watched path that exists."""
    found = (REAL_HOME / name for name in _WATCHED)
    return {str(path): path.stat().st_mtime_ns for path in found if path.exists()}


def _seal(patch: pytest.MonkeyPatch, home: Path) -> None:
    """Point everything that a program may take from its user at an empty home and a frozen moment."""
    for name in [name for name in os.environ if name.startswith(_CLEARED)]:
        patch.delenv(name)
    home.mkdir(parents=True, exist_ok=True)
    config = home / ".gitconfig"
    config.write_text(_GIT_CONFIG)
    now = f"{EPOCH} +0000"
    settings = {
        "HOME": str(home),
        "GIT_CONFIG_GLOBAL": str(config),
        "GIT_CONFIG_NOSYSTEM": "1",
        "GIT_TERMINAL_PROMPT": "0",
        "GIT_AUTHOR_NAME": "Ada Author",
        "GIT_AUTHOR_EMAIL": "ada@example.org",
        "GIT_COMMITTER_NAME": "Carl Committer",
        "GIT_COMMITTER_EMAIL": "carl@example.org",
        "GIT_AUTHOR_DATE": now,
        "GIT_COMMITTER_DATE": now,
        "EDITOR": "false",  # a test that opens an editor names it in GIT_EDITOR or core.editor
        "PAGER": "cat",
        "LC_ALL": "C.UTF-8",
        "TZ": "UTC",
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(home / "huggingface"),
    }
    for name, value in settings.items():
        patch.setenv(name, value)


@pytest.fixture(scope="session", autouse=True)
def _sealed_session(tmp_path_factory: pytest.TempPathFactory) -> Iterator[None]:
    """The same seal for fixtures of a wider scope, and for libraries that look for their home once."""
    with pytest.MonkeyPatch.context() as patch:
        _seal(patch, tmp_path_factory.mktemp("session") / "home")
        sys.addaudithook(_note_write)
        yield


@pytest.fixture(autouse=True)
def _sealed(
    _sealed_session: None, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> Iterator[None]:
    """A fresh home for each test; the test fails if the real one was touched meanwhile."""
    _seal(monkeypatch, tmp_path_factory.mktemp("home"))
    _writes.clear()
    before = _watched_state()
    yield
    assert not _writes, f"the test wrote below the real home directory: {sorted(set(_writes))}"
    assert _watched_state() == before, "a child process changed the real home directory"


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
