"""The architecture in a form that cannot go stale: which module of the package may import what, and where.

The tables below are the rule. `breaches` reads sources with `ast` and runs none of them; its own tests are at
the end, on small bad sources.
"""

import ast
import re
import subprocess
import sys
from collections.abc import Iterator, Mapping
from graphlib import CycleError, TopologicalSorter

import pytest

from tests.support.distributions import DISTRIBUTIONS
from tests.support.sources import CHECKOUT, PROJECT, ROOT, Import, imports, read_package, required

# Who may import a package from outside the standard library. What is not named here is refused, so a new
# dependency is a decision. `learn` stands for everything below gitpeft/learn/.
IMPORTERS = {
    "torch": {"learn"},
    "transformers": {"learn"},
    "peft": {"learn"},
    "safetensors": {"learn", "share.lora_merge", "share.packed", "share.packed_merge"},
    "huggingface_hub": {
        "learn.models.hub"
    },  # comes with transformers; offline unless a person says otherwise
    "onnx": {"learn"},
    "rapidfuzz": {"learn"},
    "pyroaring": {"learn.risk.metric_replay"},
    "rouge_score": {"learn"},
    "onnxruntime": {"runtime.onnx_model", "suggest.generator", "learn"},
    "tokenizers": {"runtime.tokenizer", "suggest.generator", "risk.encoder", "learn"},
    # share: a model that was pulled is put together where there is no torch.
    "numpy": {
        "bundle.block_file",
        "suggest.index_arrays",
        "runtime.beam_search",
        "runtime.sampling",
        "suggest.consensus",
        "runtime.onnx_model",
        "suggest.generator",
        "suggest.suggester",
        "suggest.retrieval",
        "risk.encoder",
        "share.lora_merge",
        "share.packed",
        "share.packed_merge",
        "share.quantisation",
        "share.delta",
        "learn",
    },
    "typer": {"cli"},
    "rich": {"cli"},
    "git": {"git"},
    "detect_secrets": {"redaction"},
    "yaml": {"suggest.lint_config"},
    "pygments": {"learn.szz"},
}

# Modules of the standard library of which each version of Python has one.
VERSIONED = {"_sha2", "_sha256"}

# Who may do so while it is being imported; all others wait until a function needs it. Nobody may for peft
# (7 s to import), the exporters, and onnxruntime (whose telemetry must be switched off first).
AT_MODULE_LEVEL = {
    "learn": {"numpy", "safetensors", "tokenizers", "torch", "transformers"},
    "learn.models.bottleneck": {
        "peft"
    },  # its classes derive from PEFT's; it is imported inside functions only
    "learn.szz.candidate_lines": {"pygments"},
    "learn.risk.metric_replay": {"pyroaring"},
    "cli": {"typer"},
    "cli.progress": {"rich"},
    "cli.tables": {"rich"},
}

# Inner modules with few visitors: who may import them, who only inside functions or only for types.
VISITORS: dict[str, dict[str, str]] = {
    "cli": {"cli": "anywhere", "__main__": "anywhere"},
    "cli.app": {"cli": "in functions", "__main__": "anywhere"},
    "learn": {"learn": "anywhere", "cli": "in functions"},
    "learn.models.bottleneck": {"learn.adapter": "anywhere", "learn": "in functions"},
    "cli.views": {"cli": "in functions"},
    "cli.progress": {"cli.tables": "anywhere", "cli": "in functions"},
    "cli.tables": {"cli": "in functions"},
}

# Standard library, but nobody's or nearly nobody's business here.
_SERIALISERS = ("pickle", "_pickle", "marshal", "shelve", "dbm")
_NETWORK = (
    "socket",
    "_socket",
    "socketserver",
    "ssl",
    "http",
    "urllib.request",
    "ftplib",
    "smtplib",
    "xmlrpc",
)
RESTRICTED: dict[str, set[str]] = {
    **{name: set() for name in (*_SERIALISERS, *_NETWORK)},
    "subprocess": {
        "git",
        "hooks.run",
        "cli.interactive",
    },  # git for git, the others for an editor or their own next stage
}

# The packages in layers: a package may import what stands in a layer above its own, and itself.
LAYERS = (
    ("", "errors", "lazy", "digests", "files", "terminal", "trace"),
    ("redaction",),
    ("diff",),
    ("git",),
    ("history", "bundle", "config", "runtime"),
    ("suggest",),
    ("share", "risk"),
    ("monitor",),
    ("hooks",),
    ("hook", "learn"),
    ("cli",),
    ("__main__",),
)
LEARN_LAYERS = (
    ("charts", "logistic"),
    ("data", "models"),
    ("szz", "evaluation", "export"),
    ("budget", "training"),
    ("risk", "pretraining"),
    ("results",),
    ("packing",),
    ("pipeline", "adapter"),
    ("compare", "retrain"),
)


