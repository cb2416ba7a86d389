"""Exported models in onnxruntime: sessions, encoding a source, decoder steps, the KV cache.

Shapes: B hypotheses, S source tokens, T message tokens, V tokens of the vocabulary, H attention heads,
W width of a head.
"""

import os
import queue
import threading
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Protocol, cast

from gitpeft.errors import GitpeftError
from gitpeft.lazy import field, lazy_dataclass
from gitpeft.runtime.background import BackgroundTask

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.float32]
    TokenIds = NDArray[np.int64]
    Past = dict[str, Floats]
    Feeds = dict[str, Floats | TokenIds]

ENCODER_THREADS, DECODER_THREADS = 1, 1
CAUSAL_THREADS = 2
"""For those graphs of a causal model that can use two, where there are as many cores."""


class TensorInfo(Protocol):
    """Name and shape of an input or output of a graph; a dimension that varies has a name in its place."""

    name: str
    shape: Sequence[int]


class OnnxSession(Protocol):
    """What is used here of `onnxruntime.InferenceSession`."""

    def get_inputs(self) -> Sequence[TensorInfo]:
        """The inputs of the graph, in order."""

    def get_outputs(self) -> Sequence[TensorInfo]:
        """The outputs of the graph, in order."""

    def run(
        self,
        output_names: Sequence[str],
        feeds: Mapping[str, object],
        run_options: object = None,
    ) -> "list[Floats]":
        """The named outputs for these inputs, numpy arrays by name."""


def open_session(model: bytes, threads: int, folder: Path | None = None) -> OnnxSession:
    """Load an ONNX model for the CPU; GitpeftError when onnxruntime cannot.

    `folder` is where the weights lie that the model keeps in another file; they are mapped into memory. Idle
    threads do not spin: on a busy machine, spinning costs more than it saves.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime

    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 4
    # The plan for reusing buffers takes time that grows with the square of a graph's nodes, and saves no
    # memory here: the arena gives freed buffers out again.
    options.enable_mem_reuse = options.enable_mem_pattern = False
    # The graphs are exported in the form that the optimiser produces: its passes would only take time.
    options.graph_optimization_level = onnxruntime.GraphOptimizationLevel.ORT_DISABLE_ALL
    if folder is not None:
        options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(folder))
    try:
        session: OnnxSession = onnxruntime.InferenceSession(
            model, options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # the library has no common base class of its errors
        reason = " ".join(str(error).split())[:200]
        raise GitpeftError(
            f"the model cannot be loaded: {reason}", "run `gitpeft init` to build it again"
        ) from error
    return session


@lazy_dataclass(slots=True)
class EncodedSource:
    """An encoded source: the inputs that each decoder step reads, and the source's token ids.

    `feeds` are the encoder's outputs by name, such as the keys and values of the cross-attention.
    """

    feeds: "Mapping[str, Floats | TokenIds]"
    source: list[int] = field(default_factory=list)

    def keep_first(self, count: int) -> "EncodedSource":
        """What a causal model had read after the first `count` > 0 tokens."""
        return EncodedSource(
            {name: kept[:, :, :count] for name, kept in self.feeds.items()}, self.source[:count]
        )


_PastShapes = dict[str, tuple[int, int]]
"""H and W of each input that is part of the KV cache, by name."""


class MessageNetwork(Protocol):
    """A model that writes messages: `EncoderDecoder` or `CausalDecoder`."""

    def encode(self, source: Sequence[int]) -> EncodedSource:
        """Read a source of S > 0 token ids."""

    def run_decoder(self, memory: EncodedSource, tokens: "TokenIds", past: "Past") -> "tuple[Floats, Past]":
        """Probabilities (B, T, V) of what follows each of `tokens` (B, T), and the extended KV cache."""

    def make_empty_past(self, batch: int) -> "Past":
        """The KV cache of `batch` hypotheses without tokens; call `encode` first."""


class EncoderDecoder:
    """An exported encoder and decoder (`learn.export.t5` documents the inputs and outputs of the graphs).

    Both sessions are opened in the background, from what the two functions return, and waited for when they
    are first needed.
    """

    def __init__(self, encoder: Callable[[], bytes], decoder: Callable[[], bytes]) -> None:
        self._encoder = BackgroundTask(lambda: open_session(encoder(), ENCODER_THREADS))
        self._decoder = BackgroundTask(lambda: open_session(decoder(), DECODER_THREADS))
        self._past_shapes: _PastShapes = {}

    def encode(self, source: Sequence[int]) -> EncodedSource:
        """Encode a source of S > 0 token ids."""
        import numpy as np

        session = self._encoder.get_result()
        ids = np.array([source], dtype=np.int64)
        names = [output.name for output in session.get_outputs()]
        feeds: dict[str, Floats | TokenIds] = dict(
            zip(names, session.run(names, {"source": ids}), strict=True)
        )
        if "source" in self._read_decoder_inputs():
            feeds["source"] = ids
        return EncodedSource(feeds, list(source))

    def _read_decoder_inputs(self) -> set[str]:
        """The names of the decoder's inputs; notes H and W of each input that is part of the KV cache."""
        session = self._decoder.get_result()
        self._past_shapes = _read_past_shapes(session)
        return {one.name for one in session.get_inputs()}

    def run_decoder(self, memory: EncodedSource, tokens: "TokenIds", past: "Past") -> "tuple[Floats, Past]":
        """One decoder call on the next token ids (B, T) of hypotheses whose earlier ones are in `past`.

        Returns the probabilities (B, T, V) of the token that follows each, and the extended KV cache.
        """
        return _run_decoder(self._decoder.get_result(), self._past_shapes, memory, tokens, past)

    def make_empty_past(self, batch: int) -> "Past":
        """The KV cache (B, H, 0, W) of `batch` hypotheses without tokens; call `encode` first."""
        return _make_empty_past(self._past_shapes, batch)


