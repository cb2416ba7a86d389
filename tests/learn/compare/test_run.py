"""Comparing methods: a plan that fits its time, runs that are never repeated, advice that follows."""

import json
import os
import re
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import pytest

from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.learn.compare import comparison, findings, halving, runs, task_report
from gitpeft.learn.compare import run as compare_run
from gitpeft.learn.compare.halving import (
    ComparisonRequest,
    RunTimings,
    ShortRungPlan,
    list_candidates,
    plan_short_rung,
    select_finalists,
)
from gitpeft.learn.compare.report import Advice, ComparisonReport, LowResource, RungSteps, TuningGain
from gitpeft.learn.compare.results import Difference, RunCandidate, RunOutput, TrainedRun
from gitpeft.learn.compare.scoring import MessageScorer
from gitpeft.learn.data.batches import RenderedExamples
from gitpeft.learn.training import finetune, loop
from gitpeft.learn.training.finetune import TrainingJob
from gitpeft.learn.training.settings import TrainingSettings
from tests.support import generated, tinymodel
from tests.support.comparisons import REFERENCES, advised, hurry, reported, result, run_of
from tests.support.gitrepo import Repo
from tests.support.sources import CHECKOUT
from tests.support.tinybase import Built, loosen

# --- what is tried ------------------------------------------------------------------------------------------


def spelt(**wish: Any) -> list[str]:
    return [one.method for one in list_candidates(ComparisonRequest(**wish))]


def test_every_method_by_its_default_first_and_then_others() -> None:
    found = spelt()
    assert found[:4] == ["lora", "adapter", "full", "hybrid"] and len(set(found)) == len(found) == 7


def test_what_is_asked_for_and_no_more() -> None:
    assert spelt(methods=("adapter", "lora:rank=4")) == ["adapter", "lora:rank=4"]
    assert spelt(methods=("lora", "full"), ranks=(4, 16)) == ["lora", "full", "lora:rank=4"]
    assert spelt(methods=("lora", "adapter"), placements=("query-value", "pfeiffer")) == [
        "lora", "adapter", "lora:placement=query-value", "adapter:placement=pfeiffer",
    ]  # fmt: skip
    assert len(list_candidates(ComparisonRequest(methods=("lora",), bases=("mini", "other")))) == 2


@pytest.mark.parametrize(
    ("wish", "sentence"),
    [
        ({"methods": ("magic",)}, "unknown method .magic."),
        ({"methods": ("lora:rank=x",)}, "rank cannot be x"),
        ({"methods": ("lora",), "placements": ("everywhere",)}, "no placement everywhere"),
    ],
)
def test_wrong_names_are_said_before_any_work(wish: dict[str, Any], sentence: str) -> None:
    with pytest.raises(GitpeftError, match=sentence):
        list_candidates(ComparisonRequest(**wish))


# --- successive halving -------------------------------------------------------------------------------------


PACE = RunTimings(step=1.0, around=8.0, finish=8.0)


def test_a_plan_fits_its_time_and_says_what_it_leaves_out() -> None:
    found = list_candidates(ComparisonRequest())
    rich, poor = plan_short_rung(found, 7200, PACE, 3), plan_short_rung(found, 200, PACE, 3)
    assert len(rich.candidates) == 7 and rich.seeds == 3 and rich.left_out == ()
    assert [one.method for one in poor.candidates][:4] == ["lora", "adapter", "full", "hybrid"]
    assert poor.seeds == 1 and "all but 1 seed of each method" in poor.left_out
    assert len(poor.left_out) == 1 + 7 - len(poor.candidates) > 1
    for plan, seconds in ((rich, 7200), (poor, 200)):
        chosen = len(plan.candidates)
        finals = halving.count_finalists(chosen, 4) * plan.seeds
        around = 8.0 * (chosen + 2 * finals)
        fits = plan.steps * (chosen + halving.LONG_RUN_FACTOR * finals) + around <= seconds
        assert fits and (plan.steps >= halving.MIN_RUN_STEPS or chosen == 4)
    assert rich.steps > poor.steps


def test_methods_that_do_not_fit_into_the_budget_are_skipped() -> None:
    """A budget of a minute is not exceeded six times: what does not fit is named."""
    found = list_candidates(ComparisonRequest())
    plan = plan_short_rung(found, 50, PACE, 1)
    assert [one.method for one in plan.candidates] == ["lora", "adapter"] and plan.steps == 0
    assert plan.left_out[-2:] == ("hybrid", "full")
    steps = halving.plan_long_steps([PACE.step] * 2, 50, 1, plan.steps, PACE)
    assert steps >= halving.MIN_RUN_STEPS and 2 * (16 + steps * PACE.step) <= 50
    assert [one.method for one in plan_short_rung(found, 1, PACE, 1).candidates] == ["lora"]


