"""Put hooks in, take them out: hides the strategies, and what keeps an interrupted one harmless."""

import os
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.hooks import git_settings, hook_file, hooks_path, managers, stubs

STRATEGIES = ("auto", "stub", "config", "line", "husky", "pre-commit", "lefthook")
CONFIG_HOOKS = (2, 54)
"""The first git that runs hooks named in its configuration; older ones ignore the section without a word."""


@dataclass(frozen=True, slots=True)
class Installed:
    """What `install` did: `action` is created, unchanged, updated or chained; git runs `where`."""

    strategy: str
    action: str
    where: Path
    notes: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Removed:
    """What `uninstall` did at a place: removed, restored (an earlier hook is back), left (edited since)."""

    where: Path
    action: str


def install(
    repo: Repository,
    *,
    strategy: str = "auto",
    hooks: Sequence[str] = stubs.NAMES[:1],
    python: str = sys.executable,
) -> list[Installed]:
    """Install hooks for this interpreter, one result each; a second call changes nothing.

    GitpeftError, with nothing changed, where a hook may not be put, or a strategy does not fit.
    """
    if strategy not in STRATEGIES:
        raise GitpeftError(f"unknown strategy {strategy!r}", f"one of {', '.join(STRATEGIES)}")
    with _lock(repo):
        done: dict[str, Installed] = {}
        try:
            for name in hooks:
                done[name] = _install_one(repo, strategy, name, python)
        except GitpeftError:
            _undo(repo, done)
            raise
        return list(done.values())


def _undo(repo: Repository, done: Mapping[str, Installed]) -> None:
    """Take out what this call put in, before a later hook of it failed."""
    for name, one in done.items():
        if one.action in ("created", "chained"):
            for _ in _uninstall_one(repo, name):
                pass
    if done:
        _remove_folders(repo)
    _drop_empty([repo.state_dir / "hooks", repo.state_dir])


def _install_one(repo: Repository, strategy: str, name: str, python: str) -> Installed:
    chosen = _choose(repo, name) if strategy == "auto" else strategy
    if chosen == "config":
        return _in_config(repo, name, python)
    if chosen == "line":
        return _for_line(repo, name, python)
    if chosen == "stub":
        return _as_stub(repo, name, python)
    return _native(repo, chosen, name, python)


def _choose(repo: Repository, name: str) -> str:
    """The strategy that leaves every other hook manager's own files to it."""
    folder = hooks_path.usable(repo).folder
    if hooks_path.husky_root(folder):
        return "husky"
    text = hook_file.text(folder / name)
    if hooks_path.manager(text) == "lefthook":
        return "lefthook"
    return "line" if managers.has_line(text, name) else "stub"


# --- a stub in the hooks directory ------------------------------------------------------------------------


def _as_stub(repo: Repository, name: str, python: str) -> Installed:
    folder = hooks_path.usable(repo).folder
    if hooks_path.husky_root(folder):
        raise GitpeftError("husky writes this hooks directory anew", "use `gitpeft install --strategy husky`")
    if configured(repo, name):
        raise GitpeftError("the hook is installed through git config", "run `gitpeft uninstall` first")
    found = hook_file.look(folder / name)
    if hooks_path.manager(found.content) == "overcommit":
        raise GitpeftError(
            "overcommit manages this hook",
            f"run `gitpeft install --strategy line`, and add to .overcommit.yml:\n{_OVERCOMMIT}",
        )
    if (
        hooks_path.manager(found.content) == "pre-commit"
    ):  # it runs what it finds under this name, and restores it
        found = hook_file.look(folder / f"{name}.legacy")
    text = stubs.render(name, python)
    _make_folder(repo, folder)
    return _put_stub(repo, name, found, text)


_OVERCOMMIT = f"""\
PrepareCommitMsg:
  Gitpeft:
    enabled: true
    command: ['sh', '-c', '{managers.call(stubs.NAMES[0])} "$@"', 'gitpeft']
    description: 'Suggest a commit message'
"""

_OWN_NAME = re.compile(rb"""basename (?:-- )?["']?\$\{?0|\$\{0##|argv\[0\]|husky\.sh""")
"""How a hook asks under which name it was called. Kept under another name, it would not do its work."""


def _put_stub(repo: Repository, name: str, found: hook_file.Found, text: bytes) -> Installed:
    mode = _mode(repo)
    action = {"missing": "created", "ours": "updated", "foreign": "chained"}.get(found.kind, "")
    if found.kind == "changed":
        raise GitpeftError(f"{found.path} was edited since it was installed", "move it away, then try again")
    if found.content == text and os.access(found.path, os.X_OK):
        return Installed("stub", "unchanged", found.path)
    if found.kind == "foreign":
        way_out = f"run `gitpeft install --strategy line`, and add this line to it:\n{managers.line(name)}"
        if hooks_path.tracked(repo, found.path):
            raise GitpeftError(f"{found.path} is under version control", way_out)
        if _OWN_NAME.search(hook_file.text(found.path)):
            raise GitpeftError(f"{found.path} goes by its own name, so it cannot be moved aside", way_out)
    try:
        hooks_path.remember(repo, found.path.parent)
    except OSError as error:
        raise hook_file.unwritable(repo.state_dir, error) from None
    if found.kind == "foreign":
        hook_file.keep(found, found.path.with_name(name + stubs.CHAINED))
    hook_file.put(found.path, text, mode)
    return Installed("stub", action, found.path)


