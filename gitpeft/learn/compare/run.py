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

from gitpeft.diff.compact import RENDERER_VERSION
from gitpeft.diff.render import TokenBudget
from gitpeft.errors import GitpeftError
from gitpeft.files import write_json
from gitpeft.git.repository import Repository
from gitpeft.learn import pipeline
from gitpeft.learn.compare import advice, findings, layer_probes, page
from gitpeft.learn.compare.halving import (
    ComparisonRequest,
    PartRuns,
    RunCandidate,
    RunTimings,
    allot_minutes,
    count_probed_commits,
    estimate_seconds,
    list_candidates,
    plan_long_steps,
    plan_short_rung,
    select_finalists,
)
from gitpeft.learn.compare.runs import ComparisonRuns, RunRequest, RunStatus, RunWatcher
from gitpeft.learn.compare.tasks import ComparisonTask, MessageTask
from gitpeft.learn.data import dataset, subsets
from gitpeft.learn.data.dataset import Dataset
from gitpeft.learn.data.subsets import HistorySubset
from gitpeft.learn.models import methods
from gitpeft.learn.training import finetune
from gitpeft.learn.training.finetune import ProgressListener

if TYPE_CHECKING:
    from gitpeft.learn.models.bases import BaseModel
    from gitpeft.learn.pipeline import MinedHistory

PACE_COMMITS = 9
"""Commits that tell what a probe costs."""


# --- the work -----------------------------------------------------------------------------------------------


