"""What a terminal cannot show: it is replaced, never fatal, and JSON is ASCII whatever the encoding."""

import io
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitpeft.cli import app, console
from gitpeft.cli.app import COMMANDS
from gitpeft.hooks import run
from tests.support.commands import Call
from tests.support.gitrepo import Repo
from tests.support.rawhistory import MESSAGES, PATHS, RawCommit, write_history

ENCODINGS = ["ascii", "latin-1", "cp1252", "utf-8", "utf-16", "shift_jis"]


class Terminal:
    """Standard output and error with an encoding, as Python opens them for a terminal."""

    def __init__(self, patch: pytest.MonkeyPatch, encoding: str) -> None:
        self.encoding = encoding
        self.raw = {name: io.BytesIO() for name in ("stdout", "stderr")}
        for name, raw in self.raw.items():
            errors = "strict" if name == "stdout" else "backslashreplace"
            patch.setattr(sys, name, io.TextIOWrapper(raw, encoding=encoding, errors=errors))

    def run(self, patch: pytest.MonkeyPatch, *args: object) -> tuple[int, str]:
        """Run the command `gitpeft`; its exit code and what standard output shows."""
        patch.setattr(sys, "argv", ["gitpeft", *map(str, args)])
        with pytest.raises(SystemExit) as end:
            app.main()
        for stream in (sys.stdout, sys.stderr):
            stream.flush()
        code = end.value.code
        return code if isinstance(code, int) else int(code is not None), self.raw["stdout"].getvalue().decode(
            self.encoding
        )


@pytest.fixture
def dashes(repo: Repo) -> Repo:
    """A history with messages, paths and people beyond ASCII, and a staged change."""
    for number in range(4):
        repo.commit(f"Fix crash {number} — schneller 🚀 \u202e", **{f"ü\u00a0{number}.py": f"x = {number}\n"})
    repo.stage(**{"ü\u00a00.py": "y = 1\n", "日本.py": "1\n"})
    return repo


