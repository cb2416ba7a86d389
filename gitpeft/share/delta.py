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

from gitpeft.bundle.bundle import ADAPTER, DECODER, ENCODER, TOKENIZER, Bundle, Manifest
from gitpeft.bundle.embedded import EMBEDDED, GRAPHS, digest, embedded_folder
from gitpeft.errors import GitpeftError
from gitpeft.share import lora_merge

WAYS = ("fold", "base")
"""What a file is made from: the base's graph with the adapter in it, or the base's own file."""

WORTH = 0.6
"""A difference larger than this share of the file, both compressed, does not travel in its place."""

_SUFFIX = ".difference"


@dataclass(frozen=True, slots=True)
class Made:
    """How the receiver makes a file: one of `WAYS`, and the file of the difference, "" for none."""

    way: str
    difference: str = ""

    def to_json(self) -> dict[str, str]:
        """For the list of what is sent."""
        return {"way": self.way, "difference": self.difference}

    @classmethod
    def of(cls, data: Any) -> "Made":
        """Read what `to_json` wrote; ValueError when it is none."""
        if not isinstance(data, dict) or data.get("way") not in WAYS:
            raise ValueError("a file is to be made in an unknown way")
        if not isinstance(data.get("difference"), str):
            raise ValueError("a difference is no file name")
        return cls(data["way"], data["difference"])


def pack(bundle: Bundle) -> tuple[dict[str, bytes], dict[str, Made]]:
    """The files to send, by name, and how each of the others is made."""
    files = {name: bundle.read(name) for name in bundle.manifest.files}
    made: dict[str, Made] = {}
    base = base_of(bundle.manifest)
    if base is None:
        return files, made
    sources = _sources(base, lambda name: bundle.read(f"{ADAPTER}/{name}"))
    for name in (ENCODER, DECODER, TOKENIZER):
        best = _shortest(files[name], {way: found[name] for way, found in sources.items() if name in found})
        if best is not None:
            way, difference = best
            made[name] = Made(way, f"{name}{_SUFFIX}" if difference else "")
            del files[name]
            if difference:
                files[f"{name}{_SUFFIX}"] = difference
    return files, made


def unpack(read: Callable[[str], bytes], made: Mapping[str, Made], manifest: Manifest) -> dict[str, bytes]:
    """The files that were not sent, by name; `read` gives those that were.

    GitpeftError when they need another base than the one here. That they are right is for the manifest's
    hashes to say.
    """
    if not made:
        return {}
    base = base_of(manifest)
    if base is None:
        raise GitpeftError(
            f"the model was tuned from another base than the {EMBEDDED} of this gitpeft",
            "install the gitpeft version of whoever published it",
        )
    ways = {one.way for one in made.values()}
    sources = _sources(base, lambda name: read(f"{ADAPTER}/{name}"), needed=ways)
    return {name: _apply(name, one, sources, read, manifest) for name, one in made.items()}


def base_of(manifest: Manifest) -> Path | None:
    """The embedded base's folder, if the model was tuned from exactly that one."""
    folder = embedded_folder()
    if manifest.base != EMBEDDED or not (folder / GRAPHS / ENCODER).is_file():
        return None
    return folder if digest(folder) == manifest.base_digest else None


def _sources(
    base: Path, read: Callable[[str], bytes], needed: set[str] | None = None
) -> dict[str, dict[str, bytes]]:
    """The files that can be made here, by way and name."""
    names = (ENCODER, DECODER, TOKENIZER)
    found = {"base": {name: (base / GRAPHS / name).read_bytes() for name in names}}
    if needed is None or "fold" in needed:
        try:
            found["fold"] = lora_merge.fold(base, read)
        except GitpeftError:
            if needed is not None:
                raise
    return found


def _shortest(wanted: bytes, sources: Mapping[str, bytes]) -> tuple[str, bytes] | None:
    """The way with the smallest difference (empty: none at all); None if none saves enough."""
    found = {way: _difference(wanted, one) for way, one in sources.items() if len(one) == len(wanted)}
    best = min(found, key=lambda way: len(found[way]), default=None)
    if best is None or len(found[best]) > WORTH * len(zlib.compress(wanted, 1)):
        return None
    return best, found[best]


def _difference(a: bytes, b: bytes) -> bytes:
    return b"" if a == b else zlib.compress(_xor(a, b), 9)


def _xor(a: bytes, b: bytes) -> bytes:
    import numpy as np

    return np.bitwise_xor(np.frombuffer(a, np.uint8), np.frombuffer(b, np.uint8)).tobytes()


def _apply(
    name: str,
    made: Made,
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
    return _xor(start, difference)
