"""The runs of a comparison: hides where each is kept, how it is resumed, and whom it is shown to."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitpeft.files import write_json
from gitpeft.learn.compare import layer_probes
from gitpeft.learn.compare.halving import RunCandidate
from gitpeft.learn.compare.tasks import TaskPart
from gitpeft.learn.models import methods
from gitpeft.learn.training.finetune import TrainingJob

if TYPE_CHECKING:
    from gitpeft.learn.models.bases import BaseModel


@dataclass(slots=True)
class RunStatus:
    """Where a run stands, for whoever watches: waiting, running, done, kept (from before) or left out."""

    rung: str
    label: str
    seed: int
    state: str = "waiting"
    done: float = 0.0
    detail: str = ""
    result: dict[str, Any] = field(default_factory=dict)


RunWatcher = Callable[[Sequence[RunStatus], str], None]
"""Hears the rows of a comparison and what is happening now, whenever that changes."""


QuestionSource = Callable[["BaseModel", int], layer_probes.ProbeQuestions]
"""What probes ask of a base on so many commits."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A run to make: who, in which rung, how many steps and minutes at most, on what, probed on how many
    commits; `finished` ones are exported and asked as well."""

    who: RunCandidate
    rung: str
    steps: int
    minutes: float
    ground: TaskPart
    finished: bool = True
    probed: int = 0


class ComparisonRuns:
    """The runs of one comparison, below `folder`; `rows` say where each stands."""

    def __init__(
        self, folder: Path, bases: Mapping[str, "BaseModel"], questions: QuestionSource, watch: RunWatcher,
        done: Callable[[], None],
    ) -> None:  # fmt: skip
        self.folder, self.bases, self.questions, self.watch, self._done = (
            folder,
            bases,
            questions,
            watch,
            done,
        )
        self.rows: list[RunStatus] = []

    def result_path(self, one: RunCandidate, rung: str) -> Path:
        """The file of a finished run."""
        key = hashlib.sha256(json.dumps([rung, asdict(one)], sort_keys=True).encode()).hexdigest()[:12]
        return self.folder / "runs" / key / "result.json"

    def find_row(self, rung: str, one: RunCandidate) -> RunStatus:
        """The row of a run."""
        return next(r for r in self.rows if (r.rung, r.label, r.seed) == (rung, one.label, one.seed))

    def load_or_run(self, order: RunRequest) -> dict[str, Any]:
        """A run's result, from its file where it is finished. Its weights are not kept."""
        one = order.who
        path, row = self.result_path(one, order.rung), self.find_row(order.rung, one)
        if path.exists():
            row.state, row.result = "kept", json.loads(path.read_text(encoding="utf-8"))
            return dict(row.result)
        row.state, before = "running", time.monotonic()
        self.notify_watcher(row)
        result = self.execute_run(order, path.parent, row)
        result |= {"candidate": asdict(one), "label": one.label, "name": one.name, "base": one.base}
        result["seconds"] = time.monotonic() - before
        write_json(path, result)
        for part in [p for p in path.parent.iterdir() if p != path]:
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        self._done()
        row.state, row.result, row.done = "done", json.loads(path.read_text(encoding="utf-8")), 1.0
        self.notify_watcher(row)
        return dict(row.result)

    def notify_watcher(self, row: RunStatus, detail: str = "") -> None:
        """Let whoever watches know."""
        row.detail = detail or row.detail
        self.watch(self.rows, f"{row.rung} run: {row.label}")

    def execute_run(self, order: RunRequest, folder: Path, row: RunStatus) -> dict[str, Any]:
        """Train; where it is to be finished, export through the gate, ask, and probe its layers."""
        method, result = self._train_method(order, folder, row)
        if not order.finished:
            return result
        self.notify_watcher(row, "exporting and asking")
        job = self._make_job(order)
        finished = order.ground.export_and_ask(job, method, folder)
        result["cost"] |= finished.pop("cost")
        if order.probed:
            self.notify_watcher(row, "probing its layers")
            encoder = order.ground.load_encoder(job, method, folder)
            result["probes"] = layer_probes.probe_layers(encoder, self.questions(job.base, order.probed))
        return result | finished

    def _make_job(self, order: RunRequest) -> TrainingJob:
        method = methods.make_method(*methods.parse_method(order.who.method))
        checks = min(4, max(1, order.steps // 10))
        base = self.bases[order.who.base]
        return TrainingJob(base, method, order.who.seed, order.minutes, order.steps, checks=checks)

    def _train_method(
        self, order: RunRequest, folder: Path, row: RunStatus
    ) -> tuple[methods.TuningMethod, dict[str, Any]]:
        def note_progress(row: RunStatus, step: str, done: float, detail: str) -> None:
            row.done = done
            self.notify_watcher(row, detail)

        before = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        method, cost = order.ground.train_run(self._make_job(order), folder, partial(note_progress, row))
        return method, {
            "method": method.as_dict(),
            "steps": cost["steps"],
            "around_seconds": time.monotonic() - before,
            "valid_loss": min(loss for _, loss in cost["valid_curve"]),
            "step_seconds": cost["seconds"] / max(1, cost["steps"]),
            "cost": {name: value for name, value in cost.items() if "curve" not in name},
        }
