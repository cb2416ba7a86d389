"""Exports a trained model to files that run without torch, through a gate that checks their parity.

The gate compares three forms of one model on held-out examples: torch, ONNX in float32, ONNX in int8. The
first two must agree to the last digits, the last two in what they choose and in how likely they find the
real message.
"""

import json
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray

from gitpeft.bundle.bundle import DECODER_FILE, ENCODER_FILE, TOKENIZER_FILE
from gitpeft.errors import GitpeftError
from gitpeft.learn.export import bart, t5
from gitpeft.learn.models import architectures
from gitpeft.runtime.beam_search import GenerationTokens, compute_floored_log
from gitpeft.runtime.onnx_model import EncodedSource, EncoderDecoder

if TYPE_CHECKING:
    from transformers import PreTrainedModel

LogProbabilities = NDArray[np.float64]
"""(tokens, vocabulary)."""


class GraphWriter(Protocol):
    """A module that writes the two ONNX graphs of an architecture; int8 with `quantise`, else float32."""

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
"""The module that writes the graphs, by model type."""

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
        return f"int8 loss change: {share} (loss {self.loss:.3f} on {self.examples} messages; bound {bound})"

    def list_failures(self) -> list[str]:
        """A sentence for each bound that does not hold, with the bound in it."""
        found = []
        if not self.exact <= self.bounds.exact:
            found.append(f"torch and ONNX differ by {self.exact:.2g} (bound {self.bounds.exact:g})")
        if not self.agreement >= self.bounds.agreement:
            found.append(f"int8 agrees on {self.agreement:.1%} of tokens (bound {self.bounds.agreement:.0%})")
        if not abs(self.nats) <= self.bounds.nats:
            found.append(
                f"int8 moves a message by {self.nats:+.3f} nats a token (bound {self.bounds.nats:g})"
            )
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
) -> ExportResult:
    """Write encoder.onnx, decoder.onnx and tokenizer.json into `out_dir`, once the gate has let them through.

    `model` is an encoder-decoder of `GRAPH_WRITERS`, LoRA merged, on the CPU; `examples` are some dozens of
    held-out ones, their sources with the ids of `wrapping` before and after what the hook renders. Raises
    GitpeftError, and writes nothing, when a bound does not hold or the model is of another type.
    """
    start = time.perf_counter()
    if not examples:
        raise GitpeftError("no held-out example to check the export with", "mine more history")
    model.eval()
    settings = make_decoding_settings(model, tokenizer_json)
    settings |= {name: list(ids) for name, ids in zip(("before", "after"), wrapping, strict=True) if ids}
    plain, small = build_graphs(model, quantise=False), build_graphs(model, quantise=True)
    words = GenerationTokens.from_settings(settings)
    parity = measure_parity(
        model, _make_network(plain), _make_network(small), examples, words, bounds or MessageParityBounds()
    )
    if failures := parity.list_failures():
        raise GitpeftError(
            f"the exported model is not the trained one: {'; '.join(failures)}", "no bundle was written"
        )
    files = {
        ENCODER_FILE: small[0],
        DECODER_FILE: small[1],
        TOKENIZER_FILE: _compact_tokenizer(tokenizer_json),
    }
    for name, raw in files.items():
        (out_dir / name).write_bytes(raw)
    sizes = {name: len(raw) for name, raw in files.items()}
    return ExportResult(parity, settings, sizes, round(time.perf_counter() - start, 2))


def _make_network(files: tuple[bytes, bytes]) -> EncoderDecoder:
    return EncoderDecoder(lambda: files[0], lambda: files[1])


def build_graphs(model: "PreTrainedModel", quantise: bool) -> tuple[bytes, bytes]:
    """The encoder's and the decoder's ONNX file."""
    kind = model.config.model_type
    if kind not in GRAPH_WRITERS:
        raise GitpeftError(
            f"models of type {kind} cannot be exported", f"known are {', '.join(sorted(GRAPH_WRITERS))}"
        )
    writer = GRAPH_WRITERS[kind]
    with torch.no_grad():
        return writer.build_encoder_graph(model, quantise), writer.build_decoder_graph(model, quantise)


def make_decoding_settings(model: "PreTrainedModel", tokenizer_json: Path) -> dict[str, Any]:
    """`start`, `end` and `banned` ids: special tokens, and what the model has and the tokenizer has not."""
    from tokenizers import Tokenizer

    tokenizer = Tokenizer.from_file(str(tokenizer_json))
    end, size = int(model.config.eos_token_id), tokenizer.get_vocab_size()
    special = {i for i, token in tokenizer.get_added_tokens_decoder().items() if token.special}
    banned = (special | set(range(size, int(model.config.vocab_size)))) - {end}
    begins_with_end = architectures.find_architecture(model.config.model_type).begins_with_end
    start = end if begins_with_end else int(model.config.decoder_start_token_id)
    return {"start": start, "end": end, "banned": sorted(banned)}


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
    plain: EncoderDecoder,
    small: EncoderDecoder,
    examples: Sequence[TokenPair],
    words: GenerationTokens,
    bounds: MessageParityBounds,
) -> MessageParity:
    """Run all three forms over the examples, teacher-forced; the first two token by token as well."""
    worst, same, alike, moved, loss, tokens = 0.0, 0, 0, 0.0, 0.0, 0
    for number, (source, message) in enumerate(examples):
        targets = [*message, words.end]
        inputs = [words.start, *message]
        exact = _score_with_torch(model, source, inputs)
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
    shares = (same / tokens, alike / tokens, moved / tokens, loss / tokens)
    return MessageParity(len(examples), tokens, worst, *shares, bounds)


def _largest_gap(a: LogProbabilities, b: LogProbabilities) -> float:
    """Largest difference; infinite when a value is NaN, which a plain maximum could miss."""
    gap = float(np.abs(np.log(np.exp(a) + RARE_PROBABILITY) - np.log(np.exp(b) + RARE_PROBABILITY)).max())
    return gap if np.isfinite(gap) else float("inf")


def _score_with_torch(
    model: "PreTrainedModel", source: Sequence[int], inputs: Sequence[int]
) -> LogProbabilities:
    ids = torch.tensor([list(source)])
    with torch.inference_mode(), _use_one_thread():
        output = model(
            input_ids=ids, attention_mask=torch.ones_like(ids), decoder_input_ids=torch.tensor([list(inputs)])
        )
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


def _score_at_once(network: EncoderDecoder, memory: EncodedSource, inputs: Sequence[int]) -> LogProbabilities:
    tokens = np.array([inputs], dtype=np.int64)
    return compute_floored_log(network.run_decoder(memory, tokens, network.make_empty_past(1))[0][0])


def _score_stepwise(
    network: EncoderDecoder, memory: EncodedSource, inputs: Sequence[int]
) -> LogProbabilities:
    past, rows = network.make_empty_past(1), []
    for token in inputs:
        found, past = network.run_decoder(memory, np.array([[token]], dtype=np.int64), past)
        rows.append(compute_floored_log(found[0, 0]))
    return np.stack(rows)
