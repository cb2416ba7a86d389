"""Kills `gitpeft init` at random moments and checks that nothing is lost.

    python tests/bench/kill_init.py REPO [--kills 20] [--seed 0] [--budget 1] [--base mini]
    python tests/bench/kill_init.py --generate 3000
    python tests/bench/kill_init.py CLONE --in-place --kills 5 --seed 2
    python tests/bench/kill_init.py REPO --fresh --longest 20

A clone (with `--in-place` the given one, so that many kills can be done in parts) gets a first model; then
`gitpeft init` with another budget is started and killed (SIGKILL) after a random time, again and again. A run
that comes to its end counts as one that completed, and the next one begins with yet another budget. With
`--fresh` there is no model and no history that has been read: what earlier runs left in the clone is deleted
at first, and after each run that completed. At last one run is left alone: it must complete, and
`gitpeft doctor` must find nothing broken.

- Once before each kill, while `init` runs, and after it `gitpeft suggest HEAD` must answer with the installed
  model, whose id stays the same.
- After a kill no process of `init` may be left, and `git commit` must work with the hooks.
- The next run goes on: it reads only the commits that are missing, and a step whose result is there is not
  done anew, as its own progress log and the files of the run show. A kill counts as continued when a later
  run came to the step that it hit.
"""

import argparse
import json
import os
import random
import re
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path
from typing import IO, Any

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from tests.bench import bench_scale  # noqa: E402 - found by the line above

_PATIENCE = 15.0  # seconds in which the helpers of a killed process have to end
_STEPS = ("start", "mine", "examples", "labels", "risk", "train", "export", "choose", "measure")
_RESULTS = {"risk": "risk.json", "train": "run.json", "export": "exported.json"}
"""What a step leaves in the folder of a run once it has ended."""

Event = Mapping[str, Any]


@dataclass(slots=True)
class KillReport:
    """What happened: the steps that kills hit, those of them that no later run has continued yet, how many
    runs completed, and what was lost."""

    steps: list[str] = field(default_factory=list)
    pending: list[str] = field(default_factory=list)
    completed: int = 0
    failures: list[str] = field(default_factory=list)


@dataclass(frozen=True, slots=True)
class Kept:
    """What a clone holds: commits that are read, the ids of the installed model and of the one before it (if
    there are any), and when the results of steps were written, by run and step."""

    commits: int
    models: Sequence[str]
    results: Mapping[tuple[str, str], int]


