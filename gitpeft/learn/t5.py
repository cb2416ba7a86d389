"""T5, with or without the pointer head, as two ONNX graphs: hides where `transformers` keeps each weight.

The encoder graph takes one source and gives what every decoding step reads: keys and values of the
cross-attention of all decoder layers and, with a pointer head, the keys of the source positions. The decoder
graph takes any number of hypotheses of that one source, whose keys and values are never repeated: where a
layer looks at the source, all tokens of all hypotheses are one long query.

Shapes: S source length, B hypotheses, T new tokens, P past tokens, N heads, H head width, V vocabulary.
"""

from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from gitpeft.errors import GitpeftError
from gitpeft.learn.graph import FUSED, Graph, array

_NEVER = -1e9
_BLOCKED = -1e4
_TIED = "embedding"
_ACTIVATIONS = {"relu": ("", "Relu"), "gelu": (FUSED, "Gelu"), "gelu_new": (FUSED, "FastGelu")}
_SWISH = (FUSED, "QuickGelu")
_BOTTLENECK = {nn.ReLU: ("", "Relu"), nn.GELU: (FUSED, "Gelu"), nn.SiLU: _SWISH, nn.Tanh: ("", "Tanh")}


def encoder(model: Any, quantise: bool) -> bytes:
    """Graph of `source` (1, S) to `cross.I.key`, `cross.I.value` (1, N, S, H), `keys`, `mask`.

    I counts the decoder's layers; the last two are the pointer head's (see `_pointer_outputs`).
    """
    graph = Graph(quantise)
    source = graph.input("source", "int64", [1, "S"])
    embedded, states = _encoded(graph, source, model)
    _cross_outputs(graph, states, model.decoder)
    if hasattr(model, "pointer"):
        _pointer_outputs(graph, source, states, embedded, model)
    return graph.build()


def judge(model: Any, quantise: bool) -> bytes:
    """Graph of `source` (1, S) and `features` (1, K) to `logit` (1), and to what each token adds (1, S).

    `model` is a `learn.judge.Judge`. What comes behind the encoder keeps float32.
    """
    graph = Graph(quantise)
    source = graph.input("source", "int64", [1, "S"])
    features = graph.input("features", "float", [1, len(model.mean)])
    _, states = _encoded(graph, source, model)
    width = model.logit.in_features - model.metrics.out_features
    of_text, of_metrics = model.logit.weight[:, :width], model.logit.weight[:, width:]
    parts = graph.reshape(graph.linear(states, of_text, exact=True), 1, -1)
    length = graph.op("Cast", graph.op("Shape", source, start=1), to=1)
    tokens = graph.op("Div", parts, length)
    slope = (of_metrics @ model.metrics.weight) / model.spread
    rest = of_metrics @ model.metrics.bias + model.logit.bias - (slope @ model.mean)
    beside = graph.linear(features, slope, rest, exact=True)
    total = graph.op("Add", graph.op("ReduceSum", tokens, graph.ints(1)), beside)
    graph.output(graph.reshape(total, -1), "logit", [1])
    graph.output(tokens, "tokens", [1, "S"])
    return graph.build()


def _encoded(graph: Graph, source: str, model: Any) -> tuple[str, str]:
    """The embedded source, and the encoder's states."""
    stack = model.encoder
    embedded = graph.embedding(stack.embed_tokens.weight, source)
    bias = _encoder_bias(graph, source, stack.block[0].layer[0].SelfAttention)
    stream = _Stream(graph, embedded, stack)
    for block in stack.block:
        attention = block.layer[0].SelfAttention
        query, key, value = _projected(graph, stream.normed, attention, "qkv")
        mixed = _attention(graph, [query, key, value, "", "", bias], attention)
        stream.add(_output(graph, mixed, attention.o))
        stream.add(_feed_forward(graph, stream.normed, block.layer[1].DenseReluDense, model.config))
    return embedded, stream.normed


