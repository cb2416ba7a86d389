"""Judging changes: every method on every architecture, kept and loaded, on parts that never look ahead."""

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from gitpeft.errors import GitpeftError
from gitpeft.learn.data.batches import EncodedCommits
from gitpeft.learn.evaluation import ranking_metrics
from gitpeft.learn.models import bases, methods
from gitpeft.learn.risk import encoder
from gitpeft.learn.risk.encoder import CommitText, FeatureScaling, RiskTuningSettings
from tests.support import tinymodel
from tests.support.risk_tuning import tune_and_score
from tests.support.riskhistory import data, history
from tests.support.tuning import ARCHITECTURES, METHODS, on_side


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """A base's folder by the name of its architecture; an encoder has no pooling layer, which none reads."""
    top = tmp_path_factory.mktemp("bases")

    def folder(name: str) -> Path:
        if not (top / name).exists():
            torch.manual_seed(0)
            model = ARCHITECTURES[name]()
            if hasattr(model, "pooler"):
                model.pooler = None
            model.save_pretrained(top / name)
            tinymodel.write_tokenizer(top / name)
        return top / name

    return folder


@pytest.mark.parametrize("text", METHODS)
@pytest.mark.parametrize("name", ARCHITECTURES)
def test_an_architecture_judges_is_kept_and_loaded(
    name: str, text: str, folders: Callable[[str], Path], tmp_path: Path
) -> None:
    base, lesson = bases.find_base(str(folders(name))), RiskTuningSettings(epochs=6, batch=8, shown=0.5)
    given = methods.make_method(*methods.parse_method(on_side(text, base.architecture.reading_side)))
    tuned = tune_and_score(base, replace(given, lr=2e-2 if name == "plbart" else 1e-2), data(), lesson)
    cost = tuned.cost
    assert cost.steps == 30 and 0 < cost.trainable <= cost.parameters and len(cost.valid_curve) >= 8
    assert (cost.trainable == cost.parameters) is (text == "full")
    assert tuned.method.name != "hybrid" or tuned.method.full
    assert len(tuned.test) == 10 and set(tuned.scaling.features) > {"fix", "la"}
    encoder.save_trained_encoder(tuned.model, tuned.scaling, tmp_path)
    again = encoder.load_trained_encoder(base, tuned.method, tmp_path)
    asked = encoder.encode_commits(data().test, data().texts, base, tuned.scaling.features, 1.0)
    np.testing.assert_allclose(encoder.predict_logits(again, asked, base), tuned.test.scores, atol=1e-4)
    untrained = encoder.predict_logits(encoder.create_risk_encoder(base, tuned.scaling), asked, base)
    assert np.abs(untrained).max() == 0 < np.abs(tuned.test.scores).min()


def test_it_learns_what_only_the_text_tells(folders: Callable[[str], Path]) -> None:
    base = bases.find_base(str(folders("codet5")))
    lesson = RiskTuningSettings(epochs=10, batch=8, checks=4)
    found = tune_and_score(base, methods.make_method("lora", {"rank": 4, "lr": 1e-2}), data(), lesson)
    assert ranking_metrics.roc_auc(found.test.truth, found.test.scores) == 1
    assert found.cost.valid_curve[-1][1] < found.cost.valid_curve[0][1]
    assert "fix" not in found.scaling.features  # no message is read, so that nothing read off one may be
    again = tune_and_score(base, methods.make_method("lora", {"rank": 4, "lr": 1e-2}), data(), lesson)
    np.testing.assert_allclose(again.test.scores, found.test.scores, rtol=1e-2)


def test_a_decoder_alone_cannot_be_tuned_to_judge(folders: Callable[[str], Path]) -> None:
    base = bases.find_base(str(folders("codet5")))
    with pytest.raises(GitpeftError, match=r"no module for .* in decoder"):
        tune_and_score(
            base, methods.make_method("lora", {"rank": 4, "side": "decoder"}), data(), RiskTuningSettings()
        )


def test_later_parts_are_scaled_as_the_training_part_was() -> None:
    given = data()
    scaling = FeatureScaling.from_commits(given.train, ("la", "nf"))
    x = np.log1p([one.la for one in given.train.metrics])
    assert scaling.mean[0] == pytest.approx(x.mean()) and scaling.spread[0] == pytest.approx(
        x.std(), abs=1e-5
    )


def test_messages_are_read_only_where_they_are_shown(folders: Callable[[str], Path]) -> None:
    base = bases.find_base(str(folders("codet5")))
    given, texts = data().train, dict(data().texts)
    other = {sha: CommitText(text.change, "something else") for sha, text in texts.items()}
    plain, renamed = (encoder.encode_commits(given, one, base, ("la",), 0.0) for one in (texts, other))
    assert np.array_equal(plain.source, renamed.source)
    some, all_ = (encoder.encode_commits(given, texts, base, ("la",), shown) for shown in (0.5, 1.0))
    longer = [np.diff(one.source_at) > np.diff(plain.source_at) for one in (some, all_)]
    assert longer[1].all() and 0.2 < longer[0].mean() < 0.8
    like = base.load_codec().marks["like"][0]
    assert {int(all_.get_source(i, 1)[0]) for i in range(len(all_))} == {like}


def test_parts_follow_each_other_and_know_nothing_of_later() -> None:
    measured, found = history(900, 1, 0.9)
    parts = encoder.split_by_time(measured, found, 0.1, 0.1)
    start = parts.test.times[0]
    assert parts.train.times[-1] <= parts.valid.times[0] <= parts.valid.times[-1] < start
    known = found.bugs_known_at(int(start))
    for part in (parts.train, parts.valid):
        assert {sha for sha, bad in zip(part.shas, part.truth, strict=True) if bad} <= known
    found.known = dict(list(found.known.items())[:20])
    with pytest.raises(GitpeftError, match="not enough history to learn risk from: 20 known bugs"):
        encoder.split_by_time(measured, found, 0.1, 0.1)


def test_arrays_hold_what_was_put_in() -> None:
    made = EncodedCommits.from_sources([[5, 6], [7, 8, 9, 10]], [[1.0, 2.0], [3.0, 4.0]], [1, 0])
    arrays = made.collate_batch([1, 0], 3, 4, 0)
    assert arrays["input_ids"].tolist() == [[7, 8, 9, 0], [5, 6, 0, 0]]
    assert arrays["attention_mask"].tolist() == [[1, 1, 1, 0], [1, 1, 0, 0]]
    assert arrays["features"].tolist() == [[3, 4], [1, 2]] and arrays["labels"].tolist() == [0, 1]
    assert made.count_tokens([0, 1], 3) == ([2, 3], [0, 0])
    assert made.select_examples([1]).get_source(0, 9).tolist() == [7, 8, 9, 10]
    assert sorted(i for batch in made.iterate_batches(4, 9, 0) for i in batch) == [0, 1]


def test_pooling_leaves_padding_out() -> None:
    states = torch.arange(12.0).reshape(2, 3, 2)
    mask = torch.tensor([[1, 1, 0], [1, 1, 1]])
    assert encoder.pool_states(states, mask, "first").tolist() == [[0, 1], [6, 7]]
    assert encoder.pool_states(states, mask, "last").tolist() == [[2, 3], [10, 11]]
    assert encoder.pool_states(states, mask, "mean").tolist() == [[1, 2], [8, 9]]
