"""`gitpeft.diff.patch` against git itself, and the promises of its three forms: parsed, compact, rendered."""

import os
import re
from collections.abc import Sequence
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import settings as profile
from hypothesis import strategies as st

from gitpeft.diff import patch as diff_patch
from gitpeft.diff.patch import (
    FileChange,
    Hunk,
    TokenBudget,
    clean_subject,
    compact_change,
    divide_fairly,
    parse_patch,
    render_change,
    split_compact,
)
from gitpeft.git.repository import Repository
from gitpeft.redaction import mask_secrets
from tests.support.gitrepo import EPOCH, Repo

NUMSTAT = ("diff-tree", "-r", "--root", "--no-commit-id", "-M50%", "-l400", "--numstat", "-z")
ODD_NAMES = (
    "with space.txt", "tab\there.txt", 'quote".txt', 'ends with quote"', '"both"', "back\\slash", "new\nline",
    "-dash.txt", "a b/x b/x", "caf\udce9.txt", "naïve 测试.txt", "x <y.txt", "x +1 -2.txt", "#hash", "~tilde",
    "bell\x07", "ctrl\x01\x02", "line\u2028separator", "diff --git a b", "trailing space ", "a => b",
)  # fmt: skip
NASTY = "-- x\n++ x\n@@ x\n@@ -1 +1 @@\ndiff --git a/x b/x\n--- a/x\n+++ b/x\nindex 0..1\n\\ No newline\n"


def counted(repo: Repo, rev: str, *options: str) -> dict[str, tuple[int, int]]:
    """What `git diff-tree --numstat` counts, by path as this project prints paths; 0 for binary files."""
    fields = repo.run(*NUMSTAT, *options, rev).stdout.split(b"\0")
    found = {}
    while fields and fields[0]:
        added, removed, path = fields.pop(0).split(b"\t", 2)
        if not path:
            _, path = fields.pop(0), fields.pop(0)
        found[shown(path)] = (0 if added == b"-" else int(added), 0 if removed == b"-" else int(removed))
    return found


def shown(path: bytes) -> str:
    return "".join(c if c.isprintable() else "?" for c in path.decode("utf-8", "replace"))


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
    assert all(diff_patch.is_generated(p) for p in generated) and not any(
        map(diff_patch.is_generated, written)
    )
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
    assert found.added == 50_000 and sum(len(h.lines) for h in found.hunks) <= diff_patch.MAX_LINES_KEPT


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


# --- compact ------------------------------------------------------------------------------------------------

_TEXT = st.text(max_size=40)
_HUNKS = st.lists(
    st.builds(
        Hunk,
        _TEXT,
        st.lists(st.tuples(st.sampled_from("+- "), st.text(max_size=300)).map("".join), max_size=30),
    ),
    max_size=4,
)
_PATHS = st.text(max_size=200).map(lambda path: "d/" + shown(os.fsencode(path.encode(errors="replace"))))
_FILES = st.lists(
    st.builds(
        FileChange,
        path=_PATHS,
        status=st.sampled_from("AMDRCT"),
        old_path=st.none() | _PATHS,
        added=st.integers(0, 10**6),
        removed=st.integers(0, 10**6),
        kind=st.sampled_from(["text", "text", "binary", "generated", "mode"]),
        hunks=_HUNKS,
    ),
    max_size=40,
)


@profile(max_examples=60)
@given(_FILES)
def test_compact_is_bounded_and_printable(files: list[FileChange]) -> None:
    text = compact_change(files)
    assert len(text) <= diff_patch.MAX_COMPACT_LENGTH
    assert all(line.isprintable() for line in text.split("\n"))
    assert text == compact_change(files)


