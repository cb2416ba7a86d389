"""The state of an installation, and the diagnosis of what keeps suggestions away."""

import os
import re
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path

from gitpeft.bundle import bundle
from gitpeft.bundle.bundle import read_active_id
from gitpeft.config import Config, load_config
from gitpeft.diff.ignore_patterns import find_idle_patterns
from gitpeft.errors import GitpeftError
from gitpeft.git.places import OLDEST_GIT
from gitpeft.git.repository import Repository
from gitpeft.hooks import hook_file, hooks_path, managers, rehearsal, stubs
from gitpeft.hooks.install import (
    CONFIG_HOOKS_VERSION,
    get_config_section,
    install_hooks,
    is_configured,
    uninstall_hooks,
)
from gitpeft.hooks.run import Refusal
from gitpeft.risk import dismissals
from gitpeft.suggest import commit_lint, lint_config, reranker
from gitpeft.terminal import replace_unprintable

LOG_LINES = 5
_MAX_LOG_LINES = 1000
PROBLEM_DAYS = 7
"""What the hook's log says counts for so many days."""

AREAS = ("hook", "model", "editor", "settings", "git")
"""What is examined, in the order in which it is shown."""

_AREA_BY_CODE = {
    "git-version": "git",
    "no-model": "model",
    "model": "model",
    "reranker": "model",
    "timeouts": "model",
    "failures": "model",
    "score": "settings",
    "setting": "settings",
    "exclude": "settings",
    "off": "settings",
    "environment": "settings",
    "linter": "settings",
    "dismissals": "settings",
    "editor": "editor",
}
_TIMEOUT_PATTERN = re.compile(r"no suggestion within (\d+) ms")


@dataclass(frozen=True, slots=True)
class HookStatus:
    """One installed hook: how it came in (stub, config, line, or a manager's name), and if git runs it here.

    `worktree` is the other work tree that it is for, where `core.hooksPath` is relative; None for this one.
    """

    name: str
    where: Path
    how: str
    runs: bool
    python: str
    version: int
    intact: bool
    worktree: Path | None = None


@dataclass(frozen=True, slots=True)
class RepositoryStatus:
    """The state of a repository at a glance. `model` is the id of the active one, `""` for none.

    `silence` says why the next commit would get no offer all the same, by the settings and the environment.
    """

    hooks: tuple[HookStatus, ...]
    folder: Path
    disabled: bool
    enabled: bool
    model: str
    log: tuple[str, ...]
    ahead: bool = True
    silence: str = ""

    @property
    def is_working(self) -> bool:
        """Whether the next commit with an editor can be offered a message."""
        offers = [hook for hook in self.hooks if hook.name == stubs.SUGGESTION_HOOK]
        return not self.silence and bool(self.model) and any(hook.runs for hook in offers)

    @property
    def works_ahead(self) -> bool:
        """Whether work on a message begins as soon as something is staged."""
        return self.ahead and any(hook.runs for hook in self.hooks if hook.name == stubs.AHEAD_HOOK)


@dataclass(frozen=True, slots=True)
class DoctorFinding:
    """One thing that is wrong: a word for programs, a sentence, the way out, and whether it was fixed."""

    code: str
    text: str
    remedy: str = ""
    fixed: bool = False

    @property
    def area(self) -> str:
        """Which part of `AREAS` it belongs to."""
        return _AREA_BY_CODE.get(self.code, "hook")


@dataclass(frozen=True, slots=True)
class RecentProblems:
    """What went wrong in the hook lately: times out of time, other failures, and the last of these."""

    timeouts: int = 0
    failures: int = 0
    last_failure: str = ""

    def describe(self) -> str:
        """In a few words; "" where nothing went wrong."""
        counted = (("timeout", self.timeouts), ("failure", self.failures))
        said = [f"{number} {noun}{'s' if number > 1 else ''}" for noun, number in counted if number]
        return f"{' and '.join(said)} in the last {PROBLEM_DAYS} days" if said else ""


def read_recent_problems(repo: Repository, config: Config, now: float | None = None) -> RecentProblems:
    """What the hook's log holds of the last days; timeouts under a shorter limit than today's are settled."""
    oldest = (time.time() if now is None else now) - PROBLEM_DAYS * 86_400
    timeouts, failures = 0, []
    for line in _read_log(repo, _MAX_LOG_LINES):
        stamp, _, text = line.partition(" ")
        if not _is_later(stamp, oldest):
            continue
        if found := _TIMEOUT_PATTERN.search(text):
            timeouts += int(found[1]) >= config.timeout_ms
        elif "nothing suggested" in text or "not enough memory" in text:
            failures.append(text)
    return RecentProblems(timeouts, len(failures), failures[-1] if failures else "")


