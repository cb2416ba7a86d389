"""The training loop: fits a model to examples within a budget of steps and minutes.

The task is in the data and the model (`RenderedExamples` for writing messages, `EncodedCommits` for judging
changes): a model is called with what the examples' `collate_batch` gives, and answers with a `loss`.
"""

import itertools
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, Self

import torch

from gitpeft.errors import GitpeftError
from gitpeft.learn.data.batches import BatchArrays
from gitpeft.learn.models import architectures
from gitpeft.learn.training import memory
from gitpeft.learn.training.checkpoint import (
    BestWeights,
    TrainingPosition,
    copy_trainable_weights,
    load_checkpoint,
    save_checkpoint,
)
from gitpeft.learn.training.flops import StepFlops
from gitpeft.learn.training.optimisers import make_optimisers, schedule_rate
from gitpeft.learn.training.settings import TrainingCost, TrainingProgress, TrainingSettings

if TYPE_CHECKING:
    from transformers import PreTrainedModel

CHECKPOINT_SECONDS = 120

MAX_HELD_STATES = 2_200 * 6 * 256
"""Source tokens that are held at once on a CPU, times layers, times their width: the memory is the user's,
and more at once is no faster."""

_STEPS_BETWEEN_READS = 16
"""Steps between two looks at the loss on a GPU."""

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


def pick_device(name: str | None = None) -> torch.device:
    """The named device, else the GPU when there is one, else the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


def count_batch_parts(batch_tokens: int, states: int) -> int:
    """`TrainingSettings.parts` for this machine: on a CPU each part holds about `MAX_HELD_STATES` at most.

    `states` are a model's layers times their width. A part holds at least one example.
    """
    return 1 if pick_device().type != "cpu" else -(-batch_tokens * states // MAX_HELD_STATES)


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

    `valid` is measured each time another `evaluate_every` share of the budget is used. `checkpoint` is a
    folder: a checkpoint is written there then and every two minutes, and resumed from if it exists. Where
    memory runs out, batches are half as large from then on; GitpeftError when one example is already too
    much. `objective` is what is minimised where that is more than the loss of messages.
    """
    device = next(model.parameters()).device
    memory.reset_peak_memory(str(device))
    torch.manual_seed(settings.seed)
    optimisers = make_optimisers(model, settings)
    position = load_checkpoint(checkpoint, model, optimisers)
    loop = _TrainingLoop(model, settings, optimisers, position, objective or _message_loss)
    due, saved = loop.share_done() + evaluate_every, time.monotonic()
    model.train()
    _compile_model(model, settings.compile)
    for batch in _iterate_epochs(train, settings, loop):
        done = loop.share_done()
        if done >= 1:
            break
        loss = loop.try_step(train, batch, device, done)
        if loss is None:
            continue
        progress = loop.record_step(loss, *train.count_tokens(batch, settings.source_limit), done)
        loop.trim_freed_memory()
        if valid is not None and loop.share_done() >= min(due, 1.0):
            due = loop.share_done() + evaluate_every
            loop.record_validation(valid, progress)
        late = time.monotonic() - saved > CHECKPOINT_SECONDS
        if checkpoint is not None and (progress.valid is not None or late):
            save_checkpoint(checkpoint, model, optimisers, loop.position())
            saved = time.monotonic()
        if on_step is not None:
            on_step(progress)
    if loop.best is not None:
        model.load_state_dict(loop.best.weights, strict=False)
    _compile_model(model, "")
    cost = loop.finish_cost()
    del loop, optimisers, position
    memory.release_memory()  # so that what comes after a training does not stand on top of its peak
    return cost


def _compile_model(model: "PreTrainedModel", backend: str) -> None:
    """Compile encoder and decoder in place, lengths left open; "" undoes it. The loss stays as it is: how
    many labels are real differs from batch to batch."""
    for part in _list_stacks(model):
        vars(part).pop("forward", None)
        if backend:
            part.forward = torch.compile(part.forward, backend=backend, dynamic=True)


