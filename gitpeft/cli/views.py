"""What people see: hides rich. Progress of long steps, cards and tables."""

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.markup import escape as _marked
from rich.panel import Panel
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn, TimeRemainingColumn
from rich.prompt import Confirm
from rich.table import Table

from gitpeft.risk.model import LINES_ADDED, RiskModel

if TYPE_CHECKING:
    from gitpeft.bundle.registry import ModelVersion
    from gitpeft.hooks.doctor import DoctorFinding, RepositoryStatus
    from gitpeft.learn.compare.runs import RunStatus, RunWatcher
    from gitpeft.learn.pipeline import PipelineResult
    from gitpeft.learn.training.finetune import ProgressListener


def escape_markup(text: str) -> str:
    """Foreign text for rich, with nothing left that a terminal could obey."""
    return _marked("".join(c if c.isprintable() or c in "\n\t" else "?" for c in text))


stdout_console = Console(highlight=False, soft_wrap=False)
stderr_console = Console(stderr=True, highlight=False)

STEP_LABELS = {
    "mine": "Reading history",
    "examples": "Preparing examples",
    "train": "Training",
    "export": "Exporting to ONNX",
    "choose": "Fitting the chooser",
    "measure": "Measuring",
    "labels": "Tracing fixes",
    "risk": "Fitting the risk model",
    "tokenizer": "Training the tokenizer",
}
_running_progress: list[Progress] = []

_WIDE_COLUMNS = 80
"""Columns from which on tables are shown in full."""

METRIC_LABELS = {
    "b_norm": "B-Norm",
    "rouge_l": "ROUGE-L",
    "edit_similarity": "edit sim.",
    "first_word": "EM@1",
}


@contextmanager
def show_progress() -> Iterator["ProgressListener"]:
    """A listener that shows each step with its rate and time left, on stderr, from the first one on.

    Not earlier, because it is a thread that draws, and beside one `crew` does not copy the process.
    """
    columns = (
        TextColumn("{task.description:<22}"),
        BarColumn(bar_width=10),
        TextColumn("{task.percentage:>3.0f}%"),
        TimeElapsedColumn(),
        TimeRemainingColumn(compact=True),
        TextColumn("{task.fields[detail]}"),
    )
    bars = Progress(*columns, console=stderr_console, transient=False)
    tasks: dict[str, TaskID] = {}

    def show_step(step: str, done: float, detail: str) -> None:
        if step not in tasks:
            tasks[step] = bars.add_task(STEP_LABELS.get(step, step), total=1.0, detail="")
            bars.start()
        bars.update(tasks[step], completed=min(1.0, done), detail=escape_markup(detail))

    _running_progress.append(bars)
    try:
        yield show_step
        for task in tasks.values():
            bars.update(task, completed=1.0)
    finally:
        _running_progress.remove(bars)
        if tasks:
            bars.stop()


def ask_confirmation(question: str) -> bool:
    """Ask yes or no on the terminal, yes by default. Progress, which would draw over it, stands still."""
    running = [bars for bars in _running_progress if bars.live.is_started]
    for bars in running:
        bars.stop()
    try:
        return Confirm.ask(escape_markup(question), console=stderr_console, default=True)
    finally:
        for bars in running:
            bars.start()


