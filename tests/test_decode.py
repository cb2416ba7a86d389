"""The search, on a network that is a table: what it may and may not write."""

from collections.abc import Sequence
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from gitpeft import decode
from gitpeft.decode import Hypothesis, Memory, Vocabulary

WORDS = Vocabulary(start=0, end=1, banned=(0, 2))


class Table:
    """A network whose next token depends on the last one only: row by row the probabilities."""

    def __init__(self, rows: dict[int, dict[int, float]], size: int = 12) -> None:
        self.scores = np.full((size, size), np.log(1e-9), dtype=np.float32)
        for last, following in rows.items():
            for token, probability in following.items():
                self.scores[last, token] = np.log(probability)
        self.calls = 0

    def step(self, _: Memory, tokens: Any, past: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        self.calls += 1
        return self.scores[tokens], past

    def no_past(self, batch: int) -> dict[str, Any]:
        return {"past": np.zeros((batch, 1))}


def search(table: Table, triples: set[tuple[int, ...]] | None = None, **settings: int) -> list[Hypothesis]:
    return decode.search(table, Memory({}, triples or set()), WORDS, **settings)  # type: ignore[arg-type]


def test_the_likelier_message_wins_although_its_first_token_is_less_likely() -> None:
    table = Table({0: {5: 0.6, 6: 0.4}, 5: {1: 0.1, 7: 0.1, 8: 0.1}, 6: {9: 1.0}, 9: {1: 1.0}})
    assert search(table, width=1)[0].ids[0] == 5
    best = search(table, width=4)[0]
    assert best.ids == [6, 9]
    assert np.isclose(best.total, np.log(0.4)) and np.isclose(best.mean, np.log(0.4) / 3)


def test_a_banned_token_is_never_written() -> None:
    table = Table({0: {2: 0.9, 5: 0.1}, 5: {2: 0.9, 1: 0.1}})
    assert search(table, width=1)[0].ids == [5]


def test_three_tokens_in_a_row_are_not_repeated_unless_the_source_repeats_them() -> None:
    table = Table({0: {5: 1.0}, 5: {6: 1.0}, 6: {7: 1.0}, 7: {5: 0.9, 1: 0.1}})
    assert search(table, width=1, limit=12)[0].ids[:6] != [5, 6, 7, 5, 6, 7]
    copied: set[tuple[int, ...]] = {(5, 6, 7), (6, 7, 5), (7, 5, 6)}
    assert search(table, copied, width=1, limit=7)[0].ids == [5, 6, 7, 5, 6, 7, 5]


def test_what_reaches_the_limit_is_unfinished() -> None:
    found = search(Table({0: {5: 1.0}, 5: {5: 1.0}}), {(5, 5, 5)}, width=1, limit=6)
    assert not found[0].finished and found[0].ids == [5] * 6
    assert np.isclose(found[0].mean, found[0].total / 6)


def test_the_search_stops_when_nothing_can_overtake() -> None:
    table = Table({0: {5: 0.9, 6: 0.1}, 5: {1: 1.0}, 6: {1: 1.0}})
    search(table, width=1, limit=40)
    assert table.calls == 2


def test_scores_of_given_messages_count_the_end() -> None:
    table = Table({0: {5: 0.5, 1: 0.25}, 5: {6: 0.5}, 6: {1: 0.5}})
    found = decode.score(table, Memory({}), [[5, 6], []], WORDS)  # type: ignore[arg-type]
    assert np.allclose([one.total for one in found], [np.log(0.125), np.log(0.25)])
    assert decode.score(table, Memory({}), [], WORDS) == []  # type: ignore[arg-type]


@given(
    st.lists(st.integers(-50, 50), min_size=1, max_size=700),
    st.integers(1, 3),
    st.integers(1, 40),
)
def test_the_best_scores_are_found_exactly(values: Sequence[int], rows: int, count: int) -> None:
    totals = np.array([values] * rows, dtype=np.float32)
    totals[0, 0] = -np.inf
    found = decode._best(totals, count)
    expected = np.sort(totals[np.isfinite(totals)])[::-1][:count]
    assert [value for value, _, _ in found] == expected.tolist()
    assert all(totals[row, column] == value for value, row, column in found)


def test_what_a_thread_raises_is_raised_where_it_is_waited_for() -> None:
    def fail() -> int:
        raise ValueError("no")

    later = decode.Later(fail)
    for _ in range(2):
        try:
            later.get()
            raise AssertionError("nothing was raised")
        except ValueError as error:
            assert str(error) == "no"
    assert decode.Later(lambda: 3).get() == 3
