"""Writes the advice of a comparison: one verdict, one reason, one next command, then details.

Two systems are compared on the same commits by a paired bootstrap (Koehn 2004); a difference whose 95 %
interval contains zero is not significant.
"""

from collections.abc import Mapping, Sequence
from typing import NamedTuple

from gitpeft.learn.compare import findings
from gitpeft.learn.compare.findings import format_interval_text, format_significance
from gitpeft.learn.compare.report import Advice, Finalist, TaskReport
from gitpeft.learn.compare.results import Answers, Difference
from gitpeft.learn.compare.scoring import AnswerScorer
from gitpeft.learn.compare.tasks import UNTUNED_SUFFIX

DEFAULT_METHOD = "lora"
"""The method of `gitpeft init` where no other is adopted."""

SystemAnswers = Mapping[str, Sequence[Answers]]
"""By label, the answers of each seed."""


class _Gain(NamedTuple):
    """The baseline that a method has to beat, and the paired difference to it."""

    over: str
    gap: Difference

    @property
    def over_text(self) -> str:
        """The baseline in a sentence."""
        return "no tuning" if self.over.endswith(UNTUNED_SUFFIX) else self.over


def write_advice(report: TaskReport, answers: SystemAnswers, scorer: AnswerScorer) -> Advice:
    """One verdict, one reason, one next command, and what else was measured.

    A method is adopted only if each method had `least_steps` steps and it is significantly better than no
    tuning (for risk: than the best baseline). Of the methods with no significant difference to the best one,
    the one with the fewest trainable weights is adopted, since it is the cheapest to keep and to share.
    """
    facts, rows = report.facts, report.finalists
    equals = [row for row in rows if row is rows[0] or not row.against_best.excludes_zero]
    gains = {row.label: _measure_gain(report, row, answers, scorer) for row in equals}
    helpful = [row for row in equals if gains[row.label].gap.low > 0]
    enough = facts.steps.long >= facts.least_steps
    adopt = enough and bool(helpful)
    chosen = min(helpful, key=lambda row: row.cost.trainable) if adopt else rows[0]
    gain = gains[chosen.label]
    verdict = (
        _describe_adoption(report, chosen, equals, gain)
        if adopt
        else f"{_explain_no_gain(report, gain) if enough else _explain_few_steps(report)} "
        f"Keep the default ({DEFAULT_METHOD})."
    )
    prefix = "" if enough or helpful else f"None is measurably better than {gain.over_text}: "
    reason = f"{prefix}{_describe_quality(report, chosen, gain)}"
    details = [_describe_costs(chosen)]
    full = next((row for row in rows if row.name == "full"), None)
    if full is not None and full is not chosen:
        details.append(_describe_savings(report, chosen, full))
    details += [
        _describe_difference(report, chosen, one.label, scorer.compare_runs(answers[chosen.label], known))
        for one in report.baselines
        if one.label != gain.over and (known := answers[one.label])
    ]
    details += [*findings.describe_findings(facts, report.metric), _describe_caveats(report)]
    return Advice(
        task=facts.task,
        method=chosen.spelt if adopt else DEFAULT_METHOD,
        base=chosen.base,
        winner=chosen.label if adopt and len(equals) == 1 and len(rows) > 1 else None,
        tip=facts.tip,
        words=[verdict, reason, *details],
        adopt=adopt,
        label=chosen.label,
        command=_write_command(report, chosen, adopt=adopt),
    )


def _measure_gain(report: TaskReport, row: Finalist, answers: SystemAnswers, scorer: AnswerScorer) -> _Gain:
    """Against the same base without tuning, or else against the best baseline."""
    untuned = f"{row.base}{UNTUNED_SUFFIX}"
    by_score = sorted(report.baselines, key=lambda one: report.get_score(one).mean)
    labels = [one.label for one in by_score]
    over = untuned if untuned in labels else labels[-1]
    return _Gain(over, scorer.compare_runs(answers[row.label], answers[over]))


