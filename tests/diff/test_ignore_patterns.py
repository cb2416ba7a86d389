"""Patterns of `gitpeft.exclude` behave as lines of a `.gitignore`; the oracle is `git check-ignore`."""

import itertools
import time
from collections.abc import Sequence

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from gitpeft.diff.ignore_patterns import PathExclusion, find_idle_patterns
from tests.support.gitrepo import Repo

_PARTS = ("a", "b", "ab", "a b", "[", "é", "a.b", "-", "\\", "A")
_PATHS = [
    *_PARTS,
    *("/".join(two) for two in itertools.product(("x", "a!", "xé", "b.d"), _PARTS)),
    *("/".join(three) for three in itertools.product(("x", "a!"), ("y", "aa"), _PARTS)),
    *("x/y/aa/b/c", "a!/q/b/b/a", "#c", "!n", "x ", "t/zz\u200cz"),
]


@pytest.fixture
def filled(repo: Repo) -> Repo:
    for path in _PATHS:
        repo.write(path, "")
    return repo


def ignored_by_git(repo: Repo, patterns: Sequence[str]) -> set[str]:
    excludes = repo.write(".git/patterns", "".join(f"{line}\n" for line in patterns))
    options = ["-c", f"core.excludesFile={excludes}", "check-ignore", "--no-index", "-z", "--stdin"]
    done = repo.run(*options, input="".join(f"{path}\0" for path in _PATHS))
    assert done.returncode in (0, 1), done.stderr
    return set(done.stdout.decode().split("\0")) - {""}


def excluded(patterns: Sequence[str]) -> set[str]:
    exclusion = PathExclusion(patterns)
    return {path for path in _PATHS if exclusion.excludes(path)}


@pytest.mark.parametrize(
    "patterns",
    [
        ["x/"],
        ["x"],
        ["/a"],
        ["x/*"],
        ["x/**"],
        ["**/b"],
        ["x/**/b"],
        ["**/aa/**"],
        ["*.b"],
        ["a b"],
        ["x\\ "],
        ["x  "],
        ["\\#c", "\\!n"],
        ["# c", "!n"],
        ["*", "!a"],
        ["x", "!x/a"],
        ["x/*", "!x/y", "x/y/*"],
        ["[a-b]"],
        ["[!a-b]"],
        ["[]a]"],
        ["[[:alpha:]]"],
        ["[[:nonsense:]]"],
        ["["],
        ["\\"],
        ["a\\"],
        ["?"],
        ["??"],
        ["x?"],
        ["/"],
        ["//a"],
        ["t/zz\u200cz"],
        ["a*/*"],
        ["x/y/aa/b/c/"],
        ["*/"],
        ["**"],
        ["a!**/b"],
    ],
    ids="|".join,
)
def test_a_pattern_excludes_what_git_ignores(filled: Repo, patterns: list[str]) -> None:
    assert excluded(patterns) == ignored_by_git(filled, patterns)


_LINES = st.lists(
    st.sampled_from(
        [*"abxy!*?[]-^\\/. #é", "**", "**/", "/**", "[!", "[a-", "[[:alpha:]", "\\ ", "aa", "x/", "a!", "b.d"]
    ),
    min_size=1,
    max_size=7,
).map("".join)


@settings(max_examples=400, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(patterns=st.lists(_LINES, min_size=1, max_size=4))
@example(patterns=["x/**/y/**/b"])
@example(patterns=["x*/**\\/a"])
@example(patterns=["!x", "x\\"])
def test_any_patterns_exclude_what_git_ignores(filled: Repo, patterns: list[str]) -> None:
    assert excluded(patterns) == ignored_by_git(filled, patterns)


def test_bytes_that_are_no_text_are_compared_as_bytes() -> None:
    name = b"caf\xe9.py".decode("utf-8", "surrogateescape")
    assert PathExclusion([name]).excludes(name)
    assert PathExclusion(["caf?.py"]).excludes(name)
    assert not PathExclusion(["caf?.py"]).excludes("café.py")  # two bytes, as in git


def test_letters_of_either_case_where_git_ignores_case(filled: Repo) -> None:
    filled.git("config", "core.ignoreCase", "true")
    assert PathExclusion(["A.B"], ignore_case=True).excludes("a.b")
    assert "a.b" in ignored_by_git(filled, ["A.B"])


def test_a_submodule_is_a_folder() -> None:
    exclusion = PathExclusion(["lib/"])
    assert exclusion.excludes("lib", is_folder=True) and not exclusion.excludes("lib")


def test_no_pattern_takes_long() -> None:
    """A committed file is written by others: no pattern of its length may hold a commit up."""
    started = time.monotonic()
    for pattern in ("*a" * 60, "**/a/" * 24, "a*" * 59 + "/b", "**/*a*a*a/" * 12, "?*" * 60):
        exclusion = PathExclusion([pattern])
        for path in ("a" * 4000, "a/" * 2000 + "a", "aaaa/" * 800 + "b"):
            exclusion.excludes(path)
    assert time.monotonic() - started < 5


def test_patterns_that_match_nothing_are_found() -> None:
    paths = ["src/a.py", "docs/x/y.md"]
    patterns = ["src/", "docs", "*.rs", "/a.py", "!docs/x/", "# note", "["]
    assert find_idle_patterns(patterns, paths) == ["*.rs", "/a.py", "# note", "["]
