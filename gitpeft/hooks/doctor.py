"""What stands between a commit and its suggestion: hides how hooks, settings and the model are examined."""

import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from gitpeft.bundle import bundle
from gitpeft.config import Config, load
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import NO_EDITORS, OLDEST, Repository
from gitpeft.hooks import hook_file, hooks_path, managers, stubs
from gitpeft.hooks.install import CONFIG_HOOKS, configured, install, section, uninstall
from gitpeft.suggest import cache, commit_lint, reranker

LOG_LINES = 5
_OFF = ("", "0", "false")


@dataclass(frozen=True, slots=True)
class Hook:
    """One installed hook: how it came in (stub, config, line, or a manager's name), and if git runs it."""

    name: str
    where: Path
    how: str
    runs: bool
    python: str
    version: int
    intact: bool


@dataclass(frozen=True, slots=True)
class Status:
    """The state of a repository at a glance. `model` is the id of the active one, `""` for none."""

    hooks: tuple[Hook, ...]
    folder: Path
    disabled: bool
    enabled: bool
    model: str
    log: tuple[str, ...]

    @property
    def works(self) -> bool:
        """Whether the next commit with an editor can be offered a message."""
        offers = [hook for hook in self.hooks if hook.name == stubs.NAMES[0]]
        return self.enabled and bool(self.model) and any(hook.runs for hook in offers)


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is wrong: a word for programs, a sentence, the way out, and whether it was mended."""

    code: str
    text: str
    remedy: str = ""
    mended: bool = False


def status(repo: Repository) -> Status:
    """What is installed here, and whether it works. Changes nothing."""
    place = hooks_path.place(repo)
    return Status(
        hooks=tuple(_hooks(repo, place)),
        folder=place.folder,
        disabled=place.disabled,
        enabled=load(repo).enabled,
        model=cache.active_model(repo.state_dir),
        log=tuple(_log(repo)),
    )


def _log(repo: Repository) -> list[str]:
    try:
        return (repo.state_dir / "hook.log").read_text(errors="replace").splitlines()[-LOG_LINES:]
    except OSError:
        return []


def _hooks(repo: Repository, place: hooks_path.Place) -> Iterator[Hook]:
    for name, found in hooks_path.stubs_in(repo, stubs.NAMES):
        runs = not place.disabled and found.path.parent == place.folder and _called(found, name)
        yield _hook(name, found, "stub", runs)
    own = {name: hook_file.look(repo.state_dir / "hooks" / name) for name in stubs.NAMES}
    for name, found in own.items():
        if configured(repo, name):
            yield _hook(name, found, "config", _configured_runs(repo, name) and _executable(found))
        if managers.has_line(hook_file.text(place.folder / name), name):
            yield _hook(name, found, "line", not place.disabled and _executable(found))
    if repo.work_tree is not None:
        name = stubs.NAMES[0]
        for manager, line in managers.LINES.items():
            if managers.present(repo.work_tree, line):
                runs = _executable(own[name]) and _managed(place, manager, name)
                yield _hook(name, own[name], manager, runs)


def _hook(name: str, found: hook_file.Found, how: str, runs: bool) -> Hook:
    stub = found.stub or stubs.Stub(0, "", False)
    runs = runs and os.access(stub.python, os.X_OK)
    return Hook(name, found.path, how, runs, stub.python, stub.version, stub.intact)


def _executable(found: hook_file.Found) -> bool:
    return found.kind in ("ours", "changed") and os.access(found.path, os.X_OK)


def _configured_runs(repo: Repository, name: str) -> bool:
    enabled = repo.ask("config", "--type=bool", "--get", f"{section(name)}.enabled")
    return repo.version >= CONFIG_HOOKS and enabled != "false"


def _called(found: hook_file.Found, name: str) -> bool:
    """Whether the hook is in its place, or where pre-commit runs what it moved aside."""
    if found.path.name == f"{name}.legacy":
        hook = hook_file.look(found.path.with_name(name))
        return _executable(found) and hooks_path.manager(hook.content) == "pre-commit"
    return _executable(found) and found.path.name == name


def _managed(place: hooks_path.Place, manager: str, name: str) -> bool:
    """Whether git runs the hook of the manager in whose file the line is."""
    if manager == "husky":
        return hooks_path.husky_root(place.folder) is not None and (place.folder / name).is_file()
    hook = hook_file.look(place.folder / name)
    return not place.disabled and hooks_path.manager(hook.content) == manager


def doctor(repo: Repository, *, mend: bool = False, python: str = sys.executable) -> list[Finding]:
    """Everything that keeps a suggestion away, each with its way out; an empty list when all is well.

    With `mend`, what concerns only gitpeft's own files is put right: a stale interpreter, an old version, a
    lost executable bit, what an interrupted installation left. Settings and other people's hooks never are.
    """
    place, state, config = hooks_path.place(repo), status(repo), load(repo)
    return [
        *_about_git(repo, place),
        *_about_hooks(repo, state, place, mend, python),
        *_about_leftovers(repo, place, mend),
        *_about_model(repo, state),
        *_about_silence(repo, config),
        *(Finding("setting", problem, "correct it with `git config`") for problem in config.problems),
        *_about_lint(repo),
    ]


def _about_lint(repo: Repository) -> Iterator[Finding]:
    rules = commit_lint.load(repo.work_tree) if repo.work_tree is not None else commit_lint.Rules()
    for sentence in commit_lint.unread(rules):
        yield Finding("linter", sentence, "suggestions may need a change before the linter takes them")


def _about_git(repo: Repository, place: hooks_path.Place) -> Iterator[Finding]:
    if repo.version < OLDEST:
        yield Finding(
            "git-version", f"git {'.'.join(map(str, repo.version))} is too old", "install a newer git"
        )
    if place.disabled or not place.owned:
        try:
            hooks_path.usable(repo)
        except GitpeftError as error:
            yield Finding("hooks-disabled" if place.disabled else "hooks-outside", error.message, error.hint)


def _about_hooks(
    repo: Repository, state: Status, place: hooks_path.Place, mend: bool, python: str
) -> Iterator[Finding]:
    if not any(hook.name == stubs.NAMES[0] for hook in state.hooks):
        yield Finding("not-installed", "the hook is not installed", "run `gitpeft install`")
    if len({hook.how for hook in state.hooks if hook.name == stubs.NAMES[0] and hook.runs}) > 1:
        yield Finding(
            "twice", "the hook is installed in two ways", "run `gitpeft uninstall`, then install again"
        )
    for hook in state.hooks:
        finding = _about_hook(repo, hook, place, python)
        if finding is not None:
            yield _mended(repo, hook, finding, python) if mend else finding


def _about_hook(repo: Repository, hook: Hook, place: hooks_path.Place, python: str) -> Finding | None:
    again = "run `gitpeft install` again"
    if hook.how == "config" and repo.version < CONFIG_HOOKS:
        return Finding("config-ignored", "this git ignores hooks in its configuration", again)
    command = repo.config(f"{section(hook.name)}.command") if hook.how == "config" else None
    if hook.how == "config" and not command:
        return Finding("config-broken", "a configured hook has no command: git stops at it", again)
    if not hook.python:
        return Finding("stub-missing", f"{hook.where} is called, but is gone", again)
    if not hook.intact:
        return Finding(
            "edited", f"{hook.where} was edited since it was installed", "move it away, install again"
        )
    if not os.access(hook.python, os.X_OK):
        return Finding("stale-python", f"the interpreter in {hook.where} is gone: {hook.python}", again)
    if not os.access(hook.where, os.X_OK):
        return Finding("not-executable", f"{hook.where} is not executable, so git ignores it", again)
    if hook.how == "stub" and hook.where.parent != place.folder:
        return Finding("shadowed", f"git runs the hooks in {place.folder}, not {hook.where}", again)
    if command and command != managers.call(hook.name):
        return Finding(
            "outdated", f"{section(hook.name)}.command is of another version, or of another place", again
        )
    if hook.how == "config" and not hook.runs:
        setting = f"{section(hook.name)}.enabled"
        return Finding("config-disabled", f"{setting} is off", f"turn it on with `git config {setting} true`")
    if not hook.runs:
        return Finding("displaced", f"another hook manager took the place of {hook.where}", again)
    if hook_file.look(hook.where).content != stubs.render(hook.name, hook.python):
        return Finding("outdated", f"{hook.where} is of another version", again)
    return None


def _mended(repo: Repository, hook: Hook, finding: Finding, python: str) -> Finding:
    """Mend what is gitpeft's own, and say whether that worked."""
    if finding.code not in ("stale-python", "not-executable", "outdated", "stub-missing", "config-broken"):
        return finding
    try:
        if finding.code == "config-broken":
            uninstall(repo, hooks=[hook.name])
        install(repo, strategy=hook.how, hooks=[hook.name], python=python)
    except GitpeftError as error:
        return Finding(finding.code, finding.text, f"could not be mended: {error.message}")
    return Finding(finding.code, finding.text, "mended", mended=True)


