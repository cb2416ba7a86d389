"""The training loop: fits a model to examples within a budget of steps and minutes.

The task is in the data and the model (`RenderedExamples` for writing messages, `EncodedCommits` for judging
changes): a model is called with what the examples' `collate_batch` gives, and answers with a `loss`.
"""

import itertools
import math
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import numpy as np
import torch

from gitpeft.errors import GitpeftError
from gitpeft.learn.data.batches import BatchArrays
from gitpeft.learn.training import compilation, devices, distributed, memory, memory_plan
from gitpeft.learn.training.checkpoint import (
    BestWeights,
    TrainingPosition,
    copy_trainable_weights,
    load_checkpoint,
    save_checkpoint,
)
from gitpeft.learn.training.checkpoint_writer import CheckpointWriter
from gitpeft.learn.training.flops import StepFlops, synchronise_device
from gitpeft.learn.training.memory_plan import MemoryPlan
from gitpeft.learn.training.optimisers import make_optimisers, schedule_rate, skip_step_where
from gitpeft.learn.training.resident import ResidentExamples, make_resident
from gitpeft.learn.training.settings import TrainingCost, TrainingProgress, TrainingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHECKPOINT_SECONDS = 120
FIRST_VALIDATION_SHARE, MAX_VALIDATION_SHARE = 0.1, 0.2
"""Of the time of a training, for its first validation, which measures what it comes to, and for all of them
together, not counting the last."""

PACE_SHARE = 0.1
"""Of the time of a training, for measuring its pace a second time."""

MAX_VALIDATED = 1000
"""Examples for a validation loss at most."""

MAX_SKIPPED_STEPS = 50
"""A training ends when so many steps in a row had a loss or a gradient that is not finite."""

_STEPS_BETWEEN_READS = 16
"""Steps between two looks at the loss on a GPU, and how many are timed one by one at the start."""

_LOSS_SHARE = 0.03
"""The share of a step in the running average of the loss."""

BatchTensors = dict[str, torch.Tensor]
"""A batch on the model's device: `input_ids`, `attention_mask`, `labels`, and what else the task has."""

Objective = Callable[["PreTrainedModel", BatchTensors], tuple[torch.Tensor, torch.Tensor]]
"""From a model and a batch to the loss that is minimised and the loss that is shown, nats a target token."""


class TrainingExamples(Protocol):
    """Training examples (see `RenderedExamples` and `EncodedCommits`)."""

    def __len__(self) -> int: ...

    def collate_batch(self, chosen: Sequence[int], source_limit: int, pad: int, padding: int) -> BatchArrays:
        """The inputs of the model for some examples; `labels` of -100 are ignored."""
        ...

    def count_tokens(self, chosen: Iterable[int], source_limit: int) -> tuple[list[int], list[int]]:
        """Tokens of their sources and targets."""
        ...

    def select_examples(self, chosen: Iterable[int]) -> Self:
        """Some of the examples."""
        ...

    def iterate_batches(self, tokens: int, limit: int, seed: int) -> Iterator[list[int]]:
        """One pass in random order, about `tokens` tokens a batch."""
        ...


