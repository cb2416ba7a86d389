"""Progress of long work on standard error: bars on a terminal, now and then a line elsewhere."""

import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.prompt import Confirm
from rich.table import Column, Table

from gitpeft.cli.console import format_duration
from gitpeft.terminal import replace_unprintable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gitpeft.learn.compare.runs import RunStatus, RunWatcher
    from gitpeft.learn.training.finetune import ProgressListener

LINE_SECONDS = 15.0
"""Without a terminal a running step is reported this often."""

STEP_LABELS = {
    "mine": "Reading history",
    "examples": "Preparing examples",
    "train": "Training",
    "export": "Exporting to ONNX",
    "choose": "Fitting the reranker",
    "measure": "Evaluating",
    "labels": "Tracing fixes",
    "risk": "Fitting risk model",
    "tokenizer": "Training tokenizer",
}
_LABEL_WIDTH = max(map(len, STEP_LABELS.values()))

stderr_console = Console(stderr=True, highlight=False)
_running_bars: list[Progress] = []


def escape_markup(text: str) -> str:
    """Foreign text for rich, with nothing left that a terminal could obey."""
    return escape(replace_unprintable(text, keep="\n\t"))


@contextmanager
def show_progress() -> Iterator["ProgressListener"]:
    """A listener that shows each step with how much is done, its rate and the time left."""
    if not stderr_console.is_terminal:
        yield ProgressLines().show_step
        return
    sys.stderr.write("Starting …")
    sys.stderr.flush()
    bars = _StepBars()
    try:
        yield bars.show_step
        bars.finish_steps()
    finally:
        bars.stop()


class ProgressLines:
    """Progress without a terminal: a line when a step begins, and one every `LINE_SECONDS` while it lasts."""

    def __init__(self) -> None:
        self.step = ""
        self.started = self.shown = 0.0

    def show_step(self, step: str, done: float, detail: str) -> None:
        """As `ProgressListener`: `done` is a share of 1."""
        now = time.monotonic()
        if step != self.step:
            self.step, self.started = step, now
        elif now - self.shown < LINE_SECONDS:
            return
        self.shown = now
        left = format_time_left(now - self.started, done)
        words = [f"{done:.0%}" if 0 < done < 1 else "", detail, left and f"{left} left"]
        told = ", ".join(filter(None, words))
        line = STEP_LABELS.get(step, step) + (f": {told}" if told else "")
        print(replace_unprintable(f"gitpeft: {line}"), file=sys.stderr, flush=True)


def format_time_left(spent: float, done: float) -> str:
    """The time left of a step that took `spent` seconds for a share `done`; "" while that says nothing."""
    if spent < 1 or not 0 < done < 1:
        return ""
    return format_duration(spent / done - spent)


class _StepBars:
    """A bar for each step; those of finished steps are full and their clocks stand still."""

    def __init__(self) -> None:
        self.tasks: dict[str, TaskID] = {}
        rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self.bars = Progress(
            TextColumn("{task.description}", table_column=Column(min_width=_LABEL_WIDTH, no_wrap=True)),
            BarColumn(bar_width=10, table_column=Column(min_width=10)),
            TextColumn("{task.percentage:>3.0f}%", table_column=Column(min_width=4)),
            TimeElapsedColumn(table_column=Column(min_width=7)),
            TextColumn("{task.fields[detail]}", table_column=rest),
            console=stderr_console,
            expand=True,
        )  # fmt: skip

    def show_step(self, step: str, done: float, detail: str) -> None:
        """The drawing thread starts with the first step: before that, processes may be forked off cheaply."""
        if step not in self.tasks:
            self._clear_start_line()
            self.finish_steps()
            self.tasks[step] = self.bars.add_task(STEP_LABELS.get(step, step), total=1.0, detail="")
            self.bars.start()
            if self.bars not in _running_bars:
                _running_bars.append(self.bars)
        task = self.bars.tasks[self.tasks[step]]
        left = format_time_left(task.elapsed or 0.0, done)
        told = " · ".join(filter(None, (left and f"{left} left", detail)))
        self.bars.update(self.tasks[step], completed=min(1.0, done), detail=escape_markup(told))

    def finish_steps(self) -> None:
        """Fill the bars of all steps so far."""
        for task in self.tasks.values():
            self.bars.update(task, completed=1.0)

    def stop(self) -> None:
        """Draw for the last time."""
        if self.bars in _running_bars:
            _running_bars.remove(self.bars)
        if self.tasks:
            self.bars.stop()
        else:
            self._clear_start_line()

    def _clear_start_line(self) -> None:
        if not self.tasks:
            sys.stderr.write("\r\033[K")
            sys.stderr.flush()


def ask_confirmation(question: str) -> bool:
    """Ask yes or no on the terminal, yes by default. Progress, which would draw over it, stands still."""
    running = [bars for bars in _running_bars if bars.live.is_started]
    for bars in running:
        bars.stop()
    try:
        return Confirm.ask(escape_markup(question), console=stderr_console, default=True)
    finally:
        for bars in running:
            bars.start()


# --- comparisons ------------------------------------------------------------------------------------------


@contextmanager
def watch_comparison(minutes: float, quiet: bool) -> Iterator["RunWatcher"]:
    """A watcher that shows every run of a comparison with `minutes` to spend; nothing if `quiet`."""
    if quiet:
        yield lambda _rows, _now: None
        return
    started, lines = time.monotonic(), ProgressLines()

    def format_clock() -> str:
        spent = time.monotonic() - started
        return f"{spent // 60:.0f}:{spent % 60:02.0f} of {minutes:g}:00"

    if not stderr_console.is_terminal:
        yield lambda rows, now: lines.show_step(now, 0.0, _describe_running(rows, format_clock()))
        return
    with Live(console=stderr_console, refresh_per_second=4) as live:
        yield lambda rows, now: live.update(_build_runs_table(rows, f"{format_clock()} · {now}"))


def _describe_running(rows: "Sequence[RunStatus]", clock: str) -> str:
    running = [f"{row.label} {row.done:.0%} {row.detail}" for row in rows if row.state == "running"]
    return ", ".join([clock, *running])


def _build_runs_table(rows: "Sequence[RunStatus]", now: str) -> Table:
    table = Table(title=escape_markup(now), title_justify="left")
    for name in ("runs", "method", "seed", "state", "loss", "time"):
        table.add_column(name, justify="right" if name in ("loss", "time", "seed") else "left")
    for row in rows:
        loss = f"{row.result.valid_loss:.3f}" if row.result else ""
        spent = f"{row.result.seconds:,.0f} s" if row.result else ""
        state = f"{row.done:.0%} {row.detail}" if row.state == "running" else row.state
        table.add_row(row.rung, escape_markup(row.label), str(row.seed), escape_markup(state), loss, spent)
    return table
