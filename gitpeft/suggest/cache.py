"""The cache of suggestions: one small file for each request, named by a hash of it.

The hash covers the masked change, the previous subject and the model. Nothing that could hold a secret is
stored: only messages are, and those came out of masked input.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

from gitpeft.files import replace_file
from gitpeft.suggest.suggestion import Suggestion

MAX_ANSWERS = 32
"""Answers kept; the oldest go first."""

CLAIM_SECONDS = 60.0
"""Seconds after which nobody can still be working on an answer."""

MAX_ANSWER_BYTES = 256 << 10
ANSWER_CACHE_VERSION = 3
_KEY_PATTERN = re.compile(r"[0-9a-f]{64}")


def compute_cache_key(change: str, previous: str, n: int, model: str, least: int = 0) -> str:
    """The name of one request in the cache."""
    asked = json.dumps([ANSWER_CACHE_VERSION, change, previous, n, model, least])
    return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()


def load_cached_suggestions(state_dir: Path, key: str) -> list[Suggestion] | None:
    """The suggestions stored under a key; None when there are none, or the file is damaged."""
    path = state_dir / "answers" / key
    try:
        if path.stat().st_size > MAX_ANSWER_BYTES:
            return None
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("key") != key:
        return None
    rows = found.get("suggestions")
    return parse_suggestions(rows) if isinstance(rows, list) else None


def parse_suggestions(rows: list[object]) -> list[Suggestion] | None:
    """The suggestions in a JSON list of rows; None when one of them is none."""
    found = [one for row in rows if (one := Suggestion.from_row(row))]
    return found if len(found) == len(rows) else None


def store_cached_suggestions(state_dir: Path, key: str, suggestions: Sequence[Suggestion]) -> None:
    """Keep suggestions for a request. OSError when the disk does not allow it."""
    folder = state_dir / "answers"
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"key": key, "suggestions": [one.to_row() for one in suggestions]})
    replace_file(folder / key, content.encode())
    _prune_cache(folder)


def _prune_cache(folder: Path) -> None:
    files = [(entry.stat().st_mtime, entry.path) for entry in os.scandir(folder) if entry.is_file()]
    for _, path in sorted(files, reverse=True)[MAX_ANSWERS:]:
        Path(path).unlink(missing_ok=True)


def claim_key(state_dir: Path, key: str) -> Path | None:
    """Say that this process works on a key; None when it cannot be said."""
    mark = state_dir / "answers" / f"{key}.busy"
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(str(os.getpid()))
    except OSError:
        return None
    return mark


def is_claimed(state_dir: Path, key: str) -> bool:
    """Whether another living process works on a key at this moment."""
    mark = state_dir / "answers" / f"{key}.busy"
    try:
        if abs(time.time() - mark.stat().st_mtime) > CLAIM_SECONDS:
            return False  # killed long ago, and its number may be another's by now
        pid = int(mark.read_text()[:12])
        os.kill(pid, 0)
    except (OSError, ValueError, OverflowError):
        return False
    return pid > 1 and pid != os.getpid()
