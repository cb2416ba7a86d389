"""What was published to and pulled from each channel, remembered in the state directory.

Refs alone do not do: in a mirror a fetch that prunes deletes them, and a clone that gets the state directory
from a cache has none. So the refs keep the objects, and this file keeps the facts. An entry counts for the
name of the remote as well as for its address, whichever is still the same.
"""

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gitpeft.errors import GitpeftError
from gitpeft.files import replace_file
from gitpeft.git.repository import Repository
from gitpeft.share.address import hide_credentials

MEMORY_FILE = "channels.json"
_MAX_SEEN = 8


@dataclass(frozen=True, slots=True)
class ChannelMemory:
    """One channel of one remote; `address` is the SHA-256 of its address, without credentials.

    `seen` are the commits that were published from here or pulled, the newest last; `pulled` is the commit
    that was pulled last and `pulled_time` its committer's time in Unix seconds (0: none).
    """

    remote: str
    address: str
    channel: str
    seen: tuple[str, ...] = ()
    pulled: str = ""
    pulled_time: int = 0


def recall_channel(repo: Repository, remote: str, channel: str) -> ChannelMemory:
    """What is remembered of a channel. GitpeftError when the file is damaged."""
    here = _make_blank(repo, remote, channel)
    found = [one for one in _read_memory(repo) if _is_same(one, here)]
    last = max(found, key=lambda one: one.pulled_time, default=here)
    seen = dict.fromkeys(sha for one in found for sha in one.seen)
    return replace(here, seen=tuple(seen), pulled=last.pulled, pulled_time=last.pulled_time)


def note_seen_commit(repo: Repository, remote: str, channel: str, commit: str) -> None:
    """Remember that a commit of a channel was published from here or fetched."""
    known = recall_channel(repo, remote, channel)
    seen = (*(sha for sha in known.seen if sha != commit), commit)[-_MAX_SEEN:]
    _write_memory(repo, replace(known, seen=seen))


def note_pulled_commit(repo: Repository, remote: str, channel: str, commit: str, time: int) -> None:
    """Remember that the model of a commit was pulled; `time` is the committer's, in Unix seconds."""
    note_seen_commit(repo, remote, channel, commit)
    known = recall_channel(repo, remote, channel)
    _write_memory(repo, replace(known, pulled=commit, pulled_time=time))


def _make_blank(repo: Repository, remote: str, channel: str) -> ChannelMemory:
    address = hide_credentials(repo.query_text("remote", "get-url", remote))
    return ChannelMemory(remote, hashlib.sha256(address.encode()).hexdigest(), channel)


def _is_same(one: ChannelMemory, other: ChannelMemory) -> bool:
    return one.channel == other.channel and (one.remote == other.remote or one.address == other.address)


def _get_memory_path(repo: Repository) -> Path:
    return repo.state_dir / MEMORY_FILE


def _read_memory(repo: Repository) -> list[ChannelMemory]:
    path = _get_memory_path(repo)
    try:
        rows = json.loads(path.read_bytes())["channels"]
        return [_parse_entry(row) for row in rows]
    except FileNotFoundError:
        return []
    except (OSError, ValueError, KeyError, TypeError):
        raise GitpeftError(
            f"{path} cannot be read: it remembers which models were published and pulled",
            "delete it if nobody can restore it; an older model would then no longer be noticed",
        ) from None


def _parse_entry(row: Mapping[str, object]) -> ChannelMemory:
    seen, time = row["seen"], row["pulled_time"]
    if not isinstance(seen, list) or not isinstance(time, int):
        raise TypeError("seen needs to be a list, pulled_time a number")
    remote, address, channel, pulled = (str(row[key]) for key in ("remote", "address", "channel", "pulled"))
    return ChannelMemory(remote, address, channel, tuple(map(str, seen)), pulled, time)


def _write_memory(repo: Repository, entry: ChannelMemory) -> None:
    """Put one entry in place of those of the same remote and channel."""
    others = [
        one for one in _read_memory(repo) if not (one.channel == entry.channel and one.remote == entry.remote)
    ]
    content = json.dumps({"version": 1, "channels": [asdict(one) for one in (*others, entry)]}, indent=1)
    repo.state_dir.mkdir(parents=True, exist_ok=True)
    replace_file(_get_memory_path(repo), content.encode())
