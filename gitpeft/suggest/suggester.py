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
from gitpeft.diff.patch import Budget, clean_subject, render
from gitpeft.errors import GitpeftError
from gitpeft.lazy import record
from gitpeft.suggest import reranker
from gitpeft.suggest.reranker import Candidate, Chooser
from gitpeft.suggest.reranker_features import GENERATED, RETRIEVED, Context, Draft

if TYPE_CHECKING:
    from gitpeft.runtime.beam_search import Hypothesis, Later, Memory, Network, Vocabulary
    from gitpeft.runtime.tokenizer import TokenCodec
    from gitpeft.suggest.retrieval import Entry, Index, Neighbour

BEAMS = 4
NEIGHBOURS = 10
"""How many earlier messages are considered."""

RECENT = 100
"""How many of the newest subjects say what is usual."""

TOKENS = 40
"""A message has at most this many tokens."""

SUBJECT_LENGTH = 100
"""Longest message in characters, where style.json has no `subject_length`."""


@record(frozen=True, slots=True)
class Suggestion:
    """A message to offer: `score` in 0..1, `origin` "generated" or "retrieved".

    `like` are the commits behind it: the one whose message it repeats, or those that the model saw.
    """

    message: str
    score: float
    origin: str
    like: tuple[str, ...]


@record(slots=True)
class _Model:
    """What generation needs, loaded."""

    network: "Network"
    codec: "Later[TokenCodec]"
    words: "Vocabulary"
    around: tuple[list[int], list[int]]


def open_active(state_dir: Path) -> "Suggester":
    """The active bundle, ready to be asked; GitpeftError when there is none or it is damaged."""
    bundle = bundles.active(state_dir)
    if bundle is None:
        raise GitpeftError("there is no model yet", "run `gitpeft init`")
    return Suggester(bundle)


