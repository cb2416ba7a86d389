"""The models of one repository: hides how they are listed, named, gone back to, made one at a time.

What stays: the active model and the one before it, always; and the `bundle.prune` newest besides. Everything
moves by the renames of `bundle`, so that whoever commits meanwhile is answered by the old model or the new.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Bundle
from gitpeft.errors import GitpeftError
from gitpeft.files import hold_lock

TRAINING_LOCK_FILE = "train.lock"
SHORT_ID_LENGTH = 12
"""Characters of an id that are shown; any part of at least four from its start names a model."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A model at a glance: `size` in bytes, `commits` as in the manifest, `state` active, previous or "".

    `metrics` maps a task's metric to its mean on held-out commits; `aside` is why a challenger was not made
    active, "" for one that was; `verdict` is how it compared with the model that was active before it.
    """

    id: str
    created: str
    commits: dict[str, Any]
    base: str
    method: str
    metrics: dict[str, float]
    size: int
    state: str
    aside: str
    verdict: str = ""


def list_model_versions(state_dir: Path) -> list[ModelVersion]:
    """Every model that can be opened, newest first."""
    active, previous = bundles.read_active_ids(state_dir)
    states = {previous: "previous", active: "active"}
    return [
        _describe_version(bundle, states.get(bundle.id, "")) for bundle in bundles.list_bundles(state_dir)
    ]


def _describe_version(bundle: Bundle, state: str) -> ModelVersion:
    manifest = bundle.manifest
    return ModelVersion(
        id=bundle.id,
        created=manifest.created,
        commits=manifest.commits,
        base=manifest.base,
        method=str(manifest.method.get("name", "")) or manifest.kind,
        metrics=_extract_mean_scores(manifest.metrics.get("test")),
        size=sum(entry.size for entry in manifest.files.values()),
        state=state,
        aside="" if state else explain_rejection(manifest.metrics),
        verdict=_read_verdict(manifest.metrics),
    )


def _extract_mean_scores(test: Any) -> dict[str, float]:
    """The means of what is shipped, out of the scores by system."""
    row = test.get("gitpeft", {}) if isinstance(test, dict) else {}
    found = row.items() if isinstance(row, dict) else ()
    return {name: float(one["mean"]) for name, one in found if isinstance(one, dict) and "mean" in one}


def _read_verdict(metrics: dict[str, Any]) -> str:
    duel = metrics.get("duel")
    return str(duel.get("verdict", "")) if isinstance(duel, dict) else ""


def explain_rejection(metrics: dict[str, Any]) -> str:
    """Why a model lost against the one that was active when it was made, "" if it did not."""
    duel = metrics.get("duel")
    lost = isinstance(duel, dict) and duel.get("won") is False
    return str(duel.get("verdict", "")) if lost and isinstance(duel, dict) else ""


def resolve_model_id(state_dir: Path, name: str) -> str:
    """The id that `name` is the beginning of; GitpeftError when it is that of none or of several."""
    ids = [bundle.id for bundle in bundles.list_bundles(state_dir) if bundle.id.startswith(name.lower())]
    if len(name) < 4 or len(ids) != 1:
        several = len(name) < 4 or len(ids) > 1
        why = "does not name one model" if several else "names no model here"
        raise GitpeftError(f"{name!r} {why}", "`gitpeft models` lists them")
    return ids[0]


def roll_back_model(state_dir: Path, name: str = "") -> Bundle:
    """Make a model active again: the one named, or the one before the active one.

    The model that was active becomes the previous one, so that going back twice changes nothing.
    """
    previous = bundles.read_active_ids(state_dir)[1]
    if not name and not previous:
        raise GitpeftError("there is no earlier model to go back to", "`gitpeft models` lists them")
    return bundles.activate_bundle(state_dir, resolve_model_id(state_dir, name) if name else previous)


# --- one training at a time ---------------------------------------------------------------------------------


@contextmanager
def hold_training_lock(state_dir: Path) -> Iterator[None]:
    """Hold the lock of whoever makes a model here; GitpeftError when another process does.

    The lock ends with its process, however that ends.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    with hold_lock(state_dir / TRAINING_LOCK_FILE, wait=False) as held:
        if not held:
            raise GitpeftError(
                "another training is under way in this repository", "wait for it to end, then try again"
            )
        try:
            yield
        finally:
            _remove_unused_state(state_dir)


def is_untouched(state_dir: Path) -> bool:
    """Whether nothing was ever kept here, a lock aside."""
    return not state_dir.is_dir() or {path.name for path in state_dir.iterdir()} <= {TRAINING_LOCK_FILE}


def _remove_unused_state(state_dir: Path) -> None:
    """Take away a folder that holds nothing but the lock: whoever fails before any work leaves no trace."""
    if is_untouched(state_dir):
        (state_dir / TRAINING_LOCK_FILE).unlink(missing_ok=True)
        try:
            state_dir.rmdir()
        except OSError:
            pass  # another process has just begun there
