"""Checkpoints are written while steps go on: as the tensors were, whole or not at all, errors raised."""

import threading
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file, save_file

from gitpeft.learn.training import checkpoint_writer, loop
from gitpeft.learn.training.checkpoint_writer import CheckpointWriter, TensorFile, copy_to_host


def make_tensors(value: float) -> dict[str, torch.Tensor]:
    return {
        "a": torch.full((3, 2), value), "half": torch.full((4,), value, dtype=torch.bfloat16),
        "b": torch.full((2, 5), value).T, "step": torch.tensor(value), "none": torch.zeros(0),
    }  # fmt: skip


def test_what_is_copied_to_the_host_is_the_same_in_one_piece() -> None:
    tensors = make_tensors(2.0)
    copies = copy_to_host(tensors)
    assert list(copies) == list(tensors)
    for name, tensor in tensors.items():
        assert torch.equal(copies[name], tensor) and copies[name].dtype == tensor.dtype
    assert copies["a"].untyped_storage().data_ptr() == copies["b"].untyped_storage().data_ptr()
    tensors["a"].zero_()
    assert float(copies["a"].sum()) == 12.0


def test_what_is_put_together_to_be_copied_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    """On a GPU it takes memory beside the tensors themselves; where there is none, they are copied singly."""
    tensors = {f"{n}": torch.full((n,), float(n)) for n in (3, 4, 40, 5, 2, 1)}
    sizes, whole = list[int](), torch.cat

    def cat(some: list[torch.Tensor]) -> torch.Tensor:
        sizes.append(sum(one.numel() for one in some))
        if len(sizes) > 2:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return whole(some)

    monkeypatch.setattr(checkpoint_writer, "CHUNK_BYTES", 4 * 8)
    monkeypatch.setattr(torch, "cat", cat)
    for expected in ([7, 8], [7, 8, 7, 8]):  # 40 alone is too much, and copied as it is
        copies = copy_to_host(tensors)
        assert sizes == expected and list(copies) == list(tensors)
        for name, tensor in tensors.items():
            assert torch.equal(copies[name], tensor) and copies[name].data_ptr() != tensor.data_ptr()


@pytest.mark.parametrize("behind", [False, True])
def test_files_are_as_the_tensors_were(tmp_path: Path, behind: bool) -> None:
    tensors, path = make_tensors(1.0), tmp_path / "new" / "state.safetensors"
    with CheckpointWriter(behind=behind) as writer:
        for value in (2.0, 3.0):
            for one in tensors.values():
                one.fill_(value)
            writer.write([TensorFile(path, tensors, {"at": str(value)}),
                          TensorFile(tmp_path / "other.safetensors", tensors, {})])  # fmt: skip
            for one in tensors.values():
                one.fill_(-1.0)  # the next step
    for found in (load_file(path), load_file(tmp_path / "other.safetensors")):
        assert all(bool((one == 3.0).all()) for one in found.values())
    assert [one.name for one in path.parent.iterdir()] == ["state.safetensors"]


def hold(monkeypatch: pytest.MonkeyPatch) -> threading.Event:
    """Files are written only once the event is set."""
    go = threading.Event()

    def wait(*given: Any) -> None:
        assert go.wait(30)
        save_file(*given)

    monkeypatch.setattr(checkpoint_writer, "save_file", wait)
    return go


def test_steps_go_on_while_it_writes_and_the_end_waits(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    go, path = hold(monkeypatch), tmp_path / "state.safetensors"
    with CheckpointWriter(behind=True) as writer:
        writer.write([TensorFile(path, make_tensors(1.0), {})])
        assert not path.exists(), "the next step may begin"
        go.set()
    assert path.exists(), "the end has waited"


def test_what_went_wrong_in_the_thread_is_raised(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = tmp_path / "state.safetensors"
    CheckpointWriter(behind=False).write([TensorFile(path, make_tensors(1.0), {})])
    kept = path.read_bytes()

    def fail(_tensors: object, part: Path, _metadata: object) -> None:
        part.write_bytes(b"half of it")
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(checkpoint_writer, "save_file", fail)
    files = [TensorFile(path, make_tensors(2.0), {})]
    writer = CheckpointWriter(behind=True)
    writer.write(files)
    with pytest.raises(OSError, match="No space left"):
        writer.write(files)
    with pytest.raises(OSError, match="No space left"), CheckpointWriter(behind=True) as writer:
        writer.write(files)
    with pytest.raises(ZeroDivisionError), CheckpointWriter(behind=True) as writer:
        writer.write(files)
        raise ZeroDivisionError
    assert path.read_bytes() == kept and [one.name for one in tmp_path.iterdir()] == [path.name]


def test_a_training_that_writes_behind_resumes_the_same(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As on a GPU: the checkpoint of a killed training is that of one moment, though steps went on."""
    from gitpeft.learn.data.batches import RenderedExamples
    from gitpeft.learn.training.settings import TrainingProgress, TrainingSettings
    from tests.support import tinymodel

    data = RenderedExamples.from_pairs([(a, [*b, 1]) for a, b in tinymodel.pairs(24)])
    settings = TrainingSettings(steps=8, batch_tokens=400, lr=1e-3)
    monkeypatch.setattr(loop, "CheckpointWriter", lambda behind: CheckpointWriter(behind=True))

    def train(folder: Path, stop: int = 0) -> dict[str, torch.Tensor]:
        def kill(progress: TrainingProgress) -> None:
            if progress.step == stop:
                raise KeyboardInterrupt

        torch.manual_seed(0)
        model = tinymodel.pointer_t5(dropout_rate=0.0)
        loop.train_model(
            model, data, settings, valid=data, evaluate_every=0.25, checkpoint=folder, on_step=kill
        )
        return {name: p.detach() for name, p in model.named_parameters()}

    whole = train(tmp_path / "whole")
    with pytest.raises(KeyboardInterrupt):
        train(tmp_path / "killed", stop=5)
    for name, one in train(tmp_path / "killed").items():
        torch.testing.assert_close(one, whole[name], atol=1e-6, rtol=1e-5)
