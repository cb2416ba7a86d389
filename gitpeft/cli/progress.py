"""Progress of long work on standard error: bars on a terminal, now and then a line elsewhere."""

import json
import re
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING, Self

from rich.console import Console
from rich.live import Live
from rich.markup import escape
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn
from rich.prompt import Confirm
from rich.table import Column, Table

from gitpeft.cli.console import format_duration
from gitpeft.history.pool import RepeatedCall
from gitpeft.terminal import replace_unprintable

if TYPE_CHECKING:
    from collections.abc import Sequence

    from gitpeft.learn.compare.runs import RunStatus, RunWatcher
    from gitpeft.learn.training.finetune import ProgressListener

LEAST_SHARE, LEAST_SECONDS = 0.01, 120.0
"""The share of a step that has to be done, or the time that it has to take, before the time left is told: a
start says nothing of the pace."""

LINE_SECONDS = 15.0
"""Without a terminal a running step is reported this often."""

STEP_LABELS = {
    "mine": "Reading history",
    "examples": "Preparing examples",
    "train": "Training",
    "export": "Exporting to ONNX",
    "choose": "Fitting the reranker",
    "measure": "Evaluating",
    "pairs": "Collecting pairs",
    "labels": "Tracing fixes",
    "risk": "Fitting risk model",
    "tokenizer": "Training tokenizer",
    "repositories": "Repositories",
}
_LABEL_WIDTH = max(map(len, STEP_LABELS.values()))

AUTO, LINES, JSON, NONE = PROGRESS_FORMS = ("auto", "lines", "json", "none")
"""Bars on a terminal and lines elsewhere; lines; JSON objects, one a line; nothing."""

_REDRAW_SECONDS = 0.1
_COUNTED = re.compile(r"([\d,]+)/([\d,]+) (\w+)")

stderr_console = Console(stderr=True, highlight=False)
_running_bars: list["_StepBars"] = []


def escape_markup(text: str) -> str:
    """Foreign text for rich, with nothing left that a terminal could obey."""
    return escape(replace_unprintable(text, keep="\n\t"))


@contextmanager
def show_progress(how: str = AUTO) -> Iterator["ProgressListener"]:
    """A listener that shows each step with how much is done, its rate and the time left.

    `how` is one of `PROGRESS_FORMS`.
    """
    if how == NONE:
        yield lambda _step, _done, _detail: None
        return
    if how != AUTO or not stderr_console.is_terminal:
        lines = ProgressLines(events=how == JSON, repeats=True)
        try:
            yield lines.show_step
        finally:
            lines.stop()
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
    """Progress without a terminal: a line when a step begins, and one every `LINE_SECONDS` while it lasts.

    With `repeats` the line of a step that tells nothing for so long is repeated. With `events` each line is a
    JSON object with the step, the share done (0..1), the seconds since the step began and those that are left
    (null: unknown), and words.
    """

    def __init__(self, *, events: bool = False, repeats: bool = False) -> None:
        self.events = events
        self.step = self.detail = ""
        self.started = self.shown = self.done = self.begun = 0.0
        self._count: _RunningCount | None = None
        self._lock = threading.Lock()
        self._repeated = RepeatedCall(self._repeat_line, 1.0) if repeats else None

    def show_step(self, step: str, done: float, detail: str) -> None:
        """As `ProgressListener`: `done` is a share of 1."""
        with self._lock:
            now = time.monotonic()
            is_new = step != self.step
            if is_new:
                self.step, self.started, self.begun, self._count = step, now, done, None
            self.done, self.detail = done, detail
            self._count = _RunningCount.read(detail, now, self._count)
            if is_new or now - self.shown >= LINE_SECONDS:
                self._print_line(now)
        if self._repeated is not None:
            self._repeated.start()

    def stop(self) -> None:
        """Print no more lines."""
        if self._repeated is not None:
            self._repeated.stop()

    def _repeat_line(self) -> None:
        with self._lock:
            now = time.monotonic()
            if now - self.shown >= LINE_SECONDS:
                self._print_line(now)

    def _print_line(self, now: float) -> None:
        self.shown = now
        print(self._format_event(now) if self.events else self._format_line(now), file=sys.stderr, flush=True)

    def _format_line(self, now: float) -> str:
        spent = now - self.started
        left = format_time_left(spent, self.done, self.begun)
        words = [
            f"{self.done:.0%}" if 0 < self.done < 1 else "",
            self.detail,
            self._count.format_rate(now) if self._count else "",
            left and f"{left} left",
        ]
        if not any(words) and spent >= LINE_SECONDS:
            words = [f"{format_duration(spent)} so far"]
        told = ", ".join(filter(None, words))
        line = STEP_LABELS.get(self.step, self.step) + (f": {told}" if told else "")
        return replace_unprintable(f"gitpeft: {line}")

    def _format_event(self, now: float) -> str:
        spent = now - self.started
        left = estimate_seconds_left(spent, self.done, self.begun)
        event = {
            "step": self.step,
            "done": round(self.done, 4),
            "seconds": round(spent, 1),
            "left": None if left is None else round(left, 1),
            "detail": self.detail,
        }
        return json.dumps(event)


