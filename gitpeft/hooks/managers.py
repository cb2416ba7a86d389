"""Lines in the files of other hook managers: hides their formats, and how the lines come out again.

What is written calls the stub in this clone's own state directory, if there is one: a team-mate without
gitpeft, or a clone on which nobody installed it, runs nothing.
"""

import os
import re
import stat
from dataclasses import dataclass
from pathlib import Path

from gitpeft.errors import GitpeftError
from gitpeft.hooks import hook_file, stubs


def call(name: str) -> str:
    """A command of the shell that runs our hook where there is one; its arguments are added at the end."""
    return (
        f'gitpeft="$(git rev-parse --git-common-dir)/gitpeft/hooks/{name}"; [ ! -x "$gitpeft" ] || "$gitpeft"'
    )


def line(name: str) -> str:
    """The line for a hook in sh; only the one before a commit may stop it (`gitpeft.risk` set to `block`)."""
    return f'{{ {call(name)} "$@"; }} || {"exit" if name == stubs.NAMES[1] else ":"}\n'


def has_line(content: bytes, name: str) -> bool:
    """Whether a hook calls ours, by the line above or in a person's own words."""
    return f"/gitpeft/hooks/{name}".encode() in content


_START, _END = "# >>> gitpeft", "# <<< gitpeft"
_BLOCK = re.compile(
    rb"(?P<gap>\n?)^# >>> gitpeft(?P<notes>[a-z ]*) >>>\n.*?^# <<< gitpeft <<<\n", re.MULTILINE | re.DOTALL
)

HUSKY = line(stubs.NAMES[0])
_COMMAND = f"""\
    gitpeft:
      run: '{call(stubs.NAMES[0])} {{0}}'
      interactive: true
"""
LEFTHOOK = f"prepare-commit-msg:\n  commands:\n{_COMMAND}"
PRE_COMMIT = """\
  - repo: local
    hooks:
      - id: gitpeft
        name: gitpeft
        language: system
        entry: >-
          sh -c 'gitpeft="$(git rev-parse --git-common-dir)/gitpeft/hooks/prepare-commit-msg";
          [ ! -x "$gitpeft" ] || "$gitpeft" "$@"' gitpeft
        stages: [prepare-commit-msg]
        always_run: true
        verbose: true
"""


@dataclass(frozen=True, slots=True)
class Line:
    """A native line: the manager, its file below the work tree, and the text that goes in."""

    manager: str
    file: str
    text: str


LINES = {
    "husky": Line("husky", ".husky/prepare-commit-msg", HUSKY),
    "lefthook": Line("lefthook", "lefthook-local.yml", LEFTHOOK),
    "pre-commit": Line("pre-commit", ".pre-commit-config.yaml", PRE_COMMIT),
}


def add(root: Path, line: Line) -> bool:
    """Append the line to its file, between marks. False when it is there already.

    GitpeftError, with the lines to add by hand, when appending would not be right for what the file holds.
    """
    path = root / line.file
    if path.is_symlink() or _outside(root, path.parent):
        raise GitpeftError(f"{line.file} is a symbolic link, or lies behind one", _by_hand(line))
    before = path.read_bytes() if path.exists() else None
    if before is not None and _BLOCK.search(before):
        return False
    _check(root, line, before)
    notes = " created" if before is None else " joined" if before and not before.endswith(b"\n") else ""
    old = before or b""
    gap = b"\n" if notes == " joined" else b""
    block = f"{_START}{notes} >>>\n{line.text}{_END} <<<\n".encode()
    _replace(path, old + gap + block)
    return True


def _outside(root: Path, folder: Path) -> bool:
    return not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root))


def _by_hand(line: Line) -> str:
    return f"add these lines to {line.file} yourself:\n{line.text}"


def _check(root: Path, line: Line, before: bytes | None) -> None:
    """Whether the text can stand at the end of the file."""
    text = (before or b"").decode(errors="replace")
    if line.manager == "lefthook":
        if re.search(r"""^["']?prepare-commit-msg["']?\s*:""", text, re.MULTILINE):
            raise GitpeftError(
                f"{line.file} has a prepare-commit-msg already",
                f"add this to the `commands:` there yourself:\n{_COMMAND}",
            )
        if other := _other_local(root, line):  # lefthook reads only one of them
            raise GitpeftError(
                f"lefthook's local settings are in {other} here, which {line.file} would displace",
                f"add this to {other} yourself, in its format:\n{line.text}",
            )
    if line.manager == "pre-commit":
        keys = re.findall(r"^([A-Za-z_-]+)\s*:(.*)$", text, re.MULTILINE)
        entry = re.search(r"^  - repo:", text, re.MULTILINE)
        if not keys or keys[-1][0] != "repos" or keys[-1][1].strip() or not entry:
            raise GitpeftError(f"the end of {line.file} is no list of repos", _by_hand(line))


def _other_local(root: Path, line: Line) -> str:
    """Another file of lefthook's local settings; "" where there is none."""
    names = [
        f"{start}lefthook-local.{ending}"
        for start in ("", ".", ".config/")
        for ending in ("yml", "yaml", "json", "jsonc", "toml")
    ]
    return next((name for name in names if name != line.file and (root / name).exists()), "")


def remove(root: Path, line: Line) -> bool:
    """Take the line out; around it the file is byte for byte as before. False when it is not there."""
    path = root / line.file
    if path.is_symlink() or not path.is_file() or _outside(root, path.parent):
        return False
    before = path.read_bytes()
    found = _BLOCK.search(before)
    if found is None:
        return False
    joined = b"joined" in found["notes"]
    start = found.start() if joined else found.start() + len(found["gap"])
    after = before[:start] + before[found.end() :]
    if b"created" in found["notes"] and not after:
        path.unlink()
    else:
        _replace(path, after)
    return True


def present(root: Path, line: Line) -> bool:
    """Whether the line is in its file."""
    path = root / line.file
    return path.is_file() and not path.is_symlink() and _BLOCK.search(path.read_bytes()) is not None


def _replace(path: Path, content: bytes) -> None:
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
    hook_file.replace(path, content, mode)


def sweep(root: Path, line: Line) -> None:
    """Remove what an interrupted `add` or `remove` left beside the file."""
    folder = (root / line.file).parent
    if not _outside(root, folder):
        hook_file.sweep(folder)
