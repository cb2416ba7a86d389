"""From a change to a `RiskReport`: the one way that `gitpeft risk` and the pre-commit hook take.

A `RiskAssessor` brings together the mined history (metrics and evidence), the model (score, percentile,
probability) and, where the model needs one, the encoder.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from typing import TYPE_CHECKING

from gitpeft.bundle import bundle as bundles
from gitpeft.config import Config
from gitpeft.diff.patch import FileChange, quote_path
from gitpeft.git.log import SkippedCommit
from gitpeft.git.objects import read_line_counts
from gitpeft.git.repository import Repository, names_one_commit
from gitpeft.history.context import MeasuredChange, StoredContext
from gitpeft.history.store import History
from gitpeft.lazy import field, lazy_dataclass, replace_fields
from gitpeft.risk import line_attribution
from gitpeft.risk import model as risk_model
from gitpeft.risk.change_metrics import ChangeMetrics, compute_change_metrics
from gitpeft.risk.model import RiskModel, load_risk_model

if TYPE_CHECKING:
    from gitpeft.risk.dismissal_cover import Cover
    from gitpeft.risk.dismissals import Dismissal, DismissalFile
    from gitpeft.risk.encoder import OnnxRiskEncoder, RiskEncoder
    from gitpeft.risk.evidence import Evidence

STAGED = "staged"
"""What a report about the staged change has in place of a revision."""

NOTHING_CHANGED = "nothing is changed"
ONLY_GENERATED = "only generated files are changed"
MERGE = "a merge has no change of its own"
NOTHING_TO_ASSESS = (NOTHING_CHANGED, ONLY_GENERATED, MERGE)
"""Reasons why a change needs no score."""


@lazy_dataclass(frozen=True, slots=True)
class RiskReport:
    """The assessment of one change; without a score, or with one that is not checked here, `why` says why.

    `percentile` (0 to 100) is the share of the recent commits of this repository with a lower score,
    `probability` the calibrated probability that a later fix corrects the change; both are None without a
    usable model, and the probability also without later commits to calibrate it on. `parts` is what each
    feature adds to the score (see `RiskModel.explain_score`), `beside` the features that are not metrics.
    `quiet` is None where the model cannot tell. `dismissals` are those that count for this change; where they
    cover all of it, it is `dismissed` and not flagged, and `suppressed` if it would have been. `notes` are
    sentences on dismissals that ended, or that were made too late to count.
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
    quiet: bool | None = None
    dismissals: "tuple[Dismissal, ...]" = ()
    dismissed: bool = False
    suppressed: bool = False
    notes: tuple[str, ...] = ()
    problems: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """The report as one JSON object."""
        return {
            "rev": self.rev,
            "probability": _round_optional(self.probability, 4),
            "percentile": _round_optional(self.percentile, 1),
            "flagged": self.flagged,
            "evidence": [one.as_dict() for one in self.evidence],
            "files": list(map(quote_path, self.files)),
            "model": self.model,
            **({"quiet": self.quiet} if self.quiet is not None else {}),
            **self._describe_dismissals(),
            **({"why": self.why} if self.why else {}),
        }

    def _describe_dismissals(self) -> dict[str, object]:
        """What dismissals change in the report; nothing where there are none."""
        said = {"notes": self.notes, "problems": self.problems}
        found: dict[str, object] = {key: list(texts) for key, texts in said.items() if texts}
        if self.dismissals:
            found |= {"dismissed": self.dismissed, "suppressed": self.suppressed}
            found["dismissals"] = [one.as_dict() for one in self.dismissals]
        return found

    def as_explained_dict(self) -> dict[str, object]:
        """The same with all features, and what each adds to the score."""
        parts = {name: round(part, 4) for name, part in self.parts}
        return self.as_dict() | {"metrics": dict(self.features), "parts": parts}

    @property
    def features(self) -> Mapping[str, float]:
        """The metrics and the other features, by name; empty where nothing was measured."""
        if self.metrics is None:
            return self.beside
        from dataclasses import asdict

        return asdict(self.metrics) | self.beside


def _round_optional(value: float | None, digits: int) -> float | None:
    return None if value is None else round(value, digits)


