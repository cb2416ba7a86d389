"""What a revert takes back, in real histories, and what blame passes over; the oracle is git."""

from pathlib import Path

import pytest

from gitpeft.config import Config
from gitpeft.git.repository import Repository
from gitpeft.git.streams import read_commit_messages
from gitpeft.learn.szz import szz
from gitpeft.learn.szz.ignored_revisions import read_ignored_revisions
from gitpeft.learn.szz.reverts import RevertTargets, find_reverts
from gitpeft.learn.szz.szz import SzzLabels
from tests.support.gitrepo import Repo

CHECKED = "def a(x):\n    if not x:\n        raise ValueError\n    return 1\n"
UNCHECKED = "def a(x):\n    return 1\n"


def find(repo: Repo) -> SzzLabels:
    return szz.trace_bug_introducing_commits(
        Repository.open(repo.path), "HEAD", Config(), lambda *heard: None
    )


def reverts(repo: Repo) -> dict[str, RevertTargets]:
    return find_reverts(read_commit_messages(Repository.open(repo.path), "HEAD"))


def start(repo: Repo, subject: str = "Remove check (#21)") -> tuple[str, str]:
    """Two commits; the second removes a check, which is a bug without a line of its own."""
    return repo.commit("Add a (#20)", **{"a.py": CHECKED}), repo.commit(subject, **{"a.py": UNCHECKED})


@pytest.mark.parametrize(
    ("removal", "message"),
    [
        ("Remove check (#21)", 'Revert "Remove check" (#22)\n\nReverts acme/app#21'),
        ("Remove check (#21)", 'Revert "Remove check" (#22)'),
        ("Remove check (#21)", "Restore the check\n\nReverts #21"),
        ("Remove check (!21)", 'Revert "Remove check"\n\nThis reverts merge request !21'),
        ("Remove `check` (#21)", 'Revert "Remove check (#21)" (#22)'),
        ("Remove check\n\nPR-URL: https://example.org/o/r/pull/21", "Revert #21"),
        ("Remove check\n\ngit-svn-id: https://example.org/svn/trunk@919684 13f7", "Revert r919684"),
        ("feat: remove check", "revert: feat: remove check (#22)"),
        (
            "Remove the check of the argument because nobody needs it (#21)",
            'Revert "Remove the check of the argument because nobody…" (#22)',
        ),
    ],
)
def test_a_revert_finds_what_it_takes_back(repo: Repo, removal: str, message: str) -> None:
    _, bug = start(repo, removal)
    fix = repo.commit(message, **{"a.py": CHECKED})
    assert reverts(repo)[fix] == RevertTargets((bug,))
    assert {sha: verdict.fixes for sha, verdict in find(repo).verdicts.items()} == {bug: (fix,)}


@pytest.mark.parametrize(
    "form", ["Revert {0} and {1}.", "Revert two\n\nThis reverts commits {0}, {1}.", "range"]
)
def test_a_revert_of_several_names_them_all(repo: Repo, form: str) -> None:
    first, one = start(repo)
    two = repo.commit("Remove more", **{"b.py": "x = 1\n", "a.py": UNCHECKED + "y = 2\n"})
    message = (
        f"Revert a series\n\nThis reverts commits {first}..{two}."
        if form == "range"
        else form.format(one, two)
    )
    fix = repo.commit(message, **{"a.py": CHECKED, "b.py": None})
    assert set(reverts(repo)[fix].commits) == {one, two}
    expected = repo.git("rev-list", f"{first}..{two}").split()
    assert set(find(repo).verdicts) == set(expected)


def merge_branch(repo: Repo, *changes: dict[str, str], title: str = "Speed up") -> str:
    repo.git("checkout", "-q", "-b", "side", "HEAD")
    for number, files in enumerate(changes):
        repo.commit(f"Step {number}", **files)
    repo.git("checkout", "-q", "main")
    repo.commit("Meanwhile", **{"other.py": "z = 1\n"})
    repo.git("merge", "-q", "--no-ff", "-m", "Merge pull request #21 from ada/side", "-m", title, "side")
    repo.tick()
    return repo.git("rev-parse", "HEAD")


@pytest.mark.parametrize(
    "message",
    [
        "git",
        'Revert "Speed up" (#22)',
        'Revert "Merge pull request #21 from ada/side"',
        "Take it back\n\nReverts acme/app#21",
    ],
)
def test_a_revert_of_a_merge_takes_back_what_it_brought_in(repo: Repo, message: str) -> None:
    repo.commit("Add a (#20)", **{"a.py": CHECKED, "b.py": "x = 1\n"})
    merge = merge_branch(repo, {"a.py": UNCHECKED}, {"b.py": "x = 2\n"})
    brought = repo.git("rev-list", "--no-merges", f"{merge}^1..{merge}").split()
    repo.git("revert", "-m", "1", "--no-edit", merge)
    repo.tick()
    if message != "git":
        repo.git("commit", "-q", "--amend", "-m", message)
    fix = repo.git("rev-parse", "HEAD")
    found = reverts(repo)[fix]
    assert set(found.commits) == found.branches == set(brought)
    wrong = repo.git("log", "-1", "--format=%H", f"{merge}^2", "--", "b.py")
    assert set(find(repo).verdicts) == {wrong}, "the line that went says which commit of the branch was wrong"


