"""Speed of mining compared with other ways to read a history.

    python tests/bench/bench_mining.py [--rounds N] REPO...

Each round runs every reader once on each repository, in turn, so that a busy machine is busy for all of them;
ratios are taken within a round. gitpeft (a fresh process, no cache, everything parsed, masked and stored) and
`git log -p -M` (to /dev/null) read the whole history. PyDriller and GitPython are too slow for that: they
read the newest `--sample` commits, and their rate is per commit of that sample. Prints a markdown table.
"""

import argparse
import os
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
MINE = """
import sys
from pathlib import Path
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
repository = Repository.open(Path(sys.argv[1]))
with History.open(repository.state_dir) as history:
    print(history.mine_commits(repository, "HEAD", int(sys.argv[2])).new)
"""


@dataclass(frozen=True, slots=True)
class Bench:
    """What a reader is given: a repository of its own to read, and how much of it."""

    path: Path
    commits: int
    sample: int
    jobs: int


@dataclass(frozen=True, slots=True)
class Rate:
    """One run: commits per second of wall clock, and per second of processor time."""

    wall: float
    cpu: float


def gitpeft(bench: Bench) -> int:
    """Mine into an empty database, with the modules compiled, as an installed package has them."""
    shutil.rmtree(bench.path / ".git" / "gitpeft", ignore_errors=True)
    command = [sys.executable, "-c", MINE, str(bench.path), str(bench.jobs)]
    compiled = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run(command, capture_output=True, check=True, env={**compiled, "PYTHONPATH": str(ROOT)})
    return int(done.stdout)


def git_log(bench: Bench) -> int:
    """One process of git, its output thrown away."""
    command = ["git", "-C", str(bench.path), "log", "-p", "-M", "HEAD"]
    subprocess.run(command, stdout=subprocess.DEVNULL, check=True)
    return bench.commits


def pydriller(bench: Bench) -> int:
    """Walk the newest commits and look at the parsed diff of each file."""
    from pydriller import Repository as Walk

    newest = _git(bench.path, "rev-list", f"-{bench.sample}", "HEAD").split()
    for commit in Walk(str(bench.path), only_commits=newest).traverse_commits():
        for file in commit.modified_files:
            _ = file.diff_parsed
    return len(newest)


def gitpython(bench: Bench) -> int:
    """Walk the newest commits and make the patch of each against its first parent."""
    from git import Repo

    count = 0
    with Repo(bench.path) as repo:
        for commit in repo.iter_commits(max_count=bench.sample):
            if len(commit.parents) == 1:
                _ = [diff.diff for diff in commit.parents[0].diff(commit, create_patch=True)]
            count += 1
    return count


READERS: dict[str, Callable[[Bench], int]] = {
    "gitpeft": gitpeft,
    "git log -p -M": git_log,
    "PyDriller": pydriller,
    "GitPython": gitpython,
}


def measure(reader: Callable[[Bench], int], bench: Bench) -> Rate:
    """Run a reader once."""
    cpu, wall = _processor_time(), time.perf_counter()
    commits = reader(bench)
    return Rate(commits / (time.perf_counter() - wall), commits / (_processor_time() - cpu))


def _processor_time() -> float:
    used = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in used)


def _git(path: Path, *args: str) -> str:
    return subprocess.run(["git", "-C", str(path), *args], capture_output=True, check=True, text=True).stdout


@contextmanager
def borrowed(source: Path) -> Iterator[Path]:
    """A clone that shares the objects, because PyDriller writes into the repository that it reads."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clone"
        clone = ["git", "clone", "-q", "--shared", "--no-checkout", str(source.absolute()), str(path)]
        subprocess.run(clone, check=True)
        yield path


def run(source: Path, options: argparse.Namespace) -> dict[str, list[Rate]]:
    """The rates of every reader on one repository, a list entry a round; the first, cold round is dropped."""
    with borrowed(source) as path:
        commits = int(_git(path, "rev-list", "--count", "HEAD"))
        bench = Bench(path, commits, options.sample, options.jobs)
        rounds = [
            {name: measure(read, bench) for name, read in READERS.items()} for _ in range(options.rounds + 1)
        ]
    return {name: [one[name] for one in rounds[1:]] for name in READERS}


def spread(values: list[float], digits: int = 2) -> str:
    """Median and range."""
    low, middle, high = min(values), statistics.median(values), max(values)
    return f"{middle:,.{digits}f} ({low:,.{digits}f}–{high:,.{digits}f})"


def row(name: str, rates: dict[str, list[Rate]]) -> str:
    """A table row: gitpeft's rate, then for each other reader its rate and gitpeft's multiple of it."""
    own = rates["gitpeft"]
    cells = [name, spread([rate.wall for rate in own], 0)]
    for other in list(READERS)[1:]:
        ratios = [a.wall / b.wall for a, b in zip(own, rates[other], strict=True)]
        cells += [f"{statistics.median([rate.wall for rate in rates[other]]):,.0f}", spread(ratios)]
    work = [a.cpu / b.cpu for a, b in zip(own, rates["git log -p -M"], strict=True)]
    return "| " + " | ".join([*cells, spread(work)]) + " |"


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repository", nargs="+", type=Path)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--sample", type=int, default=150, help="commits for PyDriller and GitPython")
    parser.add_argument("--jobs", type=int, default=2, help="processes of gitpeft")
    options = parser.parse_args()
    head = ["history", "gitpeft commits/s"]
    for other in list(READERS)[1:]:
        head += [f"{other} commits/s", "gitpeft is × faster"]
    head.append("× per CPU second, of git log")
    print("| " + " | ".join(head) + " |")
    print("|---" * len(head) + "|")
    for source in options.repository:
        name = source.parent.name if source.name in (".git", "repo") else source.name
        print(row(name, run(source, options)), flush=True)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"\nMedian (range) of {options.rounds} rounds, {os.cpu_count()} cores, load {load}.")
    print(f"PyDriller and GitPython: the newest {options.sample} commits only, scaled per commit.")


if __name__ == "__main__":
    main()
