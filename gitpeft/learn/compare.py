"""Methods side by side on one history, within a time budget: hides the plan, resuming, and what is measured.

    short runs of all candidates → the better half, and the best of each method → long runs → quality and cost

That is successive halving (see `halving`). In a rung all runs
have the same data, steps, batches and schedule. Quality is measured on the validation part: a comparison
chooses between settings, so the newest tenth stays unseen for `gitpeft init` to measure on.

Everything lies in <state_dir>/compare/<key>/, where the key is made of all that decides a result. A finished
run is one file and never repeated; what was planned is kept, too, so that a restart changes no result.
"""

import hashlib
import json
import shutil
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitpeft.diff import RENDERER, Budget
from gitpeft.errors import GitpeftError
from gitpeft.git import Repository
from gitpeft.learn import advice, backtest, dataset, methods, page, pipeline, tuning
from gitpeft.learn.dataset import Dataset, Example
from gitpeft.learn.halving import (
    Candidate,
    Pace,
    Wish,
    candidates,
    long_steps,
    minutes_for,
    promoted,
    short_plan,
)
from gitpeft.learn.methods import Method
from gitpeft.learn.tuning import Job, Listener, write_json

if TYPE_CHECKING:
    from gitpeft.learn.bases import Base
    from gitpeft.learn.pipeline import Mined

MOST_ASKED = 120
"""Validation commits that every finalist is asked about."""


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


# --- the work -----------------------------------------------------------------------------------------------


