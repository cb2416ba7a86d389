"""`gitpeft.git.repository` against real git: every number is compared with what git itself says."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from gitpeft.diff.compact import compact_change
from gitpeft.diff.patch import parse_patch
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from tests.support.gitrepo import Repo, fingerprint, merge_side
from tests.support.hooking import script
from tests.support.reading import read_commit, read_history

# --- opening --------------------------------------------------------------------------------------


def test_a_path_without_a_repository_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GitpeftError, match="not in a git repository"):
        Repository.open(tmp_path)
    with pytest.raises(GitpeftError, match="not a directory"):
        Repository.open(tmp_path / "nowhere")


def test_a_missing_git_is_named(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "")
    with pytest.raises(GitpeftError, match="git was not found"):
        Repository.open(repo.path)


def test_subdirectory_worktree_and_bare_share_one_state(repo: Repo, tmp_path: Path) -> None:
    repo.commit("init: start", **{"a/b.txt": "x\n"})
    repo.git("worktree", "add", "-q", str(tmp_path / "tree"))
    inside, other = Repository.open(repo.path / "a"), Repository.open(tmp_path / "tree")
    assert inside.work_tree == repo.path
    assert other.work_tree == tmp_path / "tree"
    assert inside.state_dir == other.state_dir == repo.path / ".git" / "gitpeft"
    bare = Repository.open(Repo.create(tmp_path / "bare.git", bare=True).path)
    assert bare.work_tree is None
    assert bare.resolve_head() is None


def test_a_named_repository_ignores_what_a_hook_inherits(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sha = repo.commit("init: start", a="1\n")
    other = Repo.create(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    assert Repository.open(repo.path).resolve_head() == sha
    assert Repository.open().resolve_head() is None


def test_with_the_terminal_git_is_in_the_named_repository_too(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = Repo.create(tmp_path / "other")
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Grace")
    assert Repository.open(repo.path).run_with_terminal(["commit", "-q", "--allow-empty", "-m", "here"]) == 0
    monkeypatch.delenv("GIT_DIR")
    assert repo.git("log", "-1", "--format=%s %an") == "here Grace" and other.run("log").returncode
    assert Repository.open(repo.path).run_with_terminal(["rev-parse", "--verify", "-q", "nothing"]) == 1


CTRL_C = """
import signal, sys
from pathlib import Path
from gitpeft.git.repository import Repository
signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background it is ignored
sys.exit(Repository.open(Path(sys.argv[1])).run_with_terminal(["commit", "-q", "--allow-empty"]))
"""


def test_ctrl_c_in_the_editor_is_the_editors(repo: Repo, tmp_path: Path) -> None:
    """Git itself ignores it while an editor is open; so must who waits for git."""
    seen = tmp_path / "seen"
    editor = script(tmp_path / "editor", f"#!/bin/sh\ntrap 'echo kept >>\"$1\"; exit 0' INT\n"
                    f"echo open >{seen}\nwhile :; do sleep 0.05; done\n")  # fmt: skip
    env = {**os.environ, "GIT_EDITOR": str(editor), "PYTHONPATH": str(Path(__file__).resolve().parents[2])}
    command = [sys.executable, "-c", CTRL_C, str(repo.path)]
    with subprocess.Popen(command, env=env, start_new_session=True) as process:
        until = time.monotonic() + 20
        while not seen.exists():
            assert time.monotonic() < until
            time.sleep(0.02)
        time.sleep(0.5)  # git ignores the signal only a moment after it has started the editor
        os.killpg(process.pid, signal.SIGINT)  # what a terminal does
        assert process.wait(20) == 0
    assert repo.git("log", "-1", "--format=%s") == "kept"


@pytest.mark.parametrize(
    ("said", "name"),
    [("vi", "vi"), ("/usr/bin/code --wait", "code"), ("'/a b/vim' -f", "vim"), ("env A=1 B=2 true", "true"),
     ("'unclosed", "'unclosed"), ("'' ", ""), (r"C:\\bin\\ed", r"C:\bin\ed")],
)  # fmt: skip
def test_the_name_of_the_editor(repo: Repo, monkeypatch: pytest.MonkeyPatch, said: str, name: str) -> None:
    monkeypatch.setenv("GIT_EDITOR", said)
    assert Repository.open(repo.path).find_editor() == name


def test_an_unknown_revision_is_refused(repo: Repo) -> None:
    repo.commit("init: start")
    for rev in ("nope", "--all", "HEAD~5"):
        with pytest.raises(GitpeftError, match="unknown revision"):
            Repository.open(repo.path).resolve_commit(rev)


# --- patches --------------------------------------------------------------------------------------

CHANGES: dict[str, Callable[[Repo], None]] = {}


def change(function: Callable[[Repo], None]) -> Callable[[Repo], None]:
    """Register one kind of change for the tests that go over all of them."""
    CHANGES[function.__name__] = function
    return function


BASE: dict[str, str | bytes] = {
    "plain.txt": "".join(f"line {i}\n" for i in range(60)),
    "code.py": "def one():\n    return 1\n\n\ndef two():\n    return 2\n",
    "binary.dat": bytes(range(256)),
    "gone.txt": "going\n",
    "moved.txt": "".join(f"content {i}\n" for i in range(30)),
    "with space.txt": "space\n",
}


@change
def edit(repo: Repo) -> None:
    repo.stage(
        **{"code.py": "def one():\n    return 11\n\n\ndef two():\n    return 22\n", "with space.txt": "s\n"}
    )


@change
def lines_that_look_like_headers(repo: Repo) -> None:
    repo.stage(
        **{"plain.txt": "-- x\n++ x\n--- a/plain.txt\n+++ b/plain.txt\n@@ -1 +1 @@\ndiff --git a/x b/x\n"}
    )


@change
def add_and_delete(repo: Repo) -> None:
    repo.stage(**{"new.txt": "a\nb\n", "gone.txt": None, "empty": "", "no newline": "x"})


@change
def rename_with_edit(repo: Repo) -> None:
    repo.git("mv", "moved.txt", "to.txt")
    repo.stage(**{"to.txt": "".join(f"content {i}\n" for i in range(31))})


@change
def binary(repo: Repo) -> None:
    repo.stage(**{"binary.dat": bytes(reversed(range(256))), "new.bin": b"\0\1\2"})


@change
def mode(repo: Repo) -> None:
    repo.git("update-index", "--chmod=+x", "code.py")


@change
def symlink(repo: Repo) -> None:
    (repo.path / "link").symlink_to("plain.txt")
    (repo.path / "gone.txt").unlink()
    (repo.path / "gone.txt").symlink_to("code.py")
    repo.git("add", "link", "gone.txt")


@change
def submodule(repo: Repo) -> None:
    repo.git("update-index", "--add", "--cacheinfo", f"160000,{'1' * 40},vendored")


@change
def odd_names(repo: Repo) -> None:
    repo.stage(**{'quo"te\n\tline.txt': "x\n", "ünïcode.txt": "y\n", "-dash": "z\n", "a b/c d.txt": "w\n"})


@change
def bytes_that_are_no_utf8(repo: Repo) -> None:
    repo.stage(**{"latin.txt": "caf\xe9\n".encode("latin-1"), "late nul.txt": b"x" * 9000 + b"\n\0y\n"})
    name = os.fsencode(repo.path) + b"/n\xe9.txt"
    Path(os.fsdecode(name)).write_bytes(b"n\n")
    repo.git("add", "-A")


@change
def over_a_megabyte(repo: Repo) -> None:
    repo.stage(**{"big.txt": "0123456789abcde\n" * (2**20 // 16 + 1), "long.txt": "x" * 500_000 + "\n"})


@change
def carriage_returns(repo: Repo) -> None:
    repo.stage(**{"crlf.txt": b"a\r\nb\rc\r\n\x0c\x1c\xc2\x85d\n"})


@pytest.fixture(params=list(CHANGES.values()), ids=list(CHANGES))
def staged(repo: Repo, request: pytest.FixtureRequest) -> Repo:
    """A repository with one kind of change in its index."""
    repo.commit("init: start", **BASE)
    request.param(repo)
    return repo


def test_a_staged_change_reads_like_the_commit_it_becomes(staged: Repo) -> None:
    repository = Repository.open(staged.path)
    before = repository.read_staged_patch()
    sha = staged.commit("change: something")
    assert before
    assert repository.read_commit_patch("HEAD") == before
    assert compact_change(parse_patch(before)) == compact_change(read_commit(staged, sha).files)
    assert parse_patch(before) == read_commit(staged, sha).files


def test_counts_are_those_of_numstat(staged: Repo) -> None:
    sha = staged.commit("change: something")
    found = {
        f.path: ("-", "-") if f.kind == "binary" else (str(f.added), str(f.removed))
        for f in read_commit(staged, sha).files
    }
    git = ["-c", "core.bigFileThreshold=1m", "-c", "core.quotePath=false", "show"]
    raw = staged.run(*git, "--numstat", "-M", "-z", "--format=", sha).stdout
    expected = _numstat(raw.lstrip(b"\n").split(b"\0"))
    assert found == expected


def _numstat(items: list[bytes]) -> dict[str, tuple[str, str]]:
    """`-z --numstat` as {path: (added, removed)}."""
    counts: dict[str, tuple[str, str]] = {}
    rest = iter(items)
    for item in rest:
        if not item:
            continue
        added, removed, path = os.fsdecode(item).split("\t", 2)
        if not path:
            next(rest)
            path = os.fsdecode(next(rest))
        counts[path] = (added, removed)
    return counts


def test_user_settings_and_programs_change_nothing(repo: Repo, tmp_path: Path) -> None:
    repo.commit("init: start", **BASE, **{".gitattributes": "*.txt diff=own\n"})
    edit(repo)
    plain = Repository.open(repo.path).read_staged_patch()
    program = tmp_path / "program"
    program.write_text(f"#!/bin/sh\ntouch {tmp_path}/was-run\n")
    program.chmod(0o755)
    settings = {
        "diff.external": str(program),
        "diff.own.textconv": str(program),
        "diff.own.command": str(program),
        "diff.noprefix": "true",
        "diff.mnemonicPrefix": "true",
        "color.ui": "always",
        "diff.context": "9",
        "diff.algorithm": "histogram",
        "diff.renames": "false",
        "diff.suppressBlankEmpty": "true",
        "core.quotePath": "false",
        "log.showSignature": "true",
        "format.pretty": "oneline",
    }
    for key, value in settings.items():
        repo.git("config", key, value)
    repository = Repository.open(repo.path)
    assert repository.read_staged_patch() == plain
    sha = repo.commit("change: something")
    assert repository.read_commit_patch(sha) == plain
    assert read_commit(repo, sha).files == parse_patch(plain)
    assert not (tmp_path / "was-run").exists()


def test_environment_that_bends_diffs_is_dropped(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    repo.commit("init: start", **BASE)
    edit(repo)
    plain = Repository.open(repo.path).read_staged_patch()
    monkeypatch.setenv("GIT_DIFF_OPTS", "-u9")
    monkeypatch.setenv("GIT_EXTERNAL_DIFF", "false")
    assert Repository.open(repo.path).read_staged_patch() == plain


def test_the_index_of_the_environment_is_read(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    """C1: `git commit -a` and pathspecs name another index in GIT_INDEX_FILE."""
    repo.commit("init: start", a="1\n", b="1\n")
    repo.stage(a="2\n")
    other = repo.path / ".git" / "next-index"
    repo.git("read-tree", "HEAD", env={"GIT_INDEX_FILE": str(other)})
    repo.write("b", "2\n")
    repo.git("add", "b", env={"GIT_INDEX_FILE": str(other)})
    monkeypatch.chdir(repo.path)
    assert [f.path for f in parse_patch(Repository.open().read_staged_patch())] == ["a"]
    monkeypatch.setenv("GIT_INDEX_FILE", ".git/next-index")
    assert [f.path for f in parse_patch(Repository.open().read_staged_patch())] == ["b"]


def test_the_first_commit_and_intent_to_add(repo: Repo) -> None:
    repo.stage(a="1\n")
    repo.write("later", "x\n")
    repo.git("add", "-N", "later")
    repository = Repository.open(repo.path)
    assert [(f.path, f.status) for f in parse_patch(repository.read_staged_patch())] == [("a", "A")]
    before = repository.read_staged_patch()
    repo.commit("init: start")
    assert repository.read_commit_patch("HEAD") == before
    assert repository.read_staged_patch() == b""


def test_the_patch_of_a_merge_is_against_its_first_parent(repo: Repo) -> None:
    repo.commit("init: start", a="1\n")
    merge_side(repo)
    assert [f.path for f in parse_patch(Repository.open(repo.path).read_commit_patch("HEAD"))] == ["side"]


def test_nothing_is_written(repo: Repo) -> None:
    """C13, C14: neither index, references, objects, settings nor work tree."""
    repo.commit("init: start", **BASE)
    edit(repo)
    (repo.path / "plain.txt").touch()  # an index with stale times, that `git status` would refresh
    before = fingerprint(repo.path)
    repository = Repository.open(repo.path)
    repository.read_staged_patch()
    repository.read_commit_patch("HEAD")
    repository.find_previous_subject()
    repository.get_config_by_prefix("core")
    read_history(repo)
    assert fingerprint(repo.path) == before


# --- small questions ------------------------------------------------------------------------------


def test_previous_subject(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    assert Repository.open(repo.path).find_previous_subject() == ""
    first = repo.commit("feat: ada's first", a="1\n")
    monkeypatch.setenv("GIT_AUTHOR_EMAIL", "bob@example.org")
    repo.commit("fix: bob's\nsubject goes on", a="2\n")
    repository = Repository.open(repo.path)
    assert repository.find_previous_subject() == "fix: bob's subject goes on"
    assert repository.find_previous_subject("ada@example.org") == "feat: ada's first"
    assert repository.find_previous_subject("ADA@example.org", rev=first) == "feat: ada's first"
    assert repository.find_previous_subject("bob@example.org", rev=first) == ""
    monkeypatch.delenv("GIT_AUTHOR_EMAIL")
    repo.git("config", "user.email", "ada@example.org")
    merge_side(repo)
    repo.commit("docs: ada again", a="3\n")
    assert Repository.open(repo.path).find_previous_subject() == "docs: ada again"


def test_settings(repo: Repo) -> None:
    repo.git("config", "here.enabled", "false")
    repo.git("config", "here.ticket", "two\nlines")
    repo.git("config", "--add", "here.enabled", "true")
    repository = Repository.open(repo.path)
    assert repository.get_config("here.enabled") == "true"
    assert repository.get_config("here.nothing") is None
    assert repository.get_config("here.nothing", "x") == "x"
    assert repository.get_config_by_prefix("here.") == {"here.enabled": "true", "here.ticket": "two\nlines"}
    assert repository.get_config_by_prefix("nothing.") == {}


def test_hooks_dir(repo: Repo) -> None:
    assert Repository.open(repo.path).find_hooks_dir() == repo.path / ".git" / "hooks"
    repo.git("config", "core.hooksPath", "own")
    assert Repository.open(repo.path).find_hooks_dir() == repo.path / "own"
    assert Repository.open(repo.path).git_version >= (2, 31)


@pytest.mark.parametrize("hashes", ["sha1", "sha256"])
@pytest.mark.parametrize("version", ["2", "3", "4"])
def test_a_glance_at_the_index_never_misses_a_file(tmp_path: Path, hashes: str, version: str) -> None:
    """Beside entries of any length before and behind it; format 4 is left to git."""
    path = tmp_path / "repo"
    path.mkdir()
    repo = Repo(path)
    repo.git("init", "-q", "-b", "main", f"--object-format={hashes}")
    for length in range(1, 20):
        repo.write("-" * length, "")
        repo.write("a" * length, "")
    repo.write(".gitpef", "")
    repo.git("add", "-A")
    repo.git("update-index", "--index-version", version)
    if version == "3":
        repo.write("--later", "")
        repo.git("add", "--intent-to-add", "--", "--later")
    repository = Repository.open(path)
    assert repository.may_be_in_index(".gitpeft") is (version == "4")
    for name in (".gitpef", "a", "-", "a" * 19):
        assert repository.may_be_in_index(name)
    repo.write(".gitpeft", "")
    repo.git("add", ".gitpeft")
    assert repository.may_be_in_index(".gitpeft")
