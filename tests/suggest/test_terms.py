"""The terms of a change: what is counted, and what makes two terms differ."""

import struct
from collections import Counter

from gitpeft.diff.compact import compact_change
from gitpeft.diff.patch import FileChange, Hunk
from gitpeft.suggest.terms import extract_terms, pack_terms


def change(path: str, *words: str, status: str = "M") -> str:
    hunk = Hunk("", [f"+{word}(value)" for word in words])
    return compact_change([FileChange(path, status, added=len(words), hunks=[hunk] if words else [])])


def test_a_created_file_has_other_terms_than_a_modified_one() -> None:
    modified, created = change("src/parse.py", "cache"), change("src/parse.py", "cache", status="A")
    assert extract_terms(modified) == extract_terms(modified)
    assert extract_terms(modified) != extract_terms(created)


def test_a_removed_word_shares_only_some_terms_with_an_added_one() -> None:
    added = extract_terms(change("src/parse.py", "cache"))
    hunk = Hunk("", ["-cache(value)"])
    removed = compact_change([FileChange("src/parse.py", "M", removed=1, hunks=[hunk])])
    assert 0 < (added & extract_terms(removed)).total() < added.total()


def test_no_change_has_no_terms() -> None:
    assert extract_terms("") == Counter()


def test_the_number_of_terms_is_bounded() -> None:
    assert len(extract_terms(change("a.py", *(f"word{i}" for i in range(100))))) <= 160


def test_packed_terms_are_pairs_of_32_bits() -> None:
    assert struct.unpack("<4I", pack_terms(Counter({7: 2, 4_000_000_000: 1}))) == (7, 2, 4_000_000_000, 1)
