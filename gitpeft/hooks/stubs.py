"""The text of the hooks: finding the stubs, filling one in, and recognising an installed one."""

import hashlib
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

SUGGESTION_HOOK, RISK_HOOK, AHEAD_HOOK = HOOK_NAMES = (
    "prepare-commit-msg",
    "pre-commit",
    "post-index-change",
)
"""The hooks there are: one offers a message, one flags risk, one works ahead when something is staged."""

CHAINED_SUFFIX = ".gitpeft-chained"
"""Ending of the name under which a hook that was there before is kept."""

_MARK_PATTERNS = (
    re.compile(rb"^# gitpeft hook, version (?P<version>1), seal (?P<seal>[0-9a-f]{64})$", re.MULTILINE),
)
# One pattern for each form that was ever released, so that an upgrade knows its predecessors.
_PYTHON_LINE = re.compile(rb"^py=(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Stub:
    """A hook that gitpeft wrote: its version, the interpreter in it, and whether nobody changed it since."""

    version: int
    python: str
    intact: bool


def find_stub_folder() -> Path:
    """Where the stubs lie: in the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_hooks"
    return packaged if packaged.is_dir() else package.parent / "hooks"


def render_stub(name: str, python: str = sys.executable) -> bytes:
    """The hook `name` for one interpreter (an absolute path), sealed with a hash of itself."""
    template = (find_stub_folder() / name).read_bytes().replace(b"\r\n", b"\n")
    text = template.replace(b"@PYTHON@", quote_for_shell(python).encode("utf-8", "surrogateescape"))
    return text.replace(b"@SEAL@", _compute_seal(text), 1)


def _compute_seal(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def quote_for_shell(word: str) -> str:
    """A word for a POSIX shell, always in single quotes."""
    return "'" + word.replace("'", "'\"'\"'") + "'"


def recognise_stub(content: bytes) -> Stub | None:
    """What is known about a hook that gitpeft wrote; None for anybody else's."""
    mark = next((found for pattern in _MARK_PATTERNS if (found := pattern.search(content[:400]))), None)
    if mark is None:
        return None
    start, end = mark.span("seal")
    unsealed = content[:start] + b"@SEAL@" + content[end:]
    return Stub(int(mark["version"]), _read_interpreter(content), _compute_seal(unsealed) == mark["seal"])


def _read_interpreter(content: bytes) -> str:
    found = _PYTHON_LINE.search(content)
    try:
        words = shlex.split(found[1].decode("utf-8", "surrogateescape")) if found else []
    except ValueError:
        words = []
    return words[0] if words else ""
