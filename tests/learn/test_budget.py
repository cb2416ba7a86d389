"""`gitpeft.learn.budget`: every step gets its share, a budget that is long enough changes nothing."""

from pathlib import Path

import pytest

from gitpeft.learn import budget as budgets
from gitpeft.learn.budget import BudgetedBase, Paces, RunBudget
from gitpeft.learn.szz.szz import LEAST_TRACED_COMMITS

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
    assert budget.allows_encoder(12, base, budget.keep_for_messages(base, evaluated))
    limit, risk = budget.limit_tracing(10_000, budgets.RISK_SHARE), 10_000 * 0.0181
    assert limit.seconds > risk
    clock.now += risk
    minutes = budget.plan_training(base, evaluated)
    assert 45 < minutes < 60
    clock.now += 60 * minutes
    clock.now += budget.paces.get(budgets.EXPORT, base.name, causal=base.causal)
    suggestion = budget.paces.get(budgets.SUGGESTION, base.name, causal=base.causal)
    trial = budget.limit_validation(base, evaluated)
    assert trial.most == evaluated and trial.seconds >= evaluated * suggestion * 0.99
    clock.now += base.variants * evaluated * suggestion
    assert budget.limit_test(evaluated).seconds >= evaluated * suggestion * 0.99
    assert budget.count_compared(base, evaluated) == evaluated // 2, "two models in what is left for one"
    report = budget.report()
    assert report.seconds == pytest.approx(budget.spent, abs=0.1) and report.seconds < budget.seconds


@pytest.mark.parametrize("minutes", [0.05, 1, 5])
@pytest.mark.parametrize("base", [MINI, SMOL])
def test_the_shares_of_a_short_budget_add_up_to_it(
    minutes: float, base: BudgetedBase, tmp_path: Path
) -> None:
    budget, clock = start(tmp_path, minutes)
    limit = budget.limit_tracing(100_000, budgets.RISK_SHARE)
    clock.now += limit.seconds
    training = 60 * budget.plan_training(base, 200)
    assert 0.3 * budget.seconds <= training + 1e-9
    clock.now += training
    trial = budget.limit_validation(base, 200)
    assert trial.most == 200
    clock.now += base.variants * trial.seconds
    if minutes >= 1:  # a training gets its share even where an export alone takes longer than all
        assert budget.spent <= budget.seconds


@pytest.mark.parametrize(("risk", "least"), [(20, 180), (50, 150), (90, 110)])
def test_training_gets_what_the_risk_model_did_not_take(risk: float, least: float, tmp_path: Path) -> None:
    """Of five minutes, beside an export, 60 validation and 60 test commits."""
    budget, clock = start(tmp_path, 5)
    clock.now += risk
    budget.paces.observe(budgets.EXPORT, 20, 1, "smol")
    budget.paces.observe(budgets.SUGGESTION, 60, 120, "smol")
    assert least <= 60 * budget.plan_training(SMOL, 60) <= 300 - risk - 20 - 60


def test_time_that_training_did_not_need_goes_to_validation(tmp_path: Path) -> None:
    budget, clock = start(tmp_path, 5)
    budget.plan_training(SMOL, 60)
    clock.now += 110
    trial = budget.limit_validation(SMOL, 60)
    assert trial.seconds >= 60 * budget.paces.get(budgets.SUGGESTION, "smol", causal=True)
    assert 110 + 2 * trial.seconds <= budget.seconds


def test_a_variant_is_compared_where_there_is_time_for_it(tmp_path: Path) -> None:
    budget, clock = start(tmp_path, 1)
    # an export of 12 s, 100 suggestions of 0.1 s on validation and 100 in the test, and 3 s for the end
    clock.now += 60 - 35.1
    assert budget.allows_variant(MINI, 100)
    clock.now += 0.2
    assert not budget.allows_variant(MINI, 100) and budget.allows_variant(MINI, 99)
    budget.paces.observe(budgets.EXPORT, 2, 1, "mini")
    assert budget.allows_variant(MINI, 149) and not budget.allows_variant(MINI, 151)


def test_where_the_time_is_spent_few_commits_are_traced(tmp_path: Path) -> None:
    budget, clock = start(tmp_path, 1)
    clock.now += 70
    limit = budget.limit_tracing(100_000)
    assert (limit.seconds, limit.least) == (0, 500), "9 s, at 0.018 s a commit"
    longer, clock = start(tmp_path, 2)
    clock.now += 140
    assert longer.limit_tracing(100_000).least == 999, "twice as many"
    budget, clock = start(tmp_path, 5)
    clock.now += 200
    assert budget.limit_tracing(100_000).least == LEAST_TRACED_COMMITS
    assert budget.limit_tracing(1000).seconds == pytest.approx(300 - 200 - 3 - 0.1)
    assert budget.limit_tracing(1000, budgets.RISK_SHARE).seconds == pytest.approx(45 - 0.1)


