"""Facts of a change."""

import time

import pytest

from gitpeft.diff.definitions import find_definition
from gitpeft.diff.facts import extract_facts
from gitpeft.diff.patch import FileChange, Hunk
from gitpeft.diff.path_kinds import classify_path


def make_change(path: str, *lines: str, status: str = "M") -> FileChange:
    added, removed = (sum(line[0] == sign for line in lines) for sign in "+-")
    return FileChange(path, status, None, added, removed, "text", [Hunk("", list(lines))])


def test_facts_name_what_is_added_and_removed() -> None:
    facts = extract_facts([make_change("a.py", "-def read_old(): ...", " x", "+def write_new(): ...")])
    assert facts == ["adds function write_new", "removes function read_old"]


def test_a_definition_whose_name_alone_changed_is_renamed() -> None:
    facts = extract_facts([make_change("a.py", "-def read_dates(raw):", "+def parse_dates(raw):")])
    assert "renames function read_dates -> parse_dates" in facts


def test_facts_name_versions_and_values() -> None:
    assert "version flask 1.2.3 -> 1.3.0" in extract_facts(
        [make_change("setup.py", "-flask==1.2.3", "+flask==1.3.0")]
    )
    assert "sets timeout: 10 -> 30" in extract_facts([make_change("a.py", "-timeout = 10", "+timeout = 30")])


def test_facts_name_files() -> None:
    renamed = FileChange("b/new.py", "R", "a/old.py")
    assert extract_facts([renamed]) == ["only renames", "renames file old.py -> new.py"]
    files = [make_change(f"{name}.py", "+x = 1", status="A") for name in "abcdef"]
    assert "adds file a.py, b.py, c.py, d.py and 2 more" in extract_facts(files)


@pytest.mark.parametrize(
    ("path", "lines", "fact"),
    [
        ("docs/a.md", ["+Some words"], "only docs, added lines"),
        ("a.py", ["-# old words", "+# new words"], "only comments"),
        ("a.py", ["-x = ( 1 )", "+x = (1)"], "only formatting"),
        ("a.py", ["-import os", "+import sys"], "only imports"),
        ("tests/test_a.py", ["-x = 1", "+y = other"], "only tests"),
        ("a.py", ["-x = 1", "+y = other"], ""),
    ],
)
def test_facts_name_the_limits_of_a_change(path: str, lines: list[str], fact: str) -> None:
    found = extract_facts([make_change(path, *lines)])
    assert (found or [""])[0] == fact if fact else not any(one.startswith("only") for one in found)


def test_limits_of_all_lines_are_not_told_of_a_part_of_them() -> None:
    change = make_change("a.py", "-# old words", "+# new words")
    assert extract_facts([change], whole=False) == ["replaces old -> new"]


def test_the_change_log_speaks_for_the_change() -> None:
    facts = extract_facts([make_change("CHANGES.rst", "+- Dates before 1970 are read again.")])
    assert "notes: Dates before 1970 are read again." in facts


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("    async def read(self):", ("function", "read")),
        ("func (c *Context) Bind(obj any) error {", ("function", "Bind")),
        ("export const make = async (x) => {", ("function", "make")),
        ("public Map<String, List<Integer>> group(int x) {", ("function", "group")),
        ("static int read_all(FILE *f)", ("function", "read_all")),
        ("pub struct Reader<'a> {", ("struct", "Reader")),
        ("def test_dates():", ("test", "test_dates")),
        ("  it('reads dates', () => {", ("test", "reads dates")),
        ("MAX_SIZE = 3", ("constant", "MAX_SIZE")),
        ("    return make(x)", None),
        ("if (x) {", None),
    ],
)
def test_definitions_of_many_languages(line: str, found: tuple[str, str] | None) -> None:
    assert find_definition(line, prose=False) == found


def test_a_section_is_a_definition_in_prose() -> None:
    assert find_definition("## Reading dates ##", prose=True) == ("section", "Reading dates")
    assert find_definition("## x", prose=False) is None


@pytest.mark.parametrize(
    ("path", "kind"),
    [
        (".github/workflows/a.yml", "CI"),
        ("src/a_test.go", "tests"),
        ("README.md", "docs"),
        ("pyproject.toml", "build"),
        ("src/a.go", ""),
    ],
)
def test_paths_tell_what_a_file_is_for(path: str, kind: str) -> None:
    assert classify_path(path) == kind


@pytest.mark.parametrize("line", ["a<b> " * 120, "f(" + "throws a " * 60, "x " * 300, "1.0" + "a" * 600])
def test_no_line_takes_long(line: str) -> None:
    start = time.process_time()
    extract_facts([make_change("a.java", f"-{line}", f"+{line}x")])
    assert time.process_time() - start < 0.5
