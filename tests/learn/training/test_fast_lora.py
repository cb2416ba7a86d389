"""The fast LoRA against torch's own gradients: exactly in float32, and in its shipped precision nearly."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gitpeft.learn.data.batches import PromptedExamples
from gitpeft.learn.models import methods
from gitpeft.learn.training import finetune
from gitpeft.learn.training.fast_lora import engine
from gitpeft.learn.training.fast_lora.arithmetic import PlainProduct
from gitpeft.learn.training.loop import measure_loss, train_model
from gitpeft.learn.training.settings import TrainingSettings
from tests.support import tinymodel
from tests.support.tuning import disturb, trainable

LLAMA3_ROPE = {
    "rope_type": "llama3",
    "rope_theta": 500.0,
    "factor": 8.0,
    "low_freq_factor": 1.0,
    "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}
PLACEMENTS = ("all-linear", "attention", "query-value", "feed-forward")


def tuned(kind: str = "llama", text: str = "lora:rank=4", **changes: Any) -> Any:
    """A random model with a method on it whose weights are no longer those of the start."""
    model = tinymodel.causal(kind, **{"num_hidden_layers": 3, **changes})
    if kind == "qwen2":
        with torch.no_grad():
            for name, bias in model.named_parameters():
                if name.endswith("bias"):
                    bias.normal_(std=0.3)
    model = methods.attach_method(model, methods.make_method(*methods.parse_method(text)))
    disturb(model)
    return model


def inputs(count: int = 3, long: int = 0) -> dict[str, torch.Tensor]:
    pairs = tinymodel.pairs(count)
    pairs += [([7 + i % 300 for i in range(long)], [9, 10, 11])] if long else []
    arrays = PromptedExamples.from_pairs(pairs, 7).collate_batch(range(len(pairs)), 1 << 30, 16, 0)
    return {name: torch.from_numpy(array) for name, array in arrays.items()}


def gradients(model: Any, given: dict[str, torch.Tensor]) -> tuple[float, dict[str, torch.Tensor]]:
    model.zero_grad()
    loss = model(**given).loss
    loss.backward()
    grads = {name: p.grad for name, p in trainable(model).items()}
    return float(loss.detach()), {name: grad.clone() for name, grad in grads.items() if grad is not None}


def with_engine(model: Any, product: Any, dtype: torch.dtype) -> Any:
    vars(model)["forward"] = engine._FastModel(model, product, dtype).forward
    return model


@pytest.mark.parametrize("placement", PLACEMENTS)
@pytest.mark.parametrize("kind", ["llama", "qwen2", "mistral"])
def test_loss_and_gradients_are_those_of_torch(kind: str, placement: str) -> None:
    model, given = tuned(kind, f"lora:rank=4,placement={placement}"), inputs(3, long=300)
    loss, expected = gradients(model, given)
    fast, found = gradients(with_engine(model, PlainProduct, torch.float32), given)
    assert fast == pytest.approx(loss, rel=1e-5)
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, atol=2e-5, rtol=2e-3)


@pytest.mark.parametrize(
    "changes",
    [
        {"tie_word_embeddings": False},
        {"num_key_value_heads": 4},
        {"num_key_value_heads": 1, "head_dim": 16},
        {"rope_parameters": LLAMA3_ROPE},
    ],
    ids=["untied", "no groups", "one key head", "llama3 rope"],
)
def test_shapes_of_a_llama(changes: dict[str, Any]) -> None:
    model, given = tuned(**changes), inputs()
    loss, expected = gradients(model, given)
    fast, found = gradients(with_engine(model, PlainProduct, torch.float32), given)
    assert fast == pytest.approx(loss, rel=1e-5)
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, atol=2e-5, rtol=2e-3)


def test_layers_without_an_update_are_passed_through() -> None:
    model, given = tuned(text="lora:rank=4,layers=decoder.1"), inputs()
    loss, expected = gradients(model, given)
    fast, found = gradients(with_engine(model, PlainProduct, torch.float32), given)
    assert fast == pytest.approx(loss, rel=1e-5) and found.keys() == expected.keys()
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, atol=2e-5, rtol=2e-3)


def test_updates_that_are_not_trained_count_all_the_same() -> None:
    """The lower layers of a short training: their update is in the frozen matrices, and has no gradient."""
    model, given = tuned(), inputs()
    finetune.freeze_lower_layers(model, 0.5)
    loss, expected = gradients(model, given)
    assert {name.split("layers.")[1][0] for name in expected} == {"1", "2"}
    fast, found = gradients(with_engine(model, PlainProduct, torch.float32), given)
    assert fast == pytest.approx(loss, rel=1e-5) and found.keys() == expected.keys()
    for name, one in expected.items():
        torch.testing.assert_close(found[name], one, atol=2e-5, rtol=2e-3)
    with engine.speed_up(model, 1):
        assert gradients(model, given)[0] == pytest.approx(loss, rel=0.02)


def test_in_eight_bits_the_direction_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a machine without fast products as well: they are slow there, not wrong."""
    model, given = tuned(hidden_size=64, intermediate_size=96), inputs(8)
    loss, expected = gradients(model, given)
    with engine.speed_up(model, threads=2):
        fast, found = gradients(model, given)
    assert fast == pytest.approx(loss, rel=0.02)
    a, b = (torch.cat([grads[name].flatten() for name in sorted(grads)]) for grads in (expected, found))
    assert float(torch.cosine_similarity(a, b, dim=0)) > 0.98
    again, _ = gradients(model, given)
    assert again == pytest.approx(loss, rel=1e-6), "afterwards the model computes as before"


