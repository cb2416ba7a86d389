"""SZZ tracing compared with `git blame`.

    python tests/bench/bench_labels.py [--rounds N] [--sample N] REPO[@TIP]...

Each round first labels the whole history in a fresh process with an empty cache, then runs one
`git blame -w --porcelain` for each of a sample of the files that fixes repair, one after the other, so that
a busy machine is busy for both; the ratios are taken within a round, the time of the blames scaled from the
sample to all files and fixes. At the end, all lines of `--agree` random versions of files are compared with
what git says. Prints a markdown table and what disagrees.
"""

import argparse
import os
import random
import re
import resource
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gitpeft.git.repository import Repository
from gitpeft.git.streams import read_commit_messages

ROOT = Path(__file__).resolve().parents[2]
LABEL = """
import resource, sys
from pathlib import Path
from gitpeft.config import Config
from gitpeft.git.repository import Repository
from gitpeft.learn.szz.szz import trace_bug_introducing_commits
def used():
    both = [resource.getrusage(who) for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    return sum(usage.ru_utime + usage.ru_stime for usage in both)
before = used()
repo = Repository.open(Path(sys.argv[1]))
found = trace_bug_introducing_commits(repo, sys.argv[2], Config(), lambda *heard: None)
days = [found.latency_quantile(quantile) for quantile in (.1, .25, .5, .75, .9)]
print(found.report.seconds, used() - before)
print(len(found.fixes), len(found.verdicts), *days)
"""
Pair = tuple[str, str]
"""A commit and a path, as git quotes it, in its first parent."""


def label(path: Path, tip: str) -> list[str]:
    """Label with an empty cache: wall and processor seconds, fixes, bugs, quantiles of the latency."""
    for leftover in Repository.open(path).state_dir.glob("lines.db*"):
        leftover.unlink()
    command = [sys.executable, "-P", "-c", LABEL, str(path), tip]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    return subprocess.run(command, capture_output=True, check=True, text=True, env=environment).stdout.split()


def repaired(path: Path, tip: str) -> list[Pair]:
    """Every fix with each file in which it takes out lines that may have been wrong."""
    from gitpeft.learn.szz.edit_cache import EditCache

    repository = Repository.open(path)
    with EditCache.open(repository.state_dir) as ledger:
        edits = (
            ledger.get_edit(commit.sha)
            for commit in read_commit_messages(repository, repository.resolve_commit(tip))
        )
        return [(edit.sha, name) for edit in edits if edit for name in edit.suspects if name[0] != '"']


def blame(path: Path, pair: Pair) -> list[tuple[str, int]]:
    """What git says of a file before a commit: commit and line there, for each line."""
    command = ["git", "-C", str(path), "blame", "-w", "--porcelain", f"{pair[0]}^", "--", pair[1]]
    said = subprocess.run(command, capture_output=True, check=True).stdout
    return [(sha.decode(), int(at)) for sha, at in re.findall(rb"^([0-9a-f]{40,64}) (\d+) \d+", said, re.M)]


def disagreements(path: Path, tip: str, count: int) -> tuple[int, list[str]]:
    """How many lines were compared, and those where the replay and git do not agree."""
    from gitpeft.learn.szz.blame import BlameReplay
    from gitpeft.learn.szz.edit_cache import EditCache

    repository = Repository.open(path)
    commits = read_commit_messages(repository, repository.resolve_commit(tip))
    total, found = 0, []
    with EditCache.open(repository.state_dir) as ledger:
        chosen = random.Random(0).sample(commits, min(count, len(commits)))
        wanted = {one.sha: _any_file(ledger.get_edit(one.sha), one.parents) for one in chosen}
        replay = BlameReplay(commits, ledger.get_edit)
        for step in replay:
            name = wanted.get(step.commit.sha, "")
            version = step.before.get_file(name)
            if version is None or version.lines is None:
                continue
            own = [replay.locate_origin(one) if one >= 0 else ("?", "", 0) for one in version.lines.tolist()]
            said = blame(path, (step.commit.sha, name))
            total += len(said)
            pairs = zip(own, said, strict=True)
            found += [f"{step.commit.sha[:10]}^ {name}: {a} {b}" for a, b in pairs if (a[0], a[2]) != b]
    return total, found


