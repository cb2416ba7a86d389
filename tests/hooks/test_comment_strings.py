"""Comment strings that are a letter, a bracket or a word: no message loses a part of itself.

The oracle is git: what an untouched offer is committed as, and what `git stripspace -s` leaves of it.
"""

import pytest

from gitpeft.errors import GitpeftError
from gitpeft.hooks import message_file
from gitpeft.hooks.message_file import MessageFileRules, insert_messages
from tests.support.conversation import Person, talk
from tests.support.hooking import OTHER, THIRD, Hooked, needs_git


@pytest.mark.parametrize(
    ("character", "messages", "committed"),
    [
        ("A", "Add tabs|Teach tabs|Allow tabs", "Teach tabs"),
        ("T", "Teach tabs|the parser takes tabs", "the parser takes tabs"),
        ("[", "[net] take tabs|net: take tabs", "net: take tabs"),
        ("f", "fix: tabs|feat: tabs|Take tabs", "Take tabs"),
        ("1", "1st version of tabs|Version 1 of tabs", "Version 1 of tabs"),
        (";", "; tabs|Take tabs", "tabs"),
    ],
)
def test_a_message_keeps_its_first_letter_whatever_the_comment_character_is(
    hooked: Hooked, character: str, messages: str, committed: str
) -> None:
    hooked.repo.git("config", "core.commentChar", character)
    hooked.git("commit", env={"STANDIN": f"say:{messages}"})
    assert hooked.message() == committed
    stripped = hooked.repo.git("stripspace", "-s", input=hooked.seen())
    assert stripped == committed, "git reads nothing else in what the editor showed"


def test_an_alternative_that_would_lose_its_first_letter_is_not_shown(hooked: Hooked) -> None:
    hooked.repo.git("config", "core.commentChar", "A")
    hooked.git("commit", env={"STANDIN": f"say:{THIRD}|Teach tabs|Refuse tabs"})
    assert THIRD not in hooked.seen() and "\nA Refuse tabs\n" in hooked.seen()


def test_where_every_message_begins_so_one_line_says_why_nothing_is_offered(hooked: Hooked) -> None:
    hooked.repo.git("config", "core.commentChar", "A")
    done = hooked.git("commit", edit='printf "Mine\\n" >"$file"', env={"STANDIN": "say:Add|Allow"})
    assert done.returncode == 0 and hooked.message() == "Mine"
    assert b"every suggestion begins with core.commentChar, 'A'" in done.stderr


@pytest.mark.parametrize("comment", ["//", "--", "REM", "# ", "※"])
def test_a_comment_string_of_several_characters_is_told_from_the_message(comment: str) -> None:
    rules = MessageFileRules(comment=comment.encode())
    messages = [f"{comment}Take tabs", "Take tabs", f"Allow\n\n{comment}tabs"]
    changed = insert_messages(b"", messages, rules).decode()
    lines = changed.splitlines()
    kept = [line for line in lines if not line.startswith(comment)]
    assert kept[0] == "Take tabs" and "TTake" not in changed
    assert all(line.startswith(comment) for line in lines[2:] if line)


def test_a_comment_string_of_several_characters_in_a_commit(hooked: Hooked) -> None:
    needs_git(2, 45, "core.commentString")
    hooked.repo.git("config", "core.commentString", "Add")
    hooked.git("commit", env={"STANDIN": "say:Add tabs|Teach tabs"})
    assert hooked.message() == "Teach tabs"


def test_in_another_encoding_the_comment_string_is_compared_as_bytes() -> None:
    """Git compares bytes: `§` of a Latin-1 message is not the UTF-8 `§` of the settings."""
    rules = MessageFileRules(comment="§".encode(), encoding="iso8859-1")
    assert message_file.escape_comment_lines("§ 12 is obeyed", rules) == "§ 12 is obeyed"
    same = MessageFileRules(comment="§".encode("latin-1"), encoding="iso8859-1")
    assert message_file.escape_comment_lines("§12 is obeyed", same) == ""


def test_the_message_chosen_in_gitpeft_commit_is_committed_whole(
    hooked: Hooked, monkeypatch: pytest.MonkeyPatch
) -> None:
    hooked.repo.git("config", "core.commentChar", "A")
    hooked.answer(THIRD, OTHER)
    with pytest.raises(GitpeftError, match="take the message for a comment"):
        talk(hooked, Person("e1"))
    done = talk(hooked, Person("1"))
    assert done.action == "committed" and hooked.message() == THIRD
