"""Risk as a task that methods are compared on: what is learnt, asked and said, and what is refused."""

import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.learn.compare import run
from gitpeft.learn.compare.halving import ComparisonRequest
from gitpeft.learn.compare.report import ComparisonReport
from gitpeft.learn.compare.risk_task import BASELINE_NAMES, RiskTask, RiskTaskPart
from gitpeft.learn.compare.scoring import MessageScorer, RiskScorer
from gitpeft.learn.data.subsets import LOW_RESOURCE, HistorySubset
from gitpeft.learn.evaluation import ranking_metrics
from gitpeft.learn.evaluation.text_metrics import paired_bootstrap
from gitpeft.learn.models import bases, methods
from gitpeft.learn.risk import encoder
from gitpeft.learn.training import loop
from gitpeft.learn.training.finetune import TrainingJob
from gitpeft.risk.model import LINES_ADDED
from tests.support import generated
from tests.support.comparisons import hurry
from tests.support.gitrepo import Repo
from tests.support.riskhistory import data
from tests.support.tinybase import Built, loosen


@pytest.fixture
def team(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """A history whose labels are those of `test_judge.data`: only the text of a change tells."""
    monkeypatch.setattr(encoder, "build_risk_data", lambda *_: data(240))
    repo = Repo.create(tmp_path / "team")
    generated.put(repo, generated.team(80))
    return repo


def compared(repo: Repo, built: Built, **wish: Any) -> ComparisonReport:
    given = {"methods": ("lora:rank=4,lr=0.01", "full"), "bases": (str(built.out),), "minutes": 60.0}
    with pytest.MonkeyPatch.context() as patch:
        loosen(patch)
        hurry(patch)
        return run.compare_methods(
            Repository.open(repo.path), ComparisonRequest(**{**given, **wish}), lambda _rows, _now: None
        )


def test_methods_are_compared_on_risk(team: Repo, built: Built) -> None:
    whole = compared(team, built, task="risk", low=(60,))
    [task] = whole.tasks
    report: Any = task.as_dict()
    assert report["task"] == "risk" and report["metric"]["name"] == "ROC AUC" and report["asked"] == 40
    assert {row["label"] for row in report["baselines"]} == set(BASELINE_NAMES)
    for row in report["finalists"]:
        score = row["scores"]["auc"]
        assert 0 <= score["low"] <= score["mean"] <= score["high"] <= 1 and row["cost"]["answer_ms"] > 0
    assert report["low"]["sizes"] == [60, 160] and report["advice"]["words"][0]
    assert run.load_advice(Repository.open(team.path), "risk") == task.advice
    with pytest.raises(GitpeftError, match="nothing was compared here yet"):
        run.load_advice(Repository.open(team.path))
    assert "Risk of changes" in Path(whole.page).read_text()
    assert not list(Path(whole.page).parent.rglob("*.safetensors"))


def test_of_two_tasks_each_has_its_own_time(team: Repo, built: Built) -> None:
    before = time.monotonic()
    whole = compared(team, built, task="both", methods=("lora:rank=4",))
    assert [task.facts.task for task in whole.tasks] == ["messages", "risk"]
    each = [task.facts.seconds for task in whole.tasks]
    assert min(each) > 0 and sum(each) == whole.seconds <= time.monotonic() - before


def test_a_task_that_a_history_has_nothing_for_is_left_out(
    team: Repo, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    def nothing(*_: Any) -> Any:
        raise GitpeftError("not enough history to learn risk from", "a longer one")

    monkeypatch.setattr(encoder, "build_risk_data", nothing)
    whole = compared(team, built, task="both", methods=("lora:rank=4",))
    assert [task.facts.task for task in whole.tasks] == ["messages"]
    assert whole.left_out == ["not enough history to learn risk from"]
    assert "Left out: not enough history" in Path(whole.page).read_text()
    with pytest.raises(GitpeftError, match="not enough history"):
        compared(team, built, task="risk")
    with pytest.raises(GitpeftError, match="there is no task prose"):
        compared(team, built, task="prose")


def test_what_a_run_noted_is_in_its_result(
    built: Built, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    load, failed = loop._load_batch, list[bool]()

    def fail_first(*given: Any) -> Any:
        if not failed:
            failed.append(True)
            raise MemoryError
        return load(*given)

    monkeypatch.setattr(loop, "_load_batch", fail_first)
    job = TrainingJob(bases.find_base(str(built.out)), methods.make_method("lora", {"rank": 4}), steps=2)
    _, trained = RiskTaskPart(data(240)).train_run(job, tmp_path, lambda *_: None)
    assert trained.notes == ("out of memory: each batch in 2 parts from now on",)


def test_parts_without_bugs_are_refused(team: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(encoder, "build_risk_data", lambda *_: clean_lately())
    field = RiskTask(Repository.open(team.path), _Mined(), lambda *_: None)  # type: ignore[arg-type]
    assert field.commits == 240
    with pytest.raises(GitpeftError, match="newest 20: there are no buggy"):
        field.make_part(HistorySubset(LOW_RESOURCE, "20", "", 20))
    assert len(field.make_part(HistorySubset(LOW_RESOURCE, "100", "", 100)).data.train) == 100
    said = field.whole.ask_baselines({})
    assert all(0 < float(chance) < 1 for chance in said[LINES_ADDED])


class _Mined:
    tip = "HEAD"


def clean_lately() -> encoder.RiskData:
    found = data(240)
    found.train.truth[-30:] = 0
    return found


# --- scorers ------------------------------------------------------------------------------------------------


def test_an_auc_and_its_paired_interval() -> None:
    dice = np.random.default_rng(0)
    truth = (dice.random(300) < 0.3).astype(float)
    good, bad = (truth * weight + dice.random(300) for weight in (0.8, 0.1))
    scorer = RiskScorer(truth.tolist())
    score = scorer.score_runs([good.tolist()])
    assert (
        score.mean == pytest.approx(ranking_metrics.roc_auc(truth, good))
        and score.low < score.mean < score.high
    )
    gap = scorer.compare_runs([good.tolist()], [bad.tolist()])
    assert gap.excludes_zero and gap.mean == pytest.approx(score.mean - ranking_metrics.roc_auc(truth, bad))
    none = scorer.compare_runs([bad.tolist()], [bad.tolist()])
    assert none == (0, 0, 0) and not none.excludes_zero
    both = scorer.score_runs([good.tolist(), bad.tolist()]).mean
    assert both == pytest.approx((score.mean + ranking_metrics.roc_auc(truth, bad)) / 2)
    assert scorer.score_all_metrics([good.tolist()]).metrics.keys() == scorer.metric.all.keys()


def test_messages_are_scored_as_they_always_were() -> None:
    scorer = MessageScorer(["add a parser", "fix the cache"])
    said, other = ["add a parser", "drop it"], ["nothing", "fix the cache"]
    gap = scorer.compare_runs([said], [other])
    a, b = (scorer._score_each_commit([one]) for one in (said, other))
    assert gap == paired_bootstrap(a, b, seed=0) and scorer.score_runs([said, other]).mean > 0
