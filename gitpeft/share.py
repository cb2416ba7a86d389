"""Models through git: hides refs, compare-and-swap, and what a server may refuse.

    publish   parcel -> parentless commit -> refs/gitpeft/models/<channel>/latest and a dated ref
    pull      the same, the other way, into refs/gitpeft/remotes/<remote>/models/, and only when asked to

What a server has is replaced only by somebody who has seen it. Where a server hides or refuses refs/gitpeft,
the branch gitpeft/models/<channel> serves, which has no other history than models.
"""

import re
import secrets
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from gitpeft import bundle as bundles
from gitpeft import parcel, signing
from gitpeft.errors import GitpeftError
from gitpeft.git import Repository
from gitpeft.parcel import Entry, Parcel
from gitpeft.signing import Signer

KEEP = 5
"""Dated versions that stay on the remote."""

OWN, PROBE = "refs/gitpeft/models", "refs/gitpeft/probe"
_CHANNEL = re.compile(r"[A-Za-z0-9](?:[A-Za-z0-9_-]|\.(?!\.|lock$|$)){0,39}")
_QUIET_PUSH = ("--porcelain", "--no-verify", "--no-follow-tags", "--recurse-submodules=no")
"""Of `git push`: client hooks check code, and none travels here."""

_QUIET_FETCH = (
    *("--no-tags", "--no-prune", "--no-write-fetch-head", "--no-auto-maintenance", "--refmap="),
    *("--recurse-submodules=no", "--no-filter", "--quiet"),
)


@dataclass(frozen=True, slots=True)
class Published:
    """What was published where; `size` in bytes as sent, before git packs it."""

    bundle: str
    commit: str
    place: str
    size: int
    signed: bool
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Pulled:
    """What was pulled, and whose word it rests on."""

    bundle: str
    commit: str
    signer: Signer
    active: bool


@dataclass(slots=True)
class _Place:
    """Where a channel lies on a remote: `latest` and its dated refs, each with the commit it names now."""

    ref: str
    at: str
    dated: dict[str, str]
    notes: list[str]

    @property
    def is_branch(self) -> bool:
        """Whether the remote allows no better."""
        return self.ref.startswith("refs/heads/")


# --- publish ------------------------------------------------------------------------------------------------


def publish(
    repo: Repository,
    remote: str = "origin",
    channel: str = "main",
    *,
    sign: bool | None = None,
    keep: int = KEEP,
) -> Published:
    """Put the active model on a remote.

    GitpeftError when somebody has published since this repository last looked: they and you are to compare.
    """
    _check(repo, remote, channel)
    bundle = _active(repo)
    place = _look(repo, remote, channel)
    seen = _seen(repo, remote, channel, place)
    if place.at and bundle_of(repo, place.at) == bundle.id:
        return Published(
            bundle.id, place.at, place.ref, 0, _is_signed(repo, place.at), ["it was there already"]
        )
    files = parcel.pack(bundle)
    parent = seen if place.is_branch else ""
    commit, signed = _commit(repo, files, bundle.id, channel, sign, parent)
    repo.run("update-ref", f"{OWN}/{channel}/latest", commit)
    _push(repo, remote, place, seen, commit, bundle.id)
    repo.run("update-ref", _tracking(remote, channel), commit)
    notes = [*place.notes, *_unreachable(repo, bundle), *_forget(repo, remote, place, keep - 1)]
    return Published(bundle.id, commit, place.ref, sum(map(len, files.values())), signed, notes)


def publish_to(repo: Repository, path: Path, channel: str = "main", *, sign: bool | None = None) -> Published:
    """Put the active model into a new folder or, where the name ends in `.bundle`, into a git bundle."""
    _check_channel(channel)
    bundle = _active(repo)
    files = parcel.pack(bundle)
    size = sum(map(len, files.values()))
    notes = _unreachable(repo, bundle)
    if path.suffix != ".bundle":
        _write_folder(path, files)
        return Published(bundle.id, "", str(path), size, False, notes)
    commit, signed = _commit(repo, files, bundle.id, channel, sign, "")
    repo.run("update-ref", f"{OWN}/{channel}/latest", commit)
    spare = path.absolute().with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        repo.run("bundle", "create", "--quiet", str(spare), f"{OWN}/{channel}/latest")
        spare.replace(path.absolute())
    finally:
        spare.unlink(missing_ok=True)
    return Published(bundle.id, commit, str(path), size, signed, notes)


