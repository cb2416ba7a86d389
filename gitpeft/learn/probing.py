"""What an encoder knows about changes, read off its frozen states by a linear probe.

Two of the study's probing tasks (arXiv 2402.06247): line type (LTP: was this line added or removed, its
sign hidden?) and change matching (CCM: does this message belong to this change?). A probe is a logistic
regression; it is fitted on older commits and scored on newer ones.
"""

import random
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch

from gitpeft.codec import TokenCodec
from gitpeft.diff import Budget, render
from gitpeft.learn.dataset import Example
from gitpeft.learn.evaluate import bootstrap

LINES_EACH = 4
"""Lines taken from one commit at most, so that large commits do not decide."""

_RIDGES = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

Read = Callable[[list[int]], Any]
"""From token ids (n) to a state for each of them (n, width)."""


@dataclass(frozen=True, slots=True)
class Item:
    """A question to a probe: the ids that are read, the span of them whose states are pooled, the answer."""

    ids: list[int]
    span: tuple[int, int]
    answer: bool


def line_types(examples: Sequence[Example], budget: Budget, codec: TokenCodec, seed: int = 0) -> list[Item]:
    """Lines of the changes with every sign hidden behind one mark; `answer`: it was added."""
    dice = random.Random(seed)
    signs = {codec.marks["add"][0]: True, codec.marks["delete"][0]: False}
    ends = {marks[0] for marks in codec.marks.values()}
    items = []
    for example in examples:
        ids = render(example.change, (), "", budget, codec)
        hidden = [codec.marks["keep"][0] if one in signs else one for one in ids]
        starts = [i for i, one in enumerate(ids) if one in signs]
        for start in dice.sample(starts, min(LINES_EACH, len(starts))):
            end = next((i for i in range(start + 1, len(ids)) if ids[i] in ends), len(ids))
            if end - start > 1:
                items.append(Item(hidden, (start + 1, end), signs[ids[start]]))
    return items


def matches(examples: Sequence[Example], budget: Budget, codec: TokenCodec, seed: int = 0) -> list[Item]:
    """Each change with its own message or, as often, with another commit's; `answer`: it is its own."""
    dice = random.Random(seed)
    items = []
    for example in examples:
        own = dice.random() < 0.5
        message = example.message if own else dice.choice(examples).message
        ids = render(example.change, (message,), "", budget, codec)
        items.append(Item(ids, (0, len(ids)), message == example.message))
    return items


def encoder_states(model: Any) -> Read:
    """The states of a model's encoder, frozen."""
    encoder = model.get_encoder().eval()

    @torch.no_grad()
    def read(ids: list[int]) -> Any:
        row = torch.tensor([ids], device=model.device)
        return encoder(input_ids=row, attention_mask=torch.ones_like(row))[0][0].float().cpu().numpy()

    return read


def one_hot(vocabulary: int, width: int = 2048) -> Read:
    """No encoder at all: tokens by hash, so that a pooled span is its bag of tokens."""
    places = np.random.default_rng(0).integers(width, size=vocabulary)

    def read(ids: list[int]) -> Any:
        states = np.zeros((len(ids), width), dtype=np.float32)
        states[np.arange(len(ids)), places[ids]] = 1
        return states

    return read


def accuracy(read: Read, older: Sequence[Item], newer: Sequence[Item]) -> tuple[float, float, float]:
    """Share of right answers of a probe on `newer`, with its 95 % bootstrap interval.

    The ridge is chosen on the last fifth of `older`. ValueError when one answer is all there is.
    """
    x, y = _pooled(read, older)
    if y.min() == y.max():
        raise ValueError("a probe needs examples of both answers")
    cut = len(y) * 4 // 5
    scored = [(float((_said(_fit(x[:cut], y[:cut], r), x[cut:]) == y[cut:]).mean()), r) for r in _RIDGES]
    best = max(scored)[1]
    x_new, y_new = _pooled(read, newer)
    right = (_said(_fit(x, y, best), x_new) == y_new).astype(float)
    found = bootstrap(right.tolist(), 0)
    return found.mean, found.low, found.high


def _pooled(read: Read, items: Sequence[Item]) -> tuple[Any, Any]:
    rows = []
    ids: list[int] | None = None
    states: Any = None
    for item in items:
        if item.ids is not ids:  # the lines of a commit follow each other and share their ids
            ids, states = item.ids, read(item.ids)
        rows.append(states[slice(*item.span)].mean(0))
    return np.stack(rows), np.array([item.answer for item in items])


def _fit(x: Any, y: Any, ridge: float) -> tuple[Any, Any, Any]:
    """Mean and spread of the features, and the weights of a logistic regression on what they standardise."""
    mean, spread = x.mean(0), x.std(0) + 1e-6
    features = torch.from_numpy(_standard(x, mean, spread))
    goal = torch.from_numpy(y.astype(np.float32))
    weights = torch.zeros(features.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def loss() -> Any:
        optimiser.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(features @ weights, goal)
        value = value + ridge * (weights[:-1] ** 2).sum() / 2
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(loss)  # type: ignore[no-untyped-call]
    return mean, spread, weights.detach().numpy()


def _said(fitted: tuple[Any, Any, Any], x: Any) -> Any:
    mean, spread, weights = fitted
    return _standard(x, mean, spread) @ weights > 0


def _standard(x: Any, mean: Any, spread: Any) -> Any:
    scaled = (x - mean) / spread
    return np.hstack([scaled, np.ones((len(scaled), 1))]).astype(np.float32)
