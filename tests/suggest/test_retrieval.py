"""The retrieval index compared with a plain computation of the same cosines, and the order of its results."""

import math
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import settings as profile
from hypothesis import strategies as st

from gitpeft.bundle.block_file import BLOCK_BYTES, BlockFile
from gitpeft.bundle.bundle import Bundle, FileEntry, Manifest
from gitpeft.diff.compact import compact_change
from gitpeft.diff.patch import FileChange, Hunk
from gitpeft.errors import GitpeftError
from gitpeft.lazy import replace_fields
from gitpeft.suggest import index_arrays
from gitpeft.suggest.retrieval import (
    RECENCY_DECAY,
    RECENCY_WEIGHT,
    CommitIndex,
    Neighbour,
)
from gitpeft.suggest.terms import IndexEntry, extract_terms, pack_terms

WORDS = ("parse", "cache", "token", "render", "index", "stream", "commit", "author", "budget", "prune")


def change(path: str, *words: str, status: str = "M") -> str:
    hunk = Hunk("", [f"+{word}(value)" for word in words])
    return compact_change([FileChange(path, status, added=len(words), hunks=[hunk] if words else [])])


def shas(count: int) -> list[str]:
    return [f"{i:040x}" for i in range(1, count + 1)]


def build(changes: Sequence[str], subjects: Sequence[str] = ()) -> CommitIndex:
    return CommitIndex.build(
        changes, subjects or [f"subject {i}" for i in range(len(changes))], shas(len(changes))
    )


def reopen(folder: Path) -> CommitIndex:
    """The index in the files of a folder, as a bundle opens it."""
    root = folder.parent / f"{folder.name}-bundle"
    root.mkdir(exist_ok=True)
    if not (root / "index").exists():
        (root / "index").symlink_to(folder)
    files = {f"index/{path.name}": FileEntry.from_content(path.read_bytes()) for path in folder.iterdir()}
    return CommitIndex.load_from_bundle(Bundle(root, Manifest("retrieval", "", files=files)))


def cosines(changes: Sequence[str], query_change: str) -> list[float]:
    """What `find_nearest` computes, with dictionaries instead of arrays."""
    counted = [extract_terms(one) for one in changes]
    frequency = Counter(term for found in counted for term in found)
    limit = max(8, int(0.4 * len(changes)))
    idf = {t: math.log((len(changes) + 1) / (n + 0.5)) for t, n in frequency.items() if n <= limit}

    def vector(found: Counter[int]) -> dict[int, float]:
        weights = {t: (1 + math.log(n)) * idf[t] for t, n in found.items() if t in idf}
        norm = math.sqrt(sum(w * w for w in weights.values())) or 1.0
        return {t: w / norm for t, w in weights.items()}

    query = vector(extract_terms(query_change))
    return [sum(w * query.get(t, 0.0) for t, w in vector(found).items()) for found in counted]


CHANGE = st.builds(
    lambda name, words: change(f"src/{name}.py", *words),
    st.sampled_from(WORDS),
    st.lists(st.sampled_from(WORDS), max_size=5),
)


@profile(max_examples=60)
@given(st.lists(CHANGE, min_size=1, max_size=40), CHANGE, st.integers(1, 5))
def test_the_nearest_are_those_of_highest_cosine(changes: list[str], query_change: str, n: int) -> None:
    expected = cosines(changes, query_change)
    found = build(changes).find_nearest(query_change, n, recency_weight=0)
    assert [one.score for one in found] == sorted((one.score for one in found), reverse=True)
    assert len(found) == min(n, sum(score > 1e-6 for score in expected))
    best = sorted(expected, reverse=True)[: len(found)]
    assert [one.score for one in found] == pytest.approx(best, abs=2e-3)
    assert all(one.score == pytest.approx(expected[one.position], abs=2e-3) for one in found)


