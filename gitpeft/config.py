"""Settings: hides where they come from. `git config gitpeft.*` over a committed `.gitpeft` over defaults.

The committed file comes from other people: only the keys marked `shared` count there, each typed and bounded.
None of them can name a command, a path, an interpreter or an address.
"""

import re
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.lazy import changed, field, names, record
from gitpeft.pattern import pattern

FILE = ".gitpeft"
FILE_LIMIT = 16 << 10
LIST_LIMIT = 64
TEXT_LIMIT = 120

_TRUE = ("true", "yes", "on", "1", "")
_FALSE = ("false", "no", "off", "0")
_FORMAT = pattern(r"[^\x00-\x1f\x7f#;{}]*\{(ticket|subject)\}[^\x00-\x1f\x7f{}]*\{(ticket|subject)\}[^{}\n]*")


@record(frozen=True, slots=True)
class Config:
    """The settings of one repository. `problems` holds a sentence for each value that was not used."""

    enabled: bool = True
    alternatives: int = 2
    timeout_ms: int = 2000
    memory_mb: int = 2048
    exclude: tuple[str, ...] = ()
    subject_length: int = 0  # 0: as learnt
    least_score: int = 0  # percent
    ticket_pattern: str = ""  # "": as learnt
    ticket_format: str = ""
    fix_pattern: str = ""  # "": as learnt
    lint: bool = True
    quiet: bool = False
    stats: bool = True
    amend: bool = False
    template: bool = False
    squash: bool = False
    risk: str = "warn"
    risk_budget: int = 10  # percent of commits
    risk_comments: bool = False
    problems: tuple[str, ...] = field(default=(), compare=False)


@record(frozen=True, slots=True)
class Key:
    """One setting: the field it fills, how its text is read, whether a committed file may set it."""

    name: str
    read: Callable[[Sequence[str]], Any]
    shared: bool


def _boolean(values: Sequence[str]) -> bool:
    word = values[-1].lower()
    if word in _TRUE:
        return True
    if word in _FALSE:
        return False
    raise ValueError("expected true or false")


def _number(low: int, high: int) -> Callable[[Sequence[str]], int]:
    def read(values: Sequence[str]) -> int:
        word = values[-1]
        if not (word.isascii() and word.isdigit() and len(word) < 10 and low <= int(word) <= high):
            raise ValueError(f"expected a number from {low} to {high}")
        return int(word)

    return read


def _word(*words: str) -> Callable[[Sequence[str]], str]:
    def read(values: Sequence[str]) -> str:
        if values[-1].lower() not in words:
            raise ValueError(f"expected {', '.join(words[:-1])} or {words[-1]}")
        return values[-1].lower()

    return read


def _globs(values: Sequence[str]) -> tuple[str, ...]:
    if len(values) > LIST_LIMIT or any(not value or len(value) > TEXT_LIMIT for value in values):
        raise ValueError(f"expected at most {LIST_LIMIT} patterns of at most {TEXT_LIMIT} characters")
    return tuple(values)


def _pattern(values: Sequence[str]) -> str:
    """A regular expression of bounded length; nested repeats, which can take forever, are refused."""
    text = values[-1]
    if len(text) > TEXT_LIMIT or re.search(r"[+*}]\)?[+*{]", text):
        raise ValueError(f"expected a pattern of at most {TEXT_LIMIT} characters without nested repeats")
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"no regular expression ({type(error).__name__})") from None
    return text


def _format(values: Sequence[str]) -> str:
    match = _FORMAT.fullmatch(values[-1])
    if match is None or match[1] == match[2] or len(values[-1]) > TEXT_LIMIT:
        raise ValueError("expected {ticket} and {subject} once each, such as '{ticket}: {subject}'")
    return values[-1]


def valid(key: str, value: str) -> str:
    """A value that came with a model, held to what a committed setting may be; "" for one that is refused."""
    try:
        return str(KEYS[key].read([value])) if value else ""
    except ValueError:
        return ""


