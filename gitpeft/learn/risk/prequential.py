"""Evaluates risk models prequentially: block by block, by what was known when each block began.

Everything goes in time order: models are fitted on the older commits, calibrated on later ones, and measured
on the newest. What is not known at a moment counts for nothing then (see `labelled_history`).
"""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Protocol

import numpy as np

from gitpeft.learn.evaluation.ranking_metrics import RANKING_METRICS, RankedCommits, bootstrap_difference
from gitpeft.learn.risk.classifiers import (
    Array,
    LabelledCommits,
    calibrate_model,
    fit_candidate_models,
    rank_commits,
    score_commits,
)
from gitpeft.learn.risk.labelled_history import BugLabels, find_label_limit, label_commits
from gitpeft.learn.risk.metric_replay import MeasuredCommit
from gitpeft.monitor.calibration import CALIBRATION_DIVISOR
from gitpeft.risk.encoder import OnnxRiskEncoder
from gitpeft.risk.model import (
    LINES_ADDED,
    LOGISTIC_REGRESSION,
    PRIOR,
    PRIOR_AND_OWN,
    RISK_MODEL_KINDS,
    RiskModel,
)

MIN_KNOWN_BUGS = 40
"""Known bugs below which no model is fitted: about three for each feature that carries weight."""

PREQUENTIAL_BLOCKS = 5
MAX_ENCODER_COMMITS = 2000
"""Commits that an encoder scores in an evaluation, at most."""

RECENT_COMMITS = 1000
"""Commits whose scores make the percentiles."""

READ_NO_TEXT = frozenset({LINES_ADDED, LOGISTIC_REGRESSION})

_MIN_SPREAD = 1e-9


class EncoderScorer(Protocol):
    """Logits of an encoder for commits, NaN for those that it was trained on; `reader` reads one change."""

    reader: OnnxRiskEncoder

    def __call__(self, data: LabelledCommits) -> Array:
        """Logits (n)."""
        ...


TrainEncoder = Callable[[LabelledCommits], EncoderScorer | None]
"""Tunes an encoder on commits, the newest eighth of which only decide when to stop; None on failure."""


@dataclass(frozen=True, slots=True)
class FittedModels:
    """Models by name, and for each the scores of recent commits, which are the usual ones."""

    models: dict[str, RiskModel]
    usual: dict[str, Array]


@dataclass(frozen=True, slots=True)
class EvaluationBlock:
    """A block of commits, those before it with the labels of its start, and the models fitted on those."""

    block: LabelledCommits
    before: LabelledCommits
    fit: FittedModels

    @property
    def models(self) -> dict[str, RiskModel]:
        """The models fitted before the block."""
        return self.fit.models


@dataclass(frozen=True, slots=True)
class RiskTrial:
    """An evaluation of models on later commits than they were fitted on, and the selected (`chosen`) model.

    `data` are those commits, oldest first, `parts` the same block by block, `ranked` their scores by model;
    `reader` reads changes with the encoder, if there is one.
    """

    data: LabelledCommits
    parts: tuple[EvaluationBlock, ...]
    ranked: dict[str, RankedCommits]
    chosen: str
    reader: OnnxRiskEncoder | None = None


def evaluate_prequential(
    measured: Sequence[MeasuredCommit],
    found: BugLabels,
    now: int,
    since: float | None = None,
    blocks: int = PREQUENTIAL_BLOCKS,
    texts: Mapping[str, str] | None = None,
    teach: TrainEncoder | None = None,
    tell: Callable[[int], None] = lambda _: None,
) -> RiskTrial | None:
    """Replay the history: each block of commits is scored by models fitted on what was known when it began.

    The labelled commits from `since` (unix seconds; default: the newest half) on in `blocks` equal parts,
    without those that are too new to tell what became of them (see `find_label_limit`): a score could only be
    right about these. None where no block had enough known bugs before it, or none had a bug in it. An
    encoder is tuned once, on what was known when the first block began, and scores `MAX_ENCODER_COMMITS` at
    most, as it is slow. `tell` is called with the number of each block, from 0, before it.
    """
    data = label_commits(measured, found, now, texts=texts)
    end = int(np.searchsorted(data.times, find_label_limit(found, now), side="right"))
    first = end // 2 if since is None else int(np.searchsorted(data.times, since))
    if teach is not None:
        first = max(first, end - MAX_ENCODER_COMMITS)
    parts: list[EvaluationBlock] = []
    read: EncoderScorer | None = None
    for number, rows in enumerate(np.array_split(np.arange(first, end), blocks)):
        if not len(rows):
            continue
        tell(number)
        block = data.take(rows)
        start = int(block.times[0])
        before = label_commits(
            [one for one in measured if one.change.time < start], found, start, texts=texts
        )
        if not MIN_KNOWN_BUGS / 2 <= before.truth.sum() < len(before):
            continue
        if teach is not None and not parts:
            read = teach(before)
        if read is not None:
            block, before = replace(block, readings=read(block)), replace(before, readings=read(before))
        parts.append(EvaluationBlock(block, before, fit_models(before)))
    if teach is not None and read is None:  # without an encoder all commits may be scored
        return evaluate_prequential(measured, found, now, since, blocks, texts, tell=tell)
    if not sum(part.block.truth.sum() for part in parts):
        return None
    pooled = {
        name: _pool_blocks([standardise_scores(name, part) for part in parts]) for name in parts[0].models
    }
    scored = {sha for part in parts for sha in part.block.shas}
    kept = [i for i, sha in enumerate(data.shas) if sha in scored]
    reader = read.reader if read else None
    return RiskTrial(data.take(kept), tuple(parts), pooled, select_model(pooled), reader)


