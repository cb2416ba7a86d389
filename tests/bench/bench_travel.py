"""Three ways to run a tuned model on a machine without torch, on a bundle that was really trained.

    python tests/bench/bench_travel.py --repo CLONE [--rounds 30]

CLONE has an active model made by `gitpeft init` with `--method lora` on the embedded base. Compared are whole
int8 graphs, LoRA merged into the base's graphs by numpy, and ONNX Runtime's LoraAdapter on the base's
graphs. Latency is that of encoding, searching (four beams) and scoring for real changes of that history, all
ways in turns in one process; parity is against torch's merge in float32.
"""

import argparse
import os
import tempfile
import time
import zlib
from collections.abc import Callable, Sequence
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np

os.environ["ORT_DISABLE_TELEMETRY"] = "1"

from gitpeft.bundle import bundle as bundles
from gitpeft.diff.render import TokenBudget
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn.data import dataset
from gitpeft.learn.evaluation import trial
from gitpeft.learn.export import parity as export_parity
from gitpeft.learn.models import bases, methods
from gitpeft.runtime.beam_search import BeamSearch, GenerationTokens, compute_floored_log, score_messages
from gitpeft.runtime.onnx_model import EncodedSource, EncoderDecoder
from gitpeft.runtime.tokenizer import TokenCodec
from gitpeft.share import delta, lora_merge

Source = tuple[list[int], list[int]]


def main() -> None:
    """Measure, and print the table."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--repo", type=Path, required=True)
    options.add_argument("--rounds", type=int, default=30)
    given = options.parse_args()
    repo = Repository.open(given.repo)
    bundle = bundles.open_active_bundle(repo.state_dir)
    assert bundle is not None and bundle.manifest.method.get("name") == "lora"
    base = bases.find_base(bundle.manifest.base)
    sources = held_out(repo, bundle, base, given.rounds)
    model = methods.load_merged_model(
        base.load(), methods.make_method("lora"), bundle.path / bundles.ADAPTER_FOLDER
    ).eval()
    plain = export_parity.build_graphs(model, quantise=False)
    ways = {
        "whole int8 graphs": whole(bundle),
        "folded by numpy": folded(bundle, base),
        "LoraAdapter over the base": adapted(bundle, base),
    }
    words = GenerationTokens(
        **{k: v for k, v in bundle.manifest.settings.items() if k in ("start", "end", "banned")}
    )
    report(ways, sources, EncoderDecoder(lambda: plain[0], lambda: plain[1]), words)


def held_out(repo: Repository, bundle: bundles.Bundle, base: bases.BaseModel, most: int) -> list[Source]:
    """Rendered validation commits: sources and messages."""
    with History.open(repo.state_dir) as history:
        records = history.load_records(repo, bundle.manifest.commits["to"])
    data = dataset.build_dataset(records, TokenBudget().exemplars)
    codec = TokenCodec.load(base.tokenizer_path)
    picked = trial.sample_examples(data.valid, most, seed=3)
    return [dataset.encode_example(example, base.budget, codec) for example in picked]


Way = tuple[int, Callable[[], EncoderDecoder]]
"""Bytes on the wire for the model alone (the adapter included, zlib as git packs it), and what opens it."""


def packed(*parts: bytes) -> int:
    return sum(len(zlib.compress(part, 6)) for part in parts)


def whole(bundle: bundles.Bundle) -> Way:
    files = [
        bundle.read(name) for name in (bundles.ENCODER_FILE, bundles.DECODER_FILE, bundles.TOKENIZER_FILE)
    ]
    return packed(*files), lambda: EncoderDecoder(lambda: files[0], lambda: files[1])


def folded(bundle: bundles.Bundle, base: bases.BaseModel) -> Way:
    files, made = delta.encode_deltas(bundle)
    sent = [raw for name, raw in files.items() if name.endswith(".difference") or name.startswith("adapter/")]

    def make() -> EncoderDecoder:
        found = delta.reconstruct_files(files.__getitem__, made, bundle.manifest)
        assert found[bundles.ENCODER_FILE] == bundle.read(bundles.ENCODER_FILE), "not the exported graph"
        return EncoderDecoder(lambda: found[bundles.ENCODER_FILE], lambda: found[bundles.DECODER_FILE])

    return packed(*sent), make


# --- ONNX Runtime's LoraAdapter -----------------------------------------------------------------------------


def adapted(bundle: bundles.Bundle, base: bases.BaseModel) -> Way:
    """LoRA matrices as inputs of the base's graphs; without an adapter they are empty and change nothing."""
    updates = lora_merge.read_lora_updates(
        lambda name: bundle.read(f"adapter/{name}"),
        weights := lora_merge.read_safetensors((base.folder / "model.safetensors").read_bytes()),
    )
    graphs, adapters = [], []
    with tempfile.TemporaryDirectory() as scratch:
        for name in (bundles.ENCODER_FILE, bundles.DECODER_FILE):
            raw, parameters = opened(base.folder / "onnx" / name, weights, updates)
            path = Path(scratch) / f"{name}.adapter"
            write_adapter(path, parameters)
            graphs.append(raw)
            adapters.append(path.read_bytes())
    return packed(*adapters), lambda: Adapted(graphs, adapters)


