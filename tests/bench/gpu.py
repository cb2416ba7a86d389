"""What training does on a GPU: whether it is right, and how fast. One command, at most ten minutes.

    python -m tests.bench.gpu --out DIR [--history CLONE] [--only STEP …]
    python -m tests.bench.gpu --out DIR --device cpu --toy      the rehearsal, in a minute, on any machine
    python -m tests.bench.gpu --print DIR                       tables for docs/evaluation.md

Every step runs in a process of its own with a time limit, and DIR/gpu.json is written after each: one that
fails or crashes the device is recorded with the rows that it had, and the next one begins. A step is `missed`
if a bound is not kept, such as that a gradient is the CPU's. Killed, the same command goes on with the steps
that are not done; `--only` does a step again. The exit code is 0 where every step is done and keeps its
bounds. Weights and ids are random except for the bases `mini` and `smol`; nothing here says anything about
the quality of suggestions.

Programs and packages: git for the step `init`; torch with CUDA, transformers and peft for all. The risk task
of the step `parity` imports pygments and pyroaring, and the step `init` all of gitpeft[train]. What lacks its
packages fails with the name of the first, and the others go on; the step `machine` names all that is missing.
For a machine without a network, on one with the same system and Python (not `pip download`: rouge-score comes
as source only, which would have to be built there), all that torch and transformers do not bring, 58 MB with
numpy, which they do:

    pip wheel --wheel-dir wheels onnx "onnxruntime<1.29" rapidfuzz rouge-score detect-secrets gitpython \
        pygments pyroaring
    pip wheel --wheel-dir wheels --no-deps peft accelerate psutil
    pip install --no-index --find-links wheels peft onnx …         the same names there, beside its own torch

The checkout with its bases has more than 140 MB. Where files of 64 MiB travel:

    git archive HEAD | split -b 60m - PARTS/gitpeft.tar.
    cat PARTS/gitpeft.tar.* | tar xf - -C PLACE             there; then the command, in PLACE
"""

import argparse
import json
import os
import shutil
import signal
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from gitpeft.files import write_json
from tests.bench import gpu_memory, gpu_runs, gpu_setting, gpu_steps, gpu_tables
from tests.bench.gpu_setting import Record, Row, Setting

RESULT_FILE = "gpu.json"

DONE, MISSED, FAILED, LEFT_OUT = "done", "missed", "failed", "left out"

LEAST_SECONDS = 5.0
"""With less time than this no step is begun."""


@dataclass(frozen=True, slots=True)
class Step:
    """A step of the proof, and how many seconds it may take."""

    work: Callable[[Setting, Record], None]
    limit: float


