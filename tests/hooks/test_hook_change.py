"""Group C of the contract: what is read is what gets committed, and reading touches nothing."""

import hashlib
import os
import time
from pathlib import Path

import pytest

from gitpeft.config import Config
from gitpeft.diff.compact import MAX_COMPACT_LENGTH, compact_change
from gitpeft.diff.patch import parse_patch
from gitpeft.diff.stored import shorten_change
from gitpeft.git.log import Commit
from gitpeft.git.repository import Repository
from gitpeft.git.streams import stream_commits
from gitpeft.history.store import History
from gitpeft.hooks.message_file import NOTHING_OFFERED
from gitpeft.suggest.service import NothingStagedError, build_commit_request, build_staged_request
from tests.support import standin
from tests.support.gitrepo import Repo
from tests.support.hooking import SUGGESTION, Hooked, listing, script


@pytest.fixture
def hooked(repo: Repo, python: str, tmp_path: Path) -> Hooked:
    repo.commit("Start", **{"README": "hello\n", "a.py": "a = 1\n", "b.py": "b = 1\n"})
    hooked = Hooked.create(repo, python, tmp_path / "tools")
    hooked.env["STANDIN_SAW"] = str(tmp_path / "saw")
    return hooked


def saw(hooked: Hooked) -> str:
    """The change that the model was asked about."""
    return Path(hooked.env["STANDIN_SAW"]).read_text().split("\n---\n")[0]


def committed(hooked: Hooked) -> str:
    """What the newest commit changed, by way of the commit itself."""
    return compact_change(parse_patch(Repository.open(hooked.repo.path).read_commit_patch("HEAD")))


@pytest.mark.parametrize("options", [["-a"], ["-i", "a.py"], ["--only", "a.py"], ["a.py"], ["-p"], []])
def test_c1_c2_the_change_is_that_of_the_commit(hooked: Hooked, options: list[str]) -> None:
    hooked.repo.write("a.py", "a = 2\n")
    hooked.repo.stage(**{"b.py": "b = 2\n"})
    done = hooked.repo.run("commit", *options, env=hooked.env, input="y\n" if options == ["-p"] else None)
    if b"built without" in done.stderr:
        pytest.skip("this git was built without `commit -p`")
    assert done.returncode == 0, done.stderr
    assert saw(hooked) == committed(hooked) != ""
    if options in (["--only", "a.py"], ["a.py"]):
        assert "b.py" not in saw(hooked)


def test_c3_the_index_as_a_formatter_left_it(hooked: Hooked) -> None:
    script(hooked.repo.path / ".git/hooks/pre-commit", "#!/bin/sh\necho 'a = 3' >a.py; git add a.py\n")
    hooked.stage(**{"a.py": "a   =   3\n"})
    hooked.git("commit")
    assert saw(hooked) == committed(hooked) and "a = 3" in saw(hooked)


def test_c3_another_change_is_never_answered_from_the_cache(hooked: Hooked) -> None:
    hooked.stage(**{"a.py": "a = 2\n"})
    hooked.answer("About two")
    hooked.stage(**{"a.py": "a = 3\n"})
    hooked.git("commit")
    assert hooked.message() == SUGGESTION


def test_c4_the_first_commit(python: str, tmp_path: Path) -> None:
    hooked = Hooked.create(Repo.create(tmp_path / "new"), python, tmp_path / "tools")
    hooked.stage()
    hooked.git("commit")
    assert hooked.message() == SUGGESTION


def test_c5_settings_of_diff_change_nothing_and_no_program_runs(hooked: Hooked, tmp_path: Path) -> None:
    hooked.stage(**{"a.py": "a = 2\n", ".gitattributes": "*.py diff=mine\n"})
    plain = build_staged_request(Repository.open(hooked.repo.path), Config(), 3).change
    program = script(tmp_path / "program", f"#!/bin/sh\ntouch {tmp_path}/ran\n")
    for key, value in {
        "diff.noprefix": "true",
        "diff.mnemonicPrefix": "true",
        "color.ui": "always",
        "diff.external": str(program),
        "diff.mine.textconv": str(program),
        "diff.mine.command": str(program),
        "diff.submodule": "log",
        "diff.context": "9",
        "diff.algorithm": "patience",
        "diff.renames": "false",
        "core.fsmonitor": str(program),
        "core.pager": str(program),
    }.items():
        hooked.repo.git("config", key, value)
    hooked.git("commit", env={"GIT_EXTERNAL_DIFF": str(program)})
    assert saw(hooked) == plain
    log = (tmp_path / "ran").exists()
    assert not log or _only_git_itself_ran_it(hooked, tmp_path)


