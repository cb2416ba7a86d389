"""A trained model on disk: the layout of a bundle, its checks, and how one version replaces another.

    <state_dir>/models/<id>/   manifest.json and the files it lists; <id> is the SHA-256 of the manifest
    <state_dir>/current        first line: the active id; second line: the one that was active before

A bundle is built in a staging folder beside the others, flushed to disk and renamed into place, so it is
either complete or absent, and it never changes afterwards. `current` is replaced by one rename: a reader sees
the old model or the new one.

The manifest lists size and SHA-256 of each file, and a bundle's id is the SHA-256 of its manifest: the id
determines every byte. How much is checked depends on when:

- `open_bundle`, in each hook: the manifest against the id, the versions, and type and size of each file;
- `Bundle.read`: the SHA-256 of a file when it is read, so that what is loaded is what was checked;
- `Bundle.check_mapped_file`: the SHA-256 of weights that are mapped, once a day and whenever the file has
  been touched, as git tells by a file's state whether it has to read it again;
- `Bundle.open_blocks`: the CRC-32 of each block when it is read, for files too large to be read whole;
- `verify_bundle`, before an activation and in `gitpeft doctor`: every byte.
"""

import json
import os
import stat
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from io import BufferedReader
from pathlib import Path

from gitpeft.bundle.block_file import BlockFile
from gitpeft.bundle.manifest import (
    ADAPTER_FOLDER,
    CAUSAL_GRAPHS,
    DECODER_FILE,
    ENCODER_FILE,
    INDEX_FOLDER,
    MANIFEST_FILE,
    REBUILD_HINT,
    RERANKER_FILE,
    RISK_ENCODER_FILE,
    RISK_MODEL_FILE,
    STYLE_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    FileEntry,
    Manifest,
    validate_file_name,
)
from gitpeft.digests import hash_sha256
from gitpeft.errors import GitpeftError
from gitpeft.files import hold_lock, remove_file, replace_file
from gitpeft.lazy import lazy_dataclass, lazy_pattern, replace_fields

__all__ = [
    "ADAPTER_FOLDER",
    "CAUSAL_GRAPHS",
    "DECODER_FILE",
    "ENCODER_FILE",
    "INDEX_FOLDER",
    "MANIFEST_FILE",
    "RERANKER_FILE",
    "RISK_ENCODER_FILE",
    "RISK_MODEL_FILE",
    "STYLE_FILE",
    "TOKENIZER_FILE",
    "WEIGHTS_FILE",
    "Bundle",
    "FileEntry",
    "Manifest",
    "activate_bundle",
    "add_bundle",
    "delete_bundle",
    "list_bundles",
    "open_active_bundle",
    "open_bundle",
    "prune_bundles",
    "read_active_id",
    "read_active_ids",
    "require_active_bundle",
    "staging_folder",
    "validate_file_name",
    "verify_bundle",
    "write_bundle",
]

CURRENT_FILE = "current"
_MAX_MANIFEST_BYTES = 1 << 20
_MAX_FILE_BYTES = 1 << 31
_BUNDLE_ID = lazy_pattern(r"[0-9a-f]{64}")
_OWN_WEIGHTS_ENTRY = b"\n\x08location\x12" + bytes([len(WEIGHTS_FILE)]) + WEIGHTS_FILE.encode()
"""How ONNX spells that an array lies in `WEIGHTS_FILE`: fields 1 and 2 of a StringStringEntryProto."""
_STALE_SECONDS = 24 * 3600
_CHECK_SECONDS = 24 * 3600
"""How long weights that are mapped count as intact, unless somebody touches them."""

_SETTLING_SECONDS = 2.0
"""A file that was touched as lately as this may be touched again without the file system's clock telling."""


