"""Trains a base's adapter on commit pairs: a run that can go on for days, and in pieces on another machine.

Warm-up, then a constant rate; what a decayed copy would know is read from a running average of the weights.
Everything that the next step depends on is saved, by the names that PEFT gives the weights, so that a run
that was killed goes on from its last checkpoint with the very next pair, on a CPU or a GPU alike. A
checkpoint is two files, `state.safetensors` and `adapter_model.safetensors` (the average, in bfloat16, for
use); the position is in the metadata of both.
"""

import json
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torch import Tensor

from gitpeft.errors import GitpeftError
from gitpeft.files import write_json
from gitpeft.learn.data.batches import PromptedExamples
from gitpeft.learn.training import distributed, memory
from gitpeft.learn.training.devices import explain_lost_gpu, load_arrays

if TYPE_CHECKING:
    from peft import PeftModel

STATE_FILE, ADAPTER_FILE, LOG_FILE = "state.safetensors", "adapter_model.safetensors", "log.jsonl"
_NOTE = "note"


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """How to train. `rate`: AdamW's, after `warm` pairs of warm-up; `batch`: pairs of a step, computed in
    `parts`; `average`: decay of the running average of the weights; `beta`: AdamW's second.

    The run ends after `pairs` (0: all, once), or stops after `minutes` until it is started again. Every
    `save_minutes` a checkpoint is written, every `check_every` pairs the validation loss is measured on
    `checked` pairs. On a CPU it computes in `threads`, and compiles what it can with `compile`.
    """

    rate: float = 8e-4
    warm: int = 320
    batch: int = 8
    parts: int = 1
    average: float = 0.99
    beta: float = 0.98
    pairs: int = 0
    minutes: float = 1e9
    save_minutes: float = 10.0
    check_every: int = 1280
    checked: int = 120
    threads: int = 1
    compile: bool = True
    seed: int = 1


@dataclass(slots=True)
class AdapterPosition:
    """Where a run stands: the next pair, the one it began with (after a new warm-up), steps, and seconds."""

    place: int = 0
    begun: int = 0
    steps: int = 0
    seconds: float = 0.0


@dataclass(frozen=True, slots=True)
class ValidationPart:
    """Validation pairs, and the bytes of their messages together."""

    examples: PromptedExamples
    size: int


class PairSource(Protocol):
    """Training pairs by their place, over and over."""

    def make_examples(self, places: Sequence[int]) -> PromptedExamples:
        """The pairs at these places, as the model reads them."""
        ...


