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

from gitpeft.risk.model import LINES_ADDED, Model

if TYPE_CHECKING:
    from gitpeft.bundle.registry import Version
    from gitpeft.hooks.doctor import Finding, Status
    from gitpeft.learn.compare.runs import Row, Watcher
    from gitpeft.learn.pipeline import Outcome
    from gitpeft.learn.training.finetune import Listener


def escape(text: str) -> str:
    """Foreign text for rich, with nothing left that a terminal could obey."""
    return _marked("".join(c if c.isprintable() or c in "\n\t" else "?" for c in text))


out = Console(highlight=False, soft_wrap=False)
err = Console(stderr=True, highlight=False)

STEPS = {
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
_drawn: list[Progress] = []

_WIDE = 80
"""Columns from which on tables are shown in full."""

METRICS = {"b_norm": "B-Norm", "rouge_l": "ROUGE-L", "edit_similarity": "edit sim.", "first_word": "EM@1"}


@contextmanager
def progress() -> Iterator["Listener"]:
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
    bars = Progress(*columns, console=err, transient=False)
    tasks: dict[str, TaskID] = {}

    def listen(step: str, done: float, detail: str) -> None:
        if step not in tasks:
            tasks[step] = bars.add_task(STEPS.get(step, step), total=1.0, detail="")
            bars.start()
        bars.update(tasks[step], completed=min(1.0, done), detail=escape(detail))

    _drawn.append(bars)
    try:
        yield listen
        for task in tasks.values():
            bars.update(task, completed=1.0)
    finally:
        _drawn.remove(bars)
        if tasks:
            bars.stop()


def agreed(question: str) -> bool:
    """Ask yes or no on the terminal, yes by default. Progress, which would draw over it, stands still."""
    running = [bars for bars in _drawn if bars.live.is_started]
    for bars in running:
        bars.stop()
    try:
        return Confirm.ask(escape(question), console=err, default=True)
    finally:
        for bars in running:
            bars.start()


def card(outcome: "Outcome", hooks: str) -> None:
    """The result of `gitpeft init` on one screen."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    left_out = ", ".join(f"{n:,} {why}" for why, n in sorted(outcome.left_out.items(), key=lambda i: -i[1]))
    grid.add_row("Commits", f"{outcome.used:,} used" + (f"; left out: {left_out}" if left_out else ""))
    grid.add_row("Model", escape(_model(outcome)))
    if outcome.why:
        grid.add_row("Not trained", escape(f"{outcome.why}. {_what_training_adds(outcome.why)}"))
    grid.add_row("Time", _times(outcome.seconds) + f"; peak memory {outcome.peak_memory / 2**30:.1f} GiB")
    if outcome.tuning:
        grid.add_row("Tuning", _tuning(outcome.tuning))
    grid.add_row("Offered first", _choice(outcome.choice))
    grid.add_row("Risk", escape(risk(Model.of(outcome.risk))))
    grid.add_row("Hooks", escape(hooks))
    grid.add_row("Next", _next(outcome))
    out.print(Panel(grid, title="gitpeft", border_style="green"))
    if outcome.test:
        out.print(scores(outcome.test))
    if outcome.samples:
        out.print(samples(outcome.samples))


def _model(outcome: "Outcome") -> str:
    if outcome.kind == "retrieval":
        return "none: the messages of the most similar earlier commits"
    if not outcome.trainable:
        return f"base {outcome.base} as it is, with exemplars from this history"
    share = outcome.trainable / max(1, outcome.parameters)
    method = outcome.method.get("name", "")
    said = ", ".join(_setting(key, outcome.method[key]) for key in _SHOWN if outcome.method.get(key))
    settings = f" ({said})" if said else ""
    notes = "".join(f"; {note}" for note in outcome.cost.get("notes", ()))
    weights = f"{outcome.trainable:,} trainable weights ({share:.1%})"
    return f"base {outcome.base}, {method}{settings}, {weights}{notes}"


_SHOWN = ("rank", "width", "placement", "layers", "full")


def _setting(key: str, value: Any) -> str:
    if key == "placement":
        return str(value)
    return f"{key} {' '.join(value)}" if isinstance(value, tuple | list) else f"{key} {value}"


def _what_training_adds(why: str) -> str:
    if "not installed" in why:
        return "Training would tune the model to this team: pip install 'gitpeft[train]', then gitpeft init."
    return ""


def _times(seconds: dict[str, float]) -> str:
    total = sum(seconds.values())
    return (
        f"{total:,.0f} s (" + ", ".join(f"{step} {s:,.0f}" for step, s in seconds.items() if s >= 0.5) + ")"
    )


def _tuning(tuning: dict[str, float]) -> str:
    best = max(tuning, key=lambda name: tuning[name])
    scored = ", ".join(f"{name} {score:.1f}" for name, score in tuning.items())
    return f"{best} serves (B-Norm on validation commits: {scored})"


def _choice(choice: dict[str, Any]) -> str:
    if not choice:
        return "by the default chooser (too few commits to validate on)"
    scored = ", ".join(f"{mode} {score:.1f}" for mode, score in choice["scores"].items())
    return f"{choice['mode']} (B-Norm on {choice['n']} validation commits: {scored})"


def _next(outcome: "Outcome") -> str:
    return (
        "stage a change and run `git commit`, or `gitpeft suggest --staged`; `gitpeft status` shows the state"
    )


def scores(test: dict[str, Any]) -> Table:
    """Systems by metrics, each mean with its 95 % interval."""
    n = next(iter(test.values()))["n"]
    table = Table(title=f"Newest {n} usable commits (mean, 95 % interval)", title_justify="left")
    table.add_column("")
    names = [name for name in METRICS if name in next(iter(test.values()))]
    for name in names:
        table.add_column(METRICS[name], justify="right")
    for system, row in test.items():
        cells = (f"{row[m]['mean']:.1f} ({row[m]['low']:.1f}-{row[m]['high']:.1f})" for m in names)
        table.add_row(system, *cells)
    return table


def samples(found: Sequence[tuple[str, str, str]]) -> Table:
    """Suggestions beside what the team wrote."""
    table = Table(title="Samples from those commits", title_justify="left")
    for name in ("commit", "the team wrote", "gitpeft would have suggested"):
        table.add_column(name, overflow="fold")
    for sha, theirs, ours in found:
        table.add_row(sha, escape(theirs), escape(ours) or "(nothing)")
    return table


def risk(model: Model) -> str:
    """What the risk model is, and what it is worth beside the number of added lines."""
    if not model.usable:
        return model.why
    found = (
        f"{model.kind}, from {model.known:,} known bugs (half of them known within {model.latency:.0f} days)"
    )
    test = model.report.get("test", {})
    scores = [f"{name}: {_measured(row)}" for name, row in test.items()]
    off = "; nothing is flagged, since nothing beats lines added here" if model.kind == LINES_ADDED else ""
    return f"{found}{off}; newest {model.report.get('n', 0)} commits: {'; '.join(scores)}"


def _measured(row: dict[str, Any]) -> str:
    (auc, low, high), capture = row["auc"], row["capture_20"]
    return f"AUC {auc:.2f} ({low:.2f}-{high:.2f}), {capture[0]:.0%} of the bugs in the riskiest fifth"


@contextmanager
def comparing(quiet: bool) -> Iterator["Watcher"]:
    """A watcher that shows every run of a comparison in one live table, on stderr, or says nothing."""
    if quiet:
        yield lambda _rows, _now: None
        return
    from rich.live import Live

    with Live(console=err, refresh_per_second=4) as live:
        yield lambda rows, now: live.update(_runs(rows, now))


def _runs(rows: "Sequence[Row]", now: str) -> Table:
    table = Table(title=escape(now), title_justify="left")
    for name in ("runs", "method", "seed", "state", "loss", "time"):
        table.add_column(name, justify="right" if name in ("loss", "time", "seed") else "left")
    for row in rows:
        found = row.result
        loss = f"{found['valid_loss']:.3f}" if found else ""
        spent = f"{found['seconds']:,.0f} s" if found else ""
        state = f"{row.done:.0%} {row.detail}" if row.state == "running" else row.state
        table.add_row(row.rung, escape(row.label), str(row.seed), escape(state), loss, spent)
    return table


def comparison(report: dict[str, Any]) -> None:
    """A comparison on one screen: quality, cost, advice, and where the page is."""
    for task in report["tasks"]:
        out.print(_compared(task))
        if task["low"]:
            out.print(_with_fewer(task))
        for one in task["transfer"]:
            out.print(_transferred(one, task["metric"]))
        if task["left_out"]:
            out.print(escape("Left out for want of time: " + "; ".join(task["left_out"])))
        for sentence in task["advice"]["words"]:
            out.print(escape(sentence))
    for why in report["left_out"]:
        out.print(escape(f"Left out: {why}"))
    out.print(escape(f"The page: {report['page']}"), soft_wrap=True)


def _compared(task: dict[str, Any]) -> Table:
    metric, best = task["metric"], task["finalists"][0]
    heads = (metric["name"], "to the best", "trained", "memory", "training", "on disk")
    table = _titled(f"{task['task']}: {task['asked']} validation commits (mean, 95 % interval)", heads)
    for row in task["finalists"]:
        cost, gap = row["cost"], row["against_best"]
        table.add_row(
            escape(row["label"]), _mean(row["scores"][metric["key"]], metric),
            "" if row is best else _gap(gap, metric), f"{cost['share']:.1%}",
            f"{cost['memory'] / 2**30:.1f} GiB", f"{cost['seconds']:,.0f} s",
            f"{cost['adapter_bytes'] / 1e6:.1f} MB",
        )  # fmt: skip
    for row in task["baselines"]:
        table.add_row(escape(row["label"]), _mean(row["scores"][metric["key"]], metric), *[""] * 5)
    return table


def _with_fewer(task: dict[str, Any]) -> Table:
    low, metric = task["low"], task["metric"]
    table = _titled("with so many commits to learn from", [f"{size:,}" for size in low["sizes"]])
    for name, scores in low["systems"].items():
        table.add_row(escape(name), *(_mean(one, metric) if one else "" for one in scores))
    return table


def _transferred(one: dict[str, Any], metric: dict[str, Any]) -> Table:
    title = f"{one['examples']} commits teach, {one['n']} of {one['asked']} are asked about"
    table = _titled(title, (f"taught by {one['taught']}", f"by {one['asked']}", "difference"))
    for row in one["rows"]:
        own = (_mean(row["within"], metric), _gap(row["gap"], metric)) if "gap" in row else ("", "")
        table.add_row(escape(row["label"]), _mean(row["across"], metric), *own)
    return table


def _titled(title: str, heads: Sequence[str]) -> Table:
    table = Table(title=escape(title), title_justify="left")
    table.add_column("", overflow="fold")
    for name in heads:
        table.add_column(escape(name), justify="right")
    return table


def _mean(score: dict[str, float], metric: dict[str, Any]) -> str:
    digits = metric["digits"]
    return f"{score['mean']:.{digits}f} ({score['low']:.{digits}f}-{score['high']:.{digits}f})"


def _gap(gap: dict[str, Any], metric: dict[str, Any]) -> str:
    return f"{gap['mean']:+.{metric['digits']}f}{'' if gap['clear'] else ' (noise)'}"


def status(state: "Status", model: dict[str, Any] | None, risky: Model) -> None:
    """What is installed here and whether the next commit will be offered a message."""
    grid = Table.grid(padding=(0, 2))
    grid.add_column(style="bold")
    grid.add_column(overflow="fold")
    for hook in state.hooks:
        grid.add_row(
            hook.name, escape(f"{hook.how} in {hook.where}, {'runs' if hook.runs else 'does not run'}")
        )
    if not state.hooks:
        grid.add_row("hooks", "none installed; `gitpeft install` puts one in")
    grid.add_row("model", escape(_active(model)) if model else "none; `gitpeft init` makes one")
    grid.add_row("risk", escape(risk(risky)))
    if model:
        counts = model["acceptance"]
        if any(counts.values()):
            grid.add_row("offers", ", ".join(f"{number:,} {name}" for name, number in counts.items()))
        if model["level"]:
            grid.add_row("loss", _level(model["level"]))
        if model["promise"]:
            grid.add_row("promises", _promise(model["promise"]))
        if model["due"]:
            grid.add_row("due", escape(model["due"]))
    grid.add_row("enabled", "yes" if state.enabled else "no (git config gitpeft.enabled)")
    for line in state.log:
        grid.add_row("log", escape(line))
    out.print(grid)


def _level(found: dict[str, Any]) -> str:
    return (
        f"{found['new']:.2f} nats a token on the newest {found['n_new']} commits, "
        f"{found['old']:.2f} on {found['n_old']} before the model was made"
    )


def _promise(found: dict[str, Any]) -> str:
    return (
        f"{found['promised']:.1f} bugs promised by the risk score in {found['n']:,} commits judged since, "
        f"{found['found']:,} found"
    )


def _active(model: dict[str, Any]) -> str:
    method = model["method"].get("name", "none") if model["base"] else "retrieval"
    commits = model["commits"]
    ahead = model["commits_since"]
    since = f"; {ahead:,} commit{'s' if ahead > 1 else ''} since" if ahead else ""
    known = f"{commits.get('count', 0):,} commits up to {commits.get('to', '')[:10] or '?'}"
    return (
        f"{model['id'][:12]}: base {model['base'] or '-'}, {method}, {known}, made {model['created']}{since}"
    )


def models(found: Sequence["Version"]) -> None:
    """A line for each model."""
    table = Table()
    narrow = out.width < _WIDE  # what one has to read in full, to name a model, comes first
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
        table.add_row(*map(escape, row), f"{one.size / 1e6:.1f}")
    out.print(table)
    out.print("* active  - the one before it, where `gitpeft rollback` goes")
    for one in found:
        if one.aside:
            out.print(escape(f"{one.id[:12]} was kept aside: {one.aside}"))


def findings(found: Sequence["Finding"]) -> None:
    """What `gitpeft doctor` found."""
    if not found:
        out.print("Nothing is wrong: the next commit with an editor is offered a message.")
    for one in found:
        mended = " [green](mended)[/]" if one.mended else ""
        out.print(f"[bold]{escape(one.text)}[/]{mended}", soft_wrap=True)
        if one.remedy and not one.mended:
            out.print(f"  {escape(one.remedy)}", soft_wrap=True)  # commands are there to be copied


def error(message: str, hint: str) -> None:
    """A problem that a person can do something about."""
    err.print(f"[bold red]error:[/] {escape(message)}", soft_wrap=True)
    if hint:
        err.print(escape(hint), soft_wrap=True)
