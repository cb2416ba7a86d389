"""Exports a trained model to files that run without torch, through a gate that checks their parity.

The gate compares three forms of one model on held-out examples: torch, ONNX in float32, ONNX in int8. The
first two must agree to the last digits, the last two in what they choose and in how likely they find the
real message.
"""

import json
import tempfile
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gitpeft.bundle.bundle import (
    CAUSAL_GRAPHS,
    DECODER_FILE,
    ENCODER_FILE,
    TOKENIZER_FILE,
    WEIGHTS_FILE,
)
from gitpeft.diff.model_input import PROMPT_LAYOUT
from gitpeft.errors import GitpeftError, ParityError
from gitpeft.learn.export import bart, llama, t5
from gitpeft.learn.models import architectures
from gitpeft.runtime.beam_search import GenerationTokens, compute_floored_log
from gitpeft.runtime.onnx_model import CausalDecoder, EncodedSource, EncoderDecoder, MessageNetwork
from gitpeft.runtime.tokenizer import TokenCodec

if TYPE_CHECKING:
    from tokenizers import Tokenizer
    from transformers import PreTrainedModel

LogProbabilities = NDArray[np.float64]
"""(tokens, vocabulary)."""


class GraphWriter(Protocol):
    """A module that writes the two graphs of an encoder-decoder; int8 with `quantise`, else float32."""

    def build_encoder_graph(self, model: "PreTrainedModel", quantise: bool) -> bytes:
        """The serialised encoder: from a source to what every decoding step reads."""
        ...

    def build_decoder_graph(self, model: "PreTrainedModel", quantise: bool) -> bytes:
        """The serialised decoder: from tokens and their past to probabilities."""
        ...


GRAPH_WRITERS: Mapping[str, GraphWriter] = {
    "t5": t5,
    "pointer-t5": t5,
    "bart": bart,
    "plbart": bart,
    "encoder-decoder": bart,
}
"""The module that writes the graphs of an encoder-decoder, by model type."""

RARE_PROBABILITY = 1e-6
"""A token less likely than this is as good as impossible: differences below it do not count."""

TokenPair = tuple[Sequence[int], Sequence[int]]
"""Source and message of an example, in token ids; the message without start and end."""


NEAR_TIE_NATS = 0.1
"""Nats. Tokens closer than this are as good as each other: which of them comes first says nothing of int8."""


@dataclass(frozen=True, slots=True)
class MessageParityBounds:
    """The limits of the gate.

    `exact`: largest difference of a log-probability between torch and ONNX in float32. `agreement`: smallest
    share of positions where int8 chooses float32's token, or one that float32 finds less likely by no more
    than `NEAR_TIE_NATS`. `nats`: largest change, by int8, of the mean log-probability of a real message's
    token; `drop`: largest share by which int8 makes float32's loss on real messages worse.
    """

    exact: float = 1e-3
    agreement: float = 0.97
    nats: float = 0.02
    drop: float = 0.01


CAUSAL_BOUNDS = MessageParityBounds(agreement=0.88, nats=0.06, drop=0.02)
"""The limits for causal language models, which are several times as deep, and choose among several times as
many tokens. Measured on SmolLM2-135M: agreement 95 % and a loss 0.3 % worse (156 tokens); with 8-bit blocks
and a scale for every 32 numbers 98.6 % and 0.5 % (221 tokens); tuned on gin 1.2 % (1,165 tokens of 96
messages, standard error 0.2 points). Of 16 messages the standard error is 2 points of agreement and 0.016
nats a token: now and then a good model misses a limit on them, so that none is refused before
more are measured. One that holds the limits on them passes at once."""


@dataclass(frozen=True, slots=True)
class MessageParity:
    """What the gate measured (see `MessageParityBounds`) over `examples` messages of `tokens` tokens.

    `same` is the agreement without near ties counted in, `loss` float32's on real messages, nats a token.
    """

    examples: int
    tokens: int
    exact: float
    same: float
    agreement: float
    nats: float
    loss: float
    bounds: MessageParityBounds

    @property
    def quality_drop(self) -> float:
        """The share by which int8 makes the loss on real messages worse; below 0 where it is better."""
        return -self.nats / self.loss

    def describe_drop(self) -> str:
        """The change of the loss by int8, in a line."""
        share, bound = f"{self.quality_drop:+.2%}", f"{self.bounds.drop:.0%}"
        return f"8 bits change the loss of {self.loss:.3f} by {share} (bound {bound})"

    def list_failures(self) -> list[str]:
        """A sentence for each bound that does not hold, with the bound in it."""
        found = []
        if not self.exact <= self.bounds.exact:
            bound = f"bound {self.bounds.exact:g}"
            found.append(f"ONNX gives other log-probabilities than torch, by {self.exact:.2g} ({bound})")
        if not self.agreement >= self.bounds.agreement:
            bound = f"bound {self.bounds.agreement:.0%}"
            found.append(
                f"8 bits choose the same or as good a token at {self.agreement:.1%} of the places ({bound})"
            )
        if not abs(self.nats) <= self.bounds.nats:
            bound = f"bound {self.bounds.nats:g}"
            found.append(f"8 bits move a message's log-probability by {self.nats:+.3f} a token ({bound})")
        if not self.quality_drop <= self.bounds.drop:
            found.append(self.describe_drop())
        return found


