"""Group A of the contract: in which commits a message is offered. Real git, a scripted editor."""

import os
import subprocess
import time
from pathlib import Path

import pytest

from tests.support.gitrepo import Repo
from tests.support.hooking import OTHER, SUGGESTION, THIRD, Hooked, needs_git, script


def test_a1_a_commit_with_an_editor_is_offered_a_message(hooked: Hooked) -> None:
    done = hooked.git("commit")
    assert done.returncode == 0, done.stderr
    assert hooked.seen().startswith(f"{SUGGESTION}\n\n# gitpeft: suggested above.")
    assert f"# {OTHER.splitlines()[0]}\n#\n# They were" in hooked.seen() and f"# {THIRD}\n" in hooked.seen()
    assert hooked.message() == SUGGESTION
    assert b"gitpeft" not in done.stderr and hooked.log() == ""


def test_a1_the_answer_may_come_from_the_cache(hooked: Hooked) -> None:
    hooked.answer("From the cache")
    hooked.git("commit", env={"STANDIN": "exit:1"})
    assert hooked.message() == "From the cache"


@pytest.mark.parametrize("how", ["-m", "-F", "-F -", "--message", "-m -m"])
def test_a2_a_message_on_the_command_line_is_left_alone(hooked: Hooked, how: str, tmp_path: Path) -> None:
    (tmp_path / "given").write_text("# given\n")
    options = {
        "-m": ["-m", "# given"],
        "-F": ["-F", str(tmp_path / "given")],
        "-F -": ["-F", "-"],
        "--message": ["--message=# given"],
        "-m -m": ["-m", "# given", "-m", ""],
    }[how]
    hooked.git("commit", *options, input="# given\n")
    assert hooked.message() == "# given"


def test_a3_a_message_to_edit_is_left_alone(hooked: Hooked) -> None:
    hooked.git("commit", "-e", "-m", "mine")
    assert hooked.seen().startswith("mine\n") and SUGGESTION not in hooked.seen()


def test_a4_amend_is_unchanged_by_default(hooked: Hooked) -> None:
    hooked.git("commit", "--amend", "--no-edit")
    assert hooked.message() == "Start"
    hooked.git("commit", "--amend")
    assert SUGGESTION not in hooked.seen() and hooked.message() == "Start"


def test_a4_amend_opted_in_compares_with_the_parent_and_adds_comments_only(
    hooked: Hooked, tmp_path: Path
) -> None:
    hooked.git("commit", "-m", "Second")
    hooked.repo.git("config", "gitpeft.amend", "true")
    hooked.git("commit", "--amend", env={"STANDIN_SAW": str(tmp_path / "saw")})
    assert hooked.seen().startswith("Second\n") and f"# {SUGGESTION}\n" in hooked.seen()
    assert "parser.py" in (tmp_path / "saw").read_text() and "README" not in (tmp_path / "saw").read_text()
    assert hooked.message() == "Second"
    hooked.git("commit", "--amend", "--no-edit")
    assert hooked.message() == "Second"


def test_a5_another_commit_that_lends_its_message_is_not_an_amended_one(hooked: Hooked) -> None:
    hooked.repo.git("config", "gitpeft.amend", "true")
    hooked.repo.git("commit", "-q", "-m", "Second")
    hooked.stage(more="m\n")
    hooked.git("commit", "-c", "HEAD~1")
    assert SUGGESTION not in hooked.seen() and hooked.message() == "Start"


def test_a4_amend_of_the_first_commit_opted_in(repo: Repo, python: str, tmp_path: Path) -> None:
    repo.commit("Only", a="a\n")
    hooked = Hooked.create(repo, python, tmp_path / "tools")
    repo.git("config", "gitpeft.amend", "true")
    hooked.git("commit", "--amend")
    assert f"# {SUGGESTION}\n" in hooked.seen() and hooked.message() == "Only"