def _active(repo: Repository) -> bundles.Bundle:
    bundle = bundles.active(repo.state_dir)
    if bundle is None:
        raise GitpeftError("there is no model yet", "run `gitpeft init`")
    return bundle


def _check(repo: Repository, remote: str, channel: str) -> None:
    _check_channel(channel)
    if remote not in (known := repo.remotes()):
        names = f"known are {', '.join(known)}" if known else "`git remote add` adds one"
        raise GitpeftError(f"there is no remote {remote}", f"{names}; --to and --from take a path instead")


def _check_channel(channel: str) -> None:
    if not _CHANNEL.fullmatch(channel) or channel == "latest":
        raise GitpeftError(f"{channel!r} cannot be a channel's name", "use letters, digits, - and _")


def _write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    import shutil
    import tempfile

    if path.exists():
        raise GitpeftError(f"{path} exists already", "name a folder that does not, or a file *.bundle")
    path.absolute().parent.mkdir(parents=True, exist_ok=True)
    spare = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.absolute().parent))
    try:
        for name, raw in files.items():
            (spare / name).parent.mkdir(parents=True, exist_ok=True)
            (spare / name).write_bytes(raw)
        spare.chmod(0o755)
        spare.rename(path)
    finally:
        shutil.rmtree(spare, ignore_errors=True)


def _seen(repo: Repository, remote: str, channel: str, place: _Place) -> str:
    """What the remote has, if it was seen here: pulled, or put there by this repository; "" for nothing."""
    known = (_tracking(remote, channel), f"{OWN}/{channel}/latest")
    if place.at and place.at not in {repo.ask("rev-parse", "--verify", "--quiet", ref) for ref in known}:
        raise _overtaken(remote, place.at)
    return place.at


def _overtaken(remote: str, commit: str) -> GitpeftError:
    return GitpeftError(
        f"somebody else published a model to {remote} meanwhile ({commit[:12]}); yours was not",
        "compare before you replace it: `gitpeft pull --aside`, `gitpeft models`; then publish again",
    )


def _commit(
    repo: Repository, files: Mapping[str, bytes], id_: str, channel: str, sign: bool | None, parent: str
) -> tuple[str, bool]:
    """A commit of these files, and whether it is signed."""
    tree = _tree(repo, files)
    signed = signing.wanted(repo) if sign is None else sign
    subject = f"chore: publish gitpeft model {id_[:12]}"
    parents = ("-p", parent) if parent else ()
    body = f"Channel: {channel}\nModel: {id_}"
    try:
        said = repo.run(
            "commit-tree", tree, *parents, *(("-S",) if signed else ()), "-m", subject, "-m", body
        )
    except GitpeftError as error:
        hint = "set user.name and user.email, and see that git can sign; --no-sign publishes without"
        raise GitpeftError(f"the model could not be committed: {error.message}", hint) from None
    return said.decode().strip(), signed


def _tree(repo: Repository, files: Mapping[str, bytes]) -> str:
    """Write files and folders into the object database; the id of the top folder."""
    lines, folders = [], dict[str, dict[str, bytes]]()
    for name, raw in files.items():
        folder, slash, rest = name.partition("/")
        if slash:
            folders.setdefault(folder, {})[rest] = raw
        else:
            sha = repo.run("hash-object", "-w", "--no-filters", "--stdin", input=raw).decode().strip()
            lines.append(f"100644 blob {sha}\t{name}")
    lines += (f"040000 tree {_tree(repo, inner)}\t{name}" for name, inner in folders.items())
    return repo.run("mktree", input="".join(f"{line}\n" for line in lines).encode()).decode().strip()


def _unreachable(repo: Repository, bundle: bundles.Bundle) -> list[str]:
    """A warning where the model learnt from commits that no branch holds any more."""
    tip = str(bundle.manifest.commits.get("to", ""))
    places = ("refs/heads", "refs/remotes", "refs/tags")
    if not tip or repo.ask("for-each-ref", "--count=1", "--contains", tip, "--format=%(refname)", *places):
        return []
    return [
        f"the model learnt from {tip[:12]}, which no branch holds any more: it may remember what was purged"
    ]


# --- the remote's side --------------------------------------------------------------------------------------


def _tracking(remote: str, channel: str) -> str:
    return f"refs/gitpeft/remotes/{remote}/models/{channel}/latest"


