"""Channels: where models are published on a remote.

    refs/gitpeft/models/<channel>/latest       the newest model
    refs/gitpeft/models/<channel>/<date>-<id>  the newest few
    refs/gitpeft/remotes/<remote>/models/…     the last fetched one, in this repository

A model on a server is replaced only by somebody who has fetched it before (compare-and-swap by a push with a
lease). Where a remote is read at one address and written at others, publishing asks those it writes to, and
pulling the one it reads from. Where a server hides or refuses refs/gitpeft, the branch
gitpeft/models/<channel> is used instead; its history consists of models only.
"""

import re
import secrets
import time
from collections.abc import Sequence
from dataclasses import dataclass, field

from gitpeft.errors import GitpeftError
from gitpeft.git.repository import GitResult, Repository
from gitpeft.share import memory
from gitpeft.share.address import find_remote_ends, hide_credentials
from gitpeft.terminal import replace_unprintable

MODELS_REF, PROBE_REF = "refs/gitpeft/models", "refs/gitpeft/probe"
_CHANNEL_PATTERN = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.|lock$|$)){0,39}")
_PUSH_OPTIONS = ("--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no")
"""Options of `git push`; client hooks are skipped, because they check code, and this is none."""

_FETCH_OPTIONS = (
    *("--no-tags", "--no-prune", "--no-write-fetch-head", "--no-auto-maintenance", "--refmap="),
    *("--recurse-submodules=no", "--no-filter", "--quiet"),
)
_NO_PUSH_OPTIONS = "does not support push options"


@dataclass(slots=True)
class ChannelLocation:
    """Where a channel is on a remote: its ref and present commit, and its dated refs with their commits.

    `name` is what was asked: the remote, or one of the addresses that it is written at.
    """

    name: str
    ref: str
    at: str
    dated: dict[str, str]
    notes: list[str]

    @property
    def is_branch(self) -> bool:
        """Whether it is a branch, because the remote allows no other refs."""
        return self.ref.startswith("refs/heads/")


@dataclass(slots=True)
class Pusher:
    """Pushes to a remote with the options for its server: `options`, then those of `push.pushOption`.

    The latter are left out, and `notes` says so, where the server takes none: git refuses to push then.
    """

    repo: Repository
    remote: str
    options: Sequence[str] = ()
    notes: list[str] = field(default_factory=list)

    def push(self, *arguments: str) -> GitResult:
        """Run `git push` with these arguments, options first; the caller judges the exit code."""
        options = [f"--push-option={option}" for option in self.options]
        settings = [
            "-c",
            f"remote.{self.remote}.mirror=false",
            *(["-c", "push.pushOption="] * bool(self.notes)),
        ]
        said = self.repo.run_with_network(*settings, "push", *_PUSH_OPTIONS, *options, *arguments)
        if said.code and _NO_PUSH_OPTIONS in said.err:
            if self.options:
                raise GitpeftError(
                    f"{self.remote} takes no push options", "publish again without --push-option"
                )
            if not self.notes:
                self.notes.append(
                    f"{self.remote} takes no push options: those of push.pushOption were left out"
                )
                return self.push(*arguments)
        return said


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
            f"{hide_credentials(remote)} cannot be reached: {_extract_git_error(said.err)}",
            "Check it with `git ls-remote`.",
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


def locate_channel(repo: Repository, name: str, channel: str) -> ChannelLocation:
    """Find where a channel is at a remote or an address; `at` is "" where it is not there."""
    prefix, branch = _build_ref_names(channel)
    found = _list_remote_refs(repo, name, f"{prefix}*", branch)
    dated = {ref: sha for ref, sha in found.items() if ref.startswith(prefix) and ref != f"{prefix}latest"}
    if f"{prefix}latest" not in found and branch in found:
        return ChannelLocation(name, branch, found[branch], {}, [])
    return ChannelLocation(name, f"{prefix}latest", found.get(f"{prefix}latest", ""), dated, [])


def locate_channel_to_write(pusher: Pusher, channel: str) -> ChannelLocation:
    """Find where a channel is or, for a new one, where it can be, at every address that a push goes to.

    GitpeftError when these hold different models.
    """
    repo, remote = pusher.repo, pusher.remote
    places = [locate_channel(repo, name, channel) for name in find_remote_ends(repo, remote).written_names]
    if len({(place.ref, place.at) for place in places}) > 1:
        names = " and ".join(hide_credentials(place.name) for place in places)
        raise GitpeftError(
            f"a push to {remote} goes to {names}, which hold different models in the channel {channel}",
            "`git remote add` each as a remote of its own, and publish there with --remote",
        )
    place = places[0]
    if place.at or place.dated:
        return place
    reasons = [reason for each in places if (reason := _probe_refusal(pusher, each.name))]
    if not reasons:
        return place
    branch = _build_ref_names(channel)[1]
    note = f"{remote} does not accept refs/gitpeft ({reasons[0]}); using the branch {branch[11:]} instead"
    return ChannelLocation(place.name, branch, "", {}, [note])


