"""Group E of the contract: hooks go in and come out, and nothing else changes. No model is needed."""

import os
import re
import shlex
import shutil
import stat
import subprocess
import sys
import threading
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.hooks import hook_file, hooks_path, install, managers, stubs
from gitpeft.hooks.doctor import examine_repository, read_status
from tests.support.foreignhooks import (
    CONFIG,
    FOREIGN,
    LEFTHOOK_HOOK,
    NAME,
    PRE_COMMIT_HOOK,
    foreign,
    hook_of,
    husky,
    snapshot,
)
from tests.support.gitrepo import Repo
from tests.support.hooking import listing, needs_git, script


def opened(repo: Repo) -> Repository:
    return Repository.open(repo.path)


def put_in(repo: Repo, **options: str) -> install.InstalledHook:
    return install.install_hooks(opened(repo), **options)[0]


def take_out(repo: Repo) -> list[install.RemovedHook]:
    return install.uninstall_hooks(opened(repo))


def test_e1_a_fresh_repository_gets_the_hook_and_the_folder(repo: Repo) -> None:
    hooks = repo.path / ".git/hooks"
    for file in hooks.iterdir():
        file.unlink()
    hooks.rmdir()
    before = snapshot(repo)
    done = put_in(repo)
    assert (done.action, done.where) == ("created", hook_of(repo))
    assert stat.S_IMODE(hook_of(repo).stat().st_mode) == 0o755
    assert [removed.action for removed in take_out(repo)] == ["removed"]
    assert snapshot(repo) == before and not hooks.exists()


@pytest.mark.parametrize("code", [0, 3])
def test_e2_a_foreign_hook_runs_first_and_its_exit_code_wins(repo: Repo, code: int) -> None:
    foreign(repo)
    assert put_in(repo).action == "chained"
    done = subprocess.run(
        [hook_of(repo), "F", "message", "x y"], cwd=repo.path, env={**os.environ, "FOREIGN_RC": str(code)}
    )
    assert done.returncode == code
    assert (repo.path / "ran").read_text() == "F message x y\n"


def test_e2_a_foreign_hook_that_git_ignored_stays_ignored(repo: Repo) -> None:
    foreign(repo, mode=0o644)
    put_in(repo)
    subprocess.run([hook_of(repo), "F", "message"], cwd=repo.path, check=True)
    assert not (repo.path / "ran").exists()
    take_out(repo)
    assert stat.S_IMODE(hook_of(repo).stat().st_mode) == 0o644


def test_e2_a_hook_under_version_control_is_refused_with_the_line_to_add(repo: Repo) -> None:
    script(repo.path / ".githooks" / NAME, FOREIGN)
    repo.commit("hooks", **{f".githooks/{NAME}": FOREIGN})
    repo.git("config", "core.hooksPath", ".githooks")
    before = snapshot(repo)
    with pytest.raises(GitpeftError, match="version control") as caught:
        put_in(repo)
    assert managers.HUSKY_LINE in caught.value.hint and snapshot(repo) == before


def test_e2_e6_a_line_for_hooks_that_others_own(repo: Repo) -> None:
    done = put_in(repo, strategy="line")
    program = script(repo.path / "shared", "#!/bin/sh\n" + done.notes[0].partition("\n")[2])
    subprocess.run([program, "F", "message"], cwd=repo.path, check=True)
    done.where.write_text('#!/bin/sh\necho "$@" >>ran; exit 3\n')
    subprocess.run([program, "F", "x y"], cwd=repo.path, check=True)
    assert (repo.path / "ran").read_text() == "F x y\n"


@pytest.mark.parametrize("linked", [False, True], ids=["a file", "a link"])
@pytest.mark.parametrize(
    "asks", ['basename "$0"', "basename -- $0", "echo ${0##*/}", '. "$(dirname "$0")/husky.sh"']
)
def test_e2_a_hook_that_goes_by_its_name_is_not_moved(repo: Repo, asks: str, linked: bool) -> None:
    """Under another name it would do nothing, or stop every commit."""
    program = script(repo.path / "run-hook" if linked else hook_of(repo), f"#!/bin/sh\n{asks}\n")
    if linked:
        hook_of(repo).symlink_to(program)
    before = snapshot(repo)
    with pytest.raises(GitpeftError, match="by its own name") as caught:
        put_in(repo)
    assert managers.format_hook_line(NAME) in caught.value.hint and snapshot(repo) == before


def test_e2_a_line_that_a_person_added_is_an_installation(repo: Repo) -> None:
    put_in(repo, strategy="line")
    repo.commit("hooks", **{f".githooks/{NAME}": f"#!/bin/sh\n{managers.format_hook_line(NAME)}"})
    repo.git("config", "core.hooksPath", ".githooks")
    (repo.path / ".githooks" / NAME).chmod(0o755)
    again = put_in(repo)
    assert (again.strategy, again.action, again.notes) == ("line", "unchanged", ())
    assert [(hook.how, hook.runs) for hook in read_status(opened(repo)).hooks] == [("line", True)]
    assert [finding.code for finding in examine_repository(opened(repo))] == ["no-model"]
    again.where.chmod(0o644)
    assert [finding.code for finding in examine_repository(opened(repo), fix=True) if finding.fixed] == [
        "not-executable"
    ]
    assert [hook.runs for hook in read_status(opened(repo)).hooks] == [True]


