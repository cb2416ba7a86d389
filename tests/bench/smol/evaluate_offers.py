"""Evaluates an adapter on histories that were not trained on.

    python -m tests.bench.smol.evaluate_offers BASE MINED OUT --adapter FILE

Nats a byte (ending included), and the greedy and the best of four beams beside what the team wrote:
keystrokes saved, and the share that saves at least 60 %. `--part valid` reads the 10 % before the newest
10 %, `test` those.
"""

import argparse
import gzip
import json
import random
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from rapidfuzz.distance import Levenshtein
from safetensors import safe_open
from tokenizers import Tokenizer
from transformers import AutoModelForCausalLM

from gitpeft.diff.prompt import Encode
from gitpeft.diff.subjects import clean_subject, strip_issue_numbers
from gitpeft.redaction import mask_secrets
from gitpeft.suggest.retrieval import CommitIndex
from tests.bench.smol.pairs import make_encoder, restore_file_changes
from tests.bench.smol.train import Item, make_item

PARTS = {"valid": (0.8, 0.9), "test": (0.9, 1.0)}


def load_history(path: Path) -> list[dict[str, Any]]:
    """The commits of a history that count, oldest first: none whose message was there before."""
    with gzip.open(path, "rt") as lines:
        records = [json.loads(line) for line in lines]
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


def make_commit_item(record: dict[str, Any], encode: Encode, tokens: int) -> Item:
    """A commit as the model reads it, and its message."""
    previous = strip_issue_numbers(mask_secrets(clean_subject(record["previous"])))
    return make_item(
        restore_file_changes(record["files"]),
        record["like"],
        previous,
        record["subject"],
        encode,
        tokens,
    )


def merge_adapter(base: Path, adapter: Path | None) -> Any:
    """The base with an adapter folded in, in bf16."""
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    if adapter:
        with safe_open(adapter, "pt") as file, torch.no_grad():
            recipe = json.loads(file.metadata()["note"])["recipe"]
            for name in file.keys():  # noqa: SIM118 (it is no dictionary)
                if ".lora_A." not in name:
                    continue
                a, b = (
                    file.get_tensor(name).float(),
                    file.get_tensor(name.replace("lora_A", "lora_B")).float(),
                )
                module = name.removeprefix("base_model.model.").removesuffix(".lora_A.weight")
                model.get_submodule(module).weight += recipe["alpha"] / recipe["rank"] * (b @ a)
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
    for name in ("base", "mined", "out"):
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
    parser.add_argument("--repos", nargs="*", default=["pallets+flask", "gin-gonic+gin", "axios+axios"])
    args = parser.parse_args()
    torch.set_num_threads(1)
    tokenizer = Tokenizer.from_file(str(args.base / "tokenizer.json"))
    model, encode = merge_adapter(args.base, args.adapter), make_encoder(tokenizer)
    with open(args.out, "w") as lines, torch.no_grad():
        for repo in args.repos:
            total = size = 0.0
            gains: dict[str, list[float]] = {}
            records = sample_commits(load_history(args.mined / f"{repo}.jsonl.gz"), args.part, args.n)
            for i, record in enumerate(records):
                one = make_commit_item(record, encode, args.tokens)
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
