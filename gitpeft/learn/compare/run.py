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
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitpeft.diff.patch import RENDERER, Budget
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.learn import pipeline
from gitpeft.learn.compare import advice, findings, layer_probes, page
from gitpeft.learn.compare.halving import (
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
from gitpeft.learn.compare.runs import Order, Row, Runs, Watcher
from gitpeft.learn.compare.tasks import Field, MessageField
from gitpeft.learn.data import dataset, subsets
from gitpeft.learn.data.dataset import Dataset
from gitpeft.learn.data.subsets import Cut
from gitpeft.learn.models import methods
from gitpeft.learn.training import finetune
from gitpeft.learn.training.finetune import Listener, write_json

if TYPE_CHECKING:
    from gitpeft.learn.models.bases import Base
    from gitpeft.learn.pipeline import Mined

PACED_ON = 9
"""Commits that tell what a probe costs."""


# --- the work -----------------------------------------------------------------------------------------------


class Comparison:
    """A comparison in its folder. `run` does what is left of it and returns the report."""

    def __init__(
        self, repo: Repository, wish: Wish, mined: "Mined", watch: Watcher, listen: Listener
    ) -> None:
        from gitpeft.learn.models import bases

        self.repo, self.wish, self.mined, self.watch = repo, wish, mined, watch
        before = time.monotonic()
        self.found = candidates(wish)
        self.bases: dict[str, Base] = {name: bases.find(name) for name in wish.bases}
        self.data: Dataset = dataset.make(mined.records, Budget().exemplars)
        self.field: Field = self._field(listen)
        self.cuts = subsets.planned(self.field.parts, wish.low, wish.transfer)
        self.grounds = {cut: self.field.part(cut) for cut in self.cuts}
        self.runs = Runs(self.folder, self.bases, self._questions, watch, self._note_time)
        self.prepared = time.monotonic() - before

    def _field(self, listen: Listener) -> Field:
        if self.wish.task == finetune.MESSAGES:
            return MessageField(self.data, self.mined)
        from gitpeft.learn.compare.risk_task import RiskField

        return RiskField(self.repo, self.mined, listen)

    def _questions(self, base: "Base", commits: int) -> layer_probes.Questions:
        return layer_probes.questions(self.data.train, self.data.valid, base, commits)

    @cached_property
    def folder(self) -> Path:
        """Where this comparison is kept."""
        decided = [
            asdict(self.wish) | {"until": self.mined.tip},
            [asdict(methods.of(*methods.parse(one.method))) for one in self.found],
            [[base.digest, asdict(base.chooser())] for base in self.bases.values()],
            [RENDERER, len(self.data.examples), self.field.commits],
        ]
        key = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]
        folder = self.repo.state_dir / "compare" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def run(self) -> dict[str, Any]:
        """Everything that is not there yet, and what it says; what others did before it is not its time."""
        self.started = time.monotonic() - self.prepared
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
        self.watch(self.runs.rows, "measuring what a run costs here")
        one, folder = self.found[0], self.folder / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        before = time.monotonic()
        order = Order(one, "trial", 3, self.wish.minutes, self.field.whole)
        result = self.runs.make(order, folder, Row("trial", one.label, 0))
        taken, steps = time.monotonic() - before, result["cost"]["seconds_to_best"]
        shutil.rmtree(folder, ignore_errors=True)
        around = result["around_seconds"]
        # full tuning, the dearest, costs about a third more a step than the first candidate
        pace = Pace(1.3 * steps / 3, around - steps, taken - around, self._probe_pace())
        runs = len({one.kind for one in self.found})
        loads = [Load(cut.label, runs, finetune.most_steps(cut.examples)) for cut in self.cuts]
        probed = probed_commits(
            self.remaining(), pace, runs + len(self.bases), layer_probes.LEAST, layer_probes.MOST
        )
        seconds = self.remaining() - probed * pace.probe * (runs + len(self.bases))
        plan = short_plan(self.found, seconds, pace, self.wish.seeds, loads)
        if not probed:
            plan["left_out"].append("what each layer knows")
        return plan | {"probed": probed}

    def _probe_pace(self) -> float:
        base = next(iter(self.bases.values()))
        asked = self._questions(base, PACED_ON)
        return layer_probes.seconds_per_commit(base.load().get_encoder(), asked, PACED_ON)

    def _plan_long(self, plan: dict[str, Any], short: Sequence[dict[str, Any]]) -> dict[str, Any]:
        pace, loads = Pace(**plan["pace"]), [Load(**one) for one in plan["loads"]]
        finals = promoted(short, plan["least"])
        chosen = [one["candidate"] for one in finals] or plan["candidates"]
        costs = [one["step_seconds"] for one in finals] or [pace.step] * len(chosen)
        seconds = self.remaining() - self._probing(plan)
        steps = long_steps(costs, seconds, plan["seeds"], plan["steps"], pace, loads)
        return {"candidates": chosen, "steps": steps, "costs": costs}

    def _probing(self, plan: dict[str, Any]) -> float:
        """Seconds that probes take."""
        return float(plan["probed"] * plan["pace"]["probe"] * (plan["least"] + len(self.bases)))

    def _announce(self, plan: dict[str, Any]) -> list[dict[str, Any]]:
        """Whom the short runs are for: nobody, where all go on anyway."""
        chosen = list(plan["candidates"]) if plan["steps"] else []
        self.runs.rows = [Row("short", Candidate(**one).label, 0) for one in chosen]
        self.watch(self.runs.rows, "planned")
        return chosen

    # --- runs -----------------------------------------------------------------------------------------------

    def _short(self, one: Candidate, steps: int) -> dict[str, Any]:
        whole, minutes = self.field.whole, self.wish.minutes
        return self.runs.result(Order(one, "short", steps, minutes, whole, finished=False))

    def _long(self, final: dict[str, Any], plan: dict[str, Any]) -> list[dict[str, Any]]:
        """Seed by seed, so that a budget that ends early leaves all methods with as many runs."""
        first, pace = final["candidates"], Pace(**plan["pace"])
        after = seconds_of([Load(**one) for one in plan["loads"]], final["steps"], pace)
        runs = [replace(Candidate(**one), seed=seed) for seed in range(plan["seeds"]) for one in first]
        self.runs.rows += [Row("long", run.label, run.seed) for run in runs]
        found: list[dict[str, Any]] = []
        for number, run in enumerate(runs):
            slowest = max((one["seconds"] for one in found), default=0.0)
            fits = self.remaining() - after > slowest * 1.1 or number < len(first)
            if fits or self.runs.path(run, "long").exists():
                costs = final.get("costs", [1.0] * len(first))[number % len(first) :]
                minutes = minutes_for(self.remaining() - after, costs, pace)
                probed = plan["probed"] if run.seed == 0 and self._leads(run, final) else 0
                order = Order(run, "long", final["steps"], minutes, self.field.whole, probed=probed)
                found.append(self.runs.result(order))
            else:
                self.runs.row("long", run).state = "left out"
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
        self.runs.rows += [Row(cut.label, run.label, 0) for cut, run in todo]
        found: list[dict[str, Any]] = []
        slowest = 0.0
        for number, (cut, run) in enumerate(todo):
            if self.remaining() < slowest and not self.runs.path(run, cut.label).exists():
                self.runs.row(cut.label, run).state = "left out"
                continue
            steps = min(final["steps"], finetune.most_steps(cut.examples))
            minutes = minutes_for(self.remaining(), [1.0] * (len(todo) - number), pace)
            order = Order(run, cut.label, steps, minutes, self.grounds[cut])
            found.append(self.runs.result(order) | {"cut": cut})
            slowest = max(slowest, 1.1 * found[-1]["seconds"])
        told = {cut: self._asked_untuned(cut) for cut in {one["cut"] for one in found}}
        return [one | {"baselines": told[one["cut"]], "ground": self.grounds[one["cut"]]} for one in found]

    def _asked_untuned(self, cut: Cut) -> dict[str, Any]:
        name = hashlib.sha256(cut.label.encode()).hexdigest()[:12]
        return self._kept(f"baselines-{name}", lambda: dict(self.grounds[cut].baselines(self.bases)))

    # --- what costs no training, and the end ----------------------------------------------------------------

    def baselines(self) -> dict[str, Any]:
        """What the baselines say."""

        def ask() -> dict[str, Any]:
            self.watch(self.runs.rows, "asking the baselines")
            return dict(self.field.whole.baselines(self.bases))

        return self._kept("baselines", ask)

    def _probe_untuned(self, plan: dict[str, Any]) -> dict[str, Any]:
        """By base, what its layers know as it is."""

        def probe() -> dict[str, Any]:
            self.watch(self.runs.rows, "probing the untuned base")
            return {
                name: layer_probes.probe(base.load().get_encoder(), self._questions(base, plan["probed"]))
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
        late = [
            f"{row.rung}: {row.label}, seed {row.seed}" for row in self.runs.rows if row.state == "left out"
        ]
        late += [
            f"long: {one['label']}, seed {one['candidate']['seed']}: after {one['steps']:,} of "
            f"{final['steps']:,} steps its time was up"
            for one in long
            if one["steps"] < final["steps"]
        ]
        facts = {
            "task": self.wish.task,
            "repository": Path(self.repo.work_tree or self.repo.common_dir).name,
            "tip": self.mined.tip,
            "commits": self.field.commits,
            "taught": len(self.field.parts.train),
            "budget_minutes": self.wish.minutes,
            "device": long[0]["cost"]["device"],
            "steps": {"short": plan["steps"], "long": min(one["steps"] for one in long)},
            "seeds": min(Counter(one["label"] for one in long).values()),
            "left_out": [*plan["left_out"], *late],
            "short": [
                {name: one[name] for name in ("label", "valid_loss", "steps")}
                | {"promoted": one["candidate"] in final["candidates"]}
                for one in sorted(short, key=lambda one: one["valid_loss"])
            ],
            "probes": findings.probes(self._probe_untuned(plan), long),
        }
        facts |= findings.beyond(beyond, long, self.baselines(), self.field.whole, facts["taught"])
        asked = self.field.whole.shown()
        found = advice.report(facts, long, self.baselines(), asked, self.field.whole.yardstick)
        return found | {"seconds": self.spent()}


def _candidate(kept: dict[str, Any]) -> Candidate:
    return Candidate(**kept)


def _nobody(_step: str, _done: float, _detail: str) -> None:
    """Hears nothing."""


# --- from outside -------------------------------------------------------------------------------------------

RISK = "risk"
TASKS = {
    "message": (finetune.MESSAGES,),
    "messages": (finetune.MESSAGES,),
    RISK: (RISK,),
    "both": (finetune.MESSAGES, RISK),
}
"""What methods can be compared on, by what a person calls it."""


def compare(repo: Repository, wish: Wish, watch: Watcher, listen: Listener = _nobody) -> dict[str, Any]:
    """Compare methods on this history; the report, and where its page is.

    Several tasks share the budget evenly; one that this history allows nothing for is left out and said so,
    where there is another. The report is also written as JSON and as a page, and the advice where `advised`
    finds it.
    """
    started = time.monotonic()
    if wish.task not in TASKS:
        raise GitpeftError(f"there is no task {wish.task}", "known are message, risk and both")
    candidates(wish)  # wrong names are said before any work
    mined = pipeline.mine(repo, wish.until, listen)
    read = time.monotonic() - started
    works, left_out = _works(repo, wish, mined, watch, listen)
    works[0].prepared += read
    tasks, failed = _reports(works)
    left_out += failed
    report = {name: tasks[0][name] for name in ("repository", "tip", "commits", "device")}
    report |= {
        "budget_minutes": wish.minutes, "seconds": sum(task["seconds"] for task in tasks),
        "left_out": left_out, "tasks": tasks,
    }  # fmt: skip
    place = works[0].folder / "report.html"
    write_json(works[0].folder / "report.json", report)
    place.write_text(page.html(report), encoding="utf-8")
    _keep_advice(repo, {task["task"]: task["advice"] for task in tasks})
    return report | {"page": str(place)}


def _reports(works: Sequence[Comparison]) -> tuple[list[dict[str, Any]], list[str]]:
    """Each task's report, and why others have none: what one of them cannot do, the others need not lose."""
    reports: list[dict[str, Any]] = []
    failed: list[GitpeftError] = []
    for work in works:
        try:
            reports.append(work.run())
        except GitpeftError as error:
            failed.append(error)
    if not reports:
        raise failed[0]
    return reports, [error.message for error in failed]


def _keep_advice(repo: Repository, advice: dict[str, Any]) -> None:
    """Where `advised` finds it, beside that for other tasks."""
    path = repo.state_dir / "compare" / "advice.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, known | advice)


def _works(
    repo: Repository, wish: Wish, mined: "Mined", watch: Watcher, listen: Listener
) -> tuple[list[Comparison], list[str]]:
    """The comparisons of all tasks, each with its share of the time, and why others are left out."""
    names = TASKS[wish.task]
    works: list[Comparison] = []
    left_out: list[GitpeftError] = []
    for name in names:
        share = replace(wish, task=name, minutes=wish.minutes / len(names))
        try:
            works.append(Comparison(repo, share, mined, watch, listen))
        except GitpeftError as error:
            left_out.append(error)
    if not works:
        raise left_out[0]
    return works, [error.message for error in left_out]


def advised(repo: Repository, task: str = finetune.MESSAGES) -> dict[str, Any]:
    """The newest advice for a task in this repository; GitpeftError when nothing was compared yet."""
    path = repo.state_dir / "compare" / "advice.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if task not in found:
        raise GitpeftError(
            "nothing was compared here yet, so there is no advice to take",
            "run `gitpeft compare` first, or name a method",
        )
    return dict(found[task])
