"""The commands. Each calls one function and prints; `main` turns every end into an exit code.

0 done · 1 a problem that the user can mend · 2 wrong usage · 3 a bug, with a log · 130 interrupted
"""

import errno
import json
import os
import sys
import time
import traceback
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gitpeft import __version__
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository

if TYPE_CHECKING:
    from gitpeft.bundle.bundle import Bundle
    from gitpeft.learn.pipeline import ModelPlan
    from gitpeft.learn.retrain.run import RetrainingResult
    from gitpeft.learn.risk.encoder_export import RiskEncoderTrainer
    from gitpeft.learn.training.finetune import ProgressListener
    from gitpeft.risk.assessor import RiskAssessor, RiskReport
    from gitpeft.suggest.service import Offer
    from gitpeft.suggest.suggester import Suggester

SUGGEST_SECONDS = 20.0
"""Time for suggestions that somebody asked for and waits for."""

app = typer.Typer(
    name="gitpeft",
    help="Learns how a team commits, from its own history, and suggests messages in git's hooks. Offline.",
    no_args_is_help=True,
    add_completion=False,
    rich_markup_mode="markdown",
    pretty_exceptions_enable=False,
)
base_app = typer.Typer(no_args_is_help=True, help="Base models: what everything is tuned from.")
app.add_typer(base_app, name="base")

