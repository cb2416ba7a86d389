"""Places where git means bytes and ends them with NUL: paths, names and messages may hold any line break."""

import os
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitpeft.config import load_config
from gitpeft.diff.patch import parse_patch
from gitpeft.git.log import Commit
from gitpeft.git.objects import read_file, read_line_counts
from gitpeft.git.repository import Repository
from gitpeft.git.streams import stream_commits
from gitpeft.history.store import History
from gitpeft.hooks.message_file import has_text
from gitpeft.learn.szz.szz import trace_bug_introducing_commits
from tests.support.commands import Call
from tests.support.gitrepo import Repo
from tests.support.rawhistory import PATHS, RawCommit, as_key, git_paths, write_history

BREAKS = ["\n", "\u2028", "\x0c", "\x1c", "\x1d", "\x85", "\r", "\x0b", "\u2029", " \n ", "\nx\n", "\udcff\n"]


def _places(folder: Path) -> dict[str, str]:
    """What git itself says, one question at a time."""
    repo = Repo(folder)
    said = {
        what: repo.run("rev-parse", "--path-format=absolute", f"--{what}").stdout
        for what in ("absolute-git-dir", "git-common-dir", "show-toplevel")
    }
    return {what: os.fsdecode(raw.removesuffix(b"\n")) for what, raw in said.items()}


@pytest.mark.parametrize("middle", BREAKS, ids=ascii)
def test_lines_and_bytes_in_the_path_of_a_repository(tmp_path: Path, gitpeft: Call, middle: str) -> None:
    repo = Repo.create(tmp_path / f"r{middle}x{middle}")
    for number in range(3):
        repo.commit(f"Add {number}", **{"a.py": f"{number}\n"})
    sub = repo.path / f"d{middle}"
    sub.mkdir()
    for folder in (repo.path, sub):
        found, said = Repository.open(folder), _places(folder)
        assert (
            str(found.git_dir) == said["absolute-git-dir"] and str(found.work_tree) == said["show-toplevel"]
        )
        assert str(found.common_dir) == said["git-common-dir"]
    assert gitpeft("mine", "--repo", repo.path).code == 0
    assert gitpeft("install", "--repo", repo.path).code == 0
    assert (repo.path / ".git" / "gitpeft" / "history.db").is_file()
    assert (repo.path / ".git" / "hooks" / "prepare-commit-msg").is_file()
    assert repo.git("status", "--porcelain") == ""


@pytest.mark.parametrize("middle", ["\n", "\u2028", "\r"], ids=ascii)
def test_lines_and_bytes_in_the_path_of_worktrees_and_bare_repositories(tmp_path: Path, middle: str) -> None:
    repo = Repo.create(tmp_path / f"r{middle}x")
    repo.commit("Start", a="1\n")
    tree = tmp_path / f"w{middle}t"
    repo.git("worktree", "add", "-q", "-b", "other", str(tree))
    bare = repo.clone(tmp_path / f"b{middle}.git", "--bare")
    for folder in (tree, bare.path):
        found, said = Repository.open(folder), _places(folder)
        assert (str(found.git_dir), str(found.common_dir)) == (
            said["absolute-git-dir"],
            said["git-common-dir"],
        )
        assert str(found.work_tree or "") == said["show-toplevel"]
    assert Repository.open(tree).state_dir == Repository.open(repo.path).state_dir


def test_lines_and_bytes_in_names_of_branches(repo: Repo) -> None:
    repo.commit("Start", a="1\n")
    for name in ("a\u2028b", "c\x85d", "e\u2029"):
        repo.git("branch", name)
    assert sorted(Repository.open(repo.path).list_branches()) == ["a\u2028b", "c\x85d", "e\u2029", "main"]


def test_lines_and_bytes_in_subjects(repo: Repo) -> None:
    subject = "a\u2028b\x0cc\x1cd\x85e"
    repo.commit(subject, a="1\n")
    repository = Repository.open(repo.path)
    said = repo.run("log", "-1", "-z", "--format=%s").stdout.rstrip(b"\0").decode()
    assert repository.find_previous_subject() == said == subject


