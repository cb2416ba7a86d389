"""One run: a base, tuned with one method on one history, and exported. Hides where each step leaves its work.

A run is (task, method, base, seed). The task so far is to write messages; what another task changes is how
examples are rendered and what is measured, not how a run is trained, kept and resumed.
"""

import json
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitpeft.bundle import bundle as bundles
from gitpeft.files import write_json
from gitpeft.learn.data.dataset import Dataset, Example, encode_example
from gitpeft.learn.evaluation import trial
from gitpeft.runtime.tokenizer import wrap_source

if TYPE_CHECKING:
    from gitpeft.learn.data.batches import RenderedExamples
    from gitpeft.learn.models.bases import BaseModel
    from gitpeft.learn.models.methods import TuningMethod

MESSAGE_TASK = "messages"
MAX_EPOCHS = 8
BATCH_EXAMPLES = 24
"""Examples a batch holds when all are as long as the budget allows."""

PARITY_EXAMPLES = 48
MAX_LOSS_EXAMPLES = 200
"""A validation pass costs as much as several steps: on all of a long history it would eat short budgets."""
PROBE_BATCHES, PROBE_EXAMPLES = 8, 8
"""Batches of the gradient pass that chooses a hybrid's layers, and the examples in each: all weights have
gradients there, so that they are smaller than in training."""

ProgressListener = Callable[[str, float, str], None]
"""Hears (step, share done 0..1, detail) while a step goes on."""


@dataclass(frozen=True, slots=True)
class TrainingJob:
    """What to train: `steps` 0 means `EPOCHS` passes, at most; `minutes` bounds it in any case.

    `warm`: the folder of an adapter of the same method and base, with which training begins. `checks`: how
    often in a run the validation loss is measured, on at most `MOST_VALID` examples.
    """

    base: "BaseModel"
    method: "TuningMethod"
    seed: int = 0
    minutes: float = 5.0
    steps: int = 0
    checks: int = 10
    task: str = MESSAGE_TASK
    warm: str = ""


def tune_base(
    job: TrainingJob, data: Dataset, folder: Path, listen: ProgressListener
) -> tuple["TuningMethod", dict[str, Any]]:
    """Tune the base on the training part; returns the method, its layers chosen, and the cost.

    Leaves `method.json`, `adapter/` and `run.json` in `folder`; what is there is not made again, and a
    training that was killed continues.
    """
    if (folder / "run.json").exists():
        listen("train", 1.0, "already trained")
        return _read_method(job, folder), dict(_read_json(folder / "run.json"))
    from gitpeft.learn.models import methods, warm
    from gitpeft.learn.training.loop import TrainingProgress, pick_device, train_model

    folder.mkdir(parents=True, exist_ok=True)
    held_out = trial.sample_examples(data.valid, MAX_LOSS_EXAMPLES, seed=1)
    rendered = [render_examples(part, job.base) for part in (data.train, held_out)]
    model, device = job.base.load(), pick_device()
    method = _resolve_method(job, model.to(device), rendered[0], folder)
    model = warm.warm_start_model(methods.attach_method(model, method), method, job.warm).to(device)
    notes: list[str] = []

    def report_progress(progress: TrainingProgress) -> None:
        notes.extend([progress.note] if progress.note else [])
        rate = f"{progress.tokens / max(progress.seconds, 1e-9):,.0f} tokens/s"
        listen("train", progress.done, " · ".join((f"loss {progress.loss:.2f}", rate, *notes[-1:])))

    checkpoint = folder / "checkpoint"
    cost = train_model(
        model,
        rendered[0],
        _training_settings(job, len(data.train)),
        valid=rendered[1],
        on_step=report_progress,
        checkpoint=checkpoint,
        evaluate_every=1 / job.checks,
    )
    methods.save_trained_weights(model.cpu(), folder / "adapter.new")
    shutil.rmtree(folder / bundles.ADAPTER_FOLDER, ignore_errors=True)
    (folder / "adapter.new").rename(folder / bundles.ADAPTER_FOLDER)
    found = cost.as_dict() | {
        "adapter_bytes": _measure_folder_size(folder / bundles.ADAPTER_FOLDER),
        "notes": notes,
    }
    write_json(folder / "run.json", found)
    shutil.rmtree(checkpoint, ignore_errors=True)
    return method, dict(_read_json(folder / "run.json"))


