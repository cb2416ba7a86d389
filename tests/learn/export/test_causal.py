"""Causal language models: torch, the graph in float32 and in int8 agree, and so do search and scores."""

import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gitpeft.bundle import bundle as bundles
from gitpeft.errors import GitpeftError
from gitpeft.learn.export import parity as exporting
from gitpeft.learn.export.parity import MessageParityBounds, export_model, open_network, score_with_torch
from gitpeft.learn.models import methods
from gitpeft.runtime import beam_search, onnx_model
from gitpeft.runtime.beam_search import BeamSearch, GenerationTokens
from gitpeft.runtime.onnx_model import CausalDecoder
from tests.support import tinymodel
from tests.support.tuning import TEXTS, disturb, named, on_side

LOOSE = MessageParityBounds(agreement=0.5, nats=0.5, drop=9.0)
MODELS: dict[str, dict[str, Any]] = {
    "llama": {},
    "qwen2": {"tie_word_embeddings": False},
    "qwen3": {"head_dim": 16},
    "granite": {
        "embedding_multiplier": 3.0, "residual_multiplier": 0.4, "logits_scaling": 2.0,
        "attention_multiplier": 0.3,
    },
    "mistral": {"sliding_window": None},
    "smollm3": {"num_hidden_layers": 4},
}  # fmt: skip
WORDS = GenerationTokens(3, 1)


def model(kind: str) -> Any:
    """A random model of a type; biases, where it has some, are not zero."""
    import torch

    found = tinymodel.causal(kind, **MODELS[kind])
    with torch.no_grad():
        for name, weight in found.named_parameters():
            if name.endswith("bias"):
                weight.copy_(torch.linspace(-0.3, 0.3, len(weight)))
    return found


def network(one: Any, folder: Path, quantise: bool = False) -> CausalDecoder:
    exporting.write_graphs(one, quantise, folder)
    found = open_network(folder)
    assert isinstance(found, CausalDecoder)
    return found


# --- parity -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", MODELS)
def test_every_architecture_goes_through_the_gate(kind: str, tmp_path: Path) -> None:
    tokenizer = tinymodel.write_tokenizer(tmp_path)
    done = export_model(model(kind), tokenizer, tmp_path, tinymodel.pairs(8), LOOSE)
    assert done.parity.exact < 1e-4 and done.parity.examples == 8
    assert set(done.sizes) == {*bundles.CAUSAL_GRAPHS, "decoder.safetensors", "tokenizer.json"}
    assert done.sizes == {p: (tmp_path / p).stat().st_size for p in done.sizes}
    assert not list(tmp_path.glob(".export-*"))
    assert done.settings["end"] not in done.settings["banned"]


@pytest.mark.parametrize("kind", ["llama", "qwen2"])
@pytest.mark.parametrize("text", TEXTS)
def test_every_method_ends_in_the_same_graph(kind: str, text: str, tmp_path: Path) -> None:
    method = named(on_side(text, "decoder").replace("side=encoder", "side=decoder"))
    tuned = methods.attach_method(model(kind), method)
    disturb(tuned)
    methods.save_trained_weights(tuned, tmp_path)
    merged = methods.load_merged_model(model(kind), method, tmp_path).eval()
    tokenizer = tinymodel.write_tokenizer(tmp_path)
    assert export_model(merged, tokenizer, tmp_path, tinymodel.pairs(6), LOOSE).parity.exact < 1e-4


@pytest.mark.parametrize("length", [1, 2, onnx_model.PREFILL_CHUNK, onnx_model.PREFILL_CHUNK + 1, 300])
def test_prompts_of_any_length(length: int, tmp_path: Path) -> None:
    """Read in one part, exactly one, and several."""
    one = model("llama")
    runtime = network(one, tmp_path)
    source = [10 + (7 * i) % 380 for i in range(length)]
    expected = score_with_torch(one, source, [3, 20, 21])
    found, _ = runtime.run_decoder(
        runtime.encode(source), np.array([[3, 20, 21]]), runtime.make_empty_past(1)
    )
    assert np.abs(np.log(found[0] + 1e-9) - expected).max() < 1e-3


