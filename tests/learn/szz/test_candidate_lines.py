"""`gitpeft.learn.szz.candidate_lines`: which of the lines that a fix takes out may have been wrong."""

from collections import Counter

import pytest

from gitpeft.git.log import SkippedCommit
from gitpeft.git.objects import read_blobs
from gitpeft.git.repository import Repository
from gitpeft.git.streams import stream_diff_tree
from gitpeft.learn.szz import candidate_lines, edits, moved_lines
from gitpeft.learn.szz.edits import CommitEdit, align_lines, map_reformatted_lines, split_sides
from tests.support.gitrepo import Repo


def read_edit(repo: Repo) -> CommitEdit:
    """What the newest commit does."""
    (edit,) = stream_diff_tree(
        Repository.open(repo.path), [repo.git("rev-parse", "HEAD")], edits.ORDINARY_OPTIONS, edits.PatchParser
    )
    assert not isinstance(edit, SkippedCommit)
    return edit


def judged(repo: Repo) -> CommitEdit:
    """The newest commit, judged."""
    repository, edit = Repository.open(repo.path), read_edit(repo)
    wanted = [file.blob for file in edit.files if set(file.blob) != {"0"}]
    content = dict(zip(wanted, read_blobs(repository, wanted), strict=True))
    edit.moves = moved_lines.find_moved_blocks(edit)
    candidate_lines.find_suspect_lines(
        edit, {blob: found for blob, found in content.items() if found is not None}
    )
    return edit


def change(repo: Repo, path: str, old: str, new: str) -> tuple[list[int], dict[str, int]]:
    """The suspects and counts of a commit that makes `new` of `old`."""
    repo.commit("old", **{path: old})
    repo.commit("new", **{path: new})
    edit = judged(repo)
    return edit.suspects.get(path, []), edit.passed


PYTHON = '''\
"""Module.

More of it.
"""
# a comment
x = 1  # why
def f(a):
    """Say what.

    At length.
    """
    text = """
    select 1
    """

    return a + x
'''


@pytest.mark.parametrize(
    ("path", "old", "before", "after", "lines", "counts"),
    [
        ("a.py", PYTHON, "x = 1", "x = 2", [6], {}),
        ("a.py", PYTHON, "# a comment", "# another", [], {"line: comment": 1}),
        ("a.py", PYTHON, "# why", "# therefore", [], {"line: formatting": 1}),
        ("a.py", PYTHON, "More of it.", "Less of it.", [], {"line: comment": 1}),
        ("a.py", PYTHON, "At length.", "In short.", [], {"line: comment": 1}),
        ("a.py", PYTHON, '"""Say what.', '"""Say why.', [], {"line: comment": 1}),
        ("a.py", PYTHON, "select 1", "select 2", [13], {}),
        ("a.py", PYTHON, '    """\n\n    return', '    """\n    return', [], {"line: blank": 1}),
        ("a.py", PYTHON, "return a + x", "return (\n        a\n        + x\n    )", [16], {}),
        ("a.py", "f(a, b)\ng(1)\n", "f(a, b)", "f(\n    a,\n    b,\n)", [], {"line: formatting": 1}),
        ("a.py", "f('a')\n", "f('a')", 'f("a")', [], {"line: formatting": 1}),
        ("a.py", "f(a)\ng(1)\n", "f(a)\ng(1)", "f(\n    a\n)\ng(2)", [2], {"line: formatting": 1}),
        ("a.c", "/* one\n   two */\nint x = 1; /* three */\n", "two", "2", [], {"line: comment": 1}),
        ("a.c", "/* one\n   two */\nint x = 1; /* three */\n", "three", "3", [], {"line: formatting": 1}),
        ("a.c", 'char *s = "/*";\nint y = 1;\n', "y = 1", "y = 2", [2], {}),
        ("a.c", "int f()\n{\n  return 1;\n}\n", "}\n", "\n", [], {"line: punctuation": 1}),
        ("a.c", "#define A 1\nint y;\n", "A 1", "A 2", [1], {}),
        ("a.go", "package a\n// one\nvar x = `\n// two\n`\n", "// two", "// 2", [4], {}),
        ("a.go", "package a\n// one\nvar x = 1\n", "// one", "// 1", [], {"line: comment": 1}),
        ("a.js", "/** one\n * two\n */\nlet a = 1;\n", " * two", " * 2", [], {"line: comment": 1}),
        ("a.js", "/** one\n * two\n */\nlet a = 1;\n", "let a = 1;", "let a = 2;", [4], {}),
        ("a.rb", "# one\nx = 1\n", "x = 1", "x = 2", [2], {}),
        ("a.sh", "# one\nx=1\n", "# one", "# 1", [], {"line: comment": 1}),
        ("a.rs", "/// one\nfn f<'a>() -> u8 { 1 }\n", "{ 1 }", "{ 2 }", [2], {}),
        ("a.py", "x = 1\n", "x = 1", "x = 2" + " " * 0 + "+2" * 2000, [], {"line: too long": 1}),
    ],
)  # fmt: skip
def test_lines(
    repo: Repo, path: str, old: str, before: str, after: str, lines: list[int], counts: dict[str, int]
) -> None:
    assert before in old
    assert change(repo, path, old, old.replace(before, after, 1)) == (lines, counts)


