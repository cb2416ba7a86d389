"""Publishing and pulling a model: as a commit on a remote, as a folder, or as a git bundle.

publish   bundle -> package -> commit without a parent -> a channel of a remote (see `share.remote`)
pull      the reverse, after every check, and only on request
"""

import secrets
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from gitpeft.bundle import bundle as bundles
from gitpeft.errors import GitFailedError, GitpeftError
from gitpeft.git.log import parse_time
from gitpeft.git.repository import Repository
from gitpeft.share import memory, package, signing
from gitpeft.share import remote as channels
from gitpeft.share.address import find_remote_ends
from gitpeft.share.package import ModelPackage, PackageEntry
from gitpeft.share.signing import Signer

KEPT_VERSIONS = 5
"""Dated versions that are kept on the remote."""


@dataclass(frozen=True, slots=True)
class PublishedModel:
    """What was published, and where; `size` is in bytes, before git compresses it."""

    bundle: str
    commit: str
    place: str
    size: int
    signed: bool
    notes: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class PulledModel:
    """What was pulled, and who signed it."""

    bundle: str
    commit: str
    signer: Signer
    active: bool


# --- publish ------------------------------------------------------------------------------------------------


def publish_model(
    repo: Repository,
    remote: str = "origin",
    channel: str = "main",
    *,
    sign: bool | None = None,
    keep: int = KEPT_VERSIONS,
    push_options: Sequence[str] = (),
) -> PublishedModel:
    """Publish the active model to a channel of a remote; `push_options` go to its server.

    Raises GitpeftError when somebody else has published since this repository last fetched the channel.
    """
    channels.check_remote_and_channel(repo, remote, channel)
    bundle = bundles.require_active_bundle(repo.state_dir)
    _require_identity(repo)
    pusher = channels.Pusher(repo, remote, push_options)
    place = channels.locate_channel_to_write(pusher, channel)
    seen = channels.check_seen_commit(repo, remote, channel, place)
    files = package.pack_bundle(bundle)
    tree = _write_tree(repo, files)
    if place.at and repo.ask_text("rev-parse", "--verify", "--quiet", f"{place.at}^{{tree}}") == tree:
        return PublishedModel(
            bundle.id, place.at, place.ref, 0, _is_signed(repo, place.at), ["already published"]
        )
    parent = seen if place.is_branch else ""
    commit, signed = _commit_tree(repo, tree, bundle.id, channel, sign, parent)
    repo.run("update-ref", channels.build_published_ref(channel), commit)
    memory.note_seen_commit(repo, remote, channel, commit)
    size = _measure_pack(repo, commit, seen)
    channels.push_model(pusher, place, seen, commit, bundle.id)
    repo.run("update-ref", channels.build_tracking_ref(remote, channel), commit)
    notes = [
        *place.notes,
        *_warn_if_unreachable(repo, bundle),
        *channels.prune_dated_refs(pusher, place, keep - 1),
        *channels.describe_reading_end(repo, remote, place, commit),
        *pusher.notes,
    ]
    return PublishedModel(bundle.id, commit, place.ref, size, signed, notes)


def publish_model_to_path(
    repo: Repository, path: Path, channel: str = "main", *, sign: bool | None = None
) -> PublishedModel:
    """Publish the active model as a new folder or, if the name ends in `.bundle`, as a git bundle."""
    channels.check_channel_name(channel)
    bundle = bundles.require_active_bundle(repo.state_dir)
    files = package.pack_bundle(bundle)
    size = sum(map(len, files.values()))
    notes = _warn_if_unreachable(repo, bundle)
    if path.suffix != ".bundle":
        if sign:
            raise GitpeftError("a folder cannot be signed", "Publish to a file *.bundle or to a remote.")
        _write_folder(path, files)
        return PublishedModel(bundle.id, "", str(path), size, False, notes)
    _require_identity(repo)
    commit, signed = _commit_tree(repo, _write_tree(repo, files), bundle.id, channel, sign, "")
    repo.run("update-ref", channels.build_published_ref(channel), commit)
    spare = path.absolute().with_name(f".{path.name}.{secrets.token_hex(4)}")
    try:
        repo.run("bundle", "create", "--quiet", str(spare), channels.build_published_ref(channel))
        size = spare.stat().st_size
        spare.replace(path.absolute())
    finally:
        spare.unlink(missing_ok=True)
    return PublishedModel(bundle.id, commit, str(path), size, signed, notes)