def _only_git_itself_ran_it(hooked: Hooked, tmp_path: Path) -> bool:
    """`git commit` asks a file system monitor on its own account; with the hook off it must be the same."""
    (tmp_path / "ran").unlink()
    hooked.stage(**{"b.py": "b = 7\n"})
    hooked.git("commit", "-m", "x", env={"GITPEFT": "0"})
    return (tmp_path / "ran").exists()


def test_c6_every_kind_of_change_has_a_text(hooked: Hooked, tmp_path: Path) -> None:
    repo = hooked.repo
    library = Repo.create(tmp_path / "library")
    library.commit("One", x="x\n")
    repo.git("submodule", "--quiet", "add", str(library.path), "sub")
    repo.stage(**{"old.py": "line\n" * 20, "gone.py": "g\n", "run.sh": "r\n"})
    repo.commit("Prepare", **{"pic.png": b"\x89\x00"})
    repo.git("mv", "old.py", "new.py")
    repo.git("rm", "-q", "gone.py")
    (repo.path / "run.sh").chmod(0o755)
    (repo.path / "link").symlink_to("new.py")
    repo.write("pic.png", b"\x89\x00\x01")
    repo.write("big.bin", "version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 1\n")
    library.commit("Two", x="y\n")
    Repo(repo.path / "sub").git("pull", "-q")
    repo.git("add", "-A")
    hooked.git("commit")
    for name in ("new.py", "gone.py", "run.sh", "link", "pic.png", "big.bin", "sub"):
        assert name in saw(hooked)
    assert hooked.message() == SUGGESTION and saw(hooked) == committed(hooked)


@pytest.mark.parametrize(
    "name", [b"caf\xe9.txt", b"two\nlines", b"-rf", b"tab\there", b'quo"te', "ünï".encode()]
)
def test_c7_any_name_and_any_content(hooked: Hooked, name: bytes) -> None:
    Path(os.fsdecode(os.fsencode(hooked.repo.path) + b"/" + name)).write_bytes(b"\xff\xfe\x00\n\xe9\n")
    hooked.repo.git("add", "-A")
    done = hooked.git("commit")
    assert hooked.message() == SUGGESTION, done.stderr
    assert saw(hooked).isprintable() or "\n" in saw(hooked)


@pytest.mark.parametrize("kind", ["lines", "one line", "large file"])
def test_c8_an_enormous_change_is_cut_short_in_bounded_time(hooked: Hooked, kind: str) -> None:
    content = {
        "lines": "".join(f"line {n}\n" for n in range(100_000)),
        "one line": "x" * 5_000_000,
        "large file": "word " * 8_000_000,
    }[kind]
    hooked.stage(**{"big.txt": content, "a.py": "a = 2\n"})
    hooked.repo.git("config", "gitpeft.timeoutMs", "20000")
    started = time.monotonic()
    hooked.git("commit")
    assert time.monotonic() - started < 10
    assert hooked.message() == SUGGESTION
    assert len(saw(hooked)) <= MAX_COMPACT_LENGTH + 200 and "big.txt" in saw(hooked)


def test_c9_generated_files_are_named_and_not_shown(hooked: Hooked) -> None:
    hooked.stage(
        **{
            "package-lock.json": '{"secret-looking": 1}\n' * 50,
            "vendor/x.go": "package x\n",
            "a.py": "a = 2\n",
        }
    )
    hooked.git("commit")
    assert "package-lock.json" in saw(hooked) and "secret-looking" not in saw(hooked)
    assert "vendor/x.go" in saw(hooked) and "package x" not in saw(hooked)


