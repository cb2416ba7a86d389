"""The longer runs of gpu.py: out of memory, killed, from a clone to a hook, the methods and a recipe."""

import random
import time
from collections import Counter
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, replace
from functools import partial
from pathlib import Path
from typing import Any

from tests.bench.gpu_steps import (
    Setting,
    load_base,
    make_examples,
    make_model,
    measure_training,
    run_in_child,
)

# --- 5: out of memory ---------------------------------------------------------------------------------------


def run_out_of_memory(setting: Setting) -> dict[str, object]:
    """What a training says that gets too little memory, whether it finishes, and what is left of it."""
    import torch

    from gitpeft.learn.training import memory

    base = load_base("mini", setting)
    data = make_examples(base, 64 if setting.toy else 1024, 40 if setting.toy else 170, 12)
    model = make_model(base, "full", setting.device)
    notes: list[str] = []
    with little_memory(setting):
        cost = _train_noting(model, data, setting, notes)
    del model
    memory.release_memory()
    left = torch.cuda.memory_allocated() if setting.device == "cuda" else 0
    if not cost.halved and cost.device != "cpu":
        raise RuntimeError("memory did not run out")
    return {"steps": cost.steps, "parts": cost.parts, "device": cost.device, "notes": notes, "left": left}


def _train_noting(model: Any, data: Any, setting: Setting, notes: list[str]) -> Any:
    from gitpeft.learn.training.loop import train_model
    from gitpeft.learn.training.settings import TrainingProgress, TrainingSettings

    def note(progress: TrainingProgress) -> None:
        notes.extend([progress.note] if progress.note else [])

    batch = 300 if setting.toy else 1024 * 176
    return train_model(model, data, TrainingSettings(steps=4, batch_tokens=batch), on_step=note)


@contextmanager
def little_memory(setting: Setting) -> Iterator[None]:
    """A GPU of which this process gets 2 GiB; in a rehearsal, a first batch that does not fit."""
    import torch

    from gitpeft.learn.training import loop

    if setting.device == "cuda":
        whole = torch.cuda.get_device_properties(0).total_memory
        torch.cuda.set_per_process_memory_fraction(min(1.0, (2 << 30) / whole))
        yield
        torch.cuda.set_per_process_memory_fraction(1.0)
        return
    load, calls = loop._load_batch, Counter[str]()

    def fail_first(*given: Any) -> Any:
        calls["all"] += 1
        if calls["all"] == 1:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (rehearsed)")
        return load(*given)

    vars(loop)["_load_batch"] = fail_first
    yield
    vars(loop)["_load_batch"] = load


# --- 6: killed and resumed ----------------------------------------------------------------------------------


def kill_and_resume(setting: Setting) -> dict[str, object]:
    """The loss of a training in one piece, and of one that is killed and goes on, here and on a CPU."""
    import shutil

    base = load_base("mini", setting)
    data = make_examples(base, 48 if setting.toy else 240, 40 if setting.toy else 170, 12)
    folder, steps = setting.folder / "checkpoint", 8 if setting.toy else 40
    shutil.rmtree(folder, ignore_errors=True)
    losses = {"in one piece": _finish(base, data, steps, setting, setting.device, None)}
    stopped = _stop_half_way(base, data, steps, setting, folder)
    for name, device in (("resumed", setting.device), ("resumed on the CPU", "cpu")):
        copy = setting.folder / f"again-{device}"
        shutil.rmtree(copy, ignore_errors=True)
        shutil.copytree(folder, copy)
        losses[name] = _finish(base, data, steps, setting, device, copy)
    apart = max(losses.values()) - min(losses.values())
    if apart > 2e-2 * max(losses.values()):
        raise RuntimeError(f"the losses differ: {losses}")
    return {"losses": losses, "stopped_at": stopped, "steps": steps}


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


def _finish(base: Any, data: Any, steps: int, setting: Setting, device: str, folder: Path | None) -> float:
    from gitpeft.learn.training.loop import measure_loss
    from gitpeft.learn.training.settings import TrainingSettings

    model = _run_resumable(base, data, steps, setting, device, folder, None)
    return measure_loss(model, data, TrainingSettings(batch_tokens=2000))


def _run_resumable(
    base: Any, data: Any, steps: int, setting: Setting, device: str, folder: Path | None, heard: Any
) -> Any:
    from gitpeft.learn.training.loop import train_model
    from gitpeft.learn.training.settings import TrainingSettings

    model = make_model(base, setting.methods["lora"], setting.device)
    settings = TrainingSettings(steps=steps, batch_tokens=300 if setting.toy else 4000, lr=1e-3)
    train_model(model, data, settings, valid=data, evaluate_every=0.25, checkpoint=folder, on_step=heard)
    return model


# --- 7: from a clone to a hook ------------------------------------------------------------------------------


def initialise_history(setting: Setting) -> dict[str, object]:
    """`gitpeft init` of a clone, with the seconds of each of its steps."""
    import pytest

    from gitpeft.git.repository import Repository
    from gitpeft.hooks.install import install_hooks
    from gitpeft.learn import pipeline
    from gitpeft.learn.results import ModelPlan
    from tests.support.tinybase import loosen

    repository = Repository.open(_clone_history(setting))
    seconds: dict[str, float] = {}
    at: list[Any] = [time.monotonic(), ""]

    def listen(step: str, _done: float, _detail: str) -> None:
        now = time.monotonic()
        seconds[at[1]] = seconds.get(at[1], 0.0) + now - at[0]
        at[:] = now, step

    small: dict[str, Any] = {"rank": 4} if setting.toy else {}
    base = str(load_base("mini", setting).folder) if setting.toy else "mini"
    plan = ModelPlan(base=base, minutes=0.05 if setting.toy else 2.0, settings=small)
    began = time.monotonic()
    with pytest.MonkeyPatch.context() as patch:
        if setting.toy:
            loosen(patch)  # the gate is for models that have learnt something
        made = pipeline.build_active_model(repository, plan, listen)
    listen("hooks", 0.0, "")
    hooks = [str(one.where) for one in install_hooks(repository)]
    listen("", 0.0, "")
    total = time.monotonic() - began
    seconds.pop("", None)
    return {"seconds": {name: round(one, 2) for name, one in seconds.items()}, "total": total,
            "bundle": made.bundle, "hooks": len(hooks)}  # fmt: skip


