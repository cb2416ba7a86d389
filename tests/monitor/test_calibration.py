"""The promises of a risk score: the test of them, when it is made, and what `status` says."""

import json
import math
from dataclasses import replace
from pathlib import Path

import pytest

from gitpeft import config
from gitpeft.bundle import bundle as bundles
from gitpeft.git.repository import Repository
from gitpeft.monitor import calibration, health
from gitpeft.monitor.calibration import CalibrationCheck
from tests.support import tinymodel
from tests.support.gitrepo import Repo
from tests.support.risky import MODEL


def test_the_distribution_is_the_binomial_where_all_chances_are_one() -> None:
    for p, n in ((0.3, 10), (0.0, 4), (1.0, 4), (0.5, 1)):
        exact = [math.comb(n, k) * p**k * (1 - p) ** (n - k) for k in range(n + 1)]
        assert calibration.compute_poisson_binomial([p] * n) == pytest.approx(exact)
    assert calibration.compute_poisson_binomial([0.2, 0.7]) == pytest.approx(
        [0.8 * 0.3, 0.2 * 0.3 + 0.8 * 0.7, 0.2 * 0.7]
    )
    assert calibration.compute_poisson_binomial([]) == [1.0]


def judged(n: int, chance: float, buggy: int) -> list[tuple[float, bool]]:
    return [(chance, number < buggy) for number in range(n)]


@pytest.mark.parametrize(
    ("n", "chance", "buggy", "calibrated", "broken"),
    [(100, 0.1, 10, 10**9, False), (100, 0.1, 14, 10**9, False), (100, 0.1, 25, 10**9, True),
     (100, 0.1, 25, 40, True), (100, 0.1, 25, 4, False), (100, 0.3, 10, 10**9, True),
     (40, 0.01, 4, 10**9, False), (40, 0.01, 5, 10**9, True), (0, 0.5, 0, 5, False)],
)  # fmt: skip
def test_a_promise_is_broken_beyond_chance(
    n: int, chance: float, buggy: int, calibrated: int, broken: bool
) -> None:
    found = CalibrationCheck.from_outcomes(judged(n, chance, buggy), calibrated)
    assert found.is_miscalibrated == broken and 0 <= found.p_value <= 1
    assert (found.n, found.observed) == (n, buggy) and found.predicted == pytest.approx(n * chance)


def test_it_is_worked_out_when_enough_has_come_and_kept(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(health, "load_risk_model", lambda _: replace(MODEL, known=4000))
    tip = repo.commit("Start", **{"a": "1"})
    repository = Repository.open(repo.path)
    tinymodel.bundle(repository.state_dir, commits={"to": tip, "count": 300})
    active = bundles.open_active_bundle(repository.state_dir)
    assert active is not None
    asked: list[str] = []

    def judge(_: Repository, bundle: bundles.Bundle) -> list[tuple[float, bool]]:
        asked.append(bundle.id)
        return judged(100, 0.3, 10)

    def stand() -> health.ModelHealth:
        return health.measure_model_health(repository, active, config.load_config(repository), judge)

    for number in range(calibration.RECHECK_COMMITS - 1):
        repo.commit(f"Number {number}")
    assert stand().calibration is None and not asked
    repo.commit("One more")
    found = stand()
    assert found.calibration == CalibrationCheck.from_outcomes(judged(100, 0.3, 10), 500) and len(asked) == 1
    assert found.due == (
        "due: the risk score is miscalibrated: 30 bugs predicted in 100 later commits, "
        "10 found. Run `gitpeft train`."
    )
    assert stand() == found and len(asked) == 1, "kept"
    assert json.loads(json.dumps(found.as_dict()))["promise"]["found"] == 10
    assert (
        health.measure_model_health(repository, active, config.load_config(repository), None).calibration
        == found.calibration
    )
    for text in ("", "[]", '{"model": "x"}'):
        (repository.state_dir / "promise.json").write_text(text)
        assert calibration.load_calibration_check(repository, active) == (None, True)


def test_where_nothing_can_be_judged_nothing_is_said(repo: Repo) -> None:
    tip = repo.commit("Start", **{"a": "1"})
    repository = Repository.open(repo.path)
    tinymodel.bundle(repository.state_dir, commits={"to": tip, "count": 300})
    active = bundles.open_active_bundle(repository.state_dir)
    assert active is not None
    for number in range(30):
        repo.commit(f"Number {number}")
    judges: tuple[health.OutcomeProvider | None, ...] = (None, lambda *_: [])
    for judge in judges:
        found = health.measure_model_health(repository, active, config.load_config(repository), judge)
        assert found.calibration is None and found.due == "" and found.ahead == 30
    assert not Path(repository.state_dir / "promise.json").exists()
