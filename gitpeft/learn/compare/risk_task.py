"""Defect prediction as a task that methods are compared on: labels, training and evaluation.

A risk encoder (see `learn.risk.encoder`) reads a change without its message, as in the hook, and the change
metrics. It is compared with lines added and a logistic regression on the metrics, fitted on the same commits.
"""

import json
import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import numpy as np

from gitpeft.bundle import bundle as bundles
from gitpeft.errors import GitpeftError
from gitpeft.files import write_json
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn.compare.results import Answers, RunOutput, TrainedRun
from gitpeft.learn.compare.scoring import RiskScorer
from gitpeft.learn.data import subsets
from gitpeft.learn.data.subsets import HistorySubset, LanguageSplit
from gitpeft.learn.risk import classifiers
from gitpeft.learn.risk import encoder as risk_encoder
from gitpeft.learn.risk.classifiers import Array, LabelledCommits
from gitpeft.learn.risk.encoder import RiskData, RiskTuningSettings
from gitpeft.learn.training.finetune import ProgressListener, TrainingJob
from gitpeft.risk.model import LINES_ADDED

if TYPE_CHECKING:
    from torch import nn

    from gitpeft.learn.models.bases import BaseModel
    from gitpeft.learn.models.methods import TuningMethod
    from gitpeft.learn.results import MinedHistory

REGRESSION_BASELINE = "logistic regression"
BASELINE_NAMES = (LINES_ADDED, REGRESSION_BASELINE)


class RiskTask:
    """A labelled history but its newest tenth. GitpeftError where too few bugs are known."""

    def __init__(self, repo: Repository, mined: "MinedHistory", listen: ProgressListener) -> None:
        with History.open(repo.state_dir) as history:
            self.data = risk_encoder.build_risk_data(history, repo, mined.tip, listen)
        self.whole = RiskTaskPart(self.data)
        self.parts = LanguageSplit(self.data.train.shas, self.data.valid.shas, self._detect_commit_language)

    @property
    def commits(self) -> int:
        """Labelled commits."""
        return len(self.data.train) + len(self.data.valid) + len(self.data.test)

    def make_part(self, cut: HistorySubset) -> "RiskTaskPart":
        """A part of the history; GitpeftError where it lacks buggy or clean commits."""
        train, chooses, asked = self.parts.select_subset(cut)
        data = self.data
        found = [
            _select_commits(data.train, train),
            _select_commits(data.valid, chooses),
            _select_commits(data.valid, asked),
        ]
        if not all(0 < part.truth.sum() < len(part) for part in found):
            raise GitpeftError(
                f"{cut.label}: there are no buggy or no clean commits in that part",
                "choose a larger part, or omit it",
            )
        return RiskTaskPart(RiskData(found[0], found[1], data.test, data.texts), found[2])

    def _detect_commit_language(self, sha: str) -> str:
        return subsets.detect_main_language(self.data.texts[sha].change) if sha in self.data.texts else ""


def _select_commits(data: LabelledCommits, shas: Sequence[str]) -> LabelledCommits:
    chosen = set(shas)
    return data.take([i for i, sha in enumerate(data.shas) if sha in chosen])


class RiskTaskPart:
    """Defect prediction on one part of a history; `asked` are the commits that are evaluated."""

    def __init__(self, data: RiskData, asked: LabelledCommits | None = None) -> None:
        self.data = data
        self.asked = data.valid if asked is None else asked
        self.scorer = RiskScorer(self.asked.truth.tolist())

    def make_small(self, most: int) -> "RiskTaskPart":
        """See `TaskPart`: this one is fast, and a few commits might all be clean."""
        return self

    def train_run(
        self, job: TrainingJob, folder: Path, listen: ProgressListener
    ) -> tuple["TuningMethod", TrainedRun]:
        """See `TaskPart`. A killed run starts again: it takes a minute or two."""
        data = self.data
        settings = RiskTuningSettings(
            epochs=job.steps * RiskTuningSettings().batch / len(data.train),
            minutes=job.minutes,
            checks=job.checks,
            seed=job.seed,
        )
        listen("train", 0.0, "training")
        tuned, method, scaling, cost = risk_encoder.train_risk_encoder(
            job.base, job.method, data.train, data.valid, data.texts, settings
        )
        kept = folder / bundles.ADAPTER_FOLDER
        risk_encoder.save_trained_encoder(tuned.cpu(), scaling, kept)
        size = sum(path.stat().st_size for path in kept.rglob("*") if path.is_file())
        found = cost.as_dict() | {"adapter_bytes": size}
        write_json(folder / "run.json", found)
        return method, TrainedRun.from_training(found)

    def export_and_ask(self, job: TrainingJob, method: "TuningMethod", folder: Path) -> RunOutput:
        """See `TaskPart`: the estimated bug probability of each evaluated commit."""
        model = risk_encoder.load_trained_encoder(job.base, method, folder / bundles.ADAPTER_FOLDER)
        kept = json.loads(
            (folder / bundles.ADAPTER_FOLDER / risk_encoder.SCALING_FILE).read_text(encoding="utf-8")
        )
        asked = risk_encoder.encode_commits(self.asked, self.data.texts, job.base, kept["features"], 0.0)
        before = time.monotonic()
        logits = risk_encoder.predict_logits(model, asked, job.base)
        spent = time.monotonic() - before
        return RunOutput(_to_probabilities(logits), 1000 * spent / max(1, len(asked)))

    def load_encoder(self, job: TrainingJob, method: "TuningMethod", folder: Path) -> "nn.Module":
        """See `TaskPart`."""
        model = risk_encoder.load_trained_encoder(job.base, method, folder / bundles.ADAPTER_FOLDER)
        encoder: nn.Module = model.encoder
        return encoder

    def ask_baselines(self, bases: Mapping[str, "BaseModel"]) -> dict[str, Answers]:
        """Lines added, and a regression on the metrics, as probabilities fitted on the training part."""
        models = {
            LINES_ADDED: classifiers.fit_logistic_regression(self.data.train, ("la",)),
            REGRESSION_BASELINE: classifiers.fit_logistic_regression(self.data.train),
        }
        return {
            name: _to_probabilities(classifiers.score_commits(model, self.asked))
            for name, model in models.items()
        }

    def list_references(self) -> list[tuple[str, str]]:
        """See `TaskPart`."""
        labels = {0.0: "no fix known", 1.0: "fixed later"}
        return [
            (sha[:10], f"{self.data.texts[sha].message} · {labels[float(bad)]}")
            for sha, bad in zip(self.asked.shas, self.asked.truth, strict=True)
        ]


def _to_probabilities(logits: Array) -> list[float]:
    return [round(float(one), 5) for one in 1 / (1 + np.exp(-np.clip(logits, -30, 30)))]
