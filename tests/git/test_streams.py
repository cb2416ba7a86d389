"""`gitpeft.git.streams` and `git.log`: commits read from real git, also damaged, shallow or enormous."""

import os
from pathlib import Path

import pytest

from gitpeft.diff.stored import MAX_FILES_READ, store_change
from gitpeft.git.log import Commit, SkippedCommit
from tests.support.gitrepo import EPOCH, Repo, fingerprint, merge_side, partial_clone
from tests.support.reading import read_commit, read_history


def test_fields_of_commits(repo: Repo) -> None:
    first = repo.commit("feat: start\n\nA body.\n\n- with a list\n", a="1\n")
    merge = merge_side(repo)
    items = read_history(repo)
    commit = items[first]
    assert isinstance(commit, Commit)
    assert (commit.subject, commit.body) == ("feat: start", "A body.\n\n- with a list\n")
    assert (commit.time, commit.commit_time, commit.parents) == (EPOCH, EPOCH, ())
    assert commit.author == "Ada Author <ada@example.org>"
    merged = items[merge]
    assert isinstance(merged, Commit)
    assert len(merged.parents) == 2
    assert merged.files == []
    assert len(items) == 4


@pytest.mark.parametrize("jobs", [1, 2, 5])
def test_many_commits_over_many_processes(repo: Repo, jobs: int) -> None:
    stream = "".join(
        f"commit refs/heads/main\ncommitter C <c@x> {EPOCH + i} +0000\ndata <<E\nadd: file {i}\nE\n"
        f"M 644 inline f{i}\ndata <<E\n{i}\nE\n\n"
        for i in range(300)
    )
    repo.git("fast-import", "--quiet", input=stream)
    items = read_history(repo, jobs)
    subjects = sorted((c.subject, c.files[0].path) for c in items.values() if isinstance(c, Commit))
    assert subjects == sorted((f"add: file {i}", f"f{i}") for i in range(300))


def test_messages_in_other_encodings(repo: Repo) -> None:
    repo.git("config", "i18n.commitEncoding", "ISO-8859-1")
    declared = repo.commit("café: öffnen".encode("latin-1"), a="1\n")
    repo.git("config", "--unset", "i18n.commitEncoding")
    undeclared = repo.commit("naïve: größer".encode("latin-1"), a="2\n")
    plain = repo.commit("日本語: 変更\x1b[31m", a="3\n")
    items = {sha: item.subject for sha, item in read_history(repo).items() if isinstance(item, Commit)}
    assert items[declared] == "café: öffnen"
    assert items[undeclared] == "naïve: größer"
    assert items[plain].startswith("日本語: 変更")


def test_a_message_cannot_pretend_to_be_a_record(repo: Repo) -> None:
    message = "x: y\n\n\x01diff --git a/x b/x\n@@ -1 +1 @@\n+fake\ncommit " + "a" * 40
    sha = repo.commit(message, a="1\n")
    commit = read_commit(repo, sha)
    assert [f.path for f in commit.files] == ["a"]
    assert commit.body.startswith("\x01diff --git")


def test_a_shallow_boundary_is_skipped(repo: Repo, tmp_path: Path) -> None:
    for i in range(5):
        repo.commit(f"edit: number {i}", a=f"{i}\n")
    clone = repo.clone(tmp_path / "clone", "--depth", "2")
    items = sorted(read_history(clone).values(), key=lambda item: isinstance(item, Commit))
    assert [type(item) for item in items] == [SkippedCommit, Commit]
    assert isinstance(items[0], SkippedCommit)
    assert items[0].reason == "shallow"


def test_commits_with_missing_blobs_are_skipped(repo: Repo, tmp_path: Path) -> None:
    small = repo.commit("add: small", small="s\n")
    large = repo.commit("add: large", large="l" * 5000)
    after = repo.commit("edit: small", small="t\n")
    dropped = repo.commit("drop: large", large=None)
    clone = partial_clone(repo, tmp_path / "clone", "blob:limit=1k")
    items = read_history(clone)
    assert {sha for sha, item in items.items() if isinstance(item, Commit)} == {small, after}
    assert items[large] == SkippedCommit(large, "missing")
    assert items[dropped] == SkippedCommit(dropped, "missing")


@pytest.mark.parametrize("filter", ["blob:none", "tree:0"])
def test_without_any_content_all_is_skipped_and_nothing_fetched(
    repo: Repo, tmp_path: Path, filter: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    for i in range(30):
        repo.commit(f"edit: number {i}", **{"a/b": f"{i}\n"})
    clone = partial_clone(repo, tmp_path / "clone", filter)
    clone.git("remote", "set-url", "origin", repo.path.as_uri())  # a fetch would even succeed
    trace = tmp_path / "trace"
    monkeypatch.setenv("GIT_TRACE2_EVENT", str(trace))
    before = fingerprint(clone.path / ".git")
    assert {item.reason for item in read_history(clone).values() if isinstance(item, SkippedCommit)} == {
        "missing"
    }
    assert fingerprint(clone.path / ".git") == before
    assert "upload-pack" not in trace.read_text()


def test_a_damaged_object_costs_its_commits_only(repo: Repo) -> None:
    shas = [repo.commit(f"edit: number {i}", **{f"f{i}": f"{i}\n" * 50}) for i in range(8)]
    for i in (2, 5):
        blob = repo.git("rev-parse", f"{shas[i]}:f{i}")
        path = repo.path / ".git" / "objects" / blob[:2] / blob[2:]
        path.chmod(0o644)
        path.write_bytes(path.read_bytes()[:10] + b"broken")
    (repo.path / ".git" / "index").unlink()  # or git takes the content from the work tree
    items = read_history(repo)
    skipped = {shas.index(sha): item.reason for sha, item in items.items() if isinstance(item, SkippedCommit)}
    assert skipped == {2: "unreadable", 5: "unreadable"}


def test_an_enormous_commit_is_read_in_parts(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {f"f{i:03}": f"{i}\n" * (i + 1) for i in range(200)}
    sha = repo.commit("add: everything", **files)
    whole = read_commit(repo, sha).files
    monkeypatch.setattr("gitpeft.git.log._SPILL_BYTES", 2000)
    monkeypatch.setattr("gitpeft.git.streams._CHUNK_BYTES", 700)
    parts = read_commit(repo, sha).files
    assert store_change(parts) == store_change(whole)
    assert [(f.path, f.added) for f in parts] == [(f.path, f.added) for f in whole]
    assert sum(bool(f.hunks) for f in parts) < MAX_FILES_READ + 22


def test_a_type_change_is_not_torn_apart(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.commit("init: start", **{f"f{i}": f"{i}\n" * 9 for i in range(20)})
    for i in range(20):
        (repo.path / f"f{i}").unlink()
        (repo.path / f"f{i}").symlink_to("x")
    repo.git("add", "-A")
    sha = repo.commit("link: everything")
    monkeypatch.setattr("gitpeft.git.log._SPILL_BYTES", 300)
    monkeypatch.setattr("gitpeft.git.streams._CHUNK_BYTES", 100)
    assert {f.status for f in read_commit(repo, sha).files} == {"T"}


@pytest.mark.slow
def test_a_hundred_megabytes_stay_out_of_memory(repo: Repo) -> None:
    import tracemalloc

    sha = repo.commit(
        "add: data", data="0123456789abcde\n" * (100 * 2**20 // 16), blob=os.urandom(2**20) * 20
    )
    tracemalloc.start()
    files = read_commit(repo, sha).files
    peak = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert {f.kind for f in files} == {"binary"}
    assert peak < 10 * 2**20
