"""The backtest: what it counts, what its page holds, and what it says when there is too little."""

import json
import re
from dataclasses import replace
from datetime import UTC, datetime
from html.parser import HTMLParser
from pathlib import Path
from types import SimpleNamespace
from typing import Any, ClassVar
from xml.etree import ElementTree

import numpy as np
import pytest

from gitpeft.bundle import registry
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn import charts
from gitpeft.learn.risk import backtest, backtest_commits, backtest_page, prequential
from gitpeft.learn.risk.backtest import BacktestPeriod
from gitpeft.learn.risk.backtest_page import render_backtest_page
from gitpeft.learn.risk.backtest_report import BacktestReport, JudgedCommit, format_backtest_summary
from gitpeft.learn.risk.classifiers import Array, LabelledCommits
from gitpeft.learn.risk.metric_replay import MeasuredCommit
from gitpeft.risk import dismissals
from gitpeft.risk.change_metrics import DAY_SECONDS, ChangeMetrics
from gitpeft.risk.encoder import EncoderScore
from gitpeft.risk.model import (
    LINES_ADDED,
    LOGISTIC_REGRESSION,
    METRICS_AND_WORDS,
    METRICS_WORDS_AND_ENCODER,
    PRIOR,
    PRIOR_AND_OWN,
    TUNED_ENCODER,
    RiskModel,
)
from tests.support import tinymodel
from tests.support.commands import Call
from tests.support.gitrepo import Repo
from tests.support.riskhistory import Found, history, play
from tests.support.risky import change_core, fixed_often, give


def look_back(repo: Repo, sha: str, months: int) -> backtest.RiskBacktest:
    return backtest.run_risk_backtest(
        Repository.open(repo.path), BacktestPeriod(sha, months, 10), lambda *_: None
    )


@pytest.fixture(scope="module")
def looked(
    tmp_path_factory: pytest.TempPathFactory,
) -> tuple[backtest.RiskBacktest, list[MeasuredCommit], Found]:
    repo = Repo.create(tmp_path_factory.mktemp("looked") / "repo")
    measured, found = history(910, 1, 0.9)
    found.known[measured[-5].sha] = measured[-1].change.time  # a fix that came early
    sha = repo.commit("start", a="1\n")
    with pytest.MonkeyPatch.context() as patch:
        play(patch, measured, found)
        return look_back(repo, sha, 12), measured, found


def test_what_is_counted(looked: tuple[backtest.RiskBacktest, list[MeasuredCommit], Found]) -> None:
    done, measured, found = looked
    data: Any = done.report.as_dict()
    now = measured[-1].change.time
    since = now - 10 * DAY_SECONDS - 12 * backtest.MONTH
    judged = [
        one for one in measured if one.change.time >= since and one.change.time <= now - 10 * DAY_SECONDS
    ]
    early = [one.sha for one in measured if one.change.time > now - 10 * DAY_SECONDS]
    assert len(early) == data["young"] == 10 and data["wait_days"] == 10
    assert found.bugs_known_at(now).intersection(early), "else there would be nothing to leave out"
    assert not {one["commit"] for one in data["flags"] + data["bugs"]}.intersection(early)
    assert data["commits"] == len(judged) and data["left_out"] == len(
        [one for one in measured if one.change.time > since]
    ) - len(judged)
    assert data["buggy"] == sum(one.sha in found.bugs_known_at(now) for one in judged)
    shipped = data["models"][data["chosen"]]
    assert data["chosen"] == PRIOR_AND_OWN and len(data["flags"]) == shipped["flagged"]
    right = [flag for flag in data["flags"] if flag["commit"] in found.bugs_known_at(now)]
    assert shipped["right"] == len(right) == sum(bool(flag["fixed_by"]) for flag in data["flags"])
    assert all(flag["fixed_by"] == f"f{flag['commit'][1:]}" for flag in right)
    assert shipped["precision"] == pytest.approx(len(right) / len(data["flags"]))
    weeks = (judged[-1].change.time - judged[0].change.time) / (7 * DAY_SECONDS)
    assert shipped["false_alarms_a_week"] == pytest.approx((len(data["flags"]) - len(right)) / weeks)
    assert [flag["time"] for flag in data["flags"]] == sorted(
        (f["time"] for f in data["flags"]), reverse=True
    )
    assert sum(month["commits"] for month in shipped["drift"]) == len(judged)
    assert all(month["buggy"] >= 10 for month in shipped["drift"] if month["auc"] is not None)
    assert 0.03 < shipped["flagged"] / len(judged) < 0.2  # a budget of a tenth, on commits it has not seen


