"""The result of a risk backtest as typed values, its JSON, and its sentences for people."""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime

from gitpeft.risk.model import MIN_JUDGED_BUGS, MODEL_NOTES

_MAX_SHOWN = 3

Interval = tuple[float | None, float | None, float | None]
"""A mean and its 95 % interval; None where it is undefined."""

BACKTEST_METRICS = {
    "auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "brier": "Brier score",
    "ece": "ECE",
    "capture_5": "bugs in the riskiest 5%",
    "capture_10": "in 10%",
    "capture_20": "in 20%",
    "skippable_95": "clean commits below 95% of the bugs",
    "recall_at_20_effort": "Recall@20%Effort",
    "effort_at_20_recall": "Effort@20%Recall",
    "popt": "Popt",
}


@dataclass(frozen=True, slots=True)
class PeriodResult:
    """One block of the period: its start (unix seconds), commits, bugs, flags, AUC, and expected bugs.

    With fewer than `MIN_JUDGED_BUGS` bugs the AUC is None.
    """

    start: int
    commits: int
    buggy: int
    flagged: int
    auc: float | None
    expected: float

    def as_dict(self) -> dict[str, object]:
        """Plain values; the start is called `from`."""
        plain = asdict(self)
        return {"from": plain.pop("start")} | plain


@dataclass(frozen=True, slots=True)
class ModelResult:
    """A model's flags at the budget, and its metrics (see `BACKTEST_METRICS`) over the whole period.

    `right` flags were fixed later. `reliability` has (predicted, observed, commits) by bin of probability,
    `counterfactual` the AUC on altered changes (see `ablations`), `drift` the blocks in order.
    """

    flagged: int
    right: int
    precision: float
    recall: float
    f1: float
    false_alarms_a_week: float
    rank_correlation_with_size: float | None
    metrics: Mapping[str, Interval]
    reliability: Sequence[tuple[float, float, int]]
    drift: Sequence[PeriodResult]
    counterfactual: Mapping[str, float | None]

    def as_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self) | {"drift": [one.as_dict() for one in self.drift]}


@dataclass(frozen=True, slots=True)
class JudgedCommit:
    """A commit as the selected score ranked it: time in unix seconds, estimated bug probability in per cent.

    `percentile` is its place among the recent commits then, `lines` how many it changed, `evidence` what the
    history said then. `fixed_by` is the id of its first fix, "" where none is known, `fix_subject` what that
    is called. `dismissed` is the reason why somebody dismissed the warning.
    """

    commit: str
    time: int
    fixed_by: str
    subject: str = ""
    score: int = 0
    percentile: float = 0.0
    lines: int = 0
    flagged: bool = False
    quiet: bool = False
    fix_subject: str = ""
    evidence: tuple[str, ...] = ()
    dismissed: str = ""

    @property
    def day(self) -> str:
        """Its date (UTC)."""
        return _format_day(self.time)

    @property
    def fix_name(self) -> str:
        """What its first fix is called, or its id; "" where none is known."""
        return self.fix_subject or self.fixed_by[:10]


@dataclass(frozen=True, slots=True)
class MonthResult:
    """What happened in a calendar month (`2026-03`), or in a year where there are many months.

    `caught` flags needed a fix later, `missed` commits needed one and had no flag; `quiet` ones were called
    so. `expected` is the sum of the estimated probabilities.
    """

    month: str
    commits: int
    buggy: int
    flagged: int
    caught: int
    missed: int
    quiet: int
    expected: float


@dataclass(frozen=True, slots=True)
class QuietResult:
    """What would have been called quiet: `n` of the newest `commits`, of which `bugs` needed a fix.

    These have `of` bugs in all. `below` is the limit, a percentile that was chosen on the commits before
    them; None with the reason `why`. `lines` is the share of the changed lines that was quiet.
    """

    below: float | None
    why: str = ""
    commits: int = 0
    n: int = 0
    bugs: int = 0
    of: int = 0
    lines: float = 0.0


