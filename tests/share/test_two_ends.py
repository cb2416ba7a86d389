"""Remotes with two ends: read at one address and written at others; what is remembered of them; push options.

The oracle is git: which refs each repository really has.
"""

import json
import shutil
from pathlib import Path

import pytest

from gitpeft.errors import GitpeftError
from gitpeft.share import memory, publish
from gitpeft.share.address import hide_credentials
from gitpeft.share.publish import TrustTerms
from tests.support import tinymodel
from tests.support.commands import Call
from tests.support.gitrepo import Repo
from tests.support.hooking import script
from tests.support.sharing import ANYONE, active, member, opened, remote, state

DAY = "2024-06-{:02}T00:00:00Z"
LATEST = "refs/gitpeft/models/main/latest"


def refs(repo: Repo) -> dict[str, str]:
    lines = repo.git("for-each-ref", "--format=%(refname) %(objectname)").split("\n")
    return dict(line.split() for line in lines if line)


@pytest.fixture
def bare(tmp_path: Path) -> Repo:
    return remote(tmp_path / "read.git")


@pytest.fixture
def other(bare: Repo, tmp_path: Path) -> Repo:
    """The second end: what a push goes to."""
    shutil.copytree(bare.path, tmp_path / "written.git")
    return Repo(tmp_path / "written.git")


@pytest.fixture
def ada(bare: Repo, tmp_path: Path) -> Repo:
    return member(bare, tmp_path / "ada", model=DAY.format(1))


def models(repo: Repo) -> set[str]:
    """The refs of a repository that gitpeft made, without the dated ones."""
    return {
        ref for ref in refs(repo) if "gitpeft" in ref and not ref.startswith("refs/gitpeft/models/main/2")
    }


def new_model(repo: Repo, day: int) -> str:
    return tinymodel.bundle(state(repo), created=DAY.format(day))


# --- two ends ---------------------------------------------------------------------------------------------


def test_a_model_goes_where_git_pushes_and_that_is_said(bare: Repo, other: Repo, ada: Repo) -> None:
    ada.git("remote", "set-url", "--push", "origin", str(other.path))
    done = publish.publish_model(opened(ada))
    assert models(other) == {LATEST} and models(bare) == set(), "no branch, no probe is left"
    [note] = done.notes
    assert str(bare.path) in note and str(other.path) in note and "does not have the model yet" in note
    assert publish.publish_model(opened(ada)).notes == ["already published"]
    with pytest.raises(GitpeftError, match="nothing is published") as caught:
        publish.pull_model(opened(ada), terms=ANYONE)
    assert f"written at {other.path}" in caught.value.hint


def test_once_the_one_end_mirrors_the_other_nothing_is_left_to_say(
    bare: Repo, other: Repo, ada: Repo
) -> None:
    ada.git("remote", "set-url", "--push", "origin", str(other.path))
    publish.publish_model(opened(ada))
    bare.git("fetch", "-q", str(other.path), "+refs/*:refs/*")
    assert publish.pull_model(opened(ada), terms=ANYONE).bundle == active(ada)
    new = new_model(ada, 3)
    assert publish.publish_model(opened(ada)).bundle == new, "what was seen at one end is seen at the other"


def test_pushinsteadof_is_an_end_too(bare: Repo, other: Repo, ada: Repo) -> None:
    ada.git("config", f"url.{other.path}.pushInsteadOf", bare.path.as_uri())
    publish.publish_model(opened(ada))
    assert models(other) == {LATEST} and models(bare) == set()


def test_two_names_of_one_place_are_one(bare: Repo, ada: Repo) -> None:
    ada.git("remote", "set-url", "--push", "origin", str(bare.path))
    assert publish.publish_model(opened(ada)).notes == []
    assert models(bare) == {LATEST}


def test_every_push_address_gets_the_model(bare: Repo, other: Repo, ada: Repo) -> None:
    for path in (bare.path, other.path):
        ada.git("remote", "set-url", "--add", "--push", "origin", str(path))
    assert publish.publish_model(opened(ada)).notes == []
    assert refs(bare) == refs(other) and models(bare) == {LATEST}
    other.git("update-ref", "-d", LATEST)
    new_model(ada, 4)
    with pytest.raises(GitpeftError, match="hold different models"):
        publish.publish_model(opened(ada))


