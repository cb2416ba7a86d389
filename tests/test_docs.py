"""What the documents say about files, commands, options and settings is true, and they read like English."""

import ast
import re
from collections.abc import Iterator
from functools import lru_cache
from itertools import chain
from pathlib import Path

import pytest
import typer.main
from typer.core import TyperCommand, TyperGroup

from gitpeft import config
from gitpeft.cli import app
from tests.bench.write_table import find_tables, replace_table

CHECKOUT = Path(__file__).resolve().parents[1]
FRONT = ("README.md", "CHANGELOG.md", ".pre-commit-hooks.yaml", "hooks/README.md", "models/README.md")
PAGES = sorted(
    path.relative_to(CHECKOUT).as_posix()
    for path in chain(
        (CHECKOUT / name for name in FRONT),
        (CHECKOUT / "docs").glob("*.md"),
        (CHECKOUT / "models").glob("*/*.md"),
        (CHECKOUT / "tests" / "bench").glob("*.md"),
    )
)
HISTORY = ("CHANGELOG.md",)
"""Pages that may name what no longer exists."""

QUAINT = (
    r"kept up|lived again|untuned serves|half way|\bchoosers?\b|\bduels?\b|\bmend(?:s|ed)?\b|\bhides\b"
    r"|Offered first|for want of|cannot be told from|in hindsight|came true|told differently"
    r"|\bteach(?:es)?\b|\btaught\b|is (?:no|not a) setting|\bbefalls?\b|keeps? suggestions away"
    r"|and leave\b|mini as it is|last wishes|speaks for"
)
"""Words that this project once used and nobody else understood."""

MACHINE_PATH = re.compile(r"(?<![\w.])/(?:home|root|Users|work)/\w")
LINK = re.compile(r"\]\(([^)\s]+)\)")
HEADING = re.compile(r"^#+ (.+)$", re.MULTILINE)
MENTIONED = re.compile(r"\bgitpeft ([a-z][^`\n|;&#>]*)")
SETTING = re.compile(r"\bgitpeft\.([a-z][A-Za-z]+)\b(?!\.|`? is still| can still)")


def read(page: str) -> str:
    return (CHECKOUT / page).read_text(encoding="utf-8")


def prose(page: str) -> str:
    """A page without its code and without what it quotes."""
    text = re.sub(r"^( *)```.*?^\1```$", "", read(page), flags=re.MULTILINE | re.DOTALL)
    return re.sub(r"`[^`\n]+`", "", text)


def code(page: str) -> str:
    """What stands in code on a page, a snippet a line."""
    text = read(page)
    blocks = re.findall(r"^ *```\w*\n(.*?)^ *```$", text, flags=re.MULTILINE | re.DOTALL)
    rest = re.sub(r"^ *```.*?^ *```$", "", text, flags=re.MULTILINE | re.DOTALL)
    return "\n".join([*blocks, *re.findall(r"`([^`\n]+)`", rest)])


def anchors(page: str) -> set[str]:
    """The anchors that GitHub gives the headings of a page."""
    headings = HEADING.findall(re.sub(r"^```.*?^```$", "", read(page), flags=re.MULTILINE | re.DOTALL))
    plain = (re.sub(r"\[([^]]+)\]\([^)]*\)|[`*]", r"\1", heading) for heading in headings)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in plain}


@lru_cache
def commands() -> dict[str, TyperCommand]:
    """Every command that does something, by its words: `init`, `base build`."""

    def below(prefix: str, group: TyperGroup) -> Iterator[tuple[str, TyperCommand]]:
        for name, command in group.commands.items():
            if isinstance(command, TyperGroup):
                yield from below(f"{prefix}{name} ", command)
            elif isinstance(command, TyperCommand):
                yield f"{prefix}{name}", command

    whole = typer.main.get_command(app.app)
    assert isinstance(whole, TyperGroup)
    return dict(below("", whole))


def options(command: TyperCommand) -> set[str]:
    return {"--help", "-h"} | {
        name for parameter in command.params for name in (*parameter.opts, *parameter.secondary_opts)
    }


def mentions(page: str) -> Iterator[tuple[str, list[str]]]:
    """Each `gitpeft …` in the code of a page: the command's words, and the options that follow it."""
    for text in MENTIONED.findall(code(page)):
        words = text.split()
        two = " ".join(words[:2])
        yield (
            two if two in commands() else words[0],
            [word.partition("=")[0] for word in words if re.fullmatch(r"--?[a-z][\w-]*(=.*)?", word)],
        )


def test_the_readme_is_short() -> None:
    text = read("README.md")
    assert len(text.splitlines()) <= 150
    assert len(text.split()) <= 1300


