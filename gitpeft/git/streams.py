"""Commits streamed from git: many with their changes, a few within a time limit, or messages alone."""

import os
import select
import subprocess
import time
from collections.abc import Iterator, Sequence
from itertools import chain
from typing import Generic

from gitpeft.git.log import (
    Commit,
    CommitParser,
    ParsedItem,
    RecordParser,
    SkippedCommit,
    build_format_option,
    new_record_mark,
)
from gitpeft.git.process import start_git_with_input, start_git_with_lines, widen_pipe
from gitpeft.git.repository import DIFF_OPTIONS, Repository
from gitpeft.terminal import decode_exactly

_DIFF_TREE_COMMAND = ("diff-tree", "--stdin", "--always", "--root", "-r")
_CHUNK_BYTES = 1 << 18
_COMMITS_PER_BLOCK = 64


def stream_commits(
    repository: Repository, shas: Sequence[str], jobs: int = 2
) -> Iterator[Commit | SkippedCommit]:
    """Read commits with their changes, in no particular order, from `jobs` git processes.

    Fastest with the newest first, because the deltas of a pack lead from newer to older content.
    """
    yield from stream_diff_tree(repository, shas, DIFF_OPTIONS, CommitParser, jobs)


def stream_diff_tree(
    repository: Repository,
    shas: Sequence[str],
    options: Sequence[str],
    parser: type[RecordParser[ParsedItem]],
    jobs: int = 2,
) -> Iterator[ParsedItem | SkippedCommit]:
    """Parse the output of `git diff-tree OPTIONS` with `parser`; otherwise as `stream_commits`."""
    shallow = repository.list_shallow_commits()
    yield from (SkippedCommit(sha, "shallow") for sha in shas if sha in shallow)
    shas = [sha for sha in shas if sha not in shallow]
    blocks = [shas[i : i + _COMMITS_PER_BLOCK] for i in range(0, len(shas), _COMMITS_PER_BLOCK)]
    shares = [list(chain(*blocks[i::jobs])) for i in range(min(jobs, len(blocks)))]
    streams = [_CommitStream(repository, share, options, parser) for share in shares]
    known: dict[str, bool] = {}
    attributes = repository.has_generated_attributes()
    try:
        while streams:
            for stream in streams[:]:
                batch = stream.read_chunk()
                if batch is None:
                    streams.remove(stream)
                if attributes:
                    changes = (item.files for item in batch or () if isinstance(item, Commit))
                    repository.mark_generated_files(list(chain.from_iterable(changes)), known)
                yield from batch or ()
    finally:
        for stream in streams:
            stream.close()


def read_commits_within(repository: Repository, shas: Sequence[str], seconds: float) -> list[Commit]:
    """Read as many commits, in order, as git prints within a time limit and without missing objects.

    For a few commits: their ids must fit into a pipe.
    """
    deadline = time.monotonic() + seconds
    mark = new_record_mark()
    parser = CommitParser(mark)
    read_end, write_end = os.pipe()
    with os.fdopen(write_end, "wb") as pipe:
        pipe.write("".join(f"{sha}\n" for sha in shas).encode())
    with os.fdopen(read_end, "rb") as pipe:
        command = [*_DIFF_TREE_COMMAND, *DIFF_OPTIONS, build_format_option(mark)]
        process = start_git_with_input(command, pipe, repository.cwd, repository.environment)
    assert process.stdout
    found: list[Commit] = []
    try:
        while (left := deadline - time.monotonic()) > 0 and select.select([process.stdout], [], [], left)[0]:
            if chunk := os.read(process.stdout.fileno(), _CHUNK_BYTES):
                found += parser.feed(chunk)
                continue
            if process.wait() == 0:
                return found + parser.close()
            # git may have died of this commit or of the next one, so this one is read alone
            alone = shas[len(found) : len(found) + 1] if len(shas) > 1 else []
            return found + (read_commits_within(repository, alone, left) if alone else [])
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    return found


def read_commit_messages(repository: Repository, tip: str, newest: int | None = None) -> list[Commit]:
    """Read the commits that `tip` reaches, without their files, every parent before its children.

    Only the `newest`, if given.
    """
    mark = new_record_mark()
    parser = CommitParser(mark)
    options = ["--topo-order", "--reverse", "--no-show-signature", build_format_option(mark)]
    options += [] if newest is None else [f"-n{newest}"]
    output = repository.run("log", *options, tip, "--")
    parts = (output[at : at + _CHUNK_BYTES] for at in range(0, len(output), _CHUNK_BYTES))
    return [*chain.from_iterable(map(parser.feed, parts)), *parser.close()]


def read_authors(repository: Repository, shas: Sequence[str]) -> list[tuple[str, str]]:
    """The id and the author, as in `Commit`, of each of these commits that is here."""
    if not shas:
        return []  # git would take HEAD
    options = ["--no-walk=unsorted", "--ignore-missing", "--no-show-signature", "-z"]
    command = ["log", "--stdin", *options, "--format=%H%x00%aN <%aE>"]
    process = start_git_with_lines(command, shas, repository.cwd, repository.environment)
    fields = process.communicate()[0].split(b"\0")
    pairs = zip(fields[::2], fields[1::2], strict=False)
    return [(sha.decode("ascii"), decode_exactly(author)) for sha, author in pairs]


