"""The reranker: it rules out candidates with flaws and orders the others by a score linear in their features.

Generated and retrieved messages are scored by the same features (`reranker_features`). The weights are fitted
by `learn.evaluation.reranker` and stored in a bundle as `chooser.json`.
"""

import json
import math
import operator
import re
import sys
from collections import Counter
from collections.abc import Mapping, Sequence

from gitpeft.bundle.embedded import ONNX_FOLDER, find_embedded_base
from gitpeft.bundle.manifest import RERANKER_FILE
from gitpeft.errors import GitpeftError
from gitpeft.lazy import lazy_dataclass, lazy_pattern, replace_fields
from gitpeft.suggest.checks import REPEATED_WORDS
from gitpeft.suggest.reranker_features import (
    ANALOGY,
    GENERATED,
    RERANKER_FEATURES,
    RETRIEVED,
    DraftMessage,
    RerankingContext,
    compute_f1,
    compute_features,
    update_features,
)
from gitpeft.suggest.team_wording import split_prefix

RERANKED = "chooser"
"""The mode, as `chooser.json` stores it, in which candidates are ordered by their scores."""

MAX_WEIGHED = 4
"""Candidates of a change that the model weighs. With more of them no more keystrokes are saved, and readers
find what comes first no better (420 commits)."""

ORDER_PART = 0.5
"""How much the order counts beside the logit of the value among candidates that were weighed."""

_COPIED_F1 = 0.8
"""A generated message is taken for a copy from this unigram F1 with an earlier one."""

_ISSUE_PATTERN = lazy_pattern(r"#\d+")
_WORD_PATTERN = lazy_pattern(r"\w+")
_CODE_NAME = lazy_pattern(r"\b[A-Za-z]+(?:[a-z][A-Z]|_|\d)\w+\b")
"""Names that only occur in code: camel case, an underscore or a digit inside."""

_DANGLING_END = lazy_pattern(r"(?:[:,/&+=<([{-]|\b(?:the|a|an|and|or|of))$", re.IGNORECASE)
_REFIT_HINT = "run `gitpeft init` to fit it again"


@lazy_dataclass(frozen=True, slots=True)
class MessageCandidate:
    """A message with its features, in the order of `RERANKER_FEATURES`.

    `flaw` is the reason why it must not be offered, "" if there is none. `like` are the ids of the commits
    behind it. `mean` is its log-probability per token, 0 for a message that the model did not generate.
    `state` is the mean hidden state of its tokens, kept only in trials, where any reranker's probe reads it.
    """

    message: str
    origin: str
    like: tuple[str, ...]
    features: tuple[float, ...]
    flaw: str = ""
    mean: float = 0.0
    state: tuple[float, ...] = ()

    def get_feature(self, name: str) -> float:
        """The value of the feature with this name."""
        return self.features[RERANKER_FEATURES.index(name)]


def build_candidates(
    drafts: Sequence[DraftMessage], context: RerankingContext, longest: int, *, grounded: bool = True
) -> list[MessageCandidate]:
    """The different messages among `drafts`, in their order, with features and flaws.

    `longest` is the length of the longest allowed message in characters; `grounded` is whether messages are
    checked against the change (`checks.find_ungrounded`). A generated message that repeats a retrieved one
    word for word counts as generated, with the retrieved message's commit behind it.
    """
    retrieved = {draft.message: draft for draft in reversed(drafts) if draft.origin == RETRIEVED}
    first: dict[str, DraftMessage] = {}
    for draft in drafts:
        first.setdefault(draft.message, draft)
    unique = list(first.values())
    seen = "\n".join([context.seen_text, *retrieved])
    known_issues = set(_ISSUE_PATTERN.findall(context.seen_text))
    candidates = []
    for draft, features in zip(unique, compute_features(unique, retrieved, context), strict=True):
        like = retrieved.get(draft.message, draft).like
        flaw = (
            find_flaw(draft, seen, longest)
            or _check_issue_numbers(draft, known_issues)
            or (grounded and context.find_flaw(draft.message, _is_copied(draft, retrieved)))
            or ""
        )
        candidates.append(MessageCandidate(draft.message, draft.origin, like, features, flaw, draft.mean))
    return candidates


