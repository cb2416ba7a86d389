"""Histories of many repositories as training examples for a base: the corpus format and its cleaning."""

import json
import lzma
import random
import re
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING, TypedDict

from gitpeft.diff.patch import normalize_line
from gitpeft.diff.subjects import clean_subject
from gitpeft.learn.data.dataset import Example
from gitpeft.redaction import mask_secrets
from gitpeft.runtime.tokenizer import END_TOKEN, PAD_TOKEN, SPECIAL_TOKENS, UNKNOWN_TOKEN
from gitpeft.suggest.retrieval import CommitIndex

if TYPE_CHECKING:
    from tokenizers import Tokenizer

_CHANGE_COUNTS = re.compile(r" \+(\d+) -(\d+)")
_MAX_REPEATS = 15
"""A message, digits aside, is used for training at most this often, over all repositories."""


class CorpusRecord(TypedDict):
    """A line of a corpus file: a commit, with the author's previous subject."""

    repo: str
    sha: str
    subject: str
    previous: str
    diff: str


def read_corpus_file(path: Path, leave_out: Iterable[str] = ()) -> Iterator[tuple[str, list[CorpusRecord]]]:
    """The records of a corpus file by repository, oldest first; each must be sorted by repository."""
    out = set(leave_out)
    with lzma.open(path, "rt", encoding="utf-8") as lines:
        for repo, group in groupby(map(json.loads, lines), key=lambda record: str(record["repo"])):
            if repo not in out:
                yield repo, list(group)


def build_examples(records: Sequence[CorpusRecord], neighbours: int) -> list[Example]:
    """The examples of one repository: cleaned, masked, each with its nearest *earlier* subjects (0: none)."""
    kept = [record for record in records if _is_usable(record)]
    changes = [mask_secrets(normalise_diff(record["diff"])) for record in kept]
    subjects = [mask_secrets(clean_subject(record["subject"])) for record in kept]
    index = CommitIndex.build(changes, subjects, [record["sha"] for record in kept]) if neighbours else None
    return [
        Example(
            content=changes[i],
            message=subjects[i],
            previous=mask_secrets(clean_subject(record["previous"])),
            like=tuple(n.subject for n in index.find_nearest(changes[i], neighbours, before=i))
            if index
            else (),
            sha=record["sha"],
            group=record["repo"],
        )
        for i, record in enumerate(kept)
    ]


def _is_usable(record: CorpusRecord) -> bool:
    return 2 <= len(clean_subject(record["subject"]).split()) <= 22 and bool(record["diff"].strip())


def normalise_diff(diff: str) -> str:
    """A corpus diff as `diff.compact` would have written it: white space folded, largest files first."""
    lines = [line[:1] + normalize_line(line[1:]) for line in diff.split("\n") if line]
    start = next((i for i, line in enumerate(lines) if line[0] in "#@+-"), len(lines))
    listed = sorted(
        (line for line in lines[:start] if line[0] != "~"), key=_count_changed_lines, reverse=True
    )
    more = [line for line in lines[:start] if line[0] == "~"]
    return "\n".join(listed + more + [line for line in lines[start:] if len(line) > 1 or line == "@"])


def _count_changed_lines(line: str) -> int:
    counts = _CHANGE_COUNTS.search(line)
    return int(counts.group(1)) + int(counts.group(2)) if counts else 0


class RepeatFilter:
    """Lets a message through at most `_MAX_REPEATS` times; digits and case are ignored."""

    def __init__(self) -> None:
        self._seen: Counter[str] = Counter()

    def __call__(self, message: str) -> bool:
        """Whether this message is still within the limit."""
        key = re.sub(r"\d+", "0", message.lower())
        self._seen[key] += 1
        return self._seen[key] <= _MAX_REPEATS


def drop_context(example: Example, dice: random.Random) -> Example:
    """A training copy that sometimes lacks exemplars or the previous subject, as a young repository does."""
    roll = dice.random()
    like = example.like
    if roll < 0.1:
        like = ()
    elif roll < 0.3:
        like = like[: dice.randint(1, max(1, len(like)))]
    previous = "" if dice.random() < 0.15 else example.previous
    return Example(example.change, example.message, previous, like, example.sha, example.group)


def train_tokenizer(texts: Iterable[str], size: int) -> "Tokenizer":
    """A byte-level BPE of `size` tokens with the section marks as special tokens."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

    tokenizer = Tokenizer(models.BPE(unk_token=None))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=size,
        special_tokens=list(SPECIAL_TOKENS),
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        min_frequency=20,
        limit_alphabet=256,
        max_token_length=24,
        show_progress=False,
    )
    tokenizer.train_from_iterator(texts, trainer)
    assert [tokenizer.token_to_id(t) for t in (PAD_TOKEN, END_TOKEN, UNKNOWN_TOKEN)] == [0, 1, 2]
    return tokenizer
