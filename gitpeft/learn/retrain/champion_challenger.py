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
from gitpeft.learn.evaluation.messages import BundleDraft
from gitpeft.learn.evaluation.ranking_metrics import RankedCommits
from gitpeft.learn.pipeline import CandidateModel
from gitpeft.learn.risk import relabel, selection
from gitpeft.learn.risk.classifiers import LabelledCommits, add_encoder_readings, rank_commits
from gitpeft.learn.risk.selection import LabelledHistory
from gitpeft.learn.training.finetune import ProgressListener
from gitpeft.risk.encoder import OnnxRiskEncoder
from gitpeft.risk.model import RiskModel
from gitpeft.suggest.reranker import Reranker

MAX_TEST_COMMITS = 200
"""How many commits are asked about at most."""

MIN_TEST_COMMITS = 20
"""A duel needs this many commits."""

MIN_COMMITS_PER_CLASS = 10
"""Commits of each kind, buggy and clean, without which the AUC of risk scores says too little."""

MIN_EXPECTED_BUGS = 5
"""Where no commit is a bug, the score that says less always wins: no duel, unless so many were promised."""

HELD_OUT_SHARE = 0.5
"""Of what the installed model was not taught, the share (the newest) that is fought on."""

B_NORM, AUC, BRIER = "B-Norm", "AUC", "Brier score"
_METRIC_DIGITS = {B_NORM: 1, AUC: 3, BRIER: 4}


@dataclass(frozen=True, slots=True)
class ChallengeResult:
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

    def as_sentence(self) -> str:
        """The verdict for people."""
        clear = "clear of" if self.low > 0 or self.high < 0 else "within"
        digits = _METRIC_DIGITS[self.metric]
        return (
            f"{self.metric} {self.challenger:.{digits}f} against {self.champion:.{digits}f} "
            f"on {self.n} commits that neither has seen: {self.difference:+.{digits}f} "
            f"({self.low:+.{digits}f} to {self.high:+.{digits}f}), {clear} the noise"
        )


@dataclass(frozen=True, slots=True)
class ChallengeVerdict:
    """Whether a task's challenger may take the champion's place, why, and the duel if one was held."""

    won: bool
    reason: str
    duel: ChallengeResult | None = None

    @classmethod
    def from_result(cls, duel: ChallengeResult) -> "ChallengeVerdict":
        """What a duel says."""
        return cls(duel.won, duel.as_sentence(), duel)


# --- messages -----------------------------------------------------------------------------------------------


def compare_message_models(
    champion: Bundle, challenger: CandidateModel, data: Dataset, listen: ProgressListener
) -> ChallengeVerdict:
    """Both on the newest commits, with the exemplars of that day; leaves the scores in the outcome."""
    from gitpeft.learn.evaluation.text_metrics import b_norm, paired_bootstrap

    manifest = champion.manifest
    chooser = Reranker.from_data(champion.read_json(bundles.RERANKER_FILE), manifest.kind)
    theirs = BundleDraft(manifest, champion.path, None, chooser)
    examples = trial.sample_examples(data.test, MAX_TEST_COMMITS, seed=2)
    references = [example.message for example in examples]
    old = _collect_offers(theirs, chooser, champion.read_json(bundles.STYLE_FILE), data, examples, listen)
    new = _collect_offers(challenger.made, challenger.chooser, challenger.habits, data, examples, listen)
    challenger.outcome.test = {
        "gitpeft": messages.summarise_message_scores(new, references),
        "installed model": messages.summarise_message_scores(old, references),
    }
    scores = b_norm(new, references), b_norm(old, references)
    difference = paired_bootstrap(*scores, seed=0)
    return ChallengeVerdict.from_result(
        ChallengeResult(B_NORM, len(examples), mean(scores[1]), mean(scores[0]), *difference)
    )


def _collect_offers(
    made: BundleDraft,
    chooser: Reranker,
    habits: dict[str, Any],
    data: Dataset,
    examples: Sequence[Example],
    listen: ProgressListener,
) -> list[str]:
    """What a model would have put first."""

    def report_progress(done: int, total: int) -> None:
        listen("measure", done / total, f"{done}/{total} commits")

    assert made.files is not None
    index = data.index_before(data.first_test)
    with trial.open_trial_suggester(made.manifest, made.files, index, habits) as suggester:
        return [
            one.offered_message(chooser)
            for one in trial.collect_candidates(suggester, examples, report_progress, since=data.test)
        ]


# --- risk ---------------------------------------------------------------------------------------------------


def compare_risk_models(
    installed: RiskModel,
    until: float,
    contender: RiskModel,
    known: LabelledHistory,
    reader: OnnxRiskEncoder | None = None,
) -> ChallengeVerdict:
    """Both scores on the newest half of the commits that were judged after the moment `until`.

    `until` (unix seconds) is when the installed score was fitted. The `contender` was fitted on everything
    that is known now, which is what ships; a twin of it that has not seen those commits fights in its place.
    A score that is not usable gives every commit the same chance. `reader` is the installed score's, if it
    has one; for the twin no encoder is tuned.
    """
    if not installed.is_usable:
        return ChallengeVerdict(True, "the first score that holds here")
    judged = relabel.select_newly_labelled(known, until)
    held = judged.take(slice(len(judged) - int(HELD_OUT_SHARE * len(judged)), None))
    if len(held) < MIN_TEST_COMMITS:
        said = (
            f"{len(held)} commits were judged since that it can be compared on, {MIN_TEST_COMMITS} are needed"
        )
        return ChallengeVerdict(False, f"the installed score stays: {said}")
    held, bad = add_encoder_readings(reader, held), int(held.truth.sum())
    if (
        not bad
        and (promised := float(_rank_or_constant(installed, held, 0.0).chances.sum())) < MIN_EXPECTED_BUGS
    ):
        said = (
            f"none of the {len(held)} commits judged since is a known bug, and {promised:.1f} were promised"
        )
        return ChallengeVerdict(False, f"the installed score stays: {said}")
    unseen = set(held.shas)
    rest = [one for one in known.measured if one.sha not in unseen]
    twin = (
        selection.train_risk_model(rest, known.found, known.now, known.texts)
        if contender.is_usable
        else contender
    )
    usual = float(selection.label_commits(rest, known.found, known.now).truth.mean())
    new, old = _rank_or_constant(twin, held, usual), _rank_or_constant(installed, held, usual)
    name, metric = (AUC, "auc") if min(bad, len(held) - bad) >= MIN_COMMITS_PER_CLASS else (BRIER, "brier")
    ask = ranking_metrics.RANKING_METRICS[metric]
    return ChallengeVerdict.from_result(
        ChallengeResult(
            name, len(held), ask(old), ask(new), *ranking_metrics.bootstrap_difference(new, old, metric)
        )
    )


def _rank_or_constant(model: RiskModel, data: LabelledCommits, usual: float) -> RankedCommits:
    if model.is_usable:
        return rank_commits(model, data)
    return RankedCommits(data.truth, np.zeros(len(data)), np.full(len(data), usual), data.effort)