def test_newer_commits_count_more() -> None:
    generator = np.random.default_rng(5)
    changes = [change(f"{WORDS[generator.integers(9)]}.py", *generator.choice(WORDS, 3)) for _ in range(60)]
    index, reordered = build(changes), 0
    for query_change in changes[::6]:
        similar = cosines(changes, query_change)
        weighted = [
            score * (1 + RECENCY_WEIGHT * math.exp((i - 59) / RECENCY_DECAY))
            for i, score in enumerate(similar)
        ]
        found = index.find_nearest(query_change, 3)
        best = sorted(weighted, reverse=True)[: len(found)]
        assert [weighted[one.position] for one in found] == pytest.approx(best, abs=6e-3)
        assert all(one.score == pytest.approx(similar[one.position], abs=2e-3) for one in found)
        reordered += found != index.find_nearest(query_change, 3, recency_weight=0)
    assert reordered


@pytest.mark.parametrize("n", [1, 3, 4])
@pytest.mark.parametrize("count", [5, 13, 17, 60])
def test_of_equally_similar_commits_the_newest_comes_first(count: int, n: int) -> None:
    """Releases: dozens of commits that change the same line of the same file."""
    release, others = change("version.py", "version"), [change(f"{word}.py", word) for word in WORDS]
    changes = [others[i % 9] if i % 4 else release for i in range(4 * count)]
    found = build(changes).find_nearest(release, n)
    assert [one.position for one in found] == [4 * (count - i - 1) for i in range(min(n, count))]


def test_the_first_results_do_not_depend_on_the_number_wanted() -> None:
    """Training asks for as many as the input shows, the runtime for more."""
    generator = np.random.default_rng(3)
    changes = [change(f"{WORDS[generator.integers(4)]}.py", WORDS[generator.integers(4)]) for _ in range(150)]
    index = build(changes)
    for query_change in set(changes):
        assert (
            index.find_nearest(query_change, 3)
            == index.find_nearest(query_change, 4)[:3]
            == index.find_nearest(query_change, 20)[:3]
        )


def test_only_commits_before_a_position_are_searched() -> None:
    changes = [compact_change([FileChange(f"{WORDS[i % 5]}/f.c", "M", hunks=[])]) for i in range(30)]
    changes = [one.replace("f.c", f"{WORDS[i % 5]}.x{i % 5}") for i, one in enumerate(changes)]
    index = build(changes)
    for before in (0, 1, 7, 30):
        found = index.find_nearest(changes[4], 5, before=before)
        assert all(one.position < before for one in found)
        assert bool(found) == (before > 4)
    assert index.find_nearest(changes[4], 30, before=12)[0].position == max(
        i for i in range(12) if changes[i] == changes[4]
    )


def test_a_subject_is_given_once_by_its_nearest_commit() -> None:
    changes = [change("a.py", "parse"), change("a.py", "parse", "cache"), change("b.py", "cache")]
    index = build(changes, ["fix it", "fix it", "drop it"])
    found = index.find_nearest(changes[0], 3)
    assert found[0].subject == "fix it"
    assert len({one.subject for one in found}) == len(found)


def test_nothing_is_found_if_nothing_is_similar() -> None:
    index = build([change("a.py", "parse")] * 2)
    assert index.find_nearest(compact_change([FileChange("z/other.c", "M")]), 3) == []
    assert index.find_nearest("", 3) == []
    assert build([]).find_nearest(change("a.py", "parse"), 3) == []


def test_a_saved_index_gives_the_same_results(tmp_path: Path) -> None:
    changes = [change(f"src/{WORDS[i % 7]}.py", *WORDS[i % 4 : i % 9]) for i in range(50)]
    index = build(changes, [f"naïve – {i} 测试" for i in range(50)])
    index.save(tmp_path)
    again = reopen(tmp_path)
    assert len(again) == 50 and again.get_commit(49) == (shas(50)[49], "naïve – 49 测试")
    for query_change in changes:
        assert again.find_nearest(query_change, 4) == index.find_nearest(query_change, 4)
    assert {path.suffix for path in tmp_path.iterdir()} == {".bin"}
    first = [path.read_bytes() for path in sorted(tmp_path.iterdir())]
    build(changes, [f"naïve – {i} 测试" for i in range(50)]).save(tmp_path)
    assert [path.read_bytes() for path in sorted(tmp_path.iterdir())] == first


