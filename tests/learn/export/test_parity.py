"""Export: three forms of one model agree, and the searches on them find what `transformers` finds."""

import math
from collections.abc import Callable
from dataclasses import replace
from functools import cache
from pathlib import Path
from typing import Any

import pytest

from gitpeft.errors import GitpeftError
from gitpeft.learn.export import parity as exporting
from gitpeft.learn.export.parity import MessageParity, MessageParityBounds, export_model
from gitpeft.learn.models import methods
from gitpeft.runtime import beam_search
from gitpeft.runtime.beam_search import BeamSearch, GenerationTokens
from gitpeft.runtime.onnx_model import EncoderDecoder
from gitpeft.runtime.tokenizer import TokenCodec
from tests.support import tinymodel
from tests.support.tuning import TEXTS, disturb, named

NAN = math.nan
LOOSE = MessageParityBounds(agreement=0.5, nats=0.5, drop=9.0)
MODELS: dict[str, Callable[..., Any]] = {
    "pointer": tinymodel.pointer_t5,
    "pointer, gated": lambda **k: tinymodel.pointer_t5(feed_forward_proj="gated-gelu", **k),
    "plain": tinymodel.plain_t5,
    "plain, untied and gated": lambda **k: tinymodel.untied_t5(feed_forward_proj="gated-gelu", **k),
}


@cache
def taught(name: str) -> Any:
    """One of the models, with a vocabulary of 60, after some lessons."""
    return tinymodel.taught(MODELS[name](vocab_size=60), tinymodel.pairs(12, size=60))


def network(model: Any, quantise: bool = False) -> EncoderDecoder:
    encoder, decoder = exporting.build_graphs(model, quantise)
    return EncoderDecoder(lambda: encoder, lambda: decoder)


# --- the gate -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("name", MODELS)
def test_torch_and_onnx_agree_to_the_last_digits(name: str, tmp_path: Path) -> None:
    tokenizer = tinymodel.write_tokenizer(tmp_path)
    done = export_model(MODELS[name](), tokenizer, tmp_path, tinymodel.pairs(12), LOOSE)
    assert done.parity.exact < 1e-4
    assert done.parity.examples == 12
    assert done.sizes == {p: (tmp_path / p).stat().st_size for p in done.sizes}
    assert set(done.sizes) == {"encoder.onnx", "decoder.onnx", "tokenizer.json"}
    assert done.settings["start"] == 0 and done.settings["end"] == 1
    assert 1 not in done.settings["banned"] and {0, 2, 9, 399} <= set(done.settings["banned"])


def test_the_shipped_bounds_let_a_taught_model_through(tmp_path: Path) -> None:
    examples = tinymodel.pairs(12, size=60)
    found = export_model(taught("pointer"), tinymodel.write_tokenizer(tmp_path), tmp_path, examples).parity
    assert found.agreement >= found.same > 0.9 and found.bounds == MessageParityBounds()


@pytest.mark.parametrize("length", [1, 2, 129, 300])
def test_sources_of_any_length(length: int) -> None:
    """Beyond T5's furthest distance of 128 positions, too."""
    model = tinymodel.pointer_t5()
    example = ([10 + i % 380 for i in range(length)], [20, 21])
    found = exporting.measure_parity(
        model, network(model), network(model, True), [example], GenerationTokens(0, 1), MessageParityBounds()
    )
    assert found.exact < 1e-4


def test_messages_longer_than_the_furthest_distance() -> None:
    model = tinymodel.plain_t5(relative_attention_num_buckets=8, relative_attention_max_distance=12)
    example = ([30, 31, 32] * 8, [40 + i for i in range(30)])
    found = exporting.measure_parity(
        model, network(model), network(model, True), [example], GenerationTokens(0, 1), MessageParityBounds()
    )
    assert found.exact < 1e-4


@pytest.mark.parametrize(
    ("bounds", "sentence"),
    [
        (
            MessageParityBounds(exact=0.0, agreement=0, nats=9, drop=9),
            r"other log-probabilities than torch, by .* \(bound 0\)",
        ),
        (
            MessageParityBounds(agreement=1.01, nats=9, drop=9),
            r"as good a token at \d+\.\d% of the places \(bound 101%\)",
        ),
        (
            MessageParityBounds(agreement=0, nats=0.0, drop=9),
            r"a message's log-probability by [+-]\d\.\d+ a token \(bound 0\)",
        ),
        (
            MessageParityBounds(agreement=0, nats=9, drop=-9),
            r"change the loss of .* by [+-]\d+\.\d+% \(bound -900%\) \(measured on 4 messages\)",
        ),
    ],
)
def test_a_bound_that_does_not_hold_stops_the_export(
    bounds: MessageParityBounds, sentence: str, tmp_path: Path
) -> None:
    tokenizer = tinymodel.write_tokenizer(tmp_path)
    out = tmp_path / "out"
    out.mkdir()
    with pytest.raises(GitpeftError, match=sentence) as found:
        export_model(tinymodel.pointer_t5(), tokenizer, out, tinymodel.pairs(4), bounds)
    assert found.value.hint == "no bundle was written"
    assert not list(out.iterdir())


