"""Groups F and G of the contract: what surrounds the hook cannot reach into it, and it costs what it may."""

import os
import pty
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path

import pytest

from gitpeft.config import Config
from gitpeft.git.process import REPOSITORY_VARIABLES
from gitpeft.git.repository import Repository
from gitpeft.suggest import cache, service
from gitpeft.suggest.suggestion import ModelAnswer, Suggestion
from tests.support.hooking import SUGGESTION, Hooked, script

TRAP = "import pathlib; pathlib.Path({!r}).write_text('trapped')\nraise SystemExit(9)\n"


def test_f1_e17_nothing_in_the_repository_is_imported(hooked: Hooked, tmp_path: Path) -> None:
    trap = TRAP.format(str(tmp_path / "trapped"))
    modules = (
        "json",
        "numpy",
        "torch",
        "sitecustomize",
        "usercustomize",
        "gitpeft",
        "dataclasses",
        "hashlib",
    )
    hooked.stage(**{f"{name}.py": trap for name in modules}, **{"logging/__init__.py": trap})
    hooked.git("commit", env={"PYTHONSTARTUP": "json.py"})
    assert hooked.message() == SUGGESTION and not (tmp_path / "trapped").exists()


@pytest.mark.parametrize(
    "env",
    [
        {"PYTHONPATH": "{trap}", "PYTHONHOME": "/nowhere", "PYTHONINSPECT": "1", "PYTHONWARNINGS": "error"},
        {"LD_PRELOAD": "/nowhere/lib.so"},
        {"HOME": ""},
        {"LANG": "C", "LC_ALL": "C"},
        {"LC_ALL": "de_DE.UTF-8", "LANGUAGE": "de"},
        {"TMPDIR": "/nowhere", "XDG_CONFIG_HOME": "/nowhere"},
        {"PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"},
        {"TERM": "dumb"},
    ],
    ids=["python", "preload", "home", "C", "german", "tmp", "ascii", "dumb"],
)
def test_f2_any_environment(hooked: Hooked, tmp_path: Path, env: dict[str, str]) -> None:
    script(tmp_path / "trap/json.py", TRAP.format(str(tmp_path / "trapped")))
    hooked.stage(**{"ünï.py": "ü = 'ß'\n"})
    done = hooked.git(
        "commit", env={name: value.format(trap=tmp_path / "trap") for name, value in env.items()}
    )
    assert hooked.message() == SUGGESTION, done.stderr
    assert not (tmp_path / "trapped").exists()


