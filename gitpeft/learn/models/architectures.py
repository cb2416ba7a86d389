"""Names of modules in each architecture, so that tuning methods speak of layers, placements and sides only.

A *layer* is `encoder.3` or `decoder.0` in every architecture. A *place* is the full name of a module as
`named_modules` gives it.
"""

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gitpeft.errors import GitpeftError

if TYPE_CHECKING:
    from transformers import PreTrainedModel

SIDES = ("both", "encoder", "decoder")


@dataclass(frozen=True, slots=True)
class Architecture:
    """Names of an architecture. All are regular expressions for whole names.

    `layer` finds a layer at the start of a module's name (groups `side`, missing where there is one stack
    alone, and `number`); the others match what follows it. `outside` are linear layers that are in no layer,
    full names. `causal`: a decoder alone, which reads a prompt and goes on with the message.
    `pooling` says which encoder state stands for the whole input (first, last or mean). `begins_with_end`: a
    message is started by the token that ends it, whatever the configuration says. `wrapped`: tokens around a
    source, by name, where the hook's rendering is not read as it is.
    """

    layer: str
    query_value: str
    attention: str
    feed_forward: str
    after_attention: str
    after_feed_forward: str
    norm: str
    outside: str = ""
    pooling: str = "mean"
    begins_with_end: bool = False
    wrapped: tuple[tuple[str, ...], tuple[str, ...]] = ((), ())
    makes_decoder: bool = False
    causal: bool = False

    @property
    def reading_side(self) -> str:
        """The side that reads a source: a causal model has no other."""
        return "decoder" if self.causal else "encoder"


_T5 = Architecture(
    layer=r"(?P<side>encoder|decoder)\.block\.(?P<number>\d+)",
    query_value=r".*\.[qv]",
    attention=r".*\.[qkvo]",
    feed_forward=r".*\.(wi|wi_0|wi_1|wo)",
    after_attention=r".*Attention\.o",
    after_feed_forward=r".*\.wo",
    norm=r".*\.layer_norm",
)
_POINTER_T5 = replace(_T5, outside=r"pointer\.(query|key|token)")
_BART = Architecture(
    layer=r"(?:model\.)?(?P<side>encoder|decoder)\.layers\.(?P<number>\d+)",
    query_value=r".*\.[qv]_proj",
    attention=r".*\.([qkv]_proj|out_proj)",
    feed_forward=r"fc[12]",
    after_attention=r".*attn\.out_proj",
    after_feed_forward=r"fc2",
    norm=r".*layer_norm",
    pooling="last",
    wrapped=(("<s>",), ("</s>",)),
)
_ROBERTA = Architecture(
    layer=r"(?:(?P<side>encoder|decoder)\.)?(?:roberta\.)?encoder\.layer\.(?P<number>\d+)",
    query_value=r".*\.(query|value)",
    attention=r".*attention\.(self\.(query|key|value)|output\.dense)",
    feed_forward=r"(intermediate|output)\.dense",
    after_attention=r".*attention\.output\.dense",
    after_feed_forward=r"output\.dense",
    norm=r".*\.LayerNorm",
    pooling="first",
    wrapped=(("<s>",), ("</s>",)),
    makes_decoder=True,
)
_LLAMA = Architecture(
    layer=r"(?:(?:model|encoder)\.)?layers\.(?P<number>\d+)",
    query_value=r"self_attn\.[qv]_proj",
    attention=r"self_attn\.[qkvo]_proj",
    feed_forward=r"mlp\.(gate|up|down)_proj",
    after_attention=r"self_attn\.o_proj",
    after_feed_forward=r"mlp\.down_proj",
    norm=r"(input|post_attention)_layernorm",
    causal=True,
)
ARCHITECTURES = {
    "t5": _T5,
    "pointer-t5": _POINTER_T5,
    "bart": _BART,
    "plbart": replace(_BART, begins_with_end=True),
    "roberta": _ROBERTA,
    "encoder-decoder": _ROBERTA,
    "llama": _LLAMA,
    "qwen2": _LLAMA,
    "qwen3": _LLAMA,
    "mistral": _LLAMA,
    "granite": _LLAMA,
    "smollm3": _LLAMA,
}
"""The architectures by `model_type`. `encoder-decoder` is a RoBERTa with a decoder made for it."""


