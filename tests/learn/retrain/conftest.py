"""A repository whose model has something to learn again: commits were made since."""

import shutil
from pathlib import Path

import pytest

from gitpeft.git.repository import Repository
from gitpeft.learn import pipeline
from tests.support import generated
from tests.support.gitrepo import Repo
from tests.support.tinybase import FIRST, MORE, Built, loosen, nobody, plan


@pytest.fixture(scope="module")
def grown(built: Built, tmp_path_factory: pytest.TempPathFactory) -> Repo:
    """A repository with a model, and commits since; not to be changed."""
    repo = Repo.create(tmp_path_factory.mktemp("grown") / "repo")
    steps = generated.team(FIRST + MORE)
    generated.put(repo, steps[:FIRST])
    with pytest.MonkeyPatch.context() as patch:
        loosen(patch)
        patch.setattr(
            pipeline, "_list_milder_variants", lambda *_: {}
        )  # whether tuning pays is not asked here
        pipeline.build_active_model(Repository.open(repo.path), plan(built), nobody)
    generated.put(repo, steps[FIRST:])
    return repo


@pytest.fixture
def copied(grown: Repo, tmp_path: Path) -> Repo:
    shutil.copytree(grown.path, tmp_path / "repo", symlinks=True)
    return Repo(tmp_path / "repo", grown.clock)
