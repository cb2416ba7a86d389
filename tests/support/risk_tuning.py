"""Evaluations of risk models for benchmarks and tests: on one split by time, and of one encoder."""

from dataclasses import dataclass, replace
from typing import Any

from gitpeft.learn import logistic
from gitpeft.learn.evaluation.ranking_metrics import RankedCommits
from gitpeft.learn.models.bases import BaseModel
from gitpeft.learn.models.methods import TuningMethod
from gitpeft.learn.risk import classifiers
from gitpeft.learn.risk.classifiers import LabelledCommits, rank_commits
from gitpeft.learn.risk.encoder import (
    FeatureScaling,
    RiskData,
    RiskTuningSettings,
    encode_commits,
    predict_logits,
    train_risk_encoder,
)
from gitpeft.learn.risk.prequential import (
    EvaluationBlock,
    RiskTrial,
    TrainEncoder,
    fit_models,
    select_model,
)
from gitpeft.learn.training.settings import TrainingCost

TEST_SHARE = 0.2


def evaluate_time_split(
    data: LabelledCommits, share: float = TEST_SHARE, teach: TrainEncoder | None = None
) -> RiskTrial:
    """Fit on the oldest commits, measure on the newest `share`."""
    cut = len(data) - round(share * len(data))
    old, new = data.take(slice(0, cut)), data.take(slice(cut, None))
    read = teach(old) if teach else None
    if read is not None:
        old, new = replace(old, readings=read(old)), replace(new, readings=read(new))
    part = EvaluationBlock(new, old, fit_models(old))
    found = {name: rank_commits(model, new) for name, model in part.models.items()}
    return RiskTrial(new, (part,), found, select_model(found), read.reader if read else None)


@dataclass(frozen=True, slots=True)
class TunedRiskEncoder:
    """A tuned judge, and what it says of later commits; its probabilities are calibrated on `valid`."""

    model: Any
    method: TuningMethod
    scaling: FeatureScaling
    valid: RankedCommits
    test: RankedCommits
    cost: TrainingCost


def tune_and_score(
    base: BaseModel, method: TuningMethod, data: RiskData, lesson: RiskTuningSettings | None = None
) -> TunedRiskEncoder:
    """Tune a base's encoder with a method on the training part, and score the later ones.

    What has messages in training has them in validation and test as well.
    """
    lesson = lesson or RiskTuningSettings()
    tuned, method, scaling, cost = train_risk_encoder(
        base, method, data.train, data.valid, data.texts, lesson
    )
    told = [
        predict_logits(
            tuned,
            encode_commits(part, data.texts, base, scaling.features, 1.0 if lesson.shown else 0.0),
            base,
        )
        for part in (data.valid, data.test)
    ]
    curve = logistic.fit_platt_sigmoid(told[0], data.valid.truth)
    valid, test = (
        RankedCommits(part.truth, x, classifiers.apply_curve(curve, x), part.effort)
        for part, x in zip((data.valid, data.test), told, strict=True)
    )
    return TunedRiskEncoder(tuned, method, scaling, valid, test, cost)
