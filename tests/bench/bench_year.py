"""A simulated year of a real history: a model retrained every month against one that never is.

    python tests/bench/bench_year.py --history GITDIR --from 2022-01-01 --months 12 [--first 5] [--budget 2]

On the first day a model is made from all commits before it. Each month both models, the one of the first day
and the champion, suggest messages for that month's commits: once with the exemplars of the month's first day,
once with a rolling index, as in the hook. Then `retrain` runs on the history
as it is at the month's end. Writes `year.json` after each month, `year.svg`, and prints the table; `--show`
prints and draws again what is in `year.json`.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import date
from itertools import accumulate, pairwise
from pathlib import Path
from typing import Any

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Bundle
from gitpeft.diff.render import TokenBudget
from gitpeft.git.repository import Repository
from gitpeft.learn import charts, pipeline
from gitpeft.learn.data import dataset
from gitpeft.learn.data.dataset import Dataset, Example
from gitpeft.learn.evaluation import trial
from gitpeft.learn.evaluation.text_metrics import b_norm, bootstrap_mean, paired_bootstrap
from gitpeft.learn.results import ModelPlan
from gitpeft.learn.retrain import run
from gitpeft.suggest.reranker import Reranker

NEVER, CHAMPION, ROLLING_INDEX = "never retrained", "champion", ", rolling index"
SYSTEMS = (NEVER, CHAMPION, NEVER + ROLLING_INDEX, CHAMPION + ROLLING_INDEX)


@dataclass(frozen=True, slots=True)
class Month:
    """A month: B-Norm of each commit by system, and what the retraining at its end came to and cost.

    `seconds` are those of the clock, `cpu` of all processors; `tasks` as in `retrain.Retrained`.
    """

    name: str
    scores: dict[str, list[float]]
    action: str
    tasks: dict[str, Any]
    labels: dict[str, int]
    seconds: float
    cpu: float


def main() -> None:
    """Live the year, month by month."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--history", type=Path)
    options.add_argument("--from", dest="start", type=date.fromisoformat)
    options.add_argument("--months", type=int, default=12)
    options.add_argument("--first", type=float, default=5.0, help="minutes of the first training")
    options.add_argument("--budget", type=float, default=2.0, help="minutes of each retraining")
    options.add_argument("--out", type=Path, default=Path("year"))
    options.add_argument("--show", action="store_true", help="only the table and the plot of an earlier run")
    given = options.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    if not given.show:
        with tempfile.TemporaryDirectory(prefix="gitpeft-year-") as scratch:
            clone = Path(scratch) / "clone.git"
            subprocess.run(["git", "clone", "-q", "--bare", str(given.history), str(clone)], check=True)
            budgets = given.first, given.budget
            live(Repository.open(clone), given.start, given.months, budgets, given.out / "year.json")
    months = [Month(**one) for one in json.loads((given.out / "year.json").read_text())]
    (given.out / "year.svg").write_text(plot(months))
    print(table(months))


def live(repo: Repository, start: date, count: int, budgets: tuple[float, float], out: Path) -> None:
    """Every month from `start` on, each written when it is over; `budgets` of the first and the others."""
    firsts = [later(start, number) for number in range(count + 1)]
    pipeline.build_active_model(repo, ModelPlan(until=tip_before(repo, firsts[0]), minutes=budgets[0]), quiet)
    first = active(repo)
    months: list[Month] = []
    with tempfile.TemporaryDirectory(prefix="gitpeft-never-") as kept:
        never = Bundle(Path(shutil.copytree(first.path, Path(kept) / first.id)), first.manifest)
        for begin, end in pairwise(firsts):
            months.append(month(repo, never, begin, end, budgets[1]))
            out.write_text(json.dumps([asdict(one) for one in months], indent=1))


def month(repo: Repository, never: Bundle, begin: date, end: date, budget: float) -> Month:
    """Suggest for the month's commits, then retrain."""
    before, after = tip_before(repo, begin), tip_before(repo, end)
    scores = asked_in(repo, never, before, after)
    started, spent = time.monotonic(), time.process_time()
    done = run.run_retraining(repo, ModelPlan(until=after, minutes=budget), quiet)
    seconds, cpu = time.monotonic() - started, time.process_time() - spent
    asked = len(scores[NEVER])
    print(f"{begin:%Y-%m}: {asked} commits; {done.action}: {done.reason} ({seconds:.0f} s)", flush=True)
    plain = json.loads(json.dumps(done.as_dict()))
    return Month(f"{begin:%Y-%m}", scores, done.action, plain["tasks"], plain["labels"], seconds, cpu)


def asked_in(repo: Repository, never: Bundle, before: str, after: str) -> dict[str, list[float]]:
    """B-Norm of each system on the usable commits of `after` that `before` has not."""
    known = {sha for sha, _ in repo.rev_list(before)}
    records = pipeline.mine_history(repo, after, quiet).records
    usable = dataset.select_usable_examples(records)
    fresh = sum(one.sha not in known for one in usable)
    if not fresh:
        return {name: [] for name in SYSTEMS}
    data = dataset.build_dataset(records, TokenBudget().exemplars, 0.1, (fresh - 0.25) / len(usable))
    asked = [one for one in data.test if one.sha not in known]
    models = {NEVER: never, CHAMPION: active(repo)}
    return {
        name + way: score(model, data, asked, data.test if way else ())
        for way in ("", ROLLING_INDEX)
        for name, model in models.items()
    }


