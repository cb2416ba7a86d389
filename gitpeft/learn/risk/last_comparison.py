"""Remembers that the installed risk model was held against all that is known of a history.

Labels and metrics follow from the commits, from what counts as a fix, and from what git is told: which
commits to pass over, to replace, or to stop at, and who is who. While none of that changes, another fit would
come to the same end, and is spared. (A commit that is dated in the future counts once there is a newer one.)
"""

import hashlib
import json
import math
from pathlib import Path

import numpy as np

from gitpeft import __version__
from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Bundle
from gitpeft.config import load_config
from gitpeft.diff.compact import RENDERER_VERSION
from gitpeft.files import write_json_cache
from gitpeft.git.repository import Repository
from gitpeft.learn.risk.relabel import get_fit_time
from gitpeft.learn.szz.ignored_revisions import read_ignored_revisions
from gitpeft.risk.model import load_risk_model

NOTE_FILE = "risk-compared.json"
"""In the state directory: a hash of what the last comparison came from, and the minutes that it had."""


def was_compared(repo: Repository, bundle: Bundle, tip: str, commits: int, minutes: float) -> bool:
    """Whether the risk model of `bundle` was held against this history, of `commits` up to `tip`, already.

    Where that comparison was short of time, only if it had `minutes` at least.
    """
    inputs, had = _read_note(repo.state_dir / NOTE_FILE)
    return minutes <= had and inputs == _hash_inputs(repo, bundle, tip, commits)


def note_comparison(
    repo: Repository, bundle: Bundle, tip: str, commits: int, minutes: float = math.inf
) -> None:
    """Remember that the risk model of the active bundle was held against this history, or fitted on it.

    `minutes` are those that it had, where more of them might have changed the result.
    """
    note = {"inputs": _hash_inputs(repo, bundle, tip, commits), "minutes": minutes}
    write_json_cache(repo.state_dir / NOTE_FILE, note)


def _read_note(path: Path) -> tuple[str, float]:
    """The hash and the minutes in a note; ("", 0) where it is missing or damaged."""
    try:
        note = json.loads(path.read_bytes())
        return str(note["inputs"]), float(note["minutes"])
    except (OSError, ValueError, TypeError, KeyError):
        return "", 0.0


def _hash_inputs(repo: Repository, bundle: Bundle, tip: str, commits: int) -> str:
    """Of all that decides, apart from time: this version, the installed score, the history, the settings."""
    files = bundle.manifest.files
    score = [
        files[name].sha256 for name in (bundles.RISK_MODEL_FILE, bundles.RISK_ENCODER_FILE) if name in files
    ]
    parts = [
        [__version__, RENDERER_VERSION, np.__version__],
        [score, get_fit_time(bundle, load_risk_model(bundle))],
        [tip, commits],
        list_label_settings(repo, tip),
    ]
    return hashlib.sha256(json.dumps(parts).encode()).hexdigest()


def list_label_settings(repo: Repository, tip: str) -> list[object]:
    """What decides about the labels and metrics of the commits up to `tip`, beside the commits.

    Plain values; each is empty where nothing is set.
    """
    return [
        load_config(repo).fix_pattern,
        sorted(read_ignored_revisions(repo, tip).shas),
        repo.read_replacement_state(),
        repo.mailmap.compute_state(),
    ]
