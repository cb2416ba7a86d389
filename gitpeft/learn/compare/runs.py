"""Executes the runs of a comparison, stores their results, and reports their progress."""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING

from gitpeft.files import write_json
from gitpeft.learn.compare import layer_probes
from gitpeft.learn.compare.results import RunCandidate, RunResult, TrainedRun
from gitpeft.learn.compare.tasks import TaskPart
from gitpeft.learn.models import methods
from gitpeft.learn.training.finetune import TrainingJob

if TYPE_CHECKING:
    from gitpeft.learn.models.bases import BaseModel


@dataclass(slots=True)
class RunStatus:
    """The progress of a run. `state` is waiting, running, done, kept (from before) or skipped.

    `done` is the share of its training, `steps` how many it has in all, `result` is set at its end.
    """

    rung: str
    label: str
    seed: int
    state: str = "waiting"
    done: float = 0.0
    detail: str = ""
    steps: int = 0
    result: RunResult | None = None


RunWatcher = Callable[[Sequence[RunStatus], str], None]
"""Is called with the rows of a comparison and a line on the present step, whenever they change."""


QuestionSource = Callable[["BaseModel", int], layer_probes.ProbeQuestions]
"""Makes the probing items for a base on so many commits."""


@dataclass(frozen=True, slots=True)
class RunRequest:
    """A run to execute: its rung, the most steps and minutes, its data (`ground`), and the commits its layers
    are probed on; `finished` runs are exported and evaluated as well."""

    who: RunCandidate
    rung: str
    steps: int
    minutes: float
    ground: TaskPart
    finished: bool = True
    probed: int = 0


class ComparisonRuns:
    """The runs of one comparison, stored below `folder`; `rows` are their progress."""

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
        """The file with the result of a run, which exists once it is finished."""
        key = hashlib.sha256(json.dumps([rung, asdict(one)], sort_keys=True).encode()).hexdigest()[:12]
        return self.folder / "runs" / key / "result.json"

    def find_row(self, rung: str, one: RunCandidate) -> RunStatus:
        """The row of a run."""
        return next(r for r in self.rows if (r.rung, r.label, r.seed) == (rung, one.label, one.seed))

    def load_or_run(self, order: RunRequest) -> RunResult:
        """A run's result, from its file where it is finished. The weights are deleted."""
        path, row = self.result_path(order.who, order.rung), self.find_row(order.rung, order.who)
        if kept := self._load_result(path):
            row.state, row.result = "kept", kept
            return kept
        row.state, row.steps, before = "running", order.steps, time.monotonic()
        self.notify_watcher(row)
        executed = self.execute_run(order, path.parent, row)
        result = replace(executed, seconds=time.monotonic() - before)
        write_json(path, result.as_dict())
        for part in [p for p in path.parent.iterdir() if p != path]:
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        self._done()
        row.state, row.result, row.done = "done", result, 1.0
        self.notify_watcher(row)
        return result

    def _load_result(self, path: Path) -> RunResult | None:
        """A stored result; one that cannot be read is run again, which is announced."""
        if not path.exists():
            return None
        try:
            return RunResult.from_dict(json.loads(path.read_text(encoding="utf-8")))
        except (KeyError, TypeError, ValueError):
            self.watch(self.rows, "a stored run cannot be read and is started again")
            return None

    def notify_watcher(self, row: RunStatus, detail: str = "") -> None:
        """Tell the watcher about the run that is going on."""
        row.detail = detail or row.detail
        steps = f" {row.done * row.steps:.0f}/{row.steps}" if row.steps else ""
        self.watch(self.rows, f"{row.label}{steps}")

    def execute_run(self, order: RunRequest, folder: Path, row: RunStatus) -> RunResult:
        """Train; where the run is to be finished, also export through the parity gate, evaluate and probe."""
        before = time.monotonic()
        method, trained = self._train_method(order, folder, row)
        result = _make_result(order.who, method, trained, time.monotonic() - before)
        if not order.finished:
            return result
        self.notify_watcher(row, "exporting, evaluating")
        job = self._make_job(order)
        output = order.ground.export_and_ask(job, method, folder)
        cost = replace(result.cost, answer_ms=output.answer_ms, exported_bytes=output.exported_bytes)
        result = replace(result, cost=cost, answers=output.answers, parity=output.parity)
        if not order.probed:
            return result
        self.notify_watcher(row, "probing layers")
        encoder, notes = order.ground.load_encoder(job, method, folder), list(result.notes)
        found = layer_probes.probe_layers(encoder, self.questions(job.base, order.probed), notes)
        return replace(result, probes=found, notes=notes)

    def _make_job(self, order: RunRequest) -> TrainingJob:
        checks = min(4, max(1, order.steps // 10))
        base = self.bases[order.who.base]
        name, settings = methods.parse_method(order.who.method)
        method = methods.make_method(name, settings, causal=base.architecture.causal)
        return TrainingJob(base, method, order.who.seed, order.minutes, order.steps, checks=checks)

    def _train_method(
        self, order: RunRequest, folder: Path, row: RunStatus
    ) -> tuple[methods.TuningMethod, TrainedRun]:
        def note_progress(_step: str, done: float, detail: str) -> None:
            row.done = done
            self.notify_watcher(row, detail)

        folder.mkdir(parents=True, exist_ok=True)
        return order.ground.train_run(self._make_job(order), folder, note_progress)


def _make_result(
    who: RunCandidate, method: methods.TuningMethod, trained: TrainedRun, around: float
) -> RunResult:
    return RunResult(
        candidate=who,
        method=method.as_dict(),
        steps=trained.steps,
        valid_loss=trained.valid_loss,
        step_seconds=(trained.seconds - trained.cost.startup_seconds) / max(1, trained.steps),
        around_seconds=around,
        cost=trained.cost,
        notes=trained.notes,
    )
