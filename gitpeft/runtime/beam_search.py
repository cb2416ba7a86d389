"""From a source to likely messages, without torch: hides the ONNX sessions, their caches, and the search.

Shapes: B hypotheses, T tokens, V vocabulary. Logarithms are natural.
"""

import os
import threading
from collections.abc import Callable, Sequence
from typing import Any, Generic, TypeVar, cast

from gitpeft.errors import GitpeftError
from gitpeft.lazy import field, lazy_dataclass

ENCODER_THREADS, DECODER_THREADS = 1, 1
PROBABILITY_FLOOR = 1e-12
"""Added to a probability before its logarithm is taken."""

_BLOCK_SIZE = 128
_MAX_REPEAT_LENGTH = 4
_NOISE_SCALE = 0.5
T = TypeVar("T")


@lazy_dataclass(frozen=True, slots=True)
class GenerationTokens:
    """What a message may be made of: it starts after `start`, ends with `end`, and holds no `banned` id."""

    start: int
    end: int
    banned: tuple[int, ...] = ()


@lazy_dataclass(slots=True)
class Hypothesis:
    """A message in tokens, without start and end; `total` is its log-probability, the end included.

    An unfinished one has no end, and `total` none of it.
    """

    ids: list[int]
    total: float
    finished: bool = True

    @property
    def mean(self) -> float:
        """Log-probability per token, the end counted as one."""
        return self.total / (len(self.ids) + self.finished or 1)


@lazy_dataclass(slots=True)
class EncodedSource:
    """A source after encoding: what the decoder reads at every step, and the source's own tokens."""

    feeds: dict[str, Any]
    source: list[int] = field(default_factory=list)


class BackgroundTask(Generic[T]):
    """The result of work that is under way on a thread of its own."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._result: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run_work, daemon=True)
        self._thread.start()

    def _run_work(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error

    def get_result(self) -> T:
        """Wait for the result; what the work raised is raised here."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return cast(T, self._result)


