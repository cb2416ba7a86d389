"""The past of every commit, two ways: replayed in memory, and asked of the tables as the hook does."""

import random
import re
import shutil
from collections.abc import Sequence
from dataclasses import asdict, replace
from pathlib import Path

import pytest

from gitpeft.git.objects import read_line_counts
from gitpeft.git.repository import Repository
from gitpeft.history import context
from gitpeft.history.store import History
from gitpeft.learn.risk.metric_replay import MeasuredCommit, find_latest_time, measure_history
from gitpeft.risk import model
from gitpeft.risk.change_metrics import KAMEI_METRICS, ChangeMetrics, compute_change_metrics
from tests.support.gitrepo import EPOCH, HOUR, Repo

PEOPLE = ("ada@example.org", "ben@example.org", "cho@example.org")


def build(repo: Repo, count: int, seed: int) -> None:
    """A history of everything: edits, renames, deletions, links, modes, binary files, odd names, merges."""
    dice = random.Random(seed)
    paths: list[str] = []
    for number in range(count):
        env = {"GIT_AUTHOR_EMAIL": dice.choice(PEOPLE)}
        if number % 9 == 5:
            repo.git("checkout", "-q", "-B", f"side{number}", f"HEAD~{dice.randrange(1, 4)}")
            paths = repo.git("-c", "core.quotePath=false", "ls-files", "-z").strip("\0").split("\0")
        for _ in range(dice.randrange(1, 4)):
            _edit(repo, dice, paths, number)
        word = dice.choice(("fix the parser", "add a thing", "Revert it", "tidy"))
        repo.git("commit", "-q", "--allow-empty", "-m", f"{word} {number}", env=env)
        repo.tick(dice.choice((HOUR, 30 * HOUR, 900 * HOUR)))
        if number % 9 == 8:
            repo.git("checkout", "-q", "main")
            repo.git(
                "merge",
                "-q",
                "--no-ff",
                "-X",
                "theirs",
                "-m",
                "merge",
                f"side{number - 3}",
                env=env,
                check=False,
            )
            if repo.git("rev-parse", "-q", "--verify", "MERGE_HEAD", check=False):
                repo.git("add", "-A")
                repo.git("commit", "-q", "-m", "merge by hand", env=env)
            repo.tick()
            paths = repo.git("-c", "core.quotePath=false", "ls-files", "-z").strip("\0").split("\0")


def _edit(repo: Repo, dice: random.Random, paths: list[str], number: int) -> None:
    kind = dice.choice(
        ("new", "new", "edit", "edit", "edit", "edit", "move", "drop", "binary", "link", "mode", "lock")
    )
    here = [path for path in paths if (repo.path / path).is_file() and not (repo.path / path).is_symlink()]
    name = f"{dice.choice(('src/', 'src/deep/', 'tests/', ''))}{dice.choice(('a', 'b', 'ü x'))}{number}.py"
    if kind == "binary":
        repo.write(f"{name}.bin", bytes(dice.randrange(256) for _ in range(300)) + b"\0")
    elif kind == "lock":
        repo.write("yarn.lock", f"x {number}\n" * 40)
    elif kind == "link":
        (repo.path / f"link{dice.random()}").symlink_to(f"to{number}")
    elif kind == "new" or not here:
        repo.write(
            name,
            "".join(f"def f{i}():\n    return {dice.random()}\n\n" for i in range(dice.randrange(1, 30))),
        )
        paths.append(name)
    elif kind == "mode":
        (repo.path / dice.choice(here)).chmod(0o755)
    elif kind == "drop":
        repo.git("rm", "-q", "-f", "--", dice.choice(here), check=False)
    else:
        old = dice.choice(here)
        if kind == "move":
            (repo.path / name).parent.mkdir(parents=True, exist_ok=True)
            repo.git("add", "-A")
            repo.git("mv", "-f", old, name)
            paths.append(name)
            old = name if dice.random() < 0.5 else ""
        if old and b"\0" not in (raw := (repo.path / old).read_bytes()):
            lines = raw.decode(errors="replace").split("\n")
            lines[dice.randrange(len(lines))] = f"    x = {dice.random()}"
            lines[dice.randrange(len(lines)) :] = dice.choice(([], lines[-2:], ["end without newline"]))
            repo.write(old, "\n".join(lines))
    repo.git("add", "-A")


