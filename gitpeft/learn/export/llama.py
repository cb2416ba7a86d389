"""Causal language models (Llama and its relatives) as three ONNX graphs: two halves and the output layer.

They are run one after the other, and are loaded and read a prompt side by side: one half of the layers works
on the second part of a prompt while the other works on the first. The same graphs read a prompt and write a
message. To read a prompt the halves are run on one hypothesis, as often as the prompt has parts, without a
prefix, and give keys and values. To write, the prompt's keys and values are its prefix, one for all
hypotheses and never repeated: all hypotheses, and all query heads that share a key head, look at the same
array.

Weights stay outside of the model (see `OnnxGraph`), under the names that they have in `transformers`; those
of layers that are multiplied at once are joined by `NAME_JOINT`.

Shapes: S prefix, B hypotheses, T new tokens, P past tokens, E = P + T, N query heads, K key heads, G = N / K,
H head width, V vocabulary.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np
import torch
from numpy.typing import NDArray

from gitpeft.bundle.bundle import CAUSAL_GRAPHS, WEIGHTS_FILE
from gitpeft.errors import GitpeftError
from gitpeft.learn.export.attention import MASKED_SCORE, add_bottlenecks, add_position_range
from gitpeft.learn.export.graph import FUSED_DOMAIN, OnnxGraph, tensor_to_array
from gitpeft.learn.export.graph import save_graphs as save_models
from gitpeft.runtime.onnx_model import STATES_OUTPUT
from gitpeft.share.quantisation import NAME_JOINT

if TYPE_CHECKING:
    from torch import nn
    from transformers import PreTrainedModel
    from transformers.models.llama.modeling_llama import (
        LlamaAttention,
        LlamaDecoderLayer,
        LlamaMLP,
        LlamaRMSNorm,
    )

_HEAD_NAME, _EMBEDDING_NAME = "lm_head.weight", "model.embed_tokens.weight"
_STREAM = "sum", "update"
_MIDDLE, _TOP = "middle", "top"
"""Where the residual stream goes from one graph to the next."""

_PROBED_DEPTH = 2 / 3
"""How far up the layers the hidden states are that a probe reads: what readers say of a message shows there
best, and less below and above (layers 10, 15, 20, 25 and 30 of 30)."""

_LEAST_SCALE = 1e-20


def save_graphs(model: "PreTrainedModel", quantise: bool, folder: Path) -> None:
    """Write the three graphs, and their weights beside them.

    The lower half of the layers reads `tokens` (B, T) and gives `middle.sum` and `middle.update` (1, B·T, D),
    the residual stream and what is still to be added to it. The upper half goes on from there, and gives
    `top.sum` and `top.update`, and on its way `states` (1, B·T, D), the hidden states that a reranker's probe
    reads. The output layer makes `probabilities` (B, T, V) of what is at the top; it is not run while the
    prompt is read. All three read `tokens`, the latter two for their shape alone.

    Further inputs of the halves are `prefix.I.key/value` (1, K, S, H) and `past.I.key/value` (B, K, P, H) for
    each of their layers I; `present.I.key/value` (B, K, E, H) are the next step's past. Without a prefix, the
    rest of the last layer is left out, and `top` lacks it: of a prompt only the keys and values are needed.
    GitpeftError for a model whose attention does not reach all earlier positions.
    """
    settings = _read_settings(model)
    width = int(model.config.hidden_size)
    parts = lower, upper, head = [OnnxGraph(quantise, outside=WEIGHTS_FILE) for _ in CAUSAL_GRAPHS]
    half = settings.layers // 2
    probed = max(half, round(_PROBED_DEPTH * settings.layers))
    step = _Step(lower, settings, range(half))
    stream = _ResidualStream(lower, settings, _add_embedding(lower, model, step.tokens))
    _add_layers(step, step.layers, model, stream).hand_over(_MIDDLE, width)
    step = _Step(upper, settings, range(half, settings.layers))
    stream = _continue_stream(upper, settings, _MIDDLE, width)
    _add_layers(step, range(half, probed), model, stream).show_states(STATES_OUTPUT, width)
    _add_layers(step, range(probed, settings.layers), model, stream).hand_over(_TOP, width)
    _add_probabilities(head, model, settings)
    save_models(dict(zip(CAUSAL_GRAPHS, parts, strict=True)), folder, WEIGHTS_FILE)


def _add_layers(
    step: "_Step", layers: range, model: "PreTrainedModel", stream: "_ResidualStream"
) -> "_ResidualStream":
    """Some layers of a step; returns the stream behind them."""
    for number in layers:
        place, layer = f"model.layers.{number}", model.model.layers[number]
        normed = stream.normalise(layer.input_layernorm)
        heads = _add_heads(step, normed, number, layer.self_attn, f"{place}.self_attn")

        add_rest = partial(_add_rest, step, stream, number, heads, layer, place)
        if number < step.settings.layers - 1:
            add_rest()
        else:  # while a prompt is read, nobody asks for more than this layer's keys and values
            stream.skip_where(step.alone, add_rest)
    return stream


def _add_rest(
    step: "_Step",
    stream: "_ResidualStream",
    number: int,
    heads: tuple[str, str, str],
    layer: "LlamaDecoderLayer",
    place: str,
) -> None:
    """What a layer does with its queries, keys and values."""
    stream.add_update(_add_attention(step, *heads, number, layer.self_attn, f"{place}.self_attn"))
    normed = stream.normalise(layer.post_attention_layernorm)
    stream.add_update(_add_feed_forward(step.graph, normed, layer.mlp, f"{place}.mlp"))


def _continue_stream(graph: OnnxGraph, settings: "_Settings", place: str, width: int) -> "_ResidualStream":
    """The residual stream (1, B·T, width) that another graph hands over at a place."""
    parts = (graph.add_input(f"{place}.{name}", "float", [1, "N", width]) for name in _STREAM)
    return _ResidualStream(graph, settings, *parts)


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
    if layers < 2:
        raise GitpeftError("cannot export a model with a single layer", "choose a base with more layers")
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

    def __init__(self, graph: OnnxGraph, settings: _Settings, start: str, update: str = "") -> None:
        self._graph, self._settings = graph, settings
        self._sum, self._update = start, update

    def hand_over(self, place: str, width: int) -> None:
        """Make the stream (1, B·T, width) outputs of the graph, for another that goes on from there."""
        for name, value in zip(_STREAM, (self._sum, self._update), strict=True):
            self._graph.add_output(value, f"{place}.{name}", [1, "N", width])

    def show_states(self, name: str, width: int) -> None:
        """Make the hidden states (1, B·T, width) that are reached an output of the graph."""
        shape: list[int | str] = [1, "N", width]
        self._graph.add_output_node("Add", self._sum, self._update, name=name, shape=shape)

    def add_update(self, update: str) -> None:
        """A layer's result, to be added."""
        if self._settings.residual_scale != 1.0:
            update = self._graph.add_node(
                "Mul", update, self._graph.add_floats(self._settings.residual_scale)
            )
        self._update = update

    def skip_where(self, condition: str, add_layer: Callable[[], None]) -> None:
        """Leave the stream as it is where `condition` (one bool) is true, else add what a layer does."""
        before = self._sum, self._update

        def go_on() -> Sequence[str]:
            add_layer()
            return self._sum, self._update

        def skip() -> Sequence[str]:
            return [self._graph.add_node("Identity", part) for part in before]

        self._sum, self._update = self._graph.add_multi_branch(condition, skip, go_on)

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

    def __init__(self, graph: OnnxGraph, settings: _Settings, layers: range) -> None:
        self.graph, self.settings, self.layers = graph, settings, layers
        tokens = graph.add_input("tokens", "int64", ["B", "T"])
        for number in layers:
            for part in ("key", "value"):
                tail = [settings.key_heads, settings.head_width]
                graph.add_input(f"prefix.{number}.{part}", "float", [1, tail[0], "S", tail[1]])
                graph.add_input(f"past.{number}.{part}", "float", ["B", tail[0], "P", tail[1]])
        self.tokens = graph.add_reshape(tokens, 1, -1)
        self._shape = graph.add_node("Shape", tokens)
        self._shapes: dict[tuple[int, ...], str] = {}
        prefix = graph.add_node("Shape", f"prefix.{layers[0]}.key", start=2, end=3)
        past = graph.add_node("Shape", f"past.{layers[0]}.key", start=2, end=3)
        new = graph.add_node("Shape", tokens, start=1)
        end = graph.add_node("Add", past, new)
        first = graph.add_node("Add", prefix, past)
        self.alone = graph.add_node("Equal", prefix, graph.add_ints(0))
        self.lengths = graph.add_node("Concat", prefix, end, axis=0)
        self.rotation = self._add_rotation(first, graph.add_node("Add", first, new))
        self.mask = self._add_mask(past, end)
        heads, group = graph.add_ints(settings.key_heads), settings.heads // settings.key_heads
        count, width = graph.add_node("Shape", tokens, end=1), graph.add_ints(settings.head_width)
        rest = graph.add_ints(-1)
        # Shapes: of what attention gives, and of scores of own keys for all hypotheses together and apart.
        self.grouped = graph.add_node("Concat", heads, count, graph.add_ints(group), new, width, axis=0)
        self.mixed = graph.add_node("Concat", heads, count, rest, width, axis=0)
        self.joined = graph.add_node("Concat", graph.add_ints(1), heads, rest, end, axis=0)
        self.apart = graph.add_node("Concat", heads, count, rest, end, axis=0)

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


