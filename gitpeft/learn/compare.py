"""Methods side by side on one history, within a time budget: hides the plan, resuming, and what is measured.

    short runs of all candidates → the better half, and the best of each method → long runs
    → the best of each method on parts of the history → quality and cost, and what they say

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
from functools import cached_property, partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitpeft.diff import RENDERER, Budget
from gitpeft.errors import GitpeftError
from gitpeft.git import Repository
from gitpeft.learn import advice, cuts, dataset, findings, layers, methods, page, pipeline, tuning
from gitpeft.learn.cuts import Cut
from gitpeft.learn.dataset import Dataset
from gitpeft.learn.grounds import Ground, Messages
from gitpeft.learn.halving import (
    Candidate,
    Load,
    Pace,
    Wish,
    candidates,
    long_steps,
    minutes_for,
    probed_commits,
    promoted,
    seconds_of,
    short_plan,
)
from gitpeft.learn.tuning import Job, Listener, write_json

if TYPE_CHECKING:
    from gitpeft.learn.bases import Base
    from gitpeft.learn.pipeline import Mined

PACED_ON = 9
"""Commits that tell what a probe costs."""


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
        self.data: Dataset = dataset.make(mined.records, Budget().exemplars)
        if len(self.data.examples) < dataset.ENOUGH:
            raise GitpeftError(
                f"only {len(self.data.examples)} usable commits, a comparison needs {dataset.ENOUGH}",
                "`gitpeft init` serves this history without training",
            )
        self.parts = cuts.Parts(self.data.train, self.data.valid, lambda one: cuts.language_of(one.change))
        self.cuts = cuts.planned(self.parts, wish.low, wish.transfer)
        self.whole: Ground = Messages(self.data, mined, self.data.valid)
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

    def ground(self, cut: Cut) -> Ground:
        """A part of the history to try methods on."""
        train, valid, asked = self.parts.of(cut)
        neighbours = Budget().exemplars
        return Messages(dataset.of_parts(train, valid, neighbours), self.mined, self._met(train, asked))

    @staticmethod
    def _met(train: Sequence[Any], asked: Sequence[Any]) -> list[Any]:
        """The asked commits with exemplars of what teaches."""
        return list(dataset.of_parts(train, asked, Budget().exemplars).valid)

    def run(self) -> dict[str, Any]:
        """Everything that is not there yet, and what it says."""
        self.baselines()  # first: what they cost is known then
        plan = self._kept("plan", self._plan_short)
        short = [self._short(Candidate(**one), plan["steps"]) for one in self._announce(plan)]
        final = self._kept("final", lambda: self._plan_long(plan, short))
        self._probe_untuned(plan)
        long = self._long(final, plan)
        beyond = self._beyond(final, plan, long)
        report = self._report(plan, final, short, long, beyond)
        self._note_time()
        return report

    # --- time -----------------------------------------------------------------------------------------------

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

    # --- the plan -------------------------------------------------------------------------------------------

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
        result = self._finish(one, 3, folder, Row("trial", one.label, 0), self.wish.minutes, self.whole)
        taken, steps = time.monotonic() - before, result["cost"]["seconds_to_best"]
        shutil.rmtree(folder, ignore_errors=True)
        around = result["around_seconds"]
        # full tuning, the dearest, costs about a third more a step than the first candidate
        pace = Pace(1.3 * steps / 3, around - steps, taken - around, self._probe_pace())
        runs = len({one.kind for one in self.found})
        loads = [Load(cut.label, runs, tuning.most_steps(cut.examples)) for cut in self.cuts]
        probed = probed_commits(self.remaining(), pace, runs + len(self.bases), layers.LEAST, layers.MOST)
        seconds = self.remaining() - probed * pace.probe * (runs + len(self.bases))
        plan = short_plan(self.found, seconds, pace, self.wish.seeds, loads)
        if not probed:
            plan["left_out"].append("what each layer knows")
        return plan | {"probed": probed}

    def _probe_pace(self) -> float:
        base = next(iter(self.bases.values()))
        asked = layers.questions(self.data.train, self.data.valid, base, PACED_ON)
        return layers.seconds_per_commit(base.load(), asked, PACED_ON)

    def _plan_long(self, plan: dict[str, Any], short: Sequence[dict[str, Any]]) -> dict[str, Any]:
        pace, loads = Pace(**plan["pace"]), [Load(**one) for one in plan["loads"]]
        finals = promoted(short, plan["least"])
        chosen = [one["candidate"] for one in finals] or plan["candidates"]
        costs = [one["step_seconds"] for one in finals] or [pace.step] * len(chosen)
        seconds = self.remaining() - self._probing(plan)
        steps = long_steps(costs, seconds, plan["seeds"], plan["steps"], pace, loads)
        return {"candidates": chosen, "steps": steps}

    def _probing(self, plan: dict[str, Any]) -> float:
        """Seconds that probes take."""
        return float(plan["probed"] * plan["pace"]["probe"] * (plan["least"] + len(self.bases)))

    def _announce(self, plan: dict[str, Any]) -> list[dict[str, Any]]:
        """Whom the short runs are for: nobody, where all go on anyway."""
        chosen = list(plan["candidates"]) if plan["steps"] else []
        self.rows = [Row("short", Candidate(**one).label, 0) for one in chosen]
        self.watch(self.rows, "planned")
        return chosen

    # --- runs -----------------------------------------------------------------------------------------------

    def _short(self, one: Candidate, steps: int) -> dict[str, Any]:
        return self._result(one, steps, "short", partial(self._train, ground=self.whole), self.wish.minutes)

    def _long(self, final: dict[str, Any], plan: dict[str, Any]) -> list[dict[str, Any]]:
        """Seed by seed, so that a budget that ends early leaves all methods with as many runs."""
        first, pace = final["candidates"], Pace(**plan["pace"])
        after = seconds_of([Load(**one) for one in plan["loads"]], final["steps"], pace)
        runs = [replace(Candidate(**one), seed=seed) for seed in range(plan["seeds"]) for one in first]
        self.rows += [Row("long", run.label, run.seed) for run in runs]
        found: list[dict[str, Any]] = []
        for number, run in enumerate(runs):
            slowest = max((one["seconds"] for one in found), default=0.0)
            fits = self.remaining() - after > slowest * 1.1 or number < len(first)
            if fits or self._path(run, "long").exists():
                minutes = minutes_for(self.remaining() - after, len(first) - number % len(first), pace)
                probed = plan["probed"] if run.seed == 0 and self._leads(run, final) else 0
                work = partial(self._finish, ground=self.whole, probed=probed)
                found.append(self._result(run, final["steps"], "long", work, minutes))
            else:
                self._row("long", run).state = "left out"
        return found

    @staticmethod
    def _leads(run: Candidate, final: dict[str, Any]) -> bool:
        """Whether this is the best setting of its method: finalists are in the order of the short runs."""
        alike = [one for one in final["candidates"] if Candidate(**one).kind == run.kind]
        return Candidate(**alike[0]).method == run.method

    def _beyond(
        self, final: dict[str, Any], plan: dict[str, Any], long: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The best setting of each method on every part of the history that time allows."""
        leaders = [run for run in map(_candidate, final["candidates"]) if self._leads(run, final)]
        labels, pace = {one["label"] for one in plan["loads"]}, Pace(**plan["pace"])
        todo = [(cut, run) for cut in self.cuts if cut.label in labels for run in leaders]
        self.rows += [Row(cut.label, run.label, 0) for cut, run in todo]
        found: list[dict[str, Any]] = []
        grounds = {cut: self.ground(cut) for cut in dict.fromkeys(cut for cut, _ in todo)}
        slowest = 0.0
        for number, (cut, run) in enumerate(todo):
            if self.remaining() < slowest and not self._path(run, cut.label).exists():
                self._row(cut.label, run).state = "left out"
                continue
            steps = min(final["steps"], tuning.most_steps(cut.examples))
            minutes = minutes_for(self.remaining(), len(todo) - number, pace)
            work = partial(self._finish, ground=grounds[cut])
            found.append(self._result(run, steps, cut.label, work, minutes) | {"cut": cut})
            slowest = max(slowest, 1.1 * found[-1]["seconds"])
        told = {cut: self._asked_untuned(cut, grounds[cut]) for cut in {one["cut"] for one in found}}
        return [one | {"baselines": told[one["cut"]], "ground": grounds[one["cut"]]} for one in found]

    def _asked_untuned(self, cut: Cut, ground: Ground) -> dict[str, Any]:
        name = hashlib.sha256(cut.label.encode()).hexdigest()[:12]
        return self._kept(f"baselines-{name}", lambda: ground.baselines(self.bases))

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

    def _job(self, one: Candidate, steps: int, minutes: float) -> Job:
        method = methods.of(*methods.parse(one.method))
        checks = min(4, max(1, steps // 10))
        return Job(self.bases[one.base], method, one.seed, minutes, steps, checks=checks)

    def _train(
        self, one: Candidate, steps: int, folder: Path, row: Row, minutes: float, ground: Ground
    ) -> dict[str, Any]:
        def listen(step: str, done: float, detail: str) -> None:
            row.done, row.detail = done, detail
            self.watch(self.rows, f"{row.rung} run: {row.label}")

        before = time.monotonic()
        method, cost = ground.train(self._job(one, steps, minutes), folder, listen)
        losses = [loss for _, loss in cost["valid_curve"]]
        return {
            "method": method.as_dict(),
            "steps": cost["steps"],
            "around_seconds": time.monotonic() - before,
            "valid_loss": min(losses),
            "step_seconds": cost["seconds"] / max(1, cost["steps"]),
            "cost": {name: value for name, value in cost.items() if "curve" not in name},
        }

    def _finish(
        self,
        one: Candidate,
        steps: int,
        folder: Path,
        row: Row,
        minutes: float,
        ground: Ground,
        probed: int = 0,
    ) -> dict[str, Any]:
        """A long run: trained, exported through the gate, asked; its layers probed on `probed` commits."""
        result = self._train(one, steps, folder, row, minutes, ground)
        row.detail = "exporting and asking"
        self.watch(self.rows, f"{row.rung} run: {row.label}")
        job, kept = self._job(one, steps, minutes), dict(result["method"])
        method = methods.of(kept.pop("name"), kept)
        finished = ground.finish(job, method, folder)
        result["cost"] |= finished.pop("cost")
        if probed:
            row.detail = "probing its layers"
            self.watch(self.rows, f"{row.rung} run: {row.label}")
            asked = layers.questions(self.data.train, self.data.valid, job.base, probed)
            result["probes"] = layers.probe(ground.tuned(job, method, folder), asked)
        return result | finished

    # --- what costs no training, and the end ----------------------------------------------------------------

    def baselines(self) -> dict[str, Any]:
        """What the baselines say."""

        def ask() -> dict[str, Any]:
            self.watch(self.rows, "asking the baselines")
            return dict(self.whole.baselines(self.bases))

        return self._kept("baselines", ask)

    def _probe_untuned(self, plan: dict[str, Any]) -> dict[str, Any]:
        """By base, what its layers know as it is."""

        def probe() -> dict[str, Any]:
            self.watch(self.rows, "probing the untuned base")
            return {
                name: layers.probe(
                    base.load(), layers.questions(self.data.train, self.data.valid, base, plan["probed"])
                )
                for name, base in self.bases.items()
            }

        return self._kept("probes", probe) if plan["probed"] else {}

    def _report(
        self,
        plan: dict[str, Any],
        final: dict[str, Any],
        short: Sequence[dict[str, Any]],
        long: Sequence[dict[str, Any]],
        beyond: Sequence[dict[str, Any]],
    ) -> dict[str, Any]:
        late = [f"{row.rung}: {row.label}, seed {row.seed}" for row in self.rows if row.state == "left out"]
        facts = {
            "task": self.wish.task,
            "repository": Path(self.repo.work_tree or self.repo.common_dir).name,
            "tip": self.mined.tip,
            "commits": len(self.data.examples),
            "taught": len(self.data.train),
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
            "probes": findings.probes(self._probe_untuned(plan), long),
        }
        facts |= findings.beyond(beyond, long, self.baselines(), self.whole, len(self.data.train))
        asked = self.whole.shown()
        found = advice.report(facts, long, self.baselines(), asked, self.whole.yardstick)
        return found | {"seconds": self.spent()}


def _candidate(kept: dict[str, Any]) -> Candidate:
    return Candidate(**kept)


def _nobody(_step: str, _done: float, _detail: str) -> None:
    """Hears nothing."""


# --- from outside -------------------------------------------------------------------------------------------

TASKS = (tuning.MESSAGES,)
"""What methods can be compared on."""


def compare(repo: Repository, wish: Wish, watch: Watcher, listen: Listener = _nobody) -> dict[str, Any]:
    """Compare methods on this history; the report, and where its page is.

    The report is also written as JSON and as a page, and the advice where `advised` finds it.
    """
    started = time.monotonic()
    candidates(wish)  # wrong names are said before any work
    work = Comparison(repo, wish, pipeline.mine(repo, wish.until, listen), watch)
    work.started = started
    tasks = [work.run()]
    report = {
        name: tasks[0][name] for name in ("repository", "tip", "commits", "device")
    } | {"budget_minutes": wish.minutes, "seconds": work.spent(), "tasks": tasks}  # fmt: skip
    place = work.folder / "report.html"
    write_json(work.folder / "report.json", report)
    place.write_text(page.html(report), encoding="utf-8")
    write_json(repo.state_dir / "compare" / "advice.json", {task["task"]: task["advice"] for task in tasks})
    return report | {"page": str(place)}


def advised(repo: Repository, task: str = tuning.MESSAGES) -> dict[str, Any]:
    """The newest advice for a task in this repository; GitpeftError when nothing was compared yet."""
    path = repo.state_dir / "compare" / "advice.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if task not in found:
        raise GitpeftError(
            "nothing was compared here yet, so there is no advice to take",
            "run `gitpeft compare` first, or name a method",
        )
    return dict(found[task])
