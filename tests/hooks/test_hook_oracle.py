"""The differential oracle: every command of the contract with and without the hooks gives the same history.

Dates and identities are fixed, so equal history means equal ids. The hook's model answers every question, so
a message that is written where none belongs is seen. Only `git commit` with an editor may differ (A1), and
there the editor of these tests replaces the whole message. Everything is run at a terminal, so that work
ahead begins as often as it does for a person.
"""

import functools
import os
import pty
import shlex
import shutil
from collections import Counter
from pathlib import Path
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, rule, run_state_machine_as_test

from gitpeft.hooks import stubs
from tests.support.gitrepo import EPOCH, HOUR, Repo
from tests.support.hooking import Hooked, copy_repo, eventually, listing, needs_git, script

MINE = 'echo mine >"$file"'
KEEP = ":"

# Read here: within a test the variables of this project are cleared.
SEQUENCES = int(os.environ.get("GITPEFT_SEQUENCES", "2000"))
SEED = int(os.environ.get("GITPEFT_SEED", "0"))


@pytest.fixture(scope="module")
def start(tmp_path_factory: pytest.TempPathFactory, python: str) -> Path:
    """The folder of two equal repositories, the hook in the second one."""
    return begin(tmp_path_factory.mktemp("start"), python)


def begin(folder: Path, python: str) -> Path:
    """A few commits on `main`, and a branch `topic` that conflicts with it in the file `both`; twice."""
    repo = Repo.create(folder / "without" / "side")
    repo.commit("Start", both="start\n", one="1\n")
    repo.git("checkout", "-q", "-b", "topic")
    repo.commit("Topic", both="topic\n")
    repo.commit("Topic two", topic="t\n")
    repo.git("checkout", "-q", "main")
    repo.commit("Main", both="main\n")
    repo.commit("Two", two="2\n")
    repo.commit("fixup! Two", two="2 2\n")
    repo.write("one", "1 1\n")
    (folder / "with").mkdir()
    hooked = Hooked.create(copy_repo(repo.path, folder / "with" / "side"), python, folder / "tools")
    hooked.install(hooks=(stubs.SUGGESTION_HOOK, stubs.AHEAD_HOOK))
    return folder


@functools.cache
def terminal() -> int:
    """One terminal for all of them; its other side stays open, too."""
    return pty.openpty()[1]


class Pair:
    """Two repositories, equal but for the hook in one of them, in which everything is done twice."""

    def __init__(self, start: Path, python: str, folder: Path) -> None:
        shutil.copytree(start, folder, symlinks=True, dirs_exist_ok=True)
        env = {"GIT_EDITOR": str(folder / "tools/editor"), "EDIT_SEEN": str(folder / "tools/seen")}
        self.sides = [
            Hooked(Repo(folder / name / "side", EPOCH + 24 * HOUR), python, folder / "tools", env, terminal())
            for name in ("without", "with")
        ]

    def git(self, *args: str, edit: str = KEEP, input: str = "", **env: str) -> tuple[int, ...]:
        codes = tuple(side.git(*args, edit=edit, env=env, input=input).returncode for side in self.sides)
        for side in self.sides:
            side.repo.tick()
        return codes

    def write(self, name: str, text: str) -> None:
        for side in self.sides:
            side.repo.write(name, text)

    def views(self) -> list[tuple[str, ...]]:
        """All that a repository holds: refs, index, work tree, what is pending.

        Two commits with one id have the same message, author, dates, tree and parents, so ids are enough.
        """
        return [self._view(side.repo) for side in self.sides]

    def _view(self, repo: Repo) -> tuple[str, ...]:
        inside = repo.path / ".git"
        return (
            repo.git("for-each-ref"),
            (inside / "HEAD").read_text(),
            repo.git("ls-files", "--stage"),
            " ".join(name for name in PENDING if (inside / name).exists()),
            str(listing(repo.path, ".git")),
        )

    def told(self) -> str:
        """Both histories, for the report of a difference."""
        logs = [
            side.repo.git("log", "--all", "--format=raw", "--encoding=UTF-8", check=False)
            for side in self.sides
        ]
        return "\n--- with the hook:\n".join(logs)


