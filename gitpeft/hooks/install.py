"""Installing and uninstalling the git hooks, with a strategy for each kind of hook management."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

from gitpeft.config import load_config
from gitpeft.errors import GitpeftError
from gitpeft.files import hold_lock
from gitpeft.git.repository import Repository
from gitpeft.hooks import git_settings, hook_file, hooks_path, managers, stubs

STRATEGIES = ("auto", "stub", "config", "line", "husky", "pre-commit", "lefthook")
CONFIG_HOOKS_VERSION = (2, 54)
"""The first git that runs hooks named in its configuration; older ones ignore the section without a word."""


@dataclass(frozen=True, slots=True)
class InstalledHook:
    """What `install` did: `action` is created, unchanged, updated, chained or skipped; git runs `where`."""

    strategy: str
    action: str
    where: Path
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class RemovedHook:
    """What `uninstall` did at a place: removed, restored (an earlier hook is back), left (edited since)."""

    where: Path
    action: str


def install_hooks(
    repo: Repository,
    *,
    strategy: str = "auto",
    hooks: Sequence[str] = (stubs.SUGGESTION_HOOK,),
    python: str = sys.executable,
) -> list[InstalledHook]:
    """Install hooks for this interpreter, one result each; a second call changes nothing.

    GitpeftError, with nothing changed, where a hook may not be put, or a strategy does not fit; the one that
    works ahead, without which everything works, is then only skipped.
    """
    if strategy not in STRATEGIES:
        raise GitpeftError(f"unknown strategy {strategy!r}", f"one of {', '.join(STRATEGIES)}")
    with _lock_installation(repo):
        done: dict[str, InstalledHook] = {}
        try:
            for name in hooks:
                install = _install_ahead_hook if name == stubs.AHEAD_HOOK else _install_hook
                done[name] = install(repo, strategy, name, python)
        except GitpeftError:
            _undo_installation(repo, done)
            raise
        return list(done.values())


def _undo_installation(repo: Repository, done: Mapping[str, InstalledHook]) -> None:
    """Take out what this call put in, before a later hook of it failed."""
    for name, one in done.items():
        if one.action in ("created", "chained"):
            for _ in _uninstall_hook(repo, name):
                pass
    if done:
        _remove_made_folders(repo)
    _remove_empty_folders([repo.state_dir / "hooks", repo.state_dir])


def _install_hook(repo: Repository, strategy: str, name: str, python: str) -> InstalledHook:
    chosen = _choose_strategy(repo, name) if strategy == "auto" else strategy
    if chosen == "config":
        return _install_in_config(repo, name, python)
    if chosen == "line":
        return _install_for_line(repo, name, python)
    if chosen == "stub":
        return _install_as_stub(repo, name, python)
    return _install_in_manager(repo, chosen, name, python)


def _install_ahead_hook(repo: Repository, strategy: str, name: str, python: str) -> InstalledHook:
    """Install the hook that works ahead, or say why not. No hook manager's own lines start it."""
    folder = hooks_path.find_hooks_folder(repo).folder
    try:
        if not load_config(repo).ahead:
            raise GitpeftError("gitpeft.ahead is false")
        if hooks_path.find_husky_root(folder):
            raise GitpeftError("husky calls no such hook")
        return _install_hook(repo, "auto" if strategy in managers.MANAGER_LINES else strategy, name, python)
    except GitpeftError as error:
        note = f"nothing is worked on ahead: {error.message}{f' ({error.hint})' if error.hint else ''}"
        return InstalledHook(strategy, "skipped", folder / name, (note,))


def _choose_strategy(repo: Repository, name: str) -> str:
    """The strategy that leaves every other hook manager's own files to it."""
    folder = hooks_path.require_usable_folder(repo).folder
    if hooks_path.find_husky_root(folder):
        return "husky"
    text = hook_file.read_hook_text(folder / name)
    if hooks_path.detect_manager(text) == "lefthook":
        return "lefthook"
    return "line" if managers.has_hook_line(text, name) else "stub"