def _measure_pack(repo: Repository, commit: str, seen: str) -> int:
    """The bytes that a push of `commit` sends to a remote that has `seen`, compressed as git sends them."""
    revisions = f"{commit}\n{f'^{seen}' if seen else ''}\n"
    options = ("--revs", "--thin", "--stdout", "--delta-base-offset", "-q")
    return len(repo.run("pack-objects", *options, input=revisions.encode()))


def _write_folder(path: Path, files: Mapping[str, bytes]) -> None:
    import shutil
    import tempfile

    if path.exists():
        raise GitpeftError(f"{path} exists already", "Choose a new folder, or a file *.bundle.")
    try:
        path.absolute().parent.mkdir(parents=True, exist_ok=True)
        spare = Path(tempfile.mkdtemp(prefix=f".{path.name}-", dir=path.absolute().parent))
    except OSError as error:
        raise GitpeftError(
            f"cannot write {path}: {error.strerror}", "Choose another path with --to."
        ) from None
    try:
        for name, raw in files.items():
            (spare / name).parent.mkdir(parents=True, exist_ok=True)
            (spare / name).write_bytes(raw)
        spare.chmod(0o755)
        spare.rename(path)
    finally:
        shutil.rmtree(spare, ignore_errors=True)


def _require_identity(repo: Repository) -> None:
    """Raise GitpeftError, with what to do, unless git knows who commits, as the model becomes a commit."""
    if all(repo.query_text("var", name) for name in ("GIT_AUTHOR_IDENT", "GIT_COMMITTER_IDENT")):
        return
    raise GitpeftError(
        "git does not know who publishes: a model is a commit, and needs a name and an address",
        'git config user.name "Your Name"\ngit config user.email you@example.org\n(in CI the variables'
        " GIT_AUTHOR_NAME, GIT_AUTHOR_EMAIL, GIT_COMMITTER_NAME and GIT_COMMITTER_EMAIL do as well);"
        " then publish again",
    )


def _commit_tree(
    repo: Repository, tree: str, id_: str, channel: str, sign: bool | None, parent: str
) -> tuple[str, bool]:
    """Commit a tree; returns the commit's id, and whether it is signed."""
    signed = signing.is_signing_enabled(repo) if sign is None else sign
    subject = f"chore: publish gitpeft model {id_[:12]}"
    parents = ("-p", parent) if parent else ()
    body = f"{_CHANNEL_TRAILER}{channel}\nModel: {id_}"
    try:
        said = repo.run(
            "commit-tree", tree, *parents, *(("-S",) if signed else ()), "-m", subject, "-m", body
        )
    except GitpeftError as error:
        hint = "Check that git can sign; --no-sign publishes unsigned."
        raise GitpeftError(f"the model could not be committed: {error.message}", hint) from None
    return said.decode().strip(), signed


def _write_tree(repo: Repository, files: Mapping[str, bytes]) -> str:
    """Write files and folders into the object database; returns the id of the tree."""
    lines, folders = [], dict[str, dict[str, bytes]]()
    for name, raw in files.items():
        folder, slash, rest = name.partition("/")
        if slash:
            folders.setdefault(folder, {})[rest] = raw
        else:
            sha = repo.run("hash-object", "-w", "--no-filters", "--stdin", input=raw).decode().strip()
            lines.append(f"100644 blob {sha}\t{name}")
    lines += (f"040000 tree {_write_tree(repo, inner)}\t{name}" for name, inner in folders.items())
    return repo.run("mktree", input="".join(f"{line}\n" for line in lines).encode()).decode().strip()


