"""Retrieval of the most similar earlier commits of a repository: an inverted index with tf-idf weights.

A change is a vector over terms (`terms.extract_terms`) with the weights (1 + ln tf) · idf, where
idf = ln((N + 1) / (df + 0.5)) for N commits of which df contain the term. Similarity is the cosine of two
vectors (Manning, Raghavan and Schütze, Introduction to Information Retrieval, §6.4: "ltc", with a smoothed
idf). Terms of more than 40 % of all commits get idf 0: they say little and cost most.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING

from gitpeft.bundle.bundle import INDEX_FOLDER, Bundle
from gitpeft.lazy import field_names, lazy_dataclass
from gitpeft.suggest.terms import IndexEntry, extract_terms

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Terms = NDArray[np.uint32]
    Floats = NDArray[np.floating]
    Integers = NDArray[np.signedinteger]
    Flags = NDArray[np.bool_]

_MAX_DOCUMENT_FREQUENCY = 0.4
_MIN_FREQUENCY_LIMIT = 8
"""In a small history a term may stand in this many commits, whatever share of all they are."""

RECENCY_WEIGHT, RECENCY_DECAY = 2.0, 30.0
"""A commit's similarity is multiplied by 1 + RECENCY_WEIGHT · exp(-age / RECENCY_DECAY), with age 0 for the
newest commit: habits drift, and what a team did last week it often goes on doing."""

_CANDIDATES_PER_RESULT = 4
"""Commits looked at for each result, because several may have the same subject."""


@lazy_dataclass(frozen=True, slots=True)
class Neighbour:
    """A similar earlier commit: its position in the index, subject, id, cosine similarity in 0..1, and age.

    The newest commit that was searched has age 1, the one before it 2.
    """

    position: int
    subject: str
    sha: str
    score: float
    age: int


@lazy_dataclass(frozen=True, slots=True)
class IndexArrays:
    """The arrays of an index; each is a `.npy` file of the same name in a bundle.

    `vocabulary` holds the T terms, sorted, and `idf` their weights (0 for terms that are too frequent).
    `starts` (T + 1) are the bounds of each term's postings: the commit's row in `rows`, ascending, and its
    normalised weight in `weights`. `places` (N + 1) are the bounds of each commit's UTF-8 bytes in `commits`:
    id, space, subject.
    """

    vocabulary: "Terms"
    idf: "Floats"
    starts: "Integers"
    rows: "Integers"
    weights: "Floats"
    places: "Integers"
    commits: "NDArray[np.uint8]"


class CommitIndex:
    """An inverted index over the changes of N commits, oldest first, and perhaps over `later` commits."""

    def __init__(self, arrays: IndexArrays, later: "CommitIndex | None" = None) -> None:
        self.arrays = arrays
        self.later = later

    def __len__(self) -> int:
        return len(self.arrays.places) - 1 + (len(self.later) if self.later else 0)

    # --- commits --------------------------------------------------------------------------------------------

    def get_commit(self, position: int) -> tuple[str, str]:
        """Id and subject of the commit at a position."""
        first_later = len(self.arrays.places) - 1
        if self.later and position >= first_later:
            return self.later.get_commit(position - first_later)
        start, end = self.arrays.places[position : position + 2]
        text = self.arrays.commits[start:end].tobytes().decode("utf-8", "replace")
        sha, _, subject = text.partition(" ")
        return sha, subject

    def list_newest_subjects(self, n: int, before: int | None = None) -> list[str]:
        """The subjects of the newest `n` among the first `before` commits (default: all), oldest first."""
        end = len(self) if before is None else before
        return [self.get_commit(position)[1] for position in range(max(0, end - n), end)]

    def find_position(self, sha: str) -> int | None:
        """The position of a commit (not a later one); None when the index does not contain it."""
        import numpy as np

        start = self.arrays.commits.tobytes().find(f"{sha} ".encode())
        position = int(np.searchsorted(self.arrays.places, start))
        return position if start >= 0 and self.arrays.places[position] == start else None

    # --- building -------------------------------------------------------------------------------------------

    @classmethod
    def build(cls, changes: Sequence[str], subjects: Sequence[str], shas: Sequence[str]) -> "CommitIndex":
        """Index these commits: compact changes, subjects and ids of equal number, oldest first."""
        counted = [extract_terms(change) for change in changes]
        vocabulary, idf = _weigh_vocabulary(counted)
        columns, rows, weights = _weigh_commits(counted, vocabulary, idf)
        return cls(_build_arrays(vocabulary, idf, (columns, rows, weights), (subjects, shas)))

    def with_later_commits(self, entries: Sequence[IndexEntry]) -> "CommitIndex":
        """This index, whose arrays are shared, with these later commits in place of any others, oldest first.

        A term of this index keeps its idf; a new term gets that of one which occurs in later commits only.
        """
        base = CommitIndex(self.arrays)
        return CommitIndex(self.arrays, base._index_entries(entries)) if entries else base

    def _index_entries(self, entries: Sequence[IndexEntry]) -> "CommitIndex":
        """An index of these entries alone, with the idf of this one."""
        import numpy as np

        pairs = [np.frombuffer(entry.terms, dtype="<u4").reshape(-1, 2) for entry in entries]
        rows = np.repeat(np.arange(len(pairs), dtype=np.int32), [len(counts) for counts in pairs])
        terms, counts = np.concatenate(pairs).T
        vocabulary, columns = np.unique(terms, return_inverse=True)
        frequency = np.bincount(columns, minlength=len(vocabulary))
        idf = np.log((len(self) + len(pairs) + 1) / (frequency + 0.5)).astype(np.float32)
        place, known = _look_up_terms(vocabulary, self.arrays.vocabulary)
        idf[known] = self.arrays.idf[place[known]]
        kept = idf[columns] > 0
        columns, rows = columns[kept], rows[kept]
        weights = (1 + np.log(counts[kept])) * idf[columns]
        norms = np.sqrt(np.bincount(rows, weights * weights, minlength=len(pairs)))
        texts = [entry.subject for entry in entries], [entry.sha for entry in entries]
        return CommitIndex(_build_arrays(vocabulary, idf, (columns, rows, weights / norms[rows]), texts))

    # --- searching ------------------------------------------------------------------------------------------

    def find_nearest(
        self,
        change: str,
        n: int,
        before: int | None = None,
        recency_weight: float = RECENCY_WEIGHT,
    ) -> list[Neighbour]:
        """The `n` best commits for a compact change among the first `before` ones (default: all), best first.

        They are ordered by similarity times recency (see `RECENCY_WEIGHT`; 0 orders by similarity alone);
        among equals the newest comes first. Commits without any similarity are left out, and of commits with
        the same subject all but the best.
        """
        import numpy as np

        limit = len(self) if before is None else before
        if limit < 1 or n < 1:
            return []
        similarities = self._compute_similarities(extract_terms(change))[:limit]
        scores = similarities * (1 + recency_weight * np.exp(np.arange(1 - limit, 1) / RECENCY_DECAY))
        nearest: dict[str, Neighbour] = {}
        for position in _rank_positions(scores, _CANDIDATES_PER_RESULT * n):
            sha, subject = self.get_commit(position)
            if subject not in nearest:
                similarity = float(similarities[position])
                nearest[subject] = Neighbour(position, subject, sha, similarity, limit - position)
            if len(nearest) == n:
                break
        return list(nearest.values())

    def _compute_similarities(self, counts: Counter[int]) -> "Floats":
        """Cosine similarity (N) of a change's terms to every commit, the later ones included."""
        import numpy as np

        columns, weights = _weigh_terms(counts, self.arrays.vocabulary, self.arrays.idf)
        squared = float(weights @ weights)
        if not self.later:
            return self._compute_dot_products(columns, weights / (np.sqrt(squared) or 1.0))
        later = self.later.arrays
        later_columns, later_weights = _weigh_terms(counts, later.vocabulary, later.idf)
        known = _look_up_terms(later.vocabulary[later_columns], self.arrays.vocabulary)[1]
        squared += float(later_weights[~known] @ later_weights[~known])
        norm = np.sqrt(squared) or 1.0
        parts = (
            CommitIndex(self.arrays)._compute_dot_products(columns, weights / norm),
            self.later._compute_dot_products(later_columns, later_weights / norm),
        )
        return np.concatenate(parts)

    def _compute_dot_products(self, columns: "Integers", weights: "Floats") -> "Floats":
        """Dot product (N) of a query, given by the columns and weights of its terms, with every commit."""
        import numpy as np

        starts, rows, postings = self.arrays.starts, self.arrays.rows, self.arrays.weights
        spans = [(starts[column], starts[column + 1]) for column in columns]
        if not spans:
            return np.zeros(len(self))
        products = [postings[start:end] * weight for (start, end), weight in zip(spans, weights, strict=True)]
        sums = np.bincount(
            np.concatenate([rows[start:end] for start, end in spans]),
            weights=np.concatenate(products),
            minlength=len(self),
        )
        return sums.astype(np.float64, copy=False)

    # --- files ----------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write each array (not the later commits) as a `.npy` file into `folder`, which must exist.

        Weights are stored as float16.
        """
        import numpy as np

        for name in field_names(IndexArrays):
            array = getattr(self.arrays, name)
            stored = array.astype(np.float16) if name == "weights" else array
            np.save(folder / f"{name}.npy", stored, allow_pickle=False)

    @classmethod
    def load(cls, read: Callable[[str], bytes]) -> "CommitIndex":
        """What `save` wrote; `read` returns the content of a file. ValueError when one is not an array."""
        import numpy as np

        files = {name: BytesIO(read(f"{name}.npy")) for name in field_names(IndexArrays)}
        arrays = {name: np.load(file, allow_pickle=False) for name, file in files.items()}
        return cls(IndexArrays(**arrays))

    @classmethod
    def load_from_bundle(cls, bundle: Bundle) -> "CommitIndex":
        """The index of a bundle; GitpeftError or ValueError when it cannot be read."""
        return cls.load(lambda name: bundle.read(f"{INDEX_FOLDER}/{name}"))


# --- vectors ------------------------------------------------------------------------------------------------


def _weigh_vocabulary(counted: Sequence[Counter[int]]) -> "tuple[Terms, Floats]":
    """All terms of the commits, sorted, and the idf of each."""
    import numpy as np

    frequency: Counter[int] = Counter()
    for counts in counted:
        frequency.update(counts.keys())
    limit = max(_MIN_FREQUENCY_LIMIT, int(_MAX_DOCUMENT_FREQUENCY * len(counted)))
    vocabulary = np.array(sorted(frequency), dtype=np.uint32)
    commits = np.array([frequency[int(term)] for term in vocabulary], dtype=np.float32)
    idf = np.where(commits <= limit, np.log((len(counted) + 1) / (commits + 0.5)), 0).astype(np.float32)
    return vocabulary, idf


def _weigh_commits(
    counted: Sequence[Counter[int]], vocabulary: "Terms", idf: "Floats"
) -> "tuple[Integers, Integers, Floats]":
    """The vectors of all commits, each of length one: column, row and weight of each term of a commit."""
    import numpy as np

    columns, rows, weights = [np.zeros(0, np.int64)], [np.zeros(0, np.int32)], [np.zeros(0, np.float32)]
    for row, counts in enumerate(counted):
        column, weight = _weigh_terms(counts, vocabulary, idf)
        columns.append(column)
        rows.append(np.full(len(column), row, dtype=np.int32))
        weights.append(weight / (np.float32(np.sqrt(weight @ weight)) or 1.0))
    return np.concatenate(columns), np.concatenate(rows), np.concatenate(weights)


def _weigh_terms(
    counts: Counter[int], vocabulary: "Terms", idf: "Floats"
) -> "tuple[NDArray[np.int64], NDArray[np.float32]]":
    """The columns in the vocabulary and the tf-idf weights of those terms whose idf is above 0."""
    import numpy as np

    terms = np.fromiter(counts.keys(), dtype=np.uint32, count=len(counts))
    occurrences = np.fromiter(counts.values(), dtype=np.float32, count=len(counts))
    columns, known = _look_up_terms(terms, vocabulary)
    known[known] = idf[columns[known]] > 0
    columns = columns[known]
    return columns, ((1 + np.log(occurrences[known])) * idf[columns]).astype(np.float32)


def _look_up_terms(terms: "Terms", vocabulary: "Terms") -> "tuple[NDArray[np.int64], Flags]":
    """The place of each term in a sorted vocabulary, and whether it is there at all."""
    import numpy as np

    if not len(vocabulary):
        return np.zeros(len(terms), dtype=np.int64), np.zeros(len(terms), dtype=bool)
    columns = np.minimum(np.searchsorted(vocabulary, terms), len(vocabulary) - 1)
    return columns, vocabulary[columns] == terms


def _rank_positions(scores: "Floats", count: int) -> list[int]:
    """The positions of the `count` best scores above 0, best first, the newest first among equals.

    All that are equal to the last of them are included: otherwise it would be chance which of them are seen.
    """
    import numpy as np

    last = max(0, len(scores) - count)
    best = np.flatnonzero((scores > 0) & (scores >= np.partition(scores, last)[last]))
    return sorted(best.tolist(), key=lambda position: (-scores[position], -position))


# --- arrays -------------------------------------------------------------------------------------------------


def _build_arrays(
    vocabulary: "Terms",
    idf: "Floats",
    vectors: "tuple[Integers, Integers, Floats]",
    texts: tuple[Sequence[str], Sequence[str]],
) -> IndexArrays:
    """The arrays of an index from (column, row, weight) of each term of a commit, and (subjects, ids).

    Weights are rounded as `save` rounds them, so that an index answers alike before and after it is saved.
    """
    import numpy as np

    columns, rows, weights = vectors
    order = np.argsort(columns, kind="stable")
    starts = np.searchsorted(columns[order], np.arange(len(vocabulary) + 1)).astype(np.int64)
    rounded = weights.astype(np.float16).astype(np.float32)
    commits = [f"{sha} {subject}".encode() for subject, sha in zip(*texts, strict=True)]
    places = np.cumsum([0, *map(len, commits)], dtype=np.int64)
    return IndexArrays(
        vocabulary=vocabulary,
        idf=idf,
        starts=starts,
        rows=rows[order],
        weights=rounded[order],
        places=places,
        commits=np.frombuffer(b"".join(commits), dtype=np.uint8),
    )
