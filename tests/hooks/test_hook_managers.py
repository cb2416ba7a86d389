"""Coexistence with the real husky, lefthook and pre-commit, where these programs are on the PATH."""

import functools
import itertools
import shutil
import subprocess
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest

from gitpeft.git.repository import Repository
from gitpeft.hooks.doctor import examine_repository
from gitpeft.hooks.install import install_hooks, uninstall_hooks
from tests.support.gitrepo import Repo
from tests.support.hooking import SUGGESTION, Hooked, copy_repo, listing

pytestmark = pytest.mark.slow

FILES = {
    ".pre-commit-config.yaml": """\
repos:
  - repo: local
    hooks:
      - id: mark
        name: mark
        language: system
        entry: sh -c 'echo pre-commit >>ran'
        stages: [prepare-commit-msg]
        always_run: true
        pass_filenames: false
""",
    "lefthook.yml": "prepare-commit-msg:\n  commands:\n    mark:\n      run: echo lefthook >>ran\n",
    ".husky/prepare-commit-msg": "echo husky >>ran\n",
    ".gitignore": "ran\n",
}
INSTALL = {
    "pre-commit": ["pre-commit", "install", "-t", "prepare-commit-msg"],
    "lefthook": ["lefthook", "install"],
    "husky": ["husky"],
}
REMOVE = {
    "pre-commit": [["pre-commit", "uninstall", "-t", "prepare-commit-msg"]],
    "lefthook": [["lefthook", "uninstall"]],
    "husky": [["git", "config", "--unset", "core.hooksPath"], ["rm", "-rf", ".husky/_"]],
}


def call(repo: Repo, *command: str) -> None:
    done = subprocess.run(command, cwd=repo.path, capture_output=True, timeout=60)
    assert done.returncode == 0, (command, done.stdout, done.stderr)


def hooks(repo: Repo) -> dict[str, tuple[int, bytes]]:
    """All hooks and configuration, without what the managers keep for themselves."""
    left_out = (
        ".git/gitpeft/",
        ".git/info/",
        ".git/COMMIT_EDITMSG",
        ".git/index",
        ".git/logs",
        ".git/objects",
    )
    return {name: value for name, value in listing(repo.path).items() if not name.startswith(left_out)}


@pytest.mark.parametrize("manager", INSTALL)
@pytest.mark.parametrize("first", ["ours", "theirs"])
@pytest.mark.parametrize("leaves_first", ["ours", "theirs"])
def test_e7_a_real_manager_installed_and_removed_in_every_order(
    repo: Repo, python: str, tmp_path: Path, manager: str, first: str, leaves_first: str
) -> None:
    if shutil.which(manager) is None:
        pytest.skip(f"{manager} is not on the PATH")
    name = {"husky": ".husky/prepare-commit-msg", "lefthook": "lefthook.yml"}.get(
        manager, ".pre-commit-config.yaml"
    )
    repo.commit("Start", **{name: FILES[name], ".gitignore": FILES[".gitignore"]})
    if manager == "lefthook":  # its first run may leave files of its own
        call(repo, *INSTALL[manager])
        call(repo, *REMOVE[manager][0])
    before = hooks(repo)
    opened = Repository.open(repo.path)
    if first == "ours":
        install_hooks(opened, python=python)
    call(repo, *INSTALL[manager])
    install_hooks(opened, python=python)
    _both_run(repo, python, tmp_path, manager)
    if leaves_first == "ours":
        uninstall_hooks(opened)
    for command in REMOVE[manager]:
        call(repo, *command)
    uninstall_hooks(opened)
    after = hooks(repo)
    assert {n for n in before.keys() | after.keys() if before.get(n) != after.get(n)} == set()


def _both_run(repo: Repo, python: str, tmp_path: Path, manager: str) -> None:
    assert [finding.code for finding in examine_repository(Repository.open(repo.path))] == ["no-model"]
    hooked = Hooked.create(repo, python, tmp_path / "tools")
    hooked.stage(probe="p\n")
    done = hooked.git("commit")
    assert done.returncode == 0, done.stderr
    assert hooked.message() == SUGGESTION and manager in (repo.path / "ran").read_text()
    (repo.path / "ran").unlink()
    repo.git("update-ref", "HEAD", "HEAD~1")
    repo.git("rm", "-q", "--cached", "probe")
    (repo.path / "probe").unlink()
    (repo.path / ".git/gitpeft/current").unlink()


# --- all of them in one repository ------------------------------------------------------------------------

Order = tuple[str, ...]
Seen = tuple[dict[str, tuple[int, bytes]], list[str]]
ORDERS = [
    *itertools.permutations(["ours", *INSTALL]),
    *itertools.permutations(["ours", "pre-commit", "lefthook"]),
]


