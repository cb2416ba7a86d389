"""What the steps of gpu.py share: where they run, what they train, and how a row of a table is measured.

A step is a function of a `Setting` and of `record`, which it calls with each row as soon as it has it: a
step that is stopped keeps the rows before. A row with `missed` says which bound was not kept, one with
`failed` why there is nothing.
"""

import importlib
import json
import os
import random
import shutil
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass, replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any

METHODS = {"lora": "lora", "adapter": "adapter", "full": "full", "hybrid": "hybrid:full=encoder.1"}
TOY_METHODS = {
    "lora": "lora:rank=4", "adapter": "adapter:width=8", "full": "full",
    "hybrid": "hybrid:rank=4,full=encoder.1",
}  # fmt: skip

PRELOADED = (
    "peft", "gitpeft.learn.models.bases", "gitpeft.learn.models.methods", "gitpeft.learn.models.pointer_t5",
    "gitpeft.learn.training.finetune", "gitpeft.learn.training.loop", "gitpeft.learn.pretraining.build",
    "gitpeft.learn.risk.encoder", "gitpeft.learn.export.parity", "gitpeft.learn.pipeline",
    "tests.bench.bench_study",
)  # fmt: skip
"""Modules that are imported once for all steps."""

NEEDED = {
    "every step": ("torch", "transformers", "peft", "numpy", "safetensors", "tokenizers", "huggingface_hub"),
    "parity of the risk task": ("pygments", "pyroaring"),
    "init": ("onnx", "onnxruntime", "rapidfuzz", "rouge_score", "detect_secrets", "git", "yaml"),
}
"""By step, the packages that it imports besides; `init` also those of the risk task, and it runs git."""

HALF_BILLION: dict[str, Any] = {
    "vocab_size": 151_936, "hidden_size": 896, "intermediate_size": 4864, "num_hidden_layers": 24,
    "num_attention_heads": 14, "num_key_value_heads": 2, "tie_word_embeddings": True, "pad_token_id": 0,
    "eos_token_id": 1,
}  # fmt: skip
"""The shape of Qwen2.5-0.5B."""

Row = dict[str, object]
Record = Callable[[Row], None]


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

    @property
    def on_gpu(self) -> bool:
        return self.device == "cuda"


def import_libraries() -> None:
    """Once, for all the children; nothing here starts a GPU, which no child could share.

    What cannot be imported is left to the steps that need it: they fail with its name, and the others go on.
    """
    os.environ["PYTORCH_NVML_BASED_CUDA_CHECK"] = (
        "1"  # torch asks the driver's library whether there is a GPU
    )
    for name in PRELOADED:
        try:
            importlib.import_module(name)
        except Exception:
            continue


def find_missing_packages() -> list[str]:
    """The packages of `NEEDED` that are not installed, and the program git where that is not."""
    found = [name for names in NEEDED.values() for name in names if not _is_installed(name)]
    return found if shutil.which("git") else [*found, "the program git"]


def _is_installed(name: str) -> bool:
    try:
        return find_spec(name) is not None
    except (ImportError, ValueError):
        return False


# --- what is trained ----------------------------------------------------------------------------------------


def load_base(name: str, setting: Setting) -> Any:
    """A base: `mini`, `smol`, or with random weights `codet5-base` and `half-billion`.

    In a rehearsal all are random and tiny.
    """
    from gitpeft.learn.models import bases
    from tests.bench import bench_study

    if not setting.toy and name in ("mini", "smol"):
        return bases.find_base(name)
    folder = setting.folder / name
    if not (folder / "tokenizer.json").exists():  # written last
        folder.mkdir(parents=True, exist_ok=True)
        if name == "codet5-base":
            bench_study.write_base(folder, name, setting.toy)
        else:
            _write_random_base(folder, name, setting.toy)
    return bases.find_base(str(folder))


