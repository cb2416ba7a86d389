"""`gitpeft.history.store` on real repositories: what is mined, kept, dropped, and left alone."""

import contextlib
import os
import signal
import sqlite3
import subprocess
import sys
import threading
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gitpeft.diff.patch import parse_patch
from gitpeft.diff.stored import shorten_change, store_change
from gitpeft.errors import GitpeftError
from gitpeft.git.log import Commit
from gitpeft.git.repository import Repository
from gitpeft.history import context, pool, step_share
from gitpeft.history.filters import is_bot
from gitpeft.history.store import History, MiningReport, PathChange, _CommitPacker
from gitpeft.redaction import mask_secrets
from tests.support.gitrepo import EPOCH, HOUR, Repo, fingerprint, merge_side, partial_clone


def mine(repo: Repo, tip: str = "HEAD") -> MiningReport:
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        return history.mine_commits(repository, tip, jobs=2)


@pytest.fixture
def mined(repo: Repo) -> tuple[Repo, Repository]:
    """A repository with a few commits and a merge."""
    repo.commit(
        "feat: start\n\nWith a body.", **{"a.py": "x = 1\n", "b.txt": "".join(f"{i}\n" for i in range(20))}
    )
    merge_side(repo)
    repo.git("mv", "b.txt", "c.txt")
    repo.commit("refactor: rename b", **{"a.py": "x = 2\ny = 3\n"})
    return repo, Repository.open(repo.path)


def test_records_are_what_git_says(mined: tuple[Repo, Repository]) -> None:
    _, repository = mined
    with History.open(repository.state_dir) as history:
        report = history.mine_commits(repository)
        records = history.load_records(repository)
        ada = history.hash_author("Someone Else <ADA@example.org>")
    assert (report.new, report.total, report.skipped, report.pruned) == (5, 5, {}, 0)
    assert [r.sha for r in records] == [sha for sha, _ in repository.rev_list("HEAD")]
    first, last = records[0], records[-1]
    assert (first.subject, first.body) == ("feat: start", "With a body.")
    assert (first.time, first.commit_time, first.parents, first.is_merge) == (EPOCH, EPOCH, 0, False)
    assert (last.files, last.added, last.removed) == (2, 2, 1)
    assert last.paths == (
        PathChange("a.py", "M", None, 2, 1, "text"),
        PathChange("c.txt", "R", "b.txt", 0, 0, "text"),
    )
    assert last.change == store_change(parse_patch(repository.read_commit_patch("HEAD")))
    assert {r.author for r in records} == {ada}
    assert sorted(r.is_merge for r in records) == [False] * 4 + [True]
    assert [r.change for r in records if r.is_merge] == [""]


def test_changes_are_of_ordinary_commits_oldest_first(mined: tuple[Repo, Repository]) -> None:
    _, repository = mined
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository)
        ordinary = [one for one in history.load_records(repository) if not one.is_merge]
    assert [[path.path for path in one.paths] for one in ordinary] == [
        ["a.py", "b.txt"],
        ["side"],
        ["main"],
        ["a.py", "c.txt"],
    ]
    assert [one.commit_time for one in ordinary] == [EPOCH + i * HOUR for i in (0, 1, 2, 4)]


def test_only_what_is_new_is_read(mined: tuple[Repo, Repository]) -> None:
    repo, _ = mined
    assert mine(repo).new == 5
    assert mine(repo).new == 0
    repo.commit("fix: more", a="1\n")
    report = mine(repo)
    assert (report.new, report.total) == (1, 6)


def test_an_earlier_tip_hides_what_came_after(mined: tuple[Repo, Repository]) -> None:
    repo, repository = mined
    assert mine(repo).new == 5
    assert mine(repo, "HEAD^").pruned == 0
    with History.open(repository.state_dir) as history:
        subjects = [r.subject for r in history.load_records(repository, "HEAD^")]
        assert "refactor: rename b" not in subjects
        assert len(subjects) == 4
        assert [r.subject for r in history.load_records(repository, newest=1)] == ["refactor: rename b"]


def test_rewritten_history_is_followed(mined: tuple[Repo, Repository]) -> None:
    repo, repository = mined
    mine(repo)
    repo.git("commit", "-q", "--amend", "-m", "refactor: say it better")
    report = mine(repo)
    assert (report.new, report.pruned) == (1, 1)
    with History.open(repository.state_dir) as history:
        subjects = [r.subject for r in history.load_records(repository)]
    assert "refactor: rename b" not in subjects
    assert subjects[-1] == "refactor: say it better"


