"""The comparison of methods on one task, within a time budget, from planning to the report.

    short runs of all candidates → the better half, and the best of each method → long runs
    → the best of each method on parts of the history → quality, cost and advice

That is successive halving (see `halving`). In a rung all runs have the same data, steps, batches and
schedule. Quality is measured on the validation part: a comparison chooses between settings, so the newest
tenth stays unseen for `gitpeft init` to measure on.

Everything is stored in <state_dir>/compare/<key>/, where the key is made of all that decides a result. A
finished run is one file and never repeated; plans are stored too, so that a restart changes no result.
"""

import hashlib
import json
import shutil
import time
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, replace
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

from gitpeft.bundle.manifest import GRAPH_VERSION
from gitpeft.diff.compact import RENDERER_VERSION
from gitpeft.diff.render import TokenBudget
from gitpeft.files import write_json
from gitpeft.git.repository import Repository
from gitpeft.learn.compare import findings, layer_probes
from gitpeft.learn.compare.findings import SubsetRun
from gitpeft.learn.compare.halving import (
    ComparisonRequest,
    LongRungPlan,
    PartRuns,
    RunTimings,
    ShortRungPlan,
    allot_minutes,
    count_advice_steps,
    count_probed_commits,
    encode_plan,
    estimate_budget_minutes,
    estimate_seconds,
    list_candidates,
    plan_long_steps,
    plan_short_rung,
    select_finalists,
)
from gitpeft.learn.compare.report import RungSteps, ShortRun, TaskFacts, TaskReport
from gitpeft.learn.compare.results import Answers, LayerAccuracies, RunCandidate, RunResult
from gitpeft.learn.compare.runs import ComparisonRuns, RunRequest, RunStatus, RunWatcher
from gitpeft.learn.compare.task_report import build_task_report
from gitpeft.learn.compare.tasks import ComparisonTask, MessageTask
from gitpeft.learn.data import dataset, subsets
from gitpeft.learn.data.dataset import Dataset
from gitpeft.learn.data.subsets import HistorySubset
from gitpeft.learn.models import architectures, methods
from gitpeft.learn.training import finetune
from gitpeft.learn.training.devices import pick_device
from gitpeft.learn.training.finetune import ProgressListener

if TYPE_CHECKING:
    from gitpeft.learn.models.bases import BaseModel
    from gitpeft.learn.results import MinedHistory

PACE_COMMITS = 9
"""Commits on which the time of a probe is measured."""

TRIAL_STEPS, TRIAL_ANSWERS = {"cpu": 4, "cuda": 16}, 12
"""Steps by device, and evaluated commits, of the run that measures what a run costs here. The first steps on
a GPU load kernels, and take up to a hundred times as long as later ones."""

MIN_PROBING_MINUTES = 3.0
"""The smallest budget of which the tenth for probes is worth measuring them."""

Stored = TypeVar("Stored")


