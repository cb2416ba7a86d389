"""The flag before a commit: hides when it is silent, and what it costs at most.

Advisory unless `gitpeft.risk` is `block`. It speaks only where a model beat the number of added lines on
later commits of this repository, and then about the riskiest commits alone (`gitpeft.riskBudget` percent).
"""

import hashlib
import json
import sqlite3
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from typing import TYPE_CHECKING

from gitpeft.bundle import bundle as bundles
from gitpeft.config import Config
from gitpeft.diff.patch import FileChange, compact
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.lazy import record
from gitpeft.redaction import mask
from gitpeft.risk.assessor import Assessor, RiskReport
from gitpeft.risk.model import LINES_ADDED, Model, model_of

if TYPE_CHECKING:
    from gitpeft.risk.encoder import Reader, Reads

_UNDER_WAY = (
    *("rebase-merge", "rebase-apply", "sequencer", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD"),
    *("BISECT_LOG",),
)
"""Files of git by which something else than a plain commit is going on."""

WAY_THROUGH = "to commit it as it is: git commit --no-verify (gitpeft.risk=warn lets all commits through)"
_WAIT_MS = 200


@record(frozen=True, slots=True)
class Verdict:
    """What is said before a commit, line by line, and whether it is stopped."""

    lines: tuple[str, ...] = ()
    stops: bool = False


def verdict(repository: Repository, config: Config) -> Verdict:
    """Look at what is staged. Nothing is said where nothing is unusual, or nothing is known.

    GitpeftError where the history is not read far enough, and for a damaged model.
    """
    _forget(repository)
    if config.risk == "off" or under_way(repository):
        return Verdict()
    bundle = bundles.active(repository.state_dir)
    model = model_of(bundle)
    if not model.usable or model.kind == LINES_ADDED:
        return Verdict()
    with _reading(repository, config, model) as reader:
        report = look(repository, config, model, reader)
    if not report.flagged:
        return Verdict()
    from gitpeft.risk.formats import headline, printable  # most commits get no further

    lines = [f"{headline(report)}, and what is known of it:", *(f"  {one.text}" for one in report.evidence)]
    stops = config.risk == "block"
    if config.risk_comments and not stops:
        _remember(repository, lines)
    return Verdict(tuple(map(printable, [*lines, WAY_THROUGH] if stops else lines)), stops)


def under_way(repository: Repository) -> bool:
    """Whether this commit is part of a rebase, a merge, or another operation over several commits."""
    return any((repository.git_dir / name).exists() for name in _UNDER_WAY)


def reader_of(model: Model, bundle: bundles.Bundle | None) -> "Reader | None":
    """What reads changes for a model; None for one that does not read."""
    if bundle is None or not model.reads:
        return None
    from gitpeft.risk.encoder import Reader

    return Reader.of(bundle)


@contextmanager
def _reading(repository: Repository, config: Config, model: Model) -> "Iterator[Reads | None]":
    """What reads the staged change for the hook: a confined child, which begins to load at once."""
    if not model.reads:
        yield None
        return
    from gitpeft.risk.encoder import ConfinedReader

    deadline = time.monotonic() + config.timeout_ms / 1000
    with ConfinedReader(repository.state_dir, deadline, config.memory_mb) as reader:
        yield reader


def look(repository: Repository, config: Config, model: Model, reader: "Reads | None" = None) -> RiskReport:
    """The report about what is staged."""
    if not (repository.state_dir / "history.db").exists():
        raise GitpeftError("the history is not read yet, no risk looked at", "run `gitpeft mine`")
    try:
        with History.open(repository.state_dir, wait_ms=_WAIT_MS) as history:
            budget = config.risk_budget
            return Assessor(history, repository, model, budget, brief=True, reader=reader).staged()
    except sqlite3.Error as error:
        raise GitpeftError(f"the history cannot be read, no risk looked at: {error}") from None


# --- for the message file -----------------------------------------------------------------------------------


def _remember(repository: Repository, lines: Sequence[str]) -> None:
    """Keep the lines for the message file of this very change."""
    from gitpeft.diff.patch import parse

    key = key_of(parse(repository.staged_patch()))
    try:
        path = repository.state_dir / "answers" / "risk"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"key": key, "lines": list(lines)}), encoding="utf-8")
    except OSError:
        pass  # then the message file does without


def _forget(repository: Repository) -> None:
    try:
        (repository.state_dir / "answers" / "risk").unlink(missing_ok=True)
    except OSError:
        pass


def remembered(repository: Repository, files: Sequence[FileChange]) -> list[str]:
    """The lines that were said about this change before; none when it is another."""
    from gitpeft.risk.formats import printable

    try:
        kept = json.loads((repository.state_dir / "answers" / "risk").read_text(encoding="utf-8"))
        fits = kept["key"] == key_of(files)
        return [printable(str(line)) for line in kept["lines"]][:8] if fits else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def key_of(files: Sequence[FileChange]) -> str:
    """By what a change is known again."""
    return hashlib.sha256(mask(compact(files)).encode()).hexdigest()
