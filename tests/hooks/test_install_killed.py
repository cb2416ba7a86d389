"""E5 of the contract: `install` and `uninstall` killed before every step that changes something.

After each kill every file is the old or the new one whole, `git commit` works, and a second installation or
removal comes to its end with nothing left over. What a step is, is found out in two ways: by the audit events
of Python, in a fork of this process, which needs no privilege; and by strace, which sees every system call of
the program and of the git that it runs.
"""

import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gitpeft.git.repository import Repository
from gitpeft.hooks import install, stubs
from tests.support.foreignhooks import (
    CONFIG,
    FOREIGN,
    LEFTHOOK_HOOK,
    NAME,
    PRE_COMMIT_HOOK,
    foreign,
    husky,
    snapshot,
)
from tests.support.gitrepo import Repo
from tests.support.hooking import copy_repo, script

NOTES = ("made-hooks-directory", "hook-folders")
"""What an installation notes for `uninstall`; no other program reads it."""

GITS = [folder for folder in os.environ.get("GITPEFT_TEST_GITS", "").split(":") if folder]


def no_folder(repo: Repo) -> None:
    shutil.rmtree(repo.path / ".git/hooks", ignore_errors=True)


def a_link(repo: Repo) -> None:
    script(repo.path / "scripts/hook", FOREIGN)
    repo.path.joinpath(".git/hooks", NAME).symlink_to("../../scripts/hook")


def a_deep_folder(repo: Repo) -> None:
    repo.git("config", "core.hooksPath", "tools/git/hooks")
    repo.git("config", "core.sharedRepository", "group")


def foreign_ahead(repo: Repo) -> None:
    script(repo.path / ".git/hooks" / stubs.AHEAD_HOOK, FOREIGN)


def husky_with_a_line(repo: Repo) -> None:
    husky(repo)
    repo.write(f".husky/{NAME}", "true")


def lefthook(repo: Repo) -> None:
    script(repo.path / ".git/hooks" / NAME, LEFTHOOK_HOOK)
    repo.write("lefthook-local.yml", "pre-commit:\n  commands: {}\n")


def pre_commit(repo: Repo) -> None:
    script(repo.path / ".git/hooks" / NAME, PRE_COMMIT_HOOK)


def pre_commit_file(repo: Repo) -> None:
    repo.write(".pre-commit-config.yaml", CONFIG)


@dataclass(frozen=True)
class Case:
    """A repository as it is before, the strategy that is asked for, and the hook."""

    prepare: Callable[[Repo], object]
    strategy: str = "auto"
    hook: str = stubs.SUGGESTION_HOOK


CASES = {
    "plain": Case(lambda _: None),
    "no folder": Case(no_folder),
    "deep folder": Case(a_deep_folder),
    "chained": Case(foreign),
    "link": Case(a_link),
    "config": Case(lambda _: None, "config"),
    "line": Case(lambda _: None, "line"),
    "husky": Case(husky),
    "husky with a line": Case(husky_with_a_line),
    "lefthook": Case(lefthook),
    "pre-commit": Case(pre_commit),
    "pre-commit file": Case(pre_commit_file, "pre-commit"),
    "ahead": Case(no_folder, hook=stubs.AHEAD_HOOK),
    "ahead, chained": Case(foreign_ahead, hook=stubs.AHEAD_HOOK),
    "ahead, config": Case(lambda _: None, "config", stubs.AHEAD_HOOK),
}
QUICK = ("deep folder", "chained", "config", "ahead, chained", "husky with a line")


def perform(what: str, path: Path, strategy: str, hook: str = stubs.SUGGESTION_HOOK) -> None:
    """One installation or removal; with a git that is older than configured hooks it takes it for a newer."""
    repo = Repository.open(path)
    if repo.git_version < install.CONFIG_HOOKS_VERSION:
        vars(repo)["git_version"] = install.CONFIG_HOOKS_VERSION
    if what == "install":
        install.install_hooks(repo, strategy=strategy, hooks=[hook])
    else:
        install.uninstall_hooks(repo)


