"""Too many files, lines, branches or worktrees: read in bounded time and memory."""

import json
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from gitpeft.git.repository import Repository
from gitpeft.history.store import CommitRecord, History
from tests.support.gitrepo import Repo

pytestmark = [pytest.mark.slow, pytest.mark.timeout(1800)]

COMMITTER = "committer Ada <ada@example.org> 1700000000 +0000\n"


def fast_import(repo: Repo, stream: Iterator[bytes]) -> None:
    """Feed `git fast-import`, a part at a time."""
    with subprocess.Popen(
        ["git", "fast-import", "--quiet", "--force"], cwd=repo.path, stdin=subprocess.PIPE
    ) as process:
        assert process.stdin
        for part in stream:
            process.stdin.write(part)
        process.stdin.close()
    assert process.returncode == 0


def measure(cwd: Path, *arguments: str) -> tuple[str, float, float]:
    """What a command prints, its processor seconds, git's included, and its peak memory in MiB."""
    environment = os.environ | {"PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-m", "gitpeft", *arguments]
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, env=environment) as process:
        assert process.stdout
        said = process.stdout.read().decode()
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    assert process.returncode == 0, said
    return said, usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024


def read_newest(repo: Repo) -> CommitRecord:
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        return history.load_records(repository, newest=1)[0]


def test_twenty_thousand_files_in_one_commit(repo: Repo) -> None:
    repo.commit("Start", **{"a.py": "a = 1\n"})
    parent = repo.git("rev-parse", "HEAD")

    def stream() -> Iterator[bytes]:
        yield f"commit refs/heads/main\n{COMMITTER}data 11\nAdd modules\nfrom {parent}\n".encode()
        for number in range(20_000):
            text = f"def f{number}(x):\n    return x + {number}\n".encode()
            yield b"M 100644 inline src/%d/m%d.py\ndata %d\n%s\n" % (number % 97, number, len(text), text)

    fast_import(repo, stream())
    repo.git("reset", "-q", "--hard", "main")
    _, seconds, memory = measure(repo.path, "mine")
    record = read_newest(repo)
    assert (record.files, record.added, len(record.paths)) == (20_000, 40_000, 20_000)
    assert len(record.change) <= 8000
    _, risk_seconds, _ = measure(repo.path, "risk", "HEAD", "--json")
    assert seconds < 40 and risk_seconds < 60 and memory < 600, (seconds, risk_seconds, memory)


@pytest.mark.parametrize(("files", "lines"), [(600, 8_000), (1, 4_800_000)])
def test_a_diff_of_300_megabytes(files: int, lines: int, repo: Repo) -> None:
    repo.commit("Start", **{"a.py": "a = 1\n"})
    parent = repo.git("rev-parse", "HEAD")
    line = b"1f3c,%07d,some measured value,42,0.000,xxxxxxxxxxxxxxxxxxxx\n"

    def stream() -> Iterator[bytes]:
        yield f"commit refs/heads/main\n{COMMITTER}data 8\nAdd data\nfrom {parent}\n".encode()
        for file in range(files):
            yield b"M 100644 inline data/d%d.csv\ndata %d\n" % (file, lines * len(line % 0))
            for start in range(0, lines, 8000):
                yield b"".join(line % (file * lines + number) for number in range(start, start + 8000))
            yield b"\n"

    fast_import(repo, stream())
    repo.git("reset", "-q", "--hard", "main")
    _, seconds, memory = measure(repo.path, "mine")
    record = read_newest(repo)
    # one file of that size is not compared line by line
    assert (record.files, record.added) == (files, files * lines if files > 1 else 0)
    assert len(record.change) <= 8000
    assert seconds < 60 and memory < 600, (seconds, memory)


def test_sixty_thousand_branches(repo: Repo) -> None:
    tip = repo.commit("Start", **{"a.py": "a = 1\n"})
    repo.git("pack-refs", "--all")
    packed = repo.path / ".git" / "packed-refs"
    names = sorted([*(f"refs/heads/topic/{number:05d}" for number in range(60_000)), "refs/heads/main"])
    packed.write_text(
        "# pack-refs with: peeled fully-peeled sorted \n" + "".join(f"{tip} {one}\n" for one in names)
    )
    assert len(repo.git("for-each-ref", "--format=x").split()) == 60_001
    spent = {}
    for command in (("mine",), ("init", "--no-hooks"), ("status",), ("suggest", "HEAD"), ("risk", "HEAD")):
        _, spent[command[0]], _ = measure(repo.path, *command)
    assert all(seconds < 30 for seconds in spent.values()), spent


def test_a_thousand_worktrees_share_one_state(repo: Repo, tmp_path: Path) -> None:
    repo.commit("Start", **{"a.py": "a = 1\n"})
    tip = repo.git("rev-parse", "HEAD")
    for number in range(1000):  # as `git worktree add` leaves them, which takes ten times as long
        name, place = f"w{number}", tmp_path / "trees" / f"w{number}"
        own = repo.path / ".git" / "worktrees" / name
        for folder in (own, place):
            folder.mkdir(parents=True)
        (own / "HEAD").write_text(f"{tip}\n")
        (own / "commondir").write_text("../..\n")
        (own / "gitdir").write_text(f"{place / '.git'}\n")
        (place / ".git").write_text(f"gitdir: {own}\n")
    assert len(repo.git("worktree", "list", "--porcelain").split("worktree ")) == 1002
    spent = {}
    _, spent["mine"], _ = measure(tmp_path / "trees" / "w500", "mine", "--until", tip)
    said, spent["mine again"], _ = measure(repo.path, "mine", "--json")
    assert json.loads(said)["new"] == 0
    _, spent["status"], _ = measure(tmp_path / "trees" / "w999", "status")
    assert all(seconds < 30 for seconds in spent.values()), spent
