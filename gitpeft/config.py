"""The settings: `git config gitpeft.*`, before a committed file `.gitpeft`, before the defaults.

The committed file is written by other people, so only the settings marked `shared` are read there, each typed
and bounded. None of them can name a command, a path, an interpreter or an address. Where the work tree lacks
the file (a sparse checkout, for instance), the one in the index counts, as with `.gitattributes`.
"""

import re
import stat
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.lazy import field, field_names, lazy_dataclass, lazy_pattern, replace_fields
from gitpeft.terminal import replace_unprintable

DEVICE_VARIABLE = "GITPEFT_DEVICE"
"""The environment variable that `--device` sets for a command and the processes that it starts."""

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
    """The settings of one repository; `problems` holds a sentence for each value that is ignored."""

    enabled: bool = True
    alternatives: int = 2
    timeout_ms: int = 2000
    memory_mb: int = 2048
    exclude: tuple[str, ...] = ()  # lines of a `.gitignore`
    subject_length: int = 0  # 0: as in this history
    min_score: int = -1  # of a message, 0 to 100; -1: what the model was found to need
    ticket_pattern: str = ""  # "": as in this history
    ticket_format: str = ""
    fix_pattern: str = ""  # "": the built-in patterns
    lint: bool = True
    prefill: bool = True
    ahead: bool = True
    quiet: bool = False
    stats: bool = True
    amend: bool = False
    template: bool = False
    squash: bool = False
    risk: str = "warn"
    risk_budget: int = 10  # percent of commits
    risk_comments: bool = False
    ignore_case: bool = False  # git's own core.ignoreCase, for the patterns in `exclude`
    problems: tuple[str, ...] = field(default=(), compare=False)


SettingValue = bool | int | str | tuple[str, ...]


@lazy_dataclass(frozen=True, slots=True)
class SettingSpec:
    """One setting: its key below `gitpeft.`, how to parse its values, whether a committed file may set it."""

    key: str
    parse: Callable[[Sequence[str]], SettingValue]
    shared: bool

    @property
    def field(self) -> str:
        """The field of `Config` that it fills."""
        return "".join(f"_{c.lower()}" if c.isupper() else c for c in self.key)


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


class _PartlyInvalidError(ValueError):
    """A list of which only some values are invalid; `valid` are the others, which count."""

    def __init__(self, said: str, valid: tuple[str, ...]) -> None:
        super().__init__(said)
        self.valid = valid


def _parse_path_patterns(values: Sequence[str]) -> tuple[str, ...]:
    valid = tuple(value for value in values if value and len(value) <= MAX_VALUE_LENGTH)[:MAX_LIST_ITEMS]
    if len(valid) < len(values):
        said = f"expected at most {MAX_LIST_ITEMS} patterns of at most {MAX_VALUE_LENGTH} characters"
        raise _PartlyInvalidError(said, valid)
    return valid


def _parse_pattern(values: Sequence[str]) -> str:
    """A regular expression of bounded length. Nested repeats are refused: matching them can take forever."""
    text = values[-1]
    if len(text) > MAX_VALUE_LENGTH or re.search(r"[+*}]\)?[+*{]", text):
        raise ValueError(
            f"expected a pattern of at most {MAX_VALUE_LENGTH} characters without nested repeats"
        )
    try:
        re.compile(text)
    except (re.error, RecursionError, OverflowError) as error:
        raise ValueError(f"not a regular expression ({type(error).__name__})") from None
    return text


def _parse_ticket_format(values: Sequence[str]) -> str:
    match = _TICKET_FORMAT.fullmatch(values[-1])
    if match is None or match[1] == match[2] or len(values[-1]) > MAX_VALUE_LENGTH:
        raise ValueError("expected {ticket} and {subject} once each, such as '{ticket}: {subject}'")
    return values[-1]


_SPECS = (
    SettingSpec("enabled", _parse_boolean, shared=True),
    SettingSpec("alternatives", _make_number_parser(0, 9), shared=True),
    SettingSpec("timeoutMs", _make_number_parser(100, 30_000), shared=False),
    SettingSpec("memoryMb", _make_number_parser(256, 65_536), shared=False),
    SettingSpec("exclude", _parse_path_patterns, shared=True),
    SettingSpec("minScore", _make_number_parser(0, 100), shared=True),
    SettingSpec("subjectLength", _make_number_parser(20, 200), shared=True),
    SettingSpec("ticketPattern", _parse_pattern, shared=True),
    SettingSpec("ticketFormat", _parse_ticket_format, shared=True),
    # not shared: it is matched against whole histories, where no time limit applies
    SettingSpec("fixPattern", _parse_pattern, shared=False),
    SettingSpec("lint", _parse_boolean, shared=True),
    SettingSpec("prefill", _parse_boolean, shared=True),
    SettingSpec("ahead", _parse_boolean, shared=False),
    SettingSpec("quiet", _parse_boolean, shared=True),
    SettingSpec("stats", _parse_boolean, shared=False),
    SettingSpec("amend", _parse_boolean, shared=False),
    SettingSpec("template", _parse_boolean, shared=False),
    SettingSpec("squash", _parse_boolean, shared=False),
    SettingSpec("risk", _make_choice_parser("off", "warn", "block"), shared=False),
    SettingSpec("riskBudget", _make_number_parser(1, 50), shared=True),
    SettingSpec("riskComments", _parse_boolean, shared=False),
)
SETTING_SPECS: Mapping[str, SettingSpec] = {spec.key.lower(): spec for spec in _SPECS}
"""Every setting, by its key in lower case, as git prints it."""

