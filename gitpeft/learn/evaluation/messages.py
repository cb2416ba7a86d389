"""How good a model is before it is shipped: hides which commits are asked, and against what they are held."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from gitpeft.bundle.bundle import Manifest
from gitpeft.learn.data.dataset import Dataset
from gitpeft.learn.evaluation import reranker as choosers
from gitpeft.learn.evaluation import trial
from gitpeft.suggest.reranker import Reranker
from gitpeft.suggest.reranker_features import RETRIEVED

MAX_VALIDATION_COMMITS, MAX_TEST_COMMITS, MIN_VALIDATION_COMMITS = 200, 200, 20
"""How many validation and test examples are asked in a run, drawn at random when there are more, and how
few validation examples are too few to choose by."""

CountListener = Callable[[int, int], None]
"""Hears how many commits of how many were asked."""

_RETRIEVAL_RERANKER = Reranker(mode=RETRIEVED)


@dataclass(frozen=True, slots=True)
class BundleDraft:
    """A model on the way to its bundle: what the manifest says so far, and the folder of its ONNX files.

    `files` is None for retrieval alone; `adapter` is the folder of PEFT's files, `chooser` the default one.
    """

    manifest: Manifest
    files: Path | None = None
    adapter: Path | None = None
    chooser: Reranker = _RETRIEVAL_RERANKER


def choose_on_validation(
    made: BundleDraft, data: Dataset, habits: dict[str, Any], asking: CountListener
) -> choosers.RerankerChoice | None:
    """The chooser that validation prefers; None where there is no model, or too little to validate on.

    Each validation commit is asked about as in the hook: with those before it among the exemplars.
    """
    examples = trial.sample_examples(data.valid, MAX_VALIDATION_COMMITS, seed=1)
    if made.files is None or len(examples) < MIN_VALIDATION_COMMITS:
        return None
    index = data.index_before(data.first_valid)
    with trial.open_trial_suggester(made.manifest, made.files, index, habits) as suggester:
        asked = trial.collect_candidates(suggester, examples, asking, since=data.valid)
    return choosers.choose_reranker(asked, made.chooser)


def measure_on_test(
    made: BundleDraft,
    data: Dataset,
    habits: dict[str, Any],
    chooser: Reranker,
    asking: CountListener,
    most: int = MAX_TEST_COMMITS,
) -> tuple[dict[str, Any], list[tuple[str, str, str]]]:
    """Scores by system on at most `most` of the newest commits, the nearest neighbour's among them.

    Also three samples: a commit's id, the team's message, ours. Both empty where no commit is left to ask.
    """
    examples = trial.sample_examples(data.test, most, seed=2)
    if not examples:
        return {}, []
    index = data.index_before(data.first_test)
    references = [example.message for example in examples]
    ours = nearest = trial.nearest_messages(index, examples)
    test: dict[str, Any] = {}
    if made.files is not None:
        with trial.open_trial_suggester(made.manifest, made.files, index, habits) as suggester:
            ours = [
                one.offered_message(chooser) for one in trial.collect_candidates(suggester, examples, asking)
            ]
        test["gitpeft"] = summarise_message_scores(ours, references)
    test["nearest neighbour"] = summarise_message_scores(nearest, references)
    triples = list(zip([example.sha[:10] for example in examples], references, ours, strict=True))
    return test, triples[:: max(1, len(triples) // 3)][:3]


def summarise_message_scores(hypotheses: Sequence[str], references: Sequence[str]) -> dict[str, object]:
    """Every metric that can be computed here, with its interval."""
    from gitpeft.learn.evaluation import text_metrics

    names = (
        text_metrics.TEXT_METRICS
        if find_spec("rapidfuzz") and find_spec("rouge_score")
        else ("b_norm", "first_word")
    )
    values = {name: text_metrics.TEXT_METRICS[name](hypotheses, references) for name in names}
    return text_metrics.MetricScores.from_metrics(values).to_json()
