"""The proof for a GPU, rehearsed on a CPU at toy size: every step works, and none stops the others."""

import argparse
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gitpeft.files import write_json
from tests.bench import gpu, gpu_steps, gpu_tables
from tests.support.sources import CHECKOUT


def run(out: Path, *more: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "tests.bench.gpu", "--out", str(out), "--device", "cpu", "--toy", *more],
        cwd=CHECKOUT, env={**os.environ, "OMP_NUM_THREADS": "1"}, text=True, check=False,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL,
    )  # fmt: skip


@pytest.mark.slow
def test_every_step_is_rehearsed(tmp_path: Path) -> None:
    done = run(tmp_path)
    found = json.loads((tmp_path / gpu.RESULT_FILE).read_text())
    states = {name: (row["state"], row.get("why")) for name, row in found["steps"].items()}
    assert set(states.values()) == {("done", None)}, states
    assert done.returncode == 0 and list(found["steps"]) == list(gpu.STEPS)
    result = {name: row["result"] for name, row in found["steps"].items()}
    assert "missed" not in result["parity"] and len(result["parity"]) == 7
    assert len(result["speed"]) == 9 and all(row["tokens_per_second"] > 0 for row in result["speed"])
    assert result["memory"]["parts"] == 2 and "2 parts" in result["memory"]["notes"][0]
    assert result["resume"]["stopped_at"] < result["resume"]["steps"] and result["init"]["hooks"] > 0
    assert {row["method"] for row in result["study"]} == set(gpu_steps.METHODS)
    assert [row["compiled"] for row in result["corpus"]] == ["", "eager"]
    for row in result["corpus"]:
        assert row["notes"] == [] and 0 < row["matrix_share"] < 1
        assert 0 < row["checkpoint_waited"] <= row["checkpoint_written"]
    shown = gpu_tables.make_tables(found)
    assert shown.count("| --- |") >= 6 and "a CPU, no GPU, toy sizes" in shown


def test_a_step_that_fails_crashes_or_hangs_is_recorded(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(setting: Any) -> None:
        raise RuntimeError("CUDA error: an illegal memory access\nwas encountered")

    def crash(setting: Any) -> None:
        os.abort()

    def hang(setting: Any) -> None:
        import time

        time.sleep(60)

    steps = {"fail": fail, "crash": crash, "hang": hang, "work": lambda setting: {"device": setting.device}}
    monkeypatch.setattr(gpu, "STEPS", {name: gpu.Step(work, 1.0) for name, work in steps.items()})
    setting = gpu_steps.Setting("cpu", True, tmp_path)
    rows = {name: gpu.run_alone(name, setting) for name in steps}
    assert rows["work"]["result"] == {"device": "cpu"}
    assert [rows[name]["state"] for name in ("fail", "crash", "hang")] == ["failed"] * 3
    assert rows["fail"]["why"] == "RuntimeError: CUDA error: an illegal memory access"
    assert "ended with status" in rows["crash"]["why"] and rows["hang"]["why"] == "more than 1 s"
    shown = gpu_tables.make_tables({"toy": True, "device": "cpu", "steps": rows | {"memory": rows["hang"]}})
    assert "`memory` failed: more than 1 s." in shown


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
    done = {name: {"state": "done", "seconds": 1.0, "result": {}} for name in gpu.STEPS if name != "machine"}
    write_json(path, {"device": "cpu", "toy": True, "steps": done})
    said = run(tmp_path).stdout.splitlines()
    assert said[0].startswith("machine: done, ") and len(said) == len(gpu.STEPS)
    assert said[1:] == [f"{name}: done before" for name in gpu.STEPS if name != "machine"]
    given = argparse.Namespace(device="cuda", toy=False)
    assert gpu._read_earlier(path, given) == {"device": "cuda", "toy": False, "steps": {}}
