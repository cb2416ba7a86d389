"""Causal language models (Llama and its relatives) as one ONNX graph.

The same graph reads a prompt and writes a message. To read a prompt it is run on one hypothesis, as often as
the prompt has parts, without a prefix, and gives keys and values alone: the output layer is not computed
then. To write, the prompt's keys and values are its prefix, one for all hypotheses and never repeated: all
hypotheses, and all query heads that share a key head, look at the same array.

Weights stay outside of the model (see `OnnxGraph`), under the names that they have in `transformers`; those
of layers that are multiplied at once are joined by `NAME_JOINT`.

Shapes: S prefix, B hypotheses, T new tokens, P past tokens, E = P + T, N query heads, K key heads, G = N / K,
H head width, V vocabulary.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from gitpeft.bundle.bundle import DECODER_FILE, WEIGHTS_FILE
from gitpeft.errors import GitpeftError
from gitpeft.learn.export.attention import MASKED_SCORE, add_bottlenecks, add_position_range
from gitpeft.learn.export.graph import FUSED_DOMAIN, OnnxGraph, tensor_to_array
from gitpeft.share.quantisation import NAME_JOINT

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel
    from transformers.models.llama.modeling_llama import LlamaAttention, LlamaMLP, LlamaRMSNorm

_HEAD_NAME, _EMBEDDING_NAME = "lm_head.weight", "model.embed_tokens.weight"
_LEAST_SCALE = 1e-20


def save_graph(model: "PreTrainedModel", quantise: bool, folder: Path) -> None:
    """Write the graph of `tokens` (B, T) to `probabilities` (B, T, V), and its weights beside it.

    Without a prefix (S = 0) `probabilities` is empty.

    Further inputs are `prefix.I.key/value` (1, K, S, H) and `past.I.key/value` (B, K, P, H) for each layer I;
    `present.I.key/value` (B, K, E, H) are the next step's past. GitpeftError for a model whose attention does
    not reach all earlier positions.
    """
    graph = OnnxGraph(quantise, outside=WEIGHTS_FILE)
    settings = _read_settings(model)
    step = _Step(graph, settings)
    decoder = model.model
    x = _add_embedding(graph, model, step.tokens)
    stream = _ResidualStream(graph, x, settings)
    for number, layer in enumerate(decoder.layers):
        place = f"model.layers.{number}"
        normed = stream.normalise(layer.input_layernorm)
        stream.add_update(_add_attention(step, normed, number, layer.self_attn, f"{place}.self_attn"))
        normed = stream.normalise(layer.post_attention_layernorm)
        stream.add_update(_add_feed_forward(graph, normed, layer.mlp, f"{place}.mlp"))
    _add_probabilities(step, model, stream.normalise(decoder.norm))
    graph.save(folder / DECODER_FILE)


@dataclass(frozen=True, slots=True)
class _Settings:
    """The sizes and factors of a model. `turned`: the layers whose queries and keys are rotated."""

    layers: int
    heads: int
    key_heads: int
    head_width: int
    epsilon: float
    score_scale: float
    residual_scale: float
    turned: tuple[bool, ...]
    frequencies: NDArray[np.float32]
    rotation_scale: float


def _read_settings(model: "PreTrainedModel") -> _Settings:
    config = model.config
    layers = int(config.num_hidden_layers)
    width = int(getattr(config, "head_dim", None) or config.hidden_size // config.num_attention_heads)
    kinds = set(getattr(config, "layer_types", None) or ["full_attention"])
    if getattr(config, "sliding_window", None) and (
        kinds != {"full_attention"} or not hasattr(config, "layer_types")
    ):
        raise GitpeftError(
            "cannot export a model whose attention slides over its input", "choose a base with full attention"
        )
    if "dynamic" in str(model.model.rotary_emb.rope_type) or model.model.rotary_emb.rope_type == "longrope":
        raise GitpeftError(
            f"cannot export the position encoding {model.model.rotary_emb.rope_type}", "choose another base"
        )
    turned = getattr(config, "no_rope_layers", None) or [1] * layers
    return _Settings(
        layers,
        int(config.num_attention_heads),
        int(config.num_key_value_heads),
        width,
        float(config.rms_norm_eps),
        float(getattr(config, "attention_multiplier", None) or width**-0.5),
        float(getattr(config, "residual_multiplier", 1.0)),
        tuple(bool(one) for one in turned),
        tensor_to_array(model.model.rotary_emb.inv_freq),
        float(model.model.rotary_emb.attention_scaling),
    )


class _ResidualStream:
    """The residual stream; each update is added when the next layer's input is normalised."""

    def __init__(self, graph: OnnxGraph, start: str, settings: _Settings) -> None:
        self._graph, self._sum, self._settings = graph, start, settings
        self._update = ""

    def add_update(self, update: str) -> None:
        """A layer's result, to be added."""
        if self._settings.residual_scale != 1.0:
            update = self._graph.add_node(
                "Mul", update, self._graph.add_floats(self._settings.residual_scale)
            )
        self._update = update

    def normalise(self, norm: "LlamaRMSNorm") -> str:
        """What the next layer reads."""
        if not self._update:
            return add_root_norm(self._graph, self._sum, norm, self._settings.epsilon)
        weight = self._graph.add_constant(tensor_to_array(norm.weight))
        normed, self._sum = self._graph.add_multi_node(
            "n--s",
            "SkipSimplifiedLayerNormalization",
            self._sum,
            self._update,
            weight,
            domain=FUSED_DOMAIN,
            epsilon=self._settings.epsilon,
        )
        return normed


