"""One model from one history: hides the order of the steps, where each leaves its result, and how it resumes.

    mine → examples → train → export → choose on validation → measure on test → bundle → activate

A run lives in <state_dir>/runs/<key>/, where the key is made of everything that decides its outcome. A step
whose result is there is not repeated, so that a run that was killed continues; the active model changes only
in the last step, in one rename.
"""

import hashlib
import json
import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field, replace
from importlib.metadata import PackageNotFoundError, version
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle import registry
from gitpeft.bundle.bundle import Bundle, Manifest
from gitpeft.config import load_config
from gitpeft.diff.compact import RENDERER_VERSION
from gitpeft.diff.render import TokenBudget
from gitpeft.errors import GitpeftError
from gitpeft.files import write_json
from gitpeft.git.repository import Repository
from gitpeft.history.store import CommitRecord, History, MiningReport
from gitpeft.learn.data import dataset, style
from gitpeft.learn.data.dataset import MIN_TRAINING_EXAMPLES, Dataset
from gitpeft.learn.evaluation import messages, trial
from gitpeft.learn.evaluation.messages import BundleDraft
from gitpeft.learn.evaluation.reranker import RerankerChoice
from gitpeft.learn.risk import selection
from gitpeft.learn.training import finetune, memory
from gitpeft.learn.training.finetune import ProgressListener, TrainingJob
from gitpeft.suggest.reranker import Reranker

if TYPE_CHECKING:
    from gitpeft.learn.models.bases import BaseModel
    from gitpeft.learn.risk.encoder_export import RiskEncoderTrainer


RISK_TIME_SHARE = 0.2
"""Of the minutes for training: how much is added for an encoder that judges changes."""

TUNED, HALF_TUNED, UNTUNED = "tuned", "tuned half way", "untuned"


@dataclass(frozen=True, slots=True)
class ModelPlan:
    """What to make. `until` cuts history; `minutes` bounds training; without `train` nothing is tuned.

    `warm` is the folder of an adapter of the same method and base, with which training begins; `rival` the
    installed model that the result is to be held against, "" when it becomes active without (see `retrain`).
    """

    base: str = "mini"
    method: str = "lora"
    until: str = "HEAD"
    minutes: float = 5.0
    seed: int = 0
    train: bool = True
    settings: dict[str, Any] = field(default_factory=dict)
    warm: str = ""
    rival: str = ""


@dataclass(frozen=True, slots=True)
class MinedHistory:
    """A history, read: what mining did, and its records up to `tip`, oldest first."""

    report: MiningReport
    records: list[CommitRecord]
    tip: str


@dataclass(slots=True)
class PipelineResult:
    """What a run made and how good it is.

    `kind` is model or retrieval, `why` the reason for a retrieval; `tuning` the validation score (B-Norm) of
    the tuned model, of softer ones and of the base as it is, `choice` that of each way of choosing; `test`
    maps a system to its scores on the newest commits; `samples` are (sha, the team's message, ours); `risk`
    is the risk model as its file holds it, `judge` the file of its encoder, "" for none; `seconds` by step;
    `peak_memory` in bytes.
    """

    kind: str
    why: str = ""
    used: int = 0
    left_out: dict[str, int] = field(default_factory=dict)
    base: str = ""
    method: dict[str, Any] = field(default_factory=dict)
    trainable: int = 0
    parameters: int = 0
    cost: dict[str, Any] = field(default_factory=dict)
    parity: dict[str, Any] = field(default_factory=dict)
    tuning: dict[str, float] = field(default_factory=dict)
    choice: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Any] = field(default_factory=dict)
    samples: list[tuple[str, str, str]] = field(default_factory=list)
    risk: dict[str, Any] = field(default_factory=dict)
    judge: str = ""
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: int = 0
    bundle: str = ""


def can_train() -> bool:
    """Whether the extra `train` is installed."""
    return all(find_spec(name) for name in ("torch", "transformers", "peft", "onnx", "safetensors"))


