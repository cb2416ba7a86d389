"""The operations of a training step against those that torch counts while it runs one."""

from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch.utils.flop_counter import FlopCounterMode

from gitpeft.learn.data.batches import PromptedExamples
from gitpeft.learn.training.flops import StepFlops, measure_matrix_rate
from tests.support import tinymodel


@pytest.mark.parametrize("build", [tinymodel.pointer_t5, tinymodel.plain_t5, tinymodel.bart])
@pytest.mark.parametrize(("source", "target"), [(7, 5), (96, 12)])
def test_what_a_step_needs(build: Callable[[], Any], source: int, target: int) -> None:
    model = build().train()
    model.set_attn_implementation("eager")  # torch does not count inside a fused attention
    ids = torch.randint(9, 400, (3, source))
    labels = torch.randint(9, 400, (3, target))
    with FlopCounterMode(display=False) as counted:
        model(input_ids=ids, attention_mask=torch.ones_like(ids), labels=labels).loss.backward()
    assert StepFlops.from_model(model).count_batch([source] * 3, [target] * 3) == pytest.approx(
        counted.get_total_flops(), rel=0.04
    )


def test_what_a_step_of_a_causal_model_needs() -> None:
    model = tinymodel.causal().train()
    model.set_attn_implementation("eager")
    arrays = PromptedExamples.from_pairs([([9] * 83, [9] * 12)] * 3).collate_batch(range(3), 999, 1, 0)
    with FlopCounterMode(display=False) as counted:
        model(**{name: torch.from_numpy(array) for name, array in arrays.items()}).loss.backward()
    needed = StepFlops.from_model(model).count_batch([83] * 3, [12] * 3)
    assert needed == pytest.approx(counted.get_total_flops(), rel=0.04)


def test_frozen_weights_need_no_gradient_of_their_own() -> None:
    model = tinymodel.plain_t5()
    whole = StepFlops.from_model(model)
    for weight in model.parameters():
        weight.requires_grad_(False)
    assert StepFlops.from_model(model).source == pytest.approx(whole.source * 4 / 6)


def test_a_matrix_product_takes_time() -> None:
    assert 1e8 < measure_matrix_rate(torch.device("cpu"), size=256, rounds=3) < 1e15


def test_without_memory_for_it_no_rate_is_known(monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.cuda.OutOfMemoryError("CUDA out of memory")

    monkeypatch.setattr(torch, "randn", fail)
    assert measure_matrix_rate(torch.device("cpu"), size=256) == 0
