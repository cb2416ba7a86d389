"""Reverts in all their forms, by message alone (who it was: `tests/learn/szz/test_reverts.py`)."""

import pytest

from gitpeft.history.fix_detection import find_fix_evidence
from gitpeft.history.reverts import is_revert_of_revert, parse_revert

A, B, C = "0a1b2c3d4e5f", "1b2c3d4e5f6a", "2c3d4e5f6a7b"


@pytest.mark.parametrize(
    ("message", "ids", "requests", "subject"),
    [
        ('Revert "Remove check" (#22)\n\nReverts acme/app#21', (), ("21",), "Remove check"),
        ('Revert "Remove check (#21)" (#22)', (), (), "Remove check (#21)"),
        (f'Revert "Remove check"\n\nThis reverts commit {A}.', (A,), (), "Remove check"),
        (f"Revert two\n\nThis reverts commits {A} and {B}.", (A, B), (), "two"),
        (f"Revert {A}, {B} and {C}.", (A, B, C), (), f"{A}, {B} and {C}."),
        (f"Revert commit {A}", (A,), (), f"commit {A}"),
        (f"Backed out changeset {A} (bug 12) for breaking the build", (A,), (), ""),
        (f"Backed out 2 changesets\n\nBacked out changeset {A}\nBacked out changeset {B}", (A, B), (), ""),
        (f"backout {A} (via #3362); closes #3569", (A,), (), ""),
        ('Revert "Fix x"\n\nThis reverts merge request !21', (), ("21",), "Fix x"),
        ("Revert #21, #22 and #23", (), ("21", "22", "23"), "#21, #22 and #23"),
        ("Reverts https://example.org/o/r/pull/21", (), ("21",), "https://example.org/o/r/pull/21"),
        (
            f"Revert \"Merge branch 'x'\"\n\nThis reverts commit {A}, reversing\nchanges made to {B}.",
            (A,),
            (),
            "Merge branch 'x'",
        ),
        ('Partially revert "Remove check"', (), (), "Remove check"),
        ("revert: feat: add a cache", (), (), "feat: add a cache"),
        ("⏪️ Revert “Remove check”", (), (), "Remove check"),
        (":rewind: Revert 'Remove check'", (), (), "Remove check"),
        ('[Revert] "Remove check"', (), (), "Remove check"),
        (f"Automated rollback of commit {A}", (A,), (), ""),
        ('Undo "Remove check"', (), (), "Remove check"),
    ],
)
def test_labels_miss_no_form_of_a_revert(
    message: str, ids: tuple[str, ...], requests: tuple[str, ...], subject: str
) -> None:
    assert find_fix_evidence(message) == "revert"
    named = parse_revert(message)
    assert (named.shas, named.requests, named.subject) == (ids, requests, subject)


def test_ranges_bugs_and_revisions() -> None:
    named = parse_revert(f"Revert a series\n\nThis reverts commits {A}..{B}.")
    assert (named.ranges, named.shas) == (((A, B),), ())
    named = parse_revert(f"Backed out 3 changesets (bug 12, bug 34) for failures\n\nBacked out changeset {A}")
    assert (named.bugs, named.count) == (("12", "34"), 3)
    assert parse_revert("Revert r919684 - not binary compatible").revisions == ("919684",)
    assert parse_revert("Reverting revision 12 and 13").revisions == ("12", "13")


@pytest.mark.parametrize(
    "message",
    [
        "Undo and redo in the editor",
        "Roll back the transaction on errors",
        "Back out of the menu with escape",
        "Land the plane",
        'Add a button "Revert"',
        f"Squashed\n\n* one\n* This reverts commit {A}.",
        "Mention how to revert #21",
        "Reversed the order",
    ],
)
def test_what_only_speaks_of_reverting_is_none(message: str) -> None:
    assert not parse_revert(message) and find_fix_evidence(message) != "revert"


@pytest.mark.parametrize(
    ("subject", "again"),
    [
        ('Revert "Revert "X" (#22)" (#23)', True),
        ('Revert "Revert "Revert "X"""', False),
        ('Reapply "X" (#23)', True),
        ('Reland "X"', True),
        ('[Reland] "X"', True),
        ('Re-land "X"', True),
        ('Revert "Reland "X""', False),
        ('Unrevert "X"', True),
        ('Reverted: "Reverted: "X""', True),
        ('Revert "X"', False),
    ],
)
def test_a_revert_of_a_revert_repairs_nothing(subject: str, again: bool) -> None:
    assert is_revert_of_revert(subject) is again
    assert (find_fix_evidence(subject) is None) is again


def test_words_that_are_hexadecimal_are_no_ids() -> None:
    assert parse_revert("Revert defaced pages").shas == ()
    assert parse_revert("Revert #21").shas == ()
