"""Formats a change as the prompt of a causal language model within a token budget.

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
from gitpeft.diff.patch import FileChange, Hunk, normalize_line
from gitpeft.lazy import lazy_dataclass
from tests.bench.smol.edits import iterate_runs, split_change
from tests.bench.smol.facts import COMMENT_LINE, IMPORT_LINE, classify_path, extract_facts

LAYOUT = 1
"""Version of this layout: a model asked in another one than it has learnt answers worse."""

Encode = Callable[[Sequence[str]], list[list[int]]]
"""Token ids of each text."""

_LAST_LINE = "Commit message:"
_MAX_LINE_LENGTH = 160
_MAX_LINE_TOKENS = 56
_MAX_LINES_READ = 90
_LINES_PER_TURN = 3


@lazy_dataclass(frozen=True, slots=True)
class PromptBudget:
    """How many tokens a prompt and its parts may take; what one part leaves, the change gets."""

    total: int = 512
    like: int = 3
    like_tokens: int = 24
    previous_tokens: int = 20
    facts_tokens: int = 96
    also_tokens: int = 40

    @property
    def files(self) -> int:
        """So many files are shown with their lines."""
        return max(2, self.total // 80)


@lazy_dataclass(frozen=True, slots=True)
class _Line:
    """A line that may be shown: how urgent it is (0 first), and its text."""

    urgency: int
    text: str


def render_prompt(
    files: Sequence[FileChange],
    like: Sequence[str],
    previous: str,
    encode: Encode,
    room: PromptBudget,
) -> list[int]:
    """The prompt as token ids, at most `room.total`."""
    head = _encode_head(files, like, previous, encode, room)
    end = encode([_LAST_LINE])[0]
    ordered = sorted(files, key=_file_priority)
    shown = [change for change in ordered if change.hunks][: room.files]
    also = _encode_file_list([change for change in ordered if change not in shown], encode, room)
    left = room.total - len(head) - len(end) - len(also)
    return [*head, *_encode_blocks(shown, encode, left), *also, *end]


def _file_priority(change: FileChange) -> tuple[int, int]:
    """Code first, then tests, then the rest; the larger change first."""
    rank = 3 if change.kind != "text" else {"": 0, "tests": 1}.get(classify_path(change.path), 2)
    return rank, -(change.added + change.removed)


def _encode_head(
    files: Sequence[FileChange],
    like: Sequence[str],
    previous: str,
    encode: Encode,
    room: PromptBudget,
) -> list[int]:
    said = "; ".join(extract_facts(files))
    subjects = [f"- {normalize_line(subject)}" for subject in like[: room.like]]
    ids = encode(
        [
            "Similar commits:\n",
            *subjects,
            "\n",
            f"Previous commit: {normalize_line(previous)}",
            f"Facts: {said[:800]}",
        ]
    )
    newline = ids[len(subjects) + 1]
    found: list[int] = []
    if subjects:
        found += ids[0]
        for subject in ids[1 : 1 + len(subjects)]:
            found += subject[: room.like_tokens] + newline
    if previous:
        found += ids[-2][: room.previous_tokens] + newline
    return found + (ids[-1][: room.facts_tokens] + newline if said else [])


def _encode_file_list(files: Sequence[FileChange], encode: Encode, room: PromptBudget) -> list[int]:
    """The line of the files that are not shown."""
    if not files:
        return []
    names = ", ".join(_format_title(change) for change in files[:12])
    more = f" and {len(files) - 12} more" if len(files) > 12 else ""
    line, newline = encode([f"Also: {names}{more}", "\n"])
    return line[: room.also_tokens] + newline


def _format_title(change: FileChange) -> str:
    what = {"A": "new file ", "D": "deleted file ", "R": "renamed file "}.get(change.status, "file ")
    origin = f"{change.old_path} -> " if change.status == "R" else ""
    counts = "".join(f" {sign}{n}" for sign, n in (("+", change.added), ("-", change.removed)) if n)
    note = f" ({change.kind})" if change.kind not in ("text", "generated") else ""
    return f"{what}{origin}{change.path}{counts}{note}"[-2 * _MAX_LINE_LENGTH :]


def _encode_blocks(files: Sequence[FileChange], encode: Encode, left: int) -> list[int]:
    lines = [[_Line(-1, _format_title(change)), *_list_lines(change)] for change in files]
    encoded = iter(encode([line.text + "\n" for block in lines for line in block]))
    blocks = [[(line.urgency, _truncate_line(next(encoded))) for line in block] for block in lines]
    wanted = [sum(len(ids) for _, ids in block) for block in blocks]
    given = divide_fairly(wanted, max(0, left))
    return [i for block, most in zip(blocks, given, strict=True) for i in _select_lines(block, most)]


def _truncate_line(ids: list[int]) -> list[int]:
    return ids if len(ids) <= _MAX_LINE_TOKENS else [*ids[: _MAX_LINE_TOKENS - 1], ids[-1]]


def _select_lines(block: Sequence[tuple[int, list[int]]], most: int) -> list[int]:
    """The most urgent lines that fit, in their order."""
    kept = set()
    for place in sorted(range(len(block)), key=lambda i: block[i][0]):
        if len(block[place][1]) <= most:
            kept.add(place)
            most -= len(block[place][1])
    return [i for place, (_, ids) in enumerate(block) if place in kept for i in ids]


def _list_lines(change: FileChange) -> list[_Line]:
    found: list[_Line] = []
    heading = ""
    for hunk in change.hunks:
        if hunk.heading and hunk.heading != heading:
            heading = hunk.heading
            found.append(_Line(100, f"@ {normalize_line(heading)}"))
        found += _list_changed_lines(hunk)
        if len(found) > _MAX_LINES_READ:
            break
    return found


def _list_changed_lines(hunk: Hunk) -> list[_Line]:
    found: list[_Line] = []
    place = 0
    for before, run in iterate_runs(hunk.lines[:_MAX_LINES_READ]):
        if before.strip():
            found.append(_Line(200, f"  {normalize_line(before)}"))
        for old, new in run:
            text, urgency = _format_line(old, new)
            if text:
                found.append(_Line(urgency + place // _LINES_PER_TURN, text))
                place += 1
    return found


def _format_line(old: str | None, new: str | None) -> tuple[str, int]:
    """A changed line as text ("" for an empty one), and how urgent it is, its place in the hunk aside."""
    if old is not None and new is not None:
        start, was, became, end = split_change(normalize_line(old), normalize_line(new))
        if not was and not became:
            return "", 0
        return "~ " + start + (f"[-{was}-]" if was else "") + (f"{{+{became}+}}" if became else "") + end, 0
    line = normalize_line(old or new or "")
    sign = "+" if old is None else "-"
    if not any(map(str.isalnum, line)):
        return "", 0
    return f"{sign} {line}", 300 if IMPORT_LINE.match(line) else 50 if COMMENT_LINE.match(line) else 0
