"""What benchmarks on whole histories share: their options, a history as records, and a score as a cell."""

import argparse
import tempfile
from collections.abc import Sequence
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
        return pipeline.mine_history(Repository.open(Path(scratch)), "HEAD", lambda *_: None).records


def cell(scores: Sequence[float]) -> str:
    """The mean with its interval."""
    return "{:.1f} ({:.1f}–{:.1f})".format(*text_metrics.bootstrap_mean(scores, 0))
