"""Trains one shared adapter on several repositories, then each repository's own adapter starting from it.

Half of the time goes to the shared adapter (see `shared_adapter`). With the rest the repositories are served
in turn, those first that have waited longest: with an adapter of their own where there is time for its
training; else with the shared one, where no model is installed yet; the others wait for the next run.

Each repository trains on its own commits and activates the result by its own rules (a comparison with the
champion where a model is installed). The commits that a repository holds out for that comparison are held
out of the shared training too.
"""

from collections import Counter
from collections.abc import Callable, Sequence
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path

from gitpeft.bundle import bundle as bundles
from gitpeft.bundle import registry
from gitpeft.errors import GitpeftError, ParityError, explain_failure
from gitpeft.git.repository import Repository
from gitpeft.learn import budget as budgets
from gitpeft.learn import pipeline
from gitpeft.learn.budget import BudgetedBase, BudgetReport, RunBudget
from gitpeft.learn.data.dataset import MIN_TRAINING_EXAMPLES
from gitpeft.learn.results import ModelPlan
from gitpeft.learn.retrain import run as retrain_run
from gitpeft.learn.retrain import shared_adapter
from gitpeft.learn.retrain.shared_adapter import SHARED_FOLDER, Source, name_repository
from gitpeft.learn.training.finetune import ProgressListener

_TURN_FILE = "org-turn"
"""In a repository's state: its time says when the repository was last served."""

ACTIVATED, WAITING, FAILED = "activated", "waiting", "failed"
"""What can become of a repository, beside what a retraining says."""

_NO_TIME = "there was no time to train its own"


@dataclass(frozen=True, slots=True)
class RepositoryResult:
    """The outcome for one repository: `action` is activated, aside, none, waiting or failed, `bundle` the id
    of its model."""

    repository: str
    action: str
    reason: str
    bundle: str = ""


@dataclass(frozen=True, slots=True)
class OrgResult:
    """The outcomes in the order of the repositories, and what there was no time for."""

    repositories: tuple[RepositoryResult, ...]
    budget: BudgetReport

    def as_dict(self) -> dict[str, object]:
        """Plain values, for JSON."""
        return asdict(self)


def train_across_repositories(
    repos: Sequence[Repository],
    plan: ModelPlan,
    listen: ProgressListener,
    agreed: Callable[[str], bool] = lambda _: True,
) -> OrgResult | None:
    """Train the shared adapter, then serve the repositories as far as the time goes.

    Several processes (see `training.distributed`) train the first together; the others then have nothing left
    to do, and return nothing. What fails in one repository is in its result. GitpeftError when there are
    fewer than two repositories, too few usable commits in all, or no training is possible here.
    """
    _check_repositories(repos)
    if not pipeline.can_train():
        raise GitpeftError(
            "nothing was trained: gitpeft[train] is not installed", "pip install 'gitpeft[train]'"
        )
    from gitpeft.learn.training import distributed

    state = repos[0].state_dir / SHARED_FOLDER
    with ExitStack() as lock:
        with distributed.join_world() as world:
            if world.writes:
                lock.enter_context(registry.hold_training_lock(state))
            sources = [Source(repo, repo.resolve_commit(plan.until)) for repo in repos]
            budget = RunBudget.start(state, plan.minutes)
            heard: ProgressListener = listen if world.writes else lambda *_: None
            folder = shared_adapter.train_shared_adapter(sources, plan, budget, heard)
        if not world.writes:
            return None
        shared_adapter.delete_old_adapters(folder)
        base = pipeline.find_budgeted_base(plan)
        return _Service(sources, plan, budget, base, folder, listen, agreed).run()


def _check_repositories(repos: Sequence[Repository]) -> None:
    """GitpeftError where they are fewer than two, or one is there twice."""
    if len(repos) < 2:
        raise GitpeftError("a shared adapter needs two repositories or more", "give --org several times")
    counts = Counter(repo.common_dir for repo in repos)
    [(folder, count)] = counts.most_common(1)
    if count > 1:
        raise GitpeftError(
            f"the repository in {folder} is given {count} times",
            "name each repository once, and only one of its worktrees",
        )


