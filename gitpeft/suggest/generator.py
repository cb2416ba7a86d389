"""The generative model of a bundle: loading it, draft messages for a change, and the loss of given messages.

Tokenizer, encoder and decoder are loaded on threads of their own, or the tokenizer in a process of its own
(see `suggest.model_files`), from files that are read and hashed while the libraries are imported.
"""

import os
from collections.abc import Sequence
from typing import TYPE_CHECKING

from gitpeft.bundle.bundle import CAUSAL_GRAPHS, DECODER_FILE, ENCODER_FILE, WEIGHTS_FILE, Bundle
from gitpeft.diff.model_input import PROMPT_ENDING, PROMPT_LAYOUT
from gitpeft.diff.render import TokenBudget
from gitpeft.lazy import replace_fields
from gitpeft.runtime.background import BackgroundTask
from gitpeft.runtime.beam_search import (
    BeamSearch,
    GenerationTokens,
    Hypothesis,
    probe_messages,
    score_messages,
)
from gitpeft.runtime.onnx_model import CausalDecoder, EncodedSource, EncoderDecoder, MessageNetwork
from gitpeft.runtime.prefix_choice import EncodedPrefix, PrefixChoice
from gitpeft.runtime.sampling import MessageSampler
from gitpeft.runtime.tokenizer import render_source, wrap_source
from gitpeft.suggest.consensus import compute_consensus
from gitpeft.suggest.model_files import ModelFiles
from gitpeft.suggest.read_errors import explain_read_errors
from gitpeft.suggest.reranker_features import GENERATED, DraftMessage
from gitpeft.suggest.stage_timer import StageTimer
from gitpeft.suggest.team_wording import find_opening

if TYPE_CHECKING:
    from gitpeft.suggest.retrieval import Neighbour
    from gitpeft.suggest.team_wording import ExpectedPrefix

MAX_TOKENS = 40
"""Tokens of the longest message."""

HURRIED_TOKENS = 352
"""Tokens of a prompt while somebody waits: a third less to read than in training, and 0.15 s less to wait.

The first suggestion saves as many keystrokes (31.6 % both times, 200 commits of four histories), a message
costs 0.003 to 0.021 nats a byte more."""

ENOUGH_SAMPLES = 6
"""Samples of 8 that are waited for. The last two take a quarter of all steps, and what has the highest
consensus saves as much without them: +0.06 ± 0.51 percentage points of the keystrokes (576 draws for 288
commits)."""


def _open_network(bundle: Bundle, files: ModelFiles) -> MessageNetwork:
    if WEIGHTS_FILE in bundle:
        graphs = [files.find_reader(name) for name in CAUSAL_GRAPHS if name in bundle]
        return CausalDecoder(graphs, bundle.path, files.check_weights)
    return EncoderDecoder(files.find_reader(ENCODER_FILE), files.find_reader(DECODER_FILE))


def import_libraries(*, with_tokenizer: bool = True) -> None:
    """Import what loading and running a model needs, so that the time this takes can be measured."""
    os.environ["ORT_DISABLE_TELEMETRY"] = "1"
    import numpy  # noqa: F401
    import onnxruntime  # noqa: F401

    if with_tokenizer:
        import tokenizers  # noqa: F401


