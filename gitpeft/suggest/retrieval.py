"""Retrieval of the most similar earlier commits of a repository: an inverted index with tf-idf weights.

A change is a vector over terms (`terms.extract_terms`) with the weights (1 + ln tf) · idf, where
idf = ln((N + 1) / (df + 0.5)) for N commits of which df contain the term. Similarity is the cosine of two
vectors (Manning, Raghavan and Schütze, Introduction to Information Retrieval, §6.4: "ltc", with a smoothed
idf). Terms of more than 40 % of all commits, or of more than 20,000, get idf 0: they say little and cost
most.
"""

from collections.abc import Iterable, Iterator, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

from gitpeft.bundle.bundle import Bundle
from gitpeft.bundle.manifest import REBUILD_HINT
from gitpeft.errors import GitpeftError
from gitpeft.lazy import lazy_dataclass
from gitpeft.suggest.commit_notes import describe_commit, read_kinds, read_slots
from gitpeft.suggest.index_arrays import (
    IndexArrays,
    TermCounts,
    TermPlaces,
    build_index_arrays,
    count_terms,
    find_heads,
    join_commit_texts,
)
from gitpeft.suggest.terms import IndexEntry, extract_terms

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Floats = NDArray[np.floating]
    Integers = NDArray[np.signedinteger]
    Terms = NDArray[np.uint32]

RECENCY_WEIGHT, RECENCY_DECAY = 2.0, 30.0
"""A commit's similarity is multiplied by 1 + RECENCY_WEIGHT · exp(-age / RECENCY_DECAY), with age 0 for the
newest commit: habits drift, and what a team did last week it often goes on doing."""

_NOTES_SEPARATOR = "\x1f"
"""Between the subject of a commit and the notes on it; indexes of earlier versions have none."""

_CANDIDATES_PER_RESULT = 4
"""Commits looked at for each result, because several may have the same subject."""


@lazy_dataclass(frozen=True, slots=True)
class Neighbour:
    """A similar earlier commit: its position in the index, subject, id, cosine similarity in 0..1, and age.

    The newest commit that was searched has age 1, the one before it 2. `slots` are those of the subject as
    `analogy.pack_slots` writes them.
    """

    position: int
    subject: str
    sha: str
    score: float
    age: int
    slots: str = ""


