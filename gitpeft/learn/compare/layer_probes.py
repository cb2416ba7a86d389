"""What each layer of an encoder knows about changes, and what tuning did to that: hides reading and fitting.

The probes of `probing`, at every layer: TYP asks about code that stands still (static), CCM and LTP about the
change itself (dynamic). A tuned encoder is held against the untuned one, question by question.
"""

import time
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from gitpeft.learn.compare import probes
from gitpeft.learn.compare.probes import ProbeItem
from gitpeft.learn.data.dataset import Example
from gitpeft.learn.evaluation.text_metrics import bootstrap_mean, paired_bootstrap

if TYPE_CHECKING:
    from gitpeft.learn.models.bases import BaseModel

PROBING_TASKS = {
    "TYP": "identifier type (static)",
    "CCM": "message and change belong together (dynamic)",
    "LTP": "line added or removed (dynamic)",
}
MIN_PROBED_COMMITS, MAX_PROBED_COMMITS = 60, 600
"""Commits below which probes say nothing, and above which they cost more than they say."""

_OLDER_SHARE = 2 / 3
"""Share of the commits that probes are fitted on."""


@dataclass(frozen=True, slots=True)
class ProbeQuestions:
    """For each task, what probes are fitted on and what they are asked."""

    by_task: dict[str, tuple[list[ProbeItem], list[ProbeItem]]]


def make_probe_questions(
    train: Sequence[Example], valid: Sequence[Example], base: "BaseModel", commits: int
) -> ProbeQuestions:
    """About so many commits: the newest that taught, and validation commits."""
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


def measure_seconds_per_commit(encoder: Any, asked: ProbeQuestions, commits: int) -> float:
    """What probing one encoder costs here, measured on a few questions."""
    started = time.monotonic()
    for older, newer in asked.by_task.values():
        _pool_layer_states(encoder, [*older, *newer])
    return (time.monotonic() - started) / max(1, commits)


def probe_layers(encoder: Any, asked: ProbeQuestions) -> dict[str, list[dict[str, float]]]:
    """By task and layer (0 is the embeddings), for each commit the share of its questions answered rightly.

    A task whose questions all have one answer is left out.
    """
    found = {}
    for task, (older, newer) in asked.by_task.items():
        answers = [np.array([item.answer for item in part]) for part in (older, newer)]
        if not older or not newer or answers[0].min() == answers[0].max():
            continue
        x, x_new = _pool_layer_states(encoder, older), _pool_layer_states(encoder, newer)
        found[task] = [
            _average_by_commit(
                newer, probes.score_probe_answers(x[:, i], answers[0], x_new[:, i], answers[1])
            )
            for i in range(x.shape[1])
        ]
    return found


def _average_by_commit(items: Sequence[ProbeItem], right: Any) -> dict[str, float]:
    """Questions about one commit are one observation."""
    grouped: dict[str, list[float]] = defaultdict(list)
    for item, one in zip(items, right, strict=True):
        grouped[item.commit].append(float(one))
    return {commit[:10]: round(sum(ones) / len(ones), 3) for commit, ones in grouped.items()}


@torch.no_grad()
def _pool_layer_states(encoder: Any, items: Sequence[ProbeItem]) -> Any:
    """The pooled span of each item at every layer: (items, layers + 1, width)."""
    device = next(encoder.eval().parameters()).device
    rows = []
    ids: list[int] | None = None
    layers: Any = None
    for item in items:
        if item.ids is not ids:  # the lines of a commit follow each other and share their ids
            ids = item.ids
            row = torch.tensor([ids], device=device)
            with torch.autocast(device.type, dtype=torch.bfloat16):
                said = encoder(input_ids=row, attention_mask=torch.ones_like(row), output_hidden_states=True)
            layers = torch.stack([one[0].float() for one in said.hidden_states])
        rows.append(layers[:, slice(*item.span)].mean(1).cpu().numpy())
    return np.stack(rows)


def summarise_layers(untuned: dict[str, Any], tuned: dict[str, dict[str, Any]]) -> dict[str, Any]:
    """Accuracies (per cent) by task, system and layer, and what tuning did to the best layer of the base.

    `tuned` maps a method to what `probe` gave.
    """
    return {
        task: {
            "commits": len(layers[0]),
            "untuned": [_bootstrap_accuracy(layer) for layer in layers],
            "tuned": {
                name: [_bootstrap_accuracy(layer) for layer in said[task]] for name, said in tuned.items()
            },
            "change": {name: _compare_last_layer(said[task], layers) for name, said in tuned.items()},
        }
        for task, layers in untuned.items()
    }


def _bootstrap_accuracy(layer: dict[str, float]) -> dict[str, float]:
    return bootstrap_mean([100 * one for one in layer.values()], seed=0)._asdict()


def _compare_last_layer(
    tuned: Sequence[dict[str, float]], untuned: Sequence[dict[str, float]]
) -> dict[str, Any]:
    """The last layer, which all that follows reads: tuned minus untuned, paired by commit."""
    a, b = ([100 * one for one in layers[-1].values()] for layers in (tuned, untuned))
    gap = paired_bootstrap(a, b, seed=0)
    return gap._asdict() | {"clear": gap.excludes_zero}