class Victim:
    """A clone in which `init` is killed."""

    def __init__(self, clone: Path, base: str, seed: int) -> None:
        self.clone, self.base, self.dice = clone, base, random.Random(seed)
        self.state = clone / ".git" / "gitpeft"
        self.log = clone / ".git" / "progress.log"
        self.total = int(self._git("rev-list", "--count", "HEAD"))
        self.report = KillReport()

    # --- commands -------------------------------------------------------------------------------------------

    def start(
        self, arguments: Sequence[str], output: int | IO[bytes] = subprocess.PIPE
    ) -> subprocess.Popen[bytes]:
        """A command of gitpeft in a process group of its own; `output` gets what it prints, errors too."""
        environment = os.environ | {"PYTHONPATH": str(ROOT), "GITPEFT_BASE": self.base}
        return subprocess.Popen(
            [sys.executable, "-m", "gitpeft", *arguments], cwd=self.clone, env=environment,
            start_new_session=True, stdout=output, stderr=output,
        )  # fmt: skip

    def run(self, *arguments: str) -> None:
        """A command of gitpeft, which must end well."""
        self.expect_success(self.start(arguments), arguments[0])

    def expect_success(self, process: subprocess.Popen[bytes], name: str) -> str:
        """What a command printed; a failure where it ended with another code than 0."""
        out, err = (said.decode("utf-8", "replace") for said in process.communicate())
        if process.returncode:
            self.report.failures.append(f"{name} ended with {process.returncode}: {(out + err)[-500:]}")
        return out

    def _git(self, *arguments: str, editor: str = "") -> str:
        environment = os.environ | ({"GIT_EDITOR": editor} if editor else {"GITPEFT": "0"})
        command = ["git", "-c", "user.name=A", "-c", "user.email=a@example.org", *arguments]
        return subprocess.run(
            command, cwd=self.clone, env=environment, check=True, capture_output=True, text=True
        ).stdout

    # --- kills ----------------------------------------------------------------------------------------------

    def kill_once(self, budget: str, moment: float) -> bool:
        """Start `init`, ask the model meanwhile, kill `init` after `moment` seconds, and check.

        False where it had ended before.
        """
        before, began, asked = self.take_stock(budget), time.monotonic(), self.dice.uniform(0, moment)
        with self.log.open("wb") as errors:
            process = self.start(["init", "--budget", budget, "--progress", "json"], errors)
        killed = not _has_ended(process, asked)
        question = self.start(["suggest", "HEAD", "--json"]) if before.models else None
        killed = killed and not _has_ended(process, moment - (time.monotonic() - began))
        if killed:
            os.kill(process.pid, signal.SIGKILL)  # it alone, as the kernel does where memory runs out
            process.wait()
            if not _is_group_gone(process.pid):
                self.report.failures.append(f"after the kill at {moment:.1f} s a process was left")
        if question is not None:
            self.check_answer(question)
        self.check_progress(before, budget, killed=killed)
        if not killed and process.returncode:
            self.report.failures.append(
                f"init ended with {process.returncode}: {self.log.read_text()[-300:]}"
            )
        return killed

    def check_progress(self, before: Kept, budget: str, *, killed: bool) -> None:
        """A run that went on from what was there, and how far it came."""
        report, after = self.report, self.take_stock(budget)
        events = list(_read_events(self.log))
        step = str(events[-1]["step"]) if events else "start"
        redone = list(list_redone(before, after, events, self.total - before.commits))
        report.failures += [f"{what}, although that was done before" for what in redone]
        if after.commits < before.commits + any(map(count_wanted, events)):
            report.failures.append(f"of {before.commits} commits that were read {after.commits} are left")
        if not redone:
            reached = _STEPS.index(step) if killed else len(_STEPS)
            report.pending = [one for one in report.pending if _STEPS.index(one) > reached]
        if not killed:
            report.completed += 1
            return
        own = step == _STEPS[-1]  # it may have installed its own model and be about to end
        if before.models[:1] not in (after.models[:1], after.models[1:] if own else None):
            report.failures.append(f"the installed model was {before.models[:1]}, and is {after.models[:1]}")
        report.steps.append(step)
        report.pending.append(step)

    def take_stock(self, budget: str) -> Kept:
        """What is there for a run with this budget."""
        current, results = self.state / "current", dict[tuple[str, str], int]()
        for plan in self.state.glob("runs/*/plan.json"):
            if json.loads(plan.read_text())["minutes"] == float(budget):
                found = {step: plan.with_name(name) for step, name in _RESULTS.items()}
                results |= {
                    (plan.parent.name, step): file.stat().st_mtime_ns
                    for step, file in found.items()
                    if file.exists()
                }
        return Kept(self.count_commits(), current.read_text().split() if current.exists() else [], results)

    def count_commits(self) -> int:
        """How many commits have been read."""
        file = self.state / "history.db"
        if not file.exists():
            return 0
        with closing(sqlite3.connect(file, timeout=30)) as store:
            tables = store.execute("SELECT count(*) FROM sqlite_master WHERE name = 'record'").fetchone()[0]
            return int(store.execute("SELECT count(*) FROM record").fetchone()[0]) if tables else 0

    # --- checks ---------------------------------------------------------------------------------------------

    def check_answer(self, question: subprocess.Popen[bytes] | None = None) -> None:
        """The installed model must answer."""
        question = question or self.start(["suggest", "HEAD", "--json"])
        out = self.expect_success(question, "suggest")
        if not question.returncode and not json.loads(out):
            self.report.failures.append("suggest offered nothing")

    def check_commit(self) -> None:
        """`git commit` must work with the hooks, and is taken back."""
        tip, file = self._git("rev-parse", "HEAD").strip(), self.clone / "killed.txt"
        file.write_text("A line that is committed and taken back.\n")
        self._git("add", file.name)
        try:
            self._git("commit", editor="sed -i '1s/^/Add a line\\n/'")
        except subprocess.CalledProcessError as error:
            self.report.failures.append(f"git commit ended with {error.returncode}: {error.stderr[-300:]}")
        self._git("reset", "-q", "--hard", tip)

    # --- everything -----------------------------------------------------------------------------------------

    def kill_many(self, kills: int, budgets: Iterator[str], longest: float, *, fresh: bool) -> None:
        """The first model, or none, the kills, and the run that is left alone."""
        began, asked = time.monotonic(), next(budgets)
        if not fresh:
            self.run("init", "--budget", asked)
            if self.report.failures:
                return
            print(f"the first init took {time.monotonic() - began:.0f} s", flush=True)
        longest = longest or time.monotonic() - began
        completed = True
        while len(self.report.steps) < kills:
            if completed:
                asked = next(budgets)
                self.begin(fresh=fresh)
            moment = self.dice.uniform(0.5, longest)
            completed = not self.kill_once(asked, moment)
            if completed:
                continue
            if not fresh:
                self.check_answer()
            self.check_commit()
            told = f"in {self.report.steps[-1]}, {self.count_commits():,} commits read"
            print(f"kill {len(self.report.steps)} at {moment:.1f} s, {told}", flush=True)
        began = time.monotonic()
        self.kill_once(asked, 1e6)  # which it does not need
        print(f"the last run, alone, took {time.monotonic() - began:.0f} s", flush=True)
        self.check_answer()
        if fresh:  # the hook has said that there was no model
            (self.state / "hook.log").unlink(missing_ok=True)
        self.run("doctor")

    def begin(self, *, fresh: bool) -> None:
        """The hooks, and with `fresh` nothing else of what earlier runs left."""
        if fresh:
            shutil.rmtree(self.state, ignore_errors=True)
        self.run("install", "--risk")

    def describe(self) -> Iterator[str]:
        """What was found, line by line."""
        report = self.report
        hit = {step: report.steps.count(step) for step in _STEPS if step in report.steps}
        yield f"{len(report.steps)} kills ({', '.join(f'{step} {n}' for step, n in hit.items())})"
        continued = len(report.steps) - len(report.pending)
        yield f"{continued} of them were followed by a run that went on from there"
        yield f"{report.completed} runs completed in between and at the end; {len(report.failures)} failures"
        yield from (f"  {failure}" for failure in report.failures)


