"""Compiles the layers of a model in place, and lets them be again.

Lengths are left open, so that one compilation serves all batches. Repeated layers are compiled one by one:
their code is the same, is compiled once, and starts in seconds instead of minutes (torch's "regional
compilation").
"""

import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import Any

import torch
from torch import nn

from gitpeft.learn.models import architectures
from gitpeft.learn.training import memory
from gitpeft.learn.training.devices import is_gpu_error


def compile_stacks(model: Any, backend: str) -> None:
    """Compile encoder and decoder; "" undoes it. The loss stays as it is: how many labels are real differs
    from batch to batch."""
    for part in _list_stacks(model):
        vars(part).pop("forward", None)
        if backend:
            part.forward = torch.compile(part.forward, backend=backend, dynamic=True)


def compile_layers(model: Any, backend: str) -> None:
    """Compile the layers of a causal model, each by itself; "" undoes it."""
    # said of what passes from layer to layer, at which torch looks while it compiles
    warnings.filterwarnings("ignore", "The .grad attribute of a Tensor that is not a leaf", UserWarning)
    for layer in _list_layers(model):
        vars(layer).pop("_compiled_call_impl", None)
        if backend:
            layer.compile(backend=backend, dynamic=True)


def is_compiled(model: Any) -> bool:
    """Whether any part of the model is compiled."""
    stacks = any("forward" in vars(part) for part in _list_stacks(model))
    return stacks or any(vars(layer).get("_compiled_call_impl") for layer in _list_layers(model))


def drop_failed_compilation(model: Any, error: BaseException) -> str:
    """Undo a compilation during which something failed, and say so; "" where that was not its fault.

    A compiler may be missing or too old on a machine: without compilation a training is slower, but right.
    """
    if not is_compiled(model) or memory.is_out_of_memory(error) or is_gpu_error(error):
        return ""
    compile_stacks(model, "")
    compile_layers(model, "")
    return f"not compiled ({memory.describe_error(error)})"


@contextmanager
def without_compilation(model: Any) -> Iterator[None]:
    """Compute as if nothing were compiled: what is done seldom is not worth a compilation of its own."""
    if not is_compiled(model):
        yield
        return
    with torch.compiler.set_stance("force_eager"):
        yield


def _list_stacks(model: Any) -> list[Any]:
    """Encoder and decoder of a message model, or its only stack; [] of a risk encoder."""
    if not hasattr(model, "get_decoder"):
        return []
    causal = architectures.is_causal(model.config.model_type)
    return [model.get_decoder()] if causal else [model.get_encoder(), model.get_decoder()]


def _list_layers(model: Any) -> Sequence[nn.Module]:
    """The layers of a causal message model, () of any other."""
    stacks = _list_stacks(model)
    return tuple(stacks[0].layers) if len(stacks) == 1 else ()
