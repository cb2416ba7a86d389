"""Packages: a published model as a set of files, and the checks that a received one must pass.

    share.json      the list of files with size and SHA-256, and recipes for the others (see `share.delta`)
    manifest.json   the bundle's own manifest; its SHA-256 is the model's id on every machine
    card.md         the model card, for people
    adapter/ index/ style.json chooser.json …   the bundle's files, except those that can be reconstructed

A received package is untrusted: names, number, kinds and declared sizes are checked before any content is
read, contents before anything is reconstructed, and the model must answer a request in a sandboxed process
before its folder is moved to the other models.
"""

import hashlib
import json
import re
import stat
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import MANIFEST_FILE, Bundle, FileEntry, Manifest, validate_file_name
from gitpeft.errors import GitpeftError
from gitpeft.runtime.worker import Worker
from gitpeft.share import delta
from gitpeft.share.delta import DeltaRecipe
from gitpeft.suggest import service

PACKAGE_FORMAT = 1
LISTING_FILE, CARD_FILE = "share.json", "card.md"
MAX_PACKAGE_FILES = 100
MAX_PACKAGE_FILE_BYTES, MAX_PACKAGE_BYTES = 512 << 20, 1 << 30
MAX_LISTING_BYTES = 1 << 20
"""The most bytes of `share.json` and of `manifest.json`."""

TRIAL_SECONDS, TRIAL_MB = 120.0, 4096
_TRIAL_REQUEST = {"change": " src/parser.py +1 -1\n#src/parser.py\n-x = 1\n+x = 2", "previous": "", "n": 1}
_REJECTED_HINT = "Your active model stays; tell whoever published this one."
_LOCAL_PATH_PATTERN = re.compile(r'"(?:/|[A-Za-z]:\\\\|~/)')


@dataclass(frozen=True, slots=True)
class PackageListing:
    """The content of `share.json`: the model's id, the files sent, and the recipes of the others."""

    bundle: str
    base: str
    base_digest: str
    files: dict[str, FileEntry]
    made: dict[str, DeltaRecipe]

    def to_json(self) -> bytes:
        """The bytes of `share.json`."""
        value = {
            "format": PACKAGE_FORMAT,
            "bundle": self.bundle,
            "base": self.base,
            "base_digest": self.base_digest,
            "files": {name: {"size": one.size, "sha256": one.sha256} for name, one in self.files.items()},
            "made": {name: one.as_dict() for name, one in self.made.items()},
        }
        return json.dumps(value, indent=1, sort_keys=True).encode() + b"\n"

    @classmethod
    def from_json(cls, raw: bytes) -> "PackageListing":
        """Parse `share.json`; GitpeftError when it is invalid or of another version."""
        try:
            data = json.loads(raw)
            if data["format"] != PACKAGE_FORMAT:
                hint = "Install the version of gitpeft with which it was published."
                raise GitpeftError(f"unknown package format {data['format']!r:.20}", hint)
            return cls(
                str(data["bundle"]),
                str(data["base"]),
                str(data["base_digest"]),
                {validate_file_name(name): FileEntry.from_dict(one) for name, one in data["files"].items()},
                {validate_file_name(name): DeltaRecipe.from_dict(one) for name, one in data["made"].items()},
            )
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise GitpeftError(
                f"the published model's share.json is invalid: {error}", _REJECTED_HINT
            ) from None


@dataclass(frozen=True, slots=True)
class PackageEntry:
    """A file as its source lists it; `regular` is False for links, executables and anything else."""

    name: str
    size: int
    regular: bool


@dataclass(frozen=True, slots=True)
class ModelPackage:
    """A received package: its entries, and a function that reads one by its name."""

    entries: tuple[PackageEntry, ...]
    read: Callable[[str], bytes]


# --- sending ------------------------------------------------------------------------------------------------


def pack_bundle(bundle: Bundle) -> dict[str, bytes]:
    """All files to publish, by name. GitpeftError when one contains paths of this machine."""
    bundles.verify_bundle(bundle)
    files, made = delta.encode_deltas(bundle)
    files[MANIFEST_FILE] = (bundle.path / MANIFEST_FILE).read_bytes()
    _refuse_local_paths(files)
    files[CARD_FILE] = render_model_card(bundle).encode()
    entries = {name: FileEntry.from_content(raw) for name, raw in files.items()}
    manifest = bundle.manifest
    files[LISTING_FILE] = PackageListing(
        bundle.id, manifest.base, manifest.base_digest, entries, made
    ).to_json()
    check_entries(list_entries(files))
    return files


