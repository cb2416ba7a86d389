"""The replay of a history against `git blame -w`, line by line, on histories with everything in them."""

import random
import re

import pytest

from gitpeft.git.log import SkippedCommit
from gitpeft.git.repository import Repository
from gitpeft.git.streams import read_commit_messages, stream_diff_tree
from gitpeft.learn.szz import edits
from gitpeft.learn.szz.blame import BlameReplay, FileTree, FileVersion
from gitpeft.learn.szz.edit_cache import EditCache
from gitpeft.learn.szz.edits import CommitEdit
from tests.support.gitrepo import Repo

Line = tuple[str, str, int]


def origins(repo: Repo, tip: str = "HEAD") -> dict[str, list[Line | None]]:
    """For each file of the tip where its lines come from: commit, path there, line; None where unknown.

    The tip gets an empty child, because a step shows the files before it.
    """
    repo.git("checkout", "-q", "--detach", tip)
    end = repo.commit("end")
    repository = Repository.open(repo.path)
    commits = read_commit_messages(repository, end)
    with EditCache.open(repository.state_dir) as ledger:
        ledger.read_missing(repository, commits, {}, lambda done, total: None)
        replay = BlameReplay(commits, ledger.get_edit)
        before = [step.before for step in replay][-1]
        found: dict[str, list[Line | None]] = {}
        for path in repo.git("ls-tree", "-r", "--name-only", tip).splitlines():
            version = before.get_file(path)
            if version and version.lines is not None:
                found[path] = [
                    replay.locate_origin(one) if one >= 0 else None for one in version.lines.tolist()
                ]
    return found


def blame(repo: Repo, path: str, tip: str = "HEAD") -> list[tuple[str, int]]:
    """What git says: commit and line there, for each line."""
    said = repo.git("blame", "-w", "--porcelain", tip, "--", path)
    return [(sha, int(line)) for sha, line in re.findall(r"^([0-9a-f]{40}) (\d+) \d+", said, re.M)]


def agree(repo: Repo, tip: str = "HEAD") -> int:
    """Compare all files; the number of lines that were compared."""
    repo.git("checkout", "-q", "--detach", tip)
    sha, count = repo.git("rev-parse", "HEAD"), 0
    for path, lines in origins(repo, sha).items():
        want = blame(repo, path, sha)
        assert [(one[0], one[2]) if one else None for one in lines] == want, path
        count += len(want)
    return count


def text(*lines: str) -> str:
    return "".join(f"{line}\n" for line in lines)


def test_lines_stay_with_who_wrote_them(repo: Repo) -> None:
    first = repo.commit("one", **{"a.py": text("one", "two", "three")})
    second = repo.commit("two", **{"a.py": text("zero", "one", "  two", "3", "four")})
    assert origins(repo)["a.py"] == [
        (second, "a.py", 1),
        (first, "a.py", 1),
        (first, "a.py", 2),
        (second, "a.py", 4),
        (second, "a.py", 5),
    ]
    assert agree(repo, second) == 5


def test_a_rename_keeps_the_lines_and_their_old_path(repo: Repo) -> None:
    content = [f"line {i} of some length" for i in range(12)]
    first = repo.commit("one", **{"old/a.py": text(*content)})
    repo.git("mv", "old/a.py", "b.py")
    second = repo.commit("two", **{"b.py": text(*content, "more")})
    assert origins(repo)["b.py"][0] == (first, "old/a.py", 1)
    assert agree(repo, second) == 13


def test_files_that_swap_their_names(repo: Repo) -> None:
    a, b = [f"a {i} long enough" for i in range(9)], [f"b {i} long enough" for i in range(9)]
    repo.commit("one", a=text(*a), b=text(*b))
    repo.commit("two", a=text(*b), b=text(*a))
    assert agree(repo) == 18