class AdapterRun:
    """A run in a folder: the weights, their average, the optimiser, and how far it has come."""

    def __init__(self, model: "PeftModel", folder: Path, settings: AdapterSettings) -> None:
        self.model, self.folder, self.settings = model, folder, settings
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.optimiser = torch.optim.AdamW(
            list(self.weights.values()), lr=settings.rate, betas=(0.9, settings.beta), weight_decay=0.0
        )
        self.average = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.at, self.parts = AdapterPosition(), settings.parts
        self.asked_to_stop = False

    def take_step(self, examples: PromptedExamples, size: int = 0) -> Tensor:
        """One update from a batch; its loss in nats a token, for which a GPU has not been waited.

        `size` are the pairs of the whole batch, where other processes have the rest of it. Where memory runs
        out, the batch is computed in twice as many parts, from then on. GitpeftError where one pair is too
        much.
        """
        mine = self._compute_gradient_in_parts(examples)
        labels = torch.tensor(int(examples.target_at[-1]), device=mine.device)
        total = distributed.combine_gradients(list(self.weights.values()), mine, labels)
        torch.nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        warm = (self.at.place - self.at.begun + self.settings.batch) / self.settings.warm
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.rate * min(1.0, warm)
        self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        self.at.steps += 1
        self.at.place += size or len(examples)
        share = min(self.settings.average, (1 + self.at.steps) / (10 + self.at.steps))
        with torch.no_grad():
            now = [self.weights[name].detach() for name in self.average]
            torch._foreach_lerp_(list(self.average.values()), now, 1 - share)
        return total

    def _compute_gradient_in_parts(self, examples: PromptedExamples) -> Tensor:
        while True:
            try:
                return self._compute_gradient(examples)
            except (RuntimeError, MemoryError) as error:
                if not memory.is_out_of_memory(error):
                    raise
                reason = memory.describe_error(error)
            self._need_less_memory(len(examples), reason)

    def _compute_gradient(self, examples: PromptedExamples) -> Tensor:
        """The loss of a batch; pairs of like length are in one part, so that little of it is filled up."""
        order = np.argsort(np.diff(examples.source_at), kind="stable")
        parts = [part.tolist() for part in np.array_split(order, self.parts) if len(part)]
        batches = [examples.collate_batch(part, 1 << 30, 16, 0) for part in parts]
        counts = [int((batch["labels"] != -100).sum()) for batch in batches]
        losses = [torch.zeros((), device=next(iter(self.weights.values())).device)]
        for batch, count in zip(batches, counts, strict=True):
            loss = self._compute_loss(batch) * (count / sum(counts))
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _need_less_memory(self, pairs: int, reason: str) -> None:
        self.optimiser.zero_grad(set_to_none=True)
        memory.release_memory()
        if self.parts >= pairs:
            raise GitpeftError(
                f"out of memory with one pair at a time: {reason}",
                "train on a machine with more memory, or with --device cpu; nothing is lost",
            )
        self.parts *= 2

    def _compute_loss(self, batch: Mapping[str, Any]) -> Tensor:
        device = next(iter(self.weights.values())).device
        inputs = load_arrays(batch, device)
        with torch.autocast(device.type, dtype=torch.bfloat16):
            found: Tensor = self.model(**inputs).loss
        return found

    def measure(self, part: ValidationPart) -> float:
        """Nats a byte of the averaged weights."""
        examples, total = part.examples, 0.0
        with self.use_average(), torch.no_grad():
            for start in range(0, len(examples), 8):
                rows = range(start, min(start + 8, len(examples)))
                batch = examples.collate_batch(rows, 1 << 30, 16, 0)
                count = int((batch["labels"] != -100).sum())
                total += float(self._compute_loss(batch)) * count
        return total / part.size

    @contextmanager
    def use_average(self) -> Iterator[None]:
        """The averaged weights in the model, until the end."""
        kept = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self._put(self.average)
        try:
            yield
        finally:
            self._put(kept)

    @torch.no_grad()
    def _put(self, values: Mapping[str, Tensor]) -> None:
        for name, weight in self.weights.items():
            weight.copy_(values[name])

    # --- checkpoints

    def save(self) -> None:
        """Write a checkpoint; each file is replaced in one rename."""
        state = {f"{name}:average": mean for name, mean in self.average.items()}
        for name, weight in self.weights.items():
            state[f"{name}:weight"] = weight.detach()
            moments = self.optimiser.state.get(weight, {})
            state |= {
                f"{name}:{kind}": moments[kind] for kind in ("exp_avg", "exp_avg_sq") if kind in moments
            }
        note = json.dumps({**asdict(self.at), "settings": asdict(self.settings)})
        self.folder.mkdir(parents=True, exist_ok=True)
        _write_tensors(self.folder / STATE_FILE, state, note)
        adapter = {_shorten_name(name): mean.to(torch.bfloat16) for name, mean in self.average.items()}
        _write_tensors(self.folder / ADAPTER_FILE, adapter, note)

    def resume(self, adapter: Path | None = None) -> bool:
        """Go on from the folder's checkpoint, else begin with the weights of `adapter`; False for neither.

        GitpeftError where the checkpoint is of another base or shape.
        """
        path = self.folder / STATE_FILE
        try:
            if path.exists():
                self._load_state(path)
            elif adapter is not None and adapter.exists():
                self._start_from(adapter)
            else:
                return False
        except (KeyError, RuntimeError, OSError) as error:
            raise GitpeftError(
                f"the run in {self.folder} cannot go on: {error}", "name another --work folder to begin anew"
            ) from None
        return True

    def _load_state(self, path: Path) -> None:
        state, self.at = _name_numbered_state(load_file(path), list(self.weights)), _read_position(path)
        self._put({name: state[f"{name}:weight"] for name in self.weights})
        for name, weight in self.weights.items():
            self.average[name].copy_(state[f"{name}:average"])
            self.optimiser.state[weight] = {
                "step": torch.tensor(float(self.at.steps)),
                **{kind: state[f"{name}:{kind}"].to(weight) for kind in ("exp_avg", "exp_avg_sq")},
            }

    def _start_from(self, adapter: Path) -> None:
        """Begin at the pair after the adapter's last, with a new warm-up."""
        tensors = load_file(adapter)
        self._put({name: tensors[_shorten_name(name)] for name in self.weights})
        self.average = {name: weight.detach().clone() for name, weight in self.weights.items()}
        place = _read_position(adapter).place
        self.at = AdapterPosition(place, place)


