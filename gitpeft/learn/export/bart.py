"""ONNX graphs of BART, PLBART, and RoBERTa with a decoder.

All are transformers that add, then normalise, with learnt positions and biases everywhere. Inputs and outputs
are those of `t5` without a pointer head.

Shapes: S source length, B hypotheses, T new tokens, P past tokens, N heads, H head width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

from gitpeft.learn.export.attention import (
    AttentionProjections,
    HypothesisBatch,
    add_cached_attention,
    add_cross_attention,
    add_cross_outputs,
    add_named_activation,
    add_output_projection,
    add_position_range,
    add_self_attention,
    make_causal_table,
)
from gitpeft.learn.export.graph import FUSED_DOMAIN, OnnxGraph, tensor_to_array

if TYPE_CHECKING:
    from torch import Tensor, nn
    from transformers import PreTrainedModel
    from transformers.models.bart.modeling_bart import (
        BartAttention,
        BartConfig,
        BartDecoder,
        BartDecoderLayer,
        BartEncoder,
        BartEncoderLayer,
    )
    from transformers.models.roberta.modeling_roberta import RobertaAttention, RobertaLayer, RobertaModel

_TIED_TABLE_NAME = "embedding"


@dataclass(frozen=True, slots=True)
class _Layer:
    """A layer's parts in the order in which they act; an encoder's has no `source`."""

    own: AttentionProjections
    own_norm: "nn.LayerNorm"
    source: AttentionProjections | None
    source_norm: "nn.LayerNorm | None"
    up: "nn.Linear"
    down: "nn.Linear"
    norm: "nn.LayerNorm"


@dataclass(frozen=True, slots=True)
class _Stack:
    """Encoder or decoder. A token's vector is `tokens` · `scale` + `places` + `everywhere`, normalised.

    `first` is the row of `places` that belongs to the first token.
    """

    tokens: "nn.Embedding"
    scale: float
    places: "nn.Embedding"
    first: int
    everywhere: "nn.Embedding | None"
    norm: "nn.LayerNorm"
    layers: Sequence[_Layer]
    activation: str


@dataclass(frozen=True, slots=True)
class _Head:
    """From the decoder's states to the vocabulary: RoBERTa has a layer in between, and all have a bias."""

    dense: "nn.Linear | None"
    norm: "nn.LayerNorm | None"
    table: "Tensor"
    bias: "Tensor"


def build_encoder_graph(model: "PreTrainedModel", quantise: bool) -> bytes:
    """Graph of `source` (1, S) to `cross.I.key`, `cross.I.value` (1, N, S, H) for each decoder layer I."""
    graph = OnnxGraph(quantise)
    source = graph.add_input("source", "int64", [1, "S"])
    stack, other, _ = _read_model(model)
    looked_up = graph.add_embedding(stack.tokens.weight, source)
    length = graph.add_node("Shape", source, start=1)
    x = _embed_tokens(graph, stack, looked_up, _embed_positions(graph, stack, graph.add_ints(0), length))
    for layer in stack.layers:
        x = _add_and_normalise(graph, x, add_self_attention(graph, x, layer.own), layer.own_norm)
        x = _add_feed_forward(graph, x, layer, stack.activation)
    add_cross_outputs(graph, x, [layer.source for layer in other.layers if layer.source is not None])
    return graph.to_bytes()


def build_decoder_graph(model: "PreTrainedModel", quantise: bool) -> bytes:
    """Graph of `tokens` (B, T), `past.I.key/value` (B, N, P, H) and the encoder's results to `probabilities`.

    As `t5.decoder`.
    """
    graph = OnnxGraph(quantise)
    _, stack, head = _read_model(model)
    own = stack.layers[0].own
    batch = HypothesisBatch(graph, len(stack.layers), own, make_causal_table(own.heads))
    places = batch.repeat_for_hypotheses(_embed_positions(graph, stack, batch.past, batch.end))
    tied = head.table.data_ptr() == stack.tokens.weight.data_ptr()
    if tied:
        looked_up = graph.add_tied_embedding(stack.tokens.weight, batch.tokens, _TIED_TABLE_NAME)
    else:
        looked_up = graph.add_embedding(stack.tokens.weight, batch.tokens)
    x = _embed_tokens(graph, stack, looked_up, places)
    for number, layer in enumerate(stack.layers):
        x = _add_and_normalise(
            graph, x, add_cached_attention(graph, x, layer.own, batch, number), layer.own_norm
        )
        if layer.source is not None and layer.source_norm is not None:
            x = _add_and_normalise(
                graph, x, add_cross_attention(graph, x, layer.source, number), layer.source_norm
            )
        x = _add_feed_forward(graph, x, layer, stack.activation)
    found = graph.add_node("Softmax", _add_logits(graph, x, head), axis=-1)
    size = int(head.table.shape[0])
    graph.add_output(batch.split_hypotheses(found, size), "probabilities", ["B", "T", size])
    return graph.to_bytes()


def _embed_tokens(graph: OnnxGraph, stack: _Stack, looked_up: str, places: str) -> str:
    if stack.scale != 1.0:
        looked_up = graph.add_node("Mul", looked_up, graph.add_floats(stack.scale))
    return _add_and_normalise(graph, looked_up, places, stack.norm)


