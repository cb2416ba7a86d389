"""What git runs in a hook: offers a message or a risk flag in time, and never breaks a commit.

Stage one is the standard library and git's plumbing; whatever is heavy happens in a confined child. The exit
code is 0, except for a flagged change under `gitpeft.risk=block`; a failure is a line on the terminal and in
`<common-dir>/gitpeft/hook.log`.
"""

import gc
import os
import signal
import sys
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from types import FrameType
from typing import TYPE_CHECKING

from gitpeft.config import Config, load_config, parse_config_listing
from gitpeft.errors import GitpeftError, NothingStagedError
from gitpeft.files import replace_file
from gitpeft.git.repository import NON_EDITORS, Repository
from gitpeft.lazy import lazy_dataclass
from gitpeft.runtime.sandbox import limit_memory
from gitpeft.terminal import format_as_line
from gitpeft.trace import HookTrace

if TYPE_CHECKING:
    from gitpeft.suggest.service import Offer

MAX_LOG_BYTES = 64 << 10
STARTUP_SECONDS = 2.0
"""Time limit until the settings are known."""

MEMORY_MB = 2048
"""Memory for reading the change; the model has a limit of its own."""

STOP_EXIT_CODE = 77
"""Exit code that tells the stub to stop the commit; any other failure lets it pass."""

SUPERSEDED_EXIT_CODE = 75
"""Exit code that tells the stub of working ahead that something else has been staged meanwhile."""

AHEAD_SECONDS = 30.0
"""Time for an answer on which nobody waits yet."""

PROGRESS_SECONDS = 0.3
_COMMIT_SOURCES = frozenset({"", "message", "template", "merge", "squash", "commit"})


class _TimeBudgetExceeded(Exception):
    """The time budget is spent."""


class _StagingSuperseded(Exception):
    """Something else has been staged since the work on a message began."""


def main(argv: Sequence[str]) -> int:
    """Run one hook: `prepare-commit-msg FILE [SOURCE [OBJECT]]`, `pre-commit`, `risk` or `post-index-change`.

    Returns 0 whatever happens, except `STOP_EXIT_CODE` for a flagged change where `gitpeft.risk` is `block`,
    and `SUPERSEDED_EXIT_CODE` where working ahead was given up.
    """
    _reset_process_state()
    try:
        try:
            signal.setitimer(signal.ITIMER_REAL, STARTUP_SECONDS)
            return _dispatch_hook(list(argv))
        finally:
            signal.setitimer(signal.ITIMER_REAL, 0)  # what is said below may not be cut short
    except NothingStagedError:
        pass
    except _StagingSuperseded:
        return SUPERSEDED_EXIT_CODE
    except _TimeBudgetExceeded:
        what = "no risk score" if list(argv[:1]) == ["risk"] else "no suggestion"
        _report_problem(f"{what} within the time allowed (gitpeft.timeoutMs)")
    except GitpeftError as error:
        _report_problem(f"{error.message}{f' ({error.hint})' if error.hint else ''}")
    except KeyboardInterrupt:
        _exit_by_interrupt()
    except MemoryError:
        _report_problem("not enough memory, nothing suggested")
    except Exception as error:
        _report_problem(f"nothing suggested: {_locate_error(error)}")
    return 0


def _reset_process_state() -> None:
    """Reset signals and descriptors that a calling program may have changed.

    Blocked or ignored signals would take the clock and the ends of children away; a pipe that got the number
    of a closed standard stream would be lost when the child silences itself.
    """
    signal.signal(signal.SIGALRM, _raise_on_alarm)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    signal.pthread_sigmask(signal.SIG_UNBLOCK, (signal.SIGALRM, signal.SIGCHLD, signal.SIGINT))
    while (descriptor := os.open(os.devnull, os.O_RDWR)) < 3:
        pass
    os.close(descriptor)


def _raise_on_alarm(_: int, __: FrameType | None) -> None:
    raise _TimeBudgetExceeded


def _exit_by_interrupt() -> None:
    """End as Ctrl-C ends every program, so that git sees what happened."""
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    os.kill(os.getpid(), signal.SIGINT)


def _dispatch_hook(argv: list[str]) -> int:
    if any(find_environment_refusals()):
        return 0
    if argv[:1] == ["risk"]:
        return run_risk_check()
    if argv[:1] == ["pre-commit"]:
        run_prefetch()
    elif argv[:1] == ["post-index-change"]:
        run_ahead()
    elif argv[:1] == ["prepare-commit-msg"]:
        run_prepare_commit_msg(argv[1:])
    else:
        raise GitpeftError("the hook was called without its name, nothing suggested")
    return 0


