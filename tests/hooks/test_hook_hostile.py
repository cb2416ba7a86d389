"""Groups B to F of the contract where the surroundings are broken, or mean harm: the commit is never lost."""

import os
import shutil
import sys
import time
from pathlib import Path

import pytest

from tests.support.hooking import SUGGESTION, Hooked, needs_git, script

MINE = 'echo mine >"$file"'
PREPARE = """
import os, signal, sys
{}
os.execv(sys.argv[1], sys.argv[1:])
"""


def called_after(hooked: Hooked, preparation: str, env: dict[str, str] | None = None) -> tuple[str, bytes]:
    """Call the hook from a program that did something first: the message file then, and what was said."""
    file = hooked.repo.write(".git/COMMIT_EDITMSG", "")
    program = [sys.executable, "-c", PREPARE.format(preparation)]
    done = hooked.call(".git/COMMIT_EDITMSG", program=program, env=env, timeout=60)
    assert done.returncode == 0 and done.stderr.count(b"\n") <= 1, done.stderr
    return file.read_text(), done.stderr


@pytest.mark.parametrize(
    "preparation",
    [
        "signal.signal(signal.SIGCHLD, signal.SIG_IGN)",
        "signal.signal(signal.SIGALRM, signal.SIG_IGN)",
        "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))",
        "os.close(0)",
        "os.close(1)",
        "os.close(0); os.close(1)",
        "os.umask(0o777)",
        "os.setpgid(0, 0)",
    ],
)
def test_f2_f4_whatever_the_calling_program_handed_down(hooked: Hooked, preparation: str) -> None:
    assert called_after(hooked, preparation)[0].startswith(SUGGESTION)


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_f2_f4_without_a_standard_error_a_message_is_offered_and_what_fails_is_in_the_log(
    hooked: Hooked, shell: str
) -> None:
    """A shell cannot hand on what is closed; git itself opens all three before it calls a hook."""
    prepared = f"os.close(2); sys.argv.insert(1, shutil.which({shell!r}))"
    assert called_after(hooked, f"import shutil; {prepared}")[0].startswith(SUGGESTION)
    (hooked.state / "current").unlink()
    hooked.stage(more="m\n")
    assert called_after(hooked, f"import shutil; {prepared}") == ("", b"")
    assert "gitpeft init" in hooked.log()


@pytest.mark.parametrize("preparation", ["", "signal.pthread_sigmask(signal.SIG_BLOCK, range(1, 32))"])
def test_d3_a_git_that_hangs_is_ended(hooked: Hooked, tmp_path: Path, preparation: str) -> None:
    """Also where the alarm was blocked by whoever started all this."""
    hang = f"case $* in *diff-index*) echo $$ >{tmp_path}/pid; exec sleep 60;; esac"
    slow = script(tmp_path / "bin/git", f'#!/bin/sh\n{hang}\nexec {shutil.which("git")} "$@"\n')
    hooked.repo.git("config", "gitpeft.timeoutMs", "500")
    started = time.monotonic()
    file, said = called_after(hooked, preparation, {"PATH": f"{slow.parent}:{os.environ['PATH']}"})
    assert time.monotonic() - started < 20 and file == "" and b"time" in said
    with pytest.raises(ProcessLookupError):
        os.kill(int((tmp_path / "pid").read_text()), 0)


@pytest.mark.parametrize("limit", ["-f 0", "-s 64", "-v 200000", "-t 1", "-d 5000", "-c 0"])
def test_d4_d6_any_limit(hooked: Hooked, limit: str) -> None:
    file = hooked.repo.write(".git/COMMIT_EDITMSG", "")
    done = hooked.call(".git/COMMIT_EDITMSG", program=["sh", "-c", f'ulimit {limit}; exec "$@"', "sh"])
    assert done.returncode == 0 and done.stderr.count(b"\n") <= 1, done.stderr
    assert file.read_text() == "" or file.read_text().startswith(SUGGESTION)
    assert [path.name for path in (hooked.repo.path / ".git").glob("*gitpeft-*")] == []


@pytest.mark.parametrize("place", ["", "current", "answers", "hook.log"])
@pytest.mark.parametrize("what", ["file", "dangling", "loop", "fifo", "zero"])
def test_d6_d10_a_place_of_ours_that_is_something_else(hooked: Hooked, place: str, what: str) -> None:
    path = hooked.state / place
    if path.is_dir():
        shutil.rmtree(path)
    path.unlink(missing_ok=True)
    links = {"dangling": "/nowhere/x", "loop": path.name, "zero": "/dev/zero"}
    if what == "fifo":
        os.mkfifo(path)
    elif what == "file":
        path.write_text("\x00 nonsense")
    else:
        path.symlink_to(links[what])
    if place == "hook.log":
        (hooked.state / "current").unlink()
    done = hooked.git("commit", edit=MINE)
    assert done.returncode == 0 and hooked.message() == "mine", done.stderr
    assert len([line for line in done.stderr.splitlines() if b"gitpeft" in line]) <= 1


@pytest.mark.parametrize("target", ["/dev/zero", "/dev/tty", "/proc/kmsg", "/"])
@pytest.mark.parametrize(
    "name", [".commitlintrc.yml", ".gitlint", "package.json", ".gitpeft", ".gitattributes"]
)
def test_e17_f1_a_committed_link_leads_nowhere(hooked: Hooked, name: str, target: str) -> None:
    if name == ".gitattributes":
        needs_git(2, 32, "better than to follow it itself")
    hooked.repo.path.joinpath(name).symlink_to(target)
    hooked.repo.git("add", name)
    hooked.git("commit")
    assert hooked.message() == SUGGESTION


def test_b13_b14_what_a_killed_hook_left_goes_with_the_next_commit(hooked: Hooked) -> None:
    inside = hooked.repo.path / ".git"
    left = inside / f"COMMIT_EDITMSG.gitpeft-{2**22 + 1}"  # above every number of a process
    left.write_text("half a mess")
    others = [inside / "COMMIT_EDITMSG.gitpeft-1", inside / "COMMIT_EDITMSG.gitpeft-mine"]
    for other in others:
        other.write_text("in use")
    hooked.git("commit")
    assert hooked.message() == SUGGESTION and not left.exists()
    assert all(other.exists() for other in others)


@pytest.mark.parametrize(
    "said", ["a" * 4000, "a/" * 1990, "a-" * 1990 + "#", "(" * 2000, "A1" * 1900, "\n" * 50 + "x" * 999]
)
def test_d9_endless_words_are_refused_at_once(hooked: Hooked, said: str) -> None:
    """The patterns by which messages are checked would take seconds on them."""
    hooked.git("commit", env={"STANDIN": f"say:{said}|Fall back on this"})
    assert hooked.message() == "Fall back on this"


def test_c8_twenty_thousand_files(hooked: Hooked) -> None:
    for n in range(100):
        for m in range(200):
            hooked.repo.write(f"d{n}/f{m}.py", f"{n} {m}\n")
    hooked.repo.git("add", ".")
    started = time.monotonic()
    done = hooked.git("commit", edit=MINE)
    assert done.returncode == 0 and hooked.message() == "mine"
    assert time.monotonic() - started < 20
