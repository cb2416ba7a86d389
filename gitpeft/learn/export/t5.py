"""T5, with or without the pointer head, as two ONNX graphs.

The encoder graph takes one source and gives what every decoding step reads: keys and values of the
cross-attention of all decoder layers and, with a pointer head, the keys of the source positions. The decoder
graph takes any number of hypotheses of that one source, whose keys and values are never repeated: where a
layer looks at the source, all tokens of all hypotheses are one long query.

Shapes: S source length, B hypotheses, T new tokens, P past tokens, N heads, H head width, V vocabulary.
"""

from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from gitpeft.learn.export.attention import (
    MASKED_SCORE,
    AttentionProjections,
    DistanceBias,
    HypothesisBatch,
    add_cached_attention,
    add_cross_attention,
    add_cross_outputs,
    add_named_activation,
    add_output_projection,
    add_position_bias,
    add_self_attention,
)
from gitpeft.learn.export.graph import FUSED_DOMAIN, FloatArray, OnnxGraph, tensor_to_array

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel
    from transformers.models.t5.modeling_t5 import (
        T5Attention,
        T5Config,
        T5DenseActDense,
        T5DenseGatedActDense,
        T5Stack,
    )

_BLOCKED_SCORE = -1e4
_TIED_TABLE_NAME = "embedding"


def build_encoder_graph(model: "PreTrainedModel", quantise: bool) -> bytes:
    """Graph of `source` (1, S) to `cross.I.key`, `cross.I.value` (1, N, S, H), `keys`, `mask`.

    I counts the decoder's layers; the last two are the pointer head's (see `_add_pointer_outputs`).
    """
    graph = OnnxGraph(quantise)
    source = graph.add_input("source", "int64", [1, "S"])
    embedded, states = _encode_source(graph, source, model)
    add_cross_outputs(
        graph, states, [_read_attention(b.layer[1].EncDecAttention) for b in model.decoder.block]
    )
    if hasattr(model, "pointer"):
        _add_pointer_outputs(graph, source, states, embedded, model)
    return graph.to_bytes()


def build_risk_encoder_graph(model: "PreTrainedModel", quantise: bool) -> bytes:
    """Graph of `source` (1, S) and `features` (1, K) to `logit` (1), and to what each token adds (1, S).

    `model` is a `learn.risk.encoder.RiskEncoderModel`. Everything after the encoder stays in float32.
    """
    graph = OnnxGraph(quantise)
    source = graph.add_input("source", "int64", [1, "S"])
    features = graph.add_input("features", "float", [1, len(model.mean)])
    _, states = _encode_source(graph, source, model)
    width = model.logit.in_features - model.metrics.out_features
    of_text, of_metrics = model.logit.weight[:, :width], model.logit.weight[:, width:]
    parts = graph.add_reshape(graph.add_linear(states, of_text, exact=True), 1, -1)
    length = graph.add_node("Cast", graph.add_node("Shape", source, start=1), to=1)
    tokens = graph.add_node("Div", parts, length)
    slope = (of_metrics @ model.metrics.weight) / model.spread
    rest = of_metrics @ model.metrics.bias + model.logit.bias - (slope @ model.mean)
    beside = graph.add_linear(features, slope, rest, exact=True)
    total = graph.add_node("Add", graph.add_node("ReduceSum", tokens, graph.add_ints(1)), beside)
    graph.add_output(graph.add_reshape(total, -1), "logit", [1])
    graph.add_output(tokens, "tokens", [1, "S"])
    return graph.to_bytes()


def _encode_source(graph: OnnxGraph, source: str, model: "PreTrainedModel") -> tuple[str, str]:
    """The embedded source, and the encoder's states."""
    stack = model.encoder
    embedded = graph.add_embedding(stack.embed_tokens.weight, source)
    length = graph.add_node("Shape", source, start=1)
    table = _encoder_bias_table(stack.block[0].layer[0].SelfAttention)
    looked = add_position_bias(graph, graph.add_ints(0), length, table)
    stream = _ResidualStream(graph, embedded, stack)
    for block in stack.block:
        stream.add_update(
            add_self_attention(graph, stream.normed, _read_attention(block.layer[0].SelfAttention), looked)
        )
        stream.add_update(
            _add_feed_forward(graph, stream.normed, block.layer[1].DenseReluDense, model.config)
        )
    return embedded, stream.normed


