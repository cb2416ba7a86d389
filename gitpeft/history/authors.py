"""Authors as the history stores them: salted hashes of the mail addresses that git's mailmap gives them."""

import sqlite3

from gitpeft.digests import blake2b
from gitpeft.git.repository import Repository, get_mail
from gitpeft.history.context import read_setting, write_setting
from gitpeft.history.filters import is_bot
from gitpeft.terminal import encode_exactly

MAX_COMMITS_TO_MAP = 20_000
"""The most stored commits whose authors are mapped again outside of mining: about half a second."""


class AuthorHasher:
    """Hashes authors (`Name <mail>`) with the salt of one database."""

    def __init__(self, salt: str) -> None:
        self._key = bytes.fromhex(salt)
        self._known: dict[str, tuple[str, bool]] = {}

    def identify(self, identity: str) -> tuple[str, bool]:
        """The hash of an author, by mail address if there is one (names vary more); and if it is a bot."""
        found = self._known.get(identity)
        if found is None:
            found = self._known[identity] = self.hash_identity(identity), is_bot(identity)
        return found

    def hash_identity(self, identity: str) -> str:
        """The hash alone: whether it is a bot takes longer to find out, and the hook does not ask."""
        name = encode_exactly(identity)
        mail = get_mail(name).strip().lower() or name
        return blake2b(mail, key=self._key, digest_size=8).hexdigest()


def follow_mailmap(
    db: sqlite3.Connection, repository: Repository, hasher: AuthorHasher, most: int | None = None
) -> None:
    """Give every stored commit the author that git's mailmap names now, if it changed since the last time.

    The database has no names, so git prints the authors again: one `git log` without diffs. With `most`,
    nothing is done where more commits are stored.
    """
    state = repository.mailmap.compute_state()
    if state == read_setting(db, "mailmap"):
        return
    stored = dict(db.execute("SELECT sha, author FROM record"))
    if most is not None and len(stored) > most:
        return
    from gitpeft.git.streams import read_authors  # hardly ever needed

    named = {sha: hasher.identify(author) for sha, author in read_authors(repository, list(stored))}
    changed = [(author, bot, sha) for sha, (author, bot) in named.items() if author != stored[sha]]
    with db:
        db.executemany("UPDATE record SET author = ?, bot = ? WHERE sha = ?", changed)
        db.executemany("UPDATE change SET author = ? WHERE sha = ?", [(a, sha) for a, _, sha in changed])
        write_setting(db, "mailmap", state)
