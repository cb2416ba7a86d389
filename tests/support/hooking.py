"""A repository with the hook installed, a scripted editor, and something that answers for a model.

Real commits are driven without a model in two ways. `make_python` makes an interpreter in which
`support.standin` takes the place of `suggest.suggester`; and `Hooked.answer` puts messages into the cache,
as a real pre-commit stage does.
"""

import os
import re
import shutil
import stat
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from gitpeft.bundle.bundle import read_active_id
from gitpeft.config import load_config
from gitpeft.git.repository import Repository
from gitpeft.hooks.install import install_hooks
from gitpeft.suggest import cache, service
from gitpeft.suggest.suggestion import ModelAnswer, Suggestion
from tests.support import standin
from tests.support.gitrepo import Repo
from tests.support.sources import CHECKOUT
from tests.support.terminal import run_on_terminal

MODEL = "0" * 64
SUGGESTION, OTHER, THIRD = standin.MESSAGES

_EDITOR = """\
#!/bin/sh
# Keeps what a person would see, then does to the file what EDIT_WITH says.
cp "$1" "$EDIT_SEEN.$$" && mv "$EDIT_SEEN.$$" "$EDIT_SEEN"
echo opened >>"$EDIT_SEEN.count"
file=$1
eval "${EDIT_WITH-:}"
"""


def make_python(folder: Path, *, fake: bool = True) -> str:
    """An interpreter in `folder` that finds gitpeft in this checkout, as an installed one would; its path."""
    stand_in = (
        "import sys; from tests.support import standin; sys.modules['gitpeft.suggest.suggester'] = standin\n"
    )
    site = folder / "lib" / f"python{sys.version_info.major}.{sys.version_info.minor}" / "site-packages"
    site.mkdir(parents=True)
    packages = dict.fromkeys(
        path for path in sys.path if Path(path).name in ("site-packages", "dist-packages")
    )
    (site / "checkout.pth").write_text("\n".join([str(CHECKOUT), *packages, stand_in * fake]))
    base = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
    (folder / "pyvenv.cfg").write_text(f"home = {base.parent}\ninclude-system-site-packages = false\n")
    (folder / "bin").mkdir()
    python = folder / "bin" / "python"
    python.symlink_to(base)
    return str(python)


def script(path: Path, text: str) -> Path:
    """An executable file."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    path.chmod(0o755)
    return path


def needs_git(major: int, minor: int, what: str) -> None:
    """Skip a test of something that the git at hand does not know yet."""
    said = subprocess.run(["git", "version"], capture_output=True, text=True, check=True).stdout
    if tuple(map(int, re.findall(r"\d+", said)[:2])) < (major, minor):
        pytest.skip(f"git {major}.{minor} or newer knows {what}")


@dataclass(slots=True)
class Hooked:
    """A repository in which people commit with an editor."""

    repo: Repo
    python: str
    tools: Path
    env: dict[str, str] = field(default_factory=dict)
    terminal: int | None = None
    """The terminal at which people are; without one nothing works ahead."""

    @classmethod
    def create(cls, repo: Repo, python: str, tools: Path) -> "Hooked":
        """Install the hook in `repo`, and an editor in `tools`; a model is claimed to be there."""
        hooked = cls.with_editor(repo, python, tools)
        hooked.install()
        hooked.claim_model()
        return hooked

    @classmethod
    def with_editor(cls, repo: Repo, python: str, tools: Path) -> "Hooked":
        """A repository without a hook, and an editor in `tools`."""
        tools.mkdir(parents=True, exist_ok=True)
        env = {"GIT_EDITOR": str(script(tools / "editor", _EDITOR)), "EDIT_SEEN": str(tools / "seen")}
        return cls(repo, python, tools, env)

    @property
    def state(self) -> Path:
        return Repository.open(self.repo.path).state_dir

    @property
    def hook(self) -> Path:
        return Repository.open(self.repo.path).find_hooks_dir() / "prepare-commit-msg"

    def install(self, **options: Any) -> None:
        install_hooks(Repository.open(self.repo.path), python=self.python, **options)

    def claim_model(self) -> None:
        self.state.mkdir(exist_ok=True)
        (self.state / "current").write_text(MODEL)

    def answer(self, *messages: str, wanted: int = 0, base: str = "") -> None:
        """Put messages into the cache for what is staged now."""
        repo = Repository.open(self.repo.path)
        asked = service.build_staged_request(repo, load_config(repo), wanted, base)
        self._store_answer(asked.get_cache_key(MODEL), messages or standin.MESSAGES)

    def answer_active(self) -> None:
        """Put messages into the cache for what is staged now, under the model that is really active."""
        repo = Repository.open(self.repo.path)
        asked = service.build_staged_request(repo, load_config(repo))
        self._store_answer(asked.get_cache_key(read_active_id(repo.state_dir)), standin.MESSAGES)

    def _store_answer(self, key: str, messages: Sequence[str]) -> None:
        state = Repository.open(self.repo.path).state_dir
        answer = ModelAnswer([Suggestion(message) for message in messages])
        cache.store_cached_answer(state, key, answer)

    def full_env(self) -> dict[str, str]:
        """The environment in which git would run a hook here."""
        now = f"{self.repo.clock} +0000"
        return {**os.environ, **self.env, "GIT_AUTHOR_DATE": now, "GIT_COMMITTER_DATE": now}

    def call_stage(self, **env: str) -> subprocess.CompletedProcess[bytes]:
        """Run the installed pre-commit hook itself, as git would from the top of the work tree."""
        return subprocess.run(
            [str(self.hook.with_name("pre-commit"))],
            cwd=self.repo.path,
            env={**self.full_env(), **env},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=30,
            check=False,
        )

    def stage(self, **files: str | bytes | None) -> None:
        """Stage files; without any, a new one."""
        self.repo.stage(**(files or {"parser.py": f"tabs = {self.repo.clock}\n"}))

    def git(
        self, *args: str, edit: str = ":", env: Mapping[str, str] | None = None, input: str | None = None
    ) -> subprocess.CompletedProcess[bytes]:
        """Run git with the scripted editor; `edit` is shell that may change the file "$file"."""
        for name in ("seen", "seen.count"):
            (self.tools / name).unlink(missing_ok=True)
        given = {"EDIT_WITH": edit, **(env or {})}
        if self.terminal is None:
            return self.repo.run(*args, input=input, env={**self.env, **given})
        return run_on_terminal(
            ["git", *args], self.terminal, self.repo.path, {**self.full_env(), **given}, input or ""
        )

    def seen(self) -> str:
        """What the editor showed first; AssertionError when none was opened."""
        path = self.tools / "seen"
        assert path.exists(), "no editor was opened"
        return path.read_bytes().decode(errors="surrogateescape")

    def message(self, rev: str = "HEAD") -> str:
        """The raw message of a commit."""
        return (
            self.repo.run("log", "-1", "--encoding=UTF-8", "--format=%B", rev)
            .stdout.decode(errors="surrogateescape")
            .rstrip("\n")
        )

    def log(self) -> str:
        path = self.state / "hook.log"
        return path.read_text() if path.exists() else ""

    def call(
        self,
        *args: str,
        env: Mapping[str, str] | None = None,
        program: Sequence[str] = (),
        timeout: float = 30,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run the installed hook itself, as git would from the top of the work tree."""
        return subprocess.run(
            [*program, str(self.hook), *args],
            cwd=self.repo.path,
            env={**os.environ, **self.env, **(env or {})},
            stdin=subprocess.DEVNULL,
            capture_output=True,
            timeout=timeout,
            check=False,
        )


