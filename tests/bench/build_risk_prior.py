"""Fits the risk prior of the package (`models/risk/prior.json`) from many public histories.

    python tests/bench/build_risk_prior.py collect FOLDER NAME=PATH [NAME=PATH …]
    python tests/bench/build_risk_prior.py fit FOLDER models/risk

`collect` labels each history (a full clone, bare or not; it is only read) by gitpeft's own SZZ, measures its
commits by gitpeft's own replay, and leaves one file in FOLDER, so that an interrupted run goes on where it
stopped: the older 90 % of the newest 3,000 commits, only numbers.
`fit` fits the model on all of them, and prints how well it ranks histories that it was not fitted on.
"""

import argparse
import json
import os
import sys
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gitpeft.history.store import History
from gitpeft.learn import logistic
from gitpeft.learn.evaluation.ranking_metrics import roc_auc
from gitpeft.learn.risk import prior
from gitpeft.learn.risk.labelled_history import LabelledHistory, label_commits, read_labelled_history
from gitpeft.risk.bag_of_words import BUCKET_COUNT, hash_words
from gitpeft.risk.change_metrics import METRIC_NAMES
from gitpeft.risk.model import PRIOR, RANK_PREFIX, RISK_FEATURES, WORDS_FEATURE, RiskModel
from tests.bench.histories import open_newest

Array = NDArray[np.float64]

IDENTITY = dict.fromkeys(
    ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL"), "bench@example.org"
)
CAP = 3000
MIN_BUGS = 10
WINDOW, BLOCK = 1000, 50
RIDGE, WORDS_RIDGE, WORDS_STEPS = 30.0, 30.0, 60
CODE_FEATURES = (
    *RISK_FEATURES,
    *("fixes", "recent", "functions", "new", "tests"),
    *("code_added", "code_removed", "code_files", "code_lines", "code_new", "real_added", "real_removed"),
)
"""What the second of the two regressions reads; the first reads `RISK_FEATURES`."""


@dataclass(frozen=True)
class Examples:
    """The commits of one history, oldest first: metrics (n, metrics), labels (n), NaN without one, and words.

    `words` are the buckets of all commits in a row, `counts` how many each commit has.
    """

    metrics: Array
    truth: Array
    words: NDArray[np.int64]
    counts: NDArray[np.int64]

    def as_arrays(self) -> dict[str, Array]:
        """Its arrays by name."""
        return {field.name: getattr(self, field.name) for field in fields(self)}


def collect(folder: Path, name: str, history: Path) -> None:
    target = folder / f"{name}.npz"
    if target.exists() or (found := read_history(history)) is None:
        return
    examples = make_examples(found[0])
    folder.mkdir(parents=True, exist_ok=True)
    save_arrays(target, examples.as_arrays())
    labelled, bugs = int((~np.isnan(examples.truth)).sum()), int(np.nansum(examples.truth))
    print(f"{name}: {labelled} labelled commits, {bugs} fixed later", flush=True)


def save_arrays(target: Path, arrays: Mapping[str, Array]) -> None:
    np.savez_compressed(target, allow_pickle=False, **arrays)