def decoder(model: Any, quantise: bool) -> bytes:
    """Graph of `tokens` (B, T), `past.I.key/value` (B, N, P, H) and the encoder's results to `probabilities`.

    These are (B, T, V): whoever needs the logarithm of a few of them does not pay for all.
    `present.I.key/value` (B, N, P + T, H) are the next step's past.
    """
    graph = Graph(quantise)
    stack, vocabulary = model.decoder, model.config.vocab_size
    batch = _Batch(graph, stack)
    embedded = _decoder_embedding(graph, batch.tokens, model)
    stream = _Stream(graph, embedded, stack)
    for number, block in enumerate(stack.block):
        stream.add(_cached_attention(graph, stream.normed, block.layer[0].SelfAttention, batch, number))
        stream.add(_cross_attention(graph, stream.normed, block.layer[1].EncDecAttention, number))
        stream.add(_feed_forward(graph, stream.normed, block.layer[2].DenseReluDense, model.config))
    if hasattr(model, "pointer"):
        found = _mixture(graph, stream.normed, embedded, model)
    else:
        found = graph.op("Softmax", _logits(graph, stream.normed, model), axis=-1)
    graph.output(batch.split(found, vocabulary), "probabilities", ["B", "T", vocabulary])
    return graph.build()


class _Stream:
    """The residual stream of a stack: `normed` is what the next layer reads."""

    def __init__(self, graph: Graph, start: str, stack: Any) -> None:
        self._graph = graph
        final = stack.final_layer_norm
        self._norms = iter([*(layer.layer_norm for block in stack.block for layer in block.layer), final])
        self._epsilon = float(final.variance_epsilon)
        self._sum = start
        self.normed = graph.op(
            "SimplifiedLayerNormalization", start, self._next_weight(), axis=-1, epsilon=self._epsilon
        )

    def add(self, update: str) -> None:
        """Add a layer's result, and normalise for the next layer."""
        inputs = (self._sum, update, self._next_weight())
        kind = "SkipSimplifiedLayerNormalization"
        self.normed, self._sum = self._graph.ops("n--s", kind, *inputs, domain=FUSED, epsilon=self._epsilon)

    def _next_weight(self) -> str:
        return self._graph.constant(array(next(self._norms).weight))


class _Batch:
    """The new tokens of all hypotheses, (1, B·T), and the bias and mask with which they look back."""

    def __init__(self, graph: Graph, stack: Any) -> None:
        self._graph = graph
        tokens = graph.input("tokens", "int64", ["B", "T"])
        attention = stack.block[0].layer[0].SelfAttention
        shape = ["B", attention.n_heads, "P", attention.key_value_proj_dim]
        for number in range(len(stack.block)):
            graph.input(f"past.{number}.key", "float", shape)
            graph.input(f"past.{number}.value", "float", shape)
        self.tokens = graph.reshape(tokens, 1, -1)
        self._shape = graph.op("Shape", tokens)
        past = graph.op("Shape", "past.0.key", start=2, end=3)
        end = graph.op("Add", past, graph.op("Shape", tokens, start=1))
        self.bias = _bias(graph, past, end, _decoder_table(attention))

    def split(self, x: str, width: int) -> str:
        """(1, B·T, width) -> (B, T, width)."""
        shape = self._graph.op("Concat", self._shape, self._graph.ints(width), axis=0)
        return self._graph.op("Reshape", x, shape)


def _output(graph: Graph, x: str, linear: Any) -> str:
    """A sublayer's last projection, and the bottlenecks behind it where the model has any."""
    hidden = graph.linear(x, linear.weight)
    for down, activation, up in getattr(linear, "stages", list)():
        inner = _function(graph, graph.linear(hidden, down.weight, down.bias), _BOTTLENECK[type(activation)])
        hidden = graph.op("Add", hidden, graph.linear(inner, up.weight, up.bias))
    return hidden


# --- attention ----------------------------------------------------------------------------------------------


def _projected(graph: Graph, x: str, attention: Any, names: str) -> list[str]:
    """Several projections of one input as one multiplication."""
    weights = [getattr(attention, name).weight for name in names]
    joined = graph.linear(x, torch.cat(weights))
    return graph.ops("x" * len(names), "Split", joined, graph.ints(*(len(w) for w in weights)), axis=-1)


def _attention(graph: Graph, inputs: list[str], attention: Any) -> str:
    return graph.fused("MultiHeadAttention", *inputs, num_heads=attention.n_heads, scale=1.0)


