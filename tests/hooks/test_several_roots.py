"""Hooks in more than one root: a relative `core.hooksPath`, several work trees, an absent hooks folder."""

import os
import shutil
from pathlib import Path

import pytest

from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.hooks import hooks_path, install
from gitpeft.hooks.doctor import DoctorFinding, examine_repository, read_status
from tests.support.foreignhooks import CONFIG, NAME, PRE_COMMIT_HOOK, foreign, hook_of, husky
from tests.support.gitrepo import Repo
from tests.support.hooking import script


@pytest.fixture
def trees(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Repo, Repo]:
    """A repository with two work trees and a relative hooks path; nothing is installed."""
    monkeypatch.setenv("GIT_EDITOR", "vi")
    repo.commit("Start", a="a\n")
    repo.git("config", "core.hooksPath", ".githooks")
    repo.git("worktree", "add", "-q", str(tmp_path / "a tree"), "HEAD")
    return repo, Repo(tmp_path / "a tree")


def put_in(repo: Repo, **options: str) -> install.InstalledHook:
    return install.install_hooks(Repository.open(repo.path), **options)[0]


def take_out(repo: Repo) -> list[Path]:
    return [done.where for done in install.uninstall_hooks(Repository.open(repo.path))]


def examine(repo: Repo) -> list[DoctorFinding]:
    return [one for one in examine_repository(Repository.open(repo.path)) if one.area == "hook"]


def test_uninstalling_in_one_work_tree_takes_the_hook_from_all(trees: tuple[Repo, Repo]) -> None:
    one, other = trees
    assert str(other.path) in put_in(one).notes[0] and str(one.path) in put_in(other).notes[0]
    assert hook_of(one, ".githooks").exists() and hook_of(other, ".githooks").exists()
    assert set(take_out(one)) == {hook_of(one, ".githooks"), hook_of(other, ".githooks")}
    assert not (one.path / ".githooks").exists() and not (other.path / ".githooks").exists()
    assert not read_status(Repository.open(one.path)).hooks and take_out(other) == []


def test_uninstalling_from_a_linked_work_tree_gives_every_earlier_hook_back(trees: tuple[Repo, Repo]) -> None:
    one, other = trees
    before = {repo.path: foreign(repo, folder=".githooks").read_bytes() for repo in trees}
    put_in(one), put_in(other)
    take_out(other)
    assert {repo.path: hook_of(repo, ".githooks").read_bytes() for repo in trees} == before
    assert [path.name for path in (one.path / ".githooks").iterdir()] == [NAME]


def test_a_hook_that_no_note_remembers_is_found_in_the_other_work_tree(trees: tuple[Repo, Repo]) -> None:
    one, other = trees
    put_in(other)
    state = Repository.open(one.path).state_dir
    (state / hooks_path.REMEMBERED_FOLDERS_FILE).unlink()
    assert take_out(one) == [hook_of(other, ".githooks")]


def test_a_hooks_path_of_one_work_tree_alone(trees: tuple[Repo, Repo]) -> None:
    one, other = trees
    other.git("config", "extensions.worktreeConfig", "true")
    other.git("config", "--worktree", "core.hooksPath", ".mine")
    put_in(one), put_in(other)
    assert hook_of(other, ".mine").exists()
    assert set(take_out(one)) == {hook_of(one, ".githooks"), hook_of(other, ".mine")}


def test_a_work_tree_with_a_newline_in_its_name(trees: tuple[Repo, Repo], tmp_path: Path) -> None:
    one, _ = trees
    if Repository.open(one.path).git_version < (2, 36):
        pytest.skip("git 2.36 or newer lists such a work tree")
    third = Repo(tmp_path / "line\nend")
    one.git("worktree", "add", "-q", str(third.path), "HEAD")
    put_in(third)
    assert take_out(one) == [hook_of(third, ".githooks")]


def test_a_work_tree_that_is_gone_stops_nothing(trees: tuple[Repo, Repo], tmp_path: Path) -> None:
    one, other = trees
    put_in(one), put_in(other)
    os.rename(other.path, tmp_path / "moved away")
    assert take_out(one) == [hook_of(one, ".githooks")]


def test_each_work_tree_is_told_what_git_runs_in_it(trees: tuple[Repo, Repo]) -> None:
    one, other = trees
    put_in(one)
    assert examine(one) == []
    [found] = examine(other)
    assert found.code == "not-installed" and str(one.path) in found.text
    assert found.remedy == "run `gitpeft install` in this work tree"
    assert read_status(Repository.open(other.path)).hooks[0].worktree == one.path
    put_in(other)
    assert examine(one) == examine(other) == []


