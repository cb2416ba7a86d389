"""Trains a LoRA adapter over a frozen base on commit messages, on one CPU core.

    python -m tests.bench.smol.train BASE PAIRS OUT

Warm-up, then a constant rate, so that a run can go on for days: what a decayed copy would know is read from
a running average of the weights. Everything that the next step depends on is saved, so a run that was killed
goes on from its last checkpoint with the very next pair.
"""

import argparse
import json
import math
import random
import signal
import sys
import time
from collections.abc import Iterator
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from tokenizers import Tokenizer
from torch import Tensor

from gitpeft.diff.patch import FileChange
from gitpeft.diff.prompt import PROMPT_VERSION, Encode
from tests.bench.smol import llama
from tests.bench.smol.pairs import make_encoder, render_files, restore_file_changes

MESSAGE_TOKENS = 40


@dataclass(frozen=True, slots=True)
class Recipe:
    """What is trained how; stored beside every checkpoint."""

    rank: int = 16
    alpha: float = 32
    first: int = 0
    kind: str = "int8"
    rate: float = 8e-4
    warm: int = 320
    batch: int = 8
    average: float = 0.99
    tokens: int = 512
    beta: float = 0.98
    seed: int = 1
    layout: int = PROMPT_VERSION


@dataclass(frozen=True, slots=True)
class Item:
    """One pair as ids: where its message starts, and how many bytes that has."""

    ids: Tensor
    start: int
    size: int


class PairReader:
    """Pairs in the order of their file, over and over; `place` is the next one, from 0."""

    def __init__(self, path: Path, encode: Encode, recipe: Recipe) -> None:
        self.lines = path.read_text().splitlines()
        self.encode, self.recipe = encode, recipe

    def make_item(self, place: int) -> Item:
        """The pair at a place, its surroundings thinned out as chance has it (the same at every reading)."""
        pair = json.loads(self.lines[place % len(self.lines)])
        rng = random.Random(f"{self.recipe.seed} {place}")
        like, previous = drop_context(pair["like"], pair["previous"], rng)
        return make_item(
            restore_file_changes(pair["files"]),
            like,
            previous,
            pair["message"],
            self.encode,
            self.recipe.tokens,
        )


def drop_context(like: list[str], previous: str, rng: random.Random) -> tuple[list[str], str]:
    """Sometimes fewer earlier subjects or none, as in a young repository."""
    roll = rng.random()
    if roll < 0.12:
        like = []
    elif roll < 0.3:
        like = like[: rng.randint(1, 2)]
    return like, "" if rng.random() < 0.2 else previous


def make_item(
    files: list[FileChange],
    like: list[str],
    previous: str,
    message: str,
    encode: Encode,
    tokens: int,
) -> Item:
    """A pair as ids, the message ended by a new line."""
    prompt = render_files(files, like, previous, encode, tokens)
    written, end = encode([" " + message, "\n"])
    ids = torch.tensor([*prompt, *written[:MESSAGE_TOKENS], *end])
    return Item(ids, len(prompt), len(message.encode()))


