"""The nearest earlier commits of the same repository: hides the term weighting and the inverted index."""

import re
import struct
import zlib
from collections import Counter
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import Any

from gitpeft.diff.compact import split_compact
from gitpeft.lazy import lazy_dataclass

_IDENTIFIER_PATTERN = re.compile(r"[A-Za-z_][A-Za-z_0-9]{2,}")
_MAX_TERMS = 160
_ARRAY_NAMES = ("vocabulary", "idf", "starts", "rows", "weights", "places", "commits")
_MAX_DOCUMENT_FREQUENCY = 0.4
"""Terms in more than this share of all commits say nothing and cost most."""

RECENCY_WEIGHT, RECENCY_DECAY = 2.0, 30.0
"""The newest commit's similarity counts 1 + FRESH times, and the surplus falls by e with every FADES commits
of age: a team's habits drift, and what it did last week it often goes on doing."""


@lazy_dataclass(frozen=True, slots=True)
class IndexEntry:
    """A commit to be added to an index: `terms` are those of its change as `pack` writes them."""

    sha: str
    subject: str
    terms: bytes


@lazy_dataclass(frozen=True, slots=True)
class Neighbour:
    """An earlier commit: its place in the index, subject, id, cosine similarity in 0..1, and age.

    The newest commit that was looked at has age 1, the one before it 2.
    """

    position: int
    subject: str
    sha: str
    score: float
    age: int


def extract_terms(change: str) -> Counter[int]:
    """Hashed terms of a compact change with their counts: paths and their parts, headings, identifiers.

    A path counts more than a word, and a removed word is another term than an added one.
    """
    files, blocks = split_compact(change)
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
            for word in _IDENTIFIER_PATTERN.findall(line):
                found[word.lower()] += 1
                if sign:
                    found[sign + word.lower()] += 1
    return Counter({zlib.crc32(term.encode()): count for term, count in found.most_common(_MAX_TERMS)})


def pack_terms(found: Counter[int]) -> bytes:
    """Terms and their counts as little-endian pairs of 32 bits, for an `Entry`."""
    return struct.pack(f"<{2 * len(found)}I", *(number for pair in found.items() for number in pair))


