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
from dataclasses import asdict, replace
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from gitpeft import __version__
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository

if TYPE_CHECKING:
    from gitpeft.bundle.bundle import Bundle
    from gitpeft.learn.pipeline import Plan
    from gitpeft.learn.retrain.run import Retrained
    from gitpeft.learn.risk.encoder_export import Teacher
    from gitpeft.learn.training.finetune import Listener
    from gitpeft.risk.assessor import Assessor, RiskReport
    from gitpeft.suggest.suggester import Suggester, Suggestion

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

Repo = Annotated[Path | None, typer.Option("--repo", help="The repository; default: the one you are in.")]
Base = Annotated[
    str,
    typer.Option(
        "--base",
        help="`mini`, a folder of transformers files, owner/name@commit of the Hugging Face hub, or a short "
        "name of one of the study's bases: codet5-small, codet5-base, codet5p-220m, plbart-base, "
        "unixcoder-base, codebert-base, graphcodebert-base.",
    ),
]
Method = Annotated[
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
Until = Annotated[str, typer.Option("--until", metavar="REV", help="Learn from nothing after REV.")]
Budget = Annotated[
    float, typer.Option("--budget", metavar="MINUTES", min=0.05, help="Most time for training.")
]
Json = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]


@app.callback(invoke_without_command=True)
def _root(
    version: Annotated[bool, typer.Option("--version", help="Print the version and leave.")] = False,
) -> None:
    if version:
        print(__version__)
        raise typer.Exit


@app.command()
def init(
    repo: Repo = None,
    base: Base = "mini",
    method: Method = "lora",
    until: Until = "HEAD",
    budget: Budget = 5.0,
    no_hooks: Annotated[bool, typer.Option("--no-hooks", help="Make the model, install no hook.")] = False,
    as_json: Json = False,
) -> None:
    """Everything: read the history, tune a model on it, export it, fit the risk model, install the hooks.

    Below 50 usable commits, or without `gitpeft[train]`, the base is used untuned, with exemplars from this
    history. All that is not training takes two to three minutes more, most of it for the risk model.
    """
    from gitpeft.cli import views

    repository = _to_learn_from(repo, until)
    if repository.work_tree is None and not no_hooks:
        raise GitpeftError(
            "this repository is bare: nobody commits in it", "run this in a clone, or use --no-hooks"
        )
    plan = _plan(repository, base, method, until, budget)
    with _listening(as_json) as listen, _training(repository):
        from gitpeft.learn import pipeline

        outcome = pipeline.run(repository, plan, listen)
    hooks = "not installed (--no-hooks)" if no_hooks else _install_hooks(repository, outcome.risk)
    if as_json:
        _print_json(asdict(outcome) | {"hooks": hooks})
    else:
        views.card(outcome, hooks)


def _install_hooks(repository: Repository, risk: dict[str, Any]) -> str:
    """Install, and say so; a hook that cannot be put in does not undo the model.

    The pre-commit hook comes with it where there is a risk model that has something to flag.
    """
    from gitpeft.hooks import stubs
    from gitpeft.hooks.install import install as put
    from gitpeft.risk.model import KINDS

    said = []
    for name in stubs.NAMES if risk.get("kind") in KINDS[1:] else stubs.NAMES[:1]:
        try:
            [done] = put(repository, hooks=[name])
            said.append(" ".join((f"{done.where} {done.action} ({done.strategy})", *done.notes)))
        except GitpeftError as error:
            said.append(f"{name} not installed: {error.message}. {error.hint}")
    return "; ".join(said)


