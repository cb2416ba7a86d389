"""Other versions of git, other kinds of repository, other shells.

GITPEFT_TEST_GITS names folders with a `git` in each, separated by colons; without it only the machine's own
git is used. SHA-256 repositories and both shells are tried with every one of them.
"""

import os
import shlex
import shutil
import subprocess
from pathlib import Path

import pytest

from gitpeft.git.repository import Repository
from gitpeft.hooks.doctor import examine_repository, read_status
from gitpeft.hooks.install import CONFIG_HOOKS_VERSION, install_hooks, uninstall_hooks
from tests.support.gitrepo import Repo
from tests.support.hooking import SUGGESTION, THIRD, Hooked

pytestmark = pytest.mark.slow

GITS = [folder for folder in os.environ.get("GITPEFT_TEST_GITS", "").split(":") if folder] or [""]


@pytest.fixture(params=GITS, ids=lambda folder: folder or "own")
def _git(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> None:
    if request.param:
        monkeypatch.setenv("PATH", f"{request.param}:{os.environ['PATH']}")


@pytest.fixture(params=["sha1", "sha256"])
def hooked(_git: None, request: pytest.FixtureRequest, python: str, tmp_path: Path) -> Hooked:
    path = tmp_path / "repo"
    path.mkdir()
    Repo(path).git("init", "-q", "-b", "main", f"--object-format={request.param}")
    repo = Repo(path)
    repo.commit("Start", **{"README": "hello\n"})
    hooked = Hooked.create(repo, python, tmp_path / "tools")
    hooked.stage()
    return hooked


def version(hooked: Hooked) -> tuple[int, ...]:
    return Repository.open(hooked.repo.path).git_version


@pytest.mark.parametrize(
    "options", [[], ["-v"], ["-s"], ["--no-status"], ["--cleanup=scissors"], ["--cleanup=verbatim"]]
)
def test_a1_b1_an_offer_with_every_git(hooked: Hooked, options: list[str]) -> None:
    done = hooked.git("commit", *options)
    assert done.returncode == 0, done.stderr
    assert hooked.message().startswith(SUGGESTION)
    assert (THIRD in hooked.seen()) is (not options or "clean" not in options[0])


def test_a4_a9_and_no_offer_where_none_belongs(hooked: Hooked) -> None:
    hooked.git("commit", "-m", "Second")
    hooked.git("commit", "--amend")
    assert SUGGESTION not in hooked.seen() and hooked.message() == "Second"
    hooked.stage(more="m\n")
    hooked.git("commit", "--fixup=HEAD")
    done = hooked.git("rebase", "-i", "--autosquash", "HEAD~2", env={"GIT_SEQUENCE_EDITOR": ":"})
    assert done.returncode == 0 and hooked.message() == "Second"


def test_b4_a_comment_string_of_several_characters_in_a_commit(hooked: Hooked) -> None:
    if version(hooked) < (2, 45):
        pytest.skip("git 2.45 or newer reads core.commentString")
    hooked.git("-c", "core.commentString=//", "commit", env={"STANDIN": f"say:// Teach|{THIRD}"})
    assert f"\n// {THIRD}\n" in hooked.seen() and "\n#" not in hooked.seen()
    assert hooked.message() == "Teach"


def test_e12_hooks_from_the_configuration(hooked: Hooked) -> None:
    """Run by git itself, where it is new enough."""
    repo = Repository.open(hooked.repo.path)
    if version(hooked) < CONFIG_HOOKS_VERSION:
        pytest.skip("git 2.54 or newer runs hooks from its configuration")
    uninstall_hooks(repo)
    hooked.git("commit", "--amend", "-m", "No hook is installed")
    hooked.stage(again="a\n")
    install_hooks(repo, strategy="config", python=hooked.python)
    assert [(hook.how, hook.runs) for hook in read_status(repo).hooks] == [("config", True)]
    hooked.git("commit")
    assert hooked.seen().count(SUGGESTION) == 1 and hooked.message() == SUGGESTION
    hooked.stage(more="m\n")
    hooked.git("commit", "-m", "mine")
    assert hooked.message() == "mine"
    hook = hooked.repo.path / ".git/hooks/prepare-commit-msg"
    hook.write_text("#!/bin/sh\necho theirs >>ran\n")
    hook.chmod(0o755)
    hooked.stage(third="t\n")
    hooked.git("commit")
    assert hooked.message() == SUGGESTION and (hooked.repo.path / "ran").read_text() == "theirs\n"
    assert [finding.code for finding in examine_repository(repo) if finding.code != "model"] == []
    uninstall_hooks(repo)
    assert "gitpeft" not in hooked.repo.git("config", "--local", "--list")


def test_e12_d10_a_moved_repository_and_a_lost_folder_stop_no_commit(hooked: Hooked, tmp_path: Path) -> None:
    repo = Repository.open(hooked.repo.path)
    if version(hooked) < CONFIG_HOOKS_VERSION:
        pytest.skip("git 2.54 or newer runs hooks from its configuration")
    uninstall_hooks(repo)
    install_hooks(repo, strategy="config", python=hooked.python)
    moved = Hooked(Repo(hooked.repo.path.rename(tmp_path / "moved")), hooked.python, hooked.tools, hooked.env)
    assert moved.git("commit").returncode == 0 and moved.message() == SUGGESTION
    shutil.rmtree(moved.repo.path / ".git/gitpeft")
    moved.stage(more="m\n")
    assert moved.git("commit", "-m", "mine").returncode == 0 and moved.message() == "mine"


@pytest.mark.parametrize("shell", ["dash", "bash", "busybox sh"])
def test_e13_both_shells_run_the_hook(hooked: Hooked, shell: str) -> None:
    if shutil.which(shell.split()[0]) is None:
        pytest.skip(f"no {shell} here")
    file = hooked.repo.write(".git/COMMIT_EDITMSG", "")
    done = subprocess.run(
        [*shlex.split(shell), str(hooked.hook), ".git/COMMIT_EDITMSG"],
        cwd=hooked.repo.path,
        env={**os.environ, **hooked.env},
        capture_output=True,
        check=True,
    )
    assert file.read_text().startswith(SUGGESTION) and done.stderr == b""