def build_decoder_graph(model: "PreTrainedModel", quantise: bool) -> bytes:
    """Graph of `tokens` (B, T), `past.I.key/value` (B, N, P, H) and the encoder's results to `probabilities`.

    These are (B, T, V): whoever needs the logarithm of a few of them does not pay for all.
    `present.I.key/value` (B, N, P + T, H) are the next step's past.
    """
    graph = OnnxGraph(quantise)
    stack, vocabulary = model.decoder, model.config.vocab_size
    first = stack.block[0].layer[0].SelfAttention
    batch = HypothesisBatch(graph, len(stack.block), _read_attention(first), _decoder_bias_table(first))
    embedded = _embed_decoder_tokens(graph, batch.tokens, model)
    stream = _ResidualStream(graph, embedded, stack)
    for number, block in enumerate(stack.block):
        own, other = (
            _read_attention(block.layer[0].SelfAttention),
            _read_attention(block.layer[1].EncDecAttention),
        )
        stream.add_update(add_cached_attention(graph, stream.normed, own, batch, number))
        stream.add_update(add_cross_attention(graph, stream.normed, other, number))
        stream.add_update(
            _add_feed_forward(graph, stream.normed, block.layer[2].DenseReluDense, model.config)
        )
    if hasattr(model, "pointer"):
        found = _mix_copies(graph, stream.normed, embedded, model)
    else:
        found = graph.add_node("Softmax", _add_logits(graph, stream.normed, model), axis=-1)
    graph.add_output(batch.split_hypotheses(found, vocabulary), "probabilities", ["B", "T", vocabulary])
    return graph.to_bytes()


class _ResidualStream:
    """The residual stream of a stack: `normed` is what the next layer reads."""

    def __init__(self, graph: OnnxGraph, start: str, stack: "T5Stack") -> None:
        self._graph = graph
        final = stack.final_layer_norm
        self._norms = iter([*(layer.layer_norm for block in stack.block for layer in block.layer), final])
        self._epsilon = float(final.variance_epsilon)
        self._sum = start
        self.normed = graph.add_node(
            "SimplifiedLayerNormalization", start, self._next_weight(), axis=-1, epsilon=self._epsilon
        )

    def add_update(self, update: str) -> None:
        """Add a layer's result, and normalise for the next layer."""
        inputs = (self._sum, update, self._next_weight())
        kind = "SkipSimplifiedLayerNormalization"
        self.normed, self._sum = self._graph.add_multi_node(
            "n--s", kind, *inputs, domain=FUSED_DOMAIN, epsilon=self._epsilon
        )

    def _next_weight(self) -> str:
        return self._graph.add_constant(tensor_to_array(next(self._norms).weight))


def _read_attention(module: "T5Attention") -> AttentionProjections:
    """T5 does not scale its scores: its weights do."""
    return AttentionProjections(module.q, module.k, module.v, module.o, module.n_heads, 1.0)


# --- relative positions -------------------------------------------------------------------------------------


def _encoder_bias_table(attention: "T5Attention") -> DistanceBias:
    furthest = attention.relative_attention_max_distance
    return (
        _compute_distance_biases(attention, torch.arange(-furthest, furthest + 1), True),
        -furthest,
        furthest,
    )


def _decoder_bias_table(attention: "T5Attention") -> DistanceBias:
    """As the encoder's, with one more distance: every later position is out of sight."""
    furthest = attention.relative_attention_max_distance
    values = _compute_distance_biases(attention, torch.arange(-furthest, 1), False)
    return np.pad(values, ((0, 0), (0, 1)), constant_values=MASKED_SCORE), -furthest, 1


def _compute_distance_biases(attention: "T5Attention", distances: Tensor, both_ways: bool) -> FloatArray:
    count, furthest = attention.relative_attention_num_buckets, attention.relative_attention_max_distance
    buckets = attention._relative_position_bucket(distances, both_ways, count, furthest)
    return tensor_to_array(attention.relative_attention_bias.weight[buckets].T)


# --- feed-forward, vocabulary, pointer ----------------------------------------------------------------------


def _add_feed_forward(
    graph: OnnxGraph, x: str, dense: "T5DenseActDense | T5DenseGatedActDense", config: "T5Config"
) -> str:
    gated = hasattr(dense, "wi_0")
    weight = torch.cat([dense.wi_0.weight, dense.wi_1.weight]) if gated else dense.wi.weight
    hidden = graph.add_linear(x, weight)
    if not gated:
        return add_output_projection(
            graph, add_named_activation(graph, hidden, config.dense_act_fn), dense.wo
        )
    gate, hidden = graph.add_multi_node("xx", "Split", hidden, axis=-1, num_outputs=2)
    return add_output_projection(
        graph, graph.add_node("Mul", add_named_activation(graph, gate, config.dense_act_fn), hidden), dense.wo
    )


