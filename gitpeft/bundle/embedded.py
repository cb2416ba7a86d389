"""The base models that are part of the package: where their files are, and the digest that identifies one."""

import hashlib
from pathlib import Path

EMBEDDED_BASE, LARGE_BASE = "mini", "smol"
"""The default, and the one for machines with more memory."""

EMBEDDED_BASES = (EMBEDDED_BASE, LARGE_BASE)
BASE_WEIGHTS_FILE, BASE_CONFIG_FILE, BASE_TOKENIZER_FILE = (
    "model.safetensors",
    "config.json",
    "tokenizer.json",
)
ONNX_FOLDER, BASE_ADAPTER_FOLDER = "onnx", "adapter"
"""The folders, inside a base's, of its ONNX files, and of an adapter that belongs to it."""

_ADAPTER_WEIGHTS_FILE = "adapter_model.safetensors"


def find_embedded_base(name: str = EMBEDDED_BASE) -> Path:
    """The folder of an embedded base: `models/NAME` of a checkout, or its copy in an installed package."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_models" / name
    return packaged if packaged.is_dir() else package.parent / "models" / name


def compute_base_digest(folder: Path) -> str:
    """The SHA-256, in hexadecimal, of the SHA-256 digests of a base's weights, configuration and tokenizer.

    That of its own adapter's weights follows where it has one.

    OSError when one of the files cannot be read.
    """
    total = hashlib.sha256()
    paths = [folder / name for name in (BASE_WEIGHTS_FILE, BASE_CONFIG_FILE, BASE_TOKENIZER_FILE)]
    adapter = folder / BASE_ADAPTER_FOLDER / _ADAPTER_WEIGHTS_FILE
    for path in [*paths, *([adapter] if adapter.is_file() else [])]:
        with path.open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
