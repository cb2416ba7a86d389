"""Tuning methods: what each trains and leaves alone, and that merging, saving and loading lose nothing."""

from functools import partial
from pathlib import Path
from typing import Any

import pytest
import torch

from gitpeft.errors import GitpeftError
from gitpeft.learn.models import architectures, methods
from gitpeft.learn.models.architectures import LayerRegion
from tests.support import tinymodel
from tests.support.tuning import SMALL, TEXTS, batch, disturb, named, trainable

FULL = methods.make_method("full")

MAKERS = [tinymodel.pointer_t5, tinymodel.plain_t5, tinymodel.bart]
every = pytest.mark.parametrize("make", MAKERS, ids=["pointer", "plain", "bart"])
texts = pytest.mark.parametrize("text", TEXTS)


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**batch()).logits
    return found


@every
@texts
def test_a_method_starts_as_the_base_and_comes_back_folded(make: Any, text: str, tmp_path: Path) -> None:
    base, method = outputs(make()), named(text, make)
    model = methods.attach_method(make(), method)
    torch.testing.assert_close(outputs(model), base)
    share = sum(p.numel() for p in trainable(model).values()) / sum(p.numel() for p in model.parameters())
    assert share == 1 if method.name == "full" else 0 < share < 0.6
    disturb(model)
    tuned = outputs(model)
    assert float((tuned - base).abs().max()) > 1e-3
    methods.save_trained_weights(model, tmp_path)
    assert {p.suffix for p in tmp_path.iterdir()} <= {".json", ".safetensors", ".md"}
    folded = methods.load_merged_model(make(), method, tmp_path)
    assert type(folded) is type(make())
    torch.testing.assert_close(outputs(folded), tuned, atol=1e-4, rtol=1e-4)


def test_lora_reaches_every_linear_layer_of_the_pointer_head() -> None:
    names = set(trainable(methods.attach_method(tinymodel.pointer_t5(), SMALL)))
    for part in ("pointer.query", "pointer.key", "pointer.token", "EncDecAttention.k", "DenseReluDense.wi"):
        assert any(part in name for name in names), part
    assert not any("shared" in name or "lm_head" in name or "gate" in name for name in names)


def test_full_trains_everything_even_what_was_frozen() -> None:
    base = tinymodel.pointer_t5()
    base.requires_grad_(False)
    assert len(trainable(methods.attach_method(base, FULL))) == len(list(base.parameters()))


def lora_targets(text: str) -> set[str]:
    model = methods.attach_method(tinymodel.plain_t5(), named(text))
    return {name.partition(".lora_")[0].removeprefix("base_model.model.") for name in trainable(model)}


def test_placements_sides_and_layers() -> None:
    ends = {
        placement: {name.rpartition(".")[2] for name in lora_targets(f"lora:rank=4,placement={placement}")}
        for placement in methods.LORA_PLACEMENTS
    }
    assert ends == {
        "all-linear": {"q", "k", "v", "o", "wi", "wo"},
        "attention": {"q", "k", "v", "o"},
        "query-value": {"q", "v"},
        "feed-forward": {"wi", "wo"},
    }
    assert {name.partition(".")[0] for name in lora_targets("lora:rank=4,side=decoder")} == {"decoder"}
    chosen = lora_targets("lora:rank=4,layers=encoder.1+decoder.0")
    assert {".".join(name.split(".")[:3]) for name in chosen} == {"encoder.block.1", "decoder.block.0"}


def test_hybrid_tunes_its_layers_in_full_and_the_others_as_it_says() -> None:
    for rest, mark in (("lora", ".lora_"), ("adapter", ".bottleneck_")):
        model = methods.attach_method(
            tinymodel.plain_t5(),
            methods.make_method("hybrid", {"rest": rest, "full": ("encoder.1",), **SIZES[rest]}),
        )
        names = trainable(model)
        inside = {name for name in names if "encoder.block.1." in name}
        assert inside and all("modules_to_save" in name for name in inside)
        assert sum(names[name].numel() for name in inside) == sum(
            p.numel() for p in tinymodel.plain_t5().encoder.block[1].parameters()
        )
        assert all(mark in name for name in names.keys() - inside) and names.keys() - inside


SIZES = {"lora": {"rank": 4}, "adapter": {"width": 8}}


def _loss(seed: int, model: Any) -> torch.Tensor:
    found: torch.Tensor = model(**batch(seed)).loss
    return found


