"""What a line of code begins to define, and whether it is a comment or an import, for many languages."""

import re

from gitpeft.diff.patch import normalize_line
from gitpeft.lazy import lazy_pattern

Definition = tuple[str, str]
"""Kind and name."""

COMMENT_LINE = lazy_pattern(
    r"\s*(?:#(?!include|define|if|end|pragma|\[)|//|/\*|\*(?![\w(*])|\*/|--\s|;;|<!--|%\s|\"\"\"|''')"
)
IMPORT_LINE = lazy_pattern(
    r"\s*(?:import\b|from\s+\S+\s+import\b|use\s+[\w:]+|#include\b|require(?:_relative)?\b|using\s+[\w.]+;"
    r"|export .* from"
    r"|(?:const|var|let)\s.*=\s*require\(|package\s|\"[\w./-]+\"\s*$|mod\s+\w+;|pub use\b)"
)
_MODIFIERS = (
    r"(?:(?:pub(?:\([^)]*\))?|export|default|async|static|public|private|protected|internal|abstract|final"
    r"|override|inline|virtual|unsafe|extern(?: \"C\")?|const|constexpr|declare|open|suspend"
    r"|sealed|data|readonly|partial)\s+)*"
)
_KEYWORDS = (
    r"def|fn|func|function\*?|fun|class|struct|enum|interface|trait|type|protocol|object|record|module"
    r"|defmodule|defp|defmacro|macro_rules!|union|sub|mod"
)
_DEFINITION = lazy_pattern(
    rf"\s*{_MODIFIERS}(?P<kind>{_KEYWORDS})\s+(?:\([^)]*\)\s*)?(?:self\.|r#)?(?P<name>[A-Za-z_$][\w$]*[?!]?)"
)
_ASSIGNED_FUNCTION = lazy_pattern(
    r"\s*(?:export\s+)?(?:const|let|var|module\.exports\.|exports\.|[\w.]+\.prototype\.)\s*(?P<name>[A-Za-z_$][\w$]*)"
    r"\s*=\s*(?:async\s*)?(?:function\b|\([^)]*\)\s*=>|\w+\s*=>)"
)
_GENERIC = r"<(?:[^()<>]|<(?:[^()<>]|<[^()<>]*>)*>)*>"
_TYPED_FUNCTION = lazy_pattern(
    r"\s*(?!return\b|else\b|new\b|throw\b|await\b|case\b|delete\b|goto\b|yield\b|raise\b|in\b|not\b|and\b|or\b)"
    rf"(?:[\w.:]+(?:{_GENERIC})?(?:\[\])*[\s*&]+)+(?P<name>~?[A-Za-z_]\w*)\s*\([^;]*"
    r"(?:\)\s*(?:const|noexcept|override|async)*(?:throws [\w., ]+)?\s*\{?|,)\s*$"
)
"""Unambiguous on purpose: a pattern that can match one line in many ways may take minutes to fail."""

_CONSTANT = lazy_pattern(
    r"\s*(?:(?:export|pub|public|private|static|final|const|let|val|readonly|#define|int|long|String)\s+)*"
    r"(?P<name>[A-Z][A-Z0-9]*_[A-Z0-9_]+|(?<=#define )\w+)\b(?!\()\s*(?:[:=]|\d|\"|\()"
)
_TEST_TITLE = lazy_pattern(
    r"\s*(?:it|test|describe|context|specify|scenario)\s*\(?\s*([\"'`])(?P<name>.{3,70}?)\1"
)
_SECTION = lazy_pattern(r"#{1,6}\s+(?P<name>\S.{1,60}?)\s*#*$")
_KINDS = {
    **dict.fromkeys(("def", "fn", "func", "function", "function*", "fun", "defp", "sub"), "function"),
    **dict.fromkeys(("defmodule", "mod"), "module"),
    **dict.fromkeys(("macro_rules!", "defmacro"), "macro"),
}


_FIRST_WORDS = frozenset(
    (
        *("pub", "export", "default", "async", "static", "public", "private", "protected", "internal"),
        *("abstract", "final", "override", "inline", "virtual", "unsafe", "extern", "const", "constexpr"),
        *("declare", "open", "suspend", "sealed", "data", "readonly", "partial", "def", "fn", "func"),
        *("function", "function*", "fun", "class", "struct", "enum", "interface", "trait", "type"),
        *("protocol", "object", "record", "module", "defmodule", "defp", "defmacro", "macro_rules!"),
        *("union", "sub", "mod"),
    )
)
"""The words of `_MODIFIERS` and `_KEYWORDS`."""

_NEVER_AT_END = (":", ";", "=", "(", "}", "]", "[", '"', "'")
"""How a line of `_TYPED_FUNCTION` never ends."""