PENDING = (
    *("MERGE_HEAD", "CHERRY_PICK_HEAD", "REVERT_HEAD", "rebase-merge", "rebase-apply", "sequencer"),
    *("index.lock", "MERGE_MSG", "SQUASH_MSG"),
)


# What is run, in the order of the contract's first table. A line is `[edit: SHELL |] [VARIABLE=…] ARGUMENTS`.
SCENARIOS = {
    "commit": ["edit: MINE | commit -a"],
    "commit, emptied": ["edit: EMPTY | commit -a"],
    "commit -v": ["edit: MINE | commit -a -v"],
    "scissors": ["edit: MINE | commit -a --cleanup=scissors"],
    "no-status": ["edit: MINE | commit -a --no-status"],
    "signoff": ["commit -a -s -m x"],
    "trailer": ["commit -a --trailer X:y -m x"],
    "no-edit": ["commit -a --no-edit"],
    "editor is nothing": ["GIT_EDITOR=: commit -a"],
    "editor is true": ["GIT_EDITOR=true commit -a"],
    "-m": ["commit -a -m '# given'"],
    "-m with cleanup": ["commit -a -m x -m '# y' --cleanup=verbatim"],
    "-F": ["commit -a -F two"],
    "-e -m": ["commit -a -e -m given"],
    "template": ["edit: ADD | commit -a -t two"],
    "template and -m": ["commit -a -t two -m given"],
    "amend": ["commit -a --amend"],
    "amend without editor": ["commit -a --amend --no-edit"],
    "amend -m": ["commit -a --amend -m given"],
    "amend reset author": ["commit -a --amend --reset-author"],
    "-c": ["commit -a -c HEAD~1"],
    "-C": ["commit -a -C HEAD~1"],
    "fixup": ["commit -a --fixup=HEAD~1"],
    "squash": ["commit -a --squash=HEAD~1"],
    "squash -m": ["commit -a --squash=HEAD~1 -m more"],
    "fixup=amend": ["commit -a --fixup=amend:HEAD~1"],
    "fixup=reword": ["commit --fixup=reword:HEAD~1"],
    "allow-empty": ["edit: MINE | commit --allow-empty"],
    "allow-empty-message": ["commit -a --allow-empty-message -m ''"],
    "only": ["commit --only one -m x"],
    "include": ["commit -i one -m x"],
    "pathspec": ["edit: MINE | commit one"],
    "dry run": ["commit -a --dry-run"],
    "merge": ["stash", "merge topic -X ours -m merged"],
    "merge with editor": ["stash", "merge topic -X ours --edit"],
    "merge --no-edit": ["stash", "merge topic -X ours --no-edit"],
    "merge conflict": ["stash", "merge topic", "add -A", "commit"],
    "merge --continue": ["stash", "merge topic", "add -A", "merge --continue"],
    "merge --squash": ["stash", "merge --squash topic -X ours", "commit"],
    "merge ff": ["stash", "checkout -q -b back HEAD~2", "merge --ff-only main"],
    "cherry-pick": ["stash", "cherry-pick topic"],
    "cherry-pick -x": ["stash", "cherry-pick -x topic"],
    "cherry-pick -e": ["stash", "cherry-pick -e topic"],
    "cherry-pick -n": ["stash", "cherry-pick -n topic", "commit -m x"],
    "cherry-pick conflict": ["stash", "cherry-pick topic~1", "add -A", "commit"],
    "cherry-pick --continue": ["stash", "cherry-pick topic~1", "add -A", "cherry-pick --continue"],
    "revert": ["stash", "revert --no-edit HEAD"],
    "revert with editor": ["stash", "revert HEAD"],
    "revert -n": ["stash", "revert -n HEAD", "commit -m x"],
    "rebase": ["stash", "rebase --force-rebase HEAD~3"],
    "rebase onto": ["stash", "checkout -q topic", "rebase -X theirs main"],
    "rebase apply": ["stash", "checkout -q topic", "rebase --apply -X theirs main"],
    "rebase autosquash": ["stash", "GIT_SEQUENCE_EDITOR=: rebase -i --autosquash HEAD~3"],
    "rebase reword": ["stash", "edit: MINE | TODO=reword rebase -i HEAD~2"],
    "rebase reword kept": ["stash", "TODO=reword rebase -i HEAD~2"],
    "rebase squash": ["stash", "TODO2=squash rebase -i HEAD~2"],
    "rebase fixup": ["stash", "TODO2=fixup rebase -i HEAD~2"],
    "rebase fixup -C": ["stash", "TODO2=fixup\\ -C rebase -i HEAD~2"],
    "rebase edit": ["stash", "TODO=edit rebase -i HEAD~2", "commit --amend --no-edit", "rebase --continue"],
    "rebase drop": ["stash", "TODO=drop rebase -i HEAD~2"],
    "rebase conflict": ["stash", "checkout -q topic", "rebase main", "add -A", "rebase --continue"],
    "rebase abort": ["stash", "checkout -q topic", "rebase main", "rebase --abort"],
    "stash": ["stash", "stash pop"],
    "tag": ["tag -a v1 -m v1"],
    "notes": ["notes add -m note"],
    "pull": ["stash", "pull -q . topic --no-rebase -X ours --no-edit"],
    "am": ["stash", "format-patch -q -1 topic", "checkout -q -b mail topic~1", "am 0001-Topic-two.patch"],
}
EDITS = {"MINE": MINE, "EMPTY": ':>"$file"', "ADD": 'echo added >>"$file"'}


