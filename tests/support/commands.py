"""Commands of the program, run in the process of the test."""

import io
import os
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest

from gitpeft.cli import app


@dataclass(frozen=True, slots=True)
class Done:
    """A command that has ended: exit code, standard output and standard error."""

    code: int
    out: str
    err: str

    @property
    def said(self) -> str:
        """Everything, on one line: tables and panels wrap as the terminal is wide."""
        return " ".join((self.out + " " + self.err).replace("│", " ").split())


Call = Callable[..., Done]


def command_runner(patch: pytest.MonkeyPatch, output: pytest.CaptureFixture[str]) -> Call:
    """What runs a command line in this process; `patch` undoes what a command leaves in its environment."""
    for name, value in (("OMP_WAIT_POLICY", "PASSIVE"), ("TOKENIZERS_PARALLELISM", "false")):
        patch.setenv(name, os.environ.get(name, value))  # set by `app.main`, so restored with the others
    patch.setenv("COLUMNS", "110")

    def call(*args: str | Path, stdin: str = "") -> Done:
        output.readouterr()
        patch.setattr(sys, "argv", ["gitpeft", *map(str, args)])
        patch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(stdin.encode())))
        with pytest.raises(SystemExit) as ended:
            app.main()
        code = ended.value.code
        out, err = output.readouterr()
        done = Done(code if isinstance(code, int) else int(code is not None), out, err.lstrip("\n"))
        assert "Traceback" not in done.out + done.err
        return done

    return call
