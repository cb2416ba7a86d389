"""`gitpeft.history.stored_records`: the same commits as in a list, read when they are asked for."""

import gc
import os
import sqlite3
import warnings

import pytest

from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history import pool, stored_records
from gitpeft.history.store import CommitRecord, History
from gitpeft.history.stored_records import RecordReader, StoredRecords
from gitpeft.learn.data import dataset
from tests.support.generated import put, team
from tests.support.gitrepo import Repo


def open_both(repo: Repo) -> tuple[StoredRecords, list[CommitRecord]]:
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository)
        return StoredRecords.open(history, repository, "HEAD"), history.load_records(repository)


def test_they_are_the_records_of_the_list(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(stored_records, "_READ_AT_ONCE", 4)
    put(repo, team(13))
    stored, listed = open_both(repo)
    assert list(stored) == listed == list(stored) and len(stored) == 13
    assert stored[3] == listed[3] and stored[-1] == listed[-1] and list(stored[-3:]) == listed[-3:]
    promised = stored.promise_change(listed[5])
    assert promised.read() == listed[5].change
    with pytest.raises(IndexError):
        stored[13]


def test_examples_are_the_same_and_hold_no_changes(repo: Repo) -> None:
    put(repo, team(40))
    stored, listed = open_both(repo)
    lazy, eager = dataset.build_dataset(stored, 3), dataset.build_dataset(listed, 3)
    assert len(lazy.examples) == 40
    for one, other in zip(lazy.examples, eager.examples, strict=True):
        assert not isinstance(one.content, str)
        assert (one.change, one.message, one.previous) == (other.change, other.message, other.previous)
        assert list(one.like) == list(other.like)
    assert lazy.left_out == eager.left_out


def test_a_forked_process_reads_through_a_connection_of_its_own(repo: Repo) -> None:
    put(repo, team(12))
    stored, listed = open_both(repo)
    assert stored[0] == listed[0], "the parent has a connection already"
    halves = [range(0, 12, 2), range(1, 12, 2)]
    found = pool.map_in_processes(halves, lambda places: ([place, stored[place].change] for place in places))
    assert sorted(found) == [[place, one.change] for place, one in enumerate(listed)]
    assert stored[1] == listed[1]


def test_a_commit_that_is_gone_is_named(repo: Repo) -> None:
    put(repo, team(3))
    stored, _ = open_both(repo)
    with sqlite3.connect(Repository.open(repo.path).state_dir / "history.db") as db:
        db.execute("DELETE FROM record WHERE sha = ?", (stored[1].sha,))
    db.close()
    with pytest.raises(GitpeftError, match="not in the mined history any more"):
        list(stored)
    with pytest.raises(GitpeftError, match="not in the mined history any more"):
        RecordReader(Repository.open(repo.path).state_dir / "history.db").read_change("0" * 40)


def test_connections_are_closed(repo: Repo) -> None:
    put(repo, team(3))
    stored, _ = open_both(repo)
    assert len(list(stored)) == 3
    folder = f"/proc/{os.getpid()}/fd"
    database = str(Repository.open(repo.path).state_dir / "history.db")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        del stored
        gc.collect()
    if os.path.isdir(folder):
        assert database not in [os.path.realpath(os.path.join(folder, name)) for name in os.listdir(folder)]
