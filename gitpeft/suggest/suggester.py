"""A bundle, running: from a staged change to messages. Hides what is imported and loaded, and when.

Candidates are the model's best messages and those of the most similar earlier commits; the bundle's chooser
decides. Nothing heavy is imported before the first question, and a bundle that only retrieves never imports
more than numpy.
"""

import os
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Bundle
from gitpeft.diff.render import TokenBudget, clean_subject, render_change
from gitpeft.errors import GitpeftError
from gitpeft.lazy import lazy_dataclass
from gitpeft.suggest import reranker
from gitpeft.suggest.reranker import MessageCandidate, Reranker
from gitpeft.suggest.reranker_features import GENERATED, RETRIEVED, DraftMessage, RerankingContext
from gitpeft.suggest.suggestion import Suggestion

if TYPE_CHECKING:
    from gitpeft.runtime.background import BackgroundTask
    from gitpeft.runtime.beam_search import GenerationTokens, Hypothesis
    from gitpeft.runtime.onnx_model import EncodedSource, EncoderDecoder
    from gitpeft.runtime.tokenizer import TokenCodec
    from gitpeft.suggest.retrieval import CommitIndex, IndexEntry, Neighbour

BEAM_WIDTH = 4
NEIGHBOUR_COUNT = 10
"""How many earlier messages are considered."""

RECENT_SUBJECT_COUNT = 100
"""How many of the newest subjects say what is usual."""

MAX_TOKENS = 40
"""A message has at most this many tokens."""

DEFAULT_SUBJECT_LENGTH = 100
"""Longest message in characters, where style.json has no `subject_length`."""


@lazy_dataclass(slots=True)
class _LoadedModel:
    """What generation needs, loaded."""

    network: "EncoderDecoder"
    codec: "BackgroundTask[TokenCodec]"
    words: "GenerationTokens"
    around: tuple[list[int], list[int]]


def open_active_suggester(state_dir: Path) -> "Suggester":
    """The active bundle, ready to be asked; GitpeftError when there is none or it is damaged."""
    return Suggester(bundles.require_active_bundle(state_dir))