class Comparison:
    """A comparison in its folder. `run` does what is left of it and returns the report."""

    def __init__(
        self,
        repo: Repository,
        wish: ComparisonRequest,
        mined: "MinedHistory",
        watch: RunWatcher,
        listen: ProgressListener,
    ) -> None:
        from gitpeft.learn.models import bases

        self.repo, self.wish, self.mined, self.watch = repo, wish, mined, watch
        before = time.monotonic()
        self.found = list_candidates(wish)
        self.bases: dict[str, BaseModel] = {name: bases.find_base(name) for name in wish.bases}
        self.data: Dataset = dataset.build_dataset(mined.records, TokenBudget().exemplars)
        self.field: ComparisonTask = self._create_task(listen)
        self.cuts = subsets.plan_subsets(self.field.parts, wish.low, wish.transfer)
        self.grounds = {cut: self.field.make_part(cut) for cut in self.cuts}
        self.runs = ComparisonRuns(
            self.folder, self.bases, self._make_questions, watch, self._save_spent_time
        )
        self.prepared = time.monotonic() - before

    def _create_task(self, listen: ProgressListener) -> ComparisonTask:
        if self.wish.task == finetune.MESSAGE_TASK:
            return MessageTask(self.data, self.mined)
        from gitpeft.learn.compare.risk_task import RiskTask

        return RiskTask(self.repo, self.mined, listen)

    def _make_questions(self, base: "BaseModel", commits: int) -> layer_probes.ProbeQuestions:
        return layer_probes.make_probe_questions(self.data.train, self.data.valid, base, commits)

    @cached_property
    def folder(self) -> Path:
        """Where this comparison is kept."""
        decided = [
            asdict(self.wish) | {"until": self.mined.tip},
            [asdict(methods.make_method(*methods.parse_method(one.method))) for one in self.found],
            [[base.digest, asdict(base.load_reranker())] for base in self.bases.values()],
            [RENDERER_VERSION, len(self.data.examples), self.field.commits],
        ]
        key = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]
        folder = self.repo.state_dir / "compare" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def run(self) -> dict[str, Any]:
        """Everything that is not there yet, and what it says; what others did before it is not its time."""
        self.started = time.monotonic() - self.prepared
        self.ask_baselines()  # first: what they cost is known then
        plan = self._load_or_make("plan", self._plan_short_rung)
        short = [
            self._run_short(RunCandidate(**one), plan["steps"]) for one in self._announce_short_runs(plan)
        ]
        final = self._load_or_make("final", lambda: self._plan_long_rung(plan, short))
        self._probe_untuned(plan)
        long = self._run_long_rung(final, plan)
        beyond = self._run_on_parts(final, plan, long)
        report = self._build_report(plan, final, short, long, beyond)
        self._save_spent_time()
        return report

    # --- time -----------------------------------------------------------------------------------------------

    def remaining_seconds(self) -> float:
        """Seconds of the budget that are left, counting what earlier, interrupted parts took."""
        return self.wish.minutes * 60 - self.spent_seconds()

    def spent_seconds(self) -> float:
        """Seconds of work so far."""
        path = self.folder / "spent.json"
        before = json.loads(path.read_text())["seconds"] if path.exists() else 0.0
        return float(before) + time.monotonic() - self.started

    def _save_spent_time(self) -> None:
        write_json(self.folder / "spent.json", {"seconds": self.spent_seconds()})
        self.started = time.monotonic()

    # --- the plan -------------------------------------------------------------------------------------------

    def _load_or_make(self, name: str, make: Callable[[], dict[str, Any]]) -> dict[str, Any]:
        path = self.folder / f"{name}.json"
        if not path.exists():
            write_json(path, make())
        return dict(json.loads(path.read_text(encoding="utf-8")))

    def _plan_short_rung(self) -> dict[str, Any]:
        """Measures what a run costs here, from loading to the last answer: three steps of the first."""
        self.watch(self.runs.rows, "measuring what a run costs here")
        one, folder = self.found[0], self.folder / "trial"
        shutil.rmtree(folder, ignore_errors=True)
        before = time.monotonic()
        order = RunRequest(one, "trial", 3, self.wish.minutes, self.field.whole)
        result = self.runs.execute_run(order, folder, RunStatus("trial", one.label, 0))
        taken, steps = time.monotonic() - before, result["cost"]["seconds_to_best"]
        shutil.rmtree(folder, ignore_errors=True)
        around = result["around_seconds"]
        # full tuning, the dearest, costs about a third more a step than the first candidate
        pace = RunTimings(1.3 * steps / 3, around - steps, taken - around, self._measure_probe_pace())
        runs = len({one.kind for one in self.found})
        loads = [PartRuns(cut.label, runs, finetune.count_max_steps(cut.examples)) for cut in self.cuts]
        probed = count_probed_commits(
            self.remaining_seconds(),
            pace,
            runs + len(self.bases),
            layer_probes.MIN_PROBED_COMMITS,
            layer_probes.MAX_PROBED_COMMITS,
        )
        seconds = self.remaining_seconds() - probed * pace.probe * (runs + len(self.bases))
        plan = plan_short_rung(self.found, seconds, pace, self.wish.seeds, loads)
        if not probed:
            plan["left_out"].append("what each layer knows")
        return plan | {"probed": probed}

    def _measure_probe_pace(self) -> float:
        base = next(iter(self.bases.values()))
        asked = self._make_questions(base, PACE_COMMITS)
        return layer_probes.measure_seconds_per_commit(base.load().get_encoder(), asked, PACE_COMMITS)

    def _plan_long_rung(self, plan: dict[str, Any], short: Sequence[dict[str, Any]]) -> dict[str, Any]:
        pace, loads = RunTimings(**plan["pace"]), [PartRuns(**one) for one in plan["loads"]]
        finals = select_finalists(short, plan["least"])
        chosen = [one["candidate"] for one in finals] or plan["candidates"]
        costs = [one["step_seconds"] for one in finals] or [pace.step] * len(chosen)
        seconds = self.remaining_seconds() - self._estimate_probing_seconds(plan)
        steps = plan_long_steps(costs, seconds, plan["seeds"], plan["steps"], pace, loads)
        return {"candidates": chosen, "steps": steps, "costs": costs}

    def _estimate_probing_seconds(self, plan: dict[str, Any]) -> float:
        """Seconds that probes take."""
        return float(plan["probed"] * plan["pace"]["probe"] * (plan["least"] + len(self.bases)))

    def _announce_short_runs(self, plan: dict[str, Any]) -> list[dict[str, Any]]:
        """Whom the short runs are for: nobody, where all go on anyway."""
        chosen = list(plan["candidates"]) if plan["steps"] else []
        self.runs.rows = [RunStatus("short", RunCandidate(**one).label, 0) for one in chosen]
        self.watch(self.runs.rows, "planned")
        return chosen

    # --- runs -----------------------------------------------------------------------------------------------

    def _run_short(self, one: RunCandidate, steps: int) -> dict[str, Any]:
        whole, minutes = self.field.whole, self.wish.minutes
        return self.runs.load_or_run(RunRequest(one, "short", steps, minutes, whole, finished=False))

    def _run_long_rung(self, final: dict[str, Any], plan: dict[str, Any]) -> list[dict[str, Any]]:
        """Seed by seed, so that a budget that ends early leaves all methods with as many runs."""
        first, pace = final["candidates"], RunTimings(**plan["pace"])
        after = estimate_seconds([PartRuns(**one) for one in plan["loads"]], final["steps"], pace)
        runs = [replace(RunCandidate(**one), seed=seed) for seed in range(plan["seeds"]) for one in first]
        self.runs.rows += [RunStatus("long", run.label, run.seed) for run in runs]
        found: list[dict[str, Any]] = []
        for number, run in enumerate(runs):
            slowest = max((one["seconds"] for one in found), default=0.0)
            fits = self.remaining_seconds() - after > slowest * 1.1 or number < len(first)
            if fits or self.runs.result_path(run, "long").exists():
                costs = final.get("costs", [1.0] * len(first))[number % len(first) :]
                minutes = allot_minutes(self.remaining_seconds() - after, costs, pace)
                probed = plan["probed"] if run.seed == 0 and self._is_best_of_method(run, final) else 0
                order = RunRequest(run, "long", final["steps"], minutes, self.field.whole, probed=probed)
                found.append(self.runs.load_or_run(order))
            else:
                self.runs.find_row("long", run).state = "left out"
        return found

    @staticmethod
    def _is_best_of_method(run: RunCandidate, final: dict[str, Any]) -> bool:
        """Whether this is the best setting of its method: finalists are in the order of the short runs."""
        alike = [one for one in final["candidates"] if RunCandidate(**one).kind == run.kind]
        return RunCandidate(**alike[0]).method == run.method

    def _run_on_parts(
        self, final: dict[str, Any], plan: dict[str, Any], long: Sequence[dict[str, Any]]
    ) -> list[dict[str, Any]]:
        """The best setting of each method on every part of the history that time allows."""
        leaders = [
            run for run in map(_decode_candidate, final["candidates"]) if self._is_best_of_method(run, final)
        ]
        labels, pace = {one["label"] for one in plan["loads"]}, RunTimings(**plan["pace"])
        todo = [(cut, run) for cut in self.cuts if cut.label in labels for run in leaders]
        self.runs.rows += [RunStatus(cut.label, run.label, 0) for cut, run in todo]
        found: list[dict[str, Any]] = []
        slowest = 0.0
        for number, (cut, run) in enumerate(todo):
            if self.remaining_seconds() < slowest and not self.runs.result_path(run, cut.label).exists():
                self.runs.find_row(cut.label, run).state = "left out"
                continue
            steps = min(final["steps"], finetune.count_max_steps(cut.examples))
            minutes = allot_minutes(self.remaining_seconds(), [1.0] * (len(todo) - number), pace)
            order = RunRequest(run, cut.label, steps, minutes, self.grounds[cut])
            found.append(self.runs.load_or_run(order) | {"cut": cut})
            slowest = max(slowest, 1.1 * found[-1]["seconds"])
        told = {cut: self._ask_part_baselines(cut) for cut in {one["cut"] for one in found}}
        return [one | {"baselines": told[one["cut"]], "ground": self.grounds[one["cut"]]} for one in found]

    def _ask_part_baselines(self, cut: HistorySubset) -> dict[str, Any]:
        name = hashlib.sha256(cut.label.encode()).hexdigest()[:12]
        return self._load_or_make(
            f"baselines-{name}", lambda: dict(self.grounds[cut].ask_baselines(self.bases))
        )

    # --- what costs no training, and the end ----------------------------------------------------------------

    def ask_baselines(self) -> dict[str, Any]:
        """What the baselines say."""

        def make_answers() -> dict[str, Any]:
            self.watch(self.runs.rows, "asking the baselines")
            return dict(self.field.whole.ask_baselines(self.bases))

        return self._load_or_make("baselines", make_answers)

    def _probe_untuned(self, plan: dict[str, Any]) -> dict[str, Any]:
        """By base, what its layers know as it is."""

        def probe_bases() -> dict[str, Any]:
            self.watch(self.runs.rows, "probing the untuned base")
            return {
                name: layer_probes.probe_layers(
                    base.load().get_encoder(), self._make_questions(base, plan["probed"])
                )
                for name, base in self.bases.items()
            }

        return self._load_or_make("probes", probe_bases) if plan["probed"] else {}

    def _build_report(
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
            "probes": findings.summarise_probes(self._probe_untuned(plan), long),
        }
        facts |= findings.summarise_parts(
            beyond, long, self.ask_baselines(), self.field.whole, facts["taught"]
        )
        asked = self.field.whole.list_references()
        found = advice.build_task_report(facts, long, self.ask_baselines(), asked, self.field.whole.yardstick)
        return found | {"seconds": self.spent_seconds()}


