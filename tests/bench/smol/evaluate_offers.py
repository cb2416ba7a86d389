"""Evaluates an adapter on histories that were not trained on.

    python -m tests.bench.smol.evaluate_offers BASE CORPUS OUT --adapter FILE

CORPUS is a folder of bare clones, OWNER+NAME each.

Nats a byte (ending included), and the greedy and the best of four beams beside what the team wrote:
keystrokes saved, and the share that saves at least 60 %. `--part valid` reads the 10 % before the newest
10 %, `test` those.
"""

import argparse
import json
import random
import sys
from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from rapidfuzz.distance import Levenshtein
from safetensors import safe_open
from tokenizers import Tokenizer

from gitpeft.diff.subjects import clean_subject, strip_issue_numbers
from gitpeft.learn.models import bases
from gitpeft.learn.pretraining.commit_pairs import (
    mine_repository,
    open_clone,
    render_pair,
    restore_files,
)
from gitpeft.redaction import mask_secrets
from gitpeft.runtime.tokenizer import TokenCodec
from gitpeft.suggest.retrieval import CommitIndex

PARTS = {"valid": (0.8, 0.9), "test": (0.9, 1.0)}


@dataclass(frozen=True, slots=True)
class Item:
    """A commit as ids: where its message starts, and how many bytes that has."""

    ids: torch.Tensor
    start: int
    size: int


def load_history(corpus: Path, name: str) -> list[dict[str, Any]]:
    """The commits of a history that count, oldest first: none whose message was there before."""
    records = mine_repository(open_clone(corpus, name), "HEAD", 1000, Counter())
    seen: set[str] = set()
    found = []
    for record in records:
        record["subject"] = mask_secrets(clean_subject(record["subject"]))
        if record["subject"].lower() not in seen:
            found.append(record)
        seen.add(record["subject"].lower())
    return found


def sample_commits(records: Sequence[dict[str, Any]], part: str, n: int) -> list[dict[str, Any]]:
    """A sample of a part of a history, each with the earlier subjects nearest to it."""
    start, end = (int(len(records) * share) for share in PARTS[part])
    index = CommitIndex.build(
        [r["change"] for r in records],
        [strip_issue_numbers(r["subject"]) for r in records],
        [r["sha"] for r in records],
    )
    places = sorted(random.Random(7).sample(range(start, end), min(n, end - start)))
    for i in places:
        records[i]["like"] = [
            near.subject for near in index.find_nearest(records[i]["change"], 3, before=start)
        ]
    return [records[i] for i in places]


def make_commit_item(record: dict[str, Any], codec: TokenCodec, tokens: int) -> Item:
    """A commit as the model reads it, and its message, whole."""
    previous = strip_issue_numbers(mask_secrets(clean_subject(record["previous"])))
    prompt = render_pair(restore_files(record["files"]), record["like"], previous, codec, tokens)
    written = [*codec.encode_message(record["subject"], "prompt"), codec.find_message_end("prompt")]
    return Item(torch.tensor([*prompt, *written]), len(prompt), len(record["subject"].encode()))


def merge_adapter(base: Path, adapter: Path | None) -> Any:
    """The base with an adapter folded in, in bf16."""
    model: Any = bases.find_base(str(base)).load(adapted=False)
    if adapter:
        with safe_open(adapter, "pt") as file, torch.no_grad():
            for name in file.keys():  # noqa: SIM118 (it is no dictionary)
                if ".lora_A." not in name:
                    continue
                a, b = (
                    file.get_tensor(name).float(),
                    file.get_tensor(name.replace("lora_A", "lora_B")).float(),
                )
                module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                model.get_submodule(module).weight += 2 * (b @ a)  # alpha is twice the rank
    return model.bfloat16()


def measure_nats(model: Any, one: Item) -> float:
    """Nats of a message, its ending included."""
    keep = len(one.ids) - one.start + 1
    logits = model(one.ids[None], logits_to_keep=keep).logits[0, :-1].float()
    return float(torch.nn.functional.cross_entropy(logits, one.ids[one.start :], reduction="sum"))


def generate_offer(model: Any, one: Item, tokenizer: Tokenizer, beams: int) -> str:
    """What the model would offer."""
    prompt = one.ids[None, : one.start]
    newline = tokenizer.encode("\n", add_special_tokens=False).ids[0]
    out = model.generate(
        prompt,
        attention_mask=torch.ones_like(prompt),
        max_new_tokens=28,
        num_beams=beams,
        do_sample=False,
        eos_token_id=newline,
        pad_token_id=newline,
        length_penalty=1.0,
        early_stopping=True,
    )
    return str(tokenizer.decode(out[0, one.start :].tolist())).strip().split("\n")[0]


def measure_saved_keystrokes(offer: str, message: str) -> float:
    """The share of the keystrokes that an offer saves."""
    return max(0.0, 1 - Levenshtein.distance(offer, message) / max(1, len(message)))


def main() -> None:
    """Judge, and write a line a commit."""
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("base", "corpus", "out"):
        parser.add_argument(name, type=Path)
    parser.add_argument("--adapter", type=Path)
    parser.add_argument("--part", choices=list(PARTS), default="valid")
    parser.add_argument("-n", type=int, default=30)
    parser.add_argument("--tokens", type=int, default=512)
    parser.add_argument(
        "--write",
        type=int,
        default=0,
        help="for so many commits of each also write offers",
    )
    parser.add_argument("--beams", type=int, default=4)
    parser.add_argument("--repos", nargs="*", default=["pallets/flask", "gin-gonic/gin", "axios/axios"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(args.base / "tokenizer.json"))
    model = merge_adapter(args.base, args.adapter)
    codec = TokenCodec.load(args.base / "tokenizer.json")
    with open(args.out, "w") as lines, torch.no_grad():
        for repo in args.repos:
            total = size = 0.0
            gains: dict[str, list[float]] = {}
            records = sample_commits(load_history(args.corpus, repo), args.part, args.n)
            for i, record in enumerate(records):
                one = make_commit_item(record, codec, args.tokens)
                row: dict[str, Any] = {
                    "repo": repo,
                    "sha": record["sha"],
                    "message": record["subject"],
                }
                row["nats"] = measure_nats(model, one)
                total, size = total + row["nats"], size + one.size
                if i < args.write:
                    row["greedy"], row["beam"] = (
                        generate_offer(model, one, tokenizer, n) for n in (1, args.beams)
                    )
                    row["nearest"] = next(iter(record["like"]), "")
                    row["prompt"] = tokenizer.decode(one.ids[: one.start].tolist())
                    for kind in ("greedy", "beam", "nearest"):
                        gains.setdefault(kind, []).append(
                            measure_saved_keystrokes(row[kind], record["subject"])
                        )
                lines.write(json.dumps(row) + "\n")
            note = {
                "repo": repo,
                "n": len(records),
                "nats_a_byte": round(total / size, 4),
                "nats": round(total / len(records), 2),
            }
            for kind, values in gains.items():
                note |= {
                    kind: round(sum(values) / len(values), 3),
                    f"{kind}_kept": round(sum(v >= 0.6 for v in values) / len(values), 3),
                }
            sys.stderr.write(json.dumps(note) + "\n")


if __name__ == "__main__":
    main()