KEYS: Mapping[str, Key] = {
    "enabled": Key("enabled", _boolean, shared=True),
    "alternatives": Key("alternatives", _number(0, 9), shared=True),
    "timeoutms": Key("timeout_ms", _number(100, 30_000), shared=False),
    "memorymb": Key("memory_mb", _number(256, 65_536), shared=False),
    "exclude": Key("exclude", _globs, shared=True),
    "leastscore": Key("least_score", _number(0, 100), shared=True),
    "subjectlength": Key("subject_length", _number(20, 200), shared=True),
    "ticketpattern": Key("ticket_pattern", _pattern, shared=True),
    "ticketformat": Key("ticket_format", _format, shared=True),
    "fixpattern": Key("fix_pattern", _pattern, shared=False),  # no clock runs where all messages are read
    "lint": Key("lint", _boolean, shared=True),
    "quiet": Key("quiet", _boolean, shared=True),
    "stats": Key("stats", _boolean, shared=False),
    "amend": Key("amend", _boolean, shared=False),
    "template": Key("template", _boolean, shared=False),
    "squash": Key("squash", _boolean, shared=False),
    "risk": Key("risk", _word("off", "warn", "block"), shared=False),
    "riskbudget": Key("risk_budget", _number(1, 50), shared=True),
    "riskcomments": Key("risk_comments", _boolean, shared=False),
}
"""Every setting, by its name below `gitpeft.` as git prints it (lower case)."""


def entries(listing: bytes) -> dict[str, list[str]]:
    """The output of `git config --list -z`: each key (section and name in lower case) with all its values."""
    found: dict[str, list[str]] = {}
    for entry in listing.decode(errors="replace").split("\0"):
        if entry:
            key, _, value = entry.partition("\n")
            found.setdefault(key, []).append(value)
    return found


def load(repo: Repository, listing: Mapping[str, Sequence[str]] | None = None) -> Config:
    """The settings of a repository; values that cannot be used become `problems`, the rest counts.

    `listing` is all of git's configuration, when the caller has read it already.
    """
    own = entries(repo.run("config", "--list", "-z")) if listing is None else listing
    config = _apply(Config(), _committed(repo), FILE, shared_only=True)
    return _apply(config, own, "git config", shared_only=False)


def check(repo: Repository) -> Config:
    """The settings, for a person to hear what is wrong with them: GitpeftError on the first bad value."""
    config = load(repo)
    if config.problems:
        raise GitpeftError(config.problems[0], "correct it, or remove it with `git config --unset`")
    return config


def _committed(repo: Repository) -> dict[str, list[str]]:
    """What `.gitpeft` in the work tree says; git itself reads it, with includes off."""
    path = None if repo.work_tree is None else Path(repo.work_tree) / FILE
    try:
        state = path.lstat() if path else None
    except OSError:
        return {}
    if path is None or state is None or not stat.S_ISREG(state.st_mode) or state.st_size > FILE_LIMIT:
        return {}
    try:
        return entries(repo.run("config", "--file", str(path), "--no-includes", "--list", "-z"))
    except GitpeftError:
        return {"gitpeft": ["unreadable"]}


def _apply(config: Config, found: Mapping[str, Sequence[str]], source: str, *, shared_only: bool) -> Config:
    problems = list(config.problems)
    values: dict[str, Any] = {}
    for full, texts in found.items():
        section, _, name = full.partition(".")
        if section != "gitpeft":
            continue
        key = KEYS.get(name)
        if key is None or (shared_only and not key.shared):
            problems.append(_refusal(source, name, key))
            continue
        try:
            values[key.name] = key.read(texts)
        except ValueError as error:
            problems.append(f"{source}: gitpeft.{name}: {error}")
    return changed(config, **values, problems=tuple(problems))


def _refusal(source: str, name: str, key: Key | None) -> str:
    if not name:
        return f"{source}: not in the format of git config"
    if key is None:
        return f"{source}: gitpeft.{_printable(name)} is no setting"
    return f"{source}: gitpeft.{name} counts only in your own git config"


def _printable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name[:40])


assert {key.name for key in KEYS.values()} == set(names(Config)) - {"problems"}
