"""Names as identity: people are who git's mailmap says, bots and assistants addresses, files bytes."""

import json
import sqlite3
from collections import Counter
from pathlib import Path

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from gitpeft.diff.patch import quote_path, show_path, unquote_path
from gitpeft.git.log import Commit
from gitpeft.git.repository import Repository
from gitpeft.git.streams import stream_commits
from gitpeft.history.filters import find_exclusion_reason, is_bot
from gitpeft.history.paths import mask_path
from gitpeft.history.store import History
from tests.support.commands import Call
from tests.support.gitrepo import Repo
from tests.support.rawhistory import AUTHORS, ENCODINGS, MESSAGES, PATHS, RawCommit, as_key, write_history

MAILMAP = """\
Ada L <ada@new.org>
Ada L <ada@new.org> <ada@old.org>
Ada L <ada@new.org> <ADA@home.net>
Ben <ben@x.org> Benny <shared@x.org>
"""


def _commit_as(repo: Repo, author: str, message: str, **files: str) -> str:
    repo.stage(**files)
    repo.git("commit", "-q", "--allow-empty", "-m", message, f"--author={author}")
    repo.tick()
    return repo.git("rev-parse", "HEAD")


def _people(repo: Repo) -> Counter[int]:
    """How many commits each stored author has."""
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository)
        stored = Counter(record.author for record in history.load_records(repository))
    return Counter(stored.values())


def _shortlog(repo: Repo) -> Counter[int]:
    lines = repo.git("shortlog", "-sne", "HEAD").split("\n")
    return Counter(int(line.split("\t")[0]) for line in lines)


@pytest.fixture
def team(repo: Repo) -> Repo:
    """Commits of two people under five names."""
    people = [
        "Ada <ada@old.org>",
        "Ada <ada@new.org>",
        "A <ada@home.net>",
        "Benny <shared@x.org>",
        "Ben <ben@x.org>",
    ]
    for number, who in enumerate(people):
        _commit_as(repo, who, f"Fix crash {number}", **{"core.py": f"x = {number}\n"})
    return repo


# --- people -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("where", ["top", "file", "blob"])
def test_names_as_identity_people_are_those_of_the_mailmap(team: Repo, where: str, tmp_path: Path) -> None:
    assert _people(team) == Counter({1: 5}) == _shortlog(team)
    if where == "top":
        team.write(".mailmap", MAILMAP)
    elif where == "file":
        (tmp_path / "people").write_text(MAILMAP)
        team.git("config", "mailmap.file", str(tmp_path / "people"))
    else:
        team.git("config", "mailmap.blob", team.git("hash-object", "-w", "--stdin", input=MAILMAP))
    assert _people(team) == Counter({3: 1, 2: 1}) == _shortlog(team)  # mined rows follow
    repository = Repository.open(team.path)
    with History.open(repository.state_dir) as history:
        assert history.mine_commits(repository).new == 0
        with history.context_before(repository, repository.resolve_head()) as context:
            assert context.count_developers(["core.py"]) == 2
            ada = history.hash_author(repository.mailmap.map_identity("Ada <ada@old.org>"))
            assert context.measure_experience(ada, team.clock)[0] == 3


def test_names_as_identity_a_mailmap_that_goes_is_forgotten(team: Repo) -> None:
    team.write(".mailmap", MAILMAP)
    assert _people(team) == Counter({3: 1, 2: 1})
    (team.path / ".mailmap").unlink()
    assert _people(team) == Counter({1: 5})


def test_names_as_identity_in_a_bare_repository_the_mailmap_is_that_of_head(
    team: Repo, tmp_path: Path
) -> None:
    _commit_as(team, "Ada <ada@old.org>", "Map", **{".mailmap": MAILMAP})
    bare = team.clone(tmp_path / "bare.git", "--bare")
    assert _people(bare) == Counter({4: 1, 2: 1}) == _shortlog(bare)


def test_names_as_identity_the_hook_follows_without_mining(team: Repo) -> None:
    _people(team)
    team.write(".mailmap", MAILMAP)
    repository = Repository.open(team.path)
    with (
        History.open(repository.state_dir) as history,
        history.context_before(repository, repository.resolve_head()) as context,
    ):
        assert context.count_developers(["core.py"]) == 2


