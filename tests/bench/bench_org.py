"""Many repositories: mined by two processes, then learned from together, with few file descriptors.

    python tests/bench/bench_org.py [--repositories 1000] [--commits 30] [--budgets 1 1] [--descriptors 1024]

Generated repositories (seeded, see `bench_scale.write_history`) are mined by two `gitpeft mine --shard I/2`
at the same time; then `gitpeft train --org` runs on all of them once for each budget, in minutes, with the
base `mini` and at most so many descriptors. Then the same two steps for a recipe of `gitpeft base build`: two
shards, and `--examples-only` with a tiny causal base of random weights. Each row has seconds, the peak memory
of the process (the larger one of two), and the most descriptors that one had open at a time. With `--work`
the repositories stay.
"""

import argparse
import collections
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from tests.bench.bench_scale import write_history
from tests.support import tinymodel

ROOT = Path(__file__).resolve().parents[2]
RECIPE = """\
[data]
repositories = "repositories.tsv"
newest = 1000
validation = ["org/r0"]

[input]
total = 400

[adapter]
rank = 4
alpha = 8

[train]
batch = 4
"""


def generate(corpus: Path, count: int, commits: int) -> list[Path]:
    """Bare repositories `org+r0`, `org+r1`, … with generated histories."""
    found = []
    for number in range(count):
        path = corpus / f"org+r{number}"
        found.append(path)
        if not path.exists():
            subprocess.run(
                ["git", "init", "-q", "--bare", "--template=", "-b", "main", str(path)], check=True
            )
            stream = b"".join(write_history(commits, seed=number))
            subprocess.run(["git", "-C", str(path), "fast-import", "--quiet"], input=stream, check=True)
    return found


def write_recipe(folder: Path, repositories: Sequence[Path]) -> Path:
    """A recipe of an adapter that learns from all of them, and a base in `folder`/out."""
    rows = ["repo\tcommit"]
    for path in repositories:
        tip = subprocess.run(["git", "-C", str(path), "rev-parse", "main"], check=True, capture_output=True)
        rows.append(f"{path.name.replace('+', '/')}\t{tip.stdout.decode().strip()}")
    (folder / "repositories.tsv").write_text("\n".join(rows) + "\n", encoding="utf-8")
    (folder / "recipe.toml").write_text(RECIPE, encoding="utf-8")
    tinymodel.causal().save_pretrained(folder / "out")
    tinymodel.write_tokenizer(folder / "out")
    return folder / "recipe.toml"


class Watched:
    """A process of `gitpeft`, its peak memory in MiB, and the most descriptors that it had open at a time."""

    def __init__(self, arguments: Sequence[str | Path], descriptors: int) -> None:
        self.memory = self.open_files = 0.0
        self._begun = time.monotonic()
        self._process = subprocess.Popen(
            [sys.executable, "-m", "gitpeft", *map(str, arguments)],
            stdout=subprocess.PIPE,
            env=os.environ | {"PYTHONPATH": str(ROOT)},
            preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_NOFILE, (descriptors, descriptors)),
        )
        threading.Thread(target=self._watch, args=(Path(f"/proc/{self._process.pid}"),), daemon=True).start()

    def _watch(self, process: Path) -> None:
        try:
            while True:
                status = (process / "status").read_text(encoding="utf-8")
                peaks = [int(line.split()[1]) for line in status.splitlines() if line.startswith("VmHWM")]
                self.memory = max(self.memory, *(peak / 1024 for peak in peaks))
                self.open_files = max(self.open_files, len(os.listdir(process / "fd")))
                time.sleep(0.05)
        except (OSError, TypeError):
            return  # it has ended

    def wait(self) -> tuple[str, float]:
        """What it printed, and the seconds that it took."""
        output, _ = self._process.communicate()
        return output.decode(), time.monotonic() - self._begun


def report(step: str, commands: Sequence[Sequence[str | Path]], descriptors: int) -> list[str]:
    """Run commands at the same time and print a row of the table; what they printed."""
    started = [Watched(one, descriptors) for one in commands]
    ended = [one.wait() for one in started]
    seconds = max(spent for _, spent in ended)
    memory, files = max(one.memory for one in started), max(one.open_files for one in started)
    print(f"| {step} | {seconds:.0f} | {memory:.0f} | {files:.0f} | {os.getloadavg()[0]:.1f} |", flush=True)
    return [told for told, _ in ended]


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repositories", type=int, default=1000)
    parser.add_argument("--commits", type=int, default=30)
    parser.add_argument("--budgets", type=float, nargs="*", default=[1.0, 1.0])
    parser.add_argument("--base", default="mini")
    parser.add_argument("--descriptors", type=int, default=1024)
    parser.add_argument("--work", type=Path, help="a folder in which the repositories stay")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.work or Path(scratch)).resolve()
        repositories = generate(folder / "corpus", args.repositories, args.commits)
        listed = folder / "repositories.txt"
        listed.write_text("".join(f"{path}\n" for path in repositories), encoding="utf-8")
        print("| step | seconds | memory, MiB | descriptors | load |")
        print("|---|---:|---:|---:|---:|")
        shards = [f"{number}/2" for number in (1, 2)]
        report(
            "mine, two shards",
            [["mine", "--org", listed, "--shard", one] for one in shards],
            args.descriptors,
        )
        notes = []
        for minutes in args.budgets:
            command = [
                "train",
                "--org",
                listed,
                "--base",
                args.base,
                "--budget",
                f"{minutes:g}",
                "--yes",
                "--json",
            ]
            [told] = report(f"train --budget {minutes:g}", [command], args.descriptors)
            notes.append(_describe_training(told))
        recipe = write_recipe(folder, repositories)
        shutil.rmtree(folder / "work", ignore_errors=True)
        options = ["--corpus", folder / "corpus", "--work", folder / "work"]
        mine = [["mine", "--recipe", recipe, *options, "--shard", one] for one in shards]
        report("mine --recipe, two shards", mine, args.descriptors)
        build = ["base", "build", recipe, *options, "--out", folder / "out", "--examples-only"]
        report("base build --examples-only", [build], args.descriptors)
        print("", *notes, sep="\n")


def _describe_training(told: str) -> str:
    if not told:
        return "- the training failed"
    found = json.loads(told)
    counts = collections.Counter(one["action"] for one in found["repositories"])
    actions = ", ".join(f"{count} {action}" for action, count in counts.items())
    budget = found["budget"]
    reduced = "; ".join(budget["left_out"]) or "nothing"
    return f"- {actions}; {budget['seconds']} s of {budget['minutes']:g} min; reduced to: {reduced}"


if __name__ == "__main__":
    main()