def _mode(repo: Repository) -> int:
    umask = os.umask(0o077)
    os.umask(umask)
    return hook_file.mode_for(repo.config("core.sharedRepository") or "", umask)


def _make_folder(repo: Repository, folder: Path) -> None:
    """Make the hooks directory; a sign is left, so that `uninstall` can take it away again."""
    missing = [path for path in (folder, *folder.parents) if not path.is_dir()]
    try:
        if missing:
            repo.state_dir.mkdir(parents=True, exist_ok=True)
            made = dict.fromkeys([*_signed(repo), *missing])  # the innermost first
            hook_file.replace(_sign(repo), os.fsencode("\0".join(map(str, made))), 0o644)
        for path in reversed(missing):
            path.mkdir()
        if folder in _signed(repo):
            folder.chmod(_mode(repo))
    except OSError as error:
        raise hook_file.unwritable(folder, error) from None


def _sign(repo: Repository) -> Path:
    return repo.state_dir / "made-hooks-directory"


def _signed(repo: Repository) -> list[Path]:
    """The directories that an installation made here, the innermost first."""
    try:
        return [Path(name) for name in os.fsdecode(_sign(repo).read_bytes()).split("\0") if name]
    except OSError:
        return []


def _for_line(repo: Repository, name: str, python: str) -> Installed:
    """The stub alone; the line that calls it is for a person to add, where it is not there yet."""
    existed = hook_file.look(repo.state_dir / "hooks" / name).content
    path = _own_stub(repo, name, python)
    action = "created" if not existed else "unchanged" if existed == path.read_bytes() else "updated"
    if managers.has_line(hook_file.text(hooks_path.place(repo).folder / name), name):
        return Installed("line", action, path)
    return Installed(
        "line", action, path, (f"add this line to the hook that git runs:\n{managers.line(name)}",)
    )


# --- git's own configuration ------------------------------------------------------------------------------


def _own_stub(repo: Repository, name: str, python: str) -> Path:
    """The stub in the state directory, for what calls it by its path."""
    path = repo.state_dir / "hooks" / name
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise hook_file.unwritable(path.parent, error) from None
    text = stubs.render(name, python)
    if hook_file.look(path).content != text or not os.access(path, os.X_OK):
        hook_file.put(path, text, _mode(repo))
    return path


def section(name: str) -> str:
    """Where git's configuration holds our hook for the event `name`."""
    return f"hook.gitpeft-{name}"  # must not be the name of an event: git refuses that


def configured(repo: Repository, name: str) -> bool:
    """Whether git's configuration names our hook for the event `name`."""
    return bool(repo.config_all(section(name) + "."))


def _own_settings(repo: Repository, name: str) -> bool:
    """Whether the section is in the repository's own settings, where `uninstall` may change it."""
    return bool(repo.ask("config", "--local", "--get-regexp", "^" + re.escape(section(name) + ".")))


def _in_config(repo: Repository, name: str, python: str) -> Installed:
    if repo.version < CONFIG_HOOKS:
        raise GitpeftError(
            f"git {'.'.join(map(str, repo.version))} does not run hooks from its configuration",
            f"git {'.'.join(map(str, CONFIG_HOOKS))} or newer does; or leave --strategy away",
        )
    if hooks_path.place(repo).disabled:
        hooks_path.usable(repo)  # says why, and the way out
    for _, found in hooks_path.stubs_in(repo, [name]):
        raise GitpeftError(f"the hook is installed in {found.path} too", "run `gitpeft uninstall` first")
    path = _own_stub(repo, name, python)
    command, here = managers.call(name), section(name)
    if repo.config(f"{here}.command") == command and repo.config(f"{here}.event") == name:
        return Installed("config", "unchanged", path)
    existed = configured(repo, name)
    # An event without a command is fatal to every git command that meets it: both come at once.
    git_settings.change(repo, [f"{here}.command", command], [f"{here}.event", name])
    return Installed("config", "updated" if existed else "created", path)


def _out_of_config(repo: Repository, name: str) -> bool:
    """Remove the whole section in one write."""
    if not _own_settings(repo, name):
        return False
    git_settings.change(repo, ["--remove-section", section(name)])
    return True


# --- the files of other hook managers ---------------------------------------------------------------------


