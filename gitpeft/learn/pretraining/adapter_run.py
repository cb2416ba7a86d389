"""Trains a base's adapter on commit pairs: a run that can go on for days, and in pieces on another machine.

Warm-up, then a constant rate; what a decayed copy would know is read from a running average of the weights.
Everything that the next step depends on is saved, by the names that PEFT gives the weights, so that a run
that was killed goes on from its last checkpoint (see `adapter_checkpoint`) with the very next pair, on a
CPU or a GPU alike.
"""

import json
import math
import signal
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, TypeAlias

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from gitpeft.errors import GitpeftError
from gitpeft.files import write_json
from gitpeft.learn.data.batches import PromptedExamples, group_by_tokens, round_up
from gitpeft.learn.pretraining.adapter_checkpoint import (
    ADAPTER_FILE,
    STATE_FILE,
    AdapterPosition,
    make_note,
    name_numbered_state,
    read_position,
    shorten_name,
)
from gitpeft.learn.training import compilation, distributed, memory
from gitpeft.learn.training.checkpoint_writer import CheckpointWriter, TensorFile
from gitpeft.learn.training.devices import explain_lost_gpu, load_arrays, prepare_device
from gitpeft.learn.training.flops import StepFlops
from gitpeft.learn.training.optimisers import skip_step_where
from gitpeft.learn.training.resident import ResidentSelection

if TYPE_CHECKING:
    from peft import PeftModel

PAD, NO_LIMIT = 16, 1 << 30
"""Rows of a batch are filled up to a multiple of `PAD`; pairs were cut when they were made."""

MAX_SKIPPED_STEPS = 50
"""A training ends when so many steps in a row had a loss or a gradient that is not finite."""

_STEPS_BETWEEN_REPORTS = 10

Pairs: TypeAlias = PromptedExamples | ResidentSelection
"""The pairs of a batch, in the host's memory or on the device."""


@dataclass(frozen=True, slots=True)
class AdapterSettings:
    """How to train. `rate`: AdamW's, after `warm` pairs of warm-up, and falling to nothing over the last
    `cool` ones; `batch`: pairs of a step, computed in parts of at most `part_tokens`, padding included (0: at
    once); `average`: decay of the running average of the weights; `beta`: AdamW's second.

    The run ends after `pairs` (0: all, `passes` times), or stops after `minutes` until it is started again.
    Every `save_minutes` a checkpoint is written, every `check_every` pairs the validation loss is measured on
    `checked` pairs. On a CPU it computes in `threads`. With `compile` it compiles what it can.
    """

    rate: float = 8e-4
    warm: int = 320
    cool: int = 0
    batch: int = 8
    part_tokens: int = 0
    average: float = 0.99
    beta: float = 0.98
    pairs: int = 0
    passes: int = 1
    minutes: float = 1e9
    save_minutes: float = 10.0
    check_every: int = 1280
    checked: int = 120
    threads: int = 1
    compile: bool = True
    seed: int = 1

    def count_pairs(self, known: int) -> "AdapterSettings":
        """With the number of pairs at which the run ends, where there are so many."""
        return self if self.pairs else replace(self, pairs=self.passes * known)

    def find_rate(self, place: int, begun: int) -> float:
        """The rate of the step at `place` in a run that began at the pair `begun`."""
        warm = (place - begun + self.batch) / self.warm
        cool = (self.pairs - place) / self.cool if self.cool else 1.0
        return self.rate * min(1.0, warm, cool)


@dataclass(frozen=True, slots=True)
class ValidationPart:
    """Validation pairs, and the bytes of their messages together."""

    examples: PromptedExamples
    size: int


class PairSource(Protocol):
    """Training pairs by their place, over and over."""

    def make_examples(self, places: Sequence[int]) -> Pairs:
        """The pairs at these places, as the model reads them."""
        ...


