"""Which messages of public histories are learnt."""

from gitpeft.diff.grounding import ChangeSize
from gitpeft.learn.pretraining.commit_pairs import judge_message

SIZE = ChangeSize(5, 5, False, False)


def test_an_invented_version_is_refused() -> None:
    assert judge_message("Update flask to 9.7", "flask 1.2 -> 1.3", "", SIZE).chance == 0


def test_a_verb_against_the_change_is_refused() -> None:
    size = ChangeSize(0, 9, False, False)
    assert judge_message("Add a reader", "- reader", "", size).rule == "verb contradicts the change"


def test_a_grounded_message_is_kept_and_another_rarely() -> None:
    assert judge_message("Fix parser of dates", "def parser(dates)", "", SIZE).chance == 1
    assert judge_message("Fix quantum banana", "def parser(dates)", "", SIZE).chance < 0.1
