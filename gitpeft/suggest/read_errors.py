"""Turning what a library raises about a damaged file of a model into a GitpeftError that names the file."""

from collections.abc import Iterator
from contextlib import contextmanager

from gitpeft.errors import GitpeftError


@contextmanager
def explain_read_errors(name: str) -> Iterator[None]:
    """Raise any exception of the block as a GitpeftError that says that `name` cannot be used, and why."""
    try:
        yield
    except GitpeftError:
        raise
    except Exception as error:  # tokenizers raises nothing more specific
        reason = " ".join(str(error).split())[:200]
        hint = "run `gitpeft init` to build the model again"
        raise GitpeftError(f"{name} of the model cannot be used: {reason}", hint) from error
