"""Sheets of a base's candidates for readers to mark, and what they marked as the recipe's `marks` file.

    python -m tests.bench.mark_sheets make RECIPE --corpus CLONES --work WORK --base BASE --out SHEETS
    python -m tests.bench.mark_sheets collect SHEETS MARKS.tsv

The candidates are those of `gitpeft base build --finish` (kept in WORK) that the base's reranker puts first
and that have no mark yet, the team's own message among them, in random order. Marks are as in
`blind_sheet.py`, and are written into the brackets.
"""

import argparse
import json
import random
from collections.abc import Sequence
from pathlib import Path

from gitpeft.learn.data.dataset import Example
from gitpeft.learn.pretraining.base_reranker import MarkRow, read_mark_rows, read_marks
from gitpeft.suggest.reranker import MAX_WEIGHED
from tests.bench.blind_sheet import LETTERS, format_question
from tests.bench.blind_sheet import read_marks as read_sheet
from tests.bench.recipe_answers import add_arguments, open_answers

Question = tuple[str, Example, str, list[str]]
"""Repository, commit, its change and candidates."""


def make_sheets(args: argparse.Namespace) -> None:
    """Write `args.parts` sheets and their keys into `args.out`."""
    answers = open_answers(args)
    marks_path = answers.recipe.folder / answers.rules.marks
    known = set(read_marks(marks_path)) if answers.rules.marks and marks_path.exists() else set()
    reranker, questions = answers.base.load_reranker(), list[Question]()
    for name in answers.rules.repositories:
        new = []
        for one in answers.ask_once(name):
            first = [c.message for c in reranker.list_fitting(one.found)[:MAX_WEIGHED]]
            if texts := [text for text in first if (one.example.sha, text) not in known]:
                new.append((one.example, texts))
        if new:
            changes = {one.sha: one.change for one in answers.mine_examples(name)}
            questions += [(name, one, changes[one.sha], texts) for one, texts in new]
    args.out.mkdir(parents=True, exist_ok=True)
    for part in range(args.parts):
        chosen = questions[part * len(questions) // args.parts : (part + 1) * len(questions) // args.parts]
        sheet, key = format_sheet(chosen, random.Random(part))
        (args.out / f"sheet-{part + 1}.md").write_text(sheet, encoding="utf-8")
        (args.out / f"key-{part + 1}.json").write_text(json.dumps(key, indent=1), encoding="utf-8")
        print(f"sheet-{part + 1}.md: {len(chosen)} changes, {len(key)} lines")


def format_sheet(questions: Sequence[Question], rng: random.Random) -> tuple[str, dict[str, list[str]]]:
    """The text of a sheet, and its key: repository, commit and message by line."""
    parts, key = [], dict[str, list[str]]()
    for number, (name, one, change, new) in enumerate(questions, 1):
        texts = list(dict.fromkeys([*new, one.message]))
        rng.shuffle(texts)
        key |= {
            f"{number}{letter}": [name, one.sha, text] for letter, text in zip(LETTERS, texts, strict=False)
        }
        parts.append(format_question(number, change, texts))
    return "\n\n".join(parts) + "\n", key


def collect_marks(folder: Path, path: Path) -> None:
    """Add the marks of filled sheets to those of a file; of two for one message the later one counts."""
    rows = {row[:2] + row[3:]: row for row in read_mark_rows(path)} if path.exists() else {}
    for sheet in sorted(folder.glob("sheet-*.md")):
        key = json.loads((folder / sheet.name.replace("sheet", "key")).with_suffix(".json").read_text())
        for line, mark in read_sheet(sheet.read_text(encoding="utf-8")).items():
            name, sha, text = key[line]
            rows[name, sha, text] = MarkRow(name, sha, str(mark), text)
    lines = ["\t".join(MarkRow._fields), *("\t".join(row) for row in sorted(rows.values()))]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    print(f"{len(rows):,} marks in {path}")


def main() -> None:
    """Make sheets, or collect their marks."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make")
    add_arguments(make)
    make.add_argument("--out", type=Path, required=True)
    make.add_argument("--parts", type=int, default=4)
    collect = commands.add_parser("collect")
    collect.add_argument("sheets", type=Path)
    collect.add_argument("marks", type=Path)
    args = parser.parse_args()
    if args.command == "make":
        make_sheets(args)
    else:
        collect_marks(args.sheets, args.marks)


if __name__ == "__main__":
    main()
