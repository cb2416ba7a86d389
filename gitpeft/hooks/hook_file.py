"""Hook files on disk: replacing one, moving it aside and restoring it, each in one atomic step."""

import os
import stat
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from gitpeft import files
from gitpeft.errors import GitpeftError
from gitpeft.hooks import stubs

MOVED_SUFFIXES = ("", ".legacy", ".old")
"""Where a hook of ours may lie: in its place, or moved aside there by pre-commit or lefthook."""

_TEMPORARY_PREFIX = ".gitpeft-new."
_MAX_TEXT_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class HookFile:
    """What lies at a hook's place: `kind` is missing, ours, changed (ours, edited since) or foreign."""

    path: Path
    kind: str
    stub: stubs.Stub | None = None
    content: bytes = b""


def inspect_hook(path: Path) -> HookFile:
    """What lies at `path`. A symlink is somebody else's, wherever it leads."""
    try:
        mode = path.lstat().st_mode
    except (FileNotFoundError, NotADirectoryError):
        return HookFile(path, "missing")
    if not stat.S_ISREG(mode):
        return HookFile(path, "foreign")
    content = path.read_bytes()
    stub = stubs.recognise_stub(content)
    if stub is None:
        return HookFile(path, "foreign", None, content)
    return HookFile(path, "ours" if stub.intact else "changed", stub, content)


def read_hook_text(path: Path) -> bytes:
    """The beginning of what a hook says, links followed; b"" where there is no file."""
    try:
        with open(path if path.is_file() else os.devnull, "rb") as file:
            return file.read(_MAX_TEXT_BYTES)
    except OSError:
        return b""


def write_hook(path: Path, content: bytes, mode: int) -> None:
    """Put a hook in its place in one step, executable from its first moment. GitpeftError when it cannot be.

    The directory is tried first: one on a file system mounted `noexec` would give a hook that git ignores.
    """

    def check_executable(spare: Path) -> None:
        if not os.access(spare, os.X_OK):
            raise GitpeftError(f"no program can run in {path.parent}", "is it mounted with noexec?")

    replace_file(path, content, mode, check_executable)


def replace_file(
    path: Path, content: bytes, mode: int, check: Callable[[Path], None] = lambda _: None
) -> None:
    """Replace a file, or make it, in one step, unless `check` refuses what was written.

    GitpeftError, with the file as it was, when the directory does not allow it.
    """
    try:
        files.replace_file(
            path, content, temporary=get_temporary_path(path), mode=mode, durable=True, check=check
        )
    except OSError as error:
        raise make_unwritable_error(path.parent, error) from None


def get_temporary_path(path: Path) -> Path:
    """The temporary name beside `path`; `remove_temporary_files` removes it if this process is killed."""
    return path.with_name(f"{_TEMPORARY_PREFIX}{path.name}.{os.getpid()}")


def get_lock_path(path: Path) -> Path:
    """What git makes beside a file of settings while it writes them."""
    return path.with_name(f"{path.name}.lock")


def make_unwritable_error(folder: Path, error: OSError) -> GitpeftError:
    """The error for a directory in which nothing could be changed."""
    return GitpeftError(f"cannot write in {folder}: {error.strerror}", "nothing was changed")


def keep_foreign_hook(found: HookFile, kept: Path) -> None:
    """Keep a foreign hook under a second name, with its mode; its own place is not touched yet."""
    try:
        try:
            os.link(found.path, kept, follow_symlinks=False)
        except FileExistsError:
            if not is_same_hook(found.path, kept):
                raise GitpeftError(
                    f"another earlier hook is still kept in {kept}",
                    "merge the two by hand, or delete the one that is no longer needed",
                ) from None
        except (PermissionError, NotImplementedError, OSError) as error:
            if isinstance(error, FileNotFoundError):
                raise
            _copy_hook(found.path, kept)
    except OSError as error:
        raise make_unwritable_error(kept.parent, error) from None


def is_same_hook(one: Path, other: Path) -> bool:
    """Whether two hooks are the same file, link or bytes."""
    if one.is_symlink() or other.is_symlink():
        return one.is_symlink() and other.is_symlink() and one.readlink() == other.readlink()
    return one.read_bytes() == other.read_bytes()


def _copy_hook(source: Path, target: Path) -> None:
    """For file systems without hard links: a copy under a temporary name, then a rename."""
    spare = get_temporary_path(target)
    try:
        if source.is_symlink():
            spare.symlink_to(source.readlink())
        else:
            spare.write_bytes(source.read_bytes())
            spare.chmod(stat.S_IMODE(source.stat().st_mode))
        spare.replace(target)
    finally:
        files.remove_file(spare)


def remove_hook(found: HookFile, name: str) -> str:
    """Undo an installation at one place: what was kept comes back byte for byte, else the hook goes.

    Returns what was done: `restored` or `removed`.
    """
    kept = found.path.with_name(name + stubs.CHAINED_SUFFIX)
    try:
        if os.path.lexists(kept):
            kept.replace(found.path)
            return "restored"
        found.path.unlink()
    except OSError as error:
        raise make_unwritable_error(found.path.parent, error) from None
    return "removed"


def remove_temporary_files(folder: Path) -> None:
    """Remove what interrupted installations left behind, a lock on the settings of git included.

    Such a lock is a second name of a temporary file of ours, so that nobody else's is ever taken away.
    """
    if not folder.is_dir():
        return
    for spare in [entry for entry in folder.iterdir() if entry.name.startswith(_TEMPORARY_PREFIX)]:
        lock = get_lock_path(folder / spare.name.removeprefix(_TEMPORARY_PREFIX).rpartition(".")[0])
        if lock.exists() and spare.exists() and lock.samefile(spare):
            files.remove_file(lock)
        files.remove_file(spare)


def compute_hook_mode(shared: str, umask: int) -> int:
    """The mode of a hook, from `core.sharedRepository` as git reads it."""
    word = shared.lower()
    if word.startswith("0") and len(word) == 4 and all(c in "01234567" for c in word):
        wanted = int(word, 8) | 0o600
        return wanted | (wanted & 0o444) >> 2
    extra = {
        "group": 0o060,
        "true": 0o060,
        "1": 0o060,
        "all": 0o064,
        "world": 0o064,
        "everybody": 0o064,
        "2": 0o064,
    }
    mode = 0o755 & ~umask | 0o700
    mode |= extra.get(word, 0)
    return mode | (mode & 0o444) >> 2
