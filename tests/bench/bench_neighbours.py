"""The nearest commits of the examples of a history: gitpeft's index beside three libraries.

    python tests/bench/bench_neighbours.py REPO [--sizes 3000 59000] [--searches 500]
    python tests/bench/bench_neighbours.py REPO --limit 500

For the newest examples of a history (REPO: a clone, which is mined where it is not yet) the ten nearest of
all others are searched, with the weights of gitpeft's index and without its preference for new commits:

- gitpeft: its inverted index in memory, one search after another, as the examples of a training do it;
- scipy: products of a sparse matrix with blocks of 64 commits, and the ten largest of each row;
- usearch: an approximate index of dense vectors; the sparse ones, with half a million dimensions, are
  projected on 512 by random signs, which keeps cosines roughly;
- tantivy: a search engine with a ranking of its own, BM25, given each commit's terms as words.

Each runs in a process of its own, on one core, three times; the median counts. Recall is the share of the ten
that are as near as the tenth by the exact cosine. It needs `pip install scipy usearch tantivy`. With
`--limit` the ten nearest of the newest examples are searched in gitpeft's index with and without its limit to
the commits of a term, and what differs is counted.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROOT = Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT))

from gitpeft.git.repository import Repository  # noqa: E402 - found by the line above
from gitpeft.learn import pipeline  # noqa: E402
from gitpeft.learn.data import dataset  # noqa: E402
from gitpeft.learn.training import memory  # noqa: E402
from gitpeft.suggest import index_arrays  # noqa: E402
from gitpeft.suggest.index_arrays import TermCounts, count_terms  # noqa: E402
from gitpeft.suggest.retrieval import CommitIndex  # noqa: E402

NEIGHBOURS = 10
_ROUNDS, _BLOCK, _DIMENSIONS, _SIGNS = 3, 64, 512, 16
_TOLERANCE = 1e-5


@dataclass(frozen=True, slots=True)
class Changes:
    """Commits by their terms, with the idf that gitpeft's index gives each counted term (0: ignored)."""

    counted: TermCounts
    idf: NDArray[np.floating[Any]]

    def __len__(self) -> int:
        """The number of commits."""
        return len(self.counted.lengths)

    @property
    def bounds(self) -> NDArray[np.int64]:
        """Where the terms of each commit begin, and those of the last one end."""
        return np.concatenate([[0], np.cumsum(self.counted.lengths, dtype=np.int64)])


Search = Callable[[Sequence[int]], list[list[int]]]
"""Of these commits the nearest, by position, themselves among them; `NEIGHBOURS` + 1 for each."""


# --- the ways to search -------------------------------------------------------------------------------------


def build_index(counted: TermCounts) -> CommitIndex:
    """gitpeft's index of these commits."""
    numbers = range(len(counted.lengths))
    subjects, shas = (f"subject {number}" for number in numbers), (f"{number:040x}" for number in numbers)
    return CommitIndex.build_from_counts(counted, subjects, [""] * len(numbers), shas)


def search_with_gitpeft(changes: Changes) -> Search:
    """Its index, one search after another."""
    counted, bounds = changes.counted, changes.bounds
    index = build_index(counted)

    def search(asked: Sequence[int]) -> list[list[int]]:
        near = []
        for place in asked:
            part = slice(bounds[place], bounds[place + 1])
            terms, counts = counted.terms[part], counted.counts[part]
            found = index.find_nearest_by_terms(terms, counts, NEIGHBOURS + 1, recency_weight=0)
            near.append([one.position for one in found])
        return near

    return search


def search_with_scipy(changes: Changes) -> Search:
    """Products of sparse matrices, block by block."""
    vectors = make_vectors(changes)
    across = vectors.T.tocsr()

    def search(asked: Sequence[int]) -> list[list[int]]:
        near: list[list[int]] = []
        for start in range(0, len(asked), _BLOCK):
            products = vectors[asked[start : start + _BLOCK]] @ across
            for begin, end in zip(products.indptr[:-1], products.indptr[1:], strict=True):
                near.append(_rank(products.indices[begin:end], products.data[begin:end]))
        return near

    return search


def search_with_usearch(changes: Changes) -> Search:
    """An approximate index of the vectors, projected at random."""
    from usearch.index import Index

    projected = _project(make_vectors(changes))
    index = Index(ndim=_DIMENSIONS, metric="cos", dtype="f32")
    index.add(np.arange(len(projected), dtype=np.uint64), projected, threads=1)

    def search(asked: Sequence[int]) -> list[list[int]]:
        found = index.search(projected[asked], NEIGHBOURS + 1, threads=1)
        return [list(map(int, row)) for row in np.atleast_2d(found.keys)]

    return search


