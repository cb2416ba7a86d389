"""Adding our lines to the files of husky, lefthook and pre-commit, and removing them again.

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


def format_hook_command(name: str) -> str:
    """A command of the shell that runs our hook where there is one; its arguments are added at the end."""
    return (
        f'gitpeft="$(git rev-parse --git-common-dir)/gitpeft/hooks/{name}"; [ ! -x "$gitpeft" ] || "$gitpeft"'
    )


def format_hook_line(name: str) -> str:
    """The line for a hook in sh; only the one before a commit may stop it (`gitpeft.risk` set to `block`)."""
    return f'{{ {format_hook_command(name)} "$@"; }} || {"exit" if name == stubs.RISK_HOOK else ":"}\n'


def has_hook_line(content: bytes, name: str) -> bool:
    """Whether a hook calls ours, by the line above or in a person's own words."""
    return f"/gitpeft/hooks/{name}".encode() in content


_BLOCK_START, _BLOCK_END = "# >>> gitpeft", "# <<< gitpeft"
_BLOCK_PATTERN = re.compile(
    rb"(?P<gap>\n?)^# >>> gitpeft(?P<notes>[a-z ]*) >>>\n.*?^# <<< gitpeft <<<\n", re.MULTILINE | re.DOTALL
)

HUSKY_LINE = format_hook_line(stubs.SUGGESTION_HOOK)
_LEFTHOOK_COMMAND = f"""\
    gitpeft:
      run: '{format_hook_command(stubs.SUGGESTION_HOOK)} {{0}}'
      interactive: true
"""
LEFTHOOK_LINES = f"prepare-commit-msg:\n  commands:\n{_LEFTHOOK_COMMAND}"
PRE_COMMIT_LINES = """\
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
class ManagerLine:
    """A native line: the manager, its file below the work tree, and the text that goes in."""

    manager: str
    file: str
    text: str


MANAGER_LINES = {
    "husky": ManagerLine("husky", ".husky/prepare-commit-msg", HUSKY_LINE),
    "lefthook": ManagerLine("lefthook", "lefthook-local.yml", LEFTHOOK_LINES),
    "pre-commit": ManagerLine("pre-commit", ".pre-commit-config.yaml", PRE_COMMIT_LINES),
}

ACTIVATIONS = {
    "husky": "run `npx husky` (or the package manager's install)",
    "lefthook": "run `lefthook install`, so that git calls lefthook for this hook,",
    "pre-commit": "run `pre-commit install -t prepare-commit-msg`",
}
"""What makes git run the hooks of a manager, to be continued with how often."""


def add_line(root: Path, line: ManagerLine) -> bool:
    """Append the line to its file, between marks. False when it is there already.

    GitpeftError, with the lines to add by hand, when appending would not be right for what the file holds.
    """
    path = root / line.file
    if path.is_symlink() or _is_outside(root, path.parent):
        raise GitpeftError(f"{line.file} is a symbolic link, or lies behind one", _format_manual_hint(line))
    before = path.read_bytes() if path.exists() else None
    if before is not None and _BLOCK_PATTERN.search(before):
        return False
    _check_appendable(root, line, before)
    notes = " created" if before is None else " joined" if before and not before.endswith(b"\n") else ""
    old = before or b""
    gap = b"\n" if notes == " joined" else b""
    block = f"{_BLOCK_START}{notes} >>>\n{line.text}{_BLOCK_END} <<<\n".encode()
    _replace_file(path, old + gap + block)
    return True


def _is_outside(root: Path, folder: Path) -> bool:
    return not Path(os.path.realpath(folder)).is_relative_to(os.path.realpath(root))


def _format_manual_hint(line: ManagerLine) -> str:
    return f"add these lines to {line.file} yourself:\n{line.text}"


def _check_appendable(root: Path, line: ManagerLine, before: bytes | None) -> None:
    """Whether the text can stand at the end of the file."""
    text = (before or b"").decode(errors="replace")
    if line.manager == "lefthook":
        if re.search(r"""^["']?prepare-commit-msg["']?\s*:""", text, re.MULTILINE):
            raise GitpeftError(
                f"{line.file} has a prepare-commit-msg already",
                f"add this to the `commands:` there yourself:\n{_LEFTHOOK_COMMAND}",
            )
        if other := _find_other_lefthook_file(root, line):  # lefthook reads only one of them
            raise GitpeftError(
                f"lefthook's local settings are in {other} here, which {line.file} would displace",
                f"add this to {other} yourself, in its format:\n{line.text}",
            )
    if line.manager == "pre-commit":
        keys = re.findall(r"^([A-Za-z_-]+)\s*:(.*)$", text, re.MULTILINE)
        entry = re.search(r"^  - repo:", text, re.MULTILINE)
        if not keys or keys[-1][0] != "repos" or keys[-1][1].strip() or not entry:
            raise GitpeftError(f"the end of {line.file} is no list of repos", _format_manual_hint(line))


def _find_other_lefthook_file(root: Path, line: ManagerLine) -> str:
    """Another file of lefthook's local settings; "" where there is none."""
    names = [
        f"{start}lefthook-local.{ending}"
        for start in ("", ".", ".config/")
        for ending in ("yml", "yaml", "json", "jsonc", "toml")
    ]
    return next((name for name in names if name != line.file and (root / name).exists()), "")


def remove_line(root: Path, line: ManagerLine) -> bool:
    """Take the line out; around it the file is byte for byte as before. False when it is not there."""
    path = root / line.file
    if path.is_symlink() or not path.is_file() or _is_outside(root, path.parent):
        return False
    before = path.read_bytes()
    found = _BLOCK_PATTERN.search(before)
    if found is None:
        return False
    joined = b"joined" in found["notes"]
    start = found.start() if joined else found.start() + len(found["gap"])
    after = before[:start] + before[found.end() :]
    if b"created" in found["notes"] and not after:
        path.unlink()
    else:
        _replace_file(path, after)
    return True


def is_line_present(root: Path, line: ManagerLine) -> bool:
    """Whether the line is in its file."""
    path = root / line.file
    return path.is_file() and not path.is_symlink() and _BLOCK_PATTERN.search(path.read_bytes()) is not None


def _replace_file(path: Path, content: bytes) -> None:
    mode = stat.S_IMODE(path.stat().st_mode) if path.exists() else 0o644
    hook_file.replace_file(path, content, mode)


def remove_line_leftovers(root: Path, line: ManagerLine) -> None:
    """Remove what an interrupted `add` or `remove` left beside the file."""
    folder = (root / line.file).parent
    if not _is_outside(root, folder):
        hook_file.remove_temporary_files(folder)
