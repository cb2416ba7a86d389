"""What a model would have suggested for unseen commits: hides trial bundles and the fit of the chooser."""

import json
import random
import shutil
import tempfile
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from gitpeft import bundle as bundles
from gitpeft import recent
from gitpeft.bundle import Manifest
from gitpeft.choose import CHOOSER, FEATURES, GENERATED, RETRIEVED, Candidate, Chooser
from gitpeft.learn.dataset import Example
from gitpeft.learn.evaluate import b_norm
from gitpeft.retrieve import Entry, Index, pack, terms
from gitpeft.suggest import Suggester

FOLDS = 5

CONSENSUS = Chooser(CHOOSER, ("agreement", "mean_log_prob"), (1.0, 0.1))
"""The candidate that shares most words with all others, likelihood counting a little: minimum Bayes risk
(Kumar & Byrne 2004) with unigram F1. It needs no fit; its one weight was set on validation commits of flask,
gin and axios."""

_RIDGE = 3.0


@dataclass(frozen=True, slots=True)
class Asked:
    """An example and all that a model could have offered for it."""

    example: Example
    found: tuple[Candidate, ...]

    def offered(self, chooser: Chooser) -> str:
        """The message that this chooser would have put first, "" if none."""
        best = chooser.order(self.found)
        return best[0][1].message if best else ""


@contextmanager
def trial(manifest: Manifest, files: Path, index: Index, style: dict[str, Any]) -> Iterator[Suggester]:
    """A suggester from exported files and an index (none if empty), in a bundle that is gone afterwards."""
    with tempfile.TemporaryDirectory(prefix="gitpeft-trial-") as scratch:
        state = Path(scratch)
        with bundles.staging(state) as folder:
            copy_model(files, folder)
            if len(index):
                (folder / bundles.INDEX).mkdir()
                index.save(folder / bundles.INDEX)
            (folder / bundles.STYLE).write_text(json.dumps(style))
            id_ = bundles.write(folder, manifest)
        yield Suggester(bundles.activate(state, id_))


def copy_model(files: Path, folder: Path) -> None:
    """The ONNX files and the tokenizer of an exported model, into a bundle's folder."""
    for name in (bundles.ENCODER, bundles.DECODER, bundles.TOKENIZER):
        shutil.copyfile(files / name, folder / name)


def ask(
    suggester: Suggester,
    examples: Sequence[Example],
    on_step: Callable[[int, int], None] | None = None,
    since: Sequence[Example] = (),
) -> list[Asked]:
    """Every candidate for every example.

    `since` are all examples that the suggester's index has not, oldest first: each question then sees those
    before it, as many as the hook looks back.
    """
    asked = []
    for number, (example, before) in enumerate(zip(examples, _before(examples, since), strict=True), 1):
        if since:
            suggester.keep_up(before)
        asked.append(Asked(example, tuple(suggester.candidates(example.change, example.previous))))
        if on_step:
            on_step(number, len(examples))
    return asked


def sample(examples: Sequence[Example], most: int, seed: int) -> list[Example]:
    """At most `most` examples, drawn at random, in their order."""
    if len(examples) <= most:
        return list(examples)
    return [examples[i] for i in sorted(random.Random(seed).sample(range(len(examples)), most))]


def score(asked: Sequence[Asked], chooser: Chooser) -> list[float]:
    """B-Norm of what the chooser puts first, a number per example; 0 where nothing is offered."""
    return b_norm([one.offered(chooser) for one in asked], [one.example.message for one in asked])


# --- the chooser --------------------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class Choice:
    """The chooser that validation prefers, and what each way of choosing scored there (B-Norm, `n` examples).

    `name` is the way that won: generated, retrieved, consensus or chooser (a fitted one). The fitted one's
    score is cross-validated: each fold is scored by a chooser that was fitted without it.
    """

    name: str
    chooser: Chooser
    n: int
    scores: dict[str, float]

    @property
    def best(self) -> float:
        """The score of the way that won."""
        return self.scores[self.name]

    def report(self) -> dict[str, Any]:
        """For the manifest and the card."""
        return {"mode": self.name, "n": self.n, "scores": self.scores}


def choose_on(asked: Sequence[Asked]) -> Choice:
    """Fit a chooser on validation examples; keep it only if it beats each of the simple ways."""
    simple = {mode: Chooser(mode=mode) for mode in (GENERATED, RETRIEVED)} | {"consensus": CONSENSUS}
    scores = {mode: float(np.mean(score(asked, chooser))) for mode, chooser in simple.items()}
    folds = [[one for i, one in enumerate(asked) if i % FOLDS == k] for k in range(FOLDS)]
    if len(asked) >= 4 * FOLDS:
        held_out: list[float] = []
        for k, fold in enumerate(folds):
            rest = [one for i, one in enumerate(asked) if i % FOLDS != k]
            held_out += score(fold, fit(rest))
        scores[CHOOSER] = float(np.mean(held_out))
    best = max(scores, key=lambda mode: scores[mode])
    return Choice(best, fit(asked) if best == CHOOSER else simple[best], len(asked), scores)


def fit(asked: Sequence[Asked]) -> Chooser:
    """A logistic regression from a candidate's features to its B-Norm (0..1 as a soft label), with a ridge.

    Newton's method (iteratively reweighted least squares) on standardised features; the standardisation is
    folded into weights and bias.
    """
    rows, goals = [], []
    for one in asked:
        usable = [c for c in one.found if not c.flaw]
        rows += [c.features for c in usable]
        goals += b_norm([c.message for c in usable], [one.example.message] * len(usable))
    if not rows:
        return Chooser(mode=GENERATED)
    x, y = np.array(rows, dtype=float), np.array(goals) / 100
    mean, spread = x.mean(0), x.std(0) + 1e-9
    weights, bias = _newton((x - mean) / spread, y)
    weights = weights / spread
    return Chooser(CHOOSER, FEATURES, tuple(map(float, weights)), float(bias - weights @ mean))


def _newton(x: Any, y: Any, steps: int = 25) -> tuple[Any, float]:
    design = np.hstack([x, np.ones((len(x), 1))])
    ridge = np.diag([_RIDGE] * x.shape[1] + [1e-6])
    beta = np.zeros(design.shape[1])
    for _ in range(steps):
        p = 1 / (1 + np.exp(-np.clip(design @ beta, -30, 30)))
        curvature = (design * (p * (1 - p) + 1e-6)[:, None]).T @ design + ridge
        step = np.linalg.solve(curvature, design.T @ (y - p) - ridge @ beta)
        beta = beta + step
        if float(np.abs(step).max()) < 1e-8:
            break
    return beta[:-1], float(beta[-1])


def neighbours(index: Index, examples: Sequence[Example], since: Sequence[Example] = ()) -> list[str]:
    """The baseline: the message of the most similar commit of the index, "" when none is similar at all.

    `since` as in `ask`.
    """
    known = (index.extended(before) if since else index for before in _before(examples, since))
    near = [one.nearest(example.change, 1, fresh=0) for one, example in zip(known, examples, strict=True)]
    return [found[0].subject if found else "" for found in near]


def _before(examples: Sequence[Example], since: Sequence[Example]) -> Iterator[list[Entry]]:
    """For each example those of `since` that came before it, at most as many as the hook looks back."""
    entries = [Entry(one.sha, one.message, pack(terms(one.change))) for one in since]
    place = {one.sha: i for i, one in enumerate(since)}
    for example in examples:
        at = place.get(example.sha, 0)
        yield entries[max(0, at - recent.LOOKED_AT) : at]
