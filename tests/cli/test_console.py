"""What is printed: widths, encodings, ages, progress without a terminal."""

import ast
import io
import json
import os
import re
import subprocess
import sys
import time
from collections.abc import Iterator
from datetime import UTC, datetime

import pytest

from gitpeft.cli import console, progress
from gitpeft.cli.progress import format_time_left
from tests.support.sources import CHECKOUT
from tests.support.terminal import run_in_window


def test_rows_fit_the_terminal(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    console.print_rows([("Hook", "on " * 30), ("Model", "one\ntwo")])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 40
    assert lines[0].startswith("Hook   on")
    assert lines[-2:] == ["Model  one", "       two"]
    assert all(line == line.rstrip() for line in lines)


def test_a_line_goes_on_further_in(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "40")
    console.print_line("  " + "fact " * 12)
    first, second = capsys.readouterr().out.splitlines()
    assert first.startswith("  fact") and second.startswith("    fact") and len(first) <= 40


@pytest.mark.parametrize("terminal", [True, False])
def test_an_error_fits_the_terminal(
    terminal: bool, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A pipe gets it on one line."""
    monkeypatch.setenv("COLUMNS", "80")
    monkeypatch.setattr(sys.stderr, "isatty", lambda: terminal)
    console.print_error("why " * 30 + "not", "did you mean " + "a/b/c.py or " * 12 + "d.py?")
    lines = capsys.readouterr().err.replace("\x1b[1;31m", "").replace("\x1b[0m", "").splitlines()
    assert lines[0].startswith("error: why")
    assert max(map(len, lines)) <= 80 if terminal else len(lines) == 2


def test_percentages_are_written_in_one_way() -> None:
    """Without a space, in everything that is printed."""
    found = [
        f"{path.name}: {text[:60]!r}"
        for path in sorted((CHECKOUT / "gitpeft").rglob("*.py"))
        for text in list_texts(path.read_text(encoding="utf-8"))
        if re.search(r"[\d}] %(?![\w(])", text)
    ]
    assert not found


def list_texts(source: str) -> Iterator[str]:
    """The strings of a module that are no docstrings; those with fields in them as they are written."""
    nodes = list(ast.walk(ast.parse(source)))
    documentation = {id(node.value) for node in nodes if isinstance(node, ast.Expr)}
    for node in nodes:
        if isinstance(node, ast.JoinedStr):
            yield ast.unparse(node)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documentation:
            yield node.value


@pytest.mark.parametrize(
    ("moment", "said"),
    [
        ("2026-01-10T12:00:00+00:00", "just now"),
        ("2026-01-10T11:00:00Z", "1 hour ago"),
        ("2026-01-07T11:00:00", "3 days ago"),
        ("some day", "some day"),
    ],
)
def test_an_age_is_in_its_largest_unit(moment: str, said: str) -> None:
    assert console.format_age(moment, datetime(2026, 1, 10, 12, 0, 30, tzinfo=UTC)) == said


@pytest.mark.parametrize(("seconds", "said"), [(3, "3 s"), (92, "1 min 32 s"), (7800, "2 h 10 min")])
def test_a_duration_is_in_two_units_at_most(seconds: float, said: str) -> None:
    assert console.format_duration(seconds) == said


def test_what_the_encoding_lacks_is_replaced() -> None:
    program = "from gitpeft.cli import console; console.tolerate_all_characters(); print('✓ naïve')"
    done = subprocess.run(
        [sys.executable, "-c", program], cwd=CHECKOUT, env={"PYTHONIOENCODING": "ascii"}, capture_output=True,
        check=True,
    )  # fmt: skip
    assert done.stdout == b"? na?ve\n"


def test_progress_without_a_terminal_is_a_line_now_and_then(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [100.0], io.StringIO()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", said)
    lines = progress.ProgressLines()
    for second in range(40):
        now[0] = 100.0 + second
        lines.show_step("train", second / 100, f"{second * 10} tokens/s")
    lines.show_step("export", 0.0, "")
    assert said.getvalue().splitlines() == [
        "gitpeft: Training: 0 tokens/s",
        "gitpeft: Training: 15%, 150 tokens/s, 1 min 25 s left",
        "gitpeft: Training: 30%, 300 tokens/s, 1 min 10 s left",
        "gitpeft: Exporting to ONNX",
    ]


def test_a_step_that_says_nothing_is_repeated(monkeypatch: pytest.MonkeyPatch) -> None:
    said = io.StringIO()
    monkeypatch.setattr(progress, "LINE_SECONDS", 0.1)
    monkeypatch.setattr(sys, "stderr", said)
    with progress.show_progress(progress.LINES) as listen:
        listen("risk", 0.0, "")
        deadline = time.monotonic() + 30
        while len(said.getvalue().splitlines()) < 2 and time.monotonic() < deadline:
            time.sleep(0.05)
    told = said.getvalue().splitlines()
    assert told[0] == "gitpeft: Fitting risk model" and "so far" in told[1]


def test_counted_work_is_told_with_its_rate_and_events_are_json(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [100.0], io.StringIO()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", said)
    for lines in (progress.ProgressLines(), progress.ProgressLines(events=True)):
        for second in (0, 20):
            now[0] = 100.0 + second
            lines.show_step("choose", second / 100, f"{second:,}/1,000 commits")
    told = said.getvalue().splitlines()
    assert told[1] == "gitpeft: Fitting the reranker: 20%, 20/1,000 commits, 1.0 commits/s, 1 min 20 s left"
    assert json.loads(told[3]) == {
        "step": "choose", "done": 0.2, "seconds": 20.0, "left": 80.0, "detail": "20/1,000 commits",
    }  # fmt: skip


def test_what_is_resumed_tells_the_time_left_by_its_pace_since_then(monkeypatch: pytest.MonkeyPatch) -> None:
    """A training that goes on at a quarter, and takes a minute for the next quarter, needs two more."""
    now, said = [100.0], io.StringIO()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", said)
    for lines in (progress.ProgressLines(), progress.ProgressLines(events=True)):
        now[0] = 100.0
        lines.show_step("train", 0.25, "250/1,000 pairs")
        for second, done in ((30, 0.25), (60, 0.5)):
            now[0] = 100.0 + second
            lines.show_step("train", done, f"{done * 1000:.0f}/1,000 pairs")
    told = said.getvalue().splitlines()
    assert told[:3] == [
        "gitpeft: Training: 25%, 250/1,000 pairs",
        "gitpeft: Training: 25%, 250/1,000 pairs",
        "gitpeft: Training: 50%, 500/1,000 pairs, 4.2 pairs/s, 2 min 0 s left",
    ]
    assert [json.loads(line)["left"] for line in told[3:]] == [None, None, 120.0]


def test_each_thing_that_a_step_counts_has_its_own_rate(monkeypatch: pytest.MonkeyPatch) -> None:
    now, said = [100.0], io.StringIO()
    monkeypatch.setattr(time, "monotonic", lambda: now[0])
    monkeypatch.setattr(sys, "stderr", said)
    lines = progress.ProgressLines()
    for second, done, detail in (
        (0, 0.0, "messages"),
        (30, 0.0, "0/1,000 commits"),
        (50, 0.9, "1,000/1,000 commits"),
        (52, 0.9, "tracing 0/900 commits"),
        (72, 0.95, "tracing 450/900 commits"),
        (90, 0.96, "tracing 20/900 commits"),
        (110, 0.97, "tracing 40/900 commits"),
    ):
        now[0] = 100.0 + second
        lines.show_step("labels", done, detail)
    rates = re.findall(r"labels|commits(?:, ([\d.]+) commits/s)?", said.getvalue())
    assert rates == ["", "50.0", "22.5", "", "1.0"]


COUNTING = """
import os, sys
from functools import partial
from gitpeft.cli import progress
from gitpeft.history import pool
from gitpeft.history.store import CommitRecord
from gitpeft.learn.data import dataset, example_index
pool.count_cores = lambda: 2
example_index._PARALLEL_THRESHOLD, example_index._BATCH_SIZE = 10, 7
example_index.describe_commit = lambda subject, change: str(os.getpid())
counted, records = [], [
    CommitRecord(f"{i:040x}", 1, i, i, "ada", False, f"add {i}", "", "M a.py", 1, 1, 0, "") for i in range(60)
]
with progress.show_progress(sys.argv[1]) as listen:
    for step in ("examples", "train", "examples"):
        listen(step, 0.0, "")
        made = dataset.build_dataset(records, 3, listen=partial(listen, step))
        counted.append(len(set(made.indexer._notes) - {str(os.getpid())}))
print("COUNTED BY", *counted)
"""


@pytest.mark.skipif(sys.platform != "linux", reason="no copies of a process here")
@pytest.mark.parametrize("form", [progress.AUTO, progress.LINES])
def test_progress_does_not_keep_commits_from_being_counted_in_processes(form: str) -> None:
    command = [sys.executable, "-c", COUNTING, form]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "TERM": "xterm"}
    shown = run_in_window(command, CHECKOUT, env, 100)
    assert any("Preparing examples" in line for line in shown)
    assert any(line.endswith("COUNTED BY 2 2 2") for line in shown), shown


def test_the_bar_of_a_step_that_begins_again_tells_the_time_left_of_the_second_time(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """As `train --org` does for each repository; a result that is there already changes no clock."""
    bars, now = progress._StepBars(), [0.0]
    monkeypatch.setattr(bars, "start", lambda: None)
    monkeypatch.setattr(bars.bars, "get_time", lambda: now[0])
    for seconds, step, done in (
        (0, "train", 0.0), (600, "train", 1.0), (0, "export", 0.0), (20, "export", 1.0),
        (0, "train", 0.0), (60, "train", 0.5), (0, "export", 1.0),
    ):  # fmt: skip
        now[0] += seconds
        bars.show_step(step, done, "loss 2" if done == 0.5 else "")
    train, export = bars.bars.tasks
    assert train.fields["detail"] == "1 min 0 s left · loss 2" and export.finished_time == 20.0


def test_the_bar_of_a_resumed_step_tells_the_same_time_left(monkeypatch: pytest.MonkeyPatch) -> None:
    bars = progress._StepBars()
    monkeypatch.setattr(bars, "start", lambda: None)
    bars.show_step("train", 0.24, "")
    task = bars.bars.tasks[0]
    monkeypatch.setattr(type(task), "elapsed", 60.0)
    bars.show_step("train", 0.25, "loss 1.9")
    assert task.fields["detail"] == "1 h 15 min left · loss 1.9"


def test_the_beginning_of_a_step_says_nothing_of_the_time_left() -> None:
    assert format_time_left(60.0, 0.001) == "" and format_time_left(0.5, 0.5) == ""
    assert format_time_left(120.0, 0.001) == "33 h 18 min", "a hundredth of a long training takes an hour"
    assert format_time_left(600.0, 0.5, 0.5) == "", "nothing was done yet"
    assert format_time_left(60.0, 0.5) == "1 min 0 s" and format_time_left(60.0, 0.505, 0.5) == ""
