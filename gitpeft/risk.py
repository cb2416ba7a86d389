"""How risky a change is, in this repository: hides the score, its calibration, and how it is put together.

    patch -> files -> metrics (`metrics.measure`) -> score -> percentile, probability -> flagged or not

The score is a sum of weighted features, made by `learn.defects` and kept in the bundle as JSON: the standard
library is all that is needed here. A model that is not better than the number of added lines is not shipped;
one that cannot be trusted for want of known bugs says so in `why`, and then nothing is ever flagged.
"""

import json
import math
import time
from bisect import bisect_left, bisect_right
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields
from typing import Any

from gitpeft import bundle as bundles
from gitpeft.diff import FileChange, parse
from gitpeft.errors import GitpeftError
from gitpeft.git import Repository
from gitpeft.mask import mask
from gitpeft.metrics import NAMES, Metrics
from gitpeft.past import LINED, Change, Touch, function_key

FEATURES = tuple(name for name in NAMES if name != "fix")
"""What a model may look at: before a commit nobody knows yet whether its message will call it a fix."""

_AS_THEY_ARE = frozenset({"entropy", "tests", "fix"})
LINES_ADDED, LOGISTIC, NONE = "lines added", "logistic regression", "none"


def scaled(metrics: Metrics, names: Sequence[str] = FEATURES) -> list[float]:
    """Features for a model: counts and days as log(1 + x), shares and entropy as they are."""
    values = ((name, float(getattr(metrics, name))) for name in names)
    return [value if name in _AS_THEY_ARE else math.log1p(max(0.0, value)) for name, value in values]


@dataclass(frozen=True, slots=True)
class Model:
    """A fitted score. `kind` is `lines added`, `logistic regression`, or `none` for the reason `why`.

    `weights` and `bias` belong to the `features` as `scaled` gives them; `curve` are points (score,
    probability) between which probabilities are interpolated; `scores` are evenly spaced quantiles of the
    scores of recent commits, from the lowest to the highest; `report` is what was measured.
    """

    kind: str = NONE
    why: str = ""
    features: tuple[str, ...] = ()
    weights: tuple[float, ...] = ()
    bias: float = 0.0
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
            known = {one.name: data[one.name] for one in fields(cls)}
            lists = {name: tuple(map(float, known[name])) for name in ("weights", "scores")}
            curve = tuple((float(score), float(chance)) for score, chance in known["curve"])
            model = cls(**{**known, **lists, "curve": curve, "features": tuple(map(str, known["features"]))})
            model._check()
        except (KeyError, TypeError, ValueError) as error:
            raise GitpeftError(f"the risk model cannot be read: {error}", "run `gitpeft init`") from None
        return model

    def _check(self) -> None:
        if self.kind not in (LINES_ADDED, LOGISTIC, NONE):
            raise ValueError(f"unknown kind {self.kind!r}")
        if len(self.weights) != len(self.features) or set(self.features) - set(NAMES):
            raise ValueError("features and weights do not belong together")
        if self.usable and not (len(self.curve) > 1 and len(self.scores) > 1):
            raise ValueError("no calibration")
        numbers = (*self.weights, self.bias, *self.scores, *(x for point in self.curve for x in point))
        if not all(math.isfinite(number) for number in numbers):
            raise ValueError("a number is not finite")

    def to_json(self) -> str:
        """The text of `risk.json`; equal models give equal texts."""
        return json.dumps(asdict(self), indent=1, sort_keys=True)

    @property
    def usable(self) -> bool:
        """Whether it may be asked at all."""
        return self.kind != NONE

    def score(self, metrics: Metrics) -> float:
        """The score of a change: higher is riskier, comparable within this model only."""
        values = zip(self.weights, scaled(metrics, self.features), strict=True)
        return self.bias + sum(weight * value for weight, value in values)

    def probability(self, score: float) -> float:
        """The calibrated probability that a later fix corrects this change."""
        return interpolate(self.curve, score)

    def percentile(self, score: float) -> float:
        """The share of recent commits here, in percent, whose score is not higher."""
        low, high = bisect_left(self.scores, score), bisect_right(self.scores, score)
        if low == high and 0 < low < len(self.scores):
            before, after = self.scores[low - 1], self.scores[low]
            place = low - 1 + (score - before) / (after - before)
        else:
            place = max(0, high - 1)
        return 100.0 * place / (len(self.scores) - 1)

    def flags(self, score: float, budget: float) -> bool:
        """Whether a score is above those of all but `budget` percent of the recent commits."""
        place = (1 - budget / 100) * (len(self.scores) - 1)
        return score > self.scores[min(len(self.scores) - 1, math.ceil(place - 1e-9))]


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


@dataclass(frozen=True, slots=True)
class Asked:
    """A change to be looked at: what the metrics need, the files as git shows them, and its parent."""

    change: Change
    files: tuple[FileChange, ...]
    parent: str | None


def staged(repository: Repository, author: str, now: float | None = None) -> Asked:
    """What is staged; `author` is the hash of who commits. GitpeftError when git fails."""
    head = repository.head()
    files = parse(repository.staged_patch())
    moment = int(time.time() if now is None else now)
    return Asked(_change(repository, files, head or "", author, moment, fix=False), tuple(files), head)


def committed(
    repository: Repository, sha: str, parent: str | None, author: str, when: int, fix: bool
) -> Asked:
    """The change of a commit as if it were staged on its first parent, with its own author and time."""
    files = parse(repository.patch(sha)) if sha else []
    return Asked(_change(repository, files, parent or "", author, when, fix), tuple(files), parent)


def _change(
    repository: Repository, files: Sequence[FileChange], parent: str, author: str, when: int, fix: bool
) -> Change:
    names = [_content(file, parent) for file in files]
    counts = repository.line_counts(sorted({name for name in names if name}))
    paths = masked(files)
    touched = [
        Touch(
            path=path,
            status=file.status,
            kind=file.kind,
            added=file.added,
            removed=file.removed,
            lines=counts.get(name, 0),
            functions=frozenset(map(function_key, file.functions)),
            origin=origin if file.status == "R" else None,
        )
        for file, name, (path, origin) in zip(files, names, paths, strict=True)
    ]
    return Change(tuple(touched), author, when, fix)


def _content(file: FileChange, parent: str) -> str:
    """What git calls the content before the change; "" where there is none or it has no lines."""
    if file.status == "A" or file.kind not in LINED:
        return ""
    old = file.blobs[0].strip("0") and file.blobs[0]
    return old or (f"{parent}:{file.old_path or file.path}" if parent else "")


def masked(files: Sequence[FileChange]) -> list[tuple[str, str | None]]:
    """Path and origin of each file as history stores them: without secrets."""
    lines = mask("\n".join(f"{file.path}\t{file.old_path or ''}" for file in files)).split("\n") if files else []
    pairs = (line.partition("\t") for line in lines)
    return [(path, origin or None) for path, _, origin in pairs]