def _locate_error(error: Exception) -> str:
    """The kind and place of a failure, without its text, which could hold parts of the change."""
    trace = error.__traceback__
    while trace and trace.tb_next:
        trace = trace.tb_next
    place = f" in {Path(trace.tb_frame.f_code.co_filename).name}:{trace.tb_lineno}" if trace else ""
    return f"{type(error).__name__}{place}"


# --- whether anything is offered: asked by the hook, and by `doctor` and `status` ---------------------------


@lazy_dataclass(frozen=True, slots=True)
class Refusal:
    """Why no message is offered: a word for programs, a sentence, and the way out."""

    code: str
    text: str
    remedy: str


def find_environment_refusals() -> Iterator[Refusal]:
    """What in the environment keeps the hook silent."""
    if os.environ.get("GITPEFT") == "0":
        yield Refusal("environment", "GITPEFT=0 keeps the hook silent here", "unset GITPEFT")
    if (value := os.environ.get("CI", "")) not in ("", "0", "false"):
        yield Refusal("environment", f"CI={value} keeps the hook silent here", "unset CI")


def find_refusals(repo: Repository, config: Config, source: str, about: str) -> Iterator[Refusal]:
    """What keeps an offer from a commit of this kind, whatever its message file holds.

    `source` and `about` are the second and third argument that git gives to the hook.
    """
    if not config.enabled:
        yield Refusal("off", "gitpeft.enabled is false", "turn it on with `git config gitpeft.enabled true`")
    if not _is_opted_in(config, source, about):
        key = "amend" if source == "commit" else source
        what = {"commit": "an amended commit", "template": "a commit with a template (commit.template)"}
        text = f"{what.get(source, 'a squashed commit')} gets no suggestion, because gitpeft.{key} is false"
        yield Refusal("setting", text, f"git config gitpeft.{key} true")
    if (editor := repo.find_editor()) in NON_EDITORS:
        said = f"git opens {editor!r}" if editor else "git finds no editor"
        text = f"{said}, in which no message can be read"
        overridden = bool(os.environ.get("GIT_EDITOR"))
        remedy = "unset GIT_EDITOR, which counts before core.editor, or set it to your editor"
        yield Refusal("editor", text, remedy if overridden else "set one with `git config core.editor`")


# --- prepare-commit-msg -----------------------------------------------------------------------------------


def run_prepare_commit_msg(args: Sequence[str]) -> None:
    """Offer a message in the file that git names, if this is a commit whose message a person will edit."""
    from gitpeft.hooks import message_file

    trace = HookTrace()
    path, source, about = _parse_arguments(args)
    if source in ("message", "merge") or path.name == "PREPARE_COMMIT_MSG":
        return
    repo = Repository.open()
    _HookOutput.log = repo.state_dir / "hook.log"
    listing = parse_config_listing(repo.read_config_listing())
    config = load_config(repo, listing)
    _HookOutput.quiet = config.quiet
    _start_timer(config, trace)
    if any(find_refusals(repo, config, source, about)):
        return
    content = message_file.read_message_file(path)
    rules = message_file.read_message_file_rules(repo, listing, content)
    plan = message_file.plan_offer(content, rules, source, prefill=config.prefill)
    if plan.refusal:
        return
    if config.problems:
        _report_problem(config.problems[0])
    notes = _load_risk_notes(repo) if config.risk_comments and source == "" else []
    offer = _make_offer(repo, config, source, trace)
    messages, withheld = offer.messages, offer.withheld
    if withheld and not config.quiet:
        notes = [message_file.NOTHING_OFFERED if offer.is_below_threshold else offer.reason, *notes]
    head = repo.resolve_head() if config.stats else None
    signal.setitimer(signal.ITIMER_REAL, 0)  # from here on nothing waits, and a half-done write helps nobody
    changed = message_file.insert_messages(content, messages, rules, only_comments=plan.only_comments)
    changed = message_file.insert_notes(changed, notes, rules)
    if messages and not any(message_file.escape_comment_lines(message, rules) for message in messages):
        comment = rules.comment.decode(errors="replace")
        _report_problem(f"every suggestion begins with core.commentChar, {comment!r}: nothing suggested")
    if changed != content:
        message_file.write_message_file(path, changed)
    if config.stats and source == "" and (withheld or (messages and changed != content)):
        from gitpeft.monitor import acceptance

        acceptance.record_offer(repo.state_dir, head, messages)
    trace.write_trace()