@pytest.mark.parametrize("side", ["ours", "theirs"])
def test_a_merge_takes_lines_from_each_parent(repo: Repo, side: str) -> None:
    body = [f"line {i}" for i in range(20)]
    repo.commit("base", f=text(*body), g=text("same"), name=text(*body, "x"))
    repo.git("checkout", "-qb", "side")
    repo.git("mv", "name", "renamed")
    repo.commit("side", f=text("side", *body[:10], "middle of the side", *body[11:]), g=text("  same"))
    repo.git("checkout", "-q", "main")
    repo.commit("main", f=text(*body[:-1], "end"), name=text("y", *body, "x"))
    heads = ("main", "side") if side == "ours" else ("side", "main")
    repo.git("checkout", "-q", heads[0])
    repo.git("merge", "-q", "--no-ff", "-m", "merge", heads[1])
    assert agree(repo) >= 40


def test_a_conflict_belongs_to_the_merge_that_settled_it(repo: Repo) -> None:
    repo.commit("base", f=text("a", "b", "c"))
    repo.git("checkout", "-qb", "side")
    repo.commit("side", f=text("a", "side", "c"))
    repo.git("checkout", "-q", "main")
    repo.commit("main", f=text("a", "main", "c"))
    repo.git("merge", "side", check=False)
    merge = repo.commit("merged", f=text("a", "both", "c"))
    assert origins(repo, merge)["f"][1] == (merge, "f", 2)
    assert agree(repo, merge) == 3


def test_an_octopus(repo: Repo) -> None:
    body = [f"line {i}" for i in range(30)]
    base = repo.commit("base", f=text(*body))
    for i in range(3):
        repo.git("checkout", "-qb", f"arm{i}", base)
        changed = [*body]
        changed[i * 10 + 5] = f"arm {i}"
        repo.commit(f"arm {i}", f=text(*changed), **{f"own{i}": text("own")})
    repo.git("checkout", "-q", "main")
    repo.git("merge", "-q", "-m", "octopus", "arm0", "arm1", "arm2")
    assert len(repo.git("log", "-1", "--format=%P").split()) == 3
    assert agree(repo) == 33


def test_types_modes_and_what_is_no_text(repo: Repo) -> None:
    repo.commit("one", f=text("a", "b"), bin=b"\0\1\2", link=text("x"))
    (repo.path / "link").unlink()
    (repo.path / "link").symlink_to("f")
    repo.git("add", "link")
    repo.git("update-index", "--chmod=+x", "f", "bin")
    repo.commit("two", bin=b"\0\1\2\3")
    repo.git("checkout", "-q", "--", ".")
    (repo.path / "link").unlink()
    last = repo.commit("three", bin=text("now", "text"), link=text("a", "file"))
    found = origins(repo, last)
    assert "bin" not in found  # git shows no lines of what was binary before
    assert agree(repo, last) == 4


def test_names_that_git_quotes(repo: Repo) -> None:
    odd = 'dir/a "b"\té ü.py'
    first = repo.commit("one", **{odd: text("a", "b")})
    repo.commit("two", **{odd: text("a", "c", "d")})
    repository = Repository.open(repo.path)
    with EditCache.open(repository.state_dir) as ledger:
        commits = read_commit_messages(repository, "HEAD")
        ledger.read_missing(repository, commits, {}, lambda done, total: None)
        edit = ledger.get_edit(commits[-1].sha)
        assert edit is not None
        replay = BlameReplay(commits, ledger.get_edit)
        before = [step.before.get_file(edit.files[0].path) for step in replay][-1]
    assert list(map(tuple, edit.files[0].places or ())) == [(2, 1, 2, 2)]
    assert before is not None
    assert before.lines is not None
    assert replay.locate_origin(int(before.lines[0]))[0] in (first, commits[-1].sha)


def test_random_histories(tmp_path_factory: pytest.TempPathFactory) -> None:
    """Branches, merges with and without conflicts, renames, deletions: whatever comes."""
    total = 0
    for seed in range(3):
        repo = Repo.create(tmp_path_factory.mktemp("random") / "repo")
        total += _grow(repo, random.Random(seed))
    assert total > 300


