"""The risk prior beside the other scores, on labels that nobody here made and on gitpeft's own.

    python tests/bench/bench_prior.py --csv net.csv net.git --csv swift.csv swift.git --own flask.git gin.git
        [--curve docs/images/risk-curve.svg] \
        | python tests/bench/write_table.py docs/evaluation.md prior means quiet lines curve

Labels of a csv (data of Zeng et al. 2021): the newest fifth, by models fitted on the rest. Own labels: the
newest half, block by block, by what was known when each block began. Then what the selected score would have
called quiet, whether the lines to which it gives the highest weight were changed by fixes, and what is left
of every score where only the newest 30, 100, 300 or 1,000 commits before the newest fifth are known; the
prior needs no label.
Histories are full clones, which are only read. Intervals are 95 %, bootstrap over the commits.
"""

import argparse
import sys
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn import charts
from gitpeft.learn.evaluation.ranking_metrics import (
    RANKING_METRICS,
    bootstrap_difference,
    roc_auc,
    summarise_ranking,
)
from gitpeft.learn.risk import classifiers, labelled_history, prequential, quiet, selection
from gitpeft.learn.risk.classifiers import LabelledCommits
from gitpeft.learn.risk.labelled_history import LabelledHistory
from gitpeft.learn.risk.line_check import LineHits
from gitpeft.learn.risk.prequential import RiskTrial
from gitpeft.risk.model import (
    LINES_ADDED,
    LOGISTIC_REGRESSION,
    METRICS_AND_WORDS,
    PRIOR,
    PRIOR_AND_OWN,
)
from tests.bench import bench_risk, bench_year
from tests.support import risk_tuning

MODELS = (LINES_ADDED, LOGISTIC_REGRESSION, METRICS_AND_WORDS, PRIOR, PRIOR_AND_OWN)
RANKING = {
    "auc": "ROC AUC",
    "pr_auc": "PR AUC",
    "capture_5": "bugs in 5 %",
    "capture_10": "in 10 %",
    "capture_20": "in 20 %",
    "skippable_95": "skippable at 95 % recall",
    "popt": "Popt",
    "brier": "Brier",
    "ece": "ECE",
}
"""What is measured, and its heading."""

CUTS = (30, 100, 300, 1000)
TEST_SHARE = 0.2


@dataclass(frozen=True)
class Subject:
    """A history: its scores on later commits, for the curve the newest fifth and what came before, and how
    often the selected score points to a line that was changed by a fix (None where it reads no lines)."""

    name: str
    trial: RiskTrial
    before: LabelledCommits
    test: LabelledCommits
    lines: LineHits | None = None


def read_published(table: Path, history: Path) -> Subject:
    data = bench_risk.read(table, history).ours
    cut = len(data) - round(TEST_SHARE * len(data))
    trial = risk_tuning.evaluate_time_split(data)
    return Subject(table.stem, trial, data.take(slice(0, cut)), data.take(slice(cut, None)))


def read_own(path: Path) -> Subject:
    with bench_risk.copy(path) as repository:
        name = path.parent.name if path.stem == "repo" else path.stem
        return judge_own(name, read_labels(repository))  # which looks lines up in the repository


def read_labels(repository: Repository) -> LabelledHistory:
    with History.open(repository.state_dir) as store:
        store.mine_commits(repository, "HEAD")
        tip = repository.resolve_commit("HEAD")
        known = labelled_history.read_labelled_history(store, repository, tip)
    assert known is not None
    return known


def judge_own(name: str, known: LabelledHistory) -> Subject:
    trial = prequential.evaluate_prequential(known.measured, known.found, known.now, texts=known.texts)
    assert trial is not None
    data = labelled_history.label_commits(known.measured, known.found, known.now, texts=known.texts)
    test = data.take(slice(len(data) - round(TEST_SHARE * len(data)), None))
    start = int(test.times[0])
    older = [one for one in known.measured if one.change.time < start]
    before = labelled_history.label_commits(older, known.found, start, texts=known.texts)
    lines = None
    if known.find_fixed_lines is not None and trial.chosen not in prequential.READ_NO_TEXT:
        lines = selection.evaluate_line_attribution(trial.chosen, trial, known.find_fixed_lines)
    return Subject(name, trial, before, test, lines)


def print_table(subjects: Sequence[Subject]) -> None:
    print("| data | score | n (buggy) | " + " | ".join(RANKING.values()) + " |")
    print("|---" * (len(RANKING) + 3) + "|")
    for one in subjects:
        for name in MODELS:
            found = summarise_ranking(one.trial.ranked[name], n=200)
            cells = (f"{x.mean:.3f} ({x.low:.2f}–{x.high:.2f})" for x in (found[key] for key in RANKING))
            size = f"{len(one.trial.data):,} ({int(one.trial.data.truth.sum())})"
            mark = f"**{name}**" if name == one.trial.chosen else name
            print(f"| {one.name} | {mark} | {size} | " + " | ".join(cells) + " |", flush=True)


