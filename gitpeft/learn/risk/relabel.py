"""What became known since a risk score was fitted: hides the labels of then and of now.

A commit gets a verdict once: buggy when a fix of it is known, clean when it is old enough without one. The
verdicts that came since are what an installed score was not fitted on, and what its promises are held to.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from gitpeft.bundle.bundle import Bundle
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn.risk import selection
from gitpeft.learn.risk.classifiers import Labelled, ranked, read_by
from gitpeft.learn.risk.selection import Known, Listener
from gitpeft.risk.model import Model, model_of
from gitpeft.risk.precommit import reader_of


@dataclass(frozen=True, slots=True)
class Relabelled:
    """What became of the labels since a moment: bugs that became known, how many of those counted as clean
    until then, and how many commits have a label now that had none."""

    known: int
    changed: int
    judged: int


def known_now(repo: Repository, tip: str, listen: Listener = lambda *_: None) -> Known | None:
    """What is known at the commit `tip`; None where it has no commits."""
    with History.open(repo.state_dir) as history:
        history.mine(repo, tip)
        return selection.read(history, repo, tip, listen)


def fitted_at(bundle: Bundle, model: Model) -> float:
    """When a bundle's score was fitted, in unix seconds; of older scores, when their bundle was made."""
    made = datetime.fromisoformat(bundle.manifest.created).timestamp()
    return float(model.report.get("until", made))


def relabelled(known: Known, until: float) -> Relabelled:
    """The labels of now against those of the moment `until` (unix seconds)."""
    before = _labelled(known, until)
    then = dict(zip(before.shas, before.truth, strict=True))
    found = known.found.known_at(known.now) - known.found.known_at(int(until))
    changed = sum(then.get(sha) == 0 for sha in found)
    return Relabelled(len(found), changed, len(judged_since(known, until)))


def judged_since(known: Known, until: float) -> Labelled:
    """The commits that have a label now and had none at `until`, oldest first."""
    before, after = set(_labelled(known, until).shas), _labelled(known, known.now)
    return after.take(np.array([i for i, sha in enumerate(after.shas) if sha not in before], dtype=int))


def _labelled(known: Known, moment: float) -> Labelled:
    return selection.label(known.measured, known.found, int(moment), texts=known.texts)


def against_promises(repo: Repository, bundle: Bundle) -> list[tuple[float, bool]]:
    """What a bundle's score gave each commit judged since it was fitted (a probability), and what came of it.

    [] where the bundle has no score, or HEAD no commits.
    """
    model, head = model_of(bundle), repo.head()
    known = known_now(repo, head) if model.usable and head else None
    if known is None:
        return []
    judged = judged_since(known, fitted_at(bundle, model))
    judged = read_by(reader_of(model, bundle), judged)
    said = ranked(model, judged) if len(judged) else None
    return [(float(p), bool(t)) for p, t in zip(said.chances, said.truth, strict=True)] if said else []
