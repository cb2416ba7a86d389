"""The corpus of many repositories: read by repository, cleaned, masked, and never repeated too often."""

import random
from pathlib import Path

import pytest

from gitpeft.diff.compact import compact_change, split_compact
from gitpeft.diff.patch import FileChange, Hunk
from gitpeft.learn.data.dataset import Example
from gitpeft.learn.pretraining import corpus
from gitpeft.runtime.tokenizer import SPECIAL_TOKENS, TokenCodec
from tests.support.corpus import record, write


def test_reading_goes_by_repository(tmp_path: Path) -> None:
    path = write(tmp_path / "c.xz", [record(repo, i) for repo in "abc" for i in range(3)])
    assert [(repo, len(found)) for repo, found in corpus.read_corpus_file(path)] == [
        ("a", 3),
        ("b", 3),
        ("c", 3),
    ]
    assert [repo for repo, _ in corpus.read_corpus_file(path, ["b"])] == ["a", "c"]


def test_examples_know_only_what_is_earlier() -> None:
    records = [record("a", i) for i in range(40)]
    found = corpus.build_examples(records, 3)
    place = {e.message: i for i, e in enumerate(found)}
    assert len(found) == 40 and found[0].like == ()
    for i, example in enumerate(found):
        assert all(place[subject] < i for subject in example.like)
    assert sum(len(e.like) == 3 for e in found) > 20
    assert {e.group for e in found} == {"a"} and found[7].previous == "fix logger 4"


def test_examples_are_cleaned_and_masked() -> None:
    key = "AKIA" + "QWERTYUIOPASDFGH"
    records = [
        record("a", 1, subject=f"use {key} here (#12)", previous="before (#3)",
               diff=f' a.py +1 -0\n#a.py\n@\n+key = "{key}"'),
        record("a", 2, subject="one"),
        record("a", 3, subject="word " * 23),
        record("a", 4, diff="  \n"),
    ]  # fmt: skip
    (only,) = corpus.build_examples(records, 3)
    assert (only.message, only.previous) == ("use <secret> here", "before")
    assert key not in only.change and "<secret>" in only.change


def test_a_normal_diff_is_what_compact_writes() -> None:
    files = [
        FileChange("b.py", "M", added=9, removed=1, hunks=[Hunk("def f():", ["+x = 1", "-y  = 2"])]),
        FileChange("a.py", "A", added=2, hunks=[Hunk("", ["+z"])]),
        FileChange("c.py", "R", "old.py", 1, 0),
    ]
    text = compact_change(files)
    assert corpus.normalise_diff(text) == text
    lines = text.split("\n")
    shuffled = "\n".join([*reversed(lines[:3]), "", *(f"{line}   " for line in lines[3:])])
    assert corpus.normalise_diff(shuffled) == text
    assert split_compact(corpus.normalise_diff(" a.py +1 -1\n~3\n#a.py\n@\n+x\n+"))[1] == {
        "a.py": ["@", "+x"]
    }


def test_a_message_may_come_fifteen_times() -> None:
    let_through = corpus.RepeatFilter()
    assert [let_through(f"Bump to {i}") for i in range(17)] == [True] * 15 + [False] * 2
    assert let_through("bump TO 99") is False and let_through("another") is True


def test_context_is_dropped_now_and_then_and_nothing_else() -> None:
    full = Example("change", "message", "previous", ("a", "b", "c"), "sha", "group")
    dice = random.Random(0)
    made = [corpus.drop_context(full, dice) for _ in range(400)]
    assert {(e.change, e.message, e.sha, e.group) for e in made} == {("change", "message", "sha", "group")}
    assert {e.like for e in made} == {(), ("a",), ("a", "b"), ("a", "b", "c")}
    assert 20 < sum(e.like == () for e in made) < 70 and 30 < sum(e.previous == "" for e in made) < 95
    bare = Example("change", "message", "", (), "sha")
    assert all(corpus.drop_context(bare, dice) == bare for _ in range(50))


def test_the_tokenizer_reads_everything(tmp_path: Path) -> None:
    texts = [one["subject"] for one in (record("a", i) for i in range(200))] * 2
    tokenizer = corpus.train_tokenizer(texts, 300)
    tokenizer.save(str(tmp_path / "tokenizer.json"))
    codec = TokenCodec.load(tmp_path / "tokenizer.json")
    assert len(codec) == 300
    assert [tokenizer.token_to_id(token) for token in SPECIAL_TOKENS] == list(range(len(SPECIAL_TOKENS)))
    for text in ("add parser 7", "naïve 测试\t\x00🎉", "</s"):
        assert codec.decode(codec.encode(text)) == text
    assert len(codec.encode("remove session")) < len("remove session") / 2


@pytest.mark.parametrize("text", ["<file>", "</s>", "<like> x <previous>"])
def test_special_tokens_in_a_text_are_still_text(text: str) -> None:
    """A diff of HTML or of this very project must not open a section of its own."""
    tokenizer = corpus.train_tokenizer(["a b"] * 30, 290)
    codec = TokenCodec(tokenizer)
    assert not set(codec.encode(text)) & set(range(len(SPECIAL_TOKENS)))
