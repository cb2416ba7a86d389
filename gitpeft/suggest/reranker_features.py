"""The features of candidate messages that the reranker weighs."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cached_property

from gitpeft.diff.compact import split_compact
from gitpeft.diff.grounding import measure_grounding
from gitpeft.lazy import lazy_dataclass, lazy_pattern
from gitpeft.suggest.change_view import ChangeView
from gitpeft.suggest.checks import find_ungrounded, list_foreign_stems, measure_verb_fit
from gitpeft.suggest.consensus import compute_consensus
from gitpeft.suggest.side_checks import is_vague, measure_edited_share
from gitpeft.suggest.team_wording import TeamWording

GENERATED, RETRIEVED, ANALOGY, DESCRIBED = "generated", "retrieved", "analogy", "described"
GIVEN = "given"

WEIGHED_FEATURES = (
    "is_weighed",
    "weighed_likelihood",
    "weighed_surprise",
    "information",
    "information_rate",
    "probe",
)
"""Those that only a candidate has that the model has weighed: they decide what it is worth, and not whether
it is weighed."""

RERANKER_FEATURES = (
    "words",
    "off_length",
    "is_retrieved",
    "is_exemplar",
    "similarity",
    "age",
    "agreement",
    "echo",
    "in_change",
    "in_paths",
    "novel",
    "opening",
    "previous",
    "invents_number",
    "is_analogy",
    "is_described",
    "analogy_similarity",
    "is_scored",
    "likelihood",
    "surprise",
    "grounded",
    "foreign",
    "fits_verb",
    "short",
    "edited",
    "vague",
    "echoes_opening",
    "consensus",
    "sampled",
    *WEIGHED_FEATURES,
    "formulaic",
    "nearest_similarity",
    "change_size",
    "file_count",
)
"""The names of the features, in the order of `compute_features`, which describes them. A feature whose
meaning changes needs another name: the weights of stored rerankers belong to the old meaning."""

_NUMBER_PATTERN = lazy_pattern(r"\d+")
_WORD_PATTERN = lazy_pattern(r"\w+")
_NAME_PART_PATTERN = lazy_pattern(r"\d+|[A-Z]+(?![a-z])|[A-Z]?[^\W\d_A-Z]+")
"""Words, and the parts of names: `dropHTTPCache_2` has four parts."""

_SUFFIXES = ("ing", "ed", "es", "s", "e")
_LENGTH_WINDOW = 50
"""Newest subjects whose median length is the usual one."""

_DEFAULT_LENGTH = 6.0
"""The usual length in words where there is no subject yet."""

_SHORT, _FORMULA_COUNT = 2, 5
_UNSCORED_LIKELIHOOD, _UNSCORED_SURPRISE = -3.0, 3.4
"""What is assumed of a message that the model did not score: about the mean of those that it scores."""

_UNWEIGHED = 0.0, -2.0, 2.6, 1.7, 1.3, 0.0
"""What is assumed of a message that the model did not weigh: about the mean of those that it weighs, so that
the message that is offered where the model is late is judged by everything else."""

_ECHO_FLOOR = 0.05
"""Added to similarities, so that a retrieved message without any still counts a little."""


@lazy_dataclass(frozen=True, slots=True)
class DraftMessage:
    """A message from the model (`origin` GENERATED), of an earlier commit (RETRIEVED), of such a commit with
    its slots filled (ANALOGY), put together from facts (DESCRIBED), or handed in to be judged (GIVEN).

    `like` are the ids of the commits behind it: its exemplars, or the commit whose message it is. `mean` is
    the log-probability per token and `tokens` how many tokens that was, 0 where the model did not score it;
    for generated messages `finished` is whether the end was reached, and `samples` how many of the model's
    samples read like that, 0 where it searched instead of sampling. `information` is its pointwise mutual
    information with the change in nats (see `suggest.generator`), None where that was not computed, and
    `state` the mean hidden state of its tokens, empty where nobody asked for it or the model gives none. For
    retrieved messages and analogies `similarity` (0..1) is that of the commit's change, and `age` how many
    commits ago it was made.
    """

    message: str
    origin: str
    like: tuple[str, ...]
    mean: float = 0.0
    similarity: float = 0.0
    age: int = 0
    finished: bool = True
    tokens: int = 0
    samples: int = 0
    information: float | None = None
    state: tuple[float, ...] = ()


RECENT_SUBJECT_COUNT = 100
"""Newest subjects from which the features learn what is usual."""


class RerankingContext:
    """What the features compare messages with.

    `change` is the stored or compact change, `previous` the author's previous subject ("" if there is none),
    `recent` are the newest subjects of the repository, oldest first, and `recent_kinds` tell what the files
    of each commit are for; `branch` is the current branch.
    """

    def __init__(
        self,
        change: str,
        previous: str = "",
        recent: Sequence[str] = (),
        branch: str = "",
        recent_kinds: Sequence[str] = (),
    ) -> None:
        self.change = change
        self.previous = previous
        self.recent = recent[-RECENT_SUBJECT_COUNT:]
        self.view = ChangeView(change)
        self.wording = TeamWording(recent, recent_kinds)
        self.branch = branch
        self._flaws: dict[tuple[str, bool], str] = {}

    def find_flaw(self, message: str, copied: bool) -> str:
        """Why a message must not be offered for this change (`checks.find_ungrounded`)."""
        key = message, copied
        if key not in self._flaws:
            self._flaws[key] = find_ungrounded(message, copied, self.view, self.wording, self.branch)
        return self._flaws[key]

    @cached_property
    def seen_text(self) -> str:
        """The text from which a message may take numbers and names."""
        return f"{self.change}\n{self.previous}"

    @cached_property
    def seen_numbers(self) -> set[str]:
        """All numbers of that text."""
        return set(_NUMBER_PATTERN.findall(self.seen_text))

    @cached_property
    def path_words(self) -> set[str]:
        """The words of the paths of the change, in lower case."""
        return {part for _, path in self._parsed_change[0] for part in _split_name_parts(path)}

    @cached_property
    def change_stems(self) -> set[str]:
        """The stems of all words and parts of names in the paths and lines of the change."""
        lines = (line for block in self._parsed_change[1].values() for line in block)
        return set(map(_stem_word, self.path_words.union(_split_name_parts("\n".join(lines)))))

    @cached_property
    def _parsed_change(self) -> tuple[list[tuple[str, str]], dict[str, list[str]]]:
        return split_compact(self.change)

    @cached_property
    def opening_words(self) -> Counter[str]:
        """How many of the newest subjects begin with each word."""
        return Counter(_get_first_word(_split_words(subject)) for subject in self.recent)

    @cached_property
    def usual_length(self) -> float:
        """The median length of the newest subjects, in words."""
        lengths = sorted(len(subject.split()) for subject in self.recent[-_LENGTH_WINDOW:])
        middle = len(lengths) // 2
        return (lengths[middle] + lengths[~middle]) / 2 if lengths else _DEFAULT_LENGTH

    @cached_property
    def previous_words(self) -> Counter[str]:
        """The words of the author's previous subject, counted."""
        return Counter(_split_words(self.previous))


