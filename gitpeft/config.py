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
from gitpeft.lazy import field, field_names, lazy_dataclass, lazy_pattern, replace_fields

SHARED_CONFIG_FILE = ".gitpeft"
MAX_FILE_BYTES = 16 << 10
MAX_LIST_ITEMS = 64
MAX_VALUE_LENGTH = 120

_TRUE_WORDS = ("true", "yes", "on", "1", "")
_FALSE_WORDS = ("false", "no", "off", "0")
_TICKET_FORMAT = lazy_pattern(
    r"[^\x00-\x1f\x7f#;{}]*\{(ticket|subject)\}[^\x00-\x1f\x7f{}]*\{(ticket|subject)\}[^{}\n]*"
)


@lazy_dataclass(frozen=True, slots=True)
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


@lazy_dataclass(frozen=True, slots=True)
class SettingSpec:
    """One setting: the field it fills, how its text is read, whether a committed file may set it."""

    name: str
    read: Callable[[Sequence[str]], Any]
    shared: bool


def _parse_boolean(values: Sequence[str]) -> bool:
    word = values[-1].lower()
    if word in _TRUE_WORDS:
        return True
    if word in _FALSE_WORDS:
        return False
    raise ValueError("expected true or false")


def _make_number_parser(low: int, high: int) -> Callable[[Sequence[str]], int]:
    def parse_number(values: Sequence[str]) -> int:
        word = values[-1]
        if not (word.isascii() and word.isdigit() and len(word) < 10 and low <= int(word) <= high):
            raise ValueError(f"expected a number from {low} to {high}")
        return int(word)

    return parse_number


def _make_choice_parser(*words: str) -> Callable[[Sequence[str]], str]:
    def parse_choice(values: Sequence[str]) -> str:
        if values[-1].lower() not in words:
            raise ValueError(f"expected {', '.join(words[:-1])} or {words[-1]}")
        return values[-1].lower()

    return parse_choice


def _parse_globs(values: Sequence[str]) -> tuple[str, ...]:
    if len(values) > MAX_LIST_ITEMS or any(not value or len(value) > MAX_VALUE_LENGTH for value in values):
        raise ValueError(
            f"expected at most {MAX_LIST_ITEMS} patterns of at most {MAX_VALUE_LENGTH} characters"
        )
    return tuple(values)


def _parse_pattern(values: Sequence[str]) -> str:
    """A regular expression of bounded length; nested repeats, which can take forever, are refused."""
    text = values[-1]
    if len(text) > MAX_VALUE_LENGTH or re.search(r"[+*}]\)?[+*{]", text):
        raise ValueError(
            f"expected a pattern of at most {MAX_VALUE_LENGTH} characters without nested repeats"
        )
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"no regular expression ({type(error).__name__})") from None
    return text


def _parse_ticket_format(values: Sequence[str]) -> str:
    match = _TICKET_FORMAT.fullmatch(values[-1])
    if match is None or match[1] == match[2] or len(values[-1]) > MAX_VALUE_LENGTH:
        raise ValueError("expected {ticket} and {subject} once each, such as '{ticket}: {subject}'")
    return values[-1]


def sanitize_setting(key: str, value: str) -> str:
    """A value that came with a model, held to what a committed setting may be; "" for one that is refused."""
    try:
        return str(SETTING_SPECS[key].read([value])) if value else ""
    except ValueError:
        return ""