# --- a stub in the hooks directory ------------------------------------------------------------------------


def _install_as_stub(repo: Repository, name: str, python: str) -> InstalledHook:
    folder = hooks_path.require_usable_folder(repo).folder
    if hooks_path.find_husky_root(folder):
        raise GitpeftError("husky writes this hooks directory anew", "use `gitpeft install --strategy husky`")
    if is_configured(repo, name):
        raise GitpeftError("the hook is installed through git config", "run `gitpeft uninstall` first")
    found = hook_file.inspect_hook(folder / name)
    if hooks_path.detect_manager(found.content) == "overcommit":
        raise GitpeftError(
            "overcommit manages this hook",
            f"run `gitpeft install --strategy line`, and add to .overcommit.yml:\n{_OVERCOMMIT_SETTINGS}",
        )
    if (
        hooks_path.detect_manager(found.content) == "pre-commit"
    ):  # it runs what it finds under this name, and restores it
        found = hook_file.inspect_hook(folder / f"{name}.legacy")
    text = stubs.render_stub(name, python)
    _make_hooks_folder(repo, folder)
    done = _write_stub(repo, name, found, text)
    return done if done.action == "unchanged" else replace(done, notes=_describe_other_worktrees(repo))


def _describe_other_worktrees(repo: Repository) -> tuple[str, ...]:
    """That the hook is in this work tree alone, where the others look for hooks elsewhere."""
    others = hooks_path.map_other_worktrees(repo).values()
    if not others or not hooks_path.find_hooks_folder(repo).is_relative:
        return ()
    names = ", ".join(map(str, others))
    return (f"core.hooksPath is relative: run `gitpeft install` in the other worktrees too ({names})",)


_OVERCOMMIT_SETTINGS = f"""\
PrepareCommitMsg:
  Gitpeft:
    enabled: true
    command: ['sh', '-c', '{managers.format_hook_command(stubs.SUGGESTION_HOOK)} "$@"', 'gitpeft']
    description: 'Suggest a commit message'
"""

_OWN_NAME_PATTERN = re.compile(rb"""basename (?:-- )?["']?\$\{?0|\$\{0##|argv\[0\]|husky\.sh""")
"""How a hook asks under which name it was called. Kept under another name, it would not do its work."""


def _write_stub(repo: Repository, name: str, found: hook_file.HookFile, text: bytes) -> InstalledHook:
    mode = _read_hook_mode(repo)
    action = {"missing": "created", "ours": "updated", "foreign": "chained"}.get(found.kind, "")
    if found.kind == "changed":
        raise GitpeftError(f"{found.path} was edited since it was installed", "move it away, then try again")
    if found.content == text and os.access(found.path, os.X_OK):
        return InstalledHook("stub", "unchanged", found.path)
    if found.kind == "foreign":
        line = managers.format_hook_line(name)
        way_out = f"run `gitpeft install --strategy line`, and add this line to it:\n{line}"
        if hooks_path.is_tracked(repo, found.path):
            raise GitpeftError(f"{found.path} is under version control", way_out)
        if _OWN_NAME_PATTERN.search(hook_file.read_hook_text(found.path)):
            raise GitpeftError(f"{found.path} goes by its own name, so it cannot be moved aside", way_out)
    try:
        hooks_path.remember_folder(repo, found.path.parent)
    except OSError as error:
        raise hook_file.make_unwritable_error(repo.state_dir, error) from None
    if found.kind == "foreign":
        hook_file.keep_foreign_hook(found, found.path.with_name(name + stubs.CHAINED_SUFFIX))
    hook_file.write_hook(found.path, text, mode)
    return InstalledHook("stub", action, found.path)


def _read_hook_mode(repo: Repository) -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return hook_file.compute_hook_mode(repo.get_config("core.sharedRepository") or "", umask)