def _native(repo: Repository, manager: str, name: str, python: str) -> Installed:
    if repo.work_tree is None:
        raise GitpeftError(f"{manager} runs hooks only in a work tree", "run this in a clone with files")
    if name != stubs.NAMES[0]:
        raise GitpeftError(
            f"gitpeft's line for {manager} covers only {stubs.NAMES[0]}, not the risk flag",
            f"run `gitpeft install` alone; for the flag, `gitpeft install --strategy line --risk` gives a"
            f" line for {manager}'s own {name}",
        )
    line = managers.LINES[manager]
    before = _own_stub_text(repo, name)
    _own_stub(repo, name, python)
    try:
        added = managers.add(repo.work_tree, line)
    except GitpeftError:
        if before is None:
            _drop_own_stub(repo, name)
        raise
    for _, found in hooks_path.stubs_in(repo, [name]):  # one that the manager shadows or moved aside
        if found.kind == "ours":
            hook_file.take_out(found, name)
    notes = {
        "husky": (),
        "lefthook": ("run `lefthook install` once, so that git calls lefthook for this hook",),
        "pre-commit": ("run `pre-commit install -t prepare-commit-msg` once",),
    }[manager]
    return Installed(manager, "created" if added else "unchanged", repo.work_tree / line.file, notes)


def _own_stub_text(repo: Repository, name: str) -> bytes | None:
    found = hook_file.look(repo.state_dir / "hooks" / name)
    return None if found.kind == "missing" else found.content


def _drop_own_stub(repo: Repository, name: str) -> bool:
    path = repo.state_dir / "hooks" / name
    if hook_file.look(path).kind != "ours":
        return False
    try:
        path.unlink()
    except OSError as error:
        raise hook_file.unwritable(path.parent, error) from None
    return True


# --- and out again ----------------------------------------------------------------------------------------


def uninstall(repo: Repository, *, hooks: Sequence[str] = stubs.NAMES) -> list[Removed]:
    """Take out every hook of ours, however it came in; what was there before comes back byte for byte.

    A hook that somebody edited since is left, and reported. GitpeftError when a directory does not allow it.
    """
    with _lock(repo):
        removed = [done for name in hooks for done in _uninstall_one(repo, name)]
        _remove_folders(repo)
        return removed


def _uninstall_one(repo: Repository, name: str) -> Iterator[Removed]:
    if _out_of_config(repo, name):
        yield Removed(repo.common_dir / "config", "removed")
    for _, found in hooks_path.stubs_in(repo, [name]):
        if found.kind == "changed":
            yield Removed(found.path, "left")
        else:
            yield Removed(found.path, hook_file.take_out(found, name))
    for folder in hooks_path.folders(repo):
        if _forget_half(folder, name):
            yield Removed(folder / name, "restored")
    if repo.work_tree is not None and name == stubs.NAMES[0]:
        for line in managers.LINES.values():
            if managers.remove(repo.work_tree, line):
                yield Removed(repo.work_tree / line.file, "removed")
    if _drop_own_stub(repo, name):
        yield Removed(repo.state_dir / "hooks" / name, "removed")


def _forget_half(folder: Path, name: str) -> bool:
    """Put the foreign hook in order where ours is not in front of it.

    An installation that was killed between its two steps leaves a second name of it; and who deletes our hook
    by hand leaves only that: then it comes back, and the answer is True.
    """
    hook, kept = folder / name, folder / (name + stubs.CHAINED)
    if not os.path.lexists(kept):
        return False
    if not any(os.path.lexists(folder / (name + ending)) for ending in hook_file.MOVED):
        kept.replace(hook)
        return True
    if os.path.lexists(hook) and hook_file.same(hook, kept):
        kept.unlink()
    return False


def _remove_folders(repo: Repository) -> None:
    """Take away the directories that an installation made, as far as nothing else lies in them."""
    _drop_empty([*_signed(repo), repo.state_dir / "hooks"])
    try:
        _sign(repo).unlink(missing_ok=True)
        if not hooks_path.stubs_in(repo, stubs.NAMES):
            (repo.state_dir / hooks_path.REMEMBERED).unlink(missing_ok=True)
    except OSError as error:
        raise hook_file.unwritable(repo.state_dir, error) from None
    _drop_empty([repo.state_dir])  # a model and what was learnt stay


def _drop_empty(folders: Sequence[Path]) -> None:
    for folder in folders:
        try:
            folder.rmdir()
        except OSError:
            pass  # gone already, or something lies there


def _sweep(repo: Repository) -> None:
    """Clear away what a killed installation left half done."""
    for folder in (*hooks_path.folders(repo), repo.state_dir / "hooks"):
        hook_file.sweep(folder)
    git_settings.sweep(repo)
    if repo.work_tree is not None:
        for line in managers.LINES.values():
            managers.sweep(repo.work_tree, line)


@contextmanager
def _lock(repo: Repository) -> Iterator[None]:
    """One installation at a time; a file system without locks does without.

    The directory of the repository is locked itself, so that no file is left behind.
    """
    import fcntl

    try:
        handle = os.open(repo.common_dir, os.O_RDONLY | os.O_CLOEXEC)
    except OSError as error:
        raise hook_file.unwritable(repo.common_dir, error) from None
    try:
        try:
            fcntl.flock(handle, fcntl.LOCK_EX)
        except OSError:
            pass
        _sweep(repo)
        yield
    finally:
        os.close(handle)