def _warn_if_unreachable(repo: Repository, bundle: bundles.Bundle) -> list[str]:
    """A warning if the model was trained on commits that no branch or tag contains any more."""
    tip = str(bundle.manifest.commits.get("to", ""))
    try:  # `for-each-ref --contains` takes 12 s on git's own history, with its thousand tags
        beyond = tip and repo.ask_text("rev-list", "-1", tip, "--not", "--branches", "--remotes", "--tags")
    except GitFailedError:
        beyond = tip
    if not beyond:
        return []
    return [
        f"the model was trained on {tip[:12]}, which is on no branch any more: it may contain purged content"
    ]


# --- pull ---------------------------------------------------------------------------------------------------

ACCEPT_OLDER = "older"
"""Given in place of a key, this accepts a model that is older than the one pulled before."""

_CHANNEL_TRAILER = "Channel: "
_MAX_LISTING_BYTES = 64 << 10  # that of a genuine model has about 2,000

ConfirmFunction = Callable[[str], bool]
"""Asks a person a yes-or-no question."""


@dataclass(frozen=True, slots=True)
class TrustTerms:
    """Which models to trust: the key (or `unsigned`) accepted beforehand, and how to ask for any other."""

    accept: str = ""
    ask: ConfirmFunction | None = None


def pull_model(
    repo: Repository,
    remote: str = "origin",
    channel: str = "main",
    terms: TrustTerms = TrustTerms(),
    *,
    activate: bool = True,
) -> PulledModel:
    """Fetch the newest model of a channel, verify it, and activate it unless told otherwise."""
    channels.check_remote_and_channel(repo, remote, channel)
    place = channels.locate_channel(repo, remote, channel)
    if not place.at:
        ends = find_remote_ends(repo, remote)
        raise GitpeftError(
            f"nothing is published on {remote} in the channel {channel}",
            f"{ends.describe()}: a model is here once it is copied from there."
            if ends.is_split
            else "Run `gitpeft publish` first.",
        )
    commit = channels.fetch_ref(repo, remote, place.ref, channels.build_tracking_ref(remote, channel))
    _check_channel_and_age(repo, commit, remote, channel, terms)
    done = _accept_package(
        repo,
        read_commit_package(repo, commit),
        commit,
        signing.verify_commit_signature(repo, commit),
        terms,
        activate,
    )
    repo.run("update-ref", channels.build_pulled_ref(remote, channel), commit)
    memory.note_pulled_commit(repo, remote, channel, commit, _read_commit_time(repo, commit))
    return done


def _read_commit_time(repo: Repository, commit: str) -> int:
    """The committer's time in Unix seconds, 0 where the commit is not here."""
    text = repo.query_text("log", "-1", "--no-show-signature", "--format=%ct", commit, "--")
    return parse_time(text) if text else 0


def _check_channel_and_age(
    repo: Repository, commit: str, remote: str, channel: str, terms: TrustTerms
) -> None:
    """Refuse a commit of another channel, and ask about one older than the one pulled before.

    A signature is valid for ever: without this check, anybody who may push could restore an old signed model.
    """
    body = repo.run("cat-file", "commit", commit).partition(b"\n\n")[2].decode("utf-8", "replace")
    named = next((line for line in body.split("\n") if line.startswith(_CHANNEL_TRAILER)), None)
    if named is not None and named != f"{_CHANNEL_TRAILER}{channel}":
        raise GitpeftError(
            f"the model was published for another channel ({ascii(named)[1:60]})",
            f"Somebody moved it to {channel}: tell whoever published it. Your active model stays.",
        )
    before = max(
        _read_commit_time(repo, channels.build_pulled_ref(remote, channel)),
        memory.recall_channel(repo, remote, channel).pulled_time,
    )
    if _read_commit_time(repo, commit) >= before:
        return
    what = "The model is older than the one pulled from there before"
    if terms.accept != ACCEPT_OLDER and not (terms.ask is not None and terms.ask(f"{what}. Use it anyway?")):
        raise GitpeftError(
            f"{what.lower()}; it was not pulled",
            f"Ask whoever published it, or pull with --accept {ACCEPT_OLDER}.",
        )


