"""Measured commits with bugs that become known later, and texts to go with them."""

import math
from dataclasses import dataclass, field

import numpy as np
import pytest

from gitpeft.history.context import MeasuredChange, TouchedFile
from gitpeft.learn.risk import backtest
from gitpeft.learn.risk.classifiers import LabelledCommits
from gitpeft.learn.risk.encoder import CommitText, RiskData
from gitpeft.learn.risk.metric_replay import MeasuredCommit
from gitpeft.learn.szz import szz
from gitpeft.learn.szz.szz import TraceReport
from gitpeft.risk.change_metrics import DAY_SECONDS, ChangeMetrics
from tests.support import tinymodel
from tests.support.gitrepo import EPOCH


@dataclass
class Found:
    """Stands for what SZZ found: the moment at which each bug became known."""

    known: dict[str, int] = field(default_factory=dict)
    days: float | None = 10.0

    def bugs_known_at(self, time: int) -> set[str]:
        return {sha for sha, when in self.known.items() if when <= time}

    def latency_quantile(self, _: float) -> float | None:
        return self.days


def history(count: int, seed: int, weight: float, bugs: float = 0.2) -> tuple[list[MeasuredCommit], Found]:
    """Commits a day apart. Risk comes from `nuc` by `weight`, and from the lines added by the rest."""
    random = np.random.default_rng(seed)
    found, measured = Found(), []
    for number in range(count):
        la, nuc = int(random.lognormal(3, 1)), int(random.lognormal(3, 1))
        when = EPOCH + number * DAY_SECONDS
        metrics = ChangeMetrics(nf=1, la=la, nuc=nuc, exp=int(random.integers(99)))
        sign = weight * math.log(nuc + 1) + (1 - weight) * math.log(la + 1)
        if sign + 0.3 * random.standard_normal() > np.quantile(random.normal(3, 1, 400), 1 - bugs):
            found.known[f"{number:040x}"] = when + int(random.exponential(8) * DAY_SECONDS)
        change = MeasuredChange((TouchedFile("a.py", "M", "text", la, 0, 9),), "someone", when)
        measured.append(MeasuredCommit(f"{number:040x}", change, metrics))
    return measured, found


@dataclass
class Verdict:
    fixes: tuple[str, ...]
    lines: tuple[tuple[str, int], ...] = ()


@dataclass
class Traced(Found):
    verdicts: dict[str, Verdict] = field(default_factory=dict)
    untraced: frozenset[str] = frozenset()
    report: TraceReport | None = None


def play(monkeypatch: pytest.MonkeyPatch, measured: list[MeasuredCommit], found: Found) -> None:
    """Let a repository have this history."""
    traced = Traced(found.known, found.days, {sha: Verdict((f"f{sha[1:]}",)) for sha in found.known})
    monkeypatch.setattr(backtest, "measure_history", lambda *_: measured)
    monkeypatch.setattr(szz, "trace_bug_introducing_commits", lambda *_: traced)


BUGGY, CLEAN = tinymodel.CHANGES[1], tinymodel.CHANGES[3]


def data(count: int = 60) -> RiskData:
    """Changes of which one text is always buggy; the metrics say nothing."""
    dice = np.random.default_rng(0)
    truth = (np.arange(count) % 3 == 0).astype(float)
    metrics = tuple(ChangeMetrics(nf=1, la=int(dice.integers(1, 90))) for _ in range(count))
    shas = tuple(f"{i:040x}" for i in range(count))
    texts = {
        sha: CommitText(BUGGY if bad else CLEAN, "a message") for sha, bad in zip(shas, truth, strict=True)
    }
    whole = LabelledCommits(metrics, truth, DAY_SECONDS * np.arange(count, dtype=np.float64), shas)
    parts = (slice(0, count * 2 // 3), slice(count * 2 // 3, count * 5 // 6), slice(count * 5 // 6, count))
    train, valid, test = map(whole.take, parts)
    return RiskData(train, valid, test, texts)
