"""Adapter Tuning as a PEFT method: bottlenecks after attention and feed-forward, and LayerNorms of its own.

PEFT has no such method. Importing this module registers one, `BOTTLENECK`, after which `get_peft_model`,
`save_pretrained`, `PeftModel.from_pretrained` and several adapters in one model work as for any other:

    config = BottleneckConfig(width=64)                       # targets are known for T5, BART, RoBERTa
    model = get_peft_model(model, config)

A bottleneck gives h + up(activation(down(h))) for the output h of a sublayer, before the residual sum
(Houlsby et al. 2019, arXiv 1902.00751, after both sublayers; Pfeiffer et al. 2021, arXiv 2005.00247, after
the feed-forward only). `up` starts at zero, so that a fresh adapter changes nothing. It is not linear and so
cannot be merged: `fold_adapter` merges everything else and leaves the bottlenecks in the model.
"""

import copy
import re
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from peft import PeftConfig, PeftModel
from peft.tuners.tuners_utils import BaseTuner, BaseTunerLayer
from peft.utils import AuxiliaryTrainingWrapper, PeftType, register_peft_method
from peft.utils.other import match_target_against_key
from torch import Tensor, nn
from transformers import PreTrainedModel

from gitpeft.learn.models import architectures

ACTIVATION_MODULES = {"relu": nn.ReLU, "gelu": nn.GELU, "swish": nn.SiLU, "tanh": nn.Tanh}
HOULSBY, PFEIFFER = "houlsby", "pfeiffer"
BOTTLENECK_PLACEMENTS = {HOULSBY: "after_attention+after_feed_forward", PFEIFFER: "after_feed_forward"}
_PEFT_NAME = "bottleneck"


def _extend_peft_types() -> None:
    """`register_peft_method` wants a member of the enumeration, which PEFT does not let others add to."""
    name = _PEFT_NAME.upper()
    if name in PeftType.__members__:
        return
    member = str.__new__(PeftType, name)
    member._name_, member._value_ = name, name
    PeftType._member_names_.append(name)
    PeftType._member_map_[name] = member
    PeftType._value2member_map_[name] = member
    type.__setattr__(PeftType, name, member)


_extend_peft_types()


@dataclass
class BottleneckConfig(PeftConfig):  # type: ignore[misc]
    """Settings of a bottleneck adapter.

    `width` of the bottleneck; `activation`, one of `ACTIVATION_MODULES`; `placement`: houlsby or pfeiffer,
    read where `target_modules` is not given. `target_modules`: the linear layers after which a bottleneck is
    put, `norm_modules`: the LayerNorms that get a copy to train; names or name endings, or one regular
    expression.
    Without them they are those of the model's type. ValueError for an unknown activation or placement.
    """

    width: int = 64
    activation: str = "relu"
    placement: str = HOULSBY
    target_modules: list[str] | str | None = None
    norm_modules: list[str] | str | None = None
    exclude_modules: list[str] | str | None = None
    modules_to_save: list[str] | None = field(default=None)

    def __post_init__(self) -> None:
        super().__post_init__()
        self.peft_type = PeftType.BOTTLENECK
        if self.activation not in ACTIVATION_MODULES:
            raise ValueError(
                f"activation must be one of {', '.join(ACTIVATION_MODULES)}, not {self.activation}"
            )
        if self.placement not in BOTTLENECK_PLACEMENTS:
            raise ValueError(
                f"placement must be one of {', '.join(BOTTLENECK_PLACEMENTS)}, not {self.placement}"
            )
        if self.width < 1:
            raise ValueError("width must be at least 1")


class BottleneckLayer(nn.Module, BaseTunerLayer):  # type: ignore[misc]
    """What both kinds of layer share: a base layer, and modules by adapter name."""

    base_layer: Any
    disable_adapters: bool
    active_adapters: list[str]
    set_adapter: Any
    _move_adapter_to_device_of_base_layer: Any

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__()
        self.base_layer = base_layer
        self.merged_adapters: list[str] = []

    def list_active_modules(self, table: nn.ModuleDict) -> list[nn.Module]:
        """The modules of the active adapters, in their order; none where adapters are disabled."""
        names = [] if self.disable_adapters else self.active_adapters
        return [table[name] for name in names if name in table]

    def merge(self, safe_merge: bool = False, adapter_names: list[str] | None = None) -> None:
        """Refused: ValueError."""
        raise ValueError("a bottleneck adapter is not linear and cannot be merged")

    def unmerge(self) -> None:
        """Nothing is ever merged."""

    def _activate_adapter(self, adapter_name: str, config: BottleneckConfig) -> None:
        self._move_adapter_to_device_of_base_layer(adapter_name)
        self.set_adapter(self.active_adapters, inference_mode=config.inference_mode)


class Bottleneck(BottleneckLayer):
    """A linear layer with a bottleneck behind it. Several active adapters follow each other."""

    adapter_layer_names = ("bottleneck_down", "bottleneck_up")
    other_param_names = ("bottleneck_activation",)

    def __init__(self, base_layer: nn.Linear) -> None:
        super().__init__(base_layer)
        self.in_features, self.out_features = base_layer.in_features, base_layer.out_features
        self.bottleneck_down = nn.ModuleDict()
        self.bottleneck_up = nn.ModuleDict()
        self.bottleneck_activation = nn.ModuleDict()

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add an adapter that is the identity."""
        self.bottleneck_down[adapter_name] = down = nn.Linear(self.out_features, config.width)
        self.bottleneck_up[adapter_name] = up = nn.Linear(config.width, self.out_features)
        self.bottleneck_activation[adapter_name] = ACTIVATION_MODULES[config.activation]()
        nn.init.normal_(down.weight, std=self.out_features**-0.5)
        for parameter in (down.bias, up.weight, up.bias):
            nn.init.zeros_(parameter)
        self._activate_adapter(adapter_name, config)

    def stages(self) -> list[tuple[nn.Linear, nn.Module, nn.Linear]]:
        """(down, activation, up) of the active adapters, in the order in which they act."""
        tables = (self.bottleneck_down, self.bottleneck_activation, self.bottleneck_up)
        found: Any = zip(*(self.list_active_modules(table) for table in tables), strict=True)
        return list(found)

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the linear layer's, (…, in) to (…, out)."""
        hidden: Tensor = self.base_layer(x, *args, **kwargs)
        for down, activation, up in self.stages():
            hidden = hidden + up(activation(down(hidden.to(down.weight.dtype)))).to(hidden.dtype)
        return hidden