@explain_lost_gpu()
def train_adapter(
    run: AdapterRun,
    source: PairSource,
    valid: Mapping[str, ValidationPart],
    report: Callable[[dict[str, float]], None],
) -> bool:
    """Train until all pairs are seen, the minutes are over, or SIGTERM; whether all pairs were seen.

    The batch in progress is finished, and a checkpoint written, in any case. `report` gets the rows of the
    log: place, loss (nats a token) and seconds every ten steps, `valid: NAME` (nats a byte) now and then.
    """
    settings, before, world = run.settings, run.at.seconds, distributed.find_world()
    began = saved = time.monotonic()
    due = -(-run.at.place // settings.check_every) * settings.check_every
    losses: list[Tensor] = []
    with _stop_on_sigterm(run):
        while run.at.place < settings.pairs:
            over = run.asked_to_stop or time.monotonic() - began > 60 * settings.minutes
            if distributed.decide(over):
                break
            if run.at.place >= due:
                due += settings.check_every
                if world.writes:
                    report(_measure_parts(run, valid))
            size = min(settings.batch, settings.pairs - run.at.place)
            mine = range(run.at.place, run.at.place + size)[world.rank :: world.size]
            losses.append(run.take_step(source.make_examples(mine), size))
            run.at.seconds = before + time.monotonic() - began
            if run.at.steps % 10 == 0 and world.writes:
                report(
                    {
                        "place": run.at.place,
                        "loss": float(torch.stack(losses).mean()),
                        "seconds": run.at.seconds,
                    }
                )
                losses.clear()
            if time.monotonic() - saved > 60 * settings.save_minutes and world.writes:
                saved = time.monotonic()
                run.save()
        if world.writes:
            run.save()
        finished = run.at.place >= settings.pairs
        if finished and world.writes:
            report(_measure_parts(run, valid))
    return finished


def _measure_parts(run: AdapterRun, valid: Mapping[str, ValidationPart]) -> dict[str, float]:
    return {"place": run.at.place, **{f"valid: {name}": run.measure(part) for name, part in valid.items()}}


@contextmanager
def _stop_on_sigterm(run: AdapterRun) -> Iterator[None]:
    def stop(*_: object) -> None:
        run.asked_to_stop = True

    before = signal.signal(signal.SIGTERM, stop)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)


def narrow_checkpoint(folder: Path, out: Path) -> None:
    """A copy of the checkpoint in `folder`, in bfloat16, from which a run goes on all the same."""
    tensors = {name: one.to(torch.bfloat16) for name, one in load_file(folder / STATE_FILE).items()}
    with safe_open(folder / STATE_FILE, "pt") as file:
        note = file.metadata()[_NOTE]
    out.mkdir(parents=True, exist_ok=True)
    _write_tensors(out / STATE_FILE, tensors, note)


def write_adapter(run: AdapterRun, folder: Path) -> None:
    """The averaged adapter as PEFT's files, its weights in bfloat16."""
    folder.mkdir(parents=True, exist_ok=True)
    with run.use_average():
        run.model.save_pretrained(folder)
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(folder / ADAPTER_FILE).items()}
    _write_tensors(folder / ADAPTER_FILE, tensors, json.dumps(asdict(run.at)))
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    write_json(folder / "adapter_config.json", config | {"base_model_name_or_path": None})
    (folder / "README.md").unlink(missing_ok=True)


def _shorten_name(name: str) -> str:
    """A weight's name in PEFT's files, which leave out the name of the adapter."""
    return name.replace(".default.", ".")


def _write_tensors(path: Path, tensors: Mapping[str, Tensor], note: str) -> None:
    part = path.with_suffix(".part")
    whole = {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()}
    save_file(whole, part, metadata={"format": "pt", _NOTE: note})
    part.replace(path)


def _read_position(path: Path) -> AdapterPosition:
    with safe_open(path, "pt") as file:
        note = json.loads(file.metadata()[_NOTE])
    known = ("place", "begun", "steps", "seconds")
    return AdapterPosition(**{name: note[name] for name in known if name in note})


def _name_numbered_state(state: Mapping[str, Tensor], names: Sequence[str]) -> Mapping[str, Tensor]:
    """A checkpoint of the first version of these scripts, in today's names.

    It numbered the weights, and had the first matrices of those that read the same input in one.
    """
    if "0.weight" not in state:
        return state
    groups = (("q_proj", "k_proj", "v_proj"), ("o_proj",), ("gate_proj", "up_proj"), ("down_proj",))
    layers = sorted({name.split(".layers.")[1].split(".")[0] for name in names}, key=int)
    found: dict[str, Tensor] = {}
    number = 0
    for layer in layers:
        for group in groups:
            pairs = [
                [
                    next(n for n in names if f".layers.{layer}." in n and f".{part}.lora_{side}." in n)
                    for part in group
                ]
                for side in "AB"
            ]
            for kind in ("weight", "average", "exp_avg", "exp_avg_sq"):
                whole = state[f"{number}.{kind}"]
                found |= {
                    f"{n}:{kind}": one for n, one in zip(pairs[0], whole.chunk(len(group)), strict=True)
                }
                found |= {f"{n}:{kind}": state[f"{number + 1 + i}.{kind}"] for i, n in enumerate(pairs[1])}
            number += 1 + len(group)
    return found
