"""How `gitpeft risk` prints its reports, and the percentile limit that its exit code follows."""

from abc import ABC, abstractmethod
from dataclasses import dataclass, field

from gitpeft.cli import console
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.risk import formats
from gitpeft.risk.assessor import NOTHING_TO_ASSESS, STAGED, RiskReport

EXPLAIN_HINT = "What goes into a score: --explain"
DISMISS_HINT = "Looked at it? gitpeft risk dismiss PATH --why TEXT"


@dataclass(slots=True)
class PercentileLimit:
    """Whether reports stay below `limit` (None: there is none), and the reasons why some have no score."""

    limit: float | None
    above: int = 0
    reasons: list[str] = field(default_factory=list)

    def check(self, report: RiskReport) -> None:
        """Count a report; a merge or an empty change needs no score, and what is dismissed is not above."""
        if report.percentile is not None:
            self.above += self.limit is not None and report.percentile > self.limit and not report.dismissed
        elif report.why not in NOTHING_TO_ASSESS:
            self.reasons.append(report.why)

    def list_reasons(self) -> list[str]:
        """Why there is no score, each reason once."""
        return list(dict.fromkeys(self.reasons))

    def enforce(self) -> None:
        """GitpeftError where a change is above the limit, or could not be held against it."""
        if self.limit is None:
            return
        if self.above:
            verb = "is" if self.above == 1 else "are"
            raise GitpeftError(
                f"{console.format_count(self.above, 'change')} {verb} above the {self.limit:g}th percentile",
                "look at the evidence; --fail-above sets the limit",
            )
        if self.reasons:
            raise GitpeftError(
                f"no risk score, so --fail-above was not applied: {'; '.join(self.list_reasons())}",
                "leave --fail-above out until there is a score",
            )


class RiskPrinter(ABC):
    """Prints reports as they come."""

    @abstractmethod
    def show(self, report: RiskReport) -> None:
        """The next report."""

    def finish(self, limit: PercentileLimit) -> None:  # noqa: B027 - most have nothing to add
        """The end of the run."""


def make_printer(repository: Repository, format_: str, explain: bool, quiet: bool = False) -> RiskPrinter:
    """The printer of a format out of `formats.REPORT_FORMATS`.

    With `quiet`, annotations name the quiet changes as well; text and JSON always do.
    """
    if format_ == "sarif":
        return _SarifPrinter(quiet)
    if format_ == "github":
        return _GithubPrinter(quiet)
    return _JsonPrinter(explain) if format_ == "json" else _TextPrinter(repository, explain)


class _TextPrinter(RiskPrinter):
    """A headline for each change with the evidence below; reasons for missing scores follow at the end."""

    def __init__(self, repository: Repository, explain: bool) -> None:
        self.repository, self.explain = repository, explain
        self.doubts: list[str] = []
        self.problems: list[str] = []
        self.flagged = self.scored = False

    def show(self, report: RiskReport) -> None:
        lines = formats.format_report_lines(report, self.explain, self._format_name(report))
        headline = self._break_headline(lines[0])
        print("\n".join([headline, *map(console.wrap_line, lines[1:])]), flush=True)
        self.doubts += formats.format_doubts([report])
        self.problems += report.problems
        self.flagged |= report.flagged
        self.scored |= bool(report.parts)

    @staticmethod
    def _break_headline(line: str) -> str:
        """One that does not fit is broken behind the name, and goes on further in than the facts below it."""
        name, colon, verdict = line.rpartition(": ")
        if len(line) <= console.get_width() or not name:
            return console.wrap_text(line, "    ", "")
        return "\n".join(
            [console.wrap_text(name + colon.rstrip(), "    ", ""), console.wrap_text(verdict, "    ")]
        )

    def finish(self, limit: PercentileLimit) -> None:
        said = [*dict.fromkeys(self.doubts), *dict.fromkeys(self.problems)]
        said += [EXPLAIN_HINT] if self.scored and not self.explain else []
        said += [DISMISS_HINT] if self.flagged else []
        said += [f"No risk score: {reason}" for reason in limit.list_reasons()]
        for line in said:
            console.print_line(line)

    def _format_name(self, report: RiskReport) -> str:
        if report.rev == STAGED:
            return "Staged change"
        return console.name_commit(self.repository, report.rev)


class _JsonPrinter(RiskPrinter):
    def __init__(self, explain: bool) -> None:
        self.explain = explain

    def show(self, report: RiskReport) -> None:
        print(formats.format_json_line(report, self.explain), flush=True)


class _GithubPrinter(RiskPrinter):
    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.problems: list[str] = []

    def show(self, report: RiskReport) -> None:
        self.problems += report.problems
        if report.flagged:
            print(formats.format_github_warning(report), flush=True)
        elif report.suppressed:
            print(formats.format_github_dismissed(report), flush=True)
        elif report.quiet and self.quiet:
            print(formats.format_github_quiet(report), flush=True)

    def finish(self, limit: PercentileLimit) -> None:
        for problem in dict.fromkeys(self.problems):
            print(formats.format_github_notice(problem))
        for reason in limit.list_reasons():
            applied = "" if limit.limit is None else "; --fail-above was not applied"
            print(formats.format_github_notice(f"no risk score: {reason}{applied}"))


class _SarifPrinter(RiskPrinter):
    def __init__(self, quiet: bool) -> None:
        self.quiet = quiet
        self.reports: list[RiskReport] = []

    def show(self, report: RiskReport) -> None:
        self.reports.append(report)

    def finish(self, limit: PercentileLimit) -> None:
        reasons = {report.why for report in self.reports if report.why}
        notes = sorted(reasons.union(*(report.problems for report in self.reports)))
        print(formats.format_sarif(self.reports, notes, quiet=self.quiet))
