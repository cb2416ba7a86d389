"""The README's picture: a real `git commit` in a real terminal, as an animated SVG.

    python tests/bench/record_demo.py --repo CLONE --change REV [--out docs/images/commit.svg]

CLONE is a clone in which `gitpeft init` has run, at a commit older than REV. The change of REV is staged and
committed in a terminal (tmux) with vim as the editor; the commit is taken back afterwards. The picture has
one frame for each screen. It shows what the terminal shows, nothing is written by hand.
"""

import argparse
import io
import re
import shlex
import subprocess
import tempfile
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from uuid import uuid4

from rich.console import Console
from rich.text import Text

COLUMNS, ROWS = 84, 20
EDITOR = (
    "vim -N -u NONE -i NONE -n --cmd 'set shortmess+=FW noruler'"
    " -c 'syntax on' -c 'set ft=gitcommit'"
    " -c 'hi gitcommitSummary cterm=bold ctermfg=15' -c 'hi link gitcommitOverflow gitcommitSummary'"
)
"""vim without anybody's settings."""

PATIENCE = 20.0
"""Seconds to wait for a screen before giving up."""

SVG_OF_A_SCREEN = """<svg class="rich-terminal" viewBox="0 0 {width} {height}" xmlns="http://www.w3.org/2000/svg">
<style>
.{unique_id}-matrix {{
    font-family: Menlo, Consolas, "DejaVu Sans Mono", monospace;
    font-size: {char_height}px; line-height: {line_height}px;
}}
{styles}
</style>
<defs><clipPath id="{unique_id}-clip-terminal">
<rect x="0" y="0" width="{terminal_width}" height="{terminal_height}"/></clipPath>{lines}</defs>
{chrome}
<g transform="translate({terminal_x}, {terminal_y})" clip-path="url(#{unique_id}-clip-terminal)">
{backgrounds}<g class="{unique_id}-matrix">{matrix}</g></g>
</svg>"""
"""rich's own template without the fonts that it fetches from the network."""


@dataclass(frozen=True)
class Frame:
    """A screen as tmux prints it, with escape sequences, and how many seconds it is shown."""

    screen: str
    seconds: float


class Terminal:
    """A tmux session of its own with a plain shell in a folder."""

    def __init__(self, folder: Path, environment: dict[str, str]) -> None:
        self._name = f"demo-{uuid4().hex[:8]}"
        given = [word for name, value in environment.items() for word in ("-e", f"{name}={value}")]
        size = ("-x", str(COLUMNS), "-y", str(ROWS))
        shell = "env -u TMUX bash --norc --noprofile"
        self._tmux("new-session", "-d", *size, "-c", str(folder), *given, shell)
        self._tmux("set-option", "status", "off")

    def _tmux(self, command: str, *args: str) -> str:
        target = [] if command == "new-session" else ["-t", self._name]
        name = ["-s", self._name] if command == "new-session" else []
        done = subprocess.run(
            ["tmux", "-L", self._name, "-f", "/dev/null", command, *name, *target, *args],
            capture_output=True,
            text=True,
            check=True,
        )
        return done.stdout

    def type(self, text: str, *, enter: bool = True) -> None:
        """Type a line."""
        self._tmux("send-keys", "-l", text)
        if enter:
            self._tmux("send-keys", "Enter")

    def wait_for(self, pattern: str) -> str:
        """The screen, as soon as a pattern stands in it; TimeoutError if it never does."""
        deadline = time.monotonic() + PATIENCE
        while time.monotonic() < deadline:
            if re.search(pattern, self._tmux("capture-pane", "-p"), re.MULTILINE):
                time.sleep(0.5)  # let the program finish drawing
                return self._tmux("capture-pane", "-p", "-e")
            time.sleep(0.1)
        raise TimeoutError(f"{pattern!r} did not appear:\n{self._tmux('capture-pane', '-p')}")

    def close(self) -> None:
        """End the session and everything in it."""
        self._tmux("kill-session")


