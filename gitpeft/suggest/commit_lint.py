"""The repository's own rules for messages: hides the formats of commitlint, gitlint and commitizen.

Settings are read from JSON, YAML, TOML and INI files. A configuration that is a program, such as
`commitlint.config.js`, is never run; it is reported as unread.
"""

import json
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from gitpeft.lazy import changed, record
from gitpeft.suggest import yamlish

SIZE_LIMIT = 256 << 10

CONVENTIONAL = ("build", "chore", "ci", "docs", "feat", "fix", "perf", "refactor", "revert", "style", "test")
_HEADER = re.compile(r"(?P<type>\w[\w-]*)?(?:\((?P<scope>[^()\n]*)\))?(?P<break>!)?: (?P<subject>.*)")
_PROGRAMS = ("commitlint.config.js", "commitlint.config.cjs", "commitlint.config.mjs", "commitlint.config.ts")
_PROGRAM_NAMES = (
    *_PROGRAMS,
    ".commitlintrc.js",
    ".commitlintrc.cjs",
    ".commitlintrc.mjs",
    ".commitlintrc.ts",
)


@record(frozen=True, slots=True)
class Header:
    """The first line of a conventional commit in its parts; all but `subject` may be empty."""

    type: str
    scope: str
    subject: str


@record(frozen=True, slots=True)
class Rules:
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


def header(message: str) -> Header:
    """The parts of the first line; a line without type is all subject."""
    line = message.partition("\n")[0]
    found = _HEADER.fullmatch(line)
    if not found or not found["type"]:
        return Header("", "", line)
    return Header(found["type"], found["scope"] or "", found["subject"])


# --- what is wrong with a message -------------------------------------------------------------------------


def violations(message: str, rules: Rules) -> list[str]:
    """The names of the rules that a message breaks, as commitlint would call them."""
    return [name for name, broken in _CHECKS if broken(message, rules)]


def _body(message: str) -> str:
    return message.partition("\n")[2].strip()


def _first(message: str) -> str:
    return message.partition("\n")[0]


def wrong_case(message: str, rules: Rules) -> bool:
    """Whether the subject is written in a case that the rules do not allow."""
    subject = header(message).subject
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
        "sentence-case": letters[0].isupper() and not letters.isupper() and not _starts_all(words),
        "start-case": len(words) > 1 and _starts_all(words),
        "pascal-case": len(words) == 1 and words[0][0].isupper() and text == words[0],
        "camel-case": len(words) == 1 and words[0][0].islower() and text == words[0],
        "kebab-case": re.fullmatch(r"[a-z]+(?:-[a-z]+)*", text) is not None,
        "snake-case": re.fullmatch(r"[a-z]+(?:_[a-z]+)*", text) is not None,
    }.get(case, False)


def _starts_all(words: Sequence[str]) -> bool:
    return all(word[0].isupper() for word in words)


def _out_of(value: str, allowed: Sequence[str]) -> bool:
    return bool(allowed) and bool(value) and any(one not in allowed for one in re.split(r"[/,\\]\s?", value))


_CHECKS: tuple[tuple[str, Callable[[str, Rules], bool]], ...] = (
    ("header-max-length", lambda m, r: 0 < r.header_max < len(_first(m))),
    ("header-min-length", lambda m, r: len(_first(m)) < r.header_min),
    ("subject-max-length", lambda m, r: 0 < r.subject_max < len(header(m).subject)),
    ("subject-min-length", lambda m, r: len(header(m).subject) < r.subject_min),
    ("subject-full-stop", lambda m, r: bool(r.full_stops) and _first(m).endswith(tuple(r.full_stops))),
    ("subject-case", wrong_case),
    ("type-empty", lambda m, r: r.type_required and not header(m).type),
    ("type-enum", lambda m, r: _out_of(header(m).type, r.types)),
    ("scope-empty", lambda m, r: r.scope_required and not header(m).scope),
    ("scope-forbidden", lambda m, r: r.scope_forbidden and bool(header(m).scope)),
    ("scope-enum", lambda m, r: _out_of(header(m).scope, r.scopes)),
    ("body-empty", lambda m, r: r.body_required and not _body(m)),
    ("body-min-length", lambda m, r: bool(_body(m)) and len(_body(m)) < r.body_min),
    ("body-max-line-length", lambda m, r: 0 < r.body_line_max < max(map(len, _body(m).split("\n")))),
    (
        "words",
        lambda m, r: any(re.search(rf"\b{re.escape(w)}\b", _first(m), re.I) for w in r.words_forbidden),
    ),
    ("pattern", lambda m, r: bool(r.pattern) and re.search(r.pattern, m) is None),
)


# --- reading the settings ---------------------------------------------------------------------------------


def load(root: Path) -> Rules:
    """The rules of the work tree at `root`, those of several linters together; files are read, never run."""
    rules = Rules()
    for name, read in _READERS:
        path = root / name
        if not path.is_file() or path.is_symlink():
            continue
        try:
            if path.stat().st_size > SIZE_LIMIT:
                raise ValueError("too large")
            text = path.read_text("utf-8")
            if _SECTIONS.get(name, "") in text:
                rules = read(text, changed(rules, source=rules.source or name))
        except (OSError, ValueError, TypeError, KeyError, AttributeError, IndexError, RecursionError):
            rules = changed(rules, unread=(*rules.unread, name))
    programs = tuple(name for name in _PROGRAM_NAMES if (root / name).is_file())
    return changed(rules, unread=rules.unread + programs) if programs else rules


