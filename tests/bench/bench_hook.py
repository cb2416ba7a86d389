"""Time from `git commit` to the editor: without a hook, on the fast path, worked ahead, cached, and cold.

    python tests/bench/bench_hook.py                a random model of the embedded base's shape
    python tests/bench/bench_hook.py --repo PATH    the active model of a repository

The cases are measured in turns, so that a busy machine is busy for all of them. Times are milliseconds; the
first round does not count. The split of a cold run comes from the hook's own trace. "Worked ahead" is a
commit two seconds after `git add` in a terminal. `git add` is timed in a loop of the shell, with and without
the hook.
"""

import argparse
import json
import os
import platform
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gitpeft.bundle.bundle import read_active_id
from gitpeft.config import load_config
from gitpeft.git.repository import Repository
from gitpeft.hooks import stubs
from gitpeft.hooks.install import install_hooks
from gitpeft.suggest import cache, service
from gitpeft.suggest.suggestion import ModelAnswer, Suggestion
from tests.support.hooking import make_python
from tests.support.terminal import open_terminal, run_on_terminal

AHEAD_SECONDS = 2.0
"""Seconds between staging and committing for which the answer is to be there."""

ADDS = 40
"""Runs of `git add`, or of the hook, that are timed together."""

ADD_LOOP = 'n=0; while [ $n -lt {adds} ]; do n=$((n + 1)); echo "$1 $n" >timed; git {options} add timed; done'
HOOK_LOOP = 'n=0; while [ $n -lt {adds} ]; do n=$((n + 1)); : >"$2"; {command}; done'

EDITOR = '#!/bin/sh\ndate +%s%N >"$OPENED"\nexit 1\n'
IDENTITY = {"GIT_AUTHOR_NAME": "A", "GIT_AUTHOR_EMAIL": "a@example.org", "GIT_CONFIG_NOSYSTEM": "1"}
IDENTITY |= {
    "GIT_COMMITTER_NAME": "A",
    "GIT_COMMITTER_EMAIL": "a@example.org",
    "GIT_CONFIG_GLOBAL": os.devnull,
}