def print_outcome(outcome: "PipelineResult", hooks: str) -> None:
    """The result of `gitpeft init` on one screen."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    left_out = ", ".join(f"{n:,} {why}" for why, n in sorted(outcome.left_out.items(), key=lambda i: -i[1]))
    grid.add_row("Commits", f"{outcome.used:,} used" + (f"; left out: {left_out}" if left_out else ""))
    grid.add_row("Model", escape_markup(_format_model(outcome)))
    if outcome.why:
        grid.add_row("Not trained", escape_markup(f"{outcome.why}. {_explain_training_benefit(outcome.why)}"))
    grid.add_row(
        "Time", _format_times(outcome.seconds) + f"; peak memory {outcome.peak_memory / 2**30:.1f} GiB"
    )
    if outcome.tuning:
        grid.add_row("Tuning", _format_tuning(outcome.tuning))
    grid.add_row("Offered first", _format_reranker_choice(outcome.choice))
    grid.add_row("Risk", escape_markup(format_risk_model(RiskModel.from_dict(outcome.risk))))
    grid.add_row("Hooks", escape_markup(hooks))
    grid.add_row("Next", _format_next_step(outcome))
    stdout_console.print(Panel(grid, title="gitpeft", border_style="green"))
    if outcome.test:
        stdout_console.print(build_scores_table(outcome.test))
    if outcome.samples:
        stdout_console.print(build_samples_table(outcome.samples))


def _format_model(outcome: "PipelineResult") -> str:
    if outcome.kind == "retrieval":
        return "none: the messages of the most similar earlier commits"
    if not outcome.trainable:
        return f"base {outcome.base} as it is, with exemplars from this history"
    share = outcome.trainable / max(1, outcome.parameters)
    method = outcome.method.get("name", "")
    said = ", ".join(
        _format_setting(key, outcome.method[key]) for key in _SHOWN_SETTINGS if outcome.method.get(key)
    )
    settings = f" ({said})" if said else ""
    notes = "".join(f"; {note}" for note in outcome.cost.get("notes", ()))
    weights = f"{outcome.trainable:,} trainable weights ({share:.1%})"
    return f"base {outcome.base}, {method}{settings}, {weights}{notes}"


_SHOWN_SETTINGS = ("rank", "width", "placement", "layers", "full")


def _format_setting(key: str, value: Any) -> str:
    if key == "placement":
        return str(value)
    return f"{key} {' '.join(value)}" if isinstance(value, tuple | list) else f"{key} {value}"


def _explain_training_benefit(why: str) -> str:
    if "not installed" in why:
        return "Training would tune the model to this team: pip install 'gitpeft[train]', then gitpeft init."
    return ""


def _format_times(seconds: dict[str, float]) -> str:
    total = sum(seconds.values())
    return (
        f"{total:,.0f} s (" + ", ".join(f"{step} {s:,.0f}" for step, s in seconds.items() if s >= 0.5) + ")"
    )


def _format_tuning(tuning: dict[str, float]) -> str:
    best = max(tuning, key=lambda name: tuning[name])
    scored = ", ".join(f"{name} {score:.1f}" for name, score in tuning.items())
    return f"{best} serves (B-Norm on validation commits: {scored})"


def _format_reranker_choice(choice: dict[str, Any]) -> str:
    if not choice:
        return "by the default chooser (too few commits to validate on)"
    scored = ", ".join(f"{mode} {score:.1f}" for mode, score in choice["scores"].items())
    return f"{choice['mode']} (B-Norm on {choice['n']} validation commits: {scored})"


def _format_next_step(outcome: "PipelineResult") -> str:
    return (
        "stage a change and run `git commit`, or `gitpeft suggest --staged`; `gitpeft status` shows the state"
    )


def build_scores_table(test: dict[str, Any]) -> Table:
    """Systems by metrics, each mean with its 95 % interval."""
    n = next(iter(test.values()))["n"]
    table = Table(title=f"Newest {n} usable commits (mean, 95 % interval)", title_justify="left")
    table.add_column("")
    names = [name for name in METRIC_LABELS if name in next(iter(test.values()))]
    for name in names:
        table.add_column(METRIC_LABELS[name], justify="right")
    for system, row in test.items():
        cells = (f"{row[m]['mean']:.1f} ({row[m]['low']:.1f}-{row[m]['high']:.1f})" for m in names)
        table.add_row(system, *cells)
    return table


def build_samples_table(found: Sequence[tuple[str, str, str]]) -> Table:
    """Suggestions beside what the team wrote."""
    table = Table(title="Samples from those commits", title_justify="left")
    for name in ("commit", "the team wrote", "gitpeft would have suggested"):
        table.add_column(name, overflow="fold")
    for sha, theirs, ours in found:
        table.add_row(sha, escape_markup(theirs), escape_markup(ours) or "(nothing)")
    return table


def format_risk_model(model: RiskModel) -> str:
    """What the risk model is, and what it is worth beside the number of added lines."""
    if not model.is_usable:
        return model.why
    found = (
        f"{model.kind}, from {model.known:,} known bugs (half of them known within {model.latency:.0f} days)"
    )
    test = model.report.get("test", {})
    scores = [f"{name}: {_format_risk_scores(row)}" for name, row in test.items()]
    off = "; nothing is flagged, since nothing beats lines added here" if model.kind == LINES_ADDED else ""
    return f"{found}{off}; newest {model.report.get('n', 0)} commits: {'; '.join(scores)}"


def _format_risk_scores(row: dict[str, Any]) -> str:
    (auc, low, high), capture = row["auc"], row["capture_20"]
    return f"AUC {auc:.2f} ({low:.2f}-{high:.2f}), {capture[0]:.0%} of the bugs in the riskiest fifth"


@contextmanager
def watch_comparison(quiet: bool) -> Iterator["RunWatcher"]:
    """A watcher that shows every run of a comparison in one live table, on stderr, or says nothing."""
    if quiet:
        yield lambda _rows, _now: None
        return
    from rich.live import Live

    with Live(console=stderr_console, refresh_per_second=4) as live:
        yield lambda rows, now: live.update(_build_runs_table(rows, now))


def _build_runs_table(rows: "Sequence[RunStatus]", now: str) -> Table:
    table = Table(title=escape_markup(now), title_justify="left")
    for name in ("runs", "method", "seed", "state", "loss", "time"):
        table.add_column(name, justify="right" if name in ("loss", "time", "seed") else "left")
    for row in rows:
        found = row.result
        loss = f"{found['valid_loss']:.3f}" if found else ""
        spent = f"{found['seconds']:,.0f} s" if found else ""
        state = f"{row.done:.0%} {row.detail}" if row.state == "running" else row.state
        table.add_row(row.rung, escape_markup(row.label), str(row.seed), escape_markup(state), loss, spent)
    return table


def print_comparison(report: dict[str, Any]) -> None:
    """A comparison on one screen: quality, cost, advice, and where the page is."""
    for task in report["tasks"]:
        stdout_console.print(_build_finalists_table(task))
        if task["low"]:
            stdout_console.print(_build_low_resource_table(task))
        for one in task["transfer"]:
            stdout_console.print(_build_transfer_table(one, task["metric"]))
        if task["left_out"]:
            stdout_console.print(escape_markup("Left out for want of time: " + "; ".join(task["left_out"])))
        for sentence in task["advice"]["words"]:
            stdout_console.print(escape_markup(sentence))
    for why in report["left_out"]:
        stdout_console.print(escape_markup(f"Left out: {why}"))
    stdout_console.print(escape_markup(f"The page: {report['page']}"), soft_wrap=True)


def _build_finalists_table(task: dict[str, Any]) -> Table:
    metric, best = task["metric"], task["finalists"][0]
    heads = (metric["name"], "to the best", "trained", "memory", "training", "on disk")
    table = _make_titled_table(
        f"{task['task']}: {task['asked']} validation commits (mean, 95 % interval)", heads
    )
    for row in task["finalists"]:
        cost, gap = row["cost"], row["against_best"]
        table.add_row(
            escape_markup(row["label"]), _format_interval(row["scores"][metric["key"]], metric),
            "" if row is best else _format_difference(gap, metric), f"{cost['share']:.1%}",
            f"{cost['memory'] / 2**30:.1f} GiB", f"{cost['seconds']:,.0f} s",
            f"{cost['adapter_bytes'] / 1e6:.1f} MB",
        )  # fmt: skip
    for row in task["baselines"]:
        table.add_row(
            escape_markup(row["label"]), _format_interval(row["scores"][metric["key"]], metric), *[""] * 5
        )
    return table


def _build_low_resource_table(task: dict[str, Any]) -> Table:
    low, metric = task["low"], task["metric"]
    table = _make_titled_table("with so many commits to learn from", [f"{size:,}" for size in low["sizes"]])
    for name, scores in low["systems"].items():
        table.add_row(escape_markup(name), *(_format_interval(one, metric) if one else "" for one in scores))
    return table


def _build_transfer_table(one: dict[str, Any], metric: dict[str, Any]) -> Table:
    title = f"{one['examples']} commits teach, {one['n']} of {one['asked']} are asked about"
    table = _make_titled_table(title, (f"taught by {one['taught']}", f"by {one['asked']}", "difference"))
    for row in one["rows"]:
        own = (
            (_format_interval(row["within"], metric), _format_difference(row["gap"], metric))
            if "gap" in row
            else ("", "")
        )
        table.add_row(escape_markup(row["label"]), _format_interval(row["across"], metric), *own)
    return table


def _make_titled_table(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=escape_markup(title), title_justify="left")
    table.add_column("", overflow="fold")
    for name in heads:
        table.add_column(escape_markup(name), justify="right")
    return table


def _format_interval(score: dict[str, float], metric: dict[str, Any]) -> str:
    digits = metric["digits"]
    return f"{score['mean']:.{digits}f} ({score['low']:.{digits}f}-{score['high']:.{digits}f})"


def _format_difference(gap: dict[str, Any], metric: dict[str, Any]) -> str:
    return f"{gap['mean']:+.{metric['digits']}f}{'' if gap['clear'] else ' (noise)'}"


def print_status(state: "RepositoryStatus", model: dict[str, Any] | None, risky: RiskModel) -> None:
    """What is installed here and whether the next commit will be offered a message."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for hook in state.hooks:
        grid.add_row(
            hook.name, escape_markup(f"{hook.how} in {hook.where}, {'runs' if hook.runs else 'does not run'}")
        )
    if not state.hooks:
        grid.add_row("hooks", "none installed; `gitpeft install` puts one in")
    grid.add_row(
        "model", escape_markup(_format_active_model(model)) if model else "none; `gitpeft init` makes one"
    )
    grid.add_row("risk", escape_markup(format_risk_model(risky)))
    if model:
        counts = model["acceptance"]
        if any(counts.values()):
            grid.add_row("offers", ", ".join(f"{number:,} {name}" for name, number in counts.items()))
        if model["level"]:
            grid.add_row("loss", _format_loss(model["level"]))
        if model["promise"]:
            grid.add_row("promises", _format_calibration(model["promise"]))
        if model["due"]:
            grid.add_row("due", escape_markup(model["due"]))
    grid.add_row("enabled", "yes" if state.enabled else "no (git config gitpeft.enabled)")
    for line in state.log:
        grid.add_row("log", escape_markup(line))
    stdout_console.print(grid)


