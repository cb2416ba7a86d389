"""Listing models, rolling back and pruning; the active model answers even if one of these is killed."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle import registry
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.suggest.suggester import open_active_suggester
from tests.support import tinymodel
from tests.support.commands import Call
from tests.support.gitrepo import Repo
from tests.support.killing import asked_meanwhile, every_kill
from tests.support.sources import CHECKOUT

METRICS = {"test": {"gitpeft": {"n": 20, "b_norm": {"mean": 12.5, "low": 10.0, "high": 15.0}}}}


def make_models(state_dir: Path, count: int) -> list[str]:
    """Ids of models that only retrieve, oldest first, the last one active."""
    return [tinymodel.bundle(state_dir, created=f"2024-05-{day:02}T00:00:00Z") for day in range(1, count + 1)]


def answers(state_dir: Path) -> bool:
    """Whether the active model suggests something, after a check of every byte."""
    active = bundles.open_active_bundle(state_dir)
    assert active is not None
    bundles.verify_bundle(active)
    return bool(open_active_suggester(state_dir).suggest(tinymodel.CHANGES[0], ""))


def test_a_version_lists_what_is_in_its_manifest(tmp_path: Path) -> None:
    ids = make_models(tmp_path, 2)
    commits = {"from": "a" * 40, "to": "b" * 40, "count": 500}
    ids.append(
        tinymodel.bundle(
            tmp_path, created="2024-06-01T00:00:00Z", base="mini", commits=commits,
            method={"name": "lora"}, metrics=METRICS,
        )
    )  # fmt: skip
    newest, middle, oldest = registry.list_model_versions(tmp_path)
    assert [newest.id, middle.id, oldest.id] == ids[::-1]
    assert (newest.state, middle.state, oldest.state) == ("active", "previous", "")
    assert (newest.base, newest.method, newest.commits) == ("mini", "lora", commits)
    assert newest.metrics == {"b_norm": 12.5} and middle.metrics == {} and middle.method == "retrieval"
    folder = tmp_path / "models" / newest.id
    files = [path for path in folder.rglob("*") if path.is_file() and path.name != bundles.MANIFEST_FILE]
    assert newest.size == sum(path.stat().st_size for path in files)


def test_only_a_losing_challenger_has_a_reason(tmp_path: Path) -> None:
    make_models(tmp_path, 2)
    lost = {"duel": {"won": False, "verdict": "B-Norm fell by 2"}}
    with bundles.staging_folder(tmp_path) as folder:
        tinymodel.fill(folder)
        made = bundles.Manifest(kind="retrieval", created="2024-07-01T00:00:00Z", metrics=lost)
        bundles.write_bundle(folder, made)
    assert [one.aside for one in registry.list_model_versions(tmp_path)] == ["B-Norm fell by 2", "", ""]
    registry.roll_back_model(tmp_path, registry.list_model_versions(tmp_path)[0].id)
    assert registry.list_model_versions(tmp_path)[0].aside == "", "an active model was not rejected"


def test_rolling_back_and_forth(tmp_path: Path) -> None:
    ids = make_models(tmp_path, 3)
    assert registry.roll_back_model(tmp_path).id == ids[1] and answers(tmp_path)
    assert bundles.read_active_ids(tmp_path) == (ids[1], ids[2])
    assert registry.roll_back_model(tmp_path).id == ids[2]
    assert registry.roll_back_model(tmp_path, ids[0][:9].upper()).id == ids[0] and answers(tmp_path)
    assert bundles.read_active_ids(tmp_path) == (ids[0], ids[2])


def test_a_prefix_that_names_no_model_is_refused(tmp_path: Path) -> None:
    with pytest.raises(GitpeftError, match="no earlier model"):
        registry.roll_back_model(tmp_path)
    ids = make_models(tmp_path, 1)
    with pytest.raises(GitpeftError, match="no earlier model"):
        registry.roll_back_model(tmp_path)
    for name, why in (
        (ids[0][:3], "does not name one"),
        ("zzzz", "no model here"),
        ("../x", "no model here"),
    ):
        with pytest.raises(GitpeftError, match=why):
            registry.roll_back_model(tmp_path, name)
    assert bundles.read_active_ids(tmp_path) == (ids[0], "")


def test_a_damaged_model_is_not_activated_by_a_rollback(tmp_path: Path) -> None:
    ids = make_models(tmp_path, 2)
    path = tmp_path / "models" / ids[0] / "index" / "rows.bin"
    path.write_bytes(path.read_bytes()[:-1] + b"?")
    with pytest.raises(GitpeftError, match="damaged"):
        registry.roll_back_model(tmp_path)
    assert bundles.read_active_ids(tmp_path) == (ids[1], ids[0]) and answers(tmp_path)


def test_a_rollback_and_pruning_killed_at_any_step_leave_a_working_model(tmp_path: Path) -> None:
    ids = make_models(tmp_path, 5)
    number = 0
    with asked_meanwhile(tmp_path, tmp_path, tinymodel.CHANGES[0]):
        for step in every_kill(
            lambda: (registry.roll_back_model(tmp_path), bundles.prune_bundles(tmp_path, keep=0))
        ):
            number = step
            assert answers(tmp_path)
            now, before = bundles.read_active_ids(tmp_path)
            assert {now, before} == set(ids[3:]), "the active one and the one before it are never pruned"
            for one in (now, before):
                bundles.verify_bundle(bundles.open_bundle(tmp_path / "models" / one))
    assert number > 30, "the kills reached no effect"
    assert answers(tmp_path) and {one.id for one in registry.list_model_versions(tmp_path)} == set(ids[3:])


# --- one training at a time ---------------------------------------------------------------------------------


def test_a_second_training_is_refused(repo: Repo, gitpeft: Call) -> None:
    repo.commit("start", **{"a.py": "x = 1\n"})
    state = Repository.open(repo.path).state_dir
    with registry.hold_training_lock(state):
        for command in (["train"], ["init", "--no-hooks"]):
            done = gitpeft(*command, "--repo", repo.path)
            assert done.code == 1 and "another training is under way" in done.err
    assert not state.exists(), "a refused run leaves nothing behind"


def test_the_lock_ends_with_its_process(repo: Repo) -> None:
    state = Repository.open(repo.path).state_dir
    program = (
        "import sys, time; from pathlib import Path; from gitpeft.bundle import registry\n"
        f"with registry.hold_training_lock(Path({str(state)!r})):\n"
        "    print('held', flush=True); time.sleep(60)\n"
    )
    env = {**os.environ, "PYTHONPATH": str(CHECKOUT)}
    with subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, env=env) as holder:
        assert holder.stdout is not None and holder.stdout.readline() == b"held\n"
        with pytest.raises(GitpeftError, match="under way"), registry.hold_training_lock(state):
            pass
        holder.kill()
    with registry.hold_training_lock(state):
        assert (state / registry.TRAINING_LOCK_FILE).exists()
    assert not state.exists()


def test_the_lock_leaves_other_state_alone(tmp_path: Path) -> None:
    ids = make_models(tmp_path, 1)
    with registry.hold_training_lock(tmp_path), registry.hold_training_lock(tmp_path / "other"):
        pass
    assert bundles.read_active_ids(tmp_path)[0] == ids[0] and not (tmp_path / "other").exists()
    assert not registry.is_untouched(tmp_path)


# --- the commands -------------------------------------------------------------------------------------------


def test_models_and_rollback(repo: Repo, gitpeft: Call, monkeypatch: pytest.MonkeyPatch) -> None:
    here = ("--repo", repo.path)
    assert "gitpeft init" in gitpeft("models", *here).out
    assert json.loads(gitpeft("models", *here, "--json").out) == []
    ids = make_models(Repository.open(repo.path).state_dir, 2)
    with monkeypatch.context() as narrow:
        narrow.setenv("COLUMNS", "40")
        assert all(one[:12] in gitpeft("models", *here).out for one in ids)
    shown = gitpeft("models", *here)
    assert shown.code == 0 and shown.said.index(ids[1][:12]) < shown.said.index(ids[0][:12])
    listed = json.loads(gitpeft("models", *here, "--json").out)
    assert [(one["id"], one["state"]) for one in listed] == [(ids[1], "active"), (ids[0], "previous")]
    done = gitpeft("rollback", *here)
    assert done.code == 0 and ids[0][:12] in done.out
    assert gitpeft("rollback", ids[1][:8], *here).code == 0
    assert gitpeft("rollback", "beef", *here).code == 1
    assert bundles.read_active_ids(Repository.open(repo.path).state_dir) == (ids[1], ids[0])
