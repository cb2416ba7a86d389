"""Channels: where models are published on a remote.

    refs/gitpeft/models/<channel>/latest       the newest model
    refs/gitpeft/models/<channel>/<date>-<id>  the newest few
    refs/gitpeft/remotes/<remote>/models/…     the last fetched one, in this repository

A model on a server is replaced only by somebody who has fetched it before (compare-and-swap by a push with a
lease). Where a server hides or refuses refs/gitpeft, the branch gitpeft/models/<channel> is used instead; its
history consists of models only.
"""

import re
import secrets
import time
from dataclasses import dataclass

from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.terminal import replace_unprintable

MODELS_REF, PROBE_REF = "refs/gitpeft/models", "refs/gitpeft/probe"
_CHANNEL_PATTERN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.|lock$|$)){0,39}")
_PUSH_OPTIONS = ("--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no")
"""Options of `git push`; client hooks are skipped, because they check code, and this is none."""

_FETCH_OPTIONS = (
    *("--no-tags", "--no-prune", "--no-write-fetch-head", "--no-auto-maintenance", "--refmap="),
    *("--recurse-submodules=no", "--no-filter", "--quiet"),
)


@dataclass(slots=True)
class ChannelLocation:
    """Where a channel is on a remote: its ref and present commit, and its dated refs with their commits."""

    ref: str
    at: str
    dated: dict[str, str]
    notes: list[str]

    @property
    def is_branch(self) -> bool:
        """Whether it is a branch, because the remote allows no other refs."""
        return self.ref.startswith("refs/heads/")


def check_remote_and_channel(repo: Repository, remote: str, channel: str) -> None:
    """Raise GitpeftError for an unknown remote or an invalid name of a channel."""
    check_channel_name(channel)
    if remote not in (known := repo.list_remotes()):
        names = f"Known: {', '.join(known)}" if known else "`git remote add` adds one"
        raise GitpeftError(f"unknown remote {remote}", f"{names}; --to and --from take a path instead.")


def check_channel_name(channel: str) -> None:
    """Raise GitpeftError for an invalid name of a channel."""
    if not _CHANNEL_PATTERN.fullmatch(channel) or channel == "latest":
        raise GitpeftError(f"invalid channel name {channel!r}", "Use letters, digits, - and _.")


# --- where it is --------------------------------------------------------------------------------------------


def build_published_ref(channel: str) -> str:
    """The local ref of the model that this repository published, or tried to."""
    return f"{MODELS_REF}/{channel}/latest"


def build_tracking_ref(remote: str, channel: str) -> str:
    """The local ref of the model last seen on a remote."""
    return f"refs/gitpeft/remotes/{remote}/models/{channel}/latest"


def build_pulled_ref(remote: str, channel: str) -> str:
    """The local ref of the model last pulled from a remote."""
    return f"refs/gitpeft/taken/{remote}/{channel}"


def _build_ref_names(channel: str) -> tuple[str, str]:
    """The prefix of a channel's refs, and its branch for servers that refuse them."""
    return f"{MODELS_REF}/{channel}/", f"refs/heads/gitpeft/models/{channel}"


def _list_remote_refs(repo: Repository, remote: str, *patterns: str) -> dict[str, str]:
    """The matching refs of a remote, with their commits. GitpeftError when it cannot be reached."""
    said = repo.run_with_network("ls-remote", "--refs", remote, *patterns)
    if said.code:
        raise GitpeftError(
            f"{remote} cannot be reached: {_extract_git_error(said.err)}", "Check it with `git ls-remote`."
        )
    pairs = (line.split("\t", 1) for line in said.out.split("\n") if "\t" in line)
    return {ref: sha for sha, ref in pairs}


def _extract_git_error(text: str) -> str:
    """The reason in git's error output, without its general advice."""
    lines = [
        line.removeprefix("fatal: ").removeprefix("error: ") for line in text.split("\n") if line.strip()
    ]
    reasons = [
        line for line in lines if not line.startswith(("Please make sure", "and the repository", "hint:"))
    ]
    return replace_unprintable((reasons or lines or ["git gave no reason"])[0][:200])


