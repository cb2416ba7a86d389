"""A corpus of commits whose messages follow from their changes, as pretraining reads one."""

import json
import lzma
from collections.abc import Iterable
from pathlib import Path
from typing import Any, cast

from gitpeft.learn.pretraining.corpus import CorpusRecord

NAMES = ("parser", "cache", "router", "config", "logger", "session")


ACTIONS = ("add", "fix", "remove")


def record(repo: str, number: int, **changes: Any) -> CorpusRecord:
    """A commit of the corpus; what it says follows from what it does."""
    name, action = NAMES[number % 6], ACTIONS[number % 3]
    word = "".join("abcdefghij"[int(digit)] for digit in str(number))
    line = f"{'-' if action == 'remove' else '+'}{action}_{name}({word})"
    given = {
        "repo": repo, "sha": f"{number:012x}", "time": number, "author": number % 3,
        "previous": subject(number - 3) if number > 2 else "", "subject": subject(number), "body": "",
        "files": 1, "diff": f" src/{name}.py +{number} -1\n#src/{name}.py\n@def {name}():\n{line}",
    }  # fmt: skip
    return cast("CorpusRecord", {**given, **changes})


def subject(number: int) -> str:
    return f"{ACTIONS[number % 3]} {NAMES[number % 6]} {number}"


def write(path: Path, records: Iterable[CorpusRecord]) -> Path:
    with lzma.open(path, "wt", encoding="utf-8", preset=0) as file:
        file.writelines(json.dumps(one) + "\n" for one in records)
    return path
