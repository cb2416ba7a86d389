"""Revisions are handed to git as they are written; git itself says what each of them names."""

import json

import pytest

from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from tests.support import tinymodel
from tests.support.commands import Call
from tests.support.gitrepo import Repo, merge_side

SINGLE = (
    *("HEAD", "@", "main~1", ":/fix a..b 2", ":/add", "HEAD^{/fix a..b 1}", "main@{1}", "main@{yesterday}"),
    *("v1", "v1^{}", "v1^0", "HEAD^2", ":/commit}", "HEAD^{/x^{commit}}", "main@{2023-11-14 23:00:00}"),
    *("a..b-tag", "@{-1}", "@{u}"),
)
RANGES = (
    *("HEAD~2..", "..main", "v1..HEAD", "HEAD~3...v1", "HEAD^!", "HEAD^@", "HEAD^-", ":/add..HEAD"),
    *("..v1", "main@{3}..main@{1}"),
)


@pytest.fixture(scope="module")
def told(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """Commits with odd subjects, a merge, a tag, a reflog and an upstream; not to be changed."""
    repo = Repo.create(tmp_path_factory.mktemp("revisions") / "repo")
    for number in range(4):
        repo.commit(f"fix a..b {number}", **{"a.py": f"x = {number}\n"})
    repo.commit("x^{commit}", **{"b.py": "1\n"})
    repo.git("tag", "-a", "v1", "-m", "First", "HEAD~2")
    repo.git("tag", "a..b-tag".replace("..", "--"), "HEAD~1")
    merge_side(repo)
    repo.git("branch", "up", "HEAD~1")
    repo.git("branch", "-q", "--set-upstream-to=up")
    tinymodel.bundle(Repository.open(repo.path).state_dir)
    return repo


def oracle(repo: Repo, rev: str) -> list[str]:
    return repo.git("rev-list", "--no-merges", "--date-order", "--reverse", rev, "--").split()


@pytest.mark.parametrize("rev", SINGLE)
def test_a_revision_of_any_form_is_the_commit_that_git_takes_it_for(told: Repo, rev: str) -> None:
    wanted = told.run("log", "-1", "--format=%H", rev, "--")
    opened = Repository.open(told.path)
    if wanted.returncode:
        with pytest.raises(GitpeftError, match="revision"):
            opened.resolve_commit(rev)
    else:
        assert opened.resolve_commit(rev) == wanted.stdout.decode().strip()


@pytest.mark.parametrize("rev", RANGES)
def test_a_range_of_any_form_holds_the_commits_that_git_lists(told: Repo, rev: str, gitpeft: Call) -> None:
    opened = Repository.open(told.path)
    wanted = oracle(told, rev)
    assert opened.list_range_commits(opened.resolve_revisions(rev)) == wanted
    done = gitpeft("suggest", "--json", "-n", "1", "--repo", told.path, "--", rev)
    assert [json.loads(line)["rev"] for line in done.out.splitlines()] == wanted
    done = gitpeft("risk", "--json", "--repo", told.path, "--", rev)
    assert [json.loads(line)["rev"] for line in done.out.splitlines()] == wanted


def test_commits_of_a_range_are_named_by_their_subjects(told: Repo, gitpeft: Call) -> None:
    wanted = told.git("log", "--no-merges", "--reverse", "--format=%h %s", "HEAD~2..HEAD").splitlines()
    said = gitpeft("suggest", "-n", "1", "--repo", told.path, "HEAD~2..HEAD").out.splitlines()
    assert [line for line in said if not line.startswith(" ")] == wanted


@pytest.mark.parametrize("rev", [":/fix a..b 2", "HEAD^{/fix a..b 1}", "main@{1}"])
def test_commands_take_such_a_revision(told: Repo, rev: str, gitpeft: Call) -> None:
    one = gitpeft("suggest", "--json", "--repo", told.path, rev)
    sha = Repository.open(told.path).resolve_commit(rev)
    other = gitpeft("suggest", "--json", "--repo", told.path, sha)
    assert json.loads(one.out)["suggestions"] == json.loads(other.out)["suggestions"]
    reported = json.loads(gitpeft("risk", "--json", "--repo", told.path, rev).out)
    assert reported["rev"] == rev and reported["evidence"] is not None
    assert gitpeft("risk", "HEAD", "--until", rev, "--repo", told.path).code == 0
    told_of_history = gitpeft("backtest", "--until", rev, "--repo", told.path)
    assert "revision" not in told_of_history.said and "not enough history" in told_of_history.said


def test_standard_input_takes_them_as_they_are_written(told: Repo, gitpeft: Call) -> None:
    revs = [":/fix a..b 2", "HEAD^{/fix a..b 1}", ""]
    done = gitpeft("suggest", "--stdin", "--repo", told.path, stdin="\n".join(revs) + "\n")
    assert [json.loads(line)["rev"] for line in done.out.splitlines()] == revs[:2] and done.code == 0


def test_all_commits_of_all_refs(told: Repo, gitpeft: Call) -> None:
    wanted = set(told.git("rev-list", "--no-merges", "--all").split())
    for command in ("suggest", "risk"):
        done = gitpeft(command, "--all", "--json", "--repo", told.path)
        assert {json.loads(line)["rev"] for line in done.out.splitlines()} == wanted
    assert gitpeft("risk", "--all", "HEAD", "--repo", told.path).code == 2


@pytest.mark.parametrize(
    ("rev", "said"),
    [
        ("nowhere", "unknown revision 'nowhere'"),
        ("main@{99}", "only has"),
        ("HEAD~1..nowhere", "unknown revision"),
        (":/no such text", "unknown revision"),
        ("HEAD^{/[}", "revision"),
        ("HEAD:a.py", "unknown revision 'HEAD:a.py'"),
        ("--all", "unknown revision"),
        ("^HEAD~1", ""),
    ],
)
def test_what_git_does_not_know_is_named(told: Repo, gitpeft: Call, rev: str, said: str) -> None:
    done = gitpeft("risk", "--repo", told.path, "--", rev)
    assert said in done.said and done.code == (1 if said else 0)


def test_a_range_where_one_commit_is_needed_says_so(told: Repo, gitpeft: Call) -> None:
    done = gitpeft("risk", "HEAD", "--until", "HEAD~2..HEAD", "--repo", told.path)
    assert done.code == 1 and "does not name one commit" in done.said
