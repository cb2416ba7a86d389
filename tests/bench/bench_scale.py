"""What every step costs at the size of a history: one table, and a log-log plot of cost against size.

    python tests/bench/bench_scale.py [--generate N ...] [--budgets 1 5] [--plot FILE] [REPO ...]

Each history is cloned (its objects are shared) and measured in this order: `git log -p` to /dev/null, mining,
mining again, `gitpeft init` at each budget (and the seconds of it that count, after mining), `init` again,
`suggest`, `risk`, `status`, the hook on a staged change (p50 and p95), and `publish` to a file. The base is
that of `GITPEFT_BASE`, else the default one. `--generate N` adds a history of N commits that is made with
`git fast-import`: seeded, one path for five commits up to 200,000, changes of realistic sizes, one commit in
seven a fix of lines that are there. Peak memory is that of the largest process of a step. A time depends on
what else the machine does: the load is printed in every row.
"""

import argparse
import json
import math
import os
import random
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from gitpeft.cli.console import format_size
from gitpeft.cli.views import measure_folder

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
MAX_PATHS, COMMITS_PER_PATH, FIX_EVERY = 200_000, 5, 7


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
            touched.append((mark, f"src/{WORDS[file % 11]}/{WORDS[file // 11 % 11]}/m{file}.py"))
        verb = "Fix" if fix else dice.choice(VERBS)
        noun = f"{dice.choice(WORDS)} of {dice.choice(WORDS)} {dice.randrange(commits)}"
        who = int(40 * dice.random() ** 2)
        message = f"{verb} the {noun}".encode()
        mark += 1
        when = EPOCH + 600 * number
        yield b"commit refs/heads/main\nmark :%d\nauthor A%d <a%d@x.org> %d +0000\n" % (mark, who, who, when)
        yield b"committer A%d <a%d@x.org> %d +0000\ndata %d\n%s\n" % (who, who, when, len(message), message)
        yield b"".join(b"M 100644 :%d %s\n" % (blob, path.encode()) for blob, path in dict.fromkeys(touched))


def _write_line(dice: random.Random) -> str:
    indent, name, called = "    " * dice.randrange(3), dice.choice(WORDS), dice.choice(WORDS)
    return f"{indent}{name}_{dice.randrange(400)} = {called}({dice.randrange(99)})"


def generate(folder: Path, commits: int) -> Path:
    """A bare repository with a generated history."""
    path = folder / f"generated-{commits}.git"
    subprocess.run(["git", "init", "-q", "--bare", "-b", "main", str(path)], check=True)
    # in a process of its own: the peak memory of a child counts that of its parent at the start
    writer = [sys.executable, __file__, "--write", str(commits)]
    with subprocess.Popen(writer, stdout=subprocess.PIPE, env=_make_environment()) as stream:
        command = ["git", "-C", str(path), "fast-import", "--quiet"]
        subprocess.run(command, stdin=stream.stdout, check=True)
    return path


# --- measuring ----------------------------------------------------------------------------------------------


def measure(found: Measured, step: str, command: Sequence[str], cwd: Path) -> bytes:
    """Run a command, note what it took, and return what it printed."""
    start = time.monotonic()
    with subprocess.Popen(command, cwd=cwd, stdout=subprocess.PIPE, env=_make_environment()) as process:
        assert process.stdout
        parts = iter(partial(process.stdout.read, 1 << 20), b"")
        output = b"".join(part for part in parts if step != "git log -p")
        _, status, usage = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
    found.seconds[step] = time.monotonic() - start
    found.cpu[step] = usage.ru_utime + usage.ru_stime
    found.memory[step] = usage.ru_maxrss / 1024
    found.load[step] = os.getloadavg()[0]
    if process.returncode:
        found.notes[step] = f"exit {process.returncode}"
    print(f"{found.name}: {step}: {found.seconds[step]:.1f} s, load {found.load[step]:.1f}", file=sys.stderr)
    return output


