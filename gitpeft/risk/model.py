"""The risk model of a repository: score, calibrated probability, percentile and flag of a change.

    patch -> files -> metrics (`compute_change_metrics`) -> score -> percentile, probability -> flagged or not

The score is a weighted sum of features, fitted by `learn.risk.selection` and stored in the bundle as JSON, so
that the standard library is enough here. Besides the metrics, a feature may be the score of the change's
words (`words`) or the logit of an encoder (`reading`). A model that is not better than the number of added
lines is not shipped. Where too few bugs are known to trust any model, `why` says so, and nothing is flagged.
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
from gitpeft.history.paths import mask_names
from gitpeft.lazy import field, field_names, lazy_dataclass
from gitpeft.risk import bag_of_words
from gitpeft.risk.change_metrics import KAMEI_METRICS, METRIC_NAMES, ChangeMetrics
from gitpeft.risk.real_lines import measure_real_shares

RISK_FEATURES = tuple(name for name in KAMEI_METRICS if name != "fix")
"""The metrics that a model uses: all but `fix`, since a change has no message yet when it is assessed."""

_UNSCALED_FEATURES = frozenset({"entropy", "tests", "fix"})
MIN_JUDGED_BUGS = 10
"""Later-fixed commits below which no score is judged: the interval of an AUC would span most of 0.5 to 1, and
one bug at the top of a ranking makes it perfect. Only counts and evidence are shown then."""

LINES_ADDED, LOGISTIC_REGRESSION, NO_MODEL = "lines added", "logistic regression", "none"
PRIOR, PRIOR_AND_OWN = "prior", "prior and own history"
METRICS_AND_WORDS, TUNED_ENCODER, METRICS_WORDS_AND_ENCODER = (
    "metrics and words",
    "tuned encoder",
    "metrics, words and encoder",
)
RISK_MODEL_KINDS = (
    LINES_ADDED,
    PRIOR,
    PRIOR_AND_OWN,
    LOGISTIC_REGRESSION,
    METRICS_AND_WORDS,
    TUNED_ENCODER,
    METRICS_WORDS_AND_ENCODER,
)
"""The kinds of models, the simpler ones first."""

MODEL_NOTES = {
    PRIOR: "learnt from public histories",
    PRIOR_AND_OWN: "learnt from public histories, corrected by the bugs of this one",
}
"""What the kinds mean whose names do not say it."""

_COUNTS_OF_REPORT = frozenset({"until", "n", "buggy", "labelled", "recent"})

WORDS_FEATURE, ENCODER_FEATURE = "words", "reading"
"""Features that are not metrics: the score of the words, and the encoder's logit (see `risk.encoder`)."""

RANK_PREFIX = "rank:"
"""Before the name of a metric: its rank among the recent commits of the repository instead of its value."""

Quantiles = Mapping[str, Sequence[float]]
"""Evenly spaced quantiles of metrics over recent commits, ascending, by the name of the metric."""


def scale_features(
    metrics: ChangeMetrics,
    names: Sequence[str] = RISK_FEATURES,
    beside: Mapping[str, float] | None = None,
    quantiles: Quantiles | None = None,
) -> list[float]:
    """A model's features: counts and days as log(1 + x), ranks among `quantiles`, others unchanged.

    Ranks are from 0 to 1; `beside` has the features that are not metrics.
    """
    return [_scale_feature(name, metrics, beside or {}, quantiles or {}) for name in names]


def _scale_feature(
    name: str, metrics: ChangeMetrics, beside: Mapping[str, float], quantiles: Quantiles
) -> float:
    if name in beside:
        return beside[name]
    if name.startswith(RANK_PREFIX):
        metric = name.removeprefix(RANK_PREFIX)
        return rank_among(quantiles[metric], float(getattr(metrics, metric)))
    value = float(getattr(metrics, name))
    return value if name in _UNSCALED_FEATURES else math.log1p(max(0.0, value))


def rank_among(quantiles: Sequence[float], value: float) -> float:
    """The rank of a value, 0 to 1; values equal to it count half."""
    return (bisect_left(quantiles, value) + bisect_right(quantiles, value)) / (2 * len(quantiles))


