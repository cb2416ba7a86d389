"""The result of a risk backtest as typed values, its JSON, and its sentences for people."""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field

from gitpeft.risk.model import MIN_JUDGED_BUGS

Interval = tuple[float | None, float | None, float | None]
"""A mean and its 95 % interval; None where it is undefined."""

BACKTEST_METRICS = {
    "auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "brier": "Brier score",
    "ece": "ECE",
    "capture_5": "bugs in the riskiest 5 %",
    "capture_10": "in 10 %",
    "capture_20": "in 20 %",
    "skippable_95": "clean commits below 95 % of the bugs",
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
class FlaggedCommit:
    """A commit that was flagged or fixed later: time in unix seconds, estimated bug probability in per cent.

    `fixed_by` is the id of its first fix, "" where none is known.
    """

    commit: str
    time: int
    fixed_by: str
    subject: str = ""
    score: int = 0


@dataclass(frozen=True, slots=True)
class BacktestReport:
    """What would have been flagged in the `months` before `until` at a `budget` (per cent of the commits).

    `models` has the results by name, `chosen` is the selected one; with fewer than `MIN_JUDGED_BUGS` bugs
    there are no results, and `advice` says what to do. `off` is the reason why the hook flags nothing, ""
    where it does. `left_out` commits have no label or too few bugs known before them, `unread` ones were
    skipped because an encoder reads the newest commits only. `flags` are newest first, `bugs` as well.
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
    flags: Sequence[FlaggedCommit] = ()
    bugs: Sequence[FlaggedCommit] = ()
    off: str = ""
    advice: str = ""

    @property
    def is_judged(self) -> bool:
        """Whether there are enough bugs to judge scores by."""
        return self.buggy >= MIN_JUDGED_BUGS

    def as_dict(self) -> dict[str, object]:
        """Plain values."""
        return asdict(self) | {"models": {name: one.as_dict() for name, one in self.models.items()}}


# --- sentences ----------------------------------------------------------------------------------------------


def describe_commits(report: BacktestReport) -> list[str]:
    """The commits that the results are about."""
    lines = [
        f"{report.repository}, last {report.months} months: {report.commits:,} commits, {report.buggy} of "
        f"them fixed later. {report.left_out:,} are left out: too recent to be labelled, only generated "
        "files, or too few bugs known before them."
    ]
    if report.unread:
        lines.append(f"{report.unread:,} older ones are skipped: the encoder reads the newest commits only.")
    return lines


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
            f"Selected: {report.chosen}. About {report.budget:g} % of the commits are flagged "
            "(gitpeft.riskBudget)."
        )
    if report.off:
        lines.append(f"The hook flags nothing here: {report.off}.")
    return lines


def format_backtest_summary(report: BacktestReport) -> list[str]:
    """The results as lines for a terminal."""
    lines = [*describe_commits(report), *describe_verdict(report)]
    if not report.is_judged:
        return [*lines, *(_format_bug(one) for one in report.bugs)]
    for name, one in report.models.items():
        lines += _format_model(name, one, report)
    return lines


def format_model_name(name: str, report: BacktestReport) -> str:
    """A model's name, marked where the hook uses it."""
    return f"{name} (selected)" if name == report.chosen and not report.off else name


def _format_model(name: str, one: ModelResult, report: BacktestReport) -> list[str]:
    auc, low, high = (value or 0.0 for value in one.metrics["auc"])
    capture = one.metrics["capture_20"][0] or 0.0
    return [
        f"{format_model_name(name, report)}: AUC {auc:.2f} ({low:.2f} to {high:.2f}), {capture:.0%} of "
        "the bugs in the riskiest 20 % of the commits",
        f"  {one.flagged} flagged, {one.right} of them fixed later{format_precision(one)}; "
        f"{one.false_alarms_a_week:.1f} false alarms a week",
    ]


def format_precision(one: ModelResult) -> str:
    """The precision in brackets; "" where too few commits are flagged for a percentage."""
    return f" ({one.precision:.0%})" if one.flagged >= MIN_JUDGED_BUGS else ""


def _format_bug(one: FlaggedCommit) -> str:
    return f"  fixed later: {one.commit[:10]} {one.subject} (by {one.fixed_by[:10]})"