def opened(path: Path, weights: dict[str, Any], updates: dict[str, Any]) -> tuple[bytes, dict[str, Any]]:
    """The graph with x·A·B added behind each matrix that has an update, and the values of all A and B."""
    import onnx
    from onnx import TensorProto, helper, numpy_helper

    model = onnx.load(path)
    graph, known = model.graph, lora_merge._WeightFinder(weights)
    stored = {one.name: one for one in graph.initializer}
    nodes: list[Any] = []
    parameters: dict[str, Any] = {}
    for node in graph.node:
        nodes.append(node)
        names = matrix(node, stored, known, numpy_helper.to_array)
        if not updates.keys() & set(names):
            continue
        down, up = blocks(names, weights, updates)
        a, b = f"{node.output[0]}.A", f"{node.output[0]}.B"
        parameters |= {a: down, b: up}
        result, inner = node.output[0], f"{node.output[0]}.plain"
        node.output[0] = inner
        nodes.append(helper.make_node("MatMul", [node.input[0], a], [f"{result}.low"]))
        nodes.append(helper.make_node("MatMul", [f"{result}.low", b], [f"{result}.update"]))
        nodes.append(helper.make_node("Add", [inner, f"{result}.update"], [result]))
        for key, value in ((a, down), (b, up)):
            empty = np.zeros((len(value), 0) if key == a else (0, value.shape[1]), np.float32)
            graph.initializer.append(numpy_helper.from_array(empty, key))
            shape = [len(value), f"{key}.r"] if key == a else [f"{key}.r", value.shape[1]]
            graph.input.append(helper.make_tensor_value_info(key, TensorProto.FLOAT, shape))
    del graph.node[:]
    graph.node.extend(nodes)
    return model.SerializeToString(), parameters


def matrix(node: Any, stored: dict[str, Any], known: Any, to_array: Callable[[Any], Any]) -> Sequence[str]:
    """The base's weights that a node multiplies with."""
    if node.op_type == "DynamicQuantizeMatMul" and node.input[2] in stored:
        return list(known.find_by_scales(to_array(stored[node.input[2]])))
    if node.op_type == "MatMul" and node.input[1] in stored:
        value = to_array(stored[node.input[1]])
        return [known.find_by_values(value.tobytes(), value.shape)]
    return []


def blocks(names: Sequence[str], weights: dict[str, Any], updates: dict[str, Any]) -> tuple[Any, Any]:
    """A side by side and B along a diagonal, scaled, for matrices that were joined."""
    downs, ups = [], []
    for at, name in enumerate(names):
        down, up, scale = updates[name]
        left = sum(len(weights[one]) for one in names[:at])
        right = sum(len(weights[one]) for one in names[at + 1 :])
        downs.append(down.T)
        ups.append(np.pad(up.T * np.float32(scale), ((0, 0), (left, right))))
    return np.ascontiguousarray(np.hstack(downs)), np.ascontiguousarray(np.vstack(ups))


def write_adapter(path: Path, parameters: dict[str, Any]) -> None:
    import onnxruntime

    file = onnxruntime.AdapterFormat()
    file.set_adapter_version(1)
    file.set_model_version(1)
    file.set_parameters({name: onnxruntime.OrtValue.ortvalue_from_numpy(v) for name, v in parameters.items()})
    file.export_adapter(str(path))


