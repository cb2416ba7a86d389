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

from gitpeft import bundle as bundles
from gitpeft.bundle import Manifest
from gitpeft.choose import Chooser
from gitpeft.diff import RENDERER, Budget
from gitpeft.errors import GitpeftError
from gitpeft.git import Repository
from gitpeft.history import History, MineReport, Record
from gitpeft.learn import appraise, backtest, dataset, style
from gitpeft.learn.appraise import Made
from gitpeft.learn.dataset import ENOUGH, Dataset, Example, pair

if TYPE_CHECKING:
    from gitpeft.learn.bases import Base
    from gitpeft.learn.methods import Method

EPOCHS = 8
PARITY_EXAMPLES = 48

Listener = Callable[[str, float, str], None]
"""Hears (step, share done 0..1, detail) while a step goes on."""


@dataclass(frozen=True, slots=True)
class Plan:
    """What to make. `until` cuts history; `minutes` bounds training; without `train` nothing is tuned."""

    base: str = "mini"
    method: str = "lora"
    until: str = "HEAD"
    minutes: float = 5.0
    seed: int = 0
    train: bool = True
    settings: dict[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class Mined:
    """A history, read: what mining did, and its records up to `tip`, oldest first."""

    report: MineReport
    records: list[Record]
    tip: str


@dataclass(slots=True)
class Outcome:
    """What a run made and how good it is.

    `kind` is model or retrieval, `why` the reason for a retrieval; `choice` the validation score (B-Norm) of
    each way of choosing; `test` maps a system to its scores on the newest commits; `samples` are (sha, the
    team's message, ours); `seconds` by step; `peak_memory` in bytes.
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
    choice: dict[str, Any] = field(default_factory=dict)
    test: dict[str, Any] = field(default_factory=dict)
    samples: list[tuple[str, str, str]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    peak_memory: int = 0
    bundle: str = ""


def can_train() -> bool:
    """Whether the extra `train` is installed."""
    return all(find_spec(name) for name in ("torch", "transformers", "peft", "onnx", "safetensors"))


def mine(repo: Repository, until: str, listen: Listener) -> Mined:
    """Read what is new in the history of `until`."""
    tip = repo.resolve(until)
    with History.open(repo.state_dir) as history:
        report = history.mine(
            repo,
            tip,
            progress=lambda done, total: listen("mine", done / max(1, total), f"{done:,}/{total:,} commits"),
        )
        return Mined(report, history.records(repo, tip), tip)


def run(repo: Repository, plan: Plan, listen: Listener, mined: Mined | None = None) -> Outcome:
    """All steps; the bundle is active at the end. What cannot be trained is served untuned, with a reason."""
    from gitpeft.learn import bases, methods

    clock, fresh = _Clock(), not repo.state_dir.exists()
    methods.of(plan.method)  # wrong names are said before any work, also where nothing will be trained
    if plan.base != bases.EMBEDDED:
        bases.find(plan.base)
    with clock("mine"):
        mined = mined or mine(repo, plan.until, listen)
    with clock("examples"):
        listen("examples", 0.0, "")
        data = dataset.make(mined.records, Budget().exemplars)
        listen("examples", 1.0, f"{len(data.examples):,} usable commits")
    if not data.examples:
        if fresh:
            shutil.rmtree(repo.state_dir, ignore_errors=True)
        raise GitpeftError(
            "this history has no commit to learn from",
            "commit some work first, then run `gitpeft init` again",
        )
    work = _Work(repo, plan, mined, data, Outcome("retrieval"), clock, listen)
    outcome = work.outcome
    outcome.used, outcome.left_out = len(data.examples), data.left_out | mined.report.skipped
    outcome.why = why_not(plan, data)
    made = _untuned(work) if outcome.why else _tuned(work)
    outcome.kind = made.manifest.kind
    habits = learn_style(mined.records, data, repo.branches())
    with clock("choose"):
        choice = appraise.choose(made, data, habits, _counted(listen, "choose"))
        chooser = choice.chooser if choice else made.chooser
        outcome.choice = choice.report() if choice else {}
    with clock("measure"):
        asking = _counted(listen, "measure")
        outcome.test, outcome.samples = appraise.measure(made, data, habits, chooser, asking)
    outcome.bundle = _publish(repo, made, data, habits, chooser, outcome)
    outcome.seconds = clock.seconds
    outcome.peak_memory = _peak_memory()
    _write_json(work.folder / "outcome.json", asdict(outcome))
    _forget_old_runs(work.folder)
    return outcome


def train_only(repo: Repository, plan: Plan, listen: Listener) -> dict[str, Any]:
    """The steps up to a trained run, which `run` with the same plan continues; returns the cost."""
    from gitpeft.learn import bases, methods

    mined = mine(repo, plan.until, listen)
    data = dataset.make(mined.records, Budget().exemplars)
    if reason := why_not(plan, data):
        raise GitpeftError(
            f"nothing was trained: {reason}", "`gitpeft init` serves this history without training"
        )
    work = _Work(repo, plan, mined, data, Outcome("retrieval"), _Clock(), listen)
    base, method = bases.find(plan.base), replace(methods.of(plan.method), **plan.settings)
    return train(plan, base, method, data, work.folder, listen)


def last_trained(repo: Repository) -> Plan:
    """The plan of the newest run that was trained; GitpeftError when there is none."""
    runs = sorted((repo.state_dir / "runs").glob("*/run.json"), key=lambda path: path.stat().st_mtime)
    if not runs:
        raise GitpeftError(
            "no trained run to export", "run `gitpeft train` first, or `gitpeft init` for all steps"
        )
    return Plan(**json.loads((runs[-1].parent / "plan.json").read_text(encoding="utf-8")))


def evaluate(repo: Repository, most: int, listen: Listener) -> Outcome:
    """Measure the active model on the newest usable commits of the history that it was made from.

    Its index is built anew without those commits, and its adapter has not seen them: the score is what a team
    would have had on the day before the first of them.
    """
    bundle = bundles.active(repo.state_dir)
    if bundle is None:
        raise GitpeftError("there is no model yet", "run `gitpeft init`")
    mined = mine(repo, bundle.manifest.commits["to"], listen)
    data = dataset.make(mined.records, Budget().exemplars)
    chooser = Chooser.of(bundle.json(bundles.CHOOSER), bundle.manifest.kind)
    made = Made(bundle.manifest, bundle.path if bundle.manifest.kind == "model" else None, None, chooser)
    outcome = Outcome(bundle.manifest.kind, used=len(data.examples), left_out=data.left_out, bundle=bundle.id)
    outcome.base, outcome.method = bundle.manifest.base, bundle.manifest.method
    habits, asking = learn_style(mined.records, data, repo.branches()), _counted(listen, "measure")
    outcome.test, outcome.samples = appraise.measure(made, data, habits, chooser, asking, most)
    return outcome


def why_not(plan: Plan, data: Dataset) -> str:
    """Why nothing is trained, "" when something is."""
    if not plan.train:
        return "training was not asked for"
    if not can_train():
        return "gitpeft[train] is not installed"
    if len(data.examples) < ENOUGH:
        return f"only {len(data.examples)} usable commits, training needs {ENOUGH}"
    return ""


@dataclass(slots=True)
class _Work:
    """What the steps share."""

    repo: Repository
    plan: Plan
    mined: Mined
    data: Dataset
    outcome: Outcome
    clock: "_Clock"
    listen: Listener

    @property
    def folder(self) -> Path:
        """The run's folder, named by everything that decides its outcome."""
        from gitpeft.learn import bases

        digest = "" if why_not(self.plan, self.data) else bases.find(self.plan.base).digest
        decided = [asdict(self.plan) | {"until": self.mined.tip}, digest, RENDERER, len(self.data.examples)]
        key = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]
        folder = self.repo.state_dir / "runs" / key
        folder.mkdir(parents=True, exist_ok=True)
        _write_json(folder / "plan.json", asdict(self.plan) | {"until": self.mined.tip})
        return folder