def _make_environment() -> dict[str, str]:
    kept = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    return kept | {"PYTHONPATH": str(ROOT), "GIT_EDITOR": "true"}


def measure_history(source: Path, folder: Path, budgets: Sequence[float], hooks: int) -> Measured:
    """All steps on a clone of a repository."""
    clone = folder / source.name.removesuffix(".git")
    subprocess.run(["git", "clone", "-q", "--shared", str(source), str(clone)], check=True)
    listed = subprocess.run(
        ["git", "rev-list", "--count", "HEAD"], cwd=clone, check=True, capture_output=True, text=True
    )
    found = Measured(source.name, int(listed.stdout))
    gitpeft = [sys.executable, "-m", "gitpeft"]
    measure(found, "git log -p", ["git", "log", "-p", "-M"], clone)
    measure(found, "mine", [*gitpeft, "mine"], clone)
    measure(found, "mine again", [*gitpeft, "mine"], clone)
    for minutes in budgets:
        step = f"init --budget {minutes:g}"
        told = measure(found, step, [*gitpeft, "init", "--budget", str(minutes), "--json"], clone)
        if told:
            budget = json.loads(told)["budget"]
            found.seconds[f"{step}, after mining"] = budget["seconds"]
            found.left_out[step] = budget["left_out"]
    measure(found, "init again", [*gitpeft, "init", "--budget", str(budgets[-1]), "--json"], clone)
    for step in ("suggest", "risk"):
        measure(found, step, [*gitpeft, step, "HEAD"], clone)
    measure(found, "status", [*gitpeft, "status"], clone)
    _measure_hook(found, clone, hooks)
    bundle = folder / f"{found.name}.bundle"
    measure(found, "publish", [*gitpeft, "publish", "--no-sign", "--to", str(bundle)], clone)
    state = clone / ".git" / "gitpeft"
    models = [path for path in (state / "models").iterdir() if path.is_dir()]
    found.notes["disk"] = (
        f"{format_size(measure_folder(state))}, of it a model {format_size(measure_folder(models[0]))}"
    )
    found.notes["published"] = format_size(bundle.stat().st_size) if bundle.exists() else ""
    return found


def _measure_hook(found: Measured, clone: Path, times: int) -> None:
    """The time of `git commit` up to the editor, each with another staged change, without the commit."""
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=clone, check=True, capture_output=True).stdout
    files = [clone / os.fsdecode(name) for name in listed.split(b"\0") if name]
    texts = [path for path in files if path.suffix in (".py", ".c", ".h", ".rb", ".go") and path.is_file()]
    dice, spent = random.Random(1), []
    message = clone / ".git" / "COMMIT_EDITMSG"
    for number in range(times):
        path = dice.choice(texts)
        before = path.read_bytes()
        path.write_bytes(before + b"\nvalue_%d = cache(%d)\n" % (number, number))
        subprocess.run(["git", "add", str(path)], cwd=clone, check=True)
        message.write_bytes(b"\n")
        start = time.monotonic()
        subprocess.run(
            [str(clone / ".git" / "hooks" / "prepare-commit-msg"), str(message)], cwd=clone, check=False,
            env=_make_environment(), stderr=subprocess.DEVNULL,
        )  # fmt: skip
        spent.append(time.monotonic() - start)
        path.write_bytes(before)
        subprocess.run(["git", "reset", "-q"], cwd=clone, check=True)
    if spent:
        found.seconds["hook p50"] = statistics.median(spent)
        found.seconds["hook p95"] = sorted(spent)[int(0.95 * (len(spent) - 1))]
        found.load["hook p50"] = found.load["hook p95"] = os.getloadavg()[0]


# --- the report ---------------------------------------------------------------------------------------------


