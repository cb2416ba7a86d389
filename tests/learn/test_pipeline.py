"""The main job, small: from a repository to a model that speaks in its commits, and what may go wrong."""

import json
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from gitpeft.bundle import bundle as bundles
from gitpeft.cli import views
from gitpeft.errors import GitpeftError, ParityError
from gitpeft.git.repository import Repository
from gitpeft.hooks.install import install_hooks
from gitpeft.learn import pipeline
from gitpeft.learn.budget import BudgetReport, RunBudget
from gitpeft.learn.data import dataset
from gitpeft.learn.evaluation import messages
from gitpeft.learn.evaluation.messages import BundleDraft
from gitpeft.learn.evaluation.reranker import RerankerChoice
from gitpeft.learn.export import parity
from gitpeft.learn.results import ModelPlan, PipelineResult
from gitpeft.learn.risk.prequential import MIN_KNOWN_BUGS
from gitpeft.learn.training import finetune
from gitpeft.risk.model import MIN_JUDGED_BUGS, load_risk_model
from gitpeft.suggest.reranker import Reranker
from gitpeft.suggest.retrieval import CommitIndex
from gitpeft.suggest.suggester import Suggester, open_active_suggester
from gitpeft.suggest.suggestion import Suggestion
from tests.support import generated
from tests.support.generated import AUTHORS, Step
from tests.support.gitrepo import Repo
from tests.support.hooking import listing, make_python, script
from tests.support.sources import CHECKOUT
from tests.support.tinybase import CHANGE, Built, loosen, nobody

COUNT = 200
STEPS = finetune.MAX_EPOCHS * 160 // finetune.BATCH_EXAMPLES


def plan(built: Built, **changes: Any) -> ModelPlan:
    return ModelPlan(**{"base": str(built.out), "settings": {"rank": 4, "alpha": 8}, **changes})


def run(repo: Repo, what: ModelPlan, listen: Callable[[str, float, str], None] = nobody) -> PipelineResult:
    with pytest.MonkeyPatch.context() as patch:
        loosen(patch)
        return pipeline.build_active_model(Repository.open(repo.path), what, listen)


def state_of(repo: Repo) -> Path:
    return Repository.open(repo.path).state_dir


def active(repo: Repo) -> bundles.Bundle:
    found = bundles.open_active_bundle(state_of(repo))
    assert found is not None
    return found


def suggested(repo: Repo, n: int = 3) -> list[Suggestion]:
    return open_active_suggester(state_of(repo)).suggest(CHANGE, "parser: add read_3", n)


@pytest.fixture(scope="module")
def served(built: Built, tmp_path_factory: pytest.TempPathFactory) -> tuple[Repo, PipelineResult]:
    """A repository with its model; not to be changed."""
    repo = Repo.create(tmp_path_factory.mktemp("served") / "repo")
    generated.put(repo, generated.team(COUNT))
    return repo, run(repo, plan(built))


@pytest.fixture
def copied(served: tuple[Repo, PipelineResult], tmp_path: Path) -> Repo:
    """The same, to be changed."""
    shutil.copytree(served[0].path, tmp_path / "repo", symlinks=True)
    return Repo(tmp_path / "repo", served[0].clock)


# --- from a history to a suggestion -------------------------------------------------------------------------


def test_a_history_becomes_a_model(served: tuple[Repo, PipelineResult], built: Built) -> None:
    repo, outcome = served
    made = outcome.candidate
    assert made.trained is not None and made.selected.choice is not None
    assert (made.kind, made.why, outcome.used, outcome.left_out) == ("model", "", COUNT, {})
    assert 0 < made.trainable < made.trained.cost.training.parameters and made.method["rank"] == 4
    assert made.trained.cost.training.steps == STEPS and made.trained.parity.exact < 1e-3
    assert set(made.measured.scores) >= {"gitpeft", "nearest neighbour"}
    assert all(scores.n == 20 for scores in made.measured.scores.values())
    assert len(made.measured.samples) >= 3 and made.peak_memory > 1 << 26
    assert set(made.seconds) == {"mine", "examples", "train", "export", "choose", "measure", "risk"}
    bundle = active(repo)
    bundles.verify_bundle(bundle)
    manifest = bundle.manifest
    assert bundle.id == outcome.bundle and manifest.base_digest and manifest.tokenizer_digest
    assert manifest.commits == {
        "from": repo.git("rev-list", "--max-parents=0", "HEAD"),
        "to": repo.git("rev-parse", "HEAD"),
        "count": COUNT,
        "held": 20,
    }
    assert manifest.budget["total"] == 64 and manifest.seeds == {"train": 0}
    assert {"adapter/adapter_config.json", "adapter/adapter_model.safetensors", "style.json"} <= set(
        manifest.files
    )
    assert manifest.metrics["test"] == made.measured.as_dict()
    choice = made.selected.choice
    assert choice.n == 20 and set(choice.scores) == {"generated", "retrieved", "default", "chooser"}
    name, mode = choice.name, bundle.read_json(bundles.RERANKER_FILE)["mode"]
    assert mode == ("chooser" if name == "default" else name)


