"""The two ends of a remote: where it is read, and where it is written (`pushurl`, `pushInsteadOf`)."""

import re
from dataclasses import dataclass

from gitpeft.git.repository import Repository

_CREDENTIALS = re.compile(r"(?<=://)[^/@]*@")


@dataclass(frozen=True, slots=True)
class RemoteEnds:
    """The addresses of a remote, as git uses them after every rewriting; a push goes to all of `written`."""

    remote: str
    read: str
    written: tuple[str, ...]

    @property
    def is_split(self) -> bool:
        """Whether a push goes anywhere else than a fetch comes from."""
        return self.written != (self.read,)

    @property
    def written_names(self) -> tuple[str, ...]:
        """What to ask about the ends that a push goes to: the remote itself where these are one."""
        return self.written if self.is_split else (self.remote,)

    def describe(self) -> str:
        """Where it is read and written, for a person."""
        written = " and ".join(map(hide_credentials, self.written))
        return f"{self.remote} is read at {hide_credentials(self.read)} but written at {written}"


def find_remote_ends(repo: Repository, remote: str) -> RemoteEnds:
    """The addresses of a remote; its name where it has none, as git takes it."""
    written = repo.query_text("remote", "get-url", "--push", "--all", remote) or remote
    return RemoteEnds(
        remote, repo.query_text("remote", "get-url", remote) or remote, tuple(written.split("\n"))
    )


def hide_credentials(address: str) -> str:
    """An address without the user and the password in it."""
    return _CREDENTIALS.sub("", address)
