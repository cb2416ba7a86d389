"""An adapter of several repositories, as the start of each one's own."""

import json
import os
import re
import shutil
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path

import pytest

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle import registry
from gitpeft.errors import GitpeftError, ParityError
from gitpeft.git.repository import Repository
from gitpeft.learn import pipeline
from gitpeft.learn.budget import BudgetReport, RunBudget
from gitpeft.learn.data.dataset import Dataset
from gitpeft.learn.retrain import challenger_data, multi_repo, run, shared_adapter
from gitpeft.learn.retrain.shared_adapter import SHARED_FOLDER
from gitpeft.learn.training import distributed, finetune
from gitpeft.learn.training.distributed import World
from gitpeft.suggest.suggester import open_active_suggester
from tests.support import generated, several_processes
from tests.support.commands import Call
from tests.support.gitrepo import Repo
from tests.support.sharing import state
from tests.support.tinybase import CHANGE, Built, loosen, nobody, plan


@pytest.fixture
def fresh(tmp_path: Path) -> Repo:
    """A second repository, without a model."""
    repo = Repo.create(tmp_path / "fresh")
    generated.put(repo, generated.team(80, seed=5))
    return repo


def test_nobodys_held_out_commits_are_taught(copied: Repo, fresh: Repo, tmp_path: Path) -> None:
    repos = [Repository.open(one.path) for one in (copied, fresh)]
    mined = [pipeline.mine_history(repo, "HEAD", nobody) for repo in repos]
    parts = [
        shared_adapter.make_repository_dataset(repo, one, 0) for repo, one in zip(repos, mined, strict=True)
    ]
    champion = run.find_champion(repos[0])
    assert champion is not None
    own = challenger_data.split_for_challenger(mined[0].records, champion, 0).data
    assert own is not None and parts[0].test == own.test
    whole = join(tmp_path, parts, 1000)
    seen = {example.sha for example in whole.examples}
    assert not seen & {example.sha for one in parts for example in one.test}
    assert len(whole.train) == sum(one.first_valid for one in parts) and whole.test == ()
    assert len(whole.valid) == sum(len(one.valid) for one in parts)
    assert {example.group for example in whole.train} == {"0", "1"}