def _make_hooks_folder(repo: Repository, folder: Path) -> None:
    """Make the hooks directory; a sign is left, so that `uninstall` can take it away again."""
    missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
    try:
        if missing:
            repo.state_dir.mkdir(parents=True, exist_ok=True)
            made = dict.fromkeys([*_read_made_folders(repo), *missing])  # the innermost first
            hook_file.replace_file(
                _get_made_folders_path(repo), os.fsencode("\0".join(map(str, made))), 0o644
            )
        for path in reversed(missing):
            path.mkdir()
        if folder in _read_made_folders(repo):
            folder.chmod(_read_hook_mode(repo))
    except OSError as error:
        raise hook_file.make_unwritable_error(folder, error) from None


def _get_made_folders_path(repo: Repository) -> Path:
    return repo.state_dir / "made-hooks-directory"


def _read_made_folders(repo: Repository) -> list[Path]:
    """The directories that an installation made here, the innermost first."""
    try:
        return [
            Path(name) for name in os.fsdecode(_get_made_folders_path(repo).read_bytes()).split("\0") if name
        ]
    except OSError:
        return []


def _install_for_line(repo: Repository, name: str, python: str) -> InstalledHook:
    """The stub alone; the line that calls it is for a person to add, where it is not there yet."""
    existed = hook_file.inspect_hook(repo.state_dir / "hooks" / name).content
    path = _write_own_stub(repo, name, python)
    action = "created" if not existed else "unchanged" if existed == path.read_bytes() else "updated"
    if managers.has_hook_line(
        hook_file.read_hook_text(hooks_path.find_hooks_folder(repo).folder / name), name
    ):
        return InstalledHook("line", action, path)
    return InstalledHook(
        "line",
        action,
        path,
        (f"add this line to the hook {name} that git runs:\n{managers.format_hook_line(name)}",),
    )


# --- git's own configuration ------------------------------------------------------------------------------


def _write_own_stub(repo: Repository, name: str, python: str) -> Path:
    """The stub in the state directory, for what calls it by its path."""
    path = repo.state_dir / "hooks" / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise hook_file.make_unwritable_error(path.parent, error) from None
    text = stubs.render_stub(name, python)
    if hook_file.inspect_hook(path).content != text or not os.access(path, os.X_OK):
        hook_file.write_hook(path, text, _read_hook_mode(repo))
    return path


def get_config_section(name: str) -> str:
    """Where git's configuration holds our hook for the event `name`."""
    return f"hook.gitpeft-{name}"  # must not be the name of an event: git refuses that


def is_configured(repo: Repository, name: str) -> bool:
    """Whether git's configuration names our hook for the event `name`."""
    return bool(repo.get_config_by_prefix(get_config_section(name) + "."))


def _has_local_section(repo: Repository, name: str) -> bool:
    """Whether the section is in the repository's own settings, where `uninstall` may change it."""
    return bool(
        repo.ask_text("config", "--local", "--get-regexp", "^" + re.escape(get_config_section(name) + "."))
    )


def _install_in_config(repo: Repository, name: str, python: str) -> InstalledHook:
    if repo.git_version < CONFIG_HOOKS_VERSION:
        raise GitpeftError(
            f"git {'.'.join(map(str, repo.git_version))} does not run hooks from its configuration",
            f"git {'.'.join(map(str, CONFIG_HOOKS_VERSION))} or newer does; or leave --strategy away",
        )
    if hooks_path.find_hooks_folder(repo).disabled:
        hooks_path.require_usable_folder(repo)  # says why, and the way out
    for _, found in hooks_path.find_stubs(repo, [name]):
        raise GitpeftError(f"the hook is installed in {found.path} too", "run `gitpeft uninstall` first")
    path = _write_own_stub(repo, name, python)
    command, here = managers.format_hook_command(name), get_config_section(name)
    if repo.get_config(f"{here}.command") == command and repo.get_config(f"{here}.event") == name:
        return InstalledHook("config", "unchanged", path)
    existed = is_configured(repo, name)
    # An event without a command is fatal to every git command that meets it: both come at once.
    git_settings.edit_git_settings(repo, [f"{here}.command", command], [f"{here}.event", name])
    return InstalledHook("config", "updated" if existed else "created", path)


