"""Publishing and pulling between real repositories: who wins, what is refused, what odd clones make of it."""

import json
import os
import re
import resource
import subprocess
import sys
from collections.abc import Callable
from contextlib import ExitStack
from pathlib import Path

import pytest

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle import registry
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.share import delta, package, publish
from gitpeft.share import remote as share_remote
from gitpeft.share.publish import TrustTerms
from tests.support import tinymodel
from tests.support.commands import Call
from tests.support.gitrepo import EPOCH, HOUR, Repo
from tests.support.hooking import committing_meanwhile
from tests.support.killing import asked_meanwhile, every_kill
from tests.support.sharing import (
    ANYONE,
    active,
    daemon,
    key,
    member,
    opened,
    remote,
    signs,
    sshd,
    state,
    vouch,
)
from tests.support.sources import CHECKOUT

DAY = "2024-06-{:02}T00:00:00Z"
LATEST = "refs/gitpeft/models/main/latest"


@pytest.fixture
def bare(tmp_path: Path) -> Repo:
    return remote(tmp_path / "served" / "team.git")


@pytest.fixture
def ada(bare: Repo, tmp_path: Path) -> Repo:
    """Somebody with a model."""
    return member(bare, tmp_path / "ada", model=DAY.format(1))


@pytest.fixture
def ben(bare: Repo, tmp_path: Path) -> Repo:
    """Somebody without one."""
    return member(bare, tmp_path / "ben")


def refs(repo: Repo) -> dict[str, str]:
    lines = repo.git("for-each-ref", "--format=%(refname) %(objectname)").splitlines()
    return dict(line.split() for line in lines)


# --- there and back -----------------------------------------------------------------------------------------


def test_a_model_reaches_another_clone(bare: Repo, ada: Repo, ben: Repo) -> None:
    done = publish.publish_model(opened(ada))
    assert done.bundle == active(ada) and done.place == LATEST and not done.signed and done.notes == []
    served = refs(bare)
    [dated] = [ref for ref in served if ref.startswith("refs/gitpeft/models/main/2")]
    assert served[LATEST] == served[dated] == done.commit and dated.endswith(done.bundle[:12])
    assert len(served) == 3, "the probe is gone"
    assert (
        bare.git("log", "--format=%P %s", LATEST).strip()
        == f"chore: publish gitpeft model {done.bundle[:12]}"
    )
    ben.git("fetch", "-q")
    assert active(ben) == "" and refs(ben).keys() == {
        "refs/heads/main",
        "refs/remotes/origin/HEAD",
        "refs/remotes/origin/main",
    }
    pulled = publish.pull_model(opened(ben), terms=ANYONE)
    assert (pulled.bundle, pulled.active, pulled.signer.key) == (done.bundle, True, "unsigned")
    assert active(ben) == done.bundle
    assert "refs/gitpeft/remotes/origin/models/main/latest" in refs(ben) and LATEST not in refs(ben)
    assert ben.git("status", "--porcelain") == "" and not list(state(ben).glob(".pull-*"))


def test_what_is_published_says_what_it_is(bare: Repo, ada: Repo) -> None:
    done = publish.publish_model(opened(ada))
    names = bare.git("ls-tree", "-r", "--name-only", LATEST).split()
    assert {"share.json", "manifest.json", "card.md", "style.json", "index/rows.bin"} <= set(names)
    listed = json.loads(bare.git("show", f"{LATEST}:share.json"))
    for name, entry in listed["files"].items():
        raw = bare.run("show", f"{LATEST}:{name}").stdout
        assert entry == {"size": len(raw), "sha256": __import__("hashlib").sha256(raw).hexdigest()}
    assert done.bundle[:12] in bare.git("show", f"{LATEST}:card.md")


def test_a_model_with_graphs_travels_by_what_cannot_be_made(
    bare: Repo, ada: Repo, ben: Repo, tmp_path: Path
) -> None:
    """All of it: a tuned model published without its graphs answers at the receiver, bit for bit the same."""
    from dataclasses import replace

    from gitpeft.learn.models import methods
    from tests.support.tunedbundle import bundled, tuned

    method = replace(methods.make_method("lora"), rank=2, alpha=4)
    lora = tuned(tmp_path / "tuned", method, tinymodel.pointer_t5())
    settings = {"start": 0, "end": 1, "banned": [0]}
    made = bundled(state(ada), lora, settings=settings, created=DAY.format(5))
    bundles.activate_bundle(state(ada), made.id)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delta, "find_embedded_base", lambda _: lora.base)
        publish.publish_model(opened(ada))
        names = bare.git("ls-tree", "-r", "--name-only", LATEST).split()
        assert "adapter/adapter_model.safetensors" in names and "encoder.onnx" not in names
        assert publish.pull_model(opened(ben), terms=ANYONE).bundle == made.id
    kept = bundles.open_bundle(state(ben) / "models" / made.id)
    bundles.verify_bundle(kept)
    other = tuned(tmp_path / "other", method, tinymodel.pointer_t5(seed=4))
    cho = member(bare, tmp_path / "cho", model=DAY.format(2))
    before = active(cho)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(delta, "find_embedded_base", lambda _: other.base)
        with pytest.raises(GitpeftError, match="another version of the base mini than yours"):
            publish.pull_model(opened(cho), terms=ANYONE)
    assert active(cho) == before


def test_publishing_twice_is_publishing_once(bare: Repo, ada: Repo) -> None:
    first = publish.publish_model(opened(ada))
    again = publish.publish_model(opened(ada))
    assert again.commit == first.commit and again.notes == ["already published"] and again.size == 0


def test_only_the_newest_dated_versions_stay(bare: Repo, ada: Repo) -> None:
    for day in range(2, 7):
        tinymodel.bundle(state(ada), created=DAY.format(day))
        publish.publish_model(opened(ada), keep=3)
    dated = [ref for ref in refs(bare) if "/latest" not in ref and ref.startswith("refs/gitpeft/models")]
    assert len(dated) == 3 and refs(bare)[LATEST] in {refs(bare)[ref] for ref in dated}


