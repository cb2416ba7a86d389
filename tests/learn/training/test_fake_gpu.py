"""What can be seen of a GPU without one: no step mixes devices or types, or makes the host wait."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.support import fake_gpu

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(sys.platform != "linux" or not shutil.which("c++"), reason="needs a C++ compiler"),
]

STEPS = 6

WAITS = {"t5": 2, "bart": 4, "risk": 1}
"""Values that transformers itself looks at in each step, to see whether a mask has any zero."""


@pytest.fixture(scope="module")
def guard(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The device "cuda" for a build of torch without it."""
    folder = tmp_path_factory.mktemp("guard")
    command = fake_gpu.build_guard(folder)
    subprocess.run(command, check=True)
    return command[command.index("-o") + 1]


def run_cases(guard: str, *only: str) -> dict[str, dict[str, Any]]:
    done = subprocess.run(
        [sys.executable, "-m", "tests.support.fake_gpu", guard, *only], check=True, text=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env={**os.environ, "OMP_NUM_THREADS": "1"},
        cwd=Path(__file__).parents[3],
    )  # fmt: skip
    return dict(json.loads(done.stdout))


NAMES = tuple(fake_gpu.cases())


@pytest.mark.parametrize("task", ["pointer", "causal", "risk", "others"])
def test_every_method_and_task_trains_on_a_pretended_gpu(task: str, guard: str) -> None:
    kinds = ("t5", "bart", "muon", "base") if task == "others" else (task,)
    chosen = [name for name in NAMES if name.split()[0] in kinds]
    found = run_cases(guard, *chosen)
    assert list(found) == chosen and len(chosen) == 4
    for name, one in found.items():
        assert "error" not in one, (name, one)
        assert one["device"] == "cuda:0" and not one["cudnn"], name
        if name == "base adapter":
            assert (one["steps"], one["waits"]) == (2, 0)
            continue
        assert (one["steps"], one["left"], one["notes"]) == (STEPS, [], []), name
        assert one["waits"] == STEPS * WAITS.get(name.split()[0], 0), name
        assert one["reads"] > 0, "a loss that is read is a look at a value"
        assert (one["valid"], one["saved"]) == ([3, 6], ["cpu", "cpu"]), name
