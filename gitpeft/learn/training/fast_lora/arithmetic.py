"""Products with frozen matrices, and the element-wise parts of a layer, forward and backward.

One example at a time, without padding: matrices are (tokens, width), heads come first as (heads, tokens, W).
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import torch
from torch import Tensor

BLOCK = 128
"""Queries that attend at once; keys after the last of them are not looked at."""


class FrozenProduct(Protocol):
    """A frozen matrix (outputs, inputs) with its bias."""

    def multiply(self, x: Tensor) -> Tensor:
        """`x` (n, inputs) times the matrix, (n, outputs), in the type of `x`."""
        ...

    def multiply_back(self, grad: Tensor) -> Tensor:
        """The gradient (n, inputs) of `x` from that of the product."""
        ...


@dataclass(slots=True)
class PlainProduct:
    """A frozen matrix in the precision that it is given in."""

    weight: Tensor
    bias: Tensor | None = None

    def multiply(self, x: Tensor) -> Tensor:
        """See `FrozenProduct`."""
        return torch.nn.functional.linear(x, self.weight, self.bias)

    def multiply_back(self, grad: Tensor) -> Tensor:
        """See `FrozenProduct`."""
        return grad @ self.weight


class Int8Product:
    """A frozen matrix in 8 bits with a scale for each row.

    What it is multiplied by is rounded to 8 bits row by row as well, forward and backward.
    """

    def __init__(self, weight: Tensor, bias: Tensor | None = None) -> None:
        self.codes, scales = _quantise_rows(weight)
        self.scales = scales.reshape(1, -1).contiguous()
        self.bias = bias

    def multiply(self, x: Tensor) -> Tensor:
        """See `FrozenProduct`."""
        codes, rows = KERNELS.quantise_rows(x)
        found = KERNELS.rescale(torch._int_mm(codes, self.codes.t()), rows, self.scales, x.dtype)
        return found if self.bias is None else found + self.bias

    def multiply_back(self, grad: Tensor) -> Tensor:
        """See `FrozenProduct`."""
        codes, rows = KERNELS.quantise_scaled(grad, self.scales)
        return KERNELS.rescale_rows(torch._int_mm(codes, self.codes), rows, grad.dtype)


def _quantise_rows(x: Tensor) -> tuple[Tensor, Tensor]:
    """Rows as -127..127, and the scale (n, 1) of each."""
    wide = x.float()
    scale = wide.abs().amax(-1, keepdim=True).clamp_min(1e-20) / 127
    return (wide / scale).round().to(torch.int8), scale


def _quantise_scaled(grad: Tensor, columns: Tensor) -> tuple[Tensor, Tensor]:
    return _quantise_rows(grad.float() * columns)


def _rescale(found: Tensor, rows: Tensor, columns: Tensor, dtype: torch.dtype) -> Tensor:
    return (found.float() * rows * columns).to(dtype)


def _rescale_rows(found: Tensor, rows: Tensor, dtype: torch.dtype) -> Tensor:
    return (found.float() * rows).to(dtype)


# --- norm, gate, rotary embedding ---------------------------------------------------------------------------


def _norm(x: Tensor, weight: Tensor, eps: float) -> tuple[Tensor, Tensor]:
    """The root-mean-square norm of each row, and the factor (n, 1) that scaled it."""
    wide = x.float()
    factor = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + eps)
    return (wide * factor).to(x.dtype) * weight, factor


def _norm_back(grad: Tensor, x: Tensor, weight: Tensor, factor: Tensor) -> Tensor:
    straight = x.float() * factor
    wide = grad.float() * weight.float()
    return (factor * (wide - straight * (wide * straight).mean(-1, keepdim=True))).to(x.dtype)


def _gate(both: Tensor) -> Tensor:
    """SwiGLU: silu(first half) · second half."""
    gate, up = both.chunk(2, -1)
    return torch.nn.functional.silu(gate) * up


def _gate_back(grad: Tensor, both: Tensor) -> Tensor:
    gate, up = both.float().chunk(2, -1)
    wide, soft = grad.float(), torch.sigmoid(gate)
    d_gate, d_up = wide * up * soft * (1 + gate * (1 - soft)), wide * gate * soft
    return torch.cat([d_gate, d_up], -1).to(both.dtype)


def _rotate(x: Tensor, cos: Tensor, sin: Tensor) -> Tensor:
    """Rotary embedding of (tokens, heads, W); `cos` and `sin` are (tokens, 1, W / 2)."""
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, b * cos + a * sin], -1)


# --- causal attention ---------------------------------------------------------------------------------------


def _softmax_causal(scores: Tensor, first: int) -> Tensor:
    """Probabilities of (heads, group, queries, keys), where query `i` sees the keys up to `first + i`."""
    queries, keys = scores.shape[-2:]
    seen = torch.arange(keys)[None, :] <= torch.arange(queries)[:, None] + first
    wide = torch.where(seen, scores.float(), float("-inf"))
    wide = (wide - wide.amax(-1, keepdim=True)).exp()
    return (wide / wide.sum(-1, keepdim=True)).to(scores.dtype)


def _softmax_back(grad: Tensor, shares: Tensor) -> Tensor:
    product = shares.float() * grad.float()
    return (product - shares.float() * product.sum(-1, keepdim=True)).to(shares.dtype)


def attend(q: Tensor, k: Tensor, v: Tensor) -> tuple[Tensor, list[Tensor]]:
    """What the last queries (KV, group, m, W) read of keys and values (KV, n, W), and the attention by block.

    The last query sees all keys, the one before all but the last, and so on. Several times as fast on a CPU
    as the fused operator, whose backward pass is slow in bfloat16.
    """
    first, parts, kept = k.shape[1] - q.shape[2], [], []
    for start in range(0, q.shape[2], BLOCK):
        block = q[:, :, start : start + BLOCK]
        end = first + start + block.shape[2]
        shares = KERNELS.softmax_causal(_multiply_grouped(block, k[:, :end].transpose(1, 2)), first + start)
        parts.append(_multiply_grouped(shares, v[:, :end]))
        kept.append(shares)
    return torch.cat(parts, 2), kept


def attend_back(
    grad: Tensor, q: Tensor, k: Tensor, v: Tensor, kept: Sequence[Tensor]
) -> tuple[Tensor, Tensor, Tensor]:
    """Gradients of queries, keys and values."""
    dk = torch.zeros_like(k, dtype=torch.float32)
    dv, dq = torch.zeros_like(dk), []
    for start, shares in zip(range(0, q.shape[2], BLOCK), kept, strict=True):
        end = shares.shape[3]
        block, part = q[:, :, start : start + BLOCK], grad[:, :, start : start + BLOCK]
        d_scores = KERNELS.softmax_back(_multiply_grouped(part, v[:, :end].transpose(1, 2)), shares)
        dq.append(_multiply_grouped(d_scores, k[:, :end]))
        dk[:, :end] += torch.bmm(d_scores.flatten(1, 2).transpose(1, 2), block.flatten(1, 2))
        dv[:, :end] += torch.bmm(shares.flatten(1, 2).transpose(1, 2), part.flatten(1, 2))
    return torch.cat(dq, 2), dk.to(k.dtype), dv.to(v.dtype)


def _multiply_grouped(x: Tensor, y: Tensor) -> Tensor:
    """(heads, group, n, a) times (heads, a, b)."""
    return torch.bmm(x.flatten(1, 2), y).view(*x.shape[:3], y.shape[-1])


@dataclass(slots=True)
class Kernels:
    """The element-wise parts, which `compile_kernels` turns into one loop each."""

    quantise_rows: Callable[[Tensor], tuple[Tensor, Tensor]] = _quantise_rows
    quantise_scaled: Callable[[Tensor, Tensor], tuple[Tensor, Tensor]] = _quantise_scaled
    rescale: Callable[[Tensor, Tensor, Tensor, torch.dtype], Tensor] = _rescale
    rescale_rows: Callable[[Tensor, Tensor, torch.dtype], Tensor] = _rescale_rows
    norm: Callable[[Tensor, Tensor, float], tuple[Tensor, Tensor]] = _norm
    norm_back: Callable[[Tensor, Tensor, Tensor, Tensor], Tensor] = _norm_back
    gate: Callable[[Tensor], Tensor] = _gate
    gate_back: Callable[[Tensor, Tensor], Tensor] = _gate_back
    rotate: Callable[[Tensor, Tensor, Tensor], Tensor] = _rotate
    softmax_causal: Callable[[Tensor, int], Tensor] = _softmax_causal
    softmax_back: Callable[[Tensor, Tensor], Tensor] = _softmax_back


KERNELS = Kernels()


def compile_kernels() -> bool:
    """Compile the element-wise parts for the rest of the process; False where there is no C++ compiler.

    It takes half a minute, and saves a quarter of the time of a training.
    """
    plain = {name: getattr(KERNELS, name) for name in Kernels.__slots__}
    for name, kernel in plain.items():
        setattr(KERNELS, name, torch.compile(kernel, dynamic=True))
    try:
        KERNELS.norm(torch.ones(4, 8), torch.ones(8), 1e-5)
    except Exception:  # a missing compiler or header shows in a dozen classes
        for name, kernel in plain.items():
            setattr(KERNELS, name, kernel)
        return False
    return True
