"""The part of YAML that linter settings are written in, without a dependency: hides indentation and quoting.

Maps, lists, lists in brackets and scalars. Anchors, tags, block scalars and several documents are refused: a
linter file that needs them is left unread rather than misread.
"""

import re
from typing import Any

_KEY_PATTERN = re.compile(
    r"""(?P<key>"[^"]*"|'[^']*'|[^\s'"\[{#&*!|>%@`-][^:#]*?)\s*:(?:\s+(?P<value>.*))?$"""
)
_NUMBER_PATTERN = re.compile(r"[-+]?\d+$")
_PLAIN_VALUES = {"true": True, "false": False, "null": None, "~": None, "": None, "yes": True, "no": False}
MAX_DEPTH = 20


def parse_yaml(text: str) -> Any:
    """The value of a document. ValueError for anything that is not in the subset above."""
    lines: IndentedLines = []
    for raw in text.splitlines():
        line = _strip_comment(raw).rstrip()
        if "\t" in raw[: len(raw) - len(raw.lstrip())]:
            raise ValueError("a tab in the indentation")
        if line.strip() and not (line == "---" and not lines):
            lines.append((len(line) - len(line.lstrip()), line.strip()))
    value, rest = _parse_block(lines, 0) if lines else (None, [])
    if rest:
        raise ValueError(f"unexpected {rest[0][1]!r}")
    return value


def _strip_comment(line: str) -> str:
    """The line without its comment, which a `#` starts outside quotes and after a space."""
    quote = ""
    for at, character in enumerate(line):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character == "#" and (at == 0 or line[at - 1].isspace()):
            return line[:at]
    return line


IndentedLines = list[tuple[int, str]]


def _parse_block(lines: IndentedLines, depth: int) -> tuple[Any, IndentedLines]:
    if depth > MAX_DEPTH:
        raise ValueError("nested too deeply")
    if lines[0][1] == "-" or lines[0][1].startswith("- "):
        return _parse_list(lines, depth)
    if _KEY_PATTERN.match(lines[0][1]):
        return _parse_map(lines, depth)
    return parse_scalar(lines[0][1]), lines[1:]


def _parse_list(lines: IndentedLines, depth: int) -> tuple[list[Any], IndentedLines]:
    indent, found = lines[0][0], []
    while lines and lines[0][0] == indent and (lines[0][1] == "-" or lines[0][1].startswith("- ")):
        text = lines[0][1][1:]
        inner = indent + 1 + len(text) - len(text.lstrip())
        inside = [(inner, text.strip())] if text.strip() else []
        lines = lines[1:]
        while lines and lines[0][0] > indent:
            inside.append(lines[0])
            lines = lines[1:]
        value, rest = _parse_block(inside, depth + 1) if inside else (None, [])
        if rest:
            raise ValueError(f"unexpected {rest[0][1]!r}")
        found.append(value)
    return found, lines


def _parse_map(lines: IndentedLines, depth: int) -> tuple[dict[str, Any], IndentedLines]:
    indent, found = lines[0][0], dict[str, Any]()
    while lines and lines[0][0] == indent and (match := _KEY_PATTERN.match(lines[0][1])):
        text, lines = (match["value"] or "").strip(), lines[1:]
        nested = lines and (lines[0][0] > indent or (lines[0][0] == indent and lines[0][1].startswith("- ")))
        if text:
            while text[0] in "[{" and text.count("[") > text.count("]") and lines:
                text, lines = f"{text} {lines[0][1]}", lines[1:]
            value: Any = parse_scalar(text)
        elif nested:
            value, lines = _parse_block(lines, depth + 1)
        else:
            value = None
        found[str(parse_scalar(match["key"]))] = value
    return found, lines


def parse_scalar(text: str) -> Any:
    """A quoted or plain word, a number, or a list in brackets."""
    if text[:1] in ("'", '"'):
        if len(text) < 2 or text[-1] != text[0]:
            raise ValueError(f"unfinished quote in {text[:40]!r}")
        inside = text[1:-1]
        return (
            inside.replace("''", "'") if text[0] == "'" else inside.replace('\\"', '"').replace("\\\\", "\\")
        )
    if text.startswith("["):
        return _parse_flow_list(text)
    if text[:1] in ("&", "*", "!", "|", ">", "{", "%", "@", "`"):
        raise ValueError(f"not in the subset: {text[:40]!r}")
    if text.lower() in _PLAIN_VALUES:
        return _PLAIN_VALUES[text.lower()]
    return int(text) if _NUMBER_PATTERN.match(text) and len(text) < 12 else text


def _parse_flow_list(text: str) -> list[Any]:
    if not text.endswith("]"):
        raise ValueError(f"unfinished list in {text[:40]!r}")
    parts, depth, quote, start = [], 0, "", 1
    for at, character in enumerate(text[1:-1], 1):
        if quote:
            quote = "" if character == quote else quote
        elif character in "'\"":
            quote = character
        elif character in "[]":
            depth += 1 if character == "[" else -1
        elif character == "," and depth == 0:
            parts.append(text[start:at])
            start = at + 1
    parts.append(text[start:-1])
    if depth or quote or len(parts) > 1000:
        raise ValueError(f"a list of another form: {text[:40]!r}")
    return [parse_scalar(part.strip()) for part in parts if part.strip()]
