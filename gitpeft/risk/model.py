"""How risky a change is, in this repository: hides the score, its calibration, and how it is put together.

    patch -> files -> metrics (`metrics.measure`) -> score -> percentile, probability -> flagged or not

The score is a sum of weighted features, made by `learn.defects` and kept in the bundle as JSON: the standard
library is all that is needed here. Beside the metrics a feature may be what the words of the change say
(`words`), or what an encoder reads in it (`reading`). A model that is not better than the number of added
lines is not shipped; one that cannot be trusted for want of known bugs says so in `why`, and then nothing is
ever flagged.
"""

import json
import math
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from typing import Any

from gitpeft.bundle import bundle as bundles
from gitpeft.diff.patch import FileChange, parse
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.context import LINED, Change, Touch, function_key
from gitpeft.lazy import field, names, record
from gitpeft.redaction import mask
from gitpeft.risk import bag_of_words
from gitpeft.risk.change_metrics import KAMEI, NAMES, Metrics

FEATURES = tuple(name for name in KAMEI if name != "fix")
"""What a model looks at: before a commit nobody knows yet whether its message will call it a fix."""

_AS_THEY_ARE = frozenset({"entropy", "tests", "fix"})
LINES_ADDED, LOGISTIC, NONE = "lines added", "logistic regression", "none"
COMBINED, ENCODER, ALL = "metrics and words", "tuned encoder", "metrics, words and encoder"
KINDS = (LINES_ADDED, LOGISTIC, COMBINED, ENCODER, ALL)
"""The scores, the simpler one first."""

WORDS, READING = "words", "reading"
"""Features that are no metrics: the score of the words, and the encoder's logit (see `risk.encoder`)."""


def scaled(
    metrics: Metrics, names: Sequence[str] = FEATURES, beside: Mapping[str, float] | None = None
) -> list[float]:
    """Features for a model: counts and days as log(1 + x); the others, and what is `beside`, as they are."""
    others = beside or {}
    values = ((name, others[name] if name in others else float(getattr(metrics, name))) for name in names)
    as_is = _AS_THEY_ARE.union(others)
    return [value if name in as_is else math.log1p(max(0.0, value)) for name, value in values]


@record(frozen=True, slots=True)
class Model:
    """A fitted score. `kind` is one of `KINDS`, or `none` for the reason `why`.

    `weights` and `bias` belong to the `features` as `scaled` gives them, whose `means` over the history show
    what is unusual in a change; `words` are the weights behind the feature of that name (see `words.score`);
    `sizes` are quantiles of the changed lines of recent commits; `curve` are
    points (score, probability) between which probabilities are interpolated; `scores` are evenly spaced
    quantiles of the scores of recent commits, from the lowest to the highest; `report` is what was measured.
    """

    kind: str = NONE
    why: str = ""
    features: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    bias: float = 0.0
    means: tuple[float, ...] = ()
    words: tuple[float, ...] = ()
    sizes: tuple[float, ...] = ()
    curve: tuple[tuple[float, float], ...] = ()
    scores: tuple[float, ...] = ()
    known: int = 0
    needed: int = 0
    latency: float = 0.0
    report: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def of(cls, data: Mapping[str, Any]) -> "Model":
        """Read what `to_json` wrote; GitpeftError when it is something else."""
        if not data:
            return cls(why="no risk model was made yet; run `gitpeft init`")
        try:
            data = {WORDS: (), **data}  # files that were written before there were any
            known = {name: data[name] for name in names(cls)}
            lists = {
                name: tuple(map(float, known[name]))
                for name in ("weights", "means", WORDS, "sizes", "scores")
            }
            curve = tuple((float(score), float(chance)) for score, chance in known["curve"])
            model = cls(**{**known, **lists, "curve": curve, "features": tuple(map(str, known["features"]))})
            model._check()
        except (KeyError, TypeError, ValueError) as error:
            raise GitpeftError(f"the risk model cannot be read: {error}", "run `gitpeft init`") from None
        return model

    def _check(self) -> None:
        if self.kind not in (*KINDS, NONE):
            raise ValueError(f"unknown kind {self.kind!r}")
        known = len(self.weights) == len(self.means) == len(self.features)
        if not known or set(self.features) - {*NAMES, WORDS, READING}:
            raise ValueError("features and weights do not belong together")
        if len(self.words) != (bag_of_words.BUCKETS if WORDS in self.features else 0):
            raise ValueError("the words have not as many weights as they should")
        if self.usable and not (len(self.curve) > 1 and len(self.scores) > 1):
            raise ValueError("no calibration")
        numbers = (
            *self.weights,
            *self.means,
            *self.words,
            self.bias,
            *self.scores,
            *self.sizes,
            *(x for point in self.curve for x in point),
        )
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("a number is not finite")

    def to_json(self) -> str:
        """The text of `risk.json`; equal models give equal texts."""
        from dataclasses import asdict

        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @property
    def usable(self) -> bool:
        """Whether it may be asked at all."""
        return self.kind != NONE

    @property
    def reads(self) -> bool:
        """Whether it needs what an encoder reads in a change."""
        return READING in self.features

    @property
    def picks_lines(self) -> bool:
        """Whether the lines that weigh most were those that fixes changed, more often than by chance."""
        low = self.report.get("lines", {}).get("gain", [0, 0, 0])[1]
        return isinstance(low, float) and low > 0

    def score(self, metrics: Metrics, beside: Mapping[str, float] | None = None) -> float:
        """The score of a change: higher is riskier, comparable within this model only."""
        values = zip(self.weights, scaled(metrics, self.features, beside), strict=True)
        return self.bias + sum(weight * value for weight, value in values)

    def probability(self, score: float) -> float:
        """The calibrated probability that a later fix corrects this change."""
        return interpolate(self.curve, score)

    def percentile(self, score: float) -> float:
        """The share of recent commits here, in percent, whose score is not higher."""
        return 100 * share_below(self.scores, score)

    def size_percentile(self, lines: int) -> float:
        """The same for the number of changed lines alone."""
        return 100 * share_below(self.sizes, lines) if self.sizes else 0.0

    def parts(self, metrics: Metrics, beside: Mapping[str, float] | None = None) -> list[tuple[str, float]]:
        """What each feature adds to the score against a usual commit, what weighs most first."""
        values = scaled(metrics, self.features, beside)
        rows = zip(self.features, self.weights, self.means, values, strict=True)
        parts = [(name, weight * (value - mean)) for name, weight, mean, value in rows]
        return sorted(parts, key=lambda part: -abs(part[1]))

    def flags(self, score: float, budget: float) -> bool:
        """Whether a score is above those of all but `budget` percent of the recent commits."""
        place = (1 - budget / 100) * (len(self.scores) - 1)
        return score > self.scores[min(len(self.scores) - 1, math.ceil(place - 1e-9))]


