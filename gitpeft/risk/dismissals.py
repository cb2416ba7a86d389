"""Risk warnings that somebody looked at and dismissed: the records, and the two files that keep them.

`dismissed.toml` in the state folder is one's own, `.gitpeft-dismissed.toml` at the top of the work tree is
for all who share the repository. Both are TOML tables with plain values, each typed and bounded, since the
second one comes from other people: nothing in it names a command. An entry that is invalid is left out with
a sentence, and the others count.
"""

import json
import re
import stat
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, date, datetime, time, timedelta
from pathlib import Path

from gitpeft.diff.patch import normalize_line, quote_path, unquote_path
from gitpeft.errors import UNWRITABLE_HINT, GitpeftError
from gitpeft.files import hold_lock, replace_file
from gitpeft.git.repository import Repository
from gitpeft.lazy import field, field_names, lazy_dataclass
from gitpeft.terminal import format_as_line, replace_unprintable

SHARED_FILE = ".gitpeft-dismissed.toml"
OWN_FILE = "dismissed.toml"
DEFAULT_DAYS, MAX_DAYS = 180, 365
MAX_FILE_BYTES = 64 << 10
MAX_WHY_LENGTH = 300

_DAY = 86400
_CLOCK_TOLERANCE = _DAY
_MAX_ENTRIES = 1000
_MAX_NAME_LENGTH = 4096
_HEADER = (
    "# Risk warnings that were looked at and dismissed: see `gitpeft risk dismiss --help`. Each ends on the\n"
    "# day `until`, or with the first bug fix there after the dismissed change.\n"
)
_TABLE_START = re.compile(r"^[ \t]*\[\[[ \t]*dismissed[ \t]*\]\]", re.MULTILINE)


@lazy_dataclass(frozen=True, slots=True)
class Dismissal:
    """One dismissed file, or one function in it by its heading ("" for the whole file).

    `path` is as the history stores it; `since` and `until` are Unix seconds, the last one the end of a day
    (UTC). `staged`: the change in question was staged then, not committed. `shared` entries are from the
    committed file.
    """

    path: str
    function: str
    why: str
    since: int
    until: int
    staged: bool = False
    shared: bool = False

    @property
    def target(self) -> tuple[str, str]:
        """What is dismissed: the path and the function's heading."""
        return self.path, self.function

    @property
    def name(self) -> str:
        """What is dismissed, for people."""
        return name_target(self.target)

    @property
    def last_day(self) -> str:
        """The last day, as an ISO date."""
        return format_day(self.until)

    def as_dict(self) -> dict[str, object]:
        """The entry as a JSON object."""
        return {
            "path": quote_path(self.path),
            "function": self.function,
            "why": self.why,
            "since": _format_moment(self.since),
            "until": self.last_day,
            "staged": self.staged,
            "shared": self.shared,
        }


@lazy_dataclass(frozen=True, slots=True)
class DismissalFile:
    """The entries of a file, and one sentence for each that is left out."""

    entries: tuple[Dismissal, ...] = ()
    problems: tuple[str, ...] = field(default=())


def name_target(target: tuple[str, str]) -> str:
    """A path, and a function in it, for people."""
    path, function = target
    return quote_path(path) + (f", in “{function[:60]}”" if function else "")


def find_last_moment(now: int, days: int) -> int:
    """The end of the day (UTC) that is so many days after `now`, in Unix seconds."""
    return _end_of_day(datetime.fromtimestamp(now, UTC).date() + timedelta(days=days))


# --- reading ------------------------------------------------------------------------------------------------


def load_dismissals(repository: Repository, now: int) -> DismissalFile:
    """All dismissals, one's own first. Nothing in either file raises an error."""
    files = [
        _load_file(lambda: _read_regular_file(locate_own_file(repository)), OWN_FILE, now, shared=False),
        _load_file(lambda: _read_shared_file(repository), SHARED_FILE, now, shared=True),
    ]
    return DismissalFile(
        tuple(one for file in files for one in file.entries),
        tuple(problem for file in files for problem in file.problems),
    )


def locate_own_file(repository: Repository) -> Path:
    """One's own dismissals, shared by the worktrees of a repository."""
    return repository.state_dir / OWN_FILE


def _load_file(read: Callable[[], bytes | None], name: str, now: int, *, shared: bool) -> DismissalFile:
    try:
        content = read()
        return DismissalFile() if content is None else parse_dismissals(content, name, now, shared=shared)
    except ValueError as error:
        return DismissalFile(problems=(f"{name} is ignored: {error}",))
    except (OSError, GitpeftError) as error:
        said = error.strerror if isinstance(error, OSError) else str(error)
        return DismissalFile(problems=(f"{name} cannot be read: {said}",))