def test_a_prompt_is_read_alike_in_parts_of_any_length(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """However far one half of the layers is ahead of the other."""
    runtime, source = network(model("qwen3"), tmp_path), [10 + (7 * i) % 380 for i in range(60)]
    whole = runtime.encode(source).feeds
    monkeypatch.setattr(onnx_model, "PREFILL_CHUNK", 7)
    parts = runtime.encode(source).feeds
    assert set(parts) == set(whole) == {f"prefix.{i}.{part}" for i in range(2) for part in ("key", "value")}
    assert all(np.abs(parts[name] - whole[name]).max() < 1e-5 for name in whole)


def test_of_a_prompt_the_last_layer_computes_keys_and_values_only(tmp_path: Path) -> None:
    """What else it would compute, nobody reads: here it is not a number, and no message has a likelihood."""
    import torch

    one, source = model("llama"), list(range(5, 25))
    with torch.no_grad():
        one.model.layers[-1].mlp.down_proj.weight.fill_(float("nan"))
    runtime = network(one, tmp_path)
    [(given, _)] = runtime._get_part(0).read_prompt(onnx_model._split_prompt(source))
    [(top, past)] = runtime._get_part(1).read_prompt([given])
    assert all(np.isfinite(values).all() for values in (top["top.sum"], top["top.update"], *past.values()))
    memory = runtime.encode(source)
    found, _ = runtime.run_decoder(memory, np.array([[3]]), runtime.make_empty_past(1))
    assert not np.isfinite(found).any()


@pytest.mark.parametrize(("cores", "threads"), [({0, 1, 2}, [1, 1, 2]), ({0}, [1, 1, 1])])
def test_the_output_layer_is_divided_where_there_are_two_cores(
    cores: set[int], threads: list[int], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked: list[int] = []
    plain = onnx_model.open_session

    def open_session(raw: bytes, count: int, folder: Path | None = None) -> onnx_model.OnnxSession:
        asked.append(count)
        return plain(raw, count, folder)

    monkeypatch.setattr(os, "sched_getaffinity", lambda _: cores, raising=False)
    monkeypatch.setattr(onnx_model, "open_session", open_session)
    network(model("llama"), tmp_path).encode([5, 6, 7])
    assert asked == threads


@pytest.mark.parametrize(("kind", "layers", "behind"), [("llama", 2, 1), ("granite", 5, 3), ("qwen3", 6, 4)])
def test_a_probe_reads_the_states_behind_two_thirds_of_the_layers(
    kind: str, layers: int, behind: int, tmp_path: Path
) -> None:
    import torch

    one = tinymodel.causal(kind, **MODELS[kind] | {"num_hidden_layers": layers})
    runtime, source, messages = network(one, tmp_path), list(range(5, 45)), [[20, 21, 22], [9], []]
    memory = runtime.encode(source)
    found = beam_search.probe_messages(runtime, memory, messages, WORDS)
    for (scored, state), ids in zip(found, messages, strict=True):
        [alone] = beam_search.score_messages(runtime, memory, [ids], WORDS)
        assert scored is not None and scored.ids == ids and scored.total == pytest.approx(alone.total)
        if not ids:
            assert state is None
            continue
        with torch.no_grad():
            read = one(torch.tensor([[*source, 3, *ids]]), output_hidden_states=True).hidden_states[behind]
        assert state is not None and np.abs(state - read[0, -len(ids) :].mean(0).numpy()).max() < 1e-4
    assert beam_search.probe_messages(runtime, memory, [], WORDS) == []
    again = beam_search.probe_messages(runtime, memory, messages, WORDS, scored=False)
    assert [scored for scored, _ in again] == [None] * 3
    assert [None if state is None else state.tolist() for _, state in again] == [
        None if state is None else state.tolist() for _, state in found
    ]


def test_the_one_graph_of_an_earlier_version_still_answers() -> None:
    """It was exported by commit c71a67c, which found this message."""
    runtime = open_network(Path(__file__).parents[2] / "fixtures" / "c71a67c")
    memory = runtime.encode([10 + (7 * i) % 80 for i in range(300)])
    found = BeamSearch(3, 8).run(runtime, memory, WORDS)
    assert found[0].ids == [3, 19, 6, 73, 6, 71, 3, 19]
    assert isinstance(runtime, CausalDecoder)
    assert beam_search.probe_messages(runtime, memory, [[5, 6]], WORDS)[0][1] is None, "no probe reads it"
    assert found[0].mean == pytest.approx(-2.2742, abs=1e-3)


@pytest.mark.parametrize("name", bundles.CAUSAL_GRAPHS)
def test_a_damaged_graph_is_an_error_of_the_prompt(name: str, tmp_path: Path) -> None:
    """Also where it is loaded beside another that works."""
    network(model("llama"), tmp_path)
    (tmp_path / name).write_bytes(b"no graph")
    with pytest.raises(GitpeftError, match="the model cannot be loaded"):
        open_network(tmp_path).encode(list(range(10, 300)))


def test_a_model_with_a_single_layer_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GitpeftError, match="a model with a single layer"):
        exporting.write_graphs(tinymodel.causal("llama", num_hidden_layers=1), False, tmp_path)


def test_a_model_with_a_sliding_window_is_refused(tmp_path: Path) -> None:
    sliding = tinymodel.causal("mistral", sliding_window=16)
    with pytest.raises(GitpeftError, match="whose attention slides"):
        exporting.write_graphs(sliding, False, tmp_path)


def test_a_bound_that_does_not_hold_leaves_no_file(tmp_path: Path) -> None:
    tokenizer = tinymodel.write_tokenizer(tmp_path)
    (tmp_path / "out").mkdir()
    strict = MessageParityBounds(exact=0.0, agreement=0, nats=9, drop=9)
    with pytest.raises(GitpeftError, match="other log-probabilities than torch"):
        export_model(model("llama"), tokenizer, tmp_path / "out", tinymodel.pairs(2), strict)
    assert not list((tmp_path / "out").iterdir())


def test_weights_lie_outside_and_a_tied_table_is_stored_once(tmp_path: Path) -> None:
    wide = tinymodel.causal("llama", vocab_size=4000)
    exporting.write_graphs(wide, True, tmp_path)
    assert all((tmp_path / name).stat().st_size < 40_000 for name in bundles.CAUSAL_GRAPHS)
    assert (tmp_path / "decoder.safetensors").stat().st_size < 1.5 * 4000 * 32


# --- the search ---------------------------------------------------------------------------------------------


def next_tokens(one: Any, source: Sequence[int], ids: Sequence[int]) -> Any:
    """Log-probabilities of what follows a message that has begun, by torch."""
    return score_with_torch(one, source, [WORDS.start, *ids])[-1]


def reference_search(
    one: Any, source: Sequence[int], width: int, limit: int
) -> list[tuple[list[int], float]]:
    """Beam search, spelt out over the model of `transformers`: finished messages with their total."""
    beams: list[tuple[list[int], float]] = [([], 0.0)]
    finished: list[tuple[list[int], float]] = []
    for _ in range(limit):
        grown = []
        for ids, total in beams:
            scores = next_tokens(one, source, ids)
            grown += [([*ids, int(i)], total + scores[i]) for i in np.argsort(-scores)[: 2 * width]]
        grown.sort(key=lambda item: -item[1])
        finished += [(ids[:-1], total) for ids, total in grown[:width] if ids[-1] == WORDS.end]
        beams = [item for item in grown if item[0][-1] != WORDS.end][:width]
        finished = sorted(finished, key=lambda item: -item[1] / (len(item[0]) + 1))[:width]
        if len(finished) == width:
            break
    return finished


@pytest.fixture(scope="module")
def taught() -> Any:
    """A llama that ends what it begins: trained on a few pairs."""
    import torch

    found = tinymodel.causal("llama", vocab_size=60)
    examples = tinymodel.pairs(8, size=60)
    optimizer = torch.optim.Adam(found.parameters(), lr=0.01)
    for _ in range(40):
        optimizer.zero_grad()
        for source, message in examples:
            ids = torch.tensor([[*source, WORDS.start, *message, WORDS.end]])
            labels = ids.clone()
            labels[:, : len(source) + 1] = -100
            found(input_ids=ids, labels=labels).loss.backward()
        optimizer.step()
    return found.eval()


@pytest.mark.parametrize("width", [1, 4])
def test_the_search_finds_what_the_models_own_logits_say(taught: Any, width: int, tmp_path: Path) -> None:
    runtime, compared = network(taught, tmp_path), 0
    for seed in range(6):
        source = [10 + (7 * i + seed) % 50 for i in range(20)]
        expected = reference_search(taught, source, width, 15)
        found = BeamSearch(width, 15, repeats=True).run(runtime, runtime.encode(source), WORDS)
        if not expected or not found[0].finished:
            continue
        assert found[0].ids == expected[0][0]
        assert found[0].total == pytest.approx(expected[0][1], abs=1e-3)
        compared += 1
    assert compared >= 3


def test_given_messages_score_as_the_model_says(taught: Any, tmp_path: Path) -> None:
    """Of different lengths, all in one call, each as if it were alone."""
    runtime, source = network(taught, tmp_path), list(range(20, 50))
    messages = [[30, 31], [40], [50, 51, 52, 53, 54], []]
    found = beam_search.score_messages(runtime, runtime.encode(source), messages, WORDS)
    for ids, one in zip(messages, found, strict=True):
        scores = score_with_torch(taught, source, [WORDS.start, *ids])
        expected = sum(scores[row, token] for row, token in enumerate([*ids, WORDS.end]))
        assert one.total == pytest.approx(float(expected), abs=1e-3)


def test_all_hypotheses_read_one_prefix(taught: Any, tmp_path: Path) -> None:
    """The prompt's keys and values have a batch of one, and steps hand on only what they added."""
    runtime = network(taught, tmp_path)
    memory = runtime.encode(list(range(20, 50)))
    assert {values.shape[0] for values in memory.feeds.values()} == {1}
    assert {values.shape[2] for values in memory.feeds.values()} == {30}
    _, past = runtime.run_decoder(memory, np.array([[3], [4], [5]]), runtime.make_empty_past(3))
    assert {values.shape[:3] for values in past.values()} == {(3, 2, 1)}


def test_the_beginning_of_a_prompt_is_known_when_all_of_it_was_read(taught: Any, tmp_path: Path) -> None:
    """What a model has read of the first tokens, and messages behind another ending, as torch sees them."""
    runtime, source, opening = network(taught, tmp_path), list(range(20, 50)), [8, 9]
    for count in (1, 11):
        memory = runtime.encode(source).keep_first(count)
        assert memory.source == source[:count]
        messages = [[30, 31], [40]]
        found = beam_search.score_messages(runtime, memory, messages, WORDS, opening)
        for ids, one in zip(messages, found, strict=True):
            read = [*source[:count], *opening]
            scores = score_with_torch(taught, read, [WORDS.start, *ids])
            expected = sum(scores[row, token] for row, token in enumerate([*ids, WORDS.end]))
            assert one.total == pytest.approx(float(expected), abs=1e-3)


# --- bundles ------------------------------------------------------------------------------------------------


@pytest.fixture
def bundle(tmp_path: Path) -> bundles.Bundle:
    id_ = tinymodel.bundle(tmp_path, model("llama"))
    return bundles.open_bundle(tmp_path / "models" / id_)


def test_a_bundle_of_a_causal_model_answers(bundle: bundles.Bundle) -> None:
    from gitpeft.suggest.suggester import Suggester

    suggester = Suggester(bundle)
    assert suggester.suggest(tinymodel.CHANGES[0], "")
    assert bundle.manifest.kind == "model" and "encoder.onnx" not in bundle


def test_flipped_bits_in_the_weights_are_found_before_an_answer(bundle: bundles.Bundle) -> None:
    from gitpeft.suggest.generator import MessageGenerator
    from gitpeft.suggest.model_files import ModelFiles
    from gitpeft.suggest.stage_timer import StageTimer

    path = bundle.path / bundles.WEIGHTS_FILE
    raw = bytearray(path.read_bytes())
    raw[-100] ^= 4
    path.write_bytes(raw)
    generator = MessageGenerator(bundle, ModelFiles(bundle), 2, StageTimer())
    with pytest.raises(GitpeftError, match=r"decoder\.safetensors of the model is damaged"):
        generator.generate_drafts(tinymodel.CHANGES[0], "", [])
    with pytest.raises(GitpeftError, match=r"decoder\.safetensors of the model is damaged"):
        bundles.verify_bundle(bundle)


def test_cut_weights_are_found_when_the_bundle_is_opened(bundle: bundles.Bundle) -> None:
    path = bundle.path / bundles.WEIGHTS_FILE
    path.write_bytes(path.read_bytes()[:-1])
    with pytest.raises(GitpeftError, match=r"decoder\.safetensors of the model is damaged: it has"):
        bundles.open_bundle(bundle.path)


def test_a_graph_names_no_file_but_the_bundles_own(bundle: bundles.Bundle, tmp_path: Path) -> None:
    """Neither another one beside the right one nor a way out of the folder."""
    import onnx

    with bundles.staging_folder(tmp_path) as folder:
        for name in bundle.manifest.files:
            (folder / name).parent.mkdir(exist_ok=True)
            (folder / name).write_bytes(bundle.read(name))
        graph = onnx.load_from_string(bundle.read("decoder.onnx"))
        stored = next(one for one in graph.graph.initializer if one.data_location)
        next(one for one in stored.external_data if one.key == "location").value = "../decoder.safetensors"
        (folder / "decoder.onnx").write_bytes(graph.SerializeToString())
        with pytest.raises(GitpeftError, match=r"decoder\.onnx keeps data outside its own file"):
            bundles.write_bundle(folder, bundle.manifest)


def test_a_model_without_encoder_needs_its_weights(bundle: bundles.Bundle, tmp_path: Path) -> None:
    with bundles.staging_folder(tmp_path) as folder:
        for name in ("decoder.onnx", "tokenizer.json"):
            (folder / name).write_bytes(bundle.read(name))
        with pytest.raises(GitpeftError, match=r"a model bundle needs encoder\.onnx or decoder\.safetensors"):
            bundles.write_bundle(folder, bundle.manifest)