class RiskAssessor:
    """Assesses changes of one repository; `budget` is the share of commits, in percent, to flag.

    `quiet_below` lowers the percentile below which a change is called quiet. With `brief`, evidence is
    gathered for flagged changes only. A model that `needs_encoder` must get one.
    """

    def __init__(
        self,
        history: History,
        repository: Repository,
        model: RiskModel,
        budget: float,
        *,
        brief: bool = False,
        encoder: "RiskEncoder | None" = None,
        quiet_below: float = 100.0,
    ) -> None:
        self.history, self.repository, self.model = history, repository, model
        self.budget, self.brief, self.encoder = budget, brief, encoder
        self.quiet_below = quiet_below
        self._dismissals: DismissalFile | None = None

    def assess_staged(self) -> RiskReport:
        """Assess the staged change, with the author and the committer's time that git would record now.

        Raises GitpeftError where too many commits of the history have not been mined yet.
        """
        author = self.repository.mailmap.map_identity(self.repository.read_author())
        now = self.repository.read_commit_time()
        files, change, head = risk_model.read_staged_change(
            self.repository, self.history.hash_author(author), now
        )
        return self._build_report(STAGED, head, change, files)

    def assess_commit(self, rev: str) -> RiskReport:
        """Assess a commit as if it were staged on its parent; its message is not used by the model."""
        # a slow import that the hook never needs: its patterns take longer to compile than all the rest
        from gitpeft.git.streams import stream_commits
        from gitpeft.history.fix_detection import find_fix_evidence

        sha = self.repository.resolve_commit(rev)
        found = next(iter(stream_commits(self.repository, [sha], 1)))
        if isinstance(found, SkippedCommit):
            return RiskReport(rev, why=f"its change is not here ({found.reason})")
        if len(found.parents) > 1:
            return RiskReport(rev, why=MERGE)
        parent = found.parents[0] if found.parents else None
        author = self.history.hash_author(found.author)
        fix = find_fix_evidence(f"{found.subject}\n\n{found.body}") is not None
        change = risk_model.build_measured_change(
            self.repository, found.files, parent or "", author, found.commit_time or found.time, fix
        )
        return self._build_report(rev, parent, change, found.files)

    def assess_range(self, named: Sequence[str]) -> Iterator[RiskReport]:
        """Assess the commits of what `resolve_revisions` returned, without merges, oldest first."""
        for sha in self.repository.list_range_commits(named):
            yield self.assess_commit(sha)

    def _build_report(
        self, rev: str, parent: str | None, change: MeasuredChange, files: Sequence[FileChange]
    ) -> RiskReport:
        if not change.files:
            return RiskReport(rev, why=NOTHING_CHANGED)
        paths = tuple(file.path for file in change.files)
        if not change.counted_files:
            return RiskReport(rev, why=ONLY_GENERATED, files=paths)
        model, facts, cover = self.model, list["Evidence"](), None
        with self.history.context_before(self.repository, parent, keep=True) as context:
            metrics = compute_change_metrics(context, change)
            text = line_attribution.extract_text_features(model, files, metrics, self.encoder)
            score = model.compute_score(metrics, text.beside) if model.is_usable else None
            high = score is not None and model.should_flag(score, self.budget)
            if high or not self.brief:
                from gitpeft.risk import evidence

                exists = partial(self._file_exists, parent)
                facts = evidence.gather_evidence(context, change, files, metrics, model, exists, text.lines)
                cover = self._find_cover(context, change)
        report = RiskReport(rev, model.why, evidence=tuple(facts), files=paths, metrics=metrics)
        if score is not None:
            place = model.percentile_of_score(score)
            quiet = self._is_quiet(place)
            report = replace_fields(
                report,
                model=model.kind,
                score=score,
                probability=model.predict_probability(score) if model.is_checked else None,
                percentile=place,
                flagged=high,
                quiet=quiet,
                evidence=(*([_describe_quiet(model)] if quiet else []), *facts),
                parts=tuple(model.explain_score(metrics, text.beside)),
                beside=text.beside,
            )
        return report if cover is None else self._apply_cover(report, cover)

    def _find_cover(self, context: StoredContext, change: MeasuredChange) -> "Cover":
        from gitpeft.risk.dismissal_cover import find_cover

        return find_cover(self._load_dismissals().entries, context, change)

    def _load_dismissals(self) -> "DismissalFile":
        if self._dismissals is None:
            from gitpeft.risk.dismissals import load_dismissals

            self._dismissals = load_dismissals(self.repository, self.repository.read_commit_time())
        return self._dismissals

    def _apply_cover(self, report: RiskReport, cover: "Cover") -> RiskReport:
        """The report with the dismissals that count; of one dismissed in part, without those facts."""
        from gitpeft.risk.dismissal_cover import describe_end, describe_late, is_dismissed_fact

        late = map(describe_late, cover.late if report.flagged and not cover.complete else ())
        report = replace_fields(
            report,
            dismissals=cover.dismissals,
            dismissed=cover.complete,
            notes=(*(describe_end(*one) for one in cover.ended), *late),
            problems=self._load_dismissals().problems,
        )
        if cover.complete:
            return replace_fields(report, flagged=False, suppressed=report.flagged)
        kept = tuple(one for one in report.evidence if not is_dismissed_fact(one, cover.dismissals))
        return replace_fields(report, evidence=kept)

    def _is_quiet(self, percentile: float) -> bool | None:
        """Whether a change is among the quiet ones; None where the model cannot tell."""
        limit = self.model.quiet_below
        return None if limit is None else percentile < min(limit, self.quiet_below)

    def _file_exists(self, parent: str | None, path: str) -> bool:
        name = f"{parent}:{path}"
        return parent is not None and name in read_line_counts(self.repository, [name])