@app.command()
def mine(repo: Repo = None, until: Until = "HEAD", as_json: Json = False) -> None:
    """Read new history into the cache below `.git/gitpeft`; nothing else in the repository is written."""
    from gitpeft.history.store import History

    repository = _to_learn_from(repo, until)
    tip = repository.resolve(until)
    with _listening(as_json) as listen, History.open(repository.state_dir) as history:
        report = history.mine(
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
    repo: Repo = None,
    base: Base = "mini",
    method: Method = "lora",
    until: Until = "HEAD",
    budget: Budget = 5.0,
    cold: Annotated[
        bool, typer.Option("--cold", help="Start from the base, not the installed model.")
    ] = False,
    yes: Annotated[bool, typer.Option("--yes", help="Ask nothing: for scheduled jobs.")] = False,
    org: Annotated[
        list[Path] | None,
        typer.Option("--org", help="Several repositories (once for each) that share a first adapter."),
    ] = None,
    as_json: Json = False,
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
        each = [_to_learn_from(one, until) for one in org]
        _train_together(each, _plan(each[0], base, method, until, budget), asked, as_json)
        return
    repository = _to_learn_from(repo, until)
    plan = _plan(repository, base, method, until, budget)
    with _listening(as_json) as listen, _training(repository):
        from gitpeft.learn import pipeline
        from gitpeft.learn.retrain import run

        if run.champion_of(repository) is None:
            cost = pipeline.train_only(repository, plan, listen)
            _tell_trained(cost, as_json)
            return
        done = run.run(repository, plan, listen, cold=cold, agreed=_agreed(asked))
    if as_json:
        _print_json(asdict(done))
    else:
        _tell_retrained(done)


def _train_together(repos: list[Repository], plan: "Plan", asked: bool, as_json: bool) -> None:
    with _listening(as_json) as listen:
        from gitpeft.learn.retrain import multi_repo

        done = multi_repo.run(repos, plan, listen, _agreed(asked))
    if as_json:
        _print_json([asdict(one) for one in done])
    else:
        for one in done:
            print(f"{one.repository}: {one.action}, {one.reason}")


def _agreed(asked: bool) -> "Callable[[str], bool]":
    """Whether a verdict is followed: as a person says who is asked, else always."""
    from gitpeft.cli import views

    return lambda verdict: not asked or views.agreed(f"{verdict}. Make it active?")


def _tell_retrained(done: "Retrained") -> None:
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


def _tell_trained(cost: dict[str, Any], as_json: bool) -> None:
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
    repo: Repo = None,
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
    until: Until = "HEAD",
    out: Annotated[Path | None, typer.Option("--out", help="Copy the page here.")] = None,
    as_json: Json = False,
) -> None:
    """Which method for this repository, at what cost: short runs, the better half longer, then advice.

    Options may be repeated to try several values. Writes a page and JSON below `.git/gitpeft`; interrupted,
    the same command continues. `gitpeft train --method auto` takes the advice.
    """
    from gitpeft.cli import views

    repository = _to_learn_from(repo, until)
    _check_place(out)
    with _training(repository), _listening(True), views.comparing(as_json) as watch:
        from gitpeft.learn.compare import run as comparison
        from gitpeft.learn.compare.halving import Wish
        from gitpeft.learn.data import subsets

        wish = Wish(
            tuple(methods or ()), tuple(ranks or ()), tuple(placements or ()), tuple(bases or ("mini",)),
            budget, seeds, until, task,
            low=tuple(subsets.sizes(low)), transfer=tuple(subsets.pairs(transfer)),
        )  # fmt: skip
        report = comparison.compare(repository, wish, watch)
    if out is not None:
        out.write_bytes(Path(report["page"]).read_bytes())
    if as_json:
        _print_json(report)
    else:
        views.comparison(report)


@app.command()
def export(repo: Repo = None, as_json: Json = False) -> None:
    """Turn the newest trained run into the active model: ONNX, parity gate, chooser, bundle."""
    from gitpeft.cli import views

    repository = Repository.open(repo)
    with _listening(as_json) as listen, _training(repository):
        from gitpeft.learn import pipeline

        outcome = pipeline.run(repository, pipeline.last_trained(repository), listen)
    if as_json:
        _print_json(asdict(outcome))
    else:
        views.card(outcome, "unchanged")


@app.command("eval")
def evaluate(
    repo: Repo = None,
    limit: Annotated[int, typer.Option(min=1, help="Commits to measure on, drawn at random.")] = 1000,
    as_json: Json = False,
) -> None:
    """Measure the active model on the newest tenth of its history, which it has not learnt from."""
    from gitpeft.cli import views

    repository = Repository.open(repo)
    with _listening(as_json) as listen:
        from gitpeft.learn import pipeline

        outcome = pipeline.evaluate(repository, limit, listen)
    if as_json:
        _print_json({"bundle": outcome.bundle, "used": outcome.used, "test": outcome.test})
    else:
        views.out.print(views.scores(outcome.test))
        views.out.print(views.samples(outcome.samples))


