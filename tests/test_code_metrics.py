"""The script that compares versions of the code, on a package of two modules."""

import json
from pathlib import Path

import pytest

from tests.bench import code_metrics

FIRST = '''\
"""Parsing: hides the format."""

from typing import Any


class _Report:
    def __init__(self, name: str) -> None:
        self.name = name

    def read(self, found: dict[str, Any]) -> str:
        found["left"] = 1
        return found["name"] + found[self.name]


def parse_name(text):
    def one(line: str) -> "list[Any]":
        return [line]
    return one(text)
'''
SECOND = '''\
class Report:
    pass


def first_sum(numbers: list[int]) -> int:
    """Adds."""
    total = 0
    for one in numbers:
        total += one
    return total


def second_sum(lengths: list[int]) -> int:
    whole = 9
    for length in lengths:
        whole += length
    return whole
'''


@pytest.fixture
def checkout(tmp_path: Path) -> Path:
    (tmp_path / "gitpeft" / "learn").mkdir(parents=True)
    (tmp_path / "gitpeft" / "learn" / "first.py").write_text(FIRST)
    (tmp_path / "gitpeft" / "second.py").write_text(SECOND)
    (tmp_path / "gitpeft" / "__init__.py").write_text("")
    (tmp_path / "README.md").write_text("# A title\n\nthree more words\n")
    return tmp_path


def test_what_is_counted(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code_metrics.main(["--json", f"now={checkout}"])
    found = json.loads(capsys.readouterr().out)["now"]
    assert found["modules_per_package"] == {".": 1, "learn": 1}
    assert found["functions"] == 6
    assert found["function_lines_longest"] == 6
    assert found["one_word_functions"] == 2, "read and one; not __init__"
    assert found["one_word_share"] == 40.0
    assert found["class_names_in_several_modules"] == 1, "an underscore makes no other name"
    assert (found["signatures"], found["signatures_with_any"]) == (5, 2)
    assert found["string_subscripts"] == found["string_subscripts_in_reports"] == 1, "reads, by a literal"
    assert found["duplicate_pairs"] == 1
    assert found["hiding_docstrings"] == 1
    assert found["readme_words"] == 6


def test_a_column_for_each_checkout(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code_metrics.main([f"before={checkout}", f"after={checkout}"])
    [head, first, *_] = capsys.readouterr().out.splitlines()
    assert head.split() == ["before", "after"]
    assert first.split() == ["modules", "2", "2"]


def test_the_places_behind_a_count(checkout: Path, capsys: pytest.CaptureFixture[str]) -> None:
    code_metrics.main(["--list", "one_word_functions", str(checkout)])
    assert capsys.readouterr().out.splitlines() == ["learn/first:10 read", "learn/first:16 one"]