def add_root_norm(graph: OnnxGraph, x: str, norm: "LlamaRMSNorm", epsilon: float) -> str:
    """x / √(mean(x²) + epsilon) · weight, over the last axis (RMSNorm)."""
    weight = graph.add_constant(tensor_to_array(norm.weight))
    return graph.add_node("SimplifiedLayerNormalization", x, weight, axis=-1, epsilon=epsilon)


class _Step:
    """The inputs of a run, and what all layers read: shapes, rotation, mask, whether there is a prefix."""

    def __init__(self, graph: OnnxGraph, settings: _Settings) -> None:
        self.graph, self.settings = graph, settings
        tokens = graph.add_input("tokens", "int64", ["B", "T"])
        for number in range(settings.layers):
            for part in ("key", "value"):
                tail = [settings.key_heads, settings.head_width]
                graph.add_input(f"prefix.{number}.{part}", "float", [1, tail[0], "S", tail[1]])
                graph.add_input(f"past.{number}.{part}", "float", ["B", tail[0], "P", tail[1]])
        self.tokens = graph.add_reshape(tokens, 1, -1)
        self._shape = graph.add_node("Shape", tokens)
        self._shapes: dict[tuple[int, ...], str] = {}
        prefix = graph.add_node("Shape", "prefix.0.key", start=2, end=3)
        past = graph.add_node("Shape", "past.0.key", start=2, end=3)
        new = graph.add_node("Shape", tokens, start=1)
        end = graph.add_node("Add", past, new)
        first = graph.add_node("Add", prefix, past)
        self.alone = graph.add_node("Equal", prefix, graph.add_ints(0))
        self.lengths = graph.add_node("Concat", prefix, end, axis=0)
        self.rotation = self._add_rotation(first, graph.add_node("Add", first, new))
        self.mask = self._add_mask(past, end)
        group = settings.heads // settings.key_heads
        count = graph.add_node("Shape", tokens, end=1)
        tail_shape = (graph.add_ints(settings.key_heads, group), new, graph.add_ints(settings.head_width))
        self.grouped = graph.add_node("Concat", count, *tail_shape, axis=0)

    def _add_rotation(self, start: str, end: str) -> tuple[str, str, str]:
        """Indices (B, T) into cosines and sines (T, H/2) of the positions start..end."""
        graph = self.graph
        places = graph.add_node("Cast", add_position_range(graph, start, end), to=1)
        rows = graph.add_node("Unsqueeze", places, graph.add_ints(1))
        angles = graph.add_node("Mul", rows, graph.add_constant(self.settings.frequencies))
        factor = graph.add_floats(self.settings.rotation_scale)
        cosines, sines = (
            graph.add_node("Mul", graph.add_node(kind, angles), factor) for kind in ("Cos", "Sin")
        )
        length = graph.add_node("Sub", end, start)
        index = add_position_range(graph, graph.add_ints(0), length)
        index = graph.add_node("Unsqueeze", index, graph.add_ints(0))
        return graph.add_node("Expand", index, self._shape), cosines, sines

    def _add_mask(self, past: str, end: str) -> str:
        """(G·T, E), added to scores: no position looks at a later one."""
        graph = self.graph
        keys = add_position_range(graph, graph.add_ints(0), end)
        queries = graph.add_node("Unsqueeze", add_position_range(graph, past, end), graph.add_ints(1))
        later = graph.add_node("Greater", keys, queries)
        mask = graph.add_node("Where", later, graph.add_floats(MASKED_SCORE), graph.add_floats(0.0))
        group = self.settings.heads // self.settings.key_heads
        return graph.add_node("Concat", *[mask] * group, axis=0)

    def split_hypotheses(self, x: str, *widths: int) -> str:
        """(1, B·T, …) -> (B, T, widths)."""
        if widths not in self._shapes:
            graph = self.graph
            self._shapes[widths] = graph.add_node("Concat", self._shape, graph.add_ints(*widths), axis=0)
        return self.graph.add_node("Reshape", x, self._shapes[widths])