def search_with_tantivy(changes: Changes) -> Search:
    """BM25 over the same terms, as often as they occur in a commit."""
    import tantivy

    builder = tantivy.SchemaBuilder()
    builder.add_unsigned_field("place", stored=True)
    builder.add_text_field("terms", tokenizer_name="whitespace", index_option="freq")
    index = tantivy.Index(builder.build())
    counted, bounds, kept = changes.counted, changes.bounds, changes.idf > 0

    def list_words(place: int) -> list[tuple[str, int]]:
        part = slice(bounds[place], bounds[place + 1])
        known = kept[part]
        terms, counts = counted.terms[part][known].tolist(), counted.counts[part][known].tolist()
        return [(f"t{term}", count) for term, count in zip(terms, counts, strict=True)]

    writer = index.writer(num_threads=1)
    for place in range(len(changes)):
        text = " ".join(" ".join([word] * count) for word, count in list_words(place))
        writer.add_document(tantivy.Document(place=place, terms=text))
    writer.commit()
    writer.wait_merging_threads()
    index.reload()
    searcher = index.searcher()

    def search(asked: Sequence[int]) -> list[list[int]]:
        near = []
        for place in asked:
            words = " ".join(f"{word}^{1 + np.log(count):.2f}" for word, count in list_words(place))
            hits = searcher.search(index.parse_query(words, ["terms"]), NEIGHBOURS + 1).hits
            near.append([int(searcher.doc(address)["place"][0]) for _, address in hits])
        return near

    return search


METHODS: dict[str, Callable[[Changes], Search]] = {
    "gitpeft": search_with_gitpeft,
    "scipy": search_with_scipy,
    "usearch": search_with_usearch,
    "tantivy": search_with_tantivy,
}


# --- vectors ------------------------------------------------------------------------------------------------


def weigh_terms(counted: TermCounts) -> Changes:
    """These commits as gitpeft's index weighs them."""
    arrays = build_index(counted).arrays
    idf = arrays.look_up(arrays.vocabulary[:]).idf
    return Changes(counted, idf[np.searchsorted(arrays.vocabulary[:], counted.terms)])


def make_vectors(changes: Changes) -> Any:
    """The commits as rows of length 1 of a sparse matrix (N, T), of 32-bit numbers."""
    from scipy import sparse

    counted, commits = changes.counted, len(changes)
    vocabulary, columns = np.unique(counted.terms, return_inverse=True)
    weights = (1 + np.log(counted.counts.astype(np.float32))) * changes.idf
    rows = np.repeat(np.arange(commits), counted.lengths)
    squares = np.bincount(rows, weights.astype(np.float64) ** 2, minlength=commits)
    weights = (weights / np.sqrt(np.maximum(squares, 1e-12))[rows]).astype(np.float32)
    vectors = sparse.csr_matrix((weights, columns, changes.bounds), shape=(commits, len(vocabulary)))
    vectors.eliminate_zeros()
    return vectors


def _project(vectors: Any) -> NDArray[np.float32]:
    """Each dimension on `_SIGNS` random ones of `_DIMENSIONS`, with random signs."""
    from scipy import sparse

    dice, terms = np.random.default_rng(0), vectors.shape[1]
    columns = dice.integers(0, _DIMENSIONS, terms * _SIGNS)
    signs = dice.choice(np.array([-1, 1], dtype=np.float32), terms * _SIGNS)
    bounds = np.arange(0, terms * _SIGNS + 1, _SIGNS)
    matrix = sparse.csr_matrix((signs, columns, bounds), shape=(terms, _DIMENSIONS))
    found: NDArray[np.float32] = (vectors @ matrix).toarray()
    return found


def _rank(places: NDArray[np.integer[Any]], scores: NDArray[np.floating[Any]]) -> list[int]:
    best = np.argpartition(-scores, min(NEIGHBOURS, len(scores) - 1))[: NEIGHBOURS + 1]
    return [int(place) for place in places[best[np.argsort(-scores[best])]]]


def measure_recall(changes: Changes, asked: Sequence[int], found: Sequence[Sequence[int]]) -> float:
    """The share of the `NEIGHBOURS` found for each commit that are as near as the last of the exact ones."""
    vectors = make_vectors(changes)
    across, hits, wanted = vectors.T.tocsr(), 0, 0
    for place, near in zip(asked, found, strict=True):
        cosines = (vectors[place] @ across).toarray().ravel()
        cosines[place] = 0
        least = max(np.partition(cosines, -NEIGHBOURS)[-NEIGHBOURS], _TOLERANCE)
        others = [other for other in near if other != place][:NEIGHBOURS]
        wanted += min(NEIGHBOURS, int((cosines >= least).sum()))
        hits += int((cosines[others] >= least - _TOLERANCE).sum())
    return hits / max(1, wanted)


