"""Training pairs (change and context, message) from public histories: mined, judged by grounding, shuffled.

A pair is a JSON line with the files of a commit as plain values, so that its prompt can be made at any
length. What each rule kept and left out is counted.
"""

import gzip
import json
import os
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from gitpeft.diff.compact import compact_change
from gitpeft.diff.facts import extract_facts
from gitpeft.diff.grounding import (
    ChangeSize,
    GroundingText,
    contradicts_change,
    list_invented_numbers,
    mark_distinct,
    measure_grounding,
)
from gitpeft.diff.patch import FileChange, Hunk
from gitpeft.diff.prompt import PROMPT_BUDGET, render_prompt
from gitpeft.diff.stored import ChangeContent, store_change
from gitpeft.diff.subjects import clean_subject, strip_issue_numbers
from gitpeft.errors import GitpeftError
from gitpeft.files import write_json
from gitpeft.git.log import Commit
from gitpeft.git.repository import Repository
from gitpeft.git.streams import stream_commits
from gitpeft.history.filters import find_exclusion_reason, is_bot
from gitpeft.history.pool import map_over_cores
from gitpeft.history.step_share import tell_repository
from gitpeft.lazy import replace_fields
from gitpeft.learn.data.dataset import Example
from gitpeft.learn.pretraining.line_file import LineFile
from gitpeft.learn.training.finetune import ProgressListener
from gitpeft.redaction import mask_secrets
from gitpeft.runtime.tokenizer import TokenCodec
from gitpeft.suggest.retrieval import CommitIndex

_HELD_OUT = """
pallets/flask gin-gonic/gin axios/axios openstack/swift golang/net pytest-dev/pytest tokio-rs/tokio
encode/httpx apache/zookeeper apache/ant-ivy apache/giraph apache/gora apache/commons-codec
apache/commons-lang sharkdp/bat
jqlang/jq prettier/prettier pypa/packaging junegunn/fzf redis/redis-py
"""
HELD_OUT = frozenset(_HELD_OUT.split())
"""Repositories that bases are measured on: nothing is ever learnt from them."""

MAX_REPEATS, MAX_REPEATS_IN_REPOSITORY = 12, 3
"""How often a message is learnt, over all repositories and within one."""

JUDGED_TOKENS = 700
"""The length of the prompt in which a message's words are looked for."""

TRAIN_FILE = "train.jsonl"
"""In a work folder: the training pairs."""

_MAX_CHANGED_LINES, _MAX_FILES, _MAX_LINES, _MAX_FILE_LINES, _MAX_LINE_LENGTH = 6000, 40, 260, 100, 200
_VALIDATION_PAIRS = 150

MINED_FOLDER = "mined"
"""The folder of the mined commits, a file for each repository, in the work folder of a build."""

PairRecord = dict[str, Any]
"""A pair, or a mined commit that becomes one, as it is stored in JSON."""


@dataclass(frozen=True, slots=True)
class PairRules:
    """What is mined and kept: the newest commits of each repository, the repositories to validate on, the
    commits (12 digits) to leave for other uses, and the seed."""

    newest: int = 1000
    validation: tuple[str, ...] = ()
    reserved: frozenset[str] = frozenset()
    seed: int = 1