@pytest.mark.parametrize(
    ("path", "reason"),
    [
        ("tests/a.py", "tests"),
        ("src/pkg/a_test.go", "tests"),
        ("src/a.spec.ts", "tests"),
        ("pkg/conftest.py", "tests"),
        ("t/t0001-init.sh", "tests"),
        ("docs/conf.py", "documentation"),
        ("setup.py", "no code"),
        ("go.mod", "no code"),
        ("examples/a.py", "documentation"),
        (".github/a.py", "documentation"),
        ("README.md", "no code"),
        ("CHANGES", "no code"),
        ("a.json", "no code"),
        ("a.yml", "no code"),
        ("vendor/a.go", "generated"),
        ("a_pb2.py", "generated"),
        ("contest.py", ""),
        ("latest/a.py", ""),
        ("Makefile", ""),
        ("src/attest.rs", ""),
        ("a.h", ""),
    ],
)
def test_files(path: str, reason: str) -> None:
    assert candidate_lines.classify_non_code(path) == reason


def test_a_moved_block_is_no_suspect(repo: Repo) -> None:
    block = ["def moved(first, second):", "    return first * second + 12345"]
    repo.commit("old", **{"a.py": "\n".join([*block, "x = 1", ""]), "b.py": "y = 1\n"})
    repo.commit("new", **{"a.py": "x = 2\n", "b.py": "\n".join(["y = 1", *block, ""])})
    edit = judged(repo)
    assert edit.suspects == {"a.py": [3]}
    assert edit.passed == {"file: only adds lines": 1, "line: moved": 2}


def test_a_short_line_elsewhere_is_no_move(repo: Repo) -> None:
    repo.commit("old", **{"a.py": "return x\ny = 1\n", "b.py": "z = 1\n"})
    repo.commit("new", **{"a.py": "y = 1\n", "b.py": "z = 1\nreturn x\n"})
    assert judged(repo).suspects == {"a.py": [1]}


def test_a_large_fix_is_no_evidence(repo: Repo) -> None:
    paths = [f"f{i}.py" for i in range(candidate_lines.LARGE_FIX_FILES + 1)]
    repo.commit("old", **dict.fromkeys(paths, "x = 1\n"))
    repo.commit("new", **dict.fromkeys(paths, "x = 2\n"))
    edit = judged(repo)
    assert (edit.suspects, edit.passed) == ({}, {"commit: large fix": 1})