def train_model(
    model: "PreTrainedModel",
    train: TrainingExamples,
    settings: TrainingSettings,
    *,
    valid: TrainingExamples | None = None,
    evaluate_every: float = 0.1,
    on_step: Callable[[TrainingProgress], None] | None = None,
    checkpoint: Path | None = None,
    objective: Objective | None = None,
) -> TrainingCost:
    """Train every parameter that requires gradients; ends with the weights of the best validation loss.

    `valid` is measured each time another `evaluate_every` share of the budget is used, less often where that
    would take more than `MAX_VALIDATION_SHARE` of the time, and on a sample where the first time shows that
    all of it would take long (see `_TrainingLoop.limit_validation`). `checkpoint` is a folder: a checkpoint
    is written there then and every two minutes, and resumed from if it exists. Where memory runs out, a batch
    is computed in twice as many parts from then on, which is the same step; where one example is too much for
    a GPU, training goes on on the CPU. GitpeftError where it is too much for that as well, or where the loss
    stays infinite or NaN. `objective` is what is minimised where that is more than the loss of messages.
    Several processes train together where they have joined (see `distributed`).
    """
    with devices.explain_lost_gpu(resumes=checkpoint is not None):
        device = next(model.parameters()).device
        devices.prepare_device(device)
        memory.reset_peak_memory(str(device))
        world = distributed.find_world()
        torch.manual_seed(settings.seed + world.rank)
        optimisers = make_optimisers(model, settings)
        position = load_checkpoint(checkpoint, model, optimisers)
        loop = _TrainingLoop(model, settings, optimisers, position, objective or _message_loss)
        loop.resident = make_resident(train, loop.device)
        distributed.share_weights(loop.parameters)
        with memory_plan.follow_plan(model, loop.plan):
            model.train()
            compilation.compile_stacks(model, settings.compile)
            with loop.writer:
                _take_steps(loop, train, valid, evaluate_every, on_step, checkpoint)
            cost = loop.finish_cost()
            if loop.best is not None:
                model.load_state_dict(loop.best.weights, strict=False)
            compilation.compile_stacks(model, "")
        del loop, optimisers, position
        memory.release_memory()  # so that what comes after a training does not stand on top of its peak
        return cost


def _take_steps(
    loop: "_TrainingLoop",
    train: TrainingExamples,
    valid: TrainingExamples | None,
    evaluate_every: float,
    on_step: Callable[[TrainingProgress], None] | None,
    checkpoint: Path | None,
) -> None:
    due, saved = loop.share_done() + evaluate_every, time.monotonic()
    for batch in _iterate_epochs(train, loop.settings, loop):
        done = loop.share_done()
        if done >= 1 or loop.skipped_in_a_row >= MAX_SKIPPED_STEPS:
            break
        began = time.monotonic()
        loss = loop.take_step(train, batch, done)
        progress = loop.record_step(loss, *train.count_tokens(batch, loop.settings.source_limit), done)
        loop.time_step(began)
        loop.trim_freed_memory()
        if valid is not None and (before := loop.share_done()) >= min(due, 1.0):
            loop.record_validation(valid, progress)
            took = loop.check_seconds / (60 * loop.settings.minutes)
            due = before + max(evaluate_every, took / MAX_VALIDATION_SHARE)
        late = time.monotonic() - saved > CHECKPOINT_SECONDS
        if checkpoint is not None and loop.world.writes and (progress.valid is not None or late):
            save_checkpoint(checkpoint, loop.model, loop.optimisers, loop.position(), loop.writer)
            saved = time.monotonic()
        if on_step is not None:
            on_step(progress)


def _message_loss(model: "PreTrainedModel", inputs: BatchTensors) -> tuple[torch.Tensor, torch.Tensor]:
    found = model(**inputs).loss
    return found, found


def iterate_batch_losses(
    model: "PreTrainedModel", data: TrainingExamples, settings: TrainingSettings, count: int
) -> Iterator[Callable[["PreTrainedModel"], torch.Tensor]]:
    """The losses of the first `count` training batches, as functions of the model."""
    device = next(model.parameters()).device
    for batch in itertools.islice(
        data.iterate_batches(settings.batch_tokens, settings.source_limit, 0), count
    ):
        yield partial(_compute_loss, _load_batch(data, batch, settings, device, model))


def _compute_loss(inputs: BatchTensors, model: "PreTrainedModel") -> torch.Tensor:
    with _autocast_bfloat16(inputs["input_ids"].device):
        found: torch.Tensor = model(**inputs).loss
    return found


