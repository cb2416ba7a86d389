"""From a base's candidates to a sheet, and from a filled sheet to marks."""

import json
import random
from pathlib import Path

from gitpeft.learn.data.dataset import Example
from gitpeft.learn.pretraining.base_reranker import read_marks
from tests.bench import mark_sheets


def test_a_filled_sheet_becomes_marks_that_are_added_to_earlier_ones(tmp_path: Path) -> None:
    one = Example("M a.py\n@@\n-x = 1\n+x = 2", "Set x to 2", "", (), "0123456789ab")
    question = ("a/b", one, one.change, ["Fix x", 'Say "x"', "Set x to 2"])
    sheet, key = mark_sheets.format_sheet([question], random.Random(0))
    assert "+x = 2" in sheet and sheet.count("[ ]") == len(key) == 3, "the team's own message is one of them"
    assert sheet == mark_sheets.format_sheet([question], random.Random(0))[0]
    marked = {"Fix x": 1, 'Say "x"': 0, "Set x to 2": 3}
    for text, mark in marked.items():
        sheet = sheet.replace(f"{text} [ ]", f"{text} [{mark}]")
    (tmp_path / "sheet-1.md").write_text(sheet)
    (tmp_path / "key-1.json").write_text(json.dumps(key))
    path = tmp_path / "marks.tsv"
    path.write_text("repository\tcommit\tmark\tmessage\nc/d\t4567\t2\tKeep me\n")
    mark_sheets.collect_marks(tmp_path, path)
    expected = {("0123456789ab", text): mark for text, mark in marked.items()} | {("4567", "Keep me"): 2}
    assert read_marks(path) == expected
    mark_sheets.collect_marks(tmp_path, path)
    assert read_marks(path) == expected, "collecting twice changes nothing"
