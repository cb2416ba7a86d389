"""Tuning methods (LoRA, bottleneck adapters, full, hybrid): settings, and how each is attached to a base.

Also how trained weights are saved, loaded, merged, and started from. A method is a row of a table.
"""

import json
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from gitpeft.errors import GitpeftError
from gitpeft.learn.models import architectures
from gitpeft.learn.models.architectures import SIDES, LayerRegion

if TYPE_CHECKING:
    from peft import LoraConfig, PeftConfig, PeftModel
    from torch import Tensor
    from transformers import PreTrainedModel

    from gitpeft.learn.models.bottleneck import BottleneckConfig

SettingValue = str | int | float | Sequence[str]
MethodSettings = Mapping[str, SettingValue]
"""Settings of a method by name, as `--method` gives them and manifests store them."""

LORA_PLACEMENTS = {
    "all-linear": "attention+feed_forward",
    "attention": "attention",
    "query-value": "query_value",
    "feed-forward": "feed_forward",
}
"""The placements of LoRA, and the patterns of `Architecture` that each stands for."""

BOTTLENECK_PLACEMENTS = {"houlsby": "after_attention+after_feed_forward", "pfeiffer": "after_feed_forward"}
"""The placements of a bottleneck, likewise."""


@dataclass(frozen=True, slots=True)
class TuningMethod:
    """A method and its settings, the same for every base and task.

    `rank`, `alpha`, `dropout`: LoRA's; its update is scaled by alpha / rank. `width`, `activation`: the
    adapter's bottleneck. `placement`: one of `LORA_PLACEMENTS` or `BOTTLENECK_PLACEMENTS`. `side` and
    `layers` (such as `encoder.0`) restrict both; no layers means all. `lr`: peak rate of AdamW.

    `hybrid` tunes the layers `full` completely and the others as `rest` (lora or adapter) says; where `full`
    is empty, the `probe` layers that a gradient pass ranks highest (see `rank_layers`).
    """

    name: str = "lora"
    rank: int = 16
    alpha: int = 32
    dropout: float = 0.0
    width: int = 64
    activation: str = "relu"
    placement: str = "all-linear"
    side: str = "both"
    layers: tuple[str, ...] = ()
    full: tuple[str, ...] = ()
    probe: int = 1
    rest: str = "lora"
    lr: float = 2e-3

    def as_dict(self) -> dict[str, Any]:
        """For the manifest: the settings that this method uses."""
        read = _METHOD_ROWS[self.name].settings
        if self.name == "hybrid":
            read = (*read, *(name for name in _METHOD_ROWS[self.rest].settings if name not in read))
        return {name: value for name, value in asdict(self).items() if name in ("name", "lr", *read)}

    def stays_on(self, side: str) -> bool:
        """Whether everything that it names is on this side, so that it can tune that side alone."""
        return self.side in ("both", side) and all(
            name.startswith(side) for name in (*self.layers, *self.full)
        )

    @property
    def keeps_bottlenecks(self) -> bool:
        """Whether bottlenecks stay in the model when everything else is merged."""
        return "adapter" in (self.name, self.rest if self.name == "hybrid" else "")


_LORA_SETTINGS = ("rank", "alpha", "dropout", "placement", "side", "layers")
_ADAPTER_SETTINGS = ("width", "activation", "placement", "side", "layers")

DEFAULT_METHODS = {
    "lora": TuningMethod(),
    "adapter": TuningMethod(name="adapter", placement="houlsby", lr=5e-3),
    "full": TuningMethod(name="full", lr=5e-4),
    "hybrid": TuningMethod(name="hybrid", lr=1e-3),
}
"""The methods by name, each with its default settings."""

CAUSAL_RATES = {"lora": 4e-4, "adapter": 1e-3, "full": 5e-5, "hybrid": 2e-4}
"""Peak rates for causal language models, where none is given: they are larger, and pretrained for long. That
of LoRA was found on validation commits, the others keep their distance to it."""


# --- by name ------------------------------------------------------------------------------------------------


