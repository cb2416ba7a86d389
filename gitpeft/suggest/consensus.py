"""Consensus: what a message is worth if one of those that the model sampled is the one to be written.

Choosing the message of the highest consensus is minimum Bayes risk decoding (Kumar and Byrne 2004; by samples
Eikema and Aziz 2020) with the share of keystrokes saved as the gain: of all that the model holds to be likely
it takes what is nearest to the rest, where a beam search takes the likeliest single wording.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


def compute_consensus(messages: Sequence[str], samples: Mapping[str, int]) -> list[float]:
    """The mean share (0..1) of the keystrokes of a sampled message that each message saves.

    `samples` are the different sampled messages and how often each was sampled; 0 for all without any.
    A message of twice a sample's length or more saves nothing of it.
    """
    if not messages or not samples:
        return [0.0] * len(messages)
    import numpy as np

    lengths = np.array([len(text) for text in samples])
    distances = compute_edit_distances(messages, list(samples))
    savings = np.maximum(0.0, 1 - distances / np.maximum(1, lengths))
    savings[np.array([len(text) for text in messages])[:, None] >= 2 * lengths] = 0.0
    consensus: list[float] = (savings @ np.array(list(samples.values())) / sum(samples.values())).tolist()
    return consensus


def compute_edit_distances(messages: Sequence[str], others: Sequence[str]) -> "NDArray[np.int32]":
    """The edit distances (M, N) of M messages to N others, in characters (Wagner and Fischer 1974).

    All pairs advance together by a character of the message, each along a whole row of its table: the
    insertions of a row are the running minimum of its other entries, each less its column.
    """
    import numpy as np

    rows, columns = _pad_characters(messages), _pad_characters(others)
    steps = np.arange(columns.shape[1] + 1, dtype=np.int32)
    table = np.broadcast_to(steps, (len(messages), len(others), len(steps))).copy()
    ends = [len(text) for text in others]
    found = np.empty((len(messages), len(others)), dtype=np.int32)
    places = np.arange(len(others))
    for length in range(rows.shape[1] + 1):
        if length:
            differs = rows[:, length - 1, None, None] != columns[None]
            kept = np.minimum(table[..., 1:] + 1, table[..., :-1] + differs)
            table = np.concatenate([np.full_like(table[..., :1], length), kept], axis=2)
            table = np.minimum.accumulate(table - steps, axis=2) + steps
        for row in (row for row, text in enumerate(messages) if len(text) == length):
            found[row] = table[row, places, ends]
    return found


def _pad_characters(texts: Sequence[str]) -> "NDArray[np.int32]":
    """The code points (texts, longest) of texts, -1 behind their ends."""
    import numpy as np

    padded = np.full((len(texts), max(map(len, texts), default=0)), -1, dtype=np.int32)
    for row, text in enumerate(texts):
        padded[row, : len(text)] = list(map(ord, text))
    return padded
