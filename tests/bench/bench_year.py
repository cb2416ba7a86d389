"""A year of a real history, lived again: a model retrained every month against one that never is.

    python tests/bench/bench_year.py --history GITDIR --from 2022-01-01 --months 12 [--budget 2]

On the first day a model is made from all commits before it. Each month both models, the one of the first day
and the champion, suggest messages for that month's commits, with the exemplars of the month's first day; then
the champion's retraining runs on the history as it is at the month's end. Writes `year.json`, `year.svg` and
the table.
"""

import argparse
import json
import shutil
import subprocess
import tempfile
import time
from dataclasses import asdict, dataclass
from datetime import date
from itertools import pairwise
from pathlib import Path
from typing import Any

from gitpeft import bundle as bundles
from gitpeft.bundle import Bundle
from gitpeft.choose import Chooser
from gitpeft.diff import Budget
from gitpeft.git import Repository
from gitpeft.learn import backtest, dataset, pipeline, retrain
from gitpeft.learn.dataset import Dataset, Example
from gitpeft.learn.evaluate import b_norm, bootstrap, paired_bootstrap
from gitpeft.learn.pipeline import Plan


@dataclass(frozen=True, slots=True)
class Month:
    """A month: B-Norm of each commit by both models, and what the retraining at its end came to."""

    name: str
    never: list[float]
    champion: list[float]
    action: str
    reason: str
    seconds: float


def main() -> None:
    """Live the year, month by month."""
    options = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    options.add_argument("--history", type=Path, required=True)
    options.add_argument("--from", dest="start", type=date.fromisoformat, required=True)
    options.add_argument("--months", type=int, default=12)
    options.add_argument("--budget", type=float, default=2.0, help="minutes of each training")
    options.add_argument("--out", type=Path, default=Path("year"))
    given = options.parse_args()
    given.out.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="gitpeft-year-") as scratch:
        clone = Path(scratch) / "clone.git"
        subprocess.run(["git", "clone", "-q", "--bare", str(given.history), str(clone)], check=True)
        months = live(Repository.open(clone), given.start, given.months, given.budget)
    (given.out / "year.json").write_text(json.dumps([asdict(one) for one in months], indent=1))
    (given.out / "year.svg").write_text(plot(months))
    print(table(months))


def live(repo: Repository, start: date, count: int, budget: float) -> list[Month]:
    """Every month from `start` on."""
    firsts = [later(start, number) for number in range(count + 1)]
    plan = Plan(until=tip_before(repo, firsts[0]), minutes=budget)
    pipeline.run(repo, plan, quiet)
    first = active(repo)
    with tempfile.TemporaryDirectory(prefix="gitpeft-never-") as kept:
        never = Bundle(Path(shutil.copytree(first.path, Path(kept) / first.id)), first.manifest)
        return [month(repo, never, begin, end, budget) for begin, end in pairwise(firsts)]


def month(repo: Repository, never: Bundle, begin: date, end: date, budget: float) -> Month:
    """Suggest for the month's commits, then retrain."""
    before, after = tip_before(repo, begin), tip_before(repo, end)
    known = {sha for sha, _ in repo.rev_list(before)}
    records = pipeline.mine(repo, after, quiet).records
    fresh = sum(record.sha not in known for record in dataset.usable(records))
    scores: list[list[float]] = [[], []]
    if fresh:
        size = len(dataset.usable(records))
        data = dataset.make(records, Budget().exemplars, 0.1, (fresh - 0.25) / size)
        asked = [one for one in data.test if one.sha not in known]
        scores = [score(model, data, asked) for model in (never, active(repo))]
    started = time.monotonic()
    done = retrain.run(repo, Plan(until=after, minutes=budget), quiet)
    seconds = time.monotonic() - started
    print(f"{begin:%Y-%m}: {fresh} commits; {done.action}: {done.reason} ({seconds:.0f} s)", flush=True)
    return Month(f"{begin:%Y-%m}", scores[0], scores[1], done.action, done.reason, seconds)


