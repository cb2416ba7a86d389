"""A channel of models on a remote: hides its refs, the compare-and-swap, and what a server may refuse.

    refs/gitpeft/models/<channel>/latest       the newest model
    refs/gitpeft/models/<channel>/<date>-<id>  the newest few
    refs/gitpeft/remotes/<remote>/models/…     what was fetched of them, in this repository

What a server has is replaced only by somebody who has seen it. Where a server hides or refuses refs/gitpeft,
the branch gitpeft/models/<channel> serves, which has no other history than models.
"""

import re
import secrets
import time
from dataclasses import dataclass

from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository

OWN, PROBE = "refs/gitpeft/models", "refs/gitpeft/probe"
_CHANNEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.|lock$|$)){0,39}")
_QUIET_PUSH = ("--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no")
"""Of `git push`: client hooks check code, and none travels here."""

_QUIET_FETCH = (
    *("--no-tags", "--no-prune", "--no-write-fetch-head", "--no-auto-maintenance", "--refmap="),
    *("--recurse-submodules=no", "--no-filter", "--quiet"),
)


@dataclass(slots=True)
class Place:
    """Where a channel lies on a remote: `latest` and its dated refs, each with the commit it names now."""

    ref: str
    at: str
    dated: dict[str, str]
    notes: list[str]

    @property
    def is_branch(self) -> bool:
        """Whether the remote allows no better."""
        return self.ref.startswith("refs/heads/")


def check(repo: Repository, remote: str, channel: str) -> None:
    """GitpeftError unless there is such a remote, and may be such a channel."""
    check_name(channel)
    if remote not in (known := repo.remotes()):
        names = f"known are {', '.join(known)}" if known else "`git remote add` adds one"
        raise GitpeftError(f"there is no remote {remote}", f"{names}; --to and --from take a path instead")


def check_name(channel: str) -> None:
    """GitpeftError unless a channel may be called so."""
    if not _CHANNEL.fullmatch(channel) or channel == "latest":
        raise GitpeftError(f"{channel!r} cannot be a channel's name", "use letters, digits, - and _")


# --- where it is --------------------------------------------------------------------------------------------


def own(channel: str) -> str:
    """The ref of what this repository published, or tried to, in itself."""
    return f"{OWN}/{channel}/latest"


def tracking(remote: str, channel: str) -> str:
    """The ref of what a remote was last seen to have, in this repository."""
    return f"refs/gitpeft/remotes/{remote}/models/{channel}/latest"


def taken(remote: str, channel: str) -> str:
    """The ref of what was last taken from a remote, in this repository."""
    return f"refs/gitpeft/taken/{remote}/{channel}"


def _names(channel: str) -> tuple[str, str]:
    """The prefix of a channel in the namespace, and its branch where that is refused."""
    return f"{OWN}/{channel}/", f"refs/heads/gitpeft/models/{channel}"


def _list(repo: Repository, remote: str, *patterns: str) -> dict[str, str]:
    """The remote's refs that match, with their commits. GitpeftError when it cannot be reached."""
    said = repo.reach("ls-remote", "--refs", remote, *patterns)
    if said.code:
        raise GitpeftError(
            f"{remote} cannot be reached: {_reason(said.err)}", "check it with `git ls-remote`"
        )
    pairs = (line.split("\t", 1) for line in said.out.splitlines() if "\t" in line)
    return {ref: sha for sha, ref in pairs}


def _reason(text: str) -> str:
    """git's own reason, without what is only politeness."""
    lines = [
        line.removeprefix("fatal: ").removeprefix("error: ") for line in text.splitlines() if line.strip()
    ]
    told = [
        line for line in lines if not line.startswith(("Please make sure", "and the repository", "hint:"))
    ]
    return _plain((told or lines or ["git gave no reason"])[0])


def _plain(text: str) -> str:
    """A server's words, without what would steer a terminal."""
    return "".join(letter if letter.isprintable() else "?" for letter in text[:200])


