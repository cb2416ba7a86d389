"""The nearest earlier commits of the same repository: hides the term weighting and the inverted index."""

import re
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from io import BytesIO
from pathlib import Path
from typing import Any

from gitpeft.diff import split

_WORD = re.compile(r"[A-Za-z_][A-Za-z_0-9]{2,}")
_TERMS_KEPT = 160
_ARRAYS = ("vocabulary", "idf", "starts", "rows", "weights", "places", "commits")
_COMMON = 0.4
"""Terms in more than this share of all commits say nothing and cost most."""


@dataclass(frozen=True, slots=True)
class Neighbour:
    """An earlier commit: its place in the index, subject, id, and cosine similarity in 0..1."""

    position: int
    subject: str
    sha: str
    score: float


def terms(change: str) -> Counter[int]:
    """Hashed terms of a compact change with their counts: paths and their parts, headings, identifiers.

    A path counts more than a word, and a removed word is another term than an added one.
    """
    files, blocks = split(change)
    found: Counter[str] = Counter()
    for label, path in files:
        folder, _, name = path.rpartition("/")
        stem, _, suffix = name.partition(".")
        found[f"p:{path}"] += 6
        found[f"d:{folder}"] += 1
        found[f"n:{stem.lower()}"] += 2
        found[f"x:{suffix}{label.rpartition(' ')[2] if label[-1:].isalpha() else ''}"] += 1
    for block in blocks.values():
        for line in block:
            sign = line[:1] if line[:1] in "+-" else ""
            for word in _WORD.findall(line):
                found[word.lower()] += 1
                if sign:
                    found[sign + word.lower()] += 1
    return Counter({zlib.crc32(term.encode()): count for term, count in found.most_common(_TERMS_KEPT)})


