"""What the wheel and the source archive hold, and that what is said in two places is the same."""

import re
import subprocess
import sys
import tarfile
import zipfile
from collections.abc import Iterator
from email.message import Message
from email.parser import Parser
from pathlib import Path, PurePosixPath

import pytest

import gitpeft
from tests.support.sources import CHECKOUT, PROJECT, required

README = CHECKOUT / "README.md"
MOVED = {
    "hooks": "gitpeft/_hooks",
    "models": "gitpeft/_models",
}  # folder of the checkout: its place in the wheel
SHIPPED = {"", ".json", ".md", ".onnx", ".png", ".py", ".safetensors", ".toml", ".txt", ".typed"}

needs_git = pytest.mark.skipif(not (CHECKOUT / ".git").exists(), reason="not a git checkout")


def tracked(*folders: str) -> set[str]:
    """Files below these folders that git tracks and that are there, as paths from the top."""
    done = subprocess.run(
        ["git", "-C", str(CHECKOUT), "ls-files", "-z", "--", *folders],
        capture_output=True,
        text=True,
        check=True,
    )
    return {name for name in done.stdout.split("\0") if name and (CHECKOUT / name).exists()}


def build(kind: str, target: Path) -> Path:
    """Build a `wheel` or an `sdist` with the backend that pyproject.toml names, in a process of its own."""
    program = f"import sys, hatchling.build as b; b.build_{kind}(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", program, str(target)], cwd=CHECKOUT, capture_output=True, check=True
    )
    [archive] = target.iterdir()
    return archive


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Iterator[zipfile.ZipFile]:
    with zipfile.ZipFile(build("wheel", tmp_path_factory.mktemp("wheel"))) as archive:
        yield archive


@pytest.fixture(scope="module")
def metadata(wheel: zipfile.ZipFile) -> Message:
    [name] = [name for name in wheel.namelist() if name.endswith(".dist-info/METADATA")]
    return Parser().parsestr(wheel.read(name).decode())


def in_wheel(name: str) -> str:
    """Where the wheel keeps a file of the checkout."""
    top, _, rest = name.partition("/")
    return f"{MOVED.get(top, top)}/{rest}"


def contents(wheel: zipfile.ZipFile) -> set[str]:
    return {name for name in wheel.namelist() if ".dist-info/" not in name}


@needs_git
@pytest.mark.parametrize("folder", ["gitpeft", "hooks", "models/mini"])
def test_the_wheel_holds_every_file_of(folder: str, wheel: zipfile.ZipFile) -> None:
    expected = {in_wheel(name) for name in tracked(folder)}
    assert expected
    assert expected - contents(wheel) == set()


def test_of_smol_the_wheel_holds_what_serves_and_is_tuned(wheel: zipfile.ZipFile) -> None:
    """Not the lists that it was trained on."""
    place = "gitpeft/_models/smol/"
    found = {name.removeprefix(place).split("/")[0] for name in contents(wheel) if name.startswith(place)}
    assert found == {
        "LICENSE", "README.md", "adapter", "card.md", "config.json", "model.safetensors", "onnx",
        "recipe.toml", "tokenizer.json",
    }  # fmt: skip


def test_the_wheel_holds_nothing_else(wheel: zipfile.ZipFile) -> None:
    places = ("gitpeft/_hooks/", "gitpeft/_models/mini/", "gitpeft/")
    for name in contents(wheel):
        home = next((place for place in places if name.startswith(place)), None)
        path = PurePosixPath(name)
        assert home, f"{name} is outside the package"
        assert path.suffix in SHIPPED, f"{name} is of no kind that is shipped"
        assert not any(part == "__pycache__" or part.startswith(".") for part in path.parts), name
        assert (path.suffix == ".py") <= (home == "gitpeft/"), f"{name} is code in a folder without code"


def test_the_wheel_holds_the_licence_and_the_command(wheel: zipfile.ZipFile) -> None:
    info = {name.split(".dist-info/")[1]: name for name in wheel.namelist() if ".dist-info/" in name}
    assert wheel.read(info["licenses/LICENSE"]).decode() == (CHECKOUT / "LICENSE").read_text()
    assert "gitpeft = gitpeft.cli:main" in wheel.read(info["entry_points.txt"]).decode()


@needs_git
def test_the_source_archive_builds_the_same_wheel(wheel: zipfile.ZipFile, tmp_path: Path) -> None:
    with tarfile.open(build("sdist", tmp_path / "sdist")) as archive:
        archive.extractall(tmp_path / "source", filter="data")
    [source] = (tmp_path / "source").iterdir()
    inside = {str(path.relative_to(source)) for path in source.rglob("*") if path.is_file()}
    assert (
        tracked("gitpeft", "hooks", "models", "docs", "tests", ".ci", "*.md", "LICENSE", "pyproject.toml")
        <= inside
    )
    assert not any("__pycache__" in name or name.endswith(".db") for name in inside)
    program = "import sys, hatchling.build as b; b.build_wheel(sys.argv[1])"
    subprocess.run(
        [sys.executable, "-c", program, str(tmp_path / "again")], cwd=source, capture_output=True, check=True
    )
    [again] = (tmp_path / "again").iterdir()
    with zipfile.ZipFile(again) as rebuilt:
        assert sorted(rebuilt.namelist()) == sorted(wheel.namelist())


def test_the_version_is_said_once(metadata: Message) -> None:
    assert metadata["Version"] == gitpeft.__version__
    assert "version" not in PROJECT


def test_bounds_that_were_measured_stay() -> None:
    """onnxruntime 1.29 brought telemetry, torch before 2.11 was not tried, transformers 4 has known holes."""
    train = PROJECT["optional-dependencies"]["train"]
    assert "onnxruntime>=1.26,<1.29" in PROJECT["dependencies"]
    assert "torch>=2.11,<2.14" in train
    assert "transformers>=5.5,<6" in train


def test_the_readme_and_ci_give_the_same_test_command() -> None:
    [line] = re.findall(r'^readme_line="(.+)"$', (CHECKOUT / ".ci" / "run").read_text(), flags=re.MULTILINE)
    assert line in README.read_text(encoding="utf-8")


def test_the_documents_give_each_dependency_its_reason() -> None:
    text = (CHECKOUT / "docs" / "architecture.md").read_text(encoding="utf-8").lower()
    named = required(*PROJECT["dependencies"], *PROJECT["optional-dependencies"]["train"])
    assert {name for name in named if name not in text} == set()


def test_the_readme_is_the_description(metadata: Message) -> None:
    assert metadata["Description-Content-Type"] == "text/markdown"
    assert str(metadata.get_payload()).strip() == README.read_text(encoding="utf-8").strip()