def test_c9_what_gitattributes_call_generated_is_named_and_not_shown(hooked: Hooked, tmp_path: Path) -> None:
    """The hook and the mining of the same commit read the same text; no filter or diff program is started."""
    attributes = "gen/** linguist-generated\ngen/by-hand.py -linguist-generated\n*.py filter=f diff=d\n"
    hooked.repo.commit(
        "Attributes", **{".gitattributes": attributes, "sub/.gitattributes": "x* linguist-generated=true\n"}
    )
    shown = {"gen/by-hand.py": "seen = 1\n", "sub/y.py": "seen = 2\n", "naïve.py": "seen = 3\n"}
    named = {"gen/a b.py": "hidden = 1\n", "gen/deep/ü.py": "hidden = 2\n", "sub/x.py": "hidden = 3\n"}
    hooked.stage(**shown, **named)
    for program in ("filter.f.clean", "filter.f.smudge", "diff.d.textconv", "diff.d.command"):
        hooked.repo.git("config", program, f"touch {tmp_path}/ran; cat")
    hooked.repo.write(".git/COMMIT_EDITMSG", "")
    hooked.call(".git/COMMIT_EDITMSG")
    assert saw(hooked).count("seen = ") == 3 and "hidden" not in saw(hooked)
    assert all(f"A{path} +1 -0\n" in saw(hooked) for path in (*shown, *named))
    assert not (tmp_path / "ran").exists()
    hooked.git("commit", "-m", "Generate")
    repo = Repository.open(hooked.repo.path / "gen")
    with History.open(tmp_path / "state") as history:
        history.mine_commits(repo)
        record = history.load_records(repo)[-1]
        stored = shorten_change(record.change)
        assert stored == saw(hooked) == build_commit_request(repo, Config(), 1, "HEAD").change
    assert {path.path: path.kind for path in record.paths}["gen/a b.py"] == "generated"
    for place in (
        ".git",
        hooked.repo.clone(tmp_path / "bare.git", "--bare").path,
    ):  # there is no tree to look in
        [commit] = stream_commits(Repository.open(hooked.repo.path / place), [record.sha])
        assert isinstance(commit, Commit) and {file.kind for file in commit.files} == {"text"}


def test_c10_secrets_reach_neither_model_nor_cache_nor_log(hooked: Hooked) -> None:
    key = "AKIA" + "IOSFODNN7" + "EXAMPLX"
    hooked.stage(**{"settings.py": f"aws_access_key_id = '{key}'\n"})
    done = hooked.git("commit")
    assert "settings.py" in saw(hooked) and key not in saw(hooked)
    assert key not in hooked.seen() and key.encode() not in done.stderr
    for name, (_, content) in listing(hooked.state).items():
        assert key.encode() not in content, name


def test_c10_a_model_that_repeats_the_placeholder_is_not_offered(hooked: Hooked) -> None:
    hooked.stage()
    hooked.git("commit", env={"STANDIN": "say:Set key to <secret>|Set the key"})
    assert hooked.message() == "Set the key"


def test_c11_a_partial_clone_fetches_nothing(hooked: Hooked, python: str, tmp_path: Path) -> None:
    hooked.repo.git("config", "uploadpack.allowFilter", "true")
    clone = hooked.repo.clone(tmp_path / "clone", "--filter=blob:none", "--no-checkout")
    clone.git("sparse-checkout", "set", "--no-cone", "README")
    clone.git("checkout", "-q")
    hooked.repo.path.rename(tmp_path / "away")  # a fetch would fail from here on
    partial = Hooked.create(clone, python, tmp_path / "tools2")
    partial.stage(**{"README": "bye\n"})
    done = partial.git("commit")
    assert partial.message() == SUGGESTION, done.stderr
    packs = sorted(path.name for path in (clone.path / ".git/objects/pack").iterdir())
    clone.git("update-index", "--force-remove", "a.py")
    done = partial.git("commit", edit='echo mine >"$file"')
    assert partial.message() == "mine", done.stderr  # the old content is not here: nothing is offered
    assert sorted(path.name for path in (clone.path / ".git/objects/pack").iterdir()) == packs


@pytest.mark.parametrize(
    "case", ["worktree", "submodule", "bare and worktree", "git-dir", "environment", "-C"]
)
def test_c12_the_right_repository(hooked: Hooked, python: str, tmp_path: Path, case: str) -> None:
    repo, options, env = hooked.repo, [], {}
    where = repo
    if case == "worktree":
        repo.git("worktree", "add", "-q", str(tmp_path / "other"))
        where = Repo(tmp_path / "other")
    elif case == "submodule":
        outer = Repo.create(tmp_path / "outer")
        outer.commit("Start", o="o\n")
        outer.git("submodule", "--quiet", "add", str(repo.path), "sub")
        where = Repo(outer.path / "sub")
    elif case == "bare and worktree":
        bare = repo.clone(tmp_path / "bare.git", "--bare")
        bare.git("worktree", "add", "-q", str(tmp_path / "tree"), "main")
        where = Repo(tmp_path / "tree")
    inside = Hooked.create(where, python, hooked.tools)
    inside.env |= {"STANDIN_SAW": hooked.env["STANDIN_SAW"]}
    inside.stage(**{"deep/inside.py": f"{case}\n"})
    elsewhere = Repo.create(tmp_path / "elsewhere")
    if case == "git-dir":
        options = [f"--git-dir={repo.path}/.git", f"--work-tree={repo.path}"]
    elif case == "environment":
        env = {"GIT_DIR": f"{repo.path}/.git", "GIT_WORK_TREE": str(repo.path)}
    elif case == "-C":
        options = ["-C", f"{repo.path}/deep"]
    runner = elsewhere if case in ("git-dir", "environment", "-C") else where
    done = runner.run(*options, "commit", env={**inside.env, **env})
    assert done.returncode == 0, done.stderr
    assert "deep/inside.py" in saw(inside) and saw(inside) == committed(inside)
    assert inside.message() == SUGGESTION


