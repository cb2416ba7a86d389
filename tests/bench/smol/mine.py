"""Writes the newest commits of bare repositories as JSON lines, oldest first, secrets masked.

    python -m tests.bench.smol.mine OUT REPO...

A line holds the commit's id, time, author (a number), previous subject of the author, subject, and its files
with their hunks, bounded. What is left out is counted in `OUT/mined.jsonl`.
"""

import argparse
import gzip
import json
import subprocess
import sys
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from gitpeft.diff.compact import compact_change
from gitpeft.diff.patch import FileChange, parse_patch
from gitpeft.diff.subjects import clean_subject
from gitpeft.history.filters import find_exclusion_reason, is_bot
from gitpeft.redaction import mask_secrets

_HELD_OUT = """
pallets/flask gin-gonic/gin axios/axios openstack/swift golang/net pytest-dev/pytest tokio-rs/tokio
encode/httpx apache/zookeeper apache/ant-ivy apache/giraph apache/gora apache/commons-codec
apache/commons-lang sharkdp/bat jqlang/jq prettier/prettier pypa/packaging junegunn/fzf
redis/redis-py
"""
HELD_OUT = frozenset(_HELD_OUT.split())
"""Repositories that measure: nothing is ever learnt from them."""
_MAX_PATCH_BYTES = 300_000
_MAX_LINES = 260
_MAX_LINE_LENGTH = 200
_MAX_FILES = 40
_FORMAT = "%x00%H%x1f%at%x1f%an <%ae>%x1f%s%x1f%b%x1e"


def read_commits(repo: Path, tip: str, newest: int, skip: int) -> Iterator[tuple[list[str], bytes]]:
    """Header fields and patch of each commit that is no merge, newest first."""
    command = [
        "git",
        "-C",
        str(repo),
        "log",
        "--no-merges",
        "-p",
        "-M",
        "--no-color",
        "--no-ext-diff",
        "--no-textconv",
    ]
    command += [f"--format={_FORMAT}", f"-n{newest}", f"--skip={skip}", tip]
    with subprocess.Popen(command, stdout=subprocess.PIPE) as process:
        assert process.stdout
        for part in _split_commits(process.stdout):
            head, _, patch = part.partition(b"\x1e")
            fields = head.decode("utf-8", "replace").split("\x1f")
            if len(fields) == 5:
                yield fields, patch


def _split_commits(stream: Any) -> Iterator[bytes]:
    rest = b""
    while block := stream.read(1 << 20):
        *whole, rest = (rest + block).split(b"\0")
        yield from whole
    yield rest


def bound_files(files: list[FileChange]) -> list[dict[str, Any]]:
    """The files as plain values, no more lines than a prompt could ever show."""
    ordered = sorted(files, key=lambda c: (c.kind == "text", c.added + c.removed), reverse=True)[:_MAX_FILES]
    room = _MAX_LINES
    found = []
    for change in ordered:
        hunks = []
        for hunk in change.hunks:
            lines = [line[:_MAX_LINE_LENGTH] for line in hunk.lines[: max(0, min(room, 100))]]
            room -= len(lines)
            if lines:
                hunks.append([hunk.heading[:_MAX_LINE_LENGTH], mask_secrets("\n".join(lines)).split("\n")])
        found.append(
            {
                "path": change.path,
                "status": change.status,
                "old": change.old_path,
                "added": change.added,
                "removed": change.removed,
                "kind": change.kind,
                "functions": list(change.functions[:12]),
                "hunks": hunks,
            }
        )
    return found


def mine_repository(
    repo: Path, tip: str, newest: int, skip: int, left_out: Counter[str]
) -> list[dict[str, Any]]:
    """The usable commits of a repository, oldest first."""
    found = []
    authors: dict[str, int] = {}
    for (sha, time, author, subject, body), patch in read_commits(repo, tip, newest, skip):
        number = authors.setdefault(author.lower(), len(authors))
        record: dict[str, Any] = {
            "sha": sha[:12],
            "time": int(time),
            "author": number,
            "subject": clean_subject(subject),
        }
        reason, files = _examine_commit(author, subject, body, patch)
        left_out[reason or "kept"] += 1
        if not reason:
            record["change"] = mask_secrets(compact_change(files))
            record["files"] = bound_files(files)
        found.append(record)
    found.reverse()
    last: dict[int, str] = {}
    for record in found:
        record["previous"] = last.get(record["author"], "")
        last[record["author"]] = record["subject"]
    return [record for record in found if "files" in record]


def _examine_commit(author: str, subject: str, body: str, patch: bytes) -> tuple[str, list[FileChange]]:
    if is_bot(author):
        return "bot", []
    if len(patch) > _MAX_PATCH_BYTES:
        return "huge", []
    files = parse_patch(patch)
    return find_exclusion_reason(clean_subject(subject), body, compact_change(files)), files


def _read_head(repo: Path) -> str:
    command = ["git", "-C", str(repo), "rev-parse", "HEAD"]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def _read_tips(path: Path) -> dict[str, str]:
    notes = map(json.loads, path.read_text().splitlines())
    return {note["repo"]: note["commit"] for note in notes}


def main() -> None:
    """Mine each repository into its own file."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("out", type=Path)
    parser.add_argument("repos", type=Path, nargs="+")
    parser.add_argument("--newest", type=int, default=1000)
    parser.add_argument("--skip", type=int, default=0)
    parser.add_argument("--held-out", action="store_true", help="those that measure, and only those")
    parser.add_argument(
        "--tips", type=Path, help="a mined.jsonl whose commits to start from, to get the same again"
    )
    args = parser.parse_args()
    tips = _read_tips(args.tips) if args.tips else {}
    args.out.mkdir(parents=True, exist_ok=True)
    for repo in args.repos:
        name = repo.parent.name.replace("+", "/", 1)
        out = args.out / f"{name.replace('/', '+')}.jsonl.gz"
        if out.exists() or (name in HELD_OUT) != args.held_out:
            continue
        left_out: Counter[str] = Counter()
        tip = tips.get(name) or _read_head(repo)
        records = mine_repository(repo, tip, args.newest, args.skip, left_out)
        with gzip.open(out, "wt", compresslevel=3) as lines:
            lines.writelines(json.dumps({"repo": name, **record}) + "\n" for record in records)
        note = {"repo": name, "commit": tip, **left_out}
        with open(args.out / "mined.jsonl", "a") as notes:
            notes.write(json.dumps(note) + "\n")
        sys.stderr.write(json.dumps(note) + "\n")


if __name__ == "__main__":
    main()