def make_pairs(
    repositories: Mapping[str, str],
    corpus: Path,
    work: Path,
    codec: TokenCodec,
    rules: PairRules,
    listen: ProgressListener,
) -> tuple[Path, Path]:
    """The files of the training and the validation pairs, made in `work` unless they are there.

    `repositories` are the commits to start from, by OWNER/NAME; each has its bare clone in `corpus`, as
    OWNER+NAME or a folder inside of that. GitpeftError where one is missing.
    """
    train, valid = work / TRAIN_FILE, work / "valid.jsonl"
    refuse_held_out(repositories)
    if train.exists() and valid.exists():
        return train, valid
    dice, counts = random.Random(rules.seed), Counter[str]()
    messages: list[str] = []
    held: list[str] = []
    listen("pairs", 0.0, "")
    judged = _judge_repositories(repositories, corpus, work, codec, rules)
    work.mkdir(parents=True, exist_ok=True)
    in_order = work / "in-order.jsonl"
    with in_order.open("w", encoding="utf-8") as lines:
        for number, (name, (found, own)) in enumerate(zip(sorted(repositories), judged, strict=True)):
            told = tell_repository(number, len(repositories), name)
            listen("pairs", number / len(repositories), told)
            counts.update(own)
            if name in rules.validation:
                later = found[len(found) // 2 :]
                held += [json.dumps(pair) for pair in dice.sample(later, min(_VALIDATION_PAIRS, len(later)))]
            else:
                kept = [pair for pair in found[len(found) // 5 :] if dice.random() < pair["chance"]]
                left = [pair for pair in kept if pair["sha"] not in rules.reserved]
                counts.update(f"kept: {pair['rule']}" for pair in left)
                counts["left to other uses"] += len(kept) - len(left)
                messages += (pair["message"] for pair in left)
                lines.writelines(json.dumps(pair) + "\n" for pair in left)
    (work / "counts.json").write_text(json.dumps(dict(sorted(counts.items())), indent=1), encoding="utf-8")
    valid.write_text("".join(f"{line}\n" for line in held), encoding="utf-8")
    learnt = _write_shuffled(in_order, messages, dice, train)
    listen("pairs", 1.0, f"{learnt:,} pairs, {len(held):,} for validation")
    return train, valid


def _write_shuffled(in_order: Path, messages: Sequence[str], dice: random.Random, train: Path) -> int:
    """Move pairs, whose messages these are, to `train` in random order, each message a few times at the most;
    how many they are. The pairs of many histories do not fit into memory."""
    pairs, spare = LineFile(in_order), train.with_suffix(".new")
    order = list(range(len(messages)))
    dice.shuffle(order)
    allowed = mark_distinct((messages[place] for place in order), MAX_REPEATS)
    with spare.open("wb") as lines:
        lines.writelines(pairs[place] + b"\n" for place, ok in zip(order, allowed, strict=True) if ok)
    spare.replace(train)
    in_order.unlink()
    return sum(allowed)


def _judge_repositories(
    repositories: Mapping[str, str], corpus: Path, work: Path, codec: TokenCodec, rules: PairRules
) -> Iterator[tuple[list[PairRecord], dict[str, int]]]:
    """The judged pairs of each repository and the counts of its commits, in the order of their names."""

    def judge(names: Sequence[str]) -> Iterator[tuple[list[PairRecord], dict[str, int]]]:
        for name in names:
            path = mine_once(name, repositories[name], corpus, work / MINED_FOLDER, rules)
            mined, counts = _read_mined(path)
            yield judge_repository(mined, codec, counts), counts

    return map_over_cores(sorted(repositories), judge)


def refuse_held_out(repositories: Mapping[str, str]) -> None:
    """GitpeftError where one of the repositories, by OWNER/NAME, is there to measure with."""
    if measured := sorted(HELD_OUT & repositories.keys()):
        raise GitpeftError(
            f"{measured[0]} is there to measure with, and is not learnt from", "take it out of the list"
        )


# --- mining -------------------------------------------------------------------------------------------------


def mine_once(name: str, tip: str, corpus: Path, folder: Path, rules: PairRules) -> Path:
    """The file of the mined commits of OWNER/NAME in `folder`, made where it is missing.

    Any process may have made it: the files are complete or not there. What was left out is counted beside it.
    """
    path = folder / f"{name.replace('/', '+')}.jsonl.gz"
    if not path.exists():
        clone, counts = open_clone(corpus, name), Counter[str]()
        folder.mkdir(parents=True, exist_ok=True)
        spare = path.with_suffix(f".{os.getpid()}.new")
        with gzip.open(spare, "wt", compresslevel=3) as lines:
            found = mine_repository(clone, tip, rules.newest, counts)
            lines.writelines(json.dumps({"repo": name, **one}) + "\n" for one in found)
        write_json(_name_counts(path), counts)
        spare.replace(path)
    return path


def _name_counts(path: Path) -> Path:
    """The file beside mined commits that says how many were left out, and why."""
    return path.with_name(path.name.removesuffix(".jsonl.gz") + ".counts.json")


def _read_mined(path: Path) -> tuple[list[PairRecord], Counter[str]]:
    """Mined commits, and what was counted with them."""
    with gzip.open(path, "rt") as lines:
        records = [json.loads(line) for line in lines]
    counted = _name_counts(path)
    return records, Counter(json.loads(counted.read_bytes()) if counted.exists() else {})


def open_clone(corpus: Path, name: str) -> Repository:
    """The clone of OWNER/NAME in the folder of the corpus; GitpeftError where there is none."""
    folder = corpus / name.replace("/", "+")
    for place in (folder, *sorted(folder.glob("*/"))):
        if (place / "HEAD").exists() or (place / ".git").exists():
            return Repository.open(place)
    raise GitpeftError(f"no clone of {name} in {corpus}", f"git clone --bare it as {folder}")


def mine_repository(repository: Repository, tip: str, newest: int, counts: Counter[str]) -> list[PairRecord]:
    """The usable ones of the newest commits of a history that are no merges, oldest first, secrets masked."""
    return [
        {"sha": sha[:12], "subject": subject, "previous": previous,
         "change": mask_secrets(compact_change(commit.files)), "files": bound_files(commit.files)}
        for sha, subject, previous, commit in _read_usable_commits(repository, tip, newest, counts)
    ]  # fmt: skip


def mine_examples(repository: Repository, tip: str, newest: int) -> list[Example]:
    """The same commits as the examples that a team's own history gives, without exemplars."""
    return [
        Example(mask_secrets(store_change(commit.files)), subject, previous, (), sha[:12])
        for sha, subject, previous, commit in _read_usable_commits(repository, tip, newest, Counter())
    ]


def _read_usable_commits(
    repository: Repository, tip: str, newest: int, counts: Counter[str]
) -> Iterator[tuple[str, str, str, Commit]]:
    """Id, subject, the author's previous subject, and the commit."""
    listed = repository.run("log", "--no-merges", f"-n{newest}", "--format=%H", tip).decode().split()
    commits = {one.sha: one for one in stream_commits(repository, listed) if isinstance(one, Commit)}
    last: dict[str, str] = {}
    for sha in reversed(listed):
        if (commit := commits.get(sha)) is None:
            counts["mined: unreadable"] += 1
            continue
        author, subject = commit.author.lower(), clean_subject(commit.subject)
        reason = _find_reason(commit, subject)
        counts[f"mined: {reason or 'usable'}"] += 1
        if not reason:
            yield sha, subject, last.get(author, ""), commit
        last[author] = subject


def _find_reason(commit: Commit, subject: str) -> str:
    if is_bot(commit.author):
        return "bot"
    if sum(change.added + change.removed for change in commit.files) > _MAX_CHANGED_LINES:
        return "huge"
    return find_exclusion_reason(subject, commit.body, compact_change(commit.files))


def bound_files(files: Iterable[FileChange]) -> list[PairRecord]:
    """The files as plain values, no more lines than a prompt could ever show."""
    ordered = sorted(files, key=lambda c: (c.kind == "text", c.added + c.removed), reverse=True)[:_MAX_FILES]
    room, found = _MAX_LINES, []
    for change in ordered:
        hunks = []
        for hunk in change.hunks:
            lines = [line[:_MAX_LINE_LENGTH] for line in hunk.lines[: max(0, min(room, _MAX_FILE_LINES))]]
            room -= len(lines)
            if lines:
                masked = mask_secrets("\n".join(lines)).split("\n")
                hunks.append([hunk.heading[:_MAX_LINE_LENGTH], masked])
        found.append(
            {"path": change.path, "status": change.status, "old": change.old_path, "added": change.added,
             "removed": change.removed, "kind": change.kind, "functions": list(change.functions[:12]),
             "hunks": hunks}
        )  # fmt: skip
    return found


def restore_files(files: Sequence[PairRecord]) -> list[FileChange]:
    """What `bound_files` gave, as file changes again."""
    return [
        FileChange(
            f["path"],
            f["status"],
            f["old"],
            f["added"],
            f["removed"],
            f["kind"],
            [Hunk(heading, lines) for heading, lines in f["hunks"]],
            functions=tuple(f["functions"]),
        )
        for f in files
    ]


def render_pair(
    files: Sequence[FileChange], like: Sequence[str], previous: str, codec: TokenCodec, tokens: int
) -> list[int]:
    """The prompt of a pair as token ids, at most so many."""
    content = ChangeContent(files, "; ".join(extract_facts(files)))
    budget = replace_fields(PROMPT_BUDGET, total=tokens)
    pieces = render_prompt(content, like, previous, codec.encode_many, budget)
    return [i for piece in pieces for i in piece.ids]


# --- judging ------------------------------------------------------------------------------------------------


def judge_repository(
    records: Sequence[PairRecord], codec: TokenCodec, counts: Counter[str]
) -> list[PairRecord]:
    """The pairs of one repository, oldest first, each with its nearest earlier subjects and its verdict."""
    subjects = [strip_issue_numbers(mask_secrets(clean_subject(one["subject"]))) for one in records]
    changes = [one["change"] for one in records]
    index = CommitIndex.build(changes, subjects, [one["sha"] for one in records])
    allowed = mark_distinct(subjects, MAX_REPEATS_IN_REPOSITORY)
    found = []
    for i, record in enumerate(records):
        like = [near.subject for near in index.find_nearest(changes[i], 3, before=i)]
        previous = strip_issue_numbers(mask_secrets(clean_subject(record["previous"])))
        verdict = _judge_pair(subjects[i], like, previous, record["files"], codec)
        if not allowed[i]:
            verdict = Verdict("repeated in its repository")
        counts[f"seen: {verdict.rule}"] += 1
        found.append(
            {"repo": record["repo"], "sha": record["sha"], "message": subjects[i], "like": like,
             "previous": previous, "files": record["files"], "rule": verdict.rule,
             "grounded": round(verdict.grounded, 3), "chance": verdict.chance}
        )  # fmt: skip
    return found


@dataclass(frozen=True, slots=True)
class Verdict:
    """The rule that decided about a pair, how grounded its message is, and the probability to keep it."""

    rule: str
    grounded: float = 0.0
    chance: float = 0.0


def _judge_pair(
    message: str, like: Sequence[str], previous: str, files: Sequence[PairRecord], codec: TokenCodec
) -> Verdict:
    changes = restore_files(files)
    text = codec.decode(render_pair(changes, [], "", codec, JUDGED_TOKENS))
    size = ChangeSize(
        sum(c.added for c in changes),
        sum(c.removed for c in changes),
        any(c.status == "D" for c in changes),
        any(c.status == "R" for c in changes),
    )
    return judge_message(message, text, "\n".join([*like, previous]), size)


_DEPENDENCY = re.compile(
    r"\b(?:bump(?:s|ed)?|upgrad(?:e[sd]?|ing)|update[sd]?)\b"
    r".*(?:\bdep(?:s|endenc(?:y|ies))\b|\bto v?\d|\bfrom v?\d)"
    r"|^(?:bump|build\(deps|chore\(deps|deps)",
    re.IGNORECASE,
)
_RELEASE = re.compile(
    r"^(?:(?:chore|build)(?:\([^)]*\))?:\s*)?"
    r"(?:(?:release|version|bump|prepare|tag|publish|start|back to|begin)\b.{0,24})?"
    r"v?\d+\.\d+[\w.+-]*\W*$",
    re.IGNORECASE,
)
_ISSUE_FIRST = re.compile(r"^(?:#\d+|gh-\d+|[A-Z]{2,}-\d+)\b", re.IGNORECASE)
_CHANCES = ((0.75, 1.0), (0.6, 0.9), (0.45, 0.6), (0.3, 0.25), (0.15, 0.08))
"""The least grounding, and the probability with which such a message is kept."""


def judge_message(message: str, change: str, beside: str, size: ChangeSize) -> Verdict:
    """Whether to learn a message, given the prompt's part about the change and the part beside it.

    By its grounding: the share of its content words that can be read there. A message with a number that
    does not occur in the change is refused.
    """
    if not message.isascii() or not 2 <= len(message.split()) <= 20 or not 8 <= len(message) <= 110:
        return Verdict("length or letters")
    if _ISSUE_FIRST.match(message):
        return Verdict("begins with an issue number")
    known = GroundingText(change)
    if list_invented_numbers(message, known):
        return Verdict("a number that is not in the change")
    if contradicts_change(message, size):
        return Verdict("verb contradicts the change")
    share = measure_grounding(message, known, beside)
    if share is None:
        return Verdict("no content words", chance=0.1)
    if _DEPENDENCY.search(message):
        return Verdict("dependency update", share, 0.25 if share >= 0.5 else 0)
    if _RELEASE.match(message):
        return Verdict("release", share, 0.3)
    for least, chance in _CHANCES:
        if share >= least:
            return Verdict(f"grounding at least {least:.2f}", share, chance)
    return Verdict("grounding below 0.15", share, 0.02)
