"""The steps of gpu.py with little memory: a training that runs out of it, and a large base in 24 GB."""

from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from functools import partial
from typing import Any
from unittest import mock

from tests.bench.gpu_setting import (
    Record,
    Row,
    Setting,
    load_base,
    make_examples,
    make_model,
    measure_training,
    report_device,
    run_in_child,
)

TOO_LITTLE = 2 << 30
LARGE_CARD = 24 * 10**9

MAX_LEFT = 1 << 20
"""Bytes that may be left on the device, beyond what an ordinary training leaves (workspaces of libraries)."""


# --- out of memory ------------------------------------------------------------------------------------------


def run_out_of_memory(setting: Setting, record: Record) -> None:
    """What a training says that gets too little memory, whether it finishes, and what is left of it."""
    base = load_base("mini", setting)
    data = make_examples(base, 64 if setting.toy else 1024, 40 if setting.toy else 170, 12)
    _train_noting(base, data.select_examples(range(8)), setting)
    before = count_allocated(setting)
    with limit_memory(setting, TOO_LITTLE), fail_in_rehearsal(setting):
        cost, notes = _train_noting(base, data, setting)
    left = count_allocated(setting) - before
    row: Row = {
        "name": "out of memory", "steps": cost.steps, "parts": cost.parts, "device": cost.device,
        "notes": notes, "left": left,
    }  # fmt: skip
    if not cost.halved:
        row["missed"] = "memory did not run out"
    elif left > MAX_LEFT:
        row["missed"] = f"{left:,} bytes were left on the device"
    record(row | report_device(cost.device, setting.device))


def _train_noting(base: Any, data: Any, setting: Setting) -> tuple[Any, list[str]]:
    """The cost of four steps of full tuning and what was said; the model is gone afterwards."""
    from gitpeft.learn.training import memory
    from gitpeft.learn.training.loop import train_model
    from gitpeft.learn.training.settings import TrainingProgress, TrainingSettings

    notes: list[str] = []

    def note(progress: TrainingProgress) -> None:
        notes.extend([progress.note] if progress.note else [])

    model = make_model(base, "full", setting.device)
    batch = 300 if setting.toy else 1024 * 176
    cost = train_model(model, data, TrainingSettings(steps=4, batch_tokens=batch), on_step=note)
    del model
    memory.release_memory()
    return cost, notes


def count_allocated(setting: Setting) -> int:
    """Bytes of the device that tensors have."""
    import torch

    return torch.cuda.memory_allocated() if setting.on_gpu else 0


@contextmanager
def limit_memory(setting: Setting, size: int) -> Iterator[None]:
    """A GPU of which this process gets so many bytes; it still says that all of it is free."""
    import torch

    if not setting.on_gpu:
        yield
        return
    whole = torch.cuda.get_device_properties(0).total_memory
    torch.cuda.set_per_process_memory_fraction(min(1.0, size / whole))
    try:
        yield
    finally:
        torch.cuda.set_per_process_memory_fraction(1.0)


@contextmanager
def fail_in_rehearsal(setting: Setting) -> Iterator[None]:
    """On a CPU, a first batch that does not fit."""
    import torch

    from gitpeft.learn.training import loop

    load, calls = loop._load_batch, Counter[str]()

    def fail_first(*given: Any) -> Any:
        calls["all"] += 1
        if calls["all"] == 1 and not setting.on_gpu:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory (rehearsed)")
        return load(*given)

    with mock.patch.object(loop, "_load_batch", fail_first):
        yield


# --- a large base -------------------------------------------------------------------------------------------


def train_large_base(setting: Setting, record: Record) -> None:
    """Half a billion weights in 24 GB, by full tuning and by LoRA: batches of 8 prompts of 512 tokens."""
    for name in ("full", "lora"):
        work = partial(_train_large_base, setting.methods[name], setting)
        record({"name": f"half a billion, {name}", "method": name} | run_in_child(work, setting))


def _train_large_base(text: str, setting: Setting) -> Row:
    length = (40, 12) if setting.toy else (512, 48)
    with limit_memory(setting, LARGE_CARD), pretend_free(setting, LARGE_CARD):
        return measure_training("half-billion", text, 8, length, setting)


@contextmanager
def pretend_free(setting: Setting, size: int) -> Iterator[None]:
    """A GPU with so many bytes: what this process has reserved of them is not free."""
    import torch

    def tell_free(*_: object) -> tuple[int, int]:
        free = min(ask()[0], size - torch.cuda.memory_reserved())
        return max(0, free), size

    ask = torch.cuda.mem_get_info
    with mock.patch.object(torch.cuda, "mem_get_info", tell_free) if setting.on_gpu else nullcontext():
        yield
