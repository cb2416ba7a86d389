"""Trains one shared adapter on several repositories, then each repository's own adapter starting from it.

Each repository trains on its own commits and activates the result by its own rules (a comparison with the
champion where a model is installed). The commits that a repository holds out for that comparison are held
out of the shared training too.
"""

import hashlib
import json
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle import registry
from gitpeft.diff.render import TokenBudget
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository
from gitpeft.learn import pipeline
from gitpeft.learn.data import dataset
from gitpeft.learn.data.dataset import MIN_TRAINING_EXAMPLES, Dataset, Example
from gitpeft.learn.results import MinedHistory, ModelPlan
from gitpeft.learn.retrain import run as retrain_run
from gitpeft.learn.training import finetune
from gitpeft.learn.training.finetune import ProgressListener

SHARED_FOLDER = "org"
"""The folder of shared adapters in the state of the first repository."""


@dataclass(frozen=True, slots=True)
class RepositoryResult:
    """The outcome for one repository: `action` is activated, aside or none, `bundle` the id of its model."""

    repository: str
    action: str
    reason: str
    bundle: str


def train_across_repositories(
    repos: Sequence[Repository],
    plan: ModelPlan,
    listen: ProgressListener,
    agreed: Callable[[str], bool] = lambda _: True,
) -> list[RepositoryResult]:
    """Train the shared adapter, then each repository's own; half of the time goes to the first.

    Several processes (see `training.distributed`) train the first together; the others then have nothing left
    to do, and return nothing. GitpeftError when there are fewer than two repositories, too few usable commits
    in all, or no training is possible here.
    """
    if len({repo.common_dir for repo in repos}) < max(2, len(repos)):
        raise GitpeftError("a shared adapter needs two repositories or more", "give --org several times")
    if not pipeline.can_train():
        raise GitpeftError(
            "nothing was trained: gitpeft[train] is not installed", "pip install 'gitpeft[train]'"
        )
    from gitpeft.learn.training import distributed

    with ExitStack() as locks:
        with distributed.join_world() as world:
            with distributed.let_writer_go_first():
                if world.writes:
                    for repo in repos:
                        locks.enter_context(registry.hold_training_lock(repo.state_dir))
                mined = [pipeline.mine_history(repo, plan.until, listen) for repo in repos]
            start = _train_shared_adapter(repos, mined, replace(plan, minutes=plan.minutes / 2), listen)
        if not world.writes:
            return []
        own = replace(plan, minutes=plan.minutes / 2 / len(repos))
        return [_train_own_adapter(repo, own, start, listen, agreed) for repo in repos]


def _train_shared_adapter(
    repos: Sequence[Repository], mined: Sequence[MinedHistory], plan: ModelPlan, listen: ProgressListener
) -> Path:
    """Train on all repositories together; the folder of the adapter."""
    data = merge_datasets(
        [make_repository_dataset(repo, one, plan.seed) for repo, one in zip(repos, mined, strict=True)]
    )
    if len(data.examples) < MIN_TRAINING_EXAMPLES:
        raise GitpeftError(
            f"only {len(data.examples)} usable commits in all, training needs {MIN_TRAINING_EXAMPLES}",
            "`gitpeft init` in each",
        )
    job = pipeline.make_training_job(plan)
    decided: list[object] = [asdict(plan), job.base.digest, sorted(one.tip for one in mined)]
    key = hashlib.sha256(json.dumps(decided, sort_keys=True).encode()).hexdigest()[:16]
    folder = repos[0].state_dir / SHARED_FOLDER / key
    finetune.tune_base(job, data, folder, listen)
    return folder / bundles.ADAPTER_FOLDER


def make_repository_dataset(repo: Repository, mined: MinedHistory, seed: int) -> Dataset:
    """The examples of a repository, split as its own training will split them."""
    champion = retrain_run.find_champion(repo)
    found = retrain_run.split_for_challenger(mined.records, champion, seed).data if champion else None
    return found or dataset.build_dataset(mined.records, TokenBudget().exemplars)


def merge_datasets(parts: Sequence[Dataset]) -> Dataset:
    """The training parts of all, then the validation parts of all; no test part."""
    train: list[Example] = []
    valid: list[Example] = []
    for number, one in enumerate(parts):
        train += (replace(example, group=str(number)) for example in one.examples[: one.first_valid])
        valid += (replace(example, group=str(number)) for example in one.valid)
    everything = (*train, *valid)
    return Dataset(everything, dataset.build_example_index(()), len(train), len(everything), {})


def _train_own_adapter(
    repo: Repository, plan: ModelPlan, start: Path, listen: ProgressListener, agreed: Callable[[str], bool]
) -> RepositoryResult:
    name = (repo.work_tree or repo.common_dir).name
    if retrain_run.find_champion(repo) is None:
        made = pipeline.build_active_model(repo, replace(plan, warm=str(start)), listen)
        return RepositoryResult(
            name, "activated", made.candidate.why or "the first model of this repository", made.bundle
        )
    done = retrain_run.run_retraining(repo, plan, listen, start=start, agreed=agreed)
    return RepositoryResult(name, done.action, done.reason, done.bundle)
