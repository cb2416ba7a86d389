"""Group I of the hook contract: which messages may be offered, and in which form."""

import json
from itertools import pairwise
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitpeft.bundle import bundle as bundles
from gitpeft.config import Config
from gitpeft.git.repository import Repository
from gitpeft.suggest import commit_lint, lint_config, postprocess
from gitpeft.suggest.postprocess import (
    TICKET_FORMAT,
    MessageFacts,
    clean_message,
    gather_facts,
    select_suggestions,
)
from gitpeft.suggest.suggestion import Suggestion
from tests.support import tinymodel
from tests.support.gitrepo import Repo

CHANGE = "Mgitpeft/parser.py +1 -1\n#gitpeft/parser.py\n+see #7 and ABC-9\n"


def select(messages: list[str], facts: MessageFacts, wanted: int) -> list[str]:
    """Those of the messages that are offered, as they are offered."""
    found = select_suggestions([Suggestion(message) for message in messages], facts, wanted, len(messages))
    return [one.message for one in found]


# --- I4 and D9: nothing is invented, nothing harmful gets through -----------------------------------------


@pytest.mark.parametrize(
    ("generated", "offered"),
    [
        ("Fix tabs (#123)", "Fix tabs"),
        ("Fix tabs (fixes #123)", "Fix tabs"),
        ("Fix #7 for tabs", "Fix #7 for tabs"),
        ("Fix ABC-9 for tabs", "Fix ABC-9 for tabs"),
        ("ABC-10: fix tabs", "fix tabs"),
        ("[ABC-10] fix tabs", "fix tabs"),
        ("Fix tabs, see https://evil.example/x", "Fix tabs"),
        ("Fix tabs for @somebody", "Fix tabs"),
        ("Fix tabs (GH-12)", "Fix tabs"),
        ("Fix tabs from owner/repo#12", "Fix tabs"),
        ("Fix tabs\n\nCo-authored-by: Eve <eve@evil.example>", "Fix tabs"),
        ("Fix tabs\n\nBody.\n\nSigned-off-by: Eve <e@e>\nReviewed-by: X", "Fix tabs\n\nBody."),
        ("Fix tabs\n\nCloses #99", "Fix tabs"),
        ("  Fix   tabs  \r\n\r\nBody  \r\n", "Fix tabs\n\nBody"),
        ("Fix UTF-8 and SHA-256", "Fix UTF-8 and SHA-256"),
    ],
)
def test_i4_references_that_the_change_does_not_contain_are_removed(generated: str, offered: str) -> None:
    assert clean_message(generated, CHANGE) == offered


@pytest.mark.parametrize(
    "generated", ["", " \n", "(#123)", "#123", "...", "a" * 201, "\x07bell", "a\u2066b", "\ue000"]
)
def test_d9_text_that_is_not_a_message(generated: str) -> None:
    assert clean_message(generated, "") is None


@settings(max_examples=300, deadline=None)
@given(st.text(max_size=300))
def test_d9_a_cleaned_message_is_printable_and_stays_the_same(generated: str) -> None:
    cleaned = clean_message(generated, CHANGE)
    if cleaned is not None:
        assert all(c.isprintable() or c in "\n\t" or c.isspace() for c in cleaned)
        assert cleaned.strip() == cleaned and not cleaned.split("\n")[0].isspace()
        assert clean_message(cleaned, CHANGE) == cleaned


# --- I1: the learnt style ---------------------------------------------------------------------------------


def test_i1_messages_that_depart_from_the_style_come_last() -> None:
    style = {"subject_length_p95": 20, "types": ["fix", "feat"], "scopes": ["ui"], "tense": "imperative"}
    messages = [
        "fix: a subject that is rather too long for this team",
        "fix(core): wrong scope",
        "chore: wrong type",
        "fix: added tabs",
        "fix(ui): add tabs",
    ]
    assert select(messages, MessageFacts(style=style), 5)[0] == "fix(ui): add tabs"
    assert select(messages, MessageFacts(), 5) == messages


def test_i1_the_length_in_the_settings_takes_precedence() -> None:
    facts = MessageFacts(style={"subject_length_p95": 10}, subject_max=30)
    assert postprocess.count_style_departures("fix the tabs", facts) == 0


def test_i1_a_subject_that_git_would_show_cut_comes_after_one_that_fits() -> None:
    """Whole, and also where the team's own squash commits are that long; unless the settings allow it."""
    long, short = "Teach the parser " + "to accept all kinds of tabs " * 3 + "at last", "Accept tabs"
    for style in ({}, {"subject_length_p95": 115}):
        assert select([long, short], MessageFacts(style=style), 2) == [short, long]
        assert select([long, short], MessageFacts(style=style, subject_max=120), 2) == [long, short]
    assert select([long], MessageFacts(), 2) == [long]


