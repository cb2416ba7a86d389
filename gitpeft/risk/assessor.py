"""One answer about a change: hides how history, model and evidence are brought together for it."""

import time
from collections.abc import Iterator, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

from gitpeft.diff.patch import FileChange
from gitpeft.errors import GitpeftError
from gitpeft.git.log import SkippedCommit
from gitpeft.git.objects import read_line_counts
from gitpeft.git.repository import Repository
from gitpeft.git.streams import stream_commits
from gitpeft.history.context import MeasuredChange
from gitpeft.history.store import History
from gitpeft.lazy import field, lazy_dataclass
from gitpeft.risk import line_attribution
from gitpeft.risk import model as risk_model
from gitpeft.risk.change_metrics import ChangeMetrics, compute_change_metrics
from gitpeft.risk.model import RiskModel

if TYPE_CHECKING:
    from gitpeft.risk.encoder import RiskEncoder
    from gitpeft.risk.evidence import Evidence

STAGED = "staged"
NOTHING_CHANGED = "nothing is changed"
ONLY_GENERATED = "only generated files are changed"
MERGE = "a merge has no change of its own"
NOTHING_TO_ASSESS = (NOTHING_CHANGED, ONLY_GENERATED, MERGE)
"""Reasons by which a change needs no score."""


@lazy_dataclass(frozen=True, slots=True)
class RiskReport:
    """What is said about a change. `why` is set, and nothing else but `rev`, where there is nothing to say.

    `percentile` is the place of its score among the recent commits of this repository, `probability` the
    calibrated chance that a later fix corrects it; both are None without a usable model.
    """

    rev: str
    why: str = ""
    model: str = risk_model.NO_MODEL
    score: float | None = None
    probability: float | None = None
    percentile: float | None = None
    flagged: bool = False
    evidence: "tuple[Evidence, ...]" = ()
    files: tuple[str, ...] = ()
    metrics: ChangeMetrics | None = None
    parts: tuple[tuple[str, float], ...] = field(default=(), repr=False)
    beside: dict[str, float] = field(default_factory=dict, repr=False)

    def as_dict(self) -> dict[str, Any]:
        """For JSON, one line a commit."""
        said: dict[str, Any] = {"rev": self.rev, "probability": _round_optional(self.probability, 4)}
        said |= {"percentile": _round_optional(self.percentile, 1), "flagged": self.flagged}
        said |= {"evidence": [one.as_dict() for one in self.evidence], "files": list(self.files)}
        return said | {"model": self.model} | ({"why": self.why} if self.why else {})

    def as_explained_dict(self) -> dict[str, Any]:
        """The same with the metrics and what each adds to the score."""
        from dataclasses import asdict

        numbers = (asdict(self.metrics) if self.metrics else {}) | self.beside
        return self.as_dict() | {"metrics": numbers, "parts": {name: round(x, 4) for name, x in self.parts}}


def _round_optional(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


class RiskAssessor:
    """Answers for changes of one repository; `budget` is the share of commits, in percent, that is flagged.

    With `brief`, evidence is gathered for flagged changes alone. A model that `reads` needs its `reader`.
    """

    def __init__(
        self,
        history: History,
        repository: Repository,
        model: RiskModel,
        budget: float,
        *,
        brief: bool = False,
        reader: "RiskEncoder | None" = None,
    ) -> None:
        self.history, self.repository, self.model = history, repository, model
        self.budget, self.brief, self.reader = budget, brief, reader

    def assess_staged(self) -> RiskReport:
        """What is staged now, by whom and at which time git would commit it.

        GitpeftError where the history is not read far enough.
        """
        name, _, when = self.repository.query_text("var", "GIT_AUTHOR_IDENT").rpartition("> ")
        now = int(when.split()[0]) if when[:1].isdigit() else int(time.time())
        files, change, head = risk_model.read_staged_change(
            self.repository, self.history.hash_author(f"{name}>"), now
        )
        return self._build_report(STAGED, head, change, files)

    def assess_commit(self, rev: str) -> RiskReport:
        """A commit, as if it were staged on its parent; its message is not looked at."""
        from gitpeft.history.fix_detection import (
            find_fix_evidence,
        )  # its patterns take longer than all the rest of the hook

        sha = self.repository.resolve_commit(rev)
        found = next(iter(stream_commits(self.repository, [sha], 1)))
        if isinstance(found, SkippedCommit):
            return RiskReport(rev, why=f"its change is not here ({found.reason})")
        if len(found.parents) > 1:
            return RiskReport(rev, why=MERGE)
        parent = found.parents[0] if found.parents else None
        who, fix = (
            self.history.hash_author(found.author),
            find_fix_evidence(f"{found.subject}\n\n{found.body}") is not None,
        )
        change = risk_model.build_measured_change(
            self.repository, found.files, parent or "", who, found.commit_time, fix
        )
        return self._build_report(rev, parent, change, found.files)

    def assess_range(self, between: str) -> Iterator[RiskReport]:
        """The commits of a range `A..B` that are no merges, oldest first."""
        for sha in self.repository.list_range_commits(between):
            yield self.assess_commit(sha)

    def _build_report(
        self, rev: str, parent: str | None, change: MeasuredChange, files: Sequence[FileChange]
    ) -> RiskReport:
        if not change.files:
            return RiskReport(rev, why=NOTHING_CHANGED)
        paths = tuple(file.path for file in change.files)
        if not change.counted_files:
            return RiskReport(rev, why=ONLY_GENERATED, files=paths)
        model, facts = self.model, list["Evidence"]()
        with self.history.context_before(self.repository, parent, keep=True) as past:
            metrics = compute_change_metrics(past, change)
            read = line_attribution.extract_text_features(model, files, metrics, self.reader)
            score = model.compute_score(metrics, read.beside) if model.is_usable else None
            flagged = score is not None and model.should_flag(score, self.budget)
            if flagged or not self.brief:
                from gitpeft.risk import evidence

                exists = partial(self._file_exists, parent)
                facts = evidence.gather_evidence(past, change, files, metrics, model, exists, read.lines)
        if score is None:
            return RiskReport(rev, model.why, evidence=tuple(facts), files=paths, metrics=metrics)
        return RiskReport(
            rev,
            model=model.kind,
            score=score,
            probability=model.predict_probability(score),
            percentile=model.percentile_of_score(score),
            flagged=flagged,
            evidence=tuple(facts),
            files=paths,
            metrics=metrics,
            parts=tuple(model.explain_score(metrics, read.beside)),
            beside=read.beside,
        )

    def _file_exists(self, parent: str | None, path: str) -> bool:
        name = f"{parent}:{path}"
        return parent is not None and name in read_line_counts(self.repository, [name])


def check_commit_range(text: str) -> None:
    """GitpeftError unless a text is a range of the form `A..B`."""
    first, dots, last = text.partition("..")
    if not (dots and first and last) or last.startswith("."):
        raise GitpeftError(f"{text!r} is no range", "write A..B: the commits of B that A has not")
