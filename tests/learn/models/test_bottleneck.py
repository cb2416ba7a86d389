"""Adapter Tuning as a PEFT method: an identity at first, trained by itself, kept by PEFT's means."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from peft import PeftModel, get_peft_model

from gitpeft.learn.models import bottleneck
from gitpeft.learn.models.bottleneck import Bottleneck, BottleneckConfig, OwnNorm
from tests.support import tinymodel
from tests.support.tuning import batch

MODELS: dict[str, Callable[..., Any]] = {
    "t5": tinymodel.plain_t5,
    "pointer-t5": tinymodel.pointer_t5,
    "roberta": tinymodel.roberta,
    "bart": tinymodel.bart,
}
CONFIG: dict[str, Any] = {"width": 8}

every = pytest.mark.parametrize("name", MODELS)


def inputs(name: str) -> dict[str, torch.Tensor]:
    given = batch()
    return {**given, "labels": torch.tensor([0, 1, 1])} if name == "roberta" else given


@torch.no_grad()
def said(model: Any, name: str) -> torch.Tensor:
    found: torch.Tensor = model.eval()(**inputs(name)).logits
    return found


def learn(model: Any, name: str, steps: int = 25) -> list[float]:
    """Losses of some steps on one batch."""
    torch.manual_seed(0)
    optimiser = torch.optim.Adam([p for p in model.parameters() if p.requires_grad], lr=0.02)
    losses = []
    model.train()
    for _ in range(steps):
        optimiser.zero_grad()
        loss = model(**inputs(name)).loss
        loss.backward()
        optimiser.step()
        losses.append(float(loss.detach()))
    return losses


def weights(model: Any) -> dict[str, torch.Tensor]:
    return {key: value.detach().clone() for key, value in model.named_parameters()}


def layers(model: Any, kind: type) -> list[str]:
    return [key for key, module in model.named_modules() if isinstance(module, kind)]


@every
def test_a_fresh_adapter_changes_no_bit(name: str) -> None:
    before = said(MODELS[name](), name)
    model = get_peft_model(MODELS[name](), BottleneckConfig(**CONFIG))
    assert torch.equal(said(model, name), before)


@every
def test_it_learns_and_changes_nothing_but_adapters_and_norms(name: str) -> None:
    model = get_peft_model(MODELS[name](), BottleneckConfig(**CONFIG))
    before, plain = weights(model), said(MODELS[name](), name)
    losses = learn(model, name)
    assert losses[-1] < losses[0] - 0.1
    changed = {key for key, value in model.named_parameters() if not torch.equal(value, before[key])}
    assert changed == {key for key, value in model.named_parameters() if value.requires_grad}
    parts = {"bottleneck_down", "bottleneck_up", "bottleneck_norm"}
    assert {part for key in changed for part in key.split(".") if part.startswith("bottleneck")} == parts
    assert all(".bottleneck_" in key for key in changed)
    with model.disable_adapter():
        assert torch.equal(said(model, name), plain)
    assert torch.equal(said(model.unload(), name), plain)


@every
def test_saved_and_loaded_it_says_the_same_to_the_bit(name: str, tmp_path: Path) -> None:
    model = get_peft_model(MODELS[name](), BottleneckConfig(**CONFIG))
    learn(model, name, 3)
    expected = said(model, name)
    model.save_pretrained(tmp_path)
    files = {path.name for path in tmp_path.iterdir()}
    assert files - {"README.md"} == {"adapter_config.json", "adapter_model.safetensors"}
    assert json.loads((tmp_path / "adapter_config.json").read_text())["peft_type"] == "BOTTLENECK"
    again = PeftModel.from_pretrained(MODELS[name](), tmp_path)
    assert torch.equal(said(again, name), expected)
    assert not [key for key, value in again.named_parameters() if value.requires_grad]
    folded = bottleneck.fold_adapter(again)
    assert type(folded) is type(MODELS[name]()) and torch.equal(said(folded, name), expected)
    assert layers(folded, Bottleneck) and not layers(folded, OwnNorm)


@every
def test_two_adapters_in_one_model(name: str, tmp_path: Path) -> None:
    outputs = []
    for seed, folder in enumerate(("first", "second")):
        model = get_peft_model(MODELS[name](), BottleneckConfig(width=4 + seed, activation="gelu"))
        learn(model, name, 3 + seed)
        outputs.append(said(model, name))
        model.save_pretrained(tmp_path / folder)
    both = PeftModel.from_pretrained(MODELS[name](), tmp_path / "first", adapter_name="first")
    both.load_adapter(str(tmp_path / "second"), adapter_name="second")
    assert torch.equal(said(both, name), outputs[0])
    both.set_adapter("second")
    assert torch.equal(said(both, name), outputs[1]) and not torch.equal(outputs[0], outputs[1])
    both.set_adapter("first")
    both.delete_adapter("second")
    assert torch.equal(said(both, name), outputs[0])


def test_houlsby_is_after_both_sublayers_and_pfeiffer_after_the_feed_forward() -> None:
    model = get_peft_model(tinymodel.plain_t5(), BottleneckConfig(**CONFIG))
    parts = {name.rpartition(".")[0].rpartition(".")[2] for name in layers(model, Bottleneck)}
    assert parts == {"SelfAttention", "EncDecAttention", "DenseReluDense"}
    assert len(layers(model, Bottleneck)) == 2 * 2 + 2 * 3 == len(layers(model, OwnNorm))
    later = get_peft_model(tinymodel.plain_t5(), BottleneckConfig(placement="pfeiffer", **CONFIG))
    assert all(name.endswith("DenseReluDense.wo") for name in layers(later, Bottleneck))
    assert len(layers(later, Bottleneck)) == 4
    roberta = get_peft_model(tinymodel.roberta(), BottleneckConfig(placement="pfeiffer", **CONFIG))
    assert [name for name in layers(roberta, Bottleneck) if "attention" in name] == []
    assert len(layers(roberta, Bottleneck)) == 2


def test_a_bottleneck_is_what_the_paper_says() -> None:
    layer: Any = Bottleneck(torch.nn.Linear(6, 8))
    layer.set_adapter("default")
    layer.update_layer("default", BottleneckConfig(width=3, activation="tanh"))
    torch.nn.init.normal_(layer.bottleneck_up["default"].weight)
    x = torch.randn(5, 6)
    h = layer.base_layer(x)
    down, up = layer.bottleneck_down["default"], layer.bottleneck_up["default"]
    expected = h + torch.tanh(h @ down.weight.T + down.bias) @ up.weight.T + up.bias
    torch.testing.assert_close(layer(x), expected)


def test_it_cannot_be_merged() -> None:
    model = get_peft_model(tinymodel.plain_t5(), BottleneckConfig(**CONFIG))
    for merge in (model.merge_and_unload, model.merge_adapter):
        with pytest.raises(ValueError, match="cannot be merged"):
            merge()


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"activation": "step"}, "activation must be one of relu"),
        ({"placement": "above"}, "placement must be one of houlsby"),
        ({"width": 0}, "at least 1"),
        ({"width": 32}, "no bottleneck after encoder"),
        ({"width": 4, "target_modules": ["shared"]}, "no linear layer"),
    ],
)
def test_what_cannot_be_is_refused(settings: dict[str, Any], sentence: str) -> None:
    with pytest.raises(ValueError, match=sentence):
        get_peft_model(tinymodel.plain_t5(), BottleneckConfig(**settings))


@every
@pytest.mark.parametrize("precision", [torch.bfloat16, torch.float16])
def test_a_base_in_half_precision(name: str, precision: torch.dtype) -> None:
    """As `models/mini` is stored, and as `from_pretrained` loads it."""
    before = said(MODELS[name]().to(precision), name)
    model = get_peft_model(MODELS[name]().to(precision), BottleneckConfig(**CONFIG))
    kept = {value.dtype for key, value in model.named_parameters() if value.requires_grad}
    assert kept == {torch.float32}
    torch.testing.assert_close(said(model, name), before, atol=0.05, rtol=0.05)


def test_targets_may_be_a_pattern() -> None:
    config = BottleneckConfig(width=4, target_modules=r".*\.wo", norm_modules=r".*final_layer_norm")
    model = get_peft_model(tinymodel.plain_t5(), config)
    assert len(layers(model, Bottleneck)) == 4 and len(layers(model, OwnNorm)) == 2
