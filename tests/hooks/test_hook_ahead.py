"""Group J of the contract: when working ahead starts, what it leaves alone, and that it goes away again."""

import json
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitpeft.git.repository import Repository
from gitpeft.hooks import install, stubs
from gitpeft.hooks.doctor import read_status
from tests.support.foreignhooks import LEFTHOOK_HOOK, husky, snapshot
from tests.support.gitrepo import Repo
from tests.support.hooking import SUGGESTION, Hooked, eventually, listing, needs_git, script
from tests.support.terminal import open_terminal, run_on_terminal

ALL = (stubs.SUGGESTION_HOOK, stubs.AHEAD_HOOK)


class Desk:
    """A repository with all hooks, and somebody at a terminal; every start of Python is noted."""

    def __init__(self, hooked: Hooked, terminal: int, folder: Path) -> None:
        self.hooked, self.terminal = hooked, terminal
        self.starts = folder / "starts"
        real = hooked.python
        hooked.python = str(
            script(folder / "counting/python", f'#!/bin/sh\necho "$4" >>"{self.starts}"\nexec {real} "$@"\n')
        )
        hooked.install(hooks=ALL)

    def git(self, *args: str, input: str | None = None, **env: str) -> None:
        self.run(["git", *args], self.hooked.repo.path, input, **env)

    def run(
        self, command: list[str], folder: Path, input: str | None = None, **env: str
    ) -> subprocess.CompletedProcess[bytes]:
        self.hooked.repo.clock += 60
        full = {**self.hooked.full_env(), **env}
        done = run_on_terminal(command, self.terminal, folder, full, input)
        assert done.returncode == 0, (command, done.stderr)
        assert b"gitpeft" not in done.stderr + done.stdout
        return done

    def write(self, name: str, text: str) -> None:
        self.hooked.repo.write(name, text)

    def stage(self, name: str, text: str, **env: str) -> None:
        self.write(name, text)
        self.git("add", name, **env)

    def answers(self) -> list[Path]:
        """The answers in the cache."""
        folder = self.hooked.state / "answers"
        names = sorted(folder.iterdir()) if folder.is_dir() else []
        return [path for path in names if len(path.name) == 64]

    def is_idle(self) -> bool:
        """Whether no background process is at work or waits to be."""
        pids = [path.read_text() for path in (self.hooked.state / "ahead").glob("*.pid")]
        return not any(pids) and not self.processes()

    def processes(self) -> list[str]:
        """Processes of this test, found by what they inherit."""
        found = []
        mark = self.hooked.env["EDIT_SEEN"].encode()
        for entry in Path("/proc").glob("[0-9]*"):
            try:
                state = (entry / "stat").read_text().rpartition(")")[2].split()[0]
                if state != "Z" and mark in (entry / "environ").read_bytes():
                    found.append((entry / "cmdline").read_bytes().decode())
            except OSError:
                continue
        return found

    def settle(self) -> None:
        assert eventually(self.is_idle), self.processes()

    def ahead_starts(self) -> int:
        text = self.starts.read_text() if self.starts.exists() else ""
        return text.split().count(stubs.AHEAD_HOOK)


@pytest.fixture
def desk(hooked: Hooked, tmp_path: Path) -> Iterator[Desk]:
    hooked.git("commit", "-q", "-m", "Second")
    with open_terminal() as terminal:
        desk = Desk(hooked, terminal, tmp_path)
        yield desk
        desk.settle()


def test_j1_what_is_staged_is_answered_before_anybody_asks(desk: Desk, tmp_path: Path) -> None:
    """A1 with the answer there: the model is not asked again."""
    desk.stage("parser.py", "tabs = 1\n")
    assert eventually(desk.answers)
    desk.settle()
    trace = tmp_path / "trace"
    desk.git("commit", STANDIN="exit:3", GITPEFT_TRACE=str(trace))
    assert desk.hooked.message() == SUGGESTION
    assert "cached" in json.loads(trace.read_text())


def test_j1_the_first_commit_and_a_subdirectory(desk: Desk) -> None:
    desk.git("checkout", "-q", "--orphan", "empty")
    desk.git("rm", "-rfq", "--cached", ".")
    desk.write("src/a.py", "a = 1\n")
    desk.run(["git", "add", "a.py"], desk.hooked.repo.path / "src")
    assert eventually(desk.answers)


def test_j2_no_staged_change_is_worked_on_twice(desk: Desk) -> None:
    desk.stage("a", "1\n")
    assert eventually(desk.answers)
    desk.settle()
    (desk.hooked.repo.path / "README").touch()
    os.utime(desk.hooked.repo.path / "README", (1, 1))
    desk.git("status")  # writes the index anew
    desk.git("add", "a")
    desk.settle()
    assert desk.ahead_starts() == 1