@lazy_dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle on disk. Its files are read through it, so that nothing unchecked is ever used."""

    path: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        """SHA-256 of the manifest in hexadecimal: the name of the bundle's folder."""
        return self.path.name

    @property
    def newest_commit(self) -> str:
        """The id of the newest commit that the model was trained on, "" if there is none."""
        return str(self.manifest.commits.get("to", ""))

    def __contains__(self, name: str) -> bool:
        return name in self.manifest.files

    def read(self, name: str) -> bytes:
        """The content of a file; GitpeftError when it is missing or not what the manifest lists."""
        entry = self._get_entry(name)
        raw = _read_regular_file(self.path / name)
        if FileEntry.from_content(raw) != entry:
            raise GitpeftError(f"{name} of the model is damaged", REBUILD_HINT)
        return raw

    def open_blocks(self, name: str, checksums: bytes) -> BlockFile:
        """A file that is read in parts, each checked when it is read; GitpeftError when it is missing.

        `checksums` are those of its blocks, from a file of the bundle that was read whole.
        """
        path, entry = self.path / name, self._get_entry(name)
        _check_file(path, entry.size)
        try:
            return BlockFile(path, entry.size, checksums)
        except OSError as error:
            raise _explain_unreadable(path, error) from None

    def check_file(self, name: str) -> None:
        """As `read`, without holding the content in memory."""
        import hashlib  # only where whole files are checked

        self._check_digest(name, lambda file: hashlib.file_digest(file, "sha256").hexdigest())

    def check_mapped_file(self, name: str) -> None:
        """As `check_file`, for large weights that a child process maps in any case.

        What was found intact within a day, and is the same file to the file system as it was then, is not
        hashed again. The file is hashed in one call, so that the hash need not wait for other threads; one
        that is cut off meanwhile ends the process.
        """
        mark = _CheckMark(self.path.with_name(f".checked-{self.id}"), self._get_entry(name))

        def compute_digest(file: BufferedReader) -> str:
            if mark.matches(file):
                return mark.entry.sha256
            before = mark.describe_settled(file)
            digest = _hash_mapped(file)
            if digest == mark.entry.sha256 and before == mark.describe_settled(file) != "":
                mark.write(before)
            return digest

        self._check_digest(name, compute_digest)

    def _check_digest(self, name: str, compute_digest: Callable[[BufferedReader], str]) -> None:
        path, entry = self.path / name, self._get_entry(name)
        _check_file(path, entry.size)
        try:
            with open(path, "rb") as file:
                digest = compute_digest(file)
        except OSError as error:
            raise _explain_unreadable(path, error) from None
        if digest != entry.sha256:
            raise GitpeftError(f"{name} of the model is damaged", REBUILD_HINT)

    def _get_entry(self, name: str) -> FileEntry:
        entry = self.manifest.files.get(name)
        if entry is None:
            raise GitpeftError(f"the model has no {name}", REBUILD_HINT)
        return entry

    def read_json(self, name: str) -> dict[str, object]:
        """A JSON object of the bundle, {} when it has no such file; GitpeftError when it is not an object."""
        if name not in self:
            return {}
        try:
            value = json.loads(self.read(name))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise GitpeftError(f"{name} of the model is not a JSON object", REBUILD_HINT)
        return value


# --- writing ------------------------------------------------------------------------------------------------


@contextmanager
def staging_folder(state_dir: Path) -> Iterator[Path]:
    """An empty folder for a bundle's files, on the file system of the bundles; removed afterwards."""
    import tempfile

    folder = Path(tempfile.mkdtemp(prefix=".new-", dir=_make_models_folder(state_dir)))
    try:
        yield folder
    finally:
        _remove_folder(folder)


def write_bundle(folder: Path, manifest: Manifest) -> str:
    """Turn a staging folder into a bundle and return its id; this does not activate it.

    `manifest.files` is filled in from the folder. GitpeftError when a file that the kind of bundle needs is
    missing.
    """
    files = {
        name: FileEntry.from_content(_read_regular_file(folder / name))
        for name in sorted(_list_files(folder))
        if name != MANIFEST_FILE
    }
    return add_bundle(folder, replace_fields(manifest, files=files).to_json())


def add_bundle(folder: Path, raw_manifest: bytes) -> str:
    """Turn a staging folder into the bundle that a given manifest describes, and return its id.

    Every file is flushed to disk before the one rename, and so is the rename. A bundle that exists already
    under this id is left alone. GitpeftError when the folder does not hold exactly the files that the
    manifest lists, byte for byte.
    """
    manifest = Manifest.from_json(raw_manifest)
    target = folder.with_name(hash_sha256(raw_manifest))
    verify_bundle(Bundle(folder, manifest))
    (folder / MANIFEST_FILE).write_bytes(raw_manifest)
    _flush_bundle(folder, manifest)
    try:
        folder.rename(target)
    except OSError:
        if not target.is_dir():
            raise
    _flush_to_disk(target.parent)
    return target.name