def list_entries(files: Mapping[str, bytes]) -> tuple[PackageEntry, ...]:
    """The entries of a package in memory."""
    return tuple(PackageEntry(name, len(raw), True) for name, raw in files.items())


def _refuse_local_paths(files: Mapping[str, bytes]) -> None:
    """Raise GitpeftError if a file contains a local path: it is private, and useless to others."""
    for name, raw in files.items():
        if name in (
            MANIFEST_FILE,
            f"{bundles.ADAPTER_FOLDER}/adapter_config.json",
        ) and _LOCAL_PATH_PATTERN.search(raw.decode("utf-8", "replace")):
            raise GitpeftError(
                f"{name} of the model contains a path of this machine", "Train again, then publish."
            )


def render_model_card(bundle: Bundle) -> str:
    """The model card, in Markdown: origin, base, method and measured quality."""
    manifest = bundle.manifest
    commits, test = manifest.commits, manifest.metrics.get("test", {})
    lines = [
        f"# gitpeft model {bundle.id[:12]}",
        "",
        f"Made {manifest.created} from {commits.get('count', 0)} commits up to {commits.get('to', '?')}.",
        f"Base {manifest.base or 'none'} ({manifest.base_digest[:12] or '-'}), "
        f"method {manifest.method.get('name', manifest.kind)}.",
        "",
    ]
    for system, row in test.items() if isinstance(test, dict) else ():
        scores = (
            [_format_score(row, key, label) for key, label in _CARD_METRICS] if isinstance(row, dict) else []
        )
        if any(scores):
            lines.append(f"- {system}: {', '.join(filter(None, scores))}, {row['n']} held-out commits")
    verdict = manifest.metrics.get("duel", {}).get("verdict")
    return "\n".join([*lines, *([f"- {verdict}"] if verdict else []), "", "`gitpeft pull` fetches it.", ""])


_CARD_METRICS = (
    ("keystrokes_saved", "keystrokes saved (%)"),
    ("kept", "kept (% of offers)"),
    ("coverage", "offered (% of commits)"),
    ("b_norm", "B-Norm"),
)


def _format_score(row: Mapping[str, object], key: str, label: str) -> str:
    score = row.get(key)
    if not isinstance(score, dict):
        return ""
    return f"{label} {score['mean']:.1f} ({score['low']:.1f} to {score['high']:.1f})"


# --- receiving ----------------------------------------------------------------------------------------------


def read_folder_package(folder: Path) -> ModelPackage:
    """The package in a folder; links are not followed."""
    entries = []
    for path in sorted(folder.rglob("*")):
        state = path.lstat()
        if not stat.S_ISDIR(state.st_mode):
            name = path.relative_to(folder).as_posix()
            entries.append(PackageEntry(name, state.st_size, stat.S_ISREG(state.st_mode)))
        if len(entries) > MAX_PACKAGE_FILES:
            break
    return ModelPackage(tuple(entries), lambda name: (folder / name).read_bytes())


def check_entries(entries: tuple[PackageEntry, ...]) -> None:
    """Raise GitpeftError for names, kinds or declared sizes that no genuine package has."""
    if len(entries) > MAX_PACKAGE_FILES:
        raise GitpeftError(f"the published model has more than {MAX_PACKAGE_FILES} files", _REJECTED_HINT)
    names = {one.name for one in entries}
    if len(names) < len(entries) or any(str(up) in names for name in names for up in Path(name).parents):
        raise GitpeftError("the published model has two files with the same name", _REJECTED_HINT)
    for one in entries:
        try:
            validate_file_name(one.name)
        except ValueError:
            shown = ascii(one.name)[:80]
            raise GitpeftError(
                f"the published model contains the forbidden file name {shown}", _REJECTED_HINT
            ) from None
        if not one.regular:
            raise GitpeftError(f"{one.name} of the published model is not a regular file", _REJECTED_HINT)
        if one.size > MAX_PACKAGE_FILE_BYTES:
            raise GitpeftError(
                f"{one.name} of the published model has {one.size / 1e6:,.0f} MB, "
                f"more than the allowed {MAX_PACKAGE_FILE_BYTES / 1e6:,.0f} MB",
                _REJECTED_HINT,
            )
    if sum(one.size for one in entries) > MAX_PACKAGE_BYTES:
        raise GitpeftError(
            f"the published model has more than {MAX_PACKAGE_BYTES / 1e6:,.0f} MB", _REJECTED_HINT
        )