def test_an_empty_index_can_be_saved(tmp_path: Path) -> None:
    build([]).save(tmp_path)
    assert len(reopen(tmp_path)) == 0
    assert reopen(tmp_path).find_nearest(change("a.py", "parse"), 2) == []


def test_an_index_in_files_is_the_same_with_many_terms(tmp_path: Path) -> None:
    """More terms than one block holds, and postings over several blocks."""
    changes = [change(f"d{i % 30}/f{i}.x{i}", f"word{i}", f"only{i % 7}") for i in range(1500)]
    index = build(changes)
    assert len(index.arrays.heads) > 3
    index.save(tmp_path)
    again = reopen(tmp_path)
    for query_change in changes[::101]:
        assert again.find_nearest(query_change, 10) == index.find_nearest(query_change, 10)
        assert again.find_nearest(query_change, 3, before=700) == index.find_nearest(
            query_change, 3, before=700
        )
    later = entries(changes[5:9], 5000)
    assert again.with_later_commits(later).find_nearest(changes[6], 5) == index.with_later_commits(
        later
    ).find_nearest(changes[6], 5)


def test_terms_sorted_in_ranges_give_the_same_index(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = [change(f"d{i % 30}/f{i}.x{i}", f"word{i}", f"only{i % 7}") for i in range(300)]
    whole = build(changes).arrays
    monkeypatch.setattr(index_arrays, "_PARTITION_POSTINGS", 100)
    parts = build(changes).arrays
    assert len(whole.rows) > 1600
    for name in ("heads", "vocabulary", "starts", "rows", "weights", "places", "commits"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name)), name


def build_random(commits: int) -> tuple[CommitIndex, index_arrays.TermCounts]:
    """An index of commits with 40 random terms each, of which one in ten stands in every tenth commit."""
    dice = np.random.default_rng(commits)
    terms = dice.integers(100, 1 << 32, (commits, 40), dtype=np.uint32)
    terms[:, :4] = 4 * dice.integers(0, 10, (commits, 1), dtype=np.uint32) + np.arange(4, dtype=np.uint32)
    counted = index_arrays.TermCounts(
        terms.ravel(), np.ones(terms.size, dtype=np.uint32), np.full(commits, 40, dtype=np.int32)
    )
    subjects = [f"Add the parser of part {number}" for number in range(commits)]
    return CommitIndex.build_from_counts(counted, subjects, [""] * commits, shas(commits)), counted