def count_max_steps(examples: int) -> int:
    """Steps of `EPOCHS` passes over so many examples."""
    return max(1, MAX_EPOCHS * examples // BATCH_EXAMPLES)


def _training_settings(job: TrainingJob, examples: int) -> Any:
    from gitpeft.learn.training.loop import TrainingSettings, count_batch_parts

    batch_tokens = BATCH_EXAMPLES * job.base.budget.total
    return TrainingSettings(
        steps=job.steps or count_max_steps(examples),
        minutes=job.minutes,
        batch_tokens=batch_tokens,
        lr=job.method.lr,
        warmup=0.05,
        decay=0.7,
        parts=count_batch_parts(batch_tokens),
        seed=job.seed,
        source_limit=job.base.budget.total,
    )


def _resolve_method(job: TrainingJob, model: Any, data: "RenderedExamples", folder: Path) -> "TuningMethod":
    """The method; a hybrid's layers for full tuning are chosen here, once for a run."""
    if (folder / "method.json").exists():
        return _read_method(job, folder)
    method = job.method
    if method.name == "hybrid" and not method.full:
        from gitpeft.learn.models import methods
        from gitpeft.learn.training.loop import iterate_batch_losses

        small = replace(
            _training_settings(job, len(data)), batch_tokens=PROBE_EXAMPLES * job.base.budget.total
        )
        batches = iterate_batch_losses(model, data, small, PROBE_BATCHES)
        ranked = methods.rank_layers(model, batches)
        method = replace(method, full=tuple(layer for layer, _ in ranked[: method.probe]))
    write_json(folder / "method.json", method.as_dict())
    return method


def _read_method(job: TrainingJob, folder: Path) -> "TuningMethod":
    from gitpeft.learn.models import methods

    kept = dict(_read_json(folder / "method.json"))
    return methods.make_method(str(kept.pop("name")), kept)


def render_examples(examples: Sequence[Example], base: "BaseModel") -> "RenderedExamples":
    """Examples as token ids, the message ended."""
    from gitpeft.learn.data.batches import RenderedExamples

    return RenderedExamples.from_pairs(list(map(partial(encode_example_for_base, base), examples)))


def encode_example_for_base(base: "BaseModel", example: Example) -> tuple[list[int], list[int]]:
    """Source and target ids of an example as this base reads them."""
    source, target = encode_example(example, base.budget, base.load_codec())
    return wrap_source(source, base.find_wrapping_ids(), base.budget.total), target


def export_run(base: "BaseModel", method: "TuningMethod", data: Dataset, folder: Path) -> dict[str, Any]:
    """Write the run's ONNX files through the parity gate; what the gate measured, and decoding settings."""
    done = folder / "exported.json"
    if done.exists():
        return dict(_read_json(done))
    from gitpeft.learn.export.parity import export_model as write_graphs
    from gitpeft.learn.models import methods

    model = methods.load_merged_model(base.load(), method, folder / bundles.ADAPTER_FOLDER)
    held_out = trial.sample_examples(data.valid, PARITY_EXAMPLES, seed=0)
    pairs = [encode_example_for_base(base, example) for example in held_out]
    asked = [(source, target[:-1]) for source, target in pairs]
    result = write_graphs(model, base.tokenizer_path, folder, asked, wrapping=base.find_wrapping_ids())
    write_json(done, result.to_dict())
    return result.to_dict()


def scale_adapter(folder: Path, strength: float) -> Path:
    """A run's LoRA taken only a part of the way from the base: a folder to `export` from, with its adapter.

    Between base and tuned weights often lies what is better than either on later commits (Wortsman et al.
    2022, "Robust fine-tuning of zero-shot models", arXiv 2109.01903).
    """
    from safetensors.torch import load_file, save_file

    softer = folder / f"strength-{strength:g}"
    if not (softer / bundles.ADAPTER_FOLDER).is_dir():
        new = softer / "adapter.new"
        shutil.rmtree(new, ignore_errors=True)
        shutil.copytree(folder / bundles.ADAPTER_FOLDER, new)
        weights = load_file(new / "adapter_model.safetensors")
        for name in weights:
            if ".lora_B." in name:
                weights[name] = weights[name] * strength
        save_file(weights, new / "adapter_model.safetensors", {"format": "pt"})
        new.rename(softer / bundles.ADAPTER_FOLDER)
    return softer


def _measure_folder_size(folder: Path) -> int:
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def _read_json(path: Path) -> Any:
    return json.loads(path.read_text(encoding="utf-8"))
