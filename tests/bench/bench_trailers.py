r"""The bugs that SZZ finds compared with those that developers name in `Fixes: <id>` trailers.

    python tests/bench/bench_trailers.py [--newest N] [--ghosts N] [--context] NAME=PATH… \
        | python tests/bench/write_table.py docs/evaluation.md trailers ghosts

Of the newest N commits of each history (a full clone, which is only read), every commit with a trailer that
names one of the others is a fix whose bug is known. The trailers are hidden, and SZZ traces the fixes by
their lines alone. A pair is a fix and a bug. Not counted are fixes all of whose bugs are older than the N
commits, and those that name what SZZ never labels: a commit without code, one that is larger than its limit.

`--context` compares ways to trace fixes that remove no line of code ("ghosts"): by the lines around what they
add, and by the functions that they add to. Intervals are 95 %, bootstrap over the fixes.
"""

import argparse
import random
import re
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from unittest.mock import patch

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parents[2]))

from gitpeft.config import Config
from gitpeft.diff.patch import unquote_path
from gitpeft.git.log import Commit
from gitpeft.git.repository import Repository
from gitpeft.git.streams import read_commit_messages
from gitpeft.history import fix_detection
from gitpeft.learn.szz import szz
from gitpeft.learn.szz.candidate_lines import classify_non_code
from gitpeft.learn.szz.edit_cache import EditCache
from gitpeft.learn.szz.edits import CommitEdit
from gitpeft.learn.szz.reverts import ShaResolver
from tests.bench.histories import open_newest

MARK = "X-Known-Fix: yes"
"""Takes the place of a trailer, so that detection does not matter where tracing is measured."""

_TRAILER = re.compile(r"^fixes: *(?:commit +)?[0-9a-f]{7,64}\b.*$", re.I | re.M)
Found = Mapping[str, frozenset[str]]
"""The bugs of each fix, as ids."""


@dataclass(frozen=True)
class Subject:
    """A history: its commits, the bugs that its fixes name, those that SZZ finds, and the ghosts.

    `detected` are the fixes that are recognised without their trailer.
    """

    name: str
    commits: int
    named: Found
    traced: Found
    detected: frozenset[str]
    ghosts: tuple[str, ...]


def read_subject(name: str, repository: Repository, tip: str) -> Subject:
    commits = read_commit_messages(repository, tip)
    named = _find_named_bugs(commits)
    texts = {one.sha: f"{one.subject}\n{_TRAILER.sub('', one.body)}" for one in commits}
    _, _, kinds = fix_detection.classify_messages(texts.values())
    detected = frozenset(sha for sha, kind in zip(texts, kinds, strict=True) if kind and sha in named)
    labels = _trace_without_trailers(repository, tip)
    traced: dict[str, set[str]] = {sha: set() for sha in named}
    for bug in labels.verdicts.values():
        for fix in bug.fixes:
            if fix in traced:
                traced[fix].add(bug.sha)
    with EditCache.open(repository.state_dir) as cache:
        edits = {sha: cache.get_edit(sha) for sha in {*named, *(b for bugs in named.values() for b in bugs)}}
    usable = {sha for sha, edit in edits.items() if edit and _can_be_labelled(edit)}
    kept = {fix: bugs & usable for fix, bugs in named.items() if bugs & usable and fix in usable}
    ghosts = tuple(fix for fix in kept if (edit := edits[fix]) and not edit.suspects)
    return Subject(
        name,
        len(commits),
        {fix: frozenset(bugs) for fix, bugs in kept.items()},
        {fix: frozenset(traced[fix]) for fix in kept},
        detected & frozenset(kept),
        ghosts,
    )


def _find_named_bugs(commits: Sequence[Commit]) -> dict[str, set[str]]:
    """What fixes name, as far as it is among these commits and earlier than they."""
    find, place = ShaResolver(commits), {one.sha: i for i, one in enumerate(commits)}
    found = {}
    for one in commits:
        names = fix_detection.parse_fixes_trailers(f"{one.subject}\n{one.body}")
        bugs = {sha for sha in find.resolve_prefixes(names) if place[sha] < place[one.sha]}
        if bugs and len(one.parents) == 1:
            found[one.sha] = bugs
    return found


def _can_be_labelled(edit: CommitEdit) -> bool:
    code = any(not classify_non_code(unquote_path(file.path)) for file in edit.files)
    return code and edit.size[0] <= szz.LARGE_COMMIT_FILES and edit.size[1] <= szz.LARGE_COMMIT_LINES


def _trace_without_trailers(repository: Repository, tip: str) -> szz.SzzLabels:
    """The labels by the fixes that had a trailer, which is hidden."""

    def read_hidden(repository: Repository, tip: str, newest: int | None = None) -> list[Commit]:
        commits = read_commit_messages(repository, tip, newest)
        return [replace(one, body=_TRAILER.sub(MARK, one.body)) for one in commits]

    config = replace(Config(), fix_pattern=f"^{MARK}$")
    with patch.object(szz, "read_commit_messages", read_hidden):
        return szz.trace_bug_introducing_commits(repository, tip, config, lambda *_: None)


# --- ghosts -------------------------------------------------------------------------------------------------

_HUNK = re.compile(r"^@@ -(\d+)(?:,(\d+))? ", re.M)


