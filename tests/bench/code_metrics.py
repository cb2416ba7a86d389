"""Counts of a checkout's code that can be compared between versions: sizes, names, types, README.

    python tests/bench/code_metrics.py [NAME=]CHECKOUT ...
    python tests/bench/code_metrics.py --json CHECKOUT
    python tests/bench/code_metrics.py --list one_word_functions CHECKOUT    where they are

Sources are parsed, none is run. Every `def` is a function, in classes and in functions too; its length is
counted from the line of `def` to its last one, without decorators. Each checkout is a column of one table.
"""

import argparse
import ast
import json
import re
import statistics
import sys
from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass, field
from itertools import combinations
from pathlib import Path

PACKAGE = "gitpeft"
LONG_FILE = 400
REPORTING = ("learn", "cli", "share")
"""Packages whose results are printed and stored: where a key that is a string stands for a field."""
FLAT_REPORTING = ("show", "interactive", "channel", "parcel", "travel", "fold", "signing")
"""What lies in those packages today and lay beside them when the package was flat (up to commit 2a643d2)."""
MIN_DUPLICATE_LINES = 4

Function = ast.FunctionDef | ast.AsyncFunctionDef


@dataclass(frozen=True)
class Found:
    """A node and where it stands."""

    module: str
    node: ast.AST
    name: str = ""

    def __str__(self) -> str:
        return f"{self.module}:{getattr(self.node, 'lineno', 0)} {self.name}".rstrip()


@dataclass
class Measurements:
    """The counts of one checkout, named as `--json` prints them."""

    modules: int = 0
    lines: int = 0
    modules_per_package: dict[str, int] = field(default_factory=dict)
    long_files: int = 0
    functions: int = 0
    function_lines_median: float = 0
    function_lines_p90: float = 0
    function_lines_longest: int = 0
    one_word_functions: int = 0
    one_word_share: float = 0
    classes: int = 0
    class_names_in_several_modules: int = 0
    signatures: int = 0
    signatures_with_any: int = 0
    string_subscripts: int = 0
    string_subscripts_in_reports: int = 0
    duplicate_pairs: int = 0
    hiding_docstrings: int = 0
    readme_words: int = 0


LABELS = {
    "modules": "modules",
    "lines": "lines of code, comments and docstrings",
    "long_files": f"files over {LONG_FILE} lines",
    "functions": "functions",
    "function_lines_median": "lines of a function: median",
    "function_lines_p90": "lines of a function: 90th percentile",
    "function_lines_longest": "lines of a function: longest",
    "one_word_functions": "functions named by one word",
    "one_word_share": "functions named by one word, %",
    "classes": "classes",
    "class_names_in_several_modules": "class names that stand in several modules",
    "signatures": "signatures (functions that take or return something)",
    "signatures_with_any": "signatures with `Any`",
    "string_subscripts": 'reads by a key, x["literal"]',
    "string_subscripts_in_reports": f"of them in {', '.join(REPORTING)}",
    "duplicate_pairs": f"pairs of functions of one shape, {MIN_DUPLICATE_LINES} lines or more",
    "hiding_docstrings": 'module docstrings with "hides"',
    "readme_words": "words of the README",
}