# --- the steps ----------------------------------------------------------------------------------------------


def _tuned(work: _Work) -> Made:
    """The base, tuned on this history and exported."""
    from gitpeft.learn import bases, methods

    base = bases.find(work.plan.base)
    method = replace(methods.of(work.plan.method), **work.plan.settings)
    folder, outcome = work.folder, work.outcome
    with work.clock("train"):
        cost = train(work.plan, base, method, work.data, folder, work.listen)
    with work.clock("export"):
        work.listen("export", 0.0, "")
        exported = export(base, method, work.data, folder)
        work.listen("export", 1.0, "")
    outcome.base, outcome.method, outcome.cost = base.name, method.as_dict(), cost
    outcome.trainable, outcome.parameters = cost["trainable"], cost["parameters"]
    outcome.parity = exported["parity"]
    spent = {name: value for name, value in cost.items() if "curve" not in name}
    manifest = replace(
        _manifest(work.data, work.mined),
        **_of_base(base),
        method=method.as_dict(),
        seeds={"train": work.plan.seed},
        settings=exported["settings"],
        metrics={"parity": exported["parity"], "cost": spent},
    )
    return Made(manifest, folder, folder / bundles.ADAPTER, Chooser())


def _untuned(work: _Work) -> Made:
    """The base as it is, with this history's exemplars; retrieval alone where the base has no ONNX files."""
    from gitpeft.learn import bases

    manifest = _manifest(work.data, work.mined)
    try:
        base = bases.find(work.plan.base)
    except GitpeftError:
        return Made(manifest)
    ready = base.ready()
    if ready is None:
        return Made(manifest)
    work.outcome.base = base.name
    settings = json.loads((ready / "settings.json").read_text(encoding="utf-8"))
    manifest = replace(manifest, **_of_base(base), method={"name": "none"}, settings=settings)
    default = json.loads((ready / bundles.CHOOSER).read_text(encoding="utf-8"))
    return Made(manifest, ready, None, Chooser.of(default, "model"))


