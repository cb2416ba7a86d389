"""The message file, on its own: git's `stripspace` is the oracle of what would be committed."""

import os
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gitpeft.errors import GitpeftError
from gitpeft.hooks import message_file
from gitpeft.hooks.message_file import MessageFileRules, insert_messages

BEST, OTHER = "Teach the parser about tabs", "Accept tabs\n\nThey were refused so far."
STATUS = (
    b"\n# Please enter the commit message for your changes. Lines starting\n# with '#' will be ignored\n#\n"
)
CUT = b"# ------------------------ >8 ------------------------\n# Do not modify\ndiff --git a/x b/x\n+# y\n"
SIGNED = b"\nSigned-off-by: Ada Author <ada@example.org>\n"


def git(*args: str, input: bytes, cwd: Path | None = None) -> bytes:
    return subprocess.run(["git", *args], input=input, capture_output=True, check=True, cwd=cwd).stdout


def stripped(content: bytes, comment: bytes = b"#") -> bytes:
    """What git would commit of this content with the cleanup mode `strip`."""
    return git("-c", f"core.commentChar={comment.decode()}", "stripspace", "-s", input=content)


def test_b9_the_untouched_file_commits_the_best_message_alone() -> None:
    assert stripped(insert_messages(STATUS, [BEST, OTHER], MessageFileRules())) == f"{BEST}\n".encode()


def test_everything_that_was_in_the_file_stays_behind_the_offer() -> None:
    for content in (b"", STATUS, b"\n" + SIGNED + STATUS, STATUS + CUT):
        assert insert_messages(content, [BEST, OTHER], MessageFileRules()).endswith(content)


def test_b1_the_offer_is_above_the_scissors() -> None:
    changed = insert_messages(STATUS + CUT, [BEST, OTHER], MessageFileRules())
    assert changed.index(b"They were") < changed.index(b">8") and changed.endswith(CUT)


def test_b7_trailers_stay_last_and_git_still_parses_them() -> None:
    changed = insert_messages(b"\n" + SIGNED + STATUS, [OTHER, BEST], MessageFileRules())
    committed = stripped(changed)
    assert committed == f"{OTHER}\n\n".encode() + SIGNED.strip() + b"\n"
    assert git("interpret-trailers", "--parse", input=committed) == SIGNED.strip() + b"\n"


def test_b8_what_is_offered_behind_is_announced_by_its_number() -> None:
    one, two = (
        insert_messages(STATUS, [BEST, OTHER], MessageFileRules()),
        insert_messages(STATUS, [BEST, OTHER, "x"], MessageFileRules()),
    )
    for shown in (one, two):
        assert shown.count(b"# gitpeft: suggested above. To cancel the commit, delete the message") == 1
        assert shown.count(b"# gitpeft: other suggestions (uncomment one and delete the one above):") == 1
    alone = insert_messages(STATUS, [BEST], MessageFileRules())
    assert b"To cancel the commit" in alone and b"other suggestions" not in alone


def test_b8_without_prefill_all_suggestions_are_comments() -> None:
    shown = insert_messages(STATUS, [BEST, OTHER], MessageFileRules(), only_comments=True)
    assert b"# gitpeft: suggestions (to use one, uncomment it):" in shown
    assert stripped(shown) == b""


def test_b8_uncommenting_all_lines_of_an_alternative_gives_that_message() -> None:
    changed = insert_messages(STATUS, [BEST, OTHER], MessageFileRules()).decode()
    start = changed.index("# Accept tabs")
    block = changed[start : changed.index("\n\n", start)]
    assert all(line.startswith("#") for line in block.split("\n"))
    assert "\n".join(line[2:] if line[1:2] == " " else line[1:] for line in block.split("\n")) == OTHER


@pytest.mark.parametrize("comment", [b"#", b";", b"%"])
def test_b4_comments_are_written_as_git_stripspace_writes_them(comment: bytes) -> None:
    text = b"one\n\n\ttwo\nthree #\n"
    theirs = git("-c", f"core.commentChar={comment.decode()}", "stripspace", "-c", input=text)
    assert message_file.comment_out_lines(text.rstrip(b"\n"), comment) + b"\n" == theirs


def test_b4_a_comment_string_of_several_characters() -> None:
    changed = insert_messages(b"\n// Please\n", [BEST, "// no"], MessageFileRules(comment=b"//"))
    assert b"\n// no\n" in changed.replace(b"// //", b"//") and changed.startswith(BEST.encode())