def is_causal(model_type: str) -> bool:
    """Whether models of a type are causal language models; False for a type that is not supported."""
    return model_type in ARCHITECTURES and ARCHITECTURES[model_type].causal


def get_reading_stack(model: "PreTrainedModel") -> "PreTrainedModel":
    """The part of a message model that turns a source into hidden states: its encoder, or a causal model's
    only stack."""
    causal = is_causal(model.config.model_type)
    found: PreTrainedModel = model.get_decoder() if causal else model.get_encoder()
    return found


def find_architecture(model_type: str) -> Architecture:
    """The architecture of a model type; GitpeftError when it is not supported."""
    if model_type not in ARCHITECTURES:
        raise GitpeftError(
            f"models of type {model_type} cannot be tuned", f"known are {', '.join(sorted(ARCHITECTURES))}"
        )
    return ARCHITECTURES[model_type]


@dataclass(frozen=True, slots=True)
class LayerRegion:
    """Which layers of a model a method reaches: a side, and there all layers or the named ones."""

    side: str = "both"
    layers: tuple[str, ...] = ()
    without: tuple[str, ...] = ()

    def contains_layer(self, layer: str) -> bool:
        """Whether `encoder.3` is in it."""
        chosen = not self.layers or layer in self.layers
        return chosen and layer not in self.without and self.side in ("both", layer.partition(".")[0])


def map_layers(model: "PreTrainedModel") -> dict[str, str]:
    """The layers of a model, in order, and the module that each of them is."""
    return {
        layer: place[: len(place) - len(tail) - 1] for place, layer, tail in _iterate_layer_modules(model)
    }


def find_modules(model: "PreTrainedModel", part: str, region: LayerRegion) -> list[str]:
    """The modules of a model in a region that a pattern of its architecture (`attention`, `norm`, …) matches.

    GitpeftError when none matches, or when the region names a layer that the model does not have.
    """
    _check_layer_names(model, region)
    architecture = find_architecture(model.config.model_type)
    pattern = "|".join(getattr(architecture, name) for name in part.split("+"))
    found = [
        p
        for p, layer, tail in _iterate_layer_modules(model)
        if region.contains_layer(layer) and re.fullmatch(pattern, tail)
    ]
    if not found:
        raise GitpeftError(
            f"the base has no module for {part} in {region.side}, layers {', '.join(region.layers) or 'all'}",
            f"it is a {model.config.model_type} with the layers {_join_names(map_layers(model))}",
        )
    return found


def find_outside_linears(model: "PreTrainedModel") -> list[str]:
    """The linear modules outside of all layers that `all-linear` tunes as well."""
    pattern = find_architecture(model.config.model_type).outside
    return [name for name, _ in model.named_modules() if pattern and re.fullmatch(pattern, name)]


def _iterate_layer_modules(model: "PreTrainedModel") -> Iterator[tuple[str, str, str]]:
    """Modules that lie in a layer: full name, layer, and the name inside of it."""
    architecture = find_architecture(model.config.model_type)
    pattern = re.compile(architecture.layer + r"\.(?P<tail>.+)")
    for name, _ in model.named_modules():
        if found := pattern.fullmatch(name):
            side = found.groupdict().get("side") or architecture.reading_side
            yield name, f"{side}.{found['number']}", found["tail"]


def _check_layer_names(model: "PreTrainedModel", region: LayerRegion) -> None:
    known = map_layers(model)
    for name in (*region.layers, *region.without):
        if name not in known:
            raise GitpeftError(f"the base has no layer {name}", f"its layers are {_join_names(known)}")


def _join_names(names: Sequence[str] | dict[str, str]) -> str:
    return ", ".join(names) or "unknown to gitpeft"
