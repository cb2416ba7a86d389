"""A model that keeps up: hides what a challenger learns from, and what becomes of it.

    all usable commits, oldest first
    |--- known to the champion ---|--- newer, or held out from it ---|
    |  replay sample  |  everything that it was not taught  | valid  | duel |

Messages and risk are two tasks, each with a duel of its own (see `duel`): what wins takes its place in the
active model, and what loses is kept aside with the reason. The risk model is fitted again on the labels of
today, so that a bug that became known counts from now on.
"""

import json
import random
import shutil
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Bundle
from gitpeft.diff.patch import Budget
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.store import Record
from gitpeft.learn import pipeline
from gitpeft.learn.data import dataset
from gitpeft.learn.data.dataset import Dataset, Example
from gitpeft.learn.pipeline import Candidate, Mined, Plan
from gitpeft.learn.retrain import champion_challenger
from gitpeft.learn.retrain.champion_challenger import LEAST, MOST, SHARE_HELD, Verdict
from gitpeft.learn.risk import relabel
from gitpeft.learn.training.finetune import Listener
from gitpeft.monitor import acceptance
from gitpeft.risk.model import Model, model_of
from gitpeft.risk.precommit import reader_of
from gitpeft.suggest.retrieval import Index

REPLAY_LEAST = 256
"""Older examples are replayed one for each new one, but no fewer than this."""

MESSAGE, RISK = "message", "risk"


@dataclass(slots=True)
class Retrained:
    """What a retraining came to. `action` is activated, aside or none; `reason` says why.

    `bundle` is the model that became active, or the one kept aside; `aside` the one kept aside when a winner
    of the other task became active. `tasks` has a verdict for each task that there was a challenger for,
    `labels` what became of the risk labels since the champion (see `verdicts.Relabelled`).
    """

    action: str
    reason: str
    champion: str
    bundle: str = ""
    aside: str = ""
    warm: bool = False
    new: int = 0
    taught: int = 0
    replayed: int = 0
    tasks: dict[str, dict[str, Any]] = field(default_factory=dict)
    labels: dict[str, int] = field(default_factory=dict)
    cost: dict[str, Any] = field(default_factory=dict)
    seconds: dict[str, float] = field(default_factory=dict)


@dataclass(slots=True)
class _Work:
    """What the steps share."""

    repo: Repository
    champion: Bundle
    mined: Mined
    result: Retrained
    listen: Listener
    agreed: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class _Trained:
    """A challenger for messages, the data that it was made from, and how its duel ended."""

    candidate: Candidate
    data: Dataset
    verdict: Verdict


def champion_of(repo: Repository) -> Bundle | None:
    """The installed model, if there is one that can be held against another."""
    active = bundles.active(repo.state_dir)
    return active if active is not None and active.manifest.kind == "model" else None


def run(
    repo: Repository,
    plan: Plan,
    listen: Listener,
    *,
    cold: bool = False,
    start: Path | None = None,
    agreed: Callable[[str], bool] = lambda _: True,
) -> Retrained:
    """Train challengers, hold them against the champion, and activate or keep aside.

    Training begins with the champion's weights where they fit, with those in the folder `start` if it is
    given, and with the base's when `cold`. `agreed` is asked before a winner is activated. GitpeftError when
    there is no champion, or nothing can be trained here.
    """
    champion = champion_of(repo)
    if champion is None:
        raise GitpeftError("there is no model to hold another one against", "run `gitpeft init`")
    if not pipeline.can_train():
        raise GitpeftError(
            "nothing was trained: gitpeft[train] is not installed", "pip install 'gitpeft[train]'"
        )
    mined = pipeline.mine(repo, plan.until, listen)
    data, new, replayed = split(mined.records, champion, plan.seed)
    alike = not cold and start is None and _alike(champion, plan)
    result = Retrained("none", "", champion.id, new=new)
    work = _Work(repo, champion, mined, result, listen, agreed)
    trained = None
    if data is None or (new == 0 and alike):
        result.reason = _nothing(new, data)
    else:
        if alike and any(name.startswith(f"{bundles.ADAPTER}/") for name in champion.manifest.files):
            start = champion.path / bundles.ADAPTER
        trained = _train(work, replace(plan, warm=str(start) if start else "", rival=champion.id), data)
        result.warm, result.taught, result.replayed = bool(start), len(data.train), replayed
    with bundles.staging(repo.state_dir) as scratch:
        folder = trained.candidate.folder if trained else scratch
        fitted = Model.of(pipeline.fit_risk(repo, mined, folder, listen))
        _settle(work, trained, _judge_risk(work, fitted), folder)
    return result