def _clone_history(setting: Setting) -> Path:
    import shutil

    from git import Repo as GitRepo

    from tests.support import generated
    from tests.support.gitrepo import Repo

    where = setting.folder / "clone"
    shutil.rmtree(where, ignore_errors=True)
    if setting.history is not None:
        GitRepo.clone_from(str(setting.history.resolve()), where)
        return where
    repo = Repo.create(where)
    generated.put(repo, generated.team(90 if setting.toy else 1500))
    return repo.path


# --- 8 and 9: the study's methods, and a base from random weights -------------------------------------------


def measure_methods(setting: Setting) -> list[dict[str, object]]:
    """Memory, time and trainable share of the study's methods at the shape of CodeT5-base."""
    batch, length = (4, (40, 12)) if setting.toy else (16, (512, 64))
    return [
        {"method": name}
        | run_in_child(partial(measure_training, "codet5-base", text, batch, length, setting), setting)
        for name, text in setting.methods.items()
    ]


def train_recipe(setting: Setting) -> list[dict[str, object]]:
    """Steps of models/mini/recipe-gpu.toml on random ids, as it is and compiled."""
    from gitpeft.learn.pretraining.build import PretrainingRecipe

    top = Path(__file__).parents[2]
    recipe = PretrainingRecipe.load(top / "models" / "mini" / "recipe-gpu.toml")
    backends: Sequence[str] = ("", "eager") if setting.toy else ("", "inductor")
    return [
        {"compiled": backend} | run_in_child(partial(_train_recipe, recipe, backend, setting), setting)
        for backend in backends
    ]


def _train_recipe(recipe: Any, backend: str, setting: Setting) -> dict[str, object]:
    import torch

    from gitpeft.learn.data.batches import RenderedExamples
    from gitpeft.learn.pretraining.build import make_random_model
    from gitpeft.learn.training.loop import train_model

    if setting.toy:
        small = {
            "d_model": 32,
            "d_kv": 8,
            "d_ff": 64,
            "num_heads": 4,
            "num_layers": 1,
            "num_decoder_layers": 1,
        }
        recipe = replace(recipe, vocabulary=420, model=recipe.model | small)
    dice = random.Random(0)
    size = 40 if setting.toy else 2000
    pairs = [
        ([dice.randrange(12, 400) for _ in range(dice.randint(60, 176))],
         [dice.randrange(12, 400) for _ in range(dice.randint(4, 16))])
        for _ in range(size)
    ]  # fmt: skip
    model = make_random_model(recipe).to(torch.device(setting.device))
    settings = replace(
        recipe.stages[0], steps=3 if setting.toy else 60, minutes=1.0, compile=backend,
        **({"batch_tokens": 2000} if setting.toy else {}),
    )  # fmt: skip
    cost = train_model(model, RenderedExamples.from_pairs(pairs), settings)
    seconds = max(cost.seconds - cost.startup_seconds, 1e-9)
    share = cost.flops / seconds / setting.rate if setting.rate else None
    kept = ("steps", "startup_seconds", "allocated", "reserved", "parts", "device")
    whole = asdict(cost)
    return {name: whole[name] for name in kept} | {
        "tokens_per_second": cost.tokens / seconds, "matrix_share": share,
    }  # fmt: skip


# --- 10: the adapter of a base ------------------------------------------------------------------------------


def train_corpus(setting: Setting) -> list[dict[str, object]]:
    """Steps of models/smol/recipe.toml with its profile for a GPU on random ids, as they are and compiled."""
    backends: Sequence[str] = ("", "eager") if setting.toy else ("", "inductor")
    return [
        {"compiled": backend} | run_in_child(partial(_train_corpus, backend, setting), setting)
        for backend in backends
    ]


def _train_corpus(backend: str, setting: Setting) -> dict[str, object]:
    import torch

    from gitpeft.learn.pretraining.adapter_build import AdapterRecipe
    from gitpeft.learn.pretraining.adapter_gpu import fit_to_gpu
    from gitpeft.learn.pretraining.adapter_run import AdapterRun
    from gitpeft.learn.training import memory
    from gitpeft.learn.training.resident import ResidentExamples, ResidentSelection

    recipe = AdapterRecipe.load(Path(__file__).parents[2] / "models" / "smol" / "recipe.toml", "gpu")
    base, batch, steps = (
        load_base("smol", setting),
        4 if setting.toy else recipe.settings.batch,
        3 if setting.toy else 40,
    )
    pairs = make_examples(base, 4 * batch, 40 if setting.toy else 490, 12)
    run = AdapterRun(
        make_model(base, setting.methods["lora"], setting.device), setting.folder / "run", recipe.settings
    )
    resident = ResidentExamples(pairs, run.device)
    free = torch.cuda.mem_get_info()[0] if setting.device == "cuda" else 1 << 40
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