class Bench:
    """A repository in which commits are begun, and stopped as soon as the editor opens."""

    def __init__(self, folder: Path, source: Path | None) -> None:
        self.path, self.folder = folder / "repo", folder
        self.editor = folder / "editor"
        self.editor.write_text(EDITOR)
        self.editor.chmod(0o755)
        self.env = {
            **os.environ,
            **IDENTITY,
            "GIT_EDITOR": str(self.editor),
            "OPENED": str(folder / "opened"),
        }
        self.env |= {"GITPEFT_TRACE": str(folder / "trace")}
        self.env.pop("CI", None)
        os.environ.update(IDENTITY)  # what is put into the cache here must be asked for there
        subprocess.run(["git", "init", "-q", str(self.path)], env=self.env, check=True)
        self.count = 0
        self.stage()
        self.git("commit", "-q", "-m", "Start")
        self.repo = Repository.open(self.path)
        hooks = (stubs.SUGGESTION_HOOK, stubs.AHEAD_HOOK)
        install_hooks(self.repo, hooks=hooks, python=make_python(folder / "python", fake=False))
        self.give_model(source)
        self.git("config", "gitpeft.timeoutMs", "20000")

    def git(self, *args: str) -> int:
        done = subprocess.run(["git", *args], cwd=self.path, env=self.env, capture_output=True, check=False)
        return done.returncode

    def give_model(self, source: Path | None) -> None:
        state = self.repo.state_dir
        if source is not None:
            theirs = Repository.open(source).state_dir
            state.mkdir(exist_ok=True)
            shutil.copytree(theirs / "models", state / "models")
            shutil.copy(theirs / "current", state / "current")
            return
        from tests.support import tinymodel

        shape = {"vocab_size": 16384, "d_model": 256, "d_kv": 32, "d_ff": 1024, "num_heads": 8}
        model = tinymodel.pointer_t5(**shape, num_layers=4, num_decoder_layers=2)
        for weight in model.parameters():  # smaller, or rounding alone would fail the parity gate
            weight.data.mul_(0.2)
        tinymodel.bundle(state, model)

    def on_terminal(self, *command: str) -> None:
        with open_terminal() as terminal:
            done = run_on_terminal(command, terminal, self.path, self.env)
        assert done.returncode == 0, done.stderr

    def stage(self) -> None:
        """A change of about 60 lines in three files that was never there before; nothing works ahead."""
        self.write_change()
        subprocess.run(["git", "add", "-A"], cwd=self.path, env={**self.env, "GITPEFT": "0"}, check=True)

    def write_change(self) -> None:
        self.count += 1
        dice = random.Random(self.count)
        for name in ("parser.py", "cache.py", "tests/test_parser.py"):
            words = ("return", "cache", "parse", "token", "self", "value", "index", "text")
            lines = [
                f"    {dice.choice(words)}_{dice.randrange(99)} = {dice.choice(words)}()" for _ in range(20)
            ]
            (self.path / name).parent.mkdir(exist_ok=True)
            (self.path / name).write_text(f"def step_{self.count}():\n" + "\n".join(lines) + "\n")

    def to_editor(self, *options: str) -> float:
        """Milliseconds from the start of `git commit` until the editor runs."""
        (self.folder / "opened").unlink(missing_ok=True)
        started = time.time_ns()
        self.git(*options, "commit")
        return (int((self.folder / "opened").read_text()) - started) / 1e6

    def without(self) -> float:
        self.stage()
        return self.to_editor("-c", "core.hooksPath=/dev/null")

    def fast(self) -> float:
        """The whole of the hook for a commit that needs no message."""
        hook = str(self.repo.find_hooks_dir() / "prepare-commit-msg")
        started = time.perf_counter()
        subprocess.run([hook, ".git/COMMIT_EDITMSG", "message"], cwd=self.path, env=self.env, check=True)
        return (time.perf_counter() - started) * 1e3

    def cached(self) -> float:
        asked = service.build_staged_request(self.repo, load_config(self.repo))
        state = self.repo.state_dir
        name = asked.get_cache_key(read_active_id(state))
        messages = ("Teach the parser about tabs", "Accept tabs", "Allow tabs")
        answer = ModelAnswer([Suggestion(message) for message in messages])
        cache.store_cached_answer(state, name, answer)
        return self.to_editor()

    def worked_ahead(self) -> float:
        self.write_change()
        self.on_terminal("git", "add", "-A")
        time.sleep(AHEAD_SECONDS)
        return self.to_editor()

    def time_adds(self, *options: str) -> float:
        """Milliseconds of one `git add` in a terminal."""
        program = ADD_LOOP.format(adds=ADDS, options=" ".join(options))
        return self._time_loop(program) / ADDS

    def time_hook(self, command: str) -> float:
        """Milliseconds of one call of the hook, or of another command; nothing is under way then."""
        program = HOOK_LOOP.format(adds=ADDS, command=command)
        return self._time_loop(program) / ADDS

    def _time_loop(self, program: str) -> float:
        self.wait_until_idle()
        mark = str(self.repo.state_dir / "ahead" / ".git.pid")
        with open_terminal() as terminal:
            started = time.perf_counter()
            command = ["sh", "-c", program, "sh", str(time.time_ns()), mark]
            run_on_terminal(command, terminal, self.path, self.env)
            taken = time.perf_counter() - started
        self.wait_until_idle()
        return taken * 1e3

    def wait_until_idle(self) -> None:
        """Until nothing works ahead any more."""
        while any(path.read_text() for path in (self.repo.state_dir / "ahead").glob("*.pid")):
            time.sleep(0.1)
        time.sleep(0.5)

    def cold(self) -> float:
        self.stage()
        return self.to_editor()

    def steps(self) -> dict[str, list[float]]:
        """The split of the cold runs, by step."""
        found: dict[str, list[float]] = {}
        log = self.repo.state_dir / "hook.log"
        if log.exists():
            sys.exit(f"the hook failed:\n{log.read_text()[-500:]}")
        for line in (self.folder / "trace").read_text().splitlines():
            moments = json.loads(line)
            if "answer" not in moments:
                continue
            pairs = {
                "git commands": (moments["hook"], moments["change"]),
                "child: start to model opened": (moments["started"], moments["loaded"]),
                "child: waiting for the request": (moments["loaded"], moments["requested"]),
                "child: answering": (moments["requested"], moments["answered"]),
                "answer in transit": (moments["answered"], moments["answer"]),
                "ranking, writing": (moments["answer"], moments["done"]),
                "hook, total": (moments["hook"], moments["done"]),
            }
            for step, (begin, end) in pairs.items():
                found.setdefault(step, []).append((end - begin) * 1e3)
            for step, taken in (moments.get("timings") or {}).items():
                found.setdefault(f"model: {step}", []).append(taken)
        return found