def compute_features(
    drafts: Sequence[DraftMessage], retrieved: Mapping[str, DraftMessage], context: RerankingContext
) -> list[tuple[float, ...]]:
    """The features of each draft, in the order of `RERANKER_FEATURES`; the messages must all differ.

    `retrieved` are the retrieved drafts by message.

    - words, off_length: length in words, and its distance from the usual length;
    - is_retrieved; is_exemplar: whether the message is one of `retrieved`, generated or not; similarity and
      age (as ln(1 + age)) of that one's commit, 0 for a new message;
    - agreement: mean unigram F1 with all other drafts; echo: the same over the retrieved ones among them,
      each weighted by the similarity of its change;
    - in_change, in_paths: the share of its words that stand in the change, and in its paths; novel: the share
      of its words that stand neither in the change nor in a retrieved message;
    - opening: ln(1 + recent subjects that begin with the same word); previous: unigram F1 with the author's
      previous subject;
    - invents_number: whether it contains a number that stands neither in the change nor in that subject;
    - is_analogy, is_described: its origin; analogy_similarity: for an analogy, how similar its commit is;
    - is_scored; likelihood, surprise: whether the model scored it, its log-probability per token, and
      ln(1 - the log-probability of all tokens);
    - grounded: the share of its content words that stand in the change (`diff.grounding`); foreign: how many
      stand neither there nor in the team's wording; fits_verb: whether its first verb is what the change does
      (1), may be (0) or hardly is (-1); short: whether it has at most two words; edited: the share of its
      content words that are new or gone in the change; vague: whether it only says that a file was changed;
    - echoes_opening: how much of the similarity of the nearest messages is of those that begin with its word;
    - consensus: the share of keystrokes that it is to save by the model's samples (`consensus`); sampled: the
      share of the samples that read like that;
    - is_weighed; weighed_likelihood, weighed_surprise; information, information_rate: whether the model has
      weighed it, whatever its origin; likelihood and surprise, as above; its pointwise mutual information
      with the change, as signed ln(1 + nats), and in nats a token; probe: what the reranker's probe reads in
      its hidden states;
    - formulaic, nearest_similarity, change_size, file_count, the same for all: mean unigram F1 of the nearest
      messages with each other, similarity of the nearest change, ln(1 + changed lines), ln(files).
    """
    bags = [Counter(_split_words(draft.message)) for draft in drafts]
    overlaps = _compute_pairwise_f1(bags)
    similarities = [_get_echo_weight(retrieved.get(draft.message)) for draft in drafts]
    nearest = list(retrieved.values())
    shared = _measure_question(nearest, context)
    samples = {draft.message: draft.samples for draft in drafts if draft.samples}
    consensus = compute_consensus([draft.message for draft in drafts], samples)
    known_stems = {_stem_word(part) for message in retrieved for part in _split_name_parts(message)}
    return [
        (
            *_measure_length(draft, context),
            *_measure_origin(draft, retrieved.get(draft.message)),
            *_measure_agreement(place, overlaps[place], similarities),
            *_measure_vocabulary(draft, known_stems, context),
            *_measure_habits(draft, bags[place], context),
            float(not context.seen_numbers.issuperset(_NUMBER_PATTERN.findall(draft.message))),
            *_measure_new_origin(draft),
            *_measure_likelihood(draft),
            *_measure_truth(draft, context),
            _measure_opening_echo(draft, nearest),
            consensus[place],
            draft.samples / max(1, sum(samples.values())),
            *_weigh(draft),
            *shared,
        )
        for place, draft in enumerate(drafts)
    ]


