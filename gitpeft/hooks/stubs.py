"""The text of a hook: hides where the stubs are kept, how one is filled in, and how one is known again."""

import hashlib
import re
import shlex
import sys
from dataclasses import dataclass
from pathlib import Path

NAMES = ("prepare-commit-msg", "pre-commit")
"""The hooks there are; the first is the one that `install` puts in unless told otherwise."""

CHAINED = ".gitpeft-chained"
"""Ending of the name under which a hook that was there before is kept."""

_MARKS = (
    re.compile(rb"^# gitpeft hook, version (?P<version>1), seal (?P<seal>[0-9a-f]{64})$", re.MULTILINE),
)
# One pattern for each form that was ever released, so that an upgrade knows its predecessors.
_PYTHON = re.compile(rb"^py=(.+)$", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Stub:
    """A hook that gitpeft wrote: its version, the interpreter in it, and whether nobody changed it since."""

    version: int
    python: str
    intact: bool


def folder() -> Path:
    """Where the stubs lie: in the package when installed, beside it in a checkout."""
    package = Path(__file__).resolve().parents[1]
    packaged = package / "_hooks"
    return packaged if packaged.is_dir() else package.parent / "hooks"


def render(name: str, python: str = sys.executable) -> bytes:
    """The hook `name` for one interpreter (an absolute path), sealed with a hash of itself."""
    template = (folder() / name).read_bytes().replace(b"\r\n", b"\n")
    text = template.replace(b"@PYTHON@", quote(python).encode("utf-8", "surrogateescape"))
    return text.replace(b"@SEAL@", _seal(text), 1)


def _seal(text: bytes) -> bytes:
    return hashlib.sha256(text).hexdigest().encode()


def quote(word: str) -> str:
    """A word for a POSIX shell, always in single quotes."""
    return "'" + word.replace("'", "'\"'\"'") + "'"


def recognise(content: bytes) -> Stub | None:
    """What is known about a hook that gitpeft wrote; None for anybody else's."""
    mark = next((found for pattern in _MARKS if (found := pattern.search(content[:400]))), None)
    if mark is None:
        return None
    start, end = mark.span("seal")
    unsealed = content[:start] + b"@SEAL@" + content[end:]
    return Stub(int(mark["version"]), _python_in(content), _seal(unsealed) == mark["seal"])


def _python_in(content: bytes) -> str:
    found = _PYTHON.search(content)
    try:
        words = shlex.split(found[1].decode("utf-8", "surrogateescape")) if found else []
    except ValueError:
        words = []
    return words[0] if words else ""