def _pool_blocks(parts: Sequence[RankedCommits]) -> RankedCommits:
    """The blocks concatenated."""
    truth, scores, chances, effort = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("truth", "scores", "chances", "effort")
    )
    return RankedCommits(truth, scores, chances, effort)


def standardise_scores(name: str, part: EvaluationBlock) -> RankedCommits:
    """A model's ranking of a block, with scores in standard deviations of the recent commits before it.

    So scores of different fits can be compared, like the percentiles that people are shown.
    """
    ranked, usual = rank_commits(part.models[name], part.block), part.fit.usual[name]
    return replace(ranked, scores=(ranked.scores - usual.mean()) / (usual.std() + _MIN_SPREAD))


def flag_commits(name: str, part: EvaluationBlock, budget: float) -> Array:
    """Which commits of a block score above all but `budget` per cent of the recent ones before it, 0 or 1."""
    limit = np.quantile(part.fit.usual[name], 1 - budget / 100, method="higher")
    return (score_commits(part.models[name], part.block) > limit).astype(float)


def select_model(found: Mapping[str, RankedCommits]) -> str:
    """The model to use, by ROC AUC on later commits.

    Of lines added, the prior, and the prior corrected here, which is shrunk towards it, the best one. Each of
    the others has to beat it, lines added, and, if it reads the change, the regression that does not, beyond
    the 95 % interval of the paired bootstrap.
    """
    best = max(
        (name for name in (LINES_ADDED, PRIOR, PRIOR_AND_OWN) if name in found),
        key=lambda name: RANKING_METRICS["auc"](found[name]),
    )
    for name in (one for one in RISK_MODEL_KINDS[3:] if one in found):
        rivals = {LINES_ADDED, best} | (set() if name in READ_NO_TEXT else {LOGISTIC_REGRESSION})
        if all(bootstrap_difference(found[name], found[rival], "auc").low > 0 for rival in rivals):
            best = name
    return best


def beats_lines_added(found: Mapping[str, RankedCommits], name: str) -> bool:
    """Whether a model beats the number of added lines in AUC, beyond the 95 % interval."""
    return name != LINES_ADDED and bootstrap_difference(found[name], found[LINES_ADDED], "auc").low > 0


def fit_models(data: LabelledCommits) -> FittedModels:
    """Every model that these commits allow.

    The newest eighth calibrates models of the rest; those that are returned have that calibration, and are
    fitted on all commits, since the newest are the most like those to come. The usual scores are those of up
    to `RECENT_COMMITS`; for models that read text, whose training scores are overfitted, those of the eighth.
    """
    cut = len(data) - max(1, len(data) // CALIBRATION_DIVISOR)
    old, recent = data.take(slice(0, cut)), data.take(slice(cut, None))
    if not old.truth.any() or old.truth.all():
        old = data
    readings = data.readings if data.readings is not None and drop_nan(data.readings).size > 1 else None
    earlier, models = fit_candidate_models(old, readings), fit_candidate_models(data, readings)
    usual = {
        name: score_commits(model, data)[-RECENT_COMMITS:]
        if is_hardly_fitted(name, data)
        else drop_nan(score_commits(earlier[name], recent))
        for name, model in models.items()
    }
    curves = {name: calibrate_model(model, recent).curve for name, model in earlier.items()}
    return FittedModels({name: replace(model, curve=curves[name]) for name, model in models.items()}, usual)


def is_hardly_fitted(name: str, data: LabelledCommits) -> bool:
    """Whether few weights of a model are learnt here, so that its training scores are as good as new ones."""
    return name in (LINES_ADDED, PRIOR, LOGISTIC_REGRESSION) or (name == PRIOR_AND_OWN and not data.changes)


def drop_nan(values: Array) -> Array:
    """The values that are numbers."""
    return values[~np.isnan(values)]
