"""Everything asked of git: hides the processes, their environment, and the format of what they print.

The only module that runs git. Nothing here reaches a network but `reach`, which only sharing calls: objects
that a partial clone does not have are reported, not fetched, and none of the user's diff programs is started.
"""

import os
import re
import select
import signal
import subprocess
import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import suppress
from functools import cached_property
from itertools import chain
from pathlib import Path
from typing import IO, Generic

from gitpeft.diff.patch import FileChange
from gitpeft.errors import GitpeftError
from gitpeft.git.log import (
    Commit,
    CommitParser,
    ParsedItem,
    RecordParser,
    SkippedCommit,
    build_format_option,
    decode_text,
    new_record_mark,
)
from gitpeft.lazy import lazy_dataclass, replace_fields

OLDEST_GIT = (2, 31)
"""The oldest git that is understood: the first with `--path-format=absolute` and `--diff-merges`."""

NON_EDITORS = frozenset({"", ":", "true", "cat"})
"""Programs that git may call for a message, and that show it to nobody."""

REPOSITORY_VARIABLES = (
    *("GIT_ALTERNATE_OBJECT_DIRECTORIES", "GIT_COMMON_DIR", "GIT_CONFIG", "GIT_CONFIG_COUNT"),
    *("GIT_CONFIG_PARAMETERS", "GIT_DIR", "GIT_GRAFT_FILE", "GIT_IMPLICIT_WORK_TREE", "GIT_INDEX_FILE"),
    *("GIT_INTERNAL_SUPER_PREFIX", "GIT_NO_REPLACE_OBJECTS", "GIT_OBJECT_DIRECTORY", "GIT_PREFIX"),
    *("GIT_REPLACE_REF_BASE", "GIT_SHALLOW_FILE", "GIT_WORK_TREE"),
)
"""What `git rev-parse --local-env-vars` names: inherited in a hook, wrong for any other repository."""

_BASE_ENVIRONMENT = {
    "GIT_ALLOW_PROTOCOL": "none",  # before 2.45 this is what keeps a partial clone from fetching
    "GIT_NO_LAZY_FETCH": "1",
    "GIT_NO_REPLACE_OBJECTS": "1",
    "GIT_OPTIONAL_LOCKS": "0",
    "GIT_TERMINAL_PROMPT": "0",
    "LC_ALL": "C",
}
_STREAM_ENVIRONMENT = {
    "GIT_FLUSH": "0",  # or git flushes, and so wakes this process, after every single commit
    # glibc would hand back and fetch anew the memory of each larger file: up to half of git's system time
    "MALLOC_MMAP_THRESHOLD_": str(32 << 20),
    "MALLOC_TRIM_THRESHOLD_": str(256 << 20),
}
_UNWANTED_VARIABLES = ("GIT_EXTERNAL_DIFF", "GIT_DIFF_OPTS", "GIT_PAGER", "GIT_TRACE", "GIT_TRACE2")

_GIT_SETTINGS = (
    "core.bigFileThreshold=1m",  # larger files are binary to git: their content is never held in memory
    "core.quotePath=true",
    "diff.suppressBlankEmpty=false",
    "i18n.logOutputEncoding=UTF-8",
)
_GIT_COMMAND = ["git", "--no-pager", *(part for setting in _GIT_SETTINGS for part in ("-c", setting))]

DIFF_OPTIONS = (
    *("-p", "-U1", "-M50%", "-l400", "--full-index", "--diff-algorithm=myers", "--indent-heuristic"),
    *("--inter-hunk-context=0", "--src-prefix=a/", "--dst-prefix=b/", "--submodule=short"),
    *("--no-ext-diff", "--no-textconv", "--no-color", "--ignore-submodules=none"),
    "--ita-invisible-in-index",
)
"""The options of every patch, so that a staged change reads like the commit that it becomes."""

