"""Validation loss and hook latency of different base model shapes: a table of the model card.

    python tests/bench/bench_architectures.py WORK [--examples 6000] [--recipe models/mini/recipe.toml]

WORK is the work folder of `gitpeft base build`, with its tokenizer and rendered examples. Every shape starts
from random weights and sees the same examples in the same order; only its configuration differs. Latency is
processor time of the exported int8 graphs in turns over the shapes: reading 176 tokens once and writing
12 with four beams. "Gain per ms" is nats under the vocabulary's uniform loss, per millisecond.
"""

import argparse
import math
import statistics
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch

from gitpeft.learn.export import parity
from gitpeft.learn.pretraining import build
from gitpeft.learn.training.loop import measure_loss, train_model
from gitpeft.learn.training.settings import TrainingSettings
from gitpeft.runtime.onnx_model import EncoderDecoder

SHAPES: dict[str, dict[str, Any]] = {
    "4+2, width 256": {},
    "6+2, width 256": {"num_layers": 6},
    "4+1, width 256": {"num_decoder_layers": 1},
    "4+2, width 320": {"d_model": 320, "d_kv": 40, "d_ff": 1280},
    "2+2, width 256": {"num_layers": 2},
    "8+2, width 384": {"num_layers": 8, "d_model": 384, "d_kv": 48, "d_ff": 1536},  # recipe-gpu.toml's
}
NO_POINTER = "4+2, width 256, no pointer"
SOURCE, WRITTEN, BEAMS, ROUNDS = 176, 12, 4, 30


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("work", type=Path)
    parser.add_argument("--recipe", type=Path, default=Path("models/mini/recipe.toml"))
    parser.add_argument("--examples", type=int, default=6000)
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    recipe = build.PretrainingRecipe.load(arguments.recipe)
    train, valid = build.render_corpus(recipe, Path(), arguments.work)
    train = train.select_examples(
        np.random.default_rng(0).choice(len(train), arguments.examples, replace=False)
    )
    rows: dict[str, tuple[int, float, float]] = {}
    networks: dict[str, EncoderDecoder] = {}
    for name, shape in [*SHAPES.items(), (NO_POINTER, {})]:
        model = made(replace(recipe, model=recipe.model | shape), name != NO_POINTER)
        how = TrainingSettings(
            steps=passes(train), batch_tokens=6000, lr=2e-3, matrix_lr=5e-3, source_limit=SOURCE, decay=0.7
        )
        cost = train_model(model, train, how)
        rows[name] = (cost.parameters, measure_loss(model, valid, how), cost.examples / cost.seconds)
        networks[name] = exported(model)
        print(name, rows[name], flush=True)
    print(table(rows, latencies(networks), recipe.vocabulary))


def made(recipe: build.PretrainingRecipe, pointer: bool) -> Any:
    if pointer:
        return build.make_random_model(recipe)
    from transformers import T5Config, T5ForConditionalGeneration

    torch.manual_seed(recipe.seed)
    config = T5Config(vocab_size=recipe.vocabulary, decoder_start_token_id=0, **recipe.model)
    model = T5ForConditionalGeneration(config)
    torch.nn.init.normal_(model.shared.weight, std=0.2)  # as the pointer's: T5's 1.0 repeats its input
    return model


def exported(model: Any) -> EncoderDecoder:
    encoder, decoder = parity.build_graphs(model.eval(), quantise=True)
    return EncoderDecoder(lambda: encoder, lambda: decoder)


def passes(train: Any) -> int:
    """The batches of one pass."""
    return sum(1 for _ in train.batches(6000, SOURCE, 0))


def latencies(networks: dict[str, EncoderDecoder]) -> dict[str, float]:
    """Median processor milliseconds of each, measured in turns."""
    found: dict[str, list[float]] = {name: [] for name in networks}
    for _ in range(ROUNDS):
        for name, network in networks.items():
            start = time.process_time()
            memory = network.encode(list(range(100, 100 + SOURCE)))
            past = network.make_empty_past(BEAMS)
            for i in range(WRITTEN):
                _, past = network.run_decoder(memory, np.full((BEAMS, 1), 200 + i, dtype=np.int64), past)
            found[name].append(1e3 * (time.process_time() - start))
    return {name: statistics.median(times[3:]) for name, times in found.items()}


def table(rows: dict[str, tuple[int, float, float]], cost: dict[str, float], vocabulary: int) -> str:
    lines = ["| shape | weights | validation loss | hook, ms | gain per ms |", "|---|---|---|---|---|"]
    for name, (weights, loss, _) in rows.items():
        gain = (math.log(vocabulary) - loss) / cost[name]
        lines.append(f"| {name} | {weights / 1e6:.1f} M | {loss:.3f} | {cost[name]:.1f} | {gain:.4f} |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
