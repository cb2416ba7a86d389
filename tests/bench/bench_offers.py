"""Offers by the keystrokes that they save: one table, a risk-coverage curve, and the rows for blind_sheet.py.

    python -m tests.bench.bench_offers flask=flask.git gin=… --bases mini models/smol --rows OFFERS.json

For each history and base: `gitpeft init`'s pipeline on a fresh clone, then every system asked about each
commit of the test part (`--part valid`: of the validation part, for reading blind) with a rolling index.
Systems: nearest neighbour, the base untuned, and what `init` selects, at full coverage and at the threshold.
Nats a byte are those of the team's messages, but for the few that are cut because they are too long.
"""

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from git import Repo

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Manifest
from gitpeft.diff.render import TokenBudget
from gitpeft.git.repository import Repository
from gitpeft.learn import packing, pipeline, results
from gitpeft.learn.data import dataset
from gitpeft.learn.evaluation import text_metrics, trial
from gitpeft.learn.evaluation.reranker import OfferOutcome, list_outcomes
from gitpeft.learn.evaluation.text_metrics import ConfidenceInterval, MetricScores
from gitpeft.learn.export import parity
from gitpeft.learn.models import bases
from gitpeft.learn.training import finetune
from gitpeft.suggest.generator import MAX_TOKENS
from gitpeft.suggest.reranker import Reranker
from gitpeft.suggest.suggester import Suggester

NEAREST = "nearest neighbour"
METRICS = ("coverage", "keystrokes_saved", "kept", "nearly_kept", "b_norm", "rouge_l", "edit_similarity")
PARITY_EXAMPLES = 8
SHARES = (1.0, 0.8, 0.6, 0.4, 0.3, 0.2, 0.1)


def main() -> None:
    """Measure, and print the tables."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("histories", nargs="+", metavar="NAME=PATH")
    parser.add_argument("--bases", nargs="+", default=["mini"])
    parser.add_argument("--part", choices=("valid", "test"), default="test")
    parser.add_argument("--minutes", type=float, default=results.ModelPlan().minutes)
    parser.add_argument("--limit", type=int, default=200, help="commits of each history at most")
    parser.add_argument("--untuned", action="store_true", help="train nothing")
    parser.add_argument("--rows", type=Path, help="write what blind_sheet.py reads")
    args = parser.parse_args()
    rows: list[dict[str, Any]] = []
    outcomes: dict[str, list[OfferOutcome]] = {}
    columns = ("history", "system", *METRICS, "nats a byte")
    print("| " + " | ".join(columns) + " |\n" + "|---" * len(columns) + "|")
    for item in args.histories:
        name, _, path = item.partition("=")
        rows += measure_history(name, path, args, outcomes)
    print("\n| system | share offered | keystrokes saved | kept | nearly kept |\n|---|---|---|---|---|")
    for system, found in outcomes.items():
        print("\n".join(format_curve(system, found)))
    if args.rows:
        args.rows.write_text(json.dumps(rows))


def measure_history(
    name: str, path: str, args: argparse.Namespace, outcomes: dict[str, list[OfferOutcome]]
) -> list[dict[str, Any]]:
    """Print the lines of a history; the rows of a blind sheet. Adds what was offered to `outcomes`."""
    with tempfile.TemporaryDirectory() as scratch:
        Repo.clone_from(path, scratch, no_checkout=True)
        repo = Repository.open(Path(scratch))
        mined = pipeline.mine_history(repo, "HEAD", lambda *_: None)
        data = dataset.build_dataset(mined.records, TokenBudget().exemplars)
        part = data.valid if args.part == "valid" else data.test
        index = data.index_before(data.first_valid if args.part == "valid" else data.first_test)
        examples = trial.sample_examples(part, args.limit, seed=2)
        rows = [
            {"history": name, "sha": e.sha, "change": e.change, "team": e.message, "offers": {}}
            for e in examples
        ]
        report(f"{name} (n = {len(examples)})", NEAREST, trial.nearest_messages(index, examples, part), rows)
        for base in args.bases:
            systems = {f"{base}, untuned": ask_untuned(base, index, examples, part)}
            if not args.untuned:
                systems[f"{base}, tuned"] = ask_tuned(repo, base, args.minutes, index, examples, part)
            for system, one in systems.items():
                outcomes.setdefault(system, []).extend(list_outcomes(one.asked, one.reranker))
                record_system(f"{name} (n = {len(examples)})", system, one, rows)
    return rows


class Answers(NamedTuple):
    """What a system has for each commit; its reranker; nats and bytes of the team's messages."""

    asked: list[trial.ExampleCandidates]
    reranker: Reranker
    losses: list[tuple[float, int]]


def record_system(history: str, system: str, answers: Answers, rows: list[dict[str, Any]]) -> None:
    """Print a system at full coverage and at its threshold, and note its offers."""
    asked, reranker, losses = answers
    nats = summarise_losses(losses)
    always = [one.offered_message(reranker, least=0.0) for one in asked]
    withheld = [one.offered_message(reranker) for one in asked]
    report(history, system, always, rows, f"{nats.mean:.3f} ({nats.low:.3f}–{nats.high:.3f})")
    report(history, f"{system}, at its threshold", withheld, rows)
    scores = [one.score for one in list_outcomes(asked, reranker)]
    for row, text, offered, score in zip(rows, always, withheld, scores, strict=True):
        row["offers"][system] = {"text": text, "offered": bool(offered), "score": score}


