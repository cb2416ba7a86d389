"""Loss and gradients of a LoRA over a frozen Llama, Qwen2 or Mistral on a CPU, in half the usual time.

    if not find_obstacle(model):          # a PEFT model, ready to be trained
        with speed_up(model):
            train_model(model, …)

`speed_up` replaces the model's `forward` for batches of `PromptedExamples`; parameters, their names and the
optimiser stay PEFT's, so that checkpoints, validation and saving know nothing of it. What makes it fast:
frozen matrices in 8 bits, multiplied as whole numbers (the gradient passes through the same rounding); one
example at a time without padding, its gradients taken at once, so that the states of one example a thread are
all that is held; the last layer and the output only where a message is predicted; a backward pass that is
written out, and ends at the lowest layer whose update is trained: updates that are not are part of the frozen
matrices.
"""

import functools
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from typing import Any, NamedTuple

import torch
from torch import Tensor, nn

from gitpeft.learn.training.fast_lora.arithmetic import (
    KERNELS,
    FrozenProduct,
    Int8Product,
    PlainProduct,
    compile_kernels,
)
from gitpeft.learn.training.fast_lora.layer import FrozenLayer, LayerShape, LinearGroup, Low, apply_layer

MODEL_TYPES = ("llama", "qwen2", "mistral")
_GROUPS = (
    ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    ("self_attn.o_proj",),
    ("mlp.gate_proj", "mlp.up_proj"),
    ("mlp.down_proj",),
)
"""The matrices of a layer; those that read the same input are multiplied at once."""


class FastLoss(NamedTuple):
    """The mean loss in nats a label."""

    loss: Tensor


def find_obstacle(model: Any) -> str:
    """Why this model cannot be sped up on this machine, "" where it can."""
    config = model.config
    if config.model_type not in MODEL_TYPES:
        return f"models of type {config.model_type}"
    if next(model.parameters()).device.type != "cpu":
        return "a GPU"
    if not _has_int8_products():
        return "a processor without fast 8-bit products"
    if config.hidden_act != "silu" or getattr(config, "attention_dropout", 0):
        return "an activation or a dropout that is not implemented"
    if _find_rope_type(config) not in ("default", "llama3", "linear"):
        return "a rotary embedding that depends on the length"
    lora = {id(p) for pair in _list_pairs(model) if pair is not None for p in pair.matrices}
    if not lora or any(p.requires_grad and id(p) not in lora for p in model.parameters()):
        return "another method than LoRA in the layers"
    return "" if all(pair is None or pair.is_plain for pair in _list_pairs(model)) else "a variant of LoRA"


@contextmanager
def speed_up(model: Any, threads: int | None = None, *, compiled: bool = False) -> Iterator[None]:
    """Let the model compute in `threads` threads (all by default), one example each, until the end.

    With `compiled` the element-wise parts are compiled where that can be done: worth it for long trainings.

    The loss differs a little from that of float32: its frozen matrices have 8 bits.
    """
    before, threads = torch.get_num_threads(), threads or torch.get_num_threads()
    if compiled:
        compile_kernels()
    torch.set_num_threads(1)
    with ThreadPoolExecutor(threads, initializer=torch.set_num_threads, initargs=(1,)) as pool:
        vars(model)["forward"] = _FastModel(model, Int8Product, torch.bfloat16, pool).forward
        try:
            yield
        finally:
            del vars(model)["forward"]
            torch.set_num_threads(before)


@functools.cache
def _has_int8_products() -> bool:
    """Whether whole-number products are there and faster than those in float32.

    The fastest of several calls counts: on a busy machine others wait for their turn.
    """
    import time

    x, w = torch.ones(128, 576, dtype=torch.int8), torch.ones(1536, 576, dtype=torch.int8)
    y, v = x.float(), w.float()
    try:
        seconds = []
        for multiply, left, right in ((torch._int_mm, x, w), (torch.mm, y, v)):
            taken = []
            for _ in range(20):
                start = time.perf_counter()
                multiply(left, right.t())
                taken.append(time.perf_counter() - start)
            seconds.append(min(taken))
    except (RuntimeError, AttributeError, NotImplementedError):
        return False
    return seconds[0] < seconds[1]