@dataclass(frozen=True, slots=True)
class ExportResult:
    """What `export_model` wrote: the gate's result, the `settings` for decoding, and sizes in bytes."""

    parity: MessageParity
    settings: dict[str, Any]
    sizes: dict[str, int]
    seconds: float

    @property
    def total_bytes(self) -> int:
        """The size of all files."""
        return sum(self.sizes.values())

    def as_dict(self) -> dict[str, Any]:
        """For `exported.json`."""
        return asdict(self) | {"said": self.parity.describe_drop()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "ExportResult":
        """What `as_dict` gave."""
        measured = dict(data["parity"])
        parity = MessageParity(**measured | {"bounds": MessageParityBounds(**measured["bounds"])})
        return cls(parity, data["settings"], data["sizes"], data["seconds"])


def export_model(
    model: "PreTrainedModel",
    tokenizer_json: Path,
    out_dir: Path,
    examples: Sequence[TokenPair],
    bounds: MessageParityBounds | None = None,
    wrapping: tuple[Sequence[int], Sequence[int]] = ((), ()),
    enough: int | None = None,
) -> ExportResult:
    """Write the model's files and tokenizer.json into `out_dir`, once the gate has let them through.

    `model` is of one of the types of `architectures.ARCHITECTURES`, LoRA merged, on the CPU; `examples`
    are some dozens of held-out ones, their sources with the ids of `wrapping` before and after what the hook
    renders. The first `enough` of them suffice where all bounds hold on them; else all are measured, because
    int8 moves single messages both ways and a few may be unlucky. Raises ParityError when a bound does not
    hold, and GitpeftError when the model is of another type; then nothing is left.
    """
    start = time.perf_counter()
    if not examples:
        raise GitpeftError("no held-out example to check the export with", "mine more history")
    model.eval()
    settings = make_decoding_settings(model, tokenizer_json)
    settings |= {name: list(ids) for name, ids in zip(("before", "after"), wrapping, strict=True) if ids}
    words = GenerationTokens.from_settings(settings)
    with tempfile.TemporaryDirectory(prefix=".export-", dir=out_dir) as scratch:
        plain, small = (Path(scratch) / kind for kind in ("float32", "int8"))
        for folder in (plain, small):
            folder.mkdir()
            write_graphs(model, folder == small, folder)
        networks = open_network(plain), open_network(small)
        bounds = bounds or _default_bounds(model)
        parity = measure_parity(model, *networks, examples, words, bounds, enough)
        if failures := parity.list_failures():
            count = f"measured on {parity.examples:,} messages"
            raise ParityError(
                f"the export would change the model too much: {'; '.join(failures)} ({count})",
                "no bundle was written",
            )
        (small / TOKENIZER_FILE).write_bytes(_compact_tokenizer(tokenizer_json))
        files = sorted(small.iterdir())
        sizes = {path.name: path.stat().st_size for path in files}
        for path in files:
            path.replace(out_dir / path.name)
    return ExportResult(parity, settings, sizes, round(time.perf_counter() - start, 2))


def _default_bounds(model: "PreTrainedModel") -> MessageParityBounds:
    return CAUSAL_BOUNDS if architectures.is_causal(model.config.model_type) else MessageParityBounds()


def write_graphs(model: "PreTrainedModel", quantise: bool, folder: Path) -> None:
    """Write the model's ONNX files, and the file of its weights where that is one of its own."""
    if architectures.is_causal(model.config.model_type):
        with torch.no_grad():
            llama.save_graphs(model, quantise, folder)
        return
    for name, raw in zip((ENCODER_FILE, DECODER_FILE), build_graphs(model, quantise), strict=True):
        (folder / name).write_bytes(raw)


def open_network(folder: Path) -> MessageNetwork:
    """The model whose files `write_graphs` wrote."""
    if (folder / WEIGHTS_FILE).is_file():
        graphs = [folder / name for name in CAUSAL_GRAPHS if (folder / name).is_file()]
        return CausalDecoder([path.read_bytes for path in graphs], folder)
    return EncoderDecoder((folder / ENCODER_FILE).read_bytes, (folder / DECODER_FILE).read_bytes)


def build_graphs(model: "PreTrainedModel", quantise: bool) -> tuple[bytes, bytes]:
    """The ONNX files of an encoder-decoder's encoder and decoder."""
    kind = model.config.model_type
    if kind not in GRAPH_WRITERS:
        known = ", ".join(sorted(architectures.ARCHITECTURES))
        raise GitpeftError(f"models of type {kind} cannot be exported", f"known are {known}")
    writer = GRAPH_WRITERS[kind]
    with torch.no_grad():
        return writer.build_encoder_graph(model, quantise), writer.build_decoder_graph(model, quantise)


def make_decoding_settings(model: "PreTrainedModel", tokenizer_json: Path) -> dict[str, Any]:
    """`start`, `end` and `banned` ids: special tokens, and what the model has and the tokenizer has not."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    start, end = _find_message_limits(model, tokenizer)
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    banned = (special | set(range(tokenizer.get_vocab_size(), int(model.config.vocab_size)))) - {end}
    return {"start": start, "end": end, "banned": sorted(banned)}


def _find_message_limits(model: "PreTrainedModel", tokenizer: "Tokenizer") -> tuple[int, int]:
    """The ids that start and end a message."""
    architecture = architectures.find_architecture(model.config.model_type)
    if architecture.causal:
        codec = TokenCodec(tokenizer)
        return codec.find_message_start(), codec.find_message_end(PROMPT_LAYOUT)
    end = int(model.config.eos_token_id)
    return end if architecture.begins_with_end else int(model.config.decoder_start_token_id), end


def _compact_tokenizer(path: Path) -> bytes:
    """tokenizer.json without white space, and without truncation and padding, a trainer's settings."""
    data = json.loads(path.read_text(encoding="utf-8"))
    data |= {"truncation": None, "padding": None}
    merges = data["model"].get("merges", [])
    if all(isinstance(merge, list) and not any(" " in part for part in merge) for merge in merges):
        # The older of the two spellings of a merge, which is read in half the time.
        data["model"]["merges"] = [" ".join(merge) for merge in merges]
    return json.dumps(data, ensure_ascii=False, separators=(",", ":")).encode()


# --- the gate -----------------------------------------------------------------------------------------------


def measure_parity(
    model: "PreTrainedModel",
    plain: MessageNetwork,
    small: MessageNetwork,
    examples: Sequence[TokenPair],
    words: GenerationTokens,
    bounds: MessageParityBounds,
    enough: int | None = None,
) -> MessageParity:
    """Run all three forms over the examples, teacher-forced; the first two token by token as well.

    Stops after `enough` examples where the bounds hold on these.
    """
    worst, same, alike, moved, loss, tokens = 0.0, 0, 0, 0.0, 0.0, 0

    def summarise(count: int) -> MessageParity:
        shares = (same / tokens, alike / tokens, moved / tokens, loss / tokens)
        return MessageParity(count, tokens, worst, *shares, bounds)

    for number, (source, message) in enumerate(examples):
        if number == enough and not summarise(number).list_failures():
            return summarise(number)
        targets = [*message, words.end]
        inputs = [words.start, *message]
        exact = score_with_torch(model, source, inputs)
        memory = plain.encode(source)
        whole = _score_at_once(plain, memory, inputs)
        worst = max(worst, _largest_gap(exact, whole))
        if number < 2:
            worst = max(worst, _largest_gap(exact, _score_stepwise(plain, memory, inputs)))
        rough = _score_at_once(small, small.encode(source), inputs)
        rows = range(len(targets))
        lost = whole.max(-1) - whole[rows, rough.argmax(-1)]
        same, alike = same + int((lost == 0).sum()), alike + int((lost <= NEAR_TIE_NATS).sum())
        moved += float((rough[rows, targets] - whole[rows, targets]).sum())
        loss -= float(whole[rows, targets].sum())
        tokens += len(targets)
    return summarise(len(examples))


def _largest_gap(a: LogProbabilities, b: LogProbabilities) -> float:
    """Largest difference; infinite when a value is NaN, which a plain maximum could miss."""
    gap = float(np.abs(np.log(np.exp(a) + RARE_PROBABILITY) - np.log(np.exp(b) + RARE_PROBABILITY)).max())
    return gap if np.isfinite(gap) else float("inf")


def score_with_torch(
    model: "PreTrainedModel", source: Sequence[int], inputs: Sequence[int]
) -> LogProbabilities:
    """Log-probabilities (T, V) of what follows each of T tokens of a message, the start being the first."""
    ids, tokens = torch.tensor([list(source)]), torch.tensor([list(inputs)])
    with torch.inference_mode(), _use_one_thread():
        if architectures.is_causal(model.config.model_type):
            output = model(input_ids=torch.cat([ids, tokens], 1), logits_to_keep=len(inputs))
        else:
            output = model(input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=tokens)
        return compute_floored_log(torch.softmax(output.logits[0].float(), dim=-1).numpy())


@contextmanager
def _use_one_thread() -> Iterator[None]:
    """One source is small work: on a busy machine torch's threads would mostly wait for each other."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _score_at_once(network: MessageNetwork, memory: EncodedSource, inputs: Sequence[int]) -> LogProbabilities:
    tokens = np.array([inputs], dtype=np.int64)
    return compute_floored_log(network.run_decoder(memory, tokens, network.make_empty_past(1))[0][0])


def _score_stepwise(
    network: MessageNetwork, memory: EncodedSource, inputs: Sequence[int]
) -> LogProbabilities:
    past, rows = network.make_empty_past(1), []
    for token in inputs:
        found, past = network.run_decoder(memory, np.array([[token]], dtype=np.int64), past)
        rows.append(compute_floored_log(found[0, 0]))
    return np.stack(rows)