def _is_later(stamp: str, moment: float) -> bool:
    try:
        return time.mktime(time.strptime(stamp[:19], "%Y-%m-%dT%H:%M:%S")) > moment
    except (ValueError, OverflowError):
        return False


def read_status(repo: Repository) -> RepositoryStatus:
    """What is installed here, and whether it works. Changes nothing."""
    place, config = hooks_path.find_hooks_folder(repo), load_config(repo)
    silence = next((one.text for one in rehearsal.find_silence(repo, config)), "")
    return RepositoryStatus(
        hooks=tuple(_find_hooks(repo, place)),
        folder=place.folder,
        disabled=place.disabled,
        enabled=config.enabled,
        model=read_active_id(repo.state_dir),
        log=tuple(_read_log(repo)),
        ahead=config.ahead,
        silence=silence,
    )


def _read_log(repo: Repository, most: int = LOG_LINES) -> list[str]:
    """The newest lines of the hook's log, oldest first."""
    try:
        return (repo.state_dir / "hook.log").read_text("utf-8", "replace").splitlines()[-most:]
    except OSError:
        return []


def _find_hooks(repo: Repository, place: hooks_path.HooksFolder) -> Iterator[HookStatus]:
    elsewhere = hooks_path.map_other_worktrees(repo)
    for name, found in hooks_path.find_stubs(repo, stubs.HOOK_NAMES):
        runs = not place.disabled and found.path.parent == place.folder and _is_called(found, name)
        yield replace(_describe_hook(name, found, "stub", runs), worktree=elsewhere.get(found.path.parent))
    own = {name: hook_file.inspect_hook(repo.state_dir / "hooks" / name) for name in stubs.HOOK_NAMES}
    for name, found in own.items():
        if is_configured(repo, name):
            yield _describe_hook(
                name, found, "config", _runs_from_config(repo, name) and _is_executable(found)
            )
        if managers.has_hook_line(hook_file.read_hook_text(place.folder / name), name):
            yield _describe_hook(name, found, "line", not place.disabled and _is_executable(found))
    if repo.work_tree is not None:
        name = stubs.SUGGESTION_HOOK
        for manager, line in managers.MANAGER_LINES.items():
            if managers.is_line_present(repo.work_tree, line):
                runs = _is_executable(own[name]) and _runs_through_manager(place, manager, name)
                yield _describe_hook(name, own[name], manager, runs)


def _describe_hook(name: str, found: hook_file.HookFile, how: str, runs: bool) -> HookStatus:
    stub = found.stub or stubs.Stub(0, "", False)
    runs = runs and os.access(stub.python, os.X_OK)
    return HookStatus(name, found.path, how, runs, stub.python, stub.version, stub.intact)


def _is_executable(found: hook_file.HookFile) -> bool:
    return found.kind in ("ours", "changed") and os.access(found.path, os.X_OK)


def _runs_from_config(repo: Repository, name: str) -> bool:
    enabled = repo.ask_text("config", "--type=bool", "--get", f"{get_config_section(name)}.enabled")
    return repo.git_version >= CONFIG_HOOKS_VERSION and enabled != "false"


def _is_called(found: hook_file.HookFile, name: str) -> bool:
    """Whether the hook is in its place, or where pre-commit runs what it moved aside."""
    if found.path.name == f"{name}.legacy":
        hook = hook_file.inspect_hook(found.path.with_name(name))
        return _is_executable(found) and hooks_path.detect_manager(hook.content) == "pre-commit"
    return _is_executable(found) and found.path.name == name


def _runs_through_manager(place: hooks_path.HooksFolder, manager: str, name: str) -> bool:
    """Whether git runs the hook of the manager in whose file the line is."""
    if manager == "husky":
        return hooks_path.find_husky_root(place.folder) is not None and (place.folder / name).is_file()
    hook = hook_file.inspect_hook(place.folder / name)
    return not place.disabled and hooks_path.detect_manager(hook.content) == manager


def examine_repository(
    repo: Repository, *, fix: bool = False, python: str = sys.executable
) -> list[DoctorFinding]:
    """Everything that keeps a suggestion away, each with its way out; an empty list when all is well.

    With `fix`, what concerns only gitpeft's own files is put right: a stale interpreter, an old version, a
    lost executable bit, what an interrupted installation left. Settings and other people's hooks never are.
    """
    place, state, config = hooks_path.find_hooks_folder(repo), read_status(repo), load_config(repo)
    found = [
        *_check_git(repo, place),
        *_check_hooks(repo, state, place, fix, python),
        *_check_leftovers(repo, place, fix),
        *(broken := list(_check_model(repo, state))),
        *_check_recent_problems(read_recent_problems(repo, config), config),
        *_check_excludes(repo, config),
        *_check_rehearsal(repo, config, not any(one.code in ("no-model", "model") for one in broken)),
        *(DoctorFinding("setting", problem, "correct it with `git config`") for problem in config.problems),
        *_check_lint_settings(repo),
        *_check_dismissals(repo),
    ]
    return _agree_on_timeout(found)


