"""Pairs of removed and added lines."""

import random
import re

import pytest

from gitpeft.diff.edits import (
    are_alike,
    common_prefix_length,
    find_version_change,
    iterate_runs,
    pair_lines,
    split_change,
)


def test_similar_lines_are_paired() -> None:
    assert pair_lines(["size = 1"], ["import os", "size = 2"]) == [
        (None, "import os"),
        ("size = 1", "size = 2"),
    ]
    assert pair_lines(["gone = 1", "size = 1"], ["size = 2"]) == [
        ("gone = 1", None),
        ("size = 1", "size = 2"),
    ]


def test_lines_that_share_little_are_not_paired() -> None:
    assert not are_alike("return None", "x = compute(1)")
    assert not are_alike("", "x")
    assert pair_lines(["alpha beta"], ["x = 1"]) == [("alpha beta", None), (None, "x = 1")]


def test_runs_are_separated_by_context_and_by_a_removal_after_an_addition() -> None:
    lines = [" a", "-old one", "+old two", "-other", " b", "+new"]
    assert list(iterate_runs(lines)) == [
        ("a", [("old one", "old two")]),
        ("a", [("other", None)]),
        ("b", [(None, "new")]),
    ]


def test_what_differs_inside_of_two_lines() -> None:
    assert split_change("v = f(1.2.3)", "v = f(1.2.4)") == ("v = f(", "1.2.3", "1.2.4", ")")
    assert split_change("a b", "a b") == ("a b", "", "", "")


@pytest.mark.parametrize(
    ("old", "new", "found"),
    [
        ("a==1.0 b==2.0", "a==1.0 b==2.1", ("2.0", "2.1")),
        ("a==1.0", "a==1.0", None),
        ("a==1.0", "c==1.1", None),
        ("a==1.0", "a==1.1 b==2.0", None),
        ("a", "a", None),
    ],
)
def test_a_version_has_changed_where_nothing_else_has(
    old: str, new: str, found: tuple[str, str] | None
) -> None:
    assert find_version_change(old, new, re.compile(r"\d\.\d")) == found


def test_texts_that_share_a_start() -> None:
    assert common_prefix_length("abc", "abd") == 2
    assert common_prefix_length("ab", "abc") == 2
    assert common_prefix_length("", "a") == 0


def test_common_prefixes_are_those_that_a_loop_finds() -> None:
    dice = random.Random(0)
    for _ in range(3000):
        a, b = ("".join(dice.choices("ab", k=dice.randrange(9))) for _ in range(2))
        same = next((i for i, (x, y) in enumerate(zip(a, b, strict=False)) if x != y), min(len(a), len(b)))
        assert common_prefix_length(a, b) == same, (a, b)