@lazy_dataclass(frozen=True, slots=True)
class Probe:
    """A linear probe: what a message is worth as far as it shows in the mean hidden state (D) of its tokens.

    It is part of a logit, and 0 on average over the messages that it was fitted on.
    """

    weights: tuple[float, ...] = ()
    bias: float = 0.0

    def read(self, state: Sequence[float]) -> float:
        """What it reads in a state; 0 without weights for it."""
        if len(state) != len(self.weights) or not self.weights:
            return 0.0
        return float(sum(map(operator.mul, self.weights, state))) + self.bias


def update_candidates(
    candidates: Sequence[MessageCandidate],
    weighed: Sequence[DraftMessage],
    probe: Probe | None = None,
    *,
    keep_states: bool = False,
) -> list[MessageCandidate]:
    """The candidates, those among them whose drafts the model has weighed with the features of these.

    A `probe` reads their states, which are kept only with `keep_states`.
    """
    known = {draft.message: draft for draft in weighed}
    found = []
    for one in candidates:
        if draft := known.get(one.message):
            probed = probe.read(draft.state) if probe else 0.0
            features = update_features(one.features, draft, probed)
            one = replace_fields(one, features=features, state=draft.state if keep_states else ())
        found.append(one)
    return found


def _is_copied(draft: DraftMessage, retrieved: Mapping[str, DraftMessage]) -> bool:
    """Whether a message is an earlier commit's: as it is, filled in, or with another prefix or word."""
    if draft.message in retrieved or draft.origin == ANALOGY:
        return True
    words = _count_words(draft.message)
    return any(compute_f1(words, _count_words(other)) >= _COPIED_F1 for other in retrieved)


def _count_words(message: str) -> Counter[str]:
    """The words behind a prefix."""
    return Counter(_WORD_PATTERN.findall(split_prefix(message)[1].lower()))


# --- flaws --------------------------------------------------------------------------------------------------


def _check_issue_numbers(draft: DraftMessage, known: set[str]) -> str:
    return "" if known.issuperset(_ISSUE_PATTERN.findall(draft.message)) else "invented issue number"


def find_flaw(draft: DraftMessage, seen: str, longest: int) -> str:
    """Why a message must not be offered, "" if it may. `seen` is all text from which it may take names."""
    text = draft.message
    if not _WORD_PATTERN.search(text):
        return "empty"
    if "�" in text or not text.isprintable():
        return "unprintable"
    if len(text) > longest:
        return "too long"
    return _find_generation_flaw(draft, seen) if draft.origin == GENERATED else ""


def _find_generation_flaw(draft: DraftMessage, seen: str) -> str:
    """A flaw that only generated messages have: people's messages are taken as they are."""
    text = draft.message
    if not draft.finished or _DANGLING_END.search(text):
        return "unfinished"
    if any(_is_truncated_name(name, seen) for name in _CODE_NAME.findall(text)):
        return "half a name"
    if REPEATED_WORDS.search(text):
        return "repeats itself"
    if any(text.count(a) != text.count(b) for a, b in ("()", "[]", "{}")) or text.count("`") % 2:
        return "unbalanced"
    return ""


def _is_truncated_name(name: str, seen: str) -> bool:
    """Whether a name occurs in the seen text only as the beginning of longer names."""
    return not re.search(rf"\b{name}(?![A-Za-z0-9])", seen) and re.search(rf"\b{name}", seen) is not None


# --- scores -------------------------------------------------------------------------------------------------


