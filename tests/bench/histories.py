"""What benchmarks on whole histories share: their options, a history as records, and a score as a cell."""

import argparse
import subprocess
import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

from git import Repo

from gitpeft.git.repository import Repository
from gitpeft.history.store import CommitRecord
from gitpeft.learn import pipeline
from gitpeft.learn.evaluation import text_metrics


def options(doc: str | None) -> argparse.ArgumentParser:
    """A parser for `NAME=PATH` of histories; `doc` is the help as it is written."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("histories", nargs="+", metavar="NAME=PATH")
    return parser


def read(path: str) -> list[CommitRecord]:
    """The records of a history, oldest first; the clone at `path` is not written to."""
    with tempfile.TemporaryDirectory() as scratch:
        Repo.clone_from(path, scratch, no_checkout=True)
        return list(pipeline.mine_history(Repository.open(Path(scratch)), "HEAD", lambda *_: None).records)


@contextmanager
def open_newest(source: Path, newest: int) -> Iterator[tuple[Repository, list[str]]]:
    """A shallow clone of the newest commits, with a state directory of its own; their ids, newest first."""
    with tempfile.TemporaryDirectory() as scratch:
        place = Path(scratch) / "clone"
        clone = ["git", "clone", "-q", "--bare", "--shared", str(source.resolve()), str(place)]
        subprocess.run(clone, check=True)
        listed = Repository.open(place).run("rev-list", "--date-order", "--parents", "HEAD").decode()
        rows = [line.split() for line in listed.splitlines()[:newest]]
        inside = {row[0] for row in rows}
        edge = [row[0] for row in rows if not inside.issuperset(row[1:])]
        (place / "shallow").write_text("".join(f"{sha}\n" for sha in edge))
        yield Repository.open(place), [row[0] for row in rows]


def cell(scores: Sequence[float]) -> str:
    """The mean with its interval."""
    return "{:.1f} ({:.1f}–{:.1f})".format(*text_metrics.bootstrap_mean(scores, 0))