def test_i1_no_body_where_the_team_writes_none() -> None:
    messages = ["Fix tabs\n\nThey were refused."]
    assert select(messages, MessageFacts(style={"body_share": 0.01}), 1) == ["Fix tabs"]
    assert select(messages, MessageFacts(style={"body_share": 0.4}), 1) == messages


@pytest.mark.parametrize(
    "damage", [{"types": 3}, {"subject_length_p95": "x"}, {"ticket_pattern": "["}, {"tense": []}]
)
def test_i1_a_damaged_style_is_ignored(damage: dict[str, object]) -> None:
    facts = MessageFacts(style=damage, branch="main", ticket_pattern=str(damage.get("ticket_pattern", "")))
    assert select(["Fix tabs"], facts, 1) == ["Fix tabs"]


# --- I2: the repository's linters -------------------------------------------------------------------------

COMMITLINT = """\
# as a team writes it
extends:
  - '@commitlint/config-conventional'
rules:
  type-enum: [2, always, [feat, fix, docs]]
  scope-enum:
    - 2
    - always
    - - parser
      - 'ui'   # quoted
  header-max-length: [2, always, 50]
  body-max-line-length: [1, always, 10]
"""
GITLINT = """\
[general]
ignore=body-is-missing
contrib=contrib-title-conventional-commits

[title-max-length]
line-length=40

[contrib-title-conventional-commits]
types=fix,docs
"""


def load_rules(tmp_path: Path, name: str, text: str) -> commit_lint.LintRules:
    (tmp_path / name).write_text(text)
    return lint_config.load_lint_rules(tmp_path)


@pytest.mark.parametrize(
    ("message", "broken"),
    [
        ("fix(parser): accept tabs", []),
        ("fix: accept tabs", []),
        ("accept tabs", ["type-empty"]),
        ("chore: accept tabs", ["type-enum"]),
        ("fix(core): accept tabs", ["scope-enum"]),
        ("fix: Accept tabs", ["subject-case"]),
        ("fix: accept tabs.", ["subject-full-stop"]),
        ("fix: accept tabs " + "x" * 50, ["header-max-length"]),
    ],
)
def test_i2_commitlint(tmp_path: Path, message: str, broken: list[str]) -> None:
    assert (
        commit_lint.find_violations(message, load_rules(tmp_path, ".commitlintrc.yml", COMMITLINT)) == broken
    )


@pytest.mark.parametrize(
    ("name", "text"),
    [
        (".commitlintrc", '{"rules": {"type-enum": [2, "always", ["fix"]]}}'),
        (".commitlintrc.json", '{"rules": {"type-enum": [2, "always", ["fix"]]}}'),
        (".commitlintrc", "rules:\n  type-enum: [2, 'always', ['fix']]\n"),
        ("package.json", '{"commitlint": {"rules": {"type-enum": [2, "always", ["fix"]]}}}'),
    ],
)
def test_i2_every_file_that_commitlint_may_have(tmp_path: Path, name: str, text: str) -> None:
    assert load_rules(tmp_path, name, text).types == ("fix",)


@pytest.mark.parametrize(
    ("message", "broken"),
    [
        ("fix: tabs", []),
        ("feat: tabs", ["type-enum"]),
        ("fix: WIP tabs", ["words"]),
        ("fix: tabs!", ["subject-full-stop"]),
        ("fix: tabs\n\nshort", ["body-min-length"]),
    ],
)
def test_i2_gitlint(tmp_path: Path, message: str, broken: list[str]) -> None:
    assert commit_lint.find_violations(message, load_rules(tmp_path, ".gitlint", GITLINT)) == broken


def test_i2_commitizen(tmp_path: Path) -> None:
    rules = load_rules(tmp_path, "pyproject.toml", '[tool.commitizen]\nname = "cz_conventional_commits"\n')
    assert rules.type_required and "bump" in rules.types
    (tmp_path / "pyproject.toml").write_text(
        '[tool.commitizen.customize]\nschema_pattern = "^(fix|feat): "\n'
    )
    assert commit_lint.find_violations("other", lint_config.load_lint_rules(tmp_path)) == ["pattern"]
    (tmp_path / "pyproject.toml").write_text("[project]\nname = 'x'\n")
    assert lint_config.load_lint_rules(tmp_path) == commit_lint.LintRules()


@pytest.mark.parametrize("name", ["commitlint.config.js", ".commitlintrc.cjs", "commitlint.config.ts"])
def test_i2_a_configuration_that_is_a_program_is_not_run(tmp_path: Path, name: str) -> None:
    rules = load_rules(tmp_path, name, f"require('fs').writeFileSync('{tmp_path}/ran', '')")
    assert rules.unread == (name,) and not (tmp_path / "ran").exists()
    assert "not run" in next(lint_config.explain_unread_files(rules))


