"""Results of runs: what earlier versions stored is read, and what cannot be read is announced."""

import json
from dataclasses import replace
from pathlib import Path

from gitpeft.learn.compare.halving import LongRungPlan, ShortRungPlan
from gitpeft.learn.compare.report import Advice
from gitpeft.learn.compare.results import Difference, RunResult, to_plain
from gitpeft.learn.compare.runs import ComparisonRuns
from tests.support.comparisons import run_of

CANDIDATE = {"method": "lora", "base": "mini", "seed": 0, "task": "messages"}
OLD_RESULT = {
    "method": {"name": "lora"}, "steps": 12, "around_seconds": 9.0, "valid_loss": 3.5, "step_seconds": 0.7,
    "cost": {"steps": 12, "tokens": 900, "seconds": 8.4, "share": 0.02, "peak_memory": 5, "device": "cpu"},
    "answers": ["add a parser"], "parity": {"exact": 1e-5}, "candidate": CANDIDATE, "label": "lora",
    "name": "lora", "base": "mini", "seconds": 30.0,
}  # fmt: skip
OLD_PLAN = {
    "candidates": [CANDIDATE], "steps": 0, "pace": {"step": 1.0, "around": 8.0, "finish": 8.0, "probe": 0.0},
    "seeds": 1, "least": 1, "loads": [{"label": "newest 50", "runs": 1, "most": 9}],
    "left_out": ["what each layer knows"], "probed": 0,
}  # fmt: skip


def test_files_of_the_previous_version_are_read() -> None:
    result = RunResult.from_dict(OLD_RESULT)
    assert (result.label, result.steps, result.cost.seconds) == ("lora", 12, 8.4)
    assert result.answers == ["add a parser"]
    plan = ShortRungPlan.from_dict(OLD_PLAN)
    assert plan.candidates[0].label == "lora"
    assert plan.loads[0].label == "newest 50"
    assert LongRungPlan.from_dict({"candidates": [CANDIDATE], "steps": 9}).costs == (1.0,)
    assert Advice.from_dict({"task": "messages", "method": "adapter", "base": "mini"}).method == "adapter"


def test_a_stored_result_is_what_it_was() -> None:
    result = run_of("lora", 3)
    plain = json.loads(json.dumps(result.as_dict()))
    assert RunResult.from_dict(plain).as_dict() == result.as_dict()
    assert {"label", "name", "base", "candidate", "cost", "answers"} <= plain.keys()
    noted = replace(result, notes=["out of memory"])
    assert RunResult.from_dict(json.loads(json.dumps(noted.as_dict()))).notes == ["out of memory"]


def test_a_result_that_cannot_be_read_is_started_again_with_a_sentence(tmp_path: Path) -> None:
    heard: list[str] = []
    runs = ComparisonRuns(tmp_path, {}, lambda *_: None, lambda _, now: heard.append(now), lambda: None)  # type: ignore[arg-type]
    path = tmp_path / "result.json"
    for text in ("{", "{}", '{"candidate": {"unknown": 1}}'):
        path.write_text(text)
        assert runs._load_result(path) is None
    assert heard == ["a stored run cannot be read and is started again"] * 3


def test_only_differences_say_whether_they_are_clear_of_zero() -> None:
    assert to_plain(Difference(1.0, 0.5, 1.5)) == {"mean": 1.0, "low": 0.5, "high": 1.5, "clear": True}