def run(pair: Pair, line: str) -> tuple[int, ...]:
    edit, command = (line.removeprefix("edit: ").split(" | ", 1)) if line.startswith("edit: ") else ("", line)
    words, env = shlex.split(command), dict[str, str]()
    while "=" in words[0]:
        name, _, value = words.pop(0).partition("=")
        place = {"TODO": 1, "TODO2": 2}.get(name)
        env |= {"GIT_SEQUENCE_EDITOR": f"sed -i -e '{place}s/^pick/{value}/'"} if place else {name: value}
    return pair.git(*words, edit=EDITS.get(edit, KEEP), **env)


@pytest.mark.parametrize("name", SCENARIOS)
def test_every_command_gives_the_same_history_with_and_without_the_hook(
    name: str, start: Path, python: str, tmp_path: Path
) -> None:
    """A2 to A14 in one sweep, A9, A10 and A11 most of all: history, index, work tree and exit codes."""
    pair = Pair(start, python, tmp_path)
    for line in SCENARIOS[name]:
        without, with_hook = run(pair, line)
        assert without == with_hook, line
    without_hook, with_the_hook = pair.views()
    assert with_the_hook == without_hook, pair.told()


@pytest.mark.parametrize(
    "name", ["amend", "rebase reword kept", "merge with editor", "-e -m", "fixup=reword"]
)
def test_the_oracle_sees_a_hook_that_writes_where_it_should_not(
    name: str, start: Path, python: str, tmp_path: Path
) -> None:
    """The oracle's own control: with a hook as careless as many are, the histories differ."""
    if name == "fixup=reword":
        needs_git(2, 32, "--fixup=reword")
    pair = Pair(start, python, tmp_path)
    script(pair.sides[1].hook, '#!/bin/sh\nsed -i -e "1s/^/Careless /" "$1"\n')
    for line in SCENARIOS[name]:
        run(pair, line)
    without_hook, with_the_hook = pair.views()
    assert with_the_hook != without_hook


def test_the_oracle_has_work_ahead_going_on(start: Path, python: str, tmp_path: Path) -> None:
    pair = Pair(start, python, tmp_path)
    pair.write("one", "1 1 1\n")
    pair.git("add", "-A")
    assert eventually(lambda: (pair.sides[1].state / "ahead" / ".git.tree").exists())
    assert not (pair.sides[0].state / "ahead").exists()
    without_hook, with_the_hook = pair.views()
    assert with_the_hook == without_hook


