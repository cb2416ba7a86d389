"""One run: tunes a base with one method on one history, and exports the result.

Every step leaves its result in the run's folder and is not repeated where that is there:

    method.json    the method, with the layers of a hybrid chosen
    examples.json  how many of the newest examples fit into the minutes, for a large base
    checkpoint/    an unfinished training
    adapter/       the trained weights
    strengths.json the validation loss of all, half and none of its update, for a large base
    run.json       the cost of the training (`RunCost`)
    exported.json  what the parity gate measured (`ExportResult`), beside the ONNX files
"""

import json
import random
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitpeft.bundle import bundle as bundles
from gitpeft.files import write_json
from gitpeft.learn.data.dataset import Dataset, Example, encode_example
from gitpeft.learn.evaluation import trial
from gitpeft.learn.training.settings import TrainingCost, TrainingProgress, TrainingSettings
from gitpeft.runtime.tokenizer import wrap_source

if TYPE_CHECKING:
    import torch
    from torch import Tensor
    from transformers import PreTrainedModel

    from gitpeft.learn.data.batches import RenderedExamples
    from gitpeft.learn.export.parity import ExportResult
    from gitpeft.learn.models.bases import BaseModel
    from gitpeft.learn.models.methods import TuningMethod

MESSAGE_TASK = "messages"
MAX_EPOCHS = 8
BATCH_EXAMPLES = 24
"""Examples a batch holds when all are as long as the budget allows, unless the base is a causal model."""

MAX_POOL, PACE_EXAMPLES, TRAINING_SHARE = 20_000, 2, 0.8
"""A large base learns from at most so many of the newest examples; from how many the pace is measured; and
the share of the minutes that is left beside validation."""

STRENGTHS, STRENGTHS_FILE = (1.0, 0.5, 0.0), "strengths.json"
"""The shares of a LoRA's update that are tried on validation, and the file of their losses in a run."""

EXPORTED_FILE = "exported.json"
"""In a run's folder: what the parity gate measured, once the run is exported."""

EXAMPLES_FILE = "examples.json"
"""In a run's folder: how many examples the minutes allow for."""

PROBE_BATCHES, PROBE_EXAMPLES = 8, 8
"""Batches of the gradient pass that chooses a hybrid's layers, and the examples in each; smaller than in
 training, because all weights have gradients there."""

CHECK_SHARE, VALIDATION_COST = 0.05, 0.5
"""The share of the minutes for one pass over the validation examples, and what one costs there beside an
example in training."""

LEAST_TRAINED_SHARE = 0.5
"""The share of the minutes that steps get at least, however long it took to begin."""

SHORT_MINUTES, SHORT_PROMPT, SHORT_DEPTH = 15, 256, 0.5
"""On a CPU, a training of a large base within less than so many minutes learns from prompts of at most so
many tokens, and a LoRA changes this share of the layers only, the upper ones: it sees more examples then."""

LONG_HISTORY = 2000
"""With more training examples than this it is measured whether the minutes allow for a pass over all."""

ProgressListener = Callable[[str, float, str], None]
"""Called with (step, share done 0..1, detail) while a step goes on."""


PARITY_MORE = 4
"""Before the gate refuses a model, it measures this many times as many examples."""


@dataclass(frozen=True, slots=True)
class RunSizes:
    """Numbers of examples in a run: `batch` when all are as long as the budget allows, `parity` for the gate.

    The gate's sources have at most `parity_tokens` tokens: what it compares are the tokens of messages. The
    validation loss is measured on at most `checked` examples, `checks` times at most: a pass costs as much as
    several steps, and on all of a long history it would eat short budgets.
    """

    batch: int
    parity: int
    parity_tokens: int
    checked: int
    checks: int


_SIZES = RunSizes(BATCH_EXAMPLES, parity=48, parity_tokens=512, checked=200, checks=10)
_CAUSAL_SIZES = RunSizes(batch=8, parity=16, parity_tokens=128, checked=40, checks=3)
"""Smaller, since a causal model's training sees few batches in its minutes."""


