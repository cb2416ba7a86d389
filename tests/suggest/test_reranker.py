"""Candidates with features and flaws, and the reranker that orders them."""

import json
import math
from dataclasses import asdict
from pathlib import Path
from typing import Any

import pytest

from gitpeft.errors import GitpeftError
from gitpeft.lazy import replace_fields
from gitpeft.suggest import reranker
from gitpeft.suggest.reranker import MessageCandidate, Reranker
from gitpeft.suggest.reranker_features import (
    GENERATED,
    RERANKER_FEATURES,
    RETRIEVED,
    WEIGHED_FEATURES,
    DraftMessage,
    RerankingContext,
)

CONTEXT = (
    " src/cache.py +3 -1\n#src/cache.py\n@\n-old words\n+timeout = 30"
    "\n+dropStaleEntries(max_age)\n+fix #12, drop the cache, test foo and bar"
)


def draft(message: str, **changes: object) -> DraftMessage:
    return DraftMessage(**{"message": message, "origin": GENERATED, "like": ("a",), **changes})  # type: ignore[arg-type]


def candidates(*drafts: DraftMessage) -> list[MessageCandidate]:
    return reranker.build_candidates(drafts, RerankingContext(CONTEXT), 72)


# --- features -----------------------------------------------------------------------------------------------


def test_features_of_both_kinds() -> None:
    generated, retrieved = candidates(
        draft("cache: wait 30 s", mean=-0.5),
        draft("cache: wait 99 s", origin=RETRIEVED, like=("b",), similarity=0.7, age=2),
    )
    assert (generated.mean, retrieved.mean) == (-0.5, 0)
    assert len(generated.features) == len(RERANKER_FEATURES) and generated.get_feature("agreement") == 0.75
    assert retrieved.get_feature("similarity") == 0.7 and retrieved.get_feature("is_retrieved") == 1
    assert retrieved.get_feature("is_exemplar") == 1 and retrieved.get_feature("invents_number") == 1
    assert (generated.like, retrieved.like) == (("a",), ("b",))


def test_a_message_generated_word_for_word_is_listed_once_with_its_commit() -> None:
    [one] = candidates(
        draft("drop cache"), draft("drop cache", origin=RETRIEVED, like=("b",), similarity=0.6)
    )
    assert one.origin == GENERATED and one.like == ("b",)
    assert one.get_feature("is_exemplar") == 1 and one.get_feature("similarity") == 0.6
    assert one.get_feature("agreement") == 0


def test_order_is_kept_and_nothing_gives_nothing() -> None:
    assert [c.message for c in candidates(draft("a b"), draft("c d"), draft("a b"))] == ["a b", "c d"]
    assert candidates() == []


# --- flaws --------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("message", "flaw"),
    [
        ("fix the cache (see #12)", ""),
        ("fix it, really", ""),
        ("", "empty"),
        ("… – !", "empty"),
        ("fix \x1b[31m cache", "unprintable"),
        ("fix\ncache", "unprintable"),
        ("fix caf\ufffd", "unprintable"),
        ("x" * 73, "too long"),
        ("fix #13", "invented issue number"),
        ("fix the the cache", "repeats itself"),
        ("fix cache fix cache", "repeats itself"),
        ("add a test to add a test to it", "repeats itself"),
        ("that that is", "repeats itself"),
        ("fix (the cache", "unbalanced"),
        ("use `cache", "unbalanced"),
        ("test the tests", ""),
        ("call dropStale", "half a name"),
        ("set max_a", "half a name"),
        ("call dropStaleEntries", ""),
        ("call someOther_name", "a name the change does not have"),
        ("wait 31 s", "a number that the change does not have"),
        ("src/cache.py", "a bare path"),
        ("src/cache.py +3 -1", "a row of a diffstat"),
        ("changes inside timeout", "a line of the prompt"),
        ("rename cache", "nothing is renamed"),
        ("cache stale", ""),
        ("drop", ""),
        ("cache:", "unfinished"),
        ("drop the", "unfinished"),
        ("add foo, bar and", "unfinished"),
    ],
)
def test_flaws_of_generated_messages(message: str, flaw: str) -> None:
    assert candidates(draft(message))[0].flaw == flaw


def test_retrieved_messages_may_repeat_words_but_not_issue_numbers() -> None:
    def flaw(message: str) -> str:
        return candidates(draft(message, origin=RETRIEVED))[0].flaw

    assert flaw("drop cache (again") == ""
    assert flaw("drop the parser") == "words of another commit"
    assert flaw("fix #13") == "invented issue number"
    assert candidates(draft("fix cache", finished=False))[0].flaw == "unfinished"


