"""Which of two models is better, each task on its own: hides on which commits they fight, and by what.

    messages   B-Norm of what each would have put first, on the newest commits that neither was taught or
               chosen by; both see the exemplars of that day, as the hook would show them
    risk       ROC AUC on the newest commits whose fate the installed score did not know when it was fitted;
               where too few of them are bugs to rank by, the Brier score, which takes any

The challenger wins if it is at least as good. The difference has a 95 % interval (paired bootstrap), which
is kept: a win within the noise is called one.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from statistics import fmean as mean
from typing import Any

import numpy as np

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Bundle
from gitpeft.learn.data.dataset import Dataset, Example
from gitpeft.learn.evaluation import messages, ranking_metrics, trial
from gitpeft.learn.evaluation.messages import Made
from gitpeft.learn.evaluation.ranking_metrics import Ranked
from gitpeft.learn.pipeline import Candidate
from gitpeft.learn.risk import relabel, selection
from gitpeft.learn.risk.classifiers import Labelled, ranked, read_by
from gitpeft.learn.risk.selection import Known
from gitpeft.learn.training.finetune import Listener
from gitpeft.risk.encoder import Reader
from gitpeft.risk.model import Model
from gitpeft.suggest.reranker import Chooser

MOST = 200
"""How many commits are asked about at most."""

LEAST = 20
"""A duel needs this many commits."""

BUGS_LEAST = 10
"""Commits of each kind, buggy and clean, without which the AUC of risk scores says too little."""

PROMISED_LEAST = 5
"""Where no commit is a bug, the score that says less always wins: no duel, unless so many were promised."""

SHARE_HELD = 0.5
"""Of what the installed model was not taught, the share (the newest) that is fought on."""

B_NORM, AUC, BRIER = "B-Norm", "AUC", "Brier score"
_DIGITS = {B_NORM: 1, AUC: 3, BRIER: 4}


@dataclass(frozen=True, slots=True)
class Duel:
    """Both models' values of a metric on `n` commits, and challenger minus champion with its interval."""

    metric: str
    n: int
    champion: float
    challenger: float
    difference: float
    low: float
    high: float

    @property
    def won(self) -> bool:
        """Whether the challenger is at least as good; of Brier scores the lower is better."""
        return self.difference <= 0 if self.metric == BRIER else self.difference >= 0

    def sentence(self) -> str:
        """The verdict for people."""
        clear = "clear of" if self.low > 0 or self.high < 0 else "within"
        digits = _DIGITS[self.metric]
        return (
            f"{self.metric} {self.challenger:.{digits}f} against {self.champion:.{digits}f} "
            f"on {self.n} commits that neither has seen: {self.difference:+.{digits}f} "
            f"({self.low:+.{digits}f} to {self.high:+.{digits}f}), {clear} the noise"
        )


@dataclass(frozen=True, slots=True)
class Verdict:
    """Whether a task's challenger may take the champion's place, why, and the duel if one was held."""

    won: bool
    reason: str
    duel: Duel | None = None

    @classmethod
    def of(cls, duel: Duel) -> "Verdict":
        """What a duel says."""
        return cls(duel.won, duel.sentence(), duel)


# --- messages -----------------------------------------------------------------------------------------------


def message(champion: Bundle, challenger: Candidate, data: Dataset, listen: Listener) -> Verdict:
    """Both on the newest commits, with the exemplars of that day; leaves the scores in the outcome."""
    from gitpeft.learn.evaluation.text_metrics import b_norm, paired_bootstrap

    manifest = champion.manifest
    chooser = Chooser.of(champion.json(bundles.CHOOSER), manifest.kind)
    theirs = Made(manifest, champion.path, None, chooser)
    examples = trial.sample(data.test, MOST, seed=2)
    references = [example.message for example in examples]
    old = _offered(theirs, chooser, champion.json(bundles.STYLE), data, examples, listen)
    new = _offered(challenger.made, challenger.chooser, challenger.habits, data, examples, listen)
    challenger.outcome.test = {
        "gitpeft": messages.scores(new, references),
        "installed model": messages.scores(old, references),
    }
    scores = b_norm(new, references), b_norm(old, references)
    difference = paired_bootstrap(*scores, seed=0)
    return Verdict.of(Duel(B_NORM, len(examples), mean(scores[1]), mean(scores[0]), *difference))


def _offered(
    made: Made,
    chooser: Chooser,
    habits: dict[str, Any],
    data: Dataset,
    examples: Sequence[Example],
    listen: Listener,
) -> list[str]:
    """What a model would have put first."""

    def heard(done: int, total: int) -> None:
        listen("measure", done / total, f"{done}/{total} commits")

    assert made.files is not None
    index = data.index_before(data.first_test)
    with trial.trial(made.manifest, made.files, index, habits) as suggester:
        return [one.offered(chooser) for one in trial.ask(suggester, examples, heard, since=data.test)]


# --- risk ---------------------------------------------------------------------------------------------------


def risk(
    installed: Model, until: float, contender: Model, known: Known, reader: Reader | None = None
) -> Verdict:
    """Both scores on the newest half of the commits that were judged after the moment `until`.

    `until` (unix seconds) is when the installed score was fitted. The `contender` was fitted on everything
    that is known now, which is what ships; a twin of it that has not seen those commits fights in its place.
    A score that is not usable gives every commit the same chance. `reader` is the installed score's, if it
    has one; for the twin no encoder is tuned.
    """
    if not installed.usable:
        return Verdict(True, "the first score that holds here")
    judged = relabel.judged_since(known, until)
    held = judged.take(slice(len(judged) - int(SHARE_HELD * len(judged)), None))
    if len(held) < LEAST:
        said = f"{len(held)} commits were judged since that it can be compared on, {LEAST} are needed"
        return Verdict(False, f"the installed score stays: {said}")
    held, bad = read_by(reader, held), int(held.truth.sum())
    if not bad and (promised := float(_said(installed, held, 0.0).chances.sum())) < PROMISED_LEAST:
        said = (
            f"none of the {len(held)} commits judged since is a known bug, and {promised:.1f} were promised"
        )
        return Verdict(False, f"the installed score stays: {said}")
    unseen = set(held.shas)
    rest = [one for one in known.measured if one.sha not in unseen]
    twin = selection.train(rest, known.found, known.now, known.texts) if contender.usable else contender
    usual = float(selection.label(rest, known.found, known.now).truth.mean())
    new, old = _said(twin, held, usual), _said(installed, held, usual)
    name, metric = (AUC, "auc") if min(bad, len(held) - bad) >= BUGS_LEAST else (BRIER, "brier")
    ask = ranking_metrics.METRICS[metric]
    return Verdict.of(
        Duel(name, len(held), ask(old), ask(new), *ranking_metrics.difference(new, old, metric))
    )


def _said(model: Model, data: Labelled, usual: float) -> Ranked:
    if model.usable:
        return ranked(model, data)
    return Ranked(data.truth, np.zeros(len(data)), np.full(len(data), usual), data.effort)
