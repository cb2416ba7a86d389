"""Models of a few thousand weights, a tokenizer and bundles of them: what the runtime is tested on."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from gitpeft.runtime.tokenizer import SPECIAL_TOKENS

TEXTS = (
    "fix typo in readme", "add test for parser", "remove unused import", "parser: handle empty input",
    "docs: describe the cache", "cache: drop stale entries", "update changelog for 1.2.3",
    "src/parser.py +3 -1",
    "def parse(text): return tokens", "return cache.get(key)", "tests/test_parser.py +12 -0", "import os",
)  # fmt: skip


Pair = tuple[Sequence[int], Sequence[int]]
"""Source and message, in token ids."""


def write_tokenizer(folder: Path, size: int = 400) -> Path:
    """A byte-level BPE of about `size` tokens, with the section marks, as `folder`/tokenizer.json."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    alphabet = pre_tokenizers.ByteLevel.alphabet()
    trainer = trainers.BpeTrainer(
        vocab_size=size, special_tokens=list(SPECIAL_TOKENS), initial_alphabet=alphabet, show_progress=False
    )
    tokenizer.train_from_iterator(TEXTS * 2, trainer)
    path = folder / "tokenizer.json"
    tokenizer.save(str(path))
    return path


_SHAPE = {
    "vocab_size": 400, "d_model": 32, "d_kv": 8, "d_ff": 64, "num_layers": 2, "num_decoder_layers": 2,
    "num_heads": 4,
    "decoder_start_token_id": 0, "pad_token_id": 0, "eos_token_id": 1,
}  # fmt: skip


def pointer_t5(seed: int = 0, **changes: Any) -> Any:
    """A random PointerT5."""
    from gitpeft.learn.models.pointer_t5 import PointerT5Config, PointerT5ForConditionalGeneration

    config = PointerT5Config(**{**_SHAPE, "special_tokens": len(SPECIAL_TOKENS), **changes})
    return _seeded(seed, lambda: PointerT5ForConditionalGeneration(config))


def plain_t5(seed: int = 0, **changes: Any) -> Any:
    """A random T5 without the pointer head."""
    from transformers import T5Config, T5ForConditionalGeneration

    return _seeded(seed, lambda: T5ForConditionalGeneration(T5Config(**{**_SHAPE, **changes})))


def untied_t5(seed: int = 0, **changes: Any) -> Any:
    """A random T5 of version 1.1: its output is a table of its own, and not scaled."""
    import torch

    model = plain_t5(seed, tie_word_embeddings=False, **changes)
    model.lm_head.weight = torch.nn.Parameter(model.lm_head.weight.detach().flip(0).clone())
    return model


def bart(seed: int = 0) -> Any:
    """A random BART."""
    from transformers import BartConfig, BartForConditionalGeneration

    config = BartConfig(
        vocab_size=400, d_model=32, encoder_layers=1, decoder_layers=1, encoder_attention_heads=4,
        decoder_attention_heads=4, encoder_ffn_dim=64, decoder_ffn_dim=64, max_position_embeddings=128,
    )  # fmt: skip
    return _seeded(seed, lambda: BartForConditionalGeneration(config))


def roberta(seed: int = 0) -> Any:
    """A random RoBERTa that names one of two classes."""
    from transformers import RobertaConfig, RobertaForSequenceClassification

    config = RobertaConfig(
        vocab_size=400, hidden_size=32, num_hidden_layers=2, num_attention_heads=4, intermediate_size=64,
        max_position_embeddings=128,
    )  # fmt: skip
    return _seeded(seed, lambda: RobertaForSequenceClassification(config))


def causal(kind: str = "llama", seed: int = 0, **changes: Any) -> Any:
    """A random causal language model of a type."""
    from transformers import AutoConfig, AutoModelForCausalLM

    shape: dict[str, Any] = {
        "vocab_size": 400, "hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2,
        "num_attention_heads": 4, "num_key_value_heads": 2, "head_dim": 8, "max_position_embeddings": 1024,
        "tie_word_embeddings": True, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 1,
        "use_cache": False,
    }  # fmt: skip
    shape |= {"sliding_window": None} if kind == "mistral" else {}  # as its later versions have it
    config = AutoConfig.for_model(kind, **{**shape, **changes})
    return _seeded(seed, lambda: AutoModelForCausalLM.from_config(config))


