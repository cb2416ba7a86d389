"""Risk reports as text for a terminal, JSON lines, SARIF 2.1.0 and GitHub workflow commands."""

import json
from collections.abc import Iterable, Sequence

from gitpeft import __version__
from gitpeft.lazy import lazy_pattern
from gitpeft.risk.assessor import NOTHING_CHANGED, NOTHING_TO_ASSESS, STAGED, RiskReport
from gitpeft.risk.change_metrics import METRIC_LABELS
from gitpeft.risk.model import ENCODER_FEATURE, LINES_ADDED, RANK_PREFIX, WORDS_FEATURE
from gitpeft.terminal import encode_exactly, replace_unprintable

REPORT_FORMATS = ("text", "json", "sarif", "github")
SARIF_RULE_ID = "risky-change"
_SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


FEATURE_LABELS = METRIC_LABELS | {
    WORDS_FEATURE: "wording (score of the words)",
    ENCODER_FEATURE: "encoder's estimate (log-odds)",
}
"""What the features of a risk model are called for people."""

_SARIF_PASSED = {"kind": "pass", "level": "none"}
_SARIF_LINK_CHARS = lazy_pattern(r"[\\\[\]]")


def format_headline(report: RiskReport, name: str = "") -> str:
    """One line: how the change, here called `name`, compares with the recent commits of this repository."""
    name = name or ("this change" if report.rev == STAGED else report.rev[:12])
    if report.percentile is None:
        unknown = report.why in NOTHING_TO_ASSESS or report.metrics is None
        headline = f"{name}: {report.why}" if unknown else name
        return replace_unprintable("Nothing staged" if _is_nothing_staged(report) else headline)
    by = "larger" if report.model == LINES_ADDED else "riskier"
    return replace_unprintable(f"{name}: {by} than {min(99, int(report.percentile))}% of recent commits")


def _is_nothing_staged(report: RiskReport) -> bool:
    return report.rev == STAGED and report.why == NOTHING_CHANGED


def format_report_lines(report: RiskReport, explain: bool = False, name: str = "") -> list[str]:
    """The lines for a terminal; with `explain`, also the probability and the effect of each feature."""
    lines = [format_headline(report, name) + _format_verdict(report)]
    lines += [f"  {replace_unprintable(text)}" for text in list_facts(report)]
    return lines + (_explain_score(report) if explain and report.metrics else [])


def _format_verdict(report: RiskReport) -> str:
    """Whether the change is flagged; "" where there is no score that could flag it."""
    if report.flagged:
        return "  [flagged]"
    if report.dismissed:
        return "  [dismissed]"
    return "" if report.percentile is None else "  [not flagged]"


def list_facts(report: RiskReport) -> list[str]:
    """The evidence of a report, and what is dismissed of it, a sentence each."""
    facts = [one.text for one in report.evidence]
    if report.dismissals:
        from gitpeft.risk.dismissal_cover import describe_dismissal

        facts += map(describe_dismissal, report.dismissals)
    return [*facts, *report.notes]


def _explain_score(report: RiskReport) -> list[str]:
    """The probability, and each feature with its value and what it adds, in columns."""
    if not report.parts:
        return []
    known = report.probability is not None
    lines = [f"  estimated bug probability: {report.probability:.0%}"] if known else []
    lines.append("  what raises (+) or lowers (-) the score, compared with a typical commit:")
    width = max(map(len, FEATURE_LABELS.values()))
    lines.append(f"    {'metric':<{width}} {'value':>9}  effect")
    for key, part in report.parts:
        metric = key.removeprefix(RANK_PREFIX)
        label = FEATURE_LABELS.get(metric, metric)
        lines.append(f"    {label:<{width}} {report.features[metric]:>9.4g}   {part:+.2f}")
    lines.append("  effects are in log-odds")
    if any(key.startswith(RANK_PREFIX) for key, _ in report.parts):
        lines[-1] += "; a metric counts by its place among the recent commits here"
    return lines


def format_doubts(reports: Iterable[RiskReport]) -> list[str]:
    """Sentences on scores that are not checked in this repository, each once."""
    reasons = dict.fromkeys(one.why for one in reports if one.why and one.percentile is not None)
    return [f"This score was learnt from other histories: {replace_unprintable(why)}" for why in reasons]


def format_json_line(report: RiskReport, explain: bool = False) -> str:
    """The report as one line of JSON."""
    return json.dumps(report.as_explained_dict() if explain else report.as_dict())


