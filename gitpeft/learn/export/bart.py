"""ONNX graphs of BART, PLBART and RoBERTa with a decoder: hides what these three call their parts.

All are transformers that add, then normalise, with learnt positions and biases everywhere. Inputs and outputs
are those of `t5` without a pointer head.

Shapes: S source length, B hypotheses, T new tokens, P past tokens, N heads, H head width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from gitpeft.learn.export.attention import (
    Attention,
    Batch,
    activated,
    cached,
    causal,
    cross,
    cross_outputs,
    full,
    output,
    positions,
)
from gitpeft.learn.export.graph import FUSED, Graph, array

_TIED = "embedding"


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer's parts in the order in which they act; an encoder's has no `source`."""

    own: Attention
    own_norm: Any
    source: Attention | None
    source_norm: Any
    up: Any
    down: Any
    norm: Any


@dataclass(frozen=True, slots=True)
class _Stack:
    """Encoder or decoder. A token's vector is `tokens` · `scale` + `places` + `everywhere`, normalised.

    `first` is the row of `places` that belongs to the first token.
    """

    tokens: Any
    scale: float
    places: Any
    first: int
    everywhere: Any
    norm: Any
    layers: Sequence[_Layer]
    activation: str


@dataclass(frozen=True, slots=True)
class _Head:
    """From the decoder's states to the vocabulary: RoBERTa has a layer in between, and all have a bias."""

    dense: Any
    norm: Any
    table: Any
    bias: Any


def encoder(model: Any, quantise: bool) -> bytes:
    """Graph of `source` (1, S) to `cross.I.key`, `cross.I.value` (1, N, S, H) for each decoder layer I."""
    graph = Graph(quantise)
    source = graph.input("source", "int64", [1, "S"])
    stack, other, _ = _parts(model)
    looked_up = graph.embedding(stack.tokens.weight, source)
    length = graph.op("Shape", source, start=1)
    x = _embedded(graph, stack, looked_up, _places(graph, stack, graph.ints(0), length))
    for layer in stack.layers:
        x = _normed(graph, x, full(graph, x, layer.own), layer.own_norm)
        x = _feed_forward(graph, x, layer, stack.activation)
    cross_outputs(graph, x, [layer.source for layer in other.layers if layer.source is not None])
    return graph.build()


def decoder(model: Any, quantise: bool) -> bytes:
    """Graph of `tokens` (B, T), `past.I.key/value` (B, N, P, H) and the encoder's results to `probabilities`.

    As `t5.decoder`.
    """
    graph = Graph(quantise)
    _, stack, head = _parts(model)
    own = stack.layers[0].own
    batch = Batch(graph, len(stack.layers), own, causal(own.heads))
    places = batch.merged(_places(graph, stack, batch.past, batch.end))
    tied = head.table.data_ptr() == stack.tokens.weight.data_ptr()
    if tied:
        looked_up = graph.tied_rows(stack.tokens.weight, batch.tokens, _TIED)
    else:
        looked_up = graph.embedding(stack.tokens.weight, batch.tokens)
    x = _embedded(graph, stack, looked_up, places)
    for number, layer in enumerate(stack.layers):
        x = _normed(graph, x, cached(graph, x, layer.own, batch, number), layer.own_norm)
        if layer.source is not None:
            x = _normed(graph, x, cross(graph, x, layer.source, number), layer.source_norm)
        x = _feed_forward(graph, x, layer, stack.activation)
    found = graph.op("Softmax", _logits(graph, x, head), axis=-1)
    size = int(head.table.shape[0])
    graph.output(batch.split(found, size), "probabilities", ["B", "T", size])
    return graph.build()


def _embedded(graph: Graph, stack: _Stack, looked_up: str, places: str) -> str:
    if stack.scale != 1.0:
        looked_up = graph.op("Mul", looked_up, graph.floats(stack.scale))
    return _normed(graph, looked_up, places, stack.norm)


def _places(graph: Graph, stack: _Stack, start: str, end: str) -> str:
    """What positions start..end add to their tokens, (1, end - start, width). Few rows, in float32."""
    table = array(stack.places.weight)[stack.first :]
    if stack.everywhere is not None:
        table = table + array(stack.everywhere.weight)[0]
    rows = graph.op("Gather", graph.constant(table), positions(graph, start, end))
    return graph.op("Unsqueeze", rows, graph.ints(0))


