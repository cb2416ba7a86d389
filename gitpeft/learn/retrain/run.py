"""Retrains the installed model on new commits and activates the challenger where it is better.

    all usable commits, oldest first
    |--- trained on by the champion ---|--- newer, or held out from it ---|
    |  replay sample  |  everything it was not trained on  | valid | test |

Messages and risk are two tasks, each with a comparison of its own (see `champion_challenger`). The winner of
a task takes its place in the active model; a loser is kept aside with the reason. The risk model is fitted
again on the labels known today, so that a bug that became known since counts.
"""

import json
import random
import shutil
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Bundle
from gitpeft.diff.render import TokenBudget
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.store import CommitRecord
from gitpeft.learn import packing, pipeline
from gitpeft.learn.budget import RunBudget
from gitpeft.learn.data import dataset
from gitpeft.learn.data.dataset import Dataset, Example
from gitpeft.learn.results import CandidateModel, MinedHistory, ModelPlan
from gitpeft.learn.retrain import champion_challenger
from gitpeft.learn.retrain.champion_challenger import (
    HELD_OUT_SHARE,
    MAX_TEST_COMMITS,
    MIN_TEST_COMMITS,
    ChallengeVerdict,
)
from gitpeft.learn.risk import relabel
from gitpeft.learn.risk.relabel import LabelChanges
from gitpeft.learn.training.finetune import ProgressListener
from gitpeft.monitor import acceptance
from gitpeft.risk.assessor import load_risk_encoder
from gitpeft.risk.model import RiskModel, load_risk_model
from gitpeft.suggest.retrieval import CommitIndex

MIN_REPLAYED = 256
"""One older example is replayed for each new one, but at least this many."""

MESSAGE, RISK = "message", "risk"
UP_TO_DATE = "already up to date: no new commits"