def _train(work: _Work, plan: Plan, data: Dataset) -> _Trained:
    """A challenger for messages, and its duel."""
    if reason := pipeline.why_not(plan, data):
        raise GitpeftError(f"nothing was trained: {reason}", "`gitpeft init` serves this history without")
    made = pipeline.candidate(work.repo, plan, work.mined, data, work.listen)
    verdict = champion_challenger.message(work.champion, made, data, work.listen)
    spent = made.outcome.cost.items()
    work.result.cost = {name: value for name, value in spent if "curve" not in name}
    work.result.seconds = made.outcome.seconds
    return _Trained(made, data, verdict)


def _judge_risk(work: _Work, fitted: Model) -> Verdict | None:
    """How the fresh risk model stands against the installed one; None where neither says anything."""
    installed = model_of(work.champion)
    if not installed.usable and not fitted.usable:
        return None
    known = relabel.known_now(work.repo, work.mined.tip, work.listen)
    if known is None:
        return None
    until = relabel.fitted_at(work.champion, installed)
    work.result.labels = asdict(relabel.relabelled(known, until))
    return champion_challenger.risk(installed, until, fitted, known, reader_of(installed, work.champion))


def _settle(work: _Work, trained: _Trained | None, risk: Verdict | None, folder: Path) -> None:
    """Put every winner in its place and what lost aside; the result then says what happened.

    `folder` holds the fresh risk model.
    """
    repo, champion, result = work.repo, work.champion, work.result
    wins = _winners(work, trained, risk)
    if trained:
        result.action = "activated" if MESSAGE in wins else "aside"
        one = trained.candidate
        metrics = one.made.manifest.metrics | _kept(result, won=MESSAGE in wins)
        shipped = replace(one, made=replace(one.made, manifest=replace(one.made.manifest, metrics=metrics)))
        score = champion if risk and RISK not in wins else None
        result.bundle = pipeline.ship(repo, shipped, trained.data, active=MESSAGE in wins, risk=score)
    if RISK in wins and MESSAGE not in wins:
        result.action, result.aside = "activated", result.bundle
        result.bundle = renew_risk(repo, champion, folder, _kept(result, won=True))
    if trained and MESSAGE not in wins:
        acceptance.tried(repo.state_dir, result.bundle if RISK in wins else champion.id, work.mined.tip)


def _winners(work: _Work, trained: _Trained | None, risk: Verdict | None) -> set[str]:
    """The tasks whose challengers take their place, once all are asked; notes verdicts and reasons."""
    result = work.result
    found = {MESSAGE: trained.verdict} if trained else {}
    found |= {RISK: risk} if risk else {}
    result.tasks = {task: asdict(one) for task, one in found.items()}
    reasons = [result.reason, *(f"{task}: {one.reason}" for task, one in found.items())]
    result.reason = "; ".join(filter(None, reasons))
    wins = {task for task, one in found.items() if one.won}
    if wins and bundles.pointer(work.repo.state_dir)[0] != work.champion.id:
        wins, result.reason = set(), "another model was activated during the training"
    elif wins and not work.agreed(result.reason):
        wins, result.reason = set(), f"not wanted: {result.reason}"
    return wins


def _kept(result: Retrained, *, won: bool) -> dict[str, Any]:
    """What a manifest keeps of the duels."""
    verdict = {"won": won, "verdict": result.reason, "champion": result.champion, "tasks": result.tasks}
    return {"duel": verdict | {"labels": result.labels}}


