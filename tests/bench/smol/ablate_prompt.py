"""What each part of the prompt is worth: nats of the same messages under prompts that leave it out.

    python -m tests.bench.smol.ablate_prompt BASE VALID --adapter FILE

BASE is a folder with the weights and the tokenizer, VALID the `valid.jsonl` of the pairs. One adapter reads
all variants, so a variant far from what it has learnt is judged too harshly: what is compared is how much a
part says, not how well a model that was trained without it would do. Prints a table in Markdown: nats a byte,
and the mean difference a message to the first variant with the standard error of that mean.
"""

import argparse
import json
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from gitpeft.diff.facts import extract_facts
from gitpeft.diff.patch import FileChange
from gitpeft.diff.prompt import PROMPT_BUDGET, render_prompt
from gitpeft.diff.stored import ChangeContent, read_stored_change, store_change
from gitpeft.lazy import replace_fields
from gitpeft.learn.pretraining.commit_pairs import restore_files
from gitpeft.runtime.tokenizer import TokenCodec
from tests.bench.smol.evaluate_offers import Item, measure_nats, merge_adapter


@dataclass(frozen=True, slots=True)
class Variant:
    """A way to make a prompt: its length in tokens, how the change is read, and what is shown beside it."""

    name: str
    tokens: int = 512
    read: Callable[[Sequence[FileChange]], ChangeContent] = lambda files: _read_whole(files)
    exemplars: bool = True
    previous: bool = True


def _read_whole(files: Sequence[FileChange]) -> ChangeContent:
    return ChangeContent(files, "; ".join(extract_facts(files)))


def _read_without_facts(files: Sequence[FileChange]) -> ChangeContent:
    return ChangeContent(files, "")


def _read_stored(files: Sequence[FileChange]) -> ChangeContent:
    return read_stored_change(store_change(files))


VARIANTS = (
    Variant("512 tokens, whole change"),
    Variant("512, stored change", read=_read_stored),
    Variant("512, without facts", read=_read_without_facts),
    Variant("512, without similar subjects", exemplars=False),
    Variant("512, without previous subject", previous=False),
    Variant("384 tokens", tokens=384),
    Variant("768 tokens", tokens=768),
    Variant("1,024 tokens", tokens=1024),
)


def make_item(pair: dict[str, Any], variant: Variant, codec: TokenCodec) -> Item:
    """A pair as ids under a variant of the prompt."""
    pieces = render_prompt(
        variant.read(restore_files(pair["files"])),
        pair["like"] if variant.exemplars else (),
        pair["previous"] if variant.previous else "",
        codec.encode_many,
        replace_fields(PROMPT_BUDGET, total=variant.tokens),
    )
    prompt = [i for piece in pieces for i in piece.ids]
    written = [*codec.encode_message(pair["message"], "prompt"), codec.find_message_end("prompt")]
    return Item(torch.tensor([*prompt, *written]), len(prompt), len(pair["message"].encode()))


def print_table(sizes: Sequence[int], nats: dict[str, list[float]]) -> None:
    """The table; `nats` are those of each message by variant. All others are compared with the first one."""
    first = next(iter(nats.values()))
    print("| prompt | nats a byte | nats a message more | standard error |\n|---|---|---|---|")
    for name, found in nats.items():
        more = [a - b for a, b in zip(found, first, strict=True)]
        error = statistics.stdev(more) / len(more) ** 0.5
        print(f"| {name} | {sum(found) / sum(sizes):.4f} | {statistics.mean(more):+.2f} | {error:.2f} |")


def main() -> None:
    """Measure all variants on the same pairs."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("base", type=Path)
    parser.add_argument("valid", type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--pairs", type=int, default=120)
    args = parser.parse_args()
    torch.set_num_threads(1)
    torch.set_grad_enabled(False)
    codec = TokenCodec.load(args.base / "tokenizer.json")
    pairs = [json.loads(line) for line in args.valid.read_text(encoding="utf-8").splitlines()]
    chosen = random.Random(0).sample([pair for pair in pairs if pair["chance"] >= 0.6], args.pairs)
    model = merge_adapter(args.base, args.adapter)
    nats: dict[str, list[float]] = {variant.name: [] for variant in VARIANTS}
    sizes = []
    for place, pair in enumerate(chosen):
        sizes.append(len(pair["message"].encode()))
        for variant in VARIANTS:
            nats[variant.name].append(measure_nats(model, make_item(pair, variant, codec)))
        if place % 10 == 9:
            sys.stderr.write(f"{place + 1} of {len(chosen)}\n")
            print_table(sizes, nats)
    print_table(sizes, nats)


if __name__ == "__main__":
    main()
