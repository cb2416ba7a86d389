"""What `gitpeft risk` and `gitpeft risk dismiss` show in a terminal of 80 columns."""

import os
import sys

import pytest

from tests.support.gitrepo import Repo
from tests.support.risky import change_core, fixed_often, give
from tests.support.sources import CHECKOUT
from tests.support.terminal import run_in_window

FOLDER = "src/a_folder_with_a_name/of_some_length"
WHY = "the contract tests of the client and those of the service cover it, and two people have read it"


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A flagged change of files with long names, on top of a commit with a long subject."""
    repo = Repo.create(tmp_path_factory.mktemp("made") / "repo")
    fixed_often(repo)
    for i in range(6):
        files = {f"{FOLDER}/one_module.py": f"x = {i}\n", f"{FOLDER}/its_tests.py": f"x = {i}\n"}
        repo.commit("fix: a crash in what reads the answers of the service " * 2, **files)
    give(repo)
    change_core(repo)
    repo.stage(**{f"{FOLDER}/one_module.py": "x = 1\n" * 40})
    return repo


def show(made: Repo, *arguments: str) -> list[str]:
    """The lines that a person sees."""
    program = [sys.executable, "-m", "gitpeft", *arguments]
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT), "NO_COLOR": "1", "TERM": "dumb"}
    env |= {"GIT_COMMITTER_DATE": f"{made.clock} +0000"}
    env.pop("COLUMNS", None)
    return run_in_window(program, made.path, env, 80)


@pytest.mark.parametrize(
    "arguments",
    [("risk",), ("risk", "--explain"), ("risk", "HEAD~4..HEAD"), ("risk", "dismiss", "--list")],
)
def test_every_line_fits_and_goes_on_further_in(made: Repo, arguments: tuple[str, ...]) -> None:
    show(made, "risk", "dismiss", "step3", "--why", WHY)
    lines = show(made, *arguments)
    assert lines and not [line for line in lines if len(line) > 80 and " " in line.strip()]
    broken = [line for line in lines if line.startswith("    ")]
    assert broken or arguments[-1] == "--list"


def test_what_dismiss_says_fits(made: Repo) -> None:
    for arguments in (
        (f"{FOLDER}/its_tests.py", "--why", WHY),
        (f"{FOLDER}/its_tests.py:a_function_that_nobody_has_ever_written", "--why", WHY),
        ("a_function_that_nobody_has_ever_written", "--why", WHY),
        ("HEAD", "--why", WHY),
    ):
        lines = show(made, "risk", "dismiss", *arguments)
        assert lines and not [line for line in lines if len(line) > 80 and " " in line.strip()], lines
