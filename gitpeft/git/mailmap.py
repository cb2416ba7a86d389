"""Git's mailmap: under which name and address a person is known in a repository."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from gitpeft.errors import GitpeftError
from gitpeft.terminal import decode_exactly, encode_exactly


class RunGit(Protocol):
    """`Repository.run`."""

    def __call__(self, *args: str, input: bytes | None = None) -> bytes:
        """Run git and return its output. Raises GitpeftError when it fails."""
        ...


class Mailmap:
    """The mailmap of one repository: `.mailmap`, `mailmap.file` and `mailmap.blob`, as git reads them."""

    def __init__(self, run: RunGit, work_tree: Path | None, git_dir: Path) -> None:
        self._run, self._work_tree, self._git_dir = run, work_tree, git_dir
        self._settings: Sequence[bytes] | None = None

    def take_settings(self, listing: bytes) -> None:
        """Take the settings from the output of `git config --list -z`."""
        self._settings = [entry for entry in listing.split(b"\0") if entry.startswith(b"mailmap.")]

    def map_identity(self, identity: str) -> str:
        """A person (`Name <mail>`) as the mailmap has it; what is no identity to git stays as it is."""
        if not self.compute_state():
            return identity
        try:
            output = self._run("check-mailmap", "--stdin", input=encode_exactly(identity) + b"\n")
        except GitpeftError:
            return identity
        return decode_exactly(output.removesuffix(b"\n"))

    def compute_state(self) -> str:
        """A hash of everything that the mailmap is read from; "" where there is none."""
        if self._settings is None:
            self.take_settings(self._query("config", "-z", "--get-regexp", r"^mailmap\."))
        parts = [self._read_own_file(), *map(self._read_setting, self._settings or ())]
        if not any(parts):
            return ""
        import hashlib  # only where there is a mailmap

        return hashlib.blake2b(b"\0".join(parts), digest_size=16).hexdigest()

    def _read_own_file(self) -> bytes:
        if self._work_tree is None:  # there git reads the one of HEAD
            return self._query("rev-parse", "--verify", "--quiet", "HEAD:.mailmap")
        return _read_file(self._work_tree / ".mailmap", os.O_NOFOLLOW)

    def _read_setting(self, setting: bytes) -> bytes:
        """What a setting (name, line end, value) adds to the mailmap."""
        name, _, value = setting.partition(b"\n")
        if name == b"mailmap.file":
            path = self._query("config", "-z", "--type=path", "--get", "mailmap.file").removesuffix(b"\0")
            return value + b"\n" + _read_file((self._work_tree or self._git_dir) / os.fsdecode(path))
        if name == b"mailmap.blob":
            return value + b"\n" + self._query("rev-parse", "--verify", "--quiet", os.fsdecode(value))
        return b""

    def _query(self, *args: str) -> bytes:
        """The output of git, b"" when it fails."""
        try:
            return self._run(*args)
        except GitpeftError:
            return b""


def _read_file(path: Path, flags: int = 0) -> bytes:
    """The first MiB of a file; b"" where there is none."""
    try:
        with open(os.open(path, os.O_RDONLY | os.O_NONBLOCK | flags), "rb") as file:
            return file.read(1 << 20)
    except OSError:
        return b""
