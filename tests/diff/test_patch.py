"""`gitpeft.diff.patch` with git itself as the oracle."""

import os
from collections.abc import Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from gitpeft.diff.compact import compact_change
from gitpeft.diff.patch import MAX_LINES_KEPT, FileChange, is_generated, parse_patch
from gitpeft.git.repository import Repository
from tests.support.gitrepo import EPOCH, Repo

NUMSTAT = ("diff-tree", "-r", "--root", "--no-commit-id", "-M50%", "-l400", "--numstat", "-z")
ODD_NAMES = (
    "with space.txt", "tab\there.txt", 'quote".txt', 'ends with quote"', '"both"', "back\\slash", "new\nline",
    "-dash.txt", "a b/x b/x", "caf\udce9.txt", "naïve 测试.txt", "x <y.txt", "x +1 -2.txt", "#hash", "~tilde",
    "bell\x07", "ctrl\x01\x02", "line\u2028separator", "diff --git a b", "trailing space ", "a => b",
)  # fmt: skip
NASTY = "-- x\n++ x\n@@ x\n@@ -1 +1 @@\ndiff --git a/x b/x\n--- a/x\n+++ b/x\nindex 0..1\n\\ No newline\n"


def counted(repo: Repo, rev: str, *options: str) -> dict[str, tuple[int, int]]:
    """What `git diff-tree --numstat` counts, by path; 0 for binary files."""
    fields = repo.run(*NUMSTAT, *options, rev).stdout.split(b"\0")
    found = {}
    while fields and fields[0]:
        added, removed, path = fields.pop(0).split(b"\t", 2)
        if not path:
            _, path = fields.pop(0), fields.pop(0)
        found[os.fsdecode(path)] = (
            0 if added == b"-" else int(added),
            0 if removed == b"-" else int(removed),
        )
    return found


def parsed(repo: Repo, rev: str = "HEAD") -> dict[str, FileChange]:
    """The file changes of a commit by path; the counts are those of git."""
    files = parse_patch(Repository.open(repo.path).read_commit_patch(rev))
    assert {f.path: (f.added, f.removed) for f in files} == counted(repo, rev)
    return {f.path: f for f in files}


# --- parse, with git as the oracle --------------------------------------------------------------------------


def test_names_of_every_kind(repo: Repo) -> None:
    for round_ in range(3):
        for name in ODD_NAMES:
            repo.write(name, f"{round_}\nsame\n")
        repo.git("add", "-A")
        repo.commit("names")
        assert len(parsed(repo)) == len(ODD_NAMES)
    for name in ODD_NAMES:
        (repo.path / name).chmod(0o755)
    repo.git("add", "-A")
    repo.commit("modes")
    assert {f.kind for f in parsed(repo).values()} == {"mode"}
    for number, name in enumerate(ODD_NAMES):
        repo.git("mv", "--", name, f"moved {number}")
    repo.commit("moves")
    moved = parsed(repo)
    assert all(f.status in "RAD" for f in moved.values())
    repo.git("rm", "-q", "-r", ".")
    repo.commit("gone")
    assert {f.status for f in parsed(repo).values()} == {"D"}


def test_renames_keep_both_names(repo: Repo) -> None:
    text = "".join(f"line {i}\n" for i in range(40))
    repo.commit("start", **{"a/old.py": text, 'odd "name"': text[::-1]})
    repo.git("mv", "a/old.py", "a/new.py")
    repo.git("mv", 'odd "name"', 'other "name"')
    repo.commit("move", **{"a/new.py": text + "one more\n"})
    found = parsed(repo)
    assert (found["a/new.py"].status, found["a/new.py"].old_path) == ("R", "a/old.py")
    assert (found['other "name"'].old_path, found['other "name"'].added) == ('odd "name"', 0)


