"""Attention in exported graphs: caches, masks, fused operators, and bottlenecks behind projections.

Shapes: S source length, B hypotheses, T new tokens, P past tokens, E = P + T, N heads, H head width. The keys
and values of the source are never repeated: where a layer looks at it, all tokens of all hypotheses are one
long query.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import nn

from gitpeft.errors import GitpeftError
from gitpeft.learn.export.graph import FUSED_DOMAIN, FloatArray, OnnxGraph

MASKED_SCORE = -1e9
"""Added to the score of a position that is masked."""

DistanceBias = tuple[FloatArray, int, int]
"""Biases (heads, distances) of the relative distances low..high, and these two."""

ACTIVATION_OPERATORS = {
    "relu": ("", "Relu"),
    "gelu": (FUSED_DOMAIN, "Gelu"),
    "gelu_new": (FUSED_DOMAIN, "FastGelu"),
}
_SWISH_OPERATOR = (FUSED_DOMAIN, "QuickGelu")
_BOTTLENECK_OPERATORS = {
    nn.ReLU: ("", "Relu"),
    nn.GELU: (FUSED_DOMAIN, "Gelu"),
    nn.SiLU: _SWISH_OPERATOR,
    nn.Tanh: ("", "Tanh"),
}


@dataclass(frozen=True, slots=True)
class AttentionProjections:
    """A layer's four projections; scores are multiplied with `scale`."""

    query: nn.Linear
    key: nn.Linear
    value: nn.Linear
    output: nn.Linear
    heads: int
    scale: float

    @property
    def inner_width(self) -> int:
        """Width of all heads together."""
        return int(self.query.weight.shape[0])

    @property
    def head_width(self) -> int:
        """Width of a head."""
        return self.inner_width // self.heads


class HypothesisBatch:
    """The new tokens of all hypotheses, (1, B·T), and the bias and mask with which they look back.

    `past` and `end` are P and E, vectors of one number. `table` as in `add_position_bias`.
    """

    def __init__(
        self, graph: OnnxGraph, layers: int, attention: AttentionProjections, table: DistanceBias
    ) -> None:
        self._graph = graph
        tokens = graph.add_input("tokens", "int64", ["B", "T"])
        shape: list[int | str] = ["B", attention.heads, "P", attention.head_width]
        for number in range(layers):
            graph.add_input(f"past.{number}.key", "float", shape)
            graph.add_input(f"past.{number}.value", "float", shape)
        self.tokens = graph.add_reshape(tokens, 1, -1)
        self._shape = graph.add_node("Shape", tokens)
        self.past = graph.add_node("Shape", "past.0.key", start=2, end=3)
        self.end = graph.add_node("Add", self.past, graph.add_node("Shape", tokens, start=1))
        self.bias = add_position_bias(graph, self.past, self.end, table)

    def split_hypotheses(self, x: str, width: int) -> str:
        """(1, B·T, width) -> (B, T, width)."""
        shape = self._graph.add_node("Concat", self._shape, self._graph.add_ints(width), axis=0)
        return self._graph.add_node("Reshape", x, shape)

    def repeat_for_hypotheses(self, x: str) -> str:
        """(1, T, width), the same for all hypotheses -> (1, B·T, width)."""
        size = self._graph.add_node("Concat", self._shape, self._graph.add_ints(1), axis=0)
        width = self._graph.add_node("Shape", x, start=2)
        repeated = self._graph.add_node("Expand", x, size)
        flat = self._graph.add_node("Concat", self._graph.add_ints(1, -1), width, axis=0)
        return self._graph.add_node("Reshape", repeated, flat)


def add_self_attention(graph: OnnxGraph, x: str, attention: AttentionProjections, bias: str = "") -> str:
    """Attention of a sequence to itself; `bias` (1, N, S, S) is added to its scores."""
    query, key, value = project_jointly(graph, x, (attention.query, attention.key, attention.value))
    return add_output_projection(
        graph, _add_attention(graph, [query, key, value, "", "", bias], attention), attention.output
    )


def add_cached_attention(
    graph: OnnxGraph, x: str, attention: AttentionProjections, batch: HypothesisBatch, number: int
) -> str:
    """Attention of new tokens to the past and to themselves; the present becomes an output of the graph."""
    parts = project_jointly(graph, x, (attention.query, attention.key, attention.value))
    query, key, value = (batch.split_hypotheses(part, attention.inner_width) for part in parts)
    inputs = [query, key, value, "", "", batch.bias, f"past.{number}.key", f"past.{number}.value"]
    mixed, key, value = graph.add_multi_node(
        "xkv",
        "MultiHeadAttention",
        *inputs,
        domain=FUSED_DOMAIN,
        num_heads=attention.heads,
        scale=attention.scale,
    )
    shape: list[int | str] = ["B", attention.heads, "E", attention.head_width]
    graph.add_output(key, f"present.{number}.key", shape)
    graph.add_output(value, f"present.{number}.value", shape)
    return add_output_projection(
        graph, graph.add_reshape(mixed, 1, -1, attention.inner_width), attention.output
    )