def _cached_attention(graph: Graph, x: str, attention: Any, batch: _Batch, number: int) -> str:
    width = attention.inner_dim
    query, key, value = (batch.split(part, width) for part in _projected(graph, x, attention, "qkv"))
    inputs = [query, key, value, "", "", batch.bias, f"past.{number}.key", f"past.{number}.value"]
    mixed, key, value = graph.ops(
        "xkv", "MultiHeadAttention", *inputs, domain=FUSED, num_heads=attention.n_heads, scale=1.0
    )
    shape = ["B", attention.n_heads, "E", attention.key_value_proj_dim]
    graph.output(key, f"present.{number}.key", shape)
    graph.output(value, f"present.{number}.value", shape)
    return _output(graph, graph.reshape(mixed, 1, -1, width), attention.o)


def _cross_attention(graph: Graph, x: str, attention: Any, number: int) -> str:
    shape = [1, attention.n_heads, "S", attention.key_value_proj_dim]
    key, value = (graph.input(f"cross.{number}.{part}", "float", shape) for part in ("key", "value"))
    query = graph.linear(x, attention.q.weight)
    return _output(graph, _attention(graph, [query, key, value], attention), attention.o)


def _cross_outputs(graph: Graph, states: str, stack: Any) -> None:
    """Keys and values of all layers, which are one multiplication of the encoder's states."""
    attentions = [block.layer[1].EncDecAttention for block in stack.block]
    joined = graph.linear(states, torch.cat([w for a in attentions for w in (a.k.weight, a.v.weight)]))
    parts = graph.ops("x" * 2 * len(attentions), "Split", joined, axis=-1, num_outputs=2 * len(attentions))
    for number, attention in enumerate(attentions):
        heads, width = attention.n_heads, attention.key_value_proj_dim
        for name, part in zip(("key", "value"), parts[2 * number :], strict=False):
            split = graph.op("Transpose", graph.reshape(part, 1, -1, heads, width), perm=[0, 2, 1, 3])
            graph.output(split, f"cross.{number}.{name}", [1, heads, "S", width])


# --- relative positions -------------------------------------------------------------------------------------


def _encoder_bias(graph: Graph, source: str, attention: Any) -> str:
    length = graph.op("Shape", source, start=1)
    return _bias(graph, graph.ints(0), length, _encoder_table(attention))


def _bias(graph: Graph, start: str, end: str, table: tuple[Any, int, int]) -> str:
    """Bias (1, N, end - start, end) of positions start..end looking at 0..end.

    `table` holds the bias (N, distances) of the distances low..high; beyond them it stays the same, as in T5.
    """
    values, low, high = table
    scalar = graph.constant(np.array(0, dtype=np.int64), "zero")
    one = graph.constant(np.array(1, dtype=np.int64), "one")
    stop = graph.op("Squeeze", end)
    keys = graph.op("Range", scalar, stop, one)
    queries = graph.op("Range", graph.op("Squeeze", start), stop, one)
    distance = graph.op("Sub", keys, graph.op("Unsqueeze", queries, graph.ints(1)))
    bounds = [graph.constant(np.array(bound, dtype=np.int64)) for bound in (low, high)]
    index = graph.op("Sub", graph.op("Clip", distance, *bounds), bounds[0])
    found = graph.op("Gather", graph.constant(values), index, axis=1)
    return graph.op("Unsqueeze", found, graph.ints(0))


def _encoder_table(attention: Any) -> tuple[Any, int, int]:
    furthest = attention.relative_attention_max_distance
    return _biases(attention, torch.arange(-furthest, furthest + 1), True), -furthest, furthest


def _decoder_table(attention: Any) -> tuple[Any, int, int]:
    """As the encoder's, with one more distance: every later position is out of sight."""
    furthest = attention.relative_attention_max_distance
    values = _biases(attention, torch.arange(-furthest, 1), False)
    return np.pad(values, ((0, 0), (0, 1)), constant_values=_NEVER), -furthest, 1


def _biases(attention: Any, distances: Tensor, both_ways: bool) -> Any:
    count, furthest = attention.relative_attention_num_buckets, attention.relative_attention_max_distance
    buckets = attention._relative_position_bucket(distances, both_ways, count, furthest)
    return array(attention.relative_attention_bias.weight[buckets].T)


# --- feed-forward, vocabulary, pointer ----------------------------------------------------------------------


def _feed_forward(graph: Graph, x: str, dense: Any, config: Any) -> str:
    gated = hasattr(dense, "wi_0")
    weight = torch.cat([dense.wi_0.weight, dense.wi_1.weight]) if gated else dense.wi.weight
    hidden = graph.linear(x, weight)
    if not gated:
        return _output(graph, _activated(graph, hidden, config), dense.wo)
    gate, hidden = graph.ops("xx", "Split", hidden, axis=-1, num_outputs=2)
    return _output(graph, graph.op("Mul", _activated(graph, gate, config), hidden), dense.wo)


