"""From a source to likely messages, without torch: hides the ONNX sessions, their caches, and the search.

Shapes: B hypotheses, T tokens, V vocabulary. All scores are natural logarithms of probabilities.
"""

import os
import threading
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import Any, Generic, TypeVar, cast

from gitpeft.errors import GitpeftError

ENCODER_THREADS, DECODER_THREADS = 1, 1
_BLOCK = 128
T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Vocabulary:
    """What a message may be made of: it starts after `start`, ends with `end`, and holds no `banned` id."""

    start: int
    end: int
    banned: tuple[int, ...] = ()


@dataclass(slots=True)
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


@dataclass(slots=True)
class Memory:
    """A source after encoding: what the decoder reads at every step, and the source's own token triples."""

    feeds: dict[str, Any]
    triples: set[tuple[int, ...]] = field(default_factory=set)


class Later(Generic[T]):
    """The result of work that is under way on a thread of its own."""

    def __init__(self, work: Callable[[], T]) -> None:
        self._work = work
        self._result: T | None = None
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, daemon=True)
        self._thread.start()

    def _run(self) -> None:
        try:
            self._result = self._work()
        except BaseException as error:
            self._error = error

    def get(self) -> T:
        """Wait for the result; what the work raised is raised here."""
        self._thread.join()
        if self._error is not None:
            raise self._error
        return cast(T, self._result)


class Network:
    """An exported encoder and decoder (see `gitpeft.learn.t5` for their inputs and outputs).

    Both are loaded in the background, from what the two functions return, and waited for when first needed.
    """

    def __init__(self, encoder: Callable[[], bytes], decoder: Callable[[], bytes]) -> None:
        self._encoder = Later(lambda: _session(encoder(), ENCODER_THREADS))
        self._decoder = Later(lambda: _session(decoder(), DECODER_THREADS))
        self._past: dict[str, tuple[int, int]] = {}

    def encode(self, source: Sequence[int]) -> Memory:
        """Read a source of at least one token."""
        import numpy as np

        session = self._encoder.get()
        ids = np.array([source], dtype=np.int64)
        names = [one.name for one in session.get_outputs()]
        feeds = dict(zip(names, session.run(names, {"source": ids}), strict=True))
        if "source" in self._inputs():
            feeds["source"] = ids
        return Memory(feeds, set(zip(source, source[1:], source[2:], strict=False)))

    def _inputs(self) -> set[str]:
        """The decoder's inputs; those of the past are noted with their heads and width."""
        inputs = self._decoder.get().get_inputs()
        past = [one for one in inputs if one.name.startswith("past.")]
        self._past = {one.name: (one.shape[1], one.shape[3]) for one in past}
        return {one.name for one in inputs}

    def step(self, memory: Memory, tokens: Any, past: dict[str, Any]) -> tuple[Any, dict[str, Any]]:
        """Scores (B, T, V) of what follows each of `tokens` (B, T), and the past that includes them."""
        names = ["scores", *(name.replace("past.", "present.") for name in self._past)]
        scores, *present = self._decoder.get().run(names, {**memory.feeds, **past, "tokens": tokens})
        return scores, dict(zip(self._past, present, strict=True))

    def no_past(self, batch: int) -> dict[str, Any]:
        """The past of `batch` hypotheses before their first step; a source must have been encoded."""
        import numpy as np

        shapes = {name: (batch, heads, 0, width) for name, (heads, width) in self._past.items()}
        return {name: np.zeros(shape, np.float32) for name, shape in shapes.items()}


def _session(model: bytes, threads: int) -> Any:
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


