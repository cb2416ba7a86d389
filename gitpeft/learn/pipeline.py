"""From a history to a model: the sequence of steps for a first model and for a challenger alike.

    mine → examples → fit risk → train → export → select on validation → measure on test → install

`build_candidate` is the part that both have in common. A first model is measured on the newest commits and
becomes active (`build_active_model`); a challenger is compared with the installed model (see `retrain`).

A run has the folder <state_dir>/runs/<key>/, where the key is a hash of all that determines the result. A
step whose result is there is not repeated, so that a run that was killed continues. The active model is
replaced in the last step only, in one rename.
"""

import hashlib
import json
import math
import shutil
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from functools import partial
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle import registry
from gitpeft.bundle.manifest import GRAPH_VERSION
from gitpeft.diff.compact import RENDERER_VERSION
from gitpeft.diff.render import TokenBudget
from gitpeft.errors import GitpeftError, ParityError
from gitpeft.files import write_json
from gitpeft.git.repository import Repository
from gitpeft.history.step_share import make_part_listener
from gitpeft.history.store import CommitRecord, History
from gitpeft.history.stored_records import StoredRecords
from gitpeft.lazy import replace_fields
from gitpeft.learn import budget as budgets
from gitpeft.learn import packing
from gitpeft.learn.budget import BudgetedBase, RunBudget
from gitpeft.learn.data import dataset, style
from gitpeft.learn.data.dataset import MIN_TRAINING_EXAMPLES, Dataset
from gitpeft.learn.data.style import MessageStyle
from gitpeft.learn.evaluation import messages
from gitpeft.learn.evaluation.kept_answers import AnswerFolder
from gitpeft.learn.evaluation.messages import BundleDraft
from gitpeft.learn.evaluation.reranker import RerankerChoice
from gitpeft.learn.evaluation.trial import TrialLimit
from gitpeft.learn.results import (
    CandidateModel,
    EvaluationResult,
    FittedRisk,
    MinedHistory,
    ModelPlan,
    PipelineResult,
    SelectedModel,
    TrainedModel,
    TrainingResult,
    load_plan,
)
from gitpeft.learn.risk import last_comparison, selection
from gitpeft.learn.risk.labelled_history import LabelledHistory, read_labelled_history
from gitpeft.learn.training import finetune, memory
from gitpeft.learn.training.finetune import ProgressListener, RunCost, TooFewExamplesError, TrainingJob
from gitpeft.risk.model import RiskModel, load_risk_model
from gitpeft.suggest.reranker import Reranker

if TYPE_CHECKING:
    from gitpeft.learn.export.parity import ExportResult
    from gitpeft.learn.models.methods import TuningMethod
    from gitpeft.learn.risk.encoder_export import RiskEncoderTrainer

RISK_TIME_SHARE = 0.2
"""The share of the minutes that tuning an encoder of the risk model may take, in two parts."""

MINUTES_FILE = "minutes.json"
"""In the folder of a run: the minutes for its training, so that one that was killed goes on with the same."""

TUNED, HALF_TUNED, UNTUNED = "tuned", "tuned half way", "untuned"
"""The variants among which validation selects, by the names that manifests have."""

LEAST_TRAINED = 60
"""With time for fewer examples nothing is trained: it would be a handful of steps, and what they and
the export take is worth more where the reranker is fitted."""

HALF_STRENGTH = 0.5
_VARIANTS = {1.0: TUNED, HALF_STRENGTH: HALF_TUNED, 0.0: UNTUNED}
_KEPT_RUNS = 3
_PACED_STEPS = 5  # of a training, from which its pace is known


# --- whole sequences ----------------------------------------------------------------------------------------


