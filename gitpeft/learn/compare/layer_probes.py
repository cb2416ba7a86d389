"""Probes every layer of an encoder, before and after tuning.

The probing tasks are those of `probes`: TYP asks about unchanged code (static), CCM and LTP about the change
itself (dynamic). A tuned encoder is compared with the base, paired by commit.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import nn

from gitpeft.learn.compare import probes
from gitpeft.learn.compare.probes import Array, ProbeItem
from gitpeft.learn.compare.report import ProbeSummary
from gitpeft.learn.compare.results import Difference, LayerAccuracies
from gitpeft.learn.data.dataset import Example
from gitpeft.learn.evaluation.text_metrics import ConfidenceInterval, bootstrap_mean, paired_bootstrap
from gitpeft.learn.training import devices

if TYPE_CHECKING:
    from gitpeft.learn.models.bases import BaseModel

PROBING_TASKS = {
    "TYP": "identifier type (static)",
    "CCM": "message and change belong together (dynamic)",
    "LTP": "line added or removed (dynamic)",
}
MIN_PROBED_COMMITS, MAX_PROBED_COMMITS = 60, 600
"""The fewest commits that probes are fitted and scored on, and the most: intervals hardly narrow beyond."""

_OLDER_SHARE = 2 / 3
"""Share of the commits that probes are fitted on."""


@dataclass(frozen=True, slots=True)
class ProbeQuestions:
    """For each task, the items that probes are fitted on and those that they are scored on."""

    by_task: dict[str, tuple[list[ProbeItem], list[ProbeItem]]]


def make_probe_questions(
    train: Sequence[Example], valid: Sequence[Example], base: "BaseModel", commits: int
) -> ProbeQuestions:
    """Items from about so many commits: the newest training commits, and validation commits."""
    codec, budget = base.load_codec(), base.budget
    older = train[-int(_OLDER_SHARE * commits) :]
    newer = valid[: commits - len(older)]
    both = (older, newer)
    typed, matched, lined = (
        [probes.make_identifier_type_items(part, codec) for part in both],
        [probes.make_change_match_items(part, budget, codec) for part in both],
        [probes.make_line_type_items(part, budget, codec) for part in both],
    )
    return ProbeQuestions(
        {task: (a, b) for task, (a, b) in zip(PROBING_TASKS, (typed, matched, lined), strict=True)}
    )


@devices.explain_lost_gpu(resumes=False)
def measure_seconds_per_commit(
    encoder: nn.Module, asked: ProbeQuestions, commits: int, notes: list[str]
) -> float:
    """Seconds that probing one encoder takes for each commit, measured on a few of them.

    It is done where trainings are; `notes` say where a GPU has too little memory for that.
    """
    devices.move_model(encoder, devices.pick_device(), notes)
    started = time.monotonic()
    for older, newer in asked.by_task.values():
        _pool_layer_states(encoder, [*older, *newer], notes)
    return (time.monotonic() - started) / max(1, commits)


@devices.explain_lost_gpu(resumes=False)
def probe_layers(encoder: nn.Module, asked: ProbeQuestions, notes: list[str]) -> LayerAccuracies:
    """By task and layer (0 is the embeddings), for each commit the share of its items answered correctly.

    A task whose items all have the same answer is left out. It is done where trainings are; `notes` say where
    a GPU has too little memory for that.
    """
    devices.move_model(encoder, devices.pick_device(), notes)
    found = {}
    for task, (older, newer) in asked.by_task.items():
        answers = [np.array([item.answer for item in part]) for part in (older, newer)]
        if not older or not newer or answers[0].min() == answers[0].max():
            continue
        x, x_new = (_pool_layer_states(encoder, part, notes) for part in (older, newer))
        found[task] = [
            _average_by_commit(
                newer, probes.score_probe_answers(x[:, i], answers[0], x_new[:, i], answers[1])
            )
            for i in range(x.shape[1])
        ]
    return found


def _average_by_commit(items: Sequence[ProbeItem], right: Array) -> dict[str, float]:
    """The accuracy for each commit: items of one commit are not independent observations."""
    grouped: dict[str, list[float]] = defaultdict(list)
    for item, one in zip(items, right, strict=True):
        grouped[item.commit].append(float(one))
    return {commit[:10]: round(sum(ones) / len(ones), 3) for commit, ones in grouped.items()}


def _pool_layer_states(encoder: nn.Module, items: Sequence[ProbeItem], notes: list[str]) -> Array:
    """The pooled span of each item at every layer: (items, layers + 1, width)."""
    return devices.run_where_it_fits(encoder, lambda: _compute_layer_states(encoder, items), notes)


@torch.no_grad()
def _compute_layer_states(encoder: nn.Module, items: Sequence[ProbeItem]) -> Array:
    device = next(encoder.eval().parameters()).device
    rows = []
    ids: list[int] | None = None
    layers = torch.empty(0)
    for item in items:
        if item.ids is not ids:  # the items of a commit follow each other and share their ids
            ids = item.ids
            row = torch.tensor([ids], device=device)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                output = encoder(
                    input_ids=row, attention_mask=torch.ones_like(row), output_hidden_states=True
                )
            layers = torch.stack([one[0].float() for one in output.hidden_states])
        rows.append(layers[:, slice(*item.span)].mean(1).cpu().numpy())
    return np.stack(rows)


def summarise_layers(untuned: LayerAccuracies, tuned: dict[str, LayerAccuracies]) -> dict[str, ProbeSummary]:
    """By task: accuracies (per cent) of the base and of each tuned method, and the last layer's change."""
    return {
        task: ProbeSummary(
            len(layers[0]),
            [_bootstrap_accuracy(layer) for layer in layers],
            {name: [_bootstrap_accuracy(layer) for layer in found[task]] for name, found in tuned.items()},
            {name: _compare_last_layer(found[task], layers) for name, found in tuned.items()},
        )
        for task, layers in untuned.items()
    }


def _bootstrap_accuracy(layer: dict[str, float]) -> ConfidenceInterval:
    return bootstrap_mean([100 * one for one in layer.values()], seed=0)


def _compare_last_layer(tuned: Sequence[dict[str, float]], untuned: Sequence[dict[str, float]]) -> Difference:
    """The last layer, which everything after the encoder reads: tuned minus untuned, paired by commit."""
    a, b = ([100 * one for one in layers[-1].values()] for layers in (tuned, untuned))
    return Difference(*paired_bootstrap(a, b, seed=0))