def read_history(history: Path) -> tuple[LabelledHistory, dict[str, str]] | None:
    """The labelled commits, and their changes as they are stored; None where there is none to learn from."""
    with open_newest(history, CAP) as (repository, shas), History.open(repository.state_dir) as store:
        tip = shas[len(shas) // 10]  # the commit before the newest tenth
        store.mine_commits(repository, tip)
        known = read_labelled_history(store, repository, tip)
        texts = {one.sha: one.change for one in store.load_records(repository, tip)}
    return None if known is None else (known, texts)


def make_examples(known: LabelledHistory) -> Examples:
    labelled = label_commits(known.measured, known.found, known.now)
    truth = dict(zip(labelled.shas, labelled.truth, strict=True))
    buckets = [sorted(hash_words(known.texts.get(one.sha, ""))) for one in known.measured]
    rows = [[float(getattr(one.metrics, name)) for name in METRIC_NAMES] for one in known.measured]
    return Examples(
        metrics=np.array(rows),
        truth=np.array([truth.get(one.sha, np.nan) for one in known.measured]),
        words=np.array([i for found in buckets for i in found], dtype=np.int64),
        counts=np.array(list(map(len, buckets)), dtype=np.int64),
    )


# --- the model ----------------------------------------------------------------------------------------------


def load(folder: Path) -> dict[str, Examples]:
    """The histories with enough bugs, by name."""
    found = {path.stem: Examples(**np.load(path)) for path in sorted(folder.glob("*.npz"))}
    return {name: one for name, one in found.items() if np.nansum(one.truth) >= MIN_BUGS}


def fit_prior(histories: Mapping[str, Examples]) -> RiskModel:
    """Two regressions on ranks and one on words, in equal shares.

    The one regression reads the metrics of Kamei et al., the other also those that leave out tests,
    documents and data. Each is divided by its standard deviation over all commits.
    """
    usual = _compute_usual_quantiles(histories)
    ranks = {name: rank_commits(one, usual) for name, one in histories.items()}
    known = {name: ~np.isnan(one.truth) for name, one in histories.items()}
    x = np.vstack([ranks[name][known[name]] for name in histories])
    y = np.concatenate([one.truth[known[name]] for name, one in histories.items()])
    words = WordRows.build(list(histories.values()), [known[name] for name in histories])
    word_weights = words.fit(y)
    weights = np.zeros(len(CODE_FEATURES) + 1)
    for features in (RISK_FEATURES, CODE_FEATURES):
        columns = [CODE_FEATURES.index(name) for name in features]
        part = fit_regression(x[:, columns], y)
        weights[columns] += part / (x[:, columns] @ part).std()
    said = words.score(word_weights)
    weights[-1] = 1 / said.std()
    raw = x @ weights[:-1] + weights[-1] * said
    return RiskModel(
        PRIOR,
        features=(*(RANK_PREFIX + name for name in CODE_FEATURES), WORDS_FEATURE),
        weights=tuple(round(float(one), 5) for one in weights),
        bias=0.0,
        means=tuple(round(float(one), 5) for one in (*x.mean(0), said.mean())),
        words=tuple(round(float(one), 3) for one in word_weights),
        ranks={name: tuple(map(float, usual[:, i])) for i, name in enumerate(CODE_FEATURES)},
        curve=tuple((round(a, 5), round(b, 5)) for a, b in logistic.fit_platt_sigmoid(raw, y)),
        scores=tuple(round(float(one), 5) for one in np.quantile(raw, np.linspace(0, 1, 201))),
        known=int(y.sum()),
        report={"histories": len(histories), "commits": len(y), "buggy": int(y.sum())},
    )


def _compute_usual_quantiles(histories: Mapping[str, Examples]) -> Array:
    """The quantiles of each metric, (quantiles, features), the mean over the histories."""
    at, columns = (
        np.linspace(0, 1, prior.QUANTILE_COUNT),
        [METRIC_NAMES.index(name) for name in CODE_FEATURES],
    )
    rows = [np.quantile(one.metrics[:, columns], at, axis=0) for one in histories.values()]
    return np.asarray(np.mean(rows, axis=0)).round(4)


def rank_commits(one: Examples, usual: Array) -> Array:
    """The ranks (n, features) of commits among the `WINDOW` commits before, and the usual ones."""
    values = one.metrics[:, [METRIC_NAMES.index(name) for name in CODE_FEATURES]]
    own, share = rank_among_earlier(values)
    return blend_ranks(own, share, values, usual)


def rank_among_earlier(values: Array) -> tuple[Array, Array]:
    """The ranks (n, features) among the commits before, 0 where there are none, and what they count, (n)."""
    found, share = np.zeros(values.shape), np.zeros(len(values))
    for start in range(0, len(values), BLOCK):
        before, block = values[max(0, start - WINDOW) : start], slice(start, start + BLOCK)
        share[block] = len(before) / (len(before) + prior.PRIOR_COMMITS)
        if len(before):
            found[block] = _rank_columns(np.sort(before, axis=0), values[block])
    return found, share


def blend_ranks(own: Array, share: Array, values: Array, usual: Array) -> Array:
    """The own ranks, and those among the usual distribution (quantiles, features) for the rest of 1."""
    return share[:, None] * own + (1 - share[:, None]) * _rank_columns(usual, values)


def _rank_columns(ordered: Array, values: Array) -> Array:
    """The rank of each value, 0 to 1, in its column, which is sorted; equal values count half."""
    found = np.empty(values.shape)
    for j in range(values.shape[1]):
        below, upto = (np.searchsorted(ordered[:, j], values[:, j], side) for side in ("left", "right"))
        found[:, j] = (below + upto) / (2 * len(ordered))
    return found


def _sum_by(place: NDArray[np.int64], values: Array, count: int) -> Array:
    """The sums of the values with the same place, (count)."""
    return np.asarray(np.bincount(place, values, count), dtype=np.float64)


def fit_regression(x: Array, y: Array) -> Array:
    spread = x.std(0) + logistic.SPREAD
    penalty = np.full(x.shape[1], RIDGE)
    weights, _ = logistic.fit_logistic_newton((x - x.mean(0)) / spread, y, penalty)
    return np.asarray(weights / spread)


@dataclass(frozen=True)
class WordRows:
    """Hashed words of commits as a sparse matrix: the row, the column and the value of each entry."""

    count: int
    row: NDArray[np.int64]
    column: NDArray[np.int64]
    value: Array

    @classmethod
    def build(cls, histories: Sequence[Examples], kept: Sequence[NDArray[np.bool_]]) -> "WordRows":
        columns, counts = [], []
        for one, keep in zip(histories, kept, strict=True):
            columns.append(one.words[np.repeat(keep, one.counts)])
            counts.append(one.counts[keep])
        sizes = np.concatenate(counts)
        value = np.repeat(np.maximum(sizes, 1) ** -0.5, sizes)
        return cls(len(sizes), np.repeat(np.arange(len(sizes)), sizes), np.concatenate(columns), value)

    def score(self, weights: Array) -> Array:
        return _sum_by(self.row, weights[self.column] * self.value, self.count)

    def transpose(self, rows: Array) -> Array:
        return _sum_by(self.column, rows[self.row] * self.value, BUCKET_COUNT)

    def fit(self, y: Array) -> Array:
        """Weights (buckets) of a logistic regression, with a bound on the curvature (Böhning 1992)."""
        inverse = np.linalg.inv(self._bound_curvature())
        weights, bias = np.zeros(BUCKET_COUNT), 0.0
        for _ in range(WORDS_STEPS):
            rest = y - 1 / (1 + np.exp(-(self.score(weights) + bias)))
            step = inverse @ np.append(self.transpose(rest) - WORDS_RIDGE * weights, rest.sum())
            weights, bias = weights + step[:-1], bias + step[-1]
            if np.abs(step).max() < 1e-3:
                break
        return weights

    def _bound_curvature(self) -> Array:
        bound = np.zeros((BUCKET_COUNT + 1, BUCKET_COUNT + 1))
        for start in range(0, self.count, 4000):
            inside = slice(*np.searchsorted(self.row, (start, start + 4000)))
            rows = np.zeros((4000, BUCKET_COUNT), dtype=np.float32)
            rows[self.row[inside] - start, self.column[inside]] = self.value[inside]
            bound[:-1, :-1] += rows.T @ rows
        bound[-1, :-1] = bound[:-1, -1] = self.transpose(np.ones(self.count))
        bound[-1, -1] = self.count
        return bound / 4 + np.diag([WORDS_RIDGE] * BUCKET_COUNT + [1e-6])


# --- histories that it was not fitted on --------------------------------------------------------------------


def cross_validate(histories: Mapping[str, Examples], folds: int = 3) -> dict[str, tuple[float, float]]:
    """The AUC of the prior and of lines added on each history, by a prior fitted without a fold of them."""
    found = {}
    for fold in range(folds):
        held = set(list(histories)[fold::folds])
        model = fit_prior({name: one for name, one in histories.items() if name not in held})
        usual = np.array([model.ranks[name] for name in CODE_FEATURES]).T
        for name in sorted(held):
            one = histories[name]
            keep = ~np.isnan(one.truth)
            words = WordRows.build([one], [keep]).score(np.array(model.words))
            scores = rank_commits(one, usual)[keep] @ np.array(model.weights[:-1]) + model.weights[-1] * words
            lines = one.metrics[keep][:, METRIC_NAMES.index("la")]
            found[name] = roc_auc(one.truth[keep], scores), roc_auc(one.truth[keep], lines)
    return found


def fit(folder: Path, out: Path) -> None:
    histories = load(folder)
    unseen = cross_validate(histories)
    both = np.array(list(unseen.values()))
    won = int((both[:, 0] > both[:, 1]).sum())
    print("| history | prior | lines added |\n|---|---|---|")
    for name, (ours, lines) in unseen.items():
        print(f"| {name.replace('+', '/')} | {ours:.3f} | {lines:.3f} |")
    mean = " | ".join(f"{one:.3f}" for one in both.mean(0))
    print(f"| mean of {len(unseen)}; the prior is above on {won} | {mean} |")
    model = fit_prior(histories)
    measured = {"unseen_auc": round(float(both[:, 0].mean()), 4), "above_lines_added": won}
    model = replace(model, report=model.report | measured)
    out.mkdir(parents=True, exist_ok=True)
    (out / prior.PRIOR_FILE).write_text(json.dumps(json.loads(model.to_json()), sort_keys=True) + "\n")


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    one = kinds.add_parser("collect")
    one.add_argument("folder", type=Path)
    one.add_argument("histories", nargs="+", metavar="NAME=PATH")
    one = kinds.add_parser("fit")
    one.add_argument("folder", type=Path)
    one.add_argument("out", type=Path)
    options = parser.parse_args()
    os.environ.update(IDENTITY)
    if options.kind == "collect":
        for given in options.histories:
            collect(options.folder, *_split(given))
    else:
        fit(options.folder, options.out)


def _split(given: str) -> tuple[str, Path]:
    name, _, path = given.partition("=")
    return name, Path(path)


if __name__ == "__main__":
    main()
