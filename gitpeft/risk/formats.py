"""Risk reports as text for a terminal, JSON lines, SARIF 2.1.0 and GitHub workflow commands."""

import json
from collections.abc import Iterable, Sequence
from typing import Any

from gitpeft import __version__
from gitpeft.lazy import lazy_pattern
from gitpeft.risk.assessor import NOTHING_CHANGED, NOTHING_TO_ASSESS, STAGED, RiskReport
from gitpeft.risk.model import LINES_ADDED
from gitpeft.terminal import replace_unprintable

REPORT_FORMATS = ("text", "json", "sarif", "github")
SARIF_RULE_ID = "risky-change"
_SARIF_SCHEMA = "https://docs.oasis-open.org/sarif/sarif/v2.1.0/errata01/os/schemas/sarif-schema-2.1.0.json"


_SARIF_LINK_CHARS = lazy_pattern(r"[\\\[\]]")


METRIC_LABELS = {
    "ns": "subsystems changed",
    "nd": "folders changed",
    "nf": "files changed",
    "entropy": "spread over files (entropy, bits)",
    "la": "lines added",
    "ld": "lines removed",
    "lt": "lines in the files before",
    "fix": "the message says it is a fix",
    "ndev": "authors of earlier changes",
    "age": "days since the last change",
    "nuc": "earlier changes of the files",
    "exp": "author's earlier changes",
    "rexp": "author's recent changes (weighted)",
    "sexp": "author's changes in these subsystems",
    "fixes": "fixes of the files in the last year",
    "recent": "changes of the files in 90 days",
    "functions": "functions touched",
    "new": "new files",
    "tests": "share of changed lines in tests",
    "words": "wording (score of the words)",
    "reading": "encoder's estimate (log-odds)",
}
"""What the features of a risk model are called for people."""


def format_headline(report: RiskReport, name: str = "") -> str:
    """One line: where this change stands in this repository. `name` is what to call it."""
    name = name or ("this change" if report.rev == STAGED else report.rev[:12])
    if report.percentile is None:
        said = f"{name}: {report.why}" if report.why in NOTHING_TO_ASSESS or report.metrics is None else name
        return replace_unprintable("Nothing staged" if _is_nothing_staged(report) else said)
    by = "larger" if report.model == LINES_ADDED else "riskier"
    return replace_unprintable(f"{name}: {by} than {min(99, int(report.percentile))}% of recent commits")


def _is_nothing_staged(report: RiskReport) -> bool:
    return report.rev == STAGED and report.why == NOTHING_CHANGED


def format_report_lines(report: RiskReport, explain: bool = False, name: str = "") -> list[str]:
    """Lines for a terminal."""
    lines = [format_headline(report, name) + ("  [flagged]" if report.flagged else "")]
    lines += [f"  {replace_unprintable(one.text)}" for one in report.evidence]
    return lines + (_explain_score(report) if explain and report.metrics else [])


def _explain_score(report: RiskReport) -> list[str]:
    """The probability, and each feature with its value and what it adds, in two columns."""
    if report.probability is None:
        return []
    lines = [
        f"  estimated bug probability: {report.probability:.0%}",
        "  effect of each metric on the score (log-odds), against a typical commit:",
    ]
    for key, part in report.parts:
        value = report.beside[key] if key in report.beside else getattr(report.metrics, key)
        lines.append(f"    {METRIC_LABELS.get(key, key):<36} {value:>9.4g}   {part:+.2f}")
    return lines


def format_json_line(report: RiskReport, explain: bool = False) -> str:
    """One line of JSON."""
    return json.dumps(report.as_explained_dict() if explain else report.as_dict())


def format_sarif(reports: Iterable[RiskReport], lasting: Sequence[str] = ()) -> str:
    """A SARIF 2.1.0 log: a result for each flagged change, `warning`; `lasting` are notes about the run."""
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
    notes = [{"level": "note", "message": {"text": note}} for note in lasting]
    run: dict[str, Any] = {
        "tool": {"driver": driver},
        "results": [_build_sarif_result(report) for report in reports if report.flagged],
        "invocations": [{"executionSuccessful": True, "toolExecutionNotifications": notes}],
        "columnKind": "unicodeCodePoints",
    }
    return json.dumps({"$schema": _SARIF_SCHEMA, "version": "2.1.0", "runs": [run]}, indent=1)


def _build_sarif_result(report: RiskReport) -> dict[str, Any]:
    from urllib.parse import quote  # not on the way of the hook

    words = [format_headline(report), *(replace_unprintable(one.text) for one in report.evidence)]
    return {
        "ruleId": SARIF_RULE_ID,
        "ruleIndex": 0,
        "level": "warning",
        "message": {
            "text": _SARIF_LINK_CHARS.sub(r"\\\g<0>", "\n".join(words))
        },  # else a change could name links
        "locations": [
            {"physicalLocation": {"artifactLocation": {"uri": quote(path)}}}
            for path in _list_reported_paths(report)
        ],
        "partialFingerprints": {"commit/v1": report.rev},
        "rank": round(report.percentile or 0.0, 1),
        "properties": {"probability": report.probability, "commit": report.rev},
    }


def _list_reported_paths(report: RiskReport) -> list[str]:
    """The files that the evidence speaks of; the first changed file where it speaks of none."""
    named = [one.path for one in report.evidence if one.path in report.files]
    return list(dict.fromkeys(named or report.files[:1]))[:10]


def format_github_warning(report: RiskReport) -> str:
    """A workflow command that GitHub shows as a warning at the file; "" for a change that is not flagged."""
    if not report.flagged:
        return ""
    words = [format_headline(report), *(replace_unprintable(one.text) for one in report.evidence)]
    place = "".join(f"file={_escape_github_property(path)}," for path in _list_reported_paths(report)[:1])
    title = _escape_github_property("gitpeft: a risky change")
    message = _escape_github_message("\n".join(words))
    return f"::warning {place}title={title}::{message}"


def format_github_notice(text: str) -> str:
    """A warning about the run itself, at no file."""
    return f"::warning title=gitpeft::{_escape_github_message(replace_unprintable(text))}"


def _escape_github_message(text: str) -> str:
    """As GitHub's toolkit escapes a message."""
    return text.replace("%", "%25").replace("\r", "%0D").replace("\n", "%0A")


def _escape_github_property(text: str) -> str:
    """As it escapes the value of a property."""
    return _escape_github_message(text).replace(":", "%3A").replace(",", "%2C")