class Suggester:
    """A bundle that answers questions, the same one always alike.

    `timings` holds milliseconds: imports and load (of the first question), retrieve, render, encode, decode
    and choose (of the last one).
    """

    def __init__(self, bundle: Bundle, beams: int = BEAM_WIDTH) -> None:
        self.bundle = bundle
        self.timings: dict[str, float] = {}
        self._beams = beams
        self._chooser = Reranker.from_data(bundle.read_json(bundles.RERANKER_FILE), bundle.manifest.kind)
        with _explain_read_errors("the manifest"):
            self._budget = TokenBudget(**bundle.manifest.budget)
        with _explain_read_errors(bundles.STYLE_FILE):
            self._longest = _read_longest_subject(bundle)
        self._index: CommitIndex | None = None
        self._model: _LoadedModel | None = None

    def suggest(
        self,
        change: str,
        previous: str,
        n: int = 1,
        *,
        least: float = 0.0,
        before: str | None = None,
        seed: int | None = None,
    ) -> list[Suggestion]:
        """At most `n` messages for a compact change (`diff.compact`), best first; [] if none is good enough.

        `previous` is the author's previous subject, "" if there is none; `least` the score (0..1) that each
        needs. Where the index holds the commit `before`, only earlier ones are looked at. A `seed` asks for
        other wordings, each seed for its own.
        """
        generate = self._chooser.mode != RETRIEVED
        found = self.collect_candidates(change, previous, generate=generate, before=before, seed=seed)
        best = [(score, one) for score, one in self._chooser.rank_candidates(found) if score >= least][:n]
        return [Suggestion(one.message, score, one.origin, one.like) for score, one in best]

    def index_recent_commits(self, since: "Sequence[IndexEntry]") -> None:
        """From now on look also at these commits, made since the model was, oldest first; at no others."""
        from gitpeft.suggest.retrieval import CommitIndex

        self._load_missing(False)
        self._index = (self._index or CommitIndex.build([], [], [])).with_later_commits(since)

    def prepare(self) -> None:
        """Load now what the first question would load."""
        self._load_missing(self._chooser.mode != RETRIEVED and self.bundle.manifest.kind == "model")

    def collect_candidates(
        self,
        change: str,
        previous: str,
        *,
        generate: bool = True,
        before: str | None = None,
        seed: int | None = None,
    ) -> list[MessageCandidate]:
        """Every message considered, generated ones first, each kind best first; none appears twice."""
        generate = generate and self.bundle.manifest.kind == "model"
        self._load_missing(generate)
        with self._time_stage("retrieve"):
            end = self._count_commits_before(before)
            near = self._find_nearest(change, end)
            recent = (
                [] if self._index is None else self._index.list_newest_subjects(RECENT_SUBJECT_COUNT, end)
            )
        written: list[DraftMessage] = []
        if generate and self._model is not None:
            written = self._generate_drafts(
                self._model, change, previous, near[: self._budget.exemplars], seed
            )
        drafts = [*written, *map(_draft_from_neighbour, near)]
        with self._time_stage("choose"):
            return reranker.build_candidates(
                drafts, RerankingContext(change, clean_subject(previous), recent), self._longest
            )

    def compute_loss(self, change: str, previous: str, message: str, *, before: str | None = None) -> float:
        """What a given message costs this bundle's model: nats a token, the end counted as one.

        Asked as in `candidates`; for bundles with a model only.
        """
        from gitpeft.runtime import beam_search

        self._load_missing(True)
        assert self._model is not None, "this bundle only retrieves"
        shown = self._find_nearest(change, self._count_commits_before(before))[: self._budget.exemplars]
        codec, memory = self._encode_source(self._model, change, previous, shown)
        ids = codec.encode_many([message])[0][:MAX_TOKENS]
        return -beam_search.score_messages(self._model.network, memory, [ids], self._model.words)[0].mean

    def _count_commits_before(self, before: str | None) -> int | None:
        """How many commits of the index come before one; None where all do."""
        return self._index.find_position(before) if before and self._index is not None else None

    def _find_nearest(self, change: str, end: int | None) -> "list[Neighbour]":
        if self._index is None:
            return []
        return self._index.find_nearest(change, max(self._budget.exemplars, NEIGHBOUR_COUNT), end)

    def _generate_drafts(
        self, model: _LoadedModel, change: str, previous: str, shown: "Sequence[Neighbour]", seed: int | None
    ) -> list[DraftMessage]:
        """Drafts of the model, the best first."""
        from gitpeft.runtime import beam_search

        codec, memory = self._encode_source(model, change, previous, shown)
        with self._time_stage("decode"):
            found = beam_search.BeamSearch(self._beams, MAX_TOKENS, seed=seed).run(
                model.network, memory, model.words
            )
            if seed is not None:
                found = _rescore_without_noise(model, memory, found)
        like = tuple(n.sha for n in shown)
        return [
            DraftMessage(codec.decode(h.ids), GENERATED, like, h.mean, finished=h.finished) for h in found
        ]

    def _encode_source(
        self, model: _LoadedModel, change: str, previous: str, shown: "Sequence[Neighbour]"
    ) -> "tuple[TokenCodec, EncodedSource]":
        """A question after encoding."""
        from gitpeft.runtime.tokenizer import wrap_source

        with self._time_stage("tokenizer"):
            codec = model.codec.get_result()
        with self._time_stage("render"):
            source = render_change(change, [n.subject for n in shown], previous, self._budget, codec)
            source = wrap_source(source or codec.marks["file"], model.around, self._budget.total)
        with self._time_stage("encode"):
            return codec, model.network.encode(source)

    # --- loading --------------------------------------------------------------------------------------------

    def _load_missing(self, generate: bool) -> None:
        """Import and load what is missing.

        Files are read and hashed in the background of the imports. Nothing else is, since imports on two
        threads hold each other up; once all is imported, tokenizer, encoder and decoder are loaded side by
        side.
        """
        generate = generate and self._model is None
        _set_environment()
        files = self._start_reading_files() if generate else None
        if generate or "imports" not in self.timings:
            with self._time_stage("imports"):
                import numpy  # noqa: F401

                if generate:
                    _import_runtime()
        if files is not None:
            self._model = self._start_loading_model(files)
        if self._index is None and any(name.startswith("index/") for name in self.bundle.manifest.files):
            with self._time_stage("index"), _explain_read_errors(bundles.INDEX_FOLDER):
                from gitpeft.suggest.retrieval import CommitIndex

                self._index = CommitIndex.load(
                    lambda name: self.bundle.read(f"{bundles.INDEX_FOLDER}/{name}")
                )

    def _start_reading_files(self) -> "BackgroundTask[dict[str, bytes]]":
        from gitpeft.runtime.background import BackgroundTask

        wanted = (bundles.ENCODER_FILE, bundles.DECODER_FILE, bundles.TOKENIZER_FILE)
        return BackgroundTask(lambda: {name: self.bundle.read(name) for name in wanted})

    def _start_loading_model(self, files: "BackgroundTask[dict[str, bytes]]") -> _LoadedModel:
        from gitpeft.runtime.background import BackgroundTask
        from gitpeft.runtime.beam_search import GenerationTokens
        from gitpeft.runtime.onnx_model import EncoderDecoder

        given = self.bundle.manifest.settings
        with _explain_read_errors("the manifest"):
            words = GenerationTokens(given["start"], given["end"], tuple(given["banned"]))
            around = list(given.get("before", ())), list(given.get("after", ()))
        return _LoadedModel(
            EncoderDecoder(
                lambda: files.get_result()[bundles.ENCODER_FILE],
                lambda: files.get_result()[bundles.DECODER_FILE],
            ),
            BackgroundTask(lambda: _parse_tokenizer(files.get_result()[bundles.TOKENIZER_FILE])),
            words,
            around,
        )

    @contextmanager
    def _time_stage(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.timings[stage] = round(1000 * (time.perf_counter() - start), 2)


def _read_longest_subject(bundle: Bundle) -> int:
    """The longest message in characters; ValueError when the bundle's style does not hold a number."""
    length = bundle.read_json(bundles.STYLE_FILE).get("subject_length", DEFAULT_SUBJECT_LENGTH)
    if not isinstance(length, int | float | str):
        raise ValueError("subject_length is not a number")
    return int(length)


def _draft_from_neighbour(one: "Neighbour") -> DraftMessage:
    return DraftMessage(one.subject, RETRIEVED, (one.sha,), similarity=one.score, age=one.age)


def _rescore_without_noise(
    model: _LoadedModel, memory: "EncodedSource", found: "list[Hypothesis]"
) -> "list[Hypothesis]":
    """The same messages with the model's own scores, without the chance that found them."""
    from gitpeft.runtime import beam_search

    ended = [one.ids for one in found if one.finished]
    return sorted(
        beam_search.score_messages(model.network, memory, ended, model.words), key=lambda one: -one.mean
    )


def _set_environment() -> None:
    """What the libraries read when they are imported.

    numpy's BLAS would start a thread for each core, for which nothing here has work: a fifth of all start-up.
    """
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    if "numpy" not in sys.modules:
        os.environ.setdefault("OPENBLAS_NUM_THREADS", "1")


def _import_runtime() -> None:
    """Import what takes long before it is needed, so that it can be timed by itself."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import onnxruntime  # noqa: F401
    import tokenizers  # noqa: F401


def _parse_tokenizer(tokenizer_json: bytes) -> "TokenCodec":
    from gitpeft.runtime.tokenizer import TokenCodec

    with _explain_read_errors(bundles.TOKENIZER_FILE):
        return TokenCodec.from_bytes(tokenizer_json)


@contextmanager
def _explain_read_errors(name: str) -> Iterator[None]:
    """Whatever a library says about a file that it cannot use becomes one sentence about that file."""
    try:
        yield
    except GitpeftError:
        raise
    except Exception as error:  # tokenizers raises nothing more specific
        reason = " ".join(str(error).split())[:200]
        hint = "run `gitpeft init` to build the model again"
        raise GitpeftError(f"{name} of the model cannot be used: {reason}", hint) from error