RepoOption = Annotated[
    Path | None, typer.Option("--repo", help="The repository; default: the one you are in.")
]
BaseOption = Annotated[
    str,
    typer.Option(
        "--base",
        help="`mini`, a folder of transformers files, owner/name@commit of the Hugging Face hub, or a short "
        "name of one of the study's bases: codet5-small, codet5-base, codet5p-220m, plbart-base, "
        "unixcoder-base, codebert-base, graphcodebert-base.",
    ),
]
MethodOption = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="NAME[:KEY=VALUE,…]",
        help="How to tune: `lora` (rank, alpha, dropout, "
        "placement=all-linear|attention|query-value|feed-forward), "
        "`adapter` (width, activation, placement=houlsby|pfeiffer), `full`, "
        "`hybrid` (full=LAYER+LAYER or probe=K layers in full, rest=lora|adapter). "
        "All but full: side=encoder|decoder|both, layers=encoder.0+decoder.1; all: lr. "
        "`auto`: what the last `gitpeft compare` advised.",
    ),
]
UntilOption = Annotated[str, typer.Option("--until", metavar="REV", help="Learn from nothing after REV.")]
BudgetOption = Annotated[
    float, typer.Option("--budget", metavar="MINUTES", min=0.05, help="Most time for training.")
]
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.callback(invoke_without_command=True)
def _print_version(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def init(
    repo: RepoOption = None,
    base: BaseOption = "mini",
    method: MethodOption = "lora",
    until: UntilOption = "HEAD",
    budget: BudgetOption = 5.0,
    no_hooks: Annotated[bool, typer.Option("--no-hooks", help="Make the model, install no hook.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Everything: read the history, tune a model on it, export it, fit the risk model, install the hooks.

    Below 50 usable commits, or without `gitpeft[train]`, the base is used untuned, with exemplars from this
    history. All that is not training takes two to three minutes more, most of it for the risk model.
    """
    from gitpeft.cli import views

    repository = _open_learnable_repository(repo, until)
    if repository.work_tree is None and not no_hooks:
        raise GitpeftError(
            "this repository is bare: nobody commits in it", "run this in a clone, or use --no-hooks"
        )
    plan = _make_plan(repository, base, method, until, budget)
    with _show_progress(as_json) as listen, _lock_training(repository):
        from gitpeft.learn import pipeline

        outcome = pipeline.run(repository, plan, listen)
    hooks = "not installed (--no-hooks)" if no_hooks else _install_hooks(repository, outcome.risk)
    if as_json:
        _print_json(asdict(outcome) | {"hooks": hooks})
    else:
        views.print_outcome(outcome, hooks)


def _install_hooks(repository: Repository, risk: dict[str, Any]) -> str:
    """Install, and say so; a hook that cannot be put in does not undo the model.

    The pre-commit hook comes with it where there is a risk model that has something to flag.
    """
    from gitpeft.hooks import stubs
    from gitpeft.hooks.install import install_hooks as put
    from gitpeft.risk.model import RISK_MODEL_KINDS

    said = []
    for name in stubs.HOOK_NAMES if risk.get("kind") in RISK_MODEL_KINDS[1:] else stubs.HOOK_NAMES[:1]:
        try:
            [done] = put(repository, hooks=[name])
            said.append(" ".join((f"{done.where} {done.action} ({done.strategy})", *done.notes)))
        except GitpeftError as error:
            said.append(f"{name} not installed: {error.message}. {error.hint}")
    return "; ".join(said)


@app.command()
def mine(repo: RepoOption = None, until: UntilOption = "HEAD", as_json: JsonOption = False) -> None:
    """Read new history into the cache below `.git/gitpeft`; nothing else in the repository is written."""
    from gitpeft.history.store import History

    repository = _open_learnable_repository(repo, until)
    tip = repository.resolve_commit(until)
    with _show_progress(as_json) as listen, History.open(repository.state_dir) as history:
        report = history.mine_commits(
            repository, tip, progress=lambda done, total: listen("mine", done / max(1, total), f"{done:,}")
        )
    rate = report.new / report.seconds if report.seconds else 0.0
    if as_json:
        _print_json(asdict(report))
    else:
        skipped = "".join(f"; {n:,} skipped: {why}" for why, n in report.skipped.items())
        print(
            f"{report.new:,} new of {report.total:,} commits in {report.seconds:.1f} s "
            f"({rate:,.0f}/s){skipped}"
        )


@app.command()
def train(
    repo: RepoOption = None,
    base: BaseOption = "mini",
    method: MethodOption = "lora",
    until: UntilOption = "HEAD",
    budget: BudgetOption = 5.0,
    cold: Annotated[
        bool, typer.Option("--cold", help="Start from the base, not the installed model.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: for scheduled jobs.")] = False,
    org: Annotated[
        list[Path] | None,
        typer.Option("--org", help="Several repositories (once for each) that share a first adapter."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Tune a model on this history; where one is installed, replace it only by one at least as good.

    Without an installed model the run is kept, and `gitpeft export` makes it the active one. With one,
    training starts from it, on what is new and a sample of what is old; both models are then asked about the
    newest commits that neither has seen. Interrupted, the same command continues where it was.
    """
    asked = sys.stdin.isatty() and not yes and not as_json
    if org:
        if cold or repo:
            raise typer.BadParameter("--org goes with neither --cold nor --repo")
        each = [_open_learnable_repository(one, until) for one in org]
        _train_together(each, _make_plan(each[0], base, method, until, budget), asked, as_json)
        return
    repository = _open_learnable_repository(repo, until)
    plan = _make_plan(repository, base, method, until, budget)
    with _show_progress(as_json) as listen, _lock_training(repository):
        from gitpeft.learn import pipeline
        from gitpeft.learn.retrain import run

        if run.find_champion(repository) is None:
            cost = pipeline.train_only(repository, plan, listen)
            _print_training_cost(cost, as_json)
            return
        done = run.run_retraining(repository, plan, listen, cold=cold, agreed=_make_confirmation(asked))
    if as_json:
        _print_json(asdict(done))
    else:
        _print_retraining(done)


def _train_together(repos: list[Repository], plan: "ModelPlan", asked: bool, as_json: bool) -> None:
    with _show_progress(as_json) as listen:
        from gitpeft.learn.retrain import multi_repo

        done = multi_repo.train_across_repositories(repos, plan, listen, _make_confirmation(asked))
    if as_json:
        _print_json([asdict(one) for one in done])
    else:
        for one in done:
            print(f"{one.repository}: {one.action}, {one.reason}")


def _make_confirmation(asked: bool) -> "Callable[[str], bool]":
    """Whether a verdict is followed: as a person says who is asked, else always."""
    from gitpeft.cli import views

    return lambda verdict: not asked or views.ask_confirmation(f"{verdict}. Make it active?")


def _print_retraining(done: "RetrainingResult") -> None:
    if done.taught:
        start = "the installed model" if done.warm else "the base"
        print(
            f"trained from {start} on {done.taught:,} commits ({done.new:,} new, {done.replayed:,} replayed) "
            f"in {sum(done.seconds.values()):,.0f} s"
        )
    if done.labels.get("known"):
        found, changed = done.labels["known"], done.labels["changed"]
        print(f"{found:,} bugs became known since, {changed:,} of them in commits that counted as clean")
    if done.action == "none":
        print(f"nothing to do: {done.reason}")
        return
    print(done.reason)
    if done.action == "activated":
        print(f"active: {done.bundle[:12]}; `gitpeft rollback` goes back to {done.champion[:12]}")
    else:
        print(f"kept aside: {done.bundle[:12]}; the active model stays")
    if done.aside:
        print(f"kept aside: {done.aside[:12]}, whose messages lost")


def _print_training_cost(cost: dict[str, Any], as_json: bool) -> None:
    if as_json:
        _print_json(cost)
        return
    valid = min((loss for _, loss in cost["valid_curve"]), default=float("nan"))
    print(
        f"trained {cost['trainable']:,} of {cost['parameters']:,} weights for {cost['seconds']:.0f} s "
        f"({cost['steps']} steps, {cost['tokens'] / max(1e-9, cost['seconds']):,.0f} tokens/s), "
        f"best validation loss {valid:.3f} nats a token after {cost['seconds_to_best']:.0f} s; "
        f"peak memory {max(cost['peak_memory'], cost['reserved']) / 2**30:.1f} GiB, "
        f"{cost['adapter_bytes'] / 1e6:.1f} MB on disk"
    )
    for note in cost["notes"]:
        print(note)
    print("next: gitpeft export")


@app.command()
def compare(
    repo: RepoOption = None,
    methods: Annotated[
        list[str] | None,
        typer.Option("--methods", metavar="NAME[:KEY=VALUE,…]", help="As --method of train; default: all."),
    ] = None,
    ranks: Annotated[
        list[int] | None, typer.Option("--ranks", min=1, help="Ranks to try (widths, for adapters).")
    ] = None,
    placements: Annotated[list[str] | None, typer.Option("--placements", help="Placements to try.")] = None,
    bases: Annotated[list[str] | None, typer.Option("--bases", help="Bases to try; default: mini.")] = None,
    budget: Annotated[
        float, typer.Option("--budget", metavar="MINUTES", min=1.0, help="Most time for everything.")
    ] = 30.0,
    seeds: Annotated[int, typer.Option("--seeds", min=1, help="Long runs of each method.")] = 1,
    task: Annotated[
        str, typer.Option("--task", metavar="message|risk|both", help="What is compared on.")
    ] = "message",
    low: Annotated[
        str,
        typer.Option("--low-resource", metavar="N,N,…", help="Try also with the newest N commits alone."),
    ] = "",
    transfer: Annotated[
        str,
        typer.Option(
            "--transfer",
            metavar="FROM:TO,…",
            help="Try also: commits in one language teach, commits in another ask.",
        ),
    ] = "",
    until: UntilOption = "HEAD",
    out: Annotated[Path | None, typer.Option("--out", help="Copy the page here.")] = None,
    as_json: JsonOption = False,
) -> None:
    """Which method for this repository, at what cost: short runs, the better half longer, then advice.

    Options may be repeated to try several values. Writes a page and JSON below `.git/gitpeft`; interrupted,
    the same command continues. `gitpeft train --method auto` takes the advice.
    """
    from gitpeft.cli import views

    repository = _open_learnable_repository(repo, until)
    _check_output_path(out)
    with _lock_training(repository), _show_progress(True), views.watch_comparison(as_json) as watch:
        from gitpeft.learn.compare import run as comparison
        from gitpeft.learn.compare.halving import ComparisonRequest
        from gitpeft.learn.data import subsets

        wish = ComparisonRequest(
            tuple(methods or ()), tuple(ranks or ()), tuple(placements or ()), tuple(bases or ("mini",)),
            budget, seeds, until, task,
            low=tuple(subsets.parse_sizes(low)), transfer=tuple(subsets.parse_language_pairs(transfer)),
        )  # fmt: skip
        report = comparison.compare_methods(repository, wish, watch)
    if out is not None:
        out.write_bytes(Path(report["page"]).read_bytes())
    if as_json:
        _print_json(report)
    else:
        views.print_comparison(report)


@app.command()
def export(repo: RepoOption = None, as_json: JsonOption = False) -> None:
    """Turn the newest trained run into the active model: ONNX, parity gate, chooser, bundle."""
    from gitpeft.cli import views

    repository = Repository.open(repo)
    with _show_progress(as_json) as listen, _lock_training(repository):
        from gitpeft.learn import pipeline

        outcome = pipeline.run(repository, pipeline.find_last_trained_plan(repository), listen)
    if as_json:
        _print_json(asdict(outcome))
    else:
        views.print_outcome(outcome, "unchanged")


@app.command("eval")
def evaluate(
    repo: RepoOption = None,
    limit: Annotated[int, typer.Option(min=1, help="Commits to measure on, drawn at random.")] = 1000,
    as_json: JsonOption = False,
) -> None:
    """Measure the active model on the newest tenth of its history, which it has not learnt from."""
    from gitpeft.cli import views

    repository = Repository.open(repo)
    with _show_progress(as_json) as listen:
        from gitpeft.learn import pipeline

        outcome = pipeline.evaluate_active_model(repository, limit, listen)
    if as_json:
        _print_json({"bundle": outcome.bundle, "used": outcome.used, "test": outcome.test})
    else:
        views.stdout_console.print(views.build_scores_table(outcome.test))
        views.stdout_console.print(views.build_samples_table(outcome.samples))


@app.command()
def suggest(
    rev: Annotated[str | None, typer.Argument(help="A commit whose change is to be described.")] = None,
    staged: Annotated[bool, typer.Option("--staged", help="Describe what is staged.")] = False,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Read revisions, a line each; answer in JSON.")
    ] = False,
    number: Annotated[int, typer.Option("-n", min=1, max=20, help="How many messages at most.")] = 1,
    repo: RepoOption = None,
    as_json: JsonOption = False,
) -> None:
    """Messages for a commit's change, for the index, or for many revisions; never looks at their messages.

    For a commit that the model's history holds, only earlier commits serve as exemplars.
    """
    if (rev is not None) + staged + stdin > 1:
        raise typer.BadParameter("give a revision, --staged or --stdin, not several")
    repository = Repository.open(repo)
    if stdin:
        _suggest_from_stdin(repository, number)
        return
    answer = (
        _suggest_for_staged(repository, number)
        if rev is None
        else _suggest_for_commit(repository, rev, number)
    )
    if as_json:
        _print_json(answer, indent=None)
    else:
        for suggestion in answer["suggestions"]:
            print(suggestion["message"])
        if not answer["suggestions"]:
            raise GitpeftError(
                "nothing good enough to offer",
                "write it yourself, or lower gitpeft.minScore where it is set",
            )


def _suggest_from_stdin(repository: Repository, number: int) -> None:
    from gitpeft.suggest.suggester import open_active_suggester

    suggester, bad = open_active_suggester(repository.state_dir), 0
    for line in sys.stdin.buffer:
        if not (rev := line.decode("utf-8", "replace").replace("\0", "�").strip()):
            continue
        try:
            answer = _suggest_for_commit(repository, rev, number, suggester)
        except GitpeftError as error:
            answer, bad = {"rev": rev, "error": error.message}, bad + 1
        _print_json(answer, indent=None)
    if bad:
        raise GitpeftError(f"{bad} revisions had no answer", "their lines say why")


def _suggest_for_staged(repository: Repository, number: int) -> dict[str, Any]:
    """What the hook offers for what is staged."""
    from gitpeft import config
    from gitpeft.suggest import service
    from gitpeft.trace import HookTrace

    start, settings = time.perf_counter(), config.load_config(repository)
    limits = service.SuggestionLimits(time.monotonic() + SUGGEST_SECONDS, settings.memory_mb)
    offer = service.suggest_for_staged(repository, settings, limits, HookTrace(), wanted=number)
    return _describe_offer("staged", offer, start)


def _suggest_for_commit(
    repository: Repository, rev: str, number: int, suggester: "Suggester | None" = None
) -> dict[str, Any]:
    """What could have been offered for a commit."""
    from gitpeft import config
    from gitpeft.suggest import service
    from gitpeft.suggest.suggester import open_active_suggester

    start, settings = time.perf_counter(), config.load_config(repository)
    suggester = suggester or open_active_suggester(repository.state_dir)
    return _describe_offer(
        rev, service.suggest_for_commit(repository, settings, suggester, rev, number), start
    )


def _describe_offer(rev: str, offer: "Offer", start: float) -> dict[str, Any]:
    spent = round(1000 * (time.perf_counter() - start), 1)
    return {"rev": rev, "suggestions": [asdict(one) for one in offer.suggestions], "ms": spent}


@app.command()
def risk(
    rev: Annotated[str | None, typer.Argument(help="A commit, or a range A..B.")] = None,
    staged: Annotated[bool, typer.Option("--staged", help="Look at what is staged.")] = False,
    stdin: Annotated[bool, typer.Option("--stdin", help="Read revisions, a line each.")] = False,
    format_: Annotated[str, typer.Option("--format", help="text, json, sarif or github.")] = "text",
    until: Annotated[
        str | None, typer.Option("--until", metavar="REV", help="Judge by what was known at REV alone.")
    ] = None,
    explain: Annotated[bool, typer.Option("--explain", help="Show the metrics and what each adds.")] = False,
    fail_above: Annotated[
        float | None,
        typer.Option(min=0, max=100, metavar="P", help="Exit with 1 if a percentile is above P."),
    ] = None,
    repo: RepoOption = None,
) -> None:
    """Whether changes deserve a second look, and the counted facts that say so.

    The percentile is the place among the recent commits of this repository. What is flagged there by default
    is the riskiest tenth (`git config gitpeft.riskBudget`). Nothing here names a person.
    """
    if (rev is not None) + staged + stdin > 1:
        raise typer.BadParameter("give a revision, --staged or --stdin, not several")
    from gitpeft.risk import formats

    if format_ not in formats.REPORT_FORMATS:
        raise typer.BadParameter(f"--format is one of {', '.join(formats.REPORT_FORMATS)}")
    reports = _assess_changes(Repository.open(repo), rev, stdin, until)
    above = 0
    shown = []
    for report in reports:
        above += fail_above is not None and (report.percentile or 0.0) > fail_above
        if format_ == "sarif":
            shown.append(report)
        elif format_ == "json":
            print(formats.format_json_line(report, explain), flush=True)
        elif format_ == "github":
            print(formats.format_github_warning(report), end="\n" if report.flagged else "", flush=True)
        else:
            print("\n".join(formats.format_report_lines(report, explain)), flush=True)
    if format_ == "sarif":
        print(formats.format_sarif(shown, sorted({one.why for one in shown if one.why})))
    if above:
        raise GitpeftError(
            f"{above} change{'s are' if above > 1 else ' is'} above the {fail_above:g}th percentile",
            "look at the evidence; --fail-above sets the limit",
        )


def _assess_changes(
    repository: Repository, rev: str | None, stdin: bool, until: str | None
) -> "Iterator[RiskReport]":
    """Reports for what was asked; the history is read as far as that needs."""
    from gitpeft import config
    from gitpeft.bundle import bundle
    from gitpeft.history.store import History
    from gitpeft.risk import assessor as risk_assessor
    from gitpeft.risk import precommit
    from gitpeft.risk.model import load_risk_model

    settings = config.load_config(repository)
    between = rev is not None and ".." in rev
    if between and rev is not None:
        risk_assessor.check_commit_range(rev)
    tip = rev.rpartition("..")[2] if between and rev is not None else rev
    tips = [repository.resolve_commit(tip)] if tip is not None else []
    tips += [head] if (head := repository.resolve_head()) is not None else []
    with History.open(repository.state_dir) as history:
        for one in tips:
            history.mine_commits(repository, one)
        reader = None
        if until is None:
            active = bundle.open_active_bundle(repository.state_dir)
            model = load_risk_model(active)
            reader = precommit.load_risk_encoder(model, active)
        else:
            from gitpeft.learn.risk import selection

            history.mine_commits(repository, until)
            model = selection.train_from_history(history, repository, repository.resolve_commit(until))
        assessor = risk_assessor.RiskAssessor(history, repository, model, settings.risk_budget, reader=reader)
        if stdin:
            yield from _assess_from_stdin(assessor)
        elif between and rev is not None:
            yield from assessor.assess_range(rev)
        else:
            yield assessor.assess_staged() if rev is None else assessor.assess_commit(rev)


def _assess_from_stdin(assessor: "RiskAssessor") -> "Iterator[RiskReport]":
    from gitpeft.risk.assessor import RiskReport

    bad = 0
    for line in sys.stdin.buffer:
        if not (rev := line.decode("utf-8", "replace").replace("\0", "\ufffd").strip()):
            continue
        try:
            yield assessor.assess_commit(rev)
        except GitpeftError as error:
            bad += 1
            yield RiskReport(rev, why=error.message)
    if bad:
        raise GitpeftError(f"{bad} revisions had no answer", "their lines say why")


@app.command()
def backtest(
    months: Annotated[int, typer.Option(min=1, max=240, help="How far to look back.")] = 12,
    until: UntilOption = "HEAD",
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the page goes; default: below .git.")
    ] = None,
    tune: Annotated[
        float | None,
        typer.Option(
            "--tune", metavar="MINUTES", min=0.05, help="Tune the encoder too, at most so long: see init."
        ),
    ] = None,
    repo: RepoOption = None,
    as_json: JsonOption = False,
) -> None:
    """The last months as if the risk flag had been there: what it would have said, and what came of it.

    Each month is judged by what was known when it began; an encoder (--tune) learns once, when the first of
    them began, and judges the newest 2,000 commits at most. Writes one HTML page and prints a summary.
    """
    from gitpeft import config

    repository = _open_learnable_repository(repo, until)
    _check_output_path(out)
    budget = config.load_config(repository).risk_budget
    tip = repository.resolve_commit(until)
    with _show_progress(as_json) as listen, _lock_training(repository) if tune else nullcontext():
        from gitpeft.learn.risk import backtest as risk_backtest

        teacher = _make_risk_teacher(repository, until, tune) if tune else None
        period = risk_backtest.BacktestPeriod(tip, months, budget)
        found = risk_backtest.run_risk_backtest(repository, period, listen, teacher)
    place = out or repository.state_dir / "backtest.html"
    try:
        place.write_text(found.page, encoding="utf-8")
    except OSError as error:
        raise GitpeftError(
            f"cannot write {place}: {error.strerror}", "choose another place with --out"
        ) from None
    if as_json:
        _print_json(found.data | {"page": str(place)} | ({"taught": teacher.notes} if teacher else {}))
    else:
        without = [f"no encoder: {note['why']}" for note in teacher.notes if "why" in note] if teacher else []
        print(
            "\n".join(
                [*risk_backtest.format_backtest_summary(found.data), *without, f"the page is in {place}"]
            )
        )


@app.command()
def commit(repo: RepoOption = None) -> None:
    """Choose a message for what is staged, edit it or ask for others, and commit."""
    from gitpeft import config
    from gitpeft.cli import interactive

    repository = Repository.open(repo)
    terminal = interactive.Terminal(say=print, ask=input)
    settings = config.load_config(repository)
    done = interactive.commit_interactively(repository, settings, terminal, repository.run_with_terminal)
    if done.action != "committed":  # a script that goes on must not take a cancelled one for a commit
        raise typer.Exit(done.code or 1)


@app.command()
def install(
    repo: RepoOption = None,
    strategy: Annotated[
        str, typer.Option(help="auto, stub, config (git 2.54), line, husky, pre-commit, lefthook.")
    ] = "auto",
    prefetch: Annotated[
        bool, typer.Option(help="A pre-commit hook too, which starts on the answer while other hooks run.")
    ] = False,
    risk: Annotated[
        bool, typer.Option("--risk", help="The same hook: it also flags the riskiest changes.")
    ] = False,
) -> None:
    """Put the prepare-commit-msg hook in. A hook that is there already is kept and runs first."""
    from gitpeft.hooks import stubs
    from gitpeft.hooks.install import install_hooks as put

    names = stubs.HOOK_NAMES if prefetch or risk else stubs.HOOK_NAMES[:1]
    for done in put(Repository.open(repo), strategy=strategy, hooks=names):
        print(f"{done.where}: {done.action} ({done.strategy})")
        for note in done.notes:
            print(f"  {note}")


@app.command()
def uninstall(repo: RepoOption = None) -> None:
    """Take the hooks out; what was there before comes back byte for byte. The model stays."""
    from gitpeft.hooks.install import uninstall_hooks as take_out

    removed = take_out(Repository.open(repo))
    for done in removed:
        print(f"{done.where}: {done.action}")
    if not removed:
        print("no hook of gitpeft is installed here")


@app.command()
def status(repo: RepoOption = None, as_json: JsonOption = False) -> None:
    """What is installed here, which model is active, and what the hook last had to say."""
    from gitpeft import config
    from gitpeft.bundle import bundle
    from gitpeft.cli import views
    from gitpeft.hooks import doctor
    from gitpeft.monitor import health
    from gitpeft.risk.model import load_risk_model

    repository = Repository.open(repo)
    state = doctor.read_status(repository)
    active = bundle.open_active_bundle(repository.state_dir)
    model = None
    if active:
        found = health.measure_model_health(
            repository, active, config.load_config(repository), _judge_commits if _can_label() else None
        )
        model = asdict(active.manifest) | {"id": active.id} | found.as_dict()
    if as_json:
        _print_json(
            asdict(state)
            | {"works": state.is_working, "manifest": model, "risk": asdict(load_risk_model(active))}
        )
    else:
        views.print_status(state, model, load_risk_model(active))


def _can_label() -> bool:
    return find_spec("pygments") is not None


def _judge_commits(repository: Repository, active: "Bundle") -> list[tuple[float, bool]]:
    from gitpeft.learn.risk import relabel

    return relabel.collect_calibration_pairs(repository, active)


@app.command()
def models(repo: RepoOption = None, as_json: JsonOption = False) -> None:
    """The models kept here, newest first: the active one, the one before it, and what training left aside.

    The three newest are kept; the active one and the one before it stay whatever their age.
    """
    from gitpeft.bundle import registry
    from gitpeft.cli import views

    found = registry.list_model_versions(Repository.open(repo).state_dir)
    if as_json:
        _print_json([asdict(one) for one in found])
    elif found:
        views.print_models(found)
    else:
        print("no model here yet; `gitpeft init` makes one")


@app.command()
def rollback(
    model: Annotated[
        str, typer.Argument(metavar="[ID]", help="The beginning of an id; default: the previous model.")
    ] = "",
    repo: RepoOption = None,
) -> None:
    """Make an earlier model active again, in one rename; twice in a row is where you started."""
    from gitpeft.bundle import registry
    from gitpeft.risk.formats import replace_unprintable

    bundle = registry.roll_back_model(Repository.open(repo).state_dir, model)
    created = replace_unprintable(bundle.manifest.created)
    print(f"active: {bundle.id[: registry.SHORT_ID_LENGTH]}, made {created}")


RemoteOption = Annotated[str, typer.Option("--remote", help="The remote that the team shares.")]
ChannelOption = Annotated[str, typer.Option("--channel", help="One of several models side by side.")]


@app.command()
def publish(
    repo: RepoOption = None,
    remote: RemoteOption = "origin",
    channel: ChannelOption = "main",
    to: Annotated[
        Path | None, typer.Option("--to", help="A new folder, or a file *.bundle, instead of a remote.")
    ] = None,
    sign: Annotated[
        bool | None, typer.Option("--sign/--no-sign", help="Default: as your git is set up.")
    ] = None,
    keep: Annotated[int, typer.Option(min=1, help="Dated versions that stay on the remote.")] = 5,
    as_json: JsonOption = False,
) -> None:
    """Share the active model through git itself: a ref of the team's remote, a folder or a file.

    Replaces what is there only if you have seen it: published it, or pulled it before.
    """
    from gitpeft.share import publish as share_publish

    repository = Repository.open(repo)
    if to is not None:
        done = share_publish.publish_model_to_path(repository, to, channel, sign=sign)
    else:
        done = share_publish.publish_model(repository, remote, channel, sign=sign, keep=keep)
    if as_json:
        _print_json(asdict(done))
        return
    where = done.place if to is not None else f"{remote} {done.place}"
    signed = "signed" if done.signed else "not signed"
    print(f"published {done.bundle[:12]} to {where} ({done.size / 1e6:.1f} MB, {signed})")
    for note in done.notes:
        print(f"  {note}")


@app.command()
def pull(
    repo: RepoOption = None,
    remote: RemoteOption = "origin",
    channel: ChannelOption = "main",
    source: Annotated[
        Path | None, typer.Option("--from", help="A folder or a file *.bundle, instead of a remote.")
    ] = None,
    accept: Annotated[
        str, typer.Option(metavar="KEY", help="Take a model of this unknown signer, or `unsigned`.")
    ] = "",
    aside: Annotated[bool, typer.Option("--aside", help="Keep it beside the active model.")] = False,
    as_json: JsonOption = False,
) -> None:
    """Fetch the team's model, check signature, hashes and shapes, let it answer once, and activate it.

    Needs no torch. Signers are those of `.gitpeft-signers` on the default branch; about others you are asked.
    """
    from gitpeft.share import publish

    repository = Repository.open(repo)
    asking = typer.confirm if sys.stdin.isatty() and not as_json else None
    terms = publish.TrustTerms(accept, asking)
    if source is not None:
        done = publish.pull_model_from_path(repository, source, terms, aside=aside)
    else:
        done = publish.pull_model(repository, remote, channel, terms, aside=aside)
    if as_json:
        _print_json(asdict(done))
        return
    state = "active" if done.active else "kept aside; `gitpeft rollback` with its id makes it active"
    print(f"{done.bundle[:12]} ({_format_signer(done.signer.name, done.signer.key)}): {state}")


def _format_signer(name: str, key: str) -> str:
    from gitpeft.risk.formats import replace_unprintable

    return key if key == "unsigned" else f"signed by {replace_unprintable(name or key)}"


@app.command()
def doctor(
    repo: RepoOption = None,
    mend: Annotated[bool, typer.Option("--mend", help="Put gitpeft's own files right.")] = False,
) -> None:
    """Find what keeps suggestions away, and say what to do about it."""
    from gitpeft.cli import views
    from gitpeft.hooks.doctor import examine_repository as examine

    found = examine(Repository.open(repo), mend=mend)
    views.print_findings(found)
    if any(not one.mended for one in found):
        raise typer.Exit(1)


@base_app.command("build")
def base_build(
    recipe: Annotated[Path, typer.Argument(help="A recipe.toml such as models/mini/recipe.toml.")],
    corpus: Annotated[Path, typer.Option(help="Folder of the corpus files that the recipe names.")],
    out: Annotated[Path, typer.Option(help="Folder for the finished base.")],
    work: Annotated[
        Path | None, typer.Option(help="Folder for intermediate results; default: OUT/work.")
    ] = None,
    device: Annotated[str | None, typer.Option(help="cpu or cuda; default: the GPU if there is one.")] = None,
) -> None:
    """Train a base model from random weights as a recipe says; continues where it was interrupted."""
    with _show_progress(False) as listen:
        from gitpeft.learn.pretraining import build

        made = build.PretrainingRecipe.load(recipe)
        build.pretrain_base(made, corpus, work or out / "work", out, listen, device)
    print(f"the base is in {out}")


# --- around the commands ------------------------------------------------------------------------------------


def _open_learnable_repository(path: Path | None, until: str) -> Repository:
    """A repository whose history is plain to see; checked before anything is written."""
    repository = Repository.open(path)
    if until == "HEAD" and repository.resolve_head() is None:
        raise GitpeftError("there is no commit here yet", "commit some work first, then run this again")
    if until == "HEAD" and not repository.query_text("symbolic-ref", "--quiet", "HEAD"):
        raise GitpeftError(
            "HEAD is detached, so it is not plain which history to learn from",
            "check out a branch, or name one with --until (--until HEAD~0 takes what is checked out)",
        )
    return repository


def _make_plan(repository: Repository, base: str, method: str, until: str, minutes: float) -> "ModelPlan":
    from gitpeft.learn.models import methods
    from gitpeft.learn.pipeline import ModelPlan

    if method == "auto":
        from gitpeft.learn.compare.run import load_advice

        advice = load_advice(repository)
        method, base = advice["method"], advice["base"]
    name, settings = methods.parse_method(method)
    return ModelPlan(base=base, method=name, until=until, minutes=minutes, settings=settings)


def _make_risk_teacher(repository: Repository, until: str, minutes: float) -> "RiskEncoderTrainer | None":
    """What tunes the embedded base to judge changes, as `init` does."""
    from gitpeft.learn import pipeline

    if not pipeline.can_train():
        raise GitpeftError(
            "gitpeft[train] is not installed", "pip install 'gitpeft[train]', or leave out --tune"
        )
    return pipeline.make_risk_encoder_trainer(_make_plan(repository, "mini", "lora", until, minutes), minutes)


def _check_output_path(out: Path | None) -> None:
    """Refuse a page that could not be written before the work that it takes, not after it."""
    if out is None:
        return
    if out.is_dir() or not os.access(out if out.exists() else out.absolute().parent, os.W_OK):
        raise GitpeftError(f"cannot write {out}", "name a file with --out, in a folder that you may write in")


@contextmanager
def _lock_training(repository: Repository) -> Iterator[None]:
    """No second training in this repository meanwhile."""
    from gitpeft.bundle import registry

    with registry.hold_training_lock(repository.state_dir):
        yield


@contextmanager
def _show_progress(quiet: bool) -> Iterator["ProgressListener"]:
    """Progress on stderr, or silence. Set before torch is imported: threads that wait must not spin.

    With spinning threads, training beside any other busy process is several times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)  # libraries speaking to their own callers
    if quiet:
        yield lambda _step, _done, _detail: None
        return
    from gitpeft.cli import views

    with views.show_progress() as listen:
        yield listen


def _print_json(value: Any, indent: int | None = 1) -> None:
    print(json.dumps(value, indent=indent, ensure_ascii=False, default=str), flush=True)


_UNWRITABLE_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
_UNWRITABLE_HINT = "see who may write there, and whether the disk has room"


def main() -> None:
    """The command `gitpeft`."""
    try:
        app(standalone_mode=True)
    except GitpeftError as error:
        from gitpeft.cli import views

        views.print_error(error.message, error.hint)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _UNWRITABLE_ERRORS:
            from gitpeft.cli import views

            views.print_error(
                f"cannot write {error.filename or 'a file'}: {error.strerror}", _UNWRITABLE_HINT
            )
            sys.exit(1)
        print(f"gitpeft has a bug: {type(error).__name__}: {error}\n{_write_bug_log()}", file=sys.stderr)
        sys.exit(3)


def _write_bug_log() -> str:
    """Keep the traceback; where it is."""
    import tempfile

    with tempfile.NamedTemporaryFile("w", prefix="gitpeft-", suffix=".log", delete=False) as log:
        log.write(traceback.format_exc())
    return f"the details are in {log.name}"