_DIFF_TREE_COMMAND = ("diff-tree", "--stdin", "--always", "--root", "-r")
_CHUNK_BYTES = 1 << 18
_PIPE_BYTES = 1 << 20
_COMMITS_PER_BLOCK = 64
_OBJECTS_PER_CALL = 256
_MIN_BINARY_BYTES = 1 << 20  # core.bigFileThreshold, above
_MAX_PREVIOUS_COMMITS = 200


@lazy_dataclass(frozen=True, slots=True)
class GitResult:
    """What a run of git printed, and its exit code."""

    code: int
    out: str
    err: str


@lazy_dataclass(frozen=True)
class Repository:
    """A repository as git sees it from `cwd`; `work_tree` is None where it is bare."""

    cwd: Path
    git_dir: Path
    common_dir: Path
    work_tree: Path | None
    empty_tree: str
    environment: Mapping[str, str]

    @classmethod
    def open(cls, path: Path | None = None) -> "Repository":
        """The repository at `path`, or the current one, for which a hook's inherited `GIT_*` hold.

        Raises GitpeftError when there is none, or no usable git.
        """
        cwd = Path.cwd() if path is None else Path(path).absolute()
        if not cwd.is_dir():
            raise GitpeftError(f"{cwd} is not a directory", "Give the path of a git repository.")
        environment = _build_environment(foreign=path is not None)
        places = ["--absolute-git-dir", "--git-common-dir", "--show-object-format", "--show-toplevel"]
        asked = _start_process(
            [*_GIT_COMMAND, "rev-parse", "--path-format=absolute", *places], cwd, environment
        )
        output, errors = _wait_for_output(asked)
        lines = os.fsdecode(output).splitlines()
        if len(lines) < 3:
            raise _no_repository_error(cwd, errors)
        empty = _EMPTY_TREES.get(lines[2], _EMPTY_TREES["sha1"])
        top = Path(lines[3]) if len(lines) > 3 else None
        return cls(cwd, Path(lines[0]), Path(lines[1]), top, empty, environment)

    @property
    def state_dir(self) -> Path:
        """Where all state of this project lives; shared by the worktrees. Not created here."""
        return self.common_dir / "gitpeft"

    def run(self, *args: str, input: bytes | None = None) -> bytes:
        """What `git ARGS` prints. Raises GitpeftError, with git's own words, when it fails."""
        process = _start_process([*_GIT_COMMAND, *args], self.cwd, self.environment, piped=input is not None)
        output, errors = _wait_for_output(process, input)
        if process.returncode:
            said = errors.decode("utf-8", "replace").strip() or f"exit status {process.returncode}"
            raise GitpeftError(f"git {args[0]}: {said.splitlines()[0]}")
        return output

    def run_limited(self, limit: int, *args: str) -> bytes:
        """At most the first `limit` bytes of what `git ARGS` prints; it is ended then."""
        with _start_process([*_GIT_COMMAND, *args], self.cwd, self.environment) as process:
            assert process.stdout is not None
            try:
                return process.stdout.read(limit)
            finally:
                process.kill()

    def run_with_network(self, *args: str) -> GitResult:
        """Run git as its user would, who wants another repository reached: their protocols, helpers, prompts.

        What it said and how it ended; a failure is the caller's to judge.
        """
        asked = ("GIT_ALLOW_PROTOCOL", "GIT_TERMINAL_PROMPT")
        own = {key: os.environ[key] for key in asked if key in os.environ}
        kept = {key: value for key, value in self.environment.items() if key not in asked}
        process = _start_process([*_GIT_COMMAND, *args], self.cwd, {**kept, **own})
        output, errors = process.communicate()
        return GitResult(process.returncode, _decode_output(output), _decode_output(errors))

    def list_remotes(self) -> list[str]:
        """The names of the remotes."""
        from git import Repo

        with Repo(self.git_dir) as repo:
            return [remote.name for remote in repo.remotes]

    def run_with_terminal(self, args: Sequence[str]) -> int:
        """Run git with this process's terminal and environment, so that hooks and editor have both.

        Its exit code, as a shell gives it. Ctrl-C is for git, which goes on where an editor is open.
        """
        kept = {
            *self.environment,
            *_UNWANTED_VARIABLES,
        }  # what another repository must not inherit is not there
        environment = {key: value for key, value in os.environ.items() if key in kept}
        before = signal.signal(signal.SIGINT, lambda *_: None)  # a handler, unlike SIG_IGN, is not inherited
        try:
            code = subprocess.call(["git", *args], cwd=self.cwd, env=environment)
        finally:
            signal.signal(signal.SIGINT, before)
        return code if code >= 0 else 128 - code

    def find_editor(self) -> str:
        """The name of the program in which git opens a message, without its folder; "" for none."""
        said = os.environ.get("GIT_EDITOR") or self.query_text("var", "GIT_EDITOR")
        words = said.split() if set(said).isdisjoint("'\"\\") else _split_shell_words(said)
        names = [word.rpartition("/")[2] for word in words if "=" not in word]
        return next((name for name in names if name != "env"), "")

    def query_text(self, *args: str) -> str:
        """What `git ARGS` prints as text without the last line end, or `""` when it fails."""
        try:
            return _decode_output(self.run(*args)).rstrip("\n")
        except GitpeftError:
            return ""

    @cached_property
    def git_version(self) -> tuple[int, ...]:
        """The version of git as numbers, `(2, 39, 5)`."""
        found = re.search(r"\d+(?:\.\d+)+", self.query_text("version"))
        return tuple(int(part) for part in found[0].split(".")) if found else ()

    def resolve_commit(self, rev: str) -> str:
        """The id of the commit that `rev` names. Raises GitpeftError when it names none."""
        sha = self.query_text("rev-parse", "--verify", "--quiet", "--end-of-options", f"{rev}^{{commit}}")
        if not sha:
            raise GitpeftError(f"{rev!r} names no commit here", "See `git log --oneline`.")
        return sha

    def resolve_head(self) -> str | None:
        """The id of the current commit; None before the first one."""
        return self.query_text("rev-parse", "--verify", "--quiet", "HEAD^{commit}") or None

    def list_branches(self) -> list[str]:
        """The names of all branches, the remotes' as well."""
        return self.query_text(
            "for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/remotes"
        ).splitlines()

    def get_config(self, key: str, default: str | None = None) -> str | None:
        """The value of a setting, the last one where several are given."""
        try:
            return _decode_output(self.run("config", "-z", "--get", key)).removesuffix("\0")
        except GitpeftError:
            return default

    def get_config_by_prefix(self, prefix: str) -> dict[str, str]:
        """Every setting whose (lower-case) name starts with `prefix`, by name, in one process."""
        try:
            output = self.run("config", "-z", "--get-regexp", "^" + re.escape(prefix))
        except GitpeftError:
            return {}
        pairs = (_decode_output(item).partition("\n") for item in output.split(b"\0") if item)
        return {key: value if mark else "true" for key, mark, value in pairs}

    def find_hooks_dir(self) -> Path:
        """Where git looks for hooks now (`core.hooksPath` and worktrees included); it may not exist."""
        return self.cwd / os.fsdecode(self.run("rev-parse", "--git-path", "hooks").rstrip(b"\n"))

    def read_staged_patch(self) -> bytes:
        """The change in the index (that of `GIT_INDEX_FILE` in a hook) as a patch for `diff.parse`."""
        try:
            return self.run("diff-index", "--cached", *DIFF_OPTIONS, "HEAD", "--")
        except GitpeftError:
            if self.resolve_head() is not None:
                raise
        return self.run("diff-index", "--cached", *DIFF_OPTIONS, self.empty_tree, "--")

    def read_commit_patch(self, rev: str) -> bytes:
        """The change of a commit against its first parent, as a patch for `diff.parse`."""
        options = ["--root", "--no-commit-id", "--diff-merges=first-parent"]
        return self.run("diff-tree", *options, *DIFF_OPTIONS, self.resolve_commit(rev), "--")

    def mark_generated_files(self, files: Sequence[FileChange], known: dict[str, bool] | None = None) -> None:
        """Make those files generated ones, named and not shown, that are marked `linguist-generated`.

        It is `.gitattributes` of now that counts, for old commits as well. Git looks the attribute up, which
        runs no filter. `known` keeps what was looked up, by path.
        """
        known = {} if known is None else known
        texts = [file for file in files if file.kind == "text"]
        if unknown := list(dict.fromkeys(file.path for file in texts if file.path not in known)):
            known |= self._look_up_generated(unknown)
        for file in texts:
            if known[file.path]:
                file.kind, file.hunks = "generated", []

    def _has_attributes(self) -> bool:
        """Whether any path can have one; a history is read a tenth faster where none can."""
        if (self.common_dir / "info" / "attributes").exists() or self.get_config("core.attributesFile"):
            return True
        if self.work_tree is None:
            return False
        top = replace_fields(self, cwd=self.work_tree)
        return bool(top.query_text("ls-files", "--", ".gitattributes", "**/.gitattributes"))

    def _look_up_generated(self, paths: Sequence[str]) -> dict[str, bool]:
        """Whether each path, from the top of the work tree, has the attribute; without a tree none has."""
        if self.work_tree is None:
            return dict.fromkeys(paths, False)
        top = replace_fields(self, cwd=self.work_tree)
        asked = "\0".join(paths).encode("utf-8", "replace")
        values = top.run("check-attr", "-z", "--stdin", "linguist-generated", input=asked).split(b"\0")[2::3]
        return {path: value in (b"set", b"true") for path, value in zip(paths, values, strict=True)}

    def find_previous_subject(self, author: str | None = None, rev: str = "HEAD") -> str:
        """The newest subject by the author with this mail address (default: who commits now), `""` if none.

        Looks at the newest 200 commits that are no merges, up to and including `rev`.
        """
        mail = author or self.environment.get("GIT_AUTHOR_EMAIL") or self._find_own_email()
        shape = ["--no-show-signature", "--format=%ae%x00%s"]
        try:
            log = self.run(
                "log", f"-{_MAX_PREVIOUS_COMMITS}", "--no-merges", *shape, "--end-of-options", rev, "--"
            )
        except GitpeftError:
            return ""
        for line in map(decode_text, log.split(b"\n")):
            mail_of, _, subject = line.partition("\0")
            if mail_of.lower() == mail.lower():
                return subject
        return ""

    def find_subject_before(self, rev: str) -> str:
        """As `previous_subject`, for the author of a commit, looking at what came before it."""
        sha = self.resolve_commit(rev)
        shape = ["--no-show-signature", "--format=%ae%x00%P"]
        mail, _, parents = self.query_text("log", "-1", *shape, sha, "--").partition("\0")
        return self.find_previous_subject(mail.strip(), f"{sha}^") if parents.strip() else ""

    def _find_own_email(self) -> str:
        found = re.search(r"<([^<>]*)>[^<>]*$", self.query_text("var", "GIT_AUTHOR_IDENT"))
        return found[1] if found else ""

    def rev_list(self, *tips: str) -> list[tuple[str, tuple[str, ...]]]:
        """The commits that `tips` (or options such as `--all`) reach, oldest first, each with its parents."""
        order = ["--parents", "--date-order", "--reverse"]
        lines = self.run("rev-list", *order, *tips, "--").decode().splitlines()
        return [(sha, tuple(parents)) for sha, *parents in map(str.split, lines)]

    def list_range_commits(self, between: str) -> list[str]:
        """The commits of a range `A..B` that are no merges, oldest first. GitpeftError when it names none."""
        order = ["--no-merges", "--date-order", "--reverse", "--end-of-options"]
        try:
            return self.run("rev-list", *order, between, "--").decode().split()
        except GitpeftError:
            raise GitpeftError(f"{between!r} names no commits here", "See `git log --oneline`.") from None

    def count_commits_since(self, rev: str) -> int | None:
        """How many commits HEAD has that `rev` has not; None where one of them is unknown here."""
        from git import GitCommandError, Repo

        try:
            with Repo(self.git_dir) as repo:
                return int(repo.git.rev_list("--count", "--end-of-options", f"{rev}..HEAD", "--"))
        except (GitCommandError, ValueError):
            return None

    def list_shallow_commits(self) -> frozenset[str]:
        """The commits at which a shallow clone was cut: their parents, so their changes, are not here."""
        try:
            return frozenset((self.common_dir / "shallow").read_text("ascii").split())
        except FileNotFoundError:
            return frozenset()

    def stream_commits(self, shas: Sequence[str], jobs: int = 2) -> Iterator[Commit | SkippedCommit]:
        """Each of the commits with its change, in no promised order, streamed from `jobs` git processes.

        Give the newest first: deltas in a pack lead from newer to older content.
        """
        yield from self.stream_diff_tree(shas, DIFF_OPTIONS, CommitParser, jobs)

    def stream_diff_tree(
        self,
        shas: Sequence[str],
        options: Sequence[str],
        cutter: type[RecordParser[ParsedItem]],
        jobs: int = 2,
    ) -> Iterator[ParsedItem | SkippedCommit]:
        """What `cutter` makes of the output of `git diff-tree OPTIONS` on each commit; else as `log`."""
        cut = self.list_shallow_commits()
        yield from (SkippedCommit(sha, "shallow") for sha in shas if sha in cut)
        shas = [sha for sha in shas if sha not in cut]
        blocks = [shas[i : i + _COMMITS_PER_BLOCK] for i in range(0, len(shas), _COMMITS_PER_BLOCK)]
        shares = [list(chain(*blocks[i::jobs])) for i in range(min(jobs, len(blocks)))]
        streams = [_CommitStream(self, share, options, cutter) for share in shares]
        known: dict[str, bool] = {}
        attributes = self._has_attributes()
        try:
            while streams:
                for stream in streams[:]:
                    batch = stream.read_chunk()
                    if batch is None:
                        streams.remove(stream)
                    if attributes:
                        changes = (item.files for item in batch or () if isinstance(item, Commit))
                        self.mark_generated_files(list(chain.from_iterable(changes)), known)
                    yield from batch or ()
        finally:
            for stream in streams:
                stream.close()

    def list_newer_commits(self, tip: str, than: str, most: int) -> list[str]:
        """The newest commits that `tip` has and `than` has not, newest first; merges aside.

        GitpeftError when one of the two names no commit here; an empty `than` excludes nothing.
        """
        excluded = [f"^{than}"] if than else []
        options = ["--no-merges", "--date-order", f"-{most}"]
        return self.run("rev-list", *options, "--end-of-options", tip, *excluded, "--").decode().split()

    def read_commits_within(self, shas: Sequence[str], seconds: float) -> list[Commit]:
        """As many of the commits, in their order, as git prints in this time and without a missing object.

        For a few commits (their ids must fit into a pipe) and a caller that cannot wait.
        """
        until = time.monotonic() + seconds
        mark = new_record_mark()
        parser = CommitParser(mark)
        listed, into = os.pipe()
        with os.fdopen(into, "wb") as pipe:
            pipe.write("".join(f"{sha}\n" for sha in shas).encode())
        with os.fdopen(listed, "rb") as pipe:
            process = self._start_with_input(
                pipe, [*_DIFF_TREE_COMMAND, *DIFF_OPTIONS, build_format_option(mark)]
            )
        assert process.stdout
        found: list[Commit] = []
        try:
            while (left := until - time.monotonic()) > 0 and select.select([process.stdout], [], [], left)[0]:
                if chunk := os.read(process.stdout.fileno(), _CHUNK_BYTES):
                    found += parser.feed(chunk)
                    continue
                if process.wait() == 0:
                    return found + parser.close()
                # git may have died of this commit or of the next one, so it is asked for alone
                alone = shas[len(found) : len(found) + 1] if len(shas) > 1 else []
                return found + (self.read_commits_within(alone, left) if alone else [])
        finally:
            process.kill()
            process.stdout.close()
            process.wait()
        return found

    def read_commit_messages(self, tip: str) -> list[Commit]:
        """The commits that `tip` reaches, with messages but no files, every parent before its children."""
        mark = new_record_mark()
        parser = CommitParser(mark)
        order = [
            "--topo-order",
            "--reverse",
            "--no-show-signature",
            build_format_option(mark, CommitParser.FIELDS),
        ]
        return [*parser.feed(self.run("log", *order, tip, "--")), *parser.close()]

    def read_blobs(self, ids: Sequence[str]) -> Iterator[bytes | None]:
        """The content of each blob, in the order given; None for one that is not here.

        Ask a partial clone for blobs only that a diff has read: others it would try to fetch, and die.
        """
        process = self._start_with_lines(["cat-file", "--batch", "--buffer"], ids)
        assert process.stdout
        _widen_pipe(process)
        try:
            for _ in ids:
                head = process.stdout.readline().split()
                size = int(head[2]) if len(head) == 3 and head[1] == b"blob" else None
                yield None if size is None else process.stdout.read(size + 1)[:-1]
        finally:
            process.stdout.close()
            process.wait()

    def read_file(self, rev: str, path: str) -> bytes:
        """The content of a file as committed; empty where there is none."""
        try:
            return self.run("cat-file", "blob", f"{rev}:{path}")
        except GitpeftError:
            return b""

    def find_incomplete_commits(self, shas: Sequence[str]) -> set[str]:
        """Those of the commits whose change needs an object that is not here (a partial clone).

        Asks for what exists and compares, because asking for a missing object would try to fetch it. Where
        even a directory is missing, git stops, and every commit from there on counts.
        """
        needed: dict[str, set[bytes]] = {}
        mark = new_record_mark()
        raw = ["--raw", "--no-renames", "--no-abbrev", "-z", build_format_option(mark, "%H%x00")]
        process = self._start_diff_tree(shas, raw)
        output = process.communicate()[0]
        for printed in output.split(mark)[1:]:
            sha, _, *items = printed.split(b"\0")
            needed[sha.decode()] = {blob for item in items[::2] for blob in _parse_raw_blobs(item)}
        if process.returncode and needed:
            needed.popitem()
        absent = set().union(*needed.values()) - self._list_present_objects()
        return {sha for sha in shas if sha not in needed or needed[sha] & absent}

    def _list_present_objects(self) -> set[bytes]:
        """Every object that is here."""
        options = ["--batch-all-objects", "--unordered", "--batch-check=%(objectname)"]
        return set(self.run("cat-file", *options).split())

    def read_head_and_line_counts(self, names: Sequence[str]) -> tuple[str | None, dict[str, int]]:
        """`head` and `line_counts` in one process, as far as one is enough."""
        asked = names[:_OBJECTS_PER_CALL]
        lines = "".join(f"{name}\n" for name in ("HEAD^{commit}", *asked)).encode("utf-8", "replace")
        first, _, output = self.run("cat-file", "--batch", input=lines).partition(b"\n")
        sha, kind, *size = first.split(b" ")
        if kind == b"commit":
            output = output[int(size[0]) + 1 :]
        found = _count_batch_lines(asked, output) | self.read_line_counts(names[_OBJECTS_PER_CALL:])
        return (sha.decode() if kind == b"commit" else None), found

    def read_line_counts(self, names: Sequence[str]) -> dict[str, int]:
        """The number of lines of each content that git knows by such a name (an id, `REV:PATH`) and has here.

        A last line without an end counts; what git would take for binary has none.
        """
        found: dict[str, int] = {}
        for start in range(0, len(names), _OBJECTS_PER_CALL):
            asked = names[start : start + _OBJECTS_PER_CALL]
            lines = "".join(f"{name}\n" for name in asked).encode("utf-8", "replace")
            found |= _count_batch_lines(asked, self.run("cat-file", "--batch", input=lines))
        return found

    def _start_diff_tree(self, shas: Sequence[str], options: Sequence[str]) -> subprocess.Popen[bytes]:
        """`git diff-tree` over the commits."""
        return self._start_with_lines([*_DIFF_TREE_COMMAND, *options], shas)

    def _start_with_lines(self, arguments: Sequence[str], lines: Sequence[str]) -> subprocess.Popen[bytes]:
        """Git reading lines, which wait in a file, so that no pipe can fill up both ways."""
        import tempfile  # not on the way of the hook, which never gets here

        with tempfile.TemporaryFile() as listed:
            listed.write("".join(f"{line}\n" for line in lines).encode())
            listed.seek(0)
            return self._start_with_input(listed, arguments)

    def _start_with_input(self, listed: IO[bytes], arguments: Sequence[str]) -> subprocess.Popen[bytes]:
        """Git with a file on its standard input."""
        return subprocess.Popen(
            [*_GIT_COMMAND, *arguments],
            cwd=self.cwd,
            env={**self.environment, **_STREAM_ENVIRONMENT},
            stdin=listed,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
        )