def _grow(repo: Repo, dice: random.Random) -> int:
    files = {f"d{i % 2}/f{i}.txt": [f"{i} {j} {dice.random()}" for j in range(40)] for i in range(4)}
    repo.commit("base", **{path: text(*lines) for path, lines in files.items()})
    branches = ["main"]
    for number in range(25):
        repo.git("checkout", "-q", "-f", dice.choice(branches))
        act = dice.random()
        if act < 0.15:
            branches.append(f"b{number}")
            repo.git("checkout", "-q", "-b", branches[-1])
        elif act < 0.35 and len(branches) > 1:
            _merge(repo, dice.choice(branches), number)
            continue
        _change(repo, dice, number)
    for branch in branches[1:]:
        repo.git("checkout", "-q", "-f", "main")
        _merge(repo, branch, 99)
    return agree(repo, "main")


def _merge(repo: Repo, branch: str, number: int) -> None:
    repo.tick()
    repo.run("merge", "-q", "--no-ff", "-m", f"merge {number}", branch)
    if repo.git("diff", "--name-only", "--diff-filter=U"):
        repo.git("add", "-A")  # with the marks of the conflict, which are lines of the merge
        repo.commit(f"merge {number}")


def _change(repo: Repo, dice: random.Random, number: int) -> None:
    paths = repo.git("ls-files").splitlines()
    path = dice.choice(paths)
    if dice.random() < 0.2:
        target = f"d{dice.randrange(3)}/r{number}.txt"
        (repo.path / target).parent.mkdir(exist_ok=True)
        repo.git("mv", path, target)
        path = target
    lines = (repo.path / path).read_text().splitlines()
    for _ in range(dice.randrange(1, 4)):
        at = dice.randrange(len(lines) + 1)
        kind = dice.random()
        if kind < 0.4:
            lines[at:at] = [f"new {number} {dice.random()}"] * dice.randrange(1, 3)
        elif kind < 0.6:
            lines[at : at + 2] = []
        elif kind < 0.7:
            lines[at : at + 2] = [f"    {line}" for line in lines[at : at + 2]]
        else:
            lines[at : at + 1] = [f"changed {number}"]
    repo.commit(f"change {number}", **{path: text(*lines)})


def test_a_commit_that_cannot_be_read_leaves_lines_unknown(repo: Repo) -> None:
    repo.commit("one", f=text("a", "b", "c", "d"))
    lost = repo.commit("two", f=text("a", "B", "B2", "c", "d"))
    last = repo.commit("three", f=text("a", "B", "B2", "c", "D"))
    repo.commit("four", f=text("a", "B", "B2", "c", "D", "e"))
    repository = Repository.open(repo.path)
    commits = read_commit_messages(repository, "HEAD")
    known: dict[str, CommitEdit | None] = {}
    for one in stream_diff_tree(
        repository, [c.sha for c in commits], edits.ORDINARY_OPTIONS, edits.PatchParser
    ):
        assert not isinstance(one, SkippedCommit)
        known[one.sha] = None if one.sha == lost else one
    replay = BlameReplay(commits, known.get)
    before = [step.before.get_file("f") for step in replay][-1]
    assert before is not None
    assert before.lines is not None
    assert before.lines.tolist()[:4] == [-1] * 4
    assert replay.locate_origin(int(before.lines[4])) == (last, "f", 5)
    assert replay.misfits == {"commits": 1, "files": 1}


def test_trees_share_until_one_changes() -> None:
    one = FileTree()
    one.set_file("a/x", FileVersion("1", None))
    one.set_file("b/y", FileVersion("1", None))
    two = one.copy()
    two.set_file("a/x", FileVersion("2", None))
    one.remove_file("b/y")
    three = two.copy()
    three.remove_file("a/x")
    versions = [
        [(v.blob if (v := tree.get_file(p)) else None) for p in ("a/x", "b/y")] for tree in (one, two, three)
    ]
    assert versions == [["1", None], ["2", "1"], [None, "1"]]