def test_a_budget_for_advice_allows_one_pass_over_the_history() -> None:
    assert [halving.count_advice_steps(n) for n in (24, 335, 9000)] == [10, 14, 50]
    plan = plan_short_rung(list_candidates(ComparisonRequest()), 50, PACE, 1)
    minutes = halving.estimate_budget_minutes(plan, 4, 14, 30.0)
    again = plan_short_rung(list_candidates(ComparisonRequest()), 60 * minutes - 30, PACE, 1)
    assert len({one.kind for one in again.candidates}) == 4
    assert halving.plan_long_steps([PACE.step] * 4, 60 * minutes - 30, 1, 0, PACE) >= 14


def test_where_all_would_go_on_there_are_no_short_runs() -> None:
    found = list_candidates(ComparisonRequest(methods=("lora", "full")))
    assert plan_short_rung(found, 7200, PACE, 1).steps == 0
    assert plan_short_rung(found[:1], 1, PACE, 1).steps == 0
    steps = halving.plan_long_steps([2.0, 2.0], 400, 1, 0, PACE)
    assert 2 * (steps * 2.0 + 16.0) <= 400 and steps > 60
    assert halving.plan_long_steps([2.0], 0, 1, 9, PACE) == 9


def test_a_machine_that_becomes_slower_ends_runs_by_the_clock() -> None:
    assert halving.allot_minutes(400, [1, 1], PACE) == pytest.approx((200 - 16) / 60)
    assert halving.allot_minutes(400, [3, 1], PACE) == pytest.approx((400 - 32) * 3 / 4 / 60)
    assert halving.allot_minutes(-5, [1, 1], PACE) == pytest.approx(1 / 60)
    planned = halving.plan_long_steps([2.0, 2.0], 400, 1, 0, PACE) * 2.0 / 60
    assert planned < halving.allot_minutes(400, [2, 2], PACE), "at the planned pace the clock ends nothing"
    costs = [8.0, 1.0]
    steps = halving.plan_long_steps(costs, 4000, 1, 0, PACE)
    assert steps * 8.0 / 60 < halving.allot_minutes(4000, costs, PACE), (
        "nor the dear one, whose turn comes first"
    )


