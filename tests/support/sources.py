"""The sources of the package, what they import, and what pyproject.toml says of it."""

import ast
import re
import tomllib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

CHECKOUT = Path(__file__).resolve().parents[2]
ROOT = CHECKOUT / "gitpeft"
PROJECT = tomllib.loads((CHECKOUT / "pyproject.toml").read_text(encoding="utf-8"))["project"]


@dataclass(frozen=True)
class Import:
    """One import statement (or `import_module("…")`): full dotted name, line, and where it stands."""

    name: str
    line: int
    deferred: bool  # inside a function
    typing_only: bool  # under `if TYPE_CHECKING:`


def read_package(root: Path) -> dict[str, str]:
    """Module name relative to the package ("" is its __init__) to source."""
    found = {}
    for path in sorted(root.rglob("*.py")):
        parts = path.relative_to(root).with_suffix("").parts
        found[".".join(parts[:-1] if parts[-1] == "__init__" else parts)] = path.read_text(encoding="utf-8")
    return found


def imports(source: str) -> Iterator[Import]:
    """Every import of a source, in order; `from x import y` gives `x.y`."""
    yield from _walk(ast.parse(source), deferred=False, typing_only=False)


def _walk(node: ast.AST, deferred: bool, typing_only: bool) -> Iterator[Import]:
    for name in _names(node):
        yield Import(name, getattr(node, "lineno", 0), deferred, typing_only)
    deferred = deferred or isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
    guarded = node.body if isinstance(node, ast.If) and "TYPE_CHECKING" in ast.unparse(node.test) else []
    for child in ast.iter_child_nodes(node):
        yield from _walk(child, deferred, typing_only or child in guarded)


def _names(node: ast.AST) -> list[str]:
    """What this one node imports."""
    if isinstance(node, ast.Import):
        return [alias.name for alias in node.names]
    if isinstance(node, ast.ImportFrom):
        return [f"{'.' * node.level}{node.module or ''}.{alias.name}" for alias in node.names]
    if isinstance(node, ast.Call) and ast.unparse(node.func).split(".")[-1] in (
        "import_module",
        "__import__",
    ):
        return [_spelt(node.args[0]) if node.args else "?"]
    return []


def _spelt(name: ast.expr) -> str:
    """The module name that an expression spells, as far as its package is certain; "?" when it is not."""
    if isinstance(name, ast.JoinedStr) and name.values:
        head = name.values[0]
        text = str(head.value) if isinstance(head, ast.Constant) else ""
        return text.rpartition(".")[0] or "?"
    return name.value if isinstance(name, ast.Constant) and isinstance(name.value, str) else "?"


def required(*requirements: str) -> set[str]:
    """Distribution names of requirement lines, in lower case."""
    return {re.split(r"[\[<>=!~; ]", line, maxsplit=1)[0].lower() for line in requirements}
