"""Commands about what is installed: install, uninstall, status, doctor."""

from dataclasses import asdict
from importlib.util import find_spec
from typing import TYPE_CHECKING, Annotated

import typer

from gitpeft.cli import console, options
from gitpeft.git.repository import Repository
from gitpeft.terminal import replace_unprintable

if TYPE_CHECKING:
    from gitpeft.bundle.bundle import Bundle

STRATEGIES = ("auto", "stub", "config", "line", "husky", "pre-commit", "lefthook")


def install(
    repo: options.RepoOption = None,
    strategy: Annotated[
        str,
        options.make_choice_option(
            "--strategy", choices=STRATEGIES, help="How to install; config needs git 2.54."
        ),
    ] = "auto",
    prefetch: Annotated[
        bool,
        typer.Option(
            "--prefetch/--no-prefetch",
            help="Also a pre-commit hook: it prepares the suggestion while other hooks run, and flags risk.",
        ),
    ] = False,
    risk: Annotated[bool, typer.Option("--risk", help="The same as --prefetch.")] = False,
) -> None:
    """Install the git hooks.

    An existing hook is kept and runs first. A second call changes nothing.
    """
    from gitpeft.hooks import stubs
    from gitpeft.hooks.install import install_hooks

    names = [stubs.SUGGESTION_HOOK, *([stubs.RISK_HOOK] if prefetch or risk else []), stubs.AHEAD_HOOK]
    for done in install_hooks(Repository.open(repo), strategy=strategy, hooks=names):
        print(replace_unprintable(f"{done.where}: {done.action} ({done.strategy})"))
        for note in done.notes:
            print(f"  {replace_unprintable(note)}")


def uninstall(
    repo: options.RepoOption = None,
    purge: Annotated[
        bool, typer.Option("--purge", help="Also delete .git/gitpeft: models, caches and statistics.")
    ] = False,
) -> None:
    """Remove the git hooks; earlier ones come back.

    They are restored byte for byte. Models and caches stay in .git/gitpeft unless --purge is given.
    """
    from gitpeft.hooks.install import delete_state, measure_state, uninstall_hooks

    repository = Repository.open(repo)
    removed = uninstall_hooks(repository)
    for done in removed:
        print(replace_unprintable(f"{done.where}: {done.action}"))
    if not removed:
        print("no hook of gitpeft is installed here")
    place = replace_unprintable(str(repository.state_dir))
    if purge:
        print(f"deleted {place} ({console.format_size(delete_state(repository))})")
    elif size := measure_state(repository):
        print(
            f"{console.format_size(size)} of models and caches stay in {place}; "
            "`gitpeft uninstall --purge` deletes them"
        )


def status(
    repo: options.RepoOption = None,
    verbose: Annotated[bool, typer.Option("--verbose", "-v", help="Show all that is known.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Show what is installed and how it is doing."""
    from gitpeft import config
    from gitpeft.bundle import bundle
    from gitpeft.cli import views
    from gitpeft.hooks import doctor
    from gitpeft.monitor import health
    from gitpeft.risk.model import load_risk_model

    repository = Repository.open(repo)
    settings = config.load_config(repository)
    state = doctor.read_status(repository)
    active = bundle.open_active_bundle(repository.state_dir)
    model = None
    if active:
        judge = _judge_commits if _can_label() else None
        measured = health.measure_model_health(repository, active, settings, judge)
        model = views.ActiveModel(active, measured, settings.min_score)
    risky = load_risk_model(active)
    if as_json:
        manifest = model.as_dict() if model else None
        least = model.least_score if model else None
        found = asdict(state) | {"works": state.is_working, "manifest": manifest, "risk": asdict(risky)}
        console.print_json(found | {"least_score": least})
        return
    problems = doctor.read_recent_problems(repository, settings)
    views.print_status(repository, state, model, risky, problems, verbose=verbose)


def _can_label() -> bool:
    return find_spec("pygments") is not None


def _judge_commits(repository: Repository, active: "Bundle") -> list[tuple[float, bool]]:
    from gitpeft.learn.risk import relabel

    return relabel.collect_calibration_pairs(repository, active)


def doctor(
    repo: options.RepoOption = None,
    fix: Annotated[bool, typer.Option("--fix", help="Repair gitpeft's own files.")] = False,
    as_json: options.JsonOption = False,
) -> None:
    """Diagnose problems and say how to solve them."""
    from gitpeft.cli import views
    from gitpeft.hooks.doctor import examine_repository

    repository = Repository.open(repo)
    found = examine_repository(repository, fix=fix)
    if as_json:
        console.print_json([asdict(one) for one in found])
    else:
        views.print_findings(found)
    if any(not one.fixed for one in found):
        raise typer.Exit(1)