@lazy_dataclass(frozen=True, slots=True)
class Reranker:
    """Two linear models of candidates' features: one orders them, the other says what they are worth.

    `mode` "chooser" orders candidates by weights · features; "generated" and "retrieved" put messages of that
    origin first, in the order of likelihood or similarity, and "retrieved" never runs the model. A score is
    sigmoid(value_weights · features + value_bias), without these weights, as earlier versions stored it,
    sigmoid(weights · features + bias), the expected quality in 0..1. If the score of the first is below
    `threshold`, nothing is offered.

    The value is the chance that a candidate saves at least 40 % of the keystrokes. Where it was learnt from
    readers' marks (`marked`) it is what a message is worth to who has to commit, from 0 (wrong) to 1 (commit
    as it stands); the first `MAX_WEIGHED` are then weighed by the model, and value and order together decide
    which of these comes first. What they are worth shows in the model's hidden states as well: `probe` reads
    them, and is one of the features.
    """

    mode: str = GENERATED
    features: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    bias: float = 0.0
    threshold: float | None = None
    value_weights: tuple[float, ...] = ()
    value_bias: float = 0.0
    marked: bool = False
    probe_weights: tuple[float, ...] = ()
    probe_bias: float = 0.0

    @classmethod
    def from_data(cls, data: Mapping[str, object], kind: str) -> "Reranker":
        """Read `chooser.json`; {} gives the default for a bundle's kind. GitpeftError when it is damaged.

        A reranker of another version, with features that this one does not have, is replaced by that of the
        embedded base, without its threshold: nobody knows what that model's messages are worth.
        """
        stored = cls._parse_data(data, kind)
        if set(stored.features) <= set(RERANKER_FEATURES):
            return stored
        return replace_fields(load_embedded_reranker(), threshold=None)

    @classmethod
    def _parse_data(cls, data: Mapping[str, object], kind: str) -> "Reranker":
        default = GENERATED if kind == "model" else RETRIEVED
        try:
            threshold = data.get("threshold")
            stored = cls(
                str(data.get("mode", default)),
                tuple(map(str, _require_list(data.get("features", [])))),
                tuple(map(_require_number, _require_list(data.get("weights", [])))),
                _require_number(data.get("bias", 0.0)),
                None if threshold is None else _require_number(threshold),
                tuple(map(_require_number, _require_list(data.get("value_weights", [])))),
                _require_number(data.get("value_bias", 0.0)),
                data.get("marked") is True,
                tuple(map(_require_number, _require_list(data.get("probe_weights", [])))),
                _require_number(data.get("probe_bias", 0.0)),
            )
        except (TypeError, AttributeError) as error:
            raise GitpeftError(f"the model's reranker cannot be read: {error}", _REFIT_HINT) from None
        if stored.mode not in (RERANKED, GENERATED, RETRIEVED) or not stored._is_complete():
            raise GitpeftError("the model's reranker is damaged", _REFIT_HINT)
        return stored

    @property
    def probe(self) -> Probe:
        """Its probe; one without weights where it has none."""
        return Probe(self.probe_weights, self.probe_bias)

    @property
    def is_of_earlier_version(self) -> bool:
        """Whether it was fitted before there were analogies, descriptions and checks against the change.

        A model of that time goes on answering as it did, until it is trained again.
        """
        return bool(self.features) and "grounded" not in self.features

    def _is_complete(self) -> bool:
        """Whether there is a weight for each feature."""
        return len(self.weights) == len(self.features) and len(self.value_weights) in (0, len(self.features))

    def order_candidate(self, candidate: MessageCandidate) -> float:
        """What candidates are ordered by: the higher, the better."""
        return (
            self._weigh_features(candidate, self.weights)
            if self.features
            else self.score_candidate(candidate)
        )

    def _weigh_features(self, candidate: MessageCandidate, weights: Sequence[float]) -> float:
        return sum(w * self._read_feature(candidate, f) for f, w in zip(self.features, weights, strict=True))

    def _read_feature(self, candidate: MessageCandidate, name: str) -> float:
        if name == "probe" and candidate.state:
            return self.probe.read(candidate.state)
        return candidate.get_feature(name)

    def score_candidate(self, candidate: MessageCandidate) -> float:
        """What a candidate is worth, in 0..1.

        Without weights it is the similarity of a retrieved message or the mean token probability of a
        generated one.
        """
        if not self.features:
            generated = candidate.origin == GENERATED
            likelihood = math.exp(min(0.0, candidate.mean))
            return likelihood if generated else min(1.0, candidate.get_feature("similarity"))
        # in this order, what is not a number is worth nothing
        return 1 / (1 + math.exp(-min(60.0, max(-60.0, self._compute_logit(candidate)))))

    def _compute_logit(self, candidate: MessageCandidate) -> float:
        if self.value_weights:
            return self._weigh_features(candidate, self.value_weights) + self.value_bias
        return self._weigh_features(candidate, self.weights) + self.bias

    def list_fitting(self, candidates: Sequence[MessageCandidate]) -> list[MessageCandidate]:
        """Those without flaws, in the order in which the model may weigh them."""
        fitting = [one for one in candidates if not one.flaw]
        if self.mode == RERANKED:
            return sorted(fitting, key=lambda one: -self.order_candidate(one))
        return sorted(fitting, key=lambda one: one.origin != self.mode)

    def _order_weighed(self, fitting: Sequence[MessageCandidate]) -> list[MessageCandidate]:
        """The first ones by their value as well, then all others as they are."""
        first = [one for one in fitting[:MAX_WEIGHED] if one.get_feature("is_weighed")]
        first.sort(key=lambda one: -self._compute_logit(one) - ORDER_PART * self.order_candidate(one))
        return first + [one for one in fitting if one not in first]

    def rank_candidates(
        self, candidates: Sequence[MessageCandidate], least: float | None = None
    ) -> list[tuple[float, MessageCandidate]]:
        """(score, candidate) of those without flaws, best first.

        With `least` only those whose score reaches it (0: all); without, none if the first one's score is
        below the threshold of the reranker, which was chosen for first ones.
        """
        fitting = self.list_fitting(candidates)
        if self.mode == RERANKED and self.marked:
            fitting = self._order_weighed(fitting)
        scored = [(self.score_candidate(one), one) for one in fitting]
        if least is not None:
            return scored if least <= 0 else [pair for pair in scored if pair[0] >= least]
        too_low = scored and self.threshold is not None and scored[0][0] < self.threshold
        return [] if too_low else scored

    def find_best_score(
        self, candidates: Sequence[MessageCandidate], least: float | None = None
    ) -> float | None:
        """The score that counts where `rank_candidates` withholds all: the first one's, or the highest.

        The first one's is held against the threshold, the highest against `least`. None without candidates.
        """
        scores = [score for score, _ in self.rank_candidates(candidates, 0)]
        return (scores[0] if least is None else max(scores)) if scores else None


def _require_list(value: object) -> Sequence[object]:
    if not isinstance(value, list | tuple):
        raise TypeError("features and weights need to be lists")
    return value


def _require_number(value: object) -> float:
    if not isinstance(value, int | float) or not abs(value) <= sys.float_info.max:
        raise TypeError("weights, bias and threshold need to be finite numbers")
    return float(value)


def is_outdated_reranker(data: Mapping[str, object]) -> bool:
    """Whether a stored reranker was fitted by another version, with features that this one does not have.

    GitpeftError when it is damaged.
    """
    return not set(Reranker._parse_data(data, "model").features) <= set(RERANKER_FEATURES)


def load_embedded_reranker() -> Reranker:
    """The embedded base's reranker, fitted on many repositories; GitpeftError if it cannot be read."""
    path = find_embedded_base() / ONNX_FOLDER / RERANKER_FILE
    try:
        stored = Reranker._parse_data(json.loads(path.read_bytes()), "model")
    except (OSError, ValueError, RecursionError, GitpeftError):
        stored = Reranker()
    if not stored.features or not set(stored.features) <= set(RERANKER_FEATURES):
        raise GitpeftError(f"{path} is damaged or missing", "install gitpeft again")
    return stored