class Trial:
    """One repository in its three states: before, installed, and as the last kill left it."""

    def __init__(self, repo: Repo, case: Case, folder: Path) -> None:
        self.repo, self.strategy, self.hook = repo, case.strategy, case.hook
        repo.commit("Start", a="a\n")
        case.prepare(repo)
        self.before = folder / "before"
        self.installed = folder / "installed"
        shutil.copytree(repo.path, self.before, symlinks=True)
        perform("install", repo.path, case.strategy, case.hook)
        shutil.copytree(repo.path, self.installed, symlinks=True)
        self.states = [snapshot(Repo(self.before)), snapshot(Repo(self.installed))]
        assert self.states[0] != self.states[1]

    def reset(self, what: str) -> None:
        """The state from which `what` starts."""
        shutil.rmtree(self.repo.path)
        start = self.before if what == "install" else self.installed
        shutil.copytree(start, self.repo.path, symlinks=True)

    def check(self, what: str, step: int) -> None:
        """Everything is old or new, a commit works, and either way leads on, by turns."""
        self._each_file_is_old_or_new(step)
        self._a_commit_works(step)
        then = what if step % 2 else {"install": "uninstall", "uninstall": "install"}[what]
        perform(then, self.repo.path, self.strategy, self.hook)
        left = differences(snapshot(self.repo), self.states[1 if then == "install" else 0])
        assert not left, (step, then, left)

    def _each_file_is_old_or_new(self, step: int) -> None:
        old, new, now = *self.states, snapshot(self.repo)
        for name in now.keys() | old.keys() | new.keys():
            last = name.rpartition("/")[2]
            if last and not last.startswith(".gitpeft-new.") and last not in ("config.lock", *NOTES):
                assert now.get(name) in (old.get(name), new.get(name)), (step, name, now.get(name))
        hook, kept = f".git/hooks/{self.hook}", f".git/hooks/{self.hook}.gitpeft-chained"
        if kept in new and now[hook] == new[hook]:
            assert now[kept] == new[kept], f"step {step}: the earlier hook no longer runs"

    def _a_commit_works(self, step: int) -> None:
        """In a copy, because a copy parts the two names of one file, which mean something here."""
        copy = copy_repo(self.repo.path, self.before.with_name("copy"))
        done = copy.run("commit", "--allow-empty", "-m", "goes on")
        assert done.returncode == 0, (step, done.stderr)
        assert copy.git("log", "-1", "--format=%B").strip() == "goes on"
        shutil.rmtree(copy.path)


def differences(one: dict[str, tuple[int, bytes]], other: dict[str, tuple[int, bytes]]) -> set[str]:
    return {name for name in one.keys() | other.keys() if one.get(name) != other.get(name)}


@pytest.fixture
def trial(repo: Repo, request: pytest.FixtureRequest, tmp_path: Path) -> Trial:
    return Trial(repo, CASES[request.param], tmp_path / "states")


# --- by audit events --------------------------------------------------------------------------------------

EVENTS = {"os.mkdir", "os.link", "os.symlink", "os.rename", "os.remove", "os.chmod", "os.rmdir"}


def changes(event: str, args: tuple[object, ...], inside: str) -> bool:
    """Whether an audit event comes before a change of the repository, or a git that makes one."""
    if event == "open":
        return isinstance(args[2], int) and args[2] & 3 != 0 and inside in str(args[0])
    if event == "subprocess.Popen":
        words = {str(word) for word in args[1]} if isinstance(args[1], list | tuple) else set()
        return "config" in words and not words & {"--list", "--get", "--get-regexp"}
    return event in EVENTS and (isinstance(args[0], int) or any(inside in str(arg) for arg in args[:2]))


def killed_before(number: int, what: str, trial: Trial) -> bool:
    """Run it in a fork that kills itself before its change `number`; False when it came to its end."""
    pid = os.fork()
    if pid == 0:
        left = [number]

        def count(event: str, args: tuple[object, ...]) -> None:
            if changes(event, args, str(trial.repo.path)):
                left[0] -= 1
                if left[0] < 0:
                    os.kill(os.getpid(), signal.SIGKILL)

        code = 1
        try:
            sys.addaudithook(count)
            perform(what, trial.repo.path, trial.strategy, trial.hook)
            code = 0
        finally:
            os._exit(code)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    assert status in (0, -signal.SIGKILL), (number, status)
    return status != 0


def check_every_event(what: str, trial: Trial) -> None:
    step = 0
    while True:
        trial.reset(what)
        if not killed_before(step, what, trial):
            break
        trial.check(what, step)
        step += 1
    assert step >= 4
    assert not differences(snapshot(trial.repo), trial.states[1 if what == "install" else 0])


@pytest.mark.parametrize("what", ["install", "uninstall"])
@pytest.mark.parametrize("trial", QUICK, indirect=True)
def test_e5_killed_before_each_change(trial: Trial, what: str) -> None:
    check_every_event(what, trial)