def _embed_decoder_tokens(graph: OnnxGraph, tokens: str, model: "PreTrainedModel") -> str:
    table = model.decoder.embed_tokens.weight
    return (
        graph.add_tied_embedding(table, tokens, _TIED_TABLE_NAME)
        if _is_tied(model)
        else graph.add_embedding(table, tokens)
    )


def _is_tied(model: "PreTrainedModel") -> bool:
    return bool(model.lm_head.weight.data_ptr() == model.decoder.embed_tokens.weight.data_ptr())


def _add_logits(graph: OnnxGraph, states: str, model: "PreTrainedModel") -> str:
    if model.config.scale_decoder_outputs:
        states = graph.add_node("Mul", states, graph.add_floats(model.model_dim**-0.5))
    return graph.add_tied_projection(states, model.lm_head.weight, _TIED_TABLE_NAME)


def _add_pointer_outputs(
    graph: OnnxGraph, source: str, states: str, embedded: str, model: "PreTrainedModel"
) -> None:
    """`keys` (1, d, S), scaled, and `mask` (1, S), which is added to the score of each source position."""
    head, width = model.pointer, model.config.d_model
    padding = graph.add_constant(np.zeros((1, 1, width), dtype=np.float32))
    before = graph.add_node("Concat", padding, graph.add_slice(embedded, 1, 0, -1), axis=1)
    previous = _project_exactly(graph, _normalise_rms(graph, before, width), head.token)
    keys = graph.add_node("Add", _project_exactly(graph, states, head.key), previous)
    scaled = graph.add_node(
        "Mul", graph.add_node("Transpose", keys, perm=[0, 2, 1]), graph.add_floats(head.scale)
    )
    special = graph.add_node("Less", source, graph.add_ints(model.config.special_tokens))
    graph.add_output(scaled, "keys", [1, width, "S"])
    graph.add_output(
        graph.add_node("Where", special, graph.add_floats(_BLOCKED_SCORE), graph.add_floats(0.0)),
        "mask",
        [1, "S"],
    )


def _mix_copies(graph: OnnxGraph, outputs: str, embedded: str, model: "PreTrainedModel") -> str:
    """generated · (1 - gate) + copied · gate, (1, B·T, V), as `pointer_t5` mixes them."""
    head, width = model.pointer, model.config.d_model
    source = graph.add_input("source", "int64", [1, "S"])
    keys, mask = graph.add_input("keys", "float", [1, width, "S"]), graph.add_input("mask", "float", [1, "S"])
    previous = _project_exactly(graph, _normalise_rms(graph, embedded, width), head.token)
    query = graph.add_node("Add", _project_exactly(graph, outputs, head.query), previous)
    attention = graph.add_node(
        "Softmax", graph.add_node("Add", graph.add_node("MatMul", query, keys), mask), axis=-1
    )
    gate = graph.add_linear(outputs, head.gate.weight, head.gate.bias, exact=True)
    copied = graph.add_node("Mul", attention, graph.add_node("Sigmoid", gate))
    generated = graph.add_node("Softmax", _add_logits(graph, outputs, model), axis=-1)
    rest = graph.add_node(
        "Sigmoid", graph.add_node("Neg", gate)
    )  # 1 - sigmoid(gate) would lose its digits near 0
    generated = graph.add_node("Mul", generated, rest)
    index = graph.add_node(
        "Expand", graph.add_node("Unsqueeze", source, graph.add_ints(1)), graph.add_node("Shape", copied)
    )
    return graph.add_node("ScatterElements", generated, index, copied, axis=2, reduction="add")


def _project_exactly(graph: OnnxGraph, x: str, linear: "nn.Linear") -> str:
    """A projection of the pointer head: the scores of alike positions lie close, so it keeps float32."""
    return graph.add_linear(x, linear.weight, linear.bias, exact=True)


def _normalise_rms(graph: OnnxGraph, x: str, width: int) -> str:
    ones = graph.add_constant(np.ones(width, dtype=np.float32), "ones")
    return graph.add_node("SimplifiedLayerNormalization", x, ones, axis=-1, epsilon=1e-6)