@pytest.mark.parametrize(("code", "passed"), [(0, 0), (1, 1), (None, 0)])
def test_e2_the_line_before_a_commit_may_stop_it(repo: Repo, code: int | None, passed: int) -> None:
    [done] = install.install_hooks(opened(repo), strategy="line", hooks=["pre-commit"])
    program = script(repo.path / "shared", "#!/bin/sh\n" + done.notes[0].partition("\n")[2] + "echo on\n")
    done.where.write_text(f"#!/bin/sh\nexit {code}\n")
    if code is None:
        done.where.unlink()
    said = subprocess.run([program], cwd=repo.path, capture_output=True)
    assert (said.returncode, said.stdout) == (passed, b"" if passed else b"on\n")


def test_e3_a_second_installation_changes_nothing(repo: Repo) -> None:
    foreign(repo)
    put_in(repo)
    before = listing(repo.path)
    assert put_in(repo).action == "unchanged"
    assert listing(repo.path) == before


@pytest.mark.parametrize("mode", [0o755, 0o700, 0o644, 0o775])
def test_e4_uninstall_restores_bytes_and_mode(repo: Repo, mode: int) -> None:
    foreign(repo, mode)
    before = snapshot(repo)
    put_in(repo)
    assert snapshot(repo) != before
    assert [removed.action for removed in take_out(repo)] == ["restored"]
    assert snapshot(repo) == before and take_out(repo) == []


def test_e4_a_hook_of_ours_that_was_deleted_by_hand_gives_back_the_earlier_one(repo: Repo) -> None:
    foreign(repo)
    before = snapshot(repo)
    put_in(repo)
    hook_of(repo).unlink()
    assert [removed.action for removed in take_out(repo)] == ["restored"]
    assert snapshot(repo) == before


def test_e4_a_folder_that_the_settings_no_longer_name_is_remembered(repo: Repo) -> None:
    script(repo.path / ".a/hooks" / NAME, FOREIGN)
    before = snapshot(repo)
    for folder in (".a/hooks", ".b/hooks"):
        repo.git("config", "core.hooksPath", folder)
        put_in(repo)
    repo.git("config", "--unset", "core.hooksPath")
    assert "shadowed" in [finding.code for finding in examine_repository(opened(repo))]
    put_in(repo)
    assert sorted(removed.action for removed in take_out(repo)) == ["removed", "removed", "restored"]
    after = snapshot(repo)
    assert {name for name in after.keys() | before.keys() if after.get(name) != before.get(name)} <= {
        ".git/config"
    }


def test_e4_an_edited_hook_is_left_alone(repo: Repo) -> None:
    put_in(repo)
    hook_of(repo).write_text(hook_of(repo).read_text() + "echo mine\n")
    edited = snapshot(repo)
    assert [removed.action for removed in take_out(repo)] == ["left"]
    with pytest.raises(GitpeftError, match="edited"):
        put_in(repo)
    assert snapshot(repo) == edited
    assert [finding.code for finding in examine_repository(opened(repo), fix=True)][:1] == ["edited"]


# --- E6: core.hooksPath -----------------------------------------------------------------------------------


@pytest.mark.parametrize("value", ["", "/dev/null"])
def test_e6_disabled_hooks_are_reported(repo: Repo, value: str) -> None:
    repo.git("config", "core.hooksPath", value)
    with pytest.raises(GitpeftError, match="disabled"):
        put_in(repo)
    assert read_status(opened(repo)).disabled
    assert "hooks-disabled" in [finding.code for finding in examine_repository(opened(repo))]


def test_e6_a_path_of_the_repository_is_honoured(repo: Repo) -> None:
    for value, folder in ((".githooks", ".githooks"), (str(repo.path / ".git/own"), ".git/own")):
        repo.git("config", "core.hooksPath", value)
        assert put_in(repo).where == hook_of(repo, folder)
        take_out(repo)
        assert not (repo.path / folder).exists()


