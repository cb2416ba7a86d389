"""The list of the contract and the suite, held against each other.

hooks/README.md has a row for every id with the test that proves it. A test carries an id in its name (`_b7_`)
or docstring (`B7`). An id that cannot be shown on the machines of this project says so, with the reason.
"""

import ast
import re
from pathlib import Path

import pytest

CHECKOUT = Path(__file__).resolve().parents[2]
COUNTS = {"A": 18, "B": 14, "C": 14, "D": 10, "E": 17, "F": 7, "G": 4, "H": 8, "I": 5, "J": 12}
IDS = [f"{group}{n}" for group, last in COUNTS.items() for n in range(1, last + 1)]
ROW = re.compile(r"^\| ([A-J]\d+) \| (.+?) \| (.+?) \|$", re.MULTILINE)


def rows() -> dict[str, str]:
    """The proof column of the table, by id."""
    return {id_: proof for id_, _, proof in ROW.findall((CHECKOUT / "hooks" / "README.md").read_text())}


def suite_of() -> dict[str, str]:
    """Every test function of the suite, `file::name`, with its docstring."""
    found = {}
    for path in sorted((CHECKOUT / "tests").rglob("test_*.py")):
        for node in ast.parse(path.read_text()).body:
            if isinstance(node, ast.FunctionDef) and node.name.startswith("test_"):
                found[f"{path.name}::{node.name}"] = ast.get_docstring(node) or ""
    return found


def carries(test: str, docstring: str, id_: str) -> bool:
    name = test.partition("::")[2]
    return (
        re.search(rf"_{id_.lower()}(?=_|$)", name) is not None
        or re.search(rf"\b{id_}\b", docstring) is not None
    )


def test_the_table_has_a_row_for_every_id_and_no_other() -> None:
    listed = [id_ for id_, _, _ in ROW.findall((CHECKOUT / "hooks" / "README.md").read_text())]
    assert listed == IDS


@pytest.mark.parametrize("id_", IDS)
def test_every_id_has_a_test_that_carries_it(id_: str) -> None:
    suite = suite_of()
    named = re.findall(r"`(test_\w+\.py::test_\w+)`", rows()[id_])
    assert named, f"{id_} names no test"
    for test in named:
        assert test in suite, f"{id_} names {test}, which does not exist"
        assert carries(test, suite[test], id_), f"{test} does not carry {id_}"


def test_what_is_not_shown_gives_its_reason() -> None:
    for id_, proof in rows().items():
        if "not shown" in proof:
            assert re.search(r"not shown: \w+ .{15,}", proof), f"{id_}: {proof}"
