"""A risk model by hand, in a bundle, and a history in which one file was fixed again and again."""

import json
from dataclasses import replace
from typing import Any

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle.bundle import Manifest
from gitpeft.git.repository import Repository
from gitpeft.history.store import History
from gitpeft.risk.model import LOGISTIC_REGRESSION, RiskModel
from tests.support.gitrepo import Repo

MODEL = RiskModel(
    LOGISTIC_REGRESSION,
    features=("la", "nuc"),
    weights=(1.0, 0.5),
    bias=-5.0,
    means=(2.0, 1.0),
    sizes=tuple(i / 4 for i in range(101)),
    curve=((-5.0, 0.01), (5.0, 0.9)),
    scores=tuple(-5 + i / 20 for i in range(101)),
    known=60,
    needed=40,
    latency=30.0,
)
"""Scores -5 + log(1 + la) + log(1 + nuc) / 2; the recent commits had scores from -5 to 0."""

NOTHING = RiskModel(why="not enough history (3 known bugs, 40 needed)", known=3, needed=40)


def give(repo: Repo, model: RiskModel = MODEL) -> None:
    """Make a bundle with this risk model the active one, and read the history."""
    repository = Repository.open(repo.path)
    with bundles.staging_folder(repository.state_dir) as folder:
        (folder / bundles.RISK_MODEL_FILE).write_text(model.to_json())
        id_ = bundles.write_bundle(folder, Manifest("retrieval", "2024-01-01T00:00:00Z"))
    bundles.activate_bundle(repository.state_dir, id_)
    if repository.resolve_head():
        with History.open(repository.state_dir) as history:
            history.mine_commits(repository)


def damaged(model: RiskModel = MODEL) -> RiskModel:
    """One that cannot be used although its file is whole."""
    return replace(model, weights=model.weights[:1])


def lines(first: int, last: int, note: str = "") -> str:
    """A Python file of functions, `first` to `last`."""
    return "".join(
        f"def step{i}(value):\n    a = value\n    return a{note}\n\n\n" for i in range(first, last)
    )


def fixed_often(repo: Repo) -> None:
    """Two files that go together; `core.py` is fixed five times in `step3`, by three people."""
    repo.commit(
        "start", **{"src/core.py": lines(0, 8), "tests/test_core.py": "x = 0\n", "README.md": "hello\n"}
    )
    for number in range(6):
        text = lines(0, 8).replace(
            "def step3(value):\n    a = value", f"def step3(value):\n    a = value + {number}"
        )
        repo.write("src/core.py", text)
        repo.write("tests/test_core.py", f"x = {number + 1}\n")
        repo.git("add", "-A")
        env = {"GIT_AUTHOR_EMAIL": f"person{number % 4}@example.org", "GIT_AUTHOR_NAME": f"Zoe{number % 4}"}
        repo.git("commit", "-q", "-m", "fix: a crash" if number else "core: count", env=env)
        repo.tick()


def change_core(repo: Repo, count: int = 40) -> None:
    """Stage a large change of the file that was fixed often."""
    text = lines(0, 8).replace(
        "def step3(value):\n    a = value", "def step3(value):\n    a = 1\n" + "    a += 1\n" * count
    )
    repo.stage(**{"src/core.py": text})


def load(out: str) -> list[dict[str, Any]]:
    """Lines of JSON."""
    return [json.loads(line) for line in out.splitlines()]