def _about_leftovers(repo: Repository, place: hooks_path.Place, mend: bool) -> Iterator[Finding]:
    for name in stubs.NAMES:
        hook, kept = place.folder / name, place.folder / (name + stubs.CHAINED)
        if not os.path.lexists(kept) or hook_file.look(hook).kind in ("ours", "changed"):
            continue
        if hook_file.look(place.folder / f"{name}.legacy").kind == "ours":
            continue
        half = os.path.lexists(hook) and hook_file.same(hook, kept)
        if half and mend:
            kept.unlink()
        text = "an interrupted installation left" if half else "another program replaced the hook; kept is"
        remedy = "mended" if half and mend else f"compare {kept} with {hook}, and delete what is not needed"
        yield Finding("leftover", f"{text} {kept}", remedy, mended=half and mend)


def _about_silence(repo: Repository, config: Config) -> Iterator[Finding]:
    """What a person, or this environment, has asked for."""
    if not config.enabled:
        yield Finding("off", "gitpeft.enabled is false", "turn it on with `git config gitpeft.enabled true`")
    if "*" in config.exclude:
        yield Finding("off", "gitpeft.exclude leaves out every file", "name fewer files there")
    for name, silent in (("GITPEFT", lambda value: value == "0"), ("CI", lambda value: value not in _OFF)):
        if silent(value := os.environ.get(name, "")):
            yield Finding("environment", f"{name}={value} keeps the hook silent here", f"unset {name}")
    if (editor := repo.editor()) in NO_EDITORS:
        said = f"git opens {editor!r}" if editor else "git finds no editor"
        yield Finding(
            "editor", f"{said}, in which no message can be read", "set one with `git config core.editor`"
        )


def _about_model(repo: Repository, state: Status) -> Iterator[Finding]:
    if not state.model:
        yield Finding("no-model", "no model has been made for this repository", "run `gitpeft init`")
        return
    try:
        active = bundle.active(repo.state_dir)
        if active is not None:
            bundle.verify(active)
            if reranker.outdated(active.json(bundle.CHOOSER)):
                reranker.embedded()
                said = "its way of choosing is of another version; the default one stands in"
                yield Finding("chooser", said, "run `gitpeft init` to fit it again")
    except GitpeftError as error:
        yield Finding("model", error.message, error.hint)
    except Exception as error:  # any damage is a finding, none may end the examination
        yield Finding("model", f"the model cannot be read ({type(error).__name__})", "run `gitpeft init`")
