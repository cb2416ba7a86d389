"""The models of a repository: list them, find one by part of its id, roll back, and train one at a time.

The active model and the previous one are always kept, and so are the newest ones (`bundle.prune_bundles`).
Rolling back is one rename of `bundle`: a commit made meanwhile gets its answer from the old model or the new.
"""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Bundle
from gitpeft.bundle.manifest import CommitRange
from gitpeft.errors import GitpeftError
from gitpeft.files import hold_lock

TRAINING_LOCK_FILE = "train.lock"
SHORT_ID_LENGTH = 12
"""Characters of an id that are shown."""

_MIN_PREFIX_LENGTH = 4
"""A prefix of an id that is at least this long names a model."""


@dataclass(frozen=True, slots=True)
class ModelVersion:
    """A model in the list of `gitpeft models`.

    `size` is in bytes, `commits` as in the manifest; `state` is "active", "previous" or "". `metrics` maps
    the name of each metric to its mean on held-out commits. `verdict` says how a challenger compared with the
    champion, "" for other models; `aside` is the same where the challenger lost and was not activated.
    """

    id: str
    created: str
    commits: CommitRange
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


def _extract_mean_scores(test: object) -> dict[str, float]:
    """The mean of each metric of the selected system ("gitpeft"), from the test scores of all systems."""
    selected = test.get("gitpeft") if isinstance(test, dict) else None
    if not isinstance(selected, dict):
        return {}
    return {
        name: float(score["mean"])
        for name, score in selected.items()
        if isinstance(score, dict) and "mean" in score
    }


def _read_verdict(metrics: Mapping[str, object]) -> str:
    """How a challenger compared with the champion, as its manifest stores it under "duel"."""
    comparison = metrics.get("duel")
    return str(comparison.get("verdict", "")) if isinstance(comparison, dict) else ""


def explain_rejection(metrics: Mapping[str, object]) -> str:
    """Why a challenger lost against the champion, from its manifest's metrics; "" for any other model."""
    comparison = metrics.get("duel")
    lost = isinstance(comparison, dict) and comparison.get("won") is False
    return _read_verdict(metrics) if lost else ""


def resolve_model_id(state_dir: Path, name: str) -> str:
    """The id that starts with `name` (at least four characters, upper or lower case).

    GitpeftError when no model's id does, or several do.
    """
    ids = [bundle.id for bundle in bundles.list_bundles(state_dir) if bundle.id.startswith(name.lower())]
    if len(name) >= _MIN_PREFIX_LENGTH and len(ids) == 1:
        return ids[0]
    ambiguous = len(name) < _MIN_PREFIX_LENGTH or ids
    reason = "does not name one model" if ambiguous else "names no model here"
    raise GitpeftError(f"{name!r} {reason}", "`gitpeft models` lists them")


def roll_back_model(state_dir: Path, name: str = "") -> Bundle:
    """Activate an earlier model: the one whose id starts with `name`, by default the previous one.

    The model that was active becomes the previous one, so rolling back twice changes nothing. GitpeftError
    when there is no such model or it is damaged.
    """
    previous = bundles.read_active_ids(state_dir)[1]
    if not name and not previous:
        raise GitpeftError("there is no earlier model to go back to", "`gitpeft models` lists them")
    return bundles.activate_bundle(state_dir, resolve_model_id(state_dir, name) if name else previous)


# --- one training at a time ---------------------------------------------------------------------------------


@contextmanager
def hold_training_lock(state_dir: Path) -> Iterator[None]:
    """Hold the lock that training needs; GitpeftError when another process holds it.

    The lock is released when its process ends, however that ends.
    """
    state_dir.mkdir(parents=True, exist_ok=True)
    with hold_lock(state_dir / TRAINING_LOCK_FILE, wait=False) as held:
        if not held:
            raise GitpeftError(
                "another training is under way in this repository", "wait until it ends, then try again"
            )
        try:
            yield
        finally:
            _remove_unused_state(state_dir)


def is_untouched(state_dir: Path) -> bool:
    """Whether a state folder is missing or holds nothing but the training lock."""
    return not state_dir.is_dir() or {path.name for path in state_dir.iterdir()} <= {TRAINING_LOCK_FILE}


def _remove_unused_state(state_dir: Path) -> None:
    """Remove a state folder that holds nothing but the lock: a run that failed at once leaves no trace."""
    if is_untouched(state_dir):
        (state_dir / TRAINING_LOCK_FILE).unlink(missing_ok=True)
        try:
            state_dir.rmdir()
        except OSError:
            pass  # another process has just started to use it
