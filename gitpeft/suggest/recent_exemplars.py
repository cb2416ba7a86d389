"""The rolling index: commits made after the model was trained become exemplars without another training.

A repository's newest commits are the most similar to its next one. Each is read once; its terms for retrieval
are stored in `<state_dir>/recent.json`, a cache that may be deleted at any time.
"""

import json
from base64 import b64decode, b64encode
from collections.abc import Iterable, Sequence
from pathlib import Path

from gitpeft.diff.compact import compact_change
from gitpeft.diff.subjects import clean_subject
from gitpeft.errors import GitFailedError
from gitpeft.files import write_json_cache
from gitpeft.git.log import Commit
from gitpeft.git.repository import Repository
from gitpeft.git.streams import read_commits_within
from gitpeft.history.filters import find_exclusion_reason, is_bot
from gitpeft.suggest.terms import IndexEntry, extract_terms, pack_terms

MAX_RECENT_COMMITS = 300
"""The newest commits that may become exemplars."""

READ_BATCH_SIZE = 16
"""Commits read in one hook, newest first; after a long pause the next hooks read the others."""

READ_SECONDS = 0.2
"""Time for reading them; the commit at which it runs out is never read again."""

_CACHE_SIZE = 4 * MAX_RECENT_COMMITS
_CACHE_VERSION = 3
_SEPARATOR = "\n\0\n"


def refresh_recent_commits(repo: Repository, made_at: str, tip: str = "HEAD") -> list[str]:
    """Read commits up to `tip` that are not in the cache yet.

    Returns the ids of the usable commits that are reachable from `tip` and not from `made_at`, the newest
    commit that the model was trained on; oldest first. [] if one of the two does not exist.
    """
    try:
        wanted = repo.list_newer_commits(tip, made_at, MAX_RECENT_COMMITS)
    except GitFailedError:
        if repo.has_commit(tip) and (not made_at or repo.has_commit(made_at)):
            raise
        return []
    if not wanted:
        return []
    known = _load_cache(repo.state_dir)
    unread = [sha for sha in wanted if sha not in known][:READ_BATCH_SIZE]
    if unread:
        commits = read_commits_within(repo, unread, READ_SECONDS)
        repo.mark_generated_files([change for commit in commits for change in commit.files])
        known |= dict.fromkeys(unread[: len(commits) + 1])  # a commit that took too long would do so again
        known |= {commit.sha: _build_index_entry(commit) for commit in commits}
        _save_cache(repo.state_dir, known)
    return [sha for sha in reversed(wanted) if known.get(sha)]


def load_recent_entries(state_dir: Path, shas: Iterable[str]) -> list[IndexEntry]:
    """The index entries of these commits, oldest first, as `refresh_recent_commits` stored them.

    Of commits with the same subject only the newest is returned.
    """
    known = _load_cache(state_dir)
    entries = [entry for sha in shas if (entry := known.get(sha))]
    newest = {entry.subject: entry.sha for entry in entries}
    return [entry for entry in entries if newest[entry.subject] == entry.sha]


def build_index_entry(sha: str, subject: str, change: str) -> IndexEntry:
    """The index entry of a commit: its terms, and the notes on it."""
    from gitpeft.suggest.commit_notes import describe_commit  # only where a commit is read for the first time

    return IndexEntry(sha, subject, pack_terms(extract_terms(change)), describe_commit(subject, change))


def _build_index_entry(commit: Commit) -> IndexEntry | None:
    """The index entry of a commit, filtered and masked as for training; None if training would exclude it."""
    from gitpeft.redaction import mask_secrets

    if is_bot(commit.author):
        return None
    texts = (compact_change(commit.files) if commit.files else "", commit.subject, commit.body)
    change, subject, body = mask_secrets(_SEPARATOR.join(texts)).split(_SEPARATOR)
    subject = clean_subject(subject)
    if find_exclusion_reason(subject, body, change):
        return None
    return build_index_entry(commit.sha, subject, change)


def _load_cache(state_dir: Path) -> dict[str, IndexEntry | None]:
    """Index entries by commit id, None for unusable ones; {} if the file is missing, damaged or outdated."""
    try:
        data = json.loads((state_dir / "recent.json").read_bytes())
        if data["version"] != _CACHE_VERSION:
            return {}
        return {
            sha: IndexEntry(sha, str(row[0]), _decode_terms(row[1]), str(row[2])) if row else None
            for sha, row in data["commits"].items()
        }
    except (OSError, ValueError, KeyError, TypeError, IndexError, AttributeError, RecursionError):
        return {}


def _decode_terms(text: str) -> bytes:
    raw = b64decode(text, validate=True)
    if len(raw) % 8:
        raise ValueError("terms and counts are pairs of 32-bit numbers")
    return raw


def _save_cache(state_dir: Path, known: dict[str, IndexEntry | None]) -> None:
    """Write the entries that were read last, at most `_CACHE_SIZE`."""
    kept: Sequence[tuple[str, IndexEntry | None]] = list(known.items())[-_CACHE_SIZE:]
    commits = {
        sha: [one.subject, b64encode(one.terms).decode(), one.notes] if one else None for sha, one in kept
    }
    write_json_cache(state_dir / "recent.json", {"version": _CACHE_VERSION, "commits": commits})
