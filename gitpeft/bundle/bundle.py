"""A trained model on disk: hides the layout of a bundle, its manifest, and how versions replace each other.

    <state_dir>/models/<id>/   manifest.json and the files it lists; <id> is the SHA-256 of the manifest
    <state_dir>/current        line one the active id, line two the one before it

A bundle is built in a folder beside the others, flushed to disk and renamed into place, so that one is
either whole or absent; it never changes afterwards. `current` moves in one rename: whoever reads it sees the
old model or the new one.

What is checked when. The manifest names size and SHA-256 of each file, and the bundle's own name is the
SHA-256 of the manifest: one id fixes every byte. `activate` checks everything (`verify`), and so does
`gitpeft doctor`. The hook checks the manifest against its name, the versions, and size and kind of each file
(`open_bundle`); the files themselves it hashes as it reads them (`Bundle.read`), so that what runs is what
was checked.
"""

import hashlib
import json
import os
import re
import stat
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from gitpeft.diff.compact import RENDERER_VERSION
from gitpeft.errors import GitpeftError
from gitpeft.files import hold_lock, replace_file
from gitpeft.lazy import field, field_names, lazy_dataclass, replace_fields

BUNDLE_FORMAT = 1
"""Version of the layout and of the manifest."""

CURRENT_FILE = "current"
MANIFEST_FILE, ENCODER_FILE, DECODER_FILE, TOKENIZER_FILE = (
    "manifest.json",
    "encoder.onnx",
    "decoder.onnx",
    "tokenizer.json",
)
STYLE_FILE, RERANKER_FILE, INDEX_FOLDER, ADAPTER_FOLDER, RISK_MODEL_FILE = (
    "style.json",
    "chooser.json",
    "index",
    "adapter",
    "risk.json",
)
RISK_ENCODER_FILE = "risk.onnx"
BUNDLE_KINDS = {"model": {ENCODER_FILE, DECODER_FILE, TOKENIZER_FILE}, "retrieval": set[str]()}
"""The kinds of bundle and the files that each must have."""

_MAX_MANIFEST_BYTES = 1 << 20
_FILE_NAME = re.compile(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}(?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}){0,3}")
_BUNDLE_ID = re.compile(r"[0-9a-f]{64}")
_STALE_SECONDS = 24 * 3600
_REBUILD_HINT = "run `gitpeft init` to build the model again"


@lazy_dataclass(frozen=True, slots=True)
class FileEntry:
    """What the manifest says of one file: size in bytes and SHA-256 in hexadecimal."""

    size: int
    sha256: str

    @classmethod
    def from_dict(cls, data: dict[str, Any]) -> "FileEntry":
        """Read an entry of the manifest; TypeError or KeyError when it is none."""
        size, sha256 = data["size"], data["sha256"]
        if type(size) is not int or type(sha256) is not str or not 0 <= size < 1 << 62:
            raise TypeError("a file entry has a size in bytes and a text sha256")
        return cls(size, sha256)


@lazy_dataclass(frozen=True, slots=True)
class Manifest:
    """Where a bundle comes from and what it holds. `write` fills in `files`.

    `base` and `base_digest` name the base model; `method` has at least a `name`; `commits` is the range of
    history (`from`, `to`, `count`); `budget` holds the fields of `diff.Budget`, `settings` what decoding
    needs (see `learn.export.Exported`); `created` is in UTC, ISO 8601.
    """

    kind: str
    created: str
    base: str = ""
    base_digest: str = ""
    tokenizer_digest: str = ""
    method: dict[str, Any] = field(default_factory=dict)
    commits: dict[str, Any] = field(default_factory=dict)
    budget: dict[str, int] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    format: int = BUNDLE_FORMAT
    renderer: int = RENDERER_VERSION
    files: dict[str, FileEntry] = field(default_factory=dict)

    def to_json(self) -> bytes:
        """The bytes of `manifest.json`; equal manifests give equal bytes."""
        from dataclasses import asdict

        text = json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False)
        return text.encode() + b"\n"

    @classmethod
    def from_json(cls, raw: bytes) -> "Manifest":
        """Read `manifest.json`; GitpeftError when it is none, or one of another version."""
        try:
            data = json.loads(raw)
            _check_versions(data.get("format"), data.get("renderer"))
            known = {name: data[name] for name in field_names(cls) if name in data}
            files = {
                validate_file_name(name): FileEntry.from_dict(entry) for name, entry in data["files"].items()
            }
            manifest = cls(**{**known, "files": files})
            manifest._check_types()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise GitpeftError(f"the model's manifest cannot be read: {error}", _REBUILD_HINT) from None
        return manifest

    def _check_types(self) -> None:
        for name, kind in Manifest.__annotations__.items():
            expected: Any = getattr(kind, "__origin__", kind)
            if not isinstance(getattr(self, name), expected):
                raise TypeError(f"{name} is no {expected.__name__}")
        if missing := BUNDLE_KINDS[self.kind] - self.files.keys():
            raise ValueError(f"a {self.kind} bundle needs {', '.join(sorted(missing))}")


