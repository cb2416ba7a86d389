"""How a chooser is fitted: question by question, from a prior, and kept only where it helps."""

import pytest

from gitpeft.errors import GitpeftError
from gitpeft.lazy import replace_fields
from gitpeft.learn.evaluation import reranker
from gitpeft.learn.evaluation.trial import ExampleCandidates
from gitpeft.suggest.reranker import RERANKED, MessageCandidate, Reranker
from gitpeft.suggest.reranker_features import GENERATED, RERANKER_FEATURES, RETRIEVED
from tests.support.tinybase import example


def candidate(message: str, origin: str, **features: float) -> MessageCandidate:
    return MessageCandidate(message, origin, (), tuple(features.get(name, 0.0) for name in RERANKER_FEATURES))


def asked(count: int, *, generated: bool, retrieved: bool, tell: float = 0.0) -> list[ExampleCandidates]:
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
        found.append(ExampleCandidates(one, (ours, theirs)))
    return found


@pytest.mark.parametrize(("generated", "best"), [(True, GENERATED), (False, RETRIEVED)])
def test_a_simple_way_that_is_always_right_stays(generated: bool, best: str) -> None:
    choice = reranker.choose_reranker(asked(30, generated=generated, retrieved=not generated))
    assert choice.n == 30 and choice.scores[best] == pytest.approx(100)
    assert choice.chooser.mode in (best, RERANKED)
    one = asked(3, generated=generated, retrieved=not generated)[2]
    assert one.offered_message(choice.chooser) == one.example.message


def test_a_chooser_is_kept_where_it_knows_better() -> None:
    choice = reranker.choose_reranker(asked(60, generated=False, retrieved=False, tell=1.0))
    assert choice.chooser.mode == RERANKED
    assert choice.scores[RERANKED] > 90 > max(choice.scores[GENERATED], choice.scores[RETRIEVED])
    for one in asked(4, generated=False, retrieved=False, tell=1.0):
        assert one.offered_message(choice.chooser) == one.example.message


def test_few_examples_fit_nothing() -> None:
    choice = reranker.choose_reranker(asked(19, generated=False, retrieved=False, tell=1.0))
    assert RERANKED not in choice.scores and choice.chooser.mode in (GENERATED, RETRIEVED)


def test_nothing_to_choose_from() -> None:
    bare = [ExampleCandidates(example(i), ()) for i in range(25)]
    choice = reranker.choose_reranker(bare)
    assert set(choice.scores.values()) == {0.0}
    assert bare[0].offered_message(choice.chooser) == ""
    assert reranker.fit_reranker([]) == Reranker(mode=GENERATED)


def weight(made: Reranker, name: str) -> float:
    return dict(zip(made.features, made.weights, strict=True))[name]


def told_by_similarity(count: int) -> list[ExampleCandidates]:
    return asked(count, generated=False, retrieved=False, tell=1.0)


def test_scores_are_the_b_norm_to_be_expected() -> None:
    """Features of very different scale, folded back; good ones score near 1, bad ones near 0."""
    made = reranker.fit_reranker(
        [
            ExampleCandidates(
                example(i),
                (
                    candidate(example(i).message, GENERATED, words=1000.0 + i % 3, in_paths=0.001),
                    candidate("nothing of it", RETRIEVED, words=5.0, in_paths=0.002),
                ),
            )
            for i in range(40)
        ]
    )
    good = made.score_candidate(candidate("x", GENERATED, words=1001.0, in_paths=0.001))
    bad = made.score_candidate(candidate("x", RETRIEVED, words=5.0, in_paths=0.002))
    assert good > 0.8 and bad < 0.2 and made.features == RERANKER_FEATURES


def test_what_all_candidates_of_a_question_share_weighs_nothing() -> None:
    """Easy questions are no reason for a weight: only differences inside a question are."""
    found = [
        ExampleCandidates(
            example(i),
            (
                candidate(example(i).message if i % 2 else "no", GENERATED, words=float(i % 2), age=1.0),
                candidate("nothing of it", RETRIEVED, words=float(i % 2)),
            ),
        )
        for i in range(40)
    ]
    made = reranker.fit_reranker(found)
    assert weight(made, "words") == pytest.approx(0, abs=1e-6) and weight(made, "age") > 0.1


def test_little_evidence_moves_little_from_the_prior() -> None:
    """What the prior knows of another feature is kept where nothing speaks for or against it."""
    prior = Reranker(RERANKED, ("age", "similarity"), (2.0, 1.0))
    found = [replaced(one, age=float(i % 3)) for i, one in enumerate(told_by_similarity(200))]
    few, many = reranker.fit_reranker(found[:4], prior), reranker.fit_reranker(found, prior)
    ratios = [weight(made, "age") / weight(made, "similarity") for made in (few, many)]
    assert 0.9 < ratios[0] < 2.1 and abs(ratios[1]) < 0.3
    assert reranker.fit_reranker([ExampleCandidates(example(0), ())], prior) == prior


