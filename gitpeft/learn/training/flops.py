"""How much of a device's arithmetic a training uses: floating-point operations done, and what it could do.

Model FLOPs utilisation as Chowdhery et al. 2022 (PaLM, appendix B) define it: what the model's matrix
products need for the real tokens, padding aside, over what the device's own matrix product reaches.
"""

import time
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import torch

from gitpeft.learn.models import architectures
from gitpeft.learn.training import memory

if TYPE_CHECKING:
    from transformers import PretrainedConfig, PreTrainedModel

_CROSS_ATTENTION = ("EncDecAttention", "encoder_attn")
_KEY_VALUE_NAMES = ("k", "v", "k_proj", "v_proj")


@dataclass(frozen=True, slots=True)
class StepFlops:
    """What one training step over a message model costs, in floating-point operations.

    `source` and `target` are operations a token of either side, forward and backward; `encoder`, `decoder`
    and `cross` are those a *pair* of tokens in attention (source with source, target with target, both).
    """

    source: float
    target: float
    encoder: float
    decoder: float
    cross: float

    @classmethod
    def from_model(cls, model: "PreTrainedModel") -> "StepFlops":
        """Read off a model's weights: 2 operations a weight and token forward, 2 for the gradient of its
        input, and 2 more for that of the weight where it is trained."""
        sides = {"source": 0.0, "target": 0.0}
        for name, weight in model.named_parameters():
            if weight.ndim == 2 and not _is_embedding_table(name):
                side = "source" if _reads_source(name) else "target"
                sides[side] += (6 if weight.requires_grad else 4) * weight.numel()
        config = model.config
        if architectures.is_causal(config.model_type):
            return cls._for_causal_model(config, sum(sides.values()))
        above, below = getattr(config, "encoder", config), getattr(config, "decoder", config)
        sides["target"] += 6 * below.vocab_size * below.hidden_size  # the output's table, which may be shared
        if hasattr(model, "pointer"):
            sides["target"] += 6 * model.pointer.token.weight.numel()  # used on both sides
        encoder = 12 * _heads_width(above) * above.num_hidden_layers
        layers = getattr(below, "num_decoder_layers", None) or getattr(below, "decoder_layers", None)
        decoder = 12 * _heads_width(below) * (layers or below.num_hidden_layers)
        return cls(sides["source"], sides["target"], encoder, decoder, decoder)

    @classmethod
    def _for_causal_model(cls, config: "PretrainedConfig", weights: float) -> "StepFlops":
        """Every token passes every layer, and counts for all pairs, as in PaLM; only messages are put out."""
        pair = 12 * _heads_width(config) * config.num_hidden_layers
        return cls(weights, weights + 6 * config.vocab_size * config.hidden_size, pair, pair, 2 * pair)

    def count_batch(self, sources: Sequence[int], targets: Sequence[int]) -> float:
        """Operations of a batch whose examples have these lengths in tokens."""
        s, t = torch.tensor(sources, dtype=torch.double), torch.tensor(targets, dtype=torch.double)
        per_token = self.source * s + self.target * t
        return float((per_token + self.encoder * s * s + self.decoder * t * t + self.cross * s * t).sum())


def _heads_width(config: "PretrainedConfig") -> int:
    """The width of all heads together."""
    heads = config.num_attention_heads
    known = getattr(config, "d_kv", None) or getattr(config, "head_dim", None)
    return int(heads * (known or config.hidden_size // heads))


def _is_embedding_table(name: str) -> bool:
    return any(part in name for part in ("shared", "embed", "lm_head", "relative_attention_bias"))


def _reads_source(name: str) -> bool:
    """Whether a weight is applied to source tokens: the encoder's, and keys and values of cross-attention."""
    parts = name.split(".")
    if "pointer" in parts:
        return "query" not in parts and "gate" not in parts
    crossing = any(part in parts for part in _CROSS_ATTENTION)
    return "encoder" in parts or (crossing and any(part in parts for part in _KEY_VALUE_NAMES))


def measure_matrix_rate(device: torch.device, size: int | None = None, rounds: int = 8) -> float:
    """Operations a second of a square bf16 matrix product on this device: the best of `rounds`.

    0 where there is no memory for it.
    """
    size = size or (8192 if device.type == "cuda" else 1024)
    try:
        return 2 * size**3 / _time_product(device, size, rounds)
    except RuntimeError as error:
        if not memory.is_out_of_memory(error):
            raise
    memory.release_memory()
    return 0.0


def _time_product(device: torch.device, size: int, rounds: int) -> float:
    a = torch.randn(size, size, device=device, dtype=torch.bfloat16)
    best = float("inf")
    for _ in range(rounds):
        synchronise_device(device)
        start = time.perf_counter()
        a @ a
        synchronise_device(device)
        best = min(best, time.perf_counter() - start)
    return best


def synchronise_device(device: torch.device) -> None:
    """Wait until a GPU has done what was asked of it."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
