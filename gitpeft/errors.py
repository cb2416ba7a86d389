"""The errors that are shown to people."""


class GitpeftError(Exception):
    """A problem that the user can solve.

    `message` says in one sentence what is wrong, `hint` what to do about it. The command line prints both and
    exits with 1; a hook prints the message and lets the commit proceed.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class GitFailedError(GitpeftError):
    """Git ended with an exit code other than 0. 1 is mostly its word for "no", anything else a failure."""

    def __init__(self, message: str, code: int) -> None:
        super().__init__(message)
        self.code = code


class ParityError(GitpeftError):
    """An exported model does not say what the trained one says."""


class NothingStagedError(GitpeftError):
    """There is no staged change that a message could describe."""


UNWRITABLE_HINT = "check the permissions there, and whether the disk is full"


def explain_failure(error: GitpeftError | OSError) -> str:
    """What is wrong and what to do about it in one line, where one failure is told among other results."""
    if isinstance(error, OSError):
        what = f"cannot use {error.filename or 'a file'}: {error.strerror or error}"
        return f"{what}. {UNWRITABLE_HINT}"
    return f"{error.message}. {error.hint}" if error.hint else error.message
