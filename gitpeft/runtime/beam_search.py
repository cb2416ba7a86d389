"""Beam search over a decoder: the likeliest messages for an encoded source, and the likelihood of given ones.

Hypotheses are compared by their mean log-probability per token (length normalisation with exponent 1), so
that long messages are not at a disadvantage. Shapes: B hypotheses, T tokens, V tokens of the vocabulary.
Logarithms are natural.
"""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Protocol

from gitpeft.lazy import lazy_dataclass

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from gitpeft.runtime.onnx_model import EncodedSource, Floats, Past, TokenIds

PROBABILITY_FLOOR = 1e-12
"""Added to a probability before its logarithm is taken."""

_BLOCK_SIZE = 128
_MAX_REPEAT_LENGTH = 4


@lazy_dataclass(frozen=True, slots=True)
class GenerationTokens:
    """Ids that control generation: a message follows `start`, ends with `end` and has none of `banned`."""

    start: int
    end: int
    banned: tuple[int, ...] = ()

    @classmethod
    def from_settings(cls, settings: Mapping[str, object]) -> "GenerationTokens":
        """Read the `settings` of a manifest; KeyError or TypeError when one is missing or malformed."""
        start, end, banned = settings["start"], settings["end"], settings["banned"]
        if not (isinstance(start, int) and isinstance(end, int) and isinstance(banned, list | tuple)):
            raise TypeError("start and end need to be token ids, banned a list of them")
        return cls(start, end, tuple(banned))


@lazy_dataclass(slots=True)
class Hypothesis:
    """The token ids of a message, without start and end; `total` is its log-probability with the end.

    An unfinished hypothesis has no end yet, and `total` does not contain one.
    """

    ids: list[int]
    total: float
    finished: bool = True

    @property
    def mean(self) -> float:
        """Log-probability per token; the end counts as a token."""
        return self.total / (len(self.ids) + self.finished or 1)


class Decoder(Protocol):
    """What the search needs of a model (`onnx_model.EncoderDecoder`)."""

    def run_decoder(self, memory: "EncodedSource", tokens: "TokenIds", past: "Past") -> "tuple[Floats, Past]":
        """Probabilities (B, T, V) of what follows each of `tokens` (B, T), and the extended KV cache."""

    def make_empty_past(self, batch: int) -> "Past":
        """The KV cache of `batch` hypotheses without tokens."""


class ProbedDecoder(Protocol):
    """What probing needs of a model (`onnx_model.CausalDecoder`)."""

    def run_probed(
        self, memory: "EncodedSource", tokens: "TokenIds", *, probable: bool = True
    ) -> "tuple[Floats | None, Floats | None]":
        """Probabilities (B, T, V) of what follows each of `tokens` (B, T), if asked how `probable` these are,
        and their hidden states (B, T, D), None where the model gives none."""


# --- scoring given messages ---------------------------------------------------------------------------------


def score_messages(
    network: Decoder,
    memory: "EncodedSource",
    messages: Sequence[Sequence[int]],
    special: GenerationTokens,
    opening: Sequence[int] = (),
) -> list[Hypothesis]:
    """The log-probability of each message (ids without end), teacher-forced in one decoder call.

    The ids of `opening` stand between the source and the messages.
    """
    if not messages:
        return []
    tokens = _force_messages(messages, special, opening)
    probabilities, _ = network.run_decoder(memory, tokens, network.make_empty_past(len(messages)))
    return _score_forced(probabilities[:, len(opening) :], messages, special)


def probe_messages(
    network: ProbedDecoder,
    memory: "EncodedSource",
    messages: Sequence[Sequence[int]],
    special: GenerationTokens,
    *,
    scored: bool = True,
) -> "list[tuple[Hypothesis | None, Floats | None]]":
    """The log-probability of each message as `score_messages`, if asked for, and its mean hidden state (D).

    The mean is over the message's tokens. There is none for a message without tokens, and where the network
    gives no states.
    """
    if not messages:
        return []
    tokens = _force_messages(messages, special)
    probabilities, states = network.run_probed(memory, tokens, probable=scored)
    found: list[Hypothesis | None] = [None] * len(messages)
    if scored and probabilities is not None:
        found = [*_score_forced(probabilities, messages, special)]
    means = [
        states[row, 1 : 1 + len(ids)].mean(0) if states is not None and ids else None
        for row, ids in enumerate(messages)
    ]
    return list(zip(found, means, strict=True))


def _force_messages(
    messages: Sequence[Sequence[int]], special: GenerationTokens, opening: Sequence[int] = ()
) -> "TokenIds":
    """The messages behind `opening` and the start, as one batch of tokens filled up with ends."""
    import numpy as np

    first = len(opening) + 1
    tokens = np.full((len(messages), first + max(map(len, messages))), special.end, dtype=np.int64)
    tokens[:, :first] = [*opening, special.start]
    for row, ids in enumerate(messages):
        tokens[row, first : first + len(ids)] = ids
    return tokens


def _score_forced(
    probabilities: "Floats", messages: Sequence[Sequence[int]], special: GenerationTokens
) -> list[Hypothesis]:
    """The log-probabilities of messages from the probabilities (B, T, V) behind start and tokens."""
    import numpy as np

    found = []
    for row, ids in enumerate(messages):
        gold = probabilities[row, np.arange(len(ids) + 1), [*ids, special.end]]
        found.append(Hypothesis(list(ids), float(compute_floored_log(gold).sum())))
    return found


def compute_floored_log(probabilities: "Floats") -> "NDArray[np.float64]":
    """log(p + PROBABILITY_FLOOR) in float64; the loss of the pointer head is trained with the same floor."""
    import numpy as np

    return np.log(probabilities.astype(np.float64) + PROBABILITY_FLOOR)


