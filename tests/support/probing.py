"""Probes on whole encoders, and on a bag of tokens as a control, for the benchmark and its tests."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch

from gitpeft.learn.compare.probes import Array, ProbeItem, score_probe_answers
from gitpeft.learn.evaluation.text_metrics import bootstrap_mean

StateReader = Callable[[list[int]], Array]
"""From token ids (n) to a state for each of them (n, width)."""


def make_encoder_reader(model: Any) -> StateReader:
    """The states of a model's encoder, frozen."""
    encoder = model.get_encoder().eval()

    @torch.no_grad()
    def read_states(ids: list[int]) -> Array:
        row = torch.tensor([ids], device=model.device)
        states: Array = (
            encoder(input_ids=row, attention_mask=torch.ones_like(row))[0][0].float().cpu().numpy()
        )
        return states

    return read_states


def make_one_hot_reader(vocabulary: int, width: int = 2048) -> StateReader:
    """No encoder at all: tokens by hash, so that a pooled span is its bag of tokens."""
    places = np.random.default_rng(0).integers(width, size=vocabulary)

    def read_states(ids: list[int]) -> Array:
        states = np.zeros((len(ids), width), dtype=np.float32)
        states[np.arange(len(ids)), places[ids]] = 1
        return states

    return read_states


def measure_probe_accuracy(
    read: StateReader, older: Sequence[ProbeItem], newer: Sequence[ProbeItem]
) -> tuple[float, float, float]:
    """Accuracy on `newer` of a probe fitted on `older`, with its 95 % bootstrap interval.

    ValueError when all answers are the same.
    """
    right = score_probe_answers(*_pool_spans(read, older), *_pool_spans(read, newer))
    found = bootstrap_mean(right.tolist(), 0)
    return found.mean, found.low, found.high


def _pool_spans(read: StateReader, items: Sequence[ProbeItem]) -> tuple[Array, Array]:
    rows = []
    ids: list[int] | None = None
    states: Array = np.zeros(0)
    for item in items:
        if item.ids is not ids:  # the items of a commit follow each other and share their ids
            ids, states = item.ids, read(item.ids)
        rows.append(states[slice(*item.span)].mean(0))
    return np.stack(rows), np.array([item.answer for item in items])