def test_one_push_address_that_refuses_is_named_and_so_is_the_one_that_took_it(
    bare: Repo, other: Repo, ada: Repo
) -> None:
    for path in (bare.path, other.path):
        ada.git("remote", "set-url", "--add", "--push", "origin", str(path))
    publish.publish_model(opened(ada))
    script(other.path / "hooks/pre-receive", "#!/bin/sh\nexit 1\n")
    new_model(ada, 5)
    with pytest.raises(GitpeftError, match="refused the model") as caught:
        publish.publish_model(opened(ada))
    assert str(other.path) in caught.value.message and f"{bare.path} took it" in caught.value.hint


def test_somebody_elses_model_at_the_written_end_is_not_replaced(
    bare: Repo, other: Repo, ada: Repo, tmp_path: Path
) -> None:
    cho = member(other, tmp_path / "cho", model=DAY.format(2))
    publish.publish_model(opened(cho))
    ada.git("remote", "set-url", "--push", "origin", str(other.path))
    with pytest.raises(GitpeftError, match="somebody else published"):
        publish.publish_model(opened(ada))
    assert refs(other)[LATEST] == refs(cho)[LATEST]


def test_credentials_in_an_address_are_not_shown() -> None:
    assert hide_credentials("https://user:pass@host/x.git") == "https://host/x.git"
    assert hide_credentials("ssh://git@host:22/x") == "ssh://host:22/x"
    assert hide_credentials("git@host:x") == "git@host:x"


# --- what is remembered -----------------------------------------------------------------------------------


def publish_old_and_new(ada: Repo, ben: Repo, bare: Repo) -> str:
    """Ben pulls a new model; then an old one is put back on the server. The commit of the old one."""
    publish.publish_model(opened(ada))
    old = refs(bare)[LATEST]
    ada.tick(86400)
    new_model(ada, 2)
    publish.publish_model(opened(ada))
    newer = bare.git(
        "commit-tree", f"{LATEST}^{{tree}}", "-m", "later", env={"GIT_COMMITTER_DATE": "2040-01-01T00:00Z"}
    )
    bare.git("update-ref", LATEST, newer)
    publish.pull_model(opened(ben), terms=ANYONE)
    bare.git("update-ref", LATEST, old)
    return old


@pytest.mark.parametrize("how", ["pruned refs", "a fresh clone", "a new name", "a new address"])
def test_an_older_model_is_noticed_whatever_became_of_the_refs(
    bare: Repo, ada: Repo, tmp_path: Path, how: str
) -> None:
    ben = member(bare, tmp_path / "ben")
    publish_old_and_new(ada, ben, bare)
    name = "origin"
    if how == "a fresh clone":
        fresh = member(bare, tmp_path / "fresh")
        shutil.copytree(state(ben), state(fresh))
        ben = fresh
    for ref in refs(ben):
        if ref.startswith("refs/gitpeft"):
            ben.git("update-ref", "-d", ref)
    ben.git("gc", "-q", "--prune=now")
    if how == "a new name":
        name = "upstream"
        ben.git("remote", "rename", "origin", name)
    if how == "a new address":
        ben.git("remote", "set-url", "origin", str(bare.path) + "/")
    with pytest.raises(GitpeftError, match="older than the one pulled"):
        publish.pull_model(opened(ben), name, terms=ANYONE)
    assert publish.pull_model(opened(ben), name, terms=TrustTerms("older", lambda _: True)).active


def test_a_mirror_that_prunes_remembers(bare: Repo, ada: Repo, tmp_path: Path) -> None:
    mirror = member(bare, tmp_path / "mirror", "--mirror")
    publish_old_and_new(ada, mirror, bare)
    mirror.git("remote", "update", "--prune")
    assert not [ref for ref in refs(mirror) if "taken" in ref], "git took the ref away"
    with pytest.raises(GitpeftError, match="older than the one pulled"):
        publish.pull_model(opened(mirror), terms=ANYONE)


