"""Two processes train what one would, up to rounding; one of them writes; any number of them goes on."""

import shutil
from pathlib import Path

import pytest
import torch
from safetensors import safe_open

from gitpeft.learn.training import distributed
from tests.support.several_processes import launch

MODULE = "tests.support.several_processes"


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> dict[str, torch.Tensor]:
    """What one process learns in eight steps."""
    return learn(tmp_path_factory.mktemp("one"), 1)


def learn(folder: Path, count: int, stop: int = 0) -> dict[str, torch.Tensor]:
    done = launch(count, MODULE, "train", folder, 8, stop)
    assert done.returncode == 0, done.stdout
    assert {path.name for path in (folder / "checkpoint").iterdir()} == {"checkpoint.safetensors"}
    if stop:
        assert not (folder / "weights.safetensors").exists(), "it was killed"
        return {}
    with safe_open(folder / "weights.safetensors", "pt") as file:
        loss = torch.tensor(float(file.metadata()["loss"]))
        return {name: file.get_tensor(name) for name in file.keys()} | {"loss": loss}  # noqa: SIM118


def assert_close(one: dict[str, torch.Tensor], other: dict[str, torch.Tensor]) -> None:
    assert one.keys() == other.keys()
    for name, tensor in one.items():
        torch.testing.assert_close(other[name], tensor, atol=1e-5, rtol=1e-4)


def test_two_processes_learn_what_one_does(whole: dict[str, torch.Tensor], tmp_path: Path) -> None:
    assert_close(whole, learn(tmp_path, 2))


@pytest.mark.slow
def test_killed_it_goes_on_with_another_number_of_processes(
    whole: dict[str, torch.Tensor], tmp_path: Path
) -> None:
    for before, after in ((2, 1), (1, 2)):
        folder = tmp_path / f"{before}-{after}"
        folder.mkdir()
        learn(folder, before, stop=4)
        assert_close(whole, learn(folder, after))
        shutil.rmtree(folder)


def test_alone_nothing_is_shared() -> None:
    with distributed.join_world() as world, distributed.let_writer_go_first():
        assert world == distributed.World(0, 1) and world.writes and distributed.decide(0.5) == 0.5