def count_wanted(event: Event) -> int:
    """The commits that a run set out to read, where an event tells it; else 0."""
    found = re.match(r"[\d,]+/([\d,]+) commits", str(event["detail"]))
    return int(found[1].replace(",", "")) if found and event["step"] == "mine" else 0


def list_redone(before: Kept, after: Kept, events: Sequence[Event], missing: int) -> Iterator[str]:
    """What a run did anew, by its events, although it was there `before`; `missing` commits were not."""
    done = {step for _, step in before.results}
    for event in events:
        step, detail = str(event["step"]), str(event["detail"])
        if count_wanted(event) > missing:
            yield f"{detail} were to be read where {missing} were missing"
        if step == "train" and step in done and detail != "already trained":
            yield f"the model was trained ({detail})"
        if step == "labels" and "risk" in done:
            yield f"fixes were traced ({detail})"
    for (run, step), written in before.results.items():
        if after.results.get((run, step), written) != written:
            yield f"the result of {step} was written"


def _read_events(log: Path) -> Iterator[Event]:
    for line in log.read_text(errors="replace").splitlines():
        try:
            event = json.loads(line)
        except ValueError:  # a notice, or a line that the kill cut short
            continue
        if isinstance(event, dict) and "step" in event:
            yield event


def _has_ended(process: subprocess.Popen[bytes], seconds: float) -> bool:
    """Whether a process ends within so many seconds."""
    try:
        process.wait(max(0.0, seconds))
    except subprocess.TimeoutExpired:
        return False
    return True


def _is_group_gone(group: int) -> bool:
    until = time.monotonic() + _PATIENCE
    while time.monotonic() < until:
        try:
            os.killpg(group, 0)
        except ProcessLookupError:
            return True
        time.sleep(0.1)
    return False


def _list_budgets(budget: float, seed: int) -> Iterator[str]:
    """Nearly the same budget again and again, so that each run is one of its own."""
    for number in range(1000):
        yield f"{budget * (1 + seed / 100 + number / 10_000):.4f}"


def main() -> None:
    """Kill, and say what was found; exit code 1 where something was lost."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repo", nargs="?", type=Path)
    parser.add_argument("--generate", type=int, default=0, metavar="N")
    parser.add_argument("--in-place", action="store_true", help="kill in REPO itself, a clone")
    parser.add_argument("--fresh", action="store_true", help="kill before there is a first model")
    parser.add_argument("--kills", type=int, default=20)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--budget", type=float, default=1.0)
    parser.add_argument(
        "--longest", type=float, default=0.0, metavar="SECONDS",
        help="kill within so many seconds of a start (default: of as many as the first init took)",
    )  # fmt: skip
    parser.add_argument("--base", default="mini")
    args = parser.parse_args()
    if args.fresh and not args.longest:
        parser.error("--fresh needs --longest: how long a run is left alone at most")
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
        victim = Victim(clone, args.base, args.seed)
        budgets = _list_budgets(args.budget, args.seed)
        victim.kill_many(args.kills, budgets, args.longest, fresh=args.fresh)
    print(*victim.describe(), sep="\n")
    sys.exit(bool(victim.report.failures))


if __name__ == "__main__":
    main()
