"""The commits since the model was made: hides how they become exemplars without a training.

A repository's newest commits resemble the next one most. Each is read once; the terms by which retrieval
compares it are kept in `<state_dir>/recent.json`, a cache that may be deleted at any time.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path

from gitpeft.diff.compact import compact_change
from gitpeft.diff.render import clean_subject
from gitpeft.errors import GitpeftError
from gitpeft.files import write_json_cache
from gitpeft.git.log import Commit
from gitpeft.git.repository import Repository
from gitpeft.git.streams import read_commits_within
from gitpeft.history.filters import find_exclusion_reason, is_bot
from gitpeft.suggest import retrieval
from gitpeft.suggest.retrieval import IndexEntry

MAX_RECENT_COMMITS = 300
"""How many commits back is looked."""

READ_BATCH_SIZE = 16
"""Commits read in one go, newest first: after a long pause the rest follow in the next ones."""

READ_SECONDS = 0.2
"""How long one go may take; the commit that git was at by then is given up."""

_CACHE_SIZE = 4 * MAX_RECENT_COMMITS
_CACHE_VERSION = 1
_SEPARATOR = "\n\0\n"


def refresh_recent_commits(repo: Repository, made_at: str, tip: str = "HEAD") -> list[str]:
    """Read what is new up to `tip`; the ids of usable commits that `made_at` has not, oldest first.

    `made_at` is the newest commit that the model knows. [] where the two cannot be compared.
    """
    try:
        wanted = repo.list_newer_commits(tip, made_at, MAX_RECENT_COMMITS)
    except GitpeftError:
        return []
    if not wanted:
        return []
    known = _load_cache(repo.state_dir)
    unread = [sha for sha in wanted if sha not in known][:READ_BATCH_SIZE]
    if unread:
        commits = read_commits_within(repo, unread, READ_SECONDS)
        repo.mark_generated_files([change for commit in commits for change in commit.files])
        known |= dict.fromkeys(unread[: len(commits) + 1])  # whatever git stopped at would stop it again
        known |= {commit.sha: _build_index_entry(commit) for commit in commits}
        _save_cache(repo.state_dir, known)
    return [sha for sha in reversed(wanted) if known.get(sha)]


def load_recent_entries(state_dir: Path, shas: Iterable[str]) -> list[IndexEntry]:
    """What `refresh` read of these commits, a repeated subject only where it is newest."""
    known = _load_cache(state_dir)
    found = [entry for sha in shas if (entry := known.get(sha))]
    newest = {entry.subject: entry.sha for entry in found}
    return [entry for entry in found if newest[entry.subject] == entry.sha]


def _build_index_entry(commit: Commit) -> IndexEntry | None:
    """What retrieval needs of a commit, as training would see it; None when it has nothing to teach."""
    from gitpeft.redaction import mask_secrets

    if is_bot(commit.author):
        return None
    texts = (compact_change(commit.files) if commit.files else "", commit.subject, commit.body)
    change, subject, body = mask_secrets(_SEPARATOR.join(texts)).split(_SEPARATOR)
    subject = clean_subject(subject)
    if find_exclusion_reason(subject, body, change):
        return None
    return IndexEntry(commit.sha, subject, retrieval.pack_terms(retrieval.extract_terms(change)))


def _load_cache(state_dir: Path) -> dict[str, IndexEntry | None]:
    """The cache; empty when there is none, or it is damaged or of another version."""
    try:
        data = json.loads((state_dir / "recent.json").read_bytes())
        if data["version"] != _CACHE_VERSION:
            return {}
        return {
            sha: IndexEntry(sha, str(found[0]), _decode_terms(found[1])) if found else None
            for sha, found in data["commits"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return {}


def _decode_terms(text: str) -> bytes:
    raw = b64decode(text, validate=True)
    if len(raw) % 8:
        raise ValueError("terms come in pairs of 32 bits")
    return raw


def _save_cache(state_dir: Path, known: dict[str, IndexEntry | None]) -> None:
    """Write the newest entries, those read last."""
    kept: Sequence[tuple[str, IndexEntry | None]] = list(known.items())[-_CACHE_SIZE:]
    commits = {sha: [one.subject, b64encode(one.terms).decode()] if one else None for sha, one in kept}
    write_json_cache(state_dir / "recent.json", {"version": _CACHE_VERSION, "commits": commits})
