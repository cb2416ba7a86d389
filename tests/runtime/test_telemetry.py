"""onnxruntime stays silent: no thread, no file, whichever module of the package imports it first.

From 1.29 on, importing onnxruntime opens a telemetry client unless ORT_DISABLE_TELEMETRY is 1 at that moment.
One test reads the package and finds an import without the switch; another runs what imports it, in a process
of its own with an empty home, against the installed onnxruntime and against a talkative stand-in.
"""

import ast
import json
import os
import subprocess
import sys
from collections.abc import Iterator, Mapping
from pathlib import Path

import pytest

from tests.support.sources import ROOT, read_package

SWITCH = "ORT_DISABLE_TELEMETRY"
Function = ast.FunctionDef | ast.AsyncFunctionDef

TALKATIVE = f"""
import os, pathlib, threading, time, unittest.mock
def __getattr__(name):
    return unittest.mock.MagicMock()
if os.environ.get("{SWITCH}") != "1":
    (pathlib.Path.home() / "deviceid").write_text("who")
    threading.Thread(target=time.sleep, args=(60,), daemon=True).start()
"""

CHILD = """
import importlib, json, os, pathlib, sys
kinds = {"bytes": lambda: here.read_bytes(), "Path": lambda: here, "int": lambda: 1}
def state():
    files = sorted(str(path) for path in pathlib.Path.home().rglob("*"))
    return {"threads": len(os.listdir("/proc/self/task")), "files": files}
import numpy  # its own pool of threads is no telemetry
before = state()
module, function, model, *arguments = sys.argv[1:]
here = pathlib.Path(model)
loaded = importlib.import_module(module)
if function:
    session = getattr(loaded, function)(*[kinds[kind]() for kind in arguments])
print(json.dumps([before, state(), "onnxruntime" in sys.modules]))
os._exit(print(end="", flush=True) or 0)
"""

needs_proc = pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="counts threads in /proc")


def sets_switch(node: ast.AST) -> bool:
    """`os.environ["ORT_DISABLE_TELEMETRY"] = "1"`: an assignment, because setdefault would keep a 0."""
    if not isinstance(node, ast.Assign):
        return False
    wanted = ast.unparse(ast.parse(f"os.environ['{SWITCH}'] = '1'"))
    return any(f"{ast.unparse(target)} = {ast.unparse(node.value)}" == wanted for target in node.targets)


def imports_onnxruntime(node: ast.AST) -> bool:
    if isinstance(node, ast.Import):
        return any(alias.name.split(".")[0] == "onnxruntime" for alias in node.names)
    return isinstance(node, ast.ImportFrom) and (node.module or "").split(".")[0] == "onnxruntime"


def functions(sources: Mapping[str, str]) -> Iterator[tuple[str, Function]]:
    for module, source in sources.items():
        for node in ast.walk(ast.parse(source)):
            if isinstance(node, Function):
                yield module, node


def _for_types_only(tree: ast.AST) -> set[ast.AST]:
    guards = (node for node in ast.walk(tree) if isinstance(node, ast.If))
    return {
        inner
        for guard in guards
        if "TYPE_CHECKING" in ast.unparse(guard.test)
        for statement in guard.body
        for inner in ast.walk(statement)
    }


def loud_imports(sources: Mapping[str, str]) -> list[str]:
    """Imports of onnxruntime, `module:line`, with no switch before them in the same function.

    The switch is the assignment, or a call of a function of the package that makes it.
    """
    silencers = {f.name for _, f in functions(sources) if any(map(sets_switch, ast.walk(f)))}
    silent: set[tuple[str, int]] = set()
    for module, function in functions(sources):
        nodes = list(ast.walk(function))
        calls = (
            n for n in nodes if isinstance(n, ast.Call) and ast.unparse(n.func).split(".")[-1] in silencers
        )
        switched = [
            n.lineno for n in (*filter(sets_switch, nodes), *calls) if isinstance(n, ast.stmt | ast.expr)
        ]
        imported = [n.lineno for n in nodes if imports_onnxruntime(n) and isinstance(n, ast.stmt)]
        silent |= {(module, line) for line in imported if switched and min(switched) < line}
    found = []
    for module, source in sources.items():
        tree = ast.parse(source)
        typed = _for_types_only(tree)
        lines = {
            n.lineno
            for n in ast.walk(tree)
            if imports_onnxruntime(n) and n not in typed and isinstance(n, ast.stmt)
        }
        found += [f"{module}:{line}" for line in sorted(lines) if (module, line) not in silent]
    return found