def test_b5_an_automatic_comment_character_gets_no_comments() -> None:
    changed = insert_messages(STATUS, ["; start", "@ other"], MessageFileRules(auto=True))
    assert changed == b"start\n" + STATUS


@pytest.mark.parametrize(
    ("given_", "shown"),
    [
        ("#123 fix the tabs", "fix the tabs (#123)"),
        ("#12: fix", "fix (#12)"),
        ("# Heading", "Heading"),
        ("###", ""),
        ("Fix\n\n# Why\nso", "Fix\n\n # Why\nso"),
    ],
)
def test_b6_no_line_starts_like_a_comment(given_: str, shown: str) -> None:
    assert message_file.escape_comment_lines(given_, MessageFileRules()) == shown
    assert stripped(shown.encode()) == (shown.encode() + b"\n" if shown else b"")


@pytest.mark.parametrize("mode", ["scissors", "whitespace", "verbatim"])
def test_b2_b3_modes_that_keep_comments_get_none(mode: str) -> None:
    files = {
        "scissors": b"\n" + CUT,
        "whitespace": b"\n# Please enter the message. Lines starting\n# with '#' will be kept; you may\n",
        "verbatim": b"",
    }
    strips = message_file.strips_comments(files[mode], b"#", mode, [])
    assert not strips
    assert insert_messages(files[mode], [BEST, OTHER], MessageFileRules(strips=strips)).count(b"#") == files[
        mode
    ].count(b"#")


@pytest.mark.parametrize(
    ("content", "cleanup", "command", "expected"),
    [
        (STATUS, "", None, True),
        (STATUS, "whitespace", None, True),  # git's own words in the file count more than the setting
        (b"", "", ["git", "commit", "--no-status"], True),
        (b"", "strip", ["git", "commit"], True),
        (b"", "", ["git", "commit", "--cleanup=verbatim"], False),
        (b"", "", ["git", "commit", "--clean", "whitespace"], False),
        (b"", "", None, False),  # nobody knows
        (b"", "verbatim", ["git", "commit"], False),
        (b"\n# Bitte geben Sie eine Beschreibung ein.\n", "", None, False),
        (b"\n# Bitte geben Sie eine Beschreibung ein.\n", "", ["git", "commit"], True),
    ],
)
def test_comments_are_only_written_where_they_certainly_go_away(
    content: bytes, cleanup: str, command: list[str] | None, expected: bool
) -> None:
    assert message_file.strips_comments(content, b"#", cleanup, command) is expected


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", False),
        (STATUS, False),
        (b"\n" + SIGNED + STATUS, False),
        (b"\nReviewed-by: x\n# Please\n", False),
        (STATUS + CUT, False),
        (b"text\n" + STATUS, True),
        (b"fix: a subject like a trailer\n" + STATUS, True),
        (b"\n\nWhy?\n", True),
        (b"\n# gitpeft: or one of these\n", True),
    ],
)
def test_what_counts_as_text_that_somebody_wrote(content: bytes, expected: bool) -> None:
    assert message_file.has_text(content, b"#") is expected


def test_a18_a_file_with_an_offer_counts_as_written() -> None:
    for rules in (MessageFileRules(), MessageFileRules(strips=False)):
        assert message_file.has_text(insert_messages(STATUS, [BEST, OTHER], rules), b"#")
    assert message_file.has_text(
        insert_messages(b"text\n" + STATUS, [BEST], MessageFileRules(), only_comments=True), b"#"
    )


def test_b11_an_encoding_is_used_or_the_file_is_left() -> None:
    latin = MessageFileRules(encoding=message_file.find_codec("ISO-8859-1"))
    bare = replace(latin, strips=False)
    assert insert_messages(b"", ["Grüße"], bare) == "Grüße\n".encode("latin-1")
    with pytest.raises(GitpeftError, match="cannot be written"):
        insert_messages(b"", ["Tabs → spaces"], latin)
    offered = insert_messages(b"", ["Grüße", "Tabs → spaces", "Größe"], latin)
    assert offered.startswith("Grüße\n".encode("latin-1")) and "# Größe\n".encode("latin-1") in offered
    assert insert_messages(b"", ["Tabs → spaces", "Plain"], bare) == b"Plain\n"


@pytest.mark.parametrize("name", ["klingon", "utf-16", "rot13", "hex", "idna\0"])
def test_b11_an_encoding_in_which_ascii_is_something_else_is_refused(name: str) -> None:
    with pytest.raises(GitpeftError):
        message_file.find_codec(name)


