"""Exports a tuned risk encoder as the int8 graph that the hook runs, through a parity gate.

`RiskEncoderTrainer` is what `selection.train_risk_model` calls for an encoder: it tunes the base within its
minutes, exports it, and scores commits through the very graph that would ship.
"""

import tempfile
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gitpeft.errors import GitpeftError
from gitpeft.learn.evaluation import ranking_metrics
from gitpeft.learn.export import t5
from gitpeft.learn.risk import classifiers, encoder
from gitpeft.learn.risk.classifiers import Array, LabelledCommits
from gitpeft.learn.risk.encoder import CommitText, RiskEncoderModel, RiskTuningSettings
from gitpeft.risk.change_metrics import ChangeMetrics
from gitpeft.risk.encoder import OnnxRiskEncoder
from gitpeft.risk.model import RISK_FEATURES

if TYPE_CHECKING:
    from gitpeft.learn.models.bases import BaseModel
    from gitpeft.learn.models.methods import TuningMethod

PARITY_SAMPLES = 60
"""Changes that the gate compares."""

EXPORTABLE_TYPES = ("pointer-t5", "t5")
"""Model types that can be exported: their pooled state is a mean, so each token has a share of the logit."""

MAX_TUNING_COMMITS = 4000
"""Commits that are trained on, the newest ones; more would not fit into the budget anyway."""

RiskInput = tuple[Sequence[int], Sequence[float]]
"""Token ids of a change, and its features."""


@dataclass(frozen=True, slots=True)
class RiskParityBounds:
    """The bounds of the parity gate.

    `exact`: largest difference of a logit between torch and ONNX in float32. `moved`: mean change of a logit
    by int8, in standard deviations of the logits.
    """

    exact: float = 1e-3
    moved: float = 0.15


@dataclass(frozen=True, slots=True)
class RiskParity:
    """The parity measured over `examples` changes; `rank` is the rank correlation of int8 with float32."""

    examples: int
    exact: float
    moved: float
    rank: float


def export_risk_encoder(
    model: RiskEncoderModel, asked: Sequence[RiskInput], bounds: RiskParityBounds | None = None
) -> tuple[bytes, RiskParity]:
    """The int8 graph of a risk encoder on the CPU, and its parity.

    `asked` are some dozens of changes that it was not trained on. GitpeftError where a bound does not hold,
    and for an architecture that cannot be exported.
    """
    kind = model.config.model_type
    if kind not in EXPORTABLE_TYPES:
        raise GitpeftError(
            f"models of type {kind} cannot be exported", f"supported are {', '.join(EXPORTABLE_TYPES)}"
        )
    model.eval()
    with torch.no_grad():
        plain, small = (t5.build_risk_encoder_graph(model, quantise) for quantise in (False, True))
        exact = np.array([_run_torch(model, *one) for one in asked])
    whole, rough = (_run_graph(graph, asked) for graph in (plain, small))
    found = RiskParity(
        len(asked),
        float(np.abs(exact - whole).max()),
        float(np.abs(rough - whole).mean() / (whole.std() + 1e-9)),
        ranking_metrics.spearman_correlation(whole, rough),
    )
    bounds = bounds or RiskParityBounds()
    if not (found.exact <= bounds.exact and found.moved <= bounds.moved):
        raise GitpeftError(
            f"the exported risk encoder differs from the trained one: torch and ONNX by {found.exact:.2g} "
            f"(bound {bounds.exact:g}), int8 moves a logit by {found.moved:.1%} of their spread (bound "
            f"{bounds.moved:.0%})",
            "the risk model is used without it",
        )
    return small, found


def _run_torch(model: RiskEncoderModel, ids: Sequence[int], features: Sequence[float]) -> float:
    row = torch.tensor([list(ids)])
    beside = torch.tensor([list(features)], dtype=torch.float32)
    return float(model(row, torch.ones_like(row), beside).logits[0])


def _run_graph(graph: bytes, asked: Sequence[RiskInput]) -> Array:
    from gitpeft.runtime.onnx_model import open_session

    run = open_session(graph, 1).run
    feeds = [
        {"source": np.array([ids], np.int64), "features": np.array([features], np.float32)}
        for ids, features in asked
    ]
    return np.array([float(run(["logit"], one)[0][0]) for one in feeds])


