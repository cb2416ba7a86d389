"""Readers' marks of what a base answered, and what its default reranker makes of them."""

import json
from pathlib import Path

import numpy as np
import pytest

from gitpeft.errors import GitpeftError
from gitpeft.learn.evaluation import reranker
from gitpeft.learn.evaluation.reranker import OfferOutcome
from gitpeft.learn.evaluation.trial import ExampleCandidates
from gitpeft.learn.pretraining import base_reranker
from gitpeft.learn.pretraining.base_reranker import FoundOffer
from gitpeft.suggest.reranker import MessageCandidate
from gitpeft.suggest.reranker_features import GENERATED, GIVEN, RERANKER_FEATURES
from tests.support.tinybase import example

HEADER = "repository\tcommit\tmark\tmessage\n"


def test_marks_are_read_as_they_were_written(tmp_path: Path) -> None:
    path = tmp_path / "marks.tsv"
    path.write_text(HEADER + 'a/b\t0123\t3\tSay "hello"\na/b\t0123\t0\tDrop it\nc/d\t4567\t2\t\'x\n')
    assert base_reranker.read_marks(path) == {
        ("0123", 'Say "hello"'): 3,
        ("0123", "Drop it"): 0,
        ("4567", "'x"): 2,
    }


@pytest.mark.parametrize(
    "text",
    [
        "commit\tmark\n0123\t3\n",
        HEADER + "a/b\t0123\t4\tx\n",
        HEADER + "a/b\n",
        HEADER + "\t\t\t\n",
        HEADER + "a/b\t0123\t2\tx\na/b\t0123\t3\tx\n",
    ],
)
def test_marks_that_are_none(text: str, tmp_path: Path) -> None:
    path = tmp_path / "marks.tsv"
    path.write_text(text)
    with pytest.raises(GitpeftError, match=r"the marks in .*marks\.tsv cannot be read"):
        base_reranker.read_marks(path)
    with pytest.raises(GitpeftError, match="cannot be read"):
        base_reranker.read_marks(tmp_path / "missing.tsv")


def test_each_history_is_judged_by_a_reranker_that_does_not_know_it() -> None:
    """Ten histories with good messages that tell much, and one where it is the other way round: its own
    messages would have told."""

    def answer(i: int, turned: bool) -> ExampleCandidates:
        def candidate(message: str, information: float) -> MessageCandidate:
            named = {"is_weighed": 1.0, "information": information}
            values = tuple(named.get(name, 0.0) for name in RERANKER_FEATURES)
            return MessageCandidate(message, GENERATED, (), values)

        one = example(i)
        return ExampleCandidates(one, (candidate("good", 1.0 + turned), candidate("poor", 2.0 - turned)))

    histories = [[answer(10 * h + k, turned=h > 0) for k in range(8)] for h in range(11)]
    marks = {(one.example.sha, "good"): 3 for history in histories for one in history}
    marks |= {(one.example.sha, "poor"): 0 for history in histories for one in history[1:]}
    _, found = base_reranker.fit_on_histories(histories, marks)
    told = [marks.get((one.commit, one.message)) for one in found]
    assert len(found) == 88 and told.count(3) == 80 and told.count(0) == 7 and told.count(None) == 1


def test_a_probe_is_learnt_on_the_other_histories() -> None:
    """Features tell nothing, one of forty numbers of the states does; two messages have no state."""
    dice = np.random.default_rng(0)

    def answer(i: int) -> ExampleCandidates:
        def candidate(message: str, told: float) -> MessageCandidate:
            values = tuple(float(name == "is_weighed") for name in RERANKER_FEATURES)
            state = () if i == 5 else (*dice.normal(size=39).tolist(), told)
            return MessageCandidate(message, GENERATED, (), values, state=state)

        return ExampleCandidates(example(i), (candidate("poor", -1.0), candidate("good", 1.0)))

    histories = [[answer(20 * h + k) for k in range(20)] for h in range(10)]
    marks = {(one.example.sha, "good"): 3 for history in histories for one in history}
    marks |= {(commit, "poor"): 0 for commit, _ in marks}
    fitted, found = base_reranker.fit_on_histories(histories, marks)
    told = [marks[one.commit, one.message] for one in found]
    assert told.count(3) >= 199 and np.argmax(np.abs(fitted.probe.weights)) == 39
    candidates = [c for history in histories for one in history for c in one.found]
    read = [fitted.probe.read(c.state) for c in candidates]
    assert [fitted._read_feature(c, "probe") for c in candidates] == read
    assert np.mean(read) == pytest.approx(0, abs=0.05)
    assert reranker.fit_reranker(histories[0], fitted).probe == fitted.probe, "a history has no marks"


def test_states_are_kept_with_the_answers() -> None:
    values = tuple(0.0 for _ in RERANKER_FEATURES)
    found = (
        MessageCandidate("good", GENERATED, ("a",), values, mean=-1.0, state=(0.5, -3.0)),
        MessageCandidate("poor", GENERATED, (), values),
    )
    stored = json.dumps(base_reranker._describe_answer(ExampleCandidates(example(1), found)))
    assert base_reranker._read_answer(json.loads(stored)).found == found


def test_marks_of_messages_that_this_model_does_not_propose_teach_as_well() -> None:
    def candidate(message: str, information: float) -> MessageCandidate:
        named = {"is_weighed": 1.0, "information": information}
        return MessageCandidate(message, GIVEN, (), tuple(named.get(name, 0.0) for name in RERANKER_FEATURES))

    def answer(i: int) -> ExampleCandidates:
        found = (candidate("mine", 0.5), candidate("mine too", 1.5))
        return ExampleCandidates(example(i), found, (candidate("good", 2.0), candidate("poor", 0.0)))

    asked = [answer(i) for i in range(30)]
    marks = {(one.example.sha, "good"): 3 for one in asked} | {(one.example.sha, "poor"): 0 for one in asked}
    fitted = reranker.fit_reranker(asked, marks=marks)
    worth = [fitted.score_candidate(one) for one in (*asked[0].found, *asked[0].given)]
    assert sorted(worth) == [worth[3], worth[0], worth[1], worth[2]]
    assert {m.message for _, m in fitted.rank_candidates(asked[0].found, 0)} == {"mine", "mine too"}


def test_the_messages_with_a_mark_by_commit() -> None:
    marks = {("1", "a"): 3, ("2", "b"): 0, ("1", "c"): 2, ("3", "own"): 3}
    found = base_reranker.group_messages(marks, {"3": "own", "1": "a commit's own"})
    assert found == {"1": ["a", "c"], "2": ["b"], "3": []}


def test_the_share_of_good_and_of_wrong_offers() -> None:
    found = [
        FoundOffer("1", "a", OfferOutcome(0.9, 1.0)),
        FoundOffer("2", "a", OfferOutcome(0.8, 0.0)),
        FoundOffer("2", "b", OfferOutcome(0.7, 0.0)),
        FoundOffer("3", "a", OfferOutcome(0.2, 0.0)),
    ]
    marks = {("1", "a"): 3, ("2", "a"): 2, ("3", "a"): 0, ("4", "b"): 3}
    told = base_reranker.summarise_marks(found, marks, 0.7)
    assert told["offered"] == {"n": 2, "at_least_2": 1.0, "0": 0.0}
    assert told["all"] == {"n": 3, "at_least_2": pytest.approx(2 / 3), "0": pytest.approx(1 / 3)}
    assert base_reranker.summarise_marks([], marks, 0.5)["all"]["n"] == 0