@pytest.mark.parametrize("option", ["-c", "-C"])
def test_a5_a_reused_message_is_left_alone(hooked: Hooked, option: str) -> None:
    hooked.git("commit", option, "HEAD")
    assert hooked.message() == "Start"
    if option == "-c":
        assert SUGGESTION not in hooked.seen()


@pytest.mark.parametrize(
    ("option", "subject"),
    [
        ("--fixup=HEAD", "fixup! Start"),
        ("--squash=HEAD", "squash! Start"),
        ("--fixup=amend:HEAD", "amend! Start"),
        ("--fixup=reword:HEAD", "amend! Start"),
    ],
)
def test_a6_commits_for_autosquash_keep_their_subject(hooked: Hooked, option: str, subject: str) -> None:
    if ":" in option:
        needs_git(2, 32, option)
    hooked.git("commit", option)
    assert hooked.message().splitlines()[0] == subject and SUGGESTION not in hooked.message()


def conflict(hooked: Hooked) -> None:
    """Two branches that change one line; `main` is checked out, `topic` is the other."""
    hooked.git("commit", "-m", "Parser")
    hooked.repo.git("checkout", "-q", "-b", "topic")
    hooked.repo.commit("Theirs", README="theirs\n")
    hooked.repo.git("checkout", "-q", "main")
    hooked.repo.commit("Ours", README="ours\n")


def test_a7_merges_and_their_conflicts_are_left_alone(hooked: Hooked) -> None:
    conflict(hooked)
    hooked.git("merge", "topic")
    hooked.repo.write("README", "both\n")
    hooked.git("commit", "-a")
    assert hooked.seen().startswith("Merge branch 'topic'") and SUGGESTION not in hooked.seen()
    hooked.repo.git("reset", "-q", "--hard", "HEAD~")
    hooked.git("merge", "--no-ff", "-X", "ours", "--edit", "topic")
    assert SUGGESTION not in hooked.seen() and hooked.message() == "Merge branch 'topic'"


def test_a8_a_squash_merge_is_left_alone_unless_opted_in(hooked: Hooked) -> None:
    conflict(hooked)
    hooked.git("merge", "--squash", "-X", "ours", "topic")
    hooked.stage(other="o\n")
    hooked.git("commit", edit="false")
    assert SUGGESTION not in hooked.seen()
    hooked.repo.git("config", "gitpeft.squash", "true")
    hooked.git("commit")
    assert hooked.seen().startswith("Squashed commit") and f"# {SUGGESTION}\n" in hooked.seen()
    assert hooked.message().startswith("Squashed commit") and SUGGESTION not in hooked.message()


def test_a9_a_rebase_never_reaches_python(hooked: Hooked, tmp_path: Path) -> None:
    hooked.git("commit", "-m", "Parser")
    hooked.repo.git("branch", "base", "HEAD~1")
    hooked.repo.commit("fixup! Parser", **{"more.py": "1\n"})
    hooked.repo.git("checkout", "-q", "base")
    hooked.repo.commit("Elsewhere", elsewhere="e\n")
    hooked.repo.git("checkout", "-q", "main")
    hooked.hook.write_text(
        hooked.hook.read_text().replace(
            hooked.python, str(script(tmp_path / "py", f"touch {tmp_path}/ran\n"))
        )
    )
    env = {"GIT_SEQUENCE_EDITOR": "sed -i -e 2s/pick/reword/"}
    done = hooked.git("rebase", "-i", "--autosquash", "base", env=env)
    assert done.returncode == 0, done.stderr
    assert hooked.message() == "Parser" and not (tmp_path / "ran").exists()


def test_a10_cherry_picks_are_left_alone(hooked: Hooked) -> None:
    hooked.git("commit", "-m", "Parser")
    hooked.repo.git("checkout", "-q", "-b", "topic", "HEAD~1")
    hooked.repo.tick()
    hooked.git("cherry-pick", "-x", "-e", "main")
    assert hooked.message().startswith("Parser\n\n(cherry picked from commit ")
    hooked.repo.git("reset", "-q", "--hard", "HEAD~1")
    hooked.repo.commit("Different", **{"parser.py": "spaces\n"})
    hooked.git("cherry-pick", "main")
    hooked.repo.write("parser.py", "both\n")
    hooked.git("commit", "-a")
    assert hooked.message() == "Parser" and SUGGESTION not in hooked.seen()


