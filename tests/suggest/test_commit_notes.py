"""What an index notes of a commit: slots, and what its files are for."""

from pathlib import Path

import pytest

from gitpeft.suggest import commit_notes
from gitpeft.suggest.analogy import unpack_slots
from gitpeft.suggest.change_view import ChangeView
from gitpeft.suggest.commit_notes import describe_commit, join_kinds, read_kinds, read_slots
from gitpeft.suggest.recent_exemplars import build_index_entry
from gitpeft.suggest.retrieval import CommitIndex

CHANGE = " go.mod +1 -1\n#go.mod\n@\n-go 1.14.1\n+go 1.15.0"
TESTED = " lib/cache.py +1 -0\n tests/test_cache.py +1 -0\n#lib/cache.py\n@\n+size = 3"


@pytest.mark.parametrize(
    ("paths", "kinds"),
    [
        (["lib/a.py", "lib/b.py"], "code"),
        (["tests/test_a.py", "lib/a.py"], "code+tests"),
        (["docs/a.md"], "docs"),
        ([".github/workflows/ci.yml", "pyproject.toml"], "CI+build"),
        ([], ""),
    ],
)
def test_the_kinds_of_files_are_one_word(paths: list[str], kinds: str) -> None:
    assert join_kinds(ChangeView("\n".join(f" {path} +1 -0" for path in paths))) == kinds


def test_notes_are_the_same_each_time_and_can_be_read() -> None:
    notes = describe_commit("Go 1.15.0", CHANGE)
    assert notes == describe_commit("Go 1.15.0", CHANGE)
    assert [(one.start, one.end) for one in unpack_slots(read_slots(notes))] == [(3, 9)]
    assert read_kinds(notes) == "build"
    assert read_kinds(read_slots(notes)) == read_kinds("") == "", "those of an earlier version"


def test_not_more_notes_are_remembered_than_allowed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(commit_notes, "_MAX_REMEMBERED", 2)
    monkeypatch.setattr(commit_notes, "_remembered", {})
    for subject in "abc":
        describe_commit(subject, CHANGE)
    assert len(commit_notes._remembered) == 1


def test_an_index_gives_the_kinds_of_its_newest_commits(tmp_path: Path) -> None:
    """Of its own commits and of later ones."""
    index = CommitIndex.build([CHANGE, TESTED], ["Go 1.15.0", "grow"], ["a" * 40, "b" * 40], with_notes=True)
    later = index.with_later_commits([build_index_entry("c" * 40, "more", TESTED)])
    assert later.list_newest(2) == [("grow", "code+tests"), ("more", "code+tests")]
    assert later.list_newest(5, before=1) == [("Go 1.15.0", "build")]
    assert index.find_nearest(CHANGE, 1)[0].slots == read_slots(describe_commit("Go 1.15.0", CHANGE))
    plain = CommitIndex.build([CHANGE], ["Go 1.15.0"], ["a" * 40])
    assert plain.list_newest(1) == [("Go 1.15.0", "")]