def test_git_lists_the_work_trees_once(trees: tuple[Repo, Repo], monkeypatch: pytest.MonkeyPatch) -> None:
    one, other = trees
    put_in(one), put_in(other)
    repo, listed, list_worktrees = Repository.open(one.path), list[Path](), Repository.list_worktrees

    def count(self: Repository) -> list[Path]:
        listed.append(self.cwd)
        return list_worktrees(self)

    monkeypatch.setattr(Repository, "list_worktrees", count)
    assert hooks_path.map_other_worktrees(repo) == {other.path / ".githooks": other.path}
    assert listed == [one.path]
    hooks_path.list_hook_folders(repo)
    assert listed == [one.path] * 2


def test_an_absolute_path_is_one_folder_for_all(trees: tuple[Repo, Repo]) -> None:
    one, other = trees
    one.git("config", "core.hooksPath", str(one.path / ".githooks"))
    assert put_in(other).notes == () and examine(one) == examine(other) == []
    assert take_out(one) == [hook_of(one, ".githooks")]


# --- a folder that is absent ------------------------------------------------------------------------------


@pytest.fixture
def fresh(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """A fresh work tree of a repository with husky and gitpeft's line, as `git worktree add` leaves it."""
    monkeypatch.setenv("GIT_EDITOR", "vi")
    husky(repo)
    repo.write(".husky/_/.gitignore", "*")
    put_in(repo)
    repo.git("add", ".husky")
    repo.commit("Hooks", a="a\n")
    repo.git("worktree", "add", "-q", str(tmp_path / "fresh"), "HEAD")
    return Repo(tmp_path / "fresh")


def test_husky_in_a_fresh_work_tree_is_to_be_run_there(repo: Repo, fresh: Repo) -> None:
    assert not (fresh.path / ".husky/_").exists(), "husky writes it, and ignores it"
    assert examine(repo) == []
    [found] = examine(fresh)
    assert found.code == "manager-inactive" and ".husky/_" in found.text and "npx husky" in found.remedy
    assert "install` again" not in found.remedy
    script(fresh.path / ".husky/_" / NAME, "#!/bin/sh\n")  # what `npx husky` does
    assert examine(fresh) == []


def test_installing_there_says_what_is_still_needed(repo: Repo, fresh: Repo) -> None:
    assert put_in(repo).notes == ()
    assert "npx husky" in put_in(fresh).notes[0]


def test_uninstalling_takes_the_line_of_the_manager_from_every_work_tree(repo: Repo, fresh: Repo) -> None:
    take_out(repo)
    assert not (repo.path / ".husky" / NAME).exists() and not (fresh.path / ".husky" / NAME).exists()


def test_a_work_tree_without_the_folder_of_husky_gets_a_way_out_that_works(repo: Repo, fresh: Repo) -> None:
    fresh.git("rm", "-rq", ".husky")
    with pytest.raises(GitpeftError, match="this work tree has no") as caught:
        put_in(fresh)
    assert "git config --unset core.hooksPath" in caught.value.hint
    fresh.git("config", "--unset", "core.hooksPath")
    assert put_in(fresh).action == "created"


def test_pre_commit_that_is_configured_and_not_installed(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_EDITOR", "vi")
    repo.write(".pre-commit-config.yaml", CONFIG)
    put_in(repo, strategy="pre-commit")
    [found] = examine(repo)
    assert found.code == "manager-inactive" and "pre-commit install -t prepare-commit-msg" in found.remedy
    script(hook_of(repo), PRE_COMMIT_HOOK)
    assert examine(repo) == []


def test_a_hooks_folder_of_a_person_that_is_absent_is_made(trees: tuple[Repo, Repo]) -> None:
    _, other = trees
    assert [one.remedy for one in examine(other)] == ["run `gitpeft install`"]
    put_in(other)
    assert examine(other) == []


def test_a_work_tree_that_another_repository_has_by_now_is_left_alone(repo: Repo, tmp_path: Path) -> None:
    """Git still lists it here, but its hooks are the other's."""
    repo.commit("Start", a="a\n")
    other = Repo.create(tmp_path / "other")
    other.commit("Start", b="b\n")
    place = tmp_path / "tree"
    for one in (repo, other):
        shutil.rmtree(place, ignore_errors=True)
        one.git("worktree", "add", "-q", "-f", str(place), "HEAD", "--detach")
    repo.git("config", "core.hooksPath", ".husky")
    found = hooks_path.list_hook_folders(Repository.open(repo.path))
    assert found and not any(folder.is_relative_to(other.path) for folder in found)
