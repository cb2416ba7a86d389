"""Habits of wording: what is learnt from subjects that are one way, and from those that are no way."""

import pytest

from gitpeft.learn.style import learn

CONVENTIONAL = ["feat(api): add x", "fix: y", "fix(api): z", "feat(core)!: w", "docs: v", "feat(ui): u"]


def test_conventional_commits() -> None:
    style = learn(CONVENTIONAL, [""] * 6)
    assert style["types"] == ["feat", "fix"] and style["scopes"] == ["api"]
    assert style["tense"] == "imperative" and "ticket_pattern" not in style


def test_half_of_them_are_enough_and_less_are_not() -> None:
    other = ["add x", "say y", "do z", "go"]
    assert "types" in learn(CONVENTIONAL[:4] + other, [""] * 8)
    assert "types" not in learn(CONVENTIONAL[:3] + other, [""] * 7)


@pytest.mark.parametrize("form", ["ABC-{}: fix it", "[ABC-{}] fix it", "ABC-{} fix it"])
def test_tickets(form: str) -> None:
    style = learn([form.format(i) for i in range(5)] + ["XY-1 fix", "no ticket"], [""] * 7)
    assert style["ticket_pattern"] == r"ABC-\d+"
    assert "ticket_pattern" not in learn(["ABC-1 fix", "fix it", "fix that"], [""] * 3)


def test_tense() -> None:
    assert learn(["Added x", "fixed y", "Make z"], [""] * 3)["tense"] == "past"
    assert learn(["Add x", "fixed y", "Make z"], [""] * 3)["tense"] == "imperative"


def test_lengths_are_bounded() -> None:
    usual = ["x" * 40] * 95
    style = learn([*usual, *["x" * 300] * 5], [""] * 100)
    assert (style["subject_length"], style["subject_length_p95"]) == (100, 300)
    assert learn(usual, [""] * 95)["subject_length"] == 50
    assert learn(["x" * 72] * 10, [""] * 10)["subject_length"] == 72


def test_bodies() -> None:
    assert learn(["a", "b", "c"], ["", "text", "more"])["body_share"] == 0.667


def test_only_the_newest_count() -> None:
    old, new = ["Added x"] * 700, ["Add x"] * 500
    assert learn(old + new, [""] * 1200)["tense"] == "imperative"


def test_no_history() -> None:
    style = learn([], [])
    assert style == {
        "subject_length": 50, "subject_length_p95": 50, "tense": "imperative", "body_share": 0.0,
    }  # fmt: skip
