"""What `gitpeft risk dismiss` is told to dismiss: a tracked file, or a function as evidence names it.

The history has only hashes of the headings of functions, so a name is looked up among the lines of the
tracked files: a line whose hash the history knows in that file is the heading of a function.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from difflib import get_close_matches

from gitpeft.diff.patch import normalize_line, parse_patch, quote_path
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.context import StoredContext, hash_function_heading
from gitpeft.history.paths import mask_path
from gitpeft.history.store import is_history_read, open_context_at_head
from gitpeft.redaction import mask_secrets
from gitpeft.risk.change_metrics import is_code_file
from gitpeft.terminal import decode_exactly, replace_unprintable

MAX_STAGED_FILES = 20
_MAX_LISTED = 5
_MAX_SEARCHED_BYTES = 16 << 20
_MAX_HEADING_LENGTH = 80
"""Git cuts the headings of hunks there (in bytes)."""

Target = tuple[str, str]
"""A path as the history stores it, and the heading of a function in it, "" for the whole file."""


def read_staged_files(repository: Repository) -> list[str]:
    """The paths that the staged change names."""
    return [file.path for file in parse_patch(repository.read_staged_patch())]


def choose_staged_targets(staged: Sequence[str]) -> list[Target]:
    """The code files among the paths of the staged change, or all of them where none is code."""
    if not staged:
        raise GitpeftError(
            "nothing is staged", "name a file or a function: gitpeft risk dismiss PATH --why TEXT"
        )
    paths = list(filter(is_code_file, staged)) or staged
    if len(paths) > MAX_STAGED_FILES:
        raise GitpeftError(
            f"the staged change has {len(paths)} files, too many to dismiss at once",
            "name the file or function",
        )
    return [(mask_path(path), "") for path in paths]


def resolve_target(repository: Repository, text: str) -> Target:
    """What `text` means: a tracked file (a path as git takes it), `PATH:FUNCTION`, or a function.

    Raises GitpeftError where it is none of them, a folder, or several functions.
    """
    if not text.strip():
        raise GitpeftError("there is no name to dismiss", "name a file or a function")
    path = find_tracked_path(repository, text)
    if path is not None:
        return mask_path(path), ""
    where, _, function = text.partition(":")
    within = find_tracked_path(repository, where) if function.strip() and where.strip() else None
    if within is not None:
        return _find_function(repository, function, within)
    if (repository.cwd / text).is_dir():
        raise GitpeftError(f"{_show(text)} is a folder", "dismiss one of its files, or a function")
    if (repository.cwd / text).exists():
        raise GitpeftError(f"{_show(text)} is not tracked by git", "git add it first, or name another file")
    try:
        return _find_function(repository, text)
    except GitpeftError:
        _reject_commit(repository, text)
        raise


def _reject_commit(repository: Repository, text: str) -> None:
    """GitpeftError where `text` means a commit."""
    try:
        sha = repository.resolve_commit(text)
    except GitpeftError:
        return
    output = repository.run("diff-tree", "-r", "-z", "--root", "--no-commit-id", "--name-only", sha)
    names = [quote_path(decode_exactly(name)) for name in output.split(b"\0") if name]
    shown = ", ".join(names[:_MAX_LISTED]) + (", …" if len(names) > _MAX_LISTED else "")
    raise GitpeftError(
        f"{_show(text)} is a commit; what is dismissed is a file or a function",
        f"name one that it changes: {shown}" if names else "name a file or a function",
    )


def find_tracked_path(repository: Repository, text: str) -> str | None:
    """The path, from the top, of the file in the index or in HEAD that git knows by this name; else None."""
    if (repository.cwd / text).is_dir() and not (repository.cwd / text).is_symlink():
        return None
    for command in (
        ("ls-files", "-z", "--full-name"),
        ("ls-tree", "-z", "--full-name", "--name-only", "HEAD"),
    ):
        literal = (f":(literal){text}",) if command[0] == "ls-files" else (text,)
        try:
            output = repository.run(*command, "--", *literal)
        except GitpeftError:  # outside the repository, or no commit yet
            continue
        names = [name for name in output.split(b"\0") if name]
        if len(names) == 1:
            return decode_exactly(names[0])
    return None


# --- functions ----------------------------------------------------------------------------------------------


def _find_function(repository: Repository, text: str, path: str | None = None) -> Target:
    """The function that is called so, in the file or in any."""
    wanted = normalize_line(text)
    known = set(_list_functions(repository, wanted, path))
    found = _choose_best(wanted, known)
    if len(found) > 1:
        shown = [f"  {quote_path(where)}:{heading}" for where, heading in found[:_MAX_LISTED]]
        more = [f"  and {len(found) - _MAX_LISTED} more"] if len(found) > _MAX_LISTED else []
        raise GitpeftError(
            f"{len(found)} functions{_of(path)} are called {_show(text)}",
            "\n".join(["name one of them:", *shown, *more]),
        )
    if not found:
        kinds = f"no changed function{_of(path)}" if path else "no tracked file and no changed function"
        raise GitpeftError(f"{kinds} is called {_show(text)}", _hint(repository, text))
    where, heading = found[0]
    if mask_secrets(heading) != heading:
        raise GitpeftError(
            f"the heading {_show(text)}{_of(where)} holds what looks like a secret, and is not stored",
            f"dismiss the whole file {quote_path(where)}",
        )
    return where, heading


def _choose_best(wanted: str, known: Iterable[Target]) -> list[Target]:
    """Functions by the closest kind of match: the heading, its beginning, the name in it."""
    word = re.escape(wanted)
    kinds = (
        lambda heading: heading == wanted,
        lambda heading: len(wanted) > 1 and heading.startswith(wanted),
        lambda heading: re.search(rf"(?<!\w){word}\s*(?:[(:={{<]|$)", heading),
    )
    for kind in kinds:
        if found := sorted(target for target in known if kind(target[1])):
            return found
    return []


def _list_functions(repository: Repository, wanted: str, path: str | None) -> Iterator[Target]:
    """Functions of the staged change and of the history whose heading has the longest word of `wanted`."""
    for file in parse_patch(repository.read_staged_patch()):
        if path in (None, file.path):
            yield from ((mask_path(file.path), heading) for heading in file.functions)
    with open_context_at_head(repository) as context:
        if context is None:
            return
        for where, lines in _search_lines(repository, wanted, path).items():
            yield from _select_headings(context, mask_path(where), lines)


def _select_headings(context: StoredContext, path: str, lines: set[str]) -> Iterator[Target]:
    earlier = context.load_earlier_changes(path) if lines else []
    hashes = frozenset(key for change in earlier for key in change.functions)
    for line in lines:
        if hash_function_heading(line) in hashes:
            yield path, line


def _search_lines(repository: Repository, wanted: str, path: str | None) -> Mapping[str, set[str]]:
    """Lines of the tracked files with a word, as git would print them in a hunk's heading, by path."""
    word = max(wanted.split(), key=len, default=wanted)
    places = [f":(top,literal){path}"] if path is not None else []
    command = ("grep", "--cached", "--full-name", "-z", "-I", "-F", "-e", word, "--", *places)
    output = repository.run_limited(_MAX_SEARCHED_BYTES, *command)
    found: dict[str, set[str]] = {}
    for row in output.split(b"\n"):
        name, mark, line = row.partition(b"\0")
        if mark:
            heading = line[:_MAX_HEADING_LENGTH].decode("utf-8", "replace")
            found.setdefault(decode_exactly(name), set()).add(normalize_line(heading))
    return found


def _hint(repository: Repository, text: str) -> str:
    """Files of similar names; or what is missing."""
    names: dict[str, list[str]] = {}
    for path in repository.list_tracked_files():
        names.setdefault(path.rpartition("/")[2], []).append(quote_path(path))
    near = get_close_matches(text.rpartition("/")[2], names, 1, 0.75)
    if near:
        return f"did you mean {' or '.join(names[near[0]][:_MAX_LISTED])}?"
    if not is_history_read(repository.state_dir):
        return "functions are known once the history is read: gitpeft mine"
    return "name a file, or a function as the evidence of `gitpeft risk` prints it"


def _of(path: str | None) -> str:
    return f" of {quote_path(path)}" if path else ""


def _show(text: str) -> str:
    return repr(replace_unprintable(text))[:100]