def within(module: str, area: str) -> bool:
    """Whether a dotted name is `area` or lies below it."""
    return module == area or module.startswith(area + ".")


def allowed(module: str, areas: set[str]) -> bool:
    """Whether a dotted name lies in one of the areas."""
    return any(within(module, area) for area in areas)


def breaches(sources: Mapping[str, str]) -> list[str]:
    """What the tables forbid, one line each: `module:line: reason`."""
    found = []
    for module, source in sources.items():
        for one in imports(source):
            reasons = [*_judge(module, one, sources), *_judge_order(module, one, sources)]
            found += [f"{module or '__init__'}:{one.line}: {why}" for why in reasons[:1]]
    return found + _cycles(sources)


def _judge(module: str, one: Import, sources: Mapping[str, str]) -> Iterator[str]:
    top = one.name.split(".")[0]
    if one.name.startswith("."):
        yield "relative import"
    elif one.name == "?":
        yield "imports a name that is only known when it runs"
    elif top == "gitpeft":
        yield from _judge_inner(module, one, _inner(one.name, sources))
    elif top in sys.stdlib_module_names | VERSIONED:
        for name, users in RESTRICTED.items():
            if within(one.name, name) and not allowed(module, users):
                yield f"imports {name}"
    else:
        yield from _judge_outer(module, one, top)


def _judge_outer(module: str, one: Import, top: str) -> Iterator[str]:
    if top not in IMPORTERS:
        yield f"imports {top}, which no table names"
    elif not allowed(module, IMPORTERS[top]):
        yield f"imports {top}"
    elif not (one.deferred or one.typing_only):
        early = {name for area, names in AT_MODULE_LEVEL.items() if within(module, area) for name in names}
        if top not in early:
            yield f"imports {top} outside a function"


def _judge_inner(module: str, one: Import, target: str) -> Iterator[str]:
    for area, visitors in VISITORS.items():
        if not within(target, area) or module == area:
            continue
        manner = [how for name, how in visitors.items() if within(module, name)]
        if not manner:
            yield f"imports gitpeft.{target}"
        elif manner[0] == "for types" and not one.typing_only:
            yield f"imports gitpeft.{target} for more than types"
        elif manner[0] == "in functions" and not (one.deferred or one.typing_only):
            yield f"imports gitpeft.{target} outside a function"


def _judge_order(module: str, one: Import, sources: Mapping[str, str]) -> Iterator[str]:
    """The order between packages; what no layer names is refused, so that a new package is a decision."""
    if one.name.split(".")[0] != "gitpeft":
        return
    target = _inner(one.name, sources)
    here, there = module.split("."), target.split(".")
    layers: tuple[tuple[str, ...], ...] = LAYERS
    if here[0] == there[0] == "learn":
        here, there, layers = here[1:], there[1:], LEARN_LAYERS
        if not here or not there:  # learn/__init__.py, which registers the project's own architecture
            return
    if here[0] == there[0]:
        return
    if _layer(here[0], layers) <= _layer(there[0], layers):
        yield f"imports gitpeft.{target}, which is not in a layer before its own"


def _layer(package: str, layers: tuple[tuple[str, ...], ...]) -> int:
    """Where a package stands; one that stands nowhere may be imported by nobody and import nothing."""
    return next((number for number, names in enumerate(layers) if package in names), -1)


def _inner(name: str, sources: Mapping[str, str]) -> str:
    """The module of the package that `gitpeft.a.b` means: the longest part of it that is a module."""
    parts = name.split(".")[1:]
    while parts and ".".join(parts) not in sources:
        parts.pop()
    return ".".join(parts)


def _cycles(sources: Mapping[str, str]) -> list[str]:
    """A cycle in the graph of all imports between modules, deferred ones and those for types too."""
    graph = {
        module: {_inner(one.name, sources) for one in imports(source) if one.name.split(".")[0] == "gitpeft"}
        for module, source in sources.items()
    }
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return ["cycle: " + " -> ".join(name or "__init__" for name in reversed(error.args[1]))]
    return []


def outside_git_package(sources: Mapping[str, str]) -> list[str]:
    """Places outside gitpeft/git that spell a git command line: a list or tuple that begins with "git"."""
    found = []
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            first = node.elts[0] if isinstance(node, ast.List | ast.Tuple) and node.elts else None
            spelled = isinstance(first, ast.Constant) and first.value == "git"
            shell = isinstance(node, ast.Call) and ast.unparse(node.func) in ("os.system", "os.popen")
            if shell or (
                spelled and not within(module, "git") and isinstance(getattr(node, "ctx", None), ast.Load)
            ):
                found.append(f"{module}:{getattr(node, 'lineno', 0)}")
    return found


