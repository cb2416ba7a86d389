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

from gitpeft.learn.compare import layer_probes
from gitpeft.learn.compare.halving import Candidate
from gitpeft.learn.compare.tasks import Ground
from gitpeft.learn.models import methods
from gitpeft.learn.training.finetune import Job, write_json

if TYPE_CHECKING:
    from gitpeft.learn.models.bases import Base


@dataclass(slots=True)
class Row:
    """Where a run stands, for whoever watches: waiting, running, done, kept (from before) or left out."""

    rung: str
    label: str
    seed: int
    state: str = "waiting"
    done: float = 0.0
    detail: str = ""
    result: dict[str, Any] = field(default_factory=dict)


Watcher = Callable[[Sequence[Row], str], None]
"""Hears the rows of a comparison and what is happening now, whenever that changes."""


Questions = Callable[["Base", int], layer_probes.Questions]
"""What probes ask of a base on so many commits."""


@dataclass(frozen=True, slots=True)
class Order:
    """A run to make: who, in which rung, how many steps and minutes at most, on what, probed on how many
    commits; `finished` ones are exported and asked as well."""

    who: Candidate
    rung: str
    steps: int
    minutes: float
    ground: Ground
    finished: bool = True
    probed: int = 0


class Runs:
    """The runs of one comparison, below `folder`; `rows` say where each stands."""

    def __init__(
        self, folder: Path, bases: Mapping[str, "Base"], questions: Questions, watch: Watcher,
        done: Callable[[], None],
    ) -> None:  # fmt: skip
        self.folder, self.bases, self.questions, self.watch, self._done = (
            folder,
            bases,
            questions,
            watch,
            done,
        )
        self.rows: list[Row] = []

    def path(self, one: Candidate, rung: str) -> Path:
        """The file of a finished run."""
        key = hashlib.sha256(json.dumps([rung, asdict(one)], sort_keys=True).encode()).hexdigest()[:12]
        return self.folder / "runs" / key / "result.json"

    def row(self, rung: str, one: Candidate) -> Row:
        """The row of a run."""
        return next(r for r in self.rows if (r.rung, r.label, r.seed) == (rung, one.label, one.seed))

    def result(self, order: Order) -> dict[str, Any]:
        """A run's result, from its file where it is finished. Its weights are not kept."""
        one = order.who
        path, row = self.path(one, order.rung), self.row(order.rung, one)
        if path.exists():
            row.state, row.result = "kept", json.loads(path.read_text(encoding="utf-8"))
            return dict(row.result)
        row.state, before = "running", time.monotonic()
        self.tell(row)
        result = self.make(order, path.parent, row)
        result |= {"candidate": asdict(one), "label": one.label, "name": one.name, "base": one.base}
        result["seconds"] = time.monotonic() - before
        write_json(path, result)
        for part in [p for p in path.parent.iterdir() if p != path]:
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        self._done()
        row.state, row.result, row.done = "done", json.loads(path.read_text(encoding="utf-8")), 1.0
        self.tell(row)
        return dict(row.result)

    def tell(self, row: Row, detail: str = "") -> None:
        """Let whoever watches know."""
        row.detail = detail or row.detail
        self.watch(self.rows, f"{row.rung} run: {row.label}")

    def make(self, order: Order, folder: Path, row: Row) -> dict[str, Any]:
        """Train; where it is to be finished, export through the gate, ask, and probe its layers."""
        method, result = self._train(order, folder, row)
        if not order.finished:
            return result
        self.tell(row, "exporting and asking")
        job = self._job(order)
        finished = order.ground.finish(job, method, folder)
        result["cost"] |= finished.pop("cost")
        if order.probed:
            self.tell(row, "probing its layers")
            encoder = order.ground.encoder(job, method, folder)
            result["probes"] = layer_probes.probe(encoder, self.questions(job.base, order.probed))
        return result | finished

    def _job(self, order: Order) -> Job:
        method = methods.of(*methods.parse(order.who.method))
        checks = min(4, max(1, order.steps // 10))
        base = self.bases[order.who.base]
        return Job(base, method, order.who.seed, order.minutes, order.steps, checks=checks)

    def _train(self, order: Order, folder: Path, row: Row) -> tuple[methods.Method, dict[str, Any]]:
        def listen(row: Row, step: str, done: float, detail: str) -> None:
            row.done = done
            self.tell(row, detail)

        before = time.monotonic()
        folder.mkdir(parents=True, exist_ok=True)
        method, cost = order.ground.train(self._job(order), folder, partial(listen, row))
        return method, {
            "method": method.as_dict(),
            "steps": cost["steps"],
            "around_seconds": time.monotonic() - before,
            "valid_loss": min(loss for _, loss in cost["valid_curve"]),
            "step_seconds": cost["seconds"] / max(1, cost["steps"]),
            "cost": {name: value for name, value in cost.items() if "curve" not in name},
        }
