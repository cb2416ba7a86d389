"""What every step costs at the size of a history: one table, and a log-log plot of cost against size.

    python tests/bench/bench_scale.py [--generate N ...] [--budgets 1 5] [--plot FILE] [REPO ...]
    python tests/bench/bench_scale.py --work DIR --results FILE --hooks 40
    python tests/bench/bench_scale.py --work DIR --results FILE --checkout FOLDER --generate N ...
    python tests/bench/bench_scale.py --budget-runs FILE
    python tests/bench/bench_scale.py --index 1000 1000000
    python tests/bench/bench_scale.py REPO --hook-sizes 2800 59000

Each history is cloned (its objects are shared) and measured in this order: `git log -p` to /dev/null, mining,
mining again, `gitpeft init` at each budget (and the seconds of it that count, after mining), `init` again,
`suggest`, `risk`, `status`, and `publish` to a file; then the hook on a staged change (p50 and p95), in all
histories in turns, so that the machine is as busy for one as for the other. The base is that of
`GITPEFT_BASE`, else the default one. `--generate N` adds a history of N commits that is made with `git
fast-import`: seeded, one path for five commits up to 200,000, changes of realistic sizes, one commit in seven
a fix of lines that are there. Peak memory is that of the command's own process: what git maps of its packs is
not ours. A time depends on what else the machine does: the load is printed in every row.

With `--results` a history is added to those in the file, and table and plot are of all; with `--work` clones
stay. `--checkout` measures the version in another folder, without the hook: its rows are called "before", and
its lines are dashed. `--budget-runs` prints the table of the `init` runs in a file, and which of them kept
their limits.
`--index` opens and asks indexes of so many commits, made of random terms, each time in a fresh process;
`--hook-sizes` runs the hook of a repository with its model, and its history so often in the index that it has
so many commits.
"""

import argparse
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Manifest
from gitpeft.cli.console import format_size
from gitpeft.cli.views import measure_folder
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.suggest.index_arrays import TermCounts, count_terms
from gitpeft.suggest.retrieval import CommitIndex

ROOT = Path(__file__).resolve().parents[2]
WORDS = (
    "cache",
    "parse",
    "token",
    "index",
    "stream",
    "author",
    "render",
    "merge",
    "config",
    "delta",
    "packet",
)
VERBS = ("Add", "Use", "Remove", "Handle", "Move", "Rename", "Check", "Avoid")
EPOCH = 1_100_000_000
MAX_PATHS, COMMITS_PER_PATH, FIX_EVERY, FILES_PER_FOLDER = 200_000, 5, 7, 40


@dataclass(slots=True)
class Measured:
    """One history: its size, and seconds, CPU seconds, MiB of memory and load of each step by name."""

    name: str
    commits: int
    seconds: dict[str, float] = field(default_factory=dict)
    cpu: dict[str, float] = field(default_factory=dict)
    memory: dict[str, float] = field(default_factory=dict)
    load: dict[str, float] = field(default_factory=dict)
    notes: dict[str, str] = field(default_factory=dict)
    left_out: dict[str, list[str]] = field(default_factory=dict)


# --- a generated history ------------------------------------------------------------------------------------


