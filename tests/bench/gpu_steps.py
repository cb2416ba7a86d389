"""The first steps of gpu.py: the machine, the same numbers as on a CPU, waits of the host, shapes, speed."""

import random
import sys
import warnings
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any
from unittest import mock

from tests.bench.gpu_setting import (
    Record,
    Row,
    Setting,
    find_missing_packages,
    join_examples,
    list_attention_kernels,
    load_base,
    make_examples,
    make_method,
    make_model,
    make_pair,
    measure_training,
    move_model,
    record_kernels,
    run_in_child,
    time_work,
    train,
)

BOUNDS = {"float32": 1e-4, "bfloat16": 1e-2}
"""By type, the largest relative difference from float32 on a CPU of a loss, and of a gradient's norm."""

VECTOR_BOUND = 1e-3
"""The same of the gradient itself, in float32: the norm of the difference over the norm of the true one."""

SYNC_WARNING = "called a synchronizing CUDA operation"
"""What torch's debug mode says of each wait; switching it on is a warning, too, which is none."""


# --- the machine --------------------------------------------------------------------------------------------


def describe_machine(setting: Setting, record: Record) -> None:
    """Versions and missing packages, the card, what its matrix product reaches, how fast it gets data."""
    from importlib import metadata

    import torch

    from gitpeft.learn.training import flops

    versions = {name: metadata.version(name) for name in ("torch", "transformers", "peft")}
    record({"python": sys.version.split()[0], **versions, "missing": find_missing_packages()})
    if setting.on_gpu:
        about = torch.cuda.get_device_properties(0)
        record({
            "card": about.name, "memory": about.total_memory, "free": torch.cuda.mem_get_info()[0],
            "capability": f"{about.major}.{about.minor}", "bf16": torch.cuda.is_bf16_supported(),
            "cuda": torch.version.cuda,
        })  # fmt: skip
    device = torch.device(setting.device)
    record({"matrix_rate": flops.measure_matrix_rate(device, 256 if setting.toy else None)})
    block = torch.empty((1 if setting.toy else 256) << 20, dtype=torch.uint8)
    block = block.pin_memory() if setting.on_gpu else block
    block.to(device, copy=True)
    seconds = time_work(lambda: block.to(device, copy=True), device)
    record({"copy_bytes_per_second": block.numel() / seconds})


# --- the same numbers ---------------------------------------------------------------------------------------


def compare_with_cpu(setting: Setting, record: Record) -> None:
    """Loss and gradient of one batch on the device against float32 on the CPU, by method and task.

    The batches are code: for random ids, rounding alone takes the gradient of `mini` out of float32's bound.
    """
    for name, text in setting.methods.items():
        record(_try_row(f"messages, {name}", partial(_compare_messages, "mini", text, setting)))
    record(
        _try_row(
            "messages of smol, lora", partial(_compare_messages, "smol", setting.methods["lora"], setting)
        )
    )
    for name in ("lora", "full"):
        record(_try_row(f"risk, {name}", partial(_compare_risk, setting.methods[name], setting)))


def _try_row(name: str, work: Callable[[], Row]) -> Row:
    """A row; one that fails, such as for a package or a base that is not there, leaves the next ones be."""
    try:
        return {"name": name} | work()
    except Exception as error:
        return {"name": name, "failed": f"{type(error).__name__}: {error}".splitlines()[0]}


def _compare_messages(name: str, text: str, setting: Setting) -> Row:
    base = load_base(name, setting)
    size = (4 if setting.toy else 16, 14) if name == "mini" else (4, 40)
    return _compare(partial(make_model, base, text), read_code(base, *size), setting)


def _compare_risk(text: str, setting: Setting) -> Row:
    base = load_base("mini", setting)
    batch = _make_risk_examples(read_code(base, 4 if setting.toy else 16, 14))
    return _compare(partial(_make_risk_model, base, text), batch, setting)


def read_code(base: Any, count: int, lines: int) -> Any:
    """Examples that add lines of this checkout's files, with what their docstrings say as messages."""
    from gitpeft.learn.data.dataset import Example
    from gitpeft.learn.training.finetune import render_examples

    top, found = Path(__file__).parents[2], list[Example]()
    for path in sorted((top / "gitpeft").rglob("*.py")):
        code = path.read_text(encoding="utf-8").splitlines()
        if len(code) > 100 and len(found) < count:
            name = path.relative_to(top).as_posix()
            added = "\n".join(f"+{line}" for line in code[40 : 40 + lines] if line)
            change = f" {name} +{lines} -0\n#{name}\n@\n{added}"
            found.append(Example(change, code[0].strip('"')[:60], "", (), f"{len(found):040x}"))
    return render_examples(found, base)


