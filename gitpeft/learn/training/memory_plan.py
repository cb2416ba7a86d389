"""What a training asks of a GPU's memory, and how it is made to fit before the first step.

    bytes = 4 frozen (2 as bfloat16) + 20 trained + a · layers · width · tokens of a part

A trained weight has its gradient, two moments of AdamW and the copy that was best, all in 32 bits. Copying
a checkpoint adds nothing: it takes 256 MB at most, when gradients and activations are gone. `a` bounds what
autograd keeps under bfloat16 autocast, as a test counts in small models of the usual proportions: 47 to 60
bytes for a Llama, by method, with 256 tokens; 161 to 172 for a T5 with 512, which keeps its position bias and
dropout masks for every pair of them; 5 to 9 where only the inputs of layers are kept and the rest is computed
again (activation checkpointing; Chen et al. 2016, arXiv 1604.06174). The output for the labels is no part of
it: it has to do with what is not planned with (`USED_SHARE`).
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
from torch import nn

from gitpeft.learn.models import architectures

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CAUSAL_BYTES, OTHER_BYTES, RECOMPUTED_BYTES = 64, 200, 9
"""Bytes that a token takes in a layer, for each unit of its width."""

USED_SHARE = 0.85
"""The share of the free memory that is planned with."""

MIN_PART_TOKENS = 2048
"""Batches are not divided below this where something else can be done: less leaves a GPU idle."""


@dataclass(frozen=True, slots=True)
class MemoryPlan:
    """In how many parts a batch is computed, whether activations are computed again in the backward pass, and
    whether frozen matrices are kept in bfloat16."""

    parts: int = 1
    recompute: bool = False
    narrow: bool = False


@dataclass(frozen=True, slots=True)
class MemoryNeed:
    """What a model takes, in bytes: `frozen` matrices in 32 bits, all else that stays, and what a
    token of a batch takes, also where it is computed again."""

    frozen: int
    staying: int
    token: int
    recomputed: int

    @classmethod
    def from_model(cls, model: "PreTrainedModel") -> "MemoryNeed":
        """Count the weights of a model that is ready to be trained."""
        narrowed = {id(p) for p in list_frozen_matrices(model)}
        sizes = [(p.numel(), p.requires_grad, id(p) in narrowed) for p in model.parameters()]
        frozen = sum(4 * n for n, _, narrow in sizes if narrow)
        staying = sum((20 if trained else 4) * n for n, trained, narrow in sizes if not narrow)
        wide = _count_states(model.config)
        each = CAUSAL_BYTES if architectures.is_causal(model.config.model_type) else OTHER_BYTES
        return cls(frozen, staying, each * wide, RECOMPUTED_BYTES * wide)

    def count(self, tokens: int, plan: MemoryPlan) -> int:
        """Bytes for batches of so many tokens."""
        weights = self.frozen // 2 if plan.narrow else self.frozen
        return (
            weights
            + self.staying
            + (self.recomputed if plan.recompute else self.token) * tokens // plan.parts
        )


def plan_memory(
    need: MemoryNeed, tokens: int, free: int, parts: int = 1, *, narrowed: bool = False
) -> MemoryPlan:
    """The plan that costs the least time and fits into `free` bytes; the smallest one where none does.

    `tokens` are those of a batch, which is divided into `parts` in any case; with `narrowed`, frozen matrices
    are in bfloat16 in any case.
    """
    room = int(USED_SHARE * free)
    most = max(parts, tokens // MIN_PART_TOKENS)
    plans = [
        MemoryPlan(count, recompute, narrow)
        for recompute, narrow in ((False, False), (False, True), (True, True))[int(narrowed) :]
        for count in _double(parts, most)
    ]
    plans += [MemoryPlan(count, True, True) for count in _double(2 * most, max(2 * most, tokens // 128))]
    return next((plan for plan in plans if need.count(tokens, plan) <= room), plans[-1])


def _double(first: int, last: int) -> Iterator[int]:
    while first < last:
        yield first
        first *= 2
    yield last


def list_frozen_matrices(model: nn.Module) -> list[torch.Tensor]:
    """The matrices of linear layers that are not trained, nor shared with an embedding.

    Under autocast they are multiplied in bfloat16 in any case.
    """
    linear = {id(m.weight): m.weight for m in model.modules() if isinstance(m, nn.Linear)}
    shared = {id(m.weight) for m in model.modules() if isinstance(m, nn.Embedding)}
    return [p for key, p in linear.items() if not p.requires_grad and key not in shared]


@contextmanager
def follow_plan(model: Any, plan: MemoryPlan) -> Iterator[None]:
    """Train by the plan; afterwards the model has its types again, frozen matrices as they were used."""
    if plan.recompute and hasattr(model, "gradient_checkpointing_enable"):
        model.gradient_checkpointing_enable({"use_reentrant": False})
    try:
        with narrow_weights(list_frozen_matrices(model) if plan.narrow else []):
            yield
    finally:
        if plan.recompute and hasattr(model, "gradient_checkpointing_disable"):
            model.gradient_checkpointing_disable()


@contextmanager
def narrow_weights(weights: Iterable[torch.Tensor]) -> Iterator[None]:
    """Keep these weights in bfloat16; in the end they have 32 bits again, with the values that were used."""
    weights = list(weights)
    for weight in weights:
        weight.data = weight.data.to(torch.bfloat16)
    try:
        yield
    finally:
        for weight in weights:
            weight.data = weight.data.float()


def _count_states(config: Any) -> int:
    """Layers times their width, of both sides."""
    if hasattr(config, "encoder") and hasattr(config, "decoder"):
        return _count_states(config.encoder) + _count_states(config.decoder)
    beside = getattr(config, "num_decoder_layers", None) or getattr(config, "decoder_layers", None) or 0
    return int((config.num_hidden_layers + beside) * config.hidden_size)
