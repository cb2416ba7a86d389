"""Evaluates a model before it is installed: chooses its reranker on validation commits, and scores it on test
commits beside the baseline of the nearest neighbour."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import NamedTuple

from gitpeft.bundle.bundle import Manifest
from gitpeft.learn.data.dataset import Dataset
from gitpeft.learn.data.style import MessageStyle
from gitpeft.learn.evaluation import text_metrics, trial
from gitpeft.learn.evaluation.kept_answers import AnswerFolder
from gitpeft.learn.evaluation.reranker import RerankerChoice, choose_reranker
from gitpeft.learn.evaluation.text_metrics import MetricScores, score_messages
from gitpeft.learn.evaluation.trial import TrialLimit
from gitpeft.suggest.reranker import Reranker
from gitpeft.suggest.reranker_features import RETRIEVED

MAX_VALIDATION_COMMITS, MAX_TEST_COMMITS, MIN_VALIDATION_COMMITS = 200, 200, 20
"""How many validation and test examples a run evaluates on, drawn at random when there are more, and how many
validation examples are needed to choose a reranker."""

MAX_CAUSAL_VALIDATION, MAX_CAUSAL_TEST = 120, 60
"""The same of a causal language model, which takes up to a second for each."""

EVERYTHING = "gitpeft, always offering"
"""The system that offers its first message whatever its score."""

CountListener = Callable[[int, int], None]
"""Called with how many commits of how many were evaluated."""

_RETRIEVAL_RERANKER = Reranker(mode=RETRIEVED)


@dataclass(frozen=True, slots=True)
class BundleDraft:
    """A model that has no bundle yet: its manifest so far, and the folder of its ONNX files.

    `files` is None for retrieval alone; `adapter` is the folder of PEFT's files, `reranker` the base's.
    """

    manifest: Manifest
    files: Path | None = None
    adapter: Path | None = None
    reranker: Reranker = _RETRIEVAL_RERANKER

    @property
    def causal(self) -> bool:
        """Whether it is a causal language model."""
        return self.files is not None and self.manifest.reads_prompts


class SampleMessage(NamedTuple):
    """The short id of a commit, the team's message, and the message that the model would have put first."""

    sha: str
    reference: str
    suggestion: str


@dataclass(frozen=True, slots=True)
class MeasuredMessages:
    """Scores by system on the newest commits, and some samples; both are empty where no commit is left."""

    scores: Mapping[str, MetricScores] = field(default_factory=dict)
    samples: tuple[SampleMessage, ...] = ()

    @property
    def n(self) -> int:
        """How many commits were asked about."""
        return max((scores.n for scores in self.scores.values()), default=0)

    def as_dict(self) -> dict[str, dict[str, object]]:
        """The scores for JSON, by system."""
        return {system: scores.as_dict() for system, scores in self.scores.items()}


def choose_on_validation(
    draft: BundleDraft,
    data: Dataset,
    style: MessageStyle,
    listen: CountListener,
    limit: TrialLimit,
    answers: AnswerFolder | None = None,
) -> RerankerChoice | None:
    """The reranker that is best on validation; None where there is no model, or too little to validate on.

    Each commit is treated as in the hook: those before it are among the exemplars. What is in `answers` is
    not asked again.
    """
    examples = trial.sample_examples(data.valid, limit.most, seed=1)
    if draft.files is None or len(examples) < MIN_VALIDATION_COMMITS:
        return None
    index = data.index_before(data.first_valid)
    with trial.open_trial_suggester(draft.manifest, draft.files, index, style, draft.reranker) as suggester:
        kept = answers.open(suggester.bundle.manifest, data.valid) if answers else None
        asked = trial.collect_candidates(suggester, examples, listen, data.valid, limit, kept)
    return choose_reranker(asked, draft.reranker)


def count_validated(causal: bool) -> int:
    """On how many commits the reranker of a model is fitted at most."""
    return MAX_CAUSAL_VALIDATION if causal else MAX_VALIDATION_COMMITS


def count_tested(causal: bool) -> int:
    """On how many commits a model is tested at most."""
    return MAX_CAUSAL_TEST if causal else MAX_TEST_COMMITS


def measure_on_test(
    draft: BundleDraft,
    data: Dataset,
    style: MessageStyle,
    reranker: Reranker,
    listen: CountListener,
    limit: TrialLimit,
    answers: AnswerFolder | None = None,
) -> MeasuredMessages:
    """Score a model and its baseline, the nearest neighbour, on some of the newest commits.

    Three of the commits are kept as samples: best, median and worst by the keystrokes saved. What is in
    `answers` is not asked again.
    """
    examples = trial.sample_examples(data.test, limit.most, seed=2)
    if not examples:
        return MeasuredMessages()
    index = data.index_before(data.first_test)
    found = []
    if draft.files is not None:
        with trial.open_trial_suggester(draft.manifest, draft.files, index, style, reranker) as suggester:
            kept = answers.open(suggester.bundle.manifest, ()) if answers else None
            found = trial.collect_candidates(suggester, examples, listen, (), limit, kept)
        examples = [one.example for one in found]
    references = [example.message for example in examples]
    ours = nearest = trial.nearest_messages(index, examples)
    scores: dict[str, MetricScores] = {}
    if found:
        scores["gitpeft"] = score_messages([one.offered_message(reranker) for one in found], references)
        ours = [one.offered_message(reranker, least=0.0) for one in found]
        if reranker.threshold is not None:
            scores[EVERYTHING] = score_messages(ours, references)
    scores["nearest neighbour"] = score_messages(nearest, references)
    quality = text_metrics.keystrokes_saved(ours, references)
    ranked = sorted(range(len(examples)), key=lambda place: -quality[place])
    chosen = dict.fromkeys((ranked[0], ranked[len(ranked) // 2], ranked[-1]))
    samples = (SampleMessage(examples[i].sha[:10], references[i], ours[i]) for i in chosen)
    return MeasuredMessages(scores, tuple(samples))