def test_what_a_question_reads_does_not_grow_with_the_history(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sizes: list[int] = []
    read = BlockFile.read

    def note_size(file: BlockFile, start: int, stop: int) -> bytes:
        blocks = -(-stop // BLOCK_BYTES) - start // BLOCK_BYTES
        sizes.append(blocks * BLOCK_BYTES)
        return read(file, start, stop)

    monkeypatch.setattr(BlockFile, "read", note_size)
    rare: dict[int, float] = {}
    frequent: dict[int, float] = {}
    for commits in (500, 20_000):
        index, counted = build_random(commits)
        (folder := tmp_path / str(commits)).mkdir()
        index.save(folder)
        opened = reopen(folder)
        for found, wanted in ((rare, slice(4, 12)), (frequent, slice(0, 4))):
            sizes.clear()
            for number in range(0, commits, commits // 20):
                terms = counted.terms[40 * number : 40 * number + 40][wanted]
                near = opened.find_nearest_by_terms(terms, np.ones(len(terms), dtype=np.uint32), 10)
                assert near[0].position == number or found is frequent
            found[commits] = sum(sizes) / 20
    # a little more: the terms of 500 commits fill 18 blocks, and two of a question may share one
    assert rare[20_000] <= 1.2 * rare[500]
    assert rare[20_000] <= 10 * 8 * BLOCK_BYTES  # of each term: its place, its bounds and its postings
    # of frequent terms the postings are as long as the history: 4 terms of 2,000 commits, 6 bytes each
    assert frequent[20_000] > frequent[500] + 40_000


def test_terms_of_very_many_commits_are_ignored(monkeypatch: pytest.MonkeyPatch) -> None:
    changes = [change(f"{i}/only{i}.x{i}", *["parse"] * (i < 12)) for i in range(40)]
    asked = change("another/q.qq", "parse")
    assert {one.position for one in build(changes).find_nearest(asked, 40)} == set(range(12))
    monkeypatch.setattr(index_arrays, "_MAX_DOCUMENT_LIMIT", 11)
    limited = build(changes)
    assert limited.find_nearest(asked, 40) == []
    assert limited.find_nearest(changes[3], 40)[0].position == 3  # what else it has in common still counts


def test_an_index_of_an_earlier_version_gives_the_same_results(tmp_path: Path) -> None:
    changes = [change(f"src/{WORDS[i % 7]}.py", *WORDS[i % 4 : i % 9]) for i in range(50)]
    index = build(changes)
    arrays = index.arrays
    documents = np.diff(arrays.starts[:])
    for name in ("vocabulary", "starts", "rows", "weights", "places", "commits"):
        np.save(tmp_path / f"{name}.npy", getattr(arrays, name))
    np.save(tmp_path / "idf.npy", index_arrays.compute_idf(documents, 50))
    again = reopen(tmp_path)
    for query_change in changes:
        assert again.find_nearest(query_change, 4) == index.find_nearest(query_change, 4)


@pytest.mark.parametrize("name", ["vocabulary", "starts", "rows", "weights", "places", "commits"])
def test_a_damaged_block_is_noticed_when_it_is_read(tmp_path: Path, name: str) -> None:
    changes = [change(f"src/{WORDS[i % 7]}.py", *WORDS[i % 4 : i % 9]) for i in range(50)]
    build(changes).save(tmp_path)
    index = reopen(tmp_path)
    path = tmp_path / f"{name}.bin"
    raw = bytearray(path.read_bytes())
    raw[len(raw) // 2] ^= 1
    path.write_bytes(raw)
    with pytest.raises(GitpeftError, match=f"{name}.bin of the model is damaged"):
        index.find_nearest(changes[3], 4)


def test_an_index_that_is_cut_off_is_noticed(tmp_path: Path) -> None:
    changes = [change(f"src/{WORDS[i % 7]}.py", *WORDS[i % 4 : i % 9]) for i in range(50)]
    build(changes).save(tmp_path)
    index = reopen(tmp_path)
    for path in tmp_path.glob("*.bin"):
        path.write_bytes(path.read_bytes()[:7])
    with pytest.raises(GitpeftError, match="is damaged"):
        index.find_nearest(changes[3], 4)


def test_rows_beyond_the_last_commit_are_refused(tmp_path: Path) -> None:
    """An index that somebody else made has right checksums, whatever is in it."""
    found = build([change("a.py", "parse")] * 5 + [change("b.py", "cache")] * 5).arrays
    far = replace_fields(found, rows=np.full(len(found.rows), 2**31 - 1, dtype=np.int32))
    with pytest.raises(GitpeftError, match="it names unknown commits"):
        CommitIndex(far).find_nearest(change("b.py", "cache"), 2)


def entries(changes: Sequence[str], first: int) -> list[IndexEntry]:
    return [
        IndexEntry(f"{first + i:040x}", f"later {i}", pack_terms(extract_terms(one)))
        for i, one in enumerate(changes)
    ]


@profile(max_examples=60)
@given(
    st.lists(CHANGE, max_size=30),
    st.lists(CHANGE, max_size=12),
    st.lists(st.text(min_size=3), max_size=3),
    CHANGE,
)
def test_an_extended_index_computes_the_same_cosines(
    changes: list[str], later: list[str], new: list[str], query_change: str
) -> None:
    """Terms known before keep their weight; new ones are weighted among the later commits."""
    later = later + [change(f"new/{i}.py", f"fresh_{i}") for i, _ in enumerate(new)]
    everything = build(changes).with_later_commits(entries(later, 1000))
    assert len(everything) == len(changes) + len(later)
    counted = [extract_terms(one) for one in changes]
    frequency = Counter(term for found in counted for term in found)
    limit = max(8, int(0.4 * len(changes)))
    idf = {t: math.log((len(changes) + 1) / (n + 0.5)) if n <= limit else 0.0 for t, n in frequency.items()}
    fresh = Counter(t for one in later for t in extract_terms(one) if t not in idf)
    idf |= {t: math.log((len(everything) + 1) / (n + 0.5)) for t, n in fresh.items()}

    def vector(found: Counter[int], known: dict[int, float]) -> dict[int, float]:
        weights = {t: (1 + math.log(n)) * known[t] for t, n in found.items() if known.get(t, 0) > 0}
        norm = math.sqrt(sum(w * w for w in weights.values())) or 1.0
        return {t: w / norm for t, w in weights.items()}

    query = vector(extract_terms(query_change), idf)
    expected = [
        sum(w * query.get(t, 0.0) for t, w in vector(extract_terms(e), idf).items()) for e in changes + later
    ]
    found = everything.find_nearest(query_change, 100)
    assert len({one.position for one in found}) == sum(score > 1e-6 for score in expected)
    assert all(one.score == pytest.approx(expected[one.position], abs=3e-3) for one in found)
    assert all(everything.get_commit(one.position) == (one.sha, one.subject) for one in found)


def test_extending_replaces_later_commits_and_respects_positions() -> None:
    changes = [change(f"src/{word}.py", word) for word in WORDS]
    index = build(changes)
    once = index.with_later_commits(entries(changes[:2], 500))
    assert once.find_nearest(changes[0], 1)[0].subject == "later 0"
    assert len(once.with_later_commits(entries(changes[:1], 600))) == len(index) + 1
    assert once.with_later_commits([]).find_nearest(changes[0], 3) == index.find_nearest(changes[0], 3)
    assert once.find_nearest(changes[0], 3, before=len(changes)) != once.find_nearest(changes[0], 3)
    assert all(one.position < 4 for one in once.find_nearest(changes[0], 5, before=4))
    assert once.find_nearest(compact_change([FileChange("z/other.c", "M")]), 3) == []


def test_frequent_terms_stay_ignored_in_later_commits() -> None:
    """A word in nearly every commit of the history is not a rare one because the newest commits are few."""
    changes = [change(f"{i}/only{i}.x{i}", "common") for i in range(40)]
    index = build(changes)
    later = index.with_later_commits(entries([change("elsewhere/y.zz", "common")], 500))
    assert later.find_nearest(change("another/q.qq", "common"), 5) == []


def test_positions_of_commits() -> None:
    ids = shas(3)
    index = CommitIndex.build(
        [change("a.py", "parse")] * 3, ["one", f"revert {ids[0]} again", f"{ids[1]} was wrong"], ids
    )
    assert [index.find_position(sha) for sha in ids] == [0, 1, 2]
    assert index.find_position("f" * 40) is None
    assert index.get_commit(2) == (ids[2], f"{ids[1]} was wrong")


def test_an_index_is_loaded_without_pickle(tmp_path: Path) -> None:
    for name in ("vocabulary", "starts", "rows", "weights", "places", "commits", "idf"):
        np.save(tmp_path / f"{name}.npy", np.zeros(2, dtype=np.int64))
    np.save(tmp_path / "rows.npy", np.array([{}], dtype=object), allow_pickle=True)
    with pytest.raises(ValueError, match=r"object|pickle"):
        reopen(tmp_path)


def test_a_neighbour_is_a_plain_value() -> None:
    one = build([change("a.py", "parse")], ["add a parser"]).find_nearest(change("a.py", "parse"), 1)[0]
    assert one == Neighbour(0, "add a parser", shas(1)[0], one.score, 1, one.slots)
    assert one.score == pytest.approx(1, abs=2e-3)
