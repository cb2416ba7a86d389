"""The proof for a GPU, rehearsed on a CPU at toy size: every step works, and none stops the others."""

import argparse
import json
import os
import re
import subprocess
import sys
import time
import warnings
from importlib import metadata
from pathlib import Path
from typing import Any

import pytest

from gitpeft.files import write_json
from gitpeft.learn.training.loop import _TrainingLoop
from gitpeft.learn.training.settings import TrainingCost
from tests.bench import gpu, gpu_memory, gpu_runs, gpu_setting, gpu_steps, gpu_tables
from tests.bench.gpu_setting import METHODS, NEEDED, Record, Row, Setting
from tests.support.distributions import DISTRIBUTIONS
from tests.support.sources import CHECKOUT, PROJECT, required

WITHOUT = """\
import runpy, sys
from importlib.machinery import PathFinder
found = PathFinder.find_spec
def find(name, path=None, target=None):
    return None if name.partition(".")[0] in {hidden} else found(name, path, target)
PathFinder.find_spec = find
runpy.run_module("tests.bench.gpu", run_name="__main__", alter_sys=True)
"""
"""Runs the script as if packages were not installed."""


def run(out: Path, *more: str, hidden: tuple[str, ...] = ()) -> subprocess.CompletedProcess[str]:
    start = ["-c", WITHOUT.format(hidden=hidden)] if hidden else ["-m", "tests.bench.gpu"]
    return subprocess.run(
        [sys.executable, *start, "--out", str(out), "--device", "cpu", "--toy", *more],
        cwd=CHECKOUT, env={**os.environ, "OMP_NUM_THREADS": "1", "PYTHONPATH": str(CHECKOUT)}, text=True,
        check=False, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


def read_states(out: Path) -> dict[str, tuple[str, str | None]]:
    steps = json.loads((out / gpu.RESULT_FILE).read_text())["steps"]
    return {name: (row["state"], row.get("why")) for name, row in steps.items()}


@pytest.mark.slow
def test_every_step_is_rehearsed(tmp_path: Path) -> None:
    """First without a package of the risk task and without pytest, then what failed with all packages."""
    done = run(tmp_path, hidden=("pygments", "pytest"))
    states = read_states(tmp_path)
    assert {name for name, (state, _) in states.items() if state != gpu.DONE} == {"parity", "init"}, states
    for name in ("parity", "init"):
        state, why = states[name]
        assert state == gpu.FAILED and "No module named 'pygments'" in str(why)
    assert done.returncode == 1 and list(states) == list(gpu.STEPS)
    messages = json.loads((tmp_path / gpu.RESULT_FILE).read_text())["steps"]["parity"]["result"]
    assert ["failed" in row for row in messages] == [False] * 5 + [True] * 2
    assert [path.name for path in tmp_path.iterdir()] == [gpu.RESULT_FILE], "few files can be brought back"

    done = run(tmp_path)
    assert done.returncode == 0 and done.stdout.count(": done before\n") == len(gpu.STEPS) - 2
    assert set(read_states(tmp_path).values()) == {(gpu.DONE, None)}
    found = json.loads((tmp_path / gpu.RESULT_FILE).read_text())
    check_rehearsal({name: row["result"] for name, row in found["steps"].items()})
    shown = gpu_tables.make_tables(found)
    assert shown.count("| --- |") >= 8 and "a CPU, no GPU, toy sizes" in shown
    assert [path.name for path in tmp_path.iterdir()] == [gpu.RESULT_FILE]


def check_rehearsal(result: dict[str, list[dict[str, Any]]]) -> None:
    assert len(result["parity"]) == 7 and all(row["bfloat16"] == row["usual"] for row in result["parity"])
    assert len(result["speed"]) == 9 and all(row["tokens_per_second"] > 0 for row in result["speed"])
    [memory] = result["memory"]
    assert memory["parts"] == 2 and "2 parts" in memory["notes"][0]
    assert [row["method"] for row in result["large"]] == ["full", "lora"]
    assert result["large"][0]["share"] == 1 and all(row["parts"] == 1 for row in result["large"])
    resumed = result["resume"][1:]
    assert len(resumed) == 2 and all(row["stopped_at"] < row["steps"] for row in resumed)
    names = [row["name"] for row in result["init"]]
    assert {"mine", "train", "export"} < set(names) and names[-1] == "together"
    assert result["init"][-1]["hooks"] > 0
    assert {row["name"] for row in result["study"]} == set(METHODS)
    assert [row["shapes"] for row in result["shapes"]] == [8, 8]
    assert [row["name"] for row in result["corpus"]] == ["not compiled", "eager"]
    for row in result["corpus"]:
        assert row["notes"] == [] and 0 < row["matrix_share"] < 1
        assert 0 < row["checkpoint_waited"] <= row["checkpoint_written"]


def test_the_wheels_to_take_along_are_all_that_is_needed() -> None:
    """Beside torch and transformers, by every step; and the step `machine` asks for each."""
    said = str(gpu.__doc__).partition("pip wheel ")[2].partition("pip install")[0]
    named = {re.sub(r'"|<.*', "", word) for word in said.split()}
    train = required(*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["train"])
    there = {"torch", "transformers", "rich"} | list_asked("torch") | list_asked("transformers")
    assert not (train | list_asked("peft") | list_asked("accelerate")) - there - named, "rich: with typer"
    asked = {DISTRIBUTIONS.get(name, name) for names in NEEDED.values() for name in names}
    assert not train - asked - {"typer", "rich"}, "the command line is not run"


def list_asked(name: str) -> set[str]:
    """The distributions that this one asks for itself, on this machine."""
    asked = [one for one in metadata.requires(name) or () if "extra ==" not in one]
    return {one.replace("_", "-") for one in required(*asked)}


def in_a_minute() -> float:
    return time.monotonic() + 60


def test_a_step_that_fails_crashes_or_hangs_keeps_its_rows(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(setting: Setting, record: Record) -> None:
        record({"name": "first"})
        raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")

    def crash(setting: Setting, record: Record) -> None:
        record({"name": "first"})
        os.abort()

    def hang(setting: Setting, record: Record) -> None:
        record({"name": "first"})
        time.sleep(60)

    def work(setting: Setting, record: Record) -> None:
        (setting.folder / "weights").write_bytes(b"large")
        record({"name": "first", "device": setting.device, "folder": str(setting.folder)})

    steps = {"fail": fail, "crash": crash, "hang": hang, "work": work}
    monkeypatch.setattr(gpu, "STEPS", {name: gpu.Step(one, 2.0) for name, one in steps.items()})
    monkeypatch.setattr(gpu, "LEAST_SECONDS", 0.5)
    setting = Setting("cpu", True, tmp_path)
    rows = {name: gpu.run_alone(name, setting, in_a_minute()) for name in steps}
    assert [row["result"][0]["name"] for row in rows.values()] == ["first"] * 4
    assert rows["work"]["state"] == gpu.DONE and rows["work"]["result"][0]["device"] == "cpu"
    assert not Path(rows["work"]["result"][0]["folder"]).exists()
    assert [rows[name]["state"] for name in ("fail", "crash", "hang")] == [gpu.FAILED] * 3
    assert rows["fail"]["why"] == "RuntimeError: CUDA error: an illegal memory access"
    assert any("in fail" in line for line in rows["fail"]["traceback"]) and not tmp_path.exists()
    assert "ended with status" in rows["crash"]["why"] and rows["hang"]["why"] == "more than 2 s"
    found = {"toy": True, "device": "cpu", "steps": {"fail": rows["fail"], "hang": rows["hang"]}}
    assert "`hang` failed: more than 2 s." in gpu_tables.make_tables(found)


def test_a_base_that_is_not_there_fails_its_own_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def load(name: str, _setting: Setting) -> None:
        raise OSError(f"no {name}")

    rows: list[Row] = []
    monkeypatch.setattr(gpu_steps, "load_base", load)
    gpu_steps.compare_with_cpu(Setting("cpu", True, tmp_path), rows.append)
    found = [str(row["failed"]) for row in rows]
    assert found == ["OSError: no mini"] * 4 + ["OSError: no smol"] + ["OSError: no mini"] * 2


def test_no_step_takes_more_than_what_is_left(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def hang(setting: Setting, record: Record) -> None:
        time.sleep(60)

    monkeypatch.setattr(gpu, "STEPS", {"hang": gpu.Step(hang, 50.0)})
    setting = Setting("cpu", True, tmp_path)
    assert gpu.run_alone("hang", setting, time.monotonic() + 4)["state"] == gpu.LEFT_OUT
    monkeypatch.setattr(gpu, "LEAST_SECONDS", 0.1)
    row = gpu.run_alone("hang", setting, time.monotonic() + 1)
    assert (row["state"], row["why"]) == (gpu.FAILED, "more than 1 s") and row["seconds"] < 5


def test_a_bound_that_is_missed_and_a_row_that_failed_make_the_exit_code_1(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = argparse.Namespace(device="cpu", toy=True, only=None, minutes=1.0, out=tmp_path, history=None)
    rows: list[Row] = [{"name": "lora"}, {"name": "full", "missed": "2 %, not 1 %"}]

    def work(setting: Setting, record: Record) -> None:
        for row in rows:
            record(row)

    monkeypatch.setattr(gpu, "STEPS", {"one": gpu.Step(work, 9.0)})
    monkeypatch.setattr(gpu_setting, "import_libraries", lambda: None)
    assert gpu.run_steps(given) == ["one"] and read_states(tmp_path) == {
        "one": (gpu.MISSED, "full: 2 %, not 1 %")
    }
    assert gpu.run_steps(given) == ["one"], "it is not measured again, and still missed"
    rows.append({"name": "hybrid", "failed": "out of memory"})
    given.only = ["one"]
    assert gpu.run_steps(given) == ["one"] and read_states(tmp_path)["one"][0] == gpu.FAILED
    rows[1:] = []
    assert gpu.run_steps(given) == []


def test_each_training_that_is_resumed_says_where_it_ran(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(device: str, *_: object, checkpoint: Path | None, **__: object) -> TrainingCost:
        if checkpoint is not None:
            checkpoint.mkdir(exist_ok=True)
        return TrainingCost(device=f"{device}:0")

    monkeypatch.setattr(gpu_runs, "make_model", lambda base, method, device: device)
    monkeypatch.setattr(gpu_runs, "_stop_half_way", lambda *given: given[-1].mkdir() or 4)
    monkeypatch.setattr("gitpeft.learn.training.loop.train_model", train)
    monkeypatch.setattr("gitpeft.learn.training.loop.measure_loss", lambda model, *_: 1.0)
    first, second = (Setting("cuda", True, tmp_path / name) for name in ("first", "second"))
    rows: list[Row] = []
    gpu_runs.kill_and_resume(first, rows.append)
    assert [row["device"] for row in rows] == ["cuda:0", "cuda:0", "cpu:0"]
    assert not any("missed" in row for row in rows)
    monkeypatch.setattr(gpu_runs, "make_model", lambda base, method, device: "cuda")
    gpu_runs.kill_and_resume(second, rows.append)
    assert [row.get("missed") for row in rows[3:]] == [None, None, "it ran on cuda:0, not on cpu"]


def test_memory_that_is_left_is_missed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    cost = TrainingCost(steps=4, parts=2, halved=1)
    monkeypatch.setattr(gpu_memory, "_train_noting", lambda *_: (cost, []))
    counts = iter([8 << 20, 8 << 20, 8 << 20, 48 << 20])
    monkeypatch.setattr(gpu_memory, "count_allocated", lambda _: next(counts))
    rows: list[Row] = []
    for _ in range(2):
        gpu_memory.run_out_of_memory(Setting("cpu", True, tmp_path), rows.append)
    assert [row.get("missed") for row in rows] == [None, "41,943,040 bytes were left on the device"]
    cost.halved = 0
    counts = iter([0, 0])
    gpu_memory.run_out_of_memory(Setting("cpu", True, tmp_path), rows.append)
    assert rows[-1]["missed"] == "memory did not run out"


def test_reading_a_loss_is_no_wait(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def wait(*_: object) -> None:
        warnings.warn(gpu_steps.SYNC_WARNING, stacklevel=2)

    monkeypatch.setattr(_TrainingLoop, "_read_losses", wait)

    def work() -> None:
        warnings.warn("Synchronization debug mode is a prototype feature", stacklevel=2)
        wait()
        for _ in range(3):
            _TrainingLoop._read_losses(None)  # type: ignore[arg-type]

    assert gpu_steps.count_waits(work, Setting("cpu", True, tmp_path)) == (1, 3)


def test_the_gradient_in_bf16_may_be_as_far_off_as_a_cpus() -> None:
    exact = {"loss": 1e-6, "norm": 1e-5, "vector": 1e-4}
    narrow = {"loss": 1e-3, "norm": 5e-2, "vector": 0.3}
    judge = gpu_steps.judge_differences
    assert judge(exact, narrow, {"loss": 1e-3, "norm": 1e-3, "vector": 0.2}) == ""
    assert judge(exact, narrow, {"loss": 1e-3, "norm": 1e-3, "vector": 0.1}) == (
        "bfloat16, gradient 3.0e-01, not 2.0e-01"
    )
    assert judge(exact, narrow, dict.fromkeys(narrow, 0.0)) == "bfloat16, gradient 3.0e-01, not 1.0e-02"
    wrong = judge({**exact, "norm": 2e-4}, {**narrow, "loss": float("nan")}, narrow)
    assert wrong == "float32, norm 2.0e-04, not 1.0e-04; bfloat16, loss nan, not 1.0e-02"


def test_the_shapes_are_all_different(tmp_path: Path) -> None:
    shapes = gpu_steps.list_shapes(Setting("cuda", False, tmp_path))
    assert len(set(shapes)) == 61 and all(source % 16 == target % 4 == 0 for source, target in shapes)


def test_one_step_alone_is_run_and_printed(tmp_path: Path) -> None:
    assert run(tmp_path, "--only", "machine").stdout.startswith("machine: done")
    printed = subprocess.run(
        [sys.executable, "-m", "tests.bench.gpu", "--print", str(tmp_path)], cwd=CHECKOUT, text=True,
        check=True, stdout=subprocess.PIPE,
    )  # fmt: skip
    assert "TFLOP/s in bf16" in printed.stdout


def test_killed_in_the_middle_the_same_command_goes_on_with_the_next_step(tmp_path: Path) -> None:
    """What was measured before is kept, and not measured again; on another device all is."""
    path = tmp_path / gpu.RESULT_FILE
    done = {name: {"state": "done", "seconds": 1.0, "result": []} for name in gpu.STEPS if name != "machine"}
    write_json(path, {"device": "cpu", "toy": True, "steps": done})
    said = run(tmp_path).stdout.splitlines()
    assert said[0].startswith("machine: done, ") and len(said) == len(gpu.STEPS)
    assert said[1:] == [f"{name}: done before" for name in gpu.STEPS if name != "machine"]
    given = argparse.Namespace(device="cuda", toy=False)
    assert gpu._read_earlier(path, given) == {"device": "cuda", "toy": False, "steps": {}}