class AdapterRun:
    """A run in a folder: the weights, their average, the optimiser, and how far it has come."""

    def __init__(self, model: "PeftModel", folder: Path, settings: AdapterSettings) -> None:
        self.model, self.folder, self.settings = model, folder, settings
        self.weights = {name: p for name, p in model.named_parameters() if p.requires_grad}
        self.device = next(iter(self.weights.values())).device
        prepare_device(self.device)
        on_gpu = self.device.type == "cuda"
        self.optimiser = torch.optim.AdamW(
            list(self.weights.values()),
            lr=settings.rate,
            betas=(0.9, settings.beta),
            weight_decay=0.0,
            fused=on_gpu,
        )
        self.average = {name: weight.detach().clone() for name, weight in self.weights.items()}
        self.at, self.part_tokens = AdapterPosition(), settings.part_tokens
        self.writer = CheckpointWriter(behind=on_gpu)
        self.step_flops, self.tokens, self.flops = StepFlops.from_model(model), 0, 0.0
        self.notes: list[str] = []
        self.asked_to_stop = False

    def take_step(self, examples: Pairs, size: int = 0) -> Tensor:
        """One update from a batch; its loss in nats a token, for which a GPU has not been waited.

        `size` are the pairs of the whole batch, where other processes have the rest of it. Where memory runs
        out, the batch is computed in smaller parts from then on. A step whose loss or gradient is not finite
        changes nothing, and gives NaN. GitpeftError where one pair is too much.
        """
        sources, targets = examples.count_tokens(range(len(examples)), NO_LIMIT)
        mine = self._compute_gradient_in_parts(examples, sources, targets)
        labels = torch.full((), sum(targets), device=self.device)
        total = distributed.combine_gradients(list(self.weights.values()), mine, labels)
        norm = torch.nn.utils.clip_grad_norm_(self.weights.values(), 1.0)
        usable = norm.isfinite() & total.isfinite()
        self._update_weights(usable)
        self.at.steps += 1
        self.at.place += size or len(examples)
        self.tokens += sum(sources) + sum(targets)
        self.flops += self.step_flops.count_batch(sources, targets)
        return total.where(usable, math.nan)

    def _update_weights(self, usable: Tensor) -> None:
        for group in self.optimiser.param_groups:
            group["lr"] = self.settings.find_rate(self.at.place, self.at.begun)
        skip_step_where(self.optimiser, ~usable)  # on a GPU, which is not waited for
        if self.device.type == "cuda" or bool(usable):
            self.optimiser.step()
        self.optimiser.zero_grad(set_to_none=True)
        share = min(self.settings.average, (2 + self.at.steps) / (11 + self.at.steps))
        with torch.no_grad():
            now = [self.weights[name].detach() for name in self.average]
            torch._foreach_lerp_(list(self.average.values()), now, 1 - share)

    def _compute_gradient_in_parts(
        self, examples: Pairs, sources: Sequence[int], targets: Sequence[int]
    ) -> Tensor:
        while True:
            parts = self._divide_batch(sources, targets)
            try:
                return self._compute_gradient(examples, parts, targets)
            except Exception as error:
                note = compilation.drop_failed_compilation(self.model, error)
                if not note and not memory.is_out_of_memory(error):
                    raise
                reason = memory.describe_error(error)
            self.optimiser.zero_grad(set_to_none=True)
            memory.release_memory()
            if note:
                self.notes.append(note)
            else:
                self._need_less_memory(parts, sources, targets, reason)

    def _divide_batch(self, sources: Sequence[int], targets: Sequence[int]) -> list[list[int]]:
        """The rows of each part; pairs of like length are in one, so that little of it is filled up."""
        lengths = [round_up(source + target, PAD) for source, target in zip(sources, targets, strict=True)]
        order = sorted(range(len(lengths)), key=lambda row: sources[row] + targets[row])
        return group_by_tokens(order, lengths, self.part_tokens or NO_LIMIT)

    def _compute_gradient(
        self, examples: Pairs, parts: Sequence[Sequence[int]], targets: Sequence[int]
    ) -> Tensor:
        losses = [torch.zeros((), device=self.device)]
        for part in parts:
            share = sum(targets[row] for row in part) / sum(targets)
            loss = self._compute_loss(examples, part) * share
            loss.backward()  # type: ignore[no-untyped-call]
            losses.append(loss.detach())
        return torch.stack(losses).sum()

    def _need_less_memory(
        self,
        parts: Sequence[Sequence[int]],
        sources: Sequence[int],
        targets: Sequence[int],
        reason: str,
    ) -> None:
        if max(map(len, parts)) == 1:
            raise GitpeftError(
                f"out of memory with one pair at a time: {reason}",
                "train on a machine with more memory, or with --device cpu; nothing is lost",
            )
        wide = [max(round_up(sources[row] + targets[row], PAD) for row in part) * len(part) for part in parts]
        self.part_tokens = max(wide) // 2
        self.notes.append(f"out of memory: parts of {self.part_tokens:,} tokens from now on")

    def _compute_loss(self, examples: Pairs, rows: Sequence[int]) -> Tensor:
        inputs = _load_pairs(examples, rows, self.device)
        with torch.autocast(self.device.type, dtype=torch.bfloat16):
            found: Tensor = self.model(**inputs).loss
        return found

    def measure(self, part: ValidationPart) -> float:
        """Nats a byte of the averaged weights; in smaller batches where memory runs out."""
        examples = part.examples

        def measure(size: int) -> float:
            total = 0.0
            for start in range(0, len(examples), size):
                rows = range(start, min(start + size, len(examples)))
                count = sum(examples.count_tokens(rows, NO_LIMIT)[1])
                total += float(self._compute_loss(examples, rows)) * count
            return total

        with self.use_average(), torch.no_grad(), compilation.without_compilation(self.model):
            return memory.halve_until_it_fits(8, measure) / part.size

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
        """Write a checkpoint, on a GPU while the next steps are computed.

        Each file is replaced in one rename.
        """
        state = {f"{name}:average": mean for name, mean in self.average.items()}
        for name, weight in self.weights.items():
            state[f"{name}:weight"] = weight.detach()
            moments = self.optimiser.state.get(weight, {})
            state |= {
                f"{name}:{kind}": moments[kind] for kind in ("exp_avg", "exp_avg_sq") if kind in moments
            }
        note = make_note(json.dumps({**asdict(self.at), "settings": asdict(self.settings)}))
        adapter = {shorten_name(name): mean.to(torch.bfloat16) for name, mean in self.average.items()}
        self.writer.write(
            [
                TensorFile(self.folder / STATE_FILE, state, note),
                TensorFile(self.folder / ADAPTER_FILE, adapter, note),
            ]
        )

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
        state, self.at = name_numbered_state(load_file(path), list(self.weights)), read_position(path)
        self._put({name: state[f"{name}:weight"] for name in self.weights})
        for name, weight in self.weights.items():
            self.average[name].copy_(state[f"{name}:average"])
            self.optimiser.state[weight] = {
                "step": torch.tensor(float(self.at.steps), device=self.device),
                **{kind: state[f"{name}:{kind}"].to(weight) for kind in ("exp_avg", "exp_avg_sq")},
            }

    def _start_from(self, adapter: Path) -> None:
        """Begin at the pair after the adapter's last, with a new warm-up."""
        tensors = load_file(adapter)
        self._put({name: tensors[shorten_name(name)] for name in self.weights})
        self.average = {name: weight.detach().clone() for name, weight in self.weights.items()}
        place = read_position(adapter).place
        self.at = AdapterPosition(place, place)