def _make_offer(repo: Repository, config: Config, source: str, trace: HookTrace) -> "Offer":
    """Messages for the staged change, or why there are none."""
    from gitpeft.suggest import service

    progress = _ProgressLine(trace.started)
    limits = service.SuggestionLimits(
        time.monotonic() + _seconds_left(config, trace), config.memory_mb, progress.show_once
    )
    base = _find_amend_base(repo) if source == "commit" else ""
    try:
        offer = service.suggest_for_staged(repo, config, limits, trace, base=base)
    finally:
        progress.clear_line()
    if offer.problem:
        from gitpeft.bundle.manifest import REBUILD_HINT

        text = f"{offer.problem}, an earlier message was offered instead"
        if REBUILD_HINT in offer.problem:
            _report_problem(text)  # the model is damaged, which does not pass by itself
        else:
            _append_to_log(_format_problem(text))
    return offer


def _load_risk_notes(repo: Repository) -> list[str]:
    """What the pre-commit stage printed about this very change."""
    from gitpeft.diff.patch import parse_patch
    from gitpeft.risk import precommit

    return precommit.load_risk_lines(repo, parse_patch(repo.read_staged_patch()))


def _find_amend_base(repo: Repository) -> str:
    """What an amended commit is compared with; git names the commit by the word HEAD."""
    return repo.ask_text("rev-parse", "--verify", "--quiet", "HEAD^^{commit}") or repo.empty_tree


def _parse_arguments(args: Sequence[str]) -> tuple[Path, str, str]:
    """The message file, where the message comes from, and the commit that is meant."""
    if not 1 <= len(args) <= 3:
        raise GitpeftError("prepare-commit-msg takes one to three arguments, nothing suggested")
    source, about = [*args[1:], "", ""][:2]
    if len(args) == 1 and os.environ.get("PRE_COMMIT") == "1":
        source = os.environ.get("PRE_COMMIT_COMMIT_MSG_SOURCE", "")
        about = os.environ.get("PRE_COMMIT_COMMIT_OBJECT_NAME", "")
    if source not in _COMMIT_SOURCES:
        raise GitpeftError("unknown commit source, nothing suggested")
    if not Path(args[0]).is_file():
        raise GitpeftError("the message file does not exist, nothing suggested")
    return Path(args[0]), source, about


def _start_timer(config: Config, trace: HookTrace) -> None:
    """Start the timer; the time budget counts from the start of this process."""
    _HookOutput.timeout_ms = config.timeout_ms
    signal.setitimer(signal.ITIMER_REAL, max(0.01, _seconds_left(config, trace)))


def _seconds_left(config: Config, trace: HookTrace) -> float:
    """Seconds until the time is up, also where somebody sets the clock back meanwhile."""
    allowed = config.timeout_ms / 1000
    return min(allowed, allowed - (time.time() - trace.started))


def _is_opted_in(config: Config, source: str, about: str) -> bool:
    if source == "commit":  # an amended commit is called HEAD; with -c or -C another one lends its message
        return config.amend and about == "HEAD"
    return source not in ("template", "squash") or bool(getattr(config, source))


# --- pre-commit -------------------------------------------------------------------------------------------


def run_prefetch() -> None:
    """Compute a suggestion in the background, while the other checks of this commit run."""
    from gitpeft.suggest import service

    trace = HookTrace()
    try:
        os.setsid()
    except OSError:
        pass
    repo = Repository.open()
    _HookOutput.log = repo.state_dir / "hook.log"
    config = load_config(repo)
    _start_timer(config, trace)
    if any(find_refusals(repo, config, "", "")):
        return
    limits = service.SuggestionLimits(time.monotonic() + config.timeout_ms / 1000, config.memory_mb)
    service.prefetch_suggestions(repo, config, limits)


def run_ahead() -> None:
    """Compute a suggestion for what was just staged, in the background; given up when that changes again.

    Nothing is logged: what fails here fails again, with a line, when somebody commits.
    """
    from gitpeft.suggest import service

    os.closerange(3, 256)  # what the caller of git left open, such as a lock, is not held here
    try:
        os.setsid()
    except OSError:
        pass
    signal.setitimer(signal.ITIMER_REAL, AHEAD_SECONDS + 5)
    repo = Repository.open()
    config = load_config(repo)
    if not (config.enabled and config.ahead) or repo.find_editor() in NON_EDITORS:
        return
    watch = _StagingWatch(repo)
    limits = service.SuggestionLimits(
        time.monotonic() + AHEAD_SECONDS, config.memory_mb, watch.stop_if_changed
    )
    service.prefetch_suggestions(repo, config, limits)


