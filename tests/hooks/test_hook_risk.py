"""Group H of the contract: the flag before a commit."""

import os
import re
import shlex
import shutil
import sqlite3
import statistics
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import pytest

from gitpeft.git.repository import Repository
from gitpeft.risk.model import LINES_ADDED, RiskModel
from tests.support.gitrepo import Repo
from tests.support.hooking import SUGGESTION, Hooked, listing, make_python, script
from tests.support.risky import MODEL, NOTHING, change_core, fixed_often, give
from tests.support.sources import CHECKOUT

BOTH = ("prepare-commit-msg", "pre-commit")


@pytest.fixture(scope="module")
def python(tmp_path_factory: pytest.TempPathFactory) -> str:
    return make_python(tmp_path_factory.mktemp("python"))


@pytest.fixture
def hooked(repo: Repo, python: str, tmp_path: Path) -> Hooked:
    """A history with a file that was fixed often, a model that knows, and a large change of that file."""
    fixed_often(repo)
    hooked = Hooked.create(repo, python, tmp_path / "tools")
    hooked.install(hooks=BOTH)
    give(repo)
    change_core(repo)
    return hooked


def flagged(done: subprocess.CompletedProcess[bytes]) -> list[str]:
    """The lines of a flag, [] when nothing was said."""
    said = [line for line in done.stderr.decode().splitlines() if line.startswith("gitpeft: ")]
    return said if said and "riskier than" in said[0] else []


def test_h1_the_flag_is_advice(hooked: Hooked) -> None:
    done = hooked.git("commit", "-m", "large")
    assert done.returncode == 0 and hooked.message() == "large"
    assert flagged(done)


def test_h2_h3_a_flag_names_its_evidence_and_its_place(hooked: Hooked) -> None:
    head, *evidence = flagged(hooked.git("commit", "-m", "large"))
    assert re.fullmatch(r"gitpeft: this change: riskier than \d\d% of recent commits:", head)
    assert 1 <= len(evidence) <= 5
    assert "gitpeft:   src/core.py: 5 of its 7 changes in the last year were fixes" in evidence
    assert "gitpeft:   src/core.py, in “def step3(value):”: 5 fixes in the last year" in evidence
    assert not re.search(r"probab|chance", " ".join([head, *evidence]))


@pytest.mark.parametrize(
    "model", [replace(MODEL, kind=LINES_ADDED), RiskModel(why="no score beats chance on later commits")]
)
def test_h4_no_flag_where_nothing_beats_lines_added(hooked: Hooked, model: RiskModel) -> None:
    give(hooked.repo, model)
    done = hooked.git("commit", "-m", "large")
    assert done.returncode == 0 and b"gitpeft" not in done.stderr


def test_h5_no_flag_without_enough_history(hooked: Hooked) -> None:
    give(hooked.repo, NOTHING)
    assert b"gitpeft" not in hooked.git("commit", "-m", "large").stderr


def test_h6_silent_while_something_else_is_going_on(hooked: Hooked) -> None:
    """Rebase in its forms, merge and its conflict, cherry-pick, revert, am."""
    repo = hooked.repo
    hooked.git("commit", "-m", "large", "--no-verify")
    base = repo.git("rev-parse", "HEAD~1")
    repo.git("branch", "other", base)
    todo = "sed -i -e 1s/^pick/edit/"
    for command in (
        ("rebase", "-q", "--force-rebase", "HEAD~3"),
        ("-c", f"sequence.editor={todo}", "rebase", "-q", "-i", "HEAD~2"),
        ("commit", "--amend", "-m", "in the middle"),
        ("rebase", "--continue"),
        ("revert", "--no-edit", "HEAD"),
        ("cherry-pick", "HEAD~1"),
    ):
        done = hooked.git(*command, env={"GIT_EDITOR": "true"})
        assert done.returncode == 0, (command, done)
        assert b"riskier" not in done.stderr, command
    repo.git("checkout", "-q", "other")
    change_core(repo, 60)
    hooked.git("commit", "-q", "-m", "other", "--no-verify")
    assert hooked.git("merge", "main").returncode == 1
    repo.git("checkout", "--theirs", "src/core.py")
    repo.git("add", "-A")
    done = hooked.git("commit", "-m", "merged")
    assert done.returncode == 0 and b"riskier" not in done.stderr


def test_h7_the_budget_is_a_setting(hooked: Hooked) -> None:
    score = 1 + 95
    for budget, expected in (("50", True), ("1", False)):
        hooked.repo.git("config", "gitpeft.riskBudget", budget)
        give(hooked.repo, replace(MODEL, scores=tuple(-6 + i / 13.5 for i in range(score + 5))))
        done = hooked.git("commit", "--dry-run", "-m", "large")
        assert done.returncode == 0
        assert bool(flagged(hooked.call_stage())) is expected, budget


def dismiss(repo: Repo, text: str = "") -> None:
    """A committed file that dismisses `core.py` for a year, or one with this text."""
    text = text or '[[dismissed]]\npath = "src/core.py"\nwhy = "reviewed"\n'
    today = time.strftime("%Y-%m-%d", time.gmtime(repo.clock))
    repo.write(".gitpeft-dismissed.toml", text + f"since = {today}\nuntil = 2024-10-01\n")