def _embed_positions(graph: OnnxGraph, stack: _Stack, start: str, end: str) -> str:
    """What positions start..end add to their tokens, (1, end - start, width). Few rows, in float32."""
    table = tensor_to_array(stack.places.weight)[stack.first :]
    if stack.everywhere is not None:
        table = table + tensor_to_array(stack.everywhere.weight)[0]
    rows = graph.add_node("Gather", graph.add_constant(table), add_position_range(graph, start, end))
    return graph.add_node("Unsqueeze", rows, graph.add_ints(0))


def _add_and_normalise(graph: OnnxGraph, x: str, update: str, norm: "nn.LayerNorm") -> str:
    """The sum of both, normalised."""
    weights = [graph.add_constant(tensor_to_array(part)) for part in (norm.weight, norm.bias)]
    kind = "SkipLayerNormalization"
    return graph.add_node(kind, x, update, *weights, domain=FUSED_DOMAIN, epsilon=float(norm.eps))


def _add_feed_forward(graph: OnnxGraph, x: str, layer: _Layer, activation: str) -> str:
    hidden = add_named_activation(graph, graph.add_linear(x, layer.up.weight, layer.up.bias), activation)
    return _add_and_normalise(graph, x, add_output_projection(graph, hidden, layer.down), layer.norm)


def _add_logits(graph: OnnxGraph, x: str, head: _Head) -> str:
    if head.dense is not None and head.norm is not None:
        x = add_named_activation(graph, graph.add_linear(x, head.dense.weight, head.dense.bias), "gelu")
        weights = [graph.add_constant(tensor_to_array(part)) for part in (head.norm.weight, head.norm.bias)]
        x = graph.add_node("LayerNormalization", x, *weights, axis=-1, epsilon=float(head.norm.eps))
    found = graph.add_tied_projection(x, head.table, _TIED_TABLE_NAME)
    return graph.add_node("Add", found, graph.add_constant(tensor_to_array(head.bias).reshape(-1)))


# --- reading the models -------------------------------------------------------------------------------------


def _read_model(model: "PreTrainedModel") -> tuple[_Stack, _Stack, _Head]:
    """Encoder, decoder and head of a model."""
    return _read_roberta(model) if model.config.model_type == "encoder-decoder" else _read_bart(model)


def _read_bart(model: "PreTrainedModel") -> tuple[_Stack, _Stack, _Head]:
    head = _Head(None, None, model.lm_head.weight, model.final_logits_bias)
    stacks = model.model.encoder, model.model.decoder
    return _read_bart_stack(stacks[0], model.config), _read_bart_stack(stacks[1], model.config), head


def _read_bart_stack(stack: "BartEncoder | BartDecoder", config: "BartConfig") -> _Stack:
    scale, offset = float(stack.embed_tokens.embed_scale or 1.0), int(stack.embed_positions.offset)
    layers = [_read_bart_layer(layer) for layer in stack.layers]
    return _Stack(
        stack.embed_tokens, scale, stack.embed_positions, offset, None, stack.layernorm_embedding, layers,
        config.activation_function,
    )  # fmt: skip


def _read_bart_layer(layer: "BartEncoderLayer | BartDecoderLayer") -> _Layer:
    other = getattr(layer, "encoder_attn", None)
    return _Layer(
        _read_bart_attention(layer.self_attn),
        layer.self_attn_layer_norm,
        None if other is None else _read_bart_attention(other),
        getattr(layer, "encoder_attn_layer_norm", None),
        layer.fc1,
        layer.fc2,
        layer.final_layer_norm,
    )


def _read_bart_attention(module: "BartAttention") -> AttentionProjections:
    parts = (module.q_proj, module.k_proj, module.v_proj, module.out_proj)
    return AttentionProjections(*parts, module.num_heads, float(module.head_dim**-0.5))


def _read_roberta(model: "PreTrainedModel") -> tuple[_Stack, _Stack, _Head]:
    head = model.decoder.lm_head
    found = _Head(head.dense, head.layer_norm, head.decoder.weight, head.decoder.bias)
    return _read_roberta_stack(model.encoder), _read_roberta_stack(model.decoder.roberta), found


def _read_roberta_stack(stack: "RobertaModel") -> _Stack:
    known = stack.embeddings
    layers = [_read_roberta_layer(layer) for layer in stack.encoder.layer]
    return _Stack(
        known.word_embeddings, 1.0, known.position_embeddings, int(known.padding_idx) + 1,
        known.token_type_embeddings, known.LayerNorm, layers, stack.config.hidden_act,
    )  # fmt: skip


def _read_roberta_layer(layer: "RobertaLayer") -> _Layer:
    other = getattr(layer, "crossattention", None)
    return _Layer(
        _read_roberta_attention(layer.attention), layer.attention.output.LayerNorm,
        None if other is None else _read_roberta_attention(other), other and other.output.LayerNorm,
        layer.intermediate.dense, layer.output.dense, layer.output.LayerNorm,
    )  # fmt: skip


def _read_roberta_attention(module: "RobertaAttention") -> AttentionProjections:
    inner, heads = module.self, module.self.num_attention_heads
    parts = (inner.query, inner.key, inner.value, module.output.dense)
    return AttentionProjections(*parts, heads, float(inner.attention_head_size**-0.5))