class CommitIndex:
    """An inverted index over changes, oldest first; cosine of log-tf · idf vectors.

    Arrays: `vocabulary` (terms, sorted), `starts` (terms + 1) into `rows` and `weights` (postings, sorted by
    row within a term), `idf` (terms; 0 for those too common to be looked at), `places` (commits + 1) into
    `commits` (bytes: sha, space, subject). `later` is a small index of commits that came after.
    """

    def __init__(self, arrays: dict[str, Any], later: "CommitIndex | None" = None) -> None:
        self.arrays = arrays
        self.later = later

    def __len__(self) -> int:
        return len(self.arrays["places"]) - 1 + (len(self.later) if self.later else 0)

    def get_commit(self, position: int) -> tuple[str, str]:
        """Sha and subject of a commit."""
        first_later = len(self.arrays["places"]) - 1
        if self.later and position >= first_later:
            return self.later.get_commit(position - first_later)
        start, end = self.arrays["places"][position : position + 2]
        sha, _, subject = (
            self.arrays["commits"][start:end].tobytes().decode("utf-8", "replace").partition(" ")
        )
        return sha, subject

    def list_newest_subjects(self, n: int, before: int | None = None) -> list[str]:
        """The subjects of the last `n` commits, oldest first; where given, of the first `before` ones."""
        end = len(self) if before is None else before
        return [self.get_commit(position)[1] for position in range(max(0, end - n), end)]

    def find_position(self, sha: str) -> int | None:
        """Where a commit is in the index; None when it is not there."""
        import numpy as np

        start = self.arrays["commits"].tobytes().find(f"{sha} ".encode())
        position = int(np.searchsorted(self.arrays["places"], start))
        return position if start >= 0 and self.arrays["places"][position] == start else None

    @classmethod
    def build(cls, changes: Sequence[str], subjects: Sequence[str], shas: Sequence[str]) -> "CommitIndex":
        """Index these changes; the three sequences go together, oldest commit first."""
        import numpy as np

        counted = [extract_terms(change) for change in changes]
        frequency: Counter[int] = Counter()
        for found in counted:
            frequency.update(found.keys())
        limit = max(8, int(_MAX_DOCUMENT_FREQUENCY * len(counted)))
        vocabulary = np.array(sorted(frequency), dtype=np.uint32)
        counts = np.array([frequency[int(t)] for t in vocabulary], dtype=np.float32)
        idf = np.where(counts <= limit, np.log((len(counted) + 1) / (counts + 0.5)), 0).astype(np.float32)
        columns, rows, weights = [], [], []
        for row, found in enumerate(counted):
            column, weight = _normalise_vector(*_weigh_terms(found, vocabulary, idf))
            columns.append(column)
            rows.append(np.full(len(column), row, dtype=np.int32))
            weights.append(weight)
        column = np.concatenate(columns) if columns else np.zeros(0, dtype=np.int64)
        row_of = np.concatenate(rows) if rows else np.zeros(0, dtype=np.int32)
        weight = _round_weights(np.concatenate(weights) if weights else np.zeros(0, dtype=np.float32))
        postings = _build_postings(column, row_of, weight, len(vocabulary))
        return cls({"vocabulary": vocabulary, "idf": idf, **postings, **_build_commit_arrays(subjects, shas)})

    def with_later_commits(self, entries: Sequence[IndexEntry]) -> "CommitIndex":
        """The same index with later commits, oldest first; costs nothing of what is already in it.

        A term keeps its weight; one that is new here is weighed as if it were nowhere else.
        """
        import numpy as np

        base = CommitIndex(self.arrays)
        pairs = [np.frombuffer(entry.terms, dtype="<u4").reshape(-1, 2) for entry in entries]
        if not pairs:
            return base
        rows = np.repeat(np.arange(len(pairs), dtype=np.int32), [len(found) for found in pairs])
        found, counts = np.concatenate(pairs).T
        vocabulary, column = np.unique(found, return_inverse=True)
        alone = np.log((len(base) + len(pairs) + 1) / (np.bincount(column, minlength=len(vocabulary)) + 0.5))
        place, known = _look_up_terms(vocabulary, self.arrays["vocabulary"])
        idf = alone.astype(np.float32)
        idf[known] = self.arrays["idf"][place[known]]
        kept = idf[column] > 0
        column, rows = column[kept], rows[kept]
        weight = (1 + np.log(counts[kept])) * idf[column]
        norms = np.sqrt(np.bincount(rows, weight * weight, minlength=len(pairs)))
        postings = _build_postings(column, rows, _round_weights(weight / norms[rows]), len(vocabulary))
        commits = _build_commit_arrays([entry.subject for entry in entries], [entry.sha for entry in entries])
        return CommitIndex(
            self.arrays, CommitIndex({"vocabulary": vocabulary, "idf": idf, **postings, **commits})
        )

    def find_nearest(
        self, change: str, n: int, before: int | None = None, fresh: float = RECENCY_WEIGHT
    ) -> list[Neighbour]:
        """The `n` most similar commits, best first, among the first `before` ones; only similarities above 0.

        Newer commits count more (`FRESH`; 0 for similarity alone), and of equals the newest comes first; a
        subject is given once.
        """
        import numpy as np

        limit = len(self) if before is None else before
        if limit < 1 or n < 1:
            return []
        similar = self._compute_similarities(extract_terms(change))[:limit]
        scores = similar * (1 + fresh * np.exp(np.arange(1 - limit, 1) / RECENCY_DECAY))
        found: dict[str, Neighbour] = {}
        last = max(0, limit - 4 * n)
        # Every commit as similar as the last of these, or it would be chance which of equal ones are seen.
        best = np.flatnonzero((scores > 0) & (scores >= np.partition(scores, last)[last]))
        for position in sorted(best.tolist(), key=lambda i: (-scores[i], -i)):
            if len(found) == n:
                break
            sha, subject = self.get_commit(position)
            if subject not in found:
                found[subject] = Neighbour(position, subject, sha, float(similar[position]), limit - position)
        return list(found.values())

    def _compute_similarities(self, found: Counter[int]) -> Any:
        """Cosine similarity of a term vector to every commit."""
        import numpy as np

        column, weight = _weigh_terms(found, self.arrays["vocabulary"], self.arrays["idf"])
        length = float(weight @ weight)
        if not self.later:
            return self._compute_dot_products(column, weight / (np.sqrt(length) or 1.0))
        arrays = self.later.arrays
        column_later, weight_later = _weigh_terms(found, arrays["vocabulary"], arrays["idf"])
        known = _look_up_terms(arrays["vocabulary"][column_later], self.arrays["vocabulary"])[1]
        length += float(weight_later[~known] @ weight_later[~known])
        norm = np.sqrt(length) or 1.0
        parts = (
            CommitIndex(self.arrays)._compute_dot_products(column, weight / norm),
            self.later._compute_dot_products(column_later, weight_later / norm),
        )
        return np.concatenate(parts)

    def _compute_dot_products(self, column: Any, weight: Any) -> Any:
        """Sum over terms of a query's weights times each commit's."""
        import numpy as np

        starts, rows, weights = self.arrays["starts"], self.arrays["rows"], self.arrays["weights"]
        spans = [(starts[c], starts[c + 1]) for c in column]
        if not spans:
            return np.zeros(len(self))
        return np.bincount(
            np.concatenate([rows[a:b] for a, b in spans]),
            weights=np.concatenate([weights[a:b] * w for (a, b), w in zip(spans, weight, strict=True)]),
            minlength=len(self),
        )

    def save(self, folder: Path) -> None:
        """Write each array as a `.npy` file into `folder`, which must exist."""
        import numpy as np

        stored = dict(self.arrays, weights=self.arrays["weights"].astype(np.float16))
        for name in _ARRAY_NAMES:
            np.save(folder / f"{name}.npy", stored[name], allow_pickle=False)

    @classmethod
    def load(cls, read: Callable[[str], bytes]) -> "CommitIndex":
        """What `save` wrote; `read` gives a file's bytes by its name. ValueError when they are no arrays."""
        import numpy as np

        files = {name: BytesIO(read(f"{name}.npy")) for name in _ARRAY_NAMES}
        return cls({name: np.load(file, allow_pickle=False) for name, file in files.items()})