def test_j2_not_even_one_at_which_the_model_fails(desk: Desk) -> None:
    desk.stage("a", "1\n", STANDIN="exit:3")
    assert eventually(lambda: desk.ahead_starts() == 1)
    desk.settle()
    os.utime(desk.hooked.repo.path / "README", (1, 1))
    desk.git("status")
    desk.settle()
    assert desk.ahead_starts() == 1
    assert desk.hooked.log() == "", "it is reported when somebody commits"


def test_j3_many_writes_of_the_index_are_one_piece_of_work(desk: Desk) -> None:
    for n in range(30):
        desk.stage("a", f"{n}\n")
    assert eventually(desk.answers)
    desk.settle()
    assert desk.ahead_starts() <= 2
    desk.git("commit", STANDIN="exit:3")
    assert desk.hooked.message() == SUGGESTION, "the last staging was answered"


def test_j3_hunks_that_are_chosen_one_by_one(desk: Desk) -> None:
    text = "".join(f"{n}\n" for n in range(60))
    desk.git("commit", "-q", "--allow-empty", "-m", "Third", GITPEFT="0")
    desk.stage("a", text, GITPEFT="0")
    desk.git("commit", "-q", "-m", "Text", GITPEFT="0")
    desk.write("a", text.replace("5\n", "five\n").replace("45\n", "forty-five\n"))
    desk.git("add", "-p", input="y\nn\ny\n")
    assert eventually(desk.answers)
    desk.settle()
    assert desk.ahead_starts() == 1


@pytest.mark.parametrize("form", ["split", "sparse", "version 4"])
def test_j3_forms_of_the_index(desk: Desk, form: str) -> None:
    if form == "split":
        desk.git("update-index", "--split-index", GITPEFT="0")
    elif form == "version 4":
        desk.git("update-index", "--index-version", "4", GITPEFT="0")
    else:
        needs_git(2, 37, "--sparse-index")
        desk.stage("in/a", "1\n", GITPEFT="0")
        desk.stage("out/a", "1\n", GITPEFT="0")
        desk.git("commit", "-q", "-m", "Folders", GITPEFT="0")
        desk.git("sparse-checkout", "set", "--cone", "--sparse-index", "in", GITPEFT="0")
    before = (desk.hooked.repo.path / ".git/index").stat().st_mtime_ns
    desk.stage("in/a", "2\n")
    assert eventually(desk.answers)
    desk.settle()
    assert (desk.hooked.repo.path / ".git/index").stat().st_mtime_ns > before
    desk.git("commit", STANDIN="exit:3")
    assert desk.hooked.message() == SUGGESTION


def test_j4_a_newer_staging_replaces_an_older_one(desk: Desk) -> None:
    desk.stage("a", "1\n", STANDIN="sleep:60")
    assert eventually(lambda: list((desk.hooked.state / "answers").glob("*.busy")))
    desk.stage("a", "2\n")
    assert eventually(lambda: desk.ahead_starts() == 2)
    desk.git("reset", "-q", "--hard")
    assert eventually(desk.is_idle), "nothing is staged, so nothing is waited for"
    assert not desk.answers()


def test_j4_a_refreshed_index_interrupts_nothing(desk: Desk) -> None:
    desk.stage("a", "1\n", STANDIN="sleep:1.5")
    assert eventually(lambda: list((desk.hooked.state / "answers").glob("*.busy")))
    os.utime(desk.hooked.repo.path / "README", (1, 1))
    desk.git("status")
    assert eventually(desk.answers)
    assert desk.ahead_starts() == 1


def test_j5_the_hook_and_the_work_ahead_never_do_the_same(desk: Desk) -> None:
    """A commit waits for the work that has begun; a staging that is being committed is left to the commit."""
    desk.hooked.repo.git("config", "gitpeft.timeoutMs", "20000")
    desk.stage("a", "1\n", STANDIN="sleep:2")
    assert eventually(lambda: list((desk.hooked.state / "answers").glob("*.busy")))
    desk.git("commit", STANDIN="exit:3")
    assert desk.hooked.message() == SUGGESTION
    before = desk.ahead_starts()
    desk.stage("a", "2\n")
    desk.git("commit", EDIT_WITH="sleep 1")
    desk.settle()
    assert desk.ahead_starts() == before