def make_method(name: str, settings: MethodSettings | None = None, *, causal: bool = False) -> TuningMethod:
    """The method of this name with its default settings, or those given; GitpeftError for an invalid one.

    The default learning rate depends on the family of the base: `causal` language models or others.
    """
    if name not in DEFAULT_METHODS:
        raise GitpeftError(f"unknown method '{name}'", f"known are {', '.join(DEFAULT_METHODS)}")
    given: dict[str, Any] = {k: tuple(v) if isinstance(v, list) else v for k, v in (settings or {}).items()}
    default = DEFAULT_METHODS[name]
    if causal:
        default = replace(default, lr=CAUSAL_RATES[name])
    rest = given.get("rest", default.rest) if name == "hybrid" else name
    known = {
        "lr",
        *_METHOD_ROWS[name].settings,
        *(_METHOD_ROWS[rest].settings if rest in _METHOD_ROWS else ()),
    }
    if unknown := given.keys() - known:
        raise GitpeftError(
            f"the method {name} has no option '{min(unknown)}'", f"it has {', '.join(sorted(known))}"
        )
    if rest == "adapter" and "placement" not in given:
        default = replace(default, placement=DEFAULT_METHODS["adapter"].placement)
    if "rank" in given and "alpha" not in given:
        given["alpha"] = 2 * given["rank"]
    method = replace(default, **given)
    _check_values(method)
    return method


def parse_method(text: str) -> tuple[str, dict[str, SettingValue]]:
    """Name and settings of `lora:rank=8,placement=query-value`; a `+` joins several layers.

    GitpeftError for another form, and for an unknown method or option.
    """
    name, _, rest = text.partition(":")
    settings: dict[str, SettingValue] = {}
    types: dict[str, type] = {name: type(value) for name, value in asdict(TuningMethod()).items()}
    for item in filter(None, rest.split(",")):
        key, equals, value = item.partition("=")
        if key not in types or not equals:
            known = ", ".join(types)
            raise GitpeftError(f"unknown option '{item}'", f"write KEY=VALUE; keys are {known}")
        try:
            settings[key] = tuple(value.split("+")) if types[key] is tuple else types[key](value)
        except ValueError:
            raise GitpeftError(f"{key} cannot be {value}", f"it is a number, such as {key}=8") from None
    make_method(name, settings)
    return name, settings


def format_method(method: TuningMethod) -> str:
    """The short form that `parse_method` reads, without settings that have their default."""
    given = {}
    default = make_method(method.name, {"rest": method.rest} if method.name == "hybrid" else {})
    for key, value in method.as_dict().items():
        implied = 2 * method.rank if key == "alpha" else getattr(default, key)
        if key != "name" and (
            value != implied or (key == "rest" and value != DEFAULT_METHODS["hybrid"].rest)
        ):
            given[key] = "+".join(value) if isinstance(value, tuple) else value
    listed = ",".join(f"{key}={value}" for key, value in given.items())
    return f"{method.name}:{listed}" if listed else method.name


def _check_values(method: TuningMethod) -> None:
    """GitpeftError for values that are wrong for every base."""
    allowed = BOTTLENECK_PLACEMENTS if method.keeps_bottlenecks else LORA_PLACEMENTS
    choices: dict[str, Iterable[str]] = {"side": SIDES}
    if method.name != "full":
        choices["placement"] = allowed
    if method.name == "hybrid":
        choices["rest"] = ("lora", "adapter")
    if method.keeps_bottlenecks:
        choices["activation"] = ("relu", "gelu", "swish", "tanh")
    for key, known in choices.items():
        if (value := getattr(method, key)) not in known:
            raise GitpeftError(f"unknown {key} '{value}'", f"known are {', '.join(known)}")
    for key in ("rank", "width", "alpha", "probe"):
        if getattr(method, key) < 1:
            raise GitpeftError(f"{key} must be at least 1", f"such as {key}=8")
    if not 0 <= method.dropout < 1 or not 0 < method.lr < 1:
        raise GitpeftError("dropout must be in [0, 1) and lr in (0, 1)", "such as dropout=0.1,lr=0.001")


# --- attaching ----------------------------------------------------------------------------------------------


def attach_method(model: "PreTrainedModel", method: TuningMethod) -> "PreTrainedModel | PeftModel":
    """The model, ready to be tuned: only what the method trains requires gradients.

    GitpeftError when the base has no module where the method goes, or is narrower than rank or width. A
    hybrid by probing needs its layers chosen first (`rank_layers`).
    """
    return _METHOD_ROWS[method.name].attach(model, method)


def _attach_lora(model: "PreTrainedModel", method: TuningMethod) -> "PreTrainedModel | PeftModel":
    config = _lora_config(model, method, LayerRegion(method.side, method.layers))
    config.modules_to_save = _list_fresh_modules(model) or None
    return _wrap_with_peft(model, config)


def _attach_adapter(model: "PreTrainedModel", method: TuningMethod) -> "PreTrainedModel | PeftModel":
    config = _adapter_config(model, method, LayerRegion(method.side, method.layers))
    config.modules_to_save = _list_fresh_modules(model) or None
    return _wrap_with_peft(model, config)


