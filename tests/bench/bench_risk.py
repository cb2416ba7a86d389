"""How well the risk models rank later commits, and what a score costs in the hook.

    python tests/bench/bench_risk.py labels --csv swift.csv --history swift.git [--csv … --history …] [--tune]
    python tests/bench/bench_risk.py own flask.git gin.git axios.git [--tune]
    python tests/bench/bench_risk.py definitions --csv swift.csv --history swift.git
    python tests/bench/bench_risk.py cost flask.git

`labels`: models on the labels of a csv (commit, buggy, author_ts, la, …; data of Zeng et al. 2021), 80/20 by
author time; choices are made on the older part, and the newest fifth is used once.
`own`: the tool's own labels, judged block by block by what was known when each began. With `--tune` a base's
encoder is tuned as well (`--method`, `--base`, `--epochs`; some minutes a history); for `labels` also with
messages, which are then taken away again. Both print ablations; `own` also whether the heaviest lines are
those that fixes changed. `definitions`: our metrics beside those of the csv. `cost`: the hook's risk check in
turns with an interpreter that does nothing.
Histories are full clones; state is kept in a copy that is gone afterwards. Intervals are 95 %, bootstrap over
the commits.
"""

import argparse
import csv
import os
import resource
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gitpeft.config import load_config
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn.evaluation import ranking_metrics
from gitpeft.learn.models import bases, methods
from gitpeft.learn.risk import ablations, backtest_report, encoder, line_check, prequential, selection
from gitpeft.learn.risk.classifiers import LabelledCommits
from gitpeft.learn.risk.encoder_export import RiskEncoderTrainer
from gitpeft.learn.risk.metric_replay import MeasuredCommit, measure_history
from gitpeft.learn.risk.prequential import RiskTrial
from gitpeft.learn.szz import szz
from gitpeft.risk.change_metrics import KAMEI_METRICS, ChangeMetrics
from gitpeft.risk.model import LINES_ADDED, RISK_FEATURES
from tests.support import risk_tuning

_WHO = ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL")
IDENTITY = dict.fromkeys(_WHO, "bench@example.org")
SHOWN = (
    "auc",
    "pr_auc",
    "brier",
    "ece",
    "capture_5",
    "capture_10",
    "capture_20",
    "skippable_95",
    "popt",
    "recall_at_20_effort",
)


@contextmanager
def copy(history: Path) -> Iterator[Repository]:
    """A clone of a history that may be written to."""
    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / history.name
        subprocess.run(["git", "clone", "-q", "--mirror", str(history), str(place)], check=True)
        os.environ.update(IDENTITY)
        yield Repository.open(place)


def joined(repository: Repository) -> str:
    """A commit on top of all branches: some labelled commits are on none that was merged."""
    heads = repository.run("for-each-ref", "--format=%(objecttype) %(objectname) %(*objectname)").decode()
    commits = dict.fromkeys(
        words[-1] for words in map(str.split, heads.splitlines()) if words[0] == "commit" or len(words) == 3
    )
    real = [sha for sha in commits if repository.query_text("cat-file", "-t", sha) == "commit"]
    tree = repository.run("rev-parse", "HEAD^{tree}").decode().strip()
    parents = [word for sha in real for word in ("-p", sha)]
    return repository.run("commit-tree", tree, *parents, "-m", "all").decode().strip()


def measured(repository: Repository, tip: str) -> list[MeasuredCommit]:
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository, tip)
        return measure_history(history, repository, tip)


@dataclass(frozen=True)
class Source:
    """Labelled commits with the metrics of the csv and with ours, as far as the clone has them."""

    name: str
    theirs: LabelledCommits
    ours: LabelledCommits
    texts: dict[str, encoder.CommitText]
    absent: int


def read(table: Path, history: Path) -> Source:
    with open(table, newline="") as file:
        rows = sorted(csv.DictReader(file), key=lambda row: int(row["author_ts"]))
    with copy(history) as repository:
        tip = joined(repository)
        found = {one.sha: one.metrics for one in measured(repository, tip)}
        with History.open(repository.state_dir) as history_:
            texts = encoder.load_commit_texts(history_, repository, tip)
    here = [row for row in rows if row["commit"] in found]
    theirs = [_metrics(row) for row in here]
    truth = np.array([float(row["buggy"]) for row in here])
    times = np.array([float(row["author_ts"]) for row in here])
    shas = tuple(row["commit"] for row in here)
    changes = tuple(texts[sha].change for sha in shas)
    ours = LabelledCommits(tuple(found[sha] for sha in shas), truth, times, shas, changes)
    plain = replace(ours, metrics=tuple(theirs), changes=())
    return Source(table.stem, plain, ours, {sha: texts[sha] for sha in shas}, len(rows) - len(here))


def _metrics(row: dict[str, Any]) -> ChangeMetrics:
    return ChangeMetrics(
        **{name: type(getattr(ChangeMetrics(), name))(float(row[name])) for name in KAMEI_METRICS}
    )