def update_features(
    features: Sequence[float], weighed: DraftMessage, probed: float = 0.0
) -> tuple[float, ...]:
    """The features of a candidate after the model has weighed it: `WEIGHED_FEATURES` are of the draft.

    `probed` is what the reranker's probe reads in its state.
    """
    start = RERANKER_FEATURES.index(WEIGHED_FEATURES[0])
    return (*features[:start], *_weigh(weighed, probed), *features[start + len(WEIGHED_FEATURES) :])


def _measure_length(draft: DraftMessage, context: RerankingContext) -> tuple[float, float]:
    length = len(draft.message.split())
    return float(length), abs(length - context.usual_length)


def _measure_origin(draft: DraftMessage, same: DraftMessage | None) -> tuple[float, float, float, float]:
    is_retrieved = float(draft.origin == RETRIEVED)
    return (
        (is_retrieved, 1.0, same.similarity, math.log1p(same.age)) if same else (is_retrieved, 0.0, 0.0, 0.0)
    )


def _get_echo_weight(same: DraftMessage | None) -> float:
    return same.similarity + _ECHO_FLOOR if same else 0.0


def _measure_agreement(
    place: int, overlaps: Sequence[float], similarities: Sequence[float]
) -> tuple[float, float]:
    others = [other for other in range(len(overlaps)) if other != place]
    return (
        _compute_weighted_mean([(1.0, overlaps[other]) for other in others]),
        _compute_weighted_mean([(similarities[other], overlaps[other]) for other in others]),
    )


def _measure_vocabulary(
    draft: DraftMessage, known_stems: set[str], context: RerankingContext
) -> tuple[float, float, float]:
    parts = _split_name_parts(draft.message)
    content = [_stem_word(part) for part in parts if len(part) > 2]
    new = [part for part in content if part not in context.change_stems]
    return (
        _compute_share(len(content) - len(new), content),
        _compute_share(sum(part in context.path_words for part in parts), parts),
        _compute_share(sum(part not in known_stems for part in new), content),
    )


