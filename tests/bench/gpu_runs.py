"""The longer runs of gpu.py: killed and resumed, from a clone to a hook, the methods, and two recipes."""

import random
import shutil
import subprocess
import time
from collections.abc import Sequence
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from tests.bench.gpu_setting import (
    Record,
    Row,
    Setting,
    load_base,
    make_examples,
    make_model,
    make_pair,
    measure_training,
    move_model,
    report_device,
    run_in_child,
)

MAX_APART = 2e-2
"""How far, relatively, the losses of trainings may be apart that were stopped and of one that was not."""

# --- killed and resumed -------------------------------------------------------------------------------------


def kill_and_resume(setting: Setting, record: Record) -> None:
    """The loss of a training in one piece, and of one that is killed and goes on, here and on a CPU."""
    base = load_base("mini", setting)
    data = make_examples(base, 48 if setting.toy else 240, 40 if setting.toy else 170, 12)
    folder, steps = setting.folder / "checkpoint", 8 if setting.toy else 40
    whole, ran = _finish(base, data, steps, setting, setting.device, None)
    record({"name": "in one piece", "steps": steps, "loss": whole, "device": ran}
           | report_device(ran, setting.device))  # fmt: skip
    stopped = _stop_half_way(base, data, steps, setting, folder)
    for name, device in (("resumed", setting.device), ("resumed on the CPU", "cpu")):
        copy = setting.folder / name.replace(" ", "-")
        shutil.copytree(folder, copy)
        loss, ran = _finish(base, data, steps, setting, device, copy)
        row: Row = {"name": name, "steps": steps, "stopped_at": stopped, "loss": loss, "device": ran}
        if not abs(loss - whole) <= MAX_APART * whole:
            row["missed"] = f"its loss is {loss:.4f}, that in one piece {whole:.4f}"
        record(row | report_device(ran, device))


class _Killed(Exception):
    """Stands for the end of a process."""


def _stop_half_way(base: Any, data: Any, steps: int, setting: Setting, folder: Path) -> int:
    from gitpeft.learn.training.settings import TrainingProgress

    seen: list[int] = []

    def stop(progress: TrainingProgress) -> None:
        seen.append(progress.step)
        if progress.step >= steps // 2 and progress.valid is not None:
            raise _Killed

    try:
        _run_resumable(base, data, steps, setting, setting.device, folder, stop)
    except _Killed:
        pass
    return seen[-1]


def _finish(
    base: Any, data: Any, steps: int, setting: Setting, device: str, folder: Path | None
) -> tuple[float, str]:
    """The loss at the end, and the device on which it was trained."""
    from gitpeft.learn.training.loop import measure_loss
    from gitpeft.learn.training.settings import TrainingSettings

    model, ran = _run_resumable(base, data, steps, setting, device, folder, None)
    return measure_loss(model, data, TrainingSettings(batch_tokens=2000)), ran


def _run_resumable(
    base: Any, data: Any, steps: int, setting: Setting, device: str, folder: Path | None, heard: Any
) -> tuple[Any, str]:
    """The trained model, and the device on which the training ended."""
    from gitpeft.learn.training.loop import train_model
    from gitpeft.learn.training.settings import TrainingSettings

    model = make_model(base, setting.methods["lora"], device)
    settings = TrainingSettings(steps=steps, batch_tokens=300 if setting.toy else 4000, lr=1e-3)
    cost = train_model(
        model, data, settings, valid=data, evaluate_every=0.25, checkpoint=folder, on_step=heard
    )
    return model, cost.device


# --- from a clone to a hook ---------------------------------------------------------------------------------


def initialise_history(setting: Setting, record: Record) -> None:
    """`gitpeft init` of a clone, with the seconds of each of its steps."""
    from gitpeft.git.repository import Repository
    from gitpeft.hooks.install import install_hooks
    from gitpeft.learn import pipeline
    from gitpeft.learn.export import parity
    from gitpeft.learn.results import ModelPlan

    repository = Repository.open(_clone_history(setting))
    began = time.monotonic()
    at: list[Any] = [began, ""]

    def listen(step: str, _done: float = 0.0, _detail: str = "") -> None:
        if step != at[1]:
            if at[1]:
                record({"name": at[1], "seconds": round(time.monotonic() - at[0], 2)})
            at[:] = time.monotonic(), step

    small: dict[str, Any] = {"rank": 4} if setting.toy else {}
    base = str(load_base("mini", setting).folder) if setting.toy else "mini"
    plan = ModelPlan(base=base, minutes=0.05 if setting.toy else 2.0, settings=small)
    bounds: Any = parity.MessageParityBounds
    if setting.toy:  # the gate is for models that have learnt something
        bounds = partial(bounds, agreement=0.5, nats=0.5, drop=9.0)
    with mock.patch.object(parity, "MessageParityBounds", bounds):
        made = pipeline.build_active_model(repository, plan, listen)
    listen("hooks")
    hooks = install_hooks(repository)
    listen("")
    row: Row = {"name": "together", "seconds": round(time.monotonic() - began, 2), "hooks": len(hooks)}
    trained = made.candidate.trained
    if trained is None:
        record(row | {"missed": f"nothing was trained: {made.candidate.why}"})
    else:
        record(row | report_device(trained.cost.training.device, setting.device))


def _clone_history(setting: Setting) -> Path:
    from tests.support import generated
    from tests.support.gitrepo import Repo

    where = setting.folder / "clone"
    if setting.history is not None:
        subprocess.run(["git", "clone", "-q", str(setting.history.resolve()), str(where)], check=True)
        return where
    repo = Repo.create(where)
    generated.put(repo, generated.team(90 if setting.toy else 1500))
    return repo.path


