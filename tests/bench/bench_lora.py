"""LoRA settings on the validation part of real histories: the defaults of `gitpeft train`.

    python tests/bench/bench_lora.py flask=histories/flask.git gin=histories/gin.git axios=histories/axios.git

Each setting is tuned on the oldest 80 % of each history within the same minutes and evaluated on the next
10 % with a rolling index. The test part is not used. B-Norm of the default reranker's first message; the
difference to the first setting is paired over the commits of all histories.
"""

import sys
import tempfile
from dataclasses import replace
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gitpeft.bundle.bundle import Manifest
from gitpeft.learn import packing, results
from gitpeft.learn.data import dataset
from gitpeft.learn.evaluation import text_metrics, trial
from gitpeft.learn.models import bases, methods
from gitpeft.learn.training import finetune
from gitpeft.learn.training.finetune import TrainingJob
from tests.bench import histories

SETTINGS: dict[str, dict[str, Any]] = {
    "default": {},
    "rank 4": {"rank": 4},
    "rank 8": {"rank": 8},
    "rank 32": {"rank": 32},
    "query-value": {"placement": "query-value"},
    "lr 1e-3": {"lr": 1e-3},
    "lr 4e-3": {"lr": 4e-3},
    "one exemplar": {"exemplars": 1},
    "no exemplar": {"exemplars": 0},
}
VALID = 200


def main() -> None:
    parser = histories.options(__doc__)
    parser.add_argument("--base", default="mini")
    parser.add_argument("--minutes", type=float, default=results.ModelPlan().minutes)
    parser.add_argument("--only", nargs="+", default=list(SETTINGS), choices=SETTINGS, metavar="SETTING")
    arguments = parser.parse_args()
    scores: dict[str, dict[str, list[float]]] = {name: {} for name in arguments.only}
    for item in arguments.histories:
        history, _, path = item.partition("=")
        data = dataset.build_dataset(histories.read(path), bases.find_base("mini").budget.exemplars)
        for name in arguments.only:
            scores[name][history] = tuned(data, arguments.base, arguments.minutes, SETTINGS[name])
            print(f"{history}, {name}: {histories.cell(scores[name][history])}", flush=True)
    print(table(scores))


def tuned(data: dataset.Dataset, base: str, minutes: float, settings: dict[str, Any]) -> list[float]:
    """B-Norm of each validation commit."""
    given, found = dict(settings), bases.find_base(base)
    found = replace(
        found, budget=replace(found.budget, exemplars=given.pop("exemplars", found.budget.exemplars))
    )
    job = TrainingJob(found, methods.make_method("lora", given), minutes=minutes)
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        method, _ = finetune.tune_base(job, data, folder, lambda *_: None)
        exported = finetune.export_run(found, method, data, folder)
        manifest = Manifest(created="", settings=exported.settings, **packing.describe_base(found))
        asked_about = trial.sample_examples(data.valid, VALID, seed=1)
        with trial.open_trial_suggester(
            manifest, folder, data.index_before(data.first_valid), {}
        ) as suggester:
            asked = trial.collect_candidates(suggester, asked_about, since=data.valid)
    return trial.score_reranker(asked, found.load_reranker())


def table(scores: dict[str, dict[str, list[float]]]) -> str:
    known = list(next(iter(scores.values())))
    first = [one for history in known for one in next(iter(scores.values()))[history]]
    lines = [
        "| setting | " + " | ".join(known) + " | difference to the first |",
        "|---|" + "---|" * (len(known) + 1),
    ]
    for name, found in scores.items():
        cells = [f"{text_metrics.bootstrap_mean(found[history], 0).mean:.1f}" for history in known]
        every = [one for history in known for one in found[history]]
        gain = text_metrics.paired_bootstrap(every, first, 0)
        cells.append(f"{gain.mean:+.1f} ({gain.low:+.1f} to {gain.high:+.1f})")
        lines.append(f"| {name} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


if __name__ == "__main__":
    main()
