"""Rendered examples: nothing is lost on the way through flat arrays, files and batches."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from gitpeft.learn.data.batches import PromptedExamples, RenderedExamples
from tests.support import tinymodel

_IDS = st.lists(st.integers(0, 60_000), max_size=30)
_PAIRS = st.lists(st.tuples(_IDS, _IDS), max_size=40)


def unpacked(data: RenderedExamples, limit: int = 1 << 30) -> list[tuple[list[int], list[int]]]:
    return [(s.tolist(), t.tolist()) for s, t in (data.get_pair(i, limit) for i in range(len(data)))]


def lists(pairs: Sequence[tuple[Sequence[int], Sequence[int]]]) -> list[tuple[list[int], list[int]]]:
    return [(list(s), list(t)) for s, t in pairs]


@given(_PAIRS, st.integers(0, 40))
def test_what_goes_in_comes_out(pairs: list[tuple[list[int], list[int]]], limit: int) -> None:
    data = RenderedExamples.from_pairs(pairs)
    assert len(data) == len(pairs)
    assert unpacked(data) == pairs
    assert unpacked(data, limit) == [(source[:limit], target) for source, target in pairs]


@given(st.lists(_PAIRS, min_size=1, max_size=4))
def test_joining_keeps_the_order(parts: list[list[tuple[list[int], list[int]]]]) -> None:
    joined = RenderedExamples.join_parts([RenderedExamples.from_pairs(part) for part in parts])
    assert unpacked(joined) == [pair for part in parts for pair in part]


def test_taking_chooses_and_orders() -> None:
    pairs = tinymodel.pairs(10)
    assert unpacked(RenderedExamples.from_pairs(pairs).select_examples([7, 0, 7])) == lists(
        [pairs[7], pairs[0], pairs[7]]
    )
    assert len(RenderedExamples.from_pairs(pairs).select_examples([])) == 0


@profile(max_examples=40)
@given(_PAIRS, st.integers(1, 400), st.integers(1, 30), st.integers(0, 3))
def test_a_pass_holds_each_example_once(
    pairs: list[tuple[list[int], list[int]]], tokens: int, limit: int, seed: int
) -> None:
    data = RenderedExamples.from_pairs(pairs)
    batches = list(data.iterate_batches(tokens, limit, seed))
    assert sorted(i for batch in batches for i in batch) == list(range(len(pairs)))
    assert batches == list(data.iterate_batches(tokens, limit, seed))
    for batch in batches:
        longest = max(min(len(pairs[i][0]), limit) + 4 * len(pairs[i][1]) for i in batch)
        assert len(batch) == 1 or longest * len(batch) <= tokens


def test_another_seed_is_another_order() -> None:
    data = RenderedExamples.from_pairs(tinymodel.pairs(60))
    first, second = (list(data.iterate_batches(200, 64, seed)) for seed in (1, 2))
    assert first != second and len(first) > 5


def test_saved_and_loaded(tmp_path: Path) -> None:
    pairs = tinymodel.pairs(20)
    RenderedExamples.from_pairs(pairs).save(tmp_path / "x.npz")
    again = RenderedExamples.load(tmp_path / "x.npz")
    assert unpacked(again) == lists(pairs)
    assert again.source.dtype == np.dtype(np.uint16)
    assert again.source_at.dtype == np.dtype(np.int64)


def test_a_pickle_is_refused(tmp_path: Path) -> None:
    given_ = np.array([{}], dtype=object)
    np.savez(tmp_path / "x.npz", source=given_, source_at=given_, target=given_, target_at=given_)
    with pytest.raises(ValueError, match=r"allow_pickle"):
        RenderedExamples.load(tmp_path / "x.npz")


@torch.no_grad()
@pytest.mark.parametrize("kind", ["llama", "qwen2"])
def test_a_batch_of_prompts_has_the_loss_of_its_sequences(kind: str) -> None:
    """Padding changes nothing, and nothing but the messages counts."""
    model, start, pairs = tinymodel.causal(kind), 7, tinymodel.pairs(4)
    examples = PromptedExamples.from_pairs(pairs, start)
    arrays = examples.collate_batch([2, 0, 1], 1 << 30, 16, 0)
    found = model(**{name: torch.from_numpy(array) for name, array in arrays.items()})
    assert found.logits.shape[:2] == arrays["labels"].shape
    nats, count = 0.0, 0
    for source, message in pairs[:3]:
        ids = torch.tensor([[*source, start, *message]])
        said = model(input_ids=ids).logits[0, len(source) : -1].log_softmax(-1)
        nats -= float(said[range(len(message)), ids[0, len(source) + 1 :]].sum())
        count += len(message)
    assert float(found.loss) == pytest.approx(nats / count, rel=1e-4)
    again = examples.select_examples([3, 1])
    assert again.start == start and again.get_pair(1, 99)[1].tolist() == list(pairs[1][1])