# --- the study's methods, and a base from random weights ----------------------------------------------------


def measure_methods(setting: Setting, record: Record) -> None:
    """Memory, time and trainable share of the study's methods at the shape of CodeT5-base."""
    batch, length = (4, (40, 12)) if setting.toy else (16, (512, 64))
    for name, text in setting.methods.items():
        work = partial(measure_training, "codet5-base", text, batch, length, setting)
        record({"name": name} | run_in_child(work, setting))


def train_recipe(setting: Setting, record: Record) -> None:
    """Steps of models/mini/recipe-gpu.toml on random ids, as it is and compiled."""
    from gitpeft.learn.pretraining.build import PretrainingRecipe

    top = Path(__file__).parents[2]
    recipe = PretrainingRecipe.load(top / "models" / "mini" / "recipe-gpu.toml")
    for backend in list_backends(setting):
        found = run_in_child(partial(_train_recipe, recipe, backend, setting), setting)
        record({"name": backend or "not compiled"} | found)


def list_backends(setting: Setting) -> Sequence[str]:
    """Without compilation, and with it."""
    return ("", "eager") if setting.toy else ("", "inductor")


def _train_recipe(recipe: Any, backend: str, setting: Setting) -> Row:
    from gitpeft.learn.data.batches import RenderedExamples
    from gitpeft.learn.pretraining.build import make_random_model
    from gitpeft.learn.training.loop import train_model

    if setting.toy:
        small = {
            "d_model": 32, "d_kv": 8, "d_ff": 64, "num_heads": 4, "num_layers": 1, "num_decoder_layers": 1,
        }  # fmt: skip
        recipe = replace(recipe, vocabulary=420, model=recipe.model | small)
    dice = random.Random(0)
    pairs = [
        make_pair(dice, dice.randint(60, 176), dice.randint(4, 16))
        for _ in range(40 if setting.toy else 2000)
    ]
    model = move_model(make_random_model(recipe), setting.device)
    notes: list[str] = []
    settings = replace(
        recipe.stages[0], steps=3 if setting.toy else 60, minutes=1.0, compile=backend,
        **({"batch_tokens": 2000} if setting.toy else {}),
    )  # fmt: skip
    cost = train_model(
        model, RenderedExamples.from_pairs(pairs), settings,
        on_step=lambda progress: notes.extend([progress.note] if progress.note else []),
    )  # fmt: skip
    seconds = max(cost.seconds - cost.startup_seconds, 1e-9)
    share = cost.flops / seconds / setting.rate if setting.rate else None
    kept = ("steps", "startup_seconds", "allocated", "reserved", "parts", "device")
    whole = asdict(cost)
    return {name: whole[name] for name in kept} | {
        "tokens_per_second": cost.tokens / seconds, "matrix_share": share, "notes": notes,
    } | report_device(cost.device, setting.device)  # fmt: skip


# --- the adapter of a base ----------------------------------------------------------------------------------


def train_corpus(setting: Setting, record: Record) -> None:
    """Steps of models/smol/recipe.toml with its profile for a GPU on random ids, as they are and compiled."""
    for backend in list_backends(setting):
        found = run_in_child(partial(_train_corpus, backend, setting), setting)
        record({"name": backend or "not compiled"} | found)


def _train_corpus(backend: str, setting: Setting) -> Row:
    import torch

    from gitpeft.learn.pretraining.adapter_build import AdapterRecipe
    from gitpeft.learn.pretraining.adapter_gpu import fit_to_gpu
    from gitpeft.learn.pretraining.adapter_run import AdapterRun
    from gitpeft.learn.training import memory
    from gitpeft.learn.training.resident import ResidentExamples, ResidentSelection

    recipe = AdapterRecipe.load(Path(__file__).parents[2] / "models" / "smol" / "recipe.toml", "gpu")
    base = load_base("smol", setting)
    batch, steps = (4, 3) if setting.toy else (recipe.settings.batch, 40)
    pairs = make_examples(base, 4 * batch, 40 if setting.toy else 490, 12)
    model = make_model(base, setting.methods["lora"], setting.device)
    run = AdapterRun(model, setting.folder / "run", recipe.settings)
    resident = ResidentExamples(pairs, run.device)
    free = torch.cuda.mem_get_info()[0] if setting.on_gpu else 1 << 40
    memory.reset_peak_memory(setting.device)

    def take_steps(count: int) -> float:
        began = time.monotonic()
        starts = [number % 4 * batch for number in range(count)]
        losses = [run.take_step(ResidentSelection(resident, range(at, at + batch))) for at in starts]
        if not bool(torch.stack(losses).isfinite().all()):  # waits for the steps
            raise RuntimeError("a loss is not finite")
        return time.monotonic() - began

    with fit_to_gpu(run, batch * 560, free, backend), run.writer:
        startup = take_steps(4)
        run.tokens, run.flops = 0, 0.0
        seconds = take_steps(steps)
        began = time.monotonic()
        run.save()
        waited = time.monotonic() - began
    return {
        "tokens_per_second": run.tokens / seconds, "seconds_per_step": seconds / steps,
        "pairs_per_second": steps * batch / seconds, "startup_seconds": startup,
        "reserved": memory.read_peak_device(setting.device)[1] or memory.read_peak_resident(),
        "matrix_share": run.flops / seconds / setting.rate if setting.rate else None,
        "part_tokens": run.part_tokens, "notes": run.notes, "checkpoint_waited": waited,
        "checkpoint_written": time.monotonic() - began,
    }  # fmt: skip