# --- the reranker -------------------------------------------------------------------------------------------

LIKELY = draft("drop cache", mean=-0.1)
UNLIKELY = draft("add test", mean=-3.0)
NEAR = draft("old words", origin=RETRIEVED, like=("b",), similarity=0.9)
FLAWED = draft("fix #99", mean=-0.01)


def order(fitted: Reranker) -> list[str]:
    return [one.message for _, one in fitted.rank_candidates(candidates(FLAWED, LIKELY, UNLIKELY, NEAR))]


def test_without_a_fitted_reranker_the_kind_of_the_bundle_decides() -> None:
    assert order(Reranker.from_data({}, "model")) == ["drop cache", "add test", "old words"]
    assert order(Reranker.from_data({}, "retrieval")) == ["old words", "drop cache", "add test"]
    scores = [Reranker.from_data({}, "model").score_candidate(one) for one in candidates(LIKELY, NEAR)]
    assert scores == pytest.approx([math.exp(-0.1), 0.9])


def test_weights_order_and_score() -> None:
    data = {"mode": "chooser", "features": ["is_retrieved", "words"], "weights": [2, -0.5], "bias": 1}
    fitted = Reranker.from_data(data, "model")
    assert order(fitted) == ["old words", "drop cache", "add test"]
    score, best = fitted.rank_candidates(candidates(LIKELY, NEAR))[0]
    assert score == pytest.approx(1 / (1 + math.exp(-2))) and best.origin == RETRIEVED


def test_below_the_threshold_nothing_is_offered() -> None:
    data = {"mode": "chooser", "features": ["words"], "weights": [0], "bias": 0, "threshold": 0.5}
    assert order(Reranker.from_data(data, "model"))
    assert not order(Reranker.from_data({**data, "threshold": 0.51}, "model"))
    assert not Reranker.from_data(data, "model").rank_candidates([])


def test_enormous_weights_do_not_overflow() -> None:
    for weight in (1e308, -1e308):
        fitted = Reranker.from_data({"mode": "chooser", "features": ["words"], "weights": [weight]}, "model")
        assert 0 <= fitted.score_candidate(candidates(LIKELY)[0]) <= 1


def test_a_reranker_of_another_version_is_replaced() -> None:
    """It has unknown features: the embedded base's takes its place, and `gitpeft doctor` can tell."""
    data = {"mode": "chooser", "features": ["unheard_of", "words"], "weights": [1.0, 2.0], "threshold": 0.9}
    assert (
        Reranker.from_data(data, "model")
        == replace_fields(reranker.load_embedded_reranker(), threshold=None)
        != Reranker.from_data({}, "model")
    )
    assert (
        reranker.is_outdated_reranker(data)
        and not reranker.is_outdated_reranker({})
        and not reranker.is_outdated_reranker({"features": ["words"], "weights": [1]})
    )
    of_causal_models = {"consensus", "sampled", *WEIGHED_FEATURES}
    assert set(reranker.load_embedded_reranker().features) == set(RERANKER_FEATURES) - of_causal_models, (
        "fitted by this version, on all features of a model that searches"
    )


MARKED = Reranker(
    reranker.RERANKED,
    ("words", "information"),
    (1.0, 0.0),
    threshold=0.5,
    value_weights=(0.0, 2.0),
    marked=True,
)


def weighed(information: float | None, message: str) -> MessageCandidate:
    [one] = candidates(draft(message, mean=-1.0, tokens=4))
    return reranker.update_candidates([one], [draft(message, tokens=4, information=information)])[0]


def test_of_the_first_candidates_the_worth_decides_as_well() -> None:
    """The fifth is not weighed, whatever it would have been worth; it comes after those that are."""
    found = [
        weighed(0.0, "drop the old cache words"),
        weighed(3.0, "drop the cache"),
        weighed(None, "fix cache"),
        weighed(0.4, "drop the old words"),
        weighed(9.0, "drop"),
    ]
    assert [c.message for c in MARKED.list_fitting(found)][-1] == "drop"
    ranked = MARKED.rank_candidates(found)
    assert [c.message for _, c in ranked][:2] == ["drop the cache", "drop the old words"]
    assert ranked[0][0] == MARKED.score_candidate(found[1]) > 0.9
    assert MARKED.rank_candidates(found[:1], None) and not replace_fields(
        MARKED, threshold=0.6
    ).rank_candidates(found[:1])
    assert MARKED.find_best_score(found) == ranked[0][0] and MARKED.find_best_score([]) is None
    assert MARKED.find_best_score(found, 0.99) == max(score for score, _ in ranked) > ranked[0][0]
    plain = replace_fields(MARKED, marked=False)
    assert plain.rank_candidates(found)[0][1].message == "drop the old cache words"