SETTING_SPECS: Mapping[str, SettingSpec] = {
    "enabled": SettingSpec("enabled", _parse_boolean, shared=True),
    "alternatives": SettingSpec("alternatives", _make_number_parser(0, 9), shared=True),
    "timeoutms": SettingSpec("timeout_ms", _make_number_parser(100, 30_000), shared=False),
    "memorymb": SettingSpec("memory_mb", _make_number_parser(256, 65_536), shared=False),
    "exclude": SettingSpec("exclude", _parse_globs, shared=True),
    "leastscore": SettingSpec("least_score", _make_number_parser(0, 100), shared=True),
    "subjectlength": SettingSpec("subject_length", _make_number_parser(20, 200), shared=True),
    "ticketpattern": SettingSpec("ticket_pattern", _parse_pattern, shared=True),
    "ticketformat": SettingSpec("ticket_format", _parse_ticket_format, shared=True),
    "fixpattern": SettingSpec(
        "fix_pattern", _parse_pattern, shared=False
    ),  # no clock runs where all messages are read
    "lint": SettingSpec("lint", _parse_boolean, shared=True),
    "quiet": SettingSpec("quiet", _parse_boolean, shared=True),
    "stats": SettingSpec("stats", _parse_boolean, shared=False),
    "amend": SettingSpec("amend", _parse_boolean, shared=False),
    "template": SettingSpec("template", _parse_boolean, shared=False),
    "squash": SettingSpec("squash", _parse_boolean, shared=False),
    "risk": SettingSpec("risk", _make_choice_parser("off", "warn", "block"), shared=False),
    "riskbudget": SettingSpec("risk_budget", _make_number_parser(1, 50), shared=True),
    "riskcomments": SettingSpec("risk_comments", _parse_boolean, shared=False),
}
"""Every setting, by its name below `gitpeft.` as git prints it (lower case)."""


def parse_config_listing(listing: bytes) -> dict[str, list[str]]:
    """The output of `git config --list -z`: each key (section and name in lower case) with all its values."""
    found: dict[str, list[str]] = {}
    for entry in listing.decode(errors="replace").split("\0"):
        if entry:
            key, _, value = entry.partition("\n")
            found.setdefault(key, []).append(value)
    return found


def load_config(repo: Repository, listing: Mapping[str, Sequence[str]] | None = None) -> Config:
    """The settings of a repository; values that cannot be used become `problems`, the rest counts.

    `listing` is all of git's configuration, when the caller has read it already.
    """
    own = parse_config_listing(repo.run("config", "--list", "-z")) if listing is None else listing
    config = _apply_settings(Config(), _read_shared_config(repo), SHARED_CONFIG_FILE, shared_only=True)
    return _apply_settings(config, own, "git config", shared_only=False)


def load_valid_config(repo: Repository) -> Config:
    """The settings, for a person to hear what is wrong with them: GitpeftError on the first bad value."""
    config = load_config(repo)
    if config.problems:
        raise GitpeftError(config.problems[0], "correct it, or remove it with `git config --unset`")
    return config


def _read_shared_config(repo: Repository) -> dict[str, list[str]]:
    """What `.gitpeft` in the work tree says; git itself reads it, with includes off."""
    path = None if repo.work_tree is None else Path(repo.work_tree) / SHARED_CONFIG_FILE
    try:
        state = path.lstat() if path else None
    except OSError:
        return {}
    if path is None or state is None or not stat.S_ISREG(state.st_mode) or state.st_size > MAX_FILE_BYTES:
        return {}
    try:
        return parse_config_listing(repo.run("config", "--file", str(path), "--no-includes", "--list", "-z"))
    except GitpeftError:
        return {"gitpeft": ["unreadable"]}


def _apply_settings(
    config: Config, found: Mapping[str, Sequence[str]], source: str, *, shared_only: bool
) -> Config:
    problems = list(config.problems)
    values: dict[str, Any] = {}
    for full, texts in found.items():
        section, _, name = full.partition(".")
        if section != "gitpeft":
            continue
        key = SETTING_SPECS.get(name)
        if key is None or (shared_only and not key.shared):
            problems.append(_describe_refusal(source, name, key))
            continue
        try:
            values[key.name] = key.read(texts)
        except ValueError as error:
            problems.append(f"{source}: gitpeft.{name}: {error}")
    return replace_fields(config, **values, problems=tuple(problems))


def _describe_refusal(source: str, name: str, key: SettingSpec | None) -> str:
    if not name:
        return f"{source}: not in the format of git config"
    if key is None:
        return f"{source}: gitpeft.{_replace_unprintable(name)} is no setting"
    return f"{source}: gitpeft.{name} counts only in your own git config"


def _replace_unprintable(name: str) -> str:
    return "".join(c if c.isprintable() else "?" for c in name[:40])


assert {key.name for key in SETTING_SPECS.values()} == set(field_names(Config)) - {"problems"}