def _make_risk_model(base: Any, text: str, device: str) -> Any:
    import torch

    from gitpeft.learn.models import methods
    from gitpeft.learn.risk.encoder import FeatureScaling, create_risk_encoder

    torch.manual_seed(0)
    model = create_risk_encoder(base, FeatureScaling(("a", "b"), (0.0, 0.0), (1.0, 1.0)))
    torch.nn.init.normal_(model.logit.weight, std=0.1)
    return move_model(methods.attach_method(model, make_method(text, base)).eval(), device)


def _make_risk_examples(pairs: Any) -> Any:
    from gitpeft.learn.data.batches import EncodedCommits

    sources = [pairs.get_pair(i, 1 << 20)[0] for i in range(len(pairs))]
    features = [[i / 7, -i / 3] for i in range(len(pairs))]
    return EncodedCommits.from_sources(sources, features, [i % 2 for i in range(len(pairs))])


def _compare(make: Callable[[str], Any], batch: Any, setting: Setting) -> Row:
    import torch

    truth = _measure_gradient(make("cpu"), batch, torch.float32)
    found = {
        kind: measure_difference(_measure_gradient(make(setting.device), batch, getattr(torch, kind)), truth)
        for kind in BOUNDS
    }
    usual = measure_difference(_measure_gradient(make("cpu"), batch, torch.bfloat16), truth)
    row: Row = {"loss": truth[0], "gradient": float(truth[1].norm()), **found, "usual": usual}
    missed = judge_differences(found["float32"], found["bfloat16"], usual)
    return row | ({"missed": missed} if missed else {})


def judge_differences(exact: dict[str, float], narrow: dict[str, float], usual: dict[str, float]) -> str:
    """Which bounds the differences in float32 and in bfloat16 do not keep.

    `usual` are those in bfloat16 on a CPU. Where its own gradient is not within the bound, that type does not
    give it: a device may then be twice as far off.
    """
    exact_bound, narrow_bound = BOUNDS.values()
    bounds = [
        ("float32, loss", exact["loss"], exact_bound),
        ("float32, norm", exact["norm"], exact_bound),
        ("float32, gradient", exact["vector"], VECTOR_BOUND),
        ("bfloat16, loss", narrow["loss"], narrow_bound),
        ("bfloat16, gradient", narrow["vector"], max(narrow_bound, 2 * usual["vector"])),
    ]
    return "; ".join(
        f"{name} {apart:.1e}, not {bound:.1e}" for name, apart, bound in bounds if not apart <= bound
    )


def measure_difference(found: tuple[float, Any], truth: tuple[float, Any]) -> dict[str, float]:
    """Relative differences of two losses, of the norms of two gradients, and of the gradients themselves.

    The last is the norm of their difference over the norm of the true one.
    """
    norm = max(float(truth[1].norm()), 1e-9)
    return {
        "loss": abs(found[0] - truth[0]) / max(abs(truth[0]), 1e-9),
        "norm": abs(float(found[1].norm()) - norm) / norm,
        "vector": float((found[1] - truth[1]).norm()) / norm,
    }


def _measure_gradient(model: Any, batch: Any, kind: Any) -> tuple[float, Any]:
    """The loss, and the gradient of all trained weights as one vector on the CPU."""
    import torch

    from gitpeft.learn.training.devices import load_arrays

    device = next(model.parameters()).device
    inputs = load_arrays(batch.collate_batch(range(len(batch)), 512, 16, 0), device)
    with torch.autocast(device.type, dtype=torch.bfloat16, enabled=kind == torch.bfloat16):
        loss = model(**inputs).loss
    loss.backward()
    grads = [p.grad.flatten() for p in model.parameters() if p.grad is not None]
    return float(loss.detach()), torch.cat(grads).double().cpu()


# --- what the host waits for --------------------------------------------------------------------------------