def _normed(graph: Graph, x: str, update: str, norm: Any) -> str:
    """The sum of both, normalised."""
    weights = [graph.constant(array(part)) for part in (norm.weight, norm.bias)]
    kind = "SkipLayerNormalization"
    return graph.op(kind, x, update, *weights, domain=FUSED, epsilon=float(norm.eps))


def _feed_forward(graph: Graph, x: str, layer: _Layer, activation: str) -> str:
    hidden = activated(graph, graph.linear(x, layer.up.weight, layer.up.bias), activation)
    return _normed(graph, x, output(graph, hidden, layer.down), layer.norm)


def _logits(graph: Graph, x: str, head: _Head) -> str:
    if head.dense is not None:
        x = activated(graph, graph.linear(x, head.dense.weight, head.dense.bias), "gelu")
        weights = [graph.constant(array(part)) for part in (head.norm.weight, head.norm.bias)]
        x = graph.op("LayerNormalization", x, *weights, axis=-1, epsilon=float(head.norm.eps))
    found = graph.tied_columns(x, head.table, _TIED)
    return graph.op("Add", found, graph.constant(array(head.bias).reshape(-1)))


# --- what they call their parts -----------------------------------------------------------------------------


def _parts(model: Any) -> tuple[_Stack, _Stack, _Head]:
    """Encoder, decoder and head of a model."""
    return _of_roberta(model) if model.config.model_type == "encoder-decoder" else _of_bart(model)


def _of_bart(model: Any) -> tuple[_Stack, _Stack, _Head]:
    head = _Head(None, None, model.lm_head.weight, model.final_logits_bias)
    stacks = model.model.encoder, model.model.decoder
    return _bart_stack(stacks[0], model.config), _bart_stack(stacks[1], model.config), head


def _bart_stack(stack: Any, config: Any) -> _Stack:
    scale, offset = float(stack.embed_tokens.embed_scale or 1.0), int(stack.embed_positions.offset)
    layers = [_bart_layer(layer) for layer in stack.layers]
    return _Stack(
        stack.embed_tokens, scale, stack.embed_positions, offset, None, stack.layernorm_embedding, layers,
        config.activation_function,
    )  # fmt: skip


def _bart_layer(layer: Any) -> _Layer:
    other = getattr(layer, "encoder_attn", None)
    return _Layer(
        _bart_attention(layer.self_attn), layer.self_attn_layer_norm,
        None if other is None else _bart_attention(other), getattr(layer, "encoder_attn_layer_norm", None),
        layer.fc1, layer.fc2, layer.final_layer_norm,
    )  # fmt: skip


def _bart_attention(module: Any) -> Attention:
    parts = (module.q_proj, module.k_proj, module.v_proj, module.out_proj)
    return Attention(*parts, module.num_heads, float(module.head_dim**-0.5))


def _of_roberta(model: Any) -> tuple[_Stack, _Stack, _Head]:
    head = model.decoder.lm_head
    found = _Head(head.dense, head.layer_norm, head.decoder.weight, head.decoder.bias)
    return _roberta_stack(model.encoder), _roberta_stack(model.decoder.roberta), found


def _roberta_stack(stack: Any) -> _Stack:
    known = stack.embeddings
    layers = [_roberta_layer(layer) for layer in stack.encoder.layer]
    return _Stack(
        known.word_embeddings, 1.0, known.position_embeddings, int(known.padding_idx) + 1,
        known.token_type_embeddings, known.LayerNorm, layers, stack.config.hidden_act,
    )  # fmt: skip


def _roberta_layer(layer: Any) -> _Layer:
    other = getattr(layer, "crossattention", None)
    return _Layer(
        _roberta_attention(layer.attention), layer.attention.output.LayerNorm,
        None if other is None else _roberta_attention(other), other and other.output.LayerNorm,
        layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm,
    )  # fmt: skip


def _roberta_attention(module: Any) -> Attention:
    inner, heads = module.self, module.self.num_attention_heads
    parts = (inner.query, inner.key, inner.value, module.output.dense)
    return Attention(*parts, heads, float(inner.attention_head_size**-0.5))