OLD_KEYS: Mapping[str, str] = {"leastscore": "minscore"}
"""Former names of settings (in lower case). They are still read where the present name is not set."""


def sanitize_setting(key: str, value: str) -> str:
    """A value that came with a model, if a committed file might set it so; else ""."""
    try:
        return str(SETTING_SPECS[key].parse([value])) if value else ""
    except ValueError:
        return ""


def parse_config_listing(listing: bytes) -> dict[str, list[str]]:
    """Parse the output of `git config --list -z`: the values of each key (section and name in lower case).

    Bytes that are not UTF-8 become U+FFFD; but a pattern of `gitpeft.exclude` stands for exactly its bytes,
    as paths do.
    """
    found: dict[str, list[str]] = {}
    for entry in filter(None, listing.split(b"\0")):
        exact = entry.startswith(b"gitpeft.exclude\n")
        key, _, value = entry.decode(errors="surrogateescape" if exact else "replace").partition("\n")
        found.setdefault(key, []).append(value)
    return found


def load_config(repo: Repository, listing: Mapping[str, Sequence[str]] | None = None) -> Config:
    """Load the settings of a repository; invalid values are ignored and become `problems`.

    `listing` is all of git's configuration, where the caller has read it already.
    """
    own = parse_config_listing(repo.read_config_listing()) if listing is None else listing
    ignore_case = own.get("core.ignorecase", ["false"])[-1].lower() in _TRUE_WORDS
    config = Config(ignore_case=ignore_case)
    config = _apply_settings(config, _read_shared_config(repo), SHARED_CONFIG_FILE, shared_only=True)
    return _apply_settings(config, own, "git config", shared_only=False)


def load_valid_config(repo: Repository) -> Config:
    """The same for commands, which report problems: raises GitpeftError on the first invalid value."""
    config = load_config(repo)
    if config.problems:
        raise GitpeftError(config.problems[0], "Correct it, or remove it with `git config --unset`.")
    return config


def _read_shared_config(repo: Repository) -> dict[str, list[str]]:
    """The settings in the committed file, as git itself parses it, without includes."""
    path = None if repo.work_tree is None else Path(repo.work_tree) / SHARED_CONFIG_FILE
    try:
        state = path.lstat() if path else None
    except FileNotFoundError:
        return _read_indexed_config(repo)
    except OSError:
        return {}
    if path is None or state is None or not stat.S_ISREG(state.st_mode) or state.st_size > MAX_FILE_BYTES:
        return {}
    return _list_settings(repo, "--file", str(path))


def _read_indexed_config(repo: Repository) -> dict[str, list[str]]:
    """The same from the index, for a work tree without the file."""
    blob = repo.find_indexed_file(SHARED_CONFIG_FILE)
    if not blob or int(repo.run("cat-file", "-s", blob)) > MAX_FILE_BYTES:
        return {}
    return _list_settings(repo, "--blob", blob)


def _list_settings(repo: Repository, *source: str) -> dict[str, list[str]]:
    try:
        return parse_config_listing(repo.run("config", *source, "--no-includes", "--list", "-z"))
    except GitpeftError:
        return {"gitpeft": ["unreadable"]}


def _apply_settings(
    config: Config, found: Mapping[str, Sequence[str]], source: str, *, shared_only: bool
) -> Config:
    problems = list(config.problems)
    values: dict[str, SettingValue] = {}
    for full_key, texts in found.items():
        section, _, name = full_key.partition(".")
        if section != "gitpeft" or f"gitpeft.{OLD_KEYS.get(name)}" in found:
            continue
        spec = SETTING_SPECS.get(OLD_KEYS.get(name, name))
        if spec is None or (shared_only and not spec.shared):
            problems.append(f"{source}: {_describe_refusal(name, spec)}")
            continue
        try:
            values[spec.field] = spec.parse(texts)
        except ValueError as error:
            problems.append(f"{source}: gitpeft.{name}: {error}")
            if isinstance(error, _PartlyInvalidError):  # what is excluded stays so beside a mistake
                values[spec.field] = error.valid
    return replace_fields(config, **values, problems=tuple(problems))


def _describe_refusal(name: str, spec: SettingSpec | None) -> str:
    if not name:
        return "not in the format of git config"
    if spec is not None:
        return f"gitpeft.{spec.key} is ignored here; it can only be set with `git config`"
    import difflib  # only where something is wrong

    similar = difflib.get_close_matches(name[:40], [*SETTING_SPECS, *OLD_KEYS], 1)
    key = SETTING_SPECS[OLD_KEYS.get(similar[0], similar[0])].key if similar else ""
    hint = f"; did you mean {key}?" if key else ""
    return f"unknown setting gitpeft.{replace_unprintable(name[:40])}{hint}"


assert {spec.field for spec in _SPECS} == set(field_names(Config)) - {"ignore_case", "problems"}