def _names(remote: str, channel: str) -> tuple[str, str]:
    """The prefix of a channel in the namespace, and its branch where that is refused."""
    return f"{OWN}/{channel}/", f"refs/heads/gitpeft/models/{channel}"


def _list(repo: Repository, remote: str, *patterns: str) -> dict[str, str]:
    """The remote's refs that match, with their commits. GitpeftError when it cannot be reached."""
    said = repo.reach("ls-remote", "--refs", remote, *patterns)
    if said.code:
        raise GitpeftError(f"{remote} cannot be reached: {_last(said.err)}", "check it with `git ls-remote`")
    pairs = (line.split("\t", 1) for line in said.out.splitlines() if "\t" in line)
    return {ref: sha for sha, ref in pairs}


def _last(text: str) -> str:
    """git's own reason, without what is only politeness."""
    lines = [
        line.removeprefix("fatal: ").removeprefix("error: ") for line in text.splitlines() if line.strip()
    ]
    told = [
        line for line in lines if not line.startswith(("Please make sure", "and the repository", "hint:"))
    ]
    return (told or lines or ["git gave no reason"])[0][:200]


def _look(repo: Repository, remote: str, channel: str, *, probe: bool = True) -> _Place:
    """Where the channel is; for a new one, where it can be."""
    prefix, branch = _names(remote, channel)
    found = _list(repo, remote, f"{prefix}*", branch)
    dated = {ref: sha for ref, sha in found.items() if ref.startswith(prefix) and ref != f"{prefix}latest"}
    if f"{prefix}latest" in found:
        return _Place(f"{prefix}latest", found[f"{prefix}latest"], dated, [])
    if branch in found:
        return _Place(branch, found[branch], {}, [])
    reason = _refusal(repo, remote) if probe and not dated else ""
    if not reason:
        return _Place(f"{prefix}latest", "", dated, [])
    note = f"{remote} does not take refs/gitpeft ({reason}): the branch {branch[11:]} serves instead"
    return _Place(branch, "", {}, [note])


def _refusal(repo: Repository, remote: str) -> str:
    """Why refs/gitpeft cannot be used on a remote, "" when it can: tried with an empty commit."""
    tree = repo.run("mktree", input=b"").decode().strip()
    commit = repo.run("commit-tree", tree, "-m", "chore: see if refs/gitpeft can be used").decode().strip()
    ref = f"{PROBE}/{secrets.token_hex(8)}"
    said = repo.reach(*_pushing(remote), remote, f"{commit}:{ref}")
    if said.code:
        return _rejection(said.out) or _last(said.err)
    visible = ref in _list(repo, remote, ref)
    repo.reach(*_pushing(remote), remote, f":{ref}")
    return "" if visible else "it hides them"


def _pushing(remote: str) -> tuple[str, ...]:
    return ("-c", f"remote.{remote}.mirror=false", "push", *_QUIET_PUSH)


def _rejection(output: str) -> str:
    found = re.search(r"^!\t\S*\t\[[a-z ]+\] \((.+)\)$", output, re.MULTILINE)
    return found[1] if found else ""


def _push(repo: Repository, remote: str, place: _Place, seen: str, commit: str, id_: str) -> None:
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
        reason = _rejection(said.out) or _last(said.err)
        raise GitpeftError(f"{remote} refused the model: {reason}", "you need the right to push there")


def _forget(repo: Repository, remote: str, place: _Place, keep: int) -> list[str]:
    """Take the oldest dated versions away; a remote that forbids it keeps them."""
    old = sorted(place.dated, reverse=True)[max(0, keep) :]
    if not old or repo.reach(*_pushing(remote), remote, *(f":{ref}" for ref in old)).code == 0:
        return []
    return [f"{len(old)} old versions could not be taken from {remote}"]


# --- pull ---------------------------------------------------------------------------------------------------

Asking = Callable[[str], bool]
"""Puts a yes-or-no question to a person."""


@dataclass(frozen=True, slots=True)
class Terms:
    """On whose word a model is taken: the key (or `unsigned`) accepted beforehand, and whom to ask else."""

    accept: str = ""
    ask: Asking | None = None


