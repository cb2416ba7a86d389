"""The commands: what they say, how they end, and that no mistake of a user looks like one of ours."""

import ast
import errno
import inspect
import json
import os
import pty
import random
import re
import select
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import typer

from gitpeft import __version__
from gitpeft.bundle import registry
from gitpeft.cli import app, console, risk_dismiss, session, train
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history import store
from tests.support import generated, tinymodel
from tests.support.commands import Call, Done
from tests.support.generated import AUTHORS, Step
from tests.support.gitrepo import Repo
from tests.support.hooking import listing
from tests.support.sources import CHECKOUT

COMMANDS = (
    "init", "mine", "train", "export", "eval", "suggest", "risk", "backtest", "commit", "install",
    "uninstall", "status", "doctor", "compare", "models", "rollback", "publish", "pull", "base", "base build",
    "risk dismiss",
)  # fmt: skip
OF_A_REPOSITORY = COMMANDS[:-3]


UNCHECKED = {"mode": "generated", "features": ["words"], "weights": [0.0]}
"""A reranker of an earlier version: what a model with random weights says would not pass today's checks."""


@pytest.fixture(scope="module")
def team(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A repository with commits and a tiny random model; not to be changed."""
    repo = Repo.create(tmp_path_factory.mktemp("team") / "repo")
    generated.put(repo, generated.team(30))
    known = {"to": repo.git("rev-parse", "HEAD")}
    tinymodel.bundle(Repository.open(repo.path).state_dir, tinymodel.pointer_t5(), UNCHECKED, commits=known)
    return repo


def process(*args: str, cwd: Path = CHECKOUT, **options: Any) -> subprocess.CompletedProcess[bytes]:
    """`gitpeft ARGS` in a process of its own."""
    command = [sys.executable, "-c", "from gitpeft.cli import main; main()", *args]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), **options.pop("env", {})}
    return subprocess.run(command, cwd=cwd, env=env, timeout=100, check=False, **options)


# --- help and usage -----------------------------------------------------------------------------------------


def test_every_command_is_known_here() -> None:
    group = typer.main.get_command(app.app)
    names: set[str] = set(group.commands)  # type: ignore[attr-defined]
    assert names == set(COMMANDS) - {"base build"}


@pytest.mark.parametrize("command", COMMANDS)
def test_help_says_what_a_command_does(command: str, gitpeft: Call) -> None:
    done = gitpeft(*command.split(), "--help")
    assert done.code == 0 and done.err == ""
    known = {name: one.__doc__ for commands in app.COMMANDS.values() for name, one in commands.items()}
    known["risk dismiss"] = risk_dismiss.dismiss.__doc__
    summary = known.get(command, train.build_base.__doc__ if " " in command else app.base_app.info.help)
    assert isinstance(summary, str)
    summary = summary.split("\n")[0]
    assert " ".join(summary.replace("`", "").split())[:60] in done.said.replace("`", "")
    assert "--help" in done.out


@pytest.mark.parametrize("command", COMMANDS)
def test_values_are_named_in_one_way(command: str, gitpeft: Call) -> None:
    """PATH, N, REV: no name of a type, and no second pair of brackets."""
    shown = gitpeft(*command.split(), "--help").out
    assert "[[" not in shown
    assert not re.search(r"^  -.*<[a-z]", shown, re.M)


TRAINING = {
    "build_active_model", "train_only", "run_retraining", "train_across_repositories", "compare_methods",
    "make_risk_encoder_trainer", "build_adapter", "pretrain_base",
}  # fmt: skip
"""Functions of gitpeft.learn that train."""


def test_every_command_that_trains_takes_a_device() -> None:
    """Found by what a command names, itself or through the functions beside it."""
    commands = dict(_walk(typer.main.get_command(app.app)))
    trains = {name for name, command in commands.items() if TRAINING & _list_names(command.callback)}
    assert trains == {"init", "train", "export", "compare", "backtest", "base build"}
    for name in trains:
        assert "--device" in {word for option in commands[name].params for word in option.opts}, name


def _walk(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    for part, inner in getattr(command, "commands", {}).items():
        yield from _walk(inner, f"{name} {part}".strip())
    if not hasattr(command, "commands"):
        yield name, command


def _list_names(function: Any, seen: frozenset[str] = frozenset()) -> set[str]:
    function = inspect.unwrap(function)
    tree = ast.parse(inspect.getsource(function))
    found = {one.id for one in ast.walk(tree) if isinstance(one, ast.Name)}
    found |= {one.attr for one in ast.walk(tree) if isinstance(one, ast.Attribute)}
    beside = vars(inspect.getmodule(function))
    for name in found - seen:
        if inspect.isfunction(one := beside.get(name)) and one.__module__ == function.__module__:
            found |= _list_names(one, seen | found)
    return found


def test_without_arguments_there_is_help(gitpeft: Call) -> None:
    done = gitpeft()
    assert done.code in (0, 2) and all(command in done.said for command in COMMANDS[:-2])


def test_the_version(gitpeft: Call) -> None:
    assert gitpeft("--version") == Done(0, f"{__version__}\n", "")


@pytest.mark.parametrize(
    "arguments",
    [
        ("nonsense",),
        ("init", "--nonsense"),
        ("init", "--budget", "0"),
        ("init", "--budget", "soon"),
        ("suggest", "HEAD", "--staged"),
        ("suggest", "--staged", "--stdin"),
        ("suggest", "-n", "0"),
        ("suggest", "-n", "21"),
        ("eval", "--limit", "0"),
        ("base", "build"),
        ("install", "extra"),
        ("train", "--org", ".", "--org", "..", "--from-scratch"),
        ("train", "--org", ".", "--org", "..", "--repo", "."),
    ],
)
def test_wrong_usage_is_2(arguments: Sequence[str], gitpeft: Call) -> None:
    done = gitpeft(*arguments)
    assert done.code == 2 and done.out == "" and "Usage:" in done.err


@pytest.mark.parametrize("number", [errno.EACCES, errno.EROFS, errno.ENOSPC])
def test_what_the_system_does_not_allow_is_no_bug(
    number: int, repo: Repo, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*_: object) -> None:
        raise OSError(number, os.strerror(number), "/the/lock")

    monkeypatch.setattr(registry, "roll_back_model", refuse)
    done = gitpeft("rollback", "--repo", repo.path)
    assert done.code == 1 and f"cannot write /the/lock: {os.strerror(number)}" in done.said


def test_a_disk_that_becomes_full_is_no_bug_and_what_was_read_is_kept(
    repo: Repo, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    dice = random.Random(1)
    for number in range(30):
        repo.commit(
            f"Add number {number}", **{f"{number}.py": "".join(f"{dice.random()}\n" for _ in range(200))}
        )
    connect = store._connect_database

    def connect_to_full_disk(path: Path) -> sqlite3.Connection:
        db = connect(path)
        pages = db.execute("PRAGMA page_count").fetchone()[0]
        db.execute(f"PRAGMA max_page_count = {pages + 9}")
        return db

    monkeypatch.setattr(store, "_BATCH_SIZE", 4)
    with monkeypatch.context() as patch:
        patch.setattr(store, "_connect_database", connect_to_full_disk)
        done = gitpeft("mine", "--repo", repo.path)
    assert (
        done.code == 1 and "database or disk is full" in done.said and "whether the disk is full" in done.said
    )
    done = gitpeft("mine", "--repo", repo.path, "--json")
    assert done.code == 0 and 0 < json.loads(done.out)["new"] < 30


@pytest.mark.parametrize("command", ["compare", "backtest"])
@pytest.mark.parametrize("place", ["nowhere/page.html", "."])
def test_a_page_that_cannot_be_written_is_refused_before_the_work(
    command: str, place: str, team: Repo, tmp_path: Path, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(session, "show_progress", None)  # the work would begin with it
    done = gitpeft(command, "--repo", team.path, "--out", tmp_path / place)
    assert done.code == 1 and "cannot write" in done.said and "--out" in done.said


LONG = ("init", "mine", "train", "export", "eval", "backtest", "base build")


def call_long(command: str, team: Repo, tmp_path: Path, gitpeft: Call, *options: str) -> Done:
    build = ["recipe.toml", "--corpus", ".", "--out", tmp_path]
    of = build if command == "base build" else ["-C", team.path]
    return gitpeft(*command.split(), *of, *options)


@pytest.mark.parametrize("command", LONG)
def test_a_long_command_shows_progress_as_it_is_asked_to(
    command: str, team: Repo, tmp_path: Path, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(_quiet: bool, how: str = "auto") -> None:
        raise GitpeftError(f"progress as {how}")

    monkeypatch.setattr(session, "show_progress", refuse)
    for how in ("auto", "json"):
        done = call_long(command, team, tmp_path, gitpeft, "--progress", how)
        assert done.code == 1 and f"progress as {how}" in done.said
    assert call_long(command, team, tmp_path, gitpeft, "--progress", "bar").code == 2


@pytest.mark.parametrize("command", [one for one in LONG if one not in ("eval", "backtest")])
def test_ctrl_c_says_how_a_command_goes_on(
    command: str, team: Repo, tmp_path: Path, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(session, "show_progress", interrupt)
    done = call_long(command, team, tmp_path, gitpeft)
    assert done.code == 130 and "Run the same command again to continue" in done.said


ASKED = """
import threading, time
from gitpeft.cli import progress
with progress.show_progress() as listen:
    stop = threading.Event()
    listen("train", 0.5, "step 10")
    time.sleep(0.3)
    print("ANSWER", progress.ask_confirmation("Better by 1.0 [+0.1]. Make it active?"), flush=True)
    listen("export", 0.5, "")
"""


def test_a_question_stands_where_progress_was() -> None:
    """On a terminal: nothing is drawn between the question and its answer."""
    main, other = pty.openpty()
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "TERM": "xterm", "COLUMNS": "100"}
    process = subprocess.Popen(
        [sys.executable, "-c", ASKED], stdin=other, stdout=other, stderr=other, env=env
    )
    os.close(other)
    said = b""

    def read(seconds: float, until: bytes = b"nothing that is said") -> bytes:
        nonlocal said
        end = time.monotonic() + seconds
        while until not in said and select.select([main], [], [], max(0, end - time.monotonic()))[0]:
            try:
                said += os.read(main, 4096)
            except OSError:  # the other end is closed
                break
        return said

    try:
        question, rest = read(20, b"Make it active?"), read(0.5)
        assert b"Training" in question and b"[+0.1]" in question  # progress draws ten times a second
        assert not re.search(rb"\x1b\[(2K|1A)|Training", rest.partition(b"Make it active?")[2])
        os.write(main, b"n\n")
        assert b"ANSWER False" in read(20, b"ANSWER False") and process.wait(20) == 0
    finally:
        process.kill()
        process.wait()
        os.close(main)


def test_foreign_text_commands_no_terminal(capsys: pytest.CaptureFixture[str]) -> None:
    console.print_error("the model says \x1b]52;c;AAAA\x07", "line one\nline [two] \x9b2J")
    said = capsys.readouterr().err
    assert "\x1b]" not in said and "\x9b" not in said and "line one\nline [two]" in said


# --- repositories of every kind -----------------------------------------------------------------------------


@pytest.mark.parametrize("command", OF_A_REPOSITORY)
def test_no_repository_is_a_sentence(command: str, tmp_path: Path, gitpeft: Call) -> None:
    (tmp_path / "plain").mkdir()
    for place in ("plain", "not there", "[bold]odd[/]"):
        done = gitpeft(command, "--repo", tmp_path / place)
        assert done.code == 1 and done.out == "" and done.err.startswith("error: "), done
        assert len(done.err.splitlines()) <= 5 and place.split("/")[0] in done.said
    assert [path.name for path in tmp_path.iterdir() if path.name != "plain"] == []
    assert list((tmp_path / "plain").iterdir()) == []


@pytest.mark.parametrize(
    ("command", "code"),
    [
        ("init", 1), ("mine", 1), ("train", 1), ("export", 1), ("eval", 1), ("suggest", 1), ("status", 0),
        ("uninstall", 0),
    ],
)  # fmt: skip
@pytest.mark.parametrize("bare", [False, True], ids=["empty", "bare"])
def test_an_empty_repository(command: str, code: int, bare: bool, tmp_path: Path, gitpeft: Call) -> None:
    repo = Repo.create(tmp_path / "repo", bare=bare)
    before = listing(repo.path)
    done = gitpeft(command, "--repo", repo.path)
    assert done.code == code, done
    if code:
        assert done.err.startswith("error: ") and done.out == ""
    left = {name for name in listing(repo.path) if not name.endswith("gitpeft/install.lock")}
    assert left == before.keys()


def test_a_bare_repository_with_commits(team: Repo, tmp_path: Path, gitpeft: Call) -> None:
    bare = team.clone(tmp_path / "bare", "--bare")
    before = listing(bare.path)
    done = gitpeft("init", "--repo", bare.path)
    assert done.code == 1 and "bare" in done.said and "--no-hooks" in done.said
    assert listing(bare.path) == before
    assert "30 new of 30 commits" in gitpeft("mine", "--repo", bare.path).said


def test_a_detached_head(team: Repo, tmp_path: Path, gitpeft: Call) -> None:
    repo = team.clone(tmp_path / "clone")
    repo.git("checkout", "-q", "--detach", "HEAD~3")
    before = listing(repo.path)
    for command in ("init", "mine", "train"):
        done = gitpeft(command, "--repo", repo.path)
        assert done.code == 1 and "detached" in done.said and "--until" in done.said
    assert listing(repo.path) == before
    assert "27 new of 27" in gitpeft("mine", "--repo", repo.path, "--until", "HEAD~0").said
    assert "3 new of 30" in gitpeft("mine", "--repo", repo.path, "--until", "main").said


@pytest.mark.parametrize("command", ["init", "mine", "train"])
def test_until_that_names_nothing(command: str, team: Repo, tmp_path: Path, gitpeft: Call) -> None:
    repo = team.clone(tmp_path / "clone")
    done = gitpeft(command, "--repo", repo.path, "--until", "nowhere")
    assert done.code == 1 and "unknown revision 'nowhere'" in done.said
    assert not (repo.path / ".git" / "gitpeft").exists()


@pytest.mark.parametrize("option", [("--method", "magic"), ("--base", "/nowhere")])
def test_a_method_or_base_that_is_not_there(
    option: Sequence[str], team: Repo, tmp_path: Path, gitpeft: Call
) -> None:
    repo = team.clone(tmp_path / "clone")
    done = gitpeft("init", "--repo", repo.path, *option)
    assert done.code == 2 and option[1] in done.said
    assert not (repo.path / ".git" / "gitpeft").exists()


# --- mining and status --------------------------------------------------------------------------------------


def test_mining_and_mining_again(team: Repo, tmp_path: Path, gitpeft: Call) -> None:
    repo = team.clone(tmp_path / "clone")
    first = json.loads(gitpeft("mine", "--repo", repo.path, "--json").out)
    assert (first["new"], first["total"], first["skipped"]) == (30, 30, {})
    assert "0 new of 30 commits" in gitpeft("mine", "--repo", repo.path).said


def test_status(team: Repo, tmp_path: Path, gitpeft: Call) -> None:
    known = json.loads(gitpeft("status", "--repo", team.path, "--json").out)
    assert known["manifest"]["kind"] == "model" and known["works"] is False
    assert known["manifest"]["id"] in (team.path / ".git/gitpeft/current").read_text()
    bare = team.clone(tmp_path / "clone")
    assert json.loads(gitpeft("status", "--repo", bare.path, "--json").out)["manifest"] is None
    assert "gitpeft init" in gitpeft("status", "--repo", bare.path).said
    assert gitpeft("status", "--repo", team.path).code == 0


def test_hooks_go_in_and_out(team: Repo, tmp_path: Path, gitpeft: Call) -> None:
    repo = team.clone(tmp_path / "clone")
    before = listing(repo.path / ".git" / "hooks")
    assert "prepare-commit-msg" in gitpeft("install", "--repo", repo.path).out
    assert (repo.path / ".git/hooks/prepare-commit-msg").is_file()
    assert json.loads(gitpeft("status", "--repo", repo.path, "--json").out)["hooks"]
    assert gitpeft("install", "--repo", repo.path, "--strategy", "nonsense").code == 2
    assert gitpeft("doctor", "--repo", repo.path).code == 1  # there is no model
    assert "prepare-commit-msg" in gitpeft("uninstall", "--repo", repo.path).out
    assert listing(repo.path / ".git" / "hooks") == before
    assert "no hook of gitpeft" in gitpeft("uninstall", "--repo", repo.path).out


# --- suggestions --------------------------------------------------------------------------------------------


def answer(done: Done) -> dict[str, Any]:
    assert done.code == 0, done
    found: dict[str, Any] = json.loads(done.out)
    assert set(found) == {"rev", "suggestions", "ms"} and found["ms"] > 0
    for one in found["suggestions"]:
        assert set(one) == {"message", "score", "origin", "like"}
        assert one["origin"] in ("generated", "retrieved") and 0 <= one["score"] <= 100
    return found


def test_a_commit_is_described(team: Repo, gitpeft: Call) -> None:
    found = answer(gitpeft("suggest", "HEAD~2", "-n", "4", "--json", "--repo", team.path))
    assert found["rev"] == "HEAD~2" and 1 <= len(found["suggestions"]) <= 4
    plain = gitpeft("suggest", "HEAD~2", "-n", "4", "--repo", team.path)
    assert plain.out.splitlines() == [one["message"] for one in found["suggestions"]]
    usual = gitpeft("suggest", "HEAD~2", "--repo", team.path)
    assert usual.out == gitpeft("suggest", "HEAD~2", "-n", "3", "--repo", team.path).out, "as in the hook"


def test_what_is_staged_is_described(team: Repo, tmp_path: Path, gitpeft: Call) -> None:
    repo = _with_model(team, tmp_path)
    nothing = gitpeft("suggest", "--staged", "--repo", repo.path)
    assert nothing.code == 1 and "nothing is staged" in nothing.said
    repo.stage(**{"src/parser.py": "def read_99(value):\n    return read(value)\n"})
    staged = answer(gitpeft("suggest", "--staged", "-n", "3", "--json", "--repo", repo.path))
    assert staged["rev"] == "staged" and staged["suggestions"]
    assert (
        answer(gitpeft("suggest", "-n", "3", "--json", "--repo", repo.path))["suggestions"]
        == (staged["suggestions"])
    )
    (repo.path / "deep").mkdir()
    inside = answer(gitpeft("suggest", "-n", "3", "--json", "--repo", repo.path / "deep"))
    assert inside["suggestions"] == staged["suggestions"]


def _with_model(team: Repo, tmp_path: Path) -> Repo:
    repo = team.clone(tmp_path / "clone")
    known = {"to": repo.git("rev-parse", "HEAD")}
    tinymodel.bundle(Repository.open(repo.path).state_dir, tinymodel.pointer_t5(), UNCHECKED, commits=known)
    return repo


def test_the_own_message_is_never_looked_at(team: Repo, tmp_path: Path, gitpeft: Call) -> None:
    repo = _with_model(team, tmp_path)
    found = []
    for message in ("zanzibar quux", "teach the parser everything about quux"):
        repo.git("commit", "-q", "--amend", "-m", message)
        found.append(answer(gitpeft("suggest", "HEAD", "-n", "9", "--json", "--repo", repo.path)))
    assert found[0]["suggestions"] == found[1]["suggestions"]
    assert "quux" not in json.dumps(found)


def test_many_revisions_a_line_each(team: Repo, gitpeft: Call) -> None:
    revs = team.git("rev-list", "HEAD").split()
    done = gitpeft("suggest", "--stdin", "-n", "2", "--repo", team.path, stdin="\n".join(revs) + "\n\n")
    assert done.code == 0 and done.err == ""
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert [line["rev"] for line in lines] == revs
    assert sum(bool(line["suggestions"]) for line in lines) > 20
    assert all(len(line["suggestions"]) <= 2 for line in lines)
    alone = answer(gitpeft("suggest", revs[3], "-n", "2", "--json", "--repo", team.path))
    assert alone["suggestions"] == lines[3]["suggestions"]


def test_a_bad_revision_does_not_stop_the_others(team: Repo, gitpeft: Call) -> None:
    stdin = "HEAD\nnowhere\n--all\nHEAD:src\n\x00\nHEAD~1\n"
    done = gitpeft("suggest", "--stdin", "--repo", team.path, stdin=stdin)
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 1 and "4 revisions failed" in done.said
    assert ["error" in line for line in lines] == [False, True, True, True, True, False]
    assert [line["rev"] for line in lines[:4]] == ["HEAD", "nowhere", "--all", "HEAD:src"]


def test_merges_roots_and_empty_commits_are_answered(tmp_path: Path, team: Repo, gitpeft: Call) -> None:
    repo = _with_model(team, tmp_path)
    repo.commit("nothing at all")
    root = repo.git("rev-list", "--max-parents=0", "HEAD")
    repo.git("checkout", "-q", "-b", "side", "HEAD~4")
    repo.commit("beside", **{"beside.py": "x = 1\n"})
    repo.git("merge", "-q", "--no-edit", "main")
    done = gitpeft("suggest", "--stdin", "--repo", repo.path, stdin=f"main\n{root}\nside\n")
    lines = [json.loads(line) for line in done.out.splitlines()]
    assert done.code == 0 and len(lines) == 3 and lines[0]["suggestions"] == []
    alone = gitpeft("suggest", "main", "--repo", repo.path)
    assert alone.code == 1 and "no suggestion for this change" in alone.said


@pytest.mark.parametrize("command", [("suggest", "HEAD"), ("eval",)])
def test_without_a_model_the_way_to_one_is_named(
    command: Sequence[str], team: Repo, tmp_path: Path, gitpeft: Call
) -> None:
    repo = team.clone(tmp_path / "clone")
    done = gitpeft(*command, "--repo", repo.path)
    assert done.code == 1 and "no model" in done.said and "gitpeft init" in done.said


def test_a_damaged_model_is_a_sentence(team: Repo, tmp_path: Path, gitpeft: Call) -> None:
    repo = _with_model(team, tmp_path)
    (encoder,) = (repo.path / ".git/gitpeft/models").glob("*/encoder.onnx")
    raw = bytearray(encoder.read_bytes())
    raw[len(raw) // 2] ^= 1
    encoder.write_bytes(raw)
    done = gitpeft("suggest", "HEAD", "--repo", repo.path)
    assert done.code == 1 and "encoder.onnx of the model is damaged" in done.said


def test_a_base_cannot_be_built_from_nothing(tmp_path: Path, gitpeft: Call) -> None:
    place = ("--corpus", tmp_path, "--out", tmp_path / "out")
    done = gitpeft("base", "build", tmp_path / "recipe.toml", *place)
    assert done.code == 1 and "cannot use the recipe" in done.said and list(tmp_path.iterdir()) == []
    (tmp_path / "recipe.toml").write_bytes(b"\xff\xfe")
    assert gitpeft("base", "build", tmp_path / "recipe.toml", *place).code == 1


# --- how a command ends -------------------------------------------------------------------------------------


def test_a_bug_is_3_and_its_details_are_kept(
    team: Repo, tmp_path: Path, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*_: Any) -> None:
        raise RuntimeError("[red]the wheel came off[/]")

    monkeypatch.setattr(Repository, "open", fail)
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    done = gitpeft("status")
    assert done.code == 3 and done.out == ""
    assert "gitpeft has a bug: RuntimeError: [red]the wheel came off[/]" in done.err
    [log] = tmp_path.glob("gitpeft-*.log")
    assert str(log) in done.err and "Traceback" in log.read_text()


def test_an_interrupt_is_130(gitpeft: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupt(*_: Any) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(Repository, "open", interrupt)
    assert gitpeft("status").code == 130


def test_a_reader_that_goes_away_is_no_bug(team: Repo) -> None:
    """As in `gitpeft suggest --stdin | head -1`."""
    read, write = os.pipe()
    os.close(read)
    try:
        revs = team.run("rev-list", "HEAD").stdout
        arguments = ("suggest", "--stdin", "--repo", str(team.path))
        done = process(*arguments, input=revs, stdout=write, stderr=subprocess.PIPE)
    finally:
        os.close(write)
    assert done.returncode == 1 and done.stderr == b""


def test_a_process_of_its_own(team: Repo, tmp_path: Path) -> None:
    """From inside the repository, in a plain locale, with bytes that are no text on standard input."""
    done = process(
        "suggest", "--stdin", cwd=team.path / "src", input=b"HEAD\n\xff\xfe\n", capture_output=True,
        env={"PYTHONIOENCODING": "utf-8:strict"},
    )  # fmt: skip
    lines = [json.loads(line) for line in done.stdout.splitlines()]
    assert done.returncode == 1 and b"bug" not in done.stderr
    assert lines[0]["suggestions"] and "error" in lines[1]
    nowhere = process("status", cwd=tmp_path, capture_output=True)
    assert nowhere.returncode == 1 and nowhere.stderr.startswith(b"error: ")


def test_help_loads_nothing_heavy() -> None:
    heavy = {"torch", "numpy", "onnxruntime", "tokenizers", "git"}
    code = f"import sys; from gitpeft import cli; print(sorted({heavy} & {{*sys.modules}}))"
    done = subprocess.run(
        [sys.executable, "-c", code], cwd=CHECKOUT, capture_output=True, timeout=60, check=True
    )
    assert done.stdout == b"[]\n"


def test_odd_subjects_are_printed_as_they_are(tmp_path: Path, gitpeft: Call) -> None:
    """Brackets are not markup; JSON is ASCII, text is not."""
    repo = Repo.create(tmp_path / "repo")
    subjects = [f"[bold]naïve 测试[/] {name}" for name in "abcdef"]
    generated.put(
        repo, [Step(s, AUTHORS[0], {f"src/m{i}.py": b"x = %d\n" % i}) for i, s in enumerate(subjects)]
    )
    made = gitpeft("init", "--repo", repo.path, "--no-hooks", "--json")
    assert made.code == 0, made
    assert json.loads(made.out)["used"] == 6 and made.out.isascii()
    card = gitpeft("init", "--repo", repo.path, "--no-hooks")
    assert card.code == 0 and "[bold]naïve 测试[/]" in card.said
    repo.stage(**{"src/m2.py": "x = 9\n"})
    found = answer(gitpeft("suggest", "-n", "9", "--json", "--repo", repo.path))
    assert any(one["message"] == "[bold]naïve 测试[/] c" for one in found["suggestions"])


# --- options that all commands share ------------------------------------------------------------------------


def test_the_overview_fits_a_small_terminal(gitpeft: Call) -> None:
    lines = gitpeft("-h").out.splitlines()
    assert len(lines) <= 24
    assert max(map(len, lines)) <= 80


def test_the_repository_may_be_named_before_the_command(team: Repo, gitpeft: Call) -> None:
    said = gitpeft("status", "-C", team.path).out
    assert "Model" in said
    assert gitpeft("-C", team.path, "status").out == said


def test_v_is_the_version(gitpeft: Call) -> None:
    assert gitpeft("-V").out == f"{__version__}\n"


def test_completion_can_be_installed(gitpeft: Call) -> None:
    assert "gitpeft" in gitpeft("--show-completion", "bash").out


@pytest.mark.parametrize(
    ("arguments", "meant"),
    [
        (("install", "--strategy", "huskie"), "husky"),
        (("compare", "--task", "messages"), "message"),
        (("risk", "--format", "jason"), "json"),
    ],
)
def test_a_wrong_choice_names_the_right_ones(
    arguments: Sequence[str], meant: str, team: Repo, gitpeft: Call
) -> None:
    done = gitpeft(*arguments, "--repo", team.path)
    assert done.code == 2
    assert f"Did you mean {meant}?" in done.said


def test_a_range_is_described_commit_by_commit(team: Repo, gitpeft: Call) -> None:
    done = gitpeft("suggest", "HEAD~3..HEAD", "-n", "1", "--json", "--repo", team.path)
    revs = team.git("rev-list", "--reverse", "HEAD~3..HEAD").split()
    assert [json.loads(line)["rev"] for line in done.out.splitlines()] == revs
    text = gitpeft("suggest", "HEAD~3..HEAD", "-n", "1", "--repo", team.path)
    named = [line for line in text.out.splitlines() if not line.startswith(" ")]
    assert named == [team.git("log", "-1", "--format=%h %s", rev).strip() for rev in revs]


def test_uninstall_says_what_stays_and_purge_deletes_it(team: Repo, tmp_path: Path, gitpeft: Call) -> None:
    repo = _with_model(team, tmp_path)
    state = repo.path / ".git" / "gitpeft"
    gitpeft("install", "--repo", repo.path)
    said = gitpeft("uninstall", "--repo", repo.path).out
    assert "MB of models and caches stay" in said and "--purge" in said
    assert state.is_dir()
    assert "deleted" in gitpeft("uninstall", "--purge", "--repo", repo.path).out
    assert not state.exists()


def test_all_stages_tracked_files_only_for_the_commit(
    team: Repo, tmp_path: Path, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo = _with_model(team, tmp_path)
    [path] = repo.git("ls-files", "src/parser.py").split()
    (repo.path / path).write_text("def read_99(value):\n    return value\n")
    before = repo.git("status", "--porcelain")
    monkeypatch.setattr("builtins.input", lambda _: "q")
    assert gitpeft("commit", "--repo", repo.path).code == 1
    cancelled = gitpeft("commit", "-a", "--repo", repo.path)
    assert cancelled.code == 1 and path in cancelled.out
    assert repo.git("status", "--porcelain") == before
    monkeypatch.setattr("builtins.input", lambda _: "1")
    assert gitpeft("commit", "-a", "-s", "--repo", repo.path).code == 0
    assert repo.git("status", "--porcelain") == ""
    assert "Signed-off-by" in repo.git("log", "-1", "--format=%b")


# --- doctor -------------------------------------------------------------------------------------------------


def doctor_codes(gitpeft: Call, repo: Repo) -> list[str]:
    return [one["code"] for one in json.loads(gitpeft("doctor", "--json", "--repo", repo.path).out)]


def test_doctor_knows_of_a_score_that_nothing_reaches(team: Repo, tmp_path: Path, gitpeft: Call) -> None:
    repo = _with_model(team, tmp_path)
    gitpeft("install", "--repo", repo.path)
    assert "score" not in doctor_codes(gitpeft, repo)
    repo.git("config", "gitpeft.minScore", "100")
    assert "score" in doctor_codes(gitpeft, repo)


def test_doctor_knows_of_timeouts_until_the_limit_is_raised(
    team: Repo, tmp_path: Path, gitpeft: Call
) -> None:
    repo = _with_model(team, tmp_path)
    repo.git("config", "gitpeft.timeoutMs", "2000")
    gitpeft("install", "--repo", repo.path)
    now, old = time.strftime("%Y-%m-%dT%H:%M:%S%z"), "2020-01-01T00:00:00+0000"
    text = "no suggestion within 2000 ms (gitpeft.timeoutMs)"
    log = repo.path / ".git" / "gitpeft" / "hook.log"
    log.write_text(f"{old} {text}\n")
    assert "timeouts" not in doctor_codes(gitpeft, repo)
    log.write_text(f"{now} {text}\n")
    assert "timeouts" in doctor_codes(gitpeft, repo)
    assert "1 timeout in the last 7 days" in gitpeft("status", "--repo", repo.path).said
    repo.git("config", "gitpeft.timeoutMs", "4000")
    assert "timeouts" not in doctor_codes(gitpeft, repo)