def print_means(subjects: Sequence[Subject]) -> None:
    print(f"\n| score | mean AUC of {len(subjects)} | above lines added | clearly | mean skippable |")
    print("|---|---|---|---|---|")
    for name in (*MODELS, "selected"):
        rows = [(one.trial.ranked, one.trial.chosen if name == "selected" else name) for one in subjects]
        gaps = [
            bootstrap_difference(ranked[which], ranked[LINES_ADDED], "auc", n=300) for ranked, which in rows
        ]
        mean, skipped = (
            np.mean([RANKING_METRICS[key](ranked[which]) for ranked, which in rows])
            for key in ("auc", "skippable_95")
        )
        above, clear = sum(gap.mean > 0 for gap in gaps), sum(gap.low > 0 for gap in gaps)
        print(f"| {name} | {mean:.3f} | {above} | {clear} | {skipped:.0%} |")


def print_quiet(subjects: Sequence[Subject]) -> None:
    heads = ("selected", "quiet, of", "of the clean ones", "fixed later, of", "bugs outside")
    print("\n| history | " + " | ".join(heads) + " |\n|---" + "|---" * len(heads) + "|")
    for one in subjects:
        places = quiet.compute_percentiles(one.trial.chosen, one.trial)
        zone = quiet.find_quiet_zone(places, one.trial.data.truth)
        cells = (zone.why, "", "", "")
        if zone.below is not None and zone.outside is not None:
            mean, low, high = zone.outside
            clean = (zone.n - zone.bugs) / (zone.commits - zone.of)
            sizes = (f"{zone.n:,} of {zone.commits:,}", f"{clean:.0%}", f"{zone.bugs} of {zone.of}")
            cells = (*sizes, f"{mean:.0%} ({low:.0%}–{high:.0%})")
        print(f"| {one.name} | {one.trial.chosen} | " + " | ".join(cells) + " |", flush=True)


def print_lines(subjects: Sequence[Subject]) -> None:
    print("\n| history | selected | commits | heaviest line changed by a fix | random line | gain |")
    print("|---" * 6 + "|")
    for one in subjects:
        if found := one.lines:
            gain = "{:+.3f} ({:+.3f} to {:+.3f})".format(*found.gain)
            cells = f"{found.n} | {found.hits:.0%} | {found.chance:.0%} | {gain}"
            print(f"| {one.name} | {one.trial.chosen} | {cells} |")


def measure_curve(one: Subject, cut: int | None) -> dict[str, float]:
    """The AUC on the newest fifth with the newest `cut` commits known before it, by score.

    Where fewer than two of them are known bugs, only of what needs no label.
    """
    before = one.before if cut is None else one.before.take(slice(max(0, len(one.before) - cut), None))
    bugs = int(before.truth.sum())
    if bugs >= 2 and bugs < len(before) - 1:
        models = classifiers.fit_candidate_models(before)
    else:
        models = classifiers.fit_candidate_models(replace(before, truth=_pretend(len(before))))
        models = {name: models[name] for name in (LINES_ADDED, PRIOR)}
    return {
        name: roc_auc(one.test.truth, classifiers.score_commits(models[name], one.test))
        for name in MODELS
        if name in models
    }


def _pretend(count: int) -> classifiers.Array:
    """Labels for models that read none."""
    return (np.arange(count) % 2).astype(float)


def print_curve(subjects: Sequence[Subject], chart: Path | None) -> None:
    cuts: list[int | None] = [*CUTS, None]
    found = {cut: [measure_curve(one, cut) for one in subjects] for cut in cuts}
    print("\n| score | " + " | ".join(f"{cut:,} commits" if cut else "all" for cut in cuts) + " |")
    print("|---" * (len(cuts) + 1) + "|")
    curves: dict[str, list[tuple[float, float]]] = {}
    for name in MODELS:
        cells = []
        for place, cut in enumerate(cuts):
            values = [row[name] for row in found[cut] if name in row]
            cells.append(f"{np.mean(values):.3f} ({len(values)})" if values else "–")
            if len(values) == len(subjects):
                curves.setdefault(name, []).append((float(place), float(np.mean(values))))
        print(f"| {name} | " + " | ".join(cells) + " |", flush=True)
    if chart is not None:
        label = "known commits: " + ", ".join(f"{cut:,}" if cut else "all" for cut in cuts)
        title = "Mean ROC AUC on the newest fifth"
        figure = charts.render_line_chart(title, label, "ROC AUC", curves)
        chart.write_text(bench_year.extract_svg(figure))


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--csv", nargs=2, action="append", default=[], type=Path, metavar=("CSV", "HISTORY"))
    parser.add_argument("--own", nargs="*", default=[], type=Path, metavar="HISTORY")
    parser.add_argument("--curve", type=Path, metavar="SVG")
    options = parser.parse_args()
    subjects = [read_published(*pair) for pair in options.csv] + [read_own(path) for path in options.own]
    report(subjects, options.curve)


def report(subjects: Sequence[Subject], chart: Path | None) -> None:
    print_table(subjects)
    print_means(subjects)
    print_quiet(subjects)
    print_lines(subjects)
    print_curve(subjects, chart)


if __name__ == "__main__":
    main()
