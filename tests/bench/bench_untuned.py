"""Versions of a base side by side, untuned: the table in a model card that decides which weights ship.

    python tests/bench/bench_untuned.py flask=histories/flask.git gin=… axios=… --bases OLD models/mini

Asked about the validation part of each history as the hook does: an index of the commits before that part,
and the part's own earlier commits among the exemplars. Nothing is fitted on the histories, and the test part
is never looked at. B-Norm; the difference to the first base is paired over the commits.
"""

import argparse
import json
import tempfile
from pathlib import Path

from git import Repo

from gitpeft.bundle import Manifest
from gitpeft.choose import GENERATED, Chooser
from gitpeft.git import Repository
from gitpeft.learn import backtest, bases, dataset, evaluate, pipeline

VALID = 200


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("histories", nargs="+", metavar="NAME=PATH")
    parser.add_argument("--bases", nargs="+", default=["mini"])
    parser.add_argument("--limit", type=int, default=VALID)
    arguments = parser.parse_args()
    print("| history | base | generated | consensus | consensus over the first |\n|---|---|---|---|---|")
    every: dict[str, list[float]] = {name: [] for name in arguments.bases}
    for item in arguments.histories:
        history, _, path = item.partition("=")
        data = examples(path)
        first: list[float] = []
        for name in arguments.bases:
            asked = ask(name, data, arguments.limit)
            generated = backtest.score(asked, Chooser(mode=GENERATED))
            consensus = backtest.score(asked, backtest.CONSENSUS)
            first, every[name] = first or consensus, every[name] + consensus
            cells = [cell(generated), cell(consensus), over(consensus, first)]
            print(f"| {history} (n = {len(asked)}) | {name} | " + " | ".join(cells) + " |", flush=True)
    for name, scores in every.items():
        rest = f"{cell(scores)} | {over(scores, every[arguments.bases[0]])} |"
        print(f"| all (n = {len(scores)}) | {name} | | {rest}")


def examples(path: str) -> dataset.Dataset:
    with tempfile.TemporaryDirectory() as scratch:
        Repo.clone_from(path, scratch, no_checkout=True)
        records = pipeline.mine(Repository.open(Path(scratch)), "HEAD", lambda *_: None).records
    return dataset.make(records, bases.find("mini").budget.exemplars)


def ask(name: str, data: dataset.Dataset, limit: int) -> list[backtest.Asked]:
    base = bases.find(name)
    ready = base.ready()
    assert ready is not None, f"{name} has no ONNX files"
    settings = json.loads((ready / "settings.json").read_text())
    manifest = Manifest(created="", settings=settings, **pipeline.of_base(base))
    with backtest.trial(manifest, ready, data.index_before(data.first_valid), {}) as suggester:
        return backtest.ask(suggester, backtest.sample(data.valid, limit, seed=1), since=data.valid)


def cell(scores: list[float]) -> str:
    return "{:.1f} ({:.1f}–{:.1f})".format(*evaluate.bootstrap(scores, 0))


def over(scores: list[float], first: list[float]) -> str:
    return "{:+.1f} ({:+.1f} to {:+.1f})".format(*evaluate.paired_bootstrap(scores, first, 0))


if __name__ == "__main__":
    main()
