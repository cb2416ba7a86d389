"""The arrays of a retrieval index: building them from commits, and their files in a bundle.

An index in a bundle is read in parts (`bundle.block_file`), so that opening and asking it cost the same at
any length of history. It is built with a few arrays over all postings, never with an object for each.
"""

from array import array
from collections.abc import Callable, Iterable
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

from gitpeft.bundle.block_file import BlockArray, compute_checksums, count_blocks
from gitpeft.bundle.bundle import INDEX_FOLDER, Bundle
from gitpeft.lazy import lazy_dataclass
from gitpeft.suggest.terms import extract_terms

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    Terms = NDArray[np.uint32]
    Floats = NDArray[np.floating]
    Integers = NDArray[np.signedinteger]
    Flags = NDArray[np.bool_]
    Slices = NDArray[Any] | BlockArray
    """An array in memory, or one in a file of which slices are read."""

HEAD_STEP = 1024
"""One term in so many is kept in memory: the terms between two of them fill one block of the file."""

_MAX_DOCUMENT_SHARE = 0.4
_MIN_DOCUMENT_LIMIT, _MAX_DOCUMENT_LIMIT = 8, 20_000
"""A term of more commits than this is ignored: in a small history it may stand in 8 of them whatever share
that is, and in a large one its postings would take longest and say least."""

_PARTITION_POSTINGS = 1 << 23
_HEADS_FILE, _CHECKSUMS_FILE = "heads.bin", "checksums.bin"
_DTYPES = {
    "vocabulary": "<u4",
    "starts": "<i8",
    "rows": "<i4",
    "weights": "<f2",
    "places": "<i8",
    "commits": "u1",
}


@lazy_dataclass(frozen=True, slots=True)
class TermPlaces:
    """Of each term the bounds of its postings, its idf (0: ignored), and whether the index has it."""

    starts: "Integers"
    ends: "Integers"
    idf: "Floats"
    known: "Flags"