def verify_listing(received: ModelPackage) -> tuple[PackageListing, Manifest]:
    """Check the listing and the manifest of a package against each other and against its entries."""
    check_entries(received.entries)
    sizes = {one.name: one.size for one in received.entries}
    for name in (LISTING_FILE, MANIFEST_FILE):
        if name not in sizes or sizes[name] > MAX_LISTING_BYTES:
            raise GitpeftError(f"not a published model: {name} is missing or too large", _REJECTED_HINT)
    found = PackageListing.from_json(received.read(LISTING_FILE))
    if {name: one.size for name, one in found.files.items()} != {
        n: s for n, s in sizes.items() if n != LISTING_FILE
    }:
        raise GitpeftError("the published model does not match its share.json", _REJECTED_HINT)
    raw = _read_verified_file(received, found, MANIFEST_FILE)
    if hashlib.sha256(raw).hexdigest() != found.bundle:
        raise GitpeftError("the published model's manifest does not match its share.json", _REJECTED_HINT)
    manifest = Manifest.from_json(raw)
    extra = {MANIFEST_FILE, CARD_FILE, *(one.difference for one in found.made.values() if one.difference)}
    here = (found.files.keys() - extra) | found.made.keys()
    if here != manifest.files.keys() or found.made.keys() & found.files.keys():
        raise GitpeftError(
            "the published model's manifest and share.json contradict each other", _REJECTED_HINT
        )
    check_entries(tuple(PackageEntry(name, one.size, True) for name, one in manifest.files.items()))
    return found, manifest


def _read_verified_file(received: ModelPackage, found: PackageListing, name: str) -> bytes:
    raw = received.read(name)
    one = found.files[name]
    if len(raw) != one.size or hashlib.sha256(raw).hexdigest() != one.sha256:
        raise GitpeftError(f"{name} of the published model is damaged", _REJECTED_HINT)
    return raw


def receive_package(received: ModelPackage, state_dir: Path) -> str:
    """Verify a package and add its model to the others, without activating it; returns its id.

    Raises GitpeftError, and keeps nothing, when any check fails.
    """
    found, manifest = verify_listing(received)
    with _open_scratch_folder(state_dir) as scratch:
        with bundles.staging_folder(scratch) as folder:
            files = {name: _read_verified_file(received, found, name) for name in found.files}
            files |= delta.reconstruct_files(_make_file_reader(files), found.made, manifest)
            for name in manifest.files:
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(files[name])
            id_ = bundles.add_bundle(folder, files[MANIFEST_FILE])
        bundles.activate_bundle(scratch, id_)
        _run_trial(scratch)
        _move_into_models(scratch / "models" / id_, state_dir / "models" / id_)
    return id_


def _make_file_reader(files: Mapping[str, bytes]) -> Callable[[str], bytes]:
    def read_file(name: str) -> bytes:
        if name not in files:
            raise GitpeftError(
                f"the published model lacks {ascii(name)[1:80]}, which its recipes need", _REJECTED_HINT
            )
        return files[name]

    return read_file


def _run_trial(scratch: Path) -> None:
    """Let the model answer a request in a sandbox, which proves that its graphs load and fit together."""
    with Worker(scratch, service.load_message_handler, time.monotonic() + TRIAL_SECONDS, TRIAL_MB) as worker:
        try:
            worker.get_answer(_TRIAL_REQUEST)
        except GitpeftError as error:
            raise GitpeftError(
                f"the published model does not run here: {error.message}", _REJECTED_HINT
            ) from None


def _move_into_models(source: Path, target: Path) -> None:
    """Move a model in one rename; an intact one that is here already is kept, a damaged one replaced."""
    target.parent.mkdir(parents=True, exist_ok=True)
    if target.exists():
        try:
            bundles.verify_bundle(bundles.open_bundle(target))
            return
        except GitpeftError:
            bundles.delete_bundle(target)
    source.rename(target)


@contextmanager
def _open_scratch_folder(state_dir: Path) -> Iterator[Path]:
    """A temporary state folder beside the models; leftovers of killed runs are removed too."""
    import shutil

    state_dir.mkdir(parents=True, exist_ok=True)
    for old in state_dir.glob(".pull-*"):
        if time.time() - old.lstat().st_mtime > 24 * 3600:
            shutil.rmtree(old, ignore_errors=True)
    with tempfile.TemporaryDirectory(prefix=".pull-", dir=state_dir) as scratch:
        yield Path(scratch)
