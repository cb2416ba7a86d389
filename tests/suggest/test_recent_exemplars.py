"""The rolling index: commits made after the model are read once, as for training, and become exemplars."""

import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from gitpeft.config import Config
from gitpeft.git.log import Commit
from gitpeft.git.repository import Repository
from gitpeft.git.streams import read_commits_within
from gitpeft.history.store import History
from gitpeft.learn.data import dataset
from gitpeft.suggest import recent_exemplars, service
from gitpeft.suggest.recent_exemplars import load_recent_entries, refresh_recent_commits
from gitpeft.suggest.suggester import open_active_suggester
from gitpeft.suggest.terms import extract_terms, pack_terms
from tests.support import tinymodel
from tests.support.gitrepo import Repo


@pytest.fixture
def grown(repo: Repo) -> tuple[Repo, str, list[str]]:
    """A repository, the commit at which its model was made, and what came after."""
    repo.commit("first", **{"a.py": "one = 1\n"})
    made_at = repo.commit("second", **{"a.py": "one = 1\ntwo = 2\n"})
    return (
        repo,
        made_at,
        [repo.commit(f"add file {i}", **{f"f{i}.py": f"value_{i} = {i}\n"}) for i in range(4)],
    )


def state(repo: Repo) -> Path:
    folder = repo.path / ".git/gitpeft"
    folder.mkdir(exist_ok=True)
    return folder


def opened(repo: Repo) -> Repository:
    state(repo)
    return Repository.open(repo.path)


def test_commits_after_the_model_are_returned_oldest_first(grown: tuple[Repo, str, list[str]]) -> None:
    repo, made_at, later = grown
    assert refresh_recent_commits(opened(repo), made_at) == later
    assert refresh_recent_commits(opened(repo), later[1]) == later[2:]
    assert refresh_recent_commits(opened(repo), made_at, f"{later[2]}^") == later[:2]
    assert (
        refresh_recent_commits(opened(repo), later[-1])
        == refresh_recent_commits(opened(repo), made_at, made_at)
        == []
    )
    assert refresh_recent_commits(opened(repo), "") == [
        *repo.git("rev-list", "--reverse", made_at).split(),
        *later,
    ]


def test_a_commit_is_read_once(grown: tuple[Repo, str, list[str]], monkeypatch: pytest.MonkeyPatch) -> None:
    repo, made_at, later = grown
    refresh_recent_commits(opened(repo), made_at)
    newest = repo.commit("fix", **{"a.py": "three = 3\n"})
    read: list[str] = []

    def counted(repository: Repository, shas: Sequence[str], seconds: float) -> list[Commit]:
        read.extend(shas)
        return read_commits_within(repository, shas, seconds)

    monkeypatch.setattr("gitpeft.suggest.recent_exemplars.read_commits_within", counted)
    assert refresh_recent_commits(opened(repo), made_at) == [*later, newest]
    assert refresh_recent_commits(opened(repo), made_at) == [*later, newest]
    assert read == [newest]