def test_j5_one_that_gets_no_processor_is_not_waited_for_to_the_end(desk: Desk) -> None:
    desk.hooked.repo.git("config", "gitpeft.timeoutMs", "6000")
    desk.stage("a", "1\n", STANDIN="sleep:20")
    assert eventually(lambda: list((desk.hooked.state / "answers").glob("*.busy")))
    desk.git("commit")
    assert desk.hooked.message() == SUGGESTION


COMMANDS = {
    "rebase": [["rebase", "-q", "--force-rebase", "HEAD~1"]],
    "checkout": [["checkout", "-q", "-b", "x", "HEAD~1"], ["switch", "-q", "main"]],
    "merge": [["merge", "-q", "--no-ff", "-m", "m", "topic"]],
    "cherry-pick": [["cherry-pick", "topic"]],
    "revert": [["revert", "--no-edit", "HEAD"]],
    "reset": [["reset", "-q", "--hard", "HEAD~1"]],
    "stash": [["stash", "-q", "-u"], ["stash", "drop", "-q"]],
    "commit -a": [["commit", "-qam", "x"]],
    "commit --only": [["commit", "-qm", "x", "README"]],
    "pick without commit": [["cherry-pick", "-n", "topic"]],
    "squash": [["merge", "-q", "--squash", "topic"]],
    "am": [["am", "-q", "{patch}"]],
    "bisect": [["bisect", "start", "HEAD", "HEAD~1"], ["bisect", "reset"]],
    "read-tree": [["read-tree", "topic"]],
}


@pytest.mark.parametrize("name", COMMANDS)
def test_j6_commands_that_are_not_about_staging_start_nothing(desk: Desk, name: str, tmp_path: Path) -> None:
    repo = desk.hooked.repo
    repo.git("checkout", "-q", "-b", "topic", "HEAD~1", env={"GITPEFT": "0"})
    repo.commit("Topic", topic="t\n")
    patch = repo.git("format-patch", "-q", "-1", "-o", str(tmp_path), "--zero-commit") or next(
        tmp_path.glob("*.patch")
    )
    repo.git("checkout", "-q", "main", env={"GITPEFT": "0"})
    if name in ("stash", "commit -a", "commit --only"):
        desk.write("README", "changed\n")
    for command in COMMANDS[name]:
        desk.git(*(word.format(patch=patch) for word in command))
    desk.settle()
    assert desk.ahead_starts() == 0


@pytest.mark.parametrize(
    "state", ["rebase-merge", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "BISECT_LOG", "SQUASH_MSG"]
)
def test_j6_nor_does_staging_while_one_of_them_has_stopped(desk: Desk, state: str) -> None:
    place = desk.hooked.repo.path / ".git" / state
    desk.write("a", "1\n")
    place.mkdir() if state == "rebase-merge" else place.write_text("")
    env = {**desk.hooked.full_env(), "GIT_INDEX_FILE": ".git/index"}
    run_on_terminal(["git", "update-index", "--add", "a"], desk.terminal, desk.hooked.repo.path, env)
    assert not (desk.hooked.state / "ahead").exists()
    place.rmdir() if state == "rebase-merge" else place.unlink()


def test_j6_a_commit_of_chosen_hunks_has_an_index_of_its_own(desk: Desk) -> None:
    desk.write("README", "changed\n")
    done = subprocess.run(
        ["git", "commit", "-q", "-p", "-m", "part"],
        cwd=desk.hooked.repo.path,
        env=desk.hooked.full_env(),
        input=b"y\n",
        capture_output=True,
    )
    assert done.returncode == 0, done.stderr
    desk.git("commit", "-q", "--allow-empty", "-m", "next")
    desk.settle()
    assert desk.ahead_starts() == 0


@pytest.mark.parametrize(
    "why", ["no terminal", "CI", "GITPEFT", "gitpeft.ahead", "gitpeft.enabled", "no model", "GIT_EDITOR"]
)
def test_j7_when_it_is_off_nothing_starts(desk: Desk, why: str) -> None:
    desk.write("a", "1\n")
    if why == "no terminal":
        desk.hooked.repo.git("add", "a", env=desk.hooked.env)
    elif why.startswith("gitpeft."):
        desk.hooked.repo.git("config", why, "false")
        desk.git("add", "a")
    elif why == "no model":
        (desk.hooked.state / "current").unlink()
        desk.git("add", "a")
    else:
        desk.git("add", "a", **{why: {"CI": "true", "GITPEFT": "0", "GIT_EDITOR": ":"}[why]})
    desk.settle()
    assert not desk.answers()
    assert desk.ahead_starts() <= (why == "gitpeft.enabled")


