"""Beam search with a table in place of a network: which messages it may generate, and which it finds."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gitpeft.runtime import beam_search
from gitpeft.runtime.beam_search import BeamSearch, GenerationTokens, Hypothesis
from gitpeft.runtime.onnx_model import EncodedSource

SPECIAL = GenerationTokens(start=0, end=1, banned=(0, 2))


class Table:
    """A network whose next token depends on the last one only; row t holds the probabilities after t."""

    def __init__(self, rows: dict[int, dict[int, float]], size: int = 12) -> None:
        self.rows = np.full((size, size), 1e-9, dtype=np.float32)
        for last, following in rows.items():
            for token, probability in following.items():
                self.rows[last, token] = probability
        self.calls = 0

    def run_decoder(
        self, memory: EncodedSource, tokens: Any, past: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        self.calls += 1
        return self.rows[tokens], past

    def make_empty_past(self, batch: int) -> dict[str, Any]:
        return {"past": np.zeros((batch, 1))}


def search(table: Table, source: Sequence[int] = (), **settings: int) -> list[Hypothesis]:
    return BeamSearch(**settings).run(table, EncodedSource({}, list(source)), SPECIAL)  # type: ignore[arg-type]


def test_the_likelier_message_wins_although_its_first_token_is_less_likely() -> None:
    table = Table({0: {5: 0.6, 6: 0.4}, 5: {1: 0.1, 7: 0.1, 8: 0.1}, 6: {9: 1.0}, 9: {1: 1.0}})
    assert search(table, width=1)[0].ids[0] == 5
    best = search(table, width=4)[0]
    assert best.ids == [6, 9]
    assert np.isclose(best.total, np.log(0.4)) and np.isclose(best.mean, np.log(0.4) / 3)


def test_a_banned_token_is_never_generated() -> None:
    table = Table({0: {2: 0.9, 5: 0.1}, 5: {2: 0.9, 1: 0.1}})
    assert search(table, width=1)[0].ids == [5]


LOOP = {0: {5: 1.0}, 5: {6: 1.0}, 6: {7: 1.0}, 7: {5: 0.9, 1: 0.1}}


def test_three_tokens_are_not_repeated_more_often_than_in_the_source() -> None:
    assert search(Table(LOOP), width=1, limit=12)[0].ids[:6] != [5, 6, 7, 5, 6, 7]
    twice = [5, 6, 7, 5, 6, 7]
    assert search(Table(LOOP), twice, width=1, limit=6)[0].ids == twice
    assert search(Table(LOOP), twice, width=1, limit=9)[0].ids[:9] != [5, 6, 7] * 3


def test_nothing_is_repeated_in_a_row_unless_the_source_repeats_it() -> None:
    table = {0: {5: 1.0}, 5: {5: 0.9, 1: 0.1}}
    assert search(Table(table), width=1)[0].ids == [5]
    assert search(Table(table), [5, 5], width=1)[0].ids[:2] == [5, 5]
    pairs = {0: {5: 1.0}, 5: {6: 1.0}, 6: {5: 0.9, 1: 0.1}}
    assert search(Table(pairs), width=1, limit=9)[0].ids[:4] != [5, 6, 5, 6]


def test_repeats_can_be_allowed() -> None:
    table = Table(LOOP)
    found = BeamSearch(1, 9, repeats=True).run(table, EncodedSource({}), SPECIAL)
    assert found[0].ids == [5, 6, 7] * 3


def test_a_message_that_reaches_the_limit_is_unfinished() -> None:
    found = search(Table({0: {5: 1.0}, 5: {5: 1.0}}), [5] * 9, width=1, limit=6)
    assert not found[0].finished and found[0].ids == [5] * 6
    assert np.isclose(found[0].mean, found[0].total / 6)


def test_the_search_stops_as_soon_as_every_beam_has_a_message() -> None:
    table = Table({0: {5: 0.9, 6: 0.1}, 5: {1: 1.0}, 6: {1: 1.0}})
    search(table, width=1, limit=40)
    assert table.calls == 2


def test_it_does_not_wait_for_a_longer_message() -> None:
    """5 7 8 would be likelier for each of its tokens than the empty message."""
    table = Table({0: {1: 0.3, 5: 0.7}, 5: {1: 0.4, 7: 0.6}, 7: {8: 1.0}, 8: {1: 1.0}})
    found = search(table, width=2)
    assert table.calls == 2 and [one.ids for one in found] == [[5], []]


def test_scores_of_given_messages_count_the_end() -> None:
    table = Table({0: {5: 0.5, 1: 0.25}, 5: {6: 0.5}, 6: {1: 0.5}})
    found = beam_search.score_messages(table, EncodedSource({}), [[5, 6], []], SPECIAL)
    assert np.allclose([one.total for one in found], [np.log(0.125), np.log(0.25)])
    assert beam_search.score_messages(table, EncodedSource({}), [], SPECIAL) == []


def test_what_stands_before_a_message_has_no_part_in_its_score() -> None:
    table = Table({9: {9: 0.1}, 0: {5: 0.5, 1: 0.25}, 5: {1: 0.5}})
    found = beam_search.score_messages(table, EncodedSource({}), [[5], []], SPECIAL, opening=[9, 9])
    assert np.allclose([one.total for one in found], [np.log(0.25), np.log(0.25)])


@given(
    st.lists(st.integers(0, 50), min_size=1, max_size=700),
    st.lists(st.floats(-30, 0), min_size=1, max_size=4),
    st.integers(1, 40),
)
def test_the_best_continuations_are_found_exactly(
    values: Sequence[int], totals: Sequence[float], count: int
) -> None:
    beams = [Hypothesis([], total, False) for total in totals]
    found = np.array([values] * len(beams), dtype=np.float32) / np.float32(64)
    best = beam_search._select_continuations(beams, found, count)
    every = np.log(found + beam_search.PROBABILITY_FLOOR) + np.array(totals)[:, None]
    expected = np.sort(every[found > 0])[::-1][:count]
    assert np.allclose([total for total, _, _ in best], expected, atol=1e-5)
    assert len({(row, column) for _, row, column in best}) == len(best)
    assert all(np.isclose(every[row, column], total) for total, row, column in best)