def _measure_habits(draft: DraftMessage, bag: Counter[str], context: RerankingContext) -> tuple[float, float]:
    first = _get_first_word(_split_words(draft.message))
    return math.log1p(context.opening_words[first]), compute_f1(bag, context.previous_words)


def _measure_new_origin(draft: DraftMessage) -> tuple[float, float, float]:
    is_analogy = draft.origin == ANALOGY
    return float(is_analogy), float(draft.origin == DESCRIBED), draft.similarity * is_analogy


def _measure_likelihood(draft: DraftMessage) -> tuple[float, float, float]:
    if not draft.tokens:
        return 0.0, _UNSCORED_LIKELIHOOD, _UNSCORED_SURPRISE
    return 1.0, draft.mean, math.log1p(max(0.0, -draft.mean * draft.tokens))


def _weigh(draft: DraftMessage, probed: float = 0.0) -> tuple[float, float, float, float, float, float]:
    if draft.information is None:
        return _UNWEIGHED
    size = math.copysign(math.log1p(abs(draft.information)), draft.information)
    return 1.0, *_measure_likelihood(draft)[1:], size, draft.information / max(1, draft.tokens), probed


def _measure_truth(
    draft: DraftMessage, context: RerankingContext
) -> tuple[float, float, float, float, float, float]:
    share = measure_grounding(draft.message, context.view.grounding, "")
    foreign = list_foreign_stems(draft.message, context.view, context.wording)
    return (
        0.5 if share is None else share,
        float(len(foreign)),
        measure_verb_fit(draft.message, context.view),
        float(len(draft.message.split()) <= _SHORT),
        measure_edited_share(draft.message, context.view),
        float(is_vague(draft.message, context.view)),
    )


def _measure_opening_echo(draft: DraftMessage, nearest: Sequence[DraftMessage]) -> float:
    word = _get_first_word(_split_words(draft.message))
    weights = [(one.similarity + _ECHO_FLOOR, _get_first_word(_split_words(one.message))) for one in nearest]
    return sum(w for w, other in weights if other == word) / max(1e-9, sum(w for w, _ in weights))


def _measure_question(
    nearest: Sequence[DraftMessage], context: RerankingContext
) -> tuple[float, float, float, float]:
    """What is the same for all candidates of a change."""
    bags = [Counter(_split_words(one.message)) for one in nearest[:_FORMULA_COUNT]]
    alike = [compute_f1(a, b) for i, a in enumerate(bags) for b in bags[:i]]
    size = context.view.size
    return (
        sum(alike) / max(1, len(alike)),
        max((one.similarity for one in nearest), default=0.0),
        math.log1p(size.added + size.removed),
        math.log(max(1, len(context.view.files))),
    )


def _compute_pairwise_f1(bags: Sequence[Counter[str]]) -> list[list[float]]:
    """The unigram F1 of each pair of bags of words; 0 on the diagonal."""
    overlaps = [[0.0] * len(bags) for _ in bags]
    for i, bag in enumerate(bags):
        for j in range(i):
            overlaps[i][j] = overlaps[j][i] = compute_f1(bag, bags[j])
    return overlaps


def _split_name_parts(text: str) -> list[str]:
    return [part.lower() for part in _NAME_PART_PATTERN.findall(text)]


def _split_words(text: str) -> list[str]:
    return [word.lower() for word in _WORD_PATTERN.findall(text)]


def _get_first_word(words: Sequence[str]) -> str:
    return words[0] if words else ""


def _stem_word(word: str) -> str:
    """A word without its English ending; a rule of suffixes, not a full stemmer."""
    for ending in _SUFFIXES:
        if word.endswith(ending) and len(word) - len(ending) >= 3:
            return word[: -len(ending)]
    return word


def compute_f1(a: Counter[str], b: Counter[str]) -> float:
    """The unigram F1 of two bags of words."""
    total = a.total() + b.total()
    return 2 * (a & b).total() / total if total else 0.0


def _compute_weighted_mean(weighted: Sequence[tuple[float, float]]) -> float:
    return sum(w * x for w, x in weighted) / max(1e-9, sum(w for w, _ in weighted))


def _compute_share(part: int, whole: Sequence[str]) -> float:
    return part / max(1, len(whole))
