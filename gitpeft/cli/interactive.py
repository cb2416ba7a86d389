"""`gitpeft commit`: hides the conversation in which a person chooses a message for what is staged.

Nothing here knows a terminal: what is said and asked goes through `Terminal`, and `git commit` itself is run
by the function that the caller hands in, so that git's hooks and its editor have the terminal to themselves.
"""

import hashlib
import os
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

from gitpeft.config import Config, parse_config_listing
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.hooks import message_file
from gitpeft.monitor import acceptance
from gitpeft.risk import precommit
from gitpeft.suggest import service
from gitpeft.terminal import format_as_line
from gitpeft.trace import HookTrace

ANSWER_SECONDS = 20.0
"""Time for an answer: somebody is waiting, but nobody is held up who did not ask."""

MAX_MESSAGES = 30
"""Messages that are asked for at most, however often somebody wants others."""

PROMPT = "number to commit, e and number to edit, r for others, q to leave [1]: "

_PREPARED_MESSAGE_FILES = ("MERGE_MSG", "SQUASH_MSG")


@dataclass(frozen=True, slots=True)
class Terminal:
    """How to speak with the person: `ask` shows a prompt and returns a line; EOFError at the end."""

    say: Callable[[str], None]
    ask: Callable[[str], str]


@dataclass(frozen=True, slots=True)
class CommitOutcome:
    """How it ended: `committed` with the new commit's id, `cancelled`, or `failed` with git's exit code."""

    action: str
    message: str = ""
    sha: str = ""
    code: int = 0


@dataclass(slots=True)
class _OfferedMessages:
    """The messages offered so far, and how more are found."""

    repo: Repository
    config: Config
    shown: list[str] = field(default_factory=list)
    seen: set[str] = field(default_factory=set)

    def find_more_messages(self) -> bool:
        """Show the next messages; False, with the old ones still there, when there are no others."""
        wanted = 1 + self.config.alternatives
        n = min(len(self.seen) + wanted, MAX_MESSAGES)
        limits = service.SuggestionLimits(time.monotonic() + ANSWER_SECONDS, self.config.memory_mb)
        offer = service.suggest_for_staged(self.repo, self.config, limits, HookTrace(), wanted=n)
        new = [text for text in offer.messages if text not in self.seen][:wanted]
        if not new:
            return False
        self.shown = new
        self.seen.update(new)
        return True


def commit_interactively(
    repo: Repository,
    config: Config,
    terminal: Terminal,
    run: Callable[[Sequence[str]], int],
) -> CommitOutcome:
    """Offer messages for the staged change, and commit with the one that is chosen.

    `run` runs `git` with the arguments it is given, terminal and environment as they are, and returns its
    exit code. HEAD and the staged change are looked at again before that: GitpeftError when either moved,
    when nothing is staged, when git has a message already, or when there is no model.
    """
    if precommit.is_operation_in_progress(repo) or any(
        (repo.git_dir / name).exists() for name in _PREPARED_MESSAGE_FILES
    ):
        raise GitpeftError(
            "something else is under way here, for which git may have a message already", "use `git commit`"
        )
    before = _read_staged_state(repo)
    offers = _OfferedMessages(repo, config)
    if not offers.find_more_messages():
        raise GitpeftError("no message could be suggested for this change", "use `git commit`")
    _show_messages(terminal, offers.shown)
    while True:
        try:
            word = terminal.ask(PROMPT).strip().lower()
        except (EOFError, KeyboardInterrupt):
            return CommitOutcome("cancelled")
        if word in ("q", "quit", "n"):
            return CommitOutcome("cancelled")
        if word == "r":
            if not offers.find_more_messages():
                terminal.say("There are no others.")
            _show_messages(terminal, offers.shown)
            continue
        choice = _parse_choice(word, offers.shown)
        if choice is None:
            terminal.say(f"Please say 1 to {len(offers.shown)}, e1 to e{len(offers.shown)}, r or q.")
            continue
        if config.stats:
            acceptance.record_offer(repo.state_dir, before[0], sorted(offers.seen))
        return _commit_with_message(repo, before, *choice, run)


def _show_messages(terminal: Terminal, messages: Sequence[str]) -> None:
    for number, text in enumerate(messages, 1):
        first, *rest = text.split("\n")
        terminal.say(
            "\n".join(
                [
                    f"{number}  {format_as_line(first)}",
                    *(f"   {format_as_line(line)}" for line in rest),
                ]
            )
        )


def _parse_choice(word: str, messages: Sequence[str]) -> tuple[str, bool] | None:
    """The chosen message and whether it is to be edited; Return alone takes the first."""
    edit = word.startswith("e")
    number = word.removeprefix("e").strip() or "1"
    if number.isascii() and number.isdigit() and 1 <= int(number[:4]) <= len(messages):
        return messages[int(number[:4]) - 1], edit
    return None


def _read_staged_state(repo: Repository) -> tuple[str | None, str]:
    """HEAD, and a hash of what is staged."""
    return repo.resolve_head(), hashlib.sha256(repo.read_staged_patch()).hexdigest()


def _commit_with_message(
    repo: Repository,
    before: tuple[str | None, str],
    text: str,
    edit: bool,
    run: Callable[[Sequence[str]], int],
) -> CommitOutcome:
    if _read_staged_state(repo) != before:
        raise GitpeftError("HEAD or the staged change moved while you chose", "run `gitpeft commit` again")
    rules = message_file.read_message_file_rules(
        repo, parse_config_listing(repo.run("config", "--list", "-z")), b""
    )
    content = message_file.insert_messages(b"", [text], rules)
    file = repo.state_dir / f"message-{os.getpid()}"
    try:
        file.write_bytes(content)
        code = run(["commit", *(["--edit"] if edit else []), "--file", str(file)])
    except OSError as error:
        raise GitpeftError(f"cannot write {file}: {error.strerror}") from None
    finally:
        file.unlink(missing_ok=True)
    if code:
        return CommitOutcome("failed", text, code=code)
    return CommitOutcome("committed", text, sha=repo.resolve_head() or "")
