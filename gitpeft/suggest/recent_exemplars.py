"""The commits since the model was made: hides how they become exemplars without a training.

A repository's newest commits resemble the next one most. Each is read once; the terms by which retrieval
compares it are kept in `<state_dir>/recent.json`, a cache that may be deleted at any time.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path

from gitpeft.diff.patch import clean_subject, compact
from gitpeft.errors import GitpeftError
from gitpeft.files import keep
from gitpeft.git.log import Commit
from gitpeft.git.repository import Repository
from gitpeft.history.filters import is_bot, why_not
from gitpeft.suggest import retrieval
from gitpeft.suggest.retrieval import Entry

LOOKED_AT = 300
"""How many commits back is looked."""

AT_ONCE = 16
"""Commits read in one go, newest first: after a long pause the rest follow in the next ones."""

SECONDS = 0.2
"""How long one go may take; the commit that git was at by then is given up."""

_KEPT = 4 * LOOKED_AT
_VERSION = 1
_SEPARATOR = "\n\0\n"


def refresh(repo: Repository, made_at: str, tip: str = "HEAD") -> list[str]:
    """Read what is new up to `tip`; the ids of usable commits that `made_at` has not, oldest first.

    `made_at` is the newest commit that the model knows. [] where the two cannot be compared.
    """
    try:
        wanted = repo.newer(tip, made_at, LOOKED_AT)
    except GitpeftError:
        return []
    if not wanted:
        return []
    known = _load(repo.state_dir)
    unread = [sha for sha in wanted if sha not in known][:AT_ONCE]
    if unread:
        commits = repo.read_some(unread, SECONDS)
        repo.mark_generated([change for commit in commits for change in commit.files])
        known |= dict.fromkeys(unread[: len(commits) + 1])  # whatever git stopped at would stop it again
        known |= {commit.sha: _entry(commit) for commit in commits}
        _store(repo.state_dir, known)
    return [sha for sha in reversed(wanted) if known.get(sha)]


def entries(state_dir: Path, shas: Iterable[str]) -> list[Entry]:
    """What `refresh` read of these commits, a repeated subject only where it is newest."""
    known = _load(state_dir)
    found = [entry for sha in shas if (entry := known.get(sha))]
    newest = {entry.subject: entry.sha for entry in found}
    return [entry for entry in found if newest[entry.subject] == entry.sha]


def _entry(commit: Commit) -> Entry | None:
    """What retrieval needs of a commit, as training would see it; None when it has nothing to teach."""
    from gitpeft.redaction import mask

    if is_bot(commit.author):
        return None
    texts = (compact(commit.files) if commit.files else "", commit.subject, commit.body)
    change, subject, body = mask(_SEPARATOR.join(texts)).split(_SEPARATOR)
    subject = clean_subject(subject)
    if why_not(subject, body, change):
        return None
    return Entry(commit.sha, subject, retrieval.pack(retrieval.terms(change)))


def _load(state_dir: Path) -> dict[str, Entry | None]:
    """The cache; empty when there is none, or it is damaged or of another version."""
    try:
        data = json.loads((state_dir / "recent.json").read_bytes())
        if data["version"] != _VERSION:
            return {}
        return {
            sha: Entry(sha, str(found[0]), _terms(found[1])) if found else None
            for sha, found in data["commits"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return {}


def _terms(text: str) -> bytes:
    raw = b64decode(text, validate=True)
    if len(raw) % 8:
        raise ValueError("terms come in pairs of 32 bits")
    return raw


def _store(state_dir: Path, known: dict[str, Entry | None]) -> None:
    """Write the newest entries, those read last."""
    kept: Sequence[tuple[str, Entry | None]] = list(known.items())[-_KEPT:]
    commits = {sha: [one.subject, b64encode(one.terms).decode()] if one else None for sha, one in kept}
    keep(state_dir / "recent.json", {"version": _VERSION, "commits": commits})