def test_what_is_not_counted_is_told(
    looked: tuple[backtest.RiskBacktest, list[MeasuredCommit], Found],
) -> None:
    said = "Not counted: 10 commits of the 10 days since, too new (half of the fixes take longer)"
    assert said in "\n".join(format_backtest_summary(looked[0].report)) and said in looked[0].page
    day = datetime.fromtimestamp(looked[1][-11].change.time, UTC).strftime("%Y-%m-%d")
    assert f"repo, 12 months up to {day}: " in looked[0].page


def test_each_bug_is_caught_or_missed_and_each_month_counted(
    looked: tuple[backtest.RiskBacktest, list[MeasuredCommit], Found],
) -> None:
    report = looked[0].report
    assert len(report.caught) + len(report.missed) == len(report.bugs) == report.buggy
    assert {one.commit for one in report.caught} == {one.commit for one in report.bugs if one.flagged}
    months = report.by_month
    for total, name in (
        (report.commits, "commits"),
        (report.buggy, "buggy"),
        (len(report.flags), "flagged"),
        (len(report.caught), "caught"),
        (len(report.missed), "missed"),
        (report.quiet.n, "quiet"),
    ):
        assert sum(getattr(month, name) for month in months) == total, name
    assert [month.month for month in months] == sorted({month.month for month in months})
    zone = report.quiet
    assert zone.below is not None and 0 < zone.n < zone.commits < report.commits
    assert len(report.let_through) == zone.bugs <= 0.05 * zone.of
    assert not any(one.quiet and one.flagged for one in report.bugs)


def test_the_page_shows_each_list(
    looked: tuple[backtest.RiskBacktest, list[MeasuredCommit], Found],
) -> None:
    report, text = looked[0].report, looked[0].page
    for title in ("flagged commits", "Missed bugs", "Quiet: let through", "By month", "Calibration"):
        assert title in text
    for one in (*report.caught[:3], *report.missed[:3], *report.let_through[:3]):
        assert f"<code>{one.commit[:10]}</code>" in text and f"<code>{one.fixed_by[:10]}</code>" in text
    summary = "\n".join(format_backtest_summary(report))
    assert f"met {len(report.caught)} of the {report.buggy} bugs" in summary
    assert "called quiet" in summary and "Missed (" in summary


def test_evidence_is_that_of_the_time_and_a_dismissed_bug_is_told(repo: Repo) -> None:
    fixed_often(repo)
    give(repo)
    change_core(repo)
    repo.git("commit", "-q", "-m", "large")
    sha, repository = repo.git("rev-parse", "HEAD"), Repository.open(repo.path)
    dismissed = dismissals.Dismissal("src/core.py", "", "reviewed", repo.clock, repo.clock + DAY_SECONDS)
    dismissals.change_own_dismissals(repository, repo.clock, [dismissed], [])
    for number in range(3):
        repo.commit("fix: later", **{"src/core.py": f"{number}\n"})
    block = SimpleNamespace(
        block=SimpleNamespace(shas=(sha,)), before=SimpleNamespace(metrics=[ChangeMetrics()])
    )
    judged = JudgedCommit(sha, repo.clock, "f" * 40, "large <b>", flagged=True, fix_subject="fix: later")
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository)
        trial: Any = SimpleNamespace(parts=(block,))
        [one] = backtest_commits.add_past_facts(repository, history, trial, [judged])
    assert "src/core.py: 5 of its 7 changes in the last year were fixes" in one.evidence
    assert one.dismissed == "reviewed"
    report = BacktestReport(
        "demo", "HEAD", 1, 10, 1, 1, 0, 0, None, flags=[one], bugs=[one], dismissed=[one], off="<off>"
    )
    assert "Dismissed: 1 change dismissed, 1 of them fixed later all the same." in format_backtest_summary(
        report
    )
    page = render_backtest_page(trial, report)
    assert "<h2>Dismissed</h2>" in page and "large &lt;b&gt;" in page and "large <b>" not in page
    assert "<li>src/core.py: 5 of its 7 changes in the last year were fixes</li>" in page


