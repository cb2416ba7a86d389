"""Signatures of published models: who signed one, and whether the team trusts the key.

The team's list is the file `.gitpeft-signers` of the default branch, in the format of ssh's allowed signers:
whoever may change that branch decides who may publish. The user's own `gpg.ssh.allowedSignersFile` counts
too. An OpenPGP key is trusted as far as the user's keyring trusts it. Whatever remote a model comes from, the
list is that of `checkout.defaultRemote`, of `origin`, or of the only remote.
"""

import re
import tempfile
from dataclasses import dataclass
from pathlib import Path

from gitpeft.errors import GitpeftError
from gitpeft.git.objects import read_file
from gitpeft.git.repository import Repository

SIGNERS_FILE = ".gitpeft-signers"
UNSIGNED = "unsigned"
_MAX_SIGNERS_BYTES = 1 << 20
_SSH_KNOWN = re.compile(r'^Good "git" signature for (.+) with \S+ key (SHA256:\S+)', re.MULTILINE)
_SSH_GOOD = re.compile(r'^Good "git" signature with \S+ key (SHA256:\S+)', re.MULTILINE)
_PGP_KEY = re.compile(r"^\[GNUPG:\] VALIDSIG (\S+)", re.MULTILINE)
_PGP_ABSENT = re.compile(r"^\[GNUPG:\] ERRSIG (\S+)", re.MULTILINE)
_PGP_NAME = re.compile(r"^\[GNUPG:\] GOODSIG \S+ (.+)$", re.MULTILINE)
_PGP_TRUST = re.compile(r"^\[GNUPG:\] TRUST_(?:FULLY|ULTIMATE)\b", re.MULTILINE)


@dataclass(frozen=True, slots=True)
class Signer:
    """Who signed: `key` is a fingerprint or `UNSIGNED`, `name` the trusted owner of the key, or ""."""

    key: str
    name: str = ""

    @property
    def is_trusted(self) -> bool:
        """Whether the team or the user's keyring trusts the key."""
        return bool(self.name)


def is_signing_enabled(repo: Repository) -> bool:
    """Whether the user's git is configured to sign."""
    return repo.ask_text("config", "--type=bool", "commit.gpgSign") == "true" or bool(
        repo.get_config("user.signingkey")
    )


def verify_commit_signature(repo: Repository, commit: str) -> Signer:
    """Who signed a commit. GitpeftError when the signature is invalid, or cannot be checked here."""
    head = repo.run("cat-file", "commit", commit).partition(b"\n\n")[0]
    if b"\ngpgsig" not in head:
        return Signer(UNSIGNED)
    if b"BEGIN SSH SIGNATURE" in head:
        return _verify_ssh_signature(repo, commit)
    found = _verify_gpg_signature(repo, commit)
    # gpgsm trusts every certificate below a trusted root, which says nothing about a model
    return found if b"BEGIN PGP SIGNATURE" in head else Signer(found.key)


def _verify_ssh_signature(repo: Repository, commit: str) -> Signer:
    with tempfile.TemporaryDirectory(prefix="gitpeft-signers-") as folder:
        path = Path(folder, "allowed")
        path.write_bytes(_read_user_signers(repo) + b"\n" + read_team_signers(repo))
        setting = f"gpg.ssh.allowedSignersFile={path}"
        said = repo.run_with_network("-c", setting, "verify-commit", "--raw", commit)
    text = said.err + said.out
    if said.code == 0 and (known := _SSH_KNOWN.search(text)):
        return Signer(known[2], known[1])
    if good := _SSH_GOOD.search(text):
        return Signer(good[1])
    raise _make_invalid_signature_error(text)


def _verify_gpg_signature(repo: Repository, commit: str) -> Signer:
    said = repo.run_with_network("verify-commit", "--raw", commit)
    key, name = _PGP_KEY.search(said.err), _PGP_NAME.search(said.err)
    if absent := _PGP_ABSENT.search(said.err):  # anybody can write a key's id into a signature
        raise GitpeftError(
            f"the model is signed with the key {absent[1][:40]}, which is not in your keyring",
            "Import the key of whoever published the model, or do not pull from there.",
        )
    if key is None or said.code:
        raise _make_invalid_signature_error(said.err)
    return Signer(key[1], name[1] if name and _PGP_TRUST.search(said.err) else "")


def _make_invalid_signature_error(text: str) -> GitpeftError:
    line = next((line for line in reversed(text.split("\n")) if line and "[GNUPG:]" not in line), "")
    return GitpeftError(
        f"the signature of the published model is invalid{f' ({line[:120]})' if line else ''}",
        "It was changed after signing, or signed by somebody else. Your active model stays.",
    )


def _read_user_signers(repo: Repository) -> bytes:
    path = repo.ask_text("config", "--type=path", "gpg.ssh.allowedSignersFile")
    try:
        return (repo.cwd / path).read_bytes()[:_MAX_SIGNERS_BYTES] if path else b""
    except OSError:
        return b""


def read_team_signers(repo: Repository) -> bytes:
    """The team's list in the default branch as last fetched; b"" where there is none."""
    branch = find_default_branch(repo)
    return read_file(repo, branch, SIGNERS_FILE)[:_MAX_SIGNERS_BYTES] if branch else b""


def _choose_trusted_remote(repo: Repository) -> str:
    """The remote whose default branch has the list; "" where it is not clear which."""
    remotes = repo.list_remotes()
    if (chosen := repo.get_config("checkout.defaultRemote")) in remotes:
        return str(chosen)
    return "origin" if "origin" in remotes else remotes[0] if len(remotes) == 1 else ""


def find_default_branch(repo: Repository) -> str:
    """The local name of the default branch with the list, "" if it is not here; HEAD without remotes."""
    remote = _choose_trusted_remote(repo)
    if not remote:
        return "" if repo.list_remotes() else "HEAD"
    noted = repo.ask_text("symbolic-ref", "--quiet", f"refs/remotes/{remote}/HEAD")
    if noted:
        return noted
    said = repo.run_with_network("ls-remote", "--symref", remote, "HEAD")
    found = re.match(r"ref: refs/heads/(\S+)\tHEAD", said.out)
    places = [f"refs/remotes/{remote}/{found[1]}"] if found else []
    if found and repo.work_tree is None:  # in a bare repository the branches are copies of the remote's
        places.append(f"refs/heads/{found[1]}")
    return next((place for place in places if repo.ask_text("rev-parse", "--verify", "--quiet", place)), "")