# --- training -----------------------------------------------------------------------------------------------


@dataclass(slots=True)
class RiskEncoderTrainer:
    """Tunes a base with a method on the commits that it is given, each time within `minutes`.

    `graph` is the last one that passed the gate; `notes` has, for each time, the cost or the reason (`why`)
    for having no encoder, and what a person should know of the training (`notes`), if anything.
    """

    base: "BaseModel"
    method: "TuningMethod"
    minutes: float
    seed: int = 0
    settings: RiskTuningSettings | None = None
    graph: bytes | None = None
    notes: list[dict[str, Any]] = field(default_factory=list)

    def __call__(self, data: LabelledCommits) -> "GraphScorer | None":
        """See `prequential.TrainEncoder`."""
        older = frozenset(data.shas[:-MAX_TUNING_COMMITS])
        data = data.take(slice(-MAX_TUNING_COMMITS, None))
        cut = len(data) - max(1, len(data) // 8)
        train, valid = data.take(slice(0, cut)), data.take(slice(cut, None))
        if not 0 < train.truth.sum() < cut:
            self.notes.append({"why": "all commits to train on are buggy, or none is"})
            return None
        texts = {sha: CommitText(change, "") for sha, change in zip(data.shas, data.changes, strict=True)}
        settings = self.settings or RiskTuningSettings(minutes=self.minutes, seed=self.seed)
        try:
            model, method, scaling, cost = encoder.train_risk_encoder(
                self.base, self.method, train, valid, texts, settings
            )
            self.graph, parity = export_risk_encoder(
                self._fold_weights(model, method, scaling), self._make_parity_inputs(valid, texts)
            )
        except GitpeftError as error:
            self.graph = None
            self.notes.append({"why": error.message})
            return None
        self.notes.append(
            {"steps": cost.steps, "seconds": round(cost.seconds, 1), "parity": asdict(parity),
             "valid": cost.valid_curve, "trainable": cost.trainable}
            | ({"notes": cost.notes} if cost.notes else {})
        )  # fmt: skip
        return GraphScorer(
            OnnxRiskEncoder(_make_graph_loader(self.graph), self.base.load_codec, self.base.budget),
            older.union(train.shas),
        )

    def _fold_weights(
        self, model: Any, method: "TuningMethod", scaling: encoder.FeatureScaling
    ) -> RiskEncoderModel:
        with tempfile.TemporaryDirectory(prefix="gitpeft-judge-") as scratch:
            encoder.save_trained_encoder(model.cpu(), scaling, Path(scratch))
            return encoder.load_trained_encoder(self.base, method, Path(scratch))

    def _make_parity_inputs(self, valid: LabelledCommits, texts: Mapping[str, CommitText]) -> list[RiskInput]:
        some = valid.take(slice(-PARITY_SAMPLES, None))
        rows = classifiers.build_design_matrix(some, RISK_FEATURES)
        sources = [encoder.encode_change(texts[sha], self.base, message=False) for sha in some.shas]
        return list(zip(sources, rows.tolist(), strict=True))


def _make_graph_loader(graph: bytes) -> Callable[[], bytes]:
    return lambda: graph


class GraphScorer:
    """Scores commits through a graph, each once; NaN for those that it was trained on."""

    def __init__(self, reader: OnnxRiskEncoder, trained_on: frozenset[str]) -> None:
        self.reader, self.trained_on = reader, trained_on
        self._known: dict[str, float] = {}

    def __call__(self, data: LabelledCommits) -> Array:
        """See `prequential.EncoderScorer`."""
        rows = zip(data.shas, data.changes, data.metrics, strict=True)
        return np.array([self._score_commit(*row) for row in rows], dtype=float)

    def _score_commit(self, sha: str, change: str, metrics: ChangeMetrics) -> float:
        if sha in self.trained_on:
            return float("nan")
        if sha not in self._known:
            self._known[sha] = self.reader.score_change(change, metrics).logit
        return self._known[sha]
