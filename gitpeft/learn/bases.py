"""Base models: hides where they are, how they are checked, and what each architecture calls its parts."""

import hashlib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gitpeft.diff import Budget
from gitpeft.embedded import CONFIG, EMBEDDED, GRAPHS, TOKENIZER, WEIGHTS, digest, embedded_folder
from gitpeft.errors import GitpeftError

__all__ = ["EMBEDDED", "LINEARS", "Base", "digest", "embedded_folder", "find"]

LINEARS = {
    "t5": ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo"),
    "pointer-t5": ("q", "k", "v", "o", "wi", "wi_0", "wi_1", "wo", "query", "key", "token"),
}
"""The linear layers of a model type, by the last part of their names: what `all linear` placement means."""


@dataclass(frozen=True, slots=True)
class Base:
    """A base model on this machine: its name, folder, sha256 over weights, configuration and tokenizer."""

    name: str
    folder: Path
    digest: str
    budget: Budget

    @property
    def tokenizer(self) -> Path:
        """The `tokenizers` file."""
        return self.folder / TOKENIZER

    @property
    def tokenizer_digest(self) -> str:
        """sha256 of the tokenizer file."""
        return hashlib.sha256(self.tokenizer.read_bytes()).hexdigest()

    def ready(self) -> Path | None:
        """The folder of the base's own ONNX files, for use without tuning; None where it has none."""
        folder = self.folder / GRAPHS
        return folder if (folder / "settings.json").is_file() else None

    def load(self) -> Any:
        """The model in float32. Safetensors only; no code of the base is ever run."""
        import torch
        from transformers import AutoModelForSeq2SeqLM
        from transformers.utils import logging

        import gitpeft.learn.pointer  # noqa: F401 - registers the embedded base's class

        logging.disable_progress_bar()
        model = AutoModelForSeq2SeqLM.from_pretrained(
            self.folder,
            use_safetensors=True,
            trust_remote_code=False,
            local_files_only=True,
            dtype=torch.float32,
        )
        model.set_attn_implementation("sdpa" if torch.cuda.is_available() else "eager")
        return model


def find(name: str) -> Base:
    """The base with this name: `mini`, or a folder of `transformers` files.

    GitpeftError when there is none, when it holds no safetensors or no `tokenizer.json`, or when its
    configuration is damaged or that of a model that cannot be tuned here.
    """
    import json

    folder = embedded_folder() if name == EMBEDDED else Path(name).expanduser()
    missing = [part for part in (CONFIG, WEIGHTS, TOKENIZER) if not (folder / part).is_file()]
    if missing:
        raise GitpeftError(
            f"the base {name} has no {missing[0]} ({folder})",
            "name a folder with config.json, model.safetensors and tokenizer.json, or leave --base out",
        )
    try:
        config = json.loads((folder / CONFIG).read_text(encoding="utf-8"))
        kind, budget = config.get("model_type"), Budget(**config.get("gitpeft_budget", {}))
    except (ValueError, TypeError, AttributeError) as error:
        hint = "get the base again, or leave --base out"
        raise GitpeftError(f"the {CONFIG} of the base {name} cannot be used: {error}", hint) from None
    if kind not in LINEARS:
        raise GitpeftError(f"the base {name} is a {kind}", f"known are {', '.join(sorted(LINEARS))}")
    return Base(name, folder.resolve(), digest(folder), budget)
