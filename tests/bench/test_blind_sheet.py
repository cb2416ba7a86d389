"""The sheet for reading offers blind: it hides whose line is whose, and its marks are counted by system."""

import pytest

from tests.bench import blind_sheet

ROWS = [
    {
        "history": "flask",
        "sha": f"{number:040x}",
        "change": f" a{number}.py +1 -0\n#a{number}.py\n@\n+x = {number}",
        "team": f"Set x to {number}",
        "offers": {
            "mini": {"text": f"Add x {number}", "offered": number % 2 == 0},
            "smol": {"text": "", "offered": False},
        },
    }
    for number in range(10)
]


def fill(sheet: str, key: dict[str, dict[str, str]], marks: dict[str, int]) -> str:
    lines = []
    for line in sheet.splitlines():
        name = line.partition(".")[0]
        lines.append(line.replace("[ ]", f"[{marks[key[name]['system']]}]") if name in key else line)
    return "\n".join(lines)


def test_a_sheet_names_no_system_and_its_key_names_all() -> None:
    sheet, key = blind_sheet.make_sheet(ROWS, 6, seed=1)
    assert len(key) == 18 and {one["system"] for one in key.values()} == {"team", "mini", "smol"}
    assert not any(word in sheet for word in ("mini", "smol", "team", "flask"))
    assert sheet.count("[ ]") == 18 and "+x = " in sheet
    orders = {tuple(key[f"{n}{letter}"]["system"] for letter in "abc") for n in range(1, 7)}
    assert len(orders) > 1, "in random order"


def test_marks_are_counted_at_full_coverage_and_at_the_threshold() -> None:
    sheet, key = blind_sheet.make_sheet(ROWS, 10, seed=1)
    marks = blind_sheet.read_marks(fill(sheet, key, {"team": 3, "mini": 2, "smol": 0}))
    table = "\n".join(blind_sheet.summarise_marks(marks, key))
    assert "| team | 10 | 100 % | 3.00 | 100 %" in table
    assert "| mini | 10 | 100 % | 2.00 | 100 %" in table and "| mini, at its threshold | 5 | 50 %" in table
    assert "| smol | 10 | 100 % | 0.00 | 0 % (0–0) | 100 %" in table


def test_a_missing_mark_is_reported() -> None:
    sheet, _ = blind_sheet.make_sheet(ROWS, 2, seed=1)
    with pytest.raises(ValueError, match="6 lines have no mark, the first is 1a"):
        blind_sheet.read_marks(sheet)
