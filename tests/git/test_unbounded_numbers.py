"""Numbers that git takes without a bound: dates of any size, counts, contents larger than the memory."""

import json
import os
import resource
import subprocess
import sys
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitpeft.git.log import LATEST_TIME, NO_TIME, Commit, parse_time
from gitpeft.git.objects import read_head_and_line_counts, read_line_counts
from gitpeft.git.repository import Repository
from gitpeft.git.streams import stream_commits
from gitpeft.history.store import History
from gitpeft.learn.risk.labelled_history import label_commits
from tests.support.commands import Call
from tests.support.gitrepo import EPOCH, Repo
from tests.support.rawhistory import DATES, RawCommit, write_history
from tests.support.riskhistory import history

FACES = [
    ("18446744073709548016 +0100", NO_TIME),  # 1970-01-01T00:00:00+0100, as git stores it
    ("99999999999999999999999999 +0000", NO_TIME),
    ("9" * 5000 + " +0000", NO_TIME),  # more digits than Python converts
    ("9223372036854775807 +0000", LATEST_TIME),
    ("253402300800 +0000", LATEST_TIME),
    ("253402300799 +0000", LATEST_TIME),
    ("1700000000 +0000", 1_700_000_000),
    ("-1 +0000", NO_TIME),
    ("", NO_TIME),
]


@pytest.mark.parametrize(("date", "time"), FACES, ids=[date[:24] or "none" for date, _ in FACES])
def test_unbounded_numbers_dates_are_read_and_mined(repo: Repo, date: str, time: int) -> None:
    write_history(
        repo,
        [
            RawCommit(files={b"a.py": b"1\n"}),
            RawCommit(author_date=date.encode(), committer_date=date.encode(), files={b"a.py": b"2\n"}),
            RawCommit(files={b"a.py": b"3\n"}),
        ],
    )
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        report = history.mine_commits(repository)
        records = history.load_records(repository)
        with history.context_before(repository, repository.resolve_head()) as context:
            assert context.find_last_change_time("a.py", LATEST_TIME) == max(time, 1_700_000_000)
    assert (report.new, report.skipped) == (3, {})
    assert report.undated == (0 if time == 1_700_000_000 else 1)
    assert [(record.time, record.commit_time) for record in records][1] == (time, time)


def test_unbounded_numbers_before_1970_nothing_ends_with_a_bug(repo: Repo, gitpeft: Call) -> None:
    for number in range(6):
        repo.commit(f"Add step {number}", **{"a.py": f"x = {number}\n"})
    repo.git("commit", "-q", "--allow-empty", "-m", "Old", "--date=1970-01-01T00:00:00+0100")
    repo.stage(**{"a.py": "y = 1\n"})
    mined = gitpeft("mine", "--repo", repo.path)
    assert mined.code == 0 and "7 new of 7 commits" in mined.out
    assert "1 with a date that no clock can show" in mined.out
    for command in (["risk", "HEAD"], ["risk", "--staged"], ["status"], ["backtest"]):
        assert gitpeft(*command, "--repo", repo.path).code in (0, 1), command


def test_unbounded_numbers_a_staged_change_is_never_millions_of_years_later(
    repo: Repo, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.commit("Start", **{"a.py": "1\n"})
    repo.stage(**{"a.py": "2\n"})
    monkeypatch.setenv("GIT_AUTHOR_DATE", "1970-01-01T00:30:00+0100")
    found = json.loads(gitpeft("risk", "--staged", "--json", "--explain", "--repo", repo.path).out)
    first = datetime.fromtimestamp(repo.clock, UTC)
    assert found["metrics"]["age"] <= (datetime.now(UTC) - first).days + 1


def test_unbounded_numbers_a_content_is_counted_without_being_held(repo: Repo) -> None:
    """A renamed file of 200 MB is counted in a process that may not hold it."""
    with open(repo.path / "big.txt", "wb") as file:
        for _ in range(200):
            file.write((b"x" * 1023 + b"\n") * 1024)
    repo.git("-c", "core.compression=0", "add", "big.txt")
    program = (
        "import resource, sys; from pathlib import Path\n"
        "from gitpeft.git.repository import Repository\nfrom gitpeft.git.objects import read_line_counts\n"
        "before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss\n"
        "print(read_line_counts(Repository.open(Path(sys.argv[1])), [':big.txt', ':none']))\n"
        "print((resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) // 1024)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-c", program, str(repo.path)], env=env, capture_output=True, text=True, check=True
    )
    counts, grown = done.stdout.split("\n")[:2]
    assert counts == "{':big.txt': 0}"  # binary to git, by its size
    assert int(grown) < 60 and resource.RLIMIT_AS