def test_names_as_identity_the_previous_subject_is_of_the_person(
    team: Repo, monkeypatch: pytest.MonkeyPatch
) -> None:
    team.write(".mailmap", MAILMAP)
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Ada")
    monkeypatch.setenv("GIT_AUTHOR_EMAIL", "ada@old.org")
    repository = Repository.open(team.path)
    assert repository.find_previous_subject() == "Fix crash 2"  # made as ADA@home.net
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Benny")
    monkeypatch.setenv("GIT_AUTHOR_EMAIL", "shared@x.org")
    assert Repository.open(team.path).find_previous_subject() == "Fix crash 4"
    monkeypatch.setenv("GIT_AUTHOR_NAME", "Somebody else")
    assert (
        Repository.open(team.path).find_previous_subject() == ""
    )  # of the shared address only Benny is mapped
    sha = _commit_as(team, "Ada <ada@new.org>", "Next", **{"b.py": "1\n"})
    assert repository.find_subject_before(sha) == "Fix crash 2"


def test_names_as_identity_risk_counts_people_not_addresses(team: Repo, gitpeft: Call) -> None:
    team.write(".mailmap", MAILMAP)
    team.stage(**{"core.py": "y = 1\n"})
    found = json.loads(gitpeft("risk", "--staged", "--json", "--explain", "--repo", team.path).out)
    assert found["metrics"]["ndev"] == 2


def _check_people(
    tmp_path_factory: pytest.TempPathFactory,
    authors: list[bytes],
    encoding: bytes,
    message: bytes,
    data: st.DataObject,
) -> None:
    repo = Repo.create(tmp_path_factory.mktemp("people") / "repo")
    shas = write_history(repo, [RawCommit(author=one, encoding=encoding, message=message) for one in authors])
    mails = [one.rpartition(b"<")[2] for one in authors]
    aliases = [data.draw(st.sampled_from(mails)) for _ in range(2)]
    repo.write(".mailmap", b"".join(b"Someone <one@example.org> <" + one + b"\n" for one in aliases))
    options = ["-z", "--no-walk=unsorted", "--encoding=UTF-8", "--format=%H%x00%aN <%aE>%x00%s"]
    fields = repo.run("log", *options, *shas).stdout.split(b"\0")
    said = {
        sha.decode(): (author, subject) for sha, author, subject in zip(*[iter(fields)] * 3, strict=False)
    }
    repository = Repository.open(repo.path)
    found = {one.sha: one for one in stream_commits(repository, shas) if isinstance(one, Commit)}
    assert {sha: one.author.encode("utf-8", "surrogateescape") for sha, one in found.items()} == {
        sha: author for sha, (author, _) in said.items()
    }
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository)
        records = {one.sha: one for one in history.load_records(repository)}
        for sha, (author, _) in said.items():
            assert records[sha].author == history.hash_author(author.decode("utf-8", "surrogateescape"))


@given(st.lists(AUTHORS, min_size=1, max_size=6), ENCODINGS, MESSAGES, st.data())
@settings(max_examples=12)
def test_names_as_identity_any_author_and_message_are_read_as_git_prints_them(
    tmp_path_factory: pytest.TempPathFactory,
    authors: list[bytes],
    encoding: bytes,
    message: bytes,
    data: st.DataObject,
) -> None:
    _check_people(tmp_path_factory, authors, encoding, message, data)


@pytest.mark.slow
@given(st.lists(AUTHORS, min_size=1, max_size=6), ENCODINGS, MESSAGES, st.data())
@settings(max_examples=150)
def test_names_as_identity_any_author_and_message_are_read_as_git_prints_them_at_length(
    tmp_path_factory: pytest.TempPathFactory,
    authors: list[bytes],
    encoding: bytes,
    message: bytes,
    data: st.DataObject,
) -> None:
    _check_people(tmp_path_factory, authors, encoding, message, data)


@given(
    AUTHORS,
    st.sampled_from(["Someone <one@example.org> <{}>\n", "One <one@example.org> {} <x@y>\n", "# {}\n"]),
)
@settings(max_examples=12)
def test_names_as_identity_any_person_is_mapped_as_check_mailmap_does(
    tmp_path_factory: pytest.TempPathFactory, author: bytes, form: str
) -> None:
    repo = Repo.create(tmp_path_factory.mktemp("mailmap") / "repo")
    repo.commit("Start", a="1\n")
    before, _, after = form.partition("{}")
    repo.write(".mailmap", before.encode() + author.rpartition(b"<")[2].rstrip(b">") + after.encode())
    done = repo.run("check-mailmap", "--stdin", input=author + b"\n")
    said = done.stdout.removesuffix(b"\n") if done.returncode == 0 else author
    mapped = Repository.open(repo.path).mailmap.map_identity(author.decode("utf-8", "surrogateescape"))
    assert mapped.encode("utf-8", "surrogateescape") == said


