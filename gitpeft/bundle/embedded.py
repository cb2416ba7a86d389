"""The base model that the package carries: hides where it lies and what fixes its identity."""

import hashlib
from pathlib import Path

EMBEDDED_BASE = "mini"
BASE_WEIGHTS_FILE, BASE_CONFIG_FILE, BASE_TOKENIZER_FILE = (
    "model.safetensors",
    "config.json",
    "tokenizer.json",
)
ONNX_FOLDER = "onnx"
"""The folder of a base's own ONNX files."""


def find_embedded_base() -> Path:
    """Where `models/mini` is: at the top of a checkout, or inside an installed package."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_models" / EMBEDDED_BASE
    return packaged if packaged.is_dir() else package.parent / "models" / EMBEDDED_BASE


def compute_base_digest(folder: Path) -> str:
    """sha256 over the weights, configuration and tokenizer of a base."""
    total = hashlib.sha256()
    for name in (BASE_WEIGHTS_FILE, BASE_CONFIG_FILE, BASE_TOKENIZER_FILE):
        with (folder / name).open("rb") as file:
            total.update(hashlib.file_digest(file, "sha256").digest())
    return total.hexdigest()