class Comparison:
    """A comparison in its folder. `run` does what is left of it and returns the report."""

    def __init__(self, repo: Repository, wish: Wish, mined: "Mined", watch: Watcher) -> None:
        from gitpeft.learn import bases

        self.repo, self.wish, self.mined, self.watch = repo, wish, mined, watch
        self.found = candidates(wish)
        self.bases: dict[str, Base] = {name: bases.find(name) for name in wish.bases}
        for base in self.bases.values():
            base.check_exportable()
        self.data: Dataset = dataset.make(mined.records, Budget().exemplars)
        if len(self.data.examples) < dataset.ENOUGH:
            raise GitpeftError(
                f"only {len(self.data.examples)} usable commits, a comparison needs {dataset.ENOUGH}",
                "`gitpeft init` serves this history without training",
            )
        self.rows: list[Row] = []
        self.started = time.monotonic()

    @cached_property
    def folder(self) -> Path:
        """Where this comparison is kept."""
        decided = [
            asdict(self.wish) | {"until": self.mined.tip},
            [asdict(methods.of(*methods.parse(one.method))) for one in self.found],
            [base.digest for base in self.bases.values()],
            [RENDERER, len(self.data.examples)],
        ]
        key = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]
        folder = self.repo.state_dir / "compare" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    @cached_property
    def examples(self) -> list[Example]:
        """The validation commits that are asked about."""
        return backtest.sample(self.data.valid, MOST_ASKED, seed=1)

    def run(self) -> dict[str, Any]:
        """Everything that is not there yet; the report is also written as JSON and as a page."""
        self.baselines()  # first: what they cost is known then
        plan = self._kept("plan", self._plan_short)
        short = [self._short(Candidate(**one), plan["steps"]) for one in self._announce(plan)]
        final = self._kept("final", lambda: self._plan_long(plan, short))
        long = self._long(final, plan)
        report = self._report(plan, final, short, long)
        self._note_time()
        write_json(self.folder / "report.json", report)
        (self.folder / "report.html").write_text(page.html(report), encoding="utf-8")
        write_json(self.repo.state_dir / "compare" / "advice.json", report["advice"])
        return report

    def remaining(self) -> float:
        """Seconds of the budget that are left, counting what earlier, interrupted parts took."""
        return self.wish.minutes * 60 - self.spent()

    def spent(self) -> float:
        """Seconds of work so far."""
        path = self.folder / "spent.json"
        before = json.loads(path.read_text())["seconds"] if path.exists() else 0.0
        return float(before) + time.monotonic() - self.started

    def _note_time(self) -> None:
        write_json(self.folder / "spent.json", {"seconds": self.spent()})
        self.started = time.monotonic()

    def _kept(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self.folder / f"{name}.json"
        if not path.exists():
            write_json(path, make())
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def _plan_short(self) -> dict[str, Any]:
        """Measures what a run costs here, from loading to the last answer: three steps of the first."""
        self.watch(self.rows, "measuring what a run costs here")
        one, folder = self.found[0], self.folder / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        before = time.monotonic()
        result = self._finish(one, 3, folder, Row("trial", one.label, 0), self.wish.minutes)
        taken, steps = time.monotonic() - before, result["cost"]["seconds_to_best"]
        shutil.rmtree(folder, ignore_errors=True)
        around = result["around_seconds"]
        # full tuning, the dearest, costs about a third more a step than the first candidate
        pace = Pace(1.3 * steps / 3, around - steps, taken - around)
        return short_plan(self.found, self.remaining(), pace, self.wish.seeds)

    def _plan_long(self, plan: dict[str, Any], short: Sequence[dict[str, Any]]) -> dict[str, Any]:
        pace = Pace(**plan["pace"])
        finals = promoted(short, plan["least"])
        costs = [one["step_seconds"] for one in finals] or [pace.step] * len(plan["candidates"])
        steps = long_steps(costs, self.remaining(), plan["seeds"], plan["steps"], pace)
        return {"candidates": [one["candidate"] for one in finals] or plan["candidates"], "steps": steps}

    def _announce(self, plan: dict[str, Any]) -> list[dict[str, Any]]:
        """Whom the short runs are for: nobody, where all go on anyway."""
        chosen = list(plan["candidates"]) if plan["steps"] else []
        self.rows = [Row("short", Candidate(**one).label, 0) for one in chosen]
        self.watch(self.rows, "planned")
        return chosen

    def _job(self, one: Candidate, steps: int, minutes: float) -> Job:
        method = methods.of(*methods.parse(one.method))
        checks = min(4, max(1, steps // 10))
        return Job(self.bases[one.base], method, one.seed, minutes, steps, checks=checks)

    def _short(self, one: Candidate, steps: int) -> dict[str, Any]:
        return self._result(one, steps, "short", self._train, self.wish.minutes)

    def _long(self, final: dict[str, Any], plan: dict[str, Any]) -> list[dict[str, Any]]:
        """Seed by seed, so that a budget that ends early leaves all methods with as many runs."""
        first, pace = final["candidates"], Pace(**plan["pace"])
        runs = [replace(Candidate(**one), seed=seed) for seed in range(plan["seeds"]) for one in first]
        self.rows += [Row("long", run.label, run.seed) for run in runs]
        found: list[dict[str, Any]] = []
        for number, run in enumerate(runs):
            slowest = max((one["seconds"] for one in found), default=0.0)
            fits = self.remaining() > slowest * 1.1 or number < len(first)
            if fits or self._path(run, "long").exists():
                minutes = minutes_for(self.remaining(), len(first) - number % len(first), pace)
                found.append(self._result(run, final["steps"], "long", self._finish, minutes))
            else:
                self._row("long", run).state = "left out"
        return found

    def _path(self, one: Candidate, rung: str) -> Path:
        key = hashlib.sha256(json.dumps([rung, asdict(one)], sort_keys=True).encode()).hexdigest()[:12]
        return self.folder / "runs" / key / "result.json"

    def _row(self, rung: str, one: Candidate) -> Row:
        return next(r for r in self.rows if (r.rung, r.label, r.seed) == (rung, one.label, one.seed))

    def _result(
        self,
        one: Candidate,
        steps: int,
        rung: str,
        work: Callable[[Candidate, int, Path, Row, float], dict[str, Any]],
        minutes: float,
    ) -> dict[str, Any]:
        """A run's result, from its file where it is finished. Its weights are not kept."""
        path, row = self._path(one, rung), self._row(rung, one)
        if path.exists():
            row.state, row.result = "kept", json.loads(path.read_text(encoding="utf-8"))
            return dict(row.result)
        row.state, before = "running", time.monotonic()
        self.watch(self.rows, f"{rung} run: {row.label}")
        result = work(one, steps, path.parent, row, minutes)
        result |= {"candidate": asdict(one), "label": one.label, "name": one.name, "base": one.base}
        result["seconds"] = time.monotonic() - before
        write_json(path, result)
        for part in [p for p in path.parent.iterdir() if p != path]:
            shutil.rmtree(part) if part.is_dir() else part.unlink()
        self._note_time()
        row.state, row.result, row.done = "done", json.loads(path.read_text(encoding="utf-8")), 1.0
        self.watch(self.rows, f"{rung} run: {row.label}")
        return dict(row.result)

    def _train(self, one: Candidate, steps: int, folder: Path, row: Row, minutes: float) -> dict[str, Any]:
        def listen(step: str, done: float, detail: str) -> None:
            row.done, row.detail = done, detail
            self.watch(self.rows, f"{row.rung} run: {row.label}")

        before = time.monotonic()
        method, cost = tuning.train(self._job(one, steps, minutes), self.data, folder, listen)
        losses = [loss for _, loss in cost["valid_curve"]]
        return {
            "method": method.as_dict(),
            "steps": cost["steps"],
            "around_seconds": time.monotonic() - before,
            "valid_loss": min(losses),
            "step_seconds": cost["seconds"] / max(1, cost["steps"]),
            "cost": {name: value for name, value in cost.items() if "curve" not in name},
        }

    def _finish(self, one: Candidate, steps: int, folder: Path, row: Row, minutes: float) -> dict[str, Any]:
        """A long run: trained, exported through the gate, and asked."""
        result = self._train(one, steps, folder, row, minutes)
        row.detail = "exporting and asking"
        self.watch(self.rows, f"{row.rung} run: {row.label}")
        base = self.bases[one.base]
        kept = dict(result["method"])
        method: Method = methods.of(kept.pop("name"), kept)
        exported = tuning.export(base, method, self.data, folder)
        offers, spent = self._ask(base, exported["settings"], folder)
        result["cost"]["exported_bytes"] = sum(exported["sizes"].values())
        result["cost"]["answer_ms"] = 1000 * spent / max(1, len(offers))
        return result | {"parity": exported["parity"], "offers": offers}

    def _ask(self, base: "Base", settings: dict[str, Any], files: Path) -> tuple[list[str], float]:
        """What would be offered first for every example, and the seconds that took."""
        manifest = pipeline.manifest_of(self.data, self.mined)
        manifest = replace(manifest, **pipeline.of_base(base), settings=settings)
        with backtest.trial(manifest, files, self.index, self.habits) as suggester:
            before = time.monotonic()
            asked = backtest.ask(suggester, self.examples)
            spent = time.monotonic() - before
        return [one.offered(backtest.CONSENSUS) for one in asked], spent

    @cached_property
    def index(self) -> Any:
        """Earlier commits only: those of the training part."""
        return self.data.index_before(self.data.first_valid)

    @cached_property
    def habits(self) -> dict[str, Any]:
        """The team's style."""
        return pipeline.learn_style(self.mined.records, self.data)

    def baselines(self) -> dict[str, list[str]]:
        """What costs no training: the nearest neighbour, and each base as it is, with exemplars."""
        path = self.folder / "baselines.json"
        if not path.exists():
            self.watch(self.rows, "asking the baselines")
            found = {"nearest neighbour": backtest.neighbours(self.index, self.examples)}
            for name, base in self.bases.items():
                if ready := base.ready():
                    settings = json.loads((ready / "settings.json").read_text(encoding="utf-8"))
                    found[f"{name}{advice.UNTUNED}"] = self._ask(base, settings, ready)[0]
            write_json(path, found)
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def _report(
        self,
        plan: dict[str, Any],
        final: dict[str, Any],
        short: Sequence[dict[str, Any]],
        long: Sequence[dict[str, Any]],
    ) -> dict[str, Any]:
        late = [f"{row.label}, seed {row.seed}" for row in self.rows if row.state == "left out"]
        facts = {
            "task": self.wish.task,
            "repository": Path(self.repo.work_tree or self.repo.common_dir).name,
            "tip": self.mined.tip,
            "commits": len(self.data.examples),
            "budget_minutes": self.wish.minutes,
            "device": long[0]["cost"]["device"],
            "steps": {"short": plan["steps"], "long": final["steps"]},
            "seeds": max(one["candidate"]["seed"] for one in long) + 1,
            "left_out": [*plan["left_out"], *late],
            "short": [
                {name: one[name] for name in ("label", "valid_loss", "steps")}
                | {"promoted": one["candidate"] in final["candidates"]}
                for one in sorted(short, key=lambda one: one["valid_loss"])
            ],
        }
        baselines = self.baselines()
        asked = [(one.sha[:10], one.message) for one in self.examples]
        return advice.report(facts, long, baselines, asked) | {"seconds": self.spent()}


def _nobody(_step: str, _done: float, _detail: str) -> None:
    """Hears nothing."""


# --- from outside -------------------------------------------------------------------------------------------


def compare(repo: Repository, wish: Wish, watch: Watcher, listen: Listener = _nobody) -> dict[str, Any]:
    """Compare methods on this history; the report, and where its page is."""
    started = time.monotonic()
    candidates(wish)  # wrong names are said before any work
    work = Comparison(repo, wish, pipeline.mine(repo, wish.until, listen), watch)
    work.started = started
    return work.run() | {"page": str(work.folder / "report.html")}


def advised(repo: Repository) -> dict[str, Any]:
    """The newest advice for this repository; GitpeftError when nothing was compared yet."""
    path = repo.state_dir / "compare" / "advice.json"
    if not path.exists():
        raise GitpeftError(
            "nothing was compared here yet, so there is no advice to take",
            "run `gitpeft compare` first, or name a method",
        )
    return dict(json.loads(path.read_text(encoding="utf-8")))
