"""Answers that were already worked out: hides a small cache of files keyed by what the model was asked.

The key is a hash of the masked change text, the previous subject and the model. Nothing that could hold a
secret is stored: only messages are, and those came out of masked input.
"""

import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from pathlib import Path

MAX_ANSWERS = 32
"""Answers kept; the oldest go first."""

CLAIM_SECONDS = 60.0
"""Seconds after which nobody can still be working on an answer."""

MAX_ANSWER_BYTES = 256 << 10
ANSWER_CACHE_VERSION = 2
_KEY_PATTERN = re.compile(r"[0-9a-f]{64}")


def read_active_model_id(state_dir: Path) -> str:
    """The id of the active model as `bundle` notes it, `""` when there is none. Nothing is checked here."""
    try:
        return (state_dir / "current").read_text("ascii", errors="replace").partition("\n")[0].strip()[:64]
    except OSError:
        return ""


def compute_cache_key(change: str, previous: str, n: int, model: str, least: int = 0) -> str:
    """The name of one question."""
    asked = json.dumps([ANSWER_CACHE_VERSION, change, previous, n, model, least])
    return hashlib.sha256(asked.encode("utf-8", "surrogatepass")).hexdigest()


def load_cached_messages(state_dir: Path, name: str) -> list[str] | None:
    """The messages stored under a key; None when there are none, or the file is damaged."""
    path = state_dir / "answers" / name
    try:
        if path.stat().st_size > MAX_ANSWER_BYTES:
            return None
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(found, dict) or found.get("key") != name:
        return None
    messages = found.get("messages")
    if not isinstance(messages, list) or not all(isinstance(message, str) for message in messages):
        return None
    return messages


def store_cached_messages(state_dir: Path, name: str, messages: Sequence[str]) -> None:
    """Keep an answer: a temporary file and a rename. OSError when the disk does not allow it."""
    folder = state_dir / "answers"
    folder.mkdir(parents=True, exist_ok=True)
    spare = folder / f".{name}.{os.getpid()}"
    try:
        spare.write_text(json.dumps({"key": name, "messages": list(messages)}))
        spare.replace(folder / name)
    finally:
        spare.unlink(missing_ok=True)
    _prune_cache(folder)


def _prune_cache(folder: Path) -> None:
    files = [(entry.stat().st_mtime, entry.path) for entry in os.scandir(folder) if entry.is_file()]
    for _, path in sorted(files, reverse=True)[MAX_ANSWERS:]:
        Path(path).unlink(missing_ok=True)


def claim_key(state_dir: Path, name: str) -> Path | None:
    """Say that this process works on a key; None when it cannot be said."""
    mark = state_dir / "answers" / f"{name}.busy"
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.write_text(str(os.getpid()))
    except OSError:
        return None
    return mark


def is_claimed(state_dir: Path, name: str) -> bool:
    """Whether another living process works on a key at this moment."""
    mark = state_dir / "answers" / f"{name}.busy"
    try:
        if abs(time.time() - mark.stat().st_mtime) > CLAIM_SECONDS:
            return False  # killed long ago, and its number may be another's by now
        pid = int(mark.read_text()[:12])
        os.kill(pid, 0)
    except (OSError, ValueError, OverflowError):
        return False
    return pid > 1 and pid != os.getpid()
