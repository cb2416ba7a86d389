"""Which changes needed a fix later: hides how the risk model is fitted, calibrated, compared and chosen.

Everything goes in time order: a model is fitted on the older commits, calibrated on later ones, and measured
on the newest. What is not known at a moment counts for nothing then: a commit is buggy once a fix of it is
known, and clean only when it is older than the repository's own wait for a fix (the `PATIENCE` quantile of
its latencies); younger ones are left out, not taken for clean.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Protocol

import numpy as np

from gitpeft.config import load_config
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn.evaluation.ranking_metrics import RankedCommits, bootstrap_difference, summarise_ranking
from gitpeft.learn.risk.classifiers import (
    Array,
    LabelledCommits,
    calibrate_model,
    fit_candidate_models,
    rank_commits,
    score_commits,
)
from gitpeft.learn.risk.line_check import FixedLineLookup, make_fixed_line_lookup, measure_line_hits
from gitpeft.learn.risk.metric_replay import MeasuredCommit, find_latest_time, measure_history
from gitpeft.learn.szz import szz
from gitpeft.monitor.calibration import CALIBRATION_DIVISOR
from gitpeft.risk.change_metrics import DAY_SECONDS
from gitpeft.risk.encoder import OnnxRiskEncoder
from gitpeft.risk.line_attribution import extract_features_from_text
from gitpeft.risk.model import LINES_ADDED, LOGISTIC_REGRESSION, RISK_MODEL_KINDS, RiskModel

Listener = Callable[[str, float, str], None]

MIN_KNOWN_BUGS = 40
"""Known bugs without which nothing is learnt: about three for each feature that carries weight."""

PATIENCE_QUANTILE = 0.5
"""The quantile of the latency from a bug to its fix after which a commit without a fix counts as clean."""

TEST_SHARE = 0.2
PREQUENTIAL_BLOCKS = 5
MAX_ENCODER_COMMITS = 2000
"""Later commits that an encoder is asked about, in a comparison."""

RECENT_COMMITS = 1000
"""Commits whose scores make the percentiles."""

METRICS_ONLY = frozenset({LINES_ADDED, LOGISTIC_REGRESSION})
"""Scores that read no text: so few weights that what they were fitted on says what is usual."""

_QUANTILE_COUNT = 201
_MIN_SPREAD = 1e-9


class BugLabels(Protocol):
    """What SZZ found (see `learn.labels`)."""

    def bugs_known_at(self, time: int) -> set[str]:
        """The commits that were known to be buggy at a moment (unix seconds)."""
        ...

    def latency_quantile(self, quantile: float) -> float | None:
        """Days from a bug to its first fix, at a quantile; None when too few are known."""
        ...


class EncoderScorer(Protocol):
    """Logits of an encoder for commits, NaN for those that it was taught; `reader` reads one change."""

    reader: OnnxRiskEncoder

    def __call__(self, data: LabelledCommits) -> Array:
        """Logits (n)."""
        ...


TrainEncoder = Callable[[LabelledCommits], EncoderScorer | None]
"""Tunes an encoder on commits, of which the newest eighth only says when to stop; None where it cannot."""


@dataclass(frozen=True, slots=True)
class LabelledHistory:
    """A history and what is known of it `now` (unix seconds): its commits, oldest first, and their labels.

    `texts` are the compact changes by commit, `guilty` looks up which lines of them fixes changed.
    """

    measured: Sequence[MeasuredCommit]
    found: BugLabels
    now: int
    texts: Mapping[str, str] = field(default_factory=dict)
    guilty: FixedLineLookup | None = None


def label_commits(
    measured: Sequence[MeasuredCommit],
    found: BugLabels,
    now: int,
    patience: float = PATIENCE_QUANTILE,
    texts: Mapping[str, str] | None = None,
) -> LabelledCommits:
    """The commits whose fate is known at `now`; later ones, and those too young to be clean, are left out.

    `texts` are the compact changes by commit, where they are to be read.
    """
    known = found.bugs_known_at(now)
    wait = (found.latency_quantile(patience) or 365.0) * DAY_SECONDS
    kept = [
        one
        for one in measured
        if one.change.time <= now and one.metrics.nf and (one.sha in known or one.change.time <= now - wait)
    ]
    return _build_labelled_commits(kept, np.array([one.sha in known for one in kept], dtype=float), texts)


def _build_labelled_commits(
    measured: Sequence[MeasuredCommit], truth: Array, texts: Mapping[str, str] | None
) -> LabelledCommits:
    times = np.array([one.change.time for one in measured], dtype=float)
    shas = tuple(one.sha for one in measured)
    changes = tuple(texts.get(sha, "") for sha in shas) if texts else ()
    return LabelledCommits(tuple(one.metrics for one in measured), truth, times, shas, changes)


# --- choosing -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class FittedModels:
    """Models by name, and for each the scores of recent commits, which say what is usual."""

    models: dict[str, RiskModel]
    usual: dict[str, Array]


@dataclass(frozen=True, slots=True)
class EvaluationBlock:
    """A block of commits, those before it as they were known when it began, and what was fitted then."""

    block: LabelledCommits
    before: LabelledCommits
    fit: FittedModels

    @property
    def models(self) -> dict[str, RiskModel]:
        """The models of then."""
        return self.fit.models


@dataclass(frozen=True, slots=True)
class RiskTrial:
    """A comparison on later commits: what each model, fitted on earlier ones, said; and the better one.

    `data` are those commits, oldest first, `parts` the same block by block; `reader` is the encoder's.
    """

    data: LabelledCommits
    parts: tuple[EvaluationBlock, ...]
    ranked: dict[str, RankedCommits]
    chosen: str
    reader: OnnxRiskEncoder | None = None


def evaluate_time_split(
    data: LabelledCommits, share: float = TEST_SHARE, teach: TrainEncoder | None = None
) -> RiskTrial:
    """Fit on the oldest commits, measure on the newest `share`."""
    cut = len(data) - round(share * len(data))
    old, new = data.take(slice(0, cut)), data.take(slice(cut, None))
    read = teach(old) if teach else None
    if read is not None:
        old, new = replace(old, readings=read(old)), replace(new, readings=read(new))
    part = EvaluationBlock(new, old, fit_models(old))
    found = {name: rank_commits(model, new) for name, model in part.models.items()}
    return RiskTrial(new, (part,), found, select_model(found), read.reader if read else None)


def evaluate_prequential(
    measured: Sequence[MeasuredCommit],
    found: BugLabels,
    now: int,
    since: float | None = None,
    blocks: int = PREQUENTIAL_BLOCKS,
    texts: Mapping[str, str] | None = None,
    teach: TrainEncoder | None = None,
) -> RiskTrial | None:
    """The history again as it was lived: each block of commits is judged by what was known when it began.

    The labelled commits from `since` (unix seconds; default: the newest half) in `blocks` equal parts. None
    where no block had enough known bugs before it, or none had a bug in it. An encoder is tuned once, on what
    was known when the first block began, and asked about `MOST_READ` commits: it costs more than the rest.
    """
    data = label_commits(measured, found, now, texts=texts)
    first = len(data) // 2 if since is None else int(np.searchsorted(data.times, since))
    if teach is not None:
        first = max(first, len(data) - MAX_ENCODER_COMMITS)
    parts: list[EvaluationBlock] = []
    read: EncoderScorer | None = None
    for rows in np.array_split(np.arange(first, len(data)), blocks):
        if not len(rows):
            continue
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
    if teach is not None and read is None:  # nothing was read: then all commits may be judged
        return evaluate_prequential(measured, found, now, since, blocks, texts)
    if not sum(part.block.truth.sum() for part in parts):
        return None
    pooled = {
        name: _pool_blocks([standardise_scores(name, part) for part in parts]) for name in parts[0].models
    }
    judged = {sha for part in parts for sha in part.block.shas}
    kept = [i for i, sha in enumerate(data.shas) if sha in judged]
    reader = read.reader if read else None
    return RiskTrial(data.take(kept), tuple(parts), pooled, select_model(pooled), reader)


def _pool_blocks(parts: Sequence[RankedCommits]) -> RankedCommits:
    """The blocks as one."""
    truth, scores, chances, effort = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("truth", "scores", "chances", "effort")
    )
    return RankedCommits(truth, scores, chances, effort)


def standardise_scores(name: str, part: EvaluationBlock) -> RankedCommits:
    """What a model says of a block, its scores in standard deviations of the recent commits before it.

    So scores of different fits compare, as the percentiles do that people are shown.
    """
    said, usual = rank_commits(part.models[name], part.block), part.fit.usual[name]
    return replace(said, scores=(said.scores - usual.mean()) / (usual.std() + _MIN_SPREAD))


def flag_commits(name: str, part: EvaluationBlock, budget: float) -> Array:
    """Which commits of a block are above all but `budget` percent of the recent ones before it, 0 or 1."""
    limit = np.quantile(part.fit.usual[name], 1 - budget / 100, method="higher")
    return (score_commits(part.models[name], part.block) > limit).astype(float)


def select_model(found: Mapping[str, RankedCommits]) -> str:
    """The simplest score that none beats: outside the 95 % interval of the paired bootstrap, in AUC.

    What reads the change has to beat both scores that do not.
    """
    best = LINES_ADDED
    for name in (one for one in RISK_MODEL_KINDS[1:] if one in found):
        rivals = (
            {LINES_ADDED, best} if name == LOGISTIC_REGRESSION else {LINES_ADDED, LOGISTIC_REGRESSION, best}
        )
        if all(bootstrap_difference(found[name], found[rival], "auc").low > 0 for rival in rivals):
            best = name
    return best


def fit_models(data: LabelledCommits) -> FittedModels:
    """Every model that these commits allow.

    The newest eighth calibrates models of the rest; those that are returned have that calibration, and are
    fitted on all of them, since the newest commits are the most like those to come. What is usual is told by
    up to `RECENT` commits; for models that read, which know by heart what they were taught, by that eighth.
    """
    cut = len(data) - max(1, len(data) // CALIBRATION_DIVISOR)
    old, recent = data.take(slice(0, cut)), data.take(slice(cut, None))
    if not old.truth.any() or old.truth.all():
        old = data
    readings = data.readings if data.readings is not None and _drop_nan(data.readings).size > 1 else None
    earlier, models = fit_candidate_models(old, readings), fit_candidate_models(data, readings)
    usual = {
        name: score_commits(model, data)[-RECENT_COMMITS:]
        if name in METRICS_ONLY
        else _drop_nan(score_commits(earlier[name], recent))
        for name, model in models.items()
    }
    curves = {name: calibrate_model(model, recent).curve for name, model in earlier.items()}
    return FittedModels({name: replace(model, curve=curves[name]) for name, model in models.items()}, usual)


def _drop_nan(values: Array) -> Array:
    return values[~np.isnan(values)]


def train_risk_model(
    measured: Sequence[MeasuredCommit],
    found: BugLabels,
    now: int,
    texts: Mapping[str, str] | None = None,
    teach: TrainEncoder | None = None,
    guilty: FixedLineLookup | None = None,
) -> RiskModel:
    """The risk model of a history: the best on later commits (see `better`), or why there is none.

    `now` is the moment of the newest commit: what is known then counts. `teach` is asked once to compare, and
    once more, on everything, where what it teaches is to ship; `guilty` where what ships reads lines.
    """
    data = label_commits(measured, found, now, texts=texts)
    known = int(data.truth.sum())
    latency = found.latency_quantile(PATIENCE_QUANTILE) or 0.0
    base = RiskModel(known=known, needed=MIN_KNOWN_BUGS, latency=latency, report={"until": now})
    if known < MIN_KNOWN_BUGS or known == len(data):
        return replace(base, why=f"not enough history ({known} known bugs, {MIN_KNOWN_BUGS} needed)")
    tried = evaluate_prequential(measured, found, now, texts=texts, teach=teach)
    if tried is None:
        return replace(base, why=f"not enough history (too few of its {known} bugs were known in time)")
    recent = [one for one in measured if one.metrics.nf and one.change.time <= now][-RECENT_COMMITS:]
    young = _build_labelled_commits(recent, np.zeros(len(recent)), texts)
    chosen, reading = (
        tried.chosen,
        {name for name, model in tried.parts[-1].models.items() if model.needs_encoder},
    )
    if teach is not None and chosen in reading:
        if (read := teach(data)) is None:
            chosen = select_model({name: said for name, said in tried.ranked.items() if name not in reading})
        else:
            data, young = replace(data, readings=read(data)), replace(young, readings=read(young))
    fitted = fit_models(data)
    best = fitted.models[chosen]
    measures = summarise_trial(tried) | {"chosen": chosen, "labelled": len(data), "recent": len(recent)}
    if guilty is not None and chosen not in METRICS_ONLY:
        measures |= {"lines": evaluate_line_attribution(chosen, tried, guilty)}
    told = replace(
        best,
        known=known,
        needed=MIN_KNOWN_BUGS,
        latency=latency,
        scores=_compute_quantiles(_collect_usual_scores(chosen, fitted, young, set(data.shas))),
        sizes=_compute_quantiles([one.metrics.la + one.metrics.ld for one in recent]),
        report={"until": now} | measures,
    )
    return _reject_chance_model(told, tried.ranked[chosen])


def _collect_usual_scores(
    name: str, fitted: FittedModels, recent: LabelledCommits, taught: set[str]
) -> Sequence[float]:
    """Scores of the recent commits; of a model that reads, only where it was not taught them."""
    if name in METRICS_ONLY:
        return [fitted.models[name].compute_score(one) for one in recent.metrics]
    fresh = recent.take([i for i, sha in enumerate(recent.shas) if sha not in taught])
    return [*fitted.usual[name], *_drop_nan(score_commits(fitted.models[name], fresh))]


def evaluate_line_attribution(name: str, tried: RiskTrial, of: FixedLineLookup) -> dict[str, Any]:
    """Whether the lines that weighed most in later commits are those that fixes changed: `guilt.check`."""
    guilty = of([sha for part in tried.parts for sha in part.block.shas])
    rows = []
    for part in tried.parts:
        for sha, change, metrics in zip(part.block.shas, part.block.changes, part.block.metrics, strict=True):
            if sha in guilty:
                found = extract_features_from_text(part.models[name], change, metrics, tried.reader)
                rows.append(([line for line, _ in found.lines], guilty[sha]))
    return measure_line_hits(rows)


def read_labelled_history(
    history: History, repository: Repository, until: str, listen: Listener = lambda *_: None
) -> LabelledHistory | None:
    """What is known at the commit `until` (an id); `history` holds its past already. None without commits."""
    measured = measure_history(history, repository, until)
    if not measured:
        return None
    found = szz.trace_bug_introducing_commits(repository, until, load_config(repository), listen)
    texts = {one.sha: one.change for one in history.load_records(repository, until)}
    return LabelledHistory(
        measured, found, find_latest_time(measured), texts, make_fixed_line_lookup(repository, found.verdicts)
    )


def train_from_history(
    history: History,
    repository: Repository,
    until: str,
    listen: Listener = lambda *_: None,
    teach: TrainEncoder | None = None,
) -> RiskModel:
    """The risk model from nothing but the commits up to `until` (an id); `history` holds them already."""
    known = read_labelled_history(history, repository, until, listen)
    if known is None:
        return RiskModel(why="not enough history (no commit to learn from)", needed=MIN_KNOWN_BUGS)
    return train_risk_model(known.measured, known.found, known.now, known.texts, teach, known.guilty)


def _compute_quantiles(values: Sequence[float]) -> tuple[float, ...]:
    """Evenly spaced quantiles, from the smallest to the largest value."""
    return tuple(map(float, np.quantile(np.array(values, dtype=float), np.linspace(0, 1, _QUANTILE_COUNT))))


def _reject_chance_model(model: RiskModel, said: RankedCommits) -> RiskModel:
    """A score that is no better than chance on later commits is not shown to anybody."""
    auc = summarise_ranking(said)["auc"]
    if not auc.low > 0.5:
        why = f"no score beats chance on later commits (AUC {auc.mean:.2f}, {auc.low:.2f}-{auc.high:.2f})"
        return RiskModel(
            why=why, known=model.known, needed=model.needed, latency=model.latency, report=model.report
        )
    return model


def summarise_trial(tried: RiskTrial) -> dict[str, Any]:
    """What was measured, in plain values: by model, each metric with its interval."""
    found = {
        name: {metric: _round_interval(interval) for metric, interval in summarise_ranking(one).items()}
        for name, one in tried.ranked.items()
    }
    one = tried.ranked[tried.chosen]
    return {"chosen": tried.chosen, "n": len(one), "buggy": int(one.truth.sum()), "test": found}


def _round_interval(interval: Any) -> list[float | None]:
    return [None if math.isnan(x) else round(float(x), 4) for x in interval]