def test_probing_ranks_the_layer_first_that_the_task_would_change_most() -> None:
    """The score is computed anew here, from the definition."""
    model = tinymodel.plain_t5()
    before = {name: p.detach().clone() for name, p in model.named_parameters()}
    model.shared.requires_grad_(False)
    ranked = methods.rank_layers(model, [partial(_loss, s) for s in range(2)])
    expected = dict.fromkeys(architectures.map_layers(model), 0.0)
    for seed in range(2):
        again = tinymodel.plain_t5()
        again(**batch(seed)).loss.backward()
        for layer, place in architectures.map_layers(again).items():
            both = [(p.grad, p.detach()) for p in again.get_submodule(place).parameters()]
            gradient, weight = (
                torch.cat([part.flatten() for part in column]) for column in zip(*both, strict=True)
            )
            expected[layer] += float(gradient.norm() / weight.norm()) / 2
    assert dict(ranked) == pytest.approx(expected, rel=1e-4) and len(set(expected.values())) == 4
    assert {layer for layer, _ in ranked} == {"encoder.0", "encoder.1", "decoder.0", "decoder.1"}
    assert [score for _, score in ranked] == sorted((score for _, score in ranked), reverse=True)
    assert all(torch.equal(p, before[name]) and p.grad is None for name, p in model.named_parameters())
    assert not model.shared.weight.requires_grad and model.lm_head.weight.requires_grad is False


def test_the_layers_of_each_architecture() -> None:
    assert architectures.map_layers(tinymodel.plain_t5()) == {
        "encoder.0": "encoder.block.0", "encoder.1": "encoder.block.1",
        "decoder.0": "decoder.block.0", "decoder.1": "decoder.block.1",
    }  # fmt: skip
    assert architectures.map_layers(tinymodel.roberta()) == {
        "encoder.0": "roberta.encoder.layer.0", "encoder.1": "roberta.encoder.layer.1",
    }  # fmt: skip
    assert architectures.map_layers(tinymodel.bart())["decoder.0"] == "model.decoder.layers.0"


# --- written by people --------------------------------------------------------------------------------------


@texts
def test_a_method_is_read_as_it_is_spelt(text: str) -> None:
    method = named(text)
    assert methods.make_method(*methods.parse_method(methods.format_method(method))) == method
    assert methods.format_method(methods.make_method(method.name)) == method.name


def test_what_is_not_said_follows_from_what_is() -> None:
    assert named("lora:rank=4").alpha == 8 and named("lora:rank=4,alpha=5").alpha == 5
    assert named("hybrid:rest=adapter").placement == "houlsby"
    assert methods.make_method("hybrid", {"full": ["encoder.0"]}).full == ("encoder.0",)
    assert set(methods.make_method("full").as_dict()) == {"name", "lr"}
    assert "width" in methods.make_method("hybrid", {"rest": "adapter"}).as_dict()


@pytest.mark.parametrize(
    ("text", "sentence", "hint"),
    [
        ("magic", "unknown method .magic.", "lora, adapter, full, hybrid"),
        ("lora:rank", "unknown option 'rank'", "KEY=VALUE"),
        ("lora:depth=3", "unknown option 'depth=3'", "rank"),
        ("lora:rank=big", "rank cannot be big", "a number"),
        ("lora:width=3", "lora has no option 'width'", "rank"),
        ("full:rank=3", "full has no option 'rank'", "lr"),
        ("lora:rank=0", "rank must be at least 1", "rank=8"),
        ("lora:placement=houlsby", "unknown placement .houlsby.", "all-linear"),
        ("adapter:placement=attention", "unknown placement .attention.", "pfeiffer"),
        ("adapter:activation=step", "unknown activation .step.", "gelu"),
        ("lora:side=left", "unknown side .left.", "encoder"),
        ("hybrid:rest=full", "unknown rest .full.", "adapter"),
        ("lora:lr=2", "lr in", "lr="),
    ],
)
def test_what_is_wrong_is_a_sentence(text: str, sentence: str, hint: str) -> None:
    with pytest.raises(GitpeftError, match=sentence) as error:
        methods.parse_method(text)
    assert hint in error.value.hint


@pytest.mark.parametrize(
    ("text", "sentence", "hint"),
    [
        ("lora:rank=33", "rank 33 is above the width 32 of", "rank=8"),
        ("adapter:width=32", "width 32 is no bottleneck after", "width=32"),
        ("lora:rank=4,layers=encoder.9", "no layer encoder.9", "encoder.0, encoder.1"),
        ("hybrid:full=middle.0", "no layer middle.0", "decoder.1"),
        ("lora:rank=4,side=encoder,layers=decoder.0", "no module for", "t5"),
        ("hybrid", "not chosen", "full=encoder.3"),
    ],
)
def test_what_does_not_fit_the_base_is_a_sentence(text: str, sentence: str, hint: str) -> None:
    with pytest.raises(GitpeftError, match=sentence) as error:
        methods.attach_method(tinymodel.plain_t5(), named(text))
    assert hint in error.value.hint


def test_a_base_whose_modules_have_other_names() -> None:
    model = tinymodel.plain_t5()
    model.encoder.block, model.decoder.block = torch.nn.ModuleList(), torch.nn.ModuleList()
    for text in ("lora", "adapter"):
        with pytest.raises(GitpeftError, match="the base has no module for") as error:
            methods.attach_method(model, named(text))
        assert "unknown to gitpeft" in error.value.hint
    model.config.model_type = "gpt2"
    with pytest.raises(GitpeftError, match="of type gpt2 cannot be tuned"):
        architectures.find_modules(model, "norm", LayerRegion())
