"""Paths as the history stores them: secrets masked, on one line, and different ones still different."""

from functools import lru_cache

from gitpeft.diff.patch import FileChange
from gitpeft.digests import blake2b
from gitpeft.redaction import mask_secrets
from gitpeft.terminal import encode_exactly


@lru_cache(1 << 14)
def mask_path(path: str) -> str:
    """A path without secrets; where one was in it, a hash keeps it apart from other such paths."""
    masked = mask_secrets(path)
    if masked == path:
        return path
    return f"{masked} {blake2b(encode_exactly(path), digest_size=6).hexdigest()}"


def mask_names(change: FileChange) -> tuple[str, str | None]:
    """The masked path of a file and, where git names another one, the old path."""
    return mask_path(change.path), None if change.old_path is None else mask_path(change.old_path)
