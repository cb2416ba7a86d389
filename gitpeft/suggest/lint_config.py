"""Reading a repository's rules for commit messages from the settings of commitlint, gitlint and commitizen.

The settings may be JSON, YAML, TOML or INI files. A configuration that is a program, such as
`commitlint.config.js`, is never run; it is reported as unread.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING

from gitpeft.lazy import replace_fields
from gitpeft.suggest.commit_lint import CONVENTIONAL_TYPES, LintRules

if TYPE_CHECKING:
    from configparser import SectionProxy

MAX_SETTINGS_BYTES = 256 << 10
MAX_PATTERN_LENGTH = 1000
_PROGRAM_FILES = tuple(
    f"{stem}.{suffix}"
    for stem in ("commitlint.config", ".commitlintrc")
    for suffix in ("js", "cjs", "mjs", "ts")
)
_READ_ERRORS = (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError)


def load_lint_rules(root: Path) -> LintRules:
    """The rules of the work tree at `root`, those of all linters combined.

    A file that cannot be read is listed in `unread`.
    """
    rules = LintRules()
    for name, read_rules in _SETTINGS_READERS:
        path = root / name
        if not path.is_file() or path.is_symlink():
            continue
        try:
            text = _read_settings_text(path)
            if _REQUIRED_SECTIONS.get(name, "") in text:
                rules = read_rules(text, replace_fields(rules, source=rules.source or name))
        except _READ_ERRORS:
            rules = replace_fields(rules, unread=(*rules.unread, name))
    programs = tuple(name for name in _PROGRAM_FILES if (root / name).is_file())
    return replace_fields(rules, unread=rules.unread + programs) if programs else rules


def _read_settings_text(path: Path) -> str:
    if path.stat().st_size > MAX_SETTINGS_BYTES:
        raise ValueError("the file is too large")
    return path.read_text("utf-8")


def explain_unread_files(rules: LintRules) -> Iterator[str]:
    """A sentence about each settings file whose rules are not followed."""
    for name in rules.unread:
        reason = "is a program, and programs are not run" if name in _PROGRAM_FILES else "could not be read"
        yield f"{name} {reason}: its rules are not followed"


# --- commitlint ---------------------------------------------------------------------------------------------

_CONVENTIONAL_RULES: Mapping[str, object] = {
    "header-max-length": [2, "always", 100],
    "body-max-line-length": [2, "always", 100],
    "type-empty": [2, "never"],
    "type-enum": [2, "always", list(CONVENTIONAL_TYPES)],
    "subject-full-stop": [2, "never", "."],
    "subject-case": [2, "never", ["sentence-case", "start-case", "pascal-case", "upper-case"]],
}
"""What `@commitlint/config-conventional` sets."""

_ANGULAR_RULES: Mapping[str, object] = {
    **_CONVENTIONAL_RULES,
    "header-max-length": [2, "always", 72],
    "type-enum": [2, "always", [name for name in CONVENTIONAL_TYPES if name != "chore"]],
}
"""What `@commitlint/config-angular` sets."""

_ERROR_LEVEL = 2
"""The level of a commitlint rule that stops a commit; 1 is a warning, 0 is off."""


def _read_commitlint_file(text: str, rules: LintRules) -> LintRules:
    data = json.loads(text) if text.lstrip().startswith("{") else _parse_yaml(text)
    return _apply_commitlint(data, rules)


def _parse_yaml(text: str) -> object:
    """The value of a YAML document; ValueError where it is malformed, or repeats parts of itself by aliases.

    PyYAML comes with detect-secrets and takes 15 ms to import, which pass while the model loads. Aliases are
    refused because they let a small file expand to an enormous value.
    """
    import yaml

    class PlainLoader(yaml.SafeLoader):  # type: ignore[misc]
        def compose_node(self, parent: object, index: object) -> object:
            if self.check_event(yaml.AliasEvent):
                raise ValueError("aliases are not read")
            return super().compose_node(parent, index)

    try:
        value: object = yaml.load(text, PlainLoader)
    except yaml.YAMLError as error:
        raise ValueError(str(error)) from None
    return value


def _read_package_json(text: str, rules: LintRules) -> LintRules:
    return _apply_commitlint(json.loads(text).get("commitlint") or {}, rules)


def _apply_commitlint(data: object, rules: LintRules) -> LintRules:
    """The rules, changed by commitlint's settings; TypeError where these are malformed."""
    settings = _require_mapping(data)
    extends = settings.get("extends") or []
    bases = [str(base) for base in (extends if isinstance(extends, list) else [extends])]
    combined: dict[str, object] = {}
    if any("angular" in base for base in bases):
        combined.update(_ANGULAR_RULES)
    elif any("conventional" in base for base in bases):
        combined.update(_CONVENTIONAL_RULES)
    combined.update(_require_mapping(settings.get("rules") or {}))
    for name, setting in combined.items():
        level, *options = setting if isinstance(setting, list) else [setting]
        if level == _ERROR_LEVEL:
            value = options[1] if len(options) > 1 else None
            rules = _apply_commitlint_rule(name, options[:1] == ["never"], value, rules)
    return rules


