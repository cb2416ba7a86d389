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


def test_a_file_that_keeps_its_name_is_moved() -> None:
    assert extract_facts([FileChange("b/a.py", "R", "a.py")]) == ["only renames", "moves file a.py to b/"]


def test_a_line_in_many_files_is_named() -> None:
    files = [make_change(f"{name}.rb", "+# frozen_string_literal: true") for name in "abc"]
    assert extract_facts(files)[-1] == "adds `# frozen_string_literal: true` to 3 files"
    assert not any("files" in fact for fact in extract_facts(files[:2]))
    assert "to at least 3 files" in extract_facts(files, whole=False)[-1]


def test_facts_name_files() -> None:
    renamed = FileChange("b/new.py", "R", "a/old.py")
    assert extract_facts([renamed]) == ["only renames", "renames file old.py -> new.py"]
    files = [make_change(f"{name}.py", f"+{name} = 1", status="A") for name in "abcdef"]
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
    ("path", "line"),
    [
        (".github/workflows/release.yml", "+      uses: actions/checkout@v3 with a token"),
        ("CHANGELOG.md", "+[Unreleased]: https://example.org/compare/v1...HEAD of it"),
        ("CHANGES.rst", "+## What is new in this version"),
    ],
)
def test_what_is_no_entry_of_a_change_log_does_not(path: str, line: str) -> None:
    assert not any(fact.startswith("notes") for fact in extract_facts([make_change(path, line)]))


def test_an_entry_is_told_without_its_tags() -> None:
    line = '+<action dev="x" type="add" due-to="y">Add a channel that cannot be closed.</action>'
    facts = extract_facts([make_change("src/changes/changes.xml", line)])
    assert "notes: Add a channel that cannot be closed." in facts


@pytest.mark.parametrize(
    ("path", "line", "name"),
    [
        ("go.mod", "\tgithub.com/a/b v1.2.3", "github.com/a/b"),
        ("web/package.json", '    "@a/b": "^1.2.3",', "@a/b"),
        ("Cargo.toml", 'serde = { version = "1", features = ["derive"] }', "serde"),
        ("Cargo.toml", 'serde_json = "1.0"', "serde_json"),
        ("Gemfile", "gem 'rack', '~> 3'", "rack"),
        ("pyproject.toml", '    "click[x]>=8.1",', "click"),
        ("requirements/dev.txt", "pytest", "pytest"),
    ],
)
def test_dependencies_are_named(path: str, line: str, name: str) -> None:
    assert f"adds dependency {name}" in extract_facts([make_change(path, f"+{line}")])
    assert f"removes dependency {name}" in extract_facts([make_change(path, f"-{line}")])
    other = line.replace(name, "other/it" if "/" in name else "other")
    if "go.mod" not in path:
        facts = extract_facts([make_change(path, f"-{line}", f"+{other}")])
        assert not any(fact.startswith("renames") for fact in facts)


def test_a_new_version_of_a_dependency_is_no_new_dependency() -> None:
    facts = extract_facts([make_change("go.mod", "-\tgithub.com/a/b v1.2.3", "+\tgithub.com/a/b v1.3.0")])
    assert facts == ["only build", "version b v1.2.3 -> v1.3.0"]
    assert extract_facts([make_change("package.json", '+  "version": "1.2.3",')]) == [
        "only build, added lines"
    ]


def test_titles_that_are_underlined_are_sections() -> None:
    facts = extract_facts([make_change("docs/a.rst", "+Reading dates", "+-------------", "+", "+Words.")])
    assert "adds section Reading dates" in facts


def test_a_renaming_is_told_once() -> None:
    facts = extract_facts([make_change("a.py", "-def read(raw):", "+def parse(raw):")])
    assert facts == ["renames function read -> parse"]


def test_an_empty_value_that_is_filled() -> None:
    facts = extract_facts(
        [make_change("a.py", '-    "SCRIPT_NAME": "",', '+    "SCRIPT_NAME": scope["root"],')]
    )
    assert facts == ['sets SCRIPT_NAME: "" -> scope["root"]']


def test_a_list_in_prose_is_no_comment() -> None:
    assert extract_facts([make_change("AUTHORS", "+* [Ada](https://example.org)")]) == [
        "only docs, added lines"
    ]


@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("    async def read(self):", ("function", "read")),
        ("func (c *Context) Bind(obj any) error {", ("function", "Bind")),
        ("export const make = async (x) => {", ("function", "make")),
        ("public Map<String, List<Integer>> group(int x) {", ("function", "group")),
        ("static int read_all(FILE *f)", ("function", "read_all")),
        ("mod r#async {", ("module", "async")),
        ("pub struct Reader<'a> {", ("struct", "Reader")),
        ("def test_dates():", ("test", "test_dates")),
        ("  it('reads dates', () => {", ("test", "reads dates")),
        ("MAX_SIZE = 3", ("constant", "MAX_SIZE")),
        ("    return make(x)", None),
        ("    defer func() {", None),
        ("        fn $f(self) {", None),
        ("namespace Serilog", None),
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
