"""`history.fix_detection`: which messages speak of a repair, and what is learnt of a repository's habits."""

import pytest

from gitpeft.history.fix_detection import (
    MIN_MESSAGES,
    FixConventions,
    find_fix_evidence,
    learn_fix_conventions,
    parse_fixes_trailers,
)
from gitpeft.history.reverts import find_reverted_subject, parse_revert

SHA = "0123456789abcdef0123456789abcdef01234567"


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("Fix crash when the list is empty", "word"),
        ("Fixed a bug in the parser", "word"),
        ("parser: fixes off-by-one at the end of input", "word"),
        ("Hotfix for login", "word"),
        ("Prevent deadlock on shutdown", "word"),
        ("Don't crash without a terminal", "word"),
        ("diff: plug a memory leak", "word"),
        ("Correct the handling of empty names", "word"),
        ("Fix crash in testing mode", "word"),
        ("Fix handling of test names", "word"),
        ("fix(parser): accept an empty list", "type"),
        ("fix!: refuse what was never valid", "type"),
        ("bugfix: accept an empty list", "type"),
        ("Accept an empty list\n\nFixes #12", "issue"),
        ("Accept an empty list (closes GH-12)", "issue"),
        ("Handle PROJ-7\n\nResolves: PROJ-7", "issue"),
        ("Handle it\n\nfixes https://example.org/a/b/issues/7", "issue"),
        ('Revert "Add a cache"\n\nThis reverts commit ' + SHA + ".", "revert"),
        ("revert: feat: add a cache", "revert"),
        ('Revert "Reapply "Add a cache""', "revert"),
        ('Revert "Revert "Revert "Add a cache"""', "revert"),
        ("mm: check for null\n\nFixes: 0123456789ab (mm: add a cache)", "trailer"),
    ],
)
def test_a_repair_is_told_by_its_message(message: str, kind: str) -> None:
    assert find_fix_evidence(message) == kind


@pytest.mark.parametrize(
    "message",
    [
        "",
        "Add a parser",
        "Fix typo",
        "Fixed a few typos in comments",
        "fix lint",
        "Fix flake8 warnings",
        "fix the failing tests",
        "Fix flaky test",
        "Fix docs build",
        "Fix broken link in README",
        "Fix code style",
        "Whitespace fixes",
        "docs: fix the example",
        "fix: typo in docstring",
        "fix(tests): use the new fixture",
        "fix(docs): typo",
        "feat: add a cache\n\nFixes #12",
        "chore: fix everything",
        "Add support for caches\n\nCloses #12",
        "Convert it into a class (fixes #12)",
        "Documented missing attributes.  This fixes #71",
        "fixup! Fix crash",
        'Reapply "Add a cache"',
        'Revert "Revert "Add a cache""',
        "Merge branch 'fix-crash'",
        "Merge pull request #3 from a/fix-bug",
        "Use a fixed size buffer",
        "Update the bug report template",
        "Add a test for the crash in parse",
        "prefix and suffix, and fixtures",
        "debug logging",
        "Release 1.2.3",
        "Bump version after a bugfix",
        "[pre-commit.ci] auto fixes from pre-commit.com hooks",
        "Squashed (#3)\n\n* Revert a thing\n\nThis reverts commit " + SHA,
    ],
)
def test_what_repairs_no_code_is_none(message: str) -> None:
    assert find_fix_evidence(message) is None


def test_a_team_may_say_what_a_fix_is() -> None:
    habits = FixConventions(pattern=r"^BUG-\d+")
    assert find_fix_evidence("BUG-12 accept empty lists", habits) == "pattern"
    assert find_fix_evidence("Something\n\nBUG-12", habits) == "pattern"
    assert find_fix_evidence("Fix crash", habits) is None
    assert find_fix_evidence("fix: crash", habits) is None
    assert find_fix_evidence('Revert "x"', habits) == "revert"


def test_words_do_not_count_where_types_are_the_habit() -> None:
    typed = [f"feat: thing {i}" for i in range(MIN_MESSAGES)] + ["fix: a", "Fix crash", 'Revert "x"']
    habits, counts = learn_fix_conventions(typed)
    assert counts == {"type": 1, "revert": 1}
    assert find_fix_evidence("Fix crash", habits) is None
    plain, counts = learn_fix_conventions(
        ["fix: a", *(f"Thing {i}" for i in range(MIN_MESSAGES)), "Fix crash"]
    )
    assert counts == {"type": 1, "word": 1}
    assert find_fix_evidence("Fix crash", plain) == "word"


def test_a_reference_that_every_change_needs_says_nothing() -> None:
    messages = [f"Thing {i}\n\nCloses #{i}" for i in range(MIN_MESSAGES)] + ["Fix crash"]
    habits, counts = learn_fix_conventions(messages)
    assert counts == {"issue": MIN_MESSAGES, "word": 1}
    assert find_fix_evidence("Thing\n\nCloses #1", habits) is None
    assert find_fix_evidence("Fix crash", habits) == "word"


def test_little_history_teaches_no_habits() -> None:
    assert (
        learn_fix_conventions(["Thing\n\nCloses #1"] * (MIN_MESSAGES - 1))[0].kinds == FixConventions().kinds
    )
    assert learn_fix_conventions([]) == (FixConventions(), {})


def test_what_a_message_takes_back_or_names() -> None:
    message = f'Revert "Add a "cache" (#3)"\n\nThis reverts commit {SHA}.'
    assert parse_revert(message).shas == (SHA,)
    assert find_reverted_subject(message) == 'Add a "cache" (#3)'
    assert find_reverted_subject('Reapply "Add a cache"') == 'Revert "Add a cache"'
    assert not parse_revert("Squashed\n\n* one\n* This reverts commit " + SHA)
    assert parse_fixes_trailers(f"x\n\nFixes: {SHA[:12]} (mm: cache)\nFixes: #12\nFixes: abc") == (SHA[:12],)


def test_a_cheap_look_misses_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    texts = [
        "Revert x", "Reapply 'x'", "a\n\nFixes: 0123456", "fix: x", "hotfix: x", "closes #1",
        "resolves AB-12", "a bug", "defects", "a regression", "segfaults", "crashing", "deadlock",
        "race condition", "data races", "leaks", "overflows", "use-after-free", "double free", "off by one",
        "off-by-one", "null pointer", "undefined behavior", "infinite loop", "vulnerability", "CVE-2020",
        "repaired", "workaround", "work around", "correct the order", "incorrect", "broken", "wrongly",
        "erroneous", "faulty", "don't crash", "do not fail", "doesn't hang", "no longer panic",
        "prevent hanging", "avoid failing", "f\u0131x it",
    ]  # fmt: skip
    seen = [find_fix_evidence(text) for text in texts]
    monkeypatch.setattr("gitpeft.history.fix_detection._FIX_HINTS", ("",))  # no look at all
    assert seen == [find_fix_evidence(text) for text in texts]
    assert seen.count(None) < 5
