"""Two risk scores against each other: on which commits, by which metric, and what became of the labels."""

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gitpeft.learn.retrain import champion_challenger
from gitpeft.learn.retrain.champion_challenger import AUC, BRIER, SAVED, ChallengeResult
from gitpeft.learn.risk import labelled_history, relabel, selection
from gitpeft.learn.risk.labelled_history import LabelledHistory
from gitpeft.learn.risk.metric_replay import MeasuredCommit
from gitpeft.risk.change_metrics import DAY_SECONDS
from gitpeft.risk.model import LOGISTIC_REGRESSION, RiskModel
from tests.support.riskhistory import Found, history


def moved(
    count: int, seed: int, old: float, new: float, bugs: float = 0.2
) -> tuple[LabelledHistory, int, Found]:
    """A history in which bugs come from something else after its middle, the moment of the middle,
    and the labels."""
    first, found = history(count, seed, old, bugs)
    second, later = history(2 * count, seed + 1, new, bugs)
    half = {one.sha for one in second[count:]}
    known = {sha: when for sha, when in later.known.items() if sha in half}
    measured = [*first, *second[count:]]
    labels = Found({**found.known, **known})
    return LabelledHistory(measured, labels, measured[-1].change.time), first[-1].change.time, labels


def fitted(known: LabelledHistory, until: int) -> RiskModel:
    return selection.train_risk_model(
        [one for one in known.measured if one.change.time <= until], known.found, until
    )


def test_a_score_that_learnt_what_is_new_wins() -> None:
    known, until, _ = moved(500, 1, old=0.0, new=1.0)
    installed, fresh = fitted(known, until), fitted(known, known.now)
    assert installed.report["until"] == until and fresh.kind == LOGISTIC_REGRESSION
    verdict = champion_challenger.compare_risk_models(installed, until, fresh, known)
    one = verdict.result
    assert one is not None and one.metric == AUC and verdict.won and one.low > 0
    assert one.difference == pytest.approx(one.challenger - one.champion)
    assert verdict.reason.endswith(", significant") and "AUC +0." in verdict.reason


def test_a_score_that_is_worse_is_kept_aside(monkeypatch: pytest.MonkeyPatch) -> None:
    known, until, _ = moved(500, 3, old=0.9, new=0.9)
    installed = fitted(known, until)
    upside_down = replace(installed, weights=tuple(-weight for weight in installed.weights))
    monkeypatch.setattr(selection, "train_risk_model", lambda *_: upside_down)
    verdict = champion_challenger.compare_risk_models(installed, until, installed, known)
    assert not verdict.won and verdict.result is not None and verdict.result.high < 0


def test_who_fights_has_not_seen_what_is_fought_on(monkeypatch: pytest.MonkeyPatch) -> None:
    known, until, _ = moved(500, 5, old=0.9, new=0.9)
    installed, train = fitted(known, until), selection.train_risk_model
    seen: list[set[str]] = []

    def watch(measured: Sequence[MeasuredCommit], found: Found, now: int, *rest: Any) -> RiskModel:
        seen.append({one.sha for one in measured})
        return train(measured, found, now)

    monkeypatch.setattr(selection, "train_risk_model", watch)
    verdict = champion_challenger.compare_risk_models(installed, until, installed, known)
    limit = labelled_history.find_label_limit(known.found, known.now)
    labelled = labelled_history.label_commits(known.measured, known.found, known.now)
    judged = {sha for sha, time in zip(labelled.shas, labelled.times, strict=True) if time <= limit}
    before = set(labelled_history.label_commits(known.measured, known.found, until).shas)
    held = {one.sha for one in known.measured} - seen[0]
    assert verdict.result is not None and len(held) == verdict.result.n == len(judged - before) // 2
    assert held < judged - before
    order = [one.sha for one in known.measured if one.sha in judged - before]
    assert held == set(order[-len(held) :]), "the newest half"


