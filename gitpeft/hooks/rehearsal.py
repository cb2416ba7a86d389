"""Would the next `git commit` get an offer? Asked of the very functions that decide in the hook.

What git would put into the message file is worked out from its settings. Whether the kind of commit is opted
in, whether the file has a place, whether the model answers in time and reaches the least score: that is said
by `hooks.run`, `hooks.message_file` and `suggest.service` themselves.
"""

import time
from collections.abc import Iterator, Mapping, Sequence

from gitpeft.config import Config, parse_config_listing
from gitpeft.diff.ignore_patterns import PathExclusion
from gitpeft.errors import GitpeftError, NothingStagedError
from gitpeft.git.repository import Repository
from gitpeft.hooks import message_file
from gitpeft.hooks.run import Refusal, find_environment_refusals, find_refusals
from gitpeft.suggest import service

SCORED_COMMITS = 10
"""Commits whose suggestions are scored where `gitpeft.minScore` is set."""

PATIENCE_SECONDS = 20.0
"""How long a rehearsal waits for the model, whatever the hook would."""

_STATUS = "Please enter the commit message for your changes. Lines starting\nwith {} will be {}."


def find_silence(repo: Repository, config: Config) -> Iterator[Refusal]:
    """Why the next `git commit` would get no offer by its settings; nothing is run but git's plumbing."""
    yield from find_environment_refusals()
    if config.exclude and _excludes_everything(repo, config):
        yield Refusal("off", "gitpeft.exclude leaves out every file", "name fewer files there")
    listing = parse_config_listing(repo.read_config_listing())
    source = "template" if listing.get("commit.template", [""])[-1] else ""
    refused = list(find_refusals(repo, config, source, ""))
    yield from refused
    if any(one.code == "setting" for one in refused):
        return
    try:
        template = _read_template(repo) if source else b"\n"
        content = _imitate_message_file(listing, template)
        rules = message_file.read_message_file_rules(repo, listing, content, lambda: ["commit"])
    except GitpeftError as error:
        yield Refusal("setting", error.message, error.hint or "correct it with `git config`")
        return
    plan = message_file.plan_offer(content, rules, source, prefill=config.prefill)
    if plan.refusal:
        yield Refusal("setting", plan.refusal, "git config --unset commit.cleanup, or core.commentChar")


def _excludes_everything(repo: Repository, config: Config) -> bool:
    exclusion = PathExclusion(config.exclude, config.ignore_case)
    return all(exclusion.excludes(path) for path in repo.list_tracked_files() or ["any file"])


def _read_template(repo: Repository) -> bytes:
    name = repo.ask_text("config", "--type=path", "--get", "commit.template")
    path = (repo.work_tree or repo.cwd) / name
    try:
        return path.read_bytes()
    except OSError as error:
        raise GitpeftError(
            f"commit.template names {path}, which cannot be read ({error.strerror}): git will not commit",
            "correct it with `git config commit.template`",
        ) from None


def _imitate_message_file(settings: Mapping[str, Sequence[str]], template: bytes) -> bytes:
    """What git would put into the message file, as far as the hook judges by it."""
    cleanup = settings.get("commit.cleanup", [""])[-1]
    comment = settings.get("core.commentchar", ["#"])[-1]
    comment = "#" if comment == "auto" else comment
    if settings.get("commit.status", ["true"])[-1].lower() in ("false", "no", "off", "0"):
        return template
    if cleanup == "scissors":
        return template + f"{comment} ------------------------ >8 ------------------------\n".encode()
    kept = "kept; you may remove them" if cleanup in ("whitespace", "verbatim") else "ignored"
    lines = _STATUS.format(repr(comment), kept).split("\n")
    return template + "".join(f"{comment} {line}\n" for line in lines).encode()


# --- with the model -----------------------------------------------------------------------------------------


def find_model_refusals(repo: Repository, config: Config) -> Iterator[Refusal]:
    """Why the model would give nothing: too slow for `gitpeft.timeoutMs`, or never at `gitpeft.minScore`."""
    newest = repo.query_text("rev-list", "--no-merges", f"-{SCORED_COMMITS}", "HEAD", "--").split()
    commits = [sha for sha in newest if _has_shown_files(repo, config, sha)]
    if not commits:
        return
    try:
        needed = measure_answer_time(repo, config, commits[0])
    except GitpeftError as error:
        yield Refusal("model", f"the hook was rehearsed, and failed: {error.message}", error.hint)
        return
    if needed > config.timeout_ms:
        yield Refusal(
            "timeouts",
            f"an answer takes {needed:,} ms here, but gitpeft.timeoutMs allows {config.timeout_ms:,}:"
            " nothing will be suggested",
            advise_timeout(needed),
        )
    if config.min_score > 0:
        yield from _check_min_score(repo, config, commits)


def advise_timeout(needed: int) -> str:
    """The command that allows twice the milliseconds that an answer took, or was allowed and did not keep."""
    return f"git config gitpeft.timeoutMs {max(2000, 500 * -(-2 * needed // 500))}"


def _has_shown_files(repo: Repository, config: Config, rev: str) -> bool:
    """Whether a commit has a change that the model may see; of others the hook suggests nothing either."""
    try:
        return bool(service.build_commit_request(repo, config, 0, rev).change)
    except NothingStagedError:  # all of it is excluded
        return False


def measure_answer_time(repo: Repository, config: Config, rev: str) -> int:
    """Milliseconds that the hook needs for a commit's change; the start of Python comes on top.

    A first answer that is late is tried again: files that were not in memory yet are no reason to complain.
    """
    needed = _time_rehearsal(repo, config, rev)
    return needed if needed <= config.timeout_ms else min(needed, _time_rehearsal(repo, config, rev))


def _time_rehearsal(repo: Repository, config: Config, rev: str) -> int:
    start = time.monotonic()
    limits = service.SuggestionLimits(start + PATIENCE_SECONDS, config.memory_mb)
    service.rehearse_for_commit(repo, config, limits, rev)
    return round(1000 * (time.monotonic() - start))


def _check_min_score(repo: Repository, config: Config, commits: Sequence[str]) -> Iterator[Refusal]:
    """Whether any of the newest commits would have got a suggestion that reaches `gitpeft.minScore`."""
    from gitpeft.suggest.suggester import open_active_suggester  # only where scores count

    suggester = open_active_suggester(repo.state_dir)
    for sha in commits:
        if service.suggest_for_commit(repo, config, suggester, sha, 1, config.min_score).suggestions:
            return
    offers = [service.suggest_for_commit(repo, config, suggester, sha, 1) for sha in commits]
    scores = [100 * one.score for offer in offers for one in offer.suggestions]
    if scores:
        yield Refusal(
            "score",
            f"gitpeft.minScore = {config.min_score}, but the best score for the {len(commits)} newest commits"
            f" is {max(scores):.0f}: nothing will be suggested",
            f"git config gitpeft.minScore {int(min(scores))}",
        )
    else:
        yield Refusal(
            "score",
            f"there is no suggestion for any of the {len(commits)} newest commits",
            "run `gitpeft init`",
        )