def test_channels_do_not_meet(bare: Repo, ada: Repo, ben: Repo) -> None:
    publish.publish_model(opened(ada), channel="try.1")
    with pytest.raises(GitpeftError, match="nothing is published on origin in the channel main"):
        publish.pull_model(opened(ben), terms=ANYONE)
    assert publish.pull_model(opened(ben), channel="try.1", terms=ANYONE).bundle == active(ada)
    for name in ("", "../x", "a b", "-x", "x.lock", "a..b", "x" * 60, "latest", "a/b"):
        with pytest.raises(GitpeftError, match="invalid channel name"):
            publish.publish_model(opened(ada), channel=name)


def test_there_is_something_to_publish_and_somewhere(ada: Repo, ben: Repo, repo: Repo) -> None:
    with pytest.raises(GitpeftError, match="no model yet"):
        publish.publish_model(opened(ben))
    with pytest.raises(GitpeftError, match="unknown remote nowhere"):
        publish.publish_model(opened(ada), "nowhere")
    ada.git("remote", "set-url", "origin", "file:///nowhere/at/all")
    for act in (publish.publish_model, publish.pull_model):
        with pytest.raises(GitpeftError, match="origin cannot be reached"):
            act(opened(ada))


def test_a_folder_of_this_machine_does_not_travel(ada: Repo) -> None:
    before = active(ada)
    tinymodel.bundle(state(ada), created=DAY.format(3), base="/home/ada/bases/t5")
    with pytest.raises(GitpeftError, match="contains a path of this machine"):
        publish.publish_model(opened(ada))
    assert (
        registry.roll_back_model(state(ada)).id == before
        and publish.publish_model(opened(ada)).bundle == before
    )


# --- compare and swap ---------------------------------------------------------------------------------------


def test_who_has_not_seen_the_latest_does_not_replace_it(bare: Repo, ada: Repo, tmp_path: Path) -> None:
    publish.publish_model(opened(ada))
    cho = member(bare, tmp_path / "cho", model=DAY.format(2))
    mine = active(cho)
    with pytest.raises(GitpeftError, match="somebody else published") as refused:
        publish.publish_model(opened(cho))
    assert "compare" in refused.value.hint and "force" not in refused.value.hint
    pulled = publish.pull_model(opened(cho), terms=ANYONE, activate=False)
    assert not pulled.active and active(cho) == mine
    assert {one.id for one in registry.list_model_versions(state(cho))} == {mine, pulled.bundle}
    assert publish.publish_model(opened(cho)).bundle == mine