_NOT_NAMES = frozenset(("in", "of", "for", "is"))
_STATEMENTS = frozenset(("if", "for", "while", "switch", "catch", "when", "func", "function"))


def find_definition(line: str, prose: bool) -> Definition | None:
    """What a line begins to define: in `prose` a section, else a test, function, class, constant …"""
    if prose:
        match = _SECTION.match(line)
        return ("section", normalize_line(match["name"])) if match else None
    # what is asked before a pattern is cheap, and every line that the pattern matches has it
    if ('"' in line or "'" in line or "`" in line) and (match := _TEST_TITLE.match(line)):
        return "test", normalize_line(match["name"])
    if (
        _may_open_definition(line)
        and (match := _DEFINITION.match(line))
        and _is_name(match["name"], match["kind"])
    ):
        return _name_kind(match["kind"], match["name"]), match["name"]
    if "=" in line and (match := _ASSIGNED_FUNCTION.match(line)):
        return "function", match["name"]
    if ("_" in line or "#define" in line) and (match := _CONSTANT.match(line)):
        return "constant", match["name"]
    if (
        "(" in line
        and not line.rstrip().endswith(_NEVER_AT_END)
        and (match := _TYPED_FUNCTION.match(line))
        and match["name"] not in _STATEMENTS
    ):
        return "function", match["name"]
    return None


def _may_open_definition(line: str) -> bool:
    """Whether the first word of a line is one with which `_DEFINITION` begins."""
    words = line.split(None, 1)
    return bool(words) and (words[0] in _FIRST_WORDS or words[0].startswith("pub("))


def _is_name(name: str, keyword: str) -> bool:
    """Whether it is one; `$x` in a macro of Rust stands for another."""
    return name not in _NOT_NAMES and not (keyword == "fn" and name.startswith("$"))


def _name_kind(keyword: str, name: str) -> str:
    kind = _KINDS.get(keyword, keyword)
    return "test" if kind == "function" and name.lower().startswith("test") else kind


# --- dependencies and titles --------------------------------------------------------------------------------

_QUOTED_REQUIREMENT = r"\s*[\"'](?P<name>[A-Za-z][\w.-]*)(?:\[[\w, -]+\])?\s*(?:[=<>~!]=|>|<)\s*\d"
_DEPENDENCIES = (
    (
        lazy_pattern(r"(?:^|/)go\.mod$"),
        lazy_pattern(r"\s*(?:require\s+)?(?P<name>[\w.-]+\.[a-z]+/\S+)\s+v\d"),
    ),
    (
        lazy_pattern(r"(?:^|/)package\.json$"),
        lazy_pattern(r"\s*\"(?P<name>@?[\w./-]+)\":\s*\"(?:[\^~]|[<>]=?\s*)?\d+\.[\w.-]+\""),
    ),
    (
        lazy_pattern(r"(?:^|/)Cargo\.toml$"),
        lazy_pattern(r"\s*(?P<name>[\w-]+)\s*=\s*(?:\"[\^~=<> ]*\d[\w., <>=*]*\"|\{.*\bversion\s*=)"),
    ),
    (lazy_pattern(r"(?:^|/)Gemfile$"), lazy_pattern(r"\s*gem\s+[\"'](?P<name>[\w-]+)")),
    (lazy_pattern(r"(?:^|/)(?:pyproject\.toml|setup\.py)$"), lazy_pattern(_QUOTED_REQUIREMENT)),
    (
        lazy_pattern(r"(?:^|/)requirements(?:[^/]*|/[^/]+)\.(?:txt|in)$"),
        lazy_pattern(r"(?P<name>[A-Za-z][\w.-]*)(?:\[[\w, -]+\])?\s*(?:[=<>~!]=|>|<|$)"),
    ),
)
_NO_DEPENDENCY = frozenset(("version", "rust-version", "edition", "node", "npm", "python"))
_UNDERLINE = lazy_pattern(r"([-=~^\"'*+#])\1{3,}\s*$")


def find_dependency_pattern(path: str) -> re.Pattern[str] | None:
    """The pattern of a line that names a dependency in a file; None where no file of its kind does."""
    return next((pattern for paths, pattern in _DEPENDENCIES if paths.search(path)), None)


def find_dependency(line: str, pattern: re.Pattern[str]) -> Definition | None:
    """The dependency that a line names."""
    match = pattern.match(line)
    return ("dependency", match["name"]) if match and match["name"] not in _NO_DEPENDENCY else None


def is_underlined(title: str, below: str) -> bool:
    """Whether a line of prose is the title of a section, by the line below it."""
    return (
        _UNDERLINE.match(below) is not None and 3 <= len(title.strip()) <= 60 and title.strip()[0].isalnum()
    )
