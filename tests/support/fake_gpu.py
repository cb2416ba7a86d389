"""Trainings on a simulated GPU, in a process of their own: `python -m tests.support.fake_gpu GUARD.so`.

Tensors have a device, a type and a shape but no data (torch's FakeTensorMode), so that whatever mixes devices
or types fails as it would on a GPU, and each look of the host at a value is counted: there it would wait.
"""

import ctypes
import json
import random
import sys
import sysconfig
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from types import SimpleNamespace
from typing import Any

WAITS = ("_local_scalar_dense", "nonzero.default", "masked_select")
"""Operators for whose result the host waits."""


def build_guard(folder: Path) -> list[str]:
    """The command that compiles fake_gpu.cpp against the installed torch into `folder`/guard.so."""
    import torch

    top = Path(torch.__file__).parent
    source = Path(__file__).with_suffix(".cpp")
    libraries = [f"-L{top / 'lib'}", f"-Wl,-rpath,{top / 'lib'}", "-lc10", "-ltorch_cpu"]
    flags = ["-shared", "-fPIC", "-O0", "-std=c++20", f"-I{top / 'include'}"]
    return [
        "c++",
        *flags,
        str(source),
        "-o",
        str(folder / f"guard{sysconfig.get_config_var('SHLIB_SUFFIX')}"),
        *libraries,
    ]


def main(guard: str, *only: str) -> None:
    """Run every case, or those named; prints what each did as JSON.

    The guard comes before torch asks what there is.
    """
    ctypes.CDLL(guard, mode=ctypes.RTLD_GLOBAL)
    pretend()
    found = {}
    for name, case in cases().items():
        if only and name not in only:
            continue
        try:
            found[name] = case()
        except Exception as error:  # one case says nothing about the next
            found[name] = {"error": f"{type(error).__name__}: {error}".splitlines()[0]}
    print(json.dumps(found))


def pretend() -> None:
    """Let torch say that it has a GPU; there is no memory to count or to pin."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensor
    from transformers import masking_utils

    torch.autograd.set_multithreading_enabled(False)
    vars(torch.cuda.amp.common)["amp_definitely_not_available"] = lambda: False
    torch.cuda.is_bf16_supported = lambda *a, **k: True
    torch.cuda.is_available = lambda: (  # torch itself must know better
        str(sys._getframe(1).f_globals["__name__"]).startswith("gitpeft.")
    )
    for name in ("reset_peak_memory_stats", "max_memory_allocated", "max_memory_reserved", "synchronize",
                 "empty_cache", "manual_seed_all"):  # fmt: skip
        setattr(torch.cuda, name, lambda *a, **k: 0)
    torch.cuda.mem_get_info = lambda *a, **k: (1 << 34, 1 << 34)
    torch.Tensor.pin_memory = lambda self, *a, **k: self  # type: ignore[method-assign]
    FakeTensor.__deepcopy__ = copy_tensor  # type: ignore[method-assign]
    vars(masking_utils)["is_tracing"] = lambda *_: False  # as with tensors that have data
    torch.nn.Module.to = move_module  # type: ignore[method-assign,assignment]


def copy_tensor(self: Any, memo: dict[int, Any]) -> Any:
    """A copy of a tensor without data: torch's own would read the data."""
    import torch

    new = self.detach().clone()
    return memo.setdefault(
        id(self), torch.nn.Parameter(new, self.requires_grad) if isinstance(self, torch.nn.Parameter) else new
    )


def move_module(self: Any, device: Any = None, dtype: Any = None) -> Any:
    """The module with new tensors on the device, ties kept: one without data cannot change its device."""
    import torch

    moved: dict[int, Any] = {}
    for module in self.modules():
        for store in (module._parameters, module._buffers):
            for name, old in store.items():
                if old is not None and id(old) not in moved:
                    new = old.detach().to(device, dtype)
                    trained = isinstance(old, torch.nn.Parameter)
                    moved[id(old)] = torch.nn.Parameter(new, old.requires_grad) if trained else new
                store[name] = moved.get(id(old))
    return self


