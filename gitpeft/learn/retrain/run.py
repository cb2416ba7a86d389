"""Retrains the installed model on new commits and activates the challenger where it is better.

Messages and risk are two tasks, each with a comparison of its own (see `champion_challenger`). The winner of
a task takes its place in the active model; a loser is kept aside with the reason. The risk model is fitted
again on the labels known today, so that a bug that became known since counts.
"""

import json
import math
import shutil
from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from functools import partial
from pathlib import Path
from typing import Any

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Bundle
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.learn import packing, pipeline
from gitpeft.learn.budget import BudgetReport, RunBudget
from gitpeft.learn.data import dataset
from gitpeft.learn.data.dataset import Dataset
from gitpeft.learn.results import CandidateModel, MinedHistory, ModelPlan
from gitpeft.learn.retrain import champion_challenger
from gitpeft.learn.retrain.challenger_data import ChallengerExamples, ChallengerSplit
from gitpeft.learn.retrain.champion_challenger import MAX_TEST_COMMITS, MIN_TEST_COMMITS, ChallengeVerdict
from gitpeft.learn.risk import last_comparison, relabel
from gitpeft.learn.risk.labelled_history import LabelledHistory
from gitpeft.learn.risk.relabel import LabelChanges
from gitpeft.learn.training.finetune import ProgressListener
from gitpeft.monitor import acceptance
from gitpeft.risk.assessor import load_risk_encoder
from gitpeft.risk.model import RiskModel, load_risk_model

MESSAGE, RISK = "message", "risk"
UP_TO_DATE = "already up to date: no new commits"