class EncoderDecoder:
    """An exported encoder and decoder (see `gitpeft.learn.export.t5` for their inputs and outputs).

    Both are loaded in the background, from what the two functions return, and waited for when first needed.
    """

    def __init__(self, encoder: Callable[[], bytes], decoder: Callable[[], bytes]) -> None:
        self._encoder = BackgroundTask(lambda: open_session(encoder(), ENCODER_THREADS))
        self._decoder = BackgroundTask(lambda: open_session(decoder(), DECODER_THREADS))
        self._past: dict[str, tuple[int, int]] = {}

    def encode(self, source: Sequence[int]) -> EncodedSource:
        """Read a source of at least one token."""
        import numpy as np

        session = self._encoder.get_result()
        ids = np.array([source], dtype=np.int64)
        names = [one.name for one in session.get_outputs()]
        feeds = dict(zip(names, session.run(names, {"source": ids}), strict=True))
        if "source" in self._read_decoder_inputs():
            feeds["source"] = ids
        return EncodedSource(feeds, list(source))

    def _read_decoder_inputs(self) -> set[str]:
        """The decoder's inputs; those of the past are noted with their heads and width."""
        inputs = self._decoder.get_result().get_inputs()
        past = [one for one in inputs if one.name.startswith("past.")]
        self._past = {one.name: (one.shape[1], one.shape[3]) for one in past}
        return {one.name for one in inputs}

    def run_decoder(
        self, memory: EncodedSource, tokens: Any, past: dict[str, Any]
    ) -> tuple[Any, dict[str, Any]]:
        """Probabilities (B, T, V) of what follows each of `tokens` (B, T), and the past that holds them."""
        names = ["probabilities", *(name.replace("past.", "present.") for name in self._past)]
        found, *present = self._decoder.get_result().run(names, {**memory.feeds, **past, "tokens": tokens})
        return found, dict(zip(self._past, present, strict=True))

    def make_empty_past(self, batch: int) -> dict[str, Any]:
        """The past of `batch` hypotheses before their first step; a source must have been encoded."""
        import numpy as np

        shapes = {name: (batch, heads, 0, width) for name, (heads, width) in self._past.items()}
        return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def open_session(model: bytes, threads: int) -> Any:
    """A session that never spins: on a busy machine spinning threads cost more than they bring."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    # The graphs are written as an optimiser would leave them: its passes would only take time.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    try:
        return onnxruntime.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    except Exception as error:  # the library has no common base of its errors
        reason = " ".join(str(error).split())[:200]
        raise GitpeftError(
            f"the model cannot be loaded: {reason}", "run `gitpeft init` to build it again"
        ) from error


# --- scoring given messages ---------------------------------------------------------------------------------


def score_messages(
    network: EncoderDecoder, memory: EncodedSource, messages: Sequence[Sequence[int]], words: GenerationTokens
) -> list[Hypothesis]:
    """The log-probability of each message (ids without end), all in one decoder call."""
    import numpy as np

    if not messages:
        return []
    longest = max(map(len, messages)) + 1
    tokens = np.full((len(messages), longest), words.end, dtype=np.int64)
    targets = tokens.copy()
    for row, ids in enumerate(messages):
        tokens[row, 0] = words.start
        tokens[row, 1 : len(ids) + 1] = targets[row, : len(ids)] = ids
    found, _ = network.run_decoder(memory, tokens, network.make_empty_past(len(messages)))
    gold = compute_floored_log(np.take_along_axis(found, targets[:, :, None], axis=2)[:, :, 0])
    return [Hypothesis(list(ids), float(gold[row, : len(ids) + 1].sum())) for row, ids in enumerate(messages)]


def compute_floored_log(probabilities: Any) -> Any:
    """Logarithms, in float64, with a floor: the pointer head is trained with the same one."""
    import numpy as np

    return np.log(probabilities.astype(np.float64) + PROBABILITY_FLOOR)


# --- search -------------------------------------------------------------------------------------------------


@lazy_dataclass(frozen=True, slots=True)
class BeamSearch:
    """How messages are searched: `width` beams (1 is the greedy choice), at most `limit` tokens.

    Without `repeats` no message says twice in a row what the source does not, nor three tokens more often
    than the source holds them. With a `seed` chance has a say (Gumbel noise on each choice), and `total`
    is shaken with it.
    """

    width: int = 4
    limit: int = 40
    repeats: bool = False
    seed: int | None = None

    def run(
        self, network: EncoderDecoder, memory: EncodedSource, words: GenerationTokens
    ) -> list[Hypothesis]:
        """The best messages, best mean first; unfinished ones when `limit` left no other.

        Ends when no open hypothesis can overtake the `width` finished ones by its mean so far.
        """
        beams = [Hypothesis([], 0.0, False)]
        finished: list[Hypothesis] = []
        shake = _make_gumbel_noise(self.seed)
        past, tokens = network.make_empty_past(1), [words.start]
        for _ in range(self.limit):
            found, past = _predict_next(network, memory, words, tokens, past)
            ended, beams, parents = self._advance_beams(beams, shake(found), memory, words)
            finished = sorted(finished + ended, key=_get_mean_log_probability, reverse=True)[: self.width]
            if not beams or (len(finished) == self.width and finished[-1].mean >= beams[0].mean):
                break
            past = _reorder_past(past, parents)
            tokens = [beam.ids[-1] for beam in beams]
        return finished or sorted(beams, key=_get_mean_log_probability, reverse=True)

    def _advance_beams(
        self, beams: Sequence[Hypothesis], found: Any, memory: EncodedSource, words: GenerationTokens
    ) -> tuple[list[Hypothesis], list[Hypothesis], list[int]]:
        """One step: the hypotheses that end here, those that go on, and the beam that each continues.

        As in the usual beam search an end counts only when it is among the `width` best of what is allowed.
        """
        ended: list[Hypothesis] = []
        going: list[Hypothesis] = []
        parents: list[int] = []
        rank = 0
        for total, parent, token in _select_continuations(beams, found, 4 * self.width):
            ids = [*beams[parent].ids, token]
            if token == words.end and rank < self.width:
                ended.append(Hypothesis(ids[:-1], total))
            elif token != words.end:
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


def _predict_next(
    network: EncoderDecoder,
    memory: EncodedSource,
    words: GenerationTokens,
    tokens: Sequence[int],
    past: dict[str, Any],
) -> tuple[Any, dict[str, Any]]:
    """Probabilities (B, V) of the next token, those of banned ones 0."""
    import numpy as np

    found, past = network.run_decoder(memory, np.array(tokens, dtype=np.int64)[:, None], past)
    found = found[:, -1]
    found[:, list(words.banned)] = 0
    return found, past


def _make_gumbel_noise(seed: int | None) -> Callable[[Any], Any]:
    """A function that multiplies probabilities with chance, or leaves them alone when there is no seed."""
    if seed is None:
        return lambda found: found
    import numpy as np

    dice = np.random.default_rng(seed)
    return lambda found: found * np.exp(_NOISE_SCALE * dice.gumbel(size=found.shape)).astype(np.float32)


def _select_continuations(
    beams: Sequence[Hypothesis], found: Any, count: int
) -> list[tuple[float, int, int]]:
    """The `count` likeliest continuations as (total, beam, token), likeliest first; `found` is (B, V).

    At least `count` values reach the `count`-th largest of the maxima of all blocks, and few others do: that
    is seven times as fast as partitioning all of them.
    """
    import numpy as np

    top = max(beam.total for beam in beams)
    weights = np.exp([beam.total - top for beam in beams]).astype(np.float32)
    flat = (found * weights[:, None]).ravel()
    whole = flat.size // _BLOCK_SIZE * _BLOCK_SIZE
    maxima = np.concatenate([flat[:whole].reshape(-1, _BLOCK_SIZE).max(axis=1), flat[whole:]])
    bound = np.partition(maxima, -min(count, maxima.size))[-min(count, maxima.size)]
    places = np.flatnonzero((flat >= bound) & (flat > 0))
    places = places[np.argsort(-flat[places], kind="stable")][:count]
    rows, columns = np.divmod(places, found.shape[1])
    totals = compute_floored_log(found[rows, columns]) + np.array([beam.total for beam in beams])[rows]
    return list(zip(totals.tolist(), rows.tolist(), columns.tolist(), strict=True))


def _has_new_repetition(ids: list[int], source: list[int]) -> bool:
    """Whether the last of `ids` makes a repetition that the source does not hold as well."""
    for size in range(1, _MAX_REPEAT_LENGTH + 1):
        twice = ids[-2 * size :]
        if len(twice) == 2 * size and twice[:size] == twice[size:] and not _count_occurrences(source, twice):
            return True
    triple = ids[-3:]
    return len(ids) > 3 and _count_occurrences(ids[:-1], triple) >= max(1, _count_occurrences(source, triple))


def _count_occurrences(ids: list[int], part: list[int]) -> int:
    """How often `part` occurs in `ids`."""
    size = len(part)
    return sum(ids[i : i + size] == part for i in range(len(ids) - size + 1))


def _reorder_past(past: dict[str, Any], parents: Sequence[int]) -> dict[str, Any]:
    """The past of the hypotheses that were chosen to go on."""
    return {name: values[list(parents)] for name, values in past.items()}