@dataclass(frozen=True, slots=True)
class _RunningCount:
    """How many `units` a detail counts; there were `first` at the time `since`, when it began to count them.

    `what` are the words of the detail up to the count, and the total: a step may count one thing after
    another.
    """

    what: tuple[str, str]
    units: str
    count: int
    first: int
    since: float

    @classmethod
    def read(cls, detail: str, now: float, before: Self | None) -> Self | None:
        """The count in a detail, which may go on from the one before it; None where nothing is counted."""
        found = _COUNTED.search(detail)
        if found is None:
            return None
        what, count = (detail[: found.start()], found[2]), int(found[1].replace(",", ""))
        if before is not None and before.what == what and before.count <= count:
            return cls(what, found[3], count, before.first, before.since)
        return cls(what, found[3], count, count, now)

    def format_rate(self, now: float) -> str:
        """Units a second, "" while that says nothing."""
        if now - self.since < 1 or self.count == self.first:
            return ""
        return f"{(self.count - self.first) / (now - self.since):,.1f} {self.units}/s"


def estimate_seconds_left(spent: float, done: float, begun: float = 0.0) -> float | None:
    """Seconds left of a step that took `spent` from a share `begun` to `done`; None while that says nothing.

    What is resumed begins with the share that was done before, which says nothing of the pace.
    """
    new = done - begun
    if spent < 1 or done >= 1 or new <= 0 or (new < LEAST_SHARE and spent < LEAST_SECONDS):
        return None
    return spent * (1 - done) / new


def format_time_left(spent: float, done: float, begun: float = 0.0) -> str:
    """`estimate_seconds_left` in words, "" for None."""
    left = estimate_seconds_left(spent, done, begun)
    return "" if left is None else format_duration(left)


class _StepBars:
    """A bar for each step; those of finished steps are full and their clocks stand still.

    A step that begins again, for the next of several repositories, has its bar and its clock begin again.
    """

    def __init__(self) -> None:
        self.tasks: dict[str, TaskID] = {}
        self.step, self.begun = "", 0.0
        rest = Column(no_wrap=True, overflow="ellipsis", ratio=1)
        self.bars = Progress(
            TextColumn("{task.description}", table_column=Column(min_width=_LABEL_WIDTH, no_wrap=True)),
            BarColumn(bar_width=10, table_column=Column(min_width=10)),
            TextColumn("{task.percentage:>3.0f}%", table_column=Column(min_width=4)),
            TimeElapsedColumn(table_column=Column(min_width=7)),
            TextColumn("{task.fields[detail]}", table_column=rest),
            console=stderr_console,
            expand=True,
            auto_refresh=False,
        )  # fmt: skip
        # not rich's own thread, which would run on while this process is forked
        self._redrawing = RepeatedCall(self.bars.refresh, _REDRAW_SECONDS)

    def show_step(self, step: str, done: float, detail: str) -> None:
        """As `ProgressListener`: `done` is a share of 1."""
        if step not in self.tasks:
            self._clear_start_line()
            self.finish_steps()
            self.begun = done
            self.tasks[step] = self.bars.add_task(STEP_LABELS.get(step, step), total=1.0, detail="")
            self.start()
        elif step != self.step and done < 1:
            self.finish_steps()
            self.begun = done
            self.bars.reset(self.tasks[step], total=1.0)
        self.step = step
        task = self.bars.tasks[self.tasks[step]]
        left = format_time_left(task.elapsed or 0.0, done, self.begun)
        told = " · ".join(filter(None, (left and f"{left} left", detail)))
        self.bars.update(self.tasks[step], completed=min(1.0, done), detail=escape_markup(told))

    def finish_steps(self) -> None:
        """Fill the bars of all steps so far."""
        for task in self.tasks.values():
            self.bars.update(task, completed=1.0)

    def start(self) -> None:
        """Begin to draw, or go on."""
        self.bars.start()
        self._redrawing.start()
        if self not in _running_bars:
            _running_bars.append(self)

    def stop(self) -> None:
        """Draw for the last time."""
        self._redrawing.stop()
        if self in _running_bars:
            _running_bars.remove(self)
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
    running = _running_bars[:]
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
    with Live(console=stderr_console, auto_refresh=False) as live, RepeatedCall(live.refresh, 0.25):
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
