"""What a model answered for commits, kept in a run's folder so that the same is not asked again.

A run that was killed goes on behind its last answer, and one that is repeated asks nothing. Answers are found
again by everything that they depend on: the model's files with its index and style, the earlier commits that
are indexed for each question, and the versions of the packages.
"""

import hashlib
import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from gitpeft.bundle.manifest import Manifest
from gitpeft.learn.data.dataset import Example
from gitpeft.suggest.reranker import MessageCandidate
from gitpeft.suggest.reranker_features import RERANKER_FEATURES

ANSWERS_FOLDER = "answers"
"""In the folder of a run."""

_END = "asked"


class AnswerFolder:
    """The answers of all trials of a run, in its folder."""

    def __init__(self, run: Path) -> None:
        self._folder = run / ANSWERS_FOLDER
        self._opened: list[KeptAnswers] = []

    @property
    def added(self) -> int:
        """How many answers are new."""
        return sum(one.added for one in self._opened)

    def open(self, manifest: Manifest, since: Sequence[Example]) -> "KeptAnswers":
        """The answers of a model with this manifest, which lists its files.

        `since` are the commits that are indexed besides.
        """
        model = (manifest.kind, manifest.base_digest, manifest.budget, manifest.settings, manifest.renderer)
        files = {name: entry.sha256 for name, entry in manifest.files.items()}
        parts = [model, files, manifest.versions, RERANKER_FEATURES, [example.sha for example in since]]
        key = hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()[:16]
        self._opened.append(KeptAnswers(self._folder / f"{key}.jsonl"))
        return self._opened[-1]


class KeptAnswers:
    """The answers of one trial: a line for each commit that was asked about, a last one once it has ended."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._asked = 0
        self._known: dict[str, tuple[MessageCandidate, ...]] = {}
        self.added = 0
        """How many answers are new."""
        for line in _read_lines(path):
            self._read_line(line)

    def find(self, example: Example) -> tuple[MessageCandidate, ...] | None:
        """What was answered for a commit; None where it was not asked about."""
        return self._known.get(example.sha)

    def count_asked(self) -> int:
        """About how many commits a trial asked that came to its end; 0 where none did."""
        return self._asked

    def add(self, example: Example, found: Sequence[MessageCandidate]) -> None:
        """Keep an answer."""
        self.added += 1
        self._append([example.sha, [_encode_candidate(one) for one in found]])

    def close(self, asked: int) -> None:
        """Note that a trial came to its end, after so many commits."""
        self._append([_END, asked])

    def _append(self, line: object) -> None:
        """Write a line; where that is not possible the next run asks again."""
        try:
            self._path.parent.mkdir(parents=True, exist_ok=True)
            with self._path.open("a", encoding="utf-8") as file:
                # a line break comes first, since a killed process may have left half a line
                file.write("\n" + json.dumps(line))
        except OSError:
            return

    def _read_line(self, line: str) -> None:
        try:
            name, content = json.loads(line)
            if name == _END:
                self._asked = int(content)
            else:
                self._known[str(name)] = tuple(_decode_candidate(one) for one in content)
        except (ValueError, TypeError):
            return  # half a line


def _read_lines(path: Path) -> list[str]:
    try:
        return path.read_text(encoding="utf-8").splitlines()
    except (OSError, ValueError):
        return []


def _encode_candidate(one: MessageCandidate) -> list[object]:
    features = [float(value) for value in one.features]
    return [one.message, one.origin, list(one.like), features, one.flaw, float(one.mean)]


def _decode_candidate(fields: Sequence[Any]) -> MessageCandidate:
    message, origin, like, features, flaw, mean = fields
    return MessageCandidate(str(message), str(origin), tuple(like), tuple(features), str(flaw), float(mean))