@profile(max_examples=60)
@given(_FILES)
def test_compact_can_be_split_again(files: list[FileChange]) -> None:
    text = compact_change(files)
    listed, blocks = split_compact(text)
    count = sum(1 for line in text.split("\n") if line.startswith("~"))
    assert len(listed) == len(files) if not count else len(listed) < len(files)
    known = {change.path for change in files}
    short = [path for _, path in listed if len(path) < 200 and path]
    assert all(path in known for path in short)
    for path, lines in blocks.items():
        assert any(full.startswith(path) for full in known)
        assert lines and all(line[0] in "@+- " for line in lines)


def test_a_compact_text_in_full() -> None:
    text = "\n".join(f"+line {i}" for i in range(3))
    small = FileChange("a.py", "A", added=3, hunks=[Hunk("", text.split("\n"))])
    large = FileChange(
        "b.py", "R", "old/b.py", 4, 1,
        hunks=[
            Hunk("def  f():", [" \tx = 1", "-\ty =  2", "+   ", "+\tz\x07 = 3"]),
            Hunk("def f():", [" x = 4", "+y"]),
        ],
    )  # fmt: skip
    image = FileChange("c.png", "D", kind="binary")
    assert compact_change([image, small, large]).split("\n") == [
        "Rb.py +4 -1 <old/b.py", "Aa.py +3 -0", "Dc.png +0 -0 (binary)",
        "#b.py", "@def f():", " x = 1", "-y = 2", "+z = 3", " x = 4", "+y",
        "#a.py", "@", "+line 0", "+line 1", "+line 2",
    ]  # fmt: skip


