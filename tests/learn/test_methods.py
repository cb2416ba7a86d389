"""Tuning methods: what each trains and leaves alone, and that merging, saving and loading lose nothing."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gitpeft.errors import GitpeftError
from gitpeft.learn import methods
from gitpeft.learn.methods import Method
from tests import tinymodel
from tests.learn.test_pointer import batch

SMALL = Method(rank=4, alpha=8, dropout=0.0)
FULL = methods.of("full")


def outputs(model: Any) -> torch.Tensor:
    with torch.no_grad():
        found: torch.Tensor = model.eval()(**batch()).logits
    return found


def trainable(model: Any) -> dict[str, torch.Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def disturb(model: Any) -> None:
    """Give everything that may be trained another value, as training would."""
    torch.manual_seed(3)
    with torch.no_grad():
        for parameter in trainable(model).values():
            parameter.add_(0.05 * torch.randn_like(parameter))


@pytest.mark.parametrize("make", [tinymodel.pointer_t5, tinymodel.plain_t5], ids=["pointer", "plain"])
def test_lora_starts_as_the_base_and_trains_nothing_of_it(make: Any) -> None:
    base = outputs(make())
    model = methods.attach(make(), SMALL)
    torch.testing.assert_close(outputs(model), base)
    names = list(trainable(model))
    assert names and all("lora_" in name for name in names)
    assert sum(p.numel() for p in trainable(model).values()) < 0.5 * sum(
        p.numel() for p in model.parameters()
    )


def test_lora_reaches_every_linear_layer_of_the_pointer_head() -> None:
    names = set(trainable(methods.attach(tinymodel.pointer_t5(), SMALL)))
    for part in ("pointer.query", "pointer.key", "pointer.token", "EncDecAttention.k", "DenseReluDense.wi"):
        assert any(part in name for name in names), part
    assert not any("shared" in name or "lm_head" in name or "gate" in name for name in names)


@pytest.mark.parametrize("make", [tinymodel.pointer_t5, tinymodel.plain_t5], ids=["pointer", "plain"])
def test_merged_lora_says_what_unmerged_lora_says(make: Any, tmp_path: Path) -> None:
    model = methods.attach(make(), SMALL)
    disturb(model)
    unmerged = outputs(model)
    methods.save(model, tmp_path)
    assert {"adapter_config.json", "adapter_model.safetensors"} <= {p.name for p in tmp_path.iterdir()}
    assert not [p for p in tmp_path.iterdir() if p.suffix in (".bin", ".pt", ".pkl")]
    merged = methods.load_merged(make(), SMALL, tmp_path)
    assert type(merged) is type(make())
    torch.testing.assert_close(outputs(merged), unmerged, atol=1e-4, rtol=1e-4)
    assert float((unmerged - outputs(make())).abs().max()) > 1e-3


def test_full_trains_everything_and_comes_back(tmp_path: Path) -> None:
    base = tinymodel.pointer_t5()
    base.requires_grad_(False)
    model = methods.attach(base, FULL)
    assert len(trainable(model)) == len(list(model.parameters()))
    disturb(model)
    expected = outputs(model)
    methods.save(model, tmp_path)
    torch.testing.assert_close(outputs(methods.load_merged(tinymodel.pointer_t5(), FULL, tmp_path)), expected)


def test_placements() -> None:
    found = {p: methods.targets("pointer-t5", p) for p in methods.PLACEMENTS}
    assert found["query-value"] == ("q", "v") and found["attention"] == ("q", "k", "v", "o")
    assert found["feed-forward"] == ("wi", "wi_0", "wi_1", "wo")
    assert {"query", "key", "token"} < set(found["all-linear"])
    with pytest.raises(GitpeftError, match="no placement everywhere") as error:
        methods.targets("t5", "everywhere")
    assert "all-linear" in error.value.hint


def test_a_method_by_its_name() -> None:
    assert methods.of("lora").name == "lora" and methods.of("full").name == "full"
    assert methods.of("lora").as_dict()["rank"] == 16
    with pytest.raises(GitpeftError, match="no method magic") as error:
        methods.of("magic")
    assert "lora, full" in error.value.hint