def pull(
    repo: Repository,
    remote: str = "origin",
    channel: str = "main",
    terms: Terms = Terms(),
    *,
    aside: bool = False,
) -> Pulled:
    """Fetch a channel's newest model, check it in every way, and make it active (not so with `aside`)."""
    _check(repo, remote, channel)
    place = _look(repo, remote, channel, probe=False)
    if not place.at:
        raise GitpeftError(f"nothing is published on {remote} in the channel {channel}", "`gitpeft publish`")
    commit = _fetch(repo, remote, place.ref, _tracking(remote, channel))
    return _take(
        repo, commit_parcel(repo, commit), commit, signing.signer(repo, commit, remote), terms, aside
    )


def pull_from(repo: Repository, path: Path, terms: Terms = Terms(), *, aside: bool = False) -> Pulled:
    """The same from a folder or a git bundle that `publish_to` wrote."""
    if path.is_dir():
        return _take(repo, parcel.of_folder(path), "", Signer(signing.UNSIGNED), terms, aside)
    if not path.is_file():
        raise GitpeftError(
            f"there is no {path}", "name a folder, or a file *.bundle, of `gitpeft publish --to`"
        )
    said = repo.reach("bundle", "list-heads", str(path.absolute()))
    refs = [line.split(" ", 1)[1] for line in said.out.splitlines() if f" {OWN}/" in line]
    if said.code or len(refs) != 1:
        raise GitpeftError(
            f"{path} holds no published model", "`gitpeft publish --to FILE.bundle` writes one"
        )
    commit = _fetch(repo, str(path.absolute()), refs[0], "refs/gitpeft/file/latest")
    remote = "origin" if "origin" in repo.remotes() else next(iter(repo.remotes()), "")
    return _take(
        repo, commit_parcel(repo, commit), commit, signing.signer(repo, commit, remote), terms, aside
    )


def _fetch(repo: Repository, source: str, ref: str, target: str) -> str:
    said = repo.reach("fetch", *_QUIET_FETCH, source, f"+{ref}:{target}")
    if said.code:
        raise GitpeftError(f"the model could not be fetched: {_last(said.err)}", "the active model stays")
    return repo.resolve(target)


def commit_parcel(repo: Repository, commit: str) -> Parcel:
    """What a commit holds, as git lists it; contents are read only on demand, each by its own id."""
    blobs: dict[str, str] = {}
    entries = []
    listing = repo.run("ls-tree", "-r", "-z", "-l", "--full-tree", commit)
    for line in listing.split(b"\0")[: parcel.FILES_MOST + 1]:
        if line:
            facts, _, raw = line.partition(b"\t")
            mode, kind, sha, size = facts.decode().split()
            name = raw.decode("utf-8", "replace")
            blobs[name] = sha
            regular = mode == "100644" and kind == "blob"
            entries.append(Entry(name, int(size) if size.isdigit() else 0, regular))
    return Parcel(tuple(entries), lambda name: repo.run("cat-file", "blob", blobs[name]))


def _take(repo: Repository, found: Parcel, commit: str, signer: Signer, terms: Terms, aside: bool) -> Pulled:
    """Judge, ask, put together, prove, and only then activate."""
    parcel.listed(found)
    _believe(signer, terms)
    id_ = parcel.receive(found, repo.state_dir)
    if not aside:
        bundles.activate(repo.state_dir, id_)
        bundles.prune(repo.state_dir)
    return Pulled(id_, commit, signer, not aside)


def _believe(signer: Signer, terms: Terms) -> None:
    """Return when somebody vouches for the signer; GitpeftError when nobody does or can be asked."""
    if signer.known or (terms.accept and terms.accept == signer.key):
        return
    unsigned = signer.key == signing.UNSIGNED
    what = "is not signed" if unsigned else f"is signed by {signer.key}, whom nobody here vouches for"
    if terms.ask is not None and terms.ask(f"The model {what}. Use it all the same?"):
        return
    remedy = "publish it signed" if unsigned else f"add the key to {signing.FILE} on the default branch"
    raise GitpeftError(f"the model {what}: it was not taken", f"{remedy}, or pull with --accept {signer.key}")


def bundle_of(repo: Repository, commit: str) -> str:
    """The model that a published commit holds, "" when it is not here."""
    try:
        return parcel.Listed.from_json(repo.run("cat-file", "blob", f"{commit}:{parcel.LIST}")).bundle
    except GitpeftError:
        return ""


def _is_signed(repo: Repository, commit: str) -> bool:
    return b"\ngpgsig" in repo.run("cat-file", "commit", commit).partition(b"\n\n")[0]