def test_only_candidates_that_were_weighed_change() -> None:
    one, other = candidates(draft("drop the cache", mean=-0.5, tokens=4), draft("drop old words"))
    [new, same] = reranker.update_candidates(
        [one, other], [draft("drop the cache", mean=-0.5, tokens=4, information=6.0)]
    )
    assert same is other and new.message == one.message
    changed = {n for n, a, b in zip(RERANKER_FEATURES, one.features, new.features, strict=True) if a != b}
    assert changed == set(WEIGHED_FEATURES) - {"probe"}
    assert new.get_feature("information") == math.log1p(6.0) and new.get_feature("information_rate") == 1.5
    assert new.get_feature("weighed_likelihood") == -0.5
    assert new.get_feature("weighed_surprise") == math.log1p(2.0)
    against = reranker.update_candidates([one], [draft("drop the cache", tokens=4, information=-6.0)])[0]
    assert against.get_feature("information") == -math.log1p(6.0)


def test_a_probe_reads_the_states_of_weighed_candidates() -> None:
    probe, [one] = reranker.Probe((1.0, -2.0), 0.5), candidates(draft("drop the cache"))
    read = draft("drop the cache", tokens=4, information=0.0, state=(3.0, 1.0))
    [found] = reranker.update_candidates([one], [read], probe)
    assert found.get_feature("probe") == 1.5 and found.state == ()
    [kept] = reranker.update_candidates([one], [read], keep_states=True)
    assert kept.get_feature("probe") == 0 and kept.state == (3.0, 1.0)
    assert probe.read(()) == probe.read((1.0,)) == 0, "a graph of an earlier version, or of another model"
    assert one.get_feature("probe") == 0, "what is not weighed is as good as the average"


def test_whether_it_was_fitted_on_marks_is_stored() -> None:
    assert Reranker.from_data(json.loads(json.dumps(asdict(MARKED))), "model") == MARKED
    probing = replace_fields(MARKED, probe_weights=(0.5, -1.0), probe_bias=0.25)
    again = Reranker.from_data(json.loads(json.dumps(asdict(probing))), "model")
    assert again == probing and again.probe.read((2.0, 1.0)) == 0.25
    assert not Reranker.from_data({"features": ["words"], "weights": [1]}, "model").marked
    for bad in ("0.5", [math.nan], [-math.inf], [10**400], ["1"]):
        with pytest.raises(GitpeftError, match="cannot be read"):
            Reranker.from_data(asdict(probing) | {"probe_weights": bad}, "model")


def test_what_is_not_a_number_is_worth_nothing() -> None:
    [one] = candidates(draft("drop the cache"))
    lost = replace_fields(one, features=tuple(math.nan for _ in RERANKER_FEATURES))
    assert MARKED.score_candidate(lost) < 1e-9


@pytest.mark.parametrize(
    "text",
    [
        "",
        "{",
        "[]",
        "3",
        "{}",
        '{"features": ["words"], "weights": []}',
        '{"features": ["x"], "weights": [1]}',
    ],
)
def test_a_damaged_embedded_reranker_is_reported(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(reranker, "find_embedded_base", lambda: tmp_path)
    (tmp_path / "onnx").mkdir()
    for _ in range(2):
        with pytest.raises(GitpeftError, match=r"chooser\.json is damaged or missing"):
            reranker.load_embedded_reranker()
        (tmp_path / "onnx" / "chooser.json").write_text(text)


@pytest.mark.parametrize(
    "data",
    [
        [],
        3,
        {"features": {"words": 1}, "weights": [1.0]},
        {"features": "abc", "weights": [1.0, 1.0, 1.0]},
        {"features": ["words"], "weights": []},
        {"features": ["unheard_of"], "weights": []},
        {"mode": "other"},
        {"weights": ["x"], "features": ["words"]},
        {"weights": 3},
        {"threshold": "high"},
        {"bias": None},
    ],
)
def test_a_malformed_reranker(data: Any) -> None:
    with pytest.raises(GitpeftError, match="the model's reranker"):
        Reranker.from_data(data, "model")