def test_f3_another_repository_is_never_seen_through_this_ones_variables(
    hooked: Hooked, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in REPOSITORY_VARIABLES:
        monkeypatch.setenv(name, str(hooked.repo.path / ".git"))
    other = tmp_path / "other"
    other.mkdir()
    clean = {key: value for key, value in os.environ.items() if key not in REPOSITORY_VARIABLES}
    subprocess.run(["git", "init", "-q", str(other)], env=clean, check=True)
    repo = Repository.open(other)
    inherited = set(REPOSITORY_VARIABLES) & set(repo.environment)
    assert repo.git_dir == other / ".git" and not inherited
    with pytest.raises(service.NothingStagedError):
        service.build_staged_request(repo, Config(), 1)


def test_f4_standard_input_is_left_to_others(hooked: Hooked) -> None:
    hooked.repo.write(".git/COMMIT_EDITMSG", "")
    read, write = os.pipe()
    os.write(write, b"for somebody else")
    done = subprocess.run(
        [hooked.hook, ".git/COMMIT_EDITMSG"],
        cwd=hooked.repo.path,
        env={**os.environ, **hooked.env},
        stdin=read,
        capture_output=True,
        timeout=30,
    )
    assert done.returncode == 0 and os.read(read, 99) == b"for somebody else"
    os.close(read)
    os.close(write)


def test_f5_names_and_messages_cannot_command_the_terminal(hooked: Hooked) -> None:
    hooked.repo.git("config", "gitpeft.alternatives", "\x1b[31mmany")
    hooked.repo.git("config", "gitpeft.\x1b[2J", "x", check=False)
    hooked.stage(**{"\x1b[31mred\x07.py": "r\n"})
    done = hooked.git("commit", env={"STANDIN": "say:\x1b[31mred|Plain"})
    assert hooked.message() == "Plain"
    assert b"\x1b" not in done.stderr and done.stderr.count(b"gitpeft: ") == 1 and "\x1b" not in hooked.log()


@pytest.mark.skipif(sys.platform != "linux", reason="the kernel's filter is Linux only")
def test_f6_native_code_in_the_child_gets_no_socket(hooked: Hooked) -> None:
    hooked.git("commit", env={"STANDIN": "socket"})
    assert hooked.message() == "socket gave -1"


@pytest.mark.skipif(sys.platform != "linux", reason="elsewhere only Python refuses")
def test_f7_native_code_in_the_child_starts_no_program(hooked: Hooked) -> None:
    hooked.git("commit", env={"STANDIN": "native-program"})
    assert hooked.message() == "a program gave True"
    assert not Path("/tmp/gitpeft-ran-a-program").exists()


@pytest.mark.parametrize("behaviour", ["python-socket", "program"])
def test_f6_nor_does_python_nor_a_program_run(hooked: Hooked, behaviour: str) -> None:
    done = hooked.git("commit", edit='echo mine >"$file"', env={"STANDIN": behaviour})
    assert hooked.message() == "mine" and b"PermissionError" in done.stderr
    assert not (hooked.repo.path / "ran").exists()


def test_f6_the_child_cannot_fill_a_disk(hooked: Hooked, tmp_path: Path) -> None:
    done = hooked.git("commit", edit='echo mine >"$file"', env={"STANDIN": f"fill:{tmp_path / 'filled'}"})
    assert hooked.message() == "mine" and b"OSError" in done.stderr
    assert (tmp_path / "filled").stat().st_size <= 8 << 20


def test_f7_no_form_of_file_that_runs_code_is_read_on_the_way(hooked: Hooked, tmp_path: Path) -> None:
    """The hook's own modules read JSON only; the formats of the model are checked in tests of `bundle`."""
    for module in (
        "hooks/run",
        "suggest/service",
        "suggest/cache",
        "runtime/worker",
        "suggest/postprocess",
        "config",
        "hooks/message_file",
    ):
        source = (Path(__file__).parents[2] / "gitpeft" / f"{module}.py").read_text()
        assert not any(word in source for word in ("pickle", "marshal", "eval(", "exec(", "yaml"))


# --- G ----------------------------------------------------------------------------------------------------


def seconds(hooked: Hooked, *args: str, env: dict[str, str] | None = None) -> float:
    started = time.perf_counter()
    assert hooked.call(*args, env=env).returncode == 0
    return time.perf_counter() - started


def processor_time() -> float:
    """Seconds of processor time of all processes that this one has waited for."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_g1_a9_the_fast_path_is_a_few_milliseconds(hooked: Hooked) -> None:
    hooked.repo.write(".git/COMMIT_EDITMSG", "")
    fast, bare = [], []
    for _ in range(15):
        before = processor_time()
        seconds(hooked, ".git/COMMIT_EDITMSG", "message", env={"GIT_EDITOR": ":"})
        between = processor_time()
        subprocess.run(["sh", "-c", ":"], stdin=subprocess.DEVNULL, capture_output=True, check=True)
        fast.append(between - before)
        bare.append(processor_time() - between)
    assert min(fast) - min(bare) < 0.010  # of processors, whatever else they are busy with


@pytest.mark.slow
def test_g1_a_rebase_of_100_commits_costs_less_than_a_second_more(hooked: Hooked) -> None:
    hooked.git("commit", "-m", "Base")
    for n in range(100):
        hooked.repo.commit(f"Commit {n}", **{f"f{n}": f"{n}\n"})
    hooked.repo.git("branch", "tip")

    def rebase() -> float:
        hooked.repo.git("reset", "-q", "--hard", "tip")
        started = time.perf_counter()
        done = hooked.git("rebase", "-q", "--force-rebase", "HEAD~100")
        assert done.returncode == 0, done.stderr
        return time.perf_counter() - started

    with_hook, text = rebase(), hooked.hook.read_bytes()
    hooked.hook.unlink()
    without = rebase()
    hooked.hook.write_bytes(text)
    assert with_hook - without < 1.0


def test_g2_the_hook_itself_leaves_most_of_the_time_to_the_model(hooked: Hooked) -> None:
    """With a model that answers at once; the model's own times are measured in tests/bench/bench_hook.py."""
    times = []
    for n in range(5):
        hooked.stage(more=f"{n}\n")
        hooked.repo.write(".git/COMMIT_EDITMSG", "")
        times.append(seconds(hooked, ".git/COMMIT_EDITMSG"))
    assert statistics.median(times) < 0.5


def test_g3_stage_one_imports_nothing_heavy(hooked: Hooked) -> None:
    program = (
        "import sys, gitpeft.hook, gitpeft.suggest.service, gitpeft.runtime.worker;"
        "import gitpeft.suggest.postprocess, gitpeft.redaction, gitpeft.risk.precommit;"
        "bad = {'torch', 'transformers', 'numpy', 'onnxruntime', 'tokenizers', 'git', 'typer', 'rich',"
        " 'asyncio', 'detect_secrets', 'socket', 'dataclasses', 'inspect'} & set(sys.modules);"
        "sys.exit(str(bad) if bad else 0)"
    )
    done = subprocess.run([hooked.python, "-I", "-c", program], capture_output=True)
    assert done.returncode == 0, done.stderr


def on_a_terminal(hooked: Hooked, model: str) -> str:
    """What a person at a terminal sees while the hook works."""
    hooked.repo.write(".git/COMMIT_EDITMSG", "")
    outer, inner = pty.openpty()
    env = {**os.environ, **hooked.env, "STANDIN": model}
    subprocess.run(
        [hooked.hook, ".git/COMMIT_EDITMSG"],
        cwd=hooked.repo.path,
        env=env,
        stderr=inner,
        stdin=subprocess.DEVNULL,
    )
    os.close(inner)
    seen = b""
    try:
        while part := os.read(outer, 1024):
            seen += part
    except OSError:
        pass
    os.close(outer)
    return seen.decode()


def test_g4_progress_is_shown_late_on_terminals_only_and_goes_away(hooked: Hooked) -> None:
    hooked.repo.git("config", "gitpeft.timeoutMs", "10000")
    said = on_a_terminal(hooked, "sleep:0.6")
    assert said.startswith("gitpeft: ") and said.endswith("\r\x1b[K") and said.count("gitpeft") == 1
    hooked.stage(quick="q\n")
    hooked.stage(slow="s\n")
    done = hooked.git("commit", env={"STANDIN": "sleep:0.6"})
    assert hooked.message() == SUGGESTION and b"gitpeft" not in done.stderr


# --- the pre-commit stage ---------------------------------------------------------------------------------


def test_the_pre_commit_stage_works_ahead_while_other_checks_run(hooked: Hooked, tmp_path: Path) -> None:
    script(hooked.repo.path / ".git/hooks/pre-commit", "#!/bin/sh\nsleep 0.7\n")
    hooked.install(hooks=("prepare-commit-msg", "pre-commit"))
    hooked.stage(slow="s\n")
    hooked.repo.git("config", "gitpeft.timeoutMs", "5000")
    hooked.git("commit", env={"STANDIN": "sleep:0.5", "GITPEFT_TRACE": str(tmp_path / "trace")})
    assert hooked.message() == SUGGESTION
    assert '"cached"' in (tmp_path / "trace").read_text()
    assert not list((hooked.state / "answers").glob("*.busy"))


def test_a_check_that_fails_stops_the_commit_as_ever(hooked: Hooked) -> None:
    script(hooked.repo.path / ".git/hooks/pre-commit", "#!/bin/sh\nexit 4\n")
    hooked.install(hooks=("pre-commit",))
    assert hooked.git("commit").returncode == 1 and hooked.message() == "Start"
    assert hooked.git("commit", "--no-verify").returncode == 0


def test_the_cache_keeps_a_bounded_number_of_answers(tmp_path: Path) -> None:
    for n in range(cache.MAX_ANSWERS + 8):
        key = cache.compute_cache_key(str(n), "", 1, "m")
        cache.store_cached_answer(tmp_path, key, ModelAnswer([Suggestion(str(n))]))
    assert len(list((tmp_path / "answers").iterdir())) == cache.MAX_ANSWERS
