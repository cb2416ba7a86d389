"""The command `gitpeft mine`: one repository, or a share of many."""

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, TypeVar

import typer

from gitpeft.cli import console, options, session
from gitpeft.errors import GitpeftError, explain_failure
from gitpeft.git.repository import Repository
from gitpeft.history.store import History, MiningReport
from gitpeft.terminal import replace_unprintable

Item = TypeVar("Item")
ProgressListener = Callable[[str, float, str], None]


@dataclass(frozen=True, slots=True)
class Shard:
    """The `number`-th of `count` shares of a list, counted from 1."""

    number: int
    count: int

    @classmethod
    def parse(cls, text: str) -> "Shard":
        """The shard that `2/8` means; wrong usage where it is none."""
        number, _, count = text.partition("/")
        if number.isascii() and number.isdigit() and count.isascii() and count.isdigit():
            found = cls(int(number), int(count))
            if 1 <= found.number <= found.count:
                return found
        raise typer.BadParameter(
            f"{text!r} is not a share such as 2/8, the second of eight", param_hint="--shard"
        )

    def select(self, items: Sequence[Item]) -> Sequence[Item]:
        """Its items: each belongs to exactly one of the shards, and they differ by one at most."""
        return items[self.number - 1 :: self.count]


@dataclass(frozen=True, slots=True)
class ShardReport:
    """What a shard did: the repositories that are mined now, and why others are not, by name."""

    mined: tuple[str, ...]
    failed: dict[str, str]


def mine(
    repo: options.RepoOption = None,
    until: options.UntilOption = "HEAD",
    org: Annotated[
        list[Path] | None,
        typer.Option(
            "--org", metavar="PATH", help="A repository for `train --org`, or a file that lists some."
        ),
    ] = None,
    recipe: Annotated[
        Path | None, typer.Option(metavar="FILE", help="The repositories of a recipe for `base build`.")
    ] = None,
    corpus: Annotated[
        Path | None, typer.Option(metavar="PATH", help="With --recipe: the folder of their clones.")
    ] = None,
    work: Annotated[
        Path | None, typer.Option(metavar="PATH", help="With --recipe: the folder for what is mined.")
    ] = None,
    shard: Annotated[
        str, typer.Option(metavar="I/N", help="Only the I-th of N shares of the repositories.")
    ] = "",
    progress: options.ProgressOption = "auto",
    as_json: options.JsonOption = False,
) -> None:
    """Read new commits into the cache in .git/gitpeft.

    Nothing else in the repository is written. The other commands do this by themselves.

    With --org or --recipe many repositories are read, with --shard I/N only the I-th of N shares of them, so
    that N processes can divide the work. What was read before is kept.
    """
    if not (org or recipe):
        if shard or corpus or work:
            raise typer.BadParameter("--shard, --corpus and --work go with --org or --recipe")
        _mine_one(session.open_learnable_repository(repo, until), until, progress, as_json)
        return
    if repo or (org and recipe):
        raise typer.BadParameter("give one of --repo, --org and --recipe")
    if org and (corpus or work):
        raise typer.BadParameter("--corpus and --work go with --recipe")
    if recipe and until != "HEAD":
        raise typer.BadParameter("a recipe names the commits to begin with: leave out --until")
    if recipe and (corpus is None or work is None):
        raise typer.BadParameter("--recipe needs --corpus and --work")
    share = Shard.parse(shard or "1/1")
    with session.explain_resuming(), session.show_progress(as_json, progress) as listen:
        if org:
            done = _mine_together(share.select(session.list_org_paths(org)), until, listen)
        else:
            assert recipe is not None and corpus is not None and work is not None
            done = _mine_recipe(recipe, corpus, work, share, listen)
    _print_shard(done, share, as_json)


def _mine_one(repository: Repository, until: str, progress: str, as_json: bool) -> None:
    with session.explain_resuming(), session.show_progress(as_json, progress) as listen:
        report = _mine_history(repository, until, listen)
    if as_json:
        console.print_json(asdict(report))
        return
    rate = report.new / report.seconds if report.seconds else 0.0
    skipped = "".join(f"; {n:,} skipped: {why}" for why, n in report.skipped.items())
    undated = f"; {report.undated:,} with a date that no clock can show" if report.undated else ""
    print(
        f"{report.new:,} new of {report.total:,} commits in {report.seconds:.1f} s "
        f"({rate:,.0f}/s){skipped}{undated}"
    )


def _mine_history(repository: Repository, until: str, listen: ProgressListener) -> MiningReport:
    tip = repository.resolve_commit(until)  # before anything is written
    with History.open(repository.state_dir) as history:
        return history.mine_commits(repository, tip, listen=partial(listen, "mine"))


def _mine_together(paths: Sequence[Path], until: str, listen: ProgressListener) -> ShardReport:
    names = list(map(str, paths))

    def mine_path(path: str) -> None:
        def listen_within(step: str, done: float, detail: str) -> None:
            told = ": ".join(filter(None, (Path(path).name, detail)))
            listen(step, (names.index(path) + done) / len(names), told)

        _mine_history(session.open_learnable_repository(Path(path), until), until, listen_within)

    return _mine_each(names, mine_path)


def _mine_recipe(
    recipe: Path, corpus: Path, work: Path, share: Shard, listen: ProgressListener
) -> ShardReport:
    from gitpeft.history.step_share import tell_repository
    from gitpeft.learn.pretraining import adapter_build, commit_pairs

    wanted = adapter_build.AdapterRecipe.load(recipe)
    tips = wanted.read_repositories()
    commit_pairs.refuse_held_out(tips)
    names = share.select(sorted(tips))

    def mine_clone(name: str) -> None:
        number = names.index(name)
        listen("pairs", number / len(names), tell_repository(number, len(names), name))
        commit_pairs.mine_once(name, tips[name], corpus, work / commit_pairs.MINED_FOLDER, wanted.rules)

    return _mine_each(names, mine_clone)


def _mine_each(names: Sequence[str], mine_it: Callable[[str], None]) -> ShardReport:
    """Mine one after the other; one that cannot be mined does not stop the others."""
    failed: dict[str, str] = {}
    for name in names:
        try:
            mine_it(name)
        except (GitpeftError, OSError) as error:
            failed[name] = explain_failure(error)
    return ShardReport(tuple(name for name in names if name not in failed), failed)


def _print_shard(done: ShardReport, share: Shard, as_json: bool) -> None:
    """What the shard did; ends with exit code 1 where a repository could not be mined."""
    if as_json:
        console.print_json(asdict(done))
    else:
        of = len(done.mined) + len(done.failed)
        lines = [
            f"shard {share.number} of {share.count}: {len(done.mined):,} of {of:,} repositories are mined",
            *(replace_unprintable(f"  {name}: {why}") for name, why in done.failed.items()),
        ]
        # at once: other shards may write to the same pipe
        print("\n".join(lines) + "\n", end="")
    if done.failed:
        raise typer.Exit(1)
