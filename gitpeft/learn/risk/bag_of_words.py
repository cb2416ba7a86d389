"""Fits a logistic regression on the hashed words of changes."""

from collections.abc import Sequence
from functools import lru_cache

import numpy as np
from numpy.typing import NDArray

from gitpeft.risk.bag_of_words import BUCKET_COUNT, hash_words

Array = NDArray[np.float64]

MAX_WORD_COMMITS = 1500
"""Commits that are fitted on, the newest ones: the time grows with the third power of their number."""

RIDGE_PENALTY = 1.0
FOLD_COUNT = 3
_MAX_STEPS = 60
_ROWS_AT_ONCE = 4096


def build_word_matrix(changes: Sequence[str]) -> NDArray[np.float32]:
    """A row for each change, of length one or empty, so that its product with weights is the score."""
    rows = np.zeros((len(changes), BUCKET_COUNT), dtype=np.float32)
    for row, change in zip(rows, changes, strict=True):
        found = _remember_words(change)
        if len(found):
            row[found] = len(found) ** -0.5
    return rows


@lru_cache(1 << 17)
def _remember_words(change: str) -> NDArray[np.uint16]:
    """`hash_words`, remembered: each fit of an evaluation asks again."""
    return np.array(sorted(hash_words(change)), dtype=np.uint16)


def score_changes(changes: Sequence[str], weights: Sequence[float]) -> Array:
    """The score of each change, (n), as `score_words` gives it."""
    column = np.array(weights)
    parts = [
        build_word_matrix(changes[start : start + _ROWS_AT_ONCE]).astype(float) @ column
        for start in range(0, len(changes), _ROWS_AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def fit_word_weights(changes: Sequence[str], truth: Array) -> tuple[tuple[float, ...], Array]:
    """A weight for each bucket, and out-of-fold scores of the changes, (n).

    The folds are `FOLD_COUNT` consecutive stretches; NaN for changes that are too old to be fitted on.
    """
    first = max(0, len(changes) - MAX_WORD_COMMITS)
    rows, y = build_word_matrix(changes[first:]), truth[first:]
    kernel = (rows @ rows.T).astype(np.float64)
    weights = rows.T @ _fit_dual_logistic(kernel, y)[0]
    unseen = np.full(len(changes), np.nan)
    for fold in np.array_split(np.arange(len(y)), FOLD_COUNT):
        rest = np.setdiff1d(np.arange(len(y)), fold)
        alpha, _ = _fit_dual_logistic(kernel[np.ix_(rest, rest)], y[rest])
        unseen[first + fold] = kernel[np.ix_(fold, rest)] @ alpha
    return tuple(round(float(x), 4) for x in weights), unseen


def _fit_dual_logistic(kernel: Array, y: Array) -> tuple[Array, float]:
    """Dual weights (n) and bias that minimise the log loss plus RIDGE / 2 times the squared primal weights.

    The curvature of the loss is at most 1/4 (Böhning 1992): with that bound in its place one inversion
    serves all steps.
    """
    n = len(y)
    inverse = np.linalg.inv(kernel + 1.0 + 4 * RIDGE_PENALTY * np.eye(n))  # the bias is a feature of ones
    dual = np.zeros(n)
    for _ in range(_MAX_STEPS):
        score = kernel @ dual + dual.sum()
        step = inverse @ (score + 4 * (y - 1 / (1 + np.exp(-score))))
        done = float(np.abs(step - dual).max()) < 1e-6
        dual = step
        if done:
            break
    return dual, float(dual.sum())
