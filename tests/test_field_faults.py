"""What the field reported: small histories and states, side by side with what git says.

The numbers are those of the reports; w23 is in `tests/hooks/test_comment_strings.py`.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gitpeft.config import Config, load_config
from gitpeft.errors import NothingStagedError
from gitpeft.git.repository import Repository
from gitpeft.history.filters import find_exclusion_reason
from gitpeft.history.store import History
from gitpeft.hooks import install
from gitpeft.hooks.doctor import examine_repository
from gitpeft.learn.szz import szz
from gitpeft.suggest.service import build_staged_request
from tests.support import tinymodel
from tests.support.commands import Call
from tests.support.gitrepo import Repo
from tests.support.sources import CHECKOUT


def opened(repo: Repo) -> Repository:
    return Repository.open(repo.path)


def steps(repo: Repo) -> Repo:
    for number in range(1, 7):
        repo.commit(f"Add step {number}", **{"a.py": "".join(f"x{n} = {n}\n" for n in range(number))})
    return repo


@pytest.fixture
def modelled(repo: Repo) -> Repo:
    """Six commits, and a tiny model."""
    steps(repo)
    tinymodel.bundle(opened(repo).state_dir)
    return repo


def process(*args: str, cwd: Path, **env: str) -> subprocess.CompletedProcess[bytes]:
    command = [sys.executable, "-c", "from gitpeft.cli import main; main()", *args]
    full = {**os.environ, "PYTHONPATH": str(CHECKOUT), **env}
    return subprocess.run(command, cwd=cwd, env=full, capture_output=True, timeout=100, check=False)


def risk_of_staged(repo: Repo, gitpeft: Call) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(gitpeft("risk", "--json", "--explain", "--repo", repo.path).out)
    return found


def count_changes(repo: Repo, path: str) -> int:
    return len(repo.git("log", "--format=%H", "--", path).split())


def test_w1_a_date_before_1970(repo: Repo, gitpeft: Call) -> None:
    steps(repo)
    repo.stage(**{"a.py": "y = 1\n"})
    repo.git("commit", "-qm", "Import old work", env={"GIT_AUTHOR_DATE": "1970-01-01T00:00:00+0100"})
    assert repo.git("log", "-1", "--format=%at").isdigit()
    assert gitpeft("mine", "--repo", repo.path).code == gitpeft("risk", "HEAD", "--repo", repo.path).code == 0


def test_w2_a_line_end_of_python_in_the_path_of_the_repository(tmp_path: Path, gitpeft: Call) -> None:
    repo = steps(Repo.create(tmp_path / "r\u2028x\nf\x0c"))
    assert gitpeft("mine", "--repo", repo.path).code == 0
    assert gitpeft("install", "--repo", repo.path).code == 0
    assert (repo.path / ".git/gitpeft/history.db").exists()
    assert (repo.path / ".git/hooks/prepare-commit-msg").exists()
    assert repo.git("status", "--porcelain") == ""


@pytest.mark.parametrize(
    ("name", "mail"),
    [
        ("Travis Miller", "travis@example.com"),
        ("Kate Jenkins", "kj@example.com"),
        ("Ann Lee", "ann@snyk.io"),
    ],
)
def test_w3_a_person_with_the_name_of_a_program_is_a_person(repo: Repo, name: str, mail: str) -> None:
    repo.stage(a="1\n")
    repo.git("commit", "-qm", "Add", env={"GIT_AUTHOR_NAME": name, "GIT_AUTHOR_EMAIL": mail})
    with History.open(opened(repo).state_dir) as history:
        history.mine_commits(opened(repo))
        assert not history.load_records(opened(repo))[0].bot


def test_w4_a_person_called_claude_is_no_assistant() -> None:
    body = "Co-authored-by: Claude Martin <cm@example.com>"
    change = " a.py +1 -0\n#a.py\n+x = 1"
    assert find_exclusion_reason("Add a step", body, change) == find_exclusion_reason(
        "Add a step", "", change
    )


def test_w5_one_person_with_four_addresses_is_one(repo: Repo, gitpeft: Call) -> None:
    text = ""
    for mail in "abcd":
        for number in (1, 2):
            text += f"{mail}{number} = 1\n"
            repo.stage(**{"core.py": text})
            who = {"GIT_AUTHOR_NAME": "T", "GIT_AUTHOR_EMAIL": f"{mail}@x.org"}
            repo.git("commit", "-qm", f"Fix crash {mail}{number}", env=who)
            repo.tick()
    repo.commit("Map", **{".mailmap": "".join(f"T <a@x.org> <{mail}@x.org>\n" for mail in "bcd")})
    authors = set(repo.git("log", "--format=%aE", "--", "core.py").split())
    repo.stage(**{"core.py": text + "z = 1\n"})
    assert risk_of_staged(repo, gitpeft)["metrics"]["ndev"] == len(authors) == 1


def test_w6_a_revert_that_names_a_request_is_a_revert(repo: Repo) -> None:
    kept = "def a(x):\n    if not x:\n        raise ValueError\n    return 1\n"
    repo.commit("Add a (#20)", **{"a.py": kept})
    bug = repo.commit("Remove check (#21)", **{"a.py": "def a(x):\n    return 1\n"})
    repo.commit('Revert "Remove check" (#22)\n\nReverts acme/app#21', **{"a.py": kept})
    found = szz.trace_bug_introducing_commits(opened(repo), "HEAD", Config(), lambda *_: None)
    assert list(found.verdicts) == [bug]


def test_w7_the_authors_date_moves_no_window(
    repo: Repo, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.clock = 1_620_000_000
    for number in range(3):
        repo.commit(f"Fix crash {number}", **{"a.py": f"x = {number}\n"})
    repo.stage(**{"a.py": "y = 1\n"})
    monkeypatch.setenv("GIT_AUTHOR_DATE", "2021-06-01T00:00Z")
    year = ["--since=2022-11-14", "--until=2023-11-15"]
    assert risk_of_staged(repo, gitpeft)["metrics"]["fixes"] == len(
        repo.git("log", *year, "--", "a.py").split()
    )
    monkeypatch.setenv("GIT_AUTHOR_DATE", "1970-01-01T00:30:00+0100")
    assert risk_of_staged(repo, gitpeft)["metrics"]["age"] < 10_000


def test_w8_two_names_that_look_alike_are_two_files(repo: Repo, gitpeft: Call) -> None:
    one, other = "a\u00a0b.py", "a\u3000b.py"
    repo.commit("Add", **{one: "x\n", other: "x\n"})
    for number in range(3):
        repo.commit(f"Fix crash {number}", **{one: f"{number}\n"})
    repo.stage(**{other: "y\n"})
    assert risk_of_staged(repo, gitpeft)["metrics"]["nuc"] == count_changes(repo, other) == 1


def test_w9_neither_an_odd_name_nor_a_rename_leaks(repo: Repo) -> None:
    repo.commit("Start", **{"secret/plan.py": "".join(f"{n}\n" for n in range(40))})
    repo.git("mv", "secret/plan.py", "public.py")
    assert "secret" not in build_staged_request(opened(repo), Config(exclude=("secret/*",)), 3).change
    repo.git("reset", "-q", "--hard")
    name = "secret/\u0645\u06cc\u200c\u062e.py"
    repo.stage(**{name: "a = 1\n"})
    for pattern in (name, "secret/*"):
        with pytest.raises(NothingStagedError, match="everything that is staged is excluded"):
            build_staged_request(opened(repo), Config(exclude=(pattern,)), 3)


def test_w10_a_sparse_checkout_keeps_what_the_team_excludes(repo: Repo) -> None:
    files = {".gitpeft": "[gitpeft]\n\texclude = src/*\n", "src/a.py": "x\n", "docs/d": "d\n"}
    repo.commit("Start", **files)
    repo.git("sparse-checkout", "set", "--no-cone", "/src/*", "/docs/*")
    repo.stage(**{"src/a.py": "y\n"})
    with pytest.raises(NothingStagedError, match="everything that is staged is excluded"):
        build_staged_request(opened(repo), load_config(opened(repo)), 3)


@pytest.mark.parametrize("encoding", ["latin-1", "ascii"])
def test_w11_a_terminal_without_the_characters(modelled: Repo, encoding: str) -> None:
    modelled.commit("Fix crash — faster", **{"b.py": "1\n"})
    for command in (["risk", "HEAD"], ["suggest", "HEAD", "--json"], ["init", "--help"], ["status"]):
        done = process(*command, cwd=modelled.path, PYTHONIOENCODING=encoding)
        assert done.returncode == 0, done.stderr


def test_w12_the_doctor_promises_no_offer_that_the_hook_will_not_make(modelled: Repo, tmp_path: Path) -> None:
    install.install_hooks(opened(modelled), hooks=("prepare-commit-msg",))
    modelled.git("config", "core.editor", "vi")
    (tmp_path / "t").write_text("T\n")
    for key, value in (("commit.template", str(tmp_path / "t")), ("i18n.commitEncoding", "utf-16")):
        before = len(examine_repository(opened(modelled)))
        modelled.git("config", key, value)
        assert len(examine_repository(opened(modelled))) > before
        modelled.git("config", "--unset", key)


def test_w13_a_remote_with_two_ends(modelled: Repo, tmp_path: Path, gitpeft: Call) -> None:
    ends = [Repo.create(tmp_path / name, bare=True) for name in "AB"]
    modelled.git("remote", "add", "origin", str(ends[0].path))
    modelled.git("remote", "set-url", "--push", "origin", str(ends[1].path))
    for _ in range(2):
        assert gitpeft("publish", "--no-sign", "--repo", modelled.path).code == 0
    refs = ends[1].git("for-each-ref", "--format=%(refname)").split()
    assert refs and all(ref.startswith("refs/gitpeft/") for ref in refs)
    assert ends[0].git("for-each-ref") == ""


def test_w15_settings_of_the_environment_with_a_named_repository(
    modelled: Repo, tmp_path: Path, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    there = Repo.create(tmp_path / "A", bare=True)
    modelled.git("remote", "add", "origin", "https://git.example.invalid/x")
    monkeypatch.setenv("GIT_CONFIG_COUNT", "1")
    monkeypatch.setenv("GIT_CONFIG_KEY_0", f"url.{there.path}.insteadOf")
    monkeypatch.setenv("GIT_CONFIG_VALUE_0", "https://git.example.invalid/x")
    modelled.git("push", "-q", "origin", "main")
    assert gitpeft("publish", "--no-sign", "--repo", modelled.path).code == 0
    assert "refs/gitpeft/" in there.git("for-each-ref")


def test_w16_the_environment_of_an_editor_turns_no_attributes_off(
    repo: Repo, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.commit("Add", **{"gen/.gitattributes": "*.py linguist-generated\n", "gen/a.py": "x\n"})
    monkeypatch.setenv("GIT_LITERAL_PATHSPECS", "1")
    assert repo.git("check-attr", "linguist-generated", "gen/a.py").endswith("set")
    done = json.loads(gitpeft("risk", "HEAD", "--json", "--explain", "--repo", repo.path).out)
    assert done["metrics"]["nf"] == 1  # the file of attributes alone


def test_w17_revisions_that_blame_passes_over(repo: Repo) -> None:
    added = repo.commit("Add", **{"h.py": "def h(x):\n    return 1\n"})
    skipped = repo.commit("Reformat", **{"h.py": "def h(x):\n    return (1)\n"})
    repo.git("config", "blame.ignoreRevsFile", ".skip")
    repo.commit("Note", **{".skip": f"{skipped}\n"})
    assert repo.git("blame", "-s", "-L2,2", "-l", "h.py").lstrip("?^*").startswith(added[:30])
    repo.commit("Fix crash in h", **{"h.py": "def h(x):\n    return (2)\n"})
    found = szz.trace_bug_introducing_commits(opened(repo), "HEAD", Config(), lambda *_: None)
    assert list(found.verdicts) == [added]


def test_w20_hooks_in_every_work_tree_are_taken_out(repo: Repo, tmp_path: Path, gitpeft: Call) -> None:
    steps(repo)
    repo.git("config", "core.hooksPath", ".githooks")
    repo.git("worktree", "add", "-q", str(tmp_path / "wt"), "HEAD~1")
    for path in (repo.path, tmp_path / "wt"):
        assert gitpeft("install", "--repo", path).code == 0
        assert list((path / ".githooks").iterdir())
    assert gitpeft("uninstall", "--repo", repo.path).code == 0
    assert not list((tmp_path / "wt").glob(".githooks/*")) and not list(repo.path.glob(".githooks/*"))


def test_w25_who_publishes_without_an_identity_is_told_what_to_do(
    modelled: Repo, tmp_path: Path, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    modelled.git("remote", "add", "origin", str(Repo.create(tmp_path / "A", bare=True).path))
    for name in ("AUTHOR_NAME", "AUTHOR_EMAIL", "COMMITTER_NAME", "COMMITTER_EMAIL"):
        monkeypatch.delenv(f"GIT_{name}", raising=False)
    modelled.git("config", "user.useConfigOnly", "true")
    for key in ("user.name", "user.email"):
        modelled.git("config", "--global", "--unset", key, check=False)
    done = gitpeft("publish", "--no-sign", "--repo", modelled.path)
    assert done.code == 1 and "git config user.email" in done.said


def test_w26_patterns_mean_what_they_mean_in_gitignore(repo: Repo) -> None:
    repo.commit("Start", **{"a.py": "x\n"})
    repo.stage(**{"src/z.py": "z\n"})
    repo.git("config", "gitpeft.exclude", "src/")
    with pytest.raises(NothingStagedError, match="everything that is staged is excluded"):
        build_staged_request(opened(repo), load_config(opened(repo)), 3)
    repo.git("config", "gitpeft.exclude", "lib/")
    assert "exclude" in [one.code for one in examine_repository(opened(repo))]
