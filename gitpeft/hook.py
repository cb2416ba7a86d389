"""The module that installed hooks start, as `python -I -m gitpeft.hook`; see `gitpeft.hooks.run`."""

from gitpeft.hooks.run import run

__all__ = ["run"]

if __name__ == "__main__":
    run()