def test_what_names_do_not_say_is_explained(
    looked: tuple[backtest.RiskBacktest, list[MeasuredCommit], Found],
) -> None:
    page, report = looked[0].page, looked[0].report
    assert "“prior”: learnt from public histories; “prior and own history”: " in page
    [verdict] = [line for line in format_backtest_summary(report) if line.startswith("Selected")]
    assert "prior and own history (learnt from public histories, corrected by" in verdict


def test_few_bugs_make_small_differences_uncertain(
    looked: tuple[backtest.RiskBacktest, list[MeasuredCommit], Found],
) -> None:
    report = looked[0].report
    for half, warned in ((0.1, True), (0.01, False)):
        chosen = report.models[report.chosen]
        metrics = {**chosen.metrics, "auc": (0.8, 0.8 - half, 0.8 + half)}
        models = {**report.models, report.chosen: replace(chosen, metrics=metrics)}
        page = backtest_page._render_ablations(replace(report, models=models))
        assert ("uncertain by ±0.10: small differences may be chance" in page) is warned


@pytest.mark.parametrize(
    ("head", "row", "hinted"),
    [
        (["estimated", "commits", "fixed later", "share"], ["7%", "1,068", "42", "8%"], False),
        (["month", *("called quiet",) * 7], ["2026-03", *("1,068",) * 7], True),
        (["metric", "prior"], ["ROC AUC", "0.866 (0.841–0.893)" * 2], True),
        (["a", "b"], [charts.Markup("<code class='a very long name of a class'>x</code>")] * 2, False),
    ],
)
def test_only_tables_that_are_wide_have_a_hint_to_scroll(
    head: list[str], row: list[str], hinted: bool
) -> None:
    assert ("Scroll sideways" in charts.render_table(head, [row])) is hinted
    assert "Scroll" not in charts.render_table(head, [row], "text")


def test_altered_changes(looked: tuple[backtest.RiskBacktest, list[MeasuredCommit], Found]) -> None:
    lines, regression = (
        looked[0].report.models[name].counterfactual for name in (LINES_ADDED, LOGISTIC_REGRESSION)
    )
    assert lines["size held constant"] == 0.5 and lines["added and removed swapped"] == 0.5
    unaltered, bare, same_size = (
        regression[name] or 0 for name in ("unaltered", "message removed", "size held constant")
    )
    assert bare == unaltered > 0.8
    assert same_size > 0.75  # what matters in this history is not size


def test_the_page_is_whole_and_asks_nobody(
    looked: tuple[backtest.RiskBacktest, list[MeasuredCommit], Found],
) -> None:
    text = looked[0].page
    assert not re.search(r"https?://|<script|@import|url\(", text)
    figures = re.findall(r"<svg.*?</svg>", text, re.S)
    assert len(figures) == 3
    assert "AUC by period" not in text, "no single month has the ten bugs that a figure needs"
    for figure in figures:
        ElementTree.fromstring(figure)
        assert "nan" not in figure
    assert len(re.findall(r"<tr>", text)) > 10 + len(looked[0].report.flags[:200])
    HTMLParser().feed(text)
    assert json.loads(json.dumps(looked[0].report.as_dict())) is not None


def test_names_on_a_page_are_text() -> None:
    parts = [
        charts.render_page("<b>", charts.render_table(["<i>"], [["<script>&"]])),
        charts.render_line_chart('"<x>', "<y>", "<z>", {"<name>": [(0, 0), (1, 1)]}),
        charts.render_scatter_plot("<x>", "<y>", "<z>", [], []),
    ]
    assert not re.search(r"<(?:i|script|x|y|z|name|b)>", "".join(parts))
    assert charts.render_line_chart("", "", "", {}) and charts.render_line_chart("", "", "", {"a": [(0, 0)]})


