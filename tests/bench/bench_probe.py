"""What the frozen encoder of a base knows: line type and change matching, against two that know nothing.

    python tests/bench/bench_probe.py flask=histories/flask.git gin=histories/gin.git … [--base mini]

A linear probe on the pooled states of the base's encoder, of the same encoder with random weights, and on a
bag of tokens. Fitted on commits before the test part of each history, scored on the test part.
"""

import argparse
import tempfile
from pathlib import Path

from git import Repo

from gitpeft.codec import TokenCodec
from gitpeft.git import Repository
from gitpeft.learn import bases, dataset, pipeline, probing
from gitpeft.learn.backtest import sample

OLDER, NEWER = 800, 400


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("histories", nargs="+", metavar="NAME=PATH")
    parser.add_argument("--base", default="mini")
    arguments = parser.parse_args()
    base = bases.find(arguments.base)
    codec = TokenCodec.load(base.tokenizer)
    model = base.load()
    blank = type(model)(model.config)
    readers = {
        "base": probing.encoder_states(model),
        "random encoder": probing.encoder_states(blank),
        "bag of tokens": probing.one_hot(len(codec)),
    }
    print("| history | task | n | " + " | ".join(readers) + " |\n|---|---|---" + "|---" * len(readers) + "|")
    for item in arguments.histories:
        name, _, path = item.partition("=")
        with tempfile.TemporaryDirectory() as scratch:
            Repo.clone_from(path, scratch, no_checkout=True)
            records = pipeline.mine(Repository.open(Path(scratch)), "HEAD", lambda *_: None).records
        data = dataset.make(records, 0)
        older = sample(data.examples[: data.first_test][-2 * OLDER :], OLDER, seed=1)
        newer = sample(data.test, NEWER, seed=1)
        for task, ask in (("line type", probing.line_types), ("matching", probing.matches)):
            questions = ask(older, base.budget, codec), ask(newer, base.budget, codec)
            cells = [
                "{:.1%} ({:.1%}–{:.1%})".format(*probing.accuracy(r, *questions)) for r in readers.values()
            ]
            print(f"| {name} | {task} | {len(questions[1])} | " + " | ".join(cells) + " |", flush=True)


if __name__ == "__main__":
    main()