@pytest.mark.parametrize(
    "text",
    [
        "{",
        "[1, 2]",
        "rules: &x\n  a: b\n",
        "a:\n\tb: c\n",
        "- " * 500,
        "rules: 3\n",
        "x" * 300_000,
        "a: |\n  b\n",
    ],
)
@pytest.mark.parametrize(
    "name", [".commitlintrc", ".gitlint", ".commitlintrc.json", ".cz.toml", "package.json"]
)
def test_i2_a_file_that_cannot_be_read_is_named_and_ignored(tmp_path: Path, name: str, text: str) -> None:
    rules = load_rules(tmp_path, name, text if name != "package.json" else '"commitlint"' + text)
    assert rules.unread in ((name,), ())
    if rules.unread:
        assert commit_lint.find_violations("Fix tabs", rules) == []


def test_i2_small_violations_are_fixed_and_other_messages_left_out(tmp_path: Path) -> None:
    rules = load_rules(tmp_path, ".commitlintrc.yml", COMMITLINT)
    docs = "Mdocs/a.md +1 -1\n"
    assert select(["Explain tabs."], MessageFacts(docs, rules=rules), 1) == ["docs: explain tabs"]
    assert select(["Explain tabs.", "fix: Accept tabs."], MessageFacts(CHANGE, rules=rules), 2) == [
        "fix: accept tabs"
    ]


def test_i2_a_required_body_lists_the_files(tmp_path: Path) -> None:
    rules = load_rules(tmp_path, ".gitlint", "[title-max-length]\nline-length=50\n")
    [message] = select(["Accept tabs"], MessageFacts(CHANGE, rules=rules), 1)
    assert message == "Accept tabs\n\nFiles changed: gitpeft/parser.py." and not commit_lint.find_violations(
        message, rules
    )


def test_i2_long_lines_of_a_body_are_wrapped() -> None:
    rules = commit_lint.LintRules(body_line_max=40)
    [message] = select(["Fix tabs\n\n" + "word " * 30], MessageFacts(rules=rules), 1)
    assert max(map(len, message.split("\n"))) <= 40


# --- I3: the ticket of the branch -------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("branch", "pattern", "form", "expected"),
    [
        ("feature/ABC-12-tabs", r"[A-Z]+-\d+", "", "ABC-12: Fix tabs"),
        ("feature/ABC-12-tabs", r"[A-Z]+-\d+", "[{ticket}] {subject}", "[ABC-12] Fix tabs"),
        ("gh-45-tabs", r"gh-(\d+)", "{subject} (#{ticket})", "Fix tabs (#45)"),
        ("main", r"[A-Z]+-\d+", "", "Fix tabs"),
        ("", r"[A-Z]+-\d+", "", "Fix tabs"),
        ("feature/ABC-12", "", "", "Fix tabs"),
        ("x/a b;c", ".*", "", "Fix tabs"),
    ],
)
def test_i3_the_ticket_comes_from_the_branch(branch: str, pattern: str, form: str, expected: str) -> None:
    facts = MessageFacts(branch=branch, ticket_pattern=pattern, ticket_format=form)
    assert select(["Fix tabs"], facts, 1) == [expected]


@pytest.mark.parametrize(
    ("branch", "expected"),
    [
        ("feature/abc-12-tabs", "[ABC-12] Fix tabs"),
        ("OPS-3_tabs", "[OPS-3] Fix tabs"),
        ("dabc-12", "Fix tabs"),
        ("abc-12x", "[ABC-12] Fix tabs"),
        ("main", "Fix tabs"),
    ],
)
@pytest.mark.parametrize("generated", ["Fix tabs", "[ABC-7] Fix tabs", "ABC-7: Fix tabs", "ABC-7 - Fix tabs"])
def test_i3_a_learnt_pattern_and_format(repo: Repo, branch: str, expected: str, generated: str) -> None:
    """The ticket of an earlier commit, which a model may repeat, is replaced by that of the branch."""
    style = {"ticket_pattern": r"(?:ABC|OPS)-\d+", "ticket_format": "[{ticket}] {subject}"}
    facts = MessageFacts(
        branch=branch,
        ticket_pattern=style["ticket_pattern"],
        ticket_format=style["ticket_format"],
        any_case=True,
    )
    assert select([generated], facts, 1) == [expected]