def test_a_number_that_is_none_stops_the_export(tmp_path: Path) -> None:
    model = tinymodel.pointer_t5()
    model.decoder.final_layer_norm.weight.data[0] = math.nan
    with pytest.raises(GitpeftError, match="other log-probabilities than torch, by inf"):
        export_model(model, tinymodel.write_tokenizer(tmp_path), tmp_path, tinymodel.pairs(2), LOOSE)


def test_a_model_that_a_few_messages_would_refuse_is_measured_on_more() -> None:
    model, words = taught("pointer"), GenerationTokens(0, 1)
    forms, examples = (network(model), network(model, True)), tinymodel.pairs(12, size=60)

    def measure(some: list[Any], nats: float = 9.0, enough: int | None = None) -> MessageParity:
        bounds = MessageParityBounds(agreement=0, nats=nats, drop=9)
        return exporting.measure_parity(model, *forms, some, words, bounds, enough)

    examples.sort(key=lambda one: -abs(measure([one]).nats))
    few, all_ = measure(examples[:2]), measure(examples)
    assert abs(all_.nats) < abs(few.nats)
    between = (abs(few.nats) + abs(all_.nats)) / 2
    assert measure(examples, between, 2) == replace(all_, bounds=replace(all_.bounds, nats=between))
    assert measure(examples, 2 * abs(few.nats), 2).examples == 2
    assert measure(examples, abs(all_.nats) / 2, 2).list_failures()


def test_bounds_are_judged_one_by_one() -> None:
    good = MessageParity(1, 1, 1e-5, 0.9, 1.0, -0.01, 4.0, MessageParityBounds())
    assert good.list_failures() == [] and good.quality_drop == pytest.approx(0.0025)
    assert good.describe_drop() == "8 bits change the loss of 4.000 by +0.25% (bound 1%)"
    assert len(MessageParity(1, 1, math.inf, 0.1, 0.2, -0.3, 4.0, MessageParityBounds()).list_failures()) == 4
    assert len(MessageParity(1, 1, NAN, NAN, NAN, NAN, NAN, MessageParityBounds()).list_failures()) == 4
    (only,) = MessageParity(1, 1, 1e-5, 0.9, 1.0, -0.01, 0.5, MessageParityBounds()).list_failures()
    assert "by +2.00% (bound 1%)" in only


def test_what_cannot_be_exported(tmp_path: Path) -> None:
    tokenizer = tinymodel.write_tokenizer(tmp_path)
    strange = tinymodel.plain_t5()
    strange.config.model_type = "mamba"
    with pytest.raises(GitpeftError, match="models of type mamba cannot be"):
        export_model(strange, tokenizer, tmp_path, tinymodel.pairs(1))
    with pytest.raises(GitpeftError, match="cannot export the activation tanh"):
        export_model(tinymodel.plain_t5(feed_forward_proj="tanh"), tokenizer, tmp_path, tinymodel.pairs(1))
    with pytest.raises(GitpeftError, match="no held-out example"):
        export_model(tinymodel.plain_t5(), tokenizer, tmp_path, [])


# --- methods ------------------------------------------------------------------------------------------------


def tuned(text: str, make: Callable[..., Any], folder: Path) -> Any:
    """A model of which all that the method trains was moved, saved, loaded and folded in."""
    method = named(text)
    model = methods.attach_method(make(), method)
    disturb(model)
    methods.save_trained_weights(model, folder)
    return methods.load_merged_model(make(), method, folder).eval()


@pytest.mark.parametrize("name", ["pointer, gated", "plain"])
@pytest.mark.parametrize("text", TEXTS)
def test_every_method_ends_in_the_same_graphs(name: str, text: str, tmp_path: Path) -> None:
    model = tuned(text, MODELS[name], tmp_path)
    found = export_model(
        model, tinymodel.write_tokenizer(tmp_path), tmp_path, tinymodel.pairs(12), LOOSE
    ).parity
    assert found.exact < 1e-4


@pytest.mark.parametrize("activation", ["relu", "gelu", "swish", "tanh"])
def test_bottlenecks_of_every_activation(activation: str, tmp_path: Path) -> None:
    model = tuned(f"adapter:width=8,activation={activation}", MODELS["plain"], tmp_path)
    runtime, words = network(model), GenerationTokens(0, 1)
    found = exporting.measure_parity(
        model, runtime, network(model, True), tinymodel.pairs(4), words, MessageParityBounds()
    )
    assert found.exact < 1e-4


