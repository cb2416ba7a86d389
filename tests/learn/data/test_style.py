"""Habits of wording: what is learnt from subjects that are one way, and from those that are no way."""

import pytest

from gitpeft.config import _parse_ticket_format
from gitpeft.learn.data.style import learn_message_style

CONVENTIONAL = ["feat(api): add x", "fix: y", "fix(api): z", "feat(core)!: w", "docs: v", "feat(ui): u"]


def test_conventional_commits() -> None:
    style = learn_message_style(CONVENTIONAL, [""] * 6)
    assert style["types"] == ["feat", "fix"] and style["scopes"] == ["api"]
    assert style["tense"] == "imperative" and "ticket_pattern" not in style


def test_half_of_them_are_enough_and_less_are_not() -> None:
    other = ["add x", "say y", "do z", "go"]
    assert "types" in learn_message_style(CONVENTIONAL[:4] + other, [""] * 8)
    assert "types" not in learn_message_style(CONVENTIONAL[:3] + other, [""] * 7)


@pytest.mark.parametrize("form", ["ABC-{}: fix it", "[ABC-{}] fix it", "ABC-{} fix it"])
def test_tickets(form: str) -> None:
    style = learn_message_style([form.format(i) for i in range(5)] + ["XY-1 fix", "no ticket"], [""] * 7)
    assert style["ticket_pattern"] == r"ABC-\d+"
    assert "ticket_pattern" not in learn_message_style(["ABC-1 fix", "fix it", "fix that"], [""] * 3)


@pytest.mark.parametrize(
    "form",
    [
        *("{}: fix it", "[{}] fix it", "[{}]: fix it", "({}) fix it", "{} - fix it", "{} fix it"),
        *("fix it ({})", "fix it [{}]", "fix it {}"),
    ],
)
def test_the_form_of_tickets(form: str) -> None:
    style = learn_message_style(
        [form.format(f"ABC-{i}") for i in range(6)] + ["OPS-7: x", "y (ABC-8) z"], [""] * 8
    )
    expected = form.format("{ticket}").replace("fix it", "{subject}")
    assert (style["ticket_pattern"], style["ticket_format"]) == (r"ABC-\d+", expected)
    assert _parse_ticket_format([style["ticket_format"]]) == expected, "no setting could say this"


def test_tickets_of_several_trackers_and_in_no_common_form() -> None:
    subjects = ["ABC-1: a", "b (ABC-2)", "[OPS-3] c", "OPS-4 d", "feat: ABC-5 e", "f", "g"]
    style = learn_message_style(subjects, [""] * 7)
    assert style["ticket_pattern"] == r"(?:ABC|OPS)-\d+" and "ticket_format" not in style


def test_branches_that_name_tickets_make_up_for_subjects_that_do_not() -> None:
    subjects = ["ABC-1: a", "ABC-2: b", "c", "d", "e", "f"]
    branches = ["main", "feature/abc-12-tabs", "origin/ABC-3_x"]
    assert "ticket_pattern" not in learn_message_style(subjects, [""] * 6, branches[:2])
    assert learn_message_style(subjects, [""] * 6, branches)["ticket_format"] == "{ticket}: {subject}"


def test_what_only_looks_like_a_ticket() -> None:
    subjects = [f"use UTF-8 and SHA-256 in RFC-{n}" for n in range(9)] + [
        "log4j CVE-2021-44228",
        "v1 ABC-1.2",
    ]
    assert "ticket_pattern" not in learn_message_style(subjects, [""] * 11, ["UTF-8", "utf-8"])


def test_tense() -> None:
    assert learn_message_style(["Added x", "fixed y", "Make z"], [""] * 3)["tense"] == "past"
    assert learn_message_style(["Add x", "fixed y", "Make z"], [""] * 3)["tense"] == "imperative"


def test_lengths_are_bounded() -> None:
    usual = ["x" * 40] * 95
    style = learn_message_style([*usual, *["x" * 300] * 5], [""] * 100)
    assert (style["subject_length"], style["subject_length_p95"]) == (100, 300)
    assert learn_message_style(usual, [""] * 95)["subject_length"] == 50
    assert learn_message_style(["x" * 72] * 10, [""] * 10)["subject_length"] == 72


def test_bodies() -> None:
    assert learn_message_style(["a", "b", "c"], ["", "text", "more"])["body_share"] == 0.667


def test_only_the_newest_count() -> None:
    old, new = ["Added x"] * 700, ["Add x"] * 500
    assert learn_message_style(old + new, [""] * 1200)["tense"] == "imperative"


def test_no_history() -> None:
    style = learn_message_style([], [])
    assert style == {
        "subject_length": 50, "subject_length_p95": 50, "tense": "imperative", "body_share": 0.0,
    }  # fmt: skip
