"""Reports of comparisons from made-up answers, and comparisons that take few steps."""

from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from gitpeft.learn.compare import comparison, findings, halving, layer_probes, task_report
from gitpeft.learn.compare.findings import SubsetRun
from gitpeft.learn.compare.halving import ShortRungPlan
from gitpeft.learn.compare.report import ComparisonReport, RungSteps, ShortRun, TaskFacts, TaskReport
from gitpeft.learn.compare.results import ComparisonCost, LayerAccuracies, RunCandidate, RunResult
from gitpeft.learn.compare.scoring import MessageScorer, RiskScorer
from gitpeft.learn.data.subsets import LANGUAGE_TRANSFER, LOW_RESOURCE, HistorySubset

REFERENCES = [(f"{i:010x}", f"parser: add read_{i} to the module") for i in range(40)]


def run_of(label: str, right: int, trainable: int = 1000, seed: int = 0) -> RunResult:
    """A long run whose first `right` offers are what the team wrote."""
    offers = [message if i < right else "nothing alike" for i, (_, message) in enumerate(REFERENCES)]
    cost = ComparisonCost(
        trainable / 1e6, trainable, 2**30, 0, 60.0, 1.0, 1.0, 1.0, 1.0, 1.0, 1.0
    )  # fmt: skip
    return result(label, 3.0, answers=offers, cost=cost, candidate=RunCandidate(label, "mini", seed))


FACTS = TaskFacts(
    task="messages", tip="0" * 40, repository="a<b>&'\"", commits=400, taught=320, budget_minutes=10,
    device="cpu", steps=RungSteps(6, 40), seeds=1, left_out=["hybrid:rest=adapter"],
    short=[ShortRun("lora", 3.0, 6, True)], seconds=66.0, least_steps=14, next_minutes=30,
)  # fmt: skip


def reported(*runs: RunResult, **facts: Any) -> TaskReport:
    return advised(runs, {"nearest neighbour": ["nothing"] * 40}, **facts)


def advised(runs: Any, baselines: dict[str, Any], **facts: Any) -> TaskReport:
    scorer = MessageScorer([message for _, message in REFERENCES])
    return task_report.build_task_report(replace(FACTS, **facts), runs, baselines, REFERENCES, scorer)


def result(label: str, loss: float, **more: Any) -> RunResult:
    whole = RunResult(RunCandidate(label, "mini"), {"name": label}, 9, loss, 1.0, 9.0, ComparisonCost())
    return replace(whole, **more)


LABELS = ("lora", "adapter:placement=pfeiffer", "full", "hybrid:rank=8,rest=adapter")


def messages() -> TaskReport:
    """A report with everything in it, from made-up answers."""
    known = {name: said(5) for name in ("nearest neighbour", "mini, untuned")}
    long = [run_of(label, 20 + 3 * n, 1000 * (n + 1)) for n, label in enumerate(LABELS)]
    long = [spread(run, number) for number, run in enumerate(long)]
    scorer = MessageScorer([message for _, message in REFERENCES])
    cuts = [HistorySubset(LOW_RESOURCE, "50", "", 50), HistorySubset(LOW_RESOURCE, "200", "", 200)]
    cuts += [
        HistorySubset(LANGUAGE_TRANSFER, "python", "go", 90),
        HistorySubset(LANGUAGE_TRANSFER, "go", "go", 90),
    ]
    runs = [
        SubsetRun(label, said(8 + 4 * n + m), cut, scorer, known)
        for n, cut in enumerate(cuts)
        for m, label in enumerate(LABELS)
    ]
    low = findings.summarise_low_resource(runs, long, known, scorer, 1200)
    transfer = findings.summarise_transfer(runs, known)
    probes = {"mini": layer_probes.summarise_layers(probed(0), {run.label: run.probes for run in long})}
    return reported(*long, low=low, transfer=transfer, probes=probes)


def spread(run: RunResult, number: int) -> RunResult:
    """A run with costs of its own, and probes."""
    cost = replace(run.cost, share=0.02 * 4**number, seconds=60.0 + 9 * number, trainable=1e4 * 4**number)
    return replace(run, cost=cost, probes=probed(number + 1))


def said(right: int) -> list[str]:
    return [message if i < right else "nothing alike" for i, (_, message) in enumerate(REFERENCES)]


def probed(strength: int) -> LayerAccuracies:
    """What `layers.probe` gives, better with strength and depth."""
    dice = np.random.default_rng(strength)
    return {
        task: [
            {f"{i:040x}": float(dice.random() < 0.5 + 0.04 * layer + 0.03 * strength) for i in range(90)}
            for layer in range(7)
        ]
        for task in layer_probes.PROBING_TASKS
    }


def risk() -> TaskReport:
    """A report on risk, of random verdicts."""
    dice = np.random.default_rng(0)
    truth = (dice.random(200) < 0.2).astype(float)
    runs = [run_of(label, 0, 1000 * (n + 1)) for n, label in enumerate(LABELS[:3])]
    runs = [
        replace(run, answers=np.clip(truth * 0.1 * (n + 1) + dice.random(200) * 0.6, 0, 1).tolist())
        for n, run in enumerate(runs)
    ]
    known = {"lines added": dice.random(200).tolist()}
    asked = [(f"{i:010x}", f"change {i} · {'fixed later' if bad else 'no fix known'}")
             for i, bad in enumerate(truth)]  # fmt: skip
    facts = replace(FACTS, task="risk", left_out=[])
    return task_report.build_task_report(facts, runs, known, asked, RiskScorer(truth.tolist()))


def compared(*tasks: TaskReport, left_out: tuple[str, ...] = ()) -> ComparisonReport:
    """A whole report of some tasks."""
    return ComparisonReport(
        FACTS.repository, FACTS.tip, FACTS.commits, "cpu", 10, 66.0, left_out, tasks, "x.html"
    )


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Few steps a run whatever the budget: a busy machine must not decide what is seen here."""
    plan = halving.plan_short_rung

    def planned(*given: Any) -> ShortRungPlan:
        found = plan(*given)
        return replace(found, steps=min(found.steps, 6))

    patch.setattr(comparison, "plan_short_rung", planned)
    patch.setattr(comparison, "plan_long_steps", lambda *_: 12)
    patch.setattr(layer_probes, "MAX_PROBED_COMMITS", layer_probes.MIN_PROBED_COMMITS)