@dataclass(frozen=True, slots=True)
class RetrainingResult:
    """The outcome of a retraining. `action` is activated, aside or none; `reason` says why.

    `champion` is the model that was installed, `bundle` the one that became active or was kept aside, and
    `aside` the one kept aside when the winner of the other task became active. `new` counts usable commits
    since the champion, `taught` those trained on, `replayed` the older ones among them. `tasks` has a verdict
    for each task with a challenger, `labels` what changed in the risk labels since the champion, `seconds`
    the time of each step, `budget` what there was no time for.
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
    budget: BudgetReport | None = None

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        plain = {one.name: getattr(self, one.name) for one in fields(self)}
        return plain | {
            "tasks": _encode_verdicts(self.tasks),
            "labels": asdict(self.labels) if self.labels else {},
            "budget": asdict(self.budget) if self.budget else {},
            "left_out": self.budget.left_out if self.budget else (),
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
    """How the risk model of today compared, and what changed in the labels since the champion."""

    verdict: ChallengeVerdict
    labels: LabelChanges | None = None


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
    work = _Retraining(repo, champion, mined, listen, agreed, budget)
    same_plan = not from_scratch and start is None and _matches_plan(champion, plan)
    split = _split_history(work, plan.seed, only_new=same_plan)
    if split.data is None:
        result = _renew_risk_model(work, UP_TO_DATE if same_plan and not split.new else _TOO_FEW_COMMITS)
    else:
        if same_plan and _has_adapter(champion):
            start = champion.path / bundles.ADAPTER_FOLDER
        plan = replace(plan, warm=str(start) if start else "", rival=champion.id)
        result = replace(_challenge_champion(work, plan, split.data), replayed=split.replayed)
    return replace(result, new=split.new, budget=budget.report())


_TOO_FEW_COMMITS = (
    f"too few commits that the installed model was not trained on, {MIN_TEST_COMMITS} are needed to compare "
    "(`gitpeft init` makes a new model without comparing)"
)
_NOTHING_NEW = "the installed score stays: nothing has changed since it was fitted or last compared"


def _split_history(work: _Retraining, seed: int, *, only_new: bool) -> ChallengerSplit:
    """The examples that the budget allows for; no data where `only_new` commits matter and there are none.

    A run that was killed, or is repeated, takes as many examples as before.
    """
    budget, name = work.budget, f"{work.mined.tip} {work.champion.id[:12]}"
    work.listen("examples", 0.0, "")
    filtering, counting = dataset.make_example_listeners(partial(work.listen, "examples"))
    most = budget.bound_examples(name)
    found = ChallengerExamples.select(work.mined.records, work.champion, most, filtering)
    found = found.take_newest(budget.limit_examples(found.since, name))
    if only_new and not found.count_new():
        return ChallengerSplit(None, 0)
    split = found.split(seed, is_enough=budget.has_enough_examples, listen=counting)
    if split.data is not None:
        prepared = len(split.data.examples)
        budget.observe_examples(prepared)
        budget.note_examples(prepared, found.since, name)
        work.listen("examples", 1.0, f"{prepared:,} usable commits")
    return split


def _renew_risk_model(work: _Retraining, skipped: str) -> RetrainingResult:
    """Challenge the risk model alone where nothing is trained, for the reason `skipped`."""
    champion, mined = work.champion, work.mined
    with bundles.staging_folder(work.repo.state_dir) as folder:
        if last_comparison.was_compared(
            work.repo, champion, mined.tip, len(mined.records), work.budget.minutes
        ):
            has_score = load_risk_model(champion).is_usable
            unchanged = _RiskChallenger(ChallengeVerdict(False, _NOTHING_NEW)) if has_score else None
            return _install_winners(work, None, unchanged, folder, skipped)
        risk, minutes = _fit_risk_challenger(work, folder)
        result = _install_winners(work, None, risk, folder, skipped)
    _note_risk_comparison(work, result, minutes)
    return result


def _challenge_champion(work: _Retraining, plan: ModelPlan, data: Dataset) -> RetrainingResult:
    """Challenge the champion for both tasks and activate the winners."""
    if reason := pipeline.explain_skipped_training(plan, data):
        raise GitpeftError(f"nothing was trained: {reason}", "`gitpeft init` makes a model without training")
    folder, clock = pipeline.prepare_run_folder(work.repo, plan, work.mined, data), pipeline.StepClock()
    with clock.measure("risk"):
        risk, minutes = _fit_risk_challenger(work, folder, plan)
    trained = _train_challenger(work, plan, data, clock)
    result = _install_winners(work, trained, risk, folder, "")
    _note_risk_comparison(work, result, minutes)
    return result


def _fit_risk_challenger(
    work: _Retraining, folder: Path, plan: ModelPlan | None = None
) -> tuple[_RiskChallenger | None, float]:
    """Fit the risk model in `folder` and compare it; with it the minutes beyond which it might end otherwise.

    All labels are let go of before anything is trained.
    """
    fitted, labels = pipeline.fit_risk_model(work.repo, work.mined, folder, work.listen, plan, work.budget)
    whole = labels is not None and labels.report is not None and not labels.report.untraced
    return _challenge_risk_model(work, fitted.model, labels), math.inf if whole else work.budget.minutes


def _note_risk_comparison(work: _Retraining, result: RetrainingResult, minutes: float) -> None:
    """Remember what was compared, unless a winner was not wanted: it is offered again the next time."""
    activated = result.action == "activated"
    if activated or not (RISK in result.tasks and result.tasks[RISK].won):
        installed = bundles.require_active_bundle(work.repo.state_dir) if activated else work.champion
        tip, commits = work.mined.tip, len(work.mined.records)
        last_comparison.note_comparison(work.repo, installed, tip, commits, minutes)


def _train_challenger(
    work: _Retraining, plan: ModelPlan, data: Dataset, clock: pipeline.StepClock
) -> _MessageChallenger:
    """Train a challenger for messages and compare it with the champion."""
    made = pipeline.build_candidate(work.repo, plan, work.mined, data, work.listen, clock, work.budget)
    base = pipeline.find_budgeted_base(plan)
    most = work.budget.count_compared(base, MAX_TEST_COMMITS)
    verdict, measured = champion_challenger.compare_message_models(
        work.champion, made, data, work.listen, max(most, MIN_TEST_COMMITS)
    )
    return _MessageChallenger(replace(made, measured=measured), data, bool(plan.warm), verdict)


def _challenge_risk_model(
    work: _Retraining, fitted: RiskModel, labels: LabelledHistory | None
) -> _RiskChallenger | None:
    """Compare the fresh risk model with the installed one; None where neither is usable.

    `labels` are those that it was fitted on; None where that was in an earlier run, or there is no commit.
    """
    installed = load_risk_model(work.champion)
    if not installed.is_usable and not fitted.is_usable:
        return None
    if labels is None:
        limit = work.budget.limit_tracing(len(work.mined.records))
        labels = relabel.mine_labelled_history(work.repo, work.mined.tip, work.listen, limit)
    if labels is None:
        return None
    until = relabel.get_fit_time(work.champion, installed)
    verdict = champion_challenger.compare_risk_models(
        installed, until, fitted, labels, load_risk_encoder(installed, work.champion)
    )
    return _RiskChallenger(verdict, relabel.compare_labels(labels, until))


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
