"""What training does on a GPU: whether it is right, and how fast. One command, about ten minutes.

    python -m tests.bench.gpu --out DIR [--history CLONE] [--only STEP …]
    python -m tests.bench.gpu --out DIR --device cpu --toy      the rehearsal, in a minute, on any machine
    python -m tests.bench.gpu --print DIR                       tables for docs/evaluation.md

Every step runs in a process of its own with a time limit, and DIR/gpu.json is written after each: one that
fails or crashes the device is recorded, and the next one begins. Killed, the same command goes on with the
steps that are not done; `--only` does a step again. Weights and ids are random except for the
bases `mini` and `smol`; nothing here says anything about the quality of suggestions.
"""

import argparse
import json
import os
import signal
import sys
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gitpeft.files import write_json
from tests.bench import gpu_runs, gpu_steps, gpu_tables

RESULT_FILE = "gpu.json"


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the proof, and how many seconds it may take."""

    work: Callable[[gpu_steps.Setting], object]
    limit: float


STEPS = {
    "machine": Step(gpu_steps.describe_machine, 60),
    "parity": Step(gpu_steps.compare_with_cpu, 90),
    "waits": Step(gpu_steps.watch_steps, 60),
    "speed": Step(gpu_steps.measure_speed, 150),
    "memory": Step(gpu_runs.run_out_of_memory, 45),
    "resume": Step(gpu_runs.kill_and_resume, 90),
    "init": Step(gpu_runs.initialise_history, 300),
    "study": Step(gpu_runs.measure_methods, 150),
    "recipe": Step(gpu_runs.train_recipe, 150),
    "corpus": Step(gpu_runs.train_corpus, 120),
}


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny layers and few steps")
    parser.add_argument("--history", type=Path, help="a clone for the step `init`; default: a generated one")
    parser.add_argument("--only", nargs="+", choices=tuple(STEPS), metavar="STEP")
    parser.add_argument("--minutes", type=float, default=9.5, help="steps that begin later are left out")
    parser.add_argument("--print", type=Path, metavar="DIR")
    given = parser.parse_args()
    if given.print:
        print(gpu_tables.make_tables(json.loads((given.print / RESULT_FILE).read_text())))
        return
    if not given.out:
        parser.error("--out DIR is needed")
    given.out.mkdir(parents=True, exist_ok=True)
    failed = run_steps(given)
    sys.exit(1 if failed else 0)


def run_steps(given: argparse.Namespace) -> list[str]:
    """Run the steps, and write down each; the names of those that failed."""
    gpu_steps.import_libraries()
    began, path = time.monotonic(), given.out / RESULT_FILE
    found = _read_earlier(path, given)
    for name in given.only or STEPS:
        if not given.only and found["steps"].get(name, {}).get("state") == "done":
            print(f"{name}: done before", flush=True)
            continue
        spent = time.monotonic() - began
        if spent > 60 * given.minutes:
            found["steps"][name] = {"state": "left out", "seconds": 0.0, "why": "no minutes left"}
        else:
            rate = (found["steps"].get("machine", {}).get("result") or {}).get("matrix_rate", 0.0)
            setting = gpu_steps.Setting(given.device, given.toy, given.out / name, given.history, rate)
            found["steps"][name] = run_alone(name, setting)
        write_json(path, found)
        row = found["steps"][name]
        print(f"{name}: {row['state']}, {row['seconds']:.1f} s {row.get('why', '')}", flush=True)
    return [name for name in given.only or STEPS if found["steps"][name]["state"] == "failed"]


def _read_earlier(path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """What an earlier start of the same command has measured."""
    kind = {"device": given.device, "toy": given.toy}
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    same = all(found.get(name) == value for name, value in kind.items())
    return found if same and "steps" in found else {"steps": {}, **kind}


def run_alone(name: str, setting: "gpu_steps.Setting") -> dict[str, Any]:
    """A step in a child that may fail, crash or hang; what it gave, or why it gave nothing."""
    setting.folder.mkdir(parents=True, exist_ok=True)
    result, step, began = setting.folder / "result.json", STEPS[name], time.monotonic()
    result.unlink(missing_ok=True)
    child = os.fork()
    if child == 0:
        _work_and_leave(step, setting, result)
    ended = None
    while ended is None and time.monotonic() - began < step.limit:
        pid, status = os.waitpid(child, os.WNOHANG)
        ended = status if pid else None
        time.sleep(0.05)
    if ended is None:
        os.killpg(child, signal.SIGKILL)
        os.waitpid(child, 0)
    row: dict[str, Any] = {"state": "failed", "seconds": round(time.monotonic() - began, 2)}
    if result.exists():
        return row | dict(json.loads(result.read_text()))
    why = f"more than {step.limit:.0f} s" if ended is None else f"the process ended with status {ended}"
    return row | {"why": why}


def _work_and_leave(step: Step, setting: "gpu_steps.Setting", result: Path) -> None:
    """In the child: do the step, write down what it gave, and end at once."""
    os.setpgid(0, 0)
    os.environ["GITPEFT_DEVICE"] = setting.device
    row: Mapping[str, object]
    try:
        row = {"state": "done", "result": step.work(setting)}
    except Exception as error:
        (setting.folder / "traceback.txt").write_text(traceback.format_exc(), encoding="utf-8")
        row = {"state": "failed", "why": f"{type(error).__name__}: {error}".splitlines()[0]}
    try:
        write_json(result, row)
    finally:
        sys.stdout.flush()
        os._exit(0)


if __name__ == "__main__":
    main()
