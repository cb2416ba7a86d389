"""The repository's own rules for messages: hides the formats of commitlint, gitlint and commitizen.

Settings are read from JSON, YAML, TOML and INI files. A configuration that is a program, such as
`commitlint.config.js`, is never run; it is reported as unread.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gitpeft.lazy import lazy_dataclass, replace_fields

MAX_SETTINGS_BYTES = 256 << 10

CONVENTIONAL_TYPES = (
    "build",
    "chore",
    "ci",
    "docs",
    "feat",
    "fix",
    "perf",
    "refactor",
    "revert",
    "style",
    "test",
)
_HEADER_PATTERN = re.compile(r"(?P<type>\w[\w-]*)?(?:\((?P<scope>[^()\n]*)\))?(?P<break>!)?: (?P<subject>.*)")
_COMMITLINT_PROGRAMS = (
    "commitlint.config.js",
    "commitlint.config.cjs",
    "commitlint.config.mjs",
    "commitlint.config.ts",
)
_PROGRAM_FILES = (
    *_COMMITLINT_PROGRAMS,
    ".commitlintrc.js",
    ".commitlintrc.cjs",
    ".commitlintrc.mjs",
    ".commitlintrc.ts",
)


@lazy_dataclass(frozen=True, slots=True)
class CommitHeader:
    """The first line of a conventional commit in its parts; all but `subject` may be empty."""

    type: str
    scope: str
    subject: str


@lazy_dataclass(frozen=True, slots=True)
class LintRules:
    """What a message must be like. Zero, None and empty mean that there is no such rule."""

    source: str = ""
    header_max: int = 0
    header_min: int = 0
    subject_max: int = 0
    subject_min: int = 0
    body_line_max: int = 0
    body_min: int = 0
    body_required: bool = False
    type_required: bool = False
    scope_required: bool = False
    scope_forbidden: bool = False
    types: tuple[str, ...] = ()
    scopes: tuple[str, ...] = ()
    full_stops: str = ""
    cases: tuple[str, ...] = ()
    cases_forbidden: tuple[str, ...] = ()
    words_forbidden: tuple[str, ...] = ()
    pattern: str = ""
    unread: tuple[str, ...] = ()


def parse_header(message: str) -> CommitHeader:
    """The parts of the first line; a line without type is all subject."""
    line = message.partition("\n")[0]
    found = _HEADER_PATTERN.fullmatch(line)
    if not found or not found["type"]:
        return CommitHeader("", "", line)
    return CommitHeader(found["type"], found["scope"] or "", found["subject"])


# --- what is wrong with a message -------------------------------------------------------------------------


def find_violations(message: str, rules: LintRules) -> list[str]:
    """The names of the rules that a message breaks, as commitlint would call them."""
    return [name for name, broken in _RULE_CHECKS if broken(message, rules)]


def _get_body(message: str) -> str:
    return message.partition("\n")[2].strip()


def _get_first_line(message: str) -> str:
    return message.partition("\n")[0]


def has_wrong_case(message: str, rules: LintRules) -> bool:
    """Whether the subject is written in a case that the rules do not allow."""
    subject = parse_header(message).subject
    if rules.cases and not any(_is_case(subject, case) for case in rules.cases):
        return True
    return any(_is_case(subject, case) for case in rules.cases_forbidden)


def _is_case(text: str, case: str) -> bool:
    """Whether a subject is written in a case, as commitlint's `ensure` means it for whole sentences."""
    letters = re.sub(r"[^A-Za-z]", "", text)
    if not letters or not text[0].isalpha():
        return False
    words = re.findall(r"[A-Za-z]+", text)
    return {
        "lower-case": letters.islower(),
        "upper-case": letters.isupper(),
        "sentence-case": letters[0].isupper() and not letters.isupper() and not _are_all_capitalised(words),
        "start-case": len(words) > 1 and _are_all_capitalised(words),
        "pascal-case": len(words) == 1 and words[0][0].isupper() and text == words[0],
        "camel-case": len(words) == 1 and words[0][0].islower() and text == words[0],
        "kebab-case": re.fullmatch(r"[a-z]+(?:-[a-z]+)*", text) is not None,
        "snake-case": re.fullmatch(r"[a-z]+(?:_[a-z]+)*", text) is not None,
    }.get(case, False)


def _are_all_capitalised(words: Sequence[str]) -> bool:
    return all(word[0].isupper() for word in words)


def _is_not_allowed(value: str, allowed: Sequence[str]) -> bool:
    return bool(allowed) and bool(value) and any(one not in allowed for one in re.split(r"[/,\\]\s?", value))