class TrainingRun:
    """Weights, their average, the optimiser, and how far the run has come."""

    def __init__(self, base: Path, out: Path, recipe: Recipe) -> None:
        torch.manual_seed(recipe.seed)
        self.out, self.recipe = out, recipe
        self.model = llama.Llama(base, recipe.rank, recipe.alpha, recipe.kind, recipe.first)
        self.weights = [p for p in self.model.parameters() if p.requires_grad]
        self.optimiser = torch.optim.AdamW(
            self.weights,
            lr=recipe.rate,
            betas=(0.9, recipe.beta),
            weight_decay=0.0,
            foreach=True,
        )
        self.average = [w.detach().clone() for w in self.weights]
        self.place = self.begun = self.steps = 0
        self.seconds = 0.0
        self.asked_to_stop = False
        signal.signal(signal.SIGTERM, self._stop)

    def _stop(self, *_: object) -> None:
        """Finish the batch, save, and end."""
        self.asked_to_stop = True

    def step(self, items: list[Item]) -> tuple[float, int]:
        """One update from a batch; its nats and tokens."""
        tokens = sum(len(one.ids) - one.start for one in items)
        total = 0.0
        self.model.begin()
        for one in items:
            loss = self.model.loss(one.ids, one.start)
            torch.autograd.backward(loss / tokens)
            total += loss.item()
        self.model.end()
        torch.nn.utils.clip_grad_norm_(self.weights, 1.0)
        for group in self.optimiser.param_groups:
            group["lr"] = self.recipe.rate * min(1.0, (self.place - self.begun + 8) / self.recipe.warm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.steps += 1
        self.place += len(items)
        share = min(self.recipe.average, (1 + self.steps) / (10 + self.steps))
        with torch.no_grad():
            torch._foreach_lerp_(self.average, [w.detach() for w in self.weights], 1 - share)
        return total, tokens

    def measure(self, items: list[Item]) -> dict[str, float]:
        """Nats a byte and a message of the averaged weights."""
        kept = [w.detach().clone() for w in self.weights]
        with torch.no_grad():
            self._put(self.average)
            self.model.begin()
            nats = [self.model.loss(one.ids, one.start).item() for one in items]
            self.model.end()
            self._put(kept)
        return {
            "nats_a_byte": sum(nats) / sum(one.size for one in items),
            "nats": sum(nats) / len(nats),
        }

    def _put(self, values: list[Tensor]) -> None:
        torch._foreach_copy_(list[Tensor](self.weights), values)

    def save(self) -> None:
        """A checkpoint: everything to go on, and the averaged adapter in bf16 for use."""
        kept = [w.detach().clone() for w in self.weights]
        state: dict[str, Tensor] = {}
        for i, (weight, mean) in enumerate(zip(self.weights, self.average, strict=True)):
            moments = self.optimiser.state[weight]
            state |= {f"{i}.weight": weight.detach(), f"{i}.average": mean}
            state |= {f"{i}.{name}": moments[name] for name in ("exp_avg", "exp_avg_sq") if name in moments}
        note = {
            "place": self.place,
            "begun": self.begun,
            "steps": self.steps,
            "seconds": round(self.seconds),
            "recipe": asdict(self.recipe),
        }
        _write_atomically(self.out / "state.safetensors", state, note)
        with torch.no_grad():
            self._put(self.average)
            adapter = {
                name: w.to(torch.bfloat16).contiguous().clone() for name, w in self.model.adapter().items()
            }
            self._put(kept)
        _write_atomically(self.out / "adapter_model.safetensors", adapter, note)
        (self.out / "position.json").write_text(json.dumps(note, indent=1))

    def resume(self) -> bool:
        """Go on where the last checkpoint was made; False where there is none."""
        path = self.out / "state.safetensors"
        if not path.exists():
            return False
        state, note = (
            load_file(path),
            json.loads((self.out / "position.json").read_text()),
        )
        self.place, self.steps, self.seconds = (
            note["place"],
            note["steps"],
            note["seconds"],
        )
        self.begun = note.get("begun", 0)
        with torch.no_grad():
            for i, weight in enumerate(self.weights):
                weight.copy_(state[f"{i}.weight"])
                self.average[i].copy_(state[f"{i}.average"])
                self.optimiser.state[weight] = {
                    "step": torch.tensor(float(self.steps)),
                    "exp_avg": state[f"{i}.exp_avg"],
                    "exp_avg_sq": state[f"{i}.exp_avg_sq"],
                }
        return True

    def start_from(self, adapter: Path) -> None:
        """Begin with an adapter that was trained before, at the pair after its last, with a new warm-up."""
        self.model.load_adapter(load_file(adapter))
        with safe_open(adapter, "pt") as file:
            self.place = self.begun = json.loads(file.metadata()["note"])["place"]
        self.average = [w.detach().clone() for w in self.weights]


def _write_atomically(path: Path, state: dict[str, Tensor], note: dict[str, Any]) -> None:
    part = path.with_suffix(".part")
    save_file(state, part, metadata={"format": "pt", "note": json.dumps(note)})
    part.replace(path)


def load_validation(path: Path, most: int, encode: Encode, recipe: Recipe) -> tuple[list[Item], list[Item]]:
    """Pairs of unseen repositories with all their surroundings: those with a grounded message, and others."""
    good: list[Item] = []
    rest: list[Item] = []
    for line in path.read_text().splitlines():
        pair = json.loads(line)
        one = make_item(
            restore_file_changes(pair["files"]),
            pair["like"],
            pair["previous"],
            pair["message"],
            encode,
            recipe.tokens,
        )
        (good if pair["chance"] >= 0.6 else rest).append(one)
    rng = random.Random(0)
    return rng.sample(good, most * 2 // 3), rng.sample(rest, most // 3)


def train(
    run: TrainingRun,
    reader: PairReader,
    valid: tuple[list[Item], list[Item]],
    args: argparse.Namespace,
) -> Iterator[dict[str, Any]]:
    """Train until time or pairs are up; gives a row of the log now and then."""
    began = saved = time.monotonic()
    nats, tokens = 0.0, 0
    due = -(-run.place // args.measure_every) * args.measure_every
    before = run.seconds
    end = began + args.minutes * 60
    while run.place < args.examples and time.monotonic() < end and not run.asked_to_stop:
        if valid[0] and run.place >= due:
            due += args.measure_every
            good, rest = (run.measure(part) for part in valid)
            yield {
                "place": run.place,
                "valid": good["nats_a_byte"],
                "valid_rest": rest["nats_a_byte"],
                "nats": good["nats"],
            }
        batch = [reader.make_item(run.place + i) for i in range(run.recipe.batch)]
        more, n = run.step(batch)
        nats, tokens = nats + more, tokens + n
        run.seconds = before + time.monotonic() - began
        if run.steps % 10 == 0:
            cpu = round(time.process_time())
            yield {
                "place": run.place,
                "loss": nats / tokens,
                "seconds": round(run.seconds),
                "cpu": cpu,
            }
            nats, tokens = 0.0, 0
        if time.monotonic() - saved > args.save_every * 60:
            saved = time.monotonic()
            run.save()
    run.save()
    if valid[0] and not run.asked_to_stop:
        good, rest = (run.measure(part) for part in valid)
        yield {
            "place": run.place,
            "valid": good["nats_a_byte"],
            "valid_rest": rest["nats_a_byte"],
            "nats": good["nats"],
        }


def main() -> None:
    """Start or go on."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "pairs", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--minutes", type=float, default=math.inf)
    parser.add_argument("--examples", type=float, default=math.inf)
    parser.add_argument("--save-every", type=float, default=10)
    parser.add_argument("--measure-every", type=int, default=640)
    parser.add_argument("--valid", type=int, default=120)
    parser.add_argument("--from-adapter", type=Path)
    parser.add_argument("--no-fuse", action="store_true")
    for name, value in asdict(Recipe()).items():
        if name != "layout":
            parser.add_argument(f"--{name}", type=type(value), default=value)
    args = parser.parse_args()
    torch.set_num_threads(1)
    recipe = Recipe(**{name: getattr(args, name) for name in asdict(Recipe()) if name != "layout"})
    args.out.mkdir(parents=True, exist_ok=True)
    encode = make_encoder(Tokenizer.from_file(str(args.base / "tokenizer.json")))
    if not args.no_fuse:
        llama.fuse()
    run = TrainingRun(args.base, args.out, recipe)
    if not run.resume() and args.from_adapter:
        run.start_from(args.from_adapter)
    valid = (
        load_validation(args.pairs / "valid.jsonl", args.valid, encode, recipe) if args.valid else ([], [])
    )
    with open(args.out / "log.jsonl", "a") as log:
        for row in train(run, PairReader(args.pairs / "train.jsonl", encode, recipe), valid, args):
            line = json.dumps({k: round(v, 4) if isinstance(v, float) else v for k, v in row.items()})
            log.write(line + "\n")
            log.flush()
            sys.stderr.write(line + "\n")


if __name__ == "__main__":
    main()
