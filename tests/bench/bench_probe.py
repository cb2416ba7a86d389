"""Linear probes on the frozen encoder of a base: line type and change matching, with two baselines.

    python tests/bench/bench_probe.py flask=histories/flask.git gin=histories/gin.git … [--bases OLD mini]

A linear probe on the pooled states of each base's encoder, of the last one with random weights, and on a bag
of tokens. Fitted on the training part of each history, scored on its validation part: the table decides
between weights, so the test part is not used.
"""

import sys
from pathlib import Path
from typing import Any

import torch

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gitpeft.learn.compare import probes
from gitpeft.learn.data import dataset
from gitpeft.learn.evaluation.trial import sample_examples
from gitpeft.learn.models import bases
from tests.bench import histories
from tests.support import probing

OLDER, NEWER = 800, 400


def main() -> None:
    parser = histories.options(__doc__)
    parser.add_argument("--bases", nargs="+", default=["mini"])
    arguments = parser.parse_args()
    torch.set_num_threads(1)
    base = bases.find_base(arguments.bases[-1])
    codec = base.load_codec()
    readers = reading(arguments.bases, len(codec))
    print("| history | task | n | " + " | ".join(readers) + " |\n|---|---|---" + "|---" * len(readers) + "|")
    for item in arguments.histories:
        name, _, path = item.partition("=")
        data = dataset.build_dataset(histories.read(path), 0)
        older = sample_examples(data.train[-2 * OLDER :], OLDER, seed=1)
        newer = sample_examples(data.valid, NEWER, seed=1)
        for task, ask in (
            ("line type", probes.make_line_type_items),
            ("matching", probes.make_change_match_items),
        ):
            questions = ask(older, base.budget, codec), ask(newer, base.budget, codec)
            cells = [
                "{:.1%} ({:.1%}–{:.1%})".format(*probing.measure_probe_accuracy(r, *questions))
                for r in readers.values()
            ]
            print(f"| {name} | {task} | {len(questions[1])} | " + " | ".join(cells) + " |", flush=True)


def reading(names: list[str], vocabulary: int) -> dict[str, Any]:
    """What is probed, by name."""
    models = {name: bases.find_base(name).load() for name in names}
    last = models[names[-1]]
    torch.manual_seed(0)
    blank = type(last)(last.config)
    found = {name: probing.make_encoder_reader(model) for name, model in models.items()}
    return found | {
        "random encoder": probing.make_encoder_reader(blank),
        "bag of tokens": probing.make_one_hot_reader(vocabulary),
    }


if __name__ == "__main__":
    main()