@contextmanager
def without_data(waits: Counter[str]) -> Iterator[None]:
    """Tensors without data; what the host looks at is 1 or False, and counted."""
    import torch
    from torch._subclasses.fake_tensor import FakeTensorMode
    from torch.fx.experimental.symbolic_shapes import ShapeEnv
    from torch.utils._python_dispatch import TorchDispatchMode

    class Watch(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if any(name in str(func) for name in WAITS):
                if args[0].device.type == "cuda":
                    waits[str(func)] += 1
                if "scalar" in str(func):
                    return False if args[0].dtype == torch.bool else 1
            return func(*args, **(kwargs or {}))

    shapes = ShapeEnv(allow_scalar_outputs=True, allow_dynamic_output_shape_ops=True)
    with FakeTensorMode(allow_non_fake_inputs=True, shape_env=shapes), Watch():  # type: ignore[no-untyped-call]
        yield


def cases() -> dict[str, Callable[[], dict[str, object]]]:
    """By name: messages with each architecture and method, the risk task, and the adapter of a base."""
    from functools import partial

    from tests.support import tinymodel

    small = {"lora": "lora:rank=4", "adapter": "adapter:width=8", "full": "full"}
    makers: dict[str, Callable[[], Any]] = {
        "pointer": tinymodel.pointer_t5, "t5": tinymodel.plain_t5, "bart": tinymodel.bart,
        "causal": tinymodel.causal,
    }  # fmt: skip
    found: dict[str, Callable[[], dict[str, object]]] = {}
    for kind, make in makers.items():
        side = "decoder.0" if kind == "causal" else "encoder.0"
        each = small | {"hybrid": f"hybrid:rank=4,full={side}"}
        for name, method in each.items() if kind in ("pointer", "causal") else [("full", "full")]:
            found[f"{kind} {name}"] = partial(train_messages, make, method, kind == "causal")
    for name, method in (small | {"hybrid": "hybrid:rank=4,full=encoder.0"}).items():
        found[f"risk {name}"] = partial(train_risk, method)
    return found | {"muon": partial(train_messages, tinymodel.pointer_t5, "full", False, 1e-2),
                    "base adapter": train_base_adapter}  # fmt: skip


def write_pairs(count: int = 60) -> list[tuple[list[int], list[int]]]:
    dice = random.Random(0)
    return [
        ([dice.randrange(12, 400) for _ in range(dice.randint(10, 60))],
         [dice.randrange(12, 400) for _ in range(dice.randint(4, 12))])
        for _ in range(count)
    ]  # fmt: skip


def train_messages(
    make: Callable[[], Any], text: str, causal: bool, matrix_lr: float = 0.0
) -> dict[str, object]:
    from gitpeft.learn.data.batches import PromptedExamples, RenderedExamples

    data = (
        PromptedExamples.from_pairs(write_pairs(), 3)
        if causal
        else RenderedExamples.from_pairs(write_pairs())
    )

    def build() -> Any:
        model = make()
        model.set_attn_implementation("sdpa")
        return model

    return train(build, text, data, matrix_lr)


def train_risk(text: str) -> dict[str, object]:
    from gitpeft.learn.data.batches import EncodedCommits
    from gitpeft.learn.risk.encoder import FeatureScaling, RiskEncoderModel
    from tests.support import tinymodel

    def build() -> Any:
        whole = tinymodel.pointer_t5()
        whole.set_attn_implementation("sdpa")
        scaling = FeatureScaling(("a", "b"), (0.0, 0.0), (1.0, 1.0))
        return RiskEncoderModel(whole.get_encoder(), whole.config, "mean", scaling)

    sources = [source for source, _ in write_pairs()]
    data = EncodedCommits.from_sources(
        sources, [[0.0, 1.0]] * len(sources), [n % 2 for n in range(len(sources))]
    )
    return train(build, text, data)


class ImmediateThread:
    """Does its work when it is started."""

    def __init__(self, *, target: Callable[..., None], args: tuple[Any, ...], name: str) -> None:
        self.start = lambda: target(*args)

    def join(self) -> None:
        """There is nothing to wait for."""


def train(build: Callable[[], Any], text: str, data: Any, matrix_lr: float = 0.0) -> dict[str, object]:
    """Six steps as a run takes them: the base is moved, then its method is attached; two validations and as
    many checkpoints, which are not written, since there is no data."""
    import tempfile

    import torch

    from gitpeft.learn.models import methods
    from gitpeft.learn.training import checkpoint_writer, devices, loop
    from gitpeft.learn.training.settings import TrainingSettings

    waits: Counter[str] = Counter()
    at_reads: list[int] = []
    at_checks: list[int] = []
    saved: list[str] = []
    read, measure = loop._TrainingLoop._read_losses, loop.measure_loss_until

    def count_waits(work: Callable[..., Any], counts: list[int]) -> Callable[..., Any]:
        def counted(*given: Any) -> Any:
            before = waits.total()
            found = work(*given)
            counts.append(waits.total() - before)
            return found

        return counted

    def save(tensors: dict[str, Any], part: Path, _metadata: object) -> None:
        saved.append(" ".join(sorted({one.device.type for one in tensors.values()})))
        part.touch()

    torch.manual_seed(0)
    setattr(loop._TrainingLoop, "_read_losses", count_waits(read, at_reads))  # noqa: B010
    vars(loop).update(_STEPS_BETWEEN_READS=2, measure_loss_until=count_waits(measure, at_checks))
    # Tensors without data belong to one thread: a second one meets torch in the middle of an operator.
    vars(checkpoint_writer).update(save_file=save, threading=SimpleNamespace(Thread=ImmediateThread))
    try:
        with without_data(waits), tempfile.TemporaryDirectory() as folder:
            notes: list[str] = []
            model = devices.move_model(build(), devices.pick_device(), notes)
            model = methods.attach_method(model, methods.make_method(*methods.parse_method(text)))
            model = devices.move_model(model, devices.pick_device(), notes)
            left = [
                n for n, p in (*model.named_parameters(), *model.named_buffers()) if p.device.type != "cuda"
            ]
            waits.clear()
            settings = TrainingSettings(steps=6, batch_tokens=600, matrix_lr=matrix_lr)
            torch.backends.cuda.enable_cudnn_sdp(True)  # as for a caller that moves the model itself
            cost = loop.train_model(
                model, data, settings, valid=data, evaluate_every=0.4, checkpoint=Path(folder)
            )
    finally:
        setattr(loop._TrainingLoop, "_read_losses", read)  # noqa: B010
        vars(loop).update(measure_loss_until=measure)
    return {
        "device": cost.device, "steps": cost.steps, "left": left, "notes": notes, "saved": saved,
        "waits": waits.total() - sum(at_reads) - sum(at_checks), "reads": sum(at_reads),
        "valid": [step for step, _ in cost.valid_curve], "cudnn": is_cudnn_on(),
    }  # fmt: skip


def is_cudnn_on() -> bool:
    """Whether attention may be that of cuDNN."""
    import torch

    return bool(torch.backends.cuda.cudnn_sdp_enabled())  # type: ignore[no-untyped-call]


def train_base_adapter() -> dict[str, object]:
    """Two steps of `gitpeft base build` for an adapter, each in parts, on pairs that are on the device."""
    import tempfile

    import torch

    from gitpeft.learn.data.batches import PromptedExamples
    from gitpeft.learn.models import methods
    from gitpeft.learn.pretraining.adapter_gpu import fit_to_gpu
    from gitpeft.learn.pretraining.adapter_run import AdapterRun, AdapterSettings
    from gitpeft.learn.training import devices
    from gitpeft.learn.training.resident import ResidentExamples, ResidentSelection
    from tests.support import tinymodel

    waits: Counter[str] = Counter()
    with tempfile.TemporaryDirectory() as folder, without_data(waits):
        base = tinymodel.causal()
        base.set_attn_implementation("sdpa")
        model = methods.attach_method(base, methods.make_method("lora", {"rank": 4}))
        model = devices.move_model(model, devices.pick_device(), [])
        torch.backends.cuda.enable_cudnn_sdp(True)
        run = AdapterRun(model, Path(folder), AdapterSettings(part_tokens=300))
        pairs = ResidentExamples(PromptedExamples.from_pairs(write_pairs(16), 3), run.device)
        with fit_to_gpu(run, 1000, 1 << 34, ""):
            waits.clear()
            for first in (0, 8):
                run.take_step(ResidentSelection(pairs, range(first, first + 8)))
    return {
        "device": str(run.device),
        "steps": run.at.steps,
        "waits": waits.total(),
        "cudnn": is_cudnn_on(),
    }


if __name__ == "__main__":
    main(*sys.argv[1:])
