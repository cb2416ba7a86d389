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
from gitpeft.diff.patch import FileChange, parse_patch
from gitpeft.errors import GitpeftError
from gitpeft.git.objects import read_head_and_line_counts, read_line_counts
from gitpeft.git.repository import Repository
from gitpeft.history.context import KINDS_WITH_LINES, MeasuredChange, TouchedFile, hash_function_heading
from gitpeft.lazy import field, field_names, lazy_dataclass
from gitpeft.redaction import mask_secrets
from gitpeft.risk import bag_of_words
from gitpeft.risk.change_metrics import KAMEI_METRICS, METRIC_NAMES, ChangeMetrics

RISK_FEATURES = tuple(name for name in KAMEI_METRICS if name != "fix")
"""What a model looks at: before a commit nobody knows yet whether its message will call it a fix."""

_UNSCALED_FEATURES = frozenset({"entropy", "tests", "fix"})
LINES_ADDED, LOGISTIC_REGRESSION, NO_MODEL = "lines added", "logistic regression", "none"
METRICS_AND_WORDS, TUNED_ENCODER, METRICS_WORDS_AND_ENCODER = (
    "metrics and words",
    "tuned encoder",
    "metrics, words and encoder",
)
RISK_MODEL_KINDS = (
    LINES_ADDED,
    LOGISTIC_REGRESSION,
    METRICS_AND_WORDS,
    TUNED_ENCODER,
    METRICS_WORDS_AND_ENCODER,
)
"""The scores, the simpler one first."""

WORDS_FEATURE, ENCODER_FEATURE = "words", "reading"
"""Features that are no metrics: the score of the words, and the encoder's logit (see `risk.encoder`)."""


def scale_features(
    metrics: ChangeMetrics, names: Sequence[str] = RISK_FEATURES, beside: Mapping[str, float] | None = None
) -> list[float]:
    """Features for a model: counts and days as log(1 + x); the others, and what is `beside`, as they are."""
    others = beside or {}
    values = ((name, others[name] if name in others else float(getattr(metrics, name))) for name in names)
    as_is = _UNSCALED_FEATURES.union(others)
    return [value if name in as_is else math.log1p(max(0.0, value)) for name, value in values]


@lazy_dataclass(frozen=True, slots=True)
class RiskModel:
    """A fitted score. `kind` is one of `KINDS`, or `none` for the reason `why`.

    `weights` and `bias` belong to the `features` as `scaled` gives them, whose `means` over the history show
    what is unusual in a change; `words` are the weights behind the feature of that name (see `words.score`);
    `sizes` are quantiles of the changed lines of recent commits; `curve` are
    points (score, probability) between which probabilities are interpolated; `scores` are evenly spaced
    quantiles of the scores of recent commits, from the lowest to the highest; `report` is what was measured.
    """

    kind: str = NO_MODEL
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
    def from_dict(cls, data: Mapping[str, Any]) -> "RiskModel":
        """Read what `to_json` wrote; GitpeftError when it is something else."""
        if not data:
            return cls(why="no risk model was made yet; run `gitpeft init`")
        try:
            data = {WORDS_FEATURE: (), **data}  # files that were written before there were any
            known = {name: data[name] for name in field_names(cls)}
            lists = {
                name: tuple(map(float, known[name]))
                for name in ("weights", "means", WORDS_FEATURE, "sizes", "scores")
            }
            curve = tuple((float(score), float(chance)) for score, chance in known["curve"])
            model = cls(**{**known, **lists, "curve": curve, "features": tuple(map(str, known["features"]))})
            model._check_consistency()
        except (KeyError, TypeError, ValueError) as error:
            raise GitpeftError(f"the risk model cannot be read: {error}", "run `gitpeft init`") from None
        return model

    def _check_consistency(self) -> None:
        if self.kind not in (*RISK_MODEL_KINDS, NO_MODEL):
            raise ValueError(f"unknown kind {self.kind!r}")
        known = len(self.weights) == len(self.means) == len(self.features)
        if not known or set(self.features) - {*METRIC_NAMES, WORDS_FEATURE, ENCODER_FEATURE}:
            raise ValueError("features and weights do not belong together")
        if len(self.words) != (bag_of_words.BUCKET_COUNT if WORDS_FEATURE in self.features else 0):
            raise ValueError("the words have not as many weights as they should")
        if self.is_usable and not (len(self.curve) > 1 and len(self.scores) > 1):
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
    def is_usable(self) -> bool:
        """Whether it may be asked at all."""
        return self.kind != NO_MODEL

    @property
    def needs_encoder(self) -> bool:
        """Whether it needs what an encoder reads in a change."""
        return ENCODER_FEATURE in self.features

    @property
    def can_rank_lines(self) -> bool:
        """Whether the lines that weigh most were those that fixes changed, more often than by chance."""
        low = self.report.get("lines", {}).get("gain", [0, 0, 0])[1]
        return isinstance(low, float) and low > 0

    def compute_score(self, metrics: ChangeMetrics, beside: Mapping[str, float] | None = None) -> float:
        """The score of a change: higher is riskier, comparable within this model only."""
        values = zip(self.weights, scale_features(metrics, self.features, beside), strict=True)
        return self.bias + sum(weight * value for weight, value in values)

    def predict_probability(self, score: float) -> float:
        """The calibrated probability that a later fix corrects this change."""
        return interpolate_linearly(self.curve, score)

    def percentile_of_score(self, score: float) -> float:
        """The share of recent commits here, in percent, whose score is not higher."""
        return 100 * share_below(self.scores, score)

    def percentile_of_size(self, lines: int) -> float:
        """The same for the number of changed lines alone."""
        return 100 * share_below(self.sizes, lines) if self.sizes else 0.0

    def explain_score(
        self, metrics: ChangeMetrics, beside: Mapping[str, float] | None = None
    ) -> list[tuple[str, float]]:
        """What each feature adds to the score against a usual commit, what weighs most first."""
        values = scale_features(metrics, self.features, beside)
        rows = zip(self.features, self.weights, self.means, values, strict=True)
        parts = [(name, weight * (value - mean)) for name, weight, mean, value in rows]
        return sorted(parts, key=lambda part: -abs(part[1]))

    def should_flag(self, score: float, budget: float) -> bool:
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