def eventually(true: Callable[[], object], seconds: float = 20) -> bool:
    """Whether something comes true in time; on a busy machine everything takes longer."""
    until = time.monotonic() + seconds
    while not true():
        if time.monotonic() > until:
            return False
        time.sleep(0.02)
    return True


def listing(folder: Path, *left_out: str) -> dict[str, tuple[int, bytes]]:
    """Mode and bytes of every file below a folder, by path; links with their target."""
    found = {}
    for path in sorted(folder.rglob("*")):
        name = str(path.relative_to(folder))
        if name.split("/")[0] in left_out:
            continue
        state = path.lstat()
        if stat.S_ISLNK(state.st_mode):
            found[name] = (state.st_mode, os.readlink(path).encode())
        elif stat.S_ISREG(state.st_mode):
            found[name] = (state.st_mode, path.read_bytes())
    return found


def copy_repo(source: Path, target: Path) -> Repo:
    """A second repository, equal in every byte."""
    shutil.copytree(source, target, symlinks=True)
    return Repo(target)


_COMMITS = """
import subprocess, sys
from pathlib import Path
repo, stop, seen = map(Path, sys.argv[1:])
bodies = "def parse(text):\\n    return {}\\n"
count = offered = 0
print("committing", flush=True)
while not stop.exists():
    (repo / "src").mkdir(exist_ok=True)
    (repo / "src/parser.py").write_text(bodies.format(("text", "tokens")[count % 2]) + f"# {count}\\n")
    subprocess.run(["git", "add", "-A"], cwd=repo, check=True)
    seen.unlink(missing_ok=True)
    done = subprocess.run(["git", "commit"], cwd=repo, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    first = seen.read_text().split("\\n", 1)[0]
    offered += bool(first) and not first.startswith("#")
    count += 1
print(count, offered)
"""


@contextmanager
def committing_meanwhile(repo: Repo, scratch: Path) -> Iterator[None]:
    """Somebody commits with an editor over and over, the hook installed and a real model active.

    No commit may fail, every one opens the editor, and messages are offered.
    """
    python = make_python(scratch / "venv", fake=False)
    tools = scratch / "tools"
    install_hooks(Repository.open(repo.path), python=python)
    env = {
        "GIT_EDITOR": str(script(tools / "editor", _EDITOR)),
        "EDIT_SEEN": str(tools / "seen"),
        "EDIT_WITH": "echo 'written by a person' >>\"$file\"",
    }
    stop = scratch / "stop committing"
    command = [sys.executable, "-c", _COMMITS, str(repo.path), str(stop), str(tools / "seen")]
    loop = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, env={**os.environ, **env}, text=True
    )
    assert loop.stdout is not None
    assert loop.stdout.readline() == "committing\n"
    try:
        yield
    finally:
        stop.touch()
        said, complaints = loop.communicate(timeout=120)
    assert loop.returncode == 0, complaints
    count, offered = map(int, said.split())
    assert count > 3, f"{count} commits, {offered} offers"
    assert offered, f"{count} commits, {offered} offers"