def write_history(commits: int, seed: int = 0) -> Iterator[bytes]:
    """A stream for `git fast-import`."""
    dice = random.Random(seed)
    paths = max(20, min(MAX_PATHS, commits // COMMITS_PER_PATH))
    content: dict[int, list[str]] = {}
    mark = 0
    for number in range(commits):
        fix = number % FIX_EVERY == FIX_EVERY - 1
        touched = []
        for _ in range(1 + min(9, int(dice.expovariate(1.2)))):
            file = int(paths * dice.random() ** 2 * min(1.0, (number + 20) / commits))
            lines = content.setdefault(file, [_write_line(dice) for _ in range(dice.randrange(5, 40))])
            for _ in range(1 + min(30, int(dice.expovariate(0.4)))):
                place = dice.randrange(len(lines) + 1)
                lines[place : place + dice.randrange(2)] = [_write_line(dice)]
            del lines[300:]
            mark += 1
            text = "\n".join(lines).encode() + b"\n"
            yield b"blob\nmark :%d\ndata %d\n%s\n" % (mark, len(text), text)
            touched.append((mark, _name_path(file)))
        verb = "Fix" if fix else dice.choice(VERBS)
        noun = f"{dice.choice(WORDS)} of {dice.choice(WORDS)} {dice.randrange(commits)}"
        who = int(40 * dice.random() ** 2)
        message = f"{verb} the {noun}".encode()
        mark += 1
        when = EPOCH + 600 * number
        yield b"commit refs/heads/main\nmark :%d\nauthor A%d <a%d@x.org> %d +0000\n" % (mark, who, who, when)
        yield b"committer A%d <a%d@x.org> %d +0000\ndata %d\n%s\n" % (who, who, when, len(message), message)
        yield b"".join(b"M 100644 :%d %s\n" % (blob, path.encode()) for blob, path in dict.fromkeys(touched))


def _name_path(file: int) -> str:
    # few files in a folder, as people have them: each commit writes the trees of its folders anew
    group = file // FILES_PER_FOLDER
    return f"src/{WORDS[group % 11]}/{WORDS[group // 11 % 11]}/p{group}/m{file}.py"


def _write_line(dice: random.Random) -> str:
    indent, name, called = "    " * dice.randrange(3), dice.choice(WORDS), dice.choice(WORDS)
    return f"{indent}{name}_{dice.randrange(400)} = {called}({dice.randrange(99)})"


def generate(folder: Path, commits: int) -> Path:
    """A bare repository with a generated history."""
    path = folder / f"generated-{commits}.git"
    if path.exists():
        return path
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(path)], check=True)
    # in a process of its own: the peak memory of a child counts that of its parent at the start
    writer = [sys.executable, __file__, "--write", str(commits)]
    with subprocess.Popen(writer, stdout=subprocess.PIPE, env=_make_environment()) as stream:
        command = ["git", "-C", str(path), "-c", "core.compression=1", "fast-import", "--quiet"]
        subprocess.run(command, stdin=stream.stdout, check=True)
    return path


# --- measuring ----------------------------------------------------------------------------------------------


def measure_step(found: Measured, step: str, command: Sequence[str], cwd: Path, root: Path = ROOT) -> bytes:
    """Run a command of the version in `root`, note what it took, and return what it printed."""
    start = time.monotonic()
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, env=_make_environment(root)) as process:
        assert process.stdout
        peaks: list[float] = [0.0]
        threading.Thread(target=_watch_memory, args=(process.pid, peaks), daemon=True).start()
        parts = iter(partial(process.stdout.read, 1 << 20), b"")
        output = b"".join(part for part in parts if step != "git log -p")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    found.seconds[step] = time.monotonic() - start
    found.cpu[step] = usage.ru_utime + usage.ru_stime
    found.memory[step] = max(peaks) or usage.ru_maxrss / 1024
    found.load[step] = os.getloadavg()[0]
    if process.returncode:
        found.notes[step] = f"exit {process.returncode}"
    print(f"{found.name}: {step}: {found.seconds[step]:.1f} s, load {found.load[step]:.1f}", file=sys.stderr)
    return output


def _watch_memory(pid: int, peaks: list[float]) -> None:
    """Note the MiB that a process had at its peak until it ends; /proc knows them."""
    try:
        while True:
            status = Path(f"/proc/{pid}/status").read_text(encoding="utf-8")
            peaks += [int(line.split()[1]) / 1024 for line in status.splitlines() if line.startswith("VmHWM")]
            time.sleep(0.05)
    except OSError:
        return


def _make_environment(root: Path = ROOT) -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": str(root), "GIT_EDITOR": "true"}