@dataclass(slots=True)
class _Service:
    """Serves repositories in turn. `folder` is that of the shared adapter.

    `refusal` says why its export is not used, "" where it is, and is None before somebody needed it;
    `without_time` counts those that got no adapter of their own for want of time.
    """

    sources: Sequence[Source]
    plan: ModelPlan
    budget: RunBudget
    base: BudgetedBase
    folder: Path
    listen: ProgressListener
    agreed: Callable[[str], bool]
    results: dict[Path, RepositoryResult] = field(default_factory=dict)
    refusal: str | None = None
    without_time: int = 0

    def run(self) -> OrgResult:
        in_turn = sorted(self.sources, key=lambda one: _read_turn(one.repo))
        without = sum(_has_no_model(one.repo) for one in in_turn)
        for number, source in enumerate(in_turn):
            self.listen("repositories", number / len(in_turn), f"{number:,}/{len(in_turn):,} repositories")
            without -= _has_no_model(source.repo)
            self.results[source.repo.common_dir] = self._serve(source, without)
        self.listen("repositories", 1.0, "")
        self._note_left_out()
        ordered = tuple(self.results[one.repo.common_dir] for one in self.sources)
        return OrgResult(ordered, self.budget.report())

    def _serve(self, source: Source, without: int) -> RepositoryResult:
        """Serve one repository, when `without` of those after it have no model yet."""
        name = name_repository(source.repo)
        own = self.budget.estimate_own_adapter(self.base)
        shared = self.budget.estimate_shared_adapter(self.base)
        is_new = _has_no_model(source.repo)
        has_time = self.budget.left - without * shared >= own
        if not has_time and not (is_new and shared <= self.budget.left):
            return RepositoryResult(name, WAITING, "no time left: its turn comes in the next run")
        try:
            with registry.hold_training_lock(source.repo.state_dir):
                (source.repo.state_dir / _TURN_FILE).touch()
                if has_time:
                    return self._train_own_adapter(source, own)
                return self._install_shared_adapter(source, _NO_TIME)
        except (GitpeftError, OSError) as error:
            return RepositoryResult(name, FAILED, explain_failure(error))

    def _train_own_adapter(self, source: Source, least: float) -> RepositoryResult:
        """With its part of the second half, or what a training takes at the least."""
        begun = self.budget.clock()
        part = 30 * self.plan.minutes / len(self.sources)
        seconds = part if least <= part <= self.budget.left else least
        plan = replace(self.plan, minutes=seconds / 60)
        start = self.folder / bundles.ADAPTER_FOLDER
        if retrain_run.find_champion(source.repo) is None:
            result, trained = self._build_first_model(source, replace(plan, warm=str(start)))
            if not trained:  # too few commits
                return self._install_shared_adapter(source, result.reason)
        else:
            done = retrain_run.run_retraining(source.repo, plan, self.listen, start=start, agreed=self.agreed)
            result = RepositoryResult(name_repository(source.repo), done.action, done.reason, done.bundle)
            trained = done.taught > 0
        spent = self.budget.clock() - begun
        if trained and (seconds == least or spent > seconds):
            self.budget.paces.observe(budgets.OWN_ADAPTER, spent, 1, self.base.name)
        return result

    def _install_shared_adapter(self, source: Source, why: str) -> RepositoryResult:
        refusal = self._export_shared_adapter()
        begun = self.budget.clock()
        warm = "" if refusal else str(self.folder / bundles.ADAPTER_FOLDER)
        plan = replace(self.plan, minutes=self.plan.minutes / 2 / len(self.sources), train=False, warm=warm)
        result, _ = self._build_first_model(source, plan)
        self.budget.paces.observe(budgets.SHARED_ADAPTER, self.budget.clock() - begun, 1, self.base.name)
        self.without_time += why == _NO_TIME
        if refusal:
            return replace(result, reason=f"untuned: {why}; the shared adapter is not used: {refusal}")
        return replace(result, reason=f"with the shared adapter: {why}")

    def _export_shared_adapter(self) -> str:
        """Export it for the first that needs it; why it cannot be used, "" where it can."""
        if self.refusal is None:
            try:
                shared_adapter.export_shared_adapter(self.plan, self.folder, self.listen)
                self.refusal = ""
            except ParityError as error:  # the base serves all of them, untuned
                self.refusal = error.message
        return self.refusal

    def _build_first_model(self, source: Source, plan: ModelPlan) -> tuple[RepositoryResult, bool]:
        """The first model of a repository, and whether something was trained."""
        # many are served with the shared adapter in the time of one training
        listen: ProgressListener = self.listen if plan.train else lambda *_: None
        mined = shared_adapter.mine_off_the_clock(source, self.budget, listen)
        name, commits = name_repository(source.repo), len(mined.records)
        if plan.train and commits < MIN_TRAINING_EXAMPLES:
            reason = f"only {commits} commits, training needs {MIN_TRAINING_EXAMPLES}"
            return RepositoryResult(name, "none", reason), False
        made = pipeline.build_active_model(source.repo, plan, listen, mined)
        reason = made.candidate.why or "the first model of this repository"
        trained = made.candidate.trained is not None
        return RepositoryResult(name, ACTIVATED, reason, made.bundle), trained

    def _note_left_out(self) -> None:
        shared = self.without_time
        waiting = sum(one.action == WAITING for one in self.results.values())
        count = len(self.sources)
        self.budget.note_needed(budgets.OWN_ADAPTER, count * self.budget.estimate_own_adapter(self.base))
        if shared or waiting:
            what = f"an adapter of their own for {count - shared - waiting:,} of {count:,} repositories"
            waits = "waits" if waiting == 1 else "wait"
            instead = "the untuned base" if self.refusal else "the shared one"
            what += f", {instead} for {shared:,}; {waiting:,} {waits} for the next run"
            self.budget.note_left_out(budgets.OWN_ADAPTER, what)


def _has_no_model(repo: Repository) -> bool:
    try:
        return not bundles.read_active_ids(repo.state_dir)[0]
    except OSError:  # whoever serves this repository says so
        return True


def _read_turn(repo: Repository) -> float:
    """When a repository was last served, 0 for never."""
    try:
        return (repo.state_dir / _TURN_FILE).stat().st_mtime
    except OSError:
        return 0.0
