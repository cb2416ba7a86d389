"""Which device a training uses."""

from types import SimpleNamespace
from typing import Any

import pytest
import torch
import typer
from typer.testing import CliRunner

from gitpeft.cli import options
from gitpeft.config import DEVICE_VARIABLE
from gitpeft.errors import GitpeftError
from gitpeft.learn.data.batches import PromptedExamples
from gitpeft.learn.training import devices, distributed, memory
from tests.support import tinymodel


def pretend_gpu(patch: pytest.MonkeyPatch, bf16: bool = True) -> None:
    patch.setattr(torch.cuda, "is_available", lambda: True)
    patch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: bf16)


def test_the_option_holds_for_its_command_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(DEVICE_VARIABLE, raising=False)
    pretend_gpu(monkeypatch)
    app, seen = typer.Typer(), list[str]()

    @app.command()
    def learn(device: options.DeviceOption = "auto") -> None:
        seen.append(devices.pick_device().type)

    for words in (["--device", "cpu"], [], ["--device", "cuda"]):
        assert CliRunner().invoke(app, words).exit_code == 0
    assert seen == ["cpu", "cuda", "cuda"]
    assert CliRunner().invoke(app, ["--device", "tpu"]).exit_code == 2


def test_a_gpu_that_is_not_there_is_a_sentence(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.cuda, "is_available", lambda: False)
    with pytest.raises(GitpeftError, match="finds no GPU"):
        devices.pick_device("cuda")


def test_a_gpu_without_bf16_or_that_is_occupied_is_left_for_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """One sentence says why; asked for by name, it is an error."""
    monkeypatch.delenv(DEVICE_VARIABLE, raising=False)

    def start(including_emulation: bool) -> bool:
        raise RuntimeError("CUDA error: all CUDA-capable devices are busy or unavailable\nCUDA kernel errors")

    pretend_gpu(monkeypatch, bf16=False)
    for said in ("it has no bfloat16", "all CUDA-capable devices are busy or unavailable)"):
        notes: list[str] = []
        assert devices.pick_device(notes=notes).type == "cpu"
        assert len(notes) == 1 and said in notes[0] and "training is on the CPU" in notes[0]
        with pytest.raises(GitpeftError) as error:
            devices.pick_device("cuda")
        assert "--device cpu" in error.value.hint
        monkeypatch.setattr(torch.cuda, "is_bf16_supported", start)
    assert devices.pick_device("cpu").type == "cpu"


def test_a_gpu_lost_in_the_middle_is_a_sentence() -> None:
    with (
        pytest.raises(GitpeftError, match="the GPU failed: RuntimeError") as error,
        devices.explain_lost_gpu(),
    ):
        raise RuntimeError("CUDA error: unspecified launch failure\nmore")
    assert "goes on from the last checkpoint" in error.value.hint
    full = torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
    with pytest.raises(GitpeftError, match=r"2\.00 GiB") as error, devices.explain_lost_gpu(resumes=False):
        raise full
    assert "checkpoint" not in error.value.hint and "begins anew" in error.value.hint
    with pytest.raises(RuntimeError, match="shapes"), devices.explain_lost_gpu():
        raise RuntimeError("shapes do not match")


def test_a_model_that_the_gpu_has_no_room_for_stays_on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    model, notes, whole = torch.nn.Linear(2, 2), list[str](), torch.nn.Linear.to
    torch.backends.cuda.enable_cudnn_sdp(True)

    def to(self: torch.nn.Linear, device: object) -> torch.nn.Linear:
        if device != "cpu":
            raise RuntimeError("CUDA error: out of memory")
        return whole(self, "cpu")

    monkeypatch.setattr(torch.nn.Linear, "to", to)
    assert devices.move_model(model, torch.device("cuda"), notes) is model
    assert len(notes) == 1 and "goes on on the CPU (RuntimeError: CUDA error: out of memory)" in notes[0]
    assert not torch.backends.cuda.cudnn_sdp_enabled()  # type: ignore[no-untyped-call]