def measure_history(
    source: Path, folder: Path, budgets: Sequence[float], checkout: Path | None = None
) -> Measured:
    """All steps but the hook on a clone of a repository, with this version or that in another folder."""
    name = _name_history(source) + (BEFORE if checkout else "")
    clone = folder / name
    shutil.rmtree(clone, ignore_errors=True)
    subprocess.run(["git", "clone", "-q", "--shared", str(source), str(clone)], check=True)
    listed = subprocess.run(
        ["git", "rev-list", "--count", "HEAD"], cwd=clone, check=True, capture_output=True, text=True
    )
    found = Measured(name, int(listed.stdout))
    gitpeft = [sys.executable, "-m", "gitpeft"]
    measure = partial(measure_step, root=checkout or ROOT)
    measure(found, "git log -p", ["git", "log", "-p", "-M"], clone)
    measure(found, "mine", [*gitpeft, "mine"], clone)
    measure(found, "mine again", [*gitpeft, "mine"], clone)
    for minutes in budgets:
        step = f"init --budget {minutes:g}"
        told = measure(found, step, [*gitpeft, "init", "--budget", str(minutes), "--json"], clone)
        if told and (budget := json.loads(told).get("budget")):
            found.seconds[f"{step}, after mining"] = budget["seconds"]
            found.left_out[step] = budget["left_out"]
    measure(found, "init again", [*gitpeft, "init", "--budget", str(budgets[-1]), "--json"], clone)
    for step in ("suggest", "risk"):
        measure(found, step, [*gitpeft, step, "HEAD"], clone)
    measure(found, "status", [*gitpeft, "status"], clone)
    bundle = folder / f"{found.name}.bundle"
    measure(found, "publish", [*gitpeft, "publish", "--no-sign", "--to", str(bundle)], clone)
    state = clone / ".git" / "gitpeft"
    models = [path for path in (state / "models").iterdir() if path.is_dir()]
    found.notes["disk"] = (
        f"{format_size(measure_folder(state))}, of it a model {format_size(measure_folder(models[0]))}"
    )
    found.notes["published"] = format_size(bundle.stat().st_size) if bundle.exists() else ""
    return found


def _name_history(source: Path) -> str:
    return source.parent.name if source.name == "repo" else source.name.removesuffix(".git")


class HookTrial:
    """The hook in one clone: the time of `git commit` up to the editor, each with another staged change."""

    def __init__(self, clone: Path) -> None:
        self._clone = clone
        listed = subprocess.run(["git", "ls-files", "-z"], cwd=clone, check=True, capture_output=True).stdout
        files = [clone / os.fsdecode(name) for name in listed.split(b"\0") if name]
        self._texts = [path for path in files if path.suffix in SOURCES and path.is_file()]
        self._dice = random.Random(1)
        # what an answer takes is the question, not whether it comes in time on a busy machine, or fits
        subprocess.run(["git", "config", "gitpeft.timeoutMs", "30000"], cwd=clone, check=True)
        subprocess.run(["git", "config", "gitpeft.minScore", "0"], cwd=clone, check=True)
        self.seconds: list[float] = []
        self.silent = 0

    def run(self, number: int, *, counts: bool = True) -> None:
        """Stage a change, run the hook, and put everything back; without `counts` only to warm caches.

        A hook that fails, or that writes a line to its log, would count as a fast one: it ends the trial.
        """
        path, message = self._dice.choice(self._texts), self._clone / ".git" / "COMMIT_EDITMSG"
        before = path.read_bytes()
        path.write_bytes(before + b"\nvalue_%d = cache(%d)\n" % (number, number))
        quiet = os.environ | {"GITPEFT": "0"}  # nothing is to be worked out ahead
        subprocess.run(["git", "add", str(path)], cwd=self._clone, check=True, env=quiet)
        message.write_bytes(b"\n")
        # an editor in which a message can be read: else the hook is silent
        environment = _make_environment() | {"GIT_EDITOR": "vi", "CI": ""}
        hook = str(self._clone / ".git" / "hooks" / "prepare-commit-msg")
        logged, start = self._read_log(), time.monotonic()
        code = subprocess.run(
            [hook, str(message)], cwd=self._clone, check=False, env=environment, stderr=subprocess.DEVNULL
        ).returncode
        seconds, failed = time.monotonic() - start, self._read_log().removeprefix(logged)
        path.write_bytes(before)
        subprocess.run(["git", "reset", "-q"], cwd=self._clone, check=True, env=quiet)
        if code or failed:
            raise SystemExit(f"the hook of {self._clone} ended with {code}: {failed.strip()}")
        if counts:
            self.seconds.append(seconds)
            self.silent += message.read_bytes() == b"\n"

    def _read_log(self) -> str:
        """What the hook had to complain of so far."""
        log = self._clone / ".git" / "gitpeft" / "hook.log"
        return log.read_text("utf-8", "replace") if log.exists() else ""