@pytest.mark.parametrize(
    "line", ["pip install -e '.[train]' && gitpeft init", "pip install -e '.[dev]' && pytest"]
)
def test_the_readme_gives_the_two_commands_alone_on_a_line(line: str) -> None:
    assert line in read("README.md").splitlines()


def test_ci_runs_the_command_of_the_readme() -> None:
    [line] = re.findall(r'^readme_line="(.+)"$', read(".ci/run"), flags=re.MULTILINE)
    assert line in read("README.md").splitlines()


@pytest.mark.parametrize("page", PAGES)
def test_links_lead_somewhere(page: str) -> None:
    home = (CHECKOUT / page).parent
    for link in LINK.findall(prose(page)):
        if link.startswith("https://"):
            continue
        file, _, anchor = link.partition("#")
        target = (home / file).resolve() if file else CHECKOUT / page
        assert target.exists(), f"{page}: {link}"
        if anchor:
            assert anchor in anchors(target.relative_to(CHECKOUT).as_posix()), f"{page}: {link}"


@pytest.mark.parametrize("page", PAGES)
def test_files_of_the_package_exist(page: str) -> None:
    if page in HISTORY:
        return
    for name in re.findall(r"`((?:gitpeft|tests|models|hooks|docs)/[\w./-]+)`", read(page)):
        assert (CHECKOUT / name).exists(), f"{page}: {name}"


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY])
def test_commands_and_options_exist(page: str) -> None:
    for command, given in mentions(page):
        assert command in commands(), f"{page}: gitpeft {command}"
        unknown = set(given) - options(commands()[command])
        assert not unknown, f"{page}: gitpeft {command} {unknown}"


def test_every_command_is_in_the_readme() -> None:
    named = {command for command, _ in mentions("README.md")}
    assert {name for name, command in commands().items() if not command.hidden} <= named


@pytest.mark.parametrize("page", [page for page in PAGES if page not in HISTORY])
def test_settings_exist(page: str) -> None:
    modules = {path.stem for path in (CHECKOUT / "gitpeft").iterdir()} | {"com"}
    for name in SETTING.findall(read(page)):
        assert name in modules or name.lower() in config.SETTING_SPECS, f"{page}: gitpeft.{name}"


@pytest.mark.parametrize(("start", "table"), [("gitpeft:", "LAYERS"), ("learn:", "LEARN_LAYERS")])
def test_the_layers_are_those_that_the_tests_enforce(start: str, table: str) -> None:
    tree = ast.parse(read("tests/test_imports.py"))
    [layers] = [
        ast.literal_eval(node.value)
        for node in tree.body
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == table
    ]
    [drawn] = re.findall(rf"^{start}((?:.*\n)(?: +→.*\n)*)", read("docs/architecture.md"), re.MULTILINE)
    shown = [{name.strip() for name in layer.split(",")} for layer in drawn.split("→")]
    assert shown == [set(layer) - {""} for layer in layers]


def test_code_names_in_the_architecture_exist() -> None:
    """`name` in `file.py` of the list "Where to find it": the file defines it."""
    for line in read("docs/architecture.md").splitlines():
        for name, file in re.findall(r"`([\w.]+)` in `(gitpeft/[\w/]+\.py)`", line):
            source = read(file)
            for part in name.split("."):
                assert re.search(rf"\b(?:def|class) {part}\b", source), f"{name} in {file}"


@pytest.mark.parametrize("page", PAGES)
def test_no_path_of_a_machine(page: str) -> None:
    assert MACHINE_PATH.search(read(page)) is None


@pytest.mark.parametrize("page", PAGES)
def test_words_are_those_of_the_field(page: str) -> None:
    assert re.findall(QUAINT, prose(page), re.IGNORECASE) == []


def test_pictures_load_nothing_and_show_no_path_of_a_machine() -> None:
    for picture in (CHECKOUT / "docs" / "images").glob("*.svg"):
        text = picture.read_text(encoding="utf-8").replace("http://www.w3.org/", "")
        assert "://" not in text, picture.name
        assert MACHINE_PATH.search(text) is None, picture.name


def test_a_printed_table_goes_between_its_markers() -> None:
    page = "a\n<!-- x:begin -->\n| old |\n|---|\n\nnote\n<!-- x:end -->\nb\n"
    [table] = find_tables("loading\n| new |\n|---|\n| 1 |\ndone\n")
    assert replace_table(page, "x", table) == page.replace("| old |\n|---|\n", "| new |\n|---|\n| 1 |\n")
    with pytest.raises(KeyError):
        replace_table(page, "y", table)


def test_markers_come_in_pairs() -> None:
    for page in PAGES:
        begun = re.findall(r"<!-- ([\w-]+):begin -->", read(page))
        assert begun == re.findall(r"<!-- ([\w-]+):end -->", read(page)), page
        assert len(begun) == len(set(begun)), page
