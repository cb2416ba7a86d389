"""The module from which installed hooks call `run`; see `gitpeft.hooks.run`."""

from gitpeft.hooks.run import run

__all__ = ["run"]

if __name__ == "__main__":
    run()
