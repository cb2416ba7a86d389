"""The ground under the other tests holds."""

import os
from pathlib import Path

import pytest

from tests.support.gitrepo import EPOCH, HOUR, Repo
from tests.support.sealing import REAL_HOME, find_strays, stray_writes


def test_commits_are_an_hour_apart_and_reproducible(repo: Repo, tmp_path: Path) -> None:
    first = repo.commit("Add a file", **{"src/a.py": "x = 1\n"})
    second = repo.commit("Remove it", **{"src/a.py": None})
    assert repo.git("log", "--reverse", "--format=%at %ct %an %s").splitlines() == [
        f"{EPOCH} {EPOCH} Ada Author Add a file",
        f"{EPOCH + HOUR} {EPOCH + HOUR} Ada Author Remove it",
    ]
    twin = Repo.create(tmp_path / "twin")
    assert twin.commit("Add a file", **{"src/a.py": "x = 1\n"}) == first != second


def test_message_and_content_are_kept_byte_for_byte(repo: Repo) -> None:
    repo.commit(b"# caf\xe9\n\n\nbody", **{"bin": b"\0\xff\r\n"})
    assert repo.run("cat-file", "commit", "HEAD").stdout.endswith(b"\n\n# caf\xe9\n\n\nbody\n")
    assert repo.run("show", "HEAD:bin").stdout == b"\0\xff\r\n"


def test_failure_of_git_is_loud_unless_asked_otherwise(repo: Repo) -> None:
    with pytest.raises(AssertionError, match="rev-parse"):
        repo.git("rev-parse", "--verify", "nowhere")
    assert repo.git("rev-parse", "--verify", "-q", "nowhere", check=False) == ""
    assert repo.run("rev-parse", "--verify", "nowhere").returncode == 128


def test_clone_is_shallow_when_asked(repo: Repo, tmp_path: Path) -> None:
    repo.commit("one")
    repo.commit("two")
    assert repo.clone(tmp_path / "copy", "--depth=1").git("rev-list", "--count", "HEAD") == "1"


def test_git_sees_no_setting_of_the_machine(repo: Repo) -> None:
    origins = repo.git("config", "--list", "--show-origin").splitlines()
    assert {line.split("\t")[0] for line in origins} == {
        "file:.git/config",
        f"file:{os.environ['GIT_CONFIG_GLOBAL']}",
    }
    assert Path.home() != REAL_HOME


def test_a_write_below_the_real_home_is_noticed() -> None:
    # The folder does not exist, so nothing is written; the attempt alone is what the audit hook sees.
    target = REAL_HOME / "gitpeft-no-such-folder" / "file"
    with pytest.raises(OSError, match="gitpeft-no-such-folder"):
        target.write_text("stray")
    assert str(target) in stray_writes
    stray_writes.clear()


def test_places_where_tests_may_write(tmp_path: Path) -> None:
    assert find_strays(str(tmp_path / "x")) == []
    assert find_strays(__file__) == []
    assert find_strays("/dev/null") == []
    assert find_strays(str(REAL_HOME / ".gitconfig")) == [str(REAL_HOME / ".gitconfig")]