@app.command()
def suggest(
    rev: Annotated[str | None, typer.Argument(help="A commit whose change is to be described.")] = None,
    staged: Annotated[bool, typer.Option("--staged", help="Describe what is staged.")] = False,
    stdin: Annotated[
        bool, typer.Option("--stdin", help="Read revisions, a line each; answer in JSON.")
    ] = False,
    number: Annotated[int, typer.Option("-n", min=1, max=20, help="How many messages at most.")] = 1,
    repo: Repo = None,
    as_json: Json = False,
) -> None:
    """Messages for a commit's change, for the index, or for many revisions; never looks at their messages.

    For a commit that the model's history holds, only earlier commits serve as exemplars.
    """
    if (rev is not None) + staged + stdin > 1:
        raise typer.BadParameter("give a revision, --staged or --stdin, not several")
    from gitpeft.suggest.suggester import open_active

    repository = Repository.open(repo)
    suggester = open_active(repository.state_dir)
    if stdin:
        _answer_lines(repository, suggester, number)
        return
    answer = _answer(repository, suggester, rev, number)
    if as_json:
        _print_json(answer, indent=None)
    else:
        for suggestion in answer["suggestions"]:
            print(suggestion["message"])
        if not answer["suggestions"]:
            raise GitpeftError(
                "nothing good enough to offer",
                "write it yourself, or lower gitpeft.leastScore where it is set",
            )


def _answer_lines(repository: Repository, suggester: "Suggester", number: int) -> None:
    bad = 0
    for line in sys.stdin.buffer:
        if not (rev := line.decode("utf-8", "replace").replace("\0", "�").strip()):
            continue
        try:
            answer = _answer(repository, suggester, rev, number)
        except GitpeftError as error:
            answer, bad = {"rev": rev, "error": error.message}, bad + 1
        _print_json(answer, indent=None)
    if bad:
        raise GitpeftError(f"{bad} revisions had no answer", "their lines say why")


def _answer(repository: Repository, suggester: "Suggester", rev: str | None, number: int) -> dict[str, Any]:
    """What would be offered, checked as in the hook; the branch's ticket belongs to what is staged only.

    So does `gitpeft.leastScore`: who names a commit is answered, whatever the score.
    """
    from gitpeft import config
    from gitpeft.suggest import postprocess, recent_exemplars, service

    start = time.perf_counter()
    settings = config.load(repository)
    before = repository.resolve(rev) if rev is not None else None
    if before is None:
        asked = service.question(repository, settings, number)
    else:
        asked = service.question_of(repository, settings, number, before)
    facts = postprocess.gather(repository, settings, asked.change)
    facts = facts if before is None else replace(facts, branch="")
    wanted = number + service.SPARE
    since = recent_exemplars.refresh(repository, suggester.bundle.made_at, asked.after)
    suggester.keep_up(recent_exemplars.entries(repository.state_dir, since))
    found: list[Suggestion] = []
    if asked.change:
        least = asked.least / 100
        found = suggester.suggest(asked.change, asked.previous, wanted, least=least, before=before)
    fitted = {
        text: replace(one, message=text) for one in found if (text := postprocess.fit(one.message, facts))
    }
    spent = round(1000 * (time.perf_counter() - start), 1)
    offers = [asdict(one) for one in list(fitted.values())[:number]]
    return {"rev": rev or "staged", "suggestions": offers, "ms": spent}


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
    repo: Repo = None,
) -> None:
    """Whether changes deserve a second look, and the counted facts that say so.

    The percentile is the place among the recent commits of this repository. What is flagged there by default
    is the riskiest tenth (`git config gitpeft.riskBudget`). Nothing here names a person.
    """
    if (rev is not None) + staged + stdin > 1:
        raise typer.BadParameter("give a revision, --staged or --stdin, not several")
    from gitpeft.risk import formats

    if format_ not in formats.FORMATS:
        raise typer.BadParameter(f"--format is one of {', '.join(formats.FORMATS)}")
    reports = _assess(Repository.open(repo), rev, stdin, until)
    above = 0
    shown = []
    for report in reports:
        above += fail_above is not None and (report.percentile or 0.0) > fail_above
        if format_ == "sarif":
            shown.append(report)
        elif format_ == "json":
            print(formats.json_line(report, explain), flush=True)
        elif format_ == "github":
            print(formats.github(report), end="\n" if report.flagged else "", flush=True)
        else:
            print("\n".join(formats.text(report, explain)), flush=True)
    if format_ == "sarif":
        print(formats.sarif(shown, sorted({one.why for one in shown if one.why})))
    if above:
        raise GitpeftError(
            f"{above} change{'s are' if above > 1 else ' is'} above the {fail_above:g}th percentile",
            "look at the evidence; --fail-above sets the limit",
        )