SOURCES = (".py", ".c", ".h", ".rb", ".go", ".js")


def measure_hooks(rows: Sequence[Measured], clones: Path, times: int) -> None:
    """The hook in all clones in turns; what it took goes into their rows."""
    trials = {one.name: HookTrial(clones / one.name) for one in rows if (clones / one.name).is_dir()}
    for number in range(times + 1):
        for one in trials.values():
            one.run(number, counts=number > 0)
    for row in rows:
        if row.name not in trials or not trials[row.name].seconds:
            continue
        trial = trials[row.name]
        for name, share in (("hook p50", 0.5), ("hook p95", 0.95)):
            place = int(share * (len(trial.seconds) - 1))
            row.seconds[name] = sorted(trial.seconds)[place]
            row.load[name] = os.getloadavg()[0]
        row.notes["hook, silent"] = f"{trial.silent} of {len(trial.seconds)}"


# --- an index alone -----------------------------------------------------------------------------------------

_TERMS_PER_COMMIT, _DISTINCT_TERMS = 60, 30
ASK_INDEX = """
import json, sys, time
from pathlib import Path
import numpy as np
from gitpeft.bundle.bundle import open_active_bundle
from gitpeft.suggest.retrieval import CommitIndex
bundle = open_active_bundle(Path(sys.argv[1]))
spent = [time.perf_counter()]
index = CommitIndex.load_from_bundle(bundle)
spent.append(time.perf_counter())
dice = np.random.default_rng(int(sys.argv[2]))
terms = np.unique(np.minimum(dice.zipf(1.3, 60), 1 << 30)).astype(np.uint32) * np.uint32(2654435761)
found = index.find_nearest_by_terms(terms, np.ones(len(terms), np.uint32), 10)
spent.append(time.perf_counter())
print(json.dumps([spent[1] - spent[0], spent[2] - spent[1], len(found)]))
"""


def build_random_index(state: Path, commits: int) -> int:
    """A bundle of an index alone, of commits with terms by Zipf's law; its bytes."""
    import numpy as np

    dice = np.random.default_rng(0)
    parts = []
    for start in range(0, commits, 10_000):
        rows = min(10_000, commits - start)
        drawn = np.minimum(dice.zipf(1.3, (rows, _TERMS_PER_COMMIT)), 1 << 30).astype(np.uint32)
        parts += [np.unique(row)[-_DISTINCT_TERMS:] for row in drawn * np.uint32(2654435761)]
    lengths = np.array([len(part) for part in parts], dtype=np.int32)
    terms = np.concatenate(parts)
    counted = TermCounts(terms, np.ones(len(terms), dtype=np.uint32), lengths)
    subjects = (f"Add the {WORDS[number % 11]} of {number}" for number in range(commits))
    index = CommitIndex.build_from_counts(
        counted, subjects, [""] * commits, (f"{number:040x}" for number in range(commits))
    )
    with bundles.staging_folder(state) as folder:
        (folder / bundles.INDEX_FOLDER).mkdir()
        index.save(folder / bundles.INDEX_FOLDER)
        (folder / bundles.STYLE_FILE).write_text("{}")
        (folder / bundles.RISK_MODEL_FILE).write_text("{}")
        id_ = bundles.write_bundle(folder, Manifest("retrieval", ""))
    bundles.activate_bundle(state, id_)
    return measure_folder(state)


