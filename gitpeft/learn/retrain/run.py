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
from gitpeft.diff.render import TokenBudget
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.store import CommitRecord
from gitpeft.learn import pipeline
from gitpeft.learn.data import dataset
from gitpeft.learn.data.dataset import Dataset, Example
from gitpeft.learn.pipeline import CandidateModel, MinedHistory, ModelPlan
from gitpeft.learn.retrain import champion_challenger
from gitpeft.learn.retrain.champion_challenger import (
    HELD_OUT_SHARE,
    MAX_TEST_COMMITS,
    MIN_TEST_COMMITS,
    ChallengeVerdict,
)
from gitpeft.learn.risk import relabel
from gitpeft.learn.training.finetune import ProgressListener
from gitpeft.monitor import acceptance
from gitpeft.risk.model import RiskModel, load_risk_model
from gitpeft.risk.precommit import load_risk_encoder
from gitpeft.suggest.retrieval import CommitIndex

MIN_REPLAYED = 256
"""Older examples are replayed one for each new one, but no fewer than this."""

MESSAGE, RISK = "message", "risk"


@dataclass(slots=True)
class RetrainingResult:
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
class _Retraining:
    """What the steps share."""

    repo: Repository
    champion: Bundle
    mined: MinedHistory
    result: RetrainingResult
    listen: ProgressListener
    agreed: Callable[[str], bool]


@dataclass(frozen=True, slots=True)
class _MessageChallenger:
    """A challenger for messages, the data that it was made from, and how its duel ended."""

    candidate: CandidateModel
    data: Dataset
    verdict: ChallengeVerdict


def find_champion(repo: Repository) -> Bundle | None:
    """The installed model, if there is one that can be held against another."""
    active = bundles.open_active_bundle(repo.state_dir)
    return active if active is not None and active.manifest.kind == "model" else None


def run_retraining(
    repo: Repository,
    plan: ModelPlan,
    listen: ProgressListener,
    *,
    cold: bool = False,
    start: Path | None = None,
    agreed: Callable[[str], bool] = lambda _: True,
) -> RetrainingResult:
    """Train challengers, hold them against the champion, and activate or keep aside.

    Training begins with the champion's weights where they fit, with those in the folder `start` if it is
    given, and with the base's when `cold`. `agreed` is asked before a winner is activated. GitpeftError when
    there is no champion, or nothing can be trained here.
    """
    champion = find_champion(repo)
    if champion is None:
        raise GitpeftError("there is no model to hold another one against", "run `gitpeft init`")
    if not pipeline.can_train():
        raise GitpeftError(
            "nothing was trained: gitpeft[train] is not installed", "pip install 'gitpeft[train]'"
        )
    mined = pipeline.mine_history(repo, plan.until, listen)
    data, new, replayed = split_for_challenger(mined.records, champion, plan.seed)
    alike = not cold and start is None and _matches_plan(champion, plan)
    result = RetrainingResult("none", "", champion.id, new=new)
    work = _Retraining(repo, champion, mined, result, listen, agreed)
    trained = None
    if data is None or (new == 0 and alike):
        result.reason = _explain_no_training(new, data)
    else:
        if alike and any(name.startswith(f"{bundles.ADAPTER_FOLDER}/") for name in champion.manifest.files):
            start = champion.path / bundles.ADAPTER_FOLDER
        trained = _train_challenger(
            work, replace(plan, warm=str(start) if start else "", rival=champion.id), data
        )
        result.warm, result.taught, result.replayed = bool(start), len(data.train), replayed
    with bundles.staging_folder(repo.state_dir) as scratch:
        folder = trained.candidate.folder if trained else scratch
        fitted = RiskModel.from_dict(pipeline.fit_risk_model(repo, mined, folder, listen))
        _install_winners(work, trained, _challenge_risk_model(work, fitted), folder)
    return result


