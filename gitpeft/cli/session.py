"""What the commands that learn share: a repository to learn from, a plan, the lock, progress."""

import os
import sys
import warnings
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING

from gitpeft.cli.options import blame_option
from gitpeft.errors import GitpeftError
from gitpeft.git.repository import Repository

if TYPE_CHECKING:
    from gitpeft.learn.results import ModelPlan
    from gitpeft.learn.training.finetune import ProgressListener


def open_learnable_repository(path: Path | None, until: str) -> Repository:
    """The repository, once it is clear which commits to learn from; checked before anything is written."""
    repository = Repository.open(path)
    if until == "HEAD" and repository.resolve_head() is None:
        raise GitpeftError("there is no commit here yet", "commit some work first, then run this again")
    if until == "HEAD" and not repository.ask_text("symbolic-ref", "--quiet", "HEAD"):
        raise GitpeftError(
            "HEAD is detached, so it is unclear which history to learn from",
            "check out a branch, or name one with --until (--until HEAD~0 takes what is checked out)",
        )
    return repository


def list_org_paths(given: Sequence[Path]) -> list[Path]:
    """The paths of repositories that `--org` names: each a folder, or a file with one on each line.

    GitpeftError where a file cannot be read, or names none.
    """
    found: list[Path] = []
    for path in given:
        if not path.is_file():
            found.append(path)
            continue
        try:
            text = path.read_text(encoding="utf-8", errors="surrogateescape")
        except OSError as error:
            raise GitpeftError(f"cannot read {path}: {error.strerror}", "give --org a folder") from None
        if "\0" in text:
            raise GitpeftError(f"{path} is no list of repositories", "give --org a folder, or a text file")
        named = [Path(line.strip()) for line in text.splitlines() if line.strip()]
        if not named:
            raise GitpeftError(f"{path} names no repository", "write the path of one on each line")
        found += named
    return found


def make_plan(repository: Repository, base: str, method: str, until: str, minutes: float) -> "ModelPlan":
    """What to train, from the words on the command line; wrong usage where they name nothing."""
    from gitpeft.learn.models import bases, methods
    from gitpeft.learn.results import ModelPlan

    if method == "auto":
        from gitpeft.learn.compare.run import load_advice

        advice = load_advice(repository)
        method, base = advice.method, advice.base
    with blame_option("--method"):
        name, settings = methods.parse_method(method)
    if base == "auto":
        base, why = bases.choose_base()
        if why:
            from gitpeft.cli import console

            console.print_notice(f"base model {base}: {why}")
    if base != bases.EMBEDDED_BASE:
        with blame_option("--base"):
            bases.find_base(base)
    return ModelPlan(base=base, method=name, until=until, minutes=minutes, settings=settings)


def find_active_base(repository: Repository) -> str:
    """The embedded base of the active model; "" where it has another one, or there is none."""
    from gitpeft.bundle import bundle as bundles
    from gitpeft.bundle.embedded import EMBEDDED_BASES

    active = bundles.open_active_bundle(repository.state_dir)
    return active.manifest.base if active and active.manifest.base in EMBEDDED_BASES else ""


def check_output_path(out: Path | None) -> None:
    """Refuse a page that could not be written before the work that it takes, not after it."""
    if out is None:
        return
    if out.is_dir() or not os.access(out if out.exists() else out.absolute().parent, os.W_OK):
        raise GitpeftError(f"cannot write {out}", "name a file with --out, in a folder that you may write in")


@contextmanager
def hold_training_lock(repository: Repository) -> Iterator[None]:
    """No second training in this repository meanwhile."""
    from gitpeft.bundle import registry

    with registry.hold_training_lock(repository.state_dir):
        yield


@contextmanager
def show_progress(quiet: bool, how: str = "auto") -> Iterator["ProgressListener"]:
    """Progress on standard error, or silence; and the settings of libraries that are imported within.

    `how` is one of `progress.PROGRESS_FORMS`; `auto` is silence for who is `quiet`.
    """
    _prepare_libraries()
    if quiet and how == "auto":
        yield lambda _step, _done, _detail: None
        return
    from gitpeft.cli import progress

    with progress.show_progress(how) as listen:
        yield listen


def _prepare_libraries() -> None:
    """Before torch is imported: threads that wait must not spin.

    With spinning threads, training beside any other busy process is several times slower.
    """
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    os.environ.setdefault("HF_HUB_OFFLINE", "1")
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    warnings.filterwarnings("ignore", category=FutureWarning)  # meant for the libraries' own callers


@contextmanager
def explain_resuming() -> Iterator[None]:
    """After Ctrl-C, say that nothing is lost."""
    try:
        yield
    except KeyboardInterrupt:
        print("\nStopped. Run the same command again to continue where it was.", file=sys.stderr)
        raise
