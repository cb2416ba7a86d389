"""Cleaning of subjects."""

import pytest

from gitpeft.diff.subjects import clean_subject, strip_issue_numbers


@pytest.mark.parametrize(
    ("subject", "bare"),
    [
        ("Fix parsing of dates (#12)", "Fix parsing of dates"),
        ("Fix parsing of dates, fixes #12.", "Fix parsing of dates"),
        ("Fix parsing [closes org/repo#3, #4]", "Fix parsing"),
        ("Fix parsing (#1) (#2)", "Fix parsing"),
        ("Use 12 threads", "Use 12 threads"),
        ("#12 fix parsing", "#12 fix parsing"),
    ],
)
def test_references_at_the_end_are_dropped(subject: str, bare: str) -> None:
    assert strip_issue_numbers(subject) == bare == strip_issue_numbers(clean_subject(subject))
    assert strip_issue_numbers(bare) == bare
