"""A Llama with a frozen base and trainable low-rank updates (LoRA), fast on one CPU core.

The base is frozen, so no gradient of a large matrix is ever computed. One example is one sequence without
padding: `[tokens, width]` matrices throughout. The last layer and the head are computed where a message token
is predicted and nowhere else.
"""

from __future__ import annotations

import json
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

PARTS = {
    "qkv": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "o": ("self_attn.o_proj",),
    "up": ("mlp.gate_proj", "mlp.up_proj"),
    "down": ("mlp.down_proj",),
}
"""The matrices of a layer that read the same input are multiplied at once."""


@dataclass(frozen=True, slots=True)
class Shape:
    """The sizes of a Llama, as its config names them."""

    layers: int
    width: int
    heads: int
    kv_heads: int
    inner: int
    theta: float
    eps: float

    @classmethod
    def read(cls, folder: Path) -> Shape:
        """The sizes from a folder's `config.json`."""
        config = json.loads((folder / "config.json").read_text())
        rope = config.get("rope_parameters") or config
        return cls(
            config["num_hidden_layers"],
            config["hidden_size"],
            config["num_attention_heads"],
            config["num_key_value_heads"],
            config["intermediate_size"],
            float(rope["rope_theta"]),
            config["rms_norm_eps"],
        )

    @property
    def head(self) -> int:
        """The width of one attention head."""
        return self.width // self.heads


class Frozen(nn.Module):
    """A frozen matrix `[out, in]`, multiplied in bf16 or fp32."""

    def __init__(self, weight: Tensor, dtype: torch.dtype) -> None:
        super().__init__()
        self.register_buffer("weight", weight.to(dtype).contiguous(), persistent=False)

    weight: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """`x` times the matrix."""
        return nn.functional.linear(x, self.weight)


class _Int8Product(torch.autograd.Function):
    """Products of whole numbers: rows of the input and of the matrix are scaled to -127..127."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
        ctx.save_for_backward(codes, scales)
        return _product(x, codes.t(), scales)

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, None, None]:
        codes, scales = ctx.saved_tensors
        return _product_backward(grads[0], codes, scales), None, None


def _quantise(x: Tensor) -> tuple[Tensor, Tensor]:
    x = x.float()
    scale = x.abs().amax(-1, keepdim=True).clamp_min(1e-20) / 127
    return (x / scale).round().to(torch.int8), scale


def _rescale(y: Tensor, rows: Tensor, columns: Tensor) -> Tensor:
    return (y.float() * rows * columns).to(torch.bfloat16)


def _scaled(g: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    return _quantise(g.float() * columns)


def _rescale_rows(y: Tensor, rows: Tensor) -> Tensor:
    return (y.float() * rows).to(torch.bfloat16)


def _product(x: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    q, rows = KERNELS["quantise"](x)
    y: Tensor = KERNELS["rescale"](torch._int_mm(q, codes), rows, scales)
    return y


def _product_backward(g: Tensor, codes: Tensor, scales: Tensor) -> Tensor:
    q, rows = KERNELS["scaled"](g, scales)
    y: Tensor = KERNELS["rescale_rows"](torch._int_mm(q, codes), rows)
    return y


class FrozenInt8(nn.Module):
    """A frozen matrix of whole numbers with one scale a row; its input is scaled row by row as well."""

    def __init__(self, weight: Tensor) -> None:
        super().__init__()
        codes, scales = _quantise(weight)
        self.register_buffer("codes", codes, persistent=False)
        self.register_buffer("scales", scales.reshape(1, -1).contiguous(), persistent=False)

    codes: Tensor
    scales: Tensor

    def forward(self, x: Tensor) -> Tensor:
        """`x` times the matrix."""
        return _Int8Product.apply(x, self.codes, self.scales)  # type: ignore[no-any-return,no-untyped-call]


def _norm(x: Tensor, weight: Tensor, eps: float) -> Tensor:
    wide = x.float()
    return (wide * torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)).to(x.dtype) * weight


def _gated(both: Tensor) -> Tensor:
    gate, up = both.chunk(2, -1)
    return nn.functional.silu(gate) * up


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of `[tokens, heads, head]`."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


def _probabilities(scores: Tensor, first: int) -> Tensor:
    """Softmax of `[heads, group, queries, keys]`, where query `i` sees the keys up to `first + i`."""
    n, m = scores.shape[-2:]
    seen = torch.arange(m)[None, :] <= torch.arange(n)[:, None] + first
    wide = torch.where(seen, scores.float(), float("-inf"))
    wide = (wide - wide.amax(-1, keepdim=True)).exp()
    return (wide / wide.sum(-1, keepdim=True)).to(scores.dtype)


def _score_grads(p: Tensor, grad: Tensor) -> Tensor:
    """Gradient of the scores from that of the probabilities."""
    product = p.float() * grad.float()
    return (product - p.float() * product.sum(-1, keepdim=True)).to(p.dtype)


class _Attention(torch.autograd.Function):
    """Causal attention in blocks of queries; several query heads read one head of keys.

    Several times as fast on a CPU as the fused operator, whose backward pass is slow in bf16.
    """

    @staticmethod
    def forward(ctx: Any, q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        out, saved = _attend(q, k, v)
        ctx.save_for_backward(q, k, v, *saved)
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        q, k, v, *saved = ctx.saved_tensors
        return _attend_backward(grads[0], q, k, v, saved)


def _attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What causal attention reads, and the probabilities of each block."""
    outs, saved = [], []
    for start in range(0, q.shape[2], BLOCK):
        block = q[:, :, start : start + BLOCK]
        end = start + block.shape[2]
        p = KERNELS["probabilities"](_multiply_grouped(block, k[:, :end].transpose(1, 2)), start)
        outs.append(_multiply_grouped(p, v[:, :end]))
        saved.append(p)
    return torch.cat(outs, 2), saved