def renew_risk(repo: Repository, bundle: Bundle, folder: Path, metrics: dict[str, Any]) -> str:
    """A bundle again with the risk model that `pipeline.fit_risk` left in `folder`, made active; its id."""
    with bundles.staging(repo.state_dir) as staged:
        for name in filter(lambda name: not pipeline.of_risk(name), bundle.manifest.files):
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(bundle.read(name))
        for path in filter(lambda path: pipeline.of_risk(path.name), folder.iterdir()):
            shutil.copyfile(path, staged / path.name)
        kept = bundle.manifest.metrics | metrics
        id_ = bundles.write(staged, replace(bundle.manifest, created=pipeline.now(), metrics=kept))
    bundles.activate(repo.state_dir, id_)
    bundles.prune(repo.state_dir)
    return id_


def _nothing(new: int, data: Dataset | None) -> str:
    if data is None:
        return (
            f"too few commits that the installed model has not learnt from, {LEAST} are needed to compare "
            "(`gitpeft init` makes a new one without comparing)"
        )
    return "no new usable commit since the installed model was made"


def _alike(champion: Bundle, plan: Plan) -> bool:
    """Whether the champion was tuned as the plan says, so that its weights are a place to start from."""
    from gitpeft.learn.models import bases, methods

    method = methods.of(plan.method, plan.settings).as_dict()
    same = json.loads(json.dumps(method)) == champion.manifest.method
    return same and champion.manifest.base_digest == bases.find(plan.base).digest


# --- what is learnt from ------------------------------------------------------------------------------------


def split(records: Sequence[Record], champion: Bundle, seed: int) -> tuple[Dataset | None, int, int]:
    """The challenger's examples, how many are newer than the champion, and how many are replayed.

    None where too few commits are left that the champion was neither taught nor chosen by.
    """
    known = _known(champion)
    bare = dataset.usable(records)
    before, seen = set(known), set(known[: len(known) - _held(champion, len(known))])
    new = sum(example.sha not in before for example in bare)
    unseen = [place for place, example in enumerate(bare) if example.sha not in seen]
    count = min(MOST, max(LEAST, int(SHARE_HELD * len(unseen))))
    if len(unseen) < count:
        return None, new, 0
    last_seen = max((place for place, example in enumerate(bare) if example.sha in seen), default=-1)
    # a branch that was merged late has older commits among those that were taught or chosen by
    tested = min(len(bare) - unseen[-count], len(bare) - 1 - last_seen)
    if tested < LEAST:
        return None, new, 0
    valid = min(MOST, max(LEAST, (len(bare) - tested) // 10))
    neighbours = Budget().exemplars
    data = dataset.make(
        records, neighbours, dataset.share(valid, len(bare)), dataset.share(tested, len(bare))
    )
    taught = set(known[: int(0.8 * len(known))])
    chosen, replayed = _replayed(data.examples[: data.first_valid], taught, seed)
    return replace(data, taught=chosen), new, replayed


def _held(champion: Bundle, known: int) -> int:
    """How many of the newest commits it knows the champion was neither taught nor chosen by."""
    return int(champion.manifest.commits.get("held", known // 10))


def _known(champion: Bundle) -> list[str]:
    """The commits of the champion's index, oldest first."""
    index = Index.load(lambda name: champion.read(f"{bundles.INDEX}/{name}"))
    return [index.commit(place)[0] for place in range(len(index))]


def _replayed(examples: Sequence[Example], taught: set[str], seed: int) -> tuple[tuple[Example, ...], int]:
    """What the champion was not taught, and a sample of what it was, in their order; the sample's size."""
    fresh = {example.sha for example in examples if example.sha not in taught}
    old = [example for example in examples if example.sha in taught]
    sample = random.Random(seed).sample(old, min(len(old), max(REPLAY_LEAST, len(fresh))))
    chosen = fresh | {example.sha for example in sample}
    return tuple(example for example in examples if example.sha in chosen), len(sample)