def share_below(quantiles: Sequence[float], value: float) -> float:
    """Where a value stands among evenly spaced quantiles, 0..1; a value on several of them is above them."""
    low, high = bisect_left(quantiles, value), bisect_right(quantiles, value)
    place = float(max(0, high - 1))
    if low == high and 0 < low < len(quantiles):
        before, after = quantiles[low - 1], quantiles[low]
        place = low - 1 + (value - before) / (after - before)
    return place / (len(quantiles) - 1)


def interpolate(points: Sequence[tuple[float, float]], x: float) -> float:
    """Linear between points in ascending order, flat outside."""
    at = bisect_left(points, (x, -math.inf))
    if at == 0 or at == len(points):
        return points[min(at, len(points) - 1)][1]
    (x0, y0), (x1, y1) = points[at - 1], points[at]
    return y1 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def model_of(bundle: bundles.Bundle | None) -> Model:
    """The risk model of a bundle; one that says why there is none where there is none."""
    return Model.of(bundle.json(bundles.RISK) if bundle else {})


# --- a change -----------------------------------------------------------------------------------------------


def staged(repository: Repository, author: str, now: int) -> tuple[list[FileChange], Change, str | None]:
    """What is staged, as git shows it and as the metrics see it, and the commit that it comes after.

    `author` is the hash of who commits.
    """
    files = parse(repository.staged_patch())
    head, counts = repository.head_and_line_counts(_contents(files, "HEAD"))
    return files, Change(_touched(files, "HEAD", counts), author, now), head


def as_change(
    repository: Repository,
    files: Sequence[FileChange],
    parent: str,
    author: str,
    when: int,
    fix: bool = False,
) -> Change:
    """Files that change on top of the commit `parent` ("" for the first commit) as the metrics see them."""
    counts = repository.line_counts(_contents(files, parent))
    return Change(_touched(files, parent, counts), author, when, fix)


def _touched(files: Sequence[FileChange], parent: str, counts: Mapping[str, int]) -> tuple[Touch, ...]:
    return tuple(
        Touch(
            path=path,
            status=file.status,
            kind=file.kind,
            added=file.added,
            removed=file.removed,
            lines=counts.get(_content(file, parent), 0),
            functions=frozenset(map(function_key, file.functions)),
            origin=origin if file.status == "R" else None,
        )
        for file, (path, origin) in zip(files, masked(files), strict=True)
    )


def _contents(files: Sequence[FileChange], parent: str) -> list[str]:
    """Every content that was there before the change and has lines."""
    return sorted({_content(file, parent) for file in files} - {""})


def _content(file: FileChange, parent: str) -> str:
    """What git calls the content before the change; "" where there is none or it has no lines."""
    if file.status == "A" or file.kind not in LINED:
        return ""
    old = file.blobs[0].strip("0") and file.blobs[0]
    return old or (f"{parent}:{file.old_path or file.path}" if parent else "")


def masked(files: Sequence[FileChange]) -> list[tuple[str, str | None]]:
    """Path and origin of each file as history stores them: without secrets."""
    lines = (
        mask("\n".join(f"{file.path}\t{file.old_path or ''}" for file in files)).split("\n") if files else []
    )
    pairs = (line.partition("\t") for line in lines)
    return [(path, origin or None) for path, _, origin in pairs]
