"""The plan of a model and the results of the steps that make it (see `pipeline`).

Results are values that are never changed; `PipelineResult.as_dict` is the one place that turns them into the
JSON of `gitpeft init --json`, whose keys are stable.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitpeft.errors import GitpeftError
from gitpeft.history.store import CommitRecord, MiningReport
from gitpeft.learn.budget import BudgetReport
from gitpeft.learn.data.style import MessageStyle
from gitpeft.learn.evaluation.messages import BundleDraft, MeasuredMessages
from gitpeft.learn.evaluation.reranker import RerankerChoice
from gitpeft.learn.training.finetune import RunCost
from gitpeft.risk.model import RiskModel
from gitpeft.suggest.reranker import Reranker

if TYPE_CHECKING:
    from gitpeft.learn.export.parity import MessageParity
    from gitpeft.learn.models.methods import MethodSettings, TuningMethod


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What to make. `until` cuts history; `minutes` bounds all after mining; without `train` nothing is
    tuned.

    `warm` is the folder of an adapter of the same method and base, from whose weights training starts;
    `rival` the installed model that the result will be compared with, "" when it becomes active without a
    comparison (see `retrain`).
    """

    base: str = "mini"
    method: str = "lora"
    until: str = "HEAD"
    minutes: float = 5.0
    seed: int = 0
    train: bool = True
    settings: "MethodSettings" = field(default_factory=dict)
    warm: str = ""
    rival: str = ""


@dataclass(frozen=True, slots=True)
class MinedHistory:
    """A mined history: what mining did, and its records up to `tip`, oldest first."""

    report: MiningReport
    records: Sequence[CommitRecord]
    tip: str


@dataclass(frozen=True, slots=True)
class TrainedModel:
    """What training and export made: the method, its layers chosen, the cost, and the measured parity."""

    method: "TuningMethod"
    cost: RunCost
    parity: "MessageParity"


@dataclass(frozen=True, slots=True)
class SelectedModel:
    """The variant that validation prefers, with its reranker.

    `choice` holds the validation scores of the ways of ranking, None where there was too little to validate
    on; `scores` the validation score of the tuned model, of milder variants of it and of the base without
    tuning, empty where nothing was tuned: keystrokes saved (%), or for a causal base 100 · exp(-loss), the
    geometric mean of the probabilities of a message's tokens in percent.
    """

    draft: BundleDraft
    choice: RerankerChoice | None = None
    scores: Mapping[str, float] = field(default_factory=dict)

    @property
    def reranker(self) -> Reranker:
        """The reranker to ship with it."""
        return self.choice.chooser if self.choice else self.draft.reranker


@dataclass(frozen=True, slots=True)
class FittedRisk:
    """A fitted risk model: its file, and the file of its encoder if it has one."""

    file: Path
    encoder: Path | None = None

    @property
    def model(self) -> RiskModel:
        """The model in the file."""
        return RiskModel.from_dict(self.as_dict())

    def as_dict(self) -> dict[str, Any]:
        """The content of the file."""
        return dict(json.loads(self.file.read_text(encoding="utf-8")))


@dataclass(frozen=True, slots=True)
class CandidateModel:
    """A model that is complete but not installed: all that a bundle needs, in the folder of its run.

    `base` is the name of its base, "" for retrieval alone; `why` says why it was not trained, "" when it was.
    `measured` are its scores on the newest commits, once there are any; `seconds` by step; `peak_memory` in
    bytes.
    """

    folder: Path
    base: str
    why: str
    trained: TrainedModel | None
    selected: SelectedModel
    style: MessageStyle
    risk: FittedRisk
    seconds: Mapping[str, float]
    peak_memory: int
    measured: MeasuredMessages = field(default_factory=MeasuredMessages)

    def add_metrics(self, metrics: Mapping[str, Any]) -> "CandidateModel":
        """The same candidate with more metrics in its manifest."""
        draft = self.selected.draft
        manifest = replace(draft.manifest, metrics=draft.manifest.metrics | dict(metrics))
        return replace(self, selected=replace(self.selected, draft=replace(draft, manifest=manifest)))

    @property
    def kind(self) -> str:
        """`model`, or `retrieval` where there is only an index of earlier messages."""
        return self.selected.draft.manifest.kind

    @property
    def method(self) -> dict[str, Any]:
        """The method of the selected variant, `none` for the base without tuning; {} without training."""
        if self.trained is None:
            return {}
        draft = self.selected.draft
        return dict(draft.manifest.method) if draft.adapter is None else self.trained.method.as_dict()

    @property
    def trainable(self) -> int:
        """How many weights the selected variant tuned."""
        tuned = self.trained is not None and self.selected.draft.adapter is not None
        return self.trained.cost.training.trainable if self.trained is not None and tuned else 0


@dataclass(frozen=True, slots=True)
class PipelineResult:
    """The model that a run made active, how many commits it used and left out by reason, its bundle's id.

    `budget` says what it had no time for.
    """

    candidate: CandidateModel
    used: int
    left_out: Mapping[str, int]
    bundle: str
    budget: BudgetReport

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `gitpeft init --json` and of `outcome.json` in the run's folder."""
        one = self.candidate
        trained, selected = one.trained, one.selected
        return {
            "kind": one.kind,
            "why": one.why,
            "used": self.used,
            "left_out": dict(self.left_out),
            "base": one.base,
            "method": one.method,
            "trainable": one.trainable,
            "parameters": trained.cost.training.parameters if trained else 0,
            "cost": trained.cost.as_dict() if trained else {},
            "parity": asdict(trained.parity) if trained else {},
            "tuning": dict(selected.scores),
            "choice": selected.choice.as_dict() if selected.choice else {},
            "test": one.measured.as_dict(),
            "samples": list(one.measured.samples),
            "risk": one.risk.as_dict(),
            "judge": str(one.risk.encoder or ""),
            "seconds": dict(one.seconds),
            "peak_memory": one.peak_memory,
            "bundle": self.bundle,
            "budget": asdict(self.budget),
        }


@dataclass(frozen=True, slots=True)
class TrainingResult:
    """What a run that was trained and not exported cost, and what its budget was too short for."""

    cost: RunCost
    budget: BudgetReport

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `gitpeft train --json` where no model is installed."""
        return self.cost.as_dict() | {"budget": asdict(self.budget)}


@dataclass(frozen=True, slots=True)
class EvaluationResult:
    """Scores of the active model on commits that it has not learnt from; `used` counts all usable commits."""

    bundle: str
    used: int
    measured: MeasuredMessages

    def as_dict(self) -> dict[str, Any]:
        """The JSON of `gitpeft eval --json`."""
        return {"bundle": self.bundle, "used": self.used, "test": self.measured.as_dict()}


def load_plan(file: Path) -> ModelPlan:
    """The plan in a run's folder; GitpeftError when the file is no plan."""
    try:
        return ModelPlan(**json.loads(file.read_text(encoding="utf-8")))
    except (OSError, ValueError, TypeError):
        raise GitpeftError(f"{file} is damaged", "remove its folder and train again") from None
