"""Changing several git settings of a repository in one step.

`git config` writes one setting at a time, and a `git config` that is killed leaves a lock behind that stops
every later one. Here the settings are changed in a copy, which then takes the place of the file by a rename;
the lock is git's own, and a second name of a temporary file, by which `hook_file.remove_temporary_files`
recognises it.
"""

import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.hooks import hook_file


def edit_git_settings(repo: Repository, *edits: Sequence[str]) -> None:
    """Apply `edits`, each the arguments of a `git config`, to the repository's own settings: all or none.

    GitpeftError, with nothing changed, while somebody else writes them, or when the disk does not allow it.
    """
    settings = _find_settings_file(repo)
    try:
        with _lock_settings(settings) as spare:
            content = _apply_edits(repo, settings.read_bytes(), edits)
            with open(spare, "wb") as file:
                file.write(content)
                file.flush()
                os.fchmod(file.fileno(), stat.S_IMODE(settings.stat().st_mode))
                os.fsync(file.fileno())
            hook_file.get_lock_path(settings).replace(settings)
    except OSError as error:
        raise hook_file.make_unwritable_error(settings.parent, error) from None


def remove_settings_leftovers(repo: Repository) -> None:
    """Remove what a killed `change` left, the lock included."""
    hook_file.remove_temporary_files(_find_settings_file(repo).parent)
    hook_file.remove_temporary_files(repo.state_dir)


def _find_settings_file(repo: Repository) -> Path:
    """Where git would write; it follows links, too."""
    return Path(os.path.realpath(repo.common_dir / "config"))


@contextmanager
def _lock_settings(settings: Path) -> Iterator[Path]:
    """Hold git's lock on the settings; gives the temporary file that is the lock under its other name."""
    spare, lock = hook_file.get_temporary_path(settings), hook_file.get_lock_path(settings)
    os.close(os.open(spare, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, 0o600))
    try:
        try:
            os.link(spare, lock)
        except FileExistsError:
            raise GitpeftError(
                f"another program is changing {settings}", f"try again; if none is, delete {lock}"
            ) from None
        yield spare
    finally:
        hook_file.remove_temporary_files(settings.parent)


def _apply_edits(repo: Repository, content: bytes, edits: Sequence[Sequence[str]]) -> bytes:
    """The settings after all edits, which git makes in a copy."""
    repo.state_dir.mkdir(parents=True, exist_ok=True)
    copy = hook_file.get_temporary_path(repo.state_dir / "settings")
    try:
        copy.write_bytes(content)
        for edit in edits:
            repo.run("config", "--file", str(copy), *edit)
        return copy.read_bytes()
    finally:
        hook_file.remove_temporary_files(repo.state_dir)
