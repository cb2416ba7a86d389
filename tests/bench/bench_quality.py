"""Quality of suggestions on the newest tenth of real histories: the tables of docs/evaluation.md.

    python tests/bench/bench_quality.py flask=histories/flask.git gin=histories/gin.git …

For each history: a fresh clone, `gitpeft init`'s pipeline, then every system asked about every test commit.
The index of each system ends where the test part begins, and nothing of that part reached anything that was
fitted.

- nearest neighbour: the message of the most similar earlier commit
- base: the base model without tuning, no exemplars in its input
- base + exemplars: the same, with the nearest earlier messages in its input
- LoRA: tuned on the training part, no exemplars in its input
- gitpeft: what `init` selects on validation commits: tuning strength, exemplars, and reranker
- rolling index: gitpeft and nearest neighbour as in the hook: the commits before each test commit are among
  its exemplars. Nothing is fitted again.
"""

import argparse
import json
import random
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

from git import Repo

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Bundle
from gitpeft.diff.compact import split_compact
from gitpeft.diff.render import TokenBudget
from gitpeft.git.repository import Repository
from gitpeft.learn import pipeline, results
from gitpeft.learn.data import dataset, style
from gitpeft.learn.evaluation import text_metrics, trial
from gitpeft.learn.models import bases
from gitpeft.suggest.reranker import Reranker
from gitpeft.suggest.reranker_features import GENERATED
from gitpeft.suggest.retrieval import CommitIndex

NEAREST = "nearest neighbour"
SELECTED = "gitpeft"
ROLLING_INDEX = ", rolling index"


def main() -> None:
    arguments = parse()
    if arguments.print:
        results = {k: v for path in arguments.print for k, v in json.loads(path.read_text()).items()}
        print(table(results), costs(results), samples(results, arguments.samples), sep="\n\n")
        return
    results = {}
    for item in arguments.histories:
        name, _, path = item.partition("=")
        results[name] = measure(Path(path).resolve(), arguments)
        print(table({name: results[name]}), flush=True)
    if arguments.json:
        arguments.json.write_text(json.dumps(results, indent=1))
    print(table(results), costs(results), sep="\n\n")


def parse() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("histories", nargs="*", metavar="NAME=PATH")
    parser.add_argument("--base", default="mini")
    parser.add_argument("--minutes", type=float, default=results.ModelPlan().minutes)
    parser.add_argument("--limit", type=int, default=10_000, help="test commits at most")
    parser.add_argument("--json", type=Path, help="also write every number here")
    parser.add_argument("--print", nargs="+", type=Path, metavar="JSON", help="print tables of earlier runs")
    parser.add_argument("--samples", type=int, default=0, help="with --print: so many samples, unedited")
    return parser.parse_args()


def measure(source: Path, arguments: argparse.Namespace) -> dict[str, Any]:
    with tempfile.TemporaryDirectory() as scratch:
        Repo.clone_from(str(source), scratch, no_checkout=True)
        repo = Repository.open(Path(scratch))
        start = time.monotonic()
        plan = results.ModelPlan(base=arguments.base, minutes=arguments.minutes)
        outcome = pipeline.build_active_model(repo, plan, say)
        seconds = time.monotonic() - start
        active = bundles.open_active_bundle(repo.state_dir)
        assert active is not None
        offers, examples = ask_all(repo, active, arguments)
    references = [example.message for example in examples]
    by_system = {
        name: {key: metric(messages, references) for key, metric in text_metrics.TEXT_METRICS.items()}
        for name, messages in offers.items()
    }
    told = outcome.as_dict()
    return {
        "used": told["used"],
        "left_out": told["left_out"],
        "seconds": round(seconds),
        "steps": told["seconds"],
        "peak_memory": told["peak_memory"],
        "trainable": told["cost"]["trainable"],
        "parameters": told["parameters"],
        "tuning": told["tuning"],
        "choice": told["choice"],
        "n": len(examples),
        "systems": {
            name: text_metrics.MetricScores.from_metrics(scores).as_dict()
            for name, scores in by_system.items()
        },
        "gain": gain(by_system, ""),
        "gain_rolling_index": gain(by_system, ROLLING_INDEX),
        "samples": [
            {
                "sha": e.sha,
                "change": [label for label, _ in split_compact(e.change)[0]],
                "team": e.message,
                **{name: messages[i] for name, messages in offers.items()},
            }
            for i, e in enumerate(examples)
        ],
    }


