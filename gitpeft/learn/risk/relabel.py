"""Compares the bug labels of today with those known when a risk score was fitted.

A commit is labelled once: buggy when a fix of it becomes known, clean when it is old enough without one. The
labels that came since are data that an installed score was not fitted on; its calibration is checked on them.
"""

from dataclasses import dataclass
from datetime import datetime

import numpy as np

from gitpeft.bundle.bundle import Bundle
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn.risk import labelled_history
from gitpeft.learn.risk.classifiers import LabelledCommits, add_encoder_readings, rank_commits
from gitpeft.learn.risk.labelled_history import LabelledHistory, Listener
from gitpeft.learn.szz.szz import TraceLimit
from gitpeft.risk.assessor import load_risk_encoder
from gitpeft.risk.model import RiskModel, load_risk_model


@dataclass(frozen=True, slots=True)
class LabelChanges:
    """Changes since a moment: `known` bugs that became known, how many of them had been labelled clean
    (`changed`), and how many commits have a label now that had none (`judged`)."""

    known: int
    changed: int
    judged: int


def mine_labelled_history(
    repo: Repository, tip: str, listen: Listener = lambda *_: None, limit: TraceLimit | None = None
) -> LabelledHistory | None:
    """The history and labels known at the commit `tip`, with a `limit` the newest; None without commits."""
    with History.open(repo.state_dir) as history:
        history.mine_commits(repo, tip)
        return labelled_history.read_labelled_history(history, repo, tip, listen, limit)


def get_fit_time(bundle: Bundle, model: RiskModel) -> float:
    """When a bundle's score was fitted, in unix seconds; for old bundles, when the bundle was made."""
    made = datetime.fromisoformat(bundle.manifest.created).timestamp()
    return float(model.report.get("until", made))


def compare_labels(known: LabelledHistory, until: float) -> LabelChanges:
    """Count the changes from the labels at `until` (unix seconds) to those of now."""
    before = _label_at(known, until)
    then = dict(zip(before.shas, before.truth, strict=True))
    found = known.found.bugs_known_at(known.now) - known.found.bugs_known_at(int(until))
    changed = sum(1 for sha in found if then.get(sha) == 0)
    return LabelChanges(len(found), changed, len(select_newly_labelled(known, until)))


def select_newly_labelled(known: LabelledHistory, until: float) -> LabelledCommits:
    """The commits that have a label now and had none at `until`, oldest first.

    Those that are too new to tell what became of them are left out: only bugs among them are known.
    """
    before, after = set(_label_at(known, until).shas), _label_at(known, known.now)
    limit = labelled_history.find_label_limit(known.found, known.now)
    new = [i for i, sha in enumerate(after.shas) if sha not in before and after.times[i] <= limit]
    return after.take(np.array(new, dtype=int))


def _label_at(known: LabelledHistory, moment: float) -> LabelledCommits:
    return labelled_history.label_commits(known.measured, known.found, int(moment), texts=known.texts)


def collect_calibration_pairs(repo: Repository, bundle: Bundle) -> list[tuple[float, bool]]:
    """(estimated probability, whether it is a known bug) for each commit labelled since the score was fitted.

    [] where the bundle has no usable score, or HEAD no commits.
    """
    model, head = load_risk_model(bundle), repo.resolve_head()
    known = mine_labelled_history(repo, head) if model.is_usable and head else None
    if known is None:
        return []
    labelled = select_newly_labelled(known, get_fit_time(bundle, model))
    if not len(labelled):
        return []
    ranked = rank_commits(model, add_encoder_readings(load_risk_encoder(model, bundle), labelled))
    return [(float(p), bool(t)) for p, t in zip(ranked.chances, ranked.truth, strict=True)]
