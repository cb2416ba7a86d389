"""Probing tasks for encoders of changes: their items, and the linear probes that are fitted on frozen states.

The tasks are those of the study (arXiv 2402.06247): line type (LTP: was this line added or removed, its sign
masked?), change matching (CCM: does this message belong to this change?), and identifier type (TYP: is this
the name of a function?), which asks about unchanged code. A probe is a logistic regression; it is fitted on
older commits and scored on newer ones.
"""

import random
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from gitpeft.diff.compact import split_compact
from gitpeft.diff.render import TokenBudget, render_change
from gitpeft.learn.data.dataset import Example
from gitpeft.runtime.tokenizer import TokenCodec

MAX_LINES_PER_COMMIT = 4
"""Lines taken from one commit at most, so that large commits do not decide."""

MAX_NAMES_PER_COMMIT = 2
"""Names taken from one commit at most."""

_CALLED_NAME = re.compile(r"[^\W\d]\w*(?=\()")
_IDENTIFIER = re.compile(r"[^\W\d]\w*")
_KEYWORDS = frozenset(
    [
        "and",
        "as",
        "assert",
        "async",
        "await",
        "break",
        "case",
        "catch",
        "class",
        "const",
        "continue",
        "def",
        "defer",
        "del",
        "do",
        "elif",
        "else",
        "enum",
        "except",
        "export",
        "extends",
        "false",
        "finally",
        "for",
        "from",
        "func",
        "function",
        "go",
        "if",
        "impl",
        "import",
        "in",
        "interface",
        "is",
        "lambda",
        "let",
        "match",
        "new",
        "nil",
        "none",
        "not",
        "null",
        "or",
        "package",
        "pass",
        "private",
        "protected",
        "public",
        "raise",
        "range",
        "return",
        "select",
        "static",
        "struct",
        "super",
        "switch",
        "this",
        "throw",
        "true",
        "try",
        "type",
        "typeof",
        "use",
        "var",
        "void",
        "while",
        "with",
        "yield",
    ]
)
"""Keywords of common languages, which are no identifiers."""

_RIDGE_GRID = (1e-4, 1e-3, 1e-2, 1e-1, 1.0)

Array = NDArray[Any]


@dataclass(frozen=True, slots=True)
class ProbeItem:
    """A question to a probe: the ids that are encoded, the span of them whose states are pooled, the answer.

    Items of the same `commit` are not independent.
    """

    ids: list[int]
    span: tuple[int, int]
    answer: bool
    commit: str = ""


def make_line_type_items(
    examples: Sequence[Example], budget: TokenBudget, codec: TokenCodec, seed: int = 0
) -> list[ProbeItem]:
    """Lines of the changes with every sign replaced by the same mark; `answer`: the line was added."""
    dice = random.Random(seed)
    signs = {codec.marks["add"][0]: True, codec.marks["delete"][0]: False}
    ends = {marks[0] for marks in codec.marks.values()}
    items = []
    for example in examples:
        ids = render_change(example.change, (), "", budget, codec)
        masked = [codec.marks["keep"][0] if one in signs else one for one in ids]
        starts = [i for i, one in enumerate(ids) if one in signs]
        for start in dice.sample(starts, min(MAX_LINES_PER_COMMIT, len(starts))):
            end = next((i for i in range(start + 1, len(ids)) if ids[i] in ends), len(ids))
            if end - start > 1:
                items.append(ProbeItem(masked, (start + 1, end), signs[ids[start]], example.sha))
    return items


def make_change_match_items(
    examples: Sequence[Example], budget: TokenBudget, codec: TokenCodec, seed: int = 0
) -> list[ProbeItem]:
    """Each change with its own message or, in half of the cases, another's; `answer`: it is its own."""
    dice = random.Random(seed)
    items = []
    for example in examples:
        own = dice.random() < 0.5
        message = example.message if own else dice.choice(examples).message
        ids = render_change(example.change, (message,), "", budget, codec)
        items.append(ProbeItem(ids, (0, len(ids)), message == example.message, example.sha))
    return items