def give_repeated_index(clone: Path, commits: int) -> None:
    """Give the active model an index of so many commits: those of its history, again and again."""
    import numpy as np

    repo = Repository.open(clone)
    bundle = bundles.require_active_bundle(repo.state_dir)
    with History.open(repo.state_dir) as history:
        records = history.load_records(repo)
    counted = count_terms(record.change for record in records)
    times = -(-commits // len(records))
    tiled = TermCounts(
        np.tile(counted.terms, times), np.tile(counted.counts, times), np.tile(counted.lengths, times)
    )
    subjects = [f"{record.subject} {turn}" for turn in range(times) for record in records]
    shas = (f"{number:040x}" for number in range(len(subjects)))
    index = CommitIndex.build_from_counts(tiled, subjects, [""] * len(subjects), shas)
    with bundles.staging_folder(repo.state_dir) as folder:
        for name in bundle.manifest.files:
            if not name.startswith(f"{bundles.INDEX_FOLDER}/"):
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(bundle.read(name))
        (folder / bundles.INDEX_FOLDER).mkdir()
        index.save(folder / bundles.INDEX_FOLDER)
        id_ = bundles.write_bundle(folder, bundle.manifest)
    bundles.activate_bundle(repo.state_dir, id_)


def measure_hook_sizes(clone: Path, sizes: Sequence[int], times: int) -> Iterator[str]:
    """Rows of a table: the hook of one repository with its model, in turns, by the commits in its index."""
    with tempfile.TemporaryDirectory() as scratch:
        trials = {}
        for commits in sizes:
            copy = Path(scratch).resolve() / str(commits)
            shutil.copytree(clone, copy, symlinks=True)
            give_repeated_index(copy, commits)
            trials[commits] = HookTrial(copy)
        for number in range(times + 1):
            for one in trials.values():
                one.run(number, counts=number > 0)
    for commits, trial in trials.items():
        spent = sorted(trial.seconds)
        middle, late = (1000 * spent[int(share * (times - 1))] for share in (0.5, 0.95))
        offered = f"{times - trial.silent} of {times}"
        yield f"| {commits:,} | {middle:.0f} | {late:.0f} | {offered} | {os.getloadavg()[0]:.0f} |"


def measure_index(commits: int, times: int) -> str:
    """A row of a table: to open an index, and to find ten neighbours, in fresh processes."""
    with tempfile.TemporaryDirectory() as scratch:
        size = build_random_index(Path(scratch), commits)
        found = [
            json.loads(
                subprocess.run(
                    [sys.executable, "-c", ASK_INDEX, scratch, str(number)],
                    check=True, capture_output=True, env=_make_environment(),
                ).stdout
            )
            for number in range(times)
        ]  # fmt: skip
    opened, asked = sorted(one[0] for one in found), sorted(one[1] for one in found)
    middle, late = times // 2, int(0.95 * (times - 1))
    figures = [f"{1000 * one:.1f}" for one in (opened[middle], opened[late], asked[middle], asked[late])]
    return (
        f"| {commits:,} | {format_size(size)} | " + " | ".join([*figures, f"{os.getloadavg()[0]:.0f}"]) + " |"
    )


# --- the report ---------------------------------------------------------------------------------------------


def format_table(rows: Sequence[Measured]) -> str:
    """A markdown table: a line for each step, a column for each history."""
    rows = sorted(rows, key=lambda one: one.commits)
    steps = dict.fromkeys(step for one in rows for step in one.seconds)
    lines = ["| | " + " | ".join(f"{one.name}, {one.commits:,} commits" for one in rows) + " |"]
    lines.append("|---|" + "---:|" * len(rows))
    lines += [f"| {step} | " + " | ".join(_format_cell(one, step) for one in rows) + " |" for step in steps]
    rows = [one for one in rows if one.seconds]
    ratios = [f"{one.seconds['mine'] / one.seconds['git log -p']:.2f}" for one in rows]
    lines.append("| mine / `git log -p` | " + " | ".join(ratios) + " |")
    for note in ("disk", "published", "hook, silent"):
        lines.append(f"| {note} | " + " | ".join(one.notes.get(note, "") for one in rows) + " |")
    return "\n".join(lines)


def list_left_out(rows: Sequence[Measured]) -> Iterator[str]:
    """What the budgets were too short for, a line for each."""
    for one in rows:
        for step, what in one.left_out.items():
            yield f"{one.name}, {step}: {'; '.join(what) or 'nothing left out'}"


def _format_cell(one: Measured, step: str) -> str:
    if step not in one.seconds:
        return ""
    parts = [f"{one.seconds[step]:.2f} s" if one.seconds[step] < 10 else f"{one.seconds[step]:.0f} s"]
    if step.endswith("after mining"):
        return parts[0]
    if step in one.cpu:
        parts.append(f"{one.cpu[step]:.0f} s CPU, {one.memory[step]:.0f} MiB")
    return ", ".join(
        [*parts, f"load {one.load.get(step, 0):.0f}", *filter(None, [one.notes.get(step, "")[:9]])]
    )


BEFORE = ", before"
WIDTH, HEIGHT, MARGIN, LABEL_WIDTH, LABEL_HEIGHT = 860, 520, 60, 190, 15
# not those of gitpeft.learn.charts: the peak memory of a command counts that of this process at its start
COLOURS = (
    *("#3b6fb6", "#d9822b", "#3f9142", "#b6403b", "#7a5aa6", "#8a6d3b", "#c56fa0", "#566070"),
    *("#1a9a9a", "#a3a61c", "#222222"),
)
_UNDRAWN = ("init again", "hook p95")


@dataclass(frozen=True, slots=True)
class Axes:
    """Powers of ten, from first to last, of commits (to the right) and of seconds (upwards)."""

    commits: tuple[int, int]
    seconds: tuple[int, int]

    def place(self, commits: float, seconds: float) -> tuple[float, float]:
        """The pixel of a point."""
        (first, last), (low, high) = self.commits, self.seconds
        x = (math.log10(commits) - first) / max(1, last - first)
        y = (math.log10(max(1e-3, seconds)) - low) / max(1, high - low)
        width, height = WIDTH - MARGIN - LABEL_WIDTH, HEIGHT - 2 * MARGIN
        return MARGIN + x * width, HEIGHT - MARGIN - y * height

    def draw(self) -> Iterator[str]:
        """A grid with its numbers."""
        for power in range(self.commits[0], self.commits[1] + 1):
            (x, bottom), (_, top) = (self.place(10**power, 10.0**end) for end in self.seconds)
            yield f'<path d="M{x:.1f} {bottom:.1f}V{top:.1f}" stroke="#e4e7eb"/>'
            yield f'<text x="{x:.1f}" y="{bottom + 20:.1f}" text-anchor="middle">{10**power:,}</text>'
        for power in range(self.seconds[0], self.seconds[1] + 1):
            (left, y), (right, _) = (self.place(10.0**end, 10.0**power) for end in self.commits)
            yield f'<path d="M{left:.1f} {y:.1f}H{right:.1f}" stroke="#e4e7eb"/>'
            yield f'<text x="{left - 8:.1f}" y="{y + 4:.1f}" text-anchor="end">{10.0**power:g} s</text>'


def draw_plot(rows: Sequence[Measured]) -> str:
    """Seconds against commits as SVG, both logarithmic; a line for each step.

    Lines of an earlier version are dashed and have no name of their own, only the colour of their step.
    """
    rows = sorted(rows, key=lambda one: one.commits)
    steps = list(dict.fromkeys(step for one in rows for step in one.seconds))
    steps = [step for step in steps if step not in _UNDRAWN and f"{step}, after mining" not in steps]
    sizes = [math.log10(one.commits) for one in rows]
    spent = [
        math.log10(max(1e-3, one.seconds[step])) for one in rows for step in steps if step in one.seconds
    ]
    axes = Axes(
        (math.floor(min(sizes)), math.ceil(max(sizes))), (math.floor(min(spent)), math.ceil(max(spent)))
    )
    drawn, labels = list(axes.draw()), list[tuple[float, float, str, str]]()
    for number, step in enumerate(steps):
        colour = COLOURS[number % len(COLOURS)]
        for kind in ("", BEFORE):
            points = [
                axes.place(one.commits, seconds)
                for one in rows
                if (seconds := _find_seconds(one, step)) and one.name.endswith(BEFORE) == bool(kind)
            ]
            if points:
                line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
                dashes = ' stroke-dasharray="5 4"' if kind else ""
                drawn.append(f'<polyline points="{line}" fill="none" stroke="{colour}"{dashes}/>')
                drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
                if not kind:
                    labels.append((points[-1][1], points[-1][0], step, colour))
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-size="12"'
    head += ' font-family="sans-serif" fill="#566070">'
    body = [f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>', *drawn, *_draw_labels(labels)]
    return "\n".join([head, *body, "</svg>"]) + "\n"


def _find_seconds(row: Measured, step: str) -> float | None:
    """The seconds of a step; earlier versions of `init` do not tell which came after mining, which is nearly
    all of them where the history had been read."""
    return row.seconds.get(step) or row.seconds.get(step.removesuffix(", after mining"))


def _draw_labels(labels: Sequence[tuple[float, float, str, str]]) -> Iterator[str]:
    """The names of lines, each (y, x, name, colour), from above and none over another."""
    free = 0.0
    for y, x, name, colour in sorted(labels):
        at = max(y + 4, free)
        free = at + LABEL_HEIGHT
        yield f'<text x="{x + 8:.1f}" y="{at:.1f}" fill="{colour}">{name}</text>'


def format_budget_runs(runs: Sequence[dict[str, Any]]) -> str:
    """A markdown table: a line for each run of `init`, with the limit that it has by its size."""
    lines = [
        "| history | commits | base | budget, s | reading | after | both | limit | MiB | load | left out |",
        "|---|---:|---|---:|---:|---:|---:|---:|---:|---:|---|",
    ]
    for run in sorted(runs, key=lambda one: (one["budget"], one["commits"])):
        left_out = "; ".join(run["left_out"]).replace("tuned half way", "half tuned") or "nothing"
        load = " to ".join(f"{one:.0f}" for one in run["load"])
        seconds = [
            60 * run["budget"],
            run["mine"],
            run["after_mining"],
            _measure_whole(run),
            _find_limit(run),
        ]
        cells = [run["name"], f"{run['commits']:,}", run["base"], *(f"{one:.0f}" for one in seconds)]
        lines.append("| " + " | ".join([*cells, f"{run['memory']:.0f}", load, left_out]) + " |")
    kept = sum(map(is_budget_kept, runs))
    return "\n".join([*lines, "", f"{kept} of {len(runs)} runs ended within their limits"])


_TOLERATED_SHARE, _SMALL_HISTORY, _WHOLE_SHARES = 1.1, 10_000, (1.3, 2.0)
"""A budget may be exceeded by a tenth. Reading the history included, a run of a small one may take 1.3 times
its budget, of a larger one twice as long."""


def is_budget_kept(run: dict[str, Any]) -> bool:
    """Whether a run ended within its budget, and with reading the history within its limit."""
    in_budget = run["after_mining"] <= _TOLERATED_SHARE * 60 * run["budget"]
    return bool(in_budget and _measure_whole(run) <= _find_limit(run))


def _measure_whole(run: dict[str, Any]) -> float:
    return float(run["mine"] + run["after_mining"])


def _find_limit(run: dict[str, Any]) -> float:
    return float(_WHOLE_SHARES[run["commits"] > _SMALL_HISTORY] * 60 * run["budget"])


def run_budget(source: Path, clones: Path, minutes: float) -> dict[str, Any]:
    """`gitpeft init` on a fresh clone that has been mined: what it took, by step, and what it left out."""
    name = _name_history(source)
    clone = clones / f"{name}-{minutes:g}"
    shutil.rmtree(clone, ignore_errors=True)
    subprocess.run(["git", "clone", "-q", "--shared", str(source), str(clone)], check=True)
    counted = subprocess.run(
        ["git", "rev-list", "--count", "HEAD"], cwd=clone, check=True, capture_output=True
    ).stdout
    found, gitpeft = Measured(name, int(counted)), [sys.executable, "-m", "gitpeft"]
    measure_step(found, "mine", [*gitpeft, "mine"], clone)
    loads = [os.getloadavg()[0]]
    told = json.loads(
        measure_step(found, "init", [*gitpeft, "init", "--budget", f"{minutes:g}", "--json"], clone)
    )
    loads.append(os.getloadavg()[0])
    return {
        "name": name, "commits": found.commits, "budget": minutes, "base": told["base"],
        "after_mining": told["budget"]["seconds"], "left_out": told["budget"]["left_out"], "load": loads,
        "steps": told["seconds"], "cpu": found.cpu["init"], "memory": found.memory["init"],
        "mine": found.seconds["mine"],
    }  # fmt: skip


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repos", nargs="*", type=Path)
    parser.add_argument("--generate", nargs="*", type=int, default=[], metavar="N")
    parser.add_argument("--budgets", nargs="*", type=float, default=[1.0, 5.0])
    parser.add_argument("--hooks", type=int, default=20, help="how often the hook runs")
    parser.add_argument("--plot", type=Path, help="write the plot there, as SVG")
    parser.add_argument("--work", type=Path, help="a folder in which histories and clones stay")
    parser.add_argument("--results", type=Path, help="a file to which rows are added")
    parser.add_argument("--checkout", type=Path, help="measure the version in this folder")
    parser.add_argument("--budget-runs", type=Path, help="a file to which `init` runs are added")
    parser.add_argument("--index", nargs="*", type=int, default=[], metavar="N")
    parser.add_argument("--hook-sizes", nargs="*", type=int, default=[], metavar="N")
    parser.add_argument("--write", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        for part in write_history(args.write):
            sys.stdout.buffer.write(part)
        return
    with tempfile.TemporaryDirectory() as scratch:
        folder = (args.work or Path(scratch)).resolve()
        clones = folder / "clones"
        clones.mkdir(parents=True, exist_ok=True)
        if args.index:
            print("| commits | files | opened, ms: p50 | p95 | ten found, ms: p50 | p95 | load |")
            print("|---:|---:|---:|---:|---:|---:|---:|")
            for count in args.index:
                print(measure_index(count, args.hooks), flush=True)
            return
        if args.hook_sizes:
            print("| commits in the index | hook p50, ms | p95 | offered | load |")
            print("|---:|---:|---:|---:|---:|")
            print(*measure_hook_sizes(args.repos[0].resolve(), args.hook_sizes, args.hooks), sep="\n")
            return
        sources = [*(generate(folder, count) for count in args.generate), *args.repos]
        sources = [source.resolve() for source in sources]
        if args.budget_runs:
            _add_budget_runs(args.budget_runs, sources, clones, args.budgets)
        else:
            _add_rows(args, sources, clones)


def _add_budget_runs(file: Path, sources: Sequence[Path], clones: Path, budgets: Sequence[float]) -> None:
    runs = [json.loads(line) for line in file.read_text().splitlines()] if file.exists() else []
    for source in sources:
        for minutes in budgets:
            runs.append(run_budget(source, clones, minutes))
            file.write_text("".join(json.dumps(run) + "\n" for run in runs))
    print(format_budget_runs(runs))
    if not all(map(is_budget_kept, runs)):
        sys.exit(1)


def _add_rows(args: argparse.Namespace, sources: Sequence[Path], clones: Path) -> None:
    known = args.results.read_text().splitlines() if args.results and args.results.exists() else []
    rows = [Measured(**json.loads(line)) for line in known]
    for source in sources:  # after each, because the next may take hours
        found = measure_history(source, clones, args.budgets, args.checkout)
        rows = [*(one for one in rows if one.name != found.name), found]
        _report(args, rows)
    if args.hooks and not args.checkout:
        measure_hooks(rows, clones, args.hooks)
        _report(args, rows)


def _report(args: argparse.Namespace, rows: Sequence[Measured]) -> None:
    if args.results:
        args.results.write_text("".join(json.dumps(asdict(one)) + "\n" for one in rows))
    print(format_table(rows), *list_left_out(rows), sep="\n", flush=True)
    if args.plot:
        args.plot.write_text(draw_plot(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
