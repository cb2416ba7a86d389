"""Defect prediction as a task that methods are compared on: hides labels, training and scoring.

A judge (see `judge`) reads a change without its message, as the hook would have it, and the change metrics.
It is held against lines added and a logistic regression on the metrics, fitted on the same commits.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from gitpeft.bundle import bundle as bundles
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn.compare.scoring import Answers, Ranking
from gitpeft.learn.data import subsets
from gitpeft.learn.data.subsets import Cut, Parts
from gitpeft.learn.risk import classifiers
from gitpeft.learn.risk import encoder as risk_encoder
from gitpeft.learn.risk.classifiers import Labelled
from gitpeft.learn.risk.encoder import Lesson, RiskData
from gitpeft.learn.training.finetune import Job, Listener, write_json
from gitpeft.risk.model import LINES_ADDED

if TYPE_CHECKING:
    from gitpeft.learn.models.bases import Base
    from gitpeft.learn.models.methods import Method
    from gitpeft.learn.pipeline import Mined

REGRESSION = "logistic regression"
BASELINES = (LINES_ADDED, REGRESSION)


class RiskField:
    """A labelled history; its newest tenth is not looked at. GitpeftError where too few bugs are known."""

    def __init__(self, repo: Repository, mined: "Mined", listen: Listener) -> None:
        with History.open(repo.state_dir) as history:
            self.data = risk_encoder.risk_data(history, repo, mined.tip, listen)
        self.whole = Risk(self.data)
        self.parts = Parts(self.data.train.shas, self.data.valid.shas, self._language)

    @property
    def commits(self) -> int:
        """Commits whose fate is known."""
        return len(self.data.train) + len(self.data.valid) + len(self.data.test)

    def part(self, cut: Cut) -> "Risk":
        """A part of the history; GitpeftError where it lacks buggy or clean commits."""
        train, chooses, asked = self.parts.of(cut)
        data = self.data
        found = [
            _named(data.train, train), _named(data.valid, chooses), _named(data.valid, asked),
        ]  # fmt: skip
        if not all(0 < part.truth.sum() < len(part) for part in found):
            raise GitpeftError(
                f"{cut.label}: there are no buggy or no clean commits in that part",
                "choose a larger part, or leave it out",
            )
        return Risk(RiskData(found[0], found[1], data.test, data.texts), found[2])

    def _language(self, sha: str) -> str:
        return subsets.language_of(self.data.texts[sha].change) if sha in self.data.texts else ""


def _named(data: Labelled, shas: Sequence[str]) -> Labelled:
    chosen = set(shas)
    return data.take([i for i, sha in enumerate(data.shas) if sha in chosen])


class Risk:
    """Defect prediction on one part of a history; `asked` are the commits that are judged."""

    def __init__(self, data: RiskData, asked: Labelled | None = None) -> None:
        self.data = data
        self.asked = data.valid if asked is None else asked
        self.yardstick = Ranking(self.asked.truth.tolist())

    def train(self, job: Job, folder: Path, listen: Listener) -> tuple["Method", dict[str, Any]]:
        """See `grounds.Ground`. A killed run begins again: it takes a minute or two."""
        data, lesson = self.data, Lesson()
        lesson = Lesson(
            epochs=job.steps * lesson.batch / len(data.train),
            minutes=job.minutes,
            checks=job.checks,
            seed=job.seed,
        )
        listen("train", 0.0, "training")
        tuned, method, scaling, cost = risk_encoder.learn(
            job.base, job.method, data.train, data.valid, data.texts, lesson
        )
        kept = folder / bundles.ADAPTER
        risk_encoder.save(tuned.cpu(), scaling, kept)
        size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
        found = json.loads(json.dumps(cost.as_dict() | {"adapter_bytes": size, "notes": []}))
        write_json(folder / "run.json", found)
        return method, found

    def finish(self, job: Job, method: "Method", folder: Path) -> dict[str, Any]:
        """See `grounds.Ground`: the probability of each asked commit."""
        model = risk_encoder.load(job.base, method, folder / bundles.ADAPTER)
        kept = json.loads((folder / bundles.ADAPTER / risk_encoder.KEPT).read_text(encoding="utf-8"))
        asked = risk_encoder.judged(self.asked, self.data.texts, job.base, kept["features"], 0.0)
        before = time.monotonic()
        logits = risk_encoder.scores(model, asked, job.base)
        spent = time.monotonic() - before
        cost = {"answer_ms": 1000 * spent / max(1, len(asked)), "exported_bytes": 0}
        return {"answers": _chances(logits), "cost": cost}

    def encoder(self, job: Job, method: "Method", folder: Path) -> Any:
        """See `grounds.Ground`."""
        return risk_encoder.load(job.base, method, folder / bundles.ADAPTER).encoder

    def baselines(self, bases: Mapping[str, "Base"]) -> dict[str, Answers]:
        """Lines added, and a regression on the metrics, as probabilities fitted on the training part."""
        models = {
            LINES_ADDED: classifiers.regression(self.data.train, ("la",)),
            REGRESSION: classifiers.regression(self.data.train),
        }
        return {name: _chances(classifiers.scores(model, self.asked)) for name, model in models.items()}

    def shown(self) -> list[tuple[str, str]]:
        """See `grounds.Ground`."""
        said = {0.0: "no fix known", 1.0: "fixed later"}
        return [
            (sha[:10], f"{self.data.texts[sha].message} · {said[float(bad)]}")
            for sha, bad in zip(self.asked.shas, self.asked.truth, strict=True)
        ]


def _chances(logits: Any) -> list[float]:
    return [round(float(one), 5) for one in 1 / (1 + np.exp(-np.clip(logits, -30, 30)))]
