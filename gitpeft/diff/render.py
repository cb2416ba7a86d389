"""The rendering of a change as the input of a model: token ids within a budget.

Training and the hook use the same renderer. See `diff.patch` for the other forms of a change.
"""

from collections.abc import Iterable, Sequence

from gitpeft.diff.compact import divide_fairly, split_compact
from gitpeft.diff.model_input import RenderedPiece as RenderedPiece
from gitpeft.diff.model_input import RendererTokenizer as RendererTokenizer
from gitpeft.diff.model_input import TokenBudget as TokenBudget
from gitpeft.diff.stored import read_stored_change, shorten_change
from gitpeft.diff.subjects import clean_subject
from gitpeft.lazy import lazy_pattern

_WORD_CHARACTER = lazy_pattern(r"\w")


SECTION_MARKS = ("like", "previous", "file", "hunk", "add", "delete", "keep")
"""Section marks, in the order of their ids in the embedded tokenizer; `like` starts an exemplar."""

_MARK_BY_SIGN = {"@": "hunk", "+": "add", "-": "delete", " ": "keep"}
_MAX_CODE_TOKENS = 32
_MAX_HEADING_TOKENS = 12
_MAX_PATH_TOKENS = 20
_MIN_BLOCK_TOKENS = 16


def render_change(
    change: str, exemplars: Sequence[str], previous: str, budget: TokenBudget, tokenizer: RendererTokenizer
) -> list[int]:
    """Token ids of a model's input: exemplars, the author's previous subject, the files, then the diff.

    `change` is a text of `store_change` or of `compact_change`, `exemplars` are subjects of similar earlier
    changes, nearest first. The layout "prompt" is described in `diff.prompt`; a prompt comes whole, its
    ending included. With section marks every listed file gets its line as long as `file_tokens` lasts; the
    rest of `budget.total` is divided fairly between the files whose hunks are shown.
    """
    return [i for piece in render_pieces(change, exemplars, previous, budget, tokenizer) for i in piece.ids]


def render_pieces(
    change: str, exemplars: Sequence[str], previous: str, budget: TokenBudget, tokenizer: RendererTokenizer
) -> list[RenderedPiece]:
    """The same as `render_change`, part by part."""
    if budget.is_prompt:
        from gitpeft.diff.prompt import render_prompt  # here, because it costs the hook of other models time

        return render_prompt(read_stored_change(change), exemplars, previous, tokenizer.encode_many, budget)
    files, blocks = split_compact(shorten_change(change))
    exemplars = list(exemplars[: budget.exemplars])
    previous = clean_subject(previous)
    texts = [*exemplars, previous, *(name for name, _ in files)]
    texts += [line[1:] for block in blocks.values() for line in block]
    encoded = iter(tokenizer.encode_many(texts))
    found = [
        RenderedPiece(tokenizer.marks["like"] + next(encoded)[: budget.exemplar_tokens]) for _ in exemplars
    ]
    before = next(encoded)[: budget.previous_tokens]
    found += [RenderedPiece(tokenizer.marks["previous"] + before)] if previous else []
    names = _encode_file_lines(files, encoded, budget.file_tokens, tokenizer)
    room = budget.total - sum(len(one.ids) for one in found) - sum(len(name) for name in names.values())
    parts = {path: _render_block(path, block, encoded, tokenizer) for path, block in blocks.items()}
    return _truncate_pieces([*found, *_interleave_files(names, parts, room)], budget.total)


def _truncate_pieces(found: Iterable[RenderedPiece], room: int) -> list[RenderedPiece]:
    """The first pieces, of at most `room` tokens together; the last one is cut where needed."""
    kept = []
    for piece in found:
        if room > 0:
            kept.append(
                piece if len(piece.ids) <= room else RenderedPiece(piece.ids[:room], piece.path, piece.line)
            )
        room -= len(piece.ids)
    return kept


def _encode_file_lines(
    files: Sequence[tuple[str, str]], encoded: Iterable[list[int]], room: int, tokenizer: RendererTokenizer
) -> dict[str, list[int]]:
    names: dict[str, list[int]] = {}
    for (_, path), ids in zip(files, encoded, strict=False):
        name = tokenizer.marks["file"] + ids[-_MAX_PATH_TOKENS:]
        room -= len(name)
        if room >= 0 or not names:
            names[path] = name
    return names


def _render_block(
    path: str, block: Sequence[str], encoded: Iterable[list[int]], tokenizer: RendererTokenizer
) -> list[RenderedPiece]:
    lines = []
    for line, ids in zip(block, encoded, strict=False):
        if _WORD_CHARACTER.search(line):
            mark = _MARK_BY_SIGN.get(line[:1], "keep")
            shown = ids[: _MAX_HEADING_TOKENS if mark == "hunk" else _MAX_CODE_TOKENS]
            lines.append(RenderedPiece(tokenizer.marks[mark] + shown, path, line))
    return lines


def _interleave_files(
    names: dict[str, list[int]], parts: dict[str, list[RenderedPiece]], room: int
) -> list[RenderedPiece]:
    """Each file's line, followed by the file's share of the diff."""
    shown = [path for path in parts if path in names][: max(1, room // _MIN_BLOCK_TOKENS)]
    wanted = [sum(len(piece.ids) for piece in parts[path]) for path in shown]
    given = dict(zip(shown, divide_fairly(wanted, max(room, 0)), strict=True))
    found: list[RenderedPiece] = []
    for path, name in names.items():
        found.append(RenderedPiece(name, path))
        found += _truncate_pieces(parts.get(path, ()), given.get(path, 0))
    return found