def test_a_merge_of_one_commit_is_that_commit(repo: Repo) -> None:
    repo.commit("Add a (#20)", **{"a.py": CHECKED})
    merge = merge_branch(repo, {"a.py": UNCHECKED})
    repo.git("revert", "-m", "1", "--no-edit", merge)
    bug = repo.git("rev-parse", f"{merge}^2")
    assert reverts(repo)[repo.git("rev-parse", "HEAD")] == RevertTargets((bug,))
    assert set(find(repo).verdicts) == {bug}


def test_a_revert_that_is_taken_back_by_its_number_repairs_nothing(repo: Repo) -> None:
    start(repo)
    repo.commit('Revert "Remove check" (#22)', **{"a.py": CHECKED})
    repo.commit("No check after all (#23)\n\nReverts #22", **{"a.py": UNCHECKED})
    found = find(repo)
    assert (found.verdicts, found.fixes) == ({}, {})


def test_the_number_of_an_issue_is_no_commit(repo: Repo) -> None:
    start(repo)
    fix = repo.commit('Revert "Something older", fixes #21', **{"a.py": CHECKED})
    assert reverts(repo)[fix] == RevertTargets(())


# --- what blame passes over -------------------------------------------------------------------------------


def reformatted(repo: Repo) -> tuple[str, str]:
    """A function, and a commit that reformats it; blame would name the latter."""
    first = repo.commit("Add h", **{"h.py": "def h(x):\n    return x + 1\n"})
    return first, repo.commit("Rework", **{"h.py": "def h(x):\n    return x + 1 * 1\n"})


def blamed(repo: Repo) -> str:
    """Whom git blames for the second line."""
    return repo.git("blame", "--porcelain", "-L2,2", "h.py").split()[0]


@pytest.mark.parametrize("place", ["in the work tree", "absolute", "home", "the second of two", "bare"])
def test_blame_and_labels_pass_over_the_same_commits(
    repo: Repo, tmp_path: Path, place: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    first, rework = reformatted(repo)
    monkeypatch.setenv("HOME", str(tmp_path))
    path = {"absolute": tmp_path / "skip", "home": tmp_path / "skip"}.get(place, repo.path / ".skip")
    path.write_text(f"# what only reformats\n{rework.upper()}  # rework\n\n")
    name = {"absolute": str(path), "home": "~/skip"}.get(place, ".skip")
    if place == "the second of two":
        repo.write(".none", "# nothing\n")
        repo.git("config", "--add", "blame.ignoreRevsFile", ".none")
    repo.git("config", "--add", "blame.ignoreRevsFile", name)
    repo.commit("Note", **({".skip": path.read_text()} if place == "bare" else {}))
    assert blamed(repo) == first, "git passes it over"
    fix = repo.commit("Fix crash in h", **{"h.py": "def h(x):\n    return x + 2\n"})
    if place == "bare":
        clone = repo.clone(tmp_path / "bare.git", "--bare")
        clone.git("config", "blame.ignoreRevsFile", ".skip")
        repo = clone
    found = find(repo)
    assert {sha: verdict.fixes for sha, verdict in found.verdicts.items()} == {first: (fix,)}


def test_an_empty_name_forgets_nothing_as_in_git(repo: Repo) -> None:
    """Git sorts the names of this setting, so that the empty one comes first and clears an empty list."""
    first, rework = reformatted(repo)
    repo.write(".skip", f"{rework}\n")
    repo.git("config", "--add", "blame.ignoreRevsFile", ".skip")
    repo.git("config", "--add", "blame.ignoreRevsFile", "")
    assert blamed(repo) == first
    assert read_ignored_revisions(Repository.open(repo.path), "HEAD").shas == {rework}


def test_a_file_that_is_not_here_is_counted(repo: Repo) -> None:
    reformatted(repo)
    repo.git("config", "blame.ignoreRevsFile", "gone")
    assert repo.run("blame", "h.py").returncode, "git stops there"
    assert find(repo).report.skipped == {"file of blame.ignoreRevsFile that is not here": 1}


def test_the_file_that_hosts_read_counts_without_a_setting(repo: Repo) -> None:
    _, rework = reformatted(repo)
    repo.commit("Note", **{".git-blame-ignore-revs": f"{rework}\nnot an id\n{rework[:12]}\n"})
    assert read_ignored_revisions(Repository.open(repo.path), "HEAD").shas == {rework}
