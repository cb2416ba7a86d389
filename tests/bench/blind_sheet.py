"""A sheet for reading offers blind, and its score.

    python -m tests.bench.blind_sheet make OFFERS.json --sheet SHEET.md --key KEY.json [-n 60] [--seed 1]
    python -m tests.bench.blind_sheet score SHEET.md KEY.json

`OFFERS.json` comes from bench_offers.py. For each change the sheet shows what a person would see of it and
one line for each system, the team among them, in random order; which line is whose is in the key alone.
Behind each line stands `[ ]`: write 3 (commit as it stands), 2 (small edit), 1 (rewrite) or 0 (wrong) into
it. The score is printed at full coverage, and for offers that reach the threshold of their model.
"""

import argparse
import json
import random
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gitpeft.learn.evaluation.text_metrics import bootstrap_mean

TEAM, LETTERS = "team", "abcdefghij"
_MAX_LINES, _MAX_LINE_LENGTH = 45, 130
_MARK = re.compile(r"^(\d+)([a-z])\. (.*) \[ *(\d?) *\]$")


def make_sheet(rows: list[dict[str, Any]], n: int, seed: int) -> tuple[str, dict[str, Any]]:
    """The text of a sheet for `n` of the changes, and its key: system, history and commit by line."""
    rng = random.Random(seed)
    chosen = sorted(rng.sample(range(len(rows)), min(n, len(rows))))
    parts, key = [], {}
    for number, place in enumerate(chosen, 1):
        row = rows[place]
        systems = [TEAM, *row["offers"]]
        rng.shuffle(systems)
        texts = []
        for letter, system in zip(LETTERS, systems, strict=False):
            offer = {"text": row["team"], "offered": True} if system == TEAM else row["offers"][system]
            key[f"{number}{letter}"] = {
                "system": system,
                "history": row["history"],
                "sha": row["sha"],
                "offered": offer["offered"],
            }
            texts.append(offer["text"] or "(nothing)")
        parts.append(format_question(number, row["change"], texts))
    return "\n\n".join(parts) + "\n", key


def format_question(number: int, change: str, texts: Sequence[str]) -> str:
    """A change, and below it a line to mark for each text."""
    lines = [f"{number}{letter}. {text} [ ]" for letter, text in zip(LETTERS, texts, strict=False)]
    return "\n".join([f"## {number}", "", *show_change(change), "", *lines])


def show_change(change: str) -> list[str]:
    """The first lines of a change, indented; file lines, then hunks."""
    lines = [line for line in change.split("\n") if not line.startswith("=")]
    shown = [f"    {line[:_MAX_LINE_LENGTH]}" for line in lines[:_MAX_LINES]]
    return [*shown, f"    … {len(lines) - _MAX_LINES} more lines"] if len(lines) > _MAX_LINES else shown


def read_marks(sheet: str) -> dict[str, int]:
    """The marks in a filled sheet, by line; ValueError where one is missing."""
    found, missing = {}, []
    for line in sheet.splitlines():
        if match := _MARK.match(line):
            name = match[1] + match[2]
            if match[4]:
                found[name] = int(match[4])
            else:
                missing.append(name)
    if missing:
        raise ValueError(f"{len(missing)} lines have no mark, the first is {missing[0]}")
    return found


def summarise_marks(marks: dict[str, int], key: dict[str, Any]) -> list[str]:
    """A table: mean mark, share of at least 2 and of 0 by system, at full coverage and of what is offered."""
    lines = [
        "| system | offers | coverage | mean | at least 2 | 0 |",
        "|---|---|---|---|---|---|",
    ]
    for system in dict.fromkeys(one["system"] for one in key.values()):
        names = [name for name, one in key.items() if one["system"] == system and name in marks]
        offered = [name for name in names if key[name]["offered"]]
        for label, part in ((system, names), (f"{system}, at its threshold", offered)):
            if part and (part is names or len(offered) < len(names)):
                lines.append(_format_row(label, [marks[name] for name in part], len(names)))
    return lines


def _format_row(label: str, marks: list[int], total: int) -> str:
    shares = [bootstrap_mean([100.0 * test(mark) for mark in marks], 0) for test in (_is_usable, _is_wrong)]
    cells = [f"{one.mean:.0f} % ({one.low:.0f}–{one.high:.0f})" for one in shares]
    mean = sum(marks) / len(marks)
    coverage = f"{100 * len(marks) / total:.0f} %"
    return f"| {label} | {len(marks)} | {coverage} | {mean:.2f} | {cells[0]} | {cells[1]} |"


def _is_usable(mark: int) -> bool:
    return mark >= 2


def _is_wrong(mark: int) -> bool:
    return mark == 0


def main() -> None:
    """Make or score a sheet."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    commands = parser.add_subparsers(dest="command", required=True)
    make = commands.add_parser("make")
    make.add_argument("offers", type=Path)
    make.add_argument("--sheet", type=Path, required=True)
    make.add_argument("--key", type=Path, required=True)
    make.add_argument("-n", type=int, default=60)
    make.add_argument("--seed", type=int, default=1)
    score = commands.add_parser("score")
    score.add_argument("sheet", type=Path)
    score.add_argument("key", type=Path)
    args = parser.parse_args()
    if args.command == "make":
        sheet, key = make_sheet(json.loads(args.offers.read_text()), args.n, args.seed)
        args.sheet.write_text(sheet)
        args.key.write_text(json.dumps(key, indent=1))
    else:
        print(
            "\n".join(summarise_marks(read_marks(args.sheet.read_text()), json.loads(args.key.read_text())))
        )


if __name__ == "__main__":
    main()
