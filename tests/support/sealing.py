"""Isolates tests from the person who runs them: an empty home, a frozen clock, a watch over the real home."""

import os
import sys
import tempfile
from pathlib import Path

import pytest

from tests.support.gitrepo import EPOCH
from tests.support.sources import CHECKOUT

REAL_HOME = Path.home()

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
stray_writes: list[str] = []


def note_write(event: str, args: tuple[object, ...]) -> None:
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
            stray_writes.extend(find_strays(os.fsdecode(path)))


def find_strays(path: str) -> list[str]:
    """The path, when it lies in the real home and in no place where tests may write."""
    full = os.path.realpath(path)
    inside = full.startswith(str(REAL_HOME) + os.sep) and not full.startswith(_ALLOWED)
    return [full] if inside else []


def read_watched_state() -> dict[str, int]:
    """Modification time in ns of each watched path that exists."""
    found = (REAL_HOME / name for name in _WATCHED)
    return {str(path): path.stat().st_mtime_ns for path in found if path.exists()}


def seal_environment(patch: pytest.MonkeyPatch, home: Path) -> None:
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
        "GITPEFT_BASE": "mini",  # the small base, whatever memory the machine has
        "HF_HUB_OFFLINE": "1",
        "HF_HUB_DISABLE_TELEMETRY": "1",
        "HF_HOME": str(home / "huggingface"),
    }
    for name, value in settings.items():
        patch.setenv(name, value)