def _train_challenger(work: _Retraining, plan: ModelPlan, data: Dataset) -> _MessageChallenger:
    """A challenger for messages, and its duel."""
    if reason := pipeline.explain_skipped_training(plan, data):
        raise GitpeftError(f"nothing was trained: {reason}", "`gitpeft init` serves this history without")
    made = pipeline.build_candidate(work.repo, plan, work.mined, data, work.listen)
    verdict = champion_challenger.compare_message_models(work.champion, made, data, work.listen)
    spent = made.outcome.cost.items()
    work.result.cost = {name: value for name, value in spent if "curve" not in name}
    work.result.seconds = made.outcome.seconds
    return _MessageChallenger(made, data, verdict)


def _challenge_risk_model(work: _Retraining, fitted: RiskModel) -> ChallengeVerdict | None:
    """How the fresh risk model stands against the installed one; None where neither says anything."""
    installed = load_risk_model(work.champion)
    if not installed.is_usable and not fitted.is_usable:
        return None
    known = relabel.mine_labelled_history(work.repo, work.mined.tip, work.listen)
    if known is None:
        return None
    until = relabel.get_fit_time(work.champion, installed)
    work.result.labels = asdict(relabel.compare_labels(known, until))
    return champion_challenger.compare_risk_models(
        installed, until, fitted, known, load_risk_encoder(installed, work.champion)
    )


def _install_winners(
    work: _Retraining, trained: _MessageChallenger | None, risk: ChallengeVerdict | None, folder: Path
) -> None:
    """Put every winner in its place and what lost aside; the result then says what happened.

    `folder` holds the fresh risk model.
    """
    repo, champion, result = work.repo, work.champion, work.result
    wins = _select_winners(work, trained, risk)
    if trained:
        result.action = "activated" if MESSAGE in wins else "aside"
        one = trained.candidate
        metrics = one.made.manifest.metrics | _make_duel_record(result, won=MESSAGE in wins)
        shipped = replace(one, made=replace(one.made, manifest=replace(one.made.manifest, metrics=metrics)))
        score = champion if risk and RISK not in wins else None
        result.bundle = pipeline.install_candidate(
            repo, shipped, trained.data, active=MESSAGE in wins, risk=score
        )
    if RISK in wins and MESSAGE not in wins:
        result.action, result.aside = "activated", result.bundle
        result.bundle = replace_risk_model(repo, champion, folder, _make_duel_record(result, won=True))
    if trained and MESSAGE not in wins:
        acceptance.record_failed_retraining(
            repo.state_dir, result.bundle if RISK in wins else champion.id, work.mined.tip
        )


def _select_winners(
    work: _Retraining, trained: _MessageChallenger | None, risk: ChallengeVerdict | None
) -> set[str]:
    """The tasks whose challengers take their place, once all are asked; notes verdicts and reasons."""
    result = work.result
    found = {MESSAGE: trained.verdict} if trained else {}
    found |= {RISK: risk} if risk else {}
    result.tasks = {task: asdict(one) for task, one in found.items()}
    reasons = [result.reason, *(f"{task}: {one.reason}" for task, one in found.items())]
    result.reason = "; ".join(filter(None, reasons))
    wins = {task for task, one in found.items() if one.won}
    if wins and bundles.read_active_ids(work.repo.state_dir)[0] != work.champion.id:
        wins, result.reason = set(), "another model was activated during the training"
    elif wins and not work.agreed(result.reason):
        wins, result.reason = set(), f"not wanted: {result.reason}"
    return wins


def _make_duel_record(result: RetrainingResult, *, won: bool) -> dict[str, Any]:
    """What a manifest keeps of the duels."""
    verdict = {"won": won, "verdict": result.reason, "champion": result.champion, "tasks": result.tasks}
    return {"duel": verdict | {"labels": result.labels}}