def _assess(
    repository: Repository, rev: str | None, stdin: bool, until: str | None
) -> "Iterator[RiskReport]":
    """Reports for what was asked; the history is read as far as that needs."""
    from gitpeft import config
    from gitpeft.bundle import bundle
    from gitpeft.history.store import History
    from gitpeft.risk import assessor as risk_assessor
    from gitpeft.risk import precommit
    from gitpeft.risk.model import model_of

    settings = config.load(repository)
    between = rev is not None and ".." in rev
    if between and rev is not None:
        risk_assessor.check_range(rev)
    tip = rev.rpartition("..")[2] if between and rev is not None else rev
    tips = [repository.resolve(tip)] if tip is not None else []
    tips += [head] if (head := repository.head()) is not None else []
    with History.open(repository.state_dir) as history:
        for one in tips:
            history.mine(repository, one)
        reader = None
        if until is None:
            active = bundle.active(repository.state_dir)
            model = model_of(active)
            reader = precommit.reader_of(model, active)
        else:
            from gitpeft.learn.risk import selection

            history.mine(repository, until)
            model = selection.of_history(history, repository, repository.resolve(until))
        assessor = risk_assessor.Assessor(history, repository, model, settings.risk_budget, reader=reader)
        if stdin:
            yield from _assess_lines(assessor)
        elif between and rev is not None:
            yield from assessor.commits(rev)
        else:
            yield assessor.staged() if rev is None else assessor.commit(rev)


def _assess_lines(assessor: "Assessor") -> "Iterator[RiskReport]":
    from gitpeft.risk.assessor import RiskReport

    bad = 0
    for line in sys.stdin.buffer:
        if not (rev := line.decode("utf-8", "replace").replace("\0", "\ufffd").strip()):
            continue
        try:
            yield assessor.commit(rev)
        except GitpeftError as error:
            bad += 1
            yield RiskReport(rev, why=error.message)
    if bad:
        raise GitpeftError(f"{bad} revisions had no answer", "their lines say why")


@app.command()
def backtest(
    months: Annotated[int, typer.Option(min=1, max=240, help="How far to look back.")] = 12,
    until: Until = "HEAD",
    out: Annotated[
        Path | None, typer.Option("--out", help="Where the page goes; default: below .git.")
    ] = None,
    tune: Annotated[
        float | None,
        typer.Option(
            "--tune", metavar="MINUTES", min=0.05, help="Tune the encoder too, at most so long: see init."
        ),
    ] = None,
    repo: Repo = None,
    as_json: Json = False,
) -> None:
    """The last months as if the risk flag had been there: what it would have said, and what came of it.

    Each month is judged by what was known when it began; an encoder (--tune) learns once, when the first of
    them began, and judges the newest 2,000 commits at most. Writes one HTML page and prints a summary.
    """
    from gitpeft import config

    repository = _to_learn_from(repo, until)
    _check_place(out)
    budget = config.load(repository).risk_budget
    tip = repository.resolve(until)
    with _listening(as_json) as listen, _training(repository) if tune else nullcontext():
        from gitpeft.learn.risk import backtest as risk_backtest

        teacher = _teacher(repository, until, tune) if tune else None
        period = risk_backtest.Period(tip, months, budget)
        found = risk_backtest.look_back(repository, period, listen, teacher)
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
        print("\n".join([*risk_backtest.summary(found.data), *without, f"the page is in {place}"]))


@app.command()
def commit(repo: Repo = None) -> None:
    """Choose a message for what is staged, edit it or ask for others, and commit."""
    from gitpeft import config
    from gitpeft.cli import interactive

    repository = Repository.open(repo)
    terminal = interactive.Terminal(say=print, ask=input)
    settings = config.load(repository)
    done = interactive.commit(repository, settings, terminal, repository.run_with_terminal)
    if done.action != "committed":  # a script that goes on must not take a cancelled one for a commit
        raise typer.Exit(done.code or 1)


