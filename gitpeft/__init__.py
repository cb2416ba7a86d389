"""gitpeft learns how a team commits and suggests commit messages, offline."""

__version__ = "0.1.0"