@dataclass(frozen=True, slots=True)
class BacktestReport:
    """What would have been flagged in `months` up to `end` at a `budget` (per cent of the commits).

    `until` is the commit whose knowledge counts, `end` (unix seconds) `wait_days` before it: of later commits
    too little is known.

    `models` has the results by name, `chosen` is the selected one; with fewer than `MIN_JUDGED_BUGS` bugs
    there are no results, and `advice` says what to do. `off` is the reason why the hook flags nothing, ""
    where it does. `left_out` commits are not counted: the `young` ones among them are younger than the
    `wait_days` in which half of the fixes come, others have no label or too few bugs known before them.
    `unread` ones were skipped because an encoder reads the newest commits only. `flags` are newest first, and
    so are `bugs` (all that needed a fix), `let_through` (those of them that were called quiet) and
    `dismissed`. `read` is the share of the changed lines that is in flagged commits.
    """

    repository: str
    until: str
    months: int
    budget: float
    commits: int
    buggy: int
    left_out: int
    unread: int
    latency_days: float | None
    chosen: str = ""
    models: Mapping[str, ModelResult] = field(default_factory=dict)
    flags: Sequence[JudgedCommit] = ()
    bugs: Sequence[JudgedCommit] = ()
    dismissed: Sequence[JudgedCommit] = ()
    quiet: QuietResult = QuietResult(None)
    by_month: Sequence[MonthResult] = ()
    read: float = 0.0
    off: str = ""
    advice: str = ""
    young: int = 0
    wait_days: int = 0
    end: int = 0

    @property
    def is_judged(self) -> bool:
        """Whether there are enough bugs to judge scores by."""
        return self.buggy >= MIN_JUDGED_BUGS

    @property
    def caught(self) -> list[JudgedCommit]:
        """The flagged commits that needed a fix later."""
        return [one for one in self.flags if one.fixed_by]

    @property
    def missed(self) -> list[JudgedCommit]:
        """The commits that needed a fix later and were not flagged."""
        return [one for one in self.bugs if not one.flagged]

    @property
    def let_through(self) -> list[JudgedCommit]:
        """The commits that needed a fix later and were called quiet."""
        return [one for one in self.bugs if one.quiet]

    def as_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self) | {"models": {name: one.as_dict() for name, one in self.models.items()}}


# --- sentences ----------------------------------------------------------------------------------------------


def describe_commits(report: BacktestReport) -> list[str]:
    """The commits that the results are about."""
    lines = [
        f"{report.repository}, {_format_period(report)}: {report.commits:,} commits, {report.buggy} of them "
        "fixed later."
    ]
    if left_out := list(_explain_left_out(report)):
        lines.append(f"Not counted: {'; '.join(left_out)}.")
    if report.unread:
        lines.append(f"{report.unread:,} older ones are skipped: the encoder reads the newest commits only.")
    return lines


def _format_period(report: BacktestReport) -> str:
    months = f"{report.months} month{'s' if report.months > 1 else ''}"
    return f"{months} up to {_format_day(report.end)}" if report.young else f"last {months}"


