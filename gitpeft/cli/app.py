"""The command line: which commands there are, and how `gitpeft` starts and ends.

Each command is a function of a module beside this one. Exit codes: 0 done, 1 a problem that the user can
solve, 2 wrong usage, 3 a bug (the traceback is kept in a file), 130 interrupted.
"""

import errno
import os
import sys
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Annotated, Any

import typer
from typer.core import TyperGroup

from gitpeft import __version__
from gitpeft.cli import console, evaluate, hooks, mine, models, options, risk, risk_dismiss, suggest, train
from gitpeft.cli.train import build_base
from gitpeft.errors import UNWRITABLE_HINT, GitpeftError
from gitpeft.terminal import replace_unprintable

COMMANDS: Mapping[str, Mapping[str, Callable[..., None]]] = {
    "Start": {"init": train.init},
    "Everyday": {"commit": suggest.commit, "suggest": suggest.suggest, "risk": risk.risk},
    "Maintain": {
        "status": hooks.status,
        "doctor": hooks.doctor,
        "train": train.train,
        "models": models.models,
        "rollback": models.rollback,
        "install": hooks.install,
        "uninstall": hooks.uninstall,
    },
    "Share": {"publish": models.publish, "pull": models.pull},
    "Evaluate": {"eval": evaluate.evaluate, "compare": evaluate.compare, "backtest": evaluate.backtest},
    "Advanced": {"mine": mine.mine, "export": train.export},
}
"""Every command by its name, in the groups of `gitpeft --help`."""

_DISMISS = "risk dismiss"
_METHOD_COMMANDS = ("init", "train")


class _RootCommand(TyperGroup):
    """The command `gitpeft`, whose help fits on one screen."""

    def get_help(self, ctx: typer.Context) -> str:  # type: ignore[override]
        """The overview of all commands."""
        return format_overview()

    def resolve_command(self, ctx: typer.Context, args: list[str]) -> Any:  # type: ignore[override]
        """`risk dismiss` is a command of its own beside `risk [REV]`."""
        named = args[:2] == _DISMISS.split()
        return super().resolve_command(ctx, [_DISMISS, *args[2:]] if named else args)


app = typer.Typer(
    name="gitpeft",
    cls=_RootCommand,
    help="Commit messages learned from your history.",
    no_args_is_help=True,
    rich_markup_mode=None,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
base_app = typer.Typer(
    no_args_is_help=True, rich_markup_mode=None, help="Build base models, which everything is tuned from."
)
base_app.command("build")(build_base)
for _commands in COMMANDS.values():
    for _name, _function in _commands.items():
        app.command(_name, epilog=options.METHOD_SETTINGS if _name in _METHOD_COMMANDS else None)(_function)
app.command(_DISMISS, hidden=True)(risk_dismiss.dismiss)
app.add_typer(base_app, name="base")


def _print_version(wanted: bool) -> None:
    if wanted:
        print(__version__)
        raise typer.Exit


@app.callback()
def _read_global_options(
    context: typer.Context,
    repo: Annotated[Path | None, typer.Option("--repo", "-C", metavar="PATH")] = None,
    version: Annotated[
        bool,
        typer.Option(
            "--version", "-V", is_eager=True, callback=_print_version, help="Show the version and exit."
        ),
    ] = False,
) -> None:
    context.obj = repo


def format_overview() -> str:
    """The text of `gitpeft --help`: each command with the first line of its docstring."""
    lines = ["Usage: gitpeft COMMAND [OPTIONS]     Commit messages learned from your history", ""]
    for group, commands in COMMANDS.items():
        told = {name: _read_summary(function) for name, function in commands.items()}
        if group == "Advanced":
            told["base"] = str(base_app.info.help)
        for place, (name, summary) in enumerate(told.items()):
            lines.append(f"{'' if place else group:<10}{name:<11}{summary.rstrip('.')}")
    return "\n".join(
        [
            *lines,
            "",
            "Examples: gitpeft init    gitpeft suggest -n 3    gitpeft risk main..HEAD",
            "-h, --help   -V, --version   -C, --repo PATH   --install-completion",
        ]
    )


def _read_summary(function: Callable[..., None]) -> str:
    return (function.__doc__ or "").partition("\n")[0]


# --- how a command ends -------------------------------------------------------------------------------------

_UNWRITABLE_ERRORS = (errno.EACCES, errno.EPERM, errno.EROFS, errno.ENOSPC, errno.EDQUOT)


def main() -> None:
    """Run the command `gitpeft`; ends the process with its exit code."""
    console.tolerate_all_characters()
    try:
        app(standalone_mode=True)
    except GitpeftError as error:
        console.print_error(error.message, error.hint)
        sys.exit(1)
    except KeyboardInterrupt:
        sys.exit(130)
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        sys.exit(1)
    except Exception as error:
        if message := _explain_unwritable(error):
            console.print_error(message, UNWRITABLE_HINT)
            sys.exit(1)
        what = replace_unprintable(f"{type(error).__name__}: {error}")
        print(f"gitpeft has a bug: {what}\n{_write_bug_log()}", file=sys.stderr)
        sys.exit(3)


def _explain_unwritable(error: Exception) -> str:
    """What cannot be written, where that is what is wrong; "" otherwise."""
    import sqlite3

    if isinstance(error, OSError) and error.errno in _UNWRITABLE_ERRORS:
        return f"cannot write {error.filename or 'a file'}: {error.strerror}"
    if isinstance(error, sqlite3.OperationalError):
        unwritable = (sqlite3.SQLITE_FULL, sqlite3.SQLITE_READONLY, sqlite3.SQLITE_IOERR)
        if getattr(error, "sqlite_errorcode", 0) & 0xFF in unwritable:
            return f"cannot write what was read of the history: {error}"
    return ""


def _write_bug_log() -> str:
    """Keep the traceback; where it is."""
    import tempfile

    with tempfile.NamedTemporaryFile("wb", prefix="gitpeft-", suffix=".log", delete=False) as log:
        log.write(traceback.format_exc().encode(errors="backslashreplace"))
    return f"the details are in {log.name}"
