"""The device of a training: which one is used, and what happens where a model does not fit."""

import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TypeVar

import numpy as np
import torch
from numpy.typing import NDArray
from torch import distributed, nn

from gitpeft.config import DEVICE_VARIABLE
from gitpeft.errors import GitpeftError
from gitpeft.learn.training import memory

MAX_HELD_STATES = 2_200 * 6 * 256
"""Source tokens that are held at once on a CPU, times layers, times their width: the memory is the user's,
and more at once is no faster."""


Found = TypeVar("Found")
Model = TypeVar("Model", bound=nn.Module)


def pick_device(name: str | None = None, notes: list[str] | None = None) -> torch.device:
    """The named device, else that of `DEVICE_VARIABLE`; `auto` is the GPU if one can be used.

    GitpeftError where a GPU is asked for that torch does not have, or that cannot be used; with `auto` the
    latter is a sentence in `notes`.
    """
    name = name or os.environ.get(DEVICE_VARIABLE) or "auto"
    if name == "cpu" or (name == "auto" and not torch.cuda.is_available()):
        return torch.device("cpu")
    fault = find_gpu_fault()
    if fault and name == "auto":
        if notes is not None:
            notes.append(f"the GPU is not used, training is on the CPU ({fault})")
        return torch.device("cpu")
    if fault:
        raise GitpeftError(fault, "use --device cpu, or install torch with CUDA support")
    return torch.device("cuda" if name == "auto" else name)


def prepare_device(device: torch.device) -> None:
    """Settle how torch computes where a training starts, whoever moved the model there.

    On a GPU, attention of cuDNN is off: it makes a plan for every new shape of a batch, which takes longer
    than the step.
    """
    if device.type == "cuda":
        torch.backends.cuda.enable_cudnn_sdp(False)


def find_gpu_fault() -> str:
    """Why the GPU cannot be used, "" where it can: there is none, it is occupied, or it has no bf16."""
    if not torch.cuda.is_available():
        return "torch finds no GPU on this machine"
    try:
        able = torch.cuda.is_bf16_supported(including_emulation=False)
    except (RuntimeError, AssertionError) as error:  # asking starts it
        return f"it does not start: {memory.describe_error(error)}"
    return "" if able else "it has no bfloat16, which training uses"


def load_arrays(arrays: Mapping[str, NDArray[np.generic]], device: torch.device) -> dict[str, torch.Tensor]:
    """A batch on the device; the host does not wait for the copy.

    On a GPU, the mask of a causal model is made here: the library would look at its values to do that, for
    which the host waits.
    """
    return finish_inputs({name: send_array(array, device) for name, array in arrays.items()})


def send_array(array: NDArray[np.generic], device: torch.device) -> torch.Tensor:
    """An array on the device, for whose copy the host does not wait: it is pinned before."""
    tensor = torch.from_numpy(array)
    return tensor.pin_memory().to(device, non_blocking=True) if device.type == "cuda" else tensor


def finish_inputs(found: dict[str, torch.Tensor]) -> dict[str, torch.Tensor]:
    """A batch on its device; on a GPU a causal model's mask is made here."""
    if "logits_to_keep" in found and found["attention_mask"].device.type == "cuda":
        found["attention_mask"] = make_causal_mask(found["attention_mask"])
    return found


def make_causal_mask(real: torch.Tensor) -> torch.Tensor:
    """Which token sees which, (batch, 1, length, length), from the real ones (batch, length).

    A token sees itself in any case: a row of a softmax without any entry would be NaN.
    """
    length = real.shape[1]
    earlier = torch.ones(length, length, dtype=torch.bool, device=real.device).tril()
    itself = torch.eye(length, dtype=torch.bool, device=real.device)
    return ((earlier & real.bool()[:, None, :]) | itself)[:, None]


def count_batch_parts(batch_tokens: int, states: int, device: torch.device) -> int:
    """`TrainingSettings.parts` for a device: on a CPU each part holds about `MAX_HELD_STATES` at most.

    `states` are a model's layers times their width. A part holds at least one example.
    """
    return 1 if device.type != "cpu" else -(-batch_tokens * states // MAX_HELD_STATES)


def move_model(model: Model, device: torch.device, notes: list[str]) -> Model:
    """The model on the device, or on the CPU with a sentence in `notes` where the GPU has no room for it.

    As `move_to_cpu`, GitpeftError where several processes train.
    """
    prepare_device(device)
    try:
        return model.to(device)
    except RuntimeError as error:
        full = memory.is_out_of_memory(error)
        if device.type == "cpu" or not (full or is_gpu_error(error)):
            raise
        reason = memory.describe_error(error)
    return move_to_cpu(model, reason, notes, _NO_ROOM if full else "cannot be used")


def run_where_it_fits(model: nn.Module, work: Callable[[], Found], notes: list[str]) -> Found:
    """What `work` gives; done again with the model on the CPU where the GPU's memory runs out.

    It has to find out anew where the model is. As `move_to_cpu`, GitpeftError where several processes train.
    """
    try:
        return work()
    except RuntimeError as error:
        if next(model.parameters()).device.type == "cpu" or not memory.is_out_of_memory(error):
            raise
        reason = memory.describe_error(error)
    move_to_cpu(model, reason, notes)
    return work()


def is_gpu_error(error: BaseException) -> bool:
    """Whether an exception is a failure of CUDA, after which this process can use the GPU no more."""
    return isinstance(error, RuntimeError) and "cuda error" in str(error).lower()


@contextmanager
def explain_lost_gpu(*, resumes: bool = True) -> Iterator[None]:
    """A GPU that fails, or has no room for what cannot be divided, becomes a GitpeftError with what to do.

    `resumes`: whether what failed goes on from a checkpoint.
    """
    try:
        yield
    except RuntimeError as error:
        if not (is_gpu_error(error) or isinstance(error, torch.cuda.OutOfMemoryError)):
            raise
        raise GitpeftError(
            f"the GPU failed: {memory.describe_error(error)}", _GOES_ON if resumes else _BEGINS_ANEW
        ) from error


_GOES_ON = "give the same command again: it goes on from the last checkpoint, with --device cpu on the CPU"
_BEGINS_ANEW = (
    "give the same command again, with --device cpu on the CPU: what was finished is kept, only this step "
    "begins anew"
)
_NO_ROOM = "has too little free memory"


def move_to_cpu(model: Model, reason: str, notes: list[str], fault: str = _NO_ROOM) -> Model:
    """The model on the CPU, without gradients; a sentence in `notes` says why.

    GitpeftError where several processes train it: the others would wait for this one on their GPUs.
    """
    if distributed.is_available() and distributed.is_initialized() and distributed.get_world_size() > 1:
        raise GitpeftError(
            f"the GPU of one of the processes {fault}: {reason}",
            "free it, start fewer processes, or give --device cpu to all of them",
        )
    model.zero_grad(set_to_none=True)
    model.to("cpu")
    memory.release_memory()
    notes.append(f"the GPU {fault}, training goes on on the CPU ({reason})")
    return model