def test_after_a_long_pause_the_newest_commits_are_read_first(
    grown: tuple[Repo, str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, made_at, later = grown
    monkeypatch.setattr(recent_exemplars, "READ_BATCH_SIZE", 3)
    assert refresh_recent_commits(opened(repo), made_at) == later[1:]
    assert refresh_recent_commits(opened(repo), made_at) == later


def test_the_terms_are_those_of_training(grown: tuple[Repo, str, list[str]]) -> None:
    repo, made_at, later = grown
    secret = repo.commit("add key AKIAIOSFODNN7EXAMPLE", **{"k.py": 'key = "AKIAIOSFODNN7EXAMPLE"\n'})
    found = load_recent_entries(state(repo), refresh_recent_commits(opened(repo), made_at))
    with History.open(state(repo)) as history:
        history.mine_commits(opened(repo), "HEAD")
        examples = {e.sha: e for e in dataset.build_dataset(history.load_records(opened(repo)), 3).examples}
    assert [entry.sha for entry in found] == [*later, secret]
    for entry in found:
        example = examples[entry.sha]
        assert entry.subject == example.message
        assert entry.terms == pack_terms(extract_terms(example.change))
    assert "AKIA" not in (state(repo) / "recent.json").read_text()


def test_unusable_commits_are_skipped_and_not_read_again(grown: tuple[Repo, str, list[str]]) -> None:
    repo, made_at, later = grown
    repo.commit('Revert "add file 3"', **{"f3.py": None})
    repo.commit("fixup! add file 1", **{"f1.py": "x = 1\n"})
    repo.commit("update lock", **{"package-lock.json": "{}\n"})
    repo.commit("nothing")
    repo.git("checkout", "-q", "-b", "side", later[0])
    side = repo.commit("on the side", **{"side.py": "y = 2\n"})
    repo.git("checkout", "-q", "main")
    repo.git("merge", "-q", "--no-ff", "-m", "merge side", "side")
    found = refresh_recent_commits(opened(repo), made_at)
    assert set(found) == {*later, side} and len(found) == 5
    stored = json.loads((state(repo) / "recent.json").read_text())["commits"]
    assert sum(one is None for one in stored.values()) == 4


def test_a_repeated_subject_counts_where_it_is_newest(grown: tuple[Repo, str, list[str]]) -> None:
    repo, made_at, later = grown
    again = repo.commit("add file 1", **{"f1.py": "value_1 = 11\n"})
    found = load_recent_entries(state(repo), refresh_recent_commits(opened(repo), made_at))
    assert [entry.sha for entry in found] == [later[0], *later[2:], again]


@pytest.mark.parametrize(
    "content", [b"", b"[]", b"{", b'{"version": 1, "commits": {"a": ["s", "!"]}}', b'{"version": 0}', b"\xff"]
)
def test_a_damaged_cache_is_made_again(grown: tuple[Repo, str, list[str]], content: bytes) -> None:
    repo, made_at, later = grown
    (state(repo) / "recent.json").write_bytes(content)
    assert refresh_recent_commits(opened(repo), made_at) == later
    assert len(load_recent_entries(state(repo), later)) == 4


def test_where_nothing_can_be_written_nothing_fails(grown: tuple[Repo, str, list[str]]) -> None:
    repo, made_at, later = grown
    (state(repo) / "recent.json").mkdir()
    assert refresh_recent_commits(opened(repo), made_at) == later
    assert load_recent_entries(state(repo), later) == []
    assert [path.name for path in state(repo).iterdir()] == ["recent.json"]


def test_a_model_of_another_history_and_a_missing_branch(
    repo: Repo, grown: tuple[Repo, str, list[str]]
) -> None:
    assert refresh_recent_commits(opened(repo), "0" * 40) == []
    assert refresh_recent_commits(opened(repo), "HEAD", "no-such-branch") == []


def test_a_missing_object_is_skipped_and_not_fetched(
    grown: tuple[Repo, str, list[str]], tmp_path: Path
) -> None:
    repo, made_at, later = grown
    repo.git("config", "uploadpack.allowFilter", "true")
    clone = repo.clone(tmp_path / "clone", "--filter=blob:none", "--no-checkout")
    clone.git("read-tree", "HEAD")
    blob = clone.git("hash-object", "-w", "--stdin", input="z = 3\n")
    clone.git("update-index", "--add", "--cacheinfo", f"100644,{blob},mine.py")
    tree = clone.git("write-tree", "--missing-ok")
    mine = clone.git("commit-tree", "-m", "made here", "-p", "HEAD", tree)
    clone.git("update-ref", "HEAD", mine)
    found = [refresh_recent_commits(opened(clone), made_at) for _ in later]
    assert found == [[mine]] * len(later)
    assert len(clone.git("rev-list", "--objects", "--all", "--missing=print").split("?")) > 4


def test_the_commit_at_which_time_runs_out_is_skipped(
    grown: tuple[Repo, str, list[str]], monkeypatch: pytest.MonkeyPatch
) -> None:
    repo, made_at, later = grown
    monkeypatch.setattr(recent_exemplars, "READ_SECONDS", 0.0)
    assert refresh_recent_commits(opened(repo), made_at) == []
    monkeypatch.setattr(recent_exemplars, "READ_SECONDS", 30.0)
    assert refresh_recent_commits(opened(repo), made_at) == later[:3]  # the newest was given up


def test_the_newest_commit_is_an_exemplar(grown: tuple[Repo, str, list[str]]) -> None:
    repo, made_at, later = grown
    tinymodel.bundle(state(repo))
    suggester = open_active_suggester(state(repo))
    repo.stage(**{"f9.py": "value_3 = 4\n", "f3.py": "value_3 = 5\n"})
    request = service.build_staged_request(opened(repo), Config(), 1)
    assert all("add file" not in one.message for one in suggester.suggest(request.change, "", 3))
    suggester.index_recent_commits(
        load_recent_entries(state(repo), refresh_recent_commits(opened(repo), made_at, request.after))
    )
    best = suggester.suggest(request.change, "")[0]
    assert (best.message, best.like) == ("add file 3", (later[3],))
    suggester.index_recent_commits([])
    assert all("add file" not in one.message for one in suggester.suggest(request.change, "", 3))