def rebase(bench: Bench, commits: int) -> tuple[float, float]:
    """Seconds for a rebase of that many commits, with and without the hook."""
    for n in range(commits):
        (bench.path / f"file{n}").write_text(f"{n}\n")
        bench.git("add", "-A")
        bench.git("commit", "-q", "-m", f"Commit {n}")

    def once(*options: str) -> float:
        started = time.perf_counter()
        code = bench.git(*options, "rebase", "-q", "--force-rebase", f"HEAD~{commits}")
        assert code == 0
        return time.perf_counter() - started

    off = ("-c", "core.hooksPath=/dev/null")
    once(*off)
    pairs = [(once(), once(*off)) for _ in range(3)]
    return statistics.median(p[0] for p in pairs), statistics.median(p[1] for p in pairs)


def print_add_times(bench: Bench, rounds: int) -> None:
    """`git add` with and without the hook, and the hook alone beside a shell that does nothing."""
    hook = str(bench.repo.find_hooks_dir() / stubs.AHEAD_HOOK)
    cases: dict[str, Callable[[], float]] = {
        "git add": bench.time_adds,
        "git add, no hook": lambda: bench.time_adds("-c", "core.hooksPath=/dev/null"),
        "the hook, starting work": lambda: bench.time_hook(f"'{hook}' 0 0"),
        "the hook, after a checkout": lambda: bench.time_hook(f"'{hook}' 1 0"),
        "sh -c :": lambda: bench.time_hook("sh -c :"),
    }
    times: dict[str, list[float]] = {name: [] for name in cases}
    for _ in range(rounds):
        for name, case in cases.items():
            times[name].append(case())
    print(f"\n{rounds} rounds of {ADDS}\n\n| ms each | p50 | p95 |\n|---|---|---|")
    for name, values in times.items():
        print(row(name, values))
    ratio = statistics.median(times["git add"]) / statistics.median(times["git add, no hook"])
    print(f"\n`git add` with the hook takes {ratio:.2f} times as long")


def row(name: str, times: Sequence[float]) -> str:
    ordered = sorted(times)
    p95 = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    return f"| {name} | {statistics.median(ordered):.1f} | {p95:.1f} |"


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repo", type=Path, help="take the active model of this repository")
    parser.add_argument("--commits", type=int, default=50)
    parser.add_argument("--adds", type=int, default=7, help="rounds of git add, 0 for none")
    parser.add_argument("--rebase", type=int, default=100, help="commits to rebase, 0 for none")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        bench = Bench(Path(folder), options.repo)
        cases: dict[str, Callable[[], float]] = {
            "no hook, to the editor": bench.without,
            "fast path, the hook alone": bench.fast,
            "worked ahead, to the editor": bench.worked_ahead,
            "cached, to the editor": bench.cached,
            "cold, to the editor": bench.cold,
        }
        times: dict[str, list[float]] = {name: [] for name in cases}
        for turn in range(options.commits + 1):
            for name, case in cases.items():
                taken = case()
                if turn:
                    times[name].append(taken)
        print(f"{os.cpu_count()} cores, Python {platform.python_version()}, {options.commits} commits each\n")
        print("| ms | p50 | p95 |\n|---|---|---|")
        for name, values in {**times, **bench.steps()}.items():
            print(row(name, values))
        if options.adds:
            print_add_times(bench, options.adds)
        if options.rebase:
            with_hook, without = rebase(bench, options.rebase)
            print(f"\n{options.rebase} picks: {with_hook:.2f} s with the hook, {without:.2f} s without")
            extra = (with_hook - without) * 1e3 / options.rebase
            print(f"ratio {with_hook / without:.2f}, {extra:.1f} ms a pick")


if __name__ == "__main__":
    main()