def score(
    network: Network, memory: Memory, messages: Sequence[Sequence[int]], words: Vocabulary
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
    scores, _ = network.step(memory, tokens, network.no_past(len(messages)))
    gold = np.take_along_axis(scores, targets[:, :, None], axis=2)[:, :, 0].astype(np.float64)
    return [Hypothesis(list(ids), float(gold[row, : len(ids) + 1].sum())) for row, ids in enumerate(messages)]


# --- search -------------------------------------------------------------------------------------------------


def search(
    network: Network, memory: Memory, words: Vocabulary, width: int = 4, limit: int = 40
) -> list[Hypothesis]:
    """The best messages of a beam search, best mean score first; width 1 is the greedy choice.

    No message repeats three tokens in a row that the source does not hold. Ends when no open hypothesis can
    overtake the `width` finished ones (by its mean score so far), or at `limit` tokens.
    """
    beams = [Hypothesis([], 0.0, False)]
    finished: list[Hypothesis] = []
    past, tokens = network.no_past(1), [words.start]
    for _ in range(limit):
        scores, past = _next_scores(network, memory, words, tokens, past)
        ended, beams, parents = _advance(beams, scores, memory, words, width)
        finished = sorted(finished + ended, key=_mean, reverse=True)[:width]
        if not beams or (len(finished) == width and finished[-1].mean >= beams[0].mean):
            break
        past = _follow(past, parents)
        tokens = [beam.ids[-1] for beam in beams]
    return finished or sorted(beams, key=_mean, reverse=True)


def _mean(hypothesis: Hypothesis) -> float:
    return hypothesis.mean


def _next_scores(
    network: Network, memory: Memory, words: Vocabulary, tokens: Sequence[int], past: dict[str, Any]
) -> tuple[Any, dict[str, Any]]:
    """Scores (B, V) of the next token, banned ones at minus infinity."""
    import numpy as np

    scores, past = network.step(memory, np.array(tokens, dtype=np.int64)[:, None], past)
    scores = scores[:, -1]
    scores[:, words.banned] = -np.inf
    return scores, past


def _advance(
    beams: Sequence[Hypothesis], scores: Any, memory: Memory, words: Vocabulary, width: int
) -> tuple[list[Hypothesis], list[Hypothesis], list[int]]:
    """One step: the hypotheses that end here, those that go on, and the beam that each of these continues.

    As in the usual beam search an end counts only when it is among the `width` best continuations.
    """
    import numpy as np

    totals = scores + np.array([beam.total for beam in beams], dtype=np.float32)[:, None]
    ended: list[Hypothesis] = []
    going: list[Hypothesis] = []
    parents: list[int] = []
    for rank, (total, parent, token) in enumerate(_best(totals, 4 * width)):
        beam = beams[parent]
        if token == words.end:
            if rank < width:
                ended.append(Hypothesis(beam.ids, total))
        elif not _repeats(beam.ids, token, memory.triples):
            going.append(Hypothesis([*beam.ids, token], total, False))
            parents.append(parent)
        if len(going) == width:
            break
    return ended, going, parents


def _best(totals: Any, count: int) -> list[tuple[float, int, int]]:
    """The `count` largest of (B, V) as (value, row, column), largest first.

    At least `count` values reach the `count`-th largest of the maxima of all blocks, and few others do: that
    is seven times as fast as partitioning all of them.
    """
    import numpy as np

    flat = totals.ravel()
    whole = flat.size // _BLOCK * _BLOCK
    maxima = np.concatenate([flat[:whole].reshape(-1, _BLOCK).max(axis=1), flat[whole:]])
    bound = np.partition(maxima, -min(count, maxima.size))[-min(count, maxima.size)]
    top = np.flatnonzero((flat >= bound) & np.isfinite(flat))
    top = top[np.argsort(-flat[top], kind="stable")][:count].tolist()
    size = totals.shape[1]
    return [(float(flat[i]), i // size, i % size) for i in top]


def _repeats(ids: Sequence[int], token: int, allowed: set[tuple[int, ...]]) -> bool:
    """Whether `token` completes a triple that the hypothesis holds already and the source does not."""
    if len(ids) < 3:
        return False
    triple = (ids[-2], ids[-1], token)
    return triple not in allowed and triple in zip(ids, ids[1:], ids[2:], strict=False)


def _follow(past: dict[str, Any], parents: Sequence[int]) -> dict[str, Any]:
    """The past of the hypotheses that were chosen to go on."""
    return {name: values[list(parents)] for name, values in past.items()}