def test_copies(repo: Repo) -> None:
    text = "".join(f"line {i}\n" for i in range(40))
    repo.commit("start", **{"a.py": text})
    repo.commit("copy", **{"b.py": text + "more\n"})
    options = ["-C", "--find-copies-harder"]
    patch = repo.run("diff-tree", "-p", "--no-commit-id", *options, "HEAD").stdout
    (found,) = parse_patch(patch)
    assert (found.path, found.status, found.old_path) == ("b.py", "C", "a.py")
    assert {"b.py": (found.added, found.removed)} == counted(repo, "HEAD", *options)


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (NASTY, NASTY * 2),
        (NASTY, "".join(reversed(NASTY.splitlines(keepends=True)))),
        ("", NASTY),
        (NASTY, ""),
        ("a\r\nb\r\n", "a\r\nc\r\n"),
        ("a\r\nb\r\n", "a\nb\n"),
        ("a\rb\rc", "a\rb\rd"),
        ("x", "x\n"),
        ("x\n", "x"),
        ("x", "y"),
        (b"caf\xe9\n\xff\xfe\n", b"caf\xe8\n\xff\xfe\n"),
        ("\x0c\x0b\x1c\u2028\x85\n", "\x0c\x0b\x1c\u2028\x85x\ny\x0c\n"),
        (b"\x00\x01", b"\x00\x02"),
        ("text\n", b"\x00binary"),
        ("x" * 100_000 + "\n", "y" * 100_000 + "\n"),
    ],
)
def test_contents_of_every_kind(repo: Repo, before: str | bytes, after: str | bytes) -> None:
    repo.commit("start", **{"f.txt": before})
    parsed(repo)
    repo.commit("change", **{"f.txt": after, "another.txt": "x\n"})
    assert set(parsed(repo)) == {"f.txt", "another.txt"}
    repo.commit("gone", **{"f.txt": None})
    assert parsed(repo)["f.txt"].status == "D"


def test_empty_files_come_and_go(repo: Repo) -> None:
    repo.commit("start", **{"empty": "", "folder/empty too": ""})
    assert {f.status for f in parsed(repo).values()} == {"A"}
    repo.commit("gone", empty=None)
    found = parsed(repo)["empty"]
    assert (found.status, found.added, found.removed, found.hunks) == ("D", 0, 0, [])


def test_modes_links_and_changes_of_type(repo: Repo) -> None:
    repo.commit("start", **{"run.sh": "#!/bin/sh\n", "file": "one\ntwo\n"})
    (repo.path / "run.sh").chmod(0o755)
    repo.git("add", "run.sh")
    repo.commit("mode")
    assert parsed(repo)["run.sh"].kind == "mode"
    (repo.path / "run.sh").chmod(0o644)
    repo.commit("mode and text", **{"run.sh": "#!/bin/sh\nexit\n"})
    assert parsed(repo)["run.sh"].kind == "text"
    (repo.path / "link").symlink_to("file")
    repo.git("add", "link")
    repo.commit("link")
    assert (parsed(repo)["link"].kind, parsed(repo)["link"].status) == ("symlink", "A")
    (repo.path / "file").unlink()
    (repo.path / "file").symlink_to("run.sh")
    repo.git("add", "file")
    repo.commit("type")
    assert (parsed(repo)["file"].kind, parsed(repo)["file"].status) == ("symlink", "T")
    (repo.path / "file").unlink()
    repo.commit("back", file="one\n")
    assert (parsed(repo)["file"].kind, parsed(repo)["file"].status) == ("text", "T")


def test_submodules(repo: Repo, tmp_path: Path) -> None:
    inner = Repo.create(tmp_path / "inner")
    inner.commit("one", **{"x": "1\n"})
    repo.git("submodule", "--quiet", "add", inner.path.as_uri(), "sub")
    repo.commit("add the submodule")
    assert parsed(repo)["sub"].kind == "submodule"
    second = inner.commit("two", **{"x": "2\n"})
    repo.git("-C", "sub", "fetch", "-q")
    repo.git("-C", "sub", "checkout", "-q", second)
    repo.git("add", "sub")
    repo.commit("move it")
    found = parsed(repo)["sub"]
    assert (found.kind, found.status, found.added, found.removed) == ("submodule", "M", 1, 1)
    assert compact_change([found]) == " sub +1 -1 (submodule)"