def unsafe_flags(sources: Mapping[str, str]) -> list[str]:
    """Calls that let a file bring code along: `trust_remote_code`, `allow_pickle`, `weights_only=False`."""
    found = []
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, ast.Call):
                given = {word.arg: ast.unparse(word.value) for word in node.keywords}
                loads = ast.unparse(node.func) == "torch.load" and given.get("weights_only") != "True"
                opened = any(
                    given.get(name, "False") != "False" for name in ("trust_remote_code", "allow_pickle")
                )
                if loads or opened:
                    found.append(f"{module}:{node.lineno}")
    return found


# --- the package ------------------------------------------------------------------------------------------


def test_the_package_keeps_to_the_tables() -> None:
    assert breaches(read_package(ROOT)) == []


def test_every_import_is_a_declared_dependency() -> None:
    plain = required(*PROJECT["dependencies"])
    train = plain | required(*PROJECT["optional-dependencies"]["train"])
    for package, areas in IMPORTERS.items():
        learning_only = all(area.split(".")[0] == "learn" for area in areas)
        assert DISTRIBUTIONS.get(package, package) in (train if learning_only else plain), package


def test_only_the_git_package_runs_git() -> None:
    assert outside_git_package(read_package(ROOT)) == []


def test_no_file_may_bring_code() -> None:
    assert unsafe_flags(read_package(ROOT)) == []


def test_the_hook_path_loads_the_standard_library_only() -> None:
    """The same, seen at run time: import all but cli and learn, and look what came along."""
    outside = {"cli", "__main__", "learn"}
    modules = [f"gitpeft.{name}" for name in read_package(ROOT) if name and not allowed(name, outside)]
    program = (
        "import sys; before = set(sys.modules)\n"
        + "".join(f"import {name}\n" for name in modules)
        + "tops = {name.split('.')[0] for name in set(sys.modules) - before}\n"
        + "print(*sorted(tops - set(sys.stdlib_module_names) - {'gitpeft'}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-P", "-c", program], cwd=ROOT.parent, env={"PYTHONPATH": str(ROOT.parent)},
        capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert done.stdout.split() == []


# --- the tests --------------------------------------------------------------------------------------------


def imports_of_tests(sources: Mapping[str, str]) -> list[str]:
    """Places in tests that name a test module or a conftest; in a program that a test runs they count too."""
    named = re.compile(r"(?:from|import) (tests(?:\.\w+)*\.(?:test_\w+|conftest))\b")
    return [f"{module}: {name}" for module, source in sources.items() for name in named.findall(source)]


def test_no_test_module_imports_another() -> None:
    """What several need is in tests/support, or a fixture."""
    assert imports_of_tests(read_package(CHECKOUT / "tests")) == []


def test_an_import_of_a_test_module_is_found() -> None:
    named = "tests.git." + "test_repository"
    package = {
        "a": f"def f():\n    from {named} import x",
        "b": f'PROGRAM = "import os; import {named}"',
        "c": "from tests.support.gitrepo import Repo",
        "d": f"see {named}",
    }
    assert imports_of_tests(package) == [f"a: {named}", f"b: {named}"]