@pytest.mark.parametrize("at", range(90, 170, 5))
@pytest.mark.parametrize(
    "secret", ["password='Tr0ub4dor&3xkcdZq9correct-horse'", "ghp_" + "aB3dE5gH7jK9" * 3]
)
def test_a_secret_at_the_cut_does_not_come_through_in_half(secret: str, at: int) -> None:
    """Half of one is not known as one: lines are masked before they are cut."""
    hunk = Hunk(heading="f", lines=["+" + "word " * (at // 5) + secret + " end"])
    change = FileChange("a.py", status="M", added=1, hunks=[hunk])
    shown = mask_secrets(compact_change([change]))
    assert secret[:15] not in shown and secret[10:25] not in shown
    folded = diff_patch.normalize_line(" " * 500 + "word " * 9 + secret)  # cut before it is folded
    assert secret[:15] not in mask_secrets(folded) and folded.startswith("word ")


def test_files_beyond_the_list_are_counted() -> None:
    files = [FileChange(f"f{i}.py", "M", added=i) for i in range(diff_patch.MAX_FILES_LISTED + 7)]
    text = compact_change(files)
    assert text.split("\n")[-1] == "~7"
    assert len(split_compact(text)[0]) == diff_patch.MAX_FILES_LISTED
    assert compact_change(files[: diff_patch.MAX_FILES_LISTED]).count("~") == 0


def test_long_paths_leave_room_for_what_changed() -> None:
    """Two dozen paths of 120 characters would fill the text by themselves."""
    files = [
        FileChange(f"{'deep/' * 24}f{i}.py", "M", added=9, hunks=[Hunk("def f():", ["+x = 1"])])
        for i in range(24)
    ]
    text = compact_change(files)
    assert len(text) <= diff_patch.MAX_COMPACT_LENGTH
    listed, _ = split_compact(text)
    assert f"~{24 - len(listed)}" in text.split("\n")


@pytest.mark.parametrize("name", ["x <y.txt", "x +1 -2.txt", "a (binary)", "#x", "~x", " x", "x <y +1 -0"])
def test_a_path_is_read_back_whatever_it_looks_like(name: str) -> None:
    change = FileChange(name, "M", added=1, hunks=[Hunk("", ["+x = 1"])])
    listed, blocks = split_compact(compact_change([change]))
    assert [path for _, path in listed] == [name] == list(blocks)
    renamed = FileChange("new.txt", "R", name, 1, 0, hunks=[Hunk("", ["+x = 1"])])
    assert [path for _, path in split_compact(compact_change([renamed]))[0]] == ["new.txt"]


# --- shares -------------------------------------------------------------------------------------------------


@example([0, 0, 1], 1)
@example([0, 3, 0, 300], 3)
@given(st.lists(st.integers(0, 400), max_size=12), st.integers(-5, 2000))
def test_shares_are_fair(wanted: list[int], room: int) -> None:
    given_ = divide_fairly(wanted, room)
    assert len(given_) == len(wanted)
    assert all(0 <= g <= w for g, w in zip(given_, wanted, strict=True))
    assert sum(given_) <= max(room, 0)
    short = [g for g, w in zip(given_, wanted, strict=True) if g < w]
    full = [g for g, w in zip(given_, wanted, strict=True) if g == w]
    if not short:
        return
    assert len(set(short)) == 1, "those who get less than they want get alike"
    assert max(full, default=0) <= short[0], "nobody gets more than one who wants more"
    assert max(room, 0) - sum(given_) < len(short), "nothing is left that could have been divided"


# --- render -------------------------------------------------------------------------------------------------


class Characters:
    """A codec whose tokens are characters; marks are negative, so that they are told apart."""

    def __init__(self) -> None:
        self.marks = {mark: [-1 - number] for number, mark in enumerate(diff_patch.SECTION_MARKS)}

    def encode_many(self, texts: Sequence[str]) -> list[list[int]]:
        return [[ord(c) for c in text] for text in texts]

    def read(self, ids: Sequence[int]) -> list[tuple[str, str]]:
        """(mark, text) of each section."""
        names = {ids_[0]: mark for mark, ids_ in self.marks.items()}
        found: list[tuple[str, str]] = []
        for i in ids:
            if i < 0:
                found.append((names[i], ""))
            else:
                found[-1] = (found[-1][0], found[-1][1] + chr(i))
        return found


CODEC = Characters()
_BUDGETS = st.builds(
    TokenBudget,
    total=st.integers(0, 700),
    exemplars=st.integers(0, 4),
    exemplar_tokens=st.integers(0, 40),
    previous_tokens=st.integers(0, 40),
    file_tokens=st.integers(0, 400),
)
_SUBJECTS = st.lists(st.text(st.characters(codec="ascii"), max_size=60), max_size=5)


@profile(max_examples=60)
@given(_FILES, _SUBJECTS, _TEXT, _BUDGETS)
def test_rendering_never_exceeds_its_budget(
    files: list[FileChange], like: list[str], previous: str, budget: TokenBudget
) -> None:
    change = compact_change(files)
    ids = render_change(change, like, previous, budget, CODEC)
    assert len(ids) <= budget.total
    assert ids == render_change(change, like, previous, budget, CODEC)


def many(count: int, lines: int = 20) -> str:
    hunk = Hunk("def f():", [f"+value{i} = {i}" for i in range(lines)])
    return compact_change([FileChange(f"f{i}.py", "M", added=lines, hunks=[hunk]) for i in range(count)])


def test_sections_in_their_order() -> None:
    change = compact_change(
        [
            FileChange("a.py", "A", added=2, hunks=[Hunk("def f():", [" x", "+y = 1", "-z = 2", "+)"])]),
            FileChange("b.py", "R", "c.py"),
        ]
    )
    sections = CODEC.read(
        render_change(change, ["one", "two"], "before (#12)", TokenBudget(total=300), CODEC)
    )
    assert sections == [
        ("like", "one"), ("like", "two"), ("previous", "before"),
        ("file", "a.py +2 -0 new"),
        ("hunk", "def f():"), ("keep", "x"), ("add", "y = 1"), ("delete", "z = 2"),
        ("file", "b.py +0 -0 renamed"),
    ]  # fmt: skip


def test_every_listed_file_has_its_line_while_the_tokens_last() -> None:
    change = many(24)
    name = 1 + len("f10.py +20 -0")
    for count in (1, 5, 24):
        budget = TokenBudget(total=2000, file_tokens=count * name, exemplars=0)
        sections = CODEC.read(render_change(change, (), "", budget, CODEC))
        assert count <= sum(mark == "file" for mark, _ in sections) <= count + 1
    tight = TokenBudget(total=2000, file_tokens=0, exemplars=0)
    assert [mark for mark, _ in CODEC.read(render_change(change, (), "", tight, CODEC))].count("file") == 1


def test_every_shown_file_has_its_share_of_the_diff() -> None:
    budget = TokenBudget(total=500, file_tokens=200, exemplars=0)
    sections = CODEC.read(render_change(many(8), (), "", budget, CODEC))
    spent: list[int] = []
    for mark, text in sections:
        if mark == "file":
            spent.append(0)
        else:
            spent[-1] += 1 + len(text)
    assert len(spent) == 8 and max(spent) - min(spent) <= 1 and sum(spent) > 280


def test_a_small_file_leaves_its_share_to_the_large_one() -> None:
    small = FileChange("s.py", "M", added=1, hunks=[Hunk("", ["+one = 1"])])
    large = FileChange("l.py", "M", added=40, hunks=[Hunk("", [f"+value{i} = {i}" for i in range(40)])])
    budget = TokenBudget(total=300, exemplars=0)
    ids = render_change(compact_change([small, large]), (), "", budget, CODEC)
    assert len(ids) == 300
    assert ("add", "one = 1") in CODEC.read(ids)


def test_few_tokens_go_to_few_files() -> None:
    """Less than sixteen tokens of a file say nothing."""
    budget = TokenBudget(total=150, file_tokens=100, exemplars=0)
    sections = CODEC.read(render_change(many(8), (), "", budget, CODEC))
    followed = [a for (a, _), (b, _) in pairwise(sections) if b in ("hunk", "add")]
    assert 1 <= followed.count("file") <= 4


def test_what_is_missing_is_left_out() -> None:
    change = compact_change([FileChange("a.py", "M", kind="binary")])
    assert CODEC.read(render_change(change, (), "", TokenBudget(), CODEC)) == [
        ("file", "a.py +0 -0 (binary)")
    ]
    assert render_change("", (), "", TokenBudget(), CODEC) == []
    assert CODEC.read(render_change("", ["x"], " (#3) ", TokenBudget(), CODEC)) == [("like", "x")]
    assert (
        CODEC.read(render_change("", ["x"] * 9, "", TokenBudget(exemplars=2), CODEC)) == [("like", "x")] * 2
    )


def test_a_long_path_keeps_its_end() -> None:
    change = compact_change([FileChange("very/" * 20 + "deep/file.py", "D", removed=3)])
    ((_, text),) = CODEC.read(render_change(change, (), "", TokenBudget(), CODEC))
    assert "very/very/deep/file.py +0 -3 deleted".endswith(text) and len(text) >= 20


@pytest.mark.parametrize(
    ("subject", "clean"),
    [
        ("fix: it (#12)", "fix: it"),
        ("fix: it (GH-12)", "fix: it"),
        ("fix (#1) and more", "fix (#1) and more"),
        ("  two   spaces\t(#9) ", "two spaces"),
        ("backport: fix (#12) (#345)", "backport: fix"),
        ("(#12)", ""),
        ("", ""),
        ("call f(#12x)", "call f(#12x)"),
    ],
)
def test_a_clean_subject_has_no_number_of_a_forge(subject: str, clean: str) -> None:
    assert clean_subject(subject) == clean


@given(st.lists(st.sampled_from(["fix", " ", "(#1)", "(gh-2)", "(", ")", "x"]), max_size=8).map("".join))
def test_cleaning_twice_is_cleaning_once(subject: str) -> None:
    once = clean_subject(subject)
    assert clean_subject(once) == once and not re.search(r"\(#\d+\)$", once)