class CommitIndex:
    """An inverted index over the changes of N commits, oldest first, and perhaps over `later` commits."""

    def __init__(self, arrays: IndexArrays, later: "CommitIndex | None" = None) -> None:
        self.arrays = arrays
        self.later = later

    def __len__(self) -> int:
        return len(self.arrays) + (len(self.later) if self.later else 0)

    # --- commits --------------------------------------------------------------------------------------------

    def get_commit(self, position: int) -> tuple[str, str]:
        """Id and subject of the commit at a position."""
        sha, subject, _ = self._read_commit(position)
        return sha, subject

    def _read_commit(self, position: int) -> tuple[str, str, str]:
        """Id, subject and notes of the commit at a position."""
        first_later = len(self.arrays)
        if self.later and position >= first_later:
            return self.later._read_commit(position - first_later)
        start, end = self.arrays.places[position : position + 2]
        text = self.arrays.commits[start:end].tobytes().decode("utf-8", "replace")
        sha, _, rest = text.partition(" ")
        subject, _, notes = rest.partition(_NOTES_SEPARATOR)
        return sha, subject, notes

    def list_newest(self, n: int, before: int | None = None) -> list[tuple[str, str]]:
        """The newest `n` among the first `before` commits (default: all), oldest first.

        Of each its subject, and what its files are for (`commit_notes.read_kinds`).
        """
        end = len(self) if before is None else before
        found = (self._read_commit(position) for position in range(max(0, end - n), end))
        return [(subject, read_kinds(notes)) for _, subject, notes in found]

    def find_position(self, sha: str) -> int | None:
        """The position of a commit (not a later one); None when the index does not contain it."""
        import numpy as np

        start = self.arrays.commits[:].tobytes().find(f"{sha} ".encode())
        places = self.arrays.places[:]
        position = int(np.searchsorted(places, start))
        return position if start >= 0 and places[position] == start else None

    # --- building -------------------------------------------------------------------------------------------

    @classmethod
    def build(
        cls,
        changes: Iterable[str],
        subjects: Iterable[str],
        shas: Iterable[str],
        *,
        with_notes: bool = False,
    ) -> "CommitIndex":
        """Index these commits: changes, subjects and ids of equal number, oldest first.

        `with_notes` (`suggest.commit_notes`), at about a millisecond a commit.
        """
        texts = list(subjects)
        notes: list[str] = []

        def take_notes() -> Iterator[str]:
            for change, subject in zip(changes, texts, strict=True):
                notes.append(describe_commit(subject, change) if with_notes else "")
                yield change

        return cls.build_from_counts(count_terms(take_notes()), texts, notes, shas)

    @classmethod
    def build_from_counts(
        cls, counted: TermCounts, subjects: Iterable[str], notes: Iterable[str], shas: Iterable[str]
    ) -> "CommitIndex":
        """Index commits whose terms are counted, with the notes on them ("" for none), oldest first."""
        return cls(build_index_arrays(counted, map(_join_notes, subjects, notes), shas))

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
        found = self.arrays.look_up(vocabulary)
        idf[found.known] = found.idf[found.known]
        kept = idf[columns] > 0
        columns, rows = columns[kept], rows[kept]
        weights = (1 + np.log(counts[kept])) * idf[columns]
        norms = np.sqrt(np.bincount(rows, weights * weights, minlength=len(pairs)))
        order = np.argsort(columns, kind="stable")
        arrays = IndexArrays(
            heads=find_heads(vocabulary),
            vocabulary=vocabulary,
            starts=np.searchsorted(columns[order], np.arange(len(vocabulary) + 1)).astype(np.int64),
            rows=rows[order],
            weights=(weights / norms[rows])[order].astype(np.float16),
            **join_commit_texts(
                [_join_notes(one.subject, one.notes) for one in entries], [one.sha for one in entries]
            ),
            idf=idf,
        )
        return CommitIndex(arrays)

    # --- searching ------------------------------------------------------------------------------------------

    def find_nearest(
        self,
        change: str,
        n: int,
        before: int | None = None,
        recency_weight: float = RECENCY_WEIGHT,
    ) -> list[Neighbour]:
        """The `n` best commits for a stored or compact change, best first.

        Only the first `before` commits are searched (default: all). The order is that of similarity times
        recency (see `RECENCY_WEIGHT`; 0 orders by similarity alone); among equals the newest comes first.
        Commits without any similarity are left out, and of commits with the same subject all but the best.
        """
        import numpy as np

        counts = extract_terms(change)
        terms = np.fromiter(counts.keys(), dtype=np.uint32, count=len(counts))
        occurrences = np.fromiter(counts.values(), dtype=np.uint32, count=len(counts))
        return self.find_nearest_by_terms(terms, occurrences, n, before, recency_weight)

    def find_nearest_by_terms(
        self,
        terms: "Terms",
        counts: "Terms",
        n: int,
        before: int | None = None,
        recency_weight: float = RECENCY_WEIGHT,
    ) -> list[Neighbour]:
        """As `find_nearest`, for the terms (T) of a change and their counts (T)."""
        import numpy as np

        limit = len(self) if before is None else before
        if limit < 1 or n < 1:
            return []
        positions, similarities = self._compute_similarities(terms, counts, limit)
        age = (positions - (limit - 1)) / RECENCY_DECAY
        scores = similarities * (1 + recency_weight * np.exp(age))
        nearest: dict[str, Neighbour] = {}
        for place in _rank_positions(scores, _CANDIDATES_PER_RESULT * n):
            position = int(positions[place])
            sha, subject, notes = self._read_commit(position)
            if subject not in nearest:
                similarity = float(similarities[place])
                slots = read_slots(notes)
                nearest[subject] = Neighbour(position, subject, sha, similarity, limit - position, slots)
            if len(nearest) == n:
                break
        return list(nearest.values())

    def _compute_similarities(self, terms: "Terms", counts: "Terms", limit: int) -> "tuple[Integers, Floats]":
        """The positions below `limit`, ascending, of commits that share terms with a change; the cosines."""
        import numpy as np

        logs = 1 + np.log(counts.astype(np.float32))
        found = self.arrays.look_up(terms)
        weights = logs * found.idf
        squared = float(weights @ weights)
        parts = [(0, self.arrays, found, weights)]
        if self.later:
            recent = self.later.arrays.look_up(terms)
            recent_weights = logs * recent.idf
            unknown = recent_weights[~found.known]
            squared += float(unknown @ unknown)
            parts.append((len(self.arrays), self.later.arrays, recent, recent_weights))
        norm = np.float32(np.sqrt(squared) or 1.0)
        sums = [_sum_products(arrays, place, given / norm) for _, arrays, place, given in parts]
        places = [np.flatnonzero(one) for one in sums]
        positions = np.concatenate([place + part[0] for place, part in zip(places, parts, strict=True)])
        cosines = np.concatenate([one[place] for one, place in zip(sums, places, strict=True)])
        before = positions < limit
        return positions[before], cosines[before]

    # --- files ----------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the index without the later commits into `folder`, which must exist."""
        self.arrays.save(folder)

    @classmethod
    def load_from_bundle(cls, bundle: Bundle) -> "CommitIndex":
        """The index of a bundle; GitpeftError or ValueError when it cannot be read."""
        return cls(IndexArrays.open(bundle))


def _join_notes(subject: str, notes: str) -> str:
    """A subject as the index stores it."""
    return f"{subject}{_NOTES_SEPARATOR}{notes}" if notes else subject


def _sum_products(arrays: IndexArrays, found: TermPlaces, weights: "Floats") -> "Floats":
    """The dot product (N) of a change, given by its terms' places and weights, with every commit."""
    import numpy as np

    spans = [
        (start, end, weight)
        for start, end, weight in zip(found.starts.tolist(), found.ends.tolist(), weights, strict=True)
        if start < end
    ]
    if not spans:
        return np.zeros(len(arrays))
    products = [arrays.weights[start:end].astype(np.float32) * weight for start, end, weight in spans]
    rows = np.concatenate([arrays.rows[start:end] for start, end, _ in spans])
    if rows.min() < 0 or rows.max() >= len(arrays):
        raise GitpeftError("the index of the model is damaged: it names unknown commits", REBUILD_HINT)
    sums = np.bincount(rows, weights=np.concatenate(products), minlength=len(arrays))
    return sums.astype(np.float64, copy=False)


def _rank_positions(scores: "Floats", count: int) -> list[int]:
    """The places of the `count` best scores above 0, best first, the last one first among equals.

    All that are equal to the last of them are included: otherwise it would be chance which of them are seen.
    """
    import numpy as np

    if not len(scores):
        return []
    last = max(0, len(scores) - count)
    best = np.flatnonzero((scores > 0) & (scores >= np.partition(scores, last)[last]))
    return sorted(best.tolist(), key=lambda place: (-scores[place], -place))
