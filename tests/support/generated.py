"""Histories with habits, made in one `git fast-import`: what learning is tested on."""

import random
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from tests.support.gitrepo import HOUR, Repo

AUTHORS = ("Ada <ada@example.org>", "Ben <ben@example.org>", "Cho <cho@example.org>")
MODULES = ("parser", "cache", "router", "config", "logger", "session")
VERBS = {"add": "+", "remove": "-", "fix": "~"}


@dataclass(frozen=True, slots=True)
class Step:
    """A commit: `files` maps a path to its new content, None to remove it, a tuple to its (mode, content)."""

    message: str | bytes
    author: str = AUTHORS[0]
    files: Mapping[str, bytes | tuple[str, bytes] | None] = field(default_factory=dict)


def team(count: int, seed: int = 0) -> list[Step]:
    """`count` commits of three authors who word alike changes alike; no subject twice."""
    dice = random.Random(seed)
    lines = {name: [f"import {name}_base"] for name in MODULES}
    steps = [Step("start the project", AUTHORS[0], {_path(name): _text(lines[name]) for name in MODULES})]
    for number in range(1, count):
        name, verb = dice.choice(MODULES), dice.choice(list(VERBS))
        if VERBS[verb] == "-" and len(lines[name]) < 6:
            verb = "add"
        word = f"{dice.choice(('read', 'write', 'drop', 'load', 'merge'))}_{number}"
        subject = _edit(lines[name], verb, word, dice)
        files = {_path(name): _text(lines[name])}
        steps.append(Step(f"{name}: {subject}", dice.choice(AUTHORS), files))
    return steps


def _edit(lines: list[str], verb: str, word: str, dice: random.Random) -> str:
    """Change the lines of a module; what the team says about it."""
    if VERBS[verb] == "+":
        lines += [f"def {word}(value):", f"    return {word.split('_')[0]}(value)", ""]
        return f"add {word}"
    place = dice.randrange(1, len(lines)) if len(lines) > 1 else 0
    if VERBS[verb] == "-":
        gone = lines.pop(place)
        return f"remove {gone.split('(')[0].split()[-1] if gone.split() else 'an empty line'} for {word}"
    lines[place] = f"    {word} = None  # fixed"
    return f"fix {word} when it is None"


def _path(module: str) -> str:
    return f"src/{module}.py"


def _text(lines: Sequence[str]) -> bytes:
    return "".join(f"{line}\n" for line in lines).encode()


def put(repo: Repo, steps: Sequence[Step]) -> list[str]:
    """Commit the steps on `main`, an hour apart, and check the last one out; their ids, oldest first."""
    tip = repo.git("rev-parse", "--verify", "-q", "main", check=False)
    stream = bytearray()
    for number, step in enumerate(steps):
        parent = f"from {tip}\n" if number == 0 and tip else ""
        stream += _commit(step, repo.clock, parent)
        repo.tick(HOUR)
    repo.git("fast-import", "--quiet", "--force", input=bytes(stream))
    repo.git("reset", "-q", "--hard", "main")
    return repo.git("rev-list", "--reverse", f"-{len(steps)}", "main").split()


def _commit(step: Step, clock: int, parent: str) -> bytes:
    message = step.message.encode() if isinstance(step.message, str) else step.message
    author = f"{step.author} {clock} +0000"
    head = f"commit refs/heads/main\nauthor {author}\ncommitter {author}\ndata {len(message)}\n"
    files = b"".join(_file(path, content) for path, content in step.files.items())
    return head.encode() + message + b"\n" + parent.encode() + files + b"\n"


def _file(path: str, content: bytes | tuple[str, bytes] | None) -> bytes:
    quoted = '"' + path.replace("\\", "\\\\").replace('"', '\\"').replace("\n", "\\n") + '"'
    if content is None:
        return f"D {quoted}\n".encode()
    mode, raw = content if isinstance(content, tuple) else ("100644", content)
    return f"M {mode} inline {quoted}\ndata {len(raw)}\n".encode() + raw + b"\n"