def loaders(sources: Mapping[str, str]) -> list[tuple[str, str, list[str]]]:
    """Functions outside learn/ that import onnxruntime: module, name, and the types of what they need."""
    found = []
    for module, source in sources.items():
        for node in [] if module.startswith("learn") else ast.parse(source).body:
            if isinstance(node, Function) and any(map(imports_onnxruntime, ast.walk(node))):
                needed = node.args.args[: len(node.args.args) - len(node.args.defaults)]
                kinds = [ast.unparse(one.annotation) for one in needed if one.annotation]
                found.append((f"gitpeft.{module}", node.name, kinds))
    return found


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An ONNX model that returns what it is given."""
    from onnx import TensorProto, helper, save

    wires = [helper.make_tensor_value_info(name, TensorProto.FLOAT, [1]) for name in ("x", "y")]
    graph = helper.make_graph([helper.make_node("Identity", ["x"], ["y"])], "same", wires[:1], wires[1:])
    path = tmp_path_factory.mktemp("onnx") / "same.onnx"
    opset = [helper.make_opsetid("", 18)]
    save(helper.make_model(graph, ir_version=9, opset_imports=opset), path)
    return path


def watch(home: Path, path: str, model: Path, *way: str) -> tuple[dict[str, object], dict[str, object]]:
    """Threads and files of a fresh process before and after it loads onnxruntime by `way`."""
    home.mkdir()
    module, function, *kinds = way
    env = {"HOME": str(home), "PYTHONPATH": path, "PATH": os.environ["PATH"], "OMP_NUM_THREADS": "1"}
    done = subprocess.run(
        [sys.executable, "-B", "-c", CHILD, module, function, str(model), *kinds],
        env=env,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"cannot call {module}.{function}({', '.join(kinds)}): {done.stderr}"
    before, after, loaded = json.loads(done.stdout)
    assert loaded, f"{module}.{function} did not import onnxruntime"
    return before, after


@pytest.fixture
def talkative(tmp_path: Path) -> str:
    """A folder with a stand-in for onnxruntime that talks, as newer ones do, unless it is switched off."""
    (tmp_path / "fake" / "onnxruntime").mkdir(parents=True)
    (tmp_path / "fake" / "onnxruntime" / "__init__.py").write_text(TALKATIVE)
    return f"{tmp_path / 'fake'}{os.pathsep}{ROOT.parent}"


def test_every_import_of_onnxruntime_is_switched_to_silence_first() -> None:
    assert loud_imports(read_package(ROOT)) == []


@needs_proc
@pytest.mark.parametrize("stand_in", [False, True], ids=["installed", "stand-in"])
def test_a_session_leaves_no_thread_and_no_file(
    stand_in: bool, tmp_path: Path, talkative: str, model: Path
) -> None:
    ways = loaders(read_package(ROOT))
    assert ways, "no function of the package imports onnxruntime: what runs the model?"
    for number, (module, function, kinds) in enumerate(ways):
        path = talkative if stand_in else str(ROOT.parent)
        before, after = watch(tmp_path / f"home{number}", path, model, module, function, *kinds)
        assert after == before, f"{module}.{function}"


@needs_proc
def test_a_talkative_import_is_seen(tmp_path: Path, talkative: str, model: Path) -> None:
    before, after = watch(tmp_path / "home", talkative, model, "onnxruntime", "")
    assert before == {"threads": 1, "files": []}
    assert after == {"threads": 2, "files": [str(tmp_path / "home" / "deviceid")]}


@pytest.mark.parametrize(
    ("source", "expected"),
    [
        ("import onnxruntime", ["m:1"]),
        ("def f():\n    from onnxruntime import InferenceSession", ["m:2"]),
        (
            "def f():\n    import onnxruntime.quantization\n    os.environ['ORT_DISABLE_TELEMETRY'] = '1'",
            ["m:2"],
        ),
        ("def f():\n    os.environ['ORT_DISABLE_TELEMETRY'] = '0'\n    import onnxruntime", ["m:3"]),
        (
            "def f():\n    os.environ.setdefault('ORT_DISABLE_TELEMETRY', '1')\n    import onnxruntime",
            ["m:3"],
        ),
        ("def f():\n    quiet()\n    import onnxruntime\ndef quiet(): pass", ["m:3"]),
        ("def f():\n    os.environ['ORT_DISABLE_TELEMETRY'] = '1'\n    import onnxruntime", []),
        (
            "def q():\n  os.environ['ORT_DISABLE_TELEMETRY'] = '1'\ndef f():\n  a.q()\n  import onnxruntime",
            [],
        ),
        ("import typing\nif typing.TYPE_CHECKING:\n    import onnxruntime", []),
        ("import onnx\nfrom gitpeft import onnxruntime_helper", []),
    ],
)
def test_an_import_without_the_switch_is_found(source: str, expected: list[str]) -> None:
    assert loud_imports({"m": source}) == expected