@pytest.mark.parametrize("risk", ["warn", "block"])
def test_what_was_dismissed_is_neither_said_nor_stopped(hooked: Hooked, risk: str) -> None:
    hooked.repo.git("config", "gitpeft.risk", risk)
    dismiss(hooked.repo)
    done = hooked.git("commit", "-m", "large")
    assert done.returncode == 0 and b"gitpeft" not in done.stderr


@pytest.mark.parametrize(
    "text",
    [
        "not toml at all\n",
        '[[dismissed]]\npath = "src/core.py"\n',
        '[[dismissed]]\npath = "src/core.py"\nwhy = "x"\ncommand = "rm -rf /"\n',
        "x = 1\n" * 20_000,
    ],
)
def test_a_bad_committed_file_is_one_sentence_beside_the_flag(hooked: Hooked, text: str) -> None:
    dismiss(hooked.repo, text)
    done = hooked.git("commit", "-m", "large")
    said = flagged(done)
    assert done.returncode == 0 and said
    [problem] = [line for line in said if "ignored" in line]
    assert ".gitpeft-dismissed.toml" in problem and problem == said[-1]


def test_h8_nobody_is_blamed(hooked: Hooked) -> None:
    said = "\n".join(flagged(hooked.git("commit", "-m", "large"))) + hooked.log()
    assert said and not re.search(r"zoe|person\d|@|\bada\b|\bcarl\b", said, re.I)


def test_block_stops_the_commit_and_says_the_way_through(hooked: Hooked) -> None:
    hooked.repo.git("config", "gitpeft.risk", "block")
    head = hooked.repo.git("rev-parse", "HEAD")
    done = hooked.git("commit", "-m", "large")
    assert done.returncode == 1 and hooked.repo.git("rev-parse", "HEAD") == head
    assert "git commit --no-verify" in flagged(done)[-1]
    assert hooked.git("commit", "-m", "large", env={"GITPEFT": "0"}).returncode == 0
    hooked.repo.git("reset", "-q", "--soft", head)
    assert hooked.git("commit", "-m", "large", "--no-verify").returncode == 0
    small = hooked.repo
    small.stage(other="1\n")
    assert hooked.git("commit", "-m", "small").returncode == 0


def test_a_committed_file_cannot_block(hooked: Hooked) -> None:
    hooked.repo.write(".gitpeft", "[gitpeft]\n\trisk = block\n")
    assert hooked.git("commit", "-m", "large").returncode == 0


@pytest.mark.parametrize(
    "setting", [("gitpeft.risk", "off"), ("gitpeft.enabled", "false"), ("gitpeft.quiet", "true")]
)
def test_switched_off_it_is_silent(hooked: Hooked, setting: tuple[str, str]) -> None:
    hooked.repo.git("config", *setting)
    assert b"gitpeft" not in hooked.git("commit", "-m", "large").stderr


def test_a_usual_change_is_not_mentioned(hooked: Hooked) -> None:
    hooked.repo.git("reset", "-q", "--hard")
    hooked.repo.stage(**{"README.md": "hello world\n"})
    done = hooked.git("commit", "-m", "small")
    assert done.returncode == 0 and done.stderr == b""


def test_another_hook_runs_first_and_decides(hooked: Hooked) -> None:
    hook = hooked.hook.with_name("pre-commit")
    hook.unlink()
    script(hook, "#!/bin/sh\n[ ! -e stop ] || exit 3\ngit reset -q --hard; echo 1 >tiny; git add tiny\n")
    hooked.install(hooks=BOTH)
    hooked.repo.write("stop", "")
    done = hooked.git("commit", "-m", "stopped")
    assert done.returncode == 1 and b"riskier" not in done.stderr
    (hooked.repo.path / "stop").unlink()
    done = hooked.git("commit", "-m", "what the other hook left")
    assert done.returncode == 0 and b"riskier" not in done.stderr, (
        "the change as it was before the other hook"
    )


def test_the_commit_on_top_of_the_last_one_needs_no_mining(hooked: Hooked) -> None:
    """The tables follow HEAD by themselves, wherever it goes."""
    for number in range(3):
        hooked.git("commit", "-q", "-m", f"fix: number {number}")
        change_core(hooked.repo, 100 * number + 100)
    assert "gitpeft:   src/core.py: 8 of its 10 changes in the last year were fixes" in flagged(
        hooked.call_stage()
    )
    hooked.repo.git("checkout", "-q", "-f", "-b", "back", "HEAD~5")
    change_core(hooked.repo, 70)
    assert "gitpeft:   src/core.py: 3 of its 5 changes in the last year were fixes" in flagged(
        hooked.call_stage()
    )


def test_a_damaged_history_is_read_again_on_the_way(hooked: Hooked) -> None:
    expected = flagged(hooked.call_stage())
    for ending in ("", "-wal", "-shm"):
        (hooked.state / f"history.db{ending}").unlink(missing_ok=True)
    (hooked.state / "history.db").write_bytes(b"no database" * 99)
    assert flagged(hooked.call_stage()) == expected != []