class Comparison:
    """A comparison on one task, in its folder. `run` executes what is left of it and returns the report."""

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
        self.prepared, self.notes = time.monotonic() - before, list[str]()

    def _create_task(self, listen: ProgressListener) -> ComparisonTask:
        if self.wish.task == finetune.MESSAGE_TASK:
            return MessageTask(self.data, self.mined)
        from gitpeft.learn.compare.risk_task import RiskTask

        return RiskTask(self.repo, self.mined, listen)

    def _make_questions(self, base: "BaseModel", commits: int) -> layer_probes.ProbeQuestions:
        return layer_probes.make_probe_questions(self.data.train, self.data.valid, base, commits)

    @cached_property
    def folder(self) -> Path:
        """Where this comparison is stored."""
        decided = [
            asdict(self.wish) | {"until": self.mined.tip},
            [asdict(methods.make_method(*methods.parse_method(one.method))) for one in self.found],
            [[base.digest, asdict(base.load_reranker())] for base in self.bases.values()],
            [RENDERER_VERSION, GRAPH_VERSION, len(self.data.examples), self.field.commits],
        ]
        key = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]
        folder = self.repo.state_dir / "compare" / key
        folder.mkdir(parents=True, exist_ok=True)
        return folder

    def run(self) -> TaskReport:
        """Execute everything that is not stored yet; time that others spent before is not counted."""
        self.started = time.monotonic() - self.prepared
        self.ask_baselines()  # first, since the plan has to know what is left of the budget after them
        plan = self._load_or_make("plan", ShortRungPlan.from_dict, self._plan_short_rung)
        short = [self._run_short(one, plan.steps) for one in self._announce_short_runs(plan)]
        final = self._load_or_make("final", LongRungPlan.from_dict, lambda: self._plan_long_rung(plan, short))
        self._probe_untuned(plan)
        long = self._run_long_rung(final, plan)
        beyond = self._run_on_parts(final, plan)
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

    def _load_or_make(
        self,
        name: str,
        decode: Callable[[Mapping[str, Any]], Stored],
        make: Callable[[], Mapping[str, object]],
    ) -> Stored:
        """A stored intermediate result; what cannot be read is made again, which is announced."""
        path = self.folder / f"{name}.json"
        if path.exists():
            try:
                return decode(json.loads(path.read_text(encoding="utf-8")))
            except (KeyError, TypeError, ValueError):
                self.watch(self.runs.rows, f"the stored {name} cannot be read and is made again")
        write_json(path, make())
        return decode(json.loads(path.read_text(encoding="utf-8")))

    def _plan_short_rung(self) -> Mapping[str, object]:
        """Plan from the measured costs of a run."""
        pace = self._measure_pace()
        runs = len({one.kind for one in self.found})
        loads = [PartRuns(cut.label, runs, finetune.count_max_steps(cut.examples)) for cut in self.cuts]
        probed = self._count_probed(pace, runs + len(self.bases))
        seconds = self.remaining_seconds() - probed * pace.probe * (runs + len(self.bases))
        plan = plan_short_rung(self.found, seconds, pace, self.wish.seeds, loads)
        left_out = plan.left_out if probed else (*plan.left_out, "layer probes")
        return encode_plan(replace(plan, left_out=left_out, probed=probed))

    def _measure_pace(self) -> RunTimings:
        """The costs of a run here, from loading to the last answer, measured on a few steps and commits."""
        one, folder = self.found[0], self.folder / "trial"
        count = TRIAL_STEPS[pick_device().type]
        row = RunStatus("trial", one.label, 0, "running", steps=count)
        self.runs.rows = [row]
        self.watch(self.runs.rows, "measuring the time of a run")
        shutil.rmtree(folder, ignore_errors=True)
        before = time.monotonic()
        ground = self.field.whole.make_small(TRIAL_ANSWERS)
        result = self.runs.execute_run(
            RunRequest(one, "trial", count, self.wish.minutes, ground), folder, row
        )
        taken = time.monotonic() - before
        steps = result.cost.seconds_to_best - result.cost.startup_seconds
        shutil.rmtree(folder, ignore_errors=True)
        more_answers = len(self.field.whole.scorer) - len(ground.scorer)
        finish = taken - result.around_seconds + more_answers * result.cost.answer_ms / 1000
        # full tuning, the slowest, takes about a third more for a step than the first candidate
        step = 1.3 * steps / max(1, result.steps)
        return RunTimings(step, result.around_seconds - steps, finish, self._measure_probe_pace())

    def _measure_probe_pace(self) -> float:
        """Seconds to probe one commit; 0 where the budget is too small for probes."""
        if self.wish.minutes < MIN_PROBING_MINUTES:
            return 0.0
        base = next(iter(self.bases.values()))
        asked = self._make_questions(base, PACE_COMMITS)
        return layer_probes.measure_seconds_per_commit(
            architectures.get_reading_stack(base.load()), asked, PACE_COMMITS, self.notes
        )

    def _count_probed(self, pace: RunTimings, systems: int) -> int:
        """Commits that the layers of all systems are probed on; 0 where the budget is too small."""
        if not pace.probe:
            return 0
        least, most = layer_probes.MIN_PROBED_COMMITS, layer_probes.MAX_PROBED_COMMITS
        return count_probed_commits(self.remaining_seconds(), pace, systems, least, most)

    def _plan_long_rung(self, plan: ShortRungPlan, short: Sequence[RunResult]) -> Mapping[str, object]:
        finals = select_finalists(short, plan.least)
        chosen = tuple(one.candidate for one in finals) or plan.candidates
        costs = tuple(one.step_seconds for one in finals) or (plan.pace.step,) * len(chosen)
        seconds = self.remaining_seconds() - self._estimate_probing_seconds(plan)
        steps = plan_long_steps(costs, seconds, plan.seeds, plan.steps, plan.pace, plan.loads)
        return encode_plan(LongRungPlan(chosen, steps, costs))

    def _estimate_probing_seconds(self, plan: ShortRungPlan) -> float:
        return float(plan.probed * plan.pace.probe * (plan.least + len(self.bases)))

    def _announce_short_runs(self, plan: ShortRungPlan) -> tuple[RunCandidate, ...]:
        """The candidates of short runs: none where all go on to long ones anyway."""
        chosen = plan.candidates if plan.steps else ()
        self.runs.rows = [RunStatus("short", one.label, 0, steps=plan.steps) for one in chosen]
        self.watch(self.runs.rows, "planned")
        return chosen

    # --- runs -----------------------------------------------------------------------------------------------

    def _run_short(self, one: RunCandidate, steps: int) -> RunResult:
        whole, minutes = self.field.whole, self.wish.minutes
        return self.runs.load_or_run(RunRequest(one, "short", steps, minutes, whole, finished=False))

    def _run_long_rung(self, final: LongRungPlan, plan: ShortRungPlan) -> list[RunResult]:
        """Seed by seed, so that a budget that ends early leaves all methods with as many runs."""
        first = final.candidates
        after = estimate_seconds(plan.loads, final.steps, plan.pace)
        runs = [replace(one, seed=seed) for seed in range(plan.seeds) for one in first]
        self.runs.rows += [RunStatus("long", run.label, run.seed, steps=final.steps) for run in runs]
        found: list[RunResult] = []
        for number, run in enumerate(runs):
            slowest = max((one.seconds for one in found), default=0.0)
            fits = self.remaining_seconds() - after > slowest * 1.1 or number < len(first)
            if not fits and not self.runs.result_path(run, "long").exists():
                self.runs.find_row("long", run).state = "skipped"
                continue
            costs = final.costs[number % len(first) :]
            minutes = allot_minutes(self.remaining_seconds() - after, costs, plan.pace)
            probed = plan.probed if run.seed == 0 and _is_best_of_method(run, final) else 0
            order = RunRequest(run, "long", final.steps, minutes, self.field.whole, probed=probed)
            found.append(self.runs.load_or_run(order))
        return found

    def _run_on_parts(self, final: LongRungPlan, plan: ShortRungPlan) -> list[SubsetRun]:
        """The best setting of each method on every part of the history that time allows."""
        leaders = [run for run in final.candidates if _is_best_of_method(run, final)]
        labels = {one.label for one in plan.loads}
        todo = [(cut, run) for cut in self.cuts if cut.label in labels for run in leaders]
        self.runs.rows += [RunStatus(cut.label, run.label, 0) for cut, run in todo]
        found: list[tuple[HistorySubset, RunResult]] = []
        slowest = 0.0
        for number, (cut, run) in enumerate(todo):
            if self.remaining_seconds() < slowest and not self.runs.result_path(run, cut.label).exists():
                self.runs.find_row(cut.label, run).state = "skipped"
                continue
            steps = min(final.steps, finetune.count_max_steps(cut.examples))
            minutes = allot_minutes(self.remaining_seconds(), [1.0] * (len(todo) - number), plan.pace)
            order = RunRequest(run, cut.label, steps, minutes, self.grounds[cut])
            found.append((cut, self.runs.load_or_run(order)))
            slowest = max(slowest, 1.1 * found[-1][1].seconds)
        baselines = {cut: self._ask_part_baselines(cut) for cut in {cut for cut, _ in found}}
        return [
            SubsetRun(run.label, run.answers, cut, self.grounds[cut].scorer, baselines[cut])
            for cut, run in found
        ]

    def _ask_part_baselines(self, cut: HistorySubset) -> dict[str, Answers]:
        name = hashlib.sha256(cut.label.encode()).hexdigest()[:12]
        return self._load_or_make(
            f"baselines-{name}", dict, lambda: dict(self.grounds[cut].ask_baselines(self.bases))
        )

    # --- baselines and the report ---------------------------------------------------------------------------

    def ask_baselines(self) -> dict[str, Answers]:
        """The answers of the baselines."""

        def make_answers() -> dict[str, Answers]:
            self.watch(self.runs.rows, "evaluating the baselines")
            return dict(self.field.whole.ask_baselines(self.bases))

        return self._load_or_make("baselines", dict, make_answers)

    def _probe_untuned(self, plan: ShortRungPlan) -> dict[str, LayerAccuracies]:
        """By base, the accuracies of its layers before tuning."""

        def probe_bases() -> dict[str, LayerAccuracies]:
            self.watch(self.runs.rows, "probing the untuned base model")
            return {
                name: layer_probes.probe_layers(
                    architectures.get_reading_stack(base.load()),
                    self._make_questions(base, plan.probed),
                    self.notes,
                )
                for name, base in self.bases.items()
            }

        return self._load_or_make("probes", dict, probe_bases) if plan.probed else {}

    def _build_report(
        self,
        plan: ShortRungPlan,
        final: LongRungPlan,
        short: Sequence[RunResult],
        long: Sequence[RunResult],
        beyond: Sequence[SubsetRun],
    ) -> TaskReport:
        whole, baselines, taught = self.field.whole, self.ask_baselines(), len(self.field.parts.train)
        least_steps = count_advice_steps(taught)
        overhead = max(0.0, self.spent_seconds() - sum(one.seconds for one in (*short, *long)))
        kinds = len({one.kind for one in self.found})
        facts = TaskFacts(
            task=self.wish.task,
            repository=Path(self.repo.work_tree or self.repo.common_dir).name,
            tip=self.mined.tip,
            commits=self.field.commits,
            taught=taught,
            budget_minutes=self.wish.minutes,
            device=long[0].cost.device,
            steps=RungSteps(plan.steps, min(one.steps for one in long)),
            seeds=min(Counter(one.label for one in long).values()),
            left_out=[*plan.left_out, *self._list_skipped_runs(), *_list_stopped_runs(long, final)],
            notes=self._list_notes(short, long),
            short=[
                ShortRun(one.label, one.valid_loss, one.steps, one.candidate in final.candidates)
                for one in sorted(short, key=lambda one: one.valid_loss)
            ],
            probes=findings.summarise_probes(self._probe_untuned(plan), long),
            low=findings.summarise_low_resource(beyond, long, baselines, whole.scorer, taught),
            transfer=findings.summarise_transfer(beyond, baselines),
            least_steps=least_steps,
            next_minutes=estimate_budget_minutes(plan, kinds, least_steps, overhead),
        )
        report = build_task_report(facts, long, baselines, whole.list_references(), whole.scorer)
        return replace(report, facts=replace(facts, seconds=self.spent_seconds()))

    def _list_notes(self, short: Sequence[RunResult], long: Sequence[RunResult]) -> list[str]:
        """What happened in runs and probes that a person should know, each once."""
        told = [f"{one.label}: {note}" for one in (*short, *long) for note in one.notes]
        return list(dict.fromkeys([*self.notes, *told]))

    def _list_skipped_runs(self) -> list[str]:
        return [
            f"{'long run' if row.rung == 'long' else row.rung}: {row.label}, seed {row.seed}"
            for row in self.runs.rows
            if row.state == "skipped"
        ]


def _list_stopped_runs(long: Sequence[RunResult], final: LongRungPlan) -> list[str]:
    return [
        f"{one.label}, seed {one.candidate.seed}: stopped after {one.steps:,} of {final.steps:,} steps"
        for one in long
        if one.steps < final.steps
    ]


def _is_best_of_method(run: RunCandidate, final: LongRungPlan) -> bool:
    """Whether this is the best setting of its method: finalists are in the order of the short runs."""
    return next(one for one in final.candidates if one.kind == run.kind).method == run.method