class _StagingWatch:
    """Notices when something else is staged; that git only refreshes the index is no reason to stop."""

    def __init__(self, repo: Repository) -> None:
        self._repo = repo
        self._index = repo.git_dir / "index"
        self._written = self._find_write_time()
        self._staged = repo.read_staged_entries()

    def stop_if_changed(self) -> None:
        """Raise _StagingSuperseded when the staged change is no longer the first one."""
        written = self._find_write_time()
        if written == self._written:
            return
        self._written = written
        if self._repo.read_staged_entries() != self._staged:
            raise _StagingSuperseded

    def _find_write_time(self) -> int:
        try:
            return self._index.stat().st_mtime_ns
        except OSError:
            return 0


def run_risk_check() -> int:
    """Print what makes the staged change risky, if it is flagged; returns 77 where that stops the commit."""
    trace = HookTrace()
    repo = Repository.open()
    _HookOutput.log = repo.state_dir / "hook.log"
    config = load_config(repo)
    _HookOutput.quiet = config.quiet
    _start_timer(config, trace)
    if not config.enabled or config.risk == "off":
        return 0
    from gitpeft.risk import precommit

    found = precommit.check_staged_risk(repo, config)
    signal.setitimer(signal.ITIMER_REAL, 0)
    if found.lines and (found.stops or not config.quiet):
        _print_to_terminal("".join(f"gitpeft: {line}\n" for line in found.lines))
    trace.write_trace()
    return STOP_EXIT_CODE if found.stops else 0


# --- what is said -----------------------------------------------------------------------------------------


class _HookOutput:
    """Where messages go: the log, and the descriptor of the terminal that the stub passed on."""

    log: Path | None = None
    timeout_ms = int(1000 * STARTUP_SECONDS)
    quiet = False
    said = False

    @staticmethod
    def get_terminal_fd() -> int:
        word = os.environ.get("GITPEFT_STDERR", "2")
        return int(word) if word in ("2", "3") else 2


def _report_problem(text: str) -> None:
    """One line in the log, and the first one on the terminal too."""
    line = _format_problem(text)
    _append_to_log(line)
    if _HookOutput.quiet or _HookOutput.said:
        return
    _HookOutput.said = True
    _print_to_terminal(f"gitpeft: {line}\n")


def _format_problem(text: str) -> str:
    return format_as_line(text.replace("the time allowed", f"{_HookOutput.timeout_ms} ms"))


def _print_to_terminal(text: str) -> None:
    encoding = getattr(sys.stderr, "encoding", None) or "utf-8"  # there may be no standard error
    try:
        os.write(_HookOutput.get_terminal_fd(), text.encode(encoding, "replace"))
    except OSError:
        pass  # nobody listens


def _append_to_log(line: str) -> None:
    """Append to the log; when it is full its older half is dropped."""
    if _HookOutput.log is None:
        return
    try:
        _HookOutput.log.parent.mkdir(parents=True, exist_ok=True)
        if _HookOutput.log.exists() and _HookOutput.log.stat().st_size > MAX_LOG_BYTES:
            kept = _HookOutput.log.read_bytes()[-MAX_LOG_BYTES // 2 :].partition(b"\n")[2]
            replace_file(_HookOutput.log, kept)
        # A log that is a pipe or a link must neither hold the commit up nor lead anywhere.
        options = os.O_WRONLY | os.O_APPEND | os.O_CREAT | os.O_NONBLOCK | os.O_NOFOLLOW
        with open(os.open(_HookOutput.log, options, 0o644), "a", encoding="utf-8") as file:
            file.write(f"{time.strftime('%Y-%m-%dT%H:%M:%S%z')} {line}\n")
    except OSError:
        pass


class _ProgressLine:
    """A line on the terminal while the model works, once that takes long."""

    def __init__(self, started: float) -> None:
        self.started = started
        self.shown = False

    def show_once(self) -> None:
        """Show it once, after `PROGRESS_SECONDS`, on a terminal."""
        if self.shown or _HookOutput.quiet or time.time() - self.started < PROGRESS_SECONDS:
            return
        self.shown = True
        if os.isatty(_HookOutput.get_terminal_fd()):
            _print_to_terminal("gitpeft: reading the change …")

    def clear_line(self) -> None:
        """Remove the line again."""
        if self.shown and os.isatty(_HookOutput.get_terminal_fd()):
            _print_to_terminal("\r\033[K")


def run() -> None:
    """Run the hook that this process was started for, and end it."""
    gc.disable()  # nothing lives long enough here to be collected, in the child that runs the model neither
    limit_memory(MEMORY_MB)
    code = main(sys.argv[1:])
    os._exit(code)  # nothing is left to clean up, and taking an interpreter down costs milliseconds


if __name__ == "__main__":
    run()