def score(model: Bundle, data: Dataset, asked: list[Example]) -> list[float]:
    """B-Norm of what a model would have put first."""
    chooser = Chooser.of(model.json(bundles.CHOOSER), model.manifest.kind)
    index = data.index_before(data.first_test)
    with backtest.trial(model.manifest, model.path, index, model.json(bundles.STYLE)) as suggester:
        offered = [one.offered(chooser) for one in backtest.ask(suggester, asked)]
    return b_norm(offered, [one.message for one in asked])


def active(repo: Repository) -> Bundle:
    found = bundles.active(repo.state_dir)
    assert found is not None
    return found


def tip_before(repo: Repository, day: date) -> str:
    """The newest first-parent commit of the default branch before a day."""
    return repo.run("rev-list", "-1", "--first-parent", f"--before={day}T00:00:00Z", "HEAD").decode().strip()


def later(day: date, months: int) -> date:
    years, month_ = divmod(day.month - 1 + months, 12)
    return date(day.year + years, month_ + 1, 1)


def quiet(_step: str, _done: float, _detail: str) -> None:
    """Hears nothing."""


# --- what is told -------------------------------------------------------------------------------------------


def table(months: list[Month]) -> str:
    """Month by month, and the year as a whole with its interval."""
    lines = ["| month | n | never retrained | champion | retraining | seconds |", "|---|---|---|---|---|---|"]
    for one in months:
        lines.append(
            f"| {one.name} | {len(one.never)} | {mean(one.never)} | {mean(one.champion)} "
            f"| {one.action} | {one.seconds:.0f} |"
        )
    never = [value for one in months for value in one.never]
    champion = [value for one in months for value in one.champion]
    total = sum(one.seconds for one in months)
    lines.append(f"| all | {len(never)} | {mean(never)} | {mean(champion)} | | {total:.0f} |")
    lost, held = sum(one.action == "aside" for one in months), sum(one.action != "none" for one in months)
    if never:
        gain = paired_bootstrap(champion, never, seed=0)
        lines += [
            "",
            f"Champion minus never retrained: {gain.mean:+.2f} ({gain.low:+.2f} to {gain.high:+.2f}).",
        ]
    return "\n".join([*lines, f"The challenger lost {lost} of {held} duels."])


def mean(values: list[float]) -> str:
    if not values:
        return "-"
    one = bootstrap(values, seed=0)
    return f"{one.mean:.1f} ({one.low:.1f}–{one.high:.1f})"


def plot(months: list[Month], width: int = 640, height: int = 300) -> str:
    """Running mean of both models over the commits of the year, as SVG."""
    series: dict[str, Any] = {"never": [], "champion": []}
    for name, values in series.items():
        total = 0.0
        for place, value in enumerate((v for one in months for v in getattr(one, name)), 1):
            total += value
            values.append(total / place)
    top = max((max(values[5:], default=0) for values in series.values()), default=1) * 1.2 or 1
    lines = []
    for (name, values), colour in zip(series.items(), ("#888888", "#2266cc"), strict=True):
        step = (width - 60) / max(1, len(values) - 1)
        points = " ".join(
            f"{40 + i * step:.1f},{height - 30 - min(v, top) / top * (height - 50):.1f}"
            for i, v in enumerate(values)
        )
        lines.append(f'<polyline fill="none" stroke="{colour}" stroke-width="2" points="{points}"/>')
        label = "never retrained" if name == "never" else "retrained every month"
        lines.append(f'<text x="50" y="{20 + 16 * len(lines) // 2}" fill="{colour}">{label}</text>')
    axis = f'<text x="40" y="{height - 8}">commits of the year; running mean of B-Norm, 0 to {top:.1f}</text>'
    head = f'<svg xmlns="http://www.w3.org/2000/svg" width="{width}" height="{height}" '
    return "\n".join([f'{head}font-family="sans-serif" font-size="12">', *lines, axis, "</svg>", ""])


if __name__ == "__main__":
    main()