def _round_weights(weights: Any) -> Any:
    """Weights as they come back from a file, so that an index answers alike before and after it is saved."""
    import numpy as np

    return weights.astype(np.float16).astype(np.float32)


def _build_commit_arrays(subjects: Sequence[str], shas: Sequence[str]) -> dict[str, Any]:
    import numpy as np

    rows = [f"{sha} {subject}".encode() for sha, subject in zip(shas, subjects, strict=True)]
    places = np.cumsum([0, *map(len, rows)], dtype=np.int64)
    return {"places": places, "commits": np.frombuffer(b"".join(rows), dtype=np.uint8)}


def _build_postings(column: Any, rows: Any, weights: Any, terms_: int) -> dict[str, Any]:
    """The postings sorted by term, and where each term's start."""
    import numpy as np

    order = np.argsort(column, kind="stable")
    starts = np.searchsorted(column[order], np.arange(terms_ + 1)).astype(np.int64)
    return {"starts": starts, "rows": rows[order], "weights": weights[order]}


def _weigh_terms(found: Counter[int], vocabulary: Any, idf: Any) -> tuple[Any, Any]:
    """Columns and weights of the terms that are looked at."""
    import numpy as np

    terms_ = np.fromiter(found.keys(), dtype=np.uint32, count=len(found))
    counts = np.fromiter(found.values(), dtype=np.float32, count=len(found))
    column, known = _look_up_terms(terms_, vocabulary)
    known[known] = idf[column[known]] > 0
    column = column[known]
    return column, ((1 + np.log(counts[known])) * idf[column]).astype(np.float32)


def _normalise_vector(column: Any, weight: Any) -> tuple[Any, Any]:
    """The same vector with length one."""
    import numpy as np

    return column, weight / (np.float32(np.sqrt(weight @ weight)) or 1.0)


def _look_up_terms(terms_: Any, vocabulary: Any) -> tuple[Any, Any]:
    """Where each term is in a sorted vocabulary, and whether it is there."""
    import numpy as np

    if not len(vocabulary):
        return np.zeros(len(terms_), dtype=np.int64), np.zeros(len(terms_), dtype=bool)
    column = np.minimum(np.searchsorted(vocabulary, terms_), len(vocabulary) - 1)
    return column, vocabulary[column] == terms_
