"""Path patterns as in `.gitignore`, matched as git matches them: on the bytes of a path, a byte at a time.

Git could be asked (`git check-ignore`), but it would also read the ignore files of the work tree, and a hook
has no time for another process. Each pattern becomes one regular expression without exponential backtracking:
what is between two wildcards is matched at the first place where it fits (an atomic group), which is enough
because every other part of it has a fixed length.
"""

import re
from collections.abc import Iterator, Sequence

from gitpeft.lazy import lazy_dataclass, lazy_pattern
from gitpeft.terminal import encode_exactly

_WILDCARDS = frozenset(b"*?[\\")
_CLASSES = {
    b"alnum": b"0-9A-Za-z",
    b"alpha": b"A-Za-z",
    b"blank": b" \t",
    b"cntrl": b"\0-\x1f\x7f",
    b"digit": b"0-9",
    b"graph": b"!-~",
    b"lower": b"a-z",
    b"print": b" -~",
    b"punct": b"!-/:-@\\[-`{-~",
    b"space": b" \t-\r",
    b"upper": b"A-Z",
    b"xdigit": b"0-9A-Fa-f",
}
"""POSIX character classes as git understands them (ASCII alone), written for a regular expression."""


@lazy_dataclass(frozen=True, slots=True)
class IgnorePattern:
    """One pattern. `regex` is matched against the whole path, or with `by_name` against its last part.

    `negated` patterns (`!x`) take back what an earlier one excluded; `only_folders` ones end in a slash.
    """

    text: str
    regex: re.Pattern[bytes]
    negated: bool
    only_folders: bool
    by_name: bool

    def matches(self, path: bytes, is_folder: bool) -> bool:
        """Whether it decides about this path."""
        if self.only_folders and not is_folder:
            return False
        subject = path.rpartition(b"/")[2] if self.by_name else path
        return self.regex.fullmatch(subject) is not None


class PathExclusion:
    """The paths that a list of patterns excludes; the last pattern that matches decides, as in `.gitignore`.

    Where a folder is excluded, so is everything in it, and no later pattern can take that back. `ignore_case`
    is git's setting `core.ignoreCase`.
    """

    def __init__(self, patterns: Sequence[str], ignore_case: bool = False) -> None:
        parsed = [parse_ignore_pattern(text, ignore_case) for text in patterns]
        self.patterns = [one for one in parsed if one is not None]
        self._folders: dict[bytes, bool] = {}

    def excludes(self, path: str, *, is_folder: bool = False) -> bool:
        """Whether a path (from the top of the repository, as `decode_exactly` returns it) is excluded.

        A submodule counts as a folder.
        """
        if not self.patterns:
            return False
        name = encode_exactly(path)
        return self._is_in_excluded_folder(name) or self._decide(name, is_folder)

    def _is_in_excluded_folder(self, name: bytes) -> bool:
        excluded = False
        for folder in reversed([*_list_folders(name)]):  # from the top, as git descends
            if folder not in self._folders:
                self._folders[folder] = excluded or self._decide(folder, True)
            excluded = self._folders[folder]
        return excluded

    def _decide(self, name: bytes, is_folder: bool) -> bool:
        for pattern in reversed(self.patterns):
            if pattern.matches(name, is_folder):
                return not pattern.negated
        return False


def find_idle_patterns(patterns: Sequence[str], paths: Sequence[str], ignore_case: bool = False) -> list[str]:
    """The patterns that match none of the paths, nor any folder on the way to one."""
    names = [encode_exactly(path) for path in paths]
    known = {folder: True for name in names for folder in _list_folders(name)}
    known |= dict.fromkeys(names, False)
    parsed = [(text, parse_ignore_pattern(text, ignore_case)) for text in patterns]
    return [
        text
        for text, one in parsed
        if one is None or not any(one.matches(name, is_folder) for name, is_folder in known.items())
    ]


def _list_folders(name: bytes) -> Iterator[bytes]:
    """The folders in which a path lies, the innermost first."""
    while name := name.rpartition(b"/")[0]:
        yield name


def parse_ignore_pattern(text: str, ignore_case: bool = False) -> IgnorePattern | None:
    """Parse a line of a `.gitignore`; None for a comment, an empty line and a malformed pattern."""
    pattern = _trim_trailing_spaces(encode_exactly(text).removesuffix(b"\r"))
    if not pattern or pattern.startswith(b"#"):
        return None
    negated = pattern.startswith(b"!")
    pattern = pattern[negated:]
    only_folders = pattern.endswith(b"/")
    pattern = pattern[: len(pattern) - only_folders]
    by_name = b"/" not in pattern
    try:
        regex = _translate_pattern(pattern.removeprefix(b"/"), by_name)
    except _NeverMatches:
        return None
    flags = re.DOTALL | (re.IGNORECASE if ignore_case else 0)
    return IgnorePattern(text, re.compile(regex, flags), negated, only_folders, by_name)