def join(folder: Path, parts: Sequence[Dataset], most: int) -> Dataset:
    """What is kept of each history, written and read again."""
    rows = [row for i, one in enumerate(parts) for row in shared_adapter.select_examples(one, most, str(i))]
    (folder / "examples.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return shared_adapter.read_examples(folder)


def test_a_short_training_sees_the_newest_commits_of_every_repository(fresh: Repo, tmp_path: Path) -> None:
    repo = Repository.open(fresh.path)
    part = shared_adapter.make_repository_dataset(repo, pipeline.mine_history(repo, "HEAD", nobody), 0)
    newest = [example.sha for example in part.train[-3:]]
    whole = join(tmp_path, [part, part, part], 3)
    # a training that has no time for all takes the last ones
    assert [example.sha for example in whole.train] == [sha for sha in newest for _ in range(3)]
    assert [example.group for example in whole.train] == ["0", "1", "2"] * 3
    assert [tuple(example.like) for example in whole.train[-3:]] == 3 * [tuple(part.train[-1].like)]


def test_each_repository_starts_from_what_all_have_taught(
    copied: Repo, fresh: Repo, built: Built, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    loosen(monkeypatch)
    before = bundles.read_active_ids(state(copied))[0]
    done = gitpeft(
        "train", "--org", copied.path, "--org", fresh.path, "--base", built.out, "--budget", "2", "--json"
    )
    assert done.code == 0, done
    first, second = json.loads(done.out)["repositories"]
    assert first["repository"] == "repo" and first["action"] in ("activated", "aside")
    assert second["action"] == "activated" and second["bundle"] == bundles.read_active_ids(state(fresh))[0]
    assert before in bundles.read_active_ids(state(copied))
    [shared] = filter(Path.is_dir, (state(copied) / SHARED_FOLDER).iterdir())
    for one in (copied, fresh):
        plans = [json.loads(path.read_text()) for path in (state(one) / "runs").glob("*/plan.json")]
        assert str(shared / bundles.ADAPTER_FOLDER) in {found["warm"] for found in plans}
        assert open_active_suggester(state(one)).suggest(CHANGE, "")


@pytest.fixture
def small(tmp_path: Path) -> list[Repo]:
    """Four repositories with too few commits to train on each alone."""
    made = [Repo.create(tmp_path / name) for name in "abcd"]
    for number, repo in enumerate(made):
        generated.put(repo, generated.team(30, seed=number))
    return made


def estimate(patch: pytest.MonkeyPatch, own: float, shared: Sequence[float]) -> None:
    """What serving a repository is thought to take, one after the other."""
    patch.setattr(RunBudget, "estimate_own_adapter", lambda *_: own)
    waiting = iter(shared)
    patch.setattr(RunBudget, "estimate_shared_adapter", lambda *_: next(waiting))


def test_who_waits_for_want_of_time_is_next(
    small: list[Repo], built: Built, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    loosen(monkeypatch)
    options = [option for one in small for option in ("--org", one.path)]
    command = ["train", *options, "--base", built.out, "--budget", "2"]
    estimate(monkeypatch, 1e6, [0.0, 0.0, 1e6, 1e6])
    done = gitpeft(*command, "--json")
    assert done.code == 0, done
    found = json.loads(done.out)
    assert [one["action"] for one in found["repositories"]] == ["activated"] * 2 + ["waiting"] * 2
    [left_out] = found["budget"]["left_out"]
    assert left_out == (
        "an adapter of their own for 0 of 4 repositories, the shared one for 2; 2 wait for the next run"
    )
    assert found["budget"]["enough"] > 60_000
    for one in small[:2]:
        bundle = bundles.require_active_bundle(state(one))
        assert bundle.manifest.method["name"] == "lora", "the shared adapter, not the base without tuning"
        assert open_active_suggester(state(one)).suggest(CHANGE, "")
    estimate(monkeypatch, 1e6, [0.0, 0.0, 1e6, 1e6])
    said = gitpeft(*command).said
    assert "c: activated, with the shared adapter: there was no time" in said
    assert "a: waiting, no time left" in said and "should take it all" in said
    assert all(bundles.read_active_ids(state(one))[0] for one in small)


def test_a_shared_adapter_that_its_export_changes_leaves_the_untuned_base(
    small: list[Repo], built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Minutes of training are lost, but all have a model, and the reason is told; it is exported once."""
    loosen(monkeypatch)
    estimate(monkeypatch, 1e6, [0.0, 0.0, 0.0, 1e6])
    exports = []

    def refuse(*_: object) -> None:
        exports.append(1)
        raise ParityError("the export would change the model too much")

    monkeypatch.setattr(finetune, "export_run", refuse)
    repos = [Repository.open(one.path) for one in small]
    done = multi_repo.train_across_repositories(repos, plan(built), nobody)
    assert done is not None and len(exports) == 1
    assert [one.action for one in done.repositories] == ["activated"] * 3 + ["waiting"]
    why = "untuned: there was no time to train its own; the shared adapter is not used: the export would"
    assert {one.reason for one in done.repositories[:3]} == {f"{why} change the model too much"}
    assert bundles.require_active_bundle(state(small[0])).manifest.method == {"name": "none"}
    assert open_active_suggester(state(small[0])).suggest(CHANGE, "")
    [left_out] = done.budget.left_out
    assert left_out.endswith("for 0 of 4 repositories, the untuned base for 3; 1 waits for the next run")


def test_one_repository_is_open_at_a_time(
    small: list[Repo], built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    loosen(monkeypatch)
    most: set[str] = set()

    def watch(*_: object) -> None:
        nonlocal most
        files = [os.path.realpath(f"/proc/self/fd/{name}") for name in os.listdir("/proc/self/fd")]
        used = {one.path.name for one in small[1:] if any(str(one.path) in file for file in files)}
        most = max(most, used, key=len)

    repos = [Repository.open(one.path) for one in small]
    done = multi_repo.train_across_repositories(repos, plan(built), watch)
    assert done is not None and not done.budget.left_out
    assert {one.action for one in done.repositories} == {"activated"}
    assert {one.reason for one in done.repositories} == {
        "with the shared adapter: only 30 commits, training needs 50"
    }
    assert len(most) == 1


def test_nothing_behind_the_cut_is_taught(
    copied: Repo, fresh: Repo, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[str] = []

    class Enough(Exception):
        pass

    def train(sources: Sequence[shared_adapter.Source], *_: object) -> Path:
        taught.extend(one.tip for one in sources)
        raise Enough

    monkeypatch.setattr(shared_adapter, "train_shared_adapter", train)
    with pytest.raises(Enough):
        multi_repo.train_across_repositories(
            [Repository.open(one.path) for one in (copied, fresh)],
            replace(plan(built), until="HEAD~5"),
            nobody,
        )
    assert taught == [one.git("rev-parse", "HEAD~5") for one in (copied, fresh)]


def test_a_repository_that_cannot_be_served_does_not_stop_the_others(
    small: list[Repo], built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A training is under way in one, and another has no place for a model."""
    loosen(monkeypatch)
    repos = [Repository.open(one.path) for one in small]
    repos[3].state_dir.write_text("in the way")
    with registry.hold_training_lock(repos[1].state_dir):
        done = multi_repo.train_across_repositories(repos, plan(built), nobody)
    assert done is not None
    assert [one.action for one in done.repositories] == ["activated", "failed", "activated", "failed"]
    assert "under way" in done.repositories[1].reason
    assert f"cannot use {repos[3].state_dir}" in done.repositories[3].reason
    with (
        registry.hold_training_lock(repos[0].state_dir / SHARED_FOLDER),
        pytest.raises(GitpeftError, match="under way"),
    ):
        multi_repo.train_across_repositories(repos, plan(built), nobody)


def test_an_adapter_is_shared_by_two_or_more(copied: Repo, built: Built, tmp_path: Path) -> None:
    one = Repository.open(copied.path)
    for repos in ([one], []):
        with pytest.raises(GitpeftError, match="two repositories or more"):
            multi_repo.train_across_repositories(repos, plan(built), nobody)
    copied.git("worktree", "add", "-q", "--detach", str(tmp_path / "beside"))
    for other in (one, Repository.open(tmp_path / "beside")):
        with pytest.raises(GitpeftError, match=f"the repository in {one.common_dir} is given 2 times"):
            multi_repo.train_across_repositories([one, other], plan(built), nobody)
    tiny = [Repo.create(tmp_path / name) for name in ("a", "b")]
    for repo in tiny:
        generated.put(repo, generated.team(9))
    opened = [Repository.open(repo.path) for repo in tiny]
    with pytest.raises(GitpeftError, match="only 16 usable commits in all") as error:
        multi_repo.train_across_repositories(opened, plan(built), nobody)
    assert error.value.hint == "`gitpeft init` in each"
    shutil.rmtree(opened[1].state_dir)
    opened[1].state_dir.write_text("in the way")
    with pytest.raises(GitpeftError, match="only 8 usable commits in all") as error:
        multi_repo.train_across_repositories(opened, plan(built), nobody)
    assert error.value.hint.startswith("b cannot be read: ")


def test_a_path_that_is_no_use_is_named_and_does_not_stop_the_others(
    small: list[Repo], gitpeft: Call, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    served: list[Path] = []

    def train(repos: Sequence[Repository], *_: object) -> multi_repo.OrgResult:
        served.extend(repo.cwd for repo in repos)
        many = [multi_repo.RepositoryResult(f"r{i}", "waiting", "no time left") for i in range(30)]
        return multi_repo.OrgResult(tuple(many), BudgetReport(5.0, 60.0))

    monkeypatch.setattr(multi_repo, "train_across_repositories", train)
    empty = Repo.create(tmp_path / "empty").path
    each = [option for path in (small[0].path, empty, small[1].path) for option in ("--org", path)]
    done = gitpeft("train", *each)
    assert done.code == 1 and served == [small[0].path, small[1].path]
    assert f"{empty}: failed, there is no commit here yet" in done.said
    assert "30 repositories: waiting, no time left" in done.said
    done = gitpeft("train", "--org", small[0].path, "--org", empty)
    assert done.code == 1 and f"{empty}: there is no commit here yet" in done.said


def test_of_several_processes_the_first_tells_how_far_all_are(
    small: list[Repo], built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    heard: list[str] = []

    def train(_sources: object, _plan: object, _budget: object, listen: Callable[..., None]) -> Path:
        listen("train", 0.5, "")
        raise GitpeftError("enough")

    monkeypatch.setattr(shared_adapter, "train_shared_adapter", train)
    repos = [Repository.open(one.path) for one in small]
    for rank in range(3):
        monkeypatch.setattr(distributed, "join_world", lambda rank=rank: nullcontext(World(rank, 3)))
        with pytest.raises(GitpeftError, match="enough"):
            multi_repo.train_across_repositories(repos, plan(built), lambda step, *_: heard.append(step))
        assert heard == ["train"], "of the first process alone"


@pytest.mark.slow
def test_two_processes_train_the_shared_adapter(copied: Repo, fresh: Repo, built: Built) -> None:
    """The second helps with that, and leaves the repositories to the first, which reads each history once."""
    count = int(fresh.git("rev-list", "--count", "HEAD"))
    done = several_processes.launch(
        2, several_processes.__name__, "org", "train", "--org", copied.path, "--org", fresh.path,
        "--base", built.out, "--budget", "2", "--json", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert done.stdout.count('"action"') == 2, "one process reports on both"
    read = re.findall(r"process (\d) read (\d+) of fresh", done.stdout)
    assert read[0] == ("0", str(count)) and set(read[1:]) <= {("0", "0")}
    [shared] = filter(Path.is_dir, (state(copied) / SHARED_FOLDER).iterdir())
    assert (shared / bundles.ADAPTER_FOLDER).is_dir() and not (shared / "checkpoint").exists()
    assert open_active_suggester(state(fresh)).suggest(CHANGE, "")
