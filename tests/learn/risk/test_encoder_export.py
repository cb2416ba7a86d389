"""The judge as a graph: equal to torch, line by line a sum, read in the hook as in a replay."""

import os
import signal
import socket  # noqa: TID251 - to see that it is refused
import time
from collections.abc import Callable
from dataclasses import asdict, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from gitpeft.bundle import bundle as bundles
from gitpeft.config import load_config
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn import pipeline
from gitpeft.learn.models import bases, methods
from gitpeft.learn.results import ModelPlan
from gitpeft.learn.risk import classifiers, encoder, encoder_export, labelled_history, prequential, selection
from gitpeft.learn.risk.encoder import RiskTuningSettings
from gitpeft.learn.risk.encoder_export import RiskEncoderTrainer, RiskParityBounds, export_risk_encoder
from gitpeft.learn.risk.metric_replay import measure_history
from gitpeft.learn.training import loop
from gitpeft.risk import assessor, precommit
from gitpeft.risk import encoder as risk_encoder
from gitpeft.risk.change_metrics import ChangeMetrics
from gitpeft.risk.encoder import OnnxRiskEncoder
from gitpeft.risk.model import ENCODER_FEATURE, RISK_FEATURES, TUNED_ENCODER, load_risk_model
from gitpeft.share import package
from tests.support import tinymodel
from tests.support.commands import Call
from tests.support.gitrepo import Repo
from tests.support.risk_tuning import evaluate_time_split
from tests.support.riskhistory import data, history, play
from tests.support.risky import MODEL, change_core, fixed_often
from tests.support.tuning import ARCHITECTURES

LOOSE = RiskParityBounds(moved=1.0)


