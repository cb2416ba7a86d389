"""What the two renderings of a change have in common: the budget, the tokenizer they need, and the pieces."""

from collections.abc import Sequence
from typing import Protocol

from gitpeft.lazy import lazy_dataclass

PROMPT_LAYOUT = "prompt"
"""The form in which causal language models read a change."""

PROMPT_ENDING = "Commit message:"
"""The last line of a prompt."""


@lazy_dataclass(frozen=True, slots=True)
class TokenBudget:
    """The most tokens that each part of a model's input may take; what the others leave goes to the diff.

    `layout` is the form of the input: "marks" (section marks) or "prompt" (text, for causal language models).
    `file_tokens` are for the lines that name files; in a prompt, for the one line of the files whose changes
    are not shown. `facts_tokens` are for the facts, which only a prompt has.
    """

    total: int = 192
    exemplars: int = 3
    exemplar_tokens: int = 18
    previous_tokens: int = 16
    file_tokens: int = 48
    layout: str = "marks"
    facts_tokens: int = 96

    @property
    def is_prompt(self) -> bool:
        """Whether it is the budget of a prompt."""
        return self.layout == PROMPT_LAYOUT


class RendererTokenizer(Protocol):
    """The tokenizer that the renderer needs: ids of many texts at once, and the ids of each section mark."""

    marks: dict[str, list[int]]

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        """Encode each text, without special tokens."""
        ...


@lazy_dataclass(frozen=True, slots=True)
class RenderedPiece:
    """A part of a model's input: its token ids, and the file and line of the change that they encode.

    `path` is "" for messages, `line` is "" for anything but a line of a hunk.
    """

    ids: list[int]
    path: str = ""
    line: str = ""
