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
from gitpeft.diff.compact import compact_change
from gitpeft.diff.patch import FileChange
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.lazy import lazy_dataclass
from gitpeft.redaction import mask_secrets
from gitpeft.risk.assessor import RiskAssessor, RiskReport
from gitpeft.risk.model import LINES_ADDED, RiskModel, load_risk_model
from gitpeft.terminal import replace_unprintable

if TYPE_CHECKING:
    from gitpeft.risk.encoder import OnnxRiskEncoder, RiskEncoder

_OPERATION_FILES = (
    *("rebase-merge", "rebase-apply", "sequencer", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD"),
    *("BISECT_LOG",),
)
"""Files of git by which something else than a plain commit is going on."""

BYPASS_HINT = "to commit anyway: git commit --no-verify (gitpeft.risk=warn never stops a commit)"
_HISTORY_WAIT_MS = 200


@lazy_dataclass(frozen=True, slots=True)
class PrecommitVerdict:
    """What is said before a commit, line by line, and whether it is stopped."""

    lines: tuple[str, ...] = ()
    stops: bool = False


def check_staged_risk(repository: Repository, config: Config) -> PrecommitVerdict:
    """Look at what is staged. Nothing is said where nothing is unusual, or nothing is known.

    GitpeftError where the history is not read far enough, and for a damaged model.
    """
    _delete_risk_lines(repository)
    if config.risk == "off" or is_operation_in_progress(repository):
        return PrecommitVerdict()
    bundle = bundles.open_active_bundle(repository.state_dir)
    model = load_risk_model(bundle)
    if not model.is_usable or model.kind == LINES_ADDED:
        return PrecommitVerdict()
    with _open_sandboxed_encoder(repository, config, model) as reader:
        report = assess_staged_change(repository, config, model, reader)
    if not report.flagged:
        return PrecommitVerdict()
    from gitpeft.risk.formats import format_headline  # most commits get no further

    lines = [
        f"{format_headline(report)}:",
        *(f"  {one.text}" for one in report.evidence),
    ]
    stops = config.risk == "block"
    if config.risk_comments and not stops:
        _save_risk_lines(repository, lines)
    return PrecommitVerdict(tuple(map(replace_unprintable, [*lines, BYPASS_HINT] if stops else lines)), stops)


def is_operation_in_progress(repository: Repository) -> bool:
    """Whether this commit is part of a rebase, a merge, or another operation over several commits."""
    return any((repository.git_dir / name).exists() for name in _OPERATION_FILES)


def load_risk_encoder(model: RiskModel, bundle: bundles.Bundle | None) -> "OnnxRiskEncoder | None":
    """What reads changes for a model; None for one that does not read."""
    if bundle is None or not model.needs_encoder:
        return None
    from gitpeft.risk.encoder import OnnxRiskEncoder

    return OnnxRiskEncoder.from_bundle(bundle)


@contextmanager
def _open_sandboxed_encoder(
    repository: Repository, config: Config, model: RiskModel
) -> "Iterator[RiskEncoder | None]":
    """What reads the staged change for the hook: a confined child, which begins to load at once."""
    if not model.needs_encoder:
        yield None
        return
    from gitpeft.risk.encoder import SandboxedRiskEncoder

    deadline = time.monotonic() + config.timeout_ms / 1000
    with SandboxedRiskEncoder(repository.state_dir, deadline, config.memory_mb) as reader:
        yield reader


def assess_staged_change(
    repository: Repository, config: Config, model: RiskModel, reader: "RiskEncoder | None" = None
) -> RiskReport:
    """The report about what is staged."""
    if not (repository.state_dir / "history.db").exists():
        raise GitpeftError("the history is not read yet, no risk looked at", "run `gitpeft mine`")
    try:
        with History.open(repository.state_dir, wait_ms=_HISTORY_WAIT_MS) as history:
            budget = config.risk_budget
            return RiskAssessor(history, repository, model, budget, brief=True, reader=reader).assess_staged()
    except sqlite3.Error as error:
        raise GitpeftError(f"the history cannot be read, no risk looked at: {error}") from None


# --- for the message file -----------------------------------------------------------------------------------


def _save_risk_lines(repository: Repository, lines: Sequence[str]) -> None:
    """Keep the lines for the message file of this very change."""
    from gitpeft.diff.patch import parse_patch

    key = compute_change_key(parse_patch(repository.read_staged_patch()))
    try:
        path = repository.state_dir / "answers" / "risk"
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps({"key": key, "lines": list(lines)}), encoding="utf-8")
    except OSError:
        pass  # then the message file does without


def _delete_risk_lines(repository: Repository) -> None:
    try:
        (repository.state_dir / "answers" / "risk").unlink(missing_ok=True)
    except OSError:
        pass


def load_risk_lines(repository: Repository, files: Sequence[FileChange]) -> list[str]:
    """The lines that were said about this change before; none when it is another."""
    try:
        kept = json.loads((repository.state_dir / "answers" / "risk").read_text(encoding="utf-8"))
        fits = kept["key"] == compute_change_key(files)
        return [replace_unprintable(str(line)) for line in kept["lines"]][:8] if fits else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def compute_change_key(files: Sequence[FileChange]) -> str:
    """By what a change is known again."""
    return hashlib.sha256(mask_secrets(compact_change(files)).encode()).hexdigest()