@pytest.fixture(scope="module", params=["codet5"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bases.BaseModel:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    ARCHITECTURES[request.param]().save_pretrained(folder)
    tinymodel.write_tokenizer(folder)
    return bases.find_base(str(folder))


def judged(base: bases.BaseModel, text: str, folder: Path) -> encoder.RiskEncoderModel:
    """A judge with weights of some size, tuned with a method, loaded again."""
    method = methods.make_method(*methods.parse_method(text))
    lesson = RiskTuningSettings(epochs=4, batch=8)
    tuned, method, scaling, _ = encoder.train_risk_encoder(
        base, method, data().train, data().valid, data().texts, lesson
    )
    encoder.save_trained_encoder(tuned, scaling, folder)
    return encoder.load_trained_encoder(base, method, folder)


@pytest.mark.parametrize("text", ["lora:rank=4,lr=0.02", "adapter:width=8,lr=0.02", "full:lr=0.005"])
def test_the_graph_is_the_judge(base: bases.BaseModel, text: str, tmp_path: Path) -> None:
    model = judged(base, text, tmp_path)
    part = data().valid
    rows = classifiers.build_design_matrix(part, RISK_FEATURES)
    asked = [
        (encoder.encode_change(data().texts[sha], base, message=False), row)
        for sha, row in zip(part.shas, rows.tolist(), strict=True)
    ]
    graph, parity = export_risk_encoder(model, asked, LOOSE)
    assert parity.examples == len(part) and parity.exact < 1e-4 and parity.moved < 0.2 and parity.rank > 0.8
    reader = OnnxRiskEncoder(lambda: graph, base.load_codec, base.budget)
    logits = encoder.predict_logits(
        model, encoder.encode_commits(part, data().texts, base, RISK_FEATURES, 0.0), base
    )
    for sha, metrics, logit in zip(part.shas, part.metrics, logits, strict=True):
        assert reader.score_change(data().texts[sha].change, metrics).logit == pytest.approx(logit, abs=0.3)


def test_what_int8_moves_too_far_is_refused(base: bases.BaseModel, tmp_path: Path) -> None:
    model = judged(base, "lora:rank=4,lr=0.02", tmp_path)
    asked = [(encoder.encode_change(data().texts[sha], base, False), [0.0] * 13) for sha in data().valid.shas]
    with pytest.raises(GitpeftError, match="the exported risk encoder differs from the trained one"):
        export_risk_encoder(model, asked, RiskParityBounds(moved=0.0))


def test_only_what_can_be_written_is_exported() -> None:
    from gitpeft.learn.risk.encoder import FeatureScaling, RiskEncoderModel

    model = tinymodel.bart()
    scaling = FeatureScaling(RISK_FEATURES, (0.0,) * 13, (1.0,) * 13)
    with pytest.raises(GitpeftError, match="type bart cannot be exported"):
        export_risk_encoder(
            RiskEncoderModel(model.get_encoder(), model.config, "last", scaling), [([5], [0.0] * 13)]
        )


def test_lines_add_up_and_stay_the_same(base: bases.BaseModel, tmp_path: Path) -> None:
    """The share of a line does not depend on when it is asked, nor on the metrics."""
    model = judged(base, "lora:rank=4,lr=0.02", tmp_path)
    text, other_text = (data().texts[sha] for sha in data().train.shas[:2])
    graph, _ = export_risk_encoder(
        model, [(encoder.encode_change(one, base, False), [1.0] * 13) for one in (text, other_text)], LOOSE
    )
    reader = OnnxRiskEncoder(lambda: graph, base.load_codec, base.budget)
    first, again = (reader.score_change(text.change, ChangeMetrics(la=9)) for _ in range(2))
    other = reader.score_change(text.change, ChangeMetrics(la=900))
    assert first == again and first.lines == other.lines and first.logit != other.logit
    assert [(path, line) for path, line, _ in first.lines] == [
        (block[0][1:], line) for block in [text.change.split("\n")[1:]] for line in block[1:]
    ]


def test_a_teacher_reads_what_it_was_not_taught(
    base: bases.BaseModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoder_export, "RiskParityBounds", lambda: LOOSE)
    given = data().train
    texts = tuple(data().texts[sha].change for sha in given.shas)
    given = classifiers.LabelledCommits(given.metrics, given.truth, given.times, given.shas, texts)
    method = methods.make_method("lora", {"rank": 4, "lr": 1e-2})
    teacher = RiskEncoderTrainer(base, method, 1.0, settings=RiskTuningSettings(epochs=2, batch=8))
    read = teacher(given)
    assert read is not None and teacher.graph and teacher.notes[0]["parity"]["exact"] < 1e-3
    found = read(given)
    held = len(given) // 8
    assert np.isnan(found[:-held]).all() and not np.isnan(found[-held:]).any()
    trial = evaluate_time_split(given, 0.25, teacher)
    assert set(trial.ranked) == {"lines added", "logistic regression", "metrics and words", "tuned encoder",
                                 "metrics, words and encoder", "prior", "prior and own history"}  # fmt: skip
    assert ENCODER_FEATURE in trial.parts[0].models["tuned encoder"].features
    assert not any(np.isnan(one.scores).any() for one in trial.ranked.values())


@pytest.mark.parametrize(
    ("error", "said"),
    [
        ("CUDA out of memory", {"notes": ["out of memory: each batch in 2 parts from now on"]}),
        ("CUDA error: unspecified launch failure", {"why": "the GPU failed: "}),
    ],
)
def test_a_teacher_tells_what_became_of_the_gpu(
    base: bases.BaseModel, monkeypatch: pytest.MonkeyPatch, error: str, said: dict[str, Any]
) -> None:
    load, failed = loop._load_batch, list[bool]()

    def fail_first(*given: Any) -> Any:
        if not failed:
            failed.append(True)
            raise (torch.cuda.OutOfMemoryError if "memory" in error else RuntimeError)(error)
        return load(*given)

    monkeypatch.setattr(encoder_export, "RiskParityBounds", lambda: LOOSE)
    monkeypatch.setattr(loop, "_load_batch", fail_first)
    given = data().train
    texts = tuple(data().texts[sha].change for sha in given.shas)
    given = classifiers.LabelledCommits(given.metrics, given.truth, given.times, given.shas, texts)
    settings = RiskTuningSettings(epochs=1, batch=8)
    teacher = RiskEncoderTrainer(base, methods.make_method("lora", {"rank": 4}), 1.0, settings=settings)
    teacher(given)
    [found] = teacher.notes
    assert found.get("notes") == said.get("notes") and found.get("why", "").startswith(said.get("why", ""))


def test_a_teacher_that_cannot_learn_says_why(base: bases.BaseModel) -> None:
    """A method that fits messages need not fit a judge, which has no decoder: the other scores go on."""
    given = data().train
    texts = tuple(data().texts[sha].change for sha in given.shas)
    given = classifiers.LabelledCommits(given.metrics, given.truth, given.times, given.shas, texts)
    teacher = RiskEncoderTrainer(base, methods.make_method("lora", {"layers": ("decoder.0",)}), 1.0)
    assert teacher(given) is None and "no layer decoder.0" in teacher.notes[0]["why"]


@pytest.mark.parametrize(
    "text", ["lora:side=decoder", "lora:layers=encoder.0+decoder.0", "hybrid:full=decoder.1", "lora"]
)
def test_a_judge_is_tuned_whatever_the_messages_were_tuned_with(base: bases.BaseModel, text: str) -> None:
    name, settings = methods.parse_method(text)
    plan = ModelPlan(base=str(base.name), method=name, settings=settings)
    teacher = pipeline.make_risk_encoder_trainer(plan, 1.0)
    assert teacher is not None and teacher.method.name == name and teacher.method.stays_on("encoder")


# --- in a bundle --------------------------------------------------------------------------------------------


def graph_of(base: bases.BaseModel) -> bytes:
    """A judge with random weights."""
    torch.manual_seed(1)
    model = encoder.create_risk_encoder(base, encoder.FeatureScaling(RISK_FEATURES, (0.0,) * 13, (1.0,) * 13))
    torch.nn.init.normal_(model.logit.weight)
    rows = [(encoder.encode_change(text, base, False), [1.0] * 13) for text in data().texts.values()]
    return export_risk_encoder(model, rows[:20], RiskParityBounds(moved=9.0))[0]


@pytest.fixture
def shipped(repo: Repo, base: bases.BaseModel) -> Repo:
    """A repository in which a tuned encoder is the active risk model, and a large change is staged."""
    fixed_often(repo)
    change_core(repo)
    repository = Repository.open(repo.path)
    with bundles.staging_folder(repository.state_dir) as folder:
        settings = tinymodel.fill(folder, tinymodel.plain_t5())
        scores = tuple(i / 5 - 1000 for i in range(201))
        model = replace(
            MODEL,
            kind=TUNED_ENCODER,
            features=(ENCODER_FEATURE,),
            weights=(1.0,),
            means=(0.0,),
            bias=0.0,
            scores=scores,
        )
        (folder / bundles.RISK_MODEL_FILE).write_text(model.to_json())
        (folder / bundles.RISK_ENCODER_FILE).write_bytes(graph_of(base))
        budget = asdict(base.budget)
        made = bundles.Manifest("model", "2024-01-01T00:00:00Z", settings=settings, budget=budget)
        id_ = bundles.write_bundle(folder, made)
    bundles.activate_bundle(repository.state_dir, id_)
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository)
    return repo


def test_the_hook_scores_as_a_replay_does(shipped: Repo, gitpeft: Call) -> None:
    repository = Repository.open(shipped.path)
    bundle = bundles.open_active_bundle(repository.state_dir)
    model = load_risk_model(bundle)
    reader = assessor.load_risk_encoder(model, bundle)
    staged = precommit.assess_staged_change(repository, load_config(repository), model, reader)
    assert staged.flagged and staged.score == staged.beside[ENCODER_FEATURE]
    said = gitpeft("risk", "--repo", shipped.path, "--staged", "--explain")
    assert said.code == 0 and "encoder's estimate" in said.out
    shipped.git("commit", "-q", "-m", "core: more")
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository)
        last = measure_history(history, repository)[-1]
        text = history.load_records(repository)[-1].change
    assert reader is not None and last.sha == shipped.git("rev-parse", "HEAD")
    assert staged.metrics is not None and last.metrics.la == staged.metrics.la  # see test_replay for the rest
    assert reader.score_change(text, staged.metrics).logit == pytest.approx(staged.score, abs=1e-5)


