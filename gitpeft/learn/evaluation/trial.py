"""What a model would have suggested for unseen commits, each with the exemplars of its day."""

import json
import math
import random
import shutil
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Manifest
from gitpeft.learn.data.dataset import Example
from gitpeft.learn.evaluation.kept_answers import KeptAnswers
from gitpeft.learn.evaluation.text_metrics import keystrokes_saved
from gitpeft.suggest import recent_exemplars
from gitpeft.suggest.reranker import MessageCandidate, Reranker
from gitpeft.suggest.reranker_features import GIVEN
from gitpeft.suggest.retrieval import CommitIndex
from gitpeft.suggest.suggester import Suggester
from gitpeft.suggest.terms import IndexEntry


@dataclass(frozen=True, slots=True)
class ExampleCandidates:
    """An example and the candidates that a model has for it.

    `given` are messages that it did not propose, judged like these: from them too a reranker can learn what
    messages are worth.
    """

    example: Example
    found: tuple[MessageCandidate, ...]
    given: tuple[MessageCandidate, ...] = ()

    def offered_message(self, reranker: Reranker, least: float | None = None) -> str:
        """The message that this reranker would have put first, "" if none reaches `least` (its threshold)."""
        best = reranker.rank_candidates(self.found, least)
        return best[0][1].message if best else ""


@dataclass(frozen=True, slots=True)
class TrialLimit:
    """How many examples are asked about: `most`, as long as `seconds` last, and `least` in any case."""

    most: int
    seconds: float = math.inf
    least: int = 20


@contextmanager
def open_trial_suggester(
    manifest: Manifest,
    files: Path,
    index: CommitIndex,
    style: Mapping[str, object],
    reranker: Reranker | None = None,
) -> Iterator[Suggester]:
    """A suggester from exported files and an index (none if empty), in a temporary bundle.

    With a `reranker`, the model weighs the candidates that come first by it.
    """
    with tempfile.TemporaryDirectory(prefix="gitpeft-trial-") as scratch:
        state = Path(scratch)
        with bundles.staging_folder(state) as folder:
            copy_model_files(files, folder)
            if len(index):
                (folder / bundles.INDEX_FOLDER).mkdir()
                index.save(folder / bundles.INDEX_FOLDER)
            (folder / bundles.STYLE_FILE).write_text(json.dumps(style))
            if reranker is not None:
                (folder / bundles.RERANKER_FILE).write_text(json.dumps(asdict(reranker)))
            id_ = bundles.write_bundle(folder, manifest)
        yield Suggester(bundles.activate_bundle(state, id_), weighs_all=reranker is None)


def copy_model_files(files: Path, folder: Path) -> None:
    """The ONNX files, weights and tokenizer of an exported model, into a bundle's folder.

    Weights that are a file of their own are linked where that is possible: a file of a bundle never changes.
    """
    if (files / bundles.WEIGHTS_FILE).is_file():
        _link_file(files / bundles.WEIGHTS_FILE, folder / bundles.WEIGHTS_FILE)
    else:
        shutil.copyfile(files / bundles.ENCODER_FILE, folder / bundles.ENCODER_FILE)
    for name in (*bundles.CAUSAL_GRAPHS, bundles.TOKENIZER_FILE):
        if (files / name).is_file():
            shutil.copyfile(files / name, folder / name)


def _link_file(source: Path, target: Path) -> None:
    try:
        target.hardlink_to(source)
    except OSError:
        shutil.copyfile(source, target)


def collect_candidates(
    suggester: Suggester,
    examples: Sequence[Example],
    on_step: Callable[[int, int], None] | None = None,
    since: Sequence[Example] = (),
    limit: TrialLimit | None = None,
    kept: KeptAnswers | None = None,
    given: Mapping[str, Sequence[str]] | None = None,
) -> list[ExampleCandidates]:
    """Every candidate for every example.

    `since` are all examples that are not in the suggester's index, oldest first: for each example those
    before it are indexed, as many as the hook looks back. With a `limit` whose time runs out, only a random
    part of the examples, in their order. What is `kept` of an earlier trial is not asked again, and where
    that one came to its end nothing is. By commit, messages can be `given` to be judged beside the
    candidates.
    """
    start, asked = time.monotonic(), dict[int, ExampleCandidates]()
    places = range(len(examples))
    order = random.Random(0).sample(places, len(places)) if limit else list(places)
    known = entries_known_before([examples[place] for place in order], since)
    most = kept.count_asked() if kept else 0
    for place, before in zip(order, known, strict=True):
        if most and len(asked) >= most:
            break
        example = examples[place]
        answer = kept.find(example) if kept else None
        if answer is None:
            if limit and len(asked) >= limit.least and time.monotonic() - start >= limit.seconds:
                break
            if since:
                suggester.index_recent_commits(before)
            more = (given or {}).get(example.sha, ())
            answer = tuple(suggester.collect_candidates(example.change, example.previous, given=more))
            if kept:
                kept.add(example, answer)
        found = tuple(one for one in answer if one.origin != GIVEN)
        asked[place] = ExampleCandidates(example, found, answer[len(found) :])
        if on_step:
            on_step(len(asked), len(examples))
    if kept and not most:
        kept.close(len(asked))
    return [asked[place] for place in sorted(asked)]


def sample_examples(examples: Sequence[Example], most: int, seed: int) -> list[Example]:
    """At most `most` examples, drawn at random, in their order."""
    if len(examples) <= most:
        return list(examples)
    return [examples[i] for i in sorted(random.Random(seed).sample(range(len(examples)), most))]


def score_reranker(asked: Sequence[ExampleCandidates], reranker: Reranker) -> list[float]:
    """The keystrokes (%) that what the reranker puts first saves, whatever its score; 0 for nothing."""
    offers = [one.offered_message(reranker, least=0.0) for one in asked]
    return keystrokes_saved(offers, [one.example.message for one in asked])


def nearest_messages(
    index: CommitIndex, examples: Sequence[Example], since: Sequence[Example] = ()
) -> list[str]:
    """The baseline: the message of the most similar commit of the index, "" when none is similar at all.

    `since` as in `collect_candidates`.
    """
    known = (
        index.with_later_commits(before) if since else index
        for before in entries_known_before(examples, since)
    )
    near = [
        one.find_nearest(example.change, 1, recency_weight=0)
        for one, example in zip(known, examples, strict=True)
    ]
    return [found[0].subject if found else "" for found in near]


def entries_known_before(examples: Sequence[Example], since: Sequence[Example]) -> Iterator[list[IndexEntry]]:
    """For each example those of `since` that came before it, at most as many as the hook looks back."""
    entries = [recent_exemplars.build_index_entry(one.sha, one.message, one.change) for one in since]
    place = {one.sha: i for i, one in enumerate(since)}
    for example in examples:
        at = place.get(example.sha, 0)
        yield entries[max(0, at - recent_exemplars.MAX_RECENT_COMMITS) : at]
