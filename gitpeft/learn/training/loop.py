"""Fits a model to rendered examples within a budget; hides optimisers, batching and cost keeping.

The task is in the data and the model: `Rendered` examples teach to write, `Judged` ones to judge. A model is
called with what `arrays` gives, and answers with a `loss`.
"""

import itertools
import json
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any, Protocol, Self

import torch

from gitpeft.errors import GitpeftError
from gitpeft.learn.training import memory
from gitpeft.learn.training.flops import StepFlops


class TrainingExamples(Protocol):
    """What is learnt from (see `arrays.Rendered` and `arrays.Judged`)."""

    def __len__(self) -> int: ...

    def collate_batch(
        self, chosen: Sequence[int], source_limit: int, pad: int, padding: int
    ) -> dict[str, Any]:
        """The inputs of the model for some examples; `labels` that count for nothing are -100."""
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


@dataclass(frozen=True, slots=True)
class TrainingSettings:
    """How to train. Training ends at `steps` or after `minutes`, whichever comes first; lr follows that end.

    `batch_tokens`: about how many source tokens (and 4 per target token) a batch holds. `lr`: peak rate of
    AdamW; `matrix_lr`: peak rate of Muon for hidden matrices, 0 leaves everything to AdamW. `source_limit`:
    sources are cut to this many tokens. `warmup`: share of the run. `decay`: share of the run, at its end,
    over which the rate falls to zero. `parts`: a batch is computed in so many parts, one after another, whose
    gradients add up: the same step, in so much less memory. `pad`: lengths of sources are padded to a
    multiple of this; `compile`: the backend of `torch.compile` for encoder and decoder, "" for none (on a
    GPU: "inductor").
    """

    steps: int = 100_000
    minutes: float = 1e9
    batch_tokens: int = 12_000
    lr: float = 1e-3
    matrix_lr: float = 0.0
    warmup: float = 0.03
    decay: float = 0.9
    weight_decay: float = 0.0
    clip: float = 1.0
    source_limit: int = 512
    parts: int = 1
    pad: int = 16
    compile: str = ""
    seed: int = 0


@dataclass(slots=True)
class TrainingProgress:
    """Where a training stands: `loss` is nats a target token, smoothed; `done` is the share of the budget.

    `flops` are the floating-point operations that the real tokens so far needed (`speed.Work`).
    `note` is what a person should know, such as that memory ran out.
    """

    step: int
    done: float
    loss: float
    tokens: int
    seconds: float
    flops: float = 0.0
    valid: float | None = None
    note: str = ""


@dataclass(slots=True)
class TrainingCost:
    """What a training took. Sizes in bytes; `tokens` counts source and target tokens seen, `flops` what
    they needed in floating-point operations.

    `peak_memory` is resident memory, `allocated` and `reserved` are the device's (0 without a GPU), all at
    their worst during this training. `halved` counts how often memory ran out, `batch_tokens` is what batches
    held at the end.
    """

    steps: int = 0
    tokens: int = 0
    examples: int = 0
    seconds: float = 0.0
    seconds_to_best: float = 0.0
    trainable: int = 0
    parameters: int = 0
    peak_memory: int = 0
    flops: float = 0.0
    allocated: int = 0
    reserved: int = 0
    halved: int = 0
    batch_tokens: int = 0
    device: str = "cpu"
    curve: list[tuple[int, float]] = field(default_factory=list)
    valid_curve: list[tuple[int, float]] = field(default_factory=list)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "TrainingCost":
        """What `as_dict` gave."""
        return cls(**{one.name: data[one.name] for one in fields(cls) if one.name in data})

    def as_dict(self) -> dict[str, Any]:
        """For the manifest, with the trainable share of all weights and the tokens seen a second."""
        share = self.trainable / max(1, self.parameters)
        rate = self.tokens / max(1e-9, self.seconds)
        return asdict(self) | {"share": share, "tokens_per_second": round(rate, 1)}


def pick_device(name: str | None = None) -> torch.device:
    """The named device, else the GPU when there is one, else the CPU."""
    return torch.device(name or ("cuda" if torch.cuda.is_available() else "cpu"))


Objective = Callable[[Any, dict[str, torch.Tensor]], tuple[torch.Tensor, torch.Tensor]]
"""From a model and a batch to the loss that goes down and the loss that is shown, nats a target token."""


