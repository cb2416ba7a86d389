"""Contents of git objects: blobs, files of a commit, and numbers of lines."""

from collections.abc import Iterator, Sequence

from gitpeft.errors import GitpeftError
from gitpeft.git.process import start_git_with_lines, widen_pipe
from gitpeft.git.repository import Repository

_OBJECTS_PER_CALL = 256
_MIN_BINARY_BYTES = 1 << 20  # core.bigFileThreshold in git.process


def read_blobs(repository: Repository, ids: Sequence[str]) -> Iterator[bytes | None]:
    """Read the content of each blob, in the given order; None for one that is not here.

    In a partial clone, only for blobs that a diff has read already: git would try to fetch others, and fail.
    """
    command = ["cat-file", "--batch", "--buffer"]
    process = start_git_with_lines(command, ids, repository.cwd, repository.environment)
    assert process.stdout
    widen_pipe(process)
    try:
        for _ in ids:
            head = process.stdout.readline().split()
            size = int(head[2]) if len(head) == 3 and head[1] == b"blob" else None
            yield None if size is None else process.stdout.read(size + 1)[:-1]
    finally:
        process.stdout.close()
        process.wait()


def read_file(repository: Repository, rev: str, path: str) -> bytes:
    """Read a file of a commit; b"" where there is none."""
    try:
        return repository.run("cat-file", "blob", f"{rev}:{path}")
    except GitpeftError:
        return b""


def read_head_and_line_counts(
    repository: Repository, names: Sequence[str]
) -> tuple[str | None, dict[str, int]]:
    """The id of HEAD (None before the first commit) and `read_line_counts`, mostly from one git process."""
    asked = names[:_OBJECTS_PER_CALL]
    lines = "".join(f"{name}\n" for name in ("HEAD^{commit}", *asked)).encode("utf-8", "replace")
    first, _, output = repository.run("cat-file", "--batch", input=lines).partition(b"\n")
    sha, kind, *size = first.split(b" ")
    if kind == b"commit":
        output = output[int(size[0]) + 1 :]
    found = _count_batch_lines(asked, output) | read_line_counts(repository, names[_OBJECTS_PER_CALL:])
    return (sha.decode() if kind == b"commit" else None), found


def read_line_counts(repository: Repository, names: Sequence[str]) -> dict[str, int]:
    """Count the lines of each object named by an id or `REV:PATH`; objects that are not here are left out.

    A last line without a line end counts; a file that git treats as binary has 0 lines.
    """
    found: dict[str, int] = {}
    for start in range(0, len(names), _OBJECTS_PER_CALL):
        asked = names[start : start + _OBJECTS_PER_CALL]
        lines = "".join(f"{name}\n" for name in asked).encode("utf-8", "replace")
        found |= _count_batch_lines(asked, repository.run("cat-file", "--batch", input=lines))
    return found


def _count_batch_lines(names: Sequence[str], output: bytes) -> dict[str, int]:
    """Count lines by name in the output of `cat-file --batch`; names without content are left out."""
    found = {}
    at = 0
    for name in names:
        end = output.index(b"\n", at)
        size = output[at:end].rpartition(b" ")[2]
        at = end + 1
        if size.isdigit():
            content = output[at : at + int(size)]
            at += int(size) + 1
            binary = len(content) > _MIN_BINARY_BYTES or b"\0" in content[:8000]
            found[name] = 0 if binary else content.count(b"\n") + (content[-1:] not in (b"", b"\n"))
    return found
