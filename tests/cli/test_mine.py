"""`gitpeft mine` over many repositories, shared by independent processes."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.learn.models import bases
from gitpeft.learn.pretraining import adapter_build, commit_pairs
from tests.support import tinymodel
from tests.support.adapter_recipe import RECIPE
from tests.support.commands import Call
from tests.support.gitrepo import Repo

NAMES = ("a/first", "b/held", "c/third", "d/fourth", "e/fifth")


@pytest.fixture(scope="module")
def many(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Clones in `corpus`, and a recipe with their list."""
    top = tmp_path_factory.mktemp("many")
    rows = ["repo\tcommit"]
    for name in NAMES:
        repo = Repo.create(top / "corpus" / name.replace("/", "+"))
        for number in range(12):
            repo.commit(f"Add parser_{number}", **{f"src/{number}.py": f"def parser_{number}(): pass\n"})
        rows.append(f"{name}\t{repo.git('rev-parse', 'HEAD')}")
    (top / "repositories.tsv").write_text("\n".join(rows) + "\n")
    (top / "recipe.toml").write_text(RECIPE)
    return top


def run_together(commands: list[list[str | Path]], cwd: Path) -> list[str]:
    """Run commands at the same time, each in a process of its own; what they print."""
    started = [
        subprocess.Popen([sys.executable, "-m", "gitpeft", *map(str, one)], cwd=cwd, stdout=subprocess.PIPE)
        for one in commands
    ]
    said = [process.communicate()[0].decode() for process in started]
    assert [process.returncode for process in started] == [0] * len(started)
    return said


def test_two_processes_share_repositories_for_a_common_adapter(many: Path) -> None:
    paths = sorted((many / "corpus").iterdir())
    each = [option for path in paths for option in ("--org", path)]
    said = run_together([["mine", "--shard", f"{i}/2", "--json", *each] for i in (1, 2)], many)
    shares = [json.loads(text)["mined"] for text in said]
    assert [len(share) for share in shares] == [3, 2]
    assert sorted(shares[0] + shares[1]) == list(map(str, paths))
    for path in paths:
        repository = Repository.open(path)
        with History.open(repository.state_dir) as history:
            report = history.mine_commits(repository)
        assert (report.new, report.total) == (0, 12), "train --org has nothing left to read"


def read_xargs_line() -> str:
    """The line of the documentation that mines with `xargs`."""
    page = Path(__file__).parents[2] / "docs" / "methods.md"
    [line] = [line for line in page.read_text(encoding="utf-8").splitlines() if "| xargs" in line]
    return line.strip()


@pytest.mark.parametrize("workers", [8, 2])
def test_the_documented_line_mines_all(workers: int, tmp_path: Path) -> None:
    """Word for word, and with two workers."""
    names = ("one", "an other", "third")  # a space in a path is no trouble
    for name in names:
        Repo.create(tmp_path / name).commit("Add it", **{"a.py": "1\n"})
    (tmp_path / "repositories.txt").write_text("".join(f"{name}\n" for name in names))
    tool = tmp_path / "bin" / "gitpeft"
    tool.parent.mkdir()
    tool.write_text(f'#!/bin/sh\nexec "{sys.executable}" -m gitpeft "$@"\n')
    tool.chmod(0o755)
    path = f"{tool.parent}{os.pathsep}{os.environ['PATH']}"
    line = read_xargs_line().replace("8", str(workers))
    done = subprocess.run(
        ["sh", "-c", line], cwd=tmp_path, env=os.environ | {"PATH": path}, capture_output=True
    )
    assert done.returncode == 0, done.stderr
    said = sorted(done.stdout.decode().splitlines())
    counts = [len(names[number::workers]) for number in range(workers)]
    assert said == [
        f"shard {number} of {workers}: {count} of {count} repositories are mined"
        for number, count in enumerate(counts, 1)
    ]
    for name in names:
        assert (tmp_path / name / ".git" / "gitpeft" / "history.db").exists()