def interpolate_linearly(points: Sequence[tuple[float, float]], x: float) -> float:
    """Linear between points in ascending order, flat outside."""
    at = bisect_left(points, (x, -math.inf))
    if at == 0 or at == len(points):
        return points[min(at, len(points) - 1)][1]
    (x0, y0), (x1, y1) = points[at - 1], points[at]
    return y1 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def load_risk_model(bundle: bundles.Bundle | None) -> RiskModel:
    """The risk model of a bundle; one that says why there is none where there is none."""
    return RiskModel.from_dict(bundle.read_json(bundles.RISK_MODEL_FILE) if bundle else {})


# --- a change -----------------------------------------------------------------------------------------------


def read_staged_change(
    repository: Repository, author: str, now: int
) -> tuple[list[FileChange], MeasuredChange, str | None]:
    """What is staged, as git shows it and as the metrics see it, and the commit that it comes after.

    `author` is the hash of who commits.
    """
    files = parse_patch(repository.read_staged_patch())
    head, counts = read_head_and_line_counts(repository, _list_old_blobs(files, "HEAD"))
    return files, MeasuredChange(_build_touched_files(files, "HEAD", counts), author, now), head


def build_measured_change(
    repository: Repository,
    files: Sequence[FileChange],
    parent: str,
    author: str,
    when: int,
    fix: bool = False,
) -> MeasuredChange:
    """Files that change on top of the commit `parent` ("" for the first commit) as the metrics see them."""
    counts = read_line_counts(repository, _list_old_blobs(files, parent))
    return MeasuredChange(_build_touched_files(files, parent, counts), author, when, fix)


def _build_touched_files(
    files: Sequence[FileChange], parent: str, counts: Mapping[str, int]
) -> tuple[TouchedFile, ...]:
    return tuple(
        TouchedFile(
            path=path,
            status=file.status,
            kind=file.kind,
            added=file.added,
            removed=file.removed,
            lines=counts.get(_find_old_blob(file, parent), 0),
            functions=frozenset(map(hash_function_heading, file.functions)),
            origin=origin if file.status == "R" else None,
        )
        for file, (path, origin) in zip(files, mask_paths(files), strict=True)
    )


def _list_old_blobs(files: Sequence[FileChange], parent: str) -> list[str]:
    """Every content that was there before the change and has lines."""
    return sorted({_find_old_blob(file, parent) for file in files} - {""})


def _find_old_blob(file: FileChange, parent: str) -> str:
    """What git calls the content before the change; "" where there is none or it has no lines."""
    if file.status == "A" or file.kind not in KINDS_WITH_LINES:
        return ""
    old = file.blobs[0].strip("0") and file.blobs[0]
    return old or (f"{parent}:{file.old_path or file.path}" if parent else "")


def mask_paths(files: Sequence[FileChange]) -> list[tuple[str, str | None]]:
    """Path and origin of each file as history stores them: without secrets."""
    lines = (
        mask_secrets("\n".join(f"{file.path}\t{file.old_path or ''}" for file in files)).split("\n")
        if files
        else []
    )
    pairs = (line.partition("\t") for line in lines)
    return [(path, origin or None) for path, _, origin in pairs]