# --- bots and assistants ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "identity",
    [
        "Travis Miller <travis@example.com>", "Kate Jenkins <kj@example.com>", "Ann Lee <ann@snyk.io>",
        "Jan Bot <jan.bot@example.nl>", "Claude Martin <claude@martin.fr>", "Renovate Rossi <rr@example.it>",
        "Zuul <zuul@example.org>", "Jenkins <jenkins@jenkins-family.org>", "Devin <devin@example.com>",
        "Mergify Fan <me@mergify.com>", "Cody Codex <cody@codecov.io>", "Weblate Smith <w@smith.de>",
        "Copilot Pilot <captain@airline.example>", "Abbot <abbot@abbey.org>", "Greta <actions@greta.org>",
    ],
)  # fmt: skip
def test_names_as_identity_people_are_no_bots(identity: str) -> None:
    assert not is_bot(identity)


@pytest.mark.parametrize(
    "identity",
    [
        "Anything <29139614+renovate[bot]@users.noreply.github.com>", "dependabot[bot] <support@github.com>",
        "snyk-bot <snyk-bot@snyk.io>", "Travis CI <builds@travis-ci.org>", "Claude <noreply@anthropic.com>",
        "Copilot <198982749+Copilot@users.noreply.github.com>", "Weblate <noreply@weblate.org>",
        "GitHub Action <action@github.com>", "x <project_12_bot_ab@noreply.gitlab.example>",
        "k8s <20407524+k8s-ci-robot@users.noreply.github.com>",
        "Devin <1+devin-ai-integration[bot]@users.noreply.github.com>",
    ],
)  # fmt: skip
def test_names_as_identity_bots_are_addresses(identity: str) -> None:
    assert is_bot(identity)


@pytest.mark.parametrize(
    ("trailer", "assistant"),
    [
        ("Co-authored-by: Claude Martin <cm@example.com>", False),
        ("Co-authored-by: Devin Gemini <dg@example.com>", False),
        ("Assisted-by: Claude Monet <monet@giverny.fr>", False),
        ("Co-authored-by: Claude <123+claude-m@users.noreply.github.com>", False),
        ("Co-authored-by: Claude <noreply@example.org>", True),
        ("Co-authored-by: Cody Cursor <cody@cursor-furniture.com>", False),
        ("the table is generated with Cursor pagination in mind", False),
        ("Co-Authored-By: Claude Opus 4 <noreply@anthropic.com>", True),
        ("Co-authored-by: Anybody <175728472+Copilot@users.noreply.github.com>\r", True),
        ("Co-authored-by: aider (gpt-4) <noreply@aider.chat>", True),
        ("Assisted-by: Claude:claude-3-opus coccinelle", True),
        ("🤖 Generated with [Claude Code](https://claude.ai/code)", True),
    ],
)
def test_names_as_identity_assistants_are_addresses(trailer: str, assistant: bool) -> None:
    reason = find_exclusion_reason("Add x", f"Why.\n\n{trailer}\n", " a.py +1 -0\n#a.py\n+x")
    assert (reason == "written by an assistant") is assistant


# --- files --------------------------------------------------------------------------------------------------

LOOKALIKES = [
    "a\u00a0b.py",
    "a\u3000b.py",
    "a?b.py",
    "a\u200cb.py",
    "a\x01b.py",
    "a\udcffb.py",
    "a\udcfeb.py",
]


def test_names_as_identity_files_that_look_alike_stay_apart(repo: Repo, gitpeft: Call) -> None:
    assert len(set(map(show_path, LOOKALIKES))) < len(LOOKALIKES)
    repo.commit("Add", **dict.fromkeys(LOOKALIKES, "x\n"))
    for number in range(3):
        repo.commit(f"Fix crash {number}", **{LOOKALIKES[0]: f"{number}\n"})
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository)
        with history.context_before(repository, repository.resolve_head()) as context:
            found = {path: context.count_changes([path]) for path in LOOKALIKES}
    said = {
        path: len(repo.git("log", "--format=%H", "--", f":(literal){path}").split("\n"))
        for path in LOOKALIKES
    }
    assert found == said == {path: 4 if path == LOOKALIKES[0] else 1 for path in LOOKALIKES}
    repo.stage(**{LOOKALIKES[1]: "y\n"})
    shown = json.loads(gitpeft("risk", "--staged", "--json", "--explain", "--repo", repo.path).out)
    assert shown["files"] == [LOOKALIKES[1]] and shown["metrics"]["nuc"] == 1