def _attach_full(model: "PreTrainedModel", method: TuningMethod) -> "PreTrainedModel | PeftModel":
    for parameter in model.parameters():
        parameter.requires_grad_(True)
    return model


def _attach_hybrid(model: "PreTrainedModel", method: TuningMethod) -> "PreTrainedModel | PeftModel":
    """The chosen layers as PEFT's `modules_to_save`, the rest as their method attaches them."""
    if not method.full:
        raise GitpeftError(
            "hybrid: the layers for full tuning are not chosen", "name them, as in full=encoder.3"
        )
    region = LayerRegion(method.side, method.layers, without=method.full)
    build = _adapter_config if method.rest == "adapter" else _lora_config
    config, known = build(model, method, region), architectures.map_layers(model)
    fresh = _list_fresh_modules(model)
    chosen = [known[layer] for layer in method.full]
    inside = tuple(f"{name}." for name in fresh)
    config.modules_to_save = [*fresh, *(place for place in chosen if not place.startswith(inside))]
    return _wrap_with_peft(model, config)


def _lora_config(model: "PreTrainedModel", method: TuningMethod, region: LayerRegion) -> "LoraConfig":
    from peft import LoraConfig

    region = _exclude_fresh_layers(model, region)
    targets = architectures.find_modules(model, LORA_PLACEMENTS[method.placement], region)
    if method.placement == "all-linear" and region == LayerRegion(without=region.without):
        targets += architectures.find_outside_linears(model)
    narrowest = min((min(model.get_submodule(name).weight.shape), name) for name in targets)
    if method.rank > narrowest[0]:
        raise GitpeftError(
            f"rank {method.rank} is above the width {narrowest[0]} of {narrowest[1]}",
            "choose a smaller rank, as in --method lora:rank=8",
        )
    return LoraConfig(
        task_type=_peft_task_type(model),
        r=method.rank,
        lora_alpha=method.alpha,
        lora_dropout=method.dropout,
        target_modules=targets,
    )


def _adapter_config(
    model: "PreTrainedModel", method: TuningMethod, region: LayerRegion
) -> "BottleneckConfig":
    from gitpeft.learn.models.bottleneck import BottleneckConfig

    region = _exclude_fresh_layers(model, region)
    targets = architectures.find_modules(model, BOTTLENECK_PLACEMENTS[method.placement], region)
    narrowest = min((model.get_submodule(name).out_features, name) for name in targets)
    if method.width >= narrowest[0]:
        raise GitpeftError(
            f"width {method.width} is no bottleneck after {narrowest[1]}, which has {narrowest[0]}",
            "choose a smaller width, as in --method adapter:width=32",
        )
    return BottleneckConfig(
        task_type=_peft_task_type(model),
        width=method.width,
        activation=method.activation,
        placement=method.placement,
        target_modules=targets,
        norm_modules=architectures.find_modules(model, "norm", region),
    )


def _peft_task_type(model: "PreTrainedModel") -> str | None:
    """PEFT's task type of the model, unless it says otherwise itself; None: none of PEFT's."""
    causal = architectures.is_causal(model.config.model_type)
    return getattr(model, "gitpeft_task", "CAUSAL_LM" if causal else "SEQ_2_SEQ_LM")


def _list_fresh_modules(model: "PreTrainedModel") -> list[str]:
    """Modules with random weights, which every method trains in full: a decoder or a classifier."""
    return list(getattr(model, "gitpeft_fresh", ()))


def _exclude_fresh_layers(model: "PreTrainedModel", region: LayerRegion) -> LayerRegion:
    """Low-rank updates of random weights are pointless: such layers are left to full tuning."""
    inside = tuple(f"{name}." for name in _list_fresh_modules(model))
    fresh = tuple(
        layer for layer, place in architectures.map_layers(model).items() if place.startswith(inside or "\0")
    )
    return replace(region, without=(*region.without, *fresh))


def _wrap_with_peft(model: "PreTrainedModel", config: "PeftConfig") -> "PeftModel":
    from peft import get_peft_model

    return get_peft_model(model, config)


class _MethodRow(NamedTuple):
    """A method: how it is attached, and the settings that it reads."""

    attach: "Callable[[PreTrainedModel, TuningMethod], PreTrainedModel | PeftModel]"
    settings: tuple[str, ...]


_METHOD_ROWS = {
    "lora": _MethodRow(_attach_lora, _LORA_SETTINGS),
    "adapter": _MethodRow(_attach_adapter, _ADAPTER_SETTINGS),
    "full": _MethodRow(_attach_full, ()),
    "hybrid": _MethodRow(_attach_hybrid, ("full", "probe", "rest")),
}


# --- probing ------------------------------------------------------------------------------------------------


