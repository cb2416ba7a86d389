"""How git is run: its command line, its environment, and the pipes to and from it.

Git reaches no network unless the caller asks for it (`Repository.run_with_network`): objects that a partial
clone does not have are reported, not fetched. None of the user's external diff programs is started.
"""

import os
import subprocess
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import IO

from gitpeft.errors import GitpeftError
from gitpeft.terminal import encode_exactly

REPOSITORY_VARIABLES = (
    *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_DIR", "GIT_GRAFT_FILE"),
    *("GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE", "GIT_INTERNAL_SUPER_PREFIX", "GIT_NO_REPLACE_OBJECTS"),
    *("GIT_OBJECT_DIRECTORY", "GIT_PREFIX", "GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE"),
)
"""What a hook inherits for its own repository, and what is wrong for any other one.

The output of `git rev-parse --local-env-vars` without the settings given by `git -c` and `GIT_CONFIG_COUNT`,
which count everywhere: git hands them on to submodules, too.
"""

UNWANTED_VARIABLES = (
    *("GIT_EXTERNAL_DIFF", "GIT_DIFF_OPTS", "GIT_PAGER", "GIT_TRACE", "GIT_TRACE2"),
    "GIT_CONFIG",  # `git config` alone heeds it, and would then list the settings of another file
    # editors set them for the paths that they pass; ours are patterns where we mean patterns
    *("GIT_LITERAL_PATHSPECS", "GIT_GLOB_PATHSPECS", "GIT_NOGLOB_PATHSPECS", "GIT_ICASE_PATHSPECS"),
)
"""Variables that would change or disturb git's output."""

_BASE_ENVIRONMENT = {
    "GIT_ALLOW_PROTOCOL": "none",  # before 2.45 this is what keeps a partial clone from fetching
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}
_STREAM_ENVIRONMENT = {
    "GIT_FLUSH": "0",  # or git flushes, and so wakes this process, after every single commit
    # glibc would return and request the memory of each larger file: up to half of git's system time
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}
_GIT_SETTINGS = (
    "core.bigFileThreshold=1m",  # larger files are binary to git: their content is never held in memory
    "core.quotePath=true",
    "diff.suppressBlankEmpty=false",
    "i18n.logOutputEncoding=UTF-8",
)
_GIT_COMMAND = ["git", "--no-pager", *(part for setting in _GIT_SETTINGS for part in ("-c", setting))]
_PIPE_BYTES = 1 << 20


def build_environment(*, foreign: bool) -> dict[str, str]:
    """The environment for git; with `foreign`, without what a hook inherits for its own repository."""
    dropped = {*UNWANTED_VARIABLES, *(REPOSITORY_VARIABLES if foreign else ())}
    return {key: value for key, value in os.environ.items() if key not in dropped} | _BASE_ENVIRONMENT


@contextmanager
def lend_environment(environment: Mapping[str, str]) -> Iterator[None]:
    """Give this process the environment for git meanwhile: GitPython hands its own on, and can drop none."""
    before = dict(os.environ)
    try:
        os.environ.clear()
        os.environ.update(environment)
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


def start_git(
    arguments: Sequence[str], cwd: Path, environment: Mapping[str, str], *, piped: bool = False
) -> subprocess.Popen[bytes]:
    """Start git, with a pipe on its standard input if `piped`. Raises GitpeftError where there is no git."""
    try:
        return subprocess.Popen(
            [*_GIT_COMMAND, *arguments],
            cwd=cwd,
            env=environment,
            stdin=subprocess.PIPE if piped else subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
        )
    except FileNotFoundError as error:
        raise GitpeftError("git was not found", "Install git, or put it on the PATH.") from error


def wait_for_output(process: subprocess.Popen[bytes], input: bytes | None = None) -> tuple[bytes, bytes]:
    """Wait for the output and the error output; kill the process when interrupted (time limit, Ctrl-C)."""
    with process:
        try:
            return process.communicate(input)
        except BaseException:
            process.kill()
            raise


def start_git_with_input(
    arguments: Sequence[str], file: IO[bytes], cwd: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """Start git for a long output, with a file on its standard input."""
    return subprocess.Popen(
        [*_GIT_COMMAND, *arguments],
        cwd=cwd,
        env={**environment, **_STREAM_ENVIRONMENT},
        stdin=file,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
    )


def start_git_with_lines(
    arguments: Sequence[str], lines: Sequence[str], cwd: Path, environment: Mapping[str, str]
) -> subprocess.Popen[bytes]:
    """The same with lines as input, by way of a file: two full pipes would block both processes."""
    import tempfile  # not used in the hook

    with tempfile.TemporaryFile() as file:
        file.write(encode_exactly("".join(f"{line}\n" for line in lines)))
        file.seek(0)
        return start_git_with_input(arguments, file, cwd, environment)


def widen_pipe(process: subprocess.Popen[bytes]) -> None:
    """Enlarge the output pipe, where the system can, so that git runs ahead while this process parses."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        assert process.stdout
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def decode_output(output: bytes) -> str:
    """Git's output as text; bytes that are not UTF-8 become U+FFFD."""
    return output.decode("utf-8", "replace")


def decode_text(field: bytes) -> str:
    """Text of a commit; old ones are often Latin-1 without declaring it."""
    try:
        return field.decode()
    except UnicodeDecodeError:
        return field.decode("cp1252", "replace")