def _apply_commitlint_rule(name: str, never: bool, value: object, rules: LintRules) -> LintRules:
    """The rules, changed by one of commitlint's, which is to hold "always" or `never`, and has a value."""
    words = tuple(str(one) for one in (value if isinstance(value, list) else [value] if value else []))
    number = value if isinstance(value, int) else 0
    changes: dict[str, dict[str, object]] = {
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


def _require_mapping(value: object) -> Mapping[str, object]:
    if not isinstance(value, dict):
        raise TypeError("settings are a mapping")
    return value


# --- gitlint ------------------------------------------------------------------------------------------------

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
"""The names of gitlint's rules by their ids."""

_GITLINT_CONVENTIONAL = "contrib-title-conventional-commits"


class _GitlintFile:
    """A `.gitlint` file: the rules that it ignores, the contributed ones that it adds, and their options."""

    def __init__(self, text: str) -> None:
        import configparser

        parser = configparser.ConfigParser(interpolation=None)
        try:
            parser.read_string(text)
        except configparser.Error:
            raise ValueError("not an INI file") from None
        self._sections: dict[str, SectionProxy] = {
            _GITLINT_NAMES.get(name.lower(), name.lower()): parser[name] for name in parser.sections()
        }
        self.ignored = self._read_rule_names("ignore")
        self.contributed = self._read_rule_names("contrib")

    def _read_rule_names(self, option: str) -> set[str]:
        general: Mapping[str, str] = self._sections.get("general", {})
        names = re.split(r"[,\s]+", str(general.get(option, "")).lower())
        return {_GITLINT_NAMES.get(name, name) for name in names}

    def get_option(self, rule: str, option: str, default: str) -> str:
        """An option of a rule; "" if the rule is ignored."""
        options: Mapping[str, str] = self._sections.get(rule, {})
        return "" if rule in self.ignored else options.get(option, default)

    def get_number(self, rule: str, option: str, default: str) -> int:
        """An option that is a number; 0 if the rule is ignored, ValueError if it is not a number."""
        return int(self.get_option(rule, option, default) or 0)

    def get_words(self, rule: str, option: str, default: str) -> tuple[str, ...]:
        """The words of an option, which commas separate."""
        return tuple(word.strip() for word in self.get_option(rule, option, default).split(","))


def _read_gitlint_file(text: str, rules: LintRules) -> LintRules:
    """The rules, changed by gitlint's defaults and by what the file sets."""
    file = _GitlintFile(text)
    words = file.get_words("title-must-not-contain-word", "words", "WIP")
    changes: dict[str, object] = {
        "header_max": file.get_number("title-max-length", "line-length", "72"),
        "header_min": file.get_number("title-min-length", "min-length", "5"),
        "body_line_max": file.get_number("body-max-line-length", "line-length", "80"),
        "body_min": file.get_number("body-min-length", "min-length", "20"),
        "body_required": "body-is-missing" not in file.ignored,
        "full_stops": "" if "title-trailing-punctuation" in file.ignored else "?:!.,;",
        "words_forbidden": tuple(word for word in words if word),
        "pattern": _check_pattern(file.get_option("title-match-regex", "regex", "")),
    }
    if _GITLINT_CONVENTIONAL in file.contributed:
        types = file.get_words(_GITLINT_CONVENTIONAL, "types", ",".join(CONVENTIONAL_TYPES))
        changes |= {"type_required": True, "types": types}
    return replace_fields(rules, **changes)


def _check_pattern(pattern: str) -> str:
    """The pattern, if it is a regular expression of at most 1,000 characters; else ValueError.

    The time that matching takes is bounded by the deadline of the hook.
    """
    if len(pattern) > MAX_PATTERN_LENGTH:
        raise ValueError("the pattern is too long")
    try:
        re.compile(pattern)
    except re.error:
        raise ValueError("not a regular expression") from None
    return pattern


# --- commitizen ---------------------------------------------------------------------------------------------


def _read_commitizen_toml(text: str, rules: LintRules) -> LintRules:
    import tomllib

    return _apply_commitizen(tomllib.loads(text)["tool"]["commitizen"], rules)


def _read_commitizen_json(text: str, rules: LintRules) -> LintRules:
    return _apply_commitizen(json.loads(text)["commitizen"], rules)


def _apply_commitizen(data: object, rules: LintRules) -> LintRules:
    """The rules, changed by commitizen's settings: a pattern of its own, or Conventional Commits."""
    settings = _require_mapping(data)
    custom = settings.get("customize") or {}
    pattern = str(custom.get("schema_pattern") or "") if isinstance(custom, dict) else ""
    if pattern:
        return replace_fields(rules, pattern=_check_pattern(pattern))
    if settings.get("name", "cz_conventional_commits") != "cz_conventional_commits":
        return rules
    changes: dict[str, object] = {
        "type_required": True,
        "types": rules.types or ("bump", *CONVENTIONAL_TYPES),
    }
    length = settings.get("message_length_limit", 0)
    if isinstance(length, int) and length:
        changes["header_max"] = min(filter(None, (rules.header_max, length)))
    return replace_fields(rules, **changes)


# --- files --------------------------------------------------------------------------------------------------

_REQUIRED_SECTIONS = {"package.json": '"commitlint"', "pyproject.toml": "[tool.commitizen"}
"""Text that a file for many purposes must contain to be parsed at all."""

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