def replayed(repo: Repo) -> list[MeasuredCommit]:
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository, "HEAD", jobs=2)
        return measure_history(history, repository)


def test_lengths_are_the_same_when_commits_are_filled_in_a_few_at_a_time(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(repo, 40, 7)
    repo.git("checkout", "-q", "--detach", "main")
    whole = replayed(repo)
    shutil.rmtree(Repository.open(repo.path).state_dir)
    asked: list[int] = []

    def count_lines(repository: Repository, names: Sequence[str]) -> dict[str, int]:
        asked.append(len(names))
        return read_line_counts(repository, names)

    monkeypatch.setattr(context, "_FILLED_AT_ONCE", 3)
    monkeypatch.setattr(context, "read_line_counts", count_lines)
    parts = replayed(repo)
    assert [[file.lines for file in one.change.files] for one in parts] == [
        [file.lines for file in one.change.files] for one in whole
    ]
    # most are known from the part before
    assert len(asked) > 10 and sum(asked) < sum(len(one.change.files) for one in parts) / 2


def test_commits_that_are_left_out_are_known_to_the_others(repo: Repo) -> None:
    build(repo, 20, 3)
    repo.git("checkout", "-q", "--detach", "main")
    found, repository = replayed(repo), Repository.open(repo.path)
    older = [one.sha for one in found[: len(found) // 2]]
    with History.open(repository.state_dir) as history:
        newer = measure_history(history, repository, "HEAD", older)
    assert newer == found[len(older) :] and any(one.metrics.real_added for one in newer)


def asked(repo: Repo, shas: list[str]) -> dict[str, ChangeMetrics]:
    """The metrics of each commit as of a change that is staged on its parent, just before it is committed."""
    repository = Repository.open(repo.path)
    found = {}
    with History.open(repository.state_dir) as history:
        for sha in shas:
            parent = repo.git("rev-parse", "-q", "--verify", f"{sha}^", check=False)
            if parent:
                repo.git("update-ref", "--no-deref", "HEAD", parent)
            else:
                repo.git("symbolic-ref", "HEAD", "refs/heads/unborn")
            repo.git("read-tree", sha)
            mail, when = repo.git("log", "-1", "--format=%ae %ct", sha).split()
            _, change, _ = model.read_staged_change(repository, history.hash_author(f"<{mail}>"), int(when))
            with history.context_before(
                repository, repository.resolve_head(), keep=bool(hash(sha) % 2)
            ) as past:
                found[sha] = compute_change_metrics(past, change)
    return found


@pytest.mark.parametrize("seed", [1, 2])
def test_replay_and_hook_measure_the_same_in_every_commit(repo: Repo, seed: int) -> None:
    build(repo, 40, seed)
    repo.git("checkout", "-q", "--detach", "main")
    found = replayed(repo)
    assert len(found) > 25
    assert any(file.origin for one in found for file in one.change.files), "no rename"
    assert {file.kind for one in found for file in one.change.files} >= {
        "text",
        "binary",
        "symlink",
        "generated",
    }
    dice = random.Random(seed)
    shas = [one.sha for one in found]
    dice.shuffle(shas)
    said = asked(repo, shas)
    for one in found:
        assert asdict(said[one.sha]) == asdict(replace(one.metrics, fix=0)), one.sha
    assert any(one.metrics.fix for one in found) and max(one.metrics.nuc for one in found) > 3


def test_lines_are_what_git_shows(repo: Repo) -> None:
    build(repo, 30, 3)
    repo.git("checkout", "-q", "--detach", "main")
    for one in replayed(repo):
        for file in one.change.files:
            raw = repo.run("cat-file", "blob", f"{one.sha}^:{file.origin or file.path}").stdout
            lines = raw.count(b"\n") + (raw[-1:] not in (b"", b"\n"))
            if file.kind != "text":
                continue
            assert file.lines == (0 if b"\0" in raw else lines), (one.sha, file)


def test_a_history_mined_bit_by_bit_is_the_same(repo: Repo, tmp_path: Path) -> None:
    build(repo, 30, 4)
    repo.git("checkout", "-q", "--detach", "main")
    once = repo.clone(tmp_path / "once")
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        for sha, _ in repository.rev_list("HEAD")[::4]:
            history.mine_commits(repository, sha, jobs=1)
    bits = {one.sha: one.metrics for one in replayed(repo)}
    once.git("checkout", "-q", "--detach", repo.git("rev-parse", "HEAD"))
    assert {one.sha: one.metrics for one in replayed(once)} == bits


def test_a_commit_dated_in_the_far_future_takes_no_time_and_tells_nothing_of_today(repo: Repo) -> None:
    repo.commit("start", **{"a.py": "1\n"})
    usual = repo.clock
    repo.commit("later", **{"a.py": "2\n"})
    absurd = re.sub(
        r"> \d+ ", f"> {2**60} ", repo.git("cat-file", "commit", "HEAD")
    )  # as an importer may write it
    repo.git(
        "update-ref", "HEAD", repo.git("hash-object", "-t", "commit", "-w", "--stdin", input=f"{absurd}\n")
    )
    found = replayed(repo)
    assert found[-1].metrics.exp == 1 and found[-1].metrics.rexp < 1e-3
    assert abs(find_latest_time(found) - usual) < 24 * HOUR and find_latest_time([]) == 0
    assert find_latest_time(found[-1:]) == found[-1].change.time  # there is nothing better


def test_the_metrics_by_hand(repo: Repo) -> None:
    """The numbers of a small history, worked out on paper."""
    day = 24 * HOUR
    repo.commit("start", **{"src/a.py": "1\n2\n3\n4\n", "docs/b.md": "x\n"})
    repo.tick(10 * day - HOUR)
    repo.git("commit", "-q", "--allow-empty", "-m", "nothing", env={"GIT_AUTHOR_EMAIL": "ben@example.org"})
    repo.write("src/a.py", "1\n2\n3\n4\n5\n6\n")
    repo.git("add", "-A")
    repo.git("commit", "-q", "-m", "fix: more", env={"GIT_AUTHOR_EMAIL": "ben@example.org"})
    repo.tick(400 * day)
    repo.write("src/a.py", "1\n3\n4\n5\n6\n7\n8\n")
    repo.write("docs/b.md", "y\n")
    repo.write("tests/test_c.py", "t\n")
    repo.git("add", "-A")
    repo.git("commit", "-q", "-m", "Fixed bug")
    last = replayed(repo)[-1].metrics
    assert {name: getattr(last, name) for name in ("ns", "nd", "nf", "la", "ld", "lt")} == {
        "ns": 3, "nd": 3, "nf": 3, "la": 4, "ld": 2, "lt": 7,
    }  # fmt: skip
    assert (last.fix, last.ndev, last.nuc, last.exp, last.sexp) == (1, 2, 2, 1, 1)
    assert last.rexp == 1 / 2  # one change, more than one full year ago
    assert last.age == pytest.approx((400 + 410 + 0) / 3)
    assert last.entropy == pytest.approx(1.459147917)  # 3, 2 and 1 of 6 lines
    assert (last.fixes, last.recent, last.new) == (0, 0, 1) and last.tests == pytest.approx(1 / 6)
    assert repo.clock == EPOCH + 410 * day and len(KAMEI_METRICS) == 14
