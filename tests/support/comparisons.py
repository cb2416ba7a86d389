"""Finished runs of a comparison and reports on them, made up; and a comparison that takes few steps."""

from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from gitpeft.learn.compare import advice, findings, halving, layer_probes
from gitpeft.learn.compare import run as compare_run
from gitpeft.learn.compare.scoring import MessageScorer, RiskScorer
from gitpeft.learn.data.subsets import LANGUAGE_TRANSFER, LOW_RESOURCE, HistorySubset


def result(label: str, loss: float, **more: Any) -> dict[str, Any]:
    name = label.partition(":")[0]
    return {
        "label": label, "name": name, "base": "mini", "valid_loss": loss,
        "candidate": {"method": label, "base": "mini", "seed": 0, "task": "messages"}, **more,
    }  # fmt: skip


REFERENCES = [(f"{i:010x}", f"parser: add read_{i} to the module") for i in range(40)]


def run_of(label: str, right: int, trainable: int = 1000, seed: int = 0) -> dict[str, Any]:
    """A long run whose first `right` offers are what the team wrote."""
    offers = [message if i < right else "nothing alike" for i, (_, message) in enumerate(REFERENCES)]
    cost = dict.fromkeys(advice.COST_KEYS, 1.0) | {
        "trainable": trainable, "share": trainable / 1e6, "peak_memory": 2**30, "reserved": 0,
        "seconds": 60.0,
    }  # fmt: skip
    run = result(label, 3.0, answers=offers, cost=cost, steps=9, method={"name": label}, parity={})
    run["candidate"]["seed"] = seed
    return run


FACTS = {
    "task": "messages", "tip": "0" * 40, "repository": "a<b>&'\"", "commits": 400, "budget_minutes": 10,
    "device": "cpu", "steps": {"short": 6, "long": 9}, "seeds": 1, "left_out": ["hybrid:rest=adapter"],
    "short": [{"label": "lora", "valid_loss": 3.0, "steps": 6, "promoted": True}], "seconds": 66.0,
    "low": None, "transfer": [], "probes": {},
}  # fmt: skip


def reported(*runs: dict[str, Any], **facts: Any) -> dict[str, Any]:
    return advised(runs, {"nearest neighbour": ["nothing"] * 40}, **facts)


def advised(runs: Any, baselines: dict[str, Any], **facts: Any) -> dict[str, Any]:
    yardstick = MessageScorer([message for _, message in REFERENCES])
    return advice.build_task_report(FACTS | facts, runs, baselines, REFERENCES, yardstick)


def hurry(patch: pytest.MonkeyPatch) -> None:
    """Few steps a run whatever the budget: a busy machine must not decide what is seen here."""
    plan = halving.plan_short_rung

    def planned(*given: Any) -> dict[str, Any]:
        found = plan(*given)
        return found | {"steps": min(found["steps"], 6)}

    patch.setattr(compare_run, "plan_short_rung", planned)
    patch.setattr(compare_run, "plan_long_steps", lambda *_: 12)
    patch.setattr(layer_probes, "MAX_PROBED_COMMITS", layer_probes.MIN_PROBED_COMMITS)


LABELS = ("lora", "adapter:placement=pfeiffer", "full", "hybrid:rank=8,rest=adapter")


def messages() -> dict[str, Any]:
    """A report with everything in it, from made-up answers."""
    known = {name: said(5) for name in ("nearest neighbour", "mini, untuned")}
    long = [run_of(label, 20 + 3 * n, 1000 * (n + 1)) for n, label in enumerate(LABELS)]
    for number, run in enumerate(long):
        run["cost"] |= {"share": 0.02 * 4**number, "seconds": 60.0 + 9 * number, "trainable": 1e4 * 4**number}
        run["probes"] = probed(number + 1)
    whole = SimpleNamespace(yardstick=MessageScorer([message for _, message in REFERENCES]))
    cuts = [HistorySubset(LOW_RESOURCE, "50", "", 50), HistorySubset(LOW_RESOURCE, "200", "", 200)]
    cuts += [
        HistorySubset(LANGUAGE_TRANSFER, "python", "go", 90),
        HistorySubset(LANGUAGE_TRANSFER, "go", "go", 90),
    ]
    runs = [
        {"cut": cut, "ground": whole, "baselines": known, "answers": said(8 + 4 * n + m), "label": label}
        for n, cut in enumerate(cuts)
        for m, label in enumerate(LABELS)
    ]
    beyond: Any = findings.summarise_parts(runs, long, known, whole, 1200)
    probes = {"mini": layer_probes.summarise_layers(probed(0), {run["label"]: run["probes"] for run in long})}
    return reported(*long, **beyond, probes=probes)


def said(right: int) -> list[str]:
    return [message if i < right else "nothing alike" for i, (_, message) in enumerate(REFERENCES)]


def probed(strength: int) -> dict[str, Any]:
    """What `layers.probe` gives, better with strength and depth."""
    dice = np.random.default_rng(strength)
    return {
        task: [
            {f"{i:040x}": float(dice.random() < 0.5 + 0.04 * layer + 0.03 * strength) for i in range(90)}
            for layer in range(7)
        ]
        for task in layer_probes.PROBING_TASKS
    }


def risk() -> dict[str, Any]:
    """A report on risk, of random verdicts."""
    dice = np.random.default_rng(0)
    truth = (dice.random(200) < 0.2).astype(float)
    runs = [run_of(label, 0, 1000 * (n + 1)) for n, label in enumerate(LABELS[:3])]
    for number, run in enumerate(runs):
        run["answers"] = np.clip(truth * 0.1 * (number + 1) + dice.random(200) * 0.6, 0, 1).tolist()
    known = {"lines added": dice.random(200).tolist()}
    asked = [(f"{i:010x}", f"change {i} · {'fixed later' if bad else 'no fix known'}")
             for i, bad in enumerate(truth)]  # fmt: skip
    facts = FACTS | {"task": "risk", "left_out": []}
    return advice.build_task_report(facts, runs, known, asked, RiskScorer(truth.tolist()))