def _commitlint_text(text: str, rules: Rules) -> Rules:
    data = json.loads(text) if text.lstrip().startswith("{") else yamlish.parse(text)
    return _commitlint(data, rules)


def _package(text: str, rules: Rules) -> Rules:
    return _commitlint(json.loads(text).get("commitlint") or {}, rules)


_CONVENTIONAL_RULES: Mapping[str, Any] = {
    "header-max-length": [2, "always", 100],
    "body-max-line-length": [2, "always", 100],
    "type-empty": [2, "never"],
    "type-enum": [2, "always", list(CONVENTIONAL)],
    "subject-full-stop": [2, "never", "."],
    "subject-case": [2, "never", ["sentence-case", "start-case", "pascal-case", "upper-case"]],
}


def _commitlint(data: Mapping[str, Any], rules: Rules) -> Rules:
    bases = data.get("extends") or []
    named = [bases] if isinstance(bases, str) else [str(base) for base in bases]
    settings: dict[str, Any] = {}
    if any("conventional" in base or "angular" in base for base in named):
        settings.update(_CONVENTIONAL_RULES)
    if any("angular" in base for base in named):
        settings["header-max-length"] = [2, "always", 72]
        settings["type-enum"] = [2, "always", [name for name in CONVENTIONAL if name != "chore"]]
    settings.update(data.get("rules") or {})
    for name, setting in settings.items():
        level, *more = setting if isinstance(setting, list) else [setting]
        if level != 2:  # 1 is a warning, which stops no commit
            continue
        rules = _commitlint_rule(
            name, str(more[0]) if more else "always", more[1] if len(more) > 1 else None, rules
        )
    return rules


def _commitlint_rule(name: str, when: str, value: Any, rules: Rules) -> Rules:
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
    return changed(rules, **changes.get(name, {}))


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


def _gitlint(text: str, rules: Rules) -> Rules:
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

    def value(section: str, option: str, default: str) -> str:
        options: Mapping[str, str] = sections.get(section, {})
        return "" if section in ignored else options.get(option, default)

    changes: dict[str, Any] = {
        "header_max": int(value("title-max-length", "line-length", "72") or 0),
        "header_min": int(value("title-min-length", "min-length", "5") or 0),
        "body_line_max": int(value("body-max-line-length", "line-length", "80") or 0),
        "body_min": int(value("body-min-length", "min-length", "20") or 0),
        "body_required": "body-is-missing" not in ignored,
        "full_stops": "" if "title-trailing-punctuation" in ignored else "?:!.,;",
        "words_forbidden": tuple(
            w.strip() for w in value("title-must-not-contain-word", "words", "WIP").split(",") if w.strip()
        ),
        "pattern": _bounded(value("title-match-regex", "regex", "")),
    }
    if "contrib-title-conventional-commits" in contrib:
        types = value("contrib-title-conventional-commits", "types", ",".join(CONVENTIONAL))
        changes |= {"type_required": True, "types": tuple(w.strip() for w in types.split(","))}
    return changed(rules, **changes)


def _bounded(pattern: str) -> str:
    """A pattern of the repository: compiled here, bounded in length; the hook's clock bounds its matching."""
    if len(pattern) > 1000:
        raise ValueError("pattern too long")
    try:
        re.compile(pattern)
    except re.error:
        raise ValueError("no pattern") from None
    return pattern


def _commitizen(text: str, rules: Rules) -> Rules:
    import tomllib

    return _cz(tomllib.loads(text)["tool"]["commitizen"], rules)


def _cz_json(text: str, rules: Rules) -> Rules:
    return _cz(json.loads(text)["commitizen"], rules)


def _cz(data: Mapping[str, Any], rules: Rules) -> Rules:
    custom = data.get("customize") or {}
    pattern = str(custom.get("schema_pattern") or "") if isinstance(custom, Mapping) else ""
    if pattern:
        return changed(rules, pattern=_bounded(pattern))
    if data.get("name", "cz_conventional_commits") != "cz_conventional_commits":
        return rules
    types = rules.types or ("bump", *CONVENTIONAL)
    length = data.get("message_length_limit", 0)
    changes: dict[str, Any] = {"type_required": True, "types": types}
    if isinstance(length, int) and length:
        changes["header_max"] = min(filter(None, (rules.header_max, length)))
    return changed(rules, **changes)


_SECTIONS = {"package.json": '"commitlint"', "pyproject.toml": "[tool.commitizen"}
# Files of many purposes are parsed only when they hold what is looked for.
_READERS: tuple[tuple[str, Callable[[str, Rules], Rules]], ...] = (
    (".commitlintrc", _commitlint_text),
    (".commitlintrc.json", _commitlint_text),
    (".commitlintrc.yaml", _commitlint_text),
    (".commitlintrc.yml", _commitlint_text),
    ("package.json", _package),
    (".gitlint", _gitlint),
    (".cz.toml", _commitizen),
    (".cz.json", _cz_json),
    ("pyproject.toml", _commitizen),
)


def unread(rules: Rules) -> Iterator[str]:
    """A sentence for each settings file that does not count."""
    for name in rules.unread:
        why = "is a program, and programs are not run" if name in _PROGRAM_NAMES else "could not be read"
        yield f"{name} {why}: its rules are not followed"
