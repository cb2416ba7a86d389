"""Kills `gitpeft init` at random moments and checks that nothing is lost.

    python tests/bench/kill_init.py REPO [--kills 20] [--seed 0] [--budget 1] [--base mini]
    python tests/bench/kill_init.py --generate 3000
    python tests/bench/kill_init.py CLONE --in-place --kills 5 --seed 2

A clone (with `--in-place` the given one, so that many kills can be done in parts) gets a first model; then
`gitpeft init` with another budget is started and killed (SIGKILL) after a random time, again and again. After
each kill no process of it may be left, `gitpeft suggest HEAD` must answer with the installed model, and the
next start goes on. A run that comes to its end counts as one that completed, and the next one begins with yet
another budget. At last one run is left alone: it must complete, and `gitpeft doctor` must find nothing
broken.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench import bench_scale  # noqa: E402 - found by the line above

_PATIENCE = 15.0  # seconds in which the helpers of a killed process have to end


@dataclass(slots=True)
class KillReport:
    """What happened: seconds after a start, the steps that kills hit, and completed runs."""

    kills: list[float] = field(default_factory=list)
    steps: list[str] = field(default_factory=list)
    completed: int = 0
    failures: list[str] = field(default_factory=list)


def start(
    clone: Path, arguments: Sequence[str], base: str, output: int | IO[bytes] = subprocess.PIPE
) -> subprocess.Popen[bytes]:
    """A command of gitpeft in a process group of its own; `output` gets what it prints, errors too."""
    environment = os.environ | {"PYTHONPATH": str(ROOT), "GITPEFT_BASE": base}
    return subprocess.Popen(
        [sys.executable, "-m", "gitpeft", *arguments], cwd=clone, env=environment, start_new_session=True,
        stdout=output, stderr=output,
    )  # fmt: skip


def run(clone: Path, arguments: Sequence[str], base: str) -> tuple[int, str, str]:
    """Exit code, output and errors of a command."""
    process = start(clone, arguments, base)
    out, err = process.communicate()
    return process.returncode, out.decode(), err.decode("utf-8", "replace")


def kill_once(clone: Path, budget: str, moment: float, base: str, report: KillReport) -> bool:
    """Start `init`, kill it after `moment` seconds, and check; False where it had ended before."""
    log = clone / ".git" / "progress.log"
    with log.open("wb") as errors:
        process = start(clone, ["init", "--budget", budget, "--progress", "json"], base, errors)
        try:
            code = process.wait(moment)
        except subprocess.TimeoutExpired:
            os.kill(process.pid, signal.SIGKILL)  # it alone, as the kernel does where memory runs out
            process.wait()
        else:
            report.completed += 1
            if code:
                report.failures.append(f"init ended with {code}: {log.read_text()[-300:]}")
            return False
    report.kills.append(round(moment, 1))
    report.steps.append(_find_last_step(log.read_text(errors="replace")))
    if not _is_group_gone(process.pid):
        report.failures.append(f"after the kill at {moment:.1f} s a process was left")
    return True


def _find_last_step(log: str) -> str:
    for line in reversed(log.splitlines()):
        try:
            return str(json.loads(line)["step"])
        except (ValueError, KeyError, TypeError):
            continue
    return "start"


def _is_group_gone(group: int) -> bool:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def check_answer(clone: Path, base: str, report: KillReport) -> None:
    """The installed model must answer."""
    code, out, err = run(clone, ["suggest", "HEAD", "--json"], base)
    if code or not json.loads(out):
        report.failures.append(f"suggest ended with {code}: {(out + err)[-300:]}")


def _list_budgets(budget: float, seed: int) -> Iterator[str]:
    """Nearly the same budget again and again, so that each run is one of its own."""
    for number in range(1000):
        yield f"{budget * (1 + seed / 100 + number / 10_000):.4f}"


def kill_many(clone: Path, kills: int, seed: int, budget: float, base: str) -> KillReport:
    """The first model, the kills, and the run that is left alone."""
    report, dice = KillReport(), random.Random(seed)
    began = time.monotonic()
    budgets = _list_budgets(budget, seed)
    code, _, err = run(clone, ["init", "--budget", next(budgets)], base)
    if code:
        raise SystemExit(f"the first init ended with {code}: {err}")
    whole = time.monotonic() - began
    print(f"the first init took {whole:.0f} s", flush=True)
    asked = next(budgets)
    while len(report.kills) < kills:
        moment = dice.uniform(0.5, whole)
        if not kill_once(clone, asked, moment, base, report):
            asked = next(budgets)
            continue
        check_answer(clone, base, report)
        print(f"kill {len(report.kills)} at {moment:.1f} s, in {report.steps[-1]}", flush=True)
    began = time.monotonic()
    code, _, err = run(clone, ["init", "--budget", asked], base)
    report.completed += 1
    if code:
        report.failures.append(f"the last init ended with {code}: {err[-300:]}")
    print(f"the last run, alone, took {time.monotonic() - began:.0f} s", flush=True)
    check_answer(clone, base, report)
    code, out, err = run(clone, ["doctor"], base)
    if code:
        report.failures.append(f"doctor ended with {code}: {(out + err)[-500:]}")
    return report


def main() -> None:
    """Kill, and say what was found; exit code 1 where something was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repo", nargs="?", type=Path)
    parser.add_argument("--generate", type=int, default=0, metavar="N")
    parser.add_argument("--in-place", action="store_true", help="kill in REPO itself, a clone")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=1.0)
    parser.add_argument("--base", default="mini")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch)
        source = bench_scale.generate(folder, args.generate) if args.generate else args.repo.resolve()
        clone = source if args.in_place else folder / "clone"
        if not args.in_place:
            subprocess.run(["git", "clone", "-q", "--shared", str(source), str(clone)], check=True)
        # how long an answer takes on a busy machine is not the question
        subprocess.run(["git", "config", "gitpeft.timeoutMs", "30000"], cwd=clone, check=True)
        # nor whether an answer is likely to fit
        subprocess.run(["git", "config", "gitpeft.minScore", "0"], cwd=clone, check=True)
        report = kill_many(clone, args.kills, args.seed, args.budget, args.base)
    hit = {step: report.steps.count(step) for step in dict.fromkeys(report.steps)}
    print(f"{len(report.kills)} kills ({', '.join(f'{step} {n}' for step, n in hit.items())})")
    print(f"{report.completed} runs completed in between and at the end; {len(report.failures)} failures")
    for failure in report.failures:
        print(f"  {failure}")
    sys.exit(bool(report.failures))


if __name__ == "__main__":
    main()
