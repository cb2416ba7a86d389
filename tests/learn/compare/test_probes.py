"""Probes: the questions hide what they ask about, and the answers can be read off where they are."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest

from gitpeft.diff.compact import compact_change
from gitpeft.diff.patch import FileChange, Hunk
from gitpeft.diff.render import TokenBudget
from gitpeft.learn.compare.probes import (
    ProbeItem,
    make_change_match_items,
    make_line_type_items,
)
from gitpeft.learn.data.dataset import Example
from gitpeft.runtime.tokenizer import TokenCodec
from tests.support import probing, tinymodel
from tests.support.probing import measure_probe_accuracy


@pytest.fixture
def codec(tmp_path: Path) -> TokenCodec:
    return TokenCodec.load(tinymodel.write_tokenizer(tmp_path))


def examples(count: int) -> list[Example]:
    found = []
    for i in range(count):
        hunk = Hunk("", [f"-old_{i} = {i}", f"+new_{i} = {i}", "+import os"])
        change = compact_change([FileChange(f"f{i}.py", "M", added=2, removed=1, hunks=[hunk])])
        found.append(Example(change, f"change {i}", "", (), f"{i:040x}"))
    return found


def test_a_line_is_asked_about_without_any_sign(codec: TokenCodec) -> None:
    items = make_line_type_items(examples(5), TokenBudget(), codec)
    signs = {codec.marks["add"][0], codec.marks["delete"][0]}
    assert len(items) == 15 and sum(item.answer for item in items) == 10
    for item in items:
        start, end = item.span
        assert not signs & set(item.ids)
        assert codec.decode(item.ids[start:end]).startswith(("new_", "import os") if item.answer else "old_")


def test_half_of_the_messages_are_not_their_own(codec: TokenCodec) -> None:
    items = make_change_match_items(examples(200), TokenBudget(), codec)
    assert 70 < sum(item.answer for item in items) < 130
    for example, item in zip(examples(200), items, strict=True):
        assert (example.message in codec.decode(item.ids)) >= item.answer


def test_a_probe_reads_what_is_there_and_nothing_else() -> None:
    dice = np.random.default_rng(1)
    items = [ProbeItem([int(a), 5], (0, 1), bool(a)) for a in dice.integers(2, size=300)]

    def telling(ids: list[int]) -> Any:
        return np.array([[float(one), 1.0] for one in ids])

    mean, low, high = measure_probe_accuracy(telling, items[:200], items[200:])
    assert (mean, low, high) == (1.0, 1.0, 1.0)
    noise = np.random.default_rng(2)
    mean, low, high = measure_probe_accuracy(
        lambda ids: noise.normal(size=(len(ids), 8)), items[:200], items[200:]
    )
    assert low < 0.5 < high and 0.3 < mean < 0.7


def test_one_answer_alone_is_no_probe() -> None:
    items = [ProbeItem([1], (0, 1), True)] * 20
    with pytest.raises(ValueError, match="both answers"):
        measure_probe_accuracy(probing.make_one_hot_reader(9), items, items)


def test_an_encoder_gives_a_state_for_each_token() -> None:
    states = probing.make_encoder_reader(tinymodel.pointer_t5())([5, 6, 7])
    assert states.shape == (3, 32)
    bag = probing.make_one_hot_reader(400, width=64)([5, 5, 7])
    assert bag.shape == (3, 64) and (bag[0] == bag[1]).all() and bag.sum() == 3