@lazy_dataclass(frozen=True, slots=True)
class Bundle:
    """A bundle in place. Its files are read through it, so that nothing unchecked is ever used."""

    path: Path
    manifest: Manifest

    @property
    def id(self) -> str:
        """SHA-256 of the manifest, which is the folder's name."""
        return self.path.name

    @property
    def newest_commit(self) -> str:
        """The newest commit that it knows, "" if it knows none."""
        return str(self.manifest.commits.get("to", ""))

    def __contains__(self, name: str) -> bool:
        return name in self.manifest.files

    def read(self, name: str) -> bytes:
        """The bytes of a file, checked against the manifest; GitpeftError when it is another or missing."""
        entry = self.manifest.files.get(name)
        if entry is None:
            raise GitpeftError(f"the model has no {name}", _REBUILD_HINT)
        raw = _read_regular_file(self.path / name)
        if len(raw) != entry.size or hashlib.sha256(raw).hexdigest() != entry.sha256:
            raise GitpeftError(f"{name} of the model is damaged", _REBUILD_HINT)
        return raw

    def read_json(self, name: str) -> dict[str, Any]:
        """A JSON object of the bundle; {} when it has no such file."""
        if name not in self:
            return {}
        try:
            value = json.loads(self.read(name))
        except (ValueError, RecursionError):
            value = None
        if not isinstance(value, dict):
            raise GitpeftError(f"{name} of the model is no JSON object", _REBUILD_HINT)
        return value


# --- writing ------------------------------------------------------------------------------------------------


@contextmanager
def staging_folder(state_dir: Path) -> Iterator[Path]:
    """An empty folder for a bundle's files, on the same file system; gone afterwards, whatever happens."""
    import tempfile

    models = state_dir / "models"
    models.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix=".new-", dir=models))
    try:
        yield folder
    finally:
        _remove_folder(folder)


def write_bundle(folder: Path, manifest: Manifest) -> str:
    """Turn a `staging` folder into a bundle and return its id; it is not active yet.

    `manifest.files` is filled in. Every file is flushed before the one rename, and so is the rename. A bundle
    that exists already under this id is left as it is.
    """
    files = {
        name: _build_file_entry(folder / name)
        for name in sorted(_list_files(folder))
        if name != MANIFEST_FILE
    }
    return add_bundle(folder, replace_fields(manifest, files=files).to_json())


def add_bundle(folder: Path, raw: bytes) -> str:
    """As `write`, with the bytes of a manifest that came from elsewhere; returns its id.

    GitpeftError when the folder does not hold exactly the files that it lists, byte for byte.
    """
    bundle = Bundle(folder.with_name(hashlib.sha256(raw).hexdigest()), Manifest.from_json(raw))
    verify_bundle(Bundle(folder, bundle.manifest))
    (folder / MANIFEST_FILE).write_bytes(raw)
    files = bundle.manifest.files
    for name in (*files, MANIFEST_FILE):
        _flush_to_disk(folder / name)
    for place in sorted({(folder / name).parent for name in files} | {folder}, reverse=True):
        _flush_to_disk(place)
    try:
        folder.rename(bundle.path)
    except OSError:
        if not bundle.path.is_dir():
            raise
    _flush_to_disk(bundle.path.parent)
    return bundle.id