def _of_base(base: "Base") -> dict[str, Any]:
    return {
        "kind": "model",
        "base": base.name,
        "base_digest": base.digest,
        "tokenizer_digest": base.tokenizer_digest,
        "budget": asdict(base.budget),
    }


def train(
    plan: Plan, base: "Base", method: "Method", data: Dataset, folder: Path, listen: Listener
) -> dict[str, Any]:
    """Tune the base on the training part; leaves `adapter/` and `run.json` in `folder`; returns the cost."""
    if (folder / "run.json").exists():
        listen("train", 1.0, "already trained")
        return dict(json.loads((folder / "run.json").read_text(encoding="utf-8")))
    from gitpeft.codec import TokenCodec
    from gitpeft.learn import methods
    from gitpeft.learn.trainer import Progress, Settings, fit, pick_device

    codec = TokenCodec.load(base.tokenizer)
    rendered = [render_all(part, base.budget, codec) for part in (data.train, data.valid)]
    model = methods.attach(base.load(), method).to(pick_device())
    settings = Settings(
        steps=max(1, EPOCHS * len(data.train) // BATCH),
        minutes=plan.minutes,
        batch_tokens=BATCH * base.budget.total,
        lr=method.lr,
        warmup=0.05,
        decay=0.7,
        seed=plan.seed,
        source_limit=base.budget.total,
    )

    def heard(progress: Progress) -> None:
        rate = f"{progress.tokens / max(progress.seconds, 1e-9):,.0f} tokens/s"
        listen("train", progress.done, f"loss {progress.loss:.2f} · {rate}")

    folder.mkdir(parents=True, exist_ok=True)
    cost = fit(
        model, rendered[0], settings, valid=rendered[1], on_step=heard, checkpoint=folder / "checkpoint"
    )
    methods.save(model.cpu(), folder / "adapter.new")
    shutil.rmtree(folder / bundles.ADAPTER, ignore_errors=True)
    (folder / "adapter.new").rename(folder / bundles.ADAPTER)
    _write_json(folder / "run.json", cost.as_dict())
    shutil.rmtree(folder / "checkpoint", ignore_errors=True)
    return cost.as_dict()


BATCH = 24
"""Examples a batch holds when all are as long as the budget allows."""


def render_all(examples: Sequence[Example], budget: Budget, codec: Any) -> Any:
    """Examples as `Rendered` token ids, the message ended."""
    from gitpeft.learn.arrays import Rendered

    return Rendered.of([pair(example, budget, codec) for example in examples])


def export(base: "Base", method: "Method", data: Dataset, folder: Path) -> dict[str, Any]:
    """Write the run's ONNX files through the parity gate; what the gate measured, and decoding settings."""
    done = folder / "exported.json"
    if done.exists():
        return dict(json.loads(done.read_text(encoding="utf-8")))
    from gitpeft.codec import TokenCodec
    from gitpeft.learn import methods
    from gitpeft.learn.export import export as write_graphs

    codec = TokenCodec.load(base.tokenizer)
    model = methods.load_merged(base.load(), method, folder / bundles.ADAPTER)
    held_out = backtest.sample(data.valid, PARITY_EXAMPLES, seed=0)
    pairs = [pair(example, base.budget, codec) for example in held_out]
    result = write_graphs(model, base.tokenizer, folder, [(source, target[:-1]) for source, target in pairs])
    _write_json(done, result.to_dict())
    return result.to_dict()


def _counted(listen: Listener, step: str) -> Callable[[int, int], None]:
    return lambda done, total: listen(step, done / max(1, total), f"{done}/{total} commits")


def learn_style(records: Sequence[Record], data: Dataset, branches: Sequence[str] = ()) -> dict[str, Any]:
    """The habits of all usable commits, and of those who name branches."""
    bodies = {record.sha: record.body for record in records}
    usable = data.examples
    return style.learn([e.message for e in usable], [bodies.get(e.sha, "") for e in usable], branches)


def _publish(
    repo: Repository, made: Made, data: Dataset, habits: dict[str, Any], chooser: Chooser, outcome: Outcome
) -> str:
    """Write the bundle with an index of the whole history, and make it the active one."""
    metrics = made.manifest.metrics | {"valid": outcome.choice, "test": outcome.test}
    with bundles.staging(repo.state_dir) as folder:
        if made.files is not None:
            backtest.copy_model(made.files, folder)
            (folder / bundles.CHOOSER).write_text(json.dumps(asdict(chooser)), encoding="utf-8")
        if made.adapter is not None:
            kept = shutil.ignore_patterns("*.md")
            shutil.copytree(made.adapter, folder / bundles.ADAPTER, ignore=kept)
        (folder / bundles.INDEX).mkdir()
        data.index.save(folder / bundles.INDEX)
        _write_json(folder / bundles.STYLE, habits)
        id_ = bundles.write(folder, replace(made.manifest, metrics=metrics))
    bundles.activate(repo.state_dir, id_)
    bundles.prune(repo.state_dir)
    return id_


# --- keeping ------------------------------------------------------------------------------------------------


def _manifest(data: Dataset, mined: Mined) -> Manifest:
    first = data.examples[0].sha if data.examples else ""
    return Manifest(
        kind="retrieval",
        created=time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime()),
        commits={"from": first, "to": mined.tip, "count": len(data.examples)},
        budget=asdict(Budget()),
        versions=_versions(),
    )