def mine_history(repo: Repository, until: str, listen: ProgressListener) -> MinedHistory:
    """Read what is new in the history of `until`."""
    tip = repo.resolve_commit(until)
    with History.open(repo.state_dir) as history:
        report = history.mine_commits(
            repo,
            tip,
            progress=lambda done, total: listen("mine", done / max(1, total), f"{done:,}/{total:,} commits"),
        )
        return MinedHistory(report, history.load_records(repo, tip), tip)


def run(
    repo: Repository, plan: ModelPlan, listen: ProgressListener, mined: MinedHistory | None = None
) -> PipelineResult:
    """All steps; the bundle is active at the end. What cannot be trained is served untuned, with a reason."""
    from gitpeft.learn.models import bases, methods

    clock, fresh = _StepClock(), registry.is_untouched(repo.state_dir)
    methods.make_method(plan.method, plan.settings)  # what is wrong is said before any work, trained or not
    if plan.base != bases.EMBEDDED_BASE:
        bases.find_base(plan.base)
    with clock("mine"):
        mined = mined or mine_history(repo, plan.until, listen)
    with clock("examples"):
        listen("examples", 0.0, "")
        data = dataset.build_dataset(mined.records, TokenBudget().exemplars)
        listen("examples", 1.0, f"{len(data.examples):,} usable commits")
    if not data.examples:
        if fresh:
            shutil.rmtree(repo.state_dir, ignore_errors=True)
        raise GitpeftError(
            "this history has no commit to learn from",
            "commit some work first, then run `gitpeft init` again",
        )
    work = _RunState(repo, plan, mined, data, PipelineResult("retrieval"), clock, listen)
    outcome = work.outcome
    outcome.used, outcome.left_out = len(data.examples), data.left_out | mined.report.skipped
    outcome.why = explain_skipped_training(plan, data)
    made = _prepare_untuned(work) if outcome.why else _tune_and_export(work)
    outcome.kind = made.manifest.kind
    habits = learn_team_style(mined.records, data, repo.list_branches())
    with clock("choose"):
        made, choice = _choose_strength(work, made, habits)
        chooser = choice.chooser if choice else made.chooser
        outcome.choice = choice.to_report() if choice else {}
    with clock("measure"):
        asking = _make_count_listener(listen, "measure")
        outcome.test, outcome.samples = messages.measure_on_test(made, data, habits, chooser, asking)
    with clock("risk"):
        outcome.risk = fit_risk_model(repo, mined, work.run_folder, listen, None if outcome.why else plan)
        outcome.judge = _find_risk_encoder(work.run_folder)
    outcome.bundle = _install_bundle(repo, made, data, habits, chooser, outcome)
    outcome.seconds = clock.seconds
    outcome.peak_memory = max(memory.read_peak_resident(), outcome.cost.get("peak_memory", 0))
    write_json(work.run_folder / "outcome.json", asdict(outcome))
    _delete_old_runs(work.run_folder)
    return outcome


@dataclass(frozen=True, slots=True)
class CandidateModel:
    """A trained and exported model that is not shipped yet, what it would ship with, and its run's folder."""

    folder: Path
    made: BundleDraft
    habits: dict[str, Any]
    chooser: Reranker
    outcome: PipelineResult


def build_candidate(
    repo: Repository, plan: ModelPlan, mined: MinedHistory, data: Dataset, listen: ProgressListener
) -> CandidateModel:
    """The steps from training to choosing, on a split that the caller made."""
    clock = _StepClock()
    work = _RunState(repo, plan, mined, data, PipelineResult("model"), clock, listen)
    work.outcome.used, work.outcome.left_out = len(data.examples), data.left_out | mined.report.skipped
    made, habits = _tune_and_export(work), learn_team_style(mined.records, data, repo.list_branches())
    with clock("choose"):
        made, choice = _choose_strength(work, made, habits)
    with clock("risk"):
        work.outcome.risk = fit_risk_model(repo, mined, work.run_folder, listen, plan)
        work.outcome.judge = _find_risk_encoder(work.run_folder)
    work.outcome.choice = choice.to_report() if choice else {}
    work.outcome.seconds = clock.seconds
    work.outcome.peak_memory = max(memory.read_peak_resident(), work.outcome.cost.get("peak_memory", 0))
    _delete_old_runs(work.run_folder)
    return CandidateModel(
        work.run_folder, made, habits, choice.chooser if choice else made.chooser, work.outcome
    )