# --- generated sequences ----------------------------------------------------------------------------------

FILES = st.sampled_from(["a", "b", "both", "d/e"])
TEXTS = st.sampled_from(["x\n", "y\n", "x\ny\n", "z\n", ""])


EDITED: list[list[str]] = [
    *([], ["-a"], ["-v"], ["-v", "-v"], ["-s"], ["--trailer", "Ref: x"], ["--no-status"], ["--allow-empty"]),
    *(["--cleanup=scissors"], ["--cleanup=verbatim"], ["-t", "one"], ["-a", "-v", "--no-verify"]),
]
"""Of commits in which the person of these tests writes the message."""

GIVEN = [
    *(["-m", "m"], ["-e", "-m", "m"], ["--no-edit"], ["--fixup=HEAD"], ["--fixup=HEAD~1"], ["--squash=HEAD"]),
    *(["-C", "HEAD"], ["-c", "HEAD"], ["--fixup=amend:HEAD"], ["-m", "# m", "--cleanup=verbatim"]),
    ["-F", "two"],
]
"""Of commits that bring their message."""

STOPPED = {
    "rebase": ["rebase-merge", "rebase-apply"],
    "cherry-pick": ["CHERRY_PICK_HEAD"],
    "revert": ["REVERT_HEAD"],
    "merge": ["MERGE_HEAD"],
}
TODO = ["pick", "reword", "squash", "fixup", "edit", "drop", "fixup -C"]


