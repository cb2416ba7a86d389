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

from gitpeft.config import load
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn.evaluation.ranking_metrics import Ranked, difference, summary
from gitpeft.learn.risk.classifiers import Array, Labelled, calibrate, candidates, ranked, scores
from gitpeft.learn.risk.line_check import Guilt, check, guilt
from gitpeft.learn.risk.metric_replay import Measured, latest, replay
from gitpeft.learn.szz import szz
from gitpeft.monitor.calibration import CALIBRATION
from gitpeft.risk.change_metrics import DAY
from gitpeft.risk.encoder import Reader
from gitpeft.risk.line_attribution import read_text
from gitpeft.risk.model import KINDS, LINES_ADDED, LOGISTIC, Model

Listener = Callable[[str, float, str], None]

NEEDED = 40
"""Known bugs without which nothing is learnt: about three for each feature that carries weight."""

PATIENCE = 0.5
"""The quantile of the latency from a bug to its fix after which a commit without a fix counts as clean."""

TEST = 0.2
BLOCKS = 5
MOST_READ = 2000
"""Later commits that an encoder is asked about, in a comparison."""

RECENT = 1000
"""Commits whose scores make the percentiles."""

METRICS_ONLY = frozenset({LINES_ADDED, LOGISTIC})
"""Scores that read no text: so few weights that what they were fitted on says what is usual."""

_QUANTILES = 201
_SPREAD = 1e-9


class Labels(Protocol):
    """What SZZ found (see `learn.labels`)."""

    def known_at(self, time: int) -> set[str]:
        """The commits that were known to be buggy at a moment (unix seconds)."""
        ...

    def latency(self, quantile: float) -> float | None:
        """Days from a bug to its first fix, at a quantile; None when too few are known."""
        ...


class Read(Protocol):
    """Logits of an encoder for commits, NaN for those that it was taught; `reader` reads one change."""

    reader: Reader

    def __call__(self, data: Labelled) -> Array:
        """Logits (n)."""
        ...


Teach = Callable[[Labelled], Read | None]
"""Tunes an encoder on commits, of which the newest eighth only says when to stop; None where it cannot."""


@dataclass(frozen=True, slots=True)
class Known:
    """A history and what is known of it `now` (unix seconds): its commits, oldest first, and their labels.

    `texts` are the compact changes by commit, `guilty` looks up which lines of them fixes changed.
    """

    measured: Sequence[Measured]
    found: Labels
    now: int
    texts: Mapping[str, str] = field(default_factory=dict)
    guilty: Guilt | None = None


def label(
    measured: Sequence[Measured],
    found: Labels,
    now: int,
    patience: float = PATIENCE,
    texts: Mapping[str, str] | None = None,
) -> Labelled:
    """The commits whose fate is known at `now`; later ones, and those too young to be clean, are left out.

    `texts` are the compact changes by commit, where they are to be read.
    """
    known = found.known_at(now)
    wait = (found.latency(patience) or 365.0) * DAY
    kept = [
        one
        for one in measured
        if one.change.time <= now and one.metrics.nf and (one.sha in known or one.change.time <= now - wait)
    ]
    return _labelled(kept, np.array([one.sha in known for one in kept], dtype=float), texts)


def _labelled(measured: Sequence[Measured], truth: Array, texts: Mapping[str, str] | None) -> Labelled:
    times = np.array([one.change.time for one in measured], dtype=float)
    shas = tuple(one.sha for one in measured)
    changes = tuple(texts.get(sha, "") for sha in shas) if texts else ()
    return Labelled(tuple(one.metrics for one in measured), truth, times, shas, changes)


# --- choosing -----------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Fit:
    """Models by name, and for each the scores of recent commits, which say what is usual."""

    models: dict[str, Model]
    usual: dict[str, Array]


@dataclass(frozen=True, slots=True)
class Part:
    """A block of commits, those before it as they were known when it began, and what was fitted then."""

    block: Labelled
    before: Labelled
    fit: Fit

    @property
    def models(self) -> dict[str, Model]:
        """The models of then."""
        return self.fit.models


@dataclass(frozen=True, slots=True)
class Trial:
    """A comparison on later commits: what each model, fitted on earlier ones, said; and the better one.

    `data` are those commits, oldest first, `parts` the same block by block; `reader` is the encoder's.
    """

    data: Labelled
    parts: tuple[Part, ...]
    ranked: dict[str, Ranked]
    chosen: str
    reader: Reader | None = None


def split(data: Labelled, share: float = TEST, teach: Teach | None = None) -> Trial:
    """Fit on the oldest commits, measure on the newest `share`."""
    cut = len(data) - round(share * len(data))
    old, new = data.take(slice(0, cut)), data.take(slice(cut, None))
    read = teach(old) if teach else None
    if read is not None:
        old, new = replace(old, readings=read(old)), replace(new, readings=read(new))
    part = Part(new, old, fit(old))
    found = {name: ranked(model, new) for name, model in part.models.items()}
    return Trial(new, (part,), found, better(found), read.reader if read else None)