def test_secrets_and_identities_are_not_stored(repo: Repo) -> None:
    token = "ghp_" + "aB3dE5gH7j" * 4
    repo.commit(
        f"add: {token}\n\npassword = 'hunt3r22'", **{"s.py": f"KEY = '{token[:40]}'\n", token[:40]: "x\n"}
    )
    mine(repo)
    stored = b"".join(path.read_bytes() for path in (repo.path / ".git" / "gitpeft").iterdir())
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        stored += "".join(one.change for one in history.load_records(repository)).encode()
    for forbidden in (token[:40], "hunt3r22", "Ada Author", "ada@example.org"):
        assert forbidden.encode() not in stored
    assert b"<secret>" in stored


def test_authors_have_another_hash_in_every_repository(tmp_path: Path) -> None:
    hashes = set()
    for name in ("one", "two"):
        with History.open(tmp_path / name) as history:
            hashes.add(history.hash_author("ada@example.org"))
            assert history.hash_author("Ada <ada@example.org>") == history.hash_author("ada@example.org")
    assert len(hashes) == 2


@pytest.mark.parametrize(
    "identity",
    [
        "dependabot[bot] <49699333+dependabot[bot]@users.noreply.github.com>",
        "Renovate Bot <bot@renovateapp.com>",
        "github-actions <github-actions@github.com>",
        "pre-commit-ci[bot] <66853113+pre-commit-ci[bot]@users.noreply.github.com>",
        "OpenStack Proposal Bot <openstack-infra@lists.openstack.org>",
        "my-release-bot <x@example.org>",
    ],
)
def test_bots(identity: str) -> None:
    assert is_bot(identity)


@pytest.mark.parametrize(
    "identity",
    ["Ada Author <ada@example.org>", "J. Abbott <abbott@botany.edu>", "Robot Talbot <talbot@x.org>", "<>"],
)
def test_people(identity: str) -> None:
    assert not is_bot(identity)