def test_what_the_first_step_takes_to_start_is_not_planned_for_every_step(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The pace is that of the later steps, the start is around them; a budget so has room for many more."""
    now, run_step = [100.0], loop._TrainingLoop.run_step

    def step_slowly(training: Any, *given: Any) -> Any:
        now[0] += 30.0 if training.step == 0 else 0.5
        return run_step(training, *given)

    clock = SimpleNamespace(monotonic=lambda: now[0])
    for module in (loop, comparison, runs):
        monkeypatch.setattr(module, "time", clock)
    monkeypatch.setattr(loop._TrainingLoop, "run_step", step_slowly)
    found = object.__new__(comparison.Comparison)
    found.folder, found.wish = tmp_path, ComparisonRequest(minutes=2.0)
    found.found, found.watch = [RunCandidate("lora:rank=4", "mini")], lambda _rows, _now: None
    task, base = _TimedTask(now), SimpleNamespace(architecture=SimpleNamespace(causal=False))
    known: Any = {"mini": base}
    found.field = cast("Any", SimpleNamespace(whole=task))
    found.runs = runs.ComparisonRuns(tmp_path, known, cast("Any", None), found.watch, lambda: None)
    pace = found._measure_pace()
    assert pace.step == pytest.approx(1.3 * 0.5), "and not a quarter of the start"
    assert pace.around == pytest.approx(7.0 + 29.5), "loading, and the start once"
    assert pace.finish == pytest.approx(3.0 + 8 * 0.25), "answers of all commits, not of the few tried"


class _TimedTask:
    """A part that takes 7 s to load and 3 s to export, and learns four steps of a tiny model in between."""

    def __init__(self, now: list[float], answers: int = 20) -> None:
        self.now, self.scorer = now, range(answers)

    def make_small(self, most: int) -> "_TimedTask":
        return _TimedTask(self.now, most)

    def train_run(self, job: TrainingJob, _folder: Path, _listen: Any) -> tuple[Any, TrainedRun]:
        self.now[0] += 7.0
        data = RenderedExamples.from_pairs(tinymodel.pairs(40))
        settings = TrainingSettings(steps=job.steps, batch_tokens=200, minutes=job.minutes)
        cost = loop.train_model(tinymodel.pointer_t5(), data, settings, valid=data, evaluate_every=1.0)
        return job.method, TrainedRun.from_training(cost.as_dict())

    def export_and_ask(self, *_: Any) -> RunOutput:
        self.now[0] += 3.0
        return RunOutput(["Fix it"] * len(self.scorer), 250.0)


def test_the_better_half_goes_on_and_the_best_of_each_method() -> None:
    short = [
        result("lora", 3.0), result("lora:rank=8", 2.9), result("adapter", 5.0), result("full", 4.0),
        result("adapter:width=8", 6.0), result("lora:rank=4", 3.1),
    ]  # fmt: skip
    assert [one.label for one in select_finalists(short, 3)] == ["lora:rank=8", "full", "adapter"]
    more = [*short, result("lora:rank=2", 2.95), result("full:lr=0.001", 4.1)]
    assert [one.label for one in select_finalists(more, 3)] == [
        "lora:rank=8",
        "lora:rank=2",
        "full",
        "adapter",
    ]
    assert [one.label for one in select_finalists(short[:1], 1)] == ["lora"]


# --- advice -------------------------------------------------------------------------------------------------


def test_a_winner_is_named_where_it_is_clear_of_all_others() -> None:
    found = reported(run_of("lora", 12), run_of("full", 36, 10**6), run_of("adapter", 10))
    assert found.advice.winner == "full" == found.advice.method
    assert found.advice.verdict == (
        "Adopt full: measurably better than every other method and than nearest neighbour."
    )
    assert found.advice.command == "gitpeft init --method full"
    assert [row.label for row in found.finalists] == ["full", "lora", "adapter"]
    assert [row.against_best.excludes_zero for row in found.finalists] == [False, True, True]


def test_without_a_significant_difference_no_winner_is_named_and_the_cheapest_is_advised() -> None:
    found = reported(run_of("full", 30, 10**6), run_of("lora", 29, 9000), run_of("adapter", 3, 10))
    assert found.advice.winner is None and found.advice.method == "lora"
    words = " ".join(found.advice.words)
    assert "Adopt lora: no significant difference to full, and it trains the fewest weights." in words
    assert "lora compared with full tuning" in words and "compared with nearest neighbour" in words
    assert "may change it" in words and "40 validation commits" in words


def offers(right: int) -> list[str]:
    return [m if i < right else "nothing alike" for i, (_, m) in enumerate(REFERENCES)]


def test_nothing_is_adopted_where_no_tuning_is_as_good() -> None:
    runs = [run_of("lora", 12), run_of("full", 11, 10**6)]
    same, worse = (
        advised(runs, {"mini, untuned": known, "nearest neighbour": ["nothing"] * 40}).advice
        for known in (offers(12), ["nothing"] * 40)
    )
    assert same.verdict == "No method is measurably better than no tuning. Keep the default (lora)."
    assert not same.adopt and same.winner is None and same.method == "lora"
    assert same.command == "gitpeft compare --budget 30"
    assert "Adopt" not in " ".join(same.words) and "Adopt" in worse.verdict


def test_nothing_is_adopted_after_too_few_steps() -> None:
    """One step of each method is no comparison, whatever the scores."""
    for right in (12, 36):
        runs = [run_of("adapter", right), run_of("full", 10, 10**6)]
        found = advised(runs, {"mini, untuned": offers(11)}, steps=RungSteps(0, 1)).advice
        assert found.verdict == (
            "Inconclusive: each method trained 1 step, at least 14 are needed for advice. "
            "Keep the default (lora)."
        )
        assert not found.adopt and found.method == "lora" and found.command == "gitpeft compare --budget 30"
        assert found.reason.startswith("None is measurably better than no tuning") is (right == 12)
        assert "Adopt" not in " ".join(found.words)


def test_advice_names_the_base_and_the_task_that_it_is_for() -> None:
    one = replace(run_of("full", 30), candidate=RunCandidate("full", "/a/other"))
    found = advised([one], {"/a/other, untuned": offers(1)}).advice
    assert found.command == "gitpeft init --method full --base /a/other"
    assert found.verdict == "Adopt full on other: measurably better than no tuning. No other was tried."


@pytest.mark.parametrize(
    ("gains", "text"),
    [
        ([(50, 0.1), (200, 0.2), (1000, 0.1)], "from 50 training commits on"),
        ([(50, -0.1), (200, 0.2), (1000, 0.1)], "from 200 training commits on"),
        (
            [(50, 0.1), (200, -0.2), (1000, -2.0)],
            "with 50 training commits, but not with every larger number",
        ),
        ([(50, 0.1), (200, -0.2), (1000, 0.3)], "with 50 and 1,000 training commits, but not"),
        ([(50, -0.1), (200, -0.2)], "no method is significantly better"),
    ],
)
def test_what_pays_with_few_commits_need_not_pay_with_more(gains: list[tuple[int, float]], text: str) -> None:
    found = [TuningGain(size, "lora", "mini", Difference(low + 1, low, low + 2)) for size, low in gains]
    low = LowResource([size for size, _ in gains], {}, found)
    assert text in findings.describe_low_resource(low, MessageScorer.metric)


def test_what_one_task_cannot_do_the_other_need_not_lose(repo: Repo) -> None:
    class Work:
        def __init__(self, task: str, why: str = "") -> None:
            self.task, self.why = task, why

        def run(self) -> str:
            if self.why:
                raise GitpeftError(self.why)
            return self.task

    reports, failed = compare_run._run_comparisons([Work("messages"), Work("risk", "no layer decoder.0")])  # type: ignore[list-item]
    assert [str(one) for one in reports] == ["messages"] and failed == ["no layer decoder.0"]
    with pytest.raises(GitpeftError, match="first"):
        compare_run._run_comparisons([Work("messages", "first"), Work("risk", "second")])  # type: ignore[list-item]


def test_advice_for_one_task_stays_when_another_is_compared(repo: Repo) -> None:
    repository = Repository.open(repo.path)
    (repository.state_dir / "compare").mkdir(parents=True)
    message, risk = Advice("messages", "lora", "mini", words=["a", "b"]), Advice("risk", "full", "mini")
    compare_run._save_advice(repository, [message])
    compare_run._save_advice(repository, [risk])
    assert compare_run.load_advice(repository, "messages") == message
    assert compare_run.load_advice(repository, "risk").method == "full"


def test_seeds_are_averaged_commit_by_commit() -> None:
    found = reported(run_of("lora", 40), run_of("lora", 0, seed=1), run_of("full", 30, 10**6))
    lora = next(row for row in found.finalists if row.label == "lora")
    assert lora.seeds == [0, 1] and lora.by_seed[0] == pytest.approx(100)
    assert found.get_score(lora).mean == pytest.approx(sum(lora.by_seed) / 2)


def test_the_pareto_front_by_its_definition() -> None:
    points = [(1.0, 5.0), (2.0, 9.0), (2.0, 8.0), (3.0, 9.0), (0.5, 1.0), (1.0, 5.0)]
    assert task_report.find_pareto_front(points) == [True, True, False, False, True, True]


# --- the whole ----------------------------------------------------------------------------------------------

WISH = {"methods": ("lora:rank=4", "adapter:width=8", "full", "hybrid:rank=4"), "minutes": 60.0}


@pytest.fixture
def team(tmp_path: Path) -> Repo:
    repo = Repo.create(tmp_path / "team")
    generated.put(repo, generated.team(120))
    return repo


def compared(
    repo: Repo, built: Built, watch: Any = lambda _rows, _now: None, **wish: Any
) -> ComparisonReport:
    with pytest.MonkeyPatch.context() as patch:
        loosen(patch)
        hurry(patch)
        asked = ComparisonRequest(**{**WISH, "bases": (str(built.out),), **wish})
        return compare_run.compare_methods(Repository.open(repo.path), asked, watch)


def test_all_methods_on_one_history_and_then_from_what_is_there(team: Repo, built: Built) -> None:
    states: list[set[str]] = []
    whole = compared(team, built, lambda rows, _now: states.append({row.state for row in rows}))
    [task] = whole.tasks
    report: Any = task.as_dict()
    assert {row["name"] for row in report["finalists"]} == {"lora", "adapter", "full", "hybrid"}
    assert len({row["steps"] for row in report["finalists"]}) == 1, "equal steps"
    assert report["steps"]["long"] >= halving.MIN_RUN_STEPS and report["steps"]["short"] == 0
    for row in report["finalists"]:
        cost = row["cost"]
        assert row["parity"]["exact"] < 1e-3 and 0 < cost["share"] <= 1
        assert min(cost[name] for name in ("seconds", "memory", "adapter_bytes", "answer_ms")) > 0
    assert {row["label"] for row in report["baselines"]} >= {"nearest neighbour"}
    assert {"waiting", "running", "done"} <= set().union(*states)
    folder = Path(whole.page).parent
    assert (folder / "report.html").read_text().startswith("<!doctype html>")
    assert json.loads((folder / "report.json").read_text())["tasks"] == [report]
    assert not list(folder.rglob("*.onnx")) and not list(folder.rglob("*.safetensors"))
    assert compare_run.load_advice(Repository.open(team.path)) == task.advice

    before = {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")}
    again = compared(team, built)
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("result.json")} == before
    assert timeless(again) == timeless(whole) and again.seconds >= whole.seconds


def timeless(report: ComparisonReport) -> dict[str, Any]:
    """A report without what depends on the clock."""
    plain: Any = report.as_dict()
    tasks = [{**task, "seconds": 0, "next_minutes": 0} for task in plain["tasks"]]
    for task in tasks:
        task["advice"] = {**task["advice"], "command": ""}
    return {**plain, "seconds": 0, "tasks": tasks}


METHODS = ("lora:rank=4", "lora:rank=2", "adapter:width=8")
_KILLED = """\
import os, signal, sys
from functools import partial
from pathlib import Path
from gitpeft.git.repository import Repository
import pytest
from gitpeft.learn.compare import run as compare
from gitpeft.learn.compare.halving import ComparisonRequest
from gitpeft.learn.export import parity
from tests.support.comparisons import hurry
METHODS = ("lora:rank=4", "lora:rank=2", "adapter:width=8")
parity.MessageParityBounds = partial(parity.MessageParityBounds, agreement=0.5, nats=0.5, drop=9.0)
hurry(pytest.MonkeyPatch())
def watch(rows, now):
    running = [row for row in rows if row.rung == "long" and row.state == "running" and row.done > 0.4]
    if running and any(row.rung == "long" and row.state == "done" for row in rows):
        os.kill(os.getpid(), signal.SIGKILL)
wish = ComparisonRequest(methods=METHODS, bases=(sys.argv[2],), minutes=60.0)
compare.compare_methods(Repository.open(Path(sys.argv[1])), wish, watch)
"""


def test_killed_in_the_middle_finished_runs_are_kept_and_nothing_changes(team: Repo, built: Built) -> None:
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(team.path), str(built.out)],
        cwd=CHECKOUT, capture_output=True, timeout=200, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    [folder] = (Repository.open(team.path).state_dir / "compare").iterdir()
    before = {path: path.read_bytes() for path in folder.rglob("result.json")}
    plans = {name: (folder / name).read_bytes() for name in ("plan.json", "final.json")}
    assert len(before) == 4 and not (folder / "report.json").exists()
    states: list[list[str]] = []

    def watch(rows: Any, _now: str) -> None:
        states.append([row.state for row in rows])

    report = compared(team, built, watch, methods=METHODS)
    assert Path(report.page).parent == folder and len(report.tasks[0].finalists) == 2
    assert {path: path.read_bytes() for path in before} == before
    assert {name: (folder / name).read_bytes() for name in plans} == plans
    assert states[-1].count("kept") == 4


def test_what_cannot_be_compared(team: Repo, built: Built, tmp_path: Path) -> None:
    repository = Repository.open(team.path)
    with pytest.raises(GitpeftError, match="nothing was compared here yet"):
        compare_run.load_advice(repository)
    short = Repo.create(tmp_path / "short")
    generated.put(short, generated.team(20))
    with pytest.raises(GitpeftError, match="only 20 usable commits") as error:
        compared(short, built)
    assert "gitpeft init" in error.value.hint


def test_a_budget_that_ends_leaves_runs_out_and_says_which(
    team: Repo, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(comparison.Comparison, "remaining_seconds", lambda _self: 0.0)

    def plan(found: Any, *_: Any) -> ShortRungPlan:
        return ShortRungPlan(tuple(found), 2, PACE, seeds=2, least=2)

    monkeypatch.setattr(halving, "plan_short_rung", plan)
    [report] = compared(team, built, methods=("lora:rank=4", "full"), seeds=2).tasks
    probes, *rest = report.facts.left_out
    late = [one for one in rest if "stopped after" not in one]  # on a slow machine
    assert probes == "layer probes"
    assert len(late) == 2 and all(re.search(r"seed 1$", one) for one in late)
    assert report.facts.seeds == 1 and all(row.seeds == [0] for row in report.finalists)


def test_a_run_is_task_method_base_and_seed() -> None:
    assert RunCandidate("lora", "mini", 1).task == finetune.MESSAGE_TASK
    assert (
        RunCandidate("lora", "/a/b").label == "lora on b"
        and RunCandidate("lora:rank=8", "mini").name == "lora"
    )