def test_a_stale_push_is_refused_by_the_remote_itself(
    bare: Repo, ada: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The other one is faster between the look and the push: the remote's swap decides."""
    cho = member(bare, tmp_path / "cho", model=DAY.format(2))
    push = share_remote.push_model

    def late(*args: object) -> None:
        monkeypatch.setattr(share_remote, "push_model", push)
        publish.publish_model(opened(ada))
        push(*args)  # type: ignore[arg-type]

    monkeypatch.setattr(share_remote, "push_model", late)
    with pytest.raises(GitpeftError, match="somebody else published"):
        publish.publish_model(opened(cho))
    assert json.loads(bare.git("cat-file", "blob", f"{LATEST}:share.json"))["bundle"] == active(ada)
    assert len(refs(bare)) == 3, "nothing of the loser is left"


PUBLISH = """
import sys
from pathlib import Path
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.share import publish
repo = Repository.open(Path(sys.argv[1]))
print("ready", flush=True)
sys.stdin.readline()
try:
    print("won", publish.publish_model(repo).bundle)
except GitpeftError as error:
    print("lost", error.message)
"""


def over_daemon(bare: Repo, people: list[Repo], stack: ExitStack) -> None:
    address = stack.enter_context(daemon(bare.path.parent))
    for one in people:
        one.git("remote", "set-url", "origin", f"{address}/{bare.path.name}")


def over_ssh(bare: Repo, people: list[Repo], stack: ExitStack) -> None:
    folder = bare.path.parent.with_name("ssh")
    address, command = stack.enter_context(sshd(bare.path.parent, folder))
    for one in people:
        one.git("remote", "set-url", "origin", f"{address}/{bare.path.name}")
        one.git("config", "core.sshCommand", command)


ROADS: dict[str, Callable[[Repo, list[Repo], ExitStack], None]] = {
    "file": lambda *_: None,
    "git daemon": over_daemon,
    "ssh": over_ssh,
}
"""How the members of a team reach their remote."""


@pytest.mark.parametrize("over", ["file", "git daemon", pytest.param("ssh", marks=pytest.mark.slow)])
def test_there_and_back_over(bare: Repo, ada: Repo, ben: Repo, over: str) -> None:
    with ExitStack() as stack:
        ROADS[over](bare, [ada, ben], stack)
        done = publish.publish_model(opened(ada))
        assert done.place == LATEST and done.notes == []
        assert publish.pull_model(opened(ben), terms=ANYONE).bundle == active(ben) == active(ada)
        assert publish.publish_model(opened(ben)).notes == ["already published"]
    if over != "file":
        with pytest.raises(GitpeftError, match="origin cannot be reached"):
            publish.pull_model(opened(ben), terms=ANYONE)
        assert active(ben) == done.bundle, "the server is gone, the model is not"


@pytest.mark.slow
@pytest.mark.parametrize("over", ROADS)
def test_of_three_publishers_at_once_exactly_one_wins_each_round(
    bare: Repo, tmp_path: Path, over: str
) -> None:
    people = [member(bare, tmp_path / name) for name in ("ada", "ben", "cho")]
    everything: set[str] = set()
    with ExitStack() as stack:
        ROADS[over](bare, people, stack)
        for number in range(4):
            own = [
                tinymodel.bundle(state(one), created=DAY.format(1 + 3 * number + place))
                for place, one in enumerate(people)
            ]
            everything.update(own)
            said = all_at_once(people)
            won = [line.split()[1] for line in said if line.startswith("won")]
            assert len(won) == 1, said
            assert sum("somebody else published" in line for line in said) == 2, said
            for one, mine in zip(people, own, strict=True):
                assert publish.pull_model(opened(one), terms=ANYONE).bundle == won[0] == active(one)
                assert mine in {kept.id for kept in registry.list_model_versions(state(one))}, (
                    "losing loses no model"
                )
    dated = {ref for ref in refs(bare) if ref.startswith("refs/gitpeft/models/main/2")}
    assert len(dated) == 4 and len(everything) == 12


def all_at_once(people: list[Repo]) -> list[str]:
    """Everybody publishes at one signal; what each had to say."""
    running = [
        subprocess.Popen(
            [sys.executable, "-c", PUBLISH, str(one.path)],
            stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True,
            env={**os.environ, "PYTHONPATH": str(CHECKOUT)},
        )
        for one in people
    ]  # fmt: skip
    for process in running:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
    for process in running:
        assert process.stdin is not None
        process.stdin.write("go\n")
        process.stdin.flush()
    return [process.communicate()[0] for process in running]


# --- who is believed ----------------------------------------------------------------------------------------


@pytest.fixture
def keys(tmp_path: Path) -> tuple[Path, Path]:
    return key(tmp_path / "keys", "ada"), key(tmp_path / "keys", "eve")


def test_a_known_signer_needs_no_question(bare: Repo, ada: Repo, ben: Repo, keys: tuple[Path, Path]) -> None:
    vouch(ada, ada=keys[0])
    signs(ada, keys[0])
    ben.git("fetch", "-q")
    assert publish.publish_model(opened(ada)).signed
    pulled = publish.pull_model(opened(ben))
    assert pulled.signer.name == "ada@example.org" and active(ben) == pulled.bundle


def test_an_unknown_signer_is_asked_about_or_refused(
    bare: Repo, ada: Repo, ben: Repo, keys: tuple[Path, Path]
) -> None:
    vouch(ada, ada=keys[0])
    signs(ada, keys[1])
    ben.git("fetch", "-q")
    publish.publish_model(opened(ada))
    with pytest.raises(GitpeftError, match="is signed by the unknown key") as refused:
        publish.pull_model(opened(ben))
    word = refused.value.hint.split()[-1]
    assert word.startswith("SHA256:") and active(ben) == ""
    asked: list[str] = []

    def no(question: str) -> bool:
        asked.append(question)
        return False

    with pytest.raises(GitpeftError, match="was not pulled"):
        publish.pull_model(opened(ben), terms=TrustTerms(ask=no))
    assert word in asked[0]
    for accept in ("unsigned", word[:-1], word.upper()):
        with pytest.raises(GitpeftError, match="was not pulled"):
            publish.pull_model(opened(ben), terms=TrustTerms(accept=accept))
    assert publish.pull_model(opened(ben), terms=TrustTerms(ask=lambda _: True)).signer.key == word
    assert publish.pull_model(opened(ben), terms=TrustTerms(accept=word)).active


def test_the_list_of_another_remote_does_not_count(
    bare: Repo, ada: Repo, ben: Repo, keys: tuple[Path, Path], tmp_path: Path
) -> None:
    """A fork names its own keys on its own default branch."""
    fork = remote(tmp_path / "served" / "fork.git")
    eve = member(fork, tmp_path / "eve", model=DAY.format(3))
    vouch(eve, lead=keys[1])
    signs(eve, keys[1])
    publish.publish_model(opened(eve))
    ben.git("remote", "add", "fork", str(fork.path))
    ben.git("fetch", "-q", "--all")
    with pytest.raises(GitpeftError, match="is signed by the unknown key"):
        publish.pull_model(opened(ben), "fork")
    ben.git("config", "checkout.defaultRemote", "fork")  # the person's own decision
    assert publish.pull_model(opened(ben), "fork").signer.name == "lead@example.org"


def test_a_signed_model_cannot_be_put_elsewhere_or_back(
    bare: Repo, ada: Repo, ben: Repo, keys: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever may push has no key, but the signatures of others stay good."""
    vouch(ada, ada=keys[0])
    signs(ada, keys[0])
    ben.git("fetch", "-q")
    tried = publish.publish_model(opened(ada), channel="experiment").commit
    first = publish.publish_model(opened(ada)).commit
    tinymodel.bundle(state(ada), created=DAY.format(9))
    monkeypatch.setenv("GIT_COMMITTER_DATE", f"{EPOCH + HOUR} +0000")
    publish.publish_model(opened(ada))
    newest = publish.pull_model(opened(ben)).bundle
    bare.git("update-ref", LATEST, tried)
    with pytest.raises(GitpeftError, match=r"for another channel .*experiment"):
        publish.pull_model(opened(ben))
    bare.git("update-ref", LATEST, first)
    with pytest.raises(GitpeftError, match="is older than") as refused:
        publish.pull_model(opened(ben))
    assert "--accept older" in refused.value.hint and active(ben) == newest
    assert publish.pull_model(opened(ben), terms=TrustTerms(accept=publish.ACCEPT_OLDER)).bundle != newest


def test_a_list_that_names_your_model_is_not_your_model(bare: Repo, ada: Repo) -> None:
    publish.publish_model(opened(ada))
    files = published(bare, ada)
    replace_with(bare, {"share.json": files["share.json"]})
    ada.git("fetch", "-q", "origin", f"+{LATEST}:{share_remote.build_tracking_ref('origin', 'main')}")  # seen
    done = publish.publish_model(opened(ada))
    assert "already published" not in done.notes
    assert json.loads(bare.git("cat-file", "blob", f"{LATEST}:manifest.json"))


def test_the_list_of_another_branch_does_not_count(
    bare: Repo, ada: Repo, ben: Repo, keys: tuple[Path, Path]
) -> None:
    """Whoever can push a branch, but not to main, cannot name themselves; nor by what lies in a work tree."""
    vouch(ada, ada=keys[0])
    ada.git("switch", "-q", "-c", "evil")
    ada.commit("Me too", **{".gitpeft-signers": f"eve@example.org {keys[1].with_suffix('.pub').read_text()}"})
    ada.git("push", "-q", "origin", "evil")
    signs(ada, keys[1])
    publish.publish_model(opened(ada))
    ben.git("fetch", "-q")
    ben.git("switch", "-q", "evil")
    with pytest.raises(GitpeftError, match="is signed by the unknown key"):
        publish.pull_model(opened(ben))


def test_the_users_own_list_counts_too(bare: Repo, ada: Repo, ben: Repo, keys: tuple[Path, Path]) -> None:
    signs(ada, keys[0])
    publish.publish_model(opened(ada))
    own = keys[0].with_name("allowed")
    own.write_text(f"ada {keys[0].with_suffix('.pub').read_text()}")
    ben.git("config", "gpg.ssh.allowedSignersFile", str(own))
    assert publish.pull_model(opened(ben)).signer.name == "ada"


def test_a_forged_signature_is_refused_whatever_is_accepted(
    bare: Repo, ada: Repo, ben: Repo, keys: tuple[Path, Path]
) -> None:
    """Ada's signature on a commit with another tree."""
    vouch(ada, ada=keys[0])
    signs(ada, keys[0])
    ben.git("fetch", "-q")
    honest = publish.publish_model(opened(ada))
    assert publish.pull_model(opened(ben)).active
    old = active(ben)
    tinymodel.bundle(state(ada), created=DAY.format(9))
    evil = publish.publish_model(opened(ada), sign=False)
    own, other = (bare.git("rev-parse", f"{one.commit}^{{tree}}").encode() for one in (honest, evil))
    forged = bare.run("cat-file", "commit", honest.commit).stdout.replace(own, other)
    sha = bare.git("hash-object", "-t", "commit", "-w", "--stdin", input=forged)
    bare.git("update-ref", LATEST, sha)
    for terms in (TrustTerms(), ANYONE, TrustTerms(ask=lambda _: True)):
        with pytest.raises(GitpeftError, match="signature of the published model is invalid"):
            publish.pull_model(opened(ben), terms=terms)
    assert active(ben) == old


def test_openpgp_counts_as_far_as_the_keyring_trusts(
    bare: Repo, ada: Repo, ben: Repo, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    home = tmp_path / "g"
    home.mkdir(mode=0o700)
    monkeypatch.setenv("GNUPGHOME", str(home))
    monkeypatch.delenv("GIT_COMMITTER_DATE")
    made = ["gpg", "--batch", "--quiet", "--pinentry-mode", "loopback", "--passphrase", ""]
    done = subprocess.run(
        [*made, "--quick-gen-key", "ada@example.org", "ed25519", "sign", "never"], capture_output=True
    )
    if done.returncode:
        pytest.skip(f"no gpg to make a key with: {done.stderr.decode()[-80:]}")
    ada.git("config", "user.signingkey", "ada@example.org")
    try:
        assert publish.publish_model(opened(ada)).signed
        assert publish.pull_model(opened(ben)).signer.name == "ada@example.org"
        monkeypatch.setenv("GNUPGHOME", str(tmp_path / "empty"))
        (tmp_path / "empty").mkdir(mode=0o700)
        [key] = re.findall(r"(?m)^fpr:+([0-9A-F]+):", subprocess.run(
            ["gpg", "--homedir", str(home), "--list-keys", "--with-colons"], capture_output=True, text=True
        ).stdout)[:1]  # fmt: skip
        for terms in (publish.TrustTerms(), publish.TrustTerms(key), publish.TrustTerms(key[-16:]), ANYONE):
            with pytest.raises(GitpeftError, match="not in your keyring"):
                publish.pull_model(opened(ben), terms=terms)  # whose number it is was only claimed
    finally:
        for place in (home, tmp_path / "empty"):
            subprocess.run(
                ["gpgconf", "--homedir", str(place), "--kill", "all"], capture_output=True, check=False
            )


def test_signing_can_be_asked_for_and_left_out(ada: Repo, keys: tuple[Path, Path]) -> None:
    with pytest.raises(GitpeftError, match="could not be committed"):
        publish.publish_model(opened(ada), sign=True)
    signs(ada, keys[0])
    assert not publish.publish_model(opened(ada), sign=False).signed


# --- what is refused ----------------------------------------------------------------------------------------

Files = dict[str, tuple[str, bytes]]
"""Path to mode and content."""


def published(bare: Repo, ada: Repo) -> Files:
    """The files of what Ada has published."""
    done = publish.publish_model(opened(ada))
    names = bare.git("ls-tree", "-r", "--name-only", done.commit).split()
    return {name: ("100644", bare.run("show", f"{done.commit}:{name}").stdout) for name in names}


def replace_with(bare: Repo, files: Files) -> None:
    """Put these files in the place of what is published, as only git's plumbing lets one."""
    bare.git("update-ref", LATEST, bare.git("commit-tree", tree_of(bare, files), "-m", "chore: publish"))


def tree_of(bare: Repo, files: Files) -> str:
    raw, folders = b"", dict[str, Files]()
    for name, (mode, content) in sorted(files.items()):
        folder, slash, rest = name.partition("/")
        if slash:
            folders.setdefault(folder, {})[rest] = (mode, content)
            continue
        sha = (
            content.decode() if mode == "160000" else bare.git("hash-object", "-w", "--stdin", input=content)
        )
        raw += f"{mode} {name}\0".encode() + bytes.fromhex(sha)
    for folder, inner in folders.items():
        raw += f"40000 {folder}\0".encode() + bytes.fromhex(tree_of(bare, inner))
    return bare.git("hash-object", "-t", "tree", "-w", "--literally", "--stdin", input=raw)


def relisted(files: Files, **changes: object) -> Files:
    """The same with a `share.json` that fits, and these changes in it."""
    import hashlib

    listed = json.loads(files["share.json"][1])
    listed["files"] = {
        name: {"size": len(raw), "sha256": hashlib.sha256(raw).hexdigest()}
        for name, (_, raw) in files.items()
        if name != "share.json"
    }
    return {**files, "share.json": ("100644", json.dumps({**listed, **changes}).encode())}


def flipped(files: Files) -> Files:
    raw = files["index/rows.bin"][1]
    return {**files, "index/rows.bin": ("100644", raw[:-1] + bytes([raw[-1] ^ 1]))}


def with_file(name: str, mode: str = "100644", content: bytes = b"x") -> Callable[[Files], Files]:
    return lambda files: relisted({**files, name: (mode, content)})


def without(name: str) -> Callable[[Files], Files]:
    return lambda files: {one: entry for one, entry in files.items() if one != name}


def remade(**changes: object) -> Callable[[Files], Files]:
    """A manifest with changes, and lists that fit it."""

    def make(files: Files) -> Files:
        import hashlib

        raw = json.dumps(json.loads(files["manifest.json"][1]) | changes).encode()
        return relisted({**files, "manifest.json": ("100644", raw)}, bundle=hashlib.sha256(raw).hexdigest())

    return make


def declared_huge(files: Files) -> Files:
    manifest = json.loads(files["manifest.json"][1])
    manifest["files"]["index/rows.bin"]["size"] = 2 << 30
    return remade(**manifest)(files)


REFUSED: dict[str, tuple[Callable[[Files], Files], str]] = {
    "a corrupted blob": (flipped, "damaged"),
    "a corrupted blob that the list vouches for": (lambda f: relisted(flipped(f)), "of the model is damaged"),
    "a path that climbs out": (with_file("../evil"), "forbidden file name"),
    "a path that climbs out below": (with_file("index/../../evil"), "forbidden file name"),
    "git's own folder": (with_file(".git/hooks/x"), "forbidden file name"),
    "a control character": (with_file("a\x1b[2J"), "forbidden file name"),
    "a symlink": (with_file("chooser.json", "120000", b"/etc/passwd"), "not a regular file"),
    "a program": (with_file("chooser.json", "100755"), "not a regular file"),
    "a submodule": (with_file("sub", "160000", b"1" * 40), "not a regular file"),
    "2 GB in the manifest": (declared_huge, "more than the"),
    "too many files": (lambda f: f | {f"f{i}": ("100644", b"x") for i in range(120)}, "more than 100 files"),
    "a file that nobody lists": (lambda f: f | {"extra": ("100644", b"x")}, "does not match its share.json"),
    "a file too few": (without("style.json"), "does not match its share.json"),
    "no list": (without("share.json"), "not a published model"),
    "a list that is none": (lambda f: f | {"share.json": ("100644", b"[]")}, "share.json is invalid"),
    "a list of tomorrow": (lambda f: relisted(f, format=2), "unknown package format 2"),
    "another manifest": (lambda f: relisted(f, bundle="0" * 64), "manifest does not match its share.json"),
    "another renderer": (remade(renderer=999), "trained on version 999 of the diff rendering"),
    "another bundle format": (remade(format=99), "bundle format 99"),
    "a foreign base": (
        lambda f: relisted(f, made={"tokenizer.json": {"way": "base", "difference": ""}}), "contradict",
    ),
    "a size beyond numbers": (remade(files={"style.json": {"size": 10**400, "sha256": ""}}), "be read"),
    "a file that is a folder too": (
        lambda f: f | {"style": ("100644", b""), "style/x": ("100644", b"")}, "two files with the same name",
    ),
    "words for the terminal": (remade(format="\x1b]0;owned\x07"), r"bundle format '\x1b]0;owned"),
    "an unknown way": (lambda f: relisted(f, made={"x": {"way": "exec", "difference": ""}}), "unknown way"),
}  # fmt: skip


@pytest.mark.parametrize("case", REFUSED)
def test_what_is_refused_leaves_the_active_model(
    bare: Repo, ada: Repo, tmp_path: Path, case: str, gitpeft: Call
) -> None:
    change, sentence = REFUSED[case]
    cho = member(bare, tmp_path / "cho", model=DAY.format(2))
    before = active(cho)
    replace_with(bare, change(published(bare, ada)))
    done = gitpeft("pull", "--repo", cho.path, "--accept", "unsigned")
    assert done.code == 1 and sentence in done.said and len(done.err.splitlines()) < 6, done
    assert active(cho) == before and len(registry.list_model_versions(state(cho))) == 1
    assert not list(state(cho).glob(".pull-*")) and not list(state(cho).glob("models/.new-*"))
    assert not (tmp_path / "evil").exists() and not (state(cho) / "evil").exists()


def test_a_tree_of_millions_of_names_is_refused_unread(bare: Repo, ada: Repo, tmp_path: Path) -> None:
    """A few objects, each holding the one below ten times."""
    cho = member(bare, tmp_path / "cho", model=DAY.format(2))
    tree = bare.git(
        "mktree", input=f"100644 blob {bare.git('hash-object', '-w', '--stdin', input=b'x')}\tf\n"
    )
    for _ in range(9):
        tree = bare.git("mktree", input="".join(f"040000 tree {tree}\t{i}\n" for i in range(10)))
    bare.git("update-ref", LATEST, bare.git("commit-tree", tree, "-m", "chore: publish"))
    before, started = resource.getrusage(resource.RUSAGE_CHILDREN), active(cho)
    with pytest.raises(GitpeftError, match="more than 100 files"):
        publish.pull_model(opened(cho), terms=ANYONE)
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    assert after.ru_utime - before.ru_utime < 5 and active(cho) == started  # a milliard names take an hour


@pytest.mark.parametrize(
    ("size", "said"),
    [((600 << 20) + 1, "629 MB"), pytest.param(2 << 30, "2,147 MB", marks=pytest.mark.slow)],
)
def test_a_giant_is_refused_unread(bare: Repo, ada: Repo, tmp_path: Path, size: int, said: str) -> None:
    """A real one, in git: zeros, which pack to nothing. No byte of it is asked for."""
    cho = member(bare, tmp_path / "cho", model=DAY.format(2))
    before = active(cho)
    listing = bare.git("ls-tree", tree_of(bare, published(bare, ada)))
    sparse = tmp_path / "sparse"
    with open(sparse, "wb") as file:
        file.truncate(size)
    command = ["git", "hash-object", "-w", str(sparse)]
    sha = subprocess.run(command, cwd=bare.path, capture_output=True, text=True, check=True).stdout.strip()
    bigger = bare.git("mktree", input=f"{listing}\n100644 blob {sha}\tchooser.json\n")
    bare.git("update-ref", LATEST, bare.git("commit-tree", bigger, "-m", "chore: publish"))
    with pytest.raises(GitpeftError, match=rf"chooser\.json of the published model has {said}"):
        publish.pull_model(opened(cho), terms=ANYONE)
    assert active(cho) == before and len(registry.list_model_versions(state(cho))) == 1
    entries = (package.PackageEntry("encoder.onnx", size, True),)
    with pytest.raises(GitpeftError, match=f"has {said}"):
        package.check_entries(entries)


@pytest.mark.parametrize("kind", ["tag", "blob", "tree"])
def test_a_latest_that_is_no_commit_is_refused(bare: Repo, ada: Repo, tmp_path: Path, kind: str) -> None:
    """A tag of a published commit leads to it; a blob or a tree leads nowhere."""
    cho = member(bare, tmp_path / "cho", model=DAY.format(2))
    before, done = active(cho), publish.publish_model(opened(ada))
    if kind == "tag":
        bare.git("tag", "-a", "v1", "-m", "v1", done.commit)
        bare.git("update-ref", LATEST, "refs/tags/v1")
        assert publish.pull_model(opened(cho), terms=ANYONE).bundle == done.bundle
        return
    inside = f"{done.commit}:share.json" if kind == "blob" else f"{done.commit}^{{tree}}"
    bare.git("update-ref", LATEST, bare.git("rev-parse", inside))
    with pytest.raises(GitpeftError):
        publish.pull_model(opened(cho), terms=ANYONE)
    assert active(cho) == before


def test_a_model_that_does_not_run_is_refused(bare: Repo, ada: Repo, ben: Repo) -> None:
    """Every hash is right; only the index is none."""
    import hashlib

    files = published(bare, ada)
    manifest = json.loads(files["manifest.json"][1])
    broken = b"\x93NUMPY no array"
    manifest["files"]["index/rows.bin"] = {"size": len(broken), "sha256": hashlib.sha256(broken).hexdigest()}
    replace_with(bare, remade(**manifest)({**files, "index/rows.bin": ("100644", broken)}))
    with pytest.raises(GitpeftError, match="does not run here: index of the model cannot be used"):
        publish.pull_model(opened(ben), terms=ANYONE)
    assert active(ben) == "" and registry.list_model_versions(state(ben)) == []


# --- without a remote ---------------------------------------------------------------------------------------


def test_through_a_folder(ada: Repo, ben: Repo, tmp_path: Path) -> None:
    done = publish.publish_model_to_path(opened(ada), tmp_path / "out" / "model")
    assert (tmp_path / "out/model/share.json").is_file() and done.place.endswith("model")
    with pytest.raises(GitpeftError, match="cannot be signed"):
        publish.publish_model_to_path(opened(ada), tmp_path / "signed", sign=True)
    (tmp_path / "file").write_text("")
    with pytest.raises(GitpeftError, match="cannot write"):
        publish.publish_model_to_path(opened(ada), tmp_path / "file" / "model")
    with pytest.raises(GitpeftError, match="exists already"):
        publish.publish_model_to_path(opened(ada), tmp_path / "out" / "model")
    with pytest.raises(GitpeftError, match="is not signed"):
        publish.pull_model_from_path(opened(ben), tmp_path / "out" / "model")
    assert publish.pull_model_from_path(opened(ben), tmp_path / "out" / "model", ANYONE).bundle == active(ben)
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["model"]


def test_a_folder_with_a_link_or_a_sparse_giant(ada: Repo, ben: Repo, tmp_path: Path) -> None:
    publish.publish_model_to_path(opened(ada), tmp_path / "model")
    style = tmp_path / "model" / "style.json"
    raw = style.read_bytes()
    style.unlink()
    style.symlink_to("/etc/passwd")
    with pytest.raises(GitpeftError, match=r"style.json .* is not a regular file"):
        publish.pull_model_from_path(opened(ben), tmp_path / "model", ANYONE)
    style.unlink()
    with open(style, "wb") as file:
        file.truncate(2 << 30)
    with pytest.raises(GitpeftError, match="has 2,147 MB"):
        publish.pull_model_from_path(opened(ben), tmp_path / "model", ANYONE)
    style.write_bytes(raw)
    assert publish.pull_model_from_path(opened(ben), tmp_path / "model", ANYONE).active


def test_through_a_git_bundle(
    bare: Repo, ada: Repo, ben: Repo, tmp_path: Path, keys: tuple[Path, Path]
) -> None:
    vouch(ada, ada=keys[0])
    signs(ada, keys[0])
    ben.git("fetch", "-q")
    done = publish.publish_model_to_path(opened(ada), tmp_path / "model.bundle")
    assert done.signed and [path.name for path in tmp_path.glob("*.bundle")] == ["model.bundle"]
    pulled = publish.pull_model_from_path(opened(ben), tmp_path / "model.bundle")
    assert pulled.signer.name == "ada@example.org" and active(ben) == done.bundle
    raw, fresh = (tmp_path / "model.bundle").read_bytes(), member(bare, tmp_path / "fresh")
    for number, bad in enumerate((raw[: len(raw) // 2], b"nothing", raw[:-40] + b"\0" * 40)):
        (tmp_path / f"bad{number}.bundle").write_bytes(bad)
        with pytest.raises(GitpeftError):
            publish.pull_model_from_path(opened(fresh), tmp_path / f"bad{number}.bundle")
    with pytest.raises(GitpeftError, match="does not exist"):
        publish.pull_model_from_path(opened(ben), tmp_path / "missing.bundle")
    assert active(ben) == done.bundle and active(fresh) == ""


# --- odd clones and servers ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "options",
    [["--depth", "1"], ["--filter=blob:none"], ["--filter=tree:0"], ["--mirror"], ["--single-branch"]],
)
def test_any_clone_pulls_and_publishes(bare: Repo, ada: Repo, tmp_path: Path, options: list[str]) -> None:
    bare.git("config", "uploadpack.allowFilter", "true")
    bare.git("config", "uploadpack.allowAnySHA1InWant", "true")
    first = publish.publish_model(opened(ada))
    odd = member(bare, tmp_path / "odd", *options)
    settings = odd.git("config", "--list", "--local")
    assert publish.pull_model(opened(odd), terms=ANYONE).bundle == first.bundle == active(odd)
    bare.path.rename(tmp_path / "away")
    assert active(odd) == first.bundle, "nothing is fetched later"
    (tmp_path / "away").rename(bare.path)
    second = tinymodel.bundle(state(odd), created=DAY.format(7))
    assert publish.publish_model(opened(odd)).bundle == second
    assert publish.pull_model(opened(ada), terms=ANYONE).bundle == second == active(ada)
    assert odd.git("config", "--list", "--local") == settings, "nobody's configuration changes"


def test_pruning_fetches_cost_nothing(bare: Repo, ada: Repo, ben: Repo, tmp_path: Path) -> None:
    for one in (ada, ben):
        one.git("config", "fetch.prune", "true")
    publish.publish_model(opened(ada))
    publish.pull_model(opened(ben), terms=ANYONE)
    for one in (ada, ben):
        before = active(one)
        kept = {ref for ref in refs(one) if ref.startswith("refs/gitpeft")}
        one.git("fetch", "-q")
        assert {ref for ref in refs(one) if ref.startswith("refs/gitpeft")} == kept and active(one) == before
    mirror = member(bare, tmp_path / "mirror", "--mirror")
    publish.pull_model(opened(mirror), terms=ANYONE)
    mirror.git("remote", "update", "--prune")
    assert active(mirror) == active(ada)
    assert publish.pull_model(opened(mirror), terms=ANYONE).active


def test_worktrees_share_what_is_pulled(bare: Repo, ada: Repo, ben: Repo, tmp_path: Path) -> None:
    publish.publish_model(opened(ada))
    ben.git("worktree", "add", "-q", str(tmp_path / "tree"), "-b", "work")
    tree = Repo(tmp_path / "tree")
    assert publish.pull_model(opened(tree), terms=ANYONE).bundle == active(ben)
    new = tinymodel.bundle(state(tree), created=DAY.format(8))
    assert publish.publish_model(opened(tree)).bundle == new


def test_sha256_repositories(tmp_path: Path) -> None:
    bare = remote(tmp_path / "team.git", "--object-format=sha256")
    ada = member(bare, tmp_path / "ada", model=DAY.format(1))
    ben = member(bare, tmp_path / "ben")
    done = publish.publish_model(opened(ada))
    assert len(done.commit) == 64 and publish.pull_model(opened(ben), terms=ANYONE).bundle == active(ada)


def deny(bare: Repo) -> None:
    hook = bare.path / "hooks" / "update"
    hook.write_text('#!/bin/sh\ncase $1 in refs/heads/*) exit 0;; esac\necho "no $1" >&2\nexit 1\n')
    hook.chmod(0o755)


@pytest.mark.parametrize("how", ["hidden", "hidden from fetches", "refused by a hook"])
def test_a_remote_without_the_namespace(bare: Repo, ada: Repo, ben: Repo, how: str, gitpeft: Call) -> None:
    if how == "hidden":
        bare.git("config", "transfer.hideRefs", "refs/gitpeft")
    elif how == "hidden from fetches":
        bare.git("config", "uploadpack.hideRefs", "refs/gitpeft")
    else:
        deny(bare)
    done = gitpeft("publish", "--repo", ada.path)
    assert done.code == 0 and "does not accept refs/gitpeft" in done.said, done
    assert "using the branch gitpeft/models/main instead" in done.said
    assert publish.pull_model(opened(ben), terms=ANYONE).bundle == active(ada)
    bare.git("config", "receive.denyNonFastForwards", "true")
    for one in (ben, ada):
        new = tinymodel.bundle(state(one), created=DAY.format(8 if one is ben else 9))
        if one is ada:
            with pytest.raises(GitpeftError, match="somebody else published"):
                publish.publish_model(opened(one))
            publish.pull_model(opened(one), terms=ANYONE, activate=False)
        published = publish.publish_model(opened(one))
        assert published.bundle == new and published.place == "refs/heads/gitpeft/models/main"
    assert not [ref for ref in refs(bare) if ref.startswith("refs/gitpeft/models")]


def test_a_remote_that_takes_nothing_says_why(bare: Repo, ada: Repo) -> None:
    hook = bare.path / "hooks" / "pre-receive"
    hook.write_text("#!/bin/sh\nexit 1\n")
    hook.chmod(0o755)
    before = active(ada)
    with pytest.raises(GitpeftError, match="origin refused the model: pre-receive hook declined"):
        publish.publish_model(opened(ada))
    assert active(ada) == before and refs(bare).keys() == {"refs/heads/main"}


def test_a_history_that_was_purged_is_warned_of(bare: Repo, ada: Repo) -> None:
    gone = ada.commit("Add a secret", **{"key": "hunter2"})
    ada.git("reset", "-q", "--hard", "HEAD^")
    tinymodel.bundle(state(ada), created=DAY.format(3), commits={"to": gone, "count": 2})
    [note] = publish.publish_model(opened(ada)).notes
    assert gone[:12] in note and "is on no branch any more" in note
    for state_of, kept in (("a" * 40, False), (ada.git("rev-parse", "HEAD"), True)):
        tinymodel.bundle(state(ada), created=DAY.format(4), commits={"to": state_of, "count": 2})
        assert bool(publish.publish_model(opened(ada)).notes) != kept


def test_the_users_hooks_and_settings_stay_out_of_it(
    bare: Repo, ada: Repo, ben: Repo, tmp_path: Path
) -> None:
    hook = ada.path / ".git/hooks/pre-push"
    hook.write_text(f"#!/bin/sh\ntouch {tmp_path}/ran\nexit 1\n")
    hook.chmod(0o755)
    ada.git("tag", "-a", "v1", "-m", "v1")
    ada.git("config", "push.followTags", "true")
    publish.publish_model(opened(ada))
    assert not (tmp_path / "ran").exists() and not any(ref.startswith("refs/tags") for ref in refs(bare))
    bare.git("tag", "v2", "main")
    publish.pull_model(opened(ben), terms=ANYONE)
    assert not any(ref.startswith("refs/tags") for ref in refs(ben))
    assert not (ben.path / ".git/FETCH_HEAD").exists()


# --- killed -------------------------------------------------------------------------------------------------


@pytest.mark.slow
def test_killed_anywhere_while_publishing(bare: Repo, ada: Repo, ben: Repo, tmp_path: Path) -> None:
    before = active(ada)
    number = 0
    with asked_meanwhile(state(ada), tmp_path, tinymodel.CHANGES[0]):
        for step in every_kill(lambda: publish.publish_model(opened(ada)), stride=2):
            number = step
            assert active(ada) == before
            if refs(bare).get(LATEST):
                assert publish.pull_model(opened(ben), terms=ANYONE).bundle == before, "whole or absent"
    assert number > 20
    assert publish.publish_model(opened(ada)).bundle == before, "and it can be done again"
    assert publish.pull_model(opened(ben), terms=ANYONE).bundle == before


@pytest.mark.slow
def test_killed_anywhere_while_pulling(bare: Repo, ada: Repo, tmp_path: Path) -> None:
    cho = member(bare, tmp_path / "cho", model=DAY.format(2))
    old, new = active(cho), publish.publish_model(opened(ada)).bundle
    number = 0
    with asked_meanwhile(state(cho), tmp_path, tinymodel.CHANGES[0]):
        for step in every_kill(lambda: publish.pull_model(opened(cho), terms=ANYONE), stride=3):
            number = step
            assert active(cho) in (old, new)
            for one in registry.list_model_versions(state(cho)):
                bundles.verify_bundle(bundles.open_bundle(state(cho) / "models" / one.id))
    assert number > 30 and active(cho) == new
    assert bundles.read_active_ids(state(cho)) == (new, old)


@pytest.mark.slow
def test_people_commit_while_everything_is_killed(bare: Repo, ada: Repo, tmp_path: Path) -> None:
    """Real commits through the real hook, while publish, pull and rollback die at one step after another."""
    cho = member(bare, tmp_path / "cho", model=DAY.format(2))
    old, new = active(cho), publish.publish_model(opened(ada)).bundle
    works: dict[str, Callable[[], object]] = {
        "pull": lambda: publish.pull_model(opened(cho), terms=ANYONE),
        "rollback": lambda: registry.roll_back_model(state(cho)),
        "publish": lambda: publish.publish_model(opened(cho), channel="mine"),
    }
    with committing_meanwhile(cho, tmp_path):
        for name, work in works.items():
            kills = 0
            for _ in every_kill(work, stride=4):
                kills += 1
                assert active(cho) in (old, new), name
            assert kills > 3, f"{name}: the kills reached no effect"
    assert {one.id for one in registry.list_model_versions(state(cho))} == {old, new}


# --- the commands -------------------------------------------------------------------------------------------


def test_publish_and_pull_as_commands(
    bare: Repo, ada: Repo, ben: Repo, gitpeft: Call, tmp_path: Path
) -> None:
    done = gitpeft("publish", "--repo", ada.path)
    assert done.code == 0 and LATEST in done.out and "not signed" in done.out
    refused = gitpeft("pull", "--repo", ben.path)
    assert refused.code == 1 and "is not signed" in refused.err and "--accept unsigned" in refused.said
    taken = json.loads(gitpeft("pull", "--repo", ben.path, "--accept", "unsigned", "--json").out)
    assert taken["bundle"] == active(ada) and taken["active"] and taken["signer"]["key"] == "unsigned"
    out = json.loads(gitpeft("publish", "--repo", ada.path, "--to", tmp_path / "m.bundle", "--json").out)
    assert out["bundle"] == active(ada)
    shown = gitpeft(
        "pull", "--repo", ben.path, "--from", tmp_path / "m.bundle", "--accept", "unsigned", "--no-activate"
    )
    assert "not active" in shown.said and "unsigned" in shown.said


def test_no_hook_ever_pulls() -> None:
    from tests.support.sources import imports, read_package

    sources = read_package(CHECKOUT / "gitpeft")
    names = {
        module
        for module in sources
        for one in imports(sources[module])
        if one.name.startswith("gitpeft.share")
    }
    assert not [name for name in names if name.split(".")[0] in ("hook", "hooks")]
    callers = {module for module, source in sources.items() if ".run_with_network(" in source}
    assert callers == {"share.remote", "share.publish", "share.signing"}, "nothing else reaches a network"


def test_repository_opens_without_a_network(repo: Repo) -> None:
    assert Repository.open(repo.path).environment["GIT_ALLOW_PROTOCOL"] == "none"
