"""A run on other machines and in several processes, killed in every step: models/smol/gpu.sh and torchrun."""

import contextlib
import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file

from gitpeft.learn.models import bases, methods
from gitpeft.learn.pretraining.adapter_checkpoint import read_position
from gitpeft.learn.pretraining.adapter_run import AdapterRun, AdapterSettings
from tests.support import several_processes
from tests.support.adapter_recipe import RECIPE, build, make_place
from tests.support.sources import CHECKOUT

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """With what one process learns from all pairs in `whole`."""
    made = make_place(tmp_path_factory.mktemp("adapter"))
    build(made, "whole")
    return made


def test_two_processes_train_the_adapter_that_one_does(place: Path) -> None:
    """By torch's launcher; pairs are read once, and the first process alone speaks and writes."""
    shutil.copytree(place / "out", place / "two")
    shutil.rmtree(place / "two" / "adapter", ignore_errors=True)
    done = several_processes.launch(
        2, "gitpeft", "base", "build", place / "recipe.toml", "--corpus", place / "corpus",
        "--work", place / "shared", "--out", place / "two", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0 and done.stdout.count("the base is in") == 1, done.stdout
    assert bases.find_base(str(place / "two")).find_adapter() is not None
    logs = [
        [json.loads(line) for line in (place / name / "run" / "log.jsonl").read_text().splitlines()]
        for name in ("whole", "shared")
    ]
    assert [row["place"] for row in logs[1]] == [row["place"] for row in logs[0]]
    checks = [[row["valid: grounded"] for row in log if "valid: grounded" in row] for log in logs]
    assert checks[1] == pytest.approx(checks[0], rel=1e-2) and checks[1][-1] < checks[1][0]
    at = read_position(place / "shared" / "run" / "state.safetensors")
    assert (at.place, at.steps) == (24, 6)


def test_a_run_of_two_processes_goes_on_in_one(place: Path) -> None:
    (place / "half.toml").write_text(RECIPE.replace("pairs = 24", "pairs = 12"))
    shutil.copytree(place / "out", place / "few", dirs_exist_ok=True)
    shutil.rmtree(place / "few" / "adapter", ignore_errors=True)
    done = several_processes.launch(
        2, "gitpeft", "base", "build", place / "half.toml", "--corpus", place / "corpus",
        "--work", place / "fewer", "--out", place / "few", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert read_position(place / "fewer" / "run" / "state.safetensors").place == 12
    assert build(place, "fewer")
    found, wanted = (load_file(place / name / "run" / "state.safetensors") for name in ("fewer", "whole"))
    for name, one in wanted.items():
        if name.endswith(("weight", "average")):
            torch.testing.assert_close(found[name], one, atol=5e-3, rtol=2e-2)


HIDE = """\
import sys
from importlib.machinery import PathFinder
sys.path[:] = [path for path in sys.path if path not in ("", {checkout!r})]
found = PathFinder.find_spec
def find(name, path=None, target=None):
    return None if name.partition(".")[0] in {hidden} else found(name, path, target)
PathFinder.find_spec = find
"""
"""Runs when Python starts: as if packages were not installed, nor the checkout."""

NOT_THERE = ("git", "detect_secrets", "onnx", "onnxruntime", "pyroaring", "rapidfuzz", "rouge_score")


def script(place: Path, *words: object, **more: str) -> subprocess.Popen[str]:
    folder = Path(str(words[1])) if words[0] == "train" and "PYTHONPATH" in more else CHECKOUT / "models/smol"
    return subprocess.Popen(
        ["sh", str(folder / "gpu.sh"), *map(str, words)], text=True,
        env={**os.environ, "BASE": str(place / "base"), "DEVICE": "cpu", "PYTHON": sys.executable, **more},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT, start_new_session=True,
        cwd=folder if "PYTHONPATH" in more else CHECKOUT,
    )  # fmt: skip


def run_script(place: Path, *words: object, code: int = 0, **more: str) -> str:
    """What the script says; it ends with this code."""
    running = script(place, *words, **more)
    said = running.communicate(timeout=600)[0]
    assert running.returncode == code, said
    return said


def kill_script(place: Path, *words: object, when: Path) -> None:
    """Start the script, and kill all of its processes as soon as a file is there."""
    when.unlink(missing_ok=True)
    running = script(place, *words)
    deadline = time.monotonic() + 300
    while not when.exists() and running.poll() is None and time.monotonic() < deadline:
        time.sleep(0.002)
    session = [
        int(one.name)
        for one in Path("/proc").iterdir()
        if one.name.isdigit() and _read_session(one) == running.pid
    ]
    for pid in session:  # `timeout` has put the training into a group of its own
        with contextlib.suppress(ProcessLookupError):
            os.kill(pid, signal.SIGKILL)
    said = running.communicate(timeout=60)[0]
    assert running.returncode == -signal.SIGKILL, f"it had ended before it was killed: {said}"


def _read_session(process: Path) -> int:
    try:
        return int((process / "stat").read_text().rpartition(")")[2].split()[3])
    except OSError:
        return 0


def make_script_base(place: Path, folder: Path, text: str) -> Path:
    """A folder with a base for the script, and the clones beside it."""
    shutil.copytree(place / "out", folder / "base", ignore=shutil.ignore_patterns("onnx", "adapter"))
    shutil.copy(place / "repositories.tsv", folder / "base")
    (folder / "base" / "recipe.toml").write_text(text)
    return folder


@pytest.mark.skipif(sys.platform != "linux", reason="finds processes in /proc")
def test_the_script_is_killed_in_every_step_and_goes_on(place: Path, tmp_path: Path) -> None:
    """Packing, unpacking, training, narrowing, collecting: the checkpoint is that of a whole run."""
    text = RECIPE.replace("pairs = 24", "pairs = 96").replace(
        "[profile.gpu]", "[profile.gpu]\nsave_minutes = 0.0"
    )
    results = []
    for name in ("whole", "killed"):
        top = make_script_base(place, tmp_path / name, text)
        work, parts, there, back = (top / one for one in ("work", "parts", "there", "back"))
        steps: list[tuple[tuple[object, ...], list[Path]]] = [
            (("pack", place / "corpus", work, parts), [work / "train.jsonl", parts / "examples.tar.aa"]),
            (
                ("train", parts, there, back),
                [there / "base" / "config.json", there / "work" / "run" / "state.safetensors",
                 there / "narrow" / "state.safetensors"],
            ),
            (("collect", back, work), [work / "new" / "log.jsonl"]),
        ]  # fmt: skip
        for words, moments in steps:
            for when in moments if name == "killed" else []:
                kill_script(top, *words, when=when)
            run_script(top, *words)
        at = read_position(work / "run" / "state.safetensors")
        assert (at.place, at.steps) == (96, 24)
        results.append(load_file(work / "run" / "state.safetensors"))
    for key, one in results[0].items():
        torch.testing.assert_close(results[1][key], one, atol=1e-3, rtol=2e-2)


def test_the_script_says_what_cannot_travel(place: Path, tmp_path: Path) -> None:
    top = make_script_base(place, tmp_path, RECIPE)
    said = run_script(top, "pack", place / "corpus", top / "work", top / "parts", code=1, LARGEST="0")
    assert "gpu.sh: what was packed: larger than 0 MiB:" in said and "base.tar.aa" in said
    said = run_script(top, "train", top / "parts", top / "there", top / "back", code=1)
    assert "has no SHA256SUMS: give gpu.sh pack again" in said
    run_script(top, "pack", place / "corpus", top / "work", top / "parts")
    said = run_script(top, "train", top / "parts", top / "there", top / "back", code=1, SECONDS_LEFT="60")
    assert "no time is left to train" in said and (top / "there" / "unpacked").exists()
    (top / "there" / "unpacked").unlink()
    (top / "parts" / "examples.tar.aa").write_bytes(b"damaged")
    said = run_script(top, "train", top / "parts", top / "there", top / "back", code=1)
    assert "copy the parts again" in said
    (top / "back").mkdir()
    (top / "back" / "back.tar.aa").write_bytes(b"damaged")
    assert "copy it again" in run_script(top, "collect", top / "back", top / "work", code=1)
    assert "see the first lines" in run_script(top, "pack", code=1)


def test_the_script_takes_a_run_to_another_machine_and_back(place: Path, tmp_path: Path) -> None:
    """Half of the pairs there; the rest on yet another machine, which starts from what came back.

    Neither has this checkout, nor more packages than the script says.
    """
    top = make_script_base(place, tmp_path, RECIPE)
    (tmp_path / "start").mkdir()
    (tmp_path / "start" / "sitecustomize.py").write_text(
        HIDE.format(checkout=str(CHECKOUT), hidden=NOT_THERE)
    )
    for stage, pairs in enumerate((12, 24)):
        text = RECIPE.replace("pairs = 24", f"pairs = {pairs}")
        (top / "base" / "recipe.toml").write_text(text)
        parts, back, there = (tmp_path / f"{name}-{stage}" for name in ("parts", "back", "there"))
        run_script(top, "pack", place / "corpus", tmp_path / "work", parts)
        assert {"base.tar.aa", "code.tar", "examples.tar.aa", "gpu.sh", "SHA256SUMS"} <= {
            path.name for path in parts.iterdir()
        }
        assert (parts / "run.tar").exists() == (stage == 1)
        said = run_script(top, "train", parts, there, back, PYTHONPATH=str(tmp_path / "start"))
        assert "ended early" not in said and (there / "code" / "gitpeft" / "__main__.py").exists()
        run_script(top, "collect", back, tmp_path / "work")
        at = read_position(tmp_path / "work" / "run" / "state.safetensors")
        assert (at.place, at.steps) == (pairs, pairs // 4)
    state = load_file(tmp_path / "work" / "run" / "state.safetensors")
    assert {one.dtype for one in state.values()} == {torch.bfloat16}
    base = bases.find_base(str(place / "out")).load(adapted=False)
    model = methods.attach_method(base, methods.make_method("lora", {"rank": 4}))
    run = AdapterRun(model, tmp_path / "work" / "run", AdapterSettings())
    assert run.resume() and run.at.place == 24
    assert all(weight.dtype == torch.float32 for weight in run.average.values())