@lazy_dataclass(frozen=True, slots=True)
class IndexArrays:
    """An inverted index over N commits with T terms.

    `vocabulary` holds the terms, sorted, and `heads` every `HEAD_STEP`-th of them. `starts` (T + 1) are the
    bounds of each term's postings (none for a term of too many commits): the commit's row in `rows`,
    ascending, and its normalised weight in `weights`. `places` (N + 1) are the bounds of each commit's UTF-8
    bytes in `commits`: id, space, subject. `idf` (T) replaces what follows from the numbers of postings
    (`compute_idf`), where an index takes the weights of terms from another one.
    """

    heads: "Terms"
    vocabulary: "Slices"
    starts: "Slices"
    rows: "Slices"
    weights: "Slices"
    places: "Slices"
    commits: "Slices"
    idf: "Floats | None" = None

    def __len__(self) -> int:
        """The number of commits."""
        return len(self.places) - 1

    def look_up(self, terms: "Terms") -> "TermPlaces":
        """Where the postings of these terms are, and their weights."""
        import numpy as np

        starts, ends = np.zeros((2, len(terms)), dtype=np.int64)
        idf = np.zeros(len(terms), dtype=np.float32)
        known = np.zeros(len(terms), dtype=bool)
        blocks = np.searchsorted(self.heads, terms, side="right") - 1
        for block in np.unique(blocks[blocks >= 0]).tolist():
            asked = np.flatnonzero(blocks == block)
            first = block * HEAD_STEP
            part = self.vocabulary[first : first + HEAD_STEP]
            place = np.minimum(np.searchsorted(part, terms[asked]), len(part) - 1)
            same = part[place] == terms[asked]
            asked, place = asked[same], place[same]
            bounds = self.starts[first : first + HEAD_STEP + 1]
            known[asked] = True
            starts[asked], ends[asked] = bounds[place], bounds[place + 1]
            if self.idf is not None:
                idf[asked] = self.idf[first + place]
        if self.idf is None:
            idf = compute_idf(ends - starts, len(self))
        return TermPlaces(starts, ends, idf, known)

    # --- files ----------------------------------------------------------------------------------------------

    def save(self, folder: Path) -> None:
        """Write the files of an index in memory into `folder`, which must exist; `idf` is not stored."""
        import numpy as np

        checksums = []
        for name, dtype in _DTYPES.items():
            stored = np.ascontiguousarray(getattr(self, name), dtype=dtype)
            stored.tofile(folder / f"{name}.bin")
            checksums.append(compute_checksums(stored.data.cast("B")))
        (folder / _HEADS_FILE).write_bytes(self.heads.astype("<u4").tobytes())
        (folder / _CHECKSUMS_FILE).write_bytes(b"".join(checksums))

    @classmethod
    def open(cls, bundle: Bundle) -> "IndexArrays":
        """The index of a bundle; GitpeftError or ValueError when a file of it is damaged."""
        import numpy as np

        if f"{INDEX_FOLDER}/{_CHECKSUMS_FILE}" not in bundle:
            return _read_npy_files(lambda name: bundle.read(f"{INDEX_FOLDER}/{name}.npy"))
        checksums = bundle.read(f"{INDEX_FOLDER}/{_CHECKSUMS_FILE}")
        found: list[BlockArray] = []
        for name, dtype in _DTYPES.items():
            file = f"{INDEX_FOLDER}/{name}.bin"
            size = bundle.manifest.files[file].size if file in bundle else 0
            found.append(BlockArray(bundle.open_blocks(file, checksums), size, dtype))
            checksums = checksums[4 * count_blocks(size) :]
        heads = np.frombuffer(bundle.read(f"{INDEX_FOLDER}/{_HEADS_FILE}"), dtype="<u4")
        vocabulary, starts, rows, weights, places, commits = found
        sizes = len(starts) - len(vocabulary), len(rows) - len(weights), len(heads), min(len(places), 1)
        if sizes != (1, 0, -(-len(vocabulary) // HEAD_STEP), 1) or checksums:
            raise ValueError("its files do not fit each other")
        return cls(heads, vocabulary, starts, rows, weights, places, commits)


def _read_npy_files(read: Callable[[str], bytes]) -> IndexArrays:
    """An index as earlier versions wrote it: whole `.npy` files."""
    import numpy as np

    arrays = {name: np.load(BytesIO(read(name)), allow_pickle=False) for name in (*_DTYPES, "idf")}
    idf = arrays.pop("idf")
    return IndexArrays(find_heads(arrays["vocabulary"]), **arrays, idf=idf)


def find_heads(vocabulary: "Terms") -> "Terms":
    """The `heads` of a vocabulary."""
    return vocabulary[::HEAD_STEP]


def compute_idf(documents: "Integers", commits: int) -> "Floats":
    """ln((N + 1) / (df + 0.5)) for the numbers df of commits that contain each term; 0 for df = 0."""
    import numpy as np

    counts = documents.astype(np.float32)
    return np.where(counts > 0, np.log((commits + 1) / (counts + 0.5)), 0).astype(np.float32)


# --- building -----------------------------------------------------------------------------------------------


@lazy_dataclass(slots=True)
class TermCounts:
    """The terms of N commits in a row: `terms` with `counts`, and in `lengths` how many each commit has."""

    terms: "Terms"
    counts: "NDArray[np.uint32]"
    lengths: "Integers"


def count_terms(changes: Iterable[str]) -> TermCounts:
    """The terms of stored or compact changes (`terms.extract_terms`), read one by one."""
    import numpy as np

    terms, counts, lengths = array("I"), array("I"), array("i")
    for change in changes:
        found = extract_terms(change)
        terms.extend(found.keys())
        counts.extend(found.values())
        lengths.append(len(found))
    return TermCounts(
        np.frombuffer(terms, dtype=np.uint32),
        np.frombuffer(counts, dtype=np.uint32),
        np.frombuffer(lengths, dtype=np.int32),
    )


def build_index_arrays(counted: TermCounts, subjects: Iterable[str], shas: Iterable[str]) -> IndexArrays:
    """The index of these commits, oldest first.

    Terms are sorted in ranges of `_PARTITION_POSTINGS` postings or so: sorting all at once would take twice
    the memory of all.
    """
    import numpy as np

    commits = len(counted.lengths)
    rows = np.repeat(np.arange(commits, dtype=np.int32), counted.lengths)
    squares = np.zeros(commits)
    parts = []
    bits = (len(rows) // _PARTITION_POSTINGS).bit_length()
    for number in range(1 << bits):
        chosen = counted.terms >> np.uint32(32 - bits) == number if bits else slice(None)
        part = _sort_postings(counted.terms[chosen], counted.counts[chosen], rows[chosen], commits)
        squares += np.bincount(part.rows, part.weights.astype(np.float64) ** 2, minlength=commits)
        parts.append(part)
    norms = np.sqrt(squares).astype(np.float32)
    vocabulary = np.concatenate([part.vocabulary for part in parts])
    return IndexArrays(
        heads=find_heads(vocabulary),
        vocabulary=vocabulary,
        starts=np.cumsum(np.concatenate([[0], *(part.documents for part in parts)]), dtype=np.int64),
        rows=np.concatenate([part.rows for part in parts]),
        weights=np.concatenate([(part.weights / norms[part.rows]).astype(np.float16) for part in parts]),
        **join_commit_texts(subjects, shas),
    )


@lazy_dataclass(slots=True)
class _Postings:
    """Postings of a range of terms, by term and row, with weights before normalisation.

    `documents` is the number of postings of each term, 0 for one of too many commits.
    """

    vocabulary: "Terms"
    documents: "Integers"
    rows: "Integers"
    weights: "Floats"


def _sort_postings(terms: "Terms", counts: "NDArray[np.uint32]", rows: "Integers", commits: int) -> _Postings:
    import numpy as np

    order = np.argsort(terms, kind="stable")
    vocabulary, occurrences = np.unique(terms, return_counts=True)
    limit = max(_MIN_DOCUMENT_LIMIT, min(_MAX_DOCUMENT_LIMIT, int(_MAX_DOCUMENT_SHARE * commits)))
    documents = np.where(occurrences <= limit, occurrences, 0)
    idf = compute_idf(documents, commits)
    kept = order[np.repeat(documents > 0, occurrences)]
    weights = (1 + np.log(counts[kept].astype(np.float32))) * np.repeat(idf, documents)
    return _Postings(vocabulary, documents, rows[kept], weights.astype(np.float32))


def join_commit_texts(subjects: Iterable[str], shas: Iterable[str]) -> "dict[str, NDArray[Any]]":
    """`places` and `commits` of an index."""
    import numpy as np

    commits = [f"{sha} {subject}".encode() for subject, sha in zip(subjects, shas, strict=True)]
    return {
        "places": np.cumsum([0, *map(len, commits)], dtype=np.int64),
        "commits": np.frombuffer(b"".join(commits), dtype=np.uint8),
    }