def _list_files(folder: Path) -> Iterator[str]:
    """The files below a folder, as a manifest names them."""
    for path in folder.rglob("*"):
        if path.is_symlink() or not path.is_dir():
            yield path.relative_to(folder).as_posix()


def _build_file_entry(path: Path) -> FileEntry:
    raw = _read_regular_file(path)
    return FileEntry(len(raw), hashlib.sha256(raw).hexdigest())


def _flush_to_disk(path: Path) -> None:
    handle = os.open(path, os.O_RDONLY)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)


# --- reading and checking -----------------------------------------------------------------------------------


def open_bundle(path: Path) -> Bundle:
    """The bundle in a folder, checked as far as that costs next to nothing (see above)."""
    raw = _read_regular_file(path / MANIFEST_FILE, _MAX_MANIFEST_BYTES)
    if hashlib.sha256(raw).hexdigest() != path.name:
        raise GitpeftError("the model's manifest is damaged", _REBUILD_HINT)
    bundle = Bundle(path, Manifest.from_json(raw))
    for name, entry in bundle.manifest.files.items():
        _check_file(path / name, entry.size)
    return bundle


def verify_bundle(bundle: Bundle) -> None:
    """Check every byte: each file against its SHA-256, no file beside them, no weights kept elsewhere."""
    for name in bundle.manifest.files:
        bundle.read(name)
    if extra := set(_list_files(bundle.path)) - {MANIFEST_FILE, *bundle.manifest.files}:
        raise GitpeftError(
            f"the model's folder holds {min(extra)}, which its manifest does not list", _REBUILD_HINT
        )
    _refuse_external_data(bundle)


def _refuse_external_data(bundle: Bundle) -> None:
    """An ONNX file may keep weights in other files, named by an entry `location`: such a file is refused.

    The word is looked for in the raw bytes, which needs no parser and can be fooled by no encoding.
    """
    for name in bundle.manifest.files:
        if name.endswith(".onnx") and b"location" in bundle.read(name):
            raise GitpeftError(f"{name} keeps data outside its own file", "export the model into one file")


def _read_regular_file(path: Path, limit: int = 1 << 31) -> bytes:
    """A regular file's bytes; a link, a device or an enormous file is refused."""
    _check_file(path)
    try:
        with open(path, "rb") as file:
            size = os.fstat(file.fileno()).st_size
            if size > limit:
                raise GitpeftError(f"{path.name} of the model is too large", _REBUILD_HINT)
            return file.read(size)  # a read reserves all that it is asked for
    except OSError as error:
        raise GitpeftError(f"cannot read {path}: {error.strerror}", "check its permissions") from None


def _check_file(path: Path, size: int | None = None) -> None:
    try:
        state = path.lstat()
    except OSError:
        raise GitpeftError(f"{path.name} of the model is missing", _REBUILD_HINT) from None
    if not stat.S_ISREG(state.st_mode):
        raise GitpeftError(f"{path.name} of the model is no regular file", _REBUILD_HINT)
    if size is not None and state.st_size != size:
        raise GitpeftError(
            f"{path.name} of the model is damaged: {state.st_size} bytes of {size}", _REBUILD_HINT
        )


def _check_versions(format_: Any, renderer: Any) -> None:
    if format_ != BUNDLE_FORMAT:
        raise GitpeftError(
            f"the model has bundle format {ascii(format_)[:20]}, this gitpeft reads {BUNDLE_FORMAT}",
            "install the gitpeft version that wrote it, or run `gitpeft init`",
        )
    if renderer != RENDERER_VERSION:
        raise GitpeftError(
            f"the model was trained on rendering {ascii(renderer)[:20]}, "
            f"this gitpeft renders {RENDERER_VERSION}",
            _REBUILD_HINT,
        )


def validate_file_name(name: str) -> str:
    """A file name that stays in the bundle: plain ASCII, at most three folders deep, no dot in front."""
    if not _FILE_NAME.fullmatch(name):
        raise ValueError(f"the file name {name!r} is not allowed")
    return name


# --- versions -----------------------------------------------------------------------------------------------