def install_candidate(
    repo: Repository, one: CandidateModel, data: Dataset, *, active: bool, risk: Bundle | None = None
) -> str:
    """Put a candidate among the models, the active one or beside it; its id. `risk`: whose score it gets."""
    return _install_bundle(
        repo, one.made, data, one.habits, one.chooser, one.outcome, active=active, risk=risk
    )


def is_risk_file(name: str) -> bool:
    """Whether a file of a bundle belongs to its risk model; all others belong to messages."""
    return name.startswith(Path(bundles.RISK_MODEL_FILE).stem)


def train_only(repo: Repository, plan: ModelPlan, listen: ProgressListener) -> dict[str, Any]:
    """The steps up to a trained run, which `run` with the same plan continues; returns the cost."""
    mined = mine_history(repo, plan.until, listen)
    data = dataset.build_dataset(mined.records, TokenBudget().exemplars)
    if reason := explain_skipped_training(plan, data):
        raise GitpeftError(
            f"nothing was trained: {reason}", "`gitpeft init` serves this history without training"
        )
    work = _RunState(repo, plan, mined, data, PipelineResult("retrieval"), _StepClock(), listen)
    fit_risk_model(repo, mined, work.run_folder, listen, plan)
    return finetune.tune_base(make_training_job(plan), data, work.run_folder, listen)[1]


