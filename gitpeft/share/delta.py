"""Delta encoding of published bundles: which files are not sent, and how they are reconstructed bit by bit.

    encode_deltas      bundle              -> files to send, and recipes for the others
    reconstruct_files  files, recipes      -> the other files, which the manifest's hashes then verify

An int8 graph is sent as its difference from a file that the receiver has or can compute: the base's graph
with the adapter merged into it (`share.lora_merge`) or, where the method does not allow that, the base's own
graph. Where the difference saves too little, the file is sent whole.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

from gitpeft.bundle.bundle import (
    ADAPTER_FOLDER,
    CAUSAL_GRAPHS,
    DECODER_FILE,
    ENCODER_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
    Bundle,
    Manifest,
)
from gitpeft.bundle.embedded import (
    BASE_ADAPTER_FOLDER,
    BASE_TOKENIZER_FILE,
    EMBEDDED_BASES,
    ONNX_FOLDER,
    compute_base_digest,
    find_embedded_base,
)
from gitpeft.errors import GitpeftError
from gitpeft.share import lora_merge, packed_merge
from gitpeft.share.packed import is_packed_base

RECONSTRUCTION_WAYS = ("fold", "base")
"""What a file is reconstructed from: the base's graph with the adapter merged in, or the base's own file."""

MAX_DELTA_SHARE = 0.6
"""A difference larger than this share of the file, both compressed, is not used."""

_DELTA_SUFFIX = ".difference"


@dataclass(frozen=True, slots=True)
class DeltaRecipe:
    """How to reconstruct a file: one of `RECONSTRUCTION_WAYS`, and the file of the difference ("": none)."""

    way: str
    difference: str = ""

    def as_dict(self) -> dict[str, str]:
        """The recipe as a JSON object of `share.json`."""
        return {"way": self.way, "difference": self.difference}

    @classmethod
    def from_dict(cls, data: object) -> "DeltaRecipe":
        """Parse such an object; ValueError when it is invalid."""
        if not isinstance(data, dict) or data.get("way") not in RECONSTRUCTION_WAYS:
            raise ValueError("unknown way to reconstruct a file")
        if not isinstance(difference := data.get("difference"), str):
            raise ValueError("the name of a difference is not a text")
        return cls(data["way"], difference)


def encode_deltas(bundle: Bundle) -> tuple[dict[str, bytes], dict[str, DeltaRecipe]]:
    """The files to send, by name, and the recipes of the others."""
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    made: dict[str, DeltaRecipe] = {}
    base = match_embedded_base(bundle.manifest)
    if base is None:
        return files, made
    sources = _build_delta_sources(base, bundle.read)
    for name in (ENCODER_FILE, *CAUSAL_GRAPHS, TOKENIZER_FILE, WEIGHTS_FILE):
        if name not in files:
            continue
        best = _choose_shortest_delta(
            files[name], {way: found[name] for way, found in sources.items() if name in found}
        )
        if best is not None:
            way, difference = best
            made[name] = DeltaRecipe(way, f"{name}{_DELTA_SUFFIX}" if difference else "")
            del files[name]
            if difference:
                files[f"{name}{_DELTA_SUFFIX}"] = difference
    return files, made


def reconstruct_files(
    read: Callable[[str], bytes], made: Mapping[str, DeltaRecipe], manifest: Manifest
) -> dict[str, bytes]:
    """Reconstruct the files that were not sent, by name; `read` returns those that were.

    Raises GitpeftError when they need another base than the one here. The result is verified by the hashes in
    the manifest, not here.
    """
    if not made:
        return {}
    base = match_embedded_base(manifest)
    if base is None:
        raise GitpeftError(
            f"the model was tuned from another version of the base {manifest.base} than yours",
            "Install the version of gitpeft with which it was published.",
        )
    ways = {one.way for one in made.values()}
    sources = _build_delta_sources(base, read, needed=ways)
    return {name: _apply_delta(name, one, sources, read, manifest) for name, one in made.items()}


def match_embedded_base(manifest: Manifest) -> Path | None:
    """The folder of the embedded base, if the model was tuned from exactly this version of it."""
    if manifest.base not in EMBEDDED_BASES:
        return None
    folder = find_embedded_base(manifest.base)
    if not (folder / ONNX_FOLDER / ENCODER_FILE).is_file() and not is_packed_base(folder):
        return None
    return folder if compute_base_digest(folder) == manifest.base_digest else None


def _build_delta_sources(
    base: Path, read: Callable[[str], bytes], needed: set[str] | None = None
) -> dict[str, dict[str, bytes]]:
    """The files from which others can be reconstructed here, by way and name.

    `read` returns a file of the bundle.
    """

    def read_adapter(name: str) -> bytes:
        try:
            return read(f"{ADAPTER_FOLDER}/{name}")
        except (GitpeftError, KeyError):
            own = base / BASE_ADAPTER_FOLDER / name
            if not (packed and own.is_file()):
                raise
            return own.read_bytes()  # a model without tuning

    def fold() -> dict[str, bytes]:
        if packed:
            own = [found["base"][name] for name in CAUSAL_GRAPHS if name in found["base"]]
            graphs = own or _read_graphs(read)  # only names and shapes count
            return {WEIGHTS_FILE: packed_merge.merge_lora_into_weights(base, graphs, read_adapter)}
        return lora_merge.merge_lora_into_graphs(base, read_adapter)

    packed = is_packed_base(base)
    found = {"base": _read_own_files(base, packed)}
    if needed is None or "fold" in needed:
        try:
            found["fold"] = fold()
        except GitpeftError:
            if needed is not None:
                raise
    return found


def _read_graphs(read: Callable[[str], bytes]) -> list[bytes]:
    """The graphs of a causal model in a bundle, whose first one it must have."""
    found = [read(DECODER_FILE)]
    for name in CAUSAL_GRAPHS[1:]:
        try:
            found.append(read(name))
        except (GitpeftError, KeyError):
            pass  # an earlier version exported one graph
    return found


def _read_own_files(base: Path, packed: bool) -> dict[str, bytes]:
    """What a base has of a bundle's files: the tokenizer and the graphs, as far as they come with it."""
    if packed:
        found = {TOKENIZER_FILE: (base / BASE_TOKENIZER_FILE).read_bytes()}
        return found | packed_merge.read_graphs(base)
    names = (ENCODER_FILE, DECODER_FILE, TOKENIZER_FILE)
    return {name: (base / ONNX_FOLDER / name).read_bytes() for name in names}


