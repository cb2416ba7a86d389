"""The options that several commands share, and how values from a fixed set are checked."""

import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from difflib import get_close_matches
from pathlib import Path
from typing import Annotated, Any

import typer

from gitpeft.cli.console import format_count
from gitpeft.config import DEVICE_VARIABLE
from gitpeft.errors import GitpeftError


def _use_global_repository(context: typer.Context, value: Path | None) -> Path | None:
    """`gitpeft -C PATH status` means the same as `gitpeft status -C PATH`."""
    return value or context.find_object(Path)


def _use_device(context: typer.Context, value: str) -> str:
    """The device of all that trains below this command, in other processes, too; `auto` leaves it open."""
    if value not in ("auto", "cpu", "cuda"):
        raise typer.BadParameter(f"{value!r} is not one of auto, cpu, cuda.")
    before = os.environ.get(DEVICE_VARIABLE)
    if value != "auto" and not context.resilient_parsing:
        os.environ[DEVICE_VARIABLE] = value
        context.call_on_close(lambda: _restore_device(before))
    return value


def _restore_device(before: str | None) -> None:
    os.environ.pop(DEVICE_VARIABLE, None)
    if before is not None:
        os.environ[DEVICE_VARIABLE] = before


def make_choice_option(*declarations: str, choices: Sequence[str], help: str) -> Any:
    """An option whose value is one of `choices`; anything else is wrong usage and gets a suggestion."""
    return typer.Option(
        *declarations, metavar="|".join(choices), help=help, parser=_make_choice_parser(choices),
        autocompletion=lambda: list(choices),
    )  # fmt: skip


def _make_choice_parser(choices: Sequence[str]) -> Callable[[str], str]:
    def parse_choice(word: str) -> str:
        if word in choices:
            return word
        near = get_close_matches(word, choices, 1)
        meant = f" Did you mean {near[0]}?" if near else ""
        raise typer.BadParameter(f"{word!r} is not one of {', '.join(choices)}.{meant}")

    return parse_choice


@contextmanager
def blame_option(name: str) -> Iterator[None]:
    """Whatever is wrong in here is the value of the option `name`: wrong usage, exit code 2."""
    try:
        yield
    except GitpeftError as error:
        hint = f" ({error.hint})" if error.hint else ""
        raise typer.BadParameter(f"{error.message}{hint}", param_hint=f"'{name}'") from None


def check_one_source(rev: str | None, staged: bool, stdin: bool, all_: bool) -> None:
    """A change comes from one place only."""
    if (rev is not None) + staged + stdin + all_ > 1:
        raise typer.BadParameter("give a revision, --staged, --all or --stdin, not several")


def read_revisions() -> Iterator[str]:
    """The revisions on standard input, a line each, as they are written."""
    for line in sys.stdin.buffer:
        rev = os.fsdecode(line.rstrip(b"\r\n")).replace("\0", "\ufffd")
        if rev.strip():
            yield rev


def make_failures_error(failed: int) -> GitpeftError:
    """The end of a command that went through many revisions, some of which failed."""
    return GitpeftError(f"{format_count(failed, 'revision')} failed", 'see "error" or "why" in the output')


RevArgument = Annotated[
    str | None,
    typer.Argument(
        metavar="REV",
        help="A commit or a range, as for git (HEAD~2, :/text, v1.0..); default: what is staged.",
    ),
]
AllOption = Annotated[bool, typer.Option("--all", help="For every commit of all branches and tags.")]
RepoOption = Annotated[
    Path | None,
    typer.Option(
        "--repo", "-C", metavar="PATH", callback=_use_global_repository,
        help="The repository; default: the one you are in.",
    ),
]  # fmt: skip
BaseOption = Annotated[
    str,
    typer.Option(
        "--base",
        metavar="NAME",
        envvar="GITPEFT_BASE",
        help="Base model: `auto` (that of the active model in `train`, else `smol`, or `mini` where less "
        "than 4 GB of memory are free), `smol`, `mini`, a folder of transformers files, owner/name@commit of "
        "the Hugging Face hub, or one of codet5-small, codet5-base, codet5p-220m, plbart-base, "
        "unixcoder-base, codebert-base, graphcodebert-base.",
    ),
]
MethodOption = Annotated[
    str,
    typer.Option(
        "--method",
        metavar="METHOD",
        help="How to tune: `lora`, `adapter`, `full`, `hybrid`, or `auto` (what the last `gitpeft compare` "
        "recommends). Settings follow a colon, see below.",
    ),
]
METHOD_SETTINGS = """\b
Settings of a method follow a colon: lora:rank=8,placement=query-value
  lora     rank, alpha, dropout,
           placement=all-linear, attention, query-value or feed-forward
  adapter  width, activation, placement=houlsby or pfeiffer
  hybrid   full=LAYER+LAYER or probe=K (layers tuned in full),
           rest=lora or adapter
  all      lr; but for full also side=encoder, decoder or both,
           layers=encoder.0+decoder.1
"""
UntilOption = Annotated[
    str, typer.Option("--until", metavar="REV", help="Use only the history up to this commit.")
]
BudgetOption = Annotated[
    float,
    typer.Option(
        "--budget", metavar="MINUTES", min=0.05,
        help="Time for all that follows reading the history; what does not fit is left out.",
    ),
]  # fmt: skip
DeviceOption = Annotated[
    str,
    typer.Option(
        "--device", metavar="DEVICE", callback=_use_device,
        help="Where to train: `cpu`, `cuda`, or `auto` (the GPU if there is one).",
    ),
]  # fmt: skip
ProgressOption = Annotated[
    str,
    make_choice_option(
        "--progress", choices=("auto", "lines", "json", "none"),
        help="Progress on standard error: bars on a terminal and a line every 15 s elsewhere (`auto`), lines "
        "or JSON objects in any case, or nothing; with --json nothing unless asked for.",
    ),
]  # fmt: skip
JsonOption = Annotated[bool, typer.Option("--json", help="Print JSON instead of text.")]