def _add_heads(
    step: _Step, x: str, number: int, module: "LlamaAttention", place: str
) -> tuple[str, str, str]:
    """Queries (B, T, N·H) of new tokens, and the present's keys and values, outputs of the graph."""
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
    return query, key, value


def _add_attention(
    step: _Step, query: str, key: str, value: str, number: int, module: "LlamaAttention", place: str
) -> str:
    """Attention of new tokens to prefix, past and themselves (see `_add_heads`)."""
    graph, settings = step.graph, step.settings
    heads, key_heads, width = settings.heads, settings.key_heads, settings.head_width
    grouped = step.split_hypotheses(query, key_heads, heads // key_heads, width)
    query = graph.add_node("Transpose", grouped, perm=[2, 0, 3, 1, 4])
    mixed = _mix_values(step, query, key, value, number)
    mixed = graph.add_node("Reshape", mixed, step.grouped)
    whole = graph.add_node("Transpose", mixed, perm=[1, 3, 0, 2, 4])
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
    shape: list[int | str] = ["B", settings.key_heads, "E", settings.head_width]
    past, present = f"past.{number}.{part}", f"present.{number}.{part}"
    return graph.add_output_node("Concat", past, new, name=present, shape=shape, axis=2)


def _mix_values(step: _Step, query: str, key: str, value: str, number: int) -> str:
    """Attention of queries (K, B, G, T, H) to the prefix and to keys and values (B, K, E, H).

    The result has K·B·G·T·H numbers in the order of the queries. To the prefix all hypotheses are one long
    query, so that it is read from memory once.
    """
    graph, settings = step.graph, step.settings
    rows = graph.add_reshape(query, 1, settings.key_heads, -1, settings.head_width)

    def score(queries: str, keys: str) -> str:
        return graph.add_fused_node("FusedMatMul", queries, keys, transB=1, alpha=settings.score_scale)

    def mix_own() -> str:
        scores = graph.add_node("Add", score(rows, key), step.mask)
        return graph.add_node("MatMul", graph.add_node("Softmax", scores, axis=-1), value)

    def mix_all() -> str:
        before, earlier = (f"prefix.{number}.{part}" for part in ("key", "value"))
        keys, values = (graph.add_node("Transpose", x, perm=[1, 0, 2, 3]) for x in (key, value))
        each = graph.add_reshape(query, 0, 0, -1, settings.head_width)
        own = graph.add_node("Add", score(each, keys), step.mask)
        own = graph.add_node("Reshape", own, step.joined)
        scores = graph.add_node("Concat", score(rows, before), own, axis=-1)
        weights = graph.add_node("Softmax", scores, axis=-1)
        at_prefix, at_own = graph.add_multi_node("xx", "Split", weights, step.lengths, axis=-1)
        at_own = graph.add_node("Reshape", at_own, step.apart)
        found = graph.add_node("Reshape", graph.add_node("MatMul", at_prefix, earlier), step.mixed)
        return graph.add_node("Add", found, graph.add_node("MatMul", at_own, values))

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


def _add_probabilities(graph: OnnxGraph, model: "PreTrainedModel", settings: "_Settings") -> None:
    """The output `probabilities`, from the stream behind the last layer."""
    vocabulary, width = int(model.config.vocab_size), int(model.config.hidden_size)
    shape = graph.add_node("Shape", graph.add_input("tokens", "int64", ["B", "T"]))
    x = _continue_stream(graph, settings, _TOP, width).normalise(model.model.norm)
    found = graph.add_node("Softmax", _add_logits(graph, model, x), axis=-1)
    whole = graph.add_node("Concat", shape, graph.add_ints(vocabulary), axis=0)
    graph.add_output(graph.add_node("Reshape", found, whole), "probabilities", ["B", "T", vocabulary])


def _add_logits(graph: OnnxGraph, model: "PreTrainedModel", x: str) -> str:
    head, table = model.lm_head.weight, model.model.embed_tokens.weight
    factor = float(getattr(model.config, "logits_scaling", 1.0))
    if factor != 1.0:
        x = graph.add_node("Div", x, graph.add_floats(factor))
    name = _EMBEDDING_NAME if head.data_ptr() == table.data_ptr() else _HEAD_NAME
    return graph.add_block_projection(x, head, name)
