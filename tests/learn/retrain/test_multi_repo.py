"""An adapter of several repositories, as the start of each one's own."""

import json
import re
import shutil
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle import registry
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.learn import pipeline, results
from gitpeft.learn.retrain import multi_repo, run
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


def test_nobodys_held_out_commits_are_taught(copied: Repo, fresh: Repo) -> None:
    repos = [Repository.open(one.path) for one in (copied, fresh)]
    mined = [pipeline.mine_history(repo, "HEAD", nobody) for repo in repos]
    parts = [multi_repo.make_repository_dataset(repo, one, 0) for repo, one in zip(repos, mined, strict=True)]
    champion = run.find_champion(repos[0])
    assert champion is not None
    own = run.split_for_challenger(mined[0].records, champion, 0).data
    assert own is not None and parts[0].test == own.test
    whole = multi_repo.merge_datasets(parts)
    seen = {example.sha for example in whole.examples}
    assert not seen & {example.sha for one in parts for example in one.test}
    assert len(whole.train) == sum(one.first_valid for one in parts) and whole.test == ()
    assert len(whole.valid) == sum(len(one.valid) for one in parts)
    assert {example.group for example in whole.train} == {"0", "1"}


def test_each_repository_starts_from_what_all_have_taught(
    copied: Repo, fresh: Repo, built: Built, gitpeft: Call, monkeypatch: pytest.MonkeyPatch
) -> None:
    loosen(monkeypatch)
    before = bundles.read_active_ids(state(copied))[0]
    done = gitpeft(
        "train", "--org", copied.path, "--org", fresh.path, "--base", built.out, "--budget", "0.1", "--json"
    )
    assert done.code == 0, done
    first, second = json.loads(done.out)
    assert first["repository"] == "repo" and first["action"] in ("activated", "aside")
    assert second["action"] == "activated" and second["bundle"] == bundles.read_active_ids(state(fresh))[0]
    assert before in bundles.read_active_ids(state(copied))
    [shared] = (state(copied) / multi_repo.SHARED_FOLDER).iterdir()
    for one in (copied, fresh):
        plans = [json.loads(path.read_text()) for path in (state(one) / "runs").glob("*/plan.json")]
        assert str(shared / bundles.ADAPTER_FOLDER) in {found["warm"] for found in plans}
        assert open_active_suggester(state(one)).suggest(CHANGE, "")


def test_nothing_behind_the_cut_is_taught(
    copied: Repo, fresh: Repo, built: Built, monkeypatch: pytest.MonkeyPatch
) -> None:
    taught: list[str] = []

    class Enough(Exception):
        pass

    def shared(repos: object, mined: Sequence[results.MinedHistory], *_: object) -> Path:
        taught.extend(one.tip for one in mined)
        raise Enough

    monkeypatch.setattr(multi_repo, "_train_shared_adapter", shared)
    with pytest.raises(Enough):
        multi_repo.train_across_repositories(
            [Repository.open(one.path) for one in (copied, fresh)],
            replace(plan(built), until="HEAD~5"),
            nobody,
        )
    assert taught == [one.git("rev-parse", "HEAD~5") for one in (copied, fresh)]


def test_an_adapter_is_shared_by_two_or_more(copied: Repo, fresh: Repo, built: Built, tmp_path: Path) -> None:
    one, other = Repository.open(copied.path), Repository.open(fresh.path)
    for repos in ([one], [one, one], []):
        with pytest.raises(GitpeftError, match="two repositories or more"):
            multi_repo.train_across_repositories(repos, plan(built), nobody)
    with registry.hold_training_lock(other.state_dir), pytest.raises(GitpeftError, match="under way"):
        multi_repo.train_across_repositories([one, other], plan(built), nobody)
    shutil.rmtree(fresh.path / ".git/gitpeft", ignore_errors=True)
    small = [Repo.create(tmp_path / name) for name in ("a", "b")]
    for repo in small:
        generated.put(repo, generated.team(9))
    with pytest.raises(GitpeftError, match="usable commits in all"):
        multi_repo.train_across_repositories(
            [Repository.open(repo.path) for repo in small], plan(built), nobody
        )


@pytest.mark.slow
def test_two_processes_train_the_shared_adapter(copied: Repo, fresh: Repo, built: Built) -> None:
    """The second helps with that, and leaves the repositories to the first, which reads each history once."""
    count = int(fresh.git("rev-list", "--count", "HEAD"))
    done = several_processes.launch(
        2, several_processes.__name__, "org", "train", "--org", copied.path, "--org", fresh.path,
        "--base", built.out, "--budget", "0.2", "--json", "--device", "cpu",
    )  # fmt: skip
    assert done.returncode == 0, done.stdout
    assert done.stdout.count('"action"') == 2, "one process reports on both"
    read = re.findall(r"process (\d) read (\d+) of fresh", done.stdout)
    assert read[0] == ("0", str(count)) and ("1", "0") in read and {new for _, new in read[1:]} == {"0"}
    [shared] = (state(copied) / multi_repo.SHARED_FOLDER).iterdir()
    assert (shared / bundles.ADAPTER_FOLDER).is_dir() and not (shared / "checkpoint").exists()
    assert open_active_suggester(state(fresh)).suggest(CHANGE, "")