def _explain_few_steps(report: TaskReport) -> str:
    steps, least = report.facts.steps.long, report.facts.least_steps
    who = "each method" if len(report.finalists) > 1 else report.finalists[0].label
    return f"Inconclusive: {who} trained {_count(steps, 'step')}, at least {least} are needed for advice."


def _explain_no_gain(report: TaskReport, gain: _Gain) -> str:
    if len(report.finalists) == 1:
        return f"{report.finalists[0].label} is not measurably better than {gain.over_text}."
    return f"No method is measurably better than {gain.over_text}."


def _describe_adoption(report: TaskReport, chosen: Finalist, equals: Sequence[Finalist], gain: _Gain) -> str:
    others = [row.label for row in equals if row is not chosen]
    task = "" if report.facts.task == "messages" else f" for {report.facts.task}"
    if len(report.finalists) == 1:
        return f"Adopt {chosen.label}{task}: measurably better than {gain.over_text}. No other was tried."
    if not others:
        better = f"every other method and than {gain.over_text}"
        return f"Adopt {chosen.label}{task}: measurably better than {better}."
    return (
        f"Adopt {chosen.label}{task}: no significant difference to {', '.join(others)}, and it trains the "
        "fewest weights."
    )


def _describe_quality(report: TaskReport, row: Finalist, gain: _Gain) -> str:
    metric = report.metric
    score = format_interval_text(report.get_score(row), metric.digits)
    difference = format_interval_text(gain.gap, metric.digits, "+")
    return (
        f"{row.label} reaches {metric.name} {score}: {difference} compared with {gain.over}, "
        f"{format_significance(gain.gap)}."
    )


def _write_command(report: TaskReport, chosen: Finalist, *, adopt: bool) -> str:
    """The next command: take the method, or compare with a budget that allows for advice."""
    facts = report.facts
    task = "" if facts.task == "messages" else f" --task {facts.task}"
    if not adopt:
        minutes = max(facts.next_minutes, round(2 * facts.budget_minutes))
        return f"gitpeft compare{task} --budget {minutes}"
    base = f" --base {chosen.base}" if chosen.base != "mini" else ""
    return f"gitpeft init --method {chosen.spelt}{base}"


def _count(number: int, noun: str) -> str:
    return f"{number:,} {noun}{'' if number == 1 else 's'}"


def _describe_costs(row: Finalist) -> str:
    cost = row.cost
    return (
        f"Cost of {row.label}: {cost.seconds:,.0f} s of training ({_count(row.steps, 'step')}), "
        f"{cost.memory / 2**30:.1f} GiB of memory, {cost.adapter_bytes / 1e6:.1f} MB on disk; "
        f"{cost.share:.1%} of the weights are trained."
    )


def _describe_savings(report: TaskReport, row: Finalist, full: Finalist) -> str:
    """Costs against full tuning; below 5 % they count as equal, as the machine may have done other work."""
    a, b = row.cost, full.cost
    parts = [
        _describe_change("time", a.seconds, b.seconds),
        _describe_change("memory", a.memory, b.memory),
        _describe_change("disk", a.adapter_bytes, b.adapter_bytes),
    ]
    assert row.against_full is not None
    quality = _format_difference(report, row.against_full)
    return f"{row.label} compared with full tuning: {', '.join(parts)}; {quality}."


def _describe_change(name: str, value: float, full: float) -> str:
    change = value / max(full, 1e-9) - 1
    return f"{name} about the same" if abs(change) < 0.05 else f"{name} {change:+.0%}"


def _describe_difference(report: TaskReport, row: Finalist, name: str, gap: Difference) -> str:
    return f"{row.label} compared with {name}: {_format_difference(report, gap)}."


def _format_difference(report: TaskReport, gap: Difference) -> str:
    text = format_interval_text(gap, report.metric.digits, "+")
    return f"{report.metric.name} {text}, {format_significance(gap)}"


def _describe_caveats(report: TaskReport) -> str:
    facts = report.facts
    return (
        f"This rests on {report.asked:,} validation commits, {_count(facts.steps.long, 'step')} and "
        f"{_count(facts.seeds, 'seed')} of each method. A longer budget, more seeds, a larger base or more "
        "commits may change it."
    )
