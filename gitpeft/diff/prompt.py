"""The prompt of a causal language model: a change as text within a token budget.

    Similar commits:            subjects of the nearest earlier commits
    - Fix parsing of dates
    Previous commit: Add tests  the author's last subject
    Facts: only docs; adds …    the output of `extract_facts`
    file src/dates.py +1 -1     a file and its counts, then its lines:
    ~ return [-x-]{+int(x)+}    ~ one line that became another, - removed, + added
    @ def parse                 where it is, and the line before, where room remains
    Also: a.txt, b.txt          files whose lines have no room
    Commit message:

Every file that is shown gets its share of the room; inside a file, changed lines come before what is around
them, and each hunk gets its turn.
"""

from collections.abc import Callable, Sequence

from gitpeft.diff.compact import divide_fairly
from gitpeft.diff.definitions import COMMENT_LINE, IMPORT_LINE
from gitpeft.diff.edits import iterate_runs, split_change
from gitpeft.diff.model_input import PROMPT_ENDING, PROMPT_LAYOUT, RenderedPiece, TokenBudget
from gitpeft.diff.patch import FileChange, Hunk, normalize_line
from gitpeft.diff.path_kinds import rank_file
from gitpeft.diff.stored import MAX_FACTS_LENGTH, ChangeContent
from gitpeft.diff.subjects import strip_issue_numbers
from gitpeft.lazy import lazy_dataclass

PROMPT_BUDGET = TokenBudget(
    total=512, exemplars=3, exemplar_tokens=24, previous_tokens=20, file_tokens=40, layout=PROMPT_LAYOUT
)
"""The budget in which the commit adapter of models/smol is trained."""

Encode = Callable[[Sequence[str]], list[list[int]]]
"""Token ids of each text."""

_MAX_LINE_LENGTH = 160
_MAX_LINE_TOKENS = 56
_MAX_LINES_READ = 90
_LINES_PER_TURN = 3
_MAX_FILES_NAMED = 12
_TOKENS_PER_FILE = 80
_FIRST, _COMMENT, _HEADING, _BEFORE, _IMPORT = -1, 50, 100, 200, 300
"""How urgent a line is, beside its place in the hunk: 0 for a changed line, more for what can be missed."""


@lazy_dataclass(frozen=True, slots=True)
class _Line:
    """A line that may be shown: how urgent it is (0 first), its text, and where it comes from."""

    urgency: int
    text: str
    origin: str = ""