def test_a_slow_git_is_not_waited_for(hooked: Hooked) -> None:
    hooked.repo.git("config", "gitpeft.risk", "block")
    hooked.repo.git("config", "gitpeft.timeoutMs", "700")
    slow = f'case "$*" in *cat-file*) sleep 9 ;; esac\nexec {shlex.quote(shutil.which("git") or "")} "$@"\n'
    script(hooked.tools / "slow" / "git", f"#!/bin/sh\n{slow}")
    started = time.monotonic()
    done = hooked.call_stage(PATH=f"{hooked.tools / 'slow'}:{os.environ['PATH']}")
    assert done.returncode == 0 and time.monotonic() - started < 6
    assert done.stderr.decode().count("gitpeft: ") == 1 and b"within 700 ms" in done.stderr


@pytest.mark.parametrize("damage", ["model", "locked", "gone"])
def test_whatever_breaks_the_commit_goes_on(hooked: Hooked, damage: str) -> None:
    state = hooked.state
    lock = None
    hooked.repo.git("config", "gitpeft.risk", "block")
    if damage == "gone":
        (state / "history.db").unlink()
    elif damage == "model":
        [path] = state.glob("models/*/risk.json")
        path.write_bytes(path.read_bytes().replace(b"0.5", b"0.6", 1))
    else:
        hooked.git("commit", "-q", "-m", "one more", "--no-verify")
        change_core(hooked.repo, 400)
        lock = sqlite3.connect(state / "history.db", isolation_level=None)
        lock.execute("BEGIN EXCLUSIVE")
    started = time.monotonic()
    done = hooked.git("commit", "-m", "large")
    assert done.returncode == 0, done
    assert time.monotonic() - started < 6
    assert len([line for line in done.stderr.decode().splitlines() if "gitpeft" in line]) <= 1
    assert b"Traceback" not in done.stderr
    if lock:
        lock.close()


def test_notes_go_into_the_message_where_that_is_wanted(hooked: Hooked) -> None:
    hooked.repo.git("config", "gitpeft.riskComments", "true")
    hooked.answer_active()
    done = hooked.git("commit")
    assert done.returncode == 0 and hooked.message() == SUGGESTION
    assert "# gitpeft:   src/core.py: 5 of its 7 changes in the last year were fixes" in hooked.seen()
    change_core(hooked.repo, 44)
    hooked.answer_active()
    hooked.git("commit", "--cleanup=verbatim")
    assert "of its" not in hooked.seen() and "of its" not in hooked.message()


def test_notes_of_another_change_are_not_shown(hooked: Hooked) -> None:
    hooked.repo.git("config", "gitpeft.riskComments", "true")
    hooked.call_stage()
    hooked.repo.stage(other="1\n")
    hooked.answer_active()
    hooked.git("commit", "--no-verify")
    assert "of its" not in hooked.seen()


def test_only_the_state_directory_is_written(hooked: Hooked) -> None:
    before = listing(hooked.repo.path, ".git"), listing(hooked.repo.path / ".git", "gitpeft")
    assert flagged(hooked.call_stage())
    assert (listing(hooked.repo.path, ".git"), listing(hooked.repo.path / ".git", "gitpeft")) == before


def test_g3_the_flag_loads_the_standard_library_only(hooked: Hooked) -> None:
    program = (
        "import sys; from gitpeft.hooks import run; assert run.main(['risk']) == 0\n"
        "tops = {name.split('.')[0] for name in sys.modules}\n"
        "print(*sorted(tops - set(sys.stdlib_module_names) - {'gitpeft', '__main__', 'sitecustomize'}))\n"
    )
    done = subprocess.run(
        [sys.executable, "-S", "-c", program], cwd=hooked.repo.path, capture_output=True, text=True,
        timeout=60, env={**hooked.full_env(), "PYTHONPATH": str(CHECKOUT)}, check=True,
    )  # fmt: skip
    assert "riskier than" in done.stderr and done.stdout.split() == []


@pytest.mark.slow
def test_the_flag_costs_little_over_bare_python(hooked: Hooked) -> None:
    """In turns with an interpreter that does nothing; the limit is wide because machines are busy."""
    python, env = hooked.python, hooked.full_env()
    times: dict[str, list[float]] = {"bare": [], "flag": []}
    for _ in range(12):
        for name, program in (
            ("bare", ["-c", "pass"]),
            ("flag", ["-c", "from gitpeft.hook import run; run()", "risk"]),
        ):
            started = time.perf_counter()
            subprocess.run(
                [python, "-I", *program], cwd=hooked.repo.path, env=env, capture_output=True, check=True
            )
            times[name].append(time.perf_counter() - started)
    assert statistics.median(times["flag"]) - statistics.median(times["bare"]) < 0.25


def test_the_hook_is_part_of_both_installations(repo: Repo, python: str) -> None:
    from gitpeft.hooks.install import install_hooks

    done = install_hooks(Repository.open(repo.path), hooks=BOTH, python=python)
    assert [one.where.name for one in done] == list(BOTH)