def test_unbounded_numbers_a_commit_without_a_date_teaches_no_risk() -> None:
    measured, found = history(60, 1, 0.9)
    measured[7] = replace(measured[7], change=replace(measured[7].change, time=NO_TIME))
    measured[9] = replace(measured[9], change=replace(measured[9].change, time=LATEST_TIME))
    now = measured[-1].change.time
    labelled = label_commits(measured, found, now)
    assert not {measured[7].sha, measured[9].sha} & set(labelled.shas)
    assert labelled.times.min() >= EPOCH and labelled.times.max() <= now


def _check_dates(tmp_path_factory: pytest.TempPathFactory, dates: list[tuple[bytes, bytes]]) -> None:
    repo = Repo.create(tmp_path_factory.mktemp("dates") / "repo")
    shas = write_history(repo, [RawCommit(author_date=one, committer_date=other) for one, other in dates])
    repository = Repository.open(repo.path)
    found = {one.sha: one for one in stream_commits(repository, shas) if isinstance(one, Commit)}
    printed = repo.run("log", "-z", "--format=%H%x00%at%x00%ct").stdout.split(b"\0")
    assert len(found) == len(shas)
    for sha, author, committer in zip(printed[::3], printed[1::3], printed[2::3], strict=False):
        one = found[sha.decode()]
        for time, said in ((one.time, author), (one.commit_time, committer)):
            assert NO_TIME <= time <= LATEST_TIME
            if said.isdigit() and int(said) <= LATEST_TIME:
                assert time == int(said)
            else:
                assert time in (NO_TIME, LATEST_TIME)
    with History.open(repository.state_dir) as history:
        assert history.mine_commits(repository).new == len(shas)


@given(st.lists(st.tuples(DATES, DATES), min_size=1, max_size=8))
@settings(max_examples=12)
def test_unbounded_numbers_any_date_is_bounded_and_agrees_with_git(
    tmp_path_factory: pytest.TempPathFactory, dates: list[tuple[bytes, bytes]]
) -> None:
    _check_dates(tmp_path_factory, dates)


@pytest.mark.slow
@given(st.lists(st.tuples(DATES, DATES), min_size=1, max_size=8))
@settings(max_examples=150)
def test_unbounded_numbers_any_date_is_bounded_and_agrees_with_git_at_length(
    tmp_path_factory: pytest.TempPathFactory, dates: list[tuple[bytes, bytes]]
) -> None:
    _check_dates(tmp_path_factory, dates)


@given(st.text(max_size=60) | st.integers(0, 2**80).map(str))
def test_unbounded_numbers_no_text_breaks_a_time(text: str) -> None:
    assert NO_TIME <= parse_time(text) <= LATEST_TIME
    assert NO_TIME <= parse_time(text.encode(errors="replace")) <= LATEST_TIME


@given(st.lists(st.binary(max_size=300), max_size=6))
@settings(max_examples=15)
def test_unbounded_numbers_lines_are_those_of_the_content(
    tmp_path_factory: pytest.TempPathFactory, contents: list[bytes]
) -> None:
    repo = Repo.create(tmp_path_factory.mktemp("lines") / "repo")
    shas = [repo.git("hash-object", "-w", "--stdin", input=raw) for raw in contents]
    expected = {
        sha: 0 if b"\0" in raw else len(raw.split(b"\n")) - (raw[-1:] in (b"", b"\n"))
        for sha, raw in zip(shas, contents, strict=True)
    }
    repository = Repository.open(repo.path)
    assert read_line_counts(repository, [*shas, "0" * 40]) == expected
    assert read_head_and_line_counts(repository, shas) == (None, expected)