# --- the checker ------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("module", "source", "reason"),
    [
        ("diff", "def f():\n    import numpy", "diff:2: imports numpy"),
        ("suggest.suggester", "import numpy as np", "suggest.suggester:1: imports numpy outside a function"),
        ("suggest.suggester", "if True:\n    from numpy import array", "suggest.suggester:2: imports numpy"),
        ("suggest.suggester", "class A:\n    import tokenizers", "suggest.suggester:2: imports tokenizers"),
        ("suggest", "def f():\n    import torch", "suggest:2: imports torch"),
        ("bundle", "def f():\n    import onnxruntime", "bundle:2: imports onnxruntime"),
        ("risk", "import typing\nif typing.TYPE_CHECKING:\n    import torch", "risk:3: imports torch"),
        ("learn.training.loop", "import peft", "learn.training.loop:1: imports peft outside a function"),
        ("learn.training.loop", "import rich", "learn.training.loop:1: imports rich"),
        ("learn.data", "import onnxruntime.tools", "learn.data:1: imports onnxruntime outside a function"),
        ("git", "from git import Repo", "git:1: imports git outside a function"),
        ("share", "def f():\n    import git.refs", "share:2: imports git"),
        ("hook", "def f():\n    import typer", "hook:2: imports typer"),
        ("hook", "def f():\n    from gitpeft import cli", "hook:2: imports gitpeft.cli"),
        ("hook", "def f():\n    import gitpeft.learn.data", "hook:2: imports gitpeft.learn.data"),
        ("hook", "def f():\n    from gitpeft.learn.data import X", "hook:2: imports gitpeft.learn.data"),
        ("cli.app", "from gitpeft.learn import data", "cli.app:1: imports gitpeft.learn.data outside a"),
        ("learn.data", "def f():\n    from gitpeft.cli import main", "learn.data:2: imports gitpeft.cli"),
        ("hooks", "def f():\n    import requests", "hooks:2: imports requests, which no table names"),
        ("redaction", "import detect_secrets.core", "redaction:1: imports detect_secrets outside a function"),
        ("history", "import pickle", "history:1: imports pickle"),
        ("history", "from urllib import request", "history:1: imports urllib.request"),
        ("history", "import subprocess", "history:1: imports subprocess"),
        ("diff", "from . import errors", "diff:1: relative import"),
        ("diff", "def f():\n    __import__('torch')", "diff:2: imports torch"),
        ("diff", "import importlib\nimportlib.import_module('numpy')", "diff:2: imports numpy"),
        ("diff", "import importlib\nimportlib.import_module(name)", "diff:2: imports a name that is only"),
        ("diff", "import importlib\nimport_module(f'a{x}.b')", "diff:2: imports a name that is only"),
        ("diff", "import importlib\nimportlib.import_module(f'torch.{x}')", "diff:2: imports torch"),
        ("", "import numpy", "__init__:1: imports numpy"),
        ("diff", "from gitpeft import errors, git", "diff:1: imports gitpeft.git, which is not in a layer"),
        ("share", "def f():\n    from gitpeft import risk", "share:2: imports gitpeft.risk, which is"),
        ("new", "from gitpeft import errors", "new:1: imports gitpeft.errors, which is not in a layer"),
        ("learn.data", "import gitpeft.learn.compare", "learn.data:1: imports gitpeft.learn.compare, wh"),
        ("runtime.worker", "def f():\n    import numpy", "runtime.worker:2: imports numpy"),
    ],
)  # fmt: skip
def test_a_breach_is_found(module: str, source: str, reason: str) -> None:
    package = dict.fromkeys(
        ("", "cli", "errors", "git", "learn", "learn.compare", "learn.data", "risk"), ""
    ) | {module: source}
    found = breaches(package)
    assert len(found) == 1
    assert found[0].startswith(reason)


@pytest.mark.parametrize(
    ("module", "source"),
    [
        (
            "suggest.generator",
            "def f():\n    import numpy, onnxruntime\n    from tokenizers import Tokenizer",
        ),
        ("suggest.suggester", "from typing import TYPE_CHECKING\nif TYPE_CHECKING:\n    import numpy as np"),
        ("redaction", "def f():\n    import_module(f'detect_secrets.plugins.{name}')"),
        ("suggest.retrieval", "class Index:\n    def load(self):\n        import numpy as np"),
        ("learn.training", "import torch\nfrom transformers import AutoModel\nimport gitpeft.learn.data"),
        ("learn", "from gitpeft.learn import data"),
        ("learn.compare", "import numpy\nfrom gitpeft.learn import data"),
        ("cli.tables", "from rich.table import Table"),
        ("cli.app", "import typer\ndef train():\n    from gitpeft.learn import data"),
        ("__main__", "from gitpeft.cli import main"),
        ("git.repository", "import subprocess\ndef f():\n    import git"),
        ("share", "import json, urllib.parse\nfrom gitpeft.errors import GitpeftError"),
    ],
)
def test_what_the_tables_allow_passes(module: str, source: str) -> None:
    package = dict.fromkeys(
        ("", "cli", "errors", "git", "learn", "learn.compare", "learn.data", "risk"), ""
    ) | {module: source}
    assert breaches(package) == []


def test_a_cycle_is_found_even_through_a_function() -> None:
    package = {
        "": "",
        "diff.patch": "from gitpeft.diff.render import render",
        "diff.render": "def f():\n    from gitpeft.diff import compact",
        "diff.compact": "import gitpeft.diff.patch",
    }
    [found] = breaches(package)
    assert found.startswith("cycle: ")
    assert set(found.removeprefix("cycle: ").split(" -> ")) == {"diff.patch", "diff.render", "diff.compact"}


def test_a_git_command_line_is_found() -> None:
    package = {
        "git.repository": "run(['git', 'log'])",
        "hook": "\nrun(['git', 'log'])",
        "share": "run(('git', *args))",
        "cli": "os.system('ls')",
        "risk": "run(['ls', 'git'])",
    }
    assert outside_git_package(package) == ["hook:2", "share:1", "cli:1"]


def test_a_call_that_runs_a_files_code_is_found() -> None:
    package = {
        "a": "from_pretrained(x, trust_remote_code=True)",
        "b": "np.load(x, allow_pickle=flag)",
        "c": "torch.load(x)",
        "d": "torch.load(x, weights_only=True); np.load(x, allow_pickle=False); f(trust_remote_code=False)",
    }
    assert unsafe_flags(package) == ["a:1", "b:1", "c:1"]
