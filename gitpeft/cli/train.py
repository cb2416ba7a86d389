"""Commands that make a model: init, train, export, base build."""

import os
import sys
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gitpeft.cli import console, options, session
from gitpeft.errors import GitpeftError, explain_failure
from gitpeft.git.repository import Repository
from gitpeft.terminal import replace_unprintable

if TYPE_CHECKING:
    from gitpeft.learn.results import ModelPlan, TrainingResult
    from gitpeft.learn.retrain.run import RetrainingResult


def init(
    repo: options.RepoOption = None,
    base: options.BaseOption = "auto",
    method: options.MethodOption = "lora",
    until: options.UntilOption = "HEAD",
    budget: options.BudgetOption = 5.0,
    device: options.DeviceOption = "auto",
    no_hooks: Annotated[bool, typer.Option("--no-hooks", help="Skip hook installation.")] = False,
    progress: options.ProgressOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """Learn from this history and install the git hooks.

    Reads the history, tunes a model on it, exports it, fits the risk model and installs the hooks. With fewer
    than 50 usable commits, or without `gitpeft[train]`, the base model is used without tuning, together with
    examples from this history. Interrupted, the same command continues where it was.
    """
    repository = session.open_learnable_repository(repo, until)
    if repository.work_tree is None and not no_hooks:
        raise GitpeftError(
            "this repository is bare: nobody commits in it", "run this in a clone, or use --no-hooks"
        )
    plan = session.make_plan(repository, base, method, until, budget)
    with (
        session.explain_resuming(),
        session.show_progress(as_json, progress) as listen,
        session.hold_training_lock(repository),
    ):
        from gitpeft.learn import pipeline

        outcome = pipeline.build_active_model(repository, plan, listen)
    hooks = (
        "not installed (--no-hooks)"
        if no_hooks
        else _install_hooks(repository, outcome.candidate.risk.as_dict())
    )
    if as_json:
        console.print_json(outcome.as_dict() | {"hooks": hooks})
    else:
        from gitpeft.cli import views

        views.print_outcome(repository, outcome, hooks)


def _install_hooks(repository: Repository, risk: dict[str, object]) -> str:
    """Install, and say so; a hook that cannot be put in does not undo the model.

    The pre-commit hook comes with it where there is a risk model that has something to flag.
    """
    from gitpeft.cli import views
    from gitpeft.hooks import stubs
    from gitpeft.hooks.install import install_hooks
    from gitpeft.risk.model import RiskModel

    said = []
    flags = RiskModel.from_dict(risk).warns
    for name in (stubs.SUGGESTION_HOOK, *([stubs.RISK_HOOK] if flags else []), stubs.AHEAD_HOOK):
        try:
            [done] = install_hooks(repository, hooks=[name])
            said.append(" ".join((views.shorten_path(repository, done.where), done.action, *done.notes)))
        except GitpeftError as error:
            said.append(f"{name} not installed: {error.message}. {error.hint}")
    return "\n".join(said)


def train(
    repo: options.RepoOption = None,
    base: options.BaseOption = "auto",
    method: options.MethodOption = "lora",
    until: options.UntilOption = "HEAD",
    budget: options.BudgetOption = 5.0,
    device: options.DeviceOption = "auto",
    from_scratch: Annotated[
        bool,
        typer.Option("--from-scratch", help="Start from the base model, not from the active model."),
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", "-y", help="Ask nothing: for scheduled jobs.")] = False,
    org: Annotated[
        list[Path] | None,
        typer.Option(
            "--org",
            metavar="PATH",
            help="Repositories that share a first adapter, or a file that lists them.",
        ),
    ] = None,
    progress: options.ProgressOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """Retrain on new commits; the new model must be better.

    Training starts from the active model, on the new commits and a sample of the old ones; then both models
    are tested on the newest commits, which neither has seen. Without an active model the trained run is kept,
    and `gitpeft export` makes it the active one. Interrupted, the same command continues where it was.
    """
    asked = sys.stdin.isatty() and not yes and not as_json
    if org:
        if from_scratch or repo:
            raise typer.BadParameter("--org goes with neither --from-scratch nor --repo")
        each, failed = _open_each(session.list_org_paths(org), until)
        plan = session.make_plan(each[0], base, method, until, budget)
        _train_together(each, failed, plan, asked, as_json, progress)
        return
    repository = session.open_learnable_repository(repo, until)
    kept = session.find_active_base(repository) if base == "auto" else ""
    plan = session.make_plan(repository, kept or base, method, until, budget)
    done: TrainingResult | RetrainingResult
    with (
        session.explain_resuming(),
        session.show_progress(as_json, progress) as listen,
        session.hold_training_lock(repository),
    ):
        from gitpeft.learn import pipeline
        from gitpeft.learn.retrain import run

        if run.find_champion(repository) is None:
            done = pipeline.train_only(repository, plan, listen)
        else:
            agreed = _make_confirmation(asked)
            done = run.run_retraining(repository, plan, listen, from_scratch=from_scratch, agreed=agreed)
    if as_json:
        console.print_json(done.as_dict())
        return
    from gitpeft.cli import views

    if isinstance(done, run.RetrainingResult):
        views.print_retraining(done)
    else:
        views.print_training(done)


def _open_each(paths: list[Path], until: str) -> tuple[list[Repository], dict[str, str]]:
    """The repositories, and why others of the paths cannot be used; GitpeftError where fewer than two can."""
    found: list[Repository] = []
    failed: dict[str, str] = {}
    for path in paths:
        try:
            repository = session.open_learnable_repository(path, until)
            repository.resolve_commit(until)
            found.append(repository)
        except (GitpeftError, OSError) as error:
            failed[str(path)] = explain_failure(error)
    if failed and len(found) < 2:
        bad, why = next(iter(failed.items()))
        raise GitpeftError(f"{bad}: {why}", "a shared adapter needs two repositories or more")
    return found, failed


def _train_together(
    repos: list[Repository],
    failed: dict[str, str],
    plan: "ModelPlan",
    asked: bool,
    as_json: bool,
    progress: str,
) -> None:
    """Train, and say what was done; ends with exit code 1 where a repository failed."""
    with session.explain_resuming(), session.show_progress(as_json, progress) as listen:
        from gitpeft.learn.retrain import multi_repo

        done = multi_repo.train_across_repositories(repos, plan, listen, _make_confirmation(asked))
    if done is None:  # a process that only helped
        return
    if failed:
        more = (multi_repo.RepositoryResult(path, multi_repo.FAILED, why) for path, why in failed.items())
        done = replace(done, repositories=(*done.repositories, *more))
    if as_json:
        console.print_json(done.as_dict())
    else:
        from gitpeft.cli import views

        views.print_org_result(done)
    if any(one.action == multi_repo.FAILED for one in done.repositories):
        raise typer.Exit(1)


def _make_confirmation(asked: bool) -> Callable[[str], bool]:
    """Whether a verdict is followed: as a person says who is asked, else always."""
    from gitpeft.cli import progress

    return lambda verdict: not asked or progress.ask_confirmation(f"{verdict}. Make it active?")


def export(
    repo: options.RepoOption = None,
    device: options.DeviceOption = "auto",
    progress: options.ProgressOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """Make the newest trained run the active model.

    Converts it to ONNX, checks that it gives the same results, fits the reranker and writes the bundle. A
    risk model that the run has not got yet is trained, on --device. Interrupted, the same command continues
    where it was.
    """
    repository = Repository.open(repo)
    with (
        session.explain_resuming(),
        session.show_progress(as_json, progress) as listen,
        session.hold_training_lock(repository),
    ):
        from gitpeft.learn import pipeline

        plan = pipeline.find_last_trained_plan(repository)
        outcome = pipeline.build_active_model(repository, plan, listen)
    if as_json:
        console.print_json(outcome.as_dict())
    else:
        from gitpeft.cli import views

        views.print_outcome(repository, outcome, "unchanged")


def build_base(
    recipe: Annotated[
        Path, typer.Argument(metavar="FILE", help="A recipe.toml such as models/mini/recipe.toml.")
    ],
    corpus: Annotated[
        Path, typer.Option(metavar="PATH", help="Folder of the corpus files that the recipe names.")
    ],
    out: Annotated[Path, typer.Option(metavar="PATH", help="Folder for the finished base.")],
    work: Annotated[
        Path | None, typer.Option(metavar="PATH", help="Folder for intermediate results; default: OUT/work.")
    ] = None,
    device: options.DeviceOption = "auto",
    profile: Annotated[
        str,
        typer.Option(
            metavar="NAME", help="A table [profile.NAME] of the recipe, such as gpu, over its other settings."
        ),
    ] = "",
    examples_only: Annotated[
        bool,
        typer.Option(
            "--examples-only", help="For an adapter: make its examples in WORK, to be trained on elsewhere."
        ),
    ] = False,
    finish: Annotated[
        bool, typer.Option("--finish", help="Train no further: make an adapter of the last checkpoint.")
    ] = False,
    progress: options.ProgressOption = "auto",
) -> None:
    """Train a base model from random weights, or the adapter of a pretrained one, as a recipe says.

    Interrupted, the same command continues where it was.
    """
    with session.explain_resuming(), session.show_progress(False, progress) as listen:
        from gitpeft.learn.pretraining import adapter_build, build

        work = work or out / "work"
        if adapter_build.is_adapter_recipe(recipe):
            wanted = adapter_build.AdapterRecipe.load(recipe, profile)
            if examples_only:
                made_in = adapter_build.encode_corpus(wanted, corpus, work, out, listen)
                print(replace_unprintable(f"the examples are in {made_in}"))
                return
            finished = adapter_build.build_adapter(wanted, corpus, work, out, listen, finish)
        elif os.environ.get("WORLD_SIZE", "1") != "1":
            raise GitpeftError(
                "this recipe is trained by one process",
                "start it without torchrun; several train an adapter's recipe, or `gitpeft train --org`",
            )
        elif examples_only:
            raise GitpeftError("--examples-only is for the recipe of an adapter", "leave it out")
        else:
            made = build.PretrainingRecipe.load(recipe)
            build.pretrain_base(made, corpus, work, out, listen)
            finished = True
    if os.environ.get("RANK", "0") != "0":  # one of several processes, of which the first speaks
        return
    done = f"the base is in {out}" if finished else "stopped: the same command continues from the checkpoint"
    print(replace_unprintable(done))
