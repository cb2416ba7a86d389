"""Writes checkpoints while the next steps are computed.

A GPU waits only for one copy of the tensors to the host; a thread writes them. On a CPU, where the thread
would take the memory and the processor from the steps, they are written at once.
"""

import threading
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

import torch
from safetensors.torch import save_file
from torch import Tensor

from gitpeft.learn.training import memory

CHUNK_BYTES = 256 << 20
"""What is put together on a GPU at once to be copied. There is room for it: the gradients and activations of
the step before are gone (see `memory_plan`)."""


@dataclass(frozen=True, slots=True)
class TensorFile:
    """A safetensors file that is to be written: where, what is in it, and its metadata."""

    path: Path
    tensors: Mapping[str, Tensor]
    metadata: Mapping[str, str]

    def write(self) -> None:
        """Replace the file in one rename; its folder is made. OSError where there is no room."""
        self.path.parent.mkdir(parents=True, exist_ok=True)
        part = self.path.with_suffix(".part")
        whole = {name: tensor.detach().cpu().contiguous() for name, tensor in self.tensors.items()}
        try:
            save_file(whole, part, dict(self.metadata))
            part.replace(self.path)
        finally:
            part.unlink(missing_ok=True)


class CheckpointWriter:
    """Writes the files of one checkpoint after another, with `behind` in a thread.

    What went wrong in the thread is raised by the next `write` or `finish`. As a context it finishes in the
    end; an exception of the training itself is not replaced.
    """

    def __init__(self, *, behind: bool) -> None:
        self.behind = behind
        self._thread: threading.Thread | None = None
        self._error: BaseException | None = None

    def write(self, files: Sequence[TensorFile]) -> None:
        """Write the files, in order, as they are now; waits for those before."""
        self.finish()
        if not self.behind:
            for file in files:
                file.write()
            return
        copies = [TensorFile(one.path, copy_to_host(one.tensors), one.metadata) for one in files]
        self._thread = threading.Thread(target=self._write_files, args=(copies,), name="checkpoint")
        self._thread.start()

    def finish(self) -> None:
        """Wait for the last checkpoint; raises what kept it from being written."""
        self._join_thread()
        error, self._error = self._error, None
        if error is not None:
            raise error

    def _join_thread(self) -> None:
        if self._thread is not None:
            self._thread.join()
            self._thread = None

    def _write_files(self, files: Sequence[TensorFile]) -> None:
        try:
            for file in files:
                file.write()
        except BaseException as error:
            self._error = error

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if error is None:
            self.finish()
        else:
            self._join_thread()


@torch.no_grad()
def copy_to_host(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Copies on the CPU, in few transfers however many tensors there are: `CHUNK_BYTES` in each.

    A tensor that is larger is copied by itself, which takes no memory of the GPU; so are all of them where it
    has none left.
    """
    groups: dict[tuple[torch.device, torch.dtype], list[str]] = {}
    for name, tensor in tensors.items():
        groups.setdefault((tensor.device, tensor.dtype), []).append(name)
    found: dict[str, Tensor] = {}
    for names in groups.values():
        for chunk in _divide_into_chunks({name: tensors[name].detach() for name in names}):
            found |= _copy_chunk(chunk)
    return {name: found[name] for name in tensors}


def _divide_into_chunks(tensors: Mapping[str, Tensor]) -> Iterator[dict[str, Tensor]]:
    chunk, size = dict[str, Tensor](), 0
    for name, tensor in tensors.items():
        if chunk and size + tensor.nbytes > CHUNK_BYTES:
            yield chunk
            chunk, size = {}, 0
        chunk[name] = tensor
        size += tensor.nbytes
    yield chunk


def _copy_chunk(tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    if len(tensors) > 1:
        try:
            flat = torch.cat([tensor.reshape(-1) for tensor in tensors.values()]).cpu()
        except RuntimeError as error:
            if not memory.is_out_of_memory(error):
                raise
        else:
            parts = torch.split(flat, [tensor.numel() for tensor in tensors.values()])
            return {n: part.view(tensors[n].shape) for n, part in zip(tensors, parts, strict=True)}
    return {name: tensor.to("cpu", copy=True) for name, tensor in tensors.items()}