# --- what `gitpeft risk` asks for ---------------------------------------------------------------------------

TrainModel = Callable[[History], RiskModel]
"""Trains a model on a mined history, in place of the active one."""


def assess_revision(
    repository: Repository,
    config: Config,
    rev: str | None,
    train: TrainModel | None = None,
    quiet_below: float = 100.0,
) -> Iterator[RiskReport]:
    """Assess a commit, a range of any form that git knows, or the staged change (None), after mining.

    `rev` is handed to git as it is. The model is the active one, or the one that `train` returns. Raises
    GitpeftError for an unknown revision.
    """
    named = [] if rev is None else repository.resolve_revisions(rev)
    if named and not names_one_commit(named):
        yield from assess_commits(repository, config, named, train, quiet_below)
        return
    tips = [] if rev is None else [rev]
    with open_assessor(repository, config, tips, train, quiet_below) as assessor:
        yield assessor.assess_staged() if rev is None else assessor.assess_commit(rev)


def assess_commits(
    repository: Repository,
    config: Config,
    named: Sequence[str],
    train: TrainModel | None = None,
    quiet_below: float = 100.0,
) -> Iterator[RiskReport]:
    """The same for all commits that `resolve_revisions` or `list_tips` returned."""
    tips = [one for one in named if not one.startswith("^")]
    with open_assessor(repository, config, tips, train, quiet_below) as assessor:
        yield from assessor.assess_range(named)


@contextmanager
def open_assessor(
    repository: Repository,
    config: Config,
    named: Sequence[str] = (),
    train: TrainModel | None = None,
    quiet_below: float = 100.0,
) -> Iterator[RiskAssessor]:
    """Mine what HEAD and `named` reach, and open an assessor with the active model or that of `train`."""
    tips = [repository.resolve_commit(one) for one in named]
    tips += [head] if (head := repository.resolve_head()) is not None else []
    with History.open(repository.state_dir) as history:
        for tip in dict.fromkeys(tips):
            history.mine_commits(repository, tip)
        if train is not None:
            budget = config.risk_budget
            yield RiskAssessor(history, repository, train(history), budget, quiet_below=quiet_below)
        else:
            bundle = bundles.open_active_bundle(repository.state_dir)
            model = load_risk_model(bundle)
            encoder = load_risk_encoder(model, bundle)
            yield RiskAssessor(
                history, repository, model, config.risk_budget, encoder=encoder, quiet_below=quiet_below
            )


def _describe_quiet(model: RiskModel) -> "Evidence":
    from gitpeft.risk.evidence import Evidence

    zone = model.quiet
    text = (
        f"quiet: of {zone['n']:,} later commits of this repository that ranked as low, "
        f"{zone['bugs']} needed a fix"
    )
    return Evidence("quiet", text, "", {"n": zone["n"], "fixed": zone["bugs"]})


def load_risk_encoder(model: RiskModel, bundle: bundles.Bundle | None) -> "OnnxRiskEncoder | None":
    """The encoder of a bundle's risk model; None for a model that needs none."""
    if bundle is None or not model.needs_encoder:
        return None
    from gitpeft.risk.encoder import OnnxRiskEncoder

    return OnnxRiskEncoder.from_bundle(bundle)