def report(
    history: str, system: str, offers: Sequence[str], rows: Sequence[dict[str, Any]], nats: str = ""
) -> None:
    """Print a line of the table."""
    scores = text_metrics.score_messages(offers, [row["team"] for row in rows])
    print(f"| {history} | {system} | " + " | ".join([*format_metrics(scores), nats]) + " |", flush=True)


def format_metrics(scores: MetricScores) -> list[str]:
    """Each metric with its interval; "" for one that cannot be computed."""
    found = (scores.metrics.get(name) for name in METRICS)
    return [f"{one.mean:.1f} ({one.low:.1f}–{one.high:.1f})" if one else "" for one in found]


def summarise_losses(losses: Sequence[tuple[float, int]]) -> ConfidenceInterval:
    """Nats a byte of all messages together, with a 95 % percentile bootstrap interval over them."""
    nats, sizes = np.array(losses, float).T
    drawn = np.random.default_rng(0).integers(0, len(nats), (2000, len(nats)))
    low, high = np.percentile(nats[drawn].sum(1) / sizes[drawn].sum(1), [2.5, 97.5])
    return ConfidenceInterval(float(nats.sum() / sizes.sum()), float(low), float(high))


def ask_untuned(
    name: str,
    index: Any,
    examples: Sequence[dataset.Example],
    part: Sequence[dataset.Example],
) -> Answers:
    """The base as it is, with its default reranker."""
    base = bases.find_base(name)
    with tempfile.TemporaryDirectory() as scratch:
        ready = base.prepare_onnx_folder(Path(scratch)) or export_base(base, examples, Path(scratch))
        settings = json.loads((ready / "settings.json").read_text())
        manifest = Manifest(created="", settings=settings, **packing.describe_base(base))
        reranker = base.load_reranker()
        with trial.open_trial_suggester(manifest, ready, index, {}, reranker) as suggester:
            return ask_suggester(suggester, reranker, base, examples, part)


def ask_suggester(
    suggester: Suggester,
    reranker: Reranker,
    base: bases.BaseModel,
    examples: Sequence[dataset.Example],
    part: Sequence[dataset.Example],
) -> Answers:
    """The candidates of a model for each commit, and its losses."""
    asked, losses = trial.collect_candidates(suggester, examples, since=part), []
    codec = base.load_codec()
    for one, before in zip(examples, trial.entries_known_before(examples, part), strict=True):
        count = len(codec.encode_message(one.message, base.budget.layout))
        if count <= MAX_TOKENS:
            suggester.index_recent_commits(before)
            mean = suggester.compute_loss(one.change, one.previous, one.message)
            losses.append((mean * (count + 1), len(one.message.encode())))
    return Answers(asked, reranker, losses)


def export_base(base: bases.BaseModel, examples: Sequence[dataset.Example], folder: Path) -> Path:
    """The ONNX files of a base that comes without, in `folder`."""
    pairs = [finetune.encode_example_for_base(base, one) for one in examples[:PARITY_EXAMPLES]]
    asked = [(source, target[:-1]) for source, target in pairs]
    wrapping = base.find_wrapping_ids()
    exported = parity.export_model(base.load(), base.tokenizer_path, folder, asked, wrapping=wrapping)
    (folder / "settings.json").write_text(json.dumps(exported.settings))
    return folder


def ask_tuned(
    repo: Repository,
    base: str,
    minutes: float,
    index: Any,
    examples: Sequence[dataset.Example],
    part: Sequence[dataset.Example],
) -> Answers:
    """What `gitpeft init` selects for the history."""
    pipeline.build_active_model(repo, results.ModelPlan(base=base, minutes=minutes), lambda *_: None)
    active = bundles.require_active_bundle(repo.state_dir)
    style = active.read_json(bundles.STYLE_FILE)
    reranker = Reranker.from_data(active.read_json(bundles.RERANKER_FILE), active.manifest.kind)
    with trial.open_trial_suggester(active.manifest, active.path, index, style, reranker) as suggester:
        return ask_suggester(suggester, reranker, bases.find_base(base), examples, part)


def format_curve(system: str, found: Sequence[OfferOutcome]) -> list[str]:
    """Lines of the risk-coverage table: what comes of offering for a share of the commits only."""
    ranked = sorted(found, reverse=True)
    lines = []
    for share in SHARES:
        offered = ranked[: max(1, round(share * len(ranked)))]
        saved = sum(one.saving for one in offered) / len(ranked)
        kept, nearly = (
            sum(one.saving >= least for one in offered) / len(offered)
            for least in (text_metrics.KEPT_SHARE, text_metrics.NEARLY_KEPT_SHARE)
        )
        lines.append(f"| {system} | {share:.0%} | {saved:.1%} | {kept:.0%} | {nearly:.0%} |")
    return lines


if __name__ == "__main__":
    main()