def test_few_bugs_are_told_by_the_brier_score() -> None:
    """Chances far too high lose against right ones, whatever the order."""
    known, until, found = moved(400, 7, old=0.9, new=0.9)
    kept = list(known.found.bugs_known_at(known.now))
    late = [sha for sha in kept if int(sha, 16) > 400]
    found = Found({sha: when for sha, when in found.known.items() if sha not in late[4:]})
    few = LabelledHistory(known.measured, found, known.now)
    installed = fitted(few, until)
    shrill = replace(installed, curve=tuple((at, min(1.0, 4 * p + 0.3)) for at, p in installed.curve))
    verdict = champion_challenger.compare_risk_models(shrill, until, installed, few)
    assert verdict.result is not None and verdict.result.metric == BRIER
    assert (
        verdict.won
        and verdict.result.difference < 0
        and "Brier score (lower is better) -0." in verdict.reason
    )
    assert (
        not ChallengeResult(BRIER, 30, 0.1, 0.2, 0.1, 0.05, 0.15).won
        and ChallengeResult(SAVED, 30, 1, 2, 1, 0, 2).won
    )


def test_without_a_bug_the_score_that_says_less_does_not_win_for_that() -> None:
    known, until, found = moved(400, 7, old=0.9, new=0.9)
    early = Found({sha: when for sha, when in found.known.items() if int(sha, 16) < 390})
    none = LabelledHistory(known.measured, early, known.now)
    installed = fitted(none, until)
    calm = replace(installed, curve=tuple((at, 0.01) for at, _ in installed.curve))
    verdict = champion_challenger.compare_risk_models(calm, until, installed, none)
    assert not verdict.won and verdict.result is None and "none of " in verdict.reason
    shrill = replace(installed, curve=tuple((at, 0.6) for at, _ in installed.curve))
    verdict = champion_challenger.compare_risk_models(shrill, until, installed, none)
    assert verdict.won and verdict.result is not None and verdict.result.metric == BRIER


def test_too_few_verdicts_leave_the_installed_score() -> None:
    known, _, _ = moved(400, 9, old=0.9, new=0.9)
    until = known.now - 15 * DAY_SECONDS
    installed = fitted(known, until)
    verdict = champion_challenger.compare_risk_models(installed, until, installed, known)
    assert not verdict.won and verdict.result is None and "20 are needed" in verdict.reason


def test_a_score_that_says_nothing_has_an_auc_of_one_half() -> None:
    known, until, _ = moved(500, 11, old=0.9, new=0.9)
    installed, nothing = fitted(known, until), RiskModel(why="not enough history")
    verdict = champion_challenger.compare_risk_models(installed, until, nothing, known)
    assert not verdict.won and verdict.result is not None and verdict.result.challenger == 0.5
    first = champion_challenger.compare_risk_models(nothing, until, installed, known)
    assert first.won and first.result is None and "first" in first.reason


def test_what_became_of_the_labels_is_counted() -> None:
    known, until, found = moved(300, 13, old=0.5, new=0.5)
    old = next(one.sha for one in known.measured if one.sha not in found.known)
    found = Found({**found.known, old: until + 5 * DAY_SECONDS})
    later = LabelledHistory(known.measured, found, known.now)
    before, after = relabel.compare_labels(known, until), relabel.compare_labels(later, until)
    assert (after.known, after.changed, after.judged) == (before.known + 1, before.changed + 1, before.judged)
    now = labelled_history.label_commits(known.measured, known.found, known.now)
    then = labelled_history.label_commits(known.measured, known.found, until)
    young = int((now.times > labelled_history.find_label_limit(known.found, known.now)).sum())
    assert before.judged == len(now) - len(then) - young and young > 0, "too new to tell what becomes of them"
    assert relabel.compare_labels(known, known.now) == relabel.LabelChanges(0, 0, 0)
    assert np.isin(then.shas, now.shas).all()