def score(model: Bundle, data: Dataset, asked: list[Example], since: Sequence[Example]) -> list[float]:
    """B-Norm of what a model would have put first; with `since` among the exemplars as they come."""
    reranker = Reranker.from_data(model.read_json(bundles.RERANKER_FILE), model.manifest.kind)
    index = data.index_before(data.first_test)
    with trial.open_trial_suggester(
        model.manifest, model.path, index, model.read_json(bundles.STYLE_FILE)
    ) as suggester:
        offered = [
            one.offered_message(reranker) for one in trial.collect_candidates(suggester, asked, since=since)
        ]
    return b_norm(offered, [one.message for one in asked])


def active(repo: Repository) -> Bundle:
    """The champion."""
    found = bundles.open_active_bundle(repo.state_dir)
    assert found is not None
    return found


def tip_before(repo: Repository, day: date) -> str:
    """The newest first-parent commit of the default branch before a day."""
    return repo.run("rev-list", "-1", "--first-parent", f"--before={day}T00:00:00Z", "HEAD").decode().strip()


def later(day: date, months: int) -> date:
    """The same day so many months later."""
    years, month_ = divmod(day.month - 1 + months, 12)
    return date(day.year + years, month_ + 1, 1)


def quiet(_step: str, _done: float, _detail: str) -> None:
    """Hears nothing."""


# --- output -------------------------------------------------------------------------------------------------


def table(months: list[Month]) -> str:
    """Month by month, and the year as a whole with its intervals."""
    head = ["month", "n", *SYSTEMS, "challenger for messages", "challenger for risk", "s", "CPU s"]
    lines = [row(head), row(["---"] * len(head))]
    for one in months:
        cells = [mean(one.scores[name]) for name in SYSTEMS]
        results = [format_comparison(one.tasks.get(task)) for task in (run.MESSAGE, run.RISK)]
        lines.append(
            row(
                [
                    one.name,
                    str(len(one.scores[NEVER])),
                    *cells,
                    *results,
                    f"{one.seconds:.0f}",
                    f"{one.cpu:.0f}",
                ]
            )
        )
    whole = {name: [value for one in months for value in one.scores[name]] for name in SYSTEMS}
    spent = [f"{sum(getattr(one, name) for one in months):.0f}" for name in ("seconds", "cpu")]
    means = [mean(whole[name], interval=True) for name in SYSTEMS]
    lines.append(row(["all", str(len(whole[NEVER])), *means, "", "", *spent]))
    return "\n".join([*lines, "", *verdicts(months, whole)])


def row(cells: Sequence[str]) -> str:
    """A line of the table."""
    return f"| {' | '.join(cells)} |"


def format_comparison(verdict: dict[str, Any] | None) -> str:
    """A comparison of challenger and champion in a cell."""
    if not verdict or not verdict["duel"]:
        return "-"
    one = verdict["duel"]
    digits = {"B-Norm": 1, "AUC": 3}.get(one["metric"], 4)
    values = ", ".join(f"{one[name]:+.{digits}f}" for name in ("low", "high"))
    return f"{'won' if verdict['won'] else 'lost'} {one['difference']:+.{digits}f} ({values})"


def verdicts(months: list[Month], whole: dict[str, list[float]]) -> list[str]:
    """What the year says, in sentences."""
    lines = []
    for way in ("", ROLLING_INDEX):
        if whole[NEVER]:
            gain = paired_bootstrap(whole[CHAMPION + way], whole[NEVER + way], seed=0)
            lines.append(
                f"Champion minus never retrained{way}: "
                f"{gain.mean:+.2f} ({gain.low:+.2f} to {gain.high:+.2f}) B-Norm."
            )
    for task in (run.MESSAGE, run.RISK):
        held = [one.tasks[task] for one in months if one.tasks.get(task) and one.tasks[task]["duel"]]
        lost = sum(not one["won"] for one in held)
        lines.append(f"The challenger for {task} lost {lost} of {len(held)} comparisons.")
    return lines


def mean(values: list[float], *, interval: bool = False) -> str:
    """The mean; with its 95 % interval where asked for."""
    if not values:
        return "-"
    one = bootstrap_mean(values, seed=0)
    return f"{one.mean:.1f} ({one.low:.1f}–{one.high:.1f})" if interval else f"{one.mean:.1f}"


def plot(months: list[Month]) -> str:
    """Running means of all systems over the commits of the year, as an SVG file."""
    lines = {}
    for name in SYSTEMS:
        values = [value for one in months for value in one.scores[name]]
        running = [total / place for place, total in enumerate(accumulate(values), 1)]
        lines[name] = [(float(place), value) for place, value in enumerate(running, 1)][FIRST_SHOWN:]
    title = f"Retrained every month, {months[0].name} to {months[-1].name}"
    return extract_svg(charts.render_line_chart(title, "commits of the year", "B-Norm, running mean", lines))


def extract_svg(figure: charts.Markup) -> str:
    """The drawing of a figure as an SVG file of its own, on white."""
    found = figure[figure.index("<svg") : figure.index("</svg>") + len("</svg>")]
    style = (
        "svg{--soft:#566070;--line:#d9dee6;--bad:#c42b2b;background:#fff}"
        "text{fill:#1c2330;font:12px sans-serif}.tick{fill:#566070;font-size:11px}"
    )
    head = f"<svg xmlns='http://www.w3.org/2000/svg' width='{2 * charts.WIDTH}'"
    return found.replace("<svg", head, 1).replace(">", f"><style>{style}</style>", 1) + "\n"


FIRST_SHOWN = 10
"""Commits before the first point: a running mean of fewer says nothing."""


if __name__ == "__main__":
    main()
