r"""What each group of features is worth to the risk prior, on the histories that it is fitted on.

    python tests/bench/bench_risk_features.py collect FOLDER NAME=PATH [NAME=PATH …]
    python tests/bench/bench_risk_features.py table FOLDER \
        | python tests/bench/write_table.py docs/risk.md features

`collect` is that of `build_risk_prior.py` (the older 90 % of the newest 3,000 commits of each history), with
the candidate features of `risk_candidates.py` beside the metrics. `table` judges each history by a prior that
was fitted without a third of the histories, this one among them: groups alone, the shipped prior without each
of its groups, the shipped prior with each candidate, and all of them without each one. Means over
histories; 95 % intervals of paired differences, bootstrap over the histories.
"""

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gitpeft.learn.evaluation.ranking_metrics import capture_rate, roc_auc
from gitpeft.learn.risk import prior
from gitpeft.learn.szz.szz import SzzLabels
from gitpeft.risk.change_metrics import METRIC_NAMES
from gitpeft.risk.model import RISK_FEATURES
from tests.bench import build_risk_prior as build
from tests.bench.risk_candidates import CANDIDATES, compute_candidates

Array = NDArray[np.float64]

WORDS = "words of the changed lines"
SHIPPED: dict[str, tuple[str, ...]] = {
    "size (`la`, `ld`, `lt`)": ("la", "ld", "lt"),
    "spread (`ns`, `nd`, `nf`, `entropy`)": ("ns", "nd", "nf", "entropy"),
    "files' past (`ndev`, `age`, `nuc`, `recent`)": ("ndev", "age", "nuc", "recent"),
    "experience (`exp`, `rexp`, `sexp`)": ("exp", "rexp", "sexp"),
    "fixes of the files": ("fixes",),
    "functions, new files": ("functions", "new"),
    "share of tests": ("tests",),
    "code of the product (`code_*`)": tuple(name for name in METRIC_NAMES if name.startswith("code_")),
    "code without comments, blank and moved lines": ("real_added", "real_removed"),
    WORDS: (),
}
"""The groups of what the shipped prior reads."""

FOLDS, CAPTURED, RESAMPLES = 3, 0.1, 2000


@dataclass(frozen=True)
class Ranked:
    """The labelled commits of all histories in a row: own ranks and values (n, features), labels, words.

    `shares` is what the own ranks count, the usual distribution of other histories the rest.
    """

    names: tuple[str, ...]
    owner: NDArray[np.int64]
    own: Array
    values: Array
    shares: Array
    truth: Array
    examples: dict[str, build.Examples]


def read(folder: Path) -> Ranked:
    examples: dict[str, build.Examples] = {}
    own, values, shares, owner, truth = [], [], [], [], []
    for path in sorted(folder.glob("*.npz")):
        stored = dict(np.load(path))
        rows = np.hstack([stored["metrics"][:, _COLUMNS], stored.pop("candidates")])
        one = build.Examples(**stored)
        if np.nansum(one.truth) < build.MIN_BUGS:
            continue
        keep = ~np.isnan(one.truth)
        found, share = build.rank_among_earlier(rows)
        own.append(found[keep])
        values.append(rows[keep])
        shares.append(share[keep])
        truth.append(one.truth[keep])
        owner.append(np.full(int(keep.sum()), len(examples)))
        examples[path.stem] = one
    stack = np.concatenate
    return Ranked(
        tuple(examples), stack(owner), stack(own), stack(values), stack(shares), stack(truth), examples
    )


_COLUMNS = [METRIC_NAMES.index(name) for name in build.CODE_FEATURES]
FEATURES = (*build.CODE_FEATURES, *(name for names in CANDIDATES.values() for name in names))


@dataclass(frozen=True)
class Fold:
    """The ranks of all commits as a third of the histories sees them, and the score of the words."""

    train: NDArray[np.bool_]
    ranks: Array
    words: Array


def make_folds(data: Ranked) -> list[Fold]:
    folds = []
    for number in range(FOLDS):
        train = data.owner % FOLDS != number
        at = np.linspace(0, 1, prior.QUANTILE_COUNT)
        groups = [data.values[data.owner == i] for i in range(len(data.names)) if i % FOLDS != number]
        usual = np.mean([np.quantile(rows, at, axis=0) for rows in groups], axis=0)
        ranks = build.blend_ranks(data.own, data.shares, data.values, usual)
        folds.append(Fold(train, ranks, _score_words(data, number)))
    return folds


def _score_words(data: Ranked, number: int) -> Array:
    every = list(data.examples.values())
    kept = [~np.isnan(one.truth) for one in every]
    known = [i for i in range(len(every)) if i % FOLDS != number]
    rows = build.WordRows.build([every[i] for i in known], [kept[i] for i in known])
    weights = rows.fit(data.truth[data.owner % FOLDS != number])
    return build.WordRows.build(every, kept).score(weights)