_RULE_CHECKS: tuple[tuple[str, Callable[[str, LintRules], bool]], ...] = (
    ("header-max-length", lambda m, r: 0 < r.header_max < len(_get_first_line(m))),
    ("header-min-length", lambda m, r: len(_get_first_line(m)) < r.header_min),
    ("subject-max-length", lambda m, r: 0 < r.subject_max < len(parse_header(m).subject)),
    ("subject-min-length", lambda m, r: len(parse_header(m).subject) < r.subject_min),
    (
        "subject-full-stop",
        lambda m, r: bool(r.full_stops) and _get_first_line(m).endswith(tuple(r.full_stops)),
    ),
    ("subject-case", has_wrong_case),
    ("type-empty", lambda m, r: r.type_required and not parse_header(m).type),
    ("type-enum", lambda m, r: _is_not_allowed(parse_header(m).type, r.types)),
    ("scope-empty", lambda m, r: r.scope_required and not parse_header(m).scope),
    ("scope-forbidden", lambda m, r: r.scope_forbidden and bool(parse_header(m).scope)),
    ("scope-enum", lambda m, r: _is_not_allowed(parse_header(m).scope, r.scopes)),
    ("body-empty", lambda m, r: r.body_required and not _get_body(m)),
    ("body-min-length", lambda m, r: bool(_get_body(m)) and len(_get_body(m)) < r.body_min),
    ("body-max-line-length", lambda m, r: 0 < r.body_line_max < max(map(len, _get_body(m).split("\n")))),
    (
        "words",
        lambda m, r: any(
            re.search(rf"\b{re.escape(w)}\b", _get_first_line(m), re.I) for w in r.words_forbidden
        ),
    ),
    ("pattern", lambda m, r: bool(r.pattern) and re.search(r.pattern, m) is None),
)


# --- reading the settings ---------------------------------------------------------------------------------


def load_lint_rules(root: Path) -> LintRules:
    """The rules of the work tree at `root`, those of several linters together; files are read, never run."""
    rules = LintRules()
    for name, read in _SETTINGS_READERS:
        path = root / name
        if not path.is_file() or path.is_symlink():
            continue
        try:
            if path.stat().st_size > MAX_SETTINGS_BYTES:
                raise ValueError("too large")
            text = path.read_text("utf-8")
            if _REQUIRED_SECTIONS.get(name, "") in text:
                rules = read(text, replace_fields(rules, source=rules.source or name))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            rules = replace_fields(rules, unread=(*rules.unread, name))
    programs = tuple(name for name in _PROGRAM_FILES if (root / name).is_file())
    return replace_fields(rules, unread=rules.unread + programs) if programs else rules


def _read_commitlint_file(text: str, rules: LintRules) -> LintRules:
    data = json.loads(text) if text.lstrip().startswith("{") else _parse_yaml(text)
    return _apply_commitlint(data, rules)