def test_the_matrices_of_bottlenecks_are_int8_too(tmp_path: Path) -> None:
    """The adapter's part of the file is about a quarter of what it is in float32."""

    def make() -> Any:
        return tinymodel.plain_t5(d_model=128)

    with_adapter, without = tuned("adapter:width=96", make, tmp_path), make()
    growth = [
        sum(map(len, exporting.build_graphs(with_adapter, small)))
        - sum(map(len, exporting.build_graphs(without, small)))
        for small in (False, True)
    ]
    assert growth[0] > 10 * 2 * 128 * 96 * 4 and growth[1] < 0.35 * growth[0]


# --- int8 ---------------------------------------------------------------------------------------------------


def test_int8_is_a_quarter_of_the_size_and_holds_a_tied_table_once() -> None:
    """The decoder's embedding and its output are one array."""
    model = tinymodel.pointer_t5(d_model=64, vocab_size=8000)
    small, plain = exporting.build_graphs(model, True), exporting.build_graphs(model, False)
    for rough, exact in zip(small, plain, strict=True):
        assert len(rough) < 0.32 * len(exact)
    assert len(small[1]) < 1.3 * 8000 * 64
    untied = exporting.build_graphs(tinymodel.untied_t5(d_model=64, vocab_size=8000), True)
    assert len(untied[1]) > 2 * 8000 * 64


def test_the_exported_tokenizer_reads_the_same(tmp_path: Path) -> None:
    tokenizer = tinymodel.write_tokenizer(tmp_path)
    before = TokenCodec.load(tokenizer)
    raw = exporting._compact_tokenizer(tokenizer)
    assert len(raw) < tokenizer.stat().st_size
    (tmp_path / "small.json").write_bytes(raw)
    after = TokenCodec.load(tmp_path / "small.json")
    texts = [*tinymodel.TEXTS, "naïve – 测试 \t x", "<file></s> #12", ""]
    assert before.encode_many(texts) == after.encode_many(texts)
    assert before.marks == after.marks


# --- the searches -------------------------------------------------------------------------------------------


def generated(model: Any, source: list[int], beams: int, limit: int) -> tuple[list[int], float]:
    """Tokens after the start, and the mean score, of `transformers`' own search."""
    import torch

    ids = torch.tensor([source])
    found = model.generate(
        input_ids=ids, attention_mask=torch.ones_like(ids), num_beams=beams, do_sample=False,
        max_new_tokens=limit, length_penalty=1.0, early_stopping=True, return_dict_in_generate=True,
        output_scores=True,
    )  # fmt: skip
    score = float(found.sequences_scores[0]) if beams > 1 else math.nan
    return found.sequences[0, 1:].tolist(), score


@pytest.mark.parametrize("name", ["pointer", "plain"])
@pytest.mark.parametrize("beams", [1, 4])
def test_a_search_finds_what_transformers_finds(name: str, beams: int) -> None:
    """On sources that are none of the learnt ones, so that the model is in doubt."""
    compared, model = 0, taught(name)
    for seed in range(10):
        runtime = network(model)
        source = [10 + (7 * i + seed) % 50 for i in range(20)]
        expected, score = generated(model, source, beams, 30)
        found = BeamSearch(beams, 30, repeats=True).run(
            runtime, runtime.encode(source), GenerationTokens(0, 1)
        )[0]
        if expected[-1] != 1:
            continue  # at the limit, unfinished messages compete there and never here
        assert [*found.ids, 1] == expected
        assert math.isnan(score) or found.mean == pytest.approx(score, abs=1e-4)
        compared += 1
    assert compared >= 3


def test_a_given_message_scores_as_the_search_scored_it() -> None:
    runtime, words = network(taught("pointer")), GenerationTokens(0, 1)
    memory = runtime.encode([10, 11, 12, 13, 14])
    found = BeamSearch(4, 30).run(runtime, memory, words)
    assert len(found) == 4 and all(one.finished for one in found)
    again = beam_search.score_messages(runtime, memory, [one.ids for one in found], words)
    assert [one.total for one in again] == pytest.approx([one.total for one in found], abs=1e-3)


def test_hypotheses_do_not_depend_on_their_neighbours() -> None:
    """In float32; int8 takes one scale for all of a batch."""
    model = tinymodel.pointer_t5()
    runtime, words = network(model), GenerationTokens(0, 1)
    memory = runtime.encode(list(range(20, 50)))
    messages = [[30, 31], [40], [50, 51, 52, 53, 54], []]
    together = beam_search.score_messages(runtime, memory, messages, words)
    alone = [beam_search.score_messages(runtime, memory, [ids], words)[0] for ids in messages]
    assert [one.total for one in together] == pytest.approx([one.total for one in alone], abs=1e-4)
