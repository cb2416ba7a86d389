"""How every exported decoder attends: hides caches, masks, fused operators and bottlenecks.

Shapes: S source length, B hypotheses, T new tokens, P past tokens, E = P + T, N heads, H head width. The keys
and values of the source are never repeated: where a layer looks at it, all tokens of all hypotheses are one
long query.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import nn

from gitpeft.errors import GitpeftError
from gitpeft.learn.export.graph import FUSED, Graph

NEVER = -1e9
"""Added to the score of what must not be looked at."""

ACTIVATIONS = {"relu": ("", "Relu"), "gelu": (FUSED, "Gelu"), "gelu_new": (FUSED, "FastGelu")}
_SWISH = (FUSED, "QuickGelu")
_BOTTLENECK = {nn.ReLU: ("", "Relu"), nn.GELU: (FUSED, "Gelu"), nn.SiLU: _SWISH, nn.Tanh: ("", "Tanh")}


@dataclass(frozen=True, slots=True)
class Attention:
    """A layer's four projections; scores are multiplied with `scale`."""

    query: Any
    key: Any
    value: Any
    output: Any
    heads: int
    scale: float

    @property
    def inner(self) -> int:
        """Width of all heads together."""
        return int(self.query.weight.shape[0])

    @property
    def width(self) -> int:
        """Width of a head."""
        return self.inner // self.heads


class Batch:
    """The new tokens of all hypotheses, (1, B·T), and the bias and mask with which they look back.

    `past` and `end` are P and E, vectors of one number. `table` as in `bias`.
    """

    def __init__(self, graph: Graph, layers: int, attention: Attention, table: tuple[Any, int, int]) -> None:
        self._graph = graph
        tokens = graph.input("tokens", "int64", ["B", "T"])
        shape: list[int | str] = ["B", attention.heads, "P", attention.width]
        for number in range(layers):
            graph.input(f"past.{number}.key", "float", shape)
            graph.input(f"past.{number}.value", "float", shape)
        self.tokens = graph.reshape(tokens, 1, -1)
        self._shape = graph.op("Shape", tokens)
        self.past = graph.op("Shape", "past.0.key", start=2, end=3)
        self.end = graph.op("Add", self.past, graph.op("Shape", tokens, start=1))
        self.bias = bias(graph, self.past, self.end, table)

    def split(self, x: str, width: int) -> str:
        """(1, B·T, width) -> (B, T, width)."""
        shape = self._graph.op("Concat", self._shape, self._graph.ints(width), axis=0)
        return self._graph.op("Reshape", x, shape)

    def merged(self, x: str) -> str:
        """(1, T, width), the same for all hypotheses -> (1, B·T, width)."""
        size = self._graph.op("Concat", self._shape, self._graph.ints(1), axis=0)
        width = self._graph.op("Shape", x, start=2)
        repeated = self._graph.op("Expand", x, size)
        flat = self._graph.op("Concat", self._graph.ints(1, -1), width, axis=0)
        return self._graph.op("Reshape", repeated, flat)


def full(graph: Graph, x: str, attention: Attention, bias: str = "") -> str:
    """Attention of a sequence to itself; `bias` (1, N, S, S) is added to its scores."""
    query, key, value = projected(graph, x, (attention.query, attention.key, attention.value))
    return output(graph, _mixed(graph, [query, key, value, "", "", bias], attention), attention.output)


def cached(graph: Graph, x: str, attention: Attention, batch: Batch, number: int) -> str:
    """Attention of new tokens to the past and to themselves; the present becomes an output of the graph."""
    parts = projected(graph, x, (attention.query, attention.key, attention.value))
    query, key, value = (batch.split(part, attention.inner) for part in parts)
    inputs = [query, key, value, "", "", batch.bias, f"past.{number}.key", f"past.{number}.value"]
    mixed, key, value = graph.ops(
        "xkv",
        "MultiHeadAttention",
        *inputs,
        domain=FUSED,
        num_heads=attention.heads,
        scale=attention.scale,
    )
    shape: list[int | str] = ["B", attention.heads, "E", attention.width]
    graph.output(key, f"present.{number}.key", shape)
    graph.output(value, f"present.{number}.value", shape)
    return output(graph, graph.reshape(mixed, 1, -1, attention.inner), attention.output)