def test_bots_are_flagged(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_AUTHOR_NAME", "dependabot[bot]")
    repo.commit("build: bump x", a="1\n")
    mine(repo)
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        assert [r.bot for r in history.load_records(repository)] == [True]


def test_what_was_left_out_is_counted_and_tried_again(repo: Repo, tmp_path: Path) -> None:
    for i in range(4):
        repo.commit(f"edit: number {i}", a=f"{i}\n")
    clone = repo.clone(tmp_path / "clone", "--depth", "2")
    report = mine(clone)
    assert (report.new, report.total, report.skipped) == (1, 2, {"shallow": 1})
    clone.git("fetch", "-q", "--unshallow")
    report = mine(clone)
    assert (report.new, report.total, report.skipped) == (3, 4, {})
    repository = Repository.open(clone.path)
    with History.open(repository.state_dir) as history:
        assert history.count_skipped() == {}
        assert len(history.load_records(repository)) == 4


def test_missing_blobs_are_counted(repo: Repo, tmp_path: Path) -> None:
    for i in range(4):
        repo.commit(f"edit: number {i}", a=f"{i}\n")
    clone = partial_clone(repo, tmp_path / "clone", "blob:none")
    assert mine(clone).skipped == {"missing": 4}
    repository = Repository.open(clone.path)
    with History.open(repository.state_dir) as history:
        assert history.count_skipped() == {"missing": 4}


def test_only_the_state_directory_is_written(mined: tuple[Repo, Repository]) -> None:
    repo, _ = mined
    before = fingerprint(repo.path)
    mine(repo)
    assert fingerprint(repo.path) == before
    assert (repo.path / ".git" / "gitpeft" / "history.db").exists()


def test_worktrees_share_one_history(mined: tuple[Repo, Repository], tmp_path: Path) -> None:
    repo, _ = mined
    mine(repo)
    repo.git("worktree", "add", "-q", "--detach", str(tmp_path / "tree"))
    assert mine(Repo(tmp_path / "tree")).new == 0


def test_an_unborn_branch_has_nothing_to_mine(repo: Repo) -> None:
    with pytest.raises(GitpeftError, match="unknown revision"):
        mine(repo)


@pytest.mark.parametrize("damage", ["garbage", "version", "truncated", "empty"])
def test_an_unusable_database_is_built_anew(mined: tuple[Repo, Repository], damage: str) -> None:
    repo, repository = mined
    mine(repo)
    path = repository.state_dir / "history.db"
    if damage == "version":
        db = sqlite3.connect(path)
        db.execute("PRAGMA user_version = 7")
        db.close()
    else:
        content = path.read_bytes()
        path.write_bytes({"garbage": b"x" * 5000, "truncated": content[:70], "empty": b""}[damage])
    assert mine(repo).new == 5


def test_a_database_of_the_version_before_is_kept_and_renewed_by_mining(
    mined: tuple[Repo, Repository],
) -> None:
    repo, repository = mined
    mine(repo)
    with History.open(repository.state_dir) as history:
        records = history.load_records(repository)
        salt = history.hash_author("a <b@c.de>")
    _make_older(repository.state_dir / "history.db", {one.sha: shorten_change(one.change) for one in records})
    with History.open(repository.state_dir) as history:
        older = history.load_records(repository)
        assert [one.change for one in older] == [shorten_change(one.change) for one in records]
        with history.context_before(repository, repository.resolve_commit("HEAD")) as before:
            assert before.count_changes(["a.py"]) == 2
        report = history.mine_commits(repository)
        assert (report.new, report.total, report.pruned) == (0, 5, 0)
        assert history.load_records(repository) == records
        assert history.hash_author("a <b@c.de>") == salt
        assert history.mine_commits(repository).new == 0


def test_all_changes_are_looked_through_once_only(mined: tuple[Repo, Repository]) -> None:
    repo, repository = mined
    mine(repo)
    asked: list[str] = []
    with History.open(repository.state_dir) as history:
        history._db.set_trace_callback(asked.append)
        history.mine_commits(repository)
    assert asked and not any("typeof(change)" in statement for statement in asked)


def _make_older(path: Path, changes: dict[str, str]) -> None:
    """Turn a database into what the version before wrote: changes in the compact form, as plain text."""
    db = sqlite3.connect(path)
    with db:
        db.executemany("UPDATE record SET change = ? WHERE sha = ?", [(t, sha) for sha, t in changes.items()])
        db.execute("PRAGMA user_version = 4001")
    db.close()


def test_a_damaged_change_is_reported(mined: tuple[Repo, Repository]) -> None:
    repo, repository = mined
    mine(repo)
    db = sqlite3.connect(repository.state_dir / "history.db")
    with db:
        db.execute("UPDATE record SET change = x'789c00' WHERE change <> ''")
    db.close()
    with History.open(repository.state_dir) as history, pytest.raises(GitpeftError, match="damaged"):
        history.load_records(repository)


def test_a_staged_change_reads_as_the_commit_that_it_becomes(repo: Repo) -> None:
    repo.commit("feat: start", **{"src/dates.py": "def parse(raw):\n    return raw\n", "b.txt": "1\n" * 30})
    lines = "def parse(raw):\n    return int(raw)\n\n\ndef show(date):\n    print(date)\n"
    repo.stage(**{"src/dates.py": lines, "c.py": "x = 1\n" * 500, "b.txt": None})
    repository = Repository.open(repo.path)
    staged = mask_secrets(store_change(parse_patch(repository.read_staged_patch())))
    repo.git("commit", "-q", "-m", "fix: dates")
    mine(repo)
    with History.open(repository.state_dir) as history:
        record = history.load_records(repository)[-1]
    assert record.change == staged
    assert staged.startswith("=adds file c.py; deletes file b.txt; adds function show")


def test_a_second_miner_is_refused(mined: tuple[Repo, Repository]) -> None:
    _, repository = mined
    entered, leave = threading.Event(), threading.Event()

    def wait(share: float, _words: str) -> None:
        if share:  # something is stored
            entered.set()
            leave.wait(30)

    def first() -> None:
        with History.open(repository.state_dir) as history:
            history.mine_commits(repository, listen=wait)

    thread = threading.Thread(target=first)
    thread.start()
    try:
        assert entered.wait(30)
        with History.open(repository.state_dir) as history:
            with pytest.raises(GitpeftError, match="another process"):
                history.mine_commits(repository)
            assert len(history.load_records(repository)) == 5  # readers are never kept out
    finally:
        leave.set()
        thread.join()


def fill(repo: Repo, commits: int) -> None:
    """Add many commits quickly."""
    stream = "".join(
        f"commit refs/heads/main\ncommitter C <c@x> {EPOCH + i} +0000\ndata <<E\nadd: file {i}\nE\n"
        f"M 644 inline f{i}\ndata <<E\n{i}\nE\n\n"
        for i in range(commits)
    )
    repo.git("fast-import", "--quiet", input=stream)


MINER = """
import sys
from pathlib import Path
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
repository = Repository.open(Path(sys.argv[1]))
with History.open(repository.state_dir) as history:
    def wait(share, words):
        if done := words.partition("/")[0].replace(",", ""):
            print(done, flush=True)
            sys.stdin.readline()
    history.mine_commits(repository, listen=wait)
"""


def test_a_killed_miner_loses_nothing_that_it_reported(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    fill(repo, 1500)
    root = Path(__file__).resolve().parents[2]
    monkeypatch.setenv("PYTHONPATH", str(root))
    done = 0
    for _ in range(2):
        command = [sys.executable, "-c", MINER, str(repo.path)]
        with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout
            done += int(process.stdout.readline())
            os.kill(process.pid, signal.SIGKILL)
    report = mine(repo)
    assert 0 < done < 1500
    assert report.new == 1500 - done
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        assert [r.subject for r in history.load_records(repository)] == [
            f"add: file {i}" for i in range(1500)
        ]


def test_every_part_of_mining_tells_how_far_it_is(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(context, "_FILLED_AT_ONCE", 350)
    monkeypatch.setattr(step_share, "_TOLD_EVERY", 500)
    fill(repo, 700)
    seen: list[tuple[float, str]] = []
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository, listen=lambda *told: seen.append(told))
        assert [words for _, words in seen] == [
            "", "256/700 commits", "512/700 commits", "700/700 commits",
            "counting lines of 0/700 commits", "counting lines of 350/700 commits",
            "indexing 500/700 commits", "700 new of 700 commits",
        ]  # fmt: skip
        shares = [share for share, _ in seen]
        assert shares == sorted(shares) and (shares[0], shares[-1]) == (0.0, 1.0)
        seen.clear()
        history.mine_commits(repository, listen=lambda *told: seen.append(told))
    assert seen == [(0.0, ""), (1.0, "0 new of 700 commits")]


# --- several processes --------------------------------------------------------------------------------------


@pytest.fixture
def crowd(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Few commits are many here, and a batch is three; the processes that are started."""
    if sys.platform != "linux":
        pytest.skip("no copies of a process here")
    monkeypatch.setattr(pool, "can_fork", lambda: True)  # other tests leave idle threads of libraries behind
    monkeypatch.setattr("gitpeft.history.store._PARALLEL_THRESHOLD", 2)
    monkeypatch.setattr("gitpeft.history.store._BATCH_SIZE", 3)
    started: list[int] = []
    fork = os.fork

    def counted() -> int:
        started.append(fork())
        return started[-1]

    monkeypatch.setattr(os, "fork", counted)
    return started


def stored(repo: Repo, jobs: int) -> tuple[MiningReport, str]:
    """Mine into an empty database with a salt of zeros, and all that is then in it."""
    repository = Repository.open(repo.path)
    for path in repository.state_dir.glob("history.*"):
        path.unlink()
    with History.open(repository.state_dir) as history:
        history._db.execute(f"UPDATE setting SET value = '{'0' * 32}'")
        history._db.commit()
        report = history.mine_commits(repository, jobs=jobs)
        return replace(report, seconds=0), "\n".join(history._db.iterdump())


def various(repo: Repo) -> None:
    """Commits of every kind: root, merge, rename, binary, empty, another encoding, a secret, a revert."""
    repo.commit("feat: start", **{"a.py": "def f():\n    x = 1\n", "b.txt": "1\n" * 20})
    merge_side(repo)
    repo.git("mv", "b.txt", "c.txt")
    repo.commit("refactor: rename b", **{"a.py": "def f():\n    x = 2\n"})
    repo.commit("add: image", image=b"\0\1" * 99)
    repo.git("commit", "-q", "--allow-empty", "-m", "chore: nothing\n\nFixes #12")
    repo.commit("add: caf\u00e9", **{"caf\u00e9.txt": "na\u00efve\n".encode("latin-1")})
    repo.commit("add: password", s="password = 'hunt3r22'\n")
    for i in range(9):
        repo.commit(f"fix: number {i}", **{"a.py": f"def f():\n    x = {i + 3}\n", "big": "x\n" * 200 * i})
    repo.git("revert", "--no-edit", "HEAD")


def test_several_processes_store_what_one_stores(repo: Repo, crowd: list[int]) -> None:
    various(repo)
    alone = stored(repo, jobs=1)
    assert crowd == []
    for jobs in (2, 3):
        assert stored(repo, jobs) == alone
    assert len(crowd) == 5
    assert alone[0].new == 19


@pytest.mark.parametrize("filter", ["blob:limit=1k", "blob:none", "tree:0"])
def test_several_processes_count_what_is_missing(
    repo: Repo, tmp_path: Path, crowd: list[int], filter: str
) -> None:
    various(repo)
    clone = partial_clone(repo, tmp_path / "clone", filter)
    together, rows = stored(clone, jobs=2)
    assert len(crowd) == 2
    alone, same = stored(clone, jobs=1)
    assert together == alone
    assert set(together.skipped) == {"missing"} and together.total == 19
    assert len(rows) == len(same)


def test_several_processes_meet_a_shallow_clone(repo: Repo, tmp_path: Path, crowd: list[int]) -> None:
    various(repo)
    clone = repo.clone(tmp_path / "clone", "--depth", "9")
    together, _ = stored(clone, jobs=2)
    assert (together.new, together.total, together.skipped) == (8, 9, {"shallow": 1})
    assert len(crowd) == 2


def test_few_commits_are_read_here(repo: Repo, crowd: list[int], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("gitpeft.history.store._PARALLEL_THRESHOLD", 20)
    various(repo)
    assert mine(repo).new == 19
    assert crowd == []


def test_a_killed_process_costs_a_batch(
    repo: Repo, crowd: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    various(repo)
    row = _CommitPacker.pack_record

    def killed(self: _CommitPacker, commit: Commit) -> tuple[object, ...]:
        if commit.subject == "fix: number 0" and parent != os.getpid():
            os.kill(os.getpid(), signal.SIGKILL)
        return row(self, commit)

    parent = os.getpid()
    monkeypatch.setattr(_CommitPacker, "pack_record", killed)
    with pytest.raises(GitpeftError, match="killed") as caught:
        mine(repo)
    assert "what was read so far is kept" in caught.value.hint
    assert len(crowd) == 2
    for pid in crowd:
        with pytest.raises(ChildProcessError):  # none is left; other tests may have left theirs
            os.waitpid(pid, os.WNOHANG)
    monkeypatch.setattr(_CommitPacker, "pack_record", row)
    report = mine(repo)
    assert (report.total, report.skipped) == (19, {})
    assert 0 < report.new < 19


def living(group: int) -> list[str]:
    """The processes of a group; not those that have ended and that nobody has collected yet."""
    found = []
    for entry in Path("/proc").glob("[0-9]*/stat"):
        with contextlib.suppress(OSError):
            state, _, member_of = entry.read_text().rpartition(")")[2].split()[:3]
            if int(member_of) == group and state != "Z":
                found.append(entry.parent.name)
    return found


INTERRUPTED = """
import select, signal, sys
from gitpeft.history import context, store as history
from gitpeft.cli import main
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
history._PARALLEL_THRESHOLD, history._BATCH_SIZE = 2, 3
store = context.store_changes
def slow(db, changes):
    store(db, changes)
    print("stored", file=sys.stderr, flush=True)
    while not select.select([sys.stdin], [], [], 0.05)[0]:
        pass  # a signal just before a read that blocks would go unnoticed
    sys.stdin.readline()
context.store_changes = slow
sys.argv = ["gitpeft", "mine", "--repo", sys.argv[1]]
main()
"""


def test_ctrl_c_ends_all_and_keeps_what_was_read(
    repo: Repo, crowd: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    various(repo)
    monkeypatch.setenv("PYTHONPATH", str(Path(__file__).resolve().parents[2]))
    command = [sys.executable, "-c", INTERRUPTED, str(repo.path)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stderr=subprocess.PIPE, start_new_session=True
    ) as process:
        assert process.stdin and process.stderr and process.stderr.readline() == b"gitpeft: Reading history\n"
        assert process.stderr.readline() == b"stored\n"
        process.stdin.write(b"\n")
        process.stdin.flush()
        while b"stored" not in (line := process.stderr.readline()):
            assert line
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does
        said = process.stderr.read()
    assert process.returncode == 130
    assert b"Traceback" not in said
    until = time.monotonic() + 20
    while (left := living(process.pid)) and time.monotonic() < until:
        time.sleep(0.05)
    assert not left
    report = mine(repo)
    assert (report.total, report.skipped) == (19, {})
    assert 0 < report.new < 19