def test_two_threads_give_what_one_gives() -> None:
    model, given = tuned(), inputs(6)
    found = []
    for threads in (1, 2):
        with engine.speed_up(model, threads):
            found.append(gradients(model, given))
    assert found[0][0] == found[1][0]
    assert all(torch.equal(one, found[1][1][name]) for name, one in found[0][1].items())


def test_a_training_learns_and_goes_on_from_its_checkpoint(tmp_path: Path) -> None:
    """The loop, its validation and its checkpoints know nothing of the engine."""
    examples = PromptedExamples.from_pairs(tinymodel.pairs(12), 7)
    settings = TrainingSettings(steps=12, batch_tokens=150, lr=2e-2, seed=1)
    whole, cut = tuned(), tuned()
    with engine.speed_up(whole, 1):
        before = measure_loss(whole, examples, settings)
        cost = train_model(whole, examples, settings, valid=examples, checkpoint=tmp_path / "a")
        assert cost.steps == 12 and measure_loss(whole, examples, settings) < before - 0.1

    class KilledError(Exception):
        """The process ends here."""

    def kill(progress: Any) -> None:
        if progress.step == 5:
            raise KilledError

    with engine.speed_up(cut, 1):
        with pytest.raises(KilledError):
            train_model(
                cut,
                examples,
                settings,
                valid=examples,
                evaluate_every=0.01,
                on_step=kill,
                checkpoint=tmp_path / "b",
            )
        again = tuned()
    with engine.speed_up(again, 1):
        train_model(again, examples, settings, valid=examples, checkpoint=tmp_path / "b")
        assert np.isfinite(measure_loss(again, examples, settings))


@pytest.mark.parametrize(
    ("make", "said"),
    [
        (lambda: tuned("granite"), "models of type granite"),
        (lambda: tuned(text="full"), "another method than LoRA"),
        (lambda: tuned(text="adapter:width=8"), "another method than LoRA"),
        (lambda: tuned(text="hybrid:rank=4,full=decoder.1"), "another method than LoRA"),
        (lambda: tuned(text="lora:rank=4,dropout=0.1"), "a variant of LoRA"),
        (lambda: tuned(hidden_act="gelu"), "an activation"),
    ],
)
def test_what_cannot_be_sped_up_is_named(
    make: Callable[[], Any], said: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(engine, "_has_int8_products", lambda: True)
    assert engine.find_obstacle(make()).startswith(said)
    assert engine.find_obstacle(tuned()) == ""
    monkeypatch.setattr(engine, "_has_int8_products", lambda: False)
    assert "processor" in engine.find_obstacle(tuned())
