"""`gitpeft.learn.budget`: every step gets its share, a budget that is long enough changes nothing."""

from pathlib import Path

import pytest

from gitpeft.learn import budget as budgets
from gitpeft.learn.budget import BudgetedBase, Paces, RunBudget

MINI, SMOL = BudgetedBase("mini"), BudgetedBase("smol", causal=True, variants=1)


class Clock:
    """A clock that the test moves."""

    def __init__(self) -> None:
        self.now = 100.0

    def __call__(self) -> float:
        return self.now


def start(folder: Path, minutes: float) -> tuple[RunBudget, Clock]:
    clock = Clock()
    return RunBudget(minutes, Paces(folder / budgets.PACES_FILE), clock), clock


@pytest.mark.parametrize(("base", "evaluated"), [(MINI, 200), (SMOL, 60)])
def test_a_long_budget_limits_nothing_and_training_gets_the_rest(
    base: BudgetedBase, evaluated: int, tmp_path: Path
) -> None:
    budget, clock = start(tmp_path, 60)
    assert budget.limit_examples(10_000) == 10_000
    minutes = budget.plan_training(base, 10_000, evaluated)
    assert 45 < minutes < 60
    clock.now += 60 * minutes
    assert budget.limit_validation(base, evaluated) == evaluated and budget.allows_encoder(0.2, base)
    assert budget.limit_test(base, evaluated) == evaluated
    limit = budget.limit_tracing()
    assert limit.seconds > 10_000 * limit.pace
    report = budget.report()
    assert (report.left_out, report.enough) == ((), 0)
    assert report.seconds == pytest.approx(60 * minutes, abs=0.1)


@pytest.mark.parametrize("minutes", [0.05, 1, 5])
@pytest.mark.parametrize("base", [MINI, SMOL])
def test_the_shares_of_a_short_budget_add_up_to_it(
    minutes: float, base: BudgetedBase, tmp_path: Path
) -> None:
    budget, _ = start(tmp_path, minutes)
    training = 60 * budget.plan_training(base, 100_000, 200)
    assert 0.3 * budget.seconds <= training + 1e-9
    validation = (
        budget.limit_validation(base, 200)
        * base.variants
        * budget.paces.get(budgets.SUGGESTION, base.name, causal=base.causal)
    )
    if minutes >= 5:
        assert training + validation <= budget.seconds


def test_what_is_left_out_is_said_with_what_would_do(tmp_path: Path) -> None:
    budget, clock = start(tmp_path, 1)
    taken = budget.limit_examples(100_000)
    assert 2000 <= taken < 100_000
    budget.plan_training(MINI, 100_000, 200)
    clock.now += 55
    assert budget.limit_validation(MINI, 200) == 30 and not budget.allows_encoder(0.2, MINI)
    assert budget.limit_tracing().seconds < 2
    report = budget.report()
    assert report.left_out[0] == f"examples of the newest {taken:,} of 100,000 commits"
    assert report.left_out[1] == "30 of 200 validation commits"
    # what all of it costs, by the paces that were assumed: 100 s, 1,500 s for risk, 12 s, 80 s, and a tenth
    assert report.enough == 32


def test_paces_are_measured_and_kept(tmp_path: Path) -> None:
    budget, clock = start(tmp_path, 1)
    with budget.measure(budgets.EXAMPLES, lambda: 10):
        clock.now += 100
    with budget.measure(budgets.SUGGESTION, lambda: 0, "mini"):
        clock.now += 100
    again = Paces(tmp_path / budgets.PACES_FILE)
    assert again.get(budgets.EXAMPLES) == 10 and again.get(budgets.SUGGESTION, "mini") < 1
    again.observe(budgets.EXAMPLES, 20, 10)
    assert again.get(budgets.EXAMPLES) == 6
    assert again.get(budgets.TRAINING, "smol", causal=True) > again.get(budgets.TRAINING, "mini")


@pytest.mark.parametrize("content", ["", "[1]", '{"examples": "x"}', '{"examples": -1}', '{"examples": NaN}'])
def test_damaged_paces_are_forgotten(content: str, tmp_path: Path) -> None:
    path = tmp_path / budgets.PACES_FILE
    path.write_text(content)
    assert Paces(path).get(budgets.EXAMPLES) == Paces(tmp_path / "none").get(budgets.EXAMPLES)