def format_table(rows: Sequence[Measured]) -> str:
    """A markdown table: a line for each step, a column for each history."""
    rows = sorted(rows, key=lambda one: one.commits)
    steps = dict.fromkeys(step for one in rows for step in one.seconds)
    lines = ["| | " + " | ".join(f"{one.name}, {one.commits:,} commits" for one in rows) + " |"]
    lines.append("|---|" + "---:|" * len(rows))
    lines += [f"| {step} | " + " | ".join(_format_cell(one, step) for one in rows) + " |" for step in steps]
    ratios = [f"{one.seconds['mine'] / one.seconds['git log -p']:.2f}" for one in rows]
    lines.append("| mine / `git log -p` | " + " | ".join(ratios) + " |")
    for note in ("disk", "published"):
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


WIDTH, HEIGHT, MARGIN = 720, 480, 60
# not those of gitpeft.learn.charts: the peak memory of a command counts that of this process at its start
COLOURS = ("#3b6fb6", "#d9822b", "#3f9142", "#b6403b", "#7a5aa6", "#8a6d3b", "#c56fa0", "#566070")


def draw_plot(rows: Sequence[Measured]) -> str:
    """Seconds against commits as SVG, both logarithmic; a line for each step."""
    rows = sorted(rows, key=lambda one: one.commits)
    steps = dict.fromkeys(step for one in rows for step in one.seconds)
    sizes = [math.log10(one.commits) for one in rows]
    spent = [math.log10(max(1e-3, seconds)) for one in rows for seconds in one.seconds.values()]
    across, up = (
        (math.floor(min(sizes)), math.ceil(max(sizes))),
        (math.floor(min(spent)), math.ceil(max(spent))),
    )

    def place(commits: float, seconds: float) -> tuple[float, float]:
        x = (math.log10(commits) - across[0]) / max(1, across[1] - across[0])
        y = (math.log10(max(1e-3, seconds)) - up[0]) / max(1, up[1] - up[0])
        return MARGIN + x * (WIDTH - 3 * MARGIN), HEIGHT - MARGIN - y * (HEIGHT - 2 * MARGIN)

    drawn = [
        _draw_text(*place(10**power, 10 ** up[0]), 18, f"{10**power:,}")
        for power in range(across[0], across[1] + 1)
    ]
    drawn += [
        _draw_text(*place(10 ** across[0], 10.0**power), 0, f"{10.0**power:g} s")
        for power in range(up[0], up[1] + 1)
    ]
    for number, step in enumerate(steps):
        points = [place(one.commits, one.seconds[step]) for one in rows if one.seconds.get(step)]
        colour = COLOURS[number % len(COLOURS)]
        line = " ".join(f"{x:.1f},{y:.1f}" for x, y in points)
        drawn.append(f'<polyline points="{line}" fill="none" stroke="{colour}"/>')
        drawn += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in points]
        drawn.append(
            f'<text x="{points[-1][0] + 8:.1f}" y="{points[-1][1] + 4:.1f}" fill="{colour}">{step}</text>'
        )
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" font-size="12">'
    return (
        "\n".join([head, f'<rect width="{WIDTH}" height="{HEIGHT}" fill="#fff"/>', *drawn, "</svg>"]) + "\n"
    )


def _draw_text(x: float, y: float, below: float, text: str) -> str:
    return f'<text x="{x - 50:.1f}" y="{y + below:.1f}" fill="#566070">{text}</text>'


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
    parser.add_argument(
        "--work", type=Path, help="an existing folder for the clones; default: a temporary one"
    )
    parser.add_argument("--write", type=int, default=0, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.write:
        for part in write_history(args.write):
            sys.stdout.buffer.write(part)
        return
    with tempfile.TemporaryDirectory(dir=args.work) as scratch:
        folder = Path(scratch).resolve()
        sources = [*(generate(folder, count) for count in args.generate), *args.repos]
        clones = folder / "clones"
        clones.mkdir()
        rows: list[Measured] = []
        for source in sources:  # after each, because the next may take hours
            rows.append(measure_history(source.resolve(), clones, args.budgets, args.hooks))
            print(format_table(rows), *list_left_out(rows), sep="\n", flush=True)
            if args.plot:
                args.plot.write_text(draw_plot(rows), encoding="utf-8")


if __name__ == "__main__":
    main()