def test_a11_reverts_are_left_alone(hooked: Hooked) -> None:
    hooked.git("commit", "-m", "Parser")
    hooked.git("revert", "--edit", "HEAD")
    assert hooked.message().startswith('Revert "Parser"') and SUGGESTION not in hooked.seen()


EDITORS = [":", "true", "cat", "/bin/true", "'/bin/true'", "env true", "A=1 true", "core.editor", "--no-edit"]


@pytest.mark.parametrize("editor", EDITORS)
def test_a12_without_an_editor_nothing_is_written(hooked: Hooked, editor: str) -> None:
    options = ["-c", "core.editor=true"] if editor == "core.editor" else []
    no_edit = ["--no-edit"] if editor == "--no-edit" else []
    if options:
        del hooked.env["GIT_EDITOR"]
    elif not no_edit:
        hooked.env["GIT_EDITOR"] = editor
    done = hooked.git(*options, "commit", *no_edit)
    assert done.returncode != 0 and b"empty commit message" in done.stderr.lower()
    assert hooked.message() == "Start"


def test_a13_a_template_is_kept_and_filled_only_when_configured(hooked: Hooked, tmp_path: Path) -> None:
    (tmp_path / "template").write_text("\n# Why was this needed?\n")
    hooked.repo.git("config", "commit.template", str(tmp_path / "template"))
    hooked.git("commit")
    assert SUGGESTION not in hooked.seen() and "# Why was" in hooked.seen()
    hooked.repo.git("config", "gitpeft.template", "true")
    hooked.git("commit")
    assert hooked.seen().count(SUGGESTION) == 1 and hooked.seen().count("# Why was") == 1
    assert hooked.message() == SUGGESTION


def test_a13_a_template_with_text_gets_comments_only(hooked: Hooked, tmp_path: Path) -> None:
    (tmp_path / "template").write_text("Summary:\n\nTest plan:\n")
    hooked.repo.git("config", "gitpeft.template", "true")
    hooked.git("commit", "-t", str(tmp_path / "template"), edit='echo done >>"$file"')
    assert hooked.seen().startswith("Summary:\n") and f"# {SUGGESTION}\n" in hooked.seen()
    assert SUGGESTION not in hooked.message()


@pytest.mark.parametrize("case", ["empty", "nothing", "excluded"])
def test_a14_without_a_change_nothing_is_offered(hooked: Hooked, case: str) -> None:
    if case == "excluded":
        hooked.repo.git("config", "gitpeft.exclude", "*.py")
    else:
        hooked.repo.git("reset", "-q")
    done = hooked.git("commit", *(["--allow-empty"] if case == "empty" else []), edit='echo x >"$file"')
    assert done.returncode == (1 if case == "nothing" else 0)
    if case != "nothing":
        assert SUGGESTION not in hooked.seen()
    assert b"gitpeft" not in done.stderr


def test_a15_git_gui_rescans_cost_nothing(hooked: Hooked) -> None:
    file = hooked.repo.write(".git/PREPARE_COMMIT_MSG", "")
    started = time.perf_counter()
    for _ in range(10):
        done = hooked.call(".git/PREPARE_COMMIT_MSG", "", env={"GIT_EDITOR": ""})
        assert (done.returncode, done.stderr) == (0, b"")
    assert time.perf_counter() - started < 0.5
    assert file.read_bytes() == b""


