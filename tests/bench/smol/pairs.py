"""Makes training pairs (change and context, message) from mined commits.

    python -m tests.bench.smol.pairs MINED OUT --tokenizer FILE

Each pair gets the subjects of its nearest earlier commits; `grounding.judge_message` decides what is kept.
Writes `train.jsonl` (shuffled), `valid.jsonl` (whole repositories that are never trained on)
and `counts.json` (what each rule kept and left out).
"""

import argparse
import gzip
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from tokenizers import Tokenizer

from gitpeft.diff.facts import extract_facts
from gitpeft.diff.grounding import ChangeSize, mark_distinct
from gitpeft.diff.patch import FileChange, Hunk
from gitpeft.diff.prompt import PROMPT_BUDGET, Encode, PromptContent, render_prompt
from gitpeft.diff.subjects import clean_subject, strip_issue_numbers
from gitpeft.lazy import replace_fields
from gitpeft.redaction import mask_secrets
from gitpeft.suggest.retrieval import CommitIndex
from tests.bench.smol.grounding import judge_message

VALIDATION_REPOSITORIES = ("simonw/sqlite-utils", "spf13/cobra", "koajs/koa", "google/gson")
"""Repositories to validate on: Python, Go, JavaScript, Java."""

MAX_REPEATS = 12
"""A message is learnt at most so often over all repositories, and three times in one."""


def restore_file_changes(files: Sequence[dict[str, Any]]) -> list[FileChange]:
    """What `mine.bound_files` wrote, as file changes again."""
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


def make_encoder(tokenizer: Tokenizer) -> Encode:
    """Ids of many texts at once, nothing added."""
    return lambda texts: [e.ids for e in tokenizer.encode_batch(list(texts), add_special_tokens=False)]


def render_files(
    files: Sequence[FileChange], like: Sequence[str], previous: str, encode: Encode, tokens: int
) -> list[int]:
    """The prompt of mined files as token ids, at most so many."""
    content = PromptContent(files, "; ".join(extract_facts(files)))
    pieces = render_prompt(content, like, previous, encode, replace_fields(PROMPT_BUDGET, total=tokens))
    return [i for piece in pieces for i in piece.ids]


def make_pairs(
    records: Sequence[dict[str, Any]], tokenizer: Tokenizer, counts: Counter[str]
) -> list[dict[str, Any]]:
    """The pairs of one repository, oldest first, each with its verdict."""
    subjects = [strip_issue_numbers(mask_secrets(clean_subject(record["subject"]))) for record in records]
    changes = [record.pop("change") for record in records]
    index = CommitIndex.build(changes, subjects, [record["sha"] for record in records])
    allowed = mark_distinct(subjects, 3)
    found = []
    for i, record in enumerate(records):
        like = [n.subject for n in index.find_nearest(changes[i], 3, before=i)]
        previous = strip_issue_numbers(mask_secrets(clean_subject(record["previous"])))
        pair = {
            "repo": record["repo"],
            "sha": record["sha"],
            "message": subjects[i],
            "like": like,
            "previous": previous,
        }
        pair |= {"files": record["files"]} | _judge_pair(pair, record["files"], tokenizer)
        if not allowed[i]:
            pair |= {"rule": "repeated in its repository", "chance": 0}
        counts[f"seen: {pair['rule']}"] += 1
        found.append(pair)
    return found


def _judge_pair(
    pair: dict[str, Any], files: Sequence[dict[str, Any]], tokenizer: Tokenizer
) -> dict[str, Any]:
    changes = restore_file_changes(files)
    text = tokenizer.decode(render_files(changes, [], "", make_encoder(tokenizer), 700))
    size = ChangeSize(
        sum(c.added for c in changes),
        sum(c.removed for c in changes),
        any(c.status == "D" for c in changes),
        any(c.status == "R" for c in changes),
    )
    verdict = judge_message(pair["message"], text, "\n".join([*pair["like"], pair["previous"]]), size)
    return {
        "rule": verdict.rule,
        "grounded": round(verdict.grounded, 3),
        "chance": verdict.chance,
    }


def main() -> None:
    """Read everything that was mined, write what is kept."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("mined", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--tokenizer", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=1)
    args = parser.parse_args()
    args.out.mkdir(parents=True, exist_ok=True)
    tokenizer = Tokenizer.from_file(str(args.tokenizer))
    rng = random.Random(args.seed)
    counts: Counter[str] = Counter()
    train: list[str] = []
    valid: list[str] = []
    for path in sorted(args.mined.glob("*.jsonl.gz")):
        with gzip.open(path, "rt") as lines:
            records = [json.loads(line) for line in lines]
        found = make_pairs(records, tokenizer, counts)
        if found and found[0]["repo"] in VALIDATION_REPOSITORIES:
            later = found[len(found) // 2 :]
            valid += [json.dumps(pair) for pair in rng.sample(later, min(150, len(later)))]
            continue
        kept = [pair for pair in found[len(found) // 5 :] if rng.random() < pair["chance"]]
        counts.update(f"kept: {pair['rule']}" for pair in kept)
        train += [json.dumps(pair) for pair in kept]
        sys.stderr.write(f"{path.stem}: {len(kept)} of {len(found)}\n")
    rng.shuffle(train)
    train = [
        line
        for line, ok in zip(
            train,
            mark_distinct((json.loads(t)["message"] for t in train), MAX_REPEATS),
            strict=True,
        )
        if ok
    ]
    (args.out / "train.jsonl").write_text("\n".join(train) + "\n")
    (args.out / "valid.jsonl").write_text("\n".join(valid) + "\n")
    (args.out / "counts.json").write_text(
        json.dumps({"train": len(train), **dict(sorted(counts.items()))}, indent=1)
    )


if __name__ == "__main__":
    main()
