"""The prompt, the facts and the grounding rules of the SmolLM2 scripts."""

from collections.abc import Sequence

import pytest

from gitpeft.diff.grounding import ChangeSize
from gitpeft.diff.patch import FileChange, Hunk
from tests.bench.smol.edits import pair_lines
from tests.bench.smol.facts import extract_facts
from tests.bench.smol.grounding import judge_message
from tests.bench.smol.prompt import PromptBudget, render_prompt


def encode(texts: Sequence[str]) -> list[list[int]]:
    return [list(text.encode()) for text in texts]


def make_change(path: str, *lines: str, status: str = "M") -> FileChange:
    added, removed = (sum(line[0] == sign for line in lines) for sign in "+-")
    return FileChange(path, status, None, added, removed, "text", [Hunk("", list(lines))])


def render(files: Sequence[FileChange], total: int = 2000) -> str:
    return bytes(render_prompt(files, [], "", encode, PromptBudget(total))).decode()


def test_facts_name_what_is_added_and_removed() -> None:
    facts = extract_facts([make_change("a.py", "-def read_old(): ...", " x", "+def write_new(): ...")])
    assert "adds function write_new" in facts
    assert "removes function read_old" in facts


def test_facts_name_a_version() -> None:
    facts = extract_facts([make_change("setup.py", "-flask==1.2.3", "+flask==1.3.0")])
    assert "version flask 1.2.3 -> 1.3.0" in facts


def test_facts_name_the_limits_of_a_change() -> None:
    assert extract_facts([make_change("docs/a.md", "+Some words")])[0] == "only docs, added lines"


@pytest.mark.parametrize("total", [300, 600, 1200])
def test_a_prompt_is_bounded(total: int) -> None:
    files = [make_change(f"{name}.py", *[f"+line {i} of {name}" for i in range(80)]) for name in "abc"]
    prompt = render(files, total)
    assert len(prompt) <= total
    assert prompt.endswith("Commit message:")


def test_every_file_gets_a_share() -> None:
    large = make_change("large.py", *[f"+value = compute({i})" for i in range(90)])
    small = make_change("small.py", "+tiny = 1")
    prompt = render([large, small], 600)
    assert "+ tiny = 1" in prompt
    assert "value = compute" in prompt


def test_added_and_removed_lines_are_distinguished() -> None:
    prompt = render([make_change("a.py", "-goodbye", " x", "+welcome", " y", "-size = 1", "+size = 2")])
    assert "\n- goodbye\n" in prompt
    assert "\n+ welcome\n" in prompt
    assert "\n~ size = [-1-]{+2+}\n" in prompt


def test_similar_lines_are_paired() -> None:
    assert pair_lines(["size = 1"], ["import os", "size = 2"]) == [
        (None, "import os"),
        ("size = 1", "size = 2"),
    ]


def test_an_invented_version_is_refused() -> None:
    size = ChangeSize(1, 1, False, False)
    assert judge_message("Update flask to 9.7", "flask 1.2 -> 1.3", "", size).chance == 0


def test_a_grounded_message_is_kept_and_another_rarely() -> None:
    size = ChangeSize(5, 5, False, False)
    assert judge_message("Fix parser of dates", "def parser(dates)", "", size).chance == 1
    assert judge_message("Fix quantum banana", "def parser(dates)", "", size).chance < 0.1