def _list_files(folder: Path) -> Iterator[str]:
    """The files below a folder, named as in a manifest."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix()


def _flush_bundle(folder: Path, manifest: Manifest) -> None:
    """Flush the files of a bundle, then the folders that hold them, the innermost first."""
    for name in (*manifest.files, MANIFEST_FILE):
        _flush_to_disk(folder / name)
    for parent in sorted({(folder / name).parent for name in manifest.files} | {folder}, reverse=True):
        _flush_to_disk(parent)


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- reading and checking -----------------------------------------------------------------------------------


def open_bundle(path: Path) -> Bundle:
    """The bundle in a folder, after the checks that are cheap (see the module's docstring).

    GitpeftError when one of them fails.
    """
    raw = _read_regular_file(path / MANIFEST_FILE, _MAX_MANIFEST_BYTES)
    if hash_sha256(raw) != path.name:
        raise GitpeftError("the model's manifest is damaged", REBUILD_HINT)
    bundle = Bundle(path, Manifest.from_json(raw))
    for name, entry in bundle.manifest.files.items():
        _check_file(path / name, entry.size)
    return bundle


def verify_bundle(bundle: Bundle) -> None:
    """Check every byte: the SHA-256 of each file, no file that is not listed, no weights outside the bundle.

    GitpeftError when a check fails.
    """
    for name in bundle.manifest.files:
        bundle.check_file(name)
    if extra := set(_list_files(bundle.path)) - {MANIFEST_FILE, *bundle.manifest.files}:
        raise GitpeftError(
            f"the model's folder holds {min(extra)}, which its manifest does not list", REBUILD_HINT
        )
    _refuse_external_data(bundle)


def _refuse_external_data(bundle: Bundle) -> None:
    """Refuse ONNX files that keep weights in other files than the bundle's own `WEIGHTS_FILE`.

    A field `location` would name them. The word is looked for in the raw bytes: that needs no parser, and no
    encoding can avoid it.
    """
    for name in bundle.manifest.files:
        if name.endswith(".onnx"):
            raw = bundle.read(name)
            if name in CAUSAL_GRAPHS and WEIGHTS_FILE in bundle:
                raw = raw.replace(_OWN_WEIGHTS_ENTRY, b"")
            if b"location" in raw:
                raise GitpeftError(
                    f"{name} keeps data outside its own file", "export the model into one file"
                )


def _read_regular_file(path: Path, limit: int = _MAX_FILE_BYTES) -> bytes:
    """The content of a regular file of at most `limit` bytes; links and devices are refused."""
    _check_file(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise GitpeftError(f"{path.name} of the model is too large", REBUILD_HINT)
            return file.read(size)  # read(limit) would allocate all that it is asked for
    except OSError as error:
        raise _explain_unreadable(path, error) from None


def _hash_mapped(file: BufferedReader) -> str:
    import hashlib
    import mmap  # only the child maps files

    if not os.fstat(file.fileno()).st_size:  # nothing can be mapped
        return hashlib.sha256().hexdigest()
    with mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as content:
        return hashlib.sha256(content).hexdigest()


@lazy_dataclass(frozen=True, slots=True)
class _CheckMark:
    """A file beside a bundle that says in which state one of the bundle's files was found intact."""

    path: Path
    entry: FileEntry

    def matches(self, file: BufferedReader) -> bool:
        """Whether this very file was found intact lately, and nobody has touched it since."""
        try:
            fresh = 0 <= time.time() - self.path.stat().st_mtime < _CHECK_SECONDS
            return fresh and self.path.read_text(encoding="ascii") == self._describe_state(file)
        except (OSError, ValueError):
            return False

    def describe_settled(self, file: BufferedReader) -> str:
        """The state that a file is in, "" where it was touched a moment ago."""
        if time.time() - os.fstat(file.fileno()).st_ctime < _SETTLING_SECONDS:
            return ""
        return self._describe_state(file)

    def write(self, state: str) -> None:
        """Note that the file is intact that was in this state before it was hashed, and afterwards."""
        try:
            replace_file(self.path, state.encode())
        except OSError:
            pass  # it is hashed again next time

    def _describe_state(self, file: BufferedReader) -> str:
        found = os.fstat(file.fileno())
        places = (found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns)
        return " ".join([self.entry.sha256, *map(str, places)])


def _explain_unreadable(path: Path, error: OSError) -> GitpeftError:
    return GitpeftError(f"cannot read {path}: {error.strerror}", "check its permissions")


def _check_file(path: Path, size: int | None = None) -> None:
    try:
        state = path.lstat()
    except OSError:
        raise GitpeftError(f"{path.name} of the model is missing", REBUILD_HINT) from None
    if not stat.S_ISREG(state.st_mode):
        raise GitpeftError(f"{path.name} of the model is not a regular file", REBUILD_HINT)
    if size is not None and state.st_size != size:
        raise GitpeftError(
            f"{path.name} of the model is damaged: it has {state.st_size} bytes instead of {size}",
            REBUILD_HINT,
        )


# --- the active bundle --------------------------------------------------------------------------------------


def read_active_ids(state_dir: Path) -> tuple[str, str]:
    """The ids of the active bundle and of the one active before it; "" for each that does not exist.

    GitpeftError when the file that names them is damaged.
    """
    try:
        lines = (state_dir / CURRENT_FILE).read_text(encoding="ascii", errors="replace").split("\n")
    except FileNotFoundError:
        return "", ""
    active, previous = (*lines, "", "")[:2]
    if not _BUNDLE_ID.fullmatch(active) or not (previous == "" or _BUNDLE_ID.fullmatch(previous)):
        raise GitpeftError(f"the file that names the active model ({CURRENT_FILE}) is damaged", REBUILD_HINT)
    return active, previous


def read_active_id(state_dir: Path) -> str:
    """The id of the active bundle, "" when there is none. Nothing is checked: this is for the hook."""
    try:
        return (state_dir / CURRENT_FILE).read_text("ascii", errors="replace").partition("\n")[0].strip()[:64]
    except OSError:
        return ""


def open_active_bundle(state_dir: Path) -> Bundle | None:
    """The active bundle as `open_bundle` opens it; None when none was ever activated."""
    active = read_active_ids(state_dir)[0]
    return open_bundle(_bundle_path(state_dir, active)) if active else None


def require_active_bundle(state_dir: Path) -> Bundle:
    """The active bundle as `open_bundle` opens it; GitpeftError when there is none or it is damaged."""
    bundle = open_active_bundle(state_dir)
    if bundle is None:
        raise GitpeftError("there is no model yet", "run `gitpeft init`")
    return bundle


def activate_bundle(state_dir: Path, id_: str) -> Bundle:
    """Verify a bundle and make it the active one; the one that was active becomes the previous one.

    GitpeftError when there is no such bundle, or it is damaged.
    """
    if not _BUNDLE_ID.fullmatch(id_):
        raise GitpeftError(f"{id_} is not a model id", "`gitpeft models` lists them")
    with _lock_models(state_dir):
        bundle = open_bundle(_bundle_path(state_dir, id_))
        verify_bundle(bundle)
        try:
            active = read_active_ids(state_dir)[0]
        except GitpeftError:
            active = ""
        if active != id_:
            replace_file(state_dir / CURRENT_FILE, f"{id_}\n{active}\n".encode(), durable=True)
    return bundle


# --- all bundles --------------------------------------------------------------------------------------------


def list_bundles(state_dir: Path) -> list[Bundle]:
    """All bundles that can be opened, newest first."""
    opened = []
    for path in _list_bundle_folders(state_dir):
        try:
            opened.append(open_bundle(path))
        except GitpeftError:
            continue
    return sorted(opened, key=lambda bundle: (bundle.manifest.created, bundle.id), reverse=True)


def prune_bundles(state_dir: Path, keep: int = 3) -> list[str]:
    """Delete all but the `keep` newest bundles, and what killed runs left behind; returns the deleted ids.

    The active bundle and the previous one always stay, even if that makes more than `keep`. Other bundles
    that cannot be opened are deleted.
    """
    with _lock_models(state_dir):
        newest = [bundle.id for bundle in list_bundles(state_dir)][:keep]
        kept = {*newest, *read_active_ids(state_dir)}
        deleted = [path for path in _list_bundle_folders(state_dir) if path.name not in kept]
        for path in deleted:
            delete_bundle(path)
        for path in (state_dir / "models").glob(".*-*"):
            if time.time() - path.lstat().st_mtime > _STALE_SECONDS:
                _remove_folder(path) if path.is_dir() else remove_file(path)
    return [path.name for path in deleted]


def delete_bundle(path: Path) -> None:
    """Delete a bundle, after one rename: a kill in between leaves no half bundle under its id."""
    hidden = path.with_name(f".old-{path.name}")
    path.rename(hidden)
    _remove_folder(hidden)
    remove_file(path.with_name(f".checked-{path.name}"))


def _remove_folder(folder: Path) -> None:
    import shutil  # only writers need it; the hook does not pay for its import

    shutil.rmtree(folder, ignore_errors=True)


def _list_bundle_folders(state_dir: Path) -> list[Path]:
    models = state_dir / "models"
    if not models.is_dir():
        return []
    return sorted(path for path in models.iterdir() if _BUNDLE_ID.fullmatch(path.name))


def _bundle_path(state_dir: Path, id_: str) -> Path:
    return state_dir / "models" / id_


def _make_models_folder(state_dir: Path) -> Path:
    models = state_dir / "models"
    models.mkdir(parents=True, exist_ok=True)
    return models


@contextmanager
def _lock_models(state_dir: Path) -> Iterator[None]:
    """Allow one activation or deletion of bundles at a time."""
    with hold_lock(_make_models_folder(state_dir) / ".lock"):
        yield