def find_run_sizes(base: "BaseModel") -> RunSizes:
    """The sizes for this family of bases."""
    return _CAUSAL_SIZES if base.architecture.causal else _SIZES


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What to train: `steps` 0 means at most `MAX_EPOCHS` passes; `minutes` bounds it in any case.

    `warm`: the folder of an adapter of the same method and base, from whose weights training starts.
    `checks`: how often in a run the validation loss is measured (see `RunSizes`). `pace`: the seconds that an
    example is known to take (0: unknown), so that a pass over validation examples is no large part of it.
    `least`: where the minutes allow for fewer examples, nothing is trained (`TooFewExamplesError`).
    """

    base: "BaseModel"
    method: "TuningMethod"
    seed: int = 0
    minutes: float = 5.0
    steps: int = 0
    checks: int = 10
    warm: str = ""
    pace: float = 0.0
    least: int = 0


class TooFewExamplesError(Exception):
    """The minutes do not allow for as many examples as a job asks for; the message says so."""


@dataclass(frozen=True, slots=True)
class RunCost:
    """What a run cost: its training, and sizes in bytes (0: not exported)."""

    training: TrainingCost
    adapter_bytes: int
    exported_bytes: int = 0

    @property
    def notes(self) -> tuple[str, ...]:
        """What a person should know of it, such as that memory ran out."""
        return tuple(self.training.notes)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RunCost":
        """What `as_dict` gave."""
        sizes = int(data["adapter_bytes"]), int(data.get("exported_bytes", 0))
        return cls(TrainingCost.from_dict(data), *sizes)

    def as_dict(self, *, curves: bool = True) -> dict[str, Any]:
        """For `run.json` and `--json`; without `curves` for the manifest."""
        found = self.training.as_dict() | {"adapter_bytes": self.adapter_bytes}
        found |= {"exported_bytes": self.exported_bytes} if self.exported_bytes else {}
        return {name: value for name, value in found.items() if curves or "curve" not in name}


def tune_base(
    job: TrainingJob, data: Dataset, folder: Path, listen: ProgressListener
) -> tuple["TuningMethod", RunCost]:
    """Tune the base on the training part; returns the method, its layers chosen, and the cost.

    What `folder` holds already is not made again, and a training that was killed continues. See
    `TrainingJob.least` for TooFewExamplesError.
    """
    from gitpeft.learn.training import devices
    from gitpeft.learn.training.distributed import find_world

    done = folder / "run.json"
    if done.exists():
        listen("train", 1.0, "already trained")
        return _read_method(job, folder), RunCost.from_dict(_read_json(done))
    folder.mkdir(parents=True, exist_ok=True)
    with devices.explain_lost_gpu():
        model, method, training = _train_model(job, data, folder, listen)
        if not find_world().writes:
            return method, RunCost(training, 0)
        size = _save_adapter(model, folder)
    write_json(done, RunCost(training, size).as_dict())
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return method, RunCost.from_dict(_read_json(done))


def _train_model(
    job: TrainingJob, data: Dataset, folder: Path, listen: ProgressListener
) -> tuple["PreTrainedModel", "TuningMethod", TrainingCost]:
    """The tuned model, the method, and the cost."""
    from gitpeft.learn.training import devices, distributed
    from gitpeft.learn.training.checkpoint import copy_trainable_weights
    from gitpeft.learn.training.loop import train_model

    begun, causal, sizes = time.monotonic(), job.base.architecture.causal, find_run_sizes(job.base)
    notes: list[str] = []
    device = devices.pick_device(notes=notes)
    if is_short := is_short_training(job, device.type):
        job = replace(job, base=shorten_sources(job.base, SHORT_PROMPT))
    held_out = trial.sample_examples(data.valid, _count_checked(job, sizes), seed=1)
    newest = list_newest(job, data.train)
    limited = not job.steps and (causal or len(newest) > LONG_HISTORY)
    # of a long history only what fits into the minutes is rendered
    train = render_examples(newest[-_count_probed(job) :] if limited else newest, job.base)
    valid = render_examples(held_out, job.base)
    model, method = _load_for_training(job, train, folder, device, notes)
    if is_short and method.name == "lora" and not method.layers:
        freeze_lower_layers(model, SHORT_DEPTH)
    compares = causal and method.name == "lora" and not job.warm
    before = copy_trainable_weights(model) if job.base.find_start(method) else {}

    def report_progress(progress: TrainingProgress) -> None:
        notes.extend([progress.note] if progress.note else [])
        rate = f"{progress.tokens / max(progress.seconds, 1e-9):,.0f} tokens/s"
        listen("train", progress.done, " · ".join((f"loss {progress.loss:.2f}", rate, *notes)))

    with speed_up_where_possible(model) as fast:
        if limited:
            if not (folder / EXAMPLES_FILE).exists():
                listen("train", 0.0, "measuring the pace")
            most = fit_into_minutes(model, train, job, folder, notes)
            if most < min(job.least, len(newest)):
                raise TooFewExamplesError(f"there is time for about {most} examples, {job.least} are needed")
            train = render_examples(newest[-most:], job.base)
            pace = max(job.pace, TRAINING_SHARE * 60 * job.minutes / most)
            checked = min(_count_checked(replace(job, pace=pace), sizes), len(valid))
            valid = valid.select_examples(range(checked))
            spent = time.monotonic() - begun  # reading the model and measuring its pace
            spent += len(STRENGTHS) * checked * pace * VALIDATION_COST if compares else 0.0
            job = replace(job, minutes=max(LEAST_TRAINED_SHARE * job.minutes, job.minutes - spent / 60))
        settings = _make_settings(job, len(train), next(model.parameters()).device)
        settings = replace(settings, parts=1) if fast else settings
        before_training = list(notes)
        cost = train_model(
            model,
            train,
            settings,
            valid=None if limited and compares else valid,  # the end is compared with the start below
            on_step=report_progress,
            checkpoint=folder / "checkpoint",
            evaluate_every=1 / min(job.checks, sizes.checks),
        )
        after_training: list[str] = []
        if compares and distributed.find_world().writes:
            tokens = max(1, settings.batch_tokens * settings.parts // cost.parts)  # what there was memory for
            smaller = replace(settings, batch_tokens=tokens)
            losses = measure_strengths(model, before, valid, smaller, after_training)
            write_json(folder / STRENGTHS_FILE, {f"{one:g}": loss for one, loss in losses.items()})
            if not cost.valid_curve:
                cost.valid_curve, cost.seconds_to_best = [(cost.steps, losses[1.0])], cost.seconds
    cost.notes = [*before_training, *cost.notes, *after_training]
    return model, method, cost


def is_short_training(job: TrainingJob, device: str) -> bool:
    """Whether there is so little time that shorter prompts and fewer layers show more examples; on a GPU
    there never is."""
    causal = job.base.architecture.causal
    return causal and device == "cpu" and not job.steps and job.minutes < SHORT_MINUTES


def _load_for_training(
    job: TrainingJob, train: "RenderedExamples", folder: Path, device: "torch.device", notes: list[str]
) -> tuple["PreTrainedModel", "TuningMethod"]:
    """The base with the method attached, where it starts from and on the device; and the method."""
    from gitpeft.learn.models import methods
    from gitpeft.learn.training import devices

    model = devices.move_model(job.base.load_for(job.method), device, notes)
    method = _resolve_method(job, model, train, folder, notes)
    start = job.warm or str(job.base.find_start(method) or "")
    device = next(model.parameters()).device  # the CPU where the GPU had no room
    model = methods.warm_start_model(methods.attach_method(model, method), method, start)
    return devices.move_model(model, device, notes), method


def measure_strengths(
    model: "PreTrainedModel",
    start: Mapping[str, "Tensor"],
    valid: "RenderedExamples",
    settings: TrainingSettings,
    notes: list[str],
) -> dict[float, float]:
    """The validation loss (nats a token) of a tuned LoRA, of half of its update, and of none of it.

    The model keeps the tuned weights; `notes` say where they did not fit on a GPU. See `blend_lora` for
    `start`.
    """
    from gitpeft.learn.training import devices
    from gitpeft.learn.training.checkpoint import copy_trainable_weights
    from gitpeft.learn.training.loop import measure_loss

    tuned, found = copy_trainable_weights(model), {}
    for strength in STRENGTHS:
        model.load_state_dict(blend_lora(tuned, start, strength), strict=False)
        found[strength] = devices.run_where_it_fits(
            model, lambda: measure_loss(model, valid, settings), notes
        )
    model.load_state_dict(tuned, strict=False)
    return found


def choose_strength(folder: Path) -> tuple[float, dict[float, float]]:
    """How much of a run's update is best on validation, and the losses; all of it where it was not measured.

    Of equals, the larger share.
    """
    path = folder / STRENGTHS_FILE
    if not path.exists():
        return 1.0, {}
    losses = {float(name): float(loss) for name, loss in _read_json(path).items()}
    return min(losses, key=lambda strength: (losses[strength], -strength)), losses


@contextmanager
def speed_up_where_possible(
    model: "PreTrainedModel", threads: int | None = None, *, compiled: bool = False
) -> Iterator[bool]:
    """Train a LoRA of a Llama-like base with `fast_lora` where this machine can; whether it does."""
    from gitpeft.learn.training.fast_lora import engine

    possible = not engine.find_obstacle(model)
    with engine.speed_up(model, threads, compiled=compiled) if possible else nullcontext():
        yield possible


def _count_checked(job: TrainingJob, sizes: RunSizes) -> int:
    """On how many examples the validation loss is measured: in a tenth of the time at most, by the pace."""
    if not job.pace or job.steps:
        return sizes.checked
    fitting = int(CHECK_SHARE * 60 * job.minutes / (job.pace * VALIDATION_COST))
    return min(sizes.checked, max(sizes.batch, fitting))


def _count_probed(job: TrainingJob) -> int:
    """How many of the newest examples the pace is measured with, and the layers of a hybrid are chosen by."""
    if job.base.architecture.causal or job.method.name != "hybrid":
        return PROBE_BATCHES * PROBE_EXAMPLES
    return LONG_HISTORY


def list_newest(job: TrainingJob, examples: Sequence[Example]) -> Sequence[Example]:
    """The examples that a training may see: all, or of a long history the newest where the base is large."""
    return examples[-MAX_POOL:] if job.base.architecture.causal else examples


def fit_into_minutes(
    model: "PreTrainedModel",
    train: "RenderedExamples",
    job: TrainingJob,
    folder: Path,
    notes: list[str],
) -> int:
    """How many of the newest examples one pass within the job's minutes takes, by the pace of the last few.

    A message of a later commit is closer to those of the next ones; half the history seen twice teaches less.
    Where not even one example fits on a GPU, the model is on the CPU afterwards, and `notes` say so.
    """
    from gitpeft.learn.training import devices, distributed
    from gitpeft.learn.training.loop import measure_pace

    known = folder / EXAMPLES_FILE
    if known.exists():  # a training that was killed goes on with the same examples
        return int(_read_json(known))
    measured = PACE_EXAMPLES if job.base.architecture.causal else BATCH_EXAMPLES
    few = train.select_examples(_choose_usual(train, measured))
    settings = _make_settings(job, len(train), next(model.parameters()).device)
    seconds = devices.run_where_it_fits(model, lambda: measure_pace(model, few, settings), notes)
    fitting = int(TRAINING_SHARE * 60 * job.minutes / seconds)
    world = distributed.find_world()
    most = int(distributed.decide(max(find_run_sizes(job.base).batch, world.size * fitting)))
    if world.writes:
        write_json(known, most)
    return most


def _choose_usual(train: "RenderedExamples", count: int) -> list[int]:
    """The numbers of so many examples whose sources are neither long nor short."""
    lengths, _ = train.count_tokens(range(len(train)), 1 << 30)
    ordered = sorted(range(len(train)), key=lambda place: lengths[place])
    first = max(0, (len(ordered) - count) // 2)
    return ordered[first : first + count]


def shorten_sources(base: "BaseModel", tokens: int) -> "BaseModel":
    """The base, for which sources of at most so many tokens are rendered."""
    return replace(base, budget=replace(base.budget, total=min(tokens, base.budget.total)))


def freeze_lower_layers(model: "PreTrainedModel", trained: float) -> None:
    """Leave only an upper share of a causal model's layers to be trained."""
    layers = model.get_decoder().layers
    for layer in layers[: int(len(layers) * (1 - trained))]:
        layer.requires_grad_(False)