# --- search -------------------------------------------------------------------------------------------------


@lazy_dataclass(frozen=True, slots=True)
class BeamSearch:
    """Beam search with `width` beams (1 is greedy search) for messages of at most `limit` tokens.

    Unless `repeats` is set, up to four tokens are not written twice in a row if the source does not do so,
    and three tokens not more often than they occur in the source.
    """

    width: int = 4
    limit: int = 40
    repeats: bool = False

    def run(self, network: Decoder, memory: "EncodedSource", special: GenerationTokens) -> list[Hypothesis]:
        """At most `width` messages, best mean first; unfinished ones when `limit` cut off all of them.

        The search ends as soon as `width` messages are finished. Going on until the mean so far of no
        unfinished one is better takes a quarter more steps, for longer messages that save no more keystrokes.
        """
        beams = [Hypothesis([], 0.0, False)]
        finished: list[Hypothesis] = []
        past, tokens = network.make_empty_past(1), [special.start]
        for _ in range(self.limit):
            probabilities, past = predict_next(network, memory, special, tokens, past)
            ended, beams, parents = self._advance_beams(beams, probabilities, memory, special)
            finished = sorted(finished + ended, key=_get_mean_log_probability, reverse=True)[: self.width]
            if not beams or len(finished) == self.width:
                break
            past = reorder_past(past, parents)
            tokens = [beam.ids[-1] for beam in beams]
        return finished or sorted(beams, key=_get_mean_log_probability, reverse=True)

    def _advance_beams(
        self,
        beams: Sequence[Hypothesis],
        probabilities: "Floats",
        memory: "EncodedSource",
        special: GenerationTokens,
    ) -> tuple[list[Hypothesis], list[Hypothesis], list[int]]:
        """One step: the hypotheses that end, those that go on, and the index of the beam that each extends.

        As usual in beam search, an end counts only if it is among the `width` best allowed continuations.
        """
        ended: list[Hypothesis] = []
        going: list[Hypothesis] = []
        parents: list[int] = []
        rank = 0
        for total, parent, token in _select_continuations(beams, probabilities, 4 * self.width):
            ids = [*beams[parent].ids, token]
            if token == special.end and rank < self.width:
                ended.append(Hypothesis(ids[:-1], total))
            elif token != special.end:
                if not self.repeats and _has_new_repetition(ids, memory.source):
                    continue
                going.append(Hypothesis(ids, total, False))
                parents.append(parent)
            rank += 1
            if len(going) == self.width:
                break
        return ended, going, parents


def _get_mean_log_probability(hypothesis: Hypothesis) -> float:
    return hypothesis.mean


def predict_next(
    network: Decoder,
    memory: "EncodedSource",
    special: GenerationTokens,
    tokens: Sequence[int],
    past: "Past",
) -> "tuple[Floats, Past]":
    """Probabilities (B, V) of the next token, 0 for banned ones, and the extended KV cache."""
    import numpy as np

    probabilities, past = network.run_decoder(memory, np.array(tokens, dtype=np.int64)[:, None], past)
    probabilities = probabilities[:, -1]
    probabilities[:, list(special.banned)] = 0
    return probabilities, past


def _select_continuations(
    beams: Sequence[Hypothesis], probabilities: "Floats", count: int
) -> list[tuple[float, int, int]]:
    """The `count` likeliest continuations as (total, beam, token), likeliest first.

    `probabilities` (B, V) are those of the next token. The `count`-th largest of the maxima of all blocks is
    a lower bound that at least `count` values reach and few others do: seven times as fast as partitioning
    all B·V values.
    """
    import numpy as np

    top = max(beam.total for beam in beams)
    weights = np.exp([beam.total - top for beam in beams]).astype(np.float32)
    flat = (probabilities * weights[:, None]).ravel()
    whole = flat.size // _BLOCK_SIZE * _BLOCK_SIZE
    maxima = np.concatenate([flat[:whole].reshape(-1, _BLOCK_SIZE).max(axis=1), flat[whole:]])
    bound = np.partition(maxima, -min(count, maxima.size))[-min(count, maxima.size)]
    places = np.flatnonzero((flat >= bound) & (flat > 0))
    places = places[np.argsort(-flat[places], kind="stable")][:count]
    rows, columns = np.divmod(places, probabilities.shape[1])
    totals = compute_floored_log(probabilities[rows, columns])
    totals += np.array([beam.total for beam in beams])[rows]
    return list(zip(totals.tolist(), rows.tolist(), columns.tolist(), strict=True))


def _has_new_repetition(ids: list[int], source: list[int]) -> bool:
    """Whether the last of `ids` completes a repetition that the source does not contain."""
    for size in range(1, _MAX_REPEAT_LENGTH + 1):
        twice = ids[-2 * size :]
        if len(twice) == 2 * size and twice[:size] == twice[size:] and not _count_occurrences(source, twice):
            return True
    triple = ids[-3:]
    earlier = _count_occurrences(ids[:-1], triple) if len(ids) > 3 else 0
    return earlier > 0 and earlier >= _count_occurrences(source, triple)


def _count_occurrences(ids: list[int], part: list[int]) -> int:
    """How often `part` occurs in `ids`."""
    size = len(part)
    return sum(ids[i : i + size] == part for i in range(len(ids) - size + 1))


def reorder_past(past: "Past", parents: Sequence[int]) -> "Past":
    """The KV cache of the beams that go on, in their new order."""
    return {name: values[list(parents)] for name, values in past.items()}