class _CommitStream(Generic[ParsedItem]):
    """One git process reading commits, started again behind each commit that it dies of."""

    def __init__(
        self,
        repository: Repository,
        shas: list[str],
        options: Sequence[str],
        cutter: type[RecordParser[ParsedItem]],
    ) -> None:
        self.repository = repository
        self.shas = shas
        self.options = options
        self.cutter = cutter
        self.at = 0
        self.checked = False
        self._start_git(len(shas))

    def _start_git(self, until: int) -> None:
        """Start git on the commits from `at` to `until`."""
        mark = new_record_mark()
        self.until = until
        self.parser = self.cutter(mark)
        options = [*self.options, build_format_option(mark, self.cutter.FIELDS)]
        self.process = self.repository._start_diff_tree(self.shas[self.at : until], options)
        _widen_pipe(self.process)

    def read_chunk(self) -> list[ParsedItem | SkippedCommit] | None:
        """The commits of the next chunk; None at the end."""
        if self.at == len(self.shas):
            self.close()
            return None
        assert self.process.stdout
        if chunk := self.process.stdout.read(_CHUNK_BYTES):
            return self._insert_skipped(self.parser.feed(chunk))
        self.close()
        if self.process.returncode:
            return self._recover_from_crash()
        found = self._insert_skipped(self.parser.close())
        found += self._skip_until(self.until, "unreadable")
        if self.at < len(self.shas):
            self._start_git(len(self.shas))
        return found

    def close(self) -> None:
        """Collect the process; one that still writes ends by this."""
        assert self.process.stdout
        self.process.stdout.close()
        self.process.wait()

    def _insert_skipped(self, commits: list[ParsedItem]) -> list[ParsedItem | SkippedCommit]:
        """The same commits, and those between them of which git said nothing."""
        out: list[ParsedItem | SkippedCommit] = []
        for commit in commits:
            out += self._skip_until(self.shas.index(commit.sha, self.at), "unreadable")
            out.append(commit)
            self.at += 1
        return out

    def _skip_until(self, until: int, reason: str) -> list[ParsedItem | SkippedCommit]:
        skipped = self.shas[self.at : until]
        self.at = until
        return [SkippedCommit(sha, reason) for sha in skipped]

    def _recover_from_crash(self) -> list[ParsedItem | SkippedCommit]:
        """Git met an object that it cannot read: leave out the commits that need one, and go on.

        Git may die before or while it prints a commit, so the first one that is left is then asked for alone.
        """
        if not self.checked:
            self.checked = True
            self.shas, self.at = self.shas[self.at :], 0
            gone = self.repository.find_incomplete_commits(self.shas)
            out: list[ParsedItem | SkippedCommit] = [
                SkippedCommit(sha, "missing") for sha in self.shas if sha in gone
            ]
            self.shas = [sha for sha in self.shas if sha not in gone]
            self._start_git(len(self.shas))
            return out
        if self.until - self.at > 1:
            self._start_git(self.at + 1)
            return []
        out = self._skip_until(self.at + 1, "unreadable")
        self._start_git(len(self.shas))
        return out


