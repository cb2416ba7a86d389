"""Whose environment, whose settings: what `git -C` would see is what gitpeft sees; a failure is no answer."""

import json
import os
import sqlite3
from pathlib import Path

import pytest

from gitpeft.config import load_config
from gitpeft.errors import GitFailedError, GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from tests.support.commands import Call
from tests.support.gitrepo import Repo


def give_settings(patch: pytest.MonkeyPatch, **settings: str) -> None:
    patch.setenv("GIT_CONFIG_COUNT", str(len(settings)))
    for number, (key, value) in enumerate(settings.items()):
        patch.setenv(f"GIT_CONFIG_KEY_{number}", key.replace("__", "."))
        patch.setenv(f"GIT_CONFIG_VALUE_{number}", value)


# --- settings -----------------------------------------------------------------------------------------------


def test_settings_of_the_environment_count_for_a_named_repository(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    give_settings(monkeypatch, user__name="ci", remote__there__url="/nowhere", gitpeft__alternatives="5")
    opened = Repository.open(repo.path)
    assert opened.get_config("user.name") == repo.git("config", "user.name") == "ci"
    assert opened.list_remotes() == ["there"] and load_config(opened).alternatives == 5


def test_settings_given_to_git_itself_count_too(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("GIT_CONFIG_PARAMETERS", "'gitpeft.alternatives'='7'")
    assert load_config(Repository.open(repo.path)).alternatives == 7


@pytest.mark.parametrize("variable", ["GIT_CONFIG_GLOBAL", "GIT_CONFIG_SYSTEM"])
def test_other_files_of_settings_count(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, variable: str
) -> None:
    other = tmp_path / "settings"
    other.write_text('[remote "there"]\n\turl = /nowhere\n[gitpeft]\n\talternatives = 6\n')
    monkeypatch.setenv(variable, str(other))
    monkeypatch.delenv("GIT_CONFIG_NOSYSTEM", raising=False)
    opened = Repository.open(repo.path)
    assert opened.list_remotes() == ["there"] == repo.git("remote").split()
    assert load_config(opened).alternatives == 6


def test_the_file_that_git_config_alone_reads_does_not_count(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.git("config", "gitpeft.alternatives", "4")
    monkeypatch.setenv("GIT_CONFIG", str(tmp_path / "none"))
    assert load_config(Repository.open(repo.path)).alternatives == 4


def test_a_hooks_repository_is_not_that_of_another_path(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With `GIT_DIR` of the one and the path of the other, as in a hook that asks of a second one."""
    other = Repo.create(tmp_path / "other")
    repo.commit("One")
    repo.commit("Two")
    repo.git("remote", "add", "here", "/nowhere")
    monkeypatch.setenv("GIT_DIR", str(other.path / ".git"))
    monkeypatch.setenv("GIT_INDEX_FILE", str(other.path / ".git/index"))
    opened = Repository.open(repo.path)
    assert opened.count_commits_since("HEAD~1") == 1 and opened.list_remotes() == ["here"]
    assert os.environ["GIT_DIR"] == str(other.path / ".git")
    assert Repository.open().git_dir == other.path / ".git"


def test_a_bare_repository_that_git_refuses_is_refused_with_its_reason(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare = Repo.create(tmp_path / "bare", bare=True)
    give_settings(monkeypatch, safe__bareRepository="explicit")
    if not bare.run("rev-parse").returncode:
        pytest.skip("this git knows no safe.bareRepository")
    with pytest.raises(GitpeftError, match="cannot use bare repository") as refused:
        Repository.open(bare.path)
    assert "safe.bareRepository all" in refused.value.hint and "older" not in refused.value.hint
    monkeypatch.setenv("GIT_DIR", str(bare.path))
    assert Repository.open().git_dir == bare.path


def test_settings_that_git_cannot_read_are_not_taken_for_no_repository(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("GIT_CONFIG_COUNT", "many")
    with pytest.raises(GitpeftError, match="bogus count"):
        Repository.open(repo.path)


# --- attributes ---------------------------------------------------------------------------------------------


def kinds(repo: Repo) -> set[str]:
    opened = Repository.open(repo.path)
    with History.open(opened.state_dir) as history:
        history.mine_commits(opened)
    with sqlite3.connect(opened.state_dir / "history.db") as db:
        return {kind for (kind,) in db.execute("SELECT kind FROM touch WHERE path LIKE '%a.py'")}


def is_generated_to_git(repo: Repo) -> bool:
    return repo.git("check-attr", "linguist-generated", "gen/a.py").endswith((": set", ": true"))


@pytest.mark.parametrize("kind", ["LITERAL", "GLOB", "NOGLOB", "ICASE"])
def test_how_an_editor_passes_paths_changes_no_attributes(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, kind: str
) -> None:
    repo.commit("Add", **{"gen/.gitattributes": "*.py linguist-generated\n", "gen/a.py": "x\n"})
    monkeypatch.setenv(f"GIT_{kind}_PATHSPECS", "1")
    assert kinds(repo) == {"generated"}


@pytest.mark.parametrize("where", ["home", "xdg", "setting", "setting in home", "repository"])
def test_the_attributes_of_the_user_count(
    repo: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, where: str
) -> None:
    home = Path(os.environ["HOME"])
    places = {
        "home": home / ".config/git/attributes",
        "xdg": tmp_path / "xdg/git/attributes",
        "setting": tmp_path / "own",
        "setting in home": home / "own",
        "repository": repo.path / ".git/info/attributes",
    }
    if where == "xdg":
        monkeypatch.setenv("XDG_CONFIG_HOME", str(tmp_path / "xdg"))
    if where.startswith("setting"):
        repo.git("config", "core.attributesFile", "~/own" if "home" in where else str(tmp_path / "own"))
    repo.commit("Add", **{"gen/a.py": "x\n"})
    assert kinds(repo) == {"text"} and not is_generated_to_git(repo)
    places[where].parent.mkdir(parents=True, exist_ok=True)
    places[where].write_text("gen/*.py linguist-generated\n")
    (repo.path / ".git/gitpeft/history.db").unlink()
    try:
        assert is_generated_to_git(repo) and kinds(repo) == {"generated"}
    finally:
        places[where].unlink()


def test_a_bare_repository_has_its_own_attributes(tmp_path: Path, repo: Repo) -> None:
    repo.commit("Add", **{"gen/a.py": "x\n"})
    bare = repo.clone(tmp_path / "bare", "--bare")
    (bare.path / "info").mkdir(exist_ok=True)
    (bare.path / "info/attributes").write_text("gen/*.py linguist-generated\n")
    assert is_generated_to_git(bare) and kinds(bare) == {"generated"}


# --- a failure is no answer ---------------------------------------------------------------------------------


def test_what_is_not_set_is_no_failure(repo: Repo) -> None:
    opened = Repository.open(repo.path)
    assert opened.get_config("gitpeft.none") is None and opened.get_config_by_prefix("none.") == {}
    assert opened.ask_text("rev-parse", "--verify", "--quiet", "nowhere") == ""
    assert opened.resolve_head() is None and opened.find_previous_subject() == ""


def test_a_failure_of_git_is_not_the_answer_no(repo: Repo) -> None:
    repo.commit("Start")
    opened = Repository.open(repo.path)
    (repo.path / ".git/config").write_text("[core\n")
    for ask in (
        lambda: opened.get_config("gitpeft.risk"),
        lambda: opened.get_config_by_prefix("hook."),
        opened.resolve_head,
        lambda: opened.has_commit("HEAD"),
        opened.find_previous_subject,
        opened.list_branches,
        opened.has_generated_attributes,
        opened.list_remotes,
        lambda: opened.count_commits_since("HEAD"),
        opened.read_replacement_state,
    ):
        with pytest.raises(GitFailedError, match=r"bad config|config"):
            ask()


def test_a_broken_history_is_not_an_empty_one(repo: Repo, gitpeft: Call) -> None:
    first = repo.commit("Start", a="1\n")
    repo.commit("More", a="2\n")
    (repo.path / ".git/objects" / first[:2] / first[2:]).unlink()
    opened = Repository.open(repo.path)
    with pytest.raises(GitFailedError):
        opened.find_previous_subject()
    assert gitpeft("mine", "--repo", repo.path).code == 1


# --- replace refs -------------------------------------------------------------------------------------------


def test_replaced_commits_are_followed_as_git_follows_them(repo: Repo, gitpeft: Call) -> None:
    """`git replace --graft` joins two histories; taken back, the history is as before."""
    repo.commit("Old one", a="1\n")
    old = repo.commit("Old two", a="2\n")
    repo.git("checkout", "-q", "--orphan", "new")
    repo.git("rm", "-rfq", ".")
    first = repo.commit("New one", a="3\n")
    repo.commit("New two", a="4\n")
    assert mined(repo) == told(repo)
    repo.git("replace", "--graft", first, old)
    assert mined(repo) == told(repo) and len(mined(repo)) == 4
    report = json.loads(gitpeft("risk", "HEAD", "--json", "--explain", "--repo", repo.path).out)
    assert report["metrics"]["nuc"] == 3
    repo.git("config", "core.useReplaceRefs", "false")
    assert mined(repo) == told(repo) and len(mined(repo)) == 2
    repo.git("config", "--unset", "core.useReplaceRefs")
    assert len(mined(repo)) == 4
    repo.git("replace", "-d", first)
    assert mined(repo) == told(repo)


def test_a_replaced_message_and_change_are_those_that_git_shows(repo: Repo) -> None:
    repo.commit("Start", a="1\n")
    wrong = repo.commit("Wrong", a="2\n")
    assert mined(repo) == told(repo)
    repo.commit("Next", b="1\n")
    repo.git("checkout", "-q", "HEAD~2")
    right = repo.commit("Right", a="2\n", c="more\n")
    repo.git("checkout", "-q", "main")
    repo.git("replace", wrong, right)
    assert mined(repo) == told(repo) and "Right" in [subject for subject, *_ in mined(repo)]


def test_grafts_are_followed(repo: Repo) -> None:
    repo.commit("Start", a="1\n")
    repo.commit("Middle", a="2\n")
    last = repo.commit("Last", a="3\n")
    assert len(mined(repo)) == 3
    repo.write(".git/info/grafts", f"{last}\n")
    assert mined(repo) == told(repo) and len(mined(repo)) == 1


def mined(repo: Repo) -> list[tuple[str, list[str]]]:
    opened = Repository.open(repo.path)
    with History.open(opened.state_dir) as history:
        history.mine_commits(opened)
        records = history.load_records(opened)
    return [(one.subject, sorted(f"{path.status} {path.path}" for path in one.paths)) for one in records]


def told(repo: Repo) -> list[tuple[str, list[str]]]:
    found = []
    for sha in repo.git("rev-list", "--reverse", "--date-order", "HEAD").split():
        lines = repo.git("show", "--format=%s", "--name-status", sha).splitlines()
        found.append((lines[0], sorted(line.replace("\t", " ") for line in lines[1:] if line)))
    return found
