"""The clock of a change: one moment for hook and replay, periods that end at it, dates out of order."""

import time
from pathlib import Path

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gitpeft.config import Config
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn.risk.labelled_history import build_labelled_commits
from gitpeft.learn.risk.metric_replay import measure_history
from gitpeft.risk.assessor import RiskReport, assess_revision
from gitpeft.risk.change_metrics import DAY_SECONDS, compute_change_metrics
from tests.support.gitrepo import EPOCH, Repo

_YEAR = 365 * DAY_SECONDS


def assessed(repo: Repo, rev: str | None = None) -> RiskReport:
    [report] = assess_revision(Repository.open(repo.path), Config(), rev)
    return report


def fixed_in_2021(repo: Repo) -> int:
    """Three fixes in May 2021; returns the moment of the last one."""
    repo.clock = 1_620_000_000
    for number in range(3):
        repo.commit(f"Fix crash {number}", **{"a.py": f"x = {number}\n"})
    return repo.clock - 3600


def test_the_authors_date_of_a_staged_change_is_not_its_moment(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A hook inherits `GIT_AUTHOR_DATE` from `git commit --date`; `git log --since=1.year` does not care."""
    fixed_in_2021(repo)
    repo.stage(**{"a.py": "x = 9\n"})
    for date in ("2021-06-01T00:00Z", "1970-01-01T00:30:00+0100", "2099-01-01T00:00Z"):
        monkeypatch.setenv("GIT_AUTHOR_DATE", date)
        report = assessed(repo)
        assert report.metrics is not None and report.metrics.fixes == 0
        assert [one.kind for one in report.evidence if one.kind != "size"] == ["age"]


def test_a_staged_change_is_judged_as_the_commit_that_it_becomes(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a committer's date of its own too, as `git rebase --committer-date-is-author-date` sets it."""
    last = fixed_in_2021(repo)
    repo.stage(**{"a.py": "x = 9\n"})
    monkeypatch.setenv("GIT_COMMITTER_DATE", f"{last + 40 * DAY_SECONDS} +0300")
    staged = assessed(repo)
    repo.clock = last + 40 * DAY_SECONDS
    repo.commit("Anything")
    committed = assessed(repo, "HEAD")
    assert staged.metrics is not None and staged.metrics.fixes == 3 and round(staged.metrics.age) == 40
    assert staged.metrics == committed.metrics


def test_an_amended_commit_keeps_the_authors_date_and_has_a_new_moment(repo: Repo) -> None:
    last = fixed_in_2021(repo)
    repo.commit("Old work", **{"a.py": "x = 9\n"})
    repo.clock = last + 2 * _YEAR
    repo.git(
        "commit", "-q", "--amend", "--allow-empty", "-m", "Old work", env={"GIT_AUTHOR_DATE": f"{last} +0000"}
    )
    report = assessed(repo, "HEAD")
    assert report.metrics is not None and report.metrics.fixes == 0 and report.metrics.age > 700


def test_a_commit_from_the_future_is_in_no_period_before(repo: Repo) -> None:
    repo.clock = EPOCH + 20 * _YEAR
    repo.commit("Fix the clock", **{"a.py": "1\n"})
    repo.clock = EPOCH
    repo.commit("Fix it", **{"a.py": "2\n"})
    repo.commit("Change", **{"a.py": "3\n"})
    report = assessed(repo, "HEAD")
    assert report.metrics is not None
    assert (report.metrics.nuc, report.metrics.fixes, report.metrics.recent) == (2, 1, 1)
    assert report.metrics.age == pytest.approx(3600 / DAY_SECONDS)


def test_a_period_holds_its_first_and_its_last_second(repo: Repo) -> None:
    for moment in (EPOCH - _YEAR - 1, EPOCH - _YEAR, EPOCH, EPOCH + 1):
        repo.clock = moment
        repo.commit(f"Fix {moment}", **{"a.py": f"{moment}\n"})
    repo.clock = EPOCH
    repo.commit("Change", **{"a.py": "9\n"})
    report = assessed(repo, "HEAD")
    assert report.metrics is not None and report.metrics.fixes == 2


def test_without_a_date_in_the_environment_the_clock_counts(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("GIT_COMMITTER_DATE", raising=False)
    opened = Repository.open(repo.path)
    assert abs(opened.read_commit_time() - time.time()) < 5


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    steps=st.lists(
        st.tuples(st.sampled_from("ab"), st.booleans(), st.integers(-800, 800)), min_size=2, max_size=9
    )
)
def test_hook_replay_and_git_agree_with_dates_out_of_order(
    tmp_path_factory: pytest.TempPathFactory, steps: list[tuple[str, bool, int]]
) -> None:
    repo = Repo.create(tmp_path_factory.mktemp("clock") / "repo")
    shas = import_commits(repo, steps)
    opened = Repository.open(repo.path)
    with History.open(Path(opened.state_dir)) as history:
        history.mine_commits(opened)
        replayed = measure_history(history, opened)
        assert [one.change.time for one in replayed] == sorted(one.change.time for one in replayed)
        assert {one.sha for one in replayed} == set(shas)
        for one in replayed:
            at = shas.index(one.sha)
            with history.context_before(opened, shas[at - 1] if at else None) as context:
                assert compute_change_metrics(context, one.change) == one.metrics
            path, _, days = steps[at]
            now = EPOCH + days * DAY_SECONDS
            log = repo.git("log", "--format=%ct %s", one.sha + "^", "--", path) if at else ""
            past = [(int(line.split()[0]), line.split()[1]) for line in log.splitlines()]
            year = [what for moment, what in past if now - _YEAR <= moment <= now]
            assert (one.metrics.nuc, one.metrics.fixes) == (len(past), year.count("Fix"))
            last = max((moment for moment, _ in past if moment <= now), default=now)
            assert one.metrics.age == pytest.approx((now - last) / DAY_SECONDS)


def import_commits(repo: Repo, steps: list[tuple[str, bool, int]]) -> list[str]:
    text = []
    for number, (path, fix, days) in enumerate(steps):
        subject = f"{'Fix' if fix else 'Change'} {number}"
        text += [
            f"commit refs/heads/main\nmark :{number + 1}\ncommitter T <t@example.org> "
            f"{EPOCH + days * DAY_SECONDS} +0000\ndata {len(subject)}\n{subject}",
            f"M 100644 inline {path}\ndata {len(str(number))}\n{number}\n",
        ]
    repo.git("fast-import", "--quiet", "--export-marks=marks", input="\n".join(text) + "\n")
    marks = (repo.path / "marks").read_text().splitlines()
    return [sha for _, sha in sorted((int(mark[1:]), sha) for mark, sha in map(str.split, marks))]


def test_labelled_commits_stand_in_the_order_of_their_moments(repo: Repo) -> None:
    steps = [("a", False, days) for days in (3, 1, 2, 9, 4)]
    import_commits(repo, steps)
    opened = Repository.open(repo.path)
    with History.open(Path(opened.state_dir)) as history:
        history.mine_commits(opened)
        measured = measure_history(history, opened)
    labelled = build_labelled_commits(measured, np.zeros(5), None)
    assert list(labelled.times) == sorted(labelled.times)
