"""A bundle on its way: hides which of its files need not travel, and how they come back bit by bit.

    pack     bundle            -> files to send, and how the others are made
    unpack   files, base, how  -> the bundle's own files, which its manifest then proves

An int8 graph is sent as the difference from what the receiver can make itself: from the base's own graph
with the adapter folded in (see `fold`) or, where the method does not allow that, from the base's graph as it
is. A difference that saves too little is not worth its trouble, and the file travels whole.
"""

import zlib
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gitpeft.bundle.bundle import ADAPTER_FOLDER, DECODER_FILE, ENCODER_FILE, TOKENIZER_FILE, Bundle, Manifest
from gitpeft.bundle.embedded import EMBEDDED_BASE, ONNX_FOLDER, compute_base_digest, find_embedded_base
from gitpeft.errors import GitpeftError
from gitpeft.share import lora_merge

RECONSTRUCTION_WAYS = ("fold", "base")
"""What a file is made from: the base's graph with the adapter in it, or the base's own file."""

MAX_DELTA_SHARE = 0.6
"""A difference larger than this share of the file, both compressed, does not travel in its place."""

_DELTA_SUFFIX = ".difference"


@dataclass(frozen=True, slots=True)
class DeltaRecipe:
    """How the receiver makes a file: one of `WAYS`, and the file of the difference, "" for none."""

    way: str
    difference: str = ""

    def as_dict(self) -> dict[str, str]:
        """For the list of what is sent."""
        return {"way": self.way, "difference": self.difference}

    @classmethod
    def from_dict(cls, data: Any) -> "DeltaRecipe":
        """Read what `to_json` wrote; ValueError when it is none."""
        if not isinstance(data, dict) or data.get("way") not in RECONSTRUCTION_WAYS:
            raise ValueError("a file is to be made in an unknown way")
        if not isinstance(data.get("difference"), str):
            raise ValueError("a difference is no file name")
        return cls(data["way"], data["difference"])


def encode_deltas(bundle: Bundle) -> tuple[dict[str, bytes], dict[str, DeltaRecipe]]:
    """The files to send, by name, and how each of the others is made."""
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    made: dict[str, DeltaRecipe] = {}
    base = match_embedded_base(bundle.manifest)
    if base is None:
        return files, made
    sources = _build_delta_sources(base, lambda name: bundle.read(f"{ADAPTER_FOLDER}/{name}"))
    for name in (ENCODER_FILE, DECODER_FILE, TOKENIZER_FILE):
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
    """The files that were not sent, by name; `read` gives those that were.

    GitpeftError when they need another base than the one here. That they are right is for the manifest's
    hashes to say.
    """
    if not made:
        return {}
    base = match_embedded_base(manifest)
    if base is None:
        raise GitpeftError(
            f"the model was tuned from another base than the {EMBEDDED_BASE} of this gitpeft",
            "install the gitpeft version of whoever published it",
        )
    ways = {one.way for one in made.values()}
    sources = _build_delta_sources(base, lambda name: read(f"{ADAPTER_FOLDER}/{name}"), needed=ways)
    return {name: _apply_delta(name, one, sources, read, manifest) for name, one in made.items()}


def match_embedded_base(manifest: Manifest) -> Path | None:
    """The embedded base's folder, if the model was tuned from exactly that one."""
    folder = find_embedded_base()
    if manifest.base != EMBEDDED_BASE or not (folder / ONNX_FOLDER / ENCODER_FILE).is_file():
        return None
    return folder if compute_base_digest(folder) == manifest.base_digest else None


def _build_delta_sources(
    base: Path, read: Callable[[str], bytes], needed: set[str] | None = None
) -> dict[str, dict[str, bytes]]:
    """The files that can be made here, by way and name."""
    names = (ENCODER_FILE, DECODER_FILE, TOKENIZER_FILE)
    found = {"base": {name: (base / ONNX_FOLDER / name).read_bytes() for name in names}}
    if needed is None or "fold" in needed:
        try:
            found["fold"] = lora_merge.merge_lora_into_graphs(base, read)
        except GitpeftError:
            if needed is not None:
                raise
    return found


def _choose_shortest_delta(wanted: bytes, sources: Mapping[str, bytes]) -> tuple[str, bytes] | None:
    """The way with the smallest difference (empty: none at all); None if none saves enough."""
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
        raise GitpeftError(f"{name} cannot be made from this base", "publish it again with the same gitpeft")
    if not made.difference:
        return start
    try:
        unpacker = zlib.decompressobj()
        difference = unpacker.decompress(read(made.difference), size + 1)
    except zlib.error:
        difference = b""
    if len(difference) != size:
        raise GitpeftError(f"{made.difference} is damaged", "publish it again")
    return _xor_bytes(start, difference)
