"""A git repository: where it is, its settings, revisions and staged change.

Together with `git.streams` and `git.objects` this is everything that is asked of git. GitPython is used only
for remotes and for counting commits, both outside the hook: importing it takes 120-157 ms, and it reads refs
and settings by parsers of its own, which know neither reftables nor the environment of a hook.
"""

import io
import os
import re
import signal
import subprocess
import time
from collections.abc import Mapping, Sequence
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING

from gitpeft.errors import GitFailedError, GitpeftError
from gitpeft.git.mailmap import Mailmap
from gitpeft.git.places import EMPTY_TREES, find_places
from gitpeft.git.process import (
    UNWANTED_VARIABLES,
    build_environment,
    decode_output,
    decode_text,
    lend_environment,
    start_git,
    wait_for_output,
)
from gitpeft.lazy import lazy_dataclass, lazy_pattern, replace_fields
from gitpeft.terminal import decode_exactly, encode_exactly

if TYPE_CHECKING:
    from gitpeft.diff.patch import FileChange

NON_EDITORS = frozenset({"", ":", "true", "cat"})
"""Values of GIT_EDITOR that open no editor: the message is shown to nobody."""

DIFF_OPTIONS = (
    *("-p", "-U1", "-M50%", "-l400", "--full-index", "--diff-algorithm=myers", "--indent-heuristic"),
    *("--inter-hunk-context=0", "--src-prefix=a/", "--dst-prefix=b/", "--submodule=short"),
    *("--no-ext-diff", "--no-textconv", "--no-color", "--ignore-submodules=none"),
    "--ita-invisible-in-index",
)
"""The options of every patch, so that a staged change reads exactly like the commit that it becomes."""

_MAX_PREVIOUS_COMMITS = 200
_INDEX_BYTES_READ = 64 << 10
_FULL_ID = lazy_pattern(r"[0-9a-f]{40}(?:[0-9a-f]{24})?")


@lazy_dataclass(frozen=True, slots=True)
class GitResult:
    """The exit code and output of a git process."""

    code: int
    out: str
    err: str