class Adapted(EncoderDecoder):
    """A network whose sessions run with an adapter."""

    def __init__(self, graphs: Sequence[bytes], adapters: Sequence[bytes]) -> None:
        import onnxruntime

        super().__init__(lambda: graphs[0], lambda: graphs[1])
        self._options, self._adapters = [], []
        for raw in adapters:
            with tempfile.NamedTemporaryFile() as file:
                file.write(raw)
                file.flush()
                adapter = onnxruntime.LoraAdapter()
                adapter.Load(file.name)
            options = onnxruntime.RunOptions()
            options.add_active_adapter(adapter)
            self._options.append(options)
            self._adapters.append(adapter)

    def encode(self, source: Sequence[int]) -> EncodedSource:
        session, ids = self._encoder.get_result(), np.array([source], dtype=np.int64)
        names = [one.name for one in session.get_outputs()]
        outputs = session.run(names, {"source": ids}, self._options[0])
        feeds: dict[str, Any] = dict(zip(names, outputs, strict=True))
        if "source" in self._read_decoder_inputs():
            feeds["source"] = ids
        return EncodedSource(feeds, list(source))

    def run_decoder(
        self, memory: EncodedSource, tokens: Any, past: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        names = ["probabilities", *(name.replace("past.", "present.") for name in self._past_shapes)]
        feeds = {**memory.feeds, **past, "tokens": tokens}
        found, *present = self._decoder.get_result().run(names, feeds, self._options[1])
        return found, dict(zip(self._past_shapes, present, strict=True))


# --- measuring ----------------------------------------------------------------------------------------------


def report(
    ways: dict[str, Way], sources: Sequence[Source], exact: EncoderDecoder, words: GenerationTokens
) -> None:
    networks, opening = {}, {}
    for name, (_, make) in ways.items():
        start = time.perf_counter()
        networks[name] = make()
        networks[name].encode(sources[0][0])
        opening[name] = time.perf_counter() - start
    spent = latencies(networks, sources, words)
    first = median(spent["whole int8 graphs"])
    print(
        "| way | wire, MB | opened, s | ms a suggestion | ratio | same token as torch | loss, nats a token |"
    )
    print("|---|---|---|---|---|---|---|")
    for name, (size, _) in ways.items():
        same, nats = parity(networks[name], exact, sources, words)
        ms = median(spent[name])
        row = f"| {name} | {size / 1e6:.2f} | {opening[name]:.2f} | {ms:.0f} | {ms / first:.2f} "
        print(row + f"| {same:.1%} | {nats:+.4f} |")


def latencies(
    networks: dict[str, EncoderDecoder], sources: Sequence[Source], words: GenerationTokens
) -> dict[str, list[float]]:
    """Milliseconds of each question, one way after the other; the first round warms up."""
    spent: dict[str, list[float]] = {name: [] for name in networks}
    for turn, (source, message) in enumerate([sources[0], *sources]):
        for name, network in networks.items():
            start = time.perf_counter()
            memory = network.encode(source)
            BeamSearch(4, 40).run(network, memory, words)
            score_messages(network, memory, [message[:-1]] * 4, words)
            if turn:
                spent[name].append(1000 * (time.perf_counter() - start))
    return spent


def parity(
    network: EncoderDecoder, exact: EncoderDecoder, sources: Sequence[Source], words: GenerationTokens
) -> tuple[float, float]:
    """Share of positions with torch's token, and how far the real message's log-probability moves a token."""
    same = total = 0
    moved = 0.0
    for source, message in sources:
        tokens = np.array([[words.start, *message[:-1]]], dtype=np.int64)
        both = []
        for one in (network, exact):
            memory = one.encode(source)
            both.append(compute_floored_log(one.run_decoder(memory, tokens, one.make_empty_past(1))[0][0]))
        rows = range(len(message))
        same += int((both[0].argmax(-1) == both[1].argmax(-1)).sum())
        moved += float((both[0][rows, message] - both[1][rows, message]).sum())
        total += len(message)
    return same / total, moved / total


if __name__ == "__main__":
    main()