def _agree_on_timeout(found: list[DoctorFinding]) -> list[DoctorFinding]:
    """The findings, those on timeouts with one advice: the last, which what was measured just now needs."""
    remedies = [one.remedy for one in found if one.code == "timeouts"]
    return [replace(one, remedy=remedies[-1]) if one.code == "timeouts" else one for one in found]


def _check_dismissals(repo: Repository) -> Iterator[DoctorFinding]:
    for problem in dismissals.load_dismissals(repo, repo.read_commit_time()).problems:
        yield DoctorFinding("dismissals", problem, "correct the file, or remove the entry")


def _check_lint_settings(repo: Repository) -> Iterator[DoctorFinding]:
    rules = (
        lint_config.load_lint_rules(repo.work_tree) if repo.work_tree is not None else commit_lint.LintRules()
    )
    for sentence in lint_config.explain_unread_files(rules):
        yield DoctorFinding("linter", sentence, "suggestions may need a change before the linter takes them")


def _check_git(repo: Repository, place: hooks_path.HooksFolder) -> Iterator[DoctorFinding]:
    if repo.git_version < OLDEST_GIT:
        yield DoctorFinding(
            "git-version", f"git {'.'.join(map(str, repo.git_version))} is too old", "install a newer git"
        )
    if place.disabled or not place.owned:
        try:
            hooks_path.require_usable_folder(repo)
        except GitpeftError as error:
            yield DoctorFinding(
                "hooks-disabled" if place.disabled else "hooks-outside", error.message, error.hint
            )


def _check_hooks(
    repo: Repository, state: RepositoryStatus, place: hooks_path.HooksFolder, fix: bool, python: str
) -> Iterator[DoctorFinding]:
    offers = [hook for hook in state.hooks if hook.name == stubs.SUGGESTION_HOOK]
    if not offers:
        yield DoctorFinding("not-installed", "the hook is not installed", "run `gitpeft install`")
    elif all(hook.worktree for hook in offers):
        said = f"the hook is installed in {offers[0].worktree} only, but git looks in {place.folder} here"
        yield DoctorFinding("not-installed", said, "run `gitpeft install` in this work tree")
    if len({hook.how for hook in state.hooks if hook.name == stubs.SUGGESTION_HOOK and hook.runs}) > 1:
        yield DoctorFinding(
            "twice", "the hook is installed in two ways", "run `gitpeft uninstall`, then install again"
        )
    for hook in state.hooks:
        finding = _check_hook(repo, hook, place, python)
        if finding is not None:
            yield _fix_hook(repo, hook, finding, python) if fix else finding


def _check_hook(
    repo: Repository, hook: HookStatus, place: hooks_path.HooksFolder, python: str
) -> DoctorFinding | None:
    again = "run `gitpeft install` again"
    if hook.how == "config" and repo.git_version < CONFIG_HOOKS_VERSION:
        return DoctorFinding("config-ignored", "this git ignores hooks in its configuration", again)
    command = repo.get_config(f"{get_config_section(hook.name)}.command") if hook.how == "config" else None
    if hook.how == "config" and not command:
        return DoctorFinding("config-broken", "a configured hook has no command: git stops at it", again)
    if not hook.python:
        return DoctorFinding("stub-missing", f"{hook.where} is called, but is gone", again)
    if not hook.intact:
        return DoctorFinding(
            "edited", f"{hook.where} was edited since it was installed", "move it away, install again"
        )
    if not os.access(hook.python, os.X_OK):
        return DoctorFinding("stale-python", f"the interpreter in {hook.where} is gone: {hook.python}", again)
    if not os.access(hook.where, os.X_OK):
        return DoctorFinding("not-executable", f"{hook.where} is not executable, so git ignores it", again)
    if hook.how == "stub" and hook.where.parent != place.folder and not hook.worktree:
        return DoctorFinding("shadowed", f"git runs the hooks in {place.folder}, not {hook.where}", again)
    if command and command != managers.format_hook_command(hook.name):
        return DoctorFinding(
            "outdated",
            f"{get_config_section(hook.name)}.command is of another version, or of another place",
            again,
        )
    if hook.how == "config" and not hook.runs:
        setting = f"{get_config_section(hook.name)}.enabled"
        return DoctorFinding(
            "config-disabled", f"{setting} is off", f"turn it on with `git config {setting} true`"
        )
    if not hook.runs and hook.how in managers.ACTIVATIONS:
        said = f"{hook.how} does not run this hook: git finds no hook of {hook.how} in {place.folder}"
        return DoctorFinding(
            "manager-inactive", said, f"{managers.ACTIVATIONS[hook.how]} once in this work tree"
        )
    if not hook.runs and not hook.worktree:
        return DoctorFinding("displaced", f"another hook manager took the place of {hook.where}", again)
    if hook_file.inspect_hook(hook.where).content != stubs.render_stub(hook.name, hook.python):
        return DoctorFinding("outdated", f"{hook.where} is of another version", again)
    return None