class OnGpu(torch.nn.Linear):
    """A layer that says that it is on a GPU until it is moved; there it has no room for more than `room`."""

    def __init__(self, room: int = 0) -> None:
        super().__init__(2, 2)
        self.away, self.room = False, room

    def parameters(self, recurse: bool = True) -> Any:
        device = torch.device("cpu" if self.away else "cuda")
        return iter([SimpleNamespace(device=device, grad=None)])

    def to(self, device: Any) -> Any:  # type: ignore[override]
        self.away = device == "cpu"
        return self

    def compute(self, size: int = 1) -> str:
        if not self.away and size > self.room:
            raise torch.cuda.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return f"{size} on the {'CPU' if self.away else 'GPU'}"


def test_what_the_gpu_has_no_room_for_is_done_on_the_cpu() -> None:
    model, notes = OnGpu(), list[str]()
    assert devices.run_where_it_fits(model, model.compute, notes) == "1 on the CPU" and len(notes) == 1
    assert "too little free memory" in notes[0] and "2.00 GiB" in notes[0]
    assert devices.run_where_it_fits(model, model.compute, notes) == "1 on the CPU" and len(notes) == 1
    model = OnGpu(room=1)
    assert devices.run_where_it_fits(model, model.compute, notes) == "1 on the GPU" and len(notes) == 1

    def fail() -> None:
        raise RuntimeError("shapes do not match")

    with pytest.raises(RuntimeError, match="shapes"):
        devices.run_where_it_fits(model, fail, notes)
    assert not model.away


def test_sizes_are_halved_until_they_fit() -> None:
    model, asked = OnGpu(room=3), list[int]()

    def compute(size: int) -> str:
        asked.append(size)
        return model.compute(size)

    assert memory.halve_until_it_fits(11, compute) == "3 on the GPU" and asked == [11, 6, 3]
    model.room = 0
    with pytest.raises(torch.cuda.OutOfMemoryError):
        memory.halve_until_it_fits(3, compute)
    assert asked[3:] == [3, 2, 1]


def test_of_several_processes_none_leaves_its_gpu_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    """The others would wait for it on theirs."""
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    model = OnGpu()
    with pytest.raises(GitpeftError, match="GPU of one of the processes has too little") as error:
        devices.run_where_it_fits(model, model.compute, [])
    assert "--device cpu to all" in error.value.hint and not model.away


@pytest.mark.parametrize(
    ("wanted", "backend", "claimed"), [("cpu", "gloo", []), ("auto", "cpu:gloo,cuda:nccl", [1])]
)
def test_processes_talk_over_the_device_they_train_on(
    wanted: str, backend: str, claimed: list[int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A GPU that is there, but not wanted, is not touched."""
    pretend_gpu(monkeypatch)
    for name, value in (("WORLD_SIZE", "2"), ("LOCAL_RANK", "1"), (DEVICE_VARIABLE, wanted)):
        monkeypatch.setenv(name, value)
    joined, chosen = list[str](), list[int]()
    monkeypatch.setattr(torch.cuda, "set_device", chosen.append)
    monkeypatch.setattr(torch.distributed, "init_process_group", lambda name, timeout: joined.append(name))
    monkeypatch.setattr(torch.distributed, "destroy_process_group", lambda: None)
    monkeypatch.setattr(torch.distributed, "is_initialized", lambda: True)
    monkeypatch.setattr(torch.distributed, "get_rank", lambda: 1)
    monkeypatch.setattr(torch.distributed, "get_world_size", lambda: 2)
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.mul_(2))  # the other is alike
    with distributed.join_world():
        assert joined == [backend] and chosen == claimed
    monkeypatch.setattr(torch.distributed, "all_reduce", lambda count: count.fill_(1))  # it is not
    with pytest.raises(GitpeftError, match="only 1 of 2 processes can use a GPU"), distributed.join_world():
        pytest.fail("one would wait for the other")


def test_the_mask_made_for_a_gpu_gives_the_loss_that_the_librarys_gives() -> None:
    model = tinymodel.causal()
    model.set_attn_implementation("sdpa")
    data = PromptedExamples.from_pairs(tinymodel.pairs(4), 3)
    batch = devices.load_arrays(data.collate_batch(range(4), 99, 16, 0), torch.device("cpu"))
    with torch.no_grad():
        theirs = model(**batch).loss
        ours = model(**{**batch, "attention_mask": devices.make_causal_mask(batch["attention_mask"])}).loss
    assert bool((batch["attention_mask"] == 0).any()) and float(ours) == pytest.approx(
        float(theirs), abs=1e-5
    )