@pytest.mark.slow
@pytest.mark.parametrize("what", ["install", "uninstall"])
@pytest.mark.parametrize("trial", [name for name in CASES if name not in QUICK], indirect=True)
def test_e5_killed_before_each_change_in_every_kind_of_installation(trial: Trial, what: str) -> None:
    check_every_event(what, trial)


# --- by system calls --------------------------------------------------------------------------------------

CALLS = (
    *(
        "openat",
        "mkdir",
        "rmdir",
        "rename",
        "link",
        "linkat",
        "symlink",
        "unlink",
        "write",
        "fchmod",
        "chmod",
    ),
    *("fsync", "flock", "close"),
)
PROGRAM = """
import sys
from pathlib import Path
from gitpeft.git.repository import Repository
from gitpeft.hooks import install, stubs
repo = Repository.open(Path(sys.argv[2]))
if repo.git_version < install.CONFIG_HOOKS_VERSION:
    vars(repo)["git_version"] = install.CONFIG_HOOKS_VERSION
if sys.argv[1] == "install":
    install.install_hooks(repo, strategy=sys.argv[3], hooks=[sys.argv[4]])
else:
    install.uninstall_hooks(repo)
"""
_CALL = re.compile(r"^(\d+) +(?:<\.\.\. )?(\w+)(\(| resumed)")


def traced(what: str, trial: Trial, *options: str) -> subprocess.CompletedProcess[bytes]:
    """Run it under strace, with the git that it runs."""
    program = [sys.executable, "-c", PROGRAM, what, str(trial.repo.path), trial.strategy, trial.hook]
    return subprocess.run(
        ["strace", "-f", "-qq", *options, *program],
        cwd=Path(__file__).parents[2],
        env={**os.environ, "PYTHONDONTWRITEBYTECODE": "1"},
        capture_output=True,
        timeout=60,
    )


def calls_of(what: str, trial: Trial, log: Path) -> list[tuple[str, int]]:
    """Each call that may change the repository: its name, and the how many-th in its process it is."""
    trial.reset(what)
    done = traced(what, trial, "-y", "-o", str(log), "-e", f"trace={','.join(CALLS)}")
    if done.returncode:
        pytest.skip(f"strace may not trace here: {done.stderr[-200:].decode(errors='replace')}")
    counts: dict[tuple[str, str], int] = {}
    found: dict[tuple[str, int], None] = {}
    for line in log.read_text(errors="replace").splitlines():
        call = _CALL.match(line)
        if call is None or call[3] != "(":
            continue
        pid, name = call[1], call[2]
        counts[pid, name] = counts.get((pid, name), 0) + 1
        reads = name == "openat" and not re.search(r"O_CREAT|O_WRONLY|O_RDWR", line)
        if str(trial.repo.path) in line and not reads:
            found[name, counts[pid, name]] = None
    return list(found)


@pytest.mark.slow
@pytest.mark.timeout(1500)
@pytest.mark.skipif(shutil.which("strace") is None, reason="needs strace")
@pytest.mark.parametrize("what", ["install", "uninstall"])
@pytest.mark.parametrize("trial", CASES, indirect=True)
def test_e5_killed_at_each_system_call(trial: Trial, what: str, tmp_path: Path) -> None:
    """Whichever process comes first to the n-th call of a name is killed: ours, or the git that it runs."""
    calls = calls_of(what, trial, tmp_path / "log")
    kills = 0
    for step, (name, number) in enumerate(calls):
        trial.reset(what)
        inject = f"inject={name}:signal=KILL:when={number}"
        done = traced(what, trial, "-o", os.devnull, "-e", f"trace={name}", "-e", inject)
        kills += done.returncode != 0
        trial.check(what, step)
    print(f"{what}: {len(calls)} calls, {kills} ended it")
    assert len(calls) >= 10 and kills >= 0.8 * len(calls)


# --- run by a git that knows configured hooks -------------------------------------------------------------


@pytest.mark.slow
@pytest.mark.parametrize("folder", GITS or [""], ids=lambda folder: folder or "own")
@pytest.mark.parametrize("what", ["install", "uninstall"])
def test_e5_e12_killed_while_git_reads_hooks_from_its_settings(
    folder: str, what: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    if folder:
        monkeypatch.setenv("PATH", f"{folder}:{os.environ['PATH']}")
    repo = Repo.create(tmp_path / "repo")
    if Repository.open(repo.path).git_version < install.CONFIG_HOOKS_VERSION:
        pytest.skip("git 2.54 or newer runs hooks from its configuration")
    check_every_event(what, Trial(repo, CASES["config"], tmp_path / "states"))
