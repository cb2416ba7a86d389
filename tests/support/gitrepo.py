"""A real git repository for one test, with a frozen clock."""

import hashlib
import os
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

HOUR = 3600
EPOCH = 1_700_000_000  # 2023-11-14 22:13:20 UTC, the moment every test repository is born


@dataclass(slots=True)
class Repo:
    """A repository at `path`; a commit is made at `clock` (unix seconds, UTC), then it moves one hour on."""

    path: Path
    clock: int = EPOCH

    @classmethod
    def create(cls, path: Path, *, bare: bool = False) -> "Repo":
        """A new repository on branch `main`; missing parents of `path` are made."""
        path.mkdir(parents=True, exist_ok=True)
        repo = cls(path)
        repo.git("init", "-q", "-b", "main", *(["--bare"] if bare else []))
        return repo

    def clone(self, path: Path, *options: str) -> "Repo":
        """A clone of this repository, over the file protocol, so that `--depth` and `--filter` count."""
        self.git("clone", "-q", *options, self.path.as_uri(), str(path))
        return Repo(path, self.clock)

    def run(
        self,
        *args: str,
        input: str | bytes | None = None,
        env: Mapping[str, str] | None = None,
        timeout: float = 60,
    ) -> subprocess.CompletedProcess[bytes]:
        """Run git here and hand back everything it said; a failure is the caller's to judge."""
        return subprocess.run(
            ["git", *args],
            cwd=self.path,
            input=(input.encode() if isinstance(input, str) else input) if input is not None else b"",
            capture_output=True,
            env={**os.environ, **self._dates(), **(env or {})},
            timeout=timeout,
            check=False,
        )

    def git(
        self,
        *args: str,
        input: str | bytes | None = None,
        check: bool = True,
        env: Mapping[str, str] | None = None,
    ) -> str:
        """Standard output of git without its last newlines; AssertionError with git's words when it fails."""
        done = self.run(*args, input=input, env=env)
        if check and done.returncode != 0:
            said = done.stderr.decode(errors="replace")
            raise AssertionError(f"git {' '.join(args)} ended with {done.returncode}: {said}")
        return done.stdout.decode(errors="surrogateescape").rstrip("\n")

    def write(self, path: str, content: str | bytes) -> Path:
        """Write a file of the work tree, newlines as given, and return where it is."""
        target = self.path / path
        target.parent.mkdir(parents=True, exist_ok=True)
        target.write_bytes(content.encode() if isinstance(content, str) else content)
        return target

    def stage(self, **files: str | bytes | None) -> None:
        """Write and add these files; None removes one. Most paths need `stage(**{"a/b.py": "…"})`."""
        for path, content in files.items():
            if content is None:
                self.git("rm", "-q", "-f", "--", path)
            else:
                self.write(path, content)
                self.git("add", "-f", "--", path)

    def commit(self, message: str | bytes, **files: str | bytes | None) -> str:
        """Stage `files` and commit them with whatever was staged before, be it nothing; returns the sha.

        The message is stored byte for byte, with a newline at its end: it may hold `#` lines and, given as
        bytes, what is no UTF-8.
        """
        self.stage(**files)
        raw = (message.encode() if isinstance(message, str) else message).rstrip(b"\n") + b"\n"
        self.git("commit", "-q", "--allow-empty", "--cleanup=verbatim", "-F", "-", input=raw)
        self._keep_bytes(raw)
        self.tick()
        return self.git("rev-parse", "HEAD")

    def _keep_bytes(self, message: bytes) -> None:
        """`git commit` takes a message that is no UTF-8 for Latin-1 and converts it: put the bytes back."""
        try:
            message.decode()
        except UnicodeDecodeError:
            head = self.run("cat-file", "commit", "HEAD").stdout.partition(b"\n\n")[0]
            sha = self.git("hash-object", "-t", "commit", "-w", "--stdin", input=head + b"\n\n" + message)
            self.git("update-ref", "HEAD", sha)

    def tick(self, seconds: int = HOUR) -> None:
        """Move the clock on, as `commit` does: for tests that call `git commit` or `git merge` themselves."""
        self.clock += seconds

    def _dates(self) -> dict[str, str]:
        now = f"{self.clock} +0000"
        return {"GIT_AUTHOR_DATE": now, "GIT_COMMITTER_DATE": now}


def merge_side(repo: Repo) -> str:
    """Make one commit on each of two branches and merge them."""
    repo.git("checkout", "-q", "-b", "side")
    repo.commit("side: add a file", side="s\n")
    repo.git("checkout", "-q", "main")
    repo.commit("main: add a file", main="m\n")
    repo.git("merge", "-q", "--no-ff", "-m", "Merge branch 'side'", "side")
    repo.tick()
    return repo.git("rev-parse", "HEAD")


def partial_clone(repo: Repo, path: Path, filter: str) -> Repo:
    """A clone without most objects, whose remote is gone."""
    repo.git("config", "uploadpack.allowFilter", "true")
    clone = repo.clone(path, f"--filter={filter}", "--no-checkout")
    clone.git("remote", "set-url", "origin", (path.parent / "nowhere").as_uri())
    return clone


def fingerprint(path: Path) -> dict[str, str]:
    """Every file below a directory with a hash of its content, without our own state."""
    files = (p for p in sorted(path.rglob("*")) if p.is_file() and "gitpeft" not in p.relative_to(path).parts)
    return {str(p.relative_to(path)): hashlib.sha256(p.read_bytes()).hexdigest() for p in files}
