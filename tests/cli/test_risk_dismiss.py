"""`gitpeft risk dismiss`: what it takes, what it writes, and who honours it."""

import json
import os
import re
import shutil
import subprocess
from pathlib import Path
from typing import Any

import pytest

from tests.support.commands import Call
from tests.support.gitrepo import HOUR, Repo
from tests.support.risky import change_core, fixed_often, give, lines, load
from tests.support.sarifcheck import check_sarif

DAY = 24 * HOUR
SHARED = ".gitpeft-dismissed.toml"


class Clock:
    """The time at which commands run."""

    def __init__(self, repo: Repo, patch: pytest.MonkeyPatch) -> None:
        self.repo, self.patch = repo, patch
        self.wait(0)

    def wait(self, seconds: int) -> None:
        """Let time pass."""
        self.repo.clock += seconds
        self.patch.setenv("GIT_COMMITTER_DATE", f"{self.repo.clock} +0000")


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A history with a file that was fixed often, a model, and a large staged change of that file."""
    repo = Repo.create(tmp_path_factory.mktemp("made") / "repo")
    fixed_often(repo)
    give(repo)
    change_core(repo)
    return repo


@pytest.fixture
def core(made: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Repo:
    """A copy of it, which is the current folder."""
    shutil.copytree(made.path, tmp_path / "core")
    monkeypatch.chdir(tmp_path / "core")
    return Repo(tmp_path / "core", made.clock)


@pytest.fixture
def clock(core: Repo, monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(core, monkeypatch)


def staged(gitpeft: Call) -> dict[str, Any]:
    """The report about the staged change."""
    [report] = load(gitpeft("risk", "--json").out)
    return report


def test_a_dismissed_file_is_not_flagged_and_the_reason_stays(clock: Clock, gitpeft: Call) -> None:
    assert staged(gitpeft)["flagged"] is True
    done = gitpeft("risk", "dismiss", "src/core.py", "--why", "covered by the contract tests")
    assert (done.code, done.out) == (0, "Dismissed until 2024-05-13, or the first fix in it: src/core.py\n")
    report = staged(gitpeft)
    assert (report["flagged"], report["dismissed"], report["suppressed"]) == (False, True, True)
    [one] = report["dismissals"]
    assert one["why"] == "covered by the contract tests" and one["until"] == "2024-05-13"
    text = gitpeft("risk").out
    assert "[dismissed]" in text.splitlines()[0] and "[flagged]" not in text
    assert "  dismissed until 2024-05-13: src/core.py (covered by the contract tests)" in text.splitlines()
    assert gitpeft("risk", "--fail-above", "50").code == 0


def test_before_it_the_way_is_named(clock: Clock, gitpeft: Call) -> None:
    assert gitpeft("risk").out.splitlines()[-1] == "Looked at it? gitpeft risk dismiss PATH --why TEXT"
    assert gitpeft("risk", "--fail-above", "50").code == 1


def test_sarif_keeps_it_with_its_justification(clock: Clock, gitpeft: Call) -> None:
    gitpeft("risk", "dismiss", "src/core.py", "--why", 'only "renames"')
    log = json.loads(gitpeft("risk", "--format", "sarif").out)
    check_sarif(log)
    [result] = log["runs"][0]["results"]
    assert result["level"] == "warning" and "riskier than" in result["message"]["text"]
    [one] = result["suppressions"]
    assert (one["kind"], one["status"], one["justification"]) == ("external", "accepted", 'only "renames"')
    assert one["properties"]["until"] == "2024-05-13"


def test_github_shows_a_notice_and_no_warning(clock: Clock, gitpeft: Call) -> None:
    gitpeft("risk", "dismiss", "src/core.py", "--why", "known")
    out = gitpeft("risk", "--format", "github").out
    assert (
        out.startswith("::notice title=gitpeft%3A a risky change%2C dismissed::") and "::warning" not in out
    )
    assert "(known)" in out


@pytest.mark.parametrize(
    "name", ["def step3(value):", "step3", "src/core.py:step3", "src/core.py:def step3(value):"]
)
def test_a_function_is_named_as_evidence_prints_it(name: str, clock: Clock, gitpeft: Call) -> None:
    done = gitpeft("risk", "dismiss", name, "--why", "reviewed")
    assert done.code == 0 and "src/core.py, in “def step3(value):”" in done.said
    assert staged(gitpeft)["suppressed"] is True


def test_another_function_does_not_cover_the_change(clock: Clock, gitpeft: Call) -> None:
    clock.repo.git("stash", "-q")
    text = (
        (clock.repo.path / "src/core.py")
        .read_text()
        .replace("a = value\n    return a", "a = 2\n    return a", 2)
    )
    clock.repo.commit("touch two", **{"src/core.py": text})
    clock.repo.git("stash", "drop", "-q")
    change_core(clock.repo)
    clock.wait(0)
    assert gitpeft("risk", "dismiss", "step1", "--why", "reviewed").code == 0
    report = staged(gitpeft)
    assert (report["flagged"], report.get("dismissed", False)) == (True, False)


def test_in_part_its_facts_are_left_out_and_the_rest_is_flagged(clock: Clock, gitpeft: Call) -> None:
    clock.repo.stage(**{"src/other.py": "x = 1\n" * 50})
    gitpeft("risk", "dismiss", "src/core.py", "--why", "reviewed")
    report = staged(gitpeft)
    assert report["flagged"] is True and (report["dismissed"], report["suppressed"]) == (False, False)
    assert not any(one["path"] == "src/core.py" for one in report["evidence"])
    text = gitpeft("risk").out
    assert "[flagged]" in text and "dismissed until 2024-05-13: src/core.py (reviewed)" in text


def test_tests_and_documents_beside_it_need_no_dismissal(clock: Clock, gitpeft: Call) -> None:
    clock.repo.stage(**{"tests/test_core.py": "x = 99\n", "README.md": "more\n"})
    gitpeft("risk", "dismiss", "src/core.py", "--why", "reviewed")
    assert staged(gitpeft)["dismissed"] is True


def test_without_a_name_it_is_what_is_staged(clock: Clock, gitpeft: Call) -> None:
    clock.repo.stage(**{"src/other.py": "x = 1\n" * 50, "README.md": "more\n"})
    done = gitpeft("risk", "dismiss", "--why", "a generated client", "--json")
    found = json.loads(done.out)["dismissals"]
    assert [one["path"] for one in found] == ["src/core.py", "src/other.py"]
    assert staged(gitpeft)["dismissed"] is True


# --- how long it counts -------------------------------------------------------------------------------------


def test_it_ends_after_its_days(clock: Clock, gitpeft: Call) -> None:
    gitpeft("risk", "dismiss", "src/core.py", "--why", "reviewed", "--days", "10")
    clock.wait(10 * DAY)
    assert staged(gitpeft)["flagged"] is False
    clock.wait(DAY)
    assert staged(gitpeft)["flagged"] is True
    [one] = json.loads(gitpeft("risk", "dismiss", "--list", "--json").out)
    assert (one["open"], one["end"]) == (False, "its days ended on 2023-11-25")


def test_a_fix_after_the_dismissed_change_ends_it(clock: Clock, gitpeft: Call) -> None:
    """Also where what was dismissed is called a fix itself."""
    gitpeft("risk", "dismiss", "src/core.py", "--why", "reviewed")
    clock.repo.git("commit", "-q", "-m", "fix: an older crash")
    clock.repo.tick()
    clock.wait(0)
    change_core(clock.repo, 80)
    assert staged(gitpeft)["dismissed"] is True
    clock.repo.commit("fix: what that broke", **{"src/core.py": "def step3(value):\n    a = 7\n"})
    clock.wait(0)
    change_core(clock.repo, 90)
    report = staged(gitpeft)
    assert report["flagged"] is True and "dismissals" not in report
    said = "the dismissal of src/core.py ended on 2023-11-15, when a fix changed it"
    assert report["notes"] == [said] and f"  {said}" in gitpeft("risk").out.splitlines()
    assert "a fix changed it on 2023-11-15" in gitpeft("risk", "dismiss", "--list").out


def test_a_commit_in_review_can_be_dismissed_and_its_first_fix_ends_that(clock: Clock, gitpeft: Call) -> None:
    clock.repo.git("commit", "-q", "-m", "large")
    rev = clock.repo.git("rev-parse", "HEAD")
    clock.wait(2 * DAY)
    gitpeft("risk", "dismiss", "src/core.py", "--why", "reviewed", "--share")
    [report] = load(gitpeft("risk", rev, "--json").out)
    assert report["suppressed"] is True
    assert load(gitpeft("risk", "HEAD~4", "--json").out)[0].get("dismissed", False) is True  # 3 days old
    clock.wait(HOUR)
    clock.repo.commit("fix: what that broke", **{"src/core.py": "def step3(value):\n    a = 7\n"})
    clock.wait(HOUR)
    change_core(clock.repo, 90)
    assert staged(gitpeft)["flagged"] is True


def test_an_old_commit_is_not_covered_by_a_later_dismissal(clock: Clock, gitpeft: Call) -> None:
    clock.repo.git("commit", "-q", "-m", "large")
    rev = clock.repo.git("rev-parse", "HEAD")
    clock.wait(31 * DAY)
    gitpeft("risk", "dismiss", "src/core.py", "--why", "reviewed")
    [report] = load(gitpeft("risk", rev, "--json").out)
    assert report["flagged"] is True and "dismissals" not in report
    said = "not covered by the dismissal of src/core.py on 2023-12-16: this change is more than 30 days older"
    assert report["notes"] == [said] and said in gitpeft("risk", rev).said


def test_it_is_said_whether_the_last_commit_is_covered(clock: Clock, gitpeft: Call) -> None:
    clock.repo.git("commit", "-q", "-m", "large")
    clock.wait(30 * DAY)
    done = gitpeft("risk", "dismiss", "src/core.py", "--why", "reviewed")
    assert "Its last commit, of 2023-11-15, is covered, like all since 2023-11-15." in done.said
    clock.wait(DAY)
    done = gitpeft("risk", "dismiss", "step3", "--why", "reviewed")
    assert "Its last commit, of 2023-11-15, is not covered: it is older than 30 days. Later ones" in done.said
    done = gitpeft("risk", "dismiss", "step3", "--why", "reviewed", "--json")
    assert [one["last_commit_covered"] for one in json.loads(done.out)["dismissals"]] == [False]


def test_where_no_history_is_read_the_first_day_is_said(repo: Repo, gitpeft: Call) -> None:
    repo.commit("start", **{"a.py": "x = 1\n"})
    done = gitpeft("risk", "dismiss", "a.py", "--why", "y", "--repo", repo.path)
    assert re.search(r"Changes from before \d{4}-\d\d-\d\d are not covered\.", done.said)


def test_a_renamed_file_stays_dismissed(clock: Clock, gitpeft: Call) -> None:
    gitpeft("risk", "dismiss", "src/core.py", "--why", "reviewed")
    clock.repo.git("commit", "-q", "-m", "large")
    clock.repo.git("mv", "src/core.py", "src/kernel.py")
    clock.repo.git("commit", "-q", "-m", "move")
    clock.repo.tick()
    clock.wait(HOUR)
    text = (clock.repo.path / "src/kernel.py").read_text()
    clock.repo.stage(**{"src/kernel.py": text.replace("    a = 1\n", "    a = 1\n" + "    a += 2\n" * 60)})
    assert staged(gitpeft)["suppressed"] is True


def test_dismissing_again_renews_it(clock: Clock, gitpeft: Call) -> None:
    gitpeft("risk", "dismiss", "src/core.py", "--why", "first", "--days", "5")
    clock.wait(2 * DAY)
    gitpeft("risk", "dismiss", "src/core.py", "--why", "second", "--days", "5")
    [one] = json.loads(gitpeft("risk", "dismiss", "--list", "--json").out)
    assert (one["why"], one["until"]) == ("second", "2023-11-22")


# --- where it is kept ---------------------------------------------------------------------------------------


def test_own_dismissals_are_shared_by_worktrees(clock: Clock, gitpeft: Call, tmp_path: Path) -> None:
    gitpeft("risk", "dismiss", "src/core.py", "--why", "reviewed")
    assert clock.repo.git("status", "--porcelain") == "M  src/core.py"
    clock.repo.git("worktree", "add", "-q", str(tmp_path / "other"))
    other = Repo(tmp_path / "other", clock.repo.clock)
    change_core(other)
    [report] = load(gitpeft("risk", "--json", "--repo", other.path).out)
    assert report["suppressed"] is True


def test_a_committed_file_counts_for_those_who_clone(clock: Clock, gitpeft: Call, tmp_path: Path) -> None:
    done = gitpeft("risk", "dismiss", "src/core.py", "--why", "reviewed in #12", "--share")
    assert done.out.splitlines()[-1] == f"Commit {SHARED} to share it."
    clock.repo.git("add", SHARED)
    clock.repo.git("commit", "-q", "-m", "dismiss", SHARED)
    clone = clock.repo.clone(tmp_path / "clone")
    give(clone)
    change_core(clone)
    [report] = load(gitpeft("risk", "--json", "--repo", clone.path).out)
    assert report["suppressed"] is True and report["dismissals"][0]["shared"] is True
    (clone.path / SHARED).unlink()  # as in a sparse checkout
    [report] = load(gitpeft("risk", "--json", "--repo", clone.path).out)
    assert report["suppressed"] is True


def test_the_shared_file_is_readable_and_comments_in_it_stay(clock: Clock, gitpeft: Call) -> None:
    path = clock.repo.path / SHARED
    path.write_text("# ours\n\n[[dismissed]]\npath = 'src/a b.py'\nwhy = 'x'\nsince = 2023-11-01\n# kept\n")
    assert gitpeft("risk", "dismiss", "src/core.py", "--why", 'a "quoted" \\ reason', "--share").code == 0
    assert path.read_text() == (
        "# ours\n\n[[dismissed]]\npath = 'src/a b.py'\nwhy = 'x'\nsince = 2023-11-01\n# kept\n\n"
        '[[dismissed]]\npath = "src/core.py"\nwhy = "a \\"quoted\\" \\\\ reason"\n'
        "since = 2023-11-15T05:13:20Z\nuntil = 2024-05-13\nstaged = true\n"
    )
    assert gitpeft("risk", "dismiss", "src/core.py", "--undo").code == 0
    assert path.read_text().startswith("# ours\n") and "core.py" not in path.read_text()
    assert staged(gitpeft)["flagged"] is True


def test_list_and_undo(clock: Clock, gitpeft: Call) -> None:
    assert gitpeft("risk", "dismiss", "--list").out == "Nothing is dismissed here.\n"
    assert gitpeft("risk", "dismiss", "--list", "--json").out == "[]\n"
    gitpeft("risk", "dismiss", "step3", "--why", "reviewed")
    assert gitpeft("risk", "dismiss", "--list").out == (
        "src/core.py, in “def step3(value):”\n  reviewed\n  until 2024-05-13, or the first fix in it\n"
    )
    done = gitpeft("risk", "dismiss", "step3", "--undo")
    assert done.code == 0 and "no longer dismissed" in done.out
    assert staged(gitpeft)["flagged"] is True
    done = gitpeft("risk", "dismiss", "step3", "--undo")
    assert (
        done.code == 1
        and done.err.splitlines()[0] == "error: not dismissed: src/core.py, in “def step3(value):”"
    )


def test_undoing_a_file_leaves_its_functions(clock: Clock, gitpeft: Call) -> None:
    for name in ("step3", "src/core.py"):
        gitpeft("risk", "dismiss", name, "--why", "reviewed")
    assert gitpeft("risk", "dismiss", "src/core.py", "--undo").code == 0
    [one] = json.loads(gitpeft("risk", "dismiss", "--list", "--json").out)
    assert one["function"] == "def step3(value):"


def test_files_of_one_name_are_all_offered(clock: Clock, gitpeft: Call) -> None:
    clock.repo.stage(**{"lib/core.py": "x\n"})
    done = gitpeft("risk", "dismiss", "core.py", "--why", "x")
    assert done.code == 1 and "did you mean lib/core.py or src/core.py?" in done.err


def test_doctor_names_what_is_wrong_with_a_file(clock: Clock, gitpeft: Call) -> None:
    (clock.repo.path / SHARED).write_text("[[dismissed]]\npath = 'a.py'\nfunction = 'def f():'\n")
    said = gitpeft("doctor").said
    assert f"{SHARED}: entry 1 is ignored" in said and "(a.py, def f():)" in said


def test_a_secret_in_the_reason_is_masked(clock: Clock, gitpeft: Call) -> None:
    secret = "ghp_" + "a1B2c3D4" * 4 + "e5F6"
    gitpeft("risk", "dismiss", "src/core.py", "--why", f"token {secret}")
    assert secret not in (clock.repo.path / ".git/gitpeft/dismissed.toml").read_text()


def test_a_masked_reason_that_became_too_long_is_still_read(clock: Clock, gitpeft: Call) -> None:
    """The mask of a password is longer than the password may be."""
    why = "https://u:a@example.org ".ljust(300, "x")
    assert gitpeft("risk", "dismiss", "src/core.py", "--why", why).code == 0
    assert "src/core.py" in gitpeft("risk", "dismiss", "--list").out


# --- bad input ----------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("arguments", "code", "said"),
    [
        (("nothing.py", "--why", "x"), 1, "no tracked file and no changed function is called 'nothing.py'"),
        (("src/cor.py", "--why", "x"), 1, "did you mean src/core.py?"),
        (("../outside.py", "--why", "x"), 1, "no tracked file"),
        (("src", "--why", "x"), 1, "'src' is a folder"),
        (("new.py", "--why", "x"), 1, "'new.py' is not tracked by git"),
        (("no_such_function", "--why", "x"), 1, "no changed function"),
        (("src/core.py:no_such", "--why", "x"), 1, "no changed function of src/core.py is called 'no_such'"),
        (("HEAD", "--why", "x"), 1, "'HEAD' is a commit; what is dismissed is a file or a function"),
        (("HEAD", "--why", "x"), 1, "name one that it changes: src/core.py, tests/test_core.py"),
        (("step", "--why", "x"), 1, "no changed function"),
        (("value", "--why", "x"), 1, "no changed function"),
        ((" ", "--why", "x"), 1, "there is no name to dismiss"),
        (("src/core.py",), 2, "say why"),
        (("src/core.py", "--why", "  "), 2, "say why"),
        (("src/core.py", "--why", "x" * 400), 1, "the reason has 400 characters"),
        (("src/core.py", "--why", "x", "--days", "0"), 2, "--days"),
        (("src/core.py", "--why", "x", "--days", "400"), 2, "--days"),
        (("src/core.py", "--list"), 2, "--list takes no target"),
        (("src/core.py", "--undo", "--why", "x"), 2, "--undo takes only a target"),
    ],
)
def test_bad_input_is_a_sentence(
    arguments: tuple[str, ...], code: int, said: str, clock: Clock, gitpeft: Call
) -> None:
    (clock.repo.path / "new.py").write_text("x\n")
    done = gitpeft("risk", "dismiss", *arguments)
    assert done.code == code and said in done.said
    assert not (clock.repo.path / ".git/gitpeft/dismissed.toml").exists()


def test_of_several_functions_one_has_to_be_named(clock: Clock, gitpeft: Call) -> None:
    clock.repo.commit("second", **{"src/more.py": lines(0, 8)})
    clock.repo.stage(**{"src/more.py": lines(0, 8, " + 1")})
    done = gitpeft("risk", "dismiss", "step3", "--why", "x")
    assert done.code == 1 and done.err.splitlines() == [
        "error: 2 functions are called 'step3'",
        "name one of them:",
        "  src/core.py:def step3(value):",
        "  src/more.py:def step3(value):",
    ]
    assert gitpeft("risk", "dismiss", "src/more.py:step3", "--why", "x").code == 0


def test_of_several_functions_in_a_file_the_file_is_named(clock: Clock, gitpeft: Call) -> None:
    twice = lines(0, 1) + lines(0, 1).replace("(value)", "(value, more)")
    clock.repo.stage(**{"src/more.py": twice})
    clock.repo.commit("second", **{"src/more.py": twice})
    clock.repo.stage(**{"src/more.py": twice.replace("return a", "return 1")})
    done = gitpeft("risk", "dismiss", "src/more.py:step0", "--why", "x")
    assert done.code == 1 and "2 functions of src/more.py are called 'step0'" in done.err


def test_an_entry_that_cannot_be_changed_is_named(clock: Clock, gitpeft: Call) -> None:
    inline = (
        'dismissed = [{path = "src/core.py", function = "def step3(value):", why = "x", since = 2023-11-01}]'
    )
    (clock.repo.path / SHARED).write_text(inline + "\n")
    done = gitpeft("risk", "dismiss", "step3", "--undo")
    assert done.code == 1 and f"the entry for src/core.py, in “def step3(value):” in {SHARED}" in done.err


def test_nothing_staged(clock: Clock, gitpeft: Call) -> None:
    clock.repo.git("reset", "-q", "--hard")
    done = gitpeft("risk", "dismiss", "--why", "x")
    assert done.code == 1 and "nothing is staged" in done.err


def test_outside_a_repository(tmp_path: Path, gitpeft: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    for arguments in (("x", "--why", "y"), ("--list",), ("x", "--undo")):
        done = gitpeft("risk", "dismiss", *arguments)
        assert done.code == 1 and "is not in a git repository" in done.err


def test_from_a_folder_and_before_the_first_commit(repo: Repo, gitpeft: Call) -> None:
    repo.stage(**{"src/a.py": "x = 1\n"})
    done = gitpeft("risk", "dismiss", "a.py", "--why", "y", "--repo", repo.path / "src")
    assert done.code == 0 and "src/a.py" in done.out


def test_a_bare_repository(tmp_path: Path, gitpeft: Call, core: Repo) -> None:
    core.git("clone", "-q", "--bare", ".", str(tmp_path / "bare.git"))
    done = gitpeft("risk", "dismiss", "src/core.py", "--why", "y", "--share", "--repo", tmp_path / "bare.git")
    assert done.code == 1 and "bare repository" in done.err
    done = gitpeft("risk", "dismiss", "src/core.py", "--why", "y", "--repo", tmp_path / "bare.git")
    assert done.code == 0


@pytest.mark.skipif(os.getuid() == 0, reason="root may write everywhere")
def test_a_state_that_cannot_be_written(clock: Clock, gitpeft: Call) -> None:
    state = clock.repo.path / ".git/gitpeft"
    state.chmod(0o500)
    try:
        done = gitpeft("risk", "dismiss", "src/core.py", "--why", "x")
    finally:
        state.chmod(0o700)
    assert done.code == 1 and "cannot write" in done.err


def test_a_state_in_the_way(repo: Repo, gitpeft: Call) -> None:
    """Also for root: a folder where the file should be."""
    repo.commit("start", **{"a.py": "x\n"})
    state = repo.path / ".git/gitpeft"
    state.write_text("")
    done = gitpeft("risk", "dismiss", "a.py", "--why", "x", "--repo", repo.path)
    assert done.code == 1 and f"cannot write {state}" in done.err
    state.unlink()
    (state / "dismissed.toml").mkdir(parents=True)
    done = gitpeft("risk", "dismiss", "a.py", "--why", "x", "--repo", repo.path)
    assert done.code == 1 and "dismissed.toml" in done.err and "not a regular file" in done.err


def test_a_branch_called_dismiss_can_still_be_judged(clock: Clock, gitpeft: Call) -> None:
    clock.repo.git("branch", "dismiss")
    [report] = load(gitpeft("risk", "--json", "dismiss").out)
    assert report["rev"] == "dismiss"


def test_git_is_asked_literally(repo: Repo, gitpeft: Call) -> None:
    for name in ("a[1].py", "a1.py", ":(top)b.py"):
        repo.write(name, "x\n")
    repo.git("add", "-A")
    repo.git("commit", "-q", "-m", "start")
    for name in ("a[1].py", ":(top)b.py"):
        done = gitpeft("risk", "dismiss", name, "--why", "x", "--repo", repo.path)
        assert done.code == 0 and name in done.out
    made = subprocess.run(
        ["git", "config", "--list"], cwd=repo.path, capture_output=True, text=True, check=True
    ).stdout
    assert "dismiss" not in made