def format_sarif(reports: Iterable[RiskReport], notes: Sequence[str] = (), *, quiet: bool = False) -> str:
    """A SARIF 2.1.0 log with a warning for each flagged change; `notes` are about the run as a whole.

    What would be flagged, had it not been dismissed, is a warning with its suppressions.
    With `quiet`, quiet changes are in it as results that passed.
    """
    driver = {
        "name": "gitpeft",
        "version": __version__,
        "rules": [
            {
                "id": SARIF_RULE_ID,
                "name": "RiskyChange",
                "shortDescription": {
                    "text": "A change like those that needed a fix later in this repository"
                },
                "defaultConfiguration": {"level": "warning"},
            }
        ],
    }
    notifications = [{"level": "note", "message": {"text": note}} for note in notes]
    run = {
        "tool": {"driver": driver},
        "results": [
            _build_sarif_result(one)
            for one in reports
            if one.flagged or one.suppressed or (quiet and one.quiet)
        ],
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notifications}],
        "columnKind": "unicodeCodePoints",
    }
    return json.dumps({"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1)


def _build_sarif_result(report: RiskReport) -> dict[str, object]:
    from urllib.parse import quote  # the hook does not need it

    message = _SARIF_LINK_CHARS.sub(r"\\\g<0>", _format_message(report))  # or a change could contain links
    return {
        "ruleId": SARIF_RULE_ID,
        "ruleIndex": 0,
        **({"level": "warning"} if report.flagged or report.suppressed else _SARIF_PASSED),
        **({"suppressions": _build_suppressions(report)} if report.suppressed else {}),
        "message": {"text": message},
        "locations": [
            {"physicalLocation": {"artifactLocation": {"uri": quote(encode_exactly(path))}}}
            for path in _list_reported_paths(report)
        ],
        "partialFingerprints": {"commit/v1": report.rev},
        "rank": round(report.percentile or 0.0, 1),
        "properties": {"probability": report.probability, "commit": report.rev},
    }


def _build_suppressions(report: RiskReport) -> list[dict[str, object]]:
    """Why a result is not shown: somebody looked at it and dismissed it, outside the source code."""
    return [
        {
            "kind": "external",
            "status": "accepted",
            "justification": one.why,
            "properties": {key: value for key, value in one.as_dict().items() if key != "why"},
        }
        for one in report.dismissals
    ]


def _format_message(report: RiskReport) -> str:
    facts = list_facts(report)
    return "\n".join([format_headline(report), *map(replace_unprintable, facts), *format_doubts([report])])


def _list_reported_paths(report: RiskReport) -> list[str]:
    """The files that the evidence is about, or the first changed file where it names none."""
    named = [one.path for one in report.evidence if one.path in report.files]
    return list(dict.fromkeys(named or report.files[:1]))[:10]


def format_github_warning(report: RiskReport) -> str:
    """A workflow command that GitHub shows as a warning at the file; "" for a change that is not flagged."""
    if not report.flagged:
        return ""
    place = "".join(f"file={_escape_github_property(path)}," for path in _list_reported_paths(report)[:1])
    title = _escape_github_property("gitpeft: a risky change")
    return f"::warning {place}title={title}::{_escape_github_message(_format_message(report))}"


def format_github_quiet(report: RiskReport) -> str:
    """A workflow command that GitHub shows as a notice for a quiet change."""
    return f"::notice title=gitpeft: a quiet change::{_escape_github_message(_format_message(report))}"


def format_github_dismissed(report: RiskReport) -> str:
    """A workflow command that GitHub shows as a notice for a change that would be flagged."""
    title = _escape_github_property("gitpeft: a risky change, dismissed")
    return f"::notice title={title}::{_escape_github_message(_format_message(report))}"


def format_github_notice(text: str) -> str:
    """A workflow command with a warning about the run as a whole."""
    return f"::warning title=gitpeft::{_escape_github_message(replace_unprintable(text))}"


def _escape_github_message(text: str) -> str:
    """Escape a message as GitHub's toolkit does."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_github_property(text: str) -> str:
    """Escape the value of a property as GitHub's toolkit does; bytes that are not UTF-8 become U+FFFD."""
    text = encode_exactly(text).decode("utf-8", "replace")
    return _escape_github_message(text).replace(":", "%3A").replace(",", "%2C")