def ask_all(
    repo: Repository, active: Bundle, arguments: argparse.Namespace
) -> tuple[dict[str, list[str]], list[dataset.Example]]:
    """What each system would have offered for each test commit."""
    mined = pipeline.mine_history(repo, active.manifest.commits["to"], say)
    data = dataset.build_dataset(mined.records, TokenBudget().exemplars)
    examples = trial.sample_examples(data.test, arguments.limit, seed=2)
    habits = pipeline.learn_team_style(mined.records, data, repo.list_branches())
    index, nothing = data.index_before(data.first_test), dataset.build_example_index([])
    base = bases.find_base(arguments.base)
    ready = base.find_onnx_folder()
    assert ready is not None, "the base has no ONNX files"
    base_model = Bundle(
        ready, replace(active.manifest, settings=json.loads((ready / "settings.json").read_text()))
    )
    reranker = Reranker.from_data(active.read_json(bundles.RERANKER_FILE), "model")
    generated = Reranker(mode=GENERATED)
    systems = {
        "base": (base_model, nothing, generated, ()),
        "base + exemplars": (base_model, index, generated, ()),
        "LoRA": (tuned(repo, active), nothing, generated, ()),
        SELECTED: (active, index, reranker, ()),
        SELECTED + ROLLING_INDEX: (active, index, reranker, data.test),
    }
    offers = {NEAREST: trial.nearest_messages(index, examples)}
    for name, (bundle, known, how, since) in systems.items():
        with asked(bundle, known, habits, examples, since) as found:
            offers[name] = [one.offered_message(how) for one in found]
    offers[NEAREST + ROLLING_INDEX] = trial.nearest_messages(index, examples, data.test)
    return offers, examples


def tuned(repo: Repository, active: Bundle) -> Bundle:
    """The tuned model of the run, whether it was selected or not."""
    run = max((repo.state_dir / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
    settings = json.loads((run / "exported.json").read_text())["settings"]
    return Bundle(run, replace(active.manifest, settings=settings))


@contextmanager
def asked(
    bundle: Bundle,
    index: CommitIndex,
    habits: style.MessageStyle,
    examples: list[dataset.Example],
    since: Sequence[dataset.Example],
) -> Iterator[list[trial.ExampleCandidates]]:
    with trial.open_trial_suggester(bundle.manifest, bundle.path, index, habits) as suggester:
        yield trial.collect_candidates(suggester, examples, since=since)


def gain(by_system: dict[str, Any], how: str) -> dict[str, float]:
    ours, nearest = by_system[SELECTED + how]["b_norm"], by_system[NEAREST + how]["b_norm"]
    return text_metrics.paired_bootstrap(ours, nearest, 0)._asdict()


def say(step: str, done: float, detail: str) -> None:
    if done >= 1:
        print(f"  {step}: {detail}", file=sys.stderr, flush=True)


def table(results: dict[str, Any]) -> str:
    lines = ["| history | system | B-Norm | ROUGE-L | edit similarity | EM@1 |", "|---|---|---|---|---|---|"]
    for name, result in results.items():
        for system, scores in result["systems"].items():
            cells = [cell(scores[metric]) for metric in text_metrics.TEXT_METRICS]
            lines.append(f"| {name} (n = {result['n']}) | {system} | " + " | ".join(cells) + " |")
    return "\n".join(lines)


def costs(results: dict[str, Any]) -> str:
    head = "| history | usable commits | trainable weights | training | everything | peak memory | selected "
    lines = [
        f"{head}| B-Norm over nearest neighbour | the same, rolling index |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, result in results.items():
        share = result["trainable"] / result["parameters"]
        gain, rolling = result["gain"], result["gain_rolling_index"]
        lines.append(
            f"| {name} | {result['used']:,} | {result['trainable']:,} ({share:.1%}) "
            f"| {result['steps']['train']:.0f} s | {result['seconds']} s "
            f"| {result['peak_memory'] / 2**30:.1f} GiB | {selected(result)} "
            f"| {gain['mean']:+.1f} ({gain['low']:+.1f} to {gain['high']:+.1f}) "
            f"| {rolling['mean']:+.1f} ({rolling['low']:+.1f} to {rolling['high']:+.1f}) |"
        )
    return "\n".join(lines)


def selected(result: dict[str, Any]) -> str:
    tuning = result["tuning"]
    best = max(tuning, key=lambda name: tuning[name]) if tuning else "tuned"
    return f"{best}, {result['choice']['mode']}"


def samples(results: dict[str, Any], count: int) -> str:
    """Some of the answers, drawn with a fixed seed: what changed, what the team wrote, what is offered."""
    rows = [(name, one) for name, result in results.items() for one in result["samples"]]
    lines = ["| commit | change | the team | gitpeft |", "|---|---|---|---|"] if count else []
    for name, one in random.Random(20).sample(rows, min(count, len(rows))):
        more = f" and {len(one['change']) - 2} more" if len(one["change"]) > 2 else ""
        changed = ", ".join(one["change"][:2]) + more
        cells = (f"{name} {one['sha'][:10]}", changed, one["team"], one[SELECTED + ROLLING_INDEX])
        lines.append("| " + " | ".join(text.replace("|", "\\|") for text in cells) + " |")
    return "\n".join(lines)


def cell(interval: dict[str, float]) -> str:
    return f"{interval['mean']:.1f} ({interval['low']:.1f}–{interval['high']:.1f})"


if __name__ == "__main__":
    main()
