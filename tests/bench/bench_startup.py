"""Start-up of the hook in two checkouts: what `import gitpeft.hook` costs in a fresh interpreter.

    python tests/bench/bench_startup.py OLDER_CHECKOUT [--n 40]

An installed hook begins with that import. The bare interpreter, the older checkout and this one are started
in turns, so that a busy machine is busy for all three. Times are milliseconds, medians; the first round,
which may compile, does not count. Differences are taken round by round; the interval (95 %) of their median
is bootstrapped.
"""

import argparse
import os
import random
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

HERE = Path(__file__).resolve().parents[2]
PYTHON = Path(sys.base_prefix, "bin", f"python{sys.version_info.major}.{sys.version_info.minor}")
RESAMPLES = 2000


@dataclass(slots=True)
class Case:
    """A program for the interpreter, and what its runs took in milliseconds."""

    name: str
    program: str
    processor: list[float] = field(default_factory=list)
    wall: list[float] = field(default_factory=list)

    def run(self) -> tuple[float, float]:
        """Processor time (user and system) and wall time of one run."""
        start = time.perf_counter()
        child = subprocess.Popen([PYTHON, "-I", "-c", self.program])
        _, status, usage = os.wait4(child.pid, 0)
        wall = time.perf_counter() - start
        child.returncode = os.waitstatus_to_exitcode(status)
        if child.returncode:
            sys.exit(f"{self.name} ended with {child.returncode}")
        return 1000 * (usage.ru_utime + usage.ru_stime), 1000 * wall

    def measure(self) -> None:
        """Run once more, and keep the times."""
        processor, wall = self.run()
        self.processor.append(processor)
        self.wall.append(wall)

    def count_modules(self) -> int:
        """Modules that are loaded when the program has ended."""
        program = f"{self.program}\nimport sys; print(len(sys.modules))"
        done = subprocess.run([PYTHON, "-I", "-c", program], capture_output=True, text=True, check=True)
        return int(done.stdout)


def import_from(checkout: Path, module: str) -> str:
    """A program that imports a module of a checkout."""
    return f"import sys; sys.path.insert(0, {str(checkout.resolve())!r}); import {module}"


def interval(differences: Sequence[float]) -> tuple[float, float]:
    """95 % interval of a median, by the bootstrap."""
    dice = random.Random(0)
    medians = sorted(
        statistics.median(dice.choices(differences, k=len(differences))) for _ in range(RESAMPLES)
    )
    return medians[int(0.025 * RESAMPLES)], medians[int(0.975 * RESAMPLES)]


def print_table(cases: Sequence[Case]) -> None:
    """Medians of each case; then how the last one differs from the one before it."""
    print("| start | n | modules | processor ms | wall ms |")
    print("|---|---|---|---|---|")
    for case in cases:
        times = f"{statistics.median(case.processor):.1f} | {statistics.median(case.wall):.1f}"
        print(f"| {case.name} | {len(case.wall)} | {case.count_modules()} | {times} |")
    older, newer = cases[-2:]
    for kind in ("processor", "wall"):
        rounds = zip(getattr(older, kind), getattr(newer, kind), strict=True)
        differences = [after - before for before, after in rounds]
        low, high = interval(differences)
        print(f"{kind}: {statistics.median(differences):+.2f} ms ({low:+.2f} to {high:+.2f})")


def main() -> None:
    """Measure what the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("older", type=Path, help="a checkout of an earlier version")
    parser.add_argument("--n", type=int, default=40, help="rounds")
    parser.add_argument("--module", default="gitpeft.hook", help="what is imported of this checkout")
    given = parser.parse_args()
    cases = [
        Case("bare interpreter", "pass"),
        Case(f"older, import gitpeft.hook ({given.older.name})", import_from(given.older, "gitpeft.hook")),
        Case(f"this one, import {given.module}", import_from(HERE, given.module)),
    ]
    for case in cases:
        case.run()
    for _ in range(given.n):
        for case in cases:
            case.measure()
    print_table(cases)


if __name__ == "__main__":
    main()