def test_an_encoder_needs_time_beside_the_rest(tmp_path: Path) -> None:
    budget, clock = start(tmp_path, 5)
    # 25 s to ask it, 45 s for the risk model without it, and 3 s for the end
    assert budget.allows_encoder(1, MINI, 166) and not budget.allows_encoder(1, MINI, 168)
    clock.now += 10
    assert not budget.allows_encoder(1, MINI, budget.keep_for_messages(MINI, 200))


def test_examples_end_with_their_share_whatever_a_commit_was_thought_to_take(tmp_path: Path) -> None:
    budget, clock = start(tmp_path, 1)
    clock.now += 14
    assert not budget.has_enough_examples(5000)
    clock.now += 2
    assert budget.has_enough_examples(5000) and not budget.has_enough_examples(1999)


def test_what_is_left_out_is_said_with_what_would_do(tmp_path: Path) -> None:
    budget, clock = start(tmp_path, 1)
    taken = budget.limit_examples(100_000)
    assert 2000 <= taken < 100_000
    budget.plan_training(MINI, 200)
    clock.now += 55
    assert budget.limit_validation(MINI, 200).seconds < 1 and not budget.allows_encoder(0.2, MINI, 0)
    assert budget.note_evaluated("validation commits", 20, 200) == 20
    assert budget.count_compared(MINI, 200) == 20
    assert budget.limit_tracing(100_000).seconds == 0
    report = budget.report()
    assert report.left_out == (
        f"examples of the newest {taken:,} of 100,000 commits",
        "20 of 200 validation commits",
        "20 of 200 test commits",
    )
    # what all of it costs, by the paces that were assumed: 100 s, 1,810 s for risk, 12 s, 80 s, and a tenth
    assert report.enough == 37


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


def test_a_slow_machine_is_known_from_the_first_step(tmp_path: Path) -> None:
    budget, clock = start(tmp_path, 5)
    before = budget.paces.get(budgets.RISK)
    with budget.measure(budgets.EXAMPLES, lambda: 100):  # too few to judge by
        clock.now += 100
    assert budget.paces.get(budgets.RISK) == before
    with budget.measure(budgets.EXAMPLES, lambda: 10_000):
        clock.now += 40
    assert budget.paces.get(budgets.RISK) == 4 * before
    budget.paces.observe(budgets.RISK, 10, 1000)
    assert budget.paces.get(budgets.RISK) == 0.01


@pytest.mark.parametrize("content", ["", "[1]", '{"examples": "x"}', '{"examples": -1}', '{"examples": NaN}'])
def test_damaged_paces_are_forgotten(content: str, tmp_path: Path) -> None:
    path = tmp_path / budgets.PACES_FILE
    path.write_text(content)
    assert Paces(path).get(budgets.EXAMPLES) == Paces(tmp_path / "none").get(budgets.EXAMPLES)


def test_a_run_that_was_killed_takes_as_many_examples_again(tmp_path: Path) -> None:
    budget, clock = start(tmp_path, 1)
    assert budget.limit_examples(100_000, "tip") == 15_000
    killed, clock_of_killed = start(tmp_path, 1)
    assert killed.limit_examples(100_000, "tip") == 15_000, "nothing was prepared yet"
    clock_of_killed.now += 20
    assert killed.has_enough_examples(4096)
    clock.now += 20
    assert budget.has_enough_examples(4096)
    budget.note_examples(4096, 100_000, "tip")
    budget.paces.observe(budgets.EXAMPLES, 20, 4096)
    again, clock = start(tmp_path, 1)
    assert again.limit_examples(100_000, "tip") == 4096
    assert again.bound_examples("tip") == 4096 and again.bound_examples("other") == 3072
    clock.now += 20
    assert not again.has_enough_examples(4000), "the same number, however long it takes now"
    assert again.limit_examples(100_000, "other") == 3072, "by the pace that was measured"
    longer, _ = start(tmp_path, 2)
    assert longer.limit_examples(100_000, "tip") == 6144
    for number in range(20):
        longer.note_examples(1, 2, str(number))
    kept = Paces(tmp_path / budgets.PACES_FILE)
    assert kept.recall_count("19 2") == 1 and kept.recall_count("tip 1") == 0
    assert kept.get(budgets.EXAMPLES) == again.paces.get(budgets.EXAMPLES)


def test_reading_all_commits_is_no_part_of_the_pace_of_examples(tmp_path: Path) -> None:
    budget, clock = start(tmp_path, 1)
    clock.now += 40  # all commits of a long history are looked at first
    budget.limit_examples(100_000)
    assert not budget.has_enough_examples(5000), "half of the share is theirs"
    clock.now += 8
    assert budget.has_enough_examples(5000)
    budget.observe_examples(5000)
    assert budget.paces.get(budgets.EXAMPLES) == pytest.approx(8 / 5000)