def measure_pace(model: "PreTrainedModel", data: TrainingExamples, settings: TrainingSettings) -> float:
    """Seconds that an example takes, forward and backward, in the better of two passes over `data`.

    There is one pass where it takes more than `PACE_SHARE` of the minutes: its start is then no large part.
    The examples are computed at once, or where memory runs out in parts, as a training would.
    """
    device = next(model.parameters()).device

    def time_passes(size: int) -> float:
        model.zero_grad(set_to_none=True)
        passes = list[float]()
        for _ in range(2):
            started = time.monotonic()
            for first in range(0, len(data), size):
                part = range(first, min(first + size, len(data)))
                inputs = _load_batch(data, part, settings, device, model)
                _compute_loss(inputs, model).backward()  # type: ignore[no-untyped-call]
            synchronise_device(device)
            passes.append(time.monotonic() - started)
            if passes[-1] > PACE_SHARE * 60 * settings.minutes:
                break
        return min(passes)

    pace = memory.halve_until_it_fits(max(1, len(data)), time_passes) / max(1, len(data))
    model.zero_grad(set_to_none=True)
    return pace


def measure_loss(
    model: "PreTrainedModel", data: TrainingExamples, settings: TrainingSettings, limit: int = MAX_VALIDATED
) -> float:
    """Mean loss in nats a label (a target token, or a judged change) over about `limit` examples of `data`.

    They are evenly spread. Where memory runs out, batches are smaller.
    """
    chosen = _spread_evenly(len(data), limit)

    def measure(tokens: int) -> float:
        smaller = replace(settings, batch_tokens=tokens)
        return measure_loss_until(model, data, chosen, smaller, math.inf)[0]

    return memory.halve_until_it_fits(settings.batch_tokens, measure)