def prequential(
    measured: Sequence[Measured],
    found: Labels,
    now: int,
    since: float | None = None,
    blocks: int = BLOCKS,
    texts: Mapping[str, str] | None = None,
    teach: Teach | None = None,
) -> Trial | None:
    """The history again as it was lived: each block of commits is judged by what was known when it began.

    The labelled commits from `since` (unix seconds; default: the newest half) in `blocks` equal parts. None
    where no block had enough known bugs before it, or none had a bug in it. An encoder is tuned once, on what
    was known when the first block began, and asked about `MOST_READ` commits: it costs more than the rest.
    """
    data = label(measured, found, now, texts=texts)
    first = len(data) // 2 if since is None else int(np.searchsorted(data.times, since))
    if teach is not None:
        first = max(first, len(data) - MOST_READ)
    parts: list[Part] = []
    read: Read | None = None
    for rows in np.array_split(np.arange(first, len(data)), blocks):
        if not len(rows):
            continue
        block = data.take(rows)
        start = int(block.times[0])
        before = label([one for one in measured if one.change.time < start], found, start, texts=texts)
        if not NEEDED / 2 <= before.truth.sum() < len(before):
            continue
        if teach is not None and not parts:
            read = teach(before)
        if read is not None:
            block, before = replace(block, readings=read(block)), replace(before, readings=read(before))
        parts.append(Part(block, before, fit(before)))
    if teach is not None and read is None:  # nothing was read: then all commits may be judged
        return prequential(measured, found, now, since, blocks, texts)
    if not sum(part.block.truth.sum() for part in parts):
        return None
    pooled = {name: _pool([placed(name, part) for part in parts]) for name in parts[0].models}
    judged = {sha for part in parts for sha in part.block.shas}
    kept = [i for i, sha in enumerate(data.shas) if sha in judged]
    reader = read.reader if read else None
    return Trial(data.take(kept), tuple(parts), pooled, better(pooled), reader)


def _pool(parts: Sequence[Ranked]) -> Ranked:
    """The blocks as one."""
    truth, scores, chances, effort = (
        np.concatenate([getattr(part, name) for part in parts])
        for name in ("truth", "scores", "chances", "effort")
    )
    return Ranked(truth, scores, chances, effort)


def placed(name: str, part: Part) -> Ranked:
    """What a model says of a block, its scores in standard deviations of the recent commits before it.

    So scores of different fits compare, as the percentiles do that people are shown.
    """
    said, usual = ranked(part.models[name], part.block), part.fit.usual[name]
    return replace(said, scores=(said.scores - usual.mean()) / (usual.std() + _SPREAD))


def flagged(name: str, part: Part, budget: float) -> Array:
    """Which commits of a block are above all but `budget` percent of the recent ones before it, 0 or 1."""
    limit = np.quantile(part.fit.usual[name], 1 - budget / 100, method="higher")
    return (scores(part.models[name], part.block) > limit).astype(float)


def better(found: Mapping[str, Ranked]) -> str:
    """The simplest score that none beats: outside the 95 % interval of the paired bootstrap, in AUC.

    What reads the change has to beat both scores that do not.
    """
    best = LINES_ADDED
    for name in (one for one in KINDS[1:] if one in found):
        rivals = {LINES_ADDED, best} if name == LOGISTIC else {LINES_ADDED, LOGISTIC, best}
        if all(difference(found[name], found[rival], "auc").low > 0 for rival in rivals):
            best = name
    return best