def _seeded(seed: int, build: Callable[[], Any]) -> Any:
    """A model in evaluation mode whose weights are small enough for its output to be far from certain."""
    import torch

    torch.set_num_threads(1)  # two threads on one tiny product only wait for each other
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model = build()
        with torch.no_grad():
            for name, weight in model.named_parameters():
                if weight.dim() > 1 and "relative" not in name:
                    torch.nn.init.normal_(weight, std=0.2)
        return model.eval()


def taught(model: Any, examples: Sequence[Pair], steps: int = 60, seed: int = 0) -> Any:
    """The model after it has learnt these messages by heart, nearly: it ends what it begins."""
    import torch

    width, height = max(len(s) for s, _ in examples), max(len(m) for _, m in examples) + 1
    source = torch.tensor([[*s, *[0] * (width - len(s))] for s, _ in examples])
    labels = torch.tensor([[*m, 1, *[-100] * (height - len(m) - 1)] for _, m in examples])
    optimizer = torch.optim.Adam(model.parameters(), lr=0.01)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        model.train()
        for _ in range(steps):
            optimizer.zero_grad()
            model(input_ids=source, attention_mask=(source > 0).long(), labels=labels).loss.backward()
            optimizer.step()
    return model.eval()


def pairs(count: int, seed: int = 0, size: int = 400) -> list[Pair]:
    """Random sources of 5..40 tokens and messages of 1..12."""
    import random

    dice = random.Random(seed)
    low = len(SPECIAL_TOKENS)

    def some(least: int, most: int) -> list[int]:
        return [dice.randrange(low, size) for _ in range(dice.randint(least, most))]

    return [(some(5, 40), some(1, 12)) for _ in range(count)]


CHANGES = (
    " src/parser.py +3 -1\n#src/parser.py\n@def parse(text):\n- return text\n+ return tokens",
    " src/cache.py +9 -2\n#src/cache.py\n@class Cache\n+ def drop(self): self.stale_entries.clear()",
    "Atests/test_parser.py +12 -0\n#tests/test_parser.py\n+def test_empty(): assert parse('') == []",
    " README.md +1 -1\n#README.md\n-teh parser\n+the parser",
)
SUBJECTS = ("parser: return tokens", "cache: drop stale entries", "add test for parser", "fix typo in readme")
SHAS = tuple(f"{number:040x}" for number in range(1, 5))


def fill(folder: Path, model: Any = None, chooser: dict[str, Any] | None = None) -> dict[str, Any]:
    """Put a bundle's files into `folder`; returns the manifest's `settings`. No model: retrieval only."""
    import json

    from gitpeft.learn.export.parity import MessageParityBounds, export_model
    from gitpeft.suggest.retrieval import CommitIndex

    (folder / "index").mkdir()
    CommitIndex.build(CHANGES, SUBJECTS, SHAS, with_notes=True).save(folder / "index")
    (folder / "style.json").write_text(json.dumps({"subject_length": 200}))
    if chooser is not None:
        (folder / "chooser.json").write_text(json.dumps(chooser))
    if model is None:
        return {}
    write_tokenizer(folder)
    loose = MessageParityBounds(agreement=0.3, nats=1.0, drop=9.0)
    return export_model(model, folder / "tokenizer.json", folder, pairs(3), loose).settings


def bundle(state_dir: Path, model: Any = None, chooser: dict[str, Any] | None = None, **manifest: Any) -> str:
    """Write a bundle and make it the active one; returns its id."""
    from gitpeft.bundle import bundle as bundles

    kind = "retrieval" if model is None else "model"
    with bundles.staging_folder(state_dir) as folder:
        settings = fill(folder, model, chooser)
        given = {"kind": kind, "created": "2024-01-01T00:00:00Z", "settings": settings, **manifest}
        id_ = bundles.write_bundle(folder, bundles.Manifest(**given))
    bundles.activate_bundle(state_dir, id_)
    return id_
