"""Versions of a base model side by side, without tuning: a table of the model card.

    python tests/bench/bench_untuned.py flask=histories/flask.git gin=… axios=… --bases OLD models/mini

Evaluated on the validation part of each history with a rolling index. Nothing is fitted on the histories, and
the test part is not used. All use the embedded base's default reranker. B-Norm; differences to the first base
are paired over the commits. A second table compares that reranker's scores with the B-Norm reached, in
fifths of the commits, the least certain first, for the last base.
"""

import json
import sys
from itertools import chain
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gitpeft.bundle.bundle import Manifest
from gitpeft.learn import packing
from gitpeft.learn.data import dataset
from gitpeft.learn.evaluation import text_metrics, trial
from gitpeft.learn.models import bases
from gitpeft.suggest.reranker import Reranker
from gitpeft.suggest.reranker_features import GENERATED
from tests.bench import histories

VALID = 200
FIFTHS = 5


def main() -> None:
    parser = histories.options(__doc__)
    parser.add_argument("--bases", nargs="+", default=["mini"])
    parser.add_argument("--limit", type=int, default=VALID)
    arguments = parser.parse_args()
    gap = "difference to the first"
    print(f"| history | base | generated | {gap} | default reranker | {gap} |\n" + "|---" * 6 + "|")
    reranker = bases.find_base(bases.EMBEDDED_BASE).load_reranker()
    last: dict[str, list[trial.ExampleCandidates]] = {}
    every: dict[str, list[Scores]] = {name: [] for name in arguments.bases}
    for item in arguments.histories:
        history, _, path = item.partition("=")
        data = dataset.build_dataset(histories.read(path), bases.find_base("mini").budget.exemplars)
        for name in arguments.bases:
            asked = ask(name, data, arguments.limit)
            last[history] = asked
            scores = [trial.score_reranker(asked, how) for how in (Reranker(mode=GENERATED), reranker)]
            every[name].append(scores)
            row(f"{history} (n = {len(asked)})", name, scores, every[arguments.bases[0]][-1])
    joined = {
        name: [list(chain(*ways)) for ways in zip(*found, strict=True)] for name, found in every.items()
    }
    for name, scores in joined.items():
        row(f"all (n = {len(scores[0])})", name, scores, joined[arguments.bases[0]])
    print("\n| history | " + " | ".join(f"fifth {n}" for n in range(1, FIFTHS + 1)) + " |")
    print("|---" * (FIFTHS + 1) + "|")
    for history, found in last.items():
        print(f"| {history} | " + " | ".join(fifths(found, reranker)) + " |")


Scores = list[list[float]]
"""B-Norm of each commit, by ranking."""


def row(history: str, name: str, scores: Scores, first: Scores) -> None:
    cells = [
        f"{histories.cell(ours)} | {over(ours, theirs)}" for ours, theirs in zip(scores, first, strict=True)
    ]
    print(f"| {history} | {name} | " + " | ".join(cells) + " |", flush=True)


def fifths(asked: list[trial.ExampleCandidates], reranker: Reranker) -> list[str]:
    """Mean score (in percent) and mean B-Norm of the messages that are put first, by score."""
    best = [reranker.rank_candidates(one.found) for one in asked]
    said = np.array([found[0][0] if found else 0.0 for found in best])
    came = np.array(trial.score_reranker(asked, reranker))
    parts = np.array_split(np.argsort(said, kind="stable"), FIFTHS)
    return [f"{100 * said[part].mean():.0f} → {came[part].mean():.0f}" for part in parts]


def ask(name: str, data: dataset.Dataset, limit: int) -> list[trial.ExampleCandidates]:
    base = bases.find_base(name)
    ready = base.find_onnx_folder()
    assert ready is not None, f"{name} has no ONNX files"
    settings = json.loads((ready / "settings.json").read_text())
    manifest = Manifest(created="", settings=settings, **packing.describe_base(base))
    with trial.open_trial_suggester(manifest, ready, data.index_before(data.first_valid), {}) as suggester:
        return trial.collect_candidates(
            suggester, trial.sample_examples(data.valid, limit, seed=1), since=data.valid
        )


def over(scores: list[float], first: list[float]) -> str:
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*text_metrics.paired_bootstrap(scores, first, 0))


if __name__ == "__main__":
    main()
