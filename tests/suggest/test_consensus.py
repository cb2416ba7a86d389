"""The consensus of sampled messages, beside the definition of a saving and of the edit distance."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitpeft.learn.evaluation.text_metrics import compute_saving
from gitpeft.suggest.consensus import compute_consensus

MESSAGES = st.text("abc é😀", max_size=12)


@given(
    st.lists(MESSAGES, max_size=6),
    st.dictionaries(MESSAGES.filter(bool), st.integers(1, 4), min_size=1, max_size=5),
)
def test_it_is_the_mean_saving_over_the_samples(messages: list[str], samples: dict[str, int]) -> None:
    total = sum(samples.values())
    expected = [
        sum(count * compute_saving(message, one) for one, count in samples.items()) / total
        for message in messages
    ]
    assert compute_consensus(messages, samples) == pytest.approx(expected)


def test_the_message_between_the_others_has_the_highest() -> None:
    samples = {
        "fix typo in docs": 1,
        "fix typo in the docs": 1,
        "fix a typo in the docs": 1,
        "bump to 1.2": 1,
    }
    found = dict(zip(samples, compute_consensus(list(samples), samples), strict=True))
    assert max(found, key=lambda one: found[one]) == "fix typo in the docs"


def test_without_samples_or_messages_there_is_none() -> None:
    assert compute_consensus(["a", "b"], {}) == [0.0, 0.0]
    assert compute_consensus([], {"a": 1}) == []
