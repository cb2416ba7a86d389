"""Settings: typed, bounded, and from a committed file only what is harmless."""

import re
import subprocess
import time
from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from gitpeft import config
from gitpeft.config import Config, load_config, load_valid_config
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from tests.support.gitrepo import Repo
from tests.support.sources import CHECKOUT


@pytest.fixture(autouse=True)
def _defaults(_sealed: None) -> None:
    """Without what is set for all tests."""
    subprocess.run(["git", "config", "--global", "--remove-section", "gitpeft"], check=True)


def test_every_setting_is_explained() -> None:
    """The table of docs/configuration.md names each key, and marks those that a committed file may set."""
    text = (CHECKOUT / "docs/configuration.md").read_text()
    rows = re.findall(r"^\| (`\w+`(?:, `\w+`)*) \| [^|]*\| (shared )?\|", text, re.MULTILINE)
    listed = {key.strip("`").lower(): mark for keys, mark in rows for key in keys.split(", ")}
    assert listed == {name: "shared " if key.shared else "" for name, key in config.SETTING_SPECS.items()}


def loaded(repo: Repo) -> Config:
    return load_config(Repository.open(repo.path))


def test_without_settings_the_defaults_count(repo: Repo) -> None:
    assert loaded(repo) == Config() and loaded(repo).problems == ()


def test_git_config_counts_more_than_the_committed_file(repo: Repo) -> None:
    repo.write(".gitpeft", "[gitpeft]\n\talternatives = 4\n\tsubjectLength = 60\n")
    repo.git("config", "gitpeft.alternatives", "1")
    assert (loaded(repo).alternatives, loaded(repo).subject_length) == (1, 60)


@pytest.mark.parametrize(
    ("key", "value", "field", "expected"),
    [
        ("enabled", "off", "enabled", False),
        ("enabled", "TRUE", "enabled", True),
        ("timeoutMs", "500", "timeout_ms", 500),
        ("memoryMb", "512", "memory_mb", 512),
        ("exclude", "*.csv", "exclude", ("*.csv",)),
        ("ticketPattern", "[A-Z]+-[0-9]+", "ticket_pattern", "[A-Z]+-[0-9]+"),
        ("fixPattern", "^BUG-[0-9]+", "fix_pattern", "^BUG-[0-9]+"),
        ("ticketFormat", "[{ticket}] {subject}", "ticket_format", "[{ticket}] {subject}"),
        ("lint", "no", "lint", False),
    ],
)
def test_each_setting(repo: Repo, key: str, value: str, field: str, expected: object) -> None:
    repo.git("config", f"gitpeft.{key}", value)
    assert getattr(loaded(repo), field) == expected and load_valid_config(
        Repository.open(repo.path)
    ) == loaded(repo)


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("enabled", "maybe"),
        ("alternatives", "-1"),
        ("alternatives", "1e3"),
        ("alternatives", "٣"),
        ("timeoutMs", "1"),
        ("timeoutMs", "99999999999"),
        ("memoryMb", "many"),
        ("exclude", "x" * 500),
        ("exclude", ""),
        ("ticketPattern", "["),
        ("ticketPattern", "(a+)+"),
        ("ticketPattern", "x" * 500),
        ("ticketFormat", "{ticket}"),
        ("ticketFormat", "{ticket} {ticket}"),
        ("ticketFormat", "# {ticket} {subject}"),
        ("ticketFormat", "{ticket}\n{subject}"),
        ("surprise", "1"),
    ],
)
def test_a_bad_value_is_a_problem_and_the_default_counts(repo: Repo, key: str, value: str) -> None:
    repo.git("config", f"gitpeft.{key}", value)
    assert loaded(repo) == Config() and len(loaded(repo).problems) == 1
    with pytest.raises(GitpeftError, match=key.lower()):
        load_valid_config(Repository.open(repo.path))


def test_f5_what_is_said_of_a_bad_value_cannot_command_the_terminal(repo: Repo) -> None:
    repo.git("config", "gitpeft.ticketPattern", "(?<\x1b>)")
    [said] = loaded(repo).problems
    assert said.isprintable() and "regular expression" in said