_EMPTY_TREES = {
    "sha1": "4b825dc642cb6eb9a060e54bf8d69288fbee4904",
    "sha256": "6ef19b41225c5369f1c104d45d8d85efa9b057b53b14b4b9b939dd74decc5321",
}


def _split_shell_words(text: str) -> list[str]:
    import shlex  # hardly ever needed

    try:
        return shlex.split(text)
    except ValueError:  # a mistake for the shell to tell
        return text.split()


def _build_environment(foreign: bool) -> dict[str, str]:
    """The environment for git; without what a hook inherits when the repository may be another one."""
    dropped = {*_UNWANTED_VARIABLES, *(REPOSITORY_VARIABLES if foreign else ())}
    return {key: value for key, value in os.environ.items() if key not in dropped} | _BASE_ENVIRONMENT


def _start_process(
    command: Sequence[str], cwd: Path, environment: Mapping[str, str], piped: bool = False
) -> subprocess.Popen[bytes]:
    pipe = subprocess.PIPE
    try:
        return subprocess.Popen(
            command,
            cwd=cwd,
            env=environment,
            stdin=pipe if piped else subprocess.DEVNULL,
            stdout=pipe,
            stderr=pipe,
        )
    except FileNotFoundError as error:
        raise GitpeftError("git was not found", "Install git, or put it on the PATH.") from error