def pull_model_from_path(
    repo: Repository, path: Path, terms: TrustTerms = TrustTerms(), *, activate: bool = True
) -> PulledModel:
    """The same from a folder or a git bundle that `publish_model_to_path` wrote."""
    if path.is_dir():
        return _accept_package(
            repo, package.read_folder_package(path), "", Signer(signing.UNSIGNED), terms, activate
        )
    if not path.is_file():
        raise GitpeftError(
            f"{path} does not exist", "Pass a folder or a file *.bundle made by `gitpeft publish --to`."
        )
    said = repo.run_with_network("bundle", "list-heads", str(path.absolute()))
    refs = [line.split(" ", 1)[1] for line in said.out.split("\n") if f" {channels.MODELS_REF}/" in line]
    if said.code or len(refs) != 1:
        raise GitpeftError(
            f"{path} contains no published model", "`gitpeft publish --to FILE.bundle` writes one."
        )
    commit = channels.fetch_ref(repo, str(path.absolute()), refs[0], "refs/gitpeft/file/latest")
    return _accept_package(
        repo,
        read_commit_package(repo, commit),
        commit,
        signing.verify_commit_signature(repo, commit),
        terms,
        activate,
    )


def read_commit_package(repo: Repository, commit: str) -> ModelPackage:
    """The package in a commit; contents are read only on demand, each by its object id."""
    blobs: dict[str, str] = {}
    entries = []
    # limited, because a few tree objects can stand for millions of names
    listing = repo.run_limited(_MAX_LISTING_BYTES, "ls-tree", "-r", "-z", "-l", "--full-tree", commit)
    for line in listing.split(b"\0")[:-1][
        : package.MAX_PACKAGE_FILES + 1
    ]:  # the last one is empty, or cut off
        facts, _, raw = line.partition(b"\t")
        mode, kind, sha, size = facts.decode().split()
        name = raw.decode("utf-8", "replace")
        blobs[name] = sha
        regular = mode == "100644" and kind == "blob"
        entries.append(PackageEntry(name, int(size) if size.isdigit() else 0, regular))
    return ModelPackage(tuple(entries), lambda name: repo.run("cat-file", "blob", blobs[name]))


def _accept_package(
    repo: Repository, found: ModelPackage, commit: str, signer: Signer, terms: TrustTerms, activate: bool
) -> PulledModel:
    """Check, ask, reconstruct, test, and only then activate."""
    package.verify_listing(found)
    _check_trust(signer, terms)
    id_ = package.receive_package(found, repo.state_dir)
    if activate:
        bundles.activate_bundle(repo.state_dir, id_)
        bundles.prune_bundles(repo.state_dir)
    return PulledModel(id_, commit, signer, activate)


def _check_trust(signer: Signer, terms: TrustTerms) -> None:
    """Raise GitpeftError unless the signer is trusted, accepted beforehand, or accepted when asked."""
    if signer.is_trusted or (terms.accept and terms.accept == signer.key):
        return
    unsigned = signer.key == signing.UNSIGNED
    what = "is not signed" if unsigned else f"is signed by the unknown key {signer.key}"
    if terms.ask is not None and terms.ask(f"The model {what}. Use it anyway?"):
        return
    remedy = (
        "Publish it signed, to a remote or a *.bundle"
        if unsigned
        else f"Add the key to {signing.SIGNERS_FILE} on the default branch"
    )
    raise GitpeftError(
        f"the model {what}; it was not pulled", f"{remedy}, or pull with --accept {signer.key}"
    )


def _is_signed(repo: Repository, commit: str) -> bool:
    return b"\ngpgsig" in repo.run("cat-file", "commit", commit).partition(b"\n\n")[0]