def read_active_ids(state_dir: Path) -> tuple[str, str]:
    """The active id and the one before it; "" for either that does not exist."""
    try:
        lines = (state_dir / CURRENT_FILE).read_text(encoding="ascii", errors="replace").split("\n")
    except FileNotFoundError:
        return "", ""
    active_, before = (*lines, "", "")[:2]
    if not _BUNDLE_ID.fullmatch(active_) or not (before == "" or _BUNDLE_ID.fullmatch(before)):
        raise GitpeftError("the note of the active model is damaged", "run `gitpeft init`")
    return active_, before


def read_active_id(state_dir: Path) -> str:
    """The id of the active model as noted, "" when there is none; for the hook, so nothing is checked."""
    try:
        return (state_dir / CURRENT_FILE).read_text("ascii", errors="replace").partition("\n")[0].strip()[:64]
    except OSError:
        return ""


def open_active_bundle(state_dir: Path) -> Bundle | None:
    """The active bundle, checked cheaply; None when none was ever activated."""
    id_ = read_active_ids(state_dir)[0]
    return open_bundle(state_dir / "models" / id_) if id_ else None


def require_active_bundle(state_dir: Path) -> Bundle:
    """The active bundle, checked cheaply; GitpeftError when there is none or it is damaged."""
    bundle = open_active_bundle(state_dir)
    if bundle is None:
        raise GitpeftError("there is no model yet", "run `gitpeft init`")
    return bundle


def activate_bundle(state_dir: Path, id_: str) -> Bundle:
    """Check a bundle thoroughly and make it the active one; the one before it is remembered."""
    if not _BUNDLE_ID.fullmatch(id_):
        raise GitpeftError(f"{id_} is no model id", "`gitpeft models` lists them")
    with _lock_models(state_dir):
        bundle = open_bundle(state_dir / "models" / id_)
        verify_bundle(bundle)
        try:
            before = read_active_ids(state_dir)
        except GitpeftError:
            before = ("", "")
        if before[0] != id_:
            replace_file(state_dir / CURRENT_FILE, f"{id_}\n{before[0]}\n".encode(), durable=True)
    return bundle


def list_bundles(state_dir: Path) -> list[Bundle]:
    """All bundles that can be opened, newest first."""
    found = []
    for path in _list_bundle_folders(state_dir):
        try:
            found.append(open_bundle(path))
        except GitpeftError:
            continue
    return sorted(found, key=lambda bundle: (bundle.manifest.created, bundle.id), reverse=True)


def prune_bundles(state_dir: Path, keep: int = 3) -> list[str]:
    """Delete all but the `keep` newest bundles, and what killed runs left; returns the ids that went.

    The active bundle and its predecessor stay always, also when that makes more than `keep`.
    """
    with _lock_models(state_dir):
        newest = [bundle.id for bundle in list_bundles(state_dir)][:keep]
        stay = {*newest, *read_active_ids(state_dir)}
        gone = [path for path in _list_bundle_folders(state_dir) if path.name not in stay]
        for path in gone:
            delete_bundle(path)
        for path in (state_dir / "models").glob(".*-*"):
            if time.time() - path.lstat().st_mtime > _STALE_SECONDS:
                _remove_folder(path)
    return [path.name for path in gone]


def delete_bundle(path: Path) -> None:
    """Out of sight in one rename, then deleted: a kill in between leaves no half bundle under its id."""
    hidden = path.with_name(f".old-{path.name}")
    path.rename(hidden)
    _remove_folder(hidden)


def _remove_folder(folder: Path) -> None:
    import shutil  # writing only: the hook does not pay for its import

    shutil.rmtree(folder, ignore_errors=True)


def _list_bundle_folders(state_dir: Path) -> list[Path]:
    models = state_dir / "models"
    return (
        sorted(path for path in models.iterdir() if _BUNDLE_ID.fullmatch(path.name))
        if models.is_dir()
        else []
    )


@contextmanager
def _lock_models(state_dir: Path) -> Iterator[None]:
    """Allow one activation or removal of models at a time."""
    models = state_dir / "models"
    models.mkdir(parents=True, exist_ok=True)
    with hold_lock(models / ".lock"):
        yield