def _find_rope_type(config: Any) -> str:
    rope = getattr(config, "rope_parameters", None) or getattr(config, "rope_scaling", None) or {}
    return str(rope.get("rope_type", "default"))


class _LoraPair(NamedTuple):
    """A linear layer of PEFT's: its two matrices, LoRA's scale, and whether it is nothing but that."""

    matrices: tuple[nn.Parameter, nn.Parameter]
    scale: float
    is_plain: bool

    @property
    def is_trained(self) -> bool:
        """Whether it is to have gradients."""
        return any(matrix.requires_grad for matrix in self.matrices)


def _read_pair(module: Any) -> _LoraPair | None:
    if not hasattr(module, "lora_A"):
        return None
    [name] = module.active_adapters if len(module.active_adapters) == 1 else [""]
    if name not in module.lora_A:
        return None
    a, b = module.lora_A[name], module.lora_B[name]
    plain = isinstance(module.lora_dropout[name], nn.Identity) and b.bias is None
    plain = plain and not module.merged and not getattr(module, "use_dora", {}).get(name, False)
    return _LoraPair((a.weight, b.weight), float(module.scaling[name]), plain)


def _list_layers(model: Any) -> Sequence[nn.Module]:
    layers: Sequence[nn.Module] = model.get_decoder().layers
    return layers


def _list_pairs(model: Any) -> list[_LoraPair | None]:
    """The updates of all layers, in the order of `_GROUPS`."""
    return [
        _read_pair(layer.get_submodule(name))
        for layer in _list_layers(model)
        for group in _GROUPS
        for name in group
    ]


def _read_frozen_weight(linear: Any) -> Tensor:
    """The matrix of a linear layer, with its update in it unless that is trained."""
    pair = _read_pair(linear)
    weight: Tensor = getattr(linear, "base_layer", linear).weight.detach()
    if pair is None or pair.is_trained:
        return weight
    a, b = (matrix.detach().float() for matrix in pair.matrices)
    return weight + pair.scale * (b @ a)


