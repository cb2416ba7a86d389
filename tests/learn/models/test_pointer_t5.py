"""The pointer head: a proper distribution, the same however it is asked, from weights as they are meant."""

from pathlib import Path
from typing import Any

import pytest
import torch

from gitpeft.learn.models.pointer_t5 import PointerT5Config, PointerT5ForConditionalGeneration
from tests.support import tinymodel
from tests.support.tuning import batch


@pytest.fixture(scope="module")
def model() -> Any:
    return tinymodel.pointer_t5()


def test_logits_are_log_probabilities(model: Any) -> None:
    with torch.no_grad():
        logits = model(**batch()).logits
    assert logits.shape == (3, 6, 400)
    torch.testing.assert_close(logits.exp().sum(-1), torch.ones(3, 6), atol=1e-5, rtol=0)
    assert float(logits.max()) <= 1e-6


def test_the_loss_is_the_mean_of_what_the_labels_cost(model: Any) -> None:
    inputs = batch()
    with torch.no_grad():
        done = model(**inputs)
    real = inputs["labels"] != -100
    gold = done.logits[real].gather(1, inputs["labels"][real][:, None])
    torch.testing.assert_close(done.loss, -gold.mean(), atol=1e-4, rtol=0)


def test_training_gives_the_same_loss_and_no_logits() -> None:
    model = tinymodel.pointer_t5(dropout_rate=0.0)
    with torch.no_grad():
        expected = model(**batch()).loss
        model.train()
        done = model(**batch())
    assert done.logits is None
    torch.testing.assert_close(done.loss, expected)


def test_a_closed_gate_never_copies_and_an_open_one_only_copies() -> None:
    model, inputs = tinymodel.pointer_t5(), batch(size=1)
    here = torch.tensor(sorted(set(inputs["input_ids"][0].tolist())))
    for bias, low, high in ((-40.0, 0.0, 0.7), (40.0, 0.999, 1.001)):
        with torch.no_grad():
            model.pointer.gate.weight.zero_()
            model.pointer.gate.bias.fill_(bias)
            copied = model(**inputs).logits.exp()[..., here].sum(-1)
        assert low <= float(copied.min()) <= float(copied.max()) <= high


def test_special_tokens_are_never_copied() -> None:
    model, inputs = tinymodel.pointer_t5(), batch(size=1)
    inputs["input_ids"][0, :8] = torch.tensor([0, 1, 2, 3, 4, 5, 8, 9])
    with torch.no_grad():
        model.pointer.gate.weight.zero_()
        model.pointer.gate.bias.fill_(40.0)
        found = model(**inputs).logits.exp()
    assert float(found[..., : model.config.special_tokens].max()) < 1e-6


def test_what_is_padded_changes_nothing(model: Any) -> None:
    alone = batch(size=1)
    padded = dict(alone)
    for name in ("input_ids", "attention_mask"):
        padded[name] = torch.nn.functional.pad(alone[name], (0, 9))
    with torch.no_grad():
        expected, found = model(**alone), model(**padded)
    torch.testing.assert_close(found.logits, expected.logits, atol=1e-4, rtol=0)
    torch.testing.assert_close(found.loss, expected.loss, atol=1e-4, rtol=0)


def test_generate_is_a_greedy_loop() -> None:
    model = tinymodel.taught(tinymodel.pointer_t5(), tinymodel.pairs(6), steps=25)
    longest = 0
    for source, _ in tinymodel.pairs(4, seed=5):
        ids = torch.tensor([source])
        given = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
        expected = [0]
        with torch.no_grad():
            while len(expected) < 16 and expected[-1] != 1:
                done = model(**given, decoder_input_ids=torch.tensor([expected]))
                expected.append(int(done.logits[0, -1].argmax()))
            found = model.generate(**given, max_new_tokens=15, do_sample=False, num_beams=1)
        assert found[0].tolist() == expected
        longest = max(longest, len(expected))
    assert longest > 3


def test_saved_and_found_by_the_auto_class(model: Any, tmp_path: Path) -> None:
    from transformers import AutoModelForSeq2SeqLM

    model.save_pretrained(tmp_path)
    assert {path.suffix for path in tmp_path.iterdir()} == {".json", ".safetensors"}
    again = AutoModelForSeq2SeqLM.from_pretrained(tmp_path).eval()
    assert type(again) is PointerT5ForConditionalGeneration
    with torch.no_grad():
        torch.testing.assert_close(again(**batch()).logits, model(**batch()).logits)


def test_random_weights_have_the_scale_that_they_are_meant_to_have() -> None:
    """The library once passed over the head and drew its weights, and the embedding's, with deviation 1."""
    width = 128
    torch.manual_seed(0)
    model = PointerT5ForConditionalGeneration(
        PointerT5Config(
            vocab_size=2000, d_model=width, d_kv=16, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=2,
            decoder_start_token_id=0,
        )
    )  # fmt: skip
    for name in ("query", "key", "token"):
        spread = float(getattr(model.pointer, name).weight.detach().std())
        assert spread == pytest.approx(0.5 * width**-0.5, rel=0.05), name
    assert float(model.pointer.gate.weight.detach().abs().max()) == 0
    assert float(model.pointer.gate.bias.detach().abs().max()) == 0
    assert float(model.shared.weight.detach().std()) == pytest.approx(0.2, rel=0.05)
    assert model.lm_head.weight is model.shared.weight
    attention = model.encoder.block[0].layer[0].SelfAttention
    assert float(attention.k.weight.detach().std()) == pytest.approx(width**-0.5, rel=0.05)


def test_a_fresh_model_is_as_undecided_as_its_vocabulary_is_large() -> None:
    """The loss before any training is about that of guessing: nothing is saturated."""
    torch.manual_seed(1)
    config = PointerT5Config(
        vocab_size=2000, d_model=64, d_kv=16, d_ff=64, num_layers=1, num_decoder_layers=1, num_heads=2,
        decoder_start_token_id=0,
    )  # fmt: skip
    fresh = PointerT5ForConditionalGeneration(config).eval()
    with torch.no_grad():
        loss = float(fresh(**batch(vocabulary=2000)).loss)
    assert 6.5 < loss < 9.5  # ln 2000 = 7.6, and half of the mass is on copies


def test_it_needs_to_know_what_it_may_copy(model: Any) -> None:
    with pytest.raises(ValueError, match="source_ids"):
        model(encoder_outputs=(torch.zeros(1, 3, 32),), decoder_input_ids=torch.tensor([[0]]))


def test_attention_by_torch_and_known_places_of_labels_give_the_same_loss() -> None:
    """Both are for a GPU, which is not asked for a value then."""
    model, inputs = tinymodel.pointer_t5(dropout_rate=0.0).train(), batch()
    plain = float(model(**inputs).loss.detach())
    places = (inputs["labels"].flatten() != -100).nonzero().squeeze(1)
    model.set_attn_implementation("sdpa")
    assert float(model(**inputs, label_places=places).loss.detach()) == pytest.approx(plain, abs=1e-5)