_LOWER, _UPPER, _HEAD = range(3)
"""The places of the graphs of a causal language model."""

STATES_OUTPUT = "states"
"""The output of a graph of a causal model with the hidden states that a probe reads, (1, B·T, D)."""

PREFILL_CHUNK = 128
"""Tokens of a prompt that are read at once. Attention to all of a long prompt at once would compute the half
of its scores that is masked, and the halves of the layers would not work side by side."""


class CausalDecoder:
    """An exported causal language model (`learn.export.llama` documents inputs and outputs of the graphs).

    To encode a prompt is to compute its keys and values, which all hypotheses read.
    """

    def __init__(
        self, graphs: Sequence[Callable[[], bytes]], folder: Path, check: Callable[[], None] = lambda: None
    ) -> None:
        """Load the graphs that functions return, with the weights that lie in `folder`.

        They are the parts of `CAUSAL_GRAPHS`, or one that holds all layers. The first is loaded at once, in
        the background, the others while it reads the first prompt. `check` raises GitpeftError when the
        weights are damaged; no result is given before it has returned.
        """
        self._graphs, self._folder, self._check = graphs, folder, check
        self._parts: dict[int, _CausalPart] = {}
        self._first = BackgroundTask(lambda: self._get_part(0))

    def _get_part(self, number: int) -> "_CausalPart":
        if number not in self._parts:
            session = open_session(self._graphs[number](), self._count_threads(number), self._folder)
            self._parts[number] = _CausalPart(session)
        return self._parts[number]

    def _count_threads(self, number: int) -> int:
        """The threads of a graph: two for one that runs alone and is worth dividing, as many cores given.

        The halves run side by side when they read; when they write, what they multiply is so small that two
        threads are no faster. The output layer is one multiplication by the whole vocabulary.
        """
        alone = len(self._graphs) == 1 or number == _HEAD
        return _count_causal_threads() if alone else 1

    def encode(self, source: Sequence[int]) -> EncodedSource:
        """Read a prompt of S > 0 token ids."""
        self._first.get_result()
        past = self._read_at_once(source) if len(self._graphs) == 1 else self._read_side_by_side(source)
        self._check()
        return EncodedSource(_name_prefix(past), list(source))

    def _read_at_once(self, source: Sequence[int]) -> "Past":
        *_, (_, past) = self._get_part(0).read_prompt(_split_prompt(source))
        return past

    def _read_side_by_side(self, source: Sequence[int]) -> "Past":
        """The KV cache of all layers. The lower half is ahead of the upper one, which is loaded meanwhile."""
        given: queue.SimpleQueue[Feeds | None] = queue.SimpleQueue()
        begun, ending = threading.Event(), threading.Event()
        count = -(-len(source) // PREFILL_CHUNK)

        def read_lower() -> "Past":
            reached: Past = {}
            try:
                for handed, past in self._get_part(_LOWER).read_prompt(_split_prompt(source, begun.set)):
                    given.put(handed)
                    reached = past
            finally:
                given.put(None)
                begun.set()
            ending.wait()
            self._get_part(_HEAD)
            return reached

        def take_handed() -> "Iterator[Feeds]":
            for number in range(count):
                if (handed := given.get()) is None:
                    return
                if number == count - 1:
                    ending.set()
                yield handed

        # Python stands still while a graph is loaded, and what runs already goes on: the upper half is loaded
        # as soon as the lower one runs, and the output layer when the upper half has begun its last part.
        lower = BackgroundTask(read_lower)
        begun.wait()
        try:
            *_, (_, past) = self._get_part(_UPPER).read_prompt(take_handed())
        finally:
            ending.set()
            below = lower.get_result()
        return {**below, **past}

    def run_decoder(self, memory: EncodedSource, tokens: "TokenIds", past: "Past") -> "tuple[Floats, Past]":
        """As `EncoderDecoder.run_decoder`."""
        feeds, present = self._run_parts(memory, tokens, past, len(self._graphs))
        return cast("Floats", feeds["probabilities"]), present

    def run_probed(
        self, memory: EncodedSource, tokens: "TokenIds", *, probable: bool = True
    ) -> "tuple[Floats | None, Floats | None]":
        """Probabilities (B, T, V) as `run_decoder` without a past, and the hidden states (B, T, D) of tokens.

        Where nobody asks how `probable` tokens are, the output layer is not run. Graphs that an earlier
        version exported give no states.
        """
        count = len(self._graphs)
        count -= not probable and count > 1
        feeds, _ = self._run_parts(memory, tokens, self.make_empty_past(len(tokens)), count)
        states = cast("Floats | None", feeds.get(STATES_OUTPUT))
        found = None if states is None else states.reshape(*tokens.shape, -1)
        return cast("Floats | None", feeds.get("probabilities")), found

    def _run_parts(
        self, memory: EncodedSource, tokens: "TokenIds", past: "Past", count: int
    ) -> "tuple[Feeds, Past]":
        """All that the first `count` graphs read and give, and the extended KV cache."""
        feeds: Feeds = {**memory.feeds, **past, "tokens": tokens}
        present: Past = {}
        for number in range(count):
            given, extended = self._get_part(number).run(feeds)
            feeds |= given
            present |= extended
        return feeds, present

    def make_empty_past(self, batch: int) -> "Past":
        """The KV cache (B, H, 0, W) of `batch` hypotheses without tokens; call `encode` first."""
        shapes = {name: shape for one in self._parts.values() for name, shape in one.past_shapes.items()}
        return _make_empty_past(shapes, batch)


class _CausalPart:
    """One graph of a causal language model."""

    def __init__(self, session: OnnxSession) -> None:
        self._session = session
        self.past_shapes = _read_past_shapes(session)
        self._read = [one.name for one in session.get_inputs()]
        names = [one.name for one in session.get_outputs()]
        self._given = [name for name in names if not name.startswith("present.")]

    def run(self, feeds: "Feeds") -> "tuple[Feeds, Past]":
        """What the next part reads, of the last one the probabilities; and the extended KV cache.

        `feeds` may hold more than this part reads.
        """
        names = [*self._given, *_name_present(self.past_shapes)]
        found = self._session.run(names, {name: feeds[name] for name in self._read})
        count = len(self._given)
        return dict(zip(self._given, found[:count], strict=True)), dict(
            zip(self.past_shapes, found[count:], strict=True)
        )

    def read_prompt(self, chunks: "Iterable[Feeds]") -> "Iterator[tuple[Feeds, Past]]":
        """For each chunk of a prompt, what the next part reads, and the KV cache up to there."""
        past = _make_empty_past(self.past_shapes, 1)
        nothing = _name_prefix(past)
        for chunk in chunks:
            given, past = self.run({**nothing, **past, **chunk})
            yield {**given, "tokens": chunk["tokens"]}, past


def _split_prompt(source: Sequence[int], tell: Callable[[], None] = lambda: None) -> "Iterator[Feeds]":
    """The chunks of a prompt; calls `tell` before each."""
    import numpy as np

    for start in range(0, len(source), PREFILL_CHUNK):
        tell()
        yield {"tokens": np.array([source[start : start + PREFILL_CHUNK]], dtype=np.int64)}


def _count_causal_threads() -> int:
    allowed = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    return min(CAUSAL_THREADS, allowed)


# --- the KV cache of a decoder ------------------------------------------------------------------------------


def _read_past_shapes(decoder: OnnxSession) -> _PastShapes:
    cached = [one for one in decoder.get_inputs() if one.name.startswith("past.")]
    return {one.name: (one.shape[1], one.shape[3]) for one in cached}


def _name_prefix(past: "Past") -> "Past":
    return {name.replace("past.", "prefix."): values for name, values in past.items()}


def _name_present(shapes: _PastShapes) -> list[str]:
    """The outputs that are the next step's past."""
    return [name.replace("past.", "present.") for name in shapes]


def _run_decoder(
    decoder: OnnxSession, shapes: _PastShapes, memory: EncodedSource, tokens: "TokenIds", past: "Past"
) -> "tuple[Floats, Past]":
    names = ["probabilities", *_name_present(shapes)]
    probabilities, *present = decoder.run(names, {**memory.feeds, **past, "tokens": tokens})
    return probabilities, dict(zip(shapes, present, strict=True))


def _make_empty_past(shapes: _PastShapes, batch: int) -> "Past":
    import numpy as np

    return {name: np.zeros((batch, heads, 0, width), np.float32) for name, (heads, width) in shapes.items()}