# --- attention ----------------------------------------------------------------------------------------------


def _add_attention(step: _Step, x: str, number: int, module: "LlamaAttention", place: str) -> str:
    """Attention of new tokens to prefix, past and themselves; the present becomes an output of the graph."""
    graph, settings = step.graph, step.settings
    heads, key_heads, width = settings.heads, settings.key_heads, settings.head_width
    parts = [getattr(module, f"{part}_proj") for part in "qkv"]
    joined = _add_linears(graph, x, parts, [f"{place}.{part}_proj" for part in "qkv"])
    split = step.split_hypotheses(joined, (heads + 2 * key_heads) * width)
    sizes = graph.add_ints(heads * width, key_heads * width, key_heads * width)
    query, key, value = graph.add_multi_node("xxx", "Split", split, sizes, axis=-1)
    query, key = (
        _turn_heads(step, part, number, getattr(module, name, None))
        for part, name in ((query, "q_norm"), (key, "k_norm"))
    )
    key, value = (_add_present(step, number, part, x) for part, x in (("key", key), ("value", value)))
    grouped = step.split_hypotheses(query, key_heads, heads // key_heads, width)
    grouped = graph.add_node("Transpose", grouped, perm=[0, 2, 3, 1, 4])
    query = graph.add_reshape(grouped, 0, 0, -1, width)
    mixed = _mix_values(step, query, key, value, number)
    mixed = graph.add_node("Reshape", mixed, step.grouped)
    whole = graph.add_node("Transpose", mixed, perm=[0, 3, 1, 2, 4])
    flat = graph.add_reshape(whole, 1, -1, heads * width)
    return _add_output_linear(graph, flat, module.o_proj, f"{place}.o_proj")


def _turn_heads(step: _Step, x: str, number: int, norm: "LlamaRMSNorm | None") -> str:
    """Queries or keys (B, T, heads·H), normalised where the model does so (Qwen3), and rotated."""
    graph, settings = step.graph, step.settings
    if norm is not None:
        split = graph.add_reshape(x, 0, 0, -1, settings.head_width)
        normed = add_root_norm(graph, split, norm, settings.epsilon)
        x = graph.add_reshape(normed, 0, 0, -1)
    if not settings.turned[number]:
        return x
    return graph.add_fused_node("RotaryEmbedding", x, *step.rotation)


def _add_present(step: _Step, number: int, part: str, x: str) -> str:
    """Keys or values of new tokens (B, T, K·H) after those of the past: (B, K, E, H), an output."""
    graph, settings = step.graph, step.settings
    new = graph.add_reshape(x, 0, 0, settings.key_heads, settings.head_width)
    new = graph.add_node("Transpose", new, perm=[0, 2, 1, 3])
    present = graph.add_node("Concat", f"past.{number}.{part}", new, axis=2)
    shape: list[int | str] = ["B", settings.key_heads, "E", settings.head_width]
    graph.add_output(present, f"present.{number}.{part}", shape)
    return present


def _mix_values(step: _Step, query: str, key: str, value: str, number: int) -> str:
    """Attention of queries (B, K, G·T, H) to the prefix and to keys and values (B, K, E, H)."""
    graph = step.graph
    factor = step.settings.score_scale
    own = graph.add_fused_node("FusedMatMul", query, key, transB=1, alpha=factor)
    own = graph.add_node("Add", own, step.mask)

    def mix_own() -> str:
        return graph.add_node("MatMul", graph.add_node("Softmax", own, axis=-1), value)

    def mix_all() -> str:
        before, values = (f"prefix.{number}.{part}" for part in ("key", "value"))
        scores = graph.add_fused_node("FusedMatMul", query, before, transB=1, alpha=factor)
        scores = graph.add_node("Concat", scores, own, axis=-1)
        weights = graph.add_node("Softmax", scores, axis=-1)
        at_prefix, at_own = graph.add_multi_node("xx", "Split", weights, step.lengths, axis=-1)
        found = (graph.add_node("MatMul", at_prefix, values), graph.add_node("MatMul", at_own, value))
        return graph.add_node("Add", *found)

    return graph.add_branch(step.alone, mix_own, mix_all)


# --- linear layers ------------------------------------------------------------------------------------------


def _add_linears(graph: OnnxGraph, x: str, linears: "Sequence[nn.Linear]", names: Sequence[str]) -> str:
    """Projections of one input as one multiplication, their results side by side.

    In int8 each row of `x` is scaled by itself. One scale for all rows would leave most of them without
    digits: at the first token of a text, a few of the numbers before a sublayer's last projection are a
    thousand times as large as elsewhere (Sun et al. 2024, arXiv 2402.17762).
    """
    weight = torch.cat([linear.weight.detach() for linear in linears])
    name = NAME_JOINT.join(f"{name}.weight" for name in names)
    product = (
        _multiply_rows(graph, x, weight, name) if graph.quantise else graph.add_linear(x, weight, name=name)
    )
    biases = [bias for linear in linears if (bias := getattr(linear, "bias", None)) is not None]
    if biases:
        product = graph.add_node("Add", product, graph.add_constant(tensor_to_array(torch.cat(biases))))
    return product


def _multiply_rows(graph: OnnxGraph, x: str, weight: torch.Tensor, name: str) -> str:
    """x · weightᵀ in int8; each row of `x` is divided by its largest number, its product multiplied by it."""
    largest = graph.add_node("ReduceMax", graph.add_node("Abs", x), graph.add_ints(-1), keepdims=1)
    largest = graph.add_node("Max", largest, graph.add_floats(_LEAST_SCALE))
    product = graph.add_linear(graph.add_node("Div", x, largest), weight, name=name)
    return graph.add_node("Mul", product, largest)


def _add_output_linear(graph: OnnxGraph, x: str, linear: "nn.Linear", name: str) -> str:
    """A sublayer's last projection, and the bottlenecks behind it where the model has any."""
    return add_bottlenecks(graph, _add_linears(graph, x, [linear], [name]), linear)


def _add_feed_forward(graph: OnnxGraph, x: str, module: "LlamaMLP", place: str) -> str:
    """down(silu(gate(x)) · up(x))."""
    parts = [module.gate_proj, module.up_proj]
    joined = _add_linears(graph, x, parts, [f"{place}.gate_proj", f"{place}.up_proj"])
    gate, up = graph.add_multi_node("xx", "Split", joined, axis=-1, num_outputs=2)
    hidden = graph.add_node("Mul", graph.add_fused_node("QuickGelu", gate, alpha=1.0), up)
    return _add_output_linear(graph, hidden, module.down_proj, f"{place}.down_proj")


def _add_embedding(graph: OnnxGraph, model: "PreTrainedModel", tokens: str) -> str:
    x = graph.add_block_embedding(model.model.embed_tokens.weight, tokens, _EMBEDDING_NAME)
    factor = float(getattr(model.config, "embedding_multiplier", 1.0))
    return x if factor == 1.0 else graph.add_node("Mul", x, graph.add_floats(factor))


def _add_probabilities(step: "_Step", model: "PreTrainedModel", x: str) -> None:
    """The output `probabilities`; empty (0, 0, V) where a prompt is read, whose next tokens are known.

    ONNX Runtime computes all outputs, asked for or not, and this one costs a quarter of the layers before it.
    """
    graph, vocabulary = step.graph, int(model.config.vocab_size)

    def skip() -> str:
        return graph.add_node("Identity", graph.add_constant(np.zeros((0, 0, vocabulary), np.float32)))

    def compute() -> str:
        found = graph.add_node("Softmax", _add_logits(graph, model, x), axis=-1)
        return step.split_hypotheses(found, vocabulary)

    found = graph.add_branch(step.alone, skip, compute)
    graph.add_output(found, "probabilities", ["B", "T", vocabulary])


def _add_logits(graph: OnnxGraph, model: "PreTrainedModel", x: str) -> str:
    head, table = model.lm_head.weight, model.model.embed_tokens.weight
    factor = float(getattr(model.config, "logits_scaling", 1.0))
    if factor != 1.0:
        x = graph.add_node("Div", x, graph.add_floats(factor))
    name = _EMBEDDING_NAME if head.data_ptr() == table.data_ptr() else _HEAD_NAME
    return graph.add_block_projection(x, head, name)
