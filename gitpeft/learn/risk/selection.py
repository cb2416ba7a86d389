"""Selects and fits the risk model of a history, or says why there is none.

The best of the candidate models in a prequential evaluation (see `prequential`) is fitted on all labelled
commits and calibrated. What is not better than chance on later commits is not used.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace

import numpy as np

from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn.evaluation.ranking_metrics import RankedCommits, summarise_ranking
from gitpeft.learn.evaluation.text_metrics import ConfidenceInterval
from gitpeft.learn.risk import prior
from gitpeft.learn.risk.classifiers import LabelledCommits, score_commits
from gitpeft.learn.risk.labelled_history import (
    PATIENCE_QUANTILE,
    BugLabels,
    LabelledHistory,
    Listener,
    build_labelled_commits,
    label_commits,
    read_labelled_history,
)
from gitpeft.learn.risk.line_check import FixedLineLookup, LineHits, measure_line_hits
from gitpeft.learn.risk.metric_replay import MeasuredCommit
from gitpeft.learn.risk.prequential import (
    MIN_KNOWN_BUGS,
    READ_NO_TEXT,
    RECENT_COMMITS,
    FittedModels,
    RiskTrial,
    TrainEncoder,
    beats_lines_added,
    drop_nan,
    evaluate_prequential,
    fit_models,
    is_hardly_fitted,
    select_model,
)
from gitpeft.learn.risk.quiet import compute_percentiles, find_quiet_zone
from gitpeft.risk.line_attribution import extract_features_from_text
from gitpeft.risk.model import MIN_JUDGED_BUGS, RiskModel

_QUANTILE_COUNT = 201


@dataclass(frozen=True, slots=True)
class TrialSummary:
    """The metrics of each model on `n` later commits, `buggy` of them known bugs, and the selected model.

    An interval is (mean, low, high), None where it is undefined.
    """

    chosen: str
    n: int
    buggy: int
    test: Mapping[str, Mapping[str, Sequence[float | None]]]

    def as_dict(self) -> dict[str, object]:
        """Plain values, as `RiskModel.report` keeps them."""
        return asdict(self)


def train_risk_model(
    measured: Sequence[MeasuredCommit],
    found: BugLabels,
    now: int,
    texts: Mapping[str, str] | None = None,
    teach: TrainEncoder | None = None,
    find_fixed_lines: FixedLineLookup | None = None,
) -> RiskModel:
    """The risk model of a history: the best on later commits (see `select_model`), or why there is none.

    `now` is the time of the newest commit (unix seconds), at which labels are taken. `teach` is called once
    for the evaluation, and once more, on everything, where a model with an encoder is selected;
    `find_fixed_lines` is used where the selected model reads lines.
    """
    data = label_commits(measured, found, now, texts=texts)
    known = int(data.truth.sum())
    latency = found.latency_quantile(PATIENCE_QUANTILE) or 0.0
    base = RiskModel(known=known, needed=MIN_KNOWN_BUGS, latency=latency, report={"until": now})
    recent = [one for one in measured if one.metrics.nf and one.change.time <= now][-RECENT_COMMITS:]
    young = build_labelled_commits(recent, np.zeros(len(recent)), texts)
    if known < MIN_KNOWN_BUGS or known == len(data):
        return make_unchecked_prior(base, young, explain_few_bugs(known))
    tried = evaluate_prequential(measured, found, now, texts=texts, teach=teach)
    if tried is None:
        why = (
            f"not enough history (too few of its {known} bugs were known in time, or in commits that are old "
            "enough to judge)"
        )
        return make_unchecked_prior(base, young, why)
    if int(tried.data.truth.sum()) < MIN_JUDGED_BUGS:
        return make_unchecked_prior(base, young, explain_few_judged_bugs(tried))
    chosen, reading = (
        tried.chosen,
        {name for name, model in tried.parts[-1].models.items() if model.needs_encoder},
    )
    if teach is not None and chosen in reading:
        if (read := teach(data)) is None:
            chosen = select_model({name: one for name, one in tried.ranked.items() if name not in reading})
        else:
            data, young = replace(data, readings=read(data)), replace(young, readings=read(young))
    fitted = fit_models(data)
    best = fitted.models[chosen]
    measures = replace(summarise_trial(tried), chosen=chosen).as_dict()
    measures |= {"labelled": len(data), "recent": len(recent)}
    measures |= {"warns": beats_lines_added(tried.ranked, chosen)}
    zone = find_quiet_zone(compute_percentiles(chosen, tried), tried.data.truth)
    measures |= {"quiet": zone.as_dict()}
    if find_fixed_lines is not None and chosen not in READ_NO_TEXT:
        measures |= {"lines": evaluate_line_attribution(chosen, tried, find_fixed_lines).as_dict()}
    fitted_model = replace(
        best,
        known=known,
        needed=MIN_KNOWN_BUGS,
        latency=latency,
        scores=_compute_quantiles(_collect_usual_scores(chosen, fitted, young, set(data.shas))),
        sizes=_compute_quantiles([one.metrics.la + one.metrics.ld for one in recent]),
        report={"until": now} | measures,
    )
    return _reject_chance_model(fitted_model, tried.ranked[chosen])


def make_unchecked_prior(base: RiskModel, recent: LabelledCommits, why: str) -> RiskModel:
    """The prior for a repository in which no score can be checked yet, for the reason `why`.

    It ranks changes, without a probability, and the hook does not warn by it. Where few commits are known,
    the scores of the public histories complete the percentiles.
    """
    if not len(recent):
        return replace(base, why=why)
    start = prior.adapt_prior(recent.metrics, words=bool(recent.changes))
    usual = start.scores if recent.changes else ()
    scores = score_commits(start, recent)
    return replace(
        start,
        why=why,
        known=base.known,
        needed=base.needed,
        latency=base.latency,
        scores=prior.blend_quantiles(scores, usual or scores, _QUANTILE_COUNT),
        sizes=_compute_quantiles([one.la + one.ld for one in recent.metrics]),
        report=base.report | {"warns": False, "checked": False, "recent": len(recent)},
    )


def explain_few_judged_bugs(tried: RiskTrial) -> str:
    """Why no score can be judged by these later commits."""
    buggy, n = int(tried.data.truth.sum()), len(tried.data)
    of = f"{buggy} in the newest {n:,} commits that are old enough to judge"
    return f"too few bugs to judge a score ({of}, {MIN_JUDGED_BUGS} needed)"


def _collect_usual_scores(
    name: str, fitted: FittedModels, recent: LabelledCommits, trained_on: set[str]
) -> Sequence[float]:
    """Scores of the recent commits; of a model that reads text, only where it was not trained on them."""
    if is_hardly_fitted(name, recent):
        return list(score_commits(fitted.models[name], recent))
    fresh = recent.take([i for i, sha in enumerate(recent.shas) if sha not in trained_on])
    return [*fitted.usual[name], *drop_nan(score_commits(fitted.models[name], fresh))]


def evaluate_line_attribution(name: str, tried: RiskTrial, find_fixed_lines: FixedLineLookup) -> LineHits:
    """How often the line with the largest weight in a later commit is one that fixes changed."""
    fixed = find_fixed_lines([sha for part in tried.parts for sha in part.block.shas])
    rows = []
    for part in tried.parts:
        for sha, change, metrics in zip(part.block.shas, part.block.changes, part.block.metrics, strict=True):
            if sha in fixed:
                found = extract_features_from_text(part.models[name], change, metrics, tried.reader)
                rows.append(([line for line, _ in found.lines], fixed[sha]))
    return measure_line_hits(rows)


def train_from_history(
    history: History,
    repository: Repository,
    until: str,
    listen: Listener = lambda *_: None,
    teach: TrainEncoder | None = None,
) -> RiskModel:
    """The risk model of the commits up to `until` (an id), which are mined already."""
    return train_on_labelled_history(read_labelled_history(history, repository, until, listen), teach)


def train_on_labelled_history(known: LabelledHistory | None, teach: TrainEncoder | None = None) -> RiskModel:
    """The risk model of a history whose labels are read."""
    if known is None:
        return RiskModel(why="not enough history (no commit to learn from)", needed=MIN_KNOWN_BUGS)
    return train_risk_model(
        known.measured, known.found, known.now, known.texts, teach, known.find_fixed_lines
    )


def _compute_quantiles(values: Sequence[float]) -> tuple[float, ...]:
    """Evenly spaced quantiles, from the smallest to the largest value."""
    return tuple(map(float, np.quantile(np.array(values, dtype=float), np.linspace(0, 1, _QUANTILE_COUNT))))


def _reject_chance_model(model: RiskModel, ranked: RankedCommits) -> RiskModel:
    """Replace a model that is no better than chance on later commits by the reason why there is none."""
    auc = summarise_ranking(ranked)["auc"]
    if not auc.low > 0.5:
        return RiskModel(
            why=explain_chance_level(auc),
            known=model.known,
            needed=model.needed,
            latency=model.latency,
            report=model.report,
        )
    return model


def explain_few_bugs(known: int) -> str:
    """Why there is no risk model with so few known bugs."""
    return f"not enough history ({known} known bugs, {MIN_KNOWN_BUGS} needed)"


def explain_chance_level(auc: ConfidenceInterval) -> str:
    """Why a score with such an AUC on later commits is not used."""
    return f"no score beats chance on later commits (AUC {auc.mean:.2f}, {auc.low:.2f}-{auc.high:.2f})"


def summarise_trial(tried: RiskTrial) -> TrialSummary:
    """The metrics of every model with their intervals."""
    found = {
        name: {metric: _round_interval(interval) for metric, interval in summarise_ranking(one).items()}
        for name, one in tried.ranked.items()
    }
    one = tried.ranked[tried.chosen]
    return TrialSummary(tried.chosen, len(one), int(one.truth.sum()), found)


def _round_interval(interval: ConfidenceInterval) -> list[float | None]:
    return [None if math.isnan(x) else round(float(x), 4) for x in interval]