def find_incomplete_commits(repository: Repository, shas: Sequence[str]) -> set[str]:
    """Find the commits whose change needs an object that is not here (in a partial clone).

    Lists the existing objects and compares, because reading a missing one would try to fetch it. Where a
    directory is missing, git stops, and every commit from there on counts as incomplete.
    """
    needed: dict[str, set[bytes]] = {}
    mark = new_record_mark()
    raw = ["--raw", "--no-renames", "--no-abbrev", "-z", build_format_option(mark, "%H%x00")]
    process = _start_diff_tree(repository, shas, raw)
    output = process.communicate()[0]
    for printed in output.split(mark)[1:]:
        sha, _, *items = printed.split(b"\0")
        needed[sha.decode()] = {blob for item in items[::2] for blob in _parse_raw_blobs(item)}
    if process.returncode and needed:
        needed.popitem()
    absent = set().union(*needed.values()) - _list_present_objects(repository)
    return {sha for sha in shas if sha not in needed or needed[sha] & absent}


def _list_present_objects(repository: Repository) -> set[bytes]:
    """The ids of all objects of the repository that are here."""
    options = ["--batch-all-objects", "--unordered", "--batch-check=%(objectname)"]
    return set(repository.run("cat-file", *options).split())


def _start_diff_tree(
    repository: Repository, shas: Sequence[str], options: Sequence[str]
) -> subprocess.Popen[bytes]:
    """Start `git diff-tree` on the commits."""
    command = [*_DIFF_TREE_COMMAND, *options]
    return start_git_with_lines(command, shas, repository.cwd, repository.environment)


class _CommitStream(Generic[ParsedItem]):
    """One git process reading commits, restarted after each commit on which it crashes."""

    def __init__(
        self,
        repository: Repository,
        shas: list[str],
        options: Sequence[str],
        parser: type[RecordParser[ParsedItem]],
    ) -> None:
        self.repository = repository
        self.shas = shas
        self.options = options
        self.parser_type = parser
        self.at = 0
        self.checked = False
        self._start_git(len(shas))

    def _start_git(self, until: int) -> None:
        """Start git on the commits from `at` to `until`."""
        mark = new_record_mark()
        self.until = until
        self.parser = self.parser_type(mark)
        options = [*self.options, build_format_option(mark, self.parser_type.FIELDS)]
        self.process = _start_diff_tree(self.repository, self.shas[self.at : until], options)
        widen_pipe(self.process)

    def read_chunk(self) -> list[ParsedItem | SkippedCommit] | None:
        """The commits of the next chunk; None at the end."""
        if self.at == len(self.shas):
            self.close()
            return None
        assert self.process.stdout
        if chunk := self.process.stdout.read(_CHUNK_BYTES):
            return self._insert_skipped(self.parser.feed(chunk))
        self.close()
        if self.process.returncode:
            return self._recover_from_crash()
        found = self._insert_skipped(self.parser.close())
        found += self._skip_until(self.until, "unreadable")
        if self.at < len(self.shas):
            self._start_git(len(self.shas))
        return found

    def close(self) -> None:
        """Wait for the process; one that still writes is ended by the closed pipe."""
        assert self.process.stdout
        self.process.stdout.close()
        self.process.wait()

    def _insert_skipped(self, commits: list[ParsedItem]) -> list[ParsedItem | SkippedCommit]:
        """The commits, and between them those that git left out."""
        out: list[ParsedItem | SkippedCommit] = []
        for commit in commits:
            out += self._skip_until(self.shas.index(commit.sha, self.at), "unreadable")
            out.append(commit)
            self.at += 1
        return out

    def _skip_until(self, until: int, reason: str) -> list[ParsedItem | SkippedCommit]:
        skipped = self.shas[self.at : until]
        self.at = until
        return [SkippedCommit(sha, reason) for sha in skipped]

    def _recover_from_crash(self) -> list[ParsedItem | SkippedCommit]:
        """Go on after git met an object that it cannot read, without the commits that need one.

        Git may die before or while it prints a commit, so the first commit that is left is then read alone.
        """
        if not self.checked:
            self.checked = True
            self.shas, self.at = self.shas[self.at :], 0
            incomplete = find_incomplete_commits(self.repository, self.shas)
            out: list[ParsedItem | SkippedCommit] = [
                SkippedCommit(sha, "missing") for sha in self.shas if sha in incomplete
            ]
            self.shas = [sha for sha in self.shas if sha not in incomplete]
            self._start_git(len(self.shas))
            return out
        if self.until - self.at > 1:
            self._start_git(self.at + 1)
            return []
        out = self._skip_until(self.at + 1, "unreadable")
        self._start_git(len(self.shas))
        return out


def _parse_raw_blobs(item: bytes) -> list[bytes]:
    """The ids of the blobs in a line of `--raw` output, without absent sides and submodules."""
    old_mode, new_mode, old, new, *_ = item.lstrip(b"\n:").split(b" ") if b" " in item else [b"000000"] * 4
    return [blob for mode, blob in ((old_mode, old), (new_mode, new)) if mode not in (b"000000", b"160000")]