def _remove_from_config(repo: Repository, name: str) -> bool:
    """Remove the whole section in one write."""
    if not _has_local_section(repo, name):
        return False
    git_settings.edit_git_settings(repo, ["--remove-section", get_config_section(name)])
    return True


# --- the files of other hook managers ---------------------------------------------------------------------


def _install_in_manager(repo: Repository, manager: str, name: str, python: str) -> InstalledHook:
    if repo.work_tree is None:
        raise GitpeftError(f"{manager} runs hooks only in a work tree", "run this in a clone with files")
    if name != stubs.SUGGESTION_HOOK:
        raise GitpeftError(
            f"gitpeft's line for {manager} covers only {stubs.SUGGESTION_HOOK}, not the risk flag",
            f"run `gitpeft install` alone; for the flag, `gitpeft install --strategy line --risk` gives a"
            f" line for {manager}'s own {name}",
        )
    line = managers.MANAGER_LINES[manager]
    if manager == "husky" and not (repo.work_tree / line.file).parent.is_dir():
        raise _make_no_husky_error(repo)
    before = _read_own_stub(repo, name)
    _write_own_stub(repo, name, python)
    try:
        added = managers.add_line(repo.work_tree, line)
    except GitpeftError:
        if before is None:
            _remove_own_stub(repo, name)
        raise
    elsewhere = hooks_path.map_other_worktrees(repo)
    for _, found in hooks_path.find_stubs(repo, [name]):  # one that the manager shadows or moved aside
        if found.kind == "ours" and found.path.parent not in elsewhere:
            hook_file.remove_hook(found, name)
    active = manager == "husky" and (hooks_path.find_hooks_folder(repo).folder / name).is_file()
    notes = () if active else (f"{managers.ACTIVATIONS[manager]} once in this work tree",)
    return InstalledHook(manager, "created" if added else "unchanged", repo.work_tree / line.file, notes)


def _make_no_husky_error(repo: Repository) -> GitpeftError:
    place = hooks_path.find_hooks_folder(repo)
    if not hooks_path.find_husky_root(place.folder):
        return GitpeftError(
            "husky is not set up here: there is no folder .husky",
            "run `npx husky init` first, or `gitpeft install` without --strategy",
        )
    return GitpeftError(
        f"git looks for husky's hooks in {place.folder} (core.hooksPath), but this work tree has no .husky",
        "check out a branch that has .husky; or, if husky is no longer used, run"
        " `git config --unset core.hooksPath`, then `gitpeft install`",
    )


def _read_own_stub(repo: Repository, name: str) -> bytes | None:
    found = hook_file.inspect_hook(repo.state_dir / "hooks" / name)
    return None if found.kind == "missing" else found.content


def _remove_own_stub(repo: Repository, name: str) -> bool:
    path = repo.state_dir / "hooks" / name
    if hook_file.inspect_hook(path).kind != "ours":
        return False
    try:
        path.unlink()
    except OSError as error:
        raise hook_file.make_unwritable_error(path.parent, error) from None
    return True


# --- and out again ----------------------------------------------------------------------------------------


def uninstall_hooks(repo: Repository, *, hooks: Sequence[str] = stubs.HOOK_NAMES) -> list[RemovedHook]:
    """Take out every hook of ours, however it came in; what was there before comes back byte for byte.

    A hook that somebody edited since is left, and reported. GitpeftError when a directory does not allow it.
    """
    with _lock_installation(repo):
        removed = [done for name in hooks for done in _uninstall_hook(repo, name)]
        _remove_made_folders(repo)
        return removed