def _fix_hook(repo: Repository, hook: HookStatus, finding: DoctorFinding, python: str) -> DoctorFinding:
    """Repair what is gitpeft's own, and say whether that worked."""
    if finding.code not in ("stale-python", "not-executable", "outdated", "stub-missing", "config-broken"):
        return finding
    try:
        if finding.code == "config-broken":
            uninstall_hooks(repo, hooks=[hook.name])
        install_hooks(repo, strategy=hook.how, hooks=[hook.name], python=python)
    except GitpeftError as error:
        return DoctorFinding(finding.code, finding.text, f"could not be fixed: {error.message}")
    return DoctorFinding(finding.code, finding.text, "fixed", fixed=True)


def _check_leftovers(repo: Repository, place: hooks_path.HooksFolder, fix: bool) -> Iterator[DoctorFinding]:
    for name in stubs.HOOK_NAMES:
        hook, kept = place.folder / name, place.folder / (name + stubs.CHAINED_SUFFIX)
        if not os.path.lexists(kept) or hook_file.inspect_hook(hook).kind in ("ours", "changed"):
            continue
        if hook_file.inspect_hook(place.folder / f"{name}.legacy").kind == "ours":
            continue
        half = os.path.lexists(hook) and hook_file.is_same_hook(hook, kept)
        if half and fix:
            kept.unlink()
        text = "an interrupted installation left" if half else "another program replaced the hook; kept is"
        remedy = "fixed" if half and fix else f"compare {kept} with {hook}, and delete what is not needed"
        yield DoctorFinding("leftover", f"{text} {kept}", remedy, fixed=half and fix)


def _check_rehearsal(repo: Repository, config: Config, has_model: bool) -> Iterator[DoctorFinding]:
    """Whether the next commit would get an offer, as far as the hook itself is installed."""
    refusals = list(rehearsal.find_silence(repo, config))
    if has_model:
        try:
            refusals += rehearsal.find_model_refusals(repo, config)
        except Exception as error:  # any damage is a finding, none may end the examination
            said = f"the hook was rehearsed, and failed ({type(error).__name__})"
            refusals.append(Refusal("model", said, "run `gitpeft init`"))
    for one in refusals:
        yield DoctorFinding(one.code, one.text, one.remedy)


def _check_excludes(repo: Repository, config: Config) -> Iterator[DoctorFinding]:
    """Patterns that leave out nothing that is tracked here."""
    paths = repo.list_tracked_files() if config.exclude else []
    for pattern in find_idle_patterns(config.exclude, paths, config.ignore_case) if paths else ():
        yield DoctorFinding(
            "exclude",
            f"the pattern {replace_unprintable(pattern)!r} of gitpeft.exclude matches no tracked file",
            "patterns are those of .gitignore, from the top of the repository: correct it, or remove it",
        )


def _check_recent_problems(problems: RecentProblems, config: Config) -> Iterator[DoctorFinding]:
    """What the hook's log says."""
    if problems.timeouts:
        times = f"{problems.timeouts} time{'s' if problems.timeouts > 1 else ''}"
        yield DoctorFinding(
            "timeouts",
            f"the hook ran out of time {times} in the last {PROBLEM_DAYS} days ({config.timeout_ms} ms)",
            rehearsal.advise_timeout(config.timeout_ms),
        )
    if problems.failures:
        times = f"{problems.failures} time{'s' if problems.failures > 1 else ''}"
        yield DoctorFinding(
            "failures",
            f"the hook failed {times} in the last {PROBLEM_DAYS} days, last: {problems.last_failure}",
            "see .git/gitpeft/hook.log",
        )


def _check_model(repo: Repository, state: RepositoryStatus) -> Iterator[DoctorFinding]:
    if not state.model:
        yield DoctorFinding("no-model", "no model has been made for this repository", "run `gitpeft init`")
        return
    try:
        active = bundle.open_active_bundle(repo.state_dir)
        if active is not None:
            bundle.verify_bundle(active)
            if reranker.is_outdated_reranker(active.read_json(bundle.RERANKER_FILE)):
                reranker.load_embedded_reranker()
                said = "the reranker is from another version; the default one is used instead"
                yield DoctorFinding("reranker", said, "run `gitpeft init` to fit it again")
    except GitpeftError as error:
        yield DoctorFinding("model", error.message, error.hint)
    except Exception as error:  # any damage is a finding, none may end the examination
        yield DoctorFinding(
            "model", f"the model cannot be read ({type(error).__name__})", "run `gitpeft init`"
        )