def replaced(one: ExampleCandidates, **features: float) -> ExampleCandidates:
    """The same question with other features of its second candidate."""
    first, second = one.found
    given = {name: second.get_feature(name) for name in RERANKER_FEATURES} | features
    return ExampleCandidates(one.example, (first, candidate(second.message, second.origin, **given)))


def test_a_prior_that_is_wrong_is_given_up() -> None:
    prior = Reranker(RERANKED, ("similarity",), (-2.0,))
    assert weight(reranker.fit_reranker(told_by_similarity(60), prior), "similarity") > 0


def test_a_feature_that_never_differs_keeps_its_weight() -> None:
    """All candidates retrieved, say, where a model writes nothing that may be offered."""
    found = [
        ExampleCandidates(
            example(i),
            tuple(
                candidate(text, RETRIEVED, is_retrieved=1.0, is_exemplar=1.0, similarity=similar, age=0.3)
                for text, similar in ((example(i).message, 0.8), ("nothing of it", 0.1 + i % 7 / 10))
            ),
        )
        for i in range(40)
    ]
    prior = Reranker(RERANKED, ("is_retrieved", "is_exemplar", "similarity", "age"), (0.1, 0.2, 1.0, -0.1))
    made = reranker.fit_reranker(found, prior)
    assert weight(made, "similarity") > 0
    for name in ("is_retrieved", "is_exemplar", "age"):
        assert abs(weight(made, name)) <= 2 * weight(made, "similarity"), name
    assert abs(made.bias) < 20


def test_a_prior_that_is_right_needs_no_fit() -> None:
    prior = Reranker(RERANKED, ("similarity",), (3.0,))
    choice = reranker.choose_reranker(told_by_similarity(10), prior)
    assert choice.name == reranker.DEFAULT_MODE and choice.chooser.weights == prior.weights
    assert choice.chooser.threshold is not None and choice.offers["nearly_kept"] == 1
    assert choice.best_score == pytest.approx(100) and RERANKED not in choice.scores


def test_scores_mean_the_same_whichever_way_wins() -> None:
    """Where the model's own order is kept, a score is still that of the prior."""
    prior = Reranker(RERANKED, ("similarity",), (0.5,), -1.0)
    choice = reranker.choose_reranker(asked(12, generated=True, retrieved=False), prior)
    assert choice.name == choice.chooser.mode == GENERATED
    assert choice.chooser.weights == prior.weights and choice.chooser.features == prior.features


def test_a_prior_of_another_kind_counts_for_what_it_knows() -> None:
    """One that only names a mode is no prior; a fit is as if there were none."""
    found = told_by_similarity(30)
    assert reranker.fit_reranker(found, Reranker(mode=RETRIEVED)) == reranker.fit_reranker(found)
    assert reranker.DEFAULT_MODE not in reranker.choose_reranker(found, Reranker(mode=RETRIEVED)).scores


def test_scores_rise_with_the_weighed_sum_even_where_nothing_is_good() -> None:
    """Nothing that was offered was any good: the order stays that of the fit, and scores are low."""
    found = [
        ExampleCandidates(
            example(i), tuple(candidate(f"w{k} x", GENERATED, similarity=float(k)) for k in range(3))
        )
        for i in range(20)
    ]
    made = reranker.fit_reranker(found, Reranker(RERANKED, ("similarity",), (1.0,)))
    assert weight(made, "similarity") > 0
    assert made.score_candidate(candidate("x", GENERATED, similarity=1.0)) < 0.2


# --- readers' marks -----------------------------------------------------------------------------------------


def read_by_readers(n: int) -> tuple[list[ExampleCandidates], dict[tuple[str, str], int]]:
    """Messages with much information are good, whatever keystrokes they save; what has no mark counts not."""
    found = list[ExampleCandidates]()
    marks = dict[tuple[str, str], int]()
    for i in range(n):
        good = candidate(f"good {i}", GENERATED, is_weighed=1.0, information=3.0)
        poor = candidate(f"poor {i}", GENERATED, is_weighed=1.0, information=0.5 * (i % 2), words=1.0)
        found.append(ExampleCandidates(example(i), (poor, good, candidate("unread", GENERATED, words=9.0))))
        marks |= {(example(i).sha, f"good {i}"): 3 - i % 2, (example(i).sha, f"poor {i}"): i % 2}
    return found, marks


def test_worth_is_learnt_from_marks() -> None:
    found, marks = read_by_readers(30)
    made = reranker.fit_reranker(found, marks=marks)
    assert made.marked and not reranker.fit_reranker(found).marked
    assert weight(made, "information") == 0, "which candidates are weighed is decided before"
    good, poor = (made.score_candidate(found[0].found[place]) for place in (1, 0))
    assert good > 0.6 and poor < 0.4
    assert made.rank_candidates(found[0].found)[0][1].message == "good 0"