def cross(graph: Graph, x: str, attention: Attention, number: int) -> str:
    """Attention of new tokens to the source, whose keys and values are inputs of the graph."""
    shape: list[int | str] = [1, attention.heads, "S", attention.width]
    key, value = (graph.input(f"cross.{number}.{part}", "float", shape) for part in ("key", "value"))
    query = graph.linear(x, attention.query.weight, attention.query.bias)
    return output(graph, _mixed(graph, [query, key, value], attention), attention.output)


def cross_outputs(graph: Graph, states: str, attentions: Sequence[Attention]) -> None:
    """Keys and values of all layers, which are one multiplication of the encoder's states."""
    parts = projected(graph, states, [one for a in attentions for one in (a.key, a.value)])
    for number, attention in enumerate(attentions):
        for name, part in zip(("key", "value"), parts[2 * number :], strict=False):
            heads = graph.reshape(part, 1, -1, attention.heads, attention.width)
            split = graph.op("Transpose", heads, perm=[0, 2, 1, 3])
            shape: list[int | str] = [1, attention.heads, "S", attention.width]
            graph.output(split, f"cross.{number}.{name}", shape)


def projected(graph: Graph, x: str, linears: Sequence[Any]) -> list[str]:
    """Several projections of one input as one multiplication."""
    weights = [linear.weight for linear in linears]
    biases = None if linears[0].bias is None else torch.cat([linear.bias for linear in linears])
    joined = graph.linear(x, torch.cat(weights), biases)
    sizes = graph.ints(*(len(weight) for weight in weights))
    return graph.ops("x" * len(linears), "Split", joined, sizes, axis=-1)


def _mixed(graph: Graph, inputs: list[str], attention: Attention) -> str:
    return graph.fused("MultiHeadAttention", *inputs, num_heads=attention.heads, scale=attention.scale)


def output(graph: Graph, x: str, linear: Any) -> str:
    """A sublayer's last projection, and the bottlenecks behind it where the model has any."""
    hidden = graph.linear(x, linear.weight, linear.bias)
    for down, activation, up in getattr(linear, "stages", list)():
        inner = function(graph, graph.linear(hidden, down.weight, down.bias), _BOTTLENECK[type(activation)])
        hidden = graph.op("Add", hidden, graph.linear(inner, up.weight, up.bias))
    return hidden


def activated(graph: Graph, x: str, name: str) -> str:
    """An activation by the name that configurations have for it; GitpeftError for an unknown one."""
    if name not in ACTIVATIONS:
        known = ", ".join(ACTIVATIONS)
        raise GitpeftError(f"cannot export the activation {name}", f"known are {known}")
    return function(graph, x, ACTIVATIONS[name])


def function(graph: Graph, x: str, kind: tuple[str, str]) -> str:
    """An activation by its operator's domain and name."""
    domain, operator = kind
    factor = {"alpha": 1.0} if kind == _SWISH else {}  # x · sigmoid(alpha · x)
    return graph.op(operator, x, domain=domain, **factor)


def bias(graph: Graph, start: str, end: str, table: tuple[Any, int, int]) -> str:
    """Bias (1, N, end - start, end) of positions start..end looking at 0..end.

    `table` holds the bias (N, distances) of the distances low..high; beyond them it stays the same, as in T5.
    """
    values, low, high = table
    keys, queries = positions(graph, graph.ints(0), end), positions(graph, start, end)
    distance = graph.op("Sub", keys, graph.op("Unsqueeze", queries, graph.ints(1)))
    bounds = [graph.constant(np.array(bound, dtype=np.int64)) for bound in (low, high)]
    index = graph.op("Sub", graph.op("Clip", distance, *bounds), bounds[0])
    found = graph.op("Gather", graph.constant(values), index, axis=1)
    return graph.op("Unsqueeze", found, graph.ints(0))


def positions(graph: Graph, start: str, end: str) -> str:
    """The numbers from `start` to `end`, which are vectors of one number each."""
    one = graph.constant(np.array(1, dtype=np.int64), "one")
    return graph.op("Range", graph.op("Squeeze", start), graph.op("Squeeze", end), one)


def causal(heads: int) -> tuple[Any, int, int]:
    """A table for `bias` that knows nothing of distances but that what comes later is out of sight."""
    return np.tile(np.array([0.0, NEVER], dtype=np.float32), (heads, 1)), 0, 1