class Crowd:
    """A repository in which managers come and go, each state of it kept in a folder.

    Not every order is possible: pre-commit and lefthook refuse where husky has set `core.hooksPath`, and one
    that comes later may put an earlier one out of action. What they do to each other without our hook is
    therefore found out first, and must be the same with it.
    """

    def __init__(self, folder: Path, python: str) -> None:
        self.folder, self.python = folder, python
        self.known: dict[str, tuple[list[str], bool]] = {}
        self.repo = Repo.create(folder / "repo")
        self.repo.commit("Start", **FILES)
        for command in (INSTALL["lefthook"], *REMOVE["lefthook"]):  # its first run may leave files of its own
            call(self.repo, *command)
        tools = folder / "tools"
        copied = copy_repo(self.repo.path, folder / "with-editor")
        self.env = Hooked.create(copied, python, tools).env
        self._keep(())

    def _keep(self, state: Order) -> None:
        place = self.folder / "states" / "-".join(("x", *state))
        if not place.exists():
            shutil.copytree(self.repo.path, place, symlinks=True)

    def back_to(self, state: Order) -> None:
        shutil.rmtree(self.repo.path)
        shutil.copytree(self.folder / "states" / "-".join(("x", *state)), self.repo.path, symlinks=True)

    def install(self, order: Order) -> dict[str, bool]:
        """Install one after the other; which of them did not refuse."""
        return {who: self._do(install_hooks, [INSTALL[who]] if who in INSTALL else []) for who in order}

    def remove(self, who: str) -> bool:
        return self._do(uninstall_hooks, REMOVE.get(who, []))

    def _do(self, ours: Callable[..., object], theirs: Sequence[Sequence[str]]) -> bool:
        if not theirs:
            ours(
                Repository.open(self.repo.path), **({"python": self.python} if ours is install_hooks else {})
            )
        codes = [
            subprocess.run(command, cwd=self.repo.path, capture_output=True, timeout=60).returncode
            for command in theirs
        ]
        return not any(codes)

    def commit(self) -> tuple[list[str], bool]:
        """Whose hooks run in a commit, and whether a message is offered; asked once of equal states."""
        own = listing(self.repo.path / ".git/gitpeft")
        state = repr(sorted(hooks(self.repo).items())) + repr(sorted(own.items()))
        if state not in self.known:
            self.known[state] = self._commit()
        return self.known[state]

    def _commit(self) -> tuple[list[str], bool]:
        """Make a commit in a copy."""
        hooked = Hooked(
            copy_repo(self.repo.path, self.folder / "copy"), self.python, self.folder / "tools", self.env
        )
        hooked.claim_model()
        hooked.stage(probe="p\n")
        done = hooked.git("commit", edit='echo mine >"$file"')
        assert done.returncode == 0, done.stderr
        ran = hooked.repo.path / "ran"
        marks = sorted(ran.read_text().split()) if ran.exists() else []
        shutil.rmtree(hooked.repo.path)
        return marks, SUGGESTION in hooked.seen()

    def removals(self, left: Order, gone: Order = ()) -> Iterator[Order]:
        """Every order in which those that are left can be removed, one removal after the other."""
        self._keep(("gone", *gone))
        for who in left:
            self.back_to(("gone", *gone))
            self.remove(who)
            yield (*gone, who)
            yield from self.removals(tuple(other for other in left if other != who), (*gone, who))


@pytest.fixture(scope="module")
def without(
    tmp_path_factory: pytest.TempPathFactory, python: str
) -> Callable[[Order], tuple[dict[str, bool], dict[Order, Seen]]]:
    """What the managers do without our hook, by the order of their installation."""

    @functools.cache
    def observe(order: Order) -> tuple[dict[str, bool], dict[Order, Seen]]:
        crowd = Crowd(tmp_path_factory.mktemp("without"), python)
        took = crowd.install(order)
        seen: dict[Order, Seen] = {(): (hooks(crowd.repo), crowd.commit()[0])}
        for gone in crowd.removals(order):
            seen[gone] = hooks(crowd.repo), crowd.commit()[0]
        return took, seen

    return observe


@pytest.mark.timeout(900)
@pytest.mark.parametrize("order", ORDERS, ids="-".join)
def test_e7_all_of_them_installed_and_removed_in_every_order(
    order: Order,
    without: Callable[[Order], tuple[dict[str, bool], dict[Order, Seen]]],
    tmp_path: Path,
    python: str,
) -> None:
    if any(shutil.which(manager) is None for manager in INSTALL):
        pytest.skip("not all three are on the PATH")
    took, seen = without(tuple(who for who in order if who != "ours"))
    crowd = Crowd(tmp_path, python)
    assert crowd.install(order) == took | {"ours": True}, "our hook makes another one refuse"
    if not crowd.commit()[1]:
        found = [finding.code for finding in examine_repository(Repository.open(crowd.repo.path))]
        assert set(found) & {"shadowed", "displaced", "manager-inactive"}, found
        crowd.install(("ours",))
    assert crowd.commit() == (seen[()][1], True)
    for gone in crowd.removals(order):
        others = tuple(who for who in gone if who != "ours")
        marks, offered = crowd.commit()
        assert marks == seen[others][1], gone
        if "ours" in gone:
            left, expected = hooks(crowd.repo), seen[others][0]
            changed = {n for n in left.keys() | expected.keys() if left.get(n) != expected.get(n)}
            assert not offered and not changed, (gone, changed)