def _probe_refusal(pusher: Pusher, name: str) -> str:
    """Why refs/gitpeft cannot be used at an address, "" when they can; tried with an empty commit."""
    repo, remote = pusher.repo, pusher.remote
    tree = repo.run("mktree", input=b"").decode().strip()
    commit = repo.run("commit-tree", tree, "-m", "chore: see if refs/gitpeft can be used").decode().strip()
    ref = f"{PROBE_REF}/{secrets.token_hex(8)}"
    said = pusher.push(remote, f"{commit}:{ref}")
    if said.code:
        return _parse_rejection(said.out) or _extract_git_error(said.err)
    visible = ref in _list_remote_refs(repo, name, ref)
    pusher.push(remote, f":{ref}")
    return "" if visible else "hidden"


def _parse_rejection(output: str) -> str:
    found = re.search(r"^!\t\S*\t\[[a-z ]+\] \((.+)\)$", output, re.MULTILINE)
    return replace_unprintable(found[1][:200]) if found else ""


# --- moving it ---------------------------------------------------------------------------------------------


def check_seen_commit(repo: Repository, remote: str, channel: str, place: ChannelLocation) -> str:
    """The commit on the remote, "" for none; GitpeftError unless it was fetched or published from here.

    Its objects are here afterwards, where a pruned mirror or a fresh clone lacks them.
    """
    known = memory.recall_channel(repo, remote, channel).seen
    refs = [build_tracking_ref(remote, channel), *([] if known else [build_published_ref(channel)])]
    if not place.at:
        return ""
    if place.at not in {*known, *(repo.ask_text("rev-parse", "--verify", "--quiet", ref) for ref in refs)}:
        raise _make_overtaken_error(remote, place.at)
    if not repo.ask_text("rev-parse", "--verify", "--quiet", f"{place.at}^{{tree}}"):
        fetch_ref(repo, place.name, place.ref, build_tracking_ref(remote, channel))
    return place.at


def _make_overtaken_error(remote: str, commit: str) -> GitpeftError:
    return GitpeftError(
        f"somebody else published a model to {remote} meanwhile ({commit[:12]}); yours was not published",
        "To compare: `gitpeft pull --no-activate`, `gitpeft models`. Then publish again.",
    )


def push_model(pusher: Pusher, place: ChannelLocation, seen: str, commit: str, id_: str) -> None:
    """Replace the commit `seen` by `commit` on the remote, or raise GitpeftError and change nothing.

    Where a push goes to several addresses, one may have taken it and another not: the error says so.
    """
    repo, remote = pusher.repo, pusher.remote
    lease = (f"--force-with-lease={place.ref}:{seen}",)
    refs = [f"{commit}:{place.ref}"]
    if not place.is_branch:
        stamp = time.strftime("%Y%m%dT%H%M%SZ", time.gmtime())
        refs.append(f"{commit}:{place.ref.removesuffix('latest')}{stamp}-{id_[:12]}")
    said = pusher.push("--atomic", *lease, remote, *refs)
    if said.code and "does not support --atomic" in said.err:
        said = pusher.push(*lease, remote, *refs)
    if said.code == 0:
        return
    names = find_remote_ends(repo, remote).written_names
    now = {name: _list_remote_refs(repo, name, place.ref).get(place.ref, "") for name in names}
    others = [sha for sha in now.values() if sha not in (seen, commit)]
    if others:
        raise _make_overtaken_error(remote, others[0] or "deleted again")
    if refused := [name for name, sha in now.items() if sha != commit]:
        reason = _parse_rejection(said.out) or _extract_git_error(said.err)
        taken = [hide_credentials(name) for name, sha in now.items() if sha == commit]
        hint = f"{' and '.join(taken)} took it. " if taken else ""
        raise GitpeftError(
            f"{hide_credentials(refused[0])} refused the model: {reason}",
            f"{hint}You need permission to push there.",
        )


def describe_reading_end(repo: Repository, remote: str, place: ChannelLocation, commit: str) -> list[str]:
    """What to say where a remote is read elsewhere than written, and the model is not there yet."""
    ends = find_remote_ends(repo, remote)
    if not ends.is_split:
        return []
    try:
        there = _list_remote_refs(repo, remote, place.ref).get(place.ref, "")
    except GitpeftError as error:
        return [f"{ends.describe()}; {error.message}"]
    if there == commit:
        return []
    return [
        f"{ends.describe()}, which does not have the model yet: `gitpeft pull` finds it once it is copied"
    ]


def prune_dated_refs(pusher: Pusher, place: ChannelLocation, keep: int) -> list[str]:
    """Delete the oldest dated versions; returns a note if the remote forbids it."""
    old = sorted(place.dated, reverse=True)[max(0, keep) :]
    if not old or pusher.push(pusher.remote, *(f":{ref}" for ref in old)).code == 0:
        return []
    return [f"{len(old)} old versions could not be deleted on {pusher.remote}"]


def fetch_ref(repo: Repository, source: str, ref: str, target: str) -> str:
    """Fetch a ref of a remote or a file into this repository as `target`; returns its commit."""
    said = repo.run_with_network("fetch", *_FETCH_OPTIONS, source, f"+{ref}:{target}")
    if said.code:
        raise GitpeftError(
            f"the model could not be fetched: {_extract_git_error(said.err)}", "Your active model stays."
        )
    return repo.resolve_commit(target)
