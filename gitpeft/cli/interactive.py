"""`gitpeft commit`: the dialogue in which a person chooses a message for what is staged.

All input and output goes through `Terminal`, and `git commit` itself is run by the function that the caller
passes in, so that git's hooks and its editor have the terminal to themselves.
"""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace

from gitpeft.config import Config, parse_config_listing
from gitpeft.diff.patch import parse_patch, show_path
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.hooks import message_file
from gitpeft.monitor import acceptance
from gitpeft.risk import precommit
from gitpeft.suggest import service
from gitpeft.suggest.suggestion import Suggestion
from gitpeft.terminal import format_as_line
from gitpeft.trace import HookTrace

ANSWER_SECONDS = 20.0
"""Time for suggestions, for which somebody is waiting."""

INTERRUPTED = 130
"""Exit code after Ctrl-C or Ctrl-D."""

MAX_MESSAGES = 30
"""Messages that are asked for at most, however often somebody wants more."""

MIN_SCORE_SHARE = 0.33
"""What scores less than this share of the best suggestion is not shown under "more": it rarely fits."""

MAX_FILES_SHOWN = 5

_PREPARED_MESSAGE_FILES = ("MERGE_MSG", "SQUASH_MSG")


@dataclass(frozen=True, slots=True)
class Terminal:
    """How to speak with the person: `ask` shows a prompt and returns a line; EOFError at the end."""

    say: Callable[[str], None]
    ask: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class CommitOutcome:
    """How it ended: `committed` with the new commit's id, `cancelled` (code 130 after Ctrl-C or Ctrl-D), or
    `failed` with git's exit code."""

    action: str
    message: str = ""
    sha: str = ""
    code: int = 0


@dataclass(slots=True)
class _SuggestionPages:
    """The suggestions shown so far, page by page; their numbers go on from page to page."""

    repo: Repository
    config: Config
    pages: list[list[Suggestion]] = field(default_factory=list)
    place: int = -1
    offer: service.Offer | None = None

    @property
    def all(self) -> list[Suggestion]:
        """Every suggestion that was shown, by its number."""
        return [one for page in self.pages for one in page]

    @property
    def is_at_start(self) -> bool:
        """Whether nothing but the first page was asked for."""
        return len(self.pages) == 1

    def turn_forward(self) -> bool:
        """To the next page, which is asked of the model where it is new; False where there is none."""
        if self.place + 1 == len(self.pages):
            page = self._find_next_page()
            if not page:
                return False
            self.pages.append(page)
        self.place += 1
        return True

    def turn_back(self) -> None:
        """To the page before, if there is one."""
        self.place = max(0, self.place - 1)

    def _find_next_page(self) -> list[Suggestion]:
        size, known = 1 + self.config.alternatives, {one.message for one in self.all}
        wanted = min(len(known) + size, MAX_MESSAGES)
        limits = service.SuggestionLimits(time.monotonic() + ANSWER_SECONDS, self.config.memory_mb)
        offer = service.suggest_for_staged(self.repo, self.config, limits, HookTrace(), wanted=wanted)
        self.offer = offer
        least = MIN_SCORE_SHARE * max((one.score for one in self.all), default=0.0)
        fitting = [one for one in offer.suggestions if one.score >= least]
        return [one for one in fitting if one.message not in known][:size]

    def format_page(self) -> list[str]:
        """The lines of this page: number, message, and where a repeated message comes from."""
        first = sum(map(len, self.pages[: self.place]))
        lines = []
        for number, one in enumerate(self.pages[self.place], first + 1):
            subject, *rest = map(format_as_line, one.message.split("\n"))
            mark = ">" if number == 1 and self.is_at_start else " "
            source = f"   from {one.like[0][:7]}" if one.origin == "retrieved" and one.like else ""
            lines += [f"{mark} {number}  {subject}{source}", *(f"     {line}" for line in rest)]
        return lines

    def format_prompt(self) -> str:
        """What may be typed."""
        last = len(self.all)
        back = "  [b] back" if self.place else ""
        numbers = "1" if last == 1 else f"1-{last}"
        return f"[{numbers}] commit  [e N] edit  [m] more{back}  [q] cancel: "


@dataclass(frozen=True, slots=True)
class CommitTools:
    """How git is reached: `run` runs `git` with the arguments it is given, terminal and environment as they
    are, and returns its exit code; `options` go to `git commit`; `refresh` updates what counts as staged."""

    run: Callable[[Sequence[str]], int]
    options: Sequence[str] = ()
    refresh: Callable[[], object] = lambda: None


def commit_interactively(
    repo: Repository, config: Config, terminal: Terminal, tools: CommitTools
) -> CommitOutcome:
    """Offer messages for the staged change, and commit with the one that is chosen.

    HEAD and the staged change are looked at again before that: GitpeftError when either moved, when nothing
    is staged, when git has a message already, when there is no model or no suggestion.
    """
    if precommit.is_operation_in_progress(repo) or any(
        (repo.git_dir / name).exists() for name in _PREPARED_MESSAGE_FILES
    ):
        raise GitpeftError(
            "a merge, rebase or similar is in progress, for which git may have a message", "use `git commit`"
        )
    tools.refresh()
    before = _read_staged_state(repo)
    pages = _SuggestionPages(repo, config)
    if not pages.turn_forward():
        raise make_nothing_offered_error(pages.offer)
    terminal.say("\n".join(_describe_staged_files(repo)))
    try:
        return _talk(repo, config, terminal, tools, pages, before)
    except (EOFError, KeyboardInterrupt):
        terminal.say("")  # the prompt is still open
        return CommitOutcome("cancelled", code=INTERRUPTED)