class Sources:
    """The parsed modules of a package, and what is looked for in them."""

    def __init__(self, checkout: Path) -> None:
        self.checkout = checkout
        self.root = checkout / PACKAGE
        paths = sorted(self.root.rglob("*.py"))
        self.texts = {self._module(path): path.read_text(encoding="utf-8") for path in paths}
        self.trees = {module: ast.parse(text) for module, text in self.texts.items()}

    def _module(self, path: Path) -> str:
        return "/".join(path.relative_to(self.root).with_suffix("").parts)

    def find(self, *kinds: type[ast.AST]) -> Iterator[Found]:
        """Every node of these kinds, with its name where it has one."""
        for module, tree in self.trees.items():
            for node in ast.walk(tree):
                if isinstance(node, kinds):
                    yield Found(module, node, getattr(node, "name", ""))

    def functions(self) -> list[Found]:
        """Functions and methods, those within others too."""
        return list(self.find(ast.FunctionDef, ast.AsyncFunctionDef))

    def long_files(self) -> list[str]:
        """Modules above `LONG_FILE` lines."""
        lengths = {module: len(text.splitlines()) for module, text in self.texts.items()}
        return [f"{module} {length}" for module, length in lengths.items() if length > LONG_FILE]

    def one_word_functions(self) -> list[Found]:
        """Functions without an underscore within their name; double-underscore methods are left out."""
        return [one for one in self.functions() if not is_dunder(one.name) and "_" not in one.name.strip("_")]

    def named_functions(self) -> list[Found]:
        """Functions that somebody had to name."""
        return [one for one in self.functions() if not is_dunder(one.name)]

    def repeated_classes(self) -> list[str]:
        """Names of classes that stand in several modules, and in which; leading underscores do not count."""
        homes: dict[str, set[str]] = defaultdict(set)
        for one in self.find(ast.ClassDef):
            homes[one.name.strip("_")].add(one.module)
        return [
            f"{name}: {', '.join(sorted(found))}" for name, found in sorted(homes.items()) if len(found) > 1
        ]

    def signatures(self) -> list[Found]:
        """Functions with an annotated parameter or result."""
        return [one for one in self.functions() if list(annotations(one.node))]

    def signatures_with_any(self) -> list[Found]:
        """Signatures in which `Any` stands somewhere."""
        return [one for one in self.signatures() if any(map(mentions_any, annotations(one.node)))]

    def string_subscripts(self) -> list[Found]:
        """Reads of an item by a literal text; a type such as `Iterator["Path"]` is none."""
        return [
            one
            for one in self.find(ast.Subscript)
            if isinstance(one.node, ast.Subscript)
            and not ast.unparse(one.node.value).rpartition(".")[2][:1].isupper()
            and ast.unparse(one.node.value) not in ("type", "list", "tuple", "dict", "set")
            and isinstance(one.node.ctx, ast.Load)
            and isinstance(one.node.slice, ast.Constant)
            and isinstance(one.node.slice.value, str)
        ]

    def string_subscripts_in_reports(self) -> list[Found]:
        """The reads by a literal text in what makes and prints reports."""
        return [
            one for one in self.string_subscripts() if one.module.split("/")[0] in REPORTING + FLAT_REPORTING
        ]

    def duplicate_pairs(self) -> list[str]:
        """Pairs of functions that are equal but for their names and literals."""
        shapes: dict[str, list[Found]] = defaultdict(list)
        for one in self.functions():
            if length(one.node) >= MIN_DUPLICATE_LINES:
                shapes[shape(one.node)].append(one)
        return [f"{a} = {b}" for alike in shapes.values() for a, b in combinations(alike, 2)]

    def hiding_docstrings(self) -> list[str]:
        """Modules whose docstring says that they hide something."""
        return [
            module
            for module, tree in self.trees.items()
            if "hides" in (ast.get_docstring(tree) or "").split()
        ]

    def modules_per_package(self) -> dict[str, int]:
        """Modules by folder, the __init__ files apart."""
        homes = [module.rpartition("/")[0] or "." for module in self.trees if not module.endswith("__init__")]
        return dict(sorted(Counter(homes).items()))

    def measure(self) -> Measurements:
        """All counts."""
        lengths = sorted(length(one.node) for one in self.functions())
        named, short = self.named_functions(), self.one_word_functions()
        readme = self.checkout / "README.md"
        return Measurements(
            modules=sum(self.modules_per_package().values()),
            lines=sum(len(text.splitlines()) for text in self.texts.values()),
            modules_per_package=self.modules_per_package(),
            long_files=len(self.long_files()),
            functions=len(lengths),
            function_lines_median=statistics.median(lengths),
            function_lines_p90=lengths[int(0.9 * len(lengths))],
            function_lines_longest=lengths[-1],
            one_word_functions=len(short),
            one_word_share=round(100 * len(short) / len(named), 1),
            classes=len(list(self.find(ast.ClassDef))),
            class_names_in_several_modules=len(self.repeated_classes()),
            signatures=len(self.signatures()),
            signatures_with_any=len(self.signatures_with_any()),
            string_subscripts=len(self.string_subscripts()),
            string_subscripts_in_reports=len(self.string_subscripts_in_reports()),
            duplicate_pairs=len(self.duplicate_pairs()),
            hiding_docstrings=len(self.hiding_docstrings()),
            readme_words=len(readme.read_text(encoding="utf-8").split()) if readme.exists() else 0,
        )


