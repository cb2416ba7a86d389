"""Sampling with a table in place of a network: which messages are drawn, how often, and their likelihood."""

from collections import Counter
from typing import Any

import numpy as np
import pytest

from gitpeft.runtime.beam_search import GenerationTokens, Hypothesis, score_messages
from gitpeft.runtime.onnx_model import EncodedSource
from gitpeft.runtime.prefix_choice import EncodedPrefix, PrefixChoice
from gitpeft.runtime.sampling import UNUSUAL_OPENING, MessageSampler

SPECIAL = GenerationTokens(start=0, end=1, banned=(0, 2))
TREE = {0: {5: 0.6, 6: 0.4}, 5: {1: 0.5, 7: 0.5}, 6: {9: 1.0}, 7: {1: 1.0}, 9: {1: 1.0}}


class Table:
    """A network whose next token depends on all tokens of the message: on their sum, kept in its cache.

    Row t holds the probabilities after t. It fails when the cache of a row is not that of its message.
    """

    def __init__(self, rows: dict[int, dict[int, float]], size: int = 12) -> None:
        self.rows = np.zeros((size, size), dtype=np.float32)
        for last, following in rows.items():
            for token, probability in following.items():
                self.rows[last, token] = probability
        self.batches: list[int] = []

    def run_decoder(
        self, memory: EncodedSource, tokens: Any, past: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        self.batches.append(len(tokens))
        before = past["last"]
        assert len(before) == len(tokens), "a row of the cache for each message"
        if tokens.shape[1] == 1 and len(self.batches) > 1:
            follows = self.rows[before[:, 0], tokens[:, 0]]
            assert (follows > 0).all(), "the cache belongs to another message"
        return self.rows[tokens], {"last": tokens[:, -1:]}

    def make_empty_past(self, batch: int) -> dict[str, Any]:
        return {"last": np.zeros((batch, 1), dtype=np.int64)}


def sample(rows: dict[int, dict[int, float]], **settings: Any) -> list[Hypothesis]:
    return MessageSampler(**settings).run(Table(rows), EncodedSource({}), SPECIAL)


def count_messages(found: list[Hypothesis]) -> dict[tuple[int, ...], float]:
    counts = Counter(tuple(one.ids) for one in found)
    return {ids: count / len(found) for ids, count in counts.items()}


def test_messages_are_drawn_as_often_as_they_are_likely() -> None:
    shares = count_messages(sample(TREE, count=4000, temperature=1.0))
    assert shares == pytest.approx({(5,): 0.3, (5, 7): 0.3, (6, 9): 0.4}, abs=0.03)


def test_a_lower_temperature_prefers_what_is_likely() -> None:
    shares = count_messages(
        sample({0: {5: 0.8, 6: 0.2}, 5: {1: 1.0}, 6: {1: 1.0}}, count=4000, temperature=0.5)
    )
    assert shares[5,] == pytest.approx(0.64 / 0.68, abs=0.02)


def test_the_log_probability_is_the_models_whatever_the_temperature() -> None:
    found = sample(TREE, count=30, temperature=0.3)
    special: Any = SPECIAL
    scored = score_messages(Table(TREE), EncodedSource({}), [one.ids for one in found], special)
    assert [one.total for one in found] == pytest.approx([one.total for one in scored], abs=1e-5)
    assert all(one.finished for one in found)


def test_a_seed_gives_the_same_messages_and_another_one_others() -> None:
    wide = {0: dict.fromkeys(range(3, 11), 1 / 8), **{token: {1: 1.0} for token in range(3, 11)}}
    first, again, other = (sample(wide, count=20, seed=seed) for seed in (1, 1, 2))
    assert first == again != other


def test_what_is_banned_or_hardly_likely_is_never_drawn() -> None:
    rows = {0: {2: 0.9, 5: 0.0995, 6: 0.0005}, 5: {1: 1.0}, 6: {1: 1.0}}
    assert count_messages(sample(rows, count=500, temperature=1.0)) == {(5,): 1.0}


def test_something_is_drawn_where_everything_is_hardly_likely() -> None:
    rows = {0: {5: 0.0004, 6: 0.0002}, 5: {1: 1.0}, 6: {1: 1.0}}
    assert count_messages(sample(rows, count=20)) == {(5,): 1.0}


def test_a_message_that_reaches_the_limit_is_unfinished() -> None:
    found = sample({0: {5: 1.0}, 5: {5: 0.5, 1: 0.5}}, count=50, limit=3, temperature=1.0)
    cut = [one for one in found if not one.finished]
    assert cut and all(one.ids == [5] * 3 and np.isclose(one.mean, one.total / 3) for one in cut)


def test_samples_that_are_alike_so_far_are_one_row_and_ended_ones_leave_the_batch() -> None:
    table = Table(TREE)
    found = MessageSampler(count=50, temperature=1.0).run(table, EncodedSource({}), SPECIAL)
    assert len(found) == 50 and table.batches == [1, 2, 2]


def test_the_last_samples_are_not_waited_for() -> None:
    long = {0: {5: 0.5, 6: 0.5}, 5: {1: 1.0}, 6: {7: 1.0}, 7: {8: 1.0}, 8: {9: 1.0}, 9: {1: 1.0}}
    every = sample(long, count=20, temperature=1.0)
    short = [one for one in every if one.ids == [5]]
    table = Table(long)
    found = MessageSampler(20, temperature=1.0, enough=len(short)).run(table, EncodedSource({}), SPECIAL)
    assert found == short and len(table.batches) == 2
    assert sample(long, count=20, temperature=1.0, enough=len(short) + 1) == every


WORDS = {0: {3: 0.9, 5: 0.06, 6: 0.04}, 3: {1: 1.0}, 5: {7: 0.01, 8: 0.99}, 6: {9: 1.0}}
WORDS |= {token: {1: 1.0} for token in (7, 8, 9)}


def sample_with_openings(openings: list[list[int]], rows: dict[int, dict[int, float]] = WORDS) -> Any:
    table = Table(rows)
    sampler = MessageSampler(count=2000, temperature=1.0)
    return sampler.run(table, EncodedSource({}), SPECIAL, openings)


def test_messages_begin_with_an_opening_unless_the_model_is_sure_of_something_else() -> None:
    plain, found = count_messages(sample_with_openings([])), count_messages(sample_with_openings([[6], [5]]))
    assert plain[3,] == pytest.approx(0.9, abs=0.03)
    other = 0.9 * UNUSUAL_OPENING
    assert found[3,] == pytest.approx(other / (other + 0.1), abs=0.03)
    assert found[6, 9] == pytest.approx(0.04 / (other + 0.1), abs=0.03)


def test_all_tokens_of_an_opening_are_preferred_and_none_behind_it() -> None:
    found = count_messages(sample_with_openings([[5, 7]]))
    begun = found[5, 7] + found[5, 8]
    assert found[5, 7] / begun == pytest.approx(0.01 / (0.01 + 0.99 * UNUSUAL_OPENING), abs=0.05)
    assert count_messages(sample_with_openings([[5]]))[5, 8] > 0.3, "free once the opening is complete"


def test_the_log_probability_does_not_depend_on_the_openings() -> None:
    found = sample_with_openings([[5, 7]])
    one = next(one for one in found if one.ids == [5, 7])
    assert one.total == pytest.approx(np.log(0.06 * 0.01), abs=1e-4)


def test_the_choice_of_a_prefix_is_told_what_it_needs_and_changes_nothing() -> None:
    rows = {0: {5: 0.6, 6: 0.3, 4: 0.1}, 5: {7: 0.3, 8: 0.5, 3: 0.2}, 8: {9: 1.0}}
    rows |= {token: {1: 1.0} for token in (3, 4, 6, 7, 9)}
    noted: dict[tuple[int, ...], Any] = {}

    class Choice(PrefixChoice):
        def note(self, ids: Any, probabilities: Any) -> None:
            noted[tuple(ids)] = probabilities.copy()
            super().note(ids, probabilities)

    def run(choice: PrefixChoice | None) -> list[Hypothesis]:
        sampler = MessageSampler(count=50, temperature=1.0)
        return sampler.run(Table(rows), EncodedSource({}), SPECIAL, [(5,), (6,)], choice)

    choice = Choice([EncodedPrefix((5, 7), 2, 1.0), EncodedPrefix((6,), 1, 1.0)])
    assert run(choice) == run(None)
    assert noted[()][[5, 6]] == pytest.approx([0.6, 0.3]), "the model's own, whatever is preferred"
    assert noted[5,][[7, 8]] == pytest.approx([0.3, 0.5])
    assert choice.find_best() == 1, "0.3 is more than 0.6 x 0.3"
