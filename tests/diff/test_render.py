"""The renderer: budgets, sections and their order, and the cleaning of subjects."""

import re
from collections.abc import Sequence
from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from gitpeft.diff.compact import compact_change
from gitpeft.diff.patch import FileChange, Hunk
from gitpeft.diff.render import SECTION_MARKS, TokenBudget, render_change
from gitpeft.diff.subjects import clean_subject
from tests.support.changes import FILE_CHANGES, TEXTS


class Characters:
    """A codec whose tokens are characters; marks are negative, so that they are told apart."""

    def __init__(self) -> None:
        self.marks = {mark: [-1 - number] for number, mark in enumerate(SECTION_MARKS)}

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(c) for c in text] for text in texts]

    def read(self, ids: Sequence[int]) -> list[tuple[str, str]]:
        """(mark, text) of each section."""
        names = {ids_[0]: mark for mark, ids_ in self.marks.items()}
        found: list[tuple[str, str]] = []
        for i in ids:
            if i < 0:
                found.append((names[i], ""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + chr(i))
        return found


CODEC = Characters()
_BUDGETS = st.builds(
    TokenBudget,
    total=st.integers(0, 700),
    exemplars=st.integers(0, 4),
    exemplar_tokens=st.integers(0, 40),
    previous_tokens=st.integers(0, 40),
    file_tokens=st.integers(0, 400),
)
_SUBJECTS = st.lists(st.text(st.characters(codec="ascii"), max_size=60), max_size=5)


@profile(max_examples=60)
@given(FILE_CHANGES, _SUBJECTS, TEXTS, _BUDGETS)
def test_rendering_never_exceeds_its_budget(
    files: list[FileChange], like: list[str], previous: str, budget: TokenBudget
) -> None:
    change = compact_change(files)
    ids = render_change(change, like, previous, budget, CODEC)
    assert len(ids) <= budget.total
    assert ids == render_change(change, like, previous, budget, CODEC)


def many(count: int, lines: int = 20) -> str:
    hunk = Hunk("def f():", [f"+value{i} = {i}" for i in range(lines)])
    return compact_change([FileChange(f"f{i}.py", "M", added=lines, hunks=[hunk]) for i in range(count)])


def test_sections_in_their_order() -> None:
    change = compact_change(
        [
            FileChange("a.py", "A", added=2, hunks=[Hunk("def f():", [" x", "+y = 1", "-z = 2", "+)"])]),
            FileChange("b.py", "R", "c.py"),
        ]
    )
    sections = CODEC.read(
        render_change(change, ["one", "two"], "before (#12)", TokenBudget(total=300), CODEC)
    )
    assert sections == [
        ("like", "one"), ("like", "two"), ("previous", "before"),
        ("file", "a.py +2 -0 new"),
        ("hunk", "def f():"), ("keep", "x"), ("add", "y = 1"), ("delete", "z = 2"),
        ("file", "b.py +0 -0 renamed"),
    ]  # fmt: skip


def test_every_listed_file_has_its_line_while_the_tokens_last() -> None:
    change = many(24)
    name = 1 + len("f10.py +20 -0")
    for count in (1, 5, 24):
        budget = TokenBudget(total=2000, file_tokens=count * name, exemplars=0)
        sections = CODEC.read(render_change(change, (), "", budget, CODEC))
        assert count <= sum(mark == "file" for mark, _ in sections) <= count + 1
    tight = TokenBudget(total=2000, file_tokens=0, exemplars=0)
    assert [mark for mark, _ in CODEC.read(render_change(change, (), "", tight, CODEC))].count("file") == 1


def test_every_shown_file_has_its_share_of_the_diff() -> None:
    budget = TokenBudget(total=500, file_tokens=200, exemplars=0)
    sections = CODEC.read(render_change(many(8), (), "", budget, CODEC))
    spent: list[int] = []
    for mark, text in sections:
        if mark == "file":
            spent.append(0)
        else:
            spent[-1] += 1 + len(text)
    assert len(spent) == 8 and max(spent) - min(spent) <= 1 and sum(spent) > 280


def test_a_small_file_leaves_its_share_to_the_large_one() -> None:
    small = FileChange("s.py", "M", added=1, hunks=[Hunk("", ["+one = 1"])])
    large = FileChange("l.py", "M", added=40, hunks=[Hunk("", [f"+value{i} = {i}" for i in range(40)])])
    budget = TokenBudget(total=300, exemplars=0)
    ids = render_change(compact_change([small, large]), (), "", budget, CODEC)
    assert len(ids) == 300
    assert ("add", "one = 1") in CODEC.read(ids)


def test_few_tokens_go_to_few_files() -> None:
    """Less than sixteen tokens of a file say nothing."""
    budget = TokenBudget(total=150, file_tokens=100, exemplars=0)
    sections = CODEC.read(render_change(many(8), (), "", budget, CODEC))
    followed = [a for (a, _), (b, _) in pairwise(sections) if b in ("hunk", "add")]
    assert 1 <= followed.count("file") <= 4


def test_what_is_missing_is_left_out() -> None:
    change = compact_change([FileChange("a.py", "M", kind="binary")])
    assert CODEC.read(render_change(change, (), "", TokenBudget(), CODEC)) == [
        ("file", "a.py +0 -0 (binary)")
    ]
    assert render_change("", (), "", TokenBudget(), CODEC) == []
    assert CODEC.read(render_change("", ["x"], " (#3) ", TokenBudget(), CODEC)) == [("like", "x")]
    assert (
        CODEC.read(render_change("", ["x"] * 9, "", TokenBudget(exemplars=2), CODEC)) == [("like", "x")] * 2
    )


def test_a_long_path_keeps_its_end() -> None:
    change = compact_change([FileChange("very/" * 20 + "deep/file.py", "D", removed=3)])
    ((_, text),) = CODEC.read(render_change(change, (), "", TokenBudget(), CODEC))
    assert "very/very/deep/file.py +0 -3 deleted".endswith(text) and len(text) >= 20


@pytest.mark.parametrize(
    ("subject", "clean"),
    [
        ("fix: it (#12)", "fix: it"),
        ("fix: it (GH-12)", "fix: it"),
        ("fix (#1) and more", "fix (#1) and more"),
        ("  two   spaces\t(#9) ", "two spaces"),
        ("backport: fix (#12) (#345)", "backport: fix"),
        ("(#12)", ""),
        ("", ""),
        ("call f(#12x)", "call f(#12x)"),
    ],
)
def test_a_clean_subject_has_no_number_of_a_forge(subject: str, clean: str) -> None:
    assert clean_subject(subject) == clean


@given(st.lists(st.sampled_from(["fix", " ", "(#1)", "(gh-2)", "(", ")", "x"]), max_size=8).map("".join))
def test_cleaning_twice_is_cleaning_once(subject: str) -> None:
    once = clean_subject(subject)
    assert clean_subject(once) == once and not re.search(r"\(#\d+\)$", once)