def _format_day(moment: int) -> str:
    """The date (UTC) of unix seconds."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


def _explain_left_out(report: BacktestReport) -> Iterator[str]:
    if report.young:
        days = f"the {report.wait_days} days since"
        yield f"{report.young:,} commits of {days}, too new (half of the fixes take longer)"
    if others := report.left_out - report.young:
        yield f"{others:,} with only generated files, or with too few bugs known before them"


def describe_verdict(report: BacktestReport) -> list[str]:
    """Whether the scores can be judged, which one is selected, and whether the hook uses it."""
    lines = []
    if not report.is_judged:
        lines.append(
            f"Too few bugs to judge: {report.buggy} in {report.commits:,} commits (at least "
            f"{MIN_JUDGED_BUGS} needed). {report.advice}"
        )
    elif not report.off:
        lines.append(
            f"Selected: {_explain_model(report.chosen)}. About {report.budget:g}% of the commits are flagged "
            "(gitpeft.riskBudget)."
        )
    if report.off:
        lines.append(f"The hook flags nothing here: {report.off}.")
    return lines


def _explain_model(name: str) -> str:
    return f"{name} ({MODEL_NOTES[name]})" if name in MODEL_NOTES else name


def explain_models(report: BacktestReport) -> str:
    """What the names of the models mean that do not say it, in a sentence; "" where all do."""
    said = [f"“{name}”: {MODEL_NOTES[name]}" for name in report.models if name in MODEL_NOTES]
    return f"{'; '.join(said)}." if said else ""


def describe_flags(report: BacktestReport) -> str:
    """How many commits were flagged and what became of them, in a sentence."""
    flagged, caught = len(report.flags), len(report.caught)
    share = f" ({caught / flagged:.0%})" if flagged >= MIN_JUDGED_BUGS else ""
    return f"{flagged:,} flagged, {caught} of them fixed later{share}"


def describe_effort(report: BacktestReport) -> str:
    """What reading the flagged commits would have cost and found; "" with too few bugs for percentages."""
    if not report.is_judged or not report.commits:
        return ""
    of, caught = report.buggy, len(report.caught)
    share = len(report.flags) / report.commits
    return (
        f"Reading the flagged {share:.0%} of the commits ({report.read:.0%} of the changed lines) would have "
        f"met {caught} of the {of} bugs ({caught / of:.0%})"
    )


def describe_quiet(report: BacktestReport) -> str:
    """What would have been called quiet, or why nothing."""
    zone = report.quiet
    if zone.below is None:
        return zone.why
    return (
        f"of the newest {zone.commits:,} commits, {zone.n:,} ({zone.n / max(1, zone.commits):.0%}; "
        f"{zone.lines:.0%} of the changed lines) were called quiet, and {zone.bugs} of these were fixed later"
    )


def describe_dismissals(report: BacktestReport) -> str:
    """How many changes were dismissed, and how many of them needed a fix; "" where none were."""
    if not report.dismissed:
        return ""
    fixed = sum(bool(one.fixed_by) for one in report.dismissed)
    changes = f"{len(report.dismissed)} change{'s' if len(report.dismissed) > 1 else ''}"
    return f"{changes} dismissed, {fixed} of them fixed later all the same"


def format_backtest_summary(report: BacktestReport) -> list[str]:
    """The results as lines for a terminal; a line that goes on with the one before is indented."""
    lines = [*describe_commits(report), *describe_verdict(report)]
    if report.is_judged:
        lines += _format_counts(report)
    if dismissed := describe_dismissals(report):
        lines.append(f"Dismissed: {dismissed}.")
    if report.is_judged:
        lines += _format_commits("Caught", report.caught, facts=2)
        lines += _format_commits("Missed", report.missed)
        lines.append("Scores, each part judged by what was known when it began:")
        lines += [_format_model(name, one, report) for name, one in report.models.items()]
    else:
        lines += _format_commits("Fixed later", report.bugs, most=MIN_JUDGED_BUGS)
    return lines


def _format_counts(report: BacktestReport) -> list[str]:
    name = "Would flag" if report.off else "Look twice"
    chosen = report.models.get(report.chosen)
    alarms = f"; {chosen.false_alarms_a_week:.1f} false alarms a week" if chosen else ""
    return [
        f"{name}: {describe_flags(report)}{alarms}.",
        f"  {describe_effort(report)}.",
        f"Quiet: {describe_quiet(report)}.",
    ]


def _format_commits(
    title: str, commits: Sequence[JudgedCommit], facts: int = 0, most: int = _MAX_SHOWN
) -> list[str]:
    """The newest commits by subject, with evidence and what fixed them."""
    if not commits:
        return []
    shown = f", the newest {most}" if len(commits) > most else ""
    lines = [f"{title} ({len(commits):,}{shown}):"]
    for one in commits[:most]:
        lines.append(f"  {one.day} {one.subject or one.commit[:10]}")
        lines += [f"    {fact}" for fact in one.evidence[:facts]]
        lines.append(f"    fixed later by: {one.fix_name}")
    return lines


def format_model_name(name: str, report: BacktestReport) -> str:
    """A model's name, marked where the hook uses it."""
    return f"{name} (selected)" if name == report.chosen and not report.off else name


def _format_model(name: str, one: ModelResult, report: BacktestReport) -> str:
    auc, low, high = (value or 0.0 for value in one.metrics["auc"])
    capture = one.metrics["capture_20"][0] or 0.0
    return (
        f"  {format_model_name(name, report)}: AUC {auc:.2f} ({low:.2f} to {high:.2f}), {capture:.0%} of the "
        "bugs in the riskiest fifth"
    )


def format_precision(one: ModelResult) -> str:
    """The precision in brackets; "" where too few commits are flagged for a percentage."""
    return f" ({one.precision:.0%})" if one.flagged >= MIN_JUDGED_BUGS else ""
