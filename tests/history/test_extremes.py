"""Too many files, lines, branches or worktrees: read in bounded time and memory.

With `pytest -m slow -s` each test prints a row of a table: what its commands took.
"""

import json
import os
import subprocess
import sys
import time
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


class Meter:
    """Runs commands in a folder; notes of each the processor seconds, the MiB at the peak, and all seconds.

    Git's are included. No peak is below that of the process that measures.
    """

    def __init__(self, cwd: Path) -> None:
        self.cwd = cwd
        self.spent: dict[str, tuple[float, float, float]] = {}

    def gitpeft(self, *arguments: str, cwd: Path | None = None) -> str:
        """What a command of gitpeft prints; it must end well."""
        return self._run([sys.executable, "-m", "gitpeft", *arguments], arguments[0], cwd or self.cwd)

    def commit(self, file: Path) -> None:
        """A commit of one more line, with the hook; nothing may be in its log."""
        file.write_text(file.read_text() + "b = 2\n")
        subprocess.run(["git", "add", file.name], cwd=self.cwd, check=True, env=os.environ | {"GITPEFT": "0"})
        self._run(["git", "commit", "-q"], "commit with the hook", self.cwd)
        log = self.cwd / ".git" / "gitpeft" / "hook.log"
        assert not log.exists(), log.read_text()
        written = subprocess.run(
            ["git", "log", "-1", "--format=%B"], cwd=self.cwd, check=True, stdout=subprocess.PIPE
        )
        assert len(written.stdout.split(b"\n")) > 2  # beside the editor's line there is one that was offered

    def print_row(self, what: str) -> None:
        """A row of a markdown table."""
        cells = [
            f"{name} {seconds:.1f} s ({processor:.1f}), {memory:,.0f} MiB"
            for name, (processor, memory, seconds) in self.spent.items()
        ]
        print(f"\n| {what} | {'; '.join(cells)} | {os.getloadavg()[0]:.0f} |")

    def _run(self, command: list[str], name: str, cwd: Path) -> str:
        environment = os.environ | {
            "PYTHONPATH": str(Path(__file__).resolve().parents[2]),
            "GITPEFT_BASE": "mini",
            "GIT_EDITOR": "sed -i '1s/^/Add a value\\n/'",
            "CI": "",
        }
        start = time.monotonic()
        with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, env=environment) as process:
            assert process.stdout
            said = process.stdout.read().decode()
            _, status, usage = os.wait4(process.pid, 0)
            process.returncode = os.waitstatus_to_exitcode(status)
        assert process.returncode == 0, said
        while name in self.spent:
            name += " again"
        processor, memory = usage.ru_utime + usage.ru_stime, usage.ru_maxrss / 1024
        self.spent[name] = processor, memory, time.monotonic() - start
        return said


def let_answers_take_long(repo: Repo) -> None:
    """How long an answer takes on a busy machine is not the question, nor whether it is likely to fit."""
    repo.git("config", "gitpeft.timeoutMs", "30000")
    repo.git("config", "gitpeft.minScore", "0")


def start_model(repo: Repo) -> Meter:
    """A first commit and a model of it."""
    repo.commit("Start", **{"a.py": "a = 1\n"})
    let_answers_take_long(repo)
    meter = Meter(repo.path)
    meter.gitpeft("init")
    meter.spent.clear()
    return meter


def read_newest(repo: Repo) -> CommitRecord:
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        return history.load_records(repository, newest=1)[0]


def test_twenty_thousand_files_in_one_commit(repo: Repo) -> None:
    meter = start_model(repo)
    parent = repo.git("rev-parse", "HEAD")

    def stream() -> Iterator[bytes]:
        yield f"commit refs/heads/main\n{COMMITTER}data 11\nAdd modules\nfrom {parent}\n".encode()
        for number in range(20_000):
            text = f"def f{number}(x):\n    return x + {number}\n".encode()
            yield b"M 100644 inline src/%d/m%d.py\ndata %d\n%s\n" % (number % 97, number, len(text), text)

    fast_import(repo, stream())
    repo.git("reset", "-q", "--hard", "main")
    meter.gitpeft("mine")
    record = read_newest(repo)
    assert (record.files, record.added, len(record.paths)) == (20_000, 40_000, 20_000)
    assert len(record.change) <= 8000
    meter.gitpeft("risk", "HEAD", "--json")
    assert json.loads(meter.gitpeft("suggest", "HEAD", "--json"))
    meter.print_row("a commit of 20,000 files")
    assert all(seconds < 60 and memory < 1200 for seconds, memory, _ in meter.spent.values()), meter.spent


@pytest.mark.parametrize(("files", "lines"), [(600, 8_000), (1, 4_800_000)])
def test_a_diff_of_300_megabytes(files: int, lines: int, repo: Repo) -> None:
    meter = start_model(repo)
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
    meter.gitpeft("mine")
    record = read_newest(repo)
    # one file of that size is not compared line by line
    assert (record.files, record.added) == (files, files * lines if files > 1 else 0)
    assert len(record.change) <= 8000
    assert json.loads(meter.gitpeft("suggest", "HEAD", "--json"))
    meter.print_row(f"a diff of 300 MB in {files:,} file{'s' * (files > 1)}")
    assert all(seconds < 60 and memory < 1200 for seconds, memory, _ in meter.spent.values()), meter.spent


def test_sixty_thousand_branches(repo: Repo) -> None:
    tip = repo.commit("Start", **{"a.py": "a = 1\n"})
    repo.git("pack-refs", "--all")
    packed = repo.path / ".git" / "packed-refs"
    names = sorted([*(f"refs/heads/topic/{number:05d}" for number in range(60_000)), "refs/heads/main"])
    packed.write_text(
        "# pack-refs with: peeled fully-peeled sorted \n" + "".join(f"{tip} {one}\n" for one in names)
    )
    assert len(repo.git("for-each-ref", "--format=x").split()) == 60_001
    meter = Meter(repo.path)
    let_answers_take_long(repo)
    for command in (("mine",), ("init",), ("status",), ("suggest", "HEAD"), ("risk", "HEAD")):
        meter.gitpeft(*command)
    meter.commit(repo.path / "a.py")
    meter.print_row("60,000 branches")
    assert all(seconds < 30 for seconds, *_ in meter.spent.values()), meter.spent


def test_a_thousand_worktrees_share_one_state(repo: Repo, tmp_path: Path) -> None:
    meter = start_model(repo)
    tip = repo.commit("Add b", **{"b.py": "b = 1\n"})
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
    said = meter.gitpeft("mine", "--until", tip, "--json", cwd=tmp_path / "trees" / "w500")
    assert json.loads(said)["new"] == 1
    assert json.loads(meter.gitpeft("mine", "--json"))["new"] == 0
    meter.gitpeft("status", cwd=tmp_path / "trees" / "w999")
    meter.commit(repo.path / "a.py")
    meter.print_row("1,000 worktrees")
    assert all(seconds < 30 for seconds, *_ in meter.spent.values()), meter.spent
