"""The prompt of causal language models."""

from collections.abc import Sequence

import pytest

from gitpeft.diff.facts import extract_facts
from gitpeft.diff.model_input import PROMPT_ENDING
from gitpeft.diff.patch import FileChange, Hunk
from gitpeft.diff.prompt import PROMPT_BUDGET, encode_context, render_prompt
from gitpeft.diff.stored import ChangeContent
from gitpeft.lazy import replace_fields


def encode(texts: Sequence[str]) -> list[list[int]]:
    return [list(text.encode()) for text in texts]


def make_change(path: str, *lines: str, status: str = "M") -> FileChange:
    added, removed = (sum(line[0] == sign for line in lines) for sign in "+-")
    return FileChange(path, status, None, added, removed, "text", [Hunk("", list(lines))])


def render(
    files: Sequence[FileChange],
    total: int = 2000,
    like: Sequence[str] = (),
    previous: str = "",
    more: int = 0,
) -> str:
    content = ChangeContent(files, "; ".join(extract_facts(files)), more)
    budget = replace_fields(PROMPT_BUDGET, total=total, exemplar_tokens=99, previous_tokens=99)
    pieces = render_prompt(content, like, previous, encode, replace_fields(budget, file_tokens=999))
    return bytes(i for piece in pieces for i in piece.ids).decode()


def test_the_layout() -> None:
    change = make_change("a.py", " def f():", "-    x = read(1)", "+    x = read(2)", "+import os", "+# why")
    change.hunks[0].heading = "class Reader"
    assert render([change], like=["Fix dates (#3)", "Add tests, closes #4"], previous="Fix it (#5)") == (
        "Similar commits:\n- Fix dates\n- Add tests\nPrevious commit: Fix it\n"
        "Facts: replaces 1 -> 2\n"
        "file a.py +3 -1\n@ class Reader\n  def f():\n~ x = read([-1-]{+2+})\n+ import os\n+ # why\n"
        "Commit message:"
    )


@pytest.mark.parametrize("previous", ["", "Fix it (#5)"])
@pytest.mark.parametrize("like", [[], ["Fix dates (#3)"], ["A", "B", "C", "D"]])
def test_a_prompt_begins_with_its_context(like: list[str], previous: str) -> None:
    """All that does not depend on the change."""
    context = bytes(encode_context(like, previous, encode, PROMPT_BUDGET)).decode()
    content = ChangeContent([make_change("a.py", "+x = 1")], "adds x")
    pieces = render_prompt(content, like, previous, encode, replace_fields(PROMPT_BUDGET, total=2000))
    text = bytes(i for piece in pieces for i in piece.ids).decode()
    assert text.startswith(f"{context}Facts: adds x\nfile a.py")


def test_without_surroundings() -> None:
    assert render([]) == PROMPT_ENDING


@pytest.mark.parametrize("total", [300, 600, 1200])
def test_a_prompt_is_bounded(total: int) -> None:
    files = [make_change(f"{name}.py", *[f"+line {i} of {name}" for i in range(80)]) for name in "abc"]
    prompt = render(files, total)
    assert len(prompt) <= total
    assert prompt.endswith(PROMPT_ENDING)


def test_every_file_gets_a_share() -> None:
    large = make_change("large.py", *[f"+value = compute({i})" for i in range(90)])
    prompt = render([large, make_change("small.py", "+tiny = 1")], 600)
    assert "+ tiny = 1" in prompt
    assert "value = compute" in prompt


def test_added_and_removed_lines_are_distinguished() -> None:
    prompt = render([make_change("a.py", "-goodbye", " x", "+welcome", " y", "-size = 1", "+size = 2")])
    assert "\n- goodbye\n" in prompt
    assert "\n+ welcome\n" in prompt
    assert "\n~ size = [-1-]{+2+}\n" in prompt


def test_changed_lines_come_before_headings_context_comments_and_imports() -> None:
    change = make_change("a.py", " before = 1", "+import os", "+# a comment", "+value = 1")
    prompt = render([change], len("Facts: only added lines\nfile a.py +3\n+ value = 1\nCommit message:") + 5)
    assert "+ value = 1" in prompt
    assert "import" not in prompt and "comment\n" not in prompt and "before" not in prompt


def test_files_without_room_are_named() -> None:
    files = [make_change(f"f{i:02}.py", f"+x{i:02} = {i}") for i in range(30)]
    prompt = render(files, 900, more=7)
    assert "Also: file f" in prompt
    assert f"and {30 - 11 - 12 + 7} more" in prompt


def test_code_comes_before_tests_and_other_files() -> None:
    files = [
        make_change("README.md", "+a", "+b", "+c"),
        make_change("tests/t.py", "+d", "+e"),
        make_change("a.py", "+f"),
    ]
    prompt = render(files)
    assert prompt.index("file a.py") < prompt.index("file tests/t.py") < prompt.index("file README.md")


def test_pieces_say_which_line_they_show() -> None:
    change = make_change("a.py", "-x = 1", "+x = 2", "-gone = 3")
    pieces = render_prompt(
        ChangeContent([change], ""), (), "", encode, replace_fields(PROMPT_BUDGET, total=999)
    )
    assert [(piece.path, piece.line) for piece in pieces] == [
        ("a.py", ""),
        ("a.py", "+x = 2"),
        ("a.py", "-gone = 3"),
        ("", ""),
    ]