def _save_adapter(model: "PreTrainedModel", folder: Path) -> int:
    """Write the trained weights to `adapter/` in one rename; their size in bytes."""
    from gitpeft.learn.models import methods

    adapter, spare = folder / bundles.ADAPTER_FOLDER, folder / "adapter.new"
    methods.save_trained_weights(model.cpu(), spare)
    shutil.rmtree(adapter, ignore_errors=True)
    spare.rename(adapter)
    return sum(path.stat().st_size for path in adapter.rglob("*") if path.is_file())


def count_max_steps(examples: int, batch: int = BATCH_EXAMPLES) -> int:
    """Steps of `MAX_EPOCHS` passes over so many examples."""
    return max(1, MAX_EPOCHS * examples // batch)


def _make_settings(job: TrainingJob, examples: int, device: "torch.device") -> TrainingSettings:
    from gitpeft.learn.training.devices import count_batch_parts

    batch = find_run_sizes(job.base).batch
    batch_tokens = batch * job.base.budget.total
    return TrainingSettings(
        steps=job.steps or count_max_steps(examples, batch),
        minutes=job.minutes,
        batch_tokens=batch_tokens,
        lr=job.method.lr,
        warmup=0.05,
        decay=0.7,
        parts=count_batch_parts(batch_tokens, job.base.states, device),
        seed=job.seed,
        source_limit=job.base.budget.total,
    )


def _resolve_method(
    job: TrainingJob, model: "PreTrainedModel", data: "RenderedExamples", folder: Path, notes: list[str]
) -> "TuningMethod":
    """The method; the layers that a hybrid tunes in full are chosen here, once for a run."""
    from gitpeft.learn.training.distributed import find_world

    if (folder / "method.json").exists():
        return _read_method(job, folder)
    method = job.method
    if method.name == "hybrid" and not method.full:
        from gitpeft.learn.models import methods
        from gitpeft.learn.training import devices
        from gitpeft.learn.training.loop import iterate_batch_losses

        settings = _make_settings(job, len(data), next(model.parameters()).device)
        small = replace(settings, batch_tokens=PROBE_EXAMPLES * job.base.budget.total)
        ranked = devices.run_where_it_fits(
            model,
            lambda: methods.rank_layers(model, iterate_batch_losses(model, data, small, PROBE_BATCHES)),
            notes,
        )
        method = replace(method, full=tuple(layer for layer, _ in ranked[: method.probe]))
    if find_world().writes:
        write_json(folder / "method.json", method.as_dict())
    return method


def _read_method(job: TrainingJob, folder: Path) -> "TuningMethod":
    from gitpeft.learn.models import methods

    kept = dict(_read_json(folder / "method.json"))
    return methods.make_method(str(kept.pop("name")), kept)


def render_examples(examples: Sequence[Example], base: "BaseModel") -> "RenderedExamples":
    """Examples as token ids; messages end with the end token."""
    from gitpeft.learn.data.batches import PromptedExamples, RenderedExamples

    pairs = list(map(partial(encode_example_for_base, base), examples))
    if base.architecture.causal:
        return PromptedExamples.from_pairs(pairs, base.load_codec().find_message_start())
    return RenderedExamples.from_pairs(pairs)


def encode_example_for_base(base: "BaseModel", example: Example) -> tuple[list[int], list[int]]:
    """Source and target ids of an example as this base reads them."""
    source, target = encode_example(example, base.budget, base.load_codec())
    return wrap_source(source, base.find_wrapping_ids(), base.budget.total), target


def export_run(base: "BaseModel", method: "TuningMethod", data: Dataset, folder: Path) -> "ExportResult":
    """Write the run's ONNX files through the parity gate; GitpeftError where a bound does not hold."""
    from gitpeft.learn.export.parity import ExportResult, export_model
    from gitpeft.learn.models import methods

    done = folder / EXPORTED_FILE
    if done.exists():
        return ExportResult.from_dict(_read_json(done))
    model = methods.load_merged_model(base.load_for(method), method, folder / bundles.ADAPTER_FOLDER)
    sizes = find_run_sizes(base)
    held_out = trial.sample_examples(data.valid, PARITY_MORE * sizes.parity, seed=0)
    random.Random(0).shuffle(held_out)
    short = shorten_sources(base, sizes.parity_tokens)
    pairs = [encode_example_for_base(short, example) for example in held_out]
    asked = [(source, target[:-1]) for source, target in pairs]
    wrapping = base.find_wrapping_ids()
    result = export_model(model, base.tokenizer_path, folder, asked, wrapping=wrapping, enough=sizes.parity)
    write_json(done, result.as_dict())
    return result


def scale_adapter(folder: Path, strength: float, start: Path | None = None) -> Path:
    """A copy of a run's LoRA between its start and its end; a folder for `export_run`.

    `start` is the folder of the adapter that it started from, if any: its matrices are moved by `strength`
    towards the tuned ones. Otherwise the update of the base is scaled. Weights between those of the start and
    the tuned ones are often better than either on later commits (Wortsman et al. 2022, "Robust fine-tuning of
    zero-shot models", arXiv 2109.01903).
    """
    from safetensors.torch import load_file, save_file

    softer = folder / f"strength-{strength:g}"
    if not (softer / bundles.ADAPTER_FOLDER).is_dir():
        new = softer / "adapter.new"
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(folder / bundles.ADAPTER_FOLDER, new)
        weights = load_file(new / "adapter_model.safetensors")
        before = load_file(start / "adapter_model.safetensors") if start else {}
        save_file(blend_lora(weights, before, strength), new / "adapter_model.safetensors", {"format": "pt"})
        new.rename(softer / bundles.ADAPTER_FOLDER)
    return softer


def blend_lora(
    tuned: Mapping[str, "Tensor"], start: Mapping[str, "Tensor"], strength: float
) -> dict[str, "Tensor"]:
    """A LoRA's matrices, moved by `strength` from `start` to the tuned ones; without a start, scaled."""
    if start:
        return {name: start[name].float().lerp(one.float(), strength) for name, one in tuned.items()}
    return {name: one * strength if ".lora_B." in name else one for name, one in tuned.items()}


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