@pytest.mark.parametrize("scope", ["global", "local", "include", "includeIf", "system"])
def test_e6_a_path_outside_is_refused_with_the_way_out(
    repo: Repo, tmp_path: Path, scope: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    shared = tmp_path / "shared-hooks"
    shared.mkdir()
    other = tmp_path / "other-config"
    other.write_text(f"[core]\n\thooksPath = {shared}\n")
    if scope == "system":
        needs_git(2, 32, "GIT_CONFIG_SYSTEM")
        monkeypatch.setenv("GIT_CONFIG_SYSTEM", str(other))
        monkeypatch.delenv("GIT_CONFIG_NOSYSTEM")
    elif scope == "include":
        repo.git("config", "include.path", str(other))
    elif scope == "includeIf":
        repo.git("config", f"includeIf.gitdir:{repo.path}/.path", str(other))
    else:
        repo.git("config", f"--{scope}", "core.hooksPath", str(shared))
    with pytest.raises(GitpeftError, match="outside") as caught:
        put_in(repo)
    assert list(shared.iterdir()) == []
    monkeypatch.delenv("GIT_CONFIG_SYSTEM", raising=False)
    command = shlex.split(caught.value.hint.split("`")[1])
    if scope in ("global", "system"):
        repo.git(*command[1:])
        assert put_in(repo).where == hook_of(repo)


def test_e6_a_path_of_one_worktree(repo: Repo, tmp_path: Path) -> None:
    repo.commit("Start", a="a\n")
    repo.git("worktree", "add", "-q", str(tmp_path / "other"))
    repo.git("config", "extensions.worktreeConfig", "true")
    other = Repo(tmp_path / "other")
    other.git("config", "--worktree", "core.hooksPath", ".hooks")
    assert put_in(other).where == tmp_path / "other/.hooks" / NAME
    assert put_in(repo).where == hook_of(repo)


# --- E7: other hook managers ------------------------------------------------------------------------------


@pytest.mark.parametrize("existing", [None, "npm test\n", "npm test"])
def test_e7_husky_gets_a_line_in_its_own_file(repo: Repo, existing: str | None) -> None:
    husky(repo)
    if existing is not None:
        (repo.path / ".husky" / NAME).write_text(existing)
    before = snapshot(repo)
    done = put_in(repo)
    assert (done.strategy, done.where) == ("husky", repo.path / ".husky" / NAME)
    after = snapshot(repo)
    changed = {name for name in after if after[name] != before.get(name)}
    assert {name for name in changed if not name.startswith(".git/gitpeft/")} == {f".husky/{NAME}"}
    assert put_in(repo).action == "unchanged"
    take_out(repo)
    assert snapshot(repo) == before


def test_e7_husky_that_is_not_set_up_is_said_and_nothing_changes(repo: Repo) -> None:
    before = snapshot(repo)
    with pytest.raises(GitpeftError, match="husky is not set up here"):
        put_in(repo, strategy="husky")
    assert snapshot(repo) == before


def test_e7_e15_a_file_behind_a_link_out_of_the_repository_is_refused(repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").mkdir()
    (tmp_path / "elsewhere" / NAME).write_text("npm test\n")
    (repo.path / ".husky").symlink_to(tmp_path / "elsewhere")
    before = snapshot(repo)
    with pytest.raises(GitpeftError, match="link"):
        put_in(repo, strategy="husky")
    assert snapshot(repo) == before and (tmp_path / "elsewhere" / NAME).read_text() == "npm test\n"


def test_e7_a_team_mate_without_gitpeft_runs_nothing(repo: Repo, tmp_path: Path) -> None:
    husky(repo)
    put_in(repo)
    (repo.path / ".git/gitpeft/hooks" / NAME).unlink()
    done = subprocess.run([repo.path / ".husky/_" / NAME, "F"], cwd=repo.path, capture_output=True)
    assert (done.returncode, done.stdout, done.stderr) == (0, b"", b"")


def test_e7_pre_commit_keeps_its_hook_and_runs_ours_beside_it(repo: Repo) -> None:
    script(hook_of(repo), PRE_COMMIT_HOOK)
    before = snapshot(repo)
    assert put_in(repo).where.name == f"{NAME}.legacy"
    assert hook_of(repo).read_text() == PRE_COMMIT_HOOK
    assert [hook.runs for hook in read_status(opened(repo)).hooks] == [True]
    take_out(repo)
    assert snapshot(repo) == before


def test_e7_pre_commit_installed_later_and_removed_in_either_order(repo: Repo) -> None:
    before = snapshot(repo)
    for ours_first in (True, False):
        put_in(repo)
        hook_of(repo).rename(hook_of(repo).with_name(f"{NAME}.legacy"))  # what pre-commit does
        script(hook_of(repo), PRE_COMMIT_HOOK)
        if ours_first:
            take_out(repo)
            hook_of(repo).unlink()
        else:
            hook_of(repo).with_name(f"{NAME}.legacy").rename(hook_of(repo))
            take_out(repo)
        assert snapshot(repo) == before


def test_e7_pre_commit_by_its_own_configuration(repo: Repo) -> None:
    repo.commit("Start", **{".pre-commit-config.yaml": CONFIG})
    before = snapshot(repo)
    assert put_in(repo, strategy="pre-commit").notes
    text = (repo.path / ".pre-commit-config.yaml").read_text()
    yaml = pytest.importorskip("yaml")
    assert yaml.safe_load(text)["repos"][1]["hooks"][0]["stages"] == [NAME]
    take_out(repo)
    assert snapshot(repo) == before


@pytest.mark.parametrize("text", ["", "repos: []\n", CONFIG + "fail_fast: true\n", "repos:\n- repo: x\n"])
def test_e7_a_configuration_of_another_form_is_left_with_the_lines_to_add(repo: Repo, text: str) -> None:
    repo.commit("Start", **{".pre-commit-config.yaml": text})
    with pytest.raises(GitpeftError) as caught:
        put_in(repo, strategy="pre-commit")
    assert managers.PRE_COMMIT_LINES in caught.value.hint
    assert (repo.path / ".pre-commit-config.yaml").read_text() == text
    assert not (repo.path / ".git/gitpeft/hooks" / NAME).exists()


@pytest.mark.parametrize("local", [None, "pre-commit:\n  commands: {}\n"])
def test_e7_lefthook_gets_a_command_in_its_local_file(repo: Repo, local: str | None) -> None:
    script(hook_of(repo), LEFTHOOK_HOOK)
    if local is not None:
        repo.write("lefthook-local.yml", local)
    before = snapshot(repo)
    assert put_in(repo).strategy == "lefthook"
    yaml = pytest.importorskip("yaml")
    parsed = yaml.safe_load((repo.path / "lefthook-local.yml").read_text())
    assert parsed[NAME]["commands"]["gitpeft"]["run"].endswith("{0}")
    take_out(repo)
    assert snapshot(repo) == before


@pytest.mark.parametrize(
    "name", [".lefthook-local.yml", "lefthook-local.yaml", ".config/lefthook-local.json"]
)
def test_e7_lefthook_with_other_local_settings_is_left_alone(repo: Repo, name: str) -> None:
    """Lefthook reads one such file: a second one would switch the first off."""
    script(hook_of(repo), LEFTHOOK_HOOK)
    repo.write(name, "{}\n")
    before = snapshot(repo)
    with pytest.raises(GitpeftError, match=re.escape(name)) as caught:
        put_in(repo)
    assert managers.LEFTHOOK_LINES in caught.value.hint and snapshot(repo) == before


@pytest.mark.parametrize("key", [NAME, f'"{NAME}"', f"'{NAME}' "])
def test_e7_lefthook_with_a_command_for_this_hook_gets_lines_that_fit(repo: Repo, key: str) -> None:
    script(hook_of(repo), LEFTHOOK_HOOK)
    text = f"{key}:\n  commands:\n    theirs:\n      run: 'true'\n"
    repo.write("lefthook-local.yml", text)
    with pytest.raises(GitpeftError, match="already") as caught:
        put_in(repo)
    yaml = pytest.importorskip("yaml")
    joined = yaml.safe_load(text + caught.value.hint.partition("\n")[2])
    assert list(joined) == [NAME] and list(joined[NAME]["commands"]) == ["theirs", "gitpeft"]


@pytest.mark.parametrize("manager", ["husky", "lefthook", "version control"])
def test_what_fails_at_the_second_hook_leaves_no_first_one(repo: Repo, manager: str) -> None:
    if manager == "husky":
        husky(repo)
    elif manager == "lefthook":
        for name in stubs.HOOK_NAMES:
            script(hook_of(repo).with_name(name), LEFTHOOK_HOOK)
    else:
        repo.commit("hooks", **{".githooks/pre-commit": FOREIGN})
        repo.git("config", "core.hooksPath", ".githooks")
    before = snapshot(repo)
    with pytest.raises(GitpeftError, match=manager):
        install.install_hooks(opened(repo), hooks=stubs.HOOK_NAMES)
    assert snapshot(repo) == before


def test_e7_overcommit_is_refused_with_what_to_write(repo: Repo) -> None:
    script(hook_of(repo), "#!/usr/bin/env ruby\nif ENV['OVERCOMMIT_DISABLE'].to_i != 0\n")
    with pytest.raises(GitpeftError, match="overcommit") as caught:
        put_in(repo)
    yaml = pytest.importorskip("yaml")
    command = yaml.safe_load(caught.value.hint.partition("\n")[2])["PrepareCommitMsg"]["Gitpeft"]["command"]
    assert "--strategy line" in caught.value.hint
    subprocess.run([*command, "F"], cwd=repo.path, check=True)  # nothing is there yet
    put_in(repo, strategy="line").where.write_text('#!/bin/sh\necho "$@" >ran\n')
    subprocess.run([*command, "F", "message"], cwd=repo.path, check=True)
    assert (repo.path / "ran").read_text() == "F message\n"


def test_e7_git_lfs_has_no_hook_in_this_place(repo: Repo) -> None:
    """git-lfs writes pre-push, post-checkout, post-commit and post-merge: none of them is touched."""
    for name in ("pre-push", "post-checkout", "post-commit", "post-merge"):
        script(repo.path / ".git/hooks" / name, f'#!/bin/sh\ngit lfs {name} "$@"\n')
    before = snapshot(repo)
    put_in(repo)
    after = snapshot(repo)
    assert {name for name in after if after[name] != before.get(name)} == {f".git/hooks/{NAME}"}


def test_e7_husky_installed_later_shadows_and_the_doctor_says_so(repo: Repo) -> None:
    before = snapshot(repo)
    put_in(repo)
    husky(repo)
    assert "shadowed" in [finding.code for finding in examine_repository(opened(repo))]
    assert put_in(repo).strategy == "husky"
    take_out(repo)
    repo.git("config", "--unset", "core.hooksPath")
    after = {name: value for name, value in snapshot(repo).items() if not name.startswith(".husky/")}
    assert after.keys() == before.keys()


# --- E9 to E15 --------------------------------------------------------------------------------------------


def test_e9_worktrees_share_the_hook_and_submodules_have_their_own(repo: Repo, tmp_path: Path) -> None:
    repo.commit("Start", a="a\n")
    repo.git("worktree", "add", "-q", str(tmp_path / "other"))
    assert put_in(Repo(tmp_path / "other")).where == hook_of(repo)
    library = Repo.create(tmp_path / "library")
    library.commit("Start", b="b\n")
    repo.git("submodule", "--quiet", "add", str(library.path), "sub")
    assert put_in(Repo(repo.path / "sub")).where == repo.path / ".git/modules/sub/hooks" / NAME
    bare = Repo.create(tmp_path / "bare.git", bare=True)
    assert put_in(bare).where == bare.path / "hooks" / NAME


@pytest.mark.parametrize("step", ["link", "open", "replace"])
def test_e10_a_folder_that_allows_nothing_is_a_clear_error(
    repo: Repo, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Permission bits mean nothing to root, so the refusal of the system is played."""
    foreign(repo)
    before = snapshot(repo)

    def refuse(path: str, *_: Any, **__: Any) -> Any:
        if step == "open" and ".git/hooks" not in str(path):
            return real(path, *_, **__)
        raise OSError(30, "Read-only file system")

    real = os.open
    if step == "replace":
        monkeypatch.setattr(Path, "replace", refuse)
    else:
        monkeypatch.setattr(os, step, refuse)
        monkeypatch.setattr(Path, "write_bytes", refuse)
    with pytest.raises(GitpeftError, match="Read-only file system"):
        put_in(repo)
    monkeypatch.undo()
    take_out(repo)
    assert snapshot(repo) == before


def test_e10_a_file_system_that_runs_nothing_is_refused(repo: Repo, monkeypatch: pytest.MonkeyPatch) -> None:
    before = snapshot(repo)
    monkeypatch.setattr(os, "access", lambda *_: False)
    with pytest.raises(GitpeftError, match="no program can run"):
        put_in(repo)
    monkeypatch.undo()
    assert snapshot(repo) == before


def test_e10_without_hard_links_the_earlier_hook_is_copied(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    foreign(repo, 0o700)
    before = snapshot(repo)

    def refuse(*_: object, **__: object) -> None:
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(os, "link", refuse)
    assert put_in(repo).action == "chained"
    take_out(repo)
    assert snapshot(repo) == before


@pytest.mark.parametrize(
    ("shared", "umask", "mode"),
    [
        ("", 0o022, 0o755),
        ("", 0o077, 0o700),
        ("umask", 0o027, 0o750),
        ("group", 0o077, 0o770),
        ("true", 0o022, 0o775),
        ("all", 0o077, 0o775),
        ("0660", 0o022, 0o770),
        ("0640", 0o022, 0o750),
        ("0600", 0o022, 0o700),
    ],
)
def test_e11_the_mode_of_a_shared_repository(repo: Repo, shared: str, umask: int, mode: int) -> None:
    if shared:
        repo.git("config", "core.sharedRepository", shared)
    before = os.umask(umask)
    try:
        put_in(repo)
    finally:
        os.umask(before)
    assert oct(stat.S_IMODE(hook_of(repo).stat().st_mode)) == oct(mode)


class Newer(Repository):
    """The repository as a git that runs configured hooks would see it."""

    git_version = (2, 54, 0)


class Older(Repository):
    """The repository as a git without configured hooks would see it."""

    git_version = (2, 53, 0)


@pytest.fixture
def newer(repo: Repo) -> Newer:
    return Newer.open(repo.path)  # type: ignore[return-value]


def test_e12_an_older_git_is_refused(repo: Repo) -> None:
    before = snapshot(repo)
    with pytest.raises(GitpeftError, match="does not run hooks from its configuration"):
        install.install_hooks(Older.open(repo.path), strategy="config")
    assert snapshot(repo) == before


def test_e12_command_and_event_come_and_go_at_once(
    repo: Repo, newer: Newer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """An event without a command is fatal to every git that meets it: there is no moment of one."""
    seen: list[str] = []

    def replace(path: Path, target: Path) -> Path:
        done = real(path, target)
        seen.extend([repo.git("config", "--local", "--list")] if target.name == "config" else [])
        return done

    real = Path.replace
    monkeypatch.setattr(Path, "replace", replace)
    settings = repo.path / ".git/config"
    settings.chmod(0o640)
    before, bytes_before = repo.git("config", "--local", "--list"), settings.read_bytes()
    [done] = install.install_hooks(newer, strategy="config")
    section = f"hook.gitpeft-{NAME}"
    assert len(seen) == 1 and f"\n{section}.command=" in seen[0] and f"\n{section}.event=" in seen[0]
    assert repo.git("config", f"{section}.command") == managers.format_hook_command(NAME)
    assert repo.git("config", f"{section}.event") == NAME and os.access(done.where, os.X_OK)
    assert [(hook.how, hook.runs) for hook in read_status(newer).hooks] == [("config", True)]
    assert install.install_hooks(newer, strategy="config")[0].action == "unchanged" and len(seen) == 1
    install.uninstall_hooks(newer)
    assert len(seen) == 2 and seen[1] == before and settings.read_bytes() == bytes_before
    assert stat.S_IMODE(settings.stat().st_mode) == 0o640


def test_e12_d10_a_configured_hook_that_is_gone_stops_nothing(
    repo: Repo, newer: Newer, tmp_path: Path
) -> None:
    """Also when the repository was moved: git runs the command as `sh -c 'COMMAND "$@"'`."""
    [done] = install.install_hooks(newer, strategy="config")
    command = repo.git("config", f"hook.gitpeft-{NAME}.command")
    done.where.write_text('#!/bin/sh\necho "$@" >>ran\n')
    moved = repo.path.rename(tmp_path / "moved")

    def commit() -> None:
        subprocess.run(["sh", "-c", f'{command} "$@"', command, "F", "x y"], cwd=moved, check=True)

    commit()
    assert (moved / "ran").read_text() == "F x y\n"
    shutil.rmtree(moved / ".git/gitpeft")
    commit()
    assert (moved / "ran").read_text() == "F x y\n"


def test_e12_a_command_of_another_version_is_fixed(repo: Repo, newer: Newer) -> None:
    install.install_hooks(newer, strategy="config")
    repo.git("config", f"hook.gitpeft-{NAME}.command", "'/was/here/once'")
    assert [finding.code for finding in examine_repository(newer)] == ["outdated", "no-model"]
    assert [finding.fixed for finding in examine_repository(newer, fix=True)] == [True, False]
    assert repo.git("config", f"hook.gitpeft-{NAME}.command") == managers.format_hook_command(NAME)


def test_e12_a_configured_hook_that_is_switched_off(repo: Repo, newer: Newer) -> None:
    install.install_hooks(newer, strategy="config")
    repo.git("config", f"hook.gitpeft-{NAME}.enabled", "no")
    assert [hook.runs for hook in read_status(newer).hooks] == [False]
    assert [finding.code for finding in examine_repository(newer)] == ["config-disabled", "no-model"]


def test_e12_settings_that_somebody_else_writes_are_left_alone(repo: Repo, newer: Newer) -> None:
    lock = repo.write(".git/config.lock", "half a fi")
    with pytest.raises(GitpeftError, match="another program") as caught:
        install.install_hooks(newer, strategy="config")
    assert str(lock) in caught.value.hint and lock.read_text() == "half a fi"
    lock.unlink()
    install.install_hooks(newer, strategy="config")
    lock.write_text("")
    with pytest.raises(GitpeftError, match="another program"):
        install.uninstall_hooks(newer)
    assert lock.read_text() == "" and repo.git("config", f"hook.gitpeft-{NAME}.event") == NAME
    lock.unlink()
    install.uninstall_hooks(newer)
    assert not list((repo.path / ".git").glob("*.lock")) and not (repo.path / ".git/gitpeft").exists()


def test_e12_settings_behind_a_link(repo: Repo, newer: Newer, tmp_path: Path) -> None:
    """Git follows the link, and locks what it leads to."""
    settings = repo.path / ".git/config"
    settings.rename(tmp_path / "mine.conf")
    settings.symlink_to(tmp_path / "mine.conf")
    before = (tmp_path / "mine.conf").read_bytes()
    install.install_hooks(newer, strategy="config")
    assert settings.is_symlink() and repo.git("config", f"hook.gitpeft-{NAME}.event") == NAME
    install.uninstall_hooks(newer)
    assert settings.is_symlink() and (tmp_path / "mine.conf").read_bytes() == before
    assert [path.name for path in tmp_path.iterdir() if "conf" in path.name] == ["mine.conf"]


def test_e12_not_both_ways_at_once(repo: Repo, newer: Newer) -> None:
    put_in(repo)
    with pytest.raises(GitpeftError, match="is installed"):
        install.install_hooks(newer, strategy="config")
    take_out(repo)
    install.install_hooks(newer, strategy="config")
    with pytest.raises(GitpeftError, match="is installed"):
        put_in(repo)


def test_e12_a_configured_hook_on_an_older_git_is_found_by_the_doctor(repo: Repo, newer: Newer) -> None:
    install.install_hooks(newer, strategy="config")
    assert "config-ignored" in [finding.code for finding in examine_repository(Older.open(repo.path))]


def test_e12_an_event_without_a_command_is_fixed(repo: Repo, newer: Newer) -> None:
    install.install_hooks(newer, strategy="config")
    repo.git("config", "--unset", f"hook.gitpeft-{NAME}.command")
    assert "config-broken" in [finding.code for finding in examine_repository(newer)]
    assert [
        finding.fixed for finding in examine_repository(newer, fix=True) if finding.code == "config-broken"
    ] == [True]
    assert [hook.runs for hook in read_status(newer).hooks] == [True]


@pytest.mark.parametrize("name", stubs.HOOK_NAMES)
@pytest.mark.parametrize("shell", ["dash", "bash --posix"])
def test_e13_the_text_is_posix_with_plain_line_ends(name: str, shell: str, tmp_path: Path) -> None:
    text = stubs.render_stub(name, "/opt/python")
    assert text.startswith(b"#!/bin/sh\n") and b"\r" not in text and b"@" not in text.replace(b'"$@"', b"")
    (tmp_path / "stub").write_bytes(text)
    subprocess.run([*shell.split(), "-n", str(tmp_path / "stub")], check=True)


@pytest.mark.parametrize(
    "odd", ["a b", "it's", 'say "x"', "ünïcödé", "$HOME `id`", "back\\slash", "new\nline"]
)
def test_e13_any_path_of_an_interpreter_is_quoted(repo: Repo, tmp_path: Path, odd: str) -> None:
    python = script(tmp_path / odd / "python", f"#!/bin/sh\nprintf '%s|' \"$@\" >'{tmp_path}/args'\n")
    put_in(repo, python=str(python))
    done = subprocess.run([hook_of(repo), "F"], cwd=repo.path, capture_output=True)
    assert (done.returncode, done.stderr) == (0, b"")
    assert (
        tmp_path / "args"
    ).read_text() == "-I|-c|from gitpeft.hook import run; run()|prepare-commit-msg|F|"
    if "\n" not in odd:
        assert read_status(opened(repo)).hooks[0].python == str(python)


def test_e14_each_released_version_is_known_and_upgraded(repo: Repo) -> None:
    """Version 1 is the only one yet; its text is pinned here, so that a change must raise the number."""
    old = stubs.render_stub(NAME, "/old/python")
    assert stubs.recognise_stub(old) == stubs.Stub(1, "/old/python", True)
    script(hook_of(repo), old.decode())
    assert [finding.code for finding in examine_repository(opened(repo))][:1] == ["stale-python"]
    assert put_in(repo).action == "updated"
    assert stubs.recognise_stub(hook_of(repo).read_bytes()) == stubs.Stub(1, sys.executable, True)
    assert not hook_of(repo).with_name(NAME + stubs.CHAINED_SUFFIX).exists()


def test_e15_a_link_is_chained_as_a_link_and_never_followed(repo: Repo) -> None:
    repo.write("scripts/hook", FOREIGN).chmod(0o755)
    hook_of(repo).symlink_to("../../scripts/hook")
    before = snapshot(repo)
    put_in(repo)
    assert not hook_of(repo).is_symlink() and (repo.path / "scripts/hook").read_text() == FOREIGN
    subprocess.run([hook_of(repo), "F", "message"], cwd=repo.path, check=True)
    assert (repo.path / "ran").read_text() == "F message\n"
    (repo.path / "ran").unlink()
    take_out(repo)
    assert snapshot(repo) == before and hook_of(repo).is_symlink()


def test_e15_a_hooks_folder_that_is_a_link_out_of_the_repository_is_refused(
    repo: Repo, tmp_path: Path
) -> None:
    hooks = repo.path / ".git/hooks"
    hooks.rename(tmp_path / "elsewhere")
    hooks.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(GitpeftError, match="outside"):
        put_in(repo)
    assert not (tmp_path / "elsewhere" / NAME).exists()


# --- E16, and installers beside each other ----------------------------------------------------------------


def test_e16_status_tells_what_is_there(repo: Repo) -> None:
    assert read_status(opened(repo)).hooks == () and not read_status(opened(repo)).is_working
    put_in(repo)
    [hook] = read_status(opened(repo)).hooks
    assert (hook.name, hook.how, hook.runs, hook.python, hook.intact) == (
        NAME,
        "stub",
        True,
        sys.executable,
        True,
    )
    assert read_status(opened(repo)).model == ""


@pytest.mark.parametrize("damage", ["stale-python", "not-executable", "outdated"])
def test_e16_the_doctor_finds_and_fixes(repo: Repo, tmp_path: Path, damage: str) -> None:
    put_in(repo, python=str(tmp_path / "gone") if damage == "stale-python" else sys.executable)
    if damage == "not-executable":
        hook_of(repo).chmod(0o644)
    if damage == "outdated":
        text = stubs.render_stub(NAME, sys.executable).replace(b"It never stops", b"This never stops")
        mark = text.index(b"seal ") + 5
        unsealed = text[:mark] + b"@SEAL@" + text[mark + 64 :]
        hook_of(repo).write_bytes(unsealed.replace(b"@SEAL@", stubs._compute_seal(unsealed)))
    assert [finding.code for finding in examine_repository(opened(repo))] == [damage, "no-model"]
    assert [finding.fixed for finding in examine_repository(opened(repo), fix=True)] == [True, False]
    assert [finding.code for finding in examine_repository(opened(repo))] == ["no-model"]


def test_e16_the_doctor_finds_what_an_interrupted_installation_left(repo: Repo) -> None:
    foreign(repo)
    before = snapshot(repo)
    hook_file.keep_foreign_hook(
        hook_file.inspect_hook(hook_of(repo)), hook_of(repo).with_name(NAME + stubs.CHAINED_SUFFIX)
    )
    assert "leftover" in [finding.code for finding in examine_repository(opened(repo))]
    examine_repository(opened(repo), fix=True)
    assert snapshot(repo) == before


def test_e16_the_doctor_finds_a_hook_that_lefthook_moved_aside(repo: Repo) -> None:
    put_in(repo)
    hook_of(repo).rename(hook_of(repo).with_name(f"{NAME}.old"))
    script(hook_of(repo), LEFTHOOK_HOOK)
    assert "displaced" in [finding.code for finding in examine_repository(opened(repo))]
    take_out(repo)
    assert not hook_of(repo).with_name(f"{NAME}.old").exists() and hook_of(repo).read_text() == LEFTHOOK_HOOK


def test_e16_the_doctor_names_a_missing_and_a_damaged_model(repo: Repo) -> None:
    put_in(repo)
    assert [finding.code for finding in examine_repository(opened(repo))] == ["no-model"]
    repo.write(".git/gitpeft/current", "0" * 64 + "\n\n")
    assert [finding.code for finding in examine_repository(opened(repo))] == ["model"]


def test_e16_the_doctor_names_a_bad_setting(repo: Repo) -> None:
    put_in(repo)
    repo.git("config", "gitpeft.alternatives", "many")
    assert "setting" in [finding.code for finding in examine_repository(opened(repo))]


@pytest.mark.parametrize(
    ("what", "code"),
    [
        (("gitpeft.enabled", "false"), "off"),
        (("gitpeft.exclude", "*"), "off"),
        ({"CI": "true"}, "environment"),
        ({"GITPEFT": "0"}, "environment"),
        ({"GIT_EDITOR": "/bin/true"}, "editor"),
        ("only the other hook", "not-installed"),
    ],
    ids=str,
)
def test_e16_the_doctor_says_why_nothing_is_offered(
    repo: Repo, monkeypatch: pytest.MonkeyPatch, what: tuple[str, str] | dict[str, str] | str, code: str
) -> None:
    monkeypatch.setenv("GIT_EDITOR", "vi")
    install.install_hooks(opened(repo), hooks=stubs.HOOK_NAMES)
    assert [finding.code for finding in examine_repository(opened(repo))] == ["no-model"]
    if isinstance(what, dict):
        [(name, value)] = what.items()
        monkeypatch.setenv(name, value)
    elif isinstance(what, tuple):
        repo.git("config", *what)
    else:
        hook_of(repo).unlink()
    assert code in [finding.code for finding in examine_repository(opened(repo))]


def test_what_the_doctor_advises_on_the_editor_would_help(
    repo: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    repo.git("config", "core.editor", "true")
    for name, way in (("true", "unset GIT_EDITOR"), ("", "git config core.editor")):
        monkeypatch.setenv("GIT_EDITOR", name)
        [found] = [one for one in examine_repository(opened(repo)) if one.code == "editor"]
        assert way in found.remedy


def test_e16_the_hook_before_a_commit_offers_no_message(repo: Repo) -> None:
    install.install_hooks(opened(repo), hooks=stubs.HOOK_NAMES)
    state = replace(read_status(opened(repo)), model="a model")
    assert state.is_working
    assert not replace(state, hooks=state.hooks[1:]).is_working


def test_e17_a_clone_runs_nothing_before_its_owner_installs(repo: Repo, tmp_path: Path) -> None:
    put_in(repo)
    repo.commit("Start", **{".gitpeft": "[gitpeft]\n\talternatives = 1\n"})
    clone = repo.clone(tmp_path / "clone")
    assert read_status(opened(clone)).hooks == ()
    assert not hook_of(clone).exists()


def whole(repo: Repo, original: bytes | None, ours: bytes) -> None:
    hook = hook_of(repo)
    content = hook.read_bytes() if hook.exists() else None
    assert content in (original, ours)
    if content is not None:
        assert os.access(hook, os.X_OK)
    if content == ours and original is not None:
        assert hook.with_name(NAME + stubs.CHAINED_SUFFIX).read_bytes() == original


def test_installers_and_uninstallers_beside_each_other(repo: Repo) -> None:
    foreign(repo)
    before = snapshot(repo)
    work = [threading.Thread(target=what, args=[repo]) for what in (put_in, put_in, take_out, put_in) * 3]
    for thread in work:
        thread.start()
    for thread in work:
        thread.join()
    whole(repo, FOREIGN.encode(), stubs.render_stub(NAME, sys.executable))
    take_out(repo)
    assert snapshot(repo) == before


def test_another_hook_already_kept_is_a_reason_to_stop(repo: Repo) -> None:
    foreign(repo)
    script(hook_of(repo).with_name(NAME + stubs.CHAINED_SUFFIX), "#!/bin/sh\nexit 1\n")
    before = snapshot(repo)
    with pytest.raises(GitpeftError, match="still kept"):
        put_in(repo)
    assert snapshot(repo) == before


def test_the_place_of_hooks_names_its_setting(repo: Repo) -> None:
    repo.git("config", "core.hooksPath", ".x")
    found = hooks_path.find_hooks_folder(opened(repo))
    assert found.setting is not None and found.setting.scope == "local" and found.owned