def replace_risk_model(repo: Repository, bundle: Bundle, folder: Path, metrics: dict[str, Any]) -> str:
    """A bundle again with the risk model that `pipeline.fit_risk` left in `folder`, made active; its id."""
    with bundles.staging_folder(repo.state_dir) as staged:
        for name in filter(lambda name: not pipeline.is_risk_file(name), bundle.manifest.files):
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(bundle.read(name))
        for path in filter(lambda path: pipeline.is_risk_file(path.name), folder.iterdir()):
            shutil.copyfile(path, staged / path.name)
        kept = bundle.manifest.metrics | metrics
        id_ = bundles.write_bundle(
            staged, replace(bundle.manifest, created=pipeline.format_current_time(), metrics=kept)
        )
    bundles.activate_bundle(repo.state_dir, id_)
    bundles.prune_bundles(repo.state_dir)
    return id_


def _explain_no_training(new: int, data: Dataset | None) -> str:
    if data is None:
        return (
            f"too few commits that the installed model has not learnt from, {MIN_TEST_COMMITS} are needed "
            "to compare (`gitpeft init` makes a new one without comparing)"
        )
    return "no new usable commit since the installed model was made"


def _matches_plan(champion: Bundle, plan: ModelPlan) -> bool:
    """Whether the champion was tuned as the plan says, so that its weights are a place to start from."""
    from gitpeft.learn.models import bases, methods

    method = methods.make_method(plan.method, plan.settings).as_dict()
    same = json.loads(json.dumps(method)) == champion.manifest.method
    return same and champion.manifest.base_digest == bases.find_base(plan.base).digest


# --- what is learnt from ------------------------------------------------------------------------------------


def split_for_challenger(
    records: Sequence[CommitRecord], champion: Bundle, seed: int
) -> tuple[Dataset | None, int, int]:
    """The challenger's examples, how many are newer than the champion, and how many are replayed.

    None where too few commits are left that the champion was neither taught nor chosen by.
    """
    known = _load_known_commits(champion)
    bare = dataset.select_usable_examples(records)
    before, seen = set(known), set(known[: len(known) - _count_held_out(champion, len(known))])
    new = sum(example.sha not in before for example in bare)
    unseen = [place for place, example in enumerate(bare) if example.sha not in seen]
    count = min(MAX_TEST_COMMITS, max(MIN_TEST_COMMITS, int(HELD_OUT_SHARE * len(unseen))))
    if len(unseen) < count:
        return None, new, 0
    last_seen = max((place for place, example in enumerate(bare) if example.sha in seen), default=-1)
    # a branch that was merged late has older commits among those that were taught or chosen by
    tested = min(len(bare) - unseen[-count], len(bare) - 1 - last_seen)
    if tested < MIN_TEST_COMMITS:
        return None, new, 0
    valid = min(MAX_TEST_COMMITS, max(MIN_TEST_COMMITS, (len(bare) - tested) // 10))
    neighbours = TokenBudget().exemplars
    data = dataset.build_dataset(
        records,
        neighbours,
        dataset.share_for_count(valid, len(bare)),
        dataset.share_for_count(tested, len(bare)),
    )
    taught = set(known[: int(0.8 * len(known))])
    chosen, replayed = _sample_replay(data.examples[: data.first_valid], taught, seed)
    return replace(data, taught=chosen), new, replayed


def _count_held_out(champion: Bundle, known: int) -> int:
    """How many of the newest commits it knows the champion was neither taught nor chosen by."""
    return int(champion.manifest.commits.get("held", known // 10))


def _load_known_commits(champion: Bundle) -> list[str]:
    """The commits of the champion's index, oldest first."""
    index = CommitIndex.load(lambda name: champion.read(f"{bundles.INDEX_FOLDER}/{name}"))
    return [index.get_commit(place)[0] for place in range(len(index))]


def _sample_replay(
    examples: Sequence[Example], taught: set[str], seed: int
) -> tuple[tuple[Example, ...], int]:
    """What the champion was not taught, and a sample of what it was, in their order; the sample's size."""
    fresh = {example.sha for example in examples if example.sha not in taught}
    old = [example for example in examples if example.sha in taught]
    sample = random.Random(seed).sample(old, min(len(old), max(MIN_REPLAYED, len(fresh))))
    chosen = fresh | {example.sha for example in sample}
    return tuple(example for example in examples if example.sha in chosen), len(sample)