def _parse_yaml(text: str) -> Any:
    """The value of a YAML document; ValueError where it is none, or repeats parts of itself by aliases.

    PyYAML comes with detect-secrets and costs 15 ms to import, which is spent while the model loads. Aliases
    are refused because a small file can unfold into an endless value.
    """
    import yaml

    class PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: Any, index: Any) -> Any:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("aliases are not read")
            return super().compose_node(parent, index)

    try:
        return yaml.load(text, PlainLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None


def _read_package_json(text: str, rules: LintRules) -> LintRules:
    return _apply_commitlint(json.loads(text).get("commitlint") or {}, rules)


_CONVENTIONAL_RULES: Mapping[str, Any] = {
    "header-max-length": [2, "always", 100],
    "body-max-line-length": [2, "always", 100],
    "type-empty": [2, "never"],
    "type-enum": [2, "always", list(CONVENTIONAL_TYPES)],
    "subject-full-stop": [2, "never", "."],
    "subject-case": [2, "never", ["sentence-case", "start-case", "pascal-case", "upper-case"]],
}


def _apply_commitlint(data: Mapping[str, Any], rules: LintRules) -> LintRules:
    bases = data.get("extends") or []
    named = [bases] if isinstance(bases, str) else [str(base) for base in bases]
    settings: dict[str, Any] = {}
    if any("conventional" in base or "angular" in base for base in named):
        settings.update(_CONVENTIONAL_RULES)
    if any("angular" in base for base in named):
        settings["header-max-length"] = [2, "always", 72]
        settings["type-enum"] = [2, "always", [name for name in CONVENTIONAL_TYPES if name != "chore"]]
    settings.update(data.get("rules") or {})
    for name, setting in settings.items():
        level, *more = setting if isinstance(setting, list) else [setting]
        if level != 2:  # 1 is a warning, which stops no commit
            continue
        rules = _apply_commitlint_rule(
            name, str(more[0]) if more else "always", more[1] if len(more) > 1 else None, rules
        )
    return rules


def _apply_commitlint_rule(name: str, when: str, value: Any, rules: LintRules) -> LintRules:
    never = when == "never"
    words = tuple(str(v) for v in (value if isinstance(value, list) else [value] if value else []))
    number = value if isinstance(value, int) else 0
    changes: dict[str, dict[str, Any]] = {
        "header-max-length": {"header_max": number},
        "header-min-length": {"header_min": number},
        "subject-max-length": {"subject_max": number},
        "subject-min-length": {"subject_min": number},
        "body-max-line-length": {"body_line_max": number},
        "body-min-length": {"body_min": number},
        "body-empty": {"body_required": never},
        "type-empty": {"type_required": never},
        "scope-empty": {"scope_required": never, "scope_forbidden": not never},
        "type-enum": {} if never else {"types": words},
        "scope-enum": {} if never else {"scopes": words},
        "subject-full-stop": {"full_stops": (words[0] if words else ".") if never else ""},
        "subject-case": {"cases_forbidden": words} if never else {"cases": words},
    }
    return replace_fields(rules, **changes.get(name, {}))


_GITLINT_NAMES = {
    "t1": "title-max-length",
    "t3": "title-trailing-punctuation",
    "t5": "title-must-not-contain-word",
    "t7": "title-match-regex",
    "t8": "title-min-length",
    "b1": "body-max-line-length",
    "b5": "body-min-length",
    "b6": "body-is-missing",
    "ct1": "contrib-title-conventional-commits",
}


def _read_gitlint_file(text: str, rules: LintRules) -> LintRules:
    """gitlint's own defaults, then the file's sections; `ignore` names rules that do not count."""
    import configparser

    parser = configparser.ConfigParser(interpolation=None)
    try:
        parser.read_string(text)
    except configparser.Error:
        raise ValueError("no INI file") from None
    sections = {_GITLINT_NAMES.get(name.lower(), name.lower()): parser[name] for name in parser.sections()}
    general: Mapping[str, str] = sections.get("general", {})
    ignored = {_GITLINT_NAMES.get(w, w) for w in re.split(r"[,\s]+", str(general.get("ignore", "")).lower())}
    contrib = {_GITLINT_NAMES.get(w, w) for w in re.split(r"[,\s]+", str(general.get("contrib", "")).lower())}

    def get_option(section: str, option: str, default: str) -> str:
        options: Mapping[str, str] = sections.get(section, {})
        return "" if section in ignored else options.get(option, default)

    changes: dict[str, Any] = {
        "header_max": int(get_option("title-max-length", "line-length", "72") or 0),
        "header_min": int(get_option("title-min-length", "min-length", "5") or 0),
        "body_line_max": int(get_option("body-max-line-length", "line-length", "80") or 0),
        "body_min": int(get_option("body-min-length", "min-length", "20") or 0),
        "body_required": "body-is-missing" not in ignored,
        "full_stops": "" if "title-trailing-punctuation" in ignored else "?:!.,;",
        "words_forbidden": tuple(
            w.strip()
            for w in get_option("title-must-not-contain-word", "words", "WIP").split(",")
            if w.strip()
        ),
        "pattern": _check_pattern(get_option("title-match-regex", "regex", "")),
    }
    if "contrib-title-conventional-commits" in contrib:
        types = get_option("contrib-title-conventional-commits", "types", ",".join(CONVENTIONAL_TYPES))
        changes |= {"type_required": True, "types": tuple(w.strip() for w in types.split(","))}
    return replace_fields(rules, **changes)


def _check_pattern(pattern: str) -> str:
    """A pattern of the repository: compiled here, bounded in length; the hook's clock bounds its matching."""
    if len(pattern) > 1000:
        raise ValueError("pattern too long")
    try:
        re.compile(pattern)
    except re.error:
        raise ValueError("no pattern") from None
    return pattern


def _read_commitizen_toml(text: str, rules: LintRules) -> LintRules:
    import tomllib

    return _apply_commitizen(tomllib.loads(text)["tool"]["commitizen"], rules)


def _read_commitizen_json(text: str, rules: LintRules) -> LintRules:
    return _apply_commitizen(json.loads(text)["commitizen"], rules)


def _apply_commitizen(data: Mapping[str, Any], rules: LintRules) -> LintRules:
    custom = data.get("customize") or {}
    pattern = str(custom.get("schema_pattern") or "") if isinstance(custom, Mapping) else ""
    if pattern:
        return replace_fields(rules, pattern=_check_pattern(pattern))
    if data.get("name", "cz_conventional_commits") != "cz_conventional_commits":
        return rules
    types = rules.types or ("bump", *CONVENTIONAL_TYPES)
    length = data.get("message_length_limit", 0)
    changes: dict[str, Any] = {"type_required": True, "types": types}
    if isinstance(length, int) and length:
        changes["header_max"] = min(filter(None, (rules.header_max, length)))
    return replace_fields(rules, **changes)


_REQUIRED_SECTIONS = {"package.json": '"commitlint"', "pyproject.toml": "[tool.commitizen"}
# Files of many purposes are parsed only when they hold what is looked for.
_SETTINGS_READERS: tuple[tuple[str, Callable[[str, LintRules], LintRules]], ...] = (
    (".commitlintrc", _read_commitlint_file),
    (".commitlintrc.json", _read_commitlint_file),
    (".commitlintrc.yaml", _read_commitlint_file),
    (".commitlintrc.yml", _read_commitlint_file),
    ("package.json", _read_package_json),
    (".gitlint", _read_gitlint_file),
    (".cz.toml", _read_commitizen_toml),
    (".cz.json", _read_commitizen_json),
    ("pyproject.toml", _read_commitizen_toml),
)


def explain_unread_files(rules: LintRules) -> Iterator[str]:
    """A sentence for each settings file that does not count."""
    for name in rules.unread:
        why = "is a program, and programs are not run" if name in _PROGRAM_FILES else "could not be read"
        yield f"{name} {why}: its rules are not followed"
