"""Which message to offer: hides what rules a candidate out, and how a chooser weighs it.

Generated messages and those of earlier commits are weighed by the same features, whichever way they came.
"""

import json
import math
import re
from collections.abc import Sequence
from typing import Any

from gitpeft.bundle.embedded import ONNX_FOLDER, find_embedded_base
from gitpeft.errors import GitpeftError
from gitpeft.lazy import lazy_dataclass, lazy_pattern
from gitpeft.suggest.reranker_features import (
    GENERATED,
    RERANKER_FEATURES,
    RETRIEVED,
    DraftMessage,
    RerankingContext,
    compute_features,
)

RERANKED = "chooser"

_ISSUE_PATTERN = lazy_pattern(r"#\d+")
_WORD_PATTERN = lazy_pattern(r"\w+")
_REPEATED_WORDS = lazy_pattern(r"\b(\w+(?:\W+\w+){0,3})\W+\1\b", re.IGNORECASE)
_CODE_NAME = lazy_pattern(r"\b[A-Za-z]+(?:[a-z][A-Z]|_|\d)\w+\b")
"""Names as only code has them: camel case, an underscore or a digit inside."""

_DANGLING_END = lazy_pattern(r"(?:[:,/&+=<([{-]|\b(?:the|a|an|and|or|of))$", re.IGNORECASE)
_REFIT_HINT = "run `gitpeft init` to fit it again"


@lazy_dataclass(frozen=True, slots=True)
class MessageCandidate:
    """A message that may be offered, with its `features` (see `weigh.FEATURES`); `flaw` says why it must not.

    `mean` is its log-probability per token, 0 where the model was not asked.
    """

    message: str
    origin: str
    like: tuple[str, ...]
    features: tuple[float, ...]
    flaw: str = ""
    mean: float = 0.0

    def get_feature(self, name: str) -> float:
        """One feature by its name."""
        return self.features[RERANKER_FEATURES.index(name)]


def build_candidates(
    drafts: Sequence[DraftMessage], context: RerankingContext, longest: int
) -> list[MessageCandidate]:
    """The different messages among `drafts`, in order, with features and flaws.

    `longest` is the length of a message in characters. A message that was generated word for word as an
    earlier one counts as generated, with that commit behind it.
    """
    earlier = {draft.message: draft for draft in reversed(drafts) if draft.origin == RETRIEVED}
    first: dict[str, DraftMessage] = {}
    for draft in drafts:
        first.setdefault(draft.message, draft)
    unique = list(first.values())
    seen, issues = "\n".join([context.seen_text, *earlier]), set(_ISSUE_PATTERN.findall(context.seen_text))
    found = []
    for draft, features in zip(unique, compute_features(unique, earlier, context), strict=True):
        same = earlier.get(draft.message)
        like = same.like if same else draft.like
        wrong = find_flaw(draft, seen, longest) or _check_issue_numbers(draft, issues)
        found.append(MessageCandidate(draft.message, draft.origin, like, features, wrong, draft.mean))
    return found


def _check_issue_numbers(draft: DraftMessage, known: set[str]) -> str:
    return "" if known.issuperset(_ISSUE_PATTERN.findall(draft.message)) else "invented issue number"


def find_flaw(draft: DraftMessage, seen: str, longest: int) -> str:
    """Why a message must not be offered, "" when it may. `seen` is all that its author read."""
    text = draft.message
    if not _WORD_PATTERN.search(text):
        return "empty"
    if "�" in text or not text.isprintable():
        return "unprintable"
    if len(text) > longest:
        return "too long"
    return _find_generation_flaw(draft, seen) if draft.origin == GENERATED else ""


def _find_generation_flaw(draft: DraftMessage, seen: str) -> str:
    """What only a model writes."""
    text = draft.message
    if not draft.finished or _DANGLING_END.search(text):
        return "unfinished"
    if any(_is_truncated_name(name, seen) for name in _CODE_NAME.findall(text)):
        return "half a name"
    if _REPEATED_WORDS.search(text):
        return "repeats itself"
    if any(text.count(a) != text.count(b) for a, b in ("()", "[]", "{}")) or text.count("`") % 2:
        return "unbalanced"
    return ""


