"""`gitpeft compare`: the comparisons of all tasks, their report and page, and the stored advice."""

import json
import time
from collections.abc import Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

from gitpeft.errors import GitpeftError
from gitpeft.files import write_json
from gitpeft.git.repository import Repository
from gitpeft.learn import pipeline
from gitpeft.learn.compare import page
from gitpeft.learn.compare.comparison import Comparison
from gitpeft.learn.compare.halving import ComparisonRequest, list_candidates
from gitpeft.learn.compare.report import Advice, ComparisonReport, TaskReport
from gitpeft.learn.compare.results import to_plain
from gitpeft.learn.compare.runs import RunWatcher
from gitpeft.learn.training import finetune
from gitpeft.learn.training.finetune import ProgressListener

if TYPE_CHECKING:
    from gitpeft.learn.results import MinedHistory

RISK = "risk"
TASK_CHOICES = {
    "message": (finetune.MESSAGE_TASK,),
    "messages": (finetune.MESSAGE_TASK,),
    RISK: (RISK,),
    "both": (finetune.MESSAGE_TASK, RISK),
}
"""The tasks behind each value of `--task`."""


def _ignore_progress(_step: str, _done: float, _detail: str) -> None:
    """Shows nothing."""


def compare_methods(
    repo: Repository, wish: ComparisonRequest, watch: RunWatcher, listen: ProgressListener = _ignore_progress
) -> ComparisonReport:
    """Compare methods on this history, and write the report as JSON, as a page, and the advice.

    Several tasks share the budget evenly. A task that this history has too little data for is left out with
    a reason, as long as there is another.
    """
    started = time.monotonic()
    if wish.task not in TASK_CHOICES:
        raise GitpeftError(f"there is no task {wish.task}", "choose from message, risk and both")
    list_candidates(wish)  # rejects wrong names before any work
    mined = pipeline.mine_history(repo, wish.until, listen)
    read = time.monotonic() - started
    works, left_out = _create_comparisons(repo, wish, mined, watch, listen)
    works[0].prepared += read
    tasks, failed = _run_comparisons(works)
    left_out += failed
    first = tasks[0].facts
    report = ComparisonReport(
        first.repository,
        first.tip,
        first.commits,
        first.device,
        wish.minutes,
        sum(task.facts.seconds for task in tasks),
        left_out,
        tasks,
    )
    place = works[0].folder / "report.html"
    write_json(works[0].folder / "report.json", report.as_dict())
    place.write_text(page.render_comparison_page(report), encoding="utf-8")
    _save_advice(repo, [task.advice for task in tasks])
    return replace(report, page=str(place))


def _run_comparisons(works: Sequence[Comparison]) -> tuple[list[TaskReport], list[str]]:
    """The report of each task, and why others have none: one that fails does not stop the others."""
    reports: list[TaskReport] = []
    failed: list[GitpeftError] = []
    for work in works:
        try:
            reports.append(work.run())
        except GitpeftError as error:
            failed.append(error)
    if not reports:
        raise failed[0]
    return reports, [error.message for error in failed]


def _save_advice(repo: Repository, advice: Sequence[Advice]) -> None:
    """Store advice for `load_advice`, beside that for other tasks."""
    path = repo.state_dir / "compare" / "advice.json"
    known = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    write_json(path, known | {one.task: to_plain(one) for one in advice})


def _create_comparisons(
    repo: Repository,
    wish: ComparisonRequest,
    mined: "MinedHistory",
    watch: RunWatcher,
    listen: ProgressListener,
) -> tuple[list[Comparison], list[str]]:
    """The comparisons of all tasks, each with its share of the budget, and why others are left out."""
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


def load_advice(repo: Repository, task: str = finetune.MESSAGE_TASK) -> Advice:
    """The newest advice for a task in this repository; GitpeftError when nothing was compared yet."""
    path = repo.state_dir / "compare" / "advice.json"
    found = json.loads(path.read_text(encoding="utf-8")) if path.exists() else {}
    if task not in found:
        raise GitpeftError(
            "nothing was compared here yet, so there is no advice to follow",
            "run `gitpeft compare` first, or name a method",
        )
    return Advice.from_dict({"task": task} | found[task])