@pytest.mark.parametrize("branch", [False, True])
def test_who_published_may_publish_again_after_a_prune(bare: Repo, ada: Repo, branch: bool) -> None:
    if branch:
        bare.git("config", "transfer.hideRefs", "refs/gitpeft")
    publish.publish_model(opened(ada))
    for ref in refs(ada):
        if ref.startswith("refs/gitpeft"):
            ada.git("update-ref", "-d", ref)
    ada.git("reflog", "expire", "--expire=now", "--all")
    ada.git("gc", "-q", "--prune=now")
    new = new_model(ada, 6)
    assert publish.publish_model(opened(ada)).bundle == new


def test_a_mirror_has_not_seen_what_it_copied_unasked(bare: Repo, ada: Repo, tmp_path: Path) -> None:
    mirror = member(bare, tmp_path / "mirror", "--mirror", model=DAY.format(2))
    publish.publish_model(opened(mirror))
    publish.pull_model(opened(ada), terms=ANYONE)
    new_model(ada, 7)
    publish.publish_model(opened(ada))
    mirror.git("remote", "update", "--prune")
    new_model(mirror, 8)
    with pytest.raises(GitpeftError, match="somebody else published"):
        publish.publish_model(opened(mirror))


def test_a_damaged_memory_is_said(bare: Repo, ada: Repo) -> None:
    publish.publish_model(opened(ada))
    (state(ada) / memory.MEMORY_FILE).write_text("{")
    with pytest.raises(GitpeftError, match=r"channels\.json cannot be read"):
        publish.pull_model(opened(ada), terms=ANYONE)


def test_the_memory_holds_no_address(bare: Repo, ada: Repo) -> None:
    publish.publish_model(opened(ada))
    text = (state(ada) / memory.MEMORY_FILE).read_text()
    assert str(bare.path) not in text and json.loads(text)["channels"][0]["remote"] == "origin"


# --- identity and push options ----------------------------------------------------------------------------


@pytest.mark.parametrize("to", ["remote", "file"])
def test_without_an_identity_it_says_what_to_do_and_leaves_nothing(
    bare: Repo, ada: Repo, to: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("GIT_AUTHOR_NAME", "GIT_AUTHOR_EMAIL", "GIT_COMMITTER_NAME", "GIT_COMMITTER_EMAIL", "EMAIL"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("GIT_CONFIG_GLOBAL", "/dev/null")
    ada.git("config", "user.useConfigOnly", "true")
    before = refs(ada)
    with pytest.raises(GitpeftError, match="git does not know who publishes") as caught:
        if to == "remote":
            publish.publish_model(opened(ada))
        else:
            publish.publish_model_to_path(opened(ada), tmp_path / "m.bundle")
    assert 'git config user.name "Your Name"' in caught.value.hint
    assert models(bare) == set() and refs(ada) == before
    ada.git("config", "user.name", "Ada")
    ada.git("config", "user.email", "ada@example.org")
    assert publish.publish_model(opened(ada)).commit


OPTIONS_HOOK = (
    '#!/bin/sh\necho "$GIT_PUSH_OPTION_COUNT $GIT_PUSH_OPTION_0 $GIT_PUSH_OPTION_1" >>"$GIT_DIR/said"\n'
)


def test_push_options_reach_the_server(
    bare: Repo, ada: Repo, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    bare.git("config", "receive.advertisePushOptions", "true")
    script(bare.path / "hooks/post-receive", OPTIONS_HOOK)
    ada.git("config", "push.pushOption", "ci.skip")
    publish.publish_model(opened(ada))
    assert set((bare.path / "said").read_text().splitlines()) == {"1 ci.skip "}, "as `git push` sends them"
    (bare.path / "said").unlink()
    new_model(ada, 9)
    monkeypatch.chdir(ada.path)
    assert gitpeft("publish", "-o", "a=b", "--push-option", "c").code == 0
    assert set((bare.path / "said").read_text().splitlines()) == {"2 a=b c"}, "in place of the settings"


def test_a_server_that_takes_no_push_options_gets_the_model_all_the_same(bare: Repo, ada: Repo) -> None:
    ada.git("config", "push.pushOption", "ci.skip")
    assert ada.run("push", "origin", "HEAD:refs/heads/x").returncode, "git itself gives up"
    done = publish.publish_model(opened(ada))
    assert models(bare) == {LATEST}
    assert done.notes == ["origin takes no push options: those of push.pushOption were left out"]
    new_model(ada, 9)
    with pytest.raises(GitpeftError, match="takes no push options"):
        publish.publish_model(opened(ada), push_options=["x"])
