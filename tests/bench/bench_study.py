"""The study's methods (arXiv 2402.06247) on both tasks: a table of docs/evaluation.md, and their cost.

    python tests/bench/bench_study.py run gin=histories/gin.git axios=… --out DIR [--minutes 5] [--seeds 1]
    python tests/bench/bench_study.py print DIR
    python tests/bench/bench_study.py cost [--shapes codet5-base unixcoder] [--batch 16] [--steps 20] [--toy]

`run` compares every method on messages and on risk in a clone of each history, below DIR, with the budget of
minutes for each task. It can be interrupted: finished runs are kept. Quality is that of the validation tenth,
on which only the step was chosen at which each run was best; the newest tenth is not used.
`cost` trains random weights in the shapes of the study's bases, each method in a process of its own, on the
GPU where there is one: memory and time, nothing about quality.
"""

import argparse
import json
import subprocess
import sys
import tempfile
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

METHODS = ("lora", "adapter", "full", "hybrid")
TASKS = ("messages", "risk")

FINDINGS = {
    "messages": "LoRA and adapters equal full tuning",
    "risk": "LoRA and adapters beat full tuning",
}
"""What the study found, by task."""


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    modes = parser.add_subparsers(dest="mode", required=True)
    run = modes.add_parser("run")
    run.add_argument("histories", nargs="+", metavar="NAME=PATH")
    run.add_argument("--out", type=Path, required=True)
    run.add_argument("--minutes", type=float, default=5.0, help="for each task of each history")
    run.add_argument("--seeds", type=int, default=1)
    run.add_argument("--tasks", nargs="+", choices=TASKS, default=TASKS)
    shown = modes.add_parser("print")
    shown.add_argument("out", type=Path)
    costs = modes.add_parser("cost")
    costs.add_argument("--shapes", nargs="+", choices=tuple(SHAPES), default=tuple(SHAPES))
    for name, value in (("--batch", 16), ("--steps", 20), ("--source", 512), ("--target", 64)):
        costs.add_argument(name, type=int, default=value)
    costs.add_argument("--toy", action="store_true", help="tiny layers, for a look at whether it runs")
    one = modes.add_parser("one")
    one.add_argument("given", type=json.loads)
    arguments = parser.parse_args()
    {"run": study, "print": tables, "cost": cost, "one": alone}[arguments.mode](arguments)


# --- quality ------------------------------------------------------------------------------------------------


def study(arguments: argparse.Namespace) -> None:
    from git import Repo

    from gitpeft.errors import GitpeftError
    from gitpeft.git.repository import Repository
    from gitpeft.learn.compare import run
    from gitpeft.learn.compare.halving import ComparisonRequest

    for item in arguments.histories:
        name, _, path = item.partition("=")
        clone = arguments.out / name
        if not clone.exists():
            Repo.clone_from(str(Path(path).resolve()), clone, no_checkout=True)
        for task in arguments.tasks:
            wish = ComparisonRequest(METHODS, minutes=arguments.minutes, seeds=arguments.seeds, task=task)
            try:
                found = run.compare_methods(Repository.open(clone), wish, show_progress)
            except GitpeftError as error:
                print(f"{name}, {task}: {error.message}", file=sys.stderr)
                continue
            (arguments.out / f"{name}-{task}.json").write_text(json.dumps(found.as_dict(), indent=1))
            print(f"{name}, {task}: {found.seconds:.0f} s", file=sys.stderr)
    tables(arguments)


def show_progress(_rows: object, now: str) -> None:
    print(f"  {now}", file=sys.stderr, flush=True)


def tables(arguments: argparse.Namespace) -> None:
    reports = dict(results(arguments.out))
    print(quality(reports), verdicts(reports), sep="\n\n")


def results(folder: Path) -> Iterator[tuple[tuple[str, str], dict[str, Any]]]:
    """By history and task, the report of that task."""
    for path in sorted(folder.glob("*-*.json")):
        name, _, task = path.stem.rpartition("-")
        [report] = json.loads(path.read_text())["tasks"]
        yield (name, task), report