def _activated(graph: Graph, x: str, config: Any) -> str:
    if config.dense_act_fn not in _ACTIVATIONS:
        known = ", ".join(_ACTIVATIONS)
        raise GitpeftError(f"cannot export the activation {config.dense_act_fn}", f"known are {known}")
    return _function(graph, x, _ACTIVATIONS[config.dense_act_fn])


def _function(graph: Graph, x: str, function: tuple[str, str]) -> str:
    domain, kind = function
    factor = {"alpha": 1.0} if function == _SWISH else {}  # x · sigmoid(alpha · x)
    return graph.op(kind, x, domain=domain, **factor)


def _decoder_embedding(graph: Graph, tokens: str, model: Any) -> str:
    table = model.decoder.embed_tokens.weight
    return graph.tied_rows(table, tokens, _TIED) if _is_tied(model) else graph.embedding(table, tokens)


def _is_tied(model: Any) -> bool:
    return bool(model.lm_head.weight.data_ptr() == model.decoder.embed_tokens.weight.data_ptr())


def _logits(graph: Graph, states: str, model: Any) -> str:
    if model.config.scale_decoder_outputs:
        states = graph.op("Mul", states, graph.floats(model.model_dim**-0.5))
    return graph.tied_columns(states, model.lm_head.weight, _TIED)


def _pointer_outputs(graph: Graph, source: str, states: str, embedded: str, model: Any) -> None:
    """`keys` (1, d, S), scaled, and `mask` (1, S), which is added to the score of each source position."""
    head, width = model.pointer, model.config.d_model
    padding = graph.constant(np.zeros((1, 1, width), dtype=np.float32))
    before = graph.op("Concat", padding, graph.slice(embedded, 1, 0, -1), axis=1)
    previous = _sharp(graph, _unit(graph, before, width), head.token)
    keys = graph.op("Add", _sharp(graph, states, head.key), previous)
    scaled = graph.op("Mul", graph.op("Transpose", keys, perm=[0, 2, 1]), graph.floats(head.scale))
    special = graph.op("Less", source, graph.ints(model.config.special_tokens))
    graph.output(scaled, "keys", [1, width, "S"])
    graph.output(graph.op("Where", special, graph.floats(_BLOCKED), graph.floats(0.0)), "mask", [1, "S"])


def _mixture(graph: Graph, outputs: str, embedded: str, model: Any) -> str:
    """generated · (1 - gate) + copied · gate, (1, B·T, V), as `gitpeft.learn.pointer` mixes them."""
    head, width = model.pointer, model.config.d_model
    source = graph.input("source", "int64", [1, "S"])
    keys, mask = graph.input("keys", "float", [1, width, "S"]), graph.input("mask", "float", [1, "S"])
    previous = _sharp(graph, _unit(graph, embedded, width), head.token)
    query = graph.op("Add", _sharp(graph, outputs, head.query), previous)
    attention = graph.op("Softmax", graph.op("Add", graph.op("MatMul", query, keys), mask), axis=-1)
    gate = graph.linear(outputs, head.gate.weight, head.gate.bias, exact=True)
    copied = graph.op("Mul", attention, graph.op("Sigmoid", gate))
    generated = graph.op("Softmax", _logits(graph, outputs, model), axis=-1)
    rest = graph.op("Sigmoid", graph.op("Neg", gate))  # 1 - sigmoid(gate) would lose its digits near 0
    generated = graph.op("Mul", generated, rest)
    index = graph.op("Expand", graph.op("Unsqueeze", source, graph.ints(1)), graph.op("Shape", copied))
    return graph.op("ScatterElements", generated, index, copied, axis=2, reduction="add")


def _sharp(graph: Graph, x: str, linear: Any) -> str:
    """A projection of the pointer head: the scores of alike positions lie close, so it keeps float32."""
    return graph.linear(x, linear.weight, linear.bias, exact=True)


def _unit(graph: Graph, x: str, width: int) -> str:
    ones = graph.constant(np.ones(width, dtype=np.float32), "ones")
    return graph.op("SimplifiedLayerNormalization", x, ones, axis=-1, epsilon=1e-6)