def test_a_file_that_lists_no_repository_is_refused(gitpeft: Call, tmp_path: Path) -> None:
    (tmp_path / "repositories.txt").write_text("\n \n")
    done = gitpeft("mine", "--org", tmp_path / "repositories.txt")
    assert done.code == 1 and "names no repository" in done.said
    (tmp_path / "program").write_bytes(b"\x7fELF\0\xff" + bytes(range(256)) * 40)
    done = gitpeft("mine", "--org", tmp_path / "program")
    assert done.code == 1 and "program is no list of repositories" in done.said


def test_shards_of_a_recipe_are_what_a_build_reads_without_clones(many: Path) -> None:
    recipe = adapter_build.AdapterRecipe.load(many / "recipe.toml")
    tinymodel.causal().save_pretrained(many / "out")
    tinymodel.write_tokenizer(many / "out")
    codec = bases.find_base(str(many / "out")).load_codec()
    tips = recipe.read_repositories()

    def make_pairs(corpus: Path, work: Path) -> list[str]:
        made = commit_pairs.make_pairs(tips, corpus, work, codec, recipe.rules, lambda *_: None)
        return [*(path.read_text() for path in made), (work / "counts.json").read_text()]

    options: list[str | Path] = ["--recipe", many / "recipe.toml", "--corpus", many / "corpus"]
    # as in a CI matrix: each job has a folder of its own, and the last one puts them together
    jobs = [["mine", *options, "--work", many / f"job{i}", "--shard", f"{i}/2"] for i in (1, 2)]
    said = run_together(jobs, many)
    assert [text.strip() for text in said] == [
        "shard 1 of 2: 3 of 3 repositories are mined",
        "shard 2 of 2: 2 of 2 repositories are mined",
    ]
    for number in (1, 2):
        shutil.copytree(many / f"job{number}", many / "together", dirs_exist_ok=True)
    assert make_pairs(many / "no clones here", many / "together") == make_pairs(
        many / "corpus", many / "alone"
    )


def test_a_repository_that_cannot_be_mined_does_not_stop_the_others(
    many: Path, gitpeft: Call, tmp_path: Path
) -> None:
    good, bad = next((many / "corpus").iterdir()), tmp_path / "nothing"
    bad.mkdir()
    done = gitpeft("mine", "--org", bad, "--org", good)
    assert done.code == 1
    assert "shard 1 of 1: 1 of 2 repositories are mined" in done.out and f"{bad}: " in done.out


@pytest.mark.parametrize("shard", ["0/2", "3/2", "2", "a/b", "1/0", "-1/2", "²/3"])
def test_a_share_that_is_none_is_wrong_usage(shard: str, gitpeft: Call, tmp_path: Path) -> None:
    done = gitpeft("mine", "--org", tmp_path, "--shard", shard)
    assert done.code == 2 and "the second of eight" in done.said


@pytest.mark.parametrize(
    "options",
    [
        ("--shard", "1/2"),
        ("--org", ".", "--recipe", "r.toml"),
        ("--org", ".", "-C", "."),
        ("--recipe", "r.toml", "--corpus", "."),
        ("--org", ".", "--corpus", "."),
        ("--recipe", "r.toml", "--corpus", ".", "--work", ".", "--until", "HEAD~1"),
    ],
)
def test_options_that_do_not_go_together_are_wrong_usage(options: tuple[str, ...], gitpeft: Call) -> None:
    assert gitpeft("mine", *options).code == 2


def test_what_is_measured_with_is_never_mined(many: Path, gitpeft: Call, tmp_path: Path) -> None:
    (tmp_path / "recipe.toml").write_text(RECIPE)
    (tmp_path / "repositories.tsv").write_text(f"repo\tcommit\npallets/flask\t{'0' * 40}\n")
    done = gitpeft("mine", "--recipe", tmp_path / "recipe.toml", "--corpus", many, "--work", tmp_path)
    assert done.code == 1 and "pallets/flask is there to measure with" in done.said
