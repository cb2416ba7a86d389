"""The judge as a graph: equal to torch, line by line a sum, read in the hook as in a replay."""

from pathlib import Path

import numpy as np
import pytest
import torch

from gitpeft.errors import GitpeftError
from gitpeft.learn import bases, defects, fitting, judge, judge_export, methods
from gitpeft.learn.judge import Lesson
from gitpeft.learn.judge_export import Bounds, Teacher, export
from gitpeft.metrics import Metrics
from gitpeft.reading import Reader
from gitpeft.risk import FEATURES, READING
from tests import tinymodel
from tests.learn.test_architectures import ARCHITECTURES
from tests.learn.test_judge import data

LOOSE = Bounds(moved=1.0)


@pytest.fixture(scope="module", params=["codet5", "codet5p"])
def base(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> bases.Base:
    torch.manual_seed(0)
    folder = tmp_path_factory.mktemp(request.param)
    ARCHITECTURES[request.param]().save_pretrained(folder)
    tinymodel.write_tokenizer(folder)
    return bases.find(str(folder))


def judged(base: bases.Base, text: str, folder: Path) -> judge.Judge:
    """A judge with weights of some size, tuned with a method, loaded again."""
    method = methods.of(*methods.parse(text))
    lesson = Lesson(epochs=4, batch=8)
    tuned, method, scaling, _ = judge.learn(base, method, data().train, data().valid, data().texts, lesson)
    judge.save(tuned, scaling, folder)
    return judge.load(base, method, folder)


@pytest.mark.parametrize("text", ["lora:rank=4,lr=0.02", "adapter:width=8,lr=0.02", "full:lr=0.005"])
def test_the_graph_is_the_judge(base: bases.Base, text: str, tmp_path: Path) -> None:
    model = judged(base, text, tmp_path)
    part = data().valid
    rows = fitting.design(part, FEATURES)
    asked = [
        (judge.source(data().texts[sha], base, message=False), row)
        for sha, row in zip(part.shas, rows.tolist(), strict=True)
    ]
    graph, parity = export(model, asked, LOOSE)
    assert parity.examples == len(part) and parity.exact < 1e-4 and parity.moved < 0.2 and parity.rank > 0.8
    reader = Reader(lambda: graph, base.codec, base.budget)
    logits = judge.scores(model, judge.judged(part, data().texts, base, FEATURES, 0.0), base)
    for sha, metrics, logit in zip(part.shas, part.metrics, logits, strict=True):
        assert reader.read(data().texts[sha].change, metrics).logit == pytest.approx(logit, abs=0.3)


def test_what_int8_moves_too_far_is_refused(base: bases.Base, tmp_path: Path) -> None:
    model = judged(base, "lora:rank=4,lr=0.02", tmp_path)
    asked = [(judge.source(data().texts[sha], base, False), [0.0] * 13) for sha in data().valid.shas]
    with pytest.raises(GitpeftError, match="the exported judge is not the trained one"):
        export(model, asked, Bounds(moved=0.0))


def test_only_what_can_be_written_is_exported() -> None:
    from gitpeft.learn.judge import Judge, Scaling

    model = tinymodel.bart()
    scaling = Scaling(FEATURES, (0.0,) * 13, (1.0,) * 13)
    with pytest.raises(GitpeftError, match="type bart cannot be exported"):
        export(Judge(model.get_encoder(), model.config, "last", scaling), [([5], [0.0] * 13)])


def test_lines_add_up_and_stay_the_same(base: bases.Base, tmp_path: Path) -> None:
    """The share of a line does not depend on when it is asked, nor on the metrics."""
    model = judged(base, "lora:rank=4,lr=0.02", tmp_path)
    text, other_text = (data().texts[sha] for sha in data().valid.shas[:2])
    graph, _ = export(
        model, [(judge.source(one, base, False), [1.0] * 13) for one in (text, other_text)], LOOSE
    )
    reader = Reader(lambda: graph, base.codec, base.budget)
    first, again = (reader.read(text.change, Metrics(la=9)) for _ in range(2))
    other = reader.read(text.change, Metrics(la=900))
    assert first == again and first.lines == other.lines and first.logit != other.logit
    assert [(path, line) for path, line, _ in first.lines] == [
        (block[0][1:], line) for block in [text.change.split("\n")[1:]] for line in block[1:]
    ]


def test_a_teacher_reads_what_it_was_not_taught(base: bases.Base, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(judge_export, "Bounds", lambda: LOOSE)
    given = data().train
    texts = tuple(data().texts[sha].change for sha in given.shas)
    given = fitting.Labelled(given.metrics, given.truth, given.times, given.shas, texts)
    method = methods.of("lora", {"rank": 4, "lr": 1e-2})
    teacher = Teacher(base, method, 1.0, lesson=Lesson(epochs=2, batch=8))
    read = teacher(given)
    assert read is not None and teacher.graph and teacher.notes[0]["parity"]["exact"] < 1e-3
    found = read(given)
    held = len(given) // 8
    assert np.isnan(found[:-held]).all() and not np.isnan(found[-held:]).any()
    trial = defects.split(given, 0.25, teacher)
    assert set(trial.ranked) == {"lines added", "logistic regression", "metrics and words", "tuned encoder",
                                 "metrics, words and encoder"}  # fmt: skip
    assert READING in trial.parts[0].models["tuned encoder"].features
    assert not any(np.isnan(one.scores).any() for one in trial.ranked.values())