def _read_regular_file(path: Path) -> bytes | None:
    """The content; None where there is none. ValueError for what is too large or no regular file."""
    try:
        state = path.lstat()
    except (FileNotFoundError, NotADirectoryError):
        return None
    if not stat.S_ISREG(state.st_mode):
        raise ValueError("it is not a regular file")
    if state.st_size > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES >> 10} KB")
    return path.read_bytes()


def _read_shared_file(repository: Repository) -> bytes | None:
    """The committed file in the work tree; where that lacks it (a sparse checkout), in the index."""
    if repository.work_tree is not None:
        content = _read_regular_file(Path(repository.work_tree) / SHARED_FILE)
        if content is not None:
            return content
    blob = repository.find_indexed_file(SHARED_FILE)
    if not blob:
        return None
    if int(repository.run("cat-file", "-s", blob)) > MAX_FILE_BYTES:
        raise ValueError(f"it is larger than {MAX_FILE_BYTES >> 10} KB")
    return repository.run("cat-file", "blob", blob)


def parse_dismissals(content: bytes, name: str, now: int, *, shared: bool) -> DismissalFile:
    """The entries of a file called `name`. ValueError, in words, where it is no such file as a whole."""
    tables = _parse_tables(content)
    entries: list[Dismissal] = []
    problems: list[str] = []
    for number, table in enumerate(tables[:_MAX_ENTRIES], 1):
        try:
            entries.append(_parse_entry(table, now, shared))
        except ValueError as error:
            problems.append(f"{name}: entry {number} is ignored: {error}{_quote_target(table)}")
    if len(tables) > _MAX_ENTRIES:
        problems.append(f"{name}: only the first {_MAX_ENTRIES} entries count")
    return DismissalFile(tuple(entries), tuple(problems))


def _quote_target(table: object) -> str:
    """The path and the function that an invalid entry names, as far as they are texts."""
    named = [table.get(key) for key in ("path", "function")] if isinstance(table, dict) else []
    shown = ", ".join(format_as_line(one, 100) for one in named if isinstance(one, str) and one.strip())
    return f" ({shown})" if shown else ""


def _parse_tables(content: bytes) -> list[object]:
    import tomllib

    try:
        data = tomllib.loads(content.decode("utf-8"))
    except UnicodeDecodeError:
        raise ValueError("it is not UTF-8") from None
    except (tomllib.TOMLDecodeError, RecursionError, OverflowError) as error:
        reason = format_as_line(str(error), 120)
        raise ValueError(f"it is not valid TOML ({reason})") from None
    tables = data.get("dismissed", [])
    if not isinstance(tables, list):
        raise ValueError("`dismissed` is not a list of tables; each entry begins with [[dismissed]]")
    if unknown := sorted(set(data) - {"dismissed"}):
        raise ValueError(
            f"unknown name {replace_unprintable(unknown[0][:40])!r}; only [[dismissed]] is known"
        )
    return tables


def _parse_entry(table: object, now: int, shared: bool) -> Dismissal:
    if not isinstance(table, dict):
        raise ValueError("it is not a table")
    if unknown := sorted(set(table) - (set(field_names(Dismissal)) - {"shared"})):
        raise ValueError(f"unknown name {replace_unprintable(unknown[0][:40])!r}")
    path = unquote_path(_parse_text(table, "path", _MAX_NAME_LENGTH))
    function = _parse_text(table, "function", _MAX_NAME_LENGTH) if "function" in table else ""
    since = _parse_moment(table.get("since"))
    if since > now + _CLOCK_TOLERANCE:
        raise ValueError("`since` lies in the future")
    until = _parse_day(table.get("until")) if "until" in table else since + DEFAULT_DAYS * _DAY
    if until > since + (MAX_DAYS + 1) * _DAY:
        raise ValueError(f"`until` is more than {MAX_DAYS} days after `since`")
    why = _parse_text(table, "why", MAX_WHY_LENGTH)
    staged = table.get("staged", False)
    if not isinstance(staged, bool):
        raise ValueError("`staged` has to be true or false")
    return Dismissal(path, normalize_line(function), why, since, until, staged, shared)


def _parse_text(table: Mapping[str, object], key: str, limit: int) -> str:
    value = table.get(key)
    if not isinstance(value, str) or not value.strip() or len(value) > limit:
        raise ValueError(f"`{key}` has to be a text of 1 to {limit:,} characters")
    return " ".join(replace_unprintable(value).split()) if key == "why" else value


def _parse_moment(value: object) -> int:
    """A date with or without a time (UTC where it names no zone), in Unix seconds.

    Without a time it is the end of the day, so that what was committed on that day comes before it.
    """
    if isinstance(value, datetime):
        return int((value if value.tzinfo else value.replace(tzinfo=UTC)).timestamp())
    if isinstance(value, date):
        return _end_of_day(value)
    raise ValueError("`since` has to be a date, as in 2026-11-28 (without quotation marks)")


