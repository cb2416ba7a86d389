"""The backtest: what is asked of a model, and a chooser that is fitted only where it helps."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gitpeft import bundle as bundles
from gitpeft.bundle import Manifest
from gitpeft.choose import CHOOSER, FEATURES, GENERATED, RETRIEVED, Candidate, Chooser
from gitpeft.learn import backtest, dataset
from gitpeft.learn.backtest import Asked
from gitpeft.learn.dataset import Example
from gitpeft.retrieve import Index
from gitpeft.suggest import open_active
from tests import tinymodel

WORDS = ("parser", "cache", "router", "config", "logger")


def example(number: int, message: str = "") -> Example:
    change = tinymodel.CHANGES[number % 4]
    return Example(change, message or f"fix {WORDS[number % 5]} {number}", "", (), f"{number:040x}")


def candidate(message: str, origin: str, **features: float) -> Candidate:
    return Candidate(message, origin, (), tuple(features.get(name, 0.0) for name in FEATURES))


def asked(count: int, *, generated: bool, retrieved: bool, tell: float = 0.0) -> list[Asked]:
    """Questions whose generated or retrieved candidate is the real message.

    With `tell` it alternates which of the two is, and `similarity` says so, as strongly.
    """
    found = []
    for i in range(count):
        one = example(i)
        wrong = f"something else entirely {i}"
        right = retrieved if not tell else bool(i % 2)
        ours = candidate(one.message if (generated if not tell else not right) else wrong, GENERATED)
        theirs = candidate(
            one.message if right else wrong, RETRIEVED, is_retrieved=1.0, similarity=tell if right else -tell
        )
        found.append(Asked(one, (ours, theirs)))
    return found


@pytest.mark.parametrize(("generated", "best"), [(True, GENERATED), (False, RETRIEVED)])
def test_a_simple_way_that_is_always_right_stays(generated: bool, best: str) -> None:
    choice = backtest.choose_on(asked(30, generated=generated, retrieved=not generated))
    assert choice.n == 30 and choice.scores[best] == pytest.approx(100)
    assert choice.chooser.mode in (best, CHOOSER)
    one = asked(3, generated=generated, retrieved=not generated)[2]
    assert one.offered(choice.chooser) == one.example.message


def test_a_chooser_is_kept_where_it_knows_better() -> None:
    choice = backtest.choose_on(asked(60, generated=False, retrieved=False, tell=1.0))
    assert choice.chooser.mode == CHOOSER
    assert choice.scores[CHOOSER] > 90 > max(choice.scores[GENERATED], choice.scores[RETRIEVED])
    for one in asked(4, generated=False, retrieved=False, tell=1.0):
        assert one.offered(choice.chooser) == one.example.message


def test_few_examples_fit_nothing() -> None:
    choice = backtest.choose_on(asked(19, generated=False, retrieved=False, tell=1.0))
    assert CHOOSER not in choice.scores and choice.chooser.mode in (GENERATED, RETRIEVED)


def test_nothing_to_choose_from() -> None:
    bare = [Asked(example(i), ()) for i in range(25)]
    choice = backtest.choose_on(bare)
    assert set(choice.scores.values()) == {0.0}
    assert bare[0].offered(choice.chooser) == ""
    assert backtest.fit([]) == Chooser(mode=GENERATED)


def test_the_fitted_chooser_is_the_standardised_one() -> None:
    """Weights that are folded back give sensible scores on features of very different scale."""
    made = backtest.fit(
        [
            Asked(
                example(i),
                (
                    candidate(example(i).message, GENERATED, words=1000.0 + i % 3, top_similarity=0.001),
                    candidate(f"other thing {i}", RETRIEVED, words=5.0, top_similarity=0.002),
                ),
            )
            for i in range(40)
        ]
    )
    good = made.score(candidate("x", GENERATED, words=1001.0, top_similarity=0.001))
    bad = made.score(candidate("x", RETRIEVED, words=5.0, top_similarity=0.002))
    assert good > 0.8 and bad < good - 0.3 and made.features == FEATURES


def test_a_sample_keeps_its_order_and_its_seed() -> None:
    examples = [example(i) for i in range(50)]
    few = backtest.sample(examples, 7, seed=1)
    assert len(few) == 7 and few == sorted(few, key=lambda e: e.sha)
    assert few == backtest.sample(examples, 7, seed=1) != backtest.sample(examples, 7, seed=2)
    assert backtest.sample(examples, 50, seed=1) == examples


def test_the_baseline_is_the_nearest_earlier_message() -> None:
    index = Index.build(tinymodel.CHANGES, tinymodel.SUBJECTS, tinymodel.SHAS)
    other = Example("", "x", "", (), "f" * 40)
    assert backtest.neighbours(index, [example(2), other]) == ["add test for parser", ""]


def test_kept_up_each_question_sees_what_came_before_it(tmp_path: Path) -> None:
    older, newer = [example(0, "old")], [example(i, f"new {i}") for i in (1, 1, 2, 1)]
    newer = [replace(one, sha=f"{i:040x}") for i, one in enumerate(newer, 100)]
    index = dataset.index_of(older)
    assert backtest.neighbours(index, newer) == ["old"] * 4
    assert backtest.neighbours(index, newer, newer) == ["old", "new 1", "new 1", "new 1"]
    tinymodel.bundle(tmp_path)
    asked_about = backtest.ask(open_active(tmp_path), newer[1:], since=newer)
    seen = [{sha for found in one.found for sha in found.like} - set(tinymodel.SHAS) for one in asked_about]
    assert seen == [{newer[0].sha}, {newer[1].sha}, {newer[1].sha, newer[2].sha}]


def test_a_trial_leaves_nothing_behind(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import tempfile

    files, scratch = tmp_path / "model", tmp_path / "scratch"
    files.mkdir()
    scratch.mkdir()
    monkeypatch.setattr(tempfile, "tempdir", str(scratch))
    settings: dict[str, Any] = tinymodel.fill(files, tinymodel.pointer_t5())
    index = dataset.index_of([example(i, tinymodel.SUBJECTS[i]) for i in range(4)])
    heard: list[tuple[int, int]] = []
    with backtest.trial(Manifest("model", "", settings=settings), files, index, {}) as suggester:
        assert (next(scratch.iterdir()) / "models").is_dir()
        found = backtest.ask(suggester, [example(i) for i in range(2)], lambda a, b: heard.append((a, b)))
    assert list(scratch.iterdir()) == [] and heard == [(1, 2), (2, 2)]
    assert {c.origin for one in found for c in one.found} == {GENERATED, RETRIEVED}
    assert found[0].offered(Chooser(mode=RETRIEVED)) == tinymodel.SUBJECTS[0]
    assert backtest.score(found, Chooser(mode=RETRIEVED))[0] < 100
    assert bundles.active(tmp_path) is None