@pytest.mark.parametrize("encoding", ENCODINGS)
def test_unshowable_every_command_ends_well(
    dashes: Repo, encoding: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = [
        ["mine"],
        ["risk", "--staged"],
        ["risk", "HEAD", "--explain"],
        ["status"],
        ["doctor"],
        ["models"],
        ["eval"],
        ["backtest"],
    ]
    calls += [["risk", "HEAD~1..HEAD", "--format", form] for form in ("json", "sarif", "github")]
    calls += [["suggest", "HEAD"], ["risk", "nö—such"], ["suggest", "\udcff"], ["risk", "--format", "—"]]
    for call in calls:
        with monkeypatch.context() as patch:
            code, _ = Terminal(patch, encoding).run(patch, "--repo", dashes.path, *call)
        assert code in (0, 1, 2), call


@pytest.mark.parametrize("encoding", ["ascii", "latin-1", "utf-16"])
def test_unshowable_every_help_page_is_printed(encoding: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ["", *(name for group in COMMANDS.values() for name in group), "base"]:
        with monkeypatch.context() as patch:
            code, text = Terminal(patch, encoding).run(patch, *([name] if name else []), "--help")
        assert code == 0 and "Usage" in text, name


@pytest.mark.parametrize(
    "call", [["risk", "HEAD", "--json"], ["status", "--json"], ["doctor", "--json"], ["mine", "--json"]]
)
def test_unshowable_json_is_ascii(dashes: Repo, call: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch:
        code, text = Terminal(patch, "ascii").run(patch, "--repo", dashes.path, *call)
    assert code in (0, 1) and "?" not in text and json.loads(text) is not None
    if call[0] == "risk":
        assert json.loads(text)["files"] == ["ü\u00a03.py"]


def test_unshowable_the_path_of_a_repository_commands_no_terminal(tmp_path: Path, gitpeft: Call) -> None:
    repo = Repo.create(tmp_path / "r\x1b[31m\n\u2028x")
    repo.commit("Start", a="1\n")
    for call in (["install"], ["status"], ["doctor"], ["mine"], ["uninstall"], ["risk", "nothing"]):
        done = gitpeft(*call, "--repo", repo.path)
        assert all(c.isprintable() or c in "\n\t\r" for c in done.out + done.err), call


def test_unshowable_a_bug_report_is_kept_in_any_locale(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, gitpeft: Call
) -> None:
    def fail(*_: object, **__: object) -> None:
        raise RuntimeError("—\udcff\x1b[31m")

    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    monkeypatch.setattr(app, "app", fail)
    with monkeypatch.context() as patch:
        terminal = Terminal(patch, "ascii")
        code, _ = terminal.run(patch)
    assert code == 3 and b"\x1b" not in terminal.raw["stderr"].getvalue()
    [log] = tmp_path.glob("gitpeft-*.log")
    assert "RuntimeError" in log.read_text("utf-8")


def test_unshowable_in_a_latin_1_locale_from_outside(dashes: Repo) -> None:
    """The same through a whole process, with the two variables that people set."""
    for variables in (
        {"PYTHONIOENCODING": "latin-1"},
        {"PYTHONIOENCODING": "ascii", "PYTHONUTF8": "0", "LC_ALL": "C"},
    ):
        env = {**os.environ, **variables, "PYTHONPATH": str(Path(__file__).parents[2])}
        done = subprocess.run(
            [sys.executable, "-m", "gitpeft", "risk", "--staged"],
            cwd=dashes.path,
            env=env,
            capture_output=True,
            check=False,
        )
        assert (done.returncode, done.stderr.count(b"Traceback")) == (0, 0), done.stderr


@pytest.mark.parametrize("name", ["typing.py", "dataclasses.py", "json.py", "rich.py", "inspect.py"])
def test_unshowable_a_module_of_the_current_folder_is_not_imported(tmp_path: Path, name: str) -> None:
    (tmp_path / name).write_text("raise SystemExit('the wrong module')\n")
    env = {**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])}
    done = subprocess.run(
        [sys.executable, "-m", "gitpeft", "--version"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        check=False,
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_unshowable_the_hook_speaks_the_encoding_of_the_terminal(
    monkeypatch: pytest.MonkeyPatch, capfdbinary: pytest.CaptureFixture[bytes]
) -> None:
    monkeypatch.delenv("GITPEFT_STDERR", raising=False)
    with monkeypatch.context() as patch:
        Terminal(patch, "latin-1")
        run._print_to_terminal("ü — “x” \udcff\n")
    assert capfdbinary.readouterr().err == b"\xfc ? ?x? ?\n"


@given(st.text(st.characters(), max_size=80), st.sampled_from(ENCODINGS))
def test_unshowable_any_text_is_printed(text: str, encoding: str) -> None:
    with pytest.MonkeyPatch.context() as patch:
        Terminal(patch, encoding)
        console.tolerate_all_characters()
        console.print_error(text, text)
        console.print_notice(text)
        console.print_rows([("a", text)])
        console.print_json({text: text})
        sys.stdout.flush()


def _check_shown(
    tmp_path_factory: pytest.TempPathFactory, commits: list[tuple[bytes, bytes]], encoding: str
) -> None:
    repo = Repo.create(tmp_path_factory.mktemp("shown") / "repo")
    first = [commits[0][1]]
    write_history(repo, [RawCommit(message=message, files={first[0]: message}) for message, _ in commits])
    for call in (["risk", "HEAD"], ["risk", "HEAD", "--json"], ["suggest", "HEAD"]):
        with pytest.MonkeyPatch.context() as patch:
            code, text = Terminal(patch, encoding).run(patch, "--repo", repo.path, *call)
        assert code in (0, 1)
        assert encoding == "utf-16" or all(c.isprintable() or c in "\n\t" for c in text)


@given(st.lists(st.tuples(MESSAGES, PATHS), min_size=1, max_size=4), st.sampled_from(ENCODINGS))
@settings(max_examples=8)
def test_unshowable_any_history_is_shown(
    tmp_path_factory: pytest.TempPathFactory, commits: list[tuple[bytes, bytes]], encoding: str
) -> None:
    _check_shown(tmp_path_factory, commits, encoding)


@pytest.mark.slow
@given(st.lists(st.tuples(MESSAGES, PATHS), min_size=1, max_size=4), st.sampled_from(ENCODINGS))
@settings(max_examples=80)
def test_unshowable_any_history_is_shown_at_length(
    tmp_path_factory: pytest.TempPathFactory, commits: list[tuple[bytes, bytes]], encoding: str
) -> None:
    _check_shown(tmp_path_factory, commits, encoding)