def test_what_the_budget_was_too_short_for_is_printed(
    served: tuple[Repo, PipelineResult], capsys: pytest.CaptureFixture[str]
) -> None:
    repo, outcome = served
    views.print_outcome(Repository.open(repo.path), outcome, "on")
    assert "Budget" not in capsys.readouterr().out
    short = BudgetReport(1, 61.3, ("training on 20 of 798 commits", "20 of 100 test commits"), 4)
    views.print_outcome(Repository.open(repo.path), replace(outcome, budget=short), "on")
    said = " ".join(capsys.readouterr().out.split())
    assert "reduced to: training on 20 of 798 commits; 20 of 100 test commits" in said
    assert "--budget 4 should take it all" in said


def test_the_json_of_a_result_keeps_its_keys(served: tuple[Repo, PipelineResult]) -> None:
    """Other programs read what `init --json` prints, and manifests are read by later versions."""
    repo, outcome = served
    found = json.loads(json.dumps(outcome.as_dict()))
    assert list(found) == [
        "kind", "why", "used", "left_out", "base", "method", "trainable", "parameters", "cost", "parity",
        "tuning", "choice", "test", "samples", "risk", "judge", "seconds", "peak_memory", "bundle",
        "budget",
    ]  # fmt: skip
    assert set(found["choice"]) == {"mode", "n", "scores", "offers"}
    assert {"steps", "seconds", "share", "curve", "adapter_bytes", "exported_bytes", "notes"} <= set(
        found["cost"]
    )
    assert {"exact", "agreement", "nats", "loss", "bounds"} <= set(found["parity"])
    metrics = active(repo).manifest.metrics
    assert set(metrics) == {"parity", "cost", "valid", "test", "tuning"} - (
        set() if found["tuning"] else {"tuning"}
    )
    assert set(metrics["cost"]) == {name for name in found["cost"] if "curve" not in name}


def test_the_bundle_holds_the_risk_model_too(served: tuple[Repo, PipelineResult]) -> None:
    """Short as it is, the prior corrected by this history can be judged; bundle and outcome say so alike."""
    repo, outcome = served
    model = load_risk_model(active(repo))
    assert outcome.candidate.risk.as_dict() == json.loads(model.to_json()) and model.needed == MIN_KNOWN_BUGS
    assert model.is_usable and model.is_checked and model.report["buggy"] >= MIN_JUDGED_BUGS
    assert model.report["chosen"] == model.kind and model.report["test"][model.kind]["auc"][1] > 0.5


def test_the_model_suggests(served: tuple[Repo, PipelineResult]) -> None:
    found = suggested(served[0])
    assert found and all(one.message and one.like for one in found)
    known = set(served[0].git("rev-list", "HEAD").split())
    assert {sha for one in found for sha in one.like} <= known


def test_nothing_but_the_state_is_written(served: tuple[Repo, PipelineResult]) -> None:
    repo, _ = served
    assert repo.git("status", "--porcelain") == ""
    state = state_of(repo)
    assert {path.name for path in state.iterdir()} - {"history.db-wal", "history.db-shm"} == {
        "current", "history.db", "history.lock", "lines.db", "models", "paces.json", "risk-compared.json",
        "runs",
    }  # fmt: skip
    assert not list(state.rglob("*.new")) and not list(state.glob("models/.new-*"))
    [folder] = state.glob("runs/*")
    assert not (folder / "checkpoint").exists()


