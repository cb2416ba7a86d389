"""The generative model of a bundle: loading it, draft messages for a change, and the loss of given messages.

Tokenizer, encoder and decoder are loaded on threads of their own, from files that are read and hashed while
the libraries are imported.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gitpeft.bundle.bundle import DECODER_FILE, ENCODER_FILE, TOKENIZER_FILE, WEIGHTS_FILE, Bundle
from gitpeft.diff.render import TokenBudget
from gitpeft.lazy import replace_fields
from gitpeft.runtime.background import BackgroundTask
from gitpeft.runtime.beam_search import BeamSearch, GenerationTokens, Hypothesis, score_messages
from gitpeft.runtime.onnx_model import CausalDecoder, EncodedSource, EncoderDecoder, MessageNetwork
from gitpeft.runtime.tokenizer import TokenCodec, render_source, wrap_source
from gitpeft.suggest.read_errors import explain_read_errors
from gitpeft.suggest.reranker_features import GENERATED, DraftMessage
from gitpeft.suggest.stage_timer import StageTimer

if TYPE_CHECKING:
    from gitpeft.suggest.retrieval import Neighbour

MAX_TOKENS = 40
"""Tokens of the longest message."""


def start_reading_files(bundle: Bundle) -> BackgroundTask[dict[str, bytes]]:
    """Read and check the files of a bundle's model in the background, but for weights that are mapped."""
    names = [name for name in (ENCODER_FILE, DECODER_FILE, TOKENIZER_FILE) if name in bundle]
    return BackgroundTask(lambda: {name: bundle.read(name) for name in names})


def _open_network(bundle: Bundle, files: BackgroundTask[dict[str, bytes]]) -> MessageNetwork:
    def read_decoder() -> bytes:
        return files.get_result()[DECODER_FILE]

    if WEIGHTS_FILE in bundle:
        return CausalDecoder(read_decoder, bundle.path, lambda: bundle.check_file(WEIGHTS_FILE))
    return EncoderDecoder(lambda: files.get_result()[ENCODER_FILE], read_decoder)


def import_libraries() -> None:
    """Import what loading and running a model needs, so that the time this takes can be measured."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import numpy  # noqa: F401
    import onnxruntime  # noqa: F401
    import tokenizers  # noqa: F401


class MessageGenerator:
    """The model of a bundle. `files` are its files by name; loading starts at once, in the background.

    `width` is the number of beams. `timer` measures the stages tokenizer (waiting for it), render, encode and
    decode.
    """

    def __init__(
        self, bundle: Bundle, files: BackgroundTask[dict[str, bytes]], width: int, timer: StageTimer
    ) -> None:
        settings = bundle.manifest.settings
        with explain_read_errors("the manifest"):
            self._special = GenerationTokens.from_settings(settings)
            self._wrapping = list(settings.get("before", ())), list(settings.get("after", ()))
            self._budget = TokenBudget(**bundle.manifest.budget)
        self._width = width
        self._encoded: EncodedSource | None = None
        self._timer = timer
        self._network = _open_network(bundle, files)
        self._codec = BackgroundTask(lambda: _parse_tokenizer(files.get_result()[TOKENIZER_FILE]))

    def generate_drafts(
        self, change: str, previous: str, exemplars: "Sequence[Neighbour]", seed: int | None = None
    ) -> list[DraftMessage]:
        """Draft messages for a stored or compact change, the likeliest first.

        `previous` is the author's previous subject, `exemplars` are similar earlier commits, the most similar
        first. A `seed` samples other wordings, the same ones for the same seed.
        """
        encoded = self._encoded = self.encode_source(change, previous, exemplars)
        with self._timer.measure("decode"):
            search = BeamSearch(self._width, MAX_TOKENS, seed=seed)
            hypotheses = search.run(self._network, encoded, self._special)
            if seed is not None:
                hypotheses = self._rescore_without_noise(encoded, hypotheses)
        codec = self._codec.get_result()
        like = tuple(exemplar.sha for exemplar in exemplars)
        return [
            DraftMessage(
                codec.decode(one.ids),
                GENERATED,
                like,
                one.mean,
                finished=one.finished,
                tokens=len(one.ids) + 1,
            )
            for one in hypotheses
        ]

    @property
    def scores_cheaply(self) -> bool:
        """Whether the likelihood of a message costs little.

        A causal model takes an eighth of a request's time for ten messages, and the reranker is no better
        with these likelihoods (28.4 % of the keystrokes saved instead of 28.5 %, n = 275).
        """
        return isinstance(self._network, EncoderDecoder)

    def score_drafts(self, drafts: Sequence[DraftMessage]) -> list[DraftMessage]:
        """Drafts of other origin with the model's log-probability, for the change of the last drafts."""
        if self._encoded is None or not drafts:
            return list(drafts)
        with self._timer.measure("score"):
            scored = self.score_texts(self._encoded, [draft.message for draft in drafts])
        return [
            replace_fields(draft, mean=one.mean, tokens=len(one.ids) + 1)
            for draft, one in zip(drafts, scored, strict=True)
        ]

    def _rescore_without_noise(
        self, encoded: EncodedSource, hypotheses: Sequence[Hypothesis]
    ) -> list[Hypothesis]:
        """The finished hypotheses with the log-probabilities of the model alone, the likeliest first."""
        finished = [one.ids for one in hypotheses if one.finished]
        scored = score_messages(self._network, encoded, finished, self._special)
        return sorted(scored, key=lambda one: -one.mean)

    def score_texts(self, encoded: EncodedSource, messages: Sequence[str]) -> list[Hypothesis]:
        """The log-probability of each message, cut to `MAX_TOKENS` tokens, for an encoded source."""
        codec, layout = self._codec.get_result(), self._budget.layout
        ids = [codec.encode_message(one, layout)[:MAX_TOKENS] for one in messages]
        return score_messages(self._network, encoded, ids, self._special)

    def encode_source(self, change: str, previous: str, exemplars: "Sequence[Neighbour]") -> EncodedSource:
        """Render a change, the previous subject and exemplars into the model's input, and encode it."""
        with self._timer.measure("tokenizer"):
            codec = self._codec.get_result()
        with self._timer.measure("render"):
            subjects = [exemplar.subject for exemplar in exemplars]
            rendered = render_source(change, subjects, previous, self._budget, codec)
            source = wrap_source(rendered or codec.marks["file"], self._wrapping, self._budget.total)
        with self._timer.measure("encode"):
            return self._network.encode(source)


def _parse_tokenizer(raw: bytes) -> TokenCodec:
    with explain_read_errors(TOKENIZER_FILE):
        return TokenCodec.from_bytes(raw)