def main() -> None:
    """Record, and write the picture."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--repo", type=Path, required=True)
    parser.add_argument("--change", required=True, help="a later commit, whose change is committed")
    parser.add_argument("--out", type=Path, default=Path("docs/images/commit.svg"))
    given = parser.parse_args()
    frames = list(record(given.repo.resolve(), given.change))
    private = re.search(r"/(?:home|root|Users|tmp|work)/\S*", "".join(frame.screen for frame in frames))
    if private:
        raise SystemExit(f"a path of this machine is on the screen: {private[0]}")
    given.out.parent.mkdir(parents=True, exist_ok=True)
    given.out.write_text(render(frames))


def record(repo: Path, change: str) -> Iterator[Frame]:
    """The screens of one commit; the repository is as before afterwards."""
    with staged(repo, change), tempfile.TemporaryDirectory() as home:
        environment = {"HOME": home, "GIT_EDITOR": EDITOR, "CI": "", "TERM": "screen-256color"}
        people = {
            f"GIT_{role}_{what}": value
            for role in ("AUTHOR", "COMMITTER")
            for what, value in (("NAME", "Ada"), ("EMAIL", "ada@example.org"))
        }
        terminal = Terminal(repo, environment | people | {"GIT_PAGER": "cat"})
        try:
            terminal.type("PS1='$ '; clear")
            terminal.wait_for(r"^\$ ?$")
            terminal.type("git diff --cached --stat")
            terminal.wait_for(r"changed")
            terminal.type("git commit", enter=False)
            yield Frame(terminal.wait_for(r"git commit$"), 3)
            terminal.type("")
            yield Frame(terminal.wait_for(r"Please enter the commit message"), 7)
            terminal.type(":wq")
            yield Frame(terminal.wait_for(r"changed[\s\S]*changed[\s\S]*^\$ ?$"), 4)
        finally:
            terminal.close()


@contextmanager
def staged(repo: Path, change: str) -> Iterator[None]:
    """The change of a commit in the index of a clean repository, taken back afterwards."""

    def git(*args: str, text: str | None = None) -> str:
        done = subprocess.run(
            ["git", "-C", str(repo), *args], input=text, capture_output=True, text=True, check=True
        )
        return done.stdout

    if git("status", "--porcelain", "-uno"):
        raise SystemExit(f"{repo} has changes of its own")
    before = git("rev-parse", "HEAD").strip()
    try:
        git("apply", "--index", "-", text=git("diff", "--binary", f"{change}^", change))
        yield
    finally:
        git("reset", "-q", "--hard", before)


def render(frames: Sequence[Frame]) -> str:
    """One SVG that shows the frames in turn; without animation, the one that is shown longest."""
    drawings = [draw(frame.screen, f"s{n}") for n, frame in enumerate(frames)]
    width, height = re.findall(r'viewBox="0 0 ([\d.]+) ([\d.]+)"', drawings[0])[0]
    total = sum(frame.seconds for frame in frames)
    longest = max(range(len(frames)), key=lambda n: frames[n].seconds)
    styles = [f".f{{opacity:0}} .f{longest}{{opacity:1}}", "@media (prefers-reduced-motion: no-preference) {"]
    begin = 0.0
    for n, frame in enumerate(frames):
        end = begin + 100 * frame.seconds / total
        steps = f"0%{{opacity:{int(n == 0)}}} {begin:.2f}%{{opacity:1}} {end:.2f}%,100%{{opacity:0}}"
        styles += [f"@keyframes k{n} {{{steps}}}", f".f{n} {{animation:k{n} {total:g}s step-end infinite}}"]
        begin = end
    shown = [
        drawing.replace('class="rich-terminal"', f'class="f f{n}"', 1) for n, drawing in enumerate(drawings)
    ]
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {width} {height}" role="img">'
    title = "<title>git commit opens the editor with a message that gitpeft suggests</title>"
    return "\n".join([head, title, "<style>", *styles, "}", "</style>", *shown, "</svg>", ""])


def draw(screen: str, name: str) -> str:
    """One screen as an SVG."""
    console = Console(width=COLUMNS, record=True, file=io.StringIO(), color_system="truecolor")
    lines = screen.rstrip("\n").split("\n")
    console.print(Text.from_ansi("\n".join(lines + [""] * (ROWS - len(lines)))))
    return console.export_svg(title=shlex.quote("gitpeft"), code_format=SVG_OF_A_SCREEN, unique_id=name)


if __name__ == "__main__":
    main()