def find_last_trained_plan(repo: Repository) -> ModelPlan:
    """The plan of the newest run that was trained to be exported; GitpeftError when there is none."""
    runs = sorted((repo.state_dir / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    plans = [ModelPlan(**json.loads((run.parent / "plan.json").read_text(encoding="utf-8"))) for run in runs]
    plans = [plan for plan in plans if not plan.rival]
    if not plans:
        raise GitpeftError(
            "no trained run to export", "run `gitpeft train` first, or `gitpeft init` for all steps"
        )
    return plans[-1]


def evaluate_active_model(repo: Repository, most: int, listen: ProgressListener) -> PipelineResult:
    """Measure the active model on the newest usable commits of the history that it was made from.

    Its index is built anew without those commits, and its adapter has not seen them: the score is what a team
    would have had on the day before the first of them. How many they are, the model's manifest says.
    """
    bundle = bundles.require_active_bundle(repo.state_dir)
    mined = mine_history(repo, bundle.manifest.commits["to"], listen)
    usable = len(dataset.select_usable_examples(mined.records))
    held = int(bundle.manifest.commits.get("held", usable // 10))
    if not 0 < held < usable:
        raise GitpeftError(
            "no commit is left that the model has not learnt from", "`gitpeft train` makes a new one"
        )
    data = dataset.build_dataset(
        mined.records, TokenBudget().exemplars, test=dataset.share_for_count(held, usable)
    )
    chooser = Reranker.from_data(bundle.read_json(bundles.RERANKER_FILE), bundle.manifest.kind)
    made = BundleDraft(
        bundle.manifest, bundle.path if bundle.manifest.kind == "model" else None, None, chooser
    )
    outcome = PipelineResult(
        bundle.manifest.kind, used=len(data.examples), left_out=data.left_out, bundle=bundle.id
    )
    outcome.base, outcome.method = bundle.manifest.base, bundle.manifest.method
    habits, asking = (
        learn_team_style(mined.records, data, repo.list_branches()),
        _make_count_listener(listen, "measure"),
    )
    outcome.test, outcome.samples = messages.measure_on_test(made, data, habits, chooser, asking, most)
    return outcome


def explain_skipped_training(plan: ModelPlan, data: Dataset) -> str:
    """Why nothing is trained, "" when something is."""
    if not plan.train:
        return "training was not asked for"
    if not can_train():
        return "gitpeft[train] is not installed"
    if len(data.examples) < MIN_TRAINING_EXAMPLES:
        return f"only {len(data.examples)} usable commits, training needs {MIN_TRAINING_EXAMPLES}"
    return ""


@dataclass(slots=True)
class _RunState:
    """What the steps share."""

    repo: Repository
    plan: ModelPlan
    mined: MinedHistory
    data: Dataset
    outcome: PipelineResult
    clock: "_StepClock"
    listen: ProgressListener

    @property
    def run_folder(self) -> Path:
        """The run's folder, named by everything that decides its outcome."""
        from gitpeft.learn.models import bases, methods

        digest = (
            "" if explain_skipped_training(self.plan, self.data) else bases.find_base(self.plan.base).digest
        )
        method = methods.make_method(self.plan.method, self.plan.settings).as_dict()  # defaults decide, too
        plan = asdict(self.plan) | {"until": self.mined.tip}
        decided = [plan, method, digest, RENDERER_VERSION, len(self.data.examples)]
        decided += [pattern] if (pattern := load_config(self.repo).fix_pattern) else []
        key = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]
        folder = self.repo.state_dir / "runs" / key
        folder.mkdir(parents=True, exist_ok=True)
        write_json(folder / "plan.json", asdict(self.plan) | {"until": self.mined.tip})
        return folder


# --- the steps ----------------------------------------------------------------------------------------------


def _tune_and_export(work: _RunState) -> BundleDraft:
    """The base, tuned on this history and exported."""
    job = make_training_job(work.plan)
    base, folder, outcome = job.base, work.run_folder, work.outcome
    chooser = base.load_reranker()  # what is wrong with it is said before any work
    with work.clock("train"):
        method, cost = finetune.tune_base(job, work.data, folder, work.listen)
    with work.clock("export"):
        work.listen("export", 0.0, "")
        exported = finetune.export_run(base, method, work.data, folder)
        work.listen("export", 1.0, exported.get("said", ""))
    cost |= {"exported_bytes": sum(exported["sizes"].values())}
    outcome.base, outcome.method, outcome.cost = base.name, method.as_dict(), cost
    outcome.trainable, outcome.parameters = cost["trainable"], cost["parameters"]
    outcome.parity = exported["parity"]
    spent = {name: value for name, value in cost.items() if "curve" not in name}
    manifest = replace(
        draft_manifest(work.data, work.mined),
        **describe_base(base),
        method=method.as_dict(),
        seeds={"train": work.plan.seed},
        settings=exported["settings"],
        metrics={"parity": exported["parity"], "cost": spent},
    )
    return BundleDraft(manifest, folder, folder / bundles.ADAPTER_FOLDER, chooser)


def _choose_strength(
    work: _RunState, tuned: BundleDraft, habits: dict[str, Any]
) -> tuple[BundleDraft, RerankerChoice | None]:
    """How far to go from the base: what validation likes best, with the chooser for it; ties stay tuned.

    A team's newest commits are sometimes closer to the base and their exemplars than to its old ones.
    """
    asking = _make_count_listener(work.listen, "choose")
    choice = messages.choose_on_validation(tuned, work.data, habits, asking)
    if choice is None or tuned.adapter is None:
        return tuned, choice
    found, tried = (tuned, choice), {TUNED: choice.best_score}
    for name, make in _list_milder_variants(work, tuned).items():
        other = make()
        choice = messages.choose_on_validation(other, work.data, habits, asking)
        if choice is not None:
            tried[name] = choice.best_score
            if choice.best_score > found[1].best_score:
                found = other, choice
    work.outcome.tuning = tried
    if found[0].adapter is None:
        work.outcome.method, work.outcome.trainable = dict(found[0].manifest.method), 0
    return found


def _list_milder_variants(work: _RunState, tuned: BundleDraft) -> dict[str, Callable[[], BundleDraft]]:
    """What may be better than the tuned model: half of it, where the method is linear, and none of it."""
    from gitpeft.learn.models import bases

    found: dict[str, Callable[[], BundleDraft]] = {}
    if tuned.manifest.method["name"] == "lora":
        found[HALF_TUNED] = lambda: _export_half_tuned(work, tuned)
    if bases.find_base(work.plan.base).find_onnx_folder() is not None:
        found[UNTUNED] = lambda: _prepare_untuned(work)
    return found


def _export_half_tuned(work: _RunState, tuned: BundleDraft) -> BundleDraft:
    job = make_training_job(work.plan)
    folder = finetune.scale_adapter(work.run_folder, 0.5)
    exported = finetune.export_run(job.base, job.method, work.data, folder)
    metrics = tuned.manifest.metrics | {"parity": exported["parity"], "strength": 0.5}
    manifest = replace(tuned.manifest, settings=exported["settings"], metrics=metrics)
    return BundleDraft(manifest, folder, folder / bundles.ADAPTER_FOLDER, job.base.load_reranker())


def _prepare_untuned(work: _RunState) -> BundleDraft:
    """The base as it is, with this history's exemplars; retrieval alone where the base has no ONNX files."""
    from gitpeft.learn.models import bases

    manifest = draft_manifest(work.data, work.mined)
    try:
        base = bases.find_base(work.plan.base)
    except GitpeftError:
        return BundleDraft(manifest)
    ready = base.find_onnx_folder()
    if ready is None:
        return BundleDraft(manifest)
    work.outcome.base = base.name
    settings = json.loads((ready / "settings.json").read_text(encoding="utf-8"))
    manifest = replace(manifest, **describe_base(base), method={"name": "none"}, settings=settings)
    return BundleDraft(manifest, ready, None, base.load_reranker())


def make_training_job(plan: ModelPlan) -> TrainingJob:
    """The training that a plan asks for."""
    from gitpeft.learn.models import bases, methods

    method = methods.make_method(plan.method, plan.settings)
    return TrainingJob(bases.find_base(plan.base), method, plan.seed, plan.minutes, warm=plan.warm)


def describe_base(base: "BaseModel") -> dict[str, Any]:
    """What a manifest says of a base."""
    return {
        "kind": "model",
        "base": Path(base.name).name,  # of a folder only the name: where it lies concerns this machine
        "base_digest": base.digest,
        "tokenizer_digest": base.tokenizer_digest,
        "budget": asdict(base.budget),
    }


def fit_risk_model(
    repo: Repository,
    mined: MinedHistory,
    folder: Path,
    listen: ProgressListener,
    plan: ModelPlan | None = None,
) -> dict[str, Any]:
    """Label the history, fit the risk model, and leave `risk.json` in `folder`; the model as plain values.

    With a `plan`, an encoder may be tuned to judge changes as well; where it is worth it, it is left there as
    `risk.onnx`.
    """
    done = folder / bundles.RISK_MODEL_FILE
    if not done.exists():
        teach = (
            make_risk_encoder_trainer(plan, RISK_TIME_SHARE * plan.minutes / 2) if plan else None
        )  # asked twice at most
        with History.open(repo.state_dir) as history:
            model = selection.train_from_history(history, repo, mined.tip, listen, teach)
        told = json.loads(model.to_json())
        if teach is not None:
            told["report"]["taught"] = teach.notes
            if model.needs_encoder and teach.graph:
                (folder / bundles.RISK_ENCODER_FILE).write_bytes(teach.graph)
        write_json(done, told)
    listen("risk", 1.0, "")
    return dict(json.loads(done.read_text(encoding="utf-8")))


def _find_risk_encoder(folder: Path) -> str:
    path = folder / bundles.RISK_ENCODER_FILE
    return str(path) if path.exists() else ""


def make_risk_encoder_trainer(plan: ModelPlan, minutes: float) -> "RiskEncoderTrainer | None":
    """What tunes the base to judge changes, within `minutes` each time it is asked.

    None for a base whose judge cannot be exported.
    """
    from gitpeft.learn.models import methods
    from gitpeft.learn.risk.encoder_export import EXPORTABLE_TYPES, RiskEncoderTrainer

    job = make_training_job(plan)
    if job.base.kind not in EXPORTABLE_TYPES:
        return None
    method = job.method if job.method.is_encoder_only() else methods.make_method(plan.method)
    return RiskEncoderTrainer(job.base, method, minutes, plan.seed)


def _make_count_listener(listen: ProgressListener, step: str) -> Callable[[int, int], None]:
    return lambda done, total: listen(step, done / max(1, total), f"{done}/{total} commits")


def learn_team_style(
    records: Sequence[CommitRecord], data: Dataset, branches: Sequence[str] = ()
) -> dict[str, Any]:
    """The habits of all usable commits, and of those who name branches."""
    bodies = {record.sha: record.body for record in records}
    usable = data.examples
    return style.learn_message_style(
        [e.message for e in usable], [bodies.get(e.sha, "") for e in usable], branches
    )


def _install_bundle(
    repo: Repository,
    made: BundleDraft,
    data: Dataset,
    habits: dict[str, Any],
    chooser: Reranker,
    outcome: PipelineResult,
    *,
    active: bool = True,
    risk: Bundle | None = None,
) -> str:
    """Write the bundle with an index of the whole history, and make it the active one unless told not to.

    With `risk` its score is that bundle's, not the outcome's.
    """
    metrics = made.manifest.metrics | {"valid": outcome.choice, "test": outcome.test}
    metrics |= {"tuning": outcome.tuning} if outcome.tuning else {}
    with bundles.staging_folder(repo.state_dir) as folder:
        if made.files is not None:
            trial.copy_model_files(made.files, folder)
            (folder / bundles.RERANKER_FILE).write_text(json.dumps(asdict(chooser)), encoding="utf-8")
        if made.adapter is not None:
            kept = shutil.ignore_patterns("*.md")
            shutil.copytree(made.adapter, folder / bundles.ADAPTER_FOLDER, ignore=kept)
            _clear_base_path(folder / bundles.ADAPTER_FOLDER / "adapter_config.json")
        (folder / bundles.INDEX_FOLDER).mkdir()
        data.index.save(folder / bundles.INDEX_FOLDER)
        write_json(folder / bundles.STYLE_FILE, habits)
        if risk is None:
            write_json(folder / bundles.RISK_MODEL_FILE, outcome.risk)
            if outcome.judge:
                shutil.copyfile(outcome.judge, folder / bundles.RISK_ENCODER_FILE)
        else:
            for name in filter(is_risk_file, risk.manifest.files):
                (folder / name).write_bytes(risk.read(name))
        id_ = bundles.write_bundle(folder, replace(made.manifest, metrics=metrics))
    if active:
        bundles.activate_bundle(repo.state_dir, id_)
    bundles.prune_bundles(repo.state_dir)
    return id_


def _clear_base_path(config: Path) -> None:
    """PEFT notes where the base lay; a bundle may be published, and the base's digest is what counts."""
    if config.is_file():
        known = json.loads(config.read_text(encoding="utf-8"))
        write_json(config, known | {"base_model_name_or_path": None})


# --- keeping ------------------------------------------------------------------------------------------------


def draft_manifest(data: Dataset, mined: MinedHistory) -> Manifest:
    """What a manifest says of a history; of no model yet."""
    first = data.examples[0].sha if data.examples else ""
    held = len(data.test)
    return Manifest(
        kind="retrieval",
        created=format_current_time(),
        commits={"from": first, "to": mined.tip, "count": len(data.examples), "held": held},
        budget=asdict(TokenBudget()),
        versions=_list_package_versions(),
    )


def format_current_time() -> str:
    """The moment, as manifests have it."""
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime())


def _list_package_versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in ("gitpeft", "torch", "transformers", "peft", "onnxruntime", "tokenizers", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _delete_old_runs(current: Path, keep: int = 3) -> None:
    """Keep the newest runs: what they made is in the bundles."""
    runs = sorted(current.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in [run for run in runs if run != current][keep - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


class _StepClock:
    """Seconds by step: `with clock("train"): …`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stack: list[tuple[str, float]] = []

    def __call__(self, step: str) -> "_StepClock":
        self._stack.append((step, time.monotonic()))
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        step, start = self._stack.pop()
        self.seconds[step] = round(time.monotonic() - start, 2)
