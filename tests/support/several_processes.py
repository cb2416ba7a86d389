"""Trainings in several processes: torch's launcher starts this module, or `gitpeft` itself.

`train FOLDER STEPS STOP`: a tiny model, whose weights and validation loss process 0 writes to FOLDER; it is
killed after step STOP, 0 for never. `org WORDS…`: the command line, with a gate that lets tiny models pass;
each process prints how many commits it reads of each repository.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from tests.support.sources import CHECKOUT


def launch(count: int, module: str, *words: object) -> subprocess.CompletedProcess[str]:
    """`python -m module words` in so many processes on this machine."""
    start = ["-m", "torch.distributed.run", f"--nproc-per-node={count}", "--standalone"] if count > 1 else []
    return subprocess.run(
        [sys.executable, *start, "-m", module, *map(str, words)], cwd=CHECKOUT, text=True, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1", "GITPEFT_DEVICE": "cpu"},
        stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
    )  # fmt: skip


def main(what: str, *words: str) -> None:
    if what == "train":
        train(Path(words[0]), int(words[1]), int(words[2]))
    else:
        run_command(words)


def train(folder: Path, steps: int, stop: int) -> None:
    """Gradient descent in float32, which hides no difference."""
    import torch
    from safetensors.torch import save_file

    from gitpeft.learn.data.batches import RenderedExamples
    from gitpeft.learn.models import methods
    from gitpeft.learn.training import distributed, loop
    from gitpeft.learn.training.settings import TrainingProgress, TrainingSettings
    from tests.support import tinymodel
    from tests.support.tuning import SMALL

    vars(loop)["_autocast_bfloat16"] = lambda device: nullcontext()
    vars(loop)["make_optimisers"] = _descend
    data = RenderedExamples.from_pairs([(source, [*message, 1]) for source, message in tinymodel.pairs(24)])
    settings = TrainingSettings(steps=steps, batch_tokens=400, lr=1e-1, warmup=0.05, clip=1.0)

    def kill(progress: TrainingProgress) -> None:
        if 0 < stop <= progress.step and progress.valid is not None:
            os._exit(0)

    with distributed.join_world() as world:
        torch.manual_seed(world.rank)  # what a method adds is random, and another in each process
        model = methods.attach_method(tinymodel.pointer_t5(dropout_rate=0.0), SMALL)
        if world.size == 1 and stop == 0:
            torch.manual_seed(0)
        cost = loop.train_model(
            model,
            data,
            settings,
            valid=data,
            evaluate_every=0.25,
            on_step=kill,
            checkpoint=folder / "checkpoint",
        )
        if world.writes:
            found = {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
            save_file(
                found,
                folder / "weights.safetensors",
                {"loss": repr(cost.best_loss), "steps": str(cost.steps)},
            )


def _descend(model: Any, settings: Any) -> list[Any]:
    import torch

    learnt = [p for p in model.parameters() if p.requires_grad]
    return [torch.optim.SGD([{"params": learnt, "peak": settings.lr}], lr=settings.lr)]


def run_command(words: Sequence[str]) -> None:
    import pytest

    from gitpeft.cli.app import main as command
    from gitpeft.history.store import History
    from tests.support.tinybase import loosen

    mine = History.mine_commits

    def mine_aloud(history: History, repository: Any, *given: Any, **named: Any) -> Any:
        found = mine(history, repository, *given, **named)
        sys.stdout.write(f"process {os.environ['RANK']} read {found.new} of {repository.work_tree.name}\n")
        sys.stdout.flush()
        return found

    sys.argv = ["gitpeft", *words]
    with pytest.MonkeyPatch.context() as patch:
        loosen(patch)
        patch.setattr(History, "mine_commits", mine_aloud)
        command()


if __name__ == "__main__":
    main(*sys.argv[1:])