def test_a_history_of_its_own_leaves_what_readers_said() -> None:
    """Its order is fitted, and the threshold lowered where hardly anything would be offered."""
    found, marks = read_by_readers(30)
    prior = replace_fields(reranker.fit_reranker(found, marks=marks), threshold=0.99)
    choice = reranker.choose_reranker(told_by_similarity(30), prior)
    assert choice.name == RERANKED and choice.chooser.marked
    assert weight(choice.chooser, "similarity") > 0
    assert choice.chooser.value_weights == prior.value_weights
    assert choice.chooser.threshold is not None and choice.chooser.threshold < 0.9
    assert choice.offers["coverage"] >= reranker.ADAPTED_COVERAGE


def test_with_marks_only_a_reranker_can_win() -> None:
    """Nothing is weighed where earlier messages serve alone, and a score would mean something else."""
    found, marks = read_by_readers(30)
    prior = replace_fields(reranker.fit_reranker(found, marks=marks), threshold=0.5)
    choice = reranker.choose_reranker(asked(30, generated=False, retrieved=True), prior)
    assert choice.scores[RETRIEVED] == pytest.approx(100) and choice.chooser.mode == RERANKED


def test_marks_of_other_messages_are_reported() -> None:
    found, _ = read_by_readers(3)
    with pytest.raises(GitpeftError, match="none of the 1 marks belongs to a message of this base"):
        reranker.fit_reranker(found, marks={("0", "x"): 1})


def test_the_threshold_of_a_coverage() -> None:
    found = outcomes(*((i / 100, 0.0) for i in range(100)))
    assert reranker.summarise_outcomes(found, reranker.find_threshold(found, 0.4))["coverage"] == 0.4
    assert reranker.find_threshold([], 0.4) == 0
    assert reranker.find_threshold(outcomes((-1.0, 0.0), (0.7, 1.0)), 0.9) == 0
    assert reranker.lower_threshold(0.2, found, 0.2) == 0.2
    assert reranker.lower_threshold(0.99, found, 0.2) == 0.8, "a fifth gets an offer"
    assert reranker.lower_threshold(0.99, found[:10], 0.2) == 0.99, "too few to say"


# --- thresholds ---------------------------------------------------------------------------------------------


def outcomes(*pairs: tuple[float, float]) -> list[reranker.OfferOutcome]:
    return [reranker.OfferOutcome(*pair) for pair in pairs]


def test_the_threshold_is_where_half_of_the_offers_are_nearly_kept() -> None:
    """Scores mean what they say: all above 0.6 are good, and none below 0.3."""
    found = outcomes(*((0.9, 0.8),) * 40, *((0.5, 0.5), (0.5, 0.1)) * 40, *((0.1, 0.0),) * 200)
    threshold = reranker.choose_threshold(found)
    assert 0.1 < threshold <= 0.5
    told = reranker.summarise_outcomes(found, threshold)
    assert told["coverage"] == pytest.approx(120 / 320) and told["nearly_kept"] == pytest.approx(80 / 120)


def test_few_commits_do_not_move_the_threshold_far() -> None:
    """Three lucky offers with low scores are no reason to offer everything."""
    assert reranker.choose_threshold(outcomes(*((0.1, 1.0),) * 3)) == reranker.GOAL_SHARE
    many = outcomes(*((0.1, 1.0),) * 100)
    assert reranker.choose_threshold(many) == pytest.approx(0.1)
    assert reranker.choose_threshold([]) == reranker.GOAL_SHARE


def test_a_fifth_of_the_commits_gets_an_offer_where_none_is_good_enough() -> None:
    found = outcomes(*((0.4 - i / 1000, 0.0) for i in range(100)))
    assert reranker.summarise_outcomes(found, reranker.choose_threshold(found))["coverage"] == 0.2
    few = found[: reranker.MIN_COVERED_COMMITS - 1]
    assert reranker.choose_threshold(few) == reranker.GOAL_SHARE
    silent = outcomes(*((-1.0, 0.0),) * 90, *((0.2, 0.0),) * 10)
    assert reranker.summarise_outcomes(silent, reranker.choose_threshold(silent))["coverage"] == 0.1


def test_what_has_no_message_counts_as_not_offered() -> None:
    found = outcomes((-1.0, 0.0), (0.9, 1.0))
    assert reranker.summarise_outcomes(found, 0.0) == {"coverage": 0.5, "nearly_kept": 1.0}
    assert reranker.summarise_outcomes(found, None) == {}


def test_the_value_of_an_offer_is_the_chance_that_it_is_nearly_kept() -> None:
    """A feature that tells good from bad questions, the same for all candidates of one."""
    found = []
    for i in range(80):
        text = example(i).message if i % 2 else f"something else entirely {i}"
        told = {"formulaic": float(i % 2)}
        found.append(
            ExampleCandidates(
                example(i),
                (candidate(text, GENERATED, **told), candidate("another thing", RETRIEVED, **told)),
            )
        )
    made = reranker.fit_reranker(found)
    good, bad = (made.score_candidate(found[i].found[0]) for i in (1, 0))
    assert good > 0.4 > 0.2 > bad
    again = reranker.fit_reranker(found[:40], made)
    assert again.score_candidate(found[1].found[0]) > again.score_candidate(found[0].found[0])