@app.command()
def install(
    repo: Repo = None,
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
    from gitpeft.hooks.install import install as put

    names = stubs.NAMES if prefetch or risk else stubs.NAMES[:1]
    for done in put(Repository.open(repo), strategy=strategy, hooks=names):
        print(f"{done.where}: {done.action} ({done.strategy})")
        for note in done.notes:
            print(f"  {note}")


@app.command()
def uninstall(repo: Repo = None) -> None:
    """Take the hooks out; what was there before comes back byte for byte. The model stays."""
    from gitpeft.hooks.install import uninstall as take_out

    removed = take_out(Repository.open(repo))
    for done in removed:
        print(f"{done.where}: {done.action}")
    if not removed:
        print("no hook of gitpeft is installed here")


@app.command()
def status(repo: Repo = None, as_json: Json = False) -> None:
    """What is installed here, which model is active, and what the hook last had to say."""
    from gitpeft import config
    from gitpeft.bundle import bundle
    from gitpeft.cli import views
    from gitpeft.hooks import doctor
    from gitpeft.monitor import health
    from gitpeft.risk.model import model_of

    repository = Repository.open(repo)
    state = doctor.status(repository)
    active = bundle.active(repository.state_dir)
    model = None
    if active:
        found = health.of(repository, active, config.load(repository), _judge if _can_label() else None)
        model = asdict(active.manifest) | {"id": active.id} | found.as_dict()
    if as_json:
        _print_json(
            asdict(state) | {"works": state.works, "manifest": model, "risk": asdict(model_of(active))}
        )
    else:
        views.status(state, model, model_of(active))


def _can_label() -> bool:
    return find_spec("pygments") is not None


def _judge(repository: Repository, active: "Bundle") -> list[tuple[float, bool]]:
    from gitpeft.learn.risk import relabel

    return relabel.against_promises(repository, active)


@app.command()
def models(repo: Repo = None, as_json: Json = False) -> None:
    """The models kept here, newest first: the active one, the one before it, and what training left aside.

    The three newest are kept; the active one and the one before it stay whatever their age.
    """
    from gitpeft.bundle import registry
    from gitpeft.cli import views

    found = registry.listing(Repository.open(repo).state_dir)
    if as_json:
        _print_json([asdict(one) for one in found])
    elif found:
        views.models(found)
    else:
        print("no model here yet; `gitpeft init` makes one")


@app.command()
def rollback(
    model: Annotated[
        str, typer.Argument(metavar="[ID]", help="The beginning of an id; default: the previous model.")
    ] = "",
    repo: Repo = None,
) -> None:
    """Make an earlier model active again, in one rename; twice in a row is where you started."""
    from gitpeft.bundle import registry
    from gitpeft.risk.formats import printable

    bundle = registry.rollback(Repository.open(repo).state_dir, model)
    print(f"active: {bundle.id[: registry.SHORT]}, made {printable(bundle.manifest.created)}")


Remote = Annotated[str, typer.Option("--remote", help="The remote that the team shares.")]
Channel = Annotated[str, typer.Option("--channel", help="One of several models side by side.")]


@app.command()
def publish(
    repo: Repo = None,
    remote: Remote = "origin",
    channel: Channel = "main",
    to: Annotated[
        Path | None, typer.Option("--to", help="A new folder, or a file *.bundle, instead of a remote.")
    ] = None,
    sign: Annotated[
        bool | None, typer.Option("--sign/--no-sign", help="Default: as your git is set up.")
    ] = None,
    keep: Annotated[int, typer.Option(min=1, help="Dated versions that stay on the remote.")] = 5,
    as_json: Json = False,
) -> None:
    """Share the active model through git itself: a ref of the team's remote, a folder or a file.

    Replaces what is there only if you have seen it: published it, or pulled it before.
    """
    from gitpeft.share import publish as share_publish

    repository = Repository.open(repo)
    if to is not None:
        done = share_publish.publish_to(repository, to, channel, sign=sign)
    else:
        done = share_publish.publish(repository, remote, channel, sign=sign, keep=keep)
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
    repo: Repo = None,
    remote: Remote = "origin",
    channel: Channel = "main",
    source: Annotated[
        Path | None, typer.Option("--from", help="A folder or a file *.bundle, instead of a remote.")
    ] = None,
    accept: Annotated[
        str, typer.Option(metavar="KEY", help="Take a model of this unknown signer, or `unsigned`.")
    ] = "",
    aside: Annotated[bool, typer.Option("--aside", help="Keep it beside the active model.")] = False,
    as_json: Json = False,
) -> None:
    """Fetch the team's model, check signature, hashes and shapes, let it answer once, and activate it.

    Needs no torch. Signers are those of `.gitpeft-signers` on the default branch; about others you are asked.
    """
    from gitpeft.share import publish

    repository = Repository.open(repo)
    asking = typer.confirm if sys.stdin.isatty() and not as_json else None
    terms = publish.Terms(accept, asking)
    if source is not None:
        done = publish.pull_from(repository, source, terms, aside=aside)
    else:
        done = publish.pull(repository, remote, channel, terms, aside=aside)
    if as_json:
        _print_json(asdict(done))
        return
    state = "active" if done.active else "kept aside; `gitpeft rollback` with its id makes it active"
    print(f"{done.bundle[:12]} ({_whose(done.signer.name, done.signer.key)}): {state}")


