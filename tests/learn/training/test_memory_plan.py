"""A training is made to fit a GPU: what it needs, what is done about it, and that it learns the same."""

import random
from contextlib import nullcontext
from typing import Any

import pytest
import torch

from gitpeft.learn.data.batches import PromptedExamples, RenderedExamples
from gitpeft.learn.models import methods
from gitpeft.learn.training import loop, memory_plan
from gitpeft.learn.training.memory_plan import MemoryNeed, MemoryPlan, plan_memory
from gitpeft.learn.training.settings import TrainingSettings
from tests.support import tinymodel

GIB = 2**30


def need_of(weights: float, trained: float, layers: int, width: int) -> MemoryNeed:
    """Of a causal model with so many weights, of which a share is trained."""
    states = layers * width
    frozen = int(4 * weights * (1 - trained))
    return MemoryNeed(
        frozen,
        int(20 * weights * trained),
        memory_plan.CAUSAL_BYTES * states,
        memory_plan.RECOMPUTED_BYTES * states,
    )


def test_what_fits_is_left_as_it_is() -> None:
    """Half a billion weights, all trained, on 24 GB: batches of 8 prompts."""
    need = need_of(0.5e9, 1.0, 24, 1024)
    assert plan_memory(need, 8 * 512, 24 * GIB) == MemoryPlan()
    assert need.count(8 * 512, MemoryPlan()) == pytest.approx(16.4e9, rel=5e-3), "as docs/methods.md says"


@pytest.mark.parametrize(
    ("free", "expected"),
    [
        (40, MemoryPlan()),
        (16, MemoryPlan(parts=2)),
        (8, MemoryPlan(1, True, True)),
        (5, MemoryPlan(2, True, True)),
    ],
)
def test_less_memory_costs_more_time(free: int, expected: MemoryPlan) -> None:
    """LoRA on a billion weights."""
    need = need_of(1e9, 0.01, 32, 2048)
    found = plan_memory(need, 4096, free * GIB)
    assert found == expected
    assert need.count(4096, found) <= 0.85 * free * GIB


def test_where_nothing_fits_the_smallest_plan_is_tried() -> None:
    assert plan_memory(need_of(7e9, 1.0, 32, 4096), 4096, 24 * GIB) == MemoryPlan(32, True, True)


def test_weights_are_counted_by_what_trains_them() -> None:
    plain = tinymodel.causal()
    total = sum(p.numel() for p in plain.parameters())
    full = MemoryNeed.from_model(methods.attach_method(plain, methods.make_method("full")))
    assert (full.frozen, full.staying, full.token) == (0, 20 * total, 64 * 2 * 32)
    tuned = methods.attach_method(tinymodel.causal(), methods.make_method("lora", {"rank": 4}))
    lora = MemoryNeed.from_model(tuned)
    embedding = 400 * 32
    trained = sum(p.numel() for p in tuned.parameters() if p.requires_grad)
    norms = sum(p.numel() for n, p in tuned.named_parameters() if "norm" in n)
    assert lora.frozen == 4 * (total - embedding - norms)
    assert lora.staying == 4 * (embedding + norms) + 20 * trained
    other = MemoryNeed.from_model(tinymodel.plain_t5())
    assert other.token == 200 * 4 * 32


SOURCE, TARGET = {"llama": 240, "t5": 496}, 16


def make_usual(kind: str) -> tuple[Any, Any]:
    """A small model with the proportions of a Llama, or of `mini`, and four examples of equal lengths."""
    dice = random.Random(0)
    pairs = [
        ([dice.randrange(12, 400) for _ in range(SOURCE[kind])], [dice.randrange(12, 400)] * TARGET)
        for _ in range(4)
    ]
    if kind == "llama":
        model = tinymodel.causal(
            hidden_size=128, intermediate_size=342, head_dim=64, num_attention_heads=2, num_key_value_heads=1
        )
        data: Any = PromptedExamples.from_pairs(pairs, 3)
    else:
        model = tinymodel.plain_t5(
            d_model=128, d_kv=32, num_heads=4, d_ff=512, num_layers=4, num_decoder_layers=2, dropout_rate=0.1
        )
        data = RenderedExamples.from_pairs(pairs)
    model.set_attn_implementation("sdpa")
    for part in model.modules():
        if hasattr(part, "config"):
            part.config.use_cache = False  # as bases are loaded
    return model, data


def count_kept_bytes(model: Any, data: Any, examples: int) -> int:
    """What autograd keeps of a forward pass beside the weights."""
    weights = {p.untyped_storage().data_ptr() for p in model.parameters()}
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        storage = tensor.untyped_storage()
        if storage.data_ptr() not in weights:
            kept[storage.data_ptr()] = storage.nbytes()
        return tensor

    inputs = loop._load_batch(data, range(examples), TrainingSettings(), torch.device("cpu"), model)
    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        loss = loop._compute_loss(inputs, model)
    assert loss.requires_grad  # what was kept is there until here
    return sum(kept.values())


