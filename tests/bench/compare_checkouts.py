"""What two versions of this project make of the same history: suggestions, labels and metrics.

    python tests/bench/compare_checkouts.py BEFORE AFTER NAME=PATH... [--base mini] [--commits 50]

BEFORE and AFTER are folders with a checkout each. Each makes a model of a clone of the history at PATH.
Nothing is tuned, because training ends by the clock, and two runs of one version would differ. Compared are
the suggestions for the newest commits, the commits that introduced bugs (with their fixes and the lines), and
every number that is measured, but not times and sizes. Exit code 1 where something differs, and where there
are fewer than `--least` of one of them in a version.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

_MAKE = """
import json, sys
from pathlib import Path
from gitpeft.config import Config
from gitpeft.git.repository import Repository
from gitpeft.learn import pipeline
from gitpeft.learn.szz.szz import trace_bug_introducing_commits

repo = Repository.open(Path(sys.argv[1]))
plan = pipeline.ModelPlan(base=sys.argv[2], train=False, minutes=60.0)
made = pipeline.build_active_model(repo, plan, lambda *heard: None).as_dict()
found = trace_bug_introducing_commits(repo, repo.resolve_commit("HEAD"), Config(), lambda *heard: None)
labels = {sha: [*one.fixes, *map(str, one.lines)] for sha, one in found.verdicts.items()}
made["risk"] = {name: made["risk"].get(name) for name in ("report", "thresholds", "threshold")}
print(json.dumps({"metrics": made, "labels": labels}, default=str))
"""
"""Run in a checkout, on a clone, with a base."""

_UNCOMPARED = {"seconds", "bytes", "memory", "ms", "bundle", "folder", "id", "version", "budget", "samples"}
"""Last words of the names of what is another in each run, or is compared otherwise."""


_TITLES = ("suggestions", "labels", "metrics")


@dataclass(frozen=True, slots=True)
class Made:
    """What a version made of a history.

    `suggestions` by commit, best first; `labels`: fixes and lines, by the commit that introduced a bug.
    """

    suggestions: Mapping[str, tuple[str, ...]]
    labels: Mapping[str, tuple[str, ...]]
    metrics: Mapping[str, float]


def make(checkout: Path, source: Path, base: str, newest: Sequence[str]) -> Made:
    """Make a model with the version in `checkout` of a clone of its own, and ask it."""
    environment = os.environ | {"PYTHONPATH": str(checkout), "GITPEFT_BASE": base}

    def run(arguments: Sequence[str], given: str = "") -> str:
        command = [sys.executable, "-P", *arguments]
        done = subprocess.run(
            command, input=given, capture_output=True, check=False, text=True, env=environment, cwd=clone
        )
        if done.returncode:
            raise SystemExit(f"{checkout}: {' '.join(command)[:200]}\n{done.stderr[-2000:]}")
        return done.stdout

    with tempfile.TemporaryDirectory() as scratch:
        clone = Path(scratch) / "clone"
        subprocess.run(["git", "clone", "-q", "--shared", str(source), str(clone)], check=True)
        made = json.loads(run(["-c", _MAKE, str(clone), base]))
        answers = run(["-m", "gitpeft", "suggest", "--stdin", "-n", "3"], "\n".join(newest) + "\n")
    return Made(
        {
            one["rev"]: tuple(s["message"] for s in one["suggestions"])
            for one in map(json.loads, answers.splitlines())
        },
        {sha: tuple(fixes) for sha, fixes in made["labels"].items()},
        dict(list_numbers(made["metrics"])),
    )


def list_numbers(found: Any, name: str = "") -> Iterator[tuple[str, float]]:
    """The numbers in nested mappings and lists, by their paths; without what no two runs have in common."""
    if isinstance(found, Mapping):
        for key, value in found.items():
            if str(key).rpartition("_")[2] not in _UNCOMPARED:
                yield from list_numbers(value, f"{name}.{key}" if name else str(key))
    elif isinstance(found, list):
        for at, value in enumerate(found):
            yield from list_numbers(value, f"{name}[{at}]")
    elif isinstance(found, int | float):
        yield name, float(found)


def list_differences(before: Made, after: Made) -> Iterator[str]:
    """A line for all suggestions, labels and metrics, and one for each that differs."""
    for title in _TITLES:
        old, new = getattr(before, title), getattr(after, title)
        names = [name for name in old if name in new]
        others = [name for name in names if old[name] != new[name]]
        equal, only = len(names) - len(others), [len(one) - len(names) for one in (old, new)]
        yield f"{title}: {equal} of {len(names)} are equal; {only[0]} only before, {only[1]} only after"
        for name in others:
            yield f"  {name[:60]}: {_shorten(old[name])} -> {_shorten(new[name])}"
        for sign, one, other in (("-", old, new), ("+", new, old)):
            yield from (f"  {sign} {name[:60]}: {_shorten(one[name])}" for name in one if name not in other)


def list_shortages(made: Sequence[Made], least: int) -> Iterator[str]:
    """A line for each kind of which a version has fewer than `least`: being equal would say little then.

    A commit for which nothing is suggested does not count.
    """
    for title in _TITLES:
        fewest = min(sum(value != () for value in getattr(one, title).values()) for one in made)
        if fewest < least:
            yield f"{title}: {fewest} are too few to compare, {least} are needed"


def _shorten(value: object) -> str:
    if isinstance(value, float):
        return f"{value:.6g}"
    return " | ".join(str(one)[:72] for one in value) if isinstance(value, tuple) else str(value)


def main() -> None:
    """Compare, and print what differs; exit code 1 where something does."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("before", type=Path)
    parser.add_argument("after", type=Path)
    parser.add_argument("histories", nargs="+", metavar="NAME=PATH")
    parser.add_argument("--base", default="mini")
    parser.add_argument("--commits", type=int, default=50)
    parser.add_argument("--least", type=int, default=10, help="suggestions, labels and metrics there must be")
    args = parser.parse_args()
    differs = False
    for name, _, path in (one.partition("=") for one in args.histories):
        listed = ["git", "-C", path, "rev-list", "--no-merges", f"--max-count={args.commits}", "HEAD"]
        newest = subprocess.run(listed, capture_output=True, check=True, text=True).stdout.split()
        both = [
            make(one.resolve(), Path(path).resolve(), args.base, newest) for one in (args.before, args.after)
        ]
        shortages = list(list_shortages(both, args.least))
        print(f"{name}:", *list_differences(*both), *shortages, sep="\n", flush=True)
        differs |= both[0] != both[1] or bool(shortages)
    sys.exit(differs)


if __name__ == "__main__":
    main()