@explain_lost_gpu()
def train_adapter(
    run: AdapterRun,
    source: PairSource,
    valid: Mapping[str, ValidationPart],
    report: Callable[[dict[str, float]], None],
    rate: float = 0.0,
    on_step: Callable[[], None] = lambda: None,
) -> bool:
    """Train until all pairs are seen, the minutes are over, or SIGTERM; whether all pairs were seen.

    The batch in progress is finished, and a checkpoint written, in any case. `report` gets the rows of the
    log: place, loss (nats a token) and seconds every ten steps, `valid: NAME` (nats a byte) now and then.
    With the bf16 `rate` of a device, in operations a second, the rows also have real tokens a second and what
    they use of that rate. `on_step` is called after every step, which on a CPU may take seconds.
    """
    settings, before, world = run.settings, run.at.seconds, distributed.find_world()
    began = saved = time.monotonic()
    due = -(-run.at.place // settings.check_every) * settings.check_every
    reporter = _StepReporter(run, report, rate)
    with _stop_on_sigterm(run), run.writer:
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
            loss = run.take_step(source.make_examples(mine), size)
            run.at.seconds = before + time.monotonic() - began
            reporter.add_step(loss)
            on_step()
            if time.monotonic() - saved > 60 * settings.save_minutes and world.writes:
                saved = time.monotonic()
                run.save()
        if world.writes:
            run.save()
        finished = run.at.place >= settings.pairs
        if finished and world.writes:
            report(_measure_parts(run, valid))
    return finished


class _StepReporter:
    """Reads the losses of a run every ten steps: a GPU is waited for only then."""

    def __init__(self, run: AdapterRun, report: Callable[[dict[str, float]], None], rate: float) -> None:
        self.run, self.report, self.rate = run, report, rate
        self.unread: list[Tensor] = []
        self.skipped = 0
        self._mark = self._take_mark()

    def add_step(self, loss: Tensor) -> None:
        """Remember the loss of a step, and tell of the last ones now and then.

        GitpeftError where the loss stays infinite or NaN.
        """
        self.unread.append(loss)
        if self.run.at.steps % _STEPS_BETWEEN_REPORTS:
            return
        losses = torch.stack(self.unread).tolist()
        finite = [one for one in losses if math.isfinite(one)]
        self.skipped = 0 if finite else self.skipped + len(losses)
        if self.skipped >= MAX_SKIPPED_STEPS:
            raise GitpeftError(
                f"the loss or its gradient was not finite in {self.skipped} steps in a row",
                "train with a lower rate: the last checkpoint is from before that",
            )
        if finite and distributed.find_world().writes:
            row = {"place": self.run.at.place, "loss": sum(finite) / len(finite)}
            self.report({**row, "seconds": self.run.at.seconds, **self._measure_rate()})
        self.unread.clear()

    def _take_mark(self) -> tuple[float, int, float]:
        return time.monotonic(), self.run.tokens, self.run.flops

    def _measure_rate(self) -> dict[str, float]:
        """Tokens a second since the last report, and their share of the device's rate where that is known."""
        (began, tokens, flops), self._mark = self._mark, self._take_mark()
        seconds = max(self._mark[0] - began, 1e-9)
        if not self.rate:
            return {}
        size = distributed.find_world().size
        done = size * (self._mark[1] - tokens) / seconds, (self._mark[2] - flops) / seconds / self.rate
        return {"tokens/s": done[0], "of bf16": done[1]}


def _load_pairs(examples: Pairs, rows: Sequence[int], device: torch.device) -> dict[str, Tensor]:
    if isinstance(examples, ResidentSelection):
        return examples.load_batch(rows, NO_LIMIT, PAD, 0)
    return load_arrays(examples.collate_batch(rows, NO_LIMIT, PAD, 0), device)


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


def write_adapter(run: AdapterRun, folder: Path) -> None:
    """The averaged adapter as PEFT's files, its weights in bfloat16.

    Files that are there already stay as they are: written again, their notes may come in another order, and
    what was asked of this adapter would be taken for that of another one.
    """
    if _holds_run(folder / ADAPTER_FILE, run):
        return
    folder.mkdir(parents=True, exist_ok=True)
    with run.use_average():
        run.model.save_pretrained(folder)
    tensors = {name: tensor.to(torch.bfloat16) for name, tensor in load_file(folder / ADAPTER_FILE).items()}
    TensorFile(folder / ADAPTER_FILE, tensors, make_note(json.dumps(asdict(run.at)))).write()
    config = json.loads((folder / "adapter_config.json").read_text(encoding="utf-8"))
    write_json(folder / "adapter_config.json", config | {"base_model_name_or_path": None})
    (folder / "README.md").unlink(missing_ok=True)


def _holds_run(path: Path, run: AdapterRun) -> bool:
    """Whether a file has the averaged weights of this very place of a run."""
    try:
        if read_position(path) != run.at:
            return False
    except (OSError, KeyError, TypeError, ValueError, SafetensorError):  # there is none, or another one
        return False
    known = load_file(path)
    expected = {shorten_name(name): mean.to(torch.bfloat16) for name, mean in run.average.items()}
    return known.keys() == expected.keys() and all(torch.equal(known[n], expected[n]) for n in expected)
