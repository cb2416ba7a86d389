"""What tuning is tested on: methods by their text, small architectures, a batch, trained weights."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch

from gitpeft.learn.models import methods
from gitpeft.learn.models.methods import TuningMethod
from tests.support import tinymodel

SMALL = TuningMethod(rank=4, alpha=8, dropout=0.0)


TEXTS = (
    "lora:rank=4",
    "lora:rank=4,placement=query-value,side=encoder",
    "adapter:width=8",
    "adapter:width=8,placement=pfeiffer,activation=gelu",
    "full",
    "hybrid:rank=4,full=encoder.1",
    "hybrid:rest=adapter,width=8,full=encoder.0+decoder.0",
)
"""Every method, at the size of the test's models, which have two layers a side (BART one)."""


def on_side(text: str, side: str) -> str:
    """The method with the layers of its text on the side that a base has."""
    return text.replace("encoder.", f"{side}.") if side == "decoder" else text


def named(text: str, make: Any = None) -> TuningMethod:
    name, settings = methods.parse_method(text)
    if make is tinymodel.bart and "full" in settings:
        settings["full"] = ("encoder.0",)
    return methods.make_method(name, settings)


def trainable(model: Any) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def disturb(model: Any) -> None:
    """Give everything that may be trained another value, as training would."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.05 * torch.randn_like(parameter))


def batch(seed: int = 0, size: int = 3, vocabulary: int = 400) -> dict[str, torch.Tensor]:
    """Sources of different lengths, padded, and labels with ignored positions."""
    dice = torch.Generator().manual_seed(seed)
    ids = torch.randint(10, vocabulary, (size, 17), generator=dice)
    labels = torch.randint(10, vocabulary, (size, 6), generator=dice)
    for row in range(1, size):
        ids[row, 17 - 4 * row :] = 0
        labels[row, 6 - row :] = -100
    return {"input_ids": ids, "attention_mask": (ids > 0).long(), "labels": labels}


_IDS = {"pad_token_id": 0, "eos_token_id": 1, "bos_token_id": 3, "decoder_start_token_id": 3}


def _plbart() -> Any:
    from transformers import PLBartConfig, PLBartForConditionalGeneration

    return PLBartForConditionalGeneration(
        PLBartConfig(
            vocab_size=400, d_model=32, encoder_layers=2, decoder_layers=2, encoder_attention_heads=4,
            decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=256,
            **_IDS,
        )
    )  # fmt: skip


def _roberta() -> Any:
    from transformers import RobertaConfig, RobertaModel

    return RobertaModel(
        RobertaConfig(
            vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
            max_position_embeddings=256, **_IDS,
        )
    )  # fmt: skip


CAUSAL_TYPES = ("llama", "qwen2", "qwen3", "mistral", "granite", "smollm3")

ARCHITECTURES: dict[str, Callable[[], Any]] = {
    "codet5": lambda: tinymodel.plain_t5(dropout_rate=0.1),
    "codet5p": lambda: tinymodel.plain_t5(feed_forward_proj="gated-gelu"),
    "plbart": _plbart,
    "unixcoder": _roberta,
    **{kind: partial(tinymodel.causal, kind) for kind in CAUSAL_TYPES},
}


METHODS = (
    "lora:rank=4", "adapter:width=8", "full", "hybrid:rank=4,probe=1",
    "hybrid:rest=adapter,width=8,full=encoder.1",
)  # fmt: skip
