"""Ancestral sampling from a decoder: several messages for an encoded source at once, the same ones each time.

Samples say what the model holds to be likely as a whole, where a beam search finds variants of one message;
the reranker chooses among them by their consensus (`suggest.consensus`). Logarithms are natural.
"""

from collections.abc import Sequence
from typing import TYPE_CHECKING

from gitpeft.lazy import lazy_dataclass
from gitpeft.runtime.beam_search import (
    PROBABILITY_FLOOR,
    Decoder,
    GenerationTokens,
    Hypothesis,
    predict_next,
    reorder_past,
)

if TYPE_CHECKING:
    from gitpeft.runtime.onnx_model import EncodedSource, Floats
    from gitpeft.runtime.prefix_choice import PrefixChoice

SMALLEST_PROBABILITY = 0.001
"""Less likely tokens are never drawn (epsilon sampling, Hewitt et al. 2022): each of the vocabulary's long
tail is unlikely, but all together are not."""


UNUSUAL_OPENING = 0.05
"""By how much the probability is multiplied of what does not begin as all messages of a team do, before the
temperature, which makes it 0.007."""


@lazy_dataclass(frozen=True, slots=True)
class MessageSampler:
    """Samples `count` messages of at most `limit` tokens from p^(1/`temperature`), renormalised.

    The same `seed` gives the same messages for the same source. When `enough` of them have ended, the others
    are given up (0: all are waited for).
    """

    count: int = 8
    limit: int = 40
    enough: int = 0
    temperature: float = 0.6
    seed: int = 0

    def run(
        self,
        network: Decoder,
        memory: "EncodedSource",
        special: GenerationTokens,
        openings: Sequence[Sequence[int]] = (),
        choice: "PrefixChoice | None" = None,
    ) -> list[Hypothesis]:
        """The samples, equal ones as often as they were drawn; their log-probabilities are the model's.

        Where there are `openings`, all that does not begin with the ids of one of them is drawn less often.
        The probabilities are noted for the `choice` of a prefix. One that `limit` cut off is unfinished. All
        samples advance together: those that are alike so far are one row of the batch, and ended ones leave
        it.
        """
        import numpy as np

        generator = np.random.default_rng(self.seed)
        longest = max(map(len, openings), default=0)
        samples = [Hypothesis([], 0.0, False) for _ in range(self.count)]
        past, tokens, going, rows = network.make_empty_past(1), [special.start], samples, [0] * self.count
        for _ in range(self.limit):
            probabilities, past = predict_next(network, memory, special, tokens, past)
            for one, row, draw in zip(going, rows, generator.random(len(going)), strict=True):
                if choice is not None:
                    choice.note(one.ids, probabilities[row])
                preferred = _list_preferred(one.ids, openings) if len(one.ids) < longest else []
                token = self._draw_token(_prefer_tokens(probabilities[row], preferred), draw)
                one.total += float(np.log(probabilities[row, token] + PROBABILITY_FLOOR))
                one.finished = token == special.end
                one.ids += [] if one.finished else [token]
            open_rows = [(row, one.ids[-1]) for one, row in zip(going, rows, strict=True) if not one.finished]
            going = [one for one in going if not one.finished]
            if self.count - len(going) >= (self.enough or self.count):
                return [one for one in samples if one.finished]
            batch = list(dict.fromkeys(open_rows))
            rows = [batch.index(pair) for pair in open_rows]
            past, tokens = reorder_past(past, [row for row, _ in batch]), [token for _, token in batch]
        return samples

    def _draw_token(self, probabilities: "Floats", draw: float) -> int:
        """The token whose part of the running sum contains `draw` (0..1); `probabilities` (V) of each."""
        import numpy as np

        likely = np.flatnonzero(probabilities >= min(SMALLEST_PROBABILITY, probabilities.max()))
        sums = np.cumsum(probabilities[likely].astype(np.float64) ** (1 / self.temperature))
        place = np.searchsorted(sums, draw * sums[-1], side="right")
        return int(likely[min(place, len(likely) - 1)])


def _list_preferred(ids: Sequence[int], openings: Sequence[Sequence[int]]) -> list[int]:
    """The tokens that go on with an opening, [] where one is complete or none was begun."""
    count = len(ids)
    alike = [one for one in openings if list(one[:count]) == list(ids[: len(one)])]
    return [] if any(len(one) <= count for one in alike) else sorted({one[count] for one in alike})


def _prefer_tokens(probabilities: "Floats", preferred: Sequence[int]) -> "Floats":
    """The probabilities (V) with all others less likely by `UNUSUAL_OPENING`; as they are without any."""
    if not preferred:
        return probabilities
    weighted = probabilities * UNUSUAL_OPENING
    weighted[preferred] = probabilities[preferred]
    weighted /= weighted.sum()
    return weighted
