"""The cache of suggestions: one small file for each request, named by a hash of it.

The hash covers the masked change, the previous subject, the model and what was asked of it. Only messages are
stored, which were generated from masked input, so that no secret gets into the cache.
"""

import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from gitpeft.digests import hash_sha256
from gitpeft.files import remove_file, replace_file
from gitpeft.suggest.suggestion import ModelAnswer

MAX_ANSWERS = 32
"""Requests whose suggestions are kept; the oldest are deleted."""

CLAIM_SECONDS = 60.0
"""Seconds after which a claim of a key has expired: its process was killed."""

MAX_ANSWER_BYTES = 256 << 10
ANSWER_CACHE_VERSION = 5


def compute_cache_key(
    change: str, previous: str, n: int, model: str, least: int = 0, branch: str = ""
) -> str:
    """The SHA-256 that names a request in the cache: all that its suggestions depend on.

    `n` is the number of messages asked for, `model` the id of the bundle, `least` the least score in percent.
    """
    request = json.dumps([ANSWER_CACHE_VERSION, change, previous, n, model, least, branch])
    return hash_sha256(request.encode("utf-8", "surrogatepass"))


def load_cached_answer(state_dir: Path, key: str) -> ModelAnswer | None:
    """The answer stored under a key; None if there is none or the file is damaged."""
    path = state_dir / "answers" / key
    try:
        if path.stat().st_size > MAX_ANSWER_BYTES:
            return None
        entry = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError):
        return None
    if not isinstance(entry, dict) or entry.get("key") != key:
        return None
    return ModelAnswer.from_dict(entry)


def store_cached_answer(state_dir: Path, key: str, answer: ModelAnswer) -> None:
    """Store the answer to a request; OSError when it cannot be written."""
    folder = state_dir / "answers"
    folder.mkdir(parents=True, exist_ok=True)
    content = json.dumps({"key": key, **answer.to_dict()})
    replace_file(folder / key, content.encode())
    _prune_cache(folder)


def _prune_cache(folder: Path) -> None:
    files = [(entry.stat().st_mtime, entry.path) for entry in os.scandir(folder) if entry.is_file()]
    for _, path in sorted(files, reverse=True)[MAX_ANSWERS:]:
        Path(path).unlink(missing_ok=True)


@contextmanager
def hold_claim(state_dir: Path, key: str) -> Iterator[bool]:
    """Claim a key while this process works on it, so that no other does the same work.

    The context is False where another process has claimed it, or where no claim can be written.
    """
    mark = _get_claim_path(state_dir, key)
    claimed = _create_claim(mark) or (not is_claimed(state_dir, key) and _replace_claim(mark))
    try:
        yield claimed
    finally:
        if claimed:
            remove_file(mark)


def _get_claim_path(state_dir: Path, key: str) -> Path:
    return state_dir / "answers" / f"{key}.busy"


def _replace_claim(mark: Path) -> bool:
    """Take over the claim of a process that was killed."""
    remove_file(mark)
    return _create_claim(mark)


def _create_claim(mark: Path) -> bool:
    try:
        mark.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(mark, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o644)
    except OSError:
        return False
    try:
        os.write(descriptor, str(os.getpid()).encode())
    except OSError:
        remove_file(mark)
        return False
    finally:
        os.close(descriptor)
    return True


def is_claimed(state_dir: Path, key: str) -> bool:
    """Whether another process, which is still alive, works on a key."""
    mark = _get_claim_path(state_dir, key)
    try:
        if abs(time.time() - mark.stat().st_mtime) > CLAIM_SECONDS:
            return False  # killed long ago, and the system may have given its id to another process
        pid = int(mark.read_text()[:12])
        os.kill(pid, 0)
    except (OSError, ValueError, OverflowError):
        return False
    return pid > 1 and pid != os.getpid()