def _list_stacks(model: "PreTrainedModel") -> list["PreTrainedModel"]:
    if not hasattr(model, "get_encoder"):
        return []
    causal = architectures.is_causal(model.config.model_type)
    return [model.get_decoder()] if causal else [model.get_encoder(), model.get_decoder()]


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
    """Seconds that an example takes, forward and backward; the better of two passes over `data`."""
    device, passes = next(model.parameters()).device, []
    for _ in range(2):
        started = time.monotonic()
        inputs = _load_batch(data, range(len(data)), settings, device, model)
        _compute_loss(inputs, model).backward()  # type: ignore[no-untyped-call]
        passes.append((time.monotonic() - started) / max(1, len(data)))
    model.zero_grad(set_to_none=True)
    return min(passes)


def measure_loss(
    model: "PreTrainedModel", data: TrainingExamples, settings: TrainingSettings, limit: int = 1000
) -> float:
    """Mean loss in nats a label (a target token, or a judged change) over about `limit` examples of `data`.

    They are evenly spread.
    """
    data = data.select_examples(range(0, len(data), max(1, len(data) // limit)))
    device = next(model.parameters()).device
    was_training, total, tokens = model.training, 0.0, 0
    model.eval()
    for module in model.modules():
        if hasattr(module, "pointer"):
            module.training = True  # itself alone: it then computes only the loss; dropout stays off below
    with torch.no_grad(), _autocast_bfloat16(device):
        for batch in data.iterate_batches(settings.batch_tokens, settings.source_limit, seed=0):
            inputs = _load_batch(data, batch, settings, device, model)
            count = int((inputs["labels"] != -100).sum())
            total += float(model(**inputs).loss) * count
            tokens += count
    model.train(was_training)
    return total / max(tokens, 1)


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
        self.note = ""

    def position(self) -> TrainingPosition:
        """Where the training stands, for a checkpoint."""
        return TrainingPosition(self.step, self.loss, time.monotonic() - self.started, self.cost, self.best)

    def share_done(self) -> float:
        minutes = (time.monotonic() - self.started) / 60
        return float(max(self.step / self.settings.steps, minutes / self.settings.minutes))

    def try_step(
        self, data: TrainingExamples, batch: Sequence[int], device: torch.device, done: float
    ) -> torch.Tensor | None:
        """Loss of a step; None where memory ran out, and batches are smaller from now on."""
        try:
            return self.run_step(
                [
                    _load_batch(data, part, self.settings, device, self.model)
                    for part in self.split_batch(batch)
                ],
                done,
            )
        except (RuntimeError, MemoryError) as error:
            if not memory.is_out_of_memory(error):
                raise
            reason = f"{type(error).__name__}: {error}".splitlines()[0]
        self.halve_batches(len(batch), reason)
        return None

    def try_validation(self, valid: TrainingExamples) -> float:
        """The validation loss, in smaller batches where memory runs out."""
        while True:
            try:
                return measure_loss(
                    self.model, valid, replace(self.settings, batch_tokens=self.cost.batch_tokens)
                )
            except (RuntimeError, MemoryError) as error:
                if not memory.is_out_of_memory(error):
                    raise
                reason = f"{type(error).__name__}: {error}".splitlines()[0]
            self.model.train()
            self.halve_batches(self.cost.batch_tokens, reason)

    def record_validation(self, valid: TrainingExamples, progress: TrainingProgress) -> None:
        """Measure the validation loss, and keep the weights where it is the lowest so far."""
        progress.valid = found = self.try_validation(valid)
        self.cost.valid_curve.append((self.step, found))
        if self.best is None or found < self.best.loss:
            self.best = BestWeights(found, copy_trainable_weights(self.model))
            self.cost.seconds_to_best = progress.seconds

    def halve_batches(self, size: int, reason: str) -> None:
        """Outside of the exception's handler: its traceback would keep the step's tensors alive."""
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        memory.release_memory()
        if size <= 1:
            raise GitpeftError(
                f"out of memory with one example a batch: {reason}",
                "choose a smaller base or method, or a machine with more memory",
            )
        self.cost.halved += 1
        self.cost.batch_tokens = max(1, self.cost.batch_tokens // 2)
        self.note = f"out of memory: batches of {self.cost.batch_tokens:,} tokens from now on"

    def split_batch(self, batch: Sequence[int]) -> list[Sequence[int]]:
        """The batch in parts of alike size, none of them empty."""
        size = -(-len(batch) // self.settings.parts)
        return [batch[start : start + size] for start in range(0, len(batch), size)]

    def run_step(self, parts: Sequence[BatchTensors], done: float) -> torch.Tensor:
        rate = schedule_rate(done, self.settings)
        for optimiser in self.optimisers:
            for group in optimiser.param_groups:
                group["lr"] = group["peak"] * rate
        counts = [(part["labels"] != -100).sum() for part in parts]
        total = torch.stack(counts).sum()
        losses = []
        for part, count in zip(parts, counts, strict=True):
            with _autocast_bfloat16(part["input_ids"].device):
                loss, shown = self.objective(self.model, part)
            (loss * (count / total)).backward()  # type: ignore[no-untyped-call]  # a mean over labels
            losses.append(shown.detach() * (count / total))
        torch.nn.utils.clip_grad_norm_(self.parameters, self.settings.clip)
        for optimiser in self.optimisers:
            optimiser.step()
            optimiser.zero_grad(set_to_none=True)
        return torch.stack(losses).sum()

    def trim_freed_memory(self) -> None:
        """Return freed memory now and then: batches of many shapes leave holes in the heap."""
        if self.step % 5 == 0 and self.parameters[0].device.type == "cpu":
            memory.trim_heap()

    def record_step(
        self, loss: torch.Tensor, sources: Sequence[int], targets: Sequence[int], done: float
    ) -> TrainingProgress:
        self.step += 1
        self.unread.append(loss)
        if loss.device.type == "cpu" or len(self.unread) == _STEPS_BETWEEN_READS or self.loss is None:
            self._read_losses()
        self.cost.tokens += sum(sources) + sum(targets)
        self.cost.examples += len(sources)
        self.cost.flops += self.step_flops.count_batch(sources, targets)
        assert self.loss is not None
        if self.step % 20 == 0:
            self.cost.curve.append((self.step, round(self.loss, 4)))
        note, self.note = self.note, ""
        seconds = time.monotonic() - self.started
        return TrainingProgress(
            self.step, done, self.loss, self.cost.tokens, seconds, self.cost.flops, note=note
        )

    def _read_losses(self) -> None:
        """Wait for the losses: on a GPU seldom, because the next steps are queued only after it."""
        for value in torch.stack(self.unread).tolist():
            self.loss = value if self.loss is None else 0.97 * self.loss + 0.03 * value
        self.unread.clear()

    def finish_cost(self) -> TrainingCost:
        self.cost.steps = self.step
        self.cost.seconds = time.monotonic() - self.started
        self.cost.peak_memory = memory.read_peak_resident()
        self.cost.allocated, self.cost.reserved = memory.read_peak_device(self.cost.device)
        return self.cost


def _autocast_bfloat16(device: torch.device) -> torch.autocast:
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _iterate_epochs(
    data: TrainingExamples, settings: TrainingSettings, loop: _TrainingLoop
) -> Iterator[list[int]]:
    """Batches, epoch after epoch; those of the steps before a checkpoint are skipped.

    Where the batch size changes, a new epoch begins.
    """
    epoch, skip = 0, loop.step
    while len(data):
        size = loop.cost.batch_tokens
        for batch in data.iterate_batches(size, settings.source_limit, settings.seed + epoch):
            if skip:
                skip -= 1
                continue
            yield batch
            if loop.cost.batch_tokens != size:
                break
        epoch += 1


def _load_batch(
    data: TrainingExamples,
    batch: Sequence[int],
    settings: TrainingSettings,
    device: torch.device,
    model: "PreTrainedModel",
) -> BatchTensors:
    padding = getattr(model.config, "pad_token_id", None) or 0
    found = data.collate_batch(batch, settings.source_limit, settings.pad, padding)
    tensors = {name: torch.from_numpy(array) for name, array in found.items()}
    if device.type == "cuda":  # only from pinned memory does a copy not wait
        tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}
