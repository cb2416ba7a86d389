"""Contents of git objects: blobs, files of a commit, and numbers of lines."""

import os
import subprocess
from collections.abc import Iterator, Sequence
from typing import IO

from gitpeft.errors import GitpeftError
from gitpeft.git.process import start_git_with_input, start_git_with_lines, widen_pipe
from gitpeft.git.repository import Repository
from gitpeft.terminal import encode_exactly

_OBJECTS_PER_CALL = 256
_NAME_BYTES_PER_CALL = 16 << 10  # they must fit into a pipe
_CHUNK_BYTES = 1 << 18
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
    """Read a file of a commit (`path` as in `FileChange`); b"" where there is none, or it is not here."""
    name = _as_argument(f"{rev}:{path}")
    blob = repository.ask_text("rev-parse", "--verify", "--quiet", "--end-of-options", name)
    if not blob:
        return b""
    head, _, content = repository.run("cat-file", "--batch", input=f"{blob}\n".encode()).partition(b"\n")
    words = head.split()
    return content[: int(words[2])] if len(words) == 3 and words[1] == b"blob" else b""


def read_head_and_line_counts(
    repository: Repository, names: Sequence[str]
) -> tuple[str | None, dict[str, int]]:
    """The id of HEAD (None before the first commit) and `read_line_counts`, mostly from one git process."""
    head = "HEAD^{commit}"
    first, *others = _divide_names([head, *names])
    found = dict(_stream_line_counts(repository, first))
    sha = found.pop(head, ("", 0))[0] or None
    return sha, {name: lines for name, (_, lines) in found.items()} | _count_lines(repository, others)


def read_line_counts(repository: Repository, names: Sequence[str]) -> dict[str, int]:
    """Count the lines of each object named by an id or `REV:PATH`; objects that are not here are left out.

    A last line without a line end counts; a file that git treats as binary has 0 lines.
    """
    return _count_lines(repository, _divide_names(names))


def _count_lines(repository: Repository, shares: Sequence[Sequence[str]]) -> dict[str, int]:
    return {name: lines for share in shares for name, (_, lines) in _stream_line_counts(repository, share)}


def _divide_names(names: Sequence[str]) -> list[list[str]]:
    """The names in shares that are small enough to ask for at once."""
    shares: list[list[str]] = []
    room = 0
    for name in names:
        size = len(encode_exactly(name)) + 1
        if size > room or len(shares[-1]) == _OBJECTS_PER_CALL:
            shares.append([])
            room = _NAME_BYTES_PER_CALL
        shares[-1].append(name)
        room -= size
    return shares


def _stream_line_counts(
    repository: Repository, names: Sequence[str]
) -> Iterator[tuple[str, tuple[str, int]]]:
    """Each name whose object is here, with the object's id and number of lines.

    Contents are read in pieces: one may be larger than the memory. GitpeftError where git ends early.
    """
    asked = {name: sha for name in names if (sha := _name_for_batch(repository, name))}
    process = _start_batch(repository, list(asked.values()))
    assert process.stdout
    try:
        for name in asked:
            head = process.stdout.readline()
            if not head:
                raise GitpeftError("git cat-file ended early", "Check the repository with `git fsck`.")
            described, _, size = head.rstrip(b"\n").rpartition(b" ")
            if size.isdigit():
                sha = described.partition(b" ")[0].decode("ascii")
                yield name, (sha, _count_object_lines(process.stdout, int(size)))
    finally:
        process.stdout.close()
        process.kill()  # when interrupted, by a time limit for example, it may still run
        process.wait()


def _start_batch(repository: Repository, names: Sequence[str]) -> subprocess.Popen[bytes]:
    """Start `git cat-file --batch` on a few names."""
    read_end, write_end = os.pipe()
    with os.fdopen(read_end, "rb") as source:
        with os.fdopen(write_end, "wb") as pipe:
            pipe.write(encode_exactly("".join(f"{name}\n" for name in names)))
        return start_git_with_input(["cat-file", "--batch"], source, repository.cwd, repository.environment)


def _name_for_batch(repository: Repository, name: str) -> str:
    """A name that fits on one line: itself or, with line ends in it, the id of its object ("": none)."""
    if "\n" not in name and not name.endswith("\r") and len(name) < _NAME_BYTES_PER_CALL // 4:
        return name
    return repository.ask_text("rev-parse", "--verify", "--quiet", "--end-of-options", _as_argument(name))


def _as_argument(name: str) -> str:
    """A name so that exactly its bytes reach git, whatever the encoding of file names is here."""
    return os.fsdecode(encode_exactly(name))


def _count_object_lines(stream: IO[bytes], size: int) -> int:
    """Read an object and the line end behind it; its number of lines."""
    lines, left, last = 0, size, b"\n"
    chunk = first = stream.read(min(left, _CHUNK_BYTES))
    while chunk:
        lines += chunk.count(b"\n")
        left -= len(chunk)
        last = chunk
        chunk = stream.read(min(left, _CHUNK_BYTES))
    stream.read(1)
    if size > _MIN_BINARY_BYTES or b"\0" in first[:8000]:
        return 0
    return lines + (not last.endswith(b"\n"))
