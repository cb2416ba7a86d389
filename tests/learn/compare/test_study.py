"""The recorded study's script: its verdicts, its tables, and its costs at toy size."""

import subprocess
import sys
from typing import Any

import pytest

from tests.bench import bench_study
from tests.support.comparisons import messages, risk
from tests.support.sources import CHECKOUT


def gap(mean: float, clear: bool) -> dict[str, Any]:
    return {"against_full": {"mean": mean, "low": mean - 1, "high": mean + 1, "clear": clear}}


@pytest.mark.parametrize(
    ("task", "gaps", "said"),
    [
        ("messages", (gap(0.5, False), gap(-0.5, False)), "agrees: no difference is clear"),
        ("messages", (gap(-2, True), gap(0, False)), "disagrees"),
        ("risk", (gap(2, True), gap(0, False)), "agrees"),
        ("risk", (gap(0.1, False), gap(0.2, False)), "not shown: no difference is clear"),
        ("risk", (gap(2, True), gap(-2, True)), "disagrees"),
    ],
)
def test_only_what_is_clear_agrees_or_disagrees(task: str, gaps: Any, said: str) -> None:
    assert bench_study.verdict(task, list(gaps)) == said


def test_the_tables_of_both_tasks() -> None:
    reports: Any = {("gin", "messages"): messages().as_dict(), ("gin", "risk"): risk().as_dict()}
    lines = bench_study.quality(reports).splitlines()
    assert len(lines) == 2 + 4 + 1 + 3 + 1 and len({line.count("|") for line in lines}) == 1
    assert "| gin | risk | 200 | lines added | ROC AUC" in "\n".join(lines)
    told = bench_study.verdicts(reports)
    assert "LoRA and adapters beat full tuning | gin | adapter:placement=pfeiffer -0.116" in told


@pytest.mark.slow
@pytest.mark.parametrize("shape", bench_study.SHAPES)
def test_what_methods_cost_at_toy_size(shape: str) -> None:
    sizes = ("--batch", "2", "--steps", "2", "--source", "32", "--target", "8")
    done = subprocess.run(
        [sys.executable, "tests/bench/bench_study.py", "cost", "--toy", "--shapes", shape, *sizes],
        cwd=CHECKOUT, capture_output=True, text=True, timeout=280, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    rows = done.stdout.splitlines()[2:]
    assert [row.split("|")[2].strip() for row in rows] == list(bench_study.METHODS), done.stdout
    assert all("GiB resident" in row and "ended with" not in row for row in rows)