def _wait_for_output(process: subprocess.Popen[bytes], input: bytes | None = None) -> tuple[bytes, bytes]:
    """All that a process says; it is ended when nobody waits for it any more (time is up, or Ctrl-C)."""
    with process:
        try:
            return process.communicate(input)
        except BaseException:
            process.kill()
            raise


def _no_repository_error(cwd: Path, errors: bytes) -> GitpeftError:
    said = errors.decode("utf-8", "replace").strip()
    if "dubious ownership" in said:
        return GitpeftError(f"git does not trust {cwd}: another user owns it", said.splitlines()[-1].strip())
    if "not a git repository" in said:
        return GitpeftError(f"{cwd} is not in a git repository", "Run this inside a clone, or give its path.")
    oldest = ".".join(map(str, OLDEST_GIT))
    first = said.splitlines()[0] if said else "git gave no answer"
    return GitpeftError(first, f"gitpeft needs git {oldest} or newer.")


def _widen_pipe(process: subprocess.Popen[bytes]) -> None:
    """A wide pipe lets git run ahead while this process parses; where it cannot be had, things still work."""
    with suppress(ImportError, AttributeError, OSError):
        import fcntl

        assert process.stdout
        fcntl.fcntl(process.stdout, fcntl.F_SETPIPE_SZ, _PIPE_BYTES)


def _parse_raw_blobs(item: bytes) -> list[bytes]:
    """The blobs in a line of `--raw` output; neither absent sides nor submodules."""
    old_mode, new_mode, old, new, *_ = item.lstrip(b"\n:").split(b" ") if b" " in item else [b"000000"] * 4
    return [blob for mode, blob in ((old_mode, old), (new_mode, new)) if mode not in (b"000000", b"160000")]


def _count_batch_lines(names: Sequence[str], output: bytes) -> dict[str, int]:
    """Lines by name from the output of `cat-file --batch`; names without a content are left out."""
    found = {}
    at = 0
    for name in names:
        end = output.index(b"\n", at)
        size = output[at:end].rpartition(b" ")[2]
        at = end + 1
        if size.isdigit():
            content = output[at : at + int(size)]
            at += int(size) + 1
            binary = len(content) > _MIN_BINARY_BYTES or b"\0" in content[:8000]
            found[name] = 0 if binary else content.count(b"\n") + (content[-1:] not in (b"", b"\n"))
    return found


def _decode_output(output: bytes) -> str:
    return output.decode("utf-8", "replace")
