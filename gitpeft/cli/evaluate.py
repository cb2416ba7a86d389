"""Commands that measure: eval, compare, backtest."""

from contextlib import nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

import typer

from gitpeft.cli import console, options, session
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository

if TYPE_CHECKING:
    from gitpeft.learn.risk.encoder_export import RiskEncoderTrainer


def evaluate(
    repo: options.RepoOption = None,
    limit: Annotated[
        int, typer.Option(metavar="N", min=1, help="Commits to evaluate on at most, drawn at random.")
    ] = 1000,
    progress: options.ProgressOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """Measure the active model on commits that it has not seen.

    These are the newest tenth of the usable commits that the model was made from.
    """
    repository = Repository.open(repo)
    with session.show_progress(as_json, progress) as listen:
        from gitpeft.learn import pipeline

        outcome = pipeline.evaluate_active_model(repository, limit, listen)
    if as_json:
        console.print_json(outcome.as_dict())
    else:
        from gitpeft.cli import tables

        tables.print_evaluation(outcome.measured)


MethodsOption = Annotated[
    list[str] | None,
    typer.Option("--methods", metavar="METHOD", help="As --method of train; default: all."),
]
RanksOption = Annotated[
    list[int] | None,
    typer.Option("--ranks", metavar="N", min=1, help="Ranks to try (widths, for adapters)."),
]
PlacementsOption = Annotated[
    list[str] | None, typer.Option("--placements", metavar="PLACE", help="Placements to try.")
]
BasesOption = Annotated[
    list[str] | None, typer.Option("--bases", metavar="BASE", help="Base models to try; default: mini.")
]
ComparisonBudgetOption = Annotated[
    float, typer.Option("--budget", metavar="MINUTES", min=1.0, help="Time for the whole comparison.")
]
SeedsOption = Annotated[int, typer.Option("--seeds", metavar="N", min=1, help="Long runs of each method.")]
TaskOption = Annotated[
    str,
    options.make_choice_option("--task", choices=("message", "risk", "both"), help="What to compare on."),
]
LowResourceOption = Annotated[
    str,
    typer.Option("--low-resource", metavar="N,N", help="Try also with only the newest N commits."),
]
TransferOption = Annotated[
    str,
    typer.Option(
        "--transfer",
        metavar="FROM:TO,…",
        help="Try also: train on commits in one language, evaluate on those in another.",
    ),
]


def compare(
    repo: options.RepoOption = None,
    methods: MethodsOption = None,
    ranks: RanksOption = None,
    placements: PlacementsOption = None,
    bases: BasesOption = None,
    budget: ComparisonBudgetOption = 30.0,
    seeds: SeedsOption = 1,
    task: TaskOption = "message",
    low: LowResourceOption = "",
    transfer: TransferOption = "",
    until: options.UntilOption = "HEAD",
    device: options.DeviceOption = "auto",
    out: Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Copy the page here.")] = None,
    as_json: options.JsonOption = False,
) -> None:  # fmt: skip
    """Find the best tuning method for this repository.

    Short runs of all methods, longer ones of the better half, then a recommendation that
    `gitpeft train --method auto` follows. Options may be repeated to try several values. Writes a page and
    JSON below .git/gitpeft; interrupted, the same command continues.
    """
    from gitpeft.cli import progress, tables

    repository = session.open_learnable_repository(repo, until)
    session.check_output_path(out)
    with (
        session.explain_resuming(),
        session.hold_training_lock(repository),
        session.show_progress(True),
        progress.watch_comparison(budget, as_json) as watch,
    ):
        from gitpeft.learn.compare import run as comparison
        from gitpeft.learn.compare.halving import ComparisonRequest
        from gitpeft.learn.data import subsets

        with options.blame_option("--low-resource"):
            sizes = tuple(subsets.parse_sizes(low))
        with options.blame_option("--transfer"):
            pairs = tuple(subsets.parse_language_pairs(transfer))
        wish = ComparisonRequest(
            tuple(methods or ()), tuple(ranks or ()), tuple(placements or ()), tuple(bases or ("mini",)),
            budget, seeds, until, task, low=sizes, transfer=pairs,
        )  # fmt: skip
        report = comparison.compare_methods(repository, wish, watch)
    if out is not None:
        out.write_bytes(Path(report.page).read_bytes())
    if as_json:
        console.print_json(report.as_dict())
    else:
        tables.print_comparison(report)


def backtest(
    months: Annotated[
        int, typer.Option("--months", metavar="N", min=1, max=240, help="How far to look back.")
    ] = 12,
    until: options.UntilOption = "HEAD",
    out: Annotated[
        Path | None, typer.Option("--out", metavar="FILE", help="Where the page goes; default: below .git.")
    ] = None,
    tune: Annotated[
        float | None,
        typer.Option(
            "--tune",
            metavar="MINUTES",
            min=0.05,
            help="Also tune the encoder, as init does, for at most this many minutes.",
        ),
    ] = None,
    device: options.DeviceOption = "auto",
    repo: options.RepoOption = None,
    progress: options.ProgressOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """Replay the risk flag over the last months.

    They end where commits become too new to tell which need a fix: half of the fixes take longer to come.
    Each month is judged by what was known when it began; an encoder (--tune) is trained once, on what was
    known when the first of them began, and judges the newest 2,000 commits at most. Writes one HTML page and
    prints a summary.
    """
    from gitpeft import config

    repository = session.open_learnable_repository(repo, until)
    session.check_output_path(out)
    budget = config.load_config(repository).risk_budget
    tip = repository.resolve_commit(until)
    lock = session.hold_training_lock(repository) if tune else nullcontext()
    with session.show_progress(as_json, progress) as listen, lock:
        from gitpeft.learn.risk import backtest as risk_backtest
        from gitpeft.learn.risk.backtest_report import format_backtest_summary

        teacher = _make_risk_teacher(repository, until, tune) if tune else None
        period = risk_backtest.BacktestPeriod(tip, months, budget)
        found = risk_backtest.run_risk_backtest(repository, period, listen, teacher)
    place = out or repository.state_dir / "backtest.html"
    _write_page(place, found.page)
    if as_json:
        taught = {"taught": teacher.notes} if teacher else {}
        console.print_json(found.report.as_dict() | {"page": str(place)} | taught)
        return
    said = [f"no encoder: {note['why']}" for note in teacher.notes if "why" in note] if teacher else []
    said += [warning for note in teacher.notes for warning in note.get("notes", ())] if teacher else []
    for line in [*format_backtest_summary(found.report), *said]:
        console.print_line(line)
    print(f"The page: {place}")


def _make_risk_teacher(repository: Repository, until: str, minutes: float) -> "RiskEncoderTrainer | None":
    """What tunes the embedded base to judge changes, as `init` does."""
    from gitpeft.learn import pipeline

    if not pipeline.can_train():
        raise GitpeftError(
            "gitpeft[train] is not installed", "pip install 'gitpeft[train]', or leave out --tune"
        )
    plan = session.make_plan(repository, "mini", "lora", until, minutes)
    return pipeline.make_risk_encoder_trainer(plan, minutes)


def _write_page(place: Path, page: str) -> None:
    try:
        place.write_text(page, encoding="utf-8")
    except OSError as error:
        raise GitpeftError(
            f"cannot write {place}: {error.strerror}", "choose another place with --out"
        ) from None