@pytest.mark.parametrize("method", ["full", "lora:rank=16", "adapter:width=64"])
@pytest.mark.parametrize(
    ("kind", "recompute", "planned"),
    [
        ("llama", False, memory_plan.CAUSAL_BYTES),
        ("t5", False, memory_plan.OTHER_BYTES),
        ("llama", True, memory_plan.RECOMPUTED_BYTES),
        ("t5", True, memory_plan.RECOMPUTED_BYTES),
    ],
)
def test_a_token_takes_no_more_than_is_planned_for_it(
    kind: str, recompute: bool, planned: int, method: str
) -> None:
    """For each unit of width in each layer, of two examples more; what weights take once is no part of it."""
    model, data = make_usual(kind)
    model = methods.attach_method(model, methods.make_method(*methods.parse_method(method))).train()
    states = memory_plan._count_states(model.config)
    with memory_plan.follow_plan(model, MemoryPlan(recompute=recompute)):
        more = count_kept_bytes(model, data, 4) - count_kept_bytes(model, data, 2)
    each = more / states / (2 * (SOURCE[kind] + TARGET))
    assert 0.55 * planned < each <= planned, "enough, and not twice as much as it takes"


@pytest.mark.parametrize("make", [tinymodel.causal, tinymodel.plain_t5, tinymodel.pointer_t5])
def test_computed_again_a_step_is_the_same(make: Any, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(loop, "_autocast_bfloat16", lambda device: nullcontext())
    pairs = [(source, [*message, 1]) for source, message in tinymodel.pairs(8)]
    causal = make is tinymodel.causal
    data: Any = PromptedExamples.from_pairs(pairs, 3) if causal else RenderedExamples.from_pairs(pairs)
    again: list[int] = []
    forward = torch.nn.Linear.forward

    def counted(self: Any, x: Any) -> Any:
        again.append(1)
        return forward(self, x)

    monkeypatch.setattr(torch.nn.Linear, "forward", counted)
    found, calls = [], []
    for plan in (MemoryPlan(), MemoryPlan(recompute=True)):
        model = methods.attach_method(make(), methods.make_method("full"))
        monkeypatch.setattr(loop, "_plan_memory", lambda *_, plan=plan: plan)
        again.clear()
        loop.train_model(model, data, TrainingSettings(steps=2, batch_tokens=400, lr=1e-3, clip=1e9))
        calls.append(len(again))
        found.append({name: p.detach() for name, p in model.named_parameters()})
    assert calls[1] > calls[0], "forward passes are repeated"
    for name, one in found[0].items():
        assert torch.allclose(found[1][name], one, atol=1e-5), name


def test_frozen_matrices_in_bf16_give_the_same_loss_and_come_back_wide() -> None:
    """Under autocast they are multiplied in that type anyway."""
    model = methods.attach_method(tinymodel.causal(), methods.make_method("lora", {"rank": 4}))
    ids = torch.arange(10, 40)[None]
    with torch.autocast("cpu", dtype=torch.bfloat16), torch.no_grad():
        before = model(input_ids=ids, labels=ids).loss
        with memory_plan.follow_plan(model, MemoryPlan(narrow=True)):
            kinds = {p.dtype for n, p in model.named_parameters() if "base_layer" in n}
            assert kinds == {torch.bfloat16} and torch.equal(model(input_ids=ids, labels=ids).loss, before)
    assert {p.dtype for p in model.parameters()} == {torch.float32}


@pytest.mark.parametrize(("name", "free"), [("full", 24), ("lora", 10)])
def test_half_a_billion_weights_train_in_24_gb(name: str, free: int) -> None:
    """The shape of Qwen2.5-0.5B, without data: 8 prompts of 512 tokens and their messages at once."""
    with torch.device("meta"):
        from transformers import AutoConfig, AutoModelForCausalLM

        config = AutoConfig.for_model(
            "qwen2", vocab_size=151_936, hidden_size=896, intermediate_size=4864, num_hidden_layers=24,
            num_attention_heads=14, num_key_value_heads=2, tie_word_embeddings=True,
        )  # fmt: skip
        model: Any = AutoModelForCausalLM.from_config(config)
        if name == "lora":
            model = methods.attach_method(model, methods.make_method("lora", {"rank": 16}))
    weights = sum(p.numel() for p in model.parameters())
    assert 0.49e9 < weights < 0.51e9
    need, tokens = MemoryNeed.from_model(model), 8 * 560
    assert plan_memory(need, tokens, free * 10**9) == MemoryPlan()
    assert need.count(tokens, MemoryPlan()) < 0.85 * free * 10**9


def test_frozen_matrices_may_be_narrow_in_any_case() -> None:
    need = need_of(1e9, 0.01, 32, 2048)
    assert plan_memory(need, 4096, 40 * GIB, narrowed=True) == MemoryPlan(narrow=True)
    assert plan_memory(need, 4096, 5 * GIB, narrowed=True) == plan_memory(need, 4096, 5 * GIB)