def _spread_evenly(count: int, limit: int) -> range:
    """About `limit` of `count` examples."""
    return range(0, count, max(1, count // limit))


def measure_loss_until(
    model: "PreTrainedModel",
    data: TrainingExamples,
    chosen: Sequence[int],
    settings: TrainingSettings,
    deadline: float,
) -> tuple[float, list[int]]:
    """Mean loss in nats a label over the chosen examples, in random batches, and those that it came to.

    After the monotonic clock's `deadline` no batch is begun but the first.
    """
    data = data.select_examples(chosen)
    device = next(model.parameters()).device
    was_training, total, tokens, seen = model.training, 0.0, 0, list[int]()
    model.eval()
    for module in model.modules():
        if hasattr(module, "pointer"):
            module.training = True  # itself alone: it then computes only the loss; dropout stays off below
    try:
        with torch.no_grad(), _autocast_bfloat16(device), compilation.without_compilation(model):
            for batch in data.iterate_batches(settings.batch_tokens, settings.source_limit, seed=0):
                if seen and time.monotonic() >= deadline:
                    break
                seen += [chosen[i] for i in batch]
                inputs = _load_batch(data, batch, settings, device, model)
                count = int((inputs["labels"] != -100).sum())
                total += float(model(**inputs).loss) * count
                tokens += count
    finally:
        model.train(was_training)
    return total / max(tokens, 1), seen


class _TrainingLoop:
    """The moving parts of one training: step, clock, rates and cost."""

    def __init__(
        self,
        model: "PreTrainedModel",
        settings: TrainingSettings,
        optimisers: Sequence[torch.optim.Optimizer],
        start: TrainingPosition,
        objective: Objective,
    ) -> None:
        self.model, self.settings, self.optimisers, self.objective = model, settings, optimisers, objective
        self.step, self.loss, self.best = start.step, start.loss, start.best
        self.checked = start.checked
        self.world = distributed.find_world()
        self.unread: list[torch.Tensor] = []
        self.step_flops = StepFlops.from_model(model)
        self.started = time.monotonic() - start.seconds
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.cost = replace(
            start.cost,
            trainable=sum(p.numel() for p in self.parameters),
            parameters=sum(p.numel() for p in model.parameters()),
            device=str(self.parameters[0].device),
            batch_tokens=start.cost.batch_tokens or settings.batch_tokens,
        )
        self.plan = _plan_memory(model, self.cost.batch_tokens, max(start.cost.parts, settings.parts))
        self.cost.parts = self.plan.parts
        self.notes: list[str] = []
        if self.plan.recompute:
            self.notes.append("little memory: activations are computed again in the backward pass")
        self.first_share, self.skipped_in_a_row = 0.0, 0
        self.first_seconds: list[float] = []
        self.check_seconds = 0.0
        self.resident: ResidentExamples | None = None
        self.writer = CheckpointWriter(behind=self.device.type == "cuda")

    @property
    def device(self) -> torch.device:
        """Where the weights are; a GPU may be left in the middle."""
        found: torch.device = self.parameters[0].device
        return found

    def position(self) -> TrainingPosition:
        """Where the training stands, for a checkpoint."""
        seconds = time.monotonic() - self.started
        return TrainingPosition(self.step, self.loss, seconds, self.cost, self.best, self.checked)

    def share_done(self) -> float:
        """Of the steps or of the time, in which the last validation has to fit as well."""
        minutes = (time.monotonic() - self.started + self.check_seconds) / 60
        return distributed.decide(max(self.step / self.settings.steps, minutes / self.settings.minutes))

    def take_step(self, data: TrainingExamples, batch: Sequence[int], done: float) -> torch.Tensor:
        """Loss of a step; where memory runs out, the same batch again in more parts."""
        batch = batch[self.world.rank :: self.world.size]
        while True:
            try:
                return self.run_step(
                    [
                        _load_batch(data, part, self.settings, self.device, self.model, self.resident)
                        for part in self.split_batch(batch)
                    ],
                    done,
                )
            except Exception as error:
                if note := compilation.drop_failed_compilation(self.model, error):
                    self.notes.append(note)
                    self.model.zero_grad(set_to_none=True)  # what the failed step left would count twice
                    continue
                if not memory.is_out_of_memory(error):
                    raise
                reason = memory.describe_error(error)
            self.need_less_memory(-(-len(batch) // self.cost.parts), reason)

    def limit_validation(self) -> float:
        """Seconds for the validation that begins now.

        A later one has the time that is left, and at least twice that of the first: measured on other
        examples, its loss could not be compared.
        """
        whole = 60 * self.settings.minutes
        if self.checked is None:
            return FIRST_VALIDATION_SHARE * whole
        return max(MAX_VALIDATION_SHARE * whole, whole - (time.monotonic() - self.started))

    def try_validation(
        self, valid: TrainingExamples, chosen: Sequence[int], deadline: float
    ) -> tuple[float, list[int]]:
        """As `measure_loss_until`, in smaller batches where memory runs out."""
        while True:
            tokens = max(1, self.cost.batch_tokens * self.settings.parts // self.cost.parts)
            try:
                settings = replace(self.settings, batch_tokens=tokens)
                return measure_loss_until(self.model, valid, chosen, settings, deadline)
            except (RuntimeError, MemoryError) as error:
                if not memory.is_out_of_memory(error):
                    raise
                reason = memory.describe_error(error)
            self.need_less_memory(tokens, reason)

    def record_validation(self, valid: TrainingExamples, progress: TrainingProgress) -> None:
        """Measure the validation loss, and keep the weights where it is the lowest so far.

        They are not kept where there is no time to measure it on the examples of the first time.
        """
        began, first = time.monotonic(), self.checked is None
        chosen = _spread_evenly(len(valid), MAX_VALIDATED) if self.checked is None else self.checked
        mine, seen = self.try_validation(valid, chosen, began + self.limit_validation())
        self.check_seconds = distributed.decide(time.monotonic() - began)
        if first:
            self.checked = seen
        elif distributed.decide(len(seen) < len(chosen)):
            self.notes.append("no time to measure the validation loss again: these weights are not kept")
            return
        progress.valid = found = distributed.decide(mine)
        if not math.isfinite(found):
            self.notes.append("the validation loss is not finite: these weights are not kept")
            return
        self.cost.valid_curve.append((self.step, found))
        if self.best is None or found < self.best.loss:
            self.best = BestWeights(found, copy_trainable_weights(self.model))
            self.cost.seconds_to_best = progress.seconds

    def need_less_memory(self, size: int, reason: str) -> None:
        """More parts from now on; the CPU instead of a GPU where a part was one example (or token) already.

        Called outside of the exception's handler: its traceback would keep the step's tensors alive.
        """
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        memory.release_memory()
        if size > 1:
            self.cost.halved += 1
            self.cost.parts *= 2
            self.notes.append(f"out of memory: each batch in {self.cost.parts} parts from now on")
        elif self.device.type == "cpu" or self.world.size > 1:
            raise GitpeftError(
                f"out of memory with one example at a time: {reason}",
                "choose a smaller base or method, or a machine with more memory",
            )
        else:
            self._leave_gpu(reason)

    def _leave_gpu(self, reason: str) -> None:
        devices.move_to_cpu(self.model, reason, self.notes)
        self.resident = None
        for optimiser in self.optimisers:
            for moments in optimiser.state.values():
                moments.update({k: v.cpu() for k, v in moments.items() if isinstance(v, torch.Tensor)})
        self.unread = [value.cpu() for value in self.unread]
        self.cost.device = "cpu"

    def split_batch(self, batch: Sequence[int]) -> list[Sequence[int]]:
        """The batch in parts of alike size, none of them empty."""
        size = max(1, -(-len(batch) // self.cost.parts))
        return [batch[start : start + size] for start in range(0, len(batch), size)]

    def run_step(self, parts: Sequence[BatchTensors], done: float) -> torch.Tensor:
        rate = schedule_rate(done, self.settings, max(0.0, done - self.first_share))
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * rate
        counts = [(part["labels"] != -100).sum() for part in parts]
        total = sum(counts, torch.zeros((), dtype=torch.long, device=self.device))
        losses = [torch.zeros((), device=self.device)]
        for part, count in zip(parts, counts, strict=True):
            with _autocast_bfloat16(part["input_ids"].device):
                loss, shown = self.objective(self.model, part)
            (loss * (count / total)).backward()  # type: ignore[no-untyped-call]  # a mean over labels
            losses.append(shown.detach() * (count / total))
        shown = distributed.combine_gradients(self.parameters, torch.stack(losses).sum(), total)
        norm = torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        usable = norm.isfinite() & shown.isfinite()
        for optimiser in self.optimisers:
            skip_step_where(optimiser, ~usable)
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return shown.where(usable, math.nan)

    def trim_freed_memory(self) -> None:
        """Return freed memory now and then: batches of many shapes leave holes in the heap."""
        if self.step % 5 == 0 and self.device.type == "cpu":
            memory.trim_heap()

    def record_step(
        self, loss: torch.Tensor, sources: Sequence[int], targets: Sequence[int], done: float
    ) -> TrainingProgress:
        self.step += 1
        self.unread.append(loss)
        starting = self.loss is None or len(self.first_seconds) < _STEPS_BETWEEN_READS
        if starting or loss.device.type == "cpu" or len(self.unread) == _STEPS_BETWEEN_READS:
            self._read_losses()
        self.cost.tokens += sum(sources) + sum(targets)
        self.cost.examples += len(sources)
        self.cost.flops += self.step_flops.count_batch(sources, targets)
        shown = math.nan if self.loss is None else self.loss
        if self.step % 20 == 0 and self.loss is not None:
            self.cost.curve.append((self.step, round(shown, 4)))
        note = self.take_notes()
        seconds = time.monotonic() - self.started
        if self.step == 1:  # compiling and making plans is no progress: the warm-up begins after it
            self.first_share = max(0.0, self.share_done() - 1 / self.settings.steps)
        return TrainingProgress(self.step, done, shown, self.cost.tokens, seconds, self.cost.flops, note=note)

    def take_notes(self) -> str:
        """What a person should know and was not told yet; it stays in the cost."""
        new, self.notes = self.notes, []
        self.cost.notes += [note for note in new if note not in self.cost.notes]
        return "; ".join(new)

    def _read_losses(self) -> None:
        """Wait for the losses: on a GPU seldom, because the next steps are queued only after it.

        What is shown is their mean, later their running average: otherwise the very first one would weigh on
        what is shown for a hundred steps.
        """
        before = self.step - len(self.unread)
        for count, value in enumerate(torch.stack(self.unread).tolist(), start=1):
            if math.isfinite(value):
                share = max(_LOSS_SHARE, 1 / max(1, before + count))
                self.loss = value if self.loss is None else (1 - share) * self.loss + share * value
                self.skipped_in_a_row = 0
            else:
                self._count_skipped_step()
        self.unread.clear()

    def time_step(self, began: float) -> None:
        """Remember the seconds of the first steps, whose losses were read: a GPU has finished them."""
        if len(self.first_seconds) < _STEPS_BETWEEN_READS:
            self.first_seconds.append(time.monotonic() - began)

    def _count_skipped_step(self) -> None:
        self.cost.skipped += 1
        self.skipped_in_a_row += 1
        if self.cost.skipped == 1:
            self.notes.append("the loss or its gradient is not finite: such steps are skipped")
        if self.skipped_in_a_row >= MAX_SKIPPED_STEPS and self.best is None:
            raise GitpeftError(
                f"the loss or its gradient was not finite in {self.skipped_in_a_row} steps in a row",
                "train with a lower rate (--method lora:lr=1e-4), or start again with --from-scratch",
            )

    def finish_cost(self) -> TrainingCost:
        """The cost, once a GPU has done the last steps."""
        if self.unread:
            self._read_losses()
        synchronise_device(self.device)
        self.take_notes()
        self.cost.steps = self.step
        self.cost.seconds = time.monotonic() - self.started
        self.cost.startup_seconds = estimate_startup_seconds(self.first_seconds)
        self.cost.peak_memory = memory.read_peak_resident()
        self.cost.allocated, self.cost.reserved = memory.read_peak_device(self.cost.device)
        return self.cost


def estimate_startup_seconds(first: Sequence[float]) -> float:
    """By how much the earlier half of the first steps exceeded the slowest of the later half, in seconds."""
    usual = max(first[len(first) // 2 :], default=0.0)
    return sum(max(0.0, one - usual) for one in first[: len(first) // 2])


def _plan_memory(model: "PreTrainedModel", tokens: int, parts: int) -> MemoryPlan:
    """How to fit a training on a GPU; a CPU's parts are chosen by who trains (`count_batch_parts`)."""
    if next(model.parameters()).device.type != "cuda":
        return MemoryPlan(parts)
    free = torch.cuda.mem_get_info()[0]
    tokens //= distributed.find_world().size
    return memory_plan.plan_memory(memory_plan.MemoryNeed.from_model(model), tokens, free, parts)


def _autocast_bfloat16(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _iterate_epochs(
    data: TrainingExamples, settings: TrainingSettings, loop: _TrainingLoop
) -> Iterator[list[int]]:
    """Batches, epoch after epoch; those of the steps before a checkpoint are skipped."""
    epoch, skip = 0, loop.step
    while len(data):
        seed = settings.seed + epoch
        for batch in data.iterate_batches(loop.cost.batch_tokens, settings.source_limit, seed):
            if skip:
                skip -= 1
                continue
            yield batch
        epoch += 1


def _load_batch(
    data: TrainingExamples,
    batch: Sequence[int],
    settings: TrainingSettings,
    device: torch.device,
    model: "PreTrainedModel",
    stays: ResidentExamples | None = None,
) -> BatchTensors:
    """A batch on the device; gathered there where the examples are resident."""
    padding = getattr(model.config, "pad_token_id", None) or 0
    if stays is not None:
        inputs = stays.load_batch(batch, settings.source_limit, settings.pad, padding)
        if hasattr(model, "pointer"):
            inputs["label_places"] = devices.send_array(stays.find_label_places(batch), device)
        return inputs
    found = data.collate_batch(batch, settings.source_limit, settings.pad, padding)
    if hasattr(model, "pointer"):  # found here, where it costs nothing: a GPU would be waited for
        found["label_places"] = np.flatnonzero(found["labels"] != -100)
    return devices.load_arrays(found, device)