def _versions() -> dict[str, str]:
    found = {"python": sys.version.split()[0]}
    for name in ("gitpeft", "torch", "transformers", "peft", "onnxruntime", "tokenizers", "numpy"):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def _forget_old_runs(current: Path, keep: int = 3) -> None:
    """Keep the newest runs: what they made is in the bundles."""
    runs = sorted(current.parent.iterdir(), key=lambda path: path.stat().st_mtime, reverse=True)
    for path in [run for run in runs if run != current][keep - 1 :]:
        shutil.rmtree(path, ignore_errors=True)


def _write_json(path: Path, value: Any) -> None:
    path.with_name(path.name + ".new").write_text(json.dumps(value, indent=1), encoding="utf-8")
    path.with_name(path.name + ".new").replace(path)


def _peak_memory() -> int:
    import resource

    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


class _Clock:
    """Seconds by step: `with clock("train"): …`."""

    def __init__(self) -> None:
        self.seconds: dict[str, float] = {}
        self._stack: list[tuple[str, float]] = []

    def __call__(self, step: str) -> "_Clock":
        self._stack.append((step, time.monotonic()))
        return self

    def __enter__(self) -> None:
        return None

    def __exit__(self, *_: object) -> None:
        step, start = self._stack.pop()
        self.seconds[step] = round(time.monotonic() - start, 2)