def add_cross_attention(graph: OnnxGraph, x: str, attention: AttentionProjections, number: int) -> str:
    """Attention of new tokens to the source, whose keys and values are inputs of the graph."""
    shape: list[int | str] = [1, attention.heads, "S", attention.head_width]
    key, value = (graph.add_input(f"cross.{number}.{part}", "float", shape) for part in ("key", "value"))
    query = graph.add_linear(x, attention.query.weight, attention.query.bias)
    return add_output_projection(
        graph, _add_attention(graph, [query, key, value], attention), attention.output
    )


def add_cross_outputs(graph: OnnxGraph, states: str, attentions: Sequence[AttentionProjections]) -> None:
    """Keys and values of all layers, which are one multiplication of the encoder's states."""
    parts = project_jointly(graph, states, [one for a in attentions for one in (a.key, a.value)])
    for number, attention in enumerate(attentions):
        for name, part in zip(("key", "value"), parts[2 * number :], strict=False):
            heads = graph.add_reshape(part, 1, -1, attention.heads, attention.head_width)
            split = graph.add_node("Transpose", heads, perm=[0, 2, 1, 3])
            shape: list[int | str] = [1, attention.heads, "S", attention.head_width]
            graph.add_output(split, f"cross.{number}.{name}", shape)


def project_jointly(graph: OnnxGraph, x: str, linears: Sequence[nn.Linear]) -> list[str]:
    """Several projections of one input as one multiplication."""
    weights = [linear.weight for linear in linears]
    given = [bias for linear in linears if (bias := getattr(linear, "bias", None)) is not None]
    biases = torch.cat(given) if given else None
    joined = graph.add_linear(x, torch.cat(weights), biases)
    sizes = graph.add_ints(*(len(weight) for weight in weights))
    return graph.add_multi_node("x" * len(linears), "Split", joined, sizes, axis=-1)


def _add_attention(graph: OnnxGraph, inputs: list[str], attention: AttentionProjections) -> str:
    return graph.add_fused_node(
        "MultiHeadAttention", *inputs, num_heads=attention.heads, scale=attention.scale
    )


def add_output_projection(graph: OnnxGraph, x: str, linear: nn.Linear) -> str:
    """A sublayer's last projection, and the bottlenecks behind it where the model has any."""
    return add_bottlenecks(graph, graph.add_linear(x, linear.weight, linear.bias), linear)


def add_bottlenecks(graph: OnnxGraph, hidden: str, linear: nn.Linear) -> str:
    """The bottlenecks behind a projection whose result is `hidden`, where the model has any."""
    for down, activation, up in getattr(linear, "stages", list)():
        inner = add_activation_operator(
            graph, graph.add_linear(hidden, down.weight, down.bias), _BOTTLENECK_OPERATORS[type(activation)]
        )
        hidden = graph.add_node("Add", hidden, graph.add_linear(inner, up.weight, up.bias))
    return hidden


def add_named_activation(graph: OnnxGraph, x: str, name: str) -> str:
    """An activation by the name that configurations have for it; GitpeftError for an unknown one."""
    if name not in ACTIVATION_OPERATORS:
        known = ", ".join(ACTIVATION_OPERATORS)
        raise GitpeftError(f"cannot export the activation {name}", f"known are {known}")
    return add_activation_operator(graph, x, ACTIVATION_OPERATORS[name])


def add_activation_operator(graph: OnnxGraph, x: str, kind: tuple[str, str]) -> str:
    """An activation by its operator's domain and name."""
    domain, operator = kind
    factor = {"alpha": 1.0} if kind == _SWISH_OPERATOR else {}  # x · sigmoid(alpha · x)
    return graph.add_node(operator, x, domain=domain, **factor)


def add_position_bias(graph: OnnxGraph, start: str, end: str, table: DistanceBias) -> str:
    """Bias (1, N, end - start, end) of positions start..end looking at 0..end.

    `table` holds the bias (N, distances) of the distances low..high; beyond them it stays the same, as in T5.
    """
    values, low, high = table
    keys, queries = add_position_range(graph, graph.add_ints(0), end), add_position_range(graph, start, end)
    distance = graph.add_node("Sub", keys, graph.add_node("Unsqueeze", queries, graph.add_ints(1)))
    bounds = [graph.add_constant(np.array(bound, dtype=np.int64)) for bound in (low, high)]
    index = graph.add_node("Sub", graph.add_node("Clip", distance, *bounds), bounds[0])
    found = graph.add_node("Gather", graph.add_constant(values), index, axis=1)
    return graph.add_node("Unsqueeze", found, graph.add_ints(0))


def add_position_range(graph: OnnxGraph, start: str, end: str) -> str:
    """The numbers from `start` to `end`, which are vectors of one number each."""
    one = graph.add_constant(np.array(1, dtype=np.int64), "one")
    return graph.add_node("Range", graph.add_node("Squeeze", start), graph.add_node("Squeeze", end), one)


def make_causal_table(heads: int) -> DistanceBias:
    """A table for `add_position_bias` that only masks later positions."""
    return np.tile(np.array([0.0, MASKED_SCORE], dtype=np.float32), (heads, 1)), 0, 1