def _is_truncated_name(name: str, seen: str) -> bool:
    """Whether a name of the code is the beginning of a longer one, and was seen only as that."""
    return not re.search(rf"\b{name}(?![A-Za-z0-9])", seen) and re.search(rf"\b{name}", seen) is not None


@lazy_dataclass(frozen=True, slots=True)
class Reranker:
    """A weighted sum of candidates' features. Best score below `threshold`: nothing is offered.

    `mode` "chooser" orders candidates by score; "generated" and "retrieved" put that kind first, in its own
    order of likelihood or similarity, and "retrieved" does without the model.
    """

    mode: str = GENERATED
    features: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    bias: float = 0.0
    threshold: float | None = None

    @classmethod
    def from_data(cls, data: dict[str, Any], kind: str) -> "Reranker":
        """Read `chooser.json`; {} gives the default of a bundle's kind. GitpeftError when it is damaged.

        One that weighs what this version does not know gives way to the embedded base's.
        """
        chooser = cls._parse_data(data, kind)
        return chooser if set(chooser.features) <= set(RERANKER_FEATURES) else load_embedded_reranker()

    @classmethod
    def _parse_data(cls, data: dict[str, Any], kind: str) -> "Reranker":
        default = GENERATED if kind == "model" else RETRIEVED
        try:
            threshold = data.get("threshold")
            chooser = cls(
                str(data.get("mode", default)),
                tuple(map(str, data.get("features", ()))),
                tuple(map(float, data.get("weights", ()))),
                float(data.get("bias", 0.0)),
                None if threshold is None else float(threshold),
            )
        except (TypeError, ValueError, AttributeError) as error:
            raise GitpeftError(f"the model's chooser cannot be read: {error}", _REFIT_HINT) from None
        if not chooser._is_consistent(data):
            raise GitpeftError("the model's chooser is damaged", _REFIT_HINT)
        return chooser

    def _is_consistent(self, data: dict[str, Any]) -> bool:
        listed = isinstance(data.get("features", []), list | tuple)
        known = self.mode in (RERANKED, GENERATED, RETRIEVED)
        return listed and known and len(self.features) == len(self.weights)

    def score_candidate(self, candidate: MessageCandidate) -> float:
        """The B-Norm (0..1) to be expected; without weights a message's similarity or mean probability."""
        if not self.features:
            retrieved = candidate.origin == RETRIEVED
            likelihood = math.exp(min(0.0, candidate.mean))
            return min(1.0, candidate.get_feature("similarity")) if retrieved else likelihood
        products = (w * candidate.get_feature(f) for f, w in zip(self.features, self.weights, strict=True))
        return 1 / (1 + math.exp(-max(-60.0, min(60.0, sum(products) + self.bias))))

    def rank_candidates(self, found: Sequence[MessageCandidate]) -> list[tuple[float, MessageCandidate]]:
        """(score, candidate) of those that may be offered, best first; [] if the best is not good enough."""
        scored = [(self.score_candidate(one), one) for one in found if not one.flaw]
        if self.mode == RERANKED:
            scored.sort(key=lambda pair: -pair[0])
        else:
            scored.sort(key=lambda pair: pair[1].origin != self.mode)
        if not scored or (self.threshold is not None and scored[0][0] < self.threshold):
            return []
        return scored


def is_outdated_reranker(data: dict[str, Any]) -> bool:
    """Whether a chooser was fitted by another version, on what this one does not weigh.

    GitpeftError when it is damaged.
    """
    return not set(Reranker._parse_data(data, "model").features) <= set(RERANKER_FEATURES)


def load_embedded_reranker() -> Reranker:
    """The embedded base's chooser, fitted on many histories. GitpeftError when its file cannot be used."""
    path = find_embedded_base() / ONNX_FOLDER / "chooser.json"
    try:
        found = Reranker._parse_data(json.loads(path.read_bytes()), "model")
    except (OSError, ValueError, RecursionError, GitpeftError):
        found = Reranker()
    if not found.features or not set(found.features) <= set(RERANKER_FEATURES):
        raise GitpeftError(f"{path} is damaged or missing", "install gitpeft again")
    return found