class Index:
    """An inverted index over changes, oldest first; cosine of log-tf · idf vectors.

    Arrays: `vocabulary` (terms, sorted), `starts` (terms + 1) into `rows` and `weights` (postings, sorted by
    row within a term), `idf` (terms), `places` (commits + 1) into `commits` (bytes: sha, space, subject).
    """

    def __init__(self, arrays: dict[str, Any]) -> None:
        self.arrays = arrays

    def __len__(self) -> int:
        return len(self.arrays["places"]) - 1

    def commit(self, position: int) -> tuple[str, str]:
        """Sha and subject of a commit."""
        start, end = self.arrays["places"][position : position + 2]
        sha, _, subject = (
            self.arrays["commits"][start:end].tobytes().decode("utf-8", "replace").partition(" ")
        )
        return sha, subject

    def place(self, sha: str) -> int | None:
        """Where a commit is in the index; None when it is not there."""
        import numpy as np

        start = self.arrays["commits"].tobytes().find(f"{sha} ".encode())
        position = int(np.searchsorted(self.arrays["places"], start))
        return position if start >= 0 and self.arrays["places"][position] == start else None

    @classmethod
    def build(cls, changes: Sequence[str], subjects: Sequence[str], shas: Sequence[str]) -> "Index":
        """Index these changes; the three sequences go together, oldest commit first."""
        import numpy as np

        counted = [terms(change) for change in changes]
        frequency: Counter[int] = Counter()
        for found in counted:
            frequency.update(found.keys())
        limit = max(8, int(_COMMON * len(counted)))
        vocabulary = np.array(sorted(t for t, n in frequency.items() if n <= limit), dtype=np.uint32)
        idf = np.array(
            [np.log((len(counted) + 1) / (frequency[int(t)] + 0.5)) for t in vocabulary], dtype=np.float32
        )
        columns, rows, weights = [], [], []
        for row, found in enumerate(counted):
            column, weight = _vector(found, vocabulary, idf)
            columns.append(column)
            rows.append(np.full(len(column), row, dtype=np.int32))
            weights.append(weight)
        column = np.concatenate(columns) if columns else np.zeros(0, dtype=np.int64)
        order = np.argsort(column, kind="stable")
        arrays = {
            "vocabulary": vocabulary,
            "idf": idf,
            "starts": np.searchsorted(column[order], np.arange(len(vocabulary) + 1)).astype(np.int64),
            "rows": (np.concatenate(rows) if rows else np.zeros(0, dtype=np.int32))[order],
            "weights": _rounded(np.concatenate(weights) if weights else np.zeros(0, dtype=np.float32))[order],
            **_commit_arrays(subjects, shas),
        }
        return cls(arrays)

    def nearest(self, change: str, n: int, before: int | None = None) -> list[Neighbour]:
        """The `n` most similar commits, best first, among the first `before` ones; only similarities above 0.

        Of equally similar commits the newest comes first; a subject is given once.
        """
        import numpy as np

        limit = len(self) if before is None else before
        column, weight = _vector(terms(change), self.arrays["vocabulary"], self.arrays["idf"])
        starts, rows, weights = self.arrays["starts"], self.arrays["rows"], self.arrays["weights"]
        spans = [(starts[c], starts[c + 1]) for c in column]
        if not limit or not spans or n < 1:
            return []
        scores = np.bincount(
            np.concatenate([rows[a:b] for a, b in spans]),
            weights=np.concatenate([weights[a:b] * w for (a, b), w in zip(spans, weight, strict=True)]),
            minlength=limit,
        )[:limit]
        found: dict[str, Neighbour] = {}
        last = max(0, limit - 4 * n)
        # Every commit as similar as the last of these, or it would be chance which of equal ones are seen.
        best = np.flatnonzero((scores > 0) & (scores >= np.partition(scores, last)[last]))
        for position in sorted(best.tolist(), key=lambda i: (-scores[i], -i)):
            if len(found) == n:
                break
            sha, subject = self.commit(position)
            if subject not in found:
                found[subject] = Neighbour(position, subject, sha, float(scores[position]))
        return list(found.values())

    def save(self, folder: Path) -> None:
        """Write each array as a `.npy` file into `folder`, which must exist."""
        import numpy as np

        stored = dict(self.arrays, weights=self.arrays["weights"].astype(np.float16))
        for name in _ARRAYS:
            np.save(folder / f"{name}.npy", stored[name], allow_pickle=False)

    @classmethod
    def load(cls, read: Callable[[str], bytes]) -> "Index":
        """What `save` wrote; `read` gives a file's bytes by its name. ValueError when they are no arrays."""
        import numpy as np

        files = {name: BytesIO(read(f"{name}.npy")) for name in _ARRAYS}
        return cls({name: np.load(file, allow_pickle=False) for name, file in files.items()})


def _rounded(weights: Any) -> Any:
    """Weights as they come back from a file, so that an index answers alike before and after it is saved."""
    import numpy as np

    return weights.astype(np.float16).astype(np.float32)


def _commit_arrays(subjects: Sequence[str], shas: Sequence[str]) -> dict[str, Any]:
    import numpy as np

    rows = [f"{sha} {subject}".encode() for sha, subject in zip(shas, subjects, strict=True)]
    places = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return {"places": places, "commits": np.frombuffer(b"".join(rows), dtype=np.uint8)}


def _vector(found: Counter[int], vocabulary: Any, idf: Any) -> tuple[Any, Any]:
    """Columns and unit-length weights of a term vector."""
    import numpy as np

    if not found or not len(vocabulary):
        return np.zeros(0, dtype=np.int64), np.zeros(0, dtype=np.float32)
    terms_ = np.fromiter(found.keys(), dtype=np.uint32, count=len(found))
    counts = np.fromiter(found.values(), dtype=np.float32, count=len(found))
    column = np.minimum(np.searchsorted(vocabulary, terms_), len(vocabulary) - 1)
    known = vocabulary[column] == terms_
    column, weight = column[known], (1 + np.log(counts[known])) * idf[column[known]]
    norm = float(np.sqrt((weight * weight).sum())) or 1.0
    return column, (weight / norm).astype(np.float32)