class Suggester:
    """A bundle that answers questions, the same one always alike.

    `timings` holds milliseconds: imports and load (of the first question), retrieve, render, encode, decode
    and choose (of the last one).
    """

    def __init__(self, bundle: Bundle, beams: int = BEAMS) -> None:
        self.bundle = bundle
        self.timings: dict[str, float] = {}
        self._beams = beams
        self._chooser = Chooser.of(bundle.json(bundles.CHOOSER), bundle.manifest.kind)
        with _readable("the manifest"):
            self._budget = Budget(**bundle.manifest.budget)
        with _readable(bundles.STYLE):
            self._longest = int(bundle.json(bundles.STYLE).get("subject_length", SUBJECT_LENGTH))
        self._index: Index | None = None
        self._model: _Model | None = None

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
        found = self.candidates(change, previous, generate=generate, before=before, seed=seed)
        best = [(score, one) for score, one in self._chooser.order(found) if score >= least][:n]
        return [Suggestion(one.message, score, one.origin, one.like) for score, one in best]

    def keep_up(self, since: "Sequence[Entry]") -> None:
        """From now on look also at these commits, made since the model was, oldest first; at no others."""
        from gitpeft.suggest.retrieval import Index

        self._load(False)
        self._index = (self._index or Index.build([], [], [])).extended(since)

    def prepare(self) -> None:
        """Load now what the first question would load."""
        self._load(self._chooser.mode != RETRIEVED and self.bundle.manifest.kind == "model")

    def candidates(
        self,
        change: str,
        previous: str,
        *,
        generate: bool = True,
        before: str | None = None,
        seed: int | None = None,
    ) -> list[Candidate]:
        """Every message considered, generated ones first, each kind best first; none appears twice."""
        generate = generate and self.bundle.manifest.kind == "model"
        self._load(generate)
        with self._timed("retrieve"):
            end = self._end(before)
            near = self._nearest(change, end)
            recent = [] if self._index is None else self._index.newest(RECENT, end)
        written: list[Draft] = []
        if generate and self._model is not None:
            written = self._write(self._model, change, previous, near[: self._budget.exemplars], seed)
        drafts = [*written, *map(_earlier, near)]
        with self._timed("choose"):
            return reranker.candidates(
                drafts, Context(change, clean_subject(previous), recent), self._longest
            )

    def loss(self, change: str, previous: str, message: str, *, before: str | None = None) -> float:
        """What a given message costs this bundle's model: nats a token, the end counted as one.

        Asked as in `candidates`; for bundles with a model only.
        """
        from gitpeft.runtime import beam_search

        self._load(True)
        assert self._model is not None, "this bundle only retrieves"
        shown = self._nearest(change, self._end(before))[: self._budget.exemplars]
        codec, memory = self._read(self._model, change, previous, shown)
        ids = codec.encode_many([message])[0][:TOKENS]
        return -beam_search.score(self._model.network, memory, [ids], self._model.words)[0].mean

    def _end(self, before: str | None) -> int | None:
        """How many commits of the index come before one; None where all do."""
        return self._index.place(before) if before and self._index is not None else None

    def _nearest(self, change: str, end: int | None) -> "list[Neighbour]":
        if self._index is None:
            return []
        return self._index.nearest(change, max(self._budget.exemplars, NEIGHBOURS), end)

    def _write(
        self, model: _Model, change: str, previous: str, shown: "Sequence[Neighbour]", seed: int | None
    ) -> list[Draft]:
        """Drafts of the model, the best first."""
        from gitpeft.runtime import beam_search

        codec, memory = self._read(model, change, previous, shown)
        with self._timed("decode"):
            found = beam_search.Search(self._beams, TOKENS, seed=seed).run(model.network, memory, model.words)
            if seed is not None:
                found = _sober(model, memory, found)
        like = tuple(n.sha for n in shown)
        return [Draft(codec.decode(h.ids), GENERATED, like, h.mean, finished=h.finished) for h in found]

    def _read(
        self, model: _Model, change: str, previous: str, shown: "Sequence[Neighbour]"
    ) -> "tuple[TokenCodec, Memory]":
        """A question after encoding."""
        from gitpeft.runtime.tokenizer import wrapped

        with self._timed("tokenizer"):
            codec = model.codec.get()
        with self._timed("render"):
            source = render(change, [n.subject for n in shown], previous, self._budget, codec)
            source = wrapped(source or codec.marks["file"], model.around, self._budget.total)
        with self._timed("encode"):
            return codec, model.network.encode(source)

    # --- loading --------------------------------------------------------------------------------------------

    def _load(self, generate: bool) -> None:
        """Import and load what is missing.

        Files are read and hashed in the background of the imports. Nothing else is, since imports on two
        threads hold each other up; once all is imported, tokenizer, encoder and decoder are loaded side by
        side.
        """
        generate = generate and self._model is None
        _set_environment()
        files = self._start_reading() if generate else None
        if generate or "imports" not in self.timings:
            with self._timed("imports"):
                import numpy  # noqa: F401

                if generate:
                    _import_runtime()
        if files is not None:
            self._model = self._start_model(files)
        if self._index is None and any(name.startswith("index/") for name in self.bundle.manifest.files):
            with self._timed("index"), _readable(bundles.INDEX):
                from gitpeft.suggest.retrieval import Index

                self._index = Index.load(lambda name: self.bundle.read(f"{bundles.INDEX}/{name}"))

    def _start_reading(self) -> "Later[dict[str, bytes]]":
        from gitpeft.runtime.beam_search import Later

        wanted = (bundles.ENCODER, bundles.DECODER, bundles.TOKENIZER)
        return Later(lambda: {name: self.bundle.read(name) for name in wanted})

    def _start_model(self, files: "Later[dict[str, bytes]]") -> _Model:
        from gitpeft.runtime.beam_search import Later, Network, Vocabulary

        given = self.bundle.manifest.settings
        with _readable("the manifest"):
            words = Vocabulary(given["start"], given["end"], tuple(given["banned"]))
            around = list(given.get("before", ())), list(given.get("after", ()))
        return _Model(
            Network(lambda: files.get()[bundles.ENCODER], lambda: files.get()[bundles.DECODER]),
            Later(lambda: _codec(files.get()[bundles.TOKENIZER])),
            words,
            around,
        )

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.timings[stage] = round(1000 * (time.perf_counter() - start), 2)


def _earlier(one: "Neighbour") -> Draft:
    return Draft(one.subject, RETRIEVED, (one.sha,), similarity=one.score, age=one.age)


def _sober(model: _Model, memory: "Memory", found: "list[Hypothesis]") -> "list[Hypothesis]":
    """The same messages with the model's own scores, without the chance that found them."""
    from gitpeft.runtime import beam_search

    ended = [one.ids for one in found if one.finished]
    return sorted(beam_search.score(model.network, memory, ended, model.words), key=lambda one: -one.mean)


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


def _codec(tokenizer_json: bytes) -> "TokenCodec":
    from gitpeft.runtime.tokenizer import TokenCodec

    with _readable(bundles.TOKENIZER):
        return TokenCodec.parse(tokenizer_json)


@contextmanager
def _readable(name: str) -> Iterator[None]:
    """Whatever a library says about a file that it cannot use becomes one sentence about that file."""
    try:
        yield
    except GitpeftError:
        raise
    except Exception as error:  # tokenizers raises nothing more specific
        reason = " ".join(str(error).split())[:200]
        hint = "run `gitpeft init` to build the model again"
        raise GitpeftError(f"{name} of the model cannot be used: {reason}", hint) from error