def watch_steps(setting: Setting, record: Record) -> None:
    """Waits of the host, kernels and the busy share of the device over some steps of LoRA."""
    base = load_base("mini", setting)
    data = make_examples(base, 64 if setting.toy else 480, 40 if setting.toy else 170, 12)
    model = make_model(base, setting.methods["lora"], setting.device)
    steps = 4 if setting.toy else 40
    train(model, data, steps, setting)
    waits, reads = count_waits(lambda: train(model, data, steps, setting), setting)
    cost, kernels = record_kernels(lambda: train(model, data, steps, setting), setting)
    record({
        "steps": steps, "waits": waits, "reads": reads,
        "launches_per_step": sum(row.count for row in kernels) / steps,
        "busy_share": sum(getattr(row, "self_device_time_total", 0) for row in kernels) / 1e6 / cost.seconds,
        "attention": list_attention_kernels(kernels),
    })  # fmt: skip


def count_waits(work: Callable[[], object], setting: Setting) -> tuple[int, int]:
    """How often the host waits for the device, but for losses that are read, and how often for those."""
    import torch

    from gitpeft.learn.training.loop import _TrainingLoop

    read = _TrainingLoop._read_losses
    wanted: list[int] = []

    def read_counted(loop: Any) -> None:
        before = count_seen()
        read(loop)
        wanted.append(count_seen() - before)

    def count_seen() -> int:
        return sum(SYNC_WARNING in str(one.message) for one in seen)

    with (
        warnings.catch_warnings(record=True) as seen,
        mock.patch.object(_TrainingLoop, "_read_losses", read_counted),
    ):
        warnings.simplefilter("always")
        if setting.on_gpu:
            torch.cuda.set_sync_debug_mode("warn")
        try:
            work()
        finally:
            if setting.on_gpu:
                torch.cuda.set_sync_debug_mode("default")
    return count_seen() - sum(wanted), sum(wanted)


# --- batches of many shapes ---------------------------------------------------------------------------------


def compare_shapes(setting: Setting, record: Record) -> None:
    """LoRA on batches of as many shapes, each for the first time and once more; cuDNN's attention off and on.

    Trainings have it off. What the first time takes longer is what fewer shapes could save.
    """
    for name, cudnn in (("off", False), ("on", True)):
        found = run_in_child(partial(_time_shapes, cudnn, setting), setting)
        record({"name": f"cuDNN attention {name}"} | found)


def _time_shapes(cudnn: bool, setting: Setting) -> Row:
    import torch

    from gitpeft.learn.training.loop import iterate_batch_losses
    from gitpeft.learn.training.settings import TrainingSettings

    base, dice = load_base("mini", setting), random.Random(0)
    model = make_model(base, setting.methods["lora"], setting.device)
    # making the model has switched it off
    torch.backends.cuda.enable_cudnn_sdp(cudnn)
    settings = TrainingSettings(batch_tokens=1 << 20)
    losses = []
    for source, target in list_shapes(setting):
        examples = join_examples(base, [make_pair(dice, source, target) for _ in range(8)])
        losses += list(iterate_batch_losses(model, examples, settings, 1))
    backward = [partial(_pass_backward, one, model) for one in losses]
    device = next(model.parameters()).device
    usual = backward.pop()  # loads what every shape needs
    usual()
    first, again = (sum(time_work(one, device) for one in backward) for _ in range(2))
    _, kernels = record_kernels(usual, setting)
    return {
        "shapes": len(backward), "first_seconds": first, "again_seconds": again,
        "attention": list_attention_kernels(kernels),
    }  # fmt: skip


def _pass_backward(loss: Callable[[Any], Any], model: Any) -> None:
    loss(model).backward()


def list_shapes(setting: Setting) -> list[tuple[int, int]]:
    """Lengths of sources and targets, after padding all different."""
    widths, heights = (range(1, 5), (4, 8)) if setting.toy else (range(1, 31), (4, 12))
    usual = (16 * len(widths) + 16, max(heights) + 4)
    return [*((16 * wide, high) for high in heights for wide in widths), usual]


# --- speed --------------------------------------------------------------------------------------------------


def measure_speed(setting: Setting, record: Record) -> None:
    """LoRA's tokens a second and memory by base and batch size."""
    sizes = {"mini": (24, 96, 384), "smol": (8, 32, 64), "codet5-base": (8, 16, 32)}
    lengths = {"mini": (170, 14), "smol": (490, 14), "codet5-base": (512, 64)}
    for base, batches in sizes.items():
        for batch in (2, 4, 8) if setting.toy else batches:
            length = (40, 12) if setting.toy else lengths[base]
            work = partial(measure_training, base, setting.methods["lora"], batch, length, setting)
            named: Row = {"name": f"{base}, {batch}", "base": base, "batch": batch}
            record(named | run_in_child(work, setting))