def render_prompt(
    content: ChangeContent, exemplars: Sequence[str], previous: str, encode: Encode, budget: TokenBudget
) -> list[RenderedPiece]:
    """The prompt in pieces, at most `budget.total` tokens; it ends with `PROMPT_ENDING`.

    `exemplars` are subjects of similar earlier changes, nearest first, `previous` the author's last subject
    ("" if there is none).
    """
    context = encode_context(exemplars, previous, encode, budget)
    facts, newline, end = encode([f"Facts: {content.facts[:MAX_FACTS_LENGTH]}", "\n", PROMPT_ENDING])
    head = context + (facts[: budget.facts_tokens] + newline if content.facts else [])
    ordered = sorted(content.files, key=rank_file)
    shown = [change for change in ordered if change.hunks][: max(2, budget.total // _TOKENS_PER_FILE)]
    rest = [change for change in ordered if change not in shown]
    also = _encode_file_list(rest, content.unlisted, encode, budget)
    left = budget.total - len(head) - len(end) - len(also)
    pieces = [
        RenderedPiece(head),
        *_encode_blocks(shown, encode, left),
        RenderedPiece(also),
        RenderedPiece(end),
    ]
    return [piece for piece in pieces if piece.ids]


def encode_context(exemplars: Sequence[str], previous: str, encode: Encode, budget: TokenBudget) -> list[int]:
    """What stands before anything of the change: earlier subjects."""
    subjects = [normalize_line(strip_issue_numbers(subject)) for subject in exemplars[: budget.exemplars]]
    previous = normalize_line(strip_issue_numbers(previous))
    title, newline, before, *encoded = encode(
        [
            "Similar commits:\n",
            "\n",
            f"Previous commit: {previous}",
            *(f"- {subject}" for subject in subjects),
        ]
    )
    found = list(title) if subjects else []
    for subject in encoded:
        found += subject[: budget.exemplar_tokens] + newline
    return found + (before[: budget.previous_tokens] + newline if previous else [])


def _encode_file_list(
    files: Sequence[FileChange], unlisted: int, encode: Encode, budget: TokenBudget
) -> list[int]:
    """The line of the files that are not shown."""
    if not files:
        return []
    names = ", ".join(map(_format_title, files[:_MAX_FILES_NAMED]))
    others = max(0, len(files) - _MAX_FILES_NAMED) + unlisted
    line, newline = encode([f"Also: {names}" + (f" and {others} more" if others else ""), "\n"])
    return line[: budget.file_tokens] + newline


def _format_title(change: FileChange) -> str:
    what = {"A": "new file ", "D": "deleted file ", "R": "renamed file "}.get(change.status, "file ")
    origin = f"{change.old_path} -> " if change.status == "R" else ""
    counts = "".join(f" {sign}{n}" for sign, n in (("+", change.added), ("-", change.removed)) if n)
    note = f" ({change.kind})" if change.kind not in ("text", "generated") else ""
    return f"{what}{origin}{change.path}{counts}{note}"[-2 * _MAX_LINE_LENGTH :]


# --- the lines of the files -------------------------------------------------------------------------------


def _encode_blocks(files: Sequence[FileChange], encode: Encode, room: int) -> list[RenderedPiece]:
    """The title and the most urgent lines of each file, in their order."""
    blocks = [[_Line(_FIRST, _format_title(change)), *_list_lines(change)] for change in files]
    encoded = iter(encode([line.text + "\n" for block in blocks for line in block]))
    tokens = [[_truncate_line(next(encoded)) for _ in block] for block in blocks]
    given = divide_fairly([sum(map(len, block)) for block in tokens], max(0, room))
    return [
        RenderedPiece(ids[place], change.path, block[place].origin)
        for change, block, ids, most in zip(files, blocks, tokens, given, strict=True)
        for place in _select_lines(block, ids, most)
    ]


def _truncate_line(ids: list[int]) -> list[int]:
    return ids if len(ids) <= _MAX_LINE_TOKENS else [*ids[: _MAX_LINE_TOKENS - 1], ids[-1]]


def _select_lines(block: Sequence[_Line], tokens: Sequence[list[int]], most: int) -> list[int]:
    """The places of the most urgent lines that fit into `most` tokens, in order."""
    kept = []
    for place in sorted(range(len(block)), key=lambda i: block[i].urgency):
        if len(tokens[place]) <= most:
            kept.append(place)
            most -= len(tokens[place])
    return sorted(kept)


def _list_lines(change: FileChange) -> list[_Line]:
    """All lines of a file that may be shown."""
    found: list[_Line] = []
    heading = ""
    for hunk in change.hunks:
        if hunk.heading and hunk.heading != heading:
            heading = hunk.heading
            folded = normalize_line(heading)
            found.append(_Line(_HEADING, f"@ {folded}", f"@{folded}"))
        found += _list_changed_lines(hunk)
        if len(found) > _MAX_LINES_READ:
            break
    return found


def _list_changed_lines(hunk: Hunk) -> list[_Line]:
    found: list[_Line] = []
    place = 0
    for before, run in iterate_runs(hunk.lines[:_MAX_LINES_READ]):
        if before.strip():
            folded = normalize_line(before)
            found.append(_Line(_BEFORE, f"  {folded}", f" {folded}"))
        for old, new in run:
            if line := _format_line(old, new, place // _LINES_PER_TURN):
                found.append(line)
                place += 1
    return found


def _format_line(old: str | None, new: str | None, turn: int) -> _Line | None:
    """A removed line, an added one, or one that became another; None where there is nothing to read."""
    if old is not None and new is not None:
        folded = normalize_line(new)
        start, was, became, end = split_change(normalize_line(old), folded)
        if not was and not became:
            return None
        changed = (f"[-{was}-]" if was else "") + (f"{{+{became}+}}" if became else "")
        return _Line(turn, f"~ {start}{changed}{end}", f"+{folded}")
    line = normalize_line(old or new or "")
    if not any(map(str.isalnum, line)):
        return None
    sign = "+" if old is None else "-"
    urgency = _IMPORT if IMPORT_LINE.match(line) else _COMMENT if COMMENT_LINE.match(line) else 0
    return _Line(urgency + turn, f"{sign} {line}", f"{sign}{line}")
