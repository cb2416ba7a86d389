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
from torch import Tensor

from gitpeft.learn.export.attention import (
    NEVER,
    Attention,
    Batch,
    activated,
    bias,
    cached,
    cross,
    cross_outputs,
    full,
    output,
)
from gitpeft.learn.export.graph import FUSED, Graph, array

_BLOCKED = -1e4
_TIED = "embedding"


def encoder(model: Any, quantise: bool) -> bytes:
    """Graph of `source` (1, S) to `cross.I.key`, `cross.I.value` (1, N, S, H), `keys`, `mask`.

    I counts the decoder's layers; the last two are the pointer head's (see `_pointer_outputs`).
    """
    graph = Graph(quantise)
    source = graph.input("source", "int64", [1, "S"])
    embedded, states = _encoded(graph, source, model)
    cross_outputs(graph, states, [_attention(b.layer[1].EncDecAttention) for b in model.decoder.block])
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
    length = graph.op("Shape", source, start=1)
    table = _encoder_table(stack.block[0].layer[0].SelfAttention)
    looked = bias(graph, graph.ints(0), length, table)
    stream = _Stream(graph, embedded, stack)
    for block in stack.block:
        stream.add(full(graph, stream.normed, _attention(block.layer[0].SelfAttention), looked))
        stream.add(_feed_forward(graph, stream.normed, block.layer[1].DenseReluDense, model.config))
    return embedded, stream.normed


def decoder(model: Any, quantise: bool) -> bytes:
    """Graph of `tokens` (B, T), `past.I.key/value` (B, N, P, H) and the encoder's results to `probabilities`.

    These are (B, T, V): whoever needs the logarithm of a few of them does not pay for all.
    `present.I.key/value` (B, N, P + T, H) are the next step's past.
    """
    graph = Graph(quantise)
    stack, vocabulary = model.decoder, model.config.vocab_size
    first = stack.block[0].layer[0].SelfAttention
    batch = Batch(graph, len(stack.block), _attention(first), _decoder_table(first))
    embedded = _decoder_embedding(graph, batch.tokens, model)
    stream = _Stream(graph, embedded, stack)
    for number, block in enumerate(stack.block):
        own, other = _attention(block.layer[0].SelfAttention), _attention(block.layer[1].EncDecAttention)
        stream.add(cached(graph, stream.normed, own, batch, number))
        stream.add(cross(graph, stream.normed, other, number))
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


def _attention(module: Any) -> Attention:
    """T5 does not scale its scores: its weights do."""
    return Attention(module.q, module.k, module.v, module.o, module.n_heads, 1.0)


# --- relative positions -------------------------------------------------------------------------------------


def _encoder_table(attention: Any) -> tuple[Any, int, int]:
    furthest = attention.relative_attention_max_distance
    return _biases(attention, torch.arange(-furthest, furthest + 1), True), -furthest, furthest


def _decoder_table(attention: Any) -> tuple[Any, int, int]:
    """As the encoder's, with one more distance: every later position is out of sight."""
    furthest = attention.relative_attention_max_distance
    values = _biases(attention, torch.arange(-furthest, 1), False)
    return np.pad(values, ((0, 0), (0, 1)), constant_values=NEVER), -furthest, 1


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
        return output(graph, activated(graph, hidden, config.dense_act_fn), dense.wo)
    gate, hidden = graph.ops("xx", "Split", hidden, axis=-1, num_outputs=2)
    return output(graph, graph.op("Mul", activated(graph, gate, config.dense_act_fn), hidden), dense.wo)


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
    """generated · (1 - gate) + copied · gate, (1, B·T, V), as `pointer_t5` mixes them."""
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
