"""Which prefix is chosen, from a model's probabilities, how usual each is, and its lift."""

from collections.abc import Mapping
from typing import Any

import numpy as np

from gitpeft.runtime import prefix_choice
from gitpeft.runtime.prefix_choice import EncodedPrefix, PrefixChoice

FIX, FIX_X, DOCS = (5, 7), (5, 8, 9), (6,)


def choose(*prefixes: EncodedPrefix, seen: Mapping[Any, dict[int, float]]) -> int | None:
    choice = PrefixChoice(prefixes)
    for ids, following in seen.items():
        row = np.zeros(12, dtype=np.float32)
        row[list(following)] = list(following.values())
        choice.note(ids, row)
    return choice.find_best()


def prefixes(fix: float = 1.0, fix_x: float = 1.0, docs: float = 1.0) -> list[EncodedPrefix]:
    return [EncodedPrefix(FIX, 2, fix), EncodedPrefix(FIX_X, 1, fix_x), EncodedPrefix(DOCS, 1, docs)]


def test_the_likeliest_prefix_is_chosen() -> None:
    """`fix(x)` has 0.6 x 0.5 x 1.0 where all was noted, as much as `docs`."""
    seen = {(): {5: 0.6, 6: 0.29}, (5,): {7: 0.3, 8: 0.5}, (5, 8): {9: 1.0}}
    assert choose(*prefixes(), seen=seen) == 1
    assert choose(*prefixes(), seen={**seen, (5, 8): {9: 0.5}}) == 2


def test_where_no_sample_came_by_the_usual_share_counts() -> None:
    """Two of three that begin as `fix` go on as FIX: 0.6 x 2/3 is more than 0.3."""
    assert choose(*prefixes(), seen={(): {5: 0.6, 6: 0.3}}) == 0
    assert choose(*prefixes(), seen={(): {5: 0.4, 6: 0.3}}) == 2


def test_a_lift_is_weighed_against_the_model() -> None:
    seen = {(): {5: 0.6, 6: 0.3}}
    needed = (0.6 * 2 / 3 / 0.3) ** (1 / prefix_choice._LIFT_WEIGHT)
    assert choose(*prefixes(docs=needed * 0.99), seen=seen) == 0
    assert choose(*prefixes(docs=needed * 1.01), seen=seen) == 2


def test_without_prefixes_or_probabilities_there_is_no_choice() -> None:
    assert choose(seen={(): {5: 1.0}}) is None
    assert choose(*prefixes(), seen={}) is None
    assert choose(*prefixes(), seen={(7,): {1: 1.0}, (5, 7): {1: 1.0}}) is None, (
        "no prefix begins or goes on so"
    )