def count_batch_parts(batch_tokens: int) -> int:
    """`Settings.parts` for this machine: on a CPU so many that each holds at most about `HELD` tokens."""
    return 1 if pick_device().type != "cpu" else -(-batch_tokens // MAX_HELD_TOKENS)


def train_model(
    model: Any,
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

    `valid` is measured each time another `evaluate_every` share of the budget is used. `checkpoint` is
    written then and every two minutes (trainable weights, optimiser, position) and continued from if it
    exists. Where memory runs out, batches are half as large from then on; GitpeftError when one example is
    already too much. `objective` is what goes down where that is more than the loss of messages.
    """
    device = next(model.parameters()).device
    memory.reset_peak_memory(str(device))
    torch.manual_seed(settings.seed)
    optimisers = _make_optimisers(model, settings)
    resumed = _resume_checkpoint(checkpoint, model, optimisers)
    state = _TrainingLoop(model, settings, optimisers, resumed, objective or _message_loss)
    best: tuple[float, dict[str, Any]] | None = resumed.get("best")
    due, saved = state.share_done() + evaluate_every, time.monotonic()
    model.train()
    _compile_model(model, settings.compile)
    for batch in _iterate_epochs(train, settings, state):
        done = state.share_done()
        if done >= 1:
            break
        loss = state.try_step(train, batch, device, done)
        if loss is None:
            continue
        progress = state.record_step(loss, *train.count_tokens(batch, settings.source_limit), done)
        state.trim_freed_memory()
        if valid is not None and state.share_done() >= min(due, 1.0):
            due = state.share_done() + evaluate_every
            progress.valid = state.try_validation(valid)
            state.cost.valid_curve.append((state.step, progress.valid))
            if best is None or progress.valid < best[0]:
                best = (progress.valid, _trainable_state(model))
                state.cost.seconds_to_best = progress.seconds
        late = time.monotonic() - saved > CHECKPOINT_SECONDS
        if checkpoint is not None and (progress.valid is not None or late):
            _save_checkpoint(checkpoint, model, optimisers, state, best)
            saved = time.monotonic()
        if on_step is not None:
            on_step(progress)
    if best is not None:
        model.load_state_dict(best[1], strict=False)
    _compile_model(model, "")
    cost = state.finish_cost()
    del state, optimisers, best
    memory.release_memory()  # so that what comes after a training does not stand on top of its peak
    return cost


def _compile_model(model: Any, backend: str) -> None:
    """Compile encoder and decoder in place, lengths left open; "" undoes it. The loss stays as it is: how
    many labels are real differs from batch to batch."""
    for part in (model.get_encoder(), model.get_decoder()) if hasattr(model, "get_encoder") else ():
        vars(part).pop("forward", None)
        if backend:
            part.forward = torch.compile(part.forward, backend=backend, dynamic=True)


def _message_loss(model: Any, inputs: dict[str, torch.Tensor]) -> tuple[torch.Tensor, torch.Tensor]:
    found = model(**inputs).loss
    return found, found


def iterate_batch_losses(
    model: Any, data: TrainingExamples, settings: TrainingSettings, count: int
) -> Iterator[Callable[[Any], torch.Tensor]]:
    """Losses of some training batches, as functions of the model."""
    device = next(model.parameters()).device
    for batch in itertools.islice(
        data.iterate_batches(settings.batch_tokens, settings.source_limit, 0), count
    ):
        yield partial(_compute_loss, _load_batch(data, batch, settings, device, model))


def _compute_loss(inputs: dict[str, torch.Tensor], model: Any) -> torch.Tensor:
    with _autocast_bfloat16(inputs["input_ids"].device):
        found: torch.Tensor = model(**inputs).loss
    return found


def measure_loss(model: Any, data: TrainingExamples, settings: TrainingSettings, limit: int = 1000) -> float:
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


CHECKPOINT_SECONDS = 120

MAX_HELD_TOKENS = 2_200
"""Source tokens that are held at once on a CPU: the memory is the user's, and more at once is no faster."""

_CHECKPOINTED_COSTS = (
    *("tokens", "examples", "flops", "seconds_to_best", "curve", "valid_curve"),
    *("halved", "batch_tokens"),
)
"""What a checkpoint keeps of the cost."""

_STEPS_BETWEEN_READS = 16
"""Steps between two looks at the loss on a GPU."""


class _TrainingLoop:
    """The moving parts of one training: step, clock, rates and cost."""

    def __init__(
        self,
        model: Any,
        settings: TrainingSettings,
        optimisers: Sequence[Any],
        resumed: dict[str, Any],
        objective: Objective,
    ) -> None:
        self.model, self.settings, self.optimisers, self.objective = model, settings, optimisers, objective
        self.step: int = resumed.get("step", 0)
        self.loss: float | None = resumed.get("loss")
        self.unread: list[torch.Tensor] = []
        self.work = StepFlops.from_model(model)
        self.started = time.monotonic() - resumed.get("seconds", 0.0)
        self.parameters = [p for p in model.parameters() if p.requires_grad]
        self.cost = TrainingCost(
            **{name: resumed[name] for name in _CHECKPOINTED_COSTS if name in resumed},
            trainable=sum(p.numel() for p in self.parameters),
            parameters=sum(p.numel() for p in model.parameters()),
            device=str(self.parameters[0].device),
        )
        self.cost.batch_tokens = self.cost.batch_tokens or settings.batch_tokens
        self.said = ""

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
            said = f"{type(error).__name__}: {error}".splitlines()[0]
        self.halve_batches(len(batch), said)
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
                said = f"{type(error).__name__}: {error}".splitlines()[0]
            self.model.train()
            self.halve_batches(self.cost.batch_tokens, said)

    def halve_batches(self, size: int, said: str) -> None:
        """Outside of the exception's handler: its traceback would keep the step's tensors alive."""
        for optimiser in self.optimisers:
            optimiser.zero_grad(set_to_none=True)
        memory.release_memory()
        if size <= 1:
            raise GitpeftError(
                f"out of memory with one example a batch: {said}",
                "choose a smaller base or method, or a machine with more memory",
            )
        self.cost.halved += 1
        self.cost.batch_tokens = max(1, self.cost.batch_tokens // 2)
        self.said = f"out of memory: batches of {self.cost.batch_tokens:,} tokens from now on"

    def split_batch(self, batch: Sequence[int]) -> list[Sequence[int]]:
        """The batch in parts of alike size, none of them empty."""
        size = -(-len(batch) // self.settings.parts)
        return [batch[start : start + size] for start in range(0, len(batch), size)]

    def run_step(self, parts: Sequence[dict[str, torch.Tensor]], done: float) -> torch.Tensor:
        rate = _schedule_rate(done, self.settings)
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
        self.cost.flops += self.work.count_batch(sources, targets)
        assert self.loss is not None
        if self.step % 20 == 0:
            self.cost.curve.append((self.step, round(self.loss, 4)))
        said, self.said = self.said, ""
        seconds = time.monotonic() - self.started
        return TrainingProgress(
            self.step, done, self.loss, self.cost.tokens, seconds, self.cost.flops, note=said
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


def _schedule_rate(done: float, settings: TrainingSettings) -> float:
    """Linear warm-up, a plateau, and a linear decay to zero over the last `decay` share."""
    if done < settings.warmup:
        return (done + 1e-3) / (settings.warmup + 1e-3)
    return min(1.0, max(0.0, 1 - done) / settings.decay)


def _autocast_bfloat16(device: torch.device) -> Any:
    return torch.autocast(device.type, dtype=torch.bfloat16)


def _make_optimisers(model: Any, settings: TrainingSettings) -> list[Any]:
    """AdamW; with `matrix_lr`, Muon (Jordan 2024) for hidden matrices and AdamW for the rest."""
    named = [(n, p) for n, p in model.named_parameters() if p.requires_grad]
    matrices = [p for n, p in named if settings.matrix_lr and _is_hidden_matrix(n, p)]
    hidden = {id(p) for p in matrices}
    adam = torch.optim.AdamW(
        [{"params": [p for _, p in named if id(p) not in hidden], "peak": settings.lr}],
        lr=settings.lr,
        betas=(0.9, 0.98),
        weight_decay=settings.weight_decay,
        fused=True,
    )
    if not matrices:
        return [adam]
    muon = torch.optim.Muon(
        [{"params": matrices, "peak": settings.matrix_lr}],
        lr=settings.matrix_lr,
        weight_decay=settings.weight_decay,
        adjust_lr_fn="match_rms_adamw",
    )
    return [adam, muon]


_NOT_HIDDEN = ("shared", "embed", "lm_head", "relative_attention_bias", "pointer")


def _is_hidden_matrix(name: str, parameter: torch.Tensor) -> bool:
    return parameter.ndim == 2 and min(parameter.shape) > 1 and not any(part in name for part in _NOT_HIDDEN)


def _iterate_epochs(
    data: TrainingExamples, settings: TrainingSettings, state: _TrainingLoop
) -> Iterator[list[int]]:
    """Epoch after epoch; as many batches as there were steps before are left out. New sizes, new epoch."""
    epoch, skip = 0, state.step
    while len(data):
        size = state.cost.batch_tokens
        for batch in data.iterate_batches(size, settings.source_limit, settings.seed + epoch):
            if skip:
                skip -= 1
                continue
            yield batch
            if state.cost.batch_tokens != size:
                break
        epoch += 1


def _load_batch(
    data: TrainingExamples, batch: Sequence[int], settings: TrainingSettings, device: torch.device, model: Any
) -> dict[str, torch.Tensor]:
    padding = getattr(model.config, "pad_token_id", None) or 0
    found = data.collate_batch(batch, settings.source_limit, settings.pad, padding)
    tensors = {name: torch.from_numpy(array) for name, array in found.items()}
    if device.type == "cuda":  # only from pinned memory does a copy not wait
        tensors = {name: tensor.pin_memory() for name, tensor in tensors.items()}
    return {name: tensor.to(device, non_blocking=True) for name, tensor in tensors.items()}


def _trainable_state(model: Any) -> dict[str, torch.Tensor]:
    return {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}


def _save_checkpoint(
    folder: Path, model: Any, optimisers: Sequence[Any], state: _TrainingLoop, best: tuple[float, Any] | None
) -> None:
    """Weights now and at their best, optimiser moments and position in one file, replaced in one rename."""
    from safetensors.torch import save_file

    folder.mkdir(parents=True, exist_ok=True)
    tensors = {f"w.{name}": tensor for name, tensor in _trainable_state(model).items()}
    tensors |= {f"b.{name}": tensor for name, tensor in (best[1] if best else {}).items()}
    for number, optimiser in enumerate(optimisers):
        for key, moments in optimiser.state_dict()["state"].items():
            for name, value in moments.items():
                tensors[f"o.{number}.{key}.{name}"] = torch.as_tensor(value)
    position = {
        "step": state.step,
        "loss": state.loss,
        "seconds": time.monotonic() - state.started,
        **({"best": best[0]} if best else {}),
        **{name: getattr(state.cost, name) for name in _CHECKPOINTED_COSTS},
    }
    save_file(
        {k: v.contiguous() for k, v in tensors.items()},
        folder / "new.safetensors",
        {"position": json.dumps(position)},
    )
    (folder / "new.safetensors").replace(folder / "checkpoint.safetensors")


def _resume_checkpoint(folder: Path | None, model: Any, optimisers: Sequence[Any]) -> dict[str, Any]:
    """Load a checkpoint into the model and the optimisers; its position, empty when there is none.

    `best` in it is the best validation loss so far, with its weights.
    """
    path = folder / "checkpoint.safetensors" if folder else None
    if path is None or not path.exists():
        return {}
    from safetensors import safe_open

    moments: dict[int, dict[int, dict[str, Any]]] = {}
    weights: dict[str, dict[str, Any]] = {"w": {}, "b": {}}
    with safe_open(path, "pt") as stored:
        position: dict[str, Any] = json.loads(stored.metadata()["position"])
        for name in stored.keys():  # noqa: SIM118 - not a dict
            kind, _, rest = name.partition(".")
            if kind in weights:
                weights[kind][rest] = stored.get_tensor(name)
            else:
                number, key, moment = rest.split(".")
                moments.setdefault(int(number), {}).setdefault(int(key), {})[moment] = stored.get_tensor(name)
    model.load_state_dict(weights["w"], strict=False)
    if "best" in position:
        position["best"] = (position["best"], weights["b"])
    for number, optimiser in enumerate(optimisers):
        state = optimiser.state_dict()
        optimiser.load_state_dict({"state": moments.get(number, {}), "param_groups": state["param_groups"]})
    return position