def _any_file(edit: object, parents: Sequence[str]) -> str:
    from gitpeft.learn.szz.edits import CommitEdit

    if not isinstance(edit, CommitEdit) or not parents:
        return ""
    files = [
        f.old_path for f in edit.files if f.status in "MR" and f.places is not None and f.old_path[0] != '"'
    ]
    return random.Random(edit.sha).choice(files) if files else ""


@contextmanager
def borrowed(source: Path) -> Iterator[Path]:
    """A clone that shares the objects, for a state directory of its own."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "clone"
        clone = ["git", "clone", "-q", "--bare", "--shared", str(source.absolute()), str(path)]
        subprocess.run(clone, check=True)
        yield path
        shutil.rmtree(path / "gitpeft", ignore_errors=True)


@dataclass(frozen=True, slots=True)
class Round:
    """One round: seconds and processor seconds of all labels and of all blames, what was printed, blames."""

    ours: float
    theirs: float
    our_work: float
    their_work: float
    said: list[str]
    pairs: int


def measure(path: Path, tip: str, sample: int, seed: int) -> Round:
    """Label, then blame."""
    said = label(path, tip)
    pairs = repaired(path, tip)
    chosen = random.Random(seed).sample(pairs, min(sample, len(pairs)))
    start, work = time.perf_counter(), _work()
    for pair in chosen:
        blame(path, pair)
    scale = len(pairs) / len(chosen)
    theirs, their_work = (time.perf_counter() - start) * scale, (_work() - work) * scale
    return Round(float(said[0]), theirs, float(said[1]), their_work, said[2:], len(pairs))


def _work() -> float:
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def row(source: Path, tip: str, options: argparse.Namespace) -> str:
    """A row of the table; prints where lines disagree."""
    name = source.parent.name if source.name in (".git", "repo") else source.name
    with borrowed(source) as path:
        rounds = [measure(path, tip, options.sample, seed) for seed in range(options.rounds)]
        count = ["git", "-C", str(path), "rev-list", "--count", tip]
        commits = subprocess.run(count, capture_output=True, check=True, text=True).stdout.strip()
        total, different = disagreements(path, tip, options.agree)
    for one in different[:20]:
        print(f"{name}: {one}", file=sys.stderr)
    fixes, bugs, *days = rounds[0].said
    latency = " / ".join("–" if value == "None" else f"{float(value):.0f}" for value in days)
    cells = [name, commits, fixes, bugs, latency, str(rounds[0].pairs)]
    columns = zip(
        *((one.ours, one.theirs, one.theirs / one.ours, one.their_work / one.our_work) for one in rounds),
        strict=True,
    )
    cells += [f"{statistics.median(one):.1f} ({min(one):.1f}–{max(one):.1f})" for one in columns]
    cells += [f"{total:,}", f"{100 * (1 - len(different) / max(1, total)):.3f}"]
    return "| " + " | ".join(cells) + " |"


def main() -> None:
    """Parse the command line, measure, print."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repository", nargs="+")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--sample", type=int, default=300, help="blames a round")
    parser.add_argument("--agree", type=int, default=300, help="versions of files to compare line by line")
    options = parser.parse_args()
    head = ["history", "commits", "fixes", "bugs", "latency, days, 10/25/50/75/90 %", "files × fixes"]
    head += ["labels, s", "blames, s", "× faster", "× less processor time", "lines compared", "agree, %"]
    print("| " + " | ".join(head) + " |")
    print("|---" * len(head) + "|")
    for one in options.repository:
        source, _, tip = one.partition("@")
        print(row(Path(source), tip or "HEAD", options), flush=True)
    load = ", ".join(f"{value:.1f}" for value in os.getloadavg())
    print(f"\nMedian (range) of {options.rounds} rounds, {os.cpu_count()} cores, load {load}.")
    print(f"The blames are {options.sample} a round, scaled to all.")


if __name__ == "__main__":
    main()