def build_active_model(
    repo: Repository, plan: ModelPlan, listen: ProgressListener, mined: MinedHistory | None = None
) -> PipelineResult:
    """All steps; the result is the active model. Without training where it cannot be done, with the reason.

    GitpeftError for an invalid plan, and where the history has no usable commit.
    """
    clock, fresh = StepClock(), registry.is_untouched(repo.state_dir)
    _check_plan(plan)
    with clock.measure("mine"):
        mined = mined or mine_history(repo, plan.until, listen)
    budget = RunBudget.start(repo.state_dir, plan.minutes)
    with clock.measure("examples"):
        data = build_examples(mined, listen, budget)
    if not data.examples:
        if fresh:
            shutil.rmtree(repo.state_dir, ignore_errors=True)
        raise GitpeftError(
            "this history has no commit to learn from",
            "commit some work first, then run `gitpeft init` again",
        )
    candidate = build_candidate(repo, plan, mined, data, listen, clock, budget)
    with clock.measure("measure"):
        count = make_part_listener(partial(listen, "measure"))
        selected, wording = candidate.selected, candidate.style
        wanted = min(messages.count_tested(selected.draft.causal), len(data.test))
        limit, answers = budget.limit_test(wanted), AnswerFolder(candidate.folder)
        measured = messages.measure_on_test(
            selected.draft, data, wording, selected.reranker, count, limit, answers
        )
        budget.note_evaluated("test commits", measured.n, wanted)
    candidate = replace(candidate, measured=measured, seconds=clock.seconds)
    bundle = packing.install_candidate(repo, candidate, data)
    installed = bundles.require_active_bundle(repo.state_dir)
    if load_risk_model(installed).is_usable:  # with the time of `gitpeft train` there may be one
        last_comparison.note_comparison(repo, installed, mined.tip, len(mined.records))
    left_out = data.left_out | mined.report.skipped
    result = PipelineResult(candidate, len(data.examples), left_out, bundle, budget.report())
    write_json(candidate.folder / "outcome.json", result.as_dict())
    return result


def build_candidate(
    repo: Repository,
    plan: ModelPlan,
    mined: MinedHistory,
    data: Dataset,
    listen: ProgressListener,
    clock: "StepClock | None" = None,
    budget: RunBudget | None = None,
) -> CandidateModel:
    """The risk model and the model for messages, on a split that the caller made; nothing is installed.

    What the plan's minutes do not allow for is left out, and noted in `budget`.
    """
    why = explain_skipped_training(plan, data)
    folder = prepare_run_folder(repo, plan, mined, data)
    budget = budget or RunBudget.start(repo.state_dir, plan.minutes)
    run = _Run(repo, plan, mined, data, folder, listen, budget, clock or StepClock())
    wording = learn_team_style(mined.records, data, repo.list_branches())
    with run.clock.measure("risk"):
        risk = fit_risk_model(repo, mined, folder, listen, plan, budget, encoder=not why)[0]
    draft, trained, scores, why = _make_draft(run, why)
    with run.clock.measure("choose"):
        selected = _select_variant(run, draft, wording, scores)
    _delete_old_runs(folder)
    return CandidateModel(
        folder=folder,
        base=_find_base_name(plan, draft),
        why=why,
        trained=trained,
        selected=selected,
        style=wording,
        risk=risk,
        seconds=run.clock.seconds,
        peak_memory=max(memory.read_peak_resident(), trained.cost.training.peak_memory if trained else 0),
    )


def train_only(repo: Repository, plan: ModelPlan, listen: ProgressListener) -> TrainingResult:
    """The steps up to a trained run, which `build_active_model` with the same plan continues."""
    mined = mine_history(repo, plan.until, listen)
    budget = RunBudget.start(repo.state_dir, plan.minutes)
    data = build_examples(mined, listen, budget)
    if reason := explain_skipped_training(plan, data):
        raise GitpeftError(
            f"nothing was trained: {reason}", "`gitpeft init` serves this history without training"
        )
    folder = prepare_run_folder(repo, plan, mined, data)
    fit_risk_model(repo, mined, folder, listen, plan, budget)
    run = _Run(repo, plan, mined, data, folder, listen, budget)
    try:
        cost = _tune_within_budget(run, make_training_job(plan))[1]
    except TooFewExamplesError as error:
        raise GitpeftError(f"nothing was trained: {error}", "give it more time with --budget") from None
    return TrainingResult(cost, budget.report())