def _whose(name: str, key: str) -> str:
    from gitpeft.risk.formats import printable

    return key if key == "unsigned" else f"signed by {printable(name or key)}"


@app.command()
def doctor(
    repo: Repo = None,
    mend: Annotated[bool, typer.Option("--mend", help="Put gitpeft's own files right.")] = False,
) -> None:
    """Find what keeps suggestions away, and say what to do about it."""
    from gitpeft.cli import views
    from gitpeft.hooks.doctor import doctor as examine

    found = examine(Repository.open(repo), mend=mend)
    views.findings(found)
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
    with _listening(False) as listen:
        from gitpeft.learn.pretraining import build

        made = build.Recipe.load(recipe)
        build.build(made, corpus, work or out / "work", out, listen, device)
    print(f"the base is in {out}")


# --- around the commands ------------------------------------------------------------------------------------


def _to_learn_from(path: Path | None, until: str) -> Repository:
    """A repository whose history is plain to see; checked before anything is written."""
    repository = Repository.open(path)
    if until == "HEAD" and repository.head() is None:
        raise GitpeftError("there is no commit here yet", "commit some work first, then run this again")
    if until == "HEAD" and not repository.ask("symbolic-ref", "--quiet", "HEAD"):
        raise GitpeftError(
            "HEAD is detached, so it is not plain which history to learn from",
            "check out a branch, or name one with --until (--until HEAD~0 takes what is checked out)",
        )
    return repository


def _plan(repository: Repository, base: str, method: str, until: str, minutes: float) -> "Plan":
    from gitpeft.learn.models import methods
    from gitpeft.learn.pipeline import Plan

    if method == "auto":
        from gitpeft.learn.compare.run import advised

        advice = advised(repository)
        method, base = advice["method"], advice["base"]
    name, settings = methods.parse(method)
    return Plan(base=base, method=name, until=until, minutes=minutes, settings=settings)


def _teacher(repository: Repository, until: str, minutes: float) -> "Teacher | None":
    """What tunes the embedded base to judge changes, as `init` does."""
    from gitpeft.learn import pipeline

    if not pipeline.can_train():
        raise GitpeftError(
            "gitpeft[train] is not installed", "pip install 'gitpeft[train]', or leave out --tune"
        )
    return pipeline.teacher(_plan(repository, "mini", "lora", until, minutes), minutes)


def _check_place(out: Path | None) -> None:
    """Refuse a page that could not be written before the work that it takes, not after it."""
    if out is None:
        return
    if out.is_dir() or not os.access(out if out.exists() else out.absolute().parent, os.W_OK):
        raise GitpeftError(f"cannot write {out}", "name a file with --out, in a folder that you may write in")


@contextmanager
def _training(repository: Repository) -> Iterator[None]:
    """No second training in this repository meanwhile."""
    from gitpeft.bundle import registry

    with registry.training(repository.state_dir):
        yield


@contextmanager
def _listening(quiet: bool) -> Iterator["Listener"]:
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

    with views.progress() as listen:
        yield listen


def _print_json(value: Any, indent: int | None = 1) -> None:
    print(json.dumps(value, indent=indent, ensure_ascii=False, default=str), flush=True)


_REFUSED = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)
_SEE = "see who may write there, and whether the disk has room"


def main() -> None:
    """The command `gitpeft`."""
    try:
        app(standalone_mode=True)
    except GitpeftError as error:
        from gitpeft.cli import views

        views.error(error.message, error.hint)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if isinstance(error, OSError) and error.errno in _REFUSED:
            from gitpeft.cli import views

            views.error(f"cannot write {error.filename or 'a file'}: {error.strerror}", _SEE)
            sys.exit(1)
        print(f"gitpeft has a bug: {type(error).__name__}: {error}\n{_log_bug()}", file=sys.stderr)
        sys.exit(3)


def _log_bug() -> str:
    """Keep the traceback; where it is."""
    import tempfile

    with tempfile.NamedTemporaryFile("w", prefix="gitpeft-", suffix=".log", delete=False) as log:
        log.write(traceback.format_exc())
    return f"the details are in {log.name}"