def _uninstall_hook(repo: Repository, name: str) -> Iterator[RemovedHook]:
    if _remove_from_config(repo, name):
        yield RemovedHook(repo.common_dir / "config", "removed")
    for _, found in hooks_path.find_stubs(repo, [name]):
        if found.kind == "changed":
            yield RemovedHook(found.path, "left")
        else:
            yield RemovedHook(found.path, hook_file.remove_hook(found, name))
    for folder in hooks_path.list_hook_folders(repo):
        if _restore_chained_hook(folder, name):
            yield RemovedHook(folder / name, "restored")
    for root in repo.list_worktrees() if name == stubs.SUGGESTION_HOOK else []:
        for line in managers.MANAGER_LINES.values():
            if managers.remove_line(root, line):
                yield RemovedHook(root / line.file, "removed")
    if _remove_own_stub(repo, name):
        yield RemovedHook(repo.state_dir / "hooks" / name, "removed")


def _restore_chained_hook(folder: Path, name: str) -> bool:
    """Put the foreign hook in order where ours is not in front of it.

    An installation that was killed between its two steps leaves a second name of it; and who deletes our hook
    by hand leaves only that: then it comes back, and the answer is True.
    """
    hook, kept = folder / name, folder / (name + stubs.CHAINED_SUFFIX)
    if not os.path.lexists(kept):
        return False
    if not any(os.path.lexists(folder / (name + ending)) for ending in hook_file.MOVED_SUFFIXES):
        kept.replace(hook)
        return True
    if os.path.lexists(hook) and hook_file.is_same_hook(hook, kept):
        kept.unlink()
    return False


def _remove_made_folders(repo: Repository) -> None:
    """Take away the directories that an installation made, as far as nothing else lies in them."""
    _remove_empty_folders([*_read_made_folders(repo), repo.state_dir / "hooks"])
    try:
        _get_made_folders_path(repo).unlink(missing_ok=True)
        if not hooks_path.find_stubs(repo, stubs.HOOK_NAMES):
            (repo.state_dir / hooks_path.REMEMBERED_FOLDERS_FILE).unlink(missing_ok=True)
    except OSError as error:
        raise hook_file.make_unwritable_error(repo.state_dir, error) from None
    _remove_empty_folders([repo.state_dir])  # a model and what was learnt stay


def measure_state(repo: Repository) -> int:
    """The bytes of models, caches and statistics in `.git/gitpeft`."""
    return sum(path.lstat().st_size for path in repo.state_dir.rglob("*") if path.is_file())


def delete_state(repo: Repository) -> int:
    """Delete `.git/gitpeft` with all in it; the bytes it held. GitpeftError while a training writes there."""
    import shutil

    from gitpeft.bundle import registry

    size = measure_state(repo)
    if not repo.state_dir.is_dir():
        return 0
    with registry.hold_training_lock(repo.state_dir):
        try:
            shutil.rmtree(repo.state_dir)
        except OSError as error:
            raise hook_file.make_unwritable_error(repo.state_dir, error) from None
    return size


def _remove_empty_folders(folders: Sequence[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            pass  # gone already, or something lies there


def _remove_leftovers(repo: Repository) -> None:
    """Clear away what a killed installation left half done."""
    for folder in (*hooks_path.list_hook_folders(repo), repo.state_dir / "hooks"):
        hook_file.remove_temporary_files(folder)
    git_settings.remove_settings_leftovers(repo)
    for root in repo.list_worktrees():
        for line in managers.MANAGER_LINES.values():
            managers.remove_line_leftovers(root, line)


@contextmanager
def _lock_installation(repo: Repository) -> Iterator[None]:
    """One installation at a time; a file system without locks does without.

    The directory of the repository is locked itself, so that no file is left behind.
    """
    with ExitStack() as lock:
        try:
            lock.enter_context(hold_lock(repo.common_dir))
        except OSError as error:
            raise hook_file.make_unwritable_error(repo.common_dir, error) from None
        _remove_leftovers(repo)
        yield