def make_identifier_type_items(
    examples: Sequence[Example], codec: TokenCodec, seed: int = 0
) -> list[ProbeItem]:
    """Identifiers in single added lines, without the rest of the change; `answer`: it names a function.

    A function is called or defined with a parenthesis after its name, which is removed. As many names of
    functions are taken as other names.
    """
    dice = random.Random(seed)
    items = []
    for example in examples:
        lines = {
            line[1:].strip()
            for block in split_compact(example.change)[1].values()
            for line in block
            if line[0] == "+"
        }
        found = [(line, *one) for line in sorted(lines) for one in _find_names(line)]
        for wanted in (True, False):
            of_kind = [one for one in found if one[2] is wanted]
            for line, (start, end), answer in dice.sample(
                of_kind, min(MAX_NAMES_PER_COMMIT // 2, len(of_kind))
            ):
                rest = line[end + 1 :] if answer else line[end:]
                before, name, after = map(codec.encode, (line[:start], line[start:end], rest))
                span = (len(before), len(before) + len(name))
                items.append(ProbeItem([*before, *name, *after], span, answer, example.sha))
    return items


def _find_names(line: str) -> list[tuple[tuple[int, int], bool]]:
    """The spans of the identifiers in a line of code, and whether a parenthesis follows."""
    called = {match.start() for match in _CALLED_NAME.finditer(line)}
    return [
        (match.span(), match.start() in called)
        for match in _IDENTIFIER.finditer(line)
        if match[0].lower() not in _KEYWORDS and len(match[0]) > 1
    ]


def score_probe_answers(x: Array, y: Array, x_new: Array, y_new: Array) -> Array:
    """Which of `y_new` a probe fitted on features `x` (n, width) and answers `y` (n) gets right: 1 or 0 each.

    The ridge penalty is chosen on the last fifth of `x`. ValueError when all answers are the same.
    """
    if y.min() == y.max():
        raise ValueError("a probe needs examples of both answers")
    cut = len(y) * 4 // 5
    scored = [
        (float((_predict_answers(_fit_probe(x[:cut], y[:cut], r), x[cut:]) == y[cut:]).mean()), r)
        for r in _RIDGE_GRID
    ]
    best = max(scored)[1]
    right: Array = (_predict_answers(_fit_probe(x, y, best), x_new) == y_new).astype(float)
    return right


def _fit_probe(x: Array, y: Array, ridge: float) -> tuple[Array, Array, Array]:
    """Mean and spread of the features, and the weights of a logistic regression on the standardised ones."""
    mean, spread = x.mean(0), x.std(0) + 1e-6
    features = torch.from_numpy(_standardise_features(x, mean, spread))
    goal = torch.from_numpy(y.astype(np.float32))
    weights = torch.zeros(features.shape[1], requires_grad=True)
    optimiser = torch.optim.LBFGS([weights], max_iter=100, line_search_fn="strong_wolfe")

    def compute_loss() -> Tensor:
        optimiser.zero_grad()
        value = torch.nn.functional.binary_cross_entropy_with_logits(features @ weights, goal)
        value = value + ridge * (weights[:-1] ** 2).sum() / 2
        value.backward()  # type: ignore[no-untyped-call]
        return value

    optimiser.step(compute_loss)  # type: ignore[no-untyped-call]
    return mean, spread, weights.detach().numpy()


def _predict_answers(fitted: tuple[Array, Array, Array], x: Array) -> Array:
    mean, spread, weights = fitted
    return _standardise_features(x, mean, spread) @ weights > 0


def _standardise_features(x: Array, mean: Array, spread: Array) -> Array:
    scaled = (x - mean) / spread
    return np.hstack([scaled, np.ones((len(scaled), 1))]).astype(np.float32)
