"""The steps of gpu.py: each takes a setting and returns plain values."""

import json
import os
import random
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

METHODS = {"lora": "lora", "adapter": "adapter", "full": "full", "hybrid": "hybrid:full=encoder.1"}
TOY_METHODS = {
    "lora": "lora:rank=4", "adapter": "adapter:width=8", "full": "full",
    "hybrid": "hybrid:rank=4,full=encoder.1",
}  # fmt: skip
BOUNDS = {"float32": 1e-4, "bfloat16": 1e-2}
"""By type, the largest relative difference of a loss and of a gradient's norm from those on a CPU."""


@dataclass(frozen=True, slots=True)
class Setting:
    """Where and at which size a step runs; `folder` is its own, `rate` the bf16 matrix rate if known."""

    device: str
    toy: bool
    folder: Path
    history: Path | None = None
    rate: float = 0.0

    @property
    def methods(self) -> dict[str, str]:
        """The methods, as `--method` names them."""
        return TOY_METHODS if self.toy else METHODS


def import_libraries() -> None:
    """Once, for all the children; nothing here starts a GPU, which no child could share."""
    import peft  # noqa: F401
    import pytest  # noqa: F401
    import torch  # noqa: F401

    from gitpeft.learn import pipeline  # noqa: F401
    from gitpeft.learn.export import parity  # noqa: F401
    from gitpeft.learn.models import bases, methods, pointer_t5  # noqa: F401
    from gitpeft.learn.pretraining import build  # noqa: F401
    from gitpeft.learn.risk import encoder  # noqa: F401
    from gitpeft.learn.training import finetune, loop  # noqa: F401
    from tests.bench import bench_study  # noqa: F401


# --- 1: the machine -----------------------------------------------------------------------------------------


def describe_machine(setting: Setting) -> dict[str, object]:
    """Versions, the card, what its matrix product reaches, and how fast it is given data."""
    from importlib import metadata

    import torch

    from gitpeft.learn.training import flops

    device = torch.device(setting.device)
    found: dict[str, object] = {
        "python": sys.version.split()[0],
        **{name: metadata.version(name) for name in ("torch", "transformers", "peft")},
        "matrix_rate": flops.measure_matrix_rate(device, 256 if setting.toy else None),
    }
    if device.type == "cuda":
        about = torch.cuda.get_device_properties(0)
        found |= {
            "card": about.name, "memory": about.total_memory, "free": torch.cuda.mem_get_info()[0],
            "capability": f"{about.major}.{about.minor}", "bf16": torch.cuda.is_bf16_supported(),
            "cuda": torch.version.cuda,
        }  # fmt: skip
    block = torch.empty((1 if setting.toy else 256) << 20, dtype=torch.uint8)
    block = block.pin_memory() if device.type == "cuda" else block
    block.to(device, copy=True)
    seconds = _time(lambda: block.to(device, copy=True), device)
    return found | {"copy_bytes_per_second": block.numel() / seconds}


def _time(work: Callable[[], object], device: Any) -> float:
    from gitpeft.learn.training.flops import synchronise_device

    synchronise_device(device)
    began = time.perf_counter()
    work()
    synchronise_device(device)
    return time.perf_counter() - began


# --- what is trained ----------------------------------------------------------------------------------------


def load_base(name: str, setting: Setting) -> Any:
    """A base: `mini`, `smol`, or `codet5-base` with random weights; all random and tiny in a rehearsal."""
    from gitpeft.learn.models import bases
    from tests.bench import bench_study
    from tests.support import tinymodel

    if not setting.toy and name != "codet5-base":
        return bases.find_base(name)
    folder = setting.folder / name
    if not (folder / "config.json").exists():
        folder.mkdir(parents=True, exist_ok=True)
        if name == "codet5-base":
            bench_study.write_base(folder, name, setting.toy)
        else:
            made = tinymodel.causal() if name == "smol" else tinymodel.pointer_t5()
            made.save_pretrained(folder)
            tinymodel.write_tokenizer(folder)
    return bases.find_base(str(folder))