STEPS = {
    "machine": Step(gpu_steps.describe_machine, 60),
    "parity": Step(gpu_steps.compare_with_cpu, 90),
    "waits": Step(gpu_steps.watch_steps, 60),
    "speed": Step(gpu_steps.measure_speed, 150),
    "memory": Step(gpu_memory.run_out_of_memory, 45),
    "large": Step(gpu_memory.train_large_base, 90),
    "resume": Step(gpu_runs.kill_and_resume, 90),
    "study": Step(gpu_runs.measure_methods, 150),
    "recipe": Step(gpu_runs.train_recipe, 150),
    "corpus": Step(gpu_runs.train_corpus, 120),
    "shapes": Step(gpu_steps.compare_shapes, 90),
    "init": Step(gpu_runs.initialise_history, 300),
}
"""The longest comes last: it takes what is left."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--out", type=Path)
    parser.add_argument("--device", choices=("cuda", "cpu"), default="cuda")
    parser.add_argument("--toy", action="store_true", help="tiny layers and few steps")
    parser.add_argument("--history", type=Path, help="a clone for the step `init`; default: a generated one")
    parser.add_argument("--only", nargs="+", choices=tuple(STEPS), metavar="STEP")
    parser.add_argument("--minutes", type=float, default=9.5, help="for all steps together: then it ends")
    parser.add_argument("--print", type=Path, metavar="DIR")
    given = parser.parse_args()
    if given.print:
        print(gpu_tables.make_tables(json.loads((given.print / RESULT_FILE).read_text())))
        return
    if not given.out:
        parser.error("--out DIR is needed")
    given.out.mkdir(parents=True, exist_ok=True)
    unproven = run_steps(given)
    sys.exit(1 if unproven else 0)


def run_steps(given: argparse.Namespace) -> list[str]:
    """Run the steps, and write down each; the names of those that are not done, or miss a bound."""
    ends, path = time.monotonic() + 60 * given.minutes, given.out / RESULT_FILE
    gpu_setting.import_libraries()
    found = _read_earlier(path, given)
    chosen: Sequence[str] = given.only or tuple(STEPS)
    for name in chosen:
        state = found["steps"].get(name, {}).get("state")
        if not given.only and state in (DONE, MISSED):
            print(f"{name}: {state} before", flush=True)
            continue
        setting = Setting(given.device, given.toy, given.out / name, given.history, _find_rate(found))
        found["steps"][name] = row = run_alone(name, setting, ends)
        write_json(path, found)
        print(f"{name}: {row['state']}, {row['seconds']:.1f} s {row.get('why', '')}", flush=True)
    return [name for name in chosen if found["steps"][name]["state"] != DONE]


def _find_rate(found: dict[str, Any]) -> float:
    rows = found["steps"].get("machine", {}).get("result", [])
    return float(next((row["matrix_rate"] for row in rows if "matrix_rate" in row), 0.0))


def _read_earlier(path: Path, given: argparse.Namespace) -> dict[str, Any]:
    """What an earlier start of the same command has measured."""
    kind = {"device": given.device, "toy": given.toy}
    found: dict[str, Any] = json.loads(path.read_text()) if path.exists() else {}
    same = all(found.get(name) == value for name, value in kind.items())
    return found if same and "steps" in found else {"steps": {}, **kind}


def run_alone(name: str, setting: Setting, ends: float) -> dict[str, Any]:
    """A step in a child that may fail, crash or hang, and has until its limit or `ends` (monotonic clock).

    What it gave, or why it gave no more. `setting.folder` has the rows so far while it runs; afterwards
    nothing is left of it, nor of what the step itself writes, such as the weights of a base: where few files
    can be brought back from a machine, one has everything.
    """
    step, began = STEPS[name], time.monotonic()
    limit = min(step.limit, ends - began)
    if limit < LEAST_SECONDS:
        return {"state": LEFT_OUT, "seconds": 0.0, "why": "no time was left"}
    setting.folder.mkdir(parents=True, exist_ok=True)
    result = setting.folder / "result.json"
    result.unlink(missing_ok=True)
    scratch = Path(tempfile.mkdtemp(prefix="gitpeft-gpu-"))
    child = os.fork()
    if child == 0:
        _work_and_leave(step, setting, scratch, result)
    try:
        status = _await_child(child, began + limit)
    finally:
        shutil.rmtree(scratch, ignore_errors=True)
    row = {"state": FAILED, "seconds": round(time.monotonic() - began, 2)}
    found = dict(json.loads(result.read_text())) if result.exists() else {}
    shutil.rmtree(setting.folder)
    if "state" not in found:
        found["why"] = (
            f"more than {limit:.0f} s" if status is None else f"the process ended with status {status}"
        )
    return row | found


def _await_child(child: int, ends: float) -> int | None:
    """Its exit status, None where it had to be killed; nothing that it has started lives on."""
    status = None
    while status is None and time.monotonic() < ends:
        pid, found = os.waitpid(child, os.WNOHANG)
        status = found if pid else None
        time.sleep(0.05)
    with suppress(ProcessLookupError):
        os.killpg(child, signal.SIGKILL)
    if status is None:
        os.waitpid(child, 0)
    return status


def _work_and_leave(step: Step, setting: Setting, scratch: Path, result: Path) -> None:
    """In the child: do the step, write down each row that it gives, and end at once."""
    os.setpgid(0, 0)
    os.environ["GITPEFT_DEVICE"] = setting.device
    rows: list[Row] = []

    def record(row: Row) -> None:
        rows.append(row)
        write_json(result, {"result": rows})

    try:
        step.work(replace(setting, folder=scratch), record)
        write_json(result, judge_rows(rows))
    except Exception as error:
        why = f"{type(error).__name__}: {error}".splitlines()[0]
        whole = traceback.format_exc().splitlines()
        write_json(result, {"state": FAILED, "why": why, "traceback": whole, "result": rows})
    finally:
        sys.stdout.flush()
        os._exit(0)


def judge_rows(rows: Sequence[Row]) -> dict[str, object]:
    """The state of a step that came to its end: that of its worst row."""
    for state in (FAILED, MISSED):
        said = [f"{row.get('name', '')}: {row[state]}" for row in rows if state in row]
        if said:
            return {"state": state, "why": "; ".join(said), "result": rows}
    return {"state": DONE, "result": rows}


if __name__ == "__main__":
    main()