def _format_loss(found: dict[str, Any]) -> str:
    return (
        f"{found['new']:.2f} nats a token on the newest {found['n_new']} commits, "
        f"{found['old']:.2f} on {found['n_old']} before the model was made"
    )


def _format_calibration(found: dict[str, Any]) -> str:
    return (
        f"{found['promised']:.1f} bugs promised by the risk score in {found['n']:,} commits judged since, "
        f"{found['found']:,} found"
    )


def _format_active_model(model: dict[str, Any]) -> str:
    method = model["method"].get("name", "none") if model["base"] else "retrieval"
    commits = model["commits"]
    ahead = model["commits_since"]
    since = f"; {ahead:,} commit{'s' if ahead > 1 else ''} since" if ahead else ""
    known = f"{commits.get('count', 0):,} commits up to {commits.get('to', '')[:10] or '?'}"
    return (
        f"{model['id'][:12]}: base {model['base'] or '-'}, {method}, {known}, made {model['created']}{since}"
    )


def print_models(found: Sequence["ModelVersion"]) -> None:
    """A line for each model."""
    table = Table()
    narrow = (
        stdout_console.width < _WIDE_COLUMNS
    )  # what one has to read in full, to name a model, comes first
    for name in ("", "model", "made"):
        table.add_column(name, no_wrap=True, min_width={"model": 12, "made": 10}.get(name, 1))
    for name in ("commits", "base", "method")[: 0 if narrow else 3]:
        table.add_column(name)
    for name in ("B-Norm", "MB"):
        table.add_column(name, justify="right")
    for one in found:
        mark = {"active": "*", "previous": "-"}.get(one.state, "")
        commits = f"{one.commits.get('count', 0):,} up to {str(one.commits.get('to', ''))[:10] or '?'}"
        score = f"{one.metrics['b_norm']:.1f}" if "b_norm" in one.metrics else ""
        made_of = (commits, one.base or "-", one.method)[: 0 if narrow else 3]
        row = (mark, one.id[:12], one.created[:10], *made_of, score)
        table.add_row(*map(escape_markup, row), f"{one.size / 1e6:.1f}")
    stdout_console.print(table)
    stdout_console.print("* active  - the one before it, where `gitpeft rollback` goes")
    for one in found:
        if one.aside:
            stdout_console.print(escape_markup(f"{one.id[:12]} was kept aside: {one.aside}"))


def print_findings(found: Sequence["DoctorFinding"]) -> None:
    """What `gitpeft doctor` found."""
    if not found:
        stdout_console.print("Nothing is wrong: the next commit with an editor is offered a message.")
    for one in found:
        mended = " [green](mended)[/]" if one.mended else ""
        stdout_console.print(f"[bold]{escape_markup(one.text)}[/]{mended}", soft_wrap=True)
        if one.remedy and not one.mended:
            stdout_console.print(
                f"  {escape_markup(one.remedy)}", soft_wrap=True
            )  # commands are there to be copied


def print_error(message: str, hint: str) -> None:
    """A problem that a person can do something about."""
    stderr_console.print(f"[bold red]error:[/] {escape_markup(message)}", soft_wrap=True)
    if hint:
        stderr_console.print(escape_markup(hint), soft_wrap=True)