def find_last_trained_plan(repo: Repository) -> ModelPlan:
    """The plan of the newest run that was trained to be exported; GitpeftError when there is none."""
    runs = sorted((repo.state_dir / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    plans = [plan for run in runs if not (plan := load_plan(run.parent / "plan.json")).rival]
    if not plans:
        raise GitpeftError(
            "no trained run to export", "run `gitpeft train` first, or `gitpeft init` for all steps"
        )
    return plans[-1]


def evaluate_active_model(repo: Repository, most: int, listen: ProgressListener) -> EvaluationResult:
    """Measure the active model on the newest usable commits of the history that it was made from.

    Its index is built anew without those commits, and its adapter was not trained on them: the score is what
    a team would have had on the day before the first of them. The model's manifest says how many they are.
    """
    bundle = bundles.require_active_bundle(repo.state_dir)
    mined = mine_history(repo, bundle.manifest.commits["to"], listen)
    listen("examples", 0.0, "")
    usable = len(dataset.select_usable_examples(mined.records))
    held = int(bundle.manifest.commits.get("held", usable // 10))
    if not 0 < held < usable:
        raise GitpeftError(
            "no commit is left that the model has not learnt from", "`gitpeft train` makes a new one"
        )
    data = dataset.build_dataset(
        mined.records,
        TokenBudget().exemplars,
        test=dataset.share_for_count(held, usable),
        listen=partial(listen, "examples"),
    )
    kind = bundle.manifest.kind
    reranker = Reranker.from_data(bundle.read_json(bundles.RERANKER_FILE), kind)
    draft = BundleDraft(bundle.manifest, bundle.path if kind == "model" else None, None, reranker)
    wording = learn_team_style(mined.records, data, repo.list_branches())
    count = make_part_listener(partial(listen, "measure"))
    limit = TrialLimit(most or messages.count_tested(draft.causal))
    measured = messages.measure_on_test(draft, data, wording, reranker, count, limit)
    return EvaluationResult(bundle.id, len(data.examples), measured)


# --- before training ----------------------------------------------------------------------------------------


def can_train() -> bool:
    """Whether the extra `train` is installed."""
    return all(find_spec(name) for name in ("torch", "transformers", "peft", "onnx", "safetensors"))


def explain_skipped_training(plan: ModelPlan, data: Dataset) -> str:
    """Why nothing is trained, "" when something is."""
    if not plan.train:
        return "training was not asked for"
    if not can_train():
        return "gitpeft[train] is not installed"
    if len(data.examples) < MIN_TRAINING_EXAMPLES:
        return f"only {len(data.examples)} usable commits, training needs {MIN_TRAINING_EXAMPLES}"
    return ""


def mine_history(repo: Repository, until: str, listen: ProgressListener) -> MinedHistory:
    """Read what is new in the history of `until`."""
    tip = repo.resolve_commit(until)
    with History.open(repo.state_dir) as history:
        report = history.mine_commits(repo, tip, listen=partial(listen, "mine"))
        return MinedHistory(report, StoredRecords.open(history, repo, tip), tip)


def _check_plan(plan: ModelPlan) -> None:
    """GitpeftError for an invalid method or base, before any work and even where nothing will be trained."""
    from gitpeft.learn.models import bases, methods

    methods.make_method(plan.method, plan.settings)
    if plan.base != bases.EMBEDDED_BASE:
        bases.find_base(plan.base)


def build_examples(mined: MinedHistory, listen: ProgressListener, budget: RunBudget) -> Dataset:
    """The examples of a history, of a long one the newest that the budget allows for."""
    listen("examples", 0.0, "")
    data = dataset.build_dataset(
        mined.records,
        TokenBudget().exemplars,
        limit=lambda usable: budget.limit_examples(usable, mined.tip),
        is_enough=budget.has_enough_examples,
        listen=partial(listen, "examples"),
        most=budget.bound_examples(mined.tip),
    )
    prepared = len(data.examples)
    budget.observe_examples(prepared)
    budget.note_examples(prepared, prepared + data.left_out.get(dataset.OLDER_COMMITS, 0), mined.tip)
    listen("examples", 1.0, f"{len(data.examples):,} usable commits")
    return data


def learn_team_style(
    records: Sequence[CommitRecord], data: Dataset, branches: Sequence[str] = ()
) -> MessageStyle:
    """The style of all usable commits, and of the names of branches."""
    usable = data.examples[-style.MAX_MESSAGES :]
    wanted = [example.sha for example in usable]
    if isinstance(records, StoredRecords):  # going through them would read all changes again
        records = records.find(wanted)
    bodies = {record.sha: record.body for record in records}
    return style.learn_message_style(
        [e.message for e in usable], [bodies.get(sha, "") for sha in wanted], branches
    )


def make_training_job(plan: ModelPlan) -> TrainingJob:
    """The training that a plan asks for."""
    from gitpeft.learn.models import bases, methods

    base = bases.find_base(plan.base)
    method = methods.make_method(plan.method, plan.settings, causal=base.architecture.causal)
    return TrainingJob(base, method, plan.seed, plan.minutes, warm=plan.warm)


# --- a run --------------------------------------------------------------------------------------------------


class StepClock:
    """Seconds by step: `with clock.measure("train"): …`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}

    @contextmanager
    def measure(self, step: str) -> Iterator[None]:
        """Add what happens inside to a step."""
        start = time.monotonic()
        try:
            yield
        finally:
            self.seconds[step] = round(self.seconds.get(step, 0.0) + time.monotonic() - start, 2)


@dataclass(slots=True)
class _Run:
    """What the steps of one run need, and its folder.

    `validation` says on how many commits variants are compared, and is None before the first.
    """

    repo: Repository
    plan: ModelPlan
    mined: MinedHistory
    data: Dataset
    folder: Path
    listen: ProgressListener
    budget: RunBudget
    clock: StepClock = field(default_factory=StepClock)
    validation: TrialLimit | None = None


def prepare_run_folder(repo: Repository, plan: ModelPlan, mined: MinedHistory, data: Dataset) -> Path:
    """The folder of a run, made where it is missing, with the plan in it."""
    resolved = asdict(plan) | {"until": mined.tip}
    folder = repo.state_dir / "runs" / _compute_run_key(repo, plan, mined, data)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / "plan.json", resolved)
    return folder


def _compute_run_key(repo: Repository, plan: ModelPlan, mined: MinedHistory, data: Dataset) -> str:
    """A hash of everything that determines a run's result."""
    from gitpeft.learn.models import methods

    if explain_skipped_training(plan, data):
        digest, method = "", methods.make_method(plan.method, plan.settings).as_dict()
    else:
        job = make_training_job(plan)
        digest, method = job.base.digest, job.method.as_dict()  # with the defaults, which count too
    resolved = asdict(plan) | {"until": mined.tip}
    parts = [resolved, method, digest, RENDERER_VERSION, GRAPH_VERSION, len(data.examples)]
    settings = last_comparison.list_label_settings(repo, mined.tip)
    parts += settings if any(settings) else []
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]


def _delete_old_runs(current: Path) -> None:
    """Keep the newest runs only: the results of all are in bundles."""
    runs = sorted(current.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in [run for run in runs if run != current][_KEPT_RUNS - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


# --- the steps for messages ---------------------------------------------------------------------------------


def _make_draft(run: _Run, why: str) -> tuple[BundleDraft, TrainedModel | None, Mapping[str, float], str]:
    """The tuned model with the scores of its variants, or one that is not tuned here with the reason."""
    try:
        if not why:
            return *_train_and_export(run), ""
        if run.plan.warm and not run.plan.train:
            return *_draft_warm(run), why
    except TooFewExamplesError as error:
        why = str(error)
        run.budget.note_left_out(budgets.TRAINING, f"training: {why}")
    except ParityError as error:  # there is a model all the same, and the reason is told
        why = error.message
    return _draft_untuned(run), None, {}, why


def _train_and_export(run: _Run) -> tuple[BundleDraft, TrainedModel, dict[str, float]]:
    """The base, tuned on this history and exported.

    Of a large base only the variant is exported that validation prefers; with it come the scores of all: the
    geometric mean of the probabilities of the validation messages' tokens, in percent.
    """
    job = make_training_job(run.plan)
    job.base.load_reranker()  # a damaged one is reported before any work
    with run.clock.measure("train"):
        method, cost = _tune_within_budget(run, job)
    strength, losses = finetune.choose_strength(run.folder)
    folder = _scale_to_strength(job, method, run.folder, strength)
    resumed = (folder / finetune.EXPORTED_FILE).exists()  # which takes no time
    exports = run.budget.measure(budgets.EXPORT, lambda: int(not resumed), job.base.name)
    with run.clock.measure("export"), exports:
        run.listen("export", 0.0, "")
        exported = finetune.export_run(job.base, method, run.data, folder)
        run.listen("export", 1.0, exported.parity.describe_drop())
    trained = TrainedModel(method, replace(cost, exported_bytes=exported.total_bytes), exported.parity)
    metrics = {"cost": trained.cost.as_dict(curves=False)} | _note_strength(strength)
    return _draft_tuned(run, method, folder, exported, metrics), trained, _name_scores(losses)


def export_tuned_model(
    job: TrainingJob, method: "TuningMethod", tuned: Path, data: Dataset
) -> tuple[Path, "ExportResult"]:
    """The ONNX files of what was trained in the folder `tuned`, unless they are there; where they are.

    Of its update they have the share that validation preferred. `data` is for the parity gate.
    """
    folder = _scale_to_strength(job, method, tuned, finetune.choose_strength(tuned)[0])
    return folder, finetune.export_run(job.base, method, data, folder)


def _scale_to_strength(job: TrainingJob, method: "TuningMethod", tuned: Path, strength: float) -> Path:
    if strength == 1:
        return tuned
    return finetune.scale_adapter(tuned, strength, job.base.find_start(method))


def _draft_warm(run: _Run) -> tuple[BundleDraft, None, dict[str, float]]:
    """The model of the adapter that the plan names, with this history's exemplars, and its scores."""
    job, tuned = make_training_job(run.plan), Path(run.plan.warm).parent
    method, _ = finetune.tune_base(job, run.data, tuned, run.listen)
    folder, exported = export_tuned_model(job, method, tuned, run.data)
    strength, losses = finetune.choose_strength(tuned)
    draft = _draft_tuned(run, method, folder, exported, _note_strength(strength))
    return draft, None, _name_scores(losses)


def _draft_tuned(
    run: _Run, method: "TuningMethod", folder: Path, exported: "ExportResult", metrics: dict[str, Any]
) -> BundleDraft:
    """The draft of what was exported to `folder`; without the adapter where none of its update is used."""
    base = make_training_job(run.plan).base
    manifest = replace(
        packing.draft_manifest(run.data, run.mined),
        **packing.describe_base(base),
        method=method.as_dict(),
        seeds={"train": run.plan.seed},
        metrics=metrics,
    )
    draft = _complete_draft(BundleDraft(manifest, reranker=base.load_reranker()), folder, exported)
    if not metrics.get("strength", 1):
        draft = replace(draft, adapter=None, manifest=replace(draft.manifest, method={"name": "none"}))
    return draft


def _name_scores(losses: Mapping[float, float]) -> dict[str, float]:
    """The geometric mean of the probabilities of a message's tokens, in percent, by the names of variants."""
    return {_VARIANTS[strength]: 100 * math.exp(-loss) for strength, loss in losses.items()}


def _tune_within_budget(run: _Run, job: TrainingJob) -> tuple["TuningMethod", RunCost]:
    """Train for what the budget leaves beside the other steps."""
    known, resumed = run.folder / MINUTES_FILE, (run.folder / "run.json").exists()
    base = find_budgeted_base(run.plan)
    if known.exists():
        minutes = float(json.loads(known.read_text(encoding="utf-8")))
    else:
        evaluated = messages.count_tested(base.causal)
        minutes = run.budget.plan_training(base, evaluated)
        write_json(known, minutes)
    paces = run.budget.paces
    pace = paces.get(budgets.TRAINING, base.name, causal=base.causal)
    run.budget.note_training(len(run.data.train) * pace)
    method, cost = finetune.tune_base(
        replace(job, minutes=minutes, pace=pace, least=LEAST_TRAINED), run.data, run.folder, run.listen
    )
    seen, whole = cost.training.examples, len(run.data.train)
    if not resumed and cost.training.steps >= _PACED_STEPS:
        paces.observe(budgets.TRAINING, cost.training.seconds, seen, base.name)
    run.budget.note_training(whole * paces.get(budgets.TRAINING, base.name, causal=base.causal))
    if seen < whole:
        run.budget.note_left_out(budgets.TRAINING, f"training on {seen:,} of {whole:,} commits")
    return method, cost


def find_budgeted_base(plan: ModelPlan) -> BudgetedBase:
    """What the steps of a plan cost by."""
    from gitpeft.learn.models import bases

    try:
        base = bases.find_base(plan.base)
    except GitpeftError:
        return BudgetedBase("", variants=1)
    if base.architecture.causal:
        return BudgetedBase(base.name, causal=True, variants=1)
    milder = (plan.method == "lora") + (base.find_onnx_folder() is not None)
    return BudgetedBase(base.name, variants=1 + milder)


def _note_strength(strength: float) -> dict[str, Any]:
    """For the manifest, where not all of the update is used."""
    return {} if strength == 1 else {"strength": strength}


def _complete_draft(
    draft: BundleDraft, folder: Path, exported: "ExportResult", **metrics: float
) -> BundleDraft:
    """The draft of an exported model: with its files, its adapter, and what the parity gate measured."""
    known = draft.manifest.metrics | {"parity": asdict(exported.parity)} | metrics
    manifest = replace(draft.manifest, settings=exported.settings, metrics=known)
    return BundleDraft(manifest, folder, folder / bundles.ADAPTER_FOLDER, draft.reranker)


def _select_variant(
    run: _Run, draft: BundleDraft, wording: MessageStyle, scores: Mapping[str, float]
) -> SelectedModel:
    """The variant of the model, with its reranker, that scores best on validation; ties go to the tuned one.

    `scores` are there already where the variant was selected by its loss.

    A team's newest commits are sometimes closer to the base and their exemplars than to its old ones.
    """
    choice = _choose_within_budget(run, draft, wording)
    if choice is None or draft.adapter is None or scores:
        return SelectedModel(draft, choice, scores)
    best, scores = (draft, choice), {TUNED: choice.best_score}
    base = find_budgeted_base(run.plan)
    for name, make_variant in _list_milder_variants(run, draft).items():
        if not run.budget.allows_variant(base, best[1].n):
            run.budget.note_left_out(name, f"comparing the model that is {name}")
            continue
        variant = make_variant()
        choice = _choose_within_budget(run, variant, wording)
        if choice is not None:
            scores[name] = choice.best_score
            if choice.best_score > best[1].best_score:
                best = variant, choice
    return SelectedModel(*best, scores)


def _choose_within_budget(run: _Run, draft: BundleDraft, wording: MessageStyle) -> RerankerChoice | None:
    """The reranker of a variant, from as many validation commits as the budget allows for."""
    base = find_budgeted_base(run.plan)
    wanted = min(messages.count_validated(draft.causal), len(run.data.valid))
    limit = run.validation or run.budget.limit_validation(base, wanted)
    answers = AnswerFolder(run.folder)
    # few answers that a killed run had not come to would not show what one takes
    with run.budget.measure(
        budgets.SUGGESTION, lambda: answers.added * (answers.added >= limit.least), base.name
    ):
        listen = make_part_listener(partial(run.listen, "choose"))
        choice = messages.choose_on_validation(draft, run.data, wording, listen, limit, answers)
        asked = choice.n if choice else 0
    if choice is not None:
        # the other variants are asked about the same commits
        run.validation = TrialLimit(limit.most, 0.0, asked)
        run.budget.note_evaluated("validation commits", asked, wanted)
    return choice


def _list_milder_variants(run: _Run, tuned: BundleDraft) -> dict[str, Callable[[], BundleDraft]]:
    """What may be better than the tuned model: half of its update, where that is linear, and the base."""
    from gitpeft.learn.models import bases

    found: dict[str, Callable[[], BundleDraft]] = {}
    was_trained_here = tuned.adapter is not None and tuned.adapter.parent == run.folder
    if tuned.manifest.method["name"] == "lora" and was_trained_here:
        found[HALF_TUNED] = lambda: _export_half_tuned(run, tuned)
    if bases.find_base(run.plan.base).find_onnx_folder() is not None:
        found[UNTUNED] = lambda: _draft_untuned(run)
    return found


def _export_half_tuned(run: _Run, tuned: BundleDraft) -> BundleDraft:
    job = make_training_job(run.plan)
    folder = finetune.scale_adapter(run.folder, HALF_STRENGTH, job.base.find_start(job.method))
    exported = finetune.export_run(job.base, job.method, run.data, folder)
    return _complete_draft(tuned, folder, exported, strength=HALF_STRENGTH)


def _draft_untuned(run: _Run) -> BundleDraft:
    """The base without tuning, with this history's exemplars; retrieval alone where it has no ONNX files."""
    from gitpeft.learn.models import bases

    manifest = packing.draft_manifest(run.data, run.mined)
    try:
        base = bases.find_base(run.plan.base)
    except GitpeftError:
        return BundleDraft(manifest)
    ready = base.prepare_onnx_folder(run.folder / "untuned")
    if ready is None:
        return BundleDraft(manifest)
    settings = json.loads((ready / bases.SETTINGS_FILE).read_text(encoding="utf-8"))
    manifest = replace(manifest, **packing.describe_base(base), method={"name": "none"}, settings=settings)
    return BundleDraft(manifest, ready, None, base.load_reranker())


def _find_base_name(plan: ModelPlan, draft: BundleDraft) -> str:
    from gitpeft.learn.models import bases

    return bases.find_base(plan.base).name if draft.files is not None else ""


# --- the step for risk --------------------------------------------------------------------------------------


def fit_risk_model(
    repo: Repository,
    mined: MinedHistory,
    folder: Path,
    listen: ProgressListener,
    plan: ModelPlan | None = None,
    budget: RunBudget | None = None,
    *,
    encoder: bool = True,
) -> tuple[FittedRisk, LabelledHistory | None]:
    """Label the history and fit the risk model, unless `folder` has one; leaves `risk.json` there.

    Returns it with the labels that it was fitted on, None where it was there or there is no commit. With a
    `plan`, unless `encoder` is False, an encoder may be tuned as well; where the model uses it, it is
    left there as `risk.onnx`. With a `budget` fixes are traced, newest first, as far as its time goes.
    """
    file, graph = folder / bundles.RISK_MODEL_FILE, folder / bundles.RISK_ENCODER_FILE
    known = None
    if not file.exists():
        trainer = _make_affordable_trainer(plan, budget) if plan and encoder else None
        model, known = _fit_within_budget(repo, mined, listen, trainer, budget, plan)
        if trainer is not None:
            model = replace_fields(model, report=model.report | {"taught": trainer.notes})
            if model.needs_encoder and trainer.graph:
                graph.write_bytes(trainer.graph)
        write_json(file, json.loads(model.to_json()))
    listen("risk", 1.0, "")
    return FittedRisk(file, graph if graph.exists() else None), known


def _fit_within_budget(
    repo: Repository,
    mined: MinedHistory,
    listen: ProgressListener,
    trainer: "RiskEncoderTrainer | None",
    budget: RunBudget | None,
    plan: ModelPlan | None,
) -> tuple[RiskModel, LabelledHistory | None]:
    start, limit = time.monotonic(), None
    if budget is not None:
        limit = budget.limit_tracing(len(mined.records), budgets.RISK_SHARE if plan else 1.0)
    with History.open(repo.state_dir) as history:
        known = read_labelled_history(history, repo, mined.tip, listen, limit)
    listen("risk", 0.0, "")
    measured = time.monotonic()
    model = selection.train_on_labelled_history(known, trainer)
    report = known.report if known else None
    if budget is not None and report is not None:
        total = report.commits + report.untraced
        budget.paces.observe(budgets.TRACING, report.seconds, report.read)
        budget.paces.observe(budgets.MEASURING, measured - start - report.seconds, total)
        budget.paces.observe(budgets.RISK, time.monotonic() - measured, report.commits)
        if report.untraced:
            budget.note_left_out(
                budgets.RISK, f"risk: tracing fixes in {report.commits:,} of {total:,} commits"
            )
    return model, known


def _make_affordable_trainer(plan: ModelPlan, budget: RunBudget | None) -> "RiskEncoderTrainer | None":
    """It is tuned twice at most; None where the budget does not allow for that."""
    minutes = RISK_TIME_SHARE * plan.minutes / 2
    if budget is not None:
        base = find_budgeted_base(plan)
        kept = budget.keep_for_messages(base, messages.count_tested(base.causal))
        if not budget.allows_encoder(2 * minutes, base, kept):
            budget.note_left_out("encoder", "risk: a model that reads the change")
            return None
    return make_risk_encoder_trainer(plan, minutes)


def make_risk_encoder_trainer(plan: ModelPlan, minutes: float) -> "RiskEncoderTrainer | None":
    """Tunes the base as a risk encoder, within `minutes` at each call.

    None for a base whose risk encoder cannot be exported.
    """
    from gitpeft.learn.models import methods
    from gitpeft.learn.risk.encoder_export import EXPORTABLE_TYPES, RiskEncoderTrainer

    job = make_training_job(plan)
    if job.base.kind not in EXPORTABLE_TYPES:
        return None
    architecture = job.base.architecture
    method = job.method
    if not method.stays_on(architecture.reading_side):
        method = methods.make_method(plan.method, causal=architecture.causal)
    return RiskEncoderTrainer(job.base, method, minutes, plan.seed)
