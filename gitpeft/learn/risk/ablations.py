"""Ablations of risk scores: their AUC on changes of which something was altered.

A score that uses what an alteration removes loses by it. Commits are only compared within a block, so that a
drift between blocks does not help.
"""

import re
from collections.abc import Callable, Sequence
from dataclasses import replace

import numpy as np

from gitpeft.learn.evaluation import ranking_metrics
from gitpeft.learn.risk.prequential import EvaluationBlock, RiskTrial, standardise_scores
from gitpeft.risk.change_metrics import ChangeMetrics
from gitpeft.risk.encoder import OnnxRiskEncoder
from gitpeft.risk.model import scale_features

_SIZE_METRICS = (
    *("la", "ld", "nf", "nd", "ns", "entropy", "functions", "new"),
    *("code_added", "code_removed", "code_files", "code_new"),
)
_LINE_COUNTS = re.compile(r" \+(\d+) -(\d+)")

Alteration = Callable[[ChangeMetrics, str, ChangeMetrics], tuple[ChangeMetrics, str]]
"""From the metrics and the compact text of a change, and median metrics, to altered metrics and text."""

ALTERATIONS: dict[str, Alteration] = {
    "unaltered": lambda one, text, _: (one, text),
    "added and removed swapped": lambda one, text, _: (_swap_counts(one), _swap_signs(text)),
    "size held constant": lambda one, text, usual: (_set_median_size(one, usual), text),
    "message removed": lambda one, text, _: (replace(one, fix=0), text),
}
"""Added and removed lines swapped, in counts and in text; lines and files of every change at their median,
the text as it is; what the message says of a fix removed, which no shipped model may notice."""


def measure_ablations(trial: RiskTrial) -> dict[str, dict[str, float]]:
    """By model and alteration, the ROC AUC within blocks; NaN where no block has buggy and clean commits."""
    found: dict[str, dict[str, float]] = {name: {} for name in trial.parts[0].models}
    for what, alter in ALTERATIONS.items():
        altered = [_alter_block(part, alter, trial.reader) for part in trial.parts]
        for name in found:
            found[name][what] = _compute_block_auc(name, altered)
    return found


def _swap_counts(one: ChangeMetrics) -> ChangeMetrics:
    code = {"code_added": one.code_removed, "code_removed": one.code_added}
    return replace(one, la=one.ld, ld=one.la, **code)


def _swap_signs(text: str) -> str:
    """A compact text with added lines as removed ones and the reverse; the counts of files too."""
    signs = {"+": "-", "-": "+"}
    lines = (f"{signs.get(line[:1], line[:1])}{line[1:]}" for line in text.split("\n"))
    return "\n".join(
        _LINE_COUNTS.sub(r" +\2 -\1", line) if line[:1] not in "#@+-" else line for line in lines
    )


def _set_median_size(one: ChangeMetrics, usual: ChangeMetrics) -> ChangeMetrics:
    return replace(one, **{key: getattr(usual, key) for key in _SIZE_METRICS})


def _compute_block_auc(name: str, parts: Sequence[EvaluationBlock]) -> float:
    """The AUC over pairs of a buggy and a clean commit of the same block."""
    right = pairs = 0.0
    for part in parts:
        buggy = float(part.block.truth.sum())
        weight = buggy * (len(part.block) - buggy)
        if weight:
            ranked = standardise_scores(name, part)
            right += weight * ranking_metrics.roc_auc(ranked.truth, ranked.scores)
            pairs += weight
    return right / pairs if pairs else float("nan")


def _alter_block(part: EvaluationBlock, alter: Alteration, reader: OnnxRiskEncoder | None) -> EvaluationBlock:
    """A block with altered changes; the encoder reads those again that differ for it."""
    block, usual = part.block, _compute_medians(part.before.metrics)
    texts = block.changes or ("",) * len(block)
    altered = [alter(one, text, usual) for one, text in zip(block.metrics, texts, strict=True)]
    metrics = tuple(one for one, _ in altered)
    changes = tuple(text for _, text in altered) if block.changes else ()
    found = replace(block, metrics=metrics, changes=changes)
    if reader is not None and block.readings is not None:
        rows = zip(block.readings, block.metrics, texts, altered, strict=True)
        found = replace(found, readings=np.array([_read_altered(reader, *row) for row in rows], dtype=float))
    return replace(part, block=found)


def _read_altered(
    reader: OnnxRiskEncoder,
    known: float,
    one: ChangeMetrics,
    text: str,
    altered: tuple[ChangeMetrics, str],
) -> float:
    """The encoder's logit of an altered change; the known one where its input is as before."""
    metrics, changed_text = altered
    if np.isnan(known) or (changed_text == text and scale_features(metrics) == scale_features(one)):
        return known
    return reader.score_change(changed_text, metrics).logit


def _compute_medians(metrics: Sequence[ChangeMetrics]) -> ChangeMetrics:
    return ChangeMetrics(
        **{
            key: type(getattr(ChangeMetrics(), key))(np.median([getattr(m, key) for m in metrics]))
            for key in _SIZE_METRICS
        }
    )