def fit(data: Labelled) -> Fit:
    """Every model that these commits allow.

    The newest eighth calibrates models of the rest; those that are returned have that calibration, and are
    fitted on all of them, since the newest commits are the most like those to come. What is usual is told by
    up to `RECENT` commits; for models that read, which know by heart what they were taught, by that eighth.
    """
    cut = len(data) - max(1, len(data) // CALIBRATION)
    old, recent = data.take(slice(0, cut)), data.take(slice(cut, None))
    if not old.truth.any() or old.truth.all():
        old = data
    readings = data.readings if data.readings is not None and _known(data.readings).size > 1 else None
    earlier, models = candidates(old, readings), candidates(data, readings)
    usual = {
        name: scores(model, data)[-RECENT:] if name in METRICS_ONLY else _known(scores(earlier[name], recent))
        for name, model in models.items()
    }
    curves = {name: calibrate(model, recent).curve for name, model in earlier.items()}
    return Fit({name: replace(model, curve=curves[name]) for name, model in models.items()}, usual)


def _known(values: Array) -> Array:
    return values[~np.isnan(values)]


def train(
    measured: Sequence[Measured],
    found: Labels,
    now: int,
    texts: Mapping[str, str] | None = None,
    teach: Teach | None = None,
    guilty: Guilt | None = None,
) -> Model:
    """The risk model of a history: the best on later commits (see `better`), or why there is none.

    `now` is the moment of the newest commit: what is known then counts. `teach` is asked once to compare, and
    once more, on everything, where what it teaches is to ship; `guilty` where what ships reads lines.
    """
    data = label(measured, found, now, texts=texts)
    known = int(data.truth.sum())
    latency = found.latency(PATIENCE) or 0.0
    base = Model(known=known, needed=NEEDED, latency=latency, report={"until": now})
    if known < NEEDED or known == len(data):
        return replace(base, why=f"not enough history ({known} known bugs, {NEEDED} needed)")
    tried = prequential(measured, found, now, texts=texts, teach=teach)
    if tried is None:
        return replace(base, why=f"not enough history (too few of its {known} bugs were known in time)")
    recent = [one for one in measured if one.metrics.nf and one.change.time <= now][-RECENT:]
    young = _labelled(recent, np.zeros(len(recent)), texts)
    chosen, reading = tried.chosen, {name for name, model in tried.parts[-1].models.items() if model.reads}
    if teach is not None and chosen in reading:
        if (read := teach(data)) is None:
            chosen = better({name: said for name, said in tried.ranked.items() if name not in reading})
        else:
            data, young = replace(data, readings=read(data)), replace(young, readings=read(young))
    fitted = fit(data)
    best = fitted.models[chosen]
    measures = report(tried) | {"chosen": chosen, "labelled": len(data), "recent": len(recent)}
    if guilty is not None and chosen not in METRICS_ONLY:
        measures |= {"lines": line_check(chosen, tried, guilty)}
    told = replace(
        best,
        known=known,
        needed=NEEDED,
        latency=latency,
        scores=_quantiles(_usual(chosen, fitted, young, set(data.shas))),
        sizes=_quantiles([one.metrics.la + one.metrics.ld for one in recent]),
        report={"until": now} | measures,
    )
    return _worth_it(told, tried.ranked[chosen])


def _usual(name: str, fitted: Fit, recent: Labelled, taught: set[str]) -> Sequence[float]:
    """Scores of the recent commits; of a model that reads, only where it was not taught them."""
    if name in METRICS_ONLY:
        return [fitted.models[name].score(one) for one in recent.metrics]
    fresh = recent.take([i for i, sha in enumerate(recent.shas) if sha not in taught])
    return [*fitted.usual[name], *_known(scores(fitted.models[name], fresh))]


def line_check(name: str, tried: Trial, of: Guilt) -> dict[str, Any]:
    """Whether the lines that weighed most in later commits are those that fixes changed: `guilt.check`."""
    guilty = of([sha for part in tried.parts for sha in part.block.shas])
    rows = []
    for part in tried.parts:
        for sha, change, metrics in zip(part.block.shas, part.block.changes, part.block.metrics, strict=True):
            if sha in guilty:
                found = read_text(part.models[name], change, metrics, tried.reader)
                rows.append(([line for line, _ in found.lines], guilty[sha]))
    return check(rows)


def read(
    history: History, repository: Repository, until: str, listen: Listener = lambda *_: None
) -> Known | None:
    """What is known at the commit `until` (an id); `history` holds its past already. None without commits."""
    measured = replay(history, repository, until)
    if not measured:
        return None
    found = szz.find(repository, until, load(repository), listen)
    texts = {one.sha: one.change for one in history.records(repository, until)}
    return Known(measured, found, latest(measured), texts, guilt(repository, found.verdicts))


def of_history(
    history: History,
    repository: Repository,
    until: str,
    listen: Listener = lambda *_: None,
    teach: Teach | None = None,
) -> Model:
    """The risk model from nothing but the commits up to `until` (an id); `history` holds them already."""
    known = read(history, repository, until, listen)
    if known is None:
        return Model(why="not enough history (no commit to learn from)", needed=NEEDED)
    return train(known.measured, known.found, known.now, known.texts, teach, known.guilty)


def _quantiles(values: Sequence[float]) -> tuple[float, ...]:
    """Evenly spaced quantiles, from the smallest to the largest value."""
    return tuple(map(float, np.quantile(np.array(values, dtype=float), np.linspace(0, 1, _QUANTILES))))


def _worth_it(model: Model, said: Ranked) -> Model:
    """A score that is no better than chance on later commits is not shown to anybody."""
    auc = summary(said)["auc"]
    if not auc.low > 0.5:
        why = f"no score beats chance on later commits (AUC {auc.mean:.2f}, {auc.low:.2f}-{auc.high:.2f})"
        return Model(
            why=why, known=model.known, needed=model.needed, latency=model.latency, report=model.report
        )
    return model


def report(tried: Trial) -> dict[str, Any]:
    """What was measured, in plain values: by model, each metric with its interval."""
    found = {
        name: {metric: _plain(interval) for metric, interval in summary(one).items()}
        for name, one in tried.ranked.items()
    }
    one = tried.ranked[tried.chosen]
    return {"chosen": tried.chosen, "n": len(one), "buggy": int(one.truth.sum()), "test": found}


def _plain(interval: Any) -> list[float | None]:
    return [None if math.isnan(x) else round(float(x), 4) for x in interval]
