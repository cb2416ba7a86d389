"""The stored form of a change, what is made of it, and that a prompt of it shows the same as the change."""

from collections.abc import Sequence

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitpeft.diff.compact import compact_change, split_compact
from gitpeft.diff.facts import extract_facts
from gitpeft.diff.patch import FileChange, Hunk
from gitpeft.diff.prompt import PROMPT_BUDGET, render_prompt
from gitpeft.diff.stored import (
    MAX_FILES_READ,
    MAX_STORED_LENGTH,
    ChangeContent,
    read_stored_change,
    shorten_change,
    store_change,
)
from gitpeft.redaction import PLACEHOLDER, mask_secrets

WORDS = st.text("ab(=.1 \t", max_size=12)
HUNKS = st.builds(
    Hunk,
    st.sampled_from(["", "def f", "class A"]),
    st.lists(st.builds(str.__add__, st.sampled_from("+- "), WORDS)),
)
KINDS = st.sampled_from(["text", "text", "text", "binary", "generated"])


def encode(texts: Sequence[str]) -> list[list[int]]:
    return [list(text.encode()) for text in texts]


def make_file(path: str, hunks: list[Hunk], kind: str = "text", status: str = "M") -> FileChange:
    lines = [line for hunk in hunks for line in hunk.lines]
    added, removed = (sum(line[0] == sign for line in lines) for sign in "+-")
    old = "before/" + path if status == "R" else None
    return FileChange(path, status, old, added, removed, kind, hunks if kind == "text" else [])


@st.composite
def changes(draw: st.DrawFn) -> list[FileChange]:
    paths = draw(st.lists(st.sampled_from(["a.py", "b/c d.go", "tests/t.py", "x.md", "y"]), unique=True))
    return [
        make_file(path, draw(st.lists(HUNKS, max_size=3)), draw(KINDS), draw(st.sampled_from("MMADR")))
        for path in paths
    ]


def render(content: ChangeContent) -> str:
    pieces = render_prompt(content, ["Fix dates"], "Add tests", encode, PROMPT_BUDGET)
    return bytes(i for piece in pieces for i in piece.ids).decode()


@settings(max_examples=150, deadline=None)
@given(changes())
def test_a_prompt_of_the_stored_text_is_that_of_the_change(files: list[FileChange]) -> None:
    largest_first = sorted(files, key=lambda c: (c.kind == "text", c.added + c.removed), reverse=True)
    direct = ChangeContent(largest_first, "; ".join(extract_facts(largest_first)) if files else "")
    assert render(read_stored_change(store_change(files))) == render(direct)


@settings(max_examples=150, deadline=None)
@given(changes())
def test_the_compact_form_is_made_of_the_stored_one(files: list[FileChange]) -> None:
    assert shorten_change(store_change(files)) == compact_change(files)


def test_a_compact_text_of_an_earlier_version_is_read() -> None:
    change = make_file("a.py", [Hunk("def f", [" x", "-size = 1", "+size = 2"])])
    text = compact_change([change])
    assert shorten_change(text) == text
    content = read_stored_change(text)
    assert content.facts == "sets size: 1 -> 2"
    assert content.files == [change]
    assert read_stored_change("") == ChangeContent([], "")
    assert store_change([]) == "" == shorten_change("")


def test_a_large_change_is_bounded_and_every_file_has_its_share() -> None:
    lines = [f"+value_{i} = compute({i})" for i in range(120)]
    files = [make_file(f"src/f{i:02}.py", [Hunk("", lines)]) for i in range(60)]
    text = store_change(files)
    assert len(text) <= MAX_STORED_LENGTH
    content = read_stored_change(text)
    assert (len(content.files), content.unlisted) == (MAX_FILES_READ, 60 - MAX_FILES_READ)
    shown = [len(change.hunks[0].lines) for change in content.files if change.hunks]
    assert len(shown) == 12 and max(shown) - min(shown) <= 2
    assert shorten_change(text).count("\n~36\n") == 1


def test_facts_are_those_of_the_whole_change() -> None:
    first = make_file("a.py", [Hunk("", [f"+line {'x' * 150} {i}" for i in range(100)])])
    last = make_file("z.py", [Hunk("", [f"+x{i} = 1" for i in range(80)] + ["+def told_late(): ..."])])
    content = read_stored_change(store_change([first, last]))
    assert "adds function told_late" in content.facts


@pytest.mark.parametrize("long", [False, True])
def test_no_secret_is_in_the_facts(long: bool) -> None:
    lines = ['-password = "hunter22"', '+password = "correct-horse1"'] + ["+x = 1"] * (110 if long else 0)
    text = store_change([make_file("a.py", [Hunk("", lines)])])
    assert "hunter22" not in text.partition("\n")[0] and "correct-horse1" not in text.partition("\n")[0]
    assert "hunter22" not in mask_secrets(text)
    assert PLACEHOLDER in mask_secrets(text)


def test_a_generated_file_and_unprintable_characters() -> None:
    marked = make_file("api.txt", [], kind="generated")
    odd = make_file("a.py", [Hunk("", ["+a\x1b[31m\tb\r", "+\N{NO-BREAK SPACE}c"])])
    text = store_change([marked, odd])
    assert all(line.isprintable() for line in text.split("\n"))
    assert [change.kind for change in read_stored_change(text).files] == ["text", "generated"]


def test_a_stored_text_is_split_like_a_compact_one() -> None:
    files = [make_file("a.py", [Hunk("", ["+x = 1"])]), make_file("b.bin", [], kind="binary")]
    assert split_compact(store_change(files)) == (
        [("a.py +1 -0", "a.py"), ("b.bin +0 -0 (binary)", "b.bin")],
        {"a.py": ["@", "+x = 1"]},
    )