class MessageGenerator:
    """The model of a bundle. `files` are its files; loading starts at once, in the background.

    `width` is the number of beams of a model that does not sample. `timer` measures the stages tokenizer
    (waiting for it), render, encode and decode. `best_prefix` is, of the prefixes that were given for the
    last drafts, the one that fits the change best; "" without any, or if the model does not sample.
    """

    def __init__(self, bundle: Bundle, files: ModelFiles, width: int, timer: StageTimer) -> None:
        settings = bundle.manifest.settings
        with explain_read_errors("the manifest"):
            self._special = GenerationTokens.from_settings(settings)
            self._wrapping = list(settings.get("before", ())), list(settings.get("after", ()))
            self._budget = TokenBudget(**bundle.manifest.budget)
        self._encoded: EncodedSource | None = None
        self.best_prefix = ""
        self._timer = timer
        self._network = _open_network(bundle, files)
        self._strategy = self._make_strategy(width)
        self._codec = BackgroundTask(files.load_codec)

    def generate_drafts(
        self,
        change: str,
        previous: str,
        exemplars: "Sequence[Neighbour]",
        prefixes: "Sequence[ExpectedPrefix]" = (),
    ) -> list[DraftMessage]:
        """Different draft messages for a stored or compact change, the likeliest first.

        Samples are ordered by their consensus instead, and mostly begin as one of the `prefixes` does, if
        there are any. `previous` is the author's previous subject, `exemplars` are similar earlier commits,
        the most similar first.
        """
        return self.write_drafts(self.encode_source(change, previous, exemplars), exemplars, prefixes)

    def write_drafts(
        self,
        encoded: EncodedSource,
        exemplars: "Sequence[Neighbour]",
        prefixes: "Sequence[ExpectedPrefix]" = (),
    ) -> list[DraftMessage]:
        """As `generate_drafts`, for a source that was encoded with these exemplars."""
        self._encoded = encoded
        with self._timer.measure("decode"):
            hypotheses = self._write_hypotheses(encoded, prefixes)
        like = tuple(exemplar.sha for exemplar in exemplars)
        drafts = self._gather_drafts(hypotheses, like)
        return _order_by_consensus(drafts) if self._samples else drafts

    def _write_hypotheses(
        self, encoded: EncodedSource, prefixes: "Sequence[ExpectedPrefix]"
    ) -> list[Hypothesis]:
        self.best_prefix = ""
        if isinstance(self._strategy, BeamSearch) or not prefixes:
            return self._strategy.run(self._network, encoded, self._special)
        openings, known = self._encode_prefixes(prefixes)
        general = [place for place, one in enumerate(prefixes) if one.lift > 0]
        choice = PrefixChoice([known[place] for place in general])
        found = self._strategy.run(self._network, encoded, self._special, openings, choice)
        if (best := choice.find_best()) is not None:
            self.best_prefix = prefixes[general[best]].text
        return found

    def _encode_prefixes(
        self, prefixes: "Sequence[ExpectedPrefix]"
    ) -> tuple[list[tuple[int, ...]], list[EncodedPrefix]]:
        """The ids with which messages behind these prefixes begin, each once, and those of each prefix.

        A prefix's token may hold more than the opening's: `(*` for `(`.
        """
        space = " " if self._budget.layout == PROMPT_LAYOUT else ""
        texts = [find_opening(one.text) for one in prefixes] + [one.text.rstrip() for one in prefixes]
        ids = self._codec.get_result().encode_many([f"{space}{text}" for text in texts])
        openings, whole = ids[: len(prefixes)], [tuple(one) for one in ids[len(prefixes) :]]
        begins = [one[: len(opening)] for opening, one in zip(openings, whole, strict=True)]
        encoded = [
            EncodedPrefix(one, prefix.frequency, prefix.lift)
            for prefix, one in zip(prefixes, whole, strict=True)
        ]
        return list(dict.fromkeys(begins)), encoded

    def _gather_drafts(self, hypotheses: Sequence[Hypothesis], like: tuple[str, ...]) -> list[DraftMessage]:
        """The different messages, in their order, with the number of samples that read like each."""
        codec = self._codec.get_result()
        drafts: dict[str, DraftMessage] = {}
        for one in hypotheses:
            text, length = codec.decode(one.ids), len(one.ids) + 1
            draft = DraftMessage(text, GENERATED, like, one.mean, finished=one.finished, tokens=length)
            same = drafts.get(text, draft)
            drafts[text] = replace_fields(same, samples=same.samples + 1) if self._samples else same
        return list(drafts.values())

    def _make_strategy(self, width: int) -> MessageSampler | BeamSearch:
        if self._samples:
            return MessageSampler(limit=MAX_TOKENS, enough=ENOUGH_SAMPLES)
        return BeamSearch(width, MAX_TOKENS)

    @property
    def _samples(self) -> bool:
        """Whether messages are sampled, as a causal model's are, or searched for.

        The likeliest message of a pretrained language model is seldom its best: with samples 33.6 % of the
        keystrokes are saved, with beams 28.2 % (420 commits, each with a reranker of its own).
        """
        return isinstance(self._network, CausalDecoder)

    def import_sampling(self) -> None:
        """Import what only sampling needs, which nobody waits for while the model reads."""
        if self._samples:
            import numpy.random  # noqa: F401

    @property
    def scores_cheaply(self) -> bool:
        """Whether the likelihood of a message costs little.

        A causal model takes an eighth of a request's time for ten messages, and the reranker is no better
        with these likelihoods (28.4 % of the keystrokes saved instead of 28.5 %, n = 275).
        """
        return isinstance(self._network, EncoderDecoder)

    @property
    def weighs(self) -> bool:
        """Whether the model can tell what the change adds to the likelihood of a message (`weigh_drafts`)."""
        return isinstance(self._network, CausalDecoder) and self._budget.is_prompt

    @property
    def loading_seconds(self) -> float:
        """How long loading goes on when the model has begun to read; computing in Python would hold it up."""
        return 0.1 if isinstance(self._network, CausalDecoder) else 0.0

    def score_drafts(self, drafts: Sequence[DraftMessage]) -> list[DraftMessage]:
        """Drafts of other origin with the model's log-probability, for the change of the last drafts."""
        if self._encoded is None or not drafts:
            return list(drafts)
        with self._timer.measure("score"):
            scored = self.score_texts(self._encoded, [draft.message for draft in drafts])
        return [_note_likelihood(draft, one) for draft, one in zip(drafts, scored, strict=True)]

    def weigh_drafts(
        self,
        drafts: Sequence[DraftMessage],
        previous: str,
        exemplars: "Sequence[Neighbour]",
        *,
        probes: bool = False,
    ) -> list[DraftMessage]:
        """Drafts with their pointwise mutual information with the change of the last drafts, in nats.

        It is log p(message | context, change) - log p(message | context): what stands in any change of this
        team carries none, whoever says it. The context, which is the beginning of the prompt, are the
        `exemplars` and the author's `previous` subject. With `probes` they also have the states that a probe
        reads. Only a causal model can weigh; see `weighs`.
        """
        from gitpeft.diff.prompt import encode_context  # here, because it costs the hook of other models time

        if self._encoded is None or not drafts:
            return list(drafts)
        codec, encoded = self._codec.get_result(), self._encoded
        with self._timer.measure("weigh"):
            ids = [codec.encode_message(one.message, self._budget.layout)[:MAX_TOKENS] for one in drafts]
            read = [pair for pair in zip(drafts, ids, strict=True) if probes or not pair[0].tokens]
            reading = BackgroundTask(lambda: self._read_drafts(encoded, read))
            count = len(self._wrapping[0])
            subjects = [one.subject for one in exemplars]
            count += len(encode_context(subjects, previous, codec.encode_many, self._budget))
            [[*opening, _start]] = codec.encode_many([PROMPT_ENDING])
            if count:
                before = encoded.keep_first(count)
            else:  # a graph reads on from one token at least
                before, opening = self._network.encode(opening), []
            unseen = score_messages(self._network, before, ids, self._special, opening)
            known = {one.message: one for one in reading.get_result()}
        seen = [known.get(one.message, one) for one in drafts]
        return [
            replace_fields(one, information=one.mean * one.tokens - without.total)
            for one, without in zip(seen, unseen, strict=True)
        ]

    def _read_drafts(
        self, encoded: EncodedSource, asked: Sequence[tuple[DraftMessage, Sequence[int]]]
    ) -> list[DraftMessage]:
        """Drafts (given with their ids) with their likelihood, unless it is known, and the states that the
        network gives."""
        network = self._network
        assert isinstance(network, CausalDecoder)
        scored = not all(draft.tokens for draft, _ in asked)
        found = probe_messages(network, encoded, [ids for _, ids in asked], self._special, scored=scored)
        return [
            replace_fields(
                _note_likelihood(draft, likely) if likely and not draft.tokens else draft,
                state=() if state is None else tuple(state.tolist()),
            )
            for (draft, _), (likely, state) in zip(asked, found, strict=True)
        ]

    def score_texts(self, encoded: EncodedSource, messages: Sequence[str]) -> list[Hypothesis]:
        """The log-probability of each message, cut to `MAX_TOKENS` tokens, for an encoded source."""
        codec, layout = self._codec.get_result(), self._budget.layout
        ids = [codec.encode_message(one, layout)[:MAX_TOKENS] for one in messages]
        return score_messages(self._network, encoded, ids, self._special)

    def encode_source(self, change: str, previous: str, exemplars: "Sequence[Neighbour]") -> EncodedSource:
        """Render a change, the previous subject and exemplars into the model's input, and encode it."""
        return self.encode_tokens(self.render_source(change, previous, exemplars))

    def render_source(
        self, change: str, previous: str, exemplars: "Sequence[Neighbour]", *, hurried: bool = False
    ) -> list[int]:
        """The model's input as token ids; a prompt is shorter where it is `hurried`."""
        budget = self._budget
        if hurried and budget.is_prompt:
            budget = replace_fields(budget, total=min(budget.total, HURRIED_TOKENS))
        with self._timer.measure("tokenizer"):
            codec = self._codec.get_result()
        with self._timer.measure("render"):
            subjects = [exemplar.subject for exemplar in exemplars]
            rendered = render_source(change, subjects, previous, budget, codec)
            return wrap_source(rendered or codec.marks["file"], self._wrapping, budget.total)

    def encode_tokens(self, source: Sequence[int]) -> EncodedSource:
        """What the model has read of its input."""
        with self._timer.measure("encode"):
            return self._network.encode(source)


def _note_likelihood(draft: DraftMessage, scored: Hypothesis) -> DraftMessage:
    """The draft with the likelihood that its message was scored with."""
    return replace_fields(draft, mean=scored.mean, tokens=len(scored.ids) + 1)


def _order_by_consensus(drafts: Sequence[DraftMessage]) -> list[DraftMessage]:
    """Sampled drafts, the one first whose message saves most of what the samples write."""
    texts = [one.message for one in drafts]
    consensus = compute_consensus(texts, {one.message: one.samples for one in drafts})
    return [drafts[place] for place in sorted(range(len(drafts)), key=lambda place: -consensus[place])]