def test_lines_and_bytes_a_renamed_file_keeps_its_lines(repo: Repo) -> None:
    """In a pure rename git names no blob, so the content is asked for by name, one name a line."""
    names = ["a\nb", "c\r", "d\u2028e", "f\n"]
    repo.commit("Start", **{name: f"{name!r}\n" * 9 for name in names})
    repository = Repository.open(repo.path)
    wanted = [f"HEAD:{name}" for name in names]
    assert read_line_counts(repository, wanted) == dict.fromkeys(wanted, 9)
    assert [read_file(repository, "HEAD", name) for name in names] == [f"{n!r}\n".encode() * 9 for n in names]
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository)
        for number, name in enumerate(names):
            repo.git("mv", "--", name, f"moved {number}")
        repo.commit("Move")
        history.mine_commits(repository)
        [moved] = history.load_measured_changes([repo.git("rev-parse", "HEAD")]).values()
    assert sorted((file.origin, file.lines) for file in moved.files) == sorted((name, 9) for name in names)


def test_lines_and_bytes_a_comment_hides_no_revision(repo: Repo) -> None:
    """Git reads the file of ignored revisions by lines that end with a line feed, nothing else."""
    bug = repo.commit("Add h", **{"h.py": "def h(x):\n    return 1\n"})
    repo.commit("Skip nothing", **{".git-blame-ignore-revs": f"# not this one:\u2028{bug}\n"})
    repo.commit("Fix crash in h", **{"h.py": "def h(x):\n    return 2\n"})
    repository = Repository.open(repo.path)
    labels = trace_bug_introducing_commits(repository, "HEAD", load_config(repository), lambda *_: None)
    assert list(labels.verdicts) == [bug]


def test_lines_and_bytes_a_carriage_return_begins_no_line_of_a_message_file() -> None:
    assert not has_text(b"\n# a comment\rthat goes on\n", b"#")
    assert has_text(b"text\r# goes on\n", b"#")


def _check_paths(tmp_path_factory: pytest.TempPathFactory, paths: list[bytes]) -> None:
    kept: list[bytes] = []
    for path in paths:  # no file may be a folder of another one
        if not any(
            (path + b"/").startswith(one + b"/") or (one + b"/").startswith(path + b"/") for one in kept
        ):
            kept.append(path)
    repo = Repo.create(tmp_path_factory.mktemp("paths") / "repo")
    [sha] = write_history(repo, [RawCommit(files={path: b"x\n%s\n" % path for path in kept})])
    expected = sorted(map(as_key, git_paths(repo, sha)))
    repository = Repository.open(repo.path)
    [commit] = [one for one in stream_commits(repository, [sha]) if isinstance(one, Commit)]
    assert sorted(file.path for file in commit.files) == expected
    assert sorted(file.path for file in parse_patch(repository.read_commit_patch(sha))) == expected
    for path in kept:
        assert read_file(repository, sha, as_key(path)) == b"x\n%s\n" % path
    counts = read_line_counts(repository, [f"{sha}:{path}" for path in expected])
    assert sorted(counts) == [f"{sha}:{path}" for path in expected]
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository)
        [record] = history.load_records(repository)
        [change] = history.load_measured_changes([sha]).values()
        assert sorted(one.path for one in record.paths) == expected
        assert sorted(file.path for file in change.files) == expected


@given(st.lists(PATHS, min_size=1, max_size=6, unique=True))
@settings(max_examples=15)
def test_lines_and_bytes_any_path_is_read_as_git_has_it(
    tmp_path_factory: pytest.TempPathFactory, paths: list[bytes]
) -> None:
    _check_paths(tmp_path_factory, paths)


@pytest.mark.slow
@given(st.lists(PATHS, min_size=1, max_size=6, unique=True))
@settings(max_examples=150)
def test_lines_and_bytes_any_path_is_read_as_git_has_it_at_length(
    tmp_path_factory: pytest.TempPathFactory, paths: list[bytes]
) -> None:
    _check_paths(tmp_path_factory, paths)


_FOLDER = st.text(
    st.characters(blacklist_categories=["Cs"], blacklist_characters="/\0"), min_size=1, max_size=8
)


@given(_FOLDER.filter(lambda name: name.strip(".") != "" and len(name.encode()) < 200))
@settings(max_examples=15)
def test_lines_and_bytes_any_folder_is_found(tmp_path_factory: pytest.TempPathFactory, name: str) -> None:
    repo = Repo.create(tmp_path_factory.mktemp("folder") / f"r{name}")
    found, said = Repository.open(repo.path), _places(repo.path)
    assert (str(found.git_dir), str(found.work_tree)) == (said["absolute-git-dir"], said["show-toplevel"])
