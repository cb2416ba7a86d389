"""The manifest of a model bundle: its fields, its JSON form, and the checks that reading it makes.

`manifest.json` lists every other file of the bundle with size and SHA-256, and says which base, method and
commits the model comes from. A manifest of another bundle format or of another version of the diff rendering
is refused: such a model would be asked in another form than it was trained on.
"""

import json
from collections.abc import Mapping
from typing import Any, TypedDict

from gitpeft.diff.compact import RENDERER_VERSION
from gitpeft.digests import hash_sha256
from gitpeft.errors import GitpeftError
from gitpeft.lazy import field, field_names, lazy_dataclass, lazy_pattern

BUNDLE_FORMAT = 1
"""Version of a bundle's layout and of its manifest."""

MANIFEST_FILE = "manifest.json"
ENCODER_FILE = "encoder.onnx"
DECODER_FILE = "decoder.onnx"
UPPER_FILE, HEAD_FILE = "decoder-upper.onnx", "decoder-head.onnx"
WEIGHTS_FILE = "decoder.safetensors"
TOKENIZER_FILE = "tokenizer.json"
STYLE_FILE = "style.json"
RERANKER_FILE = "chooser.json"
RISK_MODEL_FILE = "risk.json"
RISK_ENCODER_FILE = "risk.onnx"
INDEX_FOLDER = "index"
ADAPTER_FOLDER = "adapter"

GRAPH_VERSION = 2
"""Raised when graphs are exported in another form: what an earlier version left of a run is made anew."""

CAUSAL_GRAPHS = (DECODER_FILE, UPPER_FILE, HEAD_FILE)
"""The parts of a causal language model, in the order in which they are run: the lower half of its layers, the
upper half, and the output layer. The first alone is a whole model, as earlier versions exported it."""

BUNDLE_KINDS: dict[str, tuple[set[str], ...]] = {
    "model": (
        {ENCODER_FILE, DECODER_FILE, TOKENIZER_FILE},
        {DECODER_FILE, WEIGHTS_FILE, TOKENIZER_FILE},
    ),
    "retrieval": (set(),),
}
"""The kinds of bundle and the files that each must have: of a model, those of an encoder-decoder or those of
a causal language model, whose weights are a file of their own."""

REBUILD_HINT = "run `gitpeft init` to build the model again"
_FILE_NAME = lazy_pattern(r"[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}(?:/[A-Za-z0-9_-][A-Za-z0-9._-]{0,99}){0,3}")

CommitRange = TypedDict("CommitRange", {"from": str, "to": str, "count": int, "held": int}, total=False)
"""The commits that a model was trained on: the ids of the first and the last, how many commits in this range
were usable, and how many of those were held out from training."""


@lazy_dataclass(frozen=True, slots=True)
class FileEntry:
    """A file as the manifest lists it: size in bytes and SHA-256 in hexadecimal."""

    size: int
    sha256: str

    @classmethod
    def from_content(cls, raw: bytes) -> "FileEntry":
        """The entry of a file with this content."""
        return cls(len(raw), hash_sha256(raw))

    @classmethod
    def from_dict(cls, data: Mapping[str, object]) -> "FileEntry":
        """Read an entry of a manifest; TypeError or KeyError when it is malformed."""
        size, sha256 = data["size"], data["sha256"]
        if type(size) is not int or type(sha256) is not str or not 0 <= size < 1 << 62:
            raise TypeError("a file entry needs a size in bytes and a sha256 as text")
        return cls(size, sha256)


@lazy_dataclass(frozen=True, slots=True)
class Manifest:
    """What a bundle contains and where it comes from. `bundle.write_bundle` fills in `files`.

    `kind` is a key of `BUNDLE_KINDS`; `created` is in UTC, ISO 8601. `base` and the digests identify the base
    model and its tokenizer. `method` has at least a `name`; `budget` holds the fields of
    `diff.render.TokenBudget`, `settings` what decoding needs (`runtime.beam_search.GenerationTokens`, and the
    ids `before` and `after` that wrap a source). `versions` are those of the packages that trained it.
    """

    kind: str
    created: str
    base: str = ""
    base_digest: str = ""
    tokenizer_digest: str = ""
    method: dict[str, Any] = field(default_factory=dict)
    commits: CommitRange = field(default_factory=CommitRange)
    budget: dict[str, Any] = field(default_factory=dict)
    seeds: dict[str, int] = field(default_factory=dict)
    versions: dict[str, str] = field(default_factory=dict)
    metrics: dict[str, Any] = field(default_factory=dict)
    settings: dict[str, Any] = field(default_factory=dict)
    format: int = BUNDLE_FORMAT
    renderer: int = RENDERER_VERSION
    files: dict[str, FileEntry] = field(default_factory=dict)

    @property
    def reads_prompts(self) -> bool:
        """Whether the model is a causal one, which is asked with prompts; others are asked with marks."""
        return self.budget.get("layout") == "prompt"  # `diff.model_input.PROMPT_LAYOUT`

    def to_json(self) -> bytes:
        """The bytes of `manifest.json`; equal manifests give equal bytes."""
        from dataclasses import asdict

        text = json.dumps(asdict(self), indent=1, sort_keys=True, ensure_ascii=False)
        return text.encode(errors="backslashreplace") + b"\n"

    @classmethod
    def from_json(cls, raw: bytes) -> "Manifest":
        """Read `manifest.json`; GitpeftError when it is malformed or of another version.

        Entries that this version does not know are ignored.
        """
        try:
            data = json.loads(raw)
            _check_versions(data.get("format"), data.get("renderer"))
            known = {name: data[name] for name in field_names(cls) if name in data}
            files = {
                validate_file_name(name): FileEntry.from_dict(entry) for name, entry in data["files"].items()
            }
            manifest = cls(**{**known, "files": files})
            manifest._check_fields()
        except (ValueError, TypeError, KeyError, AttributeError, RecursionError) as error:
            raise GitpeftError(f"the model's manifest cannot be read: {error}", REBUILD_HINT) from None
        return manifest

    def _check_fields(self) -> None:
        for name, annotation in Manifest.__annotations__.items():
            kind = annotation if annotation in (str, int) else dict
            if not isinstance(getattr(self, name), kind):
                raise TypeError(f"{name} is not a {kind.__name__}")
        missing = [sorted(needed - self.files.keys()) for needed in BUNDLE_KINDS[self.kind]]
        if all(missing):
            raise ValueError(f"a {self.kind} bundle needs {' or '.join(map(', '.join, missing))}")


def _check_versions(bundle_format: object, renderer: object) -> None:
    if bundle_format != BUNDLE_FORMAT:
        raise GitpeftError(
            f"the model has bundle format {ascii(bundle_format)[:20]}, this gitpeft reads {BUNDLE_FORMAT}",
            "install the gitpeft version that wrote it, or run `gitpeft init`",
        )
    if renderer != RENDERER_VERSION:
        raise GitpeftError(
            f"the model was trained on version {ascii(renderer)[:20]} of the diff rendering, "
            f"this gitpeft renders version {RENDERER_VERSION}",
            REBUILD_HINT,
        )


def validate_file_name(name: str) -> str:
    """The name, if it stays inside the bundle: plain ASCII, at most three folders deep, no leading dot.

    ValueError for any other.
    """
    if not _FILE_NAME.fullmatch(name):
        raise ValueError(f"the file name {name!r} is not allowed")
    return name
