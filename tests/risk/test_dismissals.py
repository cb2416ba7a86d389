"""The two files of dismissals: what they hold, and that nothing in a committed one does harm."""

import os
import tomllib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.risk.dismissals import (
    MAX_FILE_BYTES,
    SHARED_FILE,
    Dismissal,
    change_own_dismissals,
    change_shared_dismissals,
    find_last_moment,
    format_dismissal,
    load_dismissals,
    parse_dismissals,
)
from tests.support.gitrepo import Repo

NOW = 1_700_000_000
"""2023-11-14, 22:13:20 UTC."""

GOOD = '[[dismissed]]\npath = "a.py"\nwhy = "x"\nsince = 2023-11-14\n'


def parse(text: str) -> list[Dismissal]:
    return list(parse_dismissals(text.encode(), SHARED_FILE, NOW, shared=True).entries)


def problems(text: str) -> list[str]:
    return list(parse_dismissals(text.encode(), SHARED_FILE, NOW, shared=True).problems)


def test_an_entry_by_hand_needs_three_lines() -> None:
    [one] = parse(GOOD)
    assert (one.path, one.function, one.why, one.staged, one.shared) == ("a.py", "", "x", False, True)
    assert one.last_day == "2024-05-12"  # 180 days


def test_the_days_are_those_of_utc() -> None:
    assert find_last_moment(NOW, 0) == NOW + 6399
    assert find_last_moment(NOW, 1) == NOW + 6399 + 86400


@given(
    path=st.text(st.characters(exclude_categories=["Cs"]), min_size=1, max_size=40).filter(str.strip),
    function=st.text(max_size=40),
    why=st.text(st.characters(exclude_categories=["Cs", "Cc", "Cf", "Zl", "Zp", "Co", "Cn"]), min_size=1),
    staged=st.booleans(),
)
def test_what_is_written_is_read_again(path: str, function: str, why: str, staged: bool) -> None:
    from gitpeft.diff.patch import normalize_line

    why = " ".join(why[:200].split()) or "x"
    one = Dismissal(path, normalize_line(function), why, NOW, find_last_moment(NOW, 9), staged, True)
    text = format_dismissal(one)
    assert tomllib.loads(text)
    [back] = parse(text)
    assert (back.path, back.function, back.until) == (one.path, one.function, one.until)
    assert (back.since, back.staged) == (NOW, staged)


def test_a_path_that_is_not_utf8_is_kept() -> None:
    path = os.fsdecode(b"src/\xff\n.py")
    [back] = parse(format_dismissal(Dismissal(path, "", "x", NOW, NOW)))
    assert back.path == path


@pytest.mark.parametrize(
    ("entry", "said"),
    [
        ("dismissed = [1]", "entry 1 is ignored: it is not a table"),
        (GOOD.replace('"a.py"', "3"), "`path` has to be a text of 1 to 4,096 characters"),
        (GOOD.replace('why = "x"\n', ""), "`why` has to be a text"),
        (GOOD.replace('"x"', '"   "'), "`why` has to be a text"),
        (GOOD.replace('"x"', '"' + "x" * 301 + '"'), "`why` has to be a text of 1 to 300 characters"),
        (GOOD.replace("2023-11-14", '"2023-11-14"'), "`since` has to be a date"),
        (GOOD.replace("2023-11-14", "2023-11-16"), "`since` lies in the future"),
        (GOOD + "until = 2025-01-01\n", "`until` is more than 365 days after `since`"),
        (GOOD + "until = true\n", "`until` has to be a date"),
        (GOOD + "staged = 1\n", "`staged` has to be true or false"),
        (GOOD + 'run = "rm"\n', "unknown name 'run'"),
        (GOOD + 'shared = true\n', "unknown name 'shared'"),
    ],
)  # fmt: skip
def test_a_bad_entry_is_left_out_and_the_others_count(entry: str, said: str) -> None:
    [problem] = problems(entry)
    assert problem.startswith(f"{SHARED_FILE}: entry 1 is ignored") and said in problem
    if entry.startswith("[["):
        assert [one.path for one in parse(entry + "\n" + GOOD)] == ["a.py"]


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (b"\xff\xfe", "it is not UTF-8"),
        (b"a = ", "it is not valid TOML"),
        (b"dismissed = 1", "each entry begins with [[dismissed]]"),
        (b"[tool]\nx = 1\n", "unknown name 'tool'"),
        (b"#" * (MAX_FILE_BYTES + 1), "it is larger than 64 KB"),
        (b"x = " + b"[" * 30_000, "it is not valid TOML"),
        (b'a = "\x1b[31m"', "it is not valid TOML"),
    ],
)
def test_a_bad_file_is_one_sentence(repo: Repo, content: bytes, said: str) -> None:
    (repo.path / SHARED_FILE).write_bytes(content)
    found = load_dismissals(Repository.open(repo.path), NOW)
    assert not found.entries
    [problem] = found.problems
    assert problem.startswith(f"{SHARED_FILE} is ignored: ") and said in problem and problem.isprintable()


@given(st.binary(max_size=200))
def test_any_bytes_are_entries_or_a_sentence(content: bytes) -> None:
    try:
        parse_dismissals(content, SHARED_FILE, NOW, shared=True)
    except ValueError as error:
        assert str(error)


def test_a_link_a_pipe_and_a_folder_are_not_read(repo: Repo, tmp_path: Path) -> None:
    place = repo.path / SHARED_FILE
    (tmp_path / "elsewhere").write_text(GOOD)
    for kind in ("link", "pipe", "folder"):
        if kind == "link":
            place.symlink_to(tmp_path / "elsewhere")
        elif kind == "pipe":
            os.mkfifo(place)
        else:
            place.mkdir()
        found = load_dismissals(Repository.open(repo.path), NOW)
        assert not found.entries and found.problems == (
            f"{SHARED_FILE} is ignored: it is not a regular file",
        )
        place.rmdir() if kind == "folder" else place.unlink()


def test_what_cannot_be_changed_is_left_alone(repo: Repo) -> None:
    """An entry in another form than a block of lines, or a file that is broken."""
    repository = Repository.open(repo.path)
    place = repo.path / SHARED_FILE
    text = 'dismissed = [{path = "a.py", why = "x", since = 2023-11-14}]\n'
    for before, said in ((text, "not written in a way"), ("a = \n", "cannot be changed")):
        place.write_text(before)
        entries = load_dismissals(repository, NOW).entries or tuple(parse(GOOD))
        with pytest.raises(GitpeftError, match=said):
            change_shared_dismissals(repository, NOW, [], entries)
        assert place.read_text() == before


def test_a_full_file_is_not_cut(repo: Repo) -> None:
    repository = Repository.open(repo.path)
    many = [Dismissal(f"{i}/" + "p" * 200, "", "x" * 300, NOW, NOW) for i in range(200)]
    with pytest.raises(GitpeftError, match="would be larger than 64 KB"):
        change_own_dismissals(repository, NOW, many, [])
    assert not load_dismissals(repository, NOW).entries