def test_j8_the_index_its_lock_and_the_rest_of_git_are_not_touched(desk: Desk) -> None:
    """C13 and C14 for this hook."""
    desk.write("a", "1\n")
    index = desk.hooked.repo.path / ".git/index"
    desk.git("add", "a", GITPEFT="0")
    content, before = index.read_bytes(), listing(desk.hooked.repo.path / ".git", "gitpeft")
    hook = str(desk.hooked.hook.with_name(stubs.AHEAD_HOOK))
    desk.run([hook, "0", "0"], desk.hooked.repo.path)
    while not desk.answers():
        assert not index.with_name("index.lock").exists()
        time.sleep(0.002)
    desk.settle()
    assert index.read_bytes() == content
    assert listing(desk.hooked.repo.path / ".git", "gitpeft") == before


def test_j9_nothing_is_left_and_nobody_is_held_up(desk: Desk) -> None:
    """The caller's pipe ends with git, a lock that it holds is not held on, and the log does not grow."""
    desk.write("a", "1\n")
    lock = desk.hooked.tools / "lock"
    program = f"exec 7>'{lock}'; flock 7; exec git add a"
    started = time.monotonic()
    desk.run(["sh", "-c", program], desk.hooked.repo.path, STANDIN="sleep:3")
    subprocess.run(["flock", "-n", str(lock), "true"], check=True)
    assert time.monotonic() - started < 2.5, "git waited for the work"
    assert eventually(desk.answers)
    desk.settle()
    left = {path.name for path in (desk.hooked.state / "ahead").iterdir()}
    assert left == {".git.begun", ".git.pid", ".git.tree"}
    assert desk.hooked.log() == ""


def test_j9_it_is_nice_and_has_no_terminal(desk: Desk) -> None:
    desk.stage("a", "1\n", STANDIN="sleep:2")
    assert eventually(lambda: list((desk.hooked.state / "answers").glob("*.busy")))
    [mark] = (desk.hooked.state / "answers").glob("*.busy")
    fields = Path(f"/proc/{mark.read_text()}/stat").read_text().rpartition(")")[2].split()
    assert int(fields[16]) == min(19, os.nice(0) + 10)
    assert int(fields[4]) == 0, "no controlling terminal"
    assert os.getsid(int(mark.read_text())) == int(mark.read_text())


def test_j9_what_a_killed_process_left_stops_nothing(desk: Desk) -> None:
    folder = desk.hooked.state / "ahead"
    folder.mkdir()
    gone = subprocess.Popen(["true"])
    gone.wait()
    (folder / ".git.pid").write_text(f"{gone.pid}\n")
    desk.stage("a", "1\n")
    assert eventually(desk.answers)


@pytest.mark.parametrize("place", ["worktree", "submodule", "hooksPath", "git-dir", "odd name"])
def test_j10_the_right_repository(desk: Desk, tmp_path: Path, place: str) -> None:
    """C12 for this hook."""
    repo = desk.hooked.repo
    if place == "worktree":
        repo.git("worktree", "add", "-q", str(tmp_path / "other"), env={"GITPEFT": "0"})
        (tmp_path / "other/a").write_text("1\n")
        desk.run(["git", "add", "a"], tmp_path / "other")
        assert eventually(desk.answers)
        assert (desk.hooked.state / "ahead/other.tree").read_text()
    elif place == "submodule":
        outer = Repo.create(tmp_path / "outer")
        outer.git("-c", "protocol.file.allow=always", "submodule", "add", "-q", str(repo.path), "sub")
        inner = Hooked(Repo(outer.path / "sub", repo.clock), desk.hooked.python, desk.hooked.tools)
        inner.install(hooks=ALL)
        inner.claim_model()
        inner.repo.write("a", "1\n")
        desk.run(["git", "add", "a"], inner.repo.path)
        assert eventually(lambda: list((inner.state / "answers").glob("?" * 64)))
    elif place == "hooksPath":
        install.uninstall_hooks(Repository.open(repo.path))
        repo.git("config", "core.hooksPath", "tools/hooks")
        desk.hooked.install(hooks=ALL)
        desk.stage("a", "1\n")
        assert eventually(desk.answers)
    elif place == "git-dir":
        desk.write("a", "1\n")
        there = [f"--git-dir={repo.path}/.git", f"--work-tree={repo.path}"]
        desk.run(["git", *there, "add", "a"], repo.path)
        assert eventually(desk.answers)
    else:
        moved = repo.path.with_name('it\'s "odd" $x `y`')
        shutil.copytree(repo.path, moved, symlinks=True)
        (moved / "a").write_text("1\n")
        desk.run(["git", "add", "a"], moved)
        assert eventually(lambda: list((moved / ".git/gitpeft/answers").glob("?" * 64)))


