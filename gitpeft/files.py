"""Replacing files atomically, and file locks that end with their process."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)
"""Errors of a file system that has no locks."""


def replace_file(
    path: Path,
    content: bytes,
    *,
    temporary: Path | None = None,
    mode: int | None = None,
    durable: bool = False,
    check: Callable[[Path], None] = lambda _: None,
) -> None:
    """Replace or create a file by one rename: a reader sees the old content or the new, never a part.

    The content is first written to `temporary` (default: a hidden name beside `path`), which `check` may
    reject by raising. `mode` are the permission bits (default: as the umask has it); `durable` flushes the
    content to disk before the rename. On OSError, or what `check` raises, the file is unchanged and the
    temporary one removed.
    """
    spare = temporary or path.with_name(f".{path.name}.{os.getpid()}")
    remove_file(spare)  # a killed process with the same id may have left it
    try:
        flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
        with open(os.open(spare, flags, 0o600 if mode is not None else 0o666), "wb") as file:
            file.write(content)
            if mode is not None:
                os.fchmod(file.fileno(), mode)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        check(spare)
        spare.replace(path)
    except BaseException:
        remove_file(spare)
        raise


def remove_file(path: Path) -> None:
    """Remove a file; no error if it is missing or cannot be removed."""
    try:
        path.unlink()
    except OSError:
        pass


def write_json(path: Path, data: object) -> None:
    """Replace a file by `data` as indented JSON; OSError or TypeError when that is not possible."""
    replace_file(path, json.dumps(data, indent=1).encode())


def write_json_cache(path: Path, data: object) -> None:
    """Replace a cache by `data` as JSON; an OSError is ignored, and the next reader finds an older cache."""
    try:
        replace_file(path, json.dumps(data).encode())
    except OSError:
        pass


@contextmanager
def hold_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold an exclusive lock on a folder, or on a file, which is created if it is missing.

    The context is True once the lock is held; without `wait` it is False if another process holds it. The
    system releases the lock when its process ends. On a file system without locks nothing is locked.
    """
    import fcntl

    handle = _open_lockable(path)
    try:
        held = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = wait or os.path.samestat(
                os.fstat(handle), path.stat()
            )  # its last holder may have removed the file
        except (BlockingIOError, FileNotFoundError):
            held = False
        except OSError as error:
            if error.errno not in _NO_LOCKS:
                raise
        yield held
    finally:
        os.close(handle)


def _open_lockable(path: Path) -> int:
    if path.is_dir():
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    return os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
