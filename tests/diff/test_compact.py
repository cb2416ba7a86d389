"""The compact form of a change: bounded, printable, without secrets, and readable again."""

import pytest
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from gitpeft.diff.compact import (
    MAX_COMPACT_LENGTH,
    MAX_FILES_LISTED,
    compact_change,
    divide_fairly,
    split_compact,
)
from gitpeft.diff.patch import FileChange, Hunk, normalize_line
from gitpeft.redaction import mask_secrets
from tests.support.changes import FILE_CHANGES


@profile(max_examples=60)
@given(FILE_CHANGES)
def test_compact_is_bounded_and_printable(files: list[FileChange]) -> None:
    text = compact_change(files)
    assert len(text) <= MAX_COMPACT_LENGTH
    assert all(line.isprintable() for line in text.split("\n"))
    assert text == compact_change(files)


@profile(max_examples=60)
@given(FILE_CHANGES)
def test_compact_can_be_split_again(files: list[FileChange]) -> None:
    text = compact_change(files)
    listed, blocks = split_compact(text)
    count = sum(1 for line in text.split("\n") if line.startswith("~"))
    assert len(listed) == len(files) if not count else len(listed) < len(files)
    known = {change.path for change in files}
    short = [path for _, path in listed if len(path) < 200 and path]
    assert all(path in known for path in short)
    for path, lines in blocks.items():
        assert any(full.startswith(path) for full in known)
        assert lines and all(line[0] in "@+- " for line in lines)


def test_a_compact_text_in_full() -> None:
    text = "\n".join(f"+line {i}" for i in range(3))
    small = FileChange("a.py", "A", added=3, hunks=[Hunk("", text.split("\n"))])
    large = FileChange(
        "b.py", "R", "old/b.py", 4, 1,
        hunks=[
            Hunk("def  f():", [" \tx = 1", "-\ty =  2", "+   ", "+\tz\x07 = 3"]),
            Hunk("def f():", [" x = 4", "+y"]),
        ],
    )  # fmt: skip
    image = FileChange("c.png", "D", kind="binary")
    assert compact_change([image, small, large]).split("\n") == [
        "Rb.py +4 -1 <old/b.py", "Aa.py +3 -0", "Dc.png +0 -0 (binary)",
        "#b.py", "@def f():", " x = 1", "-y = 2", "+z = 3", " x = 4", "+y",
        "#a.py", "@", "+line 0", "+line 1", "+line 2",
    ]  # fmt: skip


@pytest.mark.parametrize("at", range(90, 170, 5))
@pytest.mark.parametrize(
    "secret", ["password='Tr0ub4dor&3xkcdZq9correct-horse'", "ghp_" + "aB3dE5gH7jK9" * 3]
)
def test_a_secret_at_the_cut_does_not_come_through_in_half(secret: str, at: int) -> None:
    """Half of one is not known as one: lines are masked before they are cut."""
    hunk = Hunk(heading="f", lines=["+" + "word " * (at // 5) + secret + " end"])
    change = FileChange("a.py", status="M", added=1, hunks=[hunk])
    shown = mask_secrets(compact_change([change]))
    assert secret[:15] not in shown and secret[10:25] not in shown
    folded = normalize_line(" " * 500 + "word " * 9 + secret)  # cut before it is folded
    assert secret[:15] not in mask_secrets(folded) and folded.startswith("word ")


def test_files_beyond_the_list_are_counted() -> None:
    files = [FileChange(f"f{i}.py", "M", added=i) for i in range(MAX_FILES_LISTED + 7)]
    text = compact_change(files)
    assert text.split("\n")[-1] == "~7"
    assert len(split_compact(text)[0]) == MAX_FILES_LISTED
    assert compact_change(files[:MAX_FILES_LISTED]).count("~") == 0


def test_long_paths_leave_room_for_what_changed() -> None:
    """Two dozen paths of 120 characters would fill the text by themselves."""
    files = [
        FileChange(f"{'deep/' * 24}f{i}.py", "M", added=9, hunks=[Hunk("def f():", ["+x = 1"])])
        for i in range(24)
    ]
    text = compact_change(files)
    assert len(text) <= MAX_COMPACT_LENGTH
    listed, _ = split_compact(text)
    assert f"~{24 - len(listed)}" in text.split("\n")


@pytest.mark.parametrize("name", ["x <y.txt", "x +1 -2.txt", "a (binary)", "#x", "~x", " x", "x <y +1 -0"])
def test_a_path_is_read_back_whatever_it_looks_like(name: str) -> None:
    change = FileChange(name, "M", added=1, hunks=[Hunk("", ["+x = 1"])])
    listed, blocks = split_compact(compact_change([change]))
    assert [path for _, path in listed] == [name] == list(blocks)
    renamed = FileChange("new.txt", "R", name, 1, 0, hunks=[Hunk("", ["+x = 1"])])
    assert [path for _, path in split_compact(compact_change([renamed]))[0]] == ["new.txt"]


@example([0, 0, 1], 1)
@example([0, 3, 0, 300], 3)
@given(st.lists(st.integers(0, 400), max_size=12), st.integers(-5, 2000))
def test_shares_are_fair(wanted: list[int], room: int) -> None:
    given_ = divide_fairly(wanted, room)
    assert len(given_) == len(wanted)
    assert all(0 <= g <= w for g, w in zip(given_, wanted, strict=True))
    assert sum(given_) <= max(room, 0)
    short = [g for g, w in zip(given_, wanted, strict=True) if g < w]
    full = [g for g, w in zip(given_, wanted, strict=True) if g == w]
    if not short:
        return
    assert len(set(short)) == 1, "those who get less than they want get alike"
    assert max(full, default=0) <= short[0], "nobody gets more than one who wants more"
    assert max(room, 0) - sum(given_) < len(short), "nothing is left that could have been divided"