def _decode_candidate(kept: dict[str, Any]) -> RunCandidate:
    return RunCandidate(**kept)


def _ignore_progress(_step: str, _done: float, _detail: str) -> None:
    """Hears nothing."""


# --- from outside -------------------------------------------------------------------------------------------

RISK = "risk"
TASK_CHOICES = {
    "message": (finetune.MESSAGE_TASK,),
    "messages": (finetune.MESSAGE_TASK,),
    RISK: (RISK,),
    "both": (finetune.MESSAGE_TASK, RISK),
}
"""What methods can be compared on, by what a person calls it."""


def compare_methods(
    repo: Repository, wish: ComparisonRequest, watch: RunWatcher, listen: ProgressListener = _ignore_progress
) -> dict[str, Any]:
    """Compare methods on this history; the report, and where its page is.

    Several tasks share the budget evenly; one that this history allows nothing for is left out and said so,
    where there is another. The report is also written as JSON and as a page, and the advice where `advised`
    finds it.
    """
    started = time.monotonic()
    if wish.task not in TASK_CHOICES:
        raise GitpeftError(f"there is no task {wish.task}", "known are message, risk and both")
    list_candidates(wish)  # wrong names are said before any work
    mined = pipeline.mine_history(repo, wish.until, listen)
    read = time.monotonic() - started
    works, left_out = _create_comparisons(repo, wish, mined, watch, listen)
    works[0].prepared += read
    tasks, failed = _run_comparisons(works)
    left_out += failed
    report = {name: tasks[0][name] for name in ("repository", "tip", "commits", "device")}
    report |= {
        "budget_minutes": wish.minutes, "seconds": sum(task["seconds"] for task in tasks),
        "left_out": left_out, "tasks": tasks,
    }  # fmt: skip
    place = works[0].folder / "report.html"
    write_json(works[0].folder / "report.json", report)
    place.write_text(page.render_comparison_page(report), encoding="utf-8")
    _save_advice(repo, {task["task"]: task["advice"] for task in tasks})
    return report | {"page": str(place)}


def _run_comparisons(works: Sequence[Comparison]) -> tuple[list[dict[str, Any]], list[str]]:
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


def _save_advice(repo: Repository, advice: dict[str, Any]) -> None:
    """Where `advised` finds it, beside that for other tasks."""
    path = repo.state_dir / "compare" / "advice.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, known | advice)


def _create_comparisons(
    repo: Repository,
    wish: ComparisonRequest,
    mined: "MinedHistory",
    watch: RunWatcher,
    listen: ProgressListener,
) -> tuple[list[Comparison], list[str]]:
    """The comparisons of all tasks, each with its share of the time, and why others are left out."""
    names = TASK_CHOICES[wish.task]
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


def load_advice(repo: Repository, task: str = finetune.MESSAGE_TASK) -> dict[str, Any]:
    """The newest advice for a task in this repository; GitpeftError when nothing was compared yet."""
    path = repo.state_dir / "compare" / "advice.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if task not in found:
        raise GitpeftError(
            "nothing was compared here yet, so there is no advice to take",
            "run `gitpeft compare` first, or name a method",
        )
    return dict(found[task])