@lazy_dataclass(frozen=True, slots=True)
class RiskModel:
    """A fitted risk model; `kind` is one of `RISK_MODEL_KINDS`, or `none` for the reason `why`.

    A prior that could not be checked in this repository has a `why` as well.

    features  names of the features, as `scale_features` returns them
    weights   their weights; `bias` is added to the sum
    means     of the features over the history: what is usual, for `explain_score`
    words     weights behind the feature of that name (see `bag_of_words.score_words`)
    ranks     quantiles of the metrics that features beginning with `RANK_PREFIX` are ranked among
    sizes     quantiles of the changed lines of recent commits, evenly spaced
    curve     calibration: points (score, probability), interpolated linearly
    scores    quantiles of the scores of recent commits, evenly spaced, ascending
    known     bugs known in the history; `needed` as many for a model
    latency   days in which most bugs become known
    report    the measurements on which the model was selected
    """

    kind: str = NO_MODEL
    why: str = ""
    features: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    bias: float = 0.0
    means: tuple[float, ...] = ()
    words: tuple[float, ...] = ()
    ranks: dict[str, tuple[float, ...]] = field(default_factory=dict)
    sizes: tuple[float, ...] = ()
    curve: tuple[tuple[float, float], ...] = ()
    scores: tuple[float, ...] = ()
    known: int = 0
    needed: int = 0
    latency: float = 0.0
    report: dict[str, Any] = field(default_factory=dict)

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "RiskModel":
        """Parse the content of `risk.json`; GitpeftError when it is invalid. An empty one is no model."""
        if not data:
            return cls(why="no risk model yet; run `gitpeft init`")
        try:
            data = {WORDS_FEATURE: (), "ranks": {}, **data}  # missing in files of older versions
            known = {name: data[name] for name in field_names(cls)}
            lists = {
                name: tuple(map(float, known[name]))
                for name in ("weights", "means", WORDS_FEATURE, "sizes", "scores")
            }
            curve = tuple((float(score), float(chance)) for score, chance in known["curve"])
            ranks = {str(name): tuple(map(float, row)) for name, row in known["ranks"].items()}
            features = tuple(map(str, known["features"]))
            model = cls(**{**known, **lists, "curve": curve, "ranks": ranks, "features": features})
            model._check_consistency()
        except (AttributeError, KeyError, TypeError, ValueError) as error:
            raise GitpeftError(f"the risk model is invalid: {error}", "Run `gitpeft init`.") from None
        return model

    def _check_consistency(self) -> None:
        if self.kind not in (*RISK_MODEL_KINDS, NO_MODEL):
            raise ValueError(f"unknown kind {self.kind!r}")
        known = len(self.weights) == len(self.means) == len(self.features)
        ranked = {RANK_PREFIX + name for name, row in self.ranks.items() if row and name in METRIC_NAMES}
        if not known or set(self.features) - {*METRIC_NAMES, *ranked, WORDS_FEATURE, ENCODER_FEATURE}:
            raise ValueError("features and weights do not match")
        if len(self.words) != (bag_of_words.BUCKET_COUNT if WORDS_FEATURE in self.features else 0):
            raise ValueError("wrong number of word weights")
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
            *(x for row in self.ranks.values() for x in row),
        )
        if not all(map(math.isfinite, numbers)):
            raise ValueError("a number is not finite")

    def to_json(self) -> str:
        """The content of `risk.json`; equal models give equal texts."""
        from dataclasses import asdict

        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @property
    def is_usable(self) -> bool:
        """Whether there is a model that can score changes."""
        return self.kind != NO_MODEL

    @property
    def warns(self) -> bool:
        """Whether it beat the number of added lines on later commits here, so that the hook may warn."""
        return self.is_usable and self.kind != LINES_ADDED and bool(self.report.get("warns", True))

    @property
    def is_checked(self) -> bool:
        """Whether it was measured on later commits of this repository; if not, `why` says the reason."""
        return bool(self.report.get("checked", True))

    @property
    def is_judged(self) -> bool:
        """Whether enough later-fixed commits stand behind the measurements (of old files: unknown, True)."""
        buggy = self.report.get("buggy", MIN_JUDGED_BUGS)
        return isinstance(buggy, int) and buggy >= MIN_JUDGED_BUGS

    @property
    def quiet(self) -> Mapping[str, Any]:
        """What became of changes below a percentile (see `learn.risk.quiet`); {} in old bundles."""
        found = self.report.get("quiet", {})
        return found if isinstance(found, dict) else {}

    @property
    def quiet_below(self) -> float | None:
        """The percentile below which a change is called quiet; None where none held on later commits."""
        below = self.quiet.get("below")
        return float(below) if isinstance(below, int | float) else None

    @property
    def needs_encoder(self) -> bool:
        """Whether one of its features comes from an encoder."""
        return ENCODER_FEATURE in self.features

    @property
    def can_rank_lines(self) -> bool:
        """Whether its riskiest lines were measurably more often those that fixes changed than chance."""
        low = self.report.get("lines", {}).get("gain", [0, 0, 0])[1]
        return isinstance(low, float) and low > 0

    def compute_score(self, metrics: ChangeMetrics, beside: Mapping[str, float] | None = None) -> float:
        """The score of a change: higher is riskier; scores of different models cannot be compared."""
        values = zip(self.weights, self._scale(metrics, beside), strict=True)
        return self.bias + sum(weight * value for weight, value in values)

    def _scale(self, metrics: ChangeMetrics, beside: Mapping[str, float] | None) -> list[float]:
        return scale_features(metrics, self.features, beside, self.ranks)

    def predict_probability(self, score: float) -> float:
        """The calibrated probability that a later fix corrects this change."""
        return interpolate_linearly(self.curve, score)

    def percentile_of_score(self, score: float) -> float:
        """The share of the recent commits, in percent, whose score is not higher."""
        return 100 * share_below(self.scores, score)

    def percentile_of_size(self, lines: int) -> float:
        """The same for the number of changed lines alone."""
        return 100 * share_below(self.sizes, lines) if self.sizes else 0.0

    def explain_score(
        self, metrics: ChangeMetrics, beside: Mapping[str, float] | None = None
    ) -> list[tuple[str, float]]:
        """What each feature adds to the score compared with an average commit, the largest effect first."""
        values = self._scale(metrics, beside)
        rows = zip(self.features, self.weights, self.means, values, strict=True)
        parts = [(name, weight * (value - mean)) for name, weight, mean, value in rows]
        return sorted(parts, key=lambda part: -abs(part[1]))

    def should_flag(self, score: float, budget: float) -> bool:
        """Whether a score is among the highest `budget` percent of those of recent commits."""
        place = (1 - budget / 100) * (len(self.scores) - 1)
        return score > self.scores[min(len(self.scores) - 1, math.ceil(place - 1e-9))]


