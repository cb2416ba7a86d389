"""What the frozen encoder of a base knows: line type and change matching, against two that know nothing.

    python tests/bench/bench_probe.py flask=histories/flask.git gin=histories/gin.git … [--bases OLD mini]

A linear probe on the pooled states of each base's encoder, of the last one with random weights, and on a bag
of tokens. Fitted on the training part of each history, scored on its validation part: the table decides
between weights, so that the test part is left alone.
"""

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gitpeft.learn.compare import probes
from gitpeft.learn.data import dataset
from gitpeft.learn.evaluation.trial import sample
from gitpeft.learn.models import bases
from tests.bench import histories

OLDER, NEWER = 800, 400


def main() -> None:
    parser = histories.options(__doc__)
    parser.add_argument("--bases", nargs="+", default=["mini"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = bases.find(arguments.bases[-1])
    codec = base.codec()
    readers = reading(arguments.bases, len(codec))
    print("| history | task | n | " + " | ".join(readers) + " |\n|---|---|---" + "|---" * len(readers) + "|")
    for item in arguments.histories:
        name, _, path = item.partition("=")
        data = dataset.make(histories.read(path), 0)
        older = sample(data.train[-2 * OLDER :], OLDER, seed=1)
        newer = sample(data.valid, NEWER, seed=1)
        for task, ask in (("line type", probes.line_types), ("matching", probes.matches)):
            questions = ask(older, base.budget, codec), ask(newer, base.budget, codec)
            cells = [
                "{:.1%} ({:.1%}–{:.1%})".format(*probes.accuracy(r, *questions)) for r in readers.values()
            ]
            print(f"| {name} | {task} | {len(questions[1])} | " + " | ".join(cells) + " |", flush=True)


def reading(names: list[str], vocabulary: int) -> dict[str, Any]:
    """What is probed, by name."""
    models = {name: bases.find(name).load() for name in names}
    last = models[names[-1]]
    torch.manual_seed(0)
    blank = type(last)(last.config)
    found = {name: probes.encoder_states(model) for name, model in models.items()}
    return found | {
        "random encoder": probes.encoder_states(blank),
        "bag of tokens": probes.one_hot(vocabulary),
    }


if __name__ == "__main__":
    main()