def _parse_day(value: object) -> int:
    if isinstance(value, date):
        return _end_of_day(value.date() if isinstance(value, datetime) else value)
    raise ValueError("`until` has to be a date, as in 2027-05-27 (without quotation marks)")


def _end_of_day(day: date) -> int:
    return int(datetime.combine(day, time(), UTC).timestamp()) + _DAY - 1


def _format_moment(moment: int) -> str:
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%dT%H:%M:%SZ")


def format_day(moment: int) -> str:
    """The day (UTC) of a moment in Unix seconds, as an ISO date."""
    return datetime.fromtimestamp(moment, UTC).strftime("%Y-%m-%d")


# --- writing ------------------------------------------------------------------------------------------------


def format_dismissal(one: Dismissal) -> str:
    """An entry as TOML."""
    rows = {"path": _quote(quote_path(one.path)), "function": _quote(one.function) if one.function else ""}
    rows |= {"why": _quote(one.why), "since": _format_moment(one.since), "until": one.last_day}
    rows |= {"staged": "true" if one.staged else ""}
    return "[[dismissed]]\n" + "".join(f"{key} = {text}\n" for key, text in rows.items() if text)


def _quote(text: str) -> str:
    """A basic string of TOML: that of JSON, which lets one control character through."""
    return json.dumps(text, ensure_ascii=False).replace("\x7f", "\\u007f")


def change_own_dismissals(
    repository: Repository, now: int, add: Sequence[Dismissal], remove: Sequence[Dismissal]
) -> Path:
    """Add entries to one's own file, after others were removed; the file.

    Raises GitpeftError where the file is invalid or cannot be written.
    """
    path = locate_own_file(repository)
    _rewrite_file(repository, path, now, add, remove, shared=False)
    return path


def change_shared_dismissals(
    repository: Repository, now: int, add: Sequence[Dismissal], remove: Sequence[Dismissal]
) -> Path:
    """The same for the file in the work tree that is to be committed."""
    if repository.work_tree is None:
        raise GitpeftError("a bare repository has no work tree for a shared file", "leave out --share")
    path = Path(repository.work_tree) / SHARED_FILE
    _rewrite_file(repository, path, now, add, remove, shared=True)
    return path


def _rewrite_file(
    repository: Repository,
    path: Path,
    now: int,
    add: Sequence[Dismissal],
    remove: Sequence[Dismissal],
    *,
    shared: bool,
) -> None:
    """Replace a file by one with other entries; two processes that do so wait for each other."""
    try:
        repository.state_dir.mkdir(parents=True, exist_ok=True)
        with hold_lock(repository.state_dir / f"{OWN_FILE}.lock"):
            replace_file(path, _edit_file(path, now, add, remove, shared))
    except OSError as error:
        raise GitpeftError(
            f"cannot write {error.filename or path}: {error.strerror}", UNWRITABLE_HINT
        ) from None


def _edit_file(
    path: Path, now: int, add: Sequence[Dismissal], remove: Sequence[Dismissal], shared: bool
) -> bytes:
    """The new content of a file of dismissals."""
    try:
        text = (_read_regular_file(path) or b"").decode("utf-8")
        parse_dismissals(text.encode(), path.name, now, shared=shared)
    except ValueError as error:
        raise GitpeftError(f"{path.name} cannot be changed: {error}", f"correct {path} first") from None
    kept = _remove_entries(text or _HEADER, remove, path, now, shared)
    content = "".join([kept, *("\n" + format_dismissal(one) for one in add)]).encode()
    if len(content) > MAX_FILE_BYTES:
        raise GitpeftError(
            f"{path} would be larger than {MAX_FILE_BYTES >> 10} KB", "remove entries that have ended"
        )
    return content


def _remove_entries(text: str, remove: Sequence[Dismissal], path: Path, now: int, shared: bool) -> str:
    """The text without the blocks of some entries; comments, the order and all else stay as they are."""
    starts = [found.start() for found in _TABLE_START.finditer(text)]
    ends = [*starts[1:], len(text)][: len(starts)]
    kept = [text[: starts[0]] if starts else text]
    removed = set()
    for start, end in zip(starts, ends, strict=True):
        block = text[start:end]
        found = _parse_block(block, path.name, now, shared)
        if found is not None and found in remove:
            removed.add(found)
        else:
            kept.append(block)
    if left := [one for one in remove if one not in removed]:
        raise GitpeftError(
            f"the entry for {left[0].name} in {path.name} is not written in a way that gitpeft can change",
            f"edit {path} yourself",
        )
    rest = "".join(kept).rstrip("\n")
    return rest + "\n" if rest else ""


def _parse_block(block: str, name: str, now: int, shared: bool) -> Dismissal | None:
    try:
        entries = parse_dismissals(block.encode(), name, now, shared=shared).entries
    except ValueError:
        return None
    return entries[0] if len(entries) == 1 else None