class _FastModel:
    """The frozen model in the form that `apply_layer` reads, and the updates that are trained."""

    def __init__(
        self,
        model: Any,
        product: type[Int8Product] | type[PlainProduct],
        dtype: torch.dtype,
        pool: Any = None,
    ) -> None:
        decoder, config = model.get_decoder(), model.config
        head = getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads
        self.shape = LayerShape(
            config.num_attention_heads, config.num_key_value_heads, head, config.rms_norm_eps
        )
        self.dtype, self.pool = dtype, pool
        self.embedding = decoder.embed_tokens.weight.detach().to(dtype)
        tied = model.get_output_embeddings().weight is decoder.embed_tokens.weight
        self.output = self.embedding if tied else model.get_output_embeddings().weight.detach().to(dtype)
        self.norm = decoder.norm.weight.detach().to(dtype)
        self.frequencies = decoder.rotary_emb.inv_freq.detach().float()
        self.amplitude = float(getattr(decoder.rotary_emb, "attention_scaling", 1.0))
        self.layers = [self._freeze_layer(layer, product) for layer in decoder.layers]
        self.pairs = [pair if pair is not None and pair.is_trained else None for pair in _list_pairs(model)]

    def _freeze_layer(self, layer: Any, product: type[Int8Product] | type[PlainProduct]) -> FrozenLayer:
        groups = []
        for names in _GROUPS:
            linears = [layer.get_submodule(name) for name in names]
            plain = [getattr(one, "base_layer", one) for one in linears]
            biases = [one.bias.detach() for one in plain if one.bias is not None]
            bias = torch.cat(biases).to(self.dtype) if len(biases) == len(plain) else None
            weight = torch.cat([_read_frozen_weight(one) for one in linears]).to(
                torch.float32 if product is Int8Product else self.dtype
            )
            base: FrozenProduct = product(weight, bias)
            groups.append(LinearGroup(base, [len(one.weight) for one in plain]))
        norms = (layer.input_layernorm, layer.post_attention_layernorm)
        return FrozenLayer(self.shape, *(norm.weight.detach().to(self.dtype) for norm in norms), *groups)

    def forward(
        self, input_ids: Tensor, attention_mask: Tensor, shift_labels: Tensor, **_: object
    ) -> FastLoss:
        """The loss of a batch of `PromptedExamples`; its gradients are computed here already."""
        counts = (shift_labels != -100).sum(1).tolist()
        rows = [
            (ids[mask.bool()], count)
            for ids, mask, count in zip(input_ids, attention_mask, counts, strict=True)
        ]
        targets = [labels[labels != -100] for labels in shift_labels]
        trained = [p for pair in self.pairs if pair is not None for p in pair.matrices]
        gradients = torch.is_grad_enabled()
        loss: Tensor = _BatchLoss.apply(self, rows, targets, gradients, *trained)  # type: ignore[no-untyped-call]
        return FastLoss(loss)

    def measure_batch(
        self, rows: Sequence[tuple[Tensor, int]], targets: Sequence[Tensor], gradients: bool
    ) -> tuple[Tensor, list[Tensor]]:
        """Mean nats a label, and (with `gradients`) the gradient of each trained matrix."""
        work = [(ids, target, gradients) for (ids, _), target in zip(rows, targets, strict=True)]
        run = self.pool.map if self.pool is not None else map
        total = sum(count for _, count in rows)
        loss, sums = torch.zeros(()), list[Tensor]()
        for nats, grads in run(lambda one: self._measure_example(*one), work):
            loss += nats
            if sums:
                torch._foreach_add_(sums, grads)
            sums = sums or grads
        if sums:
            torch._foreach_div_(sums, total)
        return loss / total, sums

    def _measure_example(self, ids: Tensor, target: Tensor, gradients: bool) -> tuple[Tensor, list[Tensor]]:
        with torch.set_grad_enabled(gradients), torch.autocast("cpu", enabled=False):
            copies = [self._copy_pair(pair, gradients) for pair in self.pairs]
            nats = self._compute_nats(ids, target, copies)
            if not gradients:
                return nats, []
            flat = [matrix for copy in copies if copy is not None for matrix in copy]
            grads = torch.autograd.grad(nats, flat)
        scales = [scale for pair in self.pairs if pair is not None for scale in (pair.scale, 1.0)]
        return nats.detach(), [grad.float() * scale for grad, scale in zip(grads, scales, strict=True)]

    def _copy_pair(self, pair: _LoraPair | None, gradients: bool) -> tuple[Tensor, Tensor] | None:
        """The matrices in the precision that is computed in, A with LoRA's scale in it."""
        if pair is None:
            return None
        a, b = (matrix.detach() for matrix in pair.matrices)
        low = ((a * pair.scale).to(self.dtype), b.to(self.dtype, copy=True))
        return low[0].requires_grad_(gradients), low[1].requires_grad_(gradients)

    def _compute_nats(self, ids: Tensor, target: Tensor, copies: Low) -> Tensor:
        """The sum of the nats of the last `target` tokens, each given all ids up to its place."""
        angle = torch.arange(len(ids)).float()[:, None, None] * self.frequencies
        angles = tuple((self.amplitude * part).to(self.dtype) for part in (angle.cos(), angle.sin()))
        x, given = self.embedding[ids], iter(copies)
        for number, layer in enumerate(self.layers):
            lows = [[next(given) for _ in names] for names in _GROUPS]
            last = number == len(self.layers) - 1
            x = apply_layer(x, layer, lows, angles, len(ids) - len(target) if last else 0)
        x = _Norm.apply(x, self.norm, self.shape.eps)  # type: ignore[no-untyped-call]
        logits = (x @ self.output.t()).float()
        return torch.nn.functional.cross_entropy(logits, target, reduction="sum")


class _Norm(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, eps: float) -> Tensor:
        found, factor = KERNELS.norm(x, weight, eps)
        ctx.save_for_backward(x, weight, factor)
        return found

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        x, weight, factor = ctx.saved_tensors
        return KERNELS.norm_back(grads[0], x, weight, factor), None, None


class _BatchLoss(torch.autograd.Function):
    """The loss of a batch as a function of the trained matrices, whose gradients it computes at once."""

    @staticmethod
    def forward(
        ctx: Any, model: _FastModel, rows: Any, targets: Any, gradients: bool, *trained: Tensor
    ) -> Tensor:
        loss, grads = model.measure_batch(rows, targets, gradients)
        ctx.save_for_backward(*grads)
        return loss

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        return None, None, None, None, *(found * grads[0] for found in ctx.saved_tensors)
