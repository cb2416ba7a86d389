"""The commits of a test's repository as the package reads them."""

from gitpeft.git.log import Commit, SkippedCommit
from gitpeft.git.repository import Repository
from gitpeft.git.streams import stream_commits
from tests.support.gitrepo import Repo


def read_history(repo: Repo, jobs: int = 2) -> dict[str, Commit | SkippedCommit]:
    """Every commit that HEAD reaches as `stream_commits` returns it."""
    opened = Repository.open(repo.path)
    shas = [sha for sha, _ in opened.rev_list("HEAD")]
    items = list(stream_commits(opened, shas[::-1], jobs))
    assert sorted(item.sha for item in items) == sorted(shas)
    return {item.sha: item for item in items}


def read_commit(repo: Repo, sha: str) -> Commit:
    """One of them."""
    item = read_history(repo)[sha]
    assert isinstance(item, Commit)
    return item