def locate_channel(repo: Repository, remote: str, channel: str, *, probe: bool = True) -> ChannelLocation:
    """Find where a channel is or, for a new one, where it can be; `probe` tries that out."""
    prefix, branch = _build_ref_names(channel)
    found = _list_remote_refs(repo, remote, f"{prefix}*", branch)
    dated = {ref: sha for ref, sha in found.items() if ref.startswith(prefix) and ref != f"{prefix}latest"}
    if f"{prefix}latest" in found:
        return ChannelLocation(f"{prefix}latest", found[f"{prefix}latest"], dated, [])
    if branch in found:
        return ChannelLocation(branch, found[branch], {}, [])
    reason = _probe_refusal(repo, remote) if probe and not dated else ""
    if not reason:
        return ChannelLocation(f"{prefix}latest", "", dated, [])
    note = f"{remote} does not accept refs/gitpeft ({reason}); using the branch {branch[11:]} instead"
    return ChannelLocation(branch, "", {}, [note])


def _probe_refusal(repo: Repository, remote: str) -> str:
    """Why refs/gitpeft cannot be used on a remote, "" when they can; tried with an empty commit."""
    tree = repo.run("mktree", input=b"").decode().strip()
    commit = repo.run("commit-tree", tree, "-m", "chore: see if refs/gitpeft can be used").decode().strip()
    ref = f"{PROBE_REF}/{secrets.token_hex(8)}"
    said = repo.run_with_network(*_build_push_command(remote), remote, f"{commit}:{ref}")
    if said.code:
        return _parse_rejection(said.out) or _extract_git_error(said.err)
    visible = ref in _list_remote_refs(repo, remote, ref)
    repo.run_with_network(*_build_push_command(remote), remote, f":{ref}")
    return "" if visible else "hidden"


def _build_push_command(remote: str) -> tuple[str, ...]:
    return ("-c", f"remote.{remote}.mirror=false", "push", *_PUSH_OPTIONS)


def _parse_rejection(output: str) -> str:
    found = re.search(r"^!\t\S*\t\[[a-z ]+\] \((.+)\)$", output, re.MULTILINE)
    return replace_unprintable(found[1][:200]) if found else ""


# --- moving it ---------------------------------------------------------------------------------------------


def check_seen_commit(repo: Repository, remote: str, channel: str, place: ChannelLocation) -> str:
    """The commit on the remote, "" for none; GitpeftError unless it was fetched or published from here."""
    known = (build_tracking_ref(remote, channel), build_published_ref(channel))
    if place.at and place.at not in {
        repo.query_text("rev-parse", "--verify", "--quiet", ref) for ref in known
    }:
        raise _make_overtaken_error(remote, place.at)
    return place.at


def _make_overtaken_error(remote: str, commit: str) -> GitpeftError:
    return GitpeftError(
        f"somebody else published a model to {remote} meanwhile ({commit[:12]}); yours was not published",
        "To compare: `gitpeft pull --no-activate`, `gitpeft models`. Then publish again.",
    )


def push_model(
    repo: Repository, remote: str, place: ChannelLocation, seen: str, commit: str, id_: str
) -> None:
    """Replace the commit `seen` by `commit` on the remote, or raise GitpeftError and change nothing."""
    lease = (f"--force-with-lease={place.ref}:{seen}",)
    refs = [f"{commit}:{place.ref}"]
    if not place.is_branch:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        refs.append(f"{commit}:{place.ref.removesuffix('latest')}{stamp}-{id_[:12]}")
    said = repo.run_with_network(*_build_push_command(remote), "--atomic", *lease, remote, *refs)
    if said.code and "does not support --atomic" in said.err:
        said = repo.run_with_network(*_build_push_command(remote), *lease, remote, *refs)
    if said.code == 0:
        return
    now = _list_remote_refs(repo, remote, place.ref).get(place.ref, "")
    if now not in (seen, commit):
        raise _make_overtaken_error(remote, now or "deleted again")
    if now != commit:
        reason = _parse_rejection(said.out) or _extract_git_error(said.err)
        raise GitpeftError(f"{remote} refused the model: {reason}", "You need permission to push there.")


def prune_dated_refs(repo: Repository, remote: str, place: ChannelLocation, keep: int) -> list[str]:
    """Delete the oldest dated versions; returns a note if the remote forbids it."""
    old = sorted(place.dated, reverse=True)[max(0, keep) :]
    if (
        not old
        or repo.run_with_network(*_build_push_command(remote), remote, *(f":{ref}" for ref in old)).code == 0
    ):
        return []
    return [f"{len(old)} old versions could not be deleted on {remote}"]


def fetch_ref(repo: Repository, source: str, ref: str, target: str) -> str:
    """Fetch a ref of a remote or a file into this repository as `target`; returns its commit."""
    said = repo.run_with_network("fetch", *_FETCH_OPTIONS, source, f"+{ref}:{target}")
    if said.code:
        raise GitpeftError(
            f"the model could not be fetched: {_extract_git_error(said.err)}", "Your active model stays."
        )
    return repo.resolve_commit(target)