def test_j10_two_repositories_at_once(desk: Desk, tmp_path: Path) -> None:
    other = tmp_path / "second"
    shutil.copytree(desk.hooked.repo.path, other, symlinks=True)
    (other / "a").write_text("other\n")
    desk.stage("a", "1\n", STANDIN="sleep:0.5")
    desk.run(["git", "add", "a"], other, STANDIN="sleep:0.5")
    assert eventually(desk.answers)
    assert eventually(lambda: list((other / ".git/gitpeft/answers").glob("?" * 64)))


def test_j11_short_memory_starts_nothing(desk: Desk, tmp_path: Path) -> None:
    """In a name space of its own /proc/meminfo says that half a gigabyte is available."""
    said = tmp_path / "meminfo"
    said.write_text("MemTotal:  4000000 kB\nMemFree:  100000 kB\nMemAvailable:  500000 kB\n")
    inside = f"mount --bind '{said}' /proc/meminfo && exec \"$@\""
    command = ["unshare", "--mount", "sh", "-c", inside, "sh"]
    if subprocess.run([*command, "true"], capture_output=True).returncode:
        pytest.skip("needs root for a mount in a name space")
    desk.write("a", "1\n")
    desk.run([*command, "git", "add", "a"], desk.hooked.repo.path)
    desk.settle()
    assert desk.ahead_starts() == 0
    desk.stage("b", "1\n")
    assert eventually(desk.answers), "with enough memory it starts"


# --- installation -----------------------------------------------------------------------------------------

FOREIGN = '#!/bin/sh\necho "$@" >>ran\n'


def test_j12_a_foreign_hook_is_chained_and_comes_back(repo: Repo) -> None:
    """E1 to E4 for this hook."""
    hook = script(repo.path / ".git/hooks" / stubs.AHEAD_HOOK, FOREIGN)
    hook.chmod(0o750)
    before = snapshot(repo)
    opened = Repository.open(repo.path)
    assert [done.action for done in install.install_hooks(opened, hooks=ALL)] == ["created", "chained"]
    once = snapshot(repo)
    assert [done.action for done in install.install_hooks(opened, hooks=ALL)] == ["unchanged", "unchanged"]
    assert snapshot(repo) == once
    subprocess.run([hook, "1", "0"], cwd=repo.path, check=True)
    assert (repo.path / "ran").read_text() == "1 0\n"
    (repo.path / "ran").unlink()
    assert read_status(opened).works_ahead
    install.uninstall_hooks(opened)
    assert snapshot(repo) == before


@pytest.mark.parametrize("strategy", ["husky", "lefthook", "pre-commit", "line", "off"])
def test_j12_where_it_cannot_be_the_message_still_can(repo: Repo, strategy: str) -> None:
    if strategy == "husky":
        husky(repo)
    elif strategy == "lefthook":
        script(repo.path / ".git/hooks" / stubs.SUGGESTION_HOOK, LEFTHOOK_HOOK)
    elif strategy == "pre-commit":
        repo.write(".pre-commit-config.yaml", "repos:\n  - repo: local\n    hooks: []\n")
    elif strategy == "off":
        repo.git("config", "gitpeft.ahead", "false")
    before = snapshot(repo)
    opened = Repository.open(repo.path)
    chosen = {"off": "auto"}.get(strategy, strategy)
    message, ahead = install.install_hooks(opened, hooks=ALL, strategy=chosen)
    assert message.action == "created"
    expected = {
        "husky": "husky",
        "off": "gitpeft.ahead is false",
        "line": f"the hook {stubs.AHEAD_HOOK} that",
    }
    if strategy in expected:
        assert expected[strategy] in ahead.notes[0]
    else:
        assert (ahead.strategy, ahead.action) == ("stub", "created")
    assert read_status(opened).works_ahead == (strategy in ("lefthook", "pre-commit"))
    install.uninstall_hooks(opened)
    assert snapshot(repo) == before


def test_j12_a_hook_under_version_control_is_left_alone(repo: Repo) -> None:
    repo.commit("hooks", **{f".githooks/{stubs.AHEAD_HOOK}": FOREIGN})
    repo.git("config", "core.hooksPath", ".githooks")
    message, ahead = install.install_hooks(Repository.open(repo.path), hooks=ALL)
    assert (message.action, ahead.action) == ("created", "skipped")
    assert "version control" in ahead.notes[0]
    assert (repo.path / ".githooks" / stubs.AHEAD_HOOK).read_text() == FOREIGN
