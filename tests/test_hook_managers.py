"""Coexistence with the real husky, lefthook and pre-commit, where these programs are on the PATH."""

import itertools
import shutil
import subprocess
from pathlib import Path

import pytest

from gitpeft.doctor import doctor
from gitpeft.git import Repository
from gitpeft.install import install, uninstall
from tests.gitrepo import Repo
from tests.hooking import SUGGESTION, Hooked, listing, make_python

pytestmark = pytest.mark.slow

FILES = {
    ".pre-commit-config.yaml": """\
repos:
  - repo: local
    hooks:
      - id: mark
        name: mark
        language: system
        entry: sh -c 'echo pre-commit >>ran'
        stages: [prepare-commit-msg]
        always_run: true
        pass_filenames: false
""",
    "lefthook.yml": "prepare-commit-msg:\n  commands:\n    mark:\n      run: echo lefthook >>ran\n",
    ".husky/prepare-commit-msg": "echo husky >>ran\n",
    ".gitignore": "ran\n",
}
INSTALL = {
    "pre-commit": ["pre-commit", "install", "-t", "prepare-commit-msg"],
    "lefthook": ["lefthook", "install"],
    "husky": ["husky"],
}
REMOVE = {
    "pre-commit": [["pre-commit", "uninstall", "-t", "prepare-commit-msg"]],
    "lefthook": [["lefthook", "uninstall"]],
    "husky": [["git", "config", "--unset", "core.hooksPath"], ["rm", "-rf", ".husky/_"]],
}


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_python(tmp_path_factory.mktemp("python"))


def call(repo: Repo, *command: str) -> None:
    done = subprocess.run(command, cwd=repo.path, capture_output=True, timeout=60)
    assert done.returncode == 0, (command, done.stdout, done.stderr)


def hooks(repo: Repo) -> dict[str, tuple[int, bytes]]:
    """All hooks and configuration, without what the managers keep for themselves."""
    left_out = (
        ".git/gitpeft/",
        ".git/info/",
        ".git/COMMIT_EDITMSG",
        ".git/index",
        ".git/logs",
        ".git/objects",
    )
    return {name: value for name, value in listing(repo.path).items() if not name.startswith(left_out)}


@pytest.mark.parametrize("manager", INSTALL)
@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize("leaves_first", ["ours", "theirs"])
def test_e7_a_real_manager_installed_and_removed_in_every_order(
    repo: Repo, python: str, tmp_path: Path, manager: str, first: str, leaves_first: str
) -> None:
    if shutil.which(manager) is None:
        pytest.skip(f"{manager} is not on the PATH")
    name = {"husky": ".husky/prepare-commit-msg", "lefthook": "lefthook.yml"}.get(
        manager, ".pre-commit-config.yaml"
    )
    repo.commit("Start", **{name: FILES[name], ".gitignore": FILES[".gitignore"]})
    if manager == "lefthook":  # its first run may leave files of its own
        call(repo, *INSTALL[manager])
        call(repo, *REMOVE[manager][0])
    before = hooks(repo)
    opened = Repository.open(repo.path)
    if first == "ours":
        install(opened, python=python)
    call(repo, *INSTALL[manager])
    install(opened, python=python)
    _both_run(repo, python, tmp_path, manager)
    if leaves_first == "ours":
        uninstall(opened)
    for command in REMOVE[manager]:
        call(repo, *command)
    uninstall(opened)
    after = hooks(repo)
    assert {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)} == set()


def _both_run(repo: Repo, python: str, tmp_path: Path, manager: str) -> None:
    assert [finding.code for finding in doctor(Repository.open(repo.path))] == ["no-model"]
    hooked = Hooked.create(repo, python, tmp_path / "tools")
    hooked.stage(probe="p\n")
    done = hooked.git("commit")
    assert done.returncode == 0, done.stderr
    assert hooked.message() == SUGGESTION and manager in (repo.path / "ran").read_text()
    (repo.path / "ran").unlink()
    repo.git("update-ref", "HEAD", "HEAD~1")
    repo.git("rm", "-q", "--cached", "probe")
    (repo.path / "probe").unlink()
    (repo.path / ".git/gitpeft/current").unlink()


def test_e7_all_three_beside_each_other(repo: Repo, python: str) -> None:
    for order in itertools.permutations(INSTALL):
        if any(shutil.which(manager) is None for manager in order):
            pytest.skip("not all three are on the PATH")
        assert install(Repository.open(repo.path), python=python)
        uninstall(Repository.open(repo.path))
