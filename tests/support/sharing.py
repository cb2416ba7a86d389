"""A team around one remote: clones, models that answer, keys to sign with."""

import getpass
import os
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from gitpeft.bundle import bundle as bundles
from gitpeft.git.repository import Repository
from gitpeft.share.publish import TrustTerms
from gitpeft.suggest.suggester import open_active_suggester
from tests.support import tinymodel
from tests.support.gitrepo import Repo

ANYONE = TrustTerms(accept="unsigned")


def remote(path: Path, *options: str) -> Repo:
    """A bare repository with a commit on main."""
    path.mkdir(parents=True)
    bare = Repo(path)
    bare.git("init", "-q", "--bare", "-b", "main", *options)
    tree = bare.git("mktree", input="")
    bare.git("update-ref", "refs/heads/main", bare.git("commit-tree", tree, "-m", "Start"))
    return bare


def member(bare: Repo, path: Path, *options: str, model: str = "") -> Repo:
    """A clone; with `model`, which is a moment, it has one of its own."""
    clone = bare.clone(path, *options)
    if model:
        tinymodel.bundle(state(clone), created=model)
    return clone


def state(repo: Repo) -> Path:
    return Repository.open(repo.path).state_dir


def opened(repo: Repo) -> Repository:
    return Repository.open(repo.path)


def active(repo: Repo) -> str:
    """The id of the active model, each of its bytes checked, after it has answered; "" for none."""
    found = bundles.open_active_bundle(state(repo))
    if found is None:
        return ""
    bundles.verify_bundle(found)
    assert open_active_suggester(state(repo)).suggest(tinymodel.CHANGES[0], ""), "the model says nothing"
    return found.id


def key(folder: Path, name: str) -> Path:
    """A fresh ssh key pair; the path of the private one."""
    folder.mkdir(parents=True, exist_ok=True)
    path = folder / name
    subprocess.run(
        ["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", name, "-f", str(path)], check=True
    )  # fmt: skip
    return path


def signs(repo: Repo, private: Path) -> None:
    """Let a repository's git sign commits with this key."""
    repo.git("config", "gpg.format", "ssh")
    repo.git("config", "user.signingkey", str(private))
    repo.git("config", "commit.gpgSign", "true")


def vouch(repo: Repo, **people: Path) -> None:
    """Name these people's keys in the team's list on the remote's default branch."""
    lines = (f"{name}@example.org {path.with_suffix('.pub').read_text()}" for name, path in people.items())
    repo.commit("Name who may publish", **{".gitpeft-signers": "".join(lines)})
    repo.git("push", "-q", "origin", "HEAD:main")


@contextmanager
def daemon(base: Path) -> Iterator[str]:
    """`git daemon` on loopback over the repositories below `base`, pushing allowed; its address."""
    port = 9418 + os.getpid() % 20000
    command = ["git", "daemon", "--reuseaddr", "--export-all", "--enable=receive-pack", "--listen=127.0.0.1"]
    served = subprocess.Popen(
        [*command, f"--port={port}", f"--base-path={base}", str(base)],
        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, start_new_session=True,
    )  # fmt: skip
    address = f"git://127.0.0.1:{port}"
    try:
        probe = next(base.iterdir()).name
        for _ in range(100):
            if (
                subprocess.run(["git", "ls-remote", f"{address}/{probe}"], capture_output=True).returncode
                == 0
            ):
                break
            time.sleep(0.05)
        yield address
    finally:
        os.killpg(served.pid, 15)
        served.wait()


SSHD = """\
ListenAddress 127.0.0.1
Port {port}
HostKey {folder}/host
AuthorizedKeysFile {folder}/user.pub
StrictModes no
UsePAM no
PasswordAuthentication no
PidFile none
"""


@contextmanager
def sshd(base: Path, folder: Path) -> Iterator[tuple[str, str]]:
    """A server of ssh on loopback with keys of its own; its address over `base`, and git's `core.sshCommand`.

    Skips the test where there is no sshd, or it does not start.
    """
    program = shutil.which("sshd", path=f"{os.environ.get('PATH', '')}:/usr/sbin:/usr/local/sbin")
    if program is None:
        pytest.skip("no sshd here (openssh-server)")
    key(folder, "host")
    key(folder, "user")
    port = 30000 + os.getpid() % 20000
    (folder / "config").write_text(SSHD.format(port=port, folder=folder))
    host = " ".join((folder / "host.pub").read_text().split()[:2])
    (folder / "known").write_text(f"[127.0.0.1]:{port} {host}\n")
    options = ("BatchMode=yes", "IdentitiesOnly=yes", f"UserKnownHostsFile={folder}/known")
    command = ["ssh", "-F", "none", "-i", str(folder / "user"), *(f"-o{one}" for one in options)]
    with open(folder / "log", "wb") as log:
        served = subprocess.Popen([program, "-D", "-e", "-f", str(folder / "config")], stderr=log)
    place = f"{getpass.getuser()}@127.0.0.1"
    try:
        for _ in range(100):
            asked = [*command, "-p", str(port), place, "true"]
            if served.poll() is not None or subprocess.run(asked, capture_output=True).returncode == 0:
                break
            time.sleep(0.1)
        if served.poll() is not None:
            pytest.skip(f"sshd does not start: {(folder / 'log').read_text()[-200:].strip()}")
        yield f"ssh://{place}:{port}{base}", " ".join(command)
    finally:
        served.terminate()
        served.wait()
