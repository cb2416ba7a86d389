"""Files that are replaced in one step, and locks that end with their process."""

import errno
import json
import os
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

_NO_LOCKS = (errno.ENOLCK, errno.ENOSYS, errno.EOPNOTSUPP)


def replace_file(
    path: Path,
    content: bytes,
    *,
    temporary: Path | None = None,
    mode: int | None = None,
    durable: bool = False,
    check: Callable[[Path], None] = lambda _: None,
) -> None:
    """Replace a file, or make it, in one rename: whoever reads it sees the old content or the new.

    The content is written to `temporary` (default: a hidden name beside `path`) and looked at by `check`
    first. `mode` are the permission bits, as they come if None; `durable` waits for the disk. OSError, with
    the file as it was and nothing beside it, where the directory or the disk does not allow it.
    """
    spare = temporary or path.with_name(f".{path.name}.{os.getpid()}")
    remove_file(spare)  # a killed process with this number may have left it
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
    """Remove a file that may be gone already, or not be removable."""
    try:
        path.unlink()
    except OSError:
        pass


def write_json(path: Path, data: Any) -> None:
    """Replace a file by `data` as indented JSON in UTF-8."""
    replace_file(path, json.dumps(data, indent=1).encode())


def write_json_cache(path: Path, data: Any) -> None:
    """Replace a cache by `data` as JSON; a failure costs the next look its cache, no more."""
    try:
        replace_file(path, json.dumps(data).encode())
    except OSError:
        pass


@contextmanager
def hold_lock(path: Path, *, wait: bool = True) -> Iterator[bool]:
    """Hold the lock of a file (made where it is missing) or folder; it ends with its process.

    Gives True once the lock is held; without `wait` False where another process holds it. A file system
    without locks does without them.
    """
    import fcntl

    handle = _open_lockable(path)
    try:
        held = True
        try:
            fcntl.flock(handle, fcntl.LOCK_EX | (0 if wait else fcntl.LOCK_NB))
            held = wait or os.path.samestat(os.fstat(handle), path.stat())  # its last holder may remove it
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
