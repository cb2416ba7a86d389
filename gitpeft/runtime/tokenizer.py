"""Text to token ids and back: hides the tokenizer file and how section marks are spelt in it."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gitpeft.diff.render import SECTION_MARKS

PAD_TOKEN, END_TOKEN, UNKNOWN_TOKEN = "<pad>", "</s>", "<unk>"
SPECIAL_TOKENS = (PAD_TOKEN, END_TOKEN, UNKNOWN_TOKEN, *(f"<{mark}>" for mark in SECTION_MARKS))
"""Special tokens of the embedded tokenizer, in the order of their ids."""

_MARK_SPELLINGS = {
    "like": "\n* ",
    "previous": "\n< ",
    "file": "\n# ",
    "hunk": "\n@ ",
    "add": "\n+",
    "delete": "\n-",
}


def wrap_source(ids: Sequence[int], around: tuple[Sequence[int], Sequence[int]], total: int) -> list[int]:
    """A rendered source between the ids that an architecture expects around it, `total` ids at most."""
    before, after = around
    return [*before, *ids[: total - len(before) - len(after)], *after]


class TokenCodec:
    """A `tokenizers` file as the renderer's `Codec`. Marks that it does not know are spelt as text."""

    def __init__(self, tokenizer: Any) -> None:
        tokenizer.encode_special_tokens = True  # `</s>` in a diff is text, and so is `<file>`
        self._tokenizer = tokenizer
        self.marks = {mark: self._encode_mark(mark) for mark in SECTION_MARKS}
        self.end: int = next(
            i for t in (END_TOKEN, "<|endoftext|>") if (i := tokenizer.token_to_id(t)) is not None
        )

    @classmethod
    def load(cls, path: Path) -> "TokenCodec":
        """Read a `tokenizer.json`."""
        from tokenizers import Tokenizer

        return cls(Tokenizer.from_file(str(path)))

    @classmethod
    def from_bytes(cls, raw: bytes) -> "TokenCodec":
        """The same from the content of the file."""
        from tokenizers import Tokenizer

        return cls(Tokenizer.from_buffer(raw))

    def _encode_mark(self, mark: str) -> list[int]:
        known = self._tokenizer.token_to_id(f"<{mark}>")
        if known is not None:
            return [known]
        return list(self._tokenizer.encode(_MARK_SPELLINGS.get(mark, "\n "), add_special_tokens=False).ids)

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Ids of each text, without special tokens."""
        return [e.ids for e in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)]

    def encode(self, text: str) -> list[int]:
        """Ids of one text, without special tokens."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of ids; special tokens are left out."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())
