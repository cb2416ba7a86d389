"""The pre-commit check: warns of a risky staged change, or blocks the commit if `gitpeft.risk` is `block`.

It is silent unless a model beat the number of added lines on later commits of this repository, and then warns
only of the riskiest commits (`gitpeft.riskBudget` percent of them).
"""

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
from gitpeft.digests import hash_sha256
from gitpeft.errors import GitpeftError
from gitpeft.files import remove_file, write_json_cache
from gitpeft.git.repository import Repository
from gitpeft.history.store import History, is_history_read
from gitpeft.lazy import lazy_dataclass
from gitpeft.redaction import mask_secrets
from gitpeft.risk.assessor import RiskAssessor, RiskReport
from gitpeft.risk.model import RiskModel, load_risk_model
from gitpeft.terminal import replace_unprintable

if TYPE_CHECKING:
    from gitpeft.risk.encoder import RiskEncoder

_OPERATION_FILES = (
    *("rebase-merge", "rebase-apply", "sequencer", "MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD"),
    *("BISECT_LOG",),
)
"""Files in the git directory that show that more than a plain commit is in progress."""

BYPASS_HINT = "to commit anyway: git commit --no-verify (gitpeft.risk=warn never stops a commit)"
_HISTORY_WAIT_MS = 200


@lazy_dataclass(frozen=True, slots=True)
class PrecommitVerdict:
    """The lines to print before a commit, and whether to stop it."""

    lines: tuple[str, ...] = ()
    stops: bool = False


def check_staged_risk(repository: Repository, config: Config) -> PrecommitVerdict:
    """Check the staged change. The verdict is empty where nothing is unusual or nothing is known.

    Raises GitpeftError where too many commits have not been mined yet, and for a damaged model.
    """
    _delete_risk_lines(repository)
    if config.risk == "off" or is_operation_in_progress(repository):
        return PrecommitVerdict()
    bundle = bundles.open_active_bundle(repository.state_dir)
    model = load_risk_model(bundle)
    if not model.warns:
        return PrecommitVerdict()
    with _open_sandboxed_encoder(repository, config, model) as encoder:
        report = assess_staged_change(repository, config, model, encoder)
    if not report.flagged:
        return PrecommitVerdict()
    from gitpeft.risk.formats import format_headline, list_facts  # most commits get no further

    lines = [f"{format_headline(report)}:", *(f"  {text}" for text in list_facts(report)), *report.problems]
    stops = config.risk == "block"
    if config.risk_comments and not stops:
        _save_risk_lines(repository, lines)
    return PrecommitVerdict(tuple(map(replace_unprintable, [*lines, BYPASS_HINT] if stops else lines)), stops)


def is_operation_in_progress(repository: Repository) -> bool:
    """Whether this commit is part of a rebase, a merge, or another operation over several commits."""
    return any((repository.git_dir / name).exists() for name in _OPERATION_FILES)


@contextmanager
def _open_sandboxed_encoder(
    repository: Repository, config: Config, model: RiskModel
) -> "Iterator[RiskEncoder | None]":
    """The encoder, if one is needed, in a sandboxed child that begins to load at once."""
    if not model.needs_encoder:
        yield None
        return
    from gitpeft.risk.encoder import SandboxedRiskEncoder

    deadline = time.monotonic() + config.timeout_ms / 1000
    with SandboxedRiskEncoder(repository.state_dir, deadline, config.memory_mb) as encoder:
        yield encoder


def assess_staged_change(
    repository: Repository, config: Config, model: RiskModel, encoder: "RiskEncoder | None" = None
) -> RiskReport:
    """Assess the staged change within the limits of the hook, reading few new commits at most."""
    if not is_history_read(repository.state_dir):
        raise GitpeftError("risk not assessed: the history is not mined yet", "Run `gitpeft mine`.")
    try:
        with History.open(repository.state_dir, wait_ms=_HISTORY_WAIT_MS) as history:
            budget = config.risk_budget
            assessor = RiskAssessor(history, repository, model, budget, brief=True, encoder=encoder)
            return assessor.assess_staged()
    except sqlite3.Error as error:
        raise GitpeftError(f"risk not assessed: the history cannot be read ({error})") from None


# --- for the message file -----------------------------------------------------------------------------------


def _save_risk_lines(repository: Repository, lines: Sequence[str]) -> None:
    """Save the lines for the message file of this change."""
    from gitpeft.diff.patch import parse_patch

    key = compute_change_key(parse_patch(repository.read_staged_patch()))
    try:
        path = repository.state_dir / "answers" / "risk"
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError:
        return  # the message file is then written without them
    write_json_cache(path, {"key": key, "lines": list(lines)})


def _delete_risk_lines(repository: Repository) -> None:
    remove_file(repository.state_dir / "answers" / "risk")


def load_risk_lines(repository: Repository, files: Sequence[FileChange]) -> list[str]:
    """Load the lines that were printed about this change; none if they were about another."""
    try:
        kept = json.loads((repository.state_dir / "answers" / "risk").read_text(encoding="utf-8"))
        fits = kept["key"] == compute_change_key(files)
        return [replace_unprintable(str(line)) for line in kept["lines"]][:8] if fits else []
    except (OSError, ValueError, KeyError, TypeError):
        return []


def compute_change_key(files: Sequence[FileChange]) -> str:
    """A hash that identifies a change."""
    return hash_sha256(mask_secrets(compact_change(files)).encode())
