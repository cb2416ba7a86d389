"""Puts a table that a benchmark printed between its markers in a document.

    python tests/bench/bench_quality.py … | python tests/bench/write_table.py docs/evaluation.md quality cost

Each run of lines that begin with `|` is a table; the first goes between `<!-- quality:begin -->` and
`<!-- quality:end -->`, the second between those of `cost`. Other lines between the markers stay.
"""

import re
import sys
from itertools import groupby
from pathlib import Path


def find_tables(text: str) -> list[str]:
    """The markdown tables of a text, in order."""
    return [
        "\n".join(lines)
        for is_table, lines in groupby(text.splitlines(), key=lambda line: line.startswith("|"))
        if is_table
    ]


def replace_table(document: str, name: str, table: str) -> str:
    """The document with another table between the markers of a name; KeyError without such markers."""
    begin, end = f"<!-- {name}:begin -->\n", f"<!-- {name}:end -->"
    if begin not in document or end not in document:
        raise KeyError(name)
    head, rest = document.split(begin, 1)
    old, tail = rest.split(end, 1)
    new = re.sub(r"(?:^\|.*\n)+", lambda _: table + "\n", old, count=1, flags=re.MULTILINE)
    return head + begin + new + end + tail


def main(path: Path, names: list[str]) -> None:
    """Read tables from standard input and write them into the document."""
    tables = find_tables(sys.stdin.read())
    if len(tables) != len(names):
        raise SystemExit(f"{len(tables)} tables were printed, {len(names)} names given")
    document = path.read_text(encoding="utf-8")
    for name, table in zip(names, tables, strict=True):
        document = replace_table(document, name, table)
    path.write_text(document, encoding="utf-8")


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
