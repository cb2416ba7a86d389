"""Group B of the contract, with real commits: what people see in the editor, and what is committed of it."""

from pathlib import Path

import pytest

from tests.support.hooking import OTHER, SUGGESTION, THIRD, Hooked, needs_git, script


def shown_without_hook(hooked: Hooked, *args: str) -> str:
    """What git alone puts into the file; the commit is not made."""
    hooked.git(*args, edit="false", env={"GITPEFT": "0"})
    return hooked.seen()


@pytest.mark.parametrize(
    "options", [["-v"], ["-v", "-v"], ["-c", "commit.verbose=true"], ["--no-status"], []]
)
def test_b1_b9_what_git_wrote_stays_and_the_untouched_offer_is_committed(
    hooked: Hooked, options: list[str]
) -> None:
    args = [*options, "commit"] if options[:1] == ["-c"] else ["commit", *options]
    before = shown_without_hook(hooked, *args)
    hooked.git(*args)
    assert hooked.seen().endswith(before) and hooked.seen().startswith(f"{SUGGESTION}\n")
    assert hooked.seen().index(THIRD) < (hooked.seen() + ">8").index(">8")
    assert hooked.message() == SUGGESTION


@pytest.mark.parametrize("how", ["option", "setting"])
@pytest.mark.parametrize("mode", ["scissors", "verbatim", "whitespace"])
def test_b2_b3_no_comments_where_they_would_be_kept(hooked: Hooked, mode: str, how: str) -> None:
    if how == "setting":
        hooked.repo.git("config", "commit.cleanup", mode)
    args = ["commit"] if how == "setting" else ["commit", f"--cleanup={mode}"]
    before = shown_without_hook(hooked, *args)
    hooked.git(*args)
    gap = "" if before.startswith("\n") else "\n"
    assert hooked.seen() == f"{SUGGESTION}\n{gap}{before}"
    if mode == "scissors":
        assert hooked.message() == SUGGESTION


@pytest.mark.parametrize("mode", ["verbatim", "whitespace"])
def test_b3_nor_in_a_file_without_a_word_of_git(hooked: Hooked, mode: str) -> None:
    hooked.git("commit", f"--cleanup={mode}", "--no-status")
    assert hooked.seen() == f"{SUGGESTION}\n" and hooked.message() == SUGGESTION


@pytest.mark.parametrize("character", [";", "%", "@", "!"])
def test_b4_the_configured_comment_character_is_used(hooked: Hooked, character: str) -> None:
    hooked.git("-c", f"core.commentChar={character}", "commit")
    assert f"\n{character} {THIRD}\n" in hooked.seen() and "\n# " not in hooked.seen()
    assert hooked.message() == SUGGESTION


def test_b5_b6_an_automatic_character_and_a_message_that_starts_with_one(hooked: Hooked) -> None:
    env = {"STANDIN": "say:#12 fix tabs|; another"}
    hooked.git("-c", "core.commentChar=auto", "commit", env=env)
    assert hooked.message() == "fix tabs" and "another" not in hooked.seen()


@pytest.mark.parametrize("message", ["#123 fix the tabs", "# Fix the tabs", "#fix the tabs"])
def test_b6_a_message_that_starts_with_the_comment_character(hooked: Hooked, message: str) -> None:
    hooked.repo.stage(notes="about #123\n")
    hooked.git("commit", env={"STANDIN": f"say:{message}"})
    assert "fix the tabs" in hooked.message().lower() and not hooked.message().startswith("#")


@pytest.mark.parametrize("options", [["-s"], ["--trailer", "Reviewed-by: B"], ["-s", "--trailer", "X: y"]])
def test_b7_trailers_stay_last_and_are_parsed(hooked: Hooked, options: list[str]) -> None:
    if "--trailer" in options:
        needs_git(2, 32, "--trailer")
    before = shown_without_hook(hooked, "commit", *options)
    hooked.git("commit", *options, env={"STANDIN": "say:Subject\n\nBody.|Other"})
    trailers = [line for line in before.splitlines() if ": " in line and not line.startswith("#")]
    assert hooked.message() == "\n".join(["Subject", "", "Body.", "", *trailers])
    parsed = hooked.repo.git("interpret-trailers", "--parse", input=hooked.message() + "\n")
    assert parsed.splitlines() == trailers