def _choose_shortest_delta(wanted: bytes, sources: Mapping[str, bytes]) -> tuple[str, bytes] | None:
    """The way with the smallest difference (b"" where the files are equal); None if none saves enough."""
    found = {way: _compute_delta(wanted, one) for way, one in sources.items() if len(one) == len(wanted)}
    best = min(found, key=lambda way: len(found[way]), default=None)
    if best is None or len(found[best]) > MAX_DELTA_SHARE * len(zlib.compress(wanted, 1)):
        return None
    return best, found[best]


def _compute_delta(a: bytes, b: bytes) -> bytes:
    return b"" if a == b else zlib.compress(_xor_bytes(a, b), 9)


def _xor_bytes(a: bytes, b: bytes) -> bytes:
    import numpy as np

    return np.bitwise_xor(np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8)).tobytes()


def _apply_delta(
    name: str,
    made: DeltaRecipe,
    sources: Mapping[str, Mapping[str, bytes]],
    read: Callable[[str], bytes],
    manifest: Manifest,
) -> bytes:
    start, size = sources[made.way].get(name, b""), manifest.files[name].size
    if len(start) != size:
        raise GitpeftError(
            f"{name} cannot be reconstructed from this base",
            "Install the version of gitpeft with which it was published, or publish it again with this one.",
        )
    if not made.difference:
        return start
    try:
        unpacker = zlib.decompressobj()
        difference = unpacker.decompress(read(made.difference), size + 1)
    except zlib.error:
        difference = b""
    if len(difference) != size:
        raise GitpeftError(f"{made.difference} is damaged", "Publish it again.")
    return _xor_bytes(start, difference)