def make_examples(base: Any, count: int, source: int, target: int) -> Any:
    """Random ids of about these lengths."""
    from gitpeft.learn.data.batches import PromptedExamples, RenderedExamples

    dice = random.Random(0)
    pairs = [
        ([dice.randrange(12, 400) for _ in range(dice.randint(source * 2 // 3, source))],
         [dice.randrange(12, 400) for _ in range(dice.randint(target // 2, target))])
        for _ in range(count)
    ]  # fmt: skip
    causal = base.architecture.causal
    return PromptedExamples.from_pairs(pairs, 11) if causal else RenderedExamples.from_pairs(pairs)


def make_method(text: str, base: Any) -> Any:
    from gitpeft.learn.models import methods

    name, settings = methods.parse_method(text)
    if base.architecture.causal and "full" in settings:
        settings["full"] = ("decoder.1",)
    return methods.make_method(name, settings, causal=base.architecture.causal)


def make_model(base: Any, text: str, device: str) -> Any:
    """The base with a method, on the device, without dropout, the same every time."""
    import torch

    from gitpeft.learn.models import methods

    torch.manual_seed(0)
    method = make_method(text, base)
    model = methods.attach_method(base.load_for(method), method)
    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "dropout", None), float):
            module.dropout = 0.0
    return model.to(device)


# --- 2: the same numbers ------------------------------------------------------------------------------------


def compare_with_cpu(setting: Setting) -> dict[str, object]:
    """Loss and gradient norm of one batch on the device against float32 on the CPU, by method and task."""
    base = load_base("mini", setting)
    batch = make_examples(base, 4 if setting.toy else 16, 40 if setting.toy else 170, 12)
    found: dict[str, object] = {}
    for name, text in setting.methods.items():
        found[f"messages, {name}"] = _compare(partial(make_model, base, text), batch, setting)
    causal = load_base("smol", setting)
    prompts = make_examples(causal, 4, 40 if setting.toy else 490, 12)
    found["messages of smol, lora"] = _compare(
        partial(make_model, causal, setting.methods["lora"]), prompts, setting
    )
    for name in ("lora", "full"):
        make = partial(_make_risk_model, base, setting.methods[name])
        found[f"risk, {name}"] = _compare(make, _make_risk_examples(batch), setting)
    if missed := [name for name, row in found.items() if not row["ok"]]:  # type: ignore[index]
        found["missed"] = missed
    return found


def _make_risk_model(base: Any, text: str, device: str) -> Any:
    import torch

    from gitpeft.learn.models import methods
    from gitpeft.learn.risk.encoder import FeatureScaling, create_risk_encoder

    torch.manual_seed(0)
    model = create_risk_encoder(base, FeatureScaling(("a", "b"), (0.0, 0.0), (1.0, 1.0)))
    torch.nn.init.normal_(model.logit.weight, std=0.1)
    return methods.attach_method(model, make_method(text, base)).eval().to(device)


def _make_risk_examples(pairs: Any) -> Any:
    from gitpeft.learn.data.batches import EncodedCommits

    sources = [pairs.get_pair(i, 1 << 20)[0] for i in range(len(pairs))]
    features = [[i / 7, -i / 3] for i in range(len(pairs))]
    return EncodedCommits.from_sources(sources, features, [i % 2 for i in range(len(pairs))])


def _compare(make: Callable[[str], Any], batch: Any, setting: Setting) -> dict[str, object]:
    import torch

    truth = _measure_gradient(make("cpu"), batch, "cpu", torch.float32)
    row: dict[str, object] = {"loss": truth[0], "gradient": truth[1]}
    ok = True
    for name, bound in BOUNDS.items():
        found = _measure_gradient(make(setting.device), batch, setting.device, getattr(torch, name))
        apart = [abs(a - b) / max(abs(b), 1e-9) for a, b in zip(found, truth, strict=True)]
        row[name] = apart
        ok = ok and apart[0] <= bound and apart[1] <= (bound if name == "float32" else 5 * bound)
    return row | {"ok": ok}


def _measure_gradient(model: Any, batch: Any, device: str, kind: Any) -> tuple[float, float]:
    import torch

    from gitpeft.learn.training.devices import load_arrays

    arrays = batch.collate_batch(range(len(batch)), 512, 16, 0)
    inputs = load_arrays(arrays, torch.device(device))
    with torch.autocast(device, dtype=torch.bfloat16, enabled=kind == torch.bfloat16):
        loss = model(**inputs).loss
    loss.backward()
    grads = [p.grad for p in model.parameters() if p.grad is not None]
    return float(loss.detach()), float(torch.nn.utils.get_total_norm(grads))


# --- 3: what the host waits for -----------------------------------------------------------------------------


def watch_steps(setting: Setting) -> dict[str, object]:
    """Waits of the host, kernels and the busy share of the device over some steps of LoRA."""
    import warnings

    import torch
    from torch.profiler import ProfilerActivity, profile

    base = load_base("mini", setting)
    data = make_examples(base, 64 if setting.toy else 480, 40 if setting.toy else 170, 12)
    model = make_model(base, setting.methods["lora"], setting.device)
    on_gpu = setting.device == "cuda"
    steps = 4 if setting.toy else 40
    _train(model, data, steps, setting)
    with warnings.catch_warnings(record=True) as seen:
        warnings.simplefilter("always")
        if on_gpu:
            torch.cuda.set_sync_debug_mode("warn")
        _train(model, data, steps, setting)
        if on_gpu:
            torch.cuda.set_sync_debug_mode("default")
    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if on_gpu else [])]
    with profile(activities=activities) as recorded:
        cost = _train(model, data, steps, setting)
    rows = recorded.key_averages()
    kernels = [row for row in rows if str(row.device_type).endswith("CUDA")]
    busy = sum(row.self_device_time_total for row in kernels) / 1e6
    return {
        "steps": steps,
        "waits": sum("synchroniz" in str(one.message).lower() for one in seen),
        "launches_per_step": sum(row.count for row in kernels or rows) / steps,
        "busy_share": busy / cost.seconds,
        "attention": sorted({row.key[:80] for row in kernels if _is_attention(row.key)}),
    }


def _is_attention(kernel: str) -> bool:
    return any(word in kernel.lower() for word in ("flash", "fmha", "attention", "cudnn"))


def _train(model: Any, data: Any, steps: int, setting: Setting, **changes: Any) -> Any:
    from gitpeft.learn.training.loop import train_model
    from gitpeft.learn.training.settings import TrainingSettings

    batch = 300 if setting.toy else 24 * 176
    settings = TrainingSettings(steps=steps, batch_tokens=batch, lr=1e-4, source_limit=512)
    return train_model(model, data, replace(settings, **changes))


# --- 4: speed -----------------------------------------------------------------------------------------------


def measure_speed(setting: Setting) -> list[dict[str, object]]:
    """LoRA's tokens a second and memory by base and batch size."""
    sizes = {"mini": (24, 96, 384), "smol": (8, 32, 64), "codet5-base": (8, 16, 32)}
    lengths = {"mini": (170, 14), "smol": (490, 14), "codet5-base": (512, 64)}
    rows = []
    for name, batches in sizes.items():
        for batch in (2, 4, 8) if setting.toy else batches:
            length = (40, 12) if setting.toy else lengths[name]
            work = partial(measure_training, name, setting.methods["lora"], batch, length, setting)
            rows.append({"base": name, "batch": batch} | run_in_child(work, setting))
    return rows


def measure_training(
    name: str, text: str, batch: int, length: tuple[int, int], setting: Setting
) -> dict[str, object]:
    """The cost of some steps at one size, start-up aside."""
    base = load_base(name, setting)
    source, target = length
    data = make_examples(base, batch * (4 if setting.toy else 16), source, target)
    per = 1 if base.architecture.causal else 4
    room = batch * (source + per * target)
    cost = _train(
        make_model(base, text, setting.device), data, 4 if setting.toy else 48, setting, batch_tokens=room
    )
    seconds = max(cost.seconds - cost.startup_seconds, 1e-9)
    return {
        "tokens_per_second": cost.tokens / seconds,
        "seconds_per_step": seconds / cost.steps,
        "startup_seconds": cost.startup_seconds,
        "allocated": cost.allocated,
        "reserved": cost.reserved or cost.peak_memory,
        "trainable": cost.trainable,
        "share": cost.share,
        "parts": cost.parts,
        "device": cost.device,
        "matrix_share": cost.flops / seconds / setting.rate if setting.rate else None,
    }


def run_in_child(work: Callable[[], dict[str, object]], setting: Setting) -> dict[str, object]:
    """What `work` gives, done in a child whose memory is its own; `failed` says how it ended otherwise."""
    path = setting.folder / "row.json"
    path.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        try:
            path.write_text(json.dumps(work()), encoding="utf-8")
        except Exception as error:
            path.write_text(json.dumps({"failed": f"{type(error).__name__}: {error}".splitlines()[0]}))
        finally:
            os._exit(0)
    status = os.waitpid(child, 0)[1]
    return dict(json.loads(path.read_text())) if path.exists() else {"failed": f"ended with status {status}"}