def look(repo: Repository, remote: str, channel: str, *, probe: bool = True) -> Place:
    """Where the channel is; for a new one, where it can be."""
    prefix, branch = _names(channel)
    found = _list(repo, remote, f"{prefix}*", branch)
    dated = {ref: sha for ref, sha in found.items() if ref.startswith(prefix) and ref != f"{prefix}latest"}
    if f"{prefix}latest" in found:
        return Place(f"{prefix}latest", found[f"{prefix}latest"], dated, [])
    if branch in found:
        return Place(branch, found[branch], {}, [])
    reason = _refusal(repo, remote) if probe and not dated else ""
    if not reason:
        return Place(f"{prefix}latest", "", dated, [])
    note = f"{remote} does not take refs/gitpeft ({reason}): the branch {branch[11:]} serves instead"
    return Place(branch, "", {}, [note])


def _refusal(repo: Repository, remote: str) -> str:
    """Why refs/gitpeft cannot be used on a remote, "" when it can: tried with an empty commit."""
    tree = repo.run("mktree", input=b"").decode().strip()
    commit = repo.run("commit-tree", tree, "-m", "chore: see if refs/gitpeft can be used").decode().strip()
    ref = f"{PROBE}/{secrets.token_hex(8)}"
    said = repo.reach(*_pushing(remote), remote, f"{commit}:{ref}")
    if said.code:
        return _rejection(said.out) or _reason(said.err)
    visible = ref in _list(repo, remote, ref)
    repo.reach(*_pushing(remote), remote, f":{ref}")
    return "" if visible else "it hides them"


def _pushing(remote: str) -> tuple[str, ...]:
    return ("-c", f"remote.{remote}.mirror=false", "push", *_QUIET_PUSH)


def _rejection(output: str) -> str:
    found = re.search(r"^!\t\S*\t\[[a-z ]+\] \((.+)\)$", output, re.MULTILINE)
    return _plain(found[1]) if found else ""


# --- what moves it ------------------------------------------------------------------------------------------


def seen_there(repo: Repository, remote: str, channel: str, place: Place) -> str:
    """What the remote has, if it was seen here: pulled, or put there by this repository; "" for nothing."""
    known = (tracking(remote, channel), own(channel))
    if place.at and place.at not in {repo.ask("rev-parse", "--verify", "--quiet", ref) for ref in known}:
        raise _overtaken(remote, place.at)
    return place.at


def _overtaken(remote: str, commit: str) -> GitpeftError:
    return GitpeftError(
        f"somebody else published a model to {remote} meanwhile ({commit[:12]}); yours was not",
        "compare before you replace it: `gitpeft pull --aside`, `gitpeft models`; then publish again",
    )


def push(repo: Repository, remote: str, place: Place, seen: str, commit: str, id_: str) -> None:
    """Replace `seen` by `commit` on the remote, or nothing at all."""
    lease = (f"--force-with-lease={place.ref}:{seen}",)
    refs = [f"{commit}:{place.ref}"]
    if not place.is_branch:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        refs.append(f"{commit}:{place.ref.removesuffix('latest')}{stamp}-{id_[:12]}")
    said = repo.reach(*_pushing(remote), "--atomic", *lease, remote, *refs)
    if said.code and "does not support --atomic" in said.err:
        said = repo.reach(*_pushing(remote), *lease, remote, *refs)
    if said.code == 0:
        return
    now = _list(repo, remote, place.ref).get(place.ref, "")
    if now not in (seen, commit):
        raise _overtaken(remote, now or "taken away again")
    if now != commit:
        reason = _rejection(said.out) or _reason(said.err)
        raise GitpeftError(f"{remote} refused the model: {reason}", "you need the right to push there")


def forget(repo: Repository, remote: str, place: Place, keep: int) -> list[str]:
    """Take the oldest dated versions away; a remote that forbids it keeps them."""
    old = sorted(place.dated, reverse=True)[max(0, keep) :]
    if not old or repo.reach(*_pushing(remote), remote, *(f":{ref}" for ref in old)).code == 0:
        return []
    return [f"{len(old)} old versions could not be taken from {remote}"]


def fetch(repo: Repository, source: str, ref: str, target: str) -> str:
    """Bring a ref of a remote, or of a file, into this repository as `target`; the commit that it names."""
    said = repo.reach("fetch", *_QUIET_FETCH, source, f"+{ref}:{target}")
    if said.code:
        raise GitpeftError(f"the model could not be fetched: {_reason(said.err)}", "the active model stays")
    return repo.resolve(target)