@pytest.mark.parametrize(
    ("pattern", "form"),
    [
        (r"[\w-]+", "\x1b]0;owned\x07{subject} {ticket}"),
        (r"[\w-]+", "{subject}\n\nCo-authored-by: Mallory <m@example.org>\n{ticket}"),
        ("(a+)+", "{ticket}: {subject}"),
    ],
)
def test_f5_the_style_of_a_model_is_validated_like_a_setting(repo: Repo, pattern: str, form: str) -> None:
    """A model may come from anybody, and its style determines what goes into the message."""
    repo.commit("Start", a="a\n")
    repository = Repository.open(repo.path)
    with bundles.staging_folder(repository.state_dir) as folder:
        made = bundles.Manifest(
            "model", "2024-01-01T00:00:00Z", settings=tinymodel.fill(folder, tinymodel.plain_t5())
        )
        (folder / bundles.STYLE_FILE).write_text(
            json.dumps({"ticket_pattern": pattern, "ticket_format": form})
        )
        id_ = bundles.write_bundle(folder, made)
    bundles.activate_bundle(repository.state_dir, id_)
    facts = gather_facts(repository, Config(), "")
    assert (facts.ticket_pattern, facts.ticket_format) in [(pattern, TICKET_FORMAT), ("", form)]
    assert all(text.startswith(("Fix tabs", "main", "MAIN")) for text in select(["Fix tabs"], facts, 1))


def test_i3_a_ticket_that_is_already_there_is_not_added() -> None:
    facts = MessageFacts(branch="ABC-12", ticket_pattern=r"[A-Z]+-\d+")
    assert select(["Fix tabs for ABC-12"], facts, 1) == ["Fix tabs for ABC-12"]


def test_i3_the_ticket_goes_where_the_linter_allows_it(tmp_path: Path) -> None:
    rules = load_rules(tmp_path, ".commitlintrc.yml", COMMITLINT)
    facts = MessageFacts(branch="ABC-12", ticket_pattern=r"[A-Z]+-\d+", rules=rules)
    assert select(["fix: accept tabs"], facts, 1) == ["fix: accept tabs (ABC-12)"]


def test_i3_the_branch_of_a_repository_and_of_a_detached_head(repo: Repo) -> None:
    repo.commit("Start", a="a\n")
    repo.git("checkout", "-q", "-b", "ABC-7-x")
    repo.git("config", "gitpeft.ticketPattern", "[A-Z]+-[0-9]+")
    config = Config(ticket_pattern="[A-Z]+-[0-9]+")
    assert postprocess.gather_facts(Repository.open(repo.path), config, "").branch == "ABC-7-x"
    repo.git("checkout", "-q", "--detach")
    assert postprocess.gather_facts(Repository.open(repo.path), config, "").branch == ""


def test_alternatives_differ_in_more_than_case_and_a_full_stop() -> None:
    messages = ["Accept tabs in names", "accept tabs in names", "Accept tabs in names.", "Accept tabs"]
    assert select(messages, MessageFacts(), 3) == ["Accept tabs in names", "Accept tabs"]


def test_i5_the_same_input_gives_the_same_offer() -> None:
    messages = ["Fix tabs (#1)", "fix: Tabs", "Fix tabs", "Other"]
    facts = MessageFacts(CHANGE, style={"types": ["fix"]})
    assert len({tuple(select(messages, facts, 3)) for _ in range(5)}) == 1
    assert select(messages, facts, 9).count("Fix tabs") == 1


def test_f7_aliases_of_yaml_are_refused(tmp_path: Path) -> None:
    """A small file of aliases unfolds into an endless value, so it is left unread."""
    bomb = "a: &a [x, x]\n" + "".join(
        f"{name}: &{name} [*{before}, *{before}]\n" for before, name in pairwise("abcdefghijklmnop")
    )
    text = bomb + "rules:\n  type-enum: [2, always, *p]\n"
    assert load_rules(tmp_path, ".commitlintrc.yml", text).unread == (".commitlintrc.yml",)


@pytest.mark.parametrize(
    "text", ["a: [", "\tx: 1", "- a\nb: 1", "!!python/object/apply:os.system ['true']", "a: 1\n---\nb: 2"]
)
def test_f7_yaml_that_cannot_be_read_is_left_unread(tmp_path: Path, text: str) -> None:
    rules = load_rules(tmp_path, ".commitlintrc.yml", text)
    assert rules.unread == (".commitlintrc.yml",)


def test_yaml_is_read_as_yaml(tmp_path: Path) -> None:
    text = (
        "rules: {type-enum: [2, always, ['feat', \"fix\"]], header-max-length: [2, always, 50]}  # one line\n"
    )
    rules = load_rules(tmp_path, ".commitlintrc.yml", text)
    assert (rules.types, rules.header_max) == (("feat", "fix"), 50)
