"""How far messages can be read in their changes."""

import pytest

from gitpeft.diff.grounding import (
    ChangeSize,
    GroundingText,
    contradicts_change,
    list_invented_numbers,
    mark_distinct,
    measure_grounding,
    stem_word,
)


def test_invented_numbers_are_named() -> None:
    text = "flask 1.2 -> 1.3"
    assert list_invented_numbers("Update flask from 1.2 to 2.0", text) == ["0"]
    assert list_invented_numbers("Update flask to 1.3", GroundingText(text)) == []


@pytest.mark.parametrize(
    ("message", "size", "refused"),
    [
        ("Add a reader", ChangeSize(0, 9, False, False), True),
        ("Add a reader", ChangeSize(1, 30, False, False), True),
        ("Add a reader", ChangeSize(9, 0, False, False), False),
        ("docs: remove a page", ChangeSize(9, 0, False, False), True),
        ("Remove a page", ChangeSize(0, 9, False, False), False),
        ("Delete an image", ChangeSize(0, 0, True, False), False),
        ("Rename a page", ChangeSize(9, 0, False, False), True),
        ("Moved a page", ChangeSize(0, 0, False, True), False),
        ("", ChangeSize(1, 1, False, False), False),
    ],
)
def test_the_verb_must_fit_the_change(message: str, size: ChangeSize, refused: bool) -> None:
    assert contradicts_change(message, size) is refused


def test_words_in_the_change_count_whole_and_words_beside_it_less() -> None:
    text = "def parseDates(raw): ..."
    assert measure_grounding("Fix parsing of dates", text, "") == 1
    assert measure_grounding("Fix parsing of bananas", text, "") == 0.5
    assert measure_grounding("Fix parsing of bananas", text, "Add banana") == pytest.approx(0.8)
    assert measure_grounding("Update", text, "") is None


@pytest.mark.parametrize(
    ("word", "stem"),
    [
        ("parsing", "pars"),
        ("parsed", "pars"),
        ("Parse", "pars"),
        ("stopped", "stop"),
        ("class", "clas"),
        ("is", "is"),
    ],
)
def test_words_are_reduced_to_stems(word: str, stem: str) -> None:
    assert stem_word(word) == stem


def test_repeats_are_found_whatever_their_numbers() -> None:
    assert mark_distinct(["Release 1", "release 2", "Other"], 1) == [True, False, True]
