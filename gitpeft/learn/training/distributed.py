"""Several processes that train one model: torch's own launcher and its distributed package.

`torchrun --nproc-per-node N -m gitpeft …` starts them, on one machine or more that share their folders. The
batch of a step is divided among them, and what their gradients add up to is the gradient of the whole batch,
so that a training is that of one process up to rounding, and may be resumed by any number of them. Process 0
alone writes, and decides whatever depends on a clock.
"""

import os
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta

import torch
from torch import Tensor, distributed

from gitpeft.config import DEVICE_VARIABLE
from gitpeft.errors import GitpeftError
from gitpeft.learn.training import devices

_CPU_BACKEND = "gloo"
_PATIENCE = timedelta(hours=12)
"""How long processes wait for each other: the first one mines and validates alone."""


@dataclass(frozen=True, slots=True)
class World:
    """The number of this process, and how many there are."""

    rank: int = 0
    size: int = 1

    @property
    def writes(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0


def find_world() -> World:
    """The processes that this one trains with; it alone outside of `join_world`."""
    if distributed.is_available() and distributed.is_initialized():
        return World(distributed.get_rank(), distributed.get_world_size())
    return World()


@contextmanager
def join_world() -> Iterator[World]:
    """Train together with the processes that torch's launcher started, if it did.

    GitpeftError where only some of them can use a GPU: they would wait for each other for ever.
    """
    if int(os.environ.get("WORLD_SIZE", "1")) < 2:
        yield World()
        return
    backend = _choose_backend()
    distributed.init_process_group(backend, timeout=_PATIENCE)
    try:
        _check_same_device(backend)
        yield find_world()
    finally:
        distributed.destroy_process_group()


def _choose_backend() -> str:
    """Of torch's distributed package; where trainings use a GPU, each process of a machine has its own."""
    if os.environ.get(DEVICE_VARIABLE) == "cpu" or not torch.cuda.is_available():
        return _CPU_BACKEND
    with devices.explain_lost_gpu(resumes=False):
        torch.cuda.set_device(int(os.environ.get("LOCAL_RANK", "0")))  # the one that is asked below
        return "cpu:gloo,cuda:nccl" if devices.pick_device().type == "cuda" else _CPU_BACKEND


def _check_same_device(backend: str) -> None:
    with_gpu = torch.tensor(int(backend != _CPU_BACKEND))
    distributed.all_reduce(with_gpu)
    if int(with_gpu) not in (0, find_world().size):
        raise GitpeftError(
            f"only {int(with_gpu)} of {find_world().size} processes can use a GPU",
            "start as many as there are free GPUs, or give --device cpu to all of them",
        )


@contextmanager
def let_writer_go_first() -> Iterator[None]:
    """The other processes do this once the first has done it, and find its results."""
    world = find_world()
    if world.size > 1 and not world.writes:
        distributed.barrier()
    yield
    if world.size > 1 and world.writes:
        distributed.barrier()


def decide(value: float) -> float:
    """The value that the first process has."""
    if find_world().size < 2:
        return value
    found = torch.tensor(value, dtype=torch.double)
    distributed.broadcast(found, 0)
    return float(found)


@torch.no_grad()
def share_weights(weights: Sequence[Tensor]) -> None:
    """Give all processes the weights of the first: those that a method adds are random."""
    if find_world().size > 1:
        for weight in weights:
            distributed.broadcast(weight, 0)


@torch.no_grad()
def combine_gradients(weights: Sequence[Tensor], loss: Tensor, labels: Tensor) -> Tensor:
    """Replace gradients by those of the whole batch; returns its loss, like each a mean over the labels.

    `loss` and `labels` are this process's part: a mean, and over how many; 0 where the batch had none for it.
    """
    if find_world().size < 2:
        return loss
    total = labels.clone().float()
    distributed.all_reduce(total)
    share = labels / total
    for weight in weights:
        if weight.grad is None:
            weight.grad = torch.zeros_like(weight)
    flat = torch.cat([(weight.grad * share).flatten() for weight in weights if weight.grad is not None])
    distributed.all_reduce(flat)
    at = 0
    for weight in weights:
        weight.grad = flat[at : at + weight.numel()].view_as(weight)
        at += weight.numel()
    whole = loss * share
    distributed.all_reduce(whole)
    return whole