def test_the_command(repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gitpeft: Call) -> None:
    measured, found = history(700, 1, 0.9)
    play(monkeypatch, measured, found)
    repo.commit("start", a="1\n")
    done = gitpeft("backtest", "--repo", repo.path, "--months", "9")
    assert done.code == 0 and "false alarms a week" in done.said and "(selected)" in done.said
    *summary, place = done.out.splitlines()
    assert place.startswith("The page: ") and len(summary) > 10 and max(map(len, summary)) <= 80
    assert (repo.path / ".git" / "gitpeft" / "backtest.html").read_text().startswith("<!doctype html>")
    data: dict[str, Any] = json.loads(
        gitpeft("backtest", "--repo", repo.path, "--json", "--out", tmp_path / "b.html").out
    )
    assert (
        data["months"] == 12
        and Path(data["page"]) == tmp_path / "b.html"
        and data["models"].keys()
        == {
            LINES_ADDED,
            PRIOR,
            PRIOR_AND_OWN,
            LOGISTIC_REGRESSION,
            METRICS_AND_WORDS,
        }
    )
    nowhere = gitpeft("backtest", "--repo", repo.path, "--out", tmp_path / "no" / "b.html")
    assert nowhere.code == 1 and "cannot write" in nowhere.said
    assert gitpeft("backtest", "--repo", repo.path, "--until", "nowhere").code == 1
    assert gitpeft("backtest", "--months", "0").code == 2


def test_an_encoder_stands_beside_the_others(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, gitpeft: Call
) -> None:
    measured, found = history(900, 1, 0.9)
    play(monkeypatch, measured, found)
    repo.commit("start", a="1\n")
    asked: list[tuple[float, int]] = []
    again: list[ChangeMetrics] = []

    class Oracle:
        """Knows what becomes of each commit, and says so of all that came after its lesson."""

        def __init__(self, taught: int) -> None:
            self.taught = taught
            self.reader = self

        def score_change(self, text: str, metrics: ChangeMetrics) -> EncoderScore:
            again.append(metrics)
            return EncoderScore(float(metrics.la > metrics.ld), ())

        def __call__(self, data: LabelledCommits) -> Array:
            return np.where(data.times <= self.taught, np.nan, 8 * data.truth - 4)

    class Teacher:
        notes: ClassVar[list[dict[str, Any]]] = []

        def __init__(self, minutes: float) -> None:
            self.minutes = minutes

        def __call__(self, data: LabelledCommits) -> Oracle:
            held = len(data) // 8
            asked.append((self.minutes, len(data)))
            return Oracle(int(data.times[-held]))

    monkeypatch.setattr(
        "gitpeft.learn.pipeline.make_risk_encoder_trainer", lambda plan, minutes: Teacher(minutes)
    )
    data = json.loads(gitpeft("backtest", "--repo", repo.path, "--tune", "0.5", "--json").out)
    assert len(asked) == 1 and asked[0][0] == 0.5
    assert {TUNED_ENCODER, METRICS_WORDS_AND_ENCODER} <= data["models"].keys() and data["taught"] == []
    assert data["models"][TUNED_ENCODER]["metrics"]["auc"][0] > 0.99
    assert data["commits"] < len(again) <= 2 * data["commits"], "an unaltered change is not read again"
    told = data["models"][TUNED_ENCODER]["counterfactual"]
    assert told["unaltered"] == told["message removed"] > 0.99 > told["added and removed swapped"]
    assert data["unread"] == 0

    monkeypatch.setattr(prequential, "MAX_ENCODER_COMMITS", 100)
    short = json.loads(gitpeft("backtest", "--repo", repo.path, "--tune", "0.5", "--json").out)
    assert short["commits"] == 100 and short["unread"] == data["commits"] - 100
    assert short["left_out"] == data["left_out"]

    monkeypatch.setattr(Teacher, "__call__", lambda self, data: self.notes.append({"why": "too few"}))
    declined = gitpeft("backtest", "--repo", repo.path, "--tune", "1").said
    assert "no encoder: too few" in declined and "are skipped" not in declined
    with registry.hold_training_lock(Repository.open(repo.path).state_dir):
        busy = gitpeft("backtest", "--repo", repo.path, "--tune", "1")
    assert busy.code == 1
    monkeypatch.setattr("gitpeft.learn.pipeline.can_train", lambda: False)
    bare = gitpeft("backtest", "--repo", repo.path, "--tune", "1")
    assert bare.code == 1 and "gitpeft[train] is not installed" in bare.said