# --- measuring ----------------------------------------------------------------------------------------------


def measure_here(name: str, file: Path, searches: int) -> dict[str, Any]:
    """Seconds to build and for a round of searches, peak memory in MiB, and what was found."""
    with np.load(file) as stored:
        counted = TermCounts(stored["terms"], stored["counts"], stored["lengths"])
        changes = Changes(counted, stored["idf"])
    asked, rounds, found = list_asked(changes, searches), [], list[list[int]]()
    begun = time.monotonic()
    search = METHODS[name](changes)
    built = time.monotonic()
    for _ in range(_ROUNDS):
        start = time.monotonic()
        found = search(asked)
        rounds.append(time.monotonic() - start)
    peak = memory.read_peak_resident() / (1 << 20)
    return {"build": built - begun, "search": median(rounds), "memory": peak, "found": found}


def list_asked(changes: Changes, searches: int) -> list[int]:
    """The newest commits, by position."""
    return list(range(max(0, len(changes) - searches), len(changes)))


def measure_methods(changes: Changes, searches: int) -> Iterator[str]:
    """Rows of the table for these commits."""
    environment = os.environ | dict.fromkeys(("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS"), "1")
    asked, counted = list_asked(changes, searches), changes.counted
    with tempfile.TemporaryDirectory() as scratch:
        file = Path(scratch) / "counted.npz"
        parts = {name: getattr(counted, name) for name in ("terms", "counts", "lengths")}
        np.savez(file, idf=changes.idf, **parts)
        for name in METHODS:
            command = [sys.executable, __file__, str(file), "--method", name, "--searches", str(searches)]
            done = subprocess.run(command, check=True, stdout=subprocess.PIPE, env=environment)
            one, load = json.loads(done.stdout), os.getloadavg()[0]
            rate, recall = len(asked) / one["search"], measure_recall(changes, asked, one["found"])
            yield (
                f"| {len(changes):,} | {name} | {rate:,.0f} | {one['build']:.1f} | "
                f"{one['memory']:,.0f} | {recall:.3f} | {len(asked)} | {load:.0f} |"
            )


def count_differences(changes: Changes, searches: int) -> str:
    """How many of the nearest of the newest commits are others without the limit to the commits of a term."""
    asked, found = list_asked(changes, searches), []
    limit = index_arrays._MAX_DOCUMENT_LIMIT
    for index_arrays._MAX_DOCUMENT_LIMIT in (limit, len(changes)):
        found.append(search_with_gitpeft(changes)(asked))
    index_arrays._MAX_DOCUMENT_LIMIT = limit
    pairs = [({*one} - {place}, {*other} - {place}) for place, one, other in zip(asked, *found, strict=True)]
    others = [len(one - other) for one, other in pairs]
    total = sum(len(one) for one, _ in pairs)
    return (
        f"of {total:,} neighbours of {len(asked)} commits {sum(others):,} are others without the limit of "
        f"{limit:,} commits, for {sum(map(bool, others)):,} of the commits"
    )


def count_newest(counted: TermCounts, commits: int) -> TermCounts:
    """The terms of the newest so many commits."""
    lengths = counted.lengths[-commits:]
    first = len(counted.terms) - int(lengths.sum())
    return TermCounts(counted.terms[first:], counted.counts[first:], lengths)


def main() -> None:
    """Measure, and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("repo", type=Path)
    parser.add_argument("--sizes", nargs="*", type=int, default=[3000, 59_000], metavar="N")
    parser.add_argument("--searches", type=int, default=500, metavar="N")
    parser.add_argument("--limit", type=int, default=0, metavar="N")
    parser.add_argument("--method", choices=METHODS, help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.method:
        print(json.dumps(measure_here(args.method, args.repo, args.searches)))
        return
    mined = pipeline.mine_history(Repository.open(args.repo), "HEAD", lambda *_: None)
    counted = count_terms(one.change for one in dataset.select_usable_examples(mined.records))
    if args.limit:
        print(count_differences(weigh_terms(counted), args.limit), flush=True)
    print(
        "| commits | index | searches a second | built, s | peak memory, MiB | recall@10 | searches | load |"
    )
    print("|---:|---|---:|---:|---:|---:|---:|---:|")
    for commits in args.sizes:
        for row in measure_methods(weigh_terms(count_newest(counted, commits)), args.searches):
            print(row, flush=True)


if __name__ == "__main__":
    main()