def test_c13_the_index_and_its_lock_are_not_touched(hooked: Hooked) -> None:
    hooked.stage()
    index = hooked.repo.path / ".git/index"
    os.utime(hooked.repo.path / "a.py", (1, 1))  # a status with locks would refresh the index
    before = hashlib.sha256(index.read_bytes()).hexdigest(), index.stat().st_mtime_ns
    hooked.repo.write(".git/index.lock", "held by somebody\n")
    file = hooked.repo.write(".git/COMMIT_EDITMSG", "")
    assert hooked.call(".git/COMMIT_EDITMSG").returncode == 0
    assert file.read_text().startswith(SUGGESTION)
    assert (hashlib.sha256(index.read_bytes()).hexdigest(), index.stat().st_mtime_ns) == before


def test_c14_nothing_else_in_git_is_touched(hooked: Hooked) -> None:
    hooked.stage()
    hooked.repo.write(".git/COMMIT_EDITMSG", "")
    before = listing(hooked.repo.path)
    hooked.call(".git/COMMIT_EDITMSG")
    after = listing(hooked.repo.path)
    changed = {name for name in before.keys() | after.keys() if before.get(name) != after.get(name)}
    assert {name for name in changed if not name.startswith(".git/gitpeft/")} == {".git/COMMIT_EDITMSG"}
    ours = {name for name in changed if name.startswith(".git/gitpeft/")}
    kept = {".git/gitpeft/offers.jsonl", ".git/gitpeft/recent.json"}
    assert all("/answers/" in name for name in ours - kept)


def test_what_scores_too_low_is_not_offered(hooked: Hooked) -> None:
    """And another least score is another question: the cache must not answer it."""
    subjects, offered = [text.partition("\n")[0] for text in standin.MESSAGES], []
    hooked.stage(a="2\n")
    for least in ("0", "25", "51", "0"):
        hooked.repo.git("config", "gitpeft.minScore", least)
        hooked.git("commit", edit="exit 1")
        offered.append([text for text in subjects if text in hooked.seen()])
    assert offered == [subjects, subjects[:2], [], subjects]


@pytest.mark.parametrize(
    ("score", "said"),
    [("51", "no suggestion reaches gitpeft.minScore (51); the best scores 50"), ("-1", NOTHING_OFFERED)],
)
def test_one_comment_line_says_that_nothing_is_likely_enough(hooked: Hooked, score: str, said: str) -> None:
    """The setting where one was made, else the model; from the model and from the cache alike."""
    hooked.stage(a="2\n")
    if score != "-1":
        hooked.repo.git("config", "gitpeft.minScore", score)
    hooked.env["STANDIN_THRESHOLD"] = "0.6"
    for edit in ("exit 1", 'echo mine >"$file"'):
        assert b"gitpeft" not in hooked.git("commit", edit=edit).stderr
        assert hooked.seen().splitlines()[0] == ""
        [line] = [line for line in hooked.seen().splitlines() if "gitpeft" in line]
        assert line == f"# gitpeft: {said}" and len(line) <= 80
    assert hooked.message() == "mine"
    hooked.stage(a="3\n")
    hooked.repo.git("config", "gitpeft.quiet", "true")
    hooked.git("commit", edit='echo mine >"$file"')
    assert "gitpeft" not in hooked.seen()


def test_the_branch_is_part_of_the_question(hooked: Hooked) -> None:
    hooked.repo.git("switch", "-q", "-c", "fix/GH-77")
    hooked.stage(a="2\n")
    hooked.git("commit", edit="exit 1")
    assert Path(hooked.env["STANDIN_SAW"]).read_text().endswith("---\nfix/GH-77")
    hooked.repo.git("switch", "-q", "-c", "other")
    hooked.git("commit", edit="exit 1")  # another question: the cache does not answer it
    assert Path(hooked.env["STANDIN_SAW"]).read_text().endswith("---\nother")


def test_excluded_files_are_not_read(hooked: Hooked) -> None:
    hooked.stage(**{"a.py": "a = 2\n", "data/x.csv": "1,2\n"})
    repo = Repository.open(hooked.repo.path)
    assert "x.csv" not in build_staged_request(repo, Config(exclude=("data/*",)), 1).change
    with pytest.raises(NothingStagedError):
        build_staged_request(repo, Config(exclude=("*",)), 1)
