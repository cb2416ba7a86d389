"""Compares a freshly trained challenger with the installed champion, for messages and for risk separately.

    messages   keystrokes saved by the first suggestion of each model, on the newest commits that neither was
               trained or validated on; both see the exemplars known at that time, as in the hook
    risk       ROC AUC on the newest commits that were labelled after the installed score was fitted; where
               there are too few bugs or too few clean commits for an AUC, the Brier score

The challenger wins if its score is better; on a tie the champion stays. The difference is paired by commit
and has a 95 % bootstrap interval, which is stored with the verdict.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from statistics import fmean as mean

import numpy as np

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Bundle
from gitpeft.history.step_share import make_part_listener
from gitpeft.learn.data.dataset import Dataset, Example
from gitpeft.learn.evaluation import ranking_metrics, text_metrics, trial
from gitpeft.learn.evaluation.messages import BundleDraft, MeasuredMessages
from gitpeft.learn.evaluation.ranking_metrics import RankedCommits
from gitpeft.learn.results import CandidateModel
from gitpeft.learn.risk import labelled_history, relabel, selection
from gitpeft.learn.risk.classifiers import LabelledCommits, add_encoder_readings, rank_commits
from gitpeft.learn.risk.labelled_history import LabelledHistory
from gitpeft.learn.training.finetune import ProgressListener
from gitpeft.risk.encoder import OnnxRiskEncoder
from gitpeft.risk.model import RiskModel
from gitpeft.suggest.reranker import Reranker

MAX_TEST_COMMITS = 200
"""Commits that both models are evaluated on, at most."""

MIN_TEST_COMMITS = 20
"""Commits below which two models are not compared."""

MIN_COMMITS_PER_CLASS = 10
"""Buggy commits and clean commits, each, below which an AUC has too wide an interval to decide by."""

MIN_EXPECTED_BUGS = 5
"""Where none of the commits is a known bug, the score with the lower probabilities always wins. Such commits
are only compared on if the installed score predicted at least this many bugs in them."""

HELD_OUT_SHARE = 0.5
"""Of the commits that the installed model was not trained on, the share (the newest) that is tested on."""

SAVED, AUC, BRIER = "keystrokes saved (%)", "AUC", "Brier score"
_METRIC_DIGITS = {SAVED: 1, AUC: 3, BRIER: 4}


@dataclass(frozen=True, slots=True)
class ChallengeResult:
    """A metric of both models on `n` commits, and challenger minus champion with its 95 % interval."""

    metric: str
    n: int
    champion: float
    challenger: float
    difference: float
    low: float
    high: float

    @property
    def won(self) -> bool:
        """Whether the challenger is better at the precision that is shown; for the Brier score, lower is."""
        return self._gain > 0

    @property
    def _gain(self) -> float:
        """The improvement, rounded as it is shown."""
        gain = -self.difference if self.metric == BRIER else self.difference
        return round(gain, _METRIC_DIGITS[self.metric])

    def as_sentence(self) -> str:
        """The verdict for people: the paired difference, not two values that invite other comparisons."""
        digits = _METRIC_DIGITS[self.metric]
        difference, low, high = (f"{value:+.{digits}f}" for value in (self.difference, self.low, self.high))
        significant = self.low > 0 or self.high < 0
        outcome = "a tie" if self._gain == 0 else "significant" if significant else "not significant"
        name = f"{self.metric} (lower is better)" if self.metric == BRIER else self.metric
        return (
            f"{name} {difference} ({low} to {high}) on {self.n} commits that neither model was trained on, "
            f"{outcome}"
        )


@dataclass(frozen=True, slots=True)
class ChallengeVerdict:
    """Whether a task's challenger replaces the champion, why, and the measurement if there was one."""

    won: bool
    reason: str
    result: ChallengeResult | None = None

    @classmethod
    def from_result(cls, result: ChallengeResult) -> "ChallengeVerdict":
        """The verdict that follows from a measurement."""
        return cls(result.won, result.as_sentence(), result)

    def as_dict(self) -> dict[str, object]:
        """For manifests and JSON, where the measurement is called `duel`."""
        duel = asdict(self.result) if self.result else None
        return {"won": self.won, "reason": self.reason, "duel": duel}


# --- messages -----------------------------------------------------------------------------------------------


