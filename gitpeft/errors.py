"""The one error that a person is meant to read."""


class GitpeftError(Exception):
    """A problem that the user can do something about.

    `message` says what is wrong in one sentence, `hint` what to do next. The command line prints both and
    exits with 1; the hook prints the message and lets the commit proceed.
    """

    def __init__(self, message: str, hint: str = "") -> None:
        super().__init__(message)
        self.message = message
        self.hint = hint


class NothingStagedError(GitpeftError):
    """There is no change that a message could describe."""