def test_an_old_key_is_read_where_the_new_one_is_not_set(repo: Repo) -> None:
    repo.git("config", "gitpeft.leastScore", "12")
    assert loaded(repo).min_score == 12 and loaded(repo).problems == ()
    repo.write(".gitpeft", "[gitpeft]\n\tleastScore = 30\n")
    assert loaded(repo).min_score == 12
    repo.git("config", "gitpeft.minScore", "7")
    assert loaded(repo).min_score == 7 and loaded(repo).problems == ()
    repo.git("config", "--unset", "gitpeft.leastScore")
    assert loaded(repo).min_score == 7


@pytest.mark.parametrize(
    ("key", "hint"),
    [
        ("levelScore", "; did you mean minScore?"),
        ("subjectLenght", "; did you mean subjectLength?"),
        ("surprise", ""),
    ],
)
def test_an_unknown_setting_is_named_with_the_nearest_one(repo: Repo, key: str, hint: str) -> None:
    repo.git("config", f"gitpeft.{key}", "1")
    assert loaded(repo).problems == (f"git config: unknown setting gitpeft.{key.lower()}{hint}",)


@pytest.mark.parametrize(
    "key", ["timeoutMs", "memoryMb", "amend", "template", "squash", "risk", "command", "python", "path"]
)
def test_a_committed_file_cannot_set_what_is_not_harmless(repo: Repo, key: str) -> None:
    repo.write(".gitpeft", f"[gitpeft]\n\t{key} = true\n\talternatives = 3\n")
    assert loaded(repo) == Config(alternatives=3) and len(loaded(repo).problems) == 1


def test_no_setting_is_a_command_path_or_address() -> None:
    """F7, E17: whatever `.gitpeft` may set is a flag, a number, or a text that is only matched or written."""
    shared = {name for name, key in config.SETTING_SPECS.items() if key.shared}
    assert shared == {
        *("enabled", "alternatives", "exclude", "minscore", "subjectlength", "ticketpattern"),
        "ticketformat",
        *("lint", "prefill", "quiet", "riskbudget"),
    }


@pytest.mark.parametrize(
    "text",
    ["garbage [", "[gitpeft]\nx", "[include]\n\tpath = /etc/passwd\n[gitpeft]\n\talternatives = 3\n", "\0\0"],
)
def test_a_committed_file_of_any_content_breaks_nothing(repo: Repo, text: str) -> None:
    repo.write(".gitpeft", text)
    assert loaded(repo).enabled
    if "include" in text:
        assert loaded(repo).alternatives == 3


def test_a_committed_file_that_is_a_link_or_enormous_is_not_read(repo: Repo, tmp_path: Path) -> None:
    (tmp_path / "elsewhere").write_text("[gitpeft]\n\tenabled = false\n")
    (repo.path / ".gitpeft").symlink_to(tmp_path / "elsewhere")
    assert loaded(repo).enabled
    (repo.path / ".gitpeft").unlink()
    repo.write(".gitpeft", "[gitpeft]\n\tenabled = false\n" + "#" * 20_000)
    assert loaded(repo).enabled


def test_a_bare_repository_has_no_committed_file(tmp_path: Path) -> None:
    assert load_config(Repository.open(Repo.create(tmp_path / "bare", bare=True).path)) == Config()


@settings(max_examples=60, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    pairs=st.dictionaries(st.sampled_from(sorted(config.SETTING_SPECS)), st.text(max_size=150), max_size=6)
)
def test_any_value_is_used_or_named_and_never_raises(repo: Repo, pairs: dict[str, str]) -> None:
    started = time.monotonic()
    found = load_config(
        Repository.open(repo.path), {f"gitpeft.{key}": [value] for key, value in pairs.items()}
    )
    assert len(found.problems) <= len(pairs) and time.monotonic() - started < 1
    assert 0 <= found.alternatives <= 9 and 100 <= found.timeout_ms <= 30_000
