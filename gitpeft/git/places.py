"""Where a repository is: its directories, as git sees them from a folder."""

import os
from collections.abc import Mapping
from pathlib import Path

from gitpeft.errors import GitpeftError
from gitpeft.git.process import decode_output, start_git, wait_for_output
from gitpeft.lazy import lazy_dataclass

OLDEST_GIT = (2, 31)
"""The oldest supported git, the first with `--path-format=absolute` and `--diff-merges`."""

EMPTY_TREES = {
    "sha1": "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    "sha256": "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
}
"""The id of the empty tree in each hash algorithm."""

_PLACES = ("--absolute-git-dir", "--git-common-dir", "--show-object-format", "--show-toplevel")


@lazy_dataclass(frozen=True, slots=True)
class RepositoryPlaces:
    """The git directory, that of all worktrees, the top of the work tree (None: bare), the hash algorithm."""

    git_dir: Path
    common_dir: Path
    work_tree: Path | None
    algorithm: str


def find_places(cwd: Path, environment: Mapping[str, str]) -> RepositoryPlaces:
    """Find the repository of a folder. Raises GitpeftError when there is none, or no usable git.

    Git prints a line for each. A path may contain line ends itself; then there are more, and git is asked for
    one place at a time.
    """
    output, errors, failed = _rev_parse(cwd, environment, *_PLACES)
    lines = output.split(b"\n")[:-1]
    if len(lines) < len(_PLACES) - 1:
        raise _no_repository_error(cwd, errors)
    if len(lines) != len(_PLACES) - failed:
        alone = [_rev_parse(cwd, environment, place) for place in _PLACES]
        lines = [line.removesuffix(b"\n") for line, _, failed in alone if not failed]
    git_dir, common_dir, algorithm, *top = map(os.fsdecode, lines)
    return RepositoryPlaces(Path(git_dir), Path(common_dir), Path(top[0]) if top else None, algorithm)


def _rev_parse(cwd: Path, environment: Mapping[str, str], *what: str) -> tuple[bytes, bytes, bool]:
    """The output of `git rev-parse`, its error output, and whether it failed."""
    process = start_git(["rev-parse", "--path-format=absolute", *what], cwd, environment)
    output, errors = wait_for_output(process)
    return output, errors, process.returncode != 0


def _no_repository_error(cwd: Path, errors: bytes) -> GitpeftError:
    message = decode_output(errors).strip()
    if "dubious ownership" in message:
        hint = message.rpartition("\n")[2].strip()
        return GitpeftError(f"git does not trust {cwd}: it is owned by another user", hint)
    if "not a git repository" in message:
        return GitpeftError(f"{cwd} is not in a git repository", "Run this in a clone, or pass --repo PATH.")
    if "cannot use bare repository" in message:
        hint = "Set GIT_DIR and leave out --repo, or run `git config --global safe.bareRepository all`."
        return GitpeftError(message.partition("\n")[0].removeprefix("fatal: "), hint)
    if message and "--path-format" not in message and "--show-object-format" not in message:
        return GitpeftError(f"git cannot open {cwd}: {message.partition(chr(10))[0]}", "Correct that first.")
    oldest = ".".join(map(str, OLDEST_GIT))
    first = message.partition("\n")[0] or "git printed nothing"
    return GitpeftError(first, f"gitpeft needs git {oldest} or newer.")