def make_nothing_offered_error(offer: service.Offer | None) -> GitpeftError:
    """Why there is no suggestion, where one was asked for."""
    if offer is None or offer.best_score is None:
        return GitpeftError("no suggestion for this change", "write the message yourself: `git commit`")
    way = "write the message yourself, or see it once: git -c gitpeft.minScore=0 commit"
    return GitpeftError(
        offer.reason, way if offer.is_below_threshold else "lower it, or write the message yourself"
    )


def _talk(
    repo: Repository,
    config: Config,
    terminal: Terminal,
    tools: CommitTools,
    pages: _SuggestionPages,
    before: "_StagedState",
) -> CommitOutcome:
    """Ask until there is a commit, or somebody cancels."""
    show = True
    while True:
        if show:
            terminal.say("\n".join(pages.format_page()))
        show = True
        word = terminal.ask(pages.format_prompt()).strip().lower()
        if word in ("q", "quit", "n"):
            return CommitOutcome("cancelled")
        if word in ("m", "more", "r"):
            show = pages.turn_forward()
            if not show:
                terminal.say("No more suggestions.")
            continue
        if word in ("b", "back"):
            pages.turn_back()
            continue
        choice = _parse_choice(word, pages)
        if choice is None:
            terminal.say(_explain_choices(pages))
            show = False
            continue
        if config.stats:
            acceptance.record_offer(repo.state_dir, before.head, sorted(one.message for one in pages.all))
        outcome = _commit_with_message(repo, before, *choice, tools)
        if outcome.action != "failed" or not choice[1]:
            return outcome
        terminal.say("Not committed.")  # the editor was left without a message: back to the list


def _explain_choices(pages: _SuggestionPages) -> str:
    last, back = len(pages.all), ", b" if pages.place else ""
    return f"Enter 1-{last}, e1-e{last}, m{back} or q."


def _describe_staged_files(repo: Repository) -> list[str]:
    """The files that will be committed, with their counts of lines."""
    files = parse_patch(repo.read_staged_patch())
    lines = []
    for file in files[:MAX_FILES_SHOWN]:
        added, removed = f"+{file.added}" * bool(file.added), f"-{file.removed}" * bool(file.removed)
        lines.append(f"{format_as_line(show_path(file.path))}  {added} {removed}".rstrip())
    more = len(files) - MAX_FILES_SHOWN
    return lines + ([f"and {more} more files"] if more > 0 else [])


def _parse_choice(word: str, pages: _SuggestionPages) -> tuple[str, bool] | None:
    """The chosen message and whether it is to be edited; Return alone takes the first, on the first page."""
    edit = word.startswith("e")
    number = word.removeprefix("e").strip()
    if not number and not edit and pages.is_at_start:
        number = "1"
    shown = pages.all
    if number.isascii() and number.isdigit() and 1 <= int(number[:4]) <= len(shown):
        return shown[int(number[:4]) - 1].message, edit
    return None


@dataclass(frozen=True, slots=True)
class _StagedState:
    """HEAD (None before the first commit), and a hash of what is staged."""

    head: str | None
    digest: str


def _read_staged_state(repo: Repository) -> _StagedState:
    return _StagedState(repo.resolve_head(), hashlib.sha256(repo.read_staged_patch()).hexdigest())


def _commit_with_message(
    repo: Repository, before: _StagedState, text: str, edit: bool, tools: CommitTools
) -> CommitOutcome:
    tools.refresh()
    if _read_staged_state(repo) != before:
        raise GitpeftError("HEAD or the staged change moved while you chose", "run `gitpeft commit` again")
    rules = message_file.read_message_file_rules(repo, parse_config_listing(repo.read_config_listing()), b"")
    rules = replace(rules, strips=False)  # nothing but the message: no comment may end up in the commit
    content = message_file.insert_messages(b"", [text], rules)
    cleanup: list[str] = []
    if not content and edit:
        raise GitpeftError(
            "git would take the message for a comment (core.commentChar)", "commit it without editing"
        )
    if not content:
        content, cleanup = f"{text}\n".encode(rules.encoding), ["--cleanup=whitespace"]
    file = repo.state_dir / f"message-{os.getpid()}"
    try:
        file.write_bytes(content)
        code = tools.run(
            ["commit", *cleanup, *tools.options, *(["--edit"] if edit else []), "--file", str(file)]
        )
    except OSError as error:
        raise GitpeftError(f"cannot write {file}: {error.strerror}") from None
    finally:
        file.unlink(missing_ok=True)
    if code:
        return CommitOutcome("failed", text, code=code)
    return CommitOutcome("committed", text, sha=repo.resolve_head() or "")