def share_below(quantiles: Sequence[float], value: float) -> float:
    """The position of a value among evenly spaced quantiles, 0 to 1; equal quantiles count as below it."""
    low, high = bisect_left(quantiles, value), bisect_right(quantiles, value)
    place = float(max(0, high - 1))
    if low == high and 0 < low < len(quantiles):
        before, after = quantiles[low - 1], quantiles[low]
        place = low - 1 + (value - before) / (after - before)
    return place / (len(quantiles) - 1)


def interpolate_linearly(points: Sequence[tuple[float, float]], x: float) -> float:
    """Interpolate linearly between points in ascending order; constant outside."""
    at = bisect_left(points, (x, -math.inf))
    if at == 0 or at == len(points):
        return points[min(at, len(points) - 1)][1]
    (x0, y0), (x1, y1) = points[at - 1], points[at]
    return y1 if x1 == x0 else y0 + (y1 - y0) * (x - x0) / (x1 - x0)


def load_risk_model(bundle: bundles.Bundle | None) -> RiskModel:
    """The risk model of a bundle; without one that could be judged, a model whose `why` says so."""
    return reject_unjudged_model(
        RiskModel.from_dict(bundle.read_json(bundles.RISK_MODEL_FILE) if bundle else {})
    )


def reject_unjudged_model(model: RiskModel) -> RiskModel:
    """The model, or, where it was measured on too few later-fixed commits, the reason in counts."""
    if model.is_judged:
        return model
    buggy, n = model.report.get("buggy", 0), model.report.get("n", 0)
    needed = f"{MIN_JUDGED_BUGS} needed"
    why = f"too few bugs to judge a score ({buggy} of the {n:,} newest labelled commits, {needed})"
    counts = {key: value for key, value in model.report.items() if key in _COUNTS_OF_REPORT}
    return RiskModel(why=why, known=model.known, needed=model.needed, latency=model.latency, report=counts)


# --- a change -----------------------------------------------------------------------------------------------


def read_staged_change(
    repository: Repository, author: str, now: int
) -> tuple[list[FileChange], MeasuredChange, str | None]:
    """Read the staged change: its files as parsed, the same for the metrics, and the id of HEAD (or None).

    `author` is the hash of the author, `now` the time of the change in Unix seconds.
    """
    files = parse_patch(repository.read_staged_patch())
    head, counts = read_head_and_line_counts(repository, _list_old_blobs(files, "HEAD"))
    touched = _build_touched_files(files, "HEAD", counts)
    return files, MeasuredChange(touched, author, now, real_shares=measure_real_shares(files)), head


def build_measured_change(
    repository: Repository,
    files: Sequence[FileChange],
    parent: str,
    author: str,
    when: int,
    fix: bool = False,
) -> MeasuredChange:
    """Build what the metrics need of a change on top of the commit `parent` ("" for the first commit)."""
    counts = read_line_counts(repository, _list_old_blobs(files, parent))
    touched = _build_touched_files(files, parent, counts)
    return MeasuredChange(touched, author, when, fix, measure_real_shares(files))


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
        for file, (path, origin) in zip(files, map(mask_names, files), strict=True)
    )


def _list_old_blobs(files: Sequence[FileChange], parent: str) -> list[str]:
    """The names of all contents that existed before the change and have lines."""
    return sorted({_find_old_blob(file, parent) for file in files} - {""})


def _find_old_blob(file: FileChange, parent: str) -> str:
    """Git's name of a file's content before the change; "" where there is none or it has no lines."""
    if file.status == "A" or file.kind not in KINDS_WITH_LINES:
        return ""
    old = file.blobs[0].strip("0") and file.blobs[0]
    return old or (f"{parent}:{file.old_path or file.path}" if parent else "")
