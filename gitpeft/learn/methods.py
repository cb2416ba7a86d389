"""Tuning methods: hides how each is attached to a base, stored and merged. A method is a row of a table."""

from collections.abc import Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from gitpeft.errors import GitpeftError
from gitpeft.learn.bases import LINEARS

PLACEMENTS = ("all-linear", "attention", "query-value", "feed-forward")
_ATTENTION = ("q", "k", "v", "o")


@dataclass(frozen=True, slots=True)
class Method:
    """A method and its settings, the same for every base and task.

    `rank` and `alpha` are LoRA's; the update is scaled by alpha / rank. `placement` is one of `PLACEMENTS`.
    `lr` is the peak learning rate of AdamW.
    """

    name: str = "lora"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    placement: str = "all-linear"
    lr: float = 2e-3

    def as_dict(self) -> dict[str, Any]:
        """For the manifest."""
        return asdict(self)


DEFAULTS = {"lora": Method(), "full": Method(name="full", rank=0, alpha=0, dropout=0.0, lr=5e-4)}
"""The methods by name, each with the settings that `gitpeft train` uses when it is told nothing else."""


def of(name: str) -> Method:
    """The method with its default settings; GitpeftError when there is none of this name."""
    if name not in DEFAULTS:
        raise GitpeftError(f"there is no method {name}", f"known are {', '.join(DEFAULTS)}")
    return DEFAULTS[name]


def attach(model: Any, method: Method) -> Any:
    """The model, ready to be tuned: what the method trains requires gradients, and nothing else does."""
    return _ATTACH[method.name](model, method)


def _attach_lora(model: Any, method: Method) -> Any:
    from peft import LoraConfig, TaskType, get_peft_model

    config = LoraConfig(
        task_type=TaskType.SEQ_2_SEQ_LM,
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=list(targets(model.config.model_type, method.placement)),
    )
    return get_peft_model(model, config)


def _attach_full(model: Any, method: Method) -> Any:
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


_ATTACH: dict[str, Callable[[Any, Method], Any]] = {"lora": _attach_lora, "full": _attach_full}


def targets(model_type: str, placement: str) -> tuple[str, ...]:
    """The names of the linear layers that a placement means in a model of this type."""
    linears = LINEARS[model_type]
    chosen = {
        "all-linear": linears,
        "attention": tuple(n for n in linears if n in _ATTENTION),
        "query-value": ("q", "v"),
        "feed-forward": tuple(n for n in linears if n.startswith("w")),
    }
    if placement not in chosen:
        raise GitpeftError(f"there is no placement {placement}", f"known are {', '.join(PLACEMENTS)}")
    return chosen[placement]


def save(model: Any, folder: Path) -> None:
    """What was trained: PEFT's adapter files, or a full model's; safetensors either way."""
    model.save_pretrained(folder)


def load_merged(base_model: Any, method: Method, folder: Path) -> Any:
    """The base with what `save` wrote folded in: a plain model, ready for export."""
    if method.name == "full":
        from safetensors.torch import load_file

        base_model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
        return base_model
    from peft import PeftModel

    return PeftModel.from_pretrained(base_model, folder).merge_and_unload()