class _NeverMatches(Exception):
    """A pattern that is not well formed: git matches it with nothing."""


def _trim_trailing_spaces(line: bytes) -> bytes:
    """The line without the spaces at its end, except what a backslash protects."""
    kept = line.rstrip(b" ")
    backslashes = len(kept) - len(kept.rstrip(b"\\"))
    return line[: len(kept) + 1] if backslashes % 2 and kept != line else kept


def _translate_pattern(pattern: bytes, by_name: bool) -> bytes:
    """A regular expression for the whole of a path, or of its last part.

    What stands before the first wildcard is compared by itself, as in git: `a**/b` is `a` and then `**/b`.
    """
    plain = next((at for at, byte in enumerate(pattern) if byte in _WILDCARDS), len(pattern))
    regex, at = re.escape(pattern[:plain]), plain
    chunk = _Chunk()
    while at < len(pattern):
        stars = len(pattern) - at - len(pattern[at:].lstrip(b"*"))
        if stars:
            starts = at == plain or pattern[at - 1 : at] == b"/"
            at += stars
            rest = pattern[at:]
            if stars > 1 and not by_name and starts and (not rest or rest.startswith((b"/", b"\\/"))):
                regex += chunk.close(last=False)
                if not rest:
                    return regex + b".*"
                chunk = _Chunk(after=b"(?:.*?/)??" if rest.startswith(b"/") else b".*?/")
                at += 1 if rest.startswith(b"/") else 2
            else:
                chunk.add_star()
            continue
        item, at = _translate_item(pattern, at)
        chunk.add_item(item)
    return regex + chunk.close(last=True)


class _Chunk:
    """The regular expression of what stands between two `**`, built item by item.

    `after` is what the `**` before it may match. A `*` and the items up to the next one are matched where
    they first fit, and so is a whole chunk; only what must reach an end may go further.
    """

    def __init__(self, after: bytes = b"") -> None:
        self.after = after
        self.done = b""
        self.piece = b""
        self.starred = False

    def add_item(self, item: bytes) -> None:
        """Add what matches one byte."""
        if item == b"/":
            self._end_piece(last=True)
            self.done += item
        else:
            self.piece += item

    def add_star(self) -> None:
        """Add a `*`, which matches any bytes but a slash."""
        self._end_piece(last=False)
        self.starred = True

    def close(self, *, last: bool) -> bytes:
        """The expression; `last` says that it reaches the end of the path."""
        self._end_piece(last=last)
        whole = self.after + self.done
        return whole if last or not self.after else b"(?>" + whole + b")"

    def _end_piece(self, *, last: bool) -> None:
        if self.starred:
            self.done += b"[^/]*" + self.piece if last else b"(?>[^/]*?" + self.piece + b")"
        else:
            self.done += self.piece
        self.piece, self.starred = b"", False


def _translate_item(pattern: bytes, at: int) -> tuple[bytes, int]:
    """What matches one byte, for the item at `at`, and where the next item begins."""
    one = pattern[at : at + 1]
    if one == b"?":
        return b"[^/]", at + 1
    if one == b"[":
        return _translate_class(pattern, at + 1)
    if one == b"\\":
        at += 1
        one = pattern[at : at + 1]
        if not one:
            raise _NeverMatches
    return (one if one == b"/" else re.escape(one)), at + 1


def _translate_class(pattern: bytes, at: int) -> tuple[bytes, int]:
    """The same for a bracket expression, whose first byte after the bracket is at `at`."""
    negated = pattern[at : at + 1] in (b"!", b"^")
    at += negated
    members, first, start = b"", True, None
    while first or pattern[at : at + 1] != b"]":
        first = False
        named = _NAMED_CLASS.match(pattern, at)
        if named:
            if named[1] not in _CLASSES:
                raise _NeverMatches
            members, start, at = members + _CLASSES[named[1]], None, named.end()
            continue
        if start is not None and pattern[at : at + 1] == b"-" and pattern[at + 1 : at + 2] not in (b"", b"]"):
            low, (high, at) = start, _read_member(pattern, at + 1)
            members += re.escape(low) + b"-" + re.escape(high) if low <= high else b""
            start = None
        else:
            start, at = _read_member(pattern, at)
            members += re.escape(start)
    excluded = b"[^" + members + b"/]" if negated else b"(?!/)[" + members + b"]"
    return (excluded if members or negated else b"(?!)"), at + 1


_NAMED_CLASS = lazy_pattern(rb"\[:([^\]]*):\]")


def _read_member(pattern: bytes, at: int) -> tuple[bytes, int]:
    at += pattern[at : at + 1] == b"\\"
    if at >= len(pattern):
        raise _NeverMatches
    return pattern[at : at + 1], at + 1