@dataclass(frozen=True)
class Tuning:
    """How an encoder is tuned: a base, a method, passes over the data."""

    base: str
    method: str
    epochs: float

    def teacher(self) -> RiskEncoderTrainer:
        found = methods.make_method(*methods.parse_method(self.method))
        return RiskEncoderTrainer(bases.find_base(self.base), found, 30.0, settings=self.lesson(0.0))

    def lesson(self, shown: float) -> encoder.RiskTuningSettings:
        return encoder.RiskTuningSettings(epochs=self.epochs, minutes=30.0, shown=shown)


def labelled(sources: Sequence[Source], how: Tuning | None) -> None:
    header()
    for source in sources:
        show(f"{source.name}, metrics of the csv", risk_tuning.evaluate_time_split(source.theirs))
        trial = risk_tuning.evaluate_time_split(source.ours, teach=how.teacher() if how else None)
        if how:
            trial.ranked.update(with_messages(source, how))
        show(f"{source.name}, our metrics", trial)
        show_ablations(source.name, trial)
        print(
            f"| {source.name}: {len(source.ours)} commits, {source.absent} of the csv are not in the clone |"
        )


def with_messages(source: Source, how: Tuning) -> dict[str, ranking_metrics.RankedCommits]:
    """The newest fifth as ranked by an encoder trained with messages and `fix`: with them, and without."""
    data = source.ours
    cut = len(data) - round(risk_tuning.TEST_SHARE * len(data))
    hold = cut - cut // 8
    parts = (slice(0, hold), slice(hold, cut), slice(cut, None))
    train, valid, test = map(data.take, parts)
    told = encoder.RiskData(train, valid, test, source.texts)
    base, method = bases.find_base(how.base), methods.make_method(*methods.parse_method(how.method))
    tuned = risk_tuning.tune_and_score(base, method, told, how.lesson(1.0))
    bare = replace(told.test, metrics=tuple(replace(one, fix=0) for one in told.test.metrics))
    asked = encoder.encode_commits(bare, source.texts, base, tuned.scaling.features, 0.0)
    removed = replace(tuned.test, scores=encoder.predict_logits(tuned.model, asked, base))
    return {"tuned encoder, message seen": tuned.test, "tuned encoder, message removed": removed}


def show_ablations(name: str, trial: RiskTrial) -> None:
    for model, found in ablations.measure_ablations(trial).items():
        print(
            f"| {name} | {model}: AUC in blocks | "
            + ", ".join(f"{k} {x:.3f}" for k, x in found.items())
            + " |"
        )


def header() -> None:
    print(
        "| data | model | n (buggy) | "
        + " | ".join(backtest_report.BACKTEST_METRICS[name] for name in SHOWN)
        + " |"
    )
    print("|---" * (len(SHOWN) + 3) + "|")


def show(name: str, trial: RiskTrial) -> None:
    n = f"{len(trial.data)} ({int(trial.data.truth.sum())})"
    for model in trial.ranked:
        found = ranking_metrics.summarise_ranking(trial.ranked[model], n=1000)
        cells = (f"{x.mean:.3f} ({x.low:.3f}–{x.high:.3f})" for x in (found[key] for key in SHOWN))
        print(f"| {name} | {model} | {n} | " + " | ".join(cells) + " |", flush=True)
    for model in list(trial.ranked)[1:]:
        for key in ("auc", "capture_20"):
            gap = ranking_metrics.bootstrap_difference(trial.ranked[model], trial.ranked[LINES_ADDED], key)
            print(
                f"| {name} | {model} minus lines added, {key} | {n} | "
                f"{gap.mean:+.3f} ({gap.low:+.3f} to {gap.high:+.3f}) |"
            )
    print(f"| {name} | selected: {trial.chosen} |", flush=True)


def own(histories: Sequence[Path], how: Tuning | None) -> None:
    header()
    for path in histories:
        with copy(path) as repository:
            tip = repository.resolve_commit("HEAD")
            found = measured(repository, tip)
            verdicts = szz.trace_bug_introducing_commits(
                repository, tip, load_config(repository), lambda *_: None
            )
            with History.open(repository.state_dir) as history:
                texts = {
                    sha: one.change
                    for sha, one in encoder.load_commit_texts(history, repository, tip).items()
                }
            now, teach = max(one.change.time for one in found), how.teacher() if how else None
            trial = prequential.evaluate_prequential(found, verdicts, now, texts=texts, teach=teach)
            guilty = line_check.make_fixed_line_lookup(repository, verdicts.verdicts)
            checks = (
                {
                    name: selection.evaluate_line_attribution(name, trial, guilty)
                    for name in list(trial.parts[0].models)[2:]
                }
                if trial
                else {}
            )
        if trial is None:
            print(f"| {path.stem} | not enough history ({len(verdicts.verdicts)} known bugs) |")
        else:
            show(f"{path.stem}, own labels", trial)
            show_ablations(path.stem, trial)
            for name, one in checks.items():
                print(f"| {path.stem} | {name}: heaviest line against chance | {one} |")


