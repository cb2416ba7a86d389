"""A tiny Llama as a GGUF file, written field by field, and what its blocks stand for, number by number."""

import struct
import zipfile
from pathlib import Path
from typing import Any

import numpy as np
from tokenizers.pre_tokenizers import ByteLevel

LAYERS, WIDTH, HEADS, KEY_HEADS, INNER = 2, 64, 4, 2, 96
TOKENS = ["<|endoftext|>", "<|im_start|>", "<|im_end|>", *sorted(ByteLevel.alphabet()), "Ġt", "he", "Ġthe"]
MERGES = ["Ġ t", "h e", "Ġt he"]
Sizes = dict[str, tuple[int, ...]]


def sizes() -> Sizes:
    """The tensors of the model, with the shapes that torch has for them."""
    keys = KEY_HEADS * WIDTH // HEADS
    found: Sizes = {"token_embd.weight": (len(TOKENS), WIDTH), "output_norm.weight": (WIDTH,)}
    for i in range(LAYERS):
        found |= {
            f"blk.{i}.attn_{part}.weight": (n, WIDTH) for part, n in (("q", WIDTH), ("k", keys), ("v", keys))
        }
        found |= {f"blk.{i}.attn_output.weight": (WIDTH, WIDTH), f"blk.{i}.ffn_down.weight": (WIDTH, INNER)}
        found |= {f"blk.{i}.ffn_{part}.weight": (INNER, WIDTH) for part in ("gate", "up")}
        found |= {f"blk.{i}.{part}_norm.weight": (WIDTH,) for part in ("attn", "ffn")}
    return found


def write(path: Path, **changes: Any) -> dict[str, list[list[float]]]:
    """Write the file; returns the matrices by name, as rows of numbers."""
    rng = np.random.default_rng(1)
    entries, data, told = b"", b"", {}
    for name, shape in sizes().items():
        if len(shape) == 1:
            kind, raw = 0, (1 + rng.normal(size=shape) / 10).astype("<f4").tobytes()
        else:
            kind = 8 if name.startswith("token") else 3
            raw, told[name] = _blocks(rng, shape, kind)
        entries += _text(name) + struct.pack(f"<I{len(shape)}QIQ", len(shape), *shape[::-1], kind, len(data))
        data += raw + b"\0" * (-len(raw) % 32)
    settings = _settings() | changes
    head = b"GGUF" + struct.pack("<IQQ", 3, len(sizes()), len(settings))
    head += b"".join(_text(name) + _value(value) for name, value in settings.items()) + entries
    path.write_bytes(head + b"\0" * (-len(head) % 32) + data)
    return told


def wheel(path: Path) -> Path:
    """A wheel that holds such a file."""
    write(path.with_suffix(".gguf"))
    with zipfile.ZipFile(path, "w") as archive:
        archive.write(path.with_suffix(".gguf"), "tiny/model.gguf")
    return path


def _settings() -> dict[str, Any]:
    return {
        "general.architecture": "llama",
        "llama.block_count": LAYERS,
        "llama.context_length": 128,
        "llama.embedding_length": WIDTH,
        "llama.feed_forward_length": INNER,
        "llama.attention.head_count": HEADS,
        "llama.attention.head_count_kv": KEY_HEADS,
        "llama.rope.freq_base": 1000.0,
        "llama.attention.layer_norm_rms_epsilon": 1e-5,
        "tokenizer.ggml.model": "gpt2",
        "tokenizer.ggml.pre": "smollm",
        "tokenizer.ggml.tokens": TOKENS,
        "tokenizer.ggml.merges": MERGES,
        "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (len(TOKENS) - 3),
        "tokenizer.ggml.bos_token_id": 1,
        "tokenizer.ggml.eos_token_id": 2,
        "tokenizer.ggml.padding_token_id": 2,
    }


def _blocks(rng: np.random.Generator, shape: tuple[int, ...], kind: int) -> tuple[bytes, list[list[float]]]:
    """Random blocks of a matrix, as bytes, and the numbers that they stand for."""
    raw, rows = b"", []
    for _ in range(shape[0]):
        row: list[float] = []
        for _ in range(shape[1] // 32):
            scale, least = np.float16(rng.uniform(0.005, 0.02)), np.float16(rng.uniform(-0.2, -0.05))
            if kind == 8:
                levels = rng.integers(-127, 128, 32)
                raw += struct.pack("<e32b", scale, *levels.tolist())
                row += [float(scale) * int(level) for level in levels]
            else:
                levels = rng.integers(0, 16, 32)
                pairs = [int(levels[i]) | int(levels[16 + i]) << 4 for i in range(16)]
                raw += struct.pack("<ee16B", scale, least, *pairs)
                row += [float(scale) * int(level) + float(least) for level in levels]
        rows.append(row)
    return raw, rows


def _text(text: str) -> bytes:
    return struct.pack("<Q", len(text.encode())) + text.encode()


def _value(value: Any) -> bytes:
    """A setting with its kind before it."""
    if isinstance(value, str):
        return struct.pack("<I", 8) + _text(value)
    if isinstance(value, float):
        return struct.pack("<If", 6, value)
    if isinstance(value, int):
        return struct.pack("<II", 4, value)
    parts = [_value(one) for one in value]
    return (
        struct.pack("<I", 9) + parts[0][:4] + struct.pack("<Q", len(parts)) + b"".join(p[4:] for p in parts)
    )