def compare_message_models(
    champion: Bundle,
    challenger: CandidateModel,
    data: Dataset,
    listen: ProgressListener,
    most: int = MAX_TEST_COMMITS,
) -> tuple[ChallengeVerdict, MeasuredMessages]:
    """Compare by the keystrokes saved on at most `most` of `data.test`; also the scores of both models."""
    from gitpeft.learn.evaluation.text_metrics import keystrokes_saved, paired_bootstrap

    manifest = champion.manifest
    reranker = Reranker.from_data(champion.read_json(bundles.RERANKER_FILE), manifest.kind)
    installed = BundleDraft(manifest, champion.path, None, reranker)
    examples = trial.sample_examples(data.test, most, seed=2)
    references = [example.message for example in examples]
    old = _suggest_first(installed, reranker, champion.read_json(bundles.STYLE_FILE), data, examples, listen)
    selected = challenger.selected
    new = _suggest_first(selected.draft, selected.reranker, challenger.style, data, examples, listen)
    measured = {
        "gitpeft": text_metrics.score_messages(new, references),
        "installed model": text_metrics.score_messages(old, references),
    }
    scores = keystrokes_saved(new, references), keystrokes_saved(old, references)
    difference = paired_bootstrap(*scores, seed=0)
    result = ChallengeResult(SAVED, len(examples), mean(scores[1]), mean(scores[0]), *difference)
    return ChallengeVerdict.from_result(result), MeasuredMessages(measured)


def _suggest_first(
    draft: BundleDraft,
    reranker: Reranker,
    style: Mapping[str, object],
    data: Dataset,
    examples: Sequence[Example],
    listen: ProgressListener,
) -> list[str]:
    """A model's first suggestion for each example."""
    assert draft.files is not None
    index, count = data.index_before(data.first_test), make_part_listener(partial(listen, "measure"))
    with trial.open_trial_suggester(draft.manifest, draft.files, index, style, reranker) as suggester:
        return [
            one.offered_message(reranker, least=0.0)
            for one in trial.collect_candidates(suggester, examples, count, since=data.test)
        ]


# --- risk ---------------------------------------------------------------------------------------------------


def compare_risk_models(
    installed: RiskModel,
    until: float,
    contender: RiskModel,
    known: LabelledHistory,
    reader: OnnxRiskEncoder | None = None,
) -> ChallengeVerdict:
    """Compare two risk scores on the newest half of the commits that were labelled after `until`.

    `until` (unix seconds) is when the installed score was fitted. The `contender` was fitted on all labels
    known now, so a copy of it that is fitted without the test commits is measured in its place. A score
    that is not usable gives every commit the same probability. `reader` is the encoder of the installed
    score, if it has one; for the copy no encoder is tuned.
    """
    if not installed.is_usable:
        return ChallengeVerdict(True, "the first usable risk score of this repository")
    labelled = relabel.select_newly_labelled(known, until)
    held = labelled.take(slice(len(labelled) - int(HELD_OUT_SHARE * len(labelled)), None))
    held = add_encoder_readings(reader, held)
    if reason := _explain_no_comparison(installed, held):
        return ChallengeVerdict(False, f"the installed score stays: {reason}")
    unseen = set(held.shas)
    rest = [one for one in known.measured if one.sha not in unseen]
    copy = (
        selection.train_risk_model(rest, known.found, known.now, known.texts)
        if contender.is_usable
        else contender
    )
    base_rate = float(labelled_history.label_commits(rest, known.found, known.now).truth.mean())
    new, old = _rank_or_constant(copy, held, base_rate), _rank_or_constant(installed, held, base_rate)
    bugs = int(held.truth.sum())
    name, metric = (AUC, "auc") if min(bugs, len(held) - bugs) >= MIN_COMMITS_PER_CLASS else (BRIER, "brier")
    measure = ranking_metrics.RANKING_METRICS[metric]
    difference = ranking_metrics.bootstrap_difference(new, old, metric)
    return ChallengeVerdict.from_result(
        ChallengeResult(name, len(held), measure(old), measure(new), *difference)
    )


def _explain_no_comparison(installed: RiskModel, held: LabelledCommits) -> str:
    """Why these commits cannot decide between two scores; "" where they can."""
    if len(held) < MIN_TEST_COMMITS:
        return f"only {len(held)} commits to compare on since it was fitted, {MIN_TEST_COMMITS} are needed"
    if held.truth.any():
        return ""
    predicted = float(_rank_or_constant(installed, held, 0.0).chances.sum())
    if predicted >= MIN_EXPECTED_BUGS:
        return ""
    return (
        f"none of the {len(held)} commits since it was fitted is a known bug, {predicted:.1f} were predicted"
    )


def _rank_or_constant(model: RiskModel, data: LabelledCommits, base_rate: float) -> RankedCommits:
    """The model's ranking; of an unusable one, the same score and probability for every commit."""
    if model.is_usable:
        return rank_commits(model, data)
    return RankedCommits(data.truth, np.zeros(len(data)), np.full(len(data), base_rate), data.effort)