def trace_context(repository: Repository, fix: str) -> dict[str, frozenset[str]]:
    """The bugs of a fix that removes nothing, by each way to look at what is around its added lines."""
    beside: list[str] = []
    around: list[str] = []
    shown = repository.run("show", "-W", "-U1", "--format=", "-M", "--no-color", fix).decode(
        "utf-8", "replace"
    )
    for part in re.split(r"^diff --git ", shown, flags=re.M)[1:]:
        named = re.search(r"^--- (?:\"?a/)(.+?)\"?$", part, re.M)
        if named is None or classify_non_code(named[1]):
            continue
        for start, lines in _split_hunks(part):
            authors = _blame(repository, fix, named[1], start, sum(line[0] in " -" for line in lines))
            at = 0
            for i, line in enumerate(lines):
                if line[0] == "+" and line[1:].strip() and at:
                    beside += authors[max(0, at - 1) : at + 1] if lines[i - 1][0] != "+" else []
                at += line[0] in " -"
            around += authors
    newest = _find_newest(repository, around)
    return {
        "the lines before and after": frozenset(beside),
        "the newer of these": frozenset(_find_newest(repository, beside)),
        "the newest line of the functions": frozenset(newest),
    }


def _split_hunks(part: str) -> Iterator[tuple[int, list[str]]]:
    """The first old line and the lines of each hunk."""
    places = list(_HUNK.finditer(part))
    for this, following in zip(places, [*places[1:], None], strict=True):
        body = part[this.end() : following.start() if following else None].split("\n")[1:]
        yield int(this[1]), [line for line in body if line[:1] in ("+", "-", " ") and line]


def _blame(repository: Repository, fix: str, path: str, start: int, count: int) -> list[str]:
    if not count:
        return []
    said = repository.run("blame", "-w", "-s", "-l", f"-L{start},+{count}", f"{fix}^", "--", path)
    return [line.decode("utf-8", "replace").split(" ", 1)[0] for line in said.splitlines()]


def _find_newest(repository: Repository, shas: Sequence[str]) -> list[str]:
    known = sorted({sha for sha in shas if sha[0] != "^"})
    if not known:
        return []
    times = repository.run("log", "--no-walk=unsorted", "--format=%ct %H", *known).decode().split()
    return [max(zip(map(int, times[::2]), times[1::2], strict=True))[1]]


# --- tables -------------------------------------------------------------------------------------------------


def measure(named: Found, traced: Found, fixes: Sequence[str]) -> tuple[str, str, str]:
    """Recall and precision of pairs, and the share of fixes with a bug found, as cells."""
    rows = np.array(
        [
            (len(named[fix] & traced[fix]), len(named[fix]), len(traced[fix]), bool(named[fix] & traced[fix]))
            for fix in fixes
        ],
        dtype=float,
    )
    if not len(rows):
        return "–", "–", "–"
    drawn = np.random.default_rng(0).integers(0, len(rows), (500, len(rows)))
    sums = np.vstack([rows.sum(0), rows[drawn].sum(1)])
    with np.errstate(invalid="ignore", divide="ignore"):
        shares = (sums[:, 0] / sums[:, 1], sums[:, 0] / sums[:, 2], sums[:, 3] / len(rows))
    first, second, third = (
        f"{one[0]:.3f} ({np.nanquantile(one[1:], 0.025):.2f}–{np.nanquantile(one[1:], 0.975):.2f})"
        for one in shares
    )
    return first, second, third


def print_trailers(subjects: Sequence[Subject]) -> None:
    heads = ("commits", "fixes with a trailer", "recognised without it", "that remove no code")
    measures = ("recall", "precision", "recall where code is removed", "precision there")
    print("| history | " + " | ".join((*heads, *measures)) + " |")
    print("|---" * (len(heads) + len(measures) + 1) + "|")
    for one in subjects:
        fixes, ghosts = sorted(one.named), set(one.ghosts)
        every = measure(one.named, one.traced, fixes)
        lines = measure(one.named, one.traced, [fix for fix in fixes if fix not in ghosts])
        counts = f"{one.commits:,} | {len(fixes):,} | {len(one.detected) / len(fixes):.0%}"
        cells = (one.name, counts, f"{len(ghosts) / len(fixes):.0%}", *every[:2], *lines[:2])
        print("| " + " | ".join(cells) + " |", flush=True)


def print_ghosts(rows: Sequence[tuple[Subject, Mapping[str, Mapping[str, frozenset[str]]]]]) -> None:
    print("\n| history | fixes that remove no code | by | recall | precision |\n|---|---|---|---|---|")
    for one, found in rows:
        for way in next(iter(found.values()), {}):
            traced = {fix: ways[way] for fix, ways in found.items()}
            recall, precision, _ = measure(one.named, traced, sorted(found))
            print(f"| {one.name} | {len(found)} | {way} | {recall} | {precision} |", flush=True)


def main() -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("histories", nargs="+", metavar="NAME=PATH")
    parser.add_argument("--newest", type=int, default=5000)
    parser.add_argument("--context", action="store_true")
    parser.add_argument("--ghosts", type=int, default=150, help="fixes traced by context, at most")
    options = parser.parse_args()
    subjects, contexts = [], []
    for given in options.histories:
        name, _, path = given.partition("=")
        with open_newest(Path(path), options.newest) as (repository, shas):
            subjects.append(read_subject(name, repository, shas[0]))
            if options.context:
                ghosts = list(subjects[-1].ghosts)
                chosen = random.Random(0).sample(ghosts, min(options.ghosts, len(ghosts)))
                contexts.append((subjects[-1], {fix: trace_context(repository, fix) for fix in chosen}))
    print_trailers(subjects)
    if contexts:
        print_ghosts(contexts)


if __name__ == "__main__":
    main()