def score(data: Ranked, folds: Sequence[Fold], features: Sequence[str], *, words: bool, kamei: bool) -> Array:
    """The score of each commit by the model that has not seen its history; `kamei`: with the regression on
    Kamei's metrics beside the one on all `features`.
    """
    found = np.zeros(len(data.truth))
    sets = [features, [name for name in features if name in RISK_FEATURES]] if kamei else [features]
    for fold in folds:
        total = fold.words / fold.words[fold.train].std() if words else np.zeros(len(found))
        for names in filter(None, sets):
            x = fold.ranks[:, [FEATURES.index(name) for name in names]]
            part = x @ build.fit_regression(x[fold.train], data.truth[fold.train])
            total = total + part / (part[fold.train].std() + 1e-9)
        found[~fold.train] = total[~fold.train]
    return found


def judge(data: Ranked, scores: Array) -> Array:
    """AUC and capture of each history, (histories, 2)."""
    rows = [data.owner == i for i in range(len(data.names))]
    return np.array(
        [
            (roc_auc(data.truth[one], scores[one]), capture_rate(data.truth[one], scores[one], CAPTURED))
            for one in rows
        ]
    )


def _difference(ours: Array, theirs: Array) -> str:
    """The mean difference in AUC and in capture, each with its interval."""
    gap = ours - theirs
    drawn = np.random.default_rng(0).integers(0, len(gap), (RESAMPLES, len(gap)))
    low, high = np.quantile(gap[drawn].mean(1), (0.025, 0.975), axis=0)
    cells = [f"{100 * gap[:, i].mean():+.2f} ({100 * low[i]:+.2f} to {100 * high[i]:+.2f})" for i in (0, 1)]
    return " | ".join(cells)


def print_table(folder: Path) -> None:
    data = read(folder)
    folds = make_folds(data)
    groups = {**SHIPPED, **CANDIDATES}

    def rank(chosen: Sequence[str], *, kamei: bool = True) -> Array:
        names = [name for group in chosen for name in groups[group]]
        return judge(data, score(data, folds, names, words=WORDS in chosen, kamei=kamei))

    shipped, every = rank([*SHIPPED]), rank([*groups])
    bugs = int(data.truth.sum())
    size = f"{len(data.names)} histories, {len(data.truth):,} commits, {bugs:,} fixed later"
    print(f"| group ({size}) | alone: AUC ", end="")
    print("| bugs in 10 % | change of AUC × 100 | of bugs in 10 % |\n|---|---|---|---|---|")
    for head, one in (("all of the prior", shipped), ("prior and all candidates", every)):
        change = _difference(one, shipped) if one is every else "| "
        print(f"| **{head}** | {one[:, 0].mean():.3f} | {one[:, 1].mean():.3f} | {change} |", flush=True)
    for title, inside in (("the prior without", SHIPPED), ("the prior with", CANDIDATES)):
        print(f"| *{title}* | | | | |")
        for group in inside:
            alone = rank([group], kamei=False)
            chosen = [one for one in SHIPPED if one != group] if inside is SHIPPED else [*SHIPPED, group]
            found = _difference(rank(chosen), shipped)
            print(f"| {group} | {alone[:, 0].mean():.3f} | {alone[:, 1].mean():.3f} | {found} |", flush=True)
    print("| *prior and all candidates without* | | | | |")
    for group in CANDIDATES:
        found = _difference(rank([one for one in groups if one != group]), every)
        print(f"| {group} | | | {found} |", flush=True)


def collect(folder: Path, name: str, history: Path) -> None:
    target = folder / f"{name}.npz"
    if target.exists():
        return
    found = build.read_history(history)
    if found is None:
        return
    known, texts = found
    assert isinstance(known.found, SzzLabels)
    moments = {sha: bug.known for sha, bug in known.found.verdicts.items()}
    rows = compute_candidates(known.measured, texts, moments)
    folder.mkdir(parents=True, exist_ok=True)
    build.save_arrays(target, {"candidates": np.array(rows)} | build.make_examples(known).as_arrays())
    print(name, flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    one = kinds.add_parser("collect")
    one.add_argument("folder", type=Path)
    one.add_argument("histories", nargs="+", metavar="NAME=PATH")
    kinds.add_parser("table").add_argument("folder", type=Path)
    options = parser.parse_args()
    if options.kind == "table":
        print_table(options.folder)
        return
    os.environ.update(build.IDENTITY)
    for given in options.histories:
        name, _, path = given.partition("=")
        collect(options.folder, name, Path(path))


if __name__ == "__main__":
    main()