def test_before_a_commit_a_confined_child_reads_the_same(shipped: Repo) -> None:
    repository = Repository.open(shipped.path)
    bundle = bundles.open_active_bundle(repository.state_dir)
    reader = assessor.load_risk_encoder(load_risk_model(bundle), bundle)
    assert reader is not None
    change, metrics = "m src/core.py\n", ChangeMetrics(nf=1, la=3)
    with risk_encoder.SandboxedRiskEncoder(repository.state_dir, time.monotonic() + 60, 2048) as confined:
        assert confined.score_change(change, metrics) == reader.score_change(change, metrics)
    assert "riskier than" in precommit.check_staged_risk(repository, load_config(repository)).lines[0]


@pytest.mark.parametrize(
    "end, said",
    [
        (lambda: os.kill(os.getpid(), signal.SIGSEGV), "the model crashed"),
        (lambda: time.sleep(60), "risk not assessed within the time allowed"),
        (lambda: socket.socket(), "the model failed .PermissionError"),
    ],
    ids=["crash", "late", "socket"],
)
def test_what_befalls_the_child_is_a_sentence(
    end: Callable[[], Any], said: str, shipped: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(risk_encoder, "load_encoder_handler", lambda state: end())
    with (
        risk_encoder.SandboxedRiskEncoder(
            Repository.open(shipped.path).state_dir, time.monotonic() + 5, 2048
        ) as confined,
        pytest.raises(GitpeftError, match=said),
    ):
        confined.score_change("m src/core.py\n", ChangeMetrics(nf=1))


def test_a_damaged_graph_is_a_sentence(shipped: Repo, gitpeft: Call) -> None:
    bundle = bundles.open_active_bundle(Repository.open(shipped.path).state_dir)
    assert bundle is not None
    path = bundle.path / bundles.RISK_ENCODER_FILE
    path.write_bytes(path.read_bytes()[:-1] + b"x")
    said = gitpeft("risk", "--repo", shipped.path)
    assert said.code == 1 and "risk.onnx of the model is damaged" in said.said


def test_it_travels_whole(shipped: Repo, tmp_path: Path) -> None:
    bundle = bundles.open_active_bundle(Repository.open(shipped.path).state_dir)
    assert bundle is not None
    for name, raw in package.pack_bundle(bundle).items():
        (tmp_path / "sent" / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / "sent" / name).write_bytes(raw)
    assert (
        package.receive_package(package.read_folder_package(tmp_path / "sent"), tmp_path / "state")
        == bundle.id
    )
    arrived = bundles.open_bundle(tmp_path / "state" / "models" / bundle.id)
    assert (
        arrived.read(bundles.RISK_ENCODER_FILE) == bundle.read(bundles.RISK_ENCODER_FILE)
        and OnnxRiskEncoder.from_bundle(arrived) is not None
    )


def test_init_leaves_the_graph_where_it_is_worth_it(
    base: bases.BaseModel, repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a history in which it wins; it has two looks at the commits, each bounded in time."""
    monkeypatch.setattr(encoder_export, "RiskParityBounds", lambda: RiskParityBounds(moved=9.0, exact=1e-2))
    for module in (prequential, selection):
        monkeypatch.setattr(module, "select_model", lambda _: TUNED_ENCODER)
    monkeypatch.setattr(selection, "_reject_chance_model", lambda model, _: model)
    measured, found = history(300, 1, 0.9)
    play(monkeypatch, measured, found)
    monkeypatch.setattr(labelled_history, "measure_history", lambda *_: measured)
    tip = repo.commit("start", a="1\n")
    repository = Repository.open(repo.path)
    plan = ModelPlan(base=str(base.folder), settings={"rank": 4}, minutes=0.5)
    mined = pipeline.mine_history(repository, tip, lambda *_: None)
    told = pipeline.fit_risk_model(repository, mined, tmp_path, lambda *_: None, plan)[0].as_dict()
    assert told["kind"] == TUNED_ENCODER and (tmp_path / bundles.RISK_ENCODER_FILE).exists()
    taught = told["report"]["taught"]
    assert len(taught) == 2 and all(one["seconds"] < 10 for one in taught)
    assert told["report"]["lines"]["n"] == 0 and len(told["scores"]) == 201