def test_b12_line_ends_are_kept() -> None:
    content = STATUS.replace(b"\n", b"\r\n")
    changed = insert_messages(content, [OTHER, BEST], MessageFileRules())
    assert changed.count(b"\n") == changed.count(b"\r\n") and changed.endswith(content)


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o664])
def test_b13_the_mode_is_kept(tmp_path: Path, mode: int) -> None:
    path = tmp_path / "COMMIT_EDITMSG"
    path.write_bytes(b"old")
    path.chmod(mode)
    message_file.write_message_file(path, b"new")
    assert path.read_bytes() == b"new" and path.stat().st_mode & 0o777 == mode
    assert list(tmp_path.iterdir()) == [path]


@pytest.mark.parametrize("step", ["open", "fchmod", "replace"])
def test_b13_a_directory_that_allows_nothing_leaves_the_file(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    path = tmp_path / "COMMIT_EDITMSG"
    path.write_bytes(b"old")

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(13, "Permission denied")

    monkeypatch.setattr(Path if step == "replace" else os, step, refuse)
    with pytest.raises(GitpeftError, match="Permission denied"):
        message_file.write_message_file(path, b"new")
    monkeypatch.undo()
    assert path.read_bytes() == b"old" and list(tmp_path.iterdir()) == [path]


def test_b13_a_link_in_place_of_the_file_is_not_followed(tmp_path: Path) -> None:
    (tmp_path / "victim").write_bytes(b"")
    (tmp_path / "COMMIT_EDITMSG").symlink_to(tmp_path / "victim")
    with pytest.raises(GitpeftError, match="ordinary"):
        message_file.read_message_file(tmp_path / "COMMIT_EDITMSG")


@pytest.mark.parametrize("step", ["fchmod", "replace"])
def test_b14_killed_while_writing_the_original_file_is_intact(tmp_path: Path, step: str) -> None:
    path = tmp_path / "COMMIT_EDITMSG"
    path.write_bytes(b"old")
    pid = os.fork()
    if pid == 0:
        setattr(Path if step == "replace" else os, step, lambda *_: os.kill(os.getpid(), 9))
        message_file.write_message_file(path, b"new" * 9999)
    assert os.WTERMSIG(os.waitpid(pid, 0)[1]) == 9
    assert path.read_bytes() == b"old"


# --- for every file that git may write --------------------------------------------------------------------

COMMENTS = st.sampled_from([b"#", b";", b"%", b"@"])
WORDS = st.text(
    st.characters(
        codec="utf-8", exclude_categories=["Cc", "Cs", "Zl", "Zp", "Zs"], exclude_characters="\ufeff"
    ),
    min_size=1,
    max_size=12,
)
LINES = st.lists(WORDS, min_size=1, max_size=6).map(" ".join)
MESSAGES = st.builds(lambda subject, body: "\n\n".join([subject, *body]), LINES, st.lists(LINES, max_size=2))
TRAILERS = st.lists(
    st.sampled_from(["Signed-off-by: A <a@b>", "Reviewed-by: B", "Fixes: x"]), max_size=3, unique=True
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    messages=st.lists(MESSAGES, min_size=1, max_size=3),
    trailers=TRAILERS,
    comment=COMMENTS,
    scissors=st.booleans(),
    status=st.booleans(),
)
def test_properties_of_the_editor(
    messages: list[str], trailers: list[str], comment: bytes, scissors: bool, status: bool
) -> None:
    """B1, B4, B6, B7, B9: git strips to the fitted message and the trailers; the rest is as it was."""
    rules = MessageFileRules(comment=comment)
    lines = b"\n\n" + b"".join(trailer.encode() + b"\n" for trailer in trailers) if trailers else b""
    content = lines + (STATUS if status else b"").replace(b"#", comment)
    below = CUT.replace(b"# -", comment + b" -", 1) if scissors else b""
    changed = insert_messages(content + below, messages, rules)
    fitting = [
        fitted for fitted in (message_file.escape_comment_lines(text, rules) for text in messages) if fitted
    ]
    assert changed.endswith(content + below)
    if not fitting:
        assert changed == content + below
        return
    assert message_file.has_text(changed, comment), "a second run must leave it alone"
    above = changed[: message_file.find_scissors(changed, comment)]
    expected = fitting[0].encode() + b"\n" + b"\n" + "\n".join(trailers).encode()
    assert stripped(above, comment) == stripped(expected, comment)