def thin_out(measured: list[MeasuredCommit], found: Found, kept: int) -> Found:
    """The same history with so many bugs in the last year that can be judged."""
    end = measured[-1].change.time - (found.days or 0) * DAY_SECONDS
    year = range(int(end - 12 * backtest.MONTH), int(end) + 1)
    late = [one.sha for one in measured if one.change.time in year and one.sha in found.known]
    gone = set(late[:-kept]) if kept else set(late)
    return Found({sha: when for sha, when in found.known.items() if sha not in gone}, found.days)


def test_too_few_bugs_are_counted_and_judge_nothing(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """One bug at the top of a ranking would be an AUC of 1."""
    measured, found = history(900, 1, 0.9)
    play(monkeypatch, measured, thin_out(measured, found, 3))
    done = look_back(repo, repo.commit("start", a="1\n"), 12)
    text = "\n".join(format_backtest_summary(done.report))
    assert re.search(r"Too few bugs to judge: [1-3] in \d+ commits \(at least 10 needed\)\.", text)
    assert re.search(r"Try --months \d+\.", text)
    assert "fixed later by: " in text
    assert "AUC" not in text
    plain: Any = done.report.as_dict()
    assert plain["models"] == {}
    assert 0 < len(plain["bugs"]) == plain["buggy"] <= 3
    assert "Too few bugs to judge" in done.page
    assert "AUC" not in done.page
    assert "<svg" not in done.page


def test_a_score_that_the_hook_does_not_use_is_said_to_be_off(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, found = history(800, 2, 0.0)
    play(monkeypatch, measured, found)
    sha = repo.commit("start", a="1\n")
    text = "\n".join(format_backtest_summary(look_back(repo, sha, 3).report))
    assert "The hook flags nothing here: no model beats lines added." in text
    assert "elected" not in text


@pytest.mark.parametrize(
    ("model", "reason"),
    [
        (RiskModel(why="not enough history (27 known bugs, 40 needed)"), "not enough history (27 known"),
        (RiskModel(LINES_ADDED), "no model beats lines added"),
        (RiskModel(LOGISTIC_REGRESSION), ""),
        (RiskModel(PRIOR, report={"warns": False}), "no model beats lines added"),
    ],
)
def test_the_installed_model_decides_whether_the_hook_flags(
    model: RiskModel, reason: str, repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What `init` refused is off, whatever the backtest selects."""
    repository = Repository.open(repo.path)
    tinymodel.bundle(repository.state_dir)
    monkeypatch.setattr(backtest, "load_risk_model", lambda _bundle: model)
    found = backtest._explain_inactive_score(repository, None, None)  # type: ignore[arg-type]
    assert found.startswith(reason)
    assert bool(found) == bool(reason)


def test_commits_that_an_encoder_does_not_read_are_counted() -> None:
    report = BacktestReport("demo", "HEAD", 12, 10, 100, 20, 5, 7, None)
    assert "7 older ones are skipped" in "\n".join(format_backtest_summary(report))


def test_flagged_commits_have_a_date_and_a_score(
    looked: tuple[backtest.RiskBacktest, list[MeasuredCommit], Found],
) -> None:
    flag = looked[0].report.flags[0]
    assert (
        0 <= flag.score <= 100
        and f"<td data-head='estimated bug probability'>{flag.score}%" in looked[0].page
    )
    assert "<h1>repo: risk backtest</h1>" in looked[0].page


def test_too_little_is_a_sentence_with_the_number(repo: Repo, gitpeft: Call) -> None:
    """H5: on a real, small history."""
    for number in range(5):
        repo.commit(f"fix: number {number}", a=f"{number}\n")
    done = gitpeft("backtest", "--repo", repo.path)
    assert done.code == 1 and re.search(r"not enough history \(\d+ known bugs", done.said)
    with pytest.raises(GitpeftError, match="not enough history"):
        look_back(repo, repo.git("rev-parse", "HEAD"), 3)


def test_months_of_more_than_two_years_are_judged_in_longer_parts(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    measured, found = history(1200, 2, 0.9)
    play(monkeypatch, measured, found)
    sha = repo.commit("start", a="1\n")
    done = look_back(repo, sha, 30)
    assert len(done.report.models[LOGISTIC_REGRESSION].drift) <= 24
    assert prequential.PREQUENTIAL_BLOCKS == 5