def definitions(sources: Sequence[Source]) -> None:
    print(
        "| data | metric | equal | within 10 % | rank correlation | median csv | median ours |\n"
        "|---|---|---|---|---|---|---|"
    )
    for source in sources:
        for name in KAMEI_METRICS:
            a, b = (
                np.array([float(getattr(m, name)) for m in d.metrics]) for d in (source.theirs, source.ours)
            )
            equal, near = np.isclose(a, b, rtol=1e-6).mean(), (np.abs(a - b) <= 0.1 * np.abs(a) + 1e-9).mean()
            rho = ranking_metrics.spearman_correlation(a, b)
            medians = f"{np.median(a):.4g} | {np.median(b):.4g}"
            print(f"| {source.name} | {name} | {equal:.1%} | {near:.1%} | {rho:.3f} | {medians} |")


def cost(path: Path, rounds: int) -> None:
    """The hook's stage on the newest commits, each staged again on its parent, in turns with bare Python."""
    from tests.support.gitrepo import Repo
    from tests.support.risky import MODEL, give

    with tempfile.TemporaryDirectory() as folder:
        place = Path(folder) / "work"
        subprocess.run(["git", "clone", "-q", str(path), str(place)], check=True)
        os.environ.update(IDENTITY)
        give(
            Repo(place),
            replace(
                MODEL, features=RISK_FEATURES, weights=(0.1,) * 13, means=(0.0,) * 13, scores=(9.0,) * 201
            ),
        )
        repo = Repo(place)
        shas = repo.git("rev-list", "--no-merges", f"-{rounds + 1}", "HEAD").split()
        repo.git("config", "gitpeft.timeoutMs", "20000")
        programs = {
            "bare python -I": ["-c", "pass"],
            "the flag": ["-c", "from gitpeft.hook import run; run()", "risk"],
        }
        wall: dict[str, list[float]] = {name: [] for name in programs}
        cpu: dict[str, list[float]] = {name: [] for name in programs}
        for turn, sha in enumerate(shas):
            repo.git("update-ref", "--no-deref", "HEAD", f"{sha}^")
            repo.git("read-tree", sha)
            for name, program in programs.items():
                taken = _run([sys.executable, "-I", *program], place)
                if turn:
                    wall[name].append(taken[0])
                    cpu[name].append(taken[1])
    print(f"{path.stem}, {rounds} commits, in turns; ms\n")
    print("| | wall p50 | wall p95 | CPU p50 | CPU p95 |\n|---|---|---|---|---|")
    for table in (wall, cpu):
        bare, flag = (table[name] for name in programs)
        table["over bare python"] = [b - a for a, b in zip(bare, flag, strict=True)]
    for name in wall:
        print(f"| {name} | {_row(wall[name])} | {_row(cpu[name])} |")


def _run(command: Sequence[str], place: Path) -> tuple[float, float]:
    """Milliseconds of a process and of all that it starts: elapsed, and of processors."""
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, cwd=place, capture_output=True, check=True)
    elapsed, after = time.perf_counter() - started, resource.getrusage(resource.RUSAGE_CHILDREN)
    assert not done.stderr, done.stderr
    return 1e3 * elapsed, 1e3 * (after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime)


def _row(taken: Sequence[float]) -> str:
    return f"{statistics.median(taken):.1f} | {sorted(taken)[int(0.95 * len(taken))]:.1f}"


def tuning_of(options: argparse.Namespace) -> Tuning | None:
    return Tuning(options.base, options.method, options.epochs) if options.tune else None


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    kinds = parser.add_subparsers(dest="kind", required=True)
    for kind in ("labels", "definitions"):
        one = kinds.add_parser(kind)
        one.add_argument("--csv", type=Path, action="append", required=True)
        one.add_argument("--history", type=Path, action="append", required=True)
    kinds.add_parser("own").add_argument("histories", type=Path, nargs="+")
    for kind in ("labels", "own"):
        one = kinds.choices[kind]
        one.add_argument("--tune", action="store_true")
        one.add_argument("--base", default=bases.EMBEDDED_BASE)
        one.add_argument("--method", default="lora")
        one.add_argument("--epochs", type=float, default=4.0)
    one = kinds.add_parser("cost")
    one.add_argument("history", type=Path)
    one.add_argument("--rounds", type=int, default=40)
    options = parser.parse_args()
    if options.kind in ("labels", "definitions"):
        sources = [read(table, path) for table, path in zip(options.csv, options.history, strict=True)]
        if options.kind == "labels":
            labelled(sources, tuning_of(options))
        else:
            definitions(sources)
    elif options.kind == "own":
        own(options.histories, tuning_of(options))
    else:
        cost(options.history, options.rounds)


if __name__ == "__main__":
    main()
