"""How a team begins its messages: strictly with a prefix, or not."""

import pytest

from gitpeft.suggest.team_wording import ExpectedPrefix, TeamWording, find_opening


@pytest.mark.parametrize(
    ("subject", "opening"),
    [
        ("feat(api): add x", "feat("),
        ("fix: add x", "fix:"),
        ("fix!: add x", "fix!:"),
        ("feat(api)!: add x", "feat("),
        ("[docs] add x", "[docs]"),
        ("[docs]: add x", "[docs]:"),
        ("[docs][api] add x", ""),
        ("US1230: add x", ""),
        ("net/http: add x", "net/http:"),
        ("Add x: y", ""),
        ("http2: add x", "http2:"),
        ("JIRA-12: add x", ""),
        ("[JIRA-12] add x", ""),
        ("12: add x", ""),
        ("call f(x): y", ""),
        ("feat(api) add x", ""),
        ("v1.2.3", ""),
    ],
)
def test_the_opening_of_a_subject(subject: str, opening: str) -> None:
    assert find_opening(subject) == opening


STRICT = ["fix: a", "fix: b", "feat(x): c", "feat(y): d", "docs: e"] * 12


def test_a_strict_team_has_openings_the_most_frequent_first() -> None:
    assert TeamWording(STRICT).openings == ("fix:", "feat(", "docs:")
    assert TeamWording([*STRICT, "Release 1.2", "chore: once"]).openings == ("fix:", "feat(", "docs:")


def test_the_prefixes_of_a_strict_team() -> None:
    assert TeamWording(STRICT).strict_prefixes == ("fix: ", "feat(x): ", "docs: ", "feat(y): ")
    scopes = [f"feat({a}{b}): c" for a in "abcdefghij" for b in "abcdefg"] * 2
    many = TeamWording([*scopes, *["fix: a"] * 2, *STRICT[-60:]]).strict_prefixes
    assert len(many) == 60 and {"fix: ", "docs: "} <= set(many[:3]), (
        "no opening is left out for another's scopes"
    )
    assert TeamWording(STRICT[:49]).strict_prefixes == ()
    team = TeamWording(STRICT)
    assert team.find_strict_prefix("feat(z): new") == "feat(z): "
    assert team.find_strict_prefix("feat(APP-12): new") == team.find_strict_prefix("New") == ""


def test_a_prefix_is_expected_where_the_team_wrote_it_for_such_files() -> None:
    """A fifth of all commits is of tests: so would be 4.8 of the 24 with `fix:` by chance, but 12 are."""
    kinds = ["tests" if subject == "fix: a" else "code" for subject in STRICT]
    fix, feat, docs, other = TeamWording(STRICT, kinds).expect_prefixes("tests")
    assert [(one.text, one.frequency) for one in (fix, feat, docs)] == [
        ("fix: ", 24), ("feat(x): ", 12), ("docs: ", 12),
    ]  # fmt: skip
    lifts = [(12 + 1) / (4.8 + 1), 1 / (4.8 + 1), 1 / (2.4 + 1)]
    assert [one.lift for one in (fix, feat, docs)] == pytest.approx(lifts)
    assert other == ExpectedPrefix("feat(y): ", 12, feat.lift), "one lift for all scopes"


def test_a_breaking_change_and_a_number_are_no_other_messages() -> None:
    team = [*STRICT, *["feat!: e", "fix(APP-12): f", "fix(app): g"] * 2]
    lifts = {one.text: one.lift for one in TeamWording(team, ["code"] * len(team)).expect_prefixes("code")}
    assert lifts == {"feat!: ": 0, "fix(APP-12): ": 0, "fix(app): ": 1} | dict.fromkeys(
        TeamWording(STRICT).strict_prefixes, 1
    )


def test_kinds_that_were_never_seen_or_are_unknown_lift_nothing() -> None:
    plain = TeamWording(STRICT).expect_prefixes("tests")
    assert [one.text for one in plain] == list(TeamWording(STRICT).strict_prefixes)
    unseen = TeamWording(STRICT, ["code"] * 60).expect_prefixes("tests")
    unknown = TeamWording(STRICT, [""] * 60).expect_prefixes("")
    assert {one.lift for one in (*plain, *unseen, *unknown)} == {1.0}
    half = TeamWording(STRICT, ["" if subject != "docs: e" else "docs" for subject in STRICT])
    assert {one.lift for one in half.expect_prefixes("docs")} == {1.0}, "of those that are known all are such"
    assert TeamWording(["Add it"] * 60, ["docs"] * 60).expect_prefixes("docs") == []


@pytest.mark.parametrize(
    ("subject", "written"),
    [
        ("fix: a", "feat(x): a"),
        ("docs: Fix: a", "feat(x): Fix: a"),
        ("feat(y): a", "feat(x): a"),
        ("feat(new): a", "feat(new): a"),
        ("fix(new): a", "fix(new): a"),
        ("fix!: a", "fix!: a"),
        ("Add it", "Add it"),
        ("chore: a", "chore: a"),
    ],
)
def test_a_prefix_in_place_of_another(subject: str, written: str) -> None:
    """No `fix(` and no `chore:` is among the team's openings."""
    assert TeamWording(STRICT).replace_prefix(subject, "feat(x): ") == written


def test_a_new_scope_goes_with_its_type() -> None:
    assert TeamWording(STRICT).replace_prefix("feat(new): a", "docs: ") == "docs: a"


def test_who_begins_freely_has_none() -> None:
    assert TeamWording(STRICT[:49]).openings == (), "too few to tell"
    assert TeamWording([*STRICT, *["Add f"] * 6]).openings == (), "more than a tenth without"
    assert TeamWording([f"part{i}: change" for i in range(60)]).openings == (), "a new word each time"
    assert TeamWording([*["Add f"] * 400, *STRICT]).openings, "only the newest count"
    tickets = [f"APP-{i // 3}: change {i}" for i in range(90)]
    assert TeamWording(tickets).openings == (), "the next commit is another ticket's"


@pytest.mark.parametrize(
    ("subject", "written"),
    [
        ("Add a cache", "fix: add a cache"),
        ("HTTP cache", "fix: HTTP cache"),
        ("GitHub cache", "fix: GitHub cache"),
        ("A cache", "fix: a cache"),
        ("X", "fix: x"),
        ("", "fix: "),
    ],
)
def test_a_prefix_before_a_subject(subject: str, written: str) -> None:
    assert TeamWording(STRICT).add_prefix(subject, "fix: ") == written


def test_a_team_with_capitals_keeps_them() -> None:
    assert TeamWording(["fix: Add it"] * 60).add_prefix("Add a cache", "fix: ") == "fix: Add a cache"