def test_generated_files_are_known_by_their_path(repo: Repo) -> None:
    generated = ("yarn.lock", "web/package-lock.json", "vendor/a/b.go", "static/app.min.js", "x_pb2.py")
    written = ("lock.py", "vendors/a.go", "admin.js", "package.json", "distance.js")
    repo.commit("start", **dict.fromkeys((*generated, *written), "text\n"))
    kinds = {path: f.kind for path, f in parsed(repo).items()}
    assert {path for path, kind in kinds.items() if kind == "generated"} == set(generated)
    assert all(is_generated(p) for p in generated) and not any(map(is_generated, written))
    assert "#yarn.lock" not in compact_change(list(parsed(repo).values()))


def test_headings_and_lines(repo: Repo) -> None:
    body = "".join(f"    x{i} = {i}\n" for i in range(12))
    repo.commit("start", **{"a.py": f"def first():\n{body}def second():\n{body}"})
    repo.commit("change", **{"a.py": f"def first():\n{body}def second():\n{body}    return x1\n"})
    (hunk,) = parsed(repo)["a.py"].hunks
    assert hunk.heading == "def second():"
    assert hunk.lines == ["     x11 = 11", "+    return x1"]


def test_no_patch_and_no_git_at_all() -> None:
    assert parse_patch(b"") == [] and compact_change([]) == ""
    assert parse_patch(b"* Unmerged path x\nnothing of use") == []


def test_a_blob_whose_name_ends_like_a_mode_is_no_link() -> None:
    sha = "f" * 34 + "120000"
    head = f"diff --git a/x b/x\nnew file mode 100644\nindex {'0' * 40}..{sha}\n"
    assert [f.kind for f in parse_patch(f"{head}--- /dev/null\n+++ b/x\n@@ -0,0 +1 @@\n+x\n".encode())] == [
        "text"
    ]


def test_an_enormous_change_is_counted_in_full_and_kept_in_part(repo: Repo) -> None:
    repo.commit("start", **{"big.py": "".join(f"x{i}\n" for i in range(50_000))})
    found = parsed(repo)["big.py"]
    assert found.added == 50_000 and sum(len(h.lines) for h in found.hunks) <= MAX_LINES_KEPT


_LINES = st.lists(
    st.one_of(
        st.sampled_from(["-- x", "++ x", "@@ x", "diff --git a b", "+", "-", "", " ", "\\ No", "\r", "same"]),
        st.text(st.characters(codec="utf-8", exclude_characters="\n\0"), max_size=12),
    ).map(str.encode),
    max_size=12,
)
_CONTENT = st.tuples(_LINES, st.booleans()).map(lambda made: b"\n".join(made[0]) + b"\n" * made[1])


@profile(max_examples=25)
@given(st.lists(st.tuples(_CONTENT, _CONTENT), min_size=1, max_size=12))
def test_counts_are_those_of_git_for_any_content(
    tmp_path_factory: pytest.TempPathFactory, pairs: list[tuple[bytes, bytes]]
) -> None:
    repo = Repo.create(tmp_path_factory.mktemp("any") / "repo")
    stream = _commit(b"", [old for old, _ in pairs]) + _commit(b"from :1\n", [new for _, new in pairs], 2)
    repo.git("fast-import", "--quiet", input=stream)
    if any(old != new for old, new in pairs):
        parsed(repo, "main")
    parsed(repo, "main~1")


def _commit(parent: bytes, contents: Sequence[bytes], mark: int = 1) -> bytes:
    """A commit of these files in the format of `git fast-import`; an empty content is no file."""
    head = b"commit refs/heads/main\nmark :%d\ncommitter A <a@b.c> %d +0000\ndata 1\nx\n" % (mark, EPOCH)
    files = (
        b"M 100644 inline f%d.py\ndata %d\n%s\n" % (i, len(c), c) if c else b"D f%d.py\n" % i
        for i, c in enumerate(contents)
    )
    return head + parent + b"".join(files) + b"\n"
