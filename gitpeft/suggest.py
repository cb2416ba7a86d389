"""A bundle, running: from a staged change to messages. Hides what is imported and loaded, and when.

Candidates are the model's best messages and those of the most similar earlier commits; the model scores
both, and the bundle's chooser decides. Nothing heavy is imported before the first question, and a bundle
that only retrieves never imports more than numpy.
"""

import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from gitpeft import bundle as bundles
from gitpeft import choose
from gitpeft.bundle import Bundle
from gitpeft.choose import Candidate, Chooser, Draft
from gitpeft.diff import Budget, render
from gitpeft.errors import GitpeftError

if TYPE_CHECKING:
    from gitpeft.codec import TokenCodec
    from gitpeft.decode import Memory, Network, Vocabulary
    from gitpeft.retrieve import Index, Neighbour

BEAMS = 4
RETRIEVED = 4
"""How many earlier messages are considered."""

TOKENS = 40
"""A message has at most this many tokens."""

SUBJECT_LENGTH = 100
"""Longest message in characters, where style.json has no `subject_length`."""


@dataclass(frozen=True, slots=True)
class Suggestion:
    """A message to offer: `score` in 0..1, `origin` "generated" or "retrieved".

    `like` are the commits behind it: the one whose message it repeats, or those that the model saw.
    """

    message: str
    score: float
    origin: str
    like: tuple[str, ...]


@dataclass(slots=True)
class _Model:
    """What generation needs, loaded."""

    codec: "TokenCodec"
    network: "Network"
    words: "Vocabulary"


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
        self._budget = Budget(**bundle.manifest.budget)
        self._chooser = Chooser.of(bundle.json(bundles.CHOOSER), bundle.manifest.kind)
        self._longest = int(bundle.json(bundles.STYLE).get("subject_length", SUBJECT_LENGTH))
        self._index: Index | None = None
        self._model: _Model | None = None

    def suggest(self, change: str, previous: str, n: int = 1) -> list[Suggestion]:
        """At most `n` messages for a compact change (`diff.compact`), best first; [] if none is good enough.

        `previous` is the author's previous subject, "" if there is none.
        """
        found = self.candidates(change, previous, generate=self._chooser.mode != choose.RETRIEVED)
        best = self._chooser.order(found)[:n]
        return [Suggestion(one.message, score, one.origin, one.like) for score, one in best]

    def candidates(self, change: str, previous: str, *, generate: bool = True) -> list[Candidate]:
        """Every message considered, generated ones first, each kind best first; none appears twice."""
        generate = generate and self.bundle.manifest.kind == "model"
        self._load(generate)
        with self._timed("retrieve"):
            near = self._nearest(change)
        if generate and self._model is not None:
            drafts = self._ask(self._model, change, previous, near)
        else:
            drafts = [Draft(n.subject, choose.RETRIEVED, (n.sha,), similarity=n.score) for n in near]
        with self._timed("choose"):
            return choose.candidates(drafts, f"{change}\n{previous}", self._longest)

    def _nearest(self, change: str) -> "list[Neighbour]":
        count = max(self._budget.exemplars, RETRIEVED)
        return self._index.nearest(change, count) if self._index is not None else []

    def _ask(self, model: _Model, change: str, previous: str, near: "Sequence[Neighbour]") -> list[Draft]:
        """Drafts of the model, then of the neighbours, all scored by the model."""
        from gitpeft import decode

        shown = near[: self._budget.exemplars]
        with self._timed("render"):
            source = render(change, [n.subject for n in shown], previous, self._budget, model.codec)
        with self._timed("encode"):
            memory = model.network.encode(source or model.codec.marks["file"])
        with self._timed("decode"):
            found = decode.search(model.network, memory, model.words, self._beams, TOKENS)
            earlier = self._scored(model, memory, near)
        like = tuple(n.sha for n in shown)
        drafts = [
            Draft(model.codec.decode(h.ids), choose.GENERATED, like, h.mean, h.total, finished=h.finished)
            for h in found
        ]
        return drafts + earlier

    def _scored(self, model: _Model, memory: "Memory", near: "Sequence[Neighbour]") -> list[Draft]:
        from gitpeft import decode

        ids = [ids[:TOKENS] for ids in model.codec.encode_many([n.subject for n in near])]
        scores = decode.score(model.network, memory, ids, model.words)
        return [
            Draft(n.subject, choose.RETRIEVED, (n.sha,), h.mean, h.total, n.score)
            for n, h in zip(near, scores, strict=True)
        ]

    # --- loading --------------------------------------------------------------------------------------------

    def _load(self, generate: bool) -> None:
        if self._index is None and any(name.startswith("index/") for name in self.bundle.manifest.files):
            with self._timed("imports"):
                import numpy  # noqa: F401

                from gitpeft.retrieve import Index
            with self._timed("load_index"):
                self._index = Index.load(self.bundle.path / bundles.INDEX)
        if generate and self._model is None:
            self._model = self._load_model()

    def _load_model(self) -> _Model:
        from gitpeft.codec import TokenCodec
        from gitpeft.decode import Network, Vocabulary

        with self._timed("load"):
            from tokenizers import Tokenizer

            codec = TokenCodec(Tokenizer.from_buffer(self.bundle.read(bundles.TOKENIZER)))
        with self._timed("network"):
            network = Network(self.bundle.read(bundles.ENCODER), self.bundle.read(bundles.DECODER))
        words = self.bundle.manifest.settings
        return _Model(codec, network, Vocabulary(words["start"], words["end"], tuple(words["banned"])))

    @contextmanager
    def _timed(self, stage: str) -> Iterator[None]:
        start = time.perf_counter()
        yield
        self.timings[stage] = round(1000 * (time.perf_counter() - start), 2)