def test_files_that_no_line_can_be_traced_in_are_counted(repo: Repo) -> None:
    repo.stage(**{"bin.py": b"\0\1"})
    repo.commit("old", **{"gone.py": "x = 1\n", "doc.md": "a\n", "more.py": "a = 1\n"})
    files: dict[str, str | bytes | None] = {
        "gone.py": None,
        "bin.py": b"\0\2",
        "doc.md": "b\n",
        "more.py": "a = 1\nb = 2\n",
        "new.py": "1\n",
    }
    repo.commit("new", **files)
    reasons = ["deleted", "binary, link or submodule", "no code", "only adds lines", "added"]
    assert judged(repo).passed == dict.fromkeys([f"file: {reason}" for reason in reasons], 1)


def test_content_that_is_not_here_is_counted(repo: Repo) -> None:
    repo.commit("old", **{"a.py": "x = 1\n"})
    repo.commit("new", **{"a.py": "x = 2\n"})
    edit = read_edit(repo)
    candidate_lines.find_suspect_lines(edit, {})
    assert (edit.suspects, edit.passed) == ({}, {"file: content not here": 1})


FUNCTION = "def f(a):\n    return a\n"
CHECKED = FUNCTION.replace("\n", "\n    a = max(a, 0)\n", 1)


def test_an_addition_has_neighbours(repo: Repo) -> None:
    repo.commit("old", **{"a.py": FUNCTION})
    repo.commit("new", **{"a.py": CHECKED})
    edit = judged(repo)
    candidate_lines.find_neighbour_lines(edit)
    assert edit.neighbours == {"a.py": [1, 2]}


def test_a_fix_that_is_too_large_has_no_neighbours(repo: Repo) -> None:
    many = "".join(f"x{i} = {i}\n" for i in range(candidate_lines.LARGE_FIX_LINES + 1))
    repo.commit("old", **{"a.py": FUNCTION, "b.py": many + "last = 1\n"})
    repo.commit("new", **{"a.py": CHECKED, "b.py": "last = 1\n"})
    edit = judged(repo)
    candidate_lines.find_neighbour_lines(edit)
    assert (edit.neighbours, edit.passed["commit: large fix"]) == ({}, 1)


def test_a_fix_whose_content_is_not_here_has_no_neighbours(repo: Repo) -> None:
    repo.commit("old", **{"a.py": FUNCTION, "b.py": "x = 1\n"})
    repo.commit("new", **{"a.py": CHECKED, "b.py": "x = 2\n"})
    edit = read_edit(repo)
    candidate_lines.find_suspect_lines(edit, {})
    candidate_lines.find_neighbour_lines(edit)
    assert edit.neighbours == {}


def test_a_hunk_that_reflows_says_where_its_lines_come_from() -> None:
    removed, added = [b"f(a, b)", b"g('c')"], [b"f(", b"    a,", b"    b,", b")", b'g("c")']
    assert map_reformatted_lines(removed, added) == [0, 0, 0, 0, 1]
    assert align_lines([b"one two", b"three four"], [b"new", b"one two!", b"three  FOUR"]) == [-1, 0, 1]
    assert split_sides(b"-1 +1 @@\n-old\n\\ No newline at end of file\n+new") == ([b"old"], [b"new"])


def test_a_fragment_is_judged_like_the_whole_file() -> None:
    """The quick scan and the lexer on single lines against Pygments on the whole of this very file."""
    from pathlib import Path

    source = Path(candidate_lines.__file__).read_text(encoding="utf-8")
    known = candidate_lines.detect_language("a.py")
    assert known is not None
    lines = source.split("\n")[:-1]
    whole = [bool(tokens) for tokens in candidate_lines._lex_lines(known.lexer, lines)]
    spans = candidate_lines._find_multiline_spans(source, known)
    alone = [
        not candidate_lines._classify_removed_lines(known, spans, i, [line.encode()], [])[0].startswith(
            ("comment", "blank")
        )
        for i, line in enumerate(lines, 1)
    ]
    different = Counter(a == b for a, b in zip(alone, whole, strict=True))[False]
    assert different <= len(lines) // 100, [
        i for i, (a, b) in enumerate(zip(alone, whole, strict=True), 1) if a != b
    ]