class OwnNorm(BottleneckLayer):
    """A LayerNorm of which each adapter has its own copy. Several active adapters: the last one's counts."""

    adapter_layer_names = ("bottleneck_norm",)

    def __init__(self, base_layer: nn.Module) -> None:
        super().__init__(base_layer)
        self.bottleneck_norm = nn.ModuleDict()

    def update_layer(self, adapter_name: str, config: BottleneckConfig) -> None:
        """Add a copy for an adapter."""
        self.bottleneck_norm[adapter_name] = copy.deepcopy(self.base_layer)
        self._activate_adapter(adapter_name, config)

    @property
    def active_norm(self) -> nn.Module:
        """The norm that is used now."""
        found: nn.Module = [self.base_layer, *self.list_active_modules(self.bottleneck_norm)][-1]
        return found

    def forward(self, x: Tensor, *args: Any, **kwargs: Any) -> Tensor:
        """As the norm's. PEFT keeps copies in 32 bits, also where the base goes on in half precision."""
        found: Tensor = self.active_norm(x, *args, **kwargs)
        precision = self.base_layer.weight.dtype
        return found if precision == torch.float32 else found.to(precision)


class BottleneckModel(BaseTuner):  # type: ignore[misc]
    """The tuner behind `BottleneckConfig`; ValueError where a target is no linear layer or too narrow."""

    prefix = f"{_PEFT_NAME}_"
    tuner_layer_cls = BottleneckLayer
    target_module_mapping: dict[str, list[str]] = {}  # noqa: RUF012 - PEFT's attribute; see the method below

    def _prepare_adapter_config(
        self, peft_config: BottleneckConfig, model_config: dict[str, object]
    ) -> BottleneckConfig:
        kind = model_config.get("model_type", "")
        if peft_config.target_modules is None and kind not in architectures.ARCHITECTURES:
            raise ValueError("Please specify `target_modules` in `peft_config`")
        region = architectures.LayerRegion()
        if peft_config.target_modules is None:
            part = BOTTLENECK_PLACEMENTS[peft_config.placement]
            peft_config.target_modules = architectures.find_modules(self.model, part, region)
            if peft_config.norm_modules is None:
                peft_config.norm_modules = architectures.find_modules(self.model, "norm", region)
        return peft_config

    @staticmethod
    def _check_target_module_exists(peft_config: BottleneckConfig, key: str) -> bool | re.Match[str] | None:
        found = BaseTuner._check_target_module_exists(peft_config, key)
        return found or _is_norm(peft_config, key) or found

    def _create_and_replace(
        self,
        peft_config: BottleneckConfig,
        adapter_name: str,
        target: nn.Module,
        target_name: str,
        parent: nn.Module,
        current_key: str,
        parameter_name: str | None = None,
    ) -> None:
        layer: Any = (
            target if isinstance(target, BottleneckLayer) else _wrap_module(target, peft_config, current_key)
        )
        if layer is not target:
            layer.set_adapter(self.active_adapters)
        layer.update_layer(adapter_name, peft_config)
        if layer is not target:
            self._replace_module(parent, target_name, layer, target)

    def _check_merge_allowed(self) -> None:
        raise ValueError("a bottleneck adapter is not linear and cannot be merged; `unload` takes it out")


def _is_norm(config: BottleneckConfig, key: str) -> bool:
    names = config.norm_modules
    if not names:
        return False
    return bool(match_target_against_key(names, key)) if isinstance(names, str) else _matches_name(names, key)


def _matches_name(names: Sequence[str], key: str) -> bool:
    return key in names or any(key.endswith(f".{name}") for name in names)


def _wrap_module(target: nn.Module, config: BottleneckConfig, key: str) -> BottleneckLayer:
    if _is_norm(config, key):
        return OwnNorm(target)
    if not isinstance(target, nn.Linear):
        raise ValueError(f"{key} is no linear layer: a bottleneck cannot follow it")
    if config.width >= target.out_features:
        raise ValueError(
            f"width {config.width} is no bottleneck after {key}, which has {target.out_features}"
        )
    return Bottleneck(target)


register_peft_method(name=_PEFT_NAME, config_cls=BottleneckConfig, model_cls=BottleneckModel)


@torch.no_grad()
def fold_adapter(model: PeftModel) -> PreTrainedModel:
    """The base model with the active adapter merged: norms and fully tuned modules are its own again.

    `Bottleneck` layers stay; exporters look for them.
    """
    inner = model.get_base_model()
    for name, module in list(inner.named_modules()):
        if isinstance(module, OwnNorm):
            inner.set_submodule(name, module.active_norm)
        elif isinstance(module, AuxiliaryTrainingWrapper):
            inner.set_submodule(name, module.unload_and_optionally_merge_module(True, False, None))
    return inner