class Sequences(RuleBasedStateMachine):
    """Random work in both repositories; after each step they must be equal."""

    start: Path
    python: str
    folder: Path
    made: ClassVar[Counter[str]] = Counter()

    @initialize()
    def begin(self) -> None:
        Sequences.made["sequences"] += 1
        if Sequences.made["sequences"] % 100 == 0:
            print(dict(Sequences.made), flush=True)
        shutil.rmtree(self.folder, ignore_errors=True)
        self.pair = Pair(self.start, self.python, self.folder)

    def both(self, *args: str, edit: str = MINE, input: str = "", **env: str) -> None:
        codes = self.pair.git(*args, edit=edit, input=input, **env)
        assert codes[0] == codes[1], args
        without, with_hook = self.pair.views()
        assert without == with_hook, (args, self.pair.told())
        Sequences.made[f"{args[0]} {'done' if codes[0] == 0 else 'refused'}"] += 1

    @rule(name=FILES, text=TEXTS, staged=st.booleans())
    def write(self, name: str, text: str, staged: bool) -> None:
        self.pair.write(name, text)
        self.both(*(["add", "-A"] if staged else ["status"]))

    @rule(options=st.sampled_from(EDITED))
    def commit(self, options: list[str]) -> None:
        self.both("commit", *options)

    @rule(options=st.sampled_from(GIVEN))
    def commit_without_words(self, options: list[str]) -> None:
        self.both("commit", "-a", *options, edit=KEEP)

    @rule(name=FILES, option=st.sampled_from(["--only", "--include", "--"]))
    def commit_a_path(self, name: str, option: str) -> None:
        self.both("commit", option, name)

    @rule(answer=st.sampled_from(["y\n", "n\n", "q\n", "y\nn\ny\n"]))
    def commit_a_part(self, answer: str) -> None:
        self.both("commit", "-p", input=answer)

    @rule(options=st.sampled_from([["--no-edit"], [], ["-m", "again"], ["-v"], ["--reset-author"]]))
    def amend(self, options: list[str]) -> None:
        self.both("commit", "--amend", *options, edit=KEEP)

    @rule(words=st.lists(st.sampled_from(TODO), min_size=2, max_size=4))
    def rebase(self, words: list[str]) -> None:
        script = " ".join(f"-e '{n}s/^pick/{word}/'" for n, word in enumerate(words, 1))
        self.both(
            *("rebase", "-i", "--autostash", f"HEAD~{len(words)}"),
            edit=KEEP,
            GIT_SEQUENCE_EDITOR=f"sed -i {script}",
        )
        self.finish("rebase")

    @rule(
        options=st.sampled_from(
            [
                ["--force-rebase", "HEAD~2"],
                ["topic"],
                ["main"],
                ["-X", "theirs", "topic"],
                ["--apply", "main"],
            ]
        )
    )
    def rebase_without_a_list(self, options: list[str]) -> None:
        self.both("rebase", "--autostash", *options, edit=KEEP)
        self.finish("rebase")

    @rule()
    def autosquash(self) -> None:
        self.both(
            *("rebase", "-i", "--autosquash", "--autostash", "HEAD~3"), edit=KEEP, GIT_SEQUENCE_EDITOR=":"
        )
        self.finish("rebase")

    @rule(
        rev=st.sampled_from(["topic", "topic~1", "HEAD~1", "main"]),
        option=st.sampled_from(["-x", "-n", "-e"]),
    )
    def cherry_pick(self, rev: str, option: str) -> None:
        self.both("cherry-pick", option, rev, edit=KEEP)
        self.finish("cherry-pick")

    @rule(option=st.sampled_from(["--edit", "--no-edit"]))
    def revert(self, option: str) -> None:
        self.both("revert", option, "HEAD", edit=KEEP)
        self.finish("revert")

    @rule(
        option=st.sampled_from(["--edit", "--no-edit", "--squash"]), side=st.sampled_from(["topic", "main"])
    )
    def merge(self, option: str, side: str) -> None:
        self.both("merge", option, side, edit=KEEP)
        self.finish("merge")

    @rule(branch=st.sampled_from(["main", "topic"]))
    def checkout(self, branch: str) -> None:
        self.both("checkout", "-q", branch)

    @rule(options=st.sampled_from([["-m", "in a worktree"], ["-v"], ["--no-edit"]]))
    def worktree(self, options: list[str]) -> None:
        for side in self.pair.sides:
            clock = side.repo.clock
            place = side.repo.path.parent / f"tree{clock}"
            side.repo.git("worktree", "add", "-q", "-b", f"tree{clock}", str(place), check=False)
            if place.is_dir():
                tree = Repo(place, clock)
                tree.stage(w=f"{clock}\n")
                tree.run("commit", *options, env={**side.env, "EDIT_WITH": MINE})
                side.repo.git("worktree", "remove", "--force", str(place))
        self.both("status")

    def finish(self, what: str) -> None:
        """Leave nothing unfinished: resolve and go on, else give up."""
        for step in ("--continue", "--continue", "--abort"):
            if not any((self.pair.sides[0].repo.path / ".git" / name).exists() for name in STOPPED[what]):
                return
            for side in self.pair.sides:
                side.repo.git("add", "-A")
            self.both(what, step, edit=KEEP)


def sequences(start: Path, python: str, folder: Path, count: int) -> None:
    machine: Any = type("Machine", (Sequences,), {"start": start, "python": python, "folder": folder})
    if SEED:
        machine = seed(SEED)(machine)
    Sequences.made.clear()
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=count,
            stateful_step_count=8,
            derandomize=not SEED,
            deadline=None,
            database=None,
            suppress_health_check=list(HealthCheck),
        ),
    )
    print(dict(Sequences.made))
    assert Sequences.made["sequences"] >= count


def test_generated_sequences_of_commands(start: Path, python: str, tmp_path: Path) -> None:
    """A bound for every day."""
    sequences(start, python, tmp_path / "pair", 3)


@pytest.mark.slow
@pytest.mark.timeout(0)
def test_thousands_of_generated_sequences_of_commands(start: Path, python: str, tmp_path: Path) -> None:
    """For every night; GITPEFT_SEQUENCES says how many, GITPEFT_SEED asks for others."""
    sequences(start, python, tmp_path / "pair", SEQUENCES)