@lazy_dataclass(frozen=True)
class Repository:
    """A repository as git sees it from `cwd`; `work_tree` is None in a bare one.

    `environment` is that of every git process, `empty_tree` the id of the empty tree in its hash algorithm.
    """

    cwd: Path
    git_dir: Path
    common_dir: Path
    work_tree: Path | None
    empty_tree: str
    environment: Mapping[str, str]

    @classmethod
    def open(cls, path: Path | None = None) -> "Repository":
        """Open the repository at `path`, or the current one, where the `GIT_*` variables of a hook apply.

        Raises GitpeftError when there is none, or no usable git.
        """
        cwd = Path.cwd() if path is None else Path(path).absolute()
        if not cwd.is_dir():
            raise GitpeftError(f"{cwd} is not a directory", "Pass the path of a git repository.")
        environment = build_environment(foreign=path is not None)
        found = find_places(cwd, environment)
        empty = EMPTY_TREES.get(found.algorithm, EMPTY_TREES["sha1"])
        return cls(cwd, found.git_dir, found.common_dir, found.work_tree, empty, environment)

    @property
    def state_dir(self) -> Path:
        """The folder of all of gitpeft's state, shared by the worktrees. Not created here."""
        return self.common_dir / "gitpeft"

    def run(self, *args: str, input: bytes | None = None) -> bytes:
        """Run git and return its output. Raises GitpeftError with git's error message when it fails."""
        process = start_git(args, self.cwd, self.environment, piped=input is not None)
        output, errors = wait_for_output(process, input)
        if process.returncode:
            message = decode_output(errors).strip() or f"exit status {process.returncode}"
            raise GitFailedError(f"git {args[0]}: {message.partition(chr(10))[0]}", process.returncode)
        return output

    def run_limited(self, limit: int, *args: str) -> bytes:
        """Run git, return at most the first `limit` bytes of its output, and end it."""
        with start_git(args, self.cwd, self.environment) as process:
            assert process.stdout is not None
            try:
                return process.stdout.read(limit)
            finally:
                process.kill()

    def run_with_network(self, *args: str) -> GitResult:
        """Run git with the network: the user's protocols, credential helpers and prompts.

        A failure raises nothing; the caller judges the exit code.
        """
        lifted = ("GIT_ALLOW_PROTOCOL", "GIT_TERMINAL_PROMPT")
        own = {key: os.environ[key] for key in lifted if key in os.environ}
        kept = {key: value for key, value in self.environment.items() if key not in lifted}
        process = start_git(args, self.cwd, {**kept, **own})
        output, errors = process.communicate()
        return GitResult(process.returncode, decode_output(output), decode_output(errors))

    def list_remotes(self) -> list[str]:
        """The names of the remotes, wherever git finds them configured."""
        return self._ask_gitpython("remote").split()

    def _ask_gitpython(self, *args: str) -> str:
        from git import Git, GitCommandError

        try:
            with lend_environment(self.environment):
                return str(Git(self.cwd).execute(["git", *args]))
        except GitCommandError as error:
            raise GitFailedError(f"git {args[0]}: {error.stderr.strip()}", 128) from None

    def run_with_terminal(self, args: Sequence[str]) -> int:
        """Run git with this process's terminal and environment, for its hooks and editor.

        Returns the exit code as a shell does, 128 + the signal. Ctrl-C is left to git, which ignores it while
        an editor is open.
        """
        kept = {*self.environment, *UNWANTED_VARIABLES}  # without variables of another repository
        environment = {key: value for key, value in os.environ.items() if key in kept}
        before = signal.signal(signal.SIGINT, lambda *_: None)  # a handler, unlike SIG_IGN, is not inherited
        try:
            code = subprocess.call(["git", *args], cwd=self.cwd, env=environment)
        finally:
            signal.signal(signal.SIGINT, before)
        return code if code >= 0 else 128 - code

    def find_editor(self) -> str:
        """The name of the program in which git opens a message, without its folder; "" for none."""
        command = os.environ.get("GIT_EDITOR") or self.query_text("var", "GIT_EDITOR")
        words = command.split() if set(command).isdisjoint("'\"\\") else _split_shell_words(command)
        names = [word.rpartition("/")[2] for word in words if "=" not in word]
        return next((name for name in names if name != "env"), "")

    def ask_text(self, *args: str) -> str:
        """Run git and return its output as text, without the last line end; "" where git says "no".

        That is exit code 1, as of `git config --get` for what is not set. Any other is a GitFailedError.
        """
        try:
            return decode_output(self.run(*args)).removesuffix("\n")
        except GitFailedError as error:
            if error.code != 1:
                raise
            return ""

    def query_text(self, *args: str) -> str:
        """As `ask_text`, but "" for a failure too: where that is an answer, or the next step reports it."""
        try:
            return decode_output(self.run(*args)).removesuffix("\n")
        except GitFailedError:
            return ""

    @cached_property
    def git_version(self) -> tuple[int, ...]:
        """The version of git as numbers, `(2, 39, 5)`."""
        found = re.search(r"\d+(?:\.\d+)+", self.ask_text("version"))
        return tuple(int(part) for part in found[0].split(".")) if found else ()

    def has_commit(self, rev: str) -> bool:
        """Whether a commit is known here."""
        name = f"{rev}^{{commit}}"
        return bool(self.ask_text("rev-parse", "--verify", "--quiet", "--end-of-options", name))

    def resolve_commit(self, rev: str) -> str:
        """The id of the commit that `rev` names, in any way that git knows (`:/text`, `main@{yesterday}`).

        Raises GitpeftError when there is none, or when it names several.
        """
        named = [rev] if _FULL_ID.fullmatch(rev) else self.resolve_revisions(rev)
        if not names_one_commit(named):
            raise GitpeftError(f"{rev!r} does not name one commit", "Name a single commit here, not a range.")
        sha = self.ask_text("rev-parse", "--verify", "--quiet", f"{named[0]}^{{commit}}")
        if not sha:
            raise _make_unknown_error(rev)
        return sha

    def resolve_revisions(self, text: str) -> list[str]:
        """What git takes a revision or a range for: ids, those that are left out with a `^` before them.

        The text is handed to git as it is. Raises GitpeftError with git's message when it names nothing.
        """
        try:
            # one argument, so that the dots in `:/fix a..b` are git's to judge, like everything else
            output = self.run("rev-parse", "--revs-only", "--end-of-options", text, "--")
        except GitpeftError as error:
            reason = error.message.partition("fatal: ")[2]
            if reason and not reason.startswith("bad revision"):
                raise GitpeftError(f"revision {text!r}: {reason}", "See `git log --oneline`.") from None
            raise _make_unknown_error(text) from None
        if not output.strip():
            raise _make_unknown_error(text)
        return output.decode("ascii").split()

    def resolve_head(self) -> str | None:
        """The id of the current commit; None before the first one."""
        return self.ask_text("rev-parse", "--verify", "--quiet", "HEAD^{commit}") or None

    def read_branch_name(self) -> str:
        """The current branch; "" on none, and where only git can read it. Runs nothing."""
        try:
            text = (self.git_dir / "HEAD").read_text(encoding="utf-8", errors="replace")
        except OSError:
            return ""
        name = text.strip().removeprefix("ref: refs/heads/")
        return "" if name == text.strip() or name == ".invalid" else name

    def list_tracked_files(self) -> list[str]:
        """The paths in the index, from the top of the repository, as `decode_exactly` returns them."""
        output = self.run("ls-files", "-z", "--", ":(top)")
        return [decode_exactly(name) for name in output.split(b"\0") if name]

    def list_branches(self) -> list[str]:
        """The names of all branches, remote-tracking ones included."""
        names = self.ask_text("for-each-ref", "--format=%(refname:short)", "refs/heads", "refs/remotes")
        return [name for name in names.split("\n") if name]

    def get_config(self, key: str, default: str | None = None) -> str | None:
        """The value of a setting, the last one where it has several."""
        try:
            return decode_output(self.run("config", "-z", "--get", key)).removesuffix("\0")
        except GitFailedError as error:
            if error.code != 1:
                raise
            return default

    def get_config_by_prefix(self, prefix: str) -> dict[str, str]:
        """Every setting whose (lower-case) name starts with `prefix`, by name, from one git process."""
        try:
            output = self.run("config", "-z", "--get-regexp", "^" + re.escape(prefix))
        except GitFailedError as error:
            if error.code != 1:
                raise
            return {}
        pairs = (decode_output(item).partition("\n") for item in output.split(b"\0") if item)
        return {key: value if mark else "true" for key, mark, value in pairs}

    def list_worktrees(self) -> list[Path]:
        """The work trees of this repository that are there, this one first; a bare one counts for none."""
        found = [self.work_tree] if self.work_tree is not None else []
        zero = self.git_version >= (2, 36)
        try:
            listed = self.run("worktree", "list", "--porcelain", *(["-z"] if zero else []))
        except GitpeftError:
            return found
        separator = b"\0" if zero else b"\n"
        for entry in listed.split(2 * separator):
            words = entry.split(separator)
            if words[0].startswith(b"worktree ") and b"bare" not in words:
                found.append(Path(os.fsdecode(words[0].removeprefix(b"worktree "))))
        return [path for path in dict.fromkeys(found) if path.is_dir()]

    def find_hooks_dir(self) -> Path:
        """The folder in which git looks for hooks (`core.hooksPath` included); it may not exist."""
        return self.cwd / os.fsdecode(self.run("rev-parse", "--git-path", "hooks").removesuffix(b"\n"))

    def read_staged_patch(self, base: str = "HEAD", *options: str) -> bytes:
        """The change in the index (in a hook, that of `GIT_INDEX_FILE`) as a patch for `parse_patch`.

        It is relative to `base`; further `options` of git override those in `DIFF_OPTIONS`.
        """
        try:
            return self.run("diff-index", "--cached", *DIFF_OPTIONS, *options, base, "--")
        except GitpeftError:
            if base != "HEAD" or self.resolve_head() is not None:
                raise
        return self.read_staged_patch(self.empty_tree, *options)

    def read_staged_entries(self) -> bytes:
        """The staged change as modes, object ids and paths: equal where the change is, and quick to read."""
        return self.run(
            *("diff", "--cached", "--raw", "--no-abbrev", "--no-renames", "--no-ext-diff"),
            "--ignore-submodules=none",
        )

    def read_commit_patch(self, rev: str, *options: str) -> bytes:
        """The change of a commit against its first parent, likewise."""
        shape = ["--root", "--no-commit-id", "--diff-merges=first-parent"]
        return self.run("diff-tree", *shape, *DIFF_OPTIONS, *options, self.resolve_commit(rev), "--")

    def may_be_in_index(self, path: str) -> bool:
        """Whether a file at the top of the repository can be in the index, from a glance at the index.

        Never wrongly False, and much faster than git, for what is looked up in every commit and is hardly
        ever there. In the formats 2 and 3 the entries are sorted, each with its whole path; other forms (with
        a second file of entries, or sharing parts of paths) are left to git.
        """
        own = self.environment.get("GIT_INDEX_FILE", "")
        try:
            with open(self.cwd / own if own else self.git_dir / "index", "rb") as file:
                head = file.read(_INDEX_BYTES_READ)
            split = any(one.name.startswith("sharedindex.") for one in self.git_dir.iterdir())
        except OSError:
            return bool(own)
        if split or head[4:8] not in (b"\0\0\0\2", b"\0\0\0\3"):
            return True
        return _may_hold_entry(head, os.fsencode(path), len(self.empty_tree) // 2)

    def find_indexed_file(self, path: str) -> str:
        """The id of the content of a regular file in the index, by its path from the top; "" for none.

        In a merge conflict, that of our side. Where a glance at the index tells that it is not there, git is
        not asked.
        """
        if not self.may_be_in_index(path):
            return ""
        entries = self.run("ls-files", "-s", "-z", "--", f":(top,literal){path}").split(b"\0")
        for entry in entries:
            mode, _, rest = entry.partition(b" ")
            blob, _, stage = rest.partition(b"\t")[0].partition(b" ")
            if mode.startswith(b"100") and stage in (b"0", b"2"):
                return blob.decode("ascii")
        return ""

    def mark_generated_files(
        self, files: Sequence["FileChange"], known: dict[str, bool] | None = None
    ) -> None:
        """Set the kind of files with the attribute `linguist-generated` to generated, and drop their hunks.

        The present `.gitattributes` applies to old commits as well. Git looks the attribute up, which runs no
        filter. `known` is a cache of the results by path.
        """
        known = {} if known is None else known
        texts = [file for file in files if file.kind == "text"]
        if unknown := list(dict.fromkeys(file.path for file in texts if file.path not in known)):
            known |= self._look_up_generated(unknown)
        for file in texts:
            if known[file.path]:
                file.kind, file.hunks = "generated", []

    def has_generated_attributes(self) -> bool:
        """Whether any path can have attributes; reading a history is a tenth faster where none can."""
        if any(path.exists() for path in self._list_attribute_files()):
            return True
        if self.environment.get("GIT_ATTR_SOURCE") or self.get_config("attr.tree"):
            return True
        if self.work_tree is None:
            return False
        top = replace_fields(self, cwd=self.work_tree)
        return bool(top.ask_text("ls-files", "--", ".gitattributes", "**/.gitattributes"))

    def _list_attribute_files(self) -> list[Path]:
        """The files of attributes outside the work tree: of the repository, of the user, of the system."""
        own = self.ask_text("config", "--type=path", "--get", "core.attributesFile")
        if not own:
            home = self.environment.get("HOME", "")
            folder = self.environment.get("XDG_CONFIG_HOME") or (f"{home}/.config" if home else "")
            own = f"{folder}/git/attributes" if folder else ""
        found = [self.common_dir / "info" / "attributes"]
        found += [(self.work_tree or self.git_dir) / own] if own else []
        if not self.environment.get("GIT_ATTR_NOSYSTEM"):
            # of whoever built this git: below its prefix, or in /etc for the prefix /usr
            prefix = Path(self.ask_text("--exec-path")).parent.parent
            found += [Path("/etc/gitattributes"), prefix / "etc" / "gitattributes"]
        return found

    def _look_up_generated(self, paths: Sequence[str]) -> dict[str, bool]:
        """Whether each path, from the top of the repository, is `linguist-generated`."""
        top = replace_fields(self, cwd=self.work_tree or self.cwd)
        names = encode_exactly("\0".join(paths))
        values = top.run("check-attr", "-z", "--stdin", "linguist-generated", input=names).split(b"\0")[2::3]
        return {path: value in (b"set", b"true") for path, value in zip(paths, values, strict=True)}

    def read_commit_time(self) -> int:
        """The committer's time, in Unix seconds, of a commit made now: `GIT_COMMITTER_DATE`, or the clock."""
        if not self.environment.get("GIT_COMMITTER_DATE"):
            return int(time.time())
        from gitpeft.git.log import parse_time  # hardly ever needed

        said = self.run("var", "GIT_COMMITTER_IDENT").rpartition(b"> ")[2].partition(b" ")[0]
        return parse_time(said) or int(time.time())

    def find_previous_subject(self, author: str | None = None, rev: str = "HEAD") -> str:
        """The newest subject by an author, given by mail address (default: the current user); "" if none.

        Authors are compared after git's mailmap. Looks at the newest 200 commits, without merges, up to and
        including `rev`.
        """
        shape = ["-z", "--no-show-signature", "--format=%an <%ae>%x00%aE%x00%s"]
        try:
            log = self.run(
                "log", f"-{_MAX_PREVIOUS_COMMITS}", "--no-merges", *shape, "--end-of-options", rev, "--"
            )
        except GitFailedError:
            if self.has_commit(rev):
                raise
            return ""
        fields = log.split(b"\0")
        rows = list(zip(fields[::3], fields[1::3], fields[2::3], strict=False))
        mail = (self._find_own_mail(rows) if author is None else encode_exactly(author)).lower()
        return next((decode_text(subject) for _, theirs, subject in rows if theirs.lower() == mail), "")

    def find_subject_before(self, rev: str) -> str:
        """As `find_previous_subject`, for the author of a commit and the commits before it."""
        sha = self.resolve_commit(rev)
        shape = ["--no-show-signature", "--format=%aE%x00%P"]
        mail, _, parents = self.run("log", "-1", *shape, sha, "--").partition(b"\0")
        return self.find_previous_subject(decode_exactly(mail), f"{sha}^") if parents.strip() else ""

    def _find_own_mail(self, rows: Sequence[tuple[bytes, bytes, bytes]]) -> bytes:
        """The mapped address of the current user, from their commits (author, mapped address, …) or git."""
        own = encode_exactly(self.read_author())
        known = (mail for author, mail, _ in rows if author == own)
        return next(known, None) or get_mail(encode_exactly(self.mailmap.map_identity(decode_exactly(own))))

    def read_author(self) -> str:
        """Who is the author of a commit made now, as `Name <mail>`, before git's mailmap; "" if unknown."""
        name, mail = (self.environment.get(f"GIT_AUTHOR_{what}") for what in ("NAME", "EMAIL"))
        if name and mail:
            return decode_exactly(os.fsencode(f"{name} <{mail}>"))
        try:
            ident = self.run("var", "GIT_AUTHOR_IDENT")
        except GitpeftError:
            return ""
        return decode_exactly(ident.rpartition(b">")[0] + b">")

    @cached_property
    def mailmap(self) -> Mailmap:
        """Git's mailmap, read anew at each question."""
        return Mailmap(self.run, self.work_tree, self.git_dir)

    def read_config_listing(self) -> bytes:
        """All of git's configuration, as `git config --list -z` prints it."""
        listing = self.run("config", "--list", "-z")
        self.mailmap.take_settings(listing)  # the hook need not ask git again
        return listing

    # --- lists of commits -----------------------------------------------------------------------------------

    def rev_list(self, *tips: str) -> list[tuple[str, tuple[str, ...]]]:
        """The commits that `tips` (or options such as `--all`) reach, oldest first, each with its parents."""
        order = ["--parents", "--date-order", "--reverse"]
        found: list[tuple[str, tuple[str, ...]]] = []
        last = ""
        for line in io.BytesIO(self.run("rev-list", *order, *tips, "--")):
            sha, *parents = line.decode("ascii").split()
            # most commits follow their parent: a long history has each id in memory once
            found.append((sha, (last,) if parents == [last] else tuple(parents)))
            last = sha
        return found

    def list_range_commits(self, named: Sequence[str]) -> list[str]:
        """The commits of what `resolve_revisions` returned, without merges, oldest first."""
        order = ["--no-merges", "--date-order", "--reverse"]
        return self.run("rev-list", *order, *named, "--").decode("ascii").split()

    def list_tips(self) -> list[str]:
        """The ids of the commits of all branches, tags and other refs, but of no published model."""
        refs = ["--no-walk=unsorted", "--exclude=refs/gitpeft/*", "--all"]
        return list(dict.fromkeys(self.run("rev-list", *refs, "--").decode("ascii").split()))

    def count_commits_since(self, rev: str) -> int | None:
        """How many commits are in `rev..HEAD`; None where one of the two is unknown here."""
        if not (self.has_commit(rev) and self.has_commit("HEAD")):
            return None
        return int(self._ask_gitpython("rev-list", "--count", "--end-of-options", f"{rev}..HEAD", "--"))

    def read_replacement_state(self) -> str:
        """A hash of what git shows in the place of other objects (`git replace`, grafts); "" for nothing."""
        refs = b""
        if "GIT_NO_REPLACE_OBJECTS" not in self.environment:
            base = self.environment.get("GIT_REPLACE_REF_BASE") or "refs/replace/"
            refs = self.run("for-each-ref", "--format=%(refname) %(objectname)", base)
        if refs and self.ask_text("config", "--type=bool", "--get", "core.useReplaceRefs") == "false":
            refs = b""
        grafts = self.environment.get("GIT_GRAFT_FILE") or self.common_dir / "info" / "grafts"
        try:
            lines = (self.cwd / grafts).read_bytes()
        except OSError:
            lines = b""
        if not refs and not lines:
            return ""
        import hashlib  # hardly ever needed

        return hashlib.blake2b(refs + b"\0" + lines, digest_size=16).hexdigest()

    def list_shallow_commits(self) -> frozenset[str]:
        """The commits at which a shallow clone ends: their parents, and so their changes, are not here."""
        try:
            return frozenset((self.common_dir / "shallow").read_text("ascii").split())
        except FileNotFoundError:
            return frozenset()

    def list_newer_commits(self, tip: str, than: str, most: int) -> list[str]:
        """The newest commits in `than..tip`, at most `most`, newest first, without merges.

        An empty `than` excludes nothing. Raises GitpeftError when one of the two is unknown here.
        """
        excluded = [f"^{than}"] if than else []
        options = ["--no-merges", "--date-order", f"-{most}"]
        return self.run("rev-list", *options, "--end-of-options", tip, *excluded, "--").decode().split()


def names_one_commit(named: Sequence[str]) -> bool:
    """Whether what `Repository.resolve_revisions` returned is a single commit, not a range."""
    return len(named) == 1 and not named[0].startswith("^")


def get_mail(identity: bytes) -> bytes:
    """The address in `Name <mail>`, or all of what is not of that form."""
    return identity.rpartition(b"<")[2].partition(b">")[0]


def _make_unknown_error(rev: str) -> GitpeftError:
    return GitpeftError(f"unknown revision {rev!r}", "See `git log --oneline`.")


def _may_hold_entry(head: bytes, path: bytes, hash_bytes: int) -> bool:
    """Whether an index that begins with `head` may have an entry for `path`: not if a later one comes."""
    at = 12
    for _ in range(int.from_bytes(head[8:12], "big")):
        start = at + 40 + hash_bytes + 2  # file system data, the object's id, flags
        start += 2 if head[start - 2 : start - 1] > b"?" and head[start - 2] & 0x40 else 0
        end = head.find(b"\0", start)
        if end < 0:
            return True
        if head[start:end] >= path:
            return head[start:end] == path
        at += (end - at + 8) & ~7  # one to eight zero bytes fill each entry up
    return False


def _split_shell_words(text: str) -> list[str]:
    import shlex  # hardly ever needed

    try:
        return shlex.split(text)
    except ValueError:  # a syntax error; the shell will report it
        return text.split()