def quality(reports: dict[tuple[str, str], dict[str, Any]]) -> str:
    lines = [
        "| history | task | n | system | quality | against full tuning | trained | memory | training |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for (name, task), report in reports.items():
        metric = report["metric"]
        head = f"| {name} | {task} | {report['asked']} "
        for row in report["finalists"]:
            spent = row["cost"]
            gap = "" if row["name"] == "full" else format_gap(row["against_full"], metric)
            lines.append(
                f"{head}| {row['label']} "
                f"| {metric['name']} {interval_cell(row['scores'][metric['key']], metric)} "
                f"| {gap} | {spent['share']:.1%} | {spent['memory'] / 2**30:.1f} GiB "
                f"| {spent['seconds']:.0f} s, {row['steps']} steps |"
            )
        for row in report["baselines"]:
            score = interval_cell(row["scores"][metric["key"]], metric)
            lines.append(f"{head}| {row['label']} | {metric['name']} {score} | | | | |")
    return "\n".join(lines)


def verdicts(reports: dict[tuple[str, str], dict[str, Any]]) -> str:
    """The study's findings beside these runs: only differences clear of noise count."""
    lines = ["| the study found | history | here | which |", "|---|---|---|---|"]
    for (name, task), report in reports.items():
        rows = [row for row in report["finalists"] if row["name"] in ("lora", "adapter")]
        said = ", ".join(
            f"{row['label']} {format_gap(row['against_full'], report['metric'])}" for row in rows
        )
        lines.append(f"| {FINDINGS[task]} | {name} | {said} | {verdict(task, rows)} |")
    return "\n".join(lines)


def verdict(task: str, rows: list[dict[str, Any]]) -> str:
    """Whether that agrees with the study."""
    gaps = [row["against_full"] for row in rows]
    better, worse = (any(gap["clear"] and sign * gap["mean"] > 0 for gap in gaps) for sign in (1, -1))
    if task == "messages":
        return "disagrees" if worse else "agrees, and more" if better else "agrees: no difference is clear"
    return "agrees" if better and not worse else "disagrees" if worse else "not shown: no difference is clear"


def interval_cell(score: dict[str, float], metric: dict[str, Any]) -> str:
    mean, low, high = (f"{score[name]:.{metric['digits']}f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low}–{high})"


def format_gap(gap: dict[str, Any], metric: dict[str, Any]) -> str:
    mean, low, high = (f"{gap[name]:+.{metric['digits']}f}" for name in ("mean", "low", "high"))
    return f"{mean} ({low} to {high}){'' if gap['clear'] else ', noise'}"


# --- what methods cost on the study's bases -----------------------------------------------------------------

SHAPES: dict[str, dict[str, Any]] = {
    "codet5-base": {
        "kind": "t5", "vocab_size": 32100, "d_model": 768, "d_kv": 64, "d_ff": 3072, "num_layers": 12,
        "num_decoder_layers": 12, "num_heads": 12, "pad_token_id": 0, "eos_token_id": 2,
        "decoder_start_token_id": 0,
    },
    "unixcoder": {
        "kind": "roberta", "vocab_size": 51416, "hidden_size": 768, "num_hidden_layers": 12,
        "num_attention_heads": 12, "intermediate_size": 3072, "max_position_embeddings": 1026,
        "pad_token_id": 1, "bos_token_id": 0, "eos_token_id": 2,
    },
}  # fmt: skip

TOY = {
    "vocab_size": 400, "d_model": 64, "d_kv": 16, "d_ff": 128, "num_layers": 2, "num_decoder_layers": 2,
    "num_heads": 4, "hidden_size": 64, "num_hidden_layers": 2, "num_attention_heads": 4,
    "intermediate_size": 128,
}  # fmt: skip


def cost(arguments: argparse.Namespace) -> None:
    print(
        "| shape | method | trained | memory | s a step | tokens/s | device |\n|---|---|---|---|---|---|---|"
    )
    for shape in arguments.shapes:
        with tempfile.TemporaryDirectory() as folder:
            write_base(Path(folder), shape, arguments.toy)
            for method in METHODS:
                print(cost_row(shape, method, run_alone(folder, method, arguments)), flush=True)


def write_base(folder: Path, shape: str, toy: bool) -> None:
    """A base of this shape with random weights."""
    import torch
    from transformers import AutoConfig, AutoModel, AutoModelForSeq2SeqLM

    from tests.support import tinymodel

    given = dict(SHAPES[shape])
    kind = given.pop("kind")
    given |= {name: value for name, value in TOY.items() if toy and name in given}
    torch.manual_seed(0)
    config = AutoConfig.for_model(kind, **given)
    make = AutoModelForSeq2SeqLM if config.is_encoder_decoder else AutoModel
    options = {} if config.is_encoder_decoder else {"add_pooling_layer": False}
    make.from_config(config, **options).save_pretrained(folder)
    tinymodel.write_tokenizer(folder)


def run_alone(folder: str, method: str, arguments: argparse.Namespace) -> dict[str, Any]:
    """One method in a process of its own, so that its memory is its own."""
    given = {name: getattr(arguments, name) for name in ("batch", "steps", "source", "target", "toy")}
    told = json.dumps(given | {"folder": folder, "method": method})
    done = subprocess.run(
        [sys.executable, __file__, "one", told], stdout=subprocess.PIPE, text=True, check=False
    )
    if done.returncode:
        return {"failed": f"ended with {done.returncode}"}
    return dict(json.loads(done.stdout.splitlines()[-1]))


def alone(arguments: argparse.Namespace) -> None:
    """Trains one method on random ids and prints its cost as JSON."""
    import random

    from gitpeft.learn.data.batches import RenderedExamples
    from gitpeft.learn.models import bases, methods
    from gitpeft.learn.training.devices import pick_device
    from gitpeft.learn.training.loop import iterate_batch_losses, train_model
    from gitpeft.learn.training.settings import TrainingSettings

    given, dice = arguments.given, random.Random(0)
    small = {"lora": {"rank": 8}, "adapter": {"width": 8}, "hybrid": {"rank": 8}} if given["toy"] else {}
    method = methods.make_method(given["method"], small.get(given["method"]))
    model = bases.find_base(given["folder"]).load().to(pick_device())
    size = min(model.config.vocab_size, 400)
    pairs = [
        ([dice.randrange(5, size) for _ in range(given["source"])],
         [dice.randrange(5, size) for _ in range(given["target"])])
        for _ in range(4 * given["batch"])
    ]  # fmt: skip
    data = RenderedExamples.from_pairs(pairs)
    room = given["batch"] * (given["source"] + 4 * given["target"])
    how = TrainingSettings(
        steps=given["steps"], batch_tokens=room, lr=method.lr, source_limit=given["source"]
    )
    if method.name == "hybrid":
        ranked = methods.rank_layers(model, iterate_batch_losses(model, data, how, 1))
        method = replace(method, full=(ranked[0][0],))
    spent = train_model(methods.attach_method(model, method), data, how)
    print(json.dumps(spent.as_dict()))


def cost_row(shape: str, method: str, spent: dict[str, Any]) -> str:
    if "failed" in spent:
        return f"| {shape} | {method} | {spent['failed']} | | | | |"
    memory = f"{spent['allocated'] / 2**30:.2f} GiB allocated, {spent['reserved'] / 2**30:.2f} reserved"
    step = (spent["seconds"] - spent["startup_seconds"]) / spent["steps"]
    if not spent["reserved"]:
        memory = f"{spent['peak_memory'] / 2**30:.2f} GiB resident"
    return (
        f"| {shape} | {method} | {spent['trainable']:,} ({spent['share']:.2%}) | {memory} "
        f"| {step:.3f} | {spent['tokens_per_second']:,.0f} | {spent['device']} |"
    )


if __name__ == "__main__":
    main()
