"""Histories out of raw commit objects: any bytes that git stores, also those that its commands refuse."""

import os
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

from hypothesis import strategies as st

from tests.support.gitrepo import Repo


@dataclass(frozen=True, slots=True)
class RawCommit:
    """A commit as its object is written: people and message are bytes, dates are what stands behind them."""

    author: bytes = b"Ada <ada@example.org>"
    author_date: bytes = b"1700000000 +0000"
    committer_date: bytes = b"1700000000 +0000"
    message: bytes = b"change\n"
    encoding: bytes = b""
    files: Mapping[bytes, bytes] = field(default_factory=dict)


def write_history(repo: Repo, commits: Sequence[RawCommit]) -> list[str]:
    """Write a line of commits, each with the files of all before it, as branch `main`; their ids."""
    shas: list[str] = []
    files: dict[bytes, str] = {}
    for commit in commits:
        for path, content in commit.files.items():
            files[path] = repo.git("hash-object", "-w", "--stdin", input=content)
        parents = f"parent {shas[-1]}\n".encode() if shas else b""
        shas.append(_write_commit(repo, commit, _write_tree(repo, files), parents))
    repo.git("update-ref", "refs/heads/main", shas[-1])
    return shas


def _write_tree(repo: Repo, files: Mapping[bytes, str]) -> str:
    index = str(repo.path / ".git" / "raw-index")
    lines = b"".join(b"100644 %s\t%s\0" % (blob.encode(), path) for path, blob in files.items())
    repo.git("read-tree", "--empty", env={"GIT_INDEX_FILE": index})
    repo.git("update-index", "-z", "--index-info", input=lines, env={"GIT_INDEX_FILE": index})
    return repo.git("write-tree", env={"GIT_INDEX_FILE": index})


def _write_commit(repo: Repo, commit: RawCommit, tree: str, parents: bytes) -> str:
    encoding = b"encoding " + commit.encoding + b"\n" if commit.encoding else b""
    raw = b"tree %s\n%sauthor %s %s\ncommitter Committer <c@example.org> %s\n%s\n%s" % (
        *(tree.encode(), parents, commit.author, commit.author_date, commit.committer_date, encoding),
        commit.message,
    )
    return repo.git("hash-object", "-t", "commit", "-w", "--literally", "--stdin", input=raw)


def git_paths(repo: Repo, rev: str) -> list[bytes]:
    """The paths of a commit's tree, as git has them."""
    return repo.run("ls-tree", "-r", "-z", "--name-only", rev).stdout.split(b"\0")[:-1]


def _safe_path(path: bytes) -> bool:
    parts = path.split(b"/")
    return all(part.strip(b".") and part.lower() not in (b".git",) and part for part in parts)


_ODD_NAMES = (
    *(b"a\xc2\xa0b", b"a\xe3\x80\x80b", b"a?b", b'"q"', b"new\nline", b"cr\r", "u\u2028l".encode()),
    *(b"f\x0cs\x1c", b"tab\t", b"sp ace", b"\xff\xfe", b"back\\slash", "ü".encode(), "u\u0308".encode()),
    *(b"-dash", b"#x", b":(top)x"),
)
PATHS = (
    st.lists(
        st.binary(min_size=1, max_size=8).map(lambda raw: raw.replace(b"\0", b"x").replace(b"/", b"y"))
        | st.sampled_from(_ODD_NAMES),
        min_size=1,
        max_size=3,
    )
    .map(b"/".join)
    .filter(_safe_path)
)
"""Paths of any bytes, often those that look alike once they are made printable."""

_ODD_DATES = (
    *(b"18446744073709548016 +0100", b"-1 +0000", b"", b"0 +0000", b"253402300799 +0000", b"1700000000"),
    *(b"253402300800 +0000", b"1700000000 +999999", b"nonsense", b"9223372036854775808 +0000", b"007 +0000"),
)
DATES = (
    st.integers(0, 2**70).map(lambda n: b"%d +0000" % n)
    | st.integers(1, 50).map(lambda n: b"9" * n + b" -0100")
    | st.sampled_from(_ODD_DATES)
)
"""What can stand where a date belongs."""

_NAME = st.binary(max_size=10).map(lambda raw: bytes(b for b in raw if b not in b"\0\n<>"))
AUTHORS = st.tuples(_NAME, _NAME).map(lambda pair: b"%s <%s>" % pair)
"""People of any bytes."""

ENCODINGS = st.sampled_from([b"", b"ISO-8859-1", b"UTF-16", b"no-such-encoding", b"Shift_JIS", b"UTF-8"])
MESSAGES = st.binary(max_size=60).map(lambda raw: raw.replace(b"\0", b"0"))


def as_key(path: bytes) -> str:
    """A path in the form in which the product identifies files."""
    return os.fsdecode(path)
