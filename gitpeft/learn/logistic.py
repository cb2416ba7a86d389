"""Logistic regression by Newton's method, and Platt's sigmoid for calibrating scores."""

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

CalibrationCurve = tuple[tuple[float, float], ...]
"""Points (score, probability) in ascending order."""

SPREAD = 1e-9
"""Added to a standard deviation before something is divided by it."""

_CURVE_POINTS = 41


def fit_logistic_newton(x: Array, y: Array, ridge: Array, steps: int = 50) -> tuple[Array, float]:
    """Weights and bias that minimise the log loss plus half of `ridge` times each squared weight.

    `x` are standardised features (n, d), `y` goals (n, 0..1), `ridge` a penalty for each feature (d).
    """
    full = np.hstack([x, np.ones((len(x), 1))])
    penalty = np.diag([*ridge, 1e-6])
    beta = np.zeros(full.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(full @ beta, -30, 30)))
        curvature = (full * (p * (1 - p) + 1e-9)[:, None]).T @ full + penalty
        step = np.linalg.solve(curvature, full.T @ (y - p) - penalty @ beta)
        beta = beta + step
        if float(np.abs(step).max()) < 1e-9:
            break
    return beta[:-1], float(beta[-1])


def fit_platt_sigmoid(x: Array, truth: Array) -> CalibrationCurve:
    """Points of Platt's sigmoid from scores (n) to probabilities, fitted to what became of the commits.

    Targets are smoothed as Platt (1999) does, so that few commits give no certainty.
    """
    bad, good = truth.sum(), (1 - truth).sum()
    goal = np.where(truth > 0, (bad + 1) / (bad + 2), 1 / (good + 2))
    centre, spread = float(x.mean()), float(x.std()) + SPREAD
    weights, bias = fit_logistic_newton(((x - centre) / spread)[:, None], goal, np.array([1e-3]))
    slope = max(0.0, float(weights[0]))  # a score that says nothing gets the mean, never the reverse
    at = np.linspace(x.min() - spread, x.max() + spread, _CURVE_POINTS)
    chance = 1 / (1 + np.exp(-(slope * (at - centre) / spread + bias)))
    return tuple(zip(map(float, at), map(float, chance), strict=True))