def test_a_commit_opens_with_a_suggestion(copied: Repo, tmp_path: Path) -> None:
    """Real git, the real hook, a real interpreter, the real model."""
    install_hooks(Repository.open(copied.path), python=make_python(tmp_path / "python", fake=False))
    copied.git("config", "gitpeft.timeoutMs", "30000")
    editor = script(tmp_path / "editor", f'#!/bin/sh\ncp "$1" {tmp_path}/seen\n')
    text = (copied.path / "src/parser.py").read_text()
    copied.stage(**{"src/parser.py": f"{text}def read_99(value):\n    return read(value)\n"})
    done = copied.run("commit", env={"GIT_EDITOR": str(editor)})
    said = done.stderr.decode()
    assert done.returncode == 0, said
    message = copied.git("log", "-1", "--format=%s")
    assert (tmp_path / "seen").read_text().startswith(f"{message}\n"), said
    offered = {one.message for one in suggested(copied, 8)}
    assert message in offered or message.startswith("parser")
    assert not (state_of(copied) / "hook.log").exists()


def _read_paces(file: Path, prefix: str) -> dict[str, float]:
    return {name: pace for name, pace in json.loads(file.read_bytes()).items() if name.startswith(prefix)}


def test_the_second_run_neither_trains_nor_asks(
    copied: Repo, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, heard = active(copied).manifest, []

    def listen(step: str, _: float, detail: str) -> None:
        heard.append((step, detail))

    [folder] = state_of(copied).glob("runs/*")
    before = {path: path.stat().st_mtime_ns for path in folder.rglob("*.onnx")}
    paces = (state_of(copied) / "paces.json", "export/")
    known = _read_paces(*paces)
    monkeypatch.setattr(Suggester, "collect_candidates", None)
    outcome = run(copied, plan(built), listen)
    assert known and _read_paces(*paces) == known, "what is not done again shows no pace"
    assert ("train", "already trained") in heard and len([s for s, _ in heard if s == "train"]) == 1
    assert {path: path.stat().st_mtime_ns for path in folder.rglob("*.onnx")} == before
    again = active(copied).manifest
    assert replace(again, created="") == replace(first, created="")
    assert outcome.candidate.trained is not None
    assert outcome.candidate.trained.cost.training.steps == STEPS


def test_a_new_commit_is_a_new_run(copied: Repo, built: Built) -> None:
    generated.put(copied, [Step("session: add write_500", AUTHORS[0], {"src/session.py": b"x = 1\n"})])
    what = plan(built, minutes=0.001)
    assert run(copied, what).used == COUNT + 1
    assert active(copied).manifest.commits["count"] == COUNT + 1
    assert len(list(state_of(copied).glob("runs/*"))) == 2
    for seed in (1, 2):
        run(copied, replace(what, seed=seed))
    assert len(list(state_of(copied).glob("runs/*"))) == 3, "the newest runs are kept, no more"


@pytest.mark.parametrize(
    ("scores", "best"),
    [((3, 2, 1), "tuned"), ((2, 3, 1), "tuned half way"), ((1, 2, 3), "untuned"), ((2, 2, 2), "tuned")],
)
def test_what_validation_likes_best_serves(
    scores: tuple[int, ...], best: str, copied: Repo, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Tuned, half of it, or the base as it is; its files, its chooser, its adapter or none."""
    left = iter(scores)

    def choose(made: BundleDraft, *_: Any) -> RerankerChoice:
        score = float(next(left))
        return RerankerChoice(
            "generated", Reranker(mode="generated", threshold=score), 20, {"generated": score}
        )

    monkeypatch.setattr(messages, "choose_on_validation", choose)
    copied.commit("one more", **{"extra.py": "EXTRA = 1\n"})  # so that it is a run of its own
    outcome = run(copied, plan(built))
    bundle = active(copied)
    assert outcome.candidate.selected.scores == dict(
        zip(("tuned", "tuned half way", "untuned"), scores, strict=True)
    )
    assert (
        bundle.read_json(bundles.RERANKER_FILE)["threshold"] == max(scores)
        and bundle.manifest.metrics["tuning"]
    )
    trained = max((state_of(copied) / "runs").iterdir(), key=lambda path: path.stat().st_mtime)
    whole, name = (
        load_file(trained / "adapter/adapter_model.safetensors"),
        "adapter/adapter_model.safetensors",
    )
    if best == "untuned":
        assert name not in bundle and outcome.candidate.trainable == 0
        assert outcome.candidate.method == {"name": "none"}
        assert bundle.read(bundles.ENCODER_FILE) == (built.out / "onnx" / bundles.ENCODER_FILE).read_bytes()
        return
    weights = load_file(bundle.path / name)
    for key, weight in weights.items():
        strength = 0.5 if "lora_B" in key and best == "tuned half way" else 1.0
        assert torch.equal(weight, strength * whole[key])
    files = trained if best == "tuned" else trained / "strength-0.5"
    assert bundle.read(bundles.ENCODER_FILE) == (files / bundles.ENCODER_FILE).read_bytes()


@pytest.mark.parametrize(
    "change",
    [
        lambda repo: repo.git("config", "gitpeft.fixPattern", "^parser"),
        lambda repo: (repo.path / ".mailmap").write_text("Ada <ada@example.org> <a@example.org>\n"),
        lambda repo: repo.git("replace", "--graft", "HEAD~5"),
        lambda repo: ignore_newest(repo),
    ],
)
def test_a_run_with_other_labels_does_not_take_a_risk_model_that_is_there(
    copied: Repo, built: Built, change: Callable[[Repo], object]
) -> None:
    def find_folder() -> Path:
        repository = Repository.open(copied.path)
        mined = pipeline.mine_history(repository, "HEAD", nobody)
        data = pipeline.build_examples(mined, nobody, RunBudget.start(repository.state_dir, 3.0))
        return pipeline.prepare_run_folder(repository, plan(built), mined, data)

    before = find_folder()
    assert (before / bundles.RISK_MODEL_FILE).exists() and find_folder() == before
    change(copied)
    assert find_folder() != before


def ignore_newest(repo: Repo) -> None:
    (repo.path.parent / "ignored").write_text(repo.git("rev-parse", "HEAD"))
    repo.git("config", "blame.ignoreRevsFile", str(repo.path.parent / "ignored"))


def test_training_alone_and_the_rest_later(copied: Repo, built: Built) -> None:
    what, repository = plan(built, seed=5), Repository.open(copied.path)
    before = listing(state_of(copied) / "models")
    done = pipeline.train_only(repository, what, nobody)
    cost = done.cost
    assert done.as_dict()["steps"] == STEPS and done.as_dict()["budget"]["minutes"] == what.minutes
    assert cost.training.steps == STEPS and listing(state_of(copied) / "models") == before
    last = pipeline.find_last_trained_plan(repository)
    assert last == replace(what, until=copied.git("rev-parse", "HEAD"))
    trained = run(copied, last).candidate.trained
    assert trained is not None and trained.cost.exported_bytes > 0
    assert replace(trained.cost, exported_bytes=0) == cost
    assert active(copied).manifest.seeds == {"train": 5}


def test_measuring_the_active_model(served: tuple[Repo, PipelineResult]) -> None:
    repo, outcome = served
    again = pipeline.evaluate_active_model(Repository.open(repo.path), 200, nobody)
    assert again.bundle == outcome.bundle and again.used == COUNT
    assert again.measured == outcome.candidate.measured
    few = pipeline.evaluate_active_model(Repository.open(repo.path), 4, nobody)
    assert few.measured.scores["gitpeft"].n == 4


@pytest.mark.parametrize("held", [3, 0])
def test_only_what_the_model_has_not_learnt_from_is_asked(copied: Repo, held: int) -> None:
    """A retrained model has learnt from more than the oldest nine tenths."""
    bundle = active(copied)
    with bundles.staging_folder(state_of(copied)) as folder:
        for name in bundle.manifest.files:
            (folder / name).parent.mkdir(parents=True, exist_ok=True)
            (folder / name).write_bytes(bundle.read(name))
        commits = bundle.manifest.commits | {"held": held}
        id_ = bundles.write_bundle(folder, replace(bundle.manifest, commits=commits))
    bundles.activate_bundle(state_of(copied), id_)
    if held:
        assert (
            pipeline.evaluate_active_model(Repository.open(copied.path), 200, nobody)
            .measured.scores["gitpeft"]
            .n
            == held
        )
    else:
        with pytest.raises(GitpeftError, match="no commit is left"):
            pipeline.evaluate_active_model(Repository.open(copied.path), 200, nobody)


# --- until --------------------------------------------------------------------------------------------------


def test_nothing_after_until_reaches_the_model(copied: Repo, built: Built) -> None:
    """A word that is only in later commits, in all that they hold, is nowhere in the bundle."""
    cut = copied.git("rev-parse", "HEAD")
    word, shout = "zanzibar", "ZAN-77"
    steps = [
        Step(f"{shout} {word}: tell of {word}{i}\n\n{word}\n", AUTHORS[i % 3],
             {f"src/{word}{i}.py": f"{word} = {i}\n".encode() * 9, "src/parser.py": f"{word}{i}\n".encode()})
        for i in range(200)
    ]  # fmt: skip
    generated.put(copied, steps)
    whole = pipeline.mine_history(Repository.open(copied.path), "HEAD", nobody)
    assert len(whole.records) == COUNT + 200 and word in whole.records[-1].change
    outcome = run(copied, plan(built, until=cut, seed=7))
    assert outcome.used == COUNT and active(copied).manifest.commits["to"] == cut
    for name, (_, raw) in listing(active(copied).path).items():
        assert word.encode() not in raw.lower() and shout.encode() not in raw, name
    found = active(copied)
    index = CommitIndex.load_from_bundle(found)
    assert len(index) == COUNT and index.find_position(copied.git("rev-parse", "HEAD")) is None
    [folder] = [p for p in state_of(copied).glob("runs/*") if cut in (p / "plan.json").read_text()
                and '"seed": 7' in (p / "plan.json").read_text()]  # fmt: skip
    for name, (_, raw) in listing(folder).items():
        assert word.encode() not in raw.lower(), name
    assert {name: (state_of(copied) / name).exists() for name in ("current", "history.db")} == {
        "current": True, "history.db": True,
    }  # fmt: skip


def test_until_names_no_commit(copied: Repo, built: Built) -> None:
    before = active(copied).id
    with pytest.raises(GitpeftError, match="unknown revision"):
        run(copied, plan(built, until="nowhere"))
    assert active(copied).id == before


# --- short histories ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("count", [1, 2, 7, 49])
def test_a_short_history_is_served_untuned(count: int, repo: Repo, built: Built) -> None:
    generated.put(repo, generated.team(count))
    outcome = run(repo, plan(built))
    assert (outcome.candidate.kind, outcome.used, outcome.candidate.trainable) == ("model", count, 0)
    assert outcome.candidate.why == f"only {count} usable commits, training needs 50"
    manifest = active(repo).manifest
    assert manifest.method == {"name": "none"} and manifest.base == built.out.name
    assert not any(name.startswith("adapter") for name in manifest.files)
    assert active(repo).read_json(bundles.RERANKER_FILE)["mode"] in ("generated", "retrieved", "chooser")
    assert count < 7 or suggested(repo)


def test_fifty_are_enough() -> None:
    data = dataset.build_dataset([], 3)
    assert pipeline.explain_skipped_training(ModelPlan(), data) == "only 0 usable commits, training needs 50"
    assert pipeline.explain_skipped_training(ModelPlan(train=False), data) == "training was not asked for"
    fifty = replace(data, examples=tuple(dataset.Example("", str(i), "", (), "") for i in range(50)))
    assert pipeline.explain_skipped_training(ModelPlan(), fifty) == ""


def test_minutes_for_a_handful_of_examples_are_spent_on_the_reranker(
    copied: Repo, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The base serves untuned, and the run says so; a training alone ends with the same sentence."""
    monkeypatch.setattr(finetune, "LONG_HISTORY", 10)
    monkeypatch.setattr(finetune, "fit_into_minutes", lambda *_: 59)
    outcome = run(copied, plan(built, seed=7))
    why = "there is time for about 59 examples, 60 are needed"
    assert (outcome.candidate.kind, outcome.candidate.why, outcome.candidate.trainable) == ("model", why, 0)
    assert f"training: {why}" in outcome.budget.left_out
    assert active(copied).manifest.method == {"name": "none"}
    assert outcome.candidate.selected.choice is not None and outcome.candidate.selected.choice.n == 20
    with pytest.raises(GitpeftError, match="nothing was trained: there is time for about 59"):
        pipeline.train_only(Repository.open(copied.path), plan(built, seed=8), nobody)
    monkeypatch.setattr(finetune, "fit_into_minutes", lambda *_: 60)
    assert run(copied, plan(built, seed=7)).candidate.trained is not None


def test_a_model_that_its_export_changes_is_served_untuned(
    copied: Repo, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes of training are lost, but there is a model, and the reason is told."""

    def refuse(*_: object) -> None:
        raise ParityError("the export would change the model too much")

    monkeypatch.setattr(finetune, "export_run", refuse)
    outcome = run(copied, plan(built, seed=9))
    assert (outcome.candidate.kind, outcome.candidate.trainable) == ("model", 0)
    assert outcome.candidate.why == "the export would change the model too much"
    assert active(copied).manifest.method == {"name": "none"} and suggested(copied)


def test_the_gate_gets_more_messages_than_let_a_model_through(
    copied: Repo, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """They are there for a model that a few would refuse."""
    given = []
    export = parity.export_model

    def note(*args: Any, **options: Any) -> Any:
        given.append((len(args[3]), options["enough"]))
        return export(*args, **options)

    monkeypatch.setattr(parity, "export_model", note)
    monkeypatch.setattr(finetune, "_SIZES", replace(finetune._SIZES, parity=5))
    run(copied, plan(built, seed=10))
    assert given and set(given) == {(20, 5)}


def test_a_base_without_its_onnx_files_leaves_retrieval(repo: Repo, built: Built, tmp_path: Path) -> None:
    bare = Path(shutil.copytree(built.out, tmp_path / "bare", ignore=shutil.ignore_patterns("onnx")))
    generated.put(repo, generated.team(20))
    outcome = run(repo, plan(built, base=str(bare)))
    assert outcome.candidate.kind == active(repo).manifest.kind == "retrieval"
    assert set(outcome.candidate.measured.scores) == {"nearest neighbour"}
    assert all(one.origin != "generated" for one in suggested(repo))


@pytest.mark.parametrize("steps", [[], [Step('Revert "x"', files={"a": b"1"}), Step("empty")]])
def test_nothing_usable_leaves_nothing(steps: list[Step], repo: Repo, built: Built) -> None:
    if steps:
        generated.put(repo, steps)
    before = listing(repo.path)
    with pytest.raises(GitpeftError) as error:
        run(repo, plan(built))
    assert error.value.message and error.value.hint
    assert set(listing(repo.path)) == set(before)
    assert not state_of(repo).exists()


@pytest.mark.parametrize("count", [10, 60])
def test_a_base_that_is_not_there_changes_nothing(count: int, repo: Repo, built: Built) -> None:
    generated.put(repo, generated.team(count))
    with pytest.raises(GitpeftError, match=r"the base /nowhere has no config\.json"):
        run(repo, plan(built, base="/nowhere"))
    assert bundles.open_active_bundle(state_of(repo)) is None


def test_nothing_was_trained_and_nothing_is_active(repo: Repo, built: Built) -> None:
    generated.put(repo, generated.team(10))
    repository = Repository.open(repo.path)
    with pytest.raises(GitpeftError, match="nothing was trained: only 10 usable") as error:
        pipeline.train_only(repository, plan(built), nobody)
    assert "gitpeft init" in error.value.hint
    with pytest.raises(GitpeftError, match="no trained run"):
        pipeline.find_last_trained_plan(repository)
    with pytest.raises(GitpeftError, match="no model yet"):
        pipeline.evaluate_active_model(repository, 10, nobody)


# --- killed -------------------------------------------------------------------------------------------------

_KILLED = """\
import os, signal, sys
from pathlib import Path
from gitpeft.git.repository import Repository
from gitpeft.learn import pipeline, results
repository = Repository.open(Path(sys.argv[1]))
def listen(step, done, detail):
    if step == "train" and list(repository.state_dir.glob("runs/*/checkpoint/checkpoint.safetensors")):
        os.kill(os.getpid(), signal.SIGKILL)
pipeline.build_active_model(repository, results.ModelPlan(base=sys.argv[2], seed=3), listen)
"""


def test_killed_while_training_it_goes_on_and_the_old_model_stays(copied: Repo, built: Built) -> None:
    before, pointer = listing(state_of(copied) / "models"), (state_of(copied) / "current").read_bytes()
    done = subprocess.run(
        [sys.executable, "-c", _KILLED, str(copied.path), str(built.out)],
        cwd=CHECKOUT, capture_output=True, timeout=200, check=False,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
    )  # fmt: skip
    assert done.returncode == -signal.SIGKILL, done.stderr.decode()
    assert listing(state_of(copied) / "models") == before
    assert (state_of(copied) / "current").read_bytes() == pointer
    assert suggested(copied)
    heard: list[float] = []

    def listen(step: str, share: float, _: str) -> None:
        if step == "train":
            heard.append(share)

    outcome = run(copied, ModelPlan(base=str(built.out), seed=3), listen)
    assert heard[0] > 0.05, "it began anew"
    assert outcome.candidate.trained is not None
    assert outcome.candidate.trained.cost.training.steps == STEPS and len(heard) < STEPS
    assert active(copied).id == outcome.bundle != pointer.decode().split("\n")[0]


class Stopped(BaseException):
    """Stands for the end of the process."""


def test_stopped_at_any_step_the_old_model_stays_and_the_next_run_ends(copied: Repo, built: Built) -> None:
    pointer = (state_of(copied) / "current").read_bytes()
    before = listing(state_of(copied) / "models")
    generated.put(copied, [Step("logger: add drop_600", AUTHORS[1], {"src/logger.py": b"x = 1\n"})])
    for wanted in ("mine", "examples", "labels", "risk", "train", "export", "choose", "measure"):

        def listen(step: str, _: float, __: str, wanted: str = wanted) -> None:
            if step == wanted:
                raise Stopped

        with pytest.raises(Stopped):
            run(copied, plan(built), listen)
        assert (state_of(copied) / "current").read_bytes() == pointer, wanted
        assert listing(state_of(copied) / "models") == before, wanted
    assert run(copied, plan(built)).used == COUNT + 1
    assert (state_of(copied) / "current").read_bytes() != pointer


# --- without torch ------------------------------------------------------------------------------------------

_BLOCKED = """\
import sys
from importlib.machinery import PathFinder
class Finder:
    @staticmethod
    def find_spec(name, path=None, target=None):
        trains = {"torch", "transformers", "peft", "onnx", "onnxscript", "safetensors"}
        measures = {"rapidfuzz", "rouge_score"}
        hidden = name.split(".")[0] in trains | measures
        return None if hidden else PathFinder.find_spec(name, path, target)
sys.meta_path = [one for one in sys.meta_path if one is not PathFinder] + [Finder]
from gitpeft.cli import main
main()
"""


@pytest.fixture
def without_torch() -> Iterator[Callable[..., subprocess.CompletedProcess[str]]]:
    """Runs `gitpeft ARGS` where only the plain install is there."""

    def call(*args: str) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            [sys.executable, "-c", _BLOCKED, *args], cwd=CHECKOUT, capture_output=True, text=True,
            timeout=200, check=False,
        )  # fmt: skip

    yield call


def test_without_torch_a_long_history_is_served(
    repo: Repo, built: Built, without_torch: Callable[..., subprocess.CompletedProcess[str]]
) -> None:
    generated.put(repo, generated.team(70))
    place = ("--repo", str(repo.path))
    done = without_torch("init", *place, "--base", str(built.out), "--json")
    assert done.returncode == 0, done.stderr
    outcome = json.loads(done.stdout)
    assert (outcome["kind"], outcome["used"]) == ("model", 70)
    assert outcome["why"] == "gitpeft[train] is not installed"
    assert set(outcome["test"]["gitpeft"]) >= {"n", "keystrokes_saved", "coverage", "b_norm", "first_word"}
    assert not {"rouge_l", "edit_similarity"} & set(outcome["test"]["gitpeft"])
    assert "prepare-commit-msg" in outcome["hooks"]
    assert suggested(repo)
    card = " ".join(without_torch("init", *place, "--base", str(built.out)).stdout.replace("│", "").split())
    assert "pip install 'gitpeft[train]', then gitpeft init" in card
    refused = without_torch("train", *place, "--base", str(built.out))
    assert refused.returncode == 1 and "Traceback" not in refused.stderr
    assert "gitpeft[train] is not installed" in refused.stderr
