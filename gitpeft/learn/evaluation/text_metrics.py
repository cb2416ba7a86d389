"""Metrics of commit messages and their confidence intervals.

Every metric takes hypotheses and references in the same order and gives one number from 0 to 100 for each
pair, so that a mean, an interval and a paired comparison are all taken over the same list. ROUGE-L and edit
similarity are those of rouge-score and rapidfuzz. The others are written here: they are needed without
`gitpeft[train]`, and sacrebleu and nltk differ from B-Norm in tokens, smoothing and brevity penalty.
"""

import math
import re
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

_TOKEN_PATTERN = re.compile(r"[^\W_]+|_|[^\w\s]")
_MAX_ORDER = 4
KEPT_SHARE, NEARLY_KEPT_SHARE = 0.6, 0.4
"""From this share of the keystrokes on an offer counts as kept, and as nearly kept."""

_MAX_RESAMPLED_SCORES = 4_000_000  # resampled scores held at once: 32 MB


class ConfidenceInterval(NamedTuple):
    """A mean and its 95 % percentile bootstrap interval."""

    mean: float
    low: float
    high: float

    @property
    def excludes_zero(self) -> bool:
        """For a difference: whether it is significant."""
        return self.low > 0 or self.high < 0


def b_norm(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """B-Norm of each pair; its mean over sentences is the figure that papers quote.

    Sentence BLEU-4 over lower-cased tokens, 1 added to numerator and denominator of the 2-, 3- and 4-gram
    precisions, with the brevity penalty exp(min(0, 1 - (ref + 1) / (hyp + 1))) for lengths in tokens. Source:
    Tao et al., "On the Evaluation of Commit Message Generation Models" (ICSME 2021). An empty hypothesis
    scores 0, where the plain formula would leave exp(-ref).
    """
    pairs = zip(hypotheses, references, strict=True)
    return [
        100 * _sentence_bleu(_tokenise_text(hypothesis), _tokenise_text(reference))
        for hypothesis, reference in pairs
    ]


def keystrokes_saved(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """The share of keystrokes that an offer saves: max(0, 1 - Levenshtein distance / reference's length).

    Of the metrics tried, edit distance agrees best with what people change before they commit
    (arXiv 2410.12046). An empty hypothesis, an abstention, saves nothing.
    """
    pairs = zip(hypotheses, references, strict=True)
    return [100 * compute_saving(hypothesis, reference) for hypothesis, reference in pairs]


def compute_saving(offer: str, written: str) -> float:
    """The share (0..1) of the keystrokes of `written` that `offer` saves."""
    if not offer or not written or len(offer) >= 2 * len(written):
        return float(offer == written != "")
    return max(0.0, 1 - _levenshtein_distance(offer, written) / len(written))


def _levenshtein_distance(a: str, b: str) -> int:
    """Insertions, deletions and substitutions of characters (Wagner and Fischer 1974)."""
    previous = list(range(len(b) + 1))
    for i, x in enumerate(a, 1):
        current = [i]
        for j, y in enumerate(b, 1):
            current.append(min(previous[j] + 1, current[-1] + 1, previous[j - 1] + (x != y)))
        previous = current
    return previous[-1]


def kept_offers(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """100 where an offer saves at least 60 % of the keystrokes, else 0."""
    return _mark_savings(hypotheses, references, KEPT_SHARE)


def nearly_kept_offers(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """100 where an offer saves at least 40 % of the keystrokes, else 0."""
    return _mark_savings(hypotheses, references, NEARLY_KEPT_SHARE)


def _mark_savings(hypotheses: Sequence[str], references: Sequence[str], least: float) -> list[float]:
    savings = keystrokes_saved(hypotheses, references)
    return [100.0 * (saving >= 100 * least - 1e-9) for saving in savings]


def offered_share(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """Coverage: 100 where something is offered, 0 for an abstention."""
    return [100.0 * bool(hypothesis) for hypothesis, _ in zip(hypotheses, references, strict=True)]


def rouge_l(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """F1 over the longest common subsequence: the package rouge-score's `rougeL` without stemming.

    It is not `rougeLsum`, and it reads runs of a-z and 0-9 of the lower-cased text and nothing else.
    """
    from rouge_score.rouge_scorer import RougeScorer  # a second and a thousand modules

    scorer = RougeScorer(["rougeL"], use_stemmer=False)
    pairs = zip(hypotheses, references, strict=True)
    return [
        100 * float(scorer.score(reference, hypothesis)["rougeL"].fmeasure) for hypothesis, reference in pairs
    ]


def edit_similarity(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """1 - Levenshtein distance / length of the longer one, over characters, case and spaces as they are."""
    from rapidfuzz.distance import Levenshtein

    pairs = zip(hypotheses, references, strict=True)
    return [100 * Levenshtein.normalized_similarity(hypothesis, reference) for hypothesis, reference in pairs]


def first_word_match(hypotheses: Sequence[str], references: Sequence[str]) -> list[float]:
    """EM@1: 100 where the first words are equal, case aside; white space ends a word: `fix:` is not `fix`."""
    pairs = zip(hypotheses, references, strict=True)
    return [
        100.0 * (_first_word(hypothesis) == _first_word(reference) != "") for hypothesis, reference in pairs
    ]


TextMetric = Callable[[Sequence[str], Sequence[str]], list[float]]

TEXT_METRICS: Mapping[str, TextMetric] = {
    "keystrokes_saved": keystrokes_saved,
    "kept": kept_offers,
    "nearly_kept": nearly_kept_offers,
    "coverage": offered_share,
    "b_norm": b_norm,
    "rouge_l": rouge_l,
    "edit_similarity": edit_similarity,
    "first_word": first_word_match,
}
"""Every metric by the name that reports give it."""

OFFER_METRICS = ("kept", "nearly_kept")
"""Metrics that are shares of what is offered: abstentions do not count."""

_LIBRARY_METRICS = ("rouge_l", "edit_similarity")


def score_messages(hypotheses: Sequence[str], references: Sequence[str]) -> "MetricScores":
    """Every metric that can be computed here (without `gitpeft[train]` only our own), with its interval.

    Metrics that are shares of what is offered are left out where nothing is.
    """
    complete = find_spec("rapidfuzz") and find_spec("rouge_score")
    names = [name for name in TEXT_METRICS if complete or name not in _LIBRARY_METRICS]
    offered = [pair for pair in zip(hypotheses, references, strict=True) if pair[0]]
    found = {}
    for name in names:
        pairs = offered if name in OFFER_METRICS else list(zip(hypotheses, references, strict=True))
        if pairs:
            found[name] = bootstrap_mean(TEXT_METRICS[name](*zip(*pairs, strict=True)), seed=0)
    return MetricScores(len(references), found)


@dataclass(frozen=True, slots=True)
class MetricScores:
    """The scores of `n` commits by metric."""

    n: int
    metrics: dict[str, ConfidenceInterval]

    @classmethod
    def from_metrics(cls, by_metric: Mapping[str, Sequence[float]], seed: int = 0) -> "MetricScores":
        """Summary of per-sentence scores by metric."""
        [n] = {len(scores) for scores in by_metric.values()}
        return cls(n, {name: bootstrap_mean(scores, seed) for name, scores in by_metric.items()})

    def as_dict(self) -> dict[str, object]:
        """Plain values: `{"n": …, metric: {"mean", "low", "high"}}`."""
        return {"n": self.n, **{name: interval._asdict() for name, interval in self.metrics.items()}}


def bootstrap_mean(scores: Sequence[float], seed: int, n: int = 1000) -> ConfidenceInterval:
    """Mean of `scores` with its 95 % interval over `n` resamples; the same seed gives the same interval.

    Raises ValueError when there is nothing to resample.
    """
    values = np.asarray(scores, dtype=np.float64)
    if values.size == 0:
        raise ValueError("no scores to resample")
    low, high = np.percentile(_resample_means(values, np.random.default_rng(seed), n), (2.5, 97.5))
    return ConfidenceInterval(float(values.mean()), float(low), float(high))


def paired_bootstrap(a: Sequence[float], b: Sequence[float], seed: int, n: int = 1000) -> ConfidenceInterval:
    """Mean of a - b over the same examples, which are drawn together in each resample (Koehn 2004).

    Raises ValueError when the lists differ in length or are empty.
    """
    return bootstrap_mean([x - y for x, y in zip(a, b, strict=True)], seed, n)


def _resample_means(values: NDArray[np.float64], random: np.random.Generator, n: int) -> NDArray[np.float64]:
    """Means of `n` samples of the size of `values`, drawn with replacement, in batches of bounded memory."""
    batch = max(1, _MAX_RESAMPLED_SCORES // values.size)
    sizes = [min(batch, n - done) for done in range(0, n, batch)]
    draws = (random.integers(0, values.size, size=(size, values.size)) for size in sizes)
    return np.concatenate([values[draw].mean(axis=1) for draw in draws])


def _tokenise_text(text: str) -> list[str]:
    r"""Tokens of B-Norm: `\w+|[^\w\s]` on the lower-cased text, then the separation of NIST's mteval-v11a.

    After the first split every other rule of mteval finds its work done; all that is left of it is that an
    underscore stands alone.
    """
    return _TOKEN_PATTERN.findall(text.lower())


def _sentence_bleu(hypothesis: list[str], reference: list[str]) -> float:
    logs = 0.0
    for order in range(1, _MAX_ORDER + 1):
        smooth = 1 if order > 1 else 0
        matched = (_count_ngrams(hypothesis, order) & _count_ngrams(reference, order)).total() + smooth
        if matched == 0:
            return 0.0
        logs += math.log(matched / (max(0, len(hypothesis) - order + 1) + smooth))
    brevity = min(0.0, 1 - (len(reference) + 1) / (len(hypothesis) + 1))
    return math.exp(logs / _MAX_ORDER + brevity)


def _count_ngrams(tokens: list[str], order: int) -> Counter[tuple[str, ...]]:
    return Counter(zip(*(tokens[start:] for start in range(order)), strict=False))


def _first_word(text: str) -> str:
    return next(iter(text.split(maxsplit=1)), "").casefold()