def test_names_as_identity_histories_of_earlier_versions_are_mined_again(repo: Repo) -> None:
    """Version 4 stored changes as plain text, and files under the names that a terminal shows."""
    for number, path in enumerate([*LOOKALIKES[:2], LOOKALIKES[0]]):
        repo.commit(f"Change {number}", **{path: f"{number}\n"})
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository)
    with sqlite3.connect(repository.state_dir / "history.db") as db:
        db.execute("UPDATE record SET change = ' a?b.py +1 -0'")
        db.execute("UPDATE touch SET path = 'a?b.py'")
        db.execute("PRAGMA user_version = 4001")
    db.close()
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository)
        with history.context_before(repository, repository.resolve_head()) as context:
            assert [context.count_changes([path]) for path in (*LOOKALIKES[:2], "a?b.py")] == [2, 1, 0]


def test_names_as_identity_attributes_are_looked_up_by_bytes(repo: Repo) -> None:
    repo.write(
        ".gitattributes", "a\u00a0b.py linguist-generated\n".encode() + b"a\xffb.py linguist-generated\n"
    )
    repo.commit(
        "Add",
        **dict.fromkeys([".gitattributes", *LOOKALIKES], "x\n")
        | {".gitattributes": (repo.path / ".gitattributes").read_bytes()},
    )
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository)
        [record] = history.load_records(repository)
    generated = {one.path for one in record.paths if one.kind == "generated"}
    assert generated == {"a\u00a0b.py", "a\udcffb.py"}


def test_names_as_identity_paths_with_secrets_stay_apart_and_secret(repo: Repo) -> None:
    keys = [f"AKIA{letter * 16}" for letter in "BC"]
    for key in keys:
        repo.commit("Add", **{f"{key}.txt": "x\n"})
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository)
        with history.context_before(repository, repository.resolve_head()) as context:
            assert [context.count_changes([mask_path(f"{key}.txt")]) for key in keys] == [1, 1]
    assert not any(key.encode() in (repository.state_dir / "history.db").read_bytes() for key in keys)


def test_names_as_identity_sarif_names_the_bytes_of_a_file() -> None:
    from gitpeft.risk import formats
    from gitpeft.risk.assessor import RiskReport

    report = RiskReport("a" * 40, flagged=True, percentile=99.0, files=("d/a\u00a0\udcff\n.py",))
    result = json.loads(formats.format_sarif([report]))["runs"][0]["results"][0]
    assert result["locations"][0]["physicalLocation"]["artifactLocation"]["uri"] == "d/a%C2%A0%FF%0A.py"


@given(PATHS | st.binary(min_size=1, max_size=20).map(lambda raw: raw.replace(b"\0", b"0")))
@settings(max_examples=200)
def test_names_as_identity_a_quoted_path_is_one_line_and_comes_back(path: bytes) -> None:
    quoted = quote_path(as_key(path))
    assert unquote_path(quoted) == as_key(path)
    assert not set(quoted) & set("\n\t\r\0") and quoted.encode()  # valid Unicode
    assert show_path(as_key(path)).isprintable()


@given(st.lists(PATHS, min_size=2, max_size=5, unique=True))
@settings(max_examples=12)
def test_names_as_identity_any_file_has_the_history_that_git_gives_it(
    tmp_path_factory: pytest.TempPathFactory, paths: list[bytes]
) -> None:
    kept = [
        path
        for path in paths
        if not any(
            (one + b"/").startswith(path + b"/") or (path + b"/").startswith(one + b"/")
            for one in paths
            if one != path
        )
    ]
    repo = Repo.create(tmp_path_factory.mktemp("files") / "repo")
    steps = [
        RawCommit(files={path: b"%d %s\n" % (turn, path) for path in kept[: turn + 1]})
        for turn in range(max(1, len(kept)))
    ]
    write_history(repo, steps)
    repository = Repository.open(repo.path)
    with History.open(repository.state_dir) as history:
        history.mine_commits(repository)
        with history.context_before(repository, repository.resolve_head()) as context:
            for path in kept:
                name = as_key(path)
                log = repo.git("log", "--format=%H", "--", f":(literal){name}").split()
                assert context.count_changes([name]) == len(log)