@dataclass(frozen=True, slots=True)
class RetrainingResult:
    """The outcome of a retraining. `action` is activated, aside or none; `reason` says why.

    `champion` is the model that was installed, `bundle` the one that became active or was kept aside, and
    `aside` the one kept aside when the winner of the other task became active. `new` counts usable commits
    since the champion, `taught` those trained on, `replayed` the older ones among them. `tasks` has a verdict
    for each task with a challenger, `labels` what changed in the risk labels since the champion, `seconds`
    the time of each step, `left_out` what there was no time for.
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
    tasks: Mapping[str, ChallengeVerdict] = field(default_factory=dict)
    labels: LabelChanges | None = None
    cost: Mapping[str, Any] = field(default_factory=dict)
    seconds: Mapping[str, float] = field(default_factory=dict)
    left_out: tuple[str, ...] = ()

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        return plain | {
            "tasks": _encode_verdicts(self.tasks),
            "labels": asdict(self.labels) if self.labels else {},
        }


@dataclass(frozen=True, slots=True)
class _Retraining:
    """What all steps need. `agreed` is asked before a winner is activated."""

    repo: Repository
    champion: Bundle
    mined: MinedHistory
    listen: ProgressListener
    agreed: Callable[[str], bool]
    budget: RunBudget


@dataclass(frozen=True, slots=True)
class _MessageChallenger:
    """A trained challenger for messages, its data, whether it started from other weights than the base's,
    and how it compared."""

    candidate: CandidateModel
    data: Dataset
    warm: bool
    verdict: ChallengeVerdict


@dataclass(frozen=True, slots=True)
class _RiskChallenger:
    """How the freshly fitted risk model compared, and what changed in the labels since the champion."""

    verdict: ChallengeVerdict
    labels: LabelChanges


@dataclass(frozen=True, slots=True)
class _Decision:
    """The tasks whose challengers are activated, and the reason for people."""

    winners: frozenset[str]
    reason: str


def find_champion(repo: Repository) -> Bundle | None:
    """The installed model, if there is one that a challenger can be compared with."""
    active = bundles.open_active_bundle(repo.state_dir)
    return active if active is not None and active.manifest.kind == "model" else None


def run_retraining(
    repo: Repository,
    plan: ModelPlan,
    listen: ProgressListener,
    *,
    from_scratch: bool = False,
    start: Path | None = None,
    agreed: Callable[[str], bool] = lambda _: True,
) -> RetrainingResult:
    """Train challengers, compare them with the champion, and activate them or keep them aside.

    Training starts from the champion's weights where they fit the plan, from those in the folder `start` if
    it is given, and from the base's when `from_scratch`. Without new commits and with the same plan, nothing
    is trained. GitpeftError when there is no champion, or nothing can be trained here.
    """
    champion = find_champion(repo)
    if champion is None:
        raise GitpeftError("no model is installed to compare with", "run `gitpeft init`")
    if not pipeline.can_train():
        raise GitpeftError(
            "nothing was trained: gitpeft[train] is not installed", "pip install 'gitpeft[train]'"
        )
    mined = pipeline.mine_history(repo, plan.until, listen)
    budget = RunBudget.start(repo.state_dir, plan.minutes)
    limit = partial(budget.limit_examples, tip=mined.tip)
    split = split_for_challenger(mined.records, champion, plan.seed, limit)
    same_plan = not from_scratch and start is None and _matches_plan(champion, plan)
    work = _Retraining(repo, champion, mined, listen, agreed, budget)
    skipped = UP_TO_DATE if split.new == 0 and same_plan else "" if split.data else _TOO_FEW_COMMITS
    trained = None
    if split.data is not None and not skipped:
        if same_plan and _has_adapter(champion):
            start = champion.path / bundles.ADAPTER_FOLDER
        warm_plan = replace(plan, warm=str(start) if start else "", rival=champion.id)
        trained = _train_challenger(work, warm_plan, split.data)
    with bundles.staging_folder(repo.state_dir) as scratch:
        folder = trained.candidate.folder if trained else scratch
        fitted = pipeline.fit_risk_model(repo, mined, folder, listen, budget=budget).model
        result = _install_winners(work, trained, _challenge_risk_model(work, fitted), folder, skipped)
    left_out = budget.report().left_out
    return replace(result, new=split.new, replayed=split.replayed if trained else 0, left_out=left_out)


_TOO_FEW_COMMITS = (
    f"too few commits that the installed model was not trained on, {MIN_TEST_COMMITS} are needed to compare "
    "(`gitpeft init` makes a new model without comparing)"
)


def _train_challenger(work: _Retraining, plan: ModelPlan, data: Dataset) -> _MessageChallenger:
    """Train a challenger for messages and compare it with the champion."""
    if reason := pipeline.explain_skipped_training(plan, data):
        raise GitpeftError(f"nothing was trained: {reason}", "`gitpeft init` makes a model without training")
    made = pipeline.build_candidate(work.repo, plan, work.mined, data, work.listen, budget=work.budget)
    base = pipeline.find_budgeted_base(plan)
    most = work.budget.count_compared(base, MAX_TEST_COMMITS)
    verdict, measured = champion_challenger.compare_message_models(
        work.champion, made, data, work.listen, max(most, MIN_TEST_COMMITS)
    )
    return _MessageChallenger(replace(made, measured=measured), data, bool(plan.warm), verdict)


def _challenge_risk_model(work: _Retraining, fitted: RiskModel) -> _RiskChallenger | None:
    """Compare the fresh risk model with the installed one; None where neither is usable."""
    installed = load_risk_model(work.champion)
    if not installed.is_usable and not fitted.is_usable:
        return None
    limit = work.budget.limit_tracing(len(work.mined.records))
    known = relabel.mine_labelled_history(work.repo, work.mined.tip, work.listen, limit)
    if known is None:
        return None
    until = relabel.get_fit_time(work.champion, installed)
    verdict = champion_challenger.compare_risk_models(
        installed, until, fitted, known, load_risk_encoder(installed, work.champion)
    )
    return _RiskChallenger(verdict, relabel.compare_labels(known, until))


def _install_winners(
    work: _Retraining,
    trained: _MessageChallenger | None,
    risk: _RiskChallenger | None,
    folder: Path,
    skipped: str,
) -> RetrainingResult:
    """Activate every winner and keep losers aside. `folder` holds the fresh risk model."""
    repo, champion = work.repo, work.champion
    verdicts = {MESSAGE: trained.verdict} if trained else {}
    verdicts |= {RISK: risk.verdict} if risk else {}
    decision = _select_winners(work, verdicts, skipped)
    message_won, risk_won = MESSAGE in decision.winners, RISK in decision.winners
    labels = risk.labels if risk else None
    result = RetrainingResult("none", decision.reason, champion.id, tasks=verdicts, labels=labels)
    if trained:
        kept_score = champion if risk and not risk_won else None
        bundle = _install_challenger(work, trained, result, won=message_won, risk=kept_score)
        result = replace(
            _describe_training(result, trained), action="activated" if message_won else "aside", bundle=bundle
        )
    if risk_won and not message_won:
        bundle = replace_risk_model(repo, champion, folder, _make_duel_record(result, won=True))
        result = replace(result, action="activated", aside=result.bundle, bundle=bundle)
    if trained and not message_won:
        acceptance.record_failed_retraining(
            repo.state_dir, result.bundle if risk_won else champion.id, work.mined.tip
        )
    return result


def _describe_training(result: RetrainingResult, trained: _MessageChallenger) -> RetrainingResult:
    candidate = trained.candidate
    return replace(
        result,
        warm=trained.warm,
        taught=len(trained.data.train),
        cost=candidate.trained.cost.as_dict(curves=False) if candidate.trained else {},
        seconds=candidate.seconds,
    )


def _install_challenger(
    work: _Retraining,
    trained: _MessageChallenger,
    result: RetrainingResult,
    *,
    won: bool,
    risk: Bundle | None,
) -> str:
    """Write the challenger's bundle, active if it `won`; its id. With `risk` that bundle's score goes in."""
    recorded = trained.candidate.add_metrics(_make_duel_record(result, won=won))
    return packing.install_candidate(work.repo, recorded, trained.data, active=won, risk=risk)


def _select_winners(work: _Retraining, verdicts: Mapping[str, ChallengeVerdict], skipped: str) -> _Decision:
    """The tasks to activate once all have been compared; `skipped` says why nothing was trained."""
    reasons = [skipped, *(f"{task}: {one.reason}" for task, one in verdicts.items())]
    reason = "; ".join(filter(None, reasons))
    winners = frozenset(task for task, one in verdicts.items() if one.won)
    if not winners and skipped == UP_TO_DATE:
        reason = skipped  # that an installed risk score stays as it is goes without saying then
    if winners and bundles.read_active_ids(work.repo.state_dir)[0] != work.champion.id:
        return _Decision(frozenset(), "another model was activated during the training")
    if winners and not work.agreed(reason):
        return _Decision(frozenset(), f"not wanted: {reason}")
    return _Decision(winners, reason)


def _encode_verdicts(verdicts: Mapping[str, ChallengeVerdict]) -> dict[str, object]:
    return {task: one.as_dict() for task, one in verdicts.items()}


def _make_duel_record(result: RetrainingResult, *, won: bool) -> dict[str, object]:
    """What a manifest records of the comparison, under its stored key `duel`."""
    plain = result.as_dict()
    return {
        "duel": {
            "won": won,
            "verdict": result.reason,
            "champion": result.champion,
            "tasks": plain["tasks"],
            "labels": plain["labels"],
        }
    }


def replace_risk_model(repo: Repository, bundle: Bundle, folder: Path, metrics: dict[str, object]) -> str:
    """Activate a copy of `bundle` with the risk model that lies in `folder`; the id of the copy."""
    with bundles.staging_folder(repo.state_dir) as staged:
        for name in filter(lambda name: not packing.is_risk_file(name), bundle.manifest.files):
            (staged / name).parent.mkdir(parents=True, exist_ok=True)
            (staged / name).write_bytes(bundle.read(name))
        for path in filter(lambda path: packing.is_risk_file(path.name), folder.iterdir()):
            shutil.copyfile(path, staged / path.name)
        kept = bundle.manifest.metrics | metrics
        id_ = bundles.write_bundle(
            staged, replace(bundle.manifest, created=packing.format_current_time(), metrics=kept)
        )
    bundles.activate_bundle(repo.state_dir, id_)
    bundles.prune_bundles(repo.state_dir)
    return id_


def _has_adapter(champion: Bundle) -> bool:
    return any(name.startswith(f"{bundles.ADAPTER_FOLDER}/") for name in champion.manifest.files)


def _matches_plan(champion: Bundle, plan: ModelPlan) -> bool:
    """Whether the champion came out of such a plan, so that only new commits can change anything.

    A base that was selected without tuning, after tuning had been tried, does not record the method; it
    matches the default plan.
    """
    from gitpeft.learn.models import bases, methods

    manifest, base = champion.manifest, bases.find_base(plan.base)
    if manifest.base_digest != base.digest:
        return False
    if manifest.method.get("name") == "none":
        return bool(manifest.metrics.get("tuning")) and plan.method == ModelPlan().method
    causal = base.architecture.causal
    method = methods.make_method(plan.method, plan.settings, causal=causal).as_dict()
    return bool(json.loads(json.dumps(method)) == manifest.method)


# --- the data of a challenger -------------------------------------------------------------------------------


@dataclass(frozen=True, slots=True)
class ChallengerSplit:
    """The challenger's examples, how many commits are newer than the champion, and how many are replayed.

    `data` is None where too few commits are left that the champion was neither trained nor validated on.
    """

    data: Dataset | None
    new: int
    replayed: int = 0


def split_for_challenger(
    records: Sequence[CommitRecord],
    champion: Bundle,
    seed: int,
    limit: Callable[[int], int] = lambda count: count,
) -> ChallengerSplit:
    """Split a history so that the test commits are new to the champion as well as to the challenger.

    Commits before the first that the champion knows were left out for want of time, and are left out again;
    `limit` says how many of the others may be taken.
    """
    known = _load_known_commits(champion)
    bare = dataset.select_usable_examples(records)
    first = next((i for i, example in enumerate(bare) if known and example.sha == known[0]), 0)
    bare = bare[len(bare) - limit(len(bare) - first) :]
    before, seen = set(known), set(known[: len(known) - _count_held_out(champion, len(known))])
    new = sum(example.sha not in before for example in bare)
    unseen = [place for place, example in enumerate(bare) if example.sha not in seen]
    count = min(MAX_TEST_COMMITS, max(MIN_TEST_COMMITS, int(HELD_OUT_SHARE * len(unseen))))
    if len(unseen) < count:
        return ChallengerSplit(None, new)
    last_seen = max((place for place, example in enumerate(bare) if example.sha in seen), default=-1)
    # a branch that was merged late has older commits among those that were trained or validated on
    tested = min(len(bare) - unseen[-count], len(bare) - 1 - last_seen)
    if tested < MIN_TEST_COMMITS:
        return ChallengerSplit(None, new)
    valid = min(MAX_TEST_COMMITS, max(MIN_TEST_COMMITS, (len(bare) - tested) // 10))
    neighbours = TokenBudget().exemplars
    data = dataset.build_dataset(
        records,
        neighbours,
        dataset.share_for_count(valid, len(bare)),
        dataset.share_for_count(tested, len(bare)),
        limit=lambda _: len(bare),
    )
    trained_on = set(known[: int(0.8 * len(known))])
    chosen, replayed = _sample_replay(data.examples[: data.first_valid], trained_on, seed)
    return ChallengerSplit(replace(data, taught=chosen), new, replayed)


def _count_held_out(champion: Bundle, known: int) -> int:
    """How many of the newest commits it knows the champion was neither trained nor validated on."""
    return int(champion.manifest.commits.get("held", known // 10))


def _load_known_commits(champion: Bundle) -> list[str]:
    """The commits of the champion's index, oldest first."""
    index = CommitIndex.load_from_bundle(champion)
    return [index.get_commit(place)[0] for place in range(len(index))]


def _sample_replay(
    examples: Sequence[Example], trained_on: set[str], seed: int
) -> tuple[tuple[Example, ...], int]:
    """What the champion was not trained on and a sample of the rest, in order; the sample's size."""
    fresh = {example.sha for example in examples if example.sha not in trained_on}
    old = [example for example in examples if example.sha in trained_on]
    sample = random.Random(seed).sample(old, min(len(old), max(MIN_REPLAYED, len(fresh))))
    chosen = fresh | {example.sha for example in sample}
    return tuple(example for example in examples if example.sha in chosen), len(sample)
