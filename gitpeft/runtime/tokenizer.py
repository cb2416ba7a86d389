"""Text to token ids and back, with a Hugging Face tokenizer file.

A section mark of the rendered source is a special token where the tokenizer has one, otherwise it is spelt.
"""

from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gitpeft.diff.model_input import PROMPT_ENDING as PROMPT_ENDING
from gitpeft.diff.model_input import PROMPT_LAYOUT, RendererTokenizer
from gitpeft.diff.render import SECTION_MARKS, TokenBudget, render_change

if TYPE_CHECKING:
    from tokenizers import Tokenizer

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
    """A rendered source between the ids that an architecture expects before and after it.

    The source is cut so that the result has at most `total` ids.
    """
    before, after = around
    return [*before, *ids[: total - len(before) - len(after)], *after]


def render_source(
    change: str, exemplars: Sequence[str], previous: str, budget: TokenBudget, codec: RendererTokenizer
) -> list[int]:
    """What a model reads of a change (see `diff.render.render_change`), without the id that starts a message.

    A prompt ends with that id, which a causal language model gets as its first token instead.
    """
    found = render_change(change, exemplars, previous, budget, codec)
    return found[:-1] if budget.is_prompt else found


class TokenCodec:
    """A tokenizer in the form that the renderer needs (`diff.model_input.RendererTokenizer`).

    `marks` maps each section mark to its ids, `end` is the id of the end token, and `len` the size of the
    vocabulary. StopIteration when the tokenizer has no end token.
    """

    def __init__(self, tokenizer: "Tokenizer") -> None:
        tokenizer.encode_special_tokens = True  # `</s>` in a diff is text, and so is `<file>`
        self._tokenizer = tokenizer
        self.marks = {mark: self._encode_mark(mark) for mark in SECTION_MARKS}
        self.end: int = next(
            id_ for token in (END_TOKEN, "<|endoftext|>") if (id_ := tokenizer.token_to_id(token)) is not None
        )

    @classmethod
    def load(cls, path: Path) -> "TokenCodec":
        """Read a `tokenizer.json`; the library raises a plain Exception when it cannot."""
        from tokenizers import Tokenizer

        return cls(Tokenizer.from_file(str(path)))

    @classmethod
    def from_bytes(cls, raw: bytes) -> "TokenCodec":
        """As `load`, from the content of the file."""
        from tokenizers import Tokenizer

        return cls(Tokenizer.from_buffer(raw))

    def _encode_mark(self, mark: str) -> list[int]:
        known = self._tokenizer.token_to_id(f"<{mark}>")
        if known is not None:
            return [known]
        return list(self._tokenizer.encode(_MARK_SPELLINGS.get(mark, "\n "), add_special_tokens=False).ids)

    def encode_message(self, message: str, layout: str = "marks") -> list[int]:
        """The ids of a message as a model with this layout of its input writes it, without an end."""
        return self.encode(f" {message}" if layout == PROMPT_LAYOUT else message)

    def find_message_start(self) -> int:
        """The last id of a prompt, after which a message begins."""
        return self.encode(PROMPT_ENDING)[-1]

    def find_message_end(self, layout: str = "marks") -> int:
        """The id that ends a message: behind a prompt that of a new line, else the end token."""
        return self.encode("\n")[-1] if layout == PROMPT_LAYOUT else self.end

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """The ids of each text, without special tokens; `<mark>` or `</s>` in a text is encoded as text."""
        return [
            encoding.ids
            for encoding in self._tokenizer.encode_batch_fast(list(texts), add_special_tokens=False)
        ]

    def encode(self, text: str) -> list[int]:
        """As `encode_many`, for one text."""
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def decode(self, ids: Sequence[int]) -> str:
        """The text of these ids, without special tokens and without white space at its ends."""
        return str(self._tokenizer.decode(list(ids), skip_special_tokens=True)).strip()

    def __len__(self) -> int:
        return int(self._tokenizer.get_vocab_size())