def test_b8_an_alternative_can_be_uncommented(hooked: Hooked) -> None:
    first = OTHER.splitlines()[0]
    swap = f"sed -i -e '/^{SUGGESTION}$/d' -e '/^# {first}$/,/^# They/s/^# \\{{0,1\\}}//' \"$file\""
    hooked.git("commit", edit=swap)
    assert hooked.message() == OTHER


def test_b8_the_number_of_alternatives_is_a_setting(hooked: Hooked) -> None:
    hooked.repo.git("config", "gitpeft.alternatives", "0")
    before = shown_without_hook(hooked, "commit")
    hooked.git("commit")
    hint = "# gitpeft: suggested above. To cancel the commit, delete the message (vim: :cq)."
    assert hooked.seen() == f"{SUGGESTION}\n\n{hint}\n{before}"


def test_b8_without_prefill_the_message_is_empty(hooked: Hooked) -> None:
    """gitpeft.prefill=false: leaving the editor as it was commits nothing."""
    hooked.repo.git("config", "gitpeft.prefill", "false")
    done = hooked.git("commit")
    assert f"# {SUGGESTION}\n" in hooked.seen()
    assert done.returncode == 1 and hooked.message() == "Start"


def test_b10_an_emptied_file_stops_the_commit_as_ever(hooked: Hooked) -> None:
    done = hooked.git("commit", edit=':>"$file"')
    assert done.returncode == 1 and b"empty commit message" in done.stderr and hooked.message() == "Start"


@pytest.mark.parametrize(
    ("encoding", "message", "committed"),
    [
        ("ISO-8859-1", "Grüße", "Grüße"),
        ("ISO-8859-1", "Tabs → spaces", ""),
        ("klingon", "Plain", ""),
        ("UTF-8", "Tabs → spaces", "Tabs → spaces"),
    ],
)
def test_b11_never_mojibake(hooked: Hooked, encoding: str, message: str, committed: str) -> None:
    hooked.repo.git("config", "i18n.commitEncoding", encoding)
    done = hooked.git("commit", env={"STANDIN": f"say:{message}"})
    if committed:
        assert hooked.message() == committed
    else:
        assert done.stderr.count(b"gitpeft: ") == 1 and done.returncode == 1
        assert hooked.message() == "Start"


def test_b12_autocrlf_and_a_file_with_such_line_ends(hooked: Hooked, tmp_path: Path) -> None:
    hooked.repo.git("config", "core.autocrlf", "true")
    hooked.git("commit")
    assert hooked.message() == SUGGESTION
    hooked.stage(more="m\n")
    file = tmp_path / "MSG"
    file.write_bytes(b"\r\n# Please enter\r\n")
    hooked.call(str(file))
    assert file.read_bytes().startswith(SUGGESTION.encode() + b"\r\n")
    assert file.read_bytes().count(b"\n") == file.read_bytes().count(b"\r\n")


def test_b13_the_mode_of_the_file_is_kept_and_nothing_lies_beside_it(hooked: Hooked) -> None:
    file = hooked.repo.write(".git/COMMIT_EDITMSG", "")
    file.chmod(0o640)
    before = {path.name for path in file.parent.iterdir()}
    hooked.call(".git/COMMIT_EDITMSG")
    assert file.read_text().startswith(SUGGESTION) and file.stat().st_mode & 0o777 == 0o640
    assert {path.name for path in file.parent.iterdir()} == before


def test_an_earlier_hook_that_wrote_something_has_the_word(hooked: Hooked) -> None:
    hooked.hook.unlink()
    script(hooked.hook, '#!/bin/sh\necho "ABC-1: " >"$1"\n')
    hooked.install()
    hooked.git("commit", edit='echo "ABC-1: mine" >"$file"')
    assert hooked.seen() == "ABC-1: \n" and hooked.message() == "ABC-1: mine"