def rank_layers(
    model: "PreTrainedModel", losses: "Iterable[Callable[[PreTrainedModel], Tensor]]"
) -> list[tuple[str, float]]:
    """The layers of a base with their scores, the one that the task would change most first.

    The score is the relative gradient norm ‖g‖ / ‖w‖ of a layer, averaged over the losses, each of which is
    called with the model (Lee et al. 2023, "Surgical Fine-Tuning", arXiv 2210.11466, Auto-RGN). The model is
    left as it was; layers with random weights are not ranked.
    """
    import torch

    wanted = [(p, p.requires_grad) for p in model.parameters()]
    model.requires_grad_(True)
    inside = tuple(f"{name}." for name in _list_fresh_modules(model)) or ("\0",)
    places = {layer: at for layer, at in architectures.map_layers(model).items() if not at.startswith(inside)}
    parts = {layer: list(model.get_submodule(at).parameters()) for layer, at in places.items()}
    scores, count = dict.fromkeys(parts, 0.0), 0
    for loss in losses:
        model.zero_grad(set_to_none=True)
        loss(model).backward()  # type: ignore[no-untyped-call]
        count += 1
        for layer, weights in parts.items():
            grads = [p.grad.float().norm() for p in weights if p.grad is not None]
            sizes = [p.detach().float().norm() for p in weights]
            if grads:
                scores[layer] += float(torch.stack(grads).norm() / torch.stack(sizes).norm().clamp(min=1e-12))
    model.zero_grad(set_to_none=True)
    for parameter, before in wanted:
        parameter.requires_grad_(before)
    averaged = ((layer, score / max(count, 1)) for layer, score in scores.items())
    return sorted(averaged, key=lambda item: (-item[1], item[0]))


# --- saving and loading ------------------------------------------------------------------------------------


def save_trained_weights(model: "PreTrainedModel | PeftModel", folder: Path) -> None:
    """Write what was trained: PEFT's adapter files, or a full model's; safetensors either way."""
    model.save_pretrained(folder)


def load_merged_model(base_model: "PreTrainedModel", method: TuningMethod, folder: Path) -> "PreTrainedModel":
    """The base merged with what `save_trained_weights` wrote, ready for export.

    A plain model; bottlenecks, which cannot be merged, stay in it as `bottleneck.Bottleneck`.
    """
    if method.name == "full":
        from safetensors.torch import load_file

        base_model.load_state_dict(load_file(folder / "model.safetensors"), strict=False)
        return base_model
    from peft import PeftModel

    if not method.keeps_bottlenecks:
        return PeftModel.from_pretrained(base_model, folder).merge_and_unload()
    from gitpeft.learn.models import bottleneck

    return bottleneck.fold_adapter(PeftModel.from_pretrained(base_model, folder))


def continues_adapter(method: TuningMethod, folder: Path) -> bool:
    """Whether a method trains the very matrices that the LoRA in `folder` has, so that it can start there."""
    try:
        config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
        known = config["peft_type"], config["r"], config["lora_alpha"]
    except (OSError, ValueError, KeyError, TypeError):
        raise GitpeftError(f"{folder} is damaged", "get the base again, or name another one") from None
    shape = replace(method, lr=DEFAULT_METHODS["lora"].lr, rank=16, alpha=32)
    return shape == DEFAULT_METHODS["lora"] and known == ("LORA", method.rank, method.alpha)


def warm_start_model(model: "PreTrainedModel", method: TuningMethod, folder: str) -> "PreTrainedModel":
    """The model with the weights that `save_trained_weights` wrote into `folder`; unchanged when it is "".

    Only weights are restored. The optimiser starts anew: its moments belong to other examples. GitpeftError
    when those are not the weights of this method on this base.
    """
    if not folder:
        return model
    from safetensors.torch import load_file

    full = method.name == "full"
    tensors = load_file(Path(folder) / ("model.safetensors" if full else "adapter_model.safetensors"))
    try:
        if full:
            unknown = model.load_state_dict(tensors, strict=False).unexpected_keys
        else:
            from peft import set_peft_model_state_dict

            unknown = set_peft_model_state_dict(model, tensors).unexpected_keys
    except (RuntimeError, KeyError) as error:
        reason = str(error).splitlines()[-1].strip()[:160]
        raise GitpeftError(f"the installed model's weights do not fit: {reason}", _SCRATCH_HINT) from None
    if unknown:
        raise GitpeftError(f"the installed model has weights that do not fit: {unknown[0]}", _SCRATCH_HINT)
    return model


_SCRATCH_HINT = "`gitpeft train --from-scratch` starts from the base"