def _attend_backward(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, saved: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    dk, dv = (
        torch.zeros_like(k, dtype=torch.float32),
        torch.zeros_like(v, dtype=torch.float32),
    )
    dq = []
    for start, p in zip(range(0, q.shape[2], BLOCK), saved, strict=True):
        end = start + p.shape[2]
        block, part = q[:, :, start:end], grad[:, :, start:end]
        ds = KERNELS["score_grads"](p, _multiply_grouped(part, v[:, :end].transpose(1, 2)))
        dq.append(_multiply_grouped(ds, k[:, :end]))
        dk[:, :end] += torch.bmm(ds.flatten(1, 2).transpose(1, 2), block.flatten(1, 2))
        dv[:, :end] += torch.bmm(p.flatten(1, 2).transpose(1, 2), part.flatten(1, 2))
    return torch.cat(dq, 2), dk.to(k.dtype), dv.to(v.dtype)


BLOCK = 128
"""Queries that attend at once; keys after the last of them are not looked at."""


def _multiply_grouped(x: Tensor, y: Tensor) -> Tensor:
    """`[heads, group, n, a]` times `[heads, a, b]`."""
    return torch.bmm(x.flatten(1, 2), y).view(*x.shape[:3], y.shape[-1])


def _norm_quantised(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """The normed rows, the same as whole numbers with their scales, and the factor that normed each."""
    wide = x.float()
    factor = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    h = (wide * factor).to(x.dtype) * weight
    return h, *_quantise(h), factor


def _norm_back(grad: Tensor, x: Tensor, weight: Tensor, factor: Tensor, beside: Tensor) -> Tensor:
    """Gradient of a norm's input, added to what flows beside the norm."""
    straight = x.float() * factor
    g = grad.float() * weight.float()
    g = factor * (g - straight * (g * straight).mean(-1, keepdim=True))
    return (g + beside.float()).to(x.dtype)


def _gated_quantised(both: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    g = _gated(both)
    return g, *_quantise(g)


def _gated_back(grad: Tensor, both: Tensor, columns: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Gradient of both halves, and the same scaled by the columns of the matrix before, as whole numbers."""
    gate, up = both.float().chunk(2, -1)
    wide = grad.float()
    soft = torch.sigmoid(gate)
    d_gate, d_up = wide * up * soft * (1 + gate * (1 - soft)), wide * gate * soft
    found = torch.cat([d_gate, d_up], -1).to(both.dtype)
    return found, *_scaled(found, columns)


def _rotate_heads(
    qkv: Tensor, cos: Tensor, sin: Tensor, queries: int, heads: int
) -> tuple[Tensor, Tensor, Tensor]:
    """Queries (turned and scaled), keys (turned) and values of `[tokens, heads, head]`, heads first."""
    turned = _rotate(qkv[:, :heads], cos, sin).transpose(0, 1)
    scaled = turned[:queries] * qkv.shape[-1] ** -0.5
    return (
        scaled.contiguous(),
        turned[queries:].contiguous(),
        qkv[:, heads:].transpose(0, 1).contiguous(),
    )


def _turn_backward(q: Tensor, k: Tensor, v: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Gradient of what `_rotate_heads` was given, from those of what it gave."""
    turned = torch.cat([q * q.shape[-1] ** -0.5, k]).transpose(0, 1)
    return torch.cat([_rotate(turned, cos, -sin), v.transpose(0, 1)], 1).flatten(1)


def _rescale_onto(y: Tensor, rows: Tensor, columns: Tensor, onto: Tensor) -> Tensor:
    return (y.float() * rows * columns + onto.float()).to(onto.dtype)


KERNELS: dict[str, Any] = {
    "probabilities": _probabilities,
    "score_grads": _score_grads,
    "norm": _norm,
    "gated": _gated,
    "rotate": _rotate,
    "quantise": _quantise,
    "rescale": _rescale,
    "scaled": _scaled,
    "rescale_rows": _rescale_rows,
    "norm_quantised": _norm_quantised,
    "norm_back": _norm_back,
    "gated_quantised": _gated_quantised,
    "gated_back": _gated_back,
    "turn": _rotate_heads,
    "turn_back": _turn_backward,
    "rescale_onto": _rescale_onto,
}
"""The element-wise parts; `fuse` has each compiled into one loop."""


def fuse() -> None:
    """Compile the element-wise parts, each into one loop over its input (needs a C++ compiler)."""
    for name, kernel in list(KERNELS.items()):
        KERNELS[name] = torch.compile(kernel, dynamic=True)


class Update(nn.Module):
    """The low-rank updates of matrices that read the same input, side by side.

    `low` is the copy in bf16 that a batch works with: the first matrix with the scale in it, then the others.
    """

    def __init__(self, inputs: int, outputs: list[int], rank: int, scale: float) -> None:
        super().__init__()
        self.rank, self.scale = rank, scale
        self.a = nn.Parameter(torch.empty(rank * len(outputs), inputs))
        self.b = nn.ParameterList(nn.Parameter(torch.zeros(n, rank)) for n in outputs)
        self.low: list[Tensor] = []
        nn.init.kaiming_uniform_(self.a, a=math.sqrt(5))

    def begin(self, dtype: torch.dtype) -> None:
        """Make the working copy."""
        with torch.no_grad():
            copies = [(self.a * self.scale).to(dtype), *(b.to(dtype) for b in self.b)]
        self.low = [copy.requires_grad_() for copy in copies]

    def end(self) -> None:
        """Hand the gradients of the working copy on to the parameters."""
        for parameter, copy, scale in zip([self.a, *self.b], self.low, [self.scale, 1, 1, 1], strict=False):
            if copy.grad is not None:
                parameter.grad = copy.grad.float() * scale
        self.low = []

    def forward(self, x: Tensor) -> Tensor:
        """What is added to the frozen product."""
        a, *bs = self.low
        parts = torch.split(nn.functional.linear(x, a), self.rank, -1)
        return torch.cat([nn.functional.linear(p, b) for p, b in zip(parts, bs, strict=True)], -1)


class Linear(nn.Module):
    """Frozen matrices and their update."""

    def __init__(self, weights: list[Tensor], rank: int, scale: float, kind: str) -> None:
        super().__init__()
        joined = torch.cat(weights)
        dtype = torch.float32 if kind == "fp32" else torch.bfloat16
        self.base = FrozenInt8(joined) if kind == "int8" else Frozen(joined, dtype)
        self.update = Update(joined.shape[1], [len(w) for w in weights], rank, scale) if rank else None

    def forward(self, x: Tensor) -> Tensor:
        """The product with the matrices as they are now."""
        y: Tensor = self.base(x)
        return y if self.update is None else y + self.update(x)


def _add_low(y: Tensor, x: Tensor, low: Sequence[Tensor]) -> Tensor:
    """Add a low-rank update of `x` to `y` in place; what lies between both matrices is given back."""
    a, *bs = low
    middle = x @ a.t()
    at, rank = 0, bs[0].shape[1]
    for i, b in enumerate(bs):
        y[:, at : at + len(b)] += middle[:, i * rank : (i + 1) * rank] @ b.t()
        at += len(b)
    return middle


def _add_low_backward(
    grad: Tensor, dx: Tensor, x: Tensor, middle: Tensor, low: Sequence[Tensor]
) -> tuple[Tensor, list[Tensor]]:
    """`dx` with the part that comes through a low-rank update, and the gradients of its matrices."""
    a, *bs = low
    at, rank = 0, bs[0].shape[1]
    d_bs, d_middle = [], []
    for i, b in enumerate(bs):
        part = grad[:, at : at + len(b)]
        d_bs.append(part.t() @ middle[:, i * rank : (i + 1) * rank])
        d_middle.append(part @ b)
        at += len(b)
    whole = d_middle[0] if len(bs) == 1 else torch.cat(d_middle, -1)
    return torch.addmm(dx, whole, a), [whole.t() @ x, *d_bs]


class _Int8Layer(torch.autograd.Function):
    """A whole layer at once, with products of whole numbers; its backward pass is written out.

    A third faster than leaving it to autograd, which would go through every matrix several times more.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: Layer, cos: Tensor, sin: Tensor, *low: Tensor) -> Tensor:
        k, shape = KERNELS, layer.shape
        qkv, o, up, down = (getattr(layer, name).base for name in PARTS)
        lows = low[:4], low[4:6], low[6:9], low[9:11]
        h, codes, rows, factor = k["norm_quantised"](x, layer.first, shape.eps)
        y = k["rescale"](torch._int_mm(codes, qkv.codes.t()), rows, qkv.scales)
        middle = [_add_low(y, h, lows[0])]
        heads = shape.heads + shape.kv_heads
        q, key, v = k["turn"](y.view(len(x), -1, shape.head), cos, sin, shape.heads, heads)
        q = q.view(shape.kv_heads, -1, len(x), shape.head)
        read, saved = _attend(q, key, v)
        read = read.view(shape.heads, len(x), shape.head).transpose(0, 1).reshape(len(x), -1)
        codes, rows = k["quantise"](read)
        between = k["rescale_onto"](torch._int_mm(codes, o.codes.t()), rows, o.scales, x)
        middle.append(_add_low(between, read, lows[1]))
        h2, codes, rows, factor2 = k["norm_quantised"](between, layer.second, shape.eps)
        both = k["rescale"](torch._int_mm(codes, up.codes.t()), rows, up.scales)
        middle.append(_add_low(both, h2, lows[2]))
        g, codes, rows = k["gated_quantised"](both)
        out: Tensor = k["rescale_onto"](torch._int_mm(codes, down.codes.t()), rows, down.scales, between)
        middle.append(_add_low(out, g, lows[3]))
        ctx.layer = layer
        ctx.save_for_backward(
            x,
            h,
            factor,
            q,
            key,
            v,
            read,
            between,
            h2,
            factor2,
            both,
            g,
            cos,
            sin,
            *middle,
            *low,
            *saved,
        )
        return out

    @staticmethod
    def backward(ctx: Any, *grads: Tensor) -> tuple[Tensor | None, ...]:
        k, layer = KERNELS, ctx.layer
        qkv, o, up, down = (getattr(layer, name).base for name in PARTS)
        (
            x,
            h,
            factor,
            q,
            key,
            v,
            read,
            between,
            h2,
            factor2,
            both,
            g,
            cos,
            sin,
            *rest,
        ) = ctx.saved_tensors
        middle, low, saved = rest[:4], rest[4:15], rest[15:]
        lows = low[:4], low[4:6], low[6:9], low[9:11]
        grad = grads[0].contiguous()
        dg, d_down = _add_low_backward(
            grad, _product_backward(grad, down.codes, down.scales), g, middle[3], lows[3]
        )
        d_both, codes, rows = k["gated_back"](dg, both, up.scales)
        dh2 = k["rescale_rows"](torch._int_mm(codes, up.codes), rows)
        dh2, d_up = _add_low_backward(d_both, dh2, h2, middle[2], lows[2])
        grad = k["norm_back"](dh2, between, layer.second, factor2, grad)
        d_read, d_o = _add_low_backward(
            grad, _product_backward(grad, o.codes, o.scales), read, middle[1], lows[1]
        )
        d_read = d_read.view(len(x), *q.shape[:2], -1).permute(1, 2, 0, 3).contiguous()
        dq, dk, dv = _attend_backward(d_read, q, key, v, saved)
        d_qkv = k["turn_back"](dq.flatten(0, 1), dk, dv, cos, sin)
        dh, d_first = _add_low_backward(
            d_qkv, _product_backward(d_qkv, qkv.codes, qkv.scales), h, middle[0], lows[0]
        )
        dx: Tensor = k["norm_back"](dh, x, layer.first, factor, grad)
        return dx, None, None, None, *d_first, *d_o, *d_up, *d_down


class Layer(nn.Module):
    """Attention and feed-forward."""

    first: Tensor
    second: Tensor
    qkv: Linear
    o: Linear
    up: Linear
    down: Linear

    def __init__(
        self,
        weights: dict[str, Tensor],
        shape: Shape,
        rank: int,
        scale: float,
        kind: str,
    ) -> None:
        super().__init__()
        self.shape = shape
        self.whole = kind == "int8" and rank > 0
        dtype = torch.float32 if kind == "fp32" else torch.bfloat16
        for name, parts in PARTS.items():
            self.add_module(name, Linear([weights[f"{p}.weight"] for p in parts], rank, scale, kind))
        self.register_buffer("first", weights["input_layernorm.weight"].to(dtype), persistent=False)
        self.register_buffer(
            "second",
            weights["post_attention_layernorm.weight"].to(dtype),
            persistent=False,
        )

    def forward(self, x: Tensor, cos: Tensor, sin: Tensor, at: Tensor | None = None) -> Tensor:
        """The hidden states after this layer; with `at`, of these positions only."""
        if at is None and self.whole:
            low = [matrix for name in PARTS for matrix in getattr(self, name).update.low]
            return _Int8Layer.apply(x, self, cos, sin, *low)  # type: ignore[no-any-return,no-untyped-call]
        shape = self.shape
        h = KERNELS["norm"](x, self.first, shape.eps)
        qkv = self.qkv(h).view(len(x), shape.heads + 2 * shape.kv_heads, shape.head)
        turned = KERNELS["rotate"](qkv[:, : shape.heads + shape.kv_heads], cos, sin)
        q, k = turned.split((shape.heads, shape.kv_heads), 1)
        v = qkv[:, shape.heads + shape.kv_heads :]
        q, k, v = q.transpose(0, 1), k.transpose(0, 1), v.transpose(0, 1)
        if at is not None:
            q, x = q[:, at], x[at]
        group = shape.heads // shape.kv_heads
        q = q.reshape(shape.kv_heads, group, len(x), shape.head) * shape.head**-0.5
        o = self._attend(q, k, v, at).reshape(shape.heads, len(x), shape.head)
        x = x + self.o(o.transpose(0, 1).reshape(len(x), -1))
        h = KERNELS["norm"](x, self.second, shape.eps)
        done: Tensor = x + self.down(KERNELS["gated"](self.up(h)))
        return done

    def _attend(self, q: Tensor, k: Tensor, v: Tensor, at: Tensor | None) -> Tensor:
        if at is None:
            return _Attention.apply(q, k, v)  # type: ignore[no-any-return,no-untyped-call]
        scores = _multiply_grouped(q, k.transpose(1, 2)).float()
        hidden = torch.arange(k.shape[1])[None, :] > at[:, None]
        return _multiply_grouped(scores.masked_fill(hidden, float("-inf")).softmax(-1).to(q.dtype), v)


class Llama(nn.Module):
    """A frozen Llama with trainable updates in its layers from `first` on."""

    def __init__(self, folder: Path, rank: int, alpha: float, kind: str = "bf16", first: int = 0) -> None:
        super().__init__()
        self.shape = shape = Shape.read(folder)
        state = load_file(folder / "model.safetensors")
        self.dtype = torch.float32 if kind == "fp32" else torch.bfloat16
        self.register_buffer("words", state["model.embed_tokens.weight"].to(self.dtype), persistent=False)
        self.register_buffer("last", state["model.norm.weight"].to(self.dtype), persistent=False)
        scale = alpha / rank
        self.layers = nn.ModuleList()
        for i in range(shape.layers):
            prefix = f"model.layers.{i}."
            weights = {k[len(prefix) :]: v for k, v in state.items() if k.startswith(prefix)}
            self.layers.append(Layer(weights, shape, rank if i >= first else 0, scale, kind))

    words: Tensor
    last: Tensor

    def angles(self, n: int) -> tuple[Tensor, Tensor]:
        """Cosines and sines of the rotary embedding for `n` positions: `[n, 1, head / 2]` each."""
        half = torch.arange(0, self.shape.head, 2).float() / self.shape.head
        angle = torch.arange(n).float()[:, None, None] * (1 / self.shape.theta**half)
        return angle.cos().to(self.dtype), angle.sin().to(self.dtype)

    def loss(self, ids: Tensor, start: int) -> Tensor:
        """Sum of the nats of `ids[start:]`, each given everything before it."""
        at = torch.arange(start - 1, len(ids) - 1)
        cos, sin = self.angles(len(ids) - 1)
        x = self.words[ids[:-1]]
        for i, layer in enumerate(self.layers):
            x = layer(x, cos, sin, at if i == len(self.layers) - 1 else None)
        x = KERNELS["norm"](x, self.last, self.shape.eps)
        return cross_entropy((x @ self.words.t()).float(), ids[start:], reduction="sum")

    def begin(self) -> None:
        """Before a batch, and after every change of the parameters: make the copies that it works with."""
        for update in self.updates():
            update.begin(self.dtype)

    def end(self) -> None:
        """After a batch: hand its gradients to the parameters."""
        for update in self.updates():
            update.end()

    def updates(self) -> Iterator[Update]:
        """All low-rank updates."""
        return (module for module in self.modules() if isinstance(module, Update))

    def adapter(self) -> dict[str, Tensor]:
        """The trained matrices under the names that peft gives them, as views of the parameters."""
        found: dict[str, Tensor] = {}
        for i, layer in enumerate(self.layers):
            for kind, parts in PARTS.items():
                update = getattr(layer, kind).update
                if update is None:
                    continue
                for part, a, b in zip(parts, update.a.split(update.rank), update.b, strict=True):
                    name = f"base_model.model.model.layers.{i}.{part}"
                    found |= {f"{name}.lora_A.weight": a, f"{name}.lora_B.weight": b}
        return found

    def load_adapter(self, state: dict[str, Tensor]) -> None:
        """Take over matrices that `adapter` gave."""
        with torch.no_grad():
            for name, view in self.adapter().items():
                view.copy_(state[name])