@pytest.mark.parametrize(
    "args", [["F", "surprise"], [], ["F", "", "HEAD", "more"], ["gone"], ["F", "commit -m"], [""]]
)
def test_a16_what_git_never_says_is_one_line_and_no_failure(hooked: Hooked, args: list[str]) -> None:
    hooked.repo.write("F", "")
    done = hooked.call(*args)
    assert done.returncode == 0 and done.stderr.count(b"\n") == 1 and done.stderr.startswith(b"gitpeft: ")
    assert (hooked.repo.path / "F").read_bytes() == b""


@pytest.mark.parametrize("switch", ["GITPEFT=0", "CI=true", "gitpeft.enabled"])
def test_a17_switched_off_it_is_silent(hooked: Hooked, switch: str) -> None:
    name, _, value = switch.partition("=")
    if not value:
        hooked.repo.git("config", name, "false")
    done = hooked.git("commit", edit='echo mine >"$file"', env={name: value} if value else {})
    assert hooked.message() == "mine" and SUGGESTION not in hooked.seen()
    assert b"gitpeft" not in done.stderr and hooked.log() == ""


def test_a17_ci_that_says_false_is_no_ci(hooked: Hooked) -> None:
    hooked.git("commit", env={"CI": "false"})
    assert hooked.message() == SUGGESTION


@pytest.mark.parametrize("option", [[], ["-v"], ["-s"], ["--no-status"], ["--cleanup=scissors"]])
def test_a18_a_second_run_changes_nothing(hooked: Hooked, option: list[str]) -> None:
    run_again = f'cp "$file" first && \'{hooked.hook}\' "$file" && cmp first "$file"'
    done = hooked.git("commit", *option, edit=run_again)
    assert done.returncode == 0, done.stderr
    assert hooked.message().startswith(SUGGESTION)


@pytest.mark.parametrize("source", ["", "message", "merge", "commit"])
def test_e8_pre_commit_gives_the_source_by_name(hooked: Hooked, source: str) -> None:
    file = hooked.repo.write(".git/COMMIT_EDITMSG", "")
    env = {"PRE_COMMIT": "1", "PRE_COMMIT_COMMIT_MSG_SOURCE": source, "PRE_COMMIT_COMMIT_OBJECT_NAME": "HEAD"}
    assert hooked.call(".git/COMMIT_EDITMSG", env=env).returncode == 0
    assert file.read_text().startswith(SUGGESTION) is (source == "")


@pytest.mark.parametrize("source", ["", "message"])
def test_e8_also_where_pre_commit_runs_the_module_itself(hooked: Hooked, source: str) -> None:
    """The entry of .pre-commit-hooks.yaml goes past the stub."""
    file = hooked.repo.write(".git/COMMIT_EDITMSG", "")
    env = {**os.environ, **hooked.env, "PRE_COMMIT": "1", "PRE_COMMIT_COMMIT_MSG_SOURCE": source}
    command = [hooked.python, "-I", "-m", "gitpeft.hook", "prepare-commit-msg", ".git/COMMIT_EDITMSG"]
    subprocess.run(command, cwd=hooked.repo.path, env=env, check=True)
    assert file.read_text().startswith(SUGGESTION) is (source == "")


def test_i3_i2_ticket_and_linter_in_a_real_commit(hooked: Hooked) -> None:
    hooked.repo.git("checkout", "-q", "-b", "feature/ABC-12-tabs")
    hooked.repo.git("config", "gitpeft.ticketPattern", "[A-Z]+-[0-9]+")
    hooked.stage(**{".commitlintrc.json": '{"extends": ["@commitlint/config-conventional"]}'})
    hooked.git("commit", env={"STANDIN": "say:Teach tabs|fix: Accept tabs."})
    assert hooked.message() == "fix: accept tabs (ABC-12)"


def test_i5_the_same_change_is_offered_the_same_message(hooked: Hooked) -> None:
    shown = []
    for _ in range(2):
        hooked.git("commit", edit="false")
        shown.append(hooked.seen())
        for entry in (hooked.state / "answers").iterdir():
            entry.unlink()
    assert shown[0] == shown[1]