def _write_random_base(folder: Path, name: str, toy: bool) -> None:
    from transformers import AutoConfig, AutoModelForCausalLM

    from tests.support import tinymodel

    if not toy:
        made: Any = AutoModelForCausalLM.from_config(AutoConfig.for_model("qwen2", **HALF_BILLION))
    elif name == "mini":
        made = tinymodel.pointer_t5()
    else:
        made = tinymodel.causal("qwen2" if name == "half-billion" else "llama")
    made.save_pretrained(folder)
    tinymodel.write_tokenizer(folder)


def make_examples(base: Any, count: int, source: int, target: int) -> Any:
    """Random ids of about these lengths: at most, and at least two thirds and half of them."""
    dice = random.Random(0)
    return join_examples(
        base,
        (
            make_pair(dice, dice.randint(source * 2 // 3, source), dice.randint(target // 2, target))
            for _ in range(count)
        ),
    )


def make_pair(dice: random.Random, source: int, target: int) -> tuple[list[int], list[int]]:
    """Random ids of these lengths."""
    return [dice.randrange(12, 400) for _ in range(source)], [dice.randrange(12, 400) for _ in range(target)]


def join_examples(base: Any, pairs: Iterable[tuple[list[int], list[int]]]) -> Any:
    """Examples for this base."""
    from gitpeft.learn.data.batches import PromptedExamples, RenderedExamples

    if base.architecture.causal:
        return PromptedExamples.from_pairs(list(pairs), 11)
    return RenderedExamples.from_pairs(list(pairs))


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
    return move_model(model, device)


def move_model(model: Any, device: str) -> Any:
    """The model on the device, with the settings of torch that every training has there."""
    from gitpeft.learn.training import devices

    found = devices.pick_device(device)
    devices.prepare_device(found)
    return model.to(found)


# --- what is measured ---------------------------------------------------------------------------------------


def train(model: Any, data: Any, steps: int, setting: Setting, **changes: Any) -> Any:
    """The cost of so many steps."""
    from gitpeft.learn.training.loop import train_model
    from gitpeft.learn.training.settings import TrainingSettings

    batch = 300 if setting.toy else 24 * 176
    settings = TrainingSettings(steps=steps, batch_tokens=batch, lr=1e-4, source_limit=512)
    return train_model(model, data, replace(settings, **changes))


def measure_training(name: str, text: str, batch: int, length: tuple[int, int], setting: Setting) -> Row:
    """The cost of some steps at one size, start-up aside."""
    base = load_base(name, setting)
    source, target = length
    data = make_examples(base, batch * (4 if setting.toy else 16), source, target)
    per = 1 if base.architecture.causal else 4
    room = batch * (source + per * target)
    steps = 4 if setting.toy else 48
    cost = train(make_model(base, text, setting.device), data, steps, setting, batch_tokens=room)
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
    } | report_device(cost.device, setting.device)


def report_device(ran: str, wanted: str) -> Row:
    """What a row says where a training did not stay on its device."""
    return {} if ran.split(":")[0] == wanted else {"missed": f"it ran on {ran}, not on {wanted}"}


def time_work(work: Callable[[], object], device: Any) -> float:
    """Seconds until the device has done it."""
    from gitpeft.learn.training.flops import synchronise_device

    synchronise_device(device)
    began = time.perf_counter()
    work()
    synchronise_device(device)
    return time.perf_counter() - began


def record_kernels(work: Callable[[], Any], setting: Setting) -> tuple[Any, list[Any]]:
    """What `work` gives, and what torch's profiler saw: a GPU's kernels, or a CPU's operators."""
    from torch.profiler import ProfilerActivity, profile

    activities = [ProfilerActivity.CPU, *([ProfilerActivity.CUDA] if setting.on_gpu else [])]
    with profile(activities=activities) as recorded:
        given = work()
    rows = list(recorded.key_averages())
    return given, [row for row in rows if not setting.on_gpu or str(row.device_type).endswith("CUDA")]


def list_attention_kernels(kernels: Iterable[Any]) -> list[str]:
    """The names of those that compute attention, shortened."""
    words = ("flash", "fmha", "attention", "cudnn")
    return sorted({row.key[:80] for row in kernels if any(word in row.key.lower() for word in words)})


def run_in_child(work: Callable[[], Row], setting: Setting) -> Row:
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
