"""Text to ids and back, with section marks that the tokenizer knows and with those that it must spell."""

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gitpeft.diff.render import SECTION_MARKS
from gitpeft.runtime.tokenizer import END_TOKEN, PAD_TOKEN, SPECIAL_TOKENS, UNKNOWN_TOKEN, TokenCodec
from tests.support import tinymodel


@pytest.fixture(scope="module")
def codec(tmp_path_factory: pytest.TempPathFactory) -> TokenCodec:
    return TokenCodec.load(tinymodel.write_tokenizer(tmp_path_factory.mktemp("codec")))


def plain(end: str) -> Any:
    """A byte-level tokenizer of another project: it has an end token and none of our marks."""
    from tokenizers import Tokenizer, decoders, models, pre_tokenizers

    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    tokenizer = Tokenizer(models.BPE({c: i for i, c in enumerate(alphabet)}, []))
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False)
    tokenizer.decoder = decoders.ByteLevel()
    tokenizer.add_special_tokens([end])
    return tokenizer


@given(
    text=st.lists(
        st.text(st.characters(codec="utf-8"), max_size=20) | st.sampled_from(SPECIAL_TOKENS), max_size=4
    ).map("".join)
)
def test_any_text_comes_back(codec: TokenCodec, text: str) -> None:
    assert codec.decode(codec.encode(text)) == text.strip()


def test_many_at_once_is_each_alone(codec: TokenCodec) -> None:
    texts = [*tinymodel.TEXTS, "", "naïve 测试 🎉", " leading and trailing "]
    assert codec.encode_many(texts) == [codec.encode(text) for text in texts]
    assert codec.encode_many([]) == []


def test_the_marks_of_the_embedded_tokenizer_are_single_tokens(codec: TokenCodec) -> None:
    assert [codec.marks[mark] for mark in SECTION_MARKS] == [[3 + i] for i in range(len(SECTION_MARKS))]
    assert SPECIAL_TOKENS[:3] == (PAD_TOKEN, END_TOKEN, UNKNOWN_TOKEN) and codec.end == 1
    assert codec.decode([0, 3, *codec.encode("fix typo"), 9, codec.end]) == "fix typo"


def test_ids_lie_in_the_vocabulary(codec: TokenCodec) -> None:
    assert max(codec.encode("\x00 fix 测试 \uffff")) < len(codec) <= 400


@pytest.mark.parametrize("end", ["</s>", "<|endoftext|>"])
def test_a_foreign_tokenizer_spells_its_marks(end: str) -> None:
    codec = TokenCodec(plain(end))
    assert codec.end == 256
    spelt = {mark: codec.decode(ids) for mark, ids in codec.marks.items()}
    assert spelt == {
        "like": "*", "previous": "<", "file": "#", "hunk": "@", "add": "+", "delete": "-", "keep": "",
    }  # fmt: skip
    assert len({tuple(ids) for ids in codec.marks.values()}) == len(SECTION_MARKS)
    assert all(len(ids) <= 3 for ids in codec.marks.values())


def test_a_tokenizer_without_an_end_is_refused() -> None:
    with pytest.raises(StopIteration):
        TokenCodec(plain("<other>"))


def test_no_special_token_is_added(codec: TokenCodec, tmp_path: Path) -> None:
    from tokenizers import Tokenizer, processors

    path = tinymodel.write_tokenizer(tmp_path)
    tokenizer = Tokenizer.from_file(str(path))
    tokenizer.post_processor = processors.TemplateProcessing(single="$A </s>", special_tokens=[("</s>", 1)])
    tokenizer.save(str(path))
    assert TokenCodec.load(path).encode_many(["fix"]) == codec.encode_many(["fix"])


def test_a_message_in_the_form_of_each_layout(codec: TokenCodec) -> None:
    assert codec.encode_message("fix typo") == codec.encode("fix typo")
    assert codec.encode_message("fix typo", "prompt") == codec.encode(" fix typo")
    assert codec.find_message_end() == codec.end
    assert codec.decode([codec.find_message_end("prompt"), *codec.encode("x")]) == "x"
    assert codec.encode("Commit message:")[-1] == codec.find_message_start()