def is_dunder(name: str) -> bool:
    """Whether Python chose the name."""
    return name.startswith("__") and name.endswith("__")


def length(node: ast.AST) -> int:
    """Lines of a function, decorators apart."""
    assert isinstance(node, Function)
    return (node.end_lineno or node.lineno) - node.lineno + 1


def annotations(node: ast.AST) -> Iterator[ast.expr]:
    """The annotations of a function's parameters and of its result."""
    assert isinstance(node, Function)
    given = node.args
    several = (one for one in (given.vararg, given.kwarg) if one is not None)
    for one in (*given.posonlyargs, *given.args, *given.kwonlyargs, *several):
        if one.annotation is not None:
            yield one.annotation
    if node.returns is not None:
        yield node.returns


def mentions_any(annotation: ast.expr) -> bool:
    """Whether `Any` stands in an annotation, a quoted one too."""
    return re.search(r"\bAny\b", ast.unparse(annotation)) is not None


def shape(node: ast.AST) -> str:
    """A function's statements without docstring, names and literals: node types and how they are nested."""
    assert isinstance(node, Function)
    body = node.body[1:] if ast.get_docstring(node) is not None else node.body
    return "".join(map(nesting, body))


def nesting(node: ast.AST) -> str:
    """The type of a node and those below it."""
    return f"{type(node).__name__}({''.join(map(nesting, ast.iter_child_nodes(node)))})"


def named_path(text: str) -> tuple[str, Path]:
    """A checkout and what its column is called: its folder's name if nothing else is said."""
    name, _, path = text.rpartition("=")
    return name or Path(path).resolve().name, Path(path)


def print_table(measured: dict[str, Measurements]) -> None:
    """One row a count, one column a checkout; then the modules of each package."""
    width = max(map(len, LABELS.values()))
    print(" " * width, *(f"{name:>12}" for name in measured))
    for key, label in LABELS.items():
        print(f"{label:<{width}}", *(f"{getattr(one, key):>12g}" for one in measured.values()))
    for name, one in measured.items():
        homes = ", ".join(f"{home} {count}" for home, count in one.modules_per_package.items())
        print(f"\nmodules per package, {name}: {homes}")


def main(args: Sequence[str] | None = None) -> None:
    """Measure the checkouts that the command line names."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("checkouts", nargs="+", type=named_path, metavar="[NAME=]CHECKOUT")
    parser.add_argument("--json", action="store_true", help="a JSON object, by checkout")
    lists = [key for key in LABELS if callable(getattr(Sources, key, None))]
    parser.add_argument("--list", choices=[*lists, "repeated_classes"], help="print where these are instead")
    given = parser.parse_args(args)
    for _, checkout in given.checkouts:
        if not (checkout / PACKAGE).is_dir():
            sys.exit(f"{checkout} has no folder {PACKAGE}")
    sources = {name: Sources(checkout) for name, checkout in given.checkouts}
    if given.list:
        for one in sources.values():
            print(*getattr(one, given.list)(), sep="\n")
        return
    measured = {name: one.measure() for name, one in sources.items()}
    if given.json:
        print(json.dumps({name: asdict(one) for name, one in measured.items()}, indent=1))
    else:
        print_table(measured)


if __name__ == "__main__":
    main()
